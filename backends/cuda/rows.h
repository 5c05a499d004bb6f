/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What stands between matrix products (contract C9; backends/cpu/ref_elementwise.c is the definition), and copies of rows.
 */
#ifndef RONDO_CUDA_ROWS_H
#define RONDO_CUDA_ROWS_H

#include "backends/cuda/num.h"

#define CUDA_NORM_LEAF 512
#define CUDA_NORM_LANES 16

/* The tree over leaves whose nodes come one after another: what to add after leaf g has been pushed. All threads do the same. */
#define CUDA_TREE(T, stack, n, node, g) \
    do { \
        T top_ = (node); \
        for (int64_t i_ = (g); i_ & 1; i_ >>= 1) \
            top_ = (stack)[--(n)] + top_; \
        (stack)[(n)++] = top_; \
    } while (0)

/* A block takes a row; 16 threads take a leaf, each a lane of it: eight leaves at once. shared: float[8][16], then float[8]. */
DEVICE void cuda_rmsnorm_kernel(const struct cuda_rmsnorm *p, float *shared)
{
    const int lane = THREAD % CUDA_NORM_LANES, slot = THREAD / CUDA_NORM_LANES, slots = CUDA_THREADS / CUDA_NORM_LANES;
    for (int64_t row = BLOCK; row < p->rows; row += BLOCKS) {
        const float *x = p->x + row * p->dim;
        float stack[40];
        int n = 0;
        for (int64_t leaf = 0; leaf * CUDA_NORM_LEAF < p->dim; leaf += slots) {
            const int64_t first = (leaf + slot) * CUDA_NORM_LEAF, end = first + CUDA_NORM_LEAF < p->dim ? first + CUDA_NORM_LEAF : p->dim;
            float sum = 0.0f;
            for (int64_t i = first + lane; i < end; i += CUDA_NORM_LANES)
                sum = NUM_FMA(x[i], x[i], sum);
            UNROLL
            for (int half = CUDA_NORM_LANES / 2; half; half /= 2)
                sum = sum + SHUFFLE_XOR(sum, half);   /* lane i has what the definition's has, for i < half; others are not looked at */
            if (lane == 0)
                shared[slot] = sum;
            BARRIER();
            for (int s = 0; s < slots && (leaf + s) * CUDA_NORM_LEAF < p->dim; s++)
                CUDA_TREE(float, stack, n, shared[s], leaf + s);
            BARRIER();
        }
        for (; n > 1; n--)
            stack[n - 2] = stack[n - 2] + stack[n - 1];
        const float mean = stack[0] / (float)p->dim, r = 1.0f / NUM_SQRT(mean + p->eps);
        for (int64_t i = THREAD; i < p->dim; i += CUDA_THREADS)
            rondo__put_element(p->y, row * p->dim + i, RONDO_F32, (x[i] * r) * p->weight[i]);
        BARRIER();
    }
}

DEVICE void cuda_rope_kernel(const struct cuda_rope *p)
{
    const int64_t half = p->dim / 2, all = p->rows * p->heads * half;
    for (int64_t i = (int64_t)BLOCK * CUDA_THREADS + THREAD; i < all; i += (int64_t)BLOCKS * CUDA_THREADS) {
        const int64_t d = i % half, head = i / half % p->heads, row = i / half / p->heads;
        float *x = p->x + row * p->row_stride + head * p->head_stride;
        const float c = p->table[row * p->dim + d], s = p->table[row * p->dim + half + d], a = x[d], b = x[d + half], bs = b * s, as = a * s;
        rondo__put_element(x, d, RONDO_F32, NUM_FMA(a, c, -bs));
        rondo__put_element(x, d + half, RONDO_F32, NUM_FMA(b, c, as));
    }
}

DEVICE void cuda_swiglu_kernel(const struct cuda_swiglu *p)
{
    for (int64_t i = (int64_t)BLOCK * CUDA_THREADS + THREAD; i < p->count; i += (int64_t)BLOCKS * CUDA_THREADS) {
        const float g = p->gate[i], e = rondo__exp2(-g * RONDO_LOG2E_F);
        rondo__put_element(p->y, i, RONDO_F32, g / (1.0f + e) * p->up[i]);
    }
}

