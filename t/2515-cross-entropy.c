/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Cross-entropy on the CPU device: the definition against rule 12 of rondo-numerics(7) written down once more, against double precision with derived
 * bounds and against differences of the loss; every instruction set and thread count has its bits, in place too, for odd sizes, any leaves and
 * every bit pattern; nodes of parts of the classes, joined, are the whole; what is NaN stays in its row; ignored rows take no part.
 */
#include "layers.h"

#define U 0x1p-24

static double size(double x)
{
    return x < 0 ? -x : x;
}

enum { ROWS = 5, IGNORE = -100 };

struct problem {
    int64_t classes;
    int32_t leaves, labels[ROWS];
    float *x, dloss[ROWS];
};

static struct problem make(int64_t classes, int32_t leaves, enum kind kind, float factor, uint64_t seed)
{
    struct problem p = { .classes = classes, .leaves = leaves, .x = floats(ROWS * (classes + 3), kind, seed) };
    for (int64_t i = 0; i < ROWS * (classes + 3); i++)
        p.x[i] *= factor;
    for (int r = 0; r < ROWS; r++) {
        p.labels[r] = r == 2 ? IGNORE : (int32_t)(random_32(seed, (uint64_t)r + 1000) % (uint32_t)classes);
        p.dloss[r] = value(PLAIN, seed + 1, (uint64_t)r);
    }
    p.labels[ROWS - 1] = (int32_t)classes - 1;
    return p;
}

/* loss [ROWS] and dx [ROWS][classes + 1], each where it is not NULL. */
static int run(int device, const struct problem *p, double *loss, float *dx, int add)
{
    const struct rondo_entropy_run r = { .rows = ROWS, .classes = p->classes, .leaves = p->leaves, .own_leaves = p->leaves, .ignore = IGNORE, .x = p->x,
                                         .x_stride = p->classes + 3, .labels = p->labels, .add = add, .loss = loss, .dloss = p->dloss,
                                         .dloss_stride = 1, .dx = dx, .dx_stride = dx == p->x ? p->classes + 3 : p->classes + 1 };
    return rondo__cpu_cross_entropy(devices[device], NULL, &r, NULL);
}

/* ---- the rule ---- */

struct node {
    float most;
    double sum;
};

static float weight(float x, float most)
{
    const float d = x - most, t = d * (float)RONDO_LOG2E;
    return rondo__exp2(t);
}

static struct node node_of(const struct problem *p, const float *x, int64_t h, int64_t i)
{
    struct node n = { -FLT_MAX, 0.0 };
    if (h && (2 * i + 1) << (h - 1) >= p->leaves)
        return node_of(p, x, h - 1, 2 * i);
    if (h) {
        const struct node a = node_of(p, x, h - 1, 2 * i), b = node_of(p, x, h - 1, 2 * i + 1);
        n.most = a.most > b.most ? a.most : b.most;
        const double left = a.sum * rondo_exp((double)a.most - (double)n.most), right = b.sum * rondo_exp((double)b.most - (double)n.most);
        n.sum = left + right;
        return n;
    }
    double lane[16] = { 0 };
    const int64_t first = i * p->classes / p->leaves, end = (i + 1) * p->classes / p->leaves;
    for (int64_t c = first; c < end; c++)
        n.most = x[c] > n.most ? x[c] : n.most;
    for (int64_t c = first; c < end; c++)
        lane[(c - first) % 16] += (double)weight(x[c], n.most);
    for (int half = 8; half; half /= 2)
        for (int j = 0; j < half; j++)
            lane[j] += lane[j + half];
    n.sum = lane[0];
    return n;
}

static struct node root(const struct problem *p, const float *x)
{
    int64_t h = 0;
    while ((int64_t)1 << h < p->leaves)
        h++;
    return node_of(p, x, h, 0);
}

