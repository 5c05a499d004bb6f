/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Layers that ranks share: sums of parts, gathered rows, looked up rows and swapped columns have the bits that one rank makes of the whole,
 * on 1 to 9 ranks, however the leaves, the columns and the table are dealt out, for few rows and many, called once and again. As
 * `3300-tp-bits.t mpi` under mpirun, the same on its ranks: t/3350-tp-mpi.t.
 */
#include "tp.h"

static const int64_t rows[] = { 0, 1, 2, 4, 5, 30, 300 };
enum { CASES = sizeof rows / sizeof *rows };

static void make(struct tp_case *c, int division, int ranks, size_t i)
{
    static const int types[] = { RONDO_F32, RONDO_BF16, RONDO_F16, RONDO_Q8 };
    *c = (struct tp_case){ .ranks = ranks, .division = division, .rows = rows[i], .few = 4, .in = 61, .out = 37 - division / 2,
                           .leaves = i % 3 == 0 ? 16 : i % 3 == 1 ? 5 : 1, .type = types[i % 4], .table_type = types[(i + 1 + (size_t)division) % 4],
                           .tied = i % 2 == 1, .device = 1, .calls = rows[i] < 100 ? 6 : 2 };
    tp_case_make(c);
}

static void grid(int division, int least, int most, const char *machine)
{
    for (int ranks = least; ranks <= most; ranks++) {
        int good = 1;
        for (size_t i = 0; i < CASES; i++) {
            struct tp_case c;
            make(&c, division, ranks, i);
            int err = rondo_run_threads(ranks, tp_body, &c);
            if (err || c.wrong)
                diag("%d ranks, %lld rows, %d leaves: wrong %d; %s", ranks, (long long)rows[i], (int)c.leaves, c.wrong, err ? rondo_error_text() : "");
            good &= !err && !c.wrong;
            tp_case_free(&c);
        }
        ok(good, "%d ranks, leaves dealt out %s%s: the bits of one", ranks, division_names[division], machine);
    }
}

/* All cases of a number of ranks with one rondo_tp, one after the other and again: none may be taken for another. */
static int mixed(rondo_context *ctx, void *arg)
{
    struct tp_case *cases = arg;
    static _Thread_local struct tp_rank m[DIVISIONS * CASES];
    rondo_tp *tp = NULL;
    rondo_tp_desc d = RONDO_TP_DESC_INIT;
    d.few = cases->few;
    memset(m, 0, sizeof m);
    int err = rondo_tp_create(&tp, ctx, &d);
    for (size_t i = 0; i < DIVISIONS * CASES && !err; i++)
        err = tp_rank_make(&m[i], ctx, &cases[i], tp);
    for (int round = 0; round < 4; round++)
        for (size_t i = 0; i < DIVISIONS * CASES && !err; i++)
            err = tp_rank_run(&m[(i * 5 + (size_t)round) % (DIVISIONS * CASES)], ctx, &cases[(i * 5 + (size_t)round) % (DIVISIONS * CASES)], round);
    for (size_t i = 0; i < DIVISIONS * CASES; i++)
        tp_rank_free(&m[i]);
    rondo_tp_destroy(tp);
    return err;
}

static void mix(int ranks)
{
    static struct tp_case cases[DIVISIONS * CASES];
    int wrong = 0;
    for (size_t i = 0; i < DIVISIONS * CASES; i++)
        make(&cases[i], (int)(i / CASES), ranks, i % CASES);
    int err = rondo_run_threads(ranks, mixed, cases);
    for (size_t i = 0; i < DIVISIONS * CASES; i++) {
        wrong += cases[i].wrong != 0;
        tp_case_free(&cases[i]);
    }
    ok(!err && !wrong, "%d ranks, all cases with one object: the bits of one%s%s", ranks, err ? ", " : "", err ? rondo_error_text() : "");
}

/* Every case on the ranks there are. What a rank finds wrong it says itself, and fails. */
static int over_mpi(rondo_context *ctx, void *arg)
{
    struct tp_case *cases = arg;
    for (size_t i = 0; i < DIVISIONS * CASES; i++) {
        struct tp_case *c = cases + i;
        c->ranks = ctx->ranks;
        int err = tp_body(ctx, c);
        if (err)
            return err;
        if (c->wrong)
            return rondo__fail(RONDO_EMISMATCH, "rank %d keeps other bits (%d) of %lld rows, leaves dealt out %s", ctx->rank, c->wrong,
                               (long long)c->rows, division_names[c->division]);
    }
    if (!ctx->rank)
        printf("%d ranks: the bits of one\n", ctx->ranks);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "mpi")) {
        static struct tp_case cases[DIVISIONS * CASES];
        rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
        for (size_t i = 0; i < DIVISIONS * CASES; i++)
            make(&cases[i], (int)(i / CASES), 1, i % CASES);
        d.transport = "mpi";
        d.threads = 1;
        int err = rondo_launch(0, &d, over_mpi, cases);
        if (err)
            fprintf(stderr, "%s: %s\n", rondo_error_name(err), rondo_error_text());
        for (size_t i = 0; i < DIVISIONS * CASES; i++)
            tp_case_free(&cases[i]);
        return err != 0;
    }
    for (int division = 0; division < DIVISIONS; division++)
        grid(division, 1, TP_RANKS, "");
    for (int ranks = 1; ranks <= 5; ranks++)
        mix(ranks);
    /* messages that are copied; a device with memory of its own, late, behind the host; the same where the transport reaches it */
    static const char *const machines[] = { "copy", "space,defer", "plane,space,defer" };
    for (size_t i = 0; i < sizeof machines / sizeof *machines && !getenv("RONDO_TEST_HOOK"); i++) {
        char text[40];
        if (other_device() && strstr(machines[i], "space"))
            continue;   /* it is such a device by itself */
        snprintf(text, sizeof text, ", %s", machines[i]);
        setenv("RONDO_TEST_HOOK", machines[i], 1);
        grid(EQUAL, 2, 4, text);
        grid(GAPS, 3, 3, text);
        unsetenv("RONDO_TEST_HOOK");
    }
    return done();
}
