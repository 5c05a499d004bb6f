/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Gradients of layers that ranks share, for users: arguments are checked and brought to where the device computes; the exchanges of nodes are
 * schedules (tp_build.c: LINEAR, with outputs in place of inputs, and TOKENS). As in tp.c every failure of a rank goes through
 * rondo__collective_failed().
 */
#include "tensor/linear.h"
#include "tensor/tokens.h"
#include "tensor/tp.h"

/* ---- dx ---- */

static int check_outputs(rondo_tp *tp, rondo_tp_outputs *o, const rondo_tp_outputs *given)
{
    if (!given)
        return rondo__fail(RONDO_EINVAL, "rondo_tp_linear_dx: outputs must not be NULL");
    *o = (rondo_tp_outputs)RONDO_TP_OUTPUTS_INIT;
    int err = rondo__desc_copy(o, sizeof *o, given, "rondo_tp_outputs");
    if (!err)
        err = rondo__reserved(o->reserved, "rondo_tp_linear_dx");
    if (err)
        return err;
    if (o->in < 1 || o->in > INT32_MAX || o->out < 1 || o->out > INT32_MAX)
        return rondo__fail(RONDO_EINVAL, "rondo_tp_linear_dx: in is %lld and out %lld; they must be 1 to %d", (long long)o->in, (long long)o->out,
                           INT32_MAX);
    o->leaves = o->leaves ? o->leaves : rondo__linear_leaves(o->out);
    if (o->leaves < 1 || o->leaves > o->out)
        return rondo__fail(RONDO_EINVAL, "rondo_tp_linear_dx: leaves is %d; it must be 1 to out, %lld, or 0 for the default", (int)o->leaves,
                           (long long)o->out);
    if (!o->leaf_begin)
        return rondo__fail(RONDO_EINVAL, "rondo_tp_linear_dx: leaf_begin is NULL; it lists where each rank's leaves of the outputs begin");
    for (int32_t r = 0; r <= tp->ctx->ranks; r++) {
        const int32_t least = r ? o->leaf_begin[r - 1] : 0, most = r ? o->leaves : 0;
        if (o->leaf_begin[r] < least || o->leaf_begin[r] > most || (r == tp->ctx->ranks && o->leaf_begin[r] != o->leaves))
            return rondo__fail(RONDO_EINVAL, "rondo_tp_linear_dx: leaf_begin[%d] is %d; the list must ascend from 0 to leaves, %d", (int)r,
                               (int)o->leaf_begin[r], (int)o->leaves);
        tp->lists[r] = o->leaf_begin[r];
    }
    return 0;
}

static int check_dx(rondo_tp *tp, const rondo_tp_outputs *o, const rondo_linear *linear, int64_t rows, const float *dy, int64_t dy_stride,
                    const float *dx, int64_t dx_stride, const struct rondo__tp_case *c, int64_t own)
{
    int64_t first, count;
    int err = own && linear ? rondo__linear_usable(linear, tp->ctx, "rondo_tp_linear_dx") : 0;
    if (!err)
        err = rondo__ops(tp->ctx)->check(rondo__dev(tp->ctx));
    if (!err && !RONDO_HAS(rondo__ops(tp->ctx), linear_dx))
        err = rondo__fail(RONDO_ENOTSUP, "rondo_tp_linear_dx: device \"%s\" does not compute gradients of linear layers; cpu does",
                          rondo__ops(tp->ctx)->name);
    if (err)
        return err;
    if (own && (!linear || rondo__linear_desc(linear)->out != own || rondo__linear_columns(linear) != o->in))
        return rondo__fail(RONDO_EINVAL, "rondo_tp_linear_dx: the layer has %lld inputs and %lld outputs; this rank's leaves are %lld outputs of %lld inputs",
                           linear ? (long long)rondo__linear_columns(linear) : 0LL, linear ? (long long)rondo__linear_desc(linear)->out : 0LL,
                           (long long)own, (long long)o->in);
    if (rows < 0)
        return rondo__fail(RONDO_EINVAL, "rondo_tp_linear_dx: rows is %lld; it must not be negative", (long long)rows);
    rondo__tp_kept(c, tp->ctx->rank, &first, &count);
    if (rows && own && (!dy || !rondo__linear_fits(rows, own, dy_stride)))
        return rondo__fail(RONDO_EINVAL, "rondo_tp_linear_dx: dy must not be NULL, and dy_stride, %lld, at least this rank's outputs, %lld, and all of dy "
                                         "addressable", (long long)dy_stride, (long long)own);
    if (count && (!dx || !rondo__linear_fits(count, o->in, dx_stride)))
        return rondo__fail(RONDO_EINVAL, "rondo_tp_linear_dx: dx must not be NULL, and dx_stride, %lld, at least in, %lld, and all of dx addressable",
                           (long long)dx_stride, (long long)o->in);
    if (count && own && !rondo__linear_apart(dy, dy_stride, own, rows, dx, dx_stride, o->in, count))
        return rondo__fail(RONDO_EINVAL, "rondo_tp_linear_dx: dx overlaps dy; it must be other memory");
    return 0;
}

