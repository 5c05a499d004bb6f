/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The executor: walks over the list of operations, binds buffers to memory, and hands each operation to the device's stream or to the
 * transport, which both go on by themselves; the host waits only where an operation must not begin before another one is over and no
 * stream can be told to wait for it. Called by whatever is executed as a schedule: attention and its gradients, the delta rule and its own,
 * tensor parallelism.
 *
 * On the device all goes through one stream, in the order of the list. A transfer that the endpoint serves begins once the host has seen that
 * what it waits for is over; where the transport has a data plane it goes into a second stream, and the two wait for each other by events.
 */
#include "schedule/runner.h"

/* ---- made once ---- */

int rondo__runner_no_memory(void)
{
    return rondo__fail(RONDO_ENOMEM, "no memory for the state of an execution");
}

/* Events are kept: they are over when a schedule is. */
int rondo__runner_event(struct rondo__runner *r, struct rondo_event **out)
{
    if (r->events_used == r->events.count) {
        struct rondo_event **event = rondo__list_add(&r->events, sizeof *event, 1);
        int err = event ? rondo__ops(r->ctx)->event_new(rondo__dev(r->ctx), event) : rondo__runner_no_memory();
        if (err) {
            r->events.count -= event != NULL;
            return err;
        }
    }
    *out = ((struct rondo_event **)r->events.items)[r->events_used++];
    return 0;
}

static int make_events(struct rondo__runner *r)
{
    const struct rondo__schedule *s = r->schedule;
    const int32_t *waits = s->waits.items;
    const bool plane = r->ctx->data != NULL;
    int err = 0;
    r->events_used = 0;
    for (int64_t i = 0; i < s->operations.count && !err; i++) {
        const struct rondo__operation *o = rondo__operation_at(s, i);
        for (int32_t j = 0; j < o->waits && !err; j++) {
            const int32_t w = waits[o->waits_first + j];
            const struct rondo__operation *before = rondo__operation_at(s, w);
            const bool asked = rondo__operation_on_stream(before) ? !rondo__operation_on_stream(o) : plane && before->kind == RONDO_TRANSFER;
            if (asked && !r->event[w])
                err = rondo__runner_event(r, &r->event[w]);
        }
    }
    if (!err)
        err = rondo__runner_event(r, &r->end);
    if (!err && plane && !r->wire)
        err = rondo__ops(r->ctx)->stream_new(rondo__dev(r->ctx), &r->wire);
    return err;
}

/* Bytes of an item of each of r->memory, in the order of make_lists(). */
static const size_t list_items[RONDO_RUNNER_LISTS] = {
    2 * sizeof(uint8_t), sizeof(struct rondo_event *) + sizeof(struct rondo__transfer *) + sizeof(double), sizeof(struct rondo_work), sizeof(void *),
    sizeof(int32_t), sizeof(struct rondo__transfer), sizeof(struct rondo_part), sizeof(struct rondo_kv_part), sizeof(float *), 2 * sizeof(int64_t),
};

/* All 0. */
static bool make_lists(struct rondo__runner *r)
{
    const struct rondo__schedule *s = r->schedule;
    const int64_t operations = s->operations.count, buffers = s->buffers.count;
    int64_t transfers = 0, sources = 0, nodes = 0;
    for (int64_t i = 0; i < operations; i++) {
        const struct rondo__operation *o = rondo__operation_at(s, i);
        transfers += o->kind == RONDO_TRANSFER;
        sources = o->sources > sources ? o->sources : sources;
        nodes = o->nodes > nodes ? o->nodes : nodes;
    }
    const int64_t counts[RONDO_RUNNER_LISTS] = { operations, operations, operations, buffers, buffers, transfers, s->parts.count, sources, nodes,
                                                 r->desc->terms.bias || r->programs > 1 ? r->sequences : 0 };
    void *at[RONDO_RUNNER_LISTS];
    for (int i = 0; i < RONDO_RUNNER_LISTS; i++) {
        if (r->times && !rondo__list_ready(&r->memory[i], list_items[i], r->times == 1))
            return false;
        at[i] = rondo__list_set(&r->memory[i], list_items[i], counts[i]);
        if (!at[i])
            return false;
        memset(at[i], 0, list_items[i] * (size_t)counts[i]);
    }
    r->state = at[0];
    r->elided = r->state + operations;
    r->event = at[1];
    r->transfer = (struct rondo__transfer **)(void *)(r->event + operations);
    r->cost = (double *)(void *)(r->transfer + operations);
    r->work = at[2];
    r->place = at[3];
    r->own = at[4];
    r->transfers = at[5];
    r->parts = at[6];
    r->kv = at[7];
    r->nodes = at[8];
    r->bias_row = at[9];
    r->probs_row = r->bias_row + r->sequences;
    transfers = 0;
    for (int64_t i = 0; i < operations; i++)
        if (rondo__operation_at(s, i)->kind == RONDO_TRANSFER)
            r->transfer[i] = r->transfers + transfers++;
    return true;
}

