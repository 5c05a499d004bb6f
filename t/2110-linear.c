/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Linear layers on the CPU device: the definition against a double-precision oracle with a derived bound;
 * every instruction set and thread count equal to the definition bit for bit, for odd sizes, types, leaf
 * counts and hard data; a row's bits independent of the rows around it; weights packed in any pieces.
 */
#include "backends/cpu/fast.h"
#include "layers.h"

struct layer {
    struct rondo_device_linear *packed;
    void *weights;                       /* [out][in] of the storage type; of Q8 the floats that its numbers are */
    int64_t in, out;
    int32_t type, leaves;
};
#define GROUP 6   /* of Q8 */
#define STORED(type) ((type) == RONDO_Q8 ? RONDO_F32 : (type))

static float weight(const struct layer *l, int64_t i)
{
    return rondo__element(l->weights, i, STORED(l->type));
}

/* Another test knows that Q8 is none of rondo_type_name()'s concern here. */
static const char *name_of(int type)
{
    return type == RONDO_Q8 ? "q8" : rondo_type_name(type);
}

/* Loads in three uneven pieces, the last first. */
static struct layer make(int64_t in, int64_t out, int type, int leaves, enum kind kind, uint64_t seed)
{
    rondo_linear_desc d = RONDO_LINEAR_DESC_INIT;
    struct layer l = { NULL, NULL, in, out, type, leaves };
    float *w = floats(in * out, kind, seed);
    const int from = STORED(type);
    size_t row = (size_t)in * rondo_type_size(from);
    int64_t a = out / 3, b = out - out / 4;
    char *p;

    l.weights = p = rondo__alloc((size_t)out * row);
    for (int64_t i = 0; i < in * out; i++)   /* 16-bit floats end at 65504 */
        rondo__put_element(l.weights, i, from, type == RONDO_F16 && !(w[i] * w[i] < 4e9f) ? 60000.0f : w[i]);
    rondo__free(w);
    d.group = type == RONDO_Q8 ? GROUP : 0;
    d.in = in;
    d.out = out;
    d.type = type;
    d.leaves = leaves;
    if (rondo__cpu_linear_new(devices[0], &l.packed, &d) ||
        rondo__cpu_linear_load(devices[0], l.packed, b, out - b, from, p + (size_t)b * row, NULL) ||
        rondo__cpu_linear_load(devices[0], l.packed, 0, a, from, p, NULL) ||
        rondo__cpu_linear_load(devices[0], l.packed, a, b - a, from, p + (size_t)a * row, NULL) ||
        (type == RONDO_Q8 && rondo__cpu_linear_read(l.packed, 0, out, l.weights)))
        exit(99);
    return l;
}

static void drop(struct layer *l)
{
    rondo__cpu_linear_free(devices[0], l->packed);
    rondo__free(l->weights);
}

static int execute(int device, const struct layer *l, int64_t rows, const float *x, int64_t x_stride,
                   float *y, int64_t y_stride, const float *bias, int add)
{
    const struct rondo_linear_run run = { .rows = rows, .x = x, .x_stride = x_stride, .y = y, .y_stride = y_stride, .bias = bias, .add = add };
    return rondo__cpu_linear(devices[device], NULL, l->packed, &run, NULL);
}

/* ---- oracle ---- */

/* A chain of n products and depth additions, each rounded: |error| <= (n + depth) 2^-24 (1 + small) * sum |x
 * w|, and half the smallest subnormal for each operation. */
static void oracle(void)
{
    static const int64_t shape[][3] = { { 1, 1, 1 },    { 7, 5, 2 },     { 33, 40, 5 },
                                        { 512, 33, 3 }, { 1100, 20, 3 }, { 1537, 9, 16 } };

    for (int kind = 0; kind < KINDS; kind++)
        for (int type = RONDO_F32; type <= RONDO_Q8; type++) {
            double worst = 0;
            for (size_t s = 0; s < sizeof shape / sizeof shape[0]; s++) {
                int64_t in = shape[s][0], out = shape[s][1], rows = 3;
                int leaves = (int)(shape[s][2] > in ? in : shape[s][2]),
                    depth = rondo__cpu_tree_depth(leaves);
                struct layer l = make(in, out, type, leaves, (enum kind)kind, 11 + s);
                float *x = floats(rows * in, (enum kind)kind, 77 + s), *bias = floats(out, PLAIN, 5),
                      *y = floats(rows * out, PLAIN, 6);
                float *old = floats(rows * out, PLAIN, 6);
                execute(0, &l, rows, x, in, y, out, bias, 1);
                for (int64_t r = 0; r < rows; r++)
                    for (int64_t o = 0; o < out; o++) {
                        double sum = 0, size = 0, error;
                        for (int64_t k = 0; k < in; k++) {
                            double p = (double)x[r * in + k] *
                                       (double)weight(&l, o * in + k);
                            sum += p;
                            size += p < 0 ? -p : p;
                        }
                        sum += (double)bias[o] + (double)old[r * out + o];
                        size += 4.0;             /* bias and y, both below 1, pass two additions */
                        error = (double)y[r * out + o] - sum;
                        error = error < 0 ? -error : error;
                        error /= ((double)(in / leaves + 1 + depth + 2) * 0x1p-24 * 1.01 * size +
                                  (double)in * 0x1p-149);
                        worst = worse(worst, error);
                    }
                rondo__free(x);
                rondo__free(y);
                rondo__free(old);
                rondo__free(bias);
                drop(&l);
            }
            ok(worst <= 1.0, "%s, %s: within the bound of its chains and tree", name_of(type),
               kind_names[kind]);
            diag("worst %.3f of the bound", worst);
        }
}

/* Exactness where nothing is rounded: integers small enough that every sum is exact, in any order. */
static void integers(void)
{
    struct layer l = make(1000, 37, RONDO_BF16, 7, INTEGERS, 3);
    float *x = floats(2 * 1000, INTEGERS, 4), y[2 * 37];
    int wrong = 0;

    for (int d = 0; d < device_count; d++) {
        execute(d, &l, 2, x, 1000, y, 37, NULL, 0);
        for (int r = 0; r < 2; r++)
            for (int o = 0; o < 37; o++) {
                int64_t sum = 0;
                for (int k = 0; k < 1000; k++)
                    sum += (int64_t)x[r * 1000 + k] *
                           (int64_t)rondo__element(l.weights, o * 1000 + k, RONDO_BF16);
                wrong += y[r * 37 + o] != (float)sum;
            }
    }
    ok(wrong == 0, "small integers: exact on every instruction set");
    rondo__free(x);
    drop(&l);
}

