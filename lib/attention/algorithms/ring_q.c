/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Ring pass-Q: Algorithm 3 of arXiv:2411.01783, and with one token a sequence its Algorithm 4. Keys stay; Q moves. At step j a rank has the
 * queries of rank (rank - j) mod N and computes its own keys' maximal nodes of the canonical tree for them. The nodes go back to the
 * queries' owner at once (the paper's all-to-all, spread over the steps, so that all of it but the last part lies behind computing),
 * and the owner joins the nodes of all ranks in the tree's order.
 *
 *   ring     a rank's Q goes from rank to rank as far as somebody needs it.
 *   direct   where a window or small messages make that a waste (rondo__goes_direct), a rank sends each other one just the strips of its
 *            queries that see keys there, to all at once.
 *
 * A rank without queries of its own computes for those that have some; there are no dummy queries, and what is empty is not sent.
 */
#include "attention/algorithms/algorithms.h"

/* Arrivals that are in flight at once where Q goes direct: bounded by their number and by their bytes together. */
#define FLIGHT_MOST 64
#define FLIGHT_BYTES 1e6

struct q_flow {
    struct rondo__flow base;
    bool direct;
    int32_t reserved;
    int32_t *reach;        /* [ranks] ring: the last hop of a rank's Q that anybody needs */
    int64_t *nodes;        /* [sources][ranks]: rows of nodes that a rank (second) computes for a source */
    int64_t *strips;       /* [sources][ranks]: direct: rows of Q that a source sends a rank */
    int32_t *source_of;    /* [ranks]: which of the sources a rank is; -1: it has no queries */
    int32_t sources;
    int32_t flight;        /* direct: arrivals that are in flight at once; the same on all ranks, as the order of messages follows from it */
};

static int64_t cell(const struct q_flow *f, const struct rondo__survey *s, int32_t source, int32_t rank)
{
    return (int64_t)f->source_of[source] * s->roles.ranks + rank;
}

static int64_t nodes_of(const struct q_flow *f, const struct rondo__survey *s, int32_t source, int32_t rank)
{
    return f->source_of[source] < 0 ? 0 : f->nodes[cell(f, s, source, rank)];
}

/* Rows of Q that come to a rank from a source. */
static int64_t rows_for(const struct q_flow *f, const struct rondo__survey *s, int32_t source, int32_t rank)
{
    if (f->source_of[source] < 0 || source == rank)
        return 0;
    if (f->direct)
        return f->strips[cell(f, s, source, rank)];
    return rondo__hops(s, source, rank) <= f->reach[source] ? s->output_rows[source] : 0;
}

/* ---- what all ranks together move ---- */

static bool measure(const struct rondo__survey *s, struct q_flow *f)
{
    struct rondo__tally t;
    bool fine = rondo__tally_make(&t, s, 1);
    for (int64_t i = 0; i < s->roles.sequences && fine; i++) {
        const struct rondo__sequence *q = s->sequence + i;
        for (int64_t j = q->strips_first; j < q->strips_first + q->strips && fine; j++) {
            const struct rondo__strip *strip = rondo__strip_at(s, j);
            if (!strip->sees)
                continue;
            fine = rondo__tally_strip(&t, s, i, strip);
            const int32_t *r = t.touched.items;
            for (int64_t k = 0; k < t.touched.count && fine && !t.alone; k++) {
                f->nodes[cell(f, s, strip->rank, r[k])] += t.count[r[k]] * strip->rows;
                if (r[k] == strip->rank)
                    continue;
                f->strips[cell(f, s, strip->rank, r[k])] += strip->rows;
                if (f->reach[strip->rank] < rondo__hops(s, strip->rank, r[k]))
                    f->reach[strip->rank] = rondo__hops(s, strip->rank, r[k]);
            }
        }
    }
    return fine;
}

