/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The ceiling of arithmetic: fused multiply-adds between registers and nothing else, in as many independent chains as hide their
 * latency, once per instruction set. Written in assembly because a compiler may prove that the result is not needed.
 */
#include "cli/bench.h"

#include <string.h>

static const float operands[2] = { 1.0f, 1e-9f };

#if defined(__x86_64__) && defined(__GNUC__)

#define FMA_ZMM(r) "vfmadd231ps %%zmm30, %%zmm31, %%zmm" #r "\n\t"
#define FMA_YMM(r) "vfmadd231ps %%ymm14, %%ymm15, %%ymm" #r "\n\t"
#define FMA_SS(r) "vfmadd231ss %%xmm14, %%xmm15, %%xmm" #r "\n\t"
#define TWELVE(F) F(0) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(8) F(9) F(10) F(11)
#define TWELVE_MORE(F) F(12) F(13) F(14) F(15) F(16) F(17) F(18) F(19) F(20) F(21) F(22) F(23)
#define LOW_REGISTERS "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"

__attribute__((target("avx512f"))) static double loop_avx512(int64_t rounds)
{
    int64_t n = rounds;
    __asm__ volatile("vbroadcastss (%1), %%zmm30\n\tvbroadcastss 4(%1), %%zmm31\n"
                     "1:\n\t" TWELVE(FMA_ZMM) TWELVE_MORE(FMA_ZMM) "dec %0\n\tjnz 1b\n\tvzeroupper\n"
                     : "+r"(n) : "r"(operands)
                     : "cc", "memory", LOW_REGISTERS, "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", "xmm22", "xmm23", "xmm30", "xmm31");
    return (double)rounds * 24.0 * 16.0 * 2.0;
}

static double loop_avx2(int64_t rounds)
{
    int64_t n = rounds;
    __asm__ volatile("vbroadcastss (%1), %%ymm14\n\tvbroadcastss 4(%1), %%ymm15\n"
                     "1:\n\t" TWELVE(FMA_YMM) "dec %0\n\tjnz 1b\n\tvzeroupper\n"
                     : "+r"(n) : "r"(operands) : "cc", "memory", LOW_REGISTERS);
    return (double)rounds * 12.0 * 8.0 * 2.0;
}

static double loop_scalar_fma(int64_t rounds)
{
    int64_t n = rounds;
    __asm__ volatile("vmovss (%1), %%xmm14\n\tvmovss 4(%1), %%xmm15\n"
                     "1:\n\t" TWELVE(FMA_SS) "dec %0\n\tjnz 1b\n\tvzeroupper\n"
                     : "+r"(n) : "r"(operands) : "cc", "memory", LOW_REGISTERS);
    return (double)rounds * 12.0 * 2.0;
}

#elif defined(__i386__) && defined(__GNUC__)

