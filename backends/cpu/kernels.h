/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The table of kernels. Each instruction set has one; it starts as the scalar spec's (ref_*.c), and what the set computes faster takes the
 * place of an entry (kernels.c). A kernel does a part of a job on one thread and allocates nothing; who calls it (attention_run.c,
 * linear_ops.c, elementwise_ops.c) cuts jobs into such parts and hands them out.
 */
#ifndef RONDO_CPU_KERNELS_H
#define RONDO_CPU_KERNELS_H

#include "core/internal.h"

#define RONDO_CPU_ARITHMETICS 5   /* enum rondo_arithmetic */

/* ---- attention: an item is some tokens of a task x the heads of some KV heads ---- */

struct rondo_attention_task;   /* task.h */

/* Where the leaves of an item were shared out: each LEAF over more than one aligned part of 2^shift leaves has a node of each here already, in
 * this order, `floats` apart, as they lie in slots. */
struct rondo_cpu_parts {
    const float *nodes;
    size_t floats;
    int32_t shift;
};

struct rondo_cpu_attention {
    int64_t (*tokens)(const struct rondo_attention_task *task);               /* of one item, at most */
    int32_t (*heads)(const struct rondo_attention_task *task);                /* KV heads of one, at most */
    /* scratch of one worker, wherever keys lie; false: too large */
    bool (*bytes)(const struct rondo_attention_task *task, size_t *bytes);
    /* Whether leaves of an item are worth sharing out over threads: then there is part(). */
    bool (*shares)(const struct rondo_attention_task *task);
    /* tokens [t0, t1), KV heads from kv_head on; parts: or NULL. Returns poll's code. poll is NULL on workers that are not the calling thread */
    int (*run)(const struct rondo_attention_task *task, int64_t t0, int64_t t1, int32_t kv_head, int32_t kv_heads,
               const struct rondo_cpu_parts *parts, void *scratch, const struct rondo_poll *poll);
    /* of these the node over leaves [first, end) of the run that LEAF step `step` has, into a slot */
    int (*part)(const struct rondo_attention_task *task, int64_t t0, int64_t t1, int32_t kv_head, int32_t kv_heads, int32_t step, int64_t first,
                int64_t end, float *slot, void *scratch, const struct rondo_poll *poll);
};

/* ---- gradients of attention: an item is a job x a KV head, or a leaf of queries of the bias's ---- */

struct rondo_backward_task;    /* backward.h */

struct rondo_cpu_backward {
    bool (*bytes)(const struct rondo_backward_task *tasks, int32_t count, size_t *bytes);   /* scratch of one worker; false: too large */
    /* What some jobs of the same queries say (one, or such as make nodes of both sides), of one KV head and the query heads that read it. All three
     * return poll's code, which is NULL on workers that are not the calling thread. */
    int (*run)(const struct rondo_backward_task *tasks, int32_t count, int32_t kv_head, void *scratch, const struct rondo_poll *poll);
    /* Of `count` tasks that share rows of dbias those of one leaf of queries of number `longest` of them. */
    int (*bias)(const struct rondo_backward_task *tasks, int32_t count, int32_t longest, int32_t leaf, void *scratch,
                const struct rondo_poll *poll);
    bool (*bias_bytes)(const struct rondo_backward_task *task, size_t *bytes);   /* scratch of that */
    void (*sums)(const struct rondo_backward_sums *of, int64_t first, int64_t end);   /* rows [first, end) */
    /* scratch: RONDO_BACKWARD_SCRATCH nodes of a row (backward.h) */
    void (*join)(const struct rondo_backward_desc *desc, const struct rondo_backward_run *run, const struct rondo_backward_join *join, float *scratch);
};

/* ---- linear layers: an item is some panels of outputs x some tiles of rows ---- */

/* Some rows of x against leaves [leaf0, leaf1) of a linear, which are a whole node of its tree; x begins at the first column of leaf0.
 * In tiles of tile_rows; the last one may have fewer. */
