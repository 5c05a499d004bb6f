/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Linear layers, functions of elements and their gradients on the device of the test hook: every pointer to data must be the device's, what a call
 * points to on the host is kept until its stream comes to it, and calls are counted.
 */
#include "backends/hook/device.h"

/* ---- linear layers ---- */

static struct rondo__hook_linear *linear_of(const struct rondo_device_linear *linear)
{
    return (struct rondo__hook_linear *)(void *)(uintptr_t)linear;
}

static int linear_new(struct rondo_device *dev, struct rondo_device_linear **out, const rondo_linear_desc *desc)
{
    struct rondo__hook_device *h = rondo__hook_device_of(dev);
    struct rondo__hook_linear *l = rondo__alloc_zero(1, sizeof *l);
    *out = NULL;
    if (!l)
        return rondo__fail(RONDO_ENOMEM, "no memory for a linear layer of the test hook");
    int err = h->ops->linear_new(h->dev, &l->inner, desc);
    if (err) {
        rondo__free(l);
        return err;
    }
    l->ops = h->ops;
    l->desc = *desc;
    l->desc.leaf_begin = NULL;
    l->first = rondo__linear_first(desc);
    l->end = rondo__linear_end(desc);
    l->users = 1;
    *out = (struct rondo_device_linear *)(void *)l;
    return 0;
}

static int linear_load(struct rondo_device *dev, struct rondo_device_linear *linear, int64_t first, int64_t rows, int type, const void *weights,
                       const float *scales)
{
    struct rondo__hook_device *h = rondo__hook_device_of(dev);
    if (rows > 0 && rondo__hook_memory_kind(h, weights) == RONDO_MEMORY_DEVICE)
        return rondo__fail(RONDO_EDEVICE, "linear_load: weights are the device's memory; they are loaded from the host's");
    return h->ops->linear_load(h->dev, linear_of(linear)->inner, first, rows, type, weights, scales);
}

static int host_run(struct rondo_device *dev, int32_t threads, int64_t items, int (*work)(void *arg, int64_t item, int worker), void *arg,
                    const struct rondo_poll *poll)
{
    struct rondo__hook_device *h = rondo__hook_device_of(dev);
    return h->ops->host_run(h->dev, threads, items, work, arg, poll);
}

static void linear_free(struct rondo_device *dev, struct rondo_device_linear *linear)
{
    if (linear)
        rondo__hook_linear_leave(rondo__hook_device_of(dev), linear_of(linear));
}

static size_t linear_bytes(const struct rondo_device_linear *linear)
{
    const struct rondo__hook_linear *l = linear_of(linear);
    return sizeof *l + l->ops->linear_bytes(l->inner);
}

static int linear_read(const struct rondo_device_linear *linear, int64_t first, int64_t rows, void *weights)
{
    const struct rondo__hook_linear *l = linear_of(linear);
    return l->ops->linear_read(l->inner, first, rows, weights);
}

static int64_t rows_bytes(int64_t rows, int64_t stride, int64_t columns)
{
    return rows > 0 ? ((rows - 1) * stride + columns) * (int64_t)sizeof(float) : 0;
}

static void count_linear(struct rondo__hook_device *h, const struct rondo__hook_linear *l, const struct rondo_linear_run *run, int64_t columns,
                         int32_t nodes)
{
    const double rows = (double)run->rows, in = (double)columns, out = (double)l->desc.out;
    const double written = run->nodes ? (double)nodes : run->add ? 2.0 : 1.0;
    rondo__hook_count(h, RONDO_HOOK_COUNT_LINEAR, 2.0 * rows * in * out,
        in * out * (double)rondo_type_size(l->desc.type) + (rows * in + rows * out * written + (run->bias ? out : 0.0)) * sizeof(float));
}

