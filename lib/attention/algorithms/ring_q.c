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

static void flow_free(void *flow)
{
    struct q_flow *f = flow;
    rondo__free(f->reach);
    rondo__free(f->nodes);
    rondo__free(f);
}

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

/* How many nodes each rank has for a strip. */
struct tally {
    int64_t *count;              /* [ranks], 0 but for those in `touched` */
    struct rondo__list touched;  /* int32_t */
    struct rondo__list pieces, owners;
    struct rondo__tree tree;
    bool alone;                  /* all that the strip sees is its own rank's */
};

static bool touch(struct tally *t, int32_t rank, int64_t nodes)
{
    if (!t->count[rank]) {
        int32_t *r = rondo__list_add(&t->touched, sizeof *r, 1);
        if (!r)
            return false;
        *r = rank;
    }
    t->count[rank] += nodes;
    return true;
}

/* In general: by the tree itself. */
static bool tally_tree(const struct rondo__survey *s, int64_t sequence, const struct rondo__strip *strip, struct tally *t)
{
    t->owners.count = 0;
    if (!rondo__pieces(s, sequence, rondo__strip_sees(s, strip), strip->sees, -1, &t->pieces) ||
        !rondo__list_add(&t->owners, sizeof(int32_t), t->pieces.count + 1) ||
        rondo__tree_build(&t->tree, t->pieces.items, t->pieces.count, 2))
        return false;
    const struct rondo__piece *p = t->pieces.items;
    int32_t *owner = t->owners.items;
    for (int64_t i = 0; i < t->pieces.count; i++) {
        owner[i] = p[i].rank;
        t->alone &= p[i].rank == strip->rank;
        if (!t->count[p[i].rank] && !touch(t, p[i].rank, 1))
            return false;
    }
    const int32_t *r = t->touched.items;
    for (int64_t i = 0; i < t->touched.count; i++)
        t->count[r[i]] = 0;
    rondo__tree_owners(&t->tree, owner, t->count);
    return true;
}

/* Of one interval of whole leaves: stretch by stretch, each between the leaves of two others. */
static bool tally_stretches(const struct rondo__survey *s, int64_t sequence, const struct rondo__strip *strip, struct tally *t)
{
    const struct rondo__sequence *q = s->sequence + sequence;
    const struct rondo__stretch *stretch = (const struct rondo__stretch *)s->stretches.items + q->stretches_first;
    const struct rondo__interval *v = rondo__strip_sees(s, strip);
    const int64_t lo = v->lo / s->roles.leaf, hi = (v->hi - 1) / s->roles.leaf + 1;
    for (int64_t j = rondo__stretch_find(stretch, q->stretches, lo), next; j < q->stretches && stretch[j].first < hi; j = next) {
        for (next = j + 1; next < q->stretches && stretch[next].rank == stretch[j].rank; next++)
            ;
        int64_t first = stretch[j].first > lo ? stretch[j].first : lo, end = stretch[next - 1].end < hi ? stretch[next - 1].end : hi;
        t->alone &= stretch[j].rank == strip->rank;
        if (!touch(t, stretch[j].rank, rondo__nodes_between(first, end, first > lo ? first - 1 : -1, end < hi ? end : -1)))
            return false;
    }
    return true;
}

static bool tally_nodes(const struct rondo__survey *s, int64_t sequence, const struct rondo__strip *strip, struct tally *t)
{
    t->alone = true;
    return strip->sees == 1 && !s->sequence[sequence].fragments ? tally_stretches(s, sequence, strip, t) : tally_tree(s, sequence, strip, t);
}

static void tally_clear(struct tally *t)
{
    const int32_t *r = t->touched.items;
    for (int64_t i = 0; i < t->touched.count; i++)
        t->count[r[i]] = 0;
    t->touched.count = 0;
}

static void tally_free(struct tally *t)
{
    rondo__free(t->count);
    rondo__list_free(&t->touched);
    rondo__list_free(&t->pieces);
    rondo__list_free(&t->owners);
    rondo__tree_free(&t->tree);
}

