/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Tensor parallelism for users: what the ranks of a context share of layers, and the exchanges between layers.
 */
#include <float.h>

#include "core/internal.h"
#include "tensor/linear.h"

struct rondo_tp {
    rondo_context *ctx;
    rondo_tp_desc desc;
};

#define FEW 16

/* Where part i begins. Weights are finite and not negative, their sum is above 0. */
static int64_t begin_of(int64_t total, int parts, const double *weights, int i)
{
    if (!weights)
        return (int64_t)((unsigned __int128)total * (unsigned)i / (unsigned)parts);
    double before = 0.0, all = 0.0;
    for (int p = 0; p < parts; p++) {
        all += weights[p];
        if (p == i - 1)
            before = all;
    }
    if (i == 0 || i == parts)
        return i ? total : 0;
    const double at = (double)total * (before / all) + 0.5;
    const int64_t begin = at >= (double)total ? total : (int64_t)at;
    return begin < total ? begin : total;
}

int rondo_share(int64_t total, int parts, const double *weights, int index, int64_t *first, int64_t *count)
{
    if (!first || !count)
        return rondo__fail(RONDO_EINVAL, "rondo_share: first and count must not be NULL");
    if (total < 0 || parts < 1 || index < 0 || index >= parts)
        return rondo__fail(RONDO_EINVAL, "rondo_share: part %d of %d of %lld; parts count from 0, and a total is not negative", index, parts,
                           (long long)total);
    double all = 0.0;
    for (int p = 0; weights && p < parts; p++) {
        if (!(weights[p] >= 0.0 && weights[p] <= DBL_MAX))
            return rondo__fail(RONDO_EINVAL, "rondo_share: the weight of part %d is %g; it must be finite and not negative", p, weights[p]);
        all += weights[p];
    }
    if (weights && !(all > 0.0 && all <= DBL_MAX))
        return rondo__fail(RONDO_EINVAL, "rondo_share: the weights of %d parts add up to %g; it must be above 0 and finite", parts, all);
    *first = begin_of(total, parts, weights, index);
    *count = begin_of(total, parts, weights, index + 1) - *first;
    return 0;
}

int rondo_tp_create(rondo_tp **out, rondo_context *ctx, const rondo_tp_desc *desc)
{
    rondo_tp_desc d = RONDO_TP_DESC_INIT;
    if (out)
        *out = NULL;
    if (!out || !ctx)
        return rondo__fail(RONDO_EINVAL, "rondo_tp_create: out and ctx must not be NULL");
    int err = desc ? rondo__desc_copy(&d, sizeof d, desc, "rondo_tp_desc") : 0;
    if (err)
        return err;
    if (d.few < 0)
        return rondo__fail(RONDO_EINVAL, "rondo_tp_create: few is %lld; it must not be negative, 0 is %d", (long long)d.few, FEW);
    rondo_tp *tp = rondo__alloc_zero(1, sizeof *tp);
    if (!tp)
        return rondo__fail(RONDO_ENOMEM, "rondo_tp_create: no memory");
    tp->ctx = ctx;
    tp->desc = d;
    tp->desc.few = d.few ? d.few : FEW;
    *out = tp;
    return 0;
}

void rondo_tp_destroy(rondo_tp *tp)
{
    rondo__free(tp);
}

int rondo_tp_rows(const rondo_tp *tp, int64_t rows, int rank, int64_t *first, int64_t *count)
{
    if (!tp || !first || !count)
        return rondo__fail(RONDO_EINVAL, "rondo_tp_rows: tp, first and count must not be NULL");
    if (rows > tp->desc.few)
        return rondo_share(rows, tp->ctx->ranks, NULL, rank, first, count);
    if (rows < 0 || rank < 0 || rank >= tp->ctx->ranks)
        return rondo__fail(RONDO_EINVAL, "rondo_tp_rows: %lld rows of rank %d of %d; ranks count from 0, and rows are not negative",
                           (long long)rows, rank, tp->ctx->ranks);
    *first = 0;
    *count = rows;
    return 0;
}