static int linear(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_device_linear *linear,
                  const struct rondo_linear_run *run, const struct rondo_poll *poll)
{
    struct rondo__hook_device *h = rondo__hook_device_of(dev);
    struct rondo__hook_linear *l = linear_of(linear);
    struct rondo__hook_call call = { .kind = RONDO_HOOK_LINEAR, .as.linear = { l, *run } };
    struct rondo_linear_run *mine = &call.as.linear.run;
    const int64_t out = l->desc.out;
    const int32_t total = l->desc.leaves, leaves = run->leaves ? run->leaves : l->end - l->first, first = run->leaves ? run->first_leaf : l->first;
    if (leaves < 1 || first < l->first || first > l->end - leaves || run->rows < 1)   /* the device beneath has a sentence for that, or nothing to do */
        return h->ops->linear(h->dev, NULL, l->inner, run, poll);
    const int64_t columns = rondo__linear_leaf_begin(l->desc.in, total, first + leaves) - rondo__linear_leaf_begin(l->desc.in, total, first);
    const int32_t nodes = rondo__linear_nodes(total, first, leaves);
    void *x, *y = NULL, *bias = NULL, *at = NULL;
    int err = rondo__hook_own(h, "linear", "x", run->x, 0, rows_bytes(run->rows, run->x_stride, columns), &x);
    if (!err && !run->nodes)
        err = rondo__hook_own(h, "linear", "y", run->y, 0, rows_bytes(run->rows, run->y_stride, out), &y);
    if (!err && !run->nodes && run->bias)
        err = rondo__hook_own(h, "linear", "bias", run->bias, 0, rows_bytes(1, 0, out), &bias);
    if (!err && run->nodes)
        err = rondo__hook_own(h, "linear", "nodes", run->nodes, 0, rows_bytes(nodes, run->node_stride, run->rows * out), &at);
    if (err)
        return err;
    mine->x = x;
    mine->y = y;
    mine->bias = bias;
    mine->nodes = at;
    if (h->set.count)
        count_linear(h, l, run, columns, nodes);
    atomic_fetch_add(&l->users, 1);
    return rondo__hook_put(h, stream, &call, poll);
}

static int linear_join(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_linear_join *join)
{
    struct rondo__hook_device *h = rondo__hook_device_of(dev);
    struct rondo__hook_call call = { .kind = RONDO_HOOK_LINEAR_JOIN, .as.join = *join };
    void *at, *y, *bias = NULL;
    if (join->count < 1 || join->rows < 1)   /* as linear() */
        return h->ops->linear_join(h->dev, NULL, join);
    struct rondo_linear_node *nodes = rondo__hook_take(h, (size_t)join->count * sizeof *nodes);
    if (!nodes)
        return RONDO_ENOMEM;
    int err = rondo__hook_own(h, "linear_join", "y", join->y, 0, rows_bytes(join->rows, join->y_stride, join->out), &y);
    if (!err && join->bias)
        err = rondo__hook_own(h, "linear_join", "bias", join->bias, 0, rows_bytes(1, 0, join->out), &bias);
    for (int32_t i = 0; i < join->count && !err; i++) {
        nodes[i] = join->nodes[i];
        err = rondo__hook_own(h, "linear_join", "a node", join->nodes[i].data, 0, rows_bytes(join->rows, join->nodes[i].stride, join->out), &at);
        nodes[i].data = at;
    }
    if (err)
        return err;
    call.as.join.y = y;
    call.as.join.bias = bias;
    call.as.join.nodes = nodes;
    if (h->set.count) {
        const double sums = (double)join->rows * (double)join->out, again = join->add ? 1.0 : 0.0, with = join->bias ? 1.0 : 0.0;
        rondo__hook_count(h, RONDO_HOOK_COUNT_LINEAR, sums * ((double)join->count - 1.0 + again + with),
                  (sums * ((double)join->count + 1.0 + again) + with * (double)join->out) * sizeof(float));
    }
    return rondo__hook_put(h, stream, &call, NULL);
}

/* ---- element by element ---- */

/* FLOPs an element, where an exponential, a root or a division is one. */
static void count_elements(struct rondo__hook_device *h, double elements, double flops, double bytes)
{
    if (h->set.count)
        rondo__hook_count(h, RONDO_HOOK_COUNT_ELEMENTWISE, elements * flops, elements * bytes);
}

