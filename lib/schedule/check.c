/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Proving things about the schedules of all ranks of one execution, before anything runs:
 *   - what is read was written before, all of it, and nothing is written while somebody may still read it, or be writing it: for each two
 *     uses of a buffer that conflict, the later one waits for the earlier one, directly or through others, or the device's stream or a fence
 *     is between them. What a transport shows in place is read by the peer up to the next fence;
 *   - behind the last operation no peer reads what it is shown any more, and the caller's results are complete;
 *   - buffers do not share bytes of the workspace but where one says that it lies over another;
 *   - every message has its receiver, of the same size, in the same order between each two ranks;
 *   - no rank waits for ever, however slow the others are: a transfer is taken to end only when every peer of it has come to its part.
 * It takes nothing from what the builder wrote down while it built (schedule.c). Called by tests, and by `rondo plan schedule`.
 */
#include "schedule/schedule.h"

/* ---- one rank: buffers ---- */

/* A use that later ones may conflict with. */
struct past {
    size_t at, end;
    int32_t operation;
    int32_t shown;                     /* in place: over at the next fence only */
};

struct area {
    struct rondo__list reads, writes;  /* struct past */
    struct rondo__list written;        /* struct range, ascending, apart */
};

struct range {
    size_t at, end;
};

struct rank_check {
    const struct rondo__schedule *s;
    const struct rondo__machine *machine;
    struct area *area;                 /* [buffers], by the root of each */
    int32_t *epoch;                    /* [operations] fences before it */
    int32_t *device;                   /* [operations] the last operation of the stream that is over when it begins; -1: none */
    int32_t *bit;                      /* [operations] of a transfer, among those of its epoch */
    uint64_t *known;                   /* [operations][words] transfers of its epoch that are over when it begins */
    int64_t words;
};

static int no_memory(void)
{
    return rondo__fail(RONDO_ENOMEM, "no memory to check a schedule");
}

/* Adds what is known to be over once operation `from` is over. */
static void learn(struct rank_check *c, int64_t self, int32_t from)
{
    const struct rondo__operation *o = rondo__operation_at(c->s, from);
    if (o->kind == RONDO_FENCE || c->epoch[from] < c->epoch[self])
        return;
    for (int64_t w = 0; w < c->words; w++)
        c->known[self * c->words + w] |= c->known[from * c->words + w];
    if (rondo__operation_on_stream(o))
        c->device[self] = from > c->device[self] ? from : c->device[self];
    else
        c->known[self * c->words + c->bit[from] / 64] |= (uint64_t)1 << c->bit[from] % 64;
    c->device[self] = c->device[from] > c->device[self] ? c->device[from] : c->device[self];
}

/* Whether an earlier use is over when an operation begins. */
static bool over(const struct rank_check *c, const struct past *p, int64_t self)
{
    if (c->epoch[p->operation] < c->epoch[self])
        return true;
    if (p->shown)
        return false;
    if (rondo__operation_on_stream(rondo__operation_at(c->s, p->operation)))
        return p->operation <= c->device[self];
    return c->known[self * c->words + c->bit[p->operation] / 64] >> c->bit[p->operation] % 64 & 1;
}

static int32_t root_of(const struct rondo__schedule *s, int32_t buffer)
{
    for (int32_t i = 0; i < s->buffers.count && rondo__buffer_at(s, buffer)->over >= 0; i++)
        buffer = rondo__buffer_at(s, buffer)->over;
    return buffer;
}

static int broken(const struct rank_check *c, int64_t self, const char *what, int32_t buffer)
{
    char line[512];
    const struct rondo__buffer *b = rondo__buffer_at(c->s, buffer);
    rondo__operation_print(c->s, self, 0.0, line, sizeof line);
    return rondo__fail(RONDO_EINVAL, "the schedule of rank %d %s buffer %d (%s) in operation %s", (int)c->s->rank, what, (int)buffer, b->name,
                       line);
}

static bool remember(struct area *a, const struct rondo__use *u, int32_t self, bool shown)
{
    struct past *p = rondo__list_add(u->writes ? &a->writes : &a->reads, sizeof *p, 1);
    if (p)
        *p = (struct past){ u->at, u->at + u->bytes, self, shown };
    return p != NULL;
}

