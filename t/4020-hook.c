/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The transport that wraps any other: delays and reorderings change nothing; the N-th transport call fails, for every N, on all
 * ranks or on one, and every rank returns a code. And the environment: what makes no sense is refused.
 */
#define _GNU_SOURCE
#include <unistd.h>

#include "workload.h"

static int run(int ranks, const char *hook, struct work *w)
{
    memset(w, 0, sizeof *w);
    w->fail_rank = -1;
    for (int r = 0; r < ranks; r++)
        w->code[r] = 1;
    setenv("RONDO_TEST_HOOK", hook, 1);
    int err = rondo_launch(ranks, NULL, work_body, w);
    unsetenv("RONDO_TEST_HOOK");
    return err;
}

static void harmless(void)
{
    static const char *const hooks[] = { "delay", "delay:5", "reorder", "reorder:1", "reorder:2", "reorder:3,delay:9", "copy", "copy,reorder:4", "slow:5000000", "slow:10000000:20,reorder:4", "plane",
                                        "plane,copy,reorder:6", "trace" };
    struct work w;
    for (size_t i = 0; i < sizeof hooks / sizeof hooks[0]; i++)
        for (int ranks = 2; ranks <= 8; ranks += 3)
            if (!is_int(run(ranks, hooks[i], &w), 0, "%d ranks with %s", ranks, hooks[i]))
                diag("%s", rondo_error_text());
}

/* A MiB to each of two others, and one from each, through links of 16 MiB a second: an eighth of a second each way. */
static int all_to_all(rondo_context *ctx, void *arg)
{
    enum { BYTES = 1 << 20 };
    double *seconds = arg;
    const size_t sizes[3] = { BYTES, BYTES, BYTES };
    char *mine = calloc(1, BYTES), *all = malloc(3 * BYTES);
    int err = mine && all ? rondo_barrier(ctx) : 1;
    const double begin = rondo__now();
    if (!err)
        err = rondo_all_gather(ctx, mine, all, sizes);
    if (rondo_context_rank(ctx) == 1)
        *seconds = rondo__now() - begin;
    free(mine);
    free(all);
    return err;
}

static void slow(void)
{
    double seconds = 0.0;
    setenv("RONDO_TEST_HOOK", "slow:16777216:1000", 1);
    const int err = rondo_launch(3, NULL, all_to_all, &seconds);
    unsetenv("RONDO_TEST_HOOK");
    if (!ok(!err && seconds > 0.125, "links of 16 MiB a second take their time"))
        diag("%g s, %s", seconds, rondo_error_text());
}

/* Until a run in which nothing failed; the number of calls, or 0 where something was not as it should be. */
static int every_call(int ranks, int rank)
{
    struct work w;
    for (int n = 1; n < 1000; n++) {
        char hook[64], text[128];
        if (rank < 0)
            snprintf(hook, sizeof hook, "fail:%d", n);
        else
            snprintf(hook, sizeof hook, "fail:%d:%d", n, rank);
        int err = run(ranks, hook, &w);
        if (err == 0)
            return n;
        snprintf(text, sizeof text, "the test hook lets call %d (", n);
        if (err != RONDO_ETRANSPORT || !strstr(rondo_error_text(), text)) {
            diag("%s: launch returned %d: %s", hook, err, rondo_error_text());
            return 0;
        }
        for (int r = 0; r < ranks; r++) {
            if (w.code[r] == 1)   /* failed while its context was made, so the body did not run */
                continue;
            if (w.code[r] == 0 && w.steps[r] == work_steps(ranks))
                continue;
            if ((w.code[r] != RONDO_ETRANSPORT && w.code[r] != RONDO_EPEER) || !w.text[r][0]) {
                diag("%s: rank %d returned %d: %s", hook, r, w.code[r], w.text[r]);
                return 0;
            }
        }
    }
    return 0;
}

static int nothing(rondo_context *ctx, void *arg)
{
    (void)ctx;
    (void)arg;
    return 0;
}

static void refused(const char *name, const char *value)
{
    setenv(name, value, 1);
    is_int(rondo_run_threads(2, nothing, NULL), RONDO_EINVAL, "%s='%s' is refused", name, value);
    ok(strstr(rondo_error_text(), name) && strstr(rondo_error_text(), "takes"), "with a sentence: %s", rondo_error_text());
    unsetenv(name);
}

static int has_deadline(rondo_context *ctx, void *arg)
{
    const double *want = arg;
    return ctx->deadline == *want ? 0 : rondo__fail(RONDO_EINVAL, "the deadline is %g", ctx->deadline);
}

static int traced;

static void on_log(void *user, int level, const char *sentence)
{
    (void)user;
    if (level == RONDO_LOG_DEBUG && strstr(sentence, "rank 0, transport call"))
        traced++;
}

int main(void)
{
    alarm(120);
    unsetenv("RONDO_DEADLINE");
    harmless();
    slow();
    for (int ranks = 2; ranks <= 4; ranks++) {
        int calls = every_call(ranks, -1);
        ok(calls > 20, "%d ranks: each of %d transport calls fails on all ranks, and all return", ranks, calls - 1);
        for (int rank = 0; rank < ranks; rank++) {
            calls = every_call(ranks, rank);
            ok(calls > 20, "%d ranks: each of %d calls fails on rank %d, and all return", ranks, calls - 1, rank);
        }
    }
    static const char *const hooks[] = { "x", "fail", "fail:0", "fail:-1", "fail:1x", "fail:1:2:3", "delay:a", "slow", "slow:0", "slow:1:2:3", "trace:1", "copy:1", "plane:1", "reorder:1:2",
                                         "delay,,fail", "delay;fail:1", "fail:99999999999999999999" };
    for (size_t i = 0; i < sizeof hooks / sizeof hooks[0]; i++)
        refused("RONDO_TEST_HOOK", hooks[i]);
    static const char *const deadlines[] = { "x", "0", "-1", "nan", "inf", "1e30", "5 s", "1,5" };
    for (size_t i = 0; i < sizeof deadlines / sizeof deadlines[0]; i++)
        refused("RONDO_DEADLINE", deadlines[i]);
    double want = 300.0;
    is_int(rondo_run_threads(2, has_deadline, &want), 0, "the deadline is 300 s");
    setenv("RONDO_DEADLINE", "", 1);
    is_int(rondo_run_threads(2, has_deadline, &want), 0, "also where the variable is empty");
    setenv("RONDO_DEADLINE", "2.5", 1);
    want = 2.5;
    is_int(rondo_run_threads(2, has_deadline, &want), 0, "or what the variable says");
    rondo_context_desc desc = RONDO_CONTEXT_DESC_INIT;
    desc.deadline = want = 7.0;
    is_int(rondo_launch(2, &desc, has_deadline, &want), 0, "or what the descriptor says");
    unsetenv("RONDO_DEADLINE");

    rondo_hooks log = RONDO_HOOKS_INIT;
    log.log = on_log;
    struct work w;
    if (rondo_set_hooks(&log) == 0)
        is_int(run(1, "trace", &w), 0, "traced");
    ok(traced > 5, "%d calls were logged", traced);
    return done();
}
