/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Which part of every layer a rank has, a pure function of the configuration and of the ranks: model.c reads and packs so much, the engine
 * exchanges what follows from it. Tensor-parallel rank t of tp has whole heads: runs of KV heads with their query heads or, where there are more
 * ranks than KV heads, runs of query heads with the KV heads that they read, which several ranks then have. Row-parallel layers have whole
 * leaves of their sums (rondo-numerics(7)): the attention output projection one for each query head, the down projection
 * RONDO_LM_DOWN_LEAVES; ranks beyond the leaves have none.
 *
 * Context-parallel ranks each have all of their tensor-parallel part; or (spread) they share it too (arXiv:2507.07120, Helix), and only attention
 * is context-parallel. The ranks that share linear layers are counted w = t * cp + c, cp being 1 where nothing is spread.
 */
#ifndef RONDO_LM_SPLIT_H
#define RONDO_LM_SPLIT_H

#include "lm/model/config.h"

struct rondo_split {
    int32_t tp, cp, t, c;            /* cp, c: 1 and 0 where not spread */
    int64_t head, heads;             /* query heads of rank t, from `head` on; may be 0 */
    int64_t kv_head, kv_heads;       /* the KV heads that they read; of the first and the last perhaps not all query heads */
    int64_t q_first, q_columns;      /* outputs of the q projection that this rank computes: of all heads * head_dim */
    int64_t kv_first, kv_columns;    /* ... of k and of v */
    int64_t kda_head, kda_heads;     /* heads of layers of Kimi Delta Attention, whose columns this rank computes: t's; spread, c's of these */
    int64_t mlp_first, mlp_columns;  /* ... of gate and up, which are the inputs of its leaves of down */
    int64_t vocab_first, vocab;      /* rows of embedding and head */
    /* Of all w = 0..tp * cp: where their leaves of o and of down begin. */
    int32_t *o_begin, *down_begin;   /* [tp * cp + 1] */
    int32_t *kda_begin;              /* ... of o of layers of Kimi Delta Attention, one for each head */
    double *weights;                 /* [tp * cp], or NULL: equal. What vocabulary and leaves are shared by */
    /* Where the columns of the ranks c begin among those of rank t: what attention's exchanges move when spread. */
    int64_t *q_begin, *kv_begin, *out_begin;   /* [cp + 1]: of q, of k, of attention's output (whole heads) */
};

/* shares [tp]: how much each tensor-parallel rank gets, NULL: alike. RONDO_EINVAL, RONDO_ENOMEM. */
int rondo__split_make(struct rondo_split *out, const struct rondo_config *config, int32_t tp, int32_t t, int32_t cp, int32_t c,
                      const double *shares);
void rondo__split_free(struct rondo_split *split);

/* Leaves of the down projection's sum; KV heads that a run of query heads reads. */
int32_t rondo__split_down_leaves(const struct rondo_config *config);
int64_t rondo__split_kv_heads(const struct rondo_config *config, int64_t head, int64_t heads);

#endif
