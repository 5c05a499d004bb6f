/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The gradient of a table whose rows, and the tokens that name them, ranks share: the sum of rule 12 of rondo-numerics(7) over the tokens that
 * name a row, made where the row is kept. All ranks learn all ids first; then who sends which rows of dy where, and in which order they are
 * added, follows on each of them from the ids and from rondo_tokens. No partial sum travels, each row of dy at most once.
 */
#include "tensor/linear.h"
#include "tensor/tokens.h"
#include "tensor/tp.h"

/* ---- what the exchange calls ---- */

int rondo__tp_pack_rows(const struct rondo__tp_call *call, void *const *place)
{
    const struct rondo__tp_case *c = &call->entry->c;
    const struct rondo__tp_named *n = call->named;
    const int32_t me = call->tp->ctx->rank;
    const int64_t count = c->begin[me + 1] - c->begin[me];
    const size_t row = (size_t)c->width * sizeof(float);
    int64_t at = 0;
    int err = 0;
    for (int32_t r = 0; r < c->ranks; at += n->moved[me * c->ranks + r++])
        n->next[r] = at;
    for (int64_t i = 0; i < count && !err; i++) {
        const float *from = (const float *)place[RONDO_TP_X] + call->tokens->order[i] * call->x_stride;
        err = rondo__ops(call->tp->ctx)->copy(rondo__dev(call->tp->ctx), NULL, (char *)place[call->entry->built.made] + (size_t)n->next[n->owner[i]]++ * row,
                                              from, row);
    }
    return err;
}

int rondo__tp_sum_rows(const struct rondo__tp_call *call, void *const *place, const struct rondo_poll *poll)
{
    const struct rondo__tp_built *built = &call->entry->built;
    const struct rondo__tp_case *c = &call->entry->c;
    const struct rondo__tp_named *n = call->named;
    const struct rondo_device_ops *ops = rondo__ops(call->tp->ctx);
    struct rondo_device *dev = rondo__dev(call->tp->ctx);
    struct rondo_token_run run = n->run;
    const int32_t me = call->tp->ctx->rank;
    const size_t row = (size_t)c->width * sizeof(float);
    char *to = place[built->stored];
    int err = 0;
    for (int32_t r = 0; r < c->ranks && !err; r++) {
        const size_t bytes = (size_t)n->moved[r * c->ranks + me] * row;
        size_t before = 0;                 /* own rows of others' sums */
        for (int32_t other = 0; other < me && r == me; other++)
            before += (size_t)n->moved[me * c->ranks + other] * row;
        if (bytes)
            err = ops->copy(dev, NULL, to, (const char *)place[r == me ? built->made : built->arrival[r]] + before, bytes);
        to += bytes;
    }
    if (err || !run.segment_count)
        return err;
    run.b = place[built->stored];
    run.b_stride = c->width;
    run.y = place[RONDO_TP_Y];
    run.y_stride = call->y_stride;
    return ops->token_sum(dev, NULL, &run, poll);
}

/* ---- arguments ---- */

