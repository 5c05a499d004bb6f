/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Cross-entropy over classes for users: a row's loss, its gradient, and the sum of losses over tokens (rule 12 of rondo-numerics(7)). Arguments are
 * checked here, also those of ranks that share classes (tp_entropy.c); the device's slot does the work. A row's losses and labels are the host's,
 * as sums over tokens are made of them here.
 */
#include "tensor/entropy.h"
#include "tensor/linear.h"
#include "tensor/tokens.h"

/* ---- arguments ---- */

/* Two arrays of floats, one of which is written. */
static bool apart(const struct rondo__floats *a, const struct rondo__floats *b)
{
    return !a->data || !b->data || !a->rows || !b->rows || !a->columns || !b->columns ||
           rondo__linear_apart(a->data, a->stride, a->columns, a->rows, b->data, b->stride, b->columns, b->rows);
}

static int check_labels(const char *function, const rondo_context *ctx, const rondo_cross_entropy_io *io)
{
    const struct rondo_device_ops *ops = rondo__ops(ctx);
    if (!io->labels)
        return rondo__fail(RONDO_EINVAL, "%s: labels must not be NULL", function);
    if (!ops->unified && (ops->memory_kind(rondo__dev(ctx), io->labels) == RONDO_MEMORY_DEVICE ||
                          (io->loss && ops->memory_kind(rondo__dev(ctx), io->loss) == RONDO_MEMORY_DEVICE)))
        return rondo__fail(RONDO_EINVAL, "%s: labels or loss lie in the device's memory; both are the host's", function);
    for (int64_t row = 0; row < io->rows; row++)
        if (io->labels[row] != io->ignore && (io->labels[row] < 0 || io->labels[row] >= io->classes))
            return rondo__fail(RONDO_EINVAL, "%s: labels[%lld] is %d; classes are 0 to %lld, and rows with the label %d count for nothing", function,
                               (long long)row, (int)io->labels[row], (long long)io->classes - 1, (int)io->ignore);
    return 0;
}

int rondo__entropy_desc(const char *function, rondo_cross_entropy_io *ours, const rondo_cross_entropy_io *given)
{
    *ours = (rondo_cross_entropy_io)RONDO_CROSS_ENTROPY_IO_INIT;
    if (!given)
        return rondo__fail(RONDO_EINVAL, "%s: io must not be NULL", function);
    int err = rondo__desc_copy(ours, sizeof *ours, given, "rondo_cross_entropy_io");
    if (!err)
        err = rondo__reserved(ours->reserved, function);
    if (err)
        return err;
    if (ours->rows < 0 || ours->classes < 1 || ours->classes > INT32_MAX)
        return rondo__fail(RONDO_EINVAL, "%s: %lld rows of %lld classes cannot be; rows are not negative, and there are 1 to %d classes", function,
                           (long long)ours->rows, (long long)ours->classes, INT32_MAX);
    if (ours->leaves < 0 || ours->leaves > ours->classes)
        return rondo__fail(RONDO_EINVAL, "%s: leaves is %d; it must be 1 to classes, %lld, or 0 for the default", function, (int)ours->leaves,
                           (long long)ours->classes);
    ours->leaves = ours->leaves ? ours->leaves : rondo__linear_leaves(ours->classes);
    return 0;
}

int rondo__entropy_check(const char *function, const rondo_context *ctx, const rondo_cross_entropy_io *io, int64_t own)
{
    if (!RONDO_HAS(rondo__ops(ctx), cross_entropy))
        return rondo__fail(RONDO_ENOTSUP, "%s: device \"%s\" does not compute cross-entropy; cpu does", function, rondo__ops(ctx)->name);
    if (!io->rows)
        return 0;
    const struct rondo__floats x = { io->logits, io->rows, own, io->stride }, dx = { io->dx, io->rows, own, io->dx_stride };
    const struct rondo__floats loss = { (const float *)(const void *)io->loss, 1, 2 * io->rows, 2 * io->rows };
    const struct rondo__floats dloss = { io->dloss, io->dloss_stride ? io->rows : 1, 1, io->dloss_stride };
    int err = check_labels(function, ctx, io);
    if (err)
        return err;
    if (own && (!io->logits || !rondo__linear_fits(io->rows, own, io->stride)))
        return rondo__fail(RONDO_EINVAL, "%s: logits must not be NULL, and their stride, %lld, at least %lld, and all of them addressable", function,
                           (long long)io->stride, (long long)own);
    if (io->dx && own && !rondo__linear_fits(io->rows, own, io->dx_stride))
        return rondo__fail(RONDO_EINVAL, "%s: dx_stride is %lld for %lld rows; it must be at least %lld, and all of dx addressable", function,
                           (long long)io->dx_stride, (long long)io->rows, (long long)own);
    if (io->dloss && (io->dloss_stride < 0 || !rondo__linear_fits(dloss.rows, 1, io->dloss_stride ? io->dloss_stride : 1)))
        return rondo__fail(RONDO_EINVAL, "%s: dloss_stride is %lld; it must be 0, for one number, or more, and all of dloss addressable", function,
                           (long long)io->dloss_stride);
    if (!apart(&x, &dx) && (io->dx != io->logits || io->dx_stride != io->stride || io->add))
        return rondo__fail(RONDO_EINVAL, "%s: dx overlaps logits; it must be other memory, or be logits and written, not added to", function);
    if (!apart(&loss, &x) || !apart(&loss, &dx) || !apart(&loss, &dloss) || !apart(&dloss, &dx))
        return rondo__fail(RONDO_EINVAL, "%s: loss or dx overlaps what it is made of; each must be memory of its own", function);
    return 0;
}

/* ---- one rank ---- */

