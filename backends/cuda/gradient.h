/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Gradients of layers (rule 12 of rondo-numerics(7); backends/cpu/ref_gradient.c is the definition): dy W, sums over tokens, and what stands between
 * matrix products. Both products have tiles of 64 rows by 128 columns, as attention's values have: a step of the sum is a row of 128 numbers, and
 * 64 factors.
 */
#ifndef RONDO_CUDA_GRADIENT_H
#define RONDO_CUDA_GRADIENT_H

#include "backends/cuda/attention_tile.h"
#include "backends/cuda/linear.h"
#include "backends/cuda/rows.h"

/* One step: 8 factors, and the thread's quads of a row of 128. */
DEVICE void cuda_step(float acc[8][8], const float w[8], const float *v)
{
    UNROLL
    for (int h = 0; h < 2; h++) {
        const struct quad x = *(const struct quad *)(const void *)(v + 64 * h);
        UNROLL
        for (int i = 0; i < 8; i++) {
            acc[i][4 * h] = NUM_FMA(w[i], x.a, acc[i][4 * h]);
            acc[i][4 * h + 1] = NUM_FMA(w[i], x.b, acc[i][4 * h + 1]);
            acc[i][4 * h + 2] = NUM_FMA(w[i], x.c, acc[i][4 * h + 2]);
            acc[i][4 * h + 3] = NUM_FMA(w[i], x.d, acc[i][4 * h + 3]);
        }
    }
}

/* A leaf's sum joins `merges` of the `top` nodes before it, and goes behind what is left of them, where it is not the last. */
DEVICE void cuda_stack_leaf(float acc[8][8], float *stack, int top, int merges, int last)
{
    ROLLED
    for (int n = 1; n <= merges; n++) {
        const float *left = stack + (int64_t)(top - n) * CUDA_TILE * CUDA_COLUMNS + THREAD;
        UNROLL
        for (int i = 0; i < 8; i++) {
            UNROLL
            for (int j = 0; j < 8; j++)
                acc[i][j] = left[(i * 8 + j) * CUDA_THREADS] + acc[i][j];
        }
    }
    if (last)
        return;
    float *to = stack + (int64_t)(top - merges) * CUDA_TILE * CUDA_COLUMNS + THREAD;
    UNROLL
    for (int i = 0; i < 8; i++) {
        UNROLL
        for (int j = 0; j < 8; j++)
            to[(i * 8 + j) * CUDA_THREADS] = acc[i][j];
    }
}

DEVICE void cuda_put_tile(const float acc[8][8], float *y, int64_t y_stride, int rows, int columns, int add)
{
    const int lane = THREAD % 32, first = THREAD / 32 * 16 + lane / 16;
    UNROLL
    for (int i = 0; i < 8; i++) {
        UNROLL
        for (int j = 0; j < 8; j++) {
            const int r = first + 2 * i, c = lane % 16 * 4 + j / 4 * 64 + j % 4;
            float *to = y + r * y_stride + c;
            if (r < rows && c < columns)
                rondo__put_element(to, 0, RONDO_F32, add ? *to + acc[i][j] : acc[i][j]);
        }
    }
}

/* ---- dx ---- */

/* Outputs [o, o + n) of dy's and of the weights': dy as [64][PITCH], weights as [n][128]. */
DEVICE void cuda_dx_stage(const struct cuda_dx *p, float *dy, float *w, int64_t row, int rows, int64_t column, int columns, int64_t o, int n)
{
    const struct cuda_linear *l = &p->l;
    cuda_stage(dy, CUDA_PITCH, CUDA_TILE, rows, l->x, row * l->x_stride + o, l->x_stride, 0, CUDA_CHUNK, n, RONDO_F32, o % 4 == 0 && n % 4 == 0 ? l->x_grain : 4);
    if (l->type != RONDO_Q8) {
        const int64_t pitch = l->pitch >> (l->type == RONDO_F32 ? 2 : 1);
        cuda_stage_typed(w, CUDA_COLUMNS, CUDA_CHUNK, n, l->w + column * (l->type == RONDO_F32 ? 4 : 2), o * pitch, pitch, 0, CUDA_COLUMNS, columns, l->type, 16);
    } else {
        for (int i = THREAD; i < n * columns; i += CUDA_THREADS) {
            const int64_t at = o + i / columns, c = l->column + column + i % columns, g = ((c + 1) * l->leaves - 1) / l->in, inside = c - cuda_leaf_begin(l, g);
            w[i / columns * CUDA_COLUMNS + i % columns] = (float)((const int8_t *)l->w)[at * l->pitch + column + i % columns] *
                                                          cuda_scales(l, (int)g, at)[inside / l->group * l->scale_pitch];
        }
    }
    COPY_CLOSE();
}

