/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Packing rows of q, or of k and v, for who needs them. Many peers need the same rows, all of them most often: what was packed for one serves
 * the others, so that memory goes with how different their needs are and not with their number. Called by the builders.
 */
#include "attention/algorithms/algorithms.h"

struct run {
    int64_t sequence, row, rows;
};

void rondo__packer_begin(struct rondo__packer *p, struct rondo__build *b, int32_t tensor, int64_t head, int64_t heads)
{
    const struct rondo__list empty = rondo__list_of(b->survey->arena);
    *p = (struct rondo__packer){ .b = b, .tensor = tensor, .head = (int32_t)head, .heads = (int32_t)heads, .runs = empty, .packed = empty,
                                 .known = empty };
}

void rondo__pack_begin(struct rondo__packer *p)
{
    p->first = p->runs.count;
    p->rows = 0;
}

void rondo__pack_add(struct rondo__packer *p, int64_t sequence, int64_t row, int64_t rows)
{
    struct run *last = p->runs.count > p->first ? (struct run *)p->runs.items + p->runs.count - 1 : NULL;
    if (!rows)
        return;
    p->rows += rows;
    if (last && last->sequence == sequence && last->row + last->rows == row) {
        last->rows += rows;
        return;
    }
    struct run *r = rondo__list_add(&p->runs, sizeof *r, 1);
    if (r)
        *r = (struct run){ sequence, row, rows };
    else
        p->b->schedule->failed = true;
}

/* Whether rows lie as they travel unless the caller's tensor has gaps: no place is kept for them then. Of k and v those of one sequence, as there
 * is room between sequences most often; q is packed. */
static bool dense(const struct rondo__packer *p)
{
    const struct run *r = (const struct run *)p->runs.items + p->first;
    const int64_t count = p->runs.count - p->first;
    if (p->tensor != RONDO_TENSOR_Q)
        return count == 1;
    for (int64_t i = 1; i < count; i++) {
        if (r[i].row || r[i - 1].row + r[i - 1].rows != rondo__rows_here(p->b->survey, r[i - 1].sequence, p->b->rank))
            return false;
        for (int64_t s = r[i - 1].sequence + 1; s < r[i].sequence; s++)
            if (rondo__rows_here(p->b->survey, s, p->b->rank))
                return false;
    }
    return true;
}

static size_t row_bytes(const struct rondo__packer *p, int part)
{
    const struct rondo__build *b = p->b;
    if (p->tensor == RONDO_TENSOR_Q)
        return part ? 0 : rondo__q_heads_bytes(b->shape, p->heads ? p->heads : b->heads);
    return rondo__kv_heads_bytes(b->shape, part, p->heads ? p->heads : b->kv_heads);
}

/* Which one was made for the same rows, + 1; else a new one. 0: no memory. */
static int32_t find(struct rondo__packer *p)
{
    const int64_t count = p->runs.count - p->first;
    struct rondo__packed *made = p->packed.items;
    const struct run *runs = p->runs.items;
    for (int64_t i = 0; i < p->packed.count; i++)
        if (made[i].count == count && !memcmp(runs + made[i].first, runs + p->first, (size_t)count * sizeof *runs)) {
            p->runs.count = p->first;
            return (int32_t)i + 1;
        }
    const bool spares = p->b->groups == 1 && !p->heads && dense(p);
    made = rondo__list_add(&p->packed, sizeof *made, 1);
    if (!made)
        return 0;
    *made = (struct rondo__packed){ .first = p->first, .count = count, .rows = p->rows, .buffer = { -1, -1 }, .group = -1, .spares = spares };
    return (int32_t)p->packed.count;
}

