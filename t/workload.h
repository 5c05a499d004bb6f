/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the failure tests run on every rank: one of each kind of communication, written the way the algorithms are, in steps
 * that can be made to fail one by one. Large messages are read in place, and freed at once after a failure, so that a
 * sanitizer sees a rank that reads too long. Included by t/40xx.
 */
#ifndef RONDO_T_WORKLOAD_H
#define RONDO_T_WORKLOAD_H

#include "core/internal.h"
#include "shift.h"
#include "tap.h"

#define WORK_FLOATS 3000
#define WORK_RANKS 16

struct work {
    int fail_rank, fail_step;      /* this rank fails before this step; -1: none */
    int quiet;                     /* 1: it returns without telling anybody (the launcher must); 2: and returns 0. Only where nobody
                                      reads its memory: before and after the ring */
    int steps[WORK_RANKS];         /* that each rank completed */
    int code[WORK_RANKS];          /* what each rank returned */
    char text[WORK_RANKS][600];    /* and its sentence */
};

static int work_fails(rondo_context *ctx, struct work *w, int *step)
{
    int mine = w->fail_rank == ctx->rank && w->fail_step == *step;
    w->steps[ctx->rank] = (*step)++;
    return mine ? rondo__fail(RONDO_ENOMEM, "rank %d was told to fail at step %d", ctx->rank, w->fail_step) : 0;
}

/* A ring that sends what it was shown on to the next, as pass-KV does: the bytes stay where the first owner has them. */
static int work_ring(rondo_context *ctx, struct work *w, int *step, float *mine, float *room)
{
    const void *send = mine;
    float sum = 0.0f;
    for (int i = 1; i < ctx->ranks; i++) {
        struct shift s;
        const void *where = NULL;
        int err = work_fails(ctx, w, step);
        float *to = room + (size_t)(i - 1) * WORK_FLOATS;   /* one for each: what was sent on may be read until the fence */
        if (!err)
            err = shift_start(ctx, &s, 1, send, WORK_FLOATS * sizeof *mine, to, WORK_FLOATS * sizeof *mine, RONDO_OP_SHIFT,
                                     step_named("the ring"));
        if (!err)
            err = rondo__poll(ctx);
        if (!err)
            err = shift_finish(ctx, &s, &where);
        if (err)
            return err;
        const float *got = where;
        for (int k = 0; k < WORK_FLOATS; k++)
            sum += got[k];
        send = where;
    }
    float expect = 0.0f;
    for (int r = 0; r < ctx->ranks; r++)
        expect += r == ctx->rank ? 0.0f : (float)r * WORK_FLOATS;
    if (sum != expect)
        return rondo__fail(RONDO_EDEVICE, "the ring's sum is %g and not %g", (double)sum, (double)expect);
    return rondo__fence(ctx, step_named("the ring"));
}

static int work_all_to_all(rondo_context *ctx, float *mine, float *room)
{
    const void *send[WORK_RANKS], *where[WORK_RANKS];
    void *recv[WORK_RANKS];
    size_t bytes[WORK_RANKS];
    for (int d = 0; d < ctx->ranks; d++) {
        send[d] = mine;
        bytes[d] = 100 * sizeof *mine;
        recv[d] = room + d * 100;
    }
    int err = exchange(ctx, send, bytes, recv, bytes, where, step_named("the all-to-all"));
    for (int d = 0; d < ctx->ranks && !err; d++)
        if (((const float *)where[d])[99] != (float)((ctx->rank + ctx->ranks - d) % ctx->ranks))
            err = rondo__fail(RONDO_EDEVICE, "block %d of the all-to-all is wrong", d);
    return err ? err : rondo__fence(ctx, step_named("the all-to-all"));
}

static int work_collectives(rondo_context *ctx, struct work *w, int *step, float *mine, float *room)
{
    size_t bytes_of[WORK_RANKS];
    for (int r = 0; r < ctx->ranks; r++)
        bytes_of[r] = 150 * sizeof *mine;
    int err = work_fails(ctx, w, step);
    if (!err)
        err = work_all_to_all(ctx, mine, room);
    if (!err)
        err = work_fails(ctx, w, step);
    if (!err)
        err = rondo_all_gather(ctx, mine, room, bytes_of);
    if (!err)
        err = work_fails(ctx, w, step);
    if (!err)
        err = rondo_broadcast(ctx, room, WORK_FLOATS * sizeof *room, ctx->ranks - 1);
    if (!err)
        err = work_fails(ctx, w, step);
    return err ? err : rondo_barrier(ctx);
}

static int work_split(rondo_context *ctx, struct work *w, int *step)
{
    rondo_context *child = NULL;
    int err = work_fails(ctx, w, step);
    if (!err)
        err = rondo_context_split(&child, ctx, ctx->rank % 2, -ctx->rank);
    if (!err)
        err = work_fails(ctx, w, step);
    if (!err)
        err = rondo_agree(child, (uint64_t)child->ranks, 0, "the child's size");
    if (!err)
        err = work_fails(ctx, w, step);
    if (!err) {
        uint64_t word = 7;
        err = rondo_broadcast(child, &word, sizeof word, 0);
    }
    /* Told to all before the child goes, else its members might only see that somebody left. */
    if (!w->quiet)
        err = rondo__collective_failed(ctx, err);
    rondo_context_destroy(child);
    return err;
}

/* How many places there are to fail at, for so many ranks: 0, the ring's 1..ranks-1, then 8 more. */
static inline int work_steps(int ranks)
{
    return ranks + 8;
}

static int work_all(rondo_context *ctx, struct work *w)
{
    int step = 0;
    float *mine = rondo__alloc(WORK_FLOATS * sizeof *mine), *room = rondo__alloc(WORK_RANKS * WORK_FLOATS * sizeof *room);
    int err = mine && room ? 0 : rondo__fail(RONDO_ENOMEM, "no memory for the work");
    for (int i = 0; mine && i < WORK_FLOATS; i++)
        mine[i] = (float)ctx->rank;
    if (!err)
        err = work_fails(ctx, w, &step);
    if (err && w->quiet)
        goto out;
    int verdict = rondo_agree(ctx, 42, err, "the work");
    if (!err)
        err = verdict;
    if (!err)
        err = work_ring(ctx, w, &step, mine, room);
    if (!err)
        err = work_collectives(ctx, w, &step, mine, room);
    if (!err)
        err = work_split(ctx, w, &step);
    if (!err)
        err = work_fails(ctx, w, &step);
    /* the rule of rondo__collective_failed(): the last thing before memory goes */
    if (!(w->quiet && w->fail_rank == ctx->rank))
        err = rondo__collective_failed(ctx, err);
    if (!err)
        w->steps[ctx->rank] = step;
out:
    rondo__free(mine);
    rondo__free(room);
    return w->quiet == 2 && err == RONDO_ENOMEM ? 0 : err;
}

static int work_body(rondo_context *ctx, void *arg)
{
    struct work *w = arg;
    int err = work_all(ctx, w);
    w->code[ctx->rank] = err;
    snprintf(w->text[ctx->rank], sizeof w->text[0], "%s", err ? rondo_error_text() : "");
    return err;
}

#endif
