/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A task: one job of a program (core/device.h) with everything resolved that a kernel reads, so that kernels know nothing of programs,
 * places and head groups. attention_run.c makes them, once for a program, and fills in where data lies before each run.
 */
#ifndef RONDO_CPU_TASK_H
#define RONDO_CPU_TASK_H

#include <string.h>

#include "core/internal.h"

/* Strides count elements; head dimensions are dense. */
struct rondo_attention_task {
    const void *q;
    int64_t q_rows, q_row_stride, q_head_stride;
    const rondo_span *q_spans;        /* where the rows stand: span.row counts from 0 */
    int32_t q_span_count, q_type;

    const struct rondo_kv_part *kv;   /* by a leaf's source; NULL while scratch is measured, when they may be anything */
    int64_t sequence;                 /* index into a part's kv_row */
    const struct rondo_leaf *leaves;
    int32_t leaf_count, kv_type;

    const struct rondo_tree_step *program;
    int32_t steps, depth;
    float **slots;                    /* LOAD and STORE's; NULL where there are none */

    int32_t heads, kv_heads, head_dim, value_dim;   /* the job's: query head h reads KV head h / (heads / kv_heads) */
    int32_t kv_head;                  /* number of the first of these in the KV parts */
    int32_t head;                     /* number of the first query head among all heads of the plan */
    float scale_log2;
    int32_t leaf_size, operation;     /* enum rondo_job_operation */
    const struct rondo_mask *mask;

    struct rondo_terms terms;
    const float *alibi, *sinks;       /* of the task's first head, as bias; where the program has them */
    const float *bias;
    int64_t bias_at, bias_row_stride, bias_head_stride;   /* bias_at: of the query and the key at position 0, by index in `bias` */
    uint64_t seed;
    float *stats;                     /* M and l of each row; or NULL */
    int64_t stats_row_stride, stats_head_stride;
    float *probs;                     /* of PROBABILITIES; probs_at: of the key at position 0 */
    int64_t probs_at, probs_row_stride, probs_head_stride;

    void *out;                        /* where the program has OUT */
    int64_t out_row_stride, out_head_stride;
    int32_t out_type, kv_count;
    float *lse;                       /* or NULL */
    int64_t lse_row_stride, lse_head_stride;
};

/* The key position of a task's query token. */
static inline int64_t rondo__cpu_position(const struct rondo_attention_task *t, int64_t token)
{
    const rondo_span *s = t->q_spans;
    for (int32_t i = 1; i < t->q_span_count && t->q_spans[i].row <= token; i++)
        s = t->q_spans + i;
    return s->first + (token - s->row) * s->step;
}

/* ---- leaves (core/leaf.h has more) ---- */

/* What of a run tokens [t0, t1) see: leaves [*first, *end). */
static inline void rondo__run_seen(const struct rondo_attention_task *t, int64_t t0, int64_t t1, const struct rondo_leaf *run, int64_t *first,
                                   int64_t *end)
{
    int64_t lo = INT64_MAX, hi = INT64_MIN;
    for (int64_t token = t0; token < t1; token++) {
        int64_t a, b;
        t->mask->kind->row(t->mask, t->sequence, rondo__cpu_position(t, token), &a, &b);
        lo = a < lo ? a : lo;
        hi = b > hi ? b : hi;
    }
    rondo__run_visible(run, rondo__run_leaves(run, t->leaf_size), lo, hi, t->leaf_size, first, end);
}

/* The first key of a leaf for one of the task's KV heads: where it lies, in elements from `k` and `v`, and the way to the next key. */
struct rondo_leaf_rows {
    const void *k, *v;
    int64_t k_at, v_at, k_stride, v_stride;
};
static inline struct rondo_leaf_rows rondo__leaf_rows(const struct rondo_attention_task *t, const struct rondo_leaf *f, int32_t kv_head)
{
    const struct rondo_kv_part *part = t->kv + f->source;
    int64_t row = f->row + (part->kv_row ? part->kv_row[t->sequence] : 0);
    if (part->pages)
        row = part->pages[row / part->page_rows] * part->page_rows + row % part->page_rows;
    return (struct rondo_leaf_rows){ part->k.data, part->v.data, row * part->k.row_stride + (t->kv_head + kv_head) * part->k.head_stride,
                                     row * part->v.row_stride + (t->kv_head + kv_head) * part->v.head_stride, part->k.row_stride,
                                     part->v.row_stride };
}

/* From a head of it to the next one, in elements; part: 0 K, 1 V. */
static inline int64_t rondo__head_stride(const struct rondo_attention_task *t, const struct rondo_leaf *f, int part)
{
    return part ? t->kv[f->source].v.head_stride : t->kv[f->source].k.head_stride;
}

/* ---- what a row sees, and what is dropped ---- */

/* Bit i of bits[]: the query at p, which sees [lo, hi), sees key i of a leaf in head `head` of the task. */
static inline void rondo__leaf_bits(const struct rondo_attention_task *t, const struct rondo_leaf *f, int32_t head, int64_t p, int64_t lo,
                                    int64_t hi, uint64_t bits[4])
{
    int32_t i0, i1;
    memset(bits, 0, 4 * sizeof *bits);
    rondo__visible_in_leaf(f, lo, hi, &i0, &i1);
    if (i0 >= i1)
        return;
    if (t->mask->kind->bits)
        t->mask->kind->bits(t->mask, t->sequence, t->head + head, p, f->first, f->step, (int32_t)f->count, bits);
    for (int32_t w = 0; w < 4; w++) {
        const int32_t a = i0 - 64 * w, b = i1 - 64 * w;
        uint64_t range = a <= 0 ? ~(uint64_t)0 : a < 64 ? ~(uint64_t)0 << a : 0;
        range &= b >= 64 ? ~(uint64_t)0 : b > 0 ? ~(~(uint64_t)0 << b) : 0;
        bits[w] = t->mask->kind->bits ? bits[w] & range : range;
    }
}

/* The words of keys k, k + 1, k + 2 and k + 3, where k is a multiple of 4; head: of the plan. */
static inline void rondo__drop_words(const struct rondo_attention_task *t, int32_t head, int64_t p, int64_t k, uint32_t words[4])
{
    const uint32_t key[2] = { (uint32_t)t->seed, (uint32_t)(t->seed >> 32) };
    const uint32_t counter[4] = { (uint32_t)((uint64_t)k >> 2), (uint32_t)(uint64_t)p, rondo__drop_place(head, p, k), (uint32_t)t->sequence };
    rondo_philox(words, counter, key);
}

#endif
