/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The delta rule's slots of the device table: blocks (core/device.h) become tasks, and are shared out over the device's threads. Where there are
 * fewer blocks than threads have work for, their columns are cut: columns do not depend on each other, so no cut changes a bit. The arithmetic
 * is in ref_delta.c (definition) and delta.c (vectors), in chunks in ref_delta_chunk.c and delta_chunk.c. Called by lib/delta through the device table.
 */
#include "backends/cpu/cpu.h"
#include "backends/cpu/delta.h"

/* Columns are cut at multiples of this many, whole tiles of each instruction set. */
#define CUT 64
/* Blocks that a worker takes at once: their heads' rows lie side by side, eight of 128 floats in a page. Of blocks of one token more, so that what
 * is asked for ahead is rarely the wrong state. */
#define GROUP 8
#define STEPS 64

struct call {
    const struct rondo_cpu_delta *kernels;
    const struct rondo_delta_run *run;
    const struct rondo_delta_fold *folds;
    float *const *states;
    int64_t cuts, group, items;    /* items of a block, blocks of an item, and items */
    int64_t workers;
    bool steps;                    /* all blocks are one token each, whose states stay where they lie */
    char *scratch;
    size_t scratch_each;
    int32_t key_dim;
    const struct rondo_poll *poll;
};

static const float *state_at(float *const *states, struct rondo_delta_state s, int64_t column)
{
    return s.buffer < 0 ? NULL : states[s.buffer] + s.at + column;
}

/* Elements from `data` on, of type `type`. */
static void *element(void *data, int64_t at, int type)
{
    return (char *)data + at * (int64_t)rondo_type_size(type);
}

static void *row_of(const struct rondo_rows *rows, int64_t row, int64_t head, int64_t column, int type)
{
    return rows->data ? element(rows->data, row * rows->row_stride + head * rows->head_stride + column, type) : NULL;
}

/* Columns [first, end) of a block. */
static struct rondo_delta_task task_of(const struct rondo_delta_run *run, const struct rondo_delta_block *b, int32_t first, int32_t end)
{
    const struct rondo_delta_form *f = run->form;
    const struct rondo_delta_rows *p = run->parts + b->part;
    const int32_t value = b->kind >= RONDO_DELTA_MAP ? 0 : b->column + first;
    return (struct rondo_delta_task){
        .form = f, .kind = b->kind, .column = b->column + first, .columns = end - first, .rows = b->rows,
        .q = row_of(&p->q, b->row, b->key_head, 0, f->type), .k = row_of(&p->k, b->row, b->key_head, 0, f->type),
        .v = row_of(&p->v, b->row, b->head, value, f->type), .g = row_of(&p->g, b->row, b->head, 0, f->gate_type),
        .beta = row_of(&p->beta, b->row, b->head, 0, f->beta_type), .out = row_of(&p->out, b->row, b->head, value, f->out_type),
        .q_stride = p->q.row_stride, .k_stride = p->k.row_stride, .v_stride = p->v.row_stride, .g_stride = p->g.row_stride,
        .beta_stride = p->beta.row_stride, .out_stride = p->out.row_stride, .a_log = run->a_log ? run->a_log + b->of : NULL,
        .dt_bias = run->dt_bias ? run->dt_bias + (int64_t)b->of * f->gate_dim : NULL, .from = state_at(run->states, b->from, first),
        .to = (float *)(uintptr_t)state_at(run->states, b->to, first), .from_stride = b->from.stride, .to_stride = b->to.stride
    };
}

/* Part `part` of `parts` of some columns. */
static int32_t cut(int32_t columns, int64_t part, int64_t parts)
{
    const int64_t cuts = (columns + CUT - 1) / CUT, at = cuts * part / parts * CUT;
    return at < columns ? (int32_t)at : columns;
}

/* The largest of some numbers, or a NaN among them: in lanes, which compilers make vectors of. */
static float largest(const float *z, int64_t count, float most)
{
    float lane[16], strange[16];
    int64_t i = 0;
    for (int l = 0; l < 16; l++) {
        lane[l] = most;
        strange[l] = 0.0f;
    }
    for (; i + 16 <= count; i += 16)
        for (int l = 0; l < 16; l++) {
            lane[l] = z[i + l] > lane[l] ? z[i + l] : lane[l];
            strange[l] = z[i + l] == z[i + l] ? strange[l] : z[i + l];
        }
    for (int l = 0; l < 16 && i + l < count; l++) {
        lane[l] = z[i + l] > lane[l] ? z[i + l] : lane[l];
        strange[l] = z[i + l] == z[i + l] ? strange[l] : z[i + l];
    }
    for (int l = 0; l < 16; l++) {
        if (strange[l] != strange[l])
            return strange[l];
        most = lane[l] > most ? lane[l] : most;
    }
    return most;
}

