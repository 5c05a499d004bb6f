/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The sum that arithmetic bf16-hopper is made of (rule 17 of rondo-numerics(7)): what a matrix unit of compute capability 9.0 makes of an
 * accumulator and 16 products of BF16 numbers, in integers only. After MMA-Sim (arXiv:2511.10909), and held against ten million outputs of a card.
 * The definition of attention (backends/cpu/ref_attention.c), what kernels do where they may not use the unit, and whatever stands for the unit
 * on a machine without one all have this text. In what C and C++ have in common: a graphics card's kernels include it.
 */
#ifndef RONDO_CORE_ALIGNED_SUM_H
#define RONDO_CORE_ALIGNED_SUM_H

#include <stdint.h>
#include <string.h>

#define RONDO_ALIGNED_SUM 16          /* products of one sum */
#define RONDO_ALIGNED_BITS 25         /* fraction bits that are kept below the largest exponent */
#define RONDO_ALIGNED_LEAST (-133)    /* that exponent is at least this, which a product that is zero has */
#define RONDO_ALIGNED_NAN 0x7fffffffu

/* The exponent and significand of a number that is finite: with `bits` fraction bits, the significand is an integer; a subnormal number has
 * the least exponent and no hidden bit. */
static inline int32_t rondo__aligned_exponent(uint32_t field) { return (int32_t)(field ? field : 1u) - 127; }
static inline uint32_t rondo__aligned_significand(uint32_t x, uint32_t field, int bits)
{
    const uint32_t hidden = (uint32_t)1 << bits;
    return (x & (hidden - 1u)) | (field ? hidden : 0u);
}

/* m * 2^shift, cut to a whole number. shift is at most RONDO_ALIGNED_BITS. */
static inline int64_t rondo__aligned_cut(uint32_t m, int32_t shift)
{
    return shift >= 0 ? (int64_t)((uint64_t)m << shift) : shift > -32 ? (int64_t)(m >> -shift) : 0;
}

/* The bits of sum * 2^unit as a float, rounded toward zero; beyond the range infinity. */
static inline uint32_t rondo__aligned_pack(int64_t sum, int32_t unit)
{
    const uint32_t sign = sum < 0 ? 0x80000000u : 0u;
    uint64_t m = sum < 0 ? (uint64_t)-sum : (uint64_t)sum;
    int32_t high = 0;                 /* the number of the highest bit that is set */
    if (!m)
        return 0;
    for (int32_t step = 32; step; step /= 2)
        if (m >> (high + step))
            high += step;
    if (high + unit > 127)
        return sign | 0x7f800000u;
    const int32_t lowest = high + unit > -126 ? high + unit - 23 : -149;   /* exponent of the last bit that a float has there */
    m = lowest >= unit ? m >> (lowest - unit) : m << (unit - lowest);
    return sign | (m >> 23 ? (uint32_t)(lowest + 150) << 23 | ((uint32_t)m & 0x7fffffu) : (uint32_t)m);
}

/* B(c; a[0..15], b[0..15]); a and b are BF16. */
static inline float rondo__aligned_sum(float c, const uint16_t *a, const uint16_t *b)
{
    enum { POSITIVE = 1, NEGATIVE = 2, NONE = 4 };   /* infinities that take part, and what is no number */
    uint32_t u, special = 0;
    int32_t most = RONDO_ALIGNED_LEAST, e;
    int64_t sum = 0;
    float out;
    memcpy(&u, &c, sizeof u);
    const uint32_t field = u >> 23 & 255u;

    if (field == 255u)
        special = u & 0x7fffffu ? NONE : u >> 31 ? NEGATIVE : POSITIVE;
    else if (u & 0x7fffffffu)
        most = rondo__aligned_exponent(field) > most ? rondo__aligned_exponent(field) : most;
    for (int i = 0; i < RONDO_ALIGNED_SUM; i++) {
        const uint32_t x = a[i] & 0x7fffu, y = b[i] & 0x7fffu;
        if (x >= 0x7f80u || y >= 0x7f80u) {
            special |= x > 0x7f80u || y > 0x7f80u || !x || !y ? NONE : (a[i] ^ b[i]) & 0x8000u ? NEGATIVE : POSITIVE;
        } else if (x && y) {
            e = rondo__aligned_exponent(x >> 7) + rondo__aligned_exponent(y >> 7);
            most = e > most ? e : most;
        }
    }
    if (special) {
        u = special == POSITIVE ? 0x7f800000u : special == NEGATIVE ? 0xff800000u : RONDO_ALIGNED_NAN;
    } else {
        for (int i = 0; i < RONDO_ALIGNED_SUM; i++) {
            const uint32_t x = a[i] & 0x7fffu, y = b[i] & 0x7fffu;
            const uint32_t m = rondo__aligned_significand(x, x >> 7, 7) * rondo__aligned_significand(y, y >> 7, 7);   /* 14 fraction bits */
            e = rondo__aligned_exponent(x >> 7) + rondo__aligned_exponent(y >> 7);
            const int64_t term = m ? rondo__aligned_cut(m, e - most + RONDO_ALIGNED_BITS - 14) : 0;
            sum += (a[i] ^ b[i]) & 0x8000u ? -term : term;
        }
        if (u & 0x7fffffffu) {
            const int64_t term = rondo__aligned_cut(rondo__aligned_significand(u, field, 23), rondo__aligned_exponent(field) - most + RONDO_ALIGNED_BITS - 23);
            sum += u >> 31 ? -term : term;
        }
        u = rondo__aligned_pack(sum, most - RONDO_ALIGNED_BITS);
    }
    memcpy(&out, &u, sizeof out);
    return out;
}

#endif
