/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Gradients of linear layers and sums over tokens on the CPU device: the definition is rule 12 of the contract, written down here once more
 * from the top of its trees; every instruction set and thread count has its bits, for odd sizes, types, leaves, layouts of rows and hard data;
 * against a double-precision oracle with a derived bound; finite differences of sums that are exact; what is no token takes no part.
 */
#include "linear.h"
#include "tensor/tokens.h"

/* ---- dx ---- */

/* Node (h, i) of the tree over the sum's leaves. */
static float dx_node(const struct layer *l, const float *dy, int64_t leaves, int64_t column, int64_t h, int64_t i)
{
    if (h == 0) {
        float acc = 0.0f;
        const int64_t first = i * l->out / leaves, end = (i + 1) * l->out / leaves;
        for (int64_t pair = first; pair < end; pair += 2) {
            if (pair + 1 < end)
                acc = rondo__fma_soft(dy[pair + 1], weight(l, (pair + 1) * l->in + column), acc);
            acc = rondo__fma_soft(dy[pair], weight(l, pair * l->in + column), acc);
        }
        return acc;
    }
    float left = dx_node(l, dy, leaves, column, h - 1, 2 * i);
    return (2 * i + 1) << (h - 1) < leaves ? left + dx_node(l, dy, leaves, column, h - 1, 2 * i + 1) : left;
}

static int run_dx(int device, const struct layer *l, int64_t rows, const float *dy, int64_t dy_stride, int32_t leaves, float *dx, int64_t dx_stride,
                  int add)
{
    const struct rondo_linear_dx_run run = { .rows = rows, .outputs = l->out, .total = leaves, .leaves = leaves, .add = add, .dy = dy,
                                             .dy_stride = dy_stride, .dx = dx, .dx_stride = dx_stride };
    return rondo__cpu_linear_dx(devices[device], NULL, l->packed, &run, NULL);
}

static void dx_contract(void)
{
    static const int64_t shape[][3] = { { 3, 7, 3 }, { 35, 100, 6 }, { 40, 129, 16 }, { 33, 50, 50 }, { 1, 1, 1 }, { 70, 64, 2 } };
    for (size_t s = 0; s < sizeof shape / sizeof shape[0]; s++) {
        struct layer l = make(shape[s][0], shape[s][1], RONDO_F32 + (int)s % 4, 1, CANCEL, s);
        const int64_t leaves = shape[s][2];
        float *dy = floats(l.out, WIDE, 60 + s), *dx = floats(l.in, PLAIN, 1);
        int64_t h = 0;
        int equal = 1;
        while ((int64_t)1 << h < leaves)
            h++;
        for (int d = 0; d < device_count; d++) {
            run_dx(d, &l, 1, dy, l.out, (int32_t)leaves, dx, l.in, 0);
            for (int64_t i = 0; i < l.in; i++)
                equal = equal && rondo__bits(dx[i]) == rondo__bits(dx_node(&l, dy, leaves, i, h, 0));
        }
        ok(equal, "dx over %lld outputs in %lld leaves: the ranges, chains and tree of the contract", (long long)l.out, (long long)leaves);
        rondo__free(dy);
        rondo__free(dx);
        drop(&l);
    }
}

static int compare_dx(const struct layer *l, int64_t rows, int32_t leaves, int add, enum kind kind, uint64_t seed)
{
    const int64_t stride = l->in + 3, count = rows * stride;
    float *dy = floats(rows * (l->out + 2), kind, seed), *want = floats(count, PLAIN, 9);
    int equal = 1;
    run_dx(0, l, rows, dy, l->out + 2, leaves, want, stride, add);
    for (int d = 1; d < device_count && equal; d++) {
        float *got = floats(count, PLAIN, 9);
        run_dx(d, l, rows, dy, l->out + 2, leaves, got, stride, add);
        const int64_t at = differ(got, want, count, sizeof *got);
        if (at >= 0)
            diag("%s: in %lld out %lld leaves %d rows %lld add %d: row %lld column %lld is %a, the definition gives %a", device_names[d],
                 (long long)l->in, (long long)l->out, (int)leaves, (long long)rows, add, (long long)(at / stride), (long long)(at % stride),
                 (double)got[at], (double)want[at]);
        equal = at < 0;
        rondo__free(got);
    }
    rondo__free(want);
    rondo__free(dy);
    return equal;
}

