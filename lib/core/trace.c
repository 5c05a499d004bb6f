/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The timeline of one rank: every compute step, wait and transfer is handed to the caller's function when it ends. Costs a
 * comparison where nobody listens. Called by comm.c for waits and transfers, by schedule/run.c for what the device does.
 */
#include "core/internal.h"

void rondo_context_trace(rondo_context *ctx, void (*event)(void *user, const rondo_trace_event *), void *user)
{
    if (!ctx)
        return;
    ctx->trace = event;
    ctx->trace_user = user;
}

void rondo__trace(rondo_context *ctx, const char *name, double begin, int peer, uint64_t bytes)
{
    rondo__trace_step(ctx, name, rondo__step_named(NULL), 0, begin, peer, bytes);
}

void rondo__trace_step(rondo_context *ctx, const char *name, struct rondo__step step, int32_t group, double begin, int peer, uint64_t bytes)
{
    if (!ctx->trace)
        return;
    rondo_trace_event event;
    memset(&event, 0, sizeof event);
    event.name = name;
    event.begin = begin;
    event.end = rondo__now();
    event.rank = rondo__rank_name(ctx, ctx->rank);
    event.peer = rondo__rank_name(ctx, peer);
    event.bytes = bytes;
    event.operation = step.what;
    event.step = step.index;
    event.steps = step.of;
    event.head_group = group - 1;
    ctx->trace(ctx->trace_user, &event);
}
