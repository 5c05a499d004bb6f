/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The language that the kernels are written in: the part of CUDA's C that C is too, with what C lacks as macros. The same text is compiled
 *   by clang to PTX, without any header of CUDA's (-nocudainc -nocudalib),
 *   by nvcc, where configure was told to use it,
 *   as plain C on fibers (t/cuda_fibers.h), so that kernels run on any machine, thread by thread.
 * A kernel names every rounding itself: NUM_FMA, and plain operators, which no compiler here may contract or approximate (the flags in
 * backends/Makefile.inc, where PTX that flushes or approximates fails the build).
 */
#ifndef RONDO_CUDA_KERNEL_H
#define RONDO_CUDA_KERNEL_H

#if defined(RONDO_CUDA_FIBERS)
#include "t/cuda_fibers.h"
#else

#ifndef __CUDACC__
#define __global__ __attribute__((global))
#define __device__ __attribute__((device))
#define __host__ __attribute__((host))
#define __shared__ __attribute__((shared))
#define __launch_bounds__(...) __attribute__((launch_bounds(__VA_ARGS__)))
#endif

/* A kernel of `threads` threads a block, of which at least `blocks` are wanted on a multiprocessor. Its parameters are a struct, p. */
#define KERNEL(name, type, threads, blocks) extern "C" __global__ void __launch_bounds__(threads, blocks) name(const struct type p)
#define DEVICE static __device__ __attribute__((always_inline)) inline
/* All shared memory of the block, as large as the launch says */
#define SHARED(name) \
    extern __shared__ __attribute__((aligned(16))) char rondo_cuda_shared[]; \
    char *const name = rondo_cuda_shared

#if defined(__clang__) && !defined(__NVCC__)
#define THREAD ((int)__nvvm_read_ptx_sreg_tid_x())
#define BLOCK ((int)__nvvm_read_ptx_sreg_ctaid_x())
#define BLOCKS ((int)__nvvm_read_ptx_sreg_nctaid_x())
#define BARRIER() __nvvm_bar_sync(0)
#define WARP_BARRIER() __nvvm_bar_warp_sync(0xffffffffu)
#define SHUFFLE_XOR(x, mask) __nvvm_shfl_sync_bfly_f32(0xffffffffu, x, mask, 31)
#define NUM_FMA(a, b, c) __nvvm_fma_rn_f(a, b, c)
#define NUM_SQRT(x) __nvvm_sqrt_rn_f(x)
#define NUM_MAX(a, b) __nvvm_fmax_f(a, b)
#else
#define THREAD ((int)threadIdx.x)
#define BLOCK ((int)blockIdx.x)
#define BLOCKS ((int)gridDim.x)
#define BARRIER() __syncthreads()
#define WARP_BARRIER() __syncwarp()
#define SHUFFLE_XOR(x, mask) __shfl_xor_sync(0xffffffffu, x, mask)
#define NUM_FMA(a, b, c) __fmaf_rn(a, b, c)
#define NUM_SQRT(x) __fsqrt_rn(x)
#define NUM_MAX(a, b) fmaxf(a, b)
#endif

/* NUM_MAX: the one that is no NaN, where one is. NUM_NAN: x, where a NaN is the one that all arithmetic of a card gives: 0x7fffffff. */
#define NUM_NAN(x) (x)

/* Copies from global to shared memory that go on while the thread computes: 16 or 4 bytes, both addresses multiples of that; where `valid` is
 * 0 zeros are written and nothing is read. COPY_CLOSE() closes a group of them, COPY_WAIT(n) waits until at most the latest n groups
 * are under way; other threads see them after a BARRIER() behind that. */
static __device__ __attribute__((always_inline)) inline unsigned rondo_cuda_shared_address(const void *p)
{
    unsigned at;
    asm("{ .reg .u64 a; cvta.to.shared.u64 a, %1; cvt.u32.u64 %0, a; }" : "=r"(at) : "l"(p));
    return at;
}
#define COPY16(to, from, valid) \
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(rondo_cuda_shared_address(to)), "l"(from), "r"((valid) ? 16 : 0) : "memory")
#define COPY4(to, from, valid) \
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(rondo_cuda_shared_address(to)), "l"(from), "r"((valid) ? 4 : 0) : "memory")
#define COPY_CLOSE() asm volatile("cp.async.commit_group;" ::: "memory")
#define COPY_WAIT(n) asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory")
#define UNROLL _Pragma("unroll")
#define ROLLED _Pragma("unroll 1")
#endif

struct quad { float a, b, c, d; } __attribute__((aligned(16)));   /* moved by one instruction */

#endif
