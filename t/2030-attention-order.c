/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Reveals the order in which a kernel adds, and holds it against rules C2, C4 and C6 of the contract: pairs of
 * dimensions 1, 0, 3, 2, ... in a score, of keys likewise in one chain inside a leaf, the aligned binary tree
 * over leaves. As FPRev (Xie et al.,
 * arXiv:2411.00442): all weights are 1, one value is 2^100, another -2^100, the others 1. What is added while
 * only one of the two is in the sum is lost, so that the result tells how many values joined after both had
 * met.
 */
#include "attention_case.h"

enum { COLUMNS = 40 };

/* How many ones survive with the big values at keys i and j, of the keys [lo, hi). */
static int survivors(int leaf, int lo, int hi, int i, int j)
{
    const int li = i / leaf, lj = j / leaf;
    int lost_from, lost_to, count = 0;
    if (li == lj) { /* same chain: lost is what comes before the later one, by position in the chain */
        const int a = i % leaf ^ 1, b = j % leaf ^ 1, last = a > b ? a : b;
        for (int k = lo; k < hi; k++)
            if (k != i && k != j && (k / leaf != li || (k % leaf ^ 1) > last))
                count++;
        return count;
    }
    int size = leaf; /* the smallest aligned subtree that holds both */
    while (i / size != j / size)
        size *= 2;
    lost_from = i / size * size;
    lost_to = lost_from + size;
    for (int k = lo; k < hi; k++)
        if (k < lost_from || k >= lost_to)
            count++;
    return count;
}

/* All pairs among the keys that the one query sees; COLUMNS pairs a run, one for each column. */
static int pairs_right(struct rondo_device *dev, int leaf, int keys, int64_t left, int queries)
{
    struct shape s = { .heads = 1,
                       .kv_heads = 1,
                       .head_dim = 1,
                       .value_dim = COLUMNS,
                       .queries = queries,
                       .keys = keys,
                       .first = keys - queries,
                       .causal = 1,
                       .left = left,
                       .right = -1,
                       .q_type = 1,
                       .kv_type = 1,
                       .out_type = 1,
                       .leaf = leaf,
                       .step = 1 };
    struct test_case c;
    int right = 1;
    case_make(&c, &s);
    memset(c.q, 0, c.q_bytes);
    float *v = (float *)c.v;
    const int last = keys - 1, lo = left < 0 || left > last ? 0 : last - (int)left, n = keys - lo;
    int pair[COLUMNS][2], filled = 0;
    for (int i = lo; i < keys && right; i++)
        for (int j = i + 1; j < keys; j++) {
            pair[filled][0] = i;
            pair[filled][1] = j;
            if (++filled < COLUMNS && !(i == keys - 2 && j == keys - 1))
                continue;
            for (int64_t e = 0; e < c.v_elements; e++)
                v[e] = 1.0f;
            for (int p = 0; p < filled; p++)
                for (int which = 0; which < 2; which++) {
                    const struct rondo_leaf *f = c.leaves + pair[p][which] / leaf;
                    v[(f->row + pair[p][which] % leaf) * COLUMNS + p] = which ? -0x1p100f : 0x1p100f;
                }
            right &= case_run(&c, dev) == 0;
            const float *out = (const float *)c.out + (int64_t)(queries - 1) * COLUMNS;
            for (int p = 0; p < filled; p++) {
                const int got = (int)(out[p] * (float)n + 0.5f),
                          want = survivors(leaf, lo, keys, pair[p][0], pair[p][1]);
                if (got != want && right) {
                    diag("keys %d and %d of [%d, %d): %d values joined after them, not %d", pair[p][0],
                         pair[p][1], lo, keys, got, want);
                    right = 0;
                }
            }
            filled = 0;
        }
    case_free(&c);
    return right;
}

/* The chain of a score: q is 1, k is 2^100 in one dimension, -2^100 in another and 1 in the others, so that the
 * score is how many dimensions come after both; the only key's lse tells it. */
