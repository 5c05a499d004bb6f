/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What predict.c puts together: the attention of a layer as operations of the simulator, as this library runs it (sim_schedule.c) or as
 * Algorithms 2 to 4 of arXiv:2411.01783 print it (sim_paper.c). sim_trace.c simulates a schedule, and tells what happens when.
 */
#ifndef RONDO_PLAN_PREDICT_H
#define RONDO_PLAN_PREDICT_H

#include "plan/cost.h"
#include "plan/simulate.h"
#include "schedule/api.h"

/* Adds the operations of all ranks of one context. *workspace: bytes of the rank that needs most; *algorithm, *layout: that would run. */
int rondo__sim_schedules(struct rondo__sim *sim, const rondo_cost_case *c, const rondo_hardware *h, uint64_t *workspace, int32_t *algorithm,
                         int32_t *layout);
/* What a design's ranks take at least, from the lists of some of them (sim_least.c); *workspace: of these. */
int rondo__sim_least(const struct rondo__design *design, const rondo_hardware *h, const struct rondo__sim_links *links, double *seconds,
                     uint64_t *workspace);
int rondo__sim_design_of(const rondo_cost_case *c, const rondo_hardware *h, struct rondo__design *design);
/* One rank's operations; the next one's follow. h: complete. */
void rondo__sim_add(struct rondo__sim *sim, const struct rondo__design *design, const struct rondo__part_of *part, const rondo_hardware *h);
void rondo__sim_shown(struct rondo__sim *sim, const struct rondo__shown *w, const rondo_hardware *h);   /* perhaps of gradients */
/* Those of all ranks of a design, proved on their way (rondo__schedule_check(), whose sentence a faulty schedule gets). maker: makes their parts
 * instead of rondo__design_build(); or NULL. */
struct rondo__sim_maker {
    int (*build)(void *arg, const struct rondo__design *design, int32_t rank, struct rondo__part_of *part);
    void *arg;
};
int rondo__sim_design(struct rondo__sim *sim, const struct rondo__design *design, const rondo_hardware *h, const struct rondo__sim_maker *maker,
                      uint64_t *workspace);
int rondo__sim_paper(struct rondo__sim *sim, const rondo_cost_case *c, const struct rondo__cost_sizes *s, const rondo_hardware *h);
/* How the ranks of one of `tp` contexts hang together, that do the same at the same time and whose ranks are tp apart. h: complete. */
struct rondo__sim_links rondo__sim_links_of(const rondo_hardware *h, int64_t tp);
/* The attention that one context's chips compute, of a checked case (moved.c). */
int rondo__cost_describe(const rondo_cost_case *c, rondo_attention_desc *d);
/* Part of its rate that attention reaches where a KV head has so many rows of queries. */
double rondo__sim_row_part(const rondo_hardware *h, double rows);
/* Seconds of a computation of heads of this size. */
double rondo__sim_compute_seconds(const rondo_hardware *h, int64_t head_dim, double flops, double bytes);

#endif
