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
    case RONDO_HOOK_BACKWARD_JOIN:
        return ops->backward_join(dev, c->stream, c->as.backward.backward, c->as.backward.run, poll);
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
    case RONDO_HOOK_SIGMOID_MUL:
        return ops->sigmoid_mul(dev, c->stream, c->as.swiglu.count, c->as.swiglu.gate, c->as.swiglu.up, c->as.swiglu.y);
    case RONDO_HOOK_SHORT_CONV:
        return ops->short_conv(dev, c->stream, &c->as.conv);
    case RONDO_HOOK_CONVERT:
        return ops->convert(dev, c->stream, c->as.convert.count, c->as.convert.from_type, c->as.convert.from, c->as.convert.to_type,
                            c->as.convert.to);
    case RONDO_HOOK_DELTA:
        return ops->delta(dev, c->stream, &c->as.delta, poll);
    case RONDO_HOOK_DELTA_BACKWARD:
        return ops->delta_backward(dev, c->stream, &c->as.delta_backward, poll);
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
    case RONDO_HOOK_CROSS_ENTROPY:
        return ops->cross_entropy(dev, c->stream, &c->as.entropy, poll);
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

void rondo__hook_count(struct rondo__hook_device *h, int what, double flops, double bytes)
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
int64_t rondo__hook_reach(size_t stride, size_t row_bytes, int64_t rows)
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
    const int64_t to_bytes = rondo__hook_reach(to_stride, row_bytes, rows), from_bytes = rondo__hook_reach(from_stride, row_bytes, rows);
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
        rondo__hook_count(h, RONDO_HOOK_COUNT_COPY, 0.0, 2.0 * (double)row_bytes * (double)rows);
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
        rondo__hook_count(h, RONDO_HOOK_COUNT_COPY, 0.0, 2.0 * (double)bytes);
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

/* Streams that run late have no handle that says so to others. */
static int stream_handle(struct rondo_device *dev, struct rondo_stream *stream, void **out)
{
    struct rondo__hook_device *h = rondo__hook_device_of(dev);
    return h->set.defer ? rondo__fail(RONDO_ENOTSUP, "RONDO_TEST_HOOK has defer, whose streams are not those of device %s", h->ops->name)
                        : h->ops->stream_handle(h->dev, stream, out);
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
    WRAP(linear_format);
    WRAP(program_update);
    WRAP(stream_handle);
#undef WRAP
#define WRAP(slot) t->slot = RONDO_HAS(ops, slot) ? rondo__hook_##slot : NULL
    WRAP(backward_new);
    WRAP(backward_free);
    WRAP(backward_scratch);
    WRAP(backward);
    WRAP(backward_join);
    WRAP(backward_sums);
    WRAP(backward_sinks);
    if (RONDO_HAS(ops, delta) && RONDO_HAS(ops, delta_fold)) {
        t->delta = rondo__hook_delta;
        t->delta_fold = rondo__hook_delta_fold;
    }
    if (RONDO_HAS(ops, delta_backward))
        t->delta_backward = rondo__hook_delta_backward;
#undef WRAP
    rondo__hook_layers(t, ops);
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
