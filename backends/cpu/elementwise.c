/* SPDX-License-Identifier: BSD-2-Clause
 *
 * RMS norm, rotary embedding, gated activation, conversion and log-sum-exp in vectors, compiled once for each
 * instruction set: the bits of ref_elementwise.c. Sums have 16 lanes whatever the vector length: an
 * instruction set of 8 lanes keeps two vectors, one of 4 lanes four. Elements past the last whole vector go through masked loads
 * and stores. Called by elementwise_ops.c.
 */
#include "backends/cpu/vec.h"
#include "backends/cpu/layers.h"

#define LANES RONDO_CPU_NORM_LANES
#define LEAF RONDO_CPU_NORM_LEAF
#define PARTS (LANES / VL)      /* vectors that hold the 16 lanes */

/* ---- rmsnorm ---- */

/* A part of them that there is only in part, or not at all, is filled up with zeros. */
VEC vf part_of(const float *x, int64_t count)
{
    return count >= VL ? vf_load(x) : count > 0 ? vf_load_mask(x, vm_first((int)count)) : vf_zero();
}

/* Lanes 0..15 of the squares of count elements. Those that are not there add fma(0, 0, lane), which is lane. The accumulators are named,
 * because not every compiler keeps arrays of vectors in registers. */
static void squares(const float *x, int64_t count, float lane[LANES])
{
    vf a = vf_zero(), b = vf_zero(), c = vf_zero(), d = vf_zero(), v;
    int64_t i = 0;
#define PART(n, sum, load)                                                                                   \
    if (PARTS > n) {                                                                                         \
        v = load;                                                                                            \
        sum = vf_fma(v, v, sum);                                                                             \
    }
    for (; i + LANES <= count; i += LANES) {
        PART(0, a, vf_load(x + i))
        PART(1, b, vf_load(x + i + VL))
        PART(2, c, vf_load(x + i + 2 * VL))
        PART(3, d, vf_load(x + i + 3 * VL))
    }
    if (i < count) {
        PART(0, a, part_of(x + i, count - i))
        PART(1, b, part_of(x + i + VL, count - i - VL))
        PART(2, c, part_of(x + i + 2 * VL, count - i - 2 * VL))
        PART(3, d, part_of(x + i + 3 * VL, count - i - 3 * VL))
    }
#undef PART
    vf_store(lane, a);
    if (PARTS > 1)
        vf_store(lane + 1 % PARTS * VL, b);
    if (PARTS > 2) {
        vf_store(lane + 2 % PARTS * VL, c);
        vf_store(lane + 3 % PARTS * VL, d);
    }
}

static float sum_of_squares(const float *x, int64_t dim)
{
    float stack[64];
    int n = 0;

    for (int64_t leaf = 0; leaf * LEAF < dim; leaf++) {
        float lane[LANES], node;
        squares(x + leaf * LEAF, dim - leaf * LEAF < LEAF ? dim - leaf * LEAF : LEAF, lane);
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
        vf r = vf_set1(1.0f / __builtin_sqrtf(mean + eps));
        int64_t i = 0;
        for (; i + VL <= dim; i += VL)
            vf_store(y + i, vf_canonical(vf_mul(vf_mul(vf_load(x + i), r), vf_load(weight + i))));
        if (i < dim) {
            vm m = vm_first((int)(dim - i));
            vf_store_mask(y + i, m,
                          vf_canonical(
                              vf_mul(vf_mul(vf_load_mask(x + i, m), r), vf_load_mask(weight + i, m))));
        }
    }
}

/* ---- rope ---- */

VEC void turn(vf a, vf b, vf c, vf s, vf *p, vf *q)
{
    *p = vf_canonical(vf_fma(a, c, vf_neg(vf_mul(b, s))));
    *q = vf_canonical(vf_fma(b, c, vf_mul(a, s)));
}

static void rope(int64_t rows, int64_t heads, int64_t dim, float *x, int64_t row_stride, int64_t head_stride,
                 const float *table)
{
    int64_t half = dim / 2;

    for (int64_t row = 0; row < rows; row++)
        for (int64_t head = 0; head < heads; head++) {
            float *lower = x + row * row_stride + head * head_stride, *upper = lower + half;
            const float *cosines = table + row * dim, *sines = cosines + half;
            int64_t i = 0;
            vf p, q;
            for (; i + VL <= half; i += VL) {
                turn(vf_load(lower + i), vf_load(upper + i), vf_load(cosines + i), vf_load(sines + i), &p,
                     &q);
                vf_store(lower + i, p);
                vf_store(upper + i, q);
            }
            if (i < half) {
                vm m = vm_first((int)(half - i));
                turn(vf_load_mask(lower + i, m), vf_load_mask(upper + i, m), vf_load_mask(cosines + i, m),
                     vf_load_mask(sines + i, m), &p, &q);
                vf_store_mask(lower + i, m, p);
                vf_store_mask(upper + i, m, q);
            }
        }
}

