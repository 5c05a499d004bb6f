/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Gradients of layers on the card (rule 12 of rondo-numerics(7)): parameters of the kernels in gradient.h, and lists that go up with a run.
 */
#include "backends/cuda/layers.h"

#define TILE_FLOATS (CUDA_TILE * CUDA_COLUMNS)

/* Nodes that a sum over n leaves that follow each other may have on a stack. */
static int64_t depth_of(int64_t n)
{
    int64_t depth = 1;
    for (; n > 1; n = (n + 1) / 2)
        depth++;
    return depth;
}

/* ---- dx ---- */

/* One node of the tree over outputs: leaves [first, end). */
static int dx_node(struct rondo_device *dev, cu_stream s, const struct rondo_device_linear *l, const struct rondo_linear_dx_run *run,
                   const struct rondo_poll *poll, int32_t first, int32_t end, float *dx, int64_t stride, int add)
{
    const int64_t blocks = rondo__cuda_blocks(dev, KERNEL_rondo_cuda_linear_dx, CUDA_DX_BYTES);
    struct cuda_dx c = { .outputs = run->outputs, .columns = l->columns, .total = run->total, .base = run->first_leaf, .first = first, .end = end };
    struct rondo__cuda_slot *slot;
    c.l = (struct cuda_linear){ .x = run->dy, .w = (const char *)(uintptr_t)l->weights, .scales = (const float *)(uintptr_t)l->scales, .y = dx,
                                .x_stride = run->dy_stride, .y_stride = stride, .pitch = l->pitch, .scale_pitch = l->out, .in = l->in, .out = l->out,
                                .rows = run->rows, .column = l->first_column,
                                .items = rondo__cuda_up(run->rows, CUDA_TILE) * rondo__cuda_up(l->columns, CUDA_COLUMNS), .leaves = l->leaves,
                                .layer_first = l->first_leaf, .type = l->type, .group = l->group, .add = add,
                                .x_grain = rondo__cuda_grain(run->dy, run->dy_stride * 4, 0, 0), .stack_floats = depth_of(end - first) * TILE_FLOATS };
    const int64_t used = c.l.items < blocks ? c.l.items : blocks;
    int err = rondo__cuda_scratch_begin(dev, s);
    if (!err)
        err = rondo__cuda_grow(dev, &dev->sums, (size_t)(c.l.stack_floats * used) * sizeof(float), "scratch of a linear layer's gradient");
    if (!err)
        err = rondo__cuda_slot_take(dev, poll, 16, &slot);
    if (err)
        return err;
    c.l.stack = (float *)(uintptr_t)dev->sums.memory;
    err = rondo__cuda_launch(dev, KERNEL_rondo_cuda_linear_dx, used, CUDA_DX_BYTES, s, &c);
    return err ? err : rondo__cuda_slot_close(dev, slot, s);
}

int rondo__cuda_linear_dx(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_device_linear *l, const struct rondo_linear_dx_run *run,
                          const struct rondo_poll *poll)
{
    const int32_t end = run->first_leaf + run->leaves;
    cu_stream s = rondo__cuda_stream(dev, stream);
    float *node = run->nodes;
    if (run->total < 1 || run->outputs < run->total || run->leaves < 1 || run->first_leaf < 0 || run->first_leaf > run->total - run->leaves ||
        rondo__linear_leaf_begin(run->outputs, run->total, end) - rondo__linear_leaf_begin(run->outputs, run->total, run->first_leaf) != l->out)
        return rondo__cuda_fail(RONDO_EINVAL, "leaves [%d, %d) of a sum over %lld outputs in %d leaves are not the layer's %lld outputs", (int)run->first_leaf,
                                (int)end, (long long)run->outputs, (int)run->total, (long long)l->out);
    if (!run->nodes && run->leaves != run->total)
        return rondo__cuda_fail(RONDO_EINVAL, "%d of the %d leaves of a sum over outputs are no sum; ask for nodes", (int)run->leaves, (int)run->total);
    if (run->rows < 1 || l->columns < 1)
        return 0;
    int err = rondo__cuda_enter(dev);
    if (err)
        return err;
    if (!run->nodes)
        return dx_node(dev, s, l, run, poll, 0, run->total, run->dx, run->dx_stride, run->add);
    for (int32_t leaf = run->first_leaf, next; leaf < end && !err; leaf = next, node += run->node_stride) {
        next = rondo__linear_node_end(run->total, leaf, end);
        err = dx_node(dev, s, l, run, poll, leaf, next, node, l->columns, 0);
    }
    return err;
}

/* ---- sums over tokens ---- */

