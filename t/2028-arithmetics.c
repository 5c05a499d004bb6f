/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Rule 17 of rondo-numerics(7): arithmetics f64 and bf16-hopper inside of a leaf. The block sum by hand and against doubles; the definition against
 * the rule, written down a second time from the manual for one leaf, bit for bit, where orders and cuts show; and all instruction sets
 * against the definition. With CASE_CARD (2223) a card's kernels too, on the fake driver, and nothing else.
 */
#include "attention_case.h"
#include "core/aligned_sum.h"

#ifdef CASE_CARD
enum { ON_CARD = 1 };
#else
enum { ON_CARD = 0 };
#endif
static const int arithmetics[] = { RONDO_ARITHMETIC_F64, RONDO_ARITHMETIC_BF16_HOPPER };
#define ARITHMETICS (int)(sizeof arithmetics / sizeof *arithmetics)

/* ---- the block sum ---- */

/* The exponent of a number that is not 0, subnormal ones having the least. */
static int exponent(double x)
{
    int e;
    frexp(x, &e);
    return e - 1 < -126 ? -126 : e - 1;
}

/* From the manual, in doubles, which hold everything that occurs: terms are whole multiples of the unit, below 2^33 of it in all. */
static float block(float c, const float *a, const float *b)
{
    int most = -133, up = isinf(c) && c > 0, down = isinf(c) && c < 0, none = isnan(c);
    double term[17] = { (double)c }, sum = 0, unit;
    for (int i = 0; i < 16; i++) {
        const double x = term[i + 1] = (double)a[i] * (double)b[i];
        none |= isnan(x);
        up |= isinf(x) && x > 0;
        down |= isinf(x) && x < 0;
        if (isfinite(x) && x != 0 && exponent((double)a[i]) + exponent((double)b[i]) > most)
            most = exponent((double)a[i]) + exponent((double)b[i]);
    }
    if (none || (up && down))
        return NAN;
    if (up || down)
        return up ? INFINITY : -INFINITY;
    if (c != 0 && exponent((double)c) > most)
        most = exponent((double)c);
    unit = ldexp(1, most - 25);
    for (int i = 0; i < 17; i++)
        sum += trunc(term[i] / unit);
    sum *= unit;
    if (sum == 0)
        return 0.0f;
    if (fabs(sum) >= 0x1p128)
        return sum > 0 ? INFINITY : -INFINITY;
    const float f = (float)sum;
    return fabs((double)f) > fabs(sum) ? nextafterf(f, 0.0f) : f;
}

static int same_float(float a, float b) { return rondo__bits(a) == rondo__bits(b) || (a != a && b != b); }

