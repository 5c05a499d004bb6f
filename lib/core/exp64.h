/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The exponential in double (math.c), which a device's kernels need as well. In what C and C++ have in common: a graphics card's kernels include it.
 */
#ifndef RONDO_CORE_EXP64_H
#define RONDO_CORE_EXP64_H

#include "core/elementary.h"

#define RONDO_INVERSE_LN2 0x1.71547652b82fep+0

/* 2^k for -1022 <= k <= 1023 */
static inline double rondo__power64(int k)
{
    return rondo__double((uint64_t)(k + 1023) << 52);
}

/* To the nearest integer, ties to even, for |x| < 2^51. */
static inline double rondo__nearest64(double x)
{
    return (x + 0x1.8p52) - 0x1.8p52;
}

/* e^(hi + lo) for -746 < hi < 710, |lo| small against hi. Subnormal results are rounded once. */
static inline double rondo__exp64_of(double hi, double lo)
{
    double k = rondo__nearest64(hi * RONDO_INVERSE_LN2);
    double a = hi - k * RONDO_LN2_HI, t = lo - k * RONDO_LN2_LO;
    double r = a + t, c = (a - r) + t;
    double p = 1.0 / 6227020800.0;                        /* 1/13!: the next term is below 4e-18 */
    int e = (int)k;

    p = p * r + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 0.5;
    p = 1.0 + (r + (r * r * p + c));
    if (e > 1023)
        return (p * 0x1p1023) * rondo__power64(e - 1023);
    if (e < -1022)
        return (p * rondo__power64(e + 64)) * 0x1p-64;
    return p * rondo__power64(e);
}

static inline double rondo__exp64(double x)
{
    if (x != x)
        return rondo__nan64();
    if (x > 710.0)
        return RONDO_INFINITE;
    if (x < -746.0)
        return 0.0;
    return rondo__exp64_of(x, 0.0);
}

#endif
