/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The definition of cross-entropy inside of a leaf of classes, and of its gradient (rule 12 of rondo-numerics(7)), one number at a time;
 * entropy_ops.c has the tree over leaves. Serves the instruction sets "soft" and "scalar"; compiled without and with FMA instructions. Called
 * by entropy_ops.c.
 */
#include "backends/cpu/layers.h"
#include "backends/cpu/num.h"

#ifdef RONDO_ISA_fma
#define TABLE rondo__cpu_entropy_fma
#else
#define TABLE rondo__cpu_entropy_soft
#endif
#define LANES RONDO_CPU_NORM_LANES

/* Of an element of a row whose largest is `most`. */
static float weight(float x, float most)
{
    return rondo__exp2((x - most) * (float)RONDO_LOG2E);
}

static void leaf(const float *x, int64_t count, float *most, double *sum)
{
    double lane[LANES] = { 0 };
    float m = -FLT_MAX;
    for (int64_t i = 0; i < count; i++)
        m = x[i] > m ? x[i] : m;
    for (int64_t i = 0; i < count; i++)
        lane[i % LANES] = lane[i % LANES] + (double)weight(x[i], m);
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++)
            lane[i] = lane[i] + lane[i + half];
    *most = m;
    *sum = lane[0];
}

static void slope(const float *x, int64_t count, float most, float scale, float by, float *dx, int add)
{
    for (int64_t i = 0; i < count; i++) {
        const float one = weight(x[i], most) * scale * by;
        rondo__put_element(dx, i, RONDO_F32, add ? dx[i] + one : one);
    }
}

const struct rondo_cpu_entropy TABLE = { leaf, slope };