static void test_by_hand(void)
{
    const float q = 0x1p-13f, inf = INFINITY, two = 0x1.fep0f;
    const struct {
        const char *what;
        float c, a[3], b[3];
        uint32_t want;
    } hands[] = {
        { "what is below 25 bits is cut", 1, { q, q }, { q, q }, 0x3f800000 },
        { "from below too", 1, { -q }, { q }, 0x3f800000 },
        { "25 bits are kept, and the sum is cut", 1, { -q }, { 2 * q }, 0x3f7fffff },
        { "it is not rounded to nearest", 1, { 2 * q, 2 * q }, { 2 * q, q }, 0x3f800000 },
        { "three halves of its last bit are one", 1, { 4 * q, 2 * q }, { 2 * q, 2 * q }, 0x3f800001 },
        { "negative sums are cut toward zero", -1, { -2 * q, -2 * q }, { 2 * q, q }, 0xbf800000 },
        { "a subnormal factor", 0, { 0x1p-127f }, { 1 }, 0x00400000 },
        { "a term far below the accumulator", 0x1p30f, { -0x1p15f, 1 }, { 0x1p15f, 1 }, 0 },
        { "a zero is +0", -0.0f, { 0 }, { 0 }, 0 },
        { "of cancellation too", -1, { 1 }, { 1 }, 0 },
        { "beyond the range", FLT_MAX, { 0x1p100f }, { 0x1p27f }, 0x7f800000 },
        { "the largest number is within it", FLT_MAX, { 0x1p100f }, { 0x1p-10f }, 0x7f7fffff },
        { "products may pass the range", 0, { 0x1p127f, 0x1p127f }, { 0x1p127f, -0x1p127f }, 0 },
        { "subnormal sums", 0, { 0x1p-75f, 0x1p-75f }, { 0x1p-74f, 0x1p-74f }, 2 },
        { "nothing is kept below 2^-158", 0, { 0x1p-75f, -0x1p-80f }, { 0x1p-74f, 0x1p-79f }, 1 },
        { "2^-158 itself is", 0, { 0x1p-75f, -0x1p-79f }, { 0x1p-74f, 0x1p-79f }, 0 },
        { "a product from 2 on has its factors' exponents", 0, { two, -two, q }, { two, two, 2 * q }, 0x33000000 },
        { "infinity times 0", 0, { inf }, { 0 }, 0x7fffffff },
        { "infinities of both signs", -inf, { inf }, { 1 }, 0x7fffffff },
        { "one infinity", -inf, { -2 }, { inf }, 0xff800000 },
        { "a NaN", 1, { NAN }, { 1 }, 0x7fffffff },
        { "a NaN as accumulator", NAN, { 1 }, { 1 }, 0x7fffffff },
    };
    for (size_t i = 0; i < sizeof hands / sizeof *hands; i++) {
        uint16_t a[16] = { 0 }, b[16] = { 0 };
        float wide_a[16] = { 0 }, wide_b[16] = { 0 };
        for (int k = 0; k < 3; k++) {   /* at both ends, and in the middle */
            const int at = k == 0 ? 0 : k == 1 ? 8 : 15;
            a[at] = rondo__to_bf16(wide_a[at] = hands[i].a[k]);
            b[at] = rondo__to_bf16(wide_b[at] = hands[i].b[k]);
        }
        const uint32_t got = rondo__bits(rondo__aligned_sum(hands[i].c, a, b));
        is_int(got, hands[i].want, "a block sum by hand: %s", hands[i].what);
        ok(same_float(rondo__float(got), block(hands[i].c, wide_a, wide_b)), "  as by doubles");
    }
}

/* Exponents about a middle, so that sums meet cuts, cancellation and both ends of the range. */
static void test_random_sums(void)
{
    const int rounds = long_tests() ? 5000000 : 150000;
    int wrong = 0, turned = 0, kept = 0;
    for (int i = 0; i < rounds; i++) {
        const int middle = i % 5 == 0 ? -133 : i % 5 == 1 ? 122 : (int)below(250) - 125, spread = 1 + (int)below(40), some = (int)below(4);
        uint16_t a[16], b[16], c[16], d[16];
        float x[16], y[16], start;
        for (int k = 0; k < 16; k++) {
            const int half = (int)below(200) - 100, e = middle + (int)below(spread) - spread / 2;
            x[k] = rondo__from_bf16(rondo__to_bf16((float)ldexp(1 + uniform(), e / 2 + half / 10)));
            y[k] = rondo__from_bf16(rondo__to_bf16((float)(ldexp(1 + uniform(), e - e / 2 - half / 10) * (below(2) ? 1 : -1))));
            if (some == 1 && k % 2) {
                x[k] = x[k - 1];
                y[k] = -y[k - 1];
            }
            if (some == 2 && below(3) == 0)
                x[k] = 0;
            if (some == 3 && i % 20 == 3 && below(8) == 0)
                x[k] = below(2) ? INFINITY : NAN;
            a[k] = rondo__to_bf16(x[k]);
            b[k] = rondo__to_bf16(y[k]);
            c[15 - k] = b[k];
            d[15 - k] = a[k];
        }
        start = below(4) ? (float)ldexp(uniform() - 0.5, middle + (int)below(spread) - spread / 2) : 0.0f;
        const float got = rondo__aligned_sum(start, a, b);
        wrong += !same_float(got, block(start, x, y));
        turned += !same_float(got, rondo__aligned_sum(start, c, d));
        memset(a, 0, sizeof a);
        kept += !same_float(rondo__aligned_sum(start, a, a), start + 0.0f);
    }
    is_int(wrong, 0, "%d sums at random are those of doubles", rounds);
    is_int(turned, 0, "  in the other order, with the factors changed over, too");
    is_int(kept, 0, "  and zeros leave the sum so far as it is");
}

