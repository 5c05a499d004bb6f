/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Gradients of layers for users, of one rank: checks every argument, then the device's slots do the work (rule 12 of rondo-numerics(7)).
 * What ranks share is in tp_gradients.c and tp_table.c.
 */
#include "tensor/linear.h"
#include "tensor/tokens.h"

/* What every call does last but for staging: the mode, the time, the work. */
struct timed {
    rondo_context *ctx;
    const char *name;
    double begin;
};

static int begin_timed(struct timed *t, rondo_context *ctx, const char *name)
{
    *t = (struct timed){ ctx, name, ctx->trace ? rondo__now() : 0.0 };
    const int err = rondo__ops(ctx)->check(rondo__dev(ctx));
    if (!err)
        rondo__computing(ctx, true);
    return err;
}

static int end_timed(const struct timed *t, int err)
{
    rondo__computing(t->ctx, false);
    if (t->ctx->trace)
        rondo__trace(t->ctx, t->name, t->begin, -1, 0);
    return err;
}

/* ---- dx ---- */

int rondo_linear_dx(const rondo_linear *linear, rondo_context *ctx, int64_t rows, const float *dy, int64_t dy_stride, int32_t leaves, float *dx,
                    int64_t dx_stride, int add)
{
    struct timed t;
    if (!linear || !ctx)
        return rondo__fail(RONDO_EINVAL, "rondo_linear_dx: linear and ctx must not be NULL");
    const int64_t out = rondo__linear_desc(linear)->out, in = rondo__linear_columns(linear);
    int err = rondo__linear_usable(linear, ctx, "rondo_linear_dx");
    if (err)
        return err;
    if (rows < 0)
        return rondo__fail(RONDO_EINVAL, "rondo_linear_dx: rows is %lld; it must not be negative", (long long)rows);
    if (leaves < 0 || leaves > out)
        return rondo__fail(RONDO_EINVAL, "rondo_linear_dx: leaves is %d; it must be 1 to out, %lld, or 0 for the default", (int)leaves, (long long)out);
    if (rows == 0 || in == 0)
        return 0;
    if (!dy || !dx)
        return rondo__fail(RONDO_EINVAL, "rondo_linear_dx: dy and dx must not be NULL");
    if (!rondo__linear_fits(rows, out, dy_stride))
        return rondo__fail(RONDO_EINVAL, "rondo_linear_dx: dy_stride is %lld for %lld rows; it must be at least out, %lld, and all of dy addressable",
                           (long long)dy_stride, (long long)rows, (long long)out);
    if (!rondo__linear_fits(rows, in, dx_stride))
        return rondo__fail(RONDO_EINVAL, "rondo_linear_dx: dx_stride is %lld for %lld rows; it must be at least in, %lld, and all of dx addressable",
                           (long long)dx_stride, (long long)rows, (long long)in);
    if (!rondo__linear_apart(dy, dy_stride, out, rows, dx, dx_stride, in, rows))
        return rondo__fail(RONDO_EINVAL, "rondo_linear_dx: dx overlaps dy; it must be other memory");
    err = begin_timed(&t, ctx, "linear dx");
    if (err)
        return err;
    struct rondo__staging s = { .ctx = ctx };
    struct rondo_linear_dx_run run = { .rows = rows, .outputs = out, .total = leaves ? leaves : rondo__linear_leaves(out), .add = add != 0 };
    void *from = NULL, *to = NULL;
    run.leaves = run.total;
    err = rondo__stage(&s, RONDO_STAGE_READ, rondo__rows_of(dy, rows, (size_t)dy_stride * sizeof *dy, (size_t)out * sizeof *dy), &from);
    if (!err)
        err = rondo__stage(&s, RONDO_STAGE_WRITE | (add ? RONDO_STAGE_READ : 0),
                           rondo__rows_of(dx, rows, (size_t)dx_stride * sizeof *dx, (size_t)in * sizeof *dx), &to);
    run.dy = from;
    run.dx = to;
    run.dy_stride = from == dy ? dy_stride : out;
    run.dx_stride = to == dx ? dx_stride : in;
    if (!err)
        err = rondo__linear_run_dx(linear, ctx, NULL, &run, &(struct rondo_poll){ rondo__poll, ctx, NULL });
    return end_timed(&t, rondo__stage_end(&s, true, err));
}

/* ---- sums over tokens ---- */

