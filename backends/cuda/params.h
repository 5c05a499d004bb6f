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

#define CUDA_THREADS 128        /* of a block, in every kernel but those of attention for few rows */
#define CUDA_TILE 64            /* rows of a tile where there are many */
#define CUDA_COLUMNS 128        /* keys, or outputs, of a tile */
#define CUDA_CHUNK 32           /* of the dimension that is summed, or of keys, in shared memory at once */
#define CUDA_PITCH 36           /* floats from row to row of a chunk: quads of eight rows lie in different banks */
#define CUDA_THIN 8             /* rows of a tile where there are few */
#define CUDA_THIN_BYTES 256     /* of a row of weights that a stage of a linear layer for few rows holds */
/* Of attention for few rows: threads of a block, which is one warp; bytes of a stage, and how many bytes of a key it holds, as a power of two (6 or 7) */
#define CUDA_THIN_THREADS 32
#define CUDA_THIN_STAGE 8192
#define CUDA_THIN_KEY 7

#define CUDA_UNIT_PITCH 136     /* numbers of 16 bits from row to row of a chunk for the matrix unit: rows side by side lie in different banks */

/* Of attention by the FP64 matrix unit: keys of a chunk, and floats from row to row of one of K and one of V, whose numbers that a warp reads at once lie in
 * different banks */
#define CUDA_DOUBLE_KEYS 64
#define CUDA_DOUBLE_K_PITCH (CUDA_COLUMNS + 4)
#define CUDA_DOUBLE_V_PITCH (CUDA_COLUMNS + 8)

/* Floats from row to row of queries that are held as a whole. */
static inline int64_t cuda_q_pitch(int64_t dim) { return (dim + CUDA_CHUNK - 1) / CUDA_CHUNK * CUDA_CHUNK + 4; }

#define CUDA_KNOWN 512          /* bytes: what a block knows of its item (struct cuda_known) */

