/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What lib/attention needs to know about a placement beyond the public calls: who holds what, as runs.
 */
#ifndef RONDO_LAYOUT_LAYOUT_H
#define RONDO_LAYOUT_LAYOUT_H

#include "core/arena.h"

#define RONDO_LEAF_DEFAULT 128

/* Leaves [first, the next one's first) go to rank. */
struct rondo__deal {
    int64_t first;
    int32_t rank, reserved;
};

/* Most entries that rondo__layout_deal() writes. */
#define RONDO_DEALS_MAX(ranks) (4 * (int64_t)(ranks))

/* Deals `leaves` >= ranks leaves to the ranks by a layout (1..4; others as zigzag); returns how many entries it wrote. */
int64_t rondo__layout_deal(int layout, int64_t leaves, int32_t ranks, struct rondo__deal *out);

/* ---- by weight (weigh.c) ---- */
/* Cells of some sequences, in order, are to be dealt so that all ranks carry alike. A cell is a run of leaves of one sequence. */
struct rondo__cell {
    int64_t sequence, first, end;      /* leaves, of those that are dealt */
    double weight;
    bool begins;                       /* with it begins what should stay together: a document, or else a sequence */
};
/* load: what each rank carries already. Gives each cell's owner. false: no memory. */
bool rondo__deal_by_weight(const struct rondo__cell *cells, int64_t count, const double *load, int32_t ranks, int32_t *owner,
                           struct rondo__arena *arena);

/* Positions [first, the next run's first) of a sequence. stride 1: all on `rank`. stride = ranks: dealt out key by key, the
 * first to `rank`, the next to (rank + 1) mod ranks, ... */
struct rondo__run {
    int64_t first;
    int32_t rank, stride;
};

/* What a rank holds of a run: positions first, first + step, ... (`count` of them; step 1, or ranks where it was dealt out key by key, even
 * where there is but one), in rows from `row` on. */
struct rondo__rank_run {
    int64_t first, count, step, row;
};

/* All of these lists belong to the placement and hold until it is changed or destroyed. */
int64_t rondo__placement_runs(const rondo_placement *placement, int64_t sequence, const struct rondo__run **runs);
/* The runs of one rank, ascending. */
int64_t rondo__placement_rank_runs(const rondo_placement *placement, int64_t sequence, int32_t rank, const struct rondo__rank_run **runs);
/* Index of the first run that has a position >= position; count: none has. O(log count). */
int64_t rondo__rank_run_find(const struct rondo__rank_run *runs, int64_t count, int64_t position);
/* Of a sequence's length and runs: equal where all positions lie alike. O(1). */
uint64_t rondo__placement_hash(const rondo_placement *placement, int64_t sequence);
const rondo_placement_desc *rondo__placement_desc(const rondo_placement *placement);
/* An empty placement: *out is NULL, or one that is no more, whose memory is used again. After a failure *out is to be destroyed, too. */
int rondo__placement_renew(rondo_placement **out, const rondo_placement_desc *desc);
/* The same of `count` sequences that stay as those named are now (NULL: 0, 1, 2, ...), whatever becomes of `from`. */
int rondo__placement_copy(rondo_placement **out, const rondo_placement *from, const int64_t *names, int64_t count);
/* Appends a turn whose new leaves go where the deals say; they are leaves [first, the next one's first) of the new ones. */
int rondo__placement_append_deals(rondo_placement *placement, int64_t sequence, int64_t tokens, const struct rondo__deal *deals, int64_t count);
/* With all tables, shared or not. */
size_t rondo__placement_bytes(const rondo_placement *placement);

#endif
