/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The functions between the matrix products of a transformer, for users: checks every argument, then the
 * device's slots do the work (contract C9). Arrays may lie in host memory or in the device's: what a device with memory of its own
 * cannot reach goes through core/device_memory.c.
 */
#include "core/internal.h"

#include <float.h>

/* count elements of so many bytes can be addressed */
static bool fits(int64_t count, size_t element)
{
    int64_t bytes;
    return count >= 0 && rondo__mul64(count, (int64_t)element, &bytes) && bytes <= PTRDIFF_MAX;
}

/* The same place (allowed where the function works in place) or no byte in common. */
static bool same_or_apart(const void *a, const void *b, size_t bytes_a, size_t bytes_b)
{
    uintptr_t p = (uintptr_t)a, q = (uintptr_t)b;
    return (p == q && bytes_a == bytes_b) || p + bytes_a <= q || q + bytes_b <= p;
}

static bool apart(const void *a, const void *b, size_t bytes_a, size_t bytes_b)
{
    return a != b && same_or_apart(a, b, bytes_a, bytes_b);
}

/* What every call does first and last. */
static int enter(rondo_context *ctx, int present, const char *function, double *begin)
{
    *begin = 0.0;
    if (!present)
        return rondo__fail(RONDO_ENOTSUP, "%s: device \"%s\" does not compute it; cpu does", function,
                           rondo__ops(ctx)->name);
    if (ctx->trace)
        *begin = rondo__now();
    return rondo__ops(ctx)->check(rondo__dev(ctx));
}

static int leave(rondo_context *ctx, const char *name, double begin, int err)
{
    if (ctx->trace)
        rondo__trace(ctx, name, begin, -1, 0);
    return err;
}

int rondo_rmsnorm(rondo_context *ctx, int64_t rows, int64_t dim, const float *x, const float *weight,
                  float eps, float *y)
{
    int64_t count;
    double begin;
    int err;

    if (!ctx)
        return rondo__fail(RONDO_EINVAL, "rondo_rmsnorm: ctx must not be NULL");
    if (rows < 0 || dim < 1)
        return rondo__fail(RONDO_EINVAL,
                           "rondo_rmsnorm: rows is %lld and dim %lld; they must be at least 0 and 1",
                           (long long)rows, (long long)dim);
    if (!rondo__mul64(rows, dim, &count) || !fits(count, sizeof *x))
        return rondo__fail(RONDO_EINVAL, "rondo_rmsnorm: %lld rows of %lld elements cannot be addressed",
                           (long long)rows, (long long)dim);
    if (!(eps >= 0.0f && eps <= FLT_MAX))
        return rondo__fail(RONDO_EINVAL, "rondo_rmsnorm: eps is %g; it must be finite and not negative",
                           (double)eps);
    if (rows == 0)
        return 0;
    if (!x || !weight || !y)
        return rondo__fail(RONDO_EINVAL, "rondo_rmsnorm: x, weight and y must not be NULL");
    if (!same_or_apart(x, y, (size_t)count * sizeof *x, (size_t)count * sizeof *x))
        return rondo__fail(RONDO_EINVAL, "rondo_rmsnorm: y overlaps x in part; it must be x or other memory");
    if (!same_or_apart(weight, y, (size_t)dim * sizeof *weight, (size_t)count * sizeof *y))   /* a single row may be where they are */
        return rondo__fail(RONDO_EINVAL, "rondo_rmsnorm: y overlaps weight; it must be other memory");
    err = enter(ctx, RONDO_HAS(rondo__ops(ctx), rmsnorm), "rondo_rmsnorm", &begin);
    if (err)
        return err;
    struct rondo__staging s = { .ctx = ctx };
    const size_t row = (size_t)dim * sizeof *x;
    void *in, *scale, *out;
    err = rondo__stage(&s, RONDO_STAGE_READ, rondo__rows_of(x, rows, row, row), &in);
    if (!err)
        err = rondo__stage(&s, RONDO_STAGE_READ, rondo__rows_of(weight, 1, row, row), &scale);
    if (!err)
        err = rondo__stage(&s, RONDO_STAGE_WRITE, rondo__rows_of(y, rows, row, row), &out);
    if (!err)
        err = rondo__ops(ctx)->rmsnorm(rondo__dev(ctx), NULL, rows, dim, in, scale, eps, out);
    return leave(ctx, "rmsnorm", begin, rondo__stage_end(&s, false, err));
}

