/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Groups of messages when something is wrong: parts that cannot be, sizes that differ, a peer that does not come, a failure while parts
 * are under way or while memory is looked at. Every rank returns a code and a sentence with peer and step, whatever the group, and
 * what was shown stays until nobody looks. On threads as they are and as the test hook makes them.
 */
#define _GNU_SOURCE
#include <unistd.h>

#include "shift.h"
#include "tap.h"

#define RANKS_MOST 8
#define MOST 3000

struct outcome {
    int code[RANKS_MOST], kind, victim;
    char text[RANKS_MOST][600];
};

static int note(rondo_context *ctx, struct outcome *o, int err)
{
    o->code[ctx->rank] = err;
    snprintf(o->text[ctx->rank], sizeof o->text[0], "%s", err ? rondo_error_text() : "");
    return rondo__collective_failed(ctx, err);
}

static int run(int ranks, const char *hook, double deadline, rondo_body *body, struct outcome *o)
{
    rondo_context_desc desc = RONDO_CONTEXT_DESC_INIT;
    desc.deadline = deadline;
    memset(o->code, 0, sizeof o->code);
    memset(o->text, 0, sizeof o->text);
    if (hook)
        setenv("RONDO_TEST_HOOK", hook, 1);
    int err = rondo_launch(ranks, &desc, body, o);
    unsetenv("RONDO_TEST_HOOK");
    return err;
}

/* ---- parts that cannot be ---- */

enum { NOTHING, ONESELF, NOBODY, BEYOND, NOWHERE, KINDS };
static const char *const kind_says[KINDS] = { "of 0 bytes", "between rank 1 and rank 1", "between rank 1 and rank -1", "it takes another one of the ranks 0..2",
                                              "has no memory (NULL)" };

/* Rank 1 puts one impossible part in the middle of a group; the others wait in theirs. */
static int impossible(rondo_context *ctx, void *arg)
{
    struct outcome *o = arg;
    unsigned char out[100] = { 0 }, in[2][100];
    const int n = ctx->ranks, me = ctx->rank;
    struct rondo_part parts[4] = { part_to((me + 1) % n, out, 100), part_from((me + 1) % n, in[0], 100), part_from((me + 2) % n, in[1], 100),
                                   part_to((me + 2) % n, out, 100) };
    struct rondo__transfer t;
    if (me == 1) {
        parts[2].bytes = o->kind == NOTHING ? 0 : 100;
        parts[2].peer = o->kind == ONESELF ? me : o->kind == NOBODY ? -1 : o->kind == BEYOND ? n : parts[2].peer;
        parts[2].memory = o->kind == NOWHERE ? NULL : in[1];
    }
    rondo_comm_stats before = RONDO_COMM_STATS_INIT, after = RONDO_COMM_STATS_INIT;
    int err = rondo_barrier(ctx);   /* else one that is still joining would hear of it there */
    if (!err)
        err = rondo_comm_query(ctx, &before);
    if (!err)
        err = group_start(ctx, &t, parts, 4, RONDO_OP_SHIFT, (struct rondo__step){ "a group", 2, 5 });
    if (me == 1 && rondo_comm_query(ctx, &after) == 0 && (t.active || after.messages[RONDO_OP_SHIFT] != before.messages[RONDO_OP_SHIFT]))
        err = rondo__fail(RONDO_EDEVICE, "something of the group was sent");
    if (!err)
        err = rondo__transfer_finish(ctx, &t);
    return note(ctx, o, err);
}

static void refused(const char *hook)
{
    for (int kind = 0; kind < KINDS; kind++) {
        struct outcome o = { .kind = kind };
        int err = run(3, hook, 10.0, impossible, &o), told = 0;
        is_int(err, RONDO_EINVAL, "%s: a message %s is refused", hook ? hook : "threads", kind_says[kind]);
        ok(o.code[1] == RONDO_EINVAL && strstr(o.text[1], kind_says[kind]) && strstr(o.text[1], "a group"), "with a sentence: %s", o.text[1]);
        for (int r = 0; r < 3; r += 2)
            told += o.code[r] == RONDO_EPEER && strstr(o.text[r], "rank 1 failed: a group") && strstr(o.text[r], "in step ");
        ok(told == 2, "and the others are told: %s", o.text[0]);
    }
}

/* ---- sizes that differ ---- */

