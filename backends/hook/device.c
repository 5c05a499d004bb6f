/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A device that wraps any other one for tests: of the list in $RONDO_TEST_HOOK it takes
 *     count            FLOPs and bytes are counted by operation, and logged at the end (level debug)
 *     space            a device that computes on host memory gets memory of its own (space.c)
 *     defer[:SEED]     streams run late, and in any order that events allow (defer.c)
 * context.c wraps every device that it opens where the variable is set. With `space` and `defer` the device does to lib/ what a graphics card
 * does: whatever computes right on it keeps to the device table's contract. Results must not change.
 */
#include "backends/hook/device.h"

#include <stdatomic.h>
#include <stdio.h>

/* ---- calls of the device beneath ---- */

void rondo__hook_linear_leave(struct rondo__hook_device *h, struct rondo__hook_linear *linear)
{
    if (atomic_fetch_sub(&linear->users, 1) > 1)
        return;
    h->ops->linear_free(h->dev, linear->inner);
    rondo__free(linear);
}

int rondo__hook_perform(struct rondo__hook_device *h, const struct rondo__hook_call *c, const struct rondo_poll *poll)
{
    const struct rondo_device_ops *ops = h->ops;
    struct rondo_device *dev = h->dev;
    switch (c->kind) {
    case RONDO_HOOK_COPY:
        return ops->copy(dev, c->stream, c->as.copy.to, c->as.copy.from, c->as.copy.bytes);
    case RONDO_HOOK_COPY_ROWS:
        return ops->copy_rows(dev, c->stream, c->as.copy.to, c->as.copy.to_stride, c->as.copy.from, c->as.copy.from_stride, c->as.copy.bytes,
                              c->as.copy.rows);
    case RONDO_HOOK_ATTENTION:
        return ops->attention(dev, c->stream, c->as.attention.program, c->as.attention.run, poll);
    case RONDO_HOOK_BACKWARD:
        return ops->backward(dev, c->stream, c->as.backward.backward, c->as.backward.run, poll);
    case RONDO_HOOK_BACKWARD_SUMS:
        return ops->backward_sums(dev, c->stream, &c->as.sums);
    case RONDO_HOOK_BACKWARD_SINKS:
        return ops->backward_sinks(dev, c->stream, &c->as.sinks);
    case RONDO_HOOK_LINEAR:
        return ops->linear(dev, c->stream, c->as.linear.linear->inner, &c->as.linear.run, poll);
    case RONDO_HOOK_LINEAR_JOIN:
        return ops->linear_join(dev, c->stream, &c->as.join);
    case RONDO_HOOK_RMSNORM:
        return ops->rmsnorm(dev, c->stream, c->as.rmsnorm.rows, c->as.rmsnorm.dim, c->as.rmsnorm.x, c->as.rmsnorm.weight, c->as.rmsnorm.eps,
                            c->as.rmsnorm.y);
    case RONDO_HOOK_ROPE:
        return ops->rope(dev, c->stream, c->as.rope.rows, c->as.rope.heads, c->as.rope.dim, c->as.rope.x, c->as.rope.row_stride,
                         c->as.rope.head_stride, c->as.rope.table);
    case RONDO_HOOK_SWIGLU:
        return ops->swiglu(dev, c->stream, c->as.swiglu.count, c->as.swiglu.gate, c->as.swiglu.up, c->as.swiglu.y);
    case RONDO_HOOK_CONVERT:
        return ops->convert(dev, c->stream, c->as.convert.count, c->as.convert.from_type, c->as.convert.from, c->as.convert.to_type,
                            c->as.convert.to);
    case RONDO_HOOK_DELTA:
        return ops->delta(dev, c->stream, &c->as.delta, poll);
    case RONDO_HOOK_DELTA_FOLD:
        return ops->delta_fold(dev, c->stream, c->as.fold.key_dim, c->as.fold.folds, c->as.fold.count, c->as.fold.states, c->as.fold.state_count);
    case RONDO_HOOK_CONVERT_ROWS:
        return ops->convert_rows(dev, c->stream, c->as.convert_rows.rows, c->as.convert_rows.dim, c->as.convert_rows.from_type,
                                 c->as.convert_rows.from, c->as.convert_rows.from_stride, c->as.convert_rows.to_type, c->as.convert_rows.to,
                                 c->as.convert_rows.to_stride);
    case RONDO_HOOK_LINEAR_DX:
        return ops->linear_dx(dev, c->stream, c->as.linear_dx.linear->inner, &c->as.linear_dx.run, poll);
    case RONDO_HOOK_TOKEN_SUM:
        return ops->token_sum(dev, c->stream, &c->as.token_sum, poll);
    case RONDO_HOOK_RMSNORM_DX:
        return ops->rmsnorm_dx(dev, c->stream, c->as.rmsnorm_dx.rows, c->as.rmsnorm_dx.dim, c->as.rmsnorm_dx.x, c->as.rmsnorm_dx.weight,
                               c->as.rmsnorm_dx.eps, c->as.rmsnorm_dx.dy, c->as.rmsnorm_dx.dx, c->as.rmsnorm_dx.terms, c->as.rmsnorm_dx.add);
    case RONDO_HOOK_ROPE_BACK:
        return ops->rope_back(dev, c->stream, c->as.rope.rows, c->as.rope.heads, c->as.rope.dim, c->as.rope.x, c->as.rope.row_stride,
                              c->as.rope.head_stride, c->as.rope.table);
    case RONDO_HOOK_SWIGLU_DX:
        return ops->swiglu_dx(dev, c->stream, c->as.swiglu_dx.count, c->as.swiglu_dx.gate, c->as.swiglu_dx.up, c->as.swiglu_dx.dy,
                              c->as.swiglu_dx.dgate, c->as.swiglu_dx.dup);
    default:
        return ops->logsumexp(dev, c->stream, c->as.logsumexp.rows, c->as.logsumexp.dim, c->as.logsumexp.x, c->as.logsumexp.x_stride,
                              c->as.logsumexp.out);
    }
}