/* The largest gate of a token, of which computed ones fall as z = x + bias rises; NaN where one is. */
static float largest_gate(const struct rondo_delta_task *t, int64_t row, float gain)
{
    const struct rondo_delta_form *f = t->form;
    const float sign = f->gate == RONDO_GATE_LOG ? 1.0f : -1.0f;
    const int64_t at = row * t->g_stride;
    float most = -__builtin_inff();
    if (f->gate == RONDO_GATE_LOG && f->gate_type == RONDO_F32 && !t->dt_bias)
        return largest((const float *)t->g + at, f->gate_dim, most);
    for (int64_t first = 0; first < f->gate_dim && most == most; first += 64) {
        float z[64];
        const int64_t count = f->gate_dim - first < 64 ? f->gate_dim - first : 64;
        for (int64_t d = 0; d < count; d++) {
            const float x = rondo__element(t->g, at + first + d, f->gate_type);
            z[d] = sign * (t->dt_bias ? x + t->dt_bias[first + d] : x);
        }
        most = largest(z, count, most);
    }
    return most == most ? rondo__delta_gate(f->gate, sign * most, 0.0f, gain, f->lower_bound) : most;
}

/* The norm of I - beta k k^T, which leaves all directions but k's alone: 1, but where beta |k|^2 lies outside of 0 to 2. */
static double write_norm(const struct rondo_delta_task *t, int64_t row)
{
    const struct rondo_delta_form *f = t->form;
    const double beta = (double)rondo__delta_beta(f->beta, rondo__element(t->beta, row * t->beta_stride, f->beta_type));
    if (f->norm && beta >= 0.0 && beta <= 2.0)
        return 1.0;
    double square = 0.0;
    for (int64_t d = 0; d < f->key_dim; d++) {
        const double x = (double)rondo__element(t->k, row * t->k_stride + d, f->type);
        square += x * x;
    }
    const double along = 1.0 - beta * (f->norm ? square / (square + (double)RONDO_CPU_DELTA_EPS) : square);
    return along >= -1.0 && along <= 1.0 ? 1.0 : along < 0.0 ? -along : along;
}

/* exp(x), and never less than it is: E is 0 for what is small but there. */
static double exponential(double x)
{
    const float near = (float)x;
    if (x == (double)-__builtin_inff())
        return 0.0;
    return x < -80.0 ? 0x1p-115 : (double)rondo__exp(near) * (1.0 + (x - (double)near));
}

/* What the map of the tokens makes of a state is at most so many times as large: the product, over tokens, of the norms of their two factors. */
static void bound(const struct rondo_delta_task *t)
{
    const float gain = t->a_log ? rondo__exp(*t->a_log) : 1.0f;
    double sum = 0.0, product = 1.0;
    for (int64_t i = 0; i < t->rows; i++) {
        sum += (double)largest_gate(t, i, gain);
        product *= write_norm(t, i);
    }
    rondo__put_element(t->to, 0, RONDO_F32, (float)(product * exponential(sum)));
}

static bool passes_nothing(const struct rondo_delta_run *run, const struct rondo_delta_block *b)
{
    return run->tolerance > 0.0 && b->kind == RONDO_DELTA_MAP && b->from.buffer >= 0 &&
           (double)run->states[b->from.buffer][b->from.at] < run->tolerance;
}

/* The part of block i that item `number` has. */
static struct rondo_delta_task part_of(const struct call *c, int64_t number, int64_t i)
{
    const struct rondo_delta_block *b = c->run->blocks + i;
    return task_of(c->run, b, cut(b->columns, number % c->cuts, c->cuts), cut(b->columns, number % c->cuts + 1, c->cuts));
}

static int item(void *arg, int64_t number, int worker)
{
    const struct call *c = arg;
    const int64_t first = number / c->cuts * c->group, end = first + c->group < c->run->count ? first + c->group : c->run->count;
    const int64_t later = number + c->workers;   /* where workers are equally fast, this one's next */
    struct rondo_delta_task tasks[STEPS], next;
    int64_t count = 0;
    for (int64_t i = first; i < end; i++) {
        const struct rondo_delta_block *b = c->run->blocks + i;
        struct rondo_delta_task *const t = tasks + count;
        *t = part_of(c, number, i);
        if (!t->columns)
            continue;
        if (b->kind == RONDO_DELTA_BOUND)
            bound(t);
        else if (passes_nothing(c->run, b))
            for (int64_t d = 0; d < t->form->key_dim; d++)
                memset(t->to + d * t->to_stride, 0, (size_t)t->columns * sizeof *t->to);
        else
            count++;
    }
    const bool ahead = c->steps && later < c->items;
    if (ahead)
        next = part_of(c, later, later / c->cuts * c->group);
    const int code = count ? c->kernels->run(tasks, count, ahead ? &next : NULL, !c->steps || number < c->workers,
                                             c->scratch + (size_t)worker * c->scratch_each, worker ? NULL : c->poll) : 0;
    for (int64_t i = 0; worker && i < count; i++)   /* worker 0 tells on the way */
        rondo__cpu_delta_tell(c->poll, tasks[i].rows, tasks[i].columns);
    return code;
}

