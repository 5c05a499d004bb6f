/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The definition of the functions between the matrix products (contract C9): RMS norm, rotary embedding,
 * gated activation, conversion, log-sum-exp. elementwise.c must give these bits. Serves the instruction sets
 * "soft" and "scalar"; compiled without and with FMA instructions. Called by elementwise_ops.c.
 */
#include "backends/cpu/layers.h"
#include "backends/cpu/num.h"

#ifdef RONDO_ISA_fma
#define TABLE rondo__cpu_elementwise_fma
#else
#define TABLE rondo__cpu_elementwise_soft
#endif

#define LANES RONDO_CPU_NORM_LANES
#define LEAF RONDO_CPU_NORM_LEAF

/* Sum of squares: lane = index mod 16 in a leaf of 512, lanes folded in halves, leaves by the tree of C6. */
static float sum_of_squares(const float *x, int64_t dim)
{
    float stack[64];
    int n = 0;

    for (int64_t leaf = 0; leaf * LEAF < dim; leaf++) {
        int64_t first = leaf * LEAF, count = dim - first < LEAF ? dim - first : LEAF;
        float lane[LANES] = { 0 }, node;
        for (int64_t i = 0; i < count; i++)
            lane[i % LANES] = rondo__fma(x[first + i], x[first + i], lane[i % LANES]);
        for (int half = LANES / 2; half; half /= 2)
            for (int i = 0; i < half; i++)
                lane[i] = lane[i] + lane[i + half];
        node = lane[0];
        for (int64_t i = leaf; i & 1; i >>= 1)
            node = stack[--n] + node;
        stack[n++] = node;
    }
    for (; n > 1; n--)
        stack[n - 2] = stack[n - 2] + stack[n - 1];
    return stack[0];
}

static void rmsnorm(int64_t rows, int64_t dim, const float *x, const float *weight, float eps, float *y)
{
    for (int64_t row = 0; row < rows; row++, x += dim, y += dim) {
        float mean = sum_of_squares(x, dim) / (float)dim;
        float r = 1.0f / __builtin_sqrtf(mean + eps);
        for (int64_t i = 0; i < dim; i++)
            rondo__put_element(y, i, RONDO_F32, (x[i] * r) * weight[i]);
    }
}

static void rope(int64_t rows, int64_t heads, int64_t dim, float *x, int64_t row_stride, int64_t head_stride,
                 const float *table)
{
    int64_t half = dim / 2;

    for (int64_t row = 0; row < rows; row++)
        for (int64_t head = 0; head < heads; head++) {
            float *p = x + row * row_stride + head * head_stride;
            const float *cosines = table + row * dim, *sines = cosines + half;
            for (int64_t i = 0; i < half; i++) {
                float a = p[i], b = p[i + half], c = cosines[i], s = sines[i], bs = b * s, as = a * s;
                rondo__put_element(p, i, RONDO_F32, rondo__fma(a, c, -bs));
                rondo__put_element(p, i + half, RONDO_F32, rondo__fma(b, c, as));
            }
        }
}

static void swiglu(int64_t count, const float *gate, const float *up, float *y)
{
    for (int64_t i = 0; i < count; i++) {
        float g = gate[i], e = rondo__exp2(-g * (float)RONDO_LOG2E);
        rondo__put_element(y, i, RONDO_F32, g / (1.0f + e) * up[i]);
    }
}

static void convert(int64_t count, int from_type, const void *from, int to_type, void *to)
{
    for (int64_t i = 0; i < count; i++)
        rondo__put_element(to, i, to_type, rondo__element(from, i, from_type));
}

/* Q8: the row's scale of its largest magnitude, where what is NaN once stays so; then numbers, then the scale. Numbers of 8 bits stay as they
 * are where both are Q8. */
