/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The mailbox of the thread transport: a list of small segments, appended to by the sender and emptied by the receiver. Messages may
 * be taken out of order (transfers may be finished in any order), so a segment goes when all of its messages are taken.
 *
 * It goes back to the sender, so that who does the same again allocates nothing. How many segments there are must not depend on who
 * was quick, else one day one more would be needed: there are as many as the messages between two fences may take, wherever in a
 * segment they begin, and only where these are very many are segments used again before the next fence.
 */
#include "backends/threads/mailbox.h"

#include "core/internal.h"

/* The writer's: all segments that the reader is done with. */
static void collect(struct rondo_mailbox *box)
{
    /* acquire: pairs with the release in give_back(); the reader's last look at them was before */
    struct rondo_segment *s = atomic_exchange_explicit(&box->used, NULL, memory_order_acquire);
    while (s) {
        struct rondo_segment *next = atomic_load_explicit(&s->next, memory_order_relaxed);   /* the writer's alone now */
        atomic_store_explicit(&s->next, box->spare, memory_order_relaxed);
        box->spare = s;
        s = next;
    }
}

/* One more spare segment; false: no memory. */
static bool grow(struct rondo_mailbox *box)
{
    struct rondo_segment *s = rondo__alloc(sizeof *s);
    if (!s)
        return false;
    atomic_init(&s->next, box->spare);
    box->spare = s;
    box->segments++;
    return true;
}

/* For the message that comes next; NULL: no memory. */
static struct rondo_segment *next_segment(struct rondo_mailbox *box)
{
    if (!box->spare)
        collect(box);
    if (!box->spare && !grow(box))
        return NULL;
    struct rondo_segment *s = box->spare;
    box->spare = atomic_load_explicit(&s->next, memory_order_relaxed);   /* the writer's alone */
    return s;
}

int rondo__mailbox_post(struct rondo_mailbox *box, const void *data, size_t bytes, uint64_t fences)
{
    uint64_t at = box->posted % RONDO_SEGMENT;
    if (box->fences != fences) {
        box->fences = fences;
        box->since = 0;
    }
    while (box->since % RONDO_SEGMENT == 0 && (uint64_t)box->segments < box->since / RONDO_SEGMENT + 2 &&
           box->segments < RONDO_SEGMENTS_MANY)
        if (!grow(box))
            return RONDO_ENOMEM;
    if (at == 0) {
        struct rondo_segment *next = next_segment(box);
        if (!next)
            return RONDO_ENOMEM;
        atomic_init(&next->next, NULL);
        next->taken = 0;
        /* release: pairs with the acquire in segment_of() and take(). Afterwards the old segment is the reader's alone. */
        if (box->last)
            atomic_store_explicit(&box->last->next, next, memory_order_release);
        else
            atomic_store_explicit(&box->head, next, memory_order_release);
        box->last = next;
    }
    struct rondo_message *m = &box->last->message[at];
    m->bytes = bytes;
    m->data = data;
    if (bytes <= RONDO_EAGER) {
        memcpy(m->copy, data, bytes);
        m->data = NULL;
    }
    box->posted++;
    box->since++;
    /* release: pairs with the acquire in has() */
    atomic_store_explicit(&box->ready, box->posted, memory_order_release);
    return 0;
}

static struct rondo_segment *segment_of(struct rondo_mailbox *box, uint64_t index)
{
    /* acquire, here and below: pairs with the release in post() */
    if (!box->first)
        box->first = atomic_load_explicit(&box->head, memory_order_acquire);
    struct rondo_segment *s = box->first;
    for (uint64_t i = (index - box->first_index) / RONDO_SEGMENT; i > 0; i--)
        s = atomic_load_explicit(&s->next, memory_order_acquire);
    return s;
}

struct rondo_message *rondo__mailbox_peek(struct rondo_mailbox *box, uint64_t index)
{
    return &segment_of(box, index)->message[index % RONDO_SEGMENT];
}

static void give_back(struct rondo_mailbox *box, struct rondo_segment *s)
{
    /* The writer only ever takes the whole list, so a head that was seen is in the list still, or the exchange fails. */
    struct rondo_segment *head = atomic_load_explicit(&box->used, memory_order_relaxed);
    do
        atomic_store_explicit(&s->next, head, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&box->used, &head, s, memory_order_release, memory_order_relaxed));   /* collect() */
}

void rondo__mailbox_take(struct rondo_mailbox *box, uint64_t index)
{
    segment_of(box, index)->taken++;
    /* The last segment stays, used up or not: the writer still has to link the next one to it. */
    while (box->first->taken == RONDO_SEGMENT) {
        struct rondo_segment *next = atomic_load_explicit(&box->first->next, memory_order_acquire);   /* pairs with post() */
        if (!next)
            break;
        give_back(box, box->first);
        box->first = next;
        box->first_index += RONDO_SEGMENT;
    }
}

static void free_list(struct rondo_segment *s)
{
    while (s) {
        struct rondo_segment *next = atomic_load_explicit(&s->next, memory_order_relaxed);
        rondo__free(s);
        s = next;
    }
}

void rondo__mailbox_end(struct rondo_mailbox *box)
{
    /* relaxed, all: whoever ends it has synchronised with reader and writer before */
    free_list(box->first ? box->first : atomic_load_explicit(&box->head, memory_order_relaxed));
    free_list(box->spare);
    free_list(atomic_load_explicit(&box->used, memory_order_relaxed));
}