/* Fills the lists of who has which tokens, and which rows of the table. */
static int check(rondo_tp *tp, const rondo_tokens *tokens, const rondo_tp_table *table, rondo_tp_table *ours, const int32_t *ids, const float *dy,
                 int64_t dy_stride, const float *dw, int64_t dw_stride)
{
    const int32_t ranks = tp->ctx->ranks, me = tp->ctx->rank;
    int64_t *const begin = tp->lists, *const share = tp->lists + ranks + 1, count;
    if (!tokens || !table)
        return rondo__fail(RONDO_EINVAL, "rondo_tp_lookup_dw: tokens and table must not be NULL; a rank without tokens says so by its spans");
    int err = rondo__desc_copy(ours, sizeof *ours, table, "rondo_tp_table");
    if (!err)
        err = rondo__reserved(ours->reserved, "rondo_tp_lookup_dw");
    if (err)
        return err;
    if (tokens->parts != ranks || tokens->part != me)
        return rondo__fail(RONDO_EINVAL, "rondo_tp_lookup_dw: the tokens are those of part %d of %d, and this is rank %d of %d; each rank has the part of "
                                         "its own number", (int)tokens->part, (int)tokens->parts, (int)me, (int)ranks);
    if (!RONDO_HAS(rondo__ops(tp->ctx), token_sum))
        return rondo__fail(RONDO_ENOTSUP, "rondo_tp_lookup_dw: device \"%s\" does not compute sums over tokens; cpu does", rondo__ops(tp->ctx)->name);
    if (ours->total < 1 || ours->total > INT32_MAX || ours->width < 1 || ours->width > INT32_MAX)
        return rondo__fail(RONDO_EINVAL, "rondo_tp_lookup_dw: a table of %lld rows of %lld numbers cannot be; it has 1 to %d of both",
                           (long long)ours->total, (long long)ours->width, INT32_MAX);
    if (tokens->rows && (!ids || !dy || !rondo__linear_fits(tokens->rows, ours->width, dy_stride)))
        return rondo__fail(RONDO_EINVAL, "rondo_tp_lookup_dw: ids and dy must not be NULL, and the stride of dy, %lld, at least %lld, and all of it "
                                         "addressable", (long long)dy_stride, (long long)ours->width);
    err = rondo__table_ids("rondo_tp_lookup_dw", tokens, ids, ours->total);
    begin[0] = share[0] = 0;
    for (int32_t r = 0; r < ranks && !err; r++) {
        begin[r + 1] = 0;
        err = rondo_share(ours->total, ranks, ours->weights, r, &share[r], &count);
        share[r + 1] = err ? 0 : share[r] + count;
    }
    if (err)
        return err;
    for (int64_t i = 0; i < tokens->all_count; i++)
        begin[tokens->all[i].part + 1] += tokens->all[i].tokens;
    for (int32_t r = 0; r < ranks; r++)
        begin[r + 1] += begin[r];
    count = share[me + 1] - share[me];
    if (!count)
        return 0;
    if (!dw || !rondo__linear_fits(count, ours->width, dw_stride))
        return rondo__fail(RONDO_EINVAL, "rondo_tp_lookup_dw: dw must not be NULL, and its stride, %lld, at least %lld, and all of it addressable",
                           (long long)dw_stride, (long long)ours->width);
    if (tokens->rows && !rondo__linear_apart(dy, dy_stride, ours->width, tokens->rows, dw, dw_stride, ours->width, count))
        return rondo__fail(RONDO_EINVAL, "rondo_tp_lookup_dw: dw overlaps dy; it must be other memory");
    return 0;
}

/* ---- who names what ---- */

/* Lists of a call: of [tokens of all] ids and what names rows of this rank, and so on. */
struct lists {
    int32_t *ids, *own, *owner;            /* of all tokens, part by part; of this rank's in their order; who keeps what these name */
    int64_t *moved, *next, *base;
    size_t *bytes;
    struct rondo__named *named;
    struct rondo__table_sum sum;
};

static void lists_free(struct lists *l)
{
    rondo__free(l->ids);
    rondo__free(l->own);
    rondo__free(l->owner);
    rondo__free(l->moved);
    rondo__free(l->next);
    rondo__free(l->base);
    rondo__free(l->bytes);
    rondo__free(l->named);
    rondo__table_sum_free(&l->sum);
}

static int lists_make(struct lists *l, const rondo_tokens *tokens, const int32_t *ids, const int64_t *begin, int32_t ranks, int32_t me)
{
    const int64_t all = begin[ranks], mine = begin[me + 1] - begin[me];
    l->ids = rondo__alloc_zero((size_t)all, sizeof *l->ids);
    l->own = rondo__alloc_zero((size_t)mine, sizeof *l->own);
    l->owner = rondo__alloc_zero((size_t)mine, sizeof *l->owner);
    l->moved = rondo__alloc_zero((size_t)ranks * (size_t)ranks, sizeof *l->moved);
    l->next = rondo__alloc_zero((size_t)ranks, sizeof *l->next);
    l->base = rondo__alloc_zero((size_t)ranks, sizeof *l->base);
    l->bytes = rondo__alloc_zero((size_t)ranks, sizeof *l->bytes);
    if (!l->ids || !l->own || !l->owner || !l->moved || !l->next || !l->base || !l->bytes)
        return rondo__fail(RONDO_ENOMEM, "rondo_tp_lookup_dw: no memory for lists of %lld tokens", (long long)all);
    for (int64_t i = 0; i < mine; i++)
        l->own[i] = ids[tokens->order[i]];
    for (int32_t r = 0; r < ranks; r++)
        l->bytes[r] = (size_t)(begin[r + 1] - begin[r]) * sizeof *l->own;
    return 0;
}

