/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Ring pass-Q: Algorithm 3 of arXiv:2411.01783, and with one token a sequence its Algorithm 4, for one head group. Keys stay; Q goes
 * round. At step j a rank has the queries of rank (rank - j) mod N and computes its own keys' maximal nodes of the canonical tree
 * for them. The nodes go back to the queries' owner at once (the paper's all-to-all, spread over the steps, so that all of it but the
 * last part lies behind computing), and the owner joins the nodes of all ranks in the tree's order.
 *
 * A rank without queries of its own computes for those that have some; there are no dummy queries, and what is empty is not sent.
 */
#include "attention/attention.h"

static size_t whole_lines(size_t bytes)
{
    return (bytes + 63) & ~(size_t)63;
}

/* Nodes for each rank lie in the workspace one after another; after them, room for nodes from each. */
static char *place_nodes(struct rondo__execution *e, void **to)
{
    char *at = e->base + e->at.nodes;
    for (int32_t r = 0; r < e->plan->ranks; r++) {
        to[r] = at;
        at += whole_lines((size_t)e->plan->rows_to[r] * e->at.node_bytes);
    }
    return at;
}

static int own_queries(struct rondo__execution *e, const void **out)
{
    const rondo_attention *plan = e->plan;
    const rondo_tensor *q = &e->io->q;
    int64_t head = (int64_t)e->group * e->heads, begin = 0;
    /* out may be q: what others still read must not become a result */
    bool in_place = rondo__dense_rows(q, e->heads) && e->io->out.data != q->data;
    for (int64_t i = 0, any = 0; i < plan->sequences && in_place && e->io->q_row; i++) {
        if (plan->q_first[i + 1] == plan->q_first[i])
            continue;
        begin = any++ ? begin : e->io->q_row[i] - plan->q_first[i];
        in_place = e->io->q_row[i] - plan->q_first[i] == begin;
    }
    if (in_place) {
        *out = rondo__row(q, begin, head);
        return 0;
    }
    char *to = rondo__pack_room(e, 0);
    *out = to;
    if (!to)
        return RONDO_ENOMEM;
    for (int64_t i = 0; i < plan->sequences; i++) {
        const int64_t first = plan->q_first[i], rows = plan->q_first[i + 1] - first;
        int err = rondo__pack_rows(e, q, head, e->heads, rondo__query_row(plan, e->io->q_row, i, first), rows, to);
        if (err)
            return err;
        to += (size_t)rows * e->at.parcel_bytes[0];
    }
    return rondo__ops(e->ctx)->sync(rondo__dev(e->ctx));
}

static int start_hop(struct rondo__execution *e, int32_t hop, const void *hand, bool *active)
{
    const rondo_attention *plan = e->plan;
    int32_t n = plan->ranks, here = (plan->rank - hop + 1 + n) % n, next = (plan->rank - hop + n) % n;
    size_t out = plan->parcels[here].reach >= hop ? (size_t)plan->parcels[here].rows * e->at.parcel_bytes[0] : 0;
    size_t in = plan->parcels[next].reach >= hop ? (size_t)plan->parcels[next].rows * e->at.parcel_bytes[0] : 0;
    void *room = NULL;
    *active = out || in;
    if (!*active)
        return 0;
    if (in) {
        room = rondo__arrival(e, hop, 0, in);
        if (!room)
            return RONDO_ENOMEM;
    }
    rondo__expose(e, hand, out);
    return rondo__shift_start(e->ctx, rondo__shift_slot(e, 0), 1, hand, out, room, in, RONDO_OP_SHIFT, rondo__label(e, 0, "pass-Q", hop));
}

/* After step j: nodes for rank (rank - j) leave, those that rank (rank + j) computed in its step j come. */
static int start_return(struct rondo__execution *e, int32_t j, char **room, bool *active)
{
    const rondo_attention *plan = e->plan;
    int32_t n = plan->ranks, to = (plan->rank - j + n) % n, from = (plan->rank + j) % n;
    size_t out = (size_t)plan->rows_to[to] * e->at.node_bytes, in = (size_t)plan->rows_from[from] * e->at.node_bytes;
    *active = out || in;
    if (!*active)
        return 0;
    int err = out ? rondo__ops(e->ctx)->sync(rondo__dev(e->ctx)) : 0;
    if (!err)
        err = rondo__shift_start(e->ctx, rondo__shift_slot(e, j), n - j, e->buffers[to], out, *room, in, RONDO_OP_ALL_TO_ALL,
                                 rondo__label(e, plan->ranks + j, "pass-Q return", j));
    *room += whole_lines(rondo__room(plan, in));
    return err;
}

int rondo__pass_q(struct rondo__execution *e)
{
    const rondo_attention *plan = e->plan;
    const struct rondo_kv_part own = rondo__own_kv(e);
    const void *hand = NULL;
    char *room = place_nodes(e, e->buffers);
    int err = plan->parcels[plan->rank].reach ? own_queries(e, &hand) : 0;

    for (int32_t j = 0; j < plan->ranks; j++)
        rondo__shift_slot(e, j)->active = 0;
    for (int32_t j = 0; j < plan->ranks && !err; j++) {
        bool active = false, returns = false;
        const void *next = NULL;
        if (j + 1 < plan->ranks)
            err = start_hop(e, j + 1, hand, &active);
        if (!err)
            err = rondo__compute(e, j, j ? hand : NULL, &own, 1);
        if (!err && j)
            err = start_return(e, j, &room, &returns);
        if (!err && active)
            err = rondo__shift_finish(e->ctx, rondo__shift_slot(e, 0), &next);
        hand = next;
    }
    for (int32_t j = 1; j < plan->ranks && !err; j++) {
        const void *where = NULL;
        int32_t from = (plan->rank + j) % plan->ranks;
        if (!rondo__shift_slot(e, j)->active)
            continue;
        err = rondo__shift_finish(e->ctx, rondo__shift_slot(e, j), &where);
        if (plan->rows_from[from])
            e->buffers[from] = (void *)(uintptr_t)where;
    }
    if (!err)
        err = rondo__compute(e, plan->ranks, NULL, &own, 1);
    if (!err)
        err = rondo__ops(e->ctx)->sync(rondo__dev(e->ctx));
    return err ? err : rondo__settle(e, "end of pass-Q");
}
