/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Ring pass-KV: Algorithm 2 of arXiv:2411.01783, for one head group. Queries stay; K and V go round. At step j a rank has the keys of
 * rank (rank - j) mod N, passes them on to the next rank and computes with them meanwhile: N - 1 transfers, each behind a step's
 * work. Partial results are nodes of the canonical tree, so the order in which keys come does not reach the result. Where parcels
 * are shown in place, they go round first and one computation takes them all (survey.c).
 *
 * A parcel has the size of what its rank holds and others see (no padding), and stops where nobody further on needs it.
 */
#include "attention/attention.h"

/* This rank's own parcel: in place where the caller's rows lie as they travel, else packed once. */
static int own_part(struct rondo__execution *e, int part, const void **out)
{
    const rondo_attention *plan = e->plan;
    const rondo_tensor *t = part ? &e->io->v : &e->io->k;
    bool in_place = rondo__dense_rows(t, e->kv_heads);
    int64_t begin = -1, next = -1;
    for (int64_t i = 0; i < plan->sequences && in_place; i++) {
        int64_t rows = plan->parcel_first[2 * i + 1], row = rondo__kv_row(e, i) + plan->parcel_first[2 * i];
        if (!rows)
            continue;
        in_place = begin < 0 || row == next;
        begin = begin < 0 ? row : begin;
        next = row + rows;
    }
    int64_t head = (int64_t)e->group * e->kv_heads;
    if (in_place) {
        *out = rondo__row(t, begin, head);
        return 0;
    }
    char *to = rondo__pack_room(e, part);
    *out = to;
    if (!to)
        return RONDO_ENOMEM;
    for (int64_t i = 0; i < plan->sequences; i++) {
        int64_t rows = plan->parcel_first[2 * i + 1];
        int err = rondo__pack_rows(e, t, head, e->kv_heads, rondo__kv_row(e, i) + plan->parcel_first[2 * i], rows, to);
        if (err)
            return err;
        to += (size_t)rows * e->at.parcel_bytes[part];
    }
    return rondo__ops(e->ctx)->sync(rondo__dev(e->ctx));
}

/* Starts hop `hop`: what is on hand goes on, the parcel of the rank before it comes. */
static int start_hop(struct rondo__execution *e, int32_t hop, const struct rondo__parcel_parts *hand, bool *active)
{
    const rondo_attention *plan = e->plan;
    int32_t n = plan->ranks, here = (plan->rank - hop + 1 + n) % n, next = (plan->rank - hop + n) % n;
    bool sends = plan->parcels[here].reach >= hop, receives = plan->parcels[next].reach >= hop;
    *active = sends || receives;
    for (int part = 0; part < 2 && *active; part++) {
        size_t out = sends ? (size_t)plan->parcels[here].rows * e->at.parcel_bytes[part] : 0;
        size_t in = receives ? (size_t)plan->parcels[next].rows * e->at.parcel_bytes[part] : 0;
        void *room = NULL;
        if (in) {
            room = rondo__arrival(e, hop, part, in);
            if (!room)
                return RONDO_ENOMEM;
        }
        rondo__expose(e, hand->part[part], out);
        int err = rondo__shift_start(e->ctx, rondo__shift_slot(e, part), 1, hand->part[part], out, room, in, RONDO_OP_SHIFT,
                                     rondo__label(e, part, "pass-KV", hop));
        if (err)
            return err;
    }
    return 0;
}

int rondo__pass_kv(struct rondo__execution *e)
{
    const rondo_attention *plan = e->plan;
    struct rondo__parcel_parts hand = { { NULL, NULL } };
    struct rondo_kv_part kv = rondo__own_kv(e), *blocks = NULL;
    int err = 0;

    if (plan->in_place) {
        blocks = (struct rondo_kv_part *)(void *)(e->base + e->at.blocks);
        blocks[0] = kv;
    }
    e->buffers[0] = e->base + e->at.pending;
    for (int part = 0; part < 2 && !err && plan->parcels[plan->rank].reach; part++)
        err = own_part(e, part, &hand.part[part]);
    for (int32_t j = 0; j < plan->ranks && !err; j++) {
        bool active = false;
        struct rondo__parcel_parts next = { { NULL, NULL } };
        if (j + 1 < plan->ranks)
            err = start_hop(e, j + 1, &hand, &active);
        if (j)
            kv = rondo__parcel_kv(e, &hand);
        if (!err && !blocks)
            err = rondo__compute(e, j, NULL, &kv, 1);
        for (int part = 0; part < 2 && !err && active; part++)
            err = rondo__shift_finish(e->ctx, rondo__shift_slot(e, part), &next.part[part]);
        hand = next;
        if (blocks && j + 1 < plan->ranks)
            blocks[j + 1] = rondo__parcel_kv(e, &hand);
    }
    if (!err && blocks)
        err = rondo__compute(e, 0, NULL, blocks, plan->ranks);
    return err ? err : rondo__settle(e, "end of pass-KV");
}
