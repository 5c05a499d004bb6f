/* SPDX-License-Identifier: BSD-2-Clause
 *
 * How the workspace of an execution is divided: tables, parcels that are packed or arrive, nodes. Called by survey.c to know its size
 * before anything runs, and by execute.c to use it.
 */
#include "attention/attention.h"

struct divider {
    size_t total;
    bool fits;
};

/* The next `count` items, at a multiple of 64 bytes. (The compiler's check of products takes a count that is wider than size_t.) */
static size_t take(struct divider *d, int64_t count, size_t bytes)
{
    size_t at = d->total, size;
    if (__builtin_mul_overflow(count, bytes, &size) || !rondo__add(size, 63, &size) || !rondo__add(at, size & ~(size_t)63, &d->total))
        d->fits = false;
    return at;
}

size_t rondo__room(const rondo_attention *plan, size_t bytes)
{
    return plan->in_place && bytes > plan->ctx->transport->eager ? plan->ctx->transport->eager : bytes;
}

/* Room for `places` messages of `count` items each; *each: how far apart they are. */
static size_t take_room(struct divider *d, const rondo_attention *plan, int32_t places, int64_t count, size_t bytes, size_t *each)
{
    size_t size;
    if (__builtin_mul_overflow(count, bytes, &size) || !rondo__add(rondo__room(plan, size), 63, each))
        d->fits = false;
    *each = d->fits ? *each & ~(size_t)63 : 0;
    return take(d, places, *each);
}

/* Whether rank's parcel passes through here on its way. */
static bool arrives(const rondo_attention *plan, int32_t rank)
{
    return rank != plan->rank && (plan->rank - rank + plan->ranks) % plan->ranks <= plan->parcels[rank].reach;
}

/* Where this rank's own parcel is packed. Where parcels are copied to two places in turn, the second is free until hop 2, when its own
 * is on its way. Else: a head group's rows and those of several sequences are seldom dense, so there is a place for them; one
 * sequence of all heads is dense unless the caller's tensors have gaps, and then memory is taken when it is seen to. */
static void place_pack(struct divider *d, const rondo_attention *plan, int32_t groups, bool second_fits, struct rondo__workspace *out)
{
    const int64_t rows = plan->parcels[plan->rank].rows;
    const bool q = plan->desc.algorithm == RONDO_PASS_Q;
    size_t bytes = 0;
    if (!plan->parcels[plan->rank].reach)
        return;
    for (int part = 0; part < 2; part++) {
        if (second_fits && !plan->in_place)
            out->pack[part] = out->arrive[part];
        else if (groups > 1 || (plan->sequences > 1 && !q))
            out->pack[part] = take(d, rows, out->parcel_bytes[part]);
        else if (__builtin_mul_overflow(rows, out->parcel_bytes[part], &bytes) || !rondo__add(out->pack_bytes, bytes, &out->pack_bytes))
            d->fits = false;
    }
}

bool rondo__workspace(const rondo_attention *plan, int32_t groups, struct rondo__workspace *out)
{
    const rondo_attention_desc *desc = &plan->desc;
    struct divider d = { 0, true };
    size_t heads = (size_t)(desc->heads / groups), kv_heads = (size_t)(desc->kv_heads / groups);
    const int64_t ranks = plan->ranks;
    size_t head_dim = (size_t)desc->head_dim, value_dim = (size_t)desc->value_dim;
    bool q = desc->algorithm == RONDO_PASS_Q;

    memset(out, 0, sizeof *out);
    out->node_bytes = heads * (value_dim + 2) * sizeof(float);
    out->parcel_bytes[0] = q ? heads * head_dim * rondo_type_size(desc->q_type) : kv_heads * head_dim * rondo_type_size(desc->kv_type);
    out->parcel_bytes[1] = q ? 0 : kv_heads * value_dim * rondo_type_size(desc->kv_type);

    out->buffers = take(&d, ranks, sizeof(void *));
    out->labels = take(&d, 2 * ranks, RONDO_LABEL_BYTES);
    out->shifts = take(&d, ranks + 2, sizeof(struct rondo_shift));
    if (plan->blanks.count)
        out->zeros = take(&d, desc->value_dim, sizeof(float));
    int64_t most = 0, count = 0;
    for (int32_t r = 0; r < plan->ranks; r++) {
        if (arrives(plan, r)) {
            most = plan->parcels[r].rows > most ? plan->parcels[r].rows : most;
            count++;
        }
    }
    out->arrive_places = plan->in_place ? plan->ranks - 1 : count < 2 ? (int32_t)count : 2;
    for (int part = 0; part < 2 && count; part++)
        out->arrive[part] = take_room(&d, plan, out->arrive_places, most, out->parcel_bytes[part], &out->arrive_each[part]);
    place_pack(&d, plan, groups, count > 1 && most >= plan->parcels[plan->rank].rows, out);
    if (plan->in_place && !q)
        out->blocks = take(&d, ranks, sizeof(struct rondo_kv_part));
    out->pending = take(&d, plan->pending_rows, out->node_bytes);
    out->nodes = d.total;
    for (int32_t r = 0; r < plan->ranks && q; r++)
        take(&d, plan->rows_to[r], out->node_bytes);
    for (int32_t r = 0; r < plan->ranks && q; r++) {
        size_t each;
        if (r != plan->rank)
            take_room(&d, plan, 1, plan->rows_from[r], out->node_bytes, &each);
    }
    out->total = d.total;
    return d.fits && out->total < SIZE_MAX / 2;
}
