/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Which finite inputs are safe, as rondo-numerics(7) says in RANGE: at the border the result is finite and right, beyond it comes what
 * the page says, with one hash on every number of ranks and instruction set.
 */
#include "t/attention.h"

#define LN2 0.693147180559945309417   /* as scale: scores are in units of log2 */
#define EDGE 0x1p127

static const struct problem base = { .heads = 2, .kv_heads = 1, .head_dim = 8, .value_dim = 4, .scale = LN2, .seed = 65 };

/* One query that sees `keys` keys; q is 1, 0, 0, ..., k all 0, v all 1. */
static struct problem make(int64_t keys)
{
    struct problem p = base;
    p.tokens[0] = 1;
    p.cached[0] = keys - 1;
    problem_data(&p);
    for (int64_t i = 0; i < p.heads * p.head_dim; i++)
        ((float *)p.q)[i] = i % p.head_dim == 0;
    memset(p.k, 0, (size_t)(keys * p.head_dim) * 4);
    for (int64_t i = 0; i < keys * p.value_dim; i++)
        ((float *)p.v)[i] = 1;
    return p;
}

/* Every element of a row of k or v. */
static void fill(void *to, int64_t row, int64_t width, double x)
{
    for (int64_t i = 0; i < width; i++)
        ((float *)to)[row * width + i] = (float)x;
}

/* On 1, 2 and 3 ranks, both algorithms, every instruction set: one hash. Keeps the last result. */
static int everywhere(const struct problem *p, struct result *r)
{
    uint64_t want = 0;
    int same = 1, usable = 0;
    const char *isa;
    const int other = other_device();   /* whose kernels are one text: there is nothing to choose */
    for (int i = 0; (isa = other ? i ? NULL : "auto" : rondo_isa_name(i, &usable)) != NULL; i++)
        for (int ranks = 1; ranks <= 3 && (usable || other); ranks++)
            for (int algorithm = 1; algorithm <= 2; algorithm++) {
                struct setup s = { .ranks = ranks, .algorithm = algorithm, .layout = 1 + ranks, .isa = isa };
                result_free(r);
                if (solve(p, &s, r))
                    return 0;
                want = want ? want : r->hash;
                same &= r->hash == want;
            }
    return same && want;
}

/* Every output within `slack` of x (infinite or NaN: like x), every LSE near lse. */
static int gives_about(const struct problem *p, double x, double slack, double lse)
{
    struct result r;
    int good;
    memset(&r, 0, sizeof r);
    good = everywhere(p, &r);
    for (int64_t i = 0; i < p->heads * p->value_dim && good; i++) {
        const double got = get_number(r.out, p->out_type, i);
        good = isnan(x) ? isnan(got) : isinf(x) ? isinf(got) && (got > 0) == (x > 0) : fabs(got - x) <= slack;
        if (!good)
            diag("out %.9g, want %.9g", got, x);
    }
    for (int64_t i = 0; i < p->heads && good; i++) {
        const double got = (double)r.lse[i];
        good = isnan(lse) ? isnan(got) : isinf(lse) ? got < 0 && isinf(got) : fabs(got - lse) <= 1e-6 * (1 + fabs(lse));
        if (!good)
            diag("lse %.9g, want %.9g", got, lse);
    }
    result_free(&r);
    return good;
}

static int gives(const struct problem *p, double x, double lse)
{
    return gives_about(p, x, 2e-6 * fabs(x), lse);
}

/* ---- values: the sum of weights times values stands before the division ---- */

