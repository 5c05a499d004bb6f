/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The scalar numerics of the contract: fused multiply-add in software, rounding, the exponential's
 * polynomial, 16-bit types.
 */
#include <math.h>

#include "backends/cpu/num.h"
#include "backends/cpu/task.h"
#include "tap.h"

#define FROZEN_POLYNOMIAL 0x8c44c78c41247defu
#define FROZEN_TANH 0x956c435864c6ae12u

static uint64_t state = 7;
static uint32_t rnd(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 32);
}

static uint32_t canonical(float x) { return x != x ? RONDO_NAN_BITS : rondo__bits(x); }

static int fma_equal(float a, float b, float c)
{
    if (canonical(rondo__fma_soft(a, b, c)) == canonical(fmaf(a, b, c)))
        return 1;
    diag("fma(%a, %a, %a) = %a, not %a", (double)a, (double)b, (double)c, (double)rondo__fma_soft(a, b, c),
         (double)fmaf(a, b, c));
    return 0;
}

/* The C library's fmaf is the judge. Random bits; sums that nearly cancel, tie, or fall below the normal
 * range. */
static void test_fma(void)
{
    static const float special[] = { 0.0f,
                                     -0.0f,
                                     1.0f,
                                     -1.0f,
                                     0x1p-149f,
                                     -0x1p-149f,
                                     0x1p-126f,
                                     0x1.fffffep-127f,
                                     0x1.fffffep127f,
                                     -0x1.fffffep127f,
                                     INFINITY,
                                     -INFINITY,
                                     NAN,
                                     0x1.000002p0f,
                                     0x1p-75f,
                                     0x1.8p-74f };
    const int n = sizeof special / sizeof *special, rounds = long_tests() ? 100000000 : 3000000;
    int same = 1, near = 1, below = 1;
    for (int i = 0; i < n * n * n; i++)
        same &= fma_equal(special[i % n], special[i / n % n], special[i / n / n]);
    ok(same, "special values");
    same = 1;
    for (int i = 0; i < rounds && same && near && below; i++) {
        const float a = rondo__float(rnd()), b = rondo__float(rnd());
        same &= fma_equal(a, b, rondo__float(rnd()));
        /* c within a few units of -ab, so that only the rounded-off tail of the product is left; or 2^25
         * times smaller, at a tie */
        const float x = rondo__float((rnd() & 0x007fffffu) | 0x3f800000u),
                    y = rondo__float((rnd() & 0x00ffffffu) | 0x3f000000u);
        near &= fma_equal(x, y, rondo__float(rondo__bits(-x * y) + rnd() % 5 - 2));
        near &= fma_equal(x, y, rondo__float((rnd() & 0x807fffffu) | ((103u - rnd() % 4) << 23)));
        near &= fma_equal(
            x, rondo__float((rnd() & 0x80000000u) | ((128u + rnd() % 50) << 23) | (1u << rnd() % 23)),
            rondo__float(rnd() | 0x3f000000u));
        below &= fma_equal(x * 0x1p-70f, y * 0x1p-70f, rondo__float(rnd() & 0x80ffffffu));
        below &= fma_equal(x * 0x1p-64f, y * 0x1p-62f, rondo__float((rnd() & 0x80000003u)));
    }
    ok(same, "random bits");
    ok(near, "near cancellations and ties");
    ok(below, "results below the normal range");
}

static void test_rint(void)
{
    int same = 1;
    for (int i = 0; i < 3000000; i++) {
        const float x = i & 1 ? rondo__float(rnd()) : (float)((int)(rnd() % 4096) - 2048) * 0.25f;
        same &= canonical(rondo__rint(x)) == canonical(rintf(x));
    }
    ok(same, "rint as the C library's, zeros' signs included");
    ok(rondo__rint(INFINITY) == INFINITY && rondo__rint(-8388609.0f) == -8388609.0f,
       "rint of what is whole already");
}