/* ---- swiglu ---- */

/* x * sigmoid(g) */
VEC vf weighed(vf x, vf g)
{
    return vf_div(x, vf_add(vf_set1(1.0f), vf_exp2(vf_mul(vf_neg(g), vf_set1((float)RONDO_LOG2E)))));
}

VEC vf gated(vf g, vf u)
{
    return vf_canonical(vf_mul(weighed(g, g), u));
}

static void swiglu(int64_t count, const float *gate, const float *up, float *y)
{
    int64_t i = 0;
    for (; i + VL <= count; i += VL)
        vf_store(y + i, gated(vf_load(gate + i), vf_load(up + i)));
    if (i < count) {
        vm m = vm_first((int)(count - i));
        vf_store_mask(y + i, m, gated(vf_load_mask(gate + i, m), vf_load_mask(up + i, m)));
    }
}

static void sigmoid_mul(int64_t count, const float *gate, const float *x, float *y)
{
    int64_t i = 0;
    for (; i + VL <= count; i += VL)
        vf_store(y + i, vf_canonical(weighed(vf_load(x + i), vf_load(gate + i))));
    if (i < count) {
        vm m = vm_first((int)(count - i));
        vf_store_mask(y + i, m, vf_canonical(weighed(vf_load_mask(x + i, m), vf_load_mask(gate + i, m))));
    }
}

/* ---- short convolution ---- */

/* Rows of a tile stay in the first cache while their channels are walked, a vector of them at a time; what a channel's rows leave
 * to the next tile lies in `carry`. */
#define CONV_ROWS 32
#define CONV_CHANNELS 128

/* One vector of channels over some rows; the rows before are in registers, the oldest first. `some`: only the channels of m. */
VEC void walk(const int taps, const bool some, const vm m, const struct rondo_conv_run *run, int64_t channel, int64_t first, int64_t rows,
              float *carry)
{
#define LOAD(p) (some ? vf_load_mask(p, m) : vf_load(p))
    const float *x = run->x + first * run->x_stride + channel, *w = run->weight + channel;
    float *y = run->y + first * run->y_stride + channel;
    vf past[RONDO_CONV_TAPS], weight[RONDO_CONV_TAPS];
    for (int i = 0; i < taps; i++) {
        weight[i] = LOAD(w + i * run->channels);
        past[i] = i < taps - 1 ? vf_load(carry + i * CONV_CHANNELS) : vf_zero();
    }
    for (int64_t t = 0; t < rows; t++, x += run->x_stride, y += run->y_stride) {
        vf sum = vf_zero();
        past[taps - 1] = LOAD(x);
        for (int i = 0; i < taps; i++)
            sum = vf_fma(weight[i], past[i], sum);
        sum = vf_canonical(run->silu ? weighed(sum, sum) : sum);
        if (some)
            vf_store_mask(y, m, sum);
        else
            vf_store(y, sum);
        for (int i = 0; i + 1 < taps; i++)
            past[i] = past[i + 1];
    }
    for (int i = 0; i < taps - 1; i++)
        vf_store(carry + i * CONV_CHANNELS, past[i]);
#undef LOAD
}

/* The channels of a block over a tile of rows. */
VEC void walk_tile(const int taps, const struct rondo_conv_run *run, int64_t channel, int64_t channels, int64_t first, int64_t rows,
                   float *carry)
{
    int64_t c = 0;
    for (; c + VL <= channels; c += VL)
        walk(taps, false, vm_first(VL), run, channel + c, first, rows, carry + c);
    if (c < channels)
        walk(taps, true, vm_first((int)(channels - c)), run, channel + c, first, rows, carry + c);
}

#define TILE_OF(n)                                                                                                                         \
    static void tile_of_##n(const struct rondo_conv_run *r, int64_t c, int64_t channels, int64_t t, int64_t rows, float *carry)            \
    {                                                                                                                                      \
        walk_tile(n, r, c, channels, t, rows, carry);                                                                                      \
    }
TILE_OF(2)
TILE_OF(3)
TILE_OF(4)

