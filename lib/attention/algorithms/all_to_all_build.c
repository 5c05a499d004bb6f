/* SPDX-License-Identifier: BSD-2-Clause
 *
 * All-to-all over heads (all_to_all.c): one rank's program and schedule.
 *
 * Computing takes this rank's own queries from the caller's tensors and leaves their results there; those of the others of its team have
 * buffers, by "set": one for all of them, or, where each peer shows its own memory, one for each. The last step's results of others leave before
 * its own queries are computed.
 */
#include "attention/algorithms/all_to_all.h"

/* ---- one rank's program ---- */

/* Heads of a seat, and its KV heads that each have as many of them: what one job can be of. Numbers count within the seat. */
struct share {
    int32_t head, heads, kv_head, kv_heads;
};

/* Queries that one computation takes: of this rank, which is the last set; of one other of the team (in place), or of all others. */
struct set {
    int64_t rows;
    int32_t q, result[RONDO_SEAT_RESULTS];   /* buffers; -1: none */
};

struct all {
    struct rondo__build *b;
    const struct rondo__heads_flow *flow;
    int32_t seats, teams, team, seat, sets;
    struct rondo__seat own;
    struct share share[3];
    int32_t shares;
    struct rondo__maker maker;
    struct rondo__packer *packer;      /* [2 * seats] of queries, and of keys, for each seat */
    struct rondo__list sees, needs;
    struct rondo__list *need;          /* [sequences] direct: what the team needs of ranks; `at`: where it lies in their parcel */
    int64_t *came;                     /* [ranks] rows of the parcel that comes of each */
    int64_t *base;                     /* [ranks] where it lies among what comes in the same step */
    int64_t *step_rows;                /* [teams] rows that come in a step */
    int64_t *q_at, *q_next;            /* [seats] rows of a rank in its set; where those of the next strip lie */
    int64_t *job_first;                /* [teams * sets + 1]: jobs by step and set */
    int32_t *stage, *source;           /* [ranks], the maker's */
    struct set *set;
    int32_t (*in)[2];                  /* [ranks] K and V that came: by step; in place by rank */
    int32_t (*out)[2];                 /* [seats] K and V that go */
    int32_t (*back)[RONDO_SEAT_RESULTS];   /* [seats] results that came */
    int32_t *packed_q;                 /* [seats] */
    int32_t place[2][2];               /* by part: buffers that arrivals use in turn */
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
    const struct rondo__heads_flow *f = g->flow;
    const int32_t rank = g->b->rank;
    if (!g->own.heads)
        return true;
    for (int64_t i = 0; i < s->roles.sequences && f->direct; i++) {
        if (!rondo__team_needs(s, i, g->team, g->seats, rank, 0, s->roles.ranks, &g->sees, g->need + i))
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

/* Where the first row of another rank's piece lies among what came in a step. */
static int64_t row_of(void *arg, int64_t sequence, const struct rondo__piece *p, int64_t *next)
{
    const struct all *g = arg;
    const int64_t cell = sequence * g->b->survey->roles.ranks + p->rank;
    if (g->flow->direct)
        return g->base[p->rank] + rondo__need_row(g->need + sequence, p, next);
    return g->base[p->rank] + g->flow->at[cell] + p->row - g->flow->first[cell];
}

/* Jobs from `first` on are one for each share. */
static bool share_jobs(struct all *g, int64_t first)
{
    struct rondo__list *jobs = &g->b->tables->jobs, *step_of = &g->maker.step_of;
    const int64_t end = jobs->count;
    for (int32_t i = g->shares - 1; i >= 0 && g->shares > 1; i--) {   /* else all of the program's heads */
        const struct share *share = g->share + i;
        for (int64_t j = first; j < end; j++) {
            struct rondo_job *job = i ? rondo__list_add(jobs, sizeof *job, 1) : (struct rondo_job *)jobs->items + j;
            int32_t *step = i ? rondo__list_add(step_of, sizeof *step, 1) : (int32_t *)step_of->items + j;
            if (!job || !step)
                return false;
            *job = ((const struct rondo_job *)jobs->items)[j];
            *step = ((const int32_t *)step_of->items)[j];
            job->head = share->head;
            job->heads = share->heads;
            job->kv_head = share->kv_head;
            job->kv_heads = share->kv_heads;
        }
    }
    return true;
}

/* The jobs of one strip of a seat's rank: for each step that brings keys which its queries see. */
static bool strip_jobs(struct all *g, int64_t sequence, const struct rondo__strip *strip)
{
    const int32_t seat = strip->rank % g->seats;
    const int64_t q_row = seat == g->seat ? strip->row : g->q_next[seat], first = g->b->tables->jobs.count;
    if (!strip->sees)
        return true;
    g->q_next[seat] += strip->rows;
    return rondo__maker_look(&g->maker, sequence, strip) &&
           rondo__maker_jobs(&g->maker, sequence, strip, q_row, set_of_seat(g, seat), g->sets, 0, NULL) && share_jobs(g, first);
}

static bool program(struct all *g)
{
    const struct rondo__survey *s = g->b->survey;
    const bool in_place = g->b->machine.in_place;
    const int32_t n = s->roles.ranks;
    g->maker = (struct rondo__maker){ .b = g->b, .survey = s, .ranks = n, .stages = in_place ? 1 : g->teams, .stage = g->stage,
                                      .source = g->source, .row = row_of, .arg = g };
    rondo__maker_begin(&g->maker);
    for (int32_t r = 0; r < n; r++) {
        g->stage[r] = in_place ? 0 : step_of_rank(g, r);
        g->source[r] = in_place ? r : r != g->b->rank;
    }
    for (int64_t i = 0; i < s->roles.sequences && g->own.heads; i++) {
        int64_t strip, strips = rondo__team_strips(s, i, g->team, g->seats, &strip);
        for (int64_t j = strip; j < strip + strips; j++)
            if (!strip_jobs(g, i, rondo__strip_at(s, j)))
                return false;
    }
    return rondo__sort_jobs(g->b, &g->maker.step_of, g->teams * g->sets, g->job_first);
}

/* ---- the schedule: what leaves ---- */

/* This rank's rows for a team are put together, for each seat. */
static void collect_keys(struct all *g, int32_t team)
{
    struct rondo__schedule *s = g->b->schedule;
    const struct rondo__survey *v = g->b->survey;
    struct rondo__packer *packer = g->packer + g->seats;
    for (int32_t i = 0; i < g->seats; i++)
        rondo__pack_begin(packer + i);
    for (int64_t i = 0; i < v->roles.sequences && !s->failed; i++) {
        const int64_t cell = i * v->roles.ranks + g->b->rank;
        const struct rondo__need hull = { .row = g->flow->first[cell], .rows = g->flow->count[cell] }, *need = &hull;
        int64_t count = 1;
        if (g->flow->direct) {
            s->failed = !rondo__team_needs(v, i, team, g->seats, -1, g->b->rank, 1, &g->sees, &g->needs);
            need = g->needs.items;
            count = g->needs.count;
        }
        for (int64_t j = 0; j < count && !s->failed; j++)
            for (int32_t k = 0; k < g->seats; k++)
                rondo__pack_add(packer + k, i, need[j].row, need[j].rows);
    }
}

/* The rows of its queries that see something. */
static void collect_queries(struct all *g, struct rondo__packer *packer)
{
    const struct rondo__survey *s = g->b->survey;
    rondo__pack_begin(packer);
    for (int64_t i = 0; i < s->roles.sequences; i++) {
        int64_t strip, strips = rondo__strips_of(s, i, g->b->rank, &strip);
        for (int64_t j = strip; j < strip + strips; j++)
            rondo__pack_add(packer, i, rondo__strip_at(s, j)->row, rondo__strip_at(s, j)->sees ? rondo__strip_at(s, j)->rows : 0);
    }
}

/* What goes to the seats of a team; of queries in step 0. How many rows of keys: */
static int64_t pack(struct all *g, int32_t step)
{
    struct rondo__build *b = g->b;
    const int32_t team = (g->team + step) % g->teams;
    int32_t none[2];
    int64_t rows = 0;
    for (int32_t i = 1; i < g->seats && !step && !b->schedule->failed; i++) {
        const int32_t seat = seat_after(g, i);
        if (!g->packer[seat].heads)
            continue;
        collect_queries(g, g->packer + seat);
        rondo__pack_end(g->packer + seat, 0, seat, NULL, none);
        g->packed_q[seat] = none[0];
    }
    collect_keys(g, team);
    for (int32_t i = 0; i < g->seats && !b->schedule->failed; i++) {
        const int32_t seat = seat_after(g, i);
        struct rondo__packer *p = g->packer + g->seats + seat;
        rows = p->rows;
        g->out[seat][0] = g->out[seat][1] = -1;
        if (!p->heads)
            continue;
        if (i || step)
            rondo__pack_end(p, 0, team * g->seats + seat, NULL, g->out[seat]);
        else if (!g->flow->direct && g->came[b->rank])   /* its own go round with the team's */
            rondo__pack_into(p, 0, (int32_t[2]){ g->place[0][0], g->place[1][0] });
    }
    return b->schedule->failed ? 0 : rows;
}

/* ---- what comes, and computing ---- */

static const char *const result_names[RONDO_SEAT_RESULTS][2] = {
    { "out of others", "arriving out" }, { "lse of others", "arriving lse" }, { "stats of others", "arriving stats" }
};

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
        for (int j = 0; j < rondo__seat_results(b->shape); j++) {
            struct rondo__buffer buffer = { .name = result_names[j][0], .index = i, .owner = RONDO_OWNER_PLAN,
                                            .memory = rondo__compute_memory(b), .tensor = -1, .home = -1, .over = -1 };
            buffer.bytes = buffer.room = rondo__product(set->rows, rondo__seat_result_bytes(b->shape, j, g->own.heads));
            set->result[j] = rondo__buffer_add(b->schedule, buffer);
        }
    }
    if (g->maker.waiting_rows) {
        struct rondo__buffer w = { .name = "waiting nodes", .index = -1, .owner = RONDO_OWNER_PLAN, .memory = rondo__compute_memory(b),
                                   .tensor = -1, .home = -1, .over = -1 };
        w.bytes = w.room = rondo__product(g->maker.waiting_rows, rondo__node_bytes(b));
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
    const struct rondo__heads_flow *f = g->flow;
    const int32_t to_team = (g->team + step) % g->teams, from_team = (g->team - step + g->teams) % g->teams;
    const int64_t q_rows = step ? 0 : f->q_rows[b->rank], rows = pack(g, step);
    bool any = false;
    for (int32_t i = !step; i < g->seats; i++) {
        const int32_t from = from_team * g->seats + seat_after(g, i);
        any |= g->packer[seat_after(g, i)].heads && (rows || q_rows);
        any |= g->came[from] || (!step && g->own.heads && f->q_rows[from]);
    }
    if (!any || s->failed)
        return;
    const struct rondo__step name = { step ? "keys of a team" : "rows for heads", step, step ? g->teams - 1 : 0 };
    struct rondo__operation *o = rondo__schedule_begin(s, RONDO_TRANSFER, name, 0);
    o->operation = step ? RONDO_OP_SHIFT : RONDO_OP_ALL_TO_ALL;
    for (int32_t i = !step; i < g->seats && !s->failed; i++) {
        const int32_t seat = seat_after(g, i), to = to_team * g->seats + seat, from = from_team * g->seats + seat;
        const struct rondo__seat of = rondo__seat_of(b->shape, g->seats, seat);
        if (of.heads && q_rows)
            rondo__schedule_part(s, g->packed_q[seat], 0, rondo__product(q_rows, rondo__q_heads_bytes(b->shape, of.heads)), to, false);
        if (!step && g->own.heads && f->q_rows[from])
            rondo__schedule_part(s, g->set[set_of_seat(g, seat)].q, rondo__product(g->q_at[seat], rondo__q_row_bytes(b)),
                                 rondo__product(f->q_rows[from], rondo__q_row_bytes(b)), from, true);
        for (int part = 0; part < 2; part++) {
            const size_t row = rondo__kv_row_bytes(b, part);
            if (g->out[seat][part] >= 0)
                rondo__schedule_part(s, g->out[seat][part], 0, rondo__product(rows, rondo__kv_heads_bytes(b->shape, part, of.kv_heads)), to,
                                     false);
            if (g->came[from] && row)
                rondo__schedule_part(s, *arrival(g, step, from, part), rondo__product(g->base[from], row),
                                     rondo__product(g->came[from], row), from, true);
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
    const int32_t *result = g->set[set].result;
    const size_t q_bytes = own ? rondo__buffer_at(s, q)->bytes : rondo__product(g->set[set].rows, rondo__q_row_bytes(b));
    rondo__lower_compute(b, (struct rondo__step){ "attention", step, in_place ? 0 : g->teams - 1 }, 0, first, count, q, q_bytes, own);
    if (!own)
        rondo__lower_results(b, result[RONDO_SEAT_OUT], result[RONDO_SEAT_LSE], result[RONDO_SEAT_STATS]);
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

/* What comes back of a seat's heads, for this rank's rows. */
static size_t back_bytes(const struct all *g, int32_t seat, int result)
{
    const int64_t heads = rondo__seat_of(g->b->shape, g->seats, seat).heads;
    return rondo__product(g->flow->q_rows[g->b->rank], rondo__seat_result_bytes(g->b->shape, result, heads));
}

/* Where results of a seat's heads arrive: where the queries were that went there, if they are not larger. */
static int32_t result_arrival(struct all *g, int32_t seat, int result)
{
    struct rondo__build *b = g->b;
    struct rondo__schedule *s = b->schedule;
    const size_t bytes = back_bytes(g, seat, result);
    const int32_t buffer = rondo__lower_arrival(b, result_names[result][1], seat, bytes);
    if (!s->failed && result == RONDO_SEAT_OUT && !b->machine.in_place && rondo__buffer_at(s, g->packed_q[seat])->room >= bytes)
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
        for (int j = 0; j < rondo__seat_results(b->shape) && g->set[i].rows; j++) {
            g->set[i].result[j] = rondo__lower_send(b, g->set[i].result[j], 0, rondo__buffer_at(s, g->set[i].result[j])->bytes, 0);
            any = true;
        }
    for (int32_t i = 1; i < g->seats && g->flow->q_rows[b->rank] && !s->failed; i++)
        for (int j = 0; j < rondo__seat_results(b->shape) && rondo__seat_of(b->shape, g->seats, seat_after(g, i)).heads; j++) {
            g->back[seat_after(g, i)][j] = result_arrival(g, seat_after(g, i), j);
            any = true;
        }
    if (!any || s->failed)
        return;
    struct rondo__operation *o = rondo__schedule_begin(s, RONDO_TRANSFER, rondo__step_named("results for rows"), 0);
    o->operation = RONDO_OP_ALL_TO_ALL;
    for (int32_t i = 1; i < g->seats; i++) {
        const int32_t seat = seat_after(g, i), peer = g->team * g->seats + seat;
        const int64_t rows = g->own.heads ? g->flow->q_rows[peer] : 0;
        for (int j = 0; j < rondo__seat_results(b->shape) && !s->failed; j++) {
            const size_t row = rondo__seat_result_bytes(b->shape, j, g->own.heads);
            if (rows)
                rondo__schedule_part(s, g->set[set_of_seat(g, seat)].result[j], rondo__product(g->q_at[seat], row),
                                     rondo__product(rows, row), peer, false);
            if (g->back[seat][j] >= 0)
                rondo__schedule_part(s, g->back[seat][j], 0, back_bytes(g, seat, j), peer, true);
        }
    }
    rondo__schedule_end(s);
}

static void place_results(struct all *g)
{
    struct rondo__build *b = g->b;
    struct rondo__schedule *s = b->schedule;
    const struct rondo__survey *v = b->survey;
    const int32_t home[RONDO_SEAT_RESULTS] = { b->tensor[RONDO_TENSOR_OUT], b->tensor[RONDO_TENSOR_LSE], b->stats };
    for (int32_t i = 1; i < g->seats && g->flow->q_rows[b->rank] && !s->failed; i++) {
        const int32_t seat = seat_after(g, i);
        const struct rondo__seat of = rondo__seat_of(b->shape, g->seats, seat);
        if (!of.heads)
            continue;
        rondo__schedule_begin(s, RONDO_PACK, rondo__step_named("results"), 0);
        for (int j = 0; j < rondo__seat_results(b->shape); j++) {
            const size_t row = rondo__seat_result_bytes(b->shape, j, of.heads);
            size_t at = 0;
            for (int64_t k = 0; k < v->roles.sequences; k++) {
                int64_t strip, strips = rondo__strips_of(v, k, b->rank, &strip);
                for (int64_t l = strip; l < strip + strips; l++) {
                    const struct rondo__strip *t = rondo__strip_at(v, l);
                    if (!t->sees)
                        continue;
                    rondo__schedule_copy(s, (struct rondo__copy){ .from = g->back[seat][j], .to = home[j], .from_at = at, .sequence = k,
                                                                  .row = t->row, .rows = t->rows, .head = (int32_t)of.head,
                                                                  .heads = (int32_t)of.heads }, rondo__product(t->rows, row));
                    at += (size_t)t->rows * row;
                }
            }
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
        rondo__lower_fence(b, rondo__step_named("end of all-to-all"));
    if (!s->failed)
        rondo__lower_end(&whole);
}

/* ---- build ---- */

static bool allocate(struct all *g)
{
    struct rondo__build *b = g->b;
    const size_t ranks = (size_t)b->survey->roles.ranks, seats = (size_t)g->seats, teams = (size_t)g->teams, sets = (size_t)g->sets;
    struct rondo__arena *arena = b->survey->arena;
    g->sees = g->needs = rondo__list_of(arena);
    g->need = rondo__lists(arena, b->survey->roles.sequences);
    g->came = rondo__arena_zero(arena, 2 * ranks + 2 * seats + teams + teams * sets + 1, sizeof *g->came);
    g->set = rondo__arena_zero(arena, sets, sizeof *g->set);
    g->packer = rondo__arena_take(arena, 2 * seats * sizeof *g->packer);
    g->in = rondo__arena_take(arena, (ranks + seats) * sizeof *g->in + seats * sizeof *g->back + (seats + 2 * ranks) * sizeof(int32_t));
    if (!g->need || !g->came || !g->set || !g->packer || !g->in)
        return false;
    g->base = g->came + ranks;
    g->q_at = g->base + ranks;
    g->q_next = g->q_at + seats;
    g->step_rows = g->q_next + seats;
    g->job_first = g->step_rows + teams;
    g->out = g->in + ranks;
    g->back = (int32_t(*)[RONDO_SEAT_RESULTS])(void *)(g->out + seats);
    g->packed_q = (int32_t *)(void *)(g->back + seats);
    g->stage = g->packed_q + seats;
    g->source = g->stage + ranks;
    memset(g->in, 0xff, (ranks + seats) * sizeof *g->in + seats * (sizeof *g->back + sizeof *g->packed_q));
    memset(g->place, 0xff, sizeof g->place);
    for (size_t i = 0; i < sets; i++)
        memset(g->set[i].result, 0xff, sizeof g->set[i].result);
    for (size_t i = 0; i < seats; i++) {
        const struct rondo__seat of = rondo__seat_of(b->shape, g->seats, (int32_t)i);
        rondo__packer_begin(g->packer + i, b, RONDO_TENSOR_Q, of.head, of.heads);
        rondo__packer_begin(g->packer + seats + i, b, RONDO_TENSOR_K, of.kv_head, of.kv_heads);
    }
    return true;
}

int rondo__heads_build(struct rondo__build *b)
{
    struct all g = { .b = b, .flow = b->survey->flow, .waiting = -1 };
    g.seats = g.flow->base.grid[0];
    g.teams = g.flow->base.grid[1];
    g.team = b->rank / g.seats;
    g.seat = b->rank % g.seats;
    g.sets = b->machine.in_place || g.seats == 1 ? g.seats : 2;
    g.own = rondo__seat_of(b->shape, g.seats, g.seat);
    find_shares(&g);
    if (g.own.heads) {
        b->head = (int32_t)g.own.head;
        b->heads = (int32_t)g.own.heads;
        b->kv_head = (int32_t)g.own.kv_head;
        b->kv_heads = (int32_t)g.own.kv_heads;
    }
    bool fine = allocate(&g) && find_arrivals(&g) && program(&g);
    if (fine) {
        schedule(&g);
        fine = !b->schedule->failed;
    }
    return fine ? 0 : rondo__build_failed();
}
