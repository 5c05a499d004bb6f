/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The delta rule as an affine scan (the context parallelism of flash-linear-attention, with exact maps). What a tile of tokens makes of a state S is
 * M S + U: ranks make U and M of their own tiles, send them once to the ranks behind, and each folds those before its own tiles, one after another,
 * into the states that these begin with. All ranks work at the same time whatever the heads, at 2.1 times the work of one walk: U and M are put
 * nothing out of, and made in chunks, with two multiply-adds for each of their numbers.
 *
 * Tiles are cut at fixed distances from each sequence's first token, and a rank has whole ones: so the bits, which are not those of one walk, are
 * the same for every number of ranks. The first tile of a sequence goes from its true state, and needs no map; the last one has nobody behind it.
 * Called by build.c.
 */
#include "delta/delta.h"

struct affine {
    struct rondo__delta_build *b;
    struct rondo__delta_unit *units, *maps, *bounds;   /* heads' values; columns of maps; a number of each */
    int64_t unit_count, tile;
    int32_t chunk;                 /* of sources and maps */
    size_t state, map;             /* bytes of all heads' */
};

static struct rondo__delta_tiles has(const struct affine *x, int32_t rank, int64_t sequence)
{
    return rondo__delta_tiles(x->b->d, rank, sequence);
}

static struct rondo__delta_piece tile_of(const struct affine *x, int64_t sequence, int64_t tile)
{
    const struct rondo__delta_design *p = x->b->d;
    const int64_t first = p->cu[sequence] + tile * x->tile, end = first + x->tile;
    return (struct rondo__delta_piece){ sequence, first, end < p->cu[sequence + 1] ? end : p->cu[sequence + 1], { -1, 0, 0 }, { -1, 0, 0 },
                                        { -1, 0, 0 } };
}

/* U of all heads, and behind it M where it is not the first tile. */
static size_t packet_bytes(const struct affine *x, int64_t tile) { return x->state + (tile ? x->map : 0); }

/* U and M of the rank's own tiles but a sequence's last one, each into a buffer; *out: of the first of them. `number`: of that one among all that
 * the rank has. */
static void make_packets(struct affine *x, const struct rondo__delta_tiles *t, int64_t number, int32_t *out)
{
    struct rondo__delta_build *b = x->b;
    const int64_t heads = b->d->desc.heads;
    for (int64_t i = t->first; i < t->end && i + 1 < t->tiles && !b->s->failed; i++) {
        struct rondo__delta_piece piece = tile_of(x, t->sequence, i);
        const int32_t buffer = rondo__delta_own(b, "packet of tile", i < INT32_MAX ? (int32_t)i : -1, packet_bytes(x, i));
        out[i - t->first] = buffer;
        const struct rondo__delta_place nowhere = { -1, 0, 0 }, bound = { RONDO_DELTA_BOUNDS, 1, (number + i - t->first) * heads };
        piece.to = bound;
        const struct rondo__delta_scan certificate = { RONDO_DELTA_BOUND, piece, x->bounds, heads };
        rondo__delta_scan(b, &certificate, 1, 0, rondo__step_of("certificate of tile", i + 1, t->tiles));
        piece.from = i ? nowhere : rondo__delta_initial(b, t->sequence);
        piece.to = (struct rondo__delta_place){ buffer, 0, 0 };
        struct rondo__delta_scan scans[2] = { { RONDO_DELTA_STATE, piece, x->units, x->unit_count }, { RONDO_DELTA_MAP, piece, x->maps, heads } };
        scans[1].piece.from = bound;
        scans[1].piece.to = (struct rondo__delta_place){ buffer, 1, (int64_t)(x->state / sizeof(float)) };
        rondo__delta_scan(b, scans, i ? 2 : 1, x->chunk, rondo__step_of(i ? "sources and maps of tile" : "state behind tile", i + 1, t->tiles));
    }
}

