/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Of the elementary functions (math.c) those that a device's kernels need as well: the logarithm in double and the counter-based generator. In
 * what C and C++ have in common: a graphics card's kernels include it.
 */
#ifndef RONDO_CORE_ELEMENTARY_H
#define RONDO_CORE_ELEMENTARY_H

#include <float.h>
#include <stdint.h>
#include <string.h>

#define RONDO_LN2_HI 0x1.62e42fee00000p-1      /* 32 bits: k * RONDO_LN2_HI is exact for every exponent k */
#define RONDO_LN2_LO 0x1.a39ef35793c76p-33
#define RONDO_SQRT2 0x1.6a09e667f3bcdp+0
#define RONDO_INFINITE ((double)__builtin_inff())

static inline uint64_t rondo__bits64(double x)
{
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline double rondo__double(uint64_t u)
{
    double x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* Machines disagree on the NaN that 0/0 gives; this is ours. */
static inline double rondo__nan64(void)
{
    return rondo__double(UINT64_C(0x7ff8000000000000));
}

/* x = m * 2^k with sqrt(1/2) <= m < sqrt(2); x positive and finite, also subnormal */
static inline double rondo__split_exponent(double x, int *k)
{
    uint64_t u;
    double m;
    int e = 0;

    if (x < DBL_MIN) {
        x *= 0x1p54;
        e = -54;
    }
    u = rondo__bits64(x);
    e += (int)(u >> 52) - 1023;
    m = rondo__double((u & UINT64_C(0x000fffffffffffff)) | UINT64_C(0x3ff0000000000000));
    if (m >= RONDO_SQRT2) {
        m *= 0.5;
        e++;
    }
    *k = e;
    return m;
}

/* log(1+f) = 2 atanh(s) = f - (f^2/2 - s (f^2/2 + R)), s = f / (2+f), R = 2 s^2/3 + 2 s^4/5 + ...; |s| < 0.1716 */
static inline double rondo__log64(double x)
{
    double m, f, s, z, r, h, k;
    int e;

    if (x != x || x < 0.0)
        return rondo__nan64();
    if (x == 0.0)
        return -RONDO_INFINITE;
    if (x > DBL_MAX)
        return x;
    m = rondo__split_exponent(x, &e);
    f = m - 1.0;
    s = f / (2.0 + f);
    z = s * s;
    r = 2.0 / 23.0;
    r = r * z + 2.0 / 21.0;
    r = r * z + 2.0 / 19.0;
    r = r * z + 2.0 / 17.0;
    r = r * z + 2.0 / 15.0;
    r = r * z + 2.0 / 13.0;
    r = r * z + 2.0 / 11.0;
    r = r * z + 2.0 / 9.0;
    r = r * z + 2.0 / 7.0;
    r = r * z + 2.0 / 5.0;
    r = r * z + 2.0 / 3.0;
    r = r * z;
    h = 0.5 * f * f;
    k = (double)e;
    return k * RONDO_LN2_HI - ((h - (s * (h + r) + k * RONDO_LN2_LO)) - f);
}

static inline void rondo__philox(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2])
{
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3], k0 = key[0], k1 = key[1];

    for (int round = 0; round < 10; round++) {
        uint64_t a = UINT64_C(0xD2511F53) * c0, b = UINT64_C(0xCD9E8D57) * c2;
        uint32_t n0 = (uint32_t)(b >> 32) ^ c1 ^ k0, n2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)b;
        c3 = (uint32_t)a;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

#endif