int rondo_tp_linear_dx(rondo_tp *tp, const rondo_tp_outputs *outputs, const rondo_linear *linear, int64_t rows, const float *dy, int64_t dy_stride,
                       float *dx, int64_t dx_stride, int add)
{
    rondo_tp_outputs o;
    struct rondo__tp_case c = { .kind = RONDO_TP_LINEAR };
    struct rondo__tp_entry *e = NULL;
    int64_t first = 0, count = 0, own = 0;
    void *in = NULL, *out = NULL;
    if (!tp)
        return rondo__fail(RONDO_EINVAL, "rondo_tp_linear_dx: tp must not be NULL");
    const int32_t me = tp->ctx->rank;
    int err = rondo__collective_begin(tp->ctx, "nodes");
    if (!err)
        err = check_outputs(tp, &o, outputs);
    if (!err) {
        own = rondo__linear_leaf_begin(o.out, o.leaves, o.leaf_begin[me + 1]) - rondo__linear_leaf_begin(o.out, o.leaves, o.leaf_begin[me]);
        c = (struct rondo__tp_case){ .kind = RONDO_TP_LINEAR, .ranks = tp->ctx->ranks, .few = rows <= tp->desc.few, .add = add != 0,
                                     .leaves = o.leaves, .rows = rows, .width = o.in, .in = o.out, .begin = tp->lists };
        err = check_dx(tp, &o, linear, rows, dy, dy_stride, dx, dx_stride, &c, own);
    }
    if (!err && tp->ctx->ranks == 1)   /* nobody else's nodes */
        return rondo_linear_dx(linear, tp->ctx, rows, dy, dy_stride, o.leaves, dx, dx_stride, add);
    if (!err && rows)
        err = rondo__tp_entry(tp, &c, &e);
    if (err || !rows)
        return rondo__collective_failed(tp->ctx, err);
    struct rondo__staging s = { .ctx = tp->ctx };
    rondo__tp_kept(&c, me, &first, &count);
    err = rondo__stage(&s, RONDO_STAGE_READ, rondo__rows_of(own ? dy : NULL, rows, (size_t)dy_stride * sizeof *dy, (size_t)own * sizeof *dy), &in);
    if (!err)
        err = rondo__stage(&s, RONDO_STAGE_WRITE | (add ? RONDO_STAGE_READ : 0),
                           rondo__rows_of(count ? dx : NULL, count, (size_t)dx_stride * sizeof *dx, (size_t)o.in * sizeof *dx), &out);
    struct rondo__tp_call call = { .tp = tp, .entry = e, .linear = linear, .back = 1, .x = in, .x_stride = in == dy ? dy_stride : own, .y = out,
                                   .y_stride = out == dx ? dx_stride : o.in };
    if (!err)
        err = rondo__tp_run(&call);
    err = rondo__stage_end(&s, true, err);
    return rondo__collective_failed(tp->ctx, err);
}

