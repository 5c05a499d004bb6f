/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A mailbox carries messages from one rank to one other, in order, without a lock and without a limit on how many are under
 * way. A message is a pointer into the sender's memory; a tiny one is a copy. One thread posts, one thread takes.
 */
#ifndef RONDO_THREADS_MAILBOX_H
#define RONDO_THREADS_MAILBOX_H

#include <stdalign.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

/* Largest message that is copied: about what a rank pays anyway to fetch a line of the sender's memory. */
#define RONDO_EAGER 64
#define RONDO_SEGMENT 8
/* Segments that a mailbox takes before it uses one again without a fence in between. */
#define RONDO_SEGMENTS_MANY 32

struct rondo_message {
    const void *data;   /* NULL: the bytes are in copy */
    size_t bytes;
    unsigned char copy[RONDO_EAGER];
};

struct rondo_segment {
    _Atomic(struct rondo_segment *) next;   /* in the list of messages, or of segments to be used again */
    struct rondo_message message[RONDO_SEGMENT];
    int taken;          /* reader's */
};

struct rondo_mailbox {
    /* the writer's line */
    alignas(64) struct rondo_segment *last;
    uint64_t posted;
    _Atomic(struct rondo_segment *) head;   /* the first segment, once there is one */
    _Atomic uint64_t ready;                 /* messages that may be read */
    struct rondo_segment *spare;            /* to be used next */
    uint64_t fences;                        /* that the writer had passed when it posted last */
    uint64_t since;                         /* and how many messages since then */
    int32_t segments, reserved;             /* that there are */
    /* the reader's line */
    alignas(64) struct rondo_segment *first;
    uint64_t first_index;                   /* of first's first message */
    uint64_t promised;                      /* receives started */
    _Atomic(struct rondo_segment *) used;   /* pushed by the reader one by one, taken by the writer all at once */
};

/* Memory that is all zero is an empty mailbox. */
/* fences: how many the writer has passed. 0 or RONDO_ENOMEM, no sentence. */
int rondo__mailbox_post(struct rondo_mailbox *box, const void *data, size_t bytes, uint64_t fences);
static inline int rondo__mailbox_has(struct rondo_mailbox *box, uint64_t index)
{
    /* acquire: pairs with the release in post(), which makes the message's fields visible */
    return atomic_load_explicit(&box->ready, memory_order_acquire) > index;
}
/* Message `index`, which must be there; valid until taken. */
struct rondo_message *rondo__mailbox_peek(struct rondo_mailbox *box, uint64_t index);
void rondo__mailbox_take(struct rondo_mailbox *box, uint64_t index);
/* When neither side uses it any more. */
void rondo__mailbox_end(struct rondo_mailbox *box);

#endif
