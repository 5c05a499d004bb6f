/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Gradients of the delta rule among ranks: what a plan that has them holds. backward_build.c makes the schedule, backward.c the plan's part of it
 * and runs it.
 */
#ifndef RONDO_DELTA_BACKWARD_H
#define RONDO_DELTA_BACKWARD_H

#include "delta/delta.h"
#include "tensor/tokens.h"

/* The caller's buffers, by number: those of an execution up to the initial state, then these. */
enum rondo__delta_gradient {
    RONDO_DELTA_DOUT = RONDO_DELTA_INITIAL + 1, RONDO_DELTA_DFINAL, RONDO_DELTA_DQ, RONDO_DELTA_DK, RONDO_DELTA_DV, RONDO_DELTA_DG, RONDO_DELTA_DBETA,
    RONDO_DELTA_DINITIAL, RONDO_DELTA_DA_LOG, RONDO_DELTA_DDT_BIAS, RONDO_DELTA_GRADIENTS
};

/* What COMPUTEs do besides blocks of states: blocks of gradients; the rank's nodes of sums over tokens; the sums of all ranks' nodes. */
enum rondo__delta_back { RONDO_DELTA_BACK_BLOCKS = 1, RONDO_DELTA_BACK_NODES, RONDO_DELTA_BACK_JOIN };

struct rondo__delta_backward {
    struct rondo__delta_built built;
    struct rondo__list blocks;         /* struct rondo_delta_backward_block */
    rondo_tokens *tokens;              /* leaves of tokens as rows, by rank; NULL: gates are given, and there are no sums */
    int32_t *nodes;                    /* [ranks]: buffers of each rank's nodes, -1: none */
    int32_t leaves, ranks;             /* the buffer of this rank's */
    struct rondo__runner *runner;
    struct rondo_linear_node *join;    /* [nodes of all ranks] */
    float **states;                    /* [buffers]: room for a run's */
    void *room[3];
};

/* Floats of one head's sums over tokens. */
static inline int64_t rondo__delta_sums(const struct rondo__delta_design *d) { return d->desc.gate ? d->desc.gate_dim + 1 : 0; }

/* The schedule of a rank, and its lists; out is empty, and freed by rondo__delta_backward_unbuild(), also after a failure. */
int rondo__delta_backward_build(struct rondo__delta_backward *out, const struct rondo__delta_design *design, int32_t rank,
                                const struct rondo__machine *machine);
void rondo__delta_backward_unbuild(struct rondo__delta_backward *backward);

/* Of a plan, which has its design: made, told in plan->info, and freed (also half made). */
int rondo__delta_backward_make(rondo_delta *plan, const struct rondo__machine *machine);
void rondo__delta_backward_free(rondo_delta *plan);

#endif
