/* SPDX-License-Identifier: BSD-2-Clause
 *
 * For tests of attention kernels: random tasks for the device table (shapes, strides, masks, types, leaves,
 * tree programs with slots, terms of scores, probabilities), run on any instruction set and compared bit for bit.
 */
#ifndef RONDO_T_ATTENTION_CASE_H
#define RONDO_T_ATTENTION_CASE_H

#include <float.h>
#include <math.h>

#include "backends/cpu/cpu.h"
#include "backends/cpu/num.h"
#include "backends/cpu/task.h"
#include "tap.h"
/* Tests that are built with it are of the device "cuda" */
#ifdef CASE_CARD
#include "card.h"
#endif

extern const struct rondo_device_ops rondo__cpu_device;

struct shape {
    int heads, kv_heads, head_dim, value_dim;
    int64_t queries, keys, first; /* position of query 0 */
    int causal;
    int64_t left, right; /* -1 = open */
    int q_type, kv_type, out_type, leaf, step; /* step > 1: every step-th position lies here */
    int zigzag; /* queries in two spans */
    int tree; /* 0 canonical, 1 canonical with slots, 2 any binary tree with slots */
    int pad; /* strides with gaps */
    /* terms, and the rest of what is not plain */
    double cap; /* softcap */
    int alibi, sinks;
    int bias; /* 1: one for all heads, 2: each head its own */
    double drop; /* probability */
    int bits, bits_heads; /* a mask of bits, 1 + the eighths of keys that are visible; 9: documents. bits_heads: each head its own */
    int probs;
    int head, sequence; /* number of the first head among those of the plan; of the sequence */
    int arithmetic;
};

enum { CASE_SEQUENCES = 4 };

enum { CASE_LEAVES = 512, CASE_SLOTS = 8 };

struct test_case {
    struct rondo_attention_task task;
    struct shape shape;
    char *q, *k, *v, *out;
    size_t q_bytes, k_bytes, v_bytes, out_bytes, lse_floats, slot_floats;
    int64_t q_elements, k_elements, v_elements, k_rows;
    float *lse, *slots[CASE_SLOTS];
    struct rondo_kv_part kv[3]; /* 0: k and v; the others are the test's */
    struct rondo_mask mask;
    struct rondo_job job;
    struct rondo_place places[CASE_SLOTS];
    rondo_span spans[2];
    struct rondo_leaf leaves[CASE_LEAVES];
    struct rondo_tree_step *program;
    int32_t slots_used;
    float *alibi, *sinks, *bias, *stats, *probs;
    int64_t bias_rows, bias_stride, bias_floats, probs_floats, stats_floats, bias_first; /* bias_first: position of the first query */
    int64_t bias_row[CASE_SEQUENCES], bias_key[CASE_SEQUENCES], probs_key[CASE_SEQUENCES];
};