static int wrong_size(rondo_context *ctx, void *arg)
{
    struct outcome *o = arg;
    static _Thread_local unsigned char out[MOST], in[5][MOST];
    const int n = ctx->ranks, me = ctx->rank;
    struct rondo_part parts[10];
    struct rondo__transfer t;
    int count = 0, err = rondo_barrier(ctx);
    for (int k = 0; k < 5; k++) {
        const size_t bytes = (size_t)(k == 1 ? MOST : 11 * k + 1), bad = me == 2 && k == o->kind ? 1 : 0;
        parts[count++] = part_to((me + 1 + k % 3) % n, out, bytes);
        parts[count++] = part_from((me - 1 - k % 3 + n) % n, in[k], bytes + bad);
    }
    if (!err)
        err = group_start(ctx, &t, parts, count, RONDO_OP_SHIFT, step_named("sizes"));
    if (!err)
        err = rondo__transfer_finish(ctx, &t);
    if (!err)
        err = rondo_barrier(ctx);
    return note(ctx, o, err);
}

static void sizes(const char *hook)
{
    for (int k = 0; k < 5; k++) {
        struct outcome o = { .kind = k };
        char says[64];
        int err = run(5, hook, 10.0, wrong_size, &o), others = 0;
        snprintf(says, sizeof says, "rank %d sent %d bytes where rank 2 expects", (2 - 1 - k % 3 + 5) % 5, k == 1 ? MOST : 11 * k + 1);
        is_int(err, RONDO_EMISMATCH, "%s: part %d of five has another size than expected", hook ? hook : "threads", k);
        ok(o.code[2] == RONDO_EMISMATCH && strstr(o.text[2], says) && strstr(o.text[2], "in step sizes"), "and is named: %s", o.text[2]);
        for (int r = 0; r < 5; r++)
            others += r != 2 && o.code[r] == RONDO_EPEER && strstr(o.text[r], says);
        ok(others == 4, "the others are told");
    }
}

/* ---- a peer that does not come ---- */

/* All but one exchange with everybody; the one that they miss comes last among their parts, after those that go round. */
static int missing(rondo_context *ctx, void *arg)
{
    struct outcome *o = arg;
    unsigned char out[200] = { 0 }, in[RANKS_MOST][200];
    const int n = ctx->ranks, me = ctx->rank;
    struct rondo_part parts[2 * RANKS_MOST];
    struct rondo__transfer t;
    int count = 0, err = rondo_barrier(ctx);
    if (me == o->victim) {
        usleep(700000);
        return note(ctx, o, err);
    }
    for (int last = 0; last < 2; last++)
        for (int d = 1; d < n; d++) {
            const int peer = (me + d) % n;
            if ((peer == o->victim) != last)
                continue;
            parts[count++] = part_from(peer, in[d], 200);
            parts[count++] = part_to(peer, out, 200);
        }
    if (!err)
        err = group_start(ctx, &t, parts, count, RONDO_OP_ALL_TO_ALL, (struct rondo__step){ "exchange", 1, 3 });
    if (!err)
        err = rondo__transfer_finish(ctx, &t);
    return note(ctx, o, err);
}

static void deadlines(const char *hook)
{
    for (int ranks = 2; ranks <= RANKS_MOST; ranks += 3)
        for (int victim = 0; victim < ranks; victim += ranks - 1) {
            struct outcome o = { .victim = victim };
            char who[64];
            int err = run(ranks, hook, 0.25, missing, &o), named = 0;
            snprintf(who, sizeof who, "rank %d did not answer rank ", victim);
            for (int r = 0; r < ranks; r++)
                named += (o.code[r] == RONDO_ETIMEDOUT || o.code[r] == RONDO_EPEER) && strstr(o.text[r], who) &&
                         strstr(o.text[r], "in step exchange 1 of 3");
            ok(err == RONDO_ETIMEDOUT && named == ranks - 1, "%s: rank %d of %d does not come, and all others name it: %s", hook ? hook : "threads",
               victim, ranks, o.text[victim ? 0 : 1]);
        }
}

/* ---- a failure while parts are under way ---- */

/* Each rank has three groups with all others under way in memory that it gives back at once; one fails before its second. */
static int under_way(rondo_context *ctx, void *arg)
{
    struct outcome *o = arg;
    const int n = ctx->ranks, me = ctx->rank;
    struct rondo_part *parts = rondo__alloc_zero(3 * 2 * RANKS_MOST, sizeof *parts);
    struct rondo__transfer *t = rondo__alloc_zero(3, sizeof *t);
    unsigned char *out = rondo__alloc_zero(1, MOST), *in = rondo__alloc_zero(3 * RANKS_MOST, MOST);
    int err = parts && t && out && in ? rondo_barrier(ctx) : RONDO_ENOMEM, sum = 0;
    for (int i = 0; i < 3 && !err; i++) {
        struct rondo_part *p = parts + i * 2 * RANKS_MOST;
        int count = 0;
        if (i == 1 && me == o->victim)
            err = rondo__fail(RONDO_EIO, "rank %d was told to fail", me);
        for (int d = 1; d < n; d++) {
            p[count++] = part_to((me + d) % n, out, MOST);
            p[count++] = part_from((me - d + n) % n, in + (i * RANKS_MOST + d) * MOST, MOST);
        }
        if (!err)
            err = group_start(ctx, &t[i], p, count, RONDO_OP_ALL_TO_ALL, step_named("under way"));
    }
    for (int i = 2; i >= 0 && !err; i--) {
        err = rondo__transfer_finish(ctx, &t[i]);
        for (int k = 0; k < t[i].group.count && !err; k++)
            for (int b = 0; t[i].group.parts[k].receives && b < MOST; b++)
                sum += ((const unsigned char *)t[i].group.parts[k].where)[b];
    }
    if (!err)
        err = sum ? rondo__fail(RONDO_EDEVICE, "the sum of zeros is %d", sum) : rondo__fence(ctx, step_named("under way"));
    err = note(ctx, o, err);   /* the last thing before memory goes */
    if (out)
        memset(out, 0x55, MOST);
    rondo__free(out);
    rondo__free(in);
    rondo__free(t);
    rondo__free(parts);
    return err;
}

