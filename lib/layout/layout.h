/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What lib/attention needs to know about a placement beyond the public calls: who holds what, as runs.
 */
#ifndef RONDO_LAYOUT_LAYOUT_H
#define RONDO_LAYOUT_LAYOUT_H

#include "core/internal.h"

/* Leaves [first, the next one's first) go to rank. */
struct rondo__deal {
    int64_t first;
    int32_t rank, reserved;
};

/* Most entries that rondo__layout_deal() writes. */
#define RONDO_DEALS_MAX(ranks) (4 * (int64_t)(ranks))

/* Deals `leaves` >= ranks leaves to the ranks by a layout (1..4); returns how many entries it wrote. */
int64_t rondo__layout_deal(int layout, int64_t leaves, int32_t ranks, struct rondo__deal *out);

/* Positions [first, the next run's first) of a sequence. stride 1: all on `rank`. stride = ranks: dealt out key by key, the
 * first to `rank`, the next to (rank + 1) mod ranks, ... */
struct rondo__run {
    int64_t first;
    int32_t rank, stride;
};

int64_t rondo__placement_runs(const rondo_placement *placement, int64_t sequence, const struct rondo__run **runs);
const rondo_placement_desc *rondo__placement_desc(const rondo_placement *placement);
/* A placement of `count` sequences that holds copies of those named (NULL: 0, 1, 2, ...). */
int rondo__placement_copy(rondo_placement **out, const rondo_placement *from, const int64_t *names, int64_t count);
size_t rondo__placement_bytes(const rondo_placement *placement);

#endif