static bool add_written(struct area *a, size_t at, size_t end)
{
    struct range *r = a->written.items;
    int64_t i = 0, j;
    while (i < a->written.count && r[i].end < at)
        i++;
    for (j = i; j < a->written.count && r[j].at <= end; j++) {
        at = r[j].at < at ? r[j].at : at;
        end = r[j].end > end ? r[j].end : end;
    }
    if (i == j) {
        if (!rondo__list_add(&a->written, sizeof *r, 1))
            return false;
        r = a->written.items;
        memmove(r + i + 1, r + i, (size_t)(a->written.count - 1 - i) * sizeof *r);
        j = i + 1;
    } else {
        memmove(r + i + 1, r + j, (size_t)(a->written.count - j) * sizeof *r);
        a->written.count -= j - i - 1;
    }
    r[i] = (struct range){ at, end };
    return true;
}

static bool is_written(const struct area *a, size_t at, size_t end)
{
    const struct range *r = a->written.items;
    for (int64_t i = 0; i < a->written.count; i++)
        if (r[i].at <= at && r[i].end >= end)
            return true;
    return false;
}

static bool all_over(const struct rank_check *c, const struct rondo__list *list, const struct rondo__use *u, int64_t self)
{
    const struct past *p = list->items;
    for (int64_t i = 0; i < list->count; i++)
        if (p[i].operation != self && p[i].at < u->at + u->bytes && p[i].end > u->at && !over(c, p + i, self))
            return false;
    return true;
}

static int check_use(struct rank_check *c, int64_t self, const struct rondo__use *u)
{
    const struct rondo__buffer *b = rondo__buffer_at(c->s, u->buffer), *root = rondo__buffer_at(c->s, root_of(c->s, u->buffer));
    struct area *a = c->area + root_of(c->s, u->buffer);
    const struct rondo__operation *o = rondo__operation_at(c->s, self);
    size_t end;
    if (!rondo__add(u->at, u->bytes, &end) || end > b->bytes)
        return broken(c, self, "uses bytes beyond", u->buffer);
    const bool caller = b->owner == RONDO_OWNER_CALLER, plain = b->tensor < 0;
    const bool input = caller && (plain ? b->access != RONDO_ACCESS_RESULT : !rondo__tensor_is_result(b->tensor));
    if (!u->writes && !input && !is_written(a, u->at, end))
        return broken(c, self, "reads before it is written", u->buffer);
    if (u->writes && input && !(plain && b->access == RONDO_ACCESS_BOTH))
        return broken(c, self, "writes the caller's", u->buffer);
    if (u->writes && b->owner == RONDO_OWNER_PEER && o->kind != RONDO_TRANSFER)
        return broken(c, self, "writes a peer's", u->buffer);
    if (!all_over(c, &a->writes, u, self))
        return broken(c, self, u->writes ? "overwrites, while it may still be written," : "reads, while it may still be written,", u->buffer);
    if (u->writes && !all_over(c, &a->reads, u, self))
        return broken(c, self, "overwrites under a reader", u->buffer);
    if (u->writes && !u->at && end >= root->bytes)
        a->reads.count = a->writes.count = 0;   /* whoever is behind this write is behind all before it */
    if (u->writes && !u->at && (o->kind == RONDO_TRANSFER || o->kind == RONDO_PACK) && !(caller && plain))
        a->written.count = 0;   /* new content: what is behind it is of the one before */
    const bool shown = !u->writes && o->kind == RONDO_TRANSFER && c->machine->in_place && u->bytes > c->machine->eager;
    return remember(a, u, (int32_t)self, shown) && (!u->writes || add_written(a, u->at, end)) ? 0 : no_memory();
}

/* When all is over memory is the caller's again, or the next execution's. */
static int check_end(const struct rank_check *c, int32_t epoch)
{
    for (int64_t i = 0; i < c->s->buffers.count; i++) {
        const struct rondo__buffer *b = rondo__buffer_at(c->s, i);
        const struct past *p = c->area[i].reads.items;
        for (int64_t j = 0; j < c->area[i].reads.count; j++)
            if (p[j].shown && c->epoch[p[j].operation] == epoch)
                return rondo__fail(RONDO_EINVAL, "the schedule of rank %d has no fence behind operation %d, which shows buffer %lld (%s)",
                                   (int)c->s->rank, (int)p[j].operation, (long long)i, b->name);
        if (b->owner == RONDO_OWNER_CALLER && b->tensor < 0 && b->access == RONDO_ACCESS_RESULT && b->bytes && !is_written(c->area + i, 0, b->bytes))
            return rondo__fail(RONDO_EINVAL, "the schedule of rank %d does not write all of buffer %lld (%s)", (int)c->s->rank, (long long)i,
                               b->name);
    }
    return 0;
}

