/* SPDX-License-Identifier: BSD-2-Clause
 *
 * RMS norm, rotary embedding, gated activation, short convolution, conversion, log-sum-exp on the CPU device: the definition
 * against double-precision oracles with derived bounds; every instruction set and thread count equal to the
 * definition bit for bit, also in place, for odd sizes and for every bit pattern.
 */
#include "layers.h"

#define U 0x1p-24      /* half a unit in the last place of 1: the relative error of one operation */

static double size(double x)
{
    return x < 0 ? -x : x;
}

/* ---- oracles ---- */

/* The sum of squares passes at most 32 fused steps, 4 folds and the tree; the square root halves its error;
 * then come the mean, eps, root, reciprocal and two products. */
static void rmsnorm_oracle(void)
{
    static const int64_t dims[] = { 1, 5, 16, 64, 511, 512, 513, 2500 };
    const enum kind kinds[] = { PLAIN, WIDE, CANCEL, INTEGERS };

    for (int k = 0; k < 4; k++) {
        double worst = 0;
        for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++) {
            int64_t dim = dims[i], rows = 4;
            float *x = floats(rows * dim, kinds[k], 1 + i), *w = floats(dim, PLAIN, 30 + i),
                  *y = floats(rows * dim, PLAIN, 1);
            double bound = (32 + 4 + (double)rondo__cpu_tree_depth(dim / 512 + 1)) / 2 + 8;
            rondo__cpu_rmsnorm(devices[0], NULL, rows, dim, x, w, 1e-5f, y);
            for (int64_t r = 0; r < rows; r++) {
                double sum = 0, root, want;
                for (int64_t j = 0; j < dim; j++)
                    sum += (double)x[r * dim + j] * (double)x[r * dim + j];
                root = rondo_exp(-0.5 * rondo_log(sum / (double)dim + (double)1e-5f));
                for (int64_t j = 0; j < dim; j++) {
                    want = (double)x[r * dim + j] * root * (double)w[j];
                    worst = worse(worst,
                                  size((double)y[r * dim + j] - want) / (bound * U * size(want) + 0x1p-148));
                }
            }
            rondo__free(x);
            rondo__free(w);
            rondo__free(y);
        }
        ok(worst <= 1.0, "rmsnorm, %s: within its bound (worst %.2f of it)", kind_names[kinds[k]], worst);
    }
}

/* The contract's words once more, top down. */
static float square_node(const float *x, int64_t dim, int64_t h, int64_t i)
{
    if (h == 0) {
        float lane[16] = { 0 };
        for (int64_t j = i * 512; j < dim && j < (i + 1) * 512; j++)
            lane[j % 16] = rondo__fma_soft(x[j], x[j], lane[j % 16]);
        for (int half = 8; half >= 1; half /= 2)
            for (int j = 0; j < half; j++)
                lane[j] += lane[j + half];
        return lane[0];
    }
    float left = square_node(x, dim, h - 1, 2 * i);
    return ((2 * i + 1) << (h - 1)) * 512 < dim ? left + square_node(x, dim, h - 1, 2 * i + 1) : left;
}

static void rmsnorm_contract(void)
{
    static const int64_t dims[] = { 1, 15, 33, 512, 520, 1500, 2048, 3500 };
    int equal = 1;

    for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++) {
        int64_t dim = dims[i];
        float *x = floats(dim, WIDE, i), *w = floats(dim, PLAIN, 3), *y = floats(dim, PLAIN, 4);
        float r = 1.0f / __builtin_sqrtf(square_node(x, dim, 3, 0) / (float)dim + 1e-6f);
        rondo__cpu_rmsnorm(devices[0], NULL, 1, dim, x, w, 1e-6f, y);
        for (int64_t j = 0; j < dim; j++) {
            float a = x[j] * r;
            equal = equal && rondo__bits(y[j]) == rondo__bits(a * w[j]);
        }
        rondo__free(x);
        rondo__free(w);
        rondo__free(y);
    }
    ok(equal, "rmsnorm: the lanes, leaves and tree of the contract");
}

