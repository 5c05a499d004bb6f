/* SPDX-License-Identifier: BSD-2-Clause
 *
 * RONDO_DELTA_AUTO where it is known what the ranks run on: the way of which the schedules of all ranks, simulated, are over first, of the two with
 * the bits of one rank. A pure function of what ranks have agreed on (core/context.c), so that all choose alike; choose.c is for where nothing is
 * known. Called by plan.c and schedule/api.c.
 */
#include "delta/shown.h"
#include "plan/predict.h"

static int simulate(const rondo_delta_desc *desc, int32_t ranks, const struct rondo__machine *machine, const struct rondo__foresight *on, double *seconds)
{
    struct rondo__sim sim = { .ranks = 0 };
    struct rondo__delta_shown shown;
    const struct rondo__shown w = { .delta = &shown };
    const struct rondo__sim_links links = rondo__sim_links_of(on->hardware, on->beside);
    int err = rondo__delta_shown_make(&shown, desc, ranks, machine, false);
    for (int32_t r = 0; r < ranks && !err && !sim.failed; r++) {
        err = rondo__delta_shown_rank(&shown, r);
        if (!err)
            rondo__sim_shown(&sim, &w, on->hardware);
    }
    if (!err)
        err = rondo__simulate(&sim, &links, seconds);
    rondo__delta_shown_free(&shown);
    rondo__sim_free(&sim);
    return err;
}

int rondo__delta_foresee(rondo_delta_desc *desc, int32_t ranks, const struct rondo__machine *machine, const struct rondo__foresight *on)
{
    static const int32_t ways[] = { RONDO_DELTA_PIPELINE, RONDO_DELTA_COLUMNS };
    double seconds[2] = { 0.0, 0.0 };
    int err = 0;
    if (desc->way != RONDO_DELTA_AUTO || !on->hardware || ranks == 1 || ranks > RONDO_RANKS_FORESEEN)
        return 0;
    for (int i = 0; i < 2 && !err; i++) {
        rondo_delta_desc one = *desc;
        one.way = ways[i];
        err = simulate(&one, ranks, machine, on, seconds + i);
    }
    if (!err)
        desc->way = ways[seconds[1] < seconds[0]];
    return err;
}
