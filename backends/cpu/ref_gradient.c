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

/* ---- norm, rotation, gated unit ---- */

/* The sum of squares of x; with dy of (dy w) (x r). Lanes, leaves and tree of rule 9. */
static float lanes_sum(const float *x, const float *weight, const float *dy, float r, int64_t dim)
{
    float stack[64];
    int n = 0;
    for (int64_t leaf = 0; leaf * RONDO_CPU_NORM_LEAF < dim; leaf++) {
        const int64_t first = leaf * RONDO_CPU_NORM_LEAF, count = dim - first < RONDO_CPU_NORM_LEAF ? dim - first : RONDO_CPU_NORM_LEAF;
        float lane[RONDO_CPU_NORM_LANES] = { 0 };
        for (int64_t i = first; i < first + count; i++) {
            float *to = lane + i % RONDO_CPU_NORM_LANES;
            *to = dy ? rondo__fma(dy[i] * weight[i], x[i] * r, *to) : rondo__fma(x[i], x[i], *to);
        }
        for (int half = RONDO_CPU_NORM_LANES / 2; half; half /= 2)
            for (int i = 0; i < half; i++)
                lane[i] = lane[i] + lane[i + half];
        for (int64_t i = leaf; i & 1; i >>= 1)
            lane[0] = stack[--n] + lane[0];
        stack[n++] = lane[0];
    }
    for (; n > 1; n--)
        stack[n - 2] = stack[n - 2] + stack[n - 1];
    return stack[0];
}

static void rmsnorm(int64_t rows, int64_t dim, const float *x, const float *weight, float eps, const float *dy, float *to, float *terms, int add)
{
    for (int64_t row = 0; row < rows; row++) {
        const float *a = x + row * dim, *d = dy + row * dim;
        const float r = 1.0f / __builtin_sqrtf(lanes_sum(a, NULL, NULL, 0.0f, dim) / (float)dim + eps);
        const float mean = to ? lanes_sum(a, weight, d, r, dim) / (float)dim : 0.0f;
        for (int64_t i = 0; i < dim; i++) {
            const float h = a[i] * r, g = d[i] * weight[i], y = d[i];
            if (to) {
                const float one = rondo__fma(-h, mean, g) * r;
                rondo__put_element(to, row * dim + i, RONDO_F32, add ? to[row * dim + i] + one : one);
            }
            if (terms)
                rondo__put_element(terms, row * dim + i, RONDO_F32, y * h);
        }
    }
}

static void rope(int64_t rows, int64_t heads, int64_t dim, float *x, int64_t row_stride, int64_t head_stride, const float *table)
{
    const int64_t half = dim / 2;
    for (int64_t row = 0; row < rows; row++)
        for (int64_t head = 0; head < heads; head++) {
            float *p = x + row * row_stride + head * head_stride;
            const float *cosines = table + row * dim, *sines = cosines + half;
            for (int64_t i = 0; i < half; i++) {
                const float a = p[i], b = p[i + half], c = cosines[i], s = sines[i], bs = b * s, as = a * s;
                rondo__put_element(p, i, RONDO_F32, rondo__fma(a, c, bs));
                rondo__put_element(p, i + half, RONDO_F32, rondo__fma(b, c, -as));
            }
        }
}

static void swiglu(int64_t count, const float *gate, const float *up, const float *dy, float *dgate, float *dup)
{
    for (int64_t i = 0; i < count; i++) {
        const float g = gate[i], u = up[i], d = dy[i], below = 1.0f + rondo__exp2(-g * (float)RONDO_LOG2E);
        const float s = 1.0f / below, h = g / below;
        rondo__put_element(dgate, i, RONDO_F32, (d * u) * rondo__fma(h, 1.0f - s, s));
        rondo__put_element(dup, i, RONDO_F32, d * h);
    }
}

const struct rondo_cpu_gradient TABLE = { product, dx, NULL, NULL, sum, rmsnorm, rope, swiglu };