DEVICE void cuda_sigmoid_mul_kernel(const struct cuda_swiglu *p)
{
    for (int64_t i = (int64_t)BLOCK * CUDA_THREADS + THREAD; i < p->count; i += (int64_t)BLOCKS * CUDA_THREADS)
        rondo__put_element(p->y, i, RONDO_F32, p->up[i] / (1.0f + rondo__exp2(-p->gate[i] * RONDO_LOG2E_F)));
}

/* A thread walks over the rows of a channel, of which eight are loaded together. y may be x, so rows cannot be shared out. */
DEVICE void cuda_short_conv_kernel(const struct cuda_conv *p)
{
    enum { TAPS = 8, ROWS = 8 };
    const int before = p->taps - 1, none = TAPS - p->taps;   /* the newest row is past[TAPS - 1] */
    ROLLED
    for (int64_t c = (int64_t)BLOCK * CUDA_THREADS + THREAD; c < p->channels; c += (int64_t)BLOCKS * CUDA_THREADS) {
        float past[TAPS], weight[TAPS];
        UNROLL
        for (int i = 0; i < TAPS; i++) {
            weight[i] = i >= none ? p->weight[(i - none) * p->channels + c] : 0.0f;
            past[i] = 0.0f;
            if (i > none && p->state)
                past[i] = p->state[(i - none - 1) * p->channels + c];
        }
        ROLLED
        for (int64_t row = 0; row < p->rows; row += ROWS) {
            float x[ROWS];
            UNROLL
            for (int n = 0; n < ROWS; n++)
                x[n] = row + n < p->rows ? p->x[(row + n) * p->x_stride + c] : 0.0f;
            UNROLL
            for (int n = 0; n < ROWS; n++) {
                float sum = 0.0f;
                if (row + n >= p->rows)
                    continue;
                UNROLL
                for (int i = 0; i < TAPS - 1; i++)
                    past[i] = past[i + 1];
                past[TAPS - 1] = x[n];
                UNROLL
                for (int i = 0; i < TAPS; i++)
                    sum = i >= none ? NUM_FMA(weight[i], past[i], sum) : sum;
                if (p->silu)
                    sum = sum / (1.0f + rondo__exp2(-sum * RONDO_LOG2E_F));
                rondo__put_element(p->y + (row + n) * p->y_stride, c, RONDO_F32, sum);
            }
        }
        UNROLL
        for (int i = 1; i < TAPS; i++)
            if (i > TAPS - 1 - before && p->state)
                p->state[(i - TAPS + before) * p->channels + c] = past[i];
    }
}

/* Where numbers become Q8 a warp takes a row, else a thread a number, or eight of them. */
DEVICE void cuda_convert_kernel(const struct cuda_convert *p)
{
    if (p->many == 8) {
        const int64_t across = p->dim / 8, all = p->rows * across;
        for (int64_t i = (int64_t)BLOCK * CUDA_THREADS + THREAD; i < all; i += (int64_t)BLOCKS * CUDA_THREADS) {
            const int64_t row = p->rows == 1 ? 0 : i / across, d = (i - row * across) * 8;
            float x[8];
            cuda_get8(x, (const char *)p->from + row * p->from_stride, d, p->from_type);
            cuda_put8((char *)p->to + row * p->to_stride, d, p->to_type, x);
        }
        return;
    }
    if (p->to_type != RONDO_Q8) {
        for (int64_t i = (int64_t)BLOCK * CUDA_THREADS + THREAD; i < p->rows * p->dim; i += (int64_t)BLOCKS * CUDA_THREADS) {
            const char *from = (const char *)p->from + i / p->dim * p->from_stride;
            char *to = (char *)p->to + i / p->dim * p->to_stride;
            rondo__put_element(to, i % p->dim, p->to_type, rondo__row_number(from, i % p->dim, p->dim, p->from_type));
        }
        return;
    }
    const int lane = THREAD % 32;
    for (int64_t row = (int64_t)BLOCK * (CUDA_THREADS / 32) + THREAD / 32; row < p->rows; row += (int64_t)BLOCKS * (CUDA_THREADS / 32)) {
        const char *from = (const char *)p->from + row * p->from_stride;
        char *to = (char *)p->to + row * p->to_stride;
        float largest = 0.0f;
        if (p->from_type == RONDO_Q8) {
            for (int64_t i = lane; i < p->dim + 4; i += 32)
                to[i] = from[i];
            continue;
        }
        for (int64_t i = lane; i < p->dim; i += 32) {   /* what is NaN once stays so; of several any one */
            const float x = rondo__element(from, i, p->from_type), a = x < 0.0f ? -x : x;
            largest = a > largest || a != a ? a : largest;
        }
        UNROLL
        for (int other = 1; other < 32; other *= 2) {
            const float a = SHUFFLE_XOR(largest, other);
            largest = a > largest || a != a ? a : largest;
        }
        const float scale = rondo__q8_scale(largest);
        for (int64_t i = lane; i < p->dim; i += 32)
            ((int8_t *)to)[i] = rondo__q8_number(rondo__element(from, i, p->from_type), scale);
        if (lane < 4)
            to[p->dim + lane] = (char)(rondo__bits(scale) >> 8 * lane & 0xffu);
    }
}

