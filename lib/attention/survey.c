/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Who computes, sends and waits for what: every rank goes through the queries of all ranks, so that both ends of a message know its
 * size and content without asking. Called by plan.c.
 *
 *   pass-KV (Algorithm 2): at step j a rank has the keys of rank (rank - j) mod N. Its program of the step computes the nodes that
 *   these complete; what still waits for a sibling lies in slots. Where the transport shows parcels in place there is nothing to
 *   hide behind computing, and a program for all keys needs no slots and visits each query once: all is computed in step 0. A rank's
 *   parcel holds the rows of K and V from the first to the last that any other rank's queries see, and travels as far as
 *   somebody needs it.
 *   pass-Q (Algorithms 3 and 4): at step j a rank has the queries of rank (rank - j) mod N, computes its own keys' maximal nodes
 *   for them and sends these back; their owner joins the nodes of all ranks (step N).
 *
 * The queries of a rank are taken span by span ("strips"), each with a tree of its own: an early strip of a zigzag layout sees few leaves,
 * so few nodes are kept or sent for it.
 */
#include "attention/attention.h"

/* Below this, more messages cost more than the memory is worth. */
#define GROUP_FLOOR 4e6

/* At most so many for the queries of a rank in a sequence; neighbours share one where there are more spans. */
#define STRIPS_MAX 8

struct survey {
    rondo_attention *plan;
    struct rondo__list all;                                 /* spans of a rank's queries */
    struct rondo__list spans, pieces, tags, rank_of;        /* of one strip */
    struct rondo__tree tree;
    int64_t *pending;        /* [ranks] pass-KV: rows of waiting nodes */
    int64_t *rows;           /* [ranks] query rows of the sequences so far */
    int64_t *hull;           /* [2 * ranks] pass-KV: rows of each rank's keys of this sequence that others see */
    int64_t *counts;         /* [ranks] */
    int64_t *pairs;          /* [ranks * ranks] pass-Q: rows of nodes from rank (second) for rank (first) */
};

static int no_memory(void)
{
    return rondo__fail(RONDO_ENOMEM, "rondo_attention_create: no memory for the plan's tables");
}

static int64_t count_rows(const struct rondo__list *spans)
{
    const rondo_span *s = spans->items;
    int64_t rows = 0;
    for (int64_t i = 0; i < spans->count; i++)
        rows += s[i].count;
    return rows;
}

int rondo__query_spans(const rondo_attention *plan, struct rondo__list *out, int64_t sequence, int32_t rank)
{
    const rondo_placement *place = plan->cached[sequence] < 0 ? plan->queries : plan->keys;
    int64_t from = plan->cached[sequence] < 0 ? 0 : plan->cached[sequence];
    int64_t shift = plan->cached[sequence] < 0 ? plan->cached[sequence] : 0;
    int64_t count = rondo_placement_spans(place, sequence, rank, from, NULL, 0);
    out->count = 0;
    if (count < 0)
        return (int)count;
    if (!count)
        return 0;
    rondo_span *s = rondo__list_add(out, sizeof *s, count);
    if (!s)
        return no_memory();
    rondo_placement_spans(place, sequence, rank, from, s, count);
    int64_t base = s[0].row;
    for (int64_t i = 0; i < count; i++) {
        s[i].first += shift;
        s[i].row -= base;
    }
    return 0;
}

/* How many strips the queries of a rank make; 0: it has none. */
static int strips_of(struct survey *s, int64_t sequence, int32_t rank, int64_t *strips)
{
    int err = rondo__query_spans(s->plan, &s->all, sequence, rank);
    *strips = s->all.count < STRIPS_MAX ? s->all.count : STRIPS_MAX;
    return err;
}