/* An array of tokens' rows, by name. */
static int check_rows(const char *function, const char *name, const rondo_tokens *tokens, int64_t columns, const float *data, int64_t stride)
{
    if (!tokens->rows)
        return 0;
    if (!data)
        return rondo__fail(RONDO_EINVAL, "%s: %s must not be NULL", function, name);
    if (!rondo__linear_fits(tokens->rows, columns, stride))
        return rondo__fail(RONDO_EINVAL, "%s: the stride of %s is %lld for %lld rows; it must be at least %lld, and all of it addressable", function, name,
                           (long long)stride, (long long)tokens->rows, (long long)columns);
    return 0;
}

/* A result [rows][columns] that shares nothing with x [tokens][width]. */
static int check_sum(const char *function, const char *name, int64_t rows, int64_t columns, const float *y, int64_t stride, const rondo_tokens *tokens,
                     int64_t width, const float *x, int64_t x_stride)
{
    if (!y)
        return rondo__fail(RONDO_EINVAL, "%s: %s must not be NULL", function, name);
    if (!rondo__linear_fits(rows, columns, stride))
        return rondo__fail(RONDO_EINVAL, "%s: the stride of %s is %lld for %lld rows; it must be at least %lld, and all of it addressable", function, name,
                           (long long)stride, (long long)rows, (long long)columns);
    if (tokens->rows && !rondo__linear_apart(x, x_stride, width, tokens->rows, y, stride, columns, rows))
        return rondo__fail(RONDO_EINVAL, "%s: %s overlaps what it is made of; it must be other memory", function, name);
    return 0;
}

static int check_tokens(const char *function, const rondo_context *ctx, const rondo_tokens *tokens)
{
    if (!ctx || !tokens)
        return rondo__fail(RONDO_EINVAL, "%s: ctx and tokens must not be NULL", function);
    if (tokens->parts > 1)
        return rondo__fail(RONDO_EINVAL, "%s: the tokens are those of part %d of %d; alone only all tokens are a sum", function, (int)tokens->part,
                           (int)tokens->parts);
    if (!RONDO_HAS(rondo__ops(ctx), token_sum))
        return rondo__fail(RONDO_ENOTSUP, "%s: device \"%s\" does not compute sums over tokens; cpu does", function, rondo__ops(ctx)->name);
    return 0;
}

/* y [rows][columns], with a or without. */
static int run_sum(rondo_context *ctx, const char *name, struct rondo_token_run *run)
{
    struct timed t;
    int err = begin_timed(&t, ctx, name);
    if (err)
        return err;
    struct rondo__staging s = { .ctx = ctx };
    const size_t a_row = (size_t)run->rows * sizeof *run->a, b_row = (size_t)run->columns * sizeof *run->b;
    const struct rondo_token_run user = *run;
    const bool some = run->tokens > 0;
    void *a = NULL, *b = NULL, *y = NULL;
    err = rondo__stage(&s, RONDO_STAGE_READ, rondo__rows_of(some ? user.a : NULL, user.tokens, (size_t)user.a_stride * sizeof *user.a, a_row), &a);
    if (!err)
        err = rondo__stage(&s, RONDO_STAGE_READ, rondo__rows_of(some ? user.b : NULL, user.tokens, (size_t)user.b_stride * sizeof *user.b, b_row), &b);
    if (!err)
        err = rondo__stage(&s, RONDO_STAGE_WRITE | (user.add ? RONDO_STAGE_READ : 0),
                           rondo__rows_of(user.y, user.rows, (size_t)user.y_stride * sizeof *user.y, b_row), &y);
    run->a_stride = a == user.a ? user.a_stride : user.rows;
    run->b_stride = b == user.b ? user.b_stride : user.columns;
    run->y_stride = y == user.y ? user.y_stride : user.columns;
    run->a = a;
    run->b = b;
    run->y = y;
    if (!err)
        err = rondo__ops(ctx)->token_sum(rondo__dev(ctx), NULL, run, &(struct rondo_poll){ rondo__poll, ctx, NULL });
    return end_timed(&t, rondo__stage_end(&s, true, err));
}

int rondo_linear_dw(rondo_context *ctx, const rondo_tokens *tokens, int64_t out, const float *dy, int64_t dy_stride, int64_t in, const float *x,
                    int64_t x_stride, float *dw, int64_t dw_stride, int add)
{
    int err = check_tokens("rondo_linear_dw", ctx, tokens);
    if (err)
        return err;
    if (out < 1 || out > INT32_MAX || in < 1 || in > INT32_MAX)
        return rondo__fail(RONDO_EINVAL, "rondo_linear_dw: out is %lld and in %lld; they must be 1 to %d", (long long)out, (long long)in, INT32_MAX);
    err = check_rows("rondo_linear_dw", "dy", tokens, out, dy, dy_stride);
    if (!err)
        err = check_rows("rondo_linear_dw", "x", tokens, in, x, x_stride);
    if (!err)
        err = check_sum("rondo_linear_dw", "dw", out, in, dw, dw_stride, tokens, out, dy, dy_stride);
    if (!err)
        err = check_sum("rondo_linear_dw", "dw", out, in, dw, dw_stride, tokens, in, x, x_stride);
    if (err)
        return err;
    struct rondo_token_run run = rondo__tokens_run(tokens, 0, tokens->leaf_count);
    run.rows = out;
    run.columns = in;
    run.a = dy;
    run.b = x;
    run.a_stride = dy_stride;
    run.b_stride = x_stride;
    run.y = dw;
    run.y_stride = dw_stride;
    run.add = add != 0;
    return run_sum(ctx, "linear dw", &run);
}