static void rope_oracle(void)
{
    const int64_t rows = 7, heads = 3, dim = 26, head_stride = 30, row_stride = 100;
    float *x = floats(rows * row_stride, PLAIN, 1), *old = floats(rows * row_stride, PLAIN, 1), table[7 * 26];
    double worst = 0;
    int kept = 1;

    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < dim / 2; i++) {
            double angle = (double)r * rondo_pow(10000.0, -2.0 * (double)i / (double)dim);
            table[r * dim + i] = (float)rondo_cos(angle);
            table[r * dim + dim / 2 + i] = (float)rondo_sin(angle);
        }
    rondo__cpu_rope(devices[0], NULL, rows, heads, dim, x, row_stride, head_stride, table);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < row_stride; c++) {
            int64_t h = c / head_stride, i = c % head_stride, half = dim / 2, at = r * row_stride + c;
            if (h >= heads || i >= dim) {
                kept = kept && rondo__bits(x[at]) == rondo__bits(old[at]);
                continue;
            }
            double cosine = (double)table[r * dim + i % half],
                   sine = (double)table[r * dim + half + i % half];
            double a = (double)old[at], b = (double)old[i < half ? at + half : at - half];
            double p = a * cosine, q = i < half ? -b * sine : b * sine;
            worst = worse(worst, size((double)x[at] - (p + q)) / (2.02 * U * (size(p) + size(q)) + 0x1p-148));
        }
    ok(worst <= 1.0, "rope: within two roundings of the rotation (worst %.2f of it)", worst);
    ok(kept, "rope: what lies between the turned parts stays");
    rondo__free(x);
    rondo__free(old);
}

/* The exponent -g log2(e) is rounded twice: 1.5 |g| U of the exponential; plus its polynomial, sum, quotient
 * and product. Below 2^-127 it is taken as zero. */
static void swiglu_oracle(void)
{
    const int64_t count = 40000;
    float *g = floats(count, PLAIN, 1), *u = floats(count, PLAIN, 2), *y = floats(count, PLAIN, 3);
    double worst = 0;

    for (int64_t i = 0; i < count; i++)
        g[i] *= i % 3 == 0 ? 110.0f : i % 3 == 1 ? 10.0f : 0.01f;
    rondo__cpu_swiglu(devices[0], NULL, count, g, u, y);
    for (int64_t i = 0; i < count; i++) {
        double want = (double)g[i] / (1.0 + rondo_exp(-(double)g[i])) * (double)u[i];
        worst = worse(worst, size((double)y[i] - want) /
                                 ((1.5 * size((double)g[i]) + 7) * U * size(want) + 0x1p-118));
    }
    ok(worst <= 1.0, "swiglu: within its bound (worst %.2f of it)", worst);
    rondo__free(g);
    rondo__free(u);
    rondo__free(y);
}

static void swiglu_special(void)
{
    const float inf = __builtin_inff();
    const float gate[] = { 0.0f, -0.0f, inf, 1000.0f, -1000.0f, 88.0f, __builtin_nanf(""), 1.0f, -87.0f };
    float up[9], y[9];

    for (int i = 0; i < 9; i++)
        up[i] = 1.0f;
    for (int d = 0; d < device_count; d++) {
        rondo__cpu_swiglu(devices[d], NULL, 9, gate, up, y);
        ok(y[0] == 0.0f && y[1] == 0.0f && y[2] == inf && y[3] == 1000.0f && y[4] == 0.0f && y[5] == 88.0f &&
               rondo__bits(y[6]) == RONDO_NAN_BITS && y[7] > 0.7310f && y[7] < 0.7311f && y[8] < 0.0f &&
               y[8] > -1e-35f,
           "swiglu: zeros, saturation, overflow of the exponential, NaN (%s)", device_names[d]);
    }
}