/* Spans, visible pieces and their tree for one strip; row: where it begins among the rank's rows of the sequence. */
static int look(struct survey *s, int64_t sequence, int64_t strip, int64_t strips, int64_t *row, int64_t *rows)
{
    rondo_attention *plan = s->plan;
    int64_t first = s->all.count * strip / strips, end = s->all.count * (strip + 1) / strips;
    s->spans.count = 0;
    rondo_span *spans = rondo__list_add(&s->spans, sizeof *spans, end - first);
    if (!spans)
        return no_memory();
    memcpy(spans, (const rondo_span *)s->all.items + first, (size_t)(end - first) * sizeof *spans);
    *row = spans[0].row;
    for (int64_t i = 0; i < end - first; i++)
        spans[i].row -= *row;
    *rows = count_rows(&s->spans);
    int err = rondo__pieces(&s->pieces, plan->keys, sequence, &plan->mask, spans, end - first);
    if (err)
        return err;
    s->tags.count = 0;
    if (!rondo__list_add(&s->tags, sizeof(int32_t), s->pieces.count + 1))
        return no_memory();
    rondo__tree_free(&s->tree);
    return rondo__tree_build(&s->tree, s->pieces.items, s->pieces.count, plan->ranks > 2 ? plan->ranks : 2);
}

/* A job with this rank's or another's spans, which are copied into the plan. */
static struct rondo__job *add_job(struct survey *s, int64_t sequence, int32_t step, int64_t q_row, int64_t q_rows, int64_t spans_first,
                                  const struct rondo__program *program)
{
    struct rondo__job *job = rondo__list_add(&s->plan->jobs, sizeof *job, 1);
    if (job)
        *job = (struct rondo__job){ .sequence = sequence, .q_row = q_row, .q_rows = q_rows, .spans_first = spans_first,
                                    .spans = (int32_t)s->spans.count, .steps_first = program->first, .steps = program->steps,
                                    .depth = program->depth, .step = step, .leaves_first = s->plan->leaves.count,
                                    .places_first = s->plan->places.count };
    return job;
}

static int keep_spans(struct survey *s, int64_t *first)
{
    *first = s->plan->spans.count;
    rondo_span *to = rondo__list_add(&s->plan->spans, sizeof *to, s->spans.count);
    if (!to)
        return no_memory();
    memcpy(to, s->spans.items, (size_t)s->spans.count * sizeof *to);
    return 0;
}

static int keep_blank(struct survey *s, int64_t sequence, int64_t q_row, int64_t q_rows)
{
    struct rondo__blank *b = rondo__list_add(&s->plan->blanks, sizeof *b, 1);
    if (!b)
        return no_memory();
    *b = (struct rondo__blank){ sequence, q_row, q_rows };
    return 0;
}

static void reach_at_least(struct survey *s, int32_t from, int32_t to)
{
    int32_t hops = (to - from + s->plan->ranks) % s->plan->ranks;
    if (s->plan->parcels[from].reach < hops)
        s->plan->parcels[from].reach = hops;
}

/* ---- pass-KV ---- */

static void tag_by_step(struct survey *s, int32_t rank)
{
    const struct rondo__piece *p = s->pieces.items;
    int32_t *tag = s->tags.items;
    for (int64_t i = 0; i < s->pieces.count; i++)
        tag[i] = s->plan->in_place ? 0 : (rank - p[i].rank + s->plan->ranks) % s->plan->ranks;
    rondo__tree_stages(&s->tree, tag);
}

/* A piece as this rank finds it: among its own rows of the sequence, or in a parcel, behind the sequences before. */
static struct rondo_leaf kv_leaf(const struct survey *s, const struct rondo__piece *p)
{
    const rondo_attention *plan = s->plan;
    struct rondo_leaf leaf = { .row = p->row, .first = p->first, .step = p->step, .count = p->count };
    if (p->rank != plan->rank) {
        leaf.row += plan->parcels[p->rank].rows - s->hull[2 * p->rank];
        leaf.source = plan->in_place ? (plan->rank - p->rank + plan->ranks) % plan->ranks : 0;
    }
    return leaf;
}

