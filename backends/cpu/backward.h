/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the kernels of attention's gradients (ref_backward.c, backward.c) share with who calls them (backward_run.c): a task, which is a job of
 * struct rondo_backward_desc (core/device.h) in one execution. What rule 13 of rondo-numerics(7) says of single numbers is in num_backward.h.
 */
#ifndef RONDO_CPU_BACKWARD_H
#define RONDO_CPU_BACKWARD_H

#include "backends/cpu/num_backward.h"
#include "backends/cpu/task.h"

#define RONDO_BACKWARD_LEAF_MAX 256
#define RONDO_BACKWARD_DEPTH 44        /* of a tree over leaves, sequences or heads: there are at most 2^40 */
#define RONDO_BACKWARD_SCRATCH (RONDO_BACKWARD_JOIN_DEPTH + RONDO_BACKWARD_DEPTH)   /* nodes of one row that joining takes */

struct rondo_backward_task {
    struct rondo_attention_task a;     /* what scores, masks and dropout ask for; no rows */
    const struct rondo_backward_desc *desc;
    const struct rondo_backward_job *job;
    const struct rondo_backward_run *run;
    const struct rondo_backward_leaf *queries, *keys;   /* the job's */
};

/* Of the list of places that begins with `first` the n-th. */
static inline float *rondo__backward_node(const struct rondo_backward_task *t, int64_t first, int32_t n)
{
    const struct rondo_backward_place *p = t->desc->places + first + n;
    return t->run->nodes[p->buffer].data + p->at;
}

#endif
