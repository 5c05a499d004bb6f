/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Linear layers (contract C8; backends/cpu/ref_linear.c is the definition): chains inside a leaf of the inputs, the tree over leaves, bias, what y
 * held. Weights lie as they came, a row of inputs for each output. Many rows: tiles as in attention. One to eight: a thread has an output, and
 * what takes time is reading the weights. Where there are too few tiles for the card, items are parts of the leaves, which cuda_join adds up.
 */
#ifndef RONDO_CUDA_LINEAR_H
#define RONDO_CUDA_LINEAR_H

#include "backends/cuda/tile.h"

/* An item: tile of rows, tile of outputs, leaves. */
struct cuda_linear_item {
    int64_t row, column, part;
    int first, end, rows, columns;
};

DEVICE struct cuda_linear_item cuda_linear_item_of(const struct cuda_linear *p, int64_t i, int room)
{
    const int64_t tiles = (p->rows + room - 1) / room, columns = (p->out + CUDA_COLUMNS - 1) / CUDA_COLUMNS;
    struct cuda_linear_item item;
    item.row = i % tiles * room;
    item.column = i / tiles % columns * CUDA_COLUMNS;
    item.part = i / tiles / columns;
    item.first = p->first_leaf + (int)item.part * p->part_leaves;
    item.end = cuda_minimum(item.first + p->part_leaves, p->end_leaf);
    item.rows = cuda_minimum((int)(p->rows - item.row < room ? p->rows - item.row : room), room);
    item.columns = (int)(p->out - item.column < CUDA_COLUMNS ? p->out - item.column : CUDA_COLUMNS);
    return item;
}

/* The inputs of a leaf, as columns of the whole sum. */
DEVICE int64_t cuda_leaf_begin(const struct cuda_linear *p, int64_t g) { return g * p->in / p->leaves; }

/* After leaf g of [first, end), which begins an aligned node: how many nodes before it are added to it. */
DEVICE int cuda_linear_merges(int g, int first, int end)
{
    return rondo__run_merges(g - first, 0, end - first);
}

/* Of Q8: the scales of the groups of a leaf, for output o. Groups are counted from the layer's first leaf on. */
DEVICE const float *cuda_scales(const struct cuda_linear *p, int g, int64_t o)
{
    const int64_t least = p->in / p->leaves, inputs = cuda_leaf_begin(p, g) - cuda_leaf_begin(p, p->layer_first), leaves = g - p->layer_first;
    const int64_t longer = inputs - leaves * least, groups = leaves * ((least + p->group - 1) / p->group) + (least % p->group == 0 ? longer : 0);
    return p->scales + groups * p->scale_pitch + o;
}

DEVICE void cuda_put_y(const struct cuda_linear *p, const struct cuda_linear_item *item, int64_t row, int64_t o, float sum)
{
    float *y = p->y + (p->nodes ? item->part * p->node_stride : 0) + row * p->y_stride + o;
    if (!p->nodes) {
        if (p->bias)
            sum = sum + p->bias[o];
        if (p->add)
            sum = *y + sum;
    }
    rondo__put_element(y, 0, RONDO_F32, sum);
}

/* ---- many rows ---- */

/* Columns [i0, i0 + 32) of leaf g, which has `count` from k on: weights, and x. */
DEVICE void cuda_linear_stage(const struct cuda_linear *p, const struct cuda_linear_item *item, float *w, float *x, int g, int64_t k, int count, int64_t x0,
                              int i0)
{
    const int64_t size = p->type == RONDO_Q8 ? 1 : p->type == RONDO_F32 ? 4 : 2;
    const char *from = p->w + item->column * p->pitch + (k - p->column) * size;
    if (p->type == RONDO_Q8) {
        for (int i = THREAD; i < item->columns * CUDA_CHUNK; i += CUDA_THREADS) {
            const int o = i / CUDA_CHUNK, c = i0 + i % CUDA_CHUNK;
            if (c < count)
                w[o * CUDA_PITCH + i % CUDA_CHUNK] =
                    (float)((const int8_t *)from)[o * p->pitch + c] * cuda_scales(p, g, item->column + o)[c / p->group * p->scale_pitch];
        }
    } else {
        cuda_stage_typed(w, CUDA_PITCH, CUDA_COLUMNS, item->columns, from, 0, p->pitch >> (size == 4 ? 2 : 1), i0, CUDA_CHUNK, count, p->type, p->w_grain);
    }
    cuda_stage(x, CUDA_PITCH, CUDA_TILE, item->rows, p->x, item->row * p->x_stride + (k - x0), p->x_stride, i0, CUDA_CHUNK, count, RONDO_F32, p->x_grain);
    COPY_CLOSE();
}