static int make_program(struct rondo__runner *r, int32_t i)
{
    const struct rondo_device_ops *ops = rondo__ops(r->ctx);
    struct rondo_device *dev = rondo__dev(r->ctx);
    if (r->program[i] && RONDO_HAS(ops, program_update))
        return ops->program_update(dev, r->program[i], &r->desc[i]);
    if (r->program[i])
        ops->program_free(dev, r->program[i]);
    r->program[i] = NULL;
    return ops->program_new(dev, &r->program[i], &r->desc[i]);
}

int rondo__runner_make(struct rondo__runner **runner, rondo_context *ctx, const struct rondo__schedule *schedule,
                       const struct rondo_program_desc *programs, int32_t count, int64_t sequences)
{
    const bool again = *runner != NULL;
    struct rondo__runner *r = again ? *runner : rondo__alloc_zero(1, sizeof *r);
    *runner = r;
    if (!r)
        return rondo__runner_no_memory();
    r->ctx = ctx;
    r->times += again && r->times < 2;
    r->schedule = schedule;
    if (count)
        memcpy(r->desc, programs, (size_t)count * sizeof *programs);
    r->programs = count;
    r->sequences = sequences;
    r->all = 0.0;
    memset(r->packed, 0, sizeof r->packed);
    for (int64_t i = 0; i < r->taken.count; i++)
        ((struct taken *)r->taken.items)[i].buffer = -1;
    int err = make_lists(r) ? make_events(r) : rondo__runner_no_memory();
    for (int32_t i = 0; i < count && !err; i++)
        err = make_program(r, i);
    if (err) {
        rondo__runner_free(r);
        *runner = NULL;
    }
    return err;
}

int rondo__runner_rest(const struct rondo__runner *r)
{
    return r ? rondo__settle(r->ctx, 0) : 0;
}

void rondo__runner_free(struct rondo__runner *r)
{
    if (!r)
        return;
    const struct rondo_device_ops *ops = rondo__ops(r->ctx);
    struct rondo_device *dev = rondo__dev(r->ctx);
    for (int64_t i = 0; i < r->events.count; i++)
        ops->event_free(dev, ((struct rondo_event **)r->events.items)[i]);
    for (int64_t i = 0; i < r->taken.count; i++) {
        const struct taken *t = (const struct taken *)r->taken.items + i;
        if (t->memory)
            ops->memory_free(dev, t->kind, t->memory, t->bytes);
    }
    for (int kind = 0; kind < 3; kind++)
        if (r->workspace[kind])
            ops->memory_free(dev, kind, r->workspace[kind], r->workspace_room[kind]);
    if (r->wire)
        ops->stream_free(dev, r->wire);
    for (int i = 0; i < 2; i++)
        if (r->program[i])
            ops->program_free(dev, r->program[i]);
    for (int i = 0; i < RONDO_TENSORS; i++)
        rondo__list_free(&r->packed_memory[i]);
    for (int i = 0; i < RONDO_RUNNER_LISTS; i++)
        rondo__list_free(&r->memory[i]);
    rondo__list_free(&r->events);
    rondo__list_free(&r->taken);
    rondo__free(r);
}

