/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the files of the delta rule share. ref_delta.c is the definition (contract C14), delta.c gives its bits in vectors, delta_ops.c shares
 * blocks out over threads; ref_delta_backward.c, delta_backward.c and delta_backward_ops.c do the same for its gradients (C15), ref_delta_chunk.c
 * and delta_chunk.c for the same rule in chunks of tokens (C16). S is a state, of key_dim rows and as many columns as a block has; a token's decay
 * a, key k and query q have one number for each row, its value one for each column:
 *
 *     S' = a S          u = beta (v - k S')          S = S' + k u          out = scale (q S)
 */
#ifndef RONDO_CPU_DELTA_H
#define RONDO_CPU_DELTA_H

#include <stdatomic.h>

#include "backends/cpu/kernels.h"
#include "backends/cpu/num.h"

/* A sum over rows is so many chains, of the rows d with d % CHAINS = c each, joined as (0 + 2) + (1 + 3). One alone would make its additions
 * wait for each other on any machine, and a graphics card takes one for each of so many threads. */
#define RONDO_CPU_DELTA_CHAINS 4
/* Under the root of the L2 norm. */
#define RONDO_CPU_DELTA_EPS 1e-6f
/* Lanes of its sum of squares (C9); key_dim is at most one of its leaves. */
#define RONDO_CPU_DELTA_LANES 16

/* Tokens of a block of a chunk, and the most that a chunk has. */
#define RONDO_CPU_DELTA_BLOCK 16
#define RONDO_CPU_DELTA_CHUNK 64

/* Every so many tokens from its first one on a map loses elements below this, which no sum would show; gradual underflow keeps them for
 * ever otherwise, at a hundredth of the speed. */
#define RONDO_CPU_DELTA_CLEAN 64
#define RONDO_CPU_DELTA_TINY 0x1p-100f

/* Columns that are walked over together where one token is all that a state gets: a line of a cache. */
#define RONDO_CPU_DELTA_STEP 16

/* Such a state is changed where it lies, and needs no room. */
static inline bool rondo__cpu_delta_in_place(const struct rondo_delta_task *t)
{
    return t->rows == 1 && t->kind == RONDO_DELTA_FORWARD && t->from && t->to && t->columns % RONDO_CPU_DELTA_STEP == 0;
}

/* So much of a task is done, in columns of tokens, as its run's work counts. */
static inline void rondo__cpu_delta_tell(const struct rondo_poll *poll, int64_t rows, int64_t columns)
{
    if (poll && poll->work)
        atomic_fetch_add_explicit(&poll->work->done, (uint64_t)(rows * columns), memory_order_relaxed);
}

/* Columns of a leaf of a gradient's sum over them (C15); its lanes are as many as those of a norm. */
#define RONDO_CPU_DELTA_LEAF 64

/* key_dim, and the numbers of a leaf's sums, with room for whole vectors. */
static inline int64_t rondo__cpu_delta_padded(int64_t dim) { return (dim + RONDO_CPU_DELTA_LANES - 1) / RONDO_CPU_DELTA_LANES * RONDO_CPU_DELTA_LANES; }
static inline int64_t rondo__cpu_delta_sums(int64_t dim) { return 3 * rondo__cpu_delta_padded(dim) + RONDO_CPU_DELTA_LANES; }

/* From a token to the next one between calls of poll, some 40 us: tokens of so many columns. */
static inline int64_t rondo__cpu_delta_poll(const struct rondo_delta_task *t)
{
    const int64_t each = 3 * (int64_t)t->form->key_dim * t->columns;
    return ((int64_t)1 << 21) / (each < 1 ? 1 : each) + 1;
}

#endif
