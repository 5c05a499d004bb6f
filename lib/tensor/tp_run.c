/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Exchanges of tensor parallelism, kept and run. What an exchange needs - its schedule, what executes it, a workspace - is made when one of
 * its case is called for the first time, by all ranks together, who agree on the case; the next call finds it and takes no memory. As ranks make
 * the same calls they also drop the same ones. One workspace serves all: exchanges end with a fence where peers were shown any of it.
 * Called by tp.c, tp_lookup.c, tp_gradients.c, tp_table.c and tp_entropy.c.
 */
#include "tensor/linear.h"
#include "tensor/tokens.h"
#include "tensor/tp.h"

/* ---- cases ---- */

static bool same_list(const int64_t *a, const int64_t *b, int32_t ranks)
{
    return !a == !b && (!a || !memcmp(a, b, ((size_t)ranks + 1) * sizeof *a));
}

static bool same(const struct rondo__tp_case *a, const struct rondo__tp_case *b)
{
    return a->kind == b->kind && a->rows == b->rows && a->few == b->few && a->add == b->add && a->bias == b->bias && a->leaves == b->leaves &&
           a->width == b->width && a->in == b->in && a->order == b->order && a->row_bytes == b->row_bytes && a->loose == b->loose &&
           (a->loose || same_list(a->begin, b->begin, a->ranks)) && same_list(a->columns, b->columns, a->ranks);
}

static uint64_t hash_of(const struct rondo__tp_case *c)
{
    const int64_t word[] = { c->kind, c->ranks, c->few, c->add, c->bias, c->leaves, c->loose, c->rows, c->width, c->in, c->row_bytes,
                             (int64_t)c->order };
    uint64_t hash = 0;
    for (size_t i = 0; i < sizeof word / sizeof *word; i++)
        hash = rondo__hash_word(hash, (uint64_t)word[i]);
    for (int32_t i = 0; i <= c->ranks && c->begin && !c->loose; i++)
        hash = rondo__hash_word(hash, (uint64_t)c->begin[i]);
    for (int32_t i = 0; i <= c->ranks && c->columns; i++)
        hash = rondo__hash_word(hash, (uint64_t)c->columns[i]);
    return hash;
}

/* ---- entries ---- */

static void entry_free(struct rondo__tp_entry *e)
{
    rondo__runner_free(e->runner);
    rondo__tp_unbuild(&e->built);
    rondo__free(e->lists);
    rondo__free(e->join);
    rondo__free(e->owner);
    rondo__free(e->next);
    *e = (struct rondo__tp_entry){ .used = 0 };
}

void rondo__tp_entries_free(rondo_tp *tp)
{
    const struct rondo_device_ops *ops = rondo__ops(tp->ctx);
    for (int i = 0; i < RONDO_TP_ENTRIES && tp->entry; i++)
        if (tp->entry[i].used)
            entry_free(tp->entry + i);
    for (int kind = 0; kind < 3; kind++)
        if (tp->room[kind])
            ops->memory_free(rondo__dev(tp->ctx), kind, tp->room[kind], tp->room_bytes[kind]);
}

/* Nobody reads what is there: every exchange has ended. */
static int grow_room(rondo_tp *tp, const struct rondo__schedule *s)
{
    const struct rondo_device_ops *ops = rondo__ops(tp->ctx);
    for (int kind = 0; kind < 3; kind++) {
        void *room = NULL;
        if (s->workspace_bytes[kind] <= tp->room_bytes[kind])
            continue;
        int err = ops->memory_new(rondo__dev(tp->ctx), kind, s->workspace_bytes[kind], &room);
        if (err)
            return rondo__fail(err, "no memory for a workspace of %zu bytes for tensor parallelism", s->workspace_bytes[kind]);
        if (tp->room[kind])
            ops->memory_free(rondo__dev(tp->ctx), kind, tp->room[kind], tp->room_bytes[kind]);
        tp->room[kind] = room;
        tp->room_bytes[kind] = s->workspace_bytes[kind];
    }
    return 0;
}

static int no_memory(void)
{
    return rondo__fail(RONDO_ENOMEM, "no memory for an exchange of tensor parallelism");
}