/* A block takes a row. shared: double[8][16] */
DEVICE void cuda_logsumexp_kernel(const struct cuda_logsumexp *p, double *shared)
{
    const int lane = THREAD % CUDA_NORM_LANES, slot = THREAD / CUDA_NORM_LANES, slots = CUDA_THREADS / CUDA_NORM_LANES;
    for (int64_t row = BLOCK; row < p->rows; row += BLOCKS) {
        const float *x = p->x + row * p->x_stride;
        float m = -FLT_MAX, nan = 0.0f, *most = (float *)(void *)shared;
        double stack[40], out;
        int n = 1;
        for (int64_t i = THREAD; i < p->dim; i += CUDA_THREADS) {
            m = x[i] > m ? x[i] : m;
            nan = x[i] != x[i] ? 1.0f : nan;
        }
        most[THREAD] = m;
        most[CUDA_THREADS + THREAD] = nan;
        BARRIER();
        m = -FLT_MAX;
        for (int i = 0; i < CUDA_THREADS; i++) {
            m = most[i] > m ? most[i] : m;
            nan = most[CUDA_THREADS + i] != 0.0f ? 1.0f : nan;
        }
        BARRIER();
        if (nan != 0.0f || m > FLT_MAX) {
            out = nan != 0.0f ? (double)rondo__float(RONDO_NAN_BITS) : (double)m;
        } else {
            stack[0] = 0.0;
            n = 0;
            for (int64_t leaf = 0; leaf * CUDA_NORM_LEAF < p->dim; leaf += slots) {
                const int64_t first = (leaf + slot) * CUDA_NORM_LEAF, end = first + CUDA_NORM_LEAF < p->dim ? first + CUDA_NORM_LEAF : p->dim;
                double sum = 0.0;
                for (int64_t i = first + lane; i < end; i += CUDA_NORM_LANES)
                    sum = sum + (double)rondo__exp2((x[i] - m) * RONDO_LOG2E_F);
                shared[THREAD] = sum;
                BARRIER();
                for (int half = CUDA_NORM_LANES / 2; half; half /= 2) {
                    if (lane < half)
                        shared[THREAD] = shared[THREAD] + shared[THREAD + half];
                    BARRIER();
                }
                for (int s = 0; s < slots && (leaf + s) * CUDA_NORM_LEAF < p->dim; s++)
                    CUDA_TREE(double, stack, n, shared[s * CUDA_NORM_LANES], leaf + s);
                BARRIER();
            }
            for (; n > 1; n--)
                stack[n - 2] = stack[n - 2] + stack[n - 1];
            out = (double)m + rondo__log64(stack[0]);
        }
        if (THREAD == 0)
            p->out[row] = out;
        BARRIER();
    }
}

DEVICE void cuda_copy_rows_kernel(const struct cuda_rows *p)
{
    const int64_t words = ((uint64_t)p->from | (uint64_t)p->to | (uint64_t)p->from_stride | (uint64_t)p->to_stride | (uint64_t)p->bytes) & 15 ? 0 : p->bytes / 16;
    const int64_t all = p->rows * (words ? words : p->bytes);
    for (int64_t i = (int64_t)BLOCK * CUDA_THREADS + THREAD; i < all; i += (int64_t)BLOCKS * CUDA_THREADS) {
        if (words)
            *(struct quad *)(void *)(p->to + i / words * p->to_stride + i % words * 16) =
                *(const struct quad *)(const void *)(p->from + i / words * p->from_stride + i % words * 16);
        else
            p->to[i / p->bytes * p->to_stride + i % p->bytes] = p->from[i / p->bytes * p->from_stride + i % p->bytes];
    }
}

#endif