struct rondo_cpu_linear_job {
    const struct rondo_device_linear *linear;
    int64_t leaf0, leaf1, columns;
    int64_t rows, tiles, tile_rows;
    const float *x;
    float *y, *packed;          /* packed: what pack() made of x, tiles * tile_rows * columns at most */
    int64_t x_stride, y_stride;
    const float *bias;
    int32_t add, depth;         /* depth: of the stack of sums, where the tree is a list (gradient_ops.c); else 0 */
    /* Not NULL: run() asks for steps [first, end) of a panel before it reads them (panels of floats, and more than two tiles). ahead() says what
     * a tile may fetch meanwhile for those that it will ask for next: *bytes of it, or NULL. */
    void (*bring)(void *arg, int64_t panel, int64_t first, int64_t end);
    const char *(*ahead)(void *arg, int64_t panel, int64_t first, int64_t end, int64_t tile, size_t *bytes);
    void *bring_arg;
};

struct rondo_cpu_linear {
    int64_t tile_rows;
    void (*pack)(const struct rondo_cpu_linear_job *job, int64_t tile);   /* NULL: x is read where it lies */
    /* scratch of one worker for so many; false: too large */
    bool (*bytes)(const struct rondo_cpu_linear_job *job, int64_t panels, int64_t tiles, size_t *bytes);
    /* returns poll's code. poll is NULL on workers that are not the calling thread */
    int (*run)(const struct rondo_cpu_linear_job *job, int64_t panel0, int64_t panel1, int64_t tile0, int64_t tile1, void *scratch,
               const struct rondo_poll *poll);
    /* `count` steps of weights from column i of a leaf on (w: the leaf in a panel), as floats in the order of outputs, [count][stride] */
    void (*widen)(const struct rondo_device_linear *l, const void *w, int64_t i, int64_t count, float *to, int64_t stride);
    /* nodes of other ranks too, of some rows and columns; its stack has been looked at (linear_ops.c) */
    void (*join)(const struct rondo_linear_join *job, int64_t row0, int64_t row1, int64_t column0, int64_t column1);
};

/* ---- gradients of layers ---- */

struct rondo_cpu_gradient {
    /* The definitions, which compute rows [row0, row1) and columns [column0, column1) of what is asked for; NULL where there are kernels, with
     * which the products are linear jobs (gradient_ops.c). */
    void (*product)(const struct rondo_token_run *run, int64_t row0, int64_t row1, int64_t column0, int64_t column1);
    void (*dx)(const struct rondo_device_linear *l, const struct rondo_linear_dx_run *run, int64_t leaf0, int64_t leaf1, float *dx,
               int64_t dx_stride, int64_t row0, int64_t row1);
    /* packs a tile of a job from a[t][row], step after step as order[] has them; first: the row of the job's first */
    void (*pack)(const struct rondo_cpu_linear_job *job, const struct rondo_token_run *run, int64_t first, int64_t tile);
    /* of a layer's weights those of inputs [column, column + 32) and outputs [output, end), as a panel of outputs' columns, [end - output][32]
     * floats; output is a multiple of 32. Inputs that are not there: 0. k: whose widen() it uses. */
    void (*turn)(const struct rondo_device_linear *l, const struct rondo_cpu_linear *k, int64_t column, int64_t output, int64_t end, float *to);
    /* columns [column0, column1) of a segment's row */
    void (*sum)(const struct rondo_token_run *run, const struct rondo_token_segment *segment, int64_t column0, int64_t column1);
    void (*rmsnorm)(int64_t rows, int64_t dim, const float *x, const float *weight, float eps, const float *dy, float *dx, float *terms, int add);
    void (*rope)(int64_t rows, int64_t heads, int64_t dim, float *x, int64_t row_stride, int64_t head_stride, const float *table);
    void (*swiglu)(int64_t count, const float *gate, const float *up, const float *dy, float *dgate, float *dup);
};

/* Rows [first, first + rows) of W, [rows][columns that the layer has] of `type`; of Q8 with their scales. */
struct rondo_cpu_load {
    struct rondo_device_linear *linear;
    int64_t first, rows;
    const void *weights;
    const float *scales;
    int32_t type, reserved;
};

struct rondo_cpu_packing {
    /* what of them belongs to this panel and to leaves [leaf0, leaf1) */
    void (*load)(const struct rondo_cpu_load *job, int64_t panel, int32_t leaf0, int32_t leaf1);
};

/* ---- element by element, or row by row ---- */