static int rmsnorm(struct rondo_device *dev, struct rondo_stream *stream, int64_t rows, int64_t dim, const float *x, const float *weight, float eps,
                   float *y)
{
    struct rondo__hook_device *h = rondo__hook_device_of(dev);
    struct rondo__hook_call call = { .kind = RONDO_HOOK_RMSNORM, .as.rmsnorm = { .rows = rows, .dim = dim, .eps = eps } };
    const int64_t bytes = rows_bytes(rows, dim, dim);
    void *in, *second, *out;
    int err = rondo__hook_own(h, "rmsnorm", "x", x, 0, bytes, &in);
    if (!err)
        err = rondo__hook_own(h, "rmsnorm", "weight", weight, 0, rows_bytes(1, 0, dim), &second);
    if (!err)
        err = rondo__hook_own(h, "rmsnorm", "y", y, 0, bytes, &out);
    if (err)
        return err;
    call.as.rmsnorm.x = in;
    call.as.rmsnorm.weight = second;
    call.as.rmsnorm.y = out;
    count_elements(h, (double)rows * (double)dim, 4.0, 8.0);
    return rondo__hook_put(h, stream, &call, NULL);
}

/* One way or the other. */
static int turn(struct rondo_device *dev, struct rondo_stream *stream, int32_t kind, int64_t rows, int64_t heads, int64_t dim, float *x,
                int64_t row_stride, int64_t head_stride, const float *table)
{
    struct rondo__hook_device *h = rondo__hook_device_of(dev);
    struct rondo__hook_call call = { .kind = kind, .as.rope = { .rows = rows, .heads = heads, .dim = dim, .row_stride = row_stride,
                                                                           .head_stride = head_stride } };
    void *out, *second;
    int err = rondo__hook_own(h, "rope", "x", x, 0, heads > 0 ? rows_bytes(rows, row_stride, (heads - 1) * head_stride + dim) : 0, &out);
    if (!err)
        err = rondo__hook_own(h, "rope", "table", table, 0, rows_bytes(rows, dim, dim), &second);
    if (err)
        return err;
    call.as.rope.x = out;
    call.as.rope.table = second;
    count_elements(h, (double)rows * (double)heads * (double)dim, 3.0, 8.0);
    return rondo__hook_put(h, stream, &call, NULL);
}

static int rope(struct rondo_device *dev, struct rondo_stream *stream, int64_t rows, int64_t heads, int64_t dim, float *x, int64_t row_stride,
                int64_t head_stride, const float *table)
{
    return turn(dev, stream, RONDO_HOOK_ROPE, rows, heads, dim, x, row_stride, head_stride, table);
}

static int rope_back(struct rondo_device *dev, struct rondo_stream *stream, int64_t rows, int64_t heads, int64_t dim, float *x, int64_t row_stride,
                     int64_t head_stride, const float *table)
{
    return turn(dev, stream, RONDO_HOOK_ROPE_BACK, rows, heads, dim, x, row_stride, head_stride, table);
}

/* swiglu and sigmoid_mul: elements of two arrays. */
static int two(struct rondo_device *dev, struct rondo_stream *stream, bool unit, int64_t count, const float *gate, const float *up, float *y)
{
    struct rondo__hook_device *h = rondo__hook_device_of(dev);
    const char *const name = unit ? "swiglu" : "sigmoid_mul";
    struct rondo__hook_call call = { .kind = unit ? RONDO_HOOK_SWIGLU : RONDO_HOOK_SIGMOID_MUL, .as.swiglu.count = count };
    const int64_t bytes = rows_bytes(1, 0, count);
    void *in, *second, *out;
    int err = rondo__hook_own(h, name, "gate", gate, 0, bytes, &in);
    if (!err)
        err = rondo__hook_own(h, name, unit ? "up" : "x", up, 0, bytes, &second);
    if (!err)
        err = rondo__hook_own(h, name, "y", y, 0, bytes, &out);
    if (err)
        return err;
    call.as.swiglu.gate = in;
    call.as.swiglu.up = second;
    call.as.swiglu.y = out;
    count_elements(h, (double)count, unit ? 4.0 : 3.0, 12.0);
    return rondo__hook_put(h, stream, &call, NULL);
}

static int swiglu(struct rondo_device *dev, struct rondo_stream *stream, int64_t count, const float *gate, const float *up, float *y)
{
    return two(dev, stream, true, count, gate, up, y);
}

static int sigmoid_mul(struct rondo_device *dev, struct rondo_stream *stream, int64_t count, const float *gate, const float *x, float *y)
{
    return two(dev, stream, false, count, gate, x, y);
}

