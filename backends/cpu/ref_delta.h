/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What both definitions of the delta rule, of its outputs and of its gradients, begin with: a row of a query or a key as rule 14 of
 * rondo-numerics(7) takes it. Included by ref_delta.c and ref_delta_backward.c.
 */
#ifndef RONDO_CPU_REF_DELTA_H
#define RONDO_CPU_REF_DELTA_H

#include "backends/cpu/delta.h"

#define CHAINS RONDO_CPU_DELTA_CHAINS
#define LANES RONDO_CPU_DELTA_LANES

static inline float fold_lanes(float lane[LANES])
{
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++)
            lane[i] = lane[i] + lane[i + half];
    return lane[0];
}

static inline float join(const float chain[CHAINS]) { return (chain[0] + chain[2]) + (chain[1] + chain[3]); }

/* 1 / sqrt(sum x^2 + eps), the sum in lanes as that of a norm. */
static inline float norm_of(const float *x, int64_t dim)
{
    float lane[LANES] = { 0 };
    for (int64_t d = 0; d < dim; d++)
        lane[d % LANES] = rondo__fma(x[d], x[d], lane[d % LANES]);
    return 1.0f / __builtin_sqrtf(fold_lanes(lane) + RONDO_CPU_DELTA_EPS);
}

static inline void read_row(const struct rondo_delta_form *f, const void *from, int64_t at, float *to)
{
    for (int64_t d = 0; d < f->key_dim; d++)
        to[d] = rondo__element(from, at + d, f->type);
    if (f->norm) {
        const float r = norm_of(to, f->key_dim);
        for (int64_t d = 0; d < f->key_dim; d++)
            to[d] = to[d] * r;
    }
}

#endif
