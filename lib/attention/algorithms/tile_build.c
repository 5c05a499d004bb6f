/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A rank computes a tile: the queries of some ranks against the keys of some ranks (tile.h). After Mesh-Attention (arXiv:2512.20968), with
 * nodes of the canonical tree in place of its running sums. Three passes:
 *
 *   queries   a rank sends each of the other ranks of its column just the strips of its queries that see keys of that one's group;
 *   keys      the ranks of a group give each other just the rows of K and V that queries of the other's tile see, in steps behind
 *             computing, or all at once;
 *   nodes     what a group's keys complete of a strip goes back to its owner, who joins the nodes of all groups in the tree's order. A group is
 *             neighbouring ranks, so that these are few. A strip that sees only its own group's keys is done where it is.
 *
 * One row of ranks (all-gather, halo) moves keys only, one column (reduce) queries and nodes only. A rank begins with its own queries and its own
 * keys, which are there; in the last step its own queries come last, so that the other nodes are on their way meanwhile. Where the transport
 * shows memory in place there is nothing to hide behind computing: all keys are shown first, and no node waits for others.
 */
#include "attention/algorithms/tile.h"

/* What goes to and comes from the rank of another group in this one's column, or this rank's own. */
struct other {
    int64_t q_rows;                    /* of its queries here */
    int64_t nodes, back;               /* rows of nodes for its queries; for mine */
    int32_t q_in, nodes_out, nodes_in;   /* buffers; -1: none */
    int32_t q, joined;                 /* ... as computing sees them, in the head group under way; -1: not there yet */
    int32_t reserved;
};

/* What comes from the other ranks of this one's group, by step. */
struct key_step {
    int64_t rows;
    int32_t in[2];                     /* buffers of K and V */
    int32_t here[2];                   /* ... as computing sees them */
};

struct tile {
    struct rondo__build *b;
    const struct rondo__tile *f;
    int32_t columns, groups, column, group;
    bool together;                     /* one stage, for which all keys come first */
    struct rondo__maker maker;
    struct rondo__joiner joiner;
    struct rondo__wanted wanted;
    struct rondo__packer queries, keys;
    struct rondo__list sees, list;
    struct rondo__list *needs;         /* [sequences] rows that this tile needs of the group; `at`: in its rank's parcel */
    int32_t *stage;                    /* [columns], then the sources */
    struct other *other;               /* [groups] */
    struct key_step *step;             /* [columns] */
    int64_t *join_rows;                /* [groups] */
    int64_t *job_first;                /* [groups * columns + 2]; the last step is the join */
    int32_t waiting;                   /* buffer of nodes that wait for a later stage */
    int64_t nodes_list, back_list;     /* where buffers of nodes stand in the schedule's list, for all computations; -1: not yet */
};

static int32_t key_step_of(const struct tile *t, int32_t rank)
{
    return (t->b->rank - rank + t->columns) % t->columns;
}

/* The rank of group g in this one's column. */
static int32_t rank_in(const struct tile *t, int32_t g)
{
    return g * t->columns + t->column;
}

/* Of hop j, whose queries come here; mine go to the group as far in the other direction. */
static int32_t source_at(const struct tile *t, int32_t hop)
{
    return (t->group - hop + t->groups) % t->groups;
}

static int64_t row_of(void *arg, int64_t sequence, const struct rondo__piece *p, int64_t *next)
{
    const struct tile *t = arg;
    return rondo__need_row(t->needs + sequence, p, next);
}

static bool find_needs(struct tile *t)
{
    const struct rondo__survey *s = t->b->survey;
    for (int64_t i = 0; i < s->roles.sequences && t->columns > 1; i++) {
        if (!rondo__ranks_see(s, i, t->column, t->columns, &t->sees) ||
            !rondo__list_needs(s, i, &t->sees, t->b->rank, t->group * t->columns, t->columns, t->needs + i))
            return false;
        struct rondo__need *need = t->needs[i].items;
        for (int64_t j = 0; j < t->needs[i].count; j++) {
            struct key_step *k = t->step + key_step_of(t, need[j].rank);
            need[j].at = k->rows;
            k->rows += need[j].rows;
        }
    }
    return true;
}