static void contract(void)
{
    static const int64_t classes[] = { 1, 2, 15, 16, 17, 100, 511, 513, 1200, 3000 };
    int losses = 1, slopes = 1;
    for (size_t s = 0; s < sizeof classes / sizeof *classes; s++)
        for (int k = 0; k < 3; k++) {
            const int32_t leaves = k == 0 ? (int32_t)((classes[s] + 511) / 512) : k == 1 ? (int32_t)((classes[s] + 2) / 3) : (int32_t)(1 + classes[s] / 70);
            struct problem p = make(classes[s], leaves, s % 2 ? PLAIN : INTEGERS, k == 1 ? 30.0f : 4.0f, s);
            float *dx = floats(ROWS * (p.classes + 1), PLAIN, 1), *before = floats(ROWS * (p.classes + 1), PLAIN, 1);
            double loss[ROWS];
            run(0, &p, loss, dx, k == 2);
            for (int r = 0; r < ROWS; r++) {
                const float *x = p.x + r * (p.classes + 3);
                const struct node all = root(&p, x);
                const float scale = (float)(1.0 / all.sum);
                const double want = p.labels[r] == IGNORE ? 0.0 : (double)all.most + rondo_log(all.sum) - (double)x[p.labels[r]];
                losses = losses && !memcmp(&loss[r], &want, sizeof want);
                for (int64_t c = 0; c < p.classes; c++) {
                    const float q = weight(x[c], all.most) * scale, g = c == p.labels[r] ? q - 1.0f : q, d = g * p.dloss[r];
                    const float held = before[r * (p.classes + 1) + c], one = p.labels[r] == IGNORE ? (k == 2 ? held : 0.0f) : k == 2 ? held + d : d;
                    slopes = slopes && rondo__bits(dx[r * (p.classes + 1) + c]) == rondo__bits(one);
                }
            }
            rondo__free(dx);
            rondo__free(before);
            rondo__free(p.x);
        }
    ok(losses, "the leaves, lanes, nodes and tree of the contract");
    ok(slopes, "the gradient's steps of the contract");
}

/* ---- against double ---- */

static double exact_loss(const float *x, int64_t classes, int32_t label, double shift, int64_t at)
{
    double most = -1e300, sum = 0;
    for (int64_t c = 0; c < classes; c++)
        most = (double)x[c] > most ? (double)x[c] : most;
    for (int64_t c = 0; c < classes; c++)
        sum += rondo_exp((double)x[c] + (c == at ? shift : 0) - most);
    return most + rondo_log(sum) - ((double)x[label] + (label == at ? shift : 0));
}

static void oracle(void)
{
    static const float factors[] = { 1.0f, 12.0f, 80.0f };
    for (int k = 0; k < 3; k++) {
        double worst_loss = 0, worst_slope = 0, worst_difference = 0;
        for (int64_t classes = 2; classes < 3000; classes = classes * 5 / 2 + 1) {
            struct problem p = make(classes, (int32_t)((classes + 511) / 512), PLAIN, factors[k], (uint64_t)classes);
            float *dx = floats(ROWS * (classes + 1), PLAIN, 1);
            double loss[ROWS];
            run(device_count - 1, &p, loss, dx, 0);
            for (int r = 0; r < ROWS; r++) {
                const float *x = p.x + r * (classes + 3);
                if (p.labels[r] == IGNORE)
                    continue;
                double most = -1e300, sum = 0, spread = 0;
                for (int64_t c = 0; c < classes; c++)
                    most = (double)x[c] > most ? (double)x[c] : most;
                for (int64_t c = 0; c < classes; c++)
                    sum += rondo_exp((double)x[c] - most);
                /* a weight: the polynomial, 1.06 U; x - m and its product, 2 U of the exponent (log2(e) of the distance, times ln 2), and
                 * log2(e) itself, another. The leaf's m is no more than the row's, so distances are no more. */
                for (int64_t c = 0; c < classes; c++)
                    spread += rondo_exp((double)x[c] - most) * (1.1 + 3 * (most - (double)x[c]) * 1.01) * U;
                worst_loss = worse(worst_loss, size(loss[r] - exact_loss(x, classes, p.labels[r], 0, -1)) / (spread / sum * 1.02 + 0x1p-45 * (1 + size(most))));
                for (int64_t c = 0; c < classes; c++) {
                    const double q = rondo_exp((double)x[c] - most) / sum, g = c == p.labels[r] ? q - 1 : q;
                    /* the weight, 1 / s and its rounding, three products, and, at the label, the difference */
                    const double bound = (q * ((1.1 + 3 * (most - (double)x[c]) * 1.01) * U + spread / sum + 3 * U) + 2 * size(g) * U) * 1.02;
                    const double got = (double)dx[r * (classes + 1) + c];
                    worst_slope = worse(worst_slope, size(got - g * (double)p.dloss[r]) / (bound * size((double)p.dloss[r]) + 0x1p-125));
                    if (k < 2 && c % 7 == 0 && classes < 200) {
                        const double step = 0x1p-13, above = exact_loss(x, classes, p.labels[r], step, c);
                        const double below = exact_loss(x, classes, p.labels[r], -step, c);
                        worst_difference = worse(worst_difference, size(got - (above - below) / (2 * step) * (double)p.dloss[r]));
                    }
                }
            }
            rondo__free(dx);
            rondo__free(p.x);
        }
        ok(worst_loss <= 1.0, "logits up to %g: losses within their bound (worst %.2f of it)", (double)factors[k], worst_loss);
        ok(worst_slope <= 1.0, "logits up to %g: gradients within their bound (worst %.2f of it)", (double)factors[k], worst_slope);
        if (k < 2)
            ok(worst_difference < 1e-6, "logits up to %g: differences of the loss give the gradient (worst %.1e)", (double)factors[k], worst_difference);
    }
}