static int flow(struct rondo__survey *s, const struct rondo__shape *shape, const struct rondo__machine *machine)
{
    const int32_t n = s->roles.ranks;
    struct q_flow *f = rondo__arena_zero(s->arena, 1, sizeof *f);
    size_t cells;
    if (!f)
        return rondo__build_failed();
    s->flow = f;
    f->reach = rondo__arena_zero(s->arena, (size_t)n, 2 * sizeof *f->reach);
    if (!f->reach)
        return rondo__build_failed();
    f->source_of = f->reach + n;
    f->flight = 1;
    for (int32_t r = 0; r < n; r++)
        f->source_of[r] = s->output_rows[r] ? f->sources++ : -1;
    if (rondo__mul((size_t)f->sources, (size_t)n, &cells) && cells <= SIZE_MAX / 4)
        f->nodes = rondo__arena_zero(s->arena, 2 * cells, sizeof *f->nodes);
    if (!f->nodes)
        return rondo__build_failed();
    f->strips = f->nodes + cells;
    if (n == 1)
        return 0;
    if (!measure(s, f))
        return rondo__build_failed();

    const uint64_t q_row = (uint64_t)shape->heads * (uint64_t)shape->head_dim * rondo_type_size(shape->q_type);
    const uint64_t node_row = (uint64_t)shape->heads * (uint64_t)shape->node_width * sizeof(float);
    uint64_t ring_rows = 0, ring_messages = 0, direct_rows = 0, direct_messages = 0, node_rows = 0, node_messages = 0;
    int64_t most = 0;
    for (int32_t r = 0; r < n; r++) {
        if (f->source_of[r] < 0)
            continue;
        ring_rows += (uint64_t)s->output_rows[r] * (uint64_t)f->reach[r];
        ring_messages += (uint64_t)f->reach[r];
        most = f->reach[r] && s->output_rows[r] > most ? s->output_rows[r] : most;
        for (int32_t other = 0; other < n; other++) {
            const int64_t c = cell(f, s, r, other);
            direct_rows += (uint64_t)f->strips[c];
            direct_messages += f->strips[c] > 0;
            node_rows += other == r ? 0 : (uint64_t)f->nodes[c];
            node_messages += other != r && f->nodes[c];
        }
    }
    const double parcel = (double)most * (double)q_row;
    f->direct = rondo__goes_direct(ring_rows * q_row, direct_rows * q_row, parcel);
    f->flight = 1;
    while (f->direct && f->flight < FLIGHT_MOST && parcel * (double)(f->flight + 1) <= FLIGHT_BYTES)
        f->flight++;
    f->base.messages = (f->direct ? direct_messages : ring_messages) + node_messages;
    f->base.bytes = (f->direct ? direct_rows : ring_rows) * q_row + node_rows * node_row;
    double *nodes = rondo__arena_zero(s->arena, (size_t)n, sizeof *nodes);
    if (!nodes)
        return rondo__build_failed();
    for (int32_t r = 0; r < n; r++) {
        double own = rondo__own_bytes(s, shape, r);
        f->base.own = own > f->base.own ? own : f->base.own;
        for (int32_t other = 0; other < n && f->source_of[r] >= 0; other++) {
            const double rows = (double)f->nodes[cell(f, s, r, other)];
            nodes[other] += rows;
            nodes[r] += machine->in_place ? 0.0 : rows;
        }
    }
    for (int32_t r = 0; r < n; r++)
        f->base.need = nodes[r] * (double)node_row > f->base.need ? nodes[r] * (double)node_row : f->base.need;
    f->base.need += machine->in_place ? parcel : 2.0 * parcel;
    return 0;
}

/* ---- one rank's program ---- */

struct ring {
    struct rondo__build *b;
    const struct q_flow *flow;
    struct rondo__maker maker;
    struct rondo__joiner joiner;
    struct rondo__packer packer;
    struct rondo__wanted wanted;   /* direct, where some want a part of this rank's strips */
    int64_t *row_of;               /* [ranks] rows so far in the parcel that came from a source */
    int64_t *node_rows;            /* [ranks] of nodes so far: for a source */
    int64_t *join_rows;            /* [ranks] from a rank, for this one */
    int64_t *job_first;            /* [ranks + 2]: jobs by step; step `ranks` is the join */
};

static bool strip_jobs(struct ring *g, int64_t sequence, const struct rondo__strip *strip)
{
    struct rondo__build *b = g->b;
    struct rondo__maker *m = &g->maker;
    const int32_t source = strip->rank;
    const bool mine = source == b->rank;
    const int64_t q_row = mine ? strip->row : g->row_of[source];
    if (!strip->sees) {
        g->row_of[source] += g->flow->direct ? 0 : strip->rows;
        return true;
    }
    if (!rondo__maker_look(m, sequence, strip))
        return false;
    /* in a ring all rows of a source come, in their order; else the strips that see something here */
    g->row_of[source] += !g->flow->direct || m->here ? strip->rows : 0;
    const bool done = mine && m->alone;
    if (m->here && !rondo__maker_jobs(m, sequence, strip, q_row, rondo__hops(b->survey, source, b->rank), 0, source,
                                      done ? NULL : g->node_rows + source))
        return false;
    if (!mine || done)
        return true;
    int32_t *step = rondo__list_add(&m->step_of, sizeof *step, 1);
    if (step)
        *step = b->survey->roles.ranks;
    return step && rondo__join_strip(&g->joiner, b, sequence, strip, g->join_rows);
}

