/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The delta rule on the card: blocks of a run become tasks, which go up with it; delta.h has the kernels. What the device has no kernel for is refused:
 * key dimensions whose states do not fit a block's shared memory.
 */
#include <stdatomic.h>

#include "backends/cuda/layers.h"

static const float *state_at(float *const *states, struct rondo_delta_state s)
{
    return s.buffer < 0 ? NULL : states[s.buffer] + s.at;
}

static void *row_of(const struct rondo_rows *rows, int64_t row, int64_t head, int64_t column, int type)
{
    return rows->data ? (char *)rows->data + (row * rows->row_stride + head * rows->head_stride + column) * rondo__cuda_size(type) : NULL;
}

static struct cuda_delta_task task_of(const struct rondo_delta_run *run, const struct rondo_delta_block *b)
{
    const struct rondo_delta_form *f = run->form;
    const struct rondo_delta_rows *p = run->parts + b->part;
    const int32_t value = b->kind >= RONDO_DELTA_MAP ? 0 : b->column;
    return (struct cuda_delta_task){
        .q = row_of(&p->q, b->row, b->key_head, 0, f->type), .k = row_of(&p->k, b->row, b->key_head, 0, f->type),
        .v = row_of(&p->v, b->row, b->head, value, f->type), .g = row_of(&p->g, b->row, b->head, 0, f->gate_type),
        .beta = row_of(&p->beta, b->row, b->head, 0, f->beta_type), .out = row_of(&p->out, b->row, b->head, value, f->out_type),
        .a_log = run->a_log ? run->a_log + b->of : NULL, .dt_bias = run->dt_bias ? run->dt_bias + (int64_t)b->of * f->gate_dim : NULL,
        .from = state_at(run->states, b->from), .to = (float *)(uintptr_t)state_at(run->states, b->to), .from_stride = b->from.stride,
        .to_stride = b->to.stride, .q_stride = p->q.row_stride, .k_stride = p->k.row_stride, .v_stride = p->v.row_stride, .g_stride = p->g.row_stride,
        .beta_stride = p->beta.row_stride, .out_stride = p->out.row_stride, .rows = b->rows, .kind = b->kind, .column = b->column, .columns = b->columns
    };
}

/* The kernel for a form: those with states in registers are for dimensions that fill them. */
static int kernel_of(const struct rondo_delta_form *f)
{
    const int32_t key_dim = f->key_dim;
    return f->chunk ? KERNEL_rondo_cuda_delta_chunk
                    : key_dim == 64 ? KERNEL_rondo_cuda_delta_64 : key_dim == 128 ? KERNEL_rondo_cuda_delta_128 : KERNEL_rondo_cuda_delta;
}

/* Shared memory of a block, where so many tokens are made ready together. */
static int64_t bytes_of(const struct rondo_delta_form *f, int64_t chain, int64_t tokens)
{
    const int64_t held = kernel_of(f) == KERNEL_rondo_cuda_delta ? (f->key_dim + 3) / 4 : 0;
    return f->chunk ? cuda_delta_chunk_bytes(f->key_dim, chain, tokens, f->chunk) : cuda_delta_bytes(chain, tokens, held);
}

