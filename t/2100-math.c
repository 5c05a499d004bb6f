/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo_exp, rondo_log, rondo_sin, rondo_cos, rondo_pow and rondo_philox: accuracy against a table made with multiple precision,
 * special values, identities, known answers, and one hash over many results that every compiler and option must reproduce.
 */
#include <float.h>
#include <stdint.h>

#include "rondo.h"
#include "tap.h"

enum { EXP, LOG, SIN, COS, POW };
static const char *const names[] = { "exp", "log", "sin", "cos", "pow" };

static const struct row {
    int function;
    double x, y, high, low;
} table[] = {
#include "2100-math-table.h"
};

static double call(int function, double x, double y)
{
    switch (function) {
    case EXP:
        return rondo_exp(x);
    case LOG:
        return rondo_log(x);
    case SIN:
        return rondo_sin(x);
    case COS:
        return rondo_cos(x);
    default:
        return rondo_pow(x, y);
    }
}

static uint64_t bits(double x)
{
    uint64_t u;
    memcpy(&u, &x, sizeof u);
    return u;
}

static double from_bits(uint64_t u)
{
    double x;
    memcpy(&x, &u, sizeof x);
    return x;
}

static double size(double x)
{
    return x < 0 ? -x : x;
}

static void accuracy(void)
{
    double worst[5] = { 0 }, at[5] = { 0 };
    int count[5] = { 0 };

    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        const struct row *r = &table[i];
        double got = call(r->function, r->x, r->y), error = size((got - r->high) - r->low);
        /* a subnormal result has an absolute spacing only */
        double e = size(r->high) < DBL_MIN ? error / 0x1p-1074 * 1e-15 / 1.5 : error / size(r->high);
        count[r->function]++;
        if (!(e <= worst[r->function]) && worst[r->function] == worst[r->function])
            at[r->function] = r->x;
        worst[r->function] = worse(worst[r->function], e);
    }
    for (int f = EXP; f <= POW; f++) {
        ok(count[f] > 30 && worst[f] < 1e-15, "%s: relative error below 1e-15 at %d points", names[f], count[f]);
        diag("%s: worst %.3g at %.17g", names[f], worst[f], at[f]);
    }
}

static void special(void)
{
    const double inf = (double)__builtin_inff(), nan = from_bits(UINT64_C(0xfff8000000000123)), big = DBL_MAX, tiny = 0x1p-1074;
    const uint64_t nan_bits = UINT64_C(0x7ff8000000000000);
    const struct {
        int function;
        double x, y;
        uint64_t want;
    } t[] = {
        { EXP, 0.0, 0, bits(1.0) }, { EXP, -0.0, 0, bits(1.0) }, { EXP, inf, 0, bits(inf) }, { EXP, -inf, 0, bits(0.0) },
        { EXP, nan, 0, nan_bits }, { EXP, 709.8, 0, bits(inf) }, { EXP, big, 0, bits(inf) }, { EXP, -745.2, 0, bits(0.0) },
        { EXP, -745.1, 0, bits(tiny) }, { EXP, -big, 0, bits(0.0) },
        { LOG, 1.0, 0, bits(0.0) }, { LOG, 0.0, 0, bits(-inf) }, { LOG, -0.0, 0, bits(-inf) }, { LOG, -1.0, 0, nan_bits },
        { LOG, -inf, 0, nan_bits }, { LOG, inf, 0, bits(inf) }, { LOG, nan, 0, nan_bits },
        { SIN, 0.0, 0, bits(0.0) }, { SIN, -0.0, 0, bits(-0.0) }, { SIN, inf, 0, nan_bits }, { SIN, -inf, 0, nan_bits },
        { SIN, nan, 0, nan_bits }, { SIN, tiny, 0, bits(tiny) },
        { COS, 0.0, 0, bits(1.0) }, { COS, -0.0, 0, bits(1.0) }, { COS, inf, 0, nan_bits }, { COS, nan, 0, nan_bits },
        { POW, nan, 0.0, bits(1.0) }, { POW, 1.0, nan, bits(1.0) }, { POW, nan, 1.0, nan_bits }, { POW, 2.0, nan, nan_bits },
        { POW, -1.0, inf, bits(1.0) }, { POW, -1.0, -inf, bits(1.0) }, { POW, 2.0, inf, bits(inf) }, { POW, 2.0, -inf, bits(0.0) },
        { POW, 0.5, inf, bits(0.0) }, { POW, 0.5, -inf, bits(inf) }, { POW, -0.5, inf, bits(0.0) }, { POW, -2.0, inf, bits(inf) },
        { POW, 0.0, 3.0, bits(0.0) }, { POW, -0.0, 3.0, bits(-0.0) }, { POW, -0.0, 2.0, bits(0.0) }, { POW, 0.0, -3.0, bits(inf) },
        { POW, -0.0, -3.0, bits(-inf) }, { POW, -0.0, -2.0, bits(inf) }, { POW, -0.0, 0.5, bits(0.0) },
        { POW, inf, 2.0, bits(inf) }, { POW, inf, -2.0, bits(0.0) }, { POW, -inf, 3.0, bits(-inf) }, { POW, -inf, 2.0, bits(inf) },
        { POW, -inf, -3.0, bits(-0.0) }, { POW, -inf, 0.5, bits(inf) }, { POW, inf, inf, bits(inf) }, { POW, 0.0, inf, bits(0.0) },
        { POW, 0.0, -inf, bits(inf) }, { POW, -2.0, 0.5, nan_bits }, { POW, -2.0, 2.0, bits(4.0) }, { POW, -2.0, 3.0, bits(-8.0) },
        { POW, -1.0, 0x1p53 + 2, bits(1.0) }, { POW, -1.0, 0x1p53 - 1, bits(-1.0) }, { POW, 10.0, 400.0, bits(inf) },
        { POW, -10.0, 401.0, bits(-inf) }, { POW, 10.0, -400.0, bits(0.0) }, { POW, -10.0, -401.0, bits(-0.0) },
        { POW, big, big, bits(inf) }, { POW, big, -big, bits(0.0) }, { POW, tiny, tiny, bits(1.0) }, { POW, -0.0, 0.0, bits(1.0) },
    };

    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        double got = call(t[i].function, t[i].x, t[i].y);
        ok(bits(got) == t[i].want, "%s(%g, %g) is %g", names[t[i].function], t[i].x, t[i].y, got);
    }
}

