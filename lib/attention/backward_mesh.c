/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Gradients by mesh: ranks as a grid, as the forward pass's (algorithms/mesh.c; arXiv:2512.20968). A rank gets the queries of the ranks of its column
 * and the keys of those of its row, visits each tile of these once, for both trees, and sends what that gives home, to who has the queries and to
 * who has the keys: nodes of the tree, as high as one row's keys, or one column's queries, make them (backward_nodes.h). Of the rows O(sqrt N) move of
 * what a ring moves, and of nodes somewhat fewer. Only what somebody of the grid's row or column sees is moved. Where nobody names a grid it is the
 * one that moves the fewest bytes. A bias's gradient is made where its rows live, of the keys that come for it from other rows of the grid. Called by
 * backward_build.c.
 */
#include "attention/backward_nodes.h"

struct mesh {
    struct rondo__gradients *b;
    struct rondo__crossing cross;
    int32_t *stores, *arrivals;        /* [2][ranks], made here and come from there; [ranks]: buffers */
    int64_t *made, *came;              /* [ranks]: floats */
    struct rondo__rows *mine, *theirs; /* [ranks] */
};

static int64_t rows_of(const struct rondo__rows *r) { return r->end - r->begin; }

/* What `at` needs of the rows of `of`, of the one side where they are of one team, who is not `of` itself. */
static struct rondo__rows needed(const struct rondo__crossing *c, bool queries, int32_t at, int32_t of, const struct rondo__rows *rows)
{
    const bool team = at != of && rondo__crossing_team(c, queries, at) == rondo__crossing_team(c, queries, of);
    return team ? *rows : (struct rondo__rows){ 0, 0 };
}

static void count(struct rondo__crossing *c, int32_t at, const struct rondo__rows *needs)
{
    for (int32_t n = 0, of; n < rondo__crossing_peers(c); n++)
        for (int queried = 0; queried < 2 && (of = rondo__crossing_peer(c, at, n)) >= 0 && rows_of(needs + of); queried++) {
            const struct rondo__rows rows = needed(c, queried, at, of, needs + of);
            for (int i = 0; i < rondo__side_arrays(queried) && rows_of(&rows); i++) {
                c->messages++;
                c->bytes += (uint64_t)rondo__product(rows_of(&rows), rondo__gradient_row(c->b->d, queried, i));
            }
        }
}

bool rondo__mesh_moves(struct rondo__gradients *b, int32_t columns, uint64_t *messages, uint64_t *bytes)
{
    struct rondo__crossing c;
    const bool fine = rondo__crossing_grid(&c, b, columns, count);
    *messages = c.messages;
    *bytes = c.bytes;
    rondo__crossing_free(&c);
    return fine;
}

bool rondo__mesh_choose(struct rondo__gradients *b, int32_t *columns)
{
    uint64_t fewest = UINT64_MAX, messages, bytes;
    *columns = 1;
    for (int32_t c = b->ranks; c >= 1; c--) {
        if (b->ranks % c)
            continue;
        if (!rondo__mesh_moves(b, c, &messages, &bytes))
            return false;
        if (bytes < fewest) {
            fewest = bytes;
            *columns = c;
        }
    }
    return true;
}

/* ---- the schedule ---- */

static void exchange(struct mesh *g, bool queries)
{
    struct rondo__gradients *b = g->b;
    for (int32_t r = 0; r < b->ranks; r++) {
        g->mine[r] = needed(&g->cross, queries, r, b->rank, g->cross.asked + r);
        g->theirs[r] = needed(&g->cross, queries, b->rank, r, g->cross.hull + r);
        if (r != b->rank)
            *(queries ? &rondo__source_at(b, r)->query_rows : &rondo__source_at(b, r)->key_rows) = rows_of(g->theirs + r);
    }
    rondo__exchange_rows(b, queries ? "mesh queries" : "mesh keys", queries, g->mine, g->theirs);
}

