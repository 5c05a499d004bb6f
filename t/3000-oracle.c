/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Attention against an oracle in double precision, element by element within a bound that follows from the arithmetic; visible
 * pairs against a count one by one.
 */
#include "t/attention.h"

static const struct problem problems[] = {
    { .tokens = { 64 }, .heads = 1, .kv_heads = 1, .head_dim = 32, .causal = 1, .leaf = 8 },
    { .tokens = { 64 }, .heads = 1, .kv_heads = 1, .head_dim = 32, .leaf = 8 },
    { .tokens = { 300 }, .heads = 4, .kv_heads = 2, .head_dim = 16, .causal = 1, .leaf = 16 },
    { .tokens = { 150 }, .cached = { 200 }, .heads = 4, .kv_heads = 1, .head_dim = 24, .value_dim = 40, .causal = 1 },
    { .tokens = { 40 }, .cached = { 333 }, .heads = 2, .kv_heads = 2, .head_dim = 7, .value_dim = 5, .causal = 1, .leaf = 32 },
    { .tokens = { 60 }, .cached = { -25 }, .heads = 2, .kv_heads = 2, .head_dim = 16, .causal = 1, .leaf = 8 },
    { .tokens = { 60 }, .cached = { -25 }, .heads = 2, .kv_heads = 2, .head_dim = 16, .leaf = 8 },
    { .tokens = { 20 }, .cached = { -30 }, .heads = 2, .kv_heads = 2, .head_dim = 16, .causal = 1, .leaf = 8 },
    { .tokens = { 200 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .causal = 1, .windowed = 1, .left = 31, .right = -1, .leaf = 16 },
    { .tokens = { 200 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .windowed = 1, .left = 13, .right = 20, .leaf = 8 },
    { .tokens = { 100 }, .cached = { 90 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .windowed = 1, .left = -1, .right = 5, .leaf = 8 },
    { .tokens = { 100 }, .cached = { 60 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .windowed = 1, .left = 0, .right = 0, .leaf = 8 },
    { .sequences = 4, .tokens = { 70, 0, 1, 133 }, .cached = { 0, 40, 97, 10 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .causal = 1, .leaf = 8 },
    { .tokens = { 1 }, .cached = { 500 }, .heads = 4, .kv_heads = 2, .head_dim = 64, .causal = 1, .leaf = 64 },
    { .tokens = { 200 }, .heads = 2, .kv_heads = 2, .head_dim = 32, .causal = 1, .leaf = 16, .q_type = RONDO_BF16, .kv_type = RONDO_BF16 },
    { .tokens = { 200 }, .heads = 2, .kv_heads = 2, .head_dim = 32, .causal = 1, .leaf = 16, .q_type = RONDO_F16, .kv_type = RONDO_F16 },
    { .tokens = { 100 }, .heads = 2, .kv_heads = 2, .head_dim = 32, .causal = 1, .leaf = 16, .kv_type = RONDO_BF16, .out_type = RONDO_F16 },
    { .tokens = { 100 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .causal = 1, .leaf = 16, .scale = -0.7, .spread = 2.0 },
    { .tokens = { 100 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .causal = 1, .leaf = 16, .scale = 1.0, .spread = 8.0 },
    { .tokens = { 0 }, .cached = { 50 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .causal = 1, .leaf = 16 },
    { .tokens = { 0 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .causal = 1, .leaf = 16 },
};

int main(void)
{
    for (size_t i = 0; i < sizeof problems / sizeof *problems; i++) {
        struct problem p = problems[i];
        p.seed = (uint32_t)i;
        problem_data(&p);
        static const int ranks[] = { 1, 3, 4 };
        for (size_t j = 0; j < sizeof ranks / sizeof *ranks; j++) {
            struct setup s = { .ranks = ranks[j], .algorithm = j == 1 ? RONDO_PASS_KV : j == 2 ? RONDO_PASS_Q : RONDO_ALGORITHM_AUTO };
            struct result r;
            uint64_t pairs = 0;
            int err = solve(&p, &s, &r);
            if (!ok(!err, "problem %zu on %d ranks runs", i, s.ranks)) {
                diag("%s: %s", rondo_error_name(err), rondo_error_text());
                continue;
            }
            double worst = worst_error(&p, &r, &pairs);
            ok(worst <= 1.0, "problem %zu on %d ranks: the worst error is %.3f of its bound", i, s.ranks, worst);
            is_int((long long)r.info.visible_pairs, (long long)pairs, "visible pairs");
            ok(r.agree, "the ranks expect what they measure (%llu messages)", (unsigned long long)r.messages);
            result_free(&r);
        }
        problem_free(&p);
    }
    return done();
}
