/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Gradients by a ring, in two ways that are each other's mirror: pass-KV, where keys and values go round (Algorithm 2 of arXiv:2411.01783), and
 * pass-Q, where what is known of queries does (Algorithm 3). At step j a rank has the rows of rank (rank - j) mod N and visits each tile of these
 * and of its own rows once, for both trees. What that gives its own rows stays; what it gives the rows that came goes home to rank (rank - j) at
 * once, as nodes of the tree and never as a running sum: whoever has the rows joins the nodes of all ranks in the tree's order (rondo-numerics(7),
 * rule 13), so that the order in which they come does not reach the result.
 *
 * Nodes are as high as one rank's leaves make them (backward_nodes.c). Where messages are copied, rows, nodes to send and nodes that come have two
 * buffers each, and what came is joined a step later, as far as it goes; where peers show their memory, what was shown stays until the end,
 * and all of it is joined then. A bias's gradient is made where its rows live: by pass-KV as keys come past, by pass-Q of keys that come for it, at
 * the end. Called by backward_build.c.
 */
#include "attention/backward_nodes.h"

struct step {
    int64_t jobs_first, jobs;
    int32_t stores[RONDO_STORES];      /* numbers of buffers of nodes: see backward_nodes.h */
    int64_t floats[RONDO_STORES];
};

struct ring {
    struct rondo__gradients *b;
    struct rondo__crossing cross;
    struct step *steps;                /* [ranks] */
    int32_t (*came)[RONDO_QUERY_ARRAYS];   /* [ranks]: where each step's rows lie */
    struct rondo__rows *nothing;       /* [ranks] */
    const char *name, *back;
};

static int32_t before(const struct rondo__gradients *b, int32_t step) { return (b->rank - step + b->ranks) % b->ranks; }

static int32_t behind(const struct rondo__gradients *b, int32_t step) { return (b->rank + step) % b->ranks; }

static size_t bytes_of(int64_t floats) { return rondo__product(floats, sizeof(float)); }

/* Rows of a rank come as far as step `step`. */
static bool comes(const struct ring *g, int32_t rank, int32_t step)
{
    return g->cross.reach[rank] >= step && g->cross.hull[rank].end > g->cross.hull[rank].begin;
}

/* ---- jobs and joins ---- */

/* Jobs of all steps, with places for what they give, and places in what comes. */
static bool add_work(struct ring *g)
{
    struct rondo__gradients *b = g->b;
    for (int32_t j = 0; j < b->ranks; j++) {
        struct step *s = g->steps + j;
        s->jobs_first = b->part->jobs.count;
        for (int i = 0; i < RONDO_STORES; i++)
            if ((s->stores[i] = rondo__add_nodes(b, -1, 0)) < 0)
                return false;
        if (!rondo__crossing_jobs(&g->cross, before(b, j), j, s->stores, s->floats) ||
            (j && !rondo__crossing_come(&g->cross, behind(b, j), j, s->stores[RONDO_STORE_CAME], &s->floats[RONDO_STORE_CAME])))
            return false;
        if (b->d->desc.bias && !g->cross.queries_move &&
            !rondo__add_bias_jobs(b, before(b, j), comes(g, before(b, j), j) ? g->cross.hull : g->nothing))
            return false;
        s->jobs = b->part->jobs.count - s->jobs_first;
    }
    return rondo__crossing_join(&g->cross);
}

