/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the caller gives to one execution: whether the tensors are what the plan needs, hold results without folding them, and do not
 * overwrite what is still read. Nothing has moved when this says no. Called by execute.c before anything else.
 *
 * Rows of a sequence follow each other in each tensor; where they begin is packed, or said by the tensor's row list. So a tensor is used in
 * pieces, one for each sequence, and what is refused is said of the rows in use.
 */
#include "attention/attention.h"

struct use {
    const char *name;
    const rondo_tensor *t;
    const int64_t *list;               /* the rows where sequences begin, or NULL: packed as `first` says */
    const int64_t *first;              /* [sequences + 1], of the plan */
    int64_t low, high;                 /* rows in use: all are in [low, high) */
    const char *begin, *end;           /* and all that they hold; NULL where there are none */
    size_t row_bytes, stride_bytes;    /* from the first to the last used byte of a row, and from one row to the next */
};

static int64_t begins(const struct use *u, int64_t sequence)
{
    return u->list ? u->list[sequence] : u->first[sequence];
}

static int64_t inner(const rondo_tensor *t)
{
    return t->dims == 3 ? rondo__row_numbers(t->type, t->shape[2]) : 1;
}

/* ---- one tensor ---- */

static int check_rows(struct use *u, const char *list_name, int64_t sequences)
{
    u->low = u->list ? INT64_MAX : 0;
    u->high = u->list ? 0 : u->first[sequences];
    for (int64_t i = 0; i < sequences && u->list; i++) {
        int64_t rows = u->first[i + 1] - u->first[i], end;
        if (!rows)
            continue;
        if (u->list[i] < 0 || !rondo__add64(u->list[i], rows, &end))
            return rondo__fail(RONDO_EINVAL, "rondo_attention_execute: %s[%lld] is %lld; it must be a row of %s", list_name, (long long)i,
                               (long long)u->list[i], u->name);
        u->low = u->list[i] < u->low ? u->list[i] : u->low;
        u->high = end > u->high ? end : u->high;
    }
    u->low = u->low < u->high ? u->low : u->high;
    return 0;
}

/* Against the shape [rows, heads, dim] (dim -1: no third dimension); more: rows may be more. Strides of what has no elements do not matter. */
static int check_tensor(struct use *u, int32_t type, int64_t heads, int64_t dim, bool more)
{
    const rondo_tensor *t = u->t;
    const char *name = u->name;
    const int dims = dim >= 0 ? 3 : 2;
    if (!t->data && !u->high)
        return 0;
    if (!t->data)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_execute: %s is NULL, but this rank has %lld rows", name, (long long)u->high);
    if (t->type != type)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_execute: %s is %s; the plan says %s", name,
                           rondo_type_name(t->type) ? rondo_type_name(t->type) : "of no known type", rondo_type_name(type));
    if (t->dims != dims)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_execute: %s has %d dimensions; it must have %d", name, (int)t->dims, dims);
    if (t->shape[1] != heads || (dims == 3 && t->shape[2] != dim) || t->shape[0] < u->high || (!more && t->shape[0] != u->high))
        return rondo__fail(RONDO_EINVAL, "rondo_attention_execute: %s is [%lld, %lld, %lld]; this rank needs [%lld%s, %lld, %lld]", name,
                           (long long)t->shape[0], (long long)t->shape[1], (long long)(dims == 3 ? t->shape[2] : 1), (long long)u->high,
                           more ? " or more" : "", (long long)heads, (long long)(dims == 3 ? dim : 1));
    if (!t->shape[0] || !dim)
        return 0;
    if (dims == 3 && t->stride[2] != 1)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_execute: the last dimension of %s has stride %lld; it must be dense (1)", name,
                           (long long)t->stride[2]);
    for (int i = 0; i < dims; i++)
        if (t->stride[i] < 1)
            return rondo__fail(RONDO_EINVAL, "rondo_attention_execute: stride %d of %s is %lld; strides must be positive", i, name,
                               (long long)t->stride[i]);
    if (u->low == u->high)
        return 0;
    const size_t element = rondo_type_size(type);
    int64_t row, first, last;
    if (!rondo__mul64(heads - 1, t->stride[1], &row) || !rondo__add64(row, inner(t), &row) ||
        !rondo__mul64(u->low, t->stride[0], &first) || !rondo__mul64(u->high - 1, t->stride[0], &last) || !rondo__add64(last, row, &last) ||
        last > INT64_MAX / 8 || (uint64_t)last >= SIZE_MAX / 2 / element)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_execute: the strides of %s reach beyond memory", name);
    u->begin = (const char *)t->data + (size_t)first * element;
    u->end = (const char *)t->data + (size_t)last * element;
    u->row_bytes = (size_t)row * element;
    u->stride_bytes = (size_t)t->stride[0] * element;
    return 0;
}