static void tile_of_any(const struct rondo_conv_run *r, int64_t c, int64_t channels, int64_t t, int64_t rows, float *carry)
{
    walk_tile(r->taps, r, c, channels, t, rows, carry);
}

static void short_conv(const struct rondo_conv_run *run, int64_t first, int64_t channels)
{
    float carry[(RONDO_CONV_TAPS - 1) * CONV_CHANNELS];
    void (*const tile)(const struct rondo_conv_run *, int64_t, int64_t, int64_t, int64_t, float *) =
        run->taps == 4 ? tile_of_4 : run->taps == 3 ? tile_of_3 : run->taps == 2 ? tile_of_2 : tile_of_any;
    for (int64_t c = first; c < first + channels; c += CONV_CHANNELS) {
        const int64_t n = first + channels - c < CONV_CHANNELS ? first + channels - c : CONV_CHANNELS;
        memset(carry, 0, sizeof carry);
        for (int32_t i = 0; i < run->taps - 1 && run->state; i++)
            memcpy(carry + i * CONV_CHANNELS, run->state + i * run->channels + c, (size_t)n * sizeof *carry);
        for (int64_t t = 0; t < run->rows; t += CONV_ROWS)
            tile(run, c, n, t, run->rows - t < CONV_ROWS ? run->rows - t : CONV_ROWS, carry);
        for (int32_t i = 0; i < run->taps - 1 && run->state; i++)
            memcpy(run->state + i * run->channels + c, carry + i * CONV_CHANNELS, (size_t)n * sizeof *carry);
    }
}

/* ---- convert ---- */

/* Types are constants where this is used, so that each pair is a loop of its own. */
VEC void convert_pair(int64_t count, int from_type, const void *from, int to_type, void *to)
{
    int64_t i = 0;
    for (; i + VL <= count; i += VL)
        vf_put_element(to, i, to_type, vf_element(from, i, from_type));
    for (; i < count; i++)
        rondo__put_element(to, i, to_type, rondo__element(from, i, from_type));
}

VEC void convert_from(int64_t count, int from_type, const void *from, int to_type, void *to)
{
    if (to_type == RONDO_F32)
        convert_pair(count, from_type, from, RONDO_F32, to);
    else if (to_type == RONDO_BF16)
        convert_pair(count, from_type, from, RONDO_BF16, to);
    else
        convert_pair(count, from_type, from, RONDO_F16, to);
}

static void convert(int64_t count, int from_type, const void *from, int to_type, void *to)
{
    if (from_type == RONDO_F32)
        convert_from(count, RONDO_F32, from, to_type, to);
    else if (from_type == RONDO_BF16)
        convert_from(count, RONDO_BF16, from, to_type, to);
    else
        convert_from(count, RONDO_F16, from, to_type, to);
}

/* The scale of a row as Q8. */
VEC float row_scale(const int type, int64_t dim, const char *from)
{
    const float infinity = __builtin_inff();
    float lane[VL], largest = 0.0f;
    vf most = vf_zero(); /* of -|x| the least */
    vm good = vm_first(VL);
    int64_t i = 0;
    for (; i + VL <= dim; i += VL) {
        const vf x = vf_neg_abs(vf_element(from, i, type));
        good = vm_and(good, vf_lt(vf_set1(-infinity), x));
        most = vf_min(x, most);
    }
    vf_store(lane, vf_select(good, vf_neg(most), vf_set1(infinity)));
    for (int j = 0; j < VL; j++)
        largest = lane[j] > largest ? lane[j] : largest;
    for (; i < dim; i++) {
        const float x = rondo__element(from, i, type), a = x < 0.0f ? -x : x;
        largest = !(a < infinity) ? infinity : a > largest ? a : largest;
    }
    return rondo__q8_scale(largest);
}

VEC void row_to_q8(const int type, int64_t dim, const char *from, char *to)
{
    const float scale = row_scale(type, dim, from);
    int64_t i = 0;
    for (; scale > 0.0f && i + VL <= dim; i += VL)
        vf_to_i8((int8_t *)to + i, vf_max(vf_set1(-127.0f), vf_min(vf_set1(127.0f), vf_rint(vf_div(vf_element(from, i, type), vf_set1(scale))))));
    for (; i < dim; i++)
        to[i] = (char)rondo__q8_number(rondo__element(from, i, type), scale);
    memcpy(to + dim, &scale, sizeof scale);
}