struct rondo_cpu_elementwise {
    void (*rmsnorm)(int64_t rows, int64_t dim, const float *x, const float *weight, float eps, float *y);
    void (*rope)(int64_t rows, int64_t heads, int64_t dim, float *x, int64_t row_stride, int64_t head_stride, const float *table);
    void (*swiglu)(int64_t count, const float *gate, const float *up, float *y);
    void (*convert)(int64_t count, int from_type, const void *from, int to_type, void *to);
    void (*convert_rows)(int64_t rows, int64_t dim, int from_type, const char *from, size_t from_stride, int to_type, char *to, size_t to_stride);
    void (*logsumexp)(int64_t rows, int64_t dim, const float *x, int64_t x_stride, double *out);
    void (*short_conv)(const struct rondo_conv_run *run, int64_t first, int64_t channels);   /* of these channels */
    void (*sigmoid_mul)(int64_t count, const float *gate, const float *x, float *y);
};

/* ---- cross-entropy: a leaf of a row ---- */

struct rondo_cpu_entropy {
    /* the largest of `count` logits, and the sum of their weights against it */
    void (*leaf)(const float *x, int64_t count, float *most, double *sum);
    /* dx[i] = the weight of x[i] against `most`, times scale, times `by`; dx may be x */
    void (*slope)(const float *x, int64_t count, float most, float scale, float by, float *dx, int add);
};

/* ---- the delta rule: an item is some columns of one head over some tokens ---- */

/* A block (core/device.h) with everything resolved. Strides count elements. */
struct rondo_delta_task {
    const struct rondo_delta_form *form;
    int32_t kind, column, columns;
    int64_t rows;
    const void *q, *k, *v, *g, *beta;     /* of the first token; v and out of the first column */
    void *out;
    int64_t q_stride, k_stride, v_stride, g_stride, beta_stride, out_stride;
    const float *a_log, *dt_bias;         /* of the head, or NULL */
    const float *from;                    /* NULL: zeros */
    float *to;                            /* NULL: not wanted */
    int64_t from_stride, to_stride;
};

struct rondo_cpu_delta {
    /* scratch of a worker for so many tasks with a state of at most so many columns; false: too large */
    bool (*bytes)(const struct rondo_delta_form *form, int32_t columns, int64_t tasks, size_t *bytes);
    /* tasks of one form, in any order; returns poll's code. next: what this worker is likely to do after these, or NULL; cold: nobody has
     * asked for what these read. poll is NULL on workers that are not the calling thread */
    int (*run)(const struct rondo_delta_task *tasks, int64_t count, const struct rondo_delta_task *next, bool cold, void *scratch,
               const struct rondo_poll *poll);
    void (*fold)(int32_t key_dim, int32_t columns, const float *map, int64_t map_stride, const float *from, int64_t from_stride,
                 const float *source, int64_t source_stride, float *to, int64_t to_stride);
};

/* Some columns of a head, whole leaves but for the last, over the tokens of a block of gradients. `sums` has of each token and leaf dq, dk and dg,
 * each of so many numbers as rondo__cpu_delta_padded() says, and dbeta. */
struct rondo_delta_backward_task {
    const struct rondo_delta_form *form;
    int64_t rows;
    int32_t columns, dv_type, accumulate, result;
    const void *q, *k, *v, *g, *beta, *dout;
    void *dv;
    int64_t q_stride, k_stride, v_stride, g_stride, beta_stride, dout_stride, dv_stride;
    const float *a_log, *dt_bias;
    const float *state, *end;             /* NULL: zeros */
    float *begin;                         /* NULL: not wanted */
    int64_t state_stride, end_stride, begin_stride;
    float *sums;
    int64_t sums_token, sums_leaf;        /* floats from one to the next */
};

/* What becomes of these sums, of tokens of one token leaf: gates and betas of one head, from the last token back; queries and keys of a key head,
 * which `heads` heads read. */
struct rondo_delta_backward_gates {
    const struct rondo_delta_form *form;
    int64_t rows;
    int32_t leaves, accumulate, g_type, beta_type;
    const void *g, *beta;
    void *dg, *dbeta;
    int64_t g_stride, beta_stride, dg_stride, dbeta_stride;
    const float *a_log, *dt_bias;
    const float *sums;
    int64_t sums_token, sums_leaf;
    const float *from;                    /* the sum over tokens so far; NULL: none */
    float *to;                            /* NULL: not wanted */
};
struct rondo_delta_backward_keys {
    const struct rondo_delta_form *form;
    int64_t rows;
    int32_t leaves, heads, accumulate, q_type, k_type;
    const void *q, *k;
    void *dq, *dk;
    int64_t q_stride, k_stride, dq_stride, dk_stride;
    const float *sums;
    int64_t sums_token, sums_leaf, sums_head;
};
struct rondo_cpu_delta_backward {
    bool (*bytes)(const struct rondo_delta_form *form, int64_t rows, size_t *bytes);   /* scratch of one worker, for columns; false: too large */
    int (*columns)(const struct rondo_delta_backward_task *task, void *scratch, const struct rondo_poll *poll);
    void (*gates)(const struct rondo_delta_backward_gates *of);
    void (*keys)(const struct rondo_delta_backward_keys *of);
};

