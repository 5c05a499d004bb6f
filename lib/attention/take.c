/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Between whole arrays of a plan's sequences and the rows that the ranks hold: take and put copy on the spot, for ranks that see the whole
 * array; scatter and gather move rows between one rank that has it and all others, a message to each.
 *
 * Both ends of a message know from the plan which rows are in it, so rows travel one after another without a word about them. All
 * copies are the device's, which knows the kinds of memory; what travels lies in the host's.
 */
#include "attention/attention.h"
#include "layout/rows.h"

struct job {
    const char *function;
    const rondo_attention *plan;
    bool take;                         /* from whole to rows */
    int64_t sequence, row;
    int keys;
    struct rondo__holding mine;
    struct rondo__rows whole, rows;
};

/* What rank holds of the sequence's keys or queries, and how many all ranks do. */
static struct rondo__holding held_by(const struct job *j, int32_t rank, int64_t *total)
{
    const rondo_attention *plan = j->plan;
    const int64_t cached = plan->design.cached[j->sequence], tokens = plan->design.tokens[j->sequence], length = cached + tokens;
    if (j->keys)
        *total = length > 0 ? length : 0;
    else
        *total = tokens;
    if (!j->keys && cached < 0)
        return rondo__holding(plan->design.queries, j->sequence, rank, 0);
    return rondo__holding(plan->design.keys, j->sequence, rank, j->keys ? 0 : cached);
}

static int device_copy(void *arg, void *to, size_t to_stride, const void *from, size_t from_stride, size_t bytes, int64_t count)
{
    rondo_context *ctx = arg;
    return rondo__ops(ctx)->copy_rows(rondo__dev(ctx), NULL, to, to_stride, from, from_stride, bytes, count);
}

/* Checks all but `whole`. */
static int begin(struct job *j, const rondo_tensor *rows)
{
    const rondo_attention *plan = j->plan;
    int64_t total, end;
    if (j->sequence < 0 || j->sequence >= plan->design.sequences)
        return rondo__fail(RONDO_EINVAL, "%s: there is no sequence %lld; the plan has %lld", j->function, (long long)j->sequence,
                           (long long)plan->design.sequences);
    j->mine = held_by(j, plan->rank, &total);
    if (j->row < 0)
        j->row = j->row == -1 ? (j->keys ? plan->kv_first : plan->q_first)[j->sequence] : INT64_MIN;
    if (j->row < 0 || !rondo__add64(j->row, j->mine.count, &end))
        return rondo__fail(RONDO_EINVAL, "%s: row must be that of `rows` where the sequence begins, or -1: packed", j->function);
    return rondo__rows_view(j->function, "rows", rows, rows, j->mine.count ? end : 0, true, &j->rows);
}

static int see_whole(struct job *j, const rondo_tensor *whole, const rondo_tensor *rows)
{
    int64_t total;
    (void)held_by(j, 0, &total);
    int err = rondo__rows_view(j->function, "whole", whole, rows, total, false, &j->whole);
    return err ? err : rondo__rows_apart(j->function, &j->whole, &j->rows);
}

static int move_own(const struct job *j)
{
    rondo_context *ctx = j->plan->ctx;
    int err = rondo__rows_move(&j->mine, j->take, &j->whole, &j->rows, j->row, device_copy, ctx);
    return err ? err : rondo__ops(ctx)->sync(rondo__dev(ctx));
}

static int on_the_spot(const char *function, bool take, const rondo_attention *plan, int64_t sequence, int keys, const rondo_tensor *whole,
                       const rondo_tensor *rows, int64_t row)
{
    struct job j = { .function = function, .plan = plan, .take = take, .sequence = sequence, .row = row, .keys = keys };
    if (!plan)
        return rondo__fail(RONDO_EINVAL, "%s: the plan is NULL", function);
    int err = plan->runner ? begin(&j, rows) : rondo__no_plan(function);
    if (!err)
        err = see_whole(&j, whole, rows);
    return err ? err : move_own(&j);
}

