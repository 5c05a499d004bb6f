/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The kernels of backends/cuda as plain C on fibers (cuda_fibers.h), for the fake driver. On x86 built twice, once with FMA and AVX2
 * (FAKE_WITH_AVX2), which is ten times as fast and has the same results; the other one is told of it (FAKE_HAVE_AVX2), and is seldom used then.
 *
 * A kernel is one function with all that it calls in it, of which compilers are slow to make the best: this much is made of it in a third of the time,
 * and of what is seldom used nothing at all in a fifth of that.
 */
#if defined(__OPTIMIZE__) && !defined(__clang__)
#if defined(FAKE_WITH_AVX2) || defined(__SANITIZE_THREAD__)
#pragma GCC optimize("O1", "tree-vectorize")   /* of a thread's tile it makes vectors */
#elif defined(FAKE_HAVE_AVX2)
#pragma GCC optimize("O0")
#endif
#endif
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"   /* all in one function, which gcc cannot follow */
#endif
#define RONDO_CUDA_FIBERS
#include "backends/cuda/kernels.cu"
#include "t/fake_cuda.h"

static const struct rondo_fiber_kernel kernels[] = { RONDO_CUDA_KERNELS(RONDO_FIBER_KERNEL) };

#ifdef FAKE_WITH_AVX2
extern FAKE_HIDDEN const struct rondo_fiber_kernel *const rondo_fake_kernels_avx2;
const struct rondo_fiber_kernel *const rondo_fake_kernels_avx2 = kernels;
#else
#ifdef FAKE_HAVE_AVX2
extern FAKE_HIDDEN const struct rondo_fiber_kernel *const rondo_fake_kernels_avx2;
#endif

__attribute__((no_sanitize("thread"))) const struct rondo_fiber_kernel *rondo_fake_kernels(int *count)   /* no kernel */
{
    *count = (int)(sizeof kernels / sizeof kernels[0]);
#ifdef FAKE_HAVE_AVX2
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return rondo_fake_kernels_avx2;
#endif
    return kernels;
}
#endif