static void values(void)
{
    static const int64_t counts[] = { 1, 2, 127, 128, 129, 1024, 3000 };
    static const double scores[] = { 0, 0.5, -0.5 };   /* weights 1, sqrt(2), 1/sqrt(2) */
    for (int c = 0; c < 7; c++) {
        const int64_t n = counts[c];
        int inside = 1, outside = 1, mixed = 1;
        for (int s = 0; s < 3; s++) {
            struct problem p = make(n);
            const double lse = scores[s] * LN2 + log((double)n);
            const double v = (double)nextafterf((float)(EDGE / (double)n), 0.0f), beyond = 0x1.8p128 / (double)n;
            for (int64_t i = 0; i < n; i++) {
                fill(p.k, i, p.head_dim, scores[s]);
                fill(p.v, i, p.value_dim, v);
            }
            inside &= gives(&p, v, lse);
            for (int64_t i = 0; i < n; i++)
                fill(p.v, i, p.value_dim, i < n / 2 ? v : -v);
            if (n % 2 == 0)
                inside &= gives_about(&p, 0, 2e-6 * v, lse);   /* they cancel but for rounding */
            if (n > 1) {   /* of one key the value itself is finite only below it */
                for (int64_t i = 0; i < n; i++)
                    fill(p.v, i, p.value_dim, -beyond);
                outside &= gives(&p, (double)-INFINITY, lse);
            }
            if (n == 1024) {   /* both halves of the tree overflow, each to its side */
                for (int64_t i = 0; i < n; i++)
                    fill(p.v, i, p.value_dim, (i < n / 2 ? 2 : -2) * beyond);
                mixed &= gives(&p, (double)NAN, lse);
            }
            problem_free(&p);
        }
        ok(inside, "%lld keys: the sum of |v| is 2^127: right", (long long)n);
        ok(outside, "%lld keys: the sum of weights times v passes 2^128: infinity, with a right LSE", (long long)n);
        ok(mixed, "%lld keys: two infinities of other signs: NaN", (long long)n);
    }
    struct problem p = make(1024);
    for (int64_t i = 0; i < 1024; i++)
        fill(p.v, i, p.value_dim, 1e36);
    ok(gives(&p, (double)INFINITY, log(1024)), "the page's example: 1024 equal keys, V = 1e36: infinity");
    for (int64_t i = 0; i < 1024; i++)
        fill(p.v, i, p.value_dim, 1e36 * 0x1p-10);
    ok(gives(&p, 1e36 * 0x1p-10, log(1024)), "and its remedy: V times 2^-10");
    /* a node counts in units of its own largest weight: keys of low scores overflow by themselves */
    for (int64_t i = 0; i < 1024; i++) {
        fill(p.k, i, p.head_dim, i < 512 ? -60 : 0);
        fill(p.v, i, p.value_dim, i < 512 ? 0x1p120 : 0x1p100);
    }
    ok(gives(&p, (double)INFINITY, log(512)), "keys of low scores overflow in their own leaves");
    problem_free(&p);
}

/* ---- scores: the chain over the head stands before the scale ---- */

static void scores(void)
{
    struct problem p = make(300);
    p.scale = LN2 * 0x1p-120;
    fill(p.q, 0, p.heads * p.head_dim, 0x1p62);
    for (int64_t i = 0; i < 300; i++) {
        for (int64_t d = 0; d < 8; d++)   /* |q k| adds up to 2^127; the sum is 2^127, or for every third key half of that */
            ((float *)p.k)[i * 8 + d] = i % 3 == 0 && (d == 2 || d == 5) ? -0x1p62f : 0x1p62f;
        fill(p.v, i, p.value_dim, i % 3 == 0 ? 1e6 : 2);
    }
    ok(gives(&p, 2, 128 * LN2 + log(200)), "scores: the sum of |q k| is 2^127: right");
    fill(p.k, 7, 8, 0x1p63);
    for (int64_t d = 0; d < 2 * 8; d++)
        ((float *)p.q)[d] = 0x1p63f;
    ok(gives(&p, (double)NAN, (double)NAN), "scores: one passes 2^128: its row is NaN");
    for (int64_t i = 0; i < 300; i++)
        fill(p.k, i, 8, i == 7 ? -0x1p63 : 0x1p60);
    fill(p.v, 7, p.value_dim, 1e30);
    for (int64_t i = 0; i < 300; i++)
        if (i != 7)
            fill(p.v, i, p.value_dim, 3);
    ok(gives(&p, 3, 64 * LN2 + log(299)), "scores: one passes -2^128: its key is hidden");
    for (int64_t i = 0; i < 300; i++)
        fill(p.k, i, 8, -0x1p63);
    ok(gives(&p, 0, (double)-INFINITY), "scores: all pass -2^128: the row is empty");
    for (int64_t i = 0; i < 300; i++) {
        fill(p.k, i, 8, 0);
        ((float *)p.k)[i * 8 + 1] = 0x1p65f;
        ((float *)p.k)[i * 8] = -0x1p65f;
    }
    ok(gives(&p, (double)NAN, (double)NAN), "scores: parts that cancel overflow as well");
    problem_free(&p);
}

/* ---- storage types ---- */

static void types(void)
{
    struct problem p = base, one;
    p.tokens[0] = 1;
    p.cached[0] = 2999;
    p.q_type = p.kv_type = RONDO_F16;
    p.out_type = RONDO_F32;
    p.scale = 1e-10;
    problem_data(&p);
    for (int64_t i = 0; i < p.heads * p.head_dim; i++)
        put_number(p.q, RONDO_F16, i, 65504);
    for (int64_t i = 0; i < 3000 * p.head_dim; i++)
        put_number(p.k, RONDO_F16, i, 65504);
    for (int64_t i = 0; i < 3000 * p.value_dim; i++)
        put_number(p.v, RONDO_F16, i, -65504);
    ok(gives(&p, -65504, 65504.0 * 65504.0 * 8 * 1e-10 + log(3000)), "F16 at its largest, 3000 keys: right");
    problem_free(&p);
    static const struct {
        int type;
        double v, out;
    } rounds[] = { { RONDO_F16, 65519, 65504 }, { RONDO_F16, -65520, (double)-INFINITY },
                   { RONDO_BF16, 0x1.fefffep127, 0x1.fep127 }, { RONDO_BF16, 0x1.ffp127, (double)INFINITY } };
    for (int i = 0; i < 4; i++) {
        one = make(1);
        one.out_type = rounds[i].type;
        fill(one.v, 0, one.value_dim, rounds[i].v);
        ok(gives(&one, rounds[i].out, 0), "%g in %s", rounds[i].v, rondo_type_name(rounds[i].type));
        problem_free(&one);
    }
}