/* ---- the program ---- */

static bool strip_jobs(struct tile *t, int64_t sequence, int32_t hop, const struct rondo__strip *strip)
{
    struct rondo__maker *m = &t->maker;
    const int32_t g = source_at(t, hop);
    struct other *o = t->other + g;
    const bool mine = g == t->group;
    if (!strip->sees)
        return true;
    if (!rondo__maker_look(m, sequence, strip))
        return false;
    const bool done = mine && m->alone;
    const int64_t q_row = mine ? strip->row : o->q_rows;
    if (m->here && !rondo__maker_jobs(m, sequence, strip, q_row, hop, t->groups, g, done ? NULL : &o->nodes))
        return false;
    o->q_rows += m->here && !mine ? strip->rows : 0;
    if (!mine || done)
        return true;
    int32_t *step = rondo__list_add(&m->step_of, sizeof *step, 1);
    if (step)
        *step = t->groups * m->stages;
    return step && rondo__join_strip(&t->joiner, t->b, sequence, strip, t->join_rows);
}

static bool program(struct tile *t)
{
    const struct rondo__survey *s = t->b->survey;
    for (int64_t i = 0; i < s->roles.sequences; i++)
        for (int32_t hop = 0; hop < t->groups; hop++) {
            int64_t strip, strips = rondo__strips_of(s, i, rank_in(t, source_at(t, hop)), &strip);
            for (int64_t j = strip; j < strip + strips; j++)
                if (!strip_jobs(t, i, hop, rondo__strip_at(s, j)))
                    return false;
        }
    for (int32_t g = 0; g < t->groups; g++)
        t->other[g].back = t->join_rows[g];
    return rondo__sort_jobs(t->b, &t->maker.step_of, t->groups * t->maker.stages + 1, t->job_first);
}

/* ---- queries ---- */

static int64_t pack_queries(struct tile *t, int32_t to, int32_t group, int32_t index, int32_t out[2])
{
    const struct rondo__survey *s = t->b->survey;
    int64_t number = 0, known = rondo__pack_known(&t->queries, group, index, out);
    if (known >= 0)
        return known;
    rondo__pack_begin(&t->queries);
    for (int64_t i = 0; i < s->roles.sequences; i++) {
        int64_t strip, strips = rondo__strips_of(s, i, t->b->rank, &strip);
        for (int64_t j = strip; j < strip + strips; j++, number++)
            if (rondo__is_wanted(&t->wanted, number, to))
                rondo__pack_add(&t->queries, i, rondo__strip_at(s, j)->row, rondo__strip_at(s, j)->rows);
    }
    return rondo__pack_end(&t->queries, group, index, NULL, out);
}

static void send_queries(struct tile *t, int32_t hop, int32_t group)
{
    struct rondo__build *b = t->b;
    struct rondo__schedule *s = b->schedule;
    const int32_t to = (t->group + hop) % t->groups, from = source_at(t, hop);
    const size_t row = rondo__q_row_bytes(b);
    struct other *o = t->other + from;
    int32_t packed[2];
    const int64_t sent = pack_queries(t, to, group, hop, packed);
    if ((!sent && !o->q_rows) || s->failed)
        return;
    if (o->q_rows && o->q_in < 0)
        o->q_in = rondo__lower_arrival(b, "q of rank", rank_in(t, from), rondo__product(o->q_rows, row));
    struct rondo__operation *op = rondo__schedule_begin(s, RONDO_TRANSFER, (struct rondo__step){ t->f->kind->queries, hop, t->groups - 1 }, group);
    op->operation = RONDO_OP_ALL_GATHER;
    if (sent)
        rondo__schedule_part(s, packed[0], 0, rondo__product(sent, row), rank_in(t, to), false);
    if (o->q_rows)
        rondo__schedule_part(s, o->q_in, 0, rondo__product(o->q_rows, row), rank_in(t, from), true);
    rondo__schedule_end(s);
}