static void dx_sizes(void)
{
    static const int64_t rows[] = { 1, 2, 5, 7, 12, 13, 25 };
    int equal = 1, n = 0;
    for (int64_t out = 1; out <= 70; out += out % 3 == 0 ? 7 : 4)
        for (int64_t in = 1; in <= 70; in += 11, n++) {
            struct layer l = make(in, out, RONDO_F32 + n % 4, (int)(1 + (in * 3) % in), (enum kind)(n % KINDS), (uint64_t)n);
            equal = compare_dx(&l, rows[n % 7], (int32_t)(1 + (out * 7 + in) % out), n % 2, (enum kind)(n / 2 % KINDS), 1000 + (uint64_t)n) && equal;
            drop(&l);
        }
    ok(equal, "dx of %d layers of 1-70 inputs and outputs: all instruction sets and threads have the bits of the definition", n);
    equal = 1;
    for (int type = RONDO_F32; type <= RONDO_Q8; type++) {
        struct layer l = make(77, 1300, type, 5, PLAIN, 7);
        equal = compare_dx(&l, 31, 3, 0, PLAIN, 3) && compare_dx(&l, 3, 1300, 1, WIDE, 4) && equal;
        drop(&l);
    }
    struct layer wide = make(300, 40, RONDO_F32, 1, PLAIN, 8);   /* several blocks of rows */
    equal = compare_dx(&wide, 450, 2, 1, PLAIN, 3) && equal;
    drop(&wide);
    ok(equal, "dx over 1300 outputs in leaves long and short, all types, and of 450 rows: equal bits");
    equal = 1;
    for (uint64_t seed = 0; seed < 2; seed++) {
        struct layer l = make(40, 70, RONDO_F32, 3, PLAIN, seed);
        float *w = any_bits(40 * 70, RONDO_F32, 100 + seed), *dy = any_bits(15 * 70, RONDO_F32, 200 + seed), *want = floats(15 * 40, PLAIN, 1),
              *got = floats(15 * 40, PLAIN, 1);
        rondo__cpu_linear_load(devices[0], l.packed, 0, 70, l.type, w, NULL);
        run_dx(0, &l, 15, dy, 70, 3, want, 40, 0);
        for (int d = 1; d < device_count; d++) {
            run_dx(d, &l, 15, dy, 70, 3, got, 40, 0);
            equal = equal && differ(got, want, 15 * 40, sizeof *got) < 0;
        }
        rondo__free(w);
        rondo__free(dy);
        rondo__free(want);
        rondo__free(got);
        drop(&l);
    }
    ok(equal, "dx of random bits: equal bits, NaNs canonical");
}

/* The nodes that ranks exchange, of leaves that parts of the outputs have, joined: the whole. */
static void dx_nodes(void)
{
    const int64_t in = 45, out = 91, rows = 17;
    const int32_t leaves = 13, cut[] = { 0, 4, 4, 9, 13 };
    struct layer whole = make(in, out, RONDO_BF16, 2, PLAIN, 5);
    float *dy = floats(rows * out, PLAIN, 6), *want = floats(rows * in, PLAIN, 7), *got = floats(rows * in, PLAIN, 7), *nodes;
    int equal = 1;
    run_dx(0, &whole, rows, dy, out, leaves, want, in, 1);
    for (int d = 0; d < device_count; d++) {
        struct rondo_linear_node list[32];
        int32_t count = 0;
        nodes = floats(32 * rows * in, PLAIN, 1);
        for (int p = 0; p < 4; p++) {
            const int64_t o0 = rondo__linear_leaf_begin(out, leaves, cut[p]), o1 = rondo__linear_leaf_begin(out, leaves, cut[p + 1]);
            rondo_linear_desc desc = RONDO_LINEAR_DESC_INIT;
            struct rondo_device_linear *part = NULL;
            if (o0 == o1)
                continue;
            desc.in = in;
            desc.out = o1 - o0;
            desc.type = RONDO_BF16;
            desc.leaves = 2;
            if (rondo__cpu_linear_new(devices[d], &part, &desc) ||
                rondo__cpu_linear_load(devices[d], part, 0, o1 - o0, RONDO_BF16, (const uint16_t *)whole.weights + o0 * in, NULL))
                exit(99);
            const struct rondo_linear_dx_run run = { .rows = rows, .outputs = out, .total = leaves, .first_leaf = cut[p],
                                                     .leaves = cut[p + 1] - cut[p], .dy = dy + o0, .dy_stride = out,
                                                     .nodes = nodes + count * rows * in, .node_stride = rows * in };
            equal = equal && !rondo__cpu_linear_dx(devices[d], NULL, part, &run, NULL);
            for (int32_t leaf = cut[p], next; leaf < cut[p + 1]; leaf = next) {
                next = rondo__linear_node_end(leaves, leaf, cut[p + 1]);
                list[count] = (struct rondo_linear_node){ nodes + count * rows * in, in, rondo__linear_merges(leaves, leaf, next), 0 };
                count++;
            }
            rondo__cpu_linear_free(devices[d], part);
        }
        const struct rondo_linear_join join = { .rows = rows, .out = in, .nodes = list, .count = count, .add = 1, .y = got, .y_stride = in };
        float *fresh = floats(rows * in, PLAIN, 7);
        memcpy(got, fresh, (size_t)(rows * in) * sizeof *got);
        rondo__free(fresh);
        equal = equal && !rondo__cpu_linear_join(devices[d], NULL, &join) && differ(got, want, rows * in, sizeof *got) < 0;
        rondo__free(nodes);
    }
    ok(equal, "dx: nodes of parts of the outputs, joined, are the whole");
    rondo__free(dy);
    rondo__free(want);
    rondo__free(got);
    drop(&whole);
}

