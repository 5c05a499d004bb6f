/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Putting a schedule together: buffers, operations, and what each operation must wait for. Called by all builders of schedules: of attention,
 * its gradients, the delta rule, tensor parallelism.
 *
 * A use of a buffer waits for every earlier use of the same bytes that it conflicts with: a read for writes, a write for both. Of two
 * operations on the device's stream the order of the list is enough. Behind a fence everything is over.
 */
#include "schedule/schedule.h"

/* A use in the past of a buffer. */
struct rondo__past {
    int64_t before;           /* the one before it in the same buffer; -1: none */
    int32_t operation, reserved;
    size_t at, end;
};

void rondo__machine_with(const struct rondo_transport_ops *transport, const struct rondo_device_ops *device, bool plane, uint32_t reached,
                         struct rondo__machine *out)
{
    *out = (struct rondo__machine){ .unified = device->unified != 0, .memories = reached };
    if (!transport)
        return;
    out->in_place = transport->in_place && !plane;   /* a data plane shows nothing */
    out->eager = transport->eager;
    if (plane)
        out->memories = transport->memories;
}

void rondo__machine_of(const rondo_context *ctx, struct rondo__machine *out)
{
    rondo__machine_with(ctx->transport, rondo__ops(ctx), ctx->data != NULL, ctx->reached, out);
}

#define LISTS 10

static void lists_of(struct rondo__schedule *s, struct rondo__list *lists[LISTS])
{
    struct rondo__list *all[LISTS] = { &s->buffers, &s->operations, &s->uses, &s->waits, &s->copies, &s->parts, &s->sources, &s->nodes,
                                       &s->blanks, &s->history };
    memcpy(lists, all, sizeof all);
}

static const size_t items[LISTS] = { sizeof(struct rondo__buffer), sizeof(struct rondo__operation), sizeof(struct rondo__use), sizeof(int32_t),
                                     sizeof(struct rondo__copy), sizeof(struct rondo__part), sizeof(struct rondo__source), sizeof(int32_t),
                                     sizeof(struct rondo__blank), sizeof(struct rondo__past) };

size_t rondo__schedule_bytes(const struct rondo__schedule *schedule)
{
    struct rondo__schedule s = *schedule;
    struct rondo__list *lists[LISTS];
    size_t bytes = 0;
    lists_of(&s, lists);
    for (size_t i = 0; i < LISTS; i++)
        bytes += rondo__list_bytes(lists[i], items[i]);
    return bytes;
}

bool rondo__schedule_ready(struct rondo__schedule *s, bool first)
{
    struct rondo__list *lists[LISTS];
    lists_of(s, lists);
    for (size_t i = 0; i < LISTS; i++)
        if (!rondo__list_ready(lists[i], items[i], first))
            return false;
    return true;
}

void rondo__schedule_trim(struct rondo__schedule *s)
{
    struct rondo__list *lists[LISTS];
    lists_of(s, lists);
    rondo__list_free(&s->history);
    for (size_t i = 0; i < LISTS; i++)
        rondo__list_trim(lists[i], items[i]);
}

void rondo__schedule_free(struct rondo__schedule *s)
{
    struct rondo__list *lists[LISTS];
    lists_of(s, lists);
    for (size_t i = 0; i < LISTS; i++)
        rondo__list_free(lists[i]);
}

void rondo__schedule_clear(struct rondo__schedule *s, int32_t rank, int32_t ranks, int32_t groups)
{
    struct rondo__list *lists[LISTS];
    lists_of(s, lists);
    for (size_t i = 0; i < LISTS; i++)
        lists[i]->count = 0;
    s->rank = rank;
    s->ranks = ranks;
    s->groups = groups;
    s->fence = -1;
    s->failed = false;
    memset(s->workspace_bytes, 0, sizeof s->workspace_bytes);
    s->spare_bytes = 0;
}

static void *add(struct rondo__schedule *s, struct rondo__list *list, size_t item)
{
    void *at = rondo__list_add(list, item, 1);
    if (!at)
        s->failed = true;
    return at;
}

int32_t rondo__buffer_add(struct rondo__schedule *s, struct rondo__buffer buffer)
{
    struct rondo__buffer *b = add(s, &s->buffers, sizeof *b);
    if (!b)
        return 0;
    *b = buffer;
    b->read = b->written = -1;
    return (int32_t)(s->buffers.count - 1);
}