size_t rondo__runner_scratch(const struct rondo__runner *r)
{
    size_t most = 0;
    for (int32_t i = 0; i < r->programs; i++) {   /* one after the other */
        const size_t bytes = rondo__ops(r->ctx)->program_scratch(rondo__dev(r->ctx), r->program[i]);
        most = bytes > most ? bytes : most;
    }
    return most;
}

size_t rondo__runner_bytes(const struct rondo__runner *r)
{
    size_t bytes = sizeof *r + rondo__list_bytes(&r->events, sizeof(struct rondo_event *)) + rondo__list_bytes(&r->taken, sizeof(struct taken));
    for (int i = 0; i < RONDO_RUNNER_LISTS; i++)
        bytes += rondo__list_bytes(&r->memory[i], list_items[i]);
    return bytes;
}

/* ---- how far it has come ---- */

/* The caller's function is called at least so often while somebody polls, also where nothing has got on: it may want to stop. Seconds. */
#define BEAT 0.05

static double cost_of(const struct rondo__runner *r, const struct rondo__operation *o)
{
    double cost = 0.0;
    if (o->program < 0)   /* no attention: what takes the time is one of its functions */
        return r->given->cost ? r->given->cost(r->given->arg, o) : o->first == r->given->longest ? 1.0 : 0.0;
    for (int64_t i = 0; i < o->count; i++) {
        const struct rondo_program_desc *d = r->desc + o->program;
        const struct rondo_job *job = d->jobs + o->first + i;
        double keys = 1.0;
        for (int32_t j = 0; j < job->leaves; j++)
            keys += (double)d->leaves[job->leaves_first + j].count;
        cost += (double)job->q_rows * keys;
    }
    return cost;
}

static int weigh(struct rondo__runner *r)
{
    r->before = r->told = r->told_at = 0.0;
    r->begun = r->over = 0;
    if (!r->given->progress)
        return 0;
    memset(r->work, 0, (size_t)r->schedule->operations.count * sizeof *r->work);
    if (r->all > 0.0)
        return 0;
    int err = 0;
    for (int64_t i = 0; i < r->schedule->operations.count && !err; i++) {
        const struct rondo__operation *o = rondo__operation_at(r->schedule, i);
        if (o->kind == RONDO_COMPUTE && !r->event[i])
            err = rondo__runner_event(r, &r->event[i]);
    }
    for (int64_t i = 0; i < r->schedule->operations.count && !err; i++) {
        const struct rondo__operation *o = rondo__operation_at(r->schedule, i);
        r->cost[i] = o->kind == RONDO_COMPUTE ? cost_of(r, o) : 0.0;
        r->all += r->cost[i];
    }
    return err;
}

static int tell(struct rondo__runner *r, double done)
{
    const double now = rondo__now();
    if (done <= r->told && now < r->told_at + BEAT)
        return 0;
    r->told = done > r->told ? done : r->told;
    r->told_at = now;
    if (r->given->progress(r->given->user, r->told < 1.0 ? r->told : 1.0))
        return rondo__fail(RONDO_ECANCELED, "%s: the caller's progress function asked to stop", r->given->function);
    return 0;
}

/* Computations that are over by now, in the order of the list, and of the next one as much as is done. */
static int look(struct rondo__runner *r)
{
    if (!r->given->progress)
        return 0;
    for (; r->over < r->begun; r->over++) {
        const struct rondo__operation *o = rondo__operation_at(r->schedule, r->over);
        if (o->kind != RONDO_COMPUTE)
            continue;
        int found = rondo__ops(r->ctx)->event_query(rondo__dev(r->ctx), r->event[r->over]);
        if (found < 0)
            return found;
        if (!found)
            break;
        r->before += r->all > 0.0 ? r->cost[r->over] / r->all : 0.0;
    }
    if (r->over == r->schedule->operations.count || !r->work[r->over].total)
        return tell(r, r->before);
    const double part = (double)r->work[r->over].done / (double)r->work[r->over].total;
    return tell(r, r->before + r->cost[r->over] / r->all * (part < 1.0 ? part : 1.0));
}

