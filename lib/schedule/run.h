/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Executing a schedule. A runner holds all that executions of one schedule need, made once, so that another execution allocates nothing.
 * Made again for another schedule it uses the memory and the events that it has.
 */
#ifndef RONDO_SCHEDULE_RUN_H
#define RONDO_SCHEDULE_RUN_H

#include "schedule/schedule.h"

/* The caller's tensors, checked, by enum rondo__tensor; data NULL: none here, or not wanted. rows: the row where each sequence's first row
 * here lies. */
struct rondo__given {
    const rondo_tensor *tensor[RONDO_TENSORS];
    const int64_t *rows[RONDO_TENSORS];        /* [sequences] */
    const int64_t *keys[RONDO_TENSORS];        /* [sequences], of those whose last dimension is keys: the first one's column; NULL: 0 */
    const int64_t *cached;                     /* [sequences]: the position of the sequence's query 0 */
    const int64_t *q_first, *probs_skip;       /* [sequences]: packed rows of q; of these, those before the first row of probs */
    uint64_t seed;
    int (*progress)(void *user, double done);
    void *user;
    int32_t longest;                           /* of compute() below: the number of what takes the time, as far as progress goes; or: */
    double (*cost)(void *arg, const struct rondo__operation *o);   /* what each one of them takes, in any unit; NULL: see above */
    const char *function;                      /* that was called, for sentences */
    /* Of a schedule that is no attention, which has no tensors: */
    void *const *caller;                       /* where the caller's buffers are, by the number of each; NULL: none has any bytes */
    void *const *room;                         /* [3], by kind of memory: workspace_bytes[] of each; NULL: as rondo__runner_bind() has it */
    /* Does what a COMPUTE of program -1 says: number o->first. place: where each buffer is, what the device computes on in its memory. */
    int (*compute)(void *arg, const struct rondo__operation *o, void *const *place, const struct rondo_poll *poll);
    void *arg;
};

struct rondo__runner;
/* *runner: NULL, or one of this context. The schedule and what the programs' descriptions (one, or two with probabilities; none of what is no
 * attention) point to must live as long as the runner, or until it is made again; the programs are uploaded to the context's device. After a
 * failure it is NULL. */
int rondo__runner_make(struct rondo__runner **runner, rondo_context *ctx, const struct rondo__schedule *schedule,
                       const struct rondo_program_desc *programs, int32_t count, int64_t sequences);
void rondo__runner_free(struct rondo__runner *runner);
/* Until nothing is under way on the device: what it read may change from then on. */
int rondo__runner_rest(const struct rondo__runner *runner);
/* Memory that the program's execution takes on the device besides buffers. */
size_t rondo__runner_scratch(const struct rondo__runner *runner);
/* What it holds itself, on the host. */
size_t rondo__runner_bytes(const struct rondo__runner *runner);
/* All that may fail without a message having moved: memory, and where everything lies. workspace: workspace_bytes[RONDO_MEMORY_HOST] bytes, or
 * NULL: the runner's own. */
int rondo__runner_bind(struct rondo__runner *runner, const struct rondo__given *given, void *workspace);
/* Runs it, on a runner that was bound. After a failure the caller goes through rondo__collective_failed(). */
int rondo__runner_run(struct rondo__runner *runner);

#endif
