/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the files that compute layers share: packed weights and the sizes of leaves. linear_ops.c and elementwise_ops.c
 * check and share out; the kernels (kernels.h) only compute, on one thread. ref_linear.c and ref_elementwise.c are the
 * definition (contract C8, C9), linear.c and elementwise.c give its bits faster. Beyond the contract's text, in every
 * layer: a NaN is written as the canonical one (RONDO_NAN_BITS).
 */
#ifndef RONDO_CPU_LAYERS_H
#define RONDO_CPU_LAYERS_H

#include "backends/cpu/cpu.h"

/* Weights as every instruction set reads them, so that ranks of different kinds may share one copy: panels of
 * 32 outputs, [panel][column][32] in the storage type, the last panel filled up with zeros. In a panel of bf16
 * the outputs lie in the order 0, 16, 1, 17, ..., 15, 31: then the low and the high halves of 32-bit lanes
 * are 16 neighbours each, widened by a shift or a mask. */
#define RONDO_CPU_PANEL 32

static inline int rondo__cpu_column(int type, int64_t output)
{
    int j = (int)(output % RONDO_CPU_PANEL);
    return type == RONDO_BF16 ? j % 16 * 2 + j / 16 : j;
}

struct rondo_device_linear {
    int64_t in, out, panels;
    int64_t first_column, columns;      /* of x that it has weights for; of all: 0 and in */
    int32_t type, leaves, arithmetic;
    int32_t first_leaf, end_leaf;       /* as many leaves of these as make those columns */
    size_t bytes;
    void *weights;
};

/* C8: leaf g of the sum is [begin(g), begin(g+1)) of its `in` columns. */
static inline int64_t rondo__cpu_leaf_begin(const struct rondo_device_linear *l, int64_t g)
{
    return rondo__linear_leaf_begin(l->in, l->leaves, g);
}

/* The first weight of column k in a panel, in weights. */
static inline int64_t rondo__cpu_panel_at(const struct rondo_device_linear *l, int64_t panel, int64_t k)
{
    return (panel * l->columns + (k - l->first_column)) * RONDO_CPU_PANEL;
}

/* The rows of tile t, and of all before it. */
static inline int64_t rondo__cpu_tile_begin(const struct rondo_cpu_linear_job *job, int64_t t)
{
    return t * job->tile_rows < job->rows ? t * job->tile_rows : job->rows;
}

/* Levels that a stack of partial sums can have. */
static inline int rondo__cpu_tree_depth(int64_t leaves)
{
    int depth = 1;
    while (leaves >>= 1)
        depth++;
    return depth;
}

/* C9; logsumexp has the same leaves */
#define RONDO_CPU_NORM_LEAF 512
#define RONDO_CPU_NORM_LANES 16

#endif