/* Whether some rank wants some of this one's rows, but not all. */
static bool sends_parts(const struct ring *g)
{
    const struct rondo__survey *s = g->b->survey;
    bool parts = false;
    for (int32_t r = 0; r < s->roles.ranks && g->flow->direct; r++) {
        const int64_t rows = rows_for(g->flow, s, g->b->rank, r);
        parts |= rows && rows < s->output_rows[g->b->rank];
    }
    return parts;
}

static bool program(struct ring *g)
{
    const struct rondo__survey *s = g->b->survey;
    for (int64_t i = 0; i < s->roles.sequences; i++) {
        const struct rondo__sequence *q = s->sequence + i;
        for (int64_t j = q->strips_first; j < q->strips_first + q->strips; j++)
            if (!strip_jobs(g, i, rondo__strip_at(s, j)))
                return false;
    }
    return rondo__sort_jobs(g->b, &g->maker.step_of, g->b->survey->roles.ranks + 1, g->job_first);
}

/* ---- the schedule ---- */

struct wires {
    int32_t places[2];        /* ring: in turn */
    int32_t packed;           /* this rank's Q, all of it */
    int32_t packed_for;       /* direct: the head group for which it is packed already; -1: none */
    int32_t *came;            /* [ranks] by step: Q that came */
    int32_t *nodes;           /* [ranks] nodes for a source: to be sent */
    int32_t *back;            /* [ranks] nodes from a rank: come back */
    int64_t nodes_list, back_list;   /* where they stand in the schedule's list, for all computations; -1: not yet */
};

/* This rank's Q: all of it (to -1), or the strips that see something on rank `to`. */
static int32_t pack(struct ring *g, int32_t to, int32_t group, int32_t index, int32_t over)
{
    const struct rondo__survey *v = g->b->survey;
    const int32_t places[2] = { over, -1 };
    int32_t packed[2];
    int64_t number = 0;
    if (rondo__pack_known(&g->packer, group, index, packed) >= 0)
        return packed[0];
    rondo__pack_begin(&g->packer);
    for (int64_t i = 0; i < v->roles.sequences; i++) {
        int64_t strip, strips = rondo__strips_of(v, i, g->b->rank, &strip);
        for (int64_t j = strip; j < strip + strips; j++, number++)
            if (to < 0 || rondo__is_wanted(&g->wanted, number, to))
                rondo__pack_add(&g->packer, i, rondo__strip_at(v, j)->row, rondo__strip_at(v, j)->rows);
    }
    rondo__pack_end(&g->packer, group, index, places, packed);
    return packed[0];
}

/* Q for step `step` leaves and comes. */
static void transfer(struct ring *g, struct wires *w, int32_t step, int32_t group)
{
    struct rondo__build *b = g->b;
    struct rondo__schedule *s = b->schedule;
    const struct rondo__survey *v = b->survey;
    const int32_t n = v->roles.ranks, from = (b->rank - step + n) % n, to = g->flow->direct ? (b->rank + step) % n : (b->rank + 1) % n;
    const int32_t giver = g->flow->direct ? b->rank : (b->rank - step + 1 + n) % n;   /* whose Q leaves */
    const size_t row = rondo__q_row_bytes(b);
    const int64_t rows = rows_for(g->flow, v, from, b->rank);
    int64_t out_rows = g->flow->direct ? rows_for(g->flow, v, b->rank, to)
                                       : g->flow->reach[giver] >= step ? v->output_rows[giver] : 0;
    int32_t out = -1, in = -1;
    if (!rows && !out_rows)
        return;
    if (out_rows && g->flow->direct && out_rows == v->output_rows[b->rank]) {
        /* all of it, as others get it too */
        if (w->packed_for != group)
            w->packed = pack(g, -1, group, -1, -1);
        w->packed_for = group;
        out = w->packed;
    } else if (out_rows && g->flow->direct) {
        out = pack(g, to, group, step, -1);
    } else if (out_rows) {
        out = step == 1 ? w->packed : b->machine.in_place ? w->came[step - 1] : w->places[(step - 1) % 2];
    }
    if (rows && (b->machine.in_place || g->flow->direct)) {
        if (w->came[step] < 0)
            w->came[step] = rondo__lower_arrival(b, "q of rank", from, rondo__product(rows, row));
        in = w->came[step];
    } else if (rows) {
        in = w->places[step % 2];
    }
    struct rondo__operation *o = rondo__schedule_begin(s, RONDO_TRANSFER, (struct rondo__step){ "pass-Q", step, n - 1 }, group);
    o->operation = RONDO_OP_SHIFT;
    if (out_rows)
        rondo__schedule_part(s, out, 0, rondo__product(out_rows, row), to, false);
    if (rows)
        rondo__schedule_part(s, in, 0, rondo__product(rows, row), g->flow->direct ? from : (b->rank - 1 + n) % n, true);
    rondo__schedule_end(s);
}