/* Everybody's bytes to everybody, through the host. bytes_of: [ranks]. */
static int to_all(rondo_context *ctx, const void *mine, void *all, const size_t *bytes_of)
{
    size_t total = 0;
    for (int r = 0; r < ctx->ranks; r++)
        total += bytes_of[r];
    char *in = rondo__alloc(bytes_of[ctx->rank]), *out = rondo__alloc(total);
    int err = in && out ? 0 : rondo__fail(RONDO_ENOMEM, "rondo_tp: no memory for %zu bytes", total);
    if (!err && bytes_of[ctx->rank])
        err = rondo_memory_copy(ctx, in, mine, bytes_of[ctx->rank]);
    err = err ? rondo__collective_failed(ctx, err) : rondo_all_gather(ctx, in, out, bytes_of);
    if (!err && total)
        err = rondo_memory_copy(ctx, all, out, total);
    rondo__free(in);
    rondo__free(out);
    return err;
}

static size_t *sizes(rondo_context *ctx)
{
    size_t *s = rondo__alloc_zero((size_t)ctx->ranks, sizeof *s);
    if (!s)
        (void)rondo__collective_failed(ctx, rondo__fail(RONDO_ENOMEM, "rondo_tp: no memory"));
    return s;
}

int rondo_tp_gather(rondo_tp *tp, int64_t rows, int64_t width, const float *kept, float *all)
{
    rondo_context *ctx = tp->ctx;
    int64_t first, count;
    int err = rondo_tp_rows(tp, rows, ctx->rank, &first, &count);
    if (err)
        return rondo__collective_failed(ctx, err);
    if (count == rows)
        return kept == all || !rows ? 0 : rondo_memory_copy(ctx, all, kept, (size_t)(rows * width) * sizeof *all);
    size_t *bytes_of = sizes(ctx);
    if (!bytes_of)
        return RONDO_ENOMEM;
    for (int r = 0; r < ctx->ranks && !err; r++) {
        err = rondo_tp_rows(tp, rows, r, &first, &count);
        bytes_of[r] = (size_t)(count * width) * sizeof *all;
    }
    err = err ? err : to_all(ctx, kept, all, bytes_of);
    rondo__free(bytes_of);
    return err;
}

