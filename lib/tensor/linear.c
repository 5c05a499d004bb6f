/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Linear layers for users: checks every argument, then the device's slots do the work. The sum over the
 * inputs is cut into leaves (contract C8), so that ranks that hold some of them each add up to the same bits
 * (tp.c); the weights are packed once.
 */
#include "tensor/linear.h"

#include <stdatomic.h>

struct rondo_linear {
    const struct rondo_device_ops *ops;
    struct rondo_shared_device *device;   /* where the weights are: it stays as long as they do */
    struct rondo_device_linear *packed;
    rondo_linear_desc desc;           /* defaults filled in; leaf_begin is ours */
    int64_t columns;                  /* inputs that it has */
    int32_t *leaf_begin;
    _Atomic unsigned char *loaded;    /* one bit for each row of W that has come; threads of host_run() load several at once */
    _Atomic int64_t missing;          /* rows that have not; of a part without inputs none do */
};

static const struct rondo_device_ops *device_of(const rondo_context *ctx, const char *function)
{
    const struct rondo_device_ops *ops = rondo__ops(ctx);
    if (RONDO_HAS(ops, linear_new) && RONDO_HAS(ops, linear_load) && RONDO_HAS(ops, linear_free) &&
        RONDO_HAS(ops, linear_bytes) && RONDO_HAS(ops, linear))
        return ops;
    (void)rondo__fail(RONDO_ENOTSUP, "%s: device \"%s\" has no linear layers; cpu has", function, ops->name);
    return NULL;
}

/* The numbers have names. Which levels can be had is the device's to say; further arithmetics are of attention alone, so far. */
static int check_numerics(const struct rondo_device_ops *ops, const rondo_linear_desc *d)
{
    if (!rondo_arithmetic_name(d->arithmetic))
        return rondo__fail(RONDO_EINVAL, "rondo_linear_create: %d is no arithmetic; f32 is 0", (int)d->arithmetic);
    if (!rondo_level_name(d->level))
        return rondo__fail(RONDO_EINVAL, "rondo_linear_create: %d is no level; strict is 0", (int)d->level);
    if (d->arithmetic != RONDO_ARITHMETIC_F32)
        return rondo__fail(RONDO_ENOTSUP, "rondo_linear_create: linear layers are computed in arithmetic f32, which is 0, not in %s",
                           rondo_arithmetic_name(d->arithmetic));
    if (!(ops->levels >> d->level & 1u))
        return rondo__fail(RONDO_ENOTSUP, "rondo_linear_create: device \"%s\" does not compute at level %s; strict is 0", ops->name,
                           rondo_level_name(d->level));
    return 0;
}

/* The leaves of a part. Beyond int32_t no list of them can be. */
static int check_part(const rondo_linear_desc *d)
{
    if (d->parts < 0 || d->part < 0 || d->part >= (d->parts > 1 ? d->parts : 1))
        return rondo__fail(RONDO_EINVAL, "rondo_linear_create: part %d of %d parts cannot be; parts count from 0, and a whole layer is part 0",
                           (int)d->part, (int)d->parts);
    if (!d->leaf_begin && d->parts > 1)
        return rondo__fail(RONDO_EINVAL, "rondo_linear_create: leaf_begin is NULL; with %d parts it lists where each one's leaves begin",
                           (int)d->parts);
    if (!d->leaf_begin)
        return 0;
    if (!d->parts || d->parts == INT32_MAX)
        return rondo__fail(RONDO_EINVAL, "rondo_linear_create: leaf_begin is given and parts is %d; it must say how many parts are listed",
                           (int)d->parts);
    if (!d->leaves)
        return rondo__fail(RONDO_EINVAL, "rondo_linear_create: leaves is 0; a part needs the number of leaves of the whole sum");
    for (int32_t p = 0; p <= d->parts; p++) {
        const int32_t least = p ? d->leaf_begin[p - 1] : 0, most = p ? d->leaves : 0;
        if (d->leaf_begin[p] < least || d->leaf_begin[p] > most || (p == d->parts && d->leaf_begin[p] != d->leaves))
            return rondo__fail(RONDO_EINVAL, "rondo_linear_create: leaf_begin[%d] is %d; the list must ascend from 0 to leaves, %d", (int)p,
                               (int)d->leaf_begin[p], (int)d->leaves);
    }
    return 0;
}