/* Packets to the ranks behind and from those before, of the sequence that goes on (out) and of the one that came (in). */
static void exchange(struct affine *x, const struct rondo__delta_tiles *tail, const int32_t *out, const struct rondo__delta_tiles *head, int32_t *in)
{
    struct rondo__delta_build *b = x->b;
    const int32_t ranks = b->d->ranks;
    int32_t *sent = rondo__alloc_zero((size_t)(tail->end - tail->first), sizeof *sent);
    b->s->failed |= !sent;
    for (int64_t i = tail->first; i < tail->end && i + 1 < tail->tiles && tail->end < tail->tiles && !b->s->failed; i++)
        sent[i - tail->first] = rondo__schedule_sent(b->s, b->m, out[i - tail->first], 0, packet_bytes(x, i), -1);
    if (!b->s->failed) {
        rondo__schedule_begin(b->s, RONDO_TRANSFER, rondo__step_named("packets"), -1)->operation = RONDO_OP_ALL_GATHER;
        for (int32_t r = b->rank + 1; r < ranks && tail->end > tail->first; r++)
            for (int64_t i = tail->first; i < tail->end && has(x, r, tail->sequence).end; i++)
                rondo__schedule_part(b->s, sent[i - tail->first], 0, packet_bytes(x, i), r, false);
        for (int32_t r = 0; r < b->rank && head->first < head->end; r++) {
            const struct rondo__delta_tiles t = has(x, r, head->sequence);
            for (int64_t i = t.first; i < t.end && !b->s->failed; i++) {
                in[i] = rondo__schedule_arrival(b->s, b->m, "packet from tile", (int32_t)i, packet_bytes(x, i));
                rondo__schedule_part(b->s, in[i], 0, packet_bytes(x, i), r, true);
            }
        }
        rondo__schedule_end(b->s);
    }
    for (int64_t i = 0; i < head->first && !b->s->failed; i++)
        in[i] = rondo__schedule_received(b->s, b->m, in[i], packet_bytes(x, i), -1);
    rondo__free(sent);
}

/* The rank's tiles of one sequence, each from its true state, which is folded on from packet to packet: packets[i] is tile i's. */
static void run_tiles(struct affine *x, const struct rondo__delta_tiles *t, const int32_t *packets)
{
    struct rondo__delta_build *b = x->b;
    int32_t states[2] = { -1, -1 };
    struct rondo__delta_place at = rondo__delta_initial(b, t->sequence);
    for (int64_t i = 0; i < t->end && !b->s->failed; i++) {
        if (i >= t->first) {
            struct rondo__delta_piece piece = tile_of(x, t->sequence, i);
            piece.from = at;
            if (i + 1 == t->tiles)
                piece.to = rondo__delta_final(b, t->sequence);
            rondo__delta_compute(b, &piece, 1, x->units, x->unit_count, rondo__step_of("tile", i + 1, t->tiles));
        }
        if (i + 1 == t->end)
            break;
        if (!i) {                  /* the first tile's is a state already */
            at = (struct rondo__delta_place){ packets[0], 0, 0 };
            continue;
        }
        int32_t *to = states + i % 2;
        *to = *to >= 0 ? *to : rondo__delta_own(b, "states at tile", -1, x->state);
        rondo__delta_fold(b, packets[i], at, *to, rondo__step_of("fold tile", i + 1, t->tiles));
        at = (struct rondo__delta_place){ *to, 0, 0 };
    }
}

/* Bytes of the largest message between any two ranks. */
static size_t largest(const struct affine *x)
{
    const struct rondo__delta_design *p = x->b->d;
    size_t most = 0;
    for (int32_t r = 1; r < p->ranks; r++) {
        const int64_t row = p->begin[r];
        if (row <= 0 || row >= p->rows)
            continue;
        const int64_t before = row - p->cu[rondo__delta_sequence(p, row)];
        const size_t bytes = before > x->tile ? x->state + x->map : before ? x->state : 0;
        most = bytes > most ? bytes : most;
    }
    return most;
}