/* ---- keys ---- */

/* Rows of this rank's keys that the tile of rank `to` needs. */
static int64_t pack_keys(struct tile *t, int32_t to, int32_t group, int32_t index, int32_t out[2])
{
    const struct rondo__survey *s = t->b->survey;
    const int64_t known = rondo__pack_known(&t->keys, group, index, out);
    if (known >= 0)
        return known;
    rondo__pack_begin(&t->keys);
    for (int64_t i = 0; i < s->roles.sequences; i++) {
        if (!rondo__ranks_see(s, i, to % t->columns, t->columns, &t->sees) ||
            !rondo__list_needs(s, i, &t->sees, -1, t->b->rank, 1, &t->list))
            t->b->schedule->failed = true;
        for (int64_t j = 0; j < t->list.count && !t->b->schedule->failed; j++)
            rondo__pack_add(&t->keys, i, ((const struct rondo__need *)t->list.items)[j].row, ((const struct rondo__need *)t->list.items)[j].rows);
    }
    return rondo__pack_end(&t->keys, group, index, NULL, out);
}

/* Parts of the transfer under way. */
static void add_key_parts(struct tile *t, const int32_t packed[2], int64_t sent, int32_t to, const struct key_step *k, int32_t from)
{
    struct rondo__build *b = t->b;
    for (int part = 0; part < 2; part++) {
        const size_t row = rondo__kv_row_bytes(b, part);
        if (sent && row)
            rondo__schedule_part(b->schedule, packed[part], 0, rondo__product(sent, row), to, false);
        if (k->rows && row)
            rondo__schedule_part(b->schedule, k->in[part], 0, rondo__product(k->rows, row), from, true);
    }
}

/* Transfer `step` of keys; all of them where the computation takes all at once (first = 1, last = columns - 1). */
static void send_keys(struct tile *t, int32_t first, int32_t last, int32_t group)
{
    struct rondo__build *b = t->b;
    struct rondo__schedule *s = b->schedule;
    const int32_t base = t->group * t->columns, count = last - first + 1;
    struct rondo__arena *arena = b->survey->arena;
    int32_t (*packed)[2] = rondo__arena_take(arena, (size_t)count * sizeof *packed);
    int64_t *sent = rondo__arena_take(arena, (size_t)count * sizeof *sent), any = 0;
    s->failed |= !packed || !sent;
    for (int32_t j = first; j <= last && !s->failed; j++) {
        sent[j - first] = pack_keys(t, base + (t->column + j) % t->columns, group, j, packed[j - first]);
        any += sent[j - first] + t->step[j].rows;
    }
    if (any && !s->failed) {
        struct rondo__step named = { t->f->kind->keys, count > 1 ? 0 : first, count > 1 ? 0 : t->columns - 1 };
        struct rondo__operation *o = rondo__schedule_begin(s, RONDO_TRANSFER, named, group);
        o->operation = t->f->kind->at_once ? RONDO_OP_ALL_GATHER : RONDO_OP_SHIFT;
        for (int32_t j = first; j <= last && !s->failed; j++)
            add_key_parts(t, packed[j - first], sent[j - first], base + (t->column + j) % t->columns, t->step + j,
                          base + (t->column - j + t->columns) % t->columns);
        rondo__schedule_end(s);
    }
}

/* ---- computing ---- */

/* The keys of a step, where computing sees them. */
static void add_source(struct tile *t, int32_t step)
{
    struct rondo__build *b = t->b;
    const struct key_step *k = t->step + step;
    if (step)
        rondo__lower_source(b, k->here[0], k->here[1], k->rows);
    else
        rondo__lower_source(b, b->tensor[RONDO_TENSOR_K], b->tensor[RONDO_TENSOR_V], -1);
}

