/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Linear layers, and what stands between them: parameters, and how much of the card each launch takes. Weights lie on the card in rows of inputs, one
 * for each output, as they come from a file. At level fast products of many rows are blas.c's, which reads weights as they lie.
 */
#include "backends/cuda/layers.h"
#include "backends/cuda/blas.h"

#include "backends/cpu/num.h"

/* Nodes of parts that wait to be joined: at most so much, or as few parts as there can be. */
#define PART_BYTES ((int64_t)256 << 20)
#define PIECE_BYTES ((size_t)1 << 20)

int rondo__cuda_linear_new(struct rondo_device *dev, struct rondo_device_linear **out, const rondo_linear_desc *desc)
{
    size_t weights, scales = 0;
    *out = NULL;
    if (desc->arithmetic != RONDO_ARITHMETIC_F32)
        return rondo__cuda_fail(RONDO_ENOTSUP, "the cuda device has no linear layers of arithmetic number %d; it has those of f32", (int)desc->arithmetic);
    if (desc->level != RONDO_STRICT && desc->level != RONDO_FAST)
        return rondo__cuda_fail(RONDO_ENOTSUP, "the cuda device has linear layers of levels strict and fast, not of number %d", (int)desc->level);
    if (desc->in < 1 || desc->in > INT32_MAX || desc->out < 1 || desc->leaves < 1 || desc->leaves > desc->in || (desc->type == RONDO_Q8 && desc->group < 1))
        return rondo__cuda_fail(RONDO_EINVAL, "a linear layer of %lld inputs, %lld outputs and %d leaves cannot be: in must be 1 to 2147483647, out at least "
                                "1, leaves 1 to in", (long long)desc->in, (long long)desc->out, (int)desc->leaves);
    int err = rondo__cuda_enter(dev);
    if (!err && desc->level == RONDO_FAST)
        err = rondo__cuda_blas_open(dev);
    if (err)
        return err;
    struct rondo_device_linear *l = rondo__cuda_alloc(1, sizeof *l);
    if (!l)
        return rondo__cuda_fail(RONDO_ENOMEM, "no memory for a linear layer");
    l->dev = dev;
    l->in = desc->in;
    l->out = desc->out;
    l->type = desc->type;
    l->leaves = desc->leaves;
    l->group = desc->group;
    l->level = desc->level;
    l->first_leaf = rondo__linear_first(desc);
    l->end_leaf = rondo__linear_end(desc);
    l->first_column = rondo__cuda_leaf_begin(l, l->first_leaf);
    l->columns = rondo__cuda_leaf_begin(l, l->end_leaf) - l->first_column;
    l->pitch = (l->columns * rondo__cuda_size(desc->type) + 15) / 16 * 16;
    if (desc->type == RONDO_Q8)
        l->groups = rondo__linear_groups(l->in, l->leaves, l->group, l->first_leaf, l->end_leaf);
    if (!rondo__mul((size_t)l->pitch, (size_t)l->out, &weights) || !rondo__mul((size_t)l->groups * sizeof(float), (size_t)l->out, &scales) ||
        !rondo__add(weights, scales, &l->bytes)) {
        rondo__cuda_free(l);
        return rondo__cuda_fail(RONDO_EINVAL, "the weights of a linear layer of %lld inputs and %lld outputs have more bytes than can be counted",
                                (long long)desc->in, (long long)desc->out);
    }
    if (weights)
        err = rondo__cuda_check(dev, dev->driver->cuMemAlloc_v2(&l->weights, weights), "memory for the weights of a linear layer");
    if (err)
        l->weights = 0;
    if (!err && scales) {
        err = rondo__cuda_check(dev, dev->driver->cuMemAlloc_v2(&l->scales, scales), "memory for the scales of a linear layer");
        if (err)
            l->scales = 0;
    }
    if (err) {
        rondo__cuda_linear_free(dev, l);
        return err;
    }
    *out = l;
    return 0;
}

void rondo__cuda_linear_free(struct rondo_device *dev, struct rondo_device_linear *l)
{
    if (!l)
        return;
    (void)dev->driver->cuCtxSetCurrent(dev->context);
    if (l->weights)
        (void)dev->driver->cuMemFree_v2(l->weights);
    if (l->scales)
        (void)dev->driver->cuMemFree_v2(l->scales);
    rondo__cuda_free(l);
}

