/* SPDX-License-Identifier: BSD-2-Clause
 *
 * NaN, infinities, zeros of both signs, subnormal and huge numbers: the same bits on every instruction set,
 * seen where they belong and nowhere else (rules C4, C5 and C7 of the contract).
 */
#include "attention_case.h"

static const float palette[] = { 0.0f,      -0.0f,      1.0f,      -1.0f,       0.5f,     3.0f,      -7.0f,
                                 0x1p-149f, -0x1p-149f, 0x1p-126f, 0x1.8p-127f, 0x1p-60f, 0x1p60f,   -0x1p60f,
                                 1e4f,      -1e4f,      FLT_MAX,   -FLT_MAX,    INFINITY, -INFINITY, NAN };
enum { FINITE = 18, ALL = 21 };

static void sprinkle(void *p, int64_t n, int type, int kinds, int every)
{
    for (int64_t i = 0; i < n; i++)
        if (below(every) == 0)
            put(p, i, type, (double)palette[below(kinds)]);
}

static struct shape base(int dim, int64_t queries, int64_t keys, int leaf)
{
    return (struct shape){ .heads = 2,
                           .kv_heads = 1,
                           .head_dim = dim,
                           .value_dim = dim,
                           .queries = queries,
                           .keys = keys,
                           .first = keys - queries,
                           .causal = 1,
                           .left = -1,
                           .right = -1,
                           .q_type = 1,
                           .kv_type = 1,
                           .out_type = 1,
                           .leaf = leaf,
                           .step = 1 };
}

static void test_random(struct device_under_test *d, int n)
{
    struct test_case c;
    const int rounds = long_tests() ? 2000 : 300;
    for (int i = 0; i < rounds; i++) {
        struct shape s = base(1 + (int)below(24), 1 + below(60), 1 + below(90), 8 << below(4));
        s.q_type = 1 + (int)below(3);
        s.kv_type = 1 + (int)below(3);
        s.out_type = 1 + (int)below(3);
        s.causal = (int)below(2);
        s.left = below(2) ? -1 : below(30);
        s.right = below(2) ? -1 : below(30);
        s.tree = (int)below(3);
        s.step = below(3) ? 1 : 2;
        if (i >= rounds / 2)
            case_terms(&s, 1 + i % 3);
        case_make(&c, &s);
        const int kinds = i % 3 ? FINITE : ALL, every = i % 2 ? 50 : 4;
        if (i % 5 != 1)
            sprinkle(c.q, c.q_elements, s.q_type, kinds, every);
        if (i % 5 != 2)
            sprinkle(c.k, c.k_elements, s.kv_type, kinds, every);
        if (i % 5 != 3)
            sprinkle(c.v, c.v_elements, s.kv_type, kinds, every);
        if (i % 2)
            sprinkle(c.bias, c.bias_floats, RONDO_F32, ALL, every);
        if (i % 7 == 1)
            sprinkle(c.alibi, s.head + s.heads, RONDO_F32, ALL, 2);
        ok(case_same(&c, d, n), "odd values %d", i);
        case_free(&c);
    }
}

/* head_dim 1, q = 1, scale 1: the scores are what K holds. Every row sees the same keys unless causal is set.
 */
static void scores_are(struct test_case *c, const float *x, int64_t n)
{
    c->task.scale_log2 = 1.0f;
    for (int64_t i = 0; i < c->q_elements; i++)
        ((float *)c->q)[i] = 1.0f;
    for (int32_t f = 0; f < c->task.leaf_count; f++)
        for (int32_t i = 0; i < c->leaves[f].count; i++)
            ((float *)c->k)[(c->leaves[f].row + i) * c->task.kv[0].k.row_stride] = x[(c->leaves[f].first + i) % n];
}