/* ---- sums over tokens ---- */

/* A made-up batch: which position of which sequence each row has; -1: none. */
struct batch {
    int64_t sequences, rows;
    int64_t sequence[700], position[700];
};

/* The row of a position, or -1. */
static int64_t row_of(const struct batch *b, int64_t sequence, int64_t position)
{
    for (int64_t r = 0; r < b->rows; r++)
        if (b->sequence[r] == sequence && b->position[r] == position)
            return r;
    return -1;
}

/* 0: there is none, *sum is as it was. a NULL: ones. */
static int leaf_sum(const struct batch *b, int64_t sequence, int64_t leaf, const float *a, int64_t a_stride, const float *x, int64_t x_stride, float *sum)
{
    float acc = 0.0f;
    int any = 0;
    for (int64_t i = 0; i < 128; i++) {
        const int64_t row = row_of(b, sequence, leaf * 128 + (i ^ 1));
        if (row < 0)
            continue;
        acc = rondo__fma_soft(a ? a[row * a_stride] : 1.0f, x[row * x_stride], acc);
        any = 1;
    }
    if (any)
        *sum = acc;
    return any;
}

static int tree_sum(const struct batch *b, int64_t sequence, int64_t h, int64_t i, const float *a, int64_t a_stride, const float *x, int64_t x_stride,
                    float *sum)
{
    float left, right;
    if (h == 0)
        return leaf_sum(b, sequence, i, a, a_stride, x, x_stride, sum);
    const int one = tree_sum(b, sequence, h - 1, 2 * i, a, a_stride, x, x_stride, &left);
    const int two = tree_sum(b, sequence, h - 1, 2 * i + 1, a, a_stride, x, x_stride, &right);
    if (one || two)
        *sum = !two ? left : !one ? right : left + right;
    return one || two;
}

static int batch_sum(const struct batch *b, int64_t h, int64_t i, const float *a, int64_t a_stride, const float *x, int64_t x_stride, float *sum)
{
    float left, right;
    if (h == 0)
        return i < b->sequences && tree_sum(b, i, 5, 0, a, a_stride, x, x_stride, sum);
    const int one = batch_sum(b, h - 1, 2 * i, a, a_stride, x, x_stride, &left);
    const int two = batch_sum(b, h - 1, 2 * i + 1, a, a_stride, x, x_stride, &right);
    if (one || two)
        *sum = !two ? left : !one ? right : left + right;
    return one || two;
}

enum { SPANS = 12 };
static const struct {
    const char *name;
    int64_t sequences, span_counts[5];
    rondo_span spans[SPANS];
} layouts[] = {
    { "one token", 1, { 1 }, { { 0, 1, 1, 0 } } },
    { "one sequence", 1, { 1 }, { { 0, 300, 1, 0 } } },
    { "a piece of one", 1, { 1 }, { { 131, 270, 1, 2 } } },
    { "packed sequences", 5, { 1, 1, 0, 1, 1 }, { { 0, 5, 1, 0 }, { 0, 129, 1, 5 }, { 0, 256, 1, 134 }, { 0, 1, 1, 390 } } },
    { "zigzag", 2, { 2, 2 }, { { 128, 128, 1, 0 }, { 768, 100, 1, 128 }, { 0, 128, 1, 228 }, { 640, 64, 1, 360 } } },
    { "far apart", 2, { 2, 1 }, { { 7, 40, 3, 50 }, { 1000, 9, 150, 0 }, { 1, 30, 2, 100 } } },
    { "nothing", 3, { 0, 0, 0 }, { { 0, 0, 0, 0 } } },
};
enum { LAYOUTS = sizeof layouts / sizeof *layouts };

