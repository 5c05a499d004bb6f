/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Discrete events over ranks, their streams and the links between them: what the schedules of all ranks would take on a machine. Its
 * operations are made from schedules that really run (sim_schedule.c), or as a paper prints them (sim_paper.c); predict.c asks for the times.
 *
 * Rules. A rank's computations and copies happen one after the other, in the order of its list. Each operation begins when what it waits for is
 * over. Ranks of a node that compute at the same time share its cores where these are fewer, evenly or by turns (sim_cores.c). What it takes a
 * processor to send or receive a message is done within the computation that goes on there, which then takes longer, or else before the next one. A
 * transfer begins with its latency, which the rank's stream spends too: that small exchanges end one after another, whatever is computed beside
 * them, is what decoding shows. Then its messages may go, each once its peer's transfer has come so far; a message takes the sender's way out and
 * the receiver's way in, each for its bytes. Messages between the same two ranks take a way one after another, in the order in which they become
 * ready, and others share it evenly; a way out may have a bucket, from which a burst goes at once, of who comes first (sim_way.h). A fence is over
 * when all ranks have done what comes before it.
 */
#ifndef RONDO_PLAN_SIMULATE_H
#define RONDO_PLAN_SIMULATE_H

#include "core/list.h"

/* Ranks that are alike share this: how they hang together. */
struct rondo__sim_links {
    int32_t node_ranks;                 /* ranks 0 to node_ranks - 1 are one node, and so on */
    int32_t links;                      /* of a node, to others; its ranks are dealt to them in turn */
    double bandwidth, latency;          /* of each link: bytes/s in each direction, seconds */
    double exchange_bandwidth, exchange_latency;   /* the same where all send to all */
    double local_bandwidth, local_latency;         /* of each rank, within a node */
    double cores;                       /* how many times what one does by itself its ranks compute at a time; 0: each has a core */
    double work, local_work;            /* seconds of a rank's for each byte that it sends or receives, to other nodes and within its own */
    int32_t core_ranks;                 /* that share these cores */
    double burst;                       /* bytes that a link to others, after a rest, takes at once */
    double inward;                      /* bytes/s that come in by a link from others; 0: its bandwidth */
    double slice;                       /* seconds for which a rank keeps a core while others wait for one; 0: they share evenly at every moment */
    double slowest;                     /* speed of the slowest core while all are busy; 0: 1 */
    double turn;                        /* seconds until a rank goes on that gets a core by turns; at most half a slice */
};

static inline double rondo__whole_cores(double cores)
{
    const double whole = cores < 1e9 ? (double)(int64_t)cores : cores;
    return whole < cores ? whole + 1.0 : whole;
}

/* How fast the slowest of `busy` ranks goes on that share these cores. One has the speed 1. As more compute, clocks and caches give less to
 * each, and somebody else may be on a core, so that it falls, in proportion, to `slowest` where all cores are busy; what ranks share out
 * among them never is more than all cores do. */
static inline double rondo__core_speed(double cores, double slowest, double busy)
{
    const double most = rondo__whole_cores(cores);
    const double full = busy < most ? busy : most;
    const double speed = most > 1.0 && slowest > 0.0 ? 1.0 - (1.0 - slowest) * (full - 1.0) / (most - 1.0) : 1.0;
    return busy > 1.0 && cores / busy < speed ? cores / busy : speed;
}

enum rondo__sim_kind { RONDO_SIM_STREAM, RONDO_SIM_TRANSFER, RONDO_SIM_FENCE };

struct rondo__sim_part {
    int32_t peer, receives;
    double bytes;
};

struct rondo__sim_operation {
    int32_t kind, exchange;             /* exchange: of all with all */
    int32_t computes, waiting;          /* computes: a stream's, that is no copy. waiting: the simulator's */
    double seconds;                     /* of a stream's */
    int64_t parts_first, parts, waits_first, waits;
    double begin, end;                  /* filled; -1 before */
};

struct rondo__sim {
    int32_t ranks;
    struct rondo__list first;           /* int64_t [ranks + 1]: each rank's operations, set while they are added */
    struct rondo__list operations, parts, waits;   /* waits: int64_t, numbers among all operations */
    bool failed;                        /* no memory: everything else is void */
};

void rondo__sim_free(struct rondo__sim *sim);
/* The next rank's operations follow. */
void rondo__sim_rank(struct rondo__sim *sim);
/* Behind the first rank: room for so many ranks that are like it, as to copy lists that grow takes a third of the time. */
void rondo__sim_reserve(struct rondo__sim *sim, int32_t ranks);
/* All give the number of the operation among all. */
int64_t rondo__sim_stream(struct rondo__sim *sim, double seconds, bool computes);
int64_t rondo__sim_transfer(struct rondo__sim *sim, bool exchange);
void rondo__sim_part(struct rondo__sim *sim, int32_t peer, bool receives, double bytes);   /* of the last operation */
int64_t rondo__sim_fence(struct rondo__sim *sim);
void rondo__sim_wait(struct rondo__sim *sim, int64_t operation);                           /* of the last operation */

/* Fills begin and end of all operations; *seconds: when the last one is over. RONDO_EINVAL: a message has no receiver, or ranks wait for
 * ever. */
int rondo__simulate(struct rondo__sim *sim, const struct rondo__sim_links *links, double *seconds);

#endif
