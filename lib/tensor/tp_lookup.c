/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Rows of a table that ranks share (vocabulary-parallel embedding, arXiv:1909.08053): each is sent, as it is stored, by who has it to who keeps
 * the row of the result, who converts it. Tables lie in host memory, or are the packed weights of the head that they are tied to.
 */
#include "tensor/linear.h"
#include "tensor/tp.h"

int rondo__tp_find(const struct rondo__tp_call *call, void *const *place)
{
    const struct rondo__tp_entry *e = call->entry;
    const int32_t me = call->tp->ctx->rank;
    const size_t row = (size_t)e->c.row_bytes;
    char *to = place[e->built.made];
    int err = 0;
    for (int64_t i = 0; i < e->c.rows && !err; i++) {
        const int64_t at = call->ids[i] - e->c.begin[me];
        if (e->owner[i] != me)
            continue;
        if (call->table->linear)
            err = rondo__linear_read(call->table->linear, at, 1, to);
        else
            memcpy(to, (const char *)call->table->data + (size_t)at * row, row);
        to += row;
    }
    return err;
}

/* Of a device with memory of its own all rows are brought there first. */
int rondo__tp_convert(const struct rondo__tp_call *call, void *const *place)
{
    const struct rondo__tp_entry *e = call->entry;
    const struct rondo__tp_case *c = &e->c;
    const struct rondo_device_ops *ops = rondo__ops(call->tp->ctx);
    struct rondo_device *dev = rondo__dev(call->tp->ctx);
    const int32_t me = call->tp->ctx->rank, stored = e->built.stored;
    const int type = call->type;
    int64_t first, count;
    int err = 0;
    rondo__tp_kept(c, me, &first, &count);
    memset(e->next, 0, (size_t)c->ranks * sizeof *e->next);
    for (int64_t i = 0; i < first + count && !err; i++) {
        const int32_t r = e->owner[i];
        if (r != me && i < first)
            continue;
        const char *from = (const char *)place[r == me ? e->built.made : e->built.arrival[r]] + (size_t)(e->next[r]++ * c->row_bytes);
        if (i < first)
            continue;
        float *to = (float *)place[RONDO_TP_Y] + (i - first) * c->width;
        if (stored >= 0)
            err = ops->copy(dev, NULL, (char *)place[stored] + (size_t)((i - first) * c->row_bytes), from, (size_t)c->row_bytes);
        else if (type == RONDO_F32)
            memcpy(to, from, (size_t)c->row_bytes);
        else
            err = ops->convert(dev, NULL, c->width, type, from, RONDO_F32, to);
    }
    if (err || stored < 0)
        return err;
    if (type == RONDO_F32)
        return ops->copy(dev, NULL, place[RONDO_TP_Y], place[stored], (size_t)(count * c->row_bytes));
    return ops->convert(dev, NULL, count * c->width, type, place[stored], RONDO_F32, place[RONDO_TP_Y]);
}

/* ---- arguments ---- */

/* Of a table's own rows: where they are, and of which type. Where a rank has none of them its own type says nothing. */
static int check_part(rondo_tp *tp, const rondo_tp_table *t, int64_t have)
{
    const struct rondo_device_ops *ops = rondo__ops(tp->ctx);
    if (!have)
        return 0;
    if (!t->linear == !t->data)
        return rondo__fail(RONDO_EINVAL, "rondo_tp_lookup: the table's data and its linear layer are %s; a part of a table is one of the two",
                           t->data ? "both given" : "both NULL");
    if (t->linear) {
        const rondo_linear_desc *d = rondo__linear_desc(t->linear);
        if (d->in != t->width || d->out != have || rondo__linear_columns(t->linear) != d->in)
            return rondo__fail(RONDO_EINVAL, "rondo_tp_lookup: the layer has %lld outputs of %lld inputs; this part of the table has %lld rows of "
                                             "%lld numbers", (long long)d->out, (long long)rondo__linear_columns(t->linear), (long long)have,
                               (long long)t->width);
        return rondo__linear_usable(t->linear, tp->ctx, "rondo_tp_lookup");
    }
    if (!ops->unified && ops->memory_kind(rondo__dev(tp->ctx), t->data) == RONDO_MEMORY_DEVICE)
        return rondo__fail(RONDO_EINVAL, "rondo_tp_lookup: the table lies in the device's memory; it is read by the host");
    return 0;
}

/* The type of what travels, which ranks without rows must know too. Numbers that have a scale are given back as F32 by the layer. */
static int type_of(const rondo_tp_table *t, int32_t *travels)
{
    const int32_t own = t->linear ? rondo__linear_desc(t->linear)->type : RONDO_F32;
    const int32_t type = t->type == RONDO_TYPE_DEFAULT ? own : t->type;
    if ((type != RONDO_F32 && type != RONDO_BF16 && type != RONDO_F16 && type != RONDO_Q8) || (t->data && type == RONDO_Q8))
        return rondo__fail(RONDO_EINVAL, "rondo_tp_lookup: the table's type is %d; data may be RONDO_F32, RONDO_BF16 or RONDO_F16, a layer RONDO_Q8 "
                                         "too", (int)t->type);
    if (t->linear && type != own)
        return rondo__fail(RONDO_EINVAL, "rondo_tp_lookup: the table's type is %d and its layer's %d; they must be one", (int)type, (int)own);
    *travels = type == RONDO_Q8 ? RONDO_F32 : type;
    return 0;
}

