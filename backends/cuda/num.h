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

DEVICE int cuda_minimum(int a, int b) { return a < b ? a : b; }
DEVICE int cuda_maximum(int a, int b) { return a > b ? a : b; }
DEVICE int cuda_chunks(int64_t n, int size) { return (int)((n + size - 1) / size); }

#endif
