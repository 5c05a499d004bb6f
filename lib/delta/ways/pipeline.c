/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The delta rule as a chain over ranks: each computes its own tokens, and the states of the sequence that goes on in the next one's tokens are
 * handed on, stage by stage, a stage being some columns of some heads. While a rank computes a stage the next one computes the stage before, so
 * that with n stages P ranks are done in the time of n + P - 1 (the pipeline of arXiv:1811.06965, with columns for micro-batches). Nothing is
 * computed twice, and every state has the bits of a walk by one rank.
 *
 * Serial is the same with one stage. Called by build.c.
 */
#include "delta/delta.h"

/* Stages, in the order of their units. */
#define STAGES_OF_A_RANK 16        /* beyond that, n / (n + P - 1) gains little, and messages become small */
#define CUT 64                     /* columns of a unit where heads alone are too few */

struct stages {
    struct rondo__delta_unit *units;
    int64_t unit_count, count;
    int32_t *in, *out;             /* [count]: buffers of what arrives and departs; -1: none */
};

static int64_t units_before(const struct stages *g, int64_t stage)
{
    int64_t first, count;
    return rondo_share(g->unit_count, (int)g->count, NULL, (int)stage, &first, &count) ? 0 : first;
}

/* Of a stage: floats of its packet. Units' places in it. */
static int64_t place_units(const struct rondo__delta_design *p, struct stages *g, int64_t stage)
{
    const int64_t first = units_before(g, stage), end = stage + 1 < g->count ? units_before(g, stage + 1) : g->unit_count;
    int64_t at = 0;
    for (int64_t u = first; u < end; u++) {
        g->units[u].at = at;
        at += p->desc.key_dim * g->units[u].columns;
    }
    return at;
}

int64_t rondo__delta_unit_columns(const struct rondo__delta_design *d, int32_t ranks)
{
    return ranks == 1 || d->desc.heads >= (int64_t)ranks * STAGES_OF_A_RANK ? d->desc.value_dim : CUT;
}

int64_t rondo__delta_stages(const struct rondo__delta_design *d, int32_t ranks)
{
    const int64_t columns = rondo__delta_unit_columns(d, ranks), wanted = ranks == 1 ? 1 : (int64_t)ranks * STAGES_OF_A_RANK;
    const int64_t units = d->desc.heads * ((d->desc.value_dim + columns - 1) / columns);
    return units < wanted ? units : wanted;
}

static bool plan_stages(struct rondo__delta_build *b, struct stages *g)
{
    const int32_t ranks = b->d->desc.way == RONDO_DELTA_SERIAL ? 1 : b->d->ranks;
    g->units = rondo__delta_units(b->d, rondo__delta_unit_columns(b->d, ranks), &g->unit_count);
    g->count = rondo__delta_stages(b->d, ranks);
    g->in = rondo__alloc_zero((size_t)g->count, sizeof *g->in);
    g->out = rondo__alloc_zero((size_t)g->count, sizeof *g->out);
    b->s->failed |= !g->units || !g->in || !g->out;
    return !b->s->failed;
}

static struct rondo__step step(const struct stages *g, const char *what, int64_t stage)
{
    return rondo__step_of(what, stage + 1, g->count);
}

static void move(struct rondo__delta_build *b, const struct stages *g, int64_t stage, int32_t buffer, size_t bytes, int32_t peer, bool receives)
{
    rondo__schedule_begin(b->s, RONDO_TRANSFER, step(g, receives ? "states from before" : "states go on", stage), -1)->operation = RONDO_OP_SHIFT;
    rondo__schedule_part(b->s, buffer, 0, bytes, peer, receives);
    rondo__schedule_end(b->s);
}

static void receive(struct rondo__delta_build *b, struct stages *g, int64_t stage, int32_t peer)
{
    const size_t bytes = (size_t)place_units(b->d, g, stage) * sizeof(float);
    g->in[stage] = rondo__schedule_arrival(b->s, b->m, "states, stage", (int32_t)stage, bytes);
    move(b, g, stage, g->in[stage], bytes, peer, true);
}

