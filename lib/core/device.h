/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The device table: what computes. lib/ writes every algorithm against it, each folder of backends/ that computes fills
 * one. All arithmetic of the numerics contract happens behind this table; everything that decides *what* is summed in
 * *which order* (leaves, tree, merges) is data handed in from lib/: a device executes, it never chooses an order.
 *
 * Work is asynchronous on the device's stream after attach(); sync() waits for it. The CPU's stream runs at once.
 * Called from the rank's own thread. Slots that may be NULL are marked; the others must be there.
 */
#ifndef RONDO_CORE_DEVICE_H
#define RONDO_CORE_DEVICE_H

#include "rondo.h"

#define RONDO_DEVICE_ABI 1u

struct rondo_device;   /* the device's own */

/* A run of keys that one rank holds of one leaf: all of the leaf, unless kv_interleave = 1 deals it out key by key. */
struct rondo_leaf {
    int64_t row;     /* row of the first key, counted from where k and v of its source begin */
    int64_t first;   /* its position */
    int32_t step;    /* positions are first, first + step, ... */
    int32_t count;   /* 1..leaf size */
    int32_t source;  /* 0: the task's own k and v; i > 0: the task's blocks[i - 1] */
    int32_t reserved;
};

/* K and V that came from another rank, dense: part[0] is k[rows][kv_heads][head_dim], part[1] v[rows][kv_heads][value_dim]. */
struct rondo_kv_block {
    const void *part[2];
};

/* The canonical tree as a program for a stack machine; one program serves every query row of the task.
 *   LEAF i    push the node (M, l, acc) of leaves[i] for the row's visible keys; nothing visible: the empty node
 *   LOAD i    push the node that lies in slot i
 *   MERGE     pop the right node, pop the left one, push merge(left, right)
 *   STORE i   pop into slot i
 *   OUT       pop, divide, round, write out and lse
 * The stack is empty at the end. depth bounds it. A device may skip what is empty: merging with the empty node is the
 * identity (rondo-numerics(7)). */
enum rondo_tree_code { RONDO_TREE_LEAF, RONDO_TREE_LOAD, RONDO_TREE_MERGE, RONDO_TREE_STORE, RONDO_TREE_OUT };
struct rondo_tree_step {
    int32_t code, arg;
};

/* A node in memory ("slot") for q_rows x heads rows, as it also travels between ranks: float acc[q_rows][heads][value_dim], then
 * float M[q_rows][heads], then float l[q_rows][heads]. The empty node has M = -FLT_MAX, l = 0, acc = 0. */
static inline size_t rondo__slot_floats(int64_t q_rows, int64_t heads, int64_t value_dim)
{
    return (size_t)q_rows * (size_t)heads * ((size_t)value_dim + 2);
}

/* One sequence's queries against some of its keys. heads and kv_heads are those of this task (a group of them, perhaps);
 * query head h reads KV head h / (heads / kv_heads). Strides count elements; head dimensions are dense. */
struct rondo_attention_task {
    const void *q;
    int64_t q_rows, q_row_stride, q_head_stride;
    const rondo_span *q_spans;        /* where the rows stand: span.row counts from 0; first is the *key* position */
    int32_t q_span_count, q_type;     /* (may be negative where there are fewer keys than queries) */

    const void *k, *v;
    int64_t k_row_stride, k_head_stride, v_row_stride, v_head_stride;
    const struct rondo_kv_block *blocks;   /* NULL where every leaf is the task's own */
    const struct rondo_leaf *leaves;
    int32_t leaf_count, kv_type;

    const struct rondo_tree_step *program;
    int32_t steps, depth;
    float *const *slots;              /* NULL where the program has neither LOAD nor STORE */

    int32_t heads, kv_heads, head_dim, value_dim;
    float scale_log2;                 /* (float)(scale * log2(e)), computed in double */
    int32_t causal;                   /* key position <= query position */
    int64_t window_left, window_right;/* -1 = open */

    void *out;                        /* where the program has OUT */
    int64_t out_row_stride, out_head_stride;
    int32_t out_type, leaf_size;
    float *lse;                       /* or NULL */
    int64_t lse_row_stride, lse_head_stride;
};

/* The first key of a leaf for one KV head: where it lies, in elements from `k` and `v`, and the way to the next key. */
struct rondo_leaf_rows {
    const void *k, *v;
    int64_t k_at, v_at, k_stride, v_stride;
};
static inline struct rondo_leaf_rows rondo__leaf_rows(const struct rondo_attention_task *t, const struct rondo_leaf *f, int32_t kv_head)
{
    struct rondo_leaf_rows r = { t->k, t->v, kv_head * t->k_head_stride, kv_head * t->v_head_stride, t->k_row_stride, t->v_row_stride };
    if (f->source) {
        const struct rondo_kv_block *b = t->blocks + f->source - 1;
        r = (struct rondo_leaf_rows){ b->part[0], b->part[1], (int64_t)kv_head * t->head_dim, (int64_t)kv_head * t->value_dim,
                                      (int64_t)t->kv_heads * t->head_dim, (int64_t)t->kv_heads * t->value_dim };
    }
    r.k_at += f->row * r.k_stride;
    r.v_at += f->row * r.v_stride;
    return r;
}

