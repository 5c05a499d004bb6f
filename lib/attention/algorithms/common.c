/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the builders share: sizes, and adding jobs to a program's lists.
 */
#include "attention/algorithms/algorithms.h"

/* Below this a message's time is its latency, and a ring of N - 1 hops waits for N - 1 of them in a row. */
#define LATENCY_BYTES 65536.0

int rondo__build_failed(void)
{
    return rondo__fail(RONDO_ENOMEM, "rondo_attention_create: no memory for the plan's tables");
}

size_t rondo__product(int64_t rows, size_t bytes)
{
    size_t all;
    return __builtin_mul_overflow(rows, bytes, &all) ? SIZE_MAX : all;
}

size_t rondo__q_heads_bytes(const struct rondo__shape *shape, int64_t heads)
{
    return (size_t)(heads * shape->head_dim) * rondo_type_size(shape->q_type);
}

size_t rondo__kv_heads_bytes(const struct rondo__shape *shape, int part, int64_t kv_heads)
{
    if (part && shape->shared_kv)
        return 0;
    return (size_t)kv_heads * rondo_row_bytes(shape->kv_type, part ? shape->value_dim : shape->head_dim);
}

size_t rondo__q_row_bytes(const struct rondo__build *b)
{
    return rondo__q_heads_bytes(b->shape, b->heads);
}

size_t rondo__kv_row_bytes(const struct rondo__build *b, int part)
{
    return rondo__kv_heads_bytes(b->shape, part, b->kv_heads);
}

size_t rondo__node_bytes(const struct rondo__build *b)
{
    return (size_t)b->heads * (size_t)b->shape->node_width * sizeof(float);
}

uint64_t rondo__shape_kv_bytes(const struct rondo__shape *shape)
{
    return (uint64_t)rondo__kv_heads_bytes(shape, 0, shape->kv_heads) + (uint64_t)rondo__kv_heads_bytes(shape, 1, shape->kv_heads);
}

double rondo__own_bytes(const struct rondo__survey *s, const struct rondo__shape *shape, int32_t rank)
{
    double q_row = (double)shape->heads * (double)shape->head_dim * (double)rondo_type_size(shape->q_type);
    double out_row = (double)shape->heads * (double)shape->value_dim * (double)rondo_type_size(shape->out_type);
    double kv_row = (double)rondo__shape_kv_bytes(shape);
    return (double)s->output_rows[rank] * (q_row + out_row) + (double)s->input_rows[rank] * kv_row;
}

/* Messages to the next rank only load a network of few links between many ranks the least, so pairs must save half; or be so small that
 * only their number in a row counts. */
bool rondo__goes_direct(uint64_t ring_bytes, uint64_t direct_bytes, double largest_bytes)
{
    return direct_bytes <= ring_bytes / 2 || largest_bytes <= LATENCY_BYTES;
}

bool rondo__add_spans(struct rondo__build *b, const struct rondo__strip *strip, int64_t *first)
{
    *first = b->tables->spans.count;
    rondo_span *to = rondo__list_add(&b->tables->spans, sizeof *to, strip->spans);
    if (to)
        memcpy(to, (const rondo_span *)b->survey->spans.items + strip->spans_first, (size_t)strip->spans * sizeof *to);
    return to != NULL;
}

struct rondo_job *rondo__add_job(struct rondo__build *b, int64_t sequence, const struct rondo__strip *strip, int64_t q_row,
                                 int64_t spans_first, const struct rondo__program *program)
{
    struct rondo_job *job = rondo__list_add(&b->tables->jobs, sizeof *job, 1);
    if (job)
        *job = (struct rondo_job){ .sequence = sequence, .q_row = q_row, .row = strip->row, .q_rows = strip->rows, .spans_first = spans_first,
                                   .spans = strip->spans, .leaves_first = b->tables->leaves.count, .leaves = program->leaves,
                                   .steps_first = program->first, .steps = program->steps, .depth = program->depth,
                                   .places_first = b->tables->places.count,
                                   .operation = program->leaves ? RONDO_JOB_FORWARD : RONDO_JOB_JOIN };
    return job;
}

struct rondo_leaf *rondo__add_leaves(struct rondo__build *b, int64_t count)
{
    return rondo__list_add(&b->tables->leaves, sizeof(struct rondo_leaf), count);
}

struct rondo_place *rondo__add_places(struct rondo__build *b, int64_t count)
{
    return rondo__list_add(&b->tables->places, sizeof(struct rondo_place), count);
}

bool rondo__sort_jobs(struct rondo__build *b, const struct rondo__list *step_of, int32_t steps, int64_t *first)
{
    struct rondo__list *list = &b->tables->jobs;
    struct rondo_job *jobs = list->items, *was = rondo__arena_take(b->survey->arena, (size_t)list->count * sizeof *was);
    const int32_t *step = step_of->items;
    if (!was)
        return false;
    if (list->count)
        memcpy(was, jobs, (size_t)list->count * sizeof *was);
    memset(first, 0, ((size_t)steps + 1) * sizeof *first);
    for (int64_t i = 0; i < list->count; i++)
        first[step[i] + 1]++;
    for (int32_t j = 0; j < steps; j++)
        first[j + 1] += first[j];
    for (int64_t i = 0; i < list->count; i++)
        jobs[first[step[i]]++] = was[i];
    memmove(first + 1, first, (size_t)steps * sizeof *first);
    first[0] = 0;
    return true;
}
