/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Linear layers on the CPU device: the definition against a double-precision oracle with a derived bound;
 * every instruction set and thread count equal to the definition bit for bit, for odd sizes, types, leaf
 * counts and hard data; a row's bits independent of the rows around it; weights packed in any pieces.
 */
#include "linear.h"

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

/* Leaves are computed in pieces where rows are few, and in longer ones where they are many: groups shorter and longer than either, and than a
 * leaf, of which each piece must find its scale. */
static void groups(void)
{
    static const int32_t sizes[] = { 2, 128, 200, 512, 650, 1300, 4096 };
    static const int counts[] = { 1, 3 };
    static const int64_t rows[] = { 1, 13, 24, 40 };
    int equal = 1, n = 0;

    for (size_t g = 0; g < sizeof sizes / sizeof sizes[0]; g++)
        for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++, n++) {
            struct layer l = make_in_groups(1300, 33, RONDO_Q8, sizes[g], counts[c], PLAIN, (uint64_t)n);
            float *x = floats(40 * 1300, PLAIN, 70 + (uint64_t)n);
            for (size_t m = 0; m < sizeof rows / sizeof rows[0]; m++)
                equal = compare(&l, rows[m], x, 1300, NULL, 0) && equal;
            rondo__free(x);
            drop(&l);
        }
    ok(equal, "Q8 in groups of 2 to 4096 of 1300 inputs, 1 to 40 rows: equal bits");
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
    groups();
    anything();
    poison();
    rows_alone();
    stops();
    read_back();
    polls();
    drop_devices();
    return done();
}
