/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Ring pass-KV: Algorithm 2 of arXiv:2411.01783. Queries stay; K and V move. At step j a rank has the keys of rank (rank - j) mod N and
 * computes with them while those of the next step come: N - 1 transfers, each behind a step's work. Its program of the step computes the
 * nodes of the canonical tree that these keys complete; what still waits for a sibling lies in a buffer. So the order in which keys come
 * does not reach the result.
 *
 *   ring     a rank's parcel, from the first to the last row that any other rank's queries see, goes from rank to rank as far as somebody
 *            needs it. There is no padding.
 *   direct   where a window or small messages make that a waste (rondo__goes_direct), rank (rank - j) sends just the rows that this one's
 *            queries see and do not hold (tile_build.c).
 *
 * Where the transport shows memory in place there is nothing to hide behind computing, and a program for all keys needs no waiting nodes
 * and visits each query once: all is shown first, and one computation takes it.
 */
#include "attention/algorithms/tile.h"

struct kv_flow {
    struct rondo__tile tile;   /* direct: one row of ranks */
    bool direct;
    int32_t *reach;        /* [ranks] ring: the last hop that anybody needs; 0: it stays */
    int64_t *rows;         /* [ranks] ring: of a parcel */
    int64_t *first, *at;   /* [sequences][ranks] ring: the first row of the sequence in the parcel; where that lies in it */
    int64_t *count;        /* [sequences][ranks] ring: and how many */
    int64_t most;          /* rows of the largest parcel that goes anywhere */
};

/* ---- what all ranks together move ---- */

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Hulls and reaches of the ring, and rows and messages of direct transfers. */
static bool measure(const struct rondo__survey *s, struct kv_flow *f, uint64_t *direct_rows, uint64_t *pairs)
{
    struct rondo__list sees = rondo__list_of(s->arena), needs = rondo__list_of(s->arena);
    const int32_t n = s->roles.ranks;
    int64_t *seen_by = rondo__arena_zero(s->arena, (size_t)n, sizeof *seen_by);   /* the last rank, and 1, that was found to need a rank's rows */
    bool fine = seen_by != NULL;
    *direct_rows = *pairs = 0;
    for (int32_t rank = 0; rank < n && fine; rank++)
        for (int64_t i = 0; i < s->roles.sequences && fine; i++) {
            int64_t *first = f->first + i * n, *end = f->count + i * n;
            fine = rondo__rank_needs(s, i, rank, -1, &sees, &needs);
            const struct rondo__need *need = needs.items;
            for (int64_t j = 0; j < needs.count && fine; j++) {
                const int32_t r = need[j].rank;
                first[r] = end[r] ? min64(first[r], need[j].row) : need[j].row;
                end[r] = max64(end[r], need[j].row + need[j].rows);
                *direct_rows += (uint64_t)need[j].rows;
                *pairs += seen_by[r] != rank + 1;
                seen_by[r] = rank + 1;
                f->reach[r] = rondo__hops(s, r, rank) > f->reach[r] ? rondo__hops(s, r, rank) : f->reach[r];
            }
        }
    return fine;
}