/* Some runs of one part, to a buffer. */
static void pack(struct rondo__packer *p, int64_t first, int64_t count, int part, int32_t to, int32_t group)
{
    static const char *const steps[] = { "q", "k", "v" };
    struct rondo__schedule *s = p->b->schedule;
    const size_t row = row_bytes(p, part);
    struct rondo__operation *o = rondo__schedule_begin(s, RONDO_PACK, (struct rondo__step){ steps[p->tensor + part], 0, 0 }, group);
    size_t at = 0;
    o->elides = !s->failed && rondo__buffer_at(s, to)->home >= 0;
    for (int64_t i = first; i < first + count; i++) {
        const struct run *r = (const struct run *)p->runs.items + i;
        rondo__schedule_copy(s, (struct rondo__copy){ .from = p->b->tensor[p->tensor + part], .to = to, .to_at = at, .sequence = r->sequence,
                                                      .row = r->row, .rows = r->rows, .head = p->head, .heads = p->heads },
                             (size_t)r->rows * row);
        at += (size_t)r->rows * row;
    }
    rondo__schedule_end(s);
}

void rondo__pack_into(struct rondo__packer *p, int32_t group, const int32_t to[2])
{
    for (int part = 0; part < 2 && p->rows; part++)
        if (row_bytes(p, part))
            pack(p, p->first, p->runs.count - p->first, part, to[part], group);
    p->runs.count = p->first;
}

/* The rows of a head group, unless they are there: their number and buffers. */
static int64_t give(struct rondo__packer *p, struct rondo__packed *made, int32_t group, int32_t index, const int32_t *over, int32_t out[2])
{
    static const char *const names[] = { "packed q", "packed k", "packed v" };
    struct rondo__build *b = p->b;
    for (int part = 0; part < 2 && made->group != group; part++) {
        const size_t row = row_bytes(p, part), bytes = rondo__product(made->rows, row);
        const int32_t tensor = b->tensor[p->tensor + part];
        if (!row)
            continue;
        if (made->buffer[part] < 0) {
            struct rondo__buffer buffer = { .name = names[p->tensor + part], .index = index, .owner = RONDO_OWNER_PLAN,
                                            .memory = rondo__transfer_memory(b), .tensor = -1, .bytes = bytes, .room = bytes,
                                            .over = over ? over[part] : -1, .home = b->machine.unified ? tensor : -1 };
            buffer.spare = made->spares && buffer.over < 0 && buffer.home >= 0;
            made->buffer[part] = rondo__buffer_add(b->schedule, buffer);
        }
        pack(p, made->first, made->count, part, made->buffer[part], group);
    }
    made->group = group;
    memcpy(out, made->buffer, sizeof made->buffer);
    return made->rows;
}

int64_t rondo__pack_known(struct rondo__packer *p, int32_t group, int32_t index, int32_t out[2])
{
    const int32_t known = index >= 0 && index < p->known.count ? ((const int32_t *)p->known.items)[index] : 0;
    out[0] = out[1] = -1;
    if (known <= 0 || p->b->schedule->failed)
        return p->b->schedule->failed ? 0 : known ? 0 : -1;
    return give(p, (struct rondo__packed *)p->packed.items + known - 1, group, index, NULL, out);
}

/* 0 for an index is: not known yet. */
static bool set_known(struct rondo__packer *p, int32_t index, int32_t known)
{
    const int64_t more = index + 1 - p->known.count;
    int32_t *fresh = more > 0 ? rondo__list_add(&p->known, sizeof *fresh, more) : NULL;
    if (more > 0 && !fresh)
        return false;
    if (fresh)
        memset(fresh, 0, (size_t)more * sizeof *fresh);
    if (index >= 0)
        ((int32_t *)p->known.items)[index] = known;
    return true;
}

int64_t rondo__pack_end(struct rondo__packer *p, int32_t group, int32_t index, const int32_t *over, int32_t out[2])
{
    struct rondo__schedule *s = p->b->schedule;
    out[0] = out[1] = -1;
    if (s->failed)
        return 0;
    const int32_t known = p->rows ? find(p) : -1;
    s->failed |= !known || !set_known(p, index, known);
    return known <= 0 || s->failed ? 0 : give(p, (struct rondo__packed *)p->packed.items + known - 1, group, index, over, out);
}
