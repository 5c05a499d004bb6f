/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The product that all five of a tile of gradients are (backward.c, which is built once for each instruction set): some rows of factors, in one of
 * three layouts, with panels of two vectors, in chains of the order 1, 0, 3, 2, ... (rule 13 of rondo-numerics(7)); and how rows are laid out for it.
 */
#ifndef RONDO_CPU_BACKWARD_PRODUCT_H
#define RONDO_CPU_BACKWARD_PRODUCT_H

#include "backends/cpu/backward.h"
#include "backends/cpu/vec.h"

#define PANEL (2 * VL)      /* columns of a panel */
#define STRIP 8             /* rows that go together: they divide every leaf */
#define ROWS (VEC_REGISTERS >= 32 ? 8 : 4)   /* ... through one product: 2 * ROWS sums in registers */

/* c[m][n] of `rows` rows m and two vectors n; a_row: from m to m + 1, a_step: from k to k + 1. */
#define STEP(i)                                                                                                        \
    do {                                                                                                               \
        const vf b0 = vf_load(b + (int64_t)(i) * PANEL), b1 = vf_load(b + (int64_t)(i) * PANEL + VL);                  \
        const float *at = a + (int64_t)(i) * a_step;                                                                   \
        UNROLL                                                                                                         \
        for (int m = 0; m < ROWS; m++) {                                                                               \
            const vf one = vf_set1(at[m * a_row]);                                                                     \
            vf_fma_into(&acc[m][0], one, b0);                                                                          \
            vf_fma_into(&acc[m][1], one, b1);                                                                          \
        }                                                                                                              \
    } while (0)
VEC void product(const float *a, const int64_t a_row, const int64_t a_step, const float *b, int32_t k0, int32_t k1, float *c, int64_t c_row)
{
    vf acc[ROWS][2];
    UNROLL
    for (int m = 0; m < ROWS; m++)
        acc[m][0] = acc[m][1] = vf_zero();
    if (k0 < k1 && (k0 & 1)) {
        STEP(k0);
        k0++;
    }
    for (; k0 + 1 < k1; k0 += 2) {
        STEP(k0 + 1);
        STEP(k0);
    }
    if (k0 < k1)
        STEP(k0);
    UNROLL
    for (int m = 0; m < ROWS; m++) {
        vf_store(c + m * c_row, acc[m][0]);
        vf_store(c + m * c_row + VL, acc[m][1]);
    }
}

/* The same of factors that lie in panels too, `block` floats from one panel to the next. */
VEC void product_of_panels(const float *a, int64_t block, const float *b, int32_t k1, float *c, int64_t c_row)
{
    enum { a_row = PANEL, a_step = 1 };
    vf acc[ROWS][2];
    UNROLL
    for (int m = 0; m < ROWS; m++)
        acc[m][0] = acc[m][1] = vf_zero();
    for (; k1 > 0; k1 -= PANEL, a += block, b += PANEL * PANEL) {
        const int32_t end = k1 < PANEL ? k1 : PANEL;
        int32_t k = 0;
        for (; k + 1 < end; k += 2) {
            STEP(k + 1);
            STEP(k);
        }
        if (k < end)
            STEP(k);
    }
    UNROLL
    for (int m = 0; m < ROWS; m++) {
        vf_store(c + m * c_row, acc[m][0]);
        vf_store(c + m * c_row + VL, acc[m][1]);
    }
}
#undef STEP

static __attribute__((noinline)) void product_panels(const float *a, int64_t block, const float *b, int32_t k1, float *c, int64_t c_row)
{
    for (int32_t m = 0; m < STRIP; m += ROWS)
        product_of_panels(a + m * PANEL, block, b, k1, c + m * c_row, c_row);
}

static __attribute__((noinline)) void product_rows(const float *a, int64_t a_row, const float *b, int32_t k0, int32_t k1, float *c, int64_t c_row)
{
    for (int32_t m = 0; m < STRIP; m += ROWS)
        product(a + m * a_row, a_row, 1, b, k0, k1, c + m * c_row, c_row);
}

static __attribute__((noinline)) void product_columns(const float *a, int64_t a_step, const float *b, int32_t k0, int32_t k1, float *c, int64_t c_row)
{
    for (int32_t m = 0; m < STRIP; m += ROWS)
        product(a + m, 1, a_step, b, k0, k1, c + m * c_row, c_row);
}

/* ---- rows, laid out ---- */

/* One row as floats, with zeros up to `wide`. false: some are not finite. */
static bool widen(const void *from, int64_t at, int type, int32_t dim, int32_t wide, float *to)
{
    vf odd = vf_zero();
    int32_t d = 0;
    for (; d + VL <= dim; d += VL) {
        const vf x = vf_element(from, at + d, type);
        odd = vf_fma(x, vf_zero(), odd);
        vf_store(to + d, x);
    }
    float rest = 0.0f;
    for (; d < dim; d++) {
        to[d] = rondo__element(from, at + d, type);
        rest = rondo__fma(to[d], 0.0f, rest);
    }
    for (; d < wide; d++)
        to[d] = 0.0f;
    return !vm_any(vf_is_nan(odd)) && rest == rest;
}

/* Rows lie far apart where heads lie inside of them. */
static void ahead(const void *from, int64_t at, int type, int32_t dim)
{
    const char *p = (const char *)from + (size_t)at * rondo_type_size(type);
    const size_t bytes = (size_t)dim * rondo_type_size(type);
    for (size_t i = 0; i < bytes; i += 64)
        __builtin_prefetch(p + i);
}
#define AHEAD 3

static void to_panels(const float *row, int32_t i, int32_t size, int32_t wide, float *panels)
{
    for (int32_t d = 0; d < wide; d += PANEL) {
        float *to = panels + (int64_t)d * size + (int64_t)i * PANEL;
        vf_store(to, vf_load(row + d));
        vf_store(to + VL, vf_load(row + d + VL));
    }
}

/* Rows that are laid out together from column i on, of `left`: fours lie together in every block of columns. */
#define TOGETHER 4
static int32_t together(int32_t i, int32_t left) { return i % TOGETHER == 0 && left >= TOGETHER ? TOGETHER : 1; }

/* row[d], of `rows` rows `wide` apart, to columns i on of blocks of `across` columns, [block][dim][across] */
static void to_columns(const float *row, int32_t rows, int32_t wide, int32_t i, int32_t across, int32_t dim, float *to)
{
    int32_t d = 0;
    to += (int64_t)(i / across) * across * dim + i % across;
    for (; rows == TOGETHER && d + TOGETHER <= dim; d += TOGETHER)
        vec_transpose4(row + d, row + wide + d, row + 2 * wide + d, row + 3 * wide + d, to + (int64_t)d * across, across);
    for (; d < dim; d++)
        for (int32_t r = 0; r < rows; r++)
            to[(int64_t)d * across + r] = row[r * wide + d];
}

#endif