size_t rondo__cuda_linear_bytes(const struct rondo_device_linear *l) { return l->bytes; }

/* Rows as they come: the same for all ranks that use one card. */
uint64_t rondo__cuda_linear_format(const struct rondo_device *dev) { return (uint64_t)dev->index + 1; }

/* One row of W, as the card has it; scales: of its groups. rondo-numerics(7), C8, as backends/cpu/ref_packing.c. */
static void convert_row(const struct rondo_device_linear *l, char *to, float *to_scales, int type, const void *weights, int64_t at, const float *scales)
{
    if (l->type != RONDO_Q8) {
        for (int64_t i = 0; i < l->columns; i++)
            rondo__put_element(to, i, l->type, rondo__element(weights, at + i, type));
        return;
    }
    int64_t g = 0;
    for (int32_t leaf = l->first_leaf; leaf < l->end_leaf; leaf++) {
        const int64_t first = rondo__cuda_leaf_begin(l, leaf) - l->first_column, end = rondo__cuda_leaf_begin(l, leaf + 1) - l->first_column;
        for (int64_t i = first; i < end; i += l->group, g++) {
            const int64_t count = end - i < l->group ? end - i : l->group;
            float largest = 0.0f, scale = scales ? scales[g] : 0.0f;
            if (type == RONDO_Q8) {
                memcpy(to + i, (const int8_t *)weights + at + i, (size_t)count);
            } else {
                for (int64_t k = 0; k < count; k++) {
                    const float x = rondo__element(weights, at + i + k, type), a = x < 0.0f ? -x : x;
                    largest = a > largest || a != a ? a : largest;
                }
                scale = rondo__q8_scale(largest);
                for (int64_t k = 0; k < count; k++)
                    ((int8_t *)to)[i + k] = rondo__q8_number(rondo__element(weights, at + i + k, type), scale);
            }
            to_scales[g] = scale;
        }
    }
}

static int copy_in(struct rondo_device *dev, cu_pointer to, int64_t to_pitch, const void *from, int64_t from_pitch, int64_t row, int64_t rows)
{
    const struct cu_copy_2d c = { .from_kind = CU_KIND_ANY, .from_device = (cu_pointer)(uintptr_t)from, .from_pitch = (size_t)from_pitch,
                                  .to_kind = CU_KIND_ANY, .to_device = to, .to_pitch = (size_t)to_pitch, .width = (size_t)row, .height = (size_t)rows };
    int err = rondo__cuda_check(dev, dev->driver->cuMemcpy2DAsync_v2(&c, dev->upload), "uploading weights");
    return err ? err : rondo__cuda_check(dev, dev->driver->cuStreamSynchronize(dev->upload), "uploading weights");
}

/* By threads that load other rows, too: everything here is the call's own. */
int rondo__cuda_linear_load(struct rondo_device *dev, struct rondo_device_linear *l, int64_t first, int64_t rows, int type, const void *weights,
                            const float *scales)
{
    const int64_t size = rondo__cuda_size(l->type), row = l->columns * size;
    int err = rondo__cuda_enter(dev);
    if (err || rows <= 0 || !l->columns)
        return err;
    if (type == l->type && type != RONDO_Q8)
        return copy_in(dev, l->weights + (cu_pointer)(first * l->pitch), l->pitch, weights, row, row, rows);
    const int64_t most = (int64_t)PIECE_BYTES / (row + l->groups * 4) + 1, step = most < rows ? most : rows;
    char *piece = rondo__cuda_alloc((size_t)step, (size_t)(l->pitch + l->groups * 4 * 2));
    if (!piece)
        return rondo__cuda_fail(RONDO_ENOMEM, "no memory for %lld rows of weights on their way", (long long)step);
    float *by_row = (float *)(void *)(piece + step * l->pitch), *by_group = by_row + step * l->groups;
    for (int64_t r = 0; r < rows && !err; r += step) {
        const int64_t some = rows - r < step ? rows - r : step;
        for (int64_t i = 0; i < some; i++)
            convert_row(l, piece + i * l->pitch, by_row + i * l->groups, type, weights, (r + i) * l->columns, scales ? scales + (r + i) * l->groups : NULL);
        err = copy_in(dev, l->weights + (cu_pointer)((first + r) * l->pitch), l->pitch, piece, l->pitch, row, some);
        for (int64_t i = 0; i < some * l->groups; i++)
            by_group[i % l->groups * some + i / l->groups] = by_row[i];
        if (!err && l->groups)
            err = copy_in(dev, l->scales + (cu_pointer)((first + r) * 4), l->out * 4, by_group, some * 4, some * 4, l->groups);
    }
    rondo__cuda_free(piece);
    return err;
}

