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
        { .sequences = 2, .tokens = { 40, 30 }, .cached = { 7, 30 }, .heads = 2, .kv_heads = 2, .head_dim = 8, .causal = 1, .leaf = 8, .alibi = 1,
          .sinks = 1, .bias = 2, .documents = -20, .mask = 1, .mask_kind = 1, .dropout = 0.2, .softcap = 2.0, .probs = 1, .probs_count = 25 },
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
        static const struct { int algorithm, ranks, columns; const char *hook, *name; } ways[] = {
            { RONDO_PASS_KV, 3, 0, NULL, "pass-kv" }, { RONDO_PASS_Q, 3, 0, NULL, "pass-q" },
            { RONDO_PASS_KV, 3, 0, "copy", "pass-kv of copies" },   /* parcels come one by one */
            { RONDO_PASS_KV, 3, 0, "plane", "pass-kv by streams" },
            { RONDO_ALL_GATHER, 3, 0, "copy", "all-gather of copies" }, { RONDO_REDUCE, 3, 0, NULL, "reduce" },
            { RONDO_MESH, 4, 2, "copy", "mesh of copies" }, { RONDO_MESH, 3, 0, NULL, "mesh by choice" },
            { RONDO_ALL_TO_ALL, 3, 0, "copy", "all-to-all of copies" }, { RONDO_HALO, 3, 0, "space", "halo on a device with memory of its own" },
            { RONDO_ALL_TO_ALL, 4, 2, "copy", "all-to-all and a ring of copies" },
        };
        for (size_t way = 0; way < sizeof ways / sizeof *ways; way++) {
            const int columns = ways[way].columns;
            struct setup s = { .ranks = ways[way].ranks, .algorithm = ways[way].algorithm, .strided = 1,
                               .grid = { columns ? ways[way].ranks / columns : 0, columns } };
            hook_use(ways[way].hook);
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
            const char *name = ways[way].name;
            ok(codes, "problem %zu, %s: each of %d failing allocations gives a code and a sentence", i, name, failures);
            ok(leaks, "problem %zu, %s: nothing leaks", i, name);
            ok(bits, "problem %zu, %s: then it runs, with the same bits", i, name);
        }
        problem_free(&p);
    }
    return done();
}
