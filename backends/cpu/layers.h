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
#include "backends/cpu/num.h"

/* Weights as every instruction set reads them, so that ranks of different kinds may share one copy: panels of
 * 32 outputs, [panel][column][32] in the storage type, the last panel filled up with zeros. In a panel of bf16
 * the outputs lie in the order 0, 16, 1, 17, ..., 15, 31: then the low and the high halves of 32-bit lanes
 * are 16 neighbours each, widened by a shift or a mask. */
#define RONDO_CPU_PANEL 32

/* A panel of Q8: leaf by leaf, group by group, the scales of the 32 outputs as floats, then the group's numbers [column][32]. So a panel of
 * any type is read straight on. */
#define RONDO_CPU_SCALES (RONDO_CPU_PANEL * sizeof(float))

static inline int rondo__cpu_column(int type, int64_t output)
{
    int j = (int)(output % RONDO_CPU_PANEL);
    return type == RONDO_BF16 ? j % 16 * 2 + j / 16 : j;
}

struct rondo_device_linear {
    int64_t in, out, panels;
    int64_t first_column, columns;      /* of x that it has weights for; of all: 0 and in */
    int32_t type, leaves, arithmetic, level;
    int32_t group;                      /* of Q8: columns that share a scale */
    int32_t first_leaf, end_leaf;       /* as many leaves of these as make those columns */
    size_t bytes, panel_bytes;
    void *weights, *block;              /* panels; what was allocated for them */
    /* Of what is no layer but a sum over tokens (gradient_ops.c): its leaves, `in` being all their tokens; else NULL. */
    const struct rondo_token_leaf *tokens;
};

/* C8: leaf g of the sum is [begin(g), begin(g+1)) of its `in` columns. */
static inline int64_t rondo__cpu_leaf_begin(const struct rondo_device_linear *l, int64_t g)
{
    return l->tokens ? l->tokens[g].first - l->tokens[0].first : rondo__linear_leaf_begin(l->in, l->leaves, g);
}

/* How many times the two sums on top are added after leaf g of a job, besides what hangs together at its end. */
static inline int rondo__cpu_leaf_merges(const struct rondo_cpu_linear_job *job, int64_t g)
{
    const struct rondo_device_linear *l = job->linear;
    int merges = 0;
    if (l->tokens)
        return g + 1 < job->leaf1 ? l->tokens[g].merges : 0;
    for (int64_t i = g - job->leaf0; i & 1; i >>= 1)   /* a node's begin has no low bits */
        merges++;
    return merges;
}

/* Where the weights of a leaf begin in a panel. Of Q8 those are the scales of its first group. */
static inline void *rondo__cpu_leaf_at(const struct rondo_device_linear *l, int64_t panel, int32_t leaf)
{
    const int64_t columns = rondo__cpu_leaf_begin(l, leaf) - l->first_column;
    size_t at = (size_t)columns * RONDO_CPU_PANEL * rondo_type_size(l->type);
    if (l->type == RONDO_Q8)
        at += (size_t)rondo__linear_groups(l->in, l->leaves, l->group, l->first_leaf, leaf) * RONDO_CPU_SCALES;
    return (char *)l->weights + (size_t)panel * l->panel_bytes + at;
}

/* From the first weight of a leaf to those of its column i: bytes. Of Q8 to the group's scales, of which i must be the first column. */
static inline size_t rondo__cpu_columns(const struct rondo_device_linear *l, int64_t i)
{
    const size_t numbers = (size_t)i * RONDO_CPU_PANEL * rondo_type_size(l->type);
    return l->type == RONDO_Q8 ? numbers + (size_t)(i / l->group) * RONDO_CPU_SCALES : numbers;
}

/* One weight of a leaf's panel, and its scale where it is Q8. */
static inline float rondo__cpu_weight(const struct rondo_device_linear *l, const void *leaf, int64_t i, int64_t output)
{
    const int column = rondo__cpu_column(l->type, output);
    if (l->type != RONDO_Q8)
        return rondo__element(leaf, i * RONDO_CPU_PANEL + column, l->type);
    const char *group = (const char *)leaf + rondo__cpu_columns(l, i - i % l->group);
    return (float)((const int8_t *)group + RONDO_CPU_SCALES)[i % l->group * RONDO_CPU_PANEL + column] *
           ((const float *)(const void *)group)[column];
}

/* The rows of tile t, and of all before it. */
static inline int64_t rondo__cpu_tile_begin(const struct rondo_cpu_linear_job *job, int64_t t)
{
    return t * job->tile_rows < job->rows ? t * job->tile_rows : job->rows;
}

/* Rows that a tile of so many is computed as; the extra ones are zeros. */
static inline int64_t rondo__cpu_padded(int64_t tile_rows, int64_t rows)
{
    return tile_rows != 12 || rows <= 6 ? rows : (rows + 1) / 2 * 2;
}

/* Levels that a stack of partial sums can have. */
static inline int rondo__cpu_tree_depth(int64_t leaves)
{
    int depth = 1;
    while (leaves >>= 1)
        depth++;
    return depth;
}

/* Multiply-adds after which the caller is polled, some 40 us. */
#define RONDO_CPU_POLL_WORK ((int64_t)1 << 21)

/* C9; logsumexp has the same leaves */
#define RONDO_CPU_NORM_LEAF 512
#define RONDO_CPU_NORM_LANES 16

#endif
