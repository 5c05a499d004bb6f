/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Gradients of the delta rule on the card: blocks of a run become tasks of two kernels (delta_backward.h), whose sums wait in scratch between them; in
 * batches, so that scratch stays small. Token leaves are cut out here, as backends/cpu/delta_backward_ops.c has them.
 */
#include <stdatomic.h>

#include "backends/cuda/layers.h"

#define TOKENS 128                   /* of a leaf of a sum over tokens */
#define CHUNKS (RONDO_DELTA_BACKWARD_ROWS / TOKENS + 1)
#define SUMS_BYTES ((int64_t)256 << 20)   /* of a batch, unless one key head has more */

static float *place(const struct rondo_delta_backward_run *run, struct rondo_delta_state s)
{
    return s.buffer < 0 || !run->states[s.buffer] ? NULL : run->states[s.buffer] + s.at;
}

static void *row_of(const struct rondo_rows *rows, int64_t row, int64_t head, int type)
{
    return rows->data ? (char *)rows->data + (row * rows->row_stride + head * rows->head_stride) * rondo__cuda_size(type) : NULL;
}

static struct cuda_delta_back_task task_of(const struct rondo_delta_backward_run *run, const struct rondo_delta_backward_block *b, float *sums)
{
    const struct rondo_delta_form *f = run->form;
    const struct rondo_delta_rows *p = run->rows;
    return (struct cuda_delta_back_task){
        .of = { .q = row_of(&p->q, b->row, b->key_head, f->type), .k = row_of(&p->k, b->row, b->key_head, f->type),
                .v = row_of(&p->v, b->row, b->head, f->type), .g = row_of(&p->g, b->row, b->head, f->gate_type),
                .beta = row_of(&p->beta, b->row, b->head, f->beta_type), .a_log = run->a_log ? run->a_log + b->of : NULL,
                .dt_bias = run->dt_bias ? run->dt_bias + (int64_t)b->of * f->gate_dim : NULL, .from = place(run, b->state), .to = place(run, b->begin),
                .from_stride = b->state.stride, .to_stride = b->begin.stride, .q_stride = p->q.row_stride, .k_stride = p->k.row_stride,
                .v_stride = p->v.row_stride, .g_stride = p->g.row_stride, .beta_stride = p->beta.row_stride, .rows = b->rows,
                .kind = CUDA_DELTA_FORWARD, .columns = f->value_dim },
        .dout = row_of(&p->out, b->row, b->head, f->out_type), .dv = row_of(&run->results->v, b->row, b->head, run->v_type), .end = place(run, b->end),
        .sums = sums, .dout_stride = p->out.row_stride, .dv_stride = run->results->v.row_stride, .end_stride = b->end.stride, .result = b->result
    };
}

/* The tokens of a block that are in one token leaf: [first, end) of its rows. */
static bool chunk_of(const struct rondo_delta_backward_block *b, int64_t number, int64_t *first, int64_t *end)
{
    const int64_t edge = (b->position / TOKENS + number) * TOKENS - b->position;
    *first = edge > 0 ? edge : 0;
    *end = edge + TOKENS < b->rows ? edge + TOKENS : b->rows;
    return *first < *end;
}