/* ---- instruction sets ---- */

static int same_everywhere(const struct problem *p, int add)
{
    const int64_t count = ROWS * (p->classes + 1);
    float *want = floats(count, PLAIN, 4);
    double loss[ROWS];
    int equal = !run(0, p, loss, want, add);
    for (int d = 1; d < device_count; d++) {
        float *got = floats(count, PLAIN, 4);
        double other[ROWS];
        equal = equal && !run(d, p, other, NULL, 0) && !memcmp(loss, other, sizeof loss);
        equal = equal && !run(d, p, NULL, got, add) && differ(got, want, count, sizeof *got) < 0;
        if (!equal)
            diag("%s: %lld classes, %d leaves", device_names[d], (long long)p->classes, (int)p->leaves);
        if (!add) {   /* in place of the logits */
            struct problem again = *p;
            again.x = floats(ROWS * (p->classes + 3), PLAIN, 1);
            memcpy(again.x, p->x, (size_t)(ROWS * (p->classes + 3)) * sizeof *p->x);
            equal = equal && !run(d, &again, other, again.x, 0) && !memcmp(loss, other, sizeof loss);
            for (int r = 0; r < ROWS; r++)
                equal = equal && differ(again.x + r * (p->classes + 3), want + r * (p->classes + 1), p->classes, sizeof *want) < 0;
            rondo__free(again.x);
        }
        rondo__free(got);
    }
    rondo__free(want);
    return equal;
}

static void everywhere(void)
{
    int equal = 1, n = 0;
    for (int64_t classes = 1; classes < 90; classes += 1 + classes / 9, n++) {
        struct problem p = make(classes, 1 + (int32_t)(classes * 7 % classes % 9), (enum kind)(n % KINDS), n % 2 ? 1.0f : 20.0f, (uint64_t)n);
        equal = same_everywhere(&p, n % 3 == 0) && equal;
        rondo__free(p.x);
    }
    struct problem wide = make(5000, 10, PLAIN, 15.0f, 1), thin = make(700, 700, PLAIN, 5.0f, 2);
    equal = same_everywhere(&wide, 0) && same_everywhere(&thin, 1) && equal;
    ok(equal, "all instruction sets and threads have the bits of the definition, in place and each result alone");
    equal = 1;
    for (uint64_t seed = 0; seed < 6; seed++) {
        struct problem any = make(97, 5, PLAIN, 1.0f, seed);
        float *bits = any_bits(ROWS * 100, RONDO_F32, seed);
        memcpy(any.x, bits, ROWS * 100 * sizeof *bits);
        equal = same_everywhere(&any, (int)(seed % 2)) && equal;
        rondo__free(bits);
        rondo__free(any.x);
    }
    ok(equal, "of random bits too, NaNs canonical");
    rondo__free(wide.x);
    rondo__free(thin.x);
}

/* ---- parts ---- */

