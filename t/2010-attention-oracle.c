/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The definition of attention against softmax in double precision, element by element, within a bound derived
 * from its roundings; masks are decided here a second time, from positions.
 *
 * With u = 2^-24, D = head_dim, L = leaf, h = levels of merges, g(n) = n u / (1 - n u):
 *   a score    x = fl(c * chain of D fma): |dx| <= c g(D) sum |q k| + u |x| (1 + g(D))
 *   a weight   relative error E <= 2^dx (1 + 1.09 u) - 1; weights below 2^-125 of the leaf's largest are
 * dropped
 *   l, acc     each a sum in which a term passes at most L + h roundings o          acc * (1 / l): two
 * more roundings, and the one to the output's type
 * so |o - softmax| <= sum p |v| / sum p * ((1 + E) (1 + g(L
 * + h + 3)) / ((1 - E) (1 - g(L + h))) - 1) + type, where E belongs to the worst visible key of the row.
 * Terms of a score add to |dx|, b and a being softcap's factors, e2 = log2(e) in single:
 *   softcap    in place of the above: b (a g(D) sum |q k| + u |s a| + 4.9 u |tanh|) + u |x|, as tanh is nowhere steeper than 1
 *   ALiBi      2 u |slope e2 d| for the product and the distance, u |x| for the sum
 *   bias       u |x|; a sink is a key of its own whose x has u |x|
 * With dropout there is one rounding more, of keep / l. A probability has the bound of an output whose values are 0 but for one, 1.
 */
#include "attention_case.h"

static double unit(int type) /* half a unit in the last place, relative */
{
    return type == RONDO_F32 ? 0x1p-24 : type == RONDO_BF16 ? 0x1p-8 : 0x1p-11;
}

static double bias_of(const struct test_case *c, int h, int64_t query, int64_t key)
{
    const struct shape *s = &c->shape;
    const int64_t heads = s->bias == 2 ? s->head + s->heads : 1;
    return s->bias ? (double)c->bias[((query - c->bias_first) * heads + (s->bias == 2 ? s->head + h : 0)) * c->bias_stride + s->pad + key] : 0.0;
}

static int visible(const struct test_case *c, int h, int64_t query, int64_t key)
{
    return case_sees(c, h, query, key) && bias_of(c, h, query, key) != -INFINITY;
}

/* x of a dot product, in double; *dx: how far off the float one may be. */
static double score(const struct test_case *c, int h, int64_t query, int64_t key, double dot, double magnitude, double *dx)
{
    const struct rondo_terms *terms = &c->task.terms;
    const double u = 0x1p-24, gd = (c->shape.head_dim + 2) * u * 1.01, e2 = (double)RONDO_LOG2E_F;
    double x;
    if (terms->cap_in != 0.0f) {
        const double in = (double)terms->cap_in, out = (double)terms->cap_out, y = tanh(dot * in);
        x = y * out;
        *dx = fabs(out) * (fabs(in) * gd * magnitude + 1.01 * u * fabs(dot * in) + 4.9 * u * fabs(y)) + u * fabs(x);
    } else {
        x = dot * (double)c->task.scale_log2;
        *dx = fabs((double)c->task.scale_log2) * gd * magnitude + u * fabs(x) * 1.01;
    }
    if (terms->alibi) {
        const double y = (double)c->alibi[c->shape.head + h] * e2 * fabs((double)(query - key));
        x -= y;
        *dx += 2.01 * u * fabs(y) + 1.01 * u * fabs(x);
    }
    if (terms->bias) {
        x += bias_of(c, h, query, key) * e2;
        *dx += 1.01 * u * fabs(x);
    }
    return x;
}

/* The words of dropout, written down a second time. */
static int kept(const struct test_case *c, int h, int64_t query, int64_t key)
{
    uint32_t counter[4] = { (uint32_t)(key / 4), (uint32_t)(query & 0xffffffff), (uint32_t)(c->shape.head + h), (uint32_t)c->shape.sequence };
    uint32_t seed[2] = { 0x89abcdefu, 0x01234567u }, words[4];
    counter[2] += (uint32_t)(query < 0 ? 0xff : 0) << 24;
    rondo_philox(words, counter, seed);
    return c->shape.drop == 0 || (double)words[key % 4] >= floor(c->shape.drop * 0x1p32);
}