DEVICE int64_t cuda_dx_begin(const struct cuda_dx *p, int64_t g) { return g * p->outputs / p->total - p->base * p->outputs / p->total; }

DEVICE void cuda_dx_tile(const struct cuda_dx *p, int64_t row, int64_t column, float *shared, float *stack)
{
    const int lane = THREAD % 32, first = THREAD / 32 * 16 + lane / 16, step = CUDA_TILE * CUDA_PITCH + CUDA_CHUNK * CUDA_COLUMNS;
    const int rows = (int)(p->l.rows - row < CUDA_TILE ? p->l.rows - row : CUDA_TILE);
    const int columns = (int)(p->columns - column < CUDA_COLUMNS ? p->columns - column : CUDA_COLUMNS);
    float acc[8][8];
    int top = 0;
    ROLLED
    for (int g = p->first; g < p->end; g++) {
        const int64_t begin = cuda_dx_begin(p, g);
        const int count = (int)(cuda_dx_begin(p, g + 1) - begin), merges = rondo__run_merges(g - p->first, 0, p->end - p->first);
        int parity = 0;
        cuda_zero(acc);
        BARRIER();                 /* nobody reads the chunks any more */
        cuda_dx_stage(p, shared, shared + CUDA_TILE * CUDA_PITCH, row, rows, column, columns, begin, cuda_minimum(count, CUDA_CHUNK));
        ROLLED
        for (int o = 0; o < count; o += CUDA_CHUNK, parity ^= 1) {
            const float *dy = shared + parity * step, *w = dy + CUDA_TILE * CUDA_PITCH + lane % 16 * 4;
            float *next = shared + (parity ^ 1) * step;
            const int n = cuda_minimum(count - o, CUDA_CHUNK);
            COPY_WAIT(0);
            BARRIER();
            if (o + CUDA_CHUNK < count)
                cuda_dx_stage(p, next, next + CUDA_TILE * CUDA_PITCH, row, rows, column, columns, begin + o + CUDA_CHUNK,
                              cuda_minimum(count - o - CUDA_CHUNK, CUDA_CHUNK));
            ROLLED
            for (int u = 0; u < n + (n & 1); u++) {
                const int k = u ^ 1;
                float a[8];
                if (k >= n)
                    continue;
                UNROLL
                for (int i = 0; i < 8; i++)
                    a[i] = dy[(first + 2 * i) * CUDA_PITCH + k];
                cuda_step(acc, a, w + k * CUDA_COLUMNS);
            }
        }
        cuda_stack_leaf(acc, stack, top, merges, g + 1 == p->end);
        top += 1 - merges;
    }
    cuda_put_tile(acc, p->l.y + row * p->l.y_stride + column, p->l.y_stride, rows, columns, p->l.add);
}

DEVICE void cuda_dx_kernel(const struct cuda_dx *p, float *shared)
{
    const int64_t tiles = (p->l.rows + CUDA_TILE - 1) / CUDA_TILE;
    ROLLED
    for (int64_t i = BLOCK; i < p->l.items; i += BLOCKS)
        cuda_dx_tile(p, i % tiles * CUDA_TILE, i / tiles * CUDA_COLUMNS, shared, p->l.stack + BLOCK * p->l.stack_floats);
}

/* ---- sums over tokens ---- */

/* Columns [column, column + columns) of n rows that the list names from `at` on, to [n][width]. */
DEVICE void cuda_token_stage(const struct cuda_tokens *p, float *to, int width, const float *from, int64_t stride, int64_t column, int columns, int64_t at, int n,
                             int grain)
{
    if (grain == 16 && columns == width) {
        for (int i = THREAD; i < n * width / 4; i += CUDA_THREADS)
            COPY16(to + i * 4, from + p->order[at + i / (width / 4)] * stride + column + i % (width / 4) * 4, 1);
        return;
    }
    for (int i = THREAD; i < n * columns; i += CUDA_THREADS)
        COPY4(to + i / columns * width + i % columns, from + p->order[at + i / columns] * stride + column + i % columns, 1);
}

