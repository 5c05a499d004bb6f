/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Gradients of attention through the hook's device: addresses are turned into those of the device beneath, and control data is kept until the
 * stream comes to the call.
 */
#include "backends/hook/device.h"

struct backward {
    struct rondo_backward *inner;
    struct rondo_backward_desc desc;
};

static const struct backward *backward_of(const struct rondo_backward *backward)
{
    return (const struct backward *)(const void *)backward;
}

int rondo__hook_backward_new(struct rondo_device *dev, struct rondo_backward **out, const struct rondo_backward_desc *desc)
{
    struct rondo__hook_device *h = rondo__hook_device_of(dev);
    struct backward *b = rondo__alloc_zero(1, sizeof *b);
    *out = NULL;
    if (!b)
        return rondo__fail(RONDO_ENOMEM, "backward: no memory for the test hook's description");
    rondo__hook_drain(h);   /* the device beneath may move its scratch */
    b->desc = *desc;
    int err = h->ops->backward_new(h->dev, &b->inner, desc);
    if (err)
        rondo__free(b);
    else
        *out = (struct rondo_backward *)(void *)b;
    return err;
}

void rondo__hook_backward_free(struct rondo_device *dev, struct rondo_backward *backward)
{
    struct rondo__hook_device *h = rondo__hook_device_of(dev);
    struct backward *b = (struct backward *)(void *)backward;
    if (!b)
        return;
    rondo__hook_drain(h);
    h->ops->backward_free(h->dev, b->inner);
    rondo__free(b);
}

size_t rondo__hook_backward_scratch(const struct rondo_device *dev, const struct rondo_backward *backward)
{
    const struct rondo__hook_device *h = rondo__hook_device_const(dev);
    return h->ops->backward_scratch(h->dev, backward_of(backward)->inner);
}

/* ---- calls ---- */

/* An array of so many numbers, and where it is put; none where there are no numbers. */
static int own(const struct rondo__hook_device *h, const char *call, const char *name, const void *from, int64_t numbers, size_t size, const void **to)
{
    void *at = NULL;
    int err = from && numbers ? rondo__hook_own(h, call, name, from, 0, numbers * (int64_t)size, &at) : 0;
    *to = at;
    return err;
}

static int64_t *list_of(char **room, const int64_t *from, int64_t count)
{
    int64_t *to = (int64_t *)(void *)*room;
    if (!from || !count)
        return NULL;
    memcpy(to, from, (size_t)count * sizeof *to);
    *room += (size_t)count * sizeof *to;
    return to;
}

/* Rows of a bias that are looked at: those of all sequences of the run's jobs. */
static int own_bias(const struct rondo__hook_device *h, const struct backward *b, const struct rondo_backward_run *run, const char *name,
                    const struct rondo_rows *from, const int64_t *row, const int64_t *key, struct rondo_rows *to)
{
    int64_t low = INT64_MAX, high = 0;
    void *at = NULL;
    *to = *from;
    if (!from->data)
        return 0;
    for (int64_t i = run->first; i < run->first + run->count; i++) {
        const struct rondo_backward_job *job = b->desc.jobs + i;
        const int64_t first = (row[job->sequence] + job->cached) * from->row_stride + (key ? key[job->sequence] : 0);   /* all columns from the first */
        const int64_t end = first + (job->tokens - 1) * from->row_stride + (b->desc.bias_heads - 1) * from->head_stride + job->length;
        if (!job->tokens || !job->length)
            continue;
        low = first < low ? first : low;
        high = end > high ? end : high;
    }
    int err = low < high ? rondo__hook_own(h, "backward", name, from->data, low * (int64_t)sizeof(float), high * (int64_t)sizeof(float), &at) : 0;
    to->data = at;
    return err;
}

