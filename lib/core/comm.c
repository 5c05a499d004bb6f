/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Communication between ranks, written once for all transports: groups of messages with their statistics and sentences, and the
 * small collectives over them. Called by the algorithms, by context.c and by users through rondo_barrier() and its neighbours.
 *
 * Who fails tells everyone: the first failure of a rank inside a collective revokes the communicator, all waits then end with
 * RONDO_EPEER and the failing rank's sentence. Since a transport may let a rank read another one's memory in place, no rank
 * gives memory back after a failure before the others have stopped reading (rondo__collective_failed).
 */
#include "core/internal.h"

#include <stdio.h>

/* Distances between ranks that a collective serves at once; all ranks use the same number, so none waits for what is not yet started. */
#define WINDOW 16
#define TEXT_BYTES 1024
/* What agree passes on of a failed rank's sentence. */
#define NOTE_BYTES 512
/* After a wait has run out nobody is waited for that long again: what is still to be put in order has this much time. */
#define GRACE_SECONDS 1.0
/* A step's text; "agreement on " and what is agreed on. */
#define STEP_BYTES 128
/* Small broadcasts need no fence, but a root must not run ahead without end. */
#define UNFENCED_MAX 64

static const char *const operation_names[RONDO_OP_COUNT] = { "shift", "all-to-all", "all-gather", "broadcast", "agree" };
static const char *const wait_names[RONDO_OP_COUNT] = { "wait shift", "wait all-to-all", "wait all-gather", "wait broadcast",
                                                        "wait agree" };

