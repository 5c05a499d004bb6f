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
    int64_t turns, turn[PROBLEM_TURNS];    /* turns > 0: one sequence, its KV kept in a placement; tokens[0] is their sum */
    int64_t heads, kv_heads, head_dim, value_dim;
    bool causal;
    struct window window;
    int type, leaf;                        /* leaf 0: the default */
    int extra_levels;                      /* merges beyond the tree's that the bound allows for (interleaved KV) */
    uint64_t seed;
    /* made by problem_make() */
    int64_t q_rows, k_rows, q_first[PROBLEM_SEQUENCES], k_first[PROBLEM_SEQUENCES];
    void *q, *k, *v;                       /* [rows, heads, dim] of `type` */
    double *out, *out_bound;               /* [q_rows, heads, value_dim]; NULL without the reference */
    double *lse, *lse_bound;               /* [q_rows, heads] */
};
int problem_make(struct problem *p, bool with_reference);   /* 0 or an exit code */
void problem_free(struct problem *p);
int problem_reference(struct problem *p);                   /* reference.c */

struct setting {
    int ranks, layout, algorithm, threads, interleave;
    const char *isa;
};
struct result {
    void *out;                             /* [q_rows, heads, value_dim] of the problem's type, on rank 0 */
    float *lse;                            /* [q_rows, heads] */
    uint64_t hash;                         /* over out, then lse [heads, q_rows] */
    int algorithm, leaf;                   /* what ran */
    double max_error, bound, worst;        /* worst: the largest error as a part of its own bound */
    bool measured;
};
int problem_run(const struct problem *p, const struct setting *s, struct result *r, struct run *run);   /* a RONDO_ code */
void result_compare(const struct problem *p, struct result *r);      /* with the reference */
void result_free(struct result *r);

/* One number of any storage type, exactly. */
double widen(const void *data, int64_t index, int type);
/* Fills `count` numbers, roughly normal, of the given type; the same for the same seed everywhere. */
void random_fill(void *data, int64_t count, int type, uint64_t seed, uint32_t stream);

#endif