/* The same but for the polynomial's last product. */
static void sigmoid_oracle(void)
{
    const int64_t count = 40000;
    float *g = floats(count, PLAIN, 1), *x = floats(count, PLAIN, 2), *y = floats(count, PLAIN, 3);
    const float inf = __builtin_inff(), gate[] = { 0.0f, inf, -inf, 1000.0f, -1000.0f, __builtin_nanf("") };
    float ones[6] = { 1.0f, 1.0f, 1.0f, 1.0f, 1.0f, 1.0f }, got[6];
    double worst = 0;

    for (int64_t i = 0; i < count; i++)
        g[i] *= i % 3 == 0 ? 80.0f : i % 3 == 1 ? 10.0f : 0.01f;
    rondo__cpu_sigmoid_mul(devices[0], NULL, count, g, x, y);
    for (int64_t i = 0; i < count; i++) {
        double want = (double)x[i] / (1.0 + rondo_exp(-(double)g[i]));
        worst = worse(worst, size((double)y[i] - want) / ((1.5 * size((double)g[i]) + 6) * U * size(want) + 0x1p-118));
    }
    ok(worst <= 1.0, "sigmoid_mul: within its bound (worst %.2f of it)", worst);
    for (int d = 0; d < device_count; d++) {
        rondo__cpu_sigmoid_mul(devices[d], NULL, 6, gate, ones, got);
        ok(got[0] == 0.5f && got[1] == 1.0f && got[2] == 0.0f && got[3] == 1.0f && got[4] == 0.0f && rondo__bits(got[5]) == RONDO_NAN_BITS,
           "sigmoid_mul: a half, all, nothing, NaN (%s)", device_names[d]);
    }
    rondo__free(g);
    rondo__free(x);
    rondo__free(y);
}

/* ---- short convolution ---- */

enum { CONV_CHANNELS = 300, CONV_ROWS = 70 };

/* The manual's words, in any order of rows: before the first of all, zeros. */
static float conv_word(const float *x, int64_t stride, const float *w, int taps, int64_t t, int64_t c, int silu)
{
    float sum = 0.0f;
    for (int i = 0; i < taps; i++) {
        const int64_t at = t - taps + 1 + i;
        sum = rondo__fma_soft(w[i * CONV_CHANNELS + c], at < 0 ? 0.0f : x[at * stride + c], sum);
    }
    if (silu) {
        const float e = rondo__exp2(-sum * (float)RONDO_LOG2E);
        sum = sum / (1.0f + e);
    }
    return sum == sum ? sum : rondo__float(RONDO_NAN_BITS);
}

/* All channels, of which only some are asked for: a sequence in parts, with gaps between rows, in place or not. */
static int conv_case(struct rondo_device *dev, int taps, int silu, int parts, int in_place, int64_t channels, const float *x, const float *w)
{
    static float at[CONV_ROWS * (CONV_CHANNELS + 5)], y[CONV_ROWS * (CONV_CHANNELS + 3)], state[(RONDO_CONV_TAPS - 1) * CONV_CHANNELS];
    static float weight[RONDO_CONV_TAPS * CONV_CHANNELS];
    const int64_t x_stride = CONV_CHANNELS + 5, y_stride = in_place ? x_stride : CONV_CHANNELS + 3;
    float *out = in_place ? at : y;
    int wrong = 0;
    memcpy(at, x, sizeof at);
    memset(y, 0, sizeof y);
    memset(state, 0, sizeof state);
    for (int i = 0; i < taps; i++)
        memcpy(weight + i * channels, w + i * CONV_CHANNELS, (size_t)channels * sizeof *w);
    for (int64_t first = 0; first < CONV_ROWS;) {
        int64_t rows = parts ? 1 + (first * 7 + 3) % 40 : CONV_ROWS;
        rows = rows < CONV_ROWS - first ? rows : CONV_ROWS - first;
        const struct rondo_conv_run run = { .rows = rows, .channels = channels, .x_stride = x_stride, .y_stride = y_stride, .taps = taps, .silu = silu,
                                            .x = at + first * x_stride, .weight = weight, .state = parts ? state : NULL, .y = out + first * y_stride };
        wrong |= rondo__cpu_short_conv(dev, NULL, &run) != 0;
        first += rows;
    }
    for (int64_t t = 0; t < CONV_ROWS; t++)
        for (int64_t c = 0; c < channels; c++)
            wrong += rondo__bits(out[t * y_stride + c]) != rondo__bits(conv_word(x, x_stride, w, taps, t, c, silu));
    for (int64_t t = 0; t < CONV_ROWS; t++)         /* what lies beside them stays */
        for (int64_t c = channels; c < y_stride; c++)
            wrong += rondo__bits(out[t * y_stride + c]) != (in_place ? rondo__bits(x[t * x_stride + c]) : 0u);
    for (int i = 0; i < taps - 1 && parts; i++)     /* the last rows, as they came */
        for (int64_t c = 0; c < channels; c++)
            wrong += rondo__bits(state[i * channels + c]) != rondo__bits(x[(CONV_ROWS - taps + 1 + i) * x_stride + c]);
    return wrong;
}

