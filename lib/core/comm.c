/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Communication between ranks, written once for all transports: groups of messages with their statistics and sentences, and what
 * happens when something fails. Called by the schedule's executor, by context.c and by collectives.c.
 *
 * Who fails tells everyone: the first failure of a rank inside a collective revokes the communicator, all waits then end with
 * RONDO_EPEER and the failing rank's sentence. Since a transport may let a rank read another one's memory in place, no rank
 * gives memory back after a failure before the others have stopped reading (rondo__collective_failed).
 */
#include "core/internal.h"

#include <stdio.h>

/* After a wait has run out nobody is waited for that long again: what is still to be put in order has this much time. */
#define GRACE_SECONDS 1.0
/* A step's text. */
#define STEP_BYTES 128

static const char *const operation_names[RONDO_OP_COUNT] = { "shift", "all-to-all", "all-gather", "broadcast", "agree", "scatter", "gather" };
static const char *const wait_names[RONDO_OP_COUNT] = { "wait shift", "wait all-to-all", "wait all-gather", "wait broadcast",
                                                        "wait agree", "wait scatter", "wait gather" };

const char *rondo_operation_name(int operation)
{
    return operation >= 0 && operation < RONDO_OP_COUNT ? operation_names[operation] : NULL;
}

const char *rondo__wait_name(int operation)
{
    return wait_names[operation];
}

int rondo_comm_query(const rondo_context *ctx, rondo_comm_stats *stats)
{
    if (!ctx)
        return rondo__fail(RONDO_EINVAL, "rondo_comm_query: the context is NULL");
    return rondo__info_copy(stats, &ctx->stats, sizeof ctx->stats, "rondo_comm_stats");
}

/* ---- failures ---- */

void rondo_context_revoke(rondo_context *ctx, int code, const char *sentence)
{
    if (!ctx || !ctx->endpoint)
        return;
    if (!code)
        code = RONDO_ECANCELED;
    ctx->transport->revoke(ctx->endpoint, code, sentence && *sentence ? sentence : rondo_error_string(code));
    if (!ctx->failed)
        ctx->failed = code;
}

static bool is_revoked(rondo_context *ctx)
{
    int rank, code;
    const char *sentence;
    return ctx->transport->revoked(ctx->endpoint, &rank, &code, &sentence) != 0;
}

/* How long a failed rank may wait for the others to let go of its memory. */
static double patience(rondo_context *ctx)
{
    int rank, code;
    const char *sentence;
    bool late = ctx->transport->revoked(ctx->endpoint, &rank, &code, &sentence) && code == RONDO_ETIMEDOUT;
    return late && GRACE_SECONDS < ctx->deadline ? GRACE_SECONDS : ctx->deadline;
}

/* Who revoked it, by name; where that is a rank outside the group, the context that it was split from may know it. */
static bool revoker(const rondo_context *ctx, int *rank, int *why, const char **text)
{
    if (!ctx->transport->revoked(ctx->endpoint, rank, why, text))
        return false;
    *rank = rondo__rank_name(ctx, *rank);
    for (const rondo_context *up = ctx->parent; *rank < 0 && up && up->endpoint; up = up->parent) {
        int there, code;
        const char *sentence;
        if (up->transport->revoked(up->endpoint, &there, &code, &sentence))
            *rank = rondo__rank_name(up, there);
    }
    return true;
}

