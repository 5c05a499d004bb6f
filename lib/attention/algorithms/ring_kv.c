/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Ring pass-KV: Algorithm 2 of arXiv:2411.01783. Queries stay; K and V move. At step j a rank has the keys of rank (rank - j) mod N and
 * computes with them while those of the next step come: N - 1 transfers, each behind a step's work. Its program of the step computes the
 * nodes of the canonical tree that these keys complete; what still waits for a sibling lies in a buffer. So the order in which keys come
 * does not reach the result.
 *
 *   ring     a rank's parcel, from the first to the last row that any other rank's queries see, goes from rank to rank as far as somebody
 *            needs it. There is no padding.
 *   direct   where a window or small messages make that a waste (rondo__goes_direct), rank (rank - j) sends just the rows that this one's
 *            queries see and do not hold.
 *
 * Where the transport shows memory in place there is nothing to hide behind computing, and a program for all keys needs no waiting nodes
 * and visits each query once: all is shown first, and one computation takes it.
 */
#include "attention/algorithms/algorithms.h"

/* Ranks whose waiting nodes are counted to know how many there are; of more ranks so many, evenly apart. */
#define SAMPLES 16

struct kv_flow {
    struct rondo__flow base;
    bool direct;
    int32_t *reach;        /* [ranks] ring: the last hop that anybody needs; 0: it stays */
    int64_t *rows;         /* [ranks] ring: of a parcel */
    int64_t *first, *at;   /* [sequences][ranks] ring: the first row of the sequence in the parcel; where that lies in it */
    int64_t *count;        /* [sequences][ranks] ring: and how many */
    int64_t most;          /* rows of the largest parcel that goes anywhere */
};

static void flow_free(void *flow)
{
    struct kv_flow *f = flow;
    rondo__free(f->reach);
    rondo__free(f->rows);
    rondo__free(f);
}

/* ---- what all ranks together move ---- */

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* Hulls and reaches of the ring, and rows and messages of direct transfers. */
static bool measure(const struct rondo__survey *s, struct kv_flow *f, uint64_t *direct_rows, uint64_t *pairs)
{
    struct rondo__list sees = { 0 }, needs = { 0 };
    const int32_t n = s->roles.ranks;
    int64_t *seen_by = rondo__alloc_zero((size_t)n, sizeof *seen_by);   /* the last rank, and 1, that was found to need a rank's rows */
    bool fine = seen_by != NULL;
    *direct_rows = *pairs = 0;
    for (int32_t rank = 0; rank < n && fine; rank++)
        for (int64_t i = 0; i < s->roles.sequences && fine; i++) {
            int64_t *first = f->first + i * n, *end = f->count + i * n;
            fine = rondo__rank_needs(s, i, rank, -1, &sees, &needs);
            const struct rondo__need *need = needs.items;
            for (int64_t j = 0; j < needs.count && fine; j++) {
                const int32_t r = need[j].rank;
                first[r] = end[r] ? min64(first[r], need[j].row) : need[j].row;
                end[r] = max64(end[r], need[j].row + need[j].rows);
                *direct_rows += (uint64_t)need[j].rows;
                *pairs += seen_by[r] != rank + 1;
                seen_by[r] = rank + 1;
                f->reach[r] = rondo__hops(s, r, rank) > f->reach[r] ? rondo__hops(s, r, rank) : f->reach[r];
            }
        }
    rondo__free(seen_by);
    rondo__list_free(&sees);
    rondo__list_free(&needs);
    return fine;
}

static void tag_by_step(const struct rondo__survey *s, int32_t rank, const struct rondo__list *pieces, int32_t *tag)
{
    const struct rondo__piece *p = pieces->items;
    for (int64_t i = 0; i < pieces->count; i++)
        tag[i] = rondo__hops(s, p[i].rank, rank);
}

