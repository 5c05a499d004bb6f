/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What `rondo verify` lets pass: a result inside of the bound, and nothing else. NaN, infinities and bounds that are no numbers are
 * where a comparison written the wrong way round passes everything. And what the reference says is what is known without it.
 */
#include <math.h>
#include <stdarg.h>

#include "cli/problem.h"
#include "tap.h"

/* what reference.c uses of the program */
double widen(const void *data, int64_t index, int type)
{
    (void)type;
    return (double)((const float *)data)[index];
}

int fail(int code, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    vprintf(format, ap);
    va_end(ap);
    return code;
}

void *room(int64_t count, size_t size)
{
    return calloc((size_t)count, size);
}

/* One row of one head and one dimension: is `got` within `bound` of `want`, as an output and as a logarithm of a sum? */
static int passes(double got, double want, double bound)
{
    double none = 0.0, tight = 0.0;
    float number = (float)got, zero = 0.0f;
    struct problem p = { .q_rows = 1, .heads = 1, .value_dim = 1, .type = RONDO_F32 };
    struct result r = { .out = &number, .lse = &zero };
    p.out = &want, p.out_bound = &bound, p.lse = &none, p.lse_bound = &tight;
    result_compare(&p, &r);
    const int out = r.worst <= 1.0;
    r.out = &zero, r.lse = &number;
    p.out = &none, p.out_bound = &tight, p.lse = &want, p.lse_bound = &bound;
    result_compare(&p, &r);
    is_int(r.worst <= 1.0, out, "%g for %g within %g: outputs and sums are judged alike", got, want, bound);
    return out;
}

/* ---- answers that are known without it ---- */

enum { KEYS = 5 };
static float zero_q[KEYS], ones_k[KEYS], values[KEYS] = { 1, 2, 3, 4, 5 }, slope[1] = { 0.5f }, sink[1] = { 0.75f }, bias[KEYS * KEYS];
static uint8_t mask[KEYS * KEYS];
static int32_t document[KEYS] = { 3, 3, 8, 8, 3 };

/* Five queries on five keys, one head of size 1: scores are q, which is 0 unless said otherwise. */
static struct problem five(void)
{
    return (struct problem){ .sequences = 1, .tokens = { KEYS }, .heads = 1, .kv_heads = 1, .head_dim = 1, .value_dim = 1, .type = RONDO_F32, .scale = 1,
                             .q_rows = KEYS, .k_rows = KEYS, .keys_most = KEYS, .q = zero_q, .k = ones_k, .v = values };
}

/* The answer for one query, which must be within a bound that is not far off. */
static void known(const char *what, struct problem p, int query, double out, double lse)
{
    if (!ok(problem_reference(&p) == 0, "%s: the reference runs", what))
        return;
    ok(fabs(p.out[query] - out) < 1e-12 && (p.lse[query] == lse || fabs(p.lse[query] - lse) < 1e-12), "%s: %.12g and %.12g", what, p.out[query], p.lse[query]);
    ok(p.out_bound[query] < 1e-4 && p.lse_bound[query] < 1e-4 && (isinf(lse) || (p.out_bound[query] > 0 && p.lse_bound[query] > 0)), "within bounds that mean something");
    free(p.out), free(p.out_bound), free(p.lse), free(p.lse_bound), free(p.prob), free(p.prob_bound);
}