/* Shared memory of a block, in bytes (attention_tile.h, attention_thin.h, attention_steps.h, linear.h lay it out). */
static inline int64_t cuda_tile_bytes(int64_t head_dim, int64_t leaf_size, int resident)
{
    const int64_t q = resident ? CUDA_TILE * cuda_q_pitch(head_dim) : 2 * CUDA_TILE * CUDA_PITCH;
    return 4 * (2 * CUDA_COLUMNS * CUDA_PITCH + q + CUDA_TILE * (leaf_size + 4) + 3 * CUDA_TILE) + 24 * CUDA_TILE + CUDA_KNOWN;
}
static inline int64_t cuda_unit_q_pitch(int64_t dim) { return (dim + 15) / 16 * 16 + 8; }
static inline int64_t cuda_unit_bytes(int64_t head_dim)
{
    return 2 * (2 * CUDA_COLUMNS * CUDA_UNIT_PITCH + CUDA_TILE * cuda_unit_q_pitch(head_dim)) + 24 * CUDA_TILE + CUDA_KNOWN + 8 * CUDA_TILE;
}
static inline int64_t cuda_double_q_pitch(int64_t dim) { return (dim + 15) / 16 * 16 + 4; }
static inline int64_t cuda_double_bytes(int64_t head_dim)
{
    return 4 * (2 * CUDA_DOUBLE_KEYS * CUDA_DOUBLE_V_PITCH + CUDA_TILE * cuda_double_q_pitch(head_dim)) + 24 * CUDA_TILE + CUDA_KNOWN + 8 * CUDA_TILE;
}
#define CUDA_UNIT_LEVEL (CUDA_THREADS * 4 * 17)              /* floats of a node's 128 dimensions in the stack */
#define CUDA_NARROW_BYTES cuda_tile_bytes(CUDA_COLUMNS, CUDA_COLUMNS, 1)   /* of heads and leaves up to 128, whatever they are */
#define CUDA_STAGE (CUDA_COLUMNS * (CUDA_THIN_BYTES + 16))   /* bytes, of a linear layer for few rows */
static inline int64_t cuda_thin_bytes(int64_t head_dim, int64_t leaf_size, int rows, int scales)
{
    return 2 * CUDA_THIN_STAGE + 4 * (((head_dim + 3) / 4 * 4 + (leaf_size + 3) / 4 * 4) * rows + (scales ? 2 * leaf_size : 0)) + 24 * CUDA_THIN +
           CUDA_KNOWN + 80 + 16 + 4 * CUDA_THIN;
}
/* Floats of a node in the stack there: rows of whole blocks of dimensions, and M and l of each row. */
static inline int64_t cuda_thin_level(int64_t value_dim, int rows)
{
    return ((value_dim + CUDA_COLUMNS - 1) / CUDA_COLUMNS * CUDA_COLUMNS + 4) * rows;
}
#define CUDA_TOGETHER 16                                     /* nodes of a LEAF from which a block's warps join them together */
#define CUDA_LEVEL (CUDA_COLUMNS + 64)                       /* floats of a node that a warp holds: a block of dimensions, M and l of each lane */
#define CUDA_AHEAD 8                                         /* nodes of parts that are fetched at once */
static inline int64_t cuda_stack_bytes(int64_t depth, int64_t value_dim)
{
    return 4 * (CUDA_THREADS / 32) * ((value_dim + CUDA_COLUMNS - 1) / CUDA_COLUMNS) * depth * CUDA_LEVEL;
}
static inline int64_t cuda_steps_bytes(int64_t depth, int64_t value_dim)
{
    return cuda_stack_bytes(depth, value_dim) + 4 * (CUDA_THREADS / 32) * CUDA_AHEAD * CUDA_LEVEL;
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
    int64_t sight;              /* the tile's first interval in its list; -1: it has none */
    int32_t run, job, leaf, source;         /* leaf: the run, in the list of leaves; source: its */
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

/* A run of one job on one source without pages, as a step of decoding is on one rank, brings what it binds with each launch: there is nothing to upload
 * then, and nothing to wait for. */
struct cuda_bound {
    struct cuda_bind bind;
    struct cuda_source source;
    int64_t base;
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
    struct cuda_bound bound;                /* where binds is NULL, and sources, bases and slots too */
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
    int32_t arithmetic;                     /* enum rondo_arithmetic */
    int32_t together;                       /* a block takes one row's steps, as there are many parts to join; else each warp has a row */
};

/* ---- attention of level fast ---- */

/* Some rows of a job against keys that follow each other: a call of the library, and where in scratch it leaves its results, out
 * [rows][heads][value_dim] of 16 bits each and the logarithms of sums of exponentials [heads][rows] of floats. */
struct cuda_fast_call {
    int64_t first, rows;        /* tokens of the job */
    int64_t key, keys;          /* row of the first one among the sequence's in its source */
    int64_t out, lse;           /* numbers, from where all calls' begin */
    int32_t leaf, source;       /* leaf: number of the LEAF step that the node belongs to; other LEAFs' nodes are empty */
    int32_t causal, reserved;   /* causal: the last row sees all keys, each row before it one less */
};
#define CUDA_FAST_CALLS 24      /* of a batch of rows, at most: they are parameters */
struct cuda_fast {
    struct cuda_attention a;    /* first, count: tokens of the job */
    const float *lse;
    const void *out;            /* NULL: results are where they belong, but for their logarithms */
    struct cuda_fast_call call[CUDA_FAST_CALLS];
    int32_t calls, job, grain, reserved;    /* grain: bytes of which where rows of the run's out begin is a multiple */
};

/* ---- gradients of attention ---- */

/* A leaf of queries or of keys is a list's of struct rondo_backward_leaf; an item one leaf and head of a job: with QUERIES a query head, with KEYS a KV
 * head. What side is summed over is the item's columns, the other one its rows. */
struct cuda_back_leaf {
    int64_t leaf, first, row;
    int32_t count, source;
};
struct cuda_back_job {
    int64_t sequence, base, cached, length;
    int64_t queries_first, keys_first;      /* in the list of leaves */
    int64_t sights;                         /* in the list of sights, one for each leaf of queries */
    int64_t views;                          /* where the mask has bits: [heads, or 1 where it knows none][queries][keys]; else -1 */
    int64_t query_places, key_places;       /* in the list of places; -1: none */
    int32_t queries, keys, what, reserved;
};
struct cuda_back_sight {                    /* what a leaf's queries see together, and its rows' first in the list of rows */
    int64_t lo, hi, rows;
};
struct cuda_back_item {
    int32_t job, leaf, head, reserved;
};
struct cuda_back_place {
    int64_t at;
    int32_t buffer, reserved;
};
struct cuda_back_source {                   /* q and its output's gradient, or k and v */
    const void *a, *b;
    const float *lse, *sums;
    int32_t a_grain, b_grain;
};
#define CUDA_BACK_HEADS 8                   /* RONDO_BACKWARD_HEADS */
struct cuda_back_join {
    int64_t steps_first, places_first, row;
    int32_t steps, count, queries, head, heads, group;
};
struct cuda_back_shared {                   /* jobs that share rows of the bias's gradient: in the list of numbers of jobs */
    int64_t first, items, columns;          /* items: leaves of queries by leaves of keys by heads of the bias */
    int32_t count, longest, widest, keys;   /* those with most queries, and with most leaves of keys, so many */
};

struct cuda_backward {
    const struct cuda_row *rows;
    const struct cuda_back_leaf *leaves;
    const struct cuda_back_job *jobs;
    const struct cuda_back_sight *sights;
    const struct cuda_back_item *items;
    const struct cuda_back_place *places;
    const struct cuda_back_join *joins;
    const struct rondo_tree_step *steps;
    const int64_t *views;
    const uint64_t *bits;                   /* [..][4] */
    const struct cuda_back_source *queries, *keys;
    float *const *nodes;
    const int64_t *bias_at, *dbias_at;      /* [job - first_job]: the element of position 0 and key 0 */
    const struct cuda_back_shared *shared;
    const int32_t *alike;
    void *dq, *dk, *dv;
    float *stack, *dbias;
    const float *alibi, *bias;              /* of the first head */
    int64_t first, count, stack_floats;
    int64_t bias_row, bias_head, dbias_row, dbias_head;
    uint64_t seed;
    struct rondo_terms terms;
    float scale_log2, scale;
    int32_t first_job, shared_count;
    int32_t heads, kv_heads, head, kv_head, all_heads, all_kv_heads, bias_heads, mask_heads;
    int32_t head_dim, value_dim, q_type, kv_type, out_type, leaf_size;
    int32_t dq_type, dk_type, dv_type, accumulate;
};
#define CUDA_BACK_PITCH (CUDA_COLUMNS + 4)  /* floats from row to row of a tile of pairs */
#define CUDA_BACK_BYTES (4 * (2 * (CUDA_TILE + CUDA_COLUMNS) * CUDA_PITCH + CUDA_TILE * CUDA_BACK_PITCH) + CUDA_COLUMNS * 40)
#define CUDA_BACK_DEPTH 44                  /* of a tree over leaves, heads or sequences */
#define CUDA_BACK_JOIN_DEPTH 64

struct cuda_back_sums {
    const void *out, *dout;
    const float *dlse;
    float *sums;
    int64_t rows;
    int32_t value_dim, type;
};
struct cuda_back_sinks {
    const struct cuda_back_leaf *leaves;
    const int64_t *bases;
    const float *sinks, *lse, *sums;
    float *nodes;
    int64_t count;
    int32_t heads, leaf_size;
};

/* ---- the delta rule ---- */

#define CUDA_DELTA_THREADS 256              /* of a block: half of them walk, the others make tokens ready */
#define CUDA_DELTA_COLUMNS 32               /* of a block */
#define CUDA_DELTA_TOKENS 16                /* that are made ready together, at most */
#define CUDA_DELTA_BLOCK 16                 /* tokens of a chunk whose keys decay pair by pair */
enum { CUDA_DELTA_FORWARD, CUDA_DELTA_STATE, CUDA_DELTA_MAP, CUDA_DELTA_BOUND };   /* enum rondo_delta_kind */

struct cuda_delta_task {                    /* a block of a run: its first element of each */
    const void *q, *k, *v, *g, *beta;
    void *out;
    const float *a_log, *dt_bias, *from;
    float *to;
    int64_t q_stride, k_stride, v_stride, g_stride, beta_stride, out_stride, from_stride, to_stride, rows;
    int32_t kind, column, columns, reserved;
};
struct cuda_delta {
    const struct cuda_delta_task *tasks;
    int64_t count, slices;                  /* items: tasks by slices of 32 columns */
    double tolerance;
    float lower_bound, scale;
    int32_t key_dim, gate_dim, chain, tokens;   /* chain: floats of each fourth number of a row; tokens: made ready together */
    int32_t type, gate_type, beta_type, out_type, gate, beta, norm;
    int32_t chunk;                          /* 0: token by token */
};
/* Rows of a state that each of a column's four threads has. */
static inline int64_t cuda_delta_chain(int64_t key_dim)
{
    return 4 * (((key_dim + 15) / 16) | 1);       /* quads of the four in different banks */
}
/* Floats of tokens that are made ready: k, decays and q, the columns of v, beta. */
static inline int64_t cuda_delta_ready(int64_t chain, int64_t tokens)
{
    return tokens * (12 * chain + CUDA_DELTA_COLUMNS + 4);
}
/* Shared memory of a block: tokens twice; where a state is not in registers its columns. */
static inline int64_t cuda_delta_bytes(int64_t chain, int64_t tokens, int64_t held)
{
    return 4 * (2 * cuda_delta_ready(chain, tokens) + held * CUDA_DELTA_THREADS / 2) + 16 * CUDA_DELTA_THREADS;
}
/* ... of one that takes chunks: tokens, keys and four more vectors, a state and what is written, chains, coefficients, beta; or what a bound needs. */
static inline int64_t cuda_delta_chunk_bytes(int64_t key_dim, int64_t chain, int64_t tokens, int64_t chunk)
{
    const int64_t floats = 4 * chain * (3 * tokens + chunk + 4) + (key_dim + chunk) * CUDA_DELTA_COLUMNS + 2 * CUDA_THREADS + 2 * chunk + 4;
    return floats > 4 * CUDA_THREADS ? 4 * floats : 16 * CUDA_THREADS;
}

/* Gradients: a leaf of 64 columns of a block, whose sums go to scratch; then what becomes of them, by heads and by key heads. */
#define CUDA_DELTA_LEAF 64
#define CUDA_DELTA_MARK 16                  /* tokens whose states are made again together */
#define CUDA_DELTA_PITCH (CUDA_DELTA_LEAF + 16)   /* floats from row to row of a state: rows side by side in different banks */
struct cuda_delta_back_task {
    struct cuda_delta_task of;              /* from: the state before the first token; to: its gradient */
    const void *dout;
    void *dv;
    const float *end;                       /* the gradient behind the last token */
    float *sums;
    int64_t dout_stride, dv_stride, end_stride;
    int32_t result, reserved;
};
struct cuda_delta_gates {                   /* of one head and token leaf */
    const void *g, *beta;
    void *dg, *dbeta;
    const float *a_log, *dt_bias, *from;
    float *to, *sums;
    int64_t g_stride, beta_stride, dg_stride, dbeta_stride, rows;
};
struct cuda_delta_keys {                    /* of one key head and token leaf */
    const void *q, *k;
    void *dq, *dk;
    float *sums;                            /* of its first head */
    int64_t q_stride, k_stride, dq_stride, dk_stride, rows;
};
struct cuda_delta_back {
    struct cuda_delta form;                 /* without tasks */
    const struct cuda_delta_back_task *tasks;
    const struct cuda_delta_gates *gates;
    const struct cuda_delta_keys *keys;
    float *scratch;
    int64_t count, gate_count, key_count, leaves, scratch_floats;   /* scratch: of a block */
    int64_t sums_token, sums_leaf, sums_head;
    int32_t padded, group, held, accumulate;        /* padded: floats of a row of sums; held: states are in shared memory */
    int32_t q_type, k_type, v_type, g_type, beta_type;   /* of the results */
};
/* Floats in scratch: marks, states before each token between two of them, and both states where shared memory has no room for them. */
static inline int64_t cuda_delta_back_scratch(int64_t key_dim, int64_t rows, int held)
{
    const int64_t marks = (rows + CUDA_DELTA_MARK - 1) / CUDA_DELTA_MARK + CUDA_DELTA_MARK;
    return key_dim * (marks * CUDA_DELTA_LEAF + (held ? 0 : 2 * CUDA_DELTA_PITCH));
}
static inline int64_t cuda_delta_back_bytes(int64_t key_dim, int held)
{
    return 4 * (CUDA_DELTA_MARK * (12 * cuda_delta_chain(key_dim) + 1 + 2 * CUDA_DELTA_LEAF) + 11 * CUDA_DELTA_LEAF +
                (held ? 2 * key_dim * CUDA_DELTA_PITCH : 0));
}
struct cuda_delta_fold {
    const float *map, *from, *source;
    float *to;
    int64_t map_stride, from_stride, source_stride, to_stride;
    int32_t columns, reserved;
};
struct cuda_delta_folds {
    const struct cuda_delta_fold *folds;
    int64_t count;
    int32_t key_dim, columns;               /* columns: of the widest */
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

/* ---- gradients of layers ---- */

/* dx = dy W: l has x, which is dy, y, which is dx, and what a linear layer has of weights. The sum is over outputs, of which leaf `base` is dy's first. */
struct cuda_dx {
    struct cuda_linear l;
    int64_t outputs, columns;
    int32_t total, base, first, end;
};
#define CUDA_DX_BYTES (4 * 2 * (CUDA_TILE * CUDA_PITCH + CUDA_CHUNK * CUDA_COLUMNS))

struct cuda_token_leaf {
    int64_t first, merges;
};
struct cuda_tokens {
    const int64_t *order;
    const struct cuda_token_leaf *leaves;
    const int64_t *segments;                /* [segment_count][leaf, leaves, row]; NULL: y is a product */
    const float *a, *b;
    float *y, *stack;
    int64_t a_stride, b_stride, y_stride, rows, columns, leaf_count, segment_count, stack_floats;
    int32_t add, a_grain, b_grain, reserved;
};
#define CUDA_TOKENS_BYTES (4 * 2 * CUDA_CHUNK * (CUDA_TILE + CUDA_COLUMNS))

struct cuda_entropy_node {
    double sum;
    float most, label;
};
struct cuda_entropy_part {
    const struct cuda_entropy_node *data;
    int64_t merges;
};
struct cuda_entropy {
    const float *x, *dloss;
    const int32_t *labels;
    struct cuda_entropy_node *nodes;
    const struct cuda_entropy_part *parts;
    double *loss;
    float *dx;
    int64_t rows, classes, x_stride, node_stride, dloss_stride, dx_stride, first, own;   /* first: class; own: classes that x has */
    int32_t leaves, first_leaf, own_leaves, ignore, part_count, add;
};
#define CUDA_ENTROPY_BYTES (8 * CUDA_THREADS + 16 * 8)

struct cuda_rmsnorm_dx {
    const float *x, *weight, *dy;
    float *dx, *terms;
    int64_t rows, dim;
    float eps;
    int32_t add;
};
struct cuda_swiglu_dx {
    const float *gate, *up, *dy;
    float *dgate, *dup;
    int64_t count;
};

/* ---- element by element, or row by row ---- */

struct cuda_rmsnorm {
    const float *x, *weight;
    float *y;
    int64_t rows, dim;
    float eps;
};
struct cuda_rope {                   /* of its gradient too */
    float *x;
    const float *table;
    int64_t rows, heads, dim, row_stride, head_stride;
};
struct cuda_conv {                   /* struct rondo_conv_run */
    const float *x, *weight;
    float *state, *y;
    int64_t rows, channels, x_stride, y_stride;
    int32_t taps, silu;
};
struct cuda_swiglu {                 /* of a sigmoid gate: up is x */
    const float *gate, *up;
    float *y;
    int64_t count;
};
struct cuda_convert {
    const void *from;
    void *to;
    int64_t rows, dim, from_stride, to_stride;   /* bytes */
    int32_t from_type, to_type;
    int32_t many, reserved;                      /* numbers that a thread takes at once: 8, of rows of whole 16 bytes; 1 */
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
    X(rondo_cuda_leaves, cuda_attention) X(rondo_cuda_leaves_wide, cuda_attention) \
    X(rondo_cuda_thin_1, cuda_attention) X(rondo_cuda_thin_2, cuda_attention) X(rondo_cuda_thin_4, cuda_attention) X(rondo_cuda_thin_8, cuda_attention) \
    X(rondo_cuda_thin_terms, cuda_attention) X(rondo_cuda_unit, cuda_attention) X(rondo_cuda_unit_wide, cuda_attention) X(rondo_cuda_double, cuda_attention) X(rondo_cuda_double_wide, cuda_attention) \
    X(rondo_cuda_steps, cuda_attention) X(rondo_cuda_probabilities, cuda_attention) X(rondo_cuda_fast, cuda_fast) X(rondo_cuda_fast_rows, cuda_fast) \
    X(rondo_cuda_linear_tile, cuda_linear) X(rondo_cuda_linear_thin_1, cuda_linear) X(rondo_cuda_linear_thin_2, cuda_linear) \
    X(rondo_cuda_linear_thin_4, cuda_linear) X(rondo_cuda_linear_thin_8, cuda_linear) X(rondo_cuda_linear_join, cuda_join) \
    X(rondo_cuda_rmsnorm, cuda_rmsnorm) X(rondo_cuda_rope, cuda_rope) X(rondo_cuda_swiglu, cuda_swiglu) X(rondo_cuda_convert, cuda_convert) \
    X(rondo_cuda_logsumexp, cuda_logsumexp) X(rondo_cuda_copy_rows, cuda_rows) \
    X(rondo_cuda_back_queries, cuda_backward) X(rondo_cuda_back_keys, cuda_backward) X(rondo_cuda_back_bias, cuda_backward) \
    X(rondo_cuda_back_join, cuda_backward) X(rondo_cuda_back_sums, cuda_back_sums) X(rondo_cuda_back_sinks, cuda_back_sinks) \
    X(rondo_cuda_linear_dx, cuda_dx) X(rondo_cuda_token_product, cuda_tokens) X(rondo_cuda_token_sum, cuda_tokens) \
    X(rondo_cuda_rmsnorm_dx, cuda_rmsnorm_dx) X(rondo_cuda_rope_back, cuda_rope) X(rondo_cuda_swiglu_dx, cuda_swiglu_dx) \
    X(rondo_cuda_cross_entropy, cuda_entropy) \
    X(rondo_cuda_delta, cuda_delta) X(rondo_cuda_delta_64, cuda_delta) X(rondo_cuda_delta_128, cuda_delta) \
    X(rondo_cuda_delta_chunk, cuda_delta) X(rondo_cuda_delta_fold, cuda_delta_folds) X(rondo_cuda_delta_back, cuda_delta_back) \
    X(rondo_cuda_delta_back_tokens, cuda_delta_back) \
    X(rondo_cuda_short_conv, cuda_conv) X(rondo_cuda_sigmoid_mul, cuda_swiglu)

#endif
