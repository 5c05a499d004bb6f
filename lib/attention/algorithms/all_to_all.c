/* SPDX-License-Identifier: BSD-2-Clause
 *
 * All-to-all over heads: Ulysses (arXiv:2309.14509), alone and crossed with a ring (as in arXiv:2405.07719).
 *
 * Ranks stand in teams of A neighbours (grid[0]): rank = team * A + seat. The query heads are dealt to the seats as evenly as they can be,
 * with the KV heads that they read; a KV head whose queries are cut goes to both seats, a seat without heads computes nothing. In a team
 * everybody gives each seat its rows of that seat's heads. Then a rank has the queries of all of its team for its own heads, and computes
 * them as pass-KV does; the other teams' keys come in steps. In the end each row's results go back to whoever has the row. Only rows
 * travel, queries that see something and keys that somebody sees; nodes stay where they are.
 *
 *   ring     after the exchange the keys of a team lie together at each seat, and go from there to the same seat of the next team, as far
 *            as somebody needs them.
 *   direct   with one team, or where a window or small messages make the ring a waste (rondo__goes_direct): at step j the ranks of team
 *            (team - j) give each seat just the rows that its team's queries see. Rows that are the same for several teams are packed once.
 *
 * Where the transport shows memory in place all is direct: what somebody else shows cannot lie together. Then all comes first, and a
 * computation for each rank of the team takes it.
 */
#include "attention/algorithms/all_to_all.h"

/* The largest team whose seats have whole KV heads, as many each; else the largest in which each has a head. */
static void choose_grid(const struct rondo__shape *shape, int32_t ranks, int32_t grid[2])
{
    int32_t even = 1, any = 1;
    for (int32_t seats = 1; seats <= ranks && seats <= shape->heads; seats++) {
        if (ranks % seats)
            continue;
        any = seats;
        even = shape->kv_heads % seats ? even : seats;
    }
    grid[0] = even > 1 ? even : any;
    grid[1] = ranks / grid[0];
}

/* ---- what all ranks together move ---- */

int64_t rondo__team_strips(const struct rondo__survey *s, int64_t sequence, int32_t team, int32_t seats, int64_t *first)
{
    int64_t end;
    (void)rondo__strips_of(s, sequence, team * seats, first);
    (void)rondo__strips_of(s, sequence, (team + 1) * seats, &end);
    return end - *first;
}

bool rondo__team_needs(const struct rondo__survey *s, int64_t sequence, int32_t team, int32_t seats, int32_t holder, int32_t first,
                       int32_t ranks, struct rondo__list *sees, struct rondo__list *out)
{
    int64_t strip, strips = rondo__team_strips(s, sequence, team, seats, &strip);
    out->count = 0;
    if (!strips)
        return true;
    return rondo__rank_sees(s, strip, strips, sees) && rondo__list_needs(s, sequence, sees, holder, first, ranks, out);
}

/* Messages, and rows by KV head, of either way. */
struct amount {
    uint64_t messages, cells;
};

static void add_amount(struct amount *a, uint64_t messages, int64_t rows, int64_t kv_heads)
{
    a->messages += rows ? messages : 0;
    a->cells += (uint64_t)rows * (uint64_t)kv_heads;
}

/* Hulls and reaches of the ring, and what goes direct. all: seats with heads, and the KV heads of all of them. */
static bool measure(const struct rondo__survey *s, const struct rondo__shape *shape, struct rondo__heads_flow *f,
                    const struct rondo__seat *all, struct amount *direct)
{
    struct rondo__list sees = rondo__list_of(s->arena), needs = rondo__list_of(s->arena);
    const int32_t n = s->roles.ranks, seats = f->base.grid[0], teams = f->base.grid[1];
    int32_t *seen_by = rondo__arena_zero(s->arena, (size_t)n, sizeof *seen_by);   /* the last team, and 1, that was found to need a rank's rows */
    bool fine = seen_by != NULL;
    for (int32_t team = 0; team < teams && fine; team++)
        for (int64_t i = 0; i < s->roles.sequences && fine; i++) {
            int64_t *first = f->first + i * n, *end = f->count + i * n;
            fine = rondo__team_needs(s, i, team, seats, -1, 0, n, &sees, &needs);
            const struct rondo__need *need = needs.items;
            for (int64_t j = 0; j < needs.count && fine; j++) {
                const int32_t r = need[j].rank, theirs = r / seats, hops = (team - theirs + teams) % teams;
                const struct rondo__seat own = theirs == team ? rondo__seat_of(shape, seats, r % seats) : (struct rondo__seat){ 0 };
                first[r] = end[r] && first[r] < need[j].row ? first[r] : need[j].row;
                end[r] = end[r] > need[j].row + need[j].rows ? end[r] : need[j].row + need[j].rows;
                add_amount(direct, seen_by[r] == team + 1 ? 0 : (uint64_t)(all->heads - (own.heads > 0)), need[j].rows,
                           all->kv_heads - own.kv_heads);
                seen_by[r] = team + 1;
                f->reach[theirs] = hops > f->reach[theirs] ? hops : f->reach[theirs];
            }
        }
    return fine;
}