int rondo_tp_linear(rondo_tp *tp, const rondo_linear *linear, int64_t rows, const float *x, int64_t x_stride, float *y, int64_t y_stride,
                    const float *bias, int add)
{
    rondo_context *ctx = tp->ctx;
    const rondo_linear_desc *d = rondo__linear_desc(linear);
    const int32_t ranks = ctx->ranks;
    const size_t node = (size_t)(rows * d->out) * sizeof *y;
    int64_t first, count;
    if (ranks == 1 && !d->leaf_begin)
        return rondo_linear_execute(linear, ctx, rows, x, x_stride, y, y_stride, bias, add);
    int err = rondo__linear_usable(linear, ctx, "rondo_tp_linear");
    if (!err && (!d->leaf_begin || d->parts != ranks || d->part != ctx->rank))
        err = rondo__fail(RONDO_EINVAL, "rondo_tp_linear: the layer is part %d of %d, on rank %d of %d", (int)d->part, (int)d->parts, ctx->rank, ranks);
    if (!err)
        err = rondo_tp_rows(tp, rows, ctx->rank, &first, &count);
    if (err)
        return rondo__collective_failed(ctx, err);
    if (!rows)
        return 0;
    size_t *bytes_of = sizes(ctx);
    if (!bytes_of)
        return RONDO_ENOMEM;
    int32_t nodes = 0, mine = 0;
    for (int r = 0; r < ranks; r++) {
        const int32_t n = rondo__linear_nodes(d->leaves, d->leaf_begin[r], d->leaf_begin[r + 1] - d->leaf_begin[r]);
        bytes_of[r] = (size_t)n * node;
        mine = r < ctx->rank ? mine + n : mine;
        nodes += n;
    }
    void *room = NULL, *all = NULL, *at, *out, *b;
    struct rondo_linear_node *list = rondo__alloc_zero((size_t)nodes, sizeof *list);
    struct rondo__staging s = { .ctx = ctx };
    err = list ? 0 : rondo__fail(RONDO_ENOMEM, "rondo_tp_linear: no memory");
    if (!err)
        err = rondo_memory_create(&room, ctx, RONDO_MEMORY_DEVICE, bytes_of[ctx->rank] + 64);
    if (!err)
        err = rondo_memory_create(&all, ctx, RONDO_MEMORY_DEVICE, (size_t)nodes * node + 64);
    const int64_t columns = rondo__linear_columns(linear);
    if (!err)
        err = rondo__stage(&s, RONDO_STAGE_READ, rondo__rows_of(columns ? x : NULL, rows, (size_t)x_stride * 4, (size_t)columns * 4), &at);
    if (!err)
        err = rondo__stage(&s, RONDO_STAGE_WRITE | (add ? RONDO_STAGE_READ : 0),
                           rondo__rows_of(count ? y : NULL, count, (size_t)y_stride * 4, (size_t)d->out * 4), &out);
    if (!err)
        err = rondo__stage(&s, RONDO_STAGE_READ, rondo__rows_of(bias, 1, (size_t)d->out * 4, (size_t)d->out * 4), &b);
    if (!err)
        err = rondo__linear_run_nodes(linear, ctx, NULL, d->leaf_begin[ctx->rank], d->leaf_begin[ctx->rank + 1] - d->leaf_begin[ctx->rank], rows,
                                      at, at == x ? x_stride : columns, room, rows * d->out, &(struct rondo_poll){ rondo__poll, ctx, NULL });
    err = err ? rondo__collective_failed(ctx, err) : to_all(ctx, room, all, bytes_of);
    int32_t k = 0;
    for (int r = 0; r < ranks && !err; r++)
        for (int32_t leaf = d->leaf_begin[r], end; leaf < d->leaf_begin[r + 1]; leaf = end, k++) {
            end = rondo__linear_node_end(d->leaves, leaf, d->leaf_begin[r + 1]);
            list[k] = (struct rondo_linear_node){ (float *)all + (k * rows + first) * d->out, d->out,
                                                  rondo__linear_merges(d->leaves, leaf, end), 0 };
        }
    const struct rondo_linear_join join = { .rows = count, .out = d->out, .nodes = list, .count = nodes, .add = add, .y = out,
                                            .y_stride = out == y ? y_stride : d->out, .bias = b };
    if (!err && count)
        err = rondo__ops(ctx)->linear_join(rondo__dev(ctx), NULL, &join);
    err = rondo__stage_end(&s, true, err);
    rondo_memory_destroy(ctx, room);
    rondo_memory_destroy(ctx, all);
    rondo__free(list);
    rondo__free(bytes_of);
    return rondo__collective_failed(ctx, err);
}