/* The order is the contract's: a sum that comes out differently in any other order. Leaf of 5: 1,0,3,2,4. */
static void order(void)
{
    const float w[10] = { 1.0f, 0x1p24f, -0x1p24f, 1.0f, 1.0f, /* second output */ 0x1p24f,
                          1.0f, 1.0f,    -0x1p24f, 1.0f };
    const float x[5] = { 1, 1, 1, 1, 1 };
    rondo_linear_desc d = RONDO_LINEAR_DESC_INIT;
    struct layer l = { NULL, NULL, 5, 2, RONDO_F32, 1 };
    float y[2];

    d.in = 5;
    d.out = 2;
    d.type = RONDO_F32;
    d.leaves = 1;
    if (rondo__cpu_linear_new(devices[0], &l.packed, &d) || rondo__cpu_linear_load(devices[0], l.packed, 0, 2, d.type, w, NULL))
        exit(99);
    for (int i = 0; i < device_count; i++) {
        execute(i, &l, 1, x, 5, y, 2, NULL, 0);
        /* 2^24, +1 is lost, +1 is lost, -2^24, +1; then 1, 2^24 (+1 lost), 0, 1, 2 */
        ok(y[0] == 1.0f && y[1] == 2.0f, "the order inside a leaf is 1,0,3,2,4 (%s)", device_names[i]);
    }
    drop(&l);

    /* leaves of one element: ((0+1)+(2+3)) + 4 */
    const float t[5] = { 0x1p24f, 1.0f, 1.0f, -0x1p24f, 3.0f };
    d.out = 1;
    d.leaves = 5;
    l.out = 1;
    l.leaves = 5;
    if (rondo__cpu_linear_new(devices[0], &l.packed, &d) || rondo__cpu_linear_load(devices[0], l.packed, 0, 1, d.type, t, NULL))
        exit(99);
    for (int i = 0; i < device_count; i++) {
        execute(i, &l, 1, x, 5, y, 1, NULL, 0);
        /* 2^24 + 1 = 2^24; 1 - 2^24 is exact; together 1; and 3 */
        ok(y[0] == 4.0f, "leaves are joined by the tree (%s)", device_names[i]);
    }
    drop(&l);
}

/* The contract's words written down once more, top down: node (h, i) of the tree covers leaves i * 2^h to
 * (i+1) * 2^h. */
static float node(const struct layer *l, const float *x, int64_t output, int64_t h, int64_t i)
{
    if (h == 0) {
        float acc = 0.0f;
        int64_t first = i * l->in / l->leaves, end = (i + 1) * l->in / l->leaves;
        for (int64_t pair = first; pair < end; pair += 2) {
            int64_t odd = pair + 1;
            if (odd < end)
                acc = rondo__fma_soft(x[odd], weight(l, output * l->in + odd), acc);
            acc = rondo__fma_soft(x[pair], weight(l, output * l->in + pair), acc);
        }
        return acc;
    }
    float left = node(l, x, output, h - 1, 2 * i);
    return (2 * i + 1) << (h - 1) < l->leaves ? left + node(l, x, output, h - 1, 2 * i + 1) : left;
}

static void contract(void)
{
    static const int64_t shape[][2] = { { 7, 3 },    { 100, 1 },  { 100, 6 },  { 100, 7 },
                                        { 129, 16 }, { 300, 11 }, { 1024, 2 }, { 50, 50 } };
    for (size_t s = 0; s < sizeof shape / sizeof shape[0]; s++) {
        struct layer l = make(shape[s][0], 35, s % 2 ? RONDO_Q8 : RONDO_BF16, (int)shape[s][1], CANCEL, s);
        float *x = floats(l.in, WIDE, 60 + s), y[35];
        int64_t h = 0;
        int equal = 1;
        while ((int64_t)1 << h < l.leaves)
            h++;
        for (int d = 0; d < device_count; d++) {
            execute(d, &l, 1, x, l.in, y, 35, NULL, 0);
            for (int64_t o = 0; o < 35; o++)
                equal = equal && rondo__bits(y[o]) == rondo__bits(node(&l, x, o, h, 0));
        }
        ok(equal, "%lld inputs in %d leaves: the ranges, chains and tree of the contract", (long long)l.in,
           (int)l.leaves);
        rondo__free(x);
        drop(&l);
    }
}

/* ---- equal bits ---- */

static int compare(const struct layer *l, int64_t rows, const float *x, int64_t x_stride, const float *bias,
                   int add)
{
    int64_t y_stride = l->out + 3, count = rows * y_stride;
    float *want = floats(count, PLAIN, 9), *got = NULL;
    int equal = 1;

    execute(0, l, rows, x, x_stride, want, y_stride, bias, add);
    for (int d = 1; d < device_count && equal; d++) {
        got = floats(count, PLAIN, 9);
        execute(d, l, rows, x, x_stride, got, y_stride, bias, add);
        int64_t at = differ(got, want, count, sizeof *got);
        if (at >= 0) {
            diag("%s: in %lld out %lld leaves %d rows %lld bias %d add %d: row %lld column %lld is %a, the "
                 "definition gives %a",
                 device_names[d], (long long)l->in, (long long)l->out, (int)l->leaves, (long long)rows,
                 bias != NULL, add, (long long)(at / y_stride), (long long)(at % y_stride), (double)got[at],
                 (double)want[at]);
            equal = 0;
        }
        rondo__free(got);
    }
    rondo__free(want);
    return equal;
}

static void sizes(void)
{
    static const int64_t rows[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 25, 40 };
    float *bias = floats(100, PLAIN, 21);
    int equal = 1, n = 0;

    for (int64_t in = 1; in <= 33; in++)
        for (int64_t out = 1; out <= 70; out += in % 3 == 0 ? 7 : 11, n++) {
            int leaves = (int)(1 + (in * 7 + out) % in);
            struct layer l = make(in, out, RONDO_F32 + n % 4, leaves, (enum kind)(n % KINDS), (uint64_t)n);
            int64_t m = rows[n % 15];
            float *x = floats(m * (in + 5), (enum kind)(n % KINDS), 1000 + (uint64_t)n);
            equal = compare(&l, m, x, in + 5, n % 2 ? bias : NULL, n % 4 / 2) && equal;
            rondo__free(x);
            drop(&l);
        }
    ok(equal,
       "%d layers of 1-33 inputs and 1-70 outputs: all instruction sets and threads have the bits of the "
       "definition",
       n);
    rondo__free(bias);
}