/* [lo, hi) of positions that the query at position p may see; the one place where masks are decided. May be empty. */
static inline void rondo__visible(const struct rondo_attention_task *t, int64_t p, int64_t *lo, int64_t *hi)
{
    int64_t a = INT64_MIN, b = INT64_MAX;
    if (t->window_left >= 0)
        a = p - t->window_left;
    if (t->window_right >= 0)
        b = p + t->window_right + 1;
    if (t->causal && b > p + 1)
        b = p + 1;
    *lo = a;
    *hi = b;
}

/* The same as a range [lo, hi) of key indices of a leaf; lo >= hi: none. */
static inline void rondo__visible_in_leaf(const struct rondo_leaf *f, int64_t lo, int64_t hi, int32_t *i0, int32_t *i1)
{
    int64_t a = 0, b = f->count;
    if (lo > f->first)
        a = (lo - f->first + f->step - 1) / f->step;
    if (hi <= f->first)
        b = 0;
    else if (hi - 1 - f->first < (int64_t)(f->count - 1) * f->step)
        b = (hi - 1 - f->first) / f->step + 1;
    if (a > f->count)
        a = f->count;
    *i0 = (int32_t)a;
    *i1 = (int32_t)b;
}

/* Called by a device now and then during long work (from the rank's thread), so that transfers make progress. */
struct rondo_work {
    uint64_t total;           /* set by the device before it begins; any unit */
    _Atomic uint64_t done;    /* added to by any of its threads */
};
struct rondo_poll {
    int (*call)(void *arg);   /* non-zero: stop as soon as possible and return this code */
    void *arg;
    struct rondo_work *work;  /* for attention, how far it has come; NULL: nobody wants to know */
};

struct rondo_device_desc {
    int32_t index, threads;
    const char *isa;
    int32_t crowded;          /* threads of this and of other ranks here are more than the cores: who waits sleeps at once */
};

struct rondo_device_linear;   /* packed weights, the device's own format */

struct rondo_device_ops {
    size_t size;
    uint32_t abi;
    const char *name;
    uint32_t arithmetics;     /* bit (1 << RONDO_ARITHMETIC_*) for each that it computes */
    uint32_t levels;          /* bit (1 << RONDO_STRICT), ... */

    int (*probe)(void);                                             /* 1: usable on this machine */
    const char *(*isa)(int index, int *usable);                     /* names that attach accepts, best last; NULL past the end */
    int (*attach)(struct rondo_device **out, const struct rondo_device_desc *desc);
    void (*detach)(struct rondo_device *dev);
    const char *(*isa_used)(const struct rondo_device *dev);
    int (*threads_used)(const struct rondo_device *dev);
    int (*check)(struct rondo_device *dev);                         /* 0, or a code where the floating-point mode is not the default */
    int (*sync)(struct rondo_device *dev);

    /* Memory that the device reads; on the CPU plain memory. copy: kind 0 host->device, 1 device->host, 2 device->device */
    int (*memory_new)(struct rondo_device *dev, size_t bytes, void **out);
    void (*memory_free)(struct rondo_device *dev, void *memory, size_t bytes);
    int (*copy)(struct rondo_device *dev, void *to, const void *from, size_t bytes, int kind);
    /* rows of row_bytes each between two strides (bytes): packing of KV and Q into messages */
    int (*copy_rows)(struct rondo_device *dev, void *to, size_t to_stride, const void *from, size_t from_stride, size_t row_bytes,
                     int64_t rows);

    /* Runs all tasks; they are independent of each other. scratch_bytes: an upper bound of what it allocates meanwhile. */
    int (*attention)(struct rondo_device *dev, const struct rondo_attention_task *tasks, int64_t count, const struct rondo_poll *poll);
    size_t (*attention_scratch)(const struct rondo_device *dev, const struct rondo_attention_task *tasks, int64_t count);

    int (*linear_new)(struct rondo_device *dev, struct rondo_device_linear **out, const rondo_linear_desc *desc);
    int (*linear_load)(struct rondo_device_linear *linear, int64_t first, int64_t rows, const void *weights);
    void (*linear_free)(struct rondo_device_linear *linear);
    size_t (*linear_bytes)(const struct rondo_device_linear *linear);
    int (*linear)(struct rondo_device *dev, const struct rondo_device_linear *linear, int64_t rows, const float *x, int64_t x_stride,
                  float *y, int64_t y_stride, const float *bias, int add, const struct rondo_poll *poll);
    int (*rmsnorm)(struct rondo_device *dev, int64_t rows, int64_t dim, const float *x, const float *weight, float eps, float *y);
    int (*rope)(struct rondo_device *dev, int64_t rows, int64_t heads, int64_t dim, float *x, int64_t row_stride, int64_t head_stride,
                const float *table);
    int (*swiglu)(struct rondo_device *dev, int64_t count, const float *gate, const float *up, float *y);
    int (*convert)(struct rondo_device *dev, int64_t count, int from_type, const void *from, int to_type, void *to);
    int (*logsumexp)(struct rondo_device *dev, int64_t rows, int64_t dim, const float *x, int64_t x_stride, double *out);
    /* The rows as linear_load got them, of its storage type. May be NULL: then nobody can ask for them. */
    int (*linear_read)(const struct rondo_device_linear *linear, int64_t first, int64_t rows, void *weights);
};

/* A slot that an older table may lack. */
#define RONDO_HAS(ops, slot) ((ops)->size >= offsetof(struct rondo_device_ops, slot) + sizeof((ops)->slot) && (ops)->slot)

#endif