/* Jobs, places of what they give and of what comes, and joins of these. */
static bool add_work(struct mesh *g)
{
    struct rondo__gradients *b = g->b;
    for (int32_t r = 0; r < 2 * b->ranks; r++)
        if ((g->stores[r] = rondo__add_nodes(b, -1, 0)) < 0)
            return false;
    if (!rondo__crossing_tile(&g->cross, g->stores, g->made))
        return false;
    for (int32_t r = 0; r < b->ranks; r++)
        if (r != b->rank && !rondo__crossing_tile_come(&g->cross, r, g->stores[b->ranks + r], g->came + r))
            return false;
    return rondo__crossing_join(&g->cross);
}

static void send_home(struct mesh *g)
{
    struct rondo__gradients *b = g->b;
    const struct rondo__machine *m = &b->d->machine;
    const struct rondo__backward_store *store = b->part->node_buffers.items;
    for (int32_t r = 0; r < b->ranks && !b->s->failed; r++)
        g->arrivals[r] = r != b->rank && g->made[r] ? rondo__schedule_sent(b->s, m, store[g->stores[r]].buffer, 0, store[g->stores[r]].bytes, -1) : -1;
    rondo__schedule_begin(b->s, RONDO_TRANSFER, rondo__step_named("mesh return"), -1)->operation = RONDO_OP_ALL_TO_ALL;
    for (int32_t j = 1; j < b->ranks && !b->s->failed; j++) {
        const int32_t to = (b->rank + j) % b->ranks, from = (b->rank - j + b->ranks) % b->ranks;
        const size_t bytes = rondo__product(g->came[from], sizeof(float));
        if (g->made[to])
            rondo__schedule_part(b->s, g->arrivals[to], 0, store[g->stores[to]].bytes, to, false);
        if (!bytes)
            continue;
        rondo__set_store(b, g->stores[b->ranks + from], rondo__schedule_arrival(b->s, m, "nodes of rank", from, bytes), g->came[from]);
        rondo__schedule_part(b->s, store[g->stores[b->ranks + from]].buffer, 0, bytes, from, true);
    }
    rondo__schedule_end(b->s);
    for (int32_t r = 0; r < b->ranks && !b->s->failed; r++)
        if (g->came[r])
            rondo__set_store(b, g->stores[b->ranks + r],
                             rondo__schedule_received(b->s, m, store[g->stores[b->ranks + r]].buffer, store[g->stores[b->ranks + r]].bytes, -1), g->came[r]);
}

static void schedule(struct mesh *g)
{
    struct rondo__gradients *b = g->b;
    exchange(g, false);
    rondo__add_sums(b);
    exchange(g, true);
    for (int32_t r = 0; r < b->ranks && !b->s->failed; r++)
        if (g->made[r])
            rondo__set_store(b, g->stores[r], rondo__add_gradient_buffer(b, r == b->rank ? "nodes" : "nodes for rank", r == b->rank ? -1 : r,
                                                                         rondo__product(g->made[r], sizeof(float))), g->made[r]);
    rondo__add_backward_jobs(b, rondo__step_named("gradients"), 0, b->part->jobs.count, RONDO_ROUND_ALL);
    send_home(g);
    for (int queried = 0; queried < 2; queried++) {
        const int64_t *first = g->cross.joins_first + queried;
        rondo__add_backward_joins(b, rondo__step_named(queried ? "nodes of queries" : "nodes of keys"), first[0], first[1] - first[0]);
    }
}

int rondo__mesh_gradients(struct rondo__gradients *b)
{
    const size_t n = (size_t)b->ranks;
    struct mesh g = { .b = b };
    g.stores = rondo__alloc_zero(3 * n, sizeof *g.stores);
    g.made = rondo__alloc_zero(2 * n, sizeof *g.made);
    g.mine = rondo__alloc_zero(2 * n, sizeof *g.mine);
    bool fine = rondo__crossing_grid(&g.cross, b, b->way.columns, NULL) && g.stores && g.made && g.mine;
    if (fine) {
        g.arrivals = g.stores + 2 * n;
        g.came = g.made + n;
        g.theirs = g.mine + n;
        fine = add_work(&g);
    }
    if (fine) {
        schedule(&g);
        fine = !b->d->desc.bias || rondo__bias_gradients(b, g.cross.hull);
    }
    rondo__crossing_free(&g.cross);
    rondo__free(g.stores);
    rondo__free(g.made);
    rondo__free(g.mine);
    return fine ? 0 : rondo__no_gradients_memory();
}
