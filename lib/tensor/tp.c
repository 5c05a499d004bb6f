/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Tensor parallelism for users: what the ranks of a context share of layers, and the exchanges between layers. Here arguments are checked and
 * brought to where the device computes; the exchanges are schedules (tp_build.c, tp_run.c). Every failure of a rank goes through
 * rondo__collective_failed(), as the others wait for it.
 */
#include "tensor/linear.h"
#include "tensor/tp.h"

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
        return rondo__fail(RONDO_EINVAL, "rondo_tp_create: few is %lld; it must not be negative, 0 is %d", (long long)d.few, RONDO_TP_FEW);
    if (!RONDO_HAS(rondo__ops(ctx), linear) || !RONDO_HAS(rondo__ops(ctx), linear_join) || !RONDO_HAS(rondo__ops(ctx), convert))
        return rondo__fail(RONDO_ENOTSUP, "rondo_tp_create: device \"%s\" has no parts of linear layers; cpu has", rondo__ops(ctx)->name);
    rondo_tp *tp = rondo__alloc_zero(1, sizeof *tp);
    if (tp) {
        tp->entry = rondo__alloc_zero(RONDO_TP_ENTRIES, sizeof *tp->entry);
        tp->lists = rondo__alloc_zero(2 * ((size_t)ctx->ranks + 1), sizeof *tp->lists);
        tp->ctx = ctx;
    }
    if (!tp || !tp->entry || !tp->lists) {
        rondo_tp_destroy(tp);
        return rondo__fail(RONDO_ENOMEM, "rondo_tp_create: no memory");
    }
    tp->desc = d;
    tp->desc.few = d.few ? d.few : RONDO_TP_FEW;
    *out = tp;
    return 0;
}

void rondo_tp_destroy(rondo_tp *tp)
{
    if (!tp)
        return;
    rondo__tp_entries_free(tp);
    rondo__free(tp->entry);
    rondo__free(tp->lists);
    rondo__free(tp);
}

int rondo_tp_rows(const rondo_tp *tp, int64_t rows, int rank, int64_t *first, int64_t *count)
{
    if (!tp || !first || !count)
        return rondo__fail(RONDO_EINVAL, "rondo_tp_rows: tp, first and count must not be NULL");
    if (rows < 0 || rank < 0 || rank >= tp->ctx->ranks)
        return rondo__fail(RONDO_EINVAL, "rondo_tp_rows: %lld rows of rank %d of %d; ranks count from 0, and rows are not negative",
                           (long long)rows, rank, (int)tp->ctx->ranks);
    const struct rondo__tp_case c = { .ranks = tp->ctx->ranks, .few = rows <= tp->desc.few, .rows = rows };
    rondo__tp_kept(&c, rank, first, count);
    return 0;
}

/* ---- arguments ---- */

static bool addressed(int64_t rows, int64_t columns, int64_t *bytes)
{
    return rows >= 0 && columns >= 0 && rondo__mul64(rows, columns, bytes) && rondo__mul64(*bytes, (int64_t)sizeof(float), bytes) &&
           *bytes <= PTRDIFF_MAX;
}

static bool apart(const void *a, int64_t a_bytes, const void *b, int64_t b_bytes)
{
    const uintptr_t p = (uintptr_t)a, q = (uintptr_t)b;
    return !a_bytes || !b_bytes || !a || !b || p + (uintptr_t)a_bytes <= q || q + (uintptr_t)b_bytes <= p;
}

/* Both arrays dense: to the device, through the exchange, and back. */
static int run_dense(rondo_tp *tp, const struct rondo__tp_case *c, const float *x, int64_t x_bytes, float *y, int64_t y_bytes)
{
    struct rondo__tp_entry *e = NULL;
    void *in = NULL, *out = NULL;
    int err = rondo__tp_entry(tp, c, &e);
    if (err)
        return err;
    struct rondo__staging s = { .ctx = tp->ctx };
    err = rondo__stage(&s, RONDO_STAGE_READ, rondo__rows_of(x_bytes ? x : NULL, 1, (size_t)x_bytes, (size_t)x_bytes), &in);
    if (!err)
        err = rondo__stage(&s, RONDO_STAGE_WRITE, rondo__rows_of(y_bytes ? y : NULL, 1, (size_t)y_bytes, (size_t)y_bytes), &out);
    struct rondo__tp_call call = { .tp = tp, .entry = e, .x = in, .y = out };
    if (!err)
        err = rondo__tp_run(&call);
    return rondo__stage_end(&s, true, err);
}