/* ---- a leaf by the manual ---- */

static float as_bf16(float x)
{
    return isfinite(x) ? rondo__from_bf16(rondo__to_bf16(x)) : x;
}

static float dot(int arithmetic, const float *a, const float *b, int n)
{
    if (arithmetic == RONDO_ARITHMETIC_F64) {
        double s = 0;
        for (int i = 0; i < n; i++)
            s = fma((double)a[i], (double)b[i], s);
        return (float)s;
    }
    float s = 0;
    for (int i = 0; i < n; i += 16) {
        float x[16] = { 0 }, y[16] = { 0 };
        for (int k = 0; k < 16 && i + k < n; k++) {
            x[k] = as_bf16(a[i + k]);
            y[k] = as_bf16(b[i + k]);
        }
        s = block(s, x, y);
    }
    return s;
}

/* The words of dropout, written down once more. */
static int kept(const struct test_case *c, int h, int64_t query, int64_t key)
{
    const uint32_t counter[4] = { (uint32_t)(key / 4), (uint32_t)query, (uint32_t)(c->shape.head + h) | (query < 0 ? 0xff000000u : 0),
                                  (uint32_t)c->shape.sequence };
    const uint32_t seed[2] = { 0x89abcdefu, 0x01234567u };
    uint32_t words[4];
    rondo_philox(words, counter, seed);
    return c->shape.drop == 0 || words[key % 4] >= c->task.terms.drop;
}

static void take_row(float *to, const void *from, int64_t at, int dim, int type)
{
    for (int d = 0; d < dim; d++)
        to[d] = rondo__element(from, at + d, type);
}

/* One row of a case whose keys are one leaf, without terms but dropout. Returns how many of its numbers are wrong. */
static int row_differs(const struct test_case *c, int64_t r, int h)
{
    enum { MOST = 256 };
    static float q[MOST], k[MOST], v[MOST][MOST], x[MOST], p[MOST], column[MOST], some[MOST];
    const struct rondo_attention_task *t = &c->task;
    const struct shape *s = &c->shape;
    const int hopper = s->arithmetic == RONDO_ARITHMETIC_BF16_HOPPER, g = h / (s->heads / s->kv_heads);
    const int64_t at = s->first + r;
    const struct rondo_leaf *f = c->leaves;
    int seen[MOST], n = (int)f->count, wrong = 0;
    float M = -FLT_MAX, l;
    take_row(q, t->q, r * t->q_row_stride + h * t->q_head_stride, s->head_dim, s->q_type);
    for (int i = 0; i < n; i++) {
        const int64_t row = f->row + i;
        take_row(k, c->k, row * t->kv[0].k.row_stride + g * t->kv[0].k.head_stride, s->head_dim, s->kv_type);
        take_row(v[i], c->v, row * t->kv[0].v.row_stride + g * t->kv[0].v.head_stride, s->value_dim, s->kv_type);
        seen[i] = case_sees(c, h, at, f->first + (int64_t)i * f->step);
        x[i] = dot(s->arithmetic, q, k, s->head_dim) * t->scale_log2;
        if (seen[i] && rondo__rint(x[i]) > M)
            M = rondo__rint(x[i]);
    }
    for (int i = 0; i < n; i++) {
        const float e = rondo__rint(x[i]);
        p[i] = seen[i] ? rondo__weight(x[i] - e, e - M) : 0;
        p[i] = hopper ? as_bf16(p[i]) : p[i];
    }
    if (hopper) {
        for (int i = 0; i < n; i++)
            column[i] = 1;
        l = dot(s->arithmetic, p, column, n);
    } else {
        double sum = 0;
        for (int i = 0; i < n; i++)
            sum += seen[i] ? (double)p[i] : 0;
        l = (float)sum;
    }
    for (int d = 0; d < s->value_dim; d++) {
        double sum = 0;
        float acc;
        for (int i = 0; i < n; i++) {
            const int stays = kept(c, h, at, f->first + (int64_t)i * f->step);
            column[i] = seen[i] && stays ? v[i][d] : 0;
            some[i] = seen[i] && stays ? p[i] : 0;
            if (seen[i])
                sum = fma(stays ? (double)p[i] : 0, (double)v[i][d], sum);
        }
        acc = hopper ? dot(s->arithmetic, some, column, n) : (float)sum;
        float o = l == 0 ? 0 : acc * (s->drop > 0 ? 1 / l * t->terms.keep : 1 / l) + 0.0f;
        float got = rondo__element(t->out, r * t->out_row_stride + h * t->out_head_stride + d, RONDO_F32);
        wrong += !same_float(o, got);
    }
    wrong += !same_float(rondo__lse(l != l ? FLT_MAX : M, l), c->lse[r * t->lse_row_stride + h * t->lse_head_stride]);
    for (int i = 0; i < n && s->probs; i++) {
        const float got = c->probs[(r * s->heads + h) * c->bias_stride + s->pad + f->first + (int64_t)i * f->step];
        wrong += seen[i] && !same_float(got, l == 0 ? 0 : l != l ? NAN : p[i] * (1 / l));
    }
    return wrong;
}

