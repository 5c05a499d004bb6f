/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The delta rule on the device of the test hook: what a run points to on the host is kept until its stream comes to it, and every pointer to data
 * must be the device's, over all that the blocks touch.
 */
#include "backends/hook/device.h"

static void *keep(char **at, const void *from, size_t bytes)
{
    void *to = *at;
    memcpy(to, from, bytes);
    *at += (bytes + 15) & ~(size_t)15;
    return to;
}

/* Farthest ends of what the blocks touch of the parts' arrays and of buffers: elements. */
static void farther(int64_t *end, int64_t at) { *end = at > *end ? at : *end; }

static int own_rows(struct rondo__hook_device *h, const char *name, struct rondo_rows *rows, int64_t elements, int type)
{
    return elements ? rondo__hook_own(h, "delta", name, rows->data, 0, elements * (int64_t)rondo_type_size(type), &rows->data) : 0;
}

static int64_t last(const struct rondo_rows *rows, const struct rondo_delta_block *b, int32_t head, int64_t count)
{
    return b->rows ? (b->row + b->rows - 1) * rows->row_stride + head * rows->head_stride + count : 0;
}

/* The arrays of one part, as the device beneath knows them. */
static int own_part(struct rondo__hook_device *h, const struct rondo_delta_run *run, int32_t part, struct rondo_delta_rows *p)
{
    const struct rondo_delta_form *f = run->form;
    int64_t q = 0, k = 0, v = 0, g = 0, beta = 0, out = 0;
    for (int64_t i = 0; i < run->count; i++) {
        const struct rondo_delta_block *b = run->blocks + i;
        if (b->part != part || !b->rows)
            continue;
        farther(&k, last(&p->k, b, b->key_head, f->key_dim));
        farther(&g, last(&p->g, b, b->head, f->gate_dim));
        farther(&beta, last(&p->beta, b, b->head, 1));
        if (b->kind < RONDO_DELTA_MAP)
            farther(&v, last(&p->v, b, b->head, b->column + b->columns));
        if (b->kind == RONDO_DELTA_FORWARD) {
            farther(&q, last(&p->q, b, b->key_head, f->key_dim));
            farther(&out, last(&p->out, b, b->head, b->column + b->columns));
        }
    }
    int err = own_rows(h, "q", &p->q, q, f->type);
    err = err ? err : own_rows(h, "k", &p->k, k, f->type);
    err = err ? err : own_rows(h, "v", &p->v, v, f->type);
    err = err ? err : own_rows(h, "g", &p->g, g, f->gate_type);
    err = err ? err : own_rows(h, "beta", &p->beta, beta, f->beta_type);
    return err ? err : own_rows(h, "out", &p->out, out, f->out_type);
}

static void farther_state(int64_t *end, const struct rondo_delta_state *s, int64_t rows, int64_t columns)
{
    if (s->buffer >= 0)
        farther(end + s->buffer, s->at + (rows - 1) * s->stride + columns);
}

static int own_states(struct rondo__hook_device *h, const int64_t *end, int32_t count, float **states)
{
    int err = 0;
    for (int32_t i = 0; i < count && !err; i++) {
        void *real = NULL;
        err = end[i] ? rondo__hook_own(h, "delta", "a state", states[i], 0, end[i] * (int64_t)sizeof(float), &real) : 0;
        states[i] = real;
    }
    return err;
}