int rondo_attention_take(const rondo_attention *plan, int64_t sequence, int keys, const rondo_tensor *whole, const rondo_tensor *rows, int64_t row)
{
    return on_the_spot("rondo_attention_take", true, plan, sequence, keys, whole, rows, row);
}

int rondo_attention_put(const rondo_attention *plan, int64_t sequence, int keys, const rondo_tensor *whole, const rondo_tensor *rows, int64_t row)
{
    return on_the_spot("rondo_attention_put", false, plan, sequence, keys, whole, rows, row);
}

/* ---- between one rank and the others ---- */

/* Messages of one rank in such a move: the root has one for each other rank with rows, the others have one or none. */
struct mail {
    struct rondo_part *parts;
    int32_t *ranks;                    /* [count] whose rows they are */
    int32_t count;
    char *memory;
    size_t largest;                    /* of all messages, of all ranks: everybody knows whether there is something to fence */
};

static int address(const struct job *j, int root, size_t row_bytes, struct mail *m)
{
    const rondo_attention *plan = j->plan;
    const bool is_root = plan->rank == root;
    size_t bytes = 0, at = 0;
    m->parts = rondo__alloc_zero((size_t)plan->design.ranks, sizeof *m->parts);
    m->ranks = rondo__alloc_zero((size_t)plan->design.ranks, sizeof *m->ranks);
    if (!m->parts || !m->ranks)
        return rondo__fail(RONDO_ENOMEM, "%s: no memory for %d messages", j->function, (int)plan->design.ranks);
    for (int32_t r = 0; r < plan->design.ranks; r++) {
        int64_t total;
        const size_t piece = (size_t)held_by(j, r, &total).count * row_bytes;
        if (r == root || !piece)
            continue;
        m->largest = piece > m->largest ? piece : m->largest;
        if (!is_root && r != plan->rank)
            continue;
        m->parts[m->count] = (struct rondo_part){ .bytes = piece, .peer = is_root ? r : root, .receives = is_root != j->take };
        m->ranks[m->count++] = r;
        bytes += piece;
    }
    m->memory = rondo__alloc(bytes);
    if (!m->memory)
        return rondo__fail(RONDO_ENOMEM, "%s: no memory for %zu bytes of rows", j->function, bytes);
    for (int32_t i = 0; i < m->count; i++) {
        m->parts[i].memory = m->memory + at;
        at += m->parts[i].bytes;
    }
    return 0;
}

/* Between messages and this rank's array: whole on the root, its rows elsewhere. */
static int pack(const struct job *j, const struct mail *m, bool is_root, bool out)
{
    rondo_context *ctx = j->plan->ctx;
    int err = 0;
    for (int32_t i = 0; i < m->count && !err; i++) {
        int64_t total;
        const void *at = out ? m->parts[i].memory : m->parts[i].where;
        const struct rondo__holding held = held_by(j, m->ranks[i], &total);
        const struct rondo__rows packed = rondo__rows_packed(is_root ? &j->whole : &j->rows, (void *)(uintptr_t)at);
        if (is_root) {
            err = rondo__rows_move(&held, out, &j->whole, &packed, 0, device_copy, ctx);
        } else {
            const struct rondo__rows *rows = &j->rows;
            char *data = rows->data + (size_t)j->row * rows->row_stride;
            for (int64_t b = 0; b < rows->blocks && !err; b++) {
                char *here = data + (size_t)b * rows->block_stride, *there = packed.data + (size_t)b * packed.block_stride;
                err = out ? device_copy(ctx, there, packed.row_stride, here, rows->row_stride, rows->block_bytes, held.count)
                          : device_copy(ctx, here, rows->row_stride, there, packed.row_stride, rows->block_bytes, held.count);
            }
        }
    }
    return err ? err : rondo__ops(ctx)->sync(rondo__dev(ctx));
}