static rondo_tokens *tokens_of(int layout, struct batch *b)
{
    rondo_tokens_desc d = RONDO_TOKENS_DESC_INIT;
    rondo_tokens *t = NULL;
    const rondo_span *s = layouts[layout].spans;
    d.sequences = layouts[layout].sequences;
    d.spans = layouts[layout].spans;
    d.span_counts = layouts[layout].span_counts;
    if (rondo_tokens_create(&t, &d))
        exit(99);
    *b = (struct batch){ .sequences = d.sequences, .rows = rondo_tokens_rows(t) };
    for (int64_t r = 0; r < b->rows; r++)
        b->sequence[r] = -1;
    for (int64_t q = 0; q < d.sequences; q++)
        for (int64_t i = 0; i < d.span_counts[q]; i++, s++)
            for (int64_t k = 0; k < s->count; k++) {
                b->sequence[s->row + k] = q;
                b->position[s->row + k] = s->first + k * s->step;
            }
    return t;
}

/* y[rows][columns + 3] upon numbers. */
static float *sums(int device, const rondo_tokens *t, int64_t rows, const float *a, int64_t columns, const float *x, int add, int *err)
{
    const struct rondo_token_segment all = { 0, t->leaf_count, 0 };
    struct rondo_token_run run = rondo__tokens_run(t, 0, t->leaf_count);
    float *y = floats(rows * (columns + 3), PLAIN, 4);
    run.segments = a ? NULL : &all;
    run.segment_count = !a;
    run.rows = rows;
    run.columns = columns;
    run.a = a;
    run.a_stride = rows + 1;
    run.b = x;
    run.b_stride = columns + 2;
    run.y = y;
    run.y_stride = columns + 3;
    run.add = add;
    *err |= rondo__cpu_token_sum(devices[device], NULL, &run, NULL);
    return y;
}

/* Rows without a token hold NaN, which would show. */
static float *operand(const struct batch *b, int64_t columns, enum kind kind, uint64_t seed)
{
    float *x = floats((b->rows + 1) * columns, kind, seed);
    for (int64_t r = 0; r < b->rows; r++)
        for (int64_t c = 0; c < columns && b->sequence[r] < 0; c++)
            x[r * columns + c] = __builtin_nanf("");
    return x;
}

static void sum_contract(void)
{
    for (int layout = 0; layout < LAYOUTS; layout++) {
        const int64_t rows = 3, columns = 2;
        struct batch b;
        rondo_tokens *t = tokens_of(layout, &b);
        float *a = operand(&b, rows + 1, CANCEL, 1), *x = operand(&b, columns + 2, WIDE, 2), *before = floats(rows * (columns + 3), PLAIN, 4);
        int equal = 1, err = 0;
        for (int64_t r = 0; r < rows; r++)
            for (int64_t c = 0; c < columns; c++) {
                float product = 0.0f, bare = 0.0f;
                batch_sum(&b, 3, 0, a + r, rows + 1, x + c, columns + 2, &product);
                batch_sum(&b, 3, 0, NULL, 0, x + c, columns + 2, &bare);
                for (int d = 0; d < device_count && equal; d++) {
                    float *y = sums(d, t, rows, a, columns, x, 0, &err), *z = sums(d, t, 1, NULL, columns, x, 1, &err);
                    equal = !err && rondo__bits(y[r * (columns + 3) + c]) == rondo__bits(product) &&
                            (r || rondo__bits(z[c]) == rondo__bits(before[c] + bare));
                    if (!equal)
                        diag("%s: row %lld column %lld: %a for %a, and %a for %a", device_names[d], (long long)r, (long long)c,
                             (double)y[r * (columns + 3) + c], (double)product, (double)z[c], (double)(before[c] + bare));
                    rondo__free(y);
                    rondo__free(z);
                }
            }
        ok(equal, "sums over tokens, %s: the leaves, chains and trees of the contract", layouts[layout].name);
        rondo__free(a);
        rondo__free(x);
        rondo__free(before);
        rondo_tokens_destroy(t);
    }
}

