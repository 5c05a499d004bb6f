/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The definition of a linear layer (contract C8), one output at a time: a chain of fused multiply-adds inside
 * each leaf of the input range, the canonical tree over the leaves, then the bias, then what y held. linear.c
 * must give these bits. Serves the instruction sets "soft" and "scalar"; compiled without and with FMA
 * instructions. Called by linear_ops.c.
 */
#include "backends/cpu/layers.h"
#include "backends/cpu/num.h"

#ifdef RONDO_ISA_fma
#define TABLE rondo__cpu_linear_fma
#else
#define TABLE rondo__cpu_linear_soft
#endif

/* Pairs by index in the leaf, the odd one first; an odd last element alone. w: the leaf in the output's panel. */
static float leaf_sum(const struct rondo_device_linear *l, const float *x, const void *w, int64_t count, int64_t output)
{
    float acc = 0.0f;
    for (int64_t i = 0; i < count; i += 2) {
        if (i + 1 < count)
            acc = rondo__fma(x[i + 1], rondo__cpu_weight(l, w, i + 1, output), acc);
        acc = rondo__fma(x[i], rondo__cpu_weight(l, w, i, output), acc);
    }
    return acc;
}

/* C6 with plain additions: leaf g is merged to its left as often as g ends in one bits; what is left at the
 * end hangs together from the right. */
static float output(const struct rondo_cpu_linear_job *job, const float *x, int64_t o)
{
    const struct rondo_device_linear *l = job->linear;
    const int64_t begin = rondo__cpu_leaf_begin(l, job->leaf0);
    float stack[64];
    int n = 0;

    for (int64_t g = 0; g < job->leaf1 - job->leaf0; g++) { /* numbered from leaf0 on: it begins a node, so low bits are the same */
        const int32_t leaf = (int32_t)(job->leaf0 + g);
        const int64_t k = rondo__cpu_leaf_begin(l, leaf), count = rondo__cpu_leaf_begin(l, leaf + 1) - k;
        float node = leaf_sum(l, x + k - begin, rondo__cpu_leaf_at(l, o / RONDO_CPU_PANEL, leaf), count, o);
        for (int64_t i = g; i & 1; i >>= 1)
            node = stack[--n] + node;
        stack[n++] = node;
    }
    while (n > 1) {
        stack[n - 2] = stack[n - 2] + stack[n - 1];
        n--;
    }
    return stack[0];
}

static int run(const struct rondo_cpu_linear_job *job, int64_t panel0, int64_t panel1, int64_t tile0, int64_t tile1, void *scratch,
               const struct rondo_poll *poll)
{
    const struct rondo_device_linear *l = job->linear;
    int64_t last = panel1 * RONDO_CPU_PANEL < l->out ? panel1 * RONDO_CPU_PANEL : l->out;

    (void)scratch;
    for (int64_t row = rondo__cpu_tile_begin(job, tile0); row < rondo__cpu_tile_begin(job, tile1); row++) {
        for (int64_t o = panel0 * RONDO_CPU_PANEL; o < last; o++) {
            float *y = job->y + row * job->y_stride + o, sum = output(job, job->x + row * job->x_stride, o);
            if (job->bias)
                sum = sum + job->bias[o];
            if (job->add)
                sum = *y + sum;
            rondo__put_element(y, 0, RONDO_F32, sum);
        }
        const int err = poll ? poll->call(poll->arg) : 0;
        if (err)
            return err;
    }
    return 0;
}

/* The same tree where its nodes came from elsewhere: whoever sent them has said after which of them sums are ready. */
static void join(const struct rondo_linear_join *job, int64_t row0, int64_t row1, int64_t column0, int64_t column1)
{
    for (int64_t row = row0; row < row1; row++)
        for (int64_t o = column0; o < column1; o++) {
            float stack[RONDO_LINEAR_DEPTH], *y = job->y + row * job->y_stride + o;
            int n = 0;
            for (int32_t i = 0; i < job->count; i++) {
                stack[n++] = job->nodes[i].data[row * job->nodes[i].stride + o];
                for (int32_t m = 0; m < job->nodes[i].merges; m++, n--)
                    stack[n - 2] = stack[n - 2] + stack[n - 1];
            }
            for (; n > 1; n--)
                stack[n - 2] = stack[n - 2] + stack[n - 1];
            if (job->bias)
                stack[0] = stack[0] + job->bias[o];
            if (job->add)
                stack[0] = *y + stack[0];
            rondo__put_element(y, 0, RONDO_F32, stack[0]);
        }
}

static bool bytes(const struct rondo_cpu_linear_job *job, int64_t panels, int64_t tiles, size_t *out)
{
    (void)job;
    (void)panels;
    (void)tiles;
    *out = 0;
    return true;
}

static void widen(const struct rondo_device_linear *l, const void *w, int64_t i, int64_t count, float *to, int64_t stride)
{
    for (int64_t k = 0; k < count; k++)
        for (int64_t o = 0; o < RONDO_CPU_PANEL; o++)
            to[k * stride + o] = rondo__cpu_weight(l, w, i + k, o);
}

const struct rondo_cpu_linear TABLE = { 16, NULL, bytes, run, widen, join };