/* Rows of nodes that wait on a rank. */
static bool count_waiting(const struct rondo__survey *s, int32_t rank, int64_t *rows)
{
    struct rondo__list pieces = { 0 }, tags = { 0 };
    struct rondo__tree tree = { 0 };
    bool fine = true;
    *rows = 0;
    for (int64_t i = 0; i < s->roles.sequences && fine; i++) {
        int64_t strip, strips = rondo__strips_of(s, i, rank, &strip);
        for (int64_t j = strip; j < strip + strips && fine; j++) {
            const struct rondo__strip *t = rondo__strip_at(s, j);
            tags.count = 0;
            fine = rondo__pieces(s, i, rondo__strip_sees(s, t), t->sees, -1, &pieces) &&
                   rondo__list_add(&tags, sizeof(int32_t), pieces.count + 1) &&
                   !rondo__tree_build(&tree, pieces.items, pieces.count, s->roles.ranks);
            if (!fine)
                break;
            tag_by_step(s, rank, &pieces, tags.items);
            rondo__tree_stages(&tree, tags.items, false);
            for (int32_t step = 0; step < s->roles.ranks; step++) {
                struct rondo__program program;
                rondo__tree_stage(&tree, step, NULL, &program);
            }
            *rows += tree.slots * t->rows;
        }
    }
    rondo__tree_free(&tree);
    rondo__list_free(&pieces);
    rondo__list_free(&tags);
    return fine;
}

static int flow(struct rondo__survey *s, const struct rondo__shape *shape, const struct rondo__machine *machine)
{
    const int32_t n = s->roles.ranks;
    const size_t ranks = (size_t)n, table = (size_t)s->roles.sequences;
    struct kv_flow *f = rondo__alloc_zero(1, sizeof *f);
    size_t cells;
    if (!f)
        return rondo__build_failed();
    s->flow = f;
    s->flow_free = flow_free;
    f->reach = rondo__alloc_zero(ranks, sizeof *f->reach);
    if (rondo__mul(3 * table + 1, ranks, &cells))
        f->rows = rondo__alloc_zero(cells, sizeof *f->rows);
    if (!f->reach || !f->rows)
        return rondo__build_failed();
    f->first = f->rows + ranks;
    f->at = f->first + table * ranks;
    f->count = f->at + table * ranks;
    if (n == 1)
        return 0;

    uint64_t direct_rows, pairs, ring_rows = 0, ring_messages = 0;
    if (!measure(s, f, &direct_rows, &pairs))
        return rondo__build_failed();
    const uint64_t row = rondo__shape_kv_bytes(shape);
    for (int32_t r = 0; r < n; r++) {
        for (int64_t i = 0; i < s->roles.sequences; i++) {
            int64_t *end = f->count + i * n + r;
            *end = *end ? *end - f->first[i * n + r] : 0;
            f->at[i * n + r] = f->rows[r];
            f->rows[r] += *end;
        }
        ring_rows += (uint64_t)f->rows[r] * (uint64_t)f->reach[r];
        ring_messages += (uint64_t)f->reach[r];
        f->most = max64(f->most, f->reach[r] ? f->rows[r] : 0);
    }
    f->direct = rondo__goes_direct(ring_rows * row, direct_rows * row, (double)f->most * (double)row);
    f->base.messages = (shape->shared_kv ? 1 : 2) * (f->direct ? pairs : ring_messages);
    f->base.bytes = row * (f->direct ? direct_rows : ring_rows);

    const double node_row = (double)shape->heads * (double)shape->node_width * 4.0, parcel = (double)f->most * (double)row;
    for (int32_t r = 0; r < n; r++) {
        double own = rondo__own_bytes(s, shape, r);
        f->base.own = own > f->base.own ? own : f->base.own;
    }
    for (int32_t i = 0; i < (n < SAMPLES ? n : SAMPLES) && !machine->in_place; i++) {
        int64_t rows;
        if (!count_waiting(s, n < SAMPLES ? i : (int32_t)((int64_t)i * n / SAMPLES), &rows))
            return rondo__build_failed();
        f->base.need = (double)rows * node_row > f->base.need ? (double)rows * node_row : f->base.need;
    }
    f->base.need += machine->in_place ? parcel : 2.0 * parcel;
    return 0;
}