static int flow(struct rondo__survey *s, const struct rondo__shape *shape, const struct rondo__machine *machine)
{
    const int32_t n = s->roles.ranks;
    const size_t ranks = (size_t)n, table = (size_t)s->roles.sequences;
    static const struct rondo__tile_kind kind = { NULL, "pass-KV", NULL, "end of pass-KV", false };
    struct kv_flow *f = rondo__arena_zero(s->arena, 1, sizeof *f);
    size_t cells;
    if (!f)
        return rondo__build_failed();
    s->flow = f;
    f->tile.kind = &kind;
    f->tile.columns = n;
    struct rondo__flow *base = &f->tile.base;
    f->reach = rondo__arena_zero(s->arena, ranks, sizeof *f->reach);
    if (rondo__mul(3 * table + 1, ranks, &cells))
        f->rows = rondo__arena_zero(s->arena, cells, sizeof *f->rows);
    if (!f->reach || !f->rows)
        return rondo__build_failed();
    f->first = f->rows + ranks;
    f->at = f->first + table * ranks;
    f->count = f->at + table * ranks;
    if (n == 1)
        return 0;

    uint64_t direct_rows, pairs, ring_rows = 0, ring_messages = 0;
    if (!measure(s, f, &direct_rows, &pairs))
        return rondo__build_failed();
    const uint64_t row = rondo__shape_kv_bytes(shape);
    for (int32_t r = 0; r < n; r++) {
        for (int64_t i = 0; i < s->roles.sequences; i++) {
            int64_t *end = f->count + i * n + r;
            *end = *end ? *end - f->first[i * n + r] : 0;
            f->at[i * n + r] = f->rows[r];
            f->rows[r] += *end;
        }
        ring_rows += (uint64_t)f->rows[r] * (uint64_t)f->reach[r];
        ring_messages += (uint64_t)f->reach[r];
        f->most = max64(f->most, f->reach[r] ? f->rows[r] : 0);
    }
    f->direct = rondo__goes_direct(ring_rows * row, direct_rows * row, (double)f->most * (double)row);
    base->messages = (shape->shared_kv ? 1 : 2) * (f->direct ? pairs : ring_messages);
    base->bytes = row * (f->direct ? direct_rows : ring_rows);

    const double node_row = (double)shape->heads * (double)shape->node_width * 4.0, parcel = (double)f->most * (double)row;
    for (int32_t r = 0; r < n; r++) {
        double own = rondo__own_bytes(s, shape, r);
        base->own = own > base->own ? own : base->own;
    }
    int64_t waiting = 0;
    if (!machine->in_place && !rondo__tile_waiting(s, n, &waiting))
        return rondo__build_failed();
    base->need = (double)waiting * node_row + (machine->in_place ? parcel : 2.0 * parcel);
    return 0;
}

/* ---- one rank's program and schedule ---- */

struct ring {
    struct rondo__build *b;
    const struct kv_flow *flow;
    struct rondo__maker maker;
    struct rondo__packer packer;
    int32_t *stage;                    /* [ranks], then the sources */
    int64_t *came;                     /* [ranks] rows of the parcels for this rank */
    int64_t *job_first;                /* [ranks + 1]: jobs by step */
    int32_t waiting;                   /* buffer of nodes */
    int32_t packed[2];                 /* buffers of this rank's parcel */
    int32_t places[2][2];              /* of each part, two that arrivals use in turn, where nothing is shown in place */
    int32_t (*shown)[2], (*came_in)[2];   /* [ranks] by step: buffers of what came, K and V; as computing sees them */
};

/* Where the piece's first row lies in the parcel that it came in. */
static int64_t row_of(void *arg, int64_t sequence, const struct rondo__piece *p, int64_t *next)
{
    const struct ring *g = arg;
    const int64_t cell = sequence * g->b->survey->roles.ranks + p->rank;
    (void)next;
    return g->flow->at[cell] + p->row - g->flow->first[cell];
}

static bool program(struct ring *g)
{
    const struct rondo__survey *s = g->b->survey;
    for (int64_t i = 0; i < s->roles.sequences; i++) {
        int64_t strip, strips = rondo__strips_of(s, i, g->b->rank, &strip);
        for (int64_t j = strip; j < strip + strips; j++) {
            const struct rondo__strip *t = rondo__strip_at(s, j);
            if (t->sees && !(rondo__maker_look(&g->maker, i, t) && rondo__maker_jobs(&g->maker, i, t, t->row, 0, 1, 0, NULL)))
                return false;
        }
    }
    return rondo__sort_jobs(g->b, &g->maker.step_of, s->roles.ranks, g->job_first);
}

/* ---- the schedule ---- */