static int poll_and_tell(void *arg)
{
    struct rondo__runner *r = arg;
    int err = rondo__poll(r->ctx);
    return err ? err : look(r);
}

/* What the host does while it waits for the device, or the device lets it; NULL: nothing. */
static const struct rondo_poll *meanwhile(struct rondo__runner *r, struct rondo_poll *poll, struct rondo_work *work)
{
    *poll = (struct rondo_poll){ poll_and_tell, r, work };
    return r->ctx->ranks > 1 || r->given->progress ? poll : NULL;
}

/* Until the stream has come to here. */
static int wait_behind(struct rondo__runner *r, struct rondo_stream *stream)
{
    const struct rondo_device_ops *ops = rondo__ops(r->ctx);
    struct rondo_poll poll;
    int err = ops->event_record(rondo__dev(r->ctx), stream, r->end);
    return err ? err : ops->event_wait(rondo__dev(r->ctx), r->end, meanwhile(r, &poll, NULL));
}

/* The host waits until the device is through with all that it was given. Copies from and to memory that is not pinned may hold the host up
 * inside the device: before them it waits here, where it lets transfers go on. */
static int catch_up(struct rondo__runner *r) { return wait_behind(r, NULL); }

/* ---- operations ---- */

/* Rows x heads of dim elements, between two places with strides of elements. */
static int copy_heads(struct rondo__runner *r, char *to, int64_t to_row, int64_t to_head, const char *from, int64_t from_row, int64_t from_head,
                      int64_t heads, int64_t dim, size_t element, int64_t rows)
{
    const struct rondo_device_ops *ops = rondo__ops(r->ctx);
    const size_t one = (size_t)dim * element;
    const bool together = heads == 1 || (to_head == dim && from_head == dim);
    int err = 0;
    for (int64_t h = 0; h < (together ? 1 : heads) && !err; h++)
        err = ops->copy_rows(rondo__dev(r->ctx), NULL, to + (size_t)(h * to_head) * element, (size_t)to_row * element,
                             from + (size_t)(h * from_head) * element, (size_t)from_row * element, together ? (size_t)heads * one : one, rows);
    return err;
}

/* As rondo__trace_step() takes it. */
static int32_t traced_group(const struct rondo__runner *r, const struct rondo__operation *o)
{
    return r->schedule->groups > 1 ? o->group + 1 : 0;
}

/* What the device was given besides computing. */
static void trace_rows(const struct rondo__runner *r, const struct rondo__operation *o, const char *name, double begin)
{
    const struct rondo__use *use = (const struct rondo__use *)r->schedule->uses.items + o->uses_first;
    uint64_t bytes = 0;
    for (int32_t i = 0; i < o->uses && o->kind == RONDO_PACK; i++)
        bytes += use[i].writes ? use[i].bytes : 0;
    rondo__trace_step(r->ctx, name, o->step, traced_group(r, o), begin, -1, bytes);
}

/* From one buffer to another, perhaps to itself: then it is there. */
static int copy_plain(struct rondo__runner *r, const struct rondo__copy *c)
{
    char *to = (char *)r->place[c->to] + c->to_at;
    const char *from = (const char *)r->place[c->from] + c->from_at;
    if (to == from)
        return 0;
    if (c->row_bytes)
        return rondo__ops(r->ctx)->copy_rows(rondo__dev(r->ctx), NULL, to, c->to_stride, from, c->from_stride, c->row_bytes, c->rows);
    return rondo__ops(r->ctx)->copy(rondo__dev(r->ctx), NULL, to, from, (size_t)c->rows);
}

