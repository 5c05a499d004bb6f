/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Choosing between ring pass-KV and ring pass-Q: Algorithms 1 and 5 of arXiv:2411.01783, as pure functions, and the constants
 * with which RONDO_ALGORITHM_AUTO asks Algorithm 5. Called by attention plans and by `rondo plan choose`.
 *
 *   Algorithm 1: pass-KV if T >= N*C*NKV*e / (2*NH*BW)  or  T/(T+P) >= 2*NKV/NH
 *   Algorithm 5: pass-KV if T >= N*C*NKV*e / (2*NH*BW)  or  T/(T+P) >= 2*NKV/NH - 4*T*BW/(N*C*e)
 *
 * The first test asks whether computing hides the transfer of K and V (equation 2), the second whether Q is the smaller message
 * (equation 1), in Algorithm 5 less what the return of partial results costs (equation 5).
 */
#include "plan/plan.h"

/* This build's C and BW for AUTO: FLOP/s of one rank (a few cores) and bytes/s between two ranks (shared memory, or 100 Gbit/s).
 * Only the ratio counts. They are constants, not measurements, because every rank must come to the same answer. */
#define AUTO_COMPUTE 1e11
#define AUTO_BANDWIDTH 1e10

const char *rondo_algorithm_name(int algorithm)
{
    static const char *const names[] = { "auto", "pass-kv", "pass-q", "all-gather", "all-to-all", "reduce", "halo", "mesh" };
    return algorithm >= 0 && algorithm <= RONDO_MESH ? names[algorithm] : NULL;
}

const char *rondo_arithmetic_name(int arithmetic)
{
    static const char *const names[] = { "f32", "bf16-dot", "bf16-tile", "f64", "bf16-hopper" };
    return arithmetic >= 0 && arithmetic <= RONDO_ARITHMETIC_BF16_HOPPER ? names[arithmetic] : NULL;
}

const char *rondo_level_name(int level)
{
    static const char *const names[] = { "strict", "native", "fast" };
    return level >= 0 && level <= RONDO_FAST ? names[level] : NULL;
}

static bool positive(double x)
{
    return x > 0.0 && x <= 1.7976931348623157e308;
}

int rondo_choose(const rondo_heuristic *in, int rule, double thresholds[2])
{
    if (!in)
        return rondo__fail(RONDO_EINVAL, "rondo_choose: the numbers to choose by are NULL");
    for (size_t i = 0; i < sizeof in->spare / sizeof *in->spare; i++)
        if (in->spare[i])
            return rondo__fail(RONDO_ENOTSUP, "rondo_choose: it is given a number that rondo %s does not know; spare must be zero "
                                              "(RONDO_HEURISTIC_INIT), or use a newer library", RONDO_VERSION_STRING);
    if (rule != 1 && rule != 5)
        return rondo__fail(RONDO_EINVAL, "rondo_choose: there is no rule %d; 1 and 5 are Algorithms 1 and 5", rule);
    if (in->tokens < 0 || in->cached < 0 || in->heads < 1 || in->kv_heads < 1)
        return rondo__fail(RONDO_EINVAL, "rondo_choose: %lld new and %lld cached tokens, %lld heads and %lld KV heads: tokens must not be "
                                         "negative, and there must be heads", (long long)in->tokens, (long long)in->cached,
                           (long long)in->heads, (long long)in->kv_heads);
    if (in->ranks < 1 || in->element_bytes < 1 || !positive(in->compute) || !positive(in->bandwidth))
        return rondo__fail(RONDO_EINVAL, "rondo_choose: ranks, element_bytes, compute and bandwidth must be positive and finite");

    double t = (double)in->tokens, p = (double)in->cached, n = in->ranks, e = in->element_bytes;
    double kv = (double)in->kv_heads / (double)in->heads, ratio = in->compute / in->bandwidth;
    double least = n * ratio * kv * e / 2.0;
    double rate = 2.0 * kv;
    if (rule == 5)
        rate -= 4.0 * t / (n * ratio * e);
    if (thresholds) {
        thresholds[0] = least;
        thresholds[1] = rate;
    }
    double miss = t + p > 0.0 ? t / (t + p) : 1.0;
    return t >= least || miss >= rate ? RONDO_PASS_KV : RONDO_PASS_Q;
}

int rondo__choose_algorithm(int64_t tokens, int64_t cached, int64_t heads, int64_t kv_heads, int32_t ranks, int32_t element_bytes,
                            bool one_token_each, const rondo_hardware *hardware)
{
    if (ranks == 1)
        return RONDO_PASS_KV;
    if (one_token_each)
        return RONDO_PASS_Q;
    const rondo_heuristic in = { .tokens = tokens, .cached = cached, .heads = heads, .kv_heads = kv_heads, .ranks = ranks,
                                 .element_bytes = element_bytes, .compute = hardware ? hardware->attention_flops : AUTO_COMPUTE,
                                 .bandwidth = hardware ? hardware->link_bandwidth : AUTO_BANDWIDTH };
    return rondo_choose(&in, 5, NULL);
}