int rondo__entropy_stage(struct rondo__staging *s, const rondo_cross_entropy_io *io, int64_t own, struct rondo_entropy_run *run)
{
    const size_t row = (size_t)own * sizeof(float), labels = (size_t)io->rows * sizeof *io->labels, loss = (size_t)io->rows * sizeof *io->loss;
    void *x = NULL, *names = NULL, *put = NULL, *by = NULL, *dx = NULL;
    int err = rondo__stage(s, RONDO_STAGE_READ, rondo__rows_of(own ? io->logits : NULL, io->rows, (size_t)io->stride * sizeof(float), row), &x);
    if (!err)
        err = rondo__stage(s, RONDO_STAGE_READ, rondo__rows_of(io->labels, 1, labels, labels), &names);
    if (!err)
        err = rondo__stage(s, RONDO_STAGE_READ, rondo__rows_of(io->dx ? io->dloss : NULL, io->dloss_stride ? io->rows : 1,
                                                               (size_t)io->dloss_stride * sizeof(float), sizeof(float)), &by);
    if (!err)
        err = rondo__stage(s, RONDO_STAGE_WRITE, rondo__rows_of(io->loss, 1, loss, loss), &put);
    if (!err)
        err = rondo__stage(s, RONDO_STAGE_WRITE | (io->add ? RONDO_STAGE_READ : 0),
                           rondo__rows_of(own ? io->dx : NULL, io->rows, (size_t)io->dx_stride * sizeof(float), row), &dx);
    *run = (struct rondo_entropy_run){ .rows = io->rows, .classes = io->classes, .leaves = io->leaves, .own_leaves = io->leaves, .ignore = io->ignore,
                                       .x = x, .x_stride = x == io->logits ? io->stride : own, .labels = names, .add = io->add != 0, .loss = put,
                                       .dloss = by, .dloss_stride = by == io->dloss || !io->dloss_stride ? io->dloss_stride : 1, .dx = dx,
                                       .dx_stride = dx == io->dx ? io->dx_stride : own };
    return err;
}

int rondo_cross_entropy(rondo_context *ctx, const rondo_cross_entropy_io *io)
{
    rondo_cross_entropy_io ours;
    struct rondo_entropy_run run;
    if (!ctx)
        return rondo__fail(RONDO_EINVAL, "rondo_cross_entropy: ctx must not be NULL");
    int err = rondo__entropy_desc("rondo_cross_entropy", &ours, io);
    if (!err && !ours.loss && !ours.dx)
        err = rondo__fail(RONDO_EINVAL, "rondo_cross_entropy: loss and dx are NULL; one of them must be wanted");
    if (!err)
        err = rondo__entropy_check("rondo_cross_entropy", ctx, &ours, ours.classes);
    if (!err)
        err = rondo__ops(ctx)->check(rondo__dev(ctx));
    if (err || !ours.rows)
        return err;
    const double begin = ctx->trace ? rondo__now() : 0.0;
    struct rondo__staging s = { .ctx = ctx };
    rondo__computing(ctx, true);
    err = rondo__entropy_stage(&s, &ours, ours.classes, &run);
    if (!err)
        err = rondo__ops(ctx)->cross_entropy(rondo__dev(ctx), NULL, &run, &(struct rondo_poll){ rondo__poll, ctx, NULL });
    err = rondo__stage_end(&s, true, err);
    rondo__computing(ctx, false);
    if (ctx->trace)
        rondo__trace(ctx, "cross-entropy", begin, -1, 0);
    return err;
}

/* ---- sums over tokens ---- */

double rondo__loss_node(const rondo_tokens *tokens, int64_t leaf, int64_t leaves, const double *loss)
{
    double stack[RONDO_LINEAR_DEPTH];
    int n = 0;
    for (int64_t g = leaf; g < leaf + leaves; g++) {
        double acc = 0.0;
        for (int64_t i = tokens->leaves[g].first; i < tokens->leaves[g + 1].first; i++)
            acc = loss[tokens->order[i]] + acc;
        stack[n++] = acc;
        for (int32_t m = g + 1 < leaf + leaves ? tokens->leaves[g].merges : n - 1; m > 0; m--, n--)
            stack[n - 2] = stack[n - 2] + stack[n - 1];
    }
    return n ? stack[0] : 0.0;
}

int64_t rondo__loss_count(const rondo_tokens *tokens, const int32_t *labels, int32_t ignore)
{
    int64_t count = 0;
    for (int64_t i = 0; i < tokens->leaves[tokens->leaf_count].first; i++)
        count += labels[tokens->order[i]] != ignore;
    return count;
}

int rondo__loss_check(const char *function, const rondo_tokens *tokens, const double *loss, const int32_t *labels, const double *sum,
                      const int64_t *count)
{
    if (!tokens || !sum || !count)
        return rondo__fail(RONDO_EINVAL, "%s: tokens, sum and count must not be NULL", function);
    if (tokens->rows && (!loss || !labels))
        return rondo__fail(RONDO_EINVAL, "%s: loss and labels must not be NULL", function);
    return 0;
}

int rondo_token_loss(const rondo_tokens *tokens, const double *loss, const int32_t *labels, int32_t ignore, double *sum, int64_t *count)
{
    int err = rondo__loss_check("rondo_token_loss", tokens, loss, labels, sum, count);
    if (err)
        return err;
    if (tokens->parts > 1)
        return rondo__fail(RONDO_EINVAL, "rondo_token_loss: the tokens are those of part %d of %d; alone only all tokens are a sum", (int)tokens->part,
                           (int)tokens->parts);
    *sum = rondo__loss_node(tokens, 0, tokens->leaf_count, loss);
    *sum = *sum != *sum ? rondo__nan64() : *sum;
    *count = rondo__loss_count(tokens, labels, ignore);
    return 0;
}