static void known_answers(void)
{
    struct problem p = five();
    for (int i = 0; i < KEYS * KEYS; i++) {
        bias[i] = i % KEYS == 4 ? (float)log(3.0) : i % KEYS == 0 ? -INFINITY : 0.0f;
        mask[i] = i % KEYS > i / KEYS;   /* keys behind the query only */
    }
    for (int i = 0; i < KEYS; i++)
        ones_k[i] = 1.0f;
    known("the mean", p, 2, 3.0, log(5.0));
    p.causal = true;
    known("causal", p, 1, 1.5, log(2.0));
    p.cached[0] = -2, p.tokens[0] = KEYS, p.k_rows = 3;   /* bottom-right: five queries on three keys */
    known("a row that sees nothing", p, 1, 0.0, -INFINITY);
    known("bottom-right", p, 3, 1.5, log(2.0));
    p = five();
    p.window.given = true, p.window.left = 1, p.window.right = 0;
    known("a window", p, 3, 3.5, log(2.0));
    p = five();
    p.sink = sink;
    known("a sink", p, 0, 15.0 / (5.0 + exp(0.75)), log(5.0 + exp(0.75)));
    p = five();
    p.slope = slope;
    const double e = exp(-0.5), all = 1 + 2 * e + 2 * e * e;
    known("slopes", p, 2, 3.0, log(all));
    p = five();
    p.bias = bias, p.bias_heads = 1;
    const double w = exp((double)bias[4]);
    known("a bias, and one of -infinity", p, 0, (2 + 3 + 4 + 5 * w) / (3 + w), log(3 + w));
    p = five();
    p.mask = mask, p.mask_heads = 1;
    known("a mask", p, 2, 4.5, log(2.0));
    known("a mask that hides all", p, 4, 0.0, -INFINITY);
    p = five();
    p.document = document;
    known("documents", p, 0, (1 + 2 + 5) / 3.0, log(3.0));
    p = five();
    zero_q[1] = 4.0f;
    p.softcap = 2.0;
    known("a cap", p, 1, 3.0, 2.0 * tanh(2.0) + log(5.0));
    p.softcap = 0, p.scale = 0.25;
    known("a scale", p, 1, 3.0, 1.0 + log(5.0));
    zero_q[1] = 0.0f;
    p = five();
    p.dropout = 0.5, p.seed = 12;
    struct problem again = p;
    int kept = 0;
    if (ok(problem_reference(&p) == 0, "dropout: the reference runs")) {
        for (int i = 0; i < KEYS; i++) {
            const double weighed = p.out[i] * 2.5;   /* the sum of the values that were kept: of 1, 2, 3, 4, 5 */
            kept += fabs(weighed - rint(weighed)) < 1e-12 && weighed >= 0 && weighed <= 15 && fabs(p.lse[i] - log(5.0)) < 1e-12;
        }
        is_int(kept, KEYS, "dropout leaves out whole weights, doubles the others, and does not touch the sum");
        free(p.out), free(p.out_bound), free(p.lse), free(p.lse_bound);
    }
    again.dropout = 0, again.probs = true, again.sink = sink;
    if (ok(problem_reference(&again) == 0, "probabilities: the reference runs")) {
        ok(fabs(again.prob[7] - 1.0 / (5.0 + exp(0.75))) < 1e-12 && again.prob_bound[7] > 0 && again.prob_bound[7] < 1e-5, "probabilities have the sink in their sum");
        free(again.out), free(again.out_bound), free(again.lse), free(again.lse_bound), free(again.prob), free(again.prob_bound);
    }
}

int main(void)
{
    known_answers();
    ok(passes(1.0, 1.0, 0.0), "equal needs no bound");
    ok(passes(1.5, 1.0, 0.5), "on the bound passes");
    ok(!passes(1.75, 1.0, 0.5), "beyond it does not");
    ok(!passes(NAN, 1.0, 0.5), "NaN for a number does not");
    ok(!passes(INFINITY, 1.0, 0.5), "nor does infinity");
    ok(!passes(1.0, NAN, 0.5), "nor a number for NaN");
    ok(!passes(1.0, INFINITY, 0.5), "nor a number for infinity");
    ok(!passes(1.0, NAN, NAN), "nor a number for NaN where the bound is NaN");
    ok(!passes(1.0, 2.0, NAN), "a bound that is NaN lets nothing pass but equality");
    ok(!passes(INFINITY, 1.0, INFINITY), "an infinite one neither");
    ok(passes(NAN, NAN, NAN) && passes(-INFINITY, -INFINITY, 0.5), "NaN for NaN and infinity for infinity pass");
    return done();
}