/* One way, or back. */
static int turn(const char *function, bool back, rondo_context *ctx, int64_t rows, int64_t heads, int64_t dim, float *x, int64_t row_stride,
                int64_t head_stride, const float *table)
{
    int64_t a, b, end, turned;
    double begin;
    int err;

    if (!ctx)
        return rondo__fail(RONDO_EINVAL, "%s: ctx must not be NULL", function);
    if (rows < 0 || heads < 0)
        return rondo__fail(RONDO_EINVAL, "%s: rows is %lld and heads %lld; neither may be negative", function,
                           (long long)rows, (long long)heads);
    if (dim < 2 || dim % 2)
        return rondo__fail(RONDO_EINVAL, "%s: dim is %lld; it must be even and at least 2", function,
                           (long long)dim);
    if (rows == 0 || heads == 0)
        return 0;
    if (row_stride < 0 || head_stride < 0 || !rondo__mul64(rows - 1, row_stride, &a) ||
        !rondo__mul64(heads - 1, head_stride, &b) || !rondo__add64(a, b, &end) ||
        !rondo__add64(end, dim, &end) || !fits(end, sizeof *x) || !rondo__mul64(rows, dim, &turned) ||
        !fits(turned, sizeof *x))
        return rondo__fail(RONDO_EINVAL,
                           "%s: %lld rows of %lld heads with strides %lld and %lld cannot be "
                           "addressed", function,
                           (long long)rows, (long long)heads, (long long)row_stride, (long long)head_stride);
    /* heads inside rows or rows inside heads, never one upon the other */
    if ((heads > 1 && head_stride < dim) || (rows > 1 && row_stride < dim) ||
        (heads > 1 && rows > 1 && row_stride < b + dim && head_stride < a + dim))
        return rondo__fail(RONDO_EINVAL,
                           "%s: with strides %lld (rows) and %lld (heads) the heads of %lld elements "
                           "overlap; heads lie inside of rows, or rows inside of heads", function,
                           (long long)row_stride, (long long)head_stride, (long long)dim);
    if (!x || !table)
        return rondo__fail(RONDO_EINVAL, "%s: x and table must not be NULL", function);
    if (!apart(x, table, (size_t)end * sizeof *x, (size_t)turned * sizeof *table))
        return rondo__fail(RONDO_EINVAL, "%s: x overlaps the table; it must be other memory", function);
    err = enter(ctx, back ? RONDO_HAS(rondo__ops(ctx), rope_back) : RONDO_HAS(rondo__ops(ctx), rope), function, &begin);
    if (err)
        return err;
    struct rondo__staging s = { .ctx = ctx };
    const size_t row = (size_t)dim * sizeof *x;
    void *at, *turns;
    err = rondo__stage(&s, RONDO_STAGE_READ | RONDO_STAGE_WRITE,
                       (struct rondo__array){ x, rows, heads, (size_t)row_stride * sizeof *x, (size_t)head_stride * sizeof *x, row }, &at);
    if (!err)
        err = rondo__stage(&s, RONDO_STAGE_READ, rondo__rows_of(table, rows, row, row), &turns);
    if (!err) {
        const int64_t stride = at == x ? row_stride : heads * dim, step = at == x ? head_stride : dim;
        err = back ? rondo__ops(ctx)->rope_back(rondo__dev(ctx), NULL, rows, heads, dim, at, stride, step, turns)
                   : rondo__ops(ctx)->rope(rondo__dev(ctx), NULL, rows, heads, dim, at, stride, step, turns);
    }
    return leave(ctx, back ? "rope dx" : "rope", begin, rondo__stage_end(&s, false, err));
}

int rondo_rope(rondo_context *ctx, int64_t rows, int64_t heads, int64_t dim, float *x, int64_t row_stride,
               int64_t head_stride, const float *table)
{
    return turn("rondo_rope", false, ctx, rows, heads, dim, x, row_stride, head_stride, table);
}

