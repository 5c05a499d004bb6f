/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The device table's slot for gradients of the delta rule. Blocks are cut into leaves of columns, which threads take, and whose sums wait in
 * scratch; then what is added up over columns and heads is brought back to what was given, token leaf by token leaf. So threads change no bit.
 * The arithmetic is in ref_delta_backward.c (definition) and delta_backward.c (vectors). Called by lib/delta through the device table.
 */
#include "backends/cpu/cpu.h"
#include "backends/cpu/delta.h"

#define LEAF RONDO_CPU_DELTA_LEAF
#define TOKENS 128 /* of a leaf of a sum over tokens */
/* Of the rows of one block. */
#define CHUNKS (RONDO_DELTA_BACKWARD_ROWS / TOKENS + 1)
/* Sums of no more blocks wait at a time, unless one key head has more. */
#define SUMS_BYTES ((size_t)32 << 20)

struct call {
    const struct rondo_cpu_delta_backward *kernels;
    const struct rondo_delta_backward_run *run;
    const struct rondo_poll *poll;
    int64_t first, count;          /* blocks of this batch */
    int64_t leaves, cuts;          /* leaves of columns; items that a block's are shared out to */
    int64_t sums_leaf, sums_block; /* floats */
    float *sums;
    char *scratch;
    size_t scratch_each;
};

static float *place(const struct rondo_delta_backward_run *run, struct rondo_delta_state s)
{
    return s.buffer < 0 || !run->states[s.buffer] ? NULL : run->states[s.buffer] + s.at;
}

static void *row_of(const struct rondo_rows *rows, int64_t row, int64_t head, int64_t column, int type)
{
    const int64_t at = row * rows->row_stride + head * rows->head_stride + column;
    return rows->data ? (char *)rows->data + at * (int64_t)rondo_type_size(type) : NULL;
}

static const float *bias_of(const struct rondo_delta_backward_run *run, const struct rondo_delta_backward_block *b)
{
    return run->dt_bias ? run->dt_bias + (int64_t)b->of * run->form->gate_dim : NULL;
}

static int columns_item(void *arg, int64_t item, int worker)
{
    const struct call *c = arg;
    const struct rondo_delta_backward_run *run = c->run;
    const struct rondo_delta_form *f = run->form;
    const struct rondo_delta_backward_block *b = run->blocks + c->first + item / c->cuts;
    const int64_t leaf = item % c->cuts * c->leaves / c->cuts, end = (item % c->cuts + 1) * c->leaves / c->cuts, column = leaf * LEAF;
    if (leaf == end)
        return 0;
    const int64_t columns = end * LEAF < f->value_dim ? end * LEAF - column : f->value_dim - column;
    const float *from = place(run, b->state), *behind = place(run, b->end);
    float *to = place(run, b->begin);
    const struct rondo_delta_backward_task t = {
        .form = f, .rows = b->rows, .columns = (int32_t)columns, .dv_type = run->v_type, .accumulate = run->accumulate, .result = b->result,
        .q = row_of(&run->rows->q, b->row, b->key_head, 0, f->type), .k = row_of(&run->rows->k, b->row, b->key_head, 0, f->type),
        .v = row_of(&run->rows->v, b->row, b->head, column, f->type), .g = row_of(&run->rows->g, b->row, b->head, 0, f->gate_type),
        .beta = row_of(&run->rows->beta, b->row, b->head, 0, f->beta_type),
        .dout = row_of(&run->rows->out, b->row, b->head, column, f->out_type), .dv = row_of(&run->results->v, b->row, b->head, column, run->v_type),
        .q_stride = run->rows->q.row_stride, .k_stride = run->rows->k.row_stride, .v_stride = run->rows->v.row_stride,
        .g_stride = run->rows->g.row_stride, .beta_stride = run->rows->beta.row_stride, .dout_stride = run->rows->out.row_stride,
        .dv_stride = run->results->v.row_stride, .a_log = run->a_log ? run->a_log + b->of : NULL, .dt_bias = bias_of(run, b),
        .state = from ? from + column : NULL, .end = behind ? behind + column : NULL, .begin = to ? to + column : NULL,
        .state_stride = b->state.stride, .end_stride = b->end.stride, .begin_stride = b->begin.stride,
        .sums = c->sums + item / c->cuts * c->sums_block + leaf * c->sums_leaf, .sums_token = c->leaves * c->sums_leaf, .sums_leaf = c->sums_leaf
    };
    const int code = c->kernels->columns(&t, c->scratch + (size_t)worker * c->scratch_each, worker ? NULL : c->poll);
    rondo__cpu_delta_tell(c->poll, t.rows, t.columns);
    return code;
}