static int put_run(struct rondo_device *dev, struct rondo_stream *stream, int32_t kind, const struct rondo_backward *backward,
                   const struct rondo_backward_run *run, const struct rondo_poll *poll)
{
    struct rondo__hook_device *h = rondo__hook_device_of(dev);
    const struct backward *b = backward_of(backward);
    const struct rondo_backward_desc *d = &b->desc;
    const int64_t heads = d->heads, kv_heads = d->kv_heads, all = d->all_heads, all_kv = d->all_kv_heads;
    const size_t nodes = (size_t)run->node_count * sizeof *run->nodes;
    const size_t queries = (size_t)run->query_count * sizeof *run->queries, keys = (size_t)run->key_count * sizeof *run->keys;
    char *room = rondo__hook_take(h, sizeof *run + queries + keys + nodes + 4 * (size_t)d->sequences * sizeof(int64_t));
    const void *at;
    int err = 0;
    if (!room)
        return RONDO_ENOMEM;
    struct rondo_backward_run *mine = (struct rondo_backward_run *)(void *)room;
    struct rondo_backward_queries *q = (struct rondo_backward_queries *)(void *)(room + sizeof *run);
    struct rondo_backward_keys *k = (struct rondo_backward_keys *)(void *)(room + sizeof *run + queries);
    struct rondo_backward_nodes *node = (struct rondo_backward_nodes *)(void *)(room + sizeof *run + queries + keys);
    room += sizeof *run + queries + keys + nodes;
    *mine = *run;
    mine->nodes = node;
    mine->queries = q;
    mine->keys = k;
    mine->bias_row = list_of(&room, run->bias_row, d->sequences);
    mine->bias_key = list_of(&room, run->bias_key, d->sequences);
    mine->dbias_row = list_of(&room, run->dbias_row, d->sequences);
    mine->dbias_key = list_of(&room, run->dbias_key, d->sequences);
    for (int32_t i = 0; i < run->query_count && !err; i++) {
        const struct rondo_backward_queries *from = run->queries + i;
        const int64_t rows = from->rows * heads;
        q[i] = *from;
        err = own(h, "backward", "q", from->q, rows * d->head_dim, rondo_type_size(d->q_type), &q[i].q);
        if (!err)
            err = own(h, "backward", "dout", from->dout, rows * d->value_dim, rondo_type_size(d->out_type), &q[i].dout);
        if (!err)
            err = own(h, "backward", "lse", from->lse, rows, sizeof(float), &at);
        q[i].lse = err ? NULL : at;
        if (!err)
            err = own(h, "backward", "sums", from->sums, rows, sizeof(float), &at);
        q[i].sums = err ? NULL : at;
    }
    for (int32_t i = 0; i < run->key_count && !err; i++) {
        const struct rondo_backward_keys *from = run->keys + i;
        k[i] = *from;
        err = own(h, "backward", "k", from->k, from->rows * kv_heads * d->head_dim, rondo_type_size(d->kv_type), &k[i].k);
        if (!err)
            err = own(h, "backward", "v", from->v, from->rows * kv_heads * d->value_dim, rondo_type_size(d->kv_type), &k[i].v);
    }
    for (int32_t i = 0; i < run->node_count && !err; i++) {
        void *where = NULL;
        if (run->nodes[i].floats)
            err = rondo__hook_own(h, "backward", "nodes", run->nodes[i].data, 0, run->nodes[i].floats * (int64_t)sizeof(float), &where);
        node[i] = (struct rondo_backward_nodes){ where, run->nodes[i].floats };
    }
    const struct {
        const char *name;
        void *from, **to;
        int64_t numbers;
        int32_t type;
    } results[] = { { "dq", run->dq, &mine->dq, run->dq_rows * all * d->head_dim, run->dq_type },
                    { "dk", run->dk, &mine->dk, run->dkv_rows * all_kv * d->head_dim, run->dk_type },
                    { "dv", run->dv, &mine->dv, run->dkv_rows * all_kv * d->value_dim, run->dv_type } };
    for (int i = 0; i < 3 && !err; i++)
        if (results[i].from && results[i].numbers)
            err = rondo__hook_own(h, "backward", results[i].name, results[i].from, 0, results[i].numbers * (int64_t)rondo_type_size(results[i].type),
                                  results[i].to);
    if (!err)
        err = own(h, "backward", "alibi", run->alibi, all, sizeof(float), &at);
    mine->alibi = err ? NULL : at;
    if (kind == RONDO_HOOK_BACKWARD_JOIN)   /* joining looks at no score; first and count are of joins there */
        mine->bias.data = mine->dbias.data = NULL;
    if (!err && kind == RONDO_HOOK_BACKWARD)
        err = own_bias(h, b, run, "bias", &run->bias, mine->bias_row, mine->bias_key, &mine->bias);
    if (!err && kind == RONDO_HOOK_BACKWARD)
        err = own_bias(h, b, run, "dbias", &run->dbias, mine->dbias_row, mine->dbias_key, &mine->dbias);
    if (err)
        return err;
    const struct rondo__hook_call call = { .kind = kind, .as.backward = { b->inner, mine } };
    return rondo__hook_put(h, stream, &call, poll);
}