static void compute(struct ring *g, struct wires *w, int32_t step, int32_t group)
{
    struct rondo__build *b = g->b;
    struct rondo__schedule *s = b->schedule;
    const int32_t n = b->survey->roles.ranks, source = (b->rank - step % n + n) % n;
    const int64_t first = g->job_first[step], count = g->job_first[step + 1] - first;
    const bool joins = step == n;
    if (!count || s->failed)
        return;
    int32_t q = b->tensor[RONDO_TENSOR_Q];
    size_t q_bytes = joins ? 0 : rondo__buffer_at(s, q < 0 ? 0 : q)->bytes;
    if (step && !joins) {
        const int64_t rows = rows_for(g->flow, b->survey, source, b->rank);
        q_bytes = rondo__product(rows, rondo__q_row_bytes(b));
        q = b->machine.in_place || g->flow->direct ? w->came[step] : w->places[step % 2];
        q = rondo__lower_received(b, q, q_bytes, group);
    }
    rondo__lower_compute(b, joins ? rondo__step_named("join") : (struct rondo__step){ "attention", step, n - 1 }, group, first, count,
                         q, q_bytes, !step || joins);
    if (!joins)
        rondo__lower_source(b, b->tensor[RONDO_TENSOR_K], b->tensor[RONDO_TENSOR_V], -1);
    int64_t *list = joins ? &w->back_list : &w->nodes_list;
    struct rondo__operation *o = s->failed ? &s->nowhere : rondo__operation_at(s, s->operations.count - 1);
    if (*list < 0) {
        *list = s->nodes.count;
        for (int32_t r = 0; r < n; r++)
            rondo__schedule_nodes(s, joins ? w->back[r] : w->nodes[r]);
    }
    o->nodes_first = *list;
    o->nodes = n;
    for (int32_t r = joins ? 0 : source; r < (joins ? n : source + 1) && !s->failed; r++) {
        const int32_t buffer = joins ? w->back[r] : w->nodes[r];
        if (buffer >= 0)
            rondo__schedule_use(s, buffer, 0, rondo__buffer_at(s, buffer)->bytes, !joins);
    }
    rondo__schedule_end(s);
}

/* After step j: nodes for rank (rank - j) leave, those that rank (rank + j) computed in its step j come. */
static void give_back(struct ring *g, struct wires *w, int32_t step, int32_t group)
{
    struct rondo__build *b = g->b;
    struct rondo__schedule *s = b->schedule;
    const struct rondo__survey *v = b->survey;
    const int32_t n = v->roles.ranks, to = (b->rank - step + n) % n, from = (b->rank + step) % n;
    const size_t node = rondo__node_bytes(b);
    const int64_t out_rows = nodes_of(g->flow, v, to, b->rank), rows = nodes_of(g->flow, v, b->rank, from);
    if ((!out_rows && !rows) || s->failed)
        return;
    int32_t out = -1;
    if (out_rows)
        out = rondo__lower_send(b, w->nodes[to], 0, rondo__product(out_rows, node), group);
    struct rondo__operation *o = rondo__schedule_begin(s, RONDO_TRANSFER, (struct rondo__step){ "pass-Q return", step, n - 1 }, group);
    o->operation = RONDO_OP_ALL_TO_ALL;
    if (out_rows)
        rondo__schedule_part(s, out, 0, rondo__product(out_rows, node), to, false);
    if (rows)
        rondo__schedule_part(s, w->back[from], 0, rondo__product(rows, node), from, true);
    rondo__schedule_end(s);
}

static void make_wires(struct ring *g, struct wires *w)
{
    struct rondo__build *b = g->b;
    const struct rondo__survey *v = b->survey;
    const int32_t n = v->roles.ranks;
    const size_t row = rondo__q_row_bytes(b), node = rondo__node_bytes(b);
    int64_t most = 0, arrivals = 0;
    for (int32_t r = 0; r < n; r++) {
        const int64_t rows = rows_for(g->flow, v, r, b->rank);
        most = rows > most ? rows : most;
        arrivals += rows > 0;
    }
    const size_t bytes = rondo__product(most, row);
    for (int32_t i = 0; i < 2 && arrivals && !b->machine.in_place && !g->flow->direct; i++)
        w->places[i] = i && arrivals < 2 ? w->places[0] : rondo__lower_arrival(b, "arriving q", i, bytes);
    for (int32_t r = 0; r < n && !b->schedule->failed; r++) {
        w->nodes[r] = rondo__node_buffer(b, "nodes for rank", r, nodes_of(g->flow, v, r, b->rank));
        const size_t back = rondo__product(nodes_of(g->flow, v, b->rank, r), node);
        if (r == b->rank)
            w->back[r] = w->nodes[r];
        else if (back)
            w->back[r] = rondo__lower_arrival(b, "nodes of rank", r, back);
    }
}

