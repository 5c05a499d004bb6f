/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Cross-entropy inside of a leaf of classes, and its gradient, in vectors, compiled once for each instruction set: the bits of ref_entropy.c.
 * A leaf's largest element is found while it is brought into the nearest cache, where its weights are then made: memory is read once. Called by
 * entropy_ops.c.
 */
#include "backends/cpu/vec.h"
#include "backends/cpu/layers.h"

#define LANES RONDO_CPU_NORM_LANES
#define PARTS (LANES / VL)      /* vectors that hold the 16 lanes */

VEC vf weight(vf x, vf most) { return vf_exp2(vf_mul(vf_sub(x, most), vf_set1((float)RONDO_LOG2E))); }

/* The order of comparisons does not matter, and a NaN is never the largest. */
VEC float largest(const float *x, int64_t count)
{
    vf a = vf_set1(-FLT_MAX), b = a, c = a, d = a;
    float lane[VL], most = -FLT_MAX;
    int64_t i = 0;
    for (; i + 4 * VL <= count; i += 4 * VL) {
        a = vf_max(vf_load(x + i), a);
        b = vf_max(vf_load(x + i + VL), b);
        c = vf_max(vf_load(x + i + 2 * VL), c);
        d = vf_max(vf_load(x + i + 3 * VL), d);
    }
    vf_store(lane, vf_max(vf_max(a, b), vf_max(c, d)));
    for (int j = 0; j < VL; j++)
        most = lane[j] > most ? lane[j] : most;
    for (; i < count; i++)
        most = x[i] > most ? x[i] : most;
    return most;
}

static void leaf(const float *x, int64_t count, float *most, double *sum)
{
    double lane[LANES] = { 0 };
    float p[LANES];
    int64_t i = 0;
    *most = largest(x, count);
    const vf m = vf_set1(*most);
    for (; i + LANES <= count; i += LANES) {
        UNROLL
        for (int part = 0; part < PARTS; part++)
            vf_store(p + part * VL, weight(vf_load(x + i + part * VL), m));
        UNROLL
        for (int j = 0; j < LANES; j++)
            lane[j] = lane[j] + (double)p[j];
    }
    for (int64_t at = i; at < count; at += VL)
        vf_store(p + (at - i), weight(vf_load_mask(x + at, vm_first(count - at < VL ? (int)(count - at) : VL)), m));
    for (int j = 0; i + j < count; j++)
        lane[j] = lane[j] + (double)p[j];
    for (int half = LANES / 2; half; half /= 2)
        for (int j = 0; j < half; j++)
            lane[j] = lane[j] + lane[j + half];
    *sum = lane[0];
}

static void slope(const float *x, int64_t count, float most, float scale, float by, float *dx, int add)
{
    const vf m = vf_set1(most), s = vf_set1(scale), d = vf_set1(by);
    for (int64_t i = 0; i < count; i += VL) {
        const vm there = vm_first(count - i < VL ? (int)(count - i) : VL);
        const vf one = vf_mul(vf_mul(weight(vf_load_mask(x + i, there), m), s), d);
        vf_store_mask(dx + i, there, vf_canonical(add ? vf_add(vf_load_mask(dx + i, there), one) : one));
    }
}

extern const struct rondo_cpu_entropy RONDO_ISA_TABLE(entropy);
const struct rondo_cpu_entropy RONDO_ISA_TABLE(entropy) = { leaf, slope };
