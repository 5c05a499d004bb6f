/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Gradients whose sums are made by several ranks: which nodes of the two trees the leaves of each team of ranks make, jobs of a node of queries and a
 * node of keys, where what they give lies, and the joins of all that comes to a leaf. For builders of backward_build.h that let rows move to other
 * ranks and nodes of these go home. On a ring a team is a rank; on a grid a rank has the queries of one team and the keys of another; where heads are
 * dealt out, a team is neighbours, of which each has some heads of all of the team's rows.
 */
#ifndef RONDO_ATTENTION_BACKWARD_NODES_H
#define RONDO_ATTENTION_BACKWARD_NODES_H

#include "attention/backward_build.h"

/* Buffers of nodes of a step: what it gives to the rows that stay, what to those that move, and what comes from another rank of rows that are at
 * home here. */
enum { RONDO_STORE_HOME, RONDO_STORE_MADE, RONDO_STORE_CAME, RONDO_STORES };

/* One side: leaves and nodes of all ranks. */
struct rondo__gradient_side {
    struct rondo__list leaves;         /* struct rondo_backward_leaf, by sequence, then leaf */
    struct rondo__list nodes;          /* by team, then sequence, then leaf */
    int64_t *of_team;                  /* [ranks + 1]: where those of each team begin */
};

struct rondo__crossing;
/* Adds to messages and bytes those of the rows that `at` needs of each rank: needs [ranks], as hull has them. */
typedef void rondo__crossing_count(struct rondo__crossing *c, int32_t at, const struct rondo__rows *needs);

struct rondo__crossing {
    struct rondo__gradients *b;
    bool queries_move;                 /* of the two sides of a ring the one that moves */
    int32_t columns;                   /* of a grid, by which teams are told (rondo__crossing_team()), or 0 */
    int32_t seats;                     /* ranks of a team, who have its heads; or 0. Neither: it is a ring */
    int32_t stages;                    /* of joins: steps of a ring, or one; of teams two for each step */
    struct rondo__gradient_side side[2];        /* keys, queries */
    /* For all ranks, where there is something to count with; else for this one and those that it has to do with. What each of them makes and needs of
     * each other one is looked at rank by rank, and kept of those alone that this one is: a thousand ranks of one process would have a thousand tables
     * of a million, and look at a million pairs each. */
    rondo__crossing_count *count;      /* of a grid and teams; NULL: nothing is counted */
    uint64_t messages, bytes;          /* that go between all of them, but for rows of a ring */
    int32_t *reach;                    /* [ranks]: of a ring: how many ranks on the last one is who needs its rows */
    struct rondo__rows *hull;          /* [ranks]: of a ring: of the rows that others need; of a grid and teams: what this rank needs of each one's (of
                                          teams of keys) */
    struct rondo__rows *asked;         /* [ranks]: of a grid and teams: what each one needs of this rank's */
    /* For this one, of its own leaves: */
    struct rondo__list given[2];       /* what comes to each, of keys and of queries */
    int64_t *joins_first;              /* [2 * stages + 1]: joins of each stage, of keys and of queries */
    int64_t waiting[2];                /* floats of nodes that wait for a later stage */
    int32_t wait_store[2];
};

/* Number of the team of which a rank has the queries, or the keys, and is. */
static inline int32_t rondo__crossing_team(const struct rondo__crossing *c, bool queries, int32_t rank)
{
    if (c->seats)
        return rank / c->seats;
    return !c->columns ? rank : queries ? rank % c->columns : rank / c->columns;
}

/* Of a grid: who else can have what `at` needs, or get what it makes: its row's ranks, then those of its column; -1 where that is told already. */
static inline int32_t rondo__crossing_peers(const struct rondo__crossing *c) { return c->columns + c->b->ranks / c->columns; }
static inline int32_t rondo__crossing_peer(const struct rondo__crossing *c, int32_t at, int32_t i)
{
    const int32_t of = i < c->columns ? at / c->columns * c->columns + i : at % c->columns + (i - c->columns) * c->columns;
    return i >= c->columns && of == at ? -1 : of;
}

/* The heads of a rank. */
struct rondo__backward_heads rondo__crossing_heads(const struct rondo__crossing *c, int32_t rank);
/* { 0 } made of who has what, a ring, a grid or teams; or freed after a failure, too. A ring is looked at for all ranks unless the way that b goes has
 * that already. false: no memory. */
bool rondo__crossing_make(struct rondo__crossing *c, struct rondo__gradients *b, bool queries_move);
bool rondo__crossing_grid(struct rondo__crossing *c, struct rondo__gradients *b, int32_t columns, rondo__crossing_count *count);
bool rondo__crossing_teams(struct rondo__crossing *c, struct rondo__gradients *b, int32_t teams, rondo__crossing_count *count);
void rondo__crossing_free(struct rondo__crossing *c);
/* Jobs of this rank's rows and those of `of`, which give nodes to the stores HOME and MADE of this step, so many floats. */
bool rondo__crossing_jobs(struct rondo__crossing *c, int32_t of, int32_t step, const int32_t *stores, int64_t *floats);
/* What rank `from` makes of this rank's rows in that step, as it lies in its message. */
bool rondo__crossing_come(struct rondo__crossing *c, int32_t from, int32_t step, int32_t store, int64_t *floats);
/* The same of a grid: jobs of both teams' rows; nodes go to the stores [ranks] of who has these. */
bool rondo__crossing_tile(struct rondo__crossing *c, const int32_t *stores, int64_t *floats);
bool rondo__crossing_tile_come(struct rondo__crossing *c, int32_t from, int32_t store, int64_t *floats);
/* The same of teams, whose keys go round: jobs of this team's queries and the keys of the team `step` before it. Nodes go to the stores of this team's
 * seats, and, behind these, of that one's; those of this rank's own rows are joined in stage 2 * step, and what comes in the next one or, where all
 * is shown until the end, in the last one. */
bool rondo__crossing_seat(struct rondo__crossing *c, int32_t step, const int32_t *stores, int64_t *floats);
bool rondo__crossing_seat_come(struct rondo__crossing *c, int32_t from, int32_t step, int32_t store, int64_t *floats);
/* After all of these: joins of all that comes to each leaf of this rank's. */
bool rondo__crossing_join(struct rondo__crossing *c);
/* Where the nodes of a store lie, once it has a buffer. */
void rondo__set_store(struct rondo__gradients *b, int32_t store, int32_t buffer, int64_t floats);

#endif