/* Buffers of nodes that are made here. */
static void add_buffers(struct ring *g)
{
    struct rondo__gradients *b = g->b;
    const bool apart = b->d->machine.in_place;   /* others look into what is sent, until the end */
    int64_t home = 0, made[2] = { 0, 0 };
    int32_t stay = -1, leave[2] = { -1, -1 };
    for (int32_t j = 0; j < b->ranks; j++) {
        const int64_t *floats = g->steps[j].floats;
        home = floats[RONDO_STORE_HOME] > home ? floats[RONDO_STORE_HOME] : home;
        made[j % 2] = floats[RONDO_STORE_MADE] > made[j % 2] ? floats[RONDO_STORE_MADE] : made[j % 2];
    }
    if (home)
        stay = rondo__add_gradient_buffer(b, "nodes", -1, bytes_of(home));
    for (int i = 0; i < 2 && !apart; i++)
        if (made[i])
            leave[i] = rondo__add_gradient_buffer(b, "nodes to send", i, bytes_of(made[i]));
    for (int32_t j = 0; j < b->ranks; j++) {
        const struct step *s = g->steps + j;
        const int64_t floats = s->floats[RONDO_STORE_MADE];
        const int32_t of = !floats ? -1 : apart ? rondo__add_gradient_buffer(b, "nodes for rank", before(b, j), bytes_of(floats)) : leave[j % 2];
        rondo__set_store(b, s->stores[RONDO_STORE_HOME], stay, s->floats[RONDO_STORE_HOME]);
        rondo__set_store(b, s->stores[RONDO_STORE_MADE], of, floats);
    }
    for (int queried = 0; queried < 2; queried++) {
        const int64_t floats = g->cross.waiting[queried];
        if (floats)
            rondo__set_store(b, g->cross.wait_store[queried],
                      rondo__add_gradient_buffer(b, queried ? "waiting nodes of queries" : "waiting nodes of keys", -1, bytes_of(floats)), floats);
    }
}

/* ---- the schedule ---- */

static size_t row_bytes(const struct ring *g, int array)
{
    return rondo__gradient_row(g->b->d, g->cross.queries_move, array);
}

static int64_t rows_of(const struct ring *g, int32_t rank)
{
    return g->cross.hull[rank].end - g->cross.hull[rank].begin;
}

static const char *const row_names[2][RONDO_QUERY_ARRAYS] = { { "k of rank", "v of rank" }, { "q of rank", "dout of rank", "lse of rank", "sums of rank" } };
static const char *const place_names[2][RONDO_QUERY_ARRAYS] = { { "arriving k", "arriving v" }, { "arriving q", "arriving dout", "arriving lse", "arriving sums" } };

/* Where rows of each step will be: those of two steps at most, unless peers show theirs. */
static void add_arrivals(struct ring *g)
{
    struct rondo__gradients *b = g->b;
    const struct rondo__machine *m = &b->d->machine;
    const bool queries = g->cross.queries_move;
    int32_t places[2][RONDO_QUERY_ARRAYS];
    int64_t most[2] = { 0, 0 };
    memset(places, 0xff, sizeof places);
    memset(g->came, 0xff, (size_t)b->ranks * sizeof *g->came);
    for (int32_t j = 1; j < b->ranks; j++)
        if (comes(g, before(b, j), j) && rows_of(g, before(b, j)) > most[j % 2])
            most[j % 2] = rows_of(g, before(b, j));
    for (int32_t j = 1; j < b->ranks && !b->s->failed; j++) {
        const int32_t of = before(b, j);
        for (int i = 0; i < rondo__side_arrays(queries) && comes(g, of, j); i++) {
            int32_t *place = &places[j % 2][i];
            if (m->in_place)
                g->came[j][i] = rondo__schedule_arrival(b->s, m, row_names[queries][i], of, rondo__product(rows_of(g, of), row_bytes(g, i)));
            else if (*place < 0)
                *place = rondo__schedule_arrival(b->s, m, place_names[queries][i], j % 2, rondo__product(most[j % 2], row_bytes(g, i)));
            if (!m->in_place)
                g->came[j][i] = *place;
        }
    }
}

/* Rows of step `step` come, and those of the step before go on. */
static void move_rows(struct ring *g, int32_t step, const int32_t *own)
{
    struct rondo__gradients *b = g->b;
    const int32_t giver = before(b, step - 1), of = before(b, step);
    const struct rondo__rows *hull = g->cross.hull + b->rank;
    const int arrays = rondo__side_arrays(g->cross.queries_move);
    const bool gives = comes(g, giver, step), gets = comes(g, of, step);
    if (!gives && !gets)
        return;
    rondo__schedule_begin(b->s, RONDO_TRANSFER, (struct rondo__step){ g->name, step, b->ranks - 1 }, -1)->operation = RONDO_OP_SHIFT;
    for (int i = 0; i < arrays && gives; i++)
        rondo__schedule_part(b->s, step > 1 ? g->came[step - 1][i] : own[i], step > 1 ? 0 : rondo__product(hull->begin, row_bytes(g, i)),
                             rondo__product(rows_of(g, giver), row_bytes(g, i)), behind(b, 1), false);
    for (int i = 0; i < arrays && gets; i++)
        rondo__schedule_part(b->s, g->came[step][i], 0, rondo__product(rows_of(g, of), row_bytes(g, i)), before(b, 1), true);
    rondo__schedule_end(b->s);
}

