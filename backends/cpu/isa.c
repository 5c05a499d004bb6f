/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Which instruction sets this machine can run, asked of the processor at run time. Built for the baseline:
 * the objects for newer machines are entered only through tables that kernels.c puts together after asking here.
 */
#include "backends/cpu/cpu.h"

#if defined(__x86_64__) || defined(__i386__)
#define X86 1
#include <cpuid.h>
#endif

static const char *const names[RONDO_CPU_ISAS] = { "soft", "scalar", "avx2", "avx512", "neon" };

const char *rondo__cpu_isa_name(int isa) { return isa >= 0 && isa < RONDO_CPU_ISAS ? names[isa] : NULL; }

#ifdef X86

/* The register files that the operating system saves (XCR0); the processor's word on AVX is not enough. */
static unsigned saved_state(void)
{
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

/* 0 none, 1 AVX and FMA, 2 also AVX2 and F16C, 3 also AVX-512 F, BW, VL, DQ */
static int level(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & bit_OSXSAVE) || !(c & bit_AVX) || !(c & bit_FMA))
        return 0;
    bool f16c = (c & bit_F16C) != 0;
    unsigned state = saved_state();
    if ((state & 0x6u) != 0x6u)
        return 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & bit_AVX2) || !f16c)
        return 1;
    unsigned want = bit_AVX512F | bit_AVX512BW | bit_AVX512VL | bit_AVX512DQ;
    return (b & want) == want && (state & 0xe6u) == 0xe6u ? 3 : 2;
}

#else

static int level(void) { return 0; }

#endif

int rondo__cpu_fma_usable(void)
{
#ifdef RONDO_CPU_HAVE_FMA
    return level() >= 1;
#else
    (void)level;
    return 0;
#endif
}

int rondo__cpu_isa_usable(int isa)
{
    switch (isa) {
    case RONDO_CPU_SOFT:
    case RONDO_CPU_SCALAR:
        return 1;
#ifdef RONDO_CPU_HAVE_AVX2
    case RONDO_CPU_AVX2:
        return level() >= 2;
#endif
#ifdef RONDO_CPU_HAVE_AVX512
    case RONDO_CPU_AVX512:
        return level() >= 3;
#endif
#ifdef RONDO_CPU_HAVE_NEON
    case RONDO_CPU_NEON:   /* every 64-bit ARM processor has it */
        return 1;
#endif
    default:
        return 0;
    }
}