int rondo_rope_dx(rondo_context *ctx, int64_t rows, int64_t heads, int64_t dim, float *dx, int64_t row_stride, int64_t head_stride,
                  const float *table)
{
    return turn("rondo_rope_dx", true, ctx, rows, heads, dim, dx, row_stride, head_stride, table);
}

/* Elements of two arrays: swiglu, sigmoid_mul. */
static int of_two(const char *function, bool unit, rondo_context *ctx, int64_t count, const float *gate, const float *up, float *y)
{
    const char *const other = unit ? "up" : "x";
    size_t bytes;
    double begin;
    int err;

    if (!ctx)
        return rondo__fail(RONDO_EINVAL, "%s: ctx must not be NULL", function);
    if (!fits(count, sizeof *gate))
        return rondo__fail(RONDO_EINVAL, "%s: count is %lld; it must not be negative, and all elements addressable", function, (long long)count);
    if (count == 0)
        return 0;
    if (!gate || !up || !y)
        return rondo__fail(RONDO_EINVAL, "%s: gate, %s and y must not be NULL", function, other);
    bytes = (size_t)count * sizeof *gate;
    if (!same_or_apart(gate, y, bytes, bytes) || !same_or_apart(up, y, bytes, bytes))
        return rondo__fail(RONDO_EINVAL, "%s: y overlaps gate or %s in part; it must be one of them or other memory", function, other);
    err = enter(ctx, unit ? RONDO_HAS(rondo__ops(ctx), swiglu) : RONDO_HAS(rondo__ops(ctx), sigmoid_mul), function, &begin);
    if (err)
        return err;
    struct rondo__staging s = { .ctx = ctx };
    void *first, *second, *out;
    err = rondo__stage(&s, RONDO_STAGE_READ, rondo__rows_of(gate, 1, bytes, bytes), &first);
    if (!err)
        err = rondo__stage(&s, RONDO_STAGE_READ, rondo__rows_of(up, 1, bytes, bytes), &second);
    if (!err)
        err = rondo__stage(&s, RONDO_STAGE_WRITE, rondo__rows_of(y, 1, bytes, bytes), &out);
    if (!err)
        err = unit ? rondo__ops(ctx)->swiglu(rondo__dev(ctx), NULL, count, first, second, out)
                   : rondo__ops(ctx)->sigmoid_mul(rondo__dev(ctx), NULL, count, first, second, out);
    return leave(ctx, unit ? "swiglu" : "sigmoid mul", begin, rondo__stage_end(&s, false, err));
}

int rondo_swiglu(rondo_context *ctx, int64_t count, const float *gate, const float *up, float *y)
{
    return of_two("rondo_swiglu", true, ctx, count, gate, up, y);
}

int rondo_sigmoid_mul(rondo_context *ctx, int64_t count, const float *gate, const float *x, float *y)
{
    return of_two("rondo_sigmoid_mul", false, ctx, count, gate, x, y);
}

/* How far rows of `width` elements reach, in bytes; false: they overlap, or cannot be addressed. */
static bool reach_of(int64_t rows, int64_t width, int64_t stride, size_t *bytes)
{
    int64_t end;
    if ((rows > 1 && stride < width) || stride < 0 || !rondo__mul64(rows - 1, stride, &end) || !rondo__add64(end, width, &end) ||
        !fits(end, sizeof(float)))
        return false;
    *bytes = (size_t)end * sizeof(float);
    return true;
}

