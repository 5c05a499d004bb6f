/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What attention takes at least, of which nothing is simulated: a thousand ranks in a ring have a million messages, and who compares ways need
 * not know to the microsecond how late one comes that is too late in any case. Called by predict.c and foresee.c.
 *
 * A rank's list by itself, as if all others were always ready and nobody else was on its links and cores: the longest chain of what waits for
 * each other, and what its stream and its ways have to do in all. It is that of a few ranks, as the lists of all would take as long to make as
 * to simulate; a bound holds whichever they are. What is left out - latencies that a stream spends, work, shares of links and cores - only
 * makes a simulation longer.
 */
#include "plan/predict.h"

/* Sums are rounded otherwise than those of a simulation. */
#define ROUNDED (1.0 - 1e-9)

enum { OUT, IN, NEAR_OUT, NEAR_IN, WAYS };

/* Seconds of each way that a transfer's messages take, and the latency before them. */
static double transfer(const struct rondo__sim *sim, const struct rondo__sim_operation *o, const struct rondo__sim_links *l, int32_t rank,
                       double ways[WAYS])
{
    const struct rondo__sim_part *part = (const struct rondo__sim_part *)sim->parts.items + o->parts_first;
    const double far = o->exchange ? l->exchange_bandwidth : l->bandwidth, inward = l->inward > 0.0 ? l->inward : far;
    double latency = 0.0;
    memset(ways, 0, WAYS * sizeof *ways);
    for (int64_t i = 0; i < o->parts; i++) {
        const bool near = part[i].peer / l->node_ranks == rank / l->node_ranks, in = part[i].receives != 0;
        const double own = near ? l->local_latency : o->exchange ? l->exchange_latency : l->latency;
        if (!(part[i].bytes > 0.0))
            continue;
        latency = own > latency ? own : latency;
        ways[near ? in ? NEAR_IN : NEAR_OUT : in ? IN : OUT] += part[i].bytes / (near ? l->local_bandwidth : in ? inward : far);
    }
    return latency;
}

static double most(const double ways[WAYS], double burst)
{
    double seconds = ways[OUT] > burst ? ways[OUT] - burst : 0.0;
    for (int k = IN; k < WAYS; k++)
        seconds = ways[k] > seconds ? ways[k] : seconds;
    return seconds;
}

/* Of the list of operations first to end, which are those of this rank. Fills their ends. */
static double least_of(const struct rondo__sim *sim, int64_t first, int64_t end, const struct rondo__sim_links *l, int32_t rank, int32_t ranks)
{
    const int64_t *waits = sim->waits.items;
    struct rondo__sim_operation *all = sim->operations.items;
    const double burst = l->burst / l->bandwidth;
    double stream = 0.0, computed = 0.0, fence = 0.0, last = 0.0, passed[WAYS] = { 0.0 };
    for (int64_t i = first; i < end; i++) {
        struct rondo__sim_operation *o = all + i;
        double ready = o->kind == RONDO_SIM_FENCE ? last : fence, ways[WAYS];
        for (int64_t k = o->waits_first; k < o->waits_first + o->waits; k++)
            ready = all[waits[k]].end > ready ? all[waits[k]].end : ready;
        if (o->kind == RONDO_SIM_STREAM) {
            computed += o->seconds;
            o->end = stream = (stream > ready ? stream : ready) + o->seconds;
        } else if (o->kind == RONDO_SIM_FENCE) {
            o->end = fence = ready + (ranks > 1 ? l->latency : 0.0);
        } else {
            const double latency = transfer(sim, o, l, rank, ways);
            o->end = ready + latency + most(ways, burst);
            for (int k = 0; k < WAYS; k++)
                passed[k] += ways[k];
        }
        last = o->end > last ? o->end : last;
    }
    const double moved = most(passed, burst);
    last = computed > last ? computed : last;
    return ROUNDED * (moved > last ? moved : last);
}

int rondo__sim_least(const struct rondo__design *design, const rondo_hardware *h, const struct rondo__sim_links *links, double *seconds,
                     uint64_t *workspace)
{
    const int32_t ranks = design->ranks, some[] = { 0, ranks / 2, ranks - 1 };
    struct rondo__sim sim = { .ranks = 0 };
    struct rondo__part_of part;
    int err = 0;
    memset(&part, 0, sizeof part);
    *seconds = 0.0;
    *workspace = 0;
    for (int i = 0; i < 3 && !err; i++) {
        const int64_t first = sim.operations.count;
        struct rondo__counts counts;
        if (i && some[i] == some[i - 1])
            continue;
        err = rondo__design_build(design, some[i], &part);
        if (err)
            break;
        rondo__sim_add(&sim, design, &part, h);
        if (sim.failed) {
            err = rondo__fail(RONDO_ENOMEM, "no memory for what %d ranks take at least", (int)ranks);
            break;
        }
        const double own = least_of(&sim, first, sim.operations.count, links, some[i], ranks);
        *seconds = own > *seconds ? own : *seconds;
        rondo__schedule_count(&part.schedule, &counts);
        const uint64_t room = (uint64_t)counts.workspace_bytes + part.schedule.spare_bytes;
        *workspace = room > *workspace ? room : *workspace;
    }
    rondo__part_free(&part);
    rondo__sim_free(&sim);
    return err;
}