static int check_places(const struct rondo__schedule *s)
{
    for (int64_t i = 0; i < s->buffers.count; i++) {
        const struct rondo__buffer *b = rondo__buffer_at(s, i);
        size_t end;
        if (b->owner == RONDO_OWNER_CALLER || b->spare || !b->room)
            continue;
        if (!rondo__add(b->at, b->room, &end) || end > s->workspace_bytes[b->memory])
            return rondo__fail(RONDO_EINVAL, "the schedule of rank %d has buffer %lld beyond its workspace", (int)s->rank, (long long)i);
    }
    /* places are given out ascending: each begins where those before it have ended */
    size_t last[3] = { 0, 0, 0 };
    for (int64_t i = 0; i < s->buffers.count; i++) {
        const struct rondo__buffer *b = rondo__buffer_at(s, i);
        if (b->owner == RONDO_OWNER_CALLER || b->spare || !b->room || b->over >= 0)
            continue;
        if (b->at < last[b->memory])
            return rondo__fail(RONDO_EINVAL, "the schedule of rank %d has buffer %lld upon another one's bytes", (int)s->rank, (long long)i);
        last[b->memory] = b->at + b->room;
    }
    for (int64_t i = 0; i < s->buffers.count; i++) {
        const struct rondo__buffer *b = rondo__buffer_at(s, i);
        if (b->over >= 0 && (b->at != rondo__buffer_at(s, root_of(s, (int32_t)i))->at ||
                             b->room > rondo__buffer_at(s, root_of(s, (int32_t)i))->room))
            return rondo__fail(RONDO_EINVAL, "the schedule of rank %d has buffer %lld over a place too small for it", (int)s->rank, (long long)i);
    }
    return 0;
}

static int check_rank(struct rank_check *c)
{
    const struct rondo__schedule *s = c->s;
    const int64_t n = s->operations.count;
    const int32_t *waits = s->waits.items;
    int32_t epoch = 0, transfers = 0, most = 0, stream = -1;
    c->epoch = rondo__alloc_zero((size_t)n, 3 * sizeof *c->epoch);
    c->area = rondo__alloc_zero((size_t)s->buffers.count, sizeof *c->area);
    if (!c->epoch || !c->area)
        return no_memory();
    c->device = c->epoch + n;
    c->bit = c->device + n;
    for (int64_t i = 0; i < n; i++) {
        const int32_t kind = rondo__operation_at(s, i)->kind;
        c->epoch[i] = epoch;
        c->device[i] = -1;
        c->bit[i] = kind == RONDO_TRANSFER ? transfers++ : 0;
        most = transfers > most ? transfers : most;
        if (kind == RONDO_FENCE) {
            epoch++;
            transfers = 0;
        }
    }
    size_t cells;
    c->words = most / 64 + 1;
    c->known = rondo__mul((size_t)n, (size_t)c->words, &cells) ? rondo__alloc_zero(cells, sizeof *c->known) : NULL;
    if (!c->known)
        return no_memory();
    int err = check_places(s);
    for (int64_t i = 0; i < n && !err; i++) {
        const struct rondo__operation *o = rondo__operation_at(s, i);
        for (int32_t j = 0; j < o->waits; j++) {
            if (waits[o->waits_first + j] < 0 || waits[o->waits_first + j] >= i)
                return rondo__fail(RONDO_EINVAL, "operation %lld of rank %d waits for operation %d, which is not before it", (long long)i,
                                   (int)s->rank, (int)waits[o->waits_first + j]);
            learn(c, i, waits[o->waits_first + j]);
        }
        if (rondo__operation_on_stream(o)) {
            if (stream >= 0)
                learn(c, i, stream);
            stream = (int32_t)i;
        }
        const struct rondo__use *u = (const struct rondo__use *)s->uses.items + o->uses_first;
        for (int32_t j = 0; j < o->uses && !err; j++)   /* what it reads, before what it writes */
            err = u[j].writes ? 0 : check_use(c, i, u + j);
        for (int32_t j = 0; j < o->uses && !err; j++)
            err = u[j].writes ? check_use(c, i, u + j) : 0;
        if (o->kind == RONDO_FENCE)   /* it must be behind all that this rank does with what others show */
            for (int64_t j = 0; j < i && !err; j++) {
                const struct past p = { 0, 0, (int32_t)j, 0 };
                if (c->epoch[j] == c->epoch[i] && !over(c, &p, i))
                    err = rondo__fail(RONDO_EINVAL, "the fence in operation %lld of rank %d does not wait for operation %lld", (long long)i,
                                      (int)s->rank, (long long)j);
            }
    }
    return err ? err : check_end(c, epoch);
}