/* ---- one rank's program and schedule ---- */

struct ring {
    struct rondo__build *b;
    const struct kv_flow *flow;
    struct rondo__list sees, pieces, tags, order, rows;
    struct rondo__tree tree;
    struct rondo__list *needs;         /* [sequences] what this rank needs of others; `at`: where it lies in their parcel for it */
    int64_t *came;                     /* [ranks] rows so far of the parcels for this rank */
    struct rondo__list step_of;        /* int32_t for each job as they are made */
    int64_t waiting_rows;
    int64_t *job_first;                /* [ranks + 1]: jobs by step */
    int32_t waiting;                   /* buffer of nodes */
    /* [ranks] by step: buffers of what came, K and V; own: 0 */
    int32_t (*came_in)[2];
};

static int32_t step_of_rank(const struct ring *g, int32_t rank)
{
    return rondo__hops(g->b->survey, rank, g->b->rank);
}

/* Where the piece's first row lies: among this rank's rows of the sequence, or in the parcel that it came in. */
static int64_t row_of(const struct ring *g, int64_t sequence, const struct rondo__piece *p, int64_t *next)
{
    const int64_t cell = sequence * g->b->survey->roles.ranks + p->rank;
    if (p->rank == g->b->rank)
        return p->row;
    if (!g->flow->direct)
        return g->flow->at[cell] + p->row - g->flow->first[cell];
    return rondo__need_row(g->needs + sequence, p, next);
}

/* Pieces in the order of their steps, each step's by rising index: `order`. job_first, which jobs need only later, says where each begins. */
static bool order_pieces(struct ring *g)
{
    const int32_t n = g->b->survey->roles.ranks;
    const int32_t *tag = g->tags.items;
    g->order.count = 0;
    int32_t *order = rondo__list_add(&g->order, sizeof *order, g->pieces.count + 1);
    if (!order)
        return false;
    memset(g->job_first, 0, ((size_t)n + 1) * sizeof *g->job_first);
    for (int64_t i = 0; i < g->pieces.count; i++)
        g->job_first[tag[i] + 1]++;
    for (int32_t j = 0; j < n; j++)
        g->job_first[j + 1] += g->job_first[j];
    for (int64_t i = 0; i < g->pieces.count; i++)
        order[g->job_first[tag[i]]++] = (int32_t)i;
    memmove(g->job_first + 1, g->job_first, (size_t)n * sizeof *g->job_first);
    g->job_first[0] = 0;
    return true;
}