/* ---- layers ---- */

#define IN 1024

static int layers_on(rondo_context *ctx)
{
    static float w[IN], x[IN], y[IN], table[2] = { 0x1.6a09e6p-1f, 0x1.6a09e6p-1f };   /* cosine and sine of 45 degrees */
    const float bias[1] = { 0 };
    double lse = 0;
    int good = 1;
    for (int beyond = 0; beyond < 2; beyond++) {
        rondo_linear *l = NULL;
        rondo_linear_desc d = RONDO_LINEAR_DESC_INIT;
        d.in = IN;
        d.out = 1;
        for (int i = 0; i < IN; i++) {
            w[i] = (beyond ? 0x1p118f : 0x1p117f) * (i % 2 ? 1 : 0.5f);
            x[i] = i % 2 ? 1 : 2;
        }
        if (rondo_linear_create(&l, ctx, &d) || rondo_linear_load(l, 0, 1, w) || rondo_linear_execute(l, ctx, 1, x, IN, y, 1, bias, 0))
            return 0;
        rondo_linear_destroy(l);
        good &= beyond ? isinf(y[0]) && y[0] > 0 : y[0] >= 0x1p127f && y[0] <= 0x1p127f;

        for (int i = 0; i < IN; i++) {   /* 1024 x^2 is 2^126, 2^130 */
            x[i] = (beyond ? 0x1p60f : 0x1p58f) * (i % 2 ? 1 : -1);
            w[i] = 1;
        }
        if (rondo_rmsnorm(ctx, 1, IN, x, w, 1e-5f, y))
            return 0;
        for (int i = 0; i < IN; i++)
            good &= beyond ? fabsf(y[i]) <= 0 : fabsf(y[i] - (i % 2 ? 1.0f : -1.0f)) < 1e-6f;

        const float gate[2] = { 0x1p64f, -0x1.8p127f }, up[2] = { beyond ? 0x1p64f : 0x1p63f, 0x1.8p127f };
        if (rondo_swiglu(ctx, 2, gate, up, y))
            return 0;
        good &= beyond ? isinf(y[0]) : y[0] >= 0x1p127f && y[0] <= 0x1p127f;
        good &= fabsf(y[1]) <= 0;

        x[0] = x[1] = beyond ? 0x1.8p127f : 0x1p126f;
        if (rondo_rope(ctx, 1, 1, 2, x, 2, 2, table))
            return 0;
        good &= beyond ? isinf(x[1]) : fabsf(x[0]) <= 0x1p103f && fabs((double)x[1] - 0x1.6a09e6p126) <= 0x1p103;

        x[0] = beyond ? FLT_MAX : -FLT_MAX;
        x[1] = -FLT_MAX;
        if (rondo_logsumexp(ctx, 1, 2, x, 2, &lse))
            return 0;
        good &= isfinite(lse) && fabs(lse - (double)x[0]) <= 1e-7 * (double)FLT_MAX;
    }
    return good;
}

static void layers(void)
{
    int usable = 0;
    const char *isa;
    for (int i = 0; (isa = rondo_isa_name(i, &usable)) != NULL; i++) {   /* whose they are: the CPU's */
        rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
        rondo_context *ctx = NULL;
        d.device = "cpu";
        d.isa = isa;
        if (usable && !rondo_context_create(&ctx, &d))
            ok(layers_on(ctx), "%s: layers at their borders and beyond", isa);
        rondo_context_destroy(ctx);
    }
}

/* ---- the page ---- */

static void page(void)
{
    static const char *const says[] = { "the sum of |v|", "2^127", "1.0e36", "NaN", "the key is hidden", "65520", "sum of squares" };
    static char text[1 << 16];
    char path[1024];
    const char *from = NULL;
    snprintf(path, sizeof path, "%s/man/rondo-numerics.7", getenv("srcdir") ? getenv("srcdir") : ".");
    FILE *f = fopen(path, "r");
    if (f) {
        text[fread(text, 1, sizeof text - 1, f)] = 0;
        fclose(f);
        from = strstr(text, ".Sh RANGE\n");
    }
    if (!ok(from != NULL, "rondo-numerics(7) says which inputs are safe"))
        return;
    for (char *c = text; *c; c++)
        *c = *c == '\n' ? ' ' : *c;
    for (int i = 0; i < 7; i++)
        ok(strstr(from, says[i]) != NULL, "%s", says[i]);
}

int main(void)
{
    values();
    scores();
    types();
    layers();
    page();
    return done();
}