int rondo__hook_delta(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_delta_run *run, const struct rondo_poll *poll)
{
    struct rondo__hook_device *h = rondo__hook_device_of(dev);
    struct rondo__hook_call call = { .kind = RONDO_HOOK_DELTA, .as.delta = *run };
    const size_t parts = (size_t)run->part_count * sizeof *run->parts, blocks = (size_t)run->count * sizeof *run->blocks;
    const size_t states = (size_t)run->state_count * sizeof *run->states, ends = (size_t)run->state_count * sizeof(int64_t);
    int64_t heads = 0;
    void *real;
    char *at = rondo__hook_take(h, sizeof *run->form + parts + blocks + states + ends + 5 * 16);
    if (!at)
        return RONDO_ENOMEM;
    call.as.delta.form = keep(&at, run->form, sizeof *run->form);
    struct rondo_delta_rows *part = keep(&at, run->parts, parts);
    call.as.delta.blocks = keep(&at, run->blocks, blocks);
    float **state = keep(&at, run->states, states);
    int64_t *end = memset(at, 0, ends);
    int err = 0;
    for (int64_t i = 0; i < run->count; i++) {
        const struct rondo_delta_block *b = run->blocks + i;
        if (b->kind < RONDO_DELTA_MAP)
            farther_state(end, &b->from, run->form->key_dim, b->columns);
        else if (b->kind == RONDO_DELTA_MAP)   /* one number */
            farther_state(end, &b->from, 1, 1);
        farther_state(end, &b->to, run->form->key_dim, b->columns);
        farther(&heads, b->of + 1);
    }
    for (int32_t i = 0; i < run->part_count && !err; i++)
        err = own_part(h, run, i, part + i);
    err = err ? err : own_states(h, end, run->state_count, state);
    if (!err && run->a_log) {
        err = rondo__hook_own(h, "delta", "A_log", run->a_log, 0, heads * (int64_t)sizeof(float), &real);
        call.as.delta.a_log = real;
    }
    if (!err && run->dt_bias) {
        err = rondo__hook_own(h, "delta", "dt_bias", run->dt_bias, 0, heads * run->form->gate_dim * (int64_t)sizeof(float), &real);
        call.as.delta.dt_bias = real;
    }
    call.as.delta.parts = part;
    call.as.delta.states = state;
    return err ? err : rondo__hook_put(h, stream, &call, poll);
}

int rondo__hook_delta_fold(struct rondo_device *dev, struct rondo_stream *stream, int32_t key_dim, const struct rondo_delta_fold *folds,
                           int64_t count, float *const *states, int32_t state_count)
{
    struct rondo__hook_device *h = rondo__hook_device_of(dev);
    struct rondo__hook_call call = { .kind = RONDO_HOOK_DELTA_FOLD, .as.fold = { .count = count, .key_dim = key_dim, .state_count = state_count } };
    const size_t bytes = (size_t)count * sizeof *folds, pointers = (size_t)state_count * sizeof *states, ends = (size_t)state_count * sizeof(int64_t);
    char *at = rondo__hook_take(h, bytes + pointers + ends + 3 * 16);
    if (!at)
        return RONDO_ENOMEM;
    call.as.fold.folds = keep(&at, folds, bytes);
    float **state = keep(&at, states, pointers);
    int64_t *end = memset(at, 0, ends);
    for (int64_t i = 0; i < count; i++) {
        farther_state(end, &folds[i].map, key_dim, key_dim);
        farther_state(end, &folds[i].from, key_dim, folds[i].columns);
        farther_state(end, &folds[i].source, key_dim, folds[i].columns);
        farther_state(end, &folds[i].to, key_dim, folds[i].columns);
    }
    call.as.fold.states = state;
    int err = own_states(h, end, state_count, state);
    return err ? err : rondo__hook_put(h, stream, &call, NULL);
}

/* ---- gradients ---- */

/* As the device beneath knows them: rows of one block's tokens and all others', of heads with `count` numbers each. */
static int own_array(struct rondo__hook_device *h, const struct rondo_delta_backward_run *run, const char *name, struct rondo_rows *rows, bool keys,
                     int64_t count, int type)
{
    int64_t end = 0;
    for (int64_t i = 0; i < run->count; i++) {
        const struct rondo_delta_backward_block *b = run->blocks + i;
        if (b->rows)
            farther(&end, (b->row + b->rows - 1) * rows->row_stride + (keys ? b->key_head : b->head) * rows->head_stride + count);
    }
    return own_rows(h, name, rows, end, type);
}