int rondo__cuda_linear_read(const struct rondo_device_linear *l, int64_t first, int64_t rows, void *weights)
{
    struct rondo_device *dev = l->dev;
    const int64_t row = l->columns * rondo__cuda_size(l->type);
    int err = rondo__cuda_enter(dev);
    if (err || rows <= 0 || !l->columns)
        return err;
    if (l->type != RONDO_Q8) {
        const struct cu_copy_2d c = { .from_kind = CU_KIND_ANY, .from_device = l->weights + (cu_pointer)(first * l->pitch), .from_pitch = (size_t)l->pitch,
                                      .to_kind = CU_KIND_ANY, .to_device = (cu_pointer)(uintptr_t)weights, .to_pitch = (size_t)row, .width = (size_t)row,
                                      .height = (size_t)rows };
        err = rondo__cuda_check(dev, dev->driver->cuMemcpy2DAsync_v2(&c, dev->upload), "reading weights");
        return err ? err : rondo__cuda_check(dev, dev->driver->cuStreamSynchronize(dev->upload), "reading weights");
    }
    char *numbers = rondo__cuda_alloc(1, (size_t)row);
    if (!numbers)
        return rondo__cuda_fail(RONDO_ENOMEM, "no memory for a row of weights");
    float *to = weights;
    for (int64_t r = 0; r < rows && !err; r++, to += l->columns) {
        err = rondo__cuda_get(dev, numbers, l->weights + (cu_pointer)((first + r) * l->pitch), (size_t)row);
        int64_t g = 0;
        for (int32_t leaf = l->first_leaf; leaf < l->end_leaf && !err; leaf++) {
            const int64_t begin = rondo__cuda_leaf_begin(l, leaf) - l->first_column, end = rondo__cuda_leaf_begin(l, leaf + 1) - l->first_column;
            for (int64_t i = begin; i < end && !err; i += l->group, g++) {
                float s;
                err = rondo__cuda_get(dev, &s, l->scales + (cu_pointer)((g * l->out + first + r) * 4), sizeof s);
                for (int64_t k = i; k < end && k < i + l->group; k++)
                    to[k] = (float)((const int8_t *)numbers)[k] * s;
            }
        }
    }
    rondo__cuda_free(numbers);
    return err;
}

/* ---- execution ---- */

static int kernel_of(int64_t rows)
{
    return rows > CUDA_THIN ? KERNEL_rondo_cuda_linear_tile : rows > 4 ? KERNEL_rondo_cuda_linear_thin_8 : rows > 2 ? KERNEL_rondo_cuda_linear_thin_4
         : rows > 1 ? KERNEL_rondo_cuda_linear_thin_2 : KERNEL_rondo_cuda_linear_thin_1;
}

static int64_t room_of(int kernel)
{
    return kernel == KERNEL_rondo_cuda_linear_tile ? CUDA_TILE : kernel == KERNEL_rondo_cuda_linear_thin_8 ? 8 : kernel == KERNEL_rondo_cuda_linear_thin_4 ? 4
         : kernel == KERNEL_rondo_cuda_linear_thin_2 ? 2 : 1;
}

/* Bytes that leaves of x and of weights may be copied by: all of them begin at such a multiple. */
static int32_t grain_of(const struct rondo_device_linear *l, const void *pointer, int64_t stride, int64_t size)
{
    int64_t begins = 0;
    for (int32_t g = l->first_leaf; g <= l->end_leaf && g < l->leaves; g++)
        begins |= (rondo__cuda_leaf_begin(l, g) - l->first_column) * size;
    return rondo__cuda_grain(pointer, stride, begins, 0);
}