/* Weights come in pairs, which share a scale: an odd group would cut one, unless the leaf ends with it. */
static int check_group(rondo_linear_desc *d)
{
    if (d->type != RONDO_Q8 && d->group)
        return rondo__fail(RONDO_EINVAL, "rondo_linear_create: group is %d with weights that have no scales; leave it 0 or choose RONDO_Q8",
                           (int)d->group);
    if (d->type != RONDO_Q8)
        return 0;
    if (d->group == 0)
        d->group = RONDO_LINEAR_GROUP;
    if (d->group < 1 || (d->group % 2 && d->group < (d->in + d->leaves - 1) / d->leaves))
        return rondo__fail(RONDO_EINVAL, "rondo_linear_create: group is %d; it must be even, or as long as a leaf (%lld inputs) at least",
                           (int)d->group, (long long)((d->in + d->leaves - 1) / d->leaves));
    return 0;
}

/* Whether the context's device computes with these weights: its own, or those of one that packs alike. */
static bool takes(const rondo_linear *l, const rondo_context *ctx)
{
    if (ctx->device == l->device)
        return true;
    if (!RONDO_HAS(l->ops, linear_format))
        return false;
    const uint64_t format = l->ops->linear_format(l->device->dev);
    return format != 0 && l->ops->linear_format(rondo__dev(ctx)) == format;
}

int rondo_linear_create(rondo_linear **out, rondo_context *ctx, const rondo_linear_desc *desc)
{
    rondo_linear_desc d = RONDO_LINEAR_DESC_INIT;
    const struct rondo_device_ops *ops;
    rondo_linear *l;
    int err;

    if (out)
        *out = NULL;
    if (!out || !ctx || !desc)
        return rondo__fail(RONDO_EINVAL, "rondo_linear_create: out, ctx and desc must not be NULL");
    err = rondo__desc_copy(&d, sizeof d, desc, "rondo_linear_desc");
    if (!err)
        err = rondo__reserved(d.reserved, "rondo_linear_create");
    if (err)
        return err;
    ops = device_of(ctx, "rondo_linear_create");
    if (!ops)
        return RONDO_ENOTSUP;
    if (d.in < 1 || d.in > INT32_MAX)
        return rondo__fail(RONDO_EINVAL, "rondo_linear_create: in is %lld; it must be 1 to %d",
                           (long long)d.in, INT32_MAX);
    if (d.out < 1 || d.out > INT32_MAX)
        return rondo__fail(RONDO_EINVAL, "rondo_linear_create: out is %lld; it must be 1 to %d",
                           (long long)d.out, INT32_MAX);
    if (d.type == RONDO_TYPE_DEFAULT)
        d.type = RONDO_F32;
    if (!rondo_type_size(d.type))
        return rondo__fail(RONDO_EINVAL,
                           "rondo_linear_create: type is %d; RONDO_F32, RONDO_BF16, RONDO_F16 and RONDO_Q8 are known",
                           (int)d.type);
    err = check_part(&d);
    if (err)
        return err;
    if (d.leaves == 0)
        d.leaves = rondo__linear_leaves(d.in);
    if (d.leaves < 1 || d.leaves > d.in)
        return rondo__fail(RONDO_EINVAL,
                           "rondo_linear_create: leaves is %d; it must be 1 to in, %lld, or 0 for the "
                           "default",
                           (int)d.leaves, (long long)d.in);
    err = check_group(&d);
    if (!err)
        err = check_numerics(ops, &d);
    if (err)
        return err;
    l = rondo__alloc_zero(1, sizeof *l);
    if (!l || !(l->loaded = rondo__alloc_zero((size_t)d.out / 8 + 1, 1))) {
        err = rondo__fail(RONDO_ENOMEM, "rondo_linear_create: no memory for a linear layer of %lld outputs",
                          (long long)d.out);
        goto fail;
    }
    l->ops = ops;
    l->device = rondo__device_keep(ctx->device);
    l->desc = d;
    if (d.leaf_begin) {
        const size_t bytes = ((size_t)d.parts + 1) * sizeof *l->leaf_begin;
        l->desc.leaf_begin = l->leaf_begin = rondo__alloc(bytes);
        if (!l->leaf_begin) {
            err = rondo__fail(RONDO_ENOMEM, "rondo_linear_create: no memory for the list of %d parts", (int)d.parts);
            goto fail;
        }
        memcpy(l->leaf_begin, d.leaf_begin, bytes);
    }
    l->columns = rondo__linear_leaf_begin(d.in, d.leaves, rondo__linear_end(&d)) - rondo__linear_leaf_begin(d.in, d.leaves, rondo__linear_first(&d));
    l->missing = l->columns ? d.out : 0;
    err = ops->linear_new(rondo__dev(ctx), &l->packed, &l->desc);
    if (err)
        goto fail;
    *out = l;
    return 0;
fail:
    rondo_linear_destroy(l);
    return err;
}

