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

/* Segments are taken several at a time, where they are small. */
struct rondo_block {
    struct rondo_block *next;
};

static uint64_t mask_of(const struct rondo_mailbox *box)
{
    return ((uint64_t)1 << box->shift) - 1;
}

static size_t segment_bytes(uint32_t shift)
{
    return sizeof(struct rondo_segment) + (sizeof(struct rondo_message) << shift);
}

/* Segments that lie in a row, to be used in their order. */
static void add_spare(struct rondo_mailbox *box, void *first, int32_t count)
{
    for (int32_t i = count - 1; i >= 0; i--) {
        struct rondo_segment *s = (struct rondo_segment *)(void *)((char *)first + (size_t)i * segment_bytes(box->shift));
        atomic_init(&s->next, box->spare);
        box->spare = s;
    }
    box->segments += count;
}

/* With segments for what most ever carry between two fences. */
struct rondo_mailbox *rondo__mailbox_new(int ranks)
{
    const uint32_t shift = ranks > RONDO_CROWD ? 0 : RONDO_SEGMENT_SHIFT;
    const int32_t count = shift ? 2 : 3;
    struct rondo_mailbox *box = rondo__alloc_zero(1, sizeof *box + (size_t)count * segment_bytes(shift));
    if (!box)
        return NULL;
    box->shift = shift;
    add_spare(box, box + 1, count);
    return box;
}

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

/* More spare segments; false: no memory. */
static bool grow(struct rondo_mailbox *box)
{
    const int32_t count = box->shift ? 1 : 2;
    struct rondo_block *block = rondo__alloc(sizeof *block + (size_t)count * segment_bytes(box->shift));
    if (!block)
        return false;
    block->next = box->blocks;
    box->blocks = block;
    add_spare(box, block + 1, count);
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
    if (!box)
        return RONDO_ENOMEM;
    const uint64_t mask = mask_of(box), at = box->posted & mask;
    if (box->fences != fences) {
        box->fences = fences;
        box->since = 0;
    }
    while (!(box->since & mask) && (uint64_t)box->segments < (box->since >> box->shift) + 2 &&
           box->segments < RONDO_MESSAGES_MANY >> box->shift)
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
    if (bytes <= RONDO_EAGER)
        memcpy(m->copy, data, bytes);
    else
        m->data = data;
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
    for (uint64_t i = (index - box->first_index) >> box->shift; i > 0; i--)
        s = atomic_load_explicit(&s->next, memory_order_acquire);
    return s;
}

struct rondo_message *rondo__mailbox_peek(struct rondo_mailbox *box, uint64_t index)
{
    return &segment_of(box, index)->message[index & mask_of(box)];
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
    const uint32_t all = 1u << box->shift;
    segment_of(box, index)->taken++;
    /* The last segment stays, used up or not: the writer still has to link the next one to it. */
    while (box->first->taken == all) {
        struct rondo_segment *next = atomic_load_explicit(&box->first->next, memory_order_acquire);   /* pairs with post() */
        if (!next)
            break;
        give_back(box, box->first);
        box->first = next;
        box->first_index += all;
    }
}

void rondo__mailbox_free(struct rondo_mailbox *box)
{
    while (box && box->blocks) {
        struct rondo_block *next = box->blocks->next;
        rondo__free(box->blocks);
        box->blocks = next;
    }
    rondo__free(box);
}