static uint64_t case_state = 1;
__attribute__((unused)) static uint64_t rnd(void)
{
    uint64_t z = (case_state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
__attribute__((unused)) static int64_t below(int64_t n) { return (int64_t)(rnd() % (uint64_t)n); }
__attribute__((unused)) static double uniform(void) { return (double)(rnd() >> 11) * 0x1p-53; }
__attribute__((unused)) static double normal(void)
{
    double s = 0;
    for (int i = 0; i < 12; i++)
        s += uniform();
    return s - 6.0;
}

static void *xalloc(size_t bytes)
{
    void *p = malloc(bytes ? bytes : 1);
    if (!p) {
        printf("Bail out! no memory for a test\n");
        exit(1);
    }
#ifdef CASE_CARD
    card_register(p, bytes ? bytes : 1);
#endif
    return p;
}

/* ---- a mask of bits ---- */

struct rondo_mask_data {
    uint64_t seed;
    int eighths, heads; /* 9: documents */
};

static uint64_t mixed(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* Documents of 1 to 32 positions come back: a query sees those of its own number. Else some 16 x 16 squares are empty, some whole. */
static int bits_one(const struct rondo_mask *m, int64_t sequence, int64_t head, int64_t p, int64_t k)
{
    const struct rondo_mask_data *d = m->data;
    const uint64_t h = d->heads ? mixed((uint64_t)head + 77) : 0, s = d->seed + (uint64_t)sequence;
    if (d->eighths == 9) {
        const int64_t size = 1 + (int64_t)(mixed(s) % 32);
        return ((p + 1024) / size + (int64_t)(h % 5)) % 3 == (k + 1024) / size % 3;
    }
    const uint64_t square = mixed(s ^ h ^ (uint64_t)((p + 4096) / 16) << 20 ^ (uint64_t)(k / 16)) % 8;
    if (square < 3)
        return square == 0 ? 0 : square == 1 ? 1 : (p + 4096) % 16 < 8;
    return (int)(mixed(s ^ h ^ (uint64_t)(p + 4096) << 24 ^ (uint64_t)k) % 8) < d->eighths;
}

static int window_sees(const struct rondo_mask *m, int64_t p, int64_t k)
{
    return !(m->left >= 0 && k < p - m->left) && !(m->right >= 0 && k > p + m->right);
}

static void bits_bits(const struct rondo_mask *m, int64_t sequence, int64_t head, int64_t p, int64_t k0, int64_t step, int32_t count,
                      uint64_t bits[4])
{
    memset(bits, 0, 4 * sizeof *bits);
    for (int32_t i = 0; i < count; i++)
        if (window_sees(m, p, k0 + i * step) && bits_one(m, sequence, head, p, k0 + i * step))
            bits[i / 64] |= (uint64_t)1 << (i % 64);
}

static void bits_row(const struct rondo_mask *m, int64_t sequence, int64_t p, int64_t *lo, int64_t *hi)
{
    (void)sequence;
    *lo = m->left < 0 ? INT64_MIN : p - m->left;
    *hi = m->right < 0 ? INT64_MAX : p + m->right + 1;
}

static const struct rondo_mask_kind case_bits = { .name = "bits of a test", .id = 99, .row = bits_row, .bits = bits_bits };
static struct rondo_mask_data case_data;

/* What the case's mask says, decided from positions. */
__attribute__((unused)) static int case_sees(const struct test_case *c, int64_t head, int64_t p, int64_t k)
{
    const struct shape *s = &c->shape;
    if ((s->causal && k > p) || (s->left >= 0 && k < p - s->left) || (s->right >= 0 && k > p + s->right))
        return 0;
    return !s->bits || bits_one(&c->mask, s->sequence, s->head + head, p, k);
}

/* ---- tree programs ---- */

static void emit(struct test_case *c, int32_t code, int32_t arg)
{
    c->program[c->task.steps++] = (struct rondo_tree_step){ code, arg };
}

/* Leaves [a, b) of the list; canonical: split where the aligned tree over absolute leaf indices splits. */
static int32_t split(const struct test_case *c, int32_t a, int32_t b)
{
    if (c->shape.tree == 2)
        return a + 1 + (int32_t)below(b - a - 1);
    const int64_t size = c->shape.leaf, ia = c->leaves[a].first / size, ib = c->leaves[b - 1].first / size;
    int64_t bit = 1;
    while (ia / (2 * bit) != ib / (2 * bit))
        bit *= 2;
    const int64_t middle = ib / bit * bit;
    int32_t at = a;
    while (c->leaves[at].first / size < middle)
        at++;
    return at;
}

struct moved {
    int32_t a, b, slot;
};

/* Emits the subtree; inner nodes listed in `moved` are loaded instead (unless it is the one that is being
 * made). */
static void emit_tree(struct test_case *c, int32_t a, int32_t b, const struct moved *moved, int32_t count,
                      int32_t *height, const int32_t *cuts)
{
    for (int32_t i = 0; i < count; i++)
        if (moved[i].a == a && moved[i].b == b) {
            emit(c, RONDO_TREE_LOAD, moved[i].slot);
            *height += 1;
            goto done;
        }
    if (b - a == 1) {
        emit(c, RONDO_TREE_LEAF, a);
        *height += 1;
    } else {
        const int32_t m = cuts[a * CASE_LEAVES + b];
        emit_tree(c, a, m, moved, count, height, cuts);
        emit_tree(c, m, b, moved, count, height, cuts);
        emit(c, RONDO_TREE_MERGE, 0);
        *height -= 1;
    }
done:
    if (*height > c->task.depth)
        c->task.depth = *height;
}

static void pick(struct test_case *c, int32_t a, int32_t b, struct moved *moved, int32_t *count,
                 int32_t *cuts)
{
    if (b - a > 1) {
        const int32_t m = cuts[a * CASE_LEAVES + b] = split(c, a, b);
        pick(c, a, m, moved, count, cuts);
        pick(c, m, b, moved, count, cuts);
    }
    if (c->shape.tree && *count < CASE_SLOTS && below(4) == 0) {
        moved[*count] = (struct moved){ a, b, *count };
        ++*count;
    }
}

/* Nodes in slots are made first (inner ones before outer ones: that is the order of pick()), then the root.
 */
static void make_program(struct test_case *c)
{
    struct moved moved[CASE_SLOTS];
    int32_t count = 0, height = 0, *cuts;
    const int32_t n = c->task.leaf_count;
    c->program = xalloc((size_t)(4 * n + 4 * CASE_SLOTS + 8) * sizeof *c->program);
    c->task.steps = c->task.depth = 0;
    if (n == 0) { /* nothing to see: the empty node, by way of a slot that the test fills */
        emit(c, RONDO_TREE_LOAD, 0);
        c->slots_used = c->task.depth = 1;
    } else {
        cuts = xalloc(sizeof(int32_t) * CASE_LEAVES * (CASE_LEAVES + 1));
        pick(c, 0, n, moved, &count, cuts);
        for (int32_t i = 0; i < count; i++) {
            emit_tree(c, moved[i].a, moved[i].b, moved, i, &height, cuts);
            emit(c, RONDO_TREE_STORE, moved[i].slot);
            height--;
        }
        emit_tree(c, 0, n, moved, count, &height, cuts);
        c->slots_used = count;
        free(cuts);
    }
    emit(c, RONDO_TREE_OUT, 0);
    c->task.program = c->program;
}

/* ---- data ---- */

__attribute__((unused)) static void put(void *p, int64_t i, int type, double x)
{
    rondo__put_element(p, i, type, (float)x);
}

static void fill_normal(void *p, int64_t n, int type, double scale)
{
    for (int64_t i = 0; i < n; i++)
        put(p, i, type, scale * normal());
}

/* Arrays of terms and of probabilities, for the plan's heads and the case's sequence; some of a bias hides. */
static void make_terms(struct test_case *c)
{
    const struct shape *s = &c->shape;
    const int64_t heads = s->head + s->heads;
    const rondo_span *last = c->spans + c->task.q_span_count - 1;
    c->bias_first = s->first;
    c->bias_rows = last->first + last->count - s->first;
    c->bias_stride = s->keys + s->pad;
    c->alibi = xalloc((size_t)heads * sizeof(float));
    c->sinks = xalloc((size_t)heads * sizeof(float));
    fill_normal(c->alibi, heads, RONDO_F32, 0.3);
    fill_normal(c->sinks, heads, RONDO_F32, 3.0);
    if (s->sinks == 2)
        for (int64_t i = 0; i < heads; i++)
            c->sinks[i] = (float[]){ -INFINITY, 500.0f, -500.0f, NAN, INFINITY, 0.0f, -FLT_MAX, FLT_MAX }[below(8)];
    for (int i = 0; i < CASE_SEQUENCES; i++) {
        c->bias_row[i] = -c->bias_first + (i == s->sequence ? 0 : 1000000);
        c->bias_key[i] = s->pad;
        c->probs_key[i] = s->pad;
    }
    c->bias_floats = s->bias ? c->bias_rows * (s->bias == 2 ? heads : 1) * c->bias_stride : 0;
    c->bias = xalloc((size_t)c->bias_floats * sizeof(float));
    fill_normal(c->bias, c->bias_floats, RONDO_F32, 2.0);
    for (int64_t i = 0; i < c->bias_floats; i++)
        if (below(6) == 0)
            c->bias[i] = -INFINITY;
    c->stats_floats = s->queries * s->heads * (2 + s->pad);
    c->stats = xalloc((size_t)c->stats_floats * sizeof(float));
    c->probs_floats = s->probs ? s->queries * s->heads * c->bias_stride : 0;
    c->probs = xalloc((size_t)c->probs_floats * sizeof(float));
}

static void case_make(struct test_case *c, const struct shape *s)
{
    struct rondo_attention_task *t = &c->task;
    memset(c, 0, sizeof *c);
    c->shape = *s;
    const int64_t pad = s->pad, step = s->step > 1 ? s->step : 1;
    t->heads = s->heads;
    t->kv_heads = s->kv_heads;
    t->head_dim = s->head_dim;
    t->value_dim = s->value_dim;
    t->q_rows = s->queries;
    t->q_head_stride = s->head_dim + pad;
    t->q_row_stride = s->heads * t->q_head_stride + pad;
    t->out_head_stride = s->value_dim + pad;
    t->out_row_stride = s->heads * t->out_head_stride + 2 * pad;
    c->kv[0].k.head_stride = s->head_dim + pad;
    c->kv[0].k.row_stride = s->kv_heads * c->kv[0].k.head_stride + pad;
    c->kv[0].v.head_stride = s->value_dim + 2 * pad;
    c->kv[0].v.row_stride = s->kv_heads * c->kv[0].v.head_stride;
    t->kv = c->kv;
    t->kv_count = 1;
    t->lse_head_stride = 1 + pad;
    t->lse_row_stride = s->heads * t->lse_head_stride;
    t->q_type = s->q_type;
    t->kv_type = s->kv_type;
    t->out_type = s->out_type;
    t->leaf_size = s->leaf;
    rondo__mask_make(&c->mask, s->causal, s->left, s->right);
    if (s->bits) {
        c->mask.kind = &case_bits;
        case_data = (struct rondo_mask_data){ rnd(), s->bits == 9 ? 9 : s->bits - 1, s->bits_heads };
        c->mask.data = &case_data;
        c->mask.heads = s->bits_heads ? s->head + s->heads : 1;
    }
    t->mask = &c->mask;
    if (s->cap != 0) {
        t->terms.cap_in = (float)(1 / sqrt((double)s->head_dim) / s->cap);
        t->terms.cap_out = (float)(s->cap * 1.4426950408889634);
    }
    t->terms.alibi = s->alibi;
    t->terms.sinks = s->sinks;
    t->terms.bias = s->bias != 0;
    t->terms.keep = 1;
    if (s->drop > 0) {
        t->terms.drop = (uint32_t)(s->drop * 0x1p32);
        t->terms.keep = (float)(1 / (1 - s->drop));
    }
    t->seed = 0x123456789abcdefu;
    t->scale_log2 = (float)(1.4426950408889634 / sqrt((double)s->head_dim));
    t->q_spans = c->spans;
    if (s->zigzag && s->queries > 1) {
        const int64_t n = s->queries / 3 + 1;
        c->spans[0] = (rondo_span){ s->first, n, 1, 0 };
        c->spans[1] = (rondo_span){ s->first + 2 * n, s->queries - n, 1, n };
        t->q_span_count = 2;
    } else {
        c->spans[0] = (rondo_span){ s->first, s->queries, 1, 0 };
        t->q_span_count = 1;
    }
    /* leaves: positions phase, phase + step, ... below keys; rows of the leaves in shuffled order */
    const int64_t phase = step > 1 ? below(step) : 0;
    for (int64_t at = 0; at < s->keys && t->leaf_count < CASE_LEAVES; at += s->leaf) {
        const int64_t end = at + s->leaf < s->keys ? at + s->leaf : s->keys,
                      first = at + ((phase - at) % step + step) % step;
        if (first < end)
            c->leaves[t->leaf_count++] = (struct rondo_leaf){
                .first = first, .step = (int32_t)step, .count = (end - 1 - first) / step + 1
            };
    }
    for (int32_t i = 0; i < t->leaf_count; i++) { /* insert each before or after all rows so far */
        if (below(2)) {
            c->leaves[i].row = c->k_rows;
        } else {
            for (int32_t j = 0; j < i; j++)
                c->leaves[j].row += c->leaves[i].count;
            c->leaves[i].row = 0;
        }
        c->k_rows += c->leaves[i].count;
    }
    t->leaves = c->leaves;
    c->q_elements = s->queries * t->q_row_stride;
    c->k_elements = c->k_rows * c->kv[0].k.row_stride;
    c->v_elements = c->k_rows * c->kv[0].v.row_stride;
    c->q_bytes = (size_t)c->q_elements * rondo_type_size(s->q_type);
    c->k_bytes = (size_t)c->k_elements * rondo_type_size(s->kv_type);
    c->v_bytes = (size_t)c->v_elements * rondo_type_size(s->kv_type);
    c->out_bytes = (size_t)(s->queries * t->out_row_stride) * rondo_type_size(s->out_type);
    c->lse_floats = (size_t)(s->queries * t->lse_row_stride);
    t->q = c->q = xalloc(c->q_bytes);
    c->kv[0].k.data = c->k = xalloc(c->k_bytes);
    c->kv[0].v.data = c->v = xalloc(c->v_bytes);
    t->out = c->out = xalloc(c->out_bytes);
    t->lse = c->lse = xalloc(c->lse_floats * sizeof(float));
    fill_normal(c->q, c->q_elements, s->q_type, 1.0);
    fill_normal(c->k, c->k_elements, s->kv_type, 1.0);
    fill_normal(c->v, c->v_elements, s->kv_type, 1.0);
    make_terms(c);
    make_program(c);
    c->slot_floats = rondo__slot_floats(s->queries, s->heads, s->value_dim);
    for (int32_t i = 0; i < c->slots_used; i++)
        c->slots[i] = xalloc(c->slot_floats * sizeof(float));
    t->slots = c->slots;
}

static void case_free(struct test_case *c)
{
    free(c->q);
    free(c->k);
    free(c->v);
    free(c->out);
    free(c->lse);
    free(c->program);
    free(c->alibi);
    free(c->sinks);
    free(c->bias);
    free(c->stats);
    free(c->probs);
    for (int i = 0; i < CASE_SLOTS; i++)
        free(c->slots[i]);
}

/* The task as a program of one job, and a run of it. */
static struct rondo_program_desc case_desc(struct test_case *c)
{
    const struct rondo_attention_task *t = &c->task;
    c->job = (struct rondo_job){ .sequence = c->shape.sequence, .q_rows = t->q_rows, .spans = t->q_span_count, .leaves = t->leaf_count, .steps = t->steps,
                                 .places = c->slots_used, .depth = t->depth,
                                 .operation = t->leaf_count ? RONDO_JOB_FORWARD : RONDO_JOB_JOIN };
    for (int32_t i = 0; i < c->slots_used; i++)
        c->places[i] = (struct rondo_place){ 0, i, 0 };
    return (struct rondo_program_desc){
        .heads = t->heads, .kv_heads = t->kv_heads, .head_dim = t->head_dim, .value_dim = t->value_dim, .q_type = t->q_type,
        .kv_type = t->kv_type, .out_type = t->out_type, .leaf_size = t->leaf_size, .arithmetic = c->shape.arithmetic,
        .level = RONDO_STRICT, .scale_log2 = t->scale_log2, .terms = t->terms, .node_width = t->value_dim + 2, .mask = *t->mask, .spans = t->q_spans,
        .leaves = t->leaves, .steps = t->program, .places = c->places, .jobs = &c->job, .span_count = t->q_span_count,
        .leaf_count = t->leaf_count, .step_count = t->steps, .place_count = c->slots_used, .job_count = 1 };
}

static struct rondo_attention_run case_io(struct test_case *c)
{
    const struct rondo_attention_task *t = &c->task;
    return (struct rondo_attention_run){
        .count = 1, .q = { (void *)(uintptr_t)t->q, t->q_row_stride, t->q_head_stride },
        .out = { t->out, t->out_row_stride, t->out_head_stride }, .lse = { t->lse, t->lse_row_stride, t->lse_head_stride },
        .kv = t->kv, .kv_count = t->kv_count, .nodes = c->slots, .node_count = c->slots_used, .head = c->shape.head, .alibi = c->alibi,
        .sinks = c->sinks, .bias = { c->bias, c->bias_stride * (c->shape.bias == 2 ? c->shape.head + c->shape.heads : 1),
                                     c->shape.bias == 2 ? c->bias_stride : 0 },
        .bias_row = c->bias_row, .bias_key = c->bias_key, .seed = t->seed,
        .stats = { c->stats, c->shape.heads * (2 + c->shape.pad), 2 + c->shape.pad },
        .probs = { c->probs, c->shape.heads * c->bias_stride, c->bias_stride }, .probs_key = c->probs_key };
}

/* A program, run once on arrays of the host. */
static int case_compute(struct rondo_device *dev, const struct rondo_program_desc *desc, const struct rondo_attention_run *run,
                        const struct rondo_poll *poll)
{
#ifdef CASE_CARD
    if (dev == card)
        return card_attention(desc, run, poll);
#endif
    struct rondo_program *program;
    int err = rondo__cpu_device.program_new(dev, &program, desc);
    if (!err) {
        err = rondo__cpu_device.attention(dev, NULL, program, run, poll);
        rondo__cpu_device.program_free(dev, program);
    }
    return err;
}

static int case_attention(struct test_case *c, struct rondo_device *dev, const struct rondo_poll *poll)
{
    const struct rondo_program_desc desc = case_desc(c);
    const struct rondo_attention_run run = case_io(c);
    int err = case_compute(dev, &desc, &run, poll);
    if (err || !c->shape.probs)
        return err;
    c->job.operation = RONDO_JOB_PROBABILITIES;
    c->job.steps = c->job.places = c->job.depth = 0;
    return case_compute(dev, &desc, &run, poll);
}

/* Fills outputs with a pattern, so that what is not written, and what is written beside, shows. */
static int case_run(struct test_case *c, struct rondo_device *dev)
{
    memset(c->out, 0xa5, c->out_bytes);
    memset(c->lse, 0xa5, c->lse_floats * sizeof(float));
    memset(c->stats, 0xa5, (size_t)c->stats_floats * sizeof(float));
    memset(c->probs, 0xa5, (size_t)c->probs_floats * sizeof(float));
    for (int32_t i = 0; i < c->slots_used; i++)
        memset(c->slots[i], 0xa5, c->slot_floats * sizeof(float));
    if (c->task.leaf_count == 0) {
        float *m = c->slots[0] + (size_t)(c->shape.queries * c->shape.heads) * (size_t)c->shape.value_dim;
        memset(c->slots[0], 0, c->slot_floats * sizeof(float));
        for (int64_t i = 0; i < c->shape.queries * c->shape.heads; i++)
            m[i] = -FLT_MAX;
    }
    return case_attention(c, dev, NULL);
}

/* Everything a run wrote. In slots the sign of a zero and the kind of a NaN are free. */
static size_t case_result_bytes(const struct test_case *c)
{
    return c->out_bytes + (c->lse_floats + (size_t)(c->stats_floats + c->probs_floats) + (size_t)c->slots_used * c->slot_floats) * sizeof(float);
}

static char *case_result(const struct test_case *c)
{
    char *r = xalloc(case_result_bytes(c)), *p = r;
    memcpy(p, c->out, c->out_bytes);
    p += c->out_bytes;
    memcpy(p, c->lse, c->lse_floats * sizeof(float));
    p += c->lse_floats * sizeof(float);
    memcpy(p, c->stats, (size_t)c->stats_floats * sizeof(float));
    p += (size_t)c->stats_floats * sizeof(float);
    memcpy(p, c->probs, (size_t)c->probs_floats * sizeof(float));
    p += (size_t)c->probs_floats * sizeof(float);
    for (int32_t i = 0; i < c->slots_used; i++, p += c->slot_floats * sizeof(float)) {
        memcpy(p, c->slots[i], c->slot_floats * sizeof(float));
        for (size_t j = 0; j < c->slot_floats; j++) {
            float x = c->slots[i][j];
            x = x != x ? NAN : x + 0.0f;
            memcpy(p + j * sizeof x, &x, sizeof x);
        }
    }
    return r;
}

__attribute__((unused)) static void case_print(const struct test_case *c)
{
    const struct shape *s = &c->shape;
    diag("heads %d/%d dims %d,%d queries %lld at %lld keys %lld causal %d window %lld,%lld types %d,%d,%d "
         "leaf %d step %d zigzag %d "
         "tree %d pad %d",
         s->heads, s->kv_heads, s->head_dim, s->value_dim, (long long)s->queries, (long long)s->first,
         (long long)s->keys, s->causal, (long long)s->left, (long long)s->right, s->q_type, s->kv_type,
         s->out_type, s->leaf, s->step, s->zigzag, s->tree, s->pad);
    diag("softcap %g alibi %d bias %d sinks %d dropout %g bits %d,%d probs %d head %d sequence %d arithmetic %s", s->cap, s->alibi, s->bias, s->sinks,
         s->drop, s->bits, s->bits_heads, s->probs, s->head, s->sequence, rondo_arithmetic_name(s->arithmetic));
}

/* Random terms, each with the chance of one in `rarely`. */
__attribute__((unused)) static void case_terms(struct shape *s, int rarely)
{
    s->cap = below(rarely) ? 0 : 0.5 + 30 * uniform();
    s->alibi = below(rarely) == 0;
    s->bias = below(rarely) ? 0 : 1 + (int)below(2);
    s->sinks = below(rarely) ? 0 : 1 + (int)below(2);
    s->drop = below(rarely) ? 0 : uniform();
    s->bits = below(rarely) ? 0 : 1 + (int)below(9);
    s->bits_heads = (int)below(2);
    s->probs = below(rarely) == 0;
    s->head = (int)below(4);
    s->sequence = (int)below(CASE_SEQUENCES);
}

/* ---- devices ---- */

struct device_under_test {
    const char *isa;
    int threads;
    struct rondo_device *dev;
};

/* All that this machine can run, the reference first; returns their number. */
__attribute__((unused)) static int devices_open(struct device_under_test *d, int max)
{
    static const char *const names[] = { "soft", "scalar", "scalar", "avx2", "avx512", "neon", "avx512", "avx2", "neon" };
    static const int threads[] = { 1, 1, 3, 1, 1, 1, 3, 2, 3 };
    int n = 0;
#ifdef CASE_CARD
    const char *why = card_open();
    if (why) {
        skip_all("%s", why);
        exit(0);
    }
    max = 1;
#endif
    for (size_t i = 0; i < sizeof names / sizeof *names && n < max; i++) {
        struct rondo_device_desc desc = { .threads = threads[i], .isa = names[i] };
        if (rondo__cpu_device.attach(&d[n].dev, &desc) == 0) {
            d[n].isa = names[i];
            d[n].threads = threads[i];
            n++;
        }
    }
#ifdef CASE_CARD
    if (card_attach()) {
        printf("Bail out! %s\n", rondo_error_text());
        exit(1);
    }
    d[n++] = (struct device_under_test){ "cuda", 1, card };
#endif
    return n;
}

__attribute__((unused)) static void devices_close(struct device_under_test *d, int n)
{
#ifdef CASE_CARD
    card_detach();
    n--;
#endif
    for (int i = 0; i < n; i++)
        rondo__cpu_device.detach(d[i].dev);
}

/* Runs the case on devices first.. and compares with device 0 (or with `want`); 1 where all are equal. */
__attribute__((unused)) static int case_same(struct test_case *c, struct device_under_test *d, int n)
{
    char *want = NULL;
    const size_t bytes = case_result_bytes(c);
    int same = 1;
    for (int i = 0; i < n && same; i++) {
        int err = case_run(c, d[i].dev);
        char *got = case_result(c);
        if (err) {
            diag("%s: %s", d[i].isa, rondo_error_text());
            same = 0;
        } else if (want && memcmp(want, got, bytes) != 0) {
            size_t at = 0, different = 0;
            for (size_t j = bytes; j-- > 0;)
                if (want[j] != got[j]) {
                    at = j;
                    different++;
                }
            diag("%s with %d threads differs from %s in %zu of %zu bytes, first at %zu (out %zu, lse %zu)",
                 d[i].isa, d[i].threads, d[0].isa, different, bytes, at, c->out_bytes,
                 c->lse_floats * sizeof(float));
            same = 0;
        }
        if (!want)
            want = got;
        else
            free(got);
    }
    free(want);
    if (!same)
        case_print(c);
    return same;
}

#endif