static int short_conv(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_conv_run *run)
{
    struct rondo__hook_device *h = rondo__hook_device_of(dev);
    struct rondo__hook_call call = { .kind = RONDO_HOOK_SHORT_CONV, .as.conv = *run };
    const int64_t channels = run->channels;
    void *x, *weight, *state = NULL, *y;
    int err = rondo__hook_own(h, "short_conv", "x", run->x, 0, rows_bytes(run->rows, run->x_stride, channels), &x);
    if (!err)
        err = rondo__hook_own(h, "short_conv", "weight", run->weight, 0, rows_bytes(run->taps, channels, channels), &weight);
    if (!err && run->state && run->taps > 1)
        err = rondo__hook_own(h, "short_conv", "state", run->state, 0, rows_bytes(run->taps - 1, channels, channels), &state);
    if (!err)
        err = rondo__hook_own(h, "short_conv", "y", run->y, 0, rows_bytes(run->rows, run->y_stride, channels), &y);
    if (err)
        return err;
    call.as.conv.x = x;
    call.as.conv.weight = weight;
    call.as.conv.state = state;
    call.as.conv.y = y;
    count_elements(h, (double)run->rows * (double)channels, 2.0 * (double)run->taps + (run->silu ? 3.0 : 0.0), 8.0);
    return rondo__hook_put(h, stream, &call, NULL);
}

static int convert(struct rondo_device *dev, struct rondo_stream *stream, int64_t count, int from_type, const void *from, int to_type, void *to)
{
    struct rondo__hook_device *h = rondo__hook_device_of(dev);
    struct rondo__hook_call call = { .kind = RONDO_HOOK_CONVERT, .as.convert = { .count = count, .from_type = from_type, .to_type = to_type } };
    const int64_t from_size = (int64_t)rondo_type_size(from_type), to_size = (int64_t)rondo_type_size(to_type);
    void *in, *out;
    int err = rondo__hook_own(h, "convert", "from", from, 0, count * from_size, &in);
    if (!err)
        err = rondo__hook_own(h, "convert", "to", to, 0, count * to_size, &out);
    if (err)
        return err;
    call.as.convert.from = in;
    call.as.convert.to = out;
    count_elements(h, (double)count, 0.0, (double)(from_size + to_size));
    return rondo__hook_put(h, stream, &call, NULL);
}

static int convert_rows(struct rondo_device *dev, struct rondo_stream *stream, int64_t rows, int64_t dim, int from_type, const void *from,
                        size_t from_stride, int to_type, void *to, size_t to_stride)
{
    struct rondo__hook_device *h = rondo__hook_device_of(dev);
    struct rondo__hook_call call = { .kind = RONDO_HOOK_CONVERT_ROWS,
                                     .as.convert_rows = { .rows = rows, .dim = dim, .from_stride = from_stride, .to_stride = to_stride,
                                                          .from_type = from_type, .to_type = to_type } };
    const size_t from_row = rondo_row_bytes(from_type, dim), to_row = rondo_row_bytes(to_type, dim);
    void *in, *out;
    int err = rondo__hook_own(h, "convert_rows", "from", from, 0, rondo__hook_reach(from_stride, from_row, rows), &in);
    if (!err)
        err = rondo__hook_own(h, "convert_rows", "to", to, 0, rondo__hook_reach(to_stride, to_row, rows), &out);
    if (err)
        return err;
    call.as.convert_rows.from = in;
    call.as.convert_rows.to = out;
    count_elements(h, (double)rows, 0.0, (double)(from_row + to_row));
    return rondo__hook_put(h, stream, &call, NULL);
}

static int logsumexp(struct rondo_device *dev, struct rondo_stream *stream, int64_t rows, int64_t dim, const float *x, int64_t x_stride, double *out)
{
    struct rondo__hook_device *h = rondo__hook_device_of(dev);
    struct rondo__hook_call call = { .kind = RONDO_HOOK_LOGSUMEXP, .as.logsumexp = { .rows = rows, .dim = dim, .x_stride = x_stride } };
    void *in, *result;
    int err = rondo__hook_own(h, "logsumexp", "x", x, 0, rows_bytes(rows, x_stride, dim), &in);
    if (!err)
        err = rondo__hook_own(h, "logsumexp", "out", out, 0, rows * (int64_t)sizeof *out, &result);
    if (err)
        return err;
    call.as.logsumexp.x = in;
    call.as.logsumexp.out = result;
    count_elements(h, (double)rows * (double)dim, 3.0, 4.0);
    return rondo__hook_put(h, stream, &call, NULL);
}