static void run_group(struct ring *g, struct wires *w, const int32_t *arrived, int32_t group)
{
    struct rondo__build *b = g->b;
    struct rondo__schedule *s = b->schedule;
    const int32_t n = b->survey->roles.ranks;
    if (!g->flow->direct && g->flow->reach[b->rank]) {
        /* The first arrival is at place 1: until the second comes, place 0 is free for this rank's own rows. */
        const int32_t place = w->places[0];
        const bool over = place >= 0 && place != w->places[1] && !b->machine.in_place &&
                          rondo__buffer_at(s, place)->bytes >= rondo__product(b->survey->output_rows[b->rank], rondo__q_row_bytes(b));
        w->packed = pack(g, -1, group, -1, over ? place : -1);
    }
    for (int32_t j = 0, started = 1; j < n && !s->failed; j++) {
        for (; started < n && started <= j + g->flow->flight; started++)
            transfer(g, w, started, group);
        compute(g, w, j, group);
        if (j)
            give_back(g, w, j, group);
    }
    for (int32_t r = 0; r < n && !s->failed; r++) {
        w->back[r] = arrived[r];
        if (r != b->rank && arrived[r] >= 0)
            w->back[r] = rondo__lower_received(b, arrived[r], rondo__buffer_at(s, arrived[r])->bytes, group);
    }
    compute(g, w, n, group);
    memcpy(w->back, arrived, (size_t)n * sizeof *arrived);
    if (g->flow->base.messages)
        rondo__lower_fence(b, rondo__step_named("end of pass-Q"));
}

static void schedule(struct ring *g)
{
    struct rondo__build *b = g->b;
    const size_t n = (size_t)b->survey->roles.ranks;
    struct wires w = { .places = { -1, -1 }, .packed = -1, .packed_for = -1, .nodes_list = -1, .back_list = -1,
                       .came = rondo__arena_take(b->survey->arena, 4 * n * sizeof *w.came) };
    if (!w.came) {
        b->schedule->failed = true;
        return;
    }
    memset(w.came, 0xff, 4 * n * sizeof *w.came);
    w.nodes = w.came + n;
    w.back = w.nodes + n;
    int32_t *arrived = w.back + n;
    const int64_t ranks = b->survey->roles.ranks;
    if (ranks > 4 && g->flow->base.messages)
        rondo__schedule_reserve(b->schedule, 3 * ranks * b->groups + 16, 2 * ranks * b->groups);
    rondo__lower_begin(b);
    make_wires(g, &w);
    memcpy(arrived, w.back, n * sizeof *arrived);
    for (int32_t group = 0; group < b->groups && !b->schedule->failed; group++)
        run_group(g, &w, arrived, group);
    if (!b->schedule->failed)
        rondo__lower_end(b);
}

static int build(struct rondo__build *b)
{
    const struct rondo__survey *s = b->survey;
    const size_t n = (size_t)s->roles.ranks;
    static const int32_t at_once = 0;
    struct ring g = { .b = b, .flow = s->flow };
    rondo__joiner_begin(&g.joiner, b, 1);
    rondo__packer_begin(&g.packer, b, RONDO_TENSOR_Q, 0, 0);
    g.maker = (struct rondo__maker){ .b = b, .survey = s, .first = b->rank, .ranks = 1, .stages = 1, .stage = &at_once, .source = &at_once };
    rondo__maker_begin(&g.maker);
    g.row_of = rondo__arena_zero(s->arena, 4 * n + 3, sizeof *g.row_of);
    bool fine = g.row_of && (!sends_parts(&g) || rondo__wanted_make(&g.wanted, s, b->rank, 1));
    if (fine) {
        g.node_rows = g.row_of + n;
        g.join_rows = g.node_rows + n;
        g.job_first = g.join_rows + n;
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
    return rondo__tile_pairs(s, shape, 1, of_rank);
}

const struct rondo__algorithm rondo__ring_q = { RONDO_PASS_Q, "pass-Q", flow, build, pairs };
