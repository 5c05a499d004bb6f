/* SPDX-License-Identifier: BSD-2-Clause
 *
 * All-to-all over heads: Ulysses (arXiv:2309.14509), alone and crossed with a ring (as in arXiv:2405.07719).
 *
 * Ranks stand in teams of A neighbours (grid[0]): rank = team * A + seat. The query heads are dealt to the seats as evenly as they can be,
 * with the KV heads that they read; a KV head whose queries are cut goes to both seats, a seat without heads computes nothing. In a team
 * everybody gives each seat its rows of that seat's heads. Then a rank has the queries of all of its team for its own heads, and computes
 * them as pass-KV does; the other teams' keys come in steps. In the end each row's results go back to whoever has the row. Only rows travel,
 * queries that see something and keys that somebody sees, so no rank sees anything but the tree that all algorithms see.
 *
 *   ring     after the exchange the keys of a team lie together at each seat, and go from there to the same seat of the next team, as far as
 *            somebody needs them.
 *   direct   with one team, or where a window or small messages make the ring a waste (rondo__goes_direct): at step j the ranks of team
 *            (team - j) give each seat just the rows that its team's queries see. Rows that are the same for several teams are packed once.
 *
 * Where the transport shows memory in place all is direct: showing costs nothing, and what is not one's own cannot be shown on. Then all comes
 * first, and one computation for each rank whose queries they are takes it.
 */
#include "attention/algorithms/algorithms.h"

/* Which heads a seat has. */
struct seat {
    int64_t head, heads, kv_head, kv_heads;
};

static struct seat seat_of(const struct rondo__shape *shape, int32_t seats, int32_t seat)
{
    const int64_t group = shape->heads / shape->kv_heads;
    struct seat s = { .head = shape->heads * seat / seats };
    s.heads = shape->heads * (seat + 1) / seats - s.head;
    s.kv_head = s.head / group;
    s.kv_heads = s.heads ? (s.head + s.heads - 1) / group + 1 - s.kv_head : 0;
    return s;
}

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

/* Results that go back. */
enum { OUT, LSE, STATS, RESULTS };

/* stats only where probabilities are wanted */
static int results(const struct rondo__shape *shape)
{
    return shape->probs ? RESULTS : STATS;
}

static size_t result_row_bytes(const struct rondo__shape *shape, int result, int64_t heads)
{
    if (result == OUT)
        return (size_t)(heads * shape->value_dim) * rondo_type_size(shape->out_type);
    return (size_t)heads * (result == STATS ? 2 : 1) * sizeof(float);
}

static size_t q_row_bytes(const struct rondo__shape *shape, int64_t heads)
{
    return (size_t)(heads * shape->head_dim) * rondo_type_size(shape->q_type);
}

/* 0: K, 1: V; 0 where V lies in K */
static size_t kv_row_bytes(const struct rondo__shape *shape, int part, int64_t kv_heads)
{
    if (part && shape->shared_kv)
        return 0;
    return (size_t)(kv_heads * (part ? shape->value_dim : shape->head_dim)) * rondo_type_size(shape->kv_type);
}

struct heads_flow {
    struct rondo__flow base;
    bool direct;
    int32_t *reach;        /* [teams] ring: the last hop that anybody needs; 0: it stays */
    int64_t *q_rows;       /* [ranks] of queries that see something */
    int64_t *rows;         /* [ranks] ring: of its part of its team's parcel */
    int64_t *first, *at;   /* [sequences][ranks] ring: the first row of the sequence in the part; where that lies in it */
    int64_t *count;        /* [sequences][ranks] ring: and how many */
};

static void flow_free(void *flow)
{
    struct heads_flow *f = flow;
    rondo__free(f->reach);
    rondo__free(f->q_rows);
    rondo__free(f);
}

/* The strips of a team in a sequence: *first and on; their number. */
static int64_t team_strips(const struct rondo__survey *s, int64_t sequence, int32_t team, int32_t seats, int64_t *first)
{
    int64_t end;
    (void)rondo__strips_of(s, sequence, team * seats, first);
    (void)rondo__strips_of(s, sequence, (team + 1) * seats, &end);
    return end - *first;
}