const char *rondo_operation_name(int operation)
{
    return operation >= 0 && operation < RONDO_OP_COUNT ? operation_names[operation] : NULL;
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

/* A failure of the transport becomes a sentence that names peer and step; the communicator is revoked unless it was. */
int rondo__comm_failed(rondo_context *ctx, int code, int peer, const char *step)
{
    int rank, why;
    const char *text;
    char who[32];
    snprintf(who, sizeof who, peer < 0 ? "a rank" : "rank %d", peer);
    if (code == RONDO_EPEER && ctx->transport->revoked(ctx->endpoint, &rank, &why, &text)) {
        /* Who gave up waiting did nothing wrong itself: the sentence goes on with the rank that did not answer. */
        const char *how = why == RONDO_ETIMEDOUT ? "gave up" : "failed";
        if (rank == ctx->rank)
            return rondo__fail(code, "this rank failed before, which ended its communicator: %s (noticed by rank %d in step %s)", text,
                               rank, step);
        if (rank < 0)
            return rondo__fail(code, "a rank outside this group %s: %s (%s; noticed by rank %d in step %s)", how, text,
                               rondo_error_name(why), ctx->rank, step);
        return rondo__fail(code, "rank %d %s: %s (%s; noticed by rank %d in step %s)", rank, how, text, rondo_error_name(why),
                           ctx->rank, step);
    }
    if (code == RONDO_EPEER)
        rondo__fail(code, "%s has left, but rank %d still waits for it in step %s", who, ctx->rank, step);
    else if (code == RONDO_ETIMEDOUT)
        rondo__fail(code, "%s did not answer rank %d within %g s in step %s; RONDO_DEADLINE or the context's deadline can be longer",
                    who, ctx->rank, ctx->deadline, step);
    else if (peer >= 0)
        rondo__fail(code, "%s, in step %s between rank %d and rank %d", rondo_error_text(), step, ctx->rank, peer);
    else
        rondo__fail(code, "%s, in step %s on rank %d", rondo_error_text(), step, ctx->rank);
    rondo_context_revoke(ctx, code, rondo_error_text());
    return code;
}

static uint64_t text_hash(void)
{
    uint64_t hash = 1;
    for (const char *c = rondo_error_text(); *c; c++)
        hash = hash * 0x100000001b3u + (unsigned char)*c;
    return hash | 1;
}

/* After an agreement that failed on all ranks alike there is nobody to tell, as long as no other failure has come since. */
int rondo__collective_failed(rondo_context *ctx, int code)
{
    if (!code || !ctx->endpoint)
        return code;
    if (!is_revoked(ctx) && ctx->agreed != text_hash())
        rondo_context_revoke(ctx, code, rondo_error_text());
    ctx->transport->quiesce(ctx->endpoint, patience(ctx));
    return code;
}

int rondo__poll(void *arg)
{
    rondo_context *ctx = arg;
    if (!ctx->endpoint || !ctx->transport->progress)
        return 0;
    int err = ctx->transport->progress(ctx->endpoint);
    return err ? rondo__comm_failed(ctx, err, -1, "computing") : 0;
}

void rondo__computing(rondo_context *ctx, bool begins)
{
    if (ctx->endpoint && ctx->transport->computing)
        ctx->transport->computing(ctx->endpoint, begins ? rondo__ops(ctx)->threads_used(rondo__dev(ctx)) : 0);
}

/* A communicator that was revoked serves no more calls, not even those that would need no other rank. */
static int begin(rondo_context *ctx, const char *step)
{
    ctx->agreed = 0;
    return ctx->endpoint && is_revoked(ctx) ? rondo__comm_failed(ctx, RONDO_EPEER, -1, step) : 0;
}

/* ---- transfers ---- */

/* The same as rondo__comm_failed(): the step's text is made only here. */
static int failed_in(rondo_context *ctx, int code, int peer, const struct rondo__step *step)
{
    char text[STEP_BYTES];
    if (step->of)
        snprintf(text, sizeof text, "%s %d of %d", step->what, (int)step->index, (int)step->of);
    return rondo__comm_failed(ctx, code, peer, step->of ? text : step->what);
}

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

int rondo__transfer_start(rondo_context *ctx, struct rondo__transfer *t)
{
    struct rondo_transfer *g = &t->group;
    int err = 0;
    ctx->agreed = 0;
    t->active = 0;
    for (int32_t i = 0; i < g->count && !err; i++)
        err = check_part(ctx, &g->parts[i], t->step.what);
    if (err)
        return rondo__collective_failed(ctx, err);
    if (!g->count)
        return 0;
    t->begin = ctx->trace ? rondo__now() : 0.0;
    err = ctx->transport->start(ctx->endpoint, g);
    if (err)
        return failed_in(ctx, err, g->count == 1 ? g->parts[0].peer : -1, &t->step);
    t->active = 1;
    for (int32_t i = 0; i < g->count; i++)
        if (!g->parts[i].receives) {
            ctx->stats.messages[t->operation]++;
            ctx->stats.bytes[t->operation] += g->parts[i].bytes;
        }
    return 0;
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
    rondo__trace(ctx, wait_names[t->operation], begin, froms == 1 ? from : -1, bytes);
    for (int32_t i = 0; i < g->count; i++)
        if (!g->parts[i].receives)
            rondo__trace(ctx, operation_names[t->operation], t->begin, g->parts[i].peer, g->parts[i].bytes);
}

int rondo__transfer_finish(rondo_context *ctx, struct rondo__transfer *t)
{
    if (!t->active)
        return 0;
    int peer = -1;
    double begin = rondo__now();
    int err = ctx->transport->finish(ctx->endpoint, &t->group, ctx->deadline, &peer);
    ctx->stats.wait_seconds += rondo__now() - begin;
    t->active = 0;
    if (err)
        return failed_in(ctx, err, peer, &t->step);
    if (ctx->trace)
        trace_transfer(ctx, t, begin);
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
    ctx->stats.wait_seconds += rondo__now() - begin;
    if (err)
        return failed_in(ctx, err, peer, &step);
    ctx->unfenced = 0;
    rondo__trace(ctx, "wait fence", begin, -1, 0);
    return 0;
}

/* Both in one. */
static int move(rondo_context *ctx, struct rondo_part *parts, int32_t count, int operation, const char *step)
{
    struct rondo__transfer t = { .group = { .parts = parts, .count = count }, .step = { step, 0, 0 }, .operation = operation };
    int err = rondo__transfer_start(ctx, &t);
    return err ? err : rondo__transfer_finish(ctx, &t);
}

static struct rondo_part sent(const void *memory, size_t bytes, int peer)
{
    return (struct rondo_part){ .memory = (void *)(uintptr_t)memory, .bytes = bytes, .peer = peer };
}

static struct rondo_part received(void *memory, size_t bytes, int peer)
{
    return (struct rondo_part){ .memory = memory, .bytes = bytes, .peer = peer, .receives = 1 };
}

int rondo__shift_start(rondo_context *ctx, struct rondo_shift *s, int distance, const void *send, size_t send_bytes, void *recv,
                       size_t recv_bytes, int operation, const char *step)
{
    int32_t count = 0;
    const int n = ctx->ranks;
    s->part[0].where = s->part[0].memory = recv;
    s->part[0].receives = 0;
    if (recv_bytes)
        s->part[count++] = received(recv, recv_bytes, (ctx->rank + n - distance) % n);
    if (send_bytes)
        s->part[count++] = sent(send, send_bytes, (ctx->rank + distance) % n);
    s->transfer = (struct rondo__transfer){ .group = { .parts = s->part, .count = count }, .step = { step, 0, 0 }, .operation = operation };
    int err = rondo__transfer_start(ctx, &s->transfer);
    s->active = !err;
    return err;
}

int rondo__shift_finish(rondo_context *ctx, struct rondo_shift *s, const void **where)
{
    s->active = 0;
    int err = rondo__transfer_finish(ctx, &s->transfer);
    if (!err && where)
        *where = s->part[0].receives ? s->part[0].where : s->part[0].memory;
    return err;
}

/* ---- collectives ---- */

/* Everybody's `mine` to everybody, directly, to the ranks 1, 2, ..., N-1 further on; no fence. */
static int gather(rondo_context *ctx, const void *mine, char *all, const size_t *bytes_of, size_t equal_bytes, int operation,
                  const char *step)
{
    struct rondo_part parts[2 * WINDOW];
    const int n = ctx->ranks, me = ctx->rank;
    size_t mine_bytes = bytes_of ? bytes_of[me] : equal_bytes;
    /* Where a rank's bytes go: walks down from this rank's own place as the distance grows. */
    size_t total = 0, before = 0;
    for (int r = 0; r < n; r++) {
        if (r == me)
            before = total;
        total += bytes_of ? bytes_of[r] : equal_bytes;
    }
    if (mine_bytes)
        memmove(all + before, mine, mine_bytes);
    size_t place = before;
    for (int first = 1; first < n; first += WINDOW) {
        int32_t count = 0;
        for (int d = first; d < n && d < first + WINDOW; d++) {
            int from = (me - d + n) % n;
            size_t bytes = bytes_of ? bytes_of[from] : equal_bytes;
            if (from == n - 1)
                place = total;
            place -= bytes;
            if (bytes)
                parts[count++] = received(all + place, bytes, from);
            if (mine_bytes)
                parts[count++] = sent(mine, mine_bytes, (me + d) % n);
        }
        int err = move(ctx, parts, count, operation, step);
        if (err)
            return err;
        for (int32_t i = 0; i < count; i++)
            if (parts[i].receives && parts[i].where != parts[i].memory)
                memcpy(parts[i].memory, parts[i].where, parts[i].bytes);
    }
    return 0;
}

int rondo_all_gather(rondo_context *ctx, const void *mine, void *all, const size_t *bytes_of)
{
    if (!ctx)
        return rondo__fail(RONDO_EINVAL, "rondo_all_gather: the context is NULL");
    size_t total = 0, largest = 0;
    int err = begin(ctx, "all-gather");
    if (!err && !bytes_of)
        err = rondo__fail(RONDO_EINVAL, "rondo_all_gather: bytes_of is NULL");
    for (int r = 0; r < ctx->ranks && !err; r++) {
        if (!rondo__add(total, bytes_of[r], &total))
            err = rondo__fail(RONDO_EINVAL, "rondo_all_gather: the sizes in bytes_of add up to more than memory can hold");
        else if (bytes_of[r] > largest)
            largest = bytes_of[r];
    }
    if (!err && ((total && !all) || (bytes_of[ctx->rank] && !mine)))
        err = rondo__fail(RONDO_EINVAL, "rondo_all_gather: %s is NULL", all ? "mine" : "all");
    if (!err)
        err = gather(ctx, mine, all, bytes_of, 0, RONDO_OP_ALL_GATHER, "all-gather");
    if (!err && ctx->endpoint && largest > ctx->transport->eager)
        err = rondo__fence(ctx, (struct rondo__step){ "end of all-gather", 0, 0 });
    return rondo__collective_failed(ctx, err);
}

/* A binomial tree (root at 0): in round k the ranks below 2^k send to those 2^k further on. */
static int broadcast(rondo_context *ctx, void *data, size_t bytes, int root, int operation, const char *step)
{
    const int n = ctx->ranks, place = (ctx->rank - root + n) % n;
    for (int d = 1; d < n; d = d > n / 2 ? n : 2 * d) {
        const bool sends = place < d && place + d < n, receives = place >= d && place < 2 * d;
        if (!sends && !receives)
            continue;
        struct rondo_part part = sends ? sent(data, bytes, (ctx->rank + d) % n) : received(data, bytes, (ctx->rank - d + n) % n);
        int err = move(ctx, &part, 1, operation, step);
        if (err)
            return err;
        if (receives && part.where != data)
            memcpy(data, part.where, bytes);
    }
    if (ctx->endpoint && (bytes > ctx->transport->eager || ++ctx->unfenced >= UNFENCED_MAX))
        return rondo__fence(ctx, (struct rondo__step){ step, 0, 0 });
    return 0;
}

int rondo_broadcast(rondo_context *ctx, void *data, size_t bytes, int root)
{
    if (!ctx)
        return rondo__fail(RONDO_EINVAL, "rondo_broadcast: the context is NULL");
    int err = begin(ctx, "broadcast");
    if (err)
        return rondo__collective_failed(ctx, err);
    if (root < 0 || root >= ctx->ranks)
        err = rondo__fail(RONDO_EINVAL, "rondo_broadcast: root is %d; the ranks are 0..%d", root, ctx->ranks - 1);
    else if (bytes && !data)
        err = rondo__fail(RONDO_EINVAL, "rondo_broadcast: data is NULL");
    else if (bytes)
        err = broadcast(ctx, data, bytes, root, RONDO_OP_BROADCAST, "broadcast");
    return rondo__collective_failed(ctx, err);
}

/* Where nothing is ever read in place there is no fence to serve as a barrier: the dissemination barrier (Hensgen, Finkel,
 * Manber 1988), one byte to the rank 2^k further on in round k. */
static int disseminate(rondo_context *ctx)
{
    for (int d = 1; d < ctx->ranks; d = d > ctx->ranks / 2 ? ctx->ranks : 2 * d) {
        char out = 0, in = 0;
        struct rondo_part parts[2] = { received(&in, 1, (ctx->rank - d + ctx->ranks) % ctx->ranks),
                                       sent(&out, 1, (ctx->rank + d) % ctx->ranks) };
        int err = move(ctx, parts, 2, RONDO_OP_AGREE, "barrier");
        if (err)
            return err;
    }
    return 0;
}

int rondo_barrier(rondo_context *ctx)
{
    if (!ctx)
        return rondo__fail(RONDO_EINVAL, "rondo_barrier: the context is NULL");
    if (!ctx->endpoint)
        return 0;
    int err = begin(ctx, "barrier");
    if (!err)
        err = ctx->transport->fence ? rondo__fence(ctx, (struct rondo__step){ "barrier", 0, 0 }) : disseminate(ctx);
    return rondo__collective_failed(ctx, err);
}

struct vote {
    uint64_t hash;
    int64_t code;
};

/* The same verdict on every rank, from the same votes. The communicator stays as it is: nobody waits for anybody. */
static int verdict(rondo_context *ctx, const struct vote *votes, const char *what, const char *step, int *broken)
{
    int bad = -1;
    for (int r = ctx->ranks - 1; r >= 0; r--)
        if (votes[r].code)
            bad = r;
    if (bad >= 0) {
        /* The first failed rank's sentence goes round, so that all can repeat it. */
        char note[NOTE_BYTES];
        memset(note, 0, sizeof note);
        snprintf(note, sizeof note, "%s", rondo_error_text());
        *broken = broadcast(ctx, note, sizeof note, bad, RONDO_OP_AGREE, step);
        if (*broken)
            return *broken;
        note[sizeof note - 1] = 0;
        return rondo__fail(RONDO_EPEER, "rank %d failed: %s (%s; told when agreeing on %s)", bad, note,
                           rondo_error_name((int)votes[bad].code), what);
    }
    for (int r = 1; r < ctx->ranks; r++)
        if (votes[r].hash != votes[0].hash)
            return rondo__fail(RONDO_EMISMATCH, "ranks disagree on %s: rank %d has %016llx where rank 0 has %016llx; all ranks must "
                               "make the same call with the same arguments", what, r, (unsigned long long)votes[r].hash,
                               (unsigned long long)votes[0].hash);
    return 0;
}

#define VOTES_HERE 64

int rondo_agree(rondo_context *ctx, uint64_t hash, int code, const char *what)
{
    if (!ctx)
        return rondo__fail(RONDO_EINVAL, "rondo_agree: the context is NULL");
    if (ctx->ranks == 1)
        return code ? code : begin(ctx, "agreement");
    char own[TEXT_BYTES] = "", step[STEP_BYTES];
    what = what ? what : "their arguments";
    snprintf(step, sizeof step, "agreement on %s", what);
    if (code)
        snprintf(own, sizeof own, "%s", rondo_error_text());
    struct vote here[VOTES_HERE], *votes = here, mine = { hash, code };
    if (ctx->ranks > VOTES_HERE) {
        size_t bytes;
        votes = rondo__mul((size_t)ctx->ranks, sizeof *votes, &bytes) ? rondo__alloc(bytes) : NULL;
        if (!votes) {
            if (!code)
                code = rondo__fail(RONDO_ENOMEM, "no memory for the votes of %d ranks", ctx->ranks);
            return rondo__collective_failed(ctx, code);
        }
    }
    int err = gather(ctx, &mine, (char *)votes, NULL, sizeof mine, RONDO_OP_AGREE, step);
    if (!err && ctx->transport->eager < sizeof mine)
        err = rondo__fence(ctx, (struct rondo__step){ step, 0, 0 });
    int broken = err;
    if (!err)
        err = verdict(ctx, votes, what, step, &broken);
    (void)rondo__collective_failed(ctx, broken);
    if (code)
        err = rondo__fail(code, "%s", own);   /* a rank that came with a failure keeps that one */
    if (err && !broken)
        ctx->agreed = text_hash();
    if (votes != here)
        rondo__free(votes);
    return err;
}