static void short_conv(void)
{
    static const int64_t widths[] = { 1, 7, 16, 33, 128, 140, 300 };
    const int64_t count = CONV_ROWS * (CONV_CHANNELS + 5);
    for (int anything = 0; anything < 2; anything++) {
        float *x = anything ? any_bits(count, RONDO_F32, 3) : floats(count, PLAIN, 3);
        float *w = anything ? any_bits(RONDO_CONV_TAPS * CONV_CHANNELS, RONDO_F32, 4) : floats(RONDO_CONV_TAPS * CONV_CHANNELS, PLAIN, 4);
        int wrong = 0, cases = 0;
        for (int d = 0; d < device_count; d++)
            for (int taps = 1; taps <= RONDO_CONV_TAPS; taps++)
                for (size_t i = 0; i < sizeof widths / sizeof *widths; i++, cases++)
                    wrong += conv_case(devices[d], taps, cases % 2, cases / 2 % 2, cases / 4 % 2, widths[i], x, w) != 0;
        is_int(wrong, 0, "short_conv, %s: %d cases have the manual's order of sums, in parts and whole", anything ? "every bit pattern" : "plain", cases);
        rondo__free(x);
        rondo__free(w);
    }
}

/* What the nearest value of a 16-bit format is, from its list of values. */
static void convert_oracle(void)
{
    for (int type = RONDO_BF16; type <= RONDO_F16; type++) {
        uint16_t all[65536], back[65536], nan = type == RONDO_BF16 ? 0x7fc0 : 0x7e00,
                                          infinity = type == RONDO_BF16 ? 0x7f80 : 0x7c00;
        static float wide[65536];
        int exact = 1, nearest = 1, ties = 1;
        for (int i = 0; i < 65536; i++)
            all[i] = (uint16_t)i;
        for (int d = 0; d < device_count; d++) {
            rondo__cpu_convert(devices[d], NULL, 65536, type, all, RONDO_F32, wide);
            rondo__cpu_convert(devices[d], NULL, 65536, RONDO_F32, wide, type, back);
            for (int i = 0; i < 65536; i++) {
                int bits_exponent = type == RONDO_BF16 ? 8 : 5, fraction = 15 - bits_exponent,
                    e = (i & 0x7fff) >> fraction;
                double m = (double)(i & ((1 << fraction) - 1)), want = e ? m + (double)(1 << fraction) : m;
                for (int s = (e ? e : 1) - (1 << (bits_exponent - 1)) + 1 - fraction; s != 0;
                     s += s < 0 ? 1 : -1)
                    want *= s < 0 ? 0.5 : 2.0;
                if ((i & 0x7fff) > infinity)
                    exact = exact && rondo__bits(wide[i]) == RONDO_NAN_BITS && back[i] == nan;
                else if ((i & 0x7fff) == infinity)
                    exact = exact && size((double)wide[i]) > 1e39 && back[i] == i;
                else
                    exact = exact && (double)wide[i] == (i & 0x8000 ? -want : want) && back[i] == i;
            }
        }
        ok(exact, "convert: every %s value to f32 exactly, and back", rondo_type_name(type));
        /* between neighbours: the middle goes to the even one, everything else to the nearer one */
        for (int i = 0; i + 1 < infinity; i += 7) {
            float low = wide[i], high = wide[i + 1], middle = low + (high - low) * 0.5f, in[3];
            uint16_t out[3];
            in[0] = rondo__float(rondo__bits(middle) - 1);
            in[1] = middle;
            in[2] = rondo__float(rondo__bits(middle) + 1);
            rondo__cpu_convert(devices[0], NULL, 3, RONDO_F32, in, type, out);
            nearest = nearest && out[0] == i && out[2] == i + 1;
            ties = ties && out[1] == (i & 1 ? i + 1 : i);
        }
        ok(nearest && ties, "convert: f32 to %s goes to the nearest value, ties to even",
           rondo_type_name(type));
    }
}

