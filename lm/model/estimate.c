/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What a model will take in memory before anything of it is read: a walk over its tensors (weights.h) sums up the bytes of each kind of layer, as
 * held, and arithmetic on those gives any part's share. So too little memory is told at once, with a division that would fit. Called
 * by users (rondo_model_estimate()).
 */
#include <stddef.h>

#include "core/internal.h"
#include "lm/model/weights.h"

#define RANKS 1024          /* the most that a search goes to unless told otherwise */
#define KV_LEAF 128         /* keys are dealt in leaves of so many */

/* Bytes of the whole model, by how they are divided. */
struct whole {
    const struct rondo_model *model;
    int32_t group;
    uint64_t q, kv, o, kda, mlp, down, vocabulary, every;   /* every: norms and whole biases, which each rank has */
};

/* A share of `bytes`: `part` of `total`, rounded up. bytes * part may be more than 64 bits hold; total is below 2^31 (config.c). */
static uint64_t share_of(uint64_t bytes, int64_t part, int64_t total)
{
    const uint64_t p = (uint64_t)part, t = (uint64_t)total;
    return bytes / t * p + (bytes % t * p + t - 1) / t;
}

static int count(void *arg, const struct rondo_weight *w)
{
    struct whole *a = arg;
    const struct rondo_model *m = a->model;
    const char *to = w->to, *layers = (const char *)m->layers;
    uint64_t *of = &a->every;
    if (to == (const char *)&m->head || to == (const char *)&m->embedding) {
        of = &a->vocabulary;
    } else if (to >= layers && to < (const char *)(m->layers + m->config.layers)) {
        const size_t place = (size_t)(to - layers) % sizeof *m->layers;
        switch (place) {
        case offsetof(struct rondo_layer, q): case offsetof(struct rondo_layer, q_bias):
            of = &a->q;
            break;
        case offsetof(struct rondo_layer, k): case offsetof(struct rondo_layer, k_bias):
        case offsetof(struct rondo_layer, v): case offsetof(struct rondo_layer, v_bias):
            of = &a->kv;
            break;
        case offsetof(struct rondo_layer, o):
            of = &a->o;
            break;
        case offsetof(struct rondo_layer, gate): case offsetof(struct rondo_layer, gate_bias):
        case offsetof(struct rondo_layer, up): case offsetof(struct rondo_layer, up_bias):
            of = &a->mlp;
            break;
        case offsetof(struct rondo_layer, down):
            of = &a->down;
            break;
        case offsetof(struct rondo_layer, kda.f_a): case offsetof(struct rondo_layer, kda.g_a): case offsetof(struct rondo_layer, kda.norm):
            break;
        default:
            if (place >= offsetof(struct rondo_layer, kda) && place < offsetof(struct rondo_layer, kda) + sizeof m->layers->kda)
                of = &a->kda;
            break;
        }
    }
    *of += rondo__weights_bytes(w, a->group);
    return 0;
}

/* More bytes than this are so many: sums of two stay numbers. */
#define BYTES_MOST (UINT64_MAX / 4)

static uint64_t at_most(uint64_t bytes)
{
    return bytes < BYTES_MOST ? bytes : BYTES_MOST;
}

/* The share of the heads of Kimi Delta Attention that one of the ranks has, rounded as bytes are; none of a model without. */
static uint64_t kda_share(const struct whole *a, int64_t heads)
{
    return a->kda ? share_of(a->kda, heads, a->model->config.kda_heads) : 0;
}

/* States of so many sequences, of so many heads, with the rows that convolutions keep. */
static uint64_t states(const struct rondo_config *c, int64_t heads, int64_t sequences)
{
    const uint64_t floats = ((uint64_t)(heads * c->kda_dim) * (uint64_t)(c->kda_dim + 3 * (c->conv_taps - 1)) + 15) & ~(uint64_t)15;
    const uint64_t each = heads ? (uint64_t)c->kda_layers * floats * sizeof(float) : 0;
    return each && (uint64_t)sequences > BYTES_MOST / each ? BYTES_MOST : each * (uint64_t)sequences;
}

/* The most query heads and KV heads that one of tp ranks has; where these are more than KV heads, a run that begins late in its group. */
static int64_t most_heads(const struct rondo_config *c, int64_t tp, int64_t *kv_heads)
{
    const int64_t group = c->heads / c->kv_heads, heads = (c->heads + tp - 1) / tp, reach = (heads + group - 2) / group + 1;
    if (tp <= c->kv_heads) {
        *kv_heads = (c->kv_heads + tp - 1) / tp;
        return *kv_heads * group;
    }
    *kv_heads = reach < c->kv_heads ? reach : c->kv_heads;
    return heads;
}