static void leaves(void)
{
    static const int counts[] = { 1, 2, 3, 7, 8, 12, 16, 31, 100, 1300 };
    int equal = 1;

    for (int type = RONDO_F32; type <= RONDO_Q8; type++)
        for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
            struct layer l = make(1300, 45, type, counts[i], (enum kind)(i % 4), i);
            int64_t m = i % 3 == 0 ? 3 : i % 3 == 1 ? 14 : 27;
            float *x = floats(m * 1300, (enum kind)(i % 4), 50 + i);
            equal = compare(&l, m, x, 1300, NULL, 0) && equal;
            rondo__free(x);
            drop(&l);
        }
    ok(equal, "1 to 1300 leaves of 1300 inputs, all types: equal bits");
}

/* Every bit pattern may be a weight or an input: NaN, infinity, subnormals. */
static void anything(void)
{
    int equal = 1;

    for (int type = RONDO_F32; type <= RONDO_F16; type++)
        for (uint64_t seed = 0; seed < 4; seed++) {
            struct layer l = make(40, 70, type, 3, PLAIN, seed);
            void *w = any_bits(40 * 70, type, 100 + seed);
            float *x = any_bits(15 * 40, RONDO_F32, 200 + seed);
            rondo__cpu_linear_load(devices[0], l.packed, 0, 70, l.type, w, NULL);
            equal = compare(&l, 15, x, 40, NULL, (int)seed & 1) && equal;
            rondo__free(w);
            rondo__free(x);
            drop(&l);
        }
    ok(equal, "random bits as weights and inputs: equal bits, NaNs canonical");
}

/* A NaN or an infinity in one row of x reaches that row only; one in a row of W reaches that output only. */
static void poison(void)
{
    static const float bad[] = { __builtin_nanf(""), __builtin_inff(), -__builtin_inff() };
    const int64_t in = 70, out = 67, rows = 29;
    struct layer l = make(in, out, RONDO_F32, 3, PLAIN, 8), p = make(in, out, RONDO_F32, 3, PLAIN, 8);
    float *x = floats(rows * in, PLAIN, 9), *clean = floats(rows * out, PLAIN, 1),
          *y = floats(rows * out, PLAIN, 1);

    for (int d = 0; d < device_count; d++) {
        int good = 1;
        execute(d, &l, rows, x, in, clean, out, NULL, 0);
        for (int i = 0; i < 3; i++) {
            int64_t row = 13, output = 35;
            float keep_x = x[row * in + 66], *w = p.weights, keep_w = w[output * in + 1];
            x[row * in + 66] = bad[i];
            w[output * in + 1] = bad[i];
            rondo__cpu_linear_load(devices[0], p.packed, 0, out, p.type, w, NULL);
            execute(d, &p, rows, x, in, y, out, NULL, 0);
            for (int64_t r = 0; r < rows; r++)
                for (int64_t o = 0; o < out; o++) {
                    float got = y[r * out + o], want = clean[r * out + o];
                    good = good && (r == row || o == output ? got - got != 0.0f
                                                            : rondo__bits(got) == rondo__bits(want));
                    good = good && (got == got || rondo__bits(got) == RONDO_NAN_BITS);
                }
            x[row * in + 66] = keep_x;
            w[output * in + 1] = keep_w;
        }
        ok(good, "NaN and infinity stay in their row and output (%s)", device_names[d]);
    }
    rondo__free(x);
    rondo__free(y);
    rondo__free(clean);
    drop(&l);
    drop(&p);
}

/* Rows 0..n-1 at once against each row alone and against pieces, with the bits of the first device. */
static void rows_alone(void)
{
    const int64_t in = 787, out = 100, rows = 1000;   /* halves of it are no whole groups */

    for (int type = RONDO_F32; type <= RONDO_Q8; type += type == RONDO_BF16 ? 2 : 1) {
        struct layer l = make(in, out, type, type == RONDO_Q8 ? 1 : 2, PLAIN, 31);
        float *x = floats(rows * in, PLAIN, 32), *all = floats(rows * out, PLAIN, 33),
              *one = floats(rows * out, PLAIN, 33);
        for (int d = 0; d < device_count; d++) {
            int64_t step = devices[d]->isa <= RONDO_CPU_SCALAR ? 199 : 1, bad = -1,
                    n = devices[d]->isa <= RONDO_CPU_SCALAR ? 400 : rows;
            if (devices[d]->isa == RONDO_CPU_SOFT)
                n = 200;
            execute(d, &l, n, x, in, all, out, NULL, 0);
            for (int64_t r = 0; r < n; r += step) {
                execute(d, &l, 1, x + r * in, in, one, out, NULL, 0);
                bad = differ(one, all + r * out, out, sizeof *one) >= 0 ? r : bad;
            }
            for (int64_t m = 2; m < n; m = m * 3 + 1) {
                execute(d, &l, m, x + (n - m) * in, in, one, out, NULL, 0);
                bad = differ(one, all + (n - m) * out, m * out, sizeof *one) >= 0 ? -2 : bad;
            }
            ok(bad == -1, "%s, %s: a row among %lld has the bits that it has alone", name_of(type),
               device_names[d], (long long)n);
        }
        rondo__free(x);
        rondo__free(all);
        rondo__free(one);
        drop(&l);
    }
}

static void stops(void)
{
    rondo_linear_desc d = RONDO_LINEAR_DESC_INIT;
    struct rondo_device_linear *l = NULL;

    d.in = 10;
    d.out = 4;
    d.type = RONDO_F32;
    d.leaves = 11;
    ok(rondo__cpu_linear_new(devices[0], &l, &d) == RONDO_EINVAL && !l,
       "more leaves than inputs are refused");
    d.in = INT32_MAX;
    d.out = INT64_MAX / 2;
    d.leaves = 1;
    ok(rondo__cpu_linear_new(devices[0], &l, &d) == RONDO_EINVAL && !l,
       "sizes that cannot be counted are refused");
}

