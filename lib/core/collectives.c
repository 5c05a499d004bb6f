/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The small collectives, over the groups of messages of comm.c: for users through rondo_barrier() and its neighbours, and for every
 * collective function of the libraries, which agrees on its arguments first. None of them adds a number.
 */
#include "core/internal.h"

#include <stdio.h>

/* Distances between ranks that a gather serves at once; all ranks use the same number, so none waits for what is not yet started. */
#define WINDOW 16
/* From so many ranks on a few bytes of each go to rank 0, and from there to all: 2 (N - 1) messages, not N (N - 1), for each of which both ends keep
 * something. */
#define MANY 32
#define FEW_BYTES ((size_t)64 << 10)
/* Of distances that double. */
#define ROUNDS_MAX 31
#define TEXT_BYTES 1024
/* What agree passes on of a failed rank's sentence. */
#define NOTE_BYTES 512
/* "agreement on " and what is agreed on. */
#define STEP_BYTES 128
/* What is small needs no fence, but who waits for nobody must not run ahead without end. */
#define UNFENCED_MAX 64

void rondo__building(rondo_context *ctx, bool begins)
{
    if (ctx->ranks >= MANY && ctx->transport && ctx->transport->computing)
        ctx->transport->computing(ctx->endpoint, begins ? -1 : 0);
}

