/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The definition of the gradients of layers (rule 12 of rondo-numerics(7)), one number at a time. gradient.c and the kernels of linear
 * layers must give these bits. Serves the instruction sets "soft" and "scalar"; compiled without and with FMA instructions. Called by
 * gradient_ops.c.
 */
#include "backends/cpu/layers.h"
#include "backends/cpu/num.h"

#ifdef RONDO_ISA_fma
#define TABLE rondo__cpu_gradient_fma
#else
#define TABLE rondo__cpu_gradient_soft
#endif

/* A sum over tokens: chains in the order of the list, the stack of sums, then what y held. a_row NULL: of ones. */
static void sum_of(const struct rondo_token_run *run, const float *a, int64_t leaf, int64_t leaves, const float *b, float *y)
{
    float stack[RONDO_LINEAR_DEPTH], sum;
    int n = 0;

    for (int64_t g = leaf; g < leaf + leaves; g++) {
        float acc = 0.0f;
        for (int64_t i = run->leaves[g].first; i < run->leaves[g + 1].first; i++) {
            const int64_t t = run->order[i];
            acc = rondo__fma(a ? a[t * run->a_stride] : 1.0f, b[t * run->b_stride], acc);
        }
        stack[n++] = acc;
        for (int32_t m = g + 1 < leaf + leaves ? run->leaves[g].merges : n - 1; m > 0; m--, n--)
            stack[n - 2] = stack[n - 2] + stack[n - 1];
    }
    sum = n ? stack[0] : 0.0f;
    rondo__put_element(y, 0, RONDO_F32, run->add ? *y + sum : sum);
}

static void product(const struct rondo_token_run *run, int64_t row0, int64_t row1, int64_t column0, int64_t column1)
{
    for (int64_t r = row0; r < row1; r++)
        for (int64_t c = column0; c < column1; c++)
            sum_of(run, run->a + r, 0, run->leaf_count, run->b + c, run->y + r * run->y_stride + c);
}

static void sum(const struct rondo_token_run *run, const struct rondo_token_segment *s, int64_t column0, int64_t column1)
{
    for (int64_t c = column0; c < column1; c++)
        sum_of(run, NULL, s->leaf, s->leaves, run->b + c, run->y + s->row * run->y_stride + c);
}

/* The weight of the layer's output o and its input i, counted among those that it has. */
static float weight(const struct rondo_device_linear *l, int64_t o, int64_t i)
{
    int32_t leaf = l->first_leaf;
    while (rondo__cpu_leaf_begin(l, leaf + 1) <= l->first_column + i)
        leaf++;
    return rondo__cpu_weight(l, rondo__cpu_leaf_at(l, o / RONDO_CPU_PANEL, leaf), l->first_column + i - rondo__cpu_leaf_begin(l, leaf), o);
}

/* Leaves [leaf0, leaf1), a node of the tree over outputs: rule 8 with dy as x and outputs as inputs. */
static void dx(const struct rondo_device_linear *l, const struct rondo_linear_dx_run *run, int64_t leaf0, int64_t leaf1, float *to,
               int64_t to_stride, int64_t row0, int64_t row1)
{
    const int64_t begin = rondo__linear_leaf_begin(run->outputs, run->total, run->first_leaf);
    for (int64_t row = row0; row < row1; row++)
        for (int64_t i = 0; i < l->columns; i++) {
            const float *dy = run->dy + row * run->dy_stride;
            float stack[64], *y = to + row * to_stride + i;
            int n = 0;
            for (int64_t g = leaf0; g < leaf1; g++) {
                const int64_t first = rondo__linear_leaf_begin(run->outputs, run->total, g) - begin;
                const int64_t end = rondo__linear_leaf_begin(run->outputs, run->total, g + 1) - begin;
                float acc = 0.0f;
                for (int64_t o = first; o < end; o += 2) {
                    if (o + 1 < end)
                        acc = rondo__fma(dy[o + 1], weight(l, o + 1, i), acc);
                    acc = rondo__fma(dy[o], weight(l, o, i), acc);
                }
                for (int64_t j = g - leaf0; j & 1; j >>= 1)
                    acc = stack[--n] + acc;
                stack[n++] = acc;
            }
            for (; n > 1; n--)
                stack[n - 2] = stack[n - 2] + stack[n - 1];
            rondo__put_element(y, 0, RONDO_F32, run->add ? *y + stack[0] : stack[0]);
        }
}

const struct rondo_cpu_gradient TABLE = { product, dx, NULL, NULL, sum };
