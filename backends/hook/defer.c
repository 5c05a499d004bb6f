/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The hook's mode `defer`: streams run late, and in any order that events allow. What is put into a stream waits there until somebody
 * waits for something; then calls happen one after the other, in the rank's own thread, the next one taken from a stream that the seed
 * draws among those whose first call may begin, until what is waited for is over. What nobody waits for stays where it is: whoever relies
 * on an order that no event made, or reads before waiting, gets a wrong result for some seed.
 *
 * Host memory: copies from and to pinned memory happen when their stream comes to them. Those of other host memory happen before the call
 * returns, and with them all that they are behind, as a graphics card's driver does it.
 *
 * As on real devices there is room for so many calls in streams; who puts more waits for some of them. So a run allocates nothing.
 */
#include "backends/hook/device.h"

#include <stdio.h>

#define NODES 512
#define ARENA_BYTES ((size_t)64 << 10)
/* event_query() lets up to so many calls happen */
#define QUERY_CALLS 2

struct rondo__hook_node {
    struct rondo__hook_node *next;
    struct rondo__hook_call call;
};

static struct rondo__hook_stream *stream_of(struct rondo__hook_device *h, struct rondo_stream *stream)
{
    return stream ? (struct rondo__hook_stream *)(void *)stream : &h->own;
}

int rondo__hook_defer_begin(struct rondo__hook_device *h)
{
    h->own.live = 1;
    if (!h->set.defer)
        return 0;
    h->nodes = rondo__alloc_zero(NODES, sizeof *h->nodes);
    h->arena = rondo__alloc(ARENA_BYTES);
    if (!h->nodes || !h->arena)
        return rondo__fail(RONDO_ENOMEM, "no memory for the test hook's streams");
    h->arena_bytes = ARENA_BYTES;
    for (int i = 0; i < NODES; i++) {
        h->nodes[i].next = h->spare;
        h->spare = h->nodes + i;
    }
    return 0;
}

/* ---- going on ---- */

static bool over(const struct rondo__hook_stream *s, uint64_t number)
{
    return s->done >= number;
}

static uint64_t draw(struct rondo__hook_device *h, uint64_t below)
{
    return rondo__hash_word(h->set.order, h->draws++) % below;
}

/* One of the streams whose first call may begin. As streams wait for what was in others before, there is one as long as there are calls. */
static struct rondo__hook_stream *pick(struct rondo__hook_device *h)
{
    struct rondo__hook_stream *picked = NULL;
    uint64_t choices = 0;
    for (struct rondo__hook_stream *s = &h->own; s; s = s->next) {
        const struct rondo__hook_call *c = s->head ? &s->head->call : NULL;
        if (c && (c->kind != RONDO_HOOK_WAIT || over(c->as.wait.stream, c->as.wait.number)) && draw(h, ++choices) == 0)
            picked = s;
    }
    return picked;
}

/* The first failure, until somebody waits. */
static void keep(struct rondo__hook_device *h, int err)
{
    if (!err || h->failed)
        return;
    h->failed = err;
    snprintf(h->sentence, sizeof h->sentence, "%s", rondo_error_text());
}

static int no_poll(void *arg)
{
    (void)arg;
    return 0;
}

/* One call happens, or is given up behind one that failed. */
static void advance(struct rondo__hook_device *h, const struct rondo_poll *poll)
{
    struct rondo__hook_stream *s = pick(h);
    if (!s)
        return;
    struct rondo__hook_node *node = s->head;
    int err = 0;
    h->performing = 1;
    const struct rondo_poll with_work = { poll ? poll->call : no_poll, poll ? poll->arg : NULL, node->call.work };
    if (node->call.kind != RONDO_HOOK_WAIT && !h->failed)
        err = rondo__hook_perform(h, &node->call, poll || node->call.work ? &with_work : NULL);
    h->performing = 0;
    if (rondo__hook_call_linear(&node->call))
        rondo__hook_linear_leave(h, rondo__hook_call_linear(&node->call));
    s->head = node->next;
    s->done++;
    node->next = h->spare;
    h->spare = node;
    if (--h->waiting == 0)
        h->arena_used = 0;
    keep(h, err);
}

bool rondo__hook_is_idle(const struct rondo__hook_device *h)
{
    return !h->waiting;
}

void rondo__hook_drain(struct rondo__hook_device *h)
{
    while (h->waiting && !h->performing)
        advance(h, NULL);
    keep(h, h->set.defer && !h->performing ? h->ops->sync(h->dev) : 0);
}

/* What failed in a stream, to whoever waits: once. */
static int tell(struct rondo__hook_device *h)
{
    if (!h->failed)
        return 0;
    rondo__hook_drain(h);
    const int err = h->failed;
    h->failed = 0;
    return rondo__fail(err, "%s", h->sentence);
}

