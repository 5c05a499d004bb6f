/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Elementary functions in double and the counter-based random generator: the only ones that rondo uses,
 * because a system's libm gives different last bits from one version to the next. IEEE add, subtract,
 * multiply and divide only, no fused operation, so every compiler and machine returns the same bits (contract
 * C10; build with -ffp-contract=off). Relative error below 1e-15.
 *
 * Called for the rope tables, the log-sum-exp of attention, sampling, and whoever wants reproducible values.
 *   exp, log   Cody and Waite's reduction by ln 2 in two parts; Taylor and atanh series
 *   sin, cos   Payne and Hanek's reduction with 1216 bits of 2/pi: right for every finite argument
 *   pow        log and the product with the exponent in double-double (Dekker 1971), then exp
 *   philox     Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3 (SC'11)
 */
#include <float.h>
#include <string.h>

#include "core/exp64.h"
#include "rondo.h"

#if FLT_EVAL_METHOD != 0
#error "rondo needs double arithmetic without excess precision (on 32-bit x86: -msse2 -mfpmath=sse)"
#endif

/* A sum hi + lo with |lo| at most half an ulp of hi. */
struct sum {
    double hi, lo;
};

static double magnitude(double x)
{
    return rondo__double(rondo__bits64(x) & UINT64_C(0x7fffffffffffffff));
}

static struct sum two_sum(double a, double b)
{
    double s = a + b, t = s - a;
    return (struct sum){ s, (a - (s - t)) + (b - t) };
}

/* |a| >= |b| */
static struct sum quick_two_sum(double a, double b)
{
    double s = a + b;
    return (struct sum){ s, b - (s - a) };
}

/* a * b exactly (Dekker with Veltkamp's splitting); |a|, |b| < 2^995 */
static struct sum two_product(double a, double b)
{
    double p = a * b;
    double ta = 134217729.0 * a, tb = 134217729.0 * b;
    double ah = ta - (ta - a), bh = tb - (tb - b);
    double al = a - ah, bl = b - bh;
    return (struct sum){ p, ((ah * bh - p) + ah * bl + al * bh) + al * bl };
}

/* ---- exp --------------------------------------------------------------------------------------------- */

double rondo_exp(double x)
{
    return rondo__exp64(x);
}

/* ---- log --------------------------------------------------------------------------------------------- */

double rondo_log(double x)
{
    return rondo__log64(x);
}

/* log(x) to about 65 bits, for pow: the first two terms of the atanh series in double-double */
static struct sum log_sum(double x)
{
    int e;
    double m = rondo__split_exponent(x, &e), f = m - 1.0, k = (double)e;
    struct sum d = two_sum(m, 1.0), p, u, s, z, w;
    double q;

    s.hi = f / d.hi;                                      /* s = f / (m + 1) */
    p = two_product(s.hi, d.hi);
    s.lo = (((f - p.hi) - p.lo) - s.hi * d.lo) / d.hi;
    z = two_product(s.hi, s.hi);                          /* z = s^2 */
    z.lo += 2.0 * s.hi * s.lo;
    q = 1.0 / 25.0;
    q = q * z.hi + 1.0 / 23.0;
    q = q * z.hi + 1.0 / 21.0;
    q = q * z.hi + 1.0 / 19.0;
    q = q * z.hi + 1.0 / 17.0;
    q = q * z.hi + 1.0 / 15.0;
    q = q * z.hi + 1.0 / 13.0;
    q = q * z.hi + 1.0 / 11.0;
    q = q * z.hi + 1.0 / 9.0;
    q = q * z.hi + 1.0 / 7.0;
    q = q * z.hi + 1.0 / 5.0;
    q = q * z.hi * z.hi;
    u = two_product(z.hi, 0x1.5555555555555p-2);          /* u = z/3 + q */
    u.lo += z.hi * 0x1.5555555555555p-56 + z.lo * (1.0 / 3.0);
    u = quick_two_sum(u.hi, u.lo + q);
    w = two_product(s.hi, u.hi);                          /* w = s + s u */
    w.lo += s.hi * u.lo + s.lo * u.hi;
    p = two_sum(s.hi, w.hi);
    p = quick_two_sum(p.hi, p.lo + (s.lo + w.lo));
    p.hi *= 2.0;
    p.lo *= 2.0;
    u = two_sum(k * RONDO_LN2_HI, p.hi);
    return quick_two_sum(u.hi, u.lo + (p.lo + k * RONDO_LN2_LO));
}

/* ---- pow --------------------------------------------------------------------------------------------- */

static int is_integer(double y)
{
    return magnitude(y) >= 0x1p53 || (double)(int64_t)y == y;
}

static int is_odd(double y)
{
    return magnitude(y) < 0x1p53 && (double)(int64_t)y == y && ((int64_t)y & 1);
}

/* The special values are those of IEEE 754-2019, 9.2.1. */
double rondo_pow(double base, double exponent)
{
    double x = magnitude(base), y = exponent, sign = 1.0;
    struct sum l, p;

    if (y == 0.0 || base == 1.0)
        return 1.0;
    if (x != x || y != y)
        return rondo__nan64();
    if ((rondo__bits64(base) >> 63) != 0 && is_odd(y))
        sign = -1.0;
    if (x == 0.0 || x > DBL_MAX)
        return (x == 0.0) == (y < 0.0) ? sign * RONDO_INFINITE : sign * 0.0;
    if (base < 0.0 && !is_integer(y))
        return rondo__nan64();
    if (x == 1.0)
        return sign;
    if (magnitude(y) > 0x1p64) /* |log(x)| >= 2^-53: far out of range; also infinite exponents */
        return (x > 1.0) == (y > 0.0) ? sign * RONDO_INFINITE : sign * 0.0;
    l = log_sum(x);
    p = two_product(y, l.hi);
    p.lo += y * l.lo;
    if (p.hi > 710.0)
        return sign * RONDO_INFINITE;
    if (p.hi < -746.0)
        return sign * 0.0;
    return sign * rondo__exp64_of(p.hi, p.lo);
}

/* ---- sin, cos ---------------------------------------------------------------------------------------- */

/* 2/pi: 64 zero bits before the point (so that a window may begin there), then 1216 bits */
static const uint64_t two_over_pi[20] = {
    0,
    UINT64_C(0xa2f9836e4e441529), UINT64_C(0xfc2757d1f534ddc0), UINT64_C(0xdb6295993c439041),
    UINT64_C(0xfe5163abdebbc561), UINT64_C(0xb7246e3a424dd2e0), UINT64_C(0x06492eea09d1921c),
    UINT64_C(0xfe1deb1cb129a73e), UINT64_C(0xe88235f52ebb4484), UINT64_C(0xe99c7026b45f7e41),
    UINT64_C(0x3991d639835339f4), UINT64_C(0x9c845f8bbdf9283b), UINT64_C(0x1ff897ffde05980f),
    UINT64_C(0xef2f118b5a0a6d1f), UINT64_C(0x6d367ecf27cb09b7), UINT64_C(0x4f463f669e5fea2d),
    UINT64_C(0x7527bac7ebe5f17b), UINT64_C(0x3d0739f78a5292ea), UINT64_C(0x6bfb5fb11f8d5d08),
    UINT64_C(0x56033046fc7b6bab),
};

static void multiply_64(uint64_t a, uint64_t b, uint64_t *high, uint64_t *low)
{
    uint64_t al = a & 0xffffffffu, ah = a >> 32, bl = b & 0xffffffffu, bh = b >> 32;
    uint64_t ll = al * bl, lh = al * bh, hl = ah * bl, hh = ah * bh;
    uint64_t middle = (ll >> 32) + (lh & 0xffffffffu) + (hl & 0xffffffffu);

    *low = (middle << 32) | (ll & 0xffffffffu);
    *high = hh + (lh >> 32) + (hl >> 32) + (middle >> 32);
}

/* x = (quadrant + multiple of 4) * pi/2 + r, |r| <= pi/4, for finite x >= 2^-1. |x| = m * 2^e times the 192
 * bits of 2/pi that matter: those above give whole turns, those below less than 2^-137. No double lies nearer
 * than about 2^-62 to a multiple of pi/2. */
static struct sum reduce(double x, int *quadrant)
{
    uint64_t u = rondo__bits64(x), m = (u & UINT64_C(0x000fffffffffffff)) | UINT64_C(0x0010000000000000);
    int e = (int)(u >> 52 & 0x7ff) - 1075, first = 62 + e, word = first / 64, shift = first % 64, q,
        zeros = 0;
    uint64_t w[3], f[3], high, low, carry;
    double sign = 1.0;
    struct sum a, r;

    for (int i = 0; i < 3; i++) {
        w[i] = two_over_pi[word + i] << shift;
        if (shift)
            w[i] |= two_over_pi[word + i + 1] >> (64 - shift);
    }
    multiply_64(m, w[2], &high, &f[2]); /* (m * w) modulo 2^192; its top two bits are the quadrant */
    f[1] = high;
    multiply_64(m, w[1], &high, &low);
    f[1] += low;
    carry = f[1] < low;
    f[0] = high + carry + m * w[0];

    q = (int)(f[0] >> 62);
    f[0] = f[0] << 2 | f[1] >> 62;
    f[1] = f[1] << 2 | f[2] >> 62;
    f[2] = f[2] << 2;
    if (f[0] >> 63) {                                     /* above one half: the next quadrant, from above */
        q++;
        sign = -1.0;
        f[2] = ~f[2] + 1;
        carry = f[2] == 0;
        f[1] = ~f[1] + carry;
        carry = carry && f[1] == 0;
        f[0] = ~f[0] + carry;
    }
    while (zeros < 128 && !(f[0] >> 63)) {
        f[0] = f[0] << 1 | f[1] >> 63;
        f[1] = f[1] << 1 | f[2] >> 63;
        f[2] = f[2] << 1;
        zeros++;
    }
    a.hi = (double)(f[0] >> 11) * rondo__power64(-53 - zeros);
    a.lo = (double)((f[0] << 53 | f[1] >> 11) >> 11) * rondo__power64(-106 - zeros);
    r = two_product(a.hi, 0x1.921fb54442d18p+0);
    r.lo += a.hi * 0x1.1a62633145c07p-54 + a.lo * 0x1.921fb54442d18p+0;
    r = quick_two_sum(r.hi, r.lo);
    if (u >> 63) {
        q = -q;
        sign = -sign;
    }
    *quadrant = q & 3;
    return (struct sum){ sign * r.hi, sign * r.lo };
}

/* sin(x + y), |x| <= pi/4, y its tail */
static double sin_kernel(double x, double y)
{
    double z = x * x, v = z * x, p = 1.0 / 355687428096000.0;   /* 1/17! */

    p = p * z - 1.0 / 1307674368000.0;
    p = p * z + 1.0 / 6227020800.0;
    p = p * z - 1.0 / 39916800.0;
    p = p * z + 1.0 / 362880.0;
    p = p * z - 1.0 / 5040.0;
    p = p * z + 1.0 / 120.0;
    return x - ((z * (0.5 * y - v * p) - y) + v * (1.0 / 6.0));
}

static double cos_kernel(double x, double y)
{
    double z = x * x, h = 0.5 * z, w = 1.0 - h, p = 1.0 / 20922789888000.0;   /* 1/16! */

    p = p * z - 1.0 / 87178291200.0;
    p = p * z + 1.0 / 479001600.0;
    p = p * z - 1.0 / 3628800.0;
    p = p * z + 1.0 / 40320.0;
    p = p * z - 1.0 / 720.0;
    p = p * z + 1.0 / 24.0;
    return w + (((1.0 - w) - h) + (z * z * p - x * y));
}

static double sin_or_cos(double x, int turn)
{
    struct sum r = { x, 0.0 };
    int quadrant = 0;

    if (!(magnitude(x) <= DBL_MAX))
        return rondo__nan64();
    if (magnitude(x) > 0x1.921fb54442d18p-1)
        r = reduce(x, &quadrant);
    quadrant += turn;
    if (quadrant & 1)
        return quadrant & 2 ? -cos_kernel(r.hi, r.lo) : cos_kernel(r.hi, r.lo);
    return quadrant & 2 ? -sin_kernel(r.hi, r.lo) : sin_kernel(r.hi, r.lo);
}

double rondo_sin(double x)
{
    return sin_or_cos(x, 0);
}

double rondo_cos(double x)
{
    return sin_or_cos(x, 1);
}

/* ---- random numbers ---------------------------------------------------------------------------------- */

void rondo_philox(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2])
{
    rondo__philox(out, counter, key);
}