static void sum_sizes(void)
{
    static const int64_t rows[] = { 1, 2, 7, 12, 13, 27, 66 };
    int equal = 1, n = 0, err = 0;
    for (int layout = 0; layout < LAYOUTS; layout++)
        for (int64_t columns = 1; columns <= 150; columns += 7 + columns / 2, n++) {
            struct batch b;
            rondo_tokens *t = tokens_of(layout, &b);
            const int64_t m = rows[n % 7], size = m * (columns + 3);
            const enum kind kind = (enum kind)(n % KINDS);
            float *a = operand(&b, m + 1, kind, 1 + (uint64_t)n), *x = n % 4 ? operand(&b, columns + 2, kind, 2) : any_bits((b.rows + 1) * (columns + 2), RONDO_F32, 3);
            float *want = sums(0, t, m, a, columns, x, n % 2, &err), *bare = sums(0, t, 1, NULL, columns, x, n % 2, &err);
            for (int d = 1; d < device_count; d++) {
                float *y = sums(d, t, m, a, columns, x, n % 2, &err), *z = sums(d, t, 1, NULL, columns, x, n % 2, &err);
                equal = equal && differ(y, want, size, sizeof *y) < 0 && differ(z, bare, columns + 3, sizeof *z) < 0;
                rondo__free(y);
                rondo__free(z);
            }
            rondo__free(a);
            rondo__free(x);
            rondo__free(want);
            rondo__free(bare);
            rondo_tokens_destroy(t);
        }
    ok(equal && !err, "%d sums over tokens of 1-66 rows and 1-150 columns: all instruction sets and threads have the bits of the definition", n);
}

/* ---- oracles ---- */

/* A chain of at most `chain` products, and `depth` additions: |error| <= (chain + depth) 2^-24 (1 + small) * sum |products|. */
static void oracles(void)
{
    for (int kind = 0; kind < KINDS; kind++) {
        double worst = 0;
        struct layer l = make(19, 700, RONDO_F32, 2, (enum kind)kind, 4);
        const int64_t rows = 3;
        float *dy = floats(rows * l.out, (enum kind)kind, 5), *dx = floats(rows * l.in, PLAIN, 6);
        run_dx(device_count - 1, &l, rows, dy, l.out, 3, dx, l.in, 0);
        for (int64_t r = 0; r < rows; r++)
            for (int64_t i = 0; i < l.in; i++) {
                double sum = 0, size = 0;
                for (int64_t o = 0; o < l.out; o++) {
                    const double p = (double)dy[r * l.out + o] * (double)weight(&l, o * l.in + i);
                    sum += p;
                    size += p < 0 ? -p : p;
                }
                const double error = (double)dx[r * l.in + i] - sum;
                worst = worse(worst, (error < 0 ? -error : error) / ((235.0 + 2.0) * 0x1p-24 * 1.01 * size + 700 * 0x1p-149));
            }
        struct batch b;
        rondo_tokens *t = tokens_of(3, &b);
        int err = 0;
        float *a = operand(&b, 6, (enum kind)kind, 1), *x = operand(&b, 9, (enum kind)kind, 2), *y = sums(device_count - 1, t, 5, a, 7, x, 0, &err);
        for (int64_t o = 0; o < 5; o++)
            for (int64_t i = 0; i < 7; i++) {
                double sum = 0, size = 0;
                for (int64_t r = 0; r < b.rows; r++) {
                    const double p = (double)a[r * 6 + o] * (double)x[r * 9 + i];
                    sum += b.sequence[r] < 0 ? 0.0 : p;
                    size += b.sequence[r] < 0 ? 0.0 : p < 0 ? -p : p;
                }
                const double error = (double)y[o * 10 + i] - sum;
                worst = worse(worst, (error < 0 ? -error : error) / ((128.0 + 5.0) * 0x1p-24 * 1.01 * size + 400 * 0x1p-149));
            }
        ok(worst <= 1.0 && !err, "%s: dx and dw within the bound of their chains and trees (worst %.3f of it)", kind_names[kind], worst);
        rondo__free(dy);
        rondo__free(dx);
        rondo__free(a);
        rondo__free(x);
        rondo__free(y);
        rondo_tokens_destroy(t);
        drop(&l);
    }
}