void rondo__schedule_reserve(struct rondo__schedule *s, int64_t operations, int64_t transfers)
{
    if (!rondo__list_reserve(&s->operations, sizeof(struct rondo__operation), operations) ||
        !rondo__list_reserve(&s->buffers, sizeof(struct rondo__buffer), 2 * transfers + 16) ||
        !rondo__list_reserve(&s->uses, sizeof(struct rondo__use), 2 * operations) ||
        !rondo__list_reserve(&s->history, sizeof(struct rondo__past), 2 * operations) ||
        !rondo__list_reserve(&s->parts, sizeof(struct rondo__part), 2 * transfers) ||
        !rondo__list_reserve(&s->waits, sizeof(int32_t), 2 * operations))
        s->failed = true;
}

/* ---- what an operation waits for ---- */

/* One that it does not wait for yet. */
static void add_wait(struct rondo__schedule *s, struct rondo__operation *o, int32_t earlier)
{
    int32_t *w = add(s, &s->waits, sizeof *w);
    if (w) {
        *w = earlier;
        o->waits++;
    }
}

static void wait_for(struct rondo__schedule *s, struct rondo__operation *o, int32_t earlier)
{
    const int32_t *waits = (const int32_t *)s->waits.items + o->waits_first;
    if (earlier < s->fence)
        earlier = s->fence;
    if (rondo__operation_on_stream(o) && rondo__operation_on_stream(rondo__operation_at(s, earlier)))
        return;
    for (int32_t i = 0; i < o->waits; i++)
        if (waits[i] == earlier)
            return;
    add_wait(s, o, earlier);
}

/* Conflicts along one chain of the past, the latest first, until one covers all of it: what is older is ordered behind that one. */
static void conflicts(struct rondo__schedule *s, struct rondo__operation *o, int32_t self, int64_t chain, size_t at, size_t end, bool writes)
{
    const struct rondo__past *past = s->history.items;
    for (int64_t i = chain; i >= 0; i = past[i].before) {
        if (past[i].operation == self || past[i].at >= end || past[i].end <= at)
            continue;
        wait_for(s, o, past[i].operation);
        if (writes && past[i].at <= at && past[i].end >= end)
            break;
        if (past[i].operation < s->fence)
            break;
    }
}

static int32_t root_of(const struct rondo__schedule *s, int32_t buffer)
{
    while (rondo__buffer_at(s, buffer)->over >= 0)
        buffer = rondo__buffer_at(s, buffer)->over;
    return buffer;
}

void rondo__schedule_use(struct rondo__schedule *s, int32_t buffer, size_t at, size_t bytes, bool writes)
{
    if (s->failed || !bytes)
        return;
    const int32_t self = (int32_t)s->operations.count - 1;
    struct rondo__operation *o = rondo__operation_at(s, self);
    struct rondo__use *u = add(s, &s->uses, sizeof *u);
    if (!u)
        return;
    *u = (struct rondo__use){ buffer, writes, at, bytes };
    o->uses++;
    struct rondo__buffer *b = rondo__buffer_at(s, root_of(s, buffer));
    size_t end = at + bytes;
    if (writes && !at && o->kind != RONDO_COMPUTE)   /* new content: nobody behind it has to do with what was there before */
        end = b->bytes > end ? b->bytes : end;
    conflicts(s, o, self, b->written, at, end, true);
    if (writes)
        conflicts(s, o, self, b->read, at, end, false);
    int64_t *chain = writes ? &b->written : &b->read;
    struct rondo__past *p = add(s, &s->history, sizeof *p);
    if (!p)
        return;
    *p = (struct rondo__past){ *chain, self, 0, at, end };
    *chain = s->history.count - 1;
    if (writes && !at && end >= b->bytes)
        b->read = -1;   /* whoever conflicts with these reads conflicts with this write, which waited for them */
}

/* ---- operations ---- */

struct rondo__operation *rondo__schedule_begin(struct rondo__schedule *s, int kind, struct rondo__step step, int32_t group)
{
    struct rondo__operation *o = s->failed ? NULL : add(s, &s->operations, sizeof *o);
    if (!o)
        return &s->nowhere;
    *o = (struct rondo__operation){ .kind = kind, .group = group, .step = step, .uses_first = s->uses.count, .waits_first = s->waits.count,
                                    .sources_first = s->sources.count, .nodes_first = s->nodes.count,
                                    .q = -1, .out = -1, .lse = -1, .stats = -1 };
    o->first = kind == RONDO_PACK ? s->copies.count : kind == RONDO_TRANSFER ? s->parts.count : kind == RONDO_BLANK ? s->blanks.count : 0;
    return o;
}

