/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What tensor parallelism (tp.c) needs of a linear layer besides its public face: whether it may be executed here, which of the sum's leaves
 * it has, and its leaves' sums as nodes of the tree.
 */
#ifndef RONDO_TENSOR_LINEAR_H
#define RONDO_TENSOR_LINEAR_H

#include "core/internal.h"

/* As it was created, defaults filled in; leaf_begin is the layer's own list. rondo__linear_first() and rondo__linear_end() (core/device.h) say
 * which leaves it has. */
const rondo_linear_desc *rondo__linear_desc(const rondo_linear *linear);

/* Inputs that it has: a row of x. Of a part without leaves 0. */
int64_t rondo__linear_columns(const rondo_linear *linear);

/* 0, or a code: loaded, and on a device that ctx computes on or one that packs alike. */
int rondo__linear_usable(const rondo_linear *linear, const rondo_context *ctx, const char *function);

/* Puts into a stream of ctx's device: the maximal aligned nodes of the leaves [first, first + leaves), some or all of those that the layer has
 * (rondo__linear_nodes() of the whole sum's leaves many; none: nothing happens), by rising leaf, node i to nodes + i * node_stride, [rows][out]
 * dense. x is [rows] rows of the columns of these leaves. x and nodes are the device's; no check but the device's own. poll may be NULL. */
int rondo__linear_run_nodes(const rondo_linear *linear, rondo_context *ctx, struct rondo_stream *stream, int32_t first, int32_t leaves,
                            int64_t rows, const float *x, int64_t x_stride, float *nodes, int64_t node_stride, const struct rondo_poll *poll);

/* The same of the layer's gradient to its inputs: dy has the columns of the leaves [first, first + leaves) of a sum over `outputs` outputs in
 * `total` leaves, which are all outputs of the layer. */
int rondo__linear_run_dx(const rondo_linear *linear, rondo_context *ctx, struct rondo_stream *stream, const struct rondo_linear_dx_run *run,
                         const struct rondo_poll *poll);

/* Of arrays [rows][columns] of floats: whether one with this stride can be addressed; whether x and y share no float. */
bool rondo__linear_fits(int64_t rows, int64_t columns, int64_t stride);
bool rondo__linear_apart(const float *x, int64_t x_stride, int64_t in, int64_t x_rows, const float *y, int64_t y_stride, int64_t out,
                         int64_t y_rows);

#endif
