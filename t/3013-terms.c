/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Terms and masks together, through the library: one rank against the oracle, then one hash of out, lse and probabilities for ranks, layouts,
 * algorithms, head groups, strides and kinds of machines. RONDO_TEST_LONG=1 takes the full grid.
 */
#include "t/attention.h"

static const struct problem problems[] = {
    { .tokens = { 120 }, .cached = { 37 }, .heads = 4, .kv_heads = 2, .head_dim = 16, .causal = 1, .leaf = 8, .softcap = 3.0 },
    { .tokens = { 150 }, .heads = 4, .kv_heads = 2, .head_dim = 16, .causal = 1, .leaf = 8, .alibi = 1 },
    { .tokens = { 90 }, .cached = { -20 }, .heads = 2, .kv_heads = 1, .head_dim = 12, .leaf = 8, .alibi = 1, .sinks = 1 },
    { .tokens = { 100 }, .cached = { 50 }, .heads = 4, .kv_heads = 2, .head_dim = 16, .causal = 1, .leaf = 16, .bias = 4 },
    { .sequences = 3, .tokens = { 40, 33, 40 }, .cached = { 8, 0, 20 }, .heads = 4, .kv_heads = 4, .head_dim = 16, .leaf = 8, .bias = 1,
      .bias_alike = 1 },
    { .tokens = { 130 }, .heads = 4, .kv_heads = 1, .head_dim = 16, .causal = 1, .leaf = 8, .sinks = 1, .probs = 1 },
    { .tokens = { 130 }, .cached = { 21 }, .heads = 4, .kv_heads = 2, .head_dim = 16, .causal = 1, .leaf = 8, .dropout = 0.2, .probs = 1 },
    { .tokens = { 140 }, .cached = { 30 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .causal = 1, .leaf = 8, .documents = 30 },
    { .tokens = { 140 }, .cached = { -10 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .leaf = 8, .documents = -25 },
    { .tokens = { 110 }, .cached = { 40 }, .heads = 4, .kv_heads = 2, .head_dim = 16, .causal = 1, .leaf = 8, .mask = 1 },
    { .tokens = { 120 }, .heads = 4, .kv_heads = 2, .head_dim = 16, .leaf = 8, .mask = 4, .mask_kind = 1 },
    { .tokens = { 100 }, .cached = { 60 }, .heads = 4, .kv_heads = 2, .head_dim = 24, .value_dim = 16, .causal = 1, .leaf = 8, .shared_kv = 1,
      .kv_type = RONDO_BF16 },
    { .sequences = 4, .tokens = { 70, 0, 1, 61 }, .cached = { 0, 40, 97, -3 }, .heads = 6, .kv_heads = 3, .head_dim = 16, .value_dim = 9, .causal = 1,
      .windowed = 1, .left = 40, .right = -1, .leaf = 8, .softcap = 2.0, .alibi = 1, .sinks = 1, .bias = 6, .documents = 35, .mask = 1,
      .dropout = 0.1, .probs = 1, .probs_first = 5, .probs_count = 30, .q_type = RONDO_F16, .kv_type = RONDO_BF16, .out_type = RONDO_F32 },
    { .sequences = 2, .tokens = { 80, 50 }, .cached = { 20, 9 }, .heads = 2, .kv_heads = 2, .head_dim = 7, .value_dim = 5, .windowed = 1, .left = 11,
      .right = 6, .leaf = 8, .documents = -20, .mask = 2, .mask_kind = 1, .bias = 1, .sinks = 1, .probs = 1, .probs_first = 40 },
};

static const int algorithms[] = { RONDO_PASS_KV, RONDO_PASS_Q, RONDO_ALL_GATHER, RONDO_ALL_TO_ALL, RONDO_REDUCE, RONDO_HALO, RONDO_MESH };

int main(void)
{
    static const int ranks[] = { 1, 2, 3, 4, 6, 9 };
    for (size_t i = 0; i < sizeof problems / sizeof *problems; i++) {
        struct problem p = problems[i];
        struct result r;
        uint64_t pairs = 0;
        p.seed = 500 + (uint32_t)i;
        problem_data(&p);
        int err = solve(&p, &(struct setup){ .ranks = 1 }, &r);
        if (!ok(!err, "problem %zu: one rank%s%s", i, err ? ": " : "", err ? rondo_error_text() : "")) {
            problem_free(&p);
            continue;
        }
        const double worst = worst_error(&p, &r, &pairs);
        ok(worst <= 1.0, "problem %zu: the worst error is %.3f of its bound", i, worst);
        is_int((long long)r.info.visible_pairs, (long long)pairs, "problem %zu: visible pairs", i);
        const uint64_t want = r.hash;
        result_free(&r);
        int same = 1, agree = 1, ran = 0;
        for (size_t j = 0; j < sizeof ranks / sizeof *ranks; j++)
            for (int layout = 1; layout <= 4; layout++)
                for (size_t a = 0; a < sizeof algorithms / sizeof *algorithms; a++)
                    for (int variant = 0; variant < 6; variant++) {
                        if (!long_tests() && ((int)(i + j + (size_t)layout + a) % 6 != variant || (int)(j + a) % 4 + 1 != layout))
                            continue;
                        if (other_device() && !long_tests() && (variant == 5 || (i + j + a) % 3))   /* it is such a device by itself, and slow */
                            continue;
                        struct setup s = { .ranks = ranks[j], .layout = layout, .algorithm = algorithms[a] };
                        if ((algorithms[a] == RONDO_MESH || algorithms[a] == RONDO_ALL_TO_ALL) && ranks[j] % 2 == 0) {   /* else the plan's choice */
                            s.grid[0] = layout % 2 ? 2 : ranks[j] / 2;
                            s.grid[1] = ranks[j] / s.grid[0];
                        }
                        s.threads = variant == 1 ? 2 : 1;
                        s.strided = variant == 2;
                        s.head_groups = variant == 3 && algorithms[a] != RONDO_ALL_TO_ALL ? (int)p.kv_heads : 0;
                        hook_use(variant == 4 ? "copy" : variant == 5 ? "plane,space,defer" : NULL);
                        err = solve(&p, &s, &r);
                        hook_use(NULL);
                        if (err || r.hash != want)
                            diag("problem %zu, %d ranks, %s, %s, variant %d: %s", i, s.ranks, rondo_layout_name(layout),
                                 rondo_algorithm_name(s.algorithm), variant, err ? rondo_error_text() : "other bits");
                        if (!err && !r.agree)
                            diag("problem %zu, %d ranks, %s, %s, variant %d: not the messages or pairs that were expected", i, s.ranks,
                                 rondo_layout_name(layout), rondo_algorithm_name(s.algorithm), variant);
                        same &= !err && r.hash == want;
                        agree &= err || r.agree;
                        ran++;
                        result_free(&r);
                    }
        ok(same, "problem %zu: one hash in %d runs", i, ran);
        ok(agree, "problem %zu: messages, bytes and pairs are those expected", i);
        problem_free(&p);
    }
    return done();
}