static void test_scores(struct device_under_test *d, int n)
{
    struct {
        const char *what;
        float x[4];
    } list[] = {
        { "equal", { 3.25f, 3.25f, 3.25f, 3.25f } },
        { "spread over more than 126 exponents", { 0.0f, -124.5f, -125.5f, -127.0f } },
        { "spread, descending", { 130.0f, 4.6f, 4.4f, -200.0f } },
        { "at ties of rint", { 0.5f, 1.5f, -0.5f, -1.5f } },
        { "huge", { 8388609.0f, 16777216.0f, 8388608.5f, -8388609.0f } },
        { "largest", { FLT_MAX, -FLT_MAX, FLT_MAX, 0.0f } },
        { "smallest", { -FLT_MAX, -FLT_MAX, -FLT_MAX, -FLT_MAX } },
        { "some -inf", { -INFINITY, 1.0f, -INFINITY, -2.0f } },
        { "subnormal", { 0x1p-149f, -0x1p-130f, 0.0f, -0.0f } },
        { "one +inf", { 1.0f, INFINITY, 0.0f, -1.0f } },
        { "one NaN", { 1.0f, 2.0f, NAN, -1.0f } },
        { "NaN and -inf", { -INFINITY, NAN, -INFINITY, -INFINITY } },
        { "all -inf", { -INFINITY, -INFINITY, -INFINITY, -INFINITY } },
    };
    struct test_case c;
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        for (int causal = 0; causal < 2; causal++) {
            struct shape s = base(1, 37, 37, 8);
            s.value_dim = 5;
            s.causal = causal;
            case_make(&c, &s);
            scores_are(&c, list[i].x, 4);
            ok(case_same(&c, d, n), "scores %s, causal %d", list[i].what, causal);
            int nan_row = 0, empty = 0, finite = 0;
            for (int64_t r = 0; r < s.queries; r++) {
                const float o = ((float *)c.out)[r * c.task.out_row_stride],
                            lse = c.lse[r * c.task.lse_row_stride];
                nan_row += rondo__bits(o) == RONDO_NAN_BITS && rondo__bits(lse) == RONDO_NAN_BITS;
                empty += rondo__bits(o) == 0 && lse == -INFINITY;
                finite += o - o == 0.0f && lse - lse == 0.0f;
            }
            if (i < 9) /* with -inf first, the first causal row sees nothing */
                is_int(finite, i == 7 && causal ? 36 : 37, "  rows are finite");
            else if (i < 12) /* causal: rows before the first such key are finite, or empty */
                is_int(nan_row,
                       causal ? 37 - ((int)i == 9    ? 1
                                      : (int)i == 10 ? 2
                                                     : 1)
                              : 37,
                       "  rows are NaN from that key on");
            else
                is_int(empty, 37, "  rows are empty");
            case_free(&c);
        }
}

/* A sum that underflowed to -0 is written as +0. */
static void test_zero(struct device_under_test *d, int n)
{
    static const float x[2] = { 0.0f, -1.0f };
    struct test_case c;
    struct shape s = base(1, 1, 2, 8);
    case_make(&c, &s);
    scores_are(&c, x, 2);
    ((float *)c.v)[c.leaves[0].row] = -0.0f;
    ((float *)c.v)[c.leaves[0].row + 1] = -0x1p-149f; /* weight 1/2: -2^-150 is a tie, and goes to -0 */
    for (int i = 0; i < n; i++)
        ok(case_run(&c, d[i].dev) == 0 && rondo__bits(((float *)c.out)[0]) == 0,
           "-0 becomes +0 on %s with %d threads", d[i].isa, d[i].threads);
    case_free(&c);
}

/* What a row may not see may hold anything. */
static void test_hidden(struct device_under_test *d, int n)
{
    struct test_case c;
    for (int i = 0; i < 24; i++) {
        struct shape s = base(i % 2 ? 8 : 20, 60, 100, 16 << i % 4);
        s.first = 20; /* keys 80.. are hidden from all, those after a row's own position from that row */
        s.left = i % 3 ? 25 : -1;
        s.kv_type = 1 + i % 3;
        s.tree = i % 2;
        case_make(&c, &s);
        for (int v = 0; v < n; v++) {
            case_run(&c, d[v].dev);
            char *want = case_result(&c);
            char *k = xalloc(c.k_bytes), *w = xalloc(c.v_bytes);
            memcpy(k, c.k, c.k_bytes);
            memcpy(w, c.v, c.v_bytes);
            int same = 1;
            for (int64_t row = 0; row < s.queries;
                 row += 7) { /* poison all that this row does not see; compare its output only */
                for (int32_t f = 0; f < c.task.leaf_count; f++)
                    for (int32_t j = 0; j < c.leaves[f].count; j++) {
                        const int64_t at = c.leaves[f].first + j, p = s.first + row;
                        if (at <= p && (s.left < 0 || at >= p - s.left))
                            continue;
                        for (int x = 0; x < s.head_dim; x++)
                            put(c.k, (c.leaves[f].row + j) * c.task.kv[0].k.row_stride + x, s.kv_type,
                                x % 2 ? NAN : INFINITY);
                        for (int x = 0; x < s.value_dim; x++)
                            put(c.v, (c.leaves[f].row + j) * c.task.kv[0].v.row_stride + x, s.kv_type,
                                x % 3 ? NAN : -INFINITY);
                    }
                case_run(&c, d[v].dev);
                const size_t from = (size_t)(row * c.task.out_row_stride) * sizeof(float),
                             bytes = (size_t)(s.heads * s.value_dim) * sizeof(float);
                same &= memcmp(want + from, c.out + from, bytes) == 0;
                same &= memcmp(want + c.out_bytes + (size_t)(row * c.task.lse_row_stride) * sizeof(float),
                               c.lse + row * c.task.lse_row_stride, (size_t)s.heads * sizeof(float)) == 0;
                memcpy(c.k, k, c.k_bytes);
                memcpy(c.v, w, c.v_bytes);
            }
            if (!ok(same, "hidden keys do not matter, %d on %s with %d threads", i, d[v].isa, d[v].threads))
                case_print(&c);
            free(want);
            free(k);
            free(w);
        }
        case_free(&c);
    }
}

