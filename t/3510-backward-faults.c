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
    /* heads of two, so that all-to-all has something to do for each of two ranks and nothing for a third, or for each of two in two teams */
    struct problem dealt = { .sequences = 2, .tokens = { 40, 30 }, .cached = { 7, -5 }, .heads = 4, .kv_heads = 2, .head_dim = 8, .causal = 1, .leaf = 8,
                             .alibi = 1, .sinks = 1, .bias = 1, .dropout = 0.2, .seed = 52 };
    struct gradients one, other;
    struct backward_setup alone = { .ranks = 1 };
    problem_data(&p);
    ok(!solve_backward(&p, &alone, &one), "on one rank");
    problem_data(&dealt);
    ok(!solve_backward(&dealt, &alone, &other), "on one rank, with two heads of keys");
    static const int once[] = { RONDO_ALL_TO_ALL, RONDO_PASS_KV, RONDO_PASS_Q, RONDO_MESH };   /* which compute each product once */
    for (int i = 0; i < 3 * 4 + 2; i++) {
        const int teams = i / 4 ? 0 : 1 + i % 2;   /* of all-to-all */
        struct way w = { &dealt, { .ranks = teams == 2 ? 4 : 3, .strided = i % 2, .algorithm = once[i / 4], .teams = teams }, &other };
        char what[80];
        snprintf(what, sizeof what, "gradients by %s, hook \"%s\"", rondo_algorithm_name(once[i / 4]), hooks[i % 4]);
        hook_use(hooks[i % 4]);
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
    for (int i = 0; i < 4; i++) {   /* out and lse are made once more: both passes */
        struct way w = { &p, { .ranks = 2, .again = 1, .strided = i % 2 }, &one };
        char what[80];
        snprintf(what, sizeof what, "gradients with recompute, hook \"%s\"", hooks[i]);
        hook_use(hooks[i]);
        memory_failures(attempt, &w, 17, what);
        hook_use(NULL);
    }
    static const struct {
        const char *name;
        int algorithm;
    } ways[] = { { "all-gather", 0 }, { "halo", RONDO_HALO }, { "all-to-all", RONDO_ALL_TO_ALL }, { "pass-KV", RONDO_PASS_KV }, { "pass-Q", RONDO_PASS_Q },
                 { "mesh", RONDO_MESH } };
    for (int i = 0; i < 12; i++) {
        const int deals = i % 6 >= 2;
        const int teams = i % 6 == 2 ? 1 + i / 6 : 0;
        struct way w = { deals ? &dealt : &p, { .ranks = teams == 2 ? 4 : 3, .algorithm = ways[i % 6].algorithm, .teams = teams, .again = i == 6 },
                         deals ? &other : &one };
        char what[80];
        snprintf(what, sizeof what, "gradients by %s, \"%s\"", ways[i % 6].name, hooks[i / 6]);
        transport_failures(attempt, &w, 7, hooks[i / 6], what);
    }
    gradients_free(&one);
    gradients_free(&other);
    problem_free(&p);
    problem_free(&dealt);
    return done();
}