int rondo__cuda_delta(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_delta_run *run, const struct rondo_poll *poll)
{
    const struct rondo_delta_form *f = run->form;
    const int kernel = kernel_of(f);
    const unsigned threads = f->chunk ? CUDA_THREADS : CUDA_DELTA_THREADS;
    const int64_t chain = cuda_delta_chain(f->key_dim);
    int64_t tokens = CUDA_DELTA_TOKENS;
    cu_stream s = rondo__cuda_stream(dev, stream);
    struct rondo__cuda_slot *slot;
    cu_pointer at;
    int32_t columns = 1;
    size_t bytes;
    while (tokens > 1 && bytes_of(f, chain, tokens) > dev->shared_block)
        tokens /= 2;
    const int64_t shared = bytes_of(f, chain, tokens);
    if (shared > dev->shared_block)
        return rondo__cuda_fail(RONDO_ENOTSUP, "the cuda device: %d columns of a state of %d rows take %lld bytes of shared memory; graphics card %d (%s) has %d",
                                CUDA_DELTA_COLUMNS, (int)f->key_dim, (long long)shared, (int)dev->index, dev->name, (int)dev->shared_block);
    int err = rondo__cuda_enter(dev);
    if (err || run->count < 1)
        return err;
    if (!rondo__mul((size_t)run->count, sizeof(struct cuda_delta_task), &bytes) || !rondo__add(bytes, 16, &bytes))
        return rondo__cuda_fail(RONDO_EINVAL, "a run of the delta rule has more blocks than can be counted");
    for (int64_t i = 0; i < run->count; i++)
        columns = run->blocks[i].columns > columns ? run->blocks[i].columns : columns;
    struct cuda_delta c = { .count = run->count, .slices = rondo__cuda_up(columns, CUDA_DELTA_COLUMNS), .tolerance = run->tolerance,
                            .lower_bound = f->lower_bound, .scale = f->scale, .key_dim = f->key_dim, .gate_dim = f->gate_dim, .chain = (int32_t)chain,
                            .tokens = (int32_t)tokens, .type = f->type, .gate_type = f->gate_type, .beta_type = f->beta_type, .out_type = f->out_type,
                            .gate = f->gate, .beta = f->beta, .norm = f->norm, .chunk = f->chunk };
    err = rondo__cuda_slot_take(dev, poll, bytes, &slot);
    if (err)
        return err;
    struct cuda_delta_task *task = rondo__cuda_slot_add(slot, (size_t)run->count * sizeof *task, &at);
    c.tasks = (const struct cuda_delta_task *)(uintptr_t)at;
    for (int64_t i = 0; i < run->count; i++)
        task[i] = task_of(run, run->blocks + i);
    err = rondo__cuda_slot_send(dev, slot, s);
    if (!err)
        err = rondo__cuda_launch_of(dev, kernel, rondo__cuda_spread(dev, c.count * c.slices * CUDA_THREADS), threads, (size_t)shared, s, &c);
    if (!err)
        err = rondo__cuda_slot_close(dev, slot, s);
    if (!err && poll && poll->work) {      /* on its way: how far it is nobody can tell */
        poll->work->total++;
        atomic_fetch_add(&poll->work->done, 1);
    }
    return err;
}

int rondo__cuda_delta_fold(struct rondo_device *dev, struct rondo_stream *stream, int32_t key_dim, const struct rondo_delta_fold *folds, int64_t count,
                           float *const *states, int32_t state_count)
{
    cu_stream s = rondo__cuda_stream(dev, stream);
    struct rondo__cuda_slot *slot;
    cu_pointer at;
    struct cuda_delta_folds c = { .count = count, .key_dim = key_dim };
    int err = rondo__cuda_enter(dev);
    (void)state_count;
    if (err || count < 1)
        return err;
    err = rondo__cuda_slot_take(dev, NULL, (size_t)count * sizeof *c.folds + 16, &slot);
    if (err)
        return err;
    struct cuda_delta_fold *fold = rondo__cuda_slot_add(slot, (size_t)count * sizeof *fold, &at);
    c.folds = (const struct cuda_delta_fold *)(uintptr_t)at;
    for (int64_t i = 0; i < count; i++) {
        const struct rondo_delta_fold *f = folds + i;
        c.columns = f->columns > c.columns ? f->columns : c.columns;
        fold[i] = (struct cuda_delta_fold){ state_at(states, f->map), state_at(states, f->from), state_at(states, f->source),
                                            (float *)(uintptr_t)state_at(states, f->to), f->map.stride, f->from.stride, f->source.stride, f->to.stride,
                                            f->columns, 0 };
    }
    err = rondo__cuda_slot_send(dev, slot, s);
    if (!err)
        err = rondo__cuda_launch(dev, KERNEL_rondo_cuda_delta_fold, rondo__cuda_spread(dev, count * key_dim * c.columns), 0, s, &c);
    return err ? err : rondo__cuda_slot_close(dev, slot, s);
}