int rondo_short_conv(rondo_context *ctx, int64_t rows, int64_t channels, int32_t taps, const float *x, int64_t x_stride, const float *weight,
                     float *state, int silu, float *y, int64_t y_stride)
{
    size_t x_bytes, y_bytes, weight_bytes, state_bytes = 0;
    double begin;
    int err;

    if (!ctx)
        return rondo__fail(RONDO_EINVAL, "rondo_short_conv: ctx must not be NULL");
    if (rows < 0 || channels < 1)
        return rondo__fail(RONDO_EINVAL, "rondo_short_conv: rows is %lld and channels %lld; they must be at least 0 and 1", (long long)rows,
                           (long long)channels);
    if (taps < 1 || taps > RONDO_CONV_TAPS)
        return rondo__fail(RONDO_EINVAL, "rondo_short_conv: taps is %d; 1 to %d are accepted", (int)taps, RONDO_CONV_TAPS);
    if (silu & ~1)
        return rondo__fail(RONDO_EINVAL, "rondo_short_conv: silu is %d; it is 0 or 1", silu);
    if (rows == 0)
        return 0;
    if (!reach_of(rows, channels, x_stride, &x_bytes) || !reach_of(rows, channels, y_stride, &y_bytes) ||
        !reach_of(taps, channels, channels, &weight_bytes) || (taps > 1 && !reach_of(taps - 1, channels, channels, &state_bytes)))
        return rondo__fail(RONDO_EINVAL, "rondo_short_conv: %lld rows of %lld channels with strides %lld and %lld overlap or cannot be addressed; "
                                         "strides must be at least channels",
                           (long long)rows, (long long)channels, (long long)x_stride, (long long)y_stride);
    if (!x || !weight || !y)
        return rondo__fail(RONDO_EINVAL, "rondo_short_conv: x, weight and y must not be NULL");
    if (!same_or_apart(x, y, x_bytes, y_bytes) || (x == y && rows > 1 && x_stride != y_stride))
        return rondo__fail(RONDO_EINVAL, "rondo_short_conv: y overlaps x in part; it must be x with the same stride, or other memory");
    if (!apart(weight, y, weight_bytes, y_bytes) || (state && state_bytes && (!apart(state, y, state_bytes, y_bytes) ||
        !apart(state, x, state_bytes, x_bytes) || !apart(state, weight, state_bytes, weight_bytes))))
        return rondo__fail(RONDO_EINVAL, "rondo_short_conv: y or state overlaps another array; both must be memory of their own");
    err = enter(ctx, RONDO_HAS(rondo__ops(ctx), short_conv), "rondo_short_conv", &begin);
    if (err)
        return err;
    struct rondo__staging s = { .ctx = ctx };
    const size_t row = (size_t)channels * sizeof *x, x_step = (size_t)x_stride * sizeof *x, y_step = (size_t)y_stride * sizeof *y;
    void *in, *taps_at, *before = NULL, *out;
    err = rondo__stage(&s, RONDO_STAGE_READ, rondo__rows_of(x, rows, x_step, row), &in);
    if (!err)
        err = rondo__stage(&s, RONDO_STAGE_READ, rondo__rows_of(weight, taps, row, row), &taps_at);
    if (!err && state && state_bytes)
        err = rondo__stage(&s, RONDO_STAGE_READ | RONDO_STAGE_WRITE, rondo__rows_of(state, taps - 1, row, row), &before);
    if (!err)
        err = rondo__stage(&s, RONDO_STAGE_WRITE, rondo__rows_of(y, rows, y_step, row), &out);
    if (!err) {
        const struct rondo_conv_run run = { .rows = rows, .channels = channels, .x_stride = in == x ? x_stride : channels,
                                            .y_stride = out == y ? y_stride : channels, .taps = taps, .silu = silu, .x = in, .weight = taps_at,
                                            .state = before, .y = out };
        err = rondo__ops(ctx)->short_conv(rondo__dev(ctx), NULL, &run);
    }
    return leave(ctx, "short conv", begin, rondo__stage_end(&s, false, err));
}

