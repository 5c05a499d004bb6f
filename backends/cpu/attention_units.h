/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Products of matrices in the orders of matrix units (rule 17 of rondo-numerics(7)), for attention_units.c: o[i][lane] of a[i][k] and b[k][lane],
 * where lanes are independent outputs. In f64 a chain of fused multiply-adds in double by rising k; in bf16-hopper a block sum for every 16 k,
 * with the definition's text (core/aligned_sum.h) for what the vectors do not hold.
 *
 * A block sum in vectors. Operands are floats that are BF16, and beside each lies its power of two, 2^e, those of b times 2^60. The largest product
 * of powers is 2^(E + 60), exactly: so E, without a look at any exponent. A term times 2^(25 - E) is exact, and converting it to an integer is the
 * cut; 16 of these fit 32 bits, and with the sum so far nearly always (vi_sum), which then becomes a float. It holds where
 * nothing leaves the range of floats on the way: numbers of a that are 0 or from 2^-126 to below 2^16, numbers of b that are 0 or from 2^-60
 * to below 2^24, which whoever makes operands looks at (`safe`), so that no sum reaches 2^58 (heads and leaves have fewer than 2^17 elements);
 * E from -60 on, which a tile looks at; and no sum so far that is subnormal, which only the definition makes.
 */
#ifndef RONDO_CPU_ATTENTION_UNITS_H
#define RONDO_CPU_ATTENTION_UNITS_H

#include "backends/cpu/vec_wide.h"
#include "core/aligned_sum.h"

#define VDL (VL / 2)
#define SAFE_A_LEAST 0x1p-126f
#define SAFE_A_LIMIT 0x1p16f
#define SAFE_B_LEAST 0x1p-60f
#define SAFE_B_LIMIT 0x1p24f
#define B_POWER 0x1p60f

/* ---- f64 ---- */

#define F64_ROWS 6
#if VEC_REGISTERS == 32
#define F64_COLS 4
#else
#define F64_COLS 2
#endif

/* Elements of a are ai apart by i and ak by k; of b, bk by k; to[i][lane], in single, ti by i. */
VEC void f64_tile(const int nr, const int nc, const int64_t n, const double *a, const int64_t ai, const int64_t ak, const double *b, const int64_t bk,
                  float *to, const int64_t ti)
{
    vd o[F64_ROWS][F64_COLS];
    UNROLL
    for (int i = 0; i < nr; i++)
        UNROLL
        for (int c = 0; c < nc; c++)
            o[i][c] = vd_zero();
    for (int64_t k = 0; k < n; k++) {
        vd x[F64_COLS];
        UNROLL
        for (int c = 0; c < nc; c++)
            x[c] = vd_load(b + k * bk + c * VDL);
        UNROLL
        for (int i = 0; i < nr; i++) {
            const vd w = vd_set1(a[i * ai + k * ak]);
            UNROLL
            for (int c = 0; c < nc; c++)
                o[i][c] = vd_fma(w, x[c], o[i][c]);
        }
    }
    UNROLL
    for (int i = 0; i < nr; i++)
        UNROLL
        for (int c = 0; c < nc; c++)
            vd_to_floats(to + i * ti + c * VDL, o[i][c]);
}

#define F64_ARGUMENTS                                                                                                                      \
    int64_t n, const double *a, const int64_t ai, const int64_t ak, const double *b, const int64_t bk, float *to, const int64_t ti
#define F64_KERNEL(nr, nc)                                                                                                                 \
    static __attribute__((noinline)) void f64_##nr##_##nc(F64_ARGUMENTS) { f64_tile(nr, nc, n, a, ai, ak, b, bk, to, ti); }
F64_KERNEL(6, 2)
F64_KERNEL(2, 2)
F64_KERNEL(1, 2)
F64_KERNEL(6, 1)
F64_KERNEL(2, 1)
F64_KERNEL(1, 1)
#if F64_COLS == 4
F64_KERNEL(6, 4)
F64_KERNEL(2, 4)
F64_KERNEL(1, 4)
#endif

/* `lanes` is a multiple of VDL. */
static void f64_products(int64_t rows, int64_t lanes, int64_t n, const double *a, int64_t ai, int64_t ak, const double *b, int64_t bk, float *to, int64_t ti)
{
    static void (*const kernels[][3])(F64_ARGUMENTS) = { { f64_6_1, f64_2_1, f64_1_1 }, { f64_6_2, f64_2_2, f64_1_2 },
#if F64_COLS == 4
                                                         { f64_6_4, f64_2_4, f64_1_4 },
#endif
    };
    for (int64_t c = 0; c < lanes;) {
        const int wide = F64_COLS == 4 && lanes - c >= 4 * VDL ? 2 : lanes - c >= 2 * VDL;
        for (int64_t i = 0; i < rows;) {
            const int64_t rest = rows - i, step = rest >= 6 ? 6 : rest >= 2 ? 2 : 1;
            kernels[wide][step == 6 ? 0 : step == 2 ? 1 : 2](n, a + i * ai, ai, ak, b + c, bk, to + i * ti + c, ti);
            i += step;
        }
        c += (int64_t)VDL << wide;
    }
}

