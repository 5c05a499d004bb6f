/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The n-th allocation fails, for every n, while several ranks make plans and run them: each time a code and a sentence, no rank
 * waits for another, nothing leaks; and without a failure the result has the bits of one rank.
 */
#include "t/attention.h"
#include "t/memory.h"

struct way {
    const struct problem *problem;
    struct setup setup;
    uint64_t want;
};

static int attempt(void *arg, int *right)
{
    struct way *w = arg;
    struct result r;
    const int err = solve(w->problem, &w->setup, &r);
    *right = !err && r.hash == w->want;
    result_free(&r);
    return err;
}

int main(void)
{
    memory_hooks();
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
            char what[80];
            if (other_device() && ways[way].hook && strstr(ways[way].hook, "space"))
                continue;   /* it is such a device by itself */
            struct way w = { &p, { .ranks = ways[way].ranks, .algorithm = ways[way].algorithm, .strided = 1,
                                   .grid = { columns ? ways[way].ranks / columns : 0, columns } }, want };
            snprintf(what, sizeof what, "problem %zu, %s", i, ways[way].name);
            hook_use(ways[way].hook);
            memory_failures(attempt, &w, 7, what);
            hook_use(NULL);
        }
        problem_free(&p);
    }
    return done();
}