/* Nodes that wait in `node`, which lies in the slot and is the card's at `at`, are joined. */
static int join(struct rondo_device *dev, cu_stream s, struct cuda_join *c, struct rondo__cuda_slot *slot, cu_pointer at)
{
    const int64_t blocks = rondo__cuda_up(c->rows * c->out, CUDA_THREADS);
    c->nodes = (const struct rondo_cuda_join_node *)(uintptr_t)at;
    int err = rondo__cuda_slot_send(dev, slot, s);
    return err ? err : rondo__cuda_launch(dev, KERNEL_rondo_cuda_linear_join, blocks < 8192 ? blocks : 8192, 0, s, c);
}

/* One node: leaves [first, end), for all rows, into y. x: the first column of leaf `first`. */
static int run_node(struct rondo_device *dev, cu_stream s, const struct rondo_device_linear *l, const struct rondo_linear_run *run, const float *x, int32_t first,
                    int32_t end, float *y, int64_t y_stride, bool sum, const struct rondo_poll *poll)
{
    const int kernel = kernel_of(run->rows);
    const int64_t room = room_of(kernel), tiles = rondo__cuda_up(run->rows, room) * rondo__cuda_up(l->out, CUDA_COLUMNS);
    const size_t shared = kernel == KERNEL_rondo_cuda_linear_tile ? CUDA_LINEAR_TILE_BYTES : (size_t)CUDA_LINEAR_THIN_BYTES(room);
    const int64_t blocks = rondo__cuda_blocks(dev, kernel, shared), enough = 2 * blocks, leaves = end - first;
    int64_t part = 1, depth = 1;
    while (part < leaves && (tiles * rondo__cuda_up(leaves, 2 * part) >= enough || rondo__cuda_up(leaves, part) * run->rows * l->out * 4 > PART_BYTES)) {
        part *= 2;
        depth++;
    }
    if (tiles >= enough)
        while (part < leaves) {
            part *= 2;
            depth++;
        }
    const int64_t parts = rondo__cuda_up(leaves, part);
    struct cuda_linear c = { .x = x, .w = (const char *)(uintptr_t)l->weights, .scales = (const float *)(uintptr_t)l->scales, .y = y,
                             .bias = sum ? run->bias : NULL, .x_stride = run->x_stride, .y_stride = y_stride, .pitch = l->pitch, .scale_pitch = l->out,
                             .in = l->in, .out = l->out, .rows = run->rows, .column = l->first_column, .items = tiles * parts, .leaves = l->leaves,
                             .first_leaf = first, .end_leaf = end, .layer_first = l->first_leaf, .part_leaves = (int32_t)part, .type = l->type,
                             .group = l->group, .add = sum && run->add };
    struct rondo__cuda_slot *slot;
    c.x_grain = rondo__cuda_grain(x, run->x_stride * 4, (rondo__cuda_leaf_begin(l, first) & 3) * 4, 0);
    for (int32_t g = first; g < end && c.x_grain == 16; g++)
        if ((rondo__cuda_leaf_begin(l, g) - rondo__cuda_leaf_begin(l, first)) % 4)
            c.x_grain = 4;
    c.w_grain = grain_of(l, (const void *)(uintptr_t)l->weights, l->pitch, rondo__cuda_size(l->type));
    c.stack_floats = depth * (kernel == KERNEL_rondo_cuda_linear_tile ? CUDA_TILE : CUDA_THIN) * CUDA_COLUMNS;
    int err = rondo__cuda_scratch_begin(dev, s);
    if (!err)
        err = rondo__cuda_grow(dev, &dev->sums, (size_t)(c.stack_floats * blocks) * sizeof(float), "scratch of a linear layer");
    if (!err && parts > 1)
        err = rondo__cuda_grow(dev, &dev->parts, (size_t)(parts * run->rows * l->out) * sizeof(float), "scratch for nodes of a linear layer");
    if (!err)
        err = rondo__cuda_slot_take(dev, poll, (size_t)parts * sizeof(struct rondo_cuda_join_node) + 16, &slot);
    if (err)
        return err;
    c.stack = (float *)(uintptr_t)dev->sums.memory;
    if (parts > 1) {
        c.y = (float *)(uintptr_t)dev->parts.memory;
        c.y_stride = l->out;
        c.node_stride = run->rows * l->out;
        c.nodes = 1;
        c.bias = NULL;
        c.add = 0;
    }
    err = rondo__cuda_launch(dev, kernel, c.items < blocks ? c.items : blocks, shared, s, &c);
    if (!err && parts > 1) {
        struct cuda_join j = { .rows = run->rows, .out = l->out, .y_stride = y_stride, .y = y, .bias = sum ? run->bias : NULL, .count = (int32_t)parts,
                               .add = sum && run->add };
        cu_pointer at;
        struct rondo_cuda_join_node *node = rondo__cuda_slot_add(slot, (size_t)parts * sizeof *node, &at);
        for (int64_t i = 0; i < parts; i++)
            node[i] = (struct rondo_cuda_join_node){ c.y + i * c.node_stride, l->out, rondo__run_merges(i, 0, parts) };
        err = join(dev, s, &j, slot, at);
    }
    return err ? err : rondo__cuda_slot_close(dev, slot, s);
}