/* The largest part of each kind that a rank of tp x cp has, all alike; cp is 1 where nothing is spread. */
static uint64_t largest(const struct whole *a, int64_t tp, int64_t cp)
{
    const struct rondo_config *c = &a->model->config;
    int64_t kv_heads;
    const int64_t heads = most_heads(c, tp, &kv_heads), leaves = rondo__split_down_leaves(c);
    const int64_t kda = (c->kda_heads + tp - 1) / tp;
    const int64_t mlp = (leaves + tp * cp - 1) / (tp * cp), ids = (c->vocabulary + tp * cp - 1) / (tp * cp);
    return a->every + share_of(a->q, (heads * c->head_dim + cp - 1) / cp, c->heads * c->head_dim) +
           share_of(a->kv, (kv_heads * c->head_dim + cp - 1) / cp, c->kv_heads * c->head_dim) + share_of(a->o, (heads + cp - 1) / cp, c->heads) +
           kda_share(a, (kda + cp - 1) / cp) + share_of(a->mlp + a->down, mlp, leaves) + share_of(a->vocabulary, ids, c->vocabulary);
}

/* Keys and values of `tokens` that one of cp ranks has, of so many heads. */
static uint64_t cache(const struct rondo_config *c, int32_t type, int64_t heads, int64_t tokens, int64_t cp)
{
    const uint64_t leaves = ((uint64_t)tokens + KV_LEAF - 1) / KV_LEAF, mine = cp > 1 ? (leaves + (uint64_t)cp - 1) / (uint64_t)cp * KV_LEAF : (uint64_t)tokens;
    const uint64_t token = (uint64_t)(2 * (c->layers - c->kda_layers) * heads) * rondo_row_bytes(type, c->head_dim);
    return token && mine > BYTES_MOST / token ? BYTES_MOST : mine * token;
}

/* Columns of a share of `total` of them. */
static int columns_of(int64_t total, int32_t parts, const double *weights, int32_t part, int64_t *columns)
{
    int64_t first;
    return rondo_share(total, parts, weights, part, &first, columns);
}

/* What is really dealt: every rank's part, for unlike machines too. One split has the leaves of all ranks, and heads are leaves. */
static int divide(const struct whole *a, const rondo_estimate_desc *d, rondo_estimate *e)
{
    const struct rondo_config *c = &a->model->config;
    const int32_t over = d->spread ? d->cp_ranks : 1, ranks = d->tp_ranks * over;
    const int64_t leaves = rondo__split_down_leaves(c);
    struct rondo_split s;
    int err = rondo__split_make(&s, c, d->tp_ranks, 0, over, 0, d->shares);
    if (err)
        return err;
    for (int32_t w = 0; w < ranks && !err; w++) {
        const int32_t t = w / over, i = w % over;
        const int64_t head = s.o_begin[t * over], heads = s.o_begin[(t + 1) * over] - head;
        const int64_t kv_heads = rondo__split_kv_heads(c, head, heads);
        int64_t q, kv, ids;
        err = columns_of(heads * c->head_dim, over, NULL, i, &q);
        if (!err)
            err = columns_of(kv_heads * c->head_dim, over, NULL, i, &kv);
        if (!err)
            err = columns_of(c->vocabulary, ranks, s.weights, w, &ids);
        if (err)
            break;
        const uint64_t bytes = a->every + share_of(a->q, q, c->heads * c->head_dim) + share_of(a->kv, kv, c->kv_heads * c->head_dim) +
                               share_of(a->o, s.o_begin[w + 1] - s.o_begin[w], c->heads) +
                               kda_share(a, s.kda_begin[w + 1] - s.kda_begin[w]) +
                               share_of(a->mlp + a->down, s.down_begin[w + 1] - s.down_begin[w], leaves) +
                               share_of(a->vocabulary, ids, c->vocabulary);
        const uint64_t cached = cache(c, d->kv_type, kv_heads, d->tokens, d->cp_ranks);
        e->all_weight_bytes += bytes;
        e->weight_bytes = bytes > e->weight_bytes ? bytes : e->weight_bytes;
        e->kv_bytes = cached > e->kv_bytes ? cached : e->kv_bytes;
        /* States are dealt to context-parallel ranks also where layers are not. */
        const int64_t kda = s.kda_begin[(t + 1) * over] - s.kda_begin[t * over];
        int64_t mine;
        for (int32_t j = d->spread ? i : 0; j < (d->spread ? i + 1 : d->cp_ranks) && !err; j++) {
            err = columns_of(kda, d->cp_ranks, NULL, j, &mine);
            const uint64_t held = err ? 0 : states(c, mine, d->sequences);
            e->state_bytes = held > e->state_bytes ? held : e->state_bytes;
            e->all_state_bytes = at_most(e->all_state_bytes + held);
        }
        if (i == 0)
            e->all_kv_bytes = at_most(e->all_kv_bytes + cache(c, d->kv_type, kv_heads, d->tokens, 1));
    }
    e->kv_token_bytes = cache(c, d->kv_type, c->kv_heads, 1, 1);
    rondo__split_free(&s);
    return err;
}