static void add(struct rondo__hook_device *h, int what, double flops, double bytes)
{
    struct rondo__hook_count *c = h->counts.of + what;
    c->calls++;
    c->flops += flops;
    c->bytes += bytes;
}

/* ---- what passes through ---- */

static const char *isa_used(const struct rondo_device *dev)
{
    const struct rondo__hook_device *h = rondo__hook_device_const(dev);
    return h->ops->isa_used(h->dev);
}

static int threads_used(const struct rondo_device *dev)
{
    const struct rondo__hook_device *h = rondo__hook_device_const(dev);
    return h->ops->threads_used(h->dev);
}

static int check(struct rondo_device *dev)
{
    const struct rondo__hook_device *h = rondo__hook_device_of(dev);
    return h->ops->check(h->dev);
}

static size_t program_scratch(const struct rondo_device *dev, const struct rondo_program *program)
{
    const struct rondo__hook_device *h = rondo__hook_device_const(dev);
    return h->ops->program_scratch(h->dev, rondo__hook_program_inner(program));
}

static uint64_t linear_format(const struct rondo_device *dev)
{
    const struct rondo__hook_device *h = rondo__hook_device_const(dev);
    return h->ops->linear_format(h->dev);
}

/* ---- streams and events: those of the device beneath, or late ones ---- */

static int stream_new(struct rondo_device *dev, struct rondo_stream **out)
{
    struct rondo__hook_device *h = rondo__hook_device_of(dev);
    return h->set.defer ? rondo__hook_stream_new(h, out) : h->ops->stream_new(h->dev, out);
}

static void stream_free(struct rondo_device *dev, struct rondo_stream *stream)
{
    struct rondo__hook_device *h = rondo__hook_device_of(dev);
    if (h->set.defer)
        rondo__hook_stream_free(h, stream);
    else
        h->ops->stream_free(h->dev, stream);
}

static struct rondo__hook_event *event_of(struct rondo_event *event)
{
    return (struct rondo__hook_event *)(void *)event;
}

static int event_new(struct rondo_device *dev, struct rondo_event **out)
{
    struct rondo__hook_device *h = rondo__hook_device_of(dev);
    if (!h->set.defer)
        return h->ops->event_new(h->dev, out);
    struct rondo__hook_event *event = rondo__alloc_zero(1, sizeof *event);
    *out = (struct rondo_event *)(void *)event;
    return event ? 0 : rondo__fail(RONDO_ENOMEM, "no memory for an event of the test hook");
}

static void event_free(struct rondo_device *dev, struct rondo_event *event)
{
    struct rondo__hook_device *h = rondo__hook_device_of(dev);
    if (h->set.defer)
        rondo__free(event_of(event));
    else
        h->ops->event_free(h->dev, event);
}