int rondo__cuda_token_sum(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_token_run *run, const struct rondo_poll *poll)
{
    const int64_t end = run->leaves[run->leaf_count].first, blocks = rondo__cuda_blocks(dev, KERNEL_rondo_cuda_token_product, CUDA_TOKENS_BYTES);
    const struct rondo_token_segment whole = { 0, run->leaf_count, 0 };
    const bool sum = run->segments || !run->a;             /* of rows as they are */
    const struct rondo_token_segment *segments = run->segments ? run->segments : &whole;
    cu_stream s = rondo__cuda_stream(dev, stream);
    struct rondo__cuda_slot *slot;
    struct cuda_tokens c = { .a = run->a, .b = run->b, .y = run->y, .a_stride = run->a_stride, .b_stride = run->b_stride, .y_stride = run->y_stride,
                             .rows = run->rows, .columns = run->columns, .leaf_count = run->leaf_count,
                             .segment_count = !sum ? 0 : run->segments ? run->segment_count : 1, .add = run->add,
                             .a_grain = rondo__cuda_grain(run->a, run->a_stride * 4, 0, 0), .b_grain = rondo__cuda_grain(run->b, run->b_stride * 4, 0, 0) };
    cu_pointer at;
    size_t bytes, more;
    if (run->depth > RONDO_LINEAR_DEPTH)
        return rondo__cuda_fail(RONDO_EINVAL, "a sum over tokens of %lld leaves with a stack of %d; there is room for %d", (long long)run->leaf_count,
                                (int)run->depth, RONDO_LINEAR_DEPTH);
    if (run->columns < 1 || (sum ? c.segment_count < 1 : run->rows < 1))
        return 0;
    if (!rondo__mul((size_t)end + 3 * (size_t)c.segment_count, sizeof(int64_t), &bytes) ||
        !rondo__mul((size_t)run->leaf_count + 1, sizeof(struct cuda_token_leaf), &more) || !rondo__add(bytes, more + 64, &bytes))
        return rondo__cuda_fail(RONDO_EINVAL, "a sum over tokens has lists of more bytes than can be counted");
    int err = rondo__cuda_enter(dev);
    if (!err)
        err = rondo__cuda_scratch_begin(dev, s);
    if (!err)
        err = rondo__cuda_slot_take(dev, poll, bytes, &slot);
    if (err)
        return err;
    int64_t *order = rondo__cuda_slot_add(slot, (size_t)end * sizeof *order, &at);
    c.order = (const int64_t *)(uintptr_t)at;
    if (end)
        memcpy(order, run->order, (size_t)end * sizeof *order);
    struct cuda_token_leaf *leaf = rondo__cuda_slot_add(slot, ((size_t)run->leaf_count + 1) * sizeof *leaf, &at);
    c.leaves = (const void *)(uintptr_t)at;
    for (int64_t g = 0; g <= run->leaf_count; g++)
        leaf[g] = (struct cuda_token_leaf){ run->leaves[g].first, g < run->leaf_count ? run->leaves[g].merges : 0 };
    int64_t *segment = rondo__cuda_slot_add(slot, 3 * (size_t)c.segment_count * sizeof *segment, &at);
    c.segments = sum ? (const int64_t *)(uintptr_t)at : NULL;
    for (int64_t i = 0; i < c.segment_count; i++) {
        segment[3 * i] = segments[i].leaf;
        segment[3 * i + 1] = segments[i].leaves;
        segment[3 * i + 2] = segments[i].row;
    }
    err = rondo__cuda_slot_send(dev, slot, s);
    if (!err && sum) {
        err = rondo__cuda_launch(dev, KERNEL_rondo_cuda_token_sum, rondo__cuda_spread(dev, c.segment_count * run->columns), 0, s, &c);
    } else if (!err) {
        const int64_t items = rondo__cuda_up(run->rows, CUDA_TILE) * rondo__cuda_up(run->columns, CUDA_COLUMNS), used = items < blocks ? items : blocks;
        c.stack_floats = ((int64_t)run->depth + 1) * TILE_FLOATS;
        err = rondo__cuda_grow(dev, &dev->sums, (size_t)(c.stack_floats * used) * sizeof(float), "scratch of a sum over tokens");
        c.stack = (float *)(uintptr_t)dev->sums.memory;
        if (!err)
            err = rondo__cuda_launch(dev, KERNEL_rondo_cuda_token_product, used, CUDA_TOKENS_BYTES, s, &c);
    }
    return err ? err : rondo__cuda_slot_close(dev, slot, s);
}

/* ---- row by row ---- */