/* ---- rows ---- */

static int check_gather(const rondo_tp *tp, int64_t rows, int64_t width, const float *kept, const float *all, const struct rondo__tp_case *c,
                        int64_t *kept_bytes, int64_t *all_bytes)
{
    int64_t first, count;
    if (rows < 0 || width < 1 || !addressed(rows, width, all_bytes))
        return rondo__fail(RONDO_EINVAL, "rondo_tp_gather: %lld rows of %lld numbers; rows are not negative, a row has 1 and more, and memory must "
                                         "hold them", (long long)rows, (long long)width);
    rondo__tp_kept(c, tp->ctx->rank, &first, &count);
    *kept_bytes = count * width * (int64_t)sizeof *kept;
    if ((*kept_bytes && !kept) || (*all_bytes && !all))
        return rondo__fail(RONDO_EINVAL, "rondo_tp_gather: %s must not be NULL", all ? "kept" : "all");
    if (kept != all + first * width && !apart(kept, *kept_bytes, all, *all_bytes))
        return rondo__fail(RONDO_EINVAL, "rondo_tp_gather: kept overlaps all in part; it must be where its rows are in all, or other memory");
    return 0;
}

int rondo_tp_gather(rondo_tp *tp, int64_t rows, int64_t width, const float *kept, float *all)
{
    int64_t kept_bytes = 0, all_bytes = 0;
    if (!tp)
        return rondo__fail(RONDO_EINVAL, "rondo_tp_gather: tp must not be NULL");
    const struct rondo__tp_case c = { .kind = RONDO_TP_GATHER, .ranks = tp->ctx->ranks, .few = rows <= tp->desc.few, .rows = rows,
                                      .width = width };
    int err = rondo__collective_begin(tp->ctx, "gather rows");
    if (!err)
        err = check_gather(tp, rows, width, kept, all, &c, &kept_bytes, &all_bytes);
    if (!err && kept_bytes == all_bytes && (c.few || c.ranks == 1))   /* they are here */
        err = kept == all || !all_bytes ? 0 : rondo_memory_copy(tp->ctx, all, kept, (size_t)all_bytes);
    else if (!err)
        err = run_dense(tp, &c, kept, kept_bytes, all, all_bytes);
    return rondo__collective_failed(tp->ctx, err);
}

/* ---- blocks ---- */

static int check_list(const char *name, const int64_t *list, int32_t ranks)
{
    if (!list)
        return rondo__fail(RONDO_EINVAL, "rondo_tp_swap: %s must not be NULL", name);
    for (int32_t r = 0; r <= ranks; r++)
        if (list[r] < (r ? list[r - 1] : 0) || (!r && list[0]))
            return rondo__fail(RONDO_EINVAL, "rondo_tp_swap: %s[%d] is %lld; the list must begin with 0 and not descend", name, (int)r,
                               (long long)list[r]);
    return 0;
}