void rondo__schedule_part(struct rondo__schedule *s, int32_t buffer, size_t at, size_t bytes, int32_t peer, bool receives)
{
    if (s->failed || !bytes)
        return;
    struct rondo__part *p = add(s, &s->parts, sizeof *p);
    if (!p)
        return;
    *p = (struct rondo__part){ buffer, peer, receives, 0, at, bytes };
    rondo__operation_at(s, s->operations.count - 1)->count++;
    rondo__schedule_use(s, buffer, at, bytes, receives);
}

void rondo__schedule_copy(struct rondo__schedule *s, struct rondo__copy copy, size_t bytes)
{
    if (s->failed || !copy.rows || !bytes)
        return;
    struct rondo__copy *c = add(s, &s->copies, sizeof *c);
    if (!c)
        return;
    *c = copy;
    rondo__operation_at(s, s->operations.count - 1)->count++;
    const bool from_rows = copy.sequence >= 0 && rondo__buffer_at(s, copy.from)->tensor >= 0;
    const bool to_rows = copy.sequence >= 0 && rondo__buffer_at(s, copy.to)->tensor >= 0;
    const size_t from_bytes = copy.row_bytes ? (size_t)(copy.rows - 1) * copy.from_stride + copy.row_bytes : bytes;
    const size_t to_bytes = copy.row_bytes ? (size_t)(copy.rows - 1) * copy.to_stride + copy.row_bytes : bytes;
    rondo__schedule_use(s, copy.from, from_rows ? 0 : copy.from_at, from_rows ? rondo__buffer_at(s, copy.from)->bytes : from_bytes, false);
    rondo__schedule_use(s, copy.to, to_rows ? 0 : copy.to_at, to_rows ? rondo__buffer_at(s, copy.to)->bytes : to_bytes, true);
}

void rondo__schedule_source(struct rondo__schedule *s, int32_t k, int32_t v)
{
    struct rondo__source *source = s->failed ? NULL : add(s, &s->sources, sizeof *source);
    if (source) {
        *source = (struct rondo__source){ k, v };
        rondo__operation_at(s, s->operations.count - 1)->sources++;
    }
}

void rondo__schedule_nodes(struct rondo__schedule *s, int32_t buffer)
{
    int32_t *at = s->failed ? NULL : add(s, &s->nodes, sizeof *at);
    if (at) {
        *at = buffer;
        rondo__operation_at(s, s->operations.count - 1)->nodes++;
    }
}

int32_t rondo__schedule_end(struct rondo__schedule *s)
{
    if (s->failed)
        return 0;
    const int32_t self = (int32_t)s->operations.count - 1;
    struct rondo__operation *o = rondo__operation_at(s, self);
    if (o->kind == RONDO_FENCE) {
        /* of what is on the device's stream the last one is enough; it uses nothing, so that it waits for none of them yet */
        int32_t last = -1;
        for (int32_t i = s->fence < 0 ? 0 : s->fence; i < self; i++) {
            if (rondo__operation_on_stream(rondo__operation_at(s, i)))
                last = i;
            else
                add_wait(s, o, i);
        }
        if (last >= 0)
            add_wait(s, o, last);
        s->fence = self;
    }
    return self;
}

/* ---- the workspace ---- */

bool rondo__schedule_place(struct rondo__schedule *s)
{
    bool fits = true;
    for (int32_t i = 0; i < s->buffers.count; i++) {
        struct rondo__buffer *b = rondo__buffer_at(s, i);
        size_t *total = &s->workspace_bytes[b->memory], room;
        if (b->owner == RONDO_OWNER_CALLER || b->over >= 0)
            continue;
        if (!rondo__add(b->room, 63, &room)) {
            fits = false;
            break;
        }
        room &= ~(size_t)63;
        if (b->spare) {
            fits = fits && rondo__add(s->spare_bytes, room, &s->spare_bytes);
            continue;
        }
        b->at = *total;
        fits = fits && rondo__add(*total, room, total);
    }
    for (int32_t i = 0; i < s->buffers.count && fits; i++) {
        struct rondo__buffer *b = rondo__buffer_at(s, i);
        if (b->over >= 0)
            b->at = rondo__buffer_at(s, root_of(s, i))->at;
    }
    return fits && s->workspace_bytes[RONDO_MEMORY_HOST] < SIZE_MAX / 2;
}