/* What the queries of a team see of the rows of ranks [first, first + ranks), but not of `holder`. Empties the lists. */
static bool team_needs(const struct rondo__survey *s, int64_t sequence, int32_t team, int32_t seats, int32_t holder, int32_t first, int32_t ranks,
                       struct rondo__list *sees, struct rondo__list *out)
{
    int64_t strip, strips = team_strips(s, sequence, team, seats, &strip);
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
static bool measure(const struct rondo__survey *s, const struct rondo__shape *shape, struct heads_flow *f, const struct seat *all,
                    struct amount *direct)
{
    struct rondo__list sees = { 0 }, needs = { 0 };
    const int32_t n = s->roles.ranks, seats = f->base.grid[0], teams = f->base.grid[1];
    int32_t *seen_by = rondo__alloc_zero((size_t)n, sizeof *seen_by);   /* the last team, and 1, that was found to need a rank's rows */
    bool fine = seen_by != NULL;
    for (int32_t team = 0; team < teams && fine; team++)
        for (int64_t i = 0; i < s->roles.sequences && fine; i++) {
            int64_t *first = f->first + i * n, *end = f->count + i * n;
            fine = team_needs(s, i, team, seats, -1, 0, n, &sees, &needs);
            const struct rondo__need *need = needs.items;
            for (int64_t j = 0; j < needs.count && fine; j++) {
                const int32_t r = need[j].rank, theirs = r / seats, hops = (team - theirs + teams) % teams;
                const struct seat own = theirs == team ? seat_of(shape, seats, r % seats) : (struct seat){ 0 };
                first[r] = end[r] && first[r] < need[j].row ? first[r] : need[j].row;
                end[r] = end[r] > need[j].row + need[j].rows ? end[r] : need[j].row + need[j].rows;
                add_amount(direct, seen_by[r] == team + 1 ? 0 : (uint64_t)(all->heads - (own.heads > 0)), need[j].rows,
                           all->kv_heads - own.kv_heads);
                seen_by[r] = team + 1;
                f->reach[theirs] = hops > f->reach[theirs] ? hops : f->reach[theirs];
            }
        }
    rondo__free(seen_by);
    rondo__list_free(&sees);
    rondo__list_free(&needs);
    return fine;
}

/* The ring's; returns the bytes of its largest message. */
static double measure_ring(const struct rondo__survey *s, const struct rondo__shape *shape, struct heads_flow *f, const struct seat *all,
                           double cell, struct amount *ring)
{
    const int32_t n = s->roles.ranks, seats = f->base.grid[0];
    int64_t most = 0;
    for (int32_t team = 0; team < f->base.grid[1]; team++) {
        int64_t rows = 0;
        for (int32_t r = team * seats; r < (team + 1) * seats; r++) {
            const struct seat own = seat_of(shape, seats, r % seats);
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
static void measure_queries(const struct rondo__survey *s, const struct rondo__shape *shape, struct heads_flow *f, const struct seat *all)
{
    for (int64_t i = 0; i < s->strips.count; i++) {
        const struct rondo__strip *strip = rondo__strip_at(s, i);
        f->q_rows[strip->rank] += strip->sees ? strip->rows : 0;
    }
    for (int32_t r = 0; r < s->roles.ranks; r++) {
        const struct seat own = seat_of(shape, f->base.grid[0], r % f->base.grid[0]);
        size_t bytes = q_row_bytes(shape, shape->heads - own.heads);
        for (int i = 0; i < results(shape); i++)
            bytes += result_row_bytes(shape, i, shape->heads - own.heads);
        f->base.messages += f->q_rows[r] ? (uint64_t)(1 + results(shape)) * (uint64_t)(all->heads - (own.heads > 0)) : 0;
        f->base.bytes += (uint64_t)f->q_rows[r] * bytes;
        const double mine = rondo__own_bytes(s, shape, r);
        f->base.own = mine > f->base.own ? mine : f->base.own;
    }
}

static int flow(struct rondo__survey *s, const struct rondo__shape *shape, const struct rondo__machine *machine)
{
    const size_t ranks = (size_t)s->roles.ranks, table = (size_t)s->roles.sequences;
    struct heads_flow *f = rondo__alloc_zero(1, sizeof *f);
    struct seat all = { 0 };
    size_t cells;
    if (!f)
        return rondo__build_failed();
    s->flow = f;
    s->flow_free = flow_free;
    f->base.deals_heads = true;
    memcpy(f->base.grid, shape->grid, sizeof f->base.grid);
    if (!f->base.grid[0])
        choose_grid(shape, s->roles.ranks, f->base.grid);
    f->reach = rondo__alloc_zero((size_t)f->base.grid[1], sizeof *f->reach);
    if (rondo__mul(3 * table + 2, ranks, &cells))
        f->q_rows = rondo__alloc_zero(cells, sizeof *f->q_rows);
    if (!f->reach || !f->q_rows)
        return rondo__build_failed();
    f->rows = f->q_rows + ranks;
    f->first = f->rows + ranks;
    f->at = f->first + table * ranks;
    f->count = f->at + table * ranks;
    for (int32_t i = 0; i < f->base.grid[0]; i++) {
        const struct seat of = seat_of(shape, f->base.grid[0], i);
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

/* ---- one rank's program ---- */

/* Heads of a seat, and its KV heads that each have as many of them: what one job can be of. Numbers count within the seat. */
struct share {
    int32_t head, heads, kv_head, kv_heads;
};

/* Queries that one computation takes: of this rank, which is the last set; of one other of the team (in place), or of all others. */
struct set {
    int64_t rows;
    int32_t q, result[RESULTS];        /* buffers; -1: none */
};

/* Rows of this rank that go to a team: `runs` of g->runs, and for each seat a buffer of K and one of V, -1 while it is not packed. */
struct parcel {
    int64_t runs_first, runs, rows, buffers_first;
};

struct all {
    struct rondo__build *b;
    const struct heads_flow *flow;
    int32_t seats, teams, team, seat, sets;
    struct seat own;
    struct share share[3];
    int32_t shares;
    struct rondo__list sees, pieces, tags, order, rows, step_of, needs;
    struct rondo__list runs, parcels, buffers;
    struct rondo__tree tree;
    struct rondo__list *need;          /* [sequences] direct: what the team needs of ranks; `at`: where it lies in their parcel */
    int64_t *came;                     /* [ranks] rows of the parcel that comes of each */
    int64_t *base;                     /* [ranks] where it lies among what comes in the same step */
    int64_t *step_rows;                /* [teams] rows that come in a step */
    int64_t *q_at, *q_next;            /* [seats] rows of a rank in its set; where those of the next strip lie */
    int64_t *job_first;                /* [teams * sets + 1]: jobs by step and set */
    struct set *set;
    int32_t (*in)[2];                  /* [ranks] K and V that came: by step; in place by rank */
    int32_t (*back)[RESULTS];          /* [seats] results that came */
    int32_t *packed_q;                 /* [seats] */
    int32_t place[2][2];               /* by part: buffers that arrivals use in turn */
    struct parcel queries;             /* this rank's that see something */
    int64_t waiting_rows;
    int32_t waiting;                   /* buffer of nodes */
};

/* Adds heads of one KV head. */
static void add_share(struct all *g, int32_t head, int32_t heads, int32_t kv_head)
{
    struct share *last = g->shares ? g->share + g->shares - 1 : NULL;
    if (last && last->heads / last->kv_heads == heads) {
        last->heads += heads;
        last->kv_heads++;
    } else {
        g->share[g->shares++] = (struct share){ head, heads, kv_head, 1 };
    }
}

/* A first KV head whose queries are cut, whole ones, a last one: at most three shares. */
static void find_shares(struct all *g)
{
    const struct rondo__shape *shape = g->b->shape;
    const int64_t group = shape->heads / shape->kv_heads, end = g->own.head + g->own.heads;
    for (int64_t kv = g->own.kv_head, head = g->own.head; head < end; kv++) {
        const int64_t next = (kv + 1) * group < end ? (kv + 1) * group : end;
        add_share(g, (int32_t)(head - g->own.head), (int32_t)(next - head), (int32_t)(kv - g->own.kv_head));
        head = next;
    }
}

static int32_t step_of_rank(const struct all *g, int32_t rank)
{
    return (g->team - rank / g->seats + g->teams) % g->teams;
}

/* The i-th seat in this rank's order, which begins with itself. */
static int32_t seat_after(const struct all *g, int32_t i)
{
    return (g->seat + i) % g->seats;
}

static int32_t set_of_seat(const struct all *g, int32_t seat)
{
    if (seat == g->seat)
        return g->sets - 1;
    return g->b->machine.in_place ? (seat - g->seat + g->seats) % g->seats - 1 : 0;
}

/* What comes of each rank, and where it will lie. Those of a step lie one after another, a seat's own rank's first. */
static bool find_arrivals(struct all *g)
{
    const struct rondo__survey *s = g->b->survey;
    const struct heads_flow *f = g->flow;
    const int32_t rank = g->b->rank;
    if (!g->own.heads)
        return true;
    for (int64_t i = 0; i < s->roles.sequences && f->direct; i++) {
        if (!team_needs(s, i, g->team, g->seats, rank, 0, s->roles.ranks, &g->sees, g->need + i))
            return false;
        struct rondo__need *need = g->need[i].items;
        for (int64_t j = 0; j < g->need[i].count; j++) {
            need[j].at = g->came[need[j].rank];
            g->came[need[j].rank] += need[j].rows;
        }
    }
    for (int32_t r = 0; r < s->roles.ranks && !f->direct; r++) {
        const int32_t step = step_of_rank(g, r);
        /* its own too, where it travels on with the others' */
        g->came[r] = step > f->reach[r / g->seats] || (r == rank && !f->reach[g->team]) ? 0 : f->rows[r];
    }
    for (int32_t team = 0; team < g->teams && !g->b->machine.in_place; team++) {
        int64_t *at = g->step_rows + step_of_rank(g, team * g->seats);
        for (int32_t i = 0; i < g->seats; i++) {
            const int32_t r = team * g->seats + seat_after(g, i);
            g->base[r] = *at;
            *at += g->came[r];
        }
    }
    for (int32_t i = 1; i < g->seats; i++) {
        const int32_t seat = seat_after(g, i);
        struct set *set = g->set + set_of_seat(g, seat);
        g->q_at[seat] = g->q_next[seat] = set->rows;
        set->rows += f->q_rows[g->team * g->seats + seat];
    }
    return true;
}

/* Where the piece's first row lies: among this rank's rows of the sequence, or among what came in a step. */
static int64_t row_of(const struct all *g, int64_t sequence, const struct rondo__piece *p, int64_t *next)
{
    const int64_t cell = sequence * g->b->survey->roles.ranks + p->rank;
    if (p->rank == g->b->rank)
        return p->row;
    return g->base[p->rank] + (g->flow->direct ? rondo__need_row(g->need + sequence, p, next) : g->flow->at[cell] + p->row - g->flow->first[cell]);
}

/* Pieces in the order of their steps, each step's by rising index: `order`. job_first, which jobs need only later, says where each begins. */
static bool order_pieces(struct all *g)
{
    const int32_t *tag = g->tags.items;
    g->order.count = 0;
    int32_t *order = rondo__list_add(&g->order, sizeof *order, g->pieces.count + 1);
    if (!order)
        return false;
    memset(g->job_first, 0, ((size_t)g->teams + 1) * sizeof *g->job_first);
    for (int64_t i = 0; i < g->pieces.count; i++)
        g->job_first[tag[i] + 1]++;
    for (int32_t j = 0; j < g->teams; j++)
        g->job_first[j + 1] += g->job_first[j];
    for (int64_t i = 0; i < g->pieces.count; i++)
        order[g->job_first[tag[i]]++] = (int32_t)i;
    memmove(g->job_first + 1, g->job_first, (size_t)g->teams * sizeof *g->job_first);
    g->job_first[0] = 0;
    return true;
}

/* The job that was added last is one for each share, in a step of a set. */
static bool share_job(struct all *g, int32_t step)
{
    struct rondo__list *jobs = &g->b->tables->jobs;
    int32_t *step_of = rondo__list_add(&g->step_of, sizeof *step_of, g->shares);
    struct rondo_job *job = rondo__list_add(jobs, sizeof *job, g->shares - 1);
    if (!step_of || !job)
        return false;
    job = (struct rondo_job *)jobs->items + jobs->count - g->shares;
    for (int32_t i = 0; i < g->shares; i++) {
        const struct share *share = g->share + i;
        step_of[i] = step;
        job[i] = job[0];
        if (g->shares == 1)
            continue;   /* all of the program's heads */
        job[i].head = share->head;
        job[i].heads = share->heads;
        job[i].kv_head = share->kv_head;
        job[i].kv_heads = share->kv_heads;
    }
    return true;
}

/* The jobs of one strip of a seat's rank: for each step that brings keys which its queries see. */
static bool strip_jobs(struct all *g, int64_t sequence, const struct rondo__strip *strip, int32_t seat)
{
    struct rondo__build *b = g->b;
    const struct rondo__survey *s = b->survey;
    const int32_t set = set_of_seat(g, seat);
    int64_t spans_first, q_row = seat == g->seat ? strip->row : g->q_next[seat];
    if (!strip->sees)
        return true;
    g->q_next[seat] += strip->rows;
    g->tags.count = g->rows.count = 0;
    if (!rondo__pieces(s, sequence, rondo__strip_sees(s, strip), strip->sees, -1, &g->pieces) ||
        !rondo__list_add(&g->tags, sizeof(int32_t), g->pieces.count + 1) || !rondo__list_add(&g->rows, sizeof(int64_t), g->pieces.count + 1) ||
        !rondo__add_spans(b, strip, &spans_first) || rondo__tree_build(&g->tree, g->pieces.items, g->pieces.count, g->teams))
        return false;
    int32_t *tag = g->tags.items;
    int64_t *row = g->rows.items, next = 0;
    const struct rondo__piece *p = g->pieces.items;
    for (int64_t i = 0; i < g->pieces.count; i++) {
        tag[i] = b->machine.in_place ? 0 : step_of_rank(g, p[i].rank);
        row[i] = row_of(g, sequence, p + i, &next);
    }
    rondo__tree_stages(&g->tree, tag, false);
    if (!order_pieces(g))
        return false;
    const int32_t *order = g->order.items;
    const int64_t jobs = b->tables->jobs.count, places_first = b->tables->places.count;
    for (int32_t j = 0; j < g->teams; j++) {
        struct rondo__program program;
        if (!rondo__tree_stage(&g->tree, j, &b->tables->steps, &program))
            return false;
        if (!program.steps)
            continue;
        if (!rondo__add_job(b, sequence, strip, q_row, spans_first, &program) || !share_job(g, j * g->sets + set))
            return false;
        struct rondo_leaf *leaf = rondo__add_leaves(b, program.leaves);
        if (program.leaves && !leaf)
            return false;
        for (int64_t i = g->job_first[j]; i < g->job_first[j + 1]; i++) {
            const struct rondo__piece *at = p + order[i];
            *leaf++ = (struct rondo_leaf){ .row = row[order[i]], .first = at->first, .count = at->count, .step = at->step,
                                           .source = b->machine.in_place ? at->rank : at->rank != b->rank };
        }
    }
    const int64_t slots = g->tree.slots;
    struct rondo_place *place = rondo__add_places(b, slots);
    if (slots && !place)
        return false;
    for (int64_t i = 0; i < slots; i++)
        place[i] = (struct rondo_place){ g->waiting_rows + i * strip->rows, 0, 0 };
    for (int64_t i = jobs; i < b->tables->jobs.count; i++) {
        struct rondo_job *job = (struct rondo_job *)b->tables->jobs.items + i;
        job->places_first = places_first;
        job->places = (int32_t)slots;
    }
    g->waiting_rows += slots * strip->rows;
    return true;
}

static bool program(struct all *g)
{
    const struct rondo__survey *s = g->b->survey;
    for (int64_t i = 0; i < s->roles.sequences && g->own.heads; i++) {
        int64_t strip, strips = team_strips(s, i, g->team, g->seats, &strip);
        for (int64_t j = strip; j < strip + strips; j++)
            if (!strip_jobs(g, i, rondo__strip_at(s, j), rondo__strip_at(s, j)->rank % g->seats))
                return false;
    }
    return rondo__sort_jobs(g->b, &g->step_of, g->teams * g->sets, g->job_first);
}

/* ---- the schedule: what leaves ---- */

/* Rows of a sequence go into a parcel, behind those that are in it; rows that follow each other are one run. */
static bool add_rows(struct all *g, struct parcel *p, int64_t sequence, int64_t row, int64_t rows)
{
    struct rondo__copy *last = p->runs ? (struct rondo__copy *)g->runs.items + p->runs_first + p->runs - 1 : NULL;
    if (!rows)
        return true;
    if (last && last->sequence == sequence && last->row + last->rows == row) {
        last->rows += rows;
    } else {
        struct rondo__copy *c = rondo__list_add(&g->runs, sizeof *c, 1);
        if (!c)
            return false;
        *c = (struct rondo__copy){ .sequence = sequence, .row = row, .rows = rows, .to_at = (size_t)p->rows };
        p->runs++;
    }
    p->rows += rows;
    return true;
}

static bool find_queries(struct all *g)
{
    const struct rondo__survey *s = g->b->survey;
    g->queries.runs_first = g->runs.count;
    for (int64_t i = 0; i < s->roles.sequences; i++) {
        int64_t strip, strips = rondo__strips_of(s, i, g->b->rank, &strip);
        for (int64_t j = strip; j < strip + strips; j++) {
            const struct rondo__strip *t = rondo__strip_at(s, j);
            if (t->sees && !add_rows(g, &g->queries, i, t->row, t->rows))
                return false;
        }
    }
    return true;
}

static bool same_rows(const struct all *g, const struct parcel *a, const struct parcel *b)
{
    const struct rondo__copy *x = (const struct rondo__copy *)g->runs.items + a->runs_first;
    const struct rondo__copy *y = (const struct rondo__copy *)g->runs.items + b->runs_first;
    bool same = a->runs == b->runs && a->rows == b->rows;
    for (int64_t i = 0; i < a->runs && same; i++)
        same = x[i].sequence == y[i].sequence && x[i].row == y[i].row && x[i].rows == y[i].rows;
    return same;
}

/* The parcel of this rank's keys for a team, which may be an earlier one's too; NULL: nothing goes there, or no memory (`failed`). */
static struct parcel *parcel_for(struct all *g, int32_t team)
{
    struct rondo__schedule *s = g->b->schedule;
    const struct rondo__survey *v = g->b->survey;
    struct parcel p = { .runs_first = g->runs.count, .buffers_first = g->buffers.count };
    for (int64_t i = 0; i < v->roles.sequences && !s->failed; i++) {
        const int64_t cell = i * v->roles.ranks + g->b->rank;
        if (!g->flow->direct) {
            s->failed = !add_rows(g, &p, i, g->flow->first[cell], g->flow->count[cell]);
            continue;
        }
        s->failed = !team_needs(v, i, team, g->seats, -1, g->b->rank, 1, &g->sees, &g->needs);
        const struct rondo__need *need = g->needs.items;
        for (int64_t j = 0; j < g->needs.count && !s->failed; j++)
            s->failed = !add_rows(g, &p, i, need[j].row, need[j].rows);
    }
    if (s->failed || !p.rows)
        return NULL;
    struct parcel *known = g->parcels.items;
    for (int64_t i = 0; i < g->parcels.count; i++)
        if (same_rows(g, known + i, &p)) {
            g->runs.count = p.runs_first;
            return known + i;
        }
    struct parcel *made = rondo__list_add(&g->parcels, sizeof *made, 1);
    int32_t *buffer = rondo__list_add(&g->buffers, sizeof *buffer, 2 * (int64_t)g->seats);
    s->failed = !made || !buffer;
    if (s->failed)
        return NULL;
    memset(buffer, 0xff, 2 * (size_t)g->seats * sizeof *buffer);
    *made = p;
    return made;
}

static int32_t *parcel_buffer(const struct all *g, const struct parcel *p, int32_t seat)
{
    return (int32_t *)g->buffers.items + p->buffers_first + 2 * (int64_t)seat;
}

/* Some heads of a parcel's rows, from a tensor of this rank to a buffer. */
static void pack_rows(struct all *g, const struct parcel *p, const char *what, int tensor, int32_t to, int64_t head, int64_t heads, size_t row)
{
    struct rondo__schedule *s = g->b->schedule;
    struct rondo__operation *o = rondo__schedule_begin(s, RONDO_PACK, (struct rondo__step){ what, 0, 0 }, 0);
    o->elides = rondo__buffer_at(s, to)->home >= 0;
    for (int64_t i = 0; i < p->runs && !s->failed; i++) {
        struct rondo__copy c = ((const struct rondo__copy *)g->runs.items)[p->runs_first + i];
        c.from = g->b->tensor[tensor];
        c.to = to;
        c.to_at *= row;
        c.head = (int32_t)head;
        c.heads = (int32_t)heads;
        rondo__schedule_copy(s, c, rondo__product(c.rows, row));
    }
    rondo__schedule_end(s);
}

/* Rows as they are to be sent; where they lie so already, because the caller has one head's together, the caller's memory serves. */
static int32_t packed_buffer(struct all *g, const char *name, int32_t index, int tensor, int64_t rows, size_t row)
{
    struct rondo__build *b = g->b;
    struct rondo__buffer buffer = { .name = name, .index = index, .owner = RONDO_OWNER_PLAN, .memory = rondo__transfer_memory(b), .tensor = -1,
                                    .home = b->machine.unified ? b->tensor[tensor] : -1, .over = -1 };
    buffer.bytes = buffer.room = rondo__product(rows, row);
    return rondo__buffer_add(b->schedule, buffer);
}

/* The heads of one seat of this rank's keys for a team. */
static void pack_keys(struct all *g, const struct parcel *p, int32_t seat)
{
    struct rondo__build *b = g->b;
    const struct seat of = seat_of(b->shape, g->seats, seat);
    int32_t *buffer = parcel_buffer(g, p, seat);
    const int64_t number = p - (const struct parcel *)g->parcels.items;
    for (int part = 0; part < 2 && of.heads && !b->schedule->failed; part++) {
        const size_t row = kv_row_bytes(b->shape, part, of.kv_heads);
        const int tensor = RONDO_TENSOR_K + part;
        if (!row || buffer[part] >= 0)
            continue;
        buffer[part] = packed_buffer(g, part ? "packed v" : "packed k", (int32_t)number * g->seats + seat, tensor, p->rows, row);
        if (!b->schedule->failed)
            pack_rows(g, p, part ? "v" : "k", tensor, buffer[part], of.kv_head, of.kv_heads, row);
    }
}

/* The heads of the other seats of this rank's queries; and of its keys its own, where they go round with those of the team. */
static void pack_own(struct all *g)
{
    struct rondo__build *b = g->b;
    struct rondo__schedule *s = b->schedule;
    for (int32_t i = 1; i < g->seats && g->queries.rows && !s->failed; i++) {
        const int32_t seat = seat_after(g, i);
        const struct seat of = seat_of(b->shape, g->seats, seat);
        const size_t row = q_row_bytes(b->shape, of.heads);
        if (!of.heads)
            continue;
        g->packed_q[seat] = packed_buffer(g, "packed q", seat, RONDO_TENSOR_Q, g->queries.rows, row);
        if (!s->failed)
            pack_rows(g, &g->queries, "q", RONDO_TENSOR_Q, g->packed_q[seat], of.head, of.heads, row);
    }
    if (g->flow->direct || !g->own.heads || !g->came[b->rank])
        return;
    const struct parcel *p = parcel_for(g, g->team);
    for (int part = 0; part < 2 && !s->failed; part++)
        if (g->place[part][0] >= 0)
            pack_rows(g, p, part ? "v" : "k", RONDO_TENSOR_K + part, g->place[part][0], g->own.kv_head, g->own.kv_heads,
                      rondo__kv_row_bytes(b, part));
}

/* ---- what comes, and computing ---- */

static const char *const result_names[RESULTS][2] = { { "out of others", "arriving out" }, { "lse of others", "arriving lse" },
                                                      { "stats of others", "arriving stats" } };

/* Places for what comes: two of each part, which steps use in turn; and for queries and results of others. */
static void make_places(struct all *g)
{
    struct rondo__build *b = g->b;
    int64_t most[2] = { 0, 0 };
    for (int32_t j = 0; j < g->teams; j++)
        most[j % 2] = g->step_rows[j] > most[j % 2] ? g->step_rows[j] : most[j % 2];
    for (int part = 0; part < 2 && rondo__kv_row_bytes(b, part); part++)
        for (int32_t i = 0; i < 2; i++)
            if (most[i])
                g->place[part][i] = rondo__lower_arrival(b, part ? "arriving v" : "arriving k", i,
                                                         rondo__product(most[i], rondo__kv_row_bytes(b, part)));
    for (int32_t i = 0; i < g->sets - 1; i++) {
        struct set *set = g->set + i;
        if (!set->rows)
            continue;
        set->q = rondo__lower_arrival(b, "arriving q", i, rondo__product(set->rows, rondo__q_row_bytes(b)));
        for (int j = 0; j < results(b->shape); j++) {
            struct rondo__buffer buffer = { .name = result_names[j][0], .index = i, .owner = RONDO_OWNER_PLAN,
                                            .memory = rondo__compute_memory(b), .tensor = -1, .home = -1, .over = -1 };
            buffer.bytes = buffer.room = rondo__product(set->rows, result_row_bytes(b->shape, j, g->own.heads));
            set->result[j] = rondo__buffer_add(b->schedule, buffer);
        }
    }
    if (g->waiting_rows) {
        struct rondo__buffer w = { .name = "waiting nodes", .index = -1, .owner = RONDO_OWNER_PLAN, .memory = rondo__compute_memory(b),
                                   .tensor = -1, .home = -1, .over = -1 };
        w.bytes = w.room = rondo__product(g->waiting_rows, rondo__node_bytes(b));
        g->waiting = rondo__buffer_add(b->schedule, w);
    }
}

/* Where K or V of a rank arrives in a step. */
static int32_t *arrival(struct all *g, int32_t step, int32_t rank, int part)
{
    int32_t *in = &g->in[g->b->machine.in_place ? rank : step][part];
    if (*in < 0 && g->b->machine.in_place)
        *in = rondo__lower_arrival(g->b, part ? "v of rank" : "k of rank", rank,
                                   rondo__product(g->came[rank], rondo__kv_row_bytes(g->b, part)));
    else if (*in < 0)
        *in = g->place[part][step % 2];
    return in;
}

/* To where computing sees it. */
static void received(struct all *g, int32_t at, int64_t rows)
{
    for (int part = 0; part < 2 && rows && rondo__kv_row_bytes(g->b, part); part++)
        g->in[at][part] = rondo__lower_received(g->b, g->in[at][part], rondo__product(rows, rondo__kv_row_bytes(g->b, part)), 0);
}

/* Step 0: in the team, queries and keys. Step j, direct: keys to team (team + j), from team (team - j). */
static void exchange(struct all *g, int32_t step)
{
    struct rondo__build *b = g->b;
    struct rondo__schedule *s = b->schedule;
    const struct heads_flow *f = g->flow;
    const int32_t to_team = (g->team + step) % g->teams, from_team = (g->team - step + g->teams) % g->teams;
    const struct parcel *p = parcel_for(g, to_team);
    bool any = false;
    for (int32_t i = !step; i < g->seats && !s->failed; i++) {
        const int32_t seat = seat_after(g, i), from = from_team * g->seats + seat;
        any |= seat_of(b->shape, g->seats, seat).heads && (p || (!step && g->queries.rows));
        any |= g->came[from] || (!step && g->own.heads && f->q_rows[from]);
        if (p)
            pack_keys(g, p, seat);
    }
    if (!any || s->failed)
        return;
    struct rondo__operation *o = rondo__schedule_begin(s, RONDO_TRANSFER, step ? (struct rondo__step){ "keys of a team", step, g->teams - 1 }
                                                                                : (struct rondo__step){ "rows for heads", 0, 0 }, 0);
    o->operation = step ? RONDO_OP_SHIFT : RONDO_OP_ALL_TO_ALL;
    for (int32_t i = !step; i < g->seats && !s->failed; i++) {
        const int32_t seat = seat_after(g, i), to = to_team * g->seats + seat, from = from_team * g->seats + seat;
        const struct seat of = seat_of(b->shape, g->seats, seat);
        if (!step && of.heads && g->queries.rows)
            rondo__schedule_part(s, g->packed_q[seat], 0, rondo__product(g->queries.rows, q_row_bytes(b->shape, of.heads)), to, false);
        if (!step && g->own.heads && f->q_rows[from])
            rondo__schedule_part(s, g->set[set_of_seat(g, seat)].q, rondo__product(g->q_at[seat], rondo__q_row_bytes(b)),
                                 rondo__product(f->q_rows[from], rondo__q_row_bytes(b)), from, true);
        for (int part = 0; part < 2; part++) {
            const size_t out_row = kv_row_bytes(b->shape, part, of.kv_heads), row = rondo__kv_row_bytes(b, part);
            if (p && of.heads && out_row)
                rondo__schedule_part(s, parcel_buffer(g, p, seat)[part], 0, rondo__product(p->rows, out_row), to, false);
            if (g->came[from] && row)
                rondo__schedule_part(s, *arrival(g, step, from, part), rondo__product(g->base[from], row), rondo__product(g->came[from], row),
                                     from, true);
        }
    }
    rondo__schedule_end(s);
    for (int32_t i = 0; i < g->sets - 1 && !step && !s->failed; i++)
        if (g->set[i].rows)
            g->set[i].q = rondo__lower_received(b, g->set[i].q, rondo__product(g->set[i].rows, rondo__q_row_bytes(b)), 0);
    for (int32_t i = !step; i < g->seats && b->machine.in_place && !s->failed; i++)
        received(g, from_team * g->seats + seat_after(g, i), g->came[from_team * g->seats + seat_after(g, i)]);
    if (!b->machine.in_place && !s->failed && g->in[step][0] >= 0)
        received(g, step, g->step_rows[step]);
}

/* Hop `step` of the ring: what came before to the same seat of the next team. */
static void hop(struct all *g, int32_t step)
{
    struct rondo__build *b = g->b;
    struct rondo__schedule *s = b->schedule;
    const int32_t n = b->survey->roles.ranks, next = (b->rank + g->seats) % n, before = (b->rank - g->seats + n) % n;
    const int64_t in_rows = g->step_rows[step];
    const int64_t out_rows = g->flow->reach[(g->team - step + 1 + g->teams) % g->teams] >= step ? g->step_rows[step - 1] : 0;
    if (!g->own.heads || (!in_rows && !out_rows))
        return;
    struct rondo__operation *o = rondo__schedule_begin(s, RONDO_TRANSFER, (struct rondo__step){ "keys of a team", step, g->teams - 1 }, 0);
    o->operation = RONDO_OP_SHIFT;
    for (int part = 0; part < 2; part++) {
        const size_t row = rondo__kv_row_bytes(b, part);
        if (!row)
            continue;
        if (out_rows)
            rondo__schedule_part(s, g->place[part][(step - 1) % 2], 0, rondo__product(out_rows, row), next, false);
        if (in_rows)
            rondo__schedule_part(s, *arrival(g, step, before, part), 0, rondo__product(in_rows, row), before, true);
    }
    rondo__schedule_end(s);
    received(g, step, in_rows);
}

static void compute(struct all *g, int32_t step, int32_t set)
{
    struct rondo__build *b = g->b;
    struct rondo__schedule *s = b->schedule;
    const int64_t at = (int64_t)step * g->sets + set, first = g->job_first[at], count = g->job_first[at + 1] - first;
    const bool own = set == g->sets - 1, in_place = b->machine.in_place;
    const int32_t q = own ? b->tensor[RONDO_TENSOR_Q] : g->set[set].q, n = b->survey->roles.ranks;
    if (!count || s->failed)
        return;
    rondo__lower_compute(b, in_place || g->teams == 1 ? (struct rondo__step){ "attention", 0, 0 } : (struct rondo__step){ "attention", step, g->teams - 1 },
                         0, first, count, q, own ? rondo__buffer_at(s, q)->bytes : rondo__product(g->set[set].rows, rondo__q_row_bytes(b)), own);
    if (!own)
        rondo__lower_results(b, g->set[set].result[OUT], g->set[set].result[LSE], g->set[set].result[STATS]);
    for (int32_t i = 0; i < (in_place ? n : 2); i++)
        if (i == (in_place ? b->rank : 0))
            rondo__lower_source(b, b->tensor[RONDO_TENSOR_K], b->tensor[RONDO_TENSOR_V], -1);
        else if (in_place)
            rondo__lower_source(b, g->in[i][0], g->in[i][1], g->came[i]);
        else
            rondo__lower_source(b, g->in[step][0], g->in[step][1], g->step_rows[step]);
    if (g->waiting >= 0) {
        rondo__schedule_nodes(s, g->waiting);
        rondo__schedule_use(s, g->waiting, 0, rondo__buffer_at(s, g->waiting)->bytes, true);
    }
    rondo__schedule_end(s);
}

/* ---- results ---- */

/* Where results of a seat's heads arrive: where the queries were that went there, if they are not larger. */
static int32_t result_arrival(struct all *g, int32_t seat, int result)
{
    struct rondo__build *b = g->b;
    struct rondo__schedule *s = b->schedule;
    const size_t bytes = rondo__product(g->queries.rows, result_row_bytes(b->shape, result, seat_of(b->shape, g->seats, seat).heads));
    const int32_t buffer = rondo__lower_arrival(b, result_names[result][1], seat, bytes);
    if (!s->failed && result == OUT && !b->machine.in_place && rondo__buffer_at(s, g->packed_q[seat])->room >= bytes)
        rondo__buffer_at(s, buffer)->over = g->packed_q[seat];
    return buffer;
}

/* Each row's results to whoever has the row. */
static void give_back(struct all *g)
{
    struct rondo__build *b = g->b;
    struct rondo__schedule *s = b->schedule;
    bool any = false;
    for (int32_t i = 0; i < g->sets - 1 && !s->failed; i++)
        for (int j = 0; j < results(b->shape) && g->set[i].rows; j++) {
            g->set[i].result[j] = rondo__lower_send(b, g->set[i].result[j], 0, rondo__buffer_at(s, g->set[i].result[j])->bytes, 0);
            any = true;
        }
    for (int32_t i = 1; i < g->seats && g->queries.rows && !s->failed; i++)
        for (int j = 0; j < results(b->shape) && seat_of(b->shape, g->seats, seat_after(g, i)).heads; j++) {
            g->back[seat_after(g, i)][j] = result_arrival(g, seat_after(g, i), j);
            any = true;
        }
    if (!any || s->failed)
        return;
    struct rondo__operation *o = rondo__schedule_begin(s, RONDO_TRANSFER, (struct rondo__step){ "results for rows", 0, 0 }, 0);
    o->operation = RONDO_OP_ALL_TO_ALL;
    for (int32_t i = 1; i < g->seats; i++) {
        const int32_t seat = seat_after(g, i), peer = g->team * g->seats + seat;
        const int64_t rows = g->own.heads ? g->flow->q_rows[peer] : 0;
        for (int j = 0; j < results(b->shape) && !s->failed; j++) {
            const size_t row = result_row_bytes(b->shape, j, g->own.heads);
            if (rows)
                rondo__schedule_part(s, g->set[set_of_seat(g, seat)].result[j], rondo__product(g->q_at[seat], row), rondo__product(rows, row),
                                     peer, false);
            if (g->back[seat][j] >= 0)
                rondo__schedule_part(s, g->back[seat][j], 0,
                                     rondo__product(g->queries.rows, result_row_bytes(b->shape, j, seat_of(b->shape, g->seats, seat).heads)), peer, true);
        }
    }
    rondo__schedule_end(s);
}

static void place_results(struct all *g)
{
    struct rondo__build *b = g->b;
    struct rondo__schedule *s = b->schedule;
    const struct rondo__copy *run = (const struct rondo__copy *)g->runs.items + g->queries.runs_first;
    const int32_t home[RESULTS] = { b->tensor[RONDO_TENSOR_OUT], b->tensor[RONDO_TENSOR_LSE], b->stats };
    for (int32_t i = 1; i < g->seats && g->queries.rows && !s->failed; i++) {
        const int32_t seat = seat_after(g, i);
        const struct seat of = seat_of(b->shape, g->seats, seat);
        if (!of.heads)
            continue;
        rondo__schedule_begin(s, RONDO_PACK, (struct rondo__step){ "results", 0, 0 }, 0);
        for (int j = 0; j < results(b->shape); j++)
            for (int64_t k = 0; k < g->queries.runs && !s->failed; k++) {
                const size_t row = result_row_bytes(b->shape, j, of.heads);
                rondo__schedule_copy(s, (struct rondo__copy){ .from = g->back[seat][j], .to = home[j],
                                                              .from_at = run[k].to_at * row, .sequence = run[k].sequence, .row = run[k].row,
                                                              .rows = run[k].rows, .head = (int32_t)of.head, .heads = (int32_t)of.heads },
                                     rondo__product(run[k].rows, row));
            }
        rondo__schedule_end(s);
    }
}

static void schedule(struct all *g)
{
    struct rondo__build *b = g->b;
    struct rondo__schedule *s = b->schedule;
    rondo__lower_begin(b);
    struct rondo__build whole = *b;    /* what follows behind the algorithm is of all heads */
    whole.head = whole.kv_head = 0;
    whole.heads = (int32_t)b->shape->heads;
    whole.kv_heads = (int32_t)b->shape->kv_heads;
    if (g->own.heads)
        make_places(g);
    if (!s->failed)
        pack_own(g);
    for (int32_t j = 0; j < g->teams && !s->failed; j++) {
        if (!j)
            exchange(g, 0);
        if (j + 1 < g->teams && g->flow->direct)
            exchange(g, j + 1);
        else if (j + 1 < g->teams)
            hop(g, j + 1);
        if (b->machine.in_place && j + 1 < g->teams)
            continue;
        const int32_t step = b->machine.in_place ? 0 : j;
        for (int32_t i = 0; i < g->sets - 1 && !s->failed; i++)
            compute(g, step, i);
        if (j + 1 == g->teams && !s->failed)
            give_back(g);   /* while this rank's own queries are computed */
        if (!s->failed)
            compute(g, step, g->sets - 1);
    }
    if (!s->failed)
        place_results(g);
    if (!s->failed && g->flow->base.messages)
        rondo__lower_fence(b, (struct rondo__step){ "end of all-to-all", 0, 0 });
    if (!s->failed)
        rondo__lower_end(&whole);
}

/* ---- build ---- */

static bool allocate(struct all *g)
{
    const size_t ranks = (size_t)g->b->survey->roles.ranks, seats = (size_t)g->seats, teams = (size_t)g->teams, sets = (size_t)g->sets;
    g->need = rondo__alloc_zero((size_t)g->b->survey->roles.sequences, sizeof *g->need);
    g->came = rondo__alloc_zero(2 * ranks + 2 * seats + teams + teams * sets + 1, sizeof *g->came);
    g->set = rondo__alloc_zero(sets, sizeof *g->set);
    g->in = rondo__alloc(2 * ranks * sizeof **g->in);
    g->back = rondo__alloc(seats * (sizeof *g->back + sizeof *g->packed_q));
    if (!g->need || !g->came || !g->set || !g->in || !g->back)
        return false;
    g->base = g->came + ranks;
    g->q_at = g->base + ranks;
    g->q_next = g->q_at + seats;
    g->step_rows = g->q_next + seats;
    g->job_first = g->step_rows + teams;
    g->packed_q = (int32_t *)(void *)(g->back + seats);
    for (size_t i = 0; i < sets; i++)
        for (int j = 0; j < RESULTS; j++)
            g->set[i].result[j] = -1;
    memset(g->in, 0xff, 2 * ranks * sizeof **g->in);
    memset(g->back, 0xff, seats * (sizeof *g->back + sizeof *g->packed_q));
    memset(g->place, 0xff, sizeof g->place);
    return true;
}

static void release(struct all *g)
{
    struct rondo__list *lists[] = { &g->sees, &g->pieces, &g->tags, &g->order, &g->rows, &g->step_of, &g->needs, &g->runs, &g->parcels, &g->buffers };
    for (int64_t i = 0; g->need && i < g->b->survey->roles.sequences; i++)
        rondo__list_free(g->need + i);
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        rondo__list_free(lists[i]);
    rondo__free(g->need);
    rondo__free(g->came);
    rondo__free(g->set);
    rondo__free(g->in);
    rondo__free(g->back);
    rondo__tree_free(&g->tree);
}

static int build(struct rondo__build *b)
{
    struct all g = { .b = b, .flow = b->survey->flow, .waiting = -1 };
    g.seats = g.flow->base.grid[0];
    g.teams = g.flow->base.grid[1];
    g.team = b->rank / g.seats;
    g.seat = b->rank % g.seats;
    g.sets = b->machine.in_place || g.seats == 1 ? g.seats : 2;
    g.own = seat_of(b->shape, g.seats, g.seat);
    find_shares(&g);
    if (g.own.heads) {
        b->head = (int32_t)g.own.head;
        b->heads = (int32_t)g.own.heads;
        b->kv_head = (int32_t)g.own.kv_head;
        b->kv_heads = (int32_t)g.own.kv_heads;
    }
    bool fine = allocate(&g) && find_arrivals(&g) && program(&g) && find_queries(&g);
    if (fine) {
        schedule(&g);
        fine = !b->schedule->failed;
    }
    release(&g);
    return fine ? 0 : rondo__build_failed();
}

/* A team's queries against all keys, by each seat for its heads. */
static bool pairs(const struct rondo__survey *s, const struct rondo__shape *shape, uint64_t *of_rank)
{
    const struct rondo__flow *f = s->flow;
    const int32_t n = s->roles.ranks, seats = f->grid[0], teams = f->grid[1];
    const bool alike = s->roles.mask.heads == 1;
    int32_t *class = rondo__alloc_zero((size_t)n, 2 * sizeof *class);
    uint64_t *cells = rondo__alloc_zero((size_t)teams, sizeof *cells);
    bool fine = class && cells;
    memset(of_rank, 0, (size_t)n * sizeof *of_rank);
    for (int32_t r = 0; r < n && fine; r++)
        class[r] = r / seats;
    for (int64_t head = 0; head < (alike ? 1 : shape->heads) && fine; head++) {
        fine = rondo__class_head_pairs(s, head, class, teams, class + n, 1, cells);
        for (int32_t r = 0; r < n && fine; r++) {
            const struct seat of = seat_of(shape, seats, r % seats);
            uint64_t more = alike ? (uint64_t)of.heads : head >= of.head && head < of.head + of.heads;
            if (__builtin_mul_overflow(more, cells[r / seats], &more) || __builtin_add_overflow(of_rank[r], more, &of_rank[r]))
                of_rank[r] = UINT64_MAX;
        }
    }
    rondo__free(class);
    rondo__free(cells);
    return fine;
}

const struct rondo__algorithm rondo__all_to_all = { RONDO_ALL_TO_ALL, "all-to-all", flow, build, pairs };