/* The jobs of one strip: one for each step that brings keys which its queries see. */
static bool strip_jobs(struct ring *g, int64_t sequence, const struct rondo__strip *strip)
{
    struct rondo__build *b = g->b;
    const struct rondo__survey *s = b->survey;
    const int32_t n = s->roles.ranks;
    int64_t spans_first;
    if (!strip->sees)
        return true;
    g->tags.count = 0;
    if (!rondo__pieces(s, sequence, rondo__strip_sees(s, strip), strip->sees, -1, &g->pieces) ||
        !rondo__list_add(&g->tags, sizeof(int32_t), g->pieces.count + 1) || !rondo__add_spans(b, strip, &spans_first) ||
        rondo__tree_build(&g->tree, g->pieces.items, g->pieces.count, n))
        return false;
    int32_t *tag = g->tags.items;
    const struct rondo__piece *p = g->pieces.items;
    tag_by_step(s, b->rank, &g->pieces, tag);
    g->rows.count = 0;
    int64_t *row = rondo__list_add(&g->rows, sizeof *row, g->pieces.count + 1), next = 0;
    if (!row)
        return false;
    for (int64_t i = 0; i < g->pieces.count; i++)
        row[i] = row_of(g, sequence, p + i, &next);
    if (b->machine.in_place)
        memset(tag, 0, (size_t)g->pieces.count * sizeof *tag);
    rondo__tree_stages(&g->tree, tag, false);
    if (!order_pieces(g))
        return false;
    const int32_t *order = g->order.items;
    const int64_t jobs = b->tables->jobs.count, places_first = b->tables->places.count;
    for (int32_t j = 0; j < n; j++) {
        struct rondo__program program;
        if (!rondo__tree_stage(&g->tree, j, &b->tables->steps, &program))
            return false;
        if (!program.steps)
            continue;
        struct rondo_job *job = rondo__add_job(b, sequence, strip, strip->row, spans_first, &program);
        struct rondo_leaf *leaf = rondo__add_leaves(b, program.leaves);
        int32_t *step = rondo__list_add(&g->step_of, sizeof *step, 1);
        if (!job || (program.leaves && !leaf) || !step)
            return false;
        *step = j;
        for (int64_t i = g->job_first[j]; i < g->job_first[j + 1]; i++) {
            const struct rondo__piece *at = p + order[i];
            *leaf++ = (struct rondo_leaf){ .row = row[order[i]], .first = at->first, .count = at->count, .step = at->step,
                                           .source = b->machine.in_place ? step_of_rank(g, at->rank) : 0 };
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

/* What this rank needs of each of the others, in the order in which it lies in their parcels for it: sequence by sequence, rising. */
static bool find_needs(struct ring *g)
{
    const struct rondo__survey *s = g->b->survey;
    for (int64_t i = 0; i < s->roles.sequences && g->flow->direct; i++) {
        if (!rondo__rank_needs(s, i, g->b->rank, -1, &g->sees, g->needs + i))
            return false;
        struct rondo__need *need = g->needs[i].items;
        for (int64_t j = 0; j < g->needs[i].count; j++) {
            need[j].at = g->came[need[j].rank];
            g->came[need[j].rank] += need[j].rows;
        }
    }
    for (int32_t r = 0; r < s->roles.ranks && !g->flow->direct; r++)
        g->came[r] = r != g->b->rank && step_of_rank(g, r) <= g->flow->reach[r] ? g->flow->rows[r] : 0;
    return true;
}

static bool program(struct ring *g)
{
    const struct rondo__survey *s = g->b->survey;
    for (int64_t i = 0; i < s->roles.sequences; i++) {
        int64_t strip, strips = rondo__strips_of(s, i, g->b->rank, &strip);
        for (int64_t j = strip; j < strip + strips; j++)
            if (!strip_jobs(g, i, rondo__strip_at(s, j)))
                return false;
    }
    return rondo__sort_jobs(g->b, &g->step_of, g->b->survey->roles.ranks, g->job_first);
}

/* ---- the schedule ---- */

static struct rondo__step named(const struct ring *g, int32_t step)
{
    return (struct rondo__step){ "pass-KV", step, g->b->survey->roles.ranks - 1 };
}

/* Rows of this rank that a step of a direct transfer sends, or all of its parcel (to -1): packed, unless they lie as they travel. `over`: a
 * buffer whose place will do, or -1. Returns how many rows. */
static int64_t pack(struct ring *g, int32_t to, int32_t group, int32_t index, const int32_t over[2], int32_t out[2])
{
    struct rondo__build *b = g->b;
    struct rondo__schedule *s = b->schedule;
    const struct rondo__survey *v = b->survey;
    struct rondo__list needs = { 0 };
    struct rondo__list runs = { 0 };
    int64_t rows = 0;
    for (int64_t i = 0; i < v->roles.sequences; i++) {
        const int64_t cell = i * v->roles.ranks + b->rank;
        struct rondo__need one = { .row = g->flow->first[cell], .rows = g->flow->count[cell] };
        const struct rondo__need *need = &one;
        int64_t count = 1;
        if (to >= 0) {
            s->failed |= !rondo__rank_needs(v, i, to, b->rank, &g->sees, &needs);
            need = needs.items;
            count = needs.count;
        }
        for (int64_t j = 0; j < count && !s->failed; j++) {
            struct rondo__copy *last = runs.count ? (struct rondo__copy *)runs.items + runs.count - 1 : NULL;
            if (!need[j].rows)
                continue;
            if (last && last->sequence == i && last->row + last->rows == need[j].row) {
                last->rows += need[j].rows;
            } else {
                struct rondo__copy *c = rondo__list_add(&runs, sizeof *c, 1);
                if (c)
                    *c = (struct rondo__copy){ .sequence = i, .row = need[j].row, .rows = need[j].rows, .to_at = (size_t)rows };
                else
                    s->failed = true;
            }
            rows += need[j].rows;
        }
    }
    const struct rondo__copy *run = runs.items;
    for (int part = 0; part < 2 && rows && !s->failed; part++) {
        const size_t row = rondo__kv_row_bytes(b, part), bytes = rondo__product(rows, row);
        const int32_t tensor = b->tensor[RONDO_TENSOR_K + part];
        if (!row)
            continue;
        if (out[part] < 0) {
            struct rondo__buffer buffer = { .name = part ? "packed v" : "packed k", .index = index, .owner = RONDO_OWNER_PLAN,
                                            .memory = rondo__transfer_memory(b), .tensor = -1, .bytes = bytes, .room = bytes, .over = over[part],
                                            .home = b->machine.unified ? tensor : -1 };
            /* rows of one sequence and all heads are dense unless the caller's tensors have gaps: no place is kept for them */
            buffer.spare = over[part] < 0 && buffer.home >= 0 && b->groups == 1 && runs.count == 1;
            out[part] = rondo__buffer_add(s, buffer);
        }
        struct rondo__operation *o = rondo__schedule_begin(s, RONDO_PACK, (struct rondo__step){ part ? "v" : "k", 0, 0 }, group);
        o->elides = 1;
        for (int64_t i = 0; i < runs.count; i++) {
            struct rondo__copy c = run[i];
            c.from = tensor;
            c.to = out[part];
            c.to_at *= row;
            rondo__schedule_copy(s, c, (size_t)c.rows * row);
        }
        rondo__schedule_end(s);
    }
    rondo__list_free(&needs);
    rondo__list_free(&runs);
    return rows;
}

/* Computes a step, or all of them (in place). */
static void compute(struct ring *g, int32_t step, int32_t group)
{
    struct rondo__build *b = g->b;
    const bool all = b->machine.in_place;
    const int64_t first = g->job_first[step], count = (all ? b->tables->jobs.count : g->job_first[step + 1]) - first;
    if (!count || b->schedule->failed)
        return;
    const int32_t n = b->survey->roles.ranks, own[2] = { b->tensor[RONDO_TENSOR_K], b->tensor[RONDO_TENSOR_V] };
    rondo__lower_compute(b, all ? (struct rondo__step){ "attention", 0, 0 } : (struct rondo__step){ "attention", step, n - 1 }, group, first,
                         count, b->tensor[RONDO_TENSOR_Q], rondo__buffer_at(b->schedule, b->tensor[RONDO_TENSOR_Q])->bytes, true);
    for (int32_t j = all ? 0 : step; j < (all ? n : step + 1); j++)
        rondo__lower_source(b, j ? g->came_in[j][0] : own[0], j ? g->came_in[j][1] : own[1], j ? g->came[(b->rank - j + n) % n] : -1);
    if (g->waiting >= 0) {
        rondo__schedule_nodes(b->schedule, g->waiting);
        rondo__schedule_use(b->schedule, g->waiting, 0, rondo__buffer_at(b->schedule, g->waiting)->bytes, true);
    }
    rondo__schedule_end(b->schedule);
}

/* Whether, and with what, hop `hop` of the ring leaves this rank. */
static bool sends(const struct ring *g, int32_t hop)
{
    const int32_t n = g->b->survey->roles.ranks;
    return g->flow->reach[(g->b->rank - hop + 1 + n) % n] >= hop;
}

/* Transfer `step`: to the next rank what has arrived before, or to rank + step what it needs; places: two of each part that are used in
 * turn, where nothing is shown in place. */
static void transfer(struct ring *g, int32_t step, int32_t group, int32_t places[2][2], int32_t packed[2], int32_t (*shown)[2])
{
    struct rondo__build *b = g->b;
    struct rondo__schedule *s = b->schedule;
    const int32_t n = b->survey->roles.ranks, from = (b->rank - step + n) % n, to = g->flow->direct ? (b->rank + step) % n : (b->rank + 1) % n;
    const int64_t rows = g->came[from];
    int32_t out[2], in[2];
    int64_t out_rows = 0;
    if (g->flow->direct) {
        static const int32_t nowhere[2] = { -1, -1 };
        int32_t *kept = packed + 2 * step;
        out_rows = pack(g, to, group, step, nowhere, kept);
        memcpy(out, kept, sizeof out);
    } else if (sends(g, step)) {
        if (step == 1) {
            memcpy(out, packed, sizeof out);
            out_rows = g->flow->rows[b->rank];
        } else {
            out_rows = g->came[(b->rank - step + 1 + n) % n];
            for (int part = 0; part < 2; part++)
                out[part] = b->machine.in_place ? shown[step - 1][part] : places[part][(step - 1) % 2];
        }
    }
    if (!rows && !out_rows)
        return;
    struct rondo__operation *o = rondo__schedule_begin(s, RONDO_TRANSFER, named(g, step), group);
    o->operation = RONDO_OP_SHIFT;
    for (int part = 0; part < 2 && !s->failed; part++) {
        const size_t row = rondo__kv_row_bytes(b, part);
        if (!row)
            continue;
        if (rows && b->machine.in_place && shown[step][part] < 0)
            shown[step][part] = rondo__lower_arrival(b, part ? "v of rank" : "k of rank", from, rondo__product(rows, row));
        in[part] = rows ? b->machine.in_place ? shown[step][part] : places[part][step % 2] : -1;
        if (out_rows)
            rondo__schedule_part(s, out[part], 0, rondo__product(out_rows, row), to, false);
        if (rows)
            rondo__schedule_part(s, in[part], 0, rondo__product(rows, row), g->flow->direct ? from : (b->rank - 1 + n) % n, true);
    }
    rondo__schedule_end(s);
    for (int part = 0; part < 2 && rows && rondo__kv_row_bytes(b, part); part++)
        g->came_in[step][part] = rondo__lower_received(b, in[part], rondo__product(rows, rondo__kv_row_bytes(b, part)), group);
}

/* Two places of each part, which arrivals use in turn; one, where there is one arrival. */
static void make_places(struct ring *g, int32_t places[2][2])
{
    struct rondo__build *b = g->b;
    int64_t most = 0, arrivals = 0;
    for (int32_t r = 0; r < b->survey->roles.ranks; r++) {
        most = max64(most, g->came[r]);
        arrivals += g->came[r] > 0;
    }
    for (int part = 0; part < 2 && !b->machine.in_place && rondo__kv_row_bytes(b, part); part++)
        for (int32_t i = 0; i < 2 && arrivals; i++)
            places[part][i] = i && arrivals < 2 ? places[part][0]
                                                : rondo__lower_arrival(b, part ? "arriving v" : "arriving k", i,
                                                                       rondo__product(most, rondo__kv_row_bytes(b, part)));
}

static void schedule(struct ring *g)
{
    struct rondo__build *b = g->b;
    struct rondo__schedule *s = b->schedule;
    const int32_t n = b->survey->roles.ranks;
    int32_t places[2][2] = { { -1, -1 }, { -1, -1 } }, *packed = rondo__alloc((size_t)n * 2 * sizeof *packed);
    int32_t (*shown)[2] = rondo__alloc((size_t)n * sizeof *shown);
    if (!packed || !shown) {
        s->failed = true;
    } else {
        memset(packed, 0xff, (size_t)n * 2 * sizeof *packed);
        memset(shown, 0xff, (size_t)n * sizeof *shown);
        if (n > 4 && g->flow->base.messages)
            rondo__schedule_reserve(s, 2 * (int64_t)n * b->groups + 16, 2 * (int64_t)n * b->groups);
        rondo__lower_begin(b);
        make_places(g, places);
    }
    g->waiting = -1;
    if (!s->failed && g->waiting_rows) {
        struct rondo__buffer w = { .name = "waiting nodes", .index = -1, .owner = RONDO_OWNER_PLAN, .memory = rondo__compute_memory(b),
                                   .tensor = -1, .home = -1, .over = -1 };
        w.bytes = w.room = rondo__product(g->waiting_rows, rondo__node_bytes(b));
        g->waiting = rondo__buffer_add(s, w);
    }
    for (int32_t group = 0; group < b->groups && !s->failed; group++) {
        /* The first arrival is at place 1: until the second comes, place 0 is free for this rank's own rows. */
        if (!g->flow->direct && g->flow->reach[b->rank]) {
            int32_t over[2] = { -1, -1 };
            for (int part = 0; part < 2; part++)
                if (places[part][0] >= 0 && places[part][0] != places[part][1] && !b->machine.in_place &&
                    rondo__buffer_at(s, places[part][0])->bytes >= rondo__product(g->flow->rows[b->rank], rondo__kv_row_bytes(b, part)))
                    over[part] = places[part][0];
            pack(g, -1, group, -1, over, packed);
        }
        for (int32_t j = 0; j < n; j++) {
            if (j + 1 < n)
                transfer(g, j + 1, group, places, packed, shown);
            if (!b->machine.in_place)
                compute(g, j, group);
        }
        if (b->machine.in_place)
            compute(g, 0, group);
        if (g->flow->base.messages)
            rondo__lower_fence(b, (struct rondo__step){ "end of pass-KV", 0, 0 });
    }
    if (!s->failed)
        rondo__lower_end(b);
    rondo__free(packed);
    rondo__free(shown);
}

static int build(struct rondo__build *b)
{
    const struct rondo__survey *s = b->survey;
    const size_t n = (size_t)s->roles.ranks;
    struct ring g = { .b = b, .flow = s->flow };
    g.needs = rondo__alloc_zero((size_t)s->roles.sequences, sizeof *g.needs);
    g.came = rondo__alloc_zero(2 * n + 1, sizeof *g.came);
    g.came_in = rondo__alloc(n * sizeof *g.came_in);
    bool fine = g.needs && g.came && g.came_in;
    if (fine) {
        g.job_first = g.came + n;
        memset(g.came_in, 0xff, n * sizeof *g.came_in);
        fine = find_needs(&g) && program(&g);
    }
    if (fine) {
        schedule(&g);
        fine = !b->schedule->failed;
    }
    for (int64_t i = 0; g.needs && i < s->roles.sequences; i++)
        rondo__list_free(g.needs + i);
    rondo__free(g.needs);
    rondo__free(g.came);
    rondo__free(g.came_in);
    rondo__list_free(&g.sees);
    rondo__list_free(&g.pieces);
    rondo__list_free(&g.tags);
    rondo__list_free(&g.order);
    rondo__list_free(&g.rows);
    rondo__list_free(&g.step_of);
    rondo__tree_free(&g.tree);
    return fine ? 0 : rondo__build_failed();
}

static bool pairs(const struct rondo__survey *s, const struct rondo__shape *shape, uint64_t *of_rank)
{
    return rondo__tile_pairs(s, shape, s->roles.ranks, of_rank);
}

const struct rondo__algorithm rondo__ring_kv = { RONDO_PASS_KV, "pass-KV", flow, build, pairs };