/* ---- outputs write each element once ---- */

static bool before(const struct use *u, int64_t a, int64_t b)
{
    return begins(u, a) < begins(u, b);
}

static void sift(const struct use *u, int64_t *order, int64_t at, int64_t count)
{
    for (int64_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && before(u, order[child], order[child + 1]))
            child++;
        if (!before(u, order[at], order[child]))
            return;
        int64_t swap = order[at];
        order[at] = order[child];
        order[child] = swap;
    }
}

/* The sequences that have rows here, by where they begin; most lists rise already. */
static int64_t sort_sequences(const struct use *u, int64_t sequences, int64_t *order)
{
    int64_t count = 0;
    bool rising = true;
    for (int64_t i = 0; i < sequences; i++) {
        if (u->first[i + 1] == u->first[i])
            continue;
        rising &= !count || !before(u, i, order[count - 1]);
        order[count++] = i;
    }
    if (rising)
        return count;
    for (int64_t i = count / 2 - 1; i >= 0; i--)
        sift(u, order, i, count);
    for (int64_t end = count - 1; end > 0; end--) {
        int64_t swap = order[0];
        order[0] = order[end];
        order[end] = swap;
        sift(u, order, 0, end);
    }
    return count;
}

/* Whether rows or heads of an output share elements. Either each row is a block of its own, with all heads inside it; or heads lie outside
 * of rows, as in [B, H, T, D]: then those sequences whose blocks reach into each other must fit between two heads together. */
static bool folded(const struct use *u, int64_t sequences, int64_t *order)
{
    const rondo_tensor *t = u->t;
    const int64_t heads = t->shape[1], dim = inner(t), row = t->stride[0], head = t->stride[1], across = (heads - 1) * head + dim;
    const bool rows_outside = (heads == 1 || head >= dim) && row >= across;
    int64_t low = 0, high = 0, count = sort_sequences(u, sequences, order);
    for (int64_t i = 0; i < count; i++) {
        int64_t first = begins(u, order[i]), end = first + u->first[order[i] + 1] - u->first[order[i]];
        if (i && first < high)
            return true;
        if (!i || first * row >= (high - 1) * row + across)
            low = first;
        high = end;
        bool one = high - low == 1 && (heads == 1 || head >= dim);
        bool heads_outside = row >= dim && (heads == 1 || head >= (high - low - 1) * row + dim);
        if (!rows_outside && !one && !heads_outside)
            return true;
    }
    return false;
}

/* ---- what lies where ---- */

static bool overlap(const struct use *a, const struct use *b)
{
    if (!a->begin || !b->begin || a->begin >= b->end || b->begin >= a->end)
        return false;
    /* two columns of one array, such as q and k in rows of [q | k | v]: they have the same stride and do not meet inside it */
    if (a->stride_bytes == b->stride_bytes && a->stride_bytes) {
        size_t stride = a->stride_bytes, delta = (size_t)(a->begin < b->begin ? b->begin - a->begin : a->begin - b->begin) % stride;
        size_t one = a->begin < b->begin ? a->row_bytes : b->row_bytes, other = a->begin < b->begin ? b->row_bytes : a->row_bytes;
        if (delta >= one && delta + other <= stride)
            return false;
    }
    return true;
}

/* Whether each row of one is where that row of the other is. */
static bool same_place(const struct use *a, const struct use *b, int64_t sequences)
{
    bool same = a->t->data == b->t->data && a->t->type == b->t->type && a->t->shape[2] == b->t->shape[2] &&
                a->t->stride[0] == b->t->stride[0] && a->t->stride[1] == b->t->stride[1];
    for (int64_t i = 0; i < sequences && same; i++)
        same = a->first[i] == a->first[i + 1] || begins(a, i) == begins(b, i);
    return same;
}