static int event_record(struct rondo_device *dev, struct rondo_stream *stream, struct rondo_event *event)
{
    struct rondo__hook_device *h = rondo__hook_device_of(dev);
    return h->set.defer ? rondo__hook_event_record(h, stream, event_of(event)) : h->ops->event_record(h->dev, stream, event);
}

static int stream_wait(struct rondo_device *dev, struct rondo_stream *stream, struct rondo_event *event)
{
    struct rondo__hook_device *h = rondo__hook_device_of(dev);
    return h->set.defer ? rondo__hook_stream_wait(h, stream, event_of(event)) : h->ops->stream_wait(h->dev, stream, event);
}

static int event_wait(struct rondo_device *dev, struct rondo_event *event, const struct rondo_poll *poll)
{
    struct rondo__hook_device *h = rondo__hook_device_of(dev);
    return h->set.defer ? rondo__hook_event_wait(h, event_of(event), poll) : h->ops->event_wait(h->dev, event, poll);
}

static int event_query(struct rondo_device *dev, struct rondo_event *event)
{
    struct rondo__hook_device *h = rondo__hook_device_of(dev);
    return h->set.defer ? rondo__hook_event_query(h, event_of(event)) : h->ops->event_query(h->dev, event);
}

static int sync_streams(struct rondo_device *dev)
{
    struct rondo__hook_device *h = rondo__hook_device_of(dev);
    return h->set.defer ? rondo__hook_sync(h) : h->ops->sync(h->dev);
}

/* ---- memory ---- */

static int memory_new(struct rondo_device *dev, int kind, size_t bytes, void **out)
{
    return rondo__hook_memory_new(rondo__hook_device_of(dev), kind, bytes, out);
}

static void memory_free(struct rondo_device *dev, int kind, void *memory, size_t bytes)
{
    struct rondo__hook_device *h = rondo__hook_device_of(dev);
    rondo__hook_drain(h);
    rondo__hook_memory_free(h, kind, memory, bytes);
}

static int memory_kind(const struct rondo_device *dev, const void *memory)
{
    return rondo__hook_memory_kind(rondo__hook_device_const(dev), memory);
}

/* Bytes that rows between strides reach over; -1: more than can be. */
static int64_t reach(size_t stride, size_t row_bytes, int64_t rows)
{
    size_t bytes;
    if (rows <= 0 || !row_bytes)
        return 0;
    return rondo__mul((size_t)(rows - 1), stride, &bytes) && rondo__add(bytes, row_bytes, &bytes) && bytes <= PTRDIFF_MAX ? (int64_t)bytes : -1;
}

static int copy_rows(struct rondo_device *dev, struct rondo_stream *stream, void *to, size_t to_stride, const void *from, size_t from_stride,
                     size_t row_bytes, int64_t rows)
{
    struct rondo__hook_device *h = rondo__hook_device_of(dev);
    struct rondo__hook_call call = { .kind = RONDO_HOOK_COPY_ROWS };
    const int64_t to_bytes = reach(to_stride, row_bytes, rows), from_bytes = reach(from_stride, row_bytes, rows);
    void *real;
    if (to_bytes < 0 || from_bytes < 0)
        return rondo__fail(RONDO_EDEVICE, "copy_rows: %lld rows reach beyond memory", (long long)rows);
    if (!to_bytes)
        return 0;
    int err = rondo__hook_any(h, "copy_rows", "to", to, to_bytes, &call.as.copy.to, &call.host);
    if (!err)
        err = rondo__hook_any(h, "copy_rows", "from", from, from_bytes, &real, &call.host);
    if (err)
        return err;
    call.as.copy.from = real;
    call.as.copy.to_stride = to_stride;
    call.as.copy.from_stride = from_stride;
    call.as.copy.bytes = row_bytes;
    call.as.copy.rows = rows;
    if (h->set.count)
        add(h, RONDO_HOOK_COUNT_COPY, 0.0, 2.0 * (double)row_bytes * (double)rows);
    return rondo__hook_put(h, stream, &call, NULL);
}

