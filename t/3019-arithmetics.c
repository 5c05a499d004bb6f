/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Arithmetics f64 and bf16-hopper through the library: one rank against the oracle, within bounds of their own, and one hash of out, lse and
 * probabilities for ranks, layouts, algorithms, threads and instruction sets, over masks, terms, types, decoding and packed sequences; what has no
 * other arithmetic says so. The numbers themselves are t/2028's. RONDO_TEST_LONG=1 takes more of the grid.
 */
#include "t/attention.h"

static const struct problem problems[] = {
    { .tokens = { 150 }, .heads = 4, .kv_heads = 2, .head_dim = 20, .causal = 1, .leaf = 32 },
    { .tokens = { 90 }, .cached = { 61 }, .heads = 2, .kv_heads = 1, .head_dim = 32, .value_dim = 9, .windowed = 1, .left = 40, .right = 7, .leaf = 16,
      .q_type = RONDO_BF16, .kv_type = RONDO_BF16, .out_type = RONDO_F32 },
    { .sequences = 5, .tokens = { 1, 1, 1, 1, 1 }, .cached = { 0, 5, 64, 130, 300 }, .heads = 4, .kv_heads = 2, .head_dim = 16, .causal = 1, .leaf = 32,
      .kv_type = RONDO_F16 },
    { .sequences = 4, .tokens = { 70, 0, 1, 41 }, .cached = { 0, 40, 97, -3 }, .heads = 4, .kv_heads = 2, .head_dim = 16, .value_dim = 9, .causal = 1,
      .leaf = 16, .softcap = 2.0, .alibi = 1, .sinks = 1, .bias = 4, .documents = 35, .mask = 1, .dropout = 0.1, .probs = 1, .q_type = RONDO_F16,
      .kv_type = RONDO_BF16 },
};

static int refused(int code, const char *word, const rondo_attention_desc *d)
{
    rondo_context *ctx;
    rondo_context_desc cd = RONDO_CONTEXT_DESC_INIT;
    rondo_attention *plan = NULL;
    int err = rondo_context_create(&ctx, &cd), right;
    err = err ? err : rondo_attention_create(&plan, ctx, d);
    right = err == code && !plan && strstr(rondo_error_text(), word);
    if (!right)
        diag("%d: %s", err, rondo_error_text());
    rondo_attention_destroy(plan);
    rondo_context_destroy(ctx);
    return right;
}

static void test_refused(int arithmetic)
{
    const char *name = rondo_arithmetic_name(arithmetic);
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    d.heads = d.kv_heads = 1;
    d.head_dim = 8;
    d.tokens = 5;
    d.arithmetic = arithmetic;
    d.level = RONDO_FAST;
    ok(refused(RONDO_ENOTSUP, "level fast is of arithmetic f32", &d), "%s: not at level fast", name);
    d.level = RONDO_STRICT;
    d.gradients = 1;
    ok(refused(RONDO_ENOTSUP, "gradients are computed in arithmetic f32", &d), "%s: no gradients", name);
}

int main(void)
{
    static const int ranks[] = { 1, 2, 3, 4 }, arithmetics[] = { RONDO_ARITHMETIC_F64, RONDO_ARITHMETIC_BF16_HOPPER };
    static const int algorithms[] = { RONDO_PASS_KV, RONDO_PASS_Q, RONDO_ALL_GATHER, RONDO_ALL_TO_ALL, RONDO_REDUCE, RONDO_HALO, RONDO_MESH };
    static const char *const isas[] = { NULL, "scalar", "avx2", NULL };
    const int few = long_tests() ? 1 : 7;
    for (size_t i = 0; i < 2 * (sizeof problems / sizeof *problems); i++) {
        struct problem p = problems[i / 2];
        struct result r, first;
        p.arithmetic = arithmetics[i % 2];
        const char *name = rondo_arithmetic_name(p.arithmetic);
        p.seed = 900 + (uint32_t)i / 2;
        problem_data(&p);
        int err = solve(&p, &(struct setup){ .ranks = 1 }, &first);
        if (!ok(!err, "%s, problem %zu: one rank%s%s", name, i / 2, err ? ": " : "", err ? rondo_error_text() : "")) {
            problem_free(&p);
            continue;
        }
        const double worst = worst_error(&p, &first, NULL);
        ok(worst <= 1.0 && worst > 0.001, "%s, problem %zu: the worst error is %.3f of its bound", name, i / 2, worst);
        is_int(first.info.arithmetic, p.arithmetic, "  which ran");
        const uint64_t want = first.hash;
        int same = 1, agree = 1, ran = 0;
        for (size_t j = 0; j < 4; j++)
            for (int layout = 1; layout <= 4; layout++)
                for (size_t a = 0; a < 7; a++) {
                    if ((i + j + (size_t)layout + 3 * a) % (size_t)few)
                        continue;
                    struct setup s = { .ranks = ranks[j], .layout = layout, .algorithm = algorithms[a], .threads = 1 + (int)a % 2,
                                       .isa = other_device() ? NULL : isas[(j + a) % 4], .strided = layout == 2 };
                    err = solve(&p, &s, &r);
                    if (err == RONDO_ENOTSUP && s.isa) {   /* not this machine's */
                        s.isa = NULL;
                        err = solve(&p, &s, &r);
                    }
                    if (err || r.hash != want || !r.agree)
                        diag("%s, problem %zu, %d ranks, %s, %s: %s", name, i / 2, s.ranks, rondo_layout_name(layout), rondo_algorithm_name(s.algorithm),
                             err ? rondo_error_text() : r.hash != want ? "other bits" : "not the messages that were expected");
                    same &= !err && r.hash == want;
                    agree &= !err && r.agree;
                    ran++;
                    result_free(&r);
                }
        ok(same, "%s, problem %zu: one hash in %d runs", name, i / 2, ran);
        ok(agree, "  and the messages, bytes and pairs that were expected");
        p.arithmetic = RONDO_ARITHMETIC_F32;
        err = solve(&p, &(struct setup){ .ranks = 1 }, &r);
        ok(!err && r.hash != want && memcmp(r.lse, first.lse, (size_t)(p.q_rows * p.heads) * sizeof *r.lse), "  not those of f32");
        result_free(&r);
        result_free(&first);
        problem_free(&p);
    }
    test_refused(RONDO_ARITHMETIC_F64);
    test_refused(RONDO_ARITHMETIC_BF16_HOPPER);
    return done();
}
