/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Ranks that fail: at every step, on every rank, by every way there is to fail. Every other rank must come back with a code
 * and a sentence that says who and why, the launcher must report the first cause, and nobody may wait for ever.
 */
#define _GNU_SOURCE
#include <unistd.h>

#include "workload.h"

/* Long enough for every thread to get its turn and wait: who waits for whom is how a chain is followed to its end. */
static const rondo_context_desc short_wait = { sizeof(rondo_context_desc), NULL, NULL, NULL, NULL, 0, 1, 0.5, NULL };

/* One failure of one rank at one step; "" or what went wrong. */
static const char *one_failure(int ranks, int rank, int step, int quiet)
{
    static char bad[1400];
    struct work w;
    char who[64], what[64];
    memset(&w, 0, sizeof w);
    w.fail_rank = rank;
    w.fail_step = step;
    w.quiet = quiet;
    for (int r = 0; r < ranks; r++)
        w.code[r] = 1;   /* has not run */
    int err = rondo_launch(ranks, NULL, work_body, &w);
    snprintf(what, sizeof what, "rank %d was told to fail at step %d", rank, step);
    snprintf(who, sizeof who, quiet == 2 ? "rank %d has left" : "rank %d ", rank);
    if (quiet == 2 ? err && err != RONDO_EPEER : err != RONDO_ENOMEM || strcmp(rondo_error_text(), what) != 0) {
        snprintf(bad, sizeof bad, "the launcher got %d: %s", err, rondo_error_text());
        return bad;
    }
    if (w.steps[rank] != step || w.code[rank] != (quiet == 2 ? 0 : RONDO_ENOMEM)) {
        snprintf(bad, sizeof bad, "rank %d returned %d after step %d", rank, w.code[rank], w.steps[rank]);
        return bad;
    }
    for (int r = 0; r < ranks; r++) {
        /* A rank that had nothing left to do with the failing one may have finished. */
        if (r == rank || (w.code[r] == 0 && w.steps[r] == work_steps(ranks)))
            continue;
        /* Or not have begun, when the failing one was quick. */
        if (w.code[r] == 1 && step == 0)
            continue;
        /* Or have seen that the failing rank left their child, before it heard why. */
        if (quiet && w.code[r] == RONDO_EPEER && step > ranks + 4 && strstr(w.text[r], "has left, but rank"))
            continue;
        if (w.code[r] != RONDO_EPEER || (quiet == 2 ? !strstr(w.text[r], "has left") && !strstr(w.text[r], "failed")
                                                    : !strstr(w.text[r], what) || !strstr(w.text[r], who))) {
            snprintf(bad, sizeof bad, "rank %d returned %d after step %d: %s", r, w.code[r], w.steps[r], w.text[r]);
            return bad;
        }
    }
    return "";
}

static void every_failure(int ranks, int quiet, const char *how)
{
    int bad = 0, tried = 0;
    for (int rank = 0; rank < ranks; rank++)
        for (int step = 0; step < work_steps(ranks); step++) {
            if (quiet && step > 0 && step < ranks)
                continue;
            const char *why = one_failure(ranks, rank, step, quiet);
            tried++;
            if (*why && ++bad < 5)
                diag("rank %d of %d, step %d: %s", rank, ranks, step, why);
        }
    ok(bad == 0, "%d ranks, %s, at each of %d places: all others return", ranks, how, tried);
}

/* ---- memory that is read in place when its owner fails ---- */

struct slow_read {
    _Atomic int shown, finished, early;
};

/* Rank 0 looks at rank 1's memory for a while; rank 1 fails meanwhile and may not go on before the look has ended. */
static int slow_reader(rondo_context *ctx, void *arg)
{
    struct slow_read *state = arg;
    struct shift s;
    const void *where = NULL;
    unsigned char *mine = rondo__alloc(1000), room[1000];
    if (!mine)
        return rondo__fail(RONDO_ENOMEM, "no memory");
    memset(mine, 7, 1000);
    int err = shift_start(ctx, &s, 1, mine, 1000, room, 1000, RONDO_OP_SHIFT, step_named("a look"));
    if (!err)
        err = shift_finish(ctx, &s, &where);
    if (!err && ctx->rank == 0) {
        state->shown = 1;
        while (!err) {
            err = rondo__poll(ctx);
            usleep(500);
        }
        usleep(20000);   /* a kernel stops when its piece of work is done, not at once */
        for (int i = 0; i < 1000; i++)
            if (((const unsigned char *)where)[i] != 7)
                state->early = 1;
        state->finished = 1;
    }
    if (!err && ctx->rank == 1) {
        while (!state->shown)
            usleep(500);
        err = rondo__fail(RONDO_ENOMEM, "rank 1 fails");
    }
    err = rondo__collective_failed(ctx, err);
    if (ctx->rank == 1 && !state->finished)
        state->early = 1;
    memset(mine, 9, 1000);
    rondo__free(mine);
    return err;
}