/* ---- bf16-hopper ---- */

#if VEC_REGISTERS == 32
#define HOPPER_ROWS 4
#else
#define HOPPER_ROWS 2
#endif
#define HOPPER_COLS 2

/* One block: to[i][lane] = B(to[i][lane]; a[i][0..15], b[0..15][lane]). pa and pb: the powers. Returns 0 where the numbers are out of range, and
 * nothing is written. */
VEC int hopper_tile(const int nr, const int nc, const float *a, const float *pa, const int64_t ai, const int64_t ak, const float *b, const float *pb,
                    const int64_t bk, float *to, const int64_t ti)
{
    vf unit[HOPPER_ROWS][HOPPER_COLS], scale[HOPPER_ROWS][HOPPER_COLS];   /* unit: the largest power first */
    vi sum[HOPPER_ROWS][HOPPER_COLS];
    const vf one = vf_set1(1.0f);
    vm outside = vf_lt(one, one);
    UNROLL
    for (int i = 0; i < nr; i++)
        UNROLL
        for (int c = 0; c < nc; c++)
            unit[i][c] = vf_mul(vf_keep(vf_load(to + i * ti + c * VL), 0x7f800000u), vf_set1(B_POWER));
    for (int k = 0; k < RONDO_ALIGNED_SUM; k++) {
        vf x[HOPPER_COLS];
        UNROLL
        for (int c = 0; c < nc; c++)
            x[c] = vf_load(pb + k * bk + c * VL);
        UNROLL
        for (int i = 0; i < nr; i++) {
            const vf w = vf_set1(pa[i * ai + k * ak]);
            UNROLL
            for (int c = 0; c < nc; c++)
                unit[i][c] = vf_max(vf_mul(w, x[c]), unit[i][c]);
        }
    }
    UNROLL
    for (int i = 0; i < nr; i++)
        UNROLL
        for (int c = 0; c < nc; c++) {
            const vf most = unit[i][c];
            outside = vm_or(outside, vm_and(vf_lt(vf_zero(), most), vf_lt(most, one)));
            unit[i][c] = vf_max(most, one);
            scale[i][c] = vf_less_bits((uint32_t)(127 + 127 + 60 + RONDO_ALIGNED_BITS) << 23, unit[i][c]);
            sum[i][c] = vi_zero();
        }
    if (vm_any(outside))
        return 0;
    for (int k = 0; k < RONDO_ALIGNED_SUM; k++) {
        vf x[HOPPER_COLS];
        UNROLL
        for (int c = 0; c < nc; c++)
            x[c] = vf_load(b + k * bk + c * VL);
        UNROLL
        for (int i = 0; i < nr; i++) {
            const vf w = vf_set1(a[i * ai + k * ak]);
            UNROLL
            for (int c = 0; c < nc; c++)
                sum[i][c] = vi_add(sum[i][c], vi_cut(vf_mul(vf_mul(x[c], scale[i][c]), w)));
        }
    }
    UNROLL
    for (int i = 0; i < nr; i++)
        UNROLL
        for (int c = 0; c < nc; c++) {
            const vf all = vi_sum(sum[i][c], vi_cut(vf_mul(vf_load(to + i * ti + c * VL), scale[i][c])), &outside);
            unit[i][c] = vf_mul(all, vf_mul(unit[i][c], vf_set1(0x1p-85f)));   /* 2^-60 and 2^-25 */
        }
    if (vm_any(outside))
        return 0;
    UNROLL
    for (int i = 0; i < nr; i++)
        UNROLL
        for (int c = 0; c < nc; c++)
            vf_store(to + i * ti + c * VL, unit[i][c]);
    return 1;
}