static bool measure(const struct rondo__survey *s, struct q_flow *f)
{
    struct tally t = { .count = rondo__alloc_zero((size_t)s->roles.ranks, sizeof *t.count) };
    bool fine = t.count != NULL;
    for (int64_t i = 0; i < s->roles.sequences && fine; i++) {
        const struct rondo__sequence *q = s->sequence + i;
        for (int64_t j = q->strips_first; j < q->strips_first + q->strips && fine; j++) {
            const struct rondo__strip *strip = rondo__strip_at(s, j);
            if (!strip->sees)
                continue;
            fine = tally_nodes(s, i, strip, &t);
            const int32_t *r = t.touched.items;
            for (int64_t k = 0; k < t.touched.count && fine && !t.alone; k++) {
                f->nodes[cell(f, s, strip->rank, r[k])] += t.count[r[k]] * strip->rows;
                if (r[k] == strip->rank)
                    continue;
                f->strips[cell(f, s, strip->rank, r[k])] += strip->rows;
                if (f->reach[strip->rank] < rondo__hops(s, strip->rank, r[k]))
                    f->reach[strip->rank] = rondo__hops(s, strip->rank, r[k]);
            }
            tally_clear(&t);
        }
    }
    tally_free(&t);
    return fine;
}

static int flow(struct rondo__survey *s, const struct rondo__shape *shape, const struct rondo__machine *machine)
{
    const int32_t n = s->roles.ranks;
    struct q_flow *f = rondo__alloc_zero(1, sizeof *f);
    size_t cells;
    if (!f)
        return rondo__build_failed();
    s->flow = f;
    s->flow_free = flow_free;
    f->reach = rondo__alloc_zero((size_t)n, 2 * sizeof *f->reach);
    if (!f->reach)
        return rondo__build_failed();
    f->source_of = f->reach + n;
    f->flight = 1;
    for (int32_t r = 0; r < n; r++)
        f->source_of[r] = s->output_rows[r] ? f->sources++ : -1;
    if (rondo__mul((size_t)f->sources, (size_t)n, &cells) && cells <= SIZE_MAX / 4)
        f->nodes = rondo__alloc_zero(2 * cells, sizeof *f->nodes);
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
    double *nodes = rondo__alloc_zero((size_t)n, sizeof *nodes);
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
    rondo__free(nodes);
    f->base.need += machine->in_place ? parcel : 2.0 * parcel;
    return 0;
}

/* ---- one rank's program ---- */

struct ring {
    struct rondo__build *b;
    const struct q_flow *flow;
    struct rondo__list pieces, tags, rank_of;
    struct rondo__tree tree;
    struct tally tally;
    uint64_t *wanted;         /* direct: [own strips][words]: the ranks on which a strip of this rank's sees something */
    int64_t words;
    int64_t *row_of;          /* [ranks] rows so far in the parcel that came from a source */
    int64_t *node_rows;       /* [ranks] of nodes so far: for a source */
    int64_t *join_rows;       /* [ranks] from a rank, for this one */
    int64_t *job_first;       /* [ranks + 2]: jobs by step; step `ranks` is the join */
    struct rondo__list step_of;
    /* The last nodes that were made: strips that see the same of this rank share leaves and steps. */
    struct rondo__list shared;        /* their pieces */
    struct rondo_job last;
    int32_t last_stores;
    bool last_keeps;
};

static bool same_pieces(const struct rondo__list *a, const struct rondo__list *b)
{
    return a->count == b->count && !memcmp(a->items, b->items, (size_t)a->count * sizeof(struct rondo__piece));
}

/* The owner's program that joins everybody's nodes for a strip. */
static bool join(struct ring *g, int64_t sequence, const struct rondo__strip *strip)
{
    struct rondo__build *b = g->b;
    const struct rondo__survey *s = b->survey;
    struct rondo__program program;
    int64_t spans_first;
    g->tags.count = g->rank_of.count = 0;
    if (!rondo__pieces(s, sequence, rondo__strip_sees(s, strip), strip->sees, -1, &g->pieces) ||
        !rondo__list_add(&g->tags, sizeof(int32_t), g->pieces.count + 1) ||
        rondo__tree_build(&g->tree, g->pieces.items, g->pieces.count, 2))
        return false;
    int32_t *owner = g->tags.items;
    for (int64_t i = 0; i < g->pieces.count; i++)
        owner[i] = ((const struct rondo__piece *)g->pieces.items)[i].rank;
    rondo__tree_owners(&g->tree, owner, NULL);
    if (!rondo__tree_join(&g->tree, &b->tables->steps, &program, &g->rank_of) || !rondo__add_spans(b, strip, &spans_first))
        return false;
    struct rondo_job *job = rondo__add_job(b, sequence, strip, strip->row, spans_first, &program);
    struct rondo_place *place = rondo__add_places(b, g->rank_of.count);
    int32_t *step = rondo__list_add(&g->step_of, sizeof *step, 1);
    if (!job || !place || !step)
        return false;
    *step = s->roles.ranks;
    job->places = (int32_t)g->rank_of.count;
    /* nodes of a rank lie in their order in its message */
    const int32_t *rank_of = g->rank_of.items;
    for (int64_t i = 0; i < g->rank_of.count; i++) {
        place[i] = (struct rondo_place){ g->join_rows[rank_of[i]], rank_of[i], 0 };
        g->join_rows[rank_of[i]] += strip->rows;
    }
    return true;
}

