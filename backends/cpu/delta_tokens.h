/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Tokens of the delta rule as vectors take them (rule 14 of rondo-numerics(7)): numbers of any type become rows of floats, filled up with zeros to
 * whole vectors; queries and keys are normalised, gates become decays. Included by delta_states.h and delta_backward.c, once for each instruction set.
 */
#ifndef RONDO_CPU_DELTA_TOKENS_H
#define RONDO_CPU_DELTA_TOKENS_H

#include "backends/cpu/vec.h"
#include "backends/cpu/delta.h"

#define CHAINS RONDO_CPU_DELTA_CHAINS
#define LANES RONDO_CPU_DELTA_LANES
#define PARTS (LANES / VL)
#define USUAL 128 /* key_dim for which loops over channels are laid out flat: half of a percent of a forward pass */

static inline int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

VEC void read_elements(float *to, int64_t padded, const void *from, int64_t at, int64_t count, const int type)
{
    int64_t i = 0;
    for (; i + VL <= count; i += VL)
        vf_store(to + i, vf_element(from, at + i, type));
    for (; i < count; i++)
        to[i] = rondo__element(from, at + i, type);
    for (; i < padded; i++)
        to[i] = 0.0f;
}

static inline void read_numbers(float *to, int64_t padded, const void *from, int64_t at, int64_t count, int type)
{
    if (type == RONDO_F32)
        read_elements(to, padded, from, at, count, RONDO_F32);
    else if (type == RONDO_BF16)
        read_elements(to, padded, from, at, count, RONDO_BF16);
    else
        read_elements(to, padded, from, at, count, RONDO_F16);
}

/* VL elements from element `at` on, of which `left` are there; the others are 0. */
VEC vf some(const void *from, int64_t at, int64_t left, const int type)
{
    float x[VL];
    if (left >= VL)
        return vf_element(from, at, type);
    for (int64_t i = 0; i < VL; i++)
        x[i] = i < left ? rondo__element(from, at + i, type) : 0.0f;
    return vf_load(x);
}

/* The lanes of a row's sum of squares. Rows are filled up with zeros, which add nothing. */
VEC void squares_of(const void *from, int64_t at, int64_t dim, const int type, float lanes[LANES])
{
    vf sum[PARTS];
    UNROLL
    for (int p = 0; p < PARTS; p++)
        sum[p] = vf_zero();
    for (int64_t d = 0; d < dim; d += LANES)
        UNROLL
        for (int p = 0; p < PARTS; p++) {
            const vf v = some(from, at + d + p * VL, dim - d - p * VL, type);
            sum[p] = vf_fma(v, v, sum[p]);
        }
    UNROLL
    for (int p = 0; p < PARTS; p++)
        vf_store(lanes + p * VL, sum[p]);
}

/* 1 / sqrt(sum + eps) of VL such sums. */
VEC vf norms_of(const float *lanes)
{
    return vf_div(vf_set1(1.0f), vf_sqrt(vf_add(vf_fold(lanes), vf_set1(RONDO_CPU_DELTA_EPS))));
}

#define NORMS 32 /* are made together, so that one's latency hides behind the other's; a multiple of VL */

/* Rows are read twice rather than kept in between: what is stored costs more than what is loaded. */
VEC void normal_rows(int64_t dim, int64_t padded, const void *from, int64_t at, int64_t count, int64_t stride, float *to, const int type)
{
    float lanes[NORMS * LANES], r[NORMS];
    for (int64_t first = 0; first < count; first += NORMS, at += NORMS * stride) {
        const int64_t rows = count - first < NORMS ? count - first : NORMS;
        for (int64_t i = 0; i < rows; i++)
            squares_of(from, at + i * stride, dim, type, lanes + i * LANES);
        for (int64_t i = rows * LANES; i < up(rows, VL) * LANES; i += VL)
            vf_store(lanes + i, vf_zero());
        for (int64_t i = 0; i < rows; i += VL)
            vf_store(r + i, norms_of(lanes + i * LANES));
        for (int64_t i = 0; i < rows; i++, to += padded) {
            const vf by = vf_set1(r[i]);
            for (int64_t d = 0; d < padded; d += VL)
                vf_store(to + d, vf_mul(some(from, at + i * stride + d, dim - d, type), by));
        }
    }
}