DEVICE void cuda_linear_tile(const struct cuda_linear *p, const struct cuda_linear_item *item, float *shared, float *stack)
{
    const int lane = THREAD % 32, first = THREAD / 32 * 16 + lane / 16, step = (CUDA_COLUMNS + CUDA_TILE) * CUDA_PITCH;
    const int64_t x0 = cuda_leaf_begin(p, p->first_leaf);
    float s[8][8];
    int parity = 0, top = 0;
    int64_t k = cuda_leaf_begin(p, item->first), next_k = cuda_leaf_begin(p, item->first + 1);

    BARRIER();
    cuda_linear_stage(p, item, shared, shared + CUDA_COLUMNS * CUDA_PITCH, item->first, k, (int)(next_k - k), x0, 0);
    ROLLED
    for (int g = item->first; g < item->end; g++) {
        const int count = (int)(next_k - k), merges = cuda_linear_merges(g, item->first, item->end);
        const int64_t after = g + 1 < item->end ? cuda_leaf_begin(p, g + 2) : next_k;
        UNROLL
        for (int i = 0; i < 8; i++) {
            UNROLL
            for (int j = 0; j < 8; j++)
                s[i][j] = 0.0f;
        }
        ROLLED
        for (int i0 = 0; i0 < count; i0 += CUDA_CHUNK, parity ^= 1) {
            const float *w = shared + parity * step, *x = w + CUDA_COLUMNS * CUDA_PITCH;
            float *next = shared + (parity ^ 1) * step;
            COPY_WAIT(0);
            BARRIER();
            if (i0 + CUDA_CHUNK < count)
                cuda_linear_stage(p, item, next, next + CUDA_COLUMNS * CUDA_PITCH, g, k, count, x0, i0 + CUDA_CHUNK);
            else if (g + 1 < item->end)
                cuda_linear_stage(p, item, next, next + CUDA_COLUMNS * CUDA_PITCH, g + 1, next_k, (int)(after - next_k), x0, 0);
            cuda_chain(s, x + first * CUDA_PITCH, CUDA_PITCH, w + lane % 16 * CUDA_PITCH, CUDA_PITCH, cuda_minimum(count - i0, CUDA_CHUNK));
        }
        /* a thread joins what it wrote itself */
        ROLLED
        for (int n = 1; n <= merges; n++) {
            const float *left = stack + (int64_t)(top - n) * CUDA_TILE * CUDA_COLUMNS + THREAD;
            UNROLL
            for (int i = 0; i < 8; i++) {
                UNROLL
                for (int j = 0; j < 8; j++)
                    s[i][j] = left[(i * 8 + j) * CUDA_THREADS] + s[i][j];
            }
        }
        top -= merges;
        float *to = stack + (int64_t)top * CUDA_TILE * CUDA_COLUMNS + THREAD;
        UNROLL
        for (int i = 0; i < 8; i++) {
            UNROLL
            for (int j = 0; j < 8; j++) {
                if (g + 1 < item->end)
                    to[(i * 8 + j) * CUDA_THREADS] = s[i][j];
                else if (first + 2 * i < item->rows && lane % 16 + 16 * j < item->columns)
                    cuda_put_y(p, item, item->row + first + 2 * i, item->column + lane % 16 + 16 * j, s[i][j]);
            }
        }
        top++;
        k = next_k;
        next_k = after;
    }
}

DEVICE void cuda_linear_tile_kernel(const struct cuda_linear *p, char *shared)
{
    ROLLED
    for (int64_t i = BLOCK; i < p->items; i += BLOCKS) {
        const struct cuda_linear_item item = cuda_linear_item_of(p, i, CUDA_TILE);
        cuda_linear_tile(p, &item, (float *)(void *)shared, p->stack + BLOCK * p->stack_floats);
    }
}