/* ---- revoking from outside of any call ---- */

static _Atomic int woken;

static int revoker(rondo_context *ctx, void *arg)
{
    struct work *w = arg;
    int err = rondo_barrier(ctx);   /* else one that is still joining would be revoked out of that, without a body */
    if (ctx->rank == w->fail_rank) {
        usleep(2000);
        rondo_context_revoke(ctx, RONDO_ECANCELED, "the user pressed a key");
        rondo_context_revoke(ctx, RONDO_EIO, "a second time");   /* the first one counts */
        /* It is the revoking that must wake them, not what this rank does afterwards. */
        for (int i = 0; i < 10000 && woken < ctx->ranks - 1; i++)
            usleep(1000);
        if (woken < ctx->ranks - 1)
            return rondo__fail(RONDO_ETIMEDOUT, "only %d of %d others woke", woken, ctx->ranks - 1);
    }
    for (int i = 0; !err; i++)
        err = i % 2 ? rondo_barrier(ctx) : rondo_agree(ctx, 1, 0, "a loop without end");
    woken++;
    w->code[ctx->rank] = err;
    snprintf(w->text[ctx->rank], sizeof w->text[0], "%s", rondo_error_text());
    /* and so does every later call */
    uint64_t word = 0, all[WORK_RANKS];
    size_t bytes_of[WORK_RANKS];
    for (int r = 0; r < ctx->ranks; r++)
        bytes_of[r] = sizeof word;
    rondo_context *child;
    if (rondo_barrier(ctx) != RONDO_EPEER || rondo_broadcast(ctx, &word, sizeof word, 0) != RONDO_EPEER ||
        rondo_all_gather(ctx, &word, all, bytes_of) != RONDO_EPEER || rondo_agree(ctx, 1, 0, "x") != RONDO_EPEER ||
        rondo_context_split(&child, ctx, 0, 0) != RONDO_EPEER || rondo__poll(ctx) != RONDO_EPEER)
        w->code[ctx->rank] = 1;
    return 0;
}

static void revoking(int ranks)
{
    int bad = 0;
    for (int rank = 0; rank < ranks; rank++) {
        struct work w;
        char who[96];
        memset(&w, 0, sizeof w);
        w.fail_rank = rank;
        woken = 0;
        int err = rondo_launch(ranks, NULL, revoker, &w);
        snprintf(who, sizeof who, "rank %d failed: the user pressed a key (RONDO_ECANCELED", rank);
        for (int r = 0; r < ranks; r++)
            if (w.code[r] != RONDO_EPEER || !strstr(w.text[r], r == rank ? "this rank failed before" : who)) {
                diag("revoked by %d, rank %d: %d %s", rank, r, w.code[r], w.text[r]);
                bad++;
            }
        bad += err != 0;
    }
    ok(bad == 0, "%d ranks: revoking by any of them ends all waits and all later calls", ranks);
}

/* ---- sub-groups ---- */

/* A failure in a child ends that child only; one in the parent ends the child's waits too. */
static int child_and_parent(rondo_context *ctx, void *arg)
{
    int *result = arg, half = ctx->ranks / 2, mine = ctx->rank >= half, err;
    rondo_context *child;
    err = rondo_context_split(&child, ctx, mine, 0);
    if (err)
        return err;
    if (mine == 0 && ctx->rank == 0)
        rondo_context_revoke(child, RONDO_EIO, "a file of the first half");
    do
        err = rondo_barrier(child);
    while (mine == 0 && !err);
    if (err != (mine == 0 ? RONDO_EPEER : 0))
        result[ctx->rank] = 1;
    if (mine == 0 && ctx->rank != 0 && !strstr(rondo_error_text(), "rank 0 failed: a file of the first half"))
        result[ctx->rank] = 2;
    if (rondo_barrier(ctx))
        result[ctx->rank] = 3;
    if (ctx->rank == 1) {
        usleep(5000);
        rondo_context_revoke(ctx, RONDO_EIO, "a file of all");
    }
    do
        err = rondo_barrier(child);
    while (!err);
    if (err != RONDO_EPEER)
        result[ctx->rank] = 4;
    /* rank 1 is in the first half: the second knows it by its number in the parent */
    if (mine == 1 && !strstr(rondo_error_text(), "rank 1 failed: a file of all"))
        result[ctx->rank] = 5;
    rondo_context_destroy(child);
    return 0;
}