/* Largest ratio of error to bound; above 1 the case fails. */
static double compare(const struct test_case *c)
{
    const struct rondo_attention_task *t = &c->task;
    const struct shape *s = &c->shape;
    double ratio = 0, *sum = xalloc(sizeof(double) * (size_t)s->value_dim),
           *size = xalloc(sizeof(double) * (size_t)s->value_dim);
    double *x = xalloc(sizeof(double) * (size_t)(c->k_rows + 1));
    int levels = 1;
    while ((1 << levels) < t->leaf_count)
        levels++;
    const double u = 0x1p-24,
                 gl = (s->leaf + t->leaf_count + levels + 6) * u * 1.01;
    for (int64_t r = 0; r < s->queries; r++) {
        int64_t position = c->spans[0].first + r;
        if (t->q_span_count == 2 && r >= c->spans[1].row)
            position = c->spans[1].first + (r - c->spans[1].row);
        for (int h = 0; h < s->heads; h++) {
            const int64_t kv = h / (s->heads / s->kv_heads);
            double top = -INFINITY, l = 0, worst = 0;
            memset(sum, 0, sizeof(double) * (size_t)s->value_dim);
            memset(size, 0, sizeof(double) * (size_t)s->value_dim);
            for (int pass = 0; pass < 2; pass++)
                for (int32_t f = 0; f < t->leaf_count; f++)
                    for (int32_t i = 0; i < c->leaves[f].count; i++) {
                        const int64_t row = c->leaves[f].row + i;
                        const int64_t key = c->leaves[f].first + (int64_t)i * c->leaves[f].step;
                        if (!visible(c, h, position, key))
                            continue;
                        if (pass == 0) {
                            double dot = 0, magnitude = 0;
                            for (int d = 0; d < s->head_dim; d++) {
                                const double e =
                                    (double)rondo__element(
                                        t->q, r * t->q_row_stride + h * t->q_head_stride + d, s->q_type) *
                                    (double)rondo__element(
                                        t->kv[0].k.data, row * t->kv[0].k.row_stride + kv * t->kv[0].k.head_stride + d, s->kv_type);
                                dot += e;
                                magnitude += fabs(e);
                            }
                            double dx;
                            x[row] = score(c, h, position, key, dot, magnitude, &dx);
                            top = x[row] > top ? x[row] : top;
                            worst = worse(worst, dx);
                            continue;
                        }
                        const double p = exp2(x[row] - top);
                        l += p;
                        if (!kept(c, h, position, key))
                            continue;
                        for (int d = 0; d < s->value_dim; d++) {
                            const double v = (double)rondo__element(
                                t->kv[0].v.data, row * t->kv[0].v.row_stride + kv * t->kv[0].v.head_stride + d, s->kv_type);
                            sum[d] += p * v;
                            size[d] += p * fabs(v);
                        }
                    }
            if (s->sinks && l > 0) {
                const double xs = (double)c->sinks[s->head + h] * (double)RONDO_LOG2E_F;
                l += exp2(xs - top);
                worst = worse(worst, u * fabs(xs));
            }
            const double e = exp2(worst) * (1 + 1.09 * u) - 1,
                         factor = (1 + e) * (1 + gl) / ((1 - e) * (1 - gl)) - 1;
            const double lse = (double)c->lse[r * t->lse_row_stride + h * t->lse_head_stride];
            if (l == 0 && lse != -INFINITY)
                ratio = INFINITY;
            if (l > 0) {
                const double want = log(l) + top * 0.693147180559945309;
                const double off = fabs(lse - want) / (e + gl + u * fabs(want) + 1e-14);
                ratio = worse(ratio, off);
            }
            for (int d = 0; d < s->value_dim; d++) {
                const double o = (double)rondo__element(
                    t->out, r * t->out_row_stride + h * t->out_head_stride + d, s->out_type);
                const double keep = (double)t->terms.keep;
                const double want = l > 0 ? sum[d] / l * keep : 0, in = l > 0 ? size[d] / l * keep * factor : 0;
                const double off = fabs(o - want) / (in + unit(s->out_type) * (fabs(want) + in) +
                                                     0x1p-25 * (s->out_type == RONDO_F16) + 0x1p-120);
                ratio = worse(ratio, off);
            }
            for (int32_t f = 0; s->probs && f < t->leaf_count; f++)
                for (int32_t i = 0; i < c->leaves[f].count; i++) {
                    const int64_t key = c->leaves[f].first + (int64_t)i * c->leaves[f].step;
                    const float got = c->probs[(r * s->heads + h) * c->bias_stride + s->pad + key];
                    const double want = exp2(x[c->leaves[f].row + i] - top) / l;
                    if (!visible(c, h, position, key))
                        ratio = rondo__bits(got) == 0xa5a5a5a5u ? ratio : INFINITY; /* nobody has written there */
                    else
                        ratio = worse(ratio, fabs((double)got - want) / (want * factor + 0x1p-120));
                }
        }
    }
    free(sum);
    free(size);
    free(x);
    return ratio;
}

int main(void)
{
    static const int leaves[] = { 8, 16, 32, 64, 128, 256 }, groups[] = { 1, 2, 4, 3 };
    struct device_under_test d[8];
    const int n = devices_open(d, 8), rounds = long_tests() ? 2000 : 240;
    struct test_case c;
    double worst = 0;
    for (int i = 0; i < rounds; i++) {
        const int kv = 1 + (int)below(2);
        struct shape s = { .kv_heads = kv,
                           .heads = kv * groups[below(4)],
                           .head_dim = 1 + (int)below(i % 4 ? 40 : 130),
                           .queries = 1 + below(20),
                           .keys = 1 + below(i % 4 ? 100 : 900),
                           .causal = (int)below(2),
                           .left = below(3) ? -1 : below(60),
                           .right = below(3) ? -1 : below(60),
                           .q_type = 1 + (int)below(3),
                           .kv_type = 1 + (int)below(3),
                           .out_type = 1 + (int)below(3),
                           .leaf = leaves[below(6)],
                           .step = below(4) ? 1 : 3,
                           .zigzag = (int)below(2),
                           .tree = (int)below(3),
                           .pad = (int)below(3) };
        s.value_dim = below(2) ? s.head_dim : 1 + (int)below(40);
        s.first = below(4) ? s.keys - s.queries : below(200) - 100;
        if (i >= rounds / 2) {
            case_terms(&s, 1 + i % 3);
            s.sinks = s.sinks ? 1 : 0;
        }
        case_make(&c, &s);
        if (i % 3 == 1) /* peaked: weights over many exponents */
            fill_normal(c.q, c.q_elements, s.q_type, 30.0);
        struct device_under_test *use = &d[i % 2 ? n - 1 : i / 2 % n];
        const int err = case_run(&c, use->dev);
        const double ratio = err ? INFINITY : compare(&c);
        worst = worse(worst, ratio);
        if (!ok(ratio <= 1.0, "task %d on %s: error is %.3f of its bound", i, use->isa, ratio))
            case_print(&c);
        case_free(&c);
    }
    diag("worst error: %.3f of its bound", worst);
    devices_close(d, n);
    return done();
}