static void convert_rows(int64_t rows, int64_t dim, int from_type, const char *from, size_t from_stride, int to_type, char *to, size_t to_stride)
{
    for (int64_t r = 0; r < rows; r++, from += from_stride, to += to_stride) {
        float largest = 0.0f, scale;
        if (from_type == to_type && to_type == RONDO_Q8) {
            memmove(to, from, (size_t)dim + sizeof scale);
            continue;
        }
        for (int64_t i = 0; i < dim && to_type != RONDO_Q8; i++)
            rondo__put_element(to, i, to_type, rondo__row_number(from, i, dim, from_type));
        if (to_type != RONDO_Q8)
            continue;
        for (int64_t i = 0; i < dim; i++) {
            const float x = rondo__element(from, i, from_type), a = x < 0.0f ? -x : x;
            largest = a > largest || a != a ? a : largest;
        }
        scale = rondo__q8_scale(largest);
        for (int64_t i = 0; i < dim; i++)
            ((int8_t *)to)[i] = rondo__q8_number(rondo__element(from, i, from_type), scale);
        memcpy(to + dim, &scale, sizeof scale);
    }
}

/* log(sum(exp(x))) = m + log(sum(2^((x - m) log2(e)))), m the largest element. Weights are floats by C3, as
 * in attention; they are added up in double, lane = index mod 16 inside a leaf of 512, lanes folded in
 * halves, leaves by the tree of C6. An infinite m is the answer itself; nothing but -inf gives -inf; a NaN
 * anywhere gives NaN. */
static double row_logsumexp(const float *x, int64_t dim)
{
    double stack[64];
    float m = -FLT_MAX;
    int n = 0, nan = 0;

    for (int64_t i = 0; i < dim; i++) {
        m = x[i] > m ? x[i] : m;
        nan |= x[i] != x[i];
    }
    if (nan || m > FLT_MAX)
        return nan ? (double)rondo__float(RONDO_NAN_BITS) : (double)m;
    stack[0] = 0.0;
    for (int64_t leaf = 0; leaf * LEAF < dim; leaf++) {
        int64_t first = leaf * LEAF, count = dim - first < LEAF ? dim - first : LEAF;
        double lane[LANES] = { 0 }, node;
        for (int64_t i = 0; i < count; i++)
            lane[i % LANES] = lane[i % LANES] + (double)rondo__exp2((x[first + i] - m) * (float)RONDO_LOG2E);
        for (int half = LANES / 2; half; half /= 2)
            for (int i = 0; i < half; i++)
                lane[i] = lane[i] + lane[i + half];
        node = lane[0];
        for (int64_t i = leaf; i & 1; i >>= 1)
            node = stack[--n] + node;
        stack[n++] = node;
    }
    for (; n > 1; n--)
        stack[n - 2] = stack[n - 2] + stack[n - 1];
    return (double)m + rondo_log(stack[0]);
}

static void logsumexp(int64_t rows, int64_t dim, const float *x, int64_t x_stride, double *out)
{
    for (int64_t row = 0; row < rows; row++)
        out[row] = row_logsumexp(x + row * x_stride, dim);
}

/* Rows of a channel are walked with the last taps - 1 of them at hand, the oldest first, so that y may be x. */
static void short_conv(const struct rondo_conv_run *run, int64_t first, int64_t channels)
{
    const int32_t before = run->taps - 1;
    for (int64_t c = first; c < first + channels; c++) {
        float past[RONDO_CONV_TAPS] = { 0 };
        for (int32_t i = 0; i < before && run->state; i++)
            past[i] = run->state[i * run->channels + c];
        for (int64_t t = 0; t < run->rows; t++) {
            float sum = 0.0f;
            past[before] = run->x[t * run->x_stride + c];
            for (int32_t i = 0; i < run->taps; i++)
                sum = rondo__fma(run->weight[i * run->channels + c], past[i], sum);
            if (run->silu)
                sum = sum / (1.0f + rondo__exp2(-sum * (float)RONDO_LOG2E));
            rondo__put_element(run->y + t * run->y_stride, c, RONDO_F32, sum);
            for (int32_t i = 0; i < before; i++)
                past[i] = past[i + 1];
        }
        for (int32_t i = 0; i < before && run->state; i++)
            run->state[i * run->channels + c] = past[i];
    }
}

static void sigmoid_mul(int64_t count, const float *gate, const float *x, float *y)
{
    for (int64_t i = 0; i < count; i++)
        rondo__put_element(y, i, RONDO_F32, x[i] / (1.0f + rondo__exp2(-gate[i] * (float)RONDO_LOG2E)));
}

const struct rondo_cpu_elementwise TABLE = { rmsnorm, rope, swiglu, convert, convert_rows, logsumexp, short_conv, sigmoid_mul };
