/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Attention probabilities of some queries, behind whatever algorithm has computed their output. That leaves the M and l of each row with the
 * row's owner ("stats"), sinks and all; so a probability is the weight of one score, scaled, and no sum is left to do: keys come once more
 * (K alone, just the rows that these queries see, straight from whoever has them), in steps behind computing, or all at once where the
 * transport shows them in place. A program of its own, because its jobs have no tree. Called by lower.c; the plan's flow includes it.
 */
#include "attention/algorithms/algorithms.h"

struct probs {
    struct rondo__build *b;            /* the forward's, with the survey of these queries and tables of its own */
    struct rondo__list sees, pieces, rows;
    struct rondo__list *needs;         /* [sequences] */
    int64_t *came;                     /* [ranks] rows of the parcel from a rank */
    int64_t *job_first;                /* [ranks + 1] jobs by step */
    struct rondo__list step_of;
    int32_t *in;                       /* [ranks] by step: the buffer that came, as computing sees it */
    struct rondo__packer packer;
};

static int32_t hops_to(const struct probs *g, int32_t rank)
{
    return rondo__hops(g->b->survey, rank, g->b->rank);
}

/* ---- what all ranks together move ---- */

int rondo__probs_flow(const struct rondo__survey *s, const struct rondo__shape *shape, struct rondo__flow *out)
{
    struct rondo__list sees = rondo__list_of(s->arena), needs = rondo__list_of(s->arena);
    const uint64_t row = rondo__kv_heads_bytes(shape, 0, shape->kv_heads);
    const int32_t n = s->roles.ranks;
    int64_t *rows = rondo__arena_zero(s->arena, (size_t)n, sizeof *rows);
    bool fine = rows != NULL;
    *out = (struct rondo__flow){ .messages = 0 };
    for (int32_t rank = 0; rank < n && fine && n > 1; rank++) {
        memset(rows, 0, (size_t)n * sizeof *rows);
        for (int64_t i = 0; i < s->roles.sequences && fine; i++) {
            fine = rondo__rank_needs(s, i, rank, -1, &sees, &needs);
            for (int64_t j = 0; j < needs.count && fine; j++)
                rows[((const struct rondo__need *)needs.items)[j].rank] += ((const struct rondo__need *)needs.items)[j].rows;
        }
        for (int32_t r = 0; r < n && fine; r++) {
            out->messages += rows[r] > 0;
            out->bytes += (uint64_t)rows[r] * row;
            out->need = 2.0 * (double)rows[r] * (double)row > out->need ? 2.0 * (double)rows[r] * (double)row : out->need;
        }
    }
    return fine ? 0 : rondo__build_failed();
}

/* ---- jobs ---- */

static bool find_needs(struct probs *g)
{
    const struct rondo__survey *s = g->b->survey;
    for (int64_t i = 0; i < s->roles.sequences; i++) {
        if (!rondo__rank_needs(s, i, g->b->rank, -1, &g->sees, g->needs + i))
            return false;
        struct rondo__need *need = g->needs[i].items;
        for (int64_t j = 0; j < g->needs[i].count; j++) {
            need[j].at = g->came[need[j].rank];
            g->came[need[j].rank] += need[j].rows;
        }
    }
    return true;
}

/* One job for each step that brings keys which the strip sees; in place one for all. */
static bool strip_jobs(struct probs *g, int64_t sequence, const struct rondo__strip *strip)
{
    struct rondo__build *b = g->b;
    const struct rondo__survey *s = b->survey;
    const int32_t n = s->roles.ranks;
    int64_t spans_first, *row = NULL;
    if (!strip->sees)
        return true;
    if (!rondo__pieces(s, sequence, rondo__strip_sees(s, strip), strip->sees, -1, &g->pieces) || !rondo__add_spans(b, strip, &spans_first))
        return false;
    const struct rondo__piece *p = g->pieces.items;
    row = rondo__list_set(&g->rows, sizeof *row, g->pieces.count + 1);
    int64_t next = 0;
    for (int64_t i = 0; i < g->pieces.count && row; i++)
        row[i] = p[i].rank == b->rank ? p[i].row : rondo__need_row(g->needs + sequence, p + i, &next);
    bool fine = row != NULL;
    for (int32_t j = 0; j < (b->machine.in_place ? 1 : n) && fine; j++) {
        int64_t leaves = 0;
        for (int64_t i = 0; i < g->pieces.count; i++)
            leaves += b->machine.in_place || hops_to(g, p[i].rank) == j;
        if (!leaves)
            continue;
        const struct rondo__program program = { .first = b->tables->steps.count, .leaves = (int32_t)leaves };
        struct rondo_job *job = rondo__add_job(b, sequence, strip, strip->row, spans_first, &program);
        struct rondo_leaf *leaf = rondo__add_leaves(b, leaves);
        int32_t *step = rondo__list_add(&g->step_of, sizeof *step, 1);
        fine = job && leaf && step;
        if (!fine)
            break;
        *step = j;
        job->operation = RONDO_JOB_PROBABILITIES;
        for (int64_t i = 0; i < g->pieces.count; i++)
            if (b->machine.in_place || hops_to(g, p[i].rank) == j)
                *leaf++ = (struct rondo_leaf){ .row = row[i], .first = p[i].first, .count = p[i].count, .step = p[i].step,
                                               .source = b->machine.in_place ? hops_to(g, p[i].rank) : 0 };
    }
    return fine;
}