/* What was packed can be read back, whatever order the panels have. */
static void read_back(void)
{
    int equal = 1;
    for (int type = RONDO_F32; type <= RONDO_F16; type++) {
        struct layer l = make(19, 70, type, 2, PLAIN, 4);
        size_t row = 19 * rondo_type_size(type);
        char *w = rondo__alloc(70 * row);
        for (int64_t first = 0; first < 70; first += 7)
            equal = equal && rondo__cpu_linear_read(l.packed, first, 7, w + (size_t)first * row) == 0;
        equal = equal && memcmp(w, l.weights, 70 * row) == 0;
        rondo__free(w);
        drop(&l);
    }
    ok(equal, "weights come back as they were loaded");
}

/* ---- other types ---- */

/* What each device makes of weights of each type for layers of each type, in pieces of rows, is byte for byte what the definition makes. */
static void conversions(void)
{
    static const int64_t shape[][3] = { { 1, 1, 1 }, { 70, 33, 3 }, { 131, 64, 1 }, { 256, 100, 2 }, { 300, 40, 11 }, { 64, 7, 64 } };
    static const int32_t groups[] = { 32, 2, 70, 300 };
    int equal = 1, n = 0;
    for (size_t s = 0; s < sizeof shape / sizeof *shape; s++)
        for (int to = RONDO_F32; to <= RONDO_Q8; to++)
            for (int from = RONDO_F32; from <= (to == RONDO_Q8 ? RONDO_Q8 : RONDO_F16); from++, n++) {
                const int64_t in = shape[s][0], out = shape[s][1], columns = in - in / shape[s][2] * (shape[s][2] > 2);
                const int32_t leaves = (int32_t)shape[s][2], begin[3] = { 0, leaves > 2, leaves };
                rondo_linear_desc d = RONDO_LINEAR_DESC_INIT;
                struct rondo_device_linear *packed[2 * RONDO_CPU_ISAS];
                char *w = from == RONDO_Q8 ? any_bits(in * out, RONDO_F32, 70 + s) : NULL;
                float *values = floats(in * out, n % 3 ? WIDE : TINY, 60 + s), *scales = floats(in * out, PLAIN, 5);
                d.in = in;
                d.out = out;
                d.leaves = leaves;
                d.type = to;
                d.group = to == RONDO_Q8 ? groups[n % 4] : 0;
                d.parts = 2;          /* without the first leaf, where there are several */
                d.part = 1;
                d.leaf_begin = begin;
                if (!w) {
                    w = any_bits(in * out, from, 80 + s);
                    for (int64_t i = 0; n % 2 && i < in * out; i++)
                        rondo__put_element(w, i, from, i % 97 == 0 ? 0.0f : values[i]);
                }
                for (int c = 0; c < device_count; c++) {
                    const size_t row = (size_t)columns * rondo__weight_bytes(from);
                    const int64_t all_groups = to == RONDO_Q8 ? rondo__linear_groups(in, leaves, d.group, begin[1], leaves) : 0;
                    if (rondo__cpu_linear_new(devices[c], &packed[c], &d))
                        exit(99);
                    memset(packed[c]->weights, 0, packed[c]->bytes);
                    for (int64_t first = 0, some; first < out; first += some) {
                        some = out - first < 39 ? out - first : 39;
                        equal &= !rondo__cpu_linear_load(devices[c], packed[c], first, some, from, w + (size_t)first * row,
                                                         from == RONDO_Q8 ? scales + first * all_groups : NULL);
                    }
                    if (equal && memcmp(packed[c]->weights, packed[0]->weights, packed[0]->bytes)) {
                        diag("%s: %lld x %lld in %d leaves, %s to %s in groups of %d", device_names[c], (long long)in, (long long)out, (int)leaves,
                             name_of(from), name_of(to), (int)d.group);
                        equal = 0;
                    }
                }
                for (int c = 0; c < device_count; c++)
                    rondo__cpu_linear_free(devices[c], packed[c]);
                rondo__free(w);
                rondo__free(values);
                rondo__free(scales);
            }
    ok(equal, "weights of all types for layers of all types, %d of them: each device packs the bytes of the definition", n);
}

/* The rule of Q8 written down once more: scale, numbers, error; and numbers that came with their scales. */
static void whole_numbers(void)
{
    const int64_t in = 77, out = 34;
    const int32_t leaves = 3, group = 8;
    rondo_linear_desc d = RONDO_LINEAR_DESC_INIT;
    struct rondo_device_linear *l = NULL;
    d.in = in;
    d.out = out;
    d.leaves = leaves;
    d.type = RONDO_Q8;
    d.group = group;
    float *back = floats(in * out, PLAIN, 1), *w = floats(in * out, WIDE, 2);
    int near = 1, sixteen = 1, sevens = 1, bad = 1;
    w[5] = __builtin_nanf("");
    w[in + 6] = -__builtin_inff();
    for (int i = 0; i < 25; i++)
        w[2 * in + i] = 0.0f;
    if (rondo__cpu_linear_new(devices[0], &l, &d) || rondo__cpu_linear_load(devices[0], l, 0, out, RONDO_F32, w, NULL) ||
        rondo__cpu_linear_read(l, 0, out, back))
        exit(99);
    for (int64_t o = 0; o < out; o++)
        for (int32_t leaf = 0; leaf < leaves; leaf++)
            for (int64_t k = leaf * in / leaves, end = (leaf + 1) * in / leaves, g = k; g < end; g += group) {
                const int64_t last = g + group < end ? g + group : end;
                double largest = 0, step = 0;
                int finite = 1;
                for (int64_t i = g; i < last; i++) {
                    const double a = w[o * in + i] < 0 ? -(double)w[o * in + i] : (double)w[o * in + i];
                    finite &= a <= 3.5e38;
                    largest = a > largest ? a : largest;
                }
                for (int64_t i = g; i < last; i++) {
                    const float b = back[o * in + i];
                    if (!finite) {
                        bad &= b != b;
                        continue;
                    }
                    double error = (double)b - (double)w[o * in + i];
                    error = error < 0 ? -error : error;
                    near &= error <= largest / 254 * (1 + 0x1p-15);
                    if (largest > 0 && (double)(b < 0 ? -b : b) > step)
                        step = (double)(b < 0 ? -b : b);
                }
                if (finite && largest > 0) {   /* the largest is number 127 of its scale */
                    const float scale = (float)(step / 127);
                    sevens &= step >= largest && step <= largest * (1 + 0x1p-15) && (double)scale * 127 == step;
                    sixteen &= (rondo__bits(scale) & 0xffu) == 0;
                }
            }
    ok(near, "numbers of 8 bits are within a 254th of the largest of their group");
    ok(sevens && sixteen, "whose number is 127, of a scale of 16 bits");
    ok(bad, "a group with a NaN or an infinity is NaN");
    ok(back[2 * in] == 0.0f && back[2 * in + 24] == 0.0f, "one of zeros is zeros");
    rondo__cpu_linear_free(devices[0], l);

    /* given ones: the groups of a leaf after those of the one before, 4 + 4 + 4 of them */
    int8_t *numbers = any_bits(in * out, RONDO_BF16, 3);
    float *scales = floats(out * 12, WIDE, 4);
    int same = 1;
    if (rondo__cpu_linear_new(devices[0], &l, &d) || rondo__cpu_linear_load(devices[0], l, 0, out, RONDO_Q8, numbers, scales) ||
        rondo__cpu_linear_read(l, 0, out, back))
        exit(99);
    for (int64_t o = 0; o < out; o++)
        for (int64_t i = 0; i < in; i++) {
            const int64_t leaf = i < in / 3 ? 0 : i < 2 * in / 3 ? 1 : 2, at = i - leaf * in / 3;
            same &= rondo__bits(back[o * in + i]) == rondo__bits((float)numbers[o * in + i] * scales[o * 12 + leaf * 4 + at / group]);
        }
    ok(same, "numbers that come with scales are their products");
    rondo__cpu_linear_free(devices[0], l);
    rondo__free(numbers);
    rondo__free(scales);
    rondo__free(back);
    rondo__free(w);
}

