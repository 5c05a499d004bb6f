/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Algorithms 1 and 5 as pure functions: the table of requirements/0, the thresholds' formulas, the paper's own numbers (equations 2
 * and 5 of arXiv:2411.01783), and what is refused.
 */
#include <math.h>

#include "rondo.h"
#include "t/tap.h"

static rondo_heuristic numbers(int64_t tokens, int64_t cached, int64_t heads, int64_t kv_heads, int ranks, int bytes, double compute,
                               double bandwidth)
{
    rondo_heuristic in = RONDO_HEURISTIC_INIT;
    in.tokens = tokens, in.cached = cached;
    in.heads = heads, in.kv_heads = kv_heads;
    in.ranks = ranks, in.element_bytes = bytes;
    in.compute = compute, in.bandwidth = bandwidth;
    return in;
}

int main(void)
{
    /* C/BW = 18,000 FLOP per byte, 8 heads, 2 KV heads, 4 ranks, 2 bytes: T >= 18,000 or a miss rate of 0.5 */
    static const struct {
        int64_t tokens, cached;
        int rule1;
    } rows[] = { { 1280, 126720, RONDO_PASS_Q }, { 6400, 121600, RONDO_PASS_Q }, { 12800, 115200, RONDO_PASS_Q },
                 { 16000, 112000, RONDO_PASS_Q }, { 19200, 108800, RONDO_PASS_KV }, { 64000, 64000, RONDO_PASS_KV },
                 { 128000, 0, RONDO_PASS_KV } };
    double thresholds[2];
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        rondo_heuristic in = numbers(rows[i].tokens, rows[i].cached, 8, 2, 4, 2, 18000.0, 1.0);
        is_int(rondo_choose(&in, 1, thresholds), rows[i].rule1, "Algorithm 1, %lld new of 128000", (long long)rows[i].tokens);
        ok(thresholds[0] == 18000.0 && thresholds[1] == 0.5, "its thresholds");
        /* Algorithm 5: 0.5 - 4T/(4*18000*2); turns at T = 15,000-odd: one row earlier */
        int want = rows[i].tokens >= 16000 ? RONDO_PASS_KV : RONDO_PASS_Q;
        is_int(rondo_choose(&in, 5, thresholds), want, "Algorithm 5, %lld new", (long long)rows[i].tokens);
        ok(fabs(thresholds[1] - (0.5 - 4.0 * (double)rows[i].tokens / 144000.0)) < 1e-12, "its miss rate");
    }

    /* Llama3 405B on 4 hosts, per GPU 800 TFLOP/s and 50 GB/s: T_min = 4000; NKV/NH = 8/128: 0.125 */
    rondo_heuristic llama = numbers(3200, 124800, 128, 8, 4, 2, 800e12, 50e9);
    is_int(rondo_choose(&llama, 1, thresholds), RONDO_PASS_Q, "Llama3 405B, 2.5 %% new: pass-Q");
    ok(fabs(thresholds[0] - 4000.0) < 1e-9 && thresholds[1] == 0.125, "thresholds 4000 tokens and 0.125");
    llama.tokens = 12800;
    llama.cached = 115200;
    is_int(rondo_choose(&llama, 1, NULL), RONDO_PASS_KV, "10 %% new: pass-KV");
    llama.tokens = 128000;
    llama.cached = 0;
    is_int(rondo_choose(&llama, 5, NULL), RONDO_PASS_KV, "all new: pass-KV");
    /* multi-head attention: Q is always the smaller message */
    rondo_heuristic mha = numbers(1000, 0, 16, 16, 2, 4, 1e12, 1e6);
    is_int(rondo_choose(&mha, 1, NULL), RONDO_PASS_Q, "without grouped heads and behind a slow link: pass-Q");
    rondo_heuristic none = numbers(0, 0, 16, 4, 2, 4, 1e12, 1e9);
    is_int(rondo_choose(&none, 5, NULL), RONDO_PASS_KV, "no tokens at all: an answer");

    /* Algorithm 5's second test includes its first (where T is large enough the right side is negative) */
    int included = 1, monotone = 1;
    for (int64_t t = 1; t < 200000; t += 997) {
        rondo_heuristic in = numbers(t, 128000, 32, 8, 8, 2, 3e12, 1e9);
        int one = rondo_choose(&in, 1, thresholds), five = rondo_choose(&in, 5, NULL);
        included &= one != RONDO_PASS_KV || five == RONDO_PASS_KV;
        in.tokens = 2 * t;
        monotone &= five != RONDO_PASS_KV || rondo_choose(&in, 5, NULL) == RONDO_PASS_KV;
    }
    ok(included, "where Algorithm 1 takes pass-KV, so does Algorithm 5");
    ok(monotone, "more new tokens never turn pass-KV into pass-Q");

    is_int(rondo_choose(NULL, 1, NULL), RONDO_EINVAL, "no numbers");
    is_int(rondo_choose(&mha, 2, NULL), RONDO_EINVAL, "no rule 2");
    ok(strstr(rondo_error_text(), "rule 2") != NULL, "%s", rondo_error_text());
    for (int i = 0; i < 8; i++) {
        const int one[8] = { i == 0 ? -1 : 0, i == 1 ? -1 : 0, i != 2, i != 3, i != 4, i != 5, i != 6, i != 7 };
        rondo_heuristic bad = numbers(one[0], one[1], one[2], one[3], one[4], one[5], one[6], one[7]);
        is_int(rondo_choose(&bad, 5, NULL), RONDO_EINVAL, "bad numbers %d", i);
    }
    rondo_heuristic newer = mha;
    newer.spare[5] = 1;
    is_int(rondo_choose(&newer, 5, NULL), RONDO_ENOTSUP, "a number that nobody knows: %s", rondo_error_text());
    rondo_heuristic endless = mha;
    endless.compute = INFINITY;
    is_int(rondo_choose(&endless, 1, NULL), RONDO_EINVAL, "infinite compute");
    endless.compute = NAN;
    is_int(rondo_choose(&endless, 1, NULL), RONDO_EINVAL, "no compute");

    ok(!strcmp(rondo_algorithm_name(RONDO_PASS_KV), "pass-kv") && !strcmp(rondo_algorithm_name(RONDO_PASS_Q), "pass-q") &&
       !strcmp(rondo_algorithm_name(0), "auto") && !strcmp(rondo_algorithm_name(RONDO_MESH), "mesh") &&
           !rondo_algorithm_name(RONDO_MESH + 1) && !rondo_algorithm_name(-1), "names of algorithms");
    ok(!strcmp(rondo_arithmetic_name(0), "f32") && !strcmp(rondo_arithmetic_name(1), "bf16-dot") &&
       !strcmp(rondo_arithmetic_name(2), "bf16-tile") && !strcmp(rondo_arithmetic_name(3), "f64") &&
       !strcmp(rondo_arithmetic_name(4), "bf16-hopper") && !rondo_arithmetic_name(5), "names of arithmetics");
    ok(!strcmp(rondo_level_name(0), "strict") && !strcmp(rondo_level_name(1), "native") && !strcmp(rondo_level_name(2), "fast") &&
       !rondo_level_name(-1), "names of levels");
    return done();
}
