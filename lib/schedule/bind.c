/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Where the buffers of an execution are: the workspace, the caller's tensors as they lie or as copies on the device, rows that need no packing.
 * All that may fail for want of memory fails here, before a message has moved.
 */
#include "schedule/runner.h"

static struct view view_of(int tensor, const struct rondo__given *given)
{
    const rondo_tensor *t = given->tensor[tensor];
    struct view v = { .data = t->data, .element = rondo_type_size(t->type), .row_stride = t->stride[0], .head_stride = t->stride[1],
                      .dim = tensor == RONDO_TENSOR_LSE ? 1 : rondo__row_numbers(t->type, t->shape[2]), .heads = t->shape[1], .rows = given->rows[tensor],
                      .keys = given->keys[tensor] };
    if (t->dims == 1) {       /* one number for each head */
        v.row_stride = v.heads = t->shape[0];
        v.head_stride = v.dim = 1;
    }
    return v;
}

/* Dense rows, for a tensor of which a copy is on the device; its sequences lie one after another. */
static int packed_view(struct rondo__runner *r, int tensor, char *data)
{
    struct view *v = r->view + tensor;
    const struct rondo__schedule *s = r->schedule;
    int64_t row = 0;
    *v = r->outside[tensor];
    v->data = data;
    v->keys = NULL;
    for (int64_t i = 0, most = 0; i < s->copies.count; i++) {
        const struct rondo__copy *c = (const struct rondo__copy *)s->copies.items + i;
        if (c->columns > most && rondo__buffer_at(s, c->from)->tensor == tensor)
            v->dim = most = c->columns;
    }
    v->head_stride = v->dim;
    v->row_stride = v->heads * v->dim;
    if (!r->packed[tensor]) {
        r->packed[tensor] = rondo__list_set(&r->packed_memory[tensor], sizeof *r->packed[tensor], r->sequences);
        if (!r->packed[tensor])
            return rondo__runner_no_memory();
        memset(r->packed[tensor], 0, (size_t)r->sequences * sizeof *r->packed[tensor]);
        for (int64_t i = 0; i < s->copies.count; i++) {
            const struct rondo__copy *c = (const struct rondo__copy *)s->copies.items + i;
            if (c->sequence < 0 || rondo__buffer_at(s, c->from)->tensor != tensor || rondo__buffer_at(s, c->to)->tensor != tensor)
                continue;
            r->packed[tensor][c->sequence] = row;
            row += c->rows;
        }
    }
    v->rows = r->packed[tensor];
    return 0;
}

/* Where the rows that a PACK would copy lie, if they lie as it would leave them; else NULL. */
char *rondo__row_serves(const struct rondo__runner *r, const struct rondo__operation *o)
{
    const struct rondo__schedule *s = r->schedule;
    const struct rondo__copy *c = (const struct rondo__copy *)s->copies.items + o->first;
    const struct rondo__buffer *to = rondo__buffer_at(s, c->to);
    if (to->home < 0)
        return NULL;
    const int tensor = rondo__buffer_at(s, to->home)->tensor;
    const struct view *v = r->outside + tensor;
    int64_t head;
    const int64_t heads = rondo__copy_heads_of(r, o, c, v, &head);
    /* out may be q: what others still read must not become a result */
    if (tensor == RONDO_TENSOR_Q && r->given->tensor[RONDO_TENSOR_OUT]->data == v->data)
        return NULL;
    if (v->row_stride != heads * v->dim || (heads > 1 && v->head_stride != v->dim))
        return NULL;
    for (int64_t i = 1; i < o->count; i++)
        if (v->rows[c[i].sequence] + c[i].row != v->rows[c[i - 1].sequence] + c[i - 1].row + c[i - 1].rows)
            return NULL;
    return rondo__row_at(v, c->sequence, c->row, head);
}

/* Whether there is too little; or, as a plan that is updated may grow by little each time, nearly, unless it is much; at first there is to be
 * twice as much. */