/* ---- gradients ---- */

static int linear_dx(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_device_linear *linear,
                     const struct rondo_linear_dx_run *run, const struct rondo_poll *poll)
{
    struct rondo__hook_device *h = rondo__hook_device_of(dev);
    struct rondo__hook_linear *l = linear_of(linear);
    struct rondo__hook_call call = { .kind = RONDO_HOOK_LINEAR_DX, .as.linear_dx = { l, *run } };
    const int64_t columns = rondo__linear_leaf_begin(l->desc.in, l->desc.leaves, l->end) - rondo__linear_leaf_begin(l->desc.in, l->desc.leaves, l->first);
    if (run->total < 1 || run->leaves < 1 || run->first_leaf < 0 || run->first_leaf > run->total - run->leaves || run->rows < 1)   /* as linear() */
        return h->ops->linear_dx(h->dev, NULL, l->inner, run, poll);
    const int32_t nodes = rondo__linear_nodes(run->total, run->first_leaf, run->leaves);
    void *dy, *dx = NULL, *at = NULL;
    int err = rondo__hook_own(h, "linear_dx", "dy", run->dy, 0, rows_bytes(run->rows, run->dy_stride, l->desc.out), &dy);
    if (!err && !run->nodes)
        err = rondo__hook_own(h, "linear_dx", "dx", run->dx, 0, rows_bytes(run->rows, run->dx_stride, columns), &dx);
    if (!err && run->nodes)
        err = rondo__hook_own(h, "linear_dx", "nodes", run->nodes, 0, rows_bytes(nodes, run->node_stride, run->rows * columns), &at);
    if (err)
        return err;
    call.as.linear_dx.run.dy = dy;
    call.as.linear_dx.run.dx = dx;
    call.as.linear_dx.run.nodes = at;
    if (h->set.count) {
        const double rows = (double)run->rows, in = (double)columns, out = (double)l->desc.out;
        rondo__hook_count(h, RONDO_HOOK_COUNT_LINEAR, 2.0 * rows * in * out,
            in * out * (double)rondo_type_size(l->desc.type) + rows * (out + in * (run->nodes ? nodes : 1 + run->add)) * sizeof(float));
    }
    atomic_fetch_add(&l->users, 1);
    return rondo__hook_put(h, stream, &call, poll);
}

/* Lists are copied: the caller's may be gone when the stream comes to it. */
static int token_sum(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_token_run *run, const struct rondo_poll *poll)
{
    struct rondo__hook_device *h = rondo__hook_device_of(dev);
    struct rondo__hook_call call = { .kind = RONDO_HOOK_TOKEN_SUM, .as.token_sum = *run };
    struct rondo_token_run *mine = &call.as.token_sum;
    const int64_t first = run->leaves[0].first, steps = run->leaves[run->leaf_count].first - first;
    const size_t order = (size_t)steps * sizeof *run->order, leaves = ((size_t)run->leaf_count + 1) * sizeof *run->leaves;
    const size_t segments = run->segments ? (size_t)run->segment_count * sizeof *run->segments : 0;
    void *a = NULL, *b = NULL, *y = NULL;
    char *lists = rondo__hook_take(h, order + leaves + segments);
    if (!lists)
        return RONDO_ENOMEM;
    int err = rondo__hook_own(h, "token_sum", "a", run->a, 0, run->segments ? 0 : rows_bytes(run->tokens, run->a_stride, run->rows), &a);
    if (!err)
        err = rondo__hook_own(h, "token_sum", "b", run->b, 0, rows_bytes(run->tokens, run->b_stride, run->columns), &b);
    if (!err)
        err = rondo__hook_own(h, "token_sum", "y", run->y, 0, rows_bytes(run->rows, run->y_stride, run->columns), &y);
    if (err)
        return err;
    struct rondo_token_leaf *own = (struct rondo_token_leaf *)(void *)(lists + order);
    memcpy(lists, run->order + first, order);
    memcpy(own, run->leaves, leaves);
    for (int64_t i = 0; i <= run->leaf_count; i++)
        own[i].first -= first;
    mine->order = (const int64_t *)(const void *)lists;
    mine->leaves = own;
    if (run->segments)
        mine->segments = memcpy(lists + order + leaves, run->segments, segments);
    mine->a = a;
    mine->b = b;
    mine->y = y;
    if (h->set.count) {
        const double each = run->segments ? (double)run->columns : 2.0 * (double)run->rows * (double)run->columns;
        rondo__hook_count(h, RONDO_HOOK_COUNT_LINEAR, (double)steps * each,
            ((double)steps * (double)((run->segments ? 0 : run->rows) + run->columns) + (double)run->rows * (double)run->columns) * sizeof(float));
    }
    return rondo__hook_put(h, stream, &call, poll);
}

