/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Ranks that fail, as MPI processes: at every step, at every transport call, at every allocation, with large messages under
 * way, and by not coming at all. Started by 5000-mpi.t with mpirun; each process checks itself, and what the launcher says.
 */
#define _GNU_SOURCE
#include <unistd.h>

#include "workload.h"
#include "process.h"   /* behind: others have a local `me` */

static int ranks;
static rondo_context_desc mpi = RONDO_CONTEXT_DESC_INIT;

static int learn(rondo_context *ctx, void *arg)
{
    (void)arg;
    me = ctx->rank;
    ranks = ctx->ranks;
    return 0;
}

static int sum_body(rondo_context *ctx, void *arg)
{
    int *sum = arg, all[64], mine = *sum;
    size_t bytes_of[64];
    for (int r = 0; r < ctx->ranks && r < 64; r++)
        bytes_of[r] = sizeof mine;
    int err = rondo_all_gather(ctx, &mine, all, bytes_of);
    *sum = 0;
    for (int r = 0; r < ctx->ranks && !err; r++)
        *sum += all[r];
    return err;
}

/* Rank 0 prints the verdict of all. */
static void verdict(const char *what)
{
    int sum = failures, err = rondo_launch(0, &mpi, sum_body, &sum);
    ok(err == 0 && sum == 0, "%d processes: %s%s%s", ranks, what, err ? ": " : "", err ? rondo_error_text() : "");
    failures = 0;
}

#define WAIT_SECONDS 20.0

static void every_step(int quiet)
{
    mpi.deadline = quiet == 2 ? WAIT_SECONDS : 0.0;
    for (int rank = 0; rank < ranks; rank++)
        for (int step = 0; step < work_steps(ranks); step++) {
            struct work w;
            char what[64], who[64];
            if (quiet && step > 0 && step < ranks)
                continue;
            memset(&w, 0, sizeof w);
            w.fail_rank = rank;
            w.fail_step = step;
            w.quiet = quiet;
            w.code[me] = 1;
            double begin = rondo__now();
            int err = rondo_launch(0, &mpi, work_body, &w);
            snprintf(what, sizeof what, "rank %d was told to fail at step %d", rank, step);
            if (quiet == 2) {   /* nobody waits for its deadline, and all know who left */
                EXPECT(err == RONDO_EPEER || !err, "launch: %d %s", err, rondo_error_text());
                EXPECT(rondo__now() - begin < WAIT_SECONDS / 2, "%s: %g s", what, rondo__now() - begin);
                snprintf(who, sizeof who, "rank %d has left", rank);   /* in the child by its number there */
                /* Where a rank has left at once, another may have noticed before this one's body began. */
                if (w.code[me] && !(w.code[me] == 1 && step == 0))
                    EXPECT(w.code[me] == RONDO_EPEER && me != rank && (strstr(w.text[me], who) || strstr(w.text[me], "failed") ||
                            (step > ranks + 4 && strstr(w.text[me], "has left, but rank"))) &&
                           strstr(w.text[me], " in step "), "%s: %d after step %d: %s", what, w.code[me], w.steps[me], w.text[me]);
                continue;
            }
            EXPECT(err == RONDO_ENOMEM && strcmp(rondo_error_text(), what) == 0, "launch: %d %s", err, rondo_error_text());
            if (me == rank)
                EXPECT(w.code[me] == RONDO_ENOMEM, "%s: %d", what, w.code[me]);
            else   /* or it saw that the failing rank left their child, before it heard why */
                EXPECT((w.code[me] == RONDO_EPEER && (strstr(w.text[me], what) ||
                                                      (quiet && step > ranks + 4 && strstr(w.text[me], "has left, but rank")))) || (w.code[me] == 1 && step == 0) ||
                       (w.code[me] == 0 && w.steps[me] == work_steps(ranks)), "%s: %d after step %d: %s", what, w.code[me], w.steps[me],
                       w.text[me]);
        }
    mpi.deadline = 0.0;
    static const char *const how[] = { "a rank fails at each place", "a rank returns early from each place",
                                       "a rank returns early from each place as if all were well" };
    verdict(how[quiet]);
}

static void every_call(int rank)
{
    int n, err = 0;
    for (n = 1; n < 200; n++) {
        struct work w;
        char hook[64];
        memset(&w, 0, sizeof w);
        w.fail_rank = -1;
        w.code[me] = 1;
        snprintf(hook, sizeof hook, "fail:%d:%d", n, rank);
        setenv("RONDO_TEST_HOOK", hook, 1);
        err = rondo_launch(0, &mpi, work_body, &w);
        unsetenv("RONDO_TEST_HOOK");
        if (!err)
            break;
        EXPECT(err == RONDO_ETRANSPORT && strstr(rondo_error_text(), "the test hook lets call"), "%s: %d %s", hook, err, rondo_error_text());
        EXPECT(w.code[me] == 1 || w.code[me] == 0 || w.code[me] == (me == rank ? RONDO_ETRANSPORT : RONDO_EPEER), "%s: %d %s", hook, w.code[me],
               w.text[me]);
    }
    EXPECT(n > 15 && !err, "after %d calls: %d", n, err);
    verdict("each transport call of one rank fails");
}

/* ---- memory ---- */

static long asked, live, fail_at;

static void *allocate(void *user, size_t bytes, size_t align)
{
    (void)user;
    if (++asked == fail_at)
        return NULL;
    live++;
    return aligned_alloc(align, bytes);
}

static void release(void *user, void *memory, size_t bytes)
{
    (void)user;
    (void)bytes;
    live--;
    free(memory);
}