int rondo__hook_backward(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_backward *backward,
                         const struct rondo_backward_run *run, const struct rondo_poll *poll)
{
    return put_run(dev, stream, RONDO_HOOK_BACKWARD, backward, run, poll);
}

int rondo__hook_backward_join(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_backward *backward,
                              const struct rondo_backward_run *run, const struct rondo_poll *poll)
{
    return put_run(dev, stream, RONDO_HOOK_BACKWARD_JOIN, backward, run, poll);
}

int rondo__hook_backward_sums(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_backward_sums *of)
{
    struct rondo__hook_device *h = rondo__hook_device_of(dev);
    struct rondo__hook_call call = { .kind = RONDO_HOOK_BACKWARD_SUMS, .as.sums = *of };
    const int64_t rows = of->rows * of->heads;
    const void *at;
    void *sums;
    int err = own(h, "backward_sums", "out", of->out, rows * of->value_dim, rondo_type_size(of->out_type), &call.as.sums.out);
    if (!err)
        err = own(h, "backward_sums", "dout", of->dout, rows * of->value_dim, rondo_type_size(of->out_type), &call.as.sums.dout);
    if (!err)
        err = own(h, "backward_sums", "dlse", of->dlse, rows, sizeof(float), &at);
    if (!err) {
        call.as.sums.dlse = at;
        err = rondo__hook_own(h, "backward_sums", "sums", of->sums, 0, rows * (int64_t)sizeof(float), &sums);
    }
    if (err)
        return err;
    call.as.sums.sums = sums;
    return rondo__hook_put(h, stream, &call, NULL);
}

int rondo__hook_backward_sinks(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_backward_sinks *of)
{
    struct rondo__hook_device *h = rondo__hook_device_of(dev);
    struct rondo__hook_call call = { .kind = RONDO_HOOK_BACKWARD_SINKS, .as.sinks = *of };
    const size_t leaves = (size_t)of->count * sizeof *of->leaves, bases = (size_t)of->count * sizeof *of->bases;
    const void *sinks, *lse, *sums;
    void *nodes;
    char *room = rondo__hook_take(h, leaves + bases);
    if (!room)
        return RONDO_ENOMEM;
    int err = own(h, "backward_sinks", "sinks", of->sinks, of->heads, sizeof(float), &sinks);
    if (!err)
        err = own(h, "backward_sinks", "lse", of->lse, of->rows * of->heads, sizeof(float), &lse);
    if (!err)
        err = own(h, "backward_sinks", "sums", of->sums, of->rows * of->heads, sizeof(float), &sums);
    if (!err)
        err = rondo__hook_own(h, "backward_sinks", "nodes", of->nodes, 0, of->count * of->heads * (int64_t)sizeof(float), &nodes);
    if (err)
        return err;
    if (of->count) {
        memcpy(room, of->leaves, leaves);
        memcpy(room + leaves, of->bases, bases);
    }
    call.as.sinks.leaves = (const struct rondo_backward_leaf *)(const void *)room;
    call.as.sinks.bases = (const int64_t *)(const void *)(room + leaves);
    call.as.sinks.sinks = sinks;
    call.as.sinks.lse = lse;
    call.as.sinks.sums = sums;
    call.as.sinks.nodes = nodes;
    return rondo__hook_put(h, stream, &call, NULL);
}
