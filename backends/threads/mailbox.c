/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The mailbox of the thread transport: a list of small segments, appended to by the sender and freed by the receiver. Messages
 * may be taken out of order (shifts may be finished in any order), so a segment goes when all of its messages are taken.
 */
#include "backends/threads/mailbox.h"

#include "core/internal.h"

int rondo__mailbox_post(struct rondo_mailbox *box, const void *data, size_t bytes)
{
    uint64_t at = box->posted % RONDO_SEGMENT;
    if (at == 0) {
        struct rondo_segment *next = rondo__alloc(sizeof *next);
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

void rondo__mailbox_take(struct rondo_mailbox *box, uint64_t index)
{
    segment_of(box, index)->taken++;
    /* The last segment stays, used up or not: the writer still has to link the next one to it. */
    while (box->first->taken == RONDO_SEGMENT) {
        struct rondo_segment *next = atomic_load_explicit(&box->first->next, memory_order_acquire);   /* pairs with post() */
        if (!next)
            break;
        rondo__free(box->first);
        box->first = next;
        box->first_index += RONDO_SEGMENT;
    }
}

void rondo__mailbox_end(struct rondo_mailbox *box)
{
    /* relaxed, both: whoever ends it has synchronised with reader and writer before */
    struct rondo_segment *s = box->first ? box->first : atomic_load_explicit(&box->head, memory_order_relaxed);
    while (s) {
        struct rondo_segment *next = atomic_load_explicit(&s->next, memory_order_relaxed);
        rondo__free(s);
        s = next;
    }
}