static int copy(struct rondo_device *dev, struct rondo_stream *stream, void *to, const void *from, size_t bytes)
{
    struct rondo__hook_device *h = rondo__hook_device_of(dev);
    struct rondo__hook_call call = { .kind = RONDO_HOOK_COPY };
    void *real;
    if (!bytes)
        return 0;
    if (bytes > PTRDIFF_MAX)
        return rondo__fail(RONDO_EDEVICE, "copy: %zu bytes reach beyond memory", bytes);
    int err = rondo__hook_any(h, "copy", "to", to, (int64_t)bytes, &call.as.copy.to, &call.host);
    if (!err)
        err = rondo__hook_any(h, "copy", "from", from, (int64_t)bytes, &real, &call.host);
    if (err)
        return err;
    call.as.copy.from = real;
    call.as.copy.bytes = bytes;
    if (h->set.count)
        add(h, RONDO_HOOK_COUNT_COPY, 0.0, 2.0 * (double)bytes);
    return rondo__hook_put(h, stream, &call, NULL);
}

/* ---- attention ---- */

static int program_new(struct rondo_device *dev, struct rondo_program **out, const struct rondo_program_desc *desc)
{
    return rondo__hook_program_new(rondo__hook_device_of(dev), out, desc);
}

static int program_update(struct rondo_device *dev, struct rondo_program *program, const struct rondo_program_desc *desc)
{
    return rondo__hook_program_update(rondo__hook_device_of(dev), program, desc);
}

static void program_free(struct rondo_device *dev, struct rondo_program *program)
{
    rondo__hook_program_free(rondo__hook_device_of(dev), program);
}

static int attention(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_program *program,
                     const struct rondo_attention_run *run, const struct rondo_poll *poll)
{
    return rondo__hook_attention(rondo__hook_device_of(dev), stream, program, run, poll);
}

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
    add(h, RONDO_HOOK_COUNT_LINEAR, 2.0 * rows * in * out,
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
        add(h, RONDO_HOOK_COUNT_LINEAR, sums * ((double)join->count - 1.0 + again + with),
                  (sums * ((double)join->count + 1.0 + again) + with * (double)join->out) * sizeof(float));
    }
    return rondo__hook_put(h, stream, &call, NULL);
}

/* ---- element by element ---- */

