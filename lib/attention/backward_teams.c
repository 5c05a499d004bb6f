/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Gradients by all-to-all crossed with a ring (as in arXiv:2405.07719): ranks stand in teams of neighbours, rank = team * seats + seat, and KV
 * heads are dealt out to the seats, each with all query heads that read it (backward_heads.c has what teams of all ranks do). In a team everybody
 * gives each seat its rows of that seat's heads; then a rank has the queries of all of its team for its own heads, and keys come team by team: at
 * step j those of team (team - j), from each of its ranks the heads of this seat, as far as somebody here sees them. What a pair of nodes gives
 * goes to who has the rows at once, queries and keys alike, as nodes of the tree of some heads (backward_nodes.h), and is joined there, a step
 * later or, where all is shown until the end, then; of the rank's own rows it stays. A seat without heads computes nothing. A bias's gradient is
 * made as in backward_heads.c. Called by backward_build.c.
 */
#include "attention/backward_nodes.h"

/* Numbers of a step's stores, and floats of each: nodes that are made here of rows of this team's seats, and behind these of those of the team whose keys
 * they are of; and what comes, of rows that are at home here, from this team's seats and from those of the team that has this one's keys. */
enum { MADE, CAME, SIDES };

struct teams {
    struct rondo__gradients *b;
    struct rondo__crossing cross;
    int32_t teams, seats, team, seat, slots;    /* slots: 2 * seats */
    int64_t *jobs_first;               /* [teams + 1] */
    int32_t *stores;                   /* [teams][SIDES][slots] */
    int64_t *floats;                   /* the same */
    int32_t *buffers;                  /* the same */
    int32_t (*packed)[RONDO_QUERY_ARRAYS], (*sent)[RONDO_QUERY_ARRAYS];   /* [seats] */
    int32_t (*keys)[RONDO_QUERY_ARRAYS];        /* [ranks]: where keys of other teams come */
};

static size_t place(const struct teams *g, int32_t step, int side, int32_t slot)
{
    return (size_t)((step * SIDES + side) * g->slots + slot);
}

/* The team that is so many steps before this one, or behind it. */
static int32_t team_at(const struct teams *g, int32_t step) { return (g->team + step + g->teams) % g->teams; }

/* Who has the rows of nodes that are made, or makes those that come. */
static int32_t rank_of(const struct teams *g, int32_t step, int side, int32_t slot)
{
    return slot < g->seats ? g->team * g->seats + slot : team_at(g, side == MADE ? -step : step) * g->seats + slot - g->seats;
}

static size_t bytes_of(int64_t floats) { return rondo__product(floats, sizeof(float)); }

/* Keys of `of`, who is of another team, that this rank needs; and of this rank's, that `at` needs. */
static const struct rondo__rows *needed(const struct rondo__crossing *c, int32_t of)
{
    static const struct rondo__rows none = { 0, 0 };
    return rondo__crossing_heads(c, c->b->rank).heads ? c->hull + of : &none;
}

static const struct rondo__rows *asked(const struct rondo__crossing *c, int32_t at)
{
    static const struct rondo__rows none = { 0, 0 };
    return rondo__crossing_heads(c, at).heads ? c->asked + at : &none;
}

static int64_t rows_of(const struct rondo__rows *r) { return r->end - r->begin; }

/* ---- what all ranks move ---- */

static void count(struct rondo__crossing *c, int32_t at, const struct rondo__rows *needs)
{
    const struct rondo__backward_heads heads = rondo__crossing_heads(c, at);
    for (int32_t of = 0; of < c->b->ranks; of++)
        for (int queried = 0; queried < 2 && at != of && heads.heads; queried++) {
            const bool team = at / c->seats == of / c->seats;
            const int64_t rows = !queried ? rows_of(needs + of) : team ? rondo__side_of(c->b, true, of)->rows : 0;
            for (int i = 0; i < rondo__side_arrays(queried) && rows; i++) {
                const size_t more = rondo__product(rows, rondo__heads_row(c->b, &heads, queried, i));
                c->messages += more > 0;
                c->bytes += (uint64_t)more;
            }
        }
}

bool rondo__teams_move(struct rondo__gradients *b, int32_t teams, uint64_t *messages, uint64_t *bytes)
{
    struct rondo__crossing c;
    const bool fine = rondo__crossing_teams(&c, b, teams, count);
    *messages = c.messages;
    *bytes = c.bytes;
    rondo__crossing_free(&c);
    return fine;
}

/* ---- jobs and joins ---- */

