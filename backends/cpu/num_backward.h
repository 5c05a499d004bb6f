/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Rule 13 of rondo-numerics(7), gradients of attention, where it is about single numbers: for the kernels of the CPU and, as num.h, of graphics cards.
 */
#ifndef RONDO_CPU_NUM_BACKWARD_H
#define RONDO_CPU_NUM_BACKWARD_H

#ifndef __cplusplus
#include <stdbool.h>
#endif

#include "backends/cpu/num.h"

/* C13: a row's stored LSE as 2^n / c with a whole n and c in [0.7, 1.5]. false: the row is empty, and takes no part. */
static inline bool rondo__backward_row(float lse, float *n, float *c)
{
    const double y = (double)lse * RONDO_LOG2E;
    const float x = (float)y;
    if (lse == -__builtin_inff())
        return false;
    *n = rondo__rint(x);
    *c = rondo__exp2_poly(x < 8388608.0f && x > -8388608.0f ? (float)((double)*n - y) : 0.0f);
    return true;
}

/* C13: the weight of a score x, over the row's sum. */
static inline float rondo__backward_weight(float x, float n, float c)
{
    const float whole = rondo__rint(x), e = whole - n;
    return rondo__weight(x - whole, 127.0f < e ? 127.0f : e) * c;
}

/* C13: a finished sum times its factor, onto what is there. A zero is +0 first: a kernel that multiplies hidden pairs by 0 may turn its sign. */
static inline void rondo__backward_put(void *to, int64_t at, int type, float sum, float factor, int accumulate)
{
    const float x = sum * factor + 0.0f;
    rondo__put_element(to, at, type, accumulate ? rondo__element(to, at, type) + x : x);
}

#endif