static int rmsnorm_dx(struct rondo_device *dev, struct rondo_stream *stream, int64_t rows, int64_t dim, const float *x, const float *weight, float eps,
                      const float *dy, float *dx, float *terms, int add_to)
{
    struct rondo__hook_device *h = rondo__hook_device_of(dev);
    struct rondo__hook_call call = { .kind = RONDO_HOOK_RMSNORM_DX, .as.rmsnorm_dx = { .rows = rows, .dim = dim, .eps = eps, .add = add_to } };
    const int64_t bytes = rows_bytes(rows, dim, dim);
    void *in, *second, *third, *out = NULL, *more = NULL;
    int err = rondo__hook_own(h, "rmsnorm_dx", "x", x, 0, bytes, &in);
    if (!err)
        err = rondo__hook_own(h, "rmsnorm_dx", "weight", weight, 0, rows_bytes(1, 0, dim), &second);
    if (!err)
        err = rondo__hook_own(h, "rmsnorm_dx", "dy", dy, 0, bytes, &third);
    if (!err)
        err = rondo__hook_own(h, "rmsnorm_dx", "dx", dx, 0, dx ? bytes : 0, &out);
    if (!err)
        err = rondo__hook_own(h, "rmsnorm_dx", "terms", terms, 0, terms ? bytes : 0, &more);
    if (err)
        return err;
    call.as.rmsnorm_dx.x = in;
    call.as.rmsnorm_dx.weight = second;
    call.as.rmsnorm_dx.dy = third;
    call.as.rmsnorm_dx.dx = out;
    call.as.rmsnorm_dx.terms = more;
    count_elements(h, (double)rows * (double)dim, 9.0, 8.0 + 4.0 * ((dx ? 1.0 : 0.0) + (terms ? 1.0 : 0.0)));
    return rondo__hook_put(h, stream, &call, NULL);
}

