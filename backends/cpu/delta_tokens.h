/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Tokens of the delta rule as vectors take them (rule 14 of rondo-numerics(7)): numbers of any type become rows of floats, filled up with zeros to
 * whole vectors; queries and keys are normalised, gates become decays. Included by delta.c and delta_backward.c, once for each instruction set.
 */
#ifndef RONDO_CPU_DELTA_TOKENS_H
#define RONDO_CPU_DELTA_TOKENS_H

#include "backends/cpu/vec.h"
#include "backends/cpu/delta.h"

#define CHAINS RONDO_CPU_DELTA_CHAINS
#define LANES RONDO_CPU_DELTA_LANES
#define PARTS (LANES / VL)

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

/* 1 / sqrt(sum x^2 + eps) of VL rows, of which `count` are there. Their lanes are turned about, so that vectors fold those of VL rows at once.
 * Rows are filled up with zeros, which add nothing. */
VEC void norms(const float *x, int64_t padded, int count, float *to)
{
    vf lane[PARTS][VL];
    UNROLL
    for (int i = 0; i < VL; i++) {
        vf sum[PARTS];
        UNROLL
        for (int p = 0; p < PARTS; p++)
            sum[p] = vf_zero();
        for (int64_t d = 0; i < count && d < padded; d += LANES)
            UNROLL
            for (int p = 0; p < PARTS; p++) {
                const vf v = vf_load(x + i * padded + d + p * VL);
                sum[p] = vf_fma(v, v, sum[p]);
            }
        UNROLL
        for (int p = 0; p < PARTS; p++)
            lane[p][i] = sum[p];
    }
    UNROLL
    for (int p = 0; p < PARTS; p++)
        vf_transpose(lane[p]);
#define LANE(i) lane[(i) / VL][(i) % VL]
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++)
            LANE(i) = vf_add(LANE(i), LANE(i + half));
    vf_store(to, vf_div(vf_set1(1.0f), vf_sqrt(vf_add(LANE(0), vf_set1(RONDO_CPU_DELTA_EPS)))));
#undef LANE
}

static inline void normalise(float *x, int64_t padded, int64_t count)
{
    float r[VL];
    for (int64_t i = 0; i < count; i++, x += padded) {
        if (i % VL == 0)
            norms(x, padded, count - i < VL ? (int)(count - i) : VL, r);
        const vf by = vf_set1(r[i % VL]);
        for (int64_t d = 0; d < padded; d += VL)
            vf_store(x + d, vf_mul(vf_load(x + d), by));
    }
}

static inline void read_rows(const struct rondo_delta_form *f, int64_t padded, const void *from, int64_t first, int64_t count, int64_t stride, float *to)
{
    for (int64_t i = 0; i < count; i++)
        read_numbers(to + i * padded, padded, from, (first + i) * stride, f->key_dim, f->type);
    if (f->norm)
        normalise(to, padded, count);
}

/* Raw gates become decays, in place. */
VEC void decays(float *g, int64_t padded, const int gate, const float *bias, vf gain, vf bound)
{
    for (int64_t i = 0; i < padded; i += VL)
        vf_store(g + i, vf_exp(vf_delta_gate(gate, vf_load(g + i), vf_load(bias + i), gain, bound)));
}

static inline void read_gates(const struct rondo_delta_form *f, int64_t key_padded, const void *from, int64_t at, float *a, const float *bias, float gain)
{
    const vf by = vf_set1(gain), bound = vf_set1(f->lower_bound);
    const int64_t padded = f->gate_dim == 1 ? VL : key_padded;
    read_numbers(a, padded, from, at, f->gate_dim, f->gate_type);
    if (f->gate == RONDO_GATE_LOG)
        decays(a, padded, RONDO_GATE_LOG, bias, by, bound);
    else if (f->gate == RONDO_GATE_SOFTPLUS)
        decays(a, padded, RONDO_GATE_SOFTPLUS, bias, by, bound);
    else
        decays(a, padded, RONDO_GATE_BOUNDED, bias, by, bound);
    for (int64_t i = 1; i < f->key_dim && f->gate_dim == 1; i++)
        a[i] = a[0];
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
