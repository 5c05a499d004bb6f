/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The scalar numerics of the contract (rondo-numerics(7), C1-C7): fused multiply-add, rounding to an integer,
 * the exponential, exact powers of two, merge factors, and the 16-bit types, in IEEE operations and integers
 * only. The spec programs (ref_*.c) are written with these; vec.h has the same
 * operations for vectors, and the tests hold the two equal bit for bit.
 *
 * Nothing here may be compiled with contraction, fast-math or extended precision.
 */
#ifndef RONDO_CPU_NUM_H
#define RONDO_CPU_NUM_H

#include <float.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "core/elementary.h"
#include "rondo.h"

#if defined(FLT_EVAL_METHOD) && FLT_EVAL_METHOD != 0
#error                                                                                                       \
    "rondo needs float arithmetic that rounds to float after every operation (on x86: SSE2, not the x87 unit)"
#endif
#ifdef __FAST_MATH__
#error "rondo must not be compiled with -ffast-math"
#endif

static inline uint32_t rondo__bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static inline float rondo__float(uint32_t u)
{
    float x;
    memcpy(&x, &u, sizeof x);
    return x;
}

/* ---- C1: fused multiply-add ---- */

/* Right for all inputs on any IEEE machine. The product of two floats is exact in double. Its sum with c is
 * rounded to odd: cut to 53 bits with the last bit set where something was cut off. 53 >= 2 * 24 + 2, so
 * rounding that to float (normal or subnormal) gives what rounding the exact sum would (Boldo and Melquiond,
 * IEEE Trans. Computers 57(4), 2008). */
static inline float rondo__fma_soft(float a, float b, float c)
{
    double p = (double)a * (double)b, s = p + (double)c;
    double t = s - p, e = (p - (s - t)) + ((double)c - t); /* Knuth: s + e is the exact sum */
    uint64_t u;
    if (e != 0.0 && s - s == 0.0) {
        memcpy(&u, &s, sizeof u);
        if (!(u & 1))
            u += (e > 0.0) == (s > 0.0) ? 1u : (uint64_t)-1;
        memcpy(&s, &u, sizeof s);
    }
    return (float)s;
}

static inline float rondo__fma(float a, float b, float c)
{
#if defined(NUM_FMA)   /* a graphics card's kernels */
    return NUM_FMA(a, b, c);
#elif defined(__FP_FAST_FMAF)
    return __builtin_fmaf(a, b, c);
#else
    return rondo__fma_soft(a, b, c);
#endif
}

/* ---- C3: x = n + f, and 2^f ---- */

/* To the nearest integer, ties to even; x itself from 2^23 on, and where x is not finite. Keeps the sign of a
 * zero. */
static inline float rondo__rint(float x)
{
    uint32_t sign = rondo__bits(x) & 0x80000000u;
    float a = rondo__float(rondo__bits(x) ^ sign);
    if (!(a < 8388608.0f))
        return x;
    return rondo__float(rondo__bits((a + 8388608.0f) - 8388608.0f) | sign);
}

/* P(f), |f| <= 1/2, is 2^f with a relative error below 1.09 * 2^-24 (less than one unit in the last place),
 * P(0) = 1: a minimax fit, refined by search over neighbouring floats for the error of this float evaluation.
 * Frozen: part of the contract. */
#define RONDO_EXP2_C1 0x1.62e43p-1f
#define RONDO_EXP2_C2 0x1.ebfbe2p-3f
#define RONDO_EXP2_C3 0x1.c6af04p-5f
#define RONDO_EXP2_C4 0x1.3b2c24p-7f
#define RONDO_EXP2_C5 0x1.5f497cp-10f
#define RONDO_EXP2_C6 0x1.41b42cp-13f

/* R of P(f) = 1 + R(f) f */
static inline float rondo__exp2_rest(float f)
{
    float p = rondo__fma(RONDO_EXP2_C6, f, RONDO_EXP2_C5);
    p = rondo__fma(p, f, RONDO_EXP2_C4);
    p = rondo__fma(p, f, RONDO_EXP2_C3);
    p = rondo__fma(p, f, RONDO_EXP2_C2);
    return rondo__fma(p, f, RONDO_EXP2_C1);
}

static inline float rondo__exp2_poly(float f) { return rondo__fma(rondo__exp2_rest(f), f, 1.0f); }

/* 2^e for a whole e in [-126, 127]. */
static inline float rondo__pow2(float e) { return rondo__float((uint32_t)((int32_t)e + 127) << 23); }

