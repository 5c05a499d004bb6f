/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What layers.c and gradient.c share: a linear layer on the card, and counts of blocks.
 */
#ifndef RONDO_CUDA_LAYERS_H
#define RONDO_CUDA_LAYERS_H

#include "backends/cuda/cuda.h"

struct rondo_device_linear {
    struct rondo_device *dev;
    cu_pointer weights, scales;
    int64_t in, out, pitch, columns, first_column, groups;
    int32_t type, leaves, first_leaf, end_leaf, group, level;
    size_t bytes;
};

static inline int64_t rondo__cuda_leaf_begin(const struct rondo_device_linear *l, int64_t g) { return rondo__linear_leaf_begin(l->in, l->leaves, g); }
static inline int64_t rondo__cuda_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* Blocks for so many threads' worth of work, which kernels go over where it is more. */
static inline int64_t rondo__cuda_spread(const struct rondo_device *dev, int64_t threads)
{
    const int64_t most = 32 * (int64_t)dev->multiprocessors, blocks = rondo__cuda_up(threads, CUDA_THREADS);
    return blocks < most ? blocks : most;
}

#endif
