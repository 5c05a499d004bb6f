/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The N-th allocation fails, for every N, once or from there on: every rank returns a code, nothing hangs, and all that was
 * allocated is released, with the sizes that were asked for.
 */
#define _GNU_SOURCE
#include <stdatomic.h>
#include <unistd.h>

#include "workload.h"

static atomic_long asked, live, live_bytes, fail_at;
static atomic_int fail_on;   /* 1: all after it as well */

static void *allocate(void *user, size_t bytes, size_t align)
{
    (void)user;
    long n = atomic_fetch_add(&asked, 1) + 1, at = atomic_load(&fail_at);
    if (at && (n == at || (n > at && atomic_load(&fail_on))))
        return NULL;
    void *p = aligned_alloc(align, bytes);
    if (p) {
        atomic_fetch_add(&live, 1);
        atomic_fetch_add(&live_bytes, (long)bytes);
    }
    return p;
}

static void release(void *user, void *memory, size_t bytes)
{
    (void)user;
    atomic_fetch_sub(&live, 1);
    atomic_fetch_sub(&live_bytes, (long)bytes);
    free(memory);
}

static int plausible(int code)
{
    return code == RONDO_ENOMEM || code == RONDO_EPEER || code == 0 || code == 1;
}

/* How many allocations were made to fail; 0 where something was not as it should be. */
static long every_allocation(int ranks, int on)
{
    atomic_store(&fail_on, on);
    for (long n = 1; n < 5000; n++) {
        struct work w;
        memset(&w, 0, sizeof w);
        w.fail_rank = -1;
        for (int r = 0; r < ranks; r++)
            w.code[r] = 1;
        atomic_store(&asked, 0);
        atomic_store(&fail_at, n);
        int err = rondo_launch(ranks, NULL, work_body, &w), bad = 0;
        long reached = atomic_load(&asked);
        atomic_store(&fail_at, 0);
        if (atomic_load(&live) != 0 || atomic_load(&live_bytes) != 0) {
            diag("allocation %ld: %ld blocks of %ld bytes were not released", n, atomic_load(&live), atomic_load(&live_bytes));
            return 0;
        }
        for (int r = 0; r < ranks; r++)
            bad += !plausible(w.code[r]) || (w.code[r] < 0 && !w.text[r][0]);
        /* Which allocation is the n-th depends on how the ranks took turns, so runs near the end may pass. */
        if (err == 0 && !bad && n > reached)
            return n - 1;
        if (bad || (err != RONDO_ENOMEM && (err != 0 || reached >= n))) {
            diag("allocation %ld of %ld: launch returned %d: %s", n, reached, err, rondo_error_text());
            return 0;
        }
    }
    return 0;
}

int main(void)
{
    alarm(120);
    unsetenv("RONDO_TEST_HOOK");
    unsetenv("RONDO_DEADLINE");
    rondo_hooks hooks = RONDO_HOOKS_INIT;
    hooks.allocate = allocate;
    hooks.release = release;
    is_int(rondo_set_hooks(&hooks), 0, "hooks of our own");
    for (int ranks = 1; ranks <= 5; ranks++)
        for (int on = 0; on < 2; on++) {
            long n = every_allocation(ranks, on);
            ok(n > 5, "%d ranks: each of %ld allocations fails%s", ranks, n, on ? ", and all after it" : "");
        }
    static const char *const wrapped[] = { "reorder", "copy", "plane", "plane,copy" };
    for (size_t i = 0; i < sizeof wrapped / sizeof *wrapped; i++) {
        setenv("RONDO_TEST_HOOK", wrapped[i], 1);
        long n = every_allocation(3, 0);
        ok(n > 5, "with the test hook's %s: each of %ld allocations fails", wrapped[i], n);
    }
    return done();
}