static void parts(void)
{
    static const int32_t cut[] = { 0, 3, 3, 8, 13 };
    struct problem p = make(333, 13, PLAIN, 10.0f, 3);
    const int64_t stride = p.classes + 3;
    float *want = floats(ROWS * (p.classes + 1), PLAIN, 2);
    double loss[ROWS];
    int equal = !run(0, &p, loss, want, 0);
    for (int d = 0; d < device_count; d++) {
        struct rondo_entropy_node nodes[32][ROWS];
        struct rondo_linear_node list[32];
        int32_t n = 0;
        struct rondo_entropy_run r = { .rows = ROWS, .classes = p.classes, .leaves = p.leaves, .ignore = IGNORE, .x_stride = stride, .labels = p.labels,
                                       .node_stride = ROWS, .dloss = p.dloss, .dloss_stride = 1, .dx_stride = p.classes + 1 };
        for (int i = 0; i < 4; i++) {
            r.first_leaf = cut[i];
            r.own_leaves = cut[i + 1] - cut[i];
            r.x = p.x + rondo__linear_leaf_begin(p.classes, p.leaves, cut[i]);
            r.nodes = nodes[n];
            equal = equal && !rondo__cpu_cross_entropy(devices[d], NULL, &r, NULL);
            for (int32_t leaf = cut[i], next; leaf < cut[i + 1]; leaf = next, n++) {
                next = rondo__linear_node_end(p.leaves, leaf, cut[i + 1]);
                list[n] = (struct rondo_linear_node){ (const float *)(const void *)nodes[n], 0, rondo__linear_merges(p.leaves, leaf, next), 0 };
            }
        }
        float *dx = floats(ROWS * (p.classes + 1), PLAIN, 2);
        r.nodes = NULL;
        r.parts = list;
        r.part_count = n;
        for (int i = 0; i < 4; i++) {
            double other[ROWS];
            const int64_t first = rondo__linear_leaf_begin(p.classes, p.leaves, cut[i]);
            r.first_leaf = cut[i];
            r.own_leaves = cut[i + 1] - cut[i];
            r.x = p.x + first;
            r.dx = dx + first;
            r.loss = other;
            equal = equal && !rondo__cpu_cross_entropy(devices[d], NULL, &r, NULL) && !memcmp(loss, other, sizeof loss);
        }
        equal = equal && differ(dx, want, ROWS * (p.classes + 1), sizeof *dx) < 0;
        rondo__free(dx);
    }
    ok(equal, "nodes of parts of the classes, joined on each of them, are the whole");
    rondo__free(want);
    rondo__free(p.x);
}

/* ---- NaN ---- */

static void hard(void)
{
    const float infinity = __builtin_inff();
    struct problem p = make(60, 4, PLAIN, 3.0f, 9);
    float *clean = floats(ROWS * 61, PLAIN, 1), *dirty = floats(ROWS * 61, PLAIN, 1);
    double loss[ROWS], other[ROWS];
    run(device_count - 1, &p, loss, clean, 0);
    p.x[1 * 63 + 7] = __builtin_nanf("");
    p.x[2 * 63 + 7] = __builtin_nanf("");   /* ignored */
    p.x[3 * 63 + 9] = infinity;
    run(device_count - 1, &p, other, dirty, 0);
    int good = other[1] != other[1] && other[3] != other[3] && other[2] == 0.0;
    for (int c = 0; c < 60; c++)
        good = good && rondo__bits(dirty[61 + c]) == RONDO_NAN_BITS && rondo__bits(dirty[3 * 61 + c]) == RONDO_NAN_BITS && rondo__bits(dirty[2 * 61 + c]) == 0;
    ok(good, "a NaN or an infinity makes its row NaN, but not where the row is ignored");
    ok(!memcmp(loss, other, sizeof *loss) && !memcmp(loss + 4, other + 4, sizeof *loss) && !memcmp(clean, dirty, 60 * sizeof *clean) &&
           !memcmp(clean + 4 * 61, dirty + 4 * 61, 60 * sizeof *clean), "and no other row");
    for (int c = 0; c < 60; c++)
        p.x[c] = c == 5 ? 2.0f : -infinity;
    p.labels[0] = 5;
    p.dloss[0] = 3.0f;
    run(device_count - 1, &p, other, dirty, 0);
    good = other[0] == 0.0 && dirty[5] == 0.0f && dirty[6] == 0.0f;
    p.labels[0] = 6;
    run(device_count - 1, &p, other, dirty, 0);
    ok(good && other[0] > 1e300 && dirty[6] == -3.0f && dirty[5] == 3.0f, "logits of -infinity have no weight; a label there an infinite loss");
    for (int c = 0; c < 60; c++)
        p.x[c] = c % 2 ? FLT_MAX : -FLT_MAX;
    p.labels[0] = 1;
    run(device_count - 1, &p, other, dirty, 0);
    ok(other[0] == 0.0 && size((double)dirty[3] - 0.1) < 1e-6 && dirty[0] == 0.0f, "any finite logits do");
    rondo__free(clean);
    rondo__free(dirty);
    rondo__free(p.x);
}

int main(void)
{
    find_devices();
    contract();
    oracle();
    everywhere();
    parts();
    hard();
    drop_devices();
    return done();
}