/* ---- the table ---- */

struct rondo_cpu_kernels {
    const struct rondo_cpu_attention *attention[RONDO_CPU_ARITHMETICS];   /* NULL: an arithmetic without kernels */
    const struct rondo_cpu_linear *linear[RONDO_CPU_ARITHMETICS];
    const struct rondo_cpu_packing *packing;
    struct rondo_cpu_elementwise elementwise;
    const struct rondo_cpu_gradient *gradient;
    struct rondo_cpu_backward backward;
    const struct rondo_cpu_delta *delta, *delta_chunk;   /* token by token; in chunks, without a fold of its own */
    const struct rondo_cpu_entropy *entropy;
    const struct rondo_cpu_delta_backward *delta_backward;
};

/* isa: enum rondo_cpu_isa, usable here. */
void rondo__cpu_kernels(struct rondo_cpu_kernels *out, int isa);

/* Parts of tables: what the sources of each build define. Only those of RONDO_CPU_HAVE_* are linked; soft always is. */
extern const struct rondo_cpu_attention rondo__cpu_attention_soft, rondo__cpu_attention_fma, rondo__cpu_attention_avx2,
    rondo__cpu_attention_avx512, rondo__cpu_attention_neon;
extern const struct rondo_cpu_attention rondo__cpu_attention_f64_soft, rondo__cpu_attention_f64_fma, rondo__cpu_attention_f64_avx2,
    rondo__cpu_attention_f64_avx512, rondo__cpu_attention_f64_neon;
extern const struct rondo_cpu_attention rondo__cpu_attention_hopper_soft, rondo__cpu_attention_hopper_fma, rondo__cpu_attention_hopper_avx2,
    rondo__cpu_attention_hopper_avx512, rondo__cpu_attention_hopper_neon;
extern const struct rondo_cpu_linear rondo__cpu_linear_soft, rondo__cpu_linear_fma, rondo__cpu_linear_avx2, rondo__cpu_linear_avx512,
    rondo__cpu_linear_neon;
extern const struct rondo_cpu_packing rondo__cpu_packing_soft, rondo__cpu_packing_fma, rondo__cpu_packing_avx2, rondo__cpu_packing_avx512,
    rondo__cpu_packing_neon;
extern const struct rondo_cpu_gradient rondo__cpu_gradient_soft, rondo__cpu_gradient_fma, rondo__cpu_gradient_avx2, rondo__cpu_gradient_avx512,
    rondo__cpu_gradient_neon;
extern const struct rondo_cpu_elementwise rondo__cpu_elementwise_soft, rondo__cpu_elementwise_fma, rondo__cpu_elementwise_avx2,
    rondo__cpu_elementwise_avx512, rondo__cpu_elementwise_neon;
extern const struct rondo_cpu_delta rondo__cpu_delta_soft, rondo__cpu_delta_fma, rondo__cpu_delta_avx2, rondo__cpu_delta_avx512,
    rondo__cpu_delta_neon, rondo__cpu_delta_chunk_soft, rondo__cpu_delta_chunk_fma, rondo__cpu_delta_chunk_avx2,
    rondo__cpu_delta_chunk_avx512, rondo__cpu_delta_chunk_neon;
extern const struct rondo_cpu_delta_backward rondo__cpu_delta_backward_soft, rondo__cpu_delta_backward_fma, rondo__cpu_delta_backward_avx2,
    rondo__cpu_delta_backward_avx512, rondo__cpu_delta_backward_neon;

extern const struct rondo_cpu_entropy rondo__cpu_entropy_soft, rondo__cpu_entropy_fma, rondo__cpu_entropy_avx2, rondo__cpu_entropy_avx512,
    rondo__cpu_entropy_neon;

extern const struct rondo_cpu_backward rondo__cpu_backward_soft, rondo__cpu_backward_fma, rondo__cpu_backward_avx2, rondo__cpu_backward_avx512,
    rondo__cpu_backward_neon;

#endif