static bool program(struct probs *g)
{
    const struct rondo__survey *s = g->b->survey;
    for (int64_t i = 0; i < s->roles.sequences; i++) {
        int64_t strip, strips = rondo__strips_of(s, i, g->b->rank, &strip);
        for (int64_t j = strip; j < strip + strips; j++)
            if (!strip_jobs(g, i, rondo__strip_at(s, j)))
                return false;
    }
    return rondo__sort_jobs(g->b, &g->step_of, s->roles.ranks, g->job_first);
}

/* ---- the schedule ---- */

/* This rank's rows of K that rank `to` needs, packed into *out; how many. */
static int64_t pack(struct probs *g, int32_t step, int32_t to, int32_t group, int32_t *out)
{
    const struct rondo__survey *v = g->b->survey;
    struct rondo__list needs = rondo__list_of(v->arena);
    int32_t buffers[2];
    rondo__pack_begin(&g->packer);
    for (int64_t i = 0; i < v->roles.sequences; i++) {
        if (!rondo__rank_needs(v, i, to, g->b->rank, &g->sees, &needs))
            g->b->schedule->failed = true;
        for (int64_t j = 0; j < needs.count && !g->b->schedule->failed; j++) {
            const struct rondo__need *need = (const struct rondo__need *)needs.items + j;
            rondo__pack_add(&g->packer, i, need->row, need->rows);
        }
    }
    const int64_t rows = rondo__pack_end(&g->packer, group, step, NULL, buffers);
    *out = buffers[0];
    return rows;
}

static void transfer(struct probs *g, int32_t step, int32_t group, const int32_t places[2], int32_t *shown)
{
    struct rondo__build *b = g->b;
    struct rondo__schedule *s = b->schedule;
    const int32_t n = b->survey->roles.ranks, from = (b->rank - step + n) % n, to = (b->rank + step) % n;
    const size_t row = rondo__kv_row_bytes(b, 0);
    int32_t packed;
    const int64_t out_rows = pack(g, step, to, group, &packed), rows = g->came[from];
    if ((!rows && !out_rows) || s->failed)
        return;
    struct rondo__operation *o = rondo__schedule_begin(s, RONDO_TRANSFER, (struct rondo__step){ "k for probabilities", step, n - 1 }, group);
    o->operation = RONDO_OP_SHIFT;
    if (out_rows)
        rondo__schedule_part(s, packed, 0, rondo__product(out_rows, row), to, false);
    if (rows && b->machine.in_place && shown[step] < 0)
        shown[step] = rondo__lower_arrival(b, "k for probabilities of rank", from, rondo__product(rows, row));
    const int32_t in = !rows ? -1 : b->machine.in_place ? shown[step] : places[step % 2];
    if (rows)
        rondo__schedule_part(s, in, 0, rondo__product(rows, row), from, true);
    rondo__schedule_end(s);
    if (rows)
        g->in[step] = rondo__lower_received(b, in, rondo__product(rows, row), group);
}

static void compute(struct probs *g, int32_t step, int32_t group)
{
    struct rondo__build *b = g->b;
    struct rondo__schedule *s = b->schedule;
    const int32_t n = b->survey->roles.ranks, probs = b->tensor[RONDO_TENSOR_PROBS];
    const bool all = b->machine.in_place;
    const int64_t first = g->job_first[step], count = (all ? b->tables->jobs.count : g->job_first[step + 1]) - first;
    if (!count || s->failed)
        return;
    struct rondo__operation *o =
        rondo__lower_compute(b, (struct rondo__step){ "probabilities", all ? 0 : step, all ? 0 : n - 1 }, group, first, count,
                             b->tensor[RONDO_TENSOR_Q], rondo__buffer_at(s, b->tensor[RONDO_TENSOR_Q])->bytes, false);
    o->program = 1;
    o->stats = b->stats;
    rondo__schedule_use(s, b->stats, 0, rondo__buffer_at(s, b->stats)->bytes, false);
    rondo__schedule_use(s, probs, 0, rondo__buffer_at(s, probs)->bytes, true);
    for (int32_t j = all ? 0 : step; j < (all ? n : step + 1); j++)
        rondo__lower_source(b, j ? g->in[j] : b->tensor[RONDO_TENSOR_K], -1, j ? g->came[(b->rank - j + n) % n] : -1);
    rondo__schedule_end(s);
}