/* A weight of distance d below the maximum has an error of (1.5 |d| + 3) U of itself, or is taken as zero
 * below 2^-125. */
static void logsumexp_oracle(void)
{
    static const int64_t dims[] = { 1, 2, 15, 17, 500, 513, 4099, 50000 };
    double worst = 0;

    for (size_t i = 0; i < sizeof dims / sizeof dims[0]; i++)
        for (int spread = 0; spread < 3; spread++) {
            float *x = floats(dims[i], PLAIN, i), m = -FLT_MAX;
            double got, sum = 0, bound = 0;
            for (int64_t j = 0; j < dims[i]; j++) {
                x[j] *= spread == 0 ? 1.0f : spread == 1 ? 30.0f : 1000.0f;
                m = x[j] > m ? x[j] : m;
            }
            for (int64_t j = 0; j < dims[i]; j++) {
                double d = (double)x[j] - (double)m, p = rondo_exp(d);
                sum += p;
                bound += p * (1.5 * size(d) + 3) * U + 0x1p-125;
            }
            rondo__cpu_logsumexp(devices[0], NULL, 1, dims[i], x, dims[i], &got);
            worst = worse(worst, size(got - ((double)m + rondo_log(sum))) /
                                     (1.01 * bound / sum + 1e-15 * (1 + size((double)m))));
            rondo__free(x);
        }
    ok(worst <= 1.0, "logsumexp: within its bound (worst %.2f of it)", worst);
}

static void logsumexp_special(void)
{
    const float inf = __builtin_inff(), nan = rondo__float(0xffc12345u);
    float row[6][40];
    double out[6];

    for (int d = 0; d < device_count; d++) {
        uint64_t bits;
        for (int i = 0; i < 40; i++) {
            row[0][i] = -inf;
            row[1][i] = i == 37 ? inf : 1.0f;
            row[2][i] = i == 5 ? nan : i == 33 ? inf : 0.0f;
            row[3][i] = i == 39 ? 7.0f : -inf;
            row[4][i] = i == 20 ? FLT_MAX : -FLT_MAX;
            row[5][i] = i == 38 ? nan : 0.0f;
        }
        rondo__cpu_logsumexp(devices[d], NULL, 6, 40, row[0], 40, out);
        memcpy(&bits, &out[2], sizeof bits);
        ok(out[0] == -(double)inf && out[1] == (double)inf && bits == UINT64_C(0x7ff8000000000000) &&
               out[3] == 7.0 && out[4] == (double)FLT_MAX && out[5] != out[5],
           "logsumexp: all -inf, +inf, NaN, one number, the largest numbers (%s)", device_names[d]);
    }
}

/* ---- equal bits ---- */

/* Runs one function into `out` (which holds a copy of the first input); in_place: out is also the input. */
struct input {
    int which, in_place;
    int64_t rows, dim;
    const void *a;
    const float *b;
    int from, to;
};