void rondo_linear_destroy(rondo_linear *linear)
{
    if (!linear)
        return;
    if (linear->packed)
        linear->ops->linear_free(linear->device->dev, linear->packed);
    rondo__device_release(linear->device);
    rondo__free(linear->loaded);
    rondo__free(linear->leaf_begin);
    rondo__free(linear);
}

int rondo_linear_load(rondo_linear *linear, int64_t first, int64_t rows, const void *weights)
{
    return rondo_linear_load_from(linear, first, rows, linear && linear->desc.type != RONDO_Q8 ? linear->desc.type : RONDO_F32, weights, NULL);
}

int rondo_linear_load_from(rondo_linear *linear, int64_t first, int64_t rows, int type, const void *weights, const float *scales)
{
    int err;

    if (!linear || (!weights && rows != 0 && linear->columns))
        return rondo__fail(RONDO_EINVAL, "rondo_linear_load: linear and weights must not be NULL");
    if (first < 0 || rows < 0 || first > linear->desc.out || rows > linear->desc.out - first)
        return rondo__fail(RONDO_EINVAL,
                           "rondo_linear_load: %lld rows from row %lld on do not lie in the layer's %lld "
                           "rows",
                           (long long)rows, (long long)first, (long long)linear->desc.out);
    if (!rondo_type_size(type))
        return rondo__fail(RONDO_EINVAL, "rondo_linear_load_from: type is %d; RONDO_F32, RONDO_BF16, RONDO_F16 and RONDO_Q8 are known", type);
    if (type == RONDO_Q8 && linear->desc.type != RONDO_Q8)
        return rondo__fail(RONDO_EINVAL, "rondo_linear_load_from: weights of type q8 for a layer of type %s; only one of type q8 takes them",
                           rondo_type_name(linear->desc.type));
    if (type != RONDO_Q8 && scales)
        return rondo__fail(RONDO_EINVAL, "rondo_linear_load_from: scales with weights of type %s, which has none; scales must be NULL",
                           rondo_type_name(type));
    if (!linear->columns)
        return 0;
    if (type == RONDO_Q8 && !scales && rows)
        return rondo__fail(RONDO_EINVAL, "rondo_linear_load_from: scales is NULL; weights of type q8 come with one for each %d inputs",
                           (int)linear->desc.group);
    for (int64_t r = first; r < first + rows; r++)
        if (linear->loaded[r / 8] >> (r % 8) & 1)
            return rondo__fail(RONDO_EINVAL,
                               "rondo_linear_load: row %lld has been loaded already; each row comes once",
                               (long long)r);
    if (rows && !linear->ops->unified && linear->ops->memory_kind(linear->device->dev, weights) == RONDO_MEMORY_DEVICE)
        return rondo__fail(RONDO_EINVAL, "rondo_linear_load: weights lie in the device's memory; they are loaded from the host's");
    err = linear->ops->linear_load(linear->device->dev, linear->packed, first, rows, type, weights, scales);
    if (err)
        return err;
    for (int64_t r = first; r < first + rows; r++)
        atomic_fetch_or_explicit(&linear->loaded[r / 8], (unsigned char)(1u << (r % 8)), memory_order_relaxed);
    linear->missing -= rows;
    return 0;
}

int rondo__linear_read(const rondo_linear *linear, int64_t first, int64_t rows, void *weights)
{
    if (!RONDO_HAS(linear->ops, linear_read))
        return rondo__fail(RONDO_ENOTSUP, "device \"%s\" cannot give back the weights of a linear layer",
                           linear->ops->name);
    if (first < 0 || rows < 0 || first > linear->desc.out || rows > linear->desc.out - first)
        return rondo__fail(RONDO_EINVAL, "%lld rows from row %lld on do not lie in a layer's %lld rows",
                           (long long)rows, (long long)first, (long long)linear->desc.out);
    return linear->ops->linear_read(linear->packed, first, rows, weights);
}

size_t rondo_linear_bytes(const rondo_linear *linear)
{
    return linear
               ? linear->ops->linear_bytes(linear->packed) + (size_t)linear->desc.out / 8 + 1 + sizeof *linear +
                     (linear->leaf_begin ? ((size_t)linear->desc.parts + 1) * sizeof *linear->leaf_begin : 0)
               : 0;
}