static int pack(struct rondo__runner *r, int64_t index, const struct rondo__operation *o)
{
    const struct rondo__schedule *s = r->schedule;
    const struct rondo__copy *copies = (const struct rondo__copy *)s->copies.items + o->first;
    int err = 0;
    if (o->count && r->elided[index]) {
        if (rondo__buffer_at(s, copies->to)->tensor < 0)
            r->place[copies->to] = rondo__row_serves(r, o);
        return 0;
    }
    if (o->count && o->elides && rondo__buffer_at(s, copies->to)->tensor < 0) {
        const struct rondo__buffer *to = rondo__buffer_at(s, copies->to);
        if (to->spare)
            r->place[copies->to] = ((const struct taken *)r->taken.items)[r->own[copies->to] - 1].memory;
    }
    if (o->count && (rondo__buffer_at(s, copies->from)->owner == RONDO_OWNER_CALLER || rondo__buffer_at(s, copies->to)->owner == RONDO_OWNER_CALLER))
        err = catch_up(r);
    for (int64_t i = 0; i < o->count && !err; i++) {
        const struct rondo__copy *c = copies + i;
        const int from = rondo__buffer_at(s, c->from)->tensor, to = rondo__buffer_at(s, c->to)->tensor;
        if (c->sequence < 0) {
            err = copy_plain(r, c);
            continue;
        }
        const struct view *a = from < 0 ? NULL : rondo__buffer_at(s, c->from)->owner == RONDO_OWNER_CALLER ? r->outside + from : r->view + from;
        const struct view *b = to < 0 ? NULL : rondo__buffer_at(s, c->to)->owner == RONDO_OWNER_CALLER ? r->outside + to : r->view + to;
        if ((a && !a->data) || (b && !r->outside[to].data))
            continue;
        if (a && b) {
            err = copy_heads(r, rondo__row_at(b, c->sequence, c->row, 0), b->row_stride, b->head_stride, rondo__row_at(a, c->sequence, c->row, 0),
                             a->row_stride, a->head_stride, a->heads, c->columns ? c->columns : a->dim, a->element, c->rows);
            continue;
        }
        const struct view *v = a ? a : b;
        int64_t head;
        const int64_t heads = rondo__copy_heads_of(r, o, c, v, &head), dense = heads * v->dim;
        char *at = rondo__row_at(v, c->sequence, c->row, head);
        err = a ? copy_heads(r, (char *)r->place[c->to] + c->to_at, dense, v->dim, at, v->row_stride, v->head_stride, heads, v->dim, v->element,
                             c->rows)
                : copy_heads(r, at, v->row_stride, v->head_stride, (const char *)r->place[c->from] + c->from_at, dense, v->dim, heads, v->dim,
                             v->element, c->rows);
    }
    return err;
}

/* What a computation sees of a buffer: a tensor's heads from `head` on, or dense rows of `heads`. */
static struct rondo_rows rows_of(const struct rondo__runner *r, int32_t buffer, int64_t head, int64_t heads, int64_t dim)
{
    struct rondo_rows rows = { NULL, heads * dim, dim };
    if (buffer < 0)
        return rows;
    const int tensor = rondo__buffer_at(r->schedule, buffer)->tensor;
    if (tensor < 0) {
        rows.data = r->place[buffer];
        return rows;
    }
    const struct view *v = r->view + tensor;
    rows.row_stride = v->row_stride;
    rows.head_stride = v->head_stride;
    rows.data = v->data ? v->data + (size_t)(head * v->head_stride) * v->element : NULL;
    return rows;
}

static const int64_t *row_list(const struct rondo__runner *r, int32_t buffer)
{
    const int tensor = buffer < 0 ? -1 : rondo__buffer_at(r->schedule, buffer)->tensor;
    return tensor < 0 ? NULL : r->view[tensor].rows;
}