/* The fewest ranks of d->memory each, and of their divisions the one that needs least. */
static void fit(const struct whole *a, const rondo_estimate_desc *d, rondo_estimate *e)
{
    const struct rondo_config *c = &a->model->config;
    const int32_t most = d->ranks ? d->ranks : RANKS;
    for (int32_t n = 1; n <= most && d->memory && !e->fit_tp; n++) {
        uint64_t least = d->memory;
        for (int32_t tp = 1; tp <= n && tp <= c->heads; tp++) {
            int64_t kv_heads;
            if (n % tp)
                continue;
            (void)most_heads(c, tp, &kv_heads);
            const uint64_t bytes = largest(a, tp, d->spread ? n / tp : 1) + cache(c, d->kv_type, kv_heads, d->tokens, n / tp) +
                                   states(c, ((c->kda_heads + tp - 1) / tp + n / tp - 1) / (n / tp), d->sequences);
            if (bytes > least || (e->fit_tp && bytes == least))
                continue;
            least = bytes;
            e->fit_tp = tp;
            e->fit_cp = n / tp;
        }
    }
}

static int check(rondo_estimate_desc *d)
{
    const int err = rondo__reserved(d->reserved, "rondo_model_estimate");
    if (err)
        return err;
    d->tp_ranks = d->tp_ranks ? d->tp_ranks : 1;
    d->cp_ranks = d->cp_ranks ? d->cp_ranks : 1;
    d->kv_type = d->kv_type ? d->kv_type : RONDO_F32;
    if (d->tp_ranks < 1 || d->cp_ranks < 1 || d->cp_ranks > RONDO_MODEL_RANKS_MAX / d->tp_ranks)
        return rondo__fail(RONDO_EINVAL, "rondo_model_estimate: %d x %d ranks cannot share a model; 1 to %d can", (int)d->tp_ranks, (int)d->cp_ranks,
                           RONDO_MODEL_RANKS_MAX);
    if (d->ranks < 0 || d->ranks > RONDO_MODEL_RANKS_MAX)
        return rondo__fail(RONDO_EINVAL, "rondo_model_estimate: ranks is %d; 1 to %d can share a model, 0 means %d", (int)d->ranks,
                           RONDO_MODEL_RANKS_MAX, RANKS);
    if (d->sequences < 0)
        return rondo__fail(RONDO_EINVAL, "rondo_model_estimate: sequences is %lld; it must not be negative", (long long)d->sequences);
    if (d->tokens < 0)
        return rondo__fail(RONDO_EINVAL, "rondo_model_estimate: tokens is %lld; it must not be negative", (long long)d->tokens);
    if ((d->weights && !rondo_type_size(d->weights)) || !rondo_type_size(d->kv_type))
        return rondo__fail(RONDO_EINVAL, "rondo_model_estimate: weights %d and kv_type %d; RONDO_F32, RONDO_BF16, RONDO_F16 and RONDO_Q8 are known",
                           (int)d->weights, (int)d->kv_type);
    if (d->group < 0 || (d->group && d->weights != RONDO_Q8))
        return rondo__fail(RONDO_EINVAL, "rondo_model_estimate: group is %d; it is how many inputs share a scale with RONDO_Q8, 0 means 32, and there "
                           "are none otherwise", (int)d->group);
    return 0;
}

int rondo_model_estimate(const char *dir, const rondo_estimate_desc *desc, rondo_estimate *estimate)
{
    rondo_estimate_desc d = RONDO_ESTIMATE_DESC_INIT;
    rondo_estimate e = RONDO_ESTIMATE_INIT;
    struct rondo_shards *shards = NULL;
    struct rondo_model m = { .layers = NULL };
    if (!dir || !estimate)
        return rondo__fail(RONDO_EINVAL, "rondo_model_estimate: %s is NULL", dir ? "estimate" : "the folder's name");
    int err = desc ? rondo__desc_copy(&d, sizeof d, desc, "rondo_estimate_desc") : 0;
    if (!err)
        err = check(&d);
    if (!err)
        err = rondo__config_read(&m.config, dir);
    if (!err)
        err = rondo__split_make(&m.split, &m.config, 1, 0, 1, 0, NULL);
    if (!err && !(m.layers = rondo__alloc_zero((size_t)m.config.layers, sizeof *m.layers)))
        err = rondo__fail(RONDO_ENOMEM, "rondo_model_estimate: no memory for %lld layers", (long long)m.config.layers);
    if (!err)
        err = rondo__shards_open(&shards, dir);
    struct whole whole = { .model = &m, .group = d.group };
    if (!err)
        err = rondo__weights_walk(&m, shards, &(struct rondo_weights_wish){ d.weights, false }, count, &whole);
    if (!err)
        err = divide(&whole, &d, &e);
    if (!err) {
        fit(&whole, &d, &e);
        err = rondo__info_copy(estimate, &e, sizeof e, "rondo_estimate");
    }
    rondo__shards_close(shards);
    rondo__split_free(&m.split);
    rondo__free(m.layers);
    return err;
}