/* ---- deadlines ---- */

static int sleeper(rondo_context *ctx, void *arg)
{
    struct work *w = arg;
    int err = rondo_barrier(ctx);
    if (ctx->rank == w->fail_rank) {
        usleep(1000000);   /* two deadlines */
    } else if (w->fail_step == 0) {
        err = rondo_barrier(ctx);
    } else if (w->fail_step == 1) {
        uint64_t word = 0;
        err = rondo_broadcast(ctx, &word, sizeof word, w->fail_rank);
    } else if (w->fail_step == 3) {
        /* everybody waits for the rank before, which does not send before its own has come */
        char byte = 0, in;
        struct shift s;
        err = shift_start(ctx, &s, 1, &byte, 0, &in, 1, RONDO_OP_SHIFT, step_named("a chain"));
        if (!err)
            err = shift_finish(ctx, &s, NULL);
    } else {
        char out[200] = { 0 }, in[200];
        struct shift s;
        int d = (ctx->rank + ctx->ranks - w->fail_rank) % ctx->ranks;
        err = shift_start(ctx, &s, d, out, sizeof out, in, sizeof in, RONDO_OP_SHIFT, (struct rondo__step){ "pass-KV", 3, 7 });
        if (!err)
            err = shift_finish(ctx, &s, NULL);
    }
    w->code[ctx->rank] = err = rondo__collective_failed(ctx, err);
    snprintf(w->text[ctx->rank], sizeof w->text[0], "%s", rondo_error_text());
    return err;
}

static void deadlines(int ranks, int step, const char *name)
{
    int bad = 0;
    for (int rank = 0; rank < ranks; rank += ranks - 1) {
        struct work w;
        char who[96];
        memset(&w, 0, sizeof w);
        w.fail_rank = rank;
        w.fail_step = step;
        double begin = rondo__now();
        int err = rondo_launch(ranks, &short_wait, sleeper, &w);
        double seconds = rondo__now() - begin;
        int late = 0;
        snprintf(who, sizeof who, "rank %d did not answer rank ", rank);
        for (int r = 0; r < ranks; r++) {
            if (r == rank)
                continue;
            late += w.code[r] == RONDO_ETIMEDOUT && strstr(w.text[r], "within 0.5 s");
            /* with more than two ranks one times out first; its sentence reaches the others. All name the one who does not come, also
             * those that wait for somebody who waits for it. */
            if ((w.code[r] != RONDO_ETIMEDOUT && w.code[r] != RONDO_EPEER) || !strstr(w.text[r], name) ||
                !strstr(w.text[r], who)) {
                diag("rank %d late, rank %d: %d %s", rank, r, w.code[r], w.text[r]);
                bad++;
            }
        }
        if (err != RONDO_ETIMEDOUT || !late || seconds > 5.0) {
            diag("launch: %d %s (%d late, %.3f s)", err, rondo_error_text(), late, seconds);
            bad++;
        }
    }
    ok(bad == 0, "%d ranks: a deadline passes in %s, and the sentence names peer and step", ranks, name);
}

/* ---- wrong use ---- */

static int wrong_sizes(rondo_context *ctx, void *arg)
{
    int *result = arg;
    char out[300] = { 0 }, in[300];
    struct shift s;
    int err = shift_start(ctx, &s, 1, out, sizeof out, in, 299, RONDO_OP_SHIFT, step_named("sizes"));
    if (!err)
        err = shift_finish(ctx, &s, NULL);
    result[ctx->rank] = err;
    return rondo__collective_failed(ctx, err);
}

static int odd_argument(rondo_context *ctx, void *arg)
{
    int *result = arg;
    char byte = 0;
    /* one rank calls with an argument that cannot be; the others wait in this call or the next and hear of it */
    int err = rondo_barrier(ctx);
    if (!err)
        err = rondo_broadcast(ctx, &byte, 1, ctx->rank == 1 ? 99 : 2);
    return result[ctx->rank] = err ? err : rondo_barrier(ctx);
}

/* The same failure twice: first it is told by an agreement, so that nobody else need hear of it; the second time, which is another
 * failure however much it sounds like the first, it must be told. */
static _Atomic int heard;