int rondo_token_sum(rondo_context *ctx, const rondo_tokens *tokens, int64_t dim, const float *x, int64_t x_stride, float *sum, int add)
{
    int err = check_tokens("rondo_token_sum", ctx, tokens);
    if (err)
        return err;
    if (dim < 1 || dim > INT32_MAX)
        return rondo__fail(RONDO_EINVAL, "rondo_token_sum: dim is %lld; it must be 1 to %d", (long long)dim, INT32_MAX);
    err = check_rows("rondo_token_sum", "x", tokens, dim, x, x_stride);
    if (!err)
        err = check_sum("rondo_token_sum", "sum", 1, dim, sum, dim, tokens, dim, x, x_stride);
    if (err)
        return err;
    const struct rondo_token_segment all = { 0, tokens->leaf_count, 0 };
    struct rondo_token_run run = rondo__tokens_run(tokens, 0, tokens->leaf_count);
    run.segments = &all;
    run.segment_count = 1;
    run.rows = 1;
    run.columns = dim;
    run.b = x;
    run.b_stride = x_stride;
    run.y = sum;
    run.y_stride = dim;
    run.add = add != 0;
    return run_sum(ctx, "token sum", &run);
}

/* ---- rows of a table ---- */

int rondo_lookup_dw(rondo_context *ctx, const rondo_tokens *tokens, const int32_t *ids, int64_t total, int64_t first, int64_t count, int64_t width,
                    const float *dy, int64_t dy_stride, float *dw, int64_t dw_stride, int add)
{
    struct rondo__table_sum sum;
    int64_t named_count = 0;
    int err = check_tokens("rondo_lookup_dw", ctx, tokens);
    if (err)
        return err;
    if (total < 1 || total > INT32_MAX || width < 1 || width > INT32_MAX || first < 0 || count < 0 || first > total - count)
        return rondo__fail(RONDO_EINVAL, "rondo_lookup_dw: rows %lld to %lld of a table of %lld rows of %lld numbers cannot be; a table has 1 to %d of "
                                         "both", (long long)first, (long long)first + (long long)count - 1, (long long)total, (long long)width, INT32_MAX);
    if (tokens->rows && !ids)
        return rondo__fail(RONDO_EINVAL, "rondo_lookup_dw: ids must not be NULL");
    err = rondo__table_ids("rondo_lookup_dw", tokens, ids, total);
    if (!err)
        err = check_rows("rondo_lookup_dw", "dy", tokens, width, dy, dy_stride);
    if (!err && count)
        err = check_sum("rondo_lookup_dw", "dw", count, width, dw, dw_stride, tokens, width, dy, dy_stride);
    if (err || !count)
        return err;
    const int64_t steps = tokens->leaves[tokens->leaf_count].first;
    struct rondo__named *named = rondo__alloc_zero((size_t)steps, sizeof *named);
    if (!named)
        return rondo__fail(RONDO_ENOMEM, "rondo_lookup_dw: no memory for the order of %lld tokens", (long long)steps);
    for (int64_t g = 0; g < tokens->leaf_count; g++)
        for (int64_t i = tokens->leaves[g].first; i < tokens->leaves[g + 1].first; i++) {
            const int64_t row = tokens->order[i], name = ids[row] - first;
            if (name >= 0 && name < count)
                named[named_count++] = (struct rondo__named){ name, i, row, g };
        }
    err = rondo__table_sum_make(&sum, tokens, named, named_count, count, !add);
    rondo__free(named);
    if (!err && sum.segment_count) {
        struct rondo_token_run run = rondo__table_sum_run(&sum);
        run.tokens = tokens->rows;
        run.rows = count;
        run.columns = width;
        run.b = dy;
        run.b_stride = dy_stride;
        run.y = dw;
        run.y_stride = dw_stride;
        run.add = add != 0;
        err = run_sum(ctx, "lookup dw", &run);
    }
    rondo__table_sum_free(&sum);
    return err;
}