/* This rank's jobs for one strip: one for each step that brings keys which its queries see. */
static int kv_jobs(struct survey *s, int64_t sequence, int64_t q_row, int64_t rows)
{
    rondo_attention *plan = s->plan;
    int64_t spans_first, jobs = plan->jobs.count;
    if (!s->pieces.count)
        return keep_blank(s, sequence, q_row, rows);
    int err = keep_spans(s, &spans_first);
    if (err)
        return err;
    tag_by_step(s, plan->rank);
    const struct rondo__piece *p = s->pieces.items;
    const int32_t *tag = s->tags.items;
    for (int32_t j = 0; j < plan->ranks; j++) {
        struct rondo__program program;
        if (!rondo__tree_stage(&s->tree, j, false, &plan->steps, &program))
            return no_memory();
        if (!program.steps)
            continue;
        struct rondo__job *job = add_job(s, sequence, j, q_row, rows, spans_first, &program);
        struct rondo_leaf *leaf = rondo__list_add(&plan->leaves, sizeof *leaf, program.leaves);
        if (!job || !leaf)
            return no_memory();
        job->leaves = program.leaves;
        for (int64_t i = 0; i < s->pieces.count; i++)
            if (tag[i] == j)
                *leaf++ = kv_leaf(s, p + i);
    }
    int64_t slots = s->tree.slots, places_first = plan->places.count;
    struct rondo_place *place = rondo__list_add(&plan->places, sizeof *place, slots);
    if (slots && !place)
        return no_memory();
    for (int64_t i = 0; i < slots; i++)
        place[i] = (struct rondo_place){ plan->pending_rows + i * rows, 0, 0 };
    for (int64_t i = jobs; i < plan->jobs.count; i++) {
        struct rondo__job *job = (struct rondo__job *)plan->jobs.items + i;
        job->places_first = places_first;
        job->places = (int32_t)slots;
    }
    plan->pending_rows += slots * rows;
    return 0;
}

/* What one strip of rank's queries needs of the others, and how many of its nodes wait. */
static void kv_needs(struct survey *s, int32_t rank, int64_t rows)
{
    const struct rondo__piece *p = s->pieces.items;
    for (int64_t i = 0; i < s->pieces.count; i++) {
        if (p[i].rank == rank)
            continue;
        int64_t *hull = s->hull + 2 * p[i].rank;
        hull[0] = p[i].row < hull[0] ? p[i].row : hull[0];
        hull[1] = p[i].row + p[i].count > hull[1] ? p[i].row + p[i].count : hull[1];
        reach_at_least(s, p[i].rank, rank);
    }
    tag_by_step(s, rank);
    for (int32_t j = 0; j < s->plan->ranks; j++) {
        struct rondo__program program;
        rondo__tree_stage(&s->tree, j, false, NULL, &program);
    }
    s->pending[rank] += s->tree.slots * rows;
}

static int survey_kv(struct survey *s, int64_t sequence)
{
    rondo_attention *plan = s->plan;
    int64_t strips, row, rows;
    int err = 0;
    for (int32_t r = 0; r < plan->ranks; r++) {
        s->hull[2 * r] = INT64_MAX;
        s->hull[2 * r + 1] = 0;
    }
    for (int32_t rank = 0; rank < plan->ranks && plan->ranks > 1; rank++) {
        err = strips_of(s, sequence, rank, &strips);
        for (int64_t i = 0; i < strips && !err; i++) {
            err = look(s, sequence, i, strips, &row, &rows);
            if (!err)
                kv_needs(s, rank, rows);
        }
        if (err)
            return err;
    }
    err = strips_of(s, sequence, plan->rank, &strips);
    for (int64_t i = 0; i < strips && !err; i++) {
        err = look(s, sequence, i, strips, &row, &rows);
        if (!err)
            err = kv_jobs(s, sequence, s->rows[plan->rank] + row, rows);
    }
    if (err)
        return err;
    for (int32_t r = 0; r < plan->ranks; r++) {
        int64_t first = s->hull[2 * r];
        rows = s->hull[2 * r + 1] - first;
        if (rows < 0)
            first = rows = 0;
        if (r == plan->rank) {
            plan->parcel_first[2 * sequence] = first;
            plan->parcel_first[2 * sequence + 1] = rows;
        }
        plan->parcels[r].rows += rows;
    }
    return 0;
}

/* ---- pass-Q ---- */