static int wait_until(struct rondo__hook_device *h, const struct rondo__hook_stream *s, uint64_t number, const struct rondo_poll *poll)
{
    while (!over(s, number) && !h->failed) {
        int err = poll ? poll->call(poll->arg) : 0;
        if (err)
            return err;
        advance(h, poll);
    }
    keep(h, h->ops->sync(h->dev));
    return tell(h);
}

/* ---- putting ---- */

void *rondo__hook_take(struct rondo__hook_device *h, size_t bytes)
{
    if (!rondo__add(bytes, 63, &bytes)) {
        rondo__fail(RONDO_ENOMEM, "no memory for a call in a stream of the test hook");
        return NULL;
    }
    bytes &= ~(size_t)63;
    if (bytes > h->arena_bytes - h->arena_used) {
        rondo__hook_drain(h);
        h->arena_used = 0;
    }
    if (bytes > h->arena_bytes) {
        char *more = rondo__alloc(bytes);
        if (!more) {
            rondo__fail(RONDO_ENOMEM, "no memory for the %zu bytes of a call in a stream of the test hook", bytes);
            return NULL;
        }
        rondo__free(h->arena);
        h->arena = more;
        h->arena_bytes = bytes;
    }
    void *memory = h->arena + h->arena_used;
    h->arena_used += bytes;
    return memory;
}

int rondo__hook_put(struct rondo__hook_device *h, struct rondo_stream *stream, const struct rondo__hook_call *call, const struct rondo_poll *poll)
{
    if (!h->set.defer) {
        struct rondo__hook_call now = *call;
        now.stream = stream;
        int err = rondo__hook_perform(h, &now, poll);
        if (rondo__hook_call_linear(call))
            rondo__hook_linear_leave(h, rondo__hook_call_linear(call));
        h->arena_used = 0;
        return err;
    }
    struct rondo__hook_stream *s = stream_of(h, stream);
    while (!h->spare)
        advance(h, poll);
    struct rondo__hook_node *node = h->spare;
    h->spare = node->next;
    node->next = NULL;
    node->call = *call;
    if (s->head)
        s->last->next = node;
    else
        s->head = node;
    s->last = node;
    s->queued++;
    h->waiting++;
    return call->host ? wait_until(h, s, s->queued, poll) : 0;
}

/* ---- streams and events ---- */

int rondo__hook_stream_new(struct rondo__hook_device *h, struct rondo_stream **out)
{
    struct rondo__hook_stream *s = h->own.next;
    while (s && s->live)
        s = s->next;
    if (!s) {
        s = rondo__alloc_zero(1, sizeof *s);
        if (!s)
            return rondo__fail(RONDO_ENOMEM, "no memory for a stream of the test hook");
        s->next = h->own.next;
        h->own.next = s;
    }
    s->live = 1;
    *out = (struct rondo_stream *)(void *)s;
    return 0;
}

/* Events may still know it: it stays, empty, and keeps its count. */
void rondo__hook_stream_free(struct rondo__hook_device *h, struct rondo_stream *stream)
{
    rondo__hook_drain(h);
    if (stream)
        stream_of(h, stream)->live = 0;
}

int rondo__hook_event_record(struct rondo__hook_device *h, struct rondo_stream *stream, struct rondo__hook_event *event)
{
    event->stream = stream_of(h, stream);
    event->number = event->stream->queued;
    return 0;
}

int rondo__hook_stream_wait(struct rondo__hook_device *h, struct rondo_stream *stream, const struct rondo__hook_event *event)
{
    if (!event->stream || over(event->stream, event->number) || event->stream == stream_of(h, stream))
        return 0;
    const struct rondo__hook_call call = { .kind = RONDO_HOOK_WAIT, .as.wait = { event->stream, event->number } };
    return rondo__hook_put(h, stream, &call, NULL);
}

int rondo__hook_event_wait(struct rondo__hook_device *h, const struct rondo__hook_event *event, const struct rondo_poll *poll)
{
    return event->stream ? wait_until(h, event->stream, event->number, poll) : tell(h);
}

int rondo__hook_event_query(struct rondo__hook_device *h, const struct rondo__hook_event *event)
{
    if (!h->performing)   /* it may be asked from within a poll */
        for (uint64_t calls = draw(h, QUERY_CALLS + 1); calls; calls--)
            advance(h, NULL);
    int err = h->performing ? 0 : tell(h);
    return err ? err : !event->stream || over(event->stream, event->number);
}

int rondo__hook_sync(struct rondo__hook_device *h)
{
    rondo__hook_drain(h);
    return tell(h);
}

void rondo__hook_defer_end(struct rondo__hook_device *h)
{
    rondo__hook_drain(h);
    while (h->own.next) {
        struct rondo__hook_stream *next = h->own.next->next;
        rondo__free(h->own.next);
        h->own.next = next;
    }
    rondo__free(h->nodes);
    rondo__free(h->arena);
}