static int score_right(struct rondo_device *dev, int dim)
{
    struct shape s = { .heads = 1,
                       .kv_heads = 1,
                       .head_dim = dim,
                       .value_dim = 1,
                       .queries = 1,
                       .keys = 1,
                       .left = -1,
                       .right = -1,
                       .q_type = 1,
                       .kv_type = 1,
                       .out_type = 1,
                       .leaf = 8,
                       .step = 1 };
    struct test_case c;
    int right = 1;
    case_make(&c, &s);
    c.task.scale_log2 = 1.0f;
    for (int d = 0; d < dim; d++)
        ((float *)c.q)[d] = 1.0f;
    for (int i = 0; i < dim && right; i++)
        for (int j = 0; j < dim && right; j++) {
            int after = 0;
            if (i == j)
                continue;
            for (int d = 0; d < dim; d++) {
                ((float *)c.k)[d] = d == i ? 0x1p100f : d == j ? -0x1p100f : 1.0f;
                after += d != i && d != j && (d ^ 1) > (i ^ 1) && (d ^ 1) > (j ^ 1);
            }
            right &= case_run(&c, dev) == 0 && c.lse[0] == (float)(after * 0.693147180559945309);
            if (!right)
                diag("dimensions %d and %d of %d: the score is %g, not %d", i, j, dim,
                     (double)c.lse[0] / 0.693147180559945309, after);
        }
    case_free(&c);
    return right;
}

/* The row sum: one weight of 1 at `key`, all others 2^small, of which some get lost in rounding: how many hangs
 * on how many came before. The value is 1 at that key only, so that the output is 1 / l. */
static int sum_right(struct rondo_device *dev, int leaf, int keys, int queries, int small)
{
    const float least = exp2f((float)small);
    struct shape s = { .heads = 1,
                       .kv_heads = 1,
                       .head_dim = 1,
                       .value_dim = 1,
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
    struct test_case c;
    int right = 1;
    case_make(&c, &s);
    c.task.scale_log2 = 1.0f;
    for (int64_t i = 0; i < c.q_elements; i++)
        ((float *)c.q)[i] = 1.0f;
    for (int key = 0; key < keys && right; key++) {
        float node_l[64] = { 0 }, node_m[64] = { 0 };
        const int leaves = (keys + leaf - 1) / leaf;
        for (int k = 0; k < keys; k++) {
            const int64_t row = c.leaves[k / leaf].row + k % leaf;
            ((float *)c.k)[row] = k == key ? 0.0f : (float)small;
            ((float *)c.v)[row] = k == key ? 1.0f : 0.0f;
        }
        for (int f = 0; f < leaves; f++) { /* the rule, once more, in plain C */
            const int count = keys - f * leaf < leaf ? keys - f * leaf : leaf;
            node_m[f] = key / leaf == f ? 0.0f : (float)small;
            for (int j = 0; j < count + (count & 1); j++)
                if ((j ^ 1) < count)
                    node_l[f] += f * leaf + (j ^ 1) == key || node_m[f] < 0.0f ? 1.0f : least;
        }
        for (int step = 1; step < leaves; step *= 2)
            for (int f = 0; f + step < leaves; f += 2 * step) {
                const float m = node_m[f] > node_m[f + step] ? node_m[f] : node_m[f + step];
                node_l[f] = node_l[f] * exp2f(node_m[f] - m) + node_l[f + step] * exp2f(node_m[f + step] - m);
                node_m[f] = m;
            }
        right &= case_run(&c, dev) == 0 && ((float *)c.out)[queries - 1] == 1.0f / node_l[0];
        if (!right)
            diag("weight 1 at key %d: 1 / l is %a, not %a", key, (double)((float *)c.out)[queries - 1],
                 (double)(1.0f / node_l[0]));
    }
    case_free(&c);
    return right;
}

int main(void)
{
    struct device_under_test d[8];
    const int n = devices_open(d, 8);
    for (int i = 0; i < n; i++) {
        ok(pairs_right(d[i].dev, 8, 64, -1, 1), "%s with %d threads: 8 leaves of 8", d[i].isa, d[i].threads);
        ok(pairs_right(d[i].dev, 8, 53, -1, 50), "  a ragged end, many rows");
        ok(pairs_right(d[i].dev, 16, 100, 60, 30), "  a window that cuts a leaf");
        ok(pairs_right(d[i].dev, 128, 131, -1, 5), "  a leaf of 128");
        for (int small = -25; small <= -24; small++) {
            ok(sum_right(d[i].dev, 8, 51, 51, small), "  row sums over leaves of 8, weights of 2^%d", small);
            ok(sum_right(d[i].dev, 128, 131, 1, small), "  row sums over leaves of 128");
        }
        ok(score_right(d[i].dev, 16), "  scores over 16 dimensions");
        ok(score_right(d[i].dev, 21), "  scores over 21 dimensions");
    }
    devices_close(d, n);
    return done();
}
