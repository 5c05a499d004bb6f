/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A checker of what kernels touch (fake_check.c), told by cuda_fibers.c where threads are. Only in the fake driver's second build (FAKE_CHECKED);
 * in the others these are nothing.
 */
#ifndef RONDO_T_FAKE_CHECK_H
#define RONDO_T_FAKE_CHECK_H

#include "t/cuda_fibers.h"

#ifdef FAKE_CHECKED
RONDO_FIBER_HIDDEN void fake_check_launch(const struct rondo_fiber_launch *launch);
RONDO_FIBER_HIDDEN void fake_check_block(void);               /* it begins: nothing of the one before is left in shared memory */
RONDO_FIBER_HIDDEN void fake_check_barrier(void);             /* all of the block have met */
RONDO_FIBER_HIDDEN void fake_check_warp(int warp);            /* all of a warp have */
/* A copy begins, and is over: what it writes is nobody else's in between. */
RONDO_FIBER_HIDDEN void fake_check_copy(const void *to, const void *from, int bytes, int valid, const void *pc);
RONDO_FIBER_HIDDEN void fake_check_copied(const void *to, int bytes);
RONDO_FIBER_HIDDEN void fake_check_load(const void *from, int bytes, const void *pc);   /* by the matrix unit's own instruction */
/* The thread that runs cannot go on: cuda_fibers.c. */
RONDO_FIBER_HIDDEN void rondo_fiber_fail(int code, const char *sentence) __attribute__((noreturn));
/* It is on the stack of the thread that runs. */
RONDO_FIBER_HIDDEN int rondo_fiber_own(const void *at);
/* How far into a block of the card's memory it is, and how large that is; 0: it is none. fake_cuda_memory.c */
RONDO_FIBER_HIDDEN int fake_block_at(const void *at, size_t *into, size_t *bytes, int *pinned);
#else
#define fake_check_launch(launch) ((void)(launch))
#define fake_check_block() ((void)0)
#define fake_check_barrier() ((void)0)
#define fake_check_warp(warp) ((void)(warp))
#define fake_check_copy(to, from, bytes, valid, pc) ((void)0)
#define fake_check_copied(to, bytes) ((void)0)
#define fake_check_load(from, bytes, pc) ((void)0)
#endif

#endif
