/* SPDX-License-Identifier: BSD-2-Clause
 *
 * For tests of attention kernels: random tasks for the device table (shapes, strides, masks, types, leaves,
 * tree programs with slots), run on any instruction set and compared bit for bit.
 */
#ifndef RONDO_T_ATTENTION_CASE_H
#define RONDO_T_ATTENTION_CASE_H

#include <float.h>
#include <math.h>

#include "backends/cpu/cpu.h"
#include "backends/cpu/num.h"
#include "backends/cpu/task.h"
#include "tap.h"

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
};

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
    return p;
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
    t->mask = &c->mask;
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
    for (int i = 0; i < CASE_SLOTS; i++)
        free(c->slots[i]);
}

/* The task as a program of one job, and a run of it. */
static struct rondo_program_desc case_desc(struct test_case *c)
{
    const struct rondo_attention_task *t = &c->task;
    c->job = (struct rondo_job){ .q_rows = t->q_rows, .spans = t->q_span_count, .leaves = t->leaf_count, .steps = t->steps,
                                 .places = c->slots_used, .depth = t->depth,
                                 .operation = t->leaf_count ? RONDO_JOB_FORWARD : RONDO_JOB_JOIN };
    for (int32_t i = 0; i < c->slots_used; i++)
        c->places[i] = (struct rondo_place){ 0, i, 0 };
    return (struct rondo_program_desc){
        .heads = t->heads, .kv_heads = t->kv_heads, .head_dim = t->head_dim, .value_dim = t->value_dim, .q_type = t->q_type,
        .kv_type = t->kv_type, .out_type = t->out_type, .leaf_size = t->leaf_size, .arithmetic = RONDO_ARITHMETIC_F32,
        .level = RONDO_STRICT, .scale_log2 = t->scale_log2, .node_width = t->value_dim + 2, .mask = *t->mask, .spans = t->q_spans,
        .leaves = t->leaves, .steps = t->program, .places = c->places, .jobs = &c->job, .span_count = t->q_span_count,
        .leaf_count = t->leaf_count, .step_count = t->steps, .place_count = c->slots_used, .job_count = 1 };
}

static struct rondo_attention_run case_io(struct test_case *c)
{
    const struct rondo_attention_task *t = &c->task;
    return (struct rondo_attention_run){
        .count = 1, .q = { (void *)(uintptr_t)t->q, t->q_row_stride, t->q_head_stride },
        .out = { t->out, t->out_row_stride, t->out_head_stride }, .lse = { t->lse, t->lse_row_stride, t->lse_head_stride },
        .kv = t->kv, .kv_count = t->kv_count, .nodes = c->slots, .node_count = c->slots_used };
}

static int case_attention(struct test_case *c, struct rondo_device *dev, const struct rondo_poll *poll)
{
    const struct rondo_program_desc desc = case_desc(c);
    const struct rondo_attention_run run = case_io(c);
    struct rondo_program *program;
    int err = rondo__cpu_device.program_new(dev, &program, &desc);
    if (!err) {
        err = rondo__cpu_device.attention(dev, NULL, program, &run, poll);
        rondo__cpu_device.program_free(dev, program);
    }
    return err;
}

/* Fills outputs with a pattern, so that what is not written, and what is written beside, shows. */
static int case_run(struct test_case *c, struct rondo_device *dev)
{
    memset(c->out, 0xa5, c->out_bytes);
    memset(c->lse, 0xa5, c->lse_floats * sizeof(float));
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
    return c->out_bytes + (c->lse_floats + (size_t)c->slots_used * c->slot_floats) * sizeof(float);
}

static char *case_result(const struct test_case *c)
{
    char *r = xalloc(case_result_bytes(c)), *p = r;
    memcpy(p, c->out, c->out_bytes);
    p += c->out_bytes;
    memcpy(p, c->lse, c->lse_floats * sizeof(float));
    p += c->lse_floats * sizeof(float);
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
}

/* ---- devices ---- */

struct device_under_test {
    const char *isa;
    int threads;
    struct rondo_device *dev;
};

/* All that this machine can run, the reference first; returns their number. */
static int devices_open(struct device_under_test *d, int max)
{
    static const char *const names[] = { "soft", "scalar", "scalar", "avx2", "avx512", "neon", "avx512", "avx2", "neon" };
    static const int threads[] = { 1, 1, 3, 1, 1, 1, 3, 2, 3 };
    int n = 0;
    for (size_t i = 0; i < sizeof names / sizeof *names && n < max; i++) {
        struct rondo_device_desc desc = { .threads = threads[i], .isa = names[i] };
        if (rondo__cpu_device.attach(&d[n].dev, &desc) == 0) {
            d[n].isa = names[i];
            d[n].threads = threads[i];
            n++;
        }
    }
    return n;
}

static void devices_close(struct device_under_test *d, int n)
{
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