/* This rank's parcel. The first arrival is at place 1: until the second comes, place 0 is free for this rank's own rows. */
static void pack(struct ring *g, int32_t group)
{
    struct rondo__build *b = g->b;
    const struct rondo__survey *s = b->survey;
    int32_t over[2] = { -1, -1 };
    rondo__pack_begin(&g->packer);
    for (int64_t i = 0; i < s->roles.sequences; i++) {
        const int64_t cell = i * s->roles.ranks + b->rank;
        rondo__pack_add(&g->packer, i, g->flow->first[cell], g->flow->count[cell]);
    }
    for (int part = 0; part < 2; part++) {
        const int32_t place = g->places[part][0];
        if (place >= 0 && place != g->places[part][1] &&
            rondo__buffer_at(b->schedule, place)->bytes >= rondo__product(g->packer.rows, rondo__kv_row_bytes(b, part)))
            over[part] = place;
    }
    rondo__pack_end(&g->packer, group, -1, over, g->packed);
}

/* Computes a step, or all of them (in place). */
static void compute(struct ring *g, int32_t step, int32_t group)
{
    struct rondo__build *b = g->b;
    const bool all = b->machine.in_place;
    const int64_t first = g->job_first[step], count = (all ? b->tables->jobs.count : g->job_first[step + 1]) - first;
    if (!count || b->schedule->failed)
        return;
    const int32_t n = b->survey->roles.ranks, own[2] = { b->tensor[RONDO_TENSOR_K], b->tensor[RONDO_TENSOR_V] };
    rondo__lower_compute(b, all ? rondo__step_named("attention") : (struct rondo__step){ "attention", step, n - 1 }, group, first,
                         count, b->tensor[RONDO_TENSOR_Q], rondo__buffer_at(b->schedule, b->tensor[RONDO_TENSOR_Q])->bytes, true);
    for (int32_t j = all ? 0 : step; j < (all ? n : step + 1); j++)
        rondo__lower_source(b, j ? g->came_in[j][0] : own[0], j ? g->came_in[j][1] : own[1], j ? g->came[(b->rank - j + n) % n] : -1);
    if (g->waiting >= 0) {
        rondo__schedule_nodes(b->schedule, g->waiting);
        rondo__schedule_use(b->schedule, g->waiting, 0, rondo__buffer_at(b->schedule, g->waiting)->bytes, true);
    }
    rondo__schedule_end(b->schedule);
}

/* Transfer `step`: to the next rank what has arrived before. */
static void transfer(struct ring *g, int32_t step, int32_t group)
{
    struct rondo__build *b = g->b;
    struct rondo__schedule *s = b->schedule;
    const int32_t n = b->survey->roles.ranks, from = (b->rank - step + n) % n, giver = (from + 1) % n;   /* whose parcels come and leave */
    const int64_t rows = g->came[from], out_rows = g->flow->reach[giver] < step ? 0 : giver == b->rank ? g->flow->rows[giver] : g->came[giver];
    if (!rows && !out_rows)
        return;
    struct rondo__operation *o = rondo__schedule_begin(s, RONDO_TRANSFER, (struct rondo__step){ "pass-KV", step, n - 1 }, group);
    o->operation = RONDO_OP_SHIFT;
    for (int part = 0; part < 2 && !s->failed; part++) {
        const size_t row = rondo__kv_row_bytes(b, part);
        if (!row)
            continue;
        if (rows && b->machine.in_place && g->shown[step][part] < 0)
            g->shown[step][part] = rondo__lower_arrival(b, part ? "v of rank" : "k of rank", from, rondo__product(rows, row));
        if (out_rows)
            rondo__schedule_part(s, step == 1 ? g->packed[part] : b->machine.in_place ? g->shown[step - 1][part] : g->places[part][(step - 1) % 2],
                                 0, rondo__product(out_rows, row), (b->rank + 1) % n, false);
        if (rows)
            rondo__schedule_part(s, b->machine.in_place ? g->shown[step][part] : g->places[part][step % 2], 0, rondo__product(rows, row),
                                 (b->rank - 1 + n) % n, true);
    }
    rondo__schedule_end(s);
    for (int part = 0; part < 2 && rows && rondo__kv_row_bytes(b, part); part++)
        g->came_in[step][part] = rondo__lower_received(b, b->machine.in_place ? g->shown[step][part] : g->places[part][step % 2],
                                                       rondo__product(rows, rondo__kv_row_bytes(b, part)), group);
}

