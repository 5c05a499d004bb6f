/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What attention and linear layers have in common: a tile of 64 rows by 128 columns, of which each of 128 threads has 8 by 8, whose sums are
 * chains in the contract's order (rule C2: 1, 0, 3, 2, ...) over chunks that lie in shared memory. A warp has 16 whole rows: lane % 16 says which
 * columns (each 16th), lane / 16 and the number of the warp which rows (each other one).
 */
#ifndef RONDO_CUDA_TILE_H
#define RONDO_CUDA_TILE_H

#include "backends/cuda/num.h"

/* Rows [0, valid) of a matrix, of each columns [c0, c0 + columns) as far as there are (`end`), to shared memory as floats. Columns are
 * 32 or 128. */
DEVICE void cuda_stage(float *to, int pitch, int valid, const void *from, int64_t at, int64_t stride, int c0, int columns, int end, int type,
                       int grain)
{
    if (type == RONDO_F32 && grain >= 4) {
        const int quads = columns / 4;
        const float *f = (const float *)from + at + c0;
        if (grain == 16) {
            for (int i = THREAD; i < valid * quads; i += CUDA_THREADS)
                if (c0 + i % quads * 4 < end)
                    COPY16(to + i / quads * pitch + i % quads * 4, f + i / quads * stride + i % quads * 4, 1);
            return;
        }
        for (int i = THREAD; i < valid * columns; i += CUDA_THREADS)
            if (c0 + i % columns < end)
                COPY4(to + i / columns * pitch + i % columns, f + i / columns * stride + i % columns, 1);
        return;
    }
    if (grain == 16 && type != RONDO_Q8) {
        const int octets = columns / 8;
        for (int i = THREAD; i < valid * octets; i += CUDA_THREADS) {
            const int row = i / octets, c = i % octets * 8;
            if (c0 + c >= end)
                continue;
            uint32_t w[4];
            const struct quad raw = *(const struct quad *)(const void *)((const uint16_t *)from + at + row * stride + c0 + c);
            memcpy(w, &raw, sizeof w);
            struct quad *q = (struct quad *)(void *)(to + row * pitch + c);
            q[0].a = cuda_low(w[0], type), q[0].b = cuda_high(w[0], type), q[0].c = cuda_low(w[1], type), q[0].d = cuda_high(w[1], type);
            q[1].a = cuda_low(w[2], type), q[1].b = cuda_high(w[2], type), q[1].c = cuda_low(w[3], type), q[1].d = cuda_high(w[3], type);
        }
        return;
    }
    for (int i = THREAD; i < valid * columns; i += CUDA_THREADS)
        if (c0 + i % columns < end)
            to[i / columns * pitch + i % columns] = cuda_number(from, at + i / columns * stride, c0 + i % columns, end, type);
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
        UNROLL
        for (int j = 0; j < 8; j++) {
            const struct quad y = *(const struct quad *)(const void *)(b + 16 * j * b_pitch + k);
            UNROLL
            for (int i = 0; i < 8; i++) {
                s[i][j] = NUM_FMA(x[i].b, y.b, s[i][j]);
                s[i][j] = NUM_FMA(x[i].a, y.a, s[i][j]);
                s[i][j] = NUM_FMA(x[i].d, y.d, s[i][j]);
                s[i][j] = NUM_FMA(x[i].c, y.c, s[i][j]);
            }
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