/* The same by the definition. Returns whether a tile may go on from there. */
static __attribute__((noinline)) int hopper_plainly(int64_t rows, int64_t lanes, const float *a, int64_t ai, int64_t ak, const float *b, int64_t bk,
                                                    float *to, int64_t ti)
{
    uint16_t x[RONDO_ALIGNED_SUM], y[RONDO_ALIGNED_SUM];
    int normal = 1;
    for (int64_t lane = 0; lane < lanes; lane++) {
        for (int k = 0; k < RONDO_ALIGNED_SUM; k++)
            y[k] = (uint16_t)(rondo__bits(b[k * bk + lane]) >> 16);
        for (int64_t i = 0; i < rows; i++) {
            for (int k = 0; k < RONDO_ALIGNED_SUM; k++)
                x[k] = (uint16_t)(rondo__bits(a[i * ai + k * ak]) >> 16);
            to[i * ti + lane] = rondo__aligned_sum(to[i * ti + lane], x, y);
            normal &= to[i * ti + lane] == 0.0f || (rondo__bits(to[i * ti + lane]) & 0x7f800000u) != 0;
        }
    }
    return normal;
}

#define HOPPER_ARGUMENTS                                                                                                                   \
    int64_t blocks, const float *a, const float *pa, const int64_t ai, const int64_t ak, const float *b, const float *pb, const int64_t bk, \
        float *to, const int64_t ti, int safe
#define HOPPER_KERNEL(nr, nc)                                                                                                              \
    static __attribute__((noinline)) void hopper_##nr##_##nc(HOPPER_ARGUMENTS)                                                             \
    {                                                                                                                                      \
        int normal = 1;                                                                                                                    \
        for (; blocks > 0; blocks--) {                                                                                                     \
            if (!safe || !normal || !hopper_tile(nr, nc, a, pa, ai, ak, b, pb, bk, to, ti))                                                \
                normal = hopper_plainly(nr, nc * VL, a, ai, ak, b, bk, to, ti);                                                            \
            a += RONDO_ALIGNED_SUM * ak;                                                                                                   \
            pa += RONDO_ALIGNED_SUM * ak;                                                                                                  \
            b += RONDO_ALIGNED_SUM * bk;                                                                                                   \
            pb += RONDO_ALIGNED_SUM * bk;                                                                                                  \
        }                                                                                                                                  \
    }
#if HOPPER_ROWS == 4
HOPPER_KERNEL(4, 2)
HOPPER_KERNEL(4, 1)
#define HOPPER_MOST(c) ((c) == 2 ? hopper_4_2 : hopper_4_1)
#else
HOPPER_KERNEL(2, 2)
HOPPER_KERNEL(2, 1)
#define HOPPER_MOST(c) ((c) == 2 ? hopper_2_2 : hopper_2_1)
#endif
HOPPER_KERNEL(1, 2)
HOPPER_KERNEL(1, 1)

/* `to` holds the sums so far; lanes is a multiple of VL. */
static void hopper_products(int64_t rows, int64_t lanes, int64_t blocks, const float *a, const float *pa, int64_t ai, int64_t ak, const float *b, const float *pb,
                            int64_t bk, float *to, int64_t ti, int safe)
{
    for (int64_t c = 0; c < lanes;) {
        const int nc = lanes - c >= 2 * VL ? 2 : 1;
        for (int64_t i = 0; i < rows;) {
            const int64_t nr = rows - i >= HOPPER_ROWS ? HOPPER_ROWS : 1;
            (nr > 1 ? HOPPER_MOST(nc) : nc == 2 ? hopper_1_2 : hopper_1_1)(blocks, a + i * ai, pa + i * ai, ai, ak, b + c, pb + c, bk, to + i * ti + c, ti, safe);
            i += nr;
        }
        c += nc * VL;
    }
}

/* ---- operands of bf16-hopper ---- */

/* `count` floats, rounded to BF16 in place, and their powers of two times `by`; returns whether they are 0, or from `least` to below `limit`. */
static int hopper_operands(float *x, float *power, int64_t count, float least, float limit, float by)
{
    vf outside = vf_zero();
    for (int64_t i = 0; i < count; i += VL) {
        const int n = count - i < VL ? (int)(count - i) : VL;
        const vm lanes = vm_first(n);
        uint16_t h[VL];
        vf_to_bf16(h, vf_load_mask(x + i, lanes));
        const vf y = vf_from_bf16(h), size = vf_keep(y, 0x7fffffffu);
        outside = vf_select(vf_lt(size, vf_set1(limit)), outside, vf_set1(1.0f));
        outside = vf_select(vm_and(vf_lt(vf_zero(), size), vf_lt(size, vf_set1(least))), vf_set1(1.0f), outside);
        vf_store_mask(x + i, lanes, y);
        vf_store_mask(power + i, lanes, vf_mul(vf_keep(y, 0x7f800000u), vf_set1(by)));
    }
    return !vm_any(vf_lt(vf_zero(), outside));
}

#endif