const rondo_linear_desc *rondo__linear_desc(const rondo_linear *linear)
{
    return &linear->desc;
}

int64_t rondo__linear_columns(const rondo_linear *linear)
{
    return linear->columns;
}

int rondo__linear_usable(const rondo_linear *linear, const rondo_context *ctx, const char *function)
{
    if (rondo__ops(ctx) != linear->ops)
        return rondo__fail(RONDO_EINVAL, "%s: the layer was made for device \"%s\" and the context computes on \"%s\"; make it with a context of "
                                         "the device that executes it", function,
                           linear->ops->name, rondo__ops(ctx)->name);
    if (!takes(linear, ctx))
        return rondo__fail(RONDO_EINVAL, "%s: the layer's weights belong to another instance of device \"%s\", which packs them its own way; "
                                         "make the layer with a context of this one", function, linear->ops->name);
    if (linear->missing)
        return rondo__fail(RONDO_EINVAL, "%s: %lld of the layer's %lld rows of weights have not been loaded; rondo_linear_load() takes them", function,
                           (long long)linear->missing, (long long)linear->desc.out);
    return 0;
}

int rondo__linear_run_nodes(const rondo_linear *linear, rondo_context *ctx, struct rondo_stream *stream, int32_t first, int32_t leaves,
                            int64_t rows, const float *x, int64_t x_stride, float *nodes, int64_t node_stride, const struct rondo_poll *poll)
{
    const struct rondo_linear_run run = { .rows = rows, .x = x, .x_stride = x_stride, .first_leaf = first, .leaves = leaves, .nodes = nodes,
                                          .node_stride = node_stride };
    return leaves && rows ? linear->ops->linear(rondo__dev(ctx), stream, linear->packed, &run, poll) : 0;
}

int rondo__linear_run_dx(const rondo_linear *linear, rondo_context *ctx, struct rondo_stream *stream, const struct rondo_linear_dx_run *run,
                         const struct rondo_poll *poll)
{
    if (!RONDO_HAS(linear->ops, linear_dx))
        return rondo__fail(RONDO_ENOTSUP, "device \"%s\" does not compute gradients of linear layers; cpu does", linear->ops->name);
    return run->leaves && run->rows ? linear->ops->linear_dx(rondo__dev(ctx), stream, linear->packed, run, poll) : 0;
}

/* x and y share no float. They may be columns of one buffer: then the strides agree and the columns do not
 * meet. */
bool rondo__linear_apart(const float *x, int64_t x_stride, int64_t in, int64_t x_rows, const float *y, int64_t y_stride, int64_t out,
                         int64_t y_rows)
{
    uintptr_t x0 = (uintptr_t)x, y0 = (uintptr_t)y, between;
    uintptr_t x1 = x0 + (uintptr_t)((x_rows - 1) * x_stride + in) * sizeof *x,
              y1 = y0 + (uintptr_t)((y_rows - 1) * y_stride + out) * sizeof *y;

    if (x1 <= y0 || y1 <= x0)
        return true;
    x_stride = x_rows == 1 ? y_stride : x_stride;   /* a single row has none of its own */
    y_stride = y_rows == 1 ? x_stride : y_stride;
    if ((x_rows == 1 && y_rows == 1) || x_stride != y_stride)
        return false;
    between = y0 > x0 ? (y0 - x0) % ((uintptr_t)x_stride * sizeof *x)
                      : (x0 - y0) % ((uintptr_t)x_stride * sizeof *x);
    return y0 > x0 ? between >= (uintptr_t)in * sizeof *x &&
                         between + (uintptr_t)out * sizeof *x <= (uintptr_t)x_stride * sizeof *x
                   : between >= (uintptr_t)out * sizeof *x &&
                         between + (uintptr_t)in * sizeof *x <= (uintptr_t)x_stride * sizeof *x;
}

/* [rows, columns] floats with this stride can be addressed. */
bool rondo__linear_fits(int64_t rows, int64_t columns, int64_t stride)
{
    int64_t bytes;
    return stride >= 0 && (rows == 1 || stride >= columns) && rondo__mul64(rows - 1, stride, &bytes) &&
           rondo__add64(bytes, columns, &bytes) && rondo__mul64(bytes, (int64_t)sizeof(float), &bytes) &&
           bytes <= PTRDIFF_MAX;
}

