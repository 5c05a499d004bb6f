/* SPDX-License-Identifier: BSD-2-Clause
 *
 * split.h: the arithmetic of it. All divisions are rondo_share()'s.
 */
#include "lm/model/split.h"

#include "core/internal.h"
#include "lm/model/model.h"

int32_t rondo__split_down_leaves(const struct rondo_config *c)
{
    return c->intermediate < RONDO_LM_DOWN_LEAVES ? (int32_t)c->intermediate : RONDO_LM_DOWN_LEAVES;
}

int64_t rondo__split_kv_heads(const struct rondo_config *c, int64_t head, int64_t heads)
{
    const int64_t group = c->heads / c->kv_heads;
    return heads ? (head + heads - 1) / group + 1 - head / group : 0;
}

/* Query heads of rank t, and the KV heads that they read. */
static int heads_of(const struct rondo_config *c, int32_t tp, int32_t t, const double *shares, struct rondo_split *out)
{
    const int64_t group = c->heads / c->kv_heads;
    int err;
    if (tp <= c->kv_heads) {
        err = rondo_share(c->kv_heads, tp, shares, t, &out->kv_head, &out->kv_heads);
        out->head = out->kv_head * group;
        out->heads = out->kv_heads * group;
        return err;
    }
    err = rondo_share(c->heads, tp, shares, t, &out->head, &out->heads);
    out->kv_head = out->head / group;
    out->kv_heads = rondo__split_kv_heads(c, out->head, out->heads);
    return err;
}

/* Heads of layers of Kimi Delta Attention that rank w computes, from *first on. */
static int kda_heads_of(const struct rondo_config *c, const struct rondo_split *s, int32_t w, const double *shares, int64_t *first, int64_t *heads)
{
    int64_t head, own;
    int err = rondo_share(c->kda_heads, s->tp, shares, w / s->cp, &head, &own);
    if (!err)
        err = rondo_share(own, s->cp, NULL, w % s->cp, first, heads);
    *first += err ? 0 : head;
    return err;
}

static int make_lists(struct rondo_split *s, const struct rondo_config *c, const double *shares)
{
    const int32_t ranks = s->tp * s->cp;
    s->o_begin = rondo__alloc_zero((size_t)ranks + 1, sizeof *s->o_begin);
    s->down_begin = rondo__alloc_zero((size_t)ranks + 1, sizeof *s->down_begin);
    s->kda_begin = rondo__alloc_zero((size_t)ranks + 1, sizeof *s->kda_begin);
    s->q_begin = rondo__alloc_zero((size_t)s->cp + 1, sizeof *s->q_begin);
    s->kv_begin = rondo__alloc_zero((size_t)s->cp + 1, sizeof *s->kv_begin);
    s->out_begin = rondo__alloc_zero((size_t)s->cp + 1, sizeof *s->out_begin);
    s->weights = shares ? rondo__alloc_zero((size_t)ranks, sizeof *s->weights) : NULL;
    if (!s->o_begin || !s->down_begin || !s->kda_begin || !s->q_begin || !s->kv_begin || !s->out_begin || (shares && !s->weights))
        return rondo__fail(RONDO_ENOMEM, "no memory for how %d ranks share a model", (int)ranks);
    for (int32_t w = 0; shares && w < ranks; w++)
        s->weights[w] = shares[w / s->cp];
    const int32_t leaves = rondo__split_down_leaves(c);
    int err = 0;
    for (int32_t w = 0; w < ranks && !err; w++) {
        struct rondo_split other = { .tp = s->tp, .cp = s->cp };
        int64_t first, count;
        err = heads_of(c, s->tp, w / s->cp, shares, &other);
        if (!err)
            err = rondo_share(other.heads, s->cp, NULL, w % s->cp, &first, &count);
        if (!err)
            s->o_begin[w] = (int32_t)(other.head + first);
        if (!err)
            err = rondo_share(leaves, ranks, s->weights, w, &first, &count);
        if (!err)
            s->down_begin[w] = (int32_t)first;
        if (!err)
            err = kda_heads_of(c, s, w, shares, &first, &count);
        s->kda_begin[w] = (int32_t)first;
    }
    s->kda_begin[ranks] = (int32_t)c->kda_heads;
    s->o_begin[ranks] = (int32_t)c->heads;
    s->down_begin[ranks] = leaves;
    for (int32_t i = 0; i <= s->cp && !err; i++) {
        int64_t count;
        const int32_t part = i < s->cp ? i : s->cp - 1;
        err = rondo_share(s->heads * c->head_dim, s->cp, NULL, part, &s->q_begin[i], &count);
        s->q_begin[i] += i < s->cp ? 0 : count;
        if (!err)
            err = rondo_share(s->kv_heads * c->head_dim, s->cp, NULL, part, &s->kv_begin[i], &count);
        s->kv_begin[i] += i < s->cp ? 0 : count;
        s->out_begin[i] = ((int64_t)s->o_begin[s->t * s->cp + i] - s->head) * c->head_dim;
    }
    return err;
}

int rondo__split_make(struct rondo_split *out, const struct rondo_config *c, int32_t tp, int32_t t, int32_t cp, int32_t ci, const double *shares)
{
    struct rondo_split s = { .tp = tp, .cp = cp, .t = t, .c = ci };
    const int32_t w = t * cp + ci;
    int err = heads_of(c, tp, t, shares, &s);
    if (!err)
        err = make_lists(&s, c, shares);
    if (!err)
        err = rondo_share(c->vocabulary, tp * cp, s.weights, w, &s.vocab_first, &s.vocab);
    if (err) {
        rondo__split_free(&s);
        return err;
    }
    const int32_t leaves = s.down_begin[tp * cp];
    s.q_first = s.head * c->head_dim + s.q_begin[ci];
    s.q_columns = s.q_begin[ci + 1] - s.q_begin[ci];
    s.kv_first = s.kv_head * c->head_dim + s.kv_begin[ci];
    s.kv_columns = s.kv_begin[ci + 1] - s.kv_begin[ci];
    s.kda_head = s.kda_begin[w];
    s.kda_heads = s.kda_begin[w + 1] - s.kda_head;
    s.mlp_first = rondo__linear_leaf_begin(c->intermediate, leaves, s.down_begin[w]);
    s.mlp_columns = rondo__linear_leaf_begin(c->intermediate, leaves, s.down_begin[w + 1]) - s.mlp_first;
    *out = s;
    return 0;
}

void rondo__split_free(struct rondo_split *s)
{
    rondo__free(s->o_begin);
    rondo__free(s->down_begin);
    rondo__free(s->kda_begin);
    rondo__free(s->q_begin);
    rondo__free(s->kv_begin);
    rondo__free(s->out_begin);
    rondo__free(s->weights);
    *s = (struct rondo_split){ 0 };
}