/* This rank's nodes for a strip of a source, into the message for that source; or, where the strip sees nothing else, the result. */
static bool nodes(struct ring *g, int64_t sequence, const struct rondo__strip *strip, int64_t q_row, bool alone)
{
    struct rondo__build *b = g->b;
    const struct rondo__survey *s = b->survey;
    struct rondo__program program;
    int64_t spans_first;
    if (!rondo__add_spans(b, strip, &spans_first))
        return false;
    const bool again = g->shared.count && g->last_keeps == !alone && g->last.sequence == sequence && same_pieces(&g->shared, &g->pieces);
    if (again) {
        program = (struct rondo__program){ .first = g->last.steps_first, .steps = g->last.steps, .depth = g->last.depth,
                                           .leaves = g->last.leaves, .stores = g->last_stores };
    } else {
        g->tags.count = 0;
        if (!rondo__list_add(&g->tags, sizeof(int32_t), g->pieces.count + 1) ||
            rondo__tree_build(&g->tree, g->pieces.items, g->pieces.count, 1))
            return false;
        int32_t *tag = g->tags.items;
        for (int64_t i = 0; i < g->pieces.count; i++)
            tag[i] = ((const struct rondo__piece *)g->pieces.items)[i].rank < 0;
        rondo__tree_stages(&g->tree, tag, !alone);
        if (!rondo__tree_stage(&g->tree, 0, &b->tables->steps, &program))
            return false;
    }
    struct rondo_job *job = rondo__add_job(b, sequence, strip, q_row, spans_first, &program);
    struct rondo_place *place = rondo__add_places(b, program.stores);
    int32_t *step = rondo__list_add(&g->step_of, sizeof *step, 1);
    if (!job || (program.stores && !place) || !step)
        return false;
    *step = rondo__hops(s, strip->rank, b->rank);
    job->places = program.stores;
    for (int32_t i = 0; i < program.stores; i++) {
        place[i] = (struct rondo_place){ g->node_rows[strip->rank], strip->rank, 0 };
        g->node_rows[strip->rank] += strip->rows;
    }
    if (again) {
        job->leaves_first = g->last.leaves_first;
        return true;
    }
    struct rondo_leaf *leaf = rondo__add_leaves(b, program.leaves);
    if (program.leaves && !leaf)
        return false;
    const struct rondo__piece *p = g->pieces.items;
    for (int64_t i = 0; i < g->pieces.count; i++)
        if (p[i].rank >= 0)
            *leaf++ = (struct rondo_leaf){ .row = p[i].row, .first = p[i].first, .count = p[i].count, .step = p[i].step };
    g->last = *job;
    g->last_stores = program.stores;
    g->last_keeps = !alone;
    struct rondo__list swap = g->shared;
    g->shared = g->pieces;
    g->pieces = swap;
    return true;
}

/* Whether nobody else has nodes for a strip. */
static bool all_own(const struct rondo__strip *strip, const struct rondo__list *pieces)
{
    const struct rondo__piece *p = pieces->items;
    for (int64_t i = 0; i < pieces->count; i++)
        if (p[i].rank != strip->rank)
            return false;
    return true;
}