/* All rows are 0 before the first job. */
static void blank(struct probs *g)
{
    struct rondo__build *b = g->b;
    struct rondo__schedule *s = b->schedule;
    const int32_t homes[2] = { b->tensor[RONDO_TENSOR_PROBS], b->outside[RONDO_TENSOR_PROBS] };
    struct rondo__operation *o = rondo__schedule_begin(s, RONDO_BLANK, rondo__step_named("probabilities"), -1);
    for (int h = 0; h < (homes[0] == homes[1] ? 1 : 2) && !s->failed; h++) {
        rondo__schedule_use(s, homes[h], 0, rondo__buffer_at(s, homes[h])->bytes, true);
        for (int64_t i = 0; i < b->survey->roles.sequences; i++) {
            const int64_t rows = rondo__rows_here(b->survey, i, b->rank);
            struct rondo__blank *at = rows ? rondo__list_add(&s->blanks, sizeof *at, 1) : NULL;
            if (at)
                *at = (struct rondo__blank){ i, 0, rows, homes[h], 0 };
            s->failed |= rows && !at;
            o->count += rows > 0;
        }
    }
    rondo__schedule_end(s);
}

static void schedule(struct probs *g)
{
    struct rondo__build *b = g->b;
    struct rondo__schedule *s = b->schedule;
    const int32_t n = b->survey->roles.ranks;
    int32_t places[2] = { -1, -1 }, *shown = rondo__arena_take(b->survey->arena, (size_t)n * sizeof *shown);
    int64_t most = 0, arrivals = 0;
    if (!shown) {
        s->failed = true;
        return;
    }
    memset(shown, 0xff, (size_t)n * sizeof *shown);
    for (int32_t r = 0; r < n; r++) {
        most = g->came[r] > most ? g->came[r] : most;
        arrivals += g->came[r] > 0;
    }
    for (int32_t i = 0; i < 2 && arrivals && !b->machine.in_place; i++)
        places[i] = i && arrivals < 2 ? places[0] : rondo__lower_arrival(b, "arriving k for probabilities", i,
                                                                         rondo__product(most, rondo__kv_row_bytes(b, 0)));
    if (b->tensor[RONDO_TENSOR_PROBS] >= 0)
        blank(g);
    for (int32_t group = 0; group < b->groups && !s->failed; group++) {
        for (int32_t j = 0; j < n; j++) {
            if (j + 1 < n)
                transfer(g, j + 1, group, places, shown);
            if (!b->machine.in_place)
                compute(g, j, group);
        }
        if (b->machine.in_place)
            compute(g, 0, group);
        if (b->probs_messages)
            rondo__lower_fence(b, rondo__step_named("end of probabilities"));
    }
}

void rondo__add_probs(struct rondo__build *forward)
{
    struct rondo__build b = *forward;
    struct rondo__shape shape = *forward->shape;
    shape.shared_kv = true;   /* there is no v to send */
    b.shape = &shape;
    b.survey = forward->probs;
    b.tables = forward->probs_tables;
    b.head = b.kv_head = 0;   /* all heads of its own rows, whatever the forward pass computes here */
    b.heads = (int32_t)b.shape->heads / b.groups;
    b.kv_heads = (int32_t)b.shape->kv_heads / b.groups;
    const size_t n = (size_t)b.survey->roles.ranks;
    struct rondo__arena *arena = b.survey->arena;
    const struct rondo__list empty = rondo__list_of(arena);
    struct probs g = { .b = &b, .sees = empty, .pieces = empty, .rows = empty, .step_of = empty };
    rondo__packer_begin(&g.packer, &b, RONDO_TENSOR_K, 0, 0);
    g.needs = rondo__lists(arena, b.survey->roles.sequences);
    g.came = rondo__arena_zero(arena, 2 * n + 1, sizeof *g.came);
    g.in = rondo__arena_take(arena, n * sizeof *g.in);
    bool fine = g.needs && g.came && g.in;
    if (fine) {
        memset(g.in, 0xff, n * sizeof *g.in);
        g.job_first = g.came + n;
        fine = find_needs(&g) && program(&g);
    }
    if (fine)
        schedule(&g);
    else
        b.schedule->failed = true;
}