static int collective(const char *function, bool scatter, rondo_attention *plan, int64_t sequence, int keys, int root, const rondo_tensor *whole,
                      const rondo_tensor *rows, int64_t row)
{
    struct job j = { .function = function, .plan = plan, .take = scatter, .sequence = sequence, .row = row, .keys = keys };
    struct mail m = { NULL, NULL, 0, NULL, 0 };
    if (!plan)
        return rondo__fail(RONDO_EINVAL, "%s: the plan is NULL", function);
    rondo_context *ctx = plan->ctx;
    const bool is_root = plan->rank == root;
    uint64_t hash = 0;
    size_t row_bytes = 0;
    int err = plan->runner ? 0 : rondo__no_plan(function);
    if (!err && (root < 0 || root >= plan->design.ranks))
        err = rondo__fail(RONDO_EINVAL, "%s: root is %d; the ranks are 0..%d", function, root, (int)plan->design.ranks - 1);
    if (!err)
        err = begin(&j, rows);
    if (!err && is_root)
        err = see_whole(&j, whole, rows);
    if (!err) {
        const int64_t dim = rows->dims == 3 ? rondo__row_numbers(rows->type, rows->shape[2]) : 1;
        const uint64_t words[] = { scatter, (uint64_t)sequence, keys != 0, (uint64_t)root, (uint64_t)rows->type, (uint64_t)rows->shape[1],
                                   (uint64_t)dim, plan->info.hash };
        for (size_t i = 0; i < sizeof words / sizeof *words; i++)
            hash = rondo__hash_word(hash, words[i]);
        int64_t numbers, bytes = 0, total;
        (void)held_by(&j, 0, &total);
        if (!rondo__mul64(rows->shape[1], dim, &numbers) || !rondo__mul64(numbers, (int64_t)rondo_type_size(rows->type), &bytes) ||
            !rondo__mul64(bytes, total, &total) || (uint64_t)total >= SIZE_MAX / 2)
            err = rondo__fail(RONDO_EINVAL, "%s: rows of %lld by %lld are more than memory can hold", function, (long long)rows->shape[1],
                              (long long)dim);
        row_bytes = err ? 0 : (size_t)bytes;
    }
    if (!err)
        err = address(&j, root, row_bytes, &m);
    err = rondo_agree(ctx, hash, err, scatter ? "what to scatter" : "what to gather");
    if (!err) {
        struct rondo__transfer t = { .group = { .parts = m.parts, .count = m.count }, .step = { scatter ? "scatter" : "gather", 0, 0 },
                                     .operation = scatter ? RONDO_OP_SCATTER : RONDO_OP_GATHER };
        const bool sends = is_root == scatter;
        if (sends)
            err = pack(&j, &m, is_root, true);
        if (!err)
            err = rondo__transfer_start(ctx, &t);
        if (!err && is_root)
            err = move_own(&j);
        if (!err)
            err = rondo__transfer_finish(ctx, &t);
        if (!err && !sends)
            err = pack(&j, &m, is_root, false);
        if (!err && ctx->endpoint && m.largest > ctx->transport->eager)
            err = rondo__fence(ctx, (struct rondo__step){ scatter ? "end of scatter" : "end of gather", 0, 0 });
        err = rondo__collective_failed(ctx, err);
    }
    rondo__free(m.parts);
    rondo__free(m.ranks);
    rondo__free(m.memory);
    return err;
}

int rondo_attention_scatter(rondo_attention *plan, int64_t sequence, int keys, int root, const rondo_tensor *whole, const rondo_tensor *rows,
                            int64_t row)
{
    return collective("rondo_attention_scatter", true, plan, sequence, keys, root, whole, rows, row);
}

int rondo_attention_gather(rondo_attention *plan, int64_t sequence, int keys, int root, const rondo_tensor *whole, const rondo_tensor *rows,
                           int64_t row)
{
    return collective("rondo_attention_gather", false, plan, sequence, keys, root, whole, rows, row);
}