/* P against 2^f in double. The stated bound is 1.09 * 2^-24. */
static void test_exp2(void)
{
    const uint32_t step = long_tests() ? 1 : 997;
    double worst = 0;
    for (uint32_t u = 0x30000000u; u <= 0x3f000000u; u += step)
        for (int sign = 0; sign < 2; sign++) {
            const float f = rondo__float(u | (uint32_t)sign << 31);
            const double e = fabs((double)rondo__exp2_poly(f) / exp2((double)f) - 1.0);
            worst = worse(worst, e);
        }
    ok(worst < 1.09 * 0x1p-24, "2^f on [-1/2, 1/2]: largest relative error %.4f * 2^-24", worst * 0x1p24);
    ok(rondo__exp2_poly(0.0f) == 1.0f && rondo__exp2_poly(-0.0f) == 1.0f, "2^0 is 1");
    uint64_t bits = 0; /* version 1 of the contract is these numbers for ever */
    for (int i = -4096; i <= 4096; i++)
        bits = bits * 0x9e3779b97f4a7c15u + rondo__bits(rondo__exp2_poly((float)i * 0x1p-13f));
    ok(bits == FROZEN_POLYNOMIAL, "the polynomial is the one of version 1 (%016llx)",
       (unsigned long long)bits);
    int whole = 1;
    for (int n = -125; n <= 127; n++)
        whole &= rondo__exp2((float)n) == ldexpf(1.0f, n) && rondo__pow2((float)n) == ldexpf(1.0f, n);
    ok(whole, "whole powers are exact");
    ok(rondo__weight(0.5f, -125.0f) == rondo__exp2_poly(0.5f) * 0x1p-125f &&
           rondo__weight(0.5f, -126.0f) == 0.0f,
       "weights end at 2^-125");
    ok(rondo__weight(0.0f, -INFINITY) == 0.0f && rondo__weight(NAN, -INFINITY) == 0.0f &&
           rondo__weight(NAN, NAN) != rondo__weight(NAN, NAN),
       "weights of scores that are not finite");
    ok(rondo__merge_scale(0.0f) == 1.0f && rondo__merge_scale(-125.0f) == 0x1p-125f &&
           rondo__merge_scale(-126.0f) == 0.0f && rondo__merge_scale(-INFINITY) == 0.0f,
       "merge factors");
    ok(rondo__exp2(-126.0f) == 0.0f && rondo__exp2(128.0f) == INFINITY && rondo__exp2(-INFINITY) == 0.0f &&
           rondo__exp2(NAN) != rondo__exp2(NAN),
       "ends of exp2");
}

/* T of rule 2 against the C library's tanh in double; the stated bound is 4.9 * 2^-24 over all floats that are not subnormal. */
static void test_tanh(void)
{
    const uint32_t step = long_tests() ? 1 : 997;
    double worst = 0, small = 0;
    int most = 1, odd = 1;
    for (uint32_t u = 1; u <= 0x7f800000u; u += step) {
        const float x = rondo__float(u), t = rondo__tanh(x);
        const double want = u < 0x30000000u ? (double)x : tanh((double)x);
        if (u >= 0x00800000u)
            worst = worse(worst, fabs((double)t / want - 1.0));
        else
            small = worse(small, fabs((double)t - want) * 0x1p149);
        most &= t <= 1.0f && t >= 0.0f;
        odd &= rondo__bits(rondo__tanh(-x)) == (rondo__bits(t) | 0x80000000u);
    }
    ok(worst < 4.9 * 0x1p-24, "tanh: largest relative error %.4f * 2^-24", worst * 0x1p24);
    ok(small <= 1.0, "of a subnormal x it is x within %g units", small);
    ok(most && odd, "it is at most 1, and odd");
    ok(rondo__bits(rondo__tanh(0.0f)) == 0 && rondo__bits(rondo__tanh(-0.0f)) == 0x80000000u && rondo__tanh(INFINITY) == 1.0f &&
           rondo__tanh(-INFINITY) == -1.0f && rondo__tanh(FLT_MAX) == 1.0f && rondo__tanh(NAN) != rondo__tanh(NAN),
       "tanh of zeros, of what is not finite, and of the largest");
    uint64_t bits = 0; /* frozen, as the polynomial is */
    for (int i = -4096; i <= 4096; i++)
        bits = bits * 0x9e3779b97f4a7c15u + rondo__bits(rondo__tanh((float)i * 0x1p-9f));
    ok(bits == FROZEN_TANH, "tanh is the one of version 1 (%016llx)", (unsigned long long)bits);
}

static double f16_value(uint32_t h)
{
    const int e = (int)(h >> 10 & 31), m = (int)(h & 1023);
    const double v = e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
    return h & 0x8000 ? -v : v;
}

/* Every finite 16-bit value, and the floats at, just below and just above the middle between it and the next.
 */