int rondo_convert(rondo_context *ctx, int64_t count, int from_type, const void *from, int to_type, void *to)
{
    size_t from_size = rondo_type_size(from_type), to_size = rondo_type_size(to_type);
    double begin;
    int err;

    if (!ctx)
        return rondo__fail(RONDO_EINVAL, "rondo_convert: ctx must not be NULL");
    if (!from_size || !to_size || from_type == RONDO_Q8 || to_type == RONDO_Q8)
        return rondo__fail(RONDO_EINVAL,
                           "rondo_convert: the types are %d and %d; RONDO_F32, RONDO_BF16 and RONDO_F16 are "
                           "known, and rondo_convert_rows() takes RONDO_Q8 too",
                           from_type, to_type);
    if (!fits(count, sizeof(float)))
        return rondo__fail(RONDO_EINVAL,
                           "rondo_convert: count is %lld; it must not be negative, and all elements "
                           "addressable",
                           (long long)count);
    if (count == 0)
        return 0;
    if (!from || !to)
        return rondo__fail(RONDO_EINVAL, "rondo_convert: from and to must not be NULL");
    if (!same_or_apart(from, to, (size_t)count * from_size, (size_t)count * to_size))
        return rondo__fail(RONDO_EINVAL, "rondo_convert: to overlaps from; it must be other memory, or the "
                                         "same with types of one size");
    err = enter(ctx, RONDO_HAS(rondo__ops(ctx), convert), "rondo_convert", &begin);
    if (err)
        return err;
    struct rondo__staging s = { .ctx = ctx };
    const size_t from_bytes = (size_t)count * from_size, to_bytes = (size_t)count * to_size;
    void *in, *out;
    err = rondo__stage(&s, RONDO_STAGE_READ, rondo__rows_of(from, 1, from_bytes, from_bytes), &in);
    if (!err)
        err = rondo__stage(&s, RONDO_STAGE_WRITE, rondo__rows_of(to, 1, to_bytes, to_bytes), &out);
    if (!err)
        err = rondo__ops(ctx)->convert(rondo__dev(ctx), NULL, count, from_type, in, to_type, out);
    return leave(ctx, "convert", begin, rondo__stage_end(&s, false, err));
}

int rondo_logsumexp(rondo_context *ctx, int64_t rows, int64_t dim, const float *x, int64_t x_stride,
                    double *out)
{
    int64_t end;
    double begin;
    int err;

    if (!ctx)
        return rondo__fail(RONDO_EINVAL, "rondo_logsumexp: ctx must not be NULL");
    if (rows < 0 || dim < 1)
        return rondo__fail(RONDO_EINVAL,
                           "rondo_logsumexp: rows is %lld and dim %lld; they must be at least 0 and 1",
                           (long long)rows, (long long)dim);
    if (rows == 0)
        return 0;
    if (x_stride < 0 || (rows > 1 && x_stride < dim) || !rondo__mul64(rows - 1, x_stride, &end) ||
        !rondo__add64(end, dim, &end) || !fits(end, sizeof *x) || !fits(rows, sizeof *out))
        return rondo__fail(RONDO_EINVAL,
                           "rondo_logsumexp: x_stride is %lld for %lld rows; it must be at least dim, %lld, "
                           "and all of x addressable",
                           (long long)x_stride, (long long)rows, (long long)dim);
    if (!x || !out)
        return rondo__fail(RONDO_EINVAL, "rondo_logsumexp: x and out must not be NULL");
    if (!apart(x, out, (size_t)end * sizeof *x, (size_t)rows * sizeof *out))
        return rondo__fail(RONDO_EINVAL, "rondo_logsumexp: out overlaps x; it must be other memory");
    err = enter(ctx, RONDO_HAS(rondo__ops(ctx), logsumexp), "rondo_logsumexp", &begin);
    if (err)
        return err;
    struct rondo__staging s = { .ctx = ctx };
    void *in, *sums;
    err = rondo__stage(&s, RONDO_STAGE_READ, rondo__rows_of(x, rows, (size_t)x_stride * sizeof *x, (size_t)dim * sizeof *x), &in);
    if (!err)
        err = rondo__stage(&s, RONDO_STAGE_WRITE, rondo__rows_of(out, 1, 0, (size_t)rows * sizeof *out), &sums);
    if (!err)
        err = rondo__ops(ctx)->logsumexp(rondo__dev(ctx), NULL, rows, dim, in, in == x ? x_stride : dim, sums);
    return leave(ctx, "logsumexp", begin, rondo__stage_end(&s, false, err));
}

/* Rows that lie `stride` bytes apart: whether they are apart and numbers aligned, and how far they reach. */
static bool rows_fit(int64_t rows, int type, size_t row, size_t stride, const void *data, size_t *reach)
{
    const size_t size = rondo_type_size(type);
    return (rows == 1 || stride >= row) && (rows == 1 || stride % size == 0) && (uintptr_t)data % size == 0 &&
           rondo__mul((size_t)(rows - 1), stride, reach) && rondo__add(*reach, row, reach) && *reach <= PTRDIFF_MAX;
}