/* ---- sums over tokens ---- */

/* y [rows][columns] = sum of a^T b, of rows that are kept; a NULL: of ones. */
struct sum {
    const char *function, *name;
    int64_t rows, columns;
    const float *a, *b;
    int64_t a_stride, b_stride;
    float *y;
    int64_t y_stride;
    int32_t product, add;
};

static int check_tokens(const rondo_tp *tp, const rondo_tokens *tokens, const struct sum *s, const struct rondo__tp_case *c)
{
    int64_t first, count;
    if (!tokens)
        return rondo__fail(RONDO_EINVAL, "%s: tokens must not be NULL; a rank without tokens says so by its spans", s->function);
    if (tokens->parts != tp->ctx->ranks || tokens->part != tp->ctx->rank)
        return rondo__fail(RONDO_EINVAL, "%s: the tokens are those of part %d of %d, and this is rank %d of %d; each rank has the part of its own number",
                           s->function, (int)tokens->part, (int)tokens->parts, (int)tp->ctx->rank, (int)tp->ctx->ranks);
    if (!RONDO_HAS(rondo__ops(tp->ctx), token_sum))
        return rondo__fail(RONDO_ENOTSUP, "%s: device \"%s\" does not compute sums over tokens; cpu does", s->function, rondo__ops(tp->ctx)->name);
    if (s->rows < 1 || s->rows > INT32_MAX || s->columns < 1 || s->columns > INT32_MAX)
        return rondo__fail(RONDO_EINVAL, "%s: a sum of %lld x %lld numbers cannot be; both must be 1 to %d", s->function, (long long)s->rows,
                           (long long)s->columns, INT32_MAX);
    if (tokens->rows && (!s->b || !rondo__linear_fits(tokens->rows, s->columns, s->b_stride)))
        return rondo__fail(RONDO_EINVAL, "%s: x must not be NULL, and its stride, %lld, at least %lld, and all of it addressable", s->function,
                           (long long)s->b_stride, (long long)s->columns);
    if (tokens->rows && s->product && (!s->a || !rondo__linear_fits(tokens->rows, s->rows, s->a_stride)))
        return rondo__fail(RONDO_EINVAL, "%s: dy must not be NULL, and its stride, %lld, at least %lld, and all of it addressable", s->function,
                           (long long)s->a_stride, (long long)s->rows);
    rondo__tp_kept(c, tp->ctx->rank, &first, &count);
    if (!count)
        return 0;
    if (!s->y || !rondo__linear_fits(count, s->columns, s->y_stride))
        return rondo__fail(RONDO_EINVAL, "%s: %s must not be NULL, and its stride, %lld, at least %lld, and all of it addressable", s->function, s->name,
                           (long long)s->y_stride, (long long)s->columns);
    if (tokens->rows && (!rondo__linear_apart(s->b, s->b_stride, s->columns, tokens->rows, s->y, s->y_stride, s->columns, count) ||
                         (s->product && !rondo__linear_apart(s->a, s->a_stride, s->rows, tokens->rows, s->y, s->y_stride, s->columns, count))))
        return rondo__fail(RONDO_EINVAL, "%s: %s overlaps what it is made of; it must be other memory", s->function, s->name);
    return 0;
}