/* Jobs of all steps, places for what they give and for what comes, and joins of these. */
static bool add_work(struct teams *g)
{
    struct rondo__gradients *b = g->b;
    for (int32_t j = 0; j < g->teams; j++) {
        const size_t made = place(g, j, MADE, 0), came = place(g, j, CAME, 0);
        g->jobs_first[j] = b->part->jobs.count;
        for (int32_t i = 0; i < SIDES * g->slots; i++)
            if ((g->stores[made + (size_t)i] = rondo__add_nodes(b, -1, 0)) < 0)
                return false;
        if (!rondo__crossing_seat(&g->cross, j, g->stores + made, g->floats + made))
            return false;
        for (int32_t i = 0; i < (j ? g->slots : g->seats); i++) {
            const int32_t from = rank_of(g, j, CAME, i);
            if (from != b->rank && !rondo__crossing_seat_come(&g->cross, from, j, g->stores[came + (size_t)i], g->floats + came + i))
                return false;
        }
    }
    g->jobs_first[g->teams] = b->part->jobs.count;
    return rondo__crossing_join(&g->cross);
}

/* Places of nodes: of those that stay the same in each step, of others in every other one, unless peers look into them, or show them, until the end. */
static void add_buffers(struct teams *g)
{
    static const char *const names[SIDES][2] = { { "nodes to send", "nodes for rank" }, { "arriving nodes", "nodes of rank" } };
    struct rondo__gradients *b = g->b;
    const struct rondo__machine *m = &b->d->machine;
    for (int32_t i = 0; i < SIDES * g->slots; i++) {
        const int side = i / g->slots;
        const int32_t slot = i % g->slots;
        const bool stays = side == MADE && slot == g->seat;
        int64_t most[2] = { 0, 0 };
        int32_t at[2] = { -1, -1 };
        for (int32_t j = 0; j < g->teams; j++) {
            const int64_t floats = g->floats[place(g, j, side, slot)];
            most[stays ? 0 : j % 2] = floats > most[stays ? 0 : j % 2] ? floats : most[stays ? 0 : j % 2];
        }
        for (int32_t j = 0; j < g->teams && !b->s->failed; j++) {
            const size_t p = place(g, j, side, slot);
            const bool apart = m->in_place && !stays;
            const size_t bytes = bytes_of(apart ? g->floats[p] : most[stays ? 0 : j % 2]);
            const int32_t index = apart ? rank_of(g, j, side, slot) : 2 * slot + j % 2;
            int32_t fresh = -1, *of = apart ? &fresh : &at[stays ? 0 : j % 2];
            if (!g->floats[p])
                continue;
            if (*of < 0 && side == MADE)
                *of = rondo__add_gradient_buffer(b, stays ? "nodes" : names[side][apart], stays ? -1 : index, bytes);
            else if (*of < 0)
                *of = rondo__schedule_arrival(b->s, m, names[side][apart], index, bytes);
            g->buffers[p] = *of;
            if (side == MADE)
                rondo__set_store(b, g->stores[p], *of, g->floats[p]);
        }
    }
    for (int queried = 0; queried < 2; queried++) {
        const int64_t floats = g->cross.waiting[queried];
        if (floats)
            rondo__set_store(b, g->cross.wait_store[queried],
                             rondo__add_gradient_buffer(b, queried ? "waiting nodes of queries" : "waiting nodes of keys", -1, bytes_of(floats)), floats);
    }
}

/* Where keys of other teams will be: those of two steps at most, unless peers show theirs. */
static void add_arrivals(struct teams *g)
{
    static const char *const names[2][RONDO_KEY_ARRAYS] = { { "arriving k", "arriving v" }, { "k of rank", "v of rank" } };
    struct rondo__gradients *b = g->b;
    const struct rondo__machine *m = &b->d->machine;
    for (int32_t i = 0; i < g->slots && !b->s->failed; i++) {
        const int32_t s = i / 2, parity = i % 2;
        int32_t place[RONDO_KEY_ARRAYS] = { -1, -1 };
        int64_t most = 0;
        for (int32_t j = parity ? 1 : 2; j < g->teams; j += 2) {
            const int64_t rows = rows_of(needed(&g->cross, team_at(g, -j) * g->seats + s));
            most = rows > most ? rows : most;
        }
        for (int32_t j = parity ? 1 : 2; j < g->teams; j += 2) {
            const int32_t of = team_at(g, -j) * g->seats + s;
            const int64_t rows = rows_of(needed(&g->cross, of));
            for (int a = 0; a < RONDO_KEY_ARRAYS && rows && !b->s->failed; a++) {
                const size_t row = rondo__source_row(b, false, a);
                if (m->in_place)
                    g->keys[of][a] = rondo__schedule_arrival(b->s, m, names[1][a], of, rondo__product(rows, row));
                else if (place[a] < 0)
                    place[a] = rondo__schedule_arrival(b->s, m, names[0][a], i, rondo__product(most, row));
                if (!m->in_place)
                    g->keys[of][a] = place[a];
            }
            rondo__source_at(b, of)->key_rows = rows;
        }
    }
}