static bool strip_jobs(struct ring *g, int64_t sequence, const struct rondo__strip *strip)
{
    struct rondo__build *b = g->b;
    const int32_t source = strip->rank;
    const bool mine = source == b->rank;
    const int64_t q_row = mine ? strip->row : g->row_of[source];
    if (!strip->sees) {
        g->row_of[source] += g->flow->direct ? 0 : strip->rows;
        return true;
    }
    if (!rondo__pieces(b->survey, sequence, rondo__strip_sees(b->survey, strip), strip->sees, b->rank, &g->pieces))
        return false;
    const struct rondo__piece *p = g->pieces.items;
    int64_t own = 0;
    for (int64_t i = 0; i < g->pieces.count; i++)
        own += p[i].rank >= 0;
    /* in a ring all rows of a source come, in their order; else the strips that see something here */
    g->row_of[source] += !g->flow->direct || own ? strip->rows : 0;
    const bool alone = mine && all_own(strip, &g->pieces);
    return (!own || nodes(g, sequence, strip, q_row, alone)) && (!mine || alone || join(g, sequence, strip));
}

/* Which ranks want which of this rank's strips, where some want a part of them. */
static bool find_wanted(struct ring *g)
{
    const struct rondo__survey *s = g->b->survey;
    int64_t own = 0, first;
    size_t words;
    bool parts = false;
    for (int32_t r = 0; r < s->roles.ranks; r++) {
        const int64_t rows = rows_for(g->flow, s, g->b->rank, r);
        parts |= rows && rows < s->output_rows[g->b->rank];
    }
    if (!parts)
        return true;
    for (int64_t i = 0; i < s->roles.sequences; i++)
        own += rondo__strips_of(s, i, g->b->rank, &first);
    g->words = (s->roles.ranks + 63) / 64;
    g->wanted = rondo__mul((size_t)own, (size_t)g->words, &words) ? rondo__alloc_zero(words, sizeof *g->wanted) : NULL;
    g->tally.count = rondo__alloc_zero((size_t)s->roles.ranks, sizeof *g->tally.count);
    uint64_t *at = g->wanted;
    bool fine = g->wanted && g->tally.count;
    for (int64_t i = 0; i < s->roles.sequences && fine; i++)
        for (int64_t j = 0, n = rondo__strips_of(s, i, g->b->rank, &first); j < n && fine; j++, at += g->words) {
            const struct rondo__strip *strip = rondo__strip_at(s, first + j);
            if (!strip->sees)
                continue;
            fine = tally_nodes(s, i, strip, &g->tally);
            const int32_t *r = g->tally.touched.items;
            for (int64_t k = 0; k < g->tally.touched.count; k++)
                at[r[k] / 64] |= (uint64_t)1 << r[k] % 64;
            tally_clear(&g->tally);
        }
    return fine;
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
    return rondo__sort_jobs(g->b, &g->step_of, g->b->survey->roles.ranks + 1, g->job_first);
}

/* ---- the schedule ---- */

struct wires {
    int32_t places[2];        /* ring: in turn */
    int32_t packed;           /* this rank's Q, all of it */
    int32_t packed_for;       /* direct: the head group for which it is packed already; -1: none */
    int32_t *sent;            /* [ranks] by step: direct: Q for a rank */
    int32_t *came;            /* [ranks] by step: Q that came */
    int32_t *nodes;           /* [ranks] nodes for a source: to be sent */
    int32_t *back;            /* [ranks] nodes from a rank: come back */
    int64_t nodes_list, back_list;   /* where they stand in the schedule's list, for all computations; -1: not yet */
};