static struct cuda_delta_gates gates_of(const struct rondo_delta_backward_run *run, const struct rondo_delta_backward_block *b, float *sums, int64_t sums_token,
                                        int64_t first, int64_t end)
{
    const struct rondo_delta_form *f = run->form;
    const int64_t begins = b->position + first, ends = b->position + end;
    const int64_t number = (begins + TOKENS - 1) / TOKENS - (b->position + TOKENS - 1) / TOKENS;
    float *const leaves = place(run, b->leaves);
    return (struct cuda_delta_gates){
        .g = row_of(&run->rows->g, b->row + first, b->head, f->gate_type), .beta = row_of(&run->rows->beta, b->row + first, b->head, f->beta_type),
        .dg = row_of(&run->results->g, b->row + first, b->head, run->g_type), .dbeta = row_of(&run->results->beta, b->row + first, b->head, run->beta_type),
        .a_log = run->a_log ? run->a_log + b->of : NULL, .dt_bias = run->dt_bias ? run->dt_bias + (int64_t)b->of * f->gate_dim : NULL,
        .from = ends % TOKENS && ends < b->length ? place(run, b->open) : NULL,
        .to = begins % TOKENS ? place(run, b->left) : leaves ? leaves + number * b->leaves.stride : NULL, .sums = sums + first * sums_token,
        .g_stride = run->rows->g.row_stride, .beta_stride = run->rows->beta.row_stride, .dg_stride = run->results->g.row_stride,
        .dbeta_stride = run->results->beta.row_stride, .rows = end - first
    };
}

static struct cuda_delta_keys keys_of(const struct rondo_delta_backward_run *run, const struct rondo_delta_backward_block *b, float *sums, int64_t sums_token,
                                      int64_t first, int64_t end)
{
    const struct rondo_delta_form *f = run->form;
    return (struct cuda_delta_keys){
        .q = row_of(&run->rows->q, b->row + first, b->key_head, f->type), .k = row_of(&run->rows->k, b->row + first, b->key_head, f->type),
        .dq = row_of(&run->results->q, b->row + first, b->key_head, run->q_type), .dk = row_of(&run->results->k, b->row + first, b->key_head, run->k_type),
        .sums = sums + first * sums_token, .q_stride = run->rows->q.row_stride, .k_stride = run->rows->k.row_stride,
        .dq_stride = run->results->q.row_stride, .dk_stride = run->results->k.row_stride, .rows = end - first
    };
}

/* Blocks [first, first + count) of the run, whole key heads. */
static int batch(struct rondo_device *dev, cu_stream s, const struct rondo_delta_backward_run *run, const struct rondo_poll *poll, struct cuda_delta_back c,
                 int64_t first, int64_t count, int64_t shared, int64_t most)
{
    const struct rondo_delta_backward_block *b = run->blocks + first;
    float *const all = (float *)(uintptr_t)dev->sums.memory;
    struct rondo__cuda_slot *slot;
    cu_pointer at;
    const size_t tasks = (size_t)count * sizeof *c.tasks, gates = (size_t)count * CHUNKS * sizeof *c.gates;
    const size_t keys = (size_t)(count / run->group) * CHUNKS * sizeof *c.keys;
    int err = rondo__cuda_slot_take(dev, poll, tasks + gates + keys + 64, &slot);
    if (err)
        return err;
    struct cuda_delta_back_task *task = rondo__cuda_slot_add(slot, tasks, &at);
    c.tasks = (const void *)(uintptr_t)at;
    struct cuda_delta_gates *gate = rondo__cuda_slot_add(slot, gates, &at);
    c.gates = (const void *)(uintptr_t)at;
    struct cuda_delta_keys *key = rondo__cuda_slot_add(slot, keys, &at);
    c.keys = (const void *)(uintptr_t)at;
    c.count = count;
    for (int64_t i = 0; i < count; i++) {
        float *const sums = all + i * c.sums_head;
        int64_t begin, end;
        task[i] = task_of(run, b + i, sums);
        for (int64_t number = 0; number < CHUNKS; number++) {
            if (!chunk_of(b + i, number, &begin, &end))
                continue;
            gate[c.gate_count++] = gates_of(run, b + i, sums, c.sums_token, begin, end);
            if (i % run->group == 0)
                key[c.key_count++] = keys_of(run, b + i, sums, c.sums_token, begin, end);
        }
    }
    const int64_t items = count * c.leaves;
    err = rondo__cuda_slot_send(dev, slot, s);
    if (!err)
        err = rondo__cuda_launch_of(dev, KERNEL_rondo_cuda_delta_back, items < most ? items : most, CUDA_DELTA_THREADS, (size_t)shared, s, &c);
    if (!err)
        err = rondo__cuda_launch(dev, KERNEL_rondo_cuda_delta_back_tokens, c.gate_count + c.key_count, 0, s, &c);
    return err ? err : rondo__cuda_slot_close(dev, slot, s);
}