static int check_swap(const rondo_tp *tp, int to_rows, const int64_t *rows, const int64_t *columns, const float *x, const float *y,
                      int64_t *x_bytes, int64_t *y_bytes)
{
    const int32_t ranks = tp->ctx->ranks, me = tp->ctx->rank;
    int64_t all, by_rows, by_columns;
    int err = check_list("rows", rows, ranks);
    if (!err)
        err = check_list("columns", columns, ranks);
    if (err)
        return err;
    if (!addressed(rows[ranks], columns[ranks], &all) || !addressed(rows[me + 1] - rows[me], columns[ranks], &by_rows) ||
        !addressed(rows[ranks], columns[me + 1] - columns[me], &by_columns))
        return rondo__fail(RONDO_EINVAL, "rondo_tp_swap: %lld rows of %lld columns are more than memory can hold", (long long)rows[ranks],
                           (long long)columns[ranks]);
    *x_bytes = to_rows ? by_columns : by_rows;
    *y_bytes = to_rows ? by_rows : by_columns;
    if ((*x_bytes && !x) || (*y_bytes && !y))
        return rondo__fail(RONDO_EINVAL, "rondo_tp_swap: %s must not be NULL", *x_bytes && !x ? "x" : "y");
    if (!apart(x, *x_bytes, y, *y_bytes))
        return rondo__fail(RONDO_EINVAL, "rondo_tp_swap: y overlaps x; it must be other memory");
    return 0;
}

int rondo_tp_swap(rondo_tp *tp, int to_rows, const int64_t *rows, const int64_t *columns, const float *x, float *y)
{
    int64_t x_bytes = 0, y_bytes = 0;
    if (!tp)
        return rondo__fail(RONDO_EINVAL, "rondo_tp_swap: tp must not be NULL");
    const int32_t ranks = tp->ctx->ranks;
    int err = rondo__collective_begin(tp->ctx, "place blocks");
    if (!err)
        err = check_swap(tp, to_rows, rows, columns, x, y, &x_bytes, &y_bytes);
    if (err || !rows[ranks] || !columns[ranks])
        return rondo__collective_failed(tp->ctx, err);
    const struct rondo__tp_case c = { .kind = to_rows ? RONDO_TP_TO_ROWS : RONDO_TP_TO_COLUMNS, .ranks = ranks, .rows = rows[ranks],
                                      .width = columns[ranks], .loose = rows[ranks] <= tp->desc.few, .begin = rows, .columns = columns };
    return rondo__collective_failed(tp->ctx, run_dense(tp, &c, x, x_bytes, y, y_bytes));
}

/* ---- sums ---- */

static int check_part(const rondo_tp *tp, const rondo_linear_desc *d)
{
    if (d->leaf_begin ? d->parts != tp->ctx->ranks : tp->ctx->ranks != 1)
        return rondo__fail(RONDO_EINVAL, "rondo_tp_linear: the layer is one of %d parts and %d ranks share it; every rank has a part",
                           d->leaf_begin ? (int)d->parts : 1, (int)tp->ctx->ranks);
    if (d->part != tp->ctx->rank)
        return rondo__fail(RONDO_EINVAL, "rondo_tp_linear: the layer is part %d, and this is rank %d; each rank has the part of its own number",
                           (int)d->part, (int)tp->ctx->rank);
    return 0;
}