/* What scores are made of besides q and k. */
static void set_terms(const struct rondo__runner *r, const struct rondo__operation *o, struct rondo_attention_run *run)
{
    const struct view *bias = r->view + RONDO_TENSOR_BIAS;
    run->head = o->head;
    run->alibi = (const float *)(const void *)r->view[RONDO_TENSOR_ALIBI].data;
    run->sinks = (const float *)(const void *)r->view[RONDO_TENSOR_SINKS].data;
    run->bias = (struct rondo_rows){ bias->data, bias->row_stride, bias->heads == 1 ? 0 : bias->head_stride };
    run->bias_row = r->desc->terms.bias ? r->bias_row : NULL;   /* else it is empty */
    run->bias_key = r->desc->terms.bias ? bias->keys : NULL;
    run->seed = r->given->seed;
}

/* What OUT leaves for probabilities, and where these go. */
static void set_probs(const struct rondo__runner *r, const struct rondo__operation *o, struct rondo_attention_run *run)
{
    const struct view *probs = r->view + RONDO_TENSOR_PROBS;
    run->stats = rows_of(r, o->stats, o->head, r->desc[o->program].heads, 2);
    run->stats_row = row_list(r, o->stats);
    if (!o->program)
        return;
    run->probs = (struct rondo_rows){ probs->data ? probs->data + (size_t)(o->head * probs->head_stride) * probs->element : NULL,
                                      probs->row_stride, probs->head_stride };
    run->probs_row = r->probs_row;
    run->probs_key = probs->keys;
}

static int compute(struct rondo__runner *r, int64_t index, const struct rondo__operation *o)
{
    const struct rondo__schedule *s = r->schedule;
    const struct rondo__source *sources = (const struct rondo__source *)s->sources.items + o->sources_first;
    const int32_t *nodes = (const int32_t *)s->nodes.items + o->nodes_first;
    const struct rondo_program_desc *d = r->desc + o->program;
    struct rondo_attention_run run = { .first = o->first, .count = o->count, .kv = r->kv, .kv_count = o->sources, .nodes = r->nodes,
                                       .node_count = o->nodes };
    run.q = rows_of(r, o->q, o->head, d->heads, d->head_dim);
    run.q_row = row_list(r, o->q);
    run.out = rows_of(r, o->out, o->head, d->heads, d->value_dim);
    run.out_row = row_list(r, o->out);
    run.lse = rows_of(r, o->lse, o->head, d->heads, 1);
    run.lse_row = row_list(r, o->lse);
    for (int32_t i = 0; i < o->sources; i++) {
        r->kv[i] = (struct rondo_kv_part){ .k = rows_of(r, sources[i].k, o->kv_head, d->kv_heads, rondo__row_numbers(d->kv_type, d->head_dim)),
                                           .v = rows_of(r, sources[i].v, o->kv_head, d->kv_heads, rondo__row_numbers(d->kv_type, d->value_dim)),
                                           .kv_row = row_list(r, sources[i].k) };
        if (sources[i].v < 0)   /* it lies in k */
            r->kv[i].v = r->kv[i].k;
    }
    set_terms(r, o, &run);
    set_probs(r, o, &run);
    for (int32_t i = 0; i < o->nodes; i++)
        r->nodes[i] = nodes[i] < 0 ? NULL : r->place[nodes[i]];
    struct rondo_poll poll;
    double begin = rondo__now();
    rondo__computing(r->ctx, true);
    int err = rondo__ops(r->ctx)->attention(rondo__dev(r->ctx), NULL, r->program[o->program], &run,
                                            meanwhile(r, &poll, r->given->progress ? r->work + index : NULL));
    rondo__computing(r->ctx, false);
    rondo__trace_step(r->ctx, o->program ? "probabilities" : "attention", o->step, traced_group(r, o), begin, -1, 0);
    return err;
}

/* What is no attention. */
static int call(struct rondo__runner *r, int64_t index, const struct rondo__operation *o)
{
    struct rondo_poll poll;
    const double begin = r->ctx->trace ? rondo__now() : 0.0;
    rondo__computing(r->ctx, true);
    int err = r->given->compute(r->given->arg, o, r->place, meanwhile(r, &poll, r->given->progress ? r->work + index : NULL));
    rondo__computing(r->ctx, false);
    rondo__trace_step(r->ctx, o->step.what, o->step, 0, begin, -1, 0);
    return err;
}