#define MUCH ((size_t)1 << 20)
static bool is_small(const struct rondo__runner *r, size_t bytes, size_t room)
{
    return bytes > room || (r->times && room && room < MUCH && bytes > (r->times == 1 ? room / 2 : room - room / 5));
}

/* Where there was too little before there is to be some more than enough. */
static int take_memory(struct rondo__runner *r, int kind, size_t bytes, size_t had, void **out, size_t *room)
{
    const size_t spare = bytes < MUCH ? bytes : bytes / 8;
    size_t all = bytes;
    if (had && !rondo__add(bytes, spare, &all))
        all = bytes;
    int err = rondo__ops(r->ctx)->memory_new(rondo__dev(r->ctx), kind, all, out);
    *room = err ? 0 : all;
    return err;
}

static int take_workspace(struct rondo__runner *r, void *workspace)
{
    const struct rondo__schedule *s = r->schedule;
    const struct rondo_device_ops *ops = rondo__ops(r->ctx);
    char *base[3];
    for (int kind = 0; kind < 3; kind++) {
        if (r->given->room) {
            base[kind] = r->given->room[kind];
            continue;
        }
        if ((kind || !workspace) && is_small(r, s->workspace_bytes[kind], r->workspace_room[kind])) {
            const size_t had = r->workspace_room[kind];
            if (had)
                ops->memory_free(rondo__dev(r->ctx), kind, r->workspace[kind], had);
            r->workspace[kind] = NULL;
            r->workspace_room[kind] = 0;
            int err = take_memory(r, kind, s->workspace_bytes[kind], had, &r->workspace[kind], &r->workspace_room[kind]);
            if (err)
                return rondo__fail(err, "%s: no memory for a workspace of %zu bytes", r->given->function, s->workspace_bytes[kind]);
        }
        base[kind] = kind || !workspace ? r->workspace[kind] : workspace;
    }
    for (int64_t i = 0; i < s->buffers.count; i++) {
        const struct rondo__buffer *b = rondo__buffer_at(s, i);
        r->place[i] = b->owner != RONDO_OWNER_CALLER && !b->spare && b->room ? base[b->memory] + b->at : NULL;
        if (b->owner == RONDO_OWNER_CALLER && b->tensor < 0)
            r->place[i] = r->given->caller[i];
    }
    return 0;
}

/* Of what was taken for earlier schedules the smallest that is large enough; else what was too small goes, and there is new one. */
static int find_taken(struct rondo__runner *r, const struct rondo__buffer *b, struct taken **out)
{
    struct taken *all = r->taken.items, *best = NULL, *small = NULL;
    for (int64_t i = 0; i < r->taken.count; i++) {
        struct taken *t = all + i;
        if (t->buffer >= 0 || (t->memory && t->kind != b->memory))
            continue;
        if (t->memory && !is_small(r, b->room, t->bytes) && (!best || t->bytes < best->bytes))
            best = t;
        else if (!t->memory || is_small(r, b->room, t->bytes))
            small = !small || t->bytes > small->bytes ? t : small;
    }
    if (!best && !small) {
        small = rondo__list_add(&r->taken, sizeof *small, 1);
        if (!small)
            return rondo__runner_no_memory();
        *small = (struct taken){ NULL, 0, b->memory, -1 };
    }
    *out = best ? best : small;
    if (best)
        return 0;
    const size_t had = small->bytes;
    if (small->memory)
        rondo__ops(r->ctx)->memory_free(rondo__dev(r->ctx), small->kind, small->memory, small->bytes);
    *small = (struct taken){ NULL, 0, b->memory, -1 };
    int err = take_memory(r, b->memory, b->room, had, &small->memory, &small->bytes);
    if (err)
        small->bytes = 0;
    return err ? rondo__fail(err, "%s: no memory for %zu bytes of %s", r->given->function, b->room, b->name) : 0;
}

