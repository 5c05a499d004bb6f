/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the ranks of one communicator share, and the endpoint through which each of them uses it. Included by the files of
 * backends/threads only.
 */
#ifndef RONDO_THREADS_GROUP_H
#define RONDO_THREADS_GROUP_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "backends/bell.h"
#include "backends/threads/mailbox.h"
#include "core/internal.h"

#define RONDO_SENTENCE_BYTES 256

struct rondo_group;
struct rondo_known;                        /* once.c */

/* One rank's share of a group. Lines of its own, so that ranks do not slow each other down. */
struct rondo_member {
    alignas(64) struct rondo_bell *bell;   /* one for each thread: the same in all groups that it is in */
    _Atomic(struct rondo_mailbox *) *inbox;   /* [ranks], by sender, who makes one when it has something for it: of a thousand ranks few pairs may */
    int32_t parent_rank;                   /* -1 in the group that launch made */
    int32_t color, key;                    /* split: written before its first fence, read between its two fences */
    struct rondo_group *child;             /* split: from the leader, written before the second fence, read after it */
    /* what it writes again and again, apart from what others read of it whenever they send it anything */
    alignas(64) _Atomic int32_t reading;   /* 1: it may be reading other ranks' memory */
    _Atomic int32_t left;
    _Atomic uint64_t fences;               /* arrived at */
    /* In the group that launch made, for the thread as such: whom it waits for, for others whose time runs out to see. */
    _Atomic(struct rondo_group *) waits_in;   /* NULL: nobody */
    _Atomic int32_t waits_for;             /* a rank of that group; -1: all who have not come to the fence */
    _Atomic uint64_t turn;                 /* closed tickets from which on it has its turn, and 1; 0: it waits for none */
};

/* Who may compute where ranks outnumber the cores (turns.c); one for all groups of a launch. */
struct rondo_turns {
    struct rondo_group *all;               /* the group that launch made */
    int32_t cores, reserved;
    alignas(64) _Atomic uint64_t drawn;    /* tickets, and how many of them are done with */
    _Atomic uint64_t closed;
};

struct rondo_group {
    int32_t ranks;
    bool spins;                            /* a core for every rank: a short wait is cheaper than sleep */
    struct rondo_group *parent;
    _Atomic(struct rondo_group *) children;   /* freed with this group */
    struct rondo_group *next;              /* in the parent's list */
    _Atomic int32_t endpoints;             /* children: those that have not left */
    /* Revoking: whoever turns 0 into 1 writes the three fields, then 2. */
    _Atomic int32_t revoked;
    int32_t revoke_rank, revoke_code;
    char sentence[RONDO_SENTENCE_BYTES];
    alignas(64) _Atomic int32_t arrived;   /* at the present fence */
    _Atomic int32_t leavers;
    alignas(64) _Atomic uint64_t fences;   /* complete */
    struct rondo_turns turns;              /* used in the group that launch made, as what follows */
    pthread_mutex_t lock;                  /* of `known`: what was worked out once, the newest first */
    struct rondo_known *known;
    struct rondo_member member[];
};

struct rondo_endpoint {
    struct rondo_group *group;
    struct rondo_member *me;
    struct rondo_member *seat;             /* in the group that launch made */
    int32_t rank;
    uint64_t fences;                       /* begun by this rank */
    double seconds;                        /* the longest wait inside split, and for a turn */
    struct rondo_turns *turns;
    int32_t places;                        /* turns that there are for what it computes; 0: it needs none */
    bool has_turn;
    double since;                          /* when the computation, or the turn, began */
    uint64_t promised[];                   /* [ranks]: receives started from each */
};

/* Of a group of at most so many ranks, all 0. NULL: no memory. */
struct rondo_endpoint *rondo__endpoint_new(int ranks);

/* Memory for everything but the bells; NULL where there is none. */
struct rondo_group *rondo__group_new(int ranks, struct rondo_group *parent);
void rondo__group_free(struct rondo_group *g);
void rondo__group_free_mail(struct rondo_group *g);
void rondo__group_ring_all(struct rondo_group *g);

void rondo__group_revoke(struct rondo_group *g, int rank, int code, const char *sentence);
/* The revoked group that matters to g: itself or a parent; NULL where none is. */
struct rondo_group *rondo__group_revoked(struct rondo_group *g);

/* Waits until look(ep, arg) says 1 (then 0 is returned) or a code; RONDO_EPEER where the group is revoked meanwhile, unless the
 * caller wants to wait even so; RONDO_ETIMEDOUT. */
int rondo__group_wait(struct rondo_endpoint *ep, int (*look)(struct rondo_endpoint *ep, void *arg), void *arg, double seconds,
                      bool even_if_revoked);
/* The same for rank *peer, or for all who have not come to the fence: -1. After RONDO_ETIMEDOUT *peer is the rank at fault: it waits
 * for nobody, while those before it in the chain wait for the next. */
int rondo__group_wait_for(struct rondo_endpoint *ep, int (*look)(struct rondo_endpoint *ep, void *arg), void *arg, double seconds,
                          int *peer);

/* once() of the table. */
int rondo__group_once(struct rondo_endpoint *ep, const void *key, size_t key_bytes, void *value, size_t value_bytes,
                      int (*make)(void *arg, void *value), void *arg);
void rondo__group_forget(struct rondo_group *g);

/* A computation with so many threads begins, or -1: one that waits for its turn before it begins; 0: it has ended. And what it calls now and then; RONDO_EPEER once revoked. */
void rondo__turns_computing(struct rondo_endpoint *ep, int threads);
int rondo__turns_poll(struct rondo_endpoint *ep);

int rondo__group_fence(struct rondo_endpoint *ep, double seconds, int *peer);
int rondo__group_split(struct rondo_endpoint *ep, int color, int key, struct rondo_endpoint **out, int *peer);

#endif