/* ---- nodes ---- */

struct node {
    int32_t begin, end;
    const float *sum;
};

/* The canonical tree over [begin, begin + size) of `total` leaves, of nodes that ranks computed; NULL: nothing there. Sums over `count`
 * floats go to memory of their own. */
static float *join(const struct node *nodes, int count_nodes, int64_t begin, int64_t size, int32_t total, int64_t count)
{
    float *sum = rondo__alloc((size_t)count * sizeof *sum);
    const int64_t end = begin + size < total ? begin + size : total;
    for (int i = 0; i < count_nodes; i++)
        if (nodes[i].begin == begin && nodes[i].end == end) {
            memcpy(sum, nodes[i].sum, (size_t)count * sizeof *sum);
            return sum;
        }
    if (size == 1)
        exit(99);   /* a leaf that nobody computed */
    if (begin + size / 2 >= total) {
        rondo__free(sum);
        return join(nodes, count_nodes, begin, size / 2, total, count);
    }
    float *left = join(nodes, count_nodes, begin, size / 2, total, count),
          *right = join(nodes, count_nodes, begin + size / 2, size / 2, total, count);
    for (int64_t i = 0; i < count; i++)
        sum[i] = left[i] + right[i];
    rondo__free(left);
    rondo__free(right);
    return sum;
}

/* Any ranges of leaves, each on a device of its own: what they make, joined, is the sum of one. */
static void parts(void)
{
    static const int32_t all[] = { 1, 2, 3, 5, 8, 13, 16, 31 };
    int same = 1, highest = 1;
    for (size_t t = 0; t < sizeof all / sizeof *all; t++)
        for (uint64_t seed = 0; seed < 6; seed++) {
            const int64_t in = all[t] * 3 + 7, out = 41, rows = seed % 2 ? 2 : 29, stride = rows * out + 5;
            const int type = RONDO_F32 + (int)seed % 4;
            struct layer l = make(in, out, type, all[t], seed % 2 ? WIDE : PLAIN, seed);
            struct node nodes[64];
            float *x = floats(rows * (in + 2), PLAIN, 50 + seed), *want = floats(rows * out, PLAIN, 1), *memory[64];
            int32_t count = 0, ranges = 0;
            execute(0, &l, rows, x, in + 2, want, out, NULL, 0);
            for (int32_t first = 0, n; first < all[t]; first += n) {
                n = 1 + (int32_t)(random_32(seed + 77, (uint64_t)(first + 100 * (int64_t)t)) % (uint32_t)(all[t] - first));
                const int32_t made = rondo__linear_nodes(all[t], first, n), device = ranges % device_count;
                float *to = memory[ranges++] = rondo__alloc((size_t)(made * stride) * sizeof *to);
                const struct rondo_linear_run run = { .rows = rows, .x = x + first * in / all[t], .x_stride = in + 2, .first_leaf = first,
                                                      .leaves = n, .nodes = to, .node_stride = stride };
                same &= rondo__cpu_linear(devices[device], NULL, l.packed, &run, NULL) == 0;
                for (int32_t at = first, i = 0; at < first + n; i++) {
                    const int32_t end = rondo__linear_node_end(all[t], at, first + n);
                    /* aligned, or cut off by the end, and no higher one fits */
                    int64_t size = 1;
                    while (size < end - at)
                        size *= 2;
                    highest &= at % size == 0 && (at + size == end || end == all[t]);
                    highest &= at % (2 * size) != 0 || (at + 2 * size > first + n && first + n < all[t]) || end == first + n;
                    nodes[count++] = (struct node){ at, end, to + i * stride };
                    at = end;
                    highest &= at < first + n || i + 1 == made;
                }
            }
            float *got = join(nodes, count, 0, 64, all[t], rows * out);
            if (differ(got, want, rows * out, sizeof *got) >= 0 && same) {
                diag("%d leaves in %d ranges, %s: other bits", (int)all[t], (int)ranges, name_of(type));
                same = 0;
            }
            for (int32_t i = 0; i < ranges; i++)
                rondo__free(memory[i]);
            rondo__free(got);
            rondo__free(x);
            rondo__free(want);
            drop(&l);
        }
    ok(same, "nodes of ranges of leaves, computed by different devices, join to one rank's sum");
    ok(highest, "they are the maximal aligned ones");
    struct layer l = make(40, 5, RONDO_F32, 4, PLAIN, 1);
    float x[40] = { 0 }, y[5];
    struct rondo_linear_run run = { .rows = 1, .x = x, .x_stride = 40, .y = y, .y_stride = 5, .first_leaf = 1, .leaves = 2 };
    ok(rondo__cpu_linear(devices[0], NULL, l.packed, &run, NULL) == RONDO_EINVAL && strstr(rondo_error_text(), "no sum"), "some leaves are no sum");
    run.nodes = y;
    run.leaves = 4;
    ok(rondo__cpu_linear(devices[0], NULL, l.packed, &run, NULL) == RONDO_EINVAL && strstr(rondo_error_text(), "that has [0, 4)"),
       "nor are leaves that are not there");
    drop(&l);
}