static void compute(struct ring *g, int32_t step)
{
    struct rondo__gradients *b = g->b;
    const int32_t of = before(b, step);
    for (int i = 0; i < rondo__side_arrays(g->cross.queries_move) && step && comes(g, of, step) && !b->s->failed; i++)
        *rondo__source_array(b, of, g->cross.queries_move, i) =
            rondo__schedule_received(b->s, &b->d->machine, g->came[step][i], rondo__product(rows_of(g, of), row_bytes(g, i)), -1);
    rondo__add_backward_jobs(b, (struct rondo__step){ "gradients", step, b->ranks - 1 }, g->steps[step].jobs_first, g->steps[step].jobs, of);
}

/* Joins of what a stage has brought to the side that stays, or to the one that moves. */
static void join(struct ring *g, int32_t stage, bool queries)
{
    const int64_t *first = g->cross.joins_first + 2 * stage + queries;
    rondo__add_backward_joins(g->b, (struct rondo__step){ queries ? "nodes of queries" : "nodes of keys", stage, g->b->ranks - 1 }, first[0],
                              first[1] - first[0]);
}

/* Nodes that step `step` made of others' rows go home, and those of this rank's rows come from who has made them in the same step. */
static void send_home(struct ring *g, int32_t step, int32_t *arrivals)
{
    struct rondo__gradients *b = g->b;
    const struct rondo__machine *m = &b->d->machine;
    const struct step *s = g->steps + step;
    const int32_t to = before(b, step), from = behind(b, step);
    const size_t out = bytes_of(s->floats[RONDO_STORE_MADE]), in = bytes_of(s->floats[RONDO_STORE_CAME]);
    int32_t sent = -1;
    if ((!out && !in) || b->s->failed)
        return;
    if (out)
        sent = rondo__schedule_sent(b->s, m, ((struct rondo__backward_store *)b->part->node_buffers.items)[s->stores[RONDO_STORE_MADE]].buffer, 0, out, -1);
    rondo__schedule_begin(b->s, RONDO_TRANSFER, (struct rondo__step){ g->back, step, b->ranks - 1 }, -1)->operation = RONDO_OP_ALL_TO_ALL;
    if (out)
        rondo__schedule_part(b->s, sent, 0, out, to, false);
    if (in)
        rondo__schedule_part(b->s, arrivals[step], 0, in, from, true);
    rondo__schedule_end(b->s);
}

static void nodes_received(struct ring *g, int32_t step, const int32_t *arrivals)
{
    struct rondo__gradients *b = g->b;
    const int64_t floats = g->steps[step].floats[RONDO_STORE_CAME];
    if (step && floats && !b->s->failed)
        rondo__set_store(b, g->steps[step].stores[RONDO_STORE_CAME],
                  rondo__schedule_received(b->s, &b->d->machine, arrivals[step], bytes_of(floats), -1), floats);
}

static void add_node_arrivals(struct ring *g, int32_t *arrivals)
{
    struct rondo__gradients *b = g->b;
    const struct rondo__machine *m = &b->d->machine;
    int64_t most[2] = { 0, 0 };
    int32_t places[2] = { -1, -1 };
    for (int32_t j = 1; j < b->ranks; j++)
        if (g->steps[j].floats[RONDO_STORE_CAME] > most[j % 2])
            most[j % 2] = g->steps[j].floats[RONDO_STORE_CAME];
    for (int32_t j = 1; j < b->ranks && !b->s->failed; j++) {
        const int64_t floats = g->steps[j].floats[RONDO_STORE_CAME];
        if (floats && m->in_place)
            arrivals[j] = rondo__schedule_arrival(b->s, m, "nodes of rank", behind(b, j), bytes_of(floats));
        else if (floats && places[j % 2] < 0)
            places[j % 2] = rondo__schedule_arrival(b->s, m, "arriving nodes", j % 2, bytes_of(most[j % 2]));
        if (floats && !m->in_place)
            arrivals[j] = places[j % 2];
    }
}