/* Fills a case and its list of leaves. */
static int check_linear(rondo_tp *tp, const rondo_linear *linear, int64_t rows, const float *x, int64_t x_stride, const float *y, int64_t y_stride,
                        const float *bias, int add, struct rondo__tp_case *c)
{
    const rondo_linear_desc *d = rondo__linear_desc(linear);
    const int64_t columns = rondo__linear_columns(linear);
    int64_t first, count;
    int err = check_part(tp, d);
    if (!err)
        err = rondo__linear_usable(linear, tp->ctx, "rondo_tp_linear");
    if (!err)
        err = rondo__ops(tp->ctx)->check(rondo__dev(tp->ctx));
    if (err)
        return err;
    if (rows < 0)
        return rondo__fail(RONDO_EINVAL, "rondo_tp_linear: rows is %lld; it must not be negative", (long long)rows);
    for (int32_t r = 0; r <= tp->ctx->ranks && d->leaf_begin; r++)
        tp->lists[r] = d->leaf_begin[r];
    *c = (struct rondo__tp_case){ .kind = RONDO_TP_LINEAR, .ranks = tp->ctx->ranks, .few = rows <= tp->desc.few, .add = add != 0,
                                  .bias = bias != NULL, .leaves = d->leaves, .rows = rows, .width = d->out, .in = d->in, .begin = tp->lists };
    rondo__tp_kept(c, tp->ctx->rank, &first, &count);
    if (rows && columns && !x)
        return rondo__fail(RONDO_EINVAL, "rondo_tp_linear: x must not be NULL where the part has inputs, here %lld", (long long)columns);
    if (count && !y)
        return rondo__fail(RONDO_EINVAL, "rondo_tp_linear: y must not be NULL");
    if (rows && columns && !rondo__linear_fits(rows, columns, x_stride))
        return rondo__fail(RONDO_EINVAL, "rondo_tp_linear: x_stride is %lld for %lld rows; it must be at least the part's inputs, %lld, and all of "
                                         "x addressable", (long long)x_stride, (long long)rows, (long long)columns);
    if (count && !rondo__linear_fits(count, d->out, y_stride))
        return rondo__fail(RONDO_EINVAL, "rondo_tp_linear: y_stride is %lld for %lld rows; it must be at least out, %lld, and all of y addressable",
                           (long long)y_stride, (long long)count, (long long)d->out);
    if (count && columns && !rondo__linear_apart(x, x_stride, columns, rows, y, y_stride, d->out, count))
        return rondo__fail(RONDO_EINVAL, "rondo_tp_linear: y overlaps x; it must be other memory");
    if (count && bias && !rondo__linear_apart(bias, d->out, d->out, 1, y, y_stride, d->out, count))
        return rondo__fail(RONDO_EINVAL, "rondo_tp_linear: y overlaps bias; it must be other memory");
    return 0;
}

int rondo_tp_linear(rondo_tp *tp, const rondo_linear *linear, int64_t rows, const float *x, int64_t x_stride, float *y, int64_t y_stride,
                    const float *bias, int add)
{
    struct rondo__tp_case c;
    struct rondo__tp_entry *e = NULL;
    int64_t first, count;
    void *in = NULL, *out = NULL, *b = NULL;
    if (!tp)
        return rondo__fail(RONDO_EINVAL, "rondo_tp_linear: tp must not be NULL");
    int err = rondo__collective_begin(tp->ctx, "nodes");
    if (!err && !linear)
        err = rondo__fail(RONDO_EINVAL, "rondo_tp_linear: linear must not be NULL; a rank without leaves has a layer all the same");
    if (!err)
        err = check_linear(tp, linear, rows, x, x_stride, y, y_stride, bias, add, &c);
    if (!err && tp->ctx->ranks == 1)   /* nobody else's nodes: they need not be kept */
        return rondo_linear_execute(linear, tp->ctx, rows, x, x_stride, y, y_stride, bias, add);
    if (!err && rows)
        err = rondo__tp_entry(tp, &c, &e);
    if (err || !rows)
        return rondo__collective_failed(tp->ctx, err);
    struct rondo__staging s = { .ctx = tp->ctx };
    const int64_t columns = rondo__linear_columns(linear), wide = c.width;
    rondo__tp_kept(&c, tp->ctx->rank, &first, &count);
    err = rondo__stage(&s, RONDO_STAGE_READ, rondo__rows_of(columns ? x : NULL, rows, (size_t)x_stride * sizeof *x, (size_t)columns * sizeof *x), &in);
    if (!err)
        err = rondo__stage(&s, RONDO_STAGE_WRITE | (add ? RONDO_STAGE_READ : 0),
                           rondo__rows_of(count ? y : NULL, count, (size_t)y_stride * sizeof *y, (size_t)wide * sizeof *y), &out);
    if (!err)
        err = rondo__stage(&s, RONDO_STAGE_READ, rondo__rows_of(bias, 1, (size_t)wide * sizeof *bias, (size_t)wide * sizeof *bias), &b);
    struct rondo__tp_call call = { .tp = tp, .entry = e, .linear = linear, .x = in, .x_stride = in == x ? x_stride : columns, .y = out,
                                   .y_stride = out == y ? y_stride : wide, .bias = b };
    if (!err)
        err = rondo__tp_run(&call);
    err = rondo__stage_end(&s, true, err);
    return rondo__collective_failed(tp->ctx, err);
}