/* ---- few rows ---- */

#define CUDA_THIN_PITCH (CUDA_THIN_BYTES + 16)      /* bytes from output to output of a stage of weights */

/* Bytes [b0, b0 + bytes) of each of `rows` rows, as far as there are (`end`); stride: bytes. */
DEVICE void cuda_stage_bytes(char *to, int pitch, int rows, const char *from, int64_t stride, int b0, int bytes, int end, int grain)
{
    const int pieces = bytes / grain;
    if (grain == 16) {
        const int step = CUDA_THREADS / pieces, b = THREAD % pieces * 16;
        const char *f = from + THREAD / pieces * stride + b0 + b;
        char *t = to + THREAD / pieces * pitch + b;
        if (b0 + b >= end)
            return;
        if (rows == CUDA_COLUMNS) {
            UNROLL
            for (int n = 0; n < CUDA_COLUMNS / step; n++)
                COPY16(t + n * step * pitch, f + n * step * stride, 1);
            return;
        }
        ROLLED
        for (int row = THREAD / pieces; row < rows; row += step, f += step * stride, t += step * pitch)
            COPY16(t, f, 1);
        return;
    }
    for (int i = THREAD; i < rows * pieces; i += CUDA_THREADS) {
        const int row = i / pieces, b = i % pieces * grain;
        if (b0 + b >= end)
            continue;
        if (grain == 4)
            COPY4(to + row * pitch + b, from + row * stride + b0 + b, 1);
        else
            to[row * pitch + b] = from[row * stride + b0 + b];
    }
}

DEVICE void cuda_stage_any(char *to, int pitch, int rows, const char *from, int64_t stride, int b0, int bytes, int end, int grain)
{
    if (grain == 16)
        cuda_stage_bytes(to, pitch, rows, from, stride, b0, bytes, end, 16);
    else if (grain == 4)
        cuda_stage_bytes(to, pitch, rows, from, stride, b0, bytes, end, 4);
    else
        cuda_stage_bytes(to, pitch, rows, from, stride, b0, bytes, end, 1);
}

/* R numbers of shared memory, by as few instructions as can be; `from` is a multiple of R floats. */
DEVICE void cuda_read(float *to, const float *from, int R)
{
    if (R >= 4) {
        UNROLL
        for (int r = 0; r < CUDA_THIN; r += 4)
            if (r < R) {
                const struct quad q = *(const struct quad *)(const void *)(from + r);
                to[r] = q.a, to[r + 1] = q.b, to[r + 2] = q.c, to[r + 3] = q.d;
            }
        return;
    }
    to[0] = from[0];
    if (R == 2)
        to[1] = from[1];
}

/* One product of each row's chain. */
DEVICE void cuda_link(float *s, const float *q, float x, int R)
{
    float a[CUDA_THIN];
    cuda_read(a, q, R);
    UNROLL
    for (int r = 0; r < CUDA_THIN; r++)
        if (r < R)
            s[r] = NUM_FMA(a[r], x, s[r]);
}