/* A piece in all stages. before: the rank that its states come from; behind: the one that they go to; -1: none. */
static void run_stages(struct rondo__delta_build *b, struct stages *g, struct rondo__delta_piece piece, int32_t before, int32_t behind)
{
    if (before >= 0)
        receive(b, g, 0, before);
    for (int64_t i = 0; i < g->count && !b->s->failed; i++) {
        const int64_t first = units_before(g, i), end = i + 1 < g->count ? units_before(g, i + 1) : g->unit_count;
        if (before >= 0 && i + 1 < g->count)
            receive(b, g, i + 1, before);
        const size_t bytes = (size_t)place_units(b->d, g, i) * sizeof(float);
        if (before >= 0)
            piece.from = (struct rondo__delta_place){ rondo__schedule_received(b->s, b->m, g->in[i], bytes, -1), 1, 0 };
        if (behind >= 0) {
            g->out[i] = rondo__delta_own(b, "states to go on, stage", (int32_t)i, bytes);
            piece.to = (struct rondo__delta_place){ g->out[i], 1, 0 };
        }
        rondo__delta_compute(b, &piece, 1, g->units + first, end - first, step(g, "delta rule", i));
        if (behind >= 0)
            move(b, g, i, rondo__schedule_sent(b->s, b->m, g->out[i], 0, bytes, -1), bytes, behind, false);
    }
}

/* Sequences that are this rank's alone, all heads at once. */
static void run_own(struct rondo__delta_build *b, const struct stages *g)
{
    const struct rondo__delta_design *p = b->d;
    const int64_t first = p->begin[b->rank], end = p->begin[b->rank + 1];
    int64_t count = 0;
    struct rondo__delta_piece *pieces = rondo__alloc_zero((size_t)p->desc.sequences, sizeof *pieces);
    b->s->failed |= !pieces;
    for (int64_t n = 0; n < p->desc.sequences && !b->s->failed; n++) {
        const bool here = p->cu[n] == p->cu[n + 1] ? rondo__delta_owner(p, p->cu[n]) == b->rank : p->cu[n] >= first && p->cu[n + 1] <= end;
        if (here)
            pieces[count++] = (struct rondo__delta_piece){ n, p->cu[n], p->cu[n + 1], rondo__delta_initial(b, n), rondo__delta_final(b, n), { -1, 0, 0 } };
    }
    rondo__delta_compute(b, pieces, count, g->units, g->unit_count, rondo__step_named("delta rule"));
    rondo__free(pieces);
}

/* Floats of the largest message between any two ranks. */
static int64_t largest(const struct rondo__delta_design *p, struct stages *g)
{
    int64_t most = 0;
    bool any = false;
    for (int32_t r = 1; r < p->ranks; r++)
        any = any || (p->begin[r] > 0 && p->begin[r] < p->rows && p->cu[rondo__delta_sequence(p, p->begin[r])] < p->begin[r]);
    for (int64_t i = 0; i < g->count && any; i++) {
        const int64_t floats = place_units(p, g, i);
        most = floats > most ? floats : most;
    }
    return most;
}

void rondo__delta_pipeline(struct rondo__delta_build *b)
{
    const struct rondo__delta_design *p = b->d;
    const int64_t first = p->begin[b->rank], end = p->begin[b->rank + 1];
    struct stages g = { .count = 0 };
    if (!plan_stages(b, &g))
        goto out;
    const int64_t head = first < end ? rondo__delta_sequence(p, first) : -1, tail = first < end ? rondo__delta_sequence(p, end - 1) : -1;
    const int32_t before = head >= 0 && p->cu[head] < first ? rondo__delta_owner(p, first - 1) : -1;
    const int32_t behind = tail >= 0 && p->cu[tail + 1] > end ? rondo__delta_owner(p, end) : -1;
    const bool through = before >= 0 && behind >= 0 && head == tail;
    if (behind >= 0 && !through)   /* others wait for it */
        run_stages(b, &g, (struct rondo__delta_piece){ tail, p->cu[tail], end, rondo__delta_initial(b, tail), { -1, 0, 0 }, { -1, 0, 0 } }, -1,
                   behind);
    run_own(b, &g);
    if (before >= 0)
        run_stages(b, &g, (struct rondo__delta_piece){ head, first, through ? end : p->cu[head + 1], { -1, 0, 0 }, rondo__delta_final(b, head), { -1, 0, 0 } },
                   before, through ? behind : -1);
    if ((size_t)largest(p, &g) * sizeof(float) > b->m->eager)   /* the same on all ranks */
        rondo__schedule_fence(b->s, b->m, rondo__step_named("end of the delta rule"));
out:
    rondo__free(g.units);
    rondo__free(g.in);
    rondo__free(g.out);
}