static int q_join(struct survey *s, int64_t sequence, int64_t q_row, int64_t rows)
{
    rondo_attention *plan = s->plan;
    struct rondo__program program;
    s->rank_of.count = 0;
    if (!rondo__tree_join(&s->tree, &plan->steps, &program, &s->rank_of))
        return no_memory();
    int64_t spans_first;
    int err = keep_spans(s, &spans_first);
    if (err)
        return err;
    struct rondo__job *job = add_job(s, sequence, plan->ranks, q_row, rows, spans_first, &program);
    struct rondo_place *place = rondo__list_add(&plan->places, sizeof *place, s->rank_of.count);
    if (!job || !place)
        return no_memory();
    job->places = (int32_t)s->rank_of.count;
    /* nodes of a rank lie in their order in its message */
    const int32_t *rank_of = s->rank_of.items;
    memset(s->hull, 0, (size_t)plan->ranks * sizeof *s->hull);
    for (int64_t i = 0; i < s->rank_of.count; i++) {
        int32_t r = rank_of[i];
        place[i] = (struct rondo_place){ s->pairs[(int64_t)plan->rank * plan->ranks + r] + s->hull[r]++ * rows, r, 0 };
    }
    return 0;
}

static int q_nodes(struct survey *s, int64_t sequence, int32_t source, int64_t q_row, int64_t rows, bool alone)
{
    rondo_attention *plan = s->plan;
    const struct rondo__piece *p = s->pieces.items;
    int32_t *tag = s->tags.items;
    struct rondo__program program;
    int64_t spans_first;
    int err = keep_spans(s, &spans_first);
    if (err)
        return err;
    for (int64_t i = 0; i < s->pieces.count; i++)
        tag[i] = p[i].rank != plan->rank;
    rondo__tree_stages(&s->tree, tag);
    if (!rondo__tree_stage(&s->tree, 0, !alone, &plan->steps, &program))
        return no_memory();
    struct rondo__job *job = add_job(s, sequence, (plan->rank - source + plan->ranks) % plan->ranks, q_row, rows, spans_first, &program);
    struct rondo_leaf *leaf = rondo__list_add(&plan->leaves, sizeof *leaf, program.leaves);
    struct rondo_place *place = rondo__list_add(&plan->places, sizeof *place, program.stores);
    if (!job || !leaf || (program.stores && !place))
        return no_memory();
    job->leaves = program.leaves;
    job->places = program.stores;
    for (int64_t i = 0; i < s->pieces.count; i++)
        if (!tag[i])
            *leaf++ = (struct rondo_leaf){ .row = p[i].row, .first = p[i].first, .step = p[i].step, .count = p[i].count };
    for (int32_t i = 0; i < program.stores; i++)
        place[i] = (struct rondo_place){ s->pairs[(int64_t)source * plan->ranks + plan->rank] + i * rows, source, 0 };
    return 0;
}

/* One strip of source's queries. */
static int q_strip(struct survey *s, int64_t sequence, int32_t source, int64_t q_row, int64_t rows)
{
    rondo_attention *plan = s->plan;
    const struct rondo__piece *p = s->pieces.items;
    int32_t *tag = s->tags.items;
    bool alone = true;
    int err = 0;
    if (!s->pieces.count)
        return source == plan->rank ? keep_blank(s, sequence, q_row, rows) : 0;
    for (int64_t i = 0; i < s->pieces.count; i++) {
        tag[i] = p[i].rank;
        alone &= p[i].rank == source;
    }
    memset(s->counts, 0, (size_t)plan->ranks * sizeof *s->counts);
    rondo__tree_owners(&s->tree, tag, s->counts);
    if (source == plan->rank && !alone)
        err = q_join(s, sequence, q_row, rows);
    if (!err && s->counts[plan->rank])
        err = q_nodes(s, sequence, source, q_row, rows, alone);
    for (int32_t r = 0; r < plan->ranks && !alone; r++) {
        s->pairs[(int64_t)source * plan->ranks + r] += s->counts[r] * rows;
        if (r != source && s->counts[r])
            reach_at_least(s, source, r);
    }
    return err;
}