/* Numbers of many sizes, each of which another one takes away again, in no order: what is left follows from the order of the sum. */
static void cancel(float *x, int64_t n, int64_t stride, int least, int spread)
{
    static int64_t order[1024];
    for (int64_t i = 0; i < n; i++) {
        const int64_t j = below(i + 1);
        order[i] = order[j];
        order[j] = i;
    }
    for (int64_t i = 0; i < n; i++)
        x[order[i] * stride] = i % 2 ? -x[order[i - 1] * stride] : rondo__from_bf16(rondo__to_bf16((float)ldexp(1 + uniform(), least + (int)below(spread))));
}

static void test_leaf(struct device_under_test *d)
{
    struct test_case c;
    const int rounds = rounds_of(150, 3000);
    for (int a = 0; a < ARITHMETICS; a++) {
        int wrong = 0, rows = 0, failed = 0;
        for (int i = 0; i < rounds; i++) {
            const int leaf = 8 << below(6), hopper = a == 1;
            struct shape s = { .heads = 2, .kv_heads = 1 + (int)below(2), .head_dim = 1 + (int)below(70), .value_dim = 1 + (int)below(20), .queries = 1 + below(4),
                               .keys = 1 + below(leaf), .causal = (int)below(2), .left = below(3) ? -1 : below(60), .right = -1,
                               .q_type = 1 + (int)below(3), .kv_type = 1 + (int)below(3), .out_type = RONDO_F32, .leaf = leaf,
                               .step = below(4) ? 1 : 3, .pad = (int)below(3), .arithmetic = arithmetics[a] };
            s.first = s.keys - s.queries;
            s.probs = i % 4 == 0;
            s.drop = i % 5 == 0 ? 0.3 : 0;
            s.bits = i % 6 == 1 ? 5 : 0;
            if (i % 3 == 1)
                s.q_type = s.kv_type = RONDO_F32;
            case_make(&c, &s);
            if (!c.task.leaf_count) {
                case_free(&c);
                continue;
            }
            const int64_t ks = c.task.kv[0].k.row_stride, vs = c.task.kv[0].v.row_stride;
            if (i % 3 == 1) {   /* queries of ones, or zeros: every key weighs 1 then */
                for (int64_t j = 0; j < c.q_elements; j++)
                    ((float *)c.q)[j] = i % 2 ? 1.0f : 0.0f;
                for (int64_t j = 0; j < c.k_rows; j++)
                    for (int h = 0; h < s.kv_heads; h++)
                        cancel((float *)c.k + j * ks + h * c.task.kv[0].k.head_stride, s.head_dim & ~1, 1, hopper ? 0 : -10, hopper ? 28 : 66);
                for (int h = 0; h < s.kv_heads * s.value_dim && i % 2 == 0; h++)
                    cancel((float *)c.v + h / s.value_dim * c.task.kv[0].v.head_stride + h % s.value_dim, c.k_rows & ~1, vs, 0, hopper ? 28 : 60);
            }
            for (int64_t j = 0; i % 7 == 3 && j < c.v_elements; j++)
                if (below(30) == 0)
                    put(c.v, j, s.kv_type, (double)((float[]){ INFINITY, -INFINITY, NAN, 3e38f, 0x1p-130f, -0.0f }[below(6)]));
            for (int64_t j = 0; i % 7 == 4 && j < c.k_elements; j++)
                if (below(300) == 0)
                    put(c.k, j, s.kv_type, (double)((float[]){ INFINITY, -INFINITY, NAN, 3e38f, 0x1p-130f, -0.0f }[below(6)]));
            failed += case_run(&c, d->dev) != 0;
            for (int64_t r = 0; r < s.queries; r++)
                for (int h = 0; h < s.heads; h++, rows++) {
                    const int differs = row_differs(&c, r, h);
                    if (differs && wrong++ < 3) {
                        diag("round %d, row %d, head %d: %d numbers", i, (int)r, h, differs);
                        case_print(&c);
                    }
                }
            case_free(&c);
        }
        is_int(failed, 0, "%s: all run", rondo_arithmetic_name(arithmetics[a]));
        is_int(wrong, 0, "%s: %d rows of one leaf are as the manual says", rondo_arithmetic_name(arithmetics[a]), rows);
    }
}