/* A thread takes one number of a row that becomes Q8, of which a warp takes one; else eight, where all rows are whole pieces of 16 bytes. */
static int convert(struct rondo_device *dev, cu_stream s, struct cuda_convert *c)
{
    const bool plain = c->from_type != RONDO_Q8 && c->to_type != RONDO_Q8;
    c->many = plain && c->dim % 8 == 0 && rondo__cuda_grain(c->from, c->from_stride, (int64_t)(uintptr_t)c->to, c->to_stride) == 16 ? 8 : 1;
    return rondo__cuda_launch(dev, KERNEL_rondo_cuda_convert, rondo__cuda_spread(dev, c->to_type == RONDO_Q8 ? c->rows * 32 : c->rows * c->dim / c->many), 0, s, c);
}

/* As run_node(), by the library. *done 0: it has no way to do it, and nothing happened. */
static int run_product(struct rondo_device *dev, cu_stream s, const struct rondo_device_linear *l, const struct rondo_linear_run *run, const float *x,
                       int32_t first, int32_t end, float *y, int64_t y_stride, bool sum, const struct rondo_poll *poll, int *done)
{
    const int64_t size = rondo__cuda_size(l->type), begin = rondo__cuda_leaf_begin(l, first), in = rondo__cuda_leaf_begin(l, end) - begin;
    const int64_t pitch = rondo__cuda_up(in * size, 256) * 256;
    struct rondo__cuda_product p = { .type = l->type, .rows = run->rows, .in = in, .out = l->out, .x = x, .x_stride = run->x_stride,
                                     .w = (const char *)(uintptr_t)l->weights + (begin - l->first_column) * size, .w_stride = l->pitch / size, .y = y,
                                     .y_stride = y_stride, .add = sum && run->add };
    const bool biased = sum && run->bias;
    struct rondo__cuda_slot *slot;
    int err = rondo__cuda_scratch_begin(dev, s);
    if (!err && l->type != RONDO_F32)
        err = rondo__cuda_grow(dev, &dev->halves, (size_t)(run->rows * pitch), "scratch for inputs of 16 bits");
    if (!err && biased)
        err = rondo__cuda_grow(dev, &dev->parts, (size_t)(run->rows * l->out) * sizeof(float), "scratch for the sums of a linear layer");
    if (!err)
        err = rondo__cuda_slot_take(dev, poll, sizeof(struct rondo_cuda_join_node) + 16, &slot);
    if (err)
        return err;
    if (l->type != RONDO_F32) {
        struct cuda_convert c = { .from = x, .to = (void *)(uintptr_t)dev->halves.memory, .rows = run->rows, .dim = in, .from_stride = run->x_stride * 4,
                                  .to_stride = pitch, .from_type = RONDO_F32, .to_type = l->type };
        err = convert(dev, s, &c);
        p.x = c.to;
        p.x_stride = pitch / size;
    }
    if (biased) {
        p.y = (float *)(uintptr_t)dev->parts.memory;
        p.y_stride = l->out;
        p.add = false;
    }
    if (!err)
        err = rondo__cuda_blas_run(dev, s, &p, done);
    if (!err && *done && biased) {
        struct cuda_join j = { .rows = run->rows, .out = l->out, .y_stride = y_stride, .y = y, .bias = run->bias, .count = 1, .add = run->add };
        cu_pointer at;
        struct rondo_cuda_join_node *node = rondo__cuda_slot_add(slot, sizeof *node, &at);
        *node = (struct rondo_cuda_join_node){ p.y, l->out, 0 };
        err = join(dev, s, &j, slot, at);
    }
    return err ? err : rondo__cuda_slot_close(dev, slot, s);
}

