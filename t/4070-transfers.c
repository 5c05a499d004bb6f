/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Groups of messages, of several sizes, to and from several ranks: what arrives, when memory is the sender's again, that what was
 * started makes its way while a rank waits for something else, and that who does the same again allocates nothing. Ranks are
 * threads, as they are and as the test hook makes them, or with RONDO_TEST_TRANSPORT=mpi the processes that mpirun started.
 */
#define _GNU_SOURCE
#include <unistd.h>

#include "shift.h"
#include "t/memory.h"
#include "tap.h"

static const char *transport = "threads";

#define MOST 5000

/* ---- five parts to three ranks ---- */

#define PARTS 5
static const size_t part_size[PARTS] = { 1, 4097, 63, 65, 3 };
static const int part_distance[PARTS] = { 1, 2, 1, 3, 2 };   /* two to the next, two to the one after it, one to the third */

static int five_to_three(rondo_context *ctx, void *arg)
{
    static _Thread_local unsigned char out[PARTS][MOST], in[PARTS][MOST];
    int n = ctx->ranks, me = ctx->rank;
    (void)arg;
    for (int round = 0; round < 20; round++) {
        struct rondo_part parts[2 * PARTS];
        struct rondo__transfer t;
        int count = 0, from[2 * PARTS], number[2 * PARTS];
        for (int k = 0; k < PARTS; k++) {
            int to = (me + part_distance[k]) % n;
            if (to == me)
                continue;
            fill(out[k], part_size[k], me, to, round * PARTS + k);
            parts[count++] = part_to(to, out[k], part_size[k]);
            from[count] = (me - part_distance[k] + 3 * n) % n;
            number[count] = k;
            parts[count] = part_from(from[count], in[k], part_size[k]);
            count++;
        }
        /* Sends before receives, after them, or mixed: only the order between two ranks counts. */
        if (me % 3 == 1)
            for (int i = 0, j = 0; i < count; i++)
                if (parts[i].receives) {
                    struct rondo_part p = parts[i];
                    int f = from[i], k = number[i];
                    for (int m = i; m > j; m--) {
                        parts[m] = parts[m - 1];
                        from[m] = from[m - 1];
                        number[m] = number[m - 1];
                    }
                    parts[j] = p;
                    from[j] = f;
                    number[j++] = k;
                }
        TRY(group_start(ctx, &t, parts, count, RONDO_OP_SHIFT, (struct rondo__step){ "five to three", round, 20 }));
        CHECK(t.active == (count > 0));
        TRY(rondo__transfer_finish(ctx, &t));
        for (int i = 0; i < count; i++)
            if (parts[i].receives)
                CHECK(!differs(parts[i].where, parts[i].bytes, from[i], me, round * PARTS + number[i]));
        TRY(rondo__fence(ctx, step_named("five to three")));
    }
    return 0;
}

/* ---- whose memory it is ---- */

/* What was sent is the sender's again when its group is finished, unless it is shown in place: it is written at once, while receivers
 * take their time. */
static int own_again(rondo_context *ctx, void *arg)
{
    static const size_t sizes[] = { 1, 64, 65, MOST };
    static _Thread_local unsigned char out[MOST], in[MOST];
    int n = ctx->ranks, me = ctx->rank;
    (void)arg;
    for (int round = 0; round < 16; round++) {
        size_t bytes = sizes[round % 4];
        const bool shown = ctx->transport && ctx->transport->in_place && bytes > ctx->transport->eager;
        struct shift s;
        const void *where = NULL;
        if (n == 1)
            return 0;
        fill(out, bytes, me, (me + 1) % n, round);
        TRY(shift_start(ctx, &s, 1, out, bytes, in, bytes, RONDO_OP_SHIFT, step_named("own again")));
        if ((me + round) % 2)
            usleep(2000);
        TRY(shift_finish(ctx, &s, &where));
        if (!shown)
            memset(out, 0xaa, bytes);
        if (!ctx->transport->in_place)
            CHECK(where == in);
        if ((me + round / 2) % 2)
            usleep(500);
        CHECK(!differs(where, bytes, (me - 1 + n) % n, me, round));
        TRY(rondo__fence(ctx, step_named("own again")));
    }
    return 0;
}