static void fetch_keys(struct tile *t, int32_t step, int32_t group)
{
    struct key_step *k = t->step + step;
    for (int part = 0; part < 2 && step && k->rows; part++)
        k->here[part] = k->in[part] < 0 ? -1 : rondo__lower_received(t->b, k->in[part], rondo__product(k->rows, rondo__kv_row_bytes(t->b, part)), group);
}

/* Buffers of nodes of the computation under way: the groups', then what waits. */
static void list_nodes(struct tile *t, bool joins)
{
    struct rondo__schedule *s = t->b->schedule;
    struct rondo__operation *op = s->failed ? &s->nowhere : rondo__operation_at(s, s->operations.count - 1);
    int64_t *list = joins ? &t->back_list : &t->nodes_list;
    if (*list < 0) {
        *list = s->nodes.count;
        for (int32_t g = 0; g < t->groups; g++)
            rondo__schedule_nodes(s, joins ? t->other[g].joined : t->other[g].nodes_out);
        rondo__schedule_nodes(s, t->waiting);
    }
    op->nodes_first = *list;
    op->nodes = t->groups + 1;
}

/* Stage `stage` for the queries that came at hop `hop`. */
static void compute(struct tile *t, int32_t stage, int32_t hop, int32_t group)
{
    struct rondo__build *b = t->b;
    struct rondo__schedule *s = b->schedule;
    const int32_t step = stage * t->groups + hop, g = source_at(t, hop);
    const int64_t first = t->job_first[step], count = t->job_first[step + 1] - first;
    const bool mine = g == t->group, all = t->together;
    struct other *o = t->other + g;
    if (!count || s->failed)
        return;
    int32_t q = b->tensor[RONDO_TENSOR_Q];
    size_t q_bytes = mine ? rondo__buffer_at(s, q)->bytes : rondo__product(o->q_rows, rondo__q_row_bytes(b));
    if (!mine && o->q < 0)
        o->q = rondo__lower_received(b, o->q_in, q_bytes, group);
    q = mine ? q : o->q;
    const int32_t steps = t->groups * t->maker.stages - 1;
    rondo__lower_compute(b, (struct rondo__step){ "attention", steps ? step : 0, steps }, group, first, count, q, q_bytes, mine);
    for (int32_t j = all ? 0 : stage; j < (all ? t->columns : stage + 1) && !s->failed; j++)
        add_source(t, j);
    list_nodes(t, false);
    if (t->waiting >= 0 && !s->failed)
        rondo__schedule_use(s, t->waiting, 0, rondo__buffer_at(s, t->waiting)->bytes, true);
    if (o->nodes_out >= 0 && !s->failed)
        rondo__schedule_use(s, o->nodes_out, 0, rondo__buffer_at(s, o->nodes_out)->bytes, true);
    rondo__schedule_end(s);
}

/* Nodes for the source of a hop leave, those of the group as far in the other direction come. */
static void give_back(struct tile *t, int32_t hop, int32_t group)
{
    struct rondo__build *b = t->b;
    struct rondo__schedule *s = b->schedule;
    const int32_t to = source_at(t, hop), from = (t->group + hop) % t->groups;
    const size_t node = rondo__node_bytes(b);
    const struct other *o = t->other + to, *i = t->other + from;
    if ((!o->nodes && !i->back) || s->failed)
        return;
    int32_t out = -1;
    if (o->nodes)
        out = rondo__lower_send(b, o->nodes_out, 0, rondo__product(o->nodes, node), group);
    struct rondo__operation *op = rondo__schedule_begin(s, RONDO_TRANSFER, (struct rondo__step){ t->f->kind->nodes, hop, t->groups - 1 }, group);
    op->operation = RONDO_OP_ALL_TO_ALL;
    if (o->nodes)
        rondo__schedule_part(s, out, 0, rondo__product(o->nodes, node), rank_in(t, to), false);
    if (i->back)
        rondo__schedule_part(s, i->nodes_in, 0, rondo__product(i->back, node), rank_in(t, from), true);
    rondo__schedule_end(s);
}

