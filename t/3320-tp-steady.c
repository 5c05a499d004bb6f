/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Once an exchange has been called, later calls take no memory from the hooks: whatever the exchange, the division and the transport's way of
 * moving, also with other ids, and with other exchanges between; and what is kept is bounded.
 */
#include "t/memory.h"
#include "tp.h"

static int count_from_4(rondo_context *ctx, struct tp_case *c, int call)
{
    int err = call == 4 || call == c->calls - 1 ? rondo_barrier(ctx) : 0;
    if (call == 4)
        atomic_store(&memory_window, 1);
    if (call == c->calls - 1)
        atomic_store(&memory_window, 0);
    return err;
}

/* More kinds of exchange than are kept. */
static int many(rondo_context *ctx, void *arg)
{
    rondo_tp *tp;
    float *x = tp_room(200 * 8, sizeof *x);
    long *most = arg;
    int err = rondo_tp_create(&tp, ctx, NULL);
    for (int64_t round = 0; round < 2; round++)
        for (int64_t rows = 17; rows < 200 && !err; rows++) {
            int64_t first, count;
            err = rondo_tp_rows(tp, rows, ctx->rank, &first, &count);
            if (!err)
                err = rondo_tp_gather(tp, rows, 8, x + first * 8, x);
            if (err || rows != 116)
                continue;
            err = rondo_barrier(ctx);   /* what all ranks hold is counted where all are at the same place */
            if (!err && !ctx->rank)
                most[round] = atomic_load(&memory_live);
            if (!err)
                err = rondo_barrier(ctx);
        }
    rondo_tp_destroy(tp);
    free(x);
    return err;
}

/* Few rows that belong to other ranks in each call, as new tokens do: there and back. */
static int dealt(rondo_context *ctx, void *arg)
{
    enum { ROWS = 7, COLUMNS = 200, CALLS = 60, WARM = 15 };   /* no block so small that no fence follows */
    const int ranks = ctx->ranks, me = ctx->rank;
    rondo_tp *tp;
    int64_t rows[TP_RANKS + 1], columns[TP_RANKS + 1], count;
    static _Thread_local float x[ROWS * COLUMNS], y[ROWS * COLUMNS], back[ROWS * COLUMNS];
    _Atomic int *wrong = arg;
    int err = rondo_tp_create(&tp, ctx, NULL);
    for (int r = 0; r < ranks && !err; r++) {
        err = rondo_share(COLUMNS, ranks, NULL, r, &columns[r], &count);
        columns[r + 1] = COLUMNS;
    }
    for (int call = 0; call < CALLS && !err; call++) {
        const int64_t own = columns[me + 1] - columns[me];
        int64_t at = 0;
        for (int r = 0; r < ranks; r++) {   /* all to one, or as it comes */
            const int64_t left = ROWS - at;
            rows[r] = at;
            at += r == ranks - 1 || (call % 3 && r == call % ranks) ? left : call % 3 ? 0 : (int64_t)(rondo__mix64((uint64_t)(call * 10 + r)) % (uint64_t)(left + 1));
        }
        rows[ranks] = ROWS;
        for (int i = 0; i < ROWS; i++)
            for (int64_t j = 0; j < own; j++)
                x[i * own + j] = (float)(call * 10000 + i * 100 + columns[me] + j);
        if (call == WARM)   /* each has had a message from each: what that takes is the transport's */
            err = rondo_barrier(ctx);
        atomic_store(&memory_window, call >= WARM);
        if (!err)
            err = rondo_tp_swap(tp, 1, rows, columns, x, y);
        for (int64_t i = rows[me]; i < rows[me + 1] && !err; i++)
            for (int64_t j = 0; j < COLUMNS; j++)
                atomic_fetch_or(wrong, y[(i - rows[me]) * COLUMNS + j] != (float)(call * 10000 + i * 100 + j));
        if (!err)
            err = rondo_tp_swap(tp, 0, rows, columns, y, back);
        atomic_fetch_or(wrong, !err && memcmp(back, x, (size_t)(ROWS * own) * sizeof *x) != 0);
    }
    if (!err)
        err = rondo_barrier(ctx);
    atomic_store(&memory_window, 0);
    rondo_tp_destroy(tp);
    return err;
}

int main(void)
{
    memory_hooks();
    for (int division = 0; division < DIVISIONS; division++) {
        long most = 0;
        int good = 1;
        for (int variant = 0; variant < 12; variant++) {
            static const int64_t rows[] = { 1, 3, 4, 5, 40, 300 };
            struct tp_case c = { .ranks = 1 + variant % 5, .division = division, .rows = rows[variant % 6], .few = 4, .in = 61, .out = 37,
                                 .leaves = 16, .type = variant % 2 ? RONDO_BF16 : RONDO_F32, .table_type = variant % 2 ? RONDO_F32 : RONDO_BF16,
                                 .tied = variant % 3 == 0, .calls = 24, .between = count_from_4 };
            tp_case_make(&c);
            rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
            d.threads = 1 + variant % 2;
            atomic_store(&memory_asked[1], 0);
            int err = rondo_launch(c.ranks, &d, tp_body, &c);
            atomic_store(&memory_window, 0);
            if (err || c.wrong)
                diag("variant %d: %s, %d", variant, rondo_error_text(), c.wrong);
            good &= !err && !c.wrong;
            most = atomic_load(&memory_asked[1]) > most ? atomic_load(&memory_asked[1]) : most;
            tp_case_free(&c);
        }
        const char *hook = getenv("RONDO_TEST_HOOK");   /* it takes what it likes */
        ok(good && (most == 0 || (hook && *hook)), "leaves dealt out %s: later calls take memory %ld times", division_names[division], most);
    }
    for (int ranks = 1; ranks <= 5; ranks++) {
        _Atomic int wrong = 0;
        atomic_store(&memory_asked[1], 0);
        int err = rondo_run_threads(ranks, dealt, &wrong);
        const char *hook = getenv("RONDO_TEST_HOOK");
        ok(!err && !wrong && (!atomic_load(&memory_asked[1]) || (hook && *hook)), "few rows of %d ranks, dealt out anew in each call, take memory %ld times%s%s",
           ranks, atomic_load(&memory_asked[1]), err ? ", " : "", err ? rondo_error_text() : "");
    }
    long most[2] = { 0, 0 };
    const char *hook = getenv("RONDO_TEST_HOOK");
    is_int(rondo_run_threads(1, many, most), 0, "183 exchanges after each other, twice, on one rank");
    is_int(rondo_run_threads(3, many, most), 0, "and on three");
    ok(most[1] <= most[0] + 8 || (hook && *hook), "keep %ld and %ld blocks: what is kept is bounded", most[0], most[1]);
    return done();
}