static void revoked(const char *hook)
{
    for (int ranks = 2; ranks <= 5; ranks++) {
        int good = 0;
        for (int victim = 0; victim < ranks; victim++) {
            struct outcome o = { .victim = victim };
            char who[64];
            int err = run(ranks, hook, 10.0, under_way, &o), told = 0;
            snprintf(who, sizeof who, "rank %d was told to fail", victim);
            for (int r = 0; r < ranks; r++)
                told += o.code[r] == (r == victim ? RONDO_EIO : RONDO_EPEER) && strstr(o.text[r], who);
            good += err == RONDO_EIO && told == ranks;
        }
        is_int(good, ranks, "%s, %d ranks: whichever fails while groups are under way, all return and say why", hook ? hook : "threads", ranks);
    }
}

/* ---- memory that is looked at ---- */

static _Atomic int looking, looked, early;

/* Ranks 1 and up look at parts that rank 0 has shown, when it fails: it goes on when the last of them has stopped. */
static int quiet(rondo_context *ctx, void *arg)
{
    struct outcome *o = arg;
    const int n = ctx->ranks, me = ctx->rank;
    unsigned char *mine = rondo__alloc(MOST), in[2][MOST];
    struct rondo_part parts[2 * RANKS_MOST];
    struct rondo__transfer t;
    int count = 0, err = mine ? 0 : RONDO_ENOMEM;
    if (mine)
        memset(mine, 7, MOST);
    for (int r = 1; r < n && me == 0; r++) {
        parts[count++] = part_to(r, mine, 1000);
        parts[count++] = part_to(r, mine ? mine + 1000 : NULL, MOST - 1000);
    }
    if (me) {
        parts[count++] = part_from(0, in[0], 1000);
        parts[count++] = part_from(0, in[1], MOST - 1000);
    }
    if (!err)
        err = group_start(ctx, &t, parts, count, RONDO_OP_SHIFT, step_named("a look"));
    if (!err)
        err = rondo__transfer_finish(ctx, &t);
    if (!err && me) {
        looking++;
        while (!err) {
            err = rondo__poll(ctx);
            usleep(500);
        }
        usleep(10000 * (unsigned)me);   /* a kernel stops when its piece of work is done, not at once */
        for (int k = 0; k < count; k++)
            for (size_t i = 0; i < parts[k].bytes; i++)
                early |= ((const unsigned char *)parts[k].where)[i] != 7;
        looked++;
    } else if (!err) {
        while (looking < n - 1)
            usleep(500);
        err = rondo__fail(RONDO_EIO, "rank 0 was told to fail");
    }
    err = note(ctx, o, err);
    if (me == 0 && looked < n - 1 && ctx->transport->in_place)
        early = 1;
    if (mine)
        memset(mine, 9, MOST);
    rondo__free(mine);
    return err;
}

int main(void)
{
    static const char *const hooks[] = { NULL, "copy", "reorder:3", "copy,reorder:4,delay:1" };
    alarm(120);
    unsetenv("RONDO_TEST_HOOK");
    unsetenv("RONDO_DEADLINE");
    for (size_t h = 0; h < sizeof hooks / sizeof *hooks; h++) {
        const char *hook = hooks[h];
        refused(hook);
        sizes(hook);
        if (h < 2)
            deadlines(hook);
        revoked(hook);
        for (int ranks = 2; ranks <= 4; ranks++) {
            struct outcome o = { .kind = 0 };
            looking = looked = early = 0;
            is_int(run(ranks, hook, 10.0, quiet, &o), RONDO_EIO, "%s, %d ranks: one fails while others look at its memory", hook ? hook : "threads", ranks);
            ok(looked == ranks - 1 && !early, "and does not take it back before they are done");
        }
    }
    return done();
}