/* Eight registers, all of them sums: x = x * m + x, where m comes from the cache. */
#define EIGHT(F) F(0) F(1) F(2) F(3) F(4) F(5) F(6) F(7)
#define SET(kind, r) "vbroadcastss %1, %%" #kind #r "\n\t"
#define STEP(kind, width, r) "vfmadd132" #width " %2, %%" #kind #r ", %%" #kind #r "\n\t"
#define ZMM_SET(r) SET(zmm, r)
#define YMM_SET(r) SET(ymm, r)
#define SS_SET(r) "vmovss %1, %%xmm" #r "\n\t"
#define ZMM_STEP(r) STEP(zmm, ps, r)
#define YMM_STEP(r) STEP(ymm, ps, r)
#define SS_STEP(r) STEP(xmm, ss, r)
#define LOOP(what, n) \
    __asm__ volatile(EIGHT(what##_SET) "\n1:\n\t" EIGHT(what##_STEP) "decl %0\n\tjnz 1b\n\tvzeroupper\n" \
                     : "+r"(n) : "m"(operands[0]), "m"(small) : "cc", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7")
#define TINY 1e-9f, 1e-9f, 1e-9f, 1e-9f
static const struct { _Alignas(64) float of[16]; } small = { { TINY, TINY, TINY, TINY } };

/* As many rounds at once as a register counts. */
static int32_t some_of(int64_t rounds) { return rounds < INT32_MAX ? (int32_t)rounds : INT32_MAX; }

__attribute__((target("avx512f"))) static double loop_avx512(int64_t rounds)
{
    for (int64_t left = rounds; left > 0; left -= some_of(left)) {
        int32_t n = some_of(left);
        LOOP(ZMM, n);
    }
    return (double)rounds * 8.0 * 16.0 * 2.0;
}

static double loop_avx2(int64_t rounds)
{
    for (int64_t left = rounds; left > 0; left -= some_of(left)) {
        int32_t n = some_of(left);
        LOOP(YMM, n);
    }
    return (double)rounds * 8.0 * 8.0 * 2.0;
}

static double loop_scalar_fma(int64_t rounds)
{
    for (int64_t left = rounds; left > 0; left -= some_of(left)) {
        int32_t n = some_of(left);
        LOOP(SS, n);
    }
    return (double)rounds * 8.0 * 2.0;
}

#elif defined(__aarch64__) && defined(__GNUC__)

#define FMLA(r) "fmla v" #r ".4s, v30.4s, v31.4s\n\t"
#define TWELVE(F) F(0) F(1) F(2) F(3) F(4) F(5) F(6) F(7) F(16) F(17) F(18) F(19)
#define TWELVE_MORE(F) F(20) F(21) F(22) F(23) F(24) F(25) F(26) F(27) F(28) F(29) F(8) F(9)

static double loop_neon(int64_t rounds)
{
    int64_t n = rounds;
    __asm__ volatile("ld1r {v30.4s}, [%1]\n\tld1r {v31.4s}, [%2]\n"
                     "1:\n\t" TWELVE(FMLA) TWELVE_MORE(FMLA) "subs %0, %0, #1\n\tb.ne 1b\n"
                     : "+r"(n) : "r"(operands), "r"(operands + 1)
                     : "cc", "memory", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v16", "v17", "v18", "v19", "v20", "v21", "v22",
                       "v23", "v24", "v25", "v26", "v27", "v28", "v29", "v30", "v31");
    return (double)rounds * 24.0 * 4.0 * 2.0;
}

#endif

/* Any machine: single numbers, in as many chains as hide the latency of a multiplication and an addition. */
static double loop_portable(int64_t rounds)
{
    enum { CHAINS = 16 };
    float a[CHAINS] = { 0 };
    volatile float keep = 0;
    const volatile float *from = operands;
    const float x = from[0], y = from[1];
    for (int64_t i = 0; i < rounds; i++) {
#pragma GCC unroll 16   /* else they lie in memory */
        for (int j = 0; j < CHAINS; j++)
#ifdef __FP_FAST_FMAF
            a[j] = __builtin_fmaf(a[j], x, y);
#else
            a[j] = a[j] * x + y;
#endif
    }
    for (int j = 0; j < CHAINS; j++)
        keep = keep + a[j];
    return (double)rounds * CHAINS * 2.0;
}

double fma_loop(const char *isa, int64_t rounds)
{
#if (defined(__x86_64__) || defined(__i386__)) && defined(__GNUC__)
    if (!strcmp(isa, "avx512") && __builtin_cpu_supports("avx512f"))
        return loop_avx512(rounds);
    if (!strcmp(isa, "avx2") && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return loop_avx2(rounds);
    if (__builtin_cpu_supports("fma"))
        return loop_scalar_fma(rounds);
#elif defined(__aarch64__) && defined(__GNUC__)
    if (!strcmp(isa, "neon"))
        return loop_neon(rounds);
#else
    (void)isa;
#endif
    return loop_portable(rounds);
}