static int own_arrays(struct rondo__hook_device *h, const struct rondo_delta_backward_run *run, struct rondo_delta_rows *in, struct rondo_delta_rows *out)
{
    const struct rondo_delta_form *f = run->form;
    int err = own_array(h, run, "q", &in->q, true, f->key_dim, f->type);
    err = err ? err : own_array(h, run, "k", &in->k, true, f->key_dim, f->type);
    err = err ? err : own_array(h, run, "v", &in->v, false, f->value_dim, f->type);
    err = err ? err : own_array(h, run, "g", &in->g, false, f->gate_dim, f->gate_type);
    err = err ? err : own_array(h, run, "beta", &in->beta, false, 1, f->beta_type);
    err = err ? err : own_array(h, run, "dout", &in->out, false, f->value_dim, f->out_type);
    err = err ? err : own_array(h, run, "dq", &out->q, true, f->key_dim, run->q_type);
    err = err ? err : own_array(h, run, "dk", &out->k, true, f->key_dim, run->k_type);
    err = err ? err : own_array(h, run, "dv", &out->v, false, f->value_dim, run->v_type);
    err = err ? err : own_array(h, run, "dg", &out->g, false, f->gate_dim, run->g_type);
    return err ? err : own_array(h, run, "dbeta", &out->beta, false, 1, run->beta_type);
}

/* Ends of what the blocks touch of buffers; those that are not there are not touched. */
static void backward_ends(const struct rondo_delta_backward_run *run, int64_t *end, int64_t *heads)
{
    for (int64_t i = 0; i < run->count; i++) {
        const struct rondo_delta_backward_block *b = run->blocks + i;
        const struct rondo_delta_state *const states[] = { &b->state, &b->end, &b->begin };
        const int64_t leaves = (b->position + b->rows + 127) / 128 - (b->position + 127) / 128;
        for (int j = 0; j < 3; j++)
            farther_state(end, states[j], run->form->key_dim, run->form->value_dim);
        if (b->rows && (b->position + b->rows) % 128 && b->position + b->rows < b->length)
            farther_state(end, &b->open, 1, run->form->gate_dim + 1);
        if (b->rows && b->position % 128)
            farther_state(end, &b->left, 1, run->form->gate_dim + 1);
        if (leaves)
            farther_state(end, &b->leaves, leaves, run->form->gate_dim + 1);
        farther(heads, b->of + 1);
    }
    for (int32_t i = 0; i < run->state_count; i++)
        end[i] = run->states[i] ? end[i] : 0;
}

int rondo__hook_delta_backward(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_delta_backward_run *run,
                               const struct rondo_poll *poll)
{
    struct rondo__hook_device *h = rondo__hook_device_of(dev);
    struct rondo__hook_call call = { .kind = RONDO_HOOK_DELTA_BACKWARD, .as.delta_backward = *run };
    const size_t blocks = (size_t)run->count * sizeof *run->blocks, states = (size_t)run->state_count * sizeof *run->states;
    const size_t ends = (size_t)run->state_count * sizeof(int64_t);
    int64_t heads = 0;
    void *real;
    char *at = rondo__hook_take(h, sizeof *run->form + 2 * sizeof *run->rows + blocks + states + ends + 6 * 16);
    if (!at)
        return RONDO_ENOMEM;
    call.as.delta_backward.form = keep(&at, run->form, sizeof *run->form);
    struct rondo_delta_rows *in = keep(&at, run->rows, sizeof *run->rows), *out = keep(&at, run->results, sizeof *run->results);
    call.as.delta_backward.blocks = keep(&at, run->blocks, blocks);
    float **state = keep(&at, run->states, states);
    int64_t *end = memset(at, 0, ends);
    backward_ends(run, end, &heads);
    int err = own_arrays(h, run, in, out);
    err = err ? err : own_states(h, end, run->state_count, state);
    if (!err && run->a_log) {
        err = rondo__hook_own(h, "delta", "A_log", run->a_log, 0, heads * (int64_t)sizeof(float), &real);
        call.as.delta_backward.a_log = real;
    }
    if (!err && run->dt_bias) {
        err = rondo__hook_own(h, "delta", "dt_bias", run->dt_bias, 0, heads * run->form->gate_dim * (int64_t)sizeof(float), &real);
        call.as.delta_backward.dt_bias = real;
    }
    call.as.delta_backward.rows = in;
    call.as.delta_backward.results = out;
    call.as.delta_backward.states = state;
    return err ? err : rondo__hook_put(h, stream, &call, poll);
}
