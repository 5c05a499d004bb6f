/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The table of one sequence: which rank holds which of its positions, as runs, by position and by rank. placement.c decides who gets what and
 * writes it down here. Positions are only ever added at the end. A table is one placement's: plans have copies, in memory that they use again and
 * again, so that to add to a table never takes a copy first.
 */
#ifndef RONDO_LAYOUT_TABLE_H
#define RONDO_LAYOUT_TABLE_H

#include "layout/layout.h"

/* Runs [at, at + count) of the table's pool are this rank's, and up to `room` may be. */
struct rondo__rank_list {
    uint32_t at, count, room;
    uint32_t more;                   /* while room is made: how many are to come */
};

struct rondo__table {
    int32_t ranks, begin;            /* begin: the rank that takes the first small turn */
    int64_t length, singles;         /* singles: turns of one token so far that went token by token */
    uint64_t hash;                   /* of all runs */
    struct rondo__run *runs;         /* all ranks', by position */
    int64_t count, room;
    struct rondo__rank_run *pool;
    uint32_t pool_used, pool_room;
    bool ranked;                     /* whether `winners` is true */
    struct rondo__rank_list *lists;  /* [ranks] */
    int64_t *held;                   /* [ranks] */
    int32_t *winners;                /* [ranks] a tournament for who holds least, over (rank - begin) mod ranks */
};

/* An empty one. NULL: no memory. */
struct rondo__table *rondo__table_new(int32_t ranks, int32_t begin);
void rondo__table_free(struct rondo__table *table);   /* NULL is fine */
/* Empty again; the memory is kept. */
void rondo__table_clear(struct rondo__table *table, int32_t begin);
/* Makes *to, which is NULL or a table of as many ranks, what `from` is, in the memory that it has where that suffices. false: no memory, and it
 * is empty. */
bool rondo__table_copy(struct rondo__table **to, const struct rondo__table *from);

/* How tokens are added: room first (the only step that can fail), then the tokens, rank by rank. `deals` name a rank for each run that
 * may come; one more may come to `filler`, unless that is -1. */
bool rondo__table_reserve(struct rondo__table *table, const struct rondo__deal *deals, int64_t count, int32_t filler);
void rondo__table_add(struct rondo__table *table, int32_t rank, int64_t tokens);
void rondo__table_add_single(struct rondo__table *table, int32_t rank);

/* Who holds how much: counted before the tokens are added, so that the leaves of one turn see each other. Negative to take back. */
void rondo__table_count(struct rondo__table *table, int32_t rank, int64_t tokens);
/* Who holds least; of several the first from `begin` on. O(log ranks), after many have changed O(ranks). */
int32_t rondo__table_emptiest(struct rondo__table *table);

int32_t rondo__table_owner(const struct rondo__table *table, int64_t position);
size_t rondo__table_bytes(const struct rondo__table *table);

#endif