/* The tokens of a block that are in one token leaf: [first, end) of its rows. */
static bool chunk_of(const struct rondo_delta_backward_block *b, int64_t number, int64_t *first, int64_t *end)
{
    const int64_t edge = (b->position / TOKENS + number) * TOKENS - b->position;
    *first = edge > 0 ? edge : 0;
    *end = edge + TOKENS < b->rows ? edge + TOKENS : b->rows;
    return *first < *end;
}

static void gates_of(const struct call *c, const struct rondo_delta_backward_block *b, const float *sums, int64_t first, int64_t end)
{
    const struct rondo_delta_backward_run *run = c->run;
    const struct rondo_delta_form *f = run->form;
    const int64_t begins = b->position + first, ends = b->position + end, sums_token = c->leaves * c->sums_leaf;
    const bool whole = begins % TOKENS == 0;   /* it begins here, and is complete */
    float *const leaves = place(run, b->leaves);
    const int64_t number = (begins + TOKENS - 1) / TOKENS - (b->position + TOKENS - 1) / TOKENS;
    const struct rondo_delta_backward_gates of = {
        .form = f, .rows = end - first, .leaves = (int32_t)c->leaves, .accumulate = run->accumulate, .g_type = run->g_type, .beta_type = run->beta_type,
        .g = row_of(&run->rows->g, b->row + first, b->head, 0, f->gate_type), .beta = row_of(&run->rows->beta, b->row + first, b->head, 0, f->beta_type),
        .dg = row_of(&run->results->g, b->row + first, b->head, 0, run->g_type),
        .dbeta = row_of(&run->results->beta, b->row + first, b->head, 0, run->beta_type), .g_stride = run->rows->g.row_stride,
        .beta_stride = run->rows->beta.row_stride, .dg_stride = run->results->g.row_stride, .dbeta_stride = run->results->beta.row_stride,
        .a_log = run->a_log ? run->a_log + b->of : NULL, .dt_bias = bias_of(run, b), .sums = sums + first * sums_token, .sums_token = sums_token,
        .sums_leaf = c->sums_leaf, .from = ends % TOKENS && ends < b->length ? place(run, b->open) : NULL,
        .to = !whole ? place(run, b->left) : leaves ? leaves + number * b->leaves.stride : NULL
    };
    c->kernels->gates(&of);
}

/* One token leaf of a key head, with all heads that read it. */
static int tokens_item(void *arg, int64_t item, int worker)
{
    const struct call *c = arg;
    const struct rondo_delta_backward_run *run = c->run;
    const struct rondo_delta_form *f = run->form;
    const int64_t at = item / CHUNKS * run->group, sums_token = c->leaves * c->sums_leaf;
    const struct rondo_delta_backward_block *b = run->blocks + c->first + at;
    const float *sums = c->sums + at * c->sums_block;
    int64_t first, end;
    (void)worker;
    if (!chunk_of(b, item % CHUNKS, &first, &end))
        return 0;
    for (int32_t h = 0; h < run->group; h++)
        gates_of(c, b + h, sums + h * c->sums_block, first, end);
    const struct rondo_delta_backward_keys of = {
        .form = f, .rows = end - first, .leaves = (int32_t)c->leaves, .heads = run->group, .accumulate = run->accumulate, .q_type = run->q_type,
        .k_type = run->k_type, .q = row_of(&run->rows->q, b->row + first, b->key_head, 0, f->type),
        .k = row_of(&run->rows->k, b->row + first, b->key_head, 0, f->type),
        .dq = row_of(&run->results->q, b->row + first, b->key_head, 0, run->q_type),
        .dk = row_of(&run->results->k, b->row + first, b->key_head, 0, run->k_type), .q_stride = run->rows->q.row_stride,
        .k_stride = run->rows->k.row_stride, .dq_stride = run->results->q.row_stride, .dk_stride = run->results->k.row_stride,
        .sums = sums + first * sums_token, .sums_token = sums_token, .sums_leaf = c->sums_leaf, .sums_head = c->sums_block
    };
    c->kernels->keys(&of);
    return 0;
}

