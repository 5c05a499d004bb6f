/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The claim: one hash of out and lse for every rank count, layout, algorithm, thread count, head grouping and way of laying the
 * tensors out; and every rank sends exactly what its plan said it would. RONDO_TEST_LONG=1 takes the full grid.
 */
#include "t/attention.h"

static const struct problem problems[] = {
    { .tokens = { 64 }, .heads = 1, .kv_heads = 1, .head_dim = 32, .causal = 1, .leaf = 8 },
    { .tokens = { 300 }, .heads = 4, .kv_heads = 2, .head_dim = 16, .causal = 1, .leaf = 8 },
    { .tokens = { 260 }, .heads = 2, .kv_heads = 1, .head_dim = 24, .leaf = 16, .kv_type = RONDO_BF16 },
    { .tokens = { 170 }, .cached = { 200 }, .heads = 4, .kv_heads = 4, .head_dim = 16, .value_dim = 24, .causal = 1, .leaf = 8 },
    { .tokens = { 5 }, .cached = { 333 }, .heads = 4, .kv_heads = 2, .head_dim = 7, .value_dim = 5, .causal = 1, .leaf = 8 },
    { .tokens = { 150 }, .cached = { -25 }, .heads = 2, .kv_heads = 2, .head_dim = 16, .causal = 1, .leaf = 8 },
    { .tokens = { 10 }, .cached = { -30 }, .heads = 2, .kv_heads = 2, .head_dim = 16, .causal = 1, .leaf = 8 },
    { .tokens = { 300 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .causal = 1, .windowed = 1, .left = 33, .right = -1, .leaf = 8 },
    { .tokens = { 200 }, .cached = { 77 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .windowed = 1, .left = 9, .right = 17, .leaf = 8 },
    { .sequences = 5, .tokens = { 70, 0, 1, 133, 9 }, .cached = { 0, 40, 97, 10, -3 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .causal = 1,
      .leaf = 8 },
    { .sequences = 6, .tokens = { 1, 1, 1, 1, 1, 1 }, .cached = { 0, 5, 64, 100, 300, 7 }, .heads = 6, .kv_heads = 3, .head_dim = 16,
      .causal = 1, .leaf = 8 },
    { .tokens = { 140 }, .cached = { 64 }, .heads = 4, .kv_heads = 2, .head_dim = 32, .causal = 1, .leaf = 16, .q_type = RONDO_F16,
      .kv_type = RONDO_F16 },
    { .tokens = { 0 }, .cached = { 50 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .causal = 1, .leaf = 8 },
    { .tokens = { 0 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .causal = 1, .leaf = 8 },
    /* parcels that are worth a ring */
    { .tokens = { 300 }, .heads = 4, .kv_heads = 2, .head_dim = 128, .causal = 1, .leaf = 8 },
    /* heads that divide nothing, one for all, one each, many */
    { .tokens = { 130 }, .cached = { 30 }, .heads = 7, .kv_heads = 1, .head_dim = 8, .value_dim = 12, .causal = 1, .leaf = 8 },
    { .tokens = { 90 }, .heads = 5, .kv_heads = 5, .head_dim = 8, .leaf = 16, .out_type = RONDO_BF16 },
    { .sequences = 2, .tokens = { 33, 40 }, .cached = { 20, -9 }, .heads = 32, .kv_heads = 8, .head_dim = 4, .causal = 1, .leaf = 8,
      .kv_type = RONDO_F16 },
};

static const int algorithms[] = { RONDO_ALGORITHM_AUTO, RONDO_PASS_KV, RONDO_PASS_Q, RONDO_ALL_TO_ALL };
enum { ALGORITHMS = sizeof algorithms / sizeof *algorithms };

/* Some divisor of the number of ranks, or 0: the plan's choice. */
static int some_columns(int ranks, int which)
{
    int columns = which % (ranks + 1);
    while (columns && ranks % columns)
        columns--;
    return columns;
}

int main(void)
{
    static const int ranks[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16 };
    for (size_t i = 0; i < sizeof problems / sizeof *problems; i++) {
        struct problem p = problems[i];
        struct result r;
        struct setup one = { .ranks = 1 };
        p.seed = 100 + (uint32_t)i;
        problem_data(&p);
        if (!ok(solve(&p, &one, &r) == 0, "problem %zu: one rank", i)) {
            diag("%s", rondo_error_text());
            continue;
        }
        uint64_t want = r.hash;
        result_free(&r);
        int same = 1, agree = 1, ran = 0;
        for (size_t j = 0; j < sizeof ranks / sizeof *ranks; j++)
            for (int layout = 1; layout <= 4; layout++)
                for (int a = 0; a < ALGORITHMS; a++)
                    for (int variant = 0; variant < 8; variant++) {
                        /* variants: plain, 2 threads, strided tensors, head groups, out = q, the caller's workspace; and parcels
                         * that are copied and computed one by one, as between machines, or go through a data plane */
                        const int algorithm = algorithms[a];
                        if (!long_tests() && variant != ((int)j + layout + a) % 2 * 6 && !(variant == 7 && ((int)j + layout) % 2) && (int)(j + (size_t)layout + (size_t)a) % 5 + 1 != variant)
                            continue;
                        struct setup s = { .ranks = ranks[j], .layout = layout, .algorithm = algorithm };
                        s.threads = variant == 1 ? 2 : 1;
                        s.strided = variant == 2 || (variant == 6 && layout % 2);
                        s.head_groups = variant == 3 && algorithm != RONDO_ALL_TO_ALL ? (int)p.kv_heads : 0;
                        s.grid[0] = algorithm == RONDO_ALL_TO_ALL ? some_columns(ranks[j], variant + 2 * layout + (int)i) : 0;
                        s.grid[1] = s.grid[0] ? ranks[j] / s.grid[0] : 0;
                        s.alias = variant == 4 && p.value_dim == p.head_dim && p.out_type == p.q_type;
                        s.own_workspace = variant >= 4;
                        hook_use(variant == 6 ? "copy" : variant == 7 ? "plane" : NULL);
                        int err = solve(&p, &s, &r);
                        hook_use(NULL);
                        if (err || r.hash != want) {
                            diag("problem %zu, %d ranks, %s, %s, variant %d: %s", i, s.ranks, rondo_layout_name(layout),
                                 rondo_algorithm_name(algorithm), variant, err ? rondo_error_text() : "other bits");
                            same = 0;
                        }
                        if (!err && !r.agree) {
                            diag("problem %zu, %d ranks, %s, %s, variant %d: %llu messages of %llu bytes, expected %llu of %llu", i, s.ranks,
                                 rondo_layout_name(layout), rondo_algorithm_name(algorithm), variant, (unsigned long long)r.messages,
                                 (unsigned long long)r.bytes, (unsigned long long)r.expected_messages, (unsigned long long)r.expected_bytes);
                            agree = 0;
                        }
                        ran++;
                        result_free(&r);
                    }
        ok(same, "problem %zu: one hash in %d runs", i, ran);
        ok(agree, "problem %zu: messages and bytes are those expected", i);
        problem_free(&p);
    }
    return done();
}
