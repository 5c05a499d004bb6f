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
#define SHUFFLE_FROM(x, lane) (unsigned)__nvvm_shfl_sync_idx_i32(0xffffffffu, (int)(x), lane, 31)
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
#define SHUFFLE_FROM(x, lane) __shfl_sync(0xffffffffu, x, lane)
#define NUM_FMA(a, b, c) __fmaf_rn(a, b, c)
#define NUM_SQRT(x) __fsqrt_rn(x)
#define NUM_MAX(a, b) fmaxf(a, b)
#endif

/* NUM_MAX: the one that is no NaN, where one is. NUM_NAN: x, where a NaN is the one that all arithmetic of a card gives: 0x7fffffff. NUM_F16: the number
 * that 16 bits of F16 are, exact, subnormals too; of a NaN only that it is one. */
#define NUM_NAN(x) (x)
static __device__ __attribute__((always_inline)) inline float rondo_cuda_f16(unsigned short bits)
{
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}
#define NUM_F16(bits) rondo_cuda_f16(bits)

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
/* ---- the matrix unit; all threads of a warp together, lane = thread % 32, g = lane / 4, t = lane % 4 ----
 * SHARED_AT: the address of something in shared memory as these instructions and COPY16_AT take it, made here and now, so that what lies at a distance that is
 * known when this is compiled is that instruction's business; else compilers make each address beforehand and have no registers left.
 * MATRIX_LOAD: four matrices of 8 rows of 16 bytes from shared memory, `bytes` behind where the thread shows that row lane % 8 of matrix lane / 8 begins; it
 * gets of each the 32 bits at row g, columns 2 t and 2 t + 1, of numbers of 16 bits; TURNED: rows 2 t and 2 t + 1 of column g.
 * MATRIX_BF16: d = d + a b, for 16 by 16 a, 16 by 8 b, of BF16: a[0] row g, columns 2 t, 2 t + 1; a[1] row g + 8; a[2] columns 2 t + 8, 2 t + 9; a[3] both;
 * b[0] rows 2 t, 2 t + 1 of column g; b[1] rows 2 t + 8, 2 t + 9; d[0], d[1] row g, columns 2 t, 2 t + 1; d[2], d[3] row g + 8.
 * MATRIX_F64: d = d + a b, for 8 by 4 a, 4 by 8 b, of double, each sum a chain of fused multiply-adds by rising index: a row g, column t; b row t of column
 * g; d row g, columns 2 t, 2 t + 1.
 * PACK_BF16: two floats rounded to nearest even, the first in the lower half. SHUFFLE_FROM: the x, 32 bits, of another lane. */
typedef unsigned shared_at;
static __device__ __attribute__((always_inline)) inline shared_at rondo_cuda_shared_now(const void *p)
{
    shared_at at;
    asm volatile("{ .reg .u64 a; cvta.to.shared.u64 a, %1; cvt.u32.u64 %0, a; }" : "=r"(at) : "l"(p));
    return at;
}
#define SHARED_AT(p) rondo_cuda_shared_now(p)
#define COPY16_AT(at, bytes, from, valid) \
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"((at) + (bytes)), "l"(from), "r"((valid) ? 16 : 0) : "memory")
#define MATRIX_LOAD_AS(how, r, at, bytes) \
    asm volatile("ldmatrix.sync.aligned.m8n8.x4" how ".shared.b16 {%0, %1, %2, %3}, [%4];" \
                 : "=r"((r)[0]), "=r"((r)[1]), "=r"((r)[2]), "=r"((r)[3]) : "r"((at) + (bytes)))
#define MATRIX_LOAD(r, at, bytes) MATRIX_LOAD_AS("", r, at, bytes)
#define MATRIX_LOAD_TURNED(r, at, bytes) MATRIX_LOAD_AS(".trans", r, at, bytes)
#define MATRIX_BF16(d, a, b) \
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
        : "+f"((d)[0]), "+f"((d)[1]), "+f"((d)[2]), "+f"((d)[3]) : "r"((a)[0]), "r"((a)[1]), "r"((a)[2]), "r"((a)[3]), "r"((b)[0]), "r"((b)[1]))
#define MATRIX_F64(d, a, b) \
    asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0, %1}, {%2}, {%3}, {%0, %1};" : "+d"((d)[0]), "+d"((d)[1]) : "d"(a), "d"(b))
static __device__ __attribute__((always_inline)) inline unsigned rondo_cuda_pack_bf16(float low, float high)
{
    unsigned both;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
    return both;
}
#define PACK_BF16(low, high) rondo_cuda_pack_bf16(low, high)
#define COPY_WAIT(n) asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory")
#define KEEP_APART() asm volatile("// apart")      /* the end of a branch that no compiler joins with the others' */
#define UNROLL _Pragma("unroll")
#define ROLLED _Pragma("unroll 1")
#endif

struct quad { float a, b, c, d; } __attribute__((aligned(16)));   /* moved by one instruction */

#endif