/* Each of two ranks finishes what it sends while what it has started to receive is still open: both receives are there, so both
 * sends can end. And a receive that comes late is in nobody's way. */
static int crossing(rondo_context *ctx, void *arg)
{
    static _Thread_local unsigned char out[MOST], in[MOST], late[MOST];
    int n = ctx->ranks, me = ctx->rank, peer = me ^ 1;
    struct rondo__transfer sends, receives, waits;
    (void)arg;
    for (int round = 0; round < 10 && n > 1; round++) {
        struct rondo_part to, from, later;
        fill(out, MOST, me, peer, round);
        if (peer < n) {
            from = part_from(peer, in, MOST);
            later = part_from(peer, late, 100);
            to = part_to(peer, out, MOST);
            if (me % 2) {
                TRY(group_start(ctx, &sends, &to, 1, RONDO_OP_SHIFT, step_named("crossing")));
                TRY(group_start(ctx, &receives, &from, 1, RONDO_OP_SHIFT, step_named("crossing")));
            } else {
                TRY(group_start(ctx, &receives, &from, 1, RONDO_OP_SHIFT, step_named("crossing")));
                TRY(group_start(ctx, &sends, &to, 1, RONDO_OP_SHIFT, step_named("crossing")));
            }
            TRY(group_start(ctx, &waits, &later, 1, RONDO_OP_SHIFT, step_named("crossing")));
            TRY(rondo__transfer_finish(ctx, &sends));
            TRY(rondo__transfer_finish(ctx, &receives));
            CHECK(!differs(from.where, MOST, peer, me, round));
            struct rondo_part last = part_to(peer, out, 100);
            TRY(group_start(ctx, &sends, &last, 1, RONDO_OP_SHIFT, step_named("crossing")));
            TRY(rondo__transfer_finish(ctx, &sends));
            TRY(rondo__transfer_finish(ctx, &waits));
            CHECK(!differs(later.where, 100, peer, me, round));
        }
        TRY(rondo_barrier(ctx));
    }
    return 0;
}

/* A transport's test() is its finish() without waiting. */
static int looking(rondo_context *ctx, void *arg)
{
    static _Thread_local unsigned char out[MOST], in[MOST];
    int n = ctx->ranks, me = ctx->rank, peer = -1, found = 0;
    (void)arg;
    for (int round = 0; round < 6 && n > 1; round++) {
        size_t bytes = round % 2 ? MOST : 10;
        struct rondo_part parts[2] = { part_to((me + 1) % n, out, bytes), part_from((me - 1 + n) % n, in, bytes) };
        struct rondo_transfer t = { .parts = parts, .count = 2 };
        fill(out, bytes, me, (me + 1) % n, round);
        if (me == round % n)
            usleep(1000);
        int err = ctx->transport->start(ctx->endpoint, &t);
        for (double until = rondo__now() + 20.0; !err && !(found = ctx->transport->test(ctx->endpoint, &t, &peer)) && rondo__now() < until;)
            usleep(20);
        if (err || found < 0)
            return rondo__collective_failed(ctx, rondo__comm_failed(ctx, err ? err : found, peer, "looking"));
        CHECK(found == 1 && !differs(parts[1].where, bytes, (me - 1 + n) % n, me, round));
        TRY(rondo_barrier(ctx));
    }
    return 0;
}

/* ---- memory for messages ---- */

#define HOPS 13   /* to the next rank in a round, in two parts each: no multiple of what a mailbox's segment holds */

/* What an algorithm does again and again: a ring of two parts a hop, many of them started before the first is finished, and one group
 * with everybody. How far a rank is ahead of the others changes from round to round. */
