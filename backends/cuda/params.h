/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the host hands to the kernels: lists that describe a program, what a run binds to them, and the parameters of each kernel. Every
 * pointer is the device's. Strides and offsets count elements.
 *
 * Attention takes two kernels. The first computes nodes over leaves: an item is a tile of rows, and a part of the leaves of a run. The second walks
 * each row's steps, where LEAF joins the nodes of its parts. A tile's rows are (token, query head of one KV head), heads fastest, so that query
 * heads that share keys share what is read of them.
 */
#ifndef RONDO_CUDA_PARAMS_H
#define RONDO_CUDA_PARAMS_H

#include "core/leaf.h"

#define CUDA_THREADS 128        /* of a block, in every kernel */
#define CUDA_TILE 64            /* rows of a tile where there are many */
#define CUDA_COLUMNS 128        /* keys, or outputs, of a tile */
#define CUDA_CHUNK 32           /* of the dimension that is summed, or of keys, in shared memory at once */
#define CUDA_PITCH 36           /* floats from row to row of a chunk: quads of eight rows lie in different banks */
#define CUDA_THIN 8             /* rows of a tile where there are few */
#define CUDA_THIN_BYTES 256     /* of a row of K that a stage of the kernel for few rows holds */

/* Floats from row to row of queries that are held as a whole. */
static inline int64_t cuda_q_pitch(int64_t dim) { return (dim + CUDA_CHUNK - 1) / CUDA_CHUNK * CUDA_CHUNK + 4; }

#define CUDA_KNOWN 512          /* bytes: what a block knows of its item (struct cuda_known) */

/* Shared memory of a block, in bytes (attention_tile.h, attention_thin.h, attention_steps.h, linear.h lay it out). */
static inline int64_t cuda_tile_bytes(int64_t head_dim, int64_t leaf_size, int resident)
{
    const int64_t q = resident ? CUDA_TILE * cuda_q_pitch(head_dim) : 2 * CUDA_TILE * CUDA_PITCH;
    return 4 * (2 * CUDA_COLUMNS * CUDA_PITCH + q + CUDA_TILE * (leaf_size + 4) + 3 * CUDA_TILE) + 24 * CUDA_TILE + CUDA_KNOWN;
}
#define CUDA_STAGE (CUDA_COLUMNS * (CUDA_THIN_BYTES + 16))   /* bytes, of the kernels for few rows */
/* levels: of the stack, where it is in shared memory too */
static inline int64_t cuda_thin_bytes(int64_t head_dim, int64_t value_dim, int64_t leaf_size, int rows, int levels)
{
    return 2 * CUDA_STAGE + 4 * ((head_dim + 3) / 4 * 4 * rows + leaf_size * rows + 2 * leaf_size + 5 * CUDA_THIN + 4 + levels * rows * (value_dim + 2)) +
           24 * CUDA_THIN + CUDA_KNOWN + 16;
}
#define CUDA_LEVEL (CUDA_COLUMNS + 64)                       /* floats of a node that a warp holds: a block of dimensions, M and l of each lane */
static inline int64_t cuda_steps_bytes(int64_t depth, int64_t value_dim)
{
    return 4 * (CUDA_THREADS / 32) * ((value_dim + CUDA_COLUMNS - 1) / CUDA_COLUMNS) * depth * CUDA_LEVEL;
}
#define CUDA_LINEAR_TILE_BYTES (4 * 2 * (CUDA_COLUMNS + CUDA_TILE) * CUDA_PITCH)
#define CUDA_LINEAR_THIN_BYTES(rows) (2 * CUDA_STAGE + 2 * 4 * CUDA_THIN_BYTES * (rows))

/* ---- a program ---- */

struct cuda_row {               /* of a job: where the token stands, and the keys [lo, hi) that it may see */
    int64_t p, lo, hi;
};
struct cuda_job {
    int64_t rows;               /* its first in the list of rows */
    int64_t sequence;
    int32_t group, heads, head, kv_head;    /* query heads of a KV head, of the job; its first, of the program's */
    int32_t steps_first, steps, operation, leaves_first, leaves;
    int32_t reserved;
    int64_t q_rows;
};
struct cuda_tile {
    int32_t job, kv_head;       /* of the job's */
    int64_t first;              /* row: token * group + head */
    int32_t rows, room;         /* room: rows that its nodes have */
    int64_t parts;              /* first in the list of parts, one for each LEAF */
    int64_t bits;               /* of a mask with bits: the tile's first leaf in the list of views; else -1 */
    int64_t sight;              /* first in the list of intervals */
    int32_t sights, reserved;
};
struct cuda_interval {          /* of positions: what some rows of a tile see, together. Keys outside need not even be there */
    int64_t lo, hi;
};
struct cuda_part {              /* of one LEAF: `count` nodes, those of parts first, first + 1, ... of its run */
    int64_t nodes;              /* float of the buffer of nodes */
    int32_t first, count;
};
struct cuda_item {
    int64_t tile;
    int64_t nodes;
    int64_t first, end;         /* leaves, of those of the run */
    int64_t views;              /* where the mask has bits: the view of leaf `first` in the list; else -1 */
    int32_t run, reserved;
};
/* The view of a leaf: where the bits of the tile's rows begin, in units of 256 bits; or one of these. What nobody sees need not be there. */
#define CUDA_VIEW_ALL (-1)          /* all that a row's interval says */
#define CUDA_VIEW_NONE (-2)

/* ---- a run ---- */