/* A failure of the transport becomes a sentence that names peer and step; the communicator is revoked unless it was. */
int rondo__comm_failed(rondo_context *ctx, int code, int peer, const char *step)
{
    const int me = rondo__rank_name(ctx, ctx->rank);
    int rank, why;
    const char *text;
    char who[32];
    peer = rondo__rank_name(ctx, peer);
    snprintf(who, sizeof who, peer < 0 ? "a rank" : "rank %d", peer);
    if (code == RONDO_EPEER && revoker(ctx, &rank, &why, &text)) {
        /* Who gave up waiting did nothing wrong itself: the sentence goes on with the rank that did not answer. */
        const char *how = why == RONDO_ETIMEDOUT ? "gave up" : "failed";
        if (rank == me)
            return rondo__fail(code, "this rank failed before, which ended its communicator: %s (noticed by rank %d in step %s)", text,
                               rank, step);
        if (rank < 0)
            return rondo__fail(code, "a rank outside this group %s: %s (%s; noticed by rank %d in step %s)", how, text,
                               rondo_error_name(why), me, step);
        return rondo__fail(code, "rank %d %s: %s (%s; noticed by rank %d in step %s)", rank, how, text, rondo_error_name(why),
                           me, step);
    }
    if (code == RONDO_EPEER)
        rondo__fail(code, "%s has left, but rank %d still waits for it in step %s", who, me, step);
    else if (code == RONDO_ETIMEDOUT)
        rondo__fail(code, "%s did not answer rank %d within %g s in step %s; RONDO_DEADLINE or the context's deadline can be longer",
                    who, me, ctx->deadline, step);
    else if (peer >= 0)
        rondo__fail(code, "%s, in step %s between rank %d and rank %d", rondo_error_text(), step, me, peer);
    else
        rondo__fail(code, "%s, in step %s on rank %d", rondo_error_text(), step, me);
    rondo_context_revoke(ctx, code, rondo_error_text());
    return code;
}

/* After an agreement that failed on all ranks alike there is nobody to tell: as long as it is that very failure, and no other one,
 * perhaps of the same words, has come since. */
int rondo__collective_failed(rondo_context *ctx, int code)
{
    if (!code || !ctx->endpoint)
        return code;
    if (!is_revoked(ctx) && (!ctx->agreed || ctx->agreed != rondo__last_failure()))
        rondo_context_revoke(ctx, code, rondo_error_text());
    ctx->transport->quiesce(ctx->endpoint, patience(ctx));
    return code;
}

/* The same as rondo__comm_failed(): the step's text is made only here. */
static int failed_in(rondo_context *ctx, int code, int peer, const struct rondo__step *step)
{
    char text[STEP_BYTES];
    if (step->of)
        snprintf(text, sizeof text, "%s %d of %d", step->what, (int)step->index, (int)step->of);
    return rondo__comm_failed(ctx, code, peer, step->of ? text : step->what);
}

/* Groups that a data plane has in streams. */
static int watch(rondo_context *ctx)
{
    int peer = -1;
    uint64_t group = 0;
    const int err = ctx->data && ctx->transport->data_watch ? ctx->transport->data_watch(ctx->data, &peer, &group) : 0;
    if (err && !ctx->streams)            /* it fails by itself */
        return rondo__comm_failed(ctx, err, peer, "data plane");
    return err ? failed_in(ctx, err, peer, ctx->streamed + group % RONDO_STREAMED) : 0;
}

int rondo__poll(void *arg)
{
    rondo_context *ctx = arg;
    if (!ctx->endpoint || !ctx->transport->progress)
        return ctx->endpoint ? watch(ctx) : 0;
    int err = ctx->transport->progress(ctx->endpoint);
    return err ? rondo__comm_failed(ctx, err, -1, "computing") : watch(ctx);
}

void rondo__computing(rondo_context *ctx, bool begins)
{
    if (ctx->endpoint && ctx->transport->computing)
        ctx->transport->computing(ctx->endpoint, begins ? rondo__ops(ctx)->threads_used(rondo__dev(ctx)) : 0);
}

int rondo__collective_begin(rondo_context *ctx, const char *step)
{
    ctx->agreed = 0;
    return ctx->endpoint && is_revoked(ctx) ? rondo__comm_failed(ctx, RONDO_EPEER, -1, step) : 0;
}

/* ---- transfers ---- */

static int check_part(const rondo_context *ctx, const struct rondo_part *part, const char *step)
{
    if (part->peer < 0 || part->peer >= ctx->ranks || part->peer == ctx->rank)
        return rondo__fail(RONDO_EINVAL, "%s: a message between rank %d and rank %d; it takes another one of the ranks 0..%d", step, ctx->rank,
                           (int)part->peer, ctx->ranks - 1);
    if (!part->bytes)
        return rondo__fail(RONDO_EINVAL, "%s: a message of 0 bytes between rank %d and rank %d; what is empty is not sent", step, ctx->rank,
                           (int)part->peer);
    if (!part->memory)
        return rondo__fail(RONDO_EINVAL, "%s: a message between rank %d and rank %d has no memory (NULL)", step, ctx->rank, (int)part->peer);
    return 0;
}

