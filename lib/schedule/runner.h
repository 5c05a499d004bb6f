/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The executor's state, shared by its two files: run.c carries operations out, bind.c says where everything lies.
 */
#ifndef RONDO_SCHEDULE_RUNNER_H
#define RONDO_SCHEDULE_RUNNER_H

#include "schedule/run.h"

/* Where a buffer is seen through a tensor's strides. */
struct view {
    char *data;
    size_t element;
    int64_t row_stride, head_stride, dim, heads;   /* strides in elements; heads: of all groups */
    const int64_t *rows;
    const int64_t *keys;      /* of what has a last dimension of keys: a sequence's first column; NULL: 0 */
};

enum state { WAITING, UNDER_WAY, OVER };

/* Memory of the device; buffer -1: not in use. */
struct taken {
    void *memory;
    size_t bytes;
    int32_t kind, buffer;
};

#define RONDO_RUNNER_LISTS 10          /* of struct rondo__runner's memory */

struct rondo__runner {
    rondo_context *ctx;
    const struct rondo__schedule *schedule;
    struct rondo_program_desc desc[2];
    struct rondo_program *program[2];      /* by operation's `program` */
    int32_t programs;
    int32_t times;                         /* it was made before, for other schedules; up to 2 */
    int64_t sequences;
    struct rondo_stream *wire;             /* of transfers, with a data plane */
    struct rondo__list memory[RONDO_RUNNER_LISTS];   /* of the arrays that follow */
    struct rondo__list events;             /* struct rondo_event *: those of all schedules so far; the first `used` serve this one */
    int64_t events_used;
    struct rondo__list taken;              /* struct taken: device memory for buffers without a place, of all schedules so far */
    /* by operation: */
    uint8_t *state, *elided;
    struct rondo_event **event;            /* NULL: nobody off the stream asks when it is over */
    struct rondo_event *end;               /* all of them are over */
    struct rondo__transfer **transfer;
    double *cost;                          /* of computations, where somebody wants to know how far it is */
    /* by buffer: */
    void **place;
    int32_t *own;                          /* which of `taken` serves a buffer without a place, + 1; 0: none yet */
    struct rondo__transfer *transfers;
    struct rondo_part *parts;
    struct rondo_kv_part *kv;              /* room for the largest computation's, as `nodes` */
    float **nodes;
    int64_t *packed[RONDO_TENSORS];        /* [sequences]: rows of tensors that were copied to the device; NULL: not known yet */
    struct rondo__list packed_memory[RONDO_TENSORS];
    int64_t *bias_row;                     /* [sequences]: the row of bias of a query at position 0 */
    int64_t *probs_row;                    /* [sequences]: the row of probs of this rank's first query of the sequence */
    void *workspace[3];
    size_t workspace_room[3];
    const struct rondo__given *given;
    struct view view[RONDO_VIEWS];         /* what computing sees */
    struct view outside[RONDO_VIEWS];
    /* how far it is: */
    struct rondo_work *work;               /* by operation */
    int64_t begun, over;                   /* operations: of those before `over` everything is told */
    double before, told, told_at, all;
};

static inline char *rondo__row_at(const struct view *v, int64_t sequence, int64_t row, int64_t head)
{
    const int64_t at = (v->rows[sequence] + row) * v->row_stride + head * v->head_stride + (v->keys ? v->keys[sequence] : 0);
    return v->data + (size_t)at * v->element;
}

/* Heads of a tensor that a copy between it and a dense buffer is of: their number, and the first. */
static inline int64_t rondo__copy_heads_of(const struct rondo__runner *r, const struct rondo__operation *o, const struct rondo__copy *c,
                                           const struct view *v, int64_t *first)
{
    const int64_t heads = c->heads ? c->heads : v->heads / r->schedule->groups;
    *first = c->heads ? c->head : o->group * heads;
    return heads;
}

int rondo__runner_no_memory(void);
/* An event that no operation of this schedule has yet. */
int rondo__runner_event(struct rondo__runner *r, struct rondo_event **out);

/* ---- bind.c ---- */
/* Where the rows that a PACK would copy lie, if they lie as it would leave them; else NULL. */
char *rondo__row_serves(const struct rondo__runner *r, const struct rondo__operation *o);

#endif