/* The fewest items of a block with which all threads have work. */
static int64_t cuts_of(const struct call *c, int32_t threads)
{
    int64_t cuts = 1;
    while (cuts < c->leaves && c->count * cuts % threads && c->count * cuts < 4 * (int64_t)threads)
        cuts++;
    return cuts;
}

static int no_memory(const struct rondo_delta_form *f)
{
    return rondo__fail(RONDO_ENOMEM, "no memory for the gradients of the delta rule's states of %d by %d numbers", (int)f->key_dim, (int)f->value_dim);
}

int rondo__cpu_delta_backward(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_delta_backward_run *run,
                              const struct rondo_poll *poll)
{
    const struct rondo_delta_form *f = run->form;
    struct call c = { .kernels = dev->kernels.delta_backward, .run = run, .poll = poll, .leaves = (f->value_dim + LEAF - 1) / LEAF,
                      .sums_leaf = rondo__cpu_delta_sums(f->key_dim) };
    int64_t rows = 1;
    size_t workers, sums, all, batch;
    int err = 0;
    (void)stream;
    for (int64_t i = 0; i < run->count; i++)
        rows = run->blocks[i].rows > rows ? run->blocks[i].rows : rows;
    if (rows > RONDO_DELTA_BACKWARD_ROWS)
        return rondo__fail(RONDO_EINVAL, "%lld tokens of a block of gradients; there is room for %d", (long long)rows, RONDO_DELTA_BACKWARD_ROWS);
    c.sums_block = rows * c.leaves * c.sums_leaf;
    if (!rondo__mul((size_t)c.sums_block * sizeof(float), (size_t)run->group, &sums))
        return no_memory(f);
    batch = SUMS_BYTES / sums < 1 ? 1 : SUMS_BYTES / sums;
    batch = batch < (size_t)(run->count / run->group) ? batch : (size_t)(run->count / run->group);
    if (!c.kernels->bytes(f, rows, &c.scratch_each) || !rondo__add(c.scratch_each, 63, &c.scratch_each) || !rondo__mul(sums, batch, &sums))
        return no_memory(f);
    c.scratch_each &= ~(size_t)63;
    if (!rondo__mul(c.scratch_each, (size_t)dev->threads, &workers) || !rondo__add(workers, sums, &all) || !rondo__cpu_scratch(dev, all))
        return no_memory(f);
    c.scratch = dev->scratch;
    for (int64_t i = 0; poll && poll->work && i < run->count; i++)
        poll->work->total += (uint64_t)(run->blocks[i].rows * f->value_dim);
    c.sums = (float *)(void *)(dev->scratch + workers);
    for (int64_t left; (left = run->count - c.first) > 0 && !err; c.first += c.count) {
        c.count = (int64_t)batch * run->group < left ? (int64_t)batch * run->group : left;
        c.cuts = cuts_of(&c, dev->threads);
        err = rondo__cpu_for(dev, c.count * c.cuts, columns_item, &c, poll);
        if (!err)
            err = rondo__cpu_for(dev, c.count / run->group * CHUNKS, tokens_item, &c, poll);
    }
    return err;
}