/* The schedule and what executes it. Of a loose case first the largest, so that the one wanted and all later ones find room. */
static int make(rondo_tp *tp, struct rondo__tp_entry *e, bool largest)
{
    struct rondo__machine machine;
    struct rondo__tp_case c = e->c;
    rondo__machine_of(tp->ctx, &machine);
    if (largest)
        c.begin = NULL;
    int err = rondo__tp_build(&e->built, &c, tp->ctx->rank, &machine);
    if (!err && (largest || !e->c.loose))
        err = grow_room(tp, &e->built.schedule);
    return err ? err : rondo__runner_make(&e->runner, tp->ctx, &e->built.schedule, NULL, 0, 0);
}

/* The same exchange with rows dealt out in another way: takes no memory. */
static int deal(rondo_tp *tp, struct rondo__tp_entry *e, const int64_t *begin)
{
    if (same_list(e->c.begin, begin, e->c.ranks))
        return 0;
    e->c.begin = memcpy(e->lists, begin, ((size_t)e->c.ranks + 1) * sizeof *e->lists);
    int err = make(tp, e, false);
    if (err)
        entry_free(e);
    return err;
}

static int fill(rondo_tp *tp, struct rondo__tp_entry *e, const struct rondo__tp_case *c)
{
    const size_t list = (size_t)c->ranks + 1;
    e->c = *c;
    e->lists = rondo__alloc_zero(2 * list, sizeof *e->lists);
    if (!e->lists)
        return no_memory();
    if (c->begin)
        e->c.begin = memcpy(e->lists, c->begin, list * sizeof *e->lists);
    if (c->columns)
        e->c.columns = memcpy(e->lists + list, c->columns, list * sizeof *e->lists);
    int err = make(tp, e, c->loose);
    if (!err && c->loose)
        err = make(tp, e, false);
    e->c.tokens = NULL;
    if (err)
        return err;
    e->join = rondo__alloc_zero((size_t)e->built.nodes.count, sizeof *e->join);
    e->owner = rondo__alloc_zero(c->kind == RONDO_TP_LOOKUP ? (size_t)c->rows : 0, sizeof *e->owner);
    e->next = rondo__alloc_zero(c->kind == RONDO_TP_LOOKUP ? (size_t)c->ranks : 0, sizeof *e->next);
    if (!e->join || !e->owner || !e->next)
        return no_memory();
    return 0;
}

int rondo__tp_entry(rondo_tp *tp, const struct rondo__tp_case *c, struct rondo__tp_entry **out)
{
    struct rondo__tp_entry *oldest = tp->entry;
    for (struct rondo__tp_entry *e = tp->entry; e < tp->entry + RONDO_TP_ENTRIES; e++) {
        if (e->used && same(&e->c, c)) {
            e->used = ++tp->calls;
            *out = e;
            return c->loose ? deal(tp, e, c->begin) : 0;
        }
        oldest = e->used < oldest->used ? e : oldest;
    }
    if (oldest->used)
        entry_free(oldest);
    int err = fill(tp, oldest, c);
    err = rondo_agree(tp->ctx, hash_of(c), err, "an exchange of tensor parallelism");
    if (err) {
        entry_free(oldest);
        return err;
    }
    oldest->used = ++tp->calls;
    *out = oldest;
    return 0;
}

/* ---- running ---- */

/* Those of this rank's tokens. */
static int token_nodes(const struct rondo__tp_call *call, void *const *place, const struct rondo_poll *poll)
{
    const struct rondo__tp_case *c = &call->entry->c;
    const struct rondo_tokens *t = call->tokens;
    float *to = place[call->entry->built.made];
    int err = 0;
    for (int64_t i = 0; i < t->node_count && !err; i++) {
        const struct rondo__token_node *n = t->nodes + i;
        if (n->part != t->part)
            continue;
        const struct rondo_token_segment all = { 0, n->leaves, 0 };
        struct rondo_token_run run = rondo__tokens_run(t, n->leaf, n->leaves);
        run.segments = c->bias ? NULL : &all;
        run.segment_count = !c->bias;
        run.rows = c->rows;
        run.columns = c->width;
        run.a = place[RONDO_TP_BIAS];
        run.a_stride = call->bias_stride;
        run.b = place[RONDO_TP_X];
        run.b_stride = call->x_stride;
        run.y = to;
        run.y_stride = c->width;
        err = rondo__ops(call->tp->ctx)->token_sum(rondo__dev(call->tp->ctx), NULL, &run, poll);
        to += c->rows * c->width;
    }
    return err;
}