int rondo__cuda_rmsnorm_dx(struct rondo_device *dev, struct rondo_stream *stream, int64_t rows, int64_t dim, const float *x, const float *weight, float eps,
                           const float *dy, float *dx, float *terms, int add)
{
    const struct cuda_rmsnorm_dx c = { x, weight, dy, dx, terms, rows, dim, eps, add };
    int err = rondo__cuda_enter(dev);
    return err || rows < 1 ? err : rondo__cuda_launch(dev, KERNEL_rondo_cuda_rmsnorm_dx, rows < 65536 ? rows : 65536, 64, rondo__cuda_stream(dev, stream), &c);
}

int rondo__cuda_rope_back(struct rondo_device *dev, struct rondo_stream *stream, int64_t rows, int64_t heads, int64_t dim, float *x, int64_t row_stride,
                          int64_t head_stride, const float *table)
{
    const struct cuda_rope c = { x, table, rows, heads, dim, row_stride, head_stride };
    int err = rondo__cuda_enter(dev);
    return err ? err : rondo__cuda_launch(dev, KERNEL_rondo_cuda_rope_back, rondo__cuda_spread(dev, rows * heads * (dim / 2)), 0,
                                          rondo__cuda_stream(dev, stream), &c);
}

int rondo__cuda_swiglu_dx(struct rondo_device *dev, struct rondo_stream *stream, int64_t count, const float *gate, const float *up, const float *dy,
                          float *dgate, float *dup)
{
    const struct cuda_swiglu_dx c = { gate, up, dy, dgate, dup, count };
    int err = rondo__cuda_enter(dev);
    return err ? err : rondo__cuda_launch(dev, KERNEL_rondo_cuda_swiglu_dx, rondo__cuda_spread(dev, count), 0, rondo__cuda_stream(dev, stream), &c);
}

/* ---- cross-entropy ---- */

int rondo__cuda_cross_entropy(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_entropy_run *run, const struct rondo_poll *poll)
{
    const int32_t end = run->first_leaf + run->own_leaves;
    cu_stream s = rondo__cuda_stream(dev, stream);
    struct rondo__cuda_slot *slot;
    cu_pointer at;
    int32_t depth = 0;
    if (run->leaves < 1 || run->leaves > run->classes || run->first_leaf < 0 || run->own_leaves < 0 || run->first_leaf > run->leaves - run->own_leaves ||
        (!run->nodes && !run->part_count && run->own_leaves != run->leaves))
        return rondo__cuda_fail(RONDO_EINVAL, "leaves [%d, %d) of %lld classes in %d leaves are no sum", (int)run->first_leaf, (int)end,
                                (long long)run->classes, (int)run->leaves);
    for (int32_t i = 0; i < run->part_count; i++) {
        if (++depth > RONDO_LINEAR_DEPTH)
            return rondo__cuda_fail(RONDO_EINVAL, "the %d nodes of a sum over classes need a stack of more than %d", (int)run->part_count, RONDO_LINEAR_DEPTH);
        depth -= run->parts[i].merges;
    }
    struct cuda_entropy c = { .x = run->x, .dloss = run->dloss, .labels = run->labels, .nodes = (struct cuda_entropy_node *)(void *)run->nodes,
                              .loss = run->loss, .dx = run->dx, .rows = run->rows, .classes = run->classes, .x_stride = run->x_stride,
                              .node_stride = run->node_stride, .dloss_stride = run->dloss_stride, .dx_stride = run->dx_stride,
                              .first = rondo__linear_leaf_begin(run->classes, run->leaves, run->first_leaf), .leaves = run->leaves,
                              .first_leaf = run->first_leaf, .own_leaves = run->own_leaves, .ignore = run->ignore, .part_count = run->part_count,
                              .add = run->add };
    c.own = rondo__linear_leaf_begin(run->classes, run->leaves, end) - c.first;
    int err = rondo__cuda_enter(dev);
    if (err || run->rows < 1)
        return err;
    err = rondo__cuda_slot_take(dev, poll, (size_t)run->part_count * sizeof *c.parts + 16, &slot);
    if (err)
        return err;
    struct cuda_entropy_part *part = rondo__cuda_slot_add(slot, (size_t)run->part_count * sizeof *part, &at);
    c.parts = (const void *)(uintptr_t)at;
    for (int32_t i = 0; i < run->part_count; i++)
        part[i] = (struct cuda_entropy_part){ (const struct cuda_entropy_node *)(const void *)run->parts[i].data, run->parts[i].merges };
    err = rondo__cuda_slot_send(dev, slot, s);
    if (!err)
        err = rondo__cuda_launch(dev, KERNEL_rondo_cuda_cross_entropy, run->rows < 65536 ? run->rows : 65536, CUDA_ENTROPY_BYTES, s, &c);
    return err ? err : rondo__cuda_slot_close(dev, slot, s);
}
