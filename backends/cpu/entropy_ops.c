/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Cross-entropy on the CPU device (rule 12 of rondo-numerics(7)): the tree over leaves of classes, the loss, and what a row's gradient is made
 * of, shared out by rows among the device's threads. What is inside of a leaf is ref_entropy.c's to define and entropy.c's to do faster. A row
 * is read once for its loss; for its gradient once more, while it is in the cache.
 */
#include "backends/cpu/layers.h"

#include <float.h>

typedef struct rondo_entropy_node node;

/* ---- nodes ---- */

static node merge(node a, node b)
{
    const float most = a.most > b.most ? a.most : b.most;
    const double left = a.sum * rondo_exp((double)a.most - (double)most), right = b.sum * rondo_exp((double)b.most - (double)most);
    return (node){ left + right, most, a.label + b.label };
}

/* Leaves [leaf0, leaf1), which are a node of the tree, of a row of own classes that begins with class `first`. */
static node node_of(const struct rondo_cpu_entropy *k, const struct rondo_entropy_run *run, const float *x, int64_t first, int64_t label, int32_t leaf0,
                    int32_t leaf1)
{
    node stack[64];
    int n = 0;
    for (int32_t g = leaf0; g < leaf1; g++) {
        const int64_t begin = rondo__linear_leaf_begin(run->classes, run->leaves, g), end = rondo__linear_leaf_begin(run->classes, run->leaves, g + 1);
        node one = { .label = label >= begin && label < end ? x[label - first] : 0.0f };
        k->leaf(x + (begin - first), end - begin, &one.most, &one.sum);
        for (int32_t i = g - leaf0; i & 1; i >>= 1)
            one = merge(stack[--n], one);
        stack[n++] = one;
    }
    for (; n > 1; n--)
        stack[n - 2] = merge(stack[n - 2], stack[n - 1]);
    return stack[0];
}

static node join(const struct rondo_entropy_run *run, int64_t row)
{
    node stack[RONDO_LINEAR_DEPTH];
    int n = 0;
    for (int32_t i = 0; i < run->part_count; i++) {
        stack[n++] = ((const node *)(const void *)run->parts[i].data)[row];
        for (int32_t m = i + 1 < run->part_count ? run->parts[i].merges : n - 1; m > 0; m--, n--)
            stack[n - 2] = merge(stack[n - 2], stack[n - 1]);
    }
    return stack[0];
}

/* ---- rows ---- */

struct call {
    const struct rondo_cpu_entropy *k;
    const struct rondo_entropy_run *run;
    int64_t first, own, step;           /* own classes; rows of an item */
};

static void gradient(const struct call *c, int64_t row, const float *x, node all)
{
    const struct rondo_entropy_run *run = c->run;
    float *dx = run->dx + row * run->dx_stride;
    const int64_t label = run->labels[row] == run->ignore ? -1 : run->labels[row] - c->first;
    const float by = run->dloss ? run->dloss[row * run->dloss_stride] : 1.0f, scale = (float)(1.0 / all.sum);
    float at_label = 0.0f;
    if (run->labels[row] == run->ignore) {   /* takes no part, whatever it holds */
        for (int64_t i = 0; i < c->own && !run->add; i++)
            dx[i] = 0.0f;
        return;
    }
    if (label >= 0 && label < c->own) {
        const float held = dx[label];
        c->k->slope(x + label, 1, all.most, scale, 1.0f, &at_label, 0);
        at_label = (at_label - 1.0f) * by;
        at_label = run->add ? held + at_label : at_label;
    }
    c->k->slope(x, c->own, all.most, scale, by, dx, run->add);
    if (label >= 0 && label < c->own)
        rondo__put_element(dx, label, RONDO_F32, at_label);
}

static void put_nodes(const struct call *c, int64_t row, const float *x)
{
    const struct rondo_entropy_run *run = c->run;
    const int32_t end = run->first_leaf + run->own_leaves;
    node *to = run->nodes + row;
    for (int32_t leaf = run->first_leaf, next; leaf < end; leaf = next, to += run->node_stride) {
        next = rondo__linear_node_end(run->leaves, leaf, end);
        *to = node_of(c->k, run, x, c->first, run->labels[row], leaf, next);
    }
}

static int item(void *arg, int64_t index, int worker)
{
    const struct call *c = arg;
    const struct rondo_entropy_run *run = c->run;
    const int64_t begin = index * c->step, end = begin + c->step < run->rows ? begin + c->step : run->rows;
    (void)worker;
    for (int64_t row = begin; row < end; row++) {
        const float *x = c->own ? run->x + row * run->x_stride : NULL;
        if (run->nodes) {
            put_nodes(c, row, x);
            continue;
        }
        const bool ignored = run->labels[row] == run->ignore;
        node all = { 0 };
        if (!ignored)
            all = run->part_count ? join(run, row) : node_of(c->k, run, x, c->first, run->labels[row], 0, run->leaves);
        if (run->loss) {
            const double loss = ignored ? 0.0 : (double)all.most + rondo_log(all.sum) - (double)all.label;
            run->loss[row] = loss != loss ? rondo__nan64() : loss;
        }
        if (run->dx && c->own)
            gradient(c, row, x, all);
    }
    return 0;
}

/* Numbers worth handing to another thread. */
#define ITEM_ELEMENTS ((int64_t)1 << 13)

int rondo__cpu_cross_entropy(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_entropy_run *run, const struct rondo_poll *poll)
{
    const int32_t end = run->first_leaf + run->own_leaves;
    int32_t depth = 0;
    (void)stream;
    if (run->leaves < 1 || run->leaves > run->classes || run->first_leaf < 0 || run->own_leaves < 0 || run->first_leaf > run->leaves - run->own_leaves ||
        (!run->nodes && !run->part_count && run->own_leaves != run->leaves))
        return rondo__fail(RONDO_EINVAL, "leaves [%d, %d) of %lld classes in %d leaves are no sum", (int)run->first_leaf, (int)end,
                           (long long)run->classes, (int)run->leaves);
    for (int32_t i = 0; i < run->part_count; i++) {
        if (++depth > RONDO_LINEAR_DEPTH)
            return rondo__fail(RONDO_EINVAL, "the %d nodes of a sum over classes need a stack of more than %d", (int)run->part_count, RONDO_LINEAR_DEPTH);
        depth -= run->parts[i].merges;
    }
    struct call c = { dev->kernels.entropy, run, rondo__linear_leaf_begin(run->classes, run->leaves, run->first_leaf), 0, 1 };
    c.own = rondo__linear_leaf_begin(run->classes, run->leaves, end) - c.first;
    c.step = c.own >= ITEM_ELEMENTS ? 1 : ITEM_ELEMENTS / (c.own < 8 ? 8 : c.own);
    return rondo__cpu_for(dev, run->rows / c.step + (run->rows % c.step != 0), item, &c, poll);
}