static int check_buffers(const struct rondo__schedule *s, const struct rondo__machine *machine)
{
    struct rank_check c = { .s = s, .machine = machine };
    int err = check_rank(&c);
    for (int64_t i = 0; c.area && i < s->buffers.count; i++) {
        rondo__list_free(&c.area[i].reads);
        rondo__list_free(&c.area[i].writes);
        rondo__list_free(&c.area[i].written);
    }
    rondo__free(c.epoch);
    rondo__free(c.area);
    rondo__free(c.known);
    return err;
}

/* ---- all ranks: messages ---- */

enum move { WAITS, STARTS, FENCES };

/* What a rank does that others see, in its order. */
struct move_of {
    int32_t kind, operation;
};

struct message {
    size_t bytes;
    int32_t peer, receives, operation;
    int32_t next;                      /* in its channel, while it has no counterpart: + 1; 0: none */
};

struct program {
    struct rondo__list moves, messages;
    int64_t at;                        /* the next move */
    int32_t *open;                     /* [operations] of a transfer: messages without a counterpart; -1: not begun */
    int32_t *first, *count;            /* [operations] its messages */
    int64_t operations;
    int32_t queued;
    int32_t parked;                    /* it has come to the fence, and waits for the others there */
};

/* Between two ranks, from the first to the second: what one of them has begun and the other has not. */
struct channel {
    int64_t head, tail;                /* messages of one side, + 1 */
    int32_t receives, reserved;        /* which side */
};

struct network {
    int32_t ranks, fenced;
    struct program *program;
    struct channel *channel;           /* [ranks * ranks] */
    int32_t *queue;
    int64_t queue_first, queue_count;
};

static bool take_program(struct program *p, const struct rondo__schedule *s)
{
    const int32_t *waits = s->waits.items;
    const struct rondo__part *parts = s->parts.items;
    const size_t n = (size_t)s->operations.count;
    p->operations = s->operations.count;
    p->open = rondo__alloc_zero(n, 3 * sizeof *p->open);
    if (!p->open)
        return false;
    p->first = p->open + n;
    p->count = p->first + n;
    for (int64_t i = 0; i < s->operations.count; i++) {
        const struct rondo__operation *o = rondo__operation_at(s, i);
        p->open[i] = -1;
        for (int32_t j = 0; j <= o->waits; j++) {
            const int32_t w = j < o->waits ? waits[o->waits_first + j] : -1;
            const bool waits_on = w >= 0 && rondo__operation_at(s, w)->kind == RONDO_TRANSFER;
            const bool itself = w < 0 && !rondo__operation_on_stream(o);
            if (!waits_on && !itself)
                continue;
            struct move_of *m = rondo__list_add(&p->moves, sizeof *m, 1);
            if (!m)
                return false;
            *m = (struct move_of){ waits_on ? WAITS : o->kind == RONDO_FENCE ? FENCES : STARTS, waits_on ? w : (int32_t)i };
        }
        if (o->kind != RONDO_TRANSFER)
            continue;
        struct message *m = rondo__list_add(&p->messages, sizeof *m, o->count);
        if (o->count && !m)
            return false;
        p->first[i] = (int32_t)(p->messages.count - o->count);
        p->count[i] = (int32_t)o->count;
        for (int64_t j = 0; j < o->count; j++)
            m[j] = (struct message){ parts[o->first + j].bytes, parts[o->first + j].peer, parts[o->first + j].receives, (int32_t)i, 0 };
    }
    return true;
}

static void wake(struct network *n, int32_t rank)
{
    if (n->program[rank].queued)
        return;
    n->program[rank].queued = 1;
    n->queue[(n->queue_first + n->queue_count++) % n->ranks] = rank;
}

