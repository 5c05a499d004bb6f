/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The n-th allocation fails, the n-th call of the transport fails, a rank ends in the middle: for every n, in every way of moving, each rank
 * comes back with a code and a sentence that names who and where, nothing leaks, and without a failure the bits are those of one rank.
 */
#include "t/memory.h"
#include "tp.h"

static const char *const ways[] = { "", "copy", "plane", "space", "space,defer", "plane,space,defer" };
enum { WAYS = sizeof ways / sizeof *ways };

static void hook(const char *a, const char *b)
{
    char spec[200];
    snprintf(spec, sizeof spec, "%s%s%s", a, *a && *b ? "," : "", b);
    if (*spec)
        setenv("RONDO_TEST_HOOK", spec, 1);
    else
        unsetenv("RONDO_TEST_HOOK");
}

static int attempt(void *arg, int *right)
{
    struct tp_case *c = arg;
    c->wrong = 0;
    const int err = rondo_run_threads(c->ranks, tp_body, c);
    *right = !err && !c->wrong;
    return err;
}

static void transport(struct tp_case *c, const char *way, const char *what)
{
    int codes = 1, bits = 0, failures = 0;
    const long base = atomic_load(&memory_live);
    for (int n = 1; n < 10000; n += n < 30 || getenv("RONDO_TEST_LONG") ? 1 : 3) {
        char spec[40];
        snprintf(spec, sizeof spec, "fail:%d:1", n);
        hook(way, spec);
        c->wrong = 0;
        int err = rondo_run_threads(c->ranks, tp_body, c);
        if (!err) {
            bits = !c->wrong;
            break;
        }
        if ((err != RONDO_ETRANSPORT && err != RONDO_EPEER) || !*rondo_error_text()) {
            diag("call %d: %s, %s", n, rondo_error_name(err), rondo_error_text());
            codes = 0;
        }
        failures++;
    }
    hook("", "");
    ok(codes && failures > 10, "%s, \"%s\": each of %d failing calls of the transport gives a code and a sentence", what, way, failures);
    ok(bits && atomic_load(&memory_live) == base, "%s, \"%s\": nothing leaks, and without a failure it runs", what, way);
}

/* ---- a rank that ends ---- */

static int victim, ending;

static int end_one(rondo_context *ctx, struct tp_case *c, int call)
{
    (void)c;
    if (ctx->rank != victim || call != 1)
        return 0;
    return ending ? 1 : rondo__fail(RONDO_EIO, "rank %d had enough", victim);
}

static void endings(struct tp_case *c, const char *way, const char *what)
{
    int good = 1;
    hook(way, "");
    c->between = end_one;
    for (ending = 0; ending < 2; ending++)
        for (victim = 0; victim < c->ranks; victim++) {
            int err = rondo_run_threads(c->ranks, tp_body, c);
            int others = 0;
            for (int r = 0; r < c->ranks; r++) {
                if (r == victim)
                    continue;
                /* one that waits for nobody else's bytes may have come through */
                const int told = c->code[r] == RONDO_EPEER && (strstr(c->text[r], "had enough") || strstr(c->text[r], "has left") ||
                                                              strstr(c->text[r], "failed")) && strstr(c->text[r], "in step");
                others += told;
                if (c->code[r] && !told) {
                    diag("rank %d when %d ended: %d, %s", r, victim, c->code[r], c->text[r]);
                    good = 0;
                }
            }
            good &= err == (ending ? RONDO_EPEER : RONDO_EIO) && others > 0;
            if (err != (ending ? RONDO_EPEER : RONDO_EIO) || !others)
                diag("rank %d ended: %d, %s", victim, err, rondo_error_text());
        }
    c->between = NULL;
    hook("", "");
    ok(good, "%s, \"%s\": a rank ends between two calls, and all others say who and in which step", what, way);
}

/* ---- ranks that disagree ---- */

static int disagree(rondo_context *ctx, void *arg)
{
    const int again = *(int *)arg;
    rondo_tp *tp;
    float x[40 * 8] = { 0 };
    int err = rondo_tp_create(&tp, ctx, NULL);
    for (int i = 0; i < again && !err; i++)   /* both kinds are known */
        for (int64_t rows = 20; rows < 40 && !err; rows += 10) {
            int64_t first, count;
            err = rondo_tp_rows(tp, rows, ctx->rank, &first, &count);
            if (!err)
                err = rondo_tp_gather(tp, rows, 8, x + first * 8, x);
        }
    const int64_t rows = ctx->rank ? 30 : 20;
    int64_t first = 0, count;
    if (!err)
        err = rondo_tp_rows(tp, rows, ctx->rank, &first, &count);
    if (!err)
        err = rondo_tp_gather(tp, rows, 8, x + first * 8, x);
    rondo_tp_destroy(tp);
    return err;
}

int main(void)
{
    static const char *const names[] = { "few rows", "many rows" };
    memory_hooks();
    char *outer = getenv("RONDO_TEST_HOOK");
    outer = outer ? strdup(outer) : NULL;
    for (int few = 0; few < 2; few++) {
        struct tp_case c = { .ranks = 3, .division = WEIGHTED, .rows = few ? 9 : 2, .few = 4, .in = 40, .out = 24, .leaves = 7,
                             .type = RONDO_F32, .table_type = RONDO_BF16, .calls = 2, .device = 1 };
        tp_case_make(&c);
        for (int way = 0; way < WAYS; way++) {
            char what[80];
            snprintf(what, sizeof what, "%s, \"%s\"", names[few], ways[way]);
            hook(ways[way], "");
            memory_failures(attempt, &c, 5, what);
            hook("", "");
            transport(&c, ways[way], names[few]);
            c.calls = 3;
            endings(&c, ways[way], names[few]);
            c.calls = 2;
        }
        tp_case_free(&c);
    }
    for (int again = 0; again < 2; again++) {
        int err = rondo_run_threads(3, disagree, &again);
        ok(err && *rondo_error_text(), "ranks that disagree about rows%s are told: %s", again ? " that all know" : "", rondo_error_text());
    }
    free(outer);
    return done();
}