/* Where the device has them; from then on of its rows that are kept. */
static int stage(struct rondo__staging *at, const struct sum *s, int64_t rows, int64_t count, struct rondo__tp_call *call)
{
    const size_t a_row = (size_t)s->rows * sizeof *s->a, b_row = (size_t)s->columns * sizeof *s->b;
    void *a = NULL, *b = NULL, *y = NULL;
    int err = rondo__stage(at, RONDO_STAGE_READ, rondo__rows_of(rows && s->product ? s->a : NULL, rows, (size_t)s->a_stride * sizeof *s->a, a_row), &a);
    if (!err)
        err = rondo__stage(at, RONDO_STAGE_READ, rondo__rows_of(rows ? s->b : NULL, rows, (size_t)s->b_stride * sizeof *s->b, b_row), &b);
    if (!err)
        err = rondo__stage(at, RONDO_STAGE_WRITE | (s->add ? RONDO_STAGE_READ : 0),
                           rondo__rows_of(count ? s->y : NULL, count, (size_t)s->y_stride * sizeof *s->y, b_row), &y);
    call->bias = a;
    call->bias_stride = a == s->a ? s->a_stride : s->rows;
    call->x = b;
    call->x_stride = b == s->b ? s->b_stride : s->columns;
    call->y = y;
    call->y_stride = y == s->y ? s->y_stride : s->columns;
    return err;
}

static int sum_tokens(rondo_tp *tp, const rondo_tokens *tokens, const struct sum *s)
{
    struct rondo__tp_case c = { .kind = RONDO_TP_TOKENS, .ranks = tp->ctx->ranks, .few = s->rows <= tp->desc.few, .add = s->add, .bias = s->product,
                                .rows = s->rows, .width = s->columns, .tokens = tokens, .order = tokens ? tokens->hash : 0 };
    struct rondo__tp_entry *e = NULL;
    int64_t first, count;
    int err = rondo__collective_begin(tp->ctx, "nodes");
    if (!err)
        err = check_tokens(tp, tokens, s, &c);
    if (!err)
        err = rondo__ops(tp->ctx)->check(rondo__dev(tp->ctx));
    if (!err && tokens->node_count)
        err = rondo__tp_entry(tp, &c, &e);
    if (err)
        return rondo__collective_failed(tp->ctx, err);
    struct rondo__staging at = { .ctx = tp->ctx };
    struct rondo__tp_call call = { .tp = tp, .entry = e, .tokens = tokens };
    rondo__tp_kept(&c, tp->ctx->rank, &first, &count);
    err = stage(&at, s, tokens->rows, count, &call);
    if (!err && e) {
        err = rondo__tp_run(&call);
    } else if (!err && count) {   /* no rank has any */
        struct rondo_token_run none = rondo__tokens_run(tokens, 0, 0);
        none.rows = count;
        none.columns = s->columns;
        none.y = call.y;
        none.y_stride = call.y_stride;
        none.add = s->add;
        err = rondo__ops(tp->ctx)->token_sum(rondo__dev(tp->ctx), NULL, &none, NULL);
    }
    return rondo__collective_failed(tp->ctx, rondo__stage_end(&at, true, err));
}

int rondo_tp_linear_dw(rondo_tp *tp, const rondo_tokens *tokens, int64_t out, const float *dy, int64_t dy_stride, int64_t in, const float *x,
                       int64_t x_stride, float *dw, int64_t dw_stride, int add)
{
    if (!tp)
        return rondo__fail(RONDO_EINVAL, "rondo_tp_linear_dw: tp must not be NULL");
    if (tp->ctx->ranks == 1)
        return rondo_linear_dw(tp->ctx, tokens, out, dy, dy_stride, in, x, x_stride, dw, dw_stride, add);
    return sum_tokens(tp, tokens, &(struct sum){ "rondo_tp_linear_dw", "dw", out, in, dy, x, dy_stride, x_stride, dw, dw_stride, 1, add != 0 });
}

int rondo_tp_token_sum(rondo_tp *tp, const rondo_tokens *tokens, int64_t dim, const float *x, int64_t x_stride, float *sum, int add)
{
    if (!tp)
        return rondo__fail(RONDO_EINVAL, "rondo_tp_token_sum: tp must not be NULL");
    if (tp->ctx->ranks == 1)
        return rondo_token_sum(tp->ctx, tokens, dim, x, x_stride, sum, add);
    return sum_tokens(tp, tokens, &(struct sum){ "rondo_tp_token_sum", "sum", 1, dim, NULL, x, 0, x_stride, sum, dim, 0, add != 0 });
}
