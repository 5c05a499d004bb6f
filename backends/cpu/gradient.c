/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Gradients of layers in vectors, compiled once for each instruction set: the bits of ref_gradient.c. The matrix products are those of linear
 * layers (linear.c) on other operands: here these are brought into the form that its tiles read, tokens or outputs taking the place of inputs.
 * Called by gradient_ops.c.
 */
#include "backends/cpu/vec.h"
#include "backends/cpu/layers.h"

#define PANEL RONDO_CPU_PANEL

/* ---- operands of products ---- */

/* Tokens that rows are fetched ahead. */
#define AHEAD 16

/* [leaf][tile][step][row of the tile], as linear.c packs x: of a row of tokens the steps are there in the order of the list. */
static void pack(const struct rondo_cpu_linear_job *job, const struct rondo_token_run *run, int64_t first, int64_t tile)
{
    const int64_t row = rondo__cpu_tile_begin(job, tile), rows = rondo__cpu_tile_begin(job, tile + 1) - row;
    const int64_t last = rondo__cpu_tile_begin(job, job->tiles - 1), n = rondo__cpu_padded(job->tile_rows, rows);
    const int64_t all = last + rondo__cpu_padded(job->tile_rows, job->rows - last);
    const vm there = vm_first(rows < VL ? (int)rows : VL), stored = vm_first(n < VL ? (int)n : VL);
    const int64_t begin = run->leaves[0].first;

    for (int64_t g = 0; g < run->leaf_count; g++) {
        const int64_t i0 = run->leaves[g].first, i1 = run->leaves[g + 1].first;
        float *to = job->packed + (i0 - begin) * all + row * (i1 - i0);
        for (int64_t i = i0; i < i1; i++, to += n) {
            const float *a = run->a + run->order[i] * run->a_stride + first + row;
            if (i + AHEAD < i1)   /* rows lie far apart */
                __builtin_prefetch(run->a + run->order[i + AHEAD] * run->a_stride + first + row + rows - 1);
            vf_store_mask(to, stored, vf_load_mask(a, there));
            for (int64_t r = VL; r < n; r += VL)
                vf_store_mask(to + r, vm_first((int)(n - r)), vf_load_mask(a + r, vm_first(rows > r ? (int)(rows - r) : 0)));
        }
    }
}

/* A block of VL inputs by VL outputs, from [input][stride] to [output][PANEL]; of the outputs the first `outputs` are stored. */
VEC void turn_block(const float *from, int64_t stride, int outputs, float *to)
{
    vf x[VL];
    UNROLL
    for (int i = 0; i < VL; i++)
        x[i] = vf_load(from + i * stride);
    vf_transpose(x);
    UNROLL
    for (int i = 0; i < VL; i++)
        if (i < outputs)
            vf_store(to + i * PANEL, x[i]);
}

static void turn(const struct rondo_device_linear *l, const struct rondo_cpu_linear *k, int64_t column, int64_t output, int64_t end, float *to)
{
    const int64_t count = l->columns - column < PANEL ? l->columns - column : PANEL;
    const bool whole = l->type == RONDO_F32 && count == PANEL;   /* columns of floats follow each other without a gap */
    float wide[PANEL * PANEL];

    if (!whole)
        memset(wide, 0, sizeof wide);
    for (int64_t o = output; o < end; o += PANEL, to += PANEL * PANEL) {
        const float *from = wide;
        const int64_t outputs = end - o < PANEL ? end - o : PANEL;
        if (whole) {
            from = (const float *)(const void *)((const char *)l->weights + (size_t)(o / PANEL) * l->panel_bytes) + column * PANEL;
            if (o + PANEL < end)
                for (size_t line = 0; line < PANEL * PANEL * sizeof *from; line += 64)
                    __builtin_prefetch((const char *)from + l->panel_bytes + line, 0, 3);
        } else {
            int32_t leaf = l->first_leaf;
            for (int64_t i = 0; i < count;) {
                const int64_t at = l->first_column + column + i;
                while (rondo__cpu_leaf_begin(l, leaf + 1) <= at)
                    leaf++;
                const int64_t left = rondo__cpu_leaf_begin(l, leaf + 1) - at, some = left < count - i ? left : count - i;
                k->widen(l, rondo__cpu_leaf_at(l, o / PANEL, leaf), at - rondo__cpu_leaf_begin(l, leaf), some, wide + i * PANEL, PANEL);
                i += some;
            }
        }
        for (int j = 0; j < PANEL && j < outputs; j += VL)
            for (int i = 0; i < PANEL; i += VL)
                turn_block(from + i * PANEL + j, PANEL, outputs - j < VL ? (int)(outputs - j) : VL, to + j * PANEL + i);
    }
}

