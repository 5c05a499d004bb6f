/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Memory from hooks that count what they are asked for and fail when told to: for tests of what allocates nothing, and of what becomes of
 * an allocation that fails. Any number of threads may ask.
 */
#ifndef RONDO_T_MEMORY_H
#define RONDO_T_MEMORY_H

#include <stdatomic.h>

#include "rondo.h"
#include "t/tap.h"

#define MEMORY_UNUSED __attribute__((unused))

static atomic_long memory_live;                  /* blocks that are out */
static atomic_long memory_until_failure = -1;    /* the one after so many fails, once; negative: none does */
MEMORY_UNUSED static atomic_int memory_window;   /* a test's own name for the part of it that runs */
static atomic_long memory_asked[3];              /* how often memory was asked for in each */

static void *memory_take(void *user, size_t bytes, size_t align)
{
    (void)user;
    atomic_fetch_add(&memory_asked[atomic_load(&memory_window)], 1);
    if (atomic_load(&memory_until_failure) >= 0 && atomic_fetch_sub(&memory_until_failure, 1) == 0)
        return NULL;
    void *memory = aligned_alloc(align, (bytes + align - 1) / align * align);
    if (memory)
        atomic_fetch_add(&memory_live, 1);
    return memory;
}

static void memory_give(void *user, void *memory, size_t bytes)
{
    (void)user;
    (void)bytes;
    if (memory)
        atomic_fetch_sub(&memory_live, 1);
    free(memory);
}

/* Before anything else takes memory. */
static void memory_hooks(void)
{
    rondo_hooks hooks = RONDO_HOOKS_INIT;
    hooks.allocate = memory_take;
    hooks.release = memory_give;
    if (rondo_set_hooks(&hooks))
        exit(99);
}

/* The n-th allocation fails, for every n up to the first that is not reached; from the 60th on for every step-th
 * where tests are not long. Each time attempt() has
 * returned a code and a sentence, and given back what it took; at the end it has done what it should, which is what it says in *right. */
MEMORY_UNUSED static void memory_failures(int (*attempt)(void *arg, int *right), void *arg, long step, const char *what)
{
    const long base = atomic_load(&memory_live);
    step *= under_sanitizer() ? 4 : 1;
    int codes = 1, leaks = 0, failures = 0, reached = 0;
    for (long n = 0; n < 100000 && !leaks && !reached; n += n < 60 || long_tests() ? 1 : step) {
        int right = 0;
        atomic_store(&memory_until_failure, n);
        const int err = attempt(arg, &right);
        const long left = atomic_exchange(&memory_until_failure, -1);
        leaks = atomic_load(&memory_live) != base;
        if (leaks)
            diag("allocation %ld: %ld blocks leak", n, atomic_load(&memory_live) - base);
        reached = !err && left >= 0 && right;
        if (left >= 0) {
            if (!reached)
                diag("without a failure: %s, %s", rondo_error_name(err), err ? rondo_error_text() : "not what it should be");
            break;
        }
        failures++;
        if (!err || (err != RONDO_ENOMEM && err != RONDO_EPEER) || !*rondo_error_text()) {
            diag("allocation %ld: %s, %s", n, rondo_error_name(err), rondo_error_text());
            codes &= !err && right;   /* one that can be done without */
        }
    }
    ok(codes && failures > 20, "%s: each of %d failing allocations gives a code and a sentence", what, failures);
    ok(!leaks, "%s: nothing leaks", what);
    ok(reached, "%s: then it runs, with the bits of one rank", what);
}

/* The n-th call of the transport fails, for every n up to the first that is not reached; from the 30th on for every step-th where tests are not long.
 * way: what the hook does besides, or "". */
MEMORY_UNUSED static void transport_failures(int (*attempt)(void *arg, int *right), void *arg, int step, const char *way, const char *what)
{
    step *= under_sanitizer() ? 4 : 1;
    const char *outer = getenv("RONDO_TEST_HOOK");
    char *kept = outer ? strdup(outer) : NULL, spec[200];
    const long base = atomic_load(&memory_live);
    int codes = 1, failures = 0, reached = 0, right = 0;
    for (int n = 1; n < 100000 && !reached; n += n < 30 || long_tests() ? 1 : step) {
        snprintf(spec, sizeof spec, "%s%sfail:%d:1", way, *way ? "," : "", n);
        setenv("RONDO_TEST_HOOK", spec, 1);
        const int err = attempt(arg, &right);
        reached = !err;
        failures += err != 0;
        if (err && ((err != RONDO_ETRANSPORT && err != RONDO_EPEER) || !*rondo_error_text())) {
            diag("call %d: %s, %s", n, rondo_error_name(err), rondo_error_text());
            codes = 0;
        }
    }
    if (kept)
        setenv("RONDO_TEST_HOOK", kept, 1);
    else
        unsetenv("RONDO_TEST_HOOK");
    free(kept);
    ok(codes && failures > 3, "%s: each of %d failing calls of the transport gives a code and a sentence", what, failures);
    ok(reached && right && atomic_load(&memory_live) == base, "%s: nothing leaks, and without a failure it has the bits of one rank", what);
}

#endif