static void schedule(struct ring *g, int32_t *arrivals)
{
    struct rondo__gradients *b = g->b;
    const bool moves = g->cross.queries_move;
    int32_t own[RONDO_QUERY_ARRAYS];
    add_buffers(g);
    add_arrivals(g);
    add_node_arrivals(g, arrivals);
    rondo__add_sums(b);
    for (int i = 0; i < rondo__side_arrays(moves); i++) {
        const size_t row = row_bytes(g, i);
        own[i] = comes(g, b->rank, 1) ? rondo__schedule_sent(b->s, &b->d->machine, rondo__gradient_own(b, moves, i),
                                                             rondo__product(g->cross.hull[b->rank].begin, row),
                                                             rondo__product(rows_of(g, b->rank), row), -1) : -1;
    }
    for (int32_t j = 0; j < b->ranks && !b->s->failed; j++) {
        if (j + 1 < b->ranks)
            move_rows(g, j + 1, own);
        compute(g, j);
        join(g, j, !moves);
        if (j) {
            send_home(g, j, arrivals);
            if (!b->d->machine.in_place) {   /* what has come behind this step's work */
                nodes_received(g, j - 1, arrivals);
                join(g, j - 1, moves);
            }
        }
    }
    for (int32_t j = b->d->machine.in_place ? 1 : b->ranks - 1; j < b->ranks; j++)
        nodes_received(g, j, arrivals);
    join(g, b->ranks - 1, moves);
}

/* ---- both ways ---- */

static void count(const struct ring *g, uint64_t *messages, uint64_t *bytes)
{
    const int32_t n = g->b->ranks;
    *messages = g->cross.messages;
    *bytes = g->cross.bytes;
    for (int32_t r = 0; r < n; r++) {
        const uint64_t hops = comes(g, r, 1) ? (uint64_t)g->cross.reach[r] : 0;
        for (int i = 0; i < rondo__side_arrays(g->cross.queries_move); i++) {
            *messages += hops;
            *bytes += hops * (uint64_t)rondo__product(rows_of(g, r), row_bytes(g, i));
        }
    }
}

bool rondo__ring_moves(struct rondo__gradients *b, bool queries, uint64_t *messages, uint64_t *bytes, struct rondo__backward_reach *reach)
{
    struct ring g = { .b = b };
    const bool fine = rondo__crossing_make(&g.cross, b, queries);
    if (fine)
        count(&g, messages, bytes);
    for (int32_t r = 0; r < b->ranks && fine; r++)
        reach[r] = (struct rondo__backward_reach){ g.cross.hull[r].begin, g.cross.hull[r].end, g.cross.reach[r], 0 };
    rondo__crossing_free(&g.cross);
    return fine;
}

static int ring(struct rondo__gradients *b, bool queries)
{
    struct ring g = { .b = b, .name = queries ? "pass-Q" : "pass-KV", .back = queries ? "pass-Q return" : "pass-KV return" };
    int32_t *arrivals = rondo__alloc_zero((size_t)b->ranks, sizeof *arrivals);
    g.steps = rondo__alloc_zero((size_t)b->ranks, sizeof *g.steps);
    g.came = rondo__alloc_zero((size_t)b->ranks, sizeof *g.came);
    g.nothing = rondo__alloc_zero((size_t)b->ranks, sizeof *g.nothing);
    bool fine = arrivals && g.steps && g.came && g.nothing && rondo__crossing_make(&g.cross, b, queries) && add_work(&g);
    if (fine) {
        for (int32_t r = 0; r < b->ranks; r++) {
            int64_t *rows = queries ? &rondo__source_at(b, r)->query_rows : &rondo__source_at(b, r)->key_rows;
            if (r != b->rank)
                *rows = comes(&g, r, (b->rank - r + b->ranks) % b->ranks) ? rows_of(&g, r) : 0;
        }
        schedule(&g, arrivals);
        fine = !queries || !b->d->desc.bias || rondo__bias_gradients(b, NULL);
    }
    rondo__crossing_free(&g.cross);
    rondo__free(arrivals);
    rondo__free(g.steps);
    rondo__free(g.came);
    rondo__free(g.nothing);
    return fine ? 0 : rondo__no_gradients_memory();
}

int rondo__ring_kv_gradients(struct rondo__gradients *b)
{
    return ring(b, false);
}

int rondo__ring_q_gradients(struct rondo__gradients *b)
{
    return ring(b, true);
}