/* ---- sums of rows ---- */

/* Vectors that are summed at a time. */
#define SOME 4

static void sum(const struct rondo_token_run *run, const struct rondo_token_segment *s, int64_t column0, int64_t column1)
{
    vf stack[RONDO_LINEAR_DEPTH][SOME];

    for (int64_t c = column0; c < column1; c += SOME * VL) {
        vm lanes[SOME];
        int n = 0;
        for (int v = 0; v < SOME; v++) {
            const int64_t left = column1 - c - v * VL;
            lanes[v] = vm_first(left > VL ? VL : left < 0 ? 0 : (int)left);
            stack[0][v] = vf_zero();
        }
        for (int64_t g = s->leaf; g < s->leaf + s->leaves; g++, n++) {
            vf a0 = vf_zero(), a1 = vf_zero(), a2 = vf_zero(), a3 = vf_zero();
            for (int64_t i = run->leaves[g].first; i < run->leaves[g + 1].first; i++) {
                const float *b = run->b + run->order[i] * run->b_stride + c;
                a0 = vf_add(vf_load_mask(b, lanes[0]), a0);
                a1 = vf_add(vf_load_mask(b + VL, lanes[1]), a1);
                a2 = vf_add(vf_load_mask(b + 2 * VL, lanes[2]), a2);
                a3 = vf_add(vf_load_mask(b + 3 * VL, lanes[3]), a3);
            }
            stack[n][0] = a0;
            stack[n][1] = a1;
            stack[n][2] = a2;
            stack[n][3] = a3;
            for (int32_t m = g + 1 < s->leaf + s->leaves ? run->leaves[g].merges : n; m > 0; m--, n--)
                for (int v = 0; v < SOME; v++)
                    stack[n - 1][v] = vf_add(stack[n - 1][v], stack[n][v]);
        }
        for (int v = 0; v < SOME; v++) {
            float *y = run->y + s->row * run->y_stride + c + v * VL;
            const vf all = stack[0][v];
            vf_store_mask(y, lanes[v], vf_canonical(run->add ? vf_add(vf_load_mask(y, lanes[v]), all) : all));
        }
    }
}

/* ---- norm, rotation, gated unit ---- */

#define LANES RONDO_CPU_NORM_LANES
#define LEAF RONDO_CPU_NORM_LEAF

/* Vector `at` of what is added up: squares of x, or with dy (dy w) (x r). Lanes that are not there keep their sums. */
VEC vf one_more(const float *x, const float *weight, const float *dy, vf r, int64_t left, vf sum)
{
    if (left >= VL)
        return dy ? vf_fma(vf_mul(vf_load(dy), vf_load(weight)), vf_mul(vf_load(x), r), sum) : vf_fma(vf_load(x), vf_load(x), sum);
    if (left <= 0)
        return sum;
    const vm there = vm_first((int)left);
    const vf a = vf_load_mask(x, there);
    const vf next = dy ? vf_fma(vf_mul(vf_load_mask(dy, there), vf_load_mask(weight, there)), vf_mul(a, r), sum) : vf_fma(a, a, sum);
    return vf_select(there, next, sum);
}