/* R chains go on over n numbers that lie at `from`, with those of q, [n][R]. */
DEVICE void cuda_thin_chain(float *s, const float *q, const char *from, int n, int type, float scale, int R)
{
    int k = 0;
    if (type == RONDO_F32) {
        ROLLED
        for (; k + 4 <= n; k += 4) {
            const struct quad x = *(const struct quad *)(const void *)(from + 4 * k);
            cuda_link(s, q + (k + 1) * R, x.b, R);
            cuda_link(s, q + k * R, x.a, R);
            cuda_link(s, q + (k + 3) * R, x.d, R);
            cuda_link(s, q + (k + 2) * R, x.c, R);
        }
    } else if (type == RONDO_Q8) {     /* a layer's group may begin anywhere */
        ROLLED
        for (; k + 16 <= n && ((uintptr_t)from & 15) == 0; k += 16) {
            int8_t b[16];
            const struct quad x = *(const struct quad *)(const void *)(from + k);
            memcpy(b, &x, sizeof b);
            UNROLL
            for (int i = 0; i < 16; i++)
                cuda_link(s, q + (k + (i ^ 1)) * R, (float)b[i ^ 1] * scale, R);
        }
    } else {
        ROLLED
        for (; k + 8 <= n; k += 8) {
            uint32_t w[4];
            const struct quad x = *(const struct quad *)(const void *)(from + 2 * k);
            memcpy(w, &x, sizeof w);
            UNROLL
            for (int i = 0; i < 4; i++) {
                cuda_link(s, q + (k + 2 * i + 1) * R, cuda_high(w[i], type), R);
                cuda_link(s, q + (k + 2 * i) * R, cuda_low(w[i], type), R);
            }
        }
    }
    ROLLED
    for (const int end = n + (n & 1); k < end; k++) {
        const int c = k ^ 1;
        if (c < n)
            cuda_link(s, q + c * R, type == RONDO_Q8 ? (float)((const int8_t *)from)[c] * scale : rondo__element(from, c, type), R);
    }
}

DEVICE void cuda_thin_chain_typed(float *s, const float *q, const char *from, int n, int type, float scale, int R)
{
    if (type == RONDO_F32)
        cuda_thin_chain(s, q, from, n, RONDO_F32, 1.0f, R);
    else if (type == RONDO_BF16)
        cuda_thin_chain(s, q, from, n, RONDO_BF16, 1.0f, R);
    else if (type == RONDO_F16)
        cuda_thin_chain(s, q, from, n, RONDO_F16, 1.0f, R);
    else
        cuda_thin_chain(s, q, from, n, RONDO_Q8, scale, R);
}

/* A chunk of CUDA_THIN_BYTES of each output's weights, and x beside it as [columns][R]. */
DEVICE void cuda_linear_thin_stage(const struct cuda_linear *p, const struct cuda_linear_item *item, char *w, float *x, int64_t k, int count, int64_t x0, int i0,
                                   int R)
{
    const int64_t size = cuda_size(p->type);
    const int step = CUDA_THIN_BYTES / (int)size;
    const float *from = p->x + item->row * p->x_stride + (k - x0) + i0;
    cuda_stage_any(w, CUDA_THIN_PITCH, item->columns, p->w + item->column * p->pitch + (k - p->column) * size, p->pitch, i0 * (int)size, CUDA_THIN_BYTES,
                   count * (int)size, p->w_grain);
    for (int i = THREAD; i < step * R; i += CUDA_THREADS) {
        const int r = R == 1 ? 0 : i / step, c = i - r * step;
        if (i0 + c < count)
            x[c * R + r] = r < item->rows ? from[r * p->x_stride + c] : 0.0f;
    }
    COPY_CLOSE();
}