static bool units_of(struct affine *x)
{
    const rondo_delta_desc *d = &x->b->d->desc;
    x->tile = d->tile;
    x->chunk = d->chunk ? d->chunk : RONDO_DELTA_MAP_CHUNK;
    x->state = (size_t)(d->heads * rondo__delta_state(x->b->d)) * sizeof(float);
    x->map = (size_t)(d->heads * d->key_dim * d->key_dim) * sizeof(float);
    x->units = rondo__delta_units(x->b->d, d->value_dim, &x->unit_count);
    x->maps = rondo__alloc_zero((size_t)d->heads, sizeof *x->maps);
    for (int64_t h = 0; h < d->heads && x->maps; h++)
        x->maps[h] = (struct rondo__delta_unit){ (int32_t)h, 0, (int32_t)d->key_dim, 0, h * d->key_dim * d->key_dim };
    x->bounds = rondo__alloc_zero((size_t)d->heads, sizeof *x->bounds);
    for (int64_t h = 0; h < d->heads && x->bounds; h++)
        x->bounds[h] = (struct rondo__delta_unit){ (int32_t)h, 0, 1, 0, h };
    x->b->s->failed |= !x->units || !x->maps || !x->bounds;
    return !x->b->s->failed;
}

void rondo__delta_affine(struct rondo__delta_build *b)
{
    const struct rondo__delta_design *p = b->d;
    const int64_t first = p->begin[b->rank], end = p->begin[b->rank + 1];
    struct affine x = { .b = b };
    struct rondo__delta_tiles head = { 0, 0, 0, 0 }, tail = head;
    int32_t *in = NULL, *out = NULL;
    int64_t number = 0;            /* tiles before, of this rank */
    if (!units_of(&x))
        goto done;
    if (first < end) {
        head = has(&x, b->rank, rondo__delta_sequence(p, first));
        tail = has(&x, b->rank, rondo__delta_sequence(p, end - 1));
    }
    in = rondo__alloc_zero((size_t)head.end + 1, sizeof *in);
    out = rondo__alloc_zero((size_t)(tail.end - tail.first) + 1, sizeof *out);
    b->s->failed |= !in || !out;
    if (b->s->failed)
        goto done;
    if (tail.end < tail.tiles)     /* others wait for them */
        make_packets(&x, &tail, rondo__delta_tile_count(p, b->rank) - (tail.end - tail.first), out);
    exchange(&x, &tail, out, &head, in);
    for (int64_t n = 0; n < p->desc.sequences && !b->s->failed; n++) {
        struct rondo__delta_tiles t = has(&x, b->rank, n);
        if (p->cu[n] == p->cu[n + 1] && rondo__delta_owner(p, p->cu[n]) == b->rank) {
            const struct rondo__delta_piece piece = { n, p->cu[n], p->cu[n], rondo__delta_initial(b, n), rondo__delta_final(b, n), { -1, 0, 0 } };
            rondo__delta_compute(b, &piece, 1, x.units, x.unit_count, rondo__step_named("delta rule"));
        }
        if (t.first == t.end)
            continue;
        int32_t *packets = rondo__alloc_zero((size_t)t.tiles + 1, sizeof *packets);
        b->s->failed |= !packets;
        if (b->s->failed)
            goto done;
        if (n == head.sequence)
            memcpy(packets, in, (size_t)t.first * sizeof *packets);
        if (n == tail.sequence && tail.end < tail.tiles)
            memcpy(packets + t.first, out, (size_t)(t.end - t.first) * sizeof *packets);
        else
            make_packets(&x, &t, number, packets + t.first);
        number += t.end - t.first;
        run_tiles(&x, &t, packets);
        rondo__free(packets);
    }
    if (largest(&x) > b->m->eager)   /* the same on all ranks */
        rondo__schedule_fence(b->s, b->m, rondo__step_named("end of the delta rule"));
done:
    rondo__free(x.units);
    rondo__free(x.maps);
    rondo__free(x.bounds);
    rondo__free(in);
    rondo__free(out);
}