int rondo__check_io(const rondo_attention *plan, const rondo_attention_io *io)
{
    const rondo_attention_desc *d = &plan->design.desc;
    const int64_t n = plan->design.sequences;
    struct use q = { .name = "q", .t = &io->q, .list = io->q_row, .first = plan->q_first };
    struct use k = { .name = "k", .t = &io->k, .list = io->kv_row, .first = plan->kv_first };
    struct use v = { .name = "v", .t = &io->v, .list = io->kv_row, .first = plan->kv_first };
    struct use out = { .name = "out", .t = &io->out, .list = io->out_row, .first = plan->q_first };
    struct use lse = { .name = "lse", .t = &io->lse, .list = io->lse_row, .first = plan->q_first };
    struct {
        struct use *use;
        const char *list_name;
        int32_t type;
        int64_t heads, dim;
    } all[] = {
        { &q, "q_row", d->q_type, d->heads, d->head_dim }, { &k, "kv_row", d->kv_type, d->kv_heads, d->head_dim },
        { &v, "kv_row", d->kv_type, d->kv_heads, d->value_dim }, { &out, "out_row", d->out_type, d->heads, d->value_dim },
        { &lse, "lse_row", RONDO_F32, d->heads, -1 },
    };
    struct rondo__extent extents[RONDO_EXTENTS];
    struct use probs = { .name = "probs", .t = &io->probs, .list = io->probs_row, .first = plan->probs_first };
    int failed = rondo__check_terms(plan, io, extents);
    if (failed)
        return failed;
    if (d->shared_kv && io->v.data)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_execute: v is given, but the plan says that it lies in k (shared_kv)");
    for (int i = 0; i < 5; i++) {
        if (all[i].use == &v && d->shared_kv)
            continue;
        int err = rondo__tensor_check("rondo_attention_execute", all[i].use->name, all[i].use->t);
        if (!err && all[i].use == &lse && !io->lse.data)
            break;   /* not wanted */
        if (!err)
            err = check_rows(all[i].use, all[i].list_name, n);
        if (!err)
            err = check_tensor(all[i].use, all[i].type, all[i].heads, all[i].dim, all[i].use->list || all[i].use == &k || all[i].use == &v);
        if (!err)
            err = rondo__check_memory(plan->ctx, "rondo_attention_execute", all[i].use->name, all[i].use->t->memory, all[i].use->begin);
        if (err)
            return err;
    }
    if (d->probs) {
        int err = rondo__check_probs(plan, io);
        if (!err)
            err = check_rows(&probs, "probs_row", n);
        if (!err)
            err = check_tensor(&probs, RONDO_F32, d->heads, io->probs.shape[2], true);
        if (!err)
            err = rondo__check_memory(plan->ctx, "rondo_attention_execute", "probs", io->probs.memory, probs.begin);
        if (err)
            return err;
    }
    for (int i = 0; i < 5 && probs.begin; i++)
        if (overlap(&probs, all[i].use))
            return rondo__fail(RONDO_EINVAL, "rondo_attention_execute: probs overlaps %s; results need memory of their own", all[i].use->name);
    const char *twice = out.begin && folded(&out, n, plan->order) ? "out" : lse.begin && folded(&lse, n, plan->order) ? "lse"
                        : probs.begin && folded(&probs, n, plan->order) ? "probs" : NULL;
    if (twice)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_execute: the strides or first rows of %s make rows, heads or sequences overlap; results "
                                         "need places of their own", twice);
    for (int i = 0; i < RONDO_EXTENTS; i++) {
        const struct use term = { .name = extents[i].name, .begin = extents[i].begin, .end = extents[i].end };
        if (overlap(&out, &term) || overlap(&lse, &term) || overlap(&probs, &term))
            return rondo__fail(RONDO_EINVAL, "rondo_attention_execute: %s overlaps %s; results need memory of their own",
                               overlap(&out, &term) ? "out" : overlap(&lse, &term) ? "lse" : "probs", term.name);
    }
    if (d->probs && overlap(&out, &q))
        return rondo__fail(RONDO_EINVAL, "rondo_attention_execute: out overlaps q, from which probabilities are computed after it; where these are "
                                         "wanted it needs memory of its own");
    if (overlap(&out, &q) && !same_place(&out, &q, n))
        return rondo__fail(RONDO_EINVAL, "rondo_attention_execute: out overlaps q; it may be q only with the same type, shape, strides and "
                                         "first rows");
    if (overlap(&out, &k) || overlap(&out, &v) || overlap(&out, &lse))
        return rondo__fail(RONDO_EINVAL, "rondo_attention_execute: out overlaps %s; only q may be overwritten",
                           overlap(&out, &k) ? "k" : overlap(&out, &v) ? "v" : "lse");
    if (overlap(&lse, &q) || overlap(&lse, &k) || overlap(&lse, &v))
        return rondo__fail(RONDO_EINVAL, "rondo_attention_execute: lse overlaps %s; it needs memory of its own",
                           overlap(&lse, &q) ? "q" : overlap(&lse, &k) ? "k" : "v");
    return 0;
}
