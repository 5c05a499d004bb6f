/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The algorithms besides the two rings, and every grid: one hash of out and lse, that of one rank, whatever the number of ranks, layout, threads,
 * head groups, strides and machine; and every rank sends exactly what its plan said, and computes so many pairs. Combinations are drawn;
 * RONDO_TEST_LONG=1 draws more of them.
 */
#include "t/attention.h"

static const struct problem problems[] = {
    { .tokens = { 300 }, .heads = 4, .kv_heads = 2, .head_dim = 16, .causal = 1, .leaf = 8 },
    { .tokens = { 260 }, .heads = 2, .kv_heads = 1, .head_dim = 24, .leaf = 16, .kv_type = RONDO_BF16 },
    { .tokens = { 170 }, .cached = { 200 }, .heads = 4, .kv_heads = 4, .head_dim = 16, .value_dim = 24, .causal = 1, .leaf = 8 },
    { .tokens = { 5 }, .cached = { 333 }, .heads = 4, .kv_heads = 2, .head_dim = 7, .value_dim = 5, .causal = 1, .leaf = 8 },
    { .tokens = { 1 }, .cached = { 500 }, .heads = 4, .kv_heads = 2, .head_dim = 16, .causal = 1, .leaf = 8 },
    { .tokens = { 150 }, .cached = { -25 }, .heads = 2, .kv_heads = 2, .head_dim = 16, .causal = 1, .leaf = 8 },
    { .tokens = { 300 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .causal = 1, .windowed = 1, .left = 33, .right = -1, .leaf = 8 },
    { .tokens = { 200 }, .cached = { 77 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .windowed = 1, .left = 9, .right = 17, .leaf = 8 },
    { .sequences = 5, .tokens = { 70, 0, 1, 133, 9 }, .cached = { 0, 40, 97, 10, -3 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .causal = 1,
      .leaf = 8 },
    { .sequences = 6, .tokens = { 1, 1, 1, 1, 1, 1 }, .cached = { 0, 5, 64, 100, 300, 7 }, .heads = 6, .kv_heads = 3, .head_dim = 16,
      .causal = 1, .leaf = 8 },
    { .tokens = { 0 }, .cached = { 50 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .causal = 1, .leaf = 8 },
};

/* No hook most often, which is in place; copies, streams of a data plane, a device with memory of its own, late. */
static const char *const hooks[] = { NULL, NULL, "copy", "copy", "plane", "space,defer:1", "copy,space,defer:2", "plane,space,defer:3" };

static uint32_t seed = 1;
static int draw(uint32_t below)
{
    uint32_t out[4], counter[4] = { seed++, 0, 0, 0 }, key[2] = { 3012, 0 };
    rondo_philox(out, counter, key);
    return (int)(out[0] % below);
}

static int has_grid(const struct setup *s)
{
    return s->algorithm == RONDO_MESH || s->algorithm == RONDO_ALL_TO_ALL;
}

static void invent(struct setup *s, const struct problem *p)
{
    static const int ranks[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16 }, algorithms[] = { RONDO_ALL_GATHER, RONDO_HALO, RONDO_REDUCE, RONDO_MESH, RONDO_MESH,
                                                                                     RONDO_ALL_TO_ALL, RONDO_ALL_TO_ALL };
    *s = (struct setup){ .ranks = ranks[draw(11)], .layout = 1 + draw(4), .algorithm = algorithms[draw(7)], .threads = draw(4) ? 1 : 2 };
    int columns = 1 + draw((uint32_t)s->ranks);
    while (s->ranks % columns)
        columns++;
    if (has_grid(s) && draw(4)) {
        s->grid[0] = s->ranks / columns;
        s->grid[1] = columns;
    }
    s->strided = draw(2);
    s->head_groups = draw(2) ? 0 : draw(2) || s->algorithm == RONDO_ALL_TO_ALL ? 1 : (int)p->kv_heads;
    s->own_workspace = draw(2);
    s->alias = draw(3) == 0 && p->value_dim == p->head_dim && p->out_type == p->q_type;
}

int main(void)
{
    const int runs = rounds_of(120, 2000);
    for (size_t i = 0; i < sizeof problems / sizeof *problems; i++) {
        struct problem p = problems[i];
        struct result r;
        struct setup one = { .ranks = 1 };
        p.seed = 500 + (uint32_t)i;
        problem_data(&p);
        if (!ok(solve(&p, &one, &r) == 0, "problem %zu: one rank", i)) {
            diag("%s", rondo_error_text());
            continue;
        }
        const uint64_t want = r.hash;
        result_free(&r);
        int same = 1, agree = 1;
        for (int run = 0; run < runs; run++) {
            struct setup s;
            invent(&s, &p);
            const char *hook = hooks[draw(sizeof hooks / sizeof *hooks)];
            if (hook && other_device() && strstr(hook, "space"))
                hook = NULL;   /* it is such a device by itself, and a transport may know its streams */
            hook_use(hook);
            const int err = solve(&p, &s, &r);
            hook_use(NULL);
            const int right = !err && r.hash == want, grid = !err && r.info.grid[0] * r.info.grid[1] == (has_grid(&s) ? s.ranks : 0) &&
                                                             (!s.grid[0] || (r.info.grid[0] == s.grid[0] && r.info.grid[1] == s.grid[1]));
            if ((!right && same) || (!err && !(r.agree && grid) && agree))
                diag("problem %zu, %d ranks, %s, %s %d,%d, hook %s: %s; %llu messages of %llu bytes, expected %llu of %llu", i, s.ranks,
                     rondo_layout_name(s.layout), rondo_algorithm_name(s.algorithm), s.grid[0], s.grid[1], hook ? hook : "none",
                     err ? rondo_error_text() : right ? "the same bits" : "other bits", (unsigned long long)r.messages,
                     (unsigned long long)r.bytes, (unsigned long long)r.expected_messages, (unsigned long long)r.expected_bytes);
            same &= right;
            agree &= !err && r.agree && grid;
            result_free(&r);
        }
        ok(same, "problem %zu: one hash in %d runs", i, runs);
        ok(agree, "problem %zu: messages, bytes and pairs are those expected", i);
        problem_free(&p);
    }
    return done();
}