/* ---- all instruction sets, and what nobody sees ---- */

static void test_devices(struct device_under_test *d, int n)
{
    static const int leaves[] = { 8, 16, 32, 64, 128, 256 }, dims[] = { 1, 2, 7, 15, 16, 17, 31, 32, 33, 48, 64, 80, 128 };
    struct test_case c;
    const int rounds = rounds_of(60, 2000);
    for (int a = 0; a < ARITHMETICS; a++) {
        int same = 1, hidden = 1;
        for (int i = 0; i < rounds; i++) {
            struct shape s = { .kv_heads = 1 + (int)below(2), .head_dim = dims[below(13)], .value_dim = dims[below(13)], .queries = 1 + below(i % 3 ? 12 : 50),
                               .keys = 1 + below(i % 4 ? 150 : 500), .causal = (int)below(2), .left = below(3) ? -1 : below(60), .right = below(3) ? -1 : below(40),
                               .q_type = 1 + (int)below(3), .kv_type = 1 + (int)below(3), .out_type = 1 + (int)below(3), .leaf = leaves[below(6)],
                               .step = below(4) ? 1 : 3, .zigzag = (int)below(2), .tree = (int)below(3), .pad = (int)below(3), .arithmetic = arithmetics[a] };
            s.heads = s.kv_heads * (1 + (int)below(4));
            s.first = below(4) ? s.keys - s.queries : below(200) - 100;
            if (i % 2)
                case_terms(&s, 1 + i % 4);
            case_make(&c, &s);
            if (i % 5 == 0)
                fill_normal(c.q, c.q_elements, s.q_type, 30.0);
            for (int64_t j = 0; i % 3 == 0 && j < c.k_elements + c.v_elements; j++) {
                const float odd = (float[]){ INFINITY, -INFINITY, NAN, 3e38f, -3e38f, 0x1p-130f, -0x1p-149f, -0.0f, 0x1p60f, 0x1p-70f }[below(i % 2 ? 10 : 7)];
                if (below(i % 9 ? 2000 : 60) == 0)
                    put(j < c.k_elements ? c.k : c.v, j < c.k_elements ? j : j - c.k_elements, s.kv_type, (double)odd);
            }
            same &= case_same(&c, d, n);
            /* keys that no query sees: other numbers there, the same bits */
            if (!s.bits && !s.bias && c.task.leaf_count) {
                case_run(&c, d[0].dev);
                char *want = case_result(&c);
                for (int32_t f = 0; f < c.task.leaf_count; f++)
                    for (int32_t j = 0; j < c.leaves[f].count; j++) {
                        int seen = 0;
                        for (int64_t r = 0; r < s.queries; r++)
                            seen |= case_sees(&c, 0, rondo__cpu_position(&c.task, r), c.leaves[f].first + (int64_t)j * c.leaves[f].step);
                        const int64_t row = c.leaves[f].row + j, ks = c.task.kv[0].k.row_stride, vs = c.task.kv[0].v.row_stride;
                        for (int64_t x = 0; !seen && x < ks; x++)
                            put(c.k, row * ks + x, s.kv_type, NAN);
                        for (int64_t x = 0; !seen && x < vs; x++)
                            put(c.v, row * vs + x, s.kv_type, below(2) ? NAN : INFINITY);
                    }
                case_run(&c, d[n - 1].dev);
                char *got = case_result(&c);
                hidden &= memcmp(want, got, case_result_bytes(&c)) == 0;
                free(want);
                free(got);
            }
            case_free(&c);
        }
        ok(same, "%s: %d problems, the definition's bits on %d devices", rondo_arithmetic_name(arithmetics[a]), rounds, n);
        ok(hidden, "%s: what nobody sees changes nothing", rondo_arithmetic_name(arithmetics[a]));
    }
}