static int one_round(rondo_context *ctx, int round, unsigned char *out, unsigned char *in)
{
    int n = ctx->ranks, me = ctx->rank;
    struct rondo__transfer t[HOPS];
    struct rondo_part parts[HOPS][4], all[2 * 64];
    for (int i = 0; i < HOPS; i++) {
        for (int k = 0; k < 2; k++) {
            parts[i][k] = part_to((me + 1) % n, out, 100);
            parts[i][2 + k] = part_from((me - 1 + n) % n, in + (2 * i + k) * 100, 100);
        }
        TRY(group_start(ctx, &t[i], parts[i], 4, RONDO_OP_SHIFT, step_named("a round")));
        if (i >= round % 4)
            TRY(rondo__transfer_finish(ctx, &t[i - round % 4]));
    }
    for (int i = HOPS - round % 4; i < HOPS; i++)
        TRY(rondo__transfer_finish(ctx, &t[i]));
    int count = 0;
    for (int d = 1; d < n; d++) {
        all[count++] = part_to((me + d) % n, out, 70);
        all[count++] = part_from((me - d + n) % n, in + d * 70, 70);
    }
    TRY(group_start(ctx, &t[0], all, count, RONDO_OP_ALL_TO_ALL, step_named("a round")));
    TRY(rondo__transfer_finish(ctx, &t[0]));
    if (rondo__mix64((uint64_t)round * 64 + (uint64_t)me) % 3 == 0)
        usleep(300);
    TRY(rondo__fence(ctx, step_named("a round")));
    return 0;
}

static int again(rondo_context *ctx, void *arg)
{
    static _Thread_local unsigned char out[100], in[64 * 100];
    (void)arg;
    if (ctx->ranks == 1)
        return 0;
    for (int round = 0; round < 4; round++)   /* each of the four ways once */
        TRY(one_round(ctx, round, out, in));
    TRY(rondo_barrier(ctx));
    long before = atomic_load(&memory_asked[0]);
    TRY(rondo_barrier(ctx));
    for (int round = 4; round < 60; round++)
        TRY(one_round(ctx, round, out, in));
    TRY(rondo_barrier(ctx));
    long after = atomic_load(&memory_asked[0]);
    TRY(rondo_barrier(ctx));
    if (after != before)
        return rondo__fail(RONDO_EDEVICE, "rank %d: %ld allocations in rounds that were there before", ctx->rank, after - before);
    return 0;
}

/* ---- all of them ---- */

static const struct {
    const char *name;
    rondo_body *body;
    int fences;     /* needs them, to know what belongs together */
} cases[] = {
    { "five parts to three ranks", five_to_three, 0 },
    { "memory is the sender's again", own_again, 0 },
    { "sends that cross", crossing, 0 },
    { "looking instead of waiting", looking, 0 },
    { "the same again allocates nothing", again, 1 },
};

static void run_cases(int ranks, const char *hook)
{
    rondo_context_desc desc = RONDO_CONTEXT_DESC_INIT;
    desc.transport = transport;
    if (hook)
        setenv("RONDO_TEST_HOOK", hook, 1);
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        if (hook && cases[c].fences && strstr(hook, "copy"))
            continue;
        int err = rondo_launch(ranks, &desc, cases[c].body, NULL);
        if (!is_int(err, 0, "%s, %d ranks as %s%s%s", cases[c].name, ranks, transport, hook ? " with " : "", hook ? hook : ""))
            diag("%s", rondo_error_text());
    }
    if (hook)
        unsetenv("RONDO_TEST_HOOK");
}

static int learn(rondo_context *ctx, void *arg)
{
    int *mine = arg;
    mine[0] = ctx->rank;
    mine[1] = ctx->ranks;
    return 0;
}

int main(void)
{
    static const char *const hooks[] = { NULL, "copy", "copy,delay:3", "reorder:1", "reorder:2,copy", "delay:4" };
    alarm(120);
    unsetenv("RONDO_DEADLINE");
    memory_hooks();
    if (getenv("RONDO_TEST_TRANSPORT") && strcmp(getenv("RONDO_TEST_TRANSPORT"), "mpi") == 0) {
        rondo_context_desc desc = RONDO_CONTEXT_DESC_INIT;
        int mine[2] = { 0, 0 };
        transport = desc.transport = "mpi";
        int err = rondo_launch(0, &desc, learn, mine);
        if (err || (mine[0] != 0 && !freopen("/dev/null", "w", stdout)))
            return 1;
        run_cases(mine[1], NULL);
        return done();
    }
    unsetenv("RONDO_TEST_HOOK");
    for (size_t h = 0; h < sizeof hooks / sizeof hooks[0]; h++)
        for (int ranks = 2; ranks <= 9; ranks += ranks < 5 ? 1 : 4)
            run_cases(ranks, hooks[h]);
    return done();
}
