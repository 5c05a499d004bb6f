/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What attention and linear layers have in common: a tile of 64 rows by 128 columns, of which each of 128 threads has 8 by 8, whose sums are
 * chains in the contract's order (rule C2: 1, 0, 3, 2, ...) over chunks that lie in shared memory. A warp has 16 whole rows: lane % 16 says which
 * columns (each 16th), lane / 16 and the number of the warp which rows (each other one).
 */
#ifndef RONDO_CUDA_TILE_H
#define RONDO_CUDA_TILE_H

#include "backends/cuda/num.h"

/* Rows [0, valid), at most `most`, of a matrix, of each columns [c0, c0 + columns) as far as there are (`end`), to shared memory as floats. Columns are
 * 32 or 128. */
DEVICE void cuda_stage(float *to, int pitch, int most, int valid, const void *from, int64_t at, int64_t stride, int c0, int columns, int end, int type,
                       int grain)
{
    if (grain == 16 && type != RONDO_Q8) {
        /* a thread has a quad of columns, or eight narrow ones, of every so many rows */
        const int many = type == RONDO_F32 ? 4 : 8, across = columns / many, step = CUDA_THREADS / across, c = THREAD % across * many;
        const int64_t size = type == RONDO_F32 ? 4 : 2;
        const char *f = (const char *)from + (at + c0 + c + THREAD / across * stride) * size;
        float *t = to + THREAD / across * pitch + c;
        if (c0 + c >= end)
            return;
        if (type == RONDO_F32 && valid == most) {
            UNROLL
            for (int n = 0; n < most / step; n++)
                COPY16(t + n * step * pitch, f + n * step * stride * 4, 1);
            return;
        }
        if (type == RONDO_F32) {
            ROLLED
            for (int row = THREAD / across; row < valid; row += step, f += step * stride * 4, t += step * pitch)
                COPY16(t, f, 1);
            return;
        }
        ROLLED
        for (int row = THREAD / across; row < valid; row += step, f += step * stride * 2, t += step * pitch) {
            uint32_t w[4];
            struct quad x[2];
            const struct quad raw = *(const struct quad *)(const void *)f;
            memcpy(w, &raw, sizeof w);
            x[0].a = cuda_low(w[0], type), x[0].b = cuda_high(w[0], type), x[0].c = cuda_low(w[1], type), x[0].d = cuda_high(w[1], type);
            x[1].a = cuda_low(w[2], type), x[1].b = cuda_high(w[2], type), x[1].c = cuda_low(w[3], type), x[1].d = cuda_high(w[3], type);
            ((struct quad *)(void *)t)[0] = x[0];
            ((struct quad *)(void *)t)[1] = x[1];
        }
        return;
    }
    if (type == RONDO_F32 && grain == 4) {
        for (int i = THREAD; i < valid * columns; i += CUDA_THREADS)
            if (c0 + i % columns < end)
                COPY4(to + i / columns * pitch + i % columns, (const float *)from + at + c0 + i / columns * stride + i % columns, 1);
        return;
    }
    for (int i = THREAD; i < valid * columns; i += CUDA_THREADS)
        if (c0 + i % columns < end)
            to[i / columns * pitch + i % columns] = cuda_number(from, at + i / columns * stride, c0 + i % columns, end, type);
}

/* ... of a type that is known when it is compiled, as far as it matters */
DEVICE void cuda_stage_typed(float *to, int pitch, int most, int valid, const void *from, int64_t at, int64_t stride, int c0, int columns, int end, int type,
                             int grain)
{
    if (type == RONDO_F32)
        cuda_stage(to, pitch, most, valid, from, at, stride, c0, columns, end, RONDO_F32, grain);
    else if (type == RONDO_BF16)
        cuda_stage(to, pitch, most, valid, from, at, stride, c0, columns, end, RONDO_BF16, grain);
    else
        cuda_stage(to, pitch, most, valid, from, at, stride, c0, columns, end, type, grain);
}

/* s[i][j] goes on over n columns of a chunk: a is the thread's first row, every other one is its own; b its first column, every 16th. */
DEVICE void cuda_chain(float s[8][8], const float *a, int a_pitch, const float *b, int b_pitch, int n)
{
    ROLLED
    for (int k = 0; k + 4 <= n; k += 4) {
        struct quad x[8];
        UNROLL
        for (int i = 0; i < 8; i++)
            x[i] = *(const struct quad *)(const void *)(a + 2 * i * a_pitch + k);
        struct quad y = *(const struct quad *)(const void *)(b + k);
        UNROLL
        for (int j = 0; j < 8; j++) {    /* the next column's come while this one's are computed with; a number's next step waits for eight others' */
            const struct quad now = y;
            if (j < 7)
                y = *(const struct quad *)(const void *)(b + 16 * (j + 1) * b_pitch + k);
            UNROLL
            for (int i = 0; i < 8; i++)
                s[i][j] = NUM_FMA(x[i].b, now.b, s[i][j]);
            UNROLL
            for (int i = 0; i < 8; i++)
                s[i][j] = NUM_FMA(x[i].a, now.a, s[i][j]);
            UNROLL
            for (int i = 0; i < 8; i++)
                s[i][j] = NUM_FMA(x[i].d, now.d, s[i][j]);
            UNROLL
            for (int i = 0; i < 8; i++)
                s[i][j] = NUM_FMA(x[i].c, now.c, s[i][j]);
        }
    }
    ROLLED
    for (int k = n & ~3; k < n + (n & 1); k++) {
        const int c = k ^ 1;
        if (c >= n)
            continue;
        UNROLL
        for (int i = 0; i < 8; i++) {
            UNROLL
            for (int j = 0; j < 8; j++)
                s[i][j] = NUM_FMA(a[2 * i * a_pitch + c], b[16 * j * b_pitch + c], s[i][j]);
        }
    }
}

#endif