static void run(struct rondo_device *d, const struct input *n, void *out)
{
    switch (n->which) {
    case 0:
        (void)rondo__cpu_rmsnorm(d, NULL, n->rows, n->dim, n->in_place ? out : n->a, n->b, 1e-6f, out);
        break;
    case 1:   /* [rows][3 heads][dim + 1] */
        (void)rondo__cpu_rope(d, NULL, n->rows, 3, n->dim, out, 3 * (n->dim + 1), n->dim + 1, n->b);
        break;
    case 2:
        (void)rondo__cpu_swiglu(d, NULL, n->rows * n->dim, n->in_place ? out : n->a, n->b, out);
        break;
    case 5:
        (void)rondo__cpu_sigmoid_mul(d, NULL, n->rows * n->dim, n->in_place ? out : n->a, n->b, out);
        break;
    case 3:
        (void)rondo__cpu_convert(d, NULL, n->rows * n->dim, n->from, n->a, n->to, out);
        break;
    default:
        (void)rondo__cpu_logsumexp(d, NULL, n->rows, n->dim, n->a, n->dim, out);
    }
}

static const char *const function_names[] = { "rmsnorm", "rope", "swiglu", "convert", "logsumexp", "sigmoid_mul" };

static void equal_bits(int which, int anything)
{
    int equal = 1, cases = 0;

    for (int64_t dim = 1; dim < 4000; dim = dim < 40 ? dim + 1 : dim * 3 / 2, cases++) {
        struct input n = { .which = which,
                           .in_place = cases % 2,
                           .rows = dim < 40 ? 5 : 40,
                           .dim = which == 1 ? dim + dim % 2 : dim };
        int64_t count = which == 1 ? n.rows * 3 * (n.dim + 1) : n.rows * n.dim,
                results = which == 4 ? n.rows : count;
        size_t each = which == 4 ? sizeof(double) : sizeof(float);
        void *want, *got;
        float *b;
        n.from = which == 3 ? RONDO_F32 + cases % 3 : RONDO_F32;
        n.to = which == 3 ? RONDO_F32 + cases / 3 % 3 : RONDO_F32;
        if (which == 3)
            each = rondo_type_size(n.to);
        n.a = anything              ? any_bits(count, n.from, (uint64_t)cases)
              : n.from == RONDO_F32 ? (void *)floats(count, (enum kind)(cases % KINDS), (uint64_t)cases)
                                    : any_bits(count, n.from, 1);
        n.b = b = anything ? any_bits(count, RONDO_F32, 500 + (uint64_t)cases) : floats(count, PLAIN, 7);
        want = rondo__alloc((size_t)count * 8);
        got = rondo__alloc((size_t)count * 8);
        for (int d = 0; d < device_count; d++) {
            void *out = d ? got : want;
            memcpy(out, n.a, (size_t)count * rondo_type_size(n.from));
            run(devices[d], &n, out);
            int64_t at = differ(out, want, results, each);
            if (at >= 0)
                diag("%s, %s: rows %lld dim %lld, element %lld differs", function_names[which],
                     device_names[d], (long long)n.rows, (long long)n.dim, (long long)at);
            equal = equal && at < 0;
        }
        if (which == 3 || which == 0 || which == 2 || which == 5)   /* no NaN but the canonical one */
            for (int64_t i = 0; i < results && n.to == RONDO_F32; i++) {
                float f = ((float *)want)[i];
                equal = equal && (f == f || rondo__bits(f) == RONDO_NAN_BITS);
            }
        rondo__free((void *)(uintptr_t)n.a);
        rondo__free(b);
        rondo__free(want);
        rondo__free(got);
    }
    ok(equal, "%s, %s: %d sizes, all instruction sets and threads have the bits of the definition",
       function_names[which], anything ? "every bit pattern" : "numbers of all kinds", cases);
}

int main(void)
{
    find_devices();
    rmsnorm_oracle();
    rmsnorm_contract();
    rope_oracle();
    swiglu_oracle();
    swiglu_special();
    sigmoid_oracle();
    short_conv();
    convert_oracle();
    logsumexp_oracle();
    logsumexp_special();
    for (int which = 0; which < 6; which++) {
        equal_bits(which, 0);
        equal_bits(which, 1);
    }
    drop_devices();
    return done();
}