static void read_rows(const struct rondo_delta_form *f, int64_t padded, const void *from, int64_t first, int64_t count, int64_t stride, float *to)
{
    if (!f->norm)
        for (int64_t i = 0; i < count; i++)
            read_numbers(to + i * padded, padded, from, (first + i) * stride, f->key_dim, f->type);
    else if (f->type == RONDO_F32 && f->key_dim == USUAL)
        normal_rows(USUAL, USUAL, from, first * stride, count, stride, to, RONDO_F32);
    else if (f->type == RONDO_F32)
        normal_rows(f->key_dim, padded, from, first * stride, count, stride, to, RONDO_F32);
    else if (f->type == RONDO_BF16)
        normal_rows(f->key_dim, padded, from, first * stride, count, stride, to, RONDO_BF16);
    else
        normal_rows(f->key_dim, padded, from, first * stride, count, stride, to, RONDO_F16);
}

/* Decays of the raw gates of some tokens. */
VEC void decays(const int gate, const int type, int64_t dim, const void *from, int64_t at, int64_t count, int64_t stride, float *to, int64_t padded,
                const float *bias, vf gain, vf bound)
{
    const int64_t wide = dim == 1 ? VL : padded;
    for (int64_t i = 0; i < count; i++, at += stride, to += padded)
        for (int64_t d = 0; d < wide; d += VL)
            vf_store(to + d, vf_exp(vf_delta_gate(gate, some(from, at + d, dim - d, type), vf_load(bias + d), gain, bound)));
}

static void read_gates(const struct rondo_delta_form *f, int64_t padded, const void *from, int64_t first, int64_t count, int64_t stride, float *a,
                       const float *bias, float gain)
{
    const vf by = vf_set1(gain), bound = vf_set1(f->lower_bound);
    const int64_t dim = f->gate_dim, at = first * stride;
    if (f->gate == RONDO_GATE_LOG && f->gate_type == RONDO_F32 && dim == USUAL)
        decays(RONDO_GATE_LOG, RONDO_F32, USUAL, from, at, count, stride, a, USUAL, bias, by, bound);
    else if (f->gate == RONDO_GATE_LOG && f->gate_type == RONDO_F32)
        decays(RONDO_GATE_LOG, RONDO_F32, dim, from, at, count, stride, a, padded, bias, by, bound);
    else if (f->gate == RONDO_GATE_LOG)
        decays(RONDO_GATE_LOG, f->gate_type, dim, from, at, count, stride, a, padded, bias, by, bound);
    else if (f->gate == RONDO_GATE_SOFTPLUS)
        decays(RONDO_GATE_SOFTPLUS, f->gate_type, dim, from, at, count, stride, a, padded, bias, by, bound);
    else
        decays(RONDO_GATE_BOUNDED, f->gate_type, dim, from, at, count, stride, a, padded, bias, by, bound);
    for (int64_t i = 0; i < count && dim == 1; i++) {
        const vf x = vf_set1(a[i * padded]);
        for (int64_t d = 0; d < padded; d += VL)
            vf_store(a + i * padded + d, x);
    }
}

/* What of their writes is taken: of `count` tokens, up to whole vectors of them. */
static void read_betas(const struct rondo_delta_form *f, const void *from, int64_t first, int64_t count, int64_t stride, float *to)
{
    for (int64_t i = 0; i < up(count, VL); i++)
        to[i] = i < count ? rondo__element(from, (first + i) * stride, f->beta_type) : 0.0f;
    if (f->beta == RONDO_BETA_PLAIN)
        return;
    for (int64_t i = 0; i < count; i += VL) {
        const vf y = vf_sigmoid(vf_load(to + i));
        vf_store(to + i, f->beta == RONDO_BETA_SIGMOID ? y : vf_mul(vf_set1(2.0f), y));
    }
}

VEC void write_elements(void *to, int64_t at, int64_t count, const float *from, const int type)
{
    int64_t i = 0;
    for (; i + VL <= count; i += VL)
        vf_put_element(to, at + i, type, vf_load(from + i));
    for (; i < count; i++)
        rondo__put_element(to, at + i, type, from[i]);
}

static inline void write_numbers(void *to, int64_t at, int64_t count, const float *from, int type)
{
    if (type == RONDO_F32)
        write_elements(to, at, count, from, RONDO_F32);
    else if (type == RONDO_BF16)
        write_elements(to, at, count, from, RONDO_BF16);
    else
        write_elements(to, at, count, from, RONDO_F16);
}

#endif
