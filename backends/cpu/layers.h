/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the files that compute layers share: packed weights, and the tables of kernels of which each
 * instruction set has one. linear_ops.c and elementwise_ops.c check, share out and allocate; the kernels only
 * compute, on one thread. ref_linear.c and ref_elementwise.c are the definition (contract C8, C9), linear.c
 * and elementwise.c give its bits faster. Beyond the contract's text, in every layer: a NaN is written as the
 * canonical one (RONDO_NAN_BITS).
 */
#ifndef RONDO_CPU_LAYERS_H
#define RONDO_CPU_LAYERS_H

#include "backends/cpu/cpu.h"

/* ---- linear ---- */

/* Weights as every instruction set reads them, so that ranks of different kinds may share one copy: panels of
 * 32 outputs, [panel][in][32] in the storage type, the last panel filled up with zeros. In a panel of bf16
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
    int32_t type, leaves;
    size_t bytes;
    void *weights;
};

/* C8: leaf g of the sum is [begin(g), begin(g+1)). in is at most INT32_MAX. */
static inline int64_t rondo__cpu_leaf_begin(const struct rondo_device_linear *l, int64_t g)
{
    return g * l->in / l->leaves;
}

/* Levels that a stack of partial sums can have. */
static inline int rondo__cpu_tree_depth(int64_t leaves)
{
    int depth = 1;
    while (leaves >>= 1)
        depth++;
    return depth;
}

/* Some rows of x against a linear, in tiles of tile_rows; the last one may have fewer. */
struct rondo_cpu_linear_job {
    const struct rondo_device_linear *linear;
    int64_t rows, tiles, tile_rows;
    const float *x;
    float *y, *packed;          /* packed: what pack() made of x; tile t begins at t * tile_rows * in */
    int64_t x_stride, y_stride;
    const float *bias;
    int add;
};

static inline int64_t rondo__cpu_tile_begin(const struct rondo_cpu_linear_job *job, int64_t t)
{
    return t * job->tile_rows < job->rows ? t * job->tile_rows : job->rows;
}

struct rondo_cpu_linear {
    int64_t tile_rows;
    void (*pack)(const struct rondo_cpu_linear_job *job, int64_t tile);   /* NULL: x is read where it lies */
    /* scratch of one worker for so many tiles; false: too large */
    bool (*bytes)(const struct rondo_device_linear *linear, int64_t tiles, size_t *bytes);
    void (*run)(const struct rondo_cpu_linear_job *job, int64_t panel0, int64_t panel1, int64_t tile0,
                int64_t tile1, void *scratch);
};
extern const struct rondo_cpu_linear rondo__cpu_linear_soft, rondo__cpu_linear_fma, rondo__cpu_linear_avx2,
    rondo__cpu_linear_avx512;
const struct rondo_cpu_linear *rondo__cpu_linear_kernels(const struct rondo_device *dev);

/* ---- element by element ---- */

#define RONDO_CPU_NORM_LEAF 512   /* C9; logsumexp has the same leaves */
#define RONDO_CPU_NORM_LANES 16

struct rondo_cpu_elementwise {
    void (*rmsnorm)(int64_t rows, int64_t dim, const float *x, const float *weight, float eps, float *y);
    void (*rope)(int64_t rows, int64_t heads, int64_t dim, float *x, int64_t row_stride, int64_t head_stride,
                 const float *table);
    void (*swiglu)(int64_t count, const float *gate, const float *up, float *y);
    void (*convert)(int64_t count, int from_type, const void *from, int to_type, void *to);
    void (*logsumexp)(int64_t rows, int64_t dim, const float *x, int64_t x_stride, double *out);
};
extern const struct rondo_cpu_elementwise rondo__cpu_elementwise_soft, rondo__cpu_elementwise_fma,
    rondo__cpu_elementwise_avx2, rondo__cpu_elementwise_avx512;
const struct rondo_cpu_elementwise *rondo__cpu_elementwise_kernels(const struct rondo_device *dev);

#endif