int rondo_convert_rows(rondo_context *ctx, int64_t rows, int64_t dim, int from_type, const void *from, size_t from_stride, int to_type, void *to,
                       size_t to_stride)
{
    const size_t from_row = rondo_row_bytes(from_type, dim), to_row = rondo_row_bytes(to_type, dim);
    size_t from_reach, to_reach;
    double begin;
    int err;

    if (!ctx)
        return rondo__fail(RONDO_EINVAL, "rondo_convert_rows: ctx must not be NULL");
    if (!rondo_type_size(from_type) || !rondo_type_size(to_type))
        return rondo__fail(RONDO_EINVAL, "rondo_convert_rows: the types are %d and %d; RONDO_F32, RONDO_BF16, RONDO_F16 and RONDO_Q8 are known",
                           from_type, to_type);
    if (rows < 0 || dim < 1 || !from_row || !to_row || !fits(dim, sizeof(float)))
        return rondo__fail(RONDO_EINVAL, "rondo_convert_rows: there are %lld rows of %lld numbers; there must be at least 0 of 1, and all of them "
                                         "addressable", (long long)rows, (long long)dim);
    if (rows == 0)
        return 0;
    if (!from || !to)
        return rondo__fail(RONDO_EINVAL, "rondo_convert_rows: from and to must not be NULL");
    if (!rows_fit(rows, from_type, from_row, from_stride, from, &from_reach) || !rows_fit(rows, to_type, to_row, to_stride, to, &to_reach))
        return rondo__fail(RONDO_EINVAL, "rondo_convert_rows: %lld rows lie %zu and %zu bytes apart; they must be at least their own %zu and %zu apart, "
                                         "numbers aligned, and all addressable", (long long)rows, from_stride, to_stride, from_row, to_row);
    if (!same_or_apart(from, to, from_reach, to_reach) || (from == to && (from_row != to_row || (rows > 1 && from_stride != to_stride))))
        return rondo__fail(RONDO_EINVAL, "rondo_convert_rows: to overlaps from; it must be other memory, or the same with rows of one size");
    err = enter(ctx, RONDO_HAS(rondo__ops(ctx), convert_rows), "rondo_convert_rows", &begin);
    if (err)
        return err;
    struct rondo__staging s = { .ctx = ctx };
    void *in, *out;
    err = rondo__stage(&s, RONDO_STAGE_READ, rondo__rows_of(from, rows, from_stride, from_row), &in);
    if (!err)
        err = rondo__stage(&s, RONDO_STAGE_WRITE, rondo__rows_of(to, rows, to_stride, to_row), &out);
    if (!err)
        err = rondo__ops(ctx)->convert_rows(rondo__dev(ctx), NULL, rows, dim, from_type, in, in == from ? from_stride : from_row, to_type, out,
                                            out == to ? to_stride : to_row);
    return leave(ctx, "convert", begin, rondo__stage_end(&s, false, err));
}

/* ---- gradients ---- */