/* Where the leaves of each of `parts` parts begin: anywhere, at one leaf each, or all with one of them. */
static int divide(int32_t *begin, int32_t total, int way, uint64_t seed)
{
    int parts = way == 0 ? total : 1 + (int)(random_32(seed, 1) % 9u);
    for (int p = 0; p <= parts; p++)
        begin[p] = way == 0 ? p : way == 1 ? (p > parts / 2 ? total : 0) : (int32_t)(random_32(seed, 10 + (uint64_t)p) % (uint32_t)(total + 1));
    for (int p = 1; way == 2 && p <= parts; p++)
        for (int i = p; i > 0 && begin[i] < begin[i - 1]; i--) {
            int32_t other = begin[i];
            begin[i] = begin[i - 1];
            begin[i - 1] = other;
        }
    begin[0] = 0;
    begin[parts] = total;
    return parts;
}

/* A layer that has only the columns of some leaves, loaded with these columns of the whole one's weights. */
static struct layer part_of(const struct layer *whole, const int32_t *begin, int parts, int p)
{
    rondo_linear_desc d = RONDO_LINEAR_DESC_INIT;
    const int64_t first = begin[p] * whole->in / whole->leaves, columns = begin[p + 1] * whole->in / whole->leaves - first;
    const int from = STORED(whole->type);
    const size_t size = rondo_type_size(from);
    struct layer l = { NULL, rondo__alloc((size_t)(columns * whole->out) * size + 1), columns, whole->out, whole->type, whole->leaves };
    for (int64_t o = 0; o < whole->out && columns; o++)
        memcpy((char *)l.weights + (size_t)(o * columns) * size, (char *)whole->weights + (size_t)(o * whole->in + first) * size,
               (size_t)columns * size);
    d.in = whole->in;
    d.out = whole->out;
    d.type = whole->type;
    d.leaves = whole->leaves;
    d.parts = parts;
    d.part = p;
    d.leaf_begin = begin;
    d.group = whole->type == RONDO_Q8 ? GROUP : 0;   /* what were numbers and a scale becomes the same ones again */
    if (rondo__cpu_linear_new(devices[0], &l.packed, &d) || rondo__cpu_linear_load(devices[0], l.packed, 0, 7, from, l.weights, NULL) ||
        rondo__cpu_linear_load(devices[0], l.packed, 7, l.out - 7, from, (char *)l.weights + (size_t)(7 * columns) * size, NULL))
        exit(99);
    return l;
}

/* Any division of the leaves among layers of their own: nodes, computed by different devices, joined by any device, are the whole's sum. */
static void division(void)
{
    static const int32_t all[] = { 1, 2, 3, 6, 7, 16, 23, 32 };
    int same = 1, sizes = 1;
    for (size_t t = 0; t < sizeof all / sizeof *all; t++)
        for (uint64_t seed = 0; seed < 9; seed++) {
            const int64_t in = all[t] * 4 + 5, out = seed % 2 ? 41 : 150, rows = seed % 3 ? 3 : 29, x_stride = in + 2, y_stride = out + 3;
            const int32_t total = all[t];
            struct layer l = make(in, out, RONDO_F32 + (int)(seed + t) % 4, total, seed % 2 ? WIDE : PLAIN, seed);
            struct rondo_linear_node nodes[64];
            float *x = floats(rows * x_stride, PLAIN, 50 + seed), *bias = seed % 2 ? floats(out, PLAIN, 3) : NULL, *memory[64];
            float *want = floats(rows * y_stride, PLAIN, 4);
            int32_t begin[64], count = 0, parts = divide(begin, total, (int)seed % 3, seed + 100 * t);
            execute(0, &l, rows, x, x_stride, want, y_stride, bias, seed % 4 < 2);
            for (int p = 0; p < parts; p++) {
                struct layer part = part_of(&l, begin, parts, p);
                const int32_t n = begin[p + 1] - begin[p], made = rondo__linear_nodes(total, begin[p], n);
                const int64_t stride = rows * out + 5;
                memory[p] = floats(made * stride + 1, PLAIN, 9);
                /* all that it has, or, every other time, in two goes */
                for (int32_t first = begin[p], some; first <= begin[p + 1]; first += some + (some == 0)) {
                    some = p % 2 == 0 || n < 2 ? 0 : first == begin[p] ? n / 2 : begin[p + 1] - first;
                    if (some && rondo__linear_nodes(total, begin[p], n / 2) + rondo__linear_nodes(total, begin[p] + n / 2, n - n / 2) != made)
                        some = 0;
                    const int32_t before = first == begin[p] ? 0 : rondo__linear_nodes(total, begin[p], first - begin[p]);
                    const struct rondo_linear_run run = { .rows = rows, .x = x + first * in / total, .x_stride = x_stride, .first_leaf = some ? first : 0,
                                                          .leaves = some, .nodes = memory[p] + before * stride, .node_stride = stride };
                    same &= rondo__cpu_linear(devices[(p + (int)seed) % device_count], NULL, part.packed, &run, NULL) == 0;
                    if (!some || first + some == begin[p + 1])
                        break;
                }
                for (int32_t at = begin[p], end, i = 0; at < begin[p + 1]; at = end, i++) {
                    end = rondo__linear_node_end(total, at, begin[p + 1]);
                    nodes[count++] = (struct rondo_linear_node){ memory[p] + i * stride, out, rondo__linear_merges(total, at, end), 0 };
                }
                int64_t groups = 0;
                for (int32_t g = begin[p]; g < begin[p + 1]; g++)
                    groups += ((g + 1) * in / total - g * in / total + GROUP - 1) / GROUP;
                sizes &= rondo__cpu_linear_bytes(part.packed) == (size_t)((out + 31) / 32 * 32) * (l.type == RONDO_Q8 ? (size_t)(part.in + 4 * groups)
                                                                                            : (size_t)part.in * rondo_type_size(l.type));
                const struct rondo_linear_run beyond = { .rows = 1, .x = x, .x_stride = x_stride, .first_leaf = begin[p], .leaves = n + 1,
                                                         .nodes = memory[p], .node_stride = 1 };
                sizes &= rondo__cpu_linear(devices[0], NULL, part.packed, &beyond, NULL) == RONDO_EINVAL;
                drop(&part);
            }
            for (int d = 0; d < device_count; d++) {
                float *got = floats(rows * y_stride, PLAIN, 4);
                const struct rondo_linear_join job = { rows, out, nodes, count, seed % 4 < 2, got, y_stride, bias };
                same &= rondo__cpu_linear_join(devices[d], NULL, &job) == 0;
                if (differ(got, want, rows * y_stride, sizeof *got) >= 0 && same) {
                    diag("%d leaves in %d parts, %s, %s: other bits", (int)total, (int)parts, name_of(l.type), device_names[d]);
                    same = 0;
                }
                rondo__free(got);
            }
            for (int p = 0; p < parts; p++)
                rondo__free(memory[p]);
            rondo__free(want);
            rondo__free(bias);
            rondo__free(x);
            drop(&l);
        }
    ok(same, "any division of the leaves among layers of their own: joined, they are the bits of one");
    ok(sizes, "such a layer has the weights of its leaves and no others");
}