DEVICE void cuda_token_tile(const struct cuda_tokens *p, int64_t row, int64_t column, float *shared, float *stack)
{
    const int lane = THREAD % 32, first = THREAD / 32 * 16 + lane / 16, step = CUDA_CHUNK * (CUDA_TILE + CUDA_COLUMNS);
    const int rows = (int)(p->rows - row < CUDA_TILE ? p->rows - row : CUDA_TILE);
    const int columns = (int)(p->columns - column < CUDA_COLUMNS ? p->columns - column : CUDA_COLUMNS);
    float acc[8][8];
    int top = 0;
    cuda_zero(acc);
    ROLLED
    for (int64_t g = 0; g < p->leaf_count; g++) {
        const int64_t begin = p->leaves[g].first, end = p->leaves[g + 1].first;
        const int last = g + 1 == p->leaf_count, merges = last ? top : (int)p->leaves[g].merges;
        int parity = 0;
        cuda_zero(acc);
        ROLLED
        for (int64_t t = begin - CUDA_CHUNK; t < end; t += CUDA_CHUNK, parity ^= 1) {   /* the first chunk is only fetched */
            float *next = shared + parity * step;
            const float *a = shared + (parity ^ 1) * step, *b = a + CUDA_CHUNK * CUDA_TILE + lane % 16 * 4;
            const int n = (int)(end - t < CUDA_CHUNK ? end - t : CUDA_CHUNK), more = (int)(end - t - CUDA_CHUNK < CUDA_CHUNK ? end - t - CUDA_CHUNK : CUDA_CHUNK);
            COPY_WAIT(0);
            BARRIER();
            if (more > 0) {
                cuda_token_stage(p, next, CUDA_TILE, p->a, p->a_stride, row, rows, t + CUDA_CHUNK, more, p->a_grain);
                cuda_token_stage(p, next + CUDA_CHUNK * CUDA_TILE, CUDA_COLUMNS, p->b, p->b_stride, column, columns, t + CUDA_CHUNK, more, p->b_grain);
                COPY_CLOSE();
            }
            ROLLED
            for (int k = 0; k < n && t >= begin; k++) {
                float w[8];
                UNROLL
                for (int i = 0; i < 8; i++)
                    w[i] = a[k * CUDA_TILE + first + 2 * i];
                cuda_step(acc, w, b + k * CUDA_COLUMNS);
            }
        }
        cuda_stack_leaf(acc, stack, top, merges, last);
        top += 1 - merges;
    }
    cuda_put_tile(acc, p->y + row * p->y_stride + column, p->y_stride, rows, columns, p->add);
}

DEVICE void cuda_token_product_kernel(const struct cuda_tokens *p, float *shared)
{
    const int64_t tiles = (p->rows + CUDA_TILE - 1) / CUDA_TILE, items = tiles * ((p->columns + CUDA_COLUMNS - 1) / CUDA_COLUMNS);
    ROLLED
    for (int64_t i = BLOCK; i < items; i += BLOCKS)
        cuda_token_tile(p, i % tiles * CUDA_TILE, i / tiles * CUDA_COLUMNS, shared, p->stack + BLOCK * p->stack_floats);
}

/* A thread has a column of a segment. */
DEVICE void cuda_token_sum_kernel(const struct cuda_tokens *p)
{
    ROLLED
    for (int64_t e = (int64_t)BLOCK * CUDA_THREADS + THREAD; e < p->segment_count * p->columns; e += (int64_t)BLOCKS * CUDA_THREADS) {
        const int64_t *segment = p->segments + e / p->columns * 3, c = e % p->columns, end = segment[0] + segment[1];
        float stack[40], *y = p->y + segment[2] * p->y_stride + c;
        int n = 0;
        ROLLED
        for (int64_t g = segment[0]; g < end; g++) {
            float acc = 0.0f;
            ROLLED
            for (int64_t i = p->leaves[g].first; i < p->leaves[g + 1].first; i++)
                acc = NUM_FMA(1.0f, p->b[p->order[i] * p->b_stride + c], acc);
            stack[n++] = acc;
            for (int64_t m = g + 1 < end ? p->leaves[g].merges : n - 1; m > 0; m--, n--)
                stack[n - 2] = stack[n - 2] + stack[n - 1];
        }
        const float sum = n ? stack[0] : 0.0f;
        rondo__put_element(y, 0, RONDO_F32, p->add ? *y + sum : sum);
    }
}