static void join(struct tile *t, int32_t group)
{
    struct rondo__build *b = t->b;
    struct rondo__schedule *s = b->schedule;
    const int32_t step = t->groups * t->maker.stages;
    const int64_t first = t->job_first[step], count = t->job_first[step + 1] - first;
    const size_t node = rondo__node_bytes(b);
    if (!count || s->failed)
        return;
    for (int32_t g = 0; g < t->groups; g++) {
        struct other *o = t->other + g;
        o->joined = !o->back ? -1 : g == t->group ? o->nodes_out : rondo__lower_received(b, o->nodes_in, rondo__product(o->back, node), group);
    }
    rondo__lower_compute(b, rondo__step_named("join"), group, first, count, b->tensor[RONDO_TENSOR_Q], 0, true);
    list_nodes(t, true);
    for (int32_t g = 0; g < t->groups && !s->failed; g++)
        if (t->other[g].joined >= 0)
            rondo__schedule_use(s, t->other[g].joined, 0, rondo__product(t->other[g].back, node), false);
    rondo__schedule_end(s);
}

/* ---- the schedule ---- */

/* Where keys arrive: two places of each part, in turn (one, where there is one arrival); or one for each step. */
static void make_key_places(struct tile *t)
{
    struct rondo__build *b = t->b;
    const int32_t base = t->group * t->columns;
    int64_t most = 0, arrivals = 0;
    for (int32_t j = 1; j < t->columns; j++) {
        most = t->step[j].rows > most ? t->step[j].rows : most;
        arrivals += t->step[j].rows > 0;
    }
    for (int part = 0; part < 2; part++) {
        const size_t row = rondo__kv_row_bytes(b, part);
        int32_t place[2] = { -1, -1 };
        for (int32_t i = 0; i < 2 && arrivals && row && !t->together; i++)
            place[i] = i && arrivals < 2 ? place[0] : rondo__lower_arrival(b, part ? "arriving v" : "arriving k", i, rondo__product(most, row));
        for (int32_t j = 1; j < t->columns; j++) {
            struct key_step *k = t->step + j;
            k->here[part] = k->in[part] = -1;
            if (!k->rows || !row)
                continue;
            const int32_t from = base + (t->column - j + t->columns) % t->columns;
            k->in[part] = t->together ? rondo__lower_arrival(b, part ? "v of rank" : "k of rank", from, rondo__product(k->rows, row)) : place[j % 2];
        }
    }
}

static void make_buffers(struct tile *t)
{
    struct rondo__build *b = t->b;
    make_key_places(t);
    t->waiting = rondo__node_buffer(b, "waiting nodes", -1, t->maker.waiting_rows);
    for (int32_t g = 0; g < t->groups; g++) {
        struct other *o = t->other + g;
        o->q_in = o->nodes_in = -1;
        o->nodes_out = rondo__node_buffer(b, "nodes for rank", rank_in(t, g), o->nodes);
        if (g != t->group && o->back)
            o->nodes_in = rondo__lower_arrival(b, "nodes of rank", rank_in(t, g), rondo__product(o->back, rondo__node_bytes(b)));
    }
}

static void run_stage(struct tile *t, int32_t stage, int32_t group)
{
    const bool last = stage == t->maker.stages - 1;
    for (int32_t j = t->together ? 1 : stage; j < (t->together ? t->columns : stage + 1); j++)
        fetch_keys(t, j, group);
    /* own queries first where others' are on their way still, last where others' nodes are to leave */
    for (int32_t i = 0; i < t->groups; i++) {
        const int32_t hop = last && stage ? (i + 1) % t->groups : i;
        compute(t, stage, hop, group);
        if (last && hop)
            give_back(t, hop, group);
    }
}