/* Sums that fill 32 bits: 16 of the largest significands with one exponent, and a sum so far that has it too. */
static void test_full(struct device_under_test *d, int n)
{
    struct test_case c;
    int same = 1;
    for (int sign = -1; sign <= 1; sign += 2) {
        struct shape s = { .heads = 4, .kv_heads = 1, .head_dim = 48, .value_dim = 20, .queries = 9, .keys = 40, .first = 31, .causal = 1, .left = -1, .right = -1,
                           .q_type = 1, .kv_type = 1, .out_type = 1, .leaf = 32, .step = 1, .arithmetic = RONDO_ARITHMETIC_BF16_HOPPER };
        case_make(&c, &s);
        for (int64_t i = 0; i < c.q_elements; i++)
            ((float *)c.q)[i] = 0x1.fep0f;
        for (int64_t i = 0; i < c.k_elements; i++)
            ((float *)c.k)[i] = (float)sign * (i % 48 == 0 ? 0x1.fep-1f : i % 48 < 16 ? 0.0f : i % 48 < 32 ? 0x1.fep0f : 0x1p-20f * (float)below(99));
        same &= case_same(&c, d, n);
        case_free(&c);
    }
    ok(same, "sums of more than 31 bits");
    const float full = block(0x1.fep0f, (float[16]){ 0x1.fep0f, 0x1.fep0f, 0x1.fep0f, 0x1.fep0f, 0x1.fep0f, 0x1.fep0f, 0x1.fep0f, 0x1.fep0f, 0x1.fep0f,
                                                     0x1.fep0f, 0x1.fep0f, 0x1.fep0f, 0x1.fep0f, 0x1.fep0f, 0x1.fep0f, 0x1.fep0f },
                             (float[16]){ 0x1.fep0f, 0x1.fep0f, 0x1.fep0f, 0x1.fep0f, 0x1.fep0f, 0x1.fep0f, 0x1.fep0f, 0x1.fep0f, 0x1.fep0f, 0x1.fep0f,
                                          0x1.fep0f, 0x1.fep0f, 0x1.fep0f, 0x1.fep0f, 0x1.fep0f, 0x1.fep0f });
    ok((double)full * 0x1p25 > 0x1p31, "  which there are");
}

int main(void)
{
    struct device_under_test d[8];
    const int n = devices_open(d, 8);
    if (!ON_CARD) {
        test_by_hand();
        test_random_sums();
        test_leaf(&d[0]);
    }
    test_devices(d, n);
    test_full(d, n);
    devices_close(d, n);
    return done();
}