/* Before a group starts. */
static int check_group(rondo_context *ctx, struct rondo__transfer *t)
{
    int err = 0;
    ctx->agreed = 0;
    t->active = 0;
    for (int32_t i = 0; i < t->group.count && !err; i++)
        err = check_part(ctx, &t->group.parts[i], t->step.what);
    t->begin = ctx->trace ? rondo__now() : 0.0;
    return rondo__collective_failed(ctx, err);
}

static void count_sent(rondo_context *ctx, const struct rondo__transfer *t)
{
    for (; ctx; ctx = ctx->parent)
        for (int32_t i = 0; i < t->group.count; i++)
            if (!t->group.parts[i].receives) {
                ctx->stats.messages[t->operation]++;
                ctx->stats.bytes[t->operation] += t->group.parts[i].bytes;
            }
}

static void count_wait(rondo_context *ctx, double begin)
{
    const double seconds = rondo__now() - begin;
    for (; ctx; ctx = ctx->parent)
        ctx->stats.wait_seconds += seconds;
}

int rondo__transfer_start(rondo_context *ctx, struct rondo__transfer *t)
{
    int err = check_group(ctx, t);
    if (err || !t->group.count)
        return err;
    err = ctx->transport->start(ctx->endpoint, &t->group);
    if (err)
        return failed_in(ctx, err, t->group.count == 1 ? t->group.parts[0].peer : -1, &t->step);
    t->active = 1;
    count_sent(ctx, t);
    return 0;
}

static void trace_sent(rondo_context *ctx, const struct rondo__transfer *t)
{
    for (int32_t i = 0; i < t->group.count && ctx->trace; i++)
        if (!t->group.parts[i].receives)
            rondo__trace_step(ctx, operation_names[t->operation], t->step, t->head_group, t->begin, t->group.parts[i].peer, t->group.parts[i].bytes);
}

/* One event for the wait, and one for each message that was sent. */
static void trace_transfer(rondo_context *ctx, const struct rondo__transfer *t, double begin)
{
    const struct rondo_transfer *g = &t->group;
    uint64_t bytes = 0;
    int from = -1, froms = 0;
    for (int32_t i = 0; i < g->count; i++)
        if (g->parts[i].receives) {
            bytes += g->parts[i].bytes;
            froms += g->parts[i].peer != from;
            from = g->parts[i].peer;
        }
    rondo__trace_step(ctx, wait_names[t->operation], t->step, t->head_group, begin, froms == 1 ? from : -1, bytes);
    trace_sent(ctx, t);
}

int rondo__transfer_finish(rondo_context *ctx, struct rondo__transfer *t)
{
    if (!t->active)
        return 0;
    int peer = -1;
    double begin = rondo__now();
    int err = ctx->transport->finish(ctx->endpoint, &t->group, ctx->deadline, &peer);
    count_wait(ctx, begin);
    t->active = 0;
    if (err)
        return failed_in(ctx, err, peer, &t->step);
    if (ctx->trace)
        trace_transfer(ctx, t, begin);
    return 0;
}

int rondo__transfer_stream(rondo_context *ctx, struct rondo__transfer *t, struct rondo_stream *stream)
{
    int peer = -1, err = check_group(ctx, t);
    if (err || !t->group.count)
        return err;
    err = ctx->transport->data_start(ctx->data, stream, t->group.parts, t->group.count, ctx->deadline, &peer);
    if (err)
        return failed_in(ctx, err, peer, &t->step);
    ctx->streamed[ctx->streams++ % RONDO_STREAMED] = t->step;
    count_sent(ctx, t);
    trace_sent(ctx, t);   /* how long it took to get into the stream */
    return 0;
}

int rondo__fence(rondo_context *ctx, struct rondo__step step)
{
    if (!ctx->endpoint || !ctx->transport->fence)
        return 0;
    int peer = -1;
    ctx->agreed = 0;
    double begin = rondo__now();
    int err = ctx->transport->fence(ctx->endpoint, ctx->deadline, &peer);
    count_wait(ctx, begin);
    if (err)
        return failed_in(ctx, err, peer, &step);
    ctx->unfenced = 0;
    rondo__trace_step(ctx, "wait fence", step, 0, begin, -1, 0);
    return 0;
}