/* C4: the weight of a key: P(f) * 2^e, 0 where e < -125; NaN stays. e is at most 0. */
static inline float rondo__weight(float f, float e)
{
    if (e < -125.0f)
        return 0.0f;
    if (e != e)
        return e;
    return rondo__exp2_poly(f) * rondo__pow2(e);
}

/* C5: s(d) for d = M of a node less M of the merge, so d <= 0. */
static inline float rondo__merge_scale(float d) { return d < -125.0f ? 0.0f : rondo__pow2(d); }

/* 2^x for any x, of the same pieces: 0 where rint(x) < -125, +inf where rint(x) > 127; NaN stays. */
static inline float rondo__exp2(float x)
{
    float n = rondo__rint(x);
    if (n < -125.0f)
        return 0.0f;
    if (n > 127.0f)
        return rondo__float(0x7f800000u);
    if (n != n)
        return n;
    return rondo__exp2_poly(x - n) * rondo__pow2(n);
}

/* C2: tanh, odd, at most 1; NaN stays. With e = exp(-2|x|) it is (1 - e) / (1 + e), where e - 1 is built of the parts of 2^y, so that it
 * is as accurate for small x as for others: relative error below 4.9 * 2^-24 (t/2000-num.c). A division, for it is quicker than Newton's
 * steps as well as more accurate on what there is: vector units have it beside their multipliers. */
#define RONDO_TANH_C 0x1.715476p+1f /* 2 log2(e) */
#define RONDO_TANH_MIN -64.0f /* far below where 1 - e is 1 */

static inline float rondo__tanh(float x)
{
    const uint32_t sign = rondo__bits(x) & 0x80000000u;
    float y = rondo__float(rondo__bits(x) | 0x80000000u) * RONDO_TANH_C;
    y = RONDO_TANH_MIN > y ? RONDO_TANH_MIN : y;
    if (y != y)
        return y;
    const float n = rondo__rint(y), f = y - n, s = rondo__pow2(n), m = rondo__fma(s, rondo__exp2_rest(f) * f, s - 1.0f);
    return rondo__float((rondo__bits(m / (m + 2.0f)) & 0x7fffffffu) | sign);
}

#define RONDO_LOG2E 0x1.71547652b82fep+0 /* double */
#define RONDO_LOG2E_F 0x1.715476p0f /* rounded to single */
#define RONDO_LN2 0x1.62e42fefa39efp-1 /* double */
#define RONDO_NAN_BITS 0x7fc00000u /* the one NaN that is ever written out */

/* ---- C14: the delta rule's functions ---- */

/* e^x. The rest of x log2(e) over a whole number is taken with log2(e) in two parts, so that the error does not grow with x: relative, below
 * 1.4 * 2^-24. 0 where rint(x log2(e)) < -125, also for -infinity; +infinity where it is > 127; NaN stays. */
#define RONDO_LOG2E_LO 0x1.4ae0cp-26f /* log2(e) - RONDO_LOG2E_F */
#define RONDO_EXP_LEAST -110.0f /* far below where it is 0 */

static inline float rondo__exp(float x)
{
    x = RONDO_EXP_LEAST > x ? RONDO_EXP_LEAST : x;
    const float n = rondo__rint(x * RONDO_LOG2E_F);
    if (n < -125.0f)
        return 0.0f;
    if (n > 127.0f)
        return rondo__float(0x7f800000u);
    if (n != n)
        return n;
    return rondo__exp2_poly(rondo__fma(x, RONDO_LOG2E_LO, rondo__fma(x, RONDO_LOG2E_F, -n))) * rondo__pow2(n);
}

static inline float rondo__sigmoid(float x) { return 1.0f / (1.0f + rondo__exp(-x)); }

/* log(1 + e^x) = max(x, 0) + log(1 + t) with t = e^-|x|, and log(1 + t) = 2 artanh(t / (t + 2)): with s twice that quotient and w the square of
 * the quotient, s + s w (1/3 + w/5 + ... + w^6/15), whose rest is below 2^-29. */
static inline float rondo__softplus(float x)
{
    const float t = rondo__exp(rondo__float(rondo__bits(x) | 0x80000000u)), h = t / (t + 2.0f), s = h + h, w = h * h;
    float r = rondo__fma(0x1.111112p-4f, w, 0x1.3b13b2p-4f);
    r = rondo__fma(r, w, 0x1.745d18p-4f);
    r = rondo__fma(r, w, 0x1.c71c72p-4f);
    r = rondo__fma(r, w, 0x1.24924ap-3f);
    r = rondo__fma(r, w, 0x1.99999ap-3f);
    r = rondo__fma(r, w, 0x1.555556p-2f);
    return (x > 0.0f ? x : 0.0f) + rondo__fma(s * w, r, s);
}

