/* SPDX-License-Identifier: BSD-2-Clause
 *
 * All-to-all over heads: what all_to_all.c, which says what all ranks move, and all_to_all_build.c, which makes one rank's schedule, have
 * in common. Ranks stand in teams of grid[0] neighbours: rank = team * grid[0] + seat.
 */
#ifndef RONDO_ATTENTION_ALL_TO_ALL_H
#define RONDO_ATTENTION_ALL_TO_ALL_H

#include "attention/algorithms/algorithms.h"

/* Which heads a seat has. */
struct rondo__seat {
    int64_t head, heads, kv_head, kv_heads;
};

static inline struct rondo__seat rondo__seat_of(const struct rondo__shape *shape, int32_t seats, int32_t seat)
{
    const int64_t group = shape->heads / shape->kv_heads;
    struct rondo__seat s = { .head = shape->heads * seat / seats };
    s.heads = shape->heads * (seat + 1) / seats - s.head;
    s.kv_head = s.head / group;
    s.kv_heads = s.heads ? (s.head + s.heads - 1) / group + 1 - s.kv_head : 0;
    return s;
}

struct rondo__heads_flow {
    struct rondo__flow base;
    bool direct;
    int32_t *reach;        /* [teams] ring: the last hop that anybody needs; 0: it stays */
    int64_t *q_rows;       /* [ranks] of queries that see something */
    int64_t *rows;         /* [ranks] ring: of its part of its team's parcel */
    int64_t *first, *at;   /* [sequences][ranks] ring: the first row of the sequence in the part; where that lies in it */
    int64_t *count;        /* [sequences][ranks] ring: and how many */
};

/* The strips of a team in a sequence: *first and on; their number. */
int64_t rondo__team_strips(const struct rondo__survey *s, int64_t sequence, int32_t team, int32_t seats, int64_t *first);
/* What the queries of a team see of the rows of ranks [first, first + ranks), but not of `holder`. Empties the lists. false: no memory. */
bool rondo__team_needs(const struct rondo__survey *s, int64_t sequence, int32_t team, int32_t seats, int32_t holder, int32_t first,
                       int32_t ranks, struct rondo__list *sees, struct rondo__list *out);

/* Results that go back to whoever has the rows. */
enum { RONDO_SEAT_OUT, RONDO_SEAT_LSE, RONDO_SEAT_STATS, RONDO_SEAT_RESULTS };

/* stats only where probabilities are wanted */
static inline int rondo__seat_results(const struct rondo__shape *shape)
{
    return shape->probs ? RONDO_SEAT_RESULTS : RONDO_SEAT_STATS;
}

static inline size_t rondo__seat_result_bytes(const struct rondo__shape *shape, int result, int64_t heads)
{
    if (result == RONDO_SEAT_OUT)
        return (size_t)(heads * shape->value_dim) * rondo_type_size(shape->out_type);
    return (size_t)heads * (result == RONDO_SEAT_STATS ? 2 : 1) * sizeof(float);
}

int rondo__heads_build(struct rondo__build *b);

#endif
