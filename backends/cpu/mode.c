/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The floating-point mode: round to nearest, subnormals kept, nothing traps. A caller in another mode is refused
 * (device.c), and threads that compute are put into this one for as long as they do (parallel.c).
 */
#include "backends/cpu/cpu.h"

#ifdef __SSE__
#include <xmmintrin.h>
#endif

#if defined(__SSE__)

/* MXCSR: all exceptions masked, nearest, neither FTZ nor DAZ; the sticky flags (low six bits) do not matter.
 */
#define MASK 0xffc0u
#define DEFAULT 0x1f80u
typedef unsigned word;
static word get(void) { return _mm_getcsr(); }
static void set(word m) { _mm_setcsr(m); }
static const char *fault_of(word m)
{
    if (m & 0x6000u)
        return "rounding is not to nearest";
    if (m & 0x8000u)
        return "results below the normal range are flushed to zero (FTZ)";
    if (m & 0x40u)
        return "operands below the normal range are taken as zero (DAZ)";
    return (m & 0x1f80u) != 0x1f80u ? "floating-point exceptions trap" : NULL;
}

#elif defined(__aarch64__)

#define MASK 0x03f79f07ull /* AHP..FZ16, and the trap enables */
#define DEFAULT 0ull
typedef uint64_t word;
static word get(void)
{
    uint64_t m;
    __asm__ volatile("mrs %0, fpcr" : "=r"(m));
    return m;
}
static void set(word m) { __asm__ volatile("msr fpcr, %0" : : "r"(m)); }
static const char *fault_of(word m)
{
    if (m & (3ull << 22))
        return "rounding is not to nearest";
    if (m & ((1ull << 24) | (1ull << 19)))
        return "values below the normal range are flushed to zero (FZ)";
    return m & 0x9f00ull ? "floating-point exceptions trap" : NULL;
}

#else

/* No portable name for the register: judge by results. Worker threads start in the default mode by their
 * system's rules. */
#define MASK 0u
#define DEFAULT 0u
typedef unsigned word;
static word get(void) { return 0; }
static void set(word m) { (void)m; }
static const char *fault_of(word m)
{
    volatile float one = 1.0f, tiny = 0x1p-126f, half = 0.5f, ulp = 0x1p-24f, more = 0x1.8p-24f;
    (void)m;
    if (one + ulp != 1.0f || one + more != 1.0f + 0x1p-23f || -one - ulp != -1.0f ||
        -one - more != -1.0f - 0x1p-23f)
        return "rounding is not to nearest";
    return tiny * half == 0.0f ? "values below the normal range are flushed to zero" : NULL;
}

#endif

int rondo__cpu_check_mode(void)
{
    const char *fault = fault_of(get());
    return fault ? rondo__fail(RONDO_EINVAL,
                               "the calling thread's floating-point mode is not the default: %s; restore it "
                               "(fesetenv(FE_DFL_ENV)) before calling",
                               fault)
                 : 0;
}

uint64_t rondo__cpu_mode_enter(void)
{
    word found = get();
    if ((found & MASK) != (DEFAULT & MASK))
        set(DEFAULT);
    return found;
}

void rondo__cpu_mode_leave(uint64_t found)
{
    if (((word)found & MASK) != (DEFAULT & MASK))
        set((word)found);
}