int rondo_tp_lookup(rondo_tp *tp, const rondo_tp_table *table, int64_t rows, const int32_t *ids, float *y)
{
    rondo_context *ctx = tp->ctx;
    const int64_t width = table->width;
    int64_t first, count, at = 0;
    const int type = table->linear ? rondo__linear_desc(table->linear)->type : table->type;
    const size_t row = (size_t)width * rondo_type_size(type);
    int err = rondo_share(table->total, ctx->ranks, table->weights, ctx->rank, &first, &count);
    if (err)
        return rondo__collective_failed(ctx, err);
    size_t *bytes_of = sizes(ctx);
    char *found = rondo__alloc((size_t)rows * row), *all = rondo__alloc((size_t)rows * row);
    if (!bytes_of || !found || !all)
        err = rondo__fail(RONDO_ENOMEM, "rondo_tp_lookup: no memory");
    for (int r = 0; r < ctx->ranks && !err; r++) {
        err = rondo_share(table->total, ctx->ranks, table->weights, r, &first, &count);
        for (int64_t i = 0; i < rows && !err; i++) {
            if (ids[i] < first || ids[i] >= first + count)
                continue;
            bytes_of[r] += row;
            if (r != ctx->rank)
                continue;
            if (table->linear)
                err = rondo__linear_read(table->linear, ids[i] - first, 1, found + (size_t)at * row);
            else
                memcpy(found + (size_t)at * row, (const char *)table->data + (size_t)(ids[i] - first) * row, row);
            at++;
        }
    }
    err = err ? rondo__collective_failed(ctx, err) : rondo_all_gather(ctx, found, all, bytes_of);
    int64_t keep, kept;
    if (!err)
        err = rondo_tp_rows(tp, rows, ctx->rank, &keep, &kept);
    at = 0;
    for (int r = 0; r < ctx->ranks && !err; r++) {
        err = rondo_share(table->total, ctx->ranks, table->weights, r, &first, &count);
        for (int64_t i = 0; i < rows && !err; i++) {
            if (ids[i] < first || ids[i] >= first + count)
                continue;
            if (i >= keep && i < keep + kept)
                err = rondo_convert(ctx, width, type, all + (size_t)at * row, RONDO_F32, y + (i - keep) * width);
            at++;
        }
    }
    rondo__free(bytes_of);
    rondo__free(found);
    rondo__free(all);
    return rondo__collective_failed(ctx, err);
}

int rondo_tp_swap(rondo_tp *tp, int to_rows, const int64_t *rows, const int64_t *columns, const float *x, float *y)
{
    rondo_context *ctx = tp->ctx;
    const int ranks = ctx->ranks, me = ctx->rank;
    const int64_t own_rows = rows[me + 1] - rows[me], own = columns[me + 1] - columns[me], wide = columns[ranks], high = rows[ranks];
    size_t *bytes_of = sizes(ctx);
    float *mine = rondo__alloc((size_t)((to_rows ? high * own : own_rows * wide) + 1) * 4);
    float *all = rondo__alloc((size_t)(high * wide + 1) * 4), *out = rondo__alloc((size_t)(high * own + own_rows * wide + 1) * 4);
    int err = bytes_of && mine && all && out ? 0 : rondo__fail(RONDO_ENOMEM, "rondo_tp_swap: no memory");
    for (int r = 0; r < ranks && !err; r++)
        bytes_of[r] = (size_t)(to_rows ? high * (columns[r + 1] - columns[r]) : (rows[r + 1] - rows[r]) * wide) * 4;
    if (!err && bytes_of[me])
        err = rondo_memory_copy(ctx, mine, x, bytes_of[me]);
    err = err ? rondo__collective_failed(ctx, err) : rondo_all_gather(ctx, mine, all, bytes_of);
    for (int64_t i = 0; i < high && !err; i++)
        for (int64_t j = 0; j < wide; j++) {
            int r = 0;
            while ((to_rows ? j : i) >= (to_rows ? columns : rows)[r + 1])
                r++;
            const float v = to_rows ? all[high * columns[r] + i * (columns[r + 1] - columns[r]) + j - columns[r]] : all[i * wide + j];
            if (to_rows && i >= rows[me] && i < rows[me + 1])
                out[(i - rows[me]) * wide + j] = v;
            if (!to_rows && j >= columns[me] && j < columns[me + 1])
                out[i * own + j - columns[me]] = v;
        }
    const int64_t results = to_rows ? own_rows * wide : high * own;
    if (!err && results)
        err = rondo_memory_copy(ctx, y, out, (size_t)results * 4);
    rondo__free(bytes_of);
    rondo__free(mine);
    rondo__free(all);
    rondo__free(out);
    return rondo__collective_failed(ctx, err);
}
