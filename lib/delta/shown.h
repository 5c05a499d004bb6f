/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The delta rule's schedules for readers that run nothing: any rank's list, and what its operations compute and read. Made by shown.c, of a design
 * without a context; asked by schedule/api.c, plan/sim_schedule.c and foresee.c.
 */
#ifndef RONDO_DELTA_SHOWN_H
#define RONDO_DELTA_SHOWN_H

#include "attention/attention.h"
#include "delta/backward.h"

struct rondo__delta_shown {
    struct rondo__delta_design design;
    struct rondo__machine machine;
    bool of_gradients;
    struct rondo__delta_built built;           /* of the rank that was asked about last: one of these */
    struct rondo__delta_backward backward;
};

/* *out is freed by rondo__delta_shown_free(), also after a failure. of_gradients: the descriptor asks for them. */
int rondo__delta_shown_make(struct rondo__delta_shown *out, const rondo_delta_desc *desc, int32_t ranks, const struct rondo__machine *machine,
                            bool of_gradients);
void rondo__delta_shown_free(struct rondo__delta_shown *s);
int rondo__delta_shown_rank(struct rondo__delta_shown *s, int32_t rank);
static inline const struct rondo__schedule *rondo__delta_shown_list(const struct rondo__delta_shown *s)
{
    return s->of_gradients ? &s->backward.built.schedule : &s->built.schedule;
}

/* Of a COMPUTE: FLOPs, bytes that it reads and writes, and how many outputs, or gradients of values, it makes; sums over tokens count for nothing. */
struct rondo__delta_work {
    double flops, bytes, values;
    bool back;                         /* of gradients, beside the states that they are made from */
};
struct rondo__delta_work rondo__delta_shown_work(const struct rondo__delta_shown *s, const struct rondo__operation *o);

/* Which way is over first, of those with the bits of one rank, as their schedules say on this hardware: into desc->way, where that is auto. */
int rondo__delta_foresee(rondo_delta_desc *desc, int32_t ranks, const struct rondo__machine *machine, const struct rondo__foresight *on);

#endif