/* Memory for a buffer that the caller's cannot serve for. */
static int take_spare(struct rondo__runner *r, int32_t buffer)
{
    if (!r->own[buffer]) {
        struct taken *t = NULL;
        int err = find_taken(r, rondo__buffer_at(r->schedule, buffer), &t);
        if (err)
            return err;
        t->buffer = buffer;
        r->own[buffer] = (int32_t)(t - (struct taken *)r->taken.items) + 1;
    }
    r->place[buffer] = ((const struct taken *)r->taken.items)[r->own[buffer] - 1].memory;
    return 0;
}

/* As the caller said, which has been checked: to ask the device again and again takes longer than all else here. */
static bool on_device(const struct rondo__runner *r, int tensor)
{
    return !rondo__ops(r->ctx)->unified && r->outside[tensor].data && r->given->tensor[tensor]->memory == RONDO_MEMORY_DEVICE;
}

/* Whether a tensor can be computed on where it lies. k and v go together, as they have one list of rows. */
static bool is_there(const struct rondo__runner *r, int tensor)
{
    if (tensor == RONDO_TENSOR_K || tensor == RONDO_TENSOR_V)
        return on_device(r, RONDO_TENSOR_K) && on_device(r, RONDO_TENSOR_V);
    return on_device(r, tensor);
}

/* A tensor on the device: the caller's, if it is there, else a copy. */
static int bind_tensors(struct rondo__runner *r)
{
    const struct rondo__schedule *s = r->schedule;
    int err = 0;
    for (int i = 0; i < RONDO_TENSORS && r->programs; i++)
        r->view[i] = r->outside[i] = view_of(i, r->given);
    for (int64_t i = 0; i < s->buffers.count && !err; i++) {
        const struct rondo__buffer *b = rondo__buffer_at(s, i);
        if (b->tensor == RONDO_TENSOR_STATS) {
            const int64_t heads = r->outside[RONDO_TENSOR_Q].heads;
            r->view[b->tensor] = r->outside[b->tensor] = (struct view){ .data = r->place[i], .element = sizeof(float), .row_stride = 2 * heads,
                                                                        .head_stride = 2, .dim = 2, .heads = heads, .rows = r->given->q_first };
            continue;
        }
        if (b->tensor < 0 || b->owner == RONDO_OWNER_CALLER || !r->outside[b->tensor].data || is_there(r, b->tensor))
            continue;
        err = take_spare(r, (int32_t)i);
        if (!err)
            err = packed_view(r, b->tensor, r->place[i]);
    }
    return err;
}

int rondo__runner_bind(struct rondo__runner *r, const struct rondo__given *given, void *workspace)
{
    const struct rondo__schedule *s = r->schedule;
    r->given = given;
    int err = take_workspace(r, workspace);
    if (!err)
        err = bind_tensors(r);
    for (int64_t i = 0; i < r->sequences && !err && r->desc->terms.bias; i++)
        r->bias_row[i] = r->view[RONDO_TENSOR_BIAS].rows[i] - given->cached[i];
    for (int64_t i = 0; i < r->sequences && !err && r->programs > 1; i++)
        r->probs_row[i] = r->view[RONDO_TENSOR_PROBS].rows[i] - given->probs_skip[i];
    for (int64_t i = 0; i < s->operations.count && !err; i++) {
        const struct rondo__operation *o = rondo__operation_at(s, i);
        r->state[i] = WAITING;
        r->elided[i] = 0;
        if (o->kind != RONDO_PACK || !o->elides || !o->count)
            continue;
        const int32_t to = ((const struct rondo__copy *)s->copies.items + o->first)->to;
        const int tensor = rondo__buffer_at(s, to)->tensor;
        if (tensor >= 0)
            r->elided[i] = r->view[tensor].data == r->outside[tensor].data;
        else if (rondo__row_serves(r, o))
            r->elided[i] = 1;
        else if (rondo__buffer_at(s, to)->spare)
            err = take_spare(r, to);
    }
    return err;
}