int rondo__cuda_delta_backward(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_delta_backward_run *run, const struct rondo_poll *poll)
{
    const struct rondo_delta_form *f = run->form;
    const int held = cuda_delta_back_bytes(f->key_dim, 1) <= dev->shared_block;
    const int64_t shared = cuda_delta_back_bytes(f->key_dim, held), padded = (f->key_dim + 15) / 16 * 16;
    cu_stream s = rondo__cuda_stream(dev, stream);
    int64_t rows = 1, most = dev->multiprocessors;
    for (int64_t i = 0; i < run->count; i++)
        rows = run->blocks[i].rows > rows ? run->blocks[i].rows : rows;
    if (rows > RONDO_DELTA_BACKWARD_ROWS)
        return rondo__cuda_fail(RONDO_EINVAL, "%lld tokens of a block of gradients; there is room for %d", (long long)rows, RONDO_DELTA_BACKWARD_ROWS);
    if (shared > dev->shared_block)
        return rondo__cuda_fail(RONDO_ENOTSUP, "the cuda device: gradients of a state of %d rows take %lld bytes of shared memory; graphics card %d (%s) has %d",
                                (int)f->key_dim, (long long)shared, (int)dev->index, dev->name, (int)dev->shared_block);
    int err = rondo__cuda_enter(dev);
    if (err || run->count < 1)
        return err;
    struct cuda_delta_back c = {
        .form = { .lower_bound = f->lower_bound, .scale = f->scale, .key_dim = f->key_dim, .gate_dim = f->gate_dim, .chain = (int32_t)cuda_delta_chain(f->key_dim),
                  .tokens = CUDA_DELTA_MARK, .type = f->type, .gate_type = f->gate_type, .beta_type = f->beta_type, .out_type = f->out_type, .gate = f->gate,
                  .beta = f->beta, .norm = f->norm },
        .leaves = rondo__cuda_up(f->value_dim, CUDA_DELTA_LEAF), .scratch_floats = cuda_delta_back_scratch(f->key_dim, rows, held), .sums_leaf = 3 * padded + 16,
        .padded = (int32_t)padded, .group = run->group, .held = held, .accumulate = run->accumulate, .q_type = run->q_type, .k_type = run->k_type,
        .v_type = run->v_type, .g_type = run->g_type, .beta_type = run->beta_type
    };
    c.sums_token = c.leaves * c.sums_leaf;
    c.sums_head = rows * c.sums_token;
    const int64_t one = c.sums_head * (int64_t)sizeof(float) * run->group, all = run->count / run->group;
    const int64_t together = SUMS_BYTES / one < 1 ? 1 : SUMS_BYTES / one < all ? SUMS_BYTES / one : all;
    most = together * run->group * c.leaves < most ? together * run->group * c.leaves : most;
    err = rondo__cuda_scratch_begin(dev, s);
    if (!err)
        err = rondo__cuda_grow(dev, &dev->sums, (size_t)(one * together), "sums of the delta rule's gradients");
    if (!err)
        err = rondo__cuda_grow(dev, &dev->parts, (size_t)(c.scratch_floats * most) * sizeof(float), "states of the delta rule's gradients");
    c.scratch = (float *)(uintptr_t)dev->parts.memory;
    for (int64_t first = 0; first < run->count && !err; first += together * run->group) {
        const int64_t left = run->count - first;
        err = batch(dev, s, run, poll, c, first, left < together * run->group ? left : together * run->group, shared, most);
    }
    if (!err && poll && poll->work) {      /* on its way: how far it is nobody can tell */
        poll->work->total++;
        atomic_fetch_add(&poll->work->done, 1);
    }
    return err;
}
