/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Tensor parallelism for users: what the ranks of a context share of layers, and the exchanges between layers.
 */
#include <float.h>

#include "core/internal.h"

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
    if (ctx->ranks > 1)
        return rondo__fail(RONDO_ENOTSUP, "rondo_tp_create: more than one rank is not supported yet");
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
    *first = 0;
    *count = rows;
    return 0;
}

static int not_yet(const char *what)
{
    return rondo__fail(RONDO_ENOTSUP, "%s is not supported yet", what);
}

int rondo_tp_gather(rondo_tp *tp, int64_t rows, int64_t width, const float *kept, float *all)
{
    (void)tp;
    if (kept != all)
        memcpy(all, kept, (size_t)rows * (size_t)width * sizeof *all);
    return 0;
}

int rondo_tp_linear(rondo_tp *tp, const rondo_linear *linear, int64_t rows, const float *x, int64_t x_stride, float *y, int64_t y_stride,
                    const float *bias, int add)
{
    return rondo_linear_execute(linear, tp->ctx, rows, x, x_stride, y, y_stride, bias, add);
}

int rondo_tp_lookup(rondo_tp *tp, const rondo_tp_table *table, int64_t rows, const int32_t *ids, float *y)
{
    (void)tp, (void)table, (void)rows, (void)ids, (void)y;
    return not_yet("rondo_tp_lookup");
}

int rondo_tp_swap(rondo_tp *tp, int to_rows, const int64_t *rows, const int64_t *columns, const float *x, float *y)
{
    (void)tp, (void)to_rows, (void)rows, (void)columns, (void)x, (void)y;
    return not_yet("rondo_tp_swap");
}