VEC void row_from_q8(int64_t dim, const char *from, const int type, char *to)
{
    float scale;
    int64_t i = 0;
    memcpy(&scale, from + dim, sizeof scale);
    for (; i + VL <= dim; i += VL)
        vf_put_element(to, i, type, vf_mul(vf_from_i8((const int8_t *)from + i), vf_set1(scale)));
    for (; i < dim; i++)
        rondo__put_element(to, i, type, (float)((const int8_t *)from)[i] * scale);
}

static void convert_rows(int64_t rows, int64_t dim, int from_type, const char *from, size_t from_stride, int to_type, char *to, size_t to_stride)
{
    for (int64_t r = 0; r < rows; r++, from += from_stride, to += to_stride) {
        if (from_type == RONDO_Q8 && to_type == RONDO_Q8)
            memmove(to, from, (size_t)dim + sizeof(float));
        else if (to_type == RONDO_F32 && from_type == RONDO_Q8)
            row_from_q8(dim, from, RONDO_F32, to);
        else if (to_type == RONDO_BF16 && from_type == RONDO_Q8)
            row_from_q8(dim, from, RONDO_BF16, to);
        else if (from_type == RONDO_Q8)
            row_from_q8(dim, from, RONDO_F16, to);
        else if (to_type == RONDO_Q8 && from_type == RONDO_F32)
            row_to_q8(RONDO_F32, dim, from, to);
        else if (to_type == RONDO_Q8 && from_type == RONDO_BF16)
            row_to_q8(RONDO_BF16, dim, from, to);
        else if (to_type == RONDO_Q8)
            row_to_q8(RONDO_F16, dim, from, to);
        else
            convert(dim, from_type, from, to_type, to);
    }
}

/* ---- logsumexp ---- */

/* The largest of a row, and whether there is a NaN. The order of comparisons does not matter to either. */
static float largest(const float *x, int64_t dim, int *nan)
{
    vf m = vf_set1(-FLT_MAX), sum = vf_zero();
    float lane[VL], best = -FLT_MAX;
    int64_t i = 0;

    *nan = 0;
    for (; i + VL <= dim; i += VL) {
        vf v = vf_load(x + i);
        m = vf_max(v, m);                                /* a NaN in v gives m */
        sum = vf_select(vf_is_nan(v), v, sum);           /* once NaN, not replaced by a number */
    }
    *nan = vm_any(vf_is_nan(sum));
    vf_store(lane, m);
    for (int j = 0; j < VL; j++)
        best = lane[j] > best ? lane[j] : best;
    for (; i < dim; i++) {
        best = x[i] > best ? x[i] : best;
        *nan |= x[i] != x[i];
    }
    return best;
}

/* Adds 2^((x - m) log2(e)) to the 16 lanes; count is at most 16. */
VEC void add_weights(const float *x, int count, vf m, double lane[LANES])
{
    float p[LANES];
    for (int part = 0; part < PARTS; part++) {
        vf v = part_of(x + part * VL, count - part * VL);
        vf_store(p + part * VL, vf_exp2(vf_mul(vf_sub(v, m), vf_set1((float)RONDO_LOG2E))));
    }
    for (int i = 0; i < LANES; i++)
        lane[i] = i < count ? lane[i] + (double)p[i] : lane[i];
}

static double row_logsumexp(const float *x, int64_t dim)
{
    double stack[64];
    int n = 0, nan;
    float m = largest(x, dim, &nan);
    vf mv = vf_set1(m);

    if (nan || m > FLT_MAX)
        return nan ? (double)rondo__float(RONDO_NAN_BITS) : (double)m;
    stack[0] = 0.0;
    for (int64_t leaf = 0; leaf * LEAF < dim; leaf++) {
        int64_t first = leaf * LEAF, count = dim - first < LEAF ? dim - first : LEAF, i = 0;
        double lane[LANES] = { 0 }, node;
        for (; i + LANES <= count; i += LANES)
            add_weights(x + first + i, LANES, mv, lane);
        if (i < count)
            add_weights(x + first + i, (int)(count - i), mv, lane);
        for (int half = LANES / 2; half; half /= 2)
            for (int j = 0; j < half; j++)
                lane[j] = lane[j] + lane[j + half];
        node = lane[0];
        for (int64_t j = leaf; j & 1; j >>= 1)
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

extern const struct rondo_cpu_elementwise RONDO_ISA_TABLE(elementwise);
const struct rondo_cpu_elementwise RONDO_ISA_TABLE(elementwise) = { rmsnorm, rope, swiglu, convert, convert_rows,
                                                                    logsumexp, short_conv, sigmoid_mul };