/* ---- row by row ---- */

/* The sum of squares of x; with dy of (dy w) (x r): to all threads. shared: float[8]. */
DEVICE float cuda_norm_sum(const float *x, const float *weight, const float *dy, float r, int64_t dim, float *shared)
{
    const int lane = THREAD % CUDA_NORM_LANES, slot = THREAD / CUDA_NORM_LANES, slots = CUDA_THREADS / CUDA_NORM_LANES;
    float stack[40];
    int n = 0;
    for (int64_t leaf = 0; leaf * CUDA_NORM_LEAF < dim; leaf += slots) {
        const int64_t first = (leaf + slot) * CUDA_NORM_LEAF, end = first + CUDA_NORM_LEAF < dim ? first + CUDA_NORM_LEAF : dim;
        float sum = 0.0f;
        for (int64_t i = first + lane; i < end; i += CUDA_NORM_LANES)
            sum = dy ? NUM_FMA(dy[i] * weight[i], x[i] * r, sum) : NUM_FMA(x[i], x[i], sum);
        UNROLL
        for (int half = CUDA_NORM_LANES / 2; half; half /= 2)
            sum = sum + SHUFFLE_XOR(sum, half);
        if (lane == 0)
            shared[slot] = sum;
        BARRIER();
        for (int s = 0; s < slots && (leaf + s) * CUDA_NORM_LEAF < dim; s++)
            CUDA_TREE(float, stack, n, shared[s], leaf + s);
        BARRIER();
    }
    for (; n > 1; n--)
        stack[n - 2] = stack[n - 2] + stack[n - 1];
    return stack[0];
}

DEVICE void cuda_rmsnorm_dx_kernel(const struct cuda_rmsnorm_dx *p, float *shared)
{
    for (int64_t row = BLOCK; row < p->rows; row += BLOCKS) {
        const float *x = p->x + row * p->dim, *dy = p->dy + row * p->dim;
        const float r = 1.0f / NUM_SQRT(cuda_norm_sum(x, (const float *)0, (const float *)0, 0.0f, p->dim, shared) / (float)p->dim + p->eps);
        const float mean = p->dx ? cuda_norm_sum(x, p->weight, dy, r, p->dim, shared) / (float)p->dim : 0.0f;
        for (int64_t i = THREAD; i < p->dim; i += CUDA_THREADS) {
            const float h = x[i] * r, y = dy[i], g = y * p->weight[i];
            if (p->dx) {
                float *to = p->dx + row * p->dim + i;
                const float one = NUM_FMA(-h, mean, g) * r;
                rondo__put_element(to, 0, RONDO_F32, p->add ? *to + one : one);
            }
            if (p->terms)
                rondo__put_element(p->terms, row * p->dim + i, RONDO_F32, y * h);
        }
        BARRIER();
    }
}

DEVICE void cuda_rope_back_kernel(const struct cuda_rope *p)
{
    const int64_t half = p->dim / 2, all = p->rows * p->heads * half;
    for (int64_t i = (int64_t)BLOCK * CUDA_THREADS + THREAD; i < all; i += (int64_t)BLOCKS * CUDA_THREADS) {
        const int64_t d = i % half, head = i / half % p->heads, row = i / half / p->heads;
        float *x = p->x + row * p->row_stride + head * p->head_stride;
        const float c = p->table[row * p->dim + d], s = p->table[row * p->dim + half + d], a = x[d], b = x[d + half], bs = b * s, as = a * s;
        rondo__put_element(x, d, RONDO_F32, NUM_FMA(a, c, bs));
        rondo__put_element(x, d + half, RONDO_F32, NUM_FMA(b, c, -as));
    }
}

DEVICE void cuda_swiglu_dx_kernel(const struct cuda_swiglu_dx *p)
{
    for (int64_t i = (int64_t)BLOCK * CUDA_THREADS + THREAD; i < p->count; i += (int64_t)BLOCKS * CUDA_THREADS) {
        const float g = p->gate[i], u = p->up[i], d = p->dy[i], below = 1.0f + rondo__exp2(-g * RONDO_LOG2E_F);
        const float s = 1.0f / below, h = g / below;
        rondo__put_element(p->dgate, i, RONDO_F32, (d * u) * NUM_FMA(h, 1.0f - s, s));
        rondo__put_element(p->dup, i, RONDO_F32, d * h);
    }
}

#endif