/* ---- the schedule ---- */

/* Keys of step `step` come, and this rank's go to those for whom it is the same step. */
static void move_keys(struct teams *g, int32_t step)
{
    struct rondo__gradients *b = g->b;
    rondo__schedule_begin(b->s, RONDO_TRANSFER, (struct rondo__step){ "all-to-all keys", step, g->teams - 1 }, -1)->operation = RONDO_OP_ALL_TO_ALL;
    for (int32_t n = 0; n < g->seats && !b->s->failed; n++) {
        const int32_t to_seat = (g->seat + n) % g->seats, of_seat = (g->seat - n + g->seats) % g->seats;
        const int32_t to = team_at(g, step) * g->seats + to_seat, of = team_at(g, -step) * g->seats + of_seat;
        const struct rondo__backward_heads heads = rondo__crossing_heads(&g->cross, to);
        const struct rondo__rows *theirs = asked(&g->cross, to), *mine = needed(&g->cross, of);
        for (int i = 0; i < RONDO_KEY_ARRAYS && rows_of(theirs); i++) {
            const size_t row = rondo__heads_row(b, &heads, false, i);
            rondo__schedule_part(b->s, g->sent[to_seat][i], rondo__product(theirs->begin, row), rondo__product(rows_of(theirs), row), to, false);
        }
        for (int i = 0; i < RONDO_KEY_ARRAYS && rows_of(mine); i++)
            rondo__schedule_part(b->s, g->keys[of][i], 0, rondo__product(rows_of(mine), rondo__source_row(b, false, i)), of, true);
    }
    rondo__schedule_end(b->s);
}

static void compute(struct teams *g, int32_t step)
{
    struct rondo__gradients *b = g->b;
    const int32_t first = team_at(g, -step) * g->seats;
    for (int32_t r = first; r < first + g->seats && step; r++)
        for (int i = 0; i < RONDO_KEY_ARRAYS && g->keys[r][i] >= 0 && !b->s->failed; i++) {
            const size_t bytes = rondo__product(rondo__source_at(b, r)->key_rows, rondo__source_row(b, false, i));
            *rondo__source_array(b, r, false, i) = rondo__schedule_received(b->s, &b->d->machine, g->keys[r][i], bytes, -1);
        }
    rondo__add_backward_jobs(b, (struct rondo__step){ "gradients", step, g->teams - 1 }, g->jobs_first[step],
                             g->jobs_first[step + 1] - g->jobs_first[step], first);
}

static void send_home(struct teams *g, int32_t step)
{
    struct rondo__gradients *b = g->b;
    const struct rondo__machine *m = &b->d->machine;
    int32_t *sent = g->buffers + (size_t)g->teams * SIDES * (size_t)g->slots;   /* room */
    for (int32_t i = 0; i < g->slots && !b->s->failed; i++) {
        const size_t p = place(g, step, MADE, i);
        sent[i] = i != g->seat && g->floats[p] ? rondo__schedule_sent(b->s, m, g->buffers[p], 0, bytes_of(g->floats[p]), -1) : -1;
    }
    rondo__schedule_begin(b->s, RONDO_TRANSFER, (struct rondo__step){ "all-to-all return", step, g->teams - 1 }, -1)->operation = RONDO_OP_ALL_TO_ALL;
    for (int32_t n = 0; n < g->slots && !b->s->failed; n++) {
        const int32_t other = n / g->seats * g->seats, to = other + (g->seat + n) % g->seats;
        const int32_t from = other + (g->seat - n % g->seats + g->seats) % g->seats;
        if (sent[to] >= 0)
            rondo__schedule_part(b->s, sent[to], 0, bytes_of(g->floats[place(g, step, MADE, to)]), rank_of(g, step, MADE, to), false);
        if (g->floats[place(g, step, CAME, from)])
            rondo__schedule_part(b->s, g->buffers[place(g, step, CAME, from)], 0, bytes_of(g->floats[place(g, step, CAME, from)]),
                                 rank_of(g, step, CAME, from), true);
    }
    rondo__schedule_end(b->s);
}