static int run_any(struct rondo_device *dev, cu_stream s, const struct rondo_device_linear *l, const struct rondo_linear_run *run, const float *x, int32_t first,
                   int32_t end, float *y, int64_t y_stride, bool sum, const struct rondo_poll *poll)
{
    int done = 0, err = 0;
    if (l->level == RONDO_FAST && run->rows >= CUDA_FAST_ROWS && l->type != RONDO_Q8)
        err = run_product(dev, s, l, run, x, first, end, y, y_stride, sum, poll, &done);
    return err || done ? err : run_node(dev, s, l, run, x, first, end, y, y_stride, sum, poll);
}

int rondo__cuda_linear(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_device_linear *l, const struct rondo_linear_run *run,
                       const struct rondo_poll *poll)
{
    const int32_t first = run->leaves ? run->first_leaf : l->first_leaf, leaves = run->leaves ? run->leaves : l->end_leaf - l->first_leaf;
    cu_stream s = rondo__cuda_stream(dev, stream);
    float *y = run->nodes;
    if (leaves < 0 || first < l->first_leaf || first > l->end_leaf - leaves)
        return rondo__cuda_fail(RONDO_EINVAL, "%d leaves from leaf %d on of a linear layer that has [%d, %d)", (int)leaves, (int)first, (int)l->first_leaf,
                                (int)l->end_leaf);
    if (!run->nodes && leaves != l->leaves)
        return rondo__cuda_fail(RONDO_EINVAL, "%d of a linear layer's %d leaves are no sum; ask for nodes", (int)leaves, (int)l->leaves);
    if (run->rows < 1)
        return 0;
    int err = rondo__cuda_enter(dev);
    if (err)
        return err;
    if (!run->nodes)
        return run_any(dev, s, l, run, run->x, 0, l->leaves, run->y, run->y_stride, true, poll);
    for (int32_t leaf = first, end = first + leaves, next; leaf < end && !err; leaf = next, y += run->node_stride) {
        next = rondo__linear_node_end(l->leaves, leaf, end);
        err = run_any(dev, s, l, run, run->x + (rondo__cuda_leaf_begin(l, leaf) - rondo__cuda_leaf_begin(l, first)), leaf, next, y, l->out, false, poll);
    }
    return err;
}

int rondo__cuda_linear_join(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_linear_join *j)
{
    cu_stream s = rondo__cuda_stream(dev, stream);
    struct rondo__cuda_slot *slot;
    int64_t depth = 0;
    for (int32_t i = 0; i < j->count; i++) {
        const int64_t pushed = depth + 1;
        depth = pushed - j->nodes[i].merges;
        if (pushed > RONDO_LINEAR_DEPTH || depth < 1 || depth > pushed)
            return rondo__cuda_fail(RONDO_EINVAL, "node %d of %d to be joined: %d merges on a stack of %lld, which has room for %d", (int)i, (int)j->count,
                                    (int)j->nodes[i].merges, (long long)pushed, RONDO_LINEAR_DEPTH);
    }
    if (j->count < 1)
        return rondo__cuda_fail(RONDO_EINVAL, "%d nodes to be joined; there must be at least one", (int)j->count);
    if (j->rows < 1 || j->out < 1)
        return 0;
    int err = rondo__cuda_enter(dev);
    if (!err)
        err = rondo__cuda_slot_take(dev, NULL, (size_t)j->count * sizeof(struct rondo_cuda_join_node) + 16, &slot);
    if (err)
        return err;
    struct cuda_join c = { .rows = j->rows, .out = j->out, .y_stride = j->y_stride, .y = j->y, .bias = j->bias, .count = j->count, .add = j->add };
    cu_pointer at;
    struct rondo_cuda_join_node *node = rondo__cuda_slot_add(slot, (size_t)j->count * sizeof *node, &at);
    for (int32_t i = 0; i < j->count; i++)
        node[i] = (struct rondo_cuda_join_node){ j->nodes[i].data, j->nodes[i].stride, j->nodes[i].merges };
    err = join(dev, s, &c, slot, at);
    return err ? err : rondo__cuda_slot_close(dev, slot, s);
}