/* This rank's Q: all of it (to -1), or the strips that see something on rank `to`. */
static int32_t pack(struct ring *g, int32_t to, int32_t group, int32_t index, int32_t over, int32_t known)
{
    struct rondo__build *b = g->b;
    struct rondo__schedule *s = b->schedule;
    const struct rondo__survey *v = b->survey;
    const size_t row = rondo__q_row_bytes(b);
    const int32_t tensor = b->tensor[RONDO_TENSOR_Q];
    struct rondo__list runs = { 0 };
    const uint64_t *wanted = g->wanted;
    int64_t rows = 0;
    for (int64_t i = 0; i < v->roles.sequences && !s->failed; i++) {
        int64_t strip, strips = rondo__strips_of(v, i, b->rank, &strip);
        for (int64_t j = strip; j < strip + strips && !s->failed; j++) {
            const struct rondo__strip *t = rondo__strip_at(v, j);
            struct rondo__copy *last = runs.count ? (struct rondo__copy *)runs.items + runs.count - 1 : NULL;
            const bool leaves = to < 0 || wanted[to / 64] >> to % 64 & 1;
            wanted += to < 0 ? 0 : g->words;
            if (!leaves)
                continue;
            if (last && last->sequence == i && last->row + last->rows == t->row) {
                last->rows += t->rows;
            } else {
                struct rondo__copy *c = rondo__list_add(&runs, sizeof *c, 1);
                if (c)
                    *c = (struct rondo__copy){ .from = tensor, .sequence = i, .row = t->row, .rows = t->rows, .to_at = (size_t)rows * row };
                else
                    s->failed = true;
            }
            rows += t->rows;
        }
    }
    if (known < 0 && !s->failed) {
        struct rondo__buffer buffer = { .name = "packed q", .index = index, .owner = RONDO_OWNER_PLAN, .memory = rondo__transfer_memory(b),
                                        .tensor = -1, .bytes = rondo__product(rows, row), .over = over,
                                        .home = b->machine.unified ? tensor : -1 };
        buffer.room = buffer.bytes;
        buffer.spare = over < 0 && buffer.home >= 0 && b->groups == 1;
        known = rondo__buffer_add(s, buffer);
    }
    struct rondo__operation *o = rondo__schedule_begin(s, RONDO_PACK, (struct rondo__step){ "q", 0, 0 }, group);
    o->elides = 1;
    for (int64_t i = 0; i < runs.count && !s->failed; i++) {
        struct rondo__copy c = ((const struct rondo__copy *)runs.items)[i];
        c.to = known;
        rondo__schedule_copy(s, c, (size_t)c.rows * row);
    }
    rondo__schedule_end(s);
    rondo__list_free(&runs);
    return known;
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
            w->packed = pack(g, -1, group, -1, -1, w->packed);
        w->packed_for = group;
        out = w->packed;
    } else if (out_rows && g->flow->direct) {
        out = w->sent[step] = pack(g, to, group, step, -1, w->sent[step]);
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
    rondo__lower_compute(b, joins ? (struct rondo__step){ "join", 0, 0 } : (struct rondo__step){ "attention", step, n - 1 }, group, first, count,
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
        struct rondo__buffer nodes = { .name = "nodes for rank", .index = r, .owner = RONDO_OWNER_PLAN, .memory = rondo__compute_memory(b),
                                       .tensor = -1, .home = -1, .over = -1 };
        nodes.bytes = nodes.room = rondo__product(nodes_of(g->flow, v, r, b->rank), node);
        if (nodes.bytes)
            w->nodes[r] = rondo__buffer_add(b->schedule, nodes);
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
        w->packed = pack(g, -1, group, -1, over ? place : -1, w->packed);
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
        rondo__lower_fence(b, (struct rondo__step){ "end of pass-Q", 0, 0 });
}

static void schedule(struct ring *g)
{
    struct rondo__build *b = g->b;
    const size_t n = (size_t)b->survey->roles.ranks;
    struct wires w = { .places = { -1, -1 }, .packed = -1, .packed_for = -1, .nodes_list = -1, .back_list = -1, .sent = rondo__alloc(5 * n * sizeof *w.sent) };
    if (!w.sent) {
        b->schedule->failed = true;
        return;
    }
    memset(w.sent, 0xff, 5 * n * sizeof *w.sent);
    w.came = w.sent + n;
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
    rondo__free(w.sent);
}

static int build(struct rondo__build *b)
{
    const size_t n = (size_t)b->survey->roles.ranks;
    struct ring g = { .b = b, .flow = b->survey->flow };
    g.row_of = rondo__alloc_zero(4 * n + 3, sizeof *g.row_of);
    bool fine = g.row_of && (!g.flow->direct || find_wanted(&g));
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
    rondo__free(g.row_of);
    rondo__free(g.wanted);
    tally_free(&g.tally);
    rondo__list_free(&g.pieces);
    rondo__list_free(&g.tags);
    rondo__list_free(&g.rank_of);
    rondo__list_free(&g.step_of);
    rondo__list_free(&g.shared);
    rondo__tree_free(&g.tree);
    return fine ? 0 : rondo__build_failed();
}

static bool pairs(const struct rondo__survey *s, const struct rondo__shape *shape, uint64_t *of_rank)
{
    return rondo__tile_pairs(s, shape, 1, of_rank);
}

const struct rondo__algorithm rondo__ring_q = { RONDO_PASS_Q, "pass-Q", flow, build, pairs };