/* Large enough to be shared out among threads, by rows and by columns; NaN; in place; stacks that cannot be. */
static void joins(void)
{
    static const int64_t shape[][2] = { { 1, 300000 }, { 2000, 100 }, { 3, 1 }, { 7, 70000 } };
    for (size_t s = 0; s < sizeof shape / sizeof *shape; s++) {
        const int64_t rows = shape[s][0], out = shape[s][1], n = rows * out;
        static const int32_t merges[5] = { 0, 1, 0, 0, 1 };
        struct rondo_linear_node nodes[5];
        float *memory = floats(5 * n, WIDE, s);
        int right = 1;
        memory[n + n / 2] = __builtin_nanf("1");
        memory[3 * n] = __builtin_inff();
        for (int i = 0; i < 5; i++)
            nodes[i] = (struct rondo_linear_node){ memory + i * n, out, merges[i], 0 };
        for (int d = 0; d < device_count; d++) {
            float *y = floats(n, PLAIN, 2);
            struct rondo_linear_join job = { rows, out, nodes, 5, 0, y, out, NULL };
            right &= rondo__cpu_linear_join(devices[d], NULL, &job) == 0;
            for (int64_t i = 0; i < n; i++) {
                float *m = memory + i, want = (m[0] + m[n]) + (m[2 * n] + (m[3 * n] + m[4 * n]));
                right &= rondo__bits(y[i]) == (want != want ? RONDO_NAN_BITS : rondo__bits(want));
            }
            memcpy(y, memory + 2 * n, (size_t)n * sizeof *y);
            nodes[2].data = y;
            right &= rondo__cpu_linear_join(devices[d], NULL, &job) == 0;
            nodes[2].data = memory + 2 * n;
            for (int64_t i = 0; i < n; i++) {
                float *m = memory + i, want = (m[0] + m[n]) + (m[2 * n] + (m[3 * n] + m[4 * n]));
                right &= rondo__bits(y[i]) == (want != want ? RONDO_NAN_BITS : rondo__bits(want));
            }
            rondo__free(y);
        }
        ok(right, "five nodes of %lld x %lld: the sums, also into one of them", (long long)rows, (long long)out);
        rondo__free(memory);
    }
    float a[4] = { 1, 2, 3, 4 }, y[4];
    struct rondo_linear_node node[60];
    struct rondo_linear_join job = { 1, 4, node, 2, 0, y, 4, NULL };
    for (int i = 0; i < 60; i++)
        node[i] = (struct rondo_linear_node){ a, 4, i == 0, 0 };
    ok(rondo__cpu_linear_join(devices[0], NULL, &job) == RONDO_EINVAL && strstr(rondo_error_text(), "1 merges on a stack of 1"),
       "a merge of one node is refused");
    node[0].merges = 0;
    node[1].merges = -1;
    ok(rondo__cpu_linear_join(devices[0], NULL, &job) == RONDO_EINVAL, "so are fewer than no merges");
    node[1].merges = 0;
    job.count = 60;
    ok(rondo__cpu_linear_join(devices[0], NULL, &job) == RONDO_EINVAL && strstr(rondo_error_text(), "node 40 of 60"), "and a stack without end");
    job.count = 0;
    ok(rondo__cpu_linear_join(devices[0], NULL, &job) == RONDO_EINVAL, "and no nodes");
    job.count = RONDO_LINEAR_DEPTH;
    ok(rondo__cpu_linear_join(devices[device_count - 1], NULL, &job) == 0 && y[3] == 4.0f * RONDO_LINEAR_DEPTH, "the deepest stack");
}

/* ---- level fast ---- */

/* Whatever the order of a sum of n products, with or without fused multiply-adds: |error| <= (n + 3) 2^-24 (1 + small) (sum |x w| + |bias| +
 * |y|), and half the smallest subnormal for each product. */