/* ---- element by element, or row by row ---- */

int rondo__cuda_rmsnorm(struct rondo_device *dev, struct rondo_stream *stream, int64_t rows, int64_t dim, const float *x, const float *weight, float eps,
                        float *y)
{
    const struct cuda_rmsnorm c = { x, weight, y, rows, dim, eps };
    int err = rondo__cuda_enter(dev);
    return err || rows < 1 ? err : rondo__cuda_launch(dev, KERNEL_rondo_cuda_rmsnorm, rows < 65536 ? rows : 65536, 64, rondo__cuda_stream(dev, stream), &c);
}

int rondo__cuda_rope(struct rondo_device *dev, struct rondo_stream *stream, int64_t rows, int64_t heads, int64_t dim, float *x, int64_t row_stride,
                     int64_t head_stride, const float *table)
{
    const struct cuda_rope c = { x, table, rows, heads, dim, row_stride, head_stride };
    int err = rondo__cuda_enter(dev);
    return err ? err : rondo__cuda_launch(dev, KERNEL_rondo_cuda_rope, rondo__cuda_spread(dev, rows * heads * (dim / 2)), 0, rondo__cuda_stream(dev, stream), &c);
}

int rondo__cuda_sigmoid_mul(struct rondo_device *dev, struct rondo_stream *stream, int64_t count, const float *gate, const float *x, float *y)
{
    const struct cuda_swiglu c = { gate, x, y, count };
    int err = rondo__cuda_enter(dev);
    return err ? err : rondo__cuda_launch(dev, KERNEL_rondo_cuda_sigmoid_mul, rondo__cuda_spread(dev, count), 0, rondo__cuda_stream(dev, stream), &c);
}

int rondo__cuda_short_conv(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_conv_run *run)
{
    const struct cuda_conv c = { run->x, run->weight, run->state, run->y, run->rows, run->channels, run->x_stride, run->y_stride, run->taps, run->silu };
    int err = rondo__cuda_enter(dev);
    return err ? err : rondo__cuda_launch(dev, KERNEL_rondo_cuda_short_conv, rondo__cuda_spread(dev, run->channels), 0, rondo__cuda_stream(dev, stream), &c);
}

int rondo__cuda_swiglu(struct rondo_device *dev, struct rondo_stream *stream, int64_t count, const float *gate, const float *up, float *y)
{
    const struct cuda_swiglu c = { gate, up, y, count };
    int err = rondo__cuda_enter(dev);
    return err ? err : rondo__cuda_launch(dev, KERNEL_rondo_cuda_swiglu, rondo__cuda_spread(dev, count), 0, rondo__cuda_stream(dev, stream), &c);
}

int rondo__cuda_convert(struct rondo_device *dev, struct rondo_stream *stream, int64_t count, int from_type, const void *from, int to_type, void *to)
{
    return rondo__cuda_convert_rows(dev, stream, 1, count, from_type, from, 0, to_type, to, 0);
}

int rondo__cuda_convert_rows(struct rondo_device *dev, struct rondo_stream *stream, int64_t rows, int64_t dim, int from_type, const void *from,
                             size_t from_stride, int to_type, void *to, size_t to_stride)
{
    struct cuda_convert c = { .from = from, .to = to, .rows = rows, .dim = dim, .from_stride = (int64_t)from_stride, .to_stride = (int64_t)to_stride,
                              .from_type = from_type, .to_type = to_type };
    int err = rondo__cuda_enter(dev);
    return err ? err : convert(dev, rondo__cuda_stream(dev, stream), &c);
}

int rondo__cuda_logsumexp(struct rondo_device *dev, struct rondo_stream *stream, int64_t rows, int64_t dim, const float *x, int64_t x_stride, double *out)
{
    const struct cuda_logsumexp c = { x, out, rows, dim, x_stride };
    int err = rondo__cuda_enter(dev);
    return err || rows < 1 ? err : rondo__cuda_launch(dev, KERNEL_rondo_cuda_logsumexp, rows < 65536 ? rows : 65536, 2 * CUDA_THREADS * sizeof(double),
                                                      rondo__cuda_stream(dev, stream), &c);
}
