/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Reduce, or sharded softmax: keys stay; the queries that see something of a rank's keys come to it all at once, and what it has for them goes
 * back to be reduced at their owner - nodes of the canonical tree, in its order, where others send a maximum and a sum.
 */
#include "attention/algorithms/tile.h"

static int flow(struct rondo__survey *s, const struct rondo__shape *shape, const struct rondo__machine *machine)
{
    static const struct rondo__tile_kind kind = { "queries", NULL, "reduce", "end of reduce", false };
    return rondo__tile_flow(s, shape, machine, &kind, 1);
}

static bool pairs(const struct rondo__survey *s, const struct rondo__shape *shape, uint64_t *of_rank)
{
    return rondo__tile_pairs(s, shape, 1, of_rank);
}

const struct rondo__algorithm rondo__reduce = { RONDO_REDUCE, "reduce", flow, rondo__tile_build, pairs };