DEVICE void cuda_linear_thin(const struct cuda_linear *p, const struct cuda_linear_item *item, char *shared, float *stack, int R)
{
    const int step = CUDA_THIN_BYTES / cuda_size(p->type);
    float *const xs = (float *)(void *)(shared + 2 * CUDA_STAGE), s[CUDA_THIN];
    const int64_t x0 = cuda_leaf_begin(p, p->first_leaf);
    int parity = 0, top = 0;
    int64_t k = cuda_leaf_begin(p, item->first), next_k = cuda_leaf_begin(p, item->first + 1);

    BARRIER();
    cuda_linear_thin_stage(p, item, shared, xs, k, (int)(next_k - k), x0, 0, R);
    ROLLED
    for (int g = item->first; g < item->end; g++) {
        const int count = (int)(next_k - k), merges = cuda_linear_merges(g, item->first, item->end);
        const int64_t after = g + 1 < item->end ? cuda_leaf_begin(p, g + 2) : next_k;
        UNROLL
        for (int r = 0; r < CUDA_THIN; r++)
            s[r] = 0.0f;
        ROLLED
        for (int i0 = 0; i0 < count; i0 += step, parity ^= 1) {
            const char *w = shared + parity * CUDA_STAGE + THREAD * CUDA_THIN_PITCH;
            const float *x = xs + parity * CUDA_THIN_BYTES * R;
            char *next = shared + (parity ^ 1) * CUDA_STAGE;
            float *next_x = xs + (parity ^ 1) * CUDA_THIN_BYTES * R;
            const int n = cuda_minimum(count - i0, step);
            COPY_WAIT(0);
            BARRIER();
            if (i0 + step < count)
                cuda_linear_thin_stage(p, item, next, next_x, k, count, x0, i0 + step, R);
            else if (g + 1 < item->end)
                cuda_linear_thin_stage(p, item, next, next_x, next_k, (int)(after - next_k), x0, 0, R);
            if (THREAD >= item->columns)
                continue;
            if (p->type != RONDO_Q8) {
                cuda_thin_chain_typed(s, x, w, n, p->type, 1.0f, R);
                continue;
            }
            const float *scales = cuda_scales(p, g, item->column + THREAD);
            ROLLED
            for (int c = 0, next_c; c < n; c = next_c) {   /* pairs are counted in the leaf: a group may end between the two of one */
                const int group = (i0 + c) / p->group, end = (group + 1) * p->group - i0;
                const float scale = scales[(int64_t)group * p->scale_pitch];
                if (((i0 + c) & 1) == 0 && end < n && (end & 1)) {
                    cuda_thin_chain(s, x + c * R, w + c, end - 1 - c, RONDO_Q8, scale, R);
                    cuda_link(s, x + end * R, (float)((const int8_t *)w)[end] * scales[(int64_t)(group + 1) * p->scale_pitch], R);
                    cuda_link(s, x + (end - 1) * R, (float)((const int8_t *)w)[end - 1] * scale, R);
                    next_c = end + 1;
                } else {
                    next_c = cuda_minimum(end, n);
                    cuda_thin_chain(s, x + c * R, w + c, next_c - c, RONDO_Q8, scale, R);
                }
            }
        }
        ROLLED
        for (int n = 1; n <= merges; n++) {
            UNROLL
            for (int r = 0; r < CUDA_THIN; r++)
                if (r < R)
                    s[r] = stack[((int64_t)(top - n) * CUDA_THIN + r) * CUDA_THREADS + THREAD] + s[r];
        }
        top -= merges;
        UNROLL
        for (int r = 0; r < CUDA_THIN; r++) {
            if (r >= R)
                continue;
            if (g + 1 < item->end)
                stack[((int64_t)top * CUDA_THIN + r) * CUDA_THREADS + THREAD] = s[r];
            else if (r < item->rows && THREAD < item->columns)
                cuda_put_y(p, item, item->row + r, item->column + THREAD, s[r]);
        }
        top++;
        k = next_k;
        next_k = after;
    }
}

DEVICE void cuda_linear_thin_kernel(const struct cuda_linear *p, char *shared, int R)
{
    ROLLED
    for (int64_t i = BLOCK; i < p->items; i += BLOCKS) {
        const struct cuda_linear_item item = cuda_linear_item_of(p, i, R);
        cuda_linear_thin(p, &item, shared, p->stack + BLOCK * p->stack_floats, R);
    }
}

/* ---- nodes that came from elsewhere, or from parts ---- */

DEVICE void cuda_join_kernel(const struct cuda_join *p)
{
    for (int64_t i = (int64_t)BLOCK * CUDA_THREADS + THREAD; i < p->rows * p->out; i += (int64_t)BLOCKS * CUDA_THREADS) {
        const int64_t row = i / p->out, o = i % p->out;
        float stack[40], *y = p->y + row * p->y_stride + o;
        int n = 0;
        for (int k = 0; k < p->count; k++) {
            const struct rondo_cuda_join_node node = p->nodes[k];
            stack[n++] = node.data[row * node.stride + o];
            for (int m = 0; m < node.merges; m++, n--)
                stack[n - 2] = stack[n - 2] + stack[n - 1];
        }
        for (; n > 1; n--)
            stack[n - 2] = stack[n - 2] + stack[n - 1];
        float sum = stack[0];
        if (p->bias)
            sum = sum + p->bias[o];
        if (p->add)
            sum = *y + sum;
        rondo__put_element(y, 0, RONDO_F32, sum);
    }
}

#endif
