/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The contract's numerics (rondo-numerics(7)) for kernels: those of backends/cpu/num.h, which is the definition, and cheaper forms of the two
 * that attention spends its time on, with the same results where it uses them.
 */
#ifndef RONDO_CUDA_NUM_H
#define RONDO_CUDA_NUM_H

#include <float.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "backends/cuda/kernel.h"
#include "rondo.h"

/* What is inline there is a device's function here. */
#ifndef RONDO_CUDA_FIBERS
#define inline __host__ __device__ inline
#ifndef __NVCC__
#define memcpy __builtin_memcpy
#endif
#endif
#include "core/aligned_sum.h"
#include "core/elementary.h"
#include "core/exp64.h"
#include "core/leaf.h"
#include "backends/cpu/num_backward.h"
#include "backends/cuda/params.h"
#undef inline

/* rondo__rint() but for the sign of a zero, which no caller here looks at: to the nearest integer, ties to even; x itself from 2^22 on, where
 * the sum would not hold it, and where it is no finite number. */
DEVICE float cuda_rint(float x)
{
    const float n = (x + 12582912.0f) - 12582912.0f;
    return x < 4194304.0f && x > -4194304.0f ? n : rondo__rint(x);
}

/* rondo__weight() for a whole e, which is at most 0, or NaN: its last bits in the sum are those of the integer. Never with a sign, which marks
 * weights that were dropped. */
DEVICE float cuda_weight(float f, float e)
{
    const float two = rondo__float((rondo__bits(e + 12582912.0f) << 23) + 0x3f800000u);
    const float p = rondo__exp2_poly(f) * two;
    return e < -125.0f ? 0.0f : e != e ? rondo__float(0x7fffffffu) : p;
}

/* rondo__merge_scale() for a whole d, which is at most 0, in the same way. */
DEVICE float cuda_scale(float d) { return d < -125.0f ? 0.0f : rondo__float((rondo__bits(d + 12582912.0f) << 23) + 0x3f800000u); }
DEVICE int cuda_size(int type) { return type == RONDO_F32 ? 4 : type == RONDO_Q8 ? 1 : 2; }

/* Number d of a row of `dim` that begins at element `at`. */
DEVICE float cuda_number(const void *from, int64_t at, int64_t d, int64_t dim, int type)
{
    return rondo__row_number((const char *)from + at * (type == RONDO_F32 ? 4 : type == RONDO_Q8 ? 1 : 2), d, dim, type);
}

/* The two numbers of 16 bits in a word. */
DEVICE float cuda_low(uint32_t word, int type) { return type == RONDO_BF16 ? rondo__float(word << 16) : NUM_F16((uint16_t)word); }
DEVICE float cuda_high(uint32_t word, int type)
{
    return type == RONDO_BF16 ? rondo__float(word & 0xffff0000u) : NUM_F16((uint16_t)(word >> 16));
}

/* Eight numbers of no Q8, the first one a multiple of eight elements behind an address of whole 16 bytes. */
DEVICE void cuda_get8(float x[8], const void *from, int64_t at, int type)
{
    const struct quad *f = (const struct quad *)(const void *)((const char *)from + at * (type == RONDO_F32 ? 4 : 2)), first = f[0];
    if (type == RONDO_F32) {
        const struct quad second = f[1];
        x[0] = first.a, x[1] = first.b, x[2] = first.c, x[3] = first.d;
        x[4] = second.a, x[5] = second.b, x[6] = second.c, x[7] = second.d;
        return;
    }
    uint32_t w[4];
    memcpy(w, &first, sizeof w);
    UNROLL
    for (int i = 0; i < 4; i++) {
        x[2 * i] = cuda_low(w[i], type);
        x[2 * i + 1] = cuda_high(w[i], type);
    }
}
/* As rondo__put_element() puts each. */
DEVICE void cuda_put8(void *to, int64_t at, int type, const float x[8])
{
    struct quad *t = (struct quad *)(void *)((char *)to + at * (type == RONDO_F32 ? 4 : 2)), first;
    uint32_t w[8];
    UNROLL
    for (int i = 0; i < 8; i++)
        w[i] = type == RONDO_F32 ? rondo__bits(x[i] != x[i] ? rondo__float(RONDO_NAN_BITS) : x[i])
             : type == RONDO_BF16 ? rondo__to_bf16(x[i]) : rondo__to_f16(x[i]);
    if (type == RONDO_F32) {
        struct quad second;
        memcpy(&second, w + 4, sizeof second);
        t[1] = second;
    } else {
        UNROLL
        for (int i = 0; i < 4; i++)
            w[i] = w[2 * i] | w[2 * i + 1] << 16;
    }
    memcpy(&first, w, sizeof first);
    t[0] = first;
}

DEVICE int cuda_minimum(int a, int b) { return a < b ? a : b; }
DEVICE int cuda_maximum(int a, int b) { return a > b ? a : b; }
DEVICE int cuda_chunks(int64_t n, int size) { return (int)((n + size - 1) / size); }

#endif