int rondo__once(const rondo_context *ctx, const void *key, size_t key_bytes, void *value, size_t value_bytes,
                int (*make)(void *arg, void *value), void *arg)
{
    if (ctx->ranks < MANY || !ctx->transport || !ctx->transport->once)
        return make(arg, value);
    return ctx->transport->once(ctx->endpoint, key, key_bytes, value, value_bytes, make, arg);
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

/* Everybody's `mine` to everybody, directly, to the ranks 1, 2, ..., N-1 further on; no fence. */
static int gather(rondo_context *ctx, const void *mine, char *all, const size_t *bytes_of, int operation, const char *step)
{
    struct rondo_part parts[2 * WINDOW];
    const int n = ctx->ranks, me = ctx->rank;
    const size_t mine_bytes = bytes_of[me];
    /* Where a rank's bytes go: walks down from this rank's own place as the distance grows. */
    size_t total = 0, before = 0;
    for (int r = 0; r < n; r++) {
        if (r == me)
            before = total;
        total += bytes_of[r];
    }
    if (mine_bytes)
        memmove(all + before, mine, mine_bytes);
    size_t place = before;
    for (int first = 1; first < n; first += WINDOW) {
        int32_t count = 0;
        for (int d = first; d < n && d < first + WINDOW; d++) {
            int from = (me - d + n) % n;
            size_t bytes = bytes_of[from];
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
    if (ctx->endpoint && bytes > ctx->transport->eager)
        return rondo__fence(ctx, (struct rondo__step){ step, 0, 0 });
    return rondo__fence_at_times(ctx, (struct rondo__step){ step, 0, 0 });
}

/* The same by way of rank 0. */
static int gather_few(rondo_context *ctx, const void *mine, char *all, const size_t *bytes_of, size_t total, int operation, const char *step)
{
    struct rondo_part parts[WINDOW];
    const int n = ctx->ranks, me = ctx->rank;
    int err = 0;
    if (me && bytes_of[me]) {
        parts[0] = sent(mine, bytes_of[me], 0);
        err = move(ctx, parts, 1, operation, step);
    } else if (!me && bytes_of[0]) {
        memmove(all, mine, bytes_of[0]);
    }
    char *place = all + bytes_of[0];
    for (int r = 1; r < n && !me && !err;) {
        int32_t count = 0;
        for (; r < n && count < WINDOW; r++) {
            if (bytes_of[r])
                parts[count++] = received(place, bytes_of[r], r);
            place += bytes_of[r];
        }
        if (count)
            err = move(ctx, parts, count, operation, step);
        for (int32_t i = 0; i < count && !err; i++)
            if (parts[i].where != parts[i].memory)
                memcpy(parts[i].memory, parts[i].where, parts[i].bytes);
    }
    return err || !total ? err : broadcast(ctx, all, total, 0, operation, step);
}

int rondo_all_gather(rondo_context *ctx, const void *mine, void *all, const size_t *bytes_of)
{
    if (!ctx)
        return rondo__fail(RONDO_EINVAL, "rondo_all_gather: the context is NULL");
    size_t total = 0, largest = 0;
    int err = rondo__collective_begin(ctx, "all-gather");
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
    if (!err && ctx->ranks >= MANY && total <= FEW_BYTES)
        err = gather_few(ctx, mine, all, bytes_of, total, RONDO_OP_ALL_GATHER, "all-gather");
    else if (!err)
        err = gather(ctx, mine, all, bytes_of, RONDO_OP_ALL_GATHER, "all-gather");
    if (!err && ctx->endpoint && largest > ctx->transport->eager)
        err = rondo__fence(ctx, (struct rondo__step){ "end of all-gather", 0, 0 });
    return rondo__collective_failed(ctx, err);
}


int rondo__fence_at_times(rondo_context *ctx, struct rondo__step step)
{
    return ctx->endpoint && ++ctx->unfenced >= UNFENCED_MAX ? rondo__fence(ctx, step) : 0;
}

int rondo_broadcast(rondo_context *ctx, void *data, size_t bytes, int root)
{
    if (!ctx)
        return rondo__fail(RONDO_EINVAL, "rondo_broadcast: the context is NULL");
    int err = rondo__collective_begin(ctx, "broadcast");
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
    int err = rondo__collective_begin(ctx, "barrier");
    if (!err)
        err = ctx->transport->fence ? rondo__fence(ctx, (struct rondo__step){ "barrier", 0, 0 }) : disseminate(ctx);
    return rondo__collective_failed(ctx, err);
}

/* ---- agreement ---- */

/* What is known of some of the ranks, the lowest of them first: its hash, and the lowest rank whose hash is another one. The same for
 * whoever has heard of the same ranks, however often and in what order. */
struct opinion {
    uint64_t hash, other_hash;
    int32_t rank, other;             /* other -1: none of them has another hash */
    int32_t failed, code;            /* the lowest rank that has failed, and how; -1: none */
};

static struct opinion merge(const struct opinion *a, const struct opinion *b)
{
    const struct opinion *low = a->rank <= b->rank ? a : b, *high = low == a ? b : a;
    struct opinion out = *low;
    /* Of those that `high` has heard of, the lowest that differs from `low`'s lowest. */
    const bool differs = high->hash != low->hash;
    const int32_t other = differs ? high->rank : high->other;
    if (other >= 0 && (out.other < 0 || other < out.other)) {
        out.other = other;
        out.other_hash = differs ? high->hash : high->other_hash;
    }
    if (high->failed >= 0 && (out.failed < 0 || high->failed < out.failed)) {
        out.failed = high->failed;
        out.code = high->code;
    }
    return out;
}

/* The same verdict on every rank. The communicator stays as it is: nobody waits for anybody. */
static int verdict(rondo_context *ctx, const struct opinion *all, const char *what, const char *step, int *broken)
{
    if (all->failed >= 0) {
        /* The first failed rank's sentence goes round, so that all can repeat it. */
        char note[NOTE_BYTES];
        memset(note, 0, sizeof note);
        snprintf(note, sizeof note, "%s", rondo_error_text());
        *broken = broadcast(ctx, note, sizeof note, all->failed, RONDO_OP_AGREE, step);
        if (*broken)
            return *broken;
        note[sizeof note - 1] = 0;
        return rondo__fail(RONDO_EPEER, "rank %d failed: %s (%s; told when agreeing on %s)", (int)all->failed, note,
                           rondo_error_name(all->code), what);
    }
    if (all->other >= 0)
        return rondo__fail(RONDO_EMISMATCH, "ranks disagree on %s: rank %d has %016llx where rank %d has %016llx; all ranks must "
                           "make the same call with the same arguments", what, (int)all->other, (unsigned long long)all->other_hash,
                           (int)all->rank, (unsigned long long)all->hash);
    return 0;
}

/* By dissemination, as the barrier: after round k everybody has heard of the 2^(k+1) ranks up to its own, so the last one may tell of
 * some ranks twice, which does no harm. */
int rondo_agree(rondo_context *ctx, uint64_t hash, int code, const char *what)
{
    if (!ctx)
        return rondo__fail(RONDO_EINVAL, "rondo_agree: the context is NULL");
    if (ctx->ranks == 1)
        return code ? code : rondo__collective_begin(ctx, "agreement");
    char own[TEXT_BYTES] = "", step[STEP_BYTES];
    what = what ? what : "their arguments";
    snprintf(step, sizeof step, "agreement on %s", what);
    if (code)
        snprintf(own, sizeof own, "%s", rondo_error_text());
    const int n = ctx->ranks, me = ctx->rank;
    /* One for each round: what was sent may be read where it lies until the fence. */
    struct opinion state[ROUNDS_MAX + 1];
    state[0] = (struct opinion){ .hash = hash, .rank = me, .other = -1, .failed = code ? me : -1, .code = code };
    int err = 0, rounds = 0;
    for (int d = 1; d < n && !err; d = d > n / 2 ? n : 2 * d, rounds++) {
        struct opinion heard;
        struct rondo_part parts[2] = { received(&heard, sizeof heard, (me - d + n) % n), sent(&state[rounds], sizeof heard, (me + d) % n) };
        err = move(ctx, parts, 2, RONDO_OP_AGREE, step);
        if (!err)
            state[rounds + 1] = merge(&state[rounds], parts[0].where);
    }
    if (!err && ctx->transport->eager < sizeof state[0])
        err = rondo__fence(ctx, (struct rondo__step){ step, 0, 0 });
    int broken = err;
    if (!err)
        err = verdict(ctx, &state[rounds], what, step, &broken);
    (void)rondo__collective_failed(ctx, broken);
    if (code)
        err = rondo__fail(code, "%s", own);   /* a rank that came with a failure keeps that one */
    if (err && !broken)
        ctx->agreed = rondo__last_failure();
    return err;
}

/* By dissemination too. */
int rondo__agree_least(rondo_context *ctx, int64_t *value, const char *what)
{
    if (ctx->ranks == 1)
        return 0;
    int64_t state[ROUNDS_MAX + 1] = { *value };
    const int n = ctx->ranks, me = ctx->rank;
    int err = rondo__collective_begin(ctx, what), rounds = 0;
    for (int d = 1; d < n && !err; d = d > n / 2 ? n : 2 * d, rounds++) {
        int64_t heard;
        struct rondo_part parts[2] = { received(&heard, sizeof heard, (me - d + n) % n), sent(&state[rounds], sizeof heard, (me + d) % n) };
        err = move(ctx, parts, 2, RONDO_OP_AGREE, what);
        if (!err) {
            memcpy(&heard, parts[0].where, sizeof heard);
            state[rounds + 1] = heard < state[rounds] ? heard : state[rounds];
        }
    }
    if (!err && ctx->transport->eager < sizeof *value)
        err = rondo__fence(ctx, (struct rondo__step){ what, 0, 0 });
    *value = state[rounds];
    return rondo__collective_failed(ctx, err);
}