static int survey_q(struct survey *s, int64_t sequence)
{
    for (int32_t source = 0; source < s->plan->ranks; source++) {
        int64_t strips, row, rows;
        int err = strips_of(s, sequence, source, &strips);
        for (int64_t i = 0; i < strips && !err; i++) {
            err = look(s, sequence, i, strips, &row, &rows);
            if (!err)
                err = q_strip(s, sequence, source, s->rows[source] + row, rows);
        }
        if (err)
            return err;
    }
    return 0;
}

/* ---- what it all amounts to ---- */

/* The fewest groups with which the largest workspace of a rank stays below twice the largest q, k, v and out of a rank. */
static int32_t choose_groups(const struct survey *s)
{
    const rondo_attention *plan = s->plan;
    const rondo_attention_desc *d = &plan->desc;
    double q_row = (double)d->heads * (double)d->head_dim * (double)rondo_type_size(d->q_type);
    double out_row = (double)d->heads * (double)d->value_dim * (double)rondo_type_size(d->out_type);
    double kv_row = (double)d->kv_heads * (double)(d->head_dim + d->value_dim) * (double)rondo_type_size(d->kv_type);
    double node_row = (double)d->heads * (double)(d->value_dim + 2) * 4.0, parcel_row = d->algorithm == RONDO_PASS_Q ? q_row : kv_row;
    double need = 0.0, own = 0.0, parcel = 0.0;

    for (int32_t r = 0; r < plan->ranks; r++) {
        double keys = 0.0, nodes = (double)s->pending[r];
        for (int64_t i = 0; i < plan->sequences; i++)
            keys += (double)rondo_placement_held(plan->keys, i, r);
        for (int32_t other = 0; other < plan->ranks && d->algorithm == RONDO_PASS_Q; other++)
            nodes += (double)s->pairs[(int64_t)other * plan->ranks + r] +
                     (plan->in_place ? 0.0 : (double)s->pairs[(int64_t)r * plan->ranks + other]);
        double here = nodes * node_row, mine = (double)s->rows[r] * (q_row + out_row) + keys * kv_row;
        double sent = plan->parcels[r].reach ? (double)plan->parcels[r].rows * parcel_row : 0.0;
        need = here > need ? here : need;
        own = mine > own ? mine : own;
        parcel = sent > parcel ? sent : parcel;
    }
    need += plan->in_place ? parcel : 2.0 * parcel;
    int64_t groups = 1;
    while (groups < d->kv_heads && (d->kv_heads % groups || (need > GROUP_FLOOR && need / (double)groups > 2.0 * own)))
        groups++;
    return (int32_t)groups;
}

/* Messages of one group, in bytes that one rank sends. */
static void expect(const struct survey *s, const struct rondo__workspace *w)
{
    rondo_attention *plan = s->plan;
    rondo_attention_info *info = &plan->info;
    uint64_t per_row = (uint64_t)w->parcel_bytes[0] + w->parcel_bytes[1], parts = plan->desc.algorithm == RONDO_PASS_KV ? 2 : 1;
    uint64_t groups = (uint64_t)plan->groups;
    for (int32_t from = 0; from < plan->ranks; from++) {
        const struct rondo__parcel *p = plan->parcels + from;
        for (int32_t hop = 1; hop <= p->reach; hop++) {
            bool here = (from + hop - 1) % plan->ranks == plan->rank;
            uint64_t bytes = (uint64_t)p->rows * per_row * groups;
            info->messages_total += parts * groups;
            info->bytes_total += bytes;
            info->messages += here ? parts * groups : 0;
            info->bytes += here ? bytes : 0;
        }
        for (int32_t to = 0; to < plan->ranks && plan->desc.algorithm == RONDO_PASS_Q; to++) {
            uint64_t rows = (uint64_t)s->pairs[(int64_t)to * plan->ranks + from], bytes = rows * w->node_bytes * groups;
            if (!rows || to == from)
                continue;
            info->messages_total += groups;
            info->bytes_total += bytes;
            info->messages += from == plan->rank ? groups : 0;
            info->bytes += from == plan->rank ? bytes : 0;
        }
    }
}

