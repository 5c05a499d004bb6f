/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The two passes of FlashKDA's fwd_cp (github.com/MoonshotAI/FlashKDA, pull request 9), to compare with: of each segment but a sequence's last one the
 * state at its end, as if it had begun with zeros, is taken for the one with which the next segment begins. What the segment would pass on of its own
 * incoming state is left out: that is exact only where it has decayed to nothing. lib/delta/legacy.c says when that method takes itself to be right,
 * which is not when it is.
 *
 * Segments are the tiles of an affine scan, and so are their places among ranks; one state goes from rank to rank at most. Certificates tell how much
 * was left out. Called by build.c.
 */
#include "delta/delta.h"

struct legacy {
    struct rondo__delta_build *b;
    struct rondo__delta_unit *units, *bounds;
    int64_t unit_count, number;    /* certificates that are made */
    size_t state;                  /* bytes of all heads' */
};

static struct rondo__delta_piece segment_of(const struct rondo__delta_design *p, int64_t sequence, int64_t segment)
{
    const int64_t first = p->cu[sequence] + segment * p->desc.tile, left = p->cu[sequence + 1] - first;
    return (struct rondo__delta_piece){ sequence, first, first + (left < p->desc.tile ? left : p->desc.tile), { -1, 0, 0 }, { -1, 0, 0 }, { -1, 0, 0 } };
}

/* The state that a segment's tokens make of zeros, and its certificate, number `number` of the rank. */
static int32_t first_pass(struct legacy *x, const struct rondo__delta_tiles *t, int64_t segment, int64_t number)
{
    struct rondo__delta_build *b = x->b;
    struct rondo__delta_piece piece = segment_of(b->d, t->sequence, segment);
    const int32_t buffer = rondo__delta_own(b, "state behind segment", segment < INT32_MAX ? (int32_t)segment : -1, x->state);
    piece.to = (struct rondo__delta_place){ buffer, 0, 0 };
    const struct rondo__delta_scan pass = { RONDO_DELTA_STATE, piece, x->units, x->unit_count };
    rondo__delta_scan(b, &pass, 1, b->d->desc.chunk, rondo__step_of("first pass, segment", segment + 1, t->tiles));
    piece.to = (struct rondo__delta_place){ RONDO_DELTA_BOUNDS, 1, number * b->d->desc.heads };
    const struct rondo__delta_scan bound = { RONDO_DELTA_BOUND, piece, x->bounds, b->d->desc.heads };
    rondo__delta_scan(b, &bound, 1, 0, rondo__step_of("certificate of segment", segment + 1, t->tiles));
    return buffer;
}

static void move(struct legacy *x, int32_t buffer, int32_t peer, bool receives)
{
    rondo__schedule_begin(x->b->s, RONDO_TRANSFER, (struct rondo__step){ receives ? "state from before" : "state goes on", 0, 0 }, -1)->operation =
        RONDO_OP_SHIFT;
    rondo__schedule_part(x->b->s, buffer, 0, x->state, peer, receives);
    rondo__schedule_end(x->b->s);
}

static bool units_of(struct legacy *x)
{
    const rondo_delta_desc *d = &x->b->d->desc;
    x->state = (size_t)(d->heads * rondo__delta_state(x->b->d)) * sizeof(float);
    x->units = rondo__delta_units(x->b->d, d->value_dim, &x->unit_count);
    x->bounds = rondo__alloc_zero((size_t)d->heads, sizeof *x->bounds);
    for (int64_t h = 0; h < d->heads && x->bounds; h++)
        x->bounds[h] = (struct rondo__delta_unit){ (int32_t)h, 0, 1, 0, h };
    x->b->s->failed |= !x->units || !x->bounds;
    return !x->b->s->failed;
}

/* Whether any state goes from rank to rank: the same on all of them. */
static bool anything_moves(const struct rondo__delta_design *p)
{
    for (int32_t r = 1; r < p->ranks; r++)
        if (p->begin[r] > 0 && p->begin[r] < p->rows && p->cu[rondo__delta_sequence(p, p->begin[r])] < p->begin[r])
            return true;
    return false;
}

void rondo__delta_legacy(struct rondo__delta_build *b)
{
    const struct rondo__delta_design *p = b->d;
    const int64_t first = p->begin[b->rank], end = p->begin[b->rank + 1], all = rondo__delta_tile_count(p, b->rank);
    struct legacy x = { .b = b };
    struct rondo__delta_piece *pieces = NULL;
    int32_t last = -1, before = -1;
    int64_t count = 0;
    if (!units_of(&x))
        goto done;
    pieces = rondo__alloc_zero((size_t)(all + p->desc.sequences), sizeof *pieces);
    b->s->failed |= !pieces;
    if (b->s->failed)
        goto done;
    if (first < end) {
        const struct rondo__delta_tiles head = rondo__delta_tiles(p, b->rank, rondo__delta_sequence(p, first));
        const struct rondo__delta_tiles tail = rondo__delta_tiles(p, b->rank, rondo__delta_sequence(p, end - 1));
        if (tail.end < tail.tiles) {   /* somebody waits for it */
            last = first_pass(&x, &tail, tail.end - 1, all - 1);
            move(&x, rondo__schedule_sent(b->s, b->m, last, 0, x.state, -1), rondo__delta_owner(p, end), false);
        }
        if (head.first) {
            before = rondo__schedule_arrival(b->s, b->m, "state from before", -1, x.state);
            move(&x, before, rondo__delta_owner(p, first - 1), true);
        }
    }
    for (int64_t n = 0; n < p->desc.sequences && !b->s->failed; n++) {
        const struct rondo__delta_tiles t = rondo__delta_tiles(p, b->rank, n);
        if (p->cu[n] == p->cu[n + 1] && rondo__delta_owner(p, p->cu[n]) == b->rank)
            pieces[count++] = (struct rondo__delta_piece){ n, p->cu[n], p->cu[n], rondo__delta_initial(b, n), rondo__delta_final(b, n), { -1, 0, 0 } };
        for (int64_t i = t.first; i < t.end && !b->s->failed; i++, x.number++) {
            struct rondo__delta_piece *piece = pieces + count++;
            *piece = segment_of(p, n, i);
            piece->from = !i ? rondo__delta_initial(b, n) : (struct rondo__delta_place){ i == t.first ? before : pieces[count - 2].to.buffer, 0, 0 };
            if (i + 1 == t.tiles)
                piece->to = rondo__delta_final(b, n);
            else if (i + 1 < t.end)   /* for the next piece to begin with; written by the first pass, not by this one */
                piece->to.buffer = first_pass(&x, &t, i, x.number);
        }
    }
    if (before >= 0)
        before = rondo__schedule_received(b->s, b->m, before, x.state, -1);
    for (int64_t i = 0; i < count && !b->s->failed; i++) {
        const int64_t n = pieces[i].sequence;
        if (pieces[i].end < p->cu[n + 1])
            pieces[i].to = (struct rondo__delta_place){ -1, 0, 0 };
        if (pieces[i].first == first && pieces[i].first > p->cu[n])
            pieces[i].from.buffer = before;
    }
    rondo__delta_compute(b, pieces, b->s->failed ? 0 : count, x.units, x.unit_count, rondo__step_named("second pass"));
    if (anything_moves(p) && x.state > b->m->eager)   /* the same on all ranks */
        rondo__schedule_fence(b->s, b->m, rondo__step_named("end of the delta rule"));
done:
    rondo__free(x.units);
    rondo__free(x.bounds);
    rondo__free(pieces);
}