/* Rows of a head, from `to` on: 0. */
static int zero_rows(struct rondo__runner *r, const struct view *v, char *to, int64_t rows)
{
    static const char zeros[4096];
    const size_t row = (size_t)v->dim * v->element;
    int err = 0;
    for (size_t at = 0; at < row && !err; at += sizeof zeros)
        err = rondo__ops(r->ctx)->copy_rows(rondo__dev(r->ctx), NULL, to + at, (size_t)v->row_stride * v->element, zeros, 0,
                                            row - at < sizeof zeros ? row - at : sizeof zeros, rows);
    return err;
}

/* All of some rows of a tensor, from their first column on. */
static int blank_tensor(struct rondo__runner *r, const struct rondo__blank *b)
{
    const struct rondo__buffer *buffer = rondo__buffer_at(r->schedule, b->buffer);
    const struct view *v = (buffer->owner == RONDO_OWNER_CALLER ? r->outside : r->view) + buffer->tensor;
    int err = 0;
    for (int64_t h = 0; h < v->heads && !err; h++)
        err = zero_rows(r, v, v->data + (size_t)((v->rows[b->sequence] + b->row) * v->row_stride + h * v->head_stride) * v->element, b->rows);
    return err;
}

/* Rows that see no key: 0, and -inf for lse. */
static int blank(struct rondo__runner *r, const struct rondo__operation *o)
{
    static const float nothing = -__builtin_inff();
    const struct view *out = r->view + RONDO_TENSOR_OUT, *lse = r->view + RONDO_TENSOR_LSE;
    const struct rondo__blank *b = (const struct rondo__blank *)r->schedule->blanks.items + o->first;
    int err = catch_up(r);
    for (int64_t i = 0; i < o->count && !err; i++)
        if (b[i].buffer >= 0)
            err = blank_tensor(r, b + i);
    for (int64_t i = 0; i < o->count; i++)
        for (int64_t h = 0; h < out->heads && !err && b[i].buffer < 0; h++) {
            err = zero_rows(r, out, rondo__row_at(out, b[i].sequence, b[i].row, h), b[i].rows);
            if (!err && lse->data)
                err = rondo__ops(r->ctx)->copy_rows(rondo__dev(r->ctx), NULL, rondo__row_at(lse, b[i].sequence, b[i].row, h),
                                                    (size_t)lse->row_stride * sizeof(float), &nothing, 0, sizeof nothing, b[i].rows);
        }
    return err;
}

/* ---- waiting ---- */

static int finish(struct rondo__runner *r, int64_t index)
{
    const struct rondo__schedule *s = r->schedule;
    const struct rondo__operation *o = rondo__operation_at(s, index);
    const struct rondo__part *parts = (const struct rondo__part *)s->parts.items + o->first;
    if (r->state[index] == OVER)
        return 0;
    r->state[index] = OVER;
    int err = rondo__transfer_finish(r->ctx, r->transfer[index]);
    int64_t at = o->first;
    for (int64_t i = 0; i < o->count && !err; i++) {
        if (!parts[i].bytes)
            continue;
        if (parts[i].receives && rondo__buffer_at(s, parts[i].buffer)->owner == RONDO_OWNER_PEER)
            memcpy(&r->place[parts[i].buffer], &r->parts[at].where, sizeof(void *));   /* read only, as the checker sees to */
        at++;
    }
    return err;
}

/* What the operation under way must not begin before. */
static int wait_for(struct rondo__runner *r, const struct rondo__operation *o, int32_t earlier)
{
    const struct rondo_device_ops *ops = rondo__ops(r->ctx);
    const struct rondo__operation *e = rondo__operation_at(r->schedule, earlier);
    struct rondo_poll poll;
    const bool plane = r->wire != NULL;
    if (e->kind == RONDO_FENCE)
        return 0;
    if (e->kind == RONDO_TRANSFER && !plane)
        return finish(r, earlier);
    if (plane && o->kind == RONDO_TRANSFER)
        return e->kind == RONDO_TRANSFER ? 0 : ops->stream_wait(rondo__dev(r->ctx), r->wire, r->event[earlier]);
    if (plane && rondo__operation_on_stream(o))
        return ops->stream_wait(rondo__dev(r->ctx), NULL, r->event[earlier]);
    return r->event[earlier] ? ops->event_wait(rondo__dev(r->ctx), r->event[earlier], meanwhile(r, &poll, NULL)) : 0;
}