/* L = sum of c y over all tokens, of small whole numbers, so that all is exact: its differences are the gradients, digit for digit. */
static void differences(void)
{
    enum { ROWS = 5, IN = 4, OUT = 3 };
    const int64_t length = ROWS;
    rondo_tokens_desc d = RONDO_TOKENS_DESC_INIT;
    rondo_tokens *t = NULL;
    struct layer l = make(IN, OUT, RONDO_F32, 1, INTEGERS, 1);
    float *x = floats(ROWS * IN, INTEGERS, 2), *c = floats(ROWS * OUT, INTEGERS, 3), y[ROWS * OUT], dx[ROWS * IN], dw[OUT * IN], db[OUT], bias[OUT] = { 1, 2, 3 };
    float *w = l.weights;
    int good = 1;
    d.lengths = &length;
    if (rondo_tokens_create(&t, &d))
        exit(99);
    const struct rondo_token_segment all = { 0, t->leaf_count, 0 };
    struct rondo_token_run run = rondo__tokens_run(t, 0, t->leaf_count);
    run.rows = OUT;
    run.columns = IN;
    run.a = c;
    run.a_stride = OUT;
    run.b = x;
    run.b_stride = IN;
    run.y = dw;
    run.y_stride = IN;
    good &= !run_dx(device_count - 1, &l, ROWS, c, OUT, 2, dx, IN, 0) && !rondo__cpu_token_sum(devices[device_count - 1], NULL, &run, NULL);
    run.segments = &all;
    run.segment_count = 1;
    run.rows = 1;
    run.columns = OUT;
    run.b = c;
    run.b_stride = OUT;
    run.y = db;
    good &= !rondo__cpu_token_sum(devices[device_count - 1], NULL, &run, NULL);
    for (int what = 0; what < ROWS * IN + OUT * IN + OUT; what++) {
        float *p = what < ROWS * IN ? x + what : what < ROWS * IN + OUT * IN ? w + (what - ROWS * IN) : bias + (what - ROWS * IN - OUT * IN);
        const float got = what < ROWS * IN ? dx[what] : what < ROWS * IN + OUT * IN ? dw[what - ROWS * IN] : db[what - ROWS * IN - OUT * IN];
        double loss[2] = { 0, 0 };
        for (int side = 0; side < 2; side++) {
            *p += side ? -2.0f : 1.0f;
            rondo__cpu_linear_load(devices[0], l.packed, 0, OUT, l.type, w, NULL);
            execute(0, &l, ROWS, x, IN, y, OUT, bias, 0);
            for (int i = 0; i < ROWS * OUT; i++)
                loss[side] += (double)c[i] * (double)y[i];
        }
        *p += 1.0f;
        good = good && (double)got == (loss[0] - loss[1]) / 2;
    }
    ok(good, "dx, dw and the bias's gradient are what differences of an exact loss give");
    rondo__free(x);
    rondo__free(c);
    rondo_tokens_destroy(t);
    drop(&l);
}

static int stop_now(void *arg)
{
    (void)arg;
    return rondo__fail(RONDO_EPEER, "a peer left");
}

static void stops(void)
{
    struct layer l = make(300, 200, RONDO_F32, 2, PLAIN, 1);
    const struct rondo_poll poll = { stop_now, NULL, NULL };
    float *dy = floats(200 * 200, PLAIN, 2), *dx = floats(200 * 300, PLAIN, 3);
    struct rondo_linear_dx_run run = { .rows = 200, .outputs = 200, .total = 3, .leaves = 3, .dy = dy, .dy_stride = 200, .dx = dx, .dx_stride = 300 };
    int stopped = 1, refused = 1;
    for (int d = 0; d < device_count; d++) {
        stopped = stopped && rondo__cpu_linear_dx(devices[d], NULL, l.packed, &run, &poll) == RONDO_EPEER;
        run.leaves = 2;
        refused = refused && rondo__cpu_linear_dx(devices[d], NULL, l.packed, &run, NULL) == RONDO_EINVAL;
        run.leaves = 3;
    }
    ok(stopped, "the caller is polled meanwhile and its code ends the work");
    ok(refused, "leaves that are not the layer's outputs are refused");
    rondo__free(dy);
    rondo__free(dx);
    drop(&l);
}

int main(void)
{
    find_devices();
    dx_contract();
    dx_sizes();
    dx_nodes();
    sum_contract();
    sum_sizes();
    oracles();
    differences();
    stops();
    drop_devices();
    return done();
}
