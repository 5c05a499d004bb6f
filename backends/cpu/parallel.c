/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Threads inside a rank, and the floating-point mode they run in. A loop hands out independent items by an
 * atomic counter; which thread gets which item changes no bit, because no item reads what another one writes.
 */
#define _GNU_SOURCE /* madvise */
#include "backends/cpu/cpu.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#ifdef _OPENMP
#include <omp.h>
#endif
#ifdef __SSE__
#include <xmmintrin.h>
#endif

/* ---- floating-point mode ---- */

#if defined(__SSE__)

/* MXCSR: all exceptions masked, nearest, neither FTZ nor DAZ; the sticky flags (low six bits) do not matter.
 */
#define MODE_MASK 0xffc0u
#define MODE_DEFAULT 0x1f80u
typedef unsigned mode_word;
static mode_word mode_get(void) { return _mm_getcsr(); }
static void mode_set(mode_word m) { _mm_setcsr(m); }
static const char *mode_fault(mode_word m)
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

#define MODE_MASK 0x03f79f07ull /* AHP..FZ16, and the trap enables */
#define MODE_DEFAULT 0ull
typedef uint64_t mode_word;
static mode_word mode_get(void)
{
    uint64_t m;
    __asm__ volatile("mrs %0, fpcr" : "=r"(m));
    return m;
}
static void mode_set(mode_word m) { __asm__ volatile("msr fpcr, %0" : : "r"(m)); }
static const char *mode_fault(mode_word m)
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
#define MODE_MASK 0u
#define MODE_DEFAULT 0u
typedef unsigned mode_word;
static mode_word mode_get(void) { return 0; }
static void mode_set(mode_word m) { (void)m; }
static const char *mode_fault(mode_word m)
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
    const char *fault = mode_fault(mode_get());
    return fault ? rondo__fail(RONDO_EINVAL,
                               "the calling thread's floating-point mode is not the default: %s; restore it "
                               "(fesetenv(FE_DFL_ENV)) before calling",
                               fault)
                 : 0;
}

/* ---- loops ---- */

struct loop {
    _Atomic int64_t next, finished;
    _Atomic int code;
    char sentence[512]; /* of the first failure, written by the thread that set code */
    int64_t items;
    int (*work)(void *arg, int64_t item, int worker);
    void *arg;
    const struct rondo_poll *poll;
};

static void loop_fail(struct loop *l, int code)
{
    int none = 0;
    if (code && atomic_compare_exchange_strong(&l->code, &none, code))
        snprintf(l->sentence, sizeof l->sentence, "%s", rondo_error_text());
}

static void loop_run(struct loop *l, int worker)
{
    mode_word found = mode_get();
    int changed = (found & MODE_MASK) != (MODE_DEFAULT & MODE_MASK);
    if (changed)
        mode_set(MODE_DEFAULT);
    while (!atomic_load_explicit(&l->code, memory_order_relaxed)) {
        int64_t item = atomic_fetch_add_explicit(&l->next, 1, memory_order_relaxed);
        if (item >= l->items)
            break;
        int code = l->work(l->arg, item, worker);
        if (!code && worker == 0 && l->poll)
            code = l->poll->call(l->poll->arg);
        loop_fail(l, code);
        atomic_fetch_add_explicit(&l->finished, 1, memory_order_relaxed);
    }
    /* the calling thread keeps transfers going while the others finish */
    while (worker == 0 && l->poll && !atomic_load(&l->code)) {
        loop_fail(l, l->poll->call(l->poll->arg));
        if (atomic_load(&l->finished) >= l->items)
            break;
        sched_yield();
    }
    if (changed)
        mode_set(found);
}

int rondo__cpu_for(struct rondo_device *dev, int64_t items, int (*work)(void *arg, int64_t item, int worker),
                   void *arg, const struct rondo_poll *poll)
{
    struct loop l = { .items = items, .work = work, .arg = arg, .poll = poll };
    int workers = rondo__cpu_workers(dev, items);
    if (items <= 0)
        return 0;
#ifdef _OPENMP
    if (workers > 1) {
        /* thread 0 of the team is the calling thread; OpenMP may give a smaller team than asked for, never a
         * larger one */
#pragma omp parallel num_threads(workers) shared(l)
        loop_run(&l, omp_get_thread_num());
        return l.code ? rondo__fail(l.code, "%s", l.sentence) : 0; /* it may be another thread's sentence */
    }
#endif
    (void)workers;
    loop_run(&l, 0);
    return l.code;
}

void rondo__cpu_huge(void *memory, size_t bytes)
{
#ifdef MADV_HUGEPAGE
    const uintptr_t large = (uintptr_t)2 << 20;
    uintptr_t from = ((uintptr_t)memory + large - 1) & ~(large - 1),
              to = ((uintptr_t)memory + bytes) & ~(large - 1);
    if (memory && from < to)
        (void)madvise((void *)from, to - from, MADV_HUGEPAGE);
#else
    (void)memory;
    (void)bytes;
#endif
}