/* One message has begun at its rank: it meets its counterpart, or waits for it. */
static int meet(struct network *n, int32_t rank, int32_t index)
{
    struct message *m = (struct message *)n->program[rank].messages.items + index;
    if (m->peer < 0 || m->peer >= n->ranks || m->peer == rank)
        return rondo__fail(RONDO_EINVAL, "operation %d of rank %d has a message to or from rank %d", (int)m->operation, (int)rank, (int)m->peer);
    struct channel *c = n->channel + (m->receives ? (int64_t)m->peer * n->ranks + rank : (int64_t)rank * n->ranks + m->peer);
    struct program *other = n->program + m->peer;
    if (c->head && c->receives != m->receives) {
        struct message *waits = (struct message *)other->messages.items + c->head - 1;
        c->head = waits->next;
        if (waits->bytes != m->bytes)
            return rondo__fail(RONDO_EINVAL, "operation %d of rank %d %s %zu bytes %s rank %d, whose operation %d has %zu", (int)m->operation,
                               (int)rank, m->receives ? "expects" : "sends", m->bytes, m->receives ? "from" : "to", (int)m->peer,
                               (int)waits->operation, waits->bytes);
        n->program[rank].open[m->operation]--;
        if (--other->open[waits->operation] == 0)
            wake(n, m->peer);
        return 0;
    }
    if (c->head)
        ((struct message *)n->program[rank].messages.items + c->tail - 1)->next = index + 1;
    else
        c->head = index + 1;
    c->tail = index + 1;
    c->receives = m->receives;
    return 0;
}

/* As far as a rank gets. */
static int advance(struct network *n, int32_t rank)
{
    struct program *p = n->program + rank;
    const struct move_of *moves = p->moves.items;
    int err = 0;
    for (; p->at < p->moves.count && !err; p->at++) {
        const struct move_of *m = moves + p->at;
        if (m->kind == WAITS && p->open[m->operation] != 0)
            return 0;
        if (m->kind == STARTS) {
            p->open[m->operation] = p->count[m->operation];
            for (int32_t i = 0; i < p->count[m->operation] && !err; i++)
                err = meet(n, rank, p->first[m->operation] + i);
        }
        if (m->kind != FENCES)
            continue;
        p->parked = 1;
        if (++n->fenced < n->ranks)
            return 0;   /* the last to come lets all go on, itself too */
        n->fenced = 0;
        for (int32_t r = 0; r < n->ranks; r++) {
            n->program[r].parked = 0;
            if (r == rank)
                continue;
            n->program[r].at++;
            wake(n, r);
        }
    }
    return err;
}

static int run_network(struct network *n)
{
    int err = 0;
    for (int32_t r = 0; r < n->ranks; r++)
        wake(n, r);
    while (n->queue_count && !err) {
        int32_t rank = n->queue[n->queue_first];
        n->queue_first = (n->queue_first + 1) % n->ranks;
        n->queue_count--;
        n->program[rank].queued = 0;
        err = n->program[rank].parked ? 0 : advance(n, rank);
    }
    for (int32_t r = 0; r < n->ranks && !err; r++) {
        const struct program *p = n->program + r;
        if (p->at < p->moves.count) {
            const struct move_of *m = (const struct move_of *)p->moves.items + p->at;
            err = rondo__fail(RONDO_EINVAL, "rank %d waits for ever: its operation %d does not end, because a peer never comes to its part", (int)r,
                              (int)m->operation);
        }
        for (int64_t i = 0; i < p->operations && !err; i++)
            if (p->open[i] > 0)
                err = rondo__fail(RONDO_EINVAL, "operation %lld of rank %d has a message without a counterpart", (long long)i, (int)r);
    }
    return err;
}

int rondo__schedule_check(int32_t ranks, const struct rondo__machine *machine, int (*at)(void *arg, int32_t rank, const struct rondo__schedule **out),
                          void *arg)
{
    struct network n = { .ranks = ranks };
    const size_t count = (size_t)ranks;
    size_t square = 0;
    n.program = rondo__alloc_zero(count, sizeof *n.program);
    n.channel = rondo__mul(count, count, &square) ? rondo__alloc_zero(square, sizeof *n.channel) : NULL;
    n.queue = rondo__alloc_zero(count, sizeof *n.queue);
    int err = n.program && n.channel && n.queue ? 0 : no_memory();
    for (int32_t r = 0; r < ranks && !err; r++) {
        const struct rondo__schedule *s = NULL;
        err = at(arg, r, &s);
        if (!err)
            err = check_buffers(s, machine);
        if (!err && !take_program(n.program + r, s))
            err = no_memory();
    }
    if (!err)
        err = run_network(&n);
    for (int32_t r = 0; n.program && r < ranks; r++) {
        rondo__list_free(&n.program[r].moves);
        rondo__list_free(&n.program[r].messages);
        rondo__free(n.program[r].open);
    }
    rondo__free(n.program);
    rondo__free(n.channel);
    rondo__free(n.queue);
    return err;
}