static int cross_entropy(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_entropy_run *run, const struct rondo_poll *poll)
{
    struct rondo__hook_device *h = rondo__hook_device_of(dev);
    struct rondo__hook_call call = { .kind = RONDO_HOOK_CROSS_ENTROPY, .as.entropy = *run };
    const int32_t end = run->first_leaf + run->own_leaves;
    if (run->leaves < 1 || run->first_leaf < 0 || run->own_leaves < 0 || end > run->leaves || run->rows < 1)   /* as linear() */
        return h->ops->cross_entropy(h->dev, NULL, run, poll);
    const int64_t own = rondo__linear_leaf_begin(run->classes, run->leaves, end) - rondo__linear_leaf_begin(run->classes, run->leaves, run->first_leaf);
    const int64_t node = run->rows * (int64_t)sizeof *run->nodes;
    const int32_t nodes = rondo__linear_nodes(run->leaves, run->first_leaf, run->own_leaves);
    void *x, *labels, *made = NULL, *loss = NULL, *by = NULL, *dx = NULL, *at;
    struct rondo_linear_node *parts = rondo__hook_take(h, (size_t)run->part_count * sizeof *parts);
    if (!parts)
        return RONDO_ENOMEM;
    int err = rondo__hook_own(h, "cross_entropy", "x", run->x, 0, own ? rows_bytes(run->rows, run->x_stride, own) : 0, &x);
    if (!err)
        err = rondo__hook_own(h, "cross_entropy", "labels", run->labels, 0, run->rows * (int64_t)sizeof *run->labels, &labels);
    if (!err && run->nodes)
        err = rondo__hook_own(h, "cross_entropy", "nodes", run->nodes, 0, nodes ? (nodes - 1) * run->node_stride * (int64_t)sizeof *run->nodes + node : 0, &made);
    if (!err && run->loss)
        err = rondo__hook_own(h, "cross_entropy", "loss", run->loss, 0, run->rows * (int64_t)sizeof *run->loss, &loss);
    if (!err && run->dloss)
        err = rondo__hook_own(h, "cross_entropy", "dloss", run->dloss, 0, rows_bytes(run->rows, run->dloss_stride, 1), &by);
    if (!err && run->dx)
        err = rondo__hook_own(h, "cross_entropy", "dx", run->dx, 0, own ? rows_bytes(run->rows, run->dx_stride, own) : 0, &dx);
    for (int32_t i = 0; i < run->part_count && !err; i++) {
        parts[i] = run->parts[i];
        err = rondo__hook_own(h, "cross_entropy", "a node", run->parts[i].data, 0, node, &at);
        parts[i].data = at;
    }
    if (err)
        return err;
    call.as.entropy.x = x;
    call.as.entropy.labels = labels;
    call.as.entropy.nodes = made;
    call.as.entropy.parts = parts;
    call.as.entropy.loss = loss;
    call.as.entropy.dloss = by;
    call.as.entropy.dx = dx;
    count_elements(h, (double)run->rows * (double)own, run->dx ? 8.0 : 5.0, run->dx ? 8.0 : 4.0);
    return rondo__hook_put(h, stream, &call, poll);
}

static int swiglu_dx(struct rondo_device *dev, struct rondo_stream *stream, int64_t count, const float *gate, const float *up, const float *dy,
                     float *dgate, float *dup)
{
    struct rondo__hook_device *h = rondo__hook_device_of(dev);
    struct rondo__hook_call call = { .kind = RONDO_HOOK_SWIGLU_DX, .as.swiglu_dx.count = count };
    const int64_t bytes = rows_bytes(1, 0, count);
    void *in, *second, *third, *out, *more;
    int err = rondo__hook_own(h, "swiglu_dx", "gate", gate, 0, bytes, &in);
    if (!err)
        err = rondo__hook_own(h, "swiglu_dx", "up", up, 0, bytes, &second);
    if (!err)
        err = rondo__hook_own(h, "swiglu_dx", "dy", dy, 0, bytes, &third);
    if (!err)
        err = rondo__hook_own(h, "swiglu_dx", "dgate", dgate, 0, bytes, &out);
    if (!err)
        err = rondo__hook_own(h, "swiglu_dx", "dup", dup, 0, bytes, &more);
    if (err)
        return err;
    call.as.swiglu_dx.gate = in;
    call.as.swiglu_dx.up = second;
    call.as.swiglu_dx.dy = third;
    call.as.swiglu_dx.dgate = out;
    call.as.swiglu_dx.dup = more;
    count_elements(h, (double)count, 10.0, 20.0);
    return rondo__hook_put(h, stream, &call, NULL);
}

void rondo__hook_layers(struct rondo_device_ops *t, const struct rondo_device_ops *ops)
{
#define WRAP(slot) t->slot = RONDO_HAS(ops, slot) ? slot : NULL
    WRAP(linear_new);
    WRAP(linear_load);
    WRAP(linear_free);
    WRAP(linear_bytes);
    WRAP(linear);
    WRAP(linear_join);
    WRAP(host_run);
    WRAP(rmsnorm);
    WRAP(rope);
    WRAP(swiglu);
    WRAP(convert);
    WRAP(convert_rows);
    WRAP(logsumexp);
    WRAP(linear_read);
    WRAP(linear_dx);
    WRAP(token_sum);
    WRAP(cross_entropy);
    WRAP(rmsnorm_dx);
    WRAP(rope_back);
    WRAP(swiglu_dx);
    WRAP(short_conv);
    WRAP(sigmoid_mul);
#undef WRAP
}
