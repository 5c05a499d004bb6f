/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Halo: each rank gets just the keys that its queries see and it does not hold, from whoever has them, step by step behind computing. With a
 * window that is the rim of its positions; without one it is as much as a ring moves where everybody sees everything, and less elsewhere.
 */
#include "attention/algorithms/tile.h"

static int flow(struct rondo__survey *s, const struct rondo__shape *shape, const struct rondo__machine *machine)
{
    static const struct rondo__tile_kind kind = { NULL, "halo", NULL, "end of halo", false };
    return rondo__tile_flow(s, shape, machine, &kind, s->roles.ranks);
}

static bool pairs(const struct rondo__survey *s, const struct rondo__shape *shape, uint64_t *of_rank)
{
    return rondo__tile_pairs(s, shape, s->roles.ranks, of_rank);
}

const struct rondo__algorithm rondo__halo = { RONDO_HALO, "halo", flow, rondo__tile_build, pairs };
