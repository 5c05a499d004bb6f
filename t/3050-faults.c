/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The n-th allocation fails, for every n, while several ranks make plans and run them: each time a code and a sentence, no rank
 * waits for another, nothing leaks; and without a failure the result has the bits of one rank.
 */
#include <stdatomic.h>

#include "t/attention.h"

static atomic_long until_failure = -1, live, calls;

static void *take(void *user, size_t bytes, size_t align)
{
    (void)user;
    atomic_fetch_add(&calls, 1);
    if (atomic_load(&until_failure) >= 0 && atomic_fetch_sub(&until_failure, 1) == 0)
        return NULL;
    void *memory = aligned_alloc(align, (bytes + align - 1) / align * align);
    if (memory)
        atomic_fetch_add(&live, 1);
    return memory;
}

static void give(void *user, void *memory, size_t bytes)
{
    (void)user;
    (void)bytes;
    atomic_fetch_sub(&live, 1);
    free(memory);
}

int main(void)
{
    rondo_hooks hooks = RONDO_HOOKS_INIT;
    hooks.allocate = take;
    hooks.release = give;
    is_int(rondo_set_hooks(&hooks), 0, "hooks that count");

    static const struct problem problems[] = {
        { .tokens = { 200 }, .cached = { 60 }, .heads = 2, .kv_heads = 2, .head_dim = 16, .causal = 1, .leaf = 8 },
        { .sequences = 3, .tokens = { 20, 30, 5 }, .cached = { 7, 100, -2 }, .heads = 2, .kv_heads = 1, .head_dim = 8, .causal = 1, .leaf = 8 },
    };
    for (size_t i = 0; i < sizeof problems / sizeof *problems; i++) {
        struct problem p = problems[i];
        struct result r;
        struct setup one = { .ranks = 1 };
        p.seed = 300 + (uint32_t)i;
        problem_data(&p);
        ok(solve(&p, &one, &r) == 0, "problem %zu on one rank", i);
        uint64_t want = r.hash;
        result_free(&r);
        for (int way = 0; way < 4; way++) {   /* pass-KV, pass-Q, and pass-KV with parcels that are copied and come one by one, or by streams */
            const int algorithm = way == 1 ? RONDO_PASS_Q : RONDO_PASS_KV;
            struct setup s = { .ranks = 3, .algorithm = algorithm, .strided = 1 };
            hook_use(way == 2 ? "copy" : way == 3 ? "plane" : NULL);
            int codes = 1, leaks = 1, failures = 0, bits = 0;
            long base = atomic_load(&live);
            for (long n = 0; n < 100000; n += long_tests() || n < 60 ? 1 : 7) {
                atomic_store(&until_failure, n);
                int err = solve(&p, &s, &r);
                long left = atomic_exchange(&until_failure, -1);
                leaks &= atomic_load(&live) == base;
                if (!leaks) {
                    diag("allocation %ld: %ld blocks leak", n, atomic_load(&live) - base);
                    break;
                }
                if (!err && left >= 0) {
                    bits = r.hash == want;
                    result_free(&r);
                    break;
                }
                if (!err || (err != RONDO_ENOMEM && err != RONDO_EPEER) || !*rondo_error_text()) {
                    diag("allocation %ld: %s, %s", n, rondo_error_name(err), rondo_error_text());
                    codes &= !err && r.hash == want;   /* an allocation that can be done without */
                }
                failures++;
                result_free(&r);
            }
            hook_use(NULL);
            const char *name = way == 2 ? "pass-kv of copies" : way == 3 ? "pass-kv by streams" : rondo_algorithm_name(algorithm);
            ok(codes, "problem %zu, %s: each of %d failing allocations gives a code and a sentence", i, name, failures);
            ok(leaks, "problem %zu, %s: nothing leaks", i, name);
            ok(bits, "problem %zu, %s: then it runs, with the same bits", i, name);
        }
        problem_free(&p);
    }
    return done();
}
