/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the kernels of attention's gradients (ref_backward.c, backward.c) share with who calls them (backward_run.c): a task, which is a job of
 * struct rondo_backward_desc (core/device.h) in one execution, and rule 13 of rondo-numerics(7) where it is about single numbers.
 */
#ifndef RONDO_CPU_BACKWARD_H
#define RONDO_CPU_BACKWARD_H

#include "backends/cpu/num.h"
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

/* C13: a row's stored LSE as 2^n / c with a whole n and c in [0.7, 1.5]. false: the row is empty, and takes no part. */
static inline bool rondo__backward_row(float lse, float *n, float *c)
{
    const double y = (double)lse * RONDO_LOG2E;
    const float x = (float)y;
    if (lse == -__builtin_inff())
        return false;
    *n = rondo__rint(x);
    *c = rondo__exp2_poly(x < 8388608.0f && x > -8388608.0f ? (float)((double)*n - y) : 0.0f);
    return true;
}

/* C13: the weight of a score x, over the row's sum. */
static inline float rondo__backward_weight(float x, float n, float c)
{
    const float whole = rondo__rint(x), e = whole - n;
    return rondo__weight(x - whole, 127.0f < e ? 127.0f : e) * c;
}

/* C13: a finished sum times its factor, onto what is there. A zero is +0 first: a kernel that multiplies hidden pairs by 0 may turn its sign. */
static inline void rondo__backward_put(void *to, int64_t at, int type, float sum, float factor, int accumulate)
{
    const float x = sum * factor + 0.0f;
    rondo__put_element(to, at, type, accumulate ? rondo__element(to, at, type) + x : x);
}

#endif