static int twice(rondo_context *ctx, void *arg)
{
    int *result = arg;
    int code = ctx->rank == 1 ? rondo__fail(RONDO_EINVAL, "q is NULL, but this rank has 7 rows") : 0;
    int err = rondo_agree(ctx, 3, code, "the first plan");
    if (err != (ctx->rank == 1 ? RONDO_EINVAL : RONDO_EPEER) || rondo__collective_failed(ctx, err) != err)
        return rondo__fail(RONDO_EDEVICE, "rank %d: the agreement ended with %d", ctx->rank, err);
    if (ctx->rank == 1) {
        code = rondo__fail(RONDO_EINVAL, "q is NULL, but this rank has 7 rows");
        result[ctx->rank] = rondo__collective_failed(ctx, code);
        /* It is the call that tells them, not the end of this rank. */
        for (double until = rondo__now() + 4.0; heard < ctx->ranks - 1 && rondo__now() < until;)
            usleep(1000);
        return result[ctx->rank];
    }
    char in[10];
    struct shift s;
    err = shift_start(ctx, &s, (ctx->rank - 1 + ctx->ranks) % ctx->ranks, NULL, 0, in, sizeof in, RONDO_OP_SHIFT, step_named("the second plan"));
    if (!err)
        err = shift_finish(ctx, &s, NULL);
    heard++;
    result[ctx->rank] = strstr(rondo_error_text(), "rank 1 failed: q is NULL, but this rank has 7 rows") ? err : 1;
    return rondo__collective_failed(ctx, err);
}

static int own_code(rondo_context *ctx, void *arg)
{
    (void)arg;
    return ctx->rank == 2 ? 77 : rondo_barrier(ctx);
}

int main(void)
{
    alarm(120);
    unsetenv("RONDO_TEST_HOOK");
    unsetenv("RONDO_DEADLINE");
    static const int counts[] = { 2, 3, 5 };
    for (int i = 0; i < 3; i++) {
        struct work w;
        memset(&w, 0, sizeof w);
        w.fail_rank = -1;
        if (!is_int(rondo_launch(counts[i], NULL, work_body, &w), 0, "%d ranks: the work succeeds", counts[i]))
            diag("%s", rondo_error_text());
        is_int(w.steps[0], work_steps(counts[i]), "it has as many steps as is said");
        every_failure(counts[i], 0, "a rank fails");
        every_failure(counts[i], 1, "a rank returns early with a code");
        every_failure(counts[i], 2, "a rank returns early without one");
        revoking(counts[i]);
    }
    deadlines(4, 0, "barrier");
    deadlines(3, 1, "broadcast");
    deadlines(8, 1, "broadcast");
    deadlines(8, 3, "a chain");
    deadlines(2, 2, "pass-KV 3 of 7");
    for (int ranks = 4; ranks <= 8; ranks += 2) {
        int result[8] = { 0 };
        is_int(rondo_launch(ranks, NULL, child_and_parent, result), 0, "%d ranks: revoking a child and its parent", ranks);
        for (int r = 0; r < ranks; r++)
            is_int(result[r], 0, "rank %d saw what it should", r);
    }
    revoking(1);
    struct slow_read state = { 0, 0, 0 };
    is_int(rondo_launch(2, NULL, slow_reader, &state), RONDO_ENOMEM, "a rank fails while another one reads its memory");
    ok(state.finished && !state.early, "and does not take it back before the reader is done");
    int result[8] = { 0 };
    is_int(rondo_launch(3, NULL, wrong_sizes, result), RONDO_EMISMATCH, "a message of another size than expected");
    ok(strstr(rondo_error_text(), "sent 300 bytes where") && strstr(rondo_error_text(), "in step sizes"), "is named: %s", rondo_error_text());
    is_int(rondo_launch(4, NULL, odd_argument, result), RONDO_EINVAL, "a root that does not exist, on one rank");
    ok(result[0] == RONDO_EPEER && result[1] == RONDO_EINVAL && result[2] == RONDO_EPEER && result[3] == RONDO_EPEER, "ends the others' calls");
    for (int ranks = 2; ranks <= 4; ranks += 2) {
        const rondo_context_desc some_wait = { sizeof(rondo_context_desc), NULL, NULL, NULL, NULL, 0, 1, 5.0, NULL };
        int told = 0;
        double begin = rondo__now();
        memset(result, 0, sizeof result);
        heard = 0;
        is_int(rondo_launch(ranks, &some_wait, twice, result), RONDO_EINVAL, "%d ranks: the same failure in a second plan", ranks);
        for (int r = 0; r < ranks; r++)
            told += result[r] == (r == 1 ? RONDO_EINVAL : RONDO_EPEER);
        ok(told == ranks && rondo__now() - begin < 4.0, "is told to all, at once (%d, %.1f s)", told, rondo__now() - begin);
    }
    is_int(rondo_launch(4, NULL, own_code, NULL), 77, "a body's own code comes home");
    ok(strstr(rondo_error_text(), "rank 2 returned 77") != NULL, "with a sentence: %s", rondo_error_text());
    return done();
}