/* The ring's; returns the bytes of its largest message. */
static double measure_ring(const struct rondo__survey *s, const struct rondo__shape *shape, struct rondo__heads_flow *f,
                           const struct rondo__seat *all, double cell, struct amount *ring)
{
    const int32_t n = s->roles.ranks, seats = f->base.grid[0];
    int64_t most = 0;
    for (int32_t team = 0; team < f->base.grid[1]; team++) {
        int64_t rows = 0;
        for (int32_t r = team * seats; r < (team + 1) * seats; r++) {
            const struct rondo__seat own = rondo__seat_of(shape, seats, r % seats);
            for (int64_t i = 0; i < s->roles.sequences; i++) {
                int64_t *end = f->count + i * n + r;
                *end = *end ? *end - f->first[i * n + r] : 0;
                f->at[i * n + r] = f->rows[r];
                f->rows[r] += *end;
            }
            rows += f->rows[r];
            add_amount(ring, (uint64_t)(all->heads - (own.heads > 0)), f->rows[r], all->kv_heads - own.kv_heads);
        }
        add_amount(ring, (uint64_t)f->reach[team] * (uint64_t)all->heads, rows, f->reach[team] * all->kv_heads);
        most = rows > most ? rows : most;
    }
    const double fullest = (double)((shape->kv_heads + seats - 1) / seats);
    return (double)most * fullest * cell;
}

/* Queries to the seats of a team, results back. */
static void measure_queries(const struct rondo__survey *s, const struct rondo__shape *shape, struct rondo__heads_flow *f,
                            const struct rondo__seat *all)
{
    for (int64_t i = 0; i < s->strips.count; i++) {
        const struct rondo__strip *strip = rondo__strip_at(s, i);
        f->q_rows[strip->rank] += strip->sees ? strip->rows : 0;
    }
    for (int32_t r = 0; r < s->roles.ranks; r++) {
        const struct rondo__seat own = rondo__seat_of(shape, f->base.grid[0], r % f->base.grid[0]);
        size_t bytes = rondo__q_heads_bytes(shape, shape->heads - own.heads);
        for (int i = 0; i < rondo__seat_results(shape); i++)
            bytes += rondo__seat_result_bytes(shape, i, shape->heads - own.heads);
        f->base.messages += f->q_rows[r] ? (uint64_t)(1 + rondo__seat_results(shape)) * (uint64_t)(all->heads - (own.heads > 0)) : 0;
        f->base.bytes += (uint64_t)f->q_rows[r] * bytes;
        const double mine = rondo__own_bytes(s, shape, r);
        f->base.own = mine > f->base.own ? mine : f->base.own;
    }
}

static int flow(struct rondo__survey *s, const struct rondo__shape *shape, const struct rondo__machine *machine)
{
    const size_t ranks = (size_t)s->roles.ranks, table = (size_t)s->roles.sequences;
    struct rondo__heads_flow *f = rondo__arena_zero(s->arena, 1, sizeof *f);
    struct rondo__seat all = { 0 };
    size_t cells;
    if (!f)
        return rondo__build_failed();
    s->flow = f;
    f->base.deals_heads = true;
    memcpy(f->base.grid, shape->grid, sizeof f->base.grid);
    if (!f->base.grid[0])
        choose_grid(shape, s->roles.ranks, f->base.grid);
    f->reach = rondo__arena_zero(s->arena, (size_t)f->base.grid[1], sizeof *f->reach);
    if (rondo__mul(3 * table + 2, ranks, &cells))
        f->q_rows = rondo__arena_zero(s->arena, cells, sizeof *f->q_rows);
    if (!f->reach || !f->q_rows)
        return rondo__build_failed();
    f->rows = f->q_rows + ranks;
    f->first = f->rows + ranks;
    f->at = f->first + table * ranks;
    f->count = f->at + table * ranks;
    for (int32_t i = 0; i < f->base.grid[0]; i++) {
        const struct rondo__seat of = rondo__seat_of(shape, f->base.grid[0], i);
        all.heads += of.heads > 0;
        all.kv_heads += of.kv_heads;
    }
    struct amount direct = { 0, 0 }, ring = { 0, 0 };
    const uint64_t cell = rondo__shape_kv_bytes(shape) / (uint64_t)shape->kv_heads;
    if (!measure(s, shape, f, &all, &direct))
        return rondo__build_failed();
    const double largest = measure_ring(s, shape, f, &all, (double)cell, &ring);
    f->direct = machine->in_place || f->base.grid[1] == 1 || rondo__goes_direct(ring.cells * cell, direct.cells * cell, largest);
    const struct amount *keys = f->direct ? &direct : &ring;
    f->base.messages = (shape->shared_kv ? 1 : 2) * keys->messages;
    f->base.bytes = keys->cells * cell;
    measure_queries(s, shape, f, &all);
    return 0;
}

/* A team's queries against all keys, by each seat for its heads. */
static bool pairs(const struct rondo__survey *s, const struct rondo__shape *shape, uint64_t *of_rank)
{
    const struct rondo__flow *f = s->flow;
    const int32_t n = s->roles.ranks, seats = f->grid[0], teams = f->grid[1];
    const bool alike = s->roles.mask.heads == 1;
    int32_t *class = rondo__arena_zero(s->arena, (size_t)n, 2 * sizeof *class);
    uint64_t *cells = rondo__arena_zero(s->arena, (size_t)teams, sizeof *cells);
    bool fine = class && cells;
    memset(of_rank, 0, (size_t)n * sizeof *of_rank);
    for (int32_t r = 0; r < n && fine; r++)
        class[r] = r / seats;
    for (int64_t head = 0; head < (alike ? 1 : shape->heads) && fine; head++) {
        fine = rondo__class_head_pairs(s, head, class, teams, class + n, 1, cells);
        for (int32_t r = 0; r < n && fine; r++) {
            const struct rondo__seat of = rondo__seat_of(shape, seats, r % seats);
            uint64_t more = alike ? (uint64_t)of.heads : head >= of.head && head < of.head + of.heads;
            if (__builtin_mul_overflow(more, cells[r / seats], &more) || __builtin_add_overflow(of_rank[r], more, &of_rank[r]))
                of_rank[r] = UINT64_MAX;
        }
    }
    return fine;
}

const struct rondo__algorithm rondo__all_to_all = { RONDO_ALL_TO_ALL, "all-to-all", flow, rondo__heads_build, pairs };
