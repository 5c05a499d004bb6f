/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A way that messages take at the same time: out of a rank or its node, or into it. Messages between different ranks have even shares of it, as
 * streams of TCP and queues of a network card have; those between the same two go one after another. A way out may have a bucket, out of
 * which messages go at once, those that come first before others: it fills while nothing goes. simulate.c's.
 *
 * Served evenly, what is over first is told by one number: `served` is what each stream has been given since the beginning, in seconds of the
 * whole way, so that a message is through when this has come to what it was when the message came and its own seconds.
 */
#ifndef RONDO_PLAN_SIM_WAY_H
#define RONDO_PLAN_SIM_WAY_H

#include "core/list.h"

struct rondo__sim_way {
    double since, served;               /* until when it was followed; see above */
    double bucket, most;                /* seconds of the way that go at once: that are there, and that there may be */
    double next;                        /* when the first of the queue is through; -1: not known */
    int64_t streams, version;           /* version: the caller's, of what it foresees */
    struct rondo__list queue;           /* a heap by `at` */
};

/* A message comes: this many seconds of the way, behind the message of the same stream that is through at `behind` (-1: it has the stream to
 * itself). *at: where it is through. false: no memory. */
bool rondo__sim_way_add(struct rondo__sim_way *way, double time, int64_t message, double seconds, double behind, double *at);
/* When to look again; -1: nothing is under way. */
double rondo__sim_way_next(struct rondo__sim_way *way);
/* A message that is through at this time, which the caller looks again at until it is -1: then there are no more. */
int64_t rondo__sim_way_take(struct rondo__sim_way *way, double time);
/* The message was the last one of its stream. */
static inline void rondo__sim_way_leave(struct rondo__sim_way *way)
{
    way->streams--;
}

#endif
