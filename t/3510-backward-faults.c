/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The n-th allocation fails, and the n-th transfer, for every n, while several ranks compute gradients: each time a code and a sentence, no rank
 * waits for another, nothing leaks. A second execution takes no memory.
 */
#include "t/backward.h"
#include "t/memory.h"

struct way {
    const struct problem *problem;
    struct backward_setup setup;
    const struct gradients *want;
};

static int attempt(void *arg, int *right)
{
    struct way *w = arg;
    struct gradients g;
    const int err = solve_backward(w->problem, &w->setup, &g);
    *right = !err && gradients_same(w->problem, w->want, &g);
    gradients_free(&g);
    return err;
}

int main(void)
{
    memory_hooks();
    struct problem p = { .sequences = 2, .tokens = { 40, 30 }, .cached = { 7, -5 }, .heads = 2, .kv_heads = 1, .head_dim = 8, .causal = 1, .leaf = 8,
                         .alibi = 1, .sinks = 1, .bias = 1, .dropout = 0.2, .seed = 51 };
    static const char *const hooks[] = { "", "copy", "copy,plane", "space,defer" };
    /* heads of two, and no bias, so that all-to-all has something to do for each of two ranks and nothing for a third */
    struct problem dealt = { .sequences = 2, .tokens = { 40, 30 }, .cached = { 7, -5 }, .heads = 4, .kv_heads = 2, .head_dim = 8, .causal = 1, .leaf = 8,
                             .alibi = 1, .sinks = 1, .dropout = 0.2, .seed = 52 };
    struct gradients one, other;
    struct backward_setup alone = { .ranks = 1 };
    problem_data(&p);
    ok(!solve_backward(&p, &alone, &one), "on one rank");
    problem_data(&dealt);
    ok(!solve_backward(&dealt, &alone, &other), "on one rank, without a bias");
    for (int i = 0; i < 4; i++) {
        struct way w = { &dealt, { .ranks = 3, .strided = i % 2, .algorithm = RONDO_ALL_TO_ALL }, &other };
        char what[80];
        snprintf(what, sizeof what, "gradients by all-to-all, hook \"%s\"", hooks[i]);
        hook_use(hooks[i]);
        memory_failures(attempt, &w, 7, what);
        hook_use(NULL);
    }
    for (int i = 0; i < 4; i++) {
        struct way w = { &p, { .ranks = 3, .strided = i % 2, .algorithm = i % 2 ? RONDO_HALO : 0 }, &one };
        char what[80];
        snprintf(what, sizeof what, "gradients, hook \"%s\"", hooks[i]);
        hook_use(hooks[i]);
        memory_failures(attempt, &w, 7, what);
        hook_use(NULL);
    }
    int codes = 1, reached = 0, failures = 0;
    for (int n = 1; n < 1000 && !reached; n++) {
        char spec[40];
        int right = 0;
        struct way w = { &p, { .ranks = 3 }, &one };
        snprintf(spec, sizeof spec, "fail:%d", n);
        hook_use(spec);
        const int err = attempt(&w, &right);
        hook_use(NULL);
        reached = !err;
        failures += err != 0;
        codes &= err ? *rondo_error_text() != 0 : right;
    }
    ok(codes && reached && failures > 3, "the n-th call of the transport fails, up to the %dth: each time a code and a sentence", failures);
    gradients_free(&one);
    gradients_free(&other);
    problem_free(&p);
    problem_free(&dealt);
    return done();
}
