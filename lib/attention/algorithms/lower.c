/* SPDX-License-Identifier: BSD-2-Clause
 *
 * How attention is put on a machine: memory of the device's own and, by schedule/lower.c, transfers that reach only some kinds of memory and
 * transports that show a peer's memory instead of copying it. Builders speak of rows, nodes and parcels; what of it needs a copy, a place, a
 * fence or none of them is decided here and there and nowhere else.
 */
#include "attention/algorithms/algorithms.h"

int32_t rondo__compute_memory(const struct rondo__build *b)
{
    return rondo__machine_compute_memory(&b->machine);
}

int32_t rondo__transfer_memory(const struct rondo__build *b)
{
    return rondo__machine_transfer_memory(&b->machine);
}

/* ---- the caller's tensors ---- */

static const char *const names[] = { "q", "k", "v", "out", "lse", "alibi", "sinks", "bias", "probs" };
static const char *const device_names[] = { "q on the device", "k on the device", "v on the device", "out on the device", "lse on the device",
                                            "alibi on the device", "sinks on the device", "bias on the device", "probs on the device" };

/* Rows of bias, and columns of its copies: it has those of all queries, wherever they are. */
static int64_t bias_rows(const struct rondo__build *b, int64_t *columns)
{
    int64_t rows = 0;
    *columns = 0;
    for (int64_t i = 0; i < b->survey->roles.sequences; i++) {
        rows += b->shape->tokens[i];
        *columns = b->shape->keys[i] > *columns ? b->shape->keys[i] : *columns;
    }
    return rows;
}

static size_t tensor_bytes(const struct rondo__build *b, int tensor)
{
    const struct rondo__shape *s = b->shape;
    const int64_t q_rows = b->survey->output_rows[b->rank], k_rows = b->survey->input_rows[b->rank];
    const size_t heads = (size_t)s->heads, head_dim = (size_t)s->head_dim, value_dim = (size_t)s->value_dim;
    switch (tensor) {
    case RONDO_TENSOR_Q:
        return rondo__product(q_rows, heads * head_dim * rondo_type_size(s->q_type));
    case RONDO_TENSOR_K:
        return rondo__product(k_rows, rondo__kv_heads_bytes(s, 0, s->kv_heads));
    case RONDO_TENSOR_V:
        return rondo__product(k_rows, rondo__kv_heads_bytes(s, 1, s->kv_heads));
    case RONDO_TENSOR_OUT:
        return rondo__product(q_rows, heads * value_dim * rondo_type_size(s->out_type));
    case RONDO_TENSOR_LSE:
        return rondo__product(q_rows, heads * sizeof(float));
    case RONDO_TENSOR_ALIBI:
        return s->alibi ? heads * sizeof(float) : 0;
    case RONDO_TENSOR_SINKS:
        return s->sinks ? heads * sizeof(float) : 0;
    default: {
        const bool bias = tensor == RONDO_TENSOR_BIAS;
        int64_t columns, rows = bias_rows(b, &columns);
        const size_t bytes = rondo__product(columns, (bias ? (size_t)s->bias_heads : heads) * sizeof(float));
        if (!bias)
            rows = b->probs ? b->probs->output_rows[b->rank] : 0;
        return bytes == SIZE_MAX ? bytes : rondo__product(rows, bytes);
    }
    }
}

/* Rows of a sequence that this rank has on the tensor's side. */
static int64_t rows_of(const struct rondo__build *b, int tensor, int64_t sequence)
{
    const struct rondo__survey *s = b->survey;
    if (tensor == RONDO_TENSOR_K || tensor == RONDO_TENSOR_V)
        return rondo_placement_held(s->roles.input.placement, sequence, b->rank);
    if (tensor == RONDO_TENSOR_ALIBI || tensor == RONDO_TENSOR_SINKS)
        return sequence == 0;
    if (tensor == RONDO_TENSOR_BIAS)
        return b->shape->tokens[sequence];
    return rondo__rows_here(tensor == RONDO_TENSOR_PROBS ? b->probs : s, sequence, b->rank);
}

/* All rows of a tensor from one of its homes to the other. */
static void copy_tensor(struct rondo__build *b, int tensor, int32_t from, int32_t to, const char *what)
{
    struct rondo__operation *o = rondo__schedule_begin(b->schedule, RONDO_PACK, rondo__step_named(what), -1);
    o->elides = 1;
    for (int64_t i = 0; i < b->survey->roles.sequences; i++)
        rondo__schedule_copy(b->schedule, (struct rondo__copy){ .from = from, .to = to, .sequence = i, .rows = rows_of(b, tensor, i),
                                                                .columns = tensor >= RONDO_TENSOR_BIAS ? b->shape->keys[i] : 0 },
                             tensor_bytes(b, tensor));
    rondo__schedule_end(b->schedule);
}

