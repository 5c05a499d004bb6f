/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Copies between whole arrays of a sequence and the rows that a rank holds of them, for placements (rows.c) and plans
 * (attention/take.c): checks of the two tensors, and the walk over what is held.
 */
#ifndef RONDO_LAYOUT_ROWS_H
#define RONDO_LAYOUT_ROWS_H

#include "layout/layout.h"

/* A tensor [rows, ...] as rows of `blocks` dense blocks. */
struct rondo__rows {
    char *data;
    size_t row_stride, block_stride, block_bytes;
    int64_t blocks;
    size_t bytes;      /* from data to the end of the last row */
};

/* What a rank holds of a sequence from a position on: rows [base, base + count) of its rows of the sequence. */
struct rondo__holding {
    const rondo_placement *placement;
    int64_t sequence, from;
    int32_t rank;
    int64_t base, count;
};
struct rondo__holding rondo__holding(const rondo_placement *placement, int64_t sequence, int32_t rank, int64_t from);

/* Whether the tensor `name` has the shape [rows, inner...] of `like` (itself, for the first one; more: or more rows), a known type and
 * strides that lie in memory; fills the view. */
int rondo__rows_view(const char *function, const char *name, const rondo_tensor *t, const rondo_tensor *like, int64_t rows, bool more,
                     struct rondo__rows *out);
/* The two must not share memory. */
int rondo__rows_apart(const char *function, const struct rondo__rows *whole, const struct rondo__rows *rows);
/* One after another, for what travels. */
struct rondo__rows rondo__rows_packed(const struct rondo__rows *like, void *data);
static inline size_t rondo__row_bytes(const struct rondo__rows *rows) { return rows->block_bytes * (size_t)rows->blocks; }

/* Between `whole`, whose row 0 is position held->from, and `rows`, where what is held begins in row `first`: into rows (take) or back. The
 * copying itself is the caller's: blocks of `bytes` each, count of them. */
typedef int rondo__copy_rows(void *arg, void *to, size_t to_stride, const void *from, size_t from_stride, size_t bytes, int64_t count);
int rondo__rows_move(const struct rondo__holding *held, bool take, const struct rondo__rows *whole, const struct rondo__rows *rows, int64_t first,
                     rondo__copy_rows *copy, void *arg);

#endif
