/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A problem that `rondo verify` (and `bench`) can run again and again in different settings: shapes, data made from a seed,
 * the answer in double precision, and how far a result in single precision may lie from it.
 */
#ifndef RONDO_CLI_PROBLEM_H
#define RONDO_CLI_PROBLEM_H

#include "cli/cli.h"

#define PROBLEM_SEQUENCES 8
#define PROBLEM_TURNS 64

struct problem {
    char name[160];
    int64_t sequences, tokens[PROBLEM_SEQUENCES], cached[PROBLEM_SEQUENCES];
    /* turns > 0: KV is kept in a placement and comes turn by turn, turn[t][s] tokens of each sequence; tokens[s] is their sum */
    int64_t turns, turn[PROBLEM_TURNS][PROBLEM_SEQUENCES];
    int64_t heads, kv_heads, head_dim, value_dim;
    bool causal;
    struct window window;
    /* what a score is, and who sees whom: 0 is none of it */
    double scale, softcap, dropout;
    bool slopes, sinks, probs, shared_kv;  /* shared_kv: v is the beginning of each row of k */
    bool poison;                           /* keys that nobody sees are NaN */
    int64_t bias_heads, mask_heads;        /* 1: for all heads alike; heads: for each */
    int64_t document_mean;                 /* keys of a document */
    int type, leaf;                        /* leaf 0: the default */
    int extra_levels;                      /* merges beyond the tree's that the bound allows for (interleaved KV) */
    uint64_t seed;
    /* made by problem_make() */
    int arithmetic;                        /* rondo_arithmetic, as --arithmetic says */
    int64_t q_rows, k_rows, q_first[PROBLEM_SEQUENCES], k_first[PROBLEM_SEQUENCES];
    int64_t keys_most;
    void *q, *k, *v;                       /* [rows, heads, dim] of `type` */
    float *slope, *sink;                   /* [heads] */
    float *bias;                           /* [bias_heads, q_rows, keys_most] */
    uint8_t *mask;                         /* [mask_heads, q_rows, keys_most] */
    int32_t *document;                     /* [k_rows] */
    double *out, *out_bound;               /* [q_rows, heads, value_dim]; NULL without the reference */
    double *lse, *lse_bound;               /* [q_rows, heads] */
    double *prob, *prob_bound;             /* [q_rows, heads, keys_most] */
};
int problem_make(struct problem *p, bool with_reference);   /* 0 or an exit code */
void problem_free(struct problem *p);
int problem_reference(struct problem *p);                   /* reference.c */
/* Does query i of sequence s see key j with head h? */
bool problem_sees(const struct problem *p, int64_t s, int64_t i, int64_t h, int64_t j);

struct setting {
    int ranks, layout, algorithm, threads, interleave;
    const char *isa;
    int32_t grid[2];
};
struct result {
    void *out;                             /* [q_rows, heads, value_dim] of the problem's type, on rank 0 */
    float *lse;                            /* [q_rows, heads] */
    float *probs;                          /* [q_rows, heads, keys_most]; NULL: not asked for */
    uint64_t hash;                         /* over out, then lse [heads, q_rows] */
    int algorithm, layout, leaf;           /* what ran */
    int32_t grid[2];
    double max_error, bound, worst;        /* worst: the largest error as a part of its own bound */
    bool measured;
    uint64_t messages, bytes;              /* that attention sent, counted by the transport on all ranks */
    uint64_t planned_messages, planned_bytes;   /* the same as schedules say that nobody ran */
    bool planned;                          /* there are such: the ranks are processors */
};
int problem_run(const struct problem *p, const struct setting *s, struct result *r, struct run *run);   /* a RONDO_ code */
void result_compare(const struct problem *p, struct result *r);      /* with the reference */
void result_free(struct result *r);

/* One number of any storage type, exactly. */
double widen(const void *data, int64_t index, int type);
/* Fills `count` numbers, roughly normal, of the given type; the same for the same seed everywhere. */
void random_fill(void *data, int64_t count, int type, uint64_t seed, uint32_t stream);

#endif