static void nodes_received(struct teams *g, int32_t step)
{
    struct rondo__gradients *b = g->b;
    for (int32_t i = 0; i < g->slots && !b->s->failed; i++) {
        const size_t p = place(g, step, CAME, i);
        if (g->floats[p])
            rondo__set_store(b, g->stores[p], rondo__schedule_received(b->s, &b->d->machine, g->buffers[p], bytes_of(g->floats[p]), -1), g->floats[p]);
    }
}

static void join(struct teams *g, int32_t stage, int32_t step)
{
    const int64_t *first = g->cross.joins_first + 2 * stage;
    for (int queried = 0; queried < 2; queried++)
        rondo__add_backward_joins(g->b, (struct rondo__step){ queried ? "nodes of queries" : "nodes of keys", step, g->teams - 1 }, first[queried],
                                  first[queried + 1] - first[queried]);
}

static void schedule(struct teams *g)
{
    struct rondo__gradients *b = g->b;
    const bool shown = b->d->machine.in_place;
    for (int32_t j = 0; j < g->teams && !b->s->failed; j++) {
        if (j + 1 < g->teams)
            move_keys(g, j + 1);
        compute(g, j);
        send_home(g, j);
        if (j && !shown) {             /* what has come behind this step's work */
            nodes_received(g, j - 1);
            join(g, 2 * j - 1, j - 1);
        }
        join(g, 2 * j, j);
    }
    for (int32_t j = shown ? 0 : g->teams - 1; j < g->teams; j++)
        nodes_received(g, j);
    join(g, 2 * g->teams - 1, g->teams - 1);
}

/* Rows of the team's seats come, to each of its heads. */
static void gather(struct teams *g)
{
    struct rondo__gradients *b = g->b;
    const int32_t first = g->team * g->seats;
    const bool any = b->part->heads.heads > 0;
    for (int queried = 1; queried >= 0; queried--) {   /* keys last: what is packed of them is sent in each step */
        if (queried)
            rondo__add_sums(b);
        rondo__pack_heads(b, queried, g->seats, g->packed);
        rondo__heads_sent(b, g->seats, queried, queried ? g->seat : -1, (const int32_t(*)[RONDO_QUERY_ARRAYS])g->packed, g->sent);
        rondo__exchange_heads(b, queried, first, g->seats, (const int32_t(*)[RONDO_QUERY_ARRAYS])g->packed, (const int32_t(*)[RONDO_QUERY_ARRAYS])g->sent);
        for (int32_t r = first; r < first + g->seats; r++)
            *(queried ? &rondo__source_at(b, r)->query_rows : &rondo__source_at(b, r)->key_rows) = any ? rondo__side_of(b, queried, r)->rows : 0;
    }
}

static bool allocate(struct teams *g)
{
    const size_t seats = (size_t)g->seats, cells = (size_t)g->teams * SIDES * (size_t)g->slots, n = (size_t)g->b->ranks;
    g->jobs_first = rondo__alloc_zero((size_t)g->teams + 1 + cells, sizeof *g->jobs_first);
    g->stores = rondo__alloc_zero(2 * cells + (size_t)g->slots, sizeof *g->stores);
    g->packed = rondo__alloc_zero(2 * seats + n, sizeof *g->packed);
    if (!g->jobs_first || !g->stores || !g->packed)
        return false;
    g->floats = g->jobs_first + g->teams + 1;
    g->buffers = g->stores + cells;
    g->sent = g->packed + seats;
    g->keys = g->sent + seats;
    memset(g->buffers, 0xff, (cells + (size_t)g->slots) * sizeof *g->buffers);
    memset(g->packed, 0xff, (2 * seats + n) * sizeof *g->packed);
    return true;
}

int rondo__teams_gradients(struct rondo__gradients *b)
{
    struct teams g = { .b = b, .teams = b->way.teams, .seats = b->ranks / b->way.teams };
    g.team = b->rank / g.seats;
    g.seat = b->rank % g.seats;
    g.slots = 2 * g.seats;
    b->seats = g.seats;
    bool fine = rondo__crossing_teams(&g.cross, b, g.teams, NULL) && allocate(&g);
    if (fine) {
        b->part->heads = rondo__crossing_heads(&g.cross, b->rank);
        fine = add_work(&g);
    }
    if (fine) {
        gather(&g);
        add_buffers(&g);
        add_arrivals(&g);
        schedule(&g);
    }
    if (fine && b->d->desc.bias) {
        b->part->dealt = b->part->jobs.count;
        b->base = b->ranks;
        fine = rondo__bias_gradients(b, NULL);
    }
    rondo__crossing_free(&g.cross);
    rondo__free(g.jobs_first);
    rondo__free(g.stores);
    rondo__free(g.packed);
    return fine ? 0 : rondo__no_gradients_memory();
}