/* How many items a block becomes: the fewest with which threads have nearly the same to do. */
static int64_t cuts_of(int64_t blocks, int32_t columns, int32_t threads)
{
    const int64_t most = (columns + CUT - 1) / CUT;
    int64_t best = 1;
    double best_share = 0.0;
    for (int64_t cuts = 1; cuts <= most; cuts++) {
        const int64_t items = blocks * cuts, rounds = (items + threads - 1) / threads;
        const double share = (double)items / (double)(rounds * threads);
        if (share > best_share + 0.1) {   /* decays, keys and queries are made once more for each cut */
            best = cuts;
            best_share = share;
        }
    }
    return best;
}

/* How many blocks become one item: as many as leave each thread four items, so that no thread waits long for another one. */
static int64_t group_of(int64_t blocks, int32_t threads, int64_t most)
{
    const int64_t group = blocks / (threads > 1 ? 4 * (int64_t)threads : 1);
    return group < 1 ? 1 : group > most ? most : group;
}

/* Whether states may be updated where they lie, without room for them: kernels of chunks take them to tiles. */
static bool all_steps(const struct rondo_delta_run *run)
{
    if (run->form->chunk)
        return false;
    for (int64_t i = 0; i < run->count; i++) {
        const struct rondo_delta_task t = task_of(run, run->blocks + i, 0, run->blocks[i].columns);
        if (!rondo__cpu_delta_in_place(&t))
            return false;
    }
    return true;
}

int rondo__cpu_delta(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_delta_run *run, const struct rondo_poll *poll)
{
    int32_t columns = 1;
    (void)stream;
    for (int64_t i = 0; i < run->count; i++)
        columns = run->blocks[i].columns > columns ? run->blocks[i].columns : columns;
    struct call c = { .kernels = run->form->chunk ? dev->kernels.delta_chunk : dev->kernels.delta, .run = run, .poll = poll,
                      .cuts = cuts_of(run->count, columns, dev->threads), .steps = all_steps(run) };
    c.group = group_of(run->count, dev->threads, c.steps ? STEPS : GROUP);
    const int64_t items = c.items = (run->count + c.group - 1) / c.group * c.cuts;
    c.workers = rondo__cpu_workers(dev, items);
    size_t all;
    const bool fits = c.kernels->bytes(run->form, columns, c.steps ? 0 : c.group, &c.scratch_each) && rondo__add(c.scratch_each, 63, &c.scratch_each);
    c.scratch_each &= ~(size_t)63;
    if (!fits || !rondo__mul(c.scratch_each, (size_t)c.workers, &all) || !rondo__cpu_scratch(dev, all))
        return rondo__fail(RONDO_ENOMEM, "no memory for the delta rule's states of %d by %d numbers", (int)run->form->key_dim, (int)columns);
    c.scratch = dev->scratch;
    for (int64_t i = 0; poll && poll->work && i < run->count; i++)
        poll->work->total += run->blocks[i].kind == RONDO_DELTA_BOUND ? 0 : (uint64_t)(run->blocks[i].rows * run->blocks[i].columns);
    return rondo__cpu_for(dev, items, item, &c, poll);
}

static int fold_item(void *arg, int64_t number, int worker)
{
    const struct call *c = arg;
    const struct rondo_delta_fold *f = c->folds + number / c->cuts;
    const int32_t first = cut(f->columns, number % c->cuts, c->cuts), end = cut(f->columns, number % c->cuts + 1, c->cuts);
    (void)worker;
    if (first < end)
        c->kernels->fold(c->key_dim, end - first, state_at(c->states, f->map, 0), f->map.stride, state_at(c->states, f->from, first), f->from.stride,
                         state_at(c->states, f->source, first), f->source.stride, (float *)(uintptr_t)state_at(c->states, f->to, first), f->to.stride);
    return 0;
}

int rondo__cpu_delta_fold(struct rondo_device *dev, struct rondo_stream *stream, int32_t key_dim, const struct rondo_delta_fold *folds, int64_t count,
                          float *const *states, int32_t state_count)
{
    int32_t columns = 1;
    (void)stream;
    (void)state_count;
    for (int64_t i = 0; i < count; i++)
        columns = folds[i].columns > columns ? folds[i].columns : columns;
    struct call c = { .kernels = dev->kernels.delta, .folds = folds, .states = states, .key_dim = key_dim,
                      .cuts = cuts_of(count, columns, dev->threads) };
    return rondo__cpu_for(dev, count * c.cuts, fold_item, &c, NULL);
}