/* The ids of all are there: what moves, and what is added of the rows that come here, rank by rank. */
static int find_named(struct lists *l, const rondo_tokens *tokens, const int64_t *begin, const int64_t *share, int32_t ranks, int32_t me, bool every)
{
    for (int32_t r = 0; r < ranks; r++)
        for (int64_t i = begin[r]; i < begin[r + 1]; i++) {
            const int32_t owner = rondo__tp_owner(share, ranks, l->ids[i]);
            l->moved[r * ranks + owner]++;
            if (r == me)
                l->owner[i - begin[me]] = owner;
        }
    int64_t here = 0, place = 0, n = 0;
    for (int32_t r = 0; r < ranks; r++) {
        l->base[r] = here;
        l->next[r] = begin[r];
        here += l->moved[r * ranks + me];
    }
    l->named = rondo__alloc_zero((size_t)here, sizeof *l->named);
    if (!l->named)
        return rondo__fail(RONDO_ENOMEM, "rondo_tp_lookup_dw: no memory for the order of %lld tokens", (long long)here);
    for (int64_t leaf = 0; leaf < tokens->all_count; leaf++)
        for (int32_t i = 0, r = tokens->all[leaf].part; i < tokens->all[leaf].tokens; i++, place++) {
            const int64_t name = l->ids[l->next[r]++];
            if (name >= share[me] && name < share[me + 1])
                l->named[n++] = (struct rondo__named){ name - share[me], place, l->base[r]++, leaf };
        }
    return rondo__table_sum_make(&l->sum, tokens, l->named, n, share[me + 1] - share[me], every);
}

int rondo_tp_lookup_dw(rondo_tp *tp, const rondo_tokens *tokens, const rondo_tp_table *table, const int32_t *ids, const float *dy, int64_t dy_stride,
                       float *dw, int64_t dw_stride, int add)
{
    rondo_tp_table ours = RONDO_TP_TABLE_INIT;
    struct lists l = { .ids = NULL };
    struct rondo__tp_entry *e = NULL;
    if (!tp)
        return rondo__fail(RONDO_EINVAL, "rondo_tp_lookup_dw: tp must not be NULL");
    const int32_t ranks = tp->ctx->ranks, me = tp->ctx->rank;
    int64_t *const begin = tp->lists, *const share = tp->lists + ranks + 1;
    int err = rondo__collective_begin(tp->ctx, "rows to who keeps their sum");
    if (!err)
        err = check(tp, tokens, table, &ours, ids, dy, dy_stride, dw, dw_stride);
    if (!err && ranks == 1)
        return rondo_lookup_dw(tp->ctx, tokens, ids, ours.total, 0, ours.total, ours.width, dy, dy_stride, dw, dw_stride, add);
    if (!err)
        err = rondo__ops(tp->ctx)->check(rondo__dev(tp->ctx));
    const int64_t all = err ? 0 : begin[ranks], mine = err ? 0 : begin[me + 1] - begin[me];
    const struct rondo__tp_case c = { .kind = RONDO_TP_TABLE, .ranks = ranks, .add = add != 0, .rows = all, .width = ours.width, .begin = begin,
                                      .columns = share, .tokens = tokens, .order = tokens ? tokens->hash : 0 };
    if (!err)
        err = rondo__tp_entry(tp, &c, &e);
    if (!err)
        err = lists_make(&l, tokens, ids, begin, ranks, me);
    if (!err)
        err = rondo_all_gather(tp->ctx, l.own, l.ids, l.bytes);
    if (!err)
        err = find_named(&l, tokens, begin, share, ranks, me, !add);
    if (!err) {
        const int64_t count = share[me + 1] - share[me];
        const size_t row = (size_t)ours.width * sizeof *dy;
        struct rondo__staging s = { .ctx = tp->ctx };
        void *in = NULL, *out = NULL;
        rondo__tp_resize_table(&e->built, &e->c, me, l.moved);
        err = rondo__stage(&s, RONDO_STAGE_READ, rondo__rows_of(mine ? dy : NULL, tokens->rows, (size_t)dy_stride * sizeof *dy, row), &in);
        if (!err)
            err = rondo__stage(&s, RONDO_STAGE_WRITE | (add ? RONDO_STAGE_READ : 0),
                               rondo__rows_of(count ? dw : NULL, count, (size_t)dw_stride * sizeof *dw, row), &out);
        struct rondo__tp_named named = { .owner = l.owner, .moved = l.moved, .next = l.next, .run = rondo__table_sum_run(&l.sum) };
        named.run.tokens = all;
        named.run.rows = count;
        named.run.columns = ours.width;
        named.run.add = add != 0;
        struct rondo__tp_call call = { .tp = tp, .entry = e, .tokens = tokens, .x = in, .x_stride = in == dy ? dy_stride : ours.width, .y = out,
                                       .y_stride = out == dw ? dw_stride : ours.width, .named = &named };
        if (!err)
            err = rondo__tp_run(&call);
        err = rondo__stage_end(&s, true, err);
    }
    lists_free(&l);
    return rondo__collective_failed(tp->ctx, err);
}