static int start(struct rondo__runner *r, int64_t index, const struct rondo__operation *o)
{
    const struct rondo__part *parts = (const struct rondo__part *)r->schedule->parts.items + o->first;
    struct rondo_part *mine = r->parts + o->first;
    struct rondo__transfer *t = r->transfer[index];
    int32_t count = 0;
    for (int64_t i = 0; i < o->count; i++)
        if (parts[i].bytes)
            mine[count++] = (struct rondo_part){ .memory = (char *)r->place[parts[i].buffer] + parts[i].at, .bytes = parts[i].bytes,
                                                 .peer = parts[i].peer, .receives = parts[i].receives };
    t->group.parts = mine;
    t->group.count = count;
    t->step = o->step;
    t->operation = o->operation;
    t->head_group = traced_group(r, o);
    if (r->wire) {
        r->state[index] = OVER;
        return rondo__transfer_stream(r->ctx, t, r->wire);
    }
    r->state[index] = UNDER_WAY;
    return rondo__transfer_start(r->ctx, t);
}

static int begin(struct rondo__runner *r, int64_t index)
{
    const struct rondo__operation *o = rondo__operation_at(r->schedule, index);
    const int32_t *waits = (const int32_t *)r->schedule->waits.items + o->waits_first;
    int err = 0;
    for (int32_t i = 0; i < o->waits && !err; i++)
        err = wait_for(r, o, waits[i]);
    if (err)
        return err;
    const double began = r->ctx->trace ? rondo__now() : 0.0;
    switch (o->kind) {
    case RONDO_PACK:
        err = pack(r, index, o);
        if (!err && o->count && !r->elided[index])
            trace_rows(r, o, "pack", began);
        break;
    case RONDO_TRANSFER:
        err = start(r, index, o);
        break;
    case RONDO_COMPUTE:
        err = o->program < 0 ? call(r, index, o) : compute(r, index, o);
        break;
    case RONDO_BLANK:
        err = blank(r, o);
        if (!err)
            trace_rows(r, o, "blank", began);
        break;
    default:
        err = rondo__fence(r->ctx, o->step);
    }
    if (!err && r->event[index])
        err = rondo__ops(r->ctx)->event_record(rondo__dev(r->ctx), o->kind == RONDO_TRANSFER ? r->wire : NULL, r->event[index]);
    r->begun = index + 1;
    return err ? err : look(r);
}

/* Until the device is through, whatever has failed. */
static int drain(struct rondo__runner *r, int err)
{
    struct rondo_poll poll;
    if (!err && (r->wire || meanwhile(r, &poll, NULL)))   /* else there is nothing to do meanwhile, and settling waits */
        err = catch_up(r);
    if (!err && r->wire)              /* what it sends last nothing of its own waits for */
        err = wait_behind(r, r->wire);
    if (err && r->wire)               /* groups in streams, of which some peer may have given up its side, hold nobody up after this */
        err = rondo__collective_failed(r->ctx, err);
    return rondo__settle(r->ctx, err);
}

int rondo__runner_run(struct rondo__runner *r)
{
    const struct rondo__schedule *s = r->schedule;
    int err = weigh(r);
    for (int64_t i = 0; i < s->operations.count && !err; i++)
        err = begin(r, i);
    for (int64_t i = 0; i < s->operations.count && !err; i++)
        if (r->state[i] == UNDER_WAY)
            err = finish(r, i);
    err = drain(r, err);
    if (!err && r->given->progress)
        err = tell(r, 1.0);
    return err;
}