/* FLOPs an element, where an exponential, a root or a division is one. */
static void count_elements(struct rondo__hook_device *h, double elements, double flops, double bytes)
{
    if (h->set.count)
        add(h, RONDO_HOOK_COUNT_ELEMENTWISE, elements * flops, elements * bytes);
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

static int swiglu(struct rondo_device *dev, struct rondo_stream *stream, int64_t count, const float *gate, const float *up, float *y)
{
    struct rondo__hook_device *h = rondo__hook_device_of(dev);
    struct rondo__hook_call call = { .kind = RONDO_HOOK_SWIGLU, .as.swiglu.count = count };
    const int64_t bytes = rows_bytes(1, 0, count);
    void *in, *second, *out;
    int err = rondo__hook_own(h, "swiglu", "gate", gate, 0, bytes, &in);
    if (!err)
        err = rondo__hook_own(h, "swiglu", "up", up, 0, bytes, &second);
    if (!err)
        err = rondo__hook_own(h, "swiglu", "y", y, 0, bytes, &out);
    if (err)
        return err;
    call.as.swiglu.gate = in;
    call.as.swiglu.up = second;
    call.as.swiglu.y = out;
    count_elements(h, (double)count, 4.0, 12.0);
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
    int err = rondo__hook_own(h, "convert_rows", "from", from, 0, reach(from_stride, from_row, rows), &in);
    if (!err)
        err = rondo__hook_own(h, "convert_rows", "to", to, 0, reach(to_stride, to_row, rows), &out);
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
        add(h, RONDO_HOOK_COUNT_LINEAR, 2.0 * rows * in * out,
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
        add(h, RONDO_HOOK_COUNT_LINEAR, (double)steps * each,
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

/* ---- the table: one for each device beneath and each kind of memory, as linear layers are known by theirs ---- */

#define TABLES 16
static struct {
    const struct rondo_device_ops *inner;
    struct rondo_device_ops ops;
    bool space;
} tables[TABLES];
static atomic_flag tables_busy = ATOMIC_FLAG_INIT;

static void detach(struct rondo_device *dev);

static void fill(struct rondo_device_ops *t, const struct rondo_device_ops *ops, bool space)
{
    *t = (struct rondo_device_ops){
        .size = sizeof *t, .abi = RONDO_DEVICE_ABI, .name = ops->name, .arithmetics = ops->arithmetics, .levels = ops->levels,
        .operations = ops->operations, .unified = ops->unified && !space, .probe = ops->probe, .isa = ops->isa, .attach = ops->attach,
        .detach = detach, .isa_used = isa_used, .threads_used = threads_used, .check = check, .stream_new = stream_new,
        .stream_free = stream_free, .event_new = event_new, .event_free = event_free, .event_record = event_record,
        .stream_wait = stream_wait, .event_wait = event_wait, .event_query = event_query, .sync = sync_streams, .memory_new = memory_new,
        .memory_free = memory_free, .memory_kind = memory_kind, .copy = copy, .copy_rows = copy_rows, .program_new = program_new,
        .program_free = program_free, .program_scratch = program_scratch, .attention = attention,
    };
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
    WRAP(linear_format);
    WRAP(program_update);
    WRAP(linear_dx);
    WRAP(token_sum);
    WRAP(rmsnorm_dx);
    WRAP(rope_back);
    WRAP(swiglu_dx);
#undef WRAP
#define WRAP(slot) t->slot = RONDO_HAS(ops, slot) ? rondo__hook_##slot : NULL
    WRAP(backward_new);
    WRAP(backward_free);
    WRAP(backward_scratch);
    WRAP(backward);
    WRAP(backward_sums);
    WRAP(backward_sinks);
    if (RONDO_HAS(ops, delta) && RONDO_HAS(ops, delta_fold)) {
        t->delta = rondo__hook_delta;
        t->delta_fold = rondo__hook_delta_fold;
    }
#undef WRAP
}

/* NULL: more devices than any test has. */
static const struct rondo_device_ops *table_of(const struct rondo_device_ops *ops, bool space)
{
    int i = 0;
    while (atomic_flag_test_and_set(&tables_busy)) {   /* contexts are opened by many threads at once */
    }
    while (i < TABLES && tables[i].inner && (tables[i].inner != ops || tables[i].space != space))
        i++;
    if (i < TABLES && !tables[i].inner) {
        fill(&tables[i].ops, ops, space);
        tables[i].space = space;
        tables[i].inner = ops;
    }
    atomic_flag_clear(&tables_busy);
    return i < TABLES ? &tables[i].ops : NULL;
}

/* ---- wrapping ---- */

static void tell(const struct rondo__hook_device *h)
{
    static const char *const names[RONDO_HOOK_COUNTED] = { "attention", "linear", "elementwise", "copies" };
    for (int i = 0; i < RONDO_HOOK_COUNTED; i++)
        if (h->counts.of[i].calls)
            rondo__log(RONDO_LOG_DEBUG, "the test hook counted on device %s: %s: %llu calls, %.0f FLOPs, %.0f bytes", h->ops->name, names[i],
                       (unsigned long long)h->counts.of[i].calls, h->counts.of[i].flops, h->counts.of[i].bytes);
}

static void end(struct rondo__hook_device *h)
{
    rondo__hook_defer_end(h);
    rondo__hook_space_end(h);
    rondo__free(h->scratch);
    rondo__free(h);
}

static void detach(struct rondo_device *dev)
{
    struct rondo__hook_device *h = rondo__hook_device_of(dev);
    const struct rondo_device_ops *ops = h->ops;
    struct rondo_device *inner = h->dev;
    if (h->set.count)
        tell(h);
    end(h);
    ops->detach(inner);
}

int rondo__hook_wrap_device(const char *spec, const struct rondo_device_ops **ops, struct rondo_device **dev)
{
    struct rondo__hook_settings set;
    int err = rondo__hook_parse(&set, spec);
    if (err || !(set.count || set.space || set.defer))
        return err;
    if (set.space && !(*ops)->unified)
        return rondo__fail(RONDO_ENOTSUP, "RONDO_TEST_HOOK has space, which gives a device that computes on host memory some of its own; device %s "
                           "has it", (*ops)->name);
    const struct rondo_device_ops *table = table_of(*ops, set.space);
    struct rondo__hook_device *h = table ? rondo__alloc_zero(1, sizeof *h) : NULL;
    if (!h)
        return rondo__fail(RONDO_ENOMEM, "no memory for the test hook's device");
    h->ops = *ops;
    h->dev = *dev;
    h->set = set;
    err = rondo__hook_defer_begin(h);
    if (err) {
        end(h);
        return err;
    }
    *ops = table;
    *dev = (struct rondo_device *)(void *)h;
    return 0;
}

const struct rondo__hook_counts *rondo__hook_counts(const rondo_context *ctx)
{
    return rondo__ops(ctx)->detach == detach ? &rondo__hook_device_of(rondo__dev(ctx))->counts : NULL;
}
