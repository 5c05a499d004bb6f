/* SPDX-License-Identifier: BSD-2-Clause
 *
 * All-gather: the keys that a rank's queries see come from all ranks at once, then one computation takes them. Fewest steps, and the most
 * memory: as Llama 3's context parallelism (arXiv:2407.21783, section 3.3.2) does it, less what nobody sees.
 */
#include "attention/algorithms/tile.h"

static int flow(struct rondo__survey *s, const struct rondo__shape *shape, const struct rondo__machine *machine)
{
    static const struct rondo__tile_kind kind = { NULL, "all-gather", NULL, "end of all-gather", true };
    return rondo__tile_flow(s, shape, machine, &kind, s->roles.ranks);
}

static bool pairs(const struct rondo__survey *s, const struct rondo__shape *shape, uint64_t *of_rank)
{
    return rondo__tile_pairs(s, shape, s->roles.ranks, of_rank);
}

const struct rondo__algorithm rondo__all_gather = { RONDO_ALL_GATHER, "all-gather", flow, rondo__tile_build, pairs };
