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
/* Messages of a segment, as a power of two; in groups of more ranks than so many it is one, as mailboxes are many there, and most carry a message
 * or two. */
#define RONDO_SEGMENT_SHIFT 3
#define RONDO_CROWD 32
/* Messages for which a mailbox takes segments before it uses one again without a fence in between. */
#define RONDO_MESSAGES_MANY 256

struct rondo_message {
    size_t bytes;
    union {
        const void *data;
        unsigned char copy[RONDO_EAGER];   /* of so many bytes at most */
    };
};

struct rondo_segment {
    _Atomic(struct rondo_segment *) next;   /* in the list of messages, or of segments to be used again */
    uint32_t taken;     /* reader's */
    struct rondo_message message[];
};

struct rondo_block;

struct rondo_mailbox {
    /* the writer's line */
    alignas(64) struct rondo_segment *last;
    uint64_t posted;
    _Atomic(struct rondo_segment *) head;   /* the first segment, once there is one */
    _Atomic uint64_t ready;                 /* messages that may be read */
    struct rondo_segment *spare;            /* to be used next */
    uint64_t fences;                        /* that the writer had passed when it posted last */
    uint64_t since;                         /* and how many messages since then */
    int32_t segments;                       /* that there are */
    uint32_t shift;                         /* 1 << shift messages in each; never changes */
    /* the reader's line */
    alignas(64) struct rondo_segment *first;
    uint64_t first_index;                   /* of first's first message */
    _Atomic(struct rondo_segment *) used;   /* pushed by the reader one by one, taken by the writer all at once */
    struct rondo_block *blocks;             /* the writer's: what segments were taken in, but for the first ones, which come with the mailbox */
};

/* An empty one, in a group of so many ranks. NULL: no memory. */
struct rondo_mailbox *rondo__mailbox_new(int ranks);
/* box NULL: there was no memory for one. fences: how many the writer has passed. 0 or RONDO_ENOMEM, no sentence. */
int rondo__mailbox_post(struct rondo_mailbox *box, const void *data, size_t bytes, uint64_t fences);
/* box NULL: nothing is in it. */
static inline int rondo__mailbox_has(struct rondo_mailbox *box, uint64_t index)
{
    /* acquire: pairs with the release in post(), which makes the message's fields visible */
    return box && atomic_load_explicit(&box->ready, memory_order_acquire) > index;
}
/* Message `index`, which must be there; valid until taken. */
struct rondo_message *rondo__mailbox_peek(struct rondo_mailbox *box, uint64_t index);
void rondo__mailbox_take(struct rondo_mailbox *box, uint64_t index);
/* When neither side uses it any more; NULL: nothing. */
void rondo__mailbox_free(struct rondo_mailbox *box);

#endif