static void fast(void)
{
    static const int64_t shape[][4] = { { 40, 700, 300, 3 }, { 33, 4500, 70, 9 }, { 70, 31, 257, 2 }, { 1100, 50, 40, 5 } };
    rondo_linear_desc d = RONDO_LINEAR_DESC_INIT;
    ok(rondo__cpu_fast_slow_core("Prescott", RONDO_CPU_AVX512) && rondo__cpu_fast_slow_core("haswell", RONDO_CPU_AVX512) &&
           rondo__cpu_fast_slow_core("Sandybridge", RONDO_CPU_AVX2) && !rondo__cpu_fast_slow_core("Haswell", RONDO_CPU_AVX2) &&
           !rondo__cpu_fast_slow_core("SkylakeX", RONDO_CPU_AVX512) && !rondo__cpu_fast_slow_core("Generic", RONDO_CPU_SCALAR) &&
           !rondo__cpu_fast_slow_core("NeoverseN1", RONDO_CPU_NEON),
       "core types that are less than the machine are known");
    if (!(rondo__cpu_device.levels >> RONDO_FAST & 1u)) {
        struct rondo_device_linear *l = NULL;
        d.in = d.out = 4;
        d.type = RONDO_F32;
        d.leaves = 1;
        d.level = RONDO_FAST;
        ok(rondo__cpu_linear_new(devices[0], &l, &d) == RONDO_ENOTSUP && strstr(rondo_error_text(), "OpenBLAS"), "level fast is refused by name: %s",
           rondo_error_text());
        return;
    }
    double worst = 0;
    int few = 1, nodes = 1, other = 0;
    for (size_t s = 0; s < sizeof shape / sizeof *shape; s++)
        for (int n = 0; n < 8; n++) {
            const int64_t rows = shape[s][0], in = shape[s][1], out = shape[s][2], y_stride = out + 3;
            const int32_t leaves = (int32_t)shape[s][3], half = leaves / 2;
            const int type = RONDO_F32 + n % 4;
            struct layer l = make(in, out, type, leaves, n % 3 ? PLAIN : CANCEL, 11 + s);
            float *x = floats(rows * in, n % 3 == 1 ? WIDE : PLAIN, 77 + s), *bias = n % 2 ? floats(out, PLAIN, 5) : NULL;
            float *old = floats(rows * y_stride, PLAIN, 6), *strict = floats(rows * y_stride, PLAIN, 6);
            const int add = n / 4;
            execute(device_count - 1, &l, rows, x, in, strict, y_stride, bias, add);
            l.packed->level = RONDO_FAST;
            if (rondo__cpu_fast_open())
                exit(99);
            for (int c = 0; c < device_count; c++) {
                float *y = floats(rows * y_stride, PLAIN, 6), *part[2] = { NULL, NULL };
                execute(c, &l, rows, x, in, y, y_stride, bias, add);
                other += differ(y, strict, rows * y_stride, sizeof *y) >= 0;
                for (int64_t r = 0; r < rows; r += 7)
                    for (int64_t o = 0; o < out; o++) {
                        double sum = bias ? (double)bias[o] : 0.0, size = sum < 0 ? -sum : sum, error;
                        const double before = add ? (double)old[r * y_stride + o] : 0.0;
                        sum += before;
                        size += before < 0 ? -before : before;
                        for (int64_t k = 0; k < in; k++) {
                            const double p = (double)x[r * in + k] * (double)weight(&l, o * in + k);
                            sum += p;
                            size += p < 0 ? -p : p;
                        }
                        error = (double)y[r * y_stride + o] - sum;
                        worst = worse(worst, (error < 0 ? -error : error) / ((double)(in + 3) * 0x1p-24 * 1.01 * size + (double)in * 0x1p-149));
                    }
                /* two parts of the leaves, joined */
                float *memory = floats(2 * 16 * rows * out, PLAIN, 1), *joined = floats(rows * y_stride, PLAIN, 6);
                struct rondo_linear_node node[32];
                int32_t count = 0;
                for (int p = 0; p < 2; p++) {
                    const int32_t first = p ? half : 0, end = p ? leaves : half;
                    part[p] = memory + p * 16 * rows * out;
                    const struct rondo_linear_run run = { .rows = rows, .x = x + first * in / leaves, .x_stride = in, .first_leaf = first,
                                                          .leaves = end - first, .nodes = part[p], .node_stride = rows * out };
                    if (first < end && rondo__cpu_linear(devices[c], NULL, l.packed, &run, NULL))
                        exit(99);
                    for (int32_t at = first, to, i = 0; at < end; at = to, i++) {
                        to = rondo__linear_node_end(leaves, at, end);
                        node[count++] = (struct rondo_linear_node){ part[p] + i * rows * out, out, rondo__linear_merges(leaves, at, to), 0 };
                    }
                }
                const struct rondo_linear_join job = { rows, out, node, count, add, joined, y_stride, bias };
                if (rondo__cpu_linear_join(devices[c], NULL, &job))
                    exit(99);
                for (int64_t r = 0; r < rows; r++)
                    for (int64_t o = 0; o < out; o++) {
                        double size = 4.0, error = (double)joined[r * y_stride + o] - (double)y[r * y_stride + o];
                        for (int64_t k = 0; k < in && (error > 0x1p-20 || error < -0x1p-20); k++) {
                            const double p = (double)x[r * in + k] * (double)weight(&l, o * in + k);
                            size += p < 0 ? -p : p;
                        }
                        nodes &= (error < 0 ? -error : error) <= 2.02 * (double)(in + 8) * 0x1p-24 * size;
                    }
                execute(c, &l, RONDO_CPU_FAST_ROWS - 1, x, in, y, y_stride, NULL, 0);
                l.packed->level = RONDO_STRICT;
                execute(c, &l, RONDO_CPU_FAST_ROWS - 1, x, in, joined, y_stride, NULL, 0);
                l.packed->level = RONDO_FAST;
                for (int64_t r = 0; r < RONDO_CPU_FAST_ROWS - 1; r++)
                    few &= !memcmp(y + r * y_stride, joined + r * y_stride, (size_t)out * sizeof *y);
                rondo__free(y);
                rondo__free(memory);
                rondo__free(joined);
            }
            rondo__free(x);
            rondo__free(old);
            rondo__free(strict);
            rondo__free(bias);
            drop(&l);
        }
    ok(worst <= 1.0, "level fast is within its bound");
    diag("worst %.4f of the bound", worst);
    ok(nodes, "so are parts of its leaves, joined");
    ok(few, "few rows have the bits of level strict");
    ok(other > 0, "many have others: another order of sums was at work");
}

static int stop_now(void *arg)
{
    return ++*(int *)arg > 2 ? rondo__fail(RONDO_EPEER, "a peer left") : 0;
}

static void polls(void)
{
    for (int d = 0; d < device_count; d++) {
        struct layer l = make(600, 640, RONDO_F32, 2, PLAIN, 1);
        int calls = 0, err;
        int64_t rows = devices[d]->isa <= RONDO_CPU_SCALAR ? 40 : 400;
        float *x = floats(rows * 600, PLAIN, 2), *y = floats(rows * 640, PLAIN, 3);
        struct rondo_poll poll = { stop_now, &calls, NULL };
        err = rondo__cpu_linear(devices[d], NULL, l.packed, &(struct rondo_linear_run){ .rows = rows, .x = x, .x_stride = 600, .y = y,
                                                                                         .y_stride = 640 }, &poll);
        ok((calls >= 1 || devices[d]->threads > 1) && (err == RONDO_EPEER || calls <= 2),
           "the caller is polled meanwhile and its code ends the work (%s)", device_names[d]);
        rondo__free(x);
        rondo__free(y);
        drop(&l);
    }
}

int main(void)
{
    find_devices();
    order();
    contract();
    integers();
    oracle();
    sizes();
    leaves();
    anything();
    poison();
    rows_alone();
    stops();
    read_back();
    conversions();
    whole_numbers();
    polls();
    parts();
    division();
    joins();
    fast();
    drop_devices();
    return done();
}