/* Two places of each part, which arrivals use in turn; one, where there is one arrival. */
static void make_places(struct ring *g)
{
    struct rondo__build *b = g->b;
    int64_t most = 0, arrivals = 0;
    for (int32_t r = 0; r < b->survey->roles.ranks; r++) {
        most = max64(most, g->came[r]);
        arrivals += g->came[r] > 0;
    }
    for (int part = 0; part < 2 && !b->machine.in_place && rondo__kv_row_bytes(b, part); part++)
        for (int32_t i = 0; i < 2 && arrivals; i++)
            g->places[part][i] = i && arrivals < 2 ? g->places[part][0]
                                                   : rondo__lower_arrival(b, part ? "arriving v" : "arriving k", i,
                                                                          rondo__product(most, rondo__kv_row_bytes(b, part)));
}

static void schedule(struct ring *g)
{
    struct rondo__build *b = g->b;
    struct rondo__schedule *s = b->schedule;
    const int32_t n = b->survey->roles.ranks;
    if (n > 4 && g->flow->tile.base.messages)
        rondo__schedule_reserve(s, 2 * (int64_t)n * b->groups + 16, 2 * (int64_t)n * b->groups);
    rondo__lower_begin(b);
    make_places(g);
    if (g->maker.waiting_rows && !s->failed)
        g->waiting = rondo__node_buffer(b, "waiting nodes", -1, g->maker.waiting_rows);
    for (int32_t group = 0; group < b->groups && !s->failed; group++) {
        if (g->flow->reach[b->rank])
            pack(g, group);
        for (int32_t j = 0; j < n; j++) {
            if (j + 1 < n)
                transfer(g, j + 1, group);
            if (!b->machine.in_place)
                compute(g, j, group);
        }
        if (b->machine.in_place)
            compute(g, 0, group);
        if (g->flow->tile.base.messages)
            rondo__lower_fence(b, rondo__step_named("end of pass-KV"));
    }
    if (!s->failed)
        rondo__lower_end(b);
}

static int build(struct rondo__build *b)
{
    const struct rondo__survey *s = b->survey;
    const int32_t n = s->roles.ranks;
    struct ring g = { .b = b, .flow = s->flow, .waiting = -1 };
    if (g.flow->direct)
        return rondo__tile_build(b);
    rondo__packer_begin(&g.packer, b, RONDO_TENSOR_K, 0, 0);
    g.stage = rondo__arena_take(s->arena, (size_t)n * 2 * sizeof *g.stage);
    g.came = rondo__arena_zero(s->arena, 2 * (size_t)n + 1, sizeof *g.came);
    g.shown = rondo__arena_take(s->arena, 2 * (size_t)n * sizeof *g.shown);
    bool fine = g.stage && g.came && g.shown;
    if (fine) {
        g.job_first = g.came + n;
        g.came_in = g.shown + n;
        memset(g.shown, 0xff, 2 * (size_t)n * sizeof *g.shown);
        memset(g.packed, 0xff, sizeof g.packed);
        memset(g.places, 0xff, sizeof g.places);
        for (int32_t r = 0; r < n; r++) {
            const int32_t step = rondo__hops(s, r, b->rank);
            g.came[r] = step && step <= g.flow->reach[r] ? g.flow->rows[r] : 0;
        }
        rondo__set_stages(b->rank, n, b->machine.in_place, g.stage, g.stage + n);
        g.maker = (struct rondo__maker){ .b = b, .survey = s, .ranks = n, .stages = b->machine.in_place ? 1 : n, .stage = g.stage,
                                         .source = g.stage + n, .row = row_of, .arg = &g };
        rondo__maker_begin(&g.maker);
        fine = program(&g);
    }
    if (fine) {
        schedule(&g);
        fine = !b->schedule->failed;
    }
    return fine ? 0 : rondo__build_failed();
}

static bool pairs(const struct rondo__survey *s, const struct rondo__shape *shape, uint64_t *of_rank)
{
    return rondo__tile_pairs(s, shape, s->roles.ranks, of_rank);
}

const struct rondo__algorithm rondo__ring_kv = { RONDO_PASS_KV, "pass-KV", flow, build, pairs };
