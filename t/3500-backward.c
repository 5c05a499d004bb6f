/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Gradients of attention against an oracle in double precision under a derived bound, with each mask, term and type; and the same bits on any
 * number of ranks, in any layout, with any threads, from strided arrays and dense ones; what the plan says it moves is what it moves.
 */
#include "t/backward.h"

static const struct {
    const char *name;
    struct problem p;
} cases[] = {
    { "causal", { .tokens = { 150 }, .heads = 4, .kv_heads = 2, .head_dim = 16, .causal = 1, .leaf = 32, .seed = 1 } },
    { "full, Dv of its own, one leaf and a bit", { .tokens = { 70 }, .heads = 2, .kv_heads = 1, .head_dim = 9, .value_dim = 21, .leaf = 64, .seed = 2 } },
    { "window", { .tokens = { 200 }, .heads = 2, .kv_heads = 2, .head_dim = 8, .windowed = 1, .left = 37, .right = 5, .leaf = 16, .seed = 3 } },
    { "cached", { .tokens = { 61 }, .cached = { 77 }, .heads = 3, .kv_heads = 1, .head_dim = 12, .causal = 1, .leaf = 32, .seed = 4 } },
    { "fewer keys than queries", { .tokens = { 90 }, .cached = { -41 }, .heads = 2, .kv_heads = 1, .head_dim = 8, .causal = 1, .leaf = 16, .seed = 5 } },
    { "fewer keys, all seen", { .tokens = { 50 }, .cached = { -13 }, .heads = 2, .kv_heads = 2, .head_dim = 8, .leaf = 16, .seed = 6 } },
    { "packed", { .sequences = 5, .tokens = { 33, 1, 0, 64, 17 }, .cached = { 0, 0, 0, 5, 40 }, .heads = 4, .kv_heads = 2, .head_dim = 8, .causal = 1, .leaf = 16, .seed = 7 } },
    { "documents", { .sequences = 2, .tokens = { 80, 50 }, .cached = { 0, 20 }, .heads = 2, .kv_heads = 1, .head_dim = 8, .causal = 1, .documents = 13, .leaf = 16, .seed = 8 } },
    { "documents that come back", { .tokens = { 120 }, .heads = 2, .kv_heads = 1, .head_dim = 8, .documents = -17, .leaf = 16, .seed = 9 } },
    { "mask of each head", { .tokens = { 75 }, .heads = 2, .kv_heads = 1, .head_dim = 8, .mask = 2, .causal = 1, .leaf = 16, .seed = 10 } },
    { "softcap", { .tokens = { 90 }, .heads = 2, .kv_heads = 2, .head_dim = 16, .causal = 1, .softcap = 2.5, .spread = 1.5, .leaf = 32, .seed = 11 } },
    { "ALiBi", { .tokens = { 90 }, .heads = 4, .kv_heads = 2, .head_dim = 8, .causal = 1, .alibi = 1, .leaf = 32, .seed = 12 } },
    { "bias", { .sequences = 2, .tokens = { 45, 30 }, .cached = { 0, 11 }, .heads = 4, .kv_heads = 2, .head_dim = 8, .bias = 4, .causal = 1, .leaf = 16, .seed = 13 } },
    { "one bias for all heads, softcap", { .tokens = { 60 }, .heads = 5, .kv_heads = 1, .head_dim = 8, .bias = 1, .softcap = 3, .leaf = 16, .seed = 14 } },
    { "sinks", { .sequences = 3, .tokens = { 70, 21, 5 }, .heads = 4, .kv_heads = 2, .head_dim = 8, .causal = 1, .sinks = 1, .leaf = 16, .seed = 15 } },
    { "dropout", { .tokens = { 100 }, .heads = 2, .kv_heads = 1, .head_dim = 8, .causal = 1, .dropout = 0.3, .leaf = 32, .seed = 16 } },
    { "all terms", { .sequences = 2, .tokens = { 50, 33 }, .heads = 4, .kv_heads = 2, .head_dim = 10, .value_dim = 6, .causal = 1, .softcap = 4, .alibi = 1, .bias = 1, .sinks = 1, .dropout = 0.2, .leaf = 16, .seed = 17 } },
    { "bf16", { .tokens = { 80 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .causal = 1, .q_type = RONDO_BF16, .kv_type = RONDO_BF16, .leaf = 32, .seed = 18 } },
    { "f16", { .tokens = { 80 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .causal = 1, .q_type = RONDO_F16, .kv_type = RONDO_F16, .leaf = 32, .seed = 19 } },
    { "a leaf of 128", { .tokens = { 300 }, .heads = 2, .kv_heads = 1, .head_dim = 32, .causal = 1, .seed = 20 } },
    { "negative scale", { .tokens = { 40 }, .heads = 1, .kv_heads = 1, .head_dim = 8, .causal = 1, .scale = -0.4, .leaf = 16, .seed = 21 } },
    { "dropout and slopes of dealt heads", { .tokens = { 60 }, .heads = 4, .kv_heads = 2, .head_dim = 8, .causal = 1, .alibi = 1, .dropout = 0.3, .leaf = 16, .seed = 23 } },
    { "a query", { .tokens = { 1 }, .cached = { 70 }, .heads = 2, .kv_heads = 1, .head_dim = 8, .leaf = 16, .seed = 22 } },
};
#define CASES (sizeof cases / sizeof *cases)

/* Of results of another type: that of the problem. */
static struct backward_setup plain(const struct problem *p)
{
    struct backward_setup s = { .ranks = 1, .with_dlse = p->seed % 2 == 0 };
    s.types[0] = p->q_type;
    s.types[1] = s.types[2] = p->kv_type;
    return s;
}

static void oracle(const char *name, struct problem *p, struct gradients *one)
{
    struct backward_setup s = plain(p);
    int err = solve_backward(p, &s, one);
    double worst = err ? INFINITY : worst_gradient(p, one, 0.0);
    ok(!err && worst <= 1.0, "%s: within the bound (%.2f of it)%s%s", name, worst, err ? ": " : "", err ? rondo_error_text() : "");
    struct gradients more;
    struct backward_setup added = s;
    added.accumulate = added.strided = 1;
    added.threads = 2;
    err = solve_backward(p, &added, &more);
    worst = err ? INFINITY : worst_gradient(p, &more, (double)NO_GRADIENT);
    ok(!err && worst <= 1.0, "%s: added to what there is, strided (%.2f)%s%s", name, worst, err ? ": " : "", err ? rondo_error_text() : "");
    gradients_free(&more);
}

static void bits(const char *name, struct problem *p, const struct gradients *one)
{
    static const int layouts[] = { RONDO_CONTIGUOUS, RONDO_ZIGZAG, RONDO_STRIPED, RONDO_SNAKE };
    static const int ranks[] = { 1, 2, 3, 5, 2, 3, 4, 2, 3, 5, 2, 3, 5, 4, 5, 2 };
    static const int ways[] = { RONDO_ALGORITHM_AUTO, RONDO_ALL_GATHER, RONDO_ALGORITHM_AUTO, RONDO_HALO, RONDO_ALL_TO_ALL, RONDO_ALL_TO_ALL, RONDO_ALL_TO_ALL,
                                RONDO_PASS_KV, RONDO_PASS_KV, RONDO_PASS_KV, RONDO_PASS_Q, RONDO_PASS_Q, RONDO_PASS_Q, RONDO_MESH, RONDO_MESH, RONDO_MESH };
    enum { WAYS = sizeof ways / sizeof *ways };
    int same = 1, counted = 1, err = 0;
    for (int i = 0; i < WAYS && !err; i++) {
        struct gradients g;
        struct backward_setup s = plain(p);
        s.ranks = ranks[i];
        s.layout = layouts[(i + (int)p->seed) % 4];
        s.algorithm = ways[i];
        s.strided = i % 2;
        s.threads = 1 + i % 2;
        err = solve_backward(p, &s, &g);
        same &= !err && gradients_same(p, one, &g);
        counted &= g.agree && (ways[i] == RONDO_ALGORITHM_AUTO || s.ranks == 1 || g.info.backward_algorithm == ways[i]);
        gradients_free(&g);
    }
    static const char *const isas[] = { "scalar", "avx2", "avx512", "neon" };
    int alike = !err;
    for (int i = 0, usable; i < 4 && !err; i++) {
        struct gradients g;
        struct backward_setup s = plain(p);
        const char *name_of;
        for (int j = 0; (name_of = rondo_isa_name(j, &usable)) && strcmp(name_of, isas[i]); j++) {
        }
        if (!name_of || !usable)
            continue;
        s.ranks = 1 + i % 2;
        s.isa = isas[i];
        err = solve_backward(p, &s, &g);
        alike &= !err && gradients_same(p, one, &g);
        if (!err && !gradients_same(p, one, &g))
            diag("%s differs", isas[i]);
        gradients_free(&g);
    }
    ok(alike, "%s: the same bits from each instruction set%s%s", name, err ? ": " : "", err ? rondo_error_text() : "");
    ok(!err && same, "%s: the same bits on 1 to 5 ranks, by each algorithm%s%s", name, err ? ": " : "", err ? rondo_error_text() : "");
    ok(!err && counted, "%s: the plan says what it moves", name);
}

/* Rings and grids on up to nine ranks, in all layouts, where messages are shown and where they are copied, on any device. */
static void rings(const char *name, struct problem *p, const struct gradients *one)
{
    static const int layouts[] = { RONDO_CONTIGUOUS, RONDO_ZIGZAG, RONDO_STRIPED, RONDO_SNAKE };
    static const char *const hooks[] = { "", "copy", "space,defer", "copy,plane,space,defer", "delay:200,reorder" };
    int same = 1, counted = 1, err = 0;
    static const int ways[] = { RONDO_PASS_KV, RONDO_MESH, RONDO_PASS_Q, RONDO_ALL_TO_ALL };
    for (int i = 0; i < 40 && !err; i++) {
        struct gradients g;
        struct backward_setup s = plain(p);
        s.ranks = 2 + i % 8;
        s.layout = layouts[i / 8 % 4];
        s.algorithm = ways[(i + i / 8) % 4];
        for (s.teams = s.algorithm == RONDO_ALL_TO_ALL ? 1 + (i + (int)p->seed) % s.ranks : 0; s.teams && s.ranks % s.teams;)
            s.teams--;
        hook_use(hooks[i % 5]);
        err = solve_backward(p, &s, &g);
        hook_use(NULL);
        const int alike = !err && gradients_same(p, one, &g);
        if (!err && !alike)
            diag("%s on %d ranks in %d teams, %s, \"%s\"", rondo_algorithm_name(s.algorithm), s.ranks, s.teams, rondo_layout_name(s.layout), hooks[i % 5]);
        same &= alike;
        counted &= g.agree && g.info.backward_algorithm == s.algorithm;
        gradients_free(&g);
    }
    ok(!err && same && counted, "%s: the same bits by rings and grids on 2 to 9 ranks, and as many messages as said%s%s", name, err ? ": " : "", err ? rondo_error_text() : "");
}

/* The bits themselves, as of version 1 of the contract. */
static uint64_t hash_of(const struct problem *p, const struct gradients *g)
{
    uint64_t h = 0;
    const int64_t q = p->q_rows * p->heads, k = p->kv_rows * p->kv_heads, shape[1] = { q + k };
    rondo_hash_add(&h, g->dq, rondo_type_size(g->types[0]), 0, q * p->head_dim);
    rondo_hash_add(&h, g->dk, rondo_type_size(g->types[1]), q * p->head_dim, k * p->head_dim);
    rondo_hash_add(&h, g->dv, rondo_type_size(g->types[2]), (q + k) * p->head_dim, k * p->value_dim);
    rondo_hash_add(&h, g->dbias, 4, (q + k) * p->head_dim + k * p->value_dim, bias_elements(p));
    rondo_hash_add(&h, g->dsinks, 4, (q + k) * p->head_dim + k * p->value_dim + bias_elements(p), p->heads);
    return rondo_hash_close(h, 0, p->leaf, shape, 1);
}

static void frozen(const char *name, const struct problem *p, const struct gradients *g)
{
    static const struct { const char *name; uint64_t hash; } known[] = {
        { "causal", 0x10f4efdcc6c16cbf }, { "packed", 0xb144913dbe126e14 }, { "softcap", 0x886a897ca515e0a0 }, { "bias", 0xa47962e440d95550 },
        { "sinks", 0xff4a5aec105780b8 }, { "dropout", 0x69df1da50ae246bc }, { "bf16", 0xd03f195e5913d022 }, { "f16", 0x29a52f07afb62325 },
        { "a leaf of 128", 0xfd60be88c68237c6 },
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(known[i].name, name) && !ok(hash_of(p, g) == known[i].hash, "%s: the bits that it has always had", name))
            diag("{ \"%s\", 0x%016llx }", name, (unsigned long long)hash_of(p, g));
}

/* One bias for all sequences: ranks that have the same queries of each sum their rows of it; where lengths differ nobody has. */
static void shared_bias(void)
{
    struct problem p = { .sequences = 3, .tokens = { 192, 192, 192 }, .cached = { 48, 48, 48 }, .heads = 4, .kv_heads = 2, .head_dim = 8, .value_dim = 12, .causal = 1,
                         .leaf = 16, .bias = 1, .bias_alike = 1, .seed = 77 };
    static const int layouts[] = { RONDO_CONTIGUOUS, RONDO_ZIGZAG, RONDO_STRIPED, RONDO_SNAKE };
    struct gradients one, g;
    int same = 1, err = 0;
    for (int heads = 1; heads <= 4; heads += 3) {
        p.bias = heads;
        problem_data(&p);
        oracle(heads > 1 ? "one bias for all sequences" : "one bias for all heads and sequences", &p, &one);
        for (int i = 0; i < 16 && !err; i++) {
            static const int ways[] = { RONDO_ALL_GATHER, RONDO_ALL_TO_ALL, RONDO_PASS_Q, RONDO_MESH, RONDO_PASS_KV };
            struct backward_setup s = plain(&p);
            s.ranks = 2 + i % 2;
            s.layout = layouts[i / 2 % 4];
            s.algorithm = ways[(i + i / 8) % (p.cached[0] ? 4 : 5)];
            s.threads = 1 + i % 2;
            err = solve_backward(&p, &s, &g);
            same &= !err && gradients_same(&p, &one, &g);
            gradients_free(&g);
        }
        gradients_free(&one);
        problem_free(&p);
    }
    ok(!err && same, "one bias for all sequences: the same bits on 2 and 3 ranks, by each layout%s%s", err ? ": " : "", err ? rondo_error_text() : "");
    p.tokens[1] = 100;
    struct backward_setup s = plain(&p);
    s.ranks = 2;
    problem_data(&p);
    err = solve_backward(&p, &s, &g);
    ok(err == RONDO_ENOTSUP && strstr(rondo_error_text(), "not all of its rows are on one rank"), "where lengths differ the caller is told to sum: %s", rondo_error_text());
    gradients_free(&g);
    problem_free(&p);
}

int main(void)
{
    shared_bias();
    for (size_t i = 0; i < CASES; i++) {
        struct problem p = cases[i].p;
        struct gradients one;
        if (under_sanitizer() && i % 2)   /* the same code */
            continue;
        problem_data(&p);
        oracle(cases[i].name, &p, &one);
        bits(cases[i].name, &p, &one);
        if (i % 3 == 0)
            rings(cases[i].name, &p, &one);
        frozen(cases[i].name, &p, &one);
        gradients_free(&one);
        problem_free(&p);
    }
    return done();
}
