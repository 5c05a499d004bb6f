/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A count as data: what is counted, out of which numbers. Sums and the sentences that derive them are both made of the same terms, so that
 * a derivation cannot say anything else than the result. cost_case.c checks a case and works out what the counts are made of, cost.c
 * makes the terms of attention and adds up, cost_model.c those of the rest of a model, cost_text.c writes the derivation.
 */
#ifndef RONDO_PLAN_COST_H
#define RONDO_PLAN_COST_H

#include "plan/plan.h"

/* What of a case counts are made of. Rows are tokens of all sequences; _local is what the fullest chip has, and copies are
 * counted in _all. */
struct rondo__cost_sizes {
    int64_t tp, cp, chips;
    int64_t hidden, head_dim, bytes, stat_bytes;
    int64_t heads, heads_local;
    int64_t kv_heads, kv_heads_local, kv_heads_all;   /* _all: sum over the chips of one context-parallel rank */
    int64_t tokens, tokens_local, tokens_all;         /* _all: sum over the context-parallel ranks */
    int64_t keys, keys_local;                         /* cached positions */
    int64_t pairs, pairs_local;                       /* of a query and a key that it sees, in one head */
    int64_t rows, columns;                            /* of a mesh */
    int64_t halo;                                     /* positions of other chips that the fullest one needs: RONDO_HALO */
    int64_t layers, weight_bytes, kv_bytes, ffn_bytes;
    int64_t kv_numbers;                               /* of a cached row of a head, its scale counted as numbers too */
    int64_t ffn, ffn_local, vocab, vocab_local;
    int64_t logits, logits_local, logits_all;         /* rows of the head */
};
/* A row of the cache in a formula. */
#define RONDO_KV_ROW(s, before, behind) \
    ((s)->kv_numbers != (s)->head_dim ? before "(head_dim + 4)" behind : before "head_dim * kv_bytes_per_elem" behind)
/* Fills in the case's defaults and checks it. */
int rondo__cost_case(rondo_cost_case *c, const rondo_cost_case *given, struct rondo__cost_sizes *sizes);

/* Pairs of a query and a key that it sees: `tokens` queries, the last at the last of `keys` positions; left, right: -1 is open. false: more
 * than an int64_t can hold. */
bool rondo__cost_pairs(int64_t tokens, int64_t keys, int64_t left, int64_t right, int64_t *pairs);

/* ---- terms ---- */

/* FLOPs go beyond 63 bits: 405B parameters and 10 million tokens make 4e20. */
struct rondo__wide {
    uint64_t low, high;
};
/* In decimal digits, somewhere in these 40 bytes. */
const char *rondo__wide_text(struct rondo__wide value, char text[40]);

enum rondo__cost_measure { RONDO_FLOPS, RONDO_WEIGHTS, RONDO_ACTIVATIONS, RONDO_CACHE, RONDO_MESSAGES, RONDO_MEASURES };

#define RONDO_COST_FACTORS 8
#define RONDO_COST_TERMS 64

/* A product; `over`: divided by it and rounded up; and that so many times. */
struct rondo__cost_product {
    int64_t factor[RONDO_COST_FACTORS], over, times;
    int count;
};
/* Arguments in braces, as many as there are. */
#define RONDO_PRODUCT(...) \
    ((struct rondo__cost_product){ { __VA_ARGS__ }, 1, 1, (int)(sizeof((int64_t[]){ __VA_ARGS__ }) / sizeof(int64_t)) })

struct rondo__cost_term {
    enum rondo__cost_measure measure;
    const char *what, *formula;
    struct rondo__cost_product chip, total;
    struct rondo__wide chip_value, total_value;
};

struct rondo__cost_count {
    rondo_cost_case c;
    struct rondo__cost_sizes s;
    struct rondo__cost_term terms[RONDO_COST_TERMS];
    int term_count;
    struct rondo__wide chip[RONDO_MEASURES], total[RONDO_MEASURES];   /* of all but FLOPs at most INT64_MAX */
};
int rondo__cost_count(struct rondo__cost_count *n, const rondo_cost_case *of);
/* The terms alone; and a chip's sum of one measure as a real number, which no check is made of. */
int rondo__cost_terms(struct rondo__cost_count *n, const rondo_cost_case *of);
double rondo__cost_about(const struct rondo__cost_count *n, enum rondo__cost_measure measure);

/* A term of each layer, and one of the model once. Activations are of one layer: the next one uses their place. */
void rondo__cost_layer_term(struct rondo__cost_count *n, enum rondo__cost_measure measure, const char *what, const char *formula,
                            struct rondo__cost_product chip, struct rondo__cost_product total);
void rondo__cost_term(struct rondo__cost_count *n, enum rondo__cost_measure measure, const char *what, const char *formula,
                      struct rondo__cost_product chip, struct rondo__cost_product total);
/* What a model has besides attention's projections and core. */
void rondo__cost_model(struct rondo__cost_count *n);

struct rondo__cost_measure_names {
    const char *what, *chip, *total;    /* total NULL: a chip's only */
};
extern const struct rondo__cost_measure_names rondo__cost_measures[RONDO_MEASURES];
/* Steps of the derivation (cost_text.c). */
int rondo__cost_steps(const struct rondo__cost_count *n);

#endif