static void test_16_bits(void)
{
    int widen = 1, exact = 1, middle = 1, nans = 1;
    for (uint32_t h = 0; h < 65536; h++) {
        const uint16_t s = (uint16_t)h;
        const int f16_nan = (h & 0x7fff) > 0x7c00,
                  f16_finite = (h & 0x7fff)<0x7c00, bf16_nan = (h & 0x7fff)> 0x7f80;
        const float x = rondo__from_f16(s), y = rondo__from_bf16(s);
        widen &= f16_nan      ? x != x
                 : f16_finite ? (double)x == f16_value(h) && !signbit(x) == !(h & 0x8000)
                              : x == (h & 0x8000 ? -INFINITY : INFINITY);
        widen &= rondo__bits(y) == h << 16;
        if (f16_nan)
            nans &= rondo__to_f16(x) == 0x7e00;
        else
            exact &= rondo__to_f16(x) == s;
        if (bf16_nan)
            nans &= rondo__to_bf16(y) == 0x7fc0;
        else
            exact &= rondo__to_bf16(y) == s;
        if (f16_finite) { /* the value after 65504 would be 65536, which is infinity */
            const double next = (h & 0x7fff) == 0x7bff ? (h & 0x8000 ? -65536.0 : 65536.0) : f16_value(h + 1);
            const float half = (float)((f16_value(h) + next) / 2);
            const uint16_t even = (uint16_t)(h & 1 ? h + 1 : h);
            middle &= rondo__to_f16(half) == even;
            middle &= rondo__to_f16(nextafterf(half, 0.0f)) == s;
            middle &= rondo__to_f16(rondo__float(rondo__bits(half) + 1)) == h + 1;
        }
        if ((h & 0x7fff) < 0x7f80) {
            const uint32_t u = h << 16 | 0x8000u;
            middle &= rondo__to_bf16(rondo__float(u)) == (uint16_t)(h & 1 ? h + 1 : h);
            middle &=
                rondo__to_bf16(rondo__float(u - 1)) == s && rondo__to_bf16(rondo__float(u + 1)) == h + 1;
        }
    }
    ok(widen, "widening is exact");
    ok(exact, "what is exact stays");
    ok(middle, "rounding to nearest even between all neighbours");
    ok(nans, "one NaN");
}

/* (the judge of all tests with a bound) */
static void test_worse(void)
{
    const double nan = NAN;
    ok(worse(1, 2) == 2 && worse(2, 1) == 2 && worse(1, INFINITY) == INFINITY, "the larger error is kept");
    ok(!(worse(1, nan) <= 2) && !(worse(nan, 1) <= 2), "one that is NaN is worse than all, and stays");
}

/* What dropout's words are drawn by (rule 10), at positions that no test has memory for: below 0, and of 2^32 and more. */
static void test_drop_words(void)
{
    static const int64_t queries[] = { 0, 77, -1, -4096, ((int64_t)1 << 32) - 1, ((int64_t)1 << 32) + 5, ((int64_t)0xab << 32) + 9 };
    static const int64_t keys[] = { 0, 12, ((int64_t)1 << 32) + 8, ((int64_t)1 << 34) - 4, ((int64_t)1 << 34) + 16, ((int64_t)0xcd << 34) + 400 };
    struct rondo_attention_task t;
    int right = 1;
    memset(&t, 0, sizeof t);
    t.seed = 0xfedcba9876543210u;
    t.sequence = 321;
    for (size_t i = 0; i < sizeof queries / sizeof *queries; i++)
        for (size_t j = 0; j < sizeof keys / sizeof *keys; j++) {
            const uint64_t p = (uint64_t)queries[i], group = (uint64_t)keys[j] / 4;
            const uint32_t counter[4] = { (uint32_t)group, (uint32_t)p, 19u | (uint32_t)(group >> 32 & 255) << 16 | (uint32_t)(p >> 32 & 255) << 24, 321 };
            const uint32_t key[2] = { 0x76543210u, 0xfedcba98u };
            uint32_t want[4], got[4];
            rondo_philox(want, counter, key);
            rondo__drop_words(&t, 19, queries[i], keys[j], got);
            right &= !memcmp(want, got, sizeof want);
        }
    ok(right, "words of dropout at positions below 0, far and near");
}

int main(void)
{
    test_worse();
    test_drop_words();
    test_fma();
    test_rint();
    test_exp2();
    test_tanh();
    test_16_bits();
    return done();
}