/* Jobs in the order of their steps; within a step as they were made. */
static int sort_jobs(rondo_attention *plan)
{
    struct rondo__job *jobs = plan->jobs.items, *sorted = rondo__alloc((size_t)plan->jobs.count * sizeof *sorted);
    if (!sorted)
        return no_memory();
    int64_t *first = plan->job_first, steps = plan->ranks + 1;
    for (int64_t i = 0; i < plan->jobs.count; i++)
        first[jobs[i].step + 1]++;
    for (int64_t i = 0; i < steps; i++) {
        plan->jobs_most = first[i + 1] > plan->jobs_most ? first[i + 1] : plan->jobs_most;
        first[i + 1] += first[i];
    }
    for (int64_t i = 0; i < plan->jobs.count; i++)
        sorted[first[jobs[i].step]++] = jobs[i];
    for (int64_t i = steps; i > 0; i--)
        first[i] = first[i - 1];
    first[0] = 0;
    for (int64_t step = 0; step < steps; step++) {
        int64_t places = 0;
        for (int64_t i = first[step]; i < first[step + 1]; i++)
            places += sorted[i].places;
        plan->places_most = places > plan->places_most ? places : plan->places_most;
    }
    rondo__free(plan->jobs.items);
    plan->jobs.items = sorted;
    plan->jobs.room = plan->jobs.count;
    return 0;
}

int rondo__survey(rondo_attention *plan)
{
    struct survey s = { .plan = plan };
    size_t ranks = (size_t)plan->ranks, square = 0;
    bool q = plan->desc.algorithm == RONDO_PASS_Q;
    int err = 0;
    s.pending = rondo__alloc_zero(ranks, sizeof *s.pending);
    s.rows = rondo__alloc_zero(ranks, sizeof *s.rows);
    s.hull = rondo__alloc_zero(ranks, 2 * sizeof *s.hull);
    s.counts = rondo__alloc_zero(ranks, sizeof *s.counts);
    if (rondo__mul(ranks, ranks, &square))
        s.pairs = rondo__alloc_zero(q ? square : 0, sizeof *s.pairs);
    if (!s.pending || !s.rows || !s.hull || !s.counts || !s.pairs)
        err = no_memory();
    for (int64_t i = 0; i < plan->sequences && !err; i++) {
        err = q ? survey_q(&s, i) : survey_kv(&s, i);
        for (int32_t r = 0; r < plan->ranks && !err; r++) {
            err = rondo__query_spans(plan, &s.all, i, r);
            s.rows[r] += count_rows(&s.all);
        }
        plan->q_first[i + 1] = s.rows[plan->rank];
    }
    if (!err)
        err = sort_jobs(plan);
    if (!err) {
        for (int32_t r = 0; r < plan->ranks && q; r++) {
            plan->parcels[r].rows = s.rows[r];
            plan->rows_to[r] = s.pairs[(int64_t)r * plan->ranks + plan->rank];
            plan->rows_from[r] = s.pairs[(int64_t)plan->rank * plan->ranks + r];
        }
        plan->info.q_rows = s.rows[plan->rank];
        plan->groups = plan->desc.head_groups ? plan->desc.head_groups : choose_groups(&s);
        struct rondo__workspace w;
        if (rondo__workspace(plan, plan->groups, &w)) {
            plan->info.workspace_bytes = w.total;
            plan->info.pack_bytes = w.pack_bytes;
            expect(&s, &w);
        } else {
            err = rondo__fail(RONDO_ENOMEM, "rondo_attention_create: the workspace would be larger than memory can be");
        }
    }
    rondo__list_free(&s.all);
    rondo__list_free(&s.spans);
    rondo__list_free(&s.pieces);
    rondo__list_free(&s.tags);
    rondo__list_free(&s.rank_of);
    rondo__tree_free(&s.tree);
    rondo__free(s.pending);
    rondo__free(s.rows);
    rondo__free(s.hull);
    rondo__free(s.counts);
    rondo__free(s.pairs);
    return err;
}
