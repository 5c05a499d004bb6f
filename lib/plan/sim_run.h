/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the files of the simulator share: simulate.c has the events, sim_match.c finds beforehand which send belongs to which receive and who
 * waits for whom, sim_cores.c has the ranks that share cores. No other file includes this.
 */
#ifndef RONDO_PLAN_SIM_RUN_H
#define RONDO_PLAN_SIM_RUN_H

#include "plan/sim_way.h"
#include "plan/simulate.h"

struct message {
    int64_t pair;                       /* sender * ranks + receiver */
    int64_t send, receive;              /* operations */
    double bytes;
    double at[2];                       /* where it is through its ways out and in; -1: it has not come to them, or is through */
    int32_t left;                       /* ways that it is not through */
    bool followed[2];                   /* another one of this pair is behind it */
};

struct event {
    double time;
    int64_t order;                      /* of two at once the one that was set going first */
    int64_t operation, way, crew;       /* of a crew a rank is the operation; else one of them, and -1 */
    int64_t version;                    /* of a crew or a way: what it was when this was foreseen */
};

/* Where a rank is that shares cores by turns. */
enum place { ELSEWHERE, IN_LINE, SEATED };

/* Ranks that share cores. What computes has `left` to do at `since`; all go on alike fast. */
struct crew {
    int64_t first;                      /* of the list of ranks: its ranks that compute now */
    int64_t busy, version;
    double since;
    int64_t seated, waiting, turns;     /* where there are slices: of the list of seats, ranks that have a core, and behind them those in line for one */
};

struct run {
    struct rondo__sim *sim;
    const struct rondo__sim_links *links;
    int64_t *first;                     /* [ranks + 1] */
    int32_t *rank_of;                   /* [operations] */
    int64_t *followers_first;           /* [operations + 1] */
    int64_t *followers;                 /* whom an operation's end lets go on, for each wait */
    int64_t *missing;                   /* [operations] messages of a transfer that are not over */
    struct message *messages;
    int64_t message_count;
    int64_t *of_first, *of;             /* [operations + 1], [2 * messages]: an operation's messages */
    double *stream_free;                /* [ranks] when it may go on, while it computes nothing; then what is owed to it until it is done */
    int64_t *computing;                 /* [ranks] operation + 1 */
    double *left;                       /* [ranks] of what it computes */
    bool *joined;                       /* [ranks] that has begun, and has a core */
    bool *started;                      /* [ranks] that has begun */
    int64_t *seats;                     /* [ranks] lists of ranks */
    double *slice_end;                  /* [ranks] when one who waits gets the core that it has */
    char *place;                        /* [ranks] enum place */
    int64_t *parked, *parked_last;      /* [ranks] operation + 1 that can begin once it has a core; the next ones are behind it */
    int64_t *parked_next;               /* [operations] */
    int64_t most_seated;                /* of a crew; 0: cores do not go by turns */
    double slice;                       /* seconds of a turn, ... */
    double turn;                        /* ... of which so many pass before its rank goes on */
    struct crew *crews;
    int64_t *of_crew;                   /* [ranks] lists of ranks */
    int64_t crew_ranks;
    double cores;
    struct rondo__sim_way *ways;        /* out of and into each rank, then out of and into each link of each node */
    int64_t way_count;
    struct rondo__list heap;            /* struct event */
    int64_t events, over;
    int64_t *fence_next;                /* [ranks] fences behind which a rank is */
    struct rondo__list fences;          /* struct fence, by number */
    bool failed;
};

struct fence {
    int32_t come, reserved;
    double last;
    struct rondo__list waiting;         /* int64_t operations */
};

static inline struct rondo__sim_operation *operation_at(const struct rondo__sim *sim, int64_t index)
{
    return (struct rondo__sim_operation *)sim->operations.items + index;
}

/* ---- simulate.c ---- */

void rondo__sim_push(struct run *r, struct event e);
void rondo__sim_begin_now(struct run *r, int64_t o, double time);
int rondo__sim_no_memory(void);

/* ---- sim_match.c ---- */

/* Messages, and operations' lists of them; then whom each operation's end lets go on. */
int rondo__sim_match(struct run *r);

/* ---- sim_cores.c ---- */

/* Where cores go by turns (most_seated), begins an operation as soon as its rank has one; else now. */
void rondo__sim_begin(struct run *r, int64_t o, double time);
/* What a rank computes begins; the rank is through with it, and this is which it was; it goes elsewhere if it has nothing more to compute. */
void rondo__sim_start(struct run *r, int64_t o, double time);
int64_t rondo__sim_computed(struct run *r, int64_t rank, double time);
void rondo__sim_rest(struct run *r, int64_t rank, double time);
/* Its slice is over while somebody waits. */
void rondo__sim_turn(struct run *r, int64_t rank, double time);
/* Something else that the rank's processor must do. */
void rondo__sim_spend(struct run *r, int64_t rank, double seconds, double time);

#endif