/* Of a sum over outputs. */
static int back_nodes(const struct rondo__tp_call *call, void *const *place, const struct rondo_poll *poll)
{
    const struct rondo__tp_case *c = &call->entry->c;
    const int32_t me = call->tp->ctx->rank, first = (int32_t)c->begin[me];
    const struct rondo_linear_dx_run run = { .rows = c->rows, .outputs = c->in, .total = c->leaves, .first_leaf = first,
                                             .leaves = (int32_t)c->begin[me + 1] - first, .dy = place[RONDO_TP_X], .dy_stride = call->x_stride,
                                             .nodes = place[call->entry->built.made], .node_stride = c->rows * c->width };
    return rondo__linear_run_dx(call->linear, call->tp->ctx, NULL, &run, poll);
}

static int nodes(const struct rondo__tp_call *call, void *const *place, const struct rondo_poll *poll)
{
    const struct rondo__tp_case *c = &call->entry->c;
    const int32_t me = call->tp->ctx->rank, first = (int32_t)c->begin[me];
    return rondo__linear_run_nodes(call->linear, call->tp->ctx, NULL, first, (int32_t)c->begin[me + 1] - first, c->rows, place[RONDO_TP_X],
                                   call->x_stride, place[call->entry->built.made], c->rows * c->width, poll);
}

static int join(const struct rondo__tp_call *call, void *const *place, const struct rondo_poll *poll)
{
    const struct rondo__tp_entry *e = call->entry;
    const struct rondo__tp_node *node = e->built.nodes.items;
    int64_t first, count;
    rondo__tp_kept(&e->c, call->tp->ctx->rank, &first, &count);
    for (int64_t i = 0; i < e->built.nodes.count; i++)
        e->join[i] = (struct rondo_linear_node){ (const float *)(const void *)((const char *)place[node[i].buffer] + node[i].at), e->c.width,
                                                 node[i].merges, 0 };
    if (call->entropy)
        return rondo__tp_entropy_join(call, place, poll);
    const struct rondo_linear_join j = { .rows = count, .out = e->c.width, .nodes = e->join, .count = (int32_t)e->built.nodes.count,
                                         .add = e->c.add, .y = place[RONDO_TP_Y], .y_stride = call->y_stride,
                                         .bias = e->c.bias && !call->tokens ? place[RONDO_TP_BIAS] : NULL };
    return rondo__ops(call->tp->ctx)->linear_join(rondo__dev(call->tp->ctx), NULL, &j);
}

static int compute(void *arg, const struct rondo__operation *o, void *const *place, const struct rondo_poll *poll)
{
    const struct rondo__tp_call *call = arg;
    switch (o->first) {
    case RONDO_TP_NODES:
        if (call->entropy)
            return rondo__tp_entropy_nodes(call, place, poll);
        return call->tokens ? token_nodes(call, place, poll) : call->back ? back_nodes(call, place, poll) : nodes(call, place, poll);
    case RONDO_TP_JOIN:
        return join(call, place, poll);
    case RONDO_TP_FIND:
        return call->named ? rondo__tp_pack_rows(call, place) : rondo__tp_find(call, place);
    default:
        return call->named ? rondo__tp_sum_rows(call, place, poll) : rondo__tp_convert(call, place);
    }
}

int rondo__tp_run(struct rondo__tp_call *call)
{
    void *const caller[RONDO_TP_CALLERS] = { (void *)(uintptr_t)call->x, call->y, (void *)(uintptr_t)call->bias };
    const struct rondo__given given = { .caller = caller, .room = call->tp->room, .compute = compute, .arg = call, .function = "tensor parallelism" };
    const struct rondo__schedule *s = &call->entry->built.schedule;
    int err = rondo__runner_bind(call->entry->runner, &given, NULL);
    if (!err)
        err = rondo__runner_run(call->entry->runner);
    if (!err && rondo__operation_at(s, s->operations.count - 1)->kind != RONDO_FENCE)
        err = rondo__fence_at_times(call->tp->ctx, rondo__step_named("after some exchanges"));
    return err;
}