/* On the device, wherever the arrays are. */
static int run_staged(const rondo_linear *l, rondo_context *ctx, const struct rondo_linear_run *run)
{
    struct rondo__staging s = { .ctx = ctx };
    struct rondo_linear_run r = *run;
    const size_t in = (size_t)l->desc.in * sizeof *r.x, out = (size_t)l->desc.out * sizeof *r.y;
    void *x, *y = NULL, *bias = NULL;
    int err = rondo__stage(&s, RONDO_STAGE_READ, rondo__rows_of(r.x, r.rows, (size_t)r.x_stride * sizeof *r.x, in), &x);
    if (!err)
        err = rondo__stage(&s, RONDO_STAGE_WRITE | (r.add ? RONDO_STAGE_READ : 0),
                           rondo__rows_of(r.y, r.rows, (size_t)r.y_stride * sizeof *r.y, out), &y);
    if (!err)
        err = rondo__stage(&s, RONDO_STAGE_READ, rondo__rows_of(r.bias, 1, out, out), &bias);
    r.x_stride = x == r.x ? r.x_stride : l->desc.in;
    r.y_stride = y == r.y ? r.y_stride : l->desc.out;
    r.x = x;
    r.y = y;
    r.bias = bias;
    if (!err)
        err = l->ops->linear(rondo__dev(ctx), NULL, l->packed, &r, &(struct rondo_poll){ rondo__poll, ctx, NULL });
    return rondo__stage_end(&s, true, err);
}

int rondo_linear_execute(const rondo_linear *linear, rondo_context *ctx, int64_t rows, const float *x,
                         int64_t x_stride, float *y, int64_t y_stride, const float *bias, int add)
{
    const struct rondo_linear_run run = { .rows = rows, .x = x, .x_stride = x_stride, .y = y, .y_stride = y_stride,
                                          .bias = bias, .add = add };
    double begin;
    int err;

    if (!linear || !ctx)
        return rondo__fail(RONDO_EINVAL, "rondo_linear_execute: linear and ctx must not be NULL");
    if (linear->columns != linear->desc.in)
        return rondo__fail(RONDO_EINVAL, "rondo_linear_execute: the layer is part %d of %d and has %lld of the sum's %lld inputs; "
                                          "rondo_tp_linear() executes parts, on all of their ranks", (int)linear->desc.part,
                           (int)linear->desc.parts, (long long)linear->columns, (long long)linear->desc.in);
    err = rondo__linear_usable(linear, ctx, "rondo_linear_execute");
    if (err)
        return err;
    if (rows < 0)
        return rondo__fail(RONDO_EINVAL, "rondo_linear_execute: rows is %lld; it must not be negative",
                           (long long)rows);
    if (rows == 0)
        return 0;
    if (!x || !y)
        return rondo__fail(RONDO_EINVAL, "rondo_linear_execute: x and y must not be NULL");
    if (!rondo__linear_fits(rows, linear->desc.in, x_stride))
        return rondo__fail(RONDO_EINVAL,
                           "rondo_linear_execute: x_stride is %lld for %lld rows; it must be at least in, "
                           "%lld, and all of x addressable",
                           (long long)x_stride, (long long)rows, (long long)linear->desc.in);
    if (!rondo__linear_fits(rows, linear->desc.out, y_stride))
        return rondo__fail(RONDO_EINVAL,
                           "rondo_linear_execute: y_stride is %lld for %lld rows; it must be at least out, "
                           "%lld, and all of y addressable",
                           (long long)y_stride, (long long)rows, (long long)linear->desc.out);
    if (!rondo__linear_apart(x, x_stride, linear->desc.in, rows, y, y_stride, linear->desc.out, rows))
        return rondo__fail(RONDO_EINVAL, "rondo_linear_execute: y overlaps x; it must be other memory");
    if (bias && !rondo__linear_apart(bias, linear->desc.out, linear->desc.out, 1, y, y_stride, linear->desc.out, rows))
        return rondo__fail(RONDO_EINVAL, "rondo_linear_execute: y overlaps bias; it must be other memory");
    err = rondo__ops(ctx)->check(rondo__dev(ctx));
    if (err)
        return err;
    begin = ctx->trace ? rondo__now() : 0.0;
    rondo__computing(ctx, true);
    err = run_staged(linear, ctx, &run);
    rondo__computing(ctx, false);
    if (ctx->trace)
        rondo__trace(ctx, "linear", begin, -1, 0);
    return err;
}