void rondo__lower_begin(struct rondo__build *b)
{
    b->stats = -1;
    if (b->probs && b->survey->output_rows[b->rank]) {
        struct rondo__buffer stats = { .name = "stats", .index = -1, .owner = RONDO_OWNER_PLAN, .memory = rondo__compute_memory(b),
                                       .tensor = RONDO_TENSOR_STATS, .home = -1, .over = -1 };
        stats.bytes = stats.room = rondo__product(b->survey->output_rows[b->rank], (size_t)b->shape->heads * 2 * sizeof(float));
        b->stats = rondo__buffer_add(b->schedule, stats);
    }
    for (int i = 0; i < RONDO_TENSORS; i++) {
        struct rondo__buffer buffer = { .name = names[i], .index = -1, .owner = RONDO_OWNER_CALLER, .memory = RONDO_MEMORY_HOST, .tensor = i,
                                        .bytes = tensor_bytes(b, i), .home = -1, .over = -1 };
        b->tensor[i] = b->outside[i] = -1;
        if (!buffer.bytes)
            continue;
        b->tensor[i] = b->outside[i] = rondo__buffer_add(b->schedule, buffer);
        if (b->machine.unified)
            continue;
        buffer.name = device_names[i];
        buffer.owner = RONDO_OWNER_PLAN;
        buffer.memory = RONDO_MEMORY_DEVICE;
        buffer.home = b->outside[i];
        buffer.room = buffer.bytes;
        buffer.spare = 1;
        b->tensor[i] = rondo__buffer_add(b->schedule, buffer);
        if (!rondo__tensor_is_result(i))
            copy_tensor(b, i, b->outside[i], b->tensor[i], "to the device");
    }
}

static void blank_rows(struct rondo__build *b)
{
    struct rondo__schedule *s = b->schedule;
    struct rondo__operation *o = NULL;
    for (int64_t i = 0; i < b->survey->roles.sequences && b->tensor[RONDO_TENSOR_OUT] >= 0; i++) {
        const struct rondo__sequence *q = b->survey->sequence + i;
        for (int64_t j = q->strips_first; j < q->strips_first + q->strips; j++) {
            const struct rondo__strip *strip = rondo__strip_at(b->survey, j);
            if (strip->rank != b->rank || strip->sees)
                continue;
            if (!o) {
                o = rondo__schedule_begin(s, RONDO_BLANK, rondo__step_named("rows without keys"), -1);
                for (int t = RONDO_TENSOR_OUT; t <= RONDO_TENSOR_LSE; t++)
                    rondo__schedule_use(s, b->tensor[t], 0, rondo__buffer_at(s, b->tensor[t])->bytes, true);
            }
            struct rondo__blank *blank = rondo__list_add(&s->blanks, sizeof *blank, 1);
            if (blank)
                *blank = (struct rondo__blank){ i, strip->row, strip->rows, -1, 0 };
            else
                s->failed = true;
            o->count++;
        }
    }
    if (o)
        rondo__schedule_end(s);
}

void rondo__lower_end(struct rondo__build *b)
{
    blank_rows(b);
    if (b->probs)
        rondo__add_probs(b);
    for (int i = 0; i < RONDO_TENSORS; i++)
        if (b->tensor[i] != b->outside[i] && rondo__tensor_is_result(i))
            copy_tensor(b, i, b->tensor[i], b->outside[i], "from the device");
}

/* ---- messages ---- */

int32_t rondo__lower_arrival(struct rondo__build *b, const char *name, int32_t index, size_t bytes)
{
    return rondo__schedule_arrival(b->schedule, &b->machine, name, index, bytes);
}

int32_t rondo__lower_send(struct rondo__build *b, int32_t buffer, size_t at, size_t bytes, int32_t group)
{
    return rondo__schedule_sent(b->schedule, &b->machine, buffer, at, bytes, group);
}

int32_t rondo__lower_received(struct rondo__build *b, int32_t buffer, size_t bytes, int32_t group)
{
    return rondo__schedule_received(b->schedule, &b->machine, buffer, bytes, group);
}

/* ---- computing ---- */

struct rondo__operation *rondo__lower_compute(struct rondo__build *b, struct rondo__step step, int32_t group, int64_t first, int64_t count,
                                              int32_t q, size_t q_bytes, bool writes_out)
{
    struct rondo__schedule *s = b->schedule;
    struct rondo__operation *o = rondo__schedule_begin(s, RONDO_COMPUTE, step, group);
    o->first = first;
    o->count = count;
    o->q = q;
    o->head = b->head + group * b->heads;
    o->kv_head = b->kv_head + group * b->kv_heads;
    if (s->failed)
        return o;
    rondo__schedule_use(s, q, 0, q_bytes, false);
    for (int t = RONDO_TENSOR_ALIBI; t <= RONDO_TENSOR_BIAS; t++)
        if (b->tensor[t] >= 0)
            rondo__schedule_use(s, b->tensor[t], 0, rondo__buffer_at(s, b->tensor[t])->bytes, false);
    if (writes_out)
        rondo__lower_results(b, b->tensor[RONDO_TENSOR_OUT], b->tensor[RONDO_TENSOR_LSE], b->stats);
    return o;
}

void rondo__lower_results(struct rondo__build *b, int32_t out, int32_t lse, int32_t stats)
{
    struct rondo__schedule *s = b->schedule;
    const int32_t results[] = { out, lse, stats };
    if (s->failed)
        return;
    struct rondo__operation *o = rondo__operation_at(s, s->operations.count - 1);
    o->out = out;
    o->lse = lse;
    o->stats = stats;
    for (int i = 0; i < (stats < 0 ? 2 : 3); i++)
        rondo__schedule_use(s, results[i], 0, rondo__buffer_at(s, results[i])->bytes, true);
}

void rondo__lower_source(struct rondo__build *b, int32_t k, int32_t v, int64_t rows)
{
    struct rondo__schedule *s = b->schedule;
    const int32_t part[2] = { k, v };
    rondo__schedule_source(s, k, v);
    for (int i = 0; i < 2 && !s->failed; i++)
        if (part[i] >= 0)
            rondo__schedule_use(s, part[i], 0, rows < 0 ? rondo__buffer_at(s, part[i])->bytes : rondo__product(rows, rondo__kv_row_bytes(b, i)),
                                false);
}

void rondo__lower_fence(struct rondo__build *b, struct rondo__step step)
{
    rondo__schedule_fence(b->schedule, &b->machine, step);
}