int rondo_rmsnorm_dx(rondo_context *ctx, int64_t rows, int64_t dim, const float *x, const float *weight, float eps, const float *dy, float *dx,
                     float *terms, int add)
{
    int64_t count;
    double begin;
    if (!ctx)
        return rondo__fail(RONDO_EINVAL, "rondo_rmsnorm_dx: ctx must not be NULL");
    if (rows < 0 || dim < 1 || !rondo__mul64(rows, dim, &count) || !fits(count, sizeof *x) || !fits(dim, sizeof *x))
        return rondo__fail(RONDO_EINVAL, "rondo_rmsnorm_dx: there are %lld rows of %lld elements; there must be at least 0 of 1, all of them addressable",
                           (long long)rows, (long long)dim);
    if (!(eps >= 0.0f && eps <= FLT_MAX))
        return rondo__fail(RONDO_EINVAL, "rondo_rmsnorm_dx: eps is %g; it must be finite and not negative", (double)eps);
    if (rows == 0)
        return 0;
    if (!x || !weight || !dy)
        return rondo__fail(RONDO_EINVAL, "rondo_rmsnorm_dx: x, weight and dy must not be NULL");
    const size_t bytes = (size_t)count * sizeof *x, row = (size_t)dim * sizeof *x;
    if (dx && (!same_or_apart(x, dx, bytes, bytes) || !same_or_apart(dy, dx, bytes, bytes) || !apart(weight, dx, row, bytes)))
        return rondo__fail(RONDO_EINVAL, "rondo_rmsnorm_dx: dx overlaps weight, or x or dy in part; it must be x, dy or other memory");
    if (terms && (!apart(x, terms, bytes, bytes) || !apart(dy, terms, bytes, bytes) || !apart(weight, terms, row, bytes) ||
                  (dx && !apart(dx, terms, bytes, bytes))))
        return rondo__fail(RONDO_EINVAL, "rondo_rmsnorm_dx: terms overlaps another array; it must be other memory");
    int err = enter(ctx, RONDO_HAS(rondo__ops(ctx), rmsnorm_dx), "rondo_rmsnorm_dx", &begin);
    if (err)
        return err;
    struct rondo__staging s = { .ctx = ctx };
    void *in, *scale, *from, *out, *more;
    err = rondo__stage(&s, RONDO_STAGE_READ, rondo__rows_of(x, rows, row, row), &in);
    if (!err)
        err = rondo__stage(&s, RONDO_STAGE_READ, rondo__rows_of(weight, 1, row, row), &scale);
    if (!err)
        err = rondo__stage(&s, RONDO_STAGE_READ, rondo__rows_of(dy, rows, row, row), &from);
    if (!err)
        err = rondo__stage(&s, RONDO_STAGE_WRITE | (add ? RONDO_STAGE_READ : 0), rondo__rows_of(dx, rows, row, row), &out);
    if (!err)
        err = rondo__stage(&s, RONDO_STAGE_WRITE, rondo__rows_of(terms, rows, row, row), &more);
    if (!err)
        err = rondo__ops(ctx)->rmsnorm_dx(rondo__dev(ctx), NULL, rows, dim, in, scale, eps, from, out, more, add != 0);
    return leave(ctx, "rmsnorm dx", begin, rondo__stage_end(&s, false, err));
}

int rondo_swiglu_dx(rondo_context *ctx, int64_t count, const float *gate, const float *up, const float *dy, float *dgate, float *dup)
{
    double begin;
    if (!ctx)
        return rondo__fail(RONDO_EINVAL, "rondo_swiglu_dx: ctx must not be NULL");
    if (!fits(count, sizeof *gate))
        return rondo__fail(RONDO_EINVAL, "rondo_swiglu_dx: count is %lld; it must not be negative, and all elements addressable", (long long)count);
    if (count == 0)
        return 0;
    if (!gate || !up || !dy || !dgate || !dup)
        return rondo__fail(RONDO_EINVAL, "rondo_swiglu_dx: gate, up, dy, dgate and dup must not be NULL");
    const size_t bytes = (size_t)count * sizeof *gate;
    const float *const given[] = { gate, up, dy };
    for (int i = 0; i < 3; i++)
        if (!same_or_apart(given[i], dgate, bytes, bytes) || !same_or_apart(given[i], dup, bytes, bytes))
            return rondo__fail(RONDO_EINVAL, "rondo_swiglu_dx: dgate or dup overlaps gate, up or dy in part; each must be one of them or other memory");
    if (!apart(dgate, dup, bytes, bytes))
        return rondo__fail(RONDO_EINVAL, "rondo_swiglu_dx: dup overlaps dgate; it must be other memory");
    int err = enter(ctx, RONDO_HAS(rondo__ops(ctx), swiglu_dx), "rondo_swiglu_dx", &begin);
    if (err)
        return err;
    struct rondo__staging s = { .ctx = ctx };
    void *in[3], *out[2];
    for (int i = 0; i < 3 && !err; i++)
        err = rondo__stage(&s, RONDO_STAGE_READ, rondo__rows_of(given[i], 1, bytes, bytes), &in[i]);
    if (!err)
        err = rondo__stage(&s, RONDO_STAGE_WRITE, rondo__rows_of(dgate, 1, bytes, bytes), &out[0]);
    if (!err)
        err = rondo__stage(&s, RONDO_STAGE_WRITE, rondo__rows_of(dup, 1, bytes, bytes), &out[1]);
    if (!err)
        err = rondo__ops(ctx)->swiglu_dx(rondo__dev(ctx), NULL, count, in[0], in[1], in[2], out[0], out[1]);
    return leave(ctx, "swiglu dx", begin, rondo__stage_end(&s, false, err));
}