/* The first ones belong to joining: a rank that cannot join leaves the others to their deadline, so these come from the later ones. */
static void every_allocation(int rank)
{
    int err = 0;
    long n, first = 9;
    rondo_hooks hooks = RONDO_HOOKS_INIT;
    hooks.allocate = allocate;
    hooks.release = release;
    EXPECT(rondo_set_hooks(&hooks) == 0, "%s", rondo_error_text());
    for (n = first; n < 500; n++) {
        struct work w;
        memset(&w, 0, sizeof w);
        w.fail_rank = -1;
        asked = 0;
        fail_at = me == rank ? n : 0;
        err = rondo_launch(0, &mpi, work_body, &w);
        fail_at = 0;
        EXPECT(live == 0, "allocation %ld of rank %d: %ld blocks are left", n, rank, live);
        live = 0;
        if (!err)
            break;
        EXPECT(err == RONDO_ENOMEM, "allocation %ld of rank %d: %d %s", n, rank, err, rondo_error_text());
    }
    EXPECT(n > first && !err, "after %ld allocations: %d", n, err);
    EXPECT(rondo_set_hooks(NULL) == 0, "%s", rondo_error_text());
    verdict("each allocation of one rank fails");
}

/* ---- large messages under way ---- */

#define LARGE ((size_t)3 << 20)
#define MANY 4

static int large(rondo_context *ctx, void *arg)
{
    const int *fails = arg;
    struct shift s[MANY];
    char *out = malloc(MANY * LARGE), *in = malloc(MANY * LARGE);
    int err = out && in ? 0 : RONDO_ENOMEM;
    if (!err)
        memset(out, ctx->rank + 1, MANY * LARGE);
    for (int i = 0; i < MANY && !err; i++) {
        if (ctx->rank == fails[0] && i == fails[1])
            err = rondo__fail(RONDO_EIO, "rank %d was told to fail before message %d", ctx->rank, i);
        else
            err = shift_start(ctx, &s[i], 1, out + (size_t)i * LARGE, LARGE, in + (size_t)i * LARGE, LARGE, RONDO_OP_SHIFT, step_named("large"));
    }
    for (int i = 0; i < MANY && !err; i++)
        err = shift_finish(ctx, &s[i], NULL);
    int from = (ctx->rank + ctx->ranks - 1) % ctx->ranks + 1;
    for (size_t i = 0; i < MANY * LARGE && !err; i += 4099)
        if (in[i] != from)
            err = rondo__fail(RONDO_EDEVICE, "byte %zu is wrong", i);
    err = rondo__collective_failed(ctx, err);
    free(out);
    free(in);
    return err;
}

static void large_messages(void)
{
    for (int rank = -1; rank < ranks; rank++)
        for (int message = 0; message < (rank < 0 ? 1 : MANY); message++) {
            int fails[2] = { rank, message };
            int err = rondo_launch(0, &mpi, large, fails);
            EXPECT(err == (rank < 0 ? 0 : RONDO_EIO), "rank %d, message %d: %d %s", rank, message, err, rondo_error_text());
        }
    verdict("a rank fails while large messages are under way");
}

/* ---- not coming ---- */

static int sleeper(rondo_context *ctx, void *arg)
{
    struct work *w = arg;
    int err = rondo_barrier(ctx);
    if (!err && ctx->rank == w->fail_rank)
        usleep(1500000);
    else if (!err)
        err = rondo_barrier(ctx);
    w->code[me] = err;
    snprintf(w->text[me], sizeof w->text[0], "%s", rondo_error_text());
    return err;
}

static void deadline(void)
{
    struct work w;
    memset(&w, 0, sizeof w);
    w.fail_rank = ranks - 1;
    mpi.deadline = 0.3;
    double begin = rondo__now();
    int err = rondo_launch(0, &mpi, sleeper, &w);
    mpi.deadline = 0.0;
    /* one of them gives up first, and the others may hear of that before their own time has run out */
    EXPECT(err == RONDO_ETIMEDOUT || (err == RONDO_EPEER && strstr(rondo_error_text(), "gave up: rank")), "launch: %d %s", err,
           rondo_error_text());
    EXPECT(rondo__now() - begin < 10.0, "%g s", rondo__now() - begin);
    if (me != w.fail_rank)
        EXPECT((w.code[me] == RONDO_ETIMEDOUT || w.code[me] == RONDO_EPEER) && strstr(w.text[me], "did not answer rank") &&
               strstr(w.text[me], "within 0.3 s in step barrier"), "%d %s", w.code[me], w.text[me]);
    verdict("a deadline passes");
}

int main(void)
{
    if (!getenv("RONDO_TEST_TRANSPORT") || strcmp(getenv("RONDO_TEST_TRANSPORT"), "mpi") != 0)
        return skip_all("5000-mpi.t runs this under mpirun");
    alarm(120);
    unsetenv("RONDO_TEST_HOOK");
    unsetenv("RONDO_DEADLINE");
    mpi.transport = "mpi";
    int err = rondo_launch(0, &mpi, learn, NULL);
    if (err)
        fprintf(stderr, "# %s\n", rondo_error_text());
    if (err || (me != 0 && !freopen("/dev/null", "w", stdout)))
        return 1;
    if (ranks < 2 || ranks > WORK_RANKS)
        return skip_all("2 to %d processes are needed", WORK_RANKS);
    every_step(0);
    every_step(1);
    every_step(2);
    every_call(0);
    every_call(ranks - 1);
    every_allocation(0);
    every_allocation(ranks - 1);
    large_messages();
    deadline();
    return done();
}