/* The same where a mask of bits and a bias of -infinity hide, in any combination with other terms: of one row in one head at a time. */
static void test_holes(struct device_under_test *d, int n)
{
    struct test_case c;
    for (int i = 0; i < (long_tests() ? 400 : 60); i++) {
        struct shape s = base(1 + (int)below(20), 40, 90, 8 << below(5));
        case_terms(&s, 2);
        s.heads = 4;
        s.kv_heads = 2;
        s.bits = i % 3 == 2 ? 0 : 1 + (int)below(9);
        s.bias = i % 3 == 1 ? 0 : 1 + (int)below(2);
        s.kv_type = 1 + (int)below(3);
        s.step = below(3) ? 1 : 3;
        s.first = below(2) ? 50 : -5;
        case_make(&c, &s);
        const int64_t row = below(s.queries), head = below(s.heads), p = s.first + row, bias_heads = s.bias == 2 ? s.head + s.heads : 1;
        const int64_t kv = head / 2, element = (int64_t)rondo_type_size(s.out_type);
        const char *out = c.out + (row * c.task.out_row_stride + head * c.task.out_head_stride) * element;
        const float *lse = c.lse + row * c.task.lse_row_stride + head, *probs = c.probs + (row * s.heads + head) * c.bias_stride;
        const size_t bytes = (size_t)(s.value_dim * element), line = s.probs ? (size_t)s.keys * sizeof(float) : 0;
        case_run(&c, d[0].dev);
        char *want = xalloc(bytes + sizeof *lse + line);
        memcpy(want, out, bytes);
        memcpy(want + bytes, lse, sizeof *lse);
        memcpy(want + bytes + sizeof *lse, probs, line);
        int hidden = 0, same = 1;
        for (int32_t f = 0; f < c.task.leaf_count; f++)
            for (int64_t j = 0; j < c.leaves[f].count; j++) {
                const int64_t key = c.leaves[f].first + j * c.leaves[f].step, at = c.leaves[f].row + j;
                if (case_sees(&c, head, p, key) &&
                    !(s.bias && c.bias[(row * bias_heads + (s.bias == 2 ? s.head + head : 0)) * c.bias_stride + s.pad + key] == -INFINITY))
                    continue;
                hidden++;
                for (int x = 0; x < s.head_dim; x++)
                    put(c.k, at * c.task.kv[0].k.row_stride + kv * c.task.kv[0].k.head_stride + x, s.kv_type, x % 2 ? NAN : INFINITY);
                for (int x = 0; x < s.value_dim; x++)
                    put(c.v, at * c.task.kv[0].v.row_stride + kv * c.task.kv[0].v.head_stride + x, s.kv_type, x % 3 ? NAN : -INFINITY);
            }
        for (int v = 0; v < n && same; v++) {
            case_run(&c, d[v].dev);
            same = !memcmp(want, out, bytes) && !memcmp(want + bytes, lse, sizeof *lse) && !memcmp(want + bytes + sizeof *lse, probs, line);
            if (!same)
                diag("%s with %d threads: what row %d does not see in head %d matters", d[v].isa, d[v].threads, (int)row, (int)head);
        }
        if (!ok(same, "%d hidden keys do not matter, %d", hidden, i))
            case_print(&c);
        free(want);
        case_free(&c);
    }
}

/* An infinite value that is seen: its column is infinite, or NaN where its weight became 0; the others are
 * untouched. */
static void test_seen(struct device_under_test *d, int n)
{
    struct test_case c;
    struct shape s = base(4, 40, 40, 8);
    s.causal = 0;
    case_make(&c, &s);
    case_run(&c, d[0].dev);
    char *want = case_result(&c);
    put(c.v, (c.leaves[2].row + 3) * c.task.kv[0].v.row_stride + 1, 1, INFINITY);
    ok(case_same(&c, d, n), "an infinite value");
    case_run(&c, d[n - 1].dev);
    int hit = 1, others = 1;
    for (int64_t i = 0; i < s.queries * s.heads; i++)
        for (int j = 0; j < 4; j++) {
            const float o = ((float *)c.out)[i * 4 + j];
            if (j == 1)
                hit &= o == INFINITY;
            else
                others &= memcmp(&o, want + (size_t)(i * 4 + j) * sizeof o, sizeof o) == 0;
        }
    ok(hit, "  is in its column of every row");
    ok(others, "  and nowhere else");
    free(want);
    case_free(&c);
}

int main(void)
{
    struct device_under_test d[8];
    const int n = devices_open(d, 8);
    test_scores(d, n);
    test_zero(d, n);
    test_seen(d, n);
    test_hidden(d, n);
    test_holes(d, n);
    test_random(d, n);
    devices_close(d, n);
    return done();
}