static void run_group(struct tile *t, int32_t group)
{
    struct rondo__build *b = t->b;
    struct rondo__schedule *s = b->schedule;
    for (int32_t g = 0; g < t->groups; g++)
        t->other[g].q = -1;
    for (int32_t hop = 1; hop < t->groups && !s->failed; hop++)
        send_queries(t, hop, group);
    if (t->together && t->columns > 1)
        send_keys(t, 1, t->columns - 1, group);
    for (int32_t stage = 0; stage < t->maker.stages && !s->failed; stage++) {
        if (!t->together && stage + 1 < t->columns)
            send_keys(t, stage + 1, stage + 1, group);
        run_stage(t, stage, group);
    }
    join(t, group);
    if (t->f->base.messages)
        rondo__lower_fence(b, (struct rondo__step){ t->f->kind->end, 0, 0 });
}

static bool make_tile(struct tile *t)
{
    struct rondo__build *b = t->b;
    const struct rondo__survey *s = b->survey;
    const size_t n = (size_t)s->roles.ranks;
    t->f = s->flow;
    t->columns = t->f->columns;
    t->groups = s->roles.ranks / t->columns;
    t->column = b->rank % t->columns;
    t->group = b->rank / t->columns;
    t->together = b->machine.in_place || t->f->kind->at_once;
    t->nodes_list = t->back_list = -1;
    rondo__packer_begin(&t->queries, b, RONDO_TENSOR_Q, 0, 0);
    rondo__packer_begin(&t->keys, b, RONDO_TENSOR_K, 0, 0);
    rondo__joiner_begin(&t->joiner, b, t->columns);
    t->sees = t->list = rondo__list_of(s->arena);
    t->needs = rondo__lists(s->arena, s->roles.sequences);
    t->stage = rondo__arena_take(s->arena, (size_t)t->columns * 2 * sizeof *t->stage);
    t->other = rondo__arena_zero(s->arena, (size_t)t->groups, sizeof *t->other);
    t->step = rondo__arena_zero(s->arena, (size_t)t->columns, sizeof *t->step);
    t->join_rows = rondo__arena_zero(s->arena, (size_t)t->groups + n + 2, sizeof *t->join_rows);
    if (!t->needs || !t->stage || !t->other || !t->step || !t->join_rows)
        return false;
    t->job_first = t->join_rows + t->groups;
    rondo__set_stages(b->rank, t->columns, t->together, t->stage, t->stage + t->columns);
    t->maker = (struct rondo__maker){ .b = b, .survey = s, .first = t->group * t->columns, .ranks = t->columns,
                                      .stages = t->together ? 1 : t->columns, .stage = t->stage, .source = t->stage + t->columns,
                                      .row = row_of, .arg = t, .waiting = t->groups };
    rondo__maker_begin(&t->maker);
    return t->groups == 1 || rondo__wanted_make(&t->wanted, s, b->rank, t->columns);
}

static void schedule(struct tile *t)
{
    struct rondo__build *b = t->b;
    const int64_t n = b->survey->roles.ranks;
    if (n > 4 && t->f->base.messages)
        rondo__schedule_reserve(b->schedule, 3 * n * b->groups + 16, 2 * n * b->groups);
    rondo__lower_begin(b);
    if (!b->schedule->failed)
        make_buffers(t);
    for (int32_t group = 0; group < b->groups && !b->schedule->failed; group++)
        run_group(t, group);
    if (!b->schedule->failed)
        rondo__lower_end(b);
}

int rondo__tile_build(struct rondo__build *b)
{
    struct tile t = { .b = b };
    bool fine = make_tile(&t) && find_needs(&t) && program(&t);
    if (fine) {
        schedule(&t);
        fine = !b->schedule->failed;
    }
    return fine ? 0 : rondo__build_failed();
}