/* What must hold exactly whatever the last bit is. */
static void identities(void)
{
    int odd = 1, even = 1, powers = 1, monotonic = 1, logs = 1;
    double last = rondo_exp(-1.0);

    for (int i = 1; i < 2000; i++) {
        double x = (double)i * 0.7071 * (i % 7 == 0 ? 1e6 : 1.0);
        odd = odd && bits(rondo_sin(-x)) == bits(-rondo_sin(x));
        even = even && bits(rondo_cos(-x)) == bits(rondo_cos(x));
    }
    for (int k = -1074; k < 1024; k++) {
        double p = k < -1022 ? from_bits(UINT64_C(1) << (k + 1074)) : from_bits((uint64_t)(k + 1023) << 52);
        double l = rondo_log(p), want = (double)k * 0.693147180559945309417;
        powers = powers && rondo_pow(2.0, (double)k) == p;
        logs = logs && size(l - want) <= 4e-16 * size(want);
    }
    for (int i = 1; i <= 100000; i++) {
        double x = rondo_exp(-1.0 + (double)i / 50000.0);
        monotonic = monotonic && x >= last;
        last = x;
    }
    ok(odd, "sin is odd, bit for bit");
    ok(even, "cos is even, bit for bit");
    ok(powers, "pow(2, k) is exact for every k, subnormals too");
    ok(logs, "log(2^k) for every k");
    ok(monotonic, "exp does not fall over 100000 small steps");
}

static void philox(void)
{
    /* from kat_vectors of the Random123 distribution: counter, key, answer */
    static const uint32_t known[3][10] = {
        { 0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 },
        { 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd },
        { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 },
    };
    uint32_t out[4];

    for (int i = 0; i < 3; i++) {
        rondo_philox(out, known[i], known[i] + 4);
        ok(memcmp(out, known[i] + 6, sizeof out) == 0, "philox 4x32-10, known answer %d", i);
    }
}

/* Inputs from philox over all magnitudes; the sum of hashes must be this number whatever compiler, option or machine. */
static void one_hash(void)
{
    uint64_t hash = 0;
    const uint32_t key[2] = { 2100, 0 };
    int n = 20000;

    for (int i = 0; i < n; i++) {
        uint32_t counter[4] = { (uint32_t)i, 0, 0, 0 }, r[4];
        double result[8];
        rondo_philox(r, counter, key);
        uint64_t u = (uint64_t)r[0] << 32 | r[1], v = (uint64_t)r[2] << 32 | r[3];
        double x = (double)(int64_t)u * 0x1p-63, y = (double)(int64_t)v * 0x1p-63;
        double wide = from_bits((u & UINT64_C(0x000fffffffffffff)) | (uint64_t)(1 + v % 2045) << 52);
        result[0] = rondo_exp(x * 740.0);
        result[1] = rondo_exp(y);
        result[2] = rondo_log(wide);
        result[3] = rondo_log(1.0 + 0.5 * y);
        result[4] = rondo_sin(x * 1e9);
        result[5] = rondo_cos(wide);
        result[6] = rondo_pow(wide, y * 1.01);
        result[7] = rondo_pow(1.0 + x * 0x1p-20, y * 1e9);
        rondo_hash_add(&hash, result, sizeof result[0], (int64_t)i * 8, 8);
    }
    if (!ok(hash == UINT64_C(0x3836b3769bcd169d), "%d results have the recorded hash", 8 * n))
        diag("got 0x%016llx", (unsigned long long)hash);
}

int main(void)
{
    accuracy();
    special();
    identities();
    philox();
    one_hash();
    return done();
}