VEC float lanes_sum(const float *x, const float *weight, const float *dy, float r, int64_t dim)
{
    float stack[64];
    int n = 0;
    for (int64_t leaf = 0; leaf * LEAF < dim; leaf++) {
        const int64_t first = leaf * LEAF, end = dim - first < LEAF ? dim : first + LEAF;
        const vf factor = vf_set1(r);
        vf sum[LANES / VL];
        float lane[LANES];
        UNROLL
        for (int p = 0; p < LANES / VL; p++)
            sum[p] = vf_zero();
        for (int64_t i = first; i < end; i += LANES)
            UNROLL
            for (int p = 0; p < LANES / VL; p++)
                sum[p] = one_more(x + i + p * VL, dy ? weight + i + p * VL : NULL, dy ? dy + i + p * VL : NULL, factor, end - i - p * VL, sum[p]);
        UNROLL
        for (int p = 0; p < LANES / VL; p++)
            vf_store(lane + p * VL, sum[p]);
        for (int half = LANES / 2; half; half /= 2)
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
        const float root = 1.0f / __builtin_sqrtf(lanes_sum(a, NULL, NULL, 0.0f, dim) / (float)dim + eps);
        const vf r = vf_set1(root), mean = vf_set1(to ? lanes_sum(a, weight, d, root, dim) / (float)dim : 0.0f);
        for (int64_t i = 0; i < dim; i += VL) {
            const vm there = vm_first(dim - i < VL ? (int)(dim - i) : VL);
            const vf y = vf_load_mask(d + i, there), h = vf_mul(vf_load_mask(a + i, there), r), g = vf_mul(y, vf_load_mask(weight + i, there));
            if (to) {
                float *at = to + row * dim + i;
                const vf one = vf_mul(vf_fma(vf_neg(h), mean, g), r);
                vf_store_mask(at, there, vf_canonical(add ? vf_add(vf_load_mask(at, there), one) : one));
            }
            if (terms)
                vf_store_mask(terms + row * dim + i, there, vf_canonical(vf_mul(y, h)));
        }
    }
}

static void rope(int64_t rows, int64_t heads, int64_t dim, float *x, int64_t row_stride, int64_t head_stride, const float *table)
{
    const int64_t half = dim / 2;
    for (int64_t row = 0; row < rows; row++)
        for (int64_t head = 0; head < heads; head++) {
            float *lower = x + row * row_stride + head * head_stride, *upper = lower + half;
            const float *cosines = table + row * dim, *sines = cosines + half;
            for (int64_t i = 0; i < half; i += VL) {
                const vm there = vm_first(half - i < VL ? (int)(half - i) : VL);
                const vf a = vf_load_mask(lower + i, there), b = vf_load_mask(upper + i, there);
                const vf c = vf_load_mask(cosines + i, there), s = vf_load_mask(sines + i, there);
                vf_store_mask(lower + i, there, vf_canonical(vf_fma(a, c, vf_mul(b, s))));
                vf_store_mask(upper + i, there, vf_canonical(vf_fma(b, c, vf_neg(vf_mul(a, s)))));
            }
        }
}

static void swiglu(int64_t count, const float *gate, const float *up, const float *dy, float *dgate, float *dup)
{
    const vf one = vf_set1(1.0f);
    for (int64_t i = 0; i < count; i += VL) {
        const vm there = vm_first(count - i < VL ? (int)(count - i) : VL);
        const vf g = vf_load_mask(gate + i, there), u = vf_load_mask(up + i, there), d = vf_load_mask(dy + i, there);
        const vf below = vf_add(one, vf_exp2(vf_mul(vf_neg(g), vf_set1((float)RONDO_LOG2E))));
        const vf s = vf_div(one, below), h = vf_div(g, below);
        vf_store_mask(dgate + i, there, vf_canonical(vf_mul(vf_mul(d, u), vf_fma(h, vf_sub(one, s), s))));
        vf_store_mask(dup + i, there, vf_canonical(vf_mul(d, h)));
    }
}

extern const struct rondo_cpu_gradient RONDO_ISA_TABLE(gradient);
const struct rondo_cpu_gradient RONDO_ISA_TABLE(gradient) = { NULL, NULL, pack, turn, sum, rmsnorm, rope, swiglu };