struct cuda_source {            /* a KV part */
    const void *k, *v;
    int64_t k_row, k_head, v_row, v_head;
    const int64_t *pages;       /* or NULL */
    int64_t page_rows;
    int32_t k_grain, v_grain;   /* bytes that may be copied at once: 16, 4, or 1 */
};
struct cuda_bind {              /* of a job: its first element of each, head and all */
    int64_t q, out, lse, stats, probs, bias;
    int64_t slots;              /* its first in the list of places */
};

struct cuda_attention {
    const struct cuda_row *rows;
    const struct cuda_job *jobs;
    const struct cuda_tile *tiles;
    const struct cuda_item *items;
    const struct cuda_part *parts;
    const struct cuda_interval *sight;
    const int64_t *views;
    const uint64_t *bits;       /* [..][4] */
    const struct rondo_leaf *leaves;
    const struct rondo_tree_step *steps;
    const struct cuda_bind *binds;          /* [job - first_job] */
    const struct cuda_source *sources;
    const int64_t *bases;                   /* [job - first_job][source_count]: row where the sequence's rows begin */
    float *const *slots;
    const void *q;
    void *out;
    float *lse, *stats, *probs, *nodes, *stack;
    int64_t q_row, q_head, out_row, out_head, lse_row, lse_head, stats_row, stats_head, probs_row, probs_head, bias_row, bias_head;
    int64_t first, count;                   /* items, or tiles */
    int64_t stack_floats;                   /* of a block */
    const float *alibi, *sinks, *bias;      /* of the run's first head */
    uint64_t seed;
    struct rondo_terms terms;
    float scale_log2;
    int32_t first_job, source_count;
    int32_t head;                           /* number of the run's first head among the plan's */
    int32_t heads;                          /* of the program: a slot's rows */
    int32_t head_dim, value_dim, q_type, kv_type, out_type, leaf_size;
    int32_t q_grain;
    int32_t resident;                       /* Q is held in shared memory as a whole, not by chunks */
    int32_t depth;                          /* nodes that a row's steps may hold at once, with those of joining parts */
    int32_t room;                           /* rows of the largest tile */
    int32_t levels;                         /* of the thin kernels' stack in shared memory; 0: it is in global memory */
};

/* ---- linear layers ---- */

/* Items are (tile of rows, tile of outputs, part of the leaves), the last fastest of tiles' rows first. A part is an aligned node of leaves. */
struct cuda_linear {
    const float *x;
    const char *w;              /* [out] rows of `pitch` bytes, the columns that the layer has */
    const float *scales;        /* of Q8: [out][groups] */
    float *y;                   /* or the nodes of parts: [part][rows][out] */
    const float *bias;
    float *stack;
    int64_t x_stride, y_stride, node_stride, pitch, scale_pitch;
    int64_t in, out, rows, column;          /* column: number of the first that the layer has */
    int64_t items, stack_floats;
    int32_t leaves, first_leaf, end_leaf, layer_first;   /* leaves of the sum, [first, end) of these; the layer's first */
    int32_t part_leaves;        /* of a part; a multiple begins each */
    int32_t type, group, add, nodes;        /* nodes 1: each part's sum goes to y + part * node_stride, without bias and add */
    int32_t x_grain, w_grain, reserved;
};

struct cuda_join {
    const struct rondo_cuda_join_node *nodes;
    int64_t rows, out, y_stride;
    float *y;
    const float *bias;
    int32_t count, add;
};
struct rondo_cuda_join_node {
    const float *data;
    int64_t stride;
    int64_t merges;
};

/* ---- element by element, or row by row ---- */

struct cuda_rmsnorm {
    const float *x, *weight;
    float *y;
    int64_t rows, dim;
    float eps;
};
struct cuda_rope {
    float *x;
    const float *table;
    int64_t rows, heads, dim, row_stride, head_stride;
};
struct cuda_swiglu {
    const float *gate, *up;
    float *y;
    int64_t count;
};
struct cuda_convert {
    const void *from;
    void *to;
    int64_t rows, dim, from_stride, to_stride;   /* bytes */
    int32_t from_type, to_type;
};
struct cuda_logsumexp {
    const float *x;
    double *out;
    int64_t rows, dim, x_stride;
};
struct cuda_rows {               /* copies */
    const char *from;
    char *to;
    int64_t rows, bytes, from_stride, to_stride;
};

/* Each kernel, and its parameters. */
#define RONDO_CUDA_KERNELS(X) \
    X(rondo_cuda_leaves, cuda_attention) X(rondo_cuda_leaves_terms, cuda_attention) \
    X(rondo_cuda_thin_1, cuda_attention) X(rondo_cuda_thin_2, cuda_attention) X(rondo_cuda_thin_4, cuda_attention) X(rondo_cuda_thin_8, cuda_attention) \
    X(rondo_cuda_thin_terms, cuda_attention) X(rondo_cuda_steps, cuda_attention) X(rondo_cuda_probabilities, cuda_attention) \
    X(rondo_cuda_linear_tile, cuda_linear) X(rondo_cuda_linear_thin_1, cuda_linear) X(rondo_cuda_linear_thin_2, cuda_linear) \
    X(rondo_cuda_linear_thin_4, cuda_linear) X(rondo_cuda_linear_thin_8, cuda_linear) X(rondo_cuda_linear_join, cuda_join) \
    X(rondo_cuda_rmsnorm, cuda_rmsnorm) X(rondo_cuda_rope, cuda_rope) X(rondo_cuda_swiglu, cuda_swiglu) X(rondo_cuda_convert, cuda_convert) \
    X(rondo_cuda_logsumexp, cuda_logsumexp) X(rondo_cuda_copy_rows, cuda_rows)

#endif
