/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The language of backends/cuda/kernel.h on a CPU: each thread of a block is a fiber, and all of them take turns on one OS thread, which change
 * where threads wait for each other. So a kernel's text runs as plain C, thread by thread, in orders that a graphics card may choose and
 * seldom does: what a missing barrier, or a missing wait for a copy, leaves to luck there goes wrong here. Used by the fake driver
 * (fake_cuda.h) and by 2200-fake-cuda.c; cuda_fibers.c has the machinery.
 *
 * A kernel fails as on the card, by a code of the driver's: where threads of a warp are at different barriers, where some of a block have
 * ended and others wait, where a copy's addresses are odd, where memory is touched that is not there. It never hangs for that.
 */
#ifndef RONDO_T_CUDA_FIBERS_H
#define RONDO_T_CUDA_FIBERS_H

#include <stddef.h>
#include <stdint.h>

#define RONDO_FIBER_HIDDEN __attribute__((visibility("hidden")))
#define RONDO_FIBER_WARP 32

/* The thread that runs. */
extern struct rondo_fiber_now {
    int thread, block, blocks;
    char *shared;
} rondo_fiber_now RONDO_FIBER_HIDDEN;

RONDO_FIBER_HIDDEN void rondo_fiber_barrier(int line);
RONDO_FIBER_HIDDEN void rondo_fiber_warp_barrier(int line);
RONDO_FIBER_HIDDEN float rondo_fiber_shuffle(float x, int mask, int line);
RONDO_FIBER_HIDDEN uint32_t rondo_fiber_take(uint32_t x, int lane, int line);
RONDO_FIBER_HIDDEN void rondo_fiber_matrix_load(uint32_t r[4], const void *at, int turned, int line);
RONDO_FIBER_HIDDEN void rondo_fiber_matrix_bf16(float d[4], const uint32_t a[4], const uint32_t b[2], int line);
RONDO_FIBER_HIDDEN void rondo_fiber_matrix_f64(double d[2], double a, double b, int line);
RONDO_FIBER_HIDDEN void rondo_fiber_copy(void *to, const void *from, int bytes, int valid, int line);
RONDO_FIBER_HIDDEN void rondo_fiber_copy_close(void);
RONDO_FIBER_HIDDEN void rondo_fiber_copy_wait(int latest);

/* ---- for the language's user: a list of kernels, and one that runs them ---- */

struct rondo_fiber_kernel {
    const char *name;
    void (*entry)(const void *params);
    size_t bytes;            /* of its parameters */
    int threads, blocks;     /* of its KERNEL() line: most threads of a block, blocks that shall fit a multiprocessor */
};
#define RONDO_FIBER_KERNEL(name, type) { #name, name##_entry, sizeof(struct type), name##_threads, name##_blocks },

struct rondo_fiber_launch {
    const struct rondo_fiber_kernel *kernel;
    const void *params;
    size_t shared_bytes;
    int blocks, threads;
};

/* 0, or the driver's code and a sentence in rondo_fibers_text(). One at a time: the caller has a lock. */
RONDO_FIBER_HIDDEN int rondo_fibers_run(const struct rondo_fiber_launch *launch);
RONDO_FIBER_HIDDEN const char *rondo_fibers_text(void);
/* In which order threads go on behind a barrier, and when copies happen: "up" (as late as may be), "down" (at once), or the seed of a shuffle
 * (some at once, some late). NULL: a fixed seed. false: it is none of these. */
RONDO_FIBER_HIDDEN int rondo_fibers_order(const char *text);
RONDO_FIBER_HIDDEN uint64_t rondo_fibers_draw(uint64_t below);   /* of the same seed; 0 for "up", below - 1 for "down" */
RONDO_FIBER_HIDDEN void rondo_fibers_free(void);
/* Called where memory is touched that may not be, in a kernel or between watch and unwatch: 1 where it may be now. NULL: nobody. */
extern int (*rondo_fibers_fault)(const void *at) RONDO_FIBER_HIDDEN;
RONDO_FIBER_HIDDEN void rondo_fibers_watch(void);
RONDO_FIBER_HIDDEN void rondo_fibers_unwatch(void);

/* ---- the language ---- */

#ifdef RONDO_CUDA_FIBERS

#define KERNEL(name, type, most_threads, fitting_blocks) \
    static void name(const struct type p); \
    static void name##_entry(const void *params) { name(*(const struct type *)params); } \
    enum { name##_threads = (most_threads), name##_blocks = (fitting_blocks) }; \
    static void name(const struct type p)
#define DEVICE static inline __attribute__((always_inline, unused))
#define SHARED(name) char *const name = rondo_fiber_now.shared

#define THREAD (rondo_fiber_now.thread)
#define BLOCK (rondo_fiber_now.block)
#define BLOCKS (rondo_fiber_now.blocks)
#define BARRIER() rondo_fiber_barrier(__LINE__)
#define WARP_BARRIER() rondo_fiber_warp_barrier(__LINE__)
#define SHUFFLE_XOR(x, mask) rondo_fiber_shuffle(x, mask, __LINE__)
#define SHUFFLE_FROM(x, lane) rondo_fiber_take(x, lane, __LINE__)
typedef char *shared_at;
#define SHARED_AT(p) ((char *)(uintptr_t)(p))
#define COPY16_AT(at, bytes, from, valid) rondo_fiber_copy((at) + (bytes), from, 16, (valid) != 0, __LINE__)
#define MATRIX_LOAD(r, at, bytes) rondo_fiber_matrix_load(r, (at) + (bytes), 0, __LINE__)
#define MATRIX_LOAD_TURNED(r, at, bytes) rondo_fiber_matrix_load(r, (at) + (bytes), 1, __LINE__)
#define MATRIX_BF16(d, a, b) rondo_fiber_matrix_bf16(d, a, b, __LINE__)
#define MATRIX_F64(d, a, b) rondo_fiber_matrix_f64(d, a, b, __LINE__)
#define PACK_BF16(low, high) (rondo__to_bf16(low) | (uint32_t)rondo__to_bf16(high) << 16)
/* exact on every machine, by libm where the processor has no instruction for it */
#define NUM_FMA(a, b, c) __builtin_fmaf(a, b, c)
#define NUM_SQRT(x) __builtin_sqrtf(x)
#define NUM_MAX(a, b) __builtin_fmaxf(a, b)
#define NUM_NAN(x) rondo_fiber_nan(x)
#define NUM_F16(bits) rondo__from_f16(bits)
static inline float rondo_fiber_nan(float x)
{
    const uint32_t nan = 0x7fffffff;
    if (x != x)
        __builtin_memcpy(&x, &nan, sizeof x);
    return x;
}

#define COPY16(to, from, valid) rondo_fiber_copy(to, from, 16, (valid) != 0, __LINE__)
#define COPY4(to, from, valid) rondo_fiber_copy(to, from, 4, (valid) != 0, __LINE__)
#define COPY_CLOSE() rondo_fiber_copy_close()
#define COPY_WAIT(n) rondo_fiber_copy_wait(n)
#define KEEP_APART() ((void)0)
/* the compiler's own choice: it makes vectors of loops, not of what they were unrolled to */
#define UNROLL
#define ROLLED
#endif

#endif