/* RONDO_GATE_*: the gate g of x + bias; gain: exp(A_log). */
static inline float rondo__delta_gate(int gate, float x, float bias, float gain, float bound)
{
    if (gate == RONDO_GATE_LOG)
        return x;
    x = x + bias;
    return gate == RONDO_GATE_SOFTPLUS ? -(gain * rondo__softplus(x)) : bound * rondo__sigmoid(gain * x);
}

static inline float rondo__delta_beta(int beta, float x)
{
    return beta == RONDO_BETA_PLAIN ? x : beta == RONDO_BETA_SIGMOID ? rondo__sigmoid(x) : 2.0f * rondo__sigmoid(x);
}

/* C7: the natural log-sum-exp of a row, NaN canonical. In double: product, log and sum each rounded. */
static inline float rondo__lse(float m, float l)
{
    if (l == 0.0f)
        return -__builtin_inff();
    float y = (float)((double)m * RONDO_LN2 + rondo__log64((double)l));
    return y != y ? rondo__float(RONDO_NAN_BITS) : y;
}

/* ---- the 16-bit types: widening is exact; rounding is to nearest even, of integers ---- */

static inline float rondo__from_bf16(uint16_t h) { return rondo__float((uint32_t)h << 16); }

static inline float rondo__from_f16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, e = (h >> 10) & 31u, m = h & 0x3ffu;
    if (e == 31)
        return rondo__float(sign | 0x7f800000u | (m ? 0x400000u : 0u) | (m << 13));
    if (e == 0) /* zero or subnormal: m * 2^-24, exact */
        return rondo__float(sign | rondo__bits((float)m * 0x1p-24f));
    return rondo__float(sign | ((e + 112u) << 23) | (m << 13));
}

static inline uint16_t rondo__to_bf16(float x)
{
    uint32_t u = rondo__bits(x);
    if ((u & 0x7fffffffu) > 0x7f800000u)
        return 0x7fc0u;
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

static inline uint16_t rondo__to_f16(float x)
{
    uint32_t u = rondo__bits(x), sign = (u >> 16) & 0x8000u, a = u & 0x7fffffffu;
    if (a > 0x7f800000u)
        return 0x7e00u;
    if (a >= 0x477ff000u) /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (a < 0x38800000u) { /* below 2^-14: a multiple of 2^-24; adding 1/2 rounds at that bit */
        float y = rondo__float(a) + 0.5f;
        return (uint16_t)(sign | (rondo__bits(y) - 0x3f000000u));
    }
    a += 0xfffu + ((a >> 13) & 1u);
    return (uint16_t)(sign | ((a - 0x38000000u) >> 13));
}

/* Element i of an array of type F32, BF16 or F16. */
static inline float rondo__element(const void *p, int64_t i, int type)
{
    if (type == RONDO_F32)
        return ((const float *)p)[i];
    return type == RONDO_BF16 ? rondo__from_bf16(((const uint16_t *)p)[i])
                              : rondo__from_f16(((const uint16_t *)p)[i]);
}

/* Q8. The scale of numbers whose largest magnitude is `largest`: a 127th, rounded up to 16 significant bits, so that times a number it is
 * exact. Where one of them is no finite number all become NaN. */
static inline float rondo__q8_scale(float largest)
{
    const uint32_t u = rondo__bits(largest / 127.0f);
    return largest - largest != 0.0f ? rondo__float(RONDO_NAN_BITS) : rondo__float((u + 0xffu) & ~0xffu);
}

static inline int8_t rondo__q8_number(float x, float scale)
{
    if (!(scale > 0.0f))
        return 0;
    const float n = rondo__rint(x / scale);
    return (int8_t)(n > 127.0f ? 127.0f : n < -127.0f ? -127.0f : n);
}

/* Number d of a row of `dim`, of any type: of Q8 times the scale, which lies behind the row. */
static inline float rondo__row_number(const void *row, int64_t d, int64_t dim, int type)
{
    float scale;
    if (type != RONDO_Q8)
        return rondo__element(row, d, type);
    memcpy(&scale, (const char *)row + dim, sizeof scale);
    return (float)((const int8_t *)row)[d] * scale;
}

/* One rounding to the storage type; NaN becomes the canonical one. */
static inline void rondo__put_element(void *p, int64_t i, int type, float x)
{
    if (type == RONDO_F32)
        ((float *)p)[i] = x != x ? rondo__float(RONDO_NAN_BITS) : x;
    else
        ((uint16_t *)p)[i] = type == RONDO_BF16 ? rondo__to_bf16(x) : rondo__to_f16(x);
}

#endif