/* Fills a case and its list of who has what. */
static int check(rondo_tp *tp, const rondo_tp_table *t, int64_t rows, const int32_t *ids, const float *y, struct rondo__tp_case *c, int64_t *list,
                 rondo_tp_table *ours, int32_t *type)
{
    const int32_t ranks = tp->ctx->ranks, me = tp->ctx->rank;
    int64_t first, count, floats;
    int err = rondo__desc_copy(ours, sizeof *ours, t, "rondo_tp_table");
    if (!err)
        err = rondo__reserved(ours->reserved, "rondo_tp_lookup");
    if (!err)
        err = type_of(ours, type);
    if (err)
        return err;
    if (ours->total < 1 || ours->total > INT32_MAX || ours->width < 1 || ours->width > INT32_MAX || rows < 0 ||
        !rondo__mul64(rows, ours->width, &floats) || floats > (int64_t)(PTRDIFF_MAX / sizeof *y))
        return rondo__fail(RONDO_EINVAL, "rondo_tp_lookup: %lld rows of a table of %lld rows of %lld numbers; a table has 1 to %d of both, and "
                                         "memory must hold the result", (long long)rows, (long long)ours->total, (long long)ours->width, INT32_MAX);
    if (rows && !ids)
        return rondo__fail(RONDO_EINVAL, "rondo_tp_lookup: ids must not be NULL");
    for (int64_t i = 0; i < rows; i++)
        if (ids[i] < 0 || ids[i] >= ours->total)
            return rondo__fail(RONDO_EINVAL, "rondo_tp_lookup: ids[%lld] is %d; the table has rows 0 to %lld", (long long)i, (int)ids[i],
                               (long long)ours->total - 1);
    for (int32_t r = 0; r < ranks && !err; r++) {
        err = rondo_share(ours->total, ranks, ours->weights, r, &list[r], &count);
        list[r + 1] = err ? 0 : list[r] + count;
    }
    const int64_t have = err ? 0 : list[me + 1] - list[me];
    if (!err)
        err = check_part(tp, ours, have);
    *c = (struct rondo__tp_case){ .kind = RONDO_TP_LOOKUP, .ranks = ranks, .few = rows <= tp->desc.few, .rows = rows, .width = ours->width,
                                  .row_bytes = ours->width * (int64_t)rondo_type_size(*type), .begin = list };
    rondo__tp_kept(c, me, &first, &count);
    const uintptr_t to = (uintptr_t)y, table = (uintptr_t)ours->data;
    if (!err && count && !y)
        err = rondo__fail(RONDO_EINVAL, "rondo_tp_lookup: y must not be NULL");
    if (!err && count && have && ours->data && to < table + (uintptr_t)(have * c->row_bytes) && table < to + (uintptr_t)(count * ours->width) * sizeof *y)
        err = rondo__fail(RONDO_EINVAL, "rondo_tp_lookup: y overlaps the table; it must be other memory");
    return err;
}

int32_t rondo__tp_owner(const int64_t *begin, int32_t ranks, int64_t id)
{
    int32_t low = 0, high = ranks;   /* begin[low] <= id < begin[high] */
    while (high - low > 1) {
        const int32_t middle = low + (high - low) / 2;
        if (begin[middle] <= id)
            low = middle;
        else
            high = middle;
    }
    return low;
}

int rondo_tp_lookup(rondo_tp *tp, const rondo_tp_table *table, int64_t rows, const int32_t *ids, float *y)
{
    struct rondo__tp_case c;
    struct rondo__tp_entry *e = NULL;
    rondo_tp_table ours = RONDO_TP_TABLE_INIT;
    int64_t first, count;
    int32_t type = RONDO_F32;
    void *to = NULL;
    if (!tp)
        return rondo__fail(RONDO_EINVAL, "rondo_tp_lookup: tp must not be NULL");
    int err = rondo__collective_begin(tp->ctx, "find rows");
    if (!err)
        err = check(tp, table, rows, ids, y, &c, tp->lists, &ours, &type);
    if (!err && rows)
        err = rondo__tp_entry(tp, &c, &e);
    if (err || !rows)
        return rondo__collective_failed(tp->ctx, err);
    for (int64_t i = 0; i < rows; i++)
        e->owner[i] = rondo__tp_owner(e->c.begin, c.ranks, ids[i]);
    rondo__tp_resize(&e->built, &e->c, tp->ctx->rank, e->owner);
    struct rondo__staging s = { .ctx = tp->ctx };
    rondo__tp_kept(&c, tp->ctx->rank, &first, &count);
    const size_t row = (size_t)c.width * sizeof *y;
    err = rondo__stage(&s, RONDO_STAGE_WRITE, rondo__rows_of(count ? y : NULL, count, row, row), &to);
    struct rondo__tp_call call = { .tp = tp, .entry = e, .y = to, .table = &ours, .ids = ids, .type = type };
    if (!err)
        err = rondo__tp_run(&call);
    err = rondo__stage_end(&s, true, err);
    return rondo__collective_failed(tp->ctx, err);
}
