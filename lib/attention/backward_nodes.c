/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Nodes of both trees that a rank makes of other ones' rows (backward_nodes.h). The leaves of a side are the tree's, all ranks' together; a node
 * is as high as all leaves below it are one team's, so that a team with a run of leaves has about as many nodes as the run has ends. A job is of one
 * node of queries and one of keys, and of those leaves of either that see anything of the other: for each it gives a node, which both ends of a
 * message find by themselves. Called by backward_ring.c, backward_mesh.c and backward_teams.c.
 */
#include "attention/backward_nodes.h"
#include "attention/tree.h"

/* Leaves of one team that are all there is below a node of the tree. */
struct knot {
    int64_t sequence, first, end;      /* positions */
    int64_t at;                        /* the first of its leaves, in the side's list */
    int32_t leaves, team;
};

/* What a node of the other side gives to a leaf, and where that lies. */
struct given {
    int64_t leaf, index;               /* in the side's list; the other node's first leaf */
    int64_t at;
    int32_t stage, store, seat, reserved;   /* seat: whose heads it is of */
};

/* A join, and when it is due. */
struct due {
    int64_t order;
    int32_t stage, queries;
    struct rondo_backward_join join;
};

static struct rondo_backward_leaf *leaf_at(const struct rondo__crossing *c, bool queries, int64_t at)
{
    return (struct rondo_backward_leaf *)c->side[queries].leaves.items + at;
}

static struct knot *knot_at(const struct rondo__crossing *c, bool queries, int64_t at)
{
    return (struct knot *)c->side[queries].nodes.items + at;
}

/* Nodes of keys are of query heads: what a group of them adds up to is added behind the tree over leaves. */
static int64_t node_floats(const struct rondo__crossing *c, int64_t heads, bool queries, int64_t rows)
{
    const rondo_attention_desc *d = &c->b->d->desc;
    return heads * (rows * (queries ? d->head_dim : d->head_dim + d->value_dim) + 1);
}

static int32_t seat_of(const struct rondo__crossing *c, int32_t rank) { return c->seats ? rank % c->seats : 0; }

struct rondo__backward_heads rondo__crossing_heads(const struct rondo__crossing *c, int32_t rank)
{
    return rondo__backward_heads_of(c->b->d, seat_of(c, rank), c->seats ? c->seats : 1);
}

/* ---- leaves and nodes ---- */

static bool knot_after(const void *a, const void *b)
{
    const struct knot *x = a, *y = b;
    return x->team != y->team ? x->team > y->team : x->at > y->at;
}

/* The nodes below one: *next counts leaves. Uses what rondo__tree_owners() has left. */
static bool find_knots(struct rondo__gradient_side *side, const struct rondo__tree *t, int32_t node, int64_t sequence, int64_t *next)
{
    if (t->stage[node] < 0)
        return find_knots(side, t, t->left[node], sequence, next) && find_knots(side, t, t->right[node], sequence, next);
    struct knot *k = rondo__list_add(&side->nodes, sizeof *k, 1);
    int32_t last = node;
    if (!k)
        return false;
    while (t->left[last] >= 0)
        last = t->right[last];         /* a piece's number is its place in the list of pieces */
    const struct rondo_backward_leaf *leaf = (const struct rondo_backward_leaf *)side->leaves.items + side->leaves.count - t->leaves;
    *k = (struct knot){ sequence, leaf[*next].first, leaf[last].first + leaf[last].count, side->leaves.count - t->leaves + *next,
                        (int32_t)(last + 1 - *next), t->stage[node] };
    *next = last + 1;
    return true;
}

static bool add_leaves(struct rondo__crossing *c, int64_t sequence, bool queries)
{
    struct rondo__gradients *b = c->b;
    struct rondo__list *leaves = &c->side[queries].leaves;
    const int64_t base = rondo__leaf_base(b, sequence, queries), before = leaves->count;
    for (int32_t r = 0; r < b->ranks; r++) {
        const struct rondo__possessions *has = rondo__side_of(b, queries, r);
        const struct rondo__possession *s = has->stretches.items;
        for (int64_t i = 0; i < has->stretches.count; i++)
            for (int64_t p = s[i].first, next; s[i].sequence == sequence && p < s[i].first + s[i].count; p = next) {
                struct rondo_backward_leaf *leaf = rondo__list_add(leaves, sizeof *leaf, 1);
                if (!leaf)
                    return false;
                next = rondo__leaf_end(b, s + i, p, base);
                *leaf = (struct rondo_backward_leaf){ rondo__leaf_index(b, p, base), p, s[i].row + p - s[i].first, (int32_t)(next - p), r };
            }
    }
    rondo__sort_backward_leaves(leaves, before);
    return true;
}

static bool find_side(struct rondo__crossing *c, bool queries)
{
    struct rondo__gradient_side *side = c->side + queries;
    struct rondo__list pieces = { .items = NULL }, owners = { .items = NULL };
    struct rondo__tree tree = { .leaves = 0 };
    bool fine = true;
    for (int64_t i = 0; i < c->b->d->sequences && fine; i++) {
        const int64_t before = side->leaves.count;
        int64_t next = 0;
        fine = add_leaves(c, i, queries);
        const int64_t count = side->leaves.count - before;
        struct rondo__piece *piece = fine ? rondo__list_set(&pieces, sizeof *piece, count + 1) : NULL;
        int32_t *owner = fine ? rondo__list_set(&owners, sizeof *owner, count + 1) : NULL;
        fine = piece && owner;
        for (int64_t n = 0; n < count && fine; n++) {
            const struct rondo_backward_leaf *leaf = leaf_at(c, queries, before + n);
            piece[n] = (struct rondo__piece){ .index = leaf->leaf, .leaves = 1 };
            owner[n] = rondo__crossing_team(c, queries, leaf->source);
        }
        fine = fine && !rondo__tree_build(&tree, piece, count, 1);
        if (fine && count) {
            rondo__tree_owners(&tree, owner, NULL);
            fine = find_knots(side, &tree, tree.root, i, &next);
        }
    }
    rondo__tree_free(&tree);
    rondo__list_free(&tree.memory);
    rondo__list_free(&pieces);
    rondo__list_free(&owners);
    side->of_team = fine ? rondo__alloc_zero((size_t)c->b->ranks + 1, sizeof *side->of_team) : NULL;
    if (!side->of_team)
        return false;
    rondo__sort(side->nodes.items, sizeof(struct knot), side->nodes.count, knot_after);
    for (int64_t n = 0; n < side->nodes.count; n++)
        side->of_team[knot_at(c, queries, n)->team + 1]++;
    for (int32_t r = 0; r < c->b->ranks; r++)
        side->of_team[r + 1] += side->of_team[r];
    return true;
}

/* ---- pairs of nodes ---- */

static bool knots_meet(const struct rondo__crossing *c, const struct knot *q, const struct knot *k)
{
    return rondo__any_sees(c->b, q->sequence, q->first, q->end - q->first, k->first, k->end - k->first);
}

/* Whether a leaf sees anything of a node of the other side, or is seen by it. */
static bool meets(const struct rondo__crossing *c, bool queries, const struct rondo_backward_leaf *leaf, const struct knot *other)
{
    const int64_t count = other->end - other->first;
    return queries ? rondo__any_sees(c->b, other->sequence, leaf->first, leaf->count, other->first, count)
                   : rondo__any_sees(c->b, other->sequence, other->first, count, leaf->first, leaf->count);
}

/* Where one side's part of a pair goes. */
struct target {
    int32_t stage;
    int32_t first;                     /* by an owner's number less this one: */
    const int32_t *stores;
    int64_t *used;                     /* floats */
    int32_t maker;                     /* whose nodes these are */
    int32_t only;                      /* leaves of this rank; -1: all */
    bool jobs;                         /* leaves and places of a job are wanted */
};

/* Leaves of one side of a pair, and what comes of it to those that are this rank's; returns how many, or -1: no memory. */
static int64_t add_part(struct rondo__crossing *c, bool queries, const struct knot *own, const struct knot *other, const struct target *to)
{
    struct rondo__backward_part *p = c->b->part;
    const int32_t rank = c->b->rank;
    const int64_t heads = rondo__crossing_heads(c, to->maker).heads;
    int64_t count = 0;
    for (int32_t n = 0; n < own->leaves; n++) {
        const struct rondo_backward_leaf *leaf = leaf_at(c, queries, own->at + n);
        if ((to->only >= 0 && leaf->source != to->only) || !meets(c, queries, leaf, other))
            continue;
        const int32_t at = leaf->source - to->first;
        if (to->jobs) {
            struct rondo_backward_leaf *l = rondo__list_add(&p->leaves, sizeof *l, 1);
            struct rondo_backward_place *place = rondo__list_add(&p->places, sizeof *place, 1);
            if (!l || !place)
                return -1;
            *l = *leaf;
            l->row -= leaf->source == rank || (c->seats && queries) ? 0 : c->hull[leaf->source].begin;
            *place = (struct rondo_backward_place){ to->used[at], to->stores[at], 0 };
        }
        if (leaf->source == rank) {
            struct given *g = rondo__list_add(c->given + queries, sizeof *g, 1);
            if (!g)
                return -1;
            *g = (struct given){ own->at + n, leaf_at(c, !queries, other->at)->leaf, to->used[at], to->stage, to->stores[at], seat_of(c, to->maker), 0 };
        }
        to->used[at] += node_floats(c, heads, queries, leaf->count);
        count++;
    }
    return count;
}

/* The next pair of nodes of a team's queries and a team's keys that see each other, behind *q and *k (-1: before the first). */
static bool next_pair(const struct rondo__crossing *c, int32_t q_team, int32_t k_team, int64_t *q, int64_t *k)
{
    const int64_t *queries = c->side[1].of_team + q_team, *keys = c->side[0].of_team + k_team;
    if (*q < 0) {
        *q = queries[0];
        *k = keys[0] - 1;
    }
    for (; *q < queries[1]; ++*q, *k = keys[0] - 1)
        for (++*k; *k < keys[1]; ++*k) {
            const struct knot *a = knot_at(c, true, *q), *b = knot_at(c, false, *k);
            if (b->sequence > a->sequence)
                break;
            if (b->sequence == a->sequence && knots_meet(c, a, b))
                return true;
        }
    return false;
}

/* What comes of a pair to leaves of other ranks than `at`, who makes it, of so many heads: floats [ranks], and the rows [ranks] that are needed for it, or
 * NULL. */
static void measure_part(struct rondo__crossing *c, bool queries, const struct knot *own, const struct knot *other, int32_t at, int64_t heads,
                         int64_t *floats, struct rondo__rows *hull)
{
    for (int32_t i = 0; i < own->leaves; i++) {
        const struct rondo_backward_leaf *leaf = leaf_at(c, queries, own->at + i);
        if (leaf->source == at || !meets(c, queries, leaf, other))
            continue;
        struct rondo__rows *rows = hull ? hull + leaf->source : NULL;
        floats[leaf->source] += node_floats(c, heads, queries, leaf->count);
        if (!rows)
            continue;
        rows->begin = leaf->row < rows->begin ? leaf->row : rows->begin;
        rows->end = leaf->row + leaf->count > rows->end ? leaf->row + leaf->count : rows->end;
    }
}

/* What a rank needs of another one's rows: nothing, as long as nobody has asked. */
static const struct rondo__rows unasked = { INT64_MAX, 0 };

static void end_needs(struct rondo__rows *needs)
{
    if (needs->begin >= needs->end)
        *needs = (struct rondo__rows){ 0, 0 };
}

/* Of these what is kept, and what is counted. */
static void note_needs(struct rondo__crossing *c, int32_t at, const struct rondo__rows *needs)
{
    const int32_t rank = c->b->rank;
    c->asked[at] = needs[rank];
    if (at == rank)
        memcpy(c->hull, needs, (size_t)c->b->ranks * sizeof *needs);
    if (c->count)
        c->count(c, at, needs);
}

static void note_nodes(struct rondo__crossing *c, int64_t floats)
{
    c->messages += floats > 0;
    c->bytes += (uint64_t)rondo__product(floats, sizeof(float));
}

/* Of teams: what one head of a team's queries makes in each step, which is as much as any other head, and so for all its seats. It is made for ranks of
 * the two teams that meet, and for nobody else. floats and needs [ranks]: room, 0. */
static void measure_teams(struct rondo__crossing *c, int64_t *floats, struct rondo__rows *needs)
{
    const int32_t n = c->b->ranks, seats = c->seats, teams = n / seats, team = c->b->rank / seats;
    for (int32_t at = 0; at < n; at += seats) {
        for (int32_t r = 0; r < n; r++)
            needs[r] = unasked;
        for (int32_t j = 0; j < teams; j++) {
            const int32_t of = (at / seats - j + teams) % teams;
            if (!c->count && at / seats != team && of != team)
                continue;
            for (int64_t q = -1, k = -1; next_pair(c, at / seats, of, &q, &k);)
                for (int queried = 0; queried < 2; queried++)
                    measure_part(c, queried, queried ? knot_at(c, true, q) : knot_at(c, false, k), queried ? knot_at(c, false, k) : knot_at(c, true, q), -1, 1,
                                 floats, queried ? NULL : needs);
            for (int32_t i = 0; i < (j ? 2 : 1) * seats; i++) {
                const int32_t r = i < seats ? at + i : of * seats + i - seats;
                for (int32_t s = at; s < at + seats && floats[r]; s++)
                    note_nodes(c, r == s ? 0 : floats[r] * rondo__crossing_heads(c, s).heads);
                floats[r] = 0;
            }
        }
        for (int32_t r = 0; r < n; r++)
            end_needs(needs + r);
        for (int32_t r = at; r < at + seats; r++)   /* of the team itself all */
            needs[r] = (struct rondo__rows){ 0, rondo__side_of(c->b, false, r)->rows };
        for (int32_t s = at; s < at + seats; s++)
            note_needs(c, s, needs);
    }
}

static void measure_grid(struct rondo__crossing *c, int64_t *floats, struct rondo__rows *needs)
{
    const int32_t n = c->b->ranks, rank = c->b->rank, peers = rondo__crossing_peers(c);
    const int64_t heads = c->b->d->desc.heads;
    for (int32_t at = 0; at < n; at++) {
        if (!c->count && at / c->columns != rank / c->columns && at % c->columns != rank % c->columns)
            continue;
        for (int32_t i = 0, of; i < peers; i++)
            if ((of = rondo__crossing_peer(c, at, i)) >= 0)
                needs[of] = unasked;
        for (int64_t q = -1, k = -1; next_pair(c, rondo__crossing_team(c, true, at), rondo__crossing_team(c, false, at), &q, &k);)
            for (int queried = 0; queried < 2; queried++)
                measure_part(c, queried, queried ? knot_at(c, true, q) : knot_at(c, false, k), queried ? knot_at(c, false, k) : knot_at(c, true, q), at,
                             heads, floats, needs);
        for (int32_t i = 0, of; i < peers; i++)
            if ((of = rondo__crossing_peer(c, at, i)) >= 0) {
                note_nodes(c, floats[of]);
                floats[of] = 0;
                end_needs(needs + of);
            }
        note_needs(c, at, needs);
        for (int32_t i = 0, of; i < peers; i++)
            if ((of = rondo__crossing_peer(c, at, i)) >= 0)
                needs[of] = (struct rondo__rows){ 0, 0 };
    }
}

/* As it was measured for all of them. */
static void take_reach(struct rondo__crossing *c)
{
    const struct rondo__backward_reach *reach = c->b->way.reach;
    for (int32_t r = 0; r < c->b->ranks; r++) {
        c->hull[r] = (struct rondo__rows){ reach[r].begin, reach[r].end };
        c->reach[r] = reach[r].hops;
    }
}

static void measure_ring(struct rondo__crossing *c, int64_t *floats)
{
    const int32_t n = c->b->ranks;
    const int64_t heads = c->b->d->desc.heads;
    const bool moves = c->queries_move;
    for (int32_t r = 0; r < n; r++)
        c->hull[r] = unasked;
    for (int32_t at = 0; at < n; at++)
        for (int32_t of = 0; of < n; of++) {
            const int32_t hops = (at - of + n) % n;
            for (int64_t q = -1, k = -1; of != at && next_pair(c, moves ? of : at, moves ? at : of, &q, &k);)
                measure_part(c, moves, moves ? knot_at(c, true, q) : knot_at(c, false, k), moves ? knot_at(c, false, k) : knot_at(c, true, q), at, heads,
                             floats, c->hull);
            c->reach[of] = floats[of] && hops > c->reach[of] ? hops : c->reach[of];
            note_nodes(c, floats[of]);
            floats[of] = 0;
        }
    for (int32_t r = 0; r < n; r++)
        end_needs(c->hull + r);
}

static bool make(struct rondo__crossing *c)
{
    const size_t n = (size_t)c->b->ranks;
    int64_t *floats = rondo__alloc_zero(n, sizeof *floats);
    struct rondo__rows *needs = rondo__alloc_zero(n, sizeof *needs);
    c->reach = rondo__alloc_zero(n, sizeof *c->reach);
    c->hull = rondo__alloc_zero(2 * n, sizeof *c->hull);
    c->joins_first = rondo__alloc_zero(2 * (size_t)c->stages + 1, sizeof *c->joins_first);
    const bool fine = floats && needs && c->reach && c->hull && c->joins_first && find_side(c, false) && find_side(c, true);
    c->asked = c->hull ? c->hull + n : NULL;
    if (fine && c->seats)
        measure_teams(c, floats, needs);
    else if (fine && c->columns)
        measure_grid(c, floats, needs);
    else if (fine && c->b->way.reach)
        take_reach(c);
    else if (fine)
        measure_ring(c, floats);
    rondo__free(floats);
    rondo__free(needs);
    return fine;
}

bool rondo__crossing_make(struct rondo__crossing *c, struct rondo__gradients *b, bool queries_move)
{
    *c = (struct rondo__crossing){ .b = b, .queries_move = queries_move, .stages = b->ranks, .wait_store = { -1, -1 } };
    return make(c);
}

bool rondo__crossing_grid(struct rondo__crossing *c, struct rondo__gradients *b, int32_t columns, rondo__crossing_count *count)
{
    *c = (struct rondo__crossing){ .b = b, .columns = columns, .count = count, .stages = 1, .wait_store = { -1, -1 } };
    return make(c);
}

bool rondo__crossing_teams(struct rondo__crossing *c, struct rondo__gradients *b, int32_t teams, rondo__crossing_count *count)
{
    *c = (struct rondo__crossing){ .b = b, .seats = b->ranks / teams, .count = count, .stages = 2 * teams, .wait_store = { -1, -1 } };
    return make(c);
}

void rondo__crossing_free(struct rondo__crossing *c)
{
    for (int queried = 0; queried < 2; queried++) {
        rondo__list_free(&c->side[queried].leaves);
        rondo__list_free(&c->side[queried].nodes);
        rondo__free(c->side[queried].of_team);
        rondo__list_free(&c->given[queried]);
    }
    rondo__free(c->reach);
    rondo__free(c->hull);
    rondo__free(c->joins_first);
    *c = (struct rondo__crossing){ .b = NULL };
}

/* When what comes in a step is joined: where all is shown until the end, then. */
static int32_t stage_of(const struct rondo__crossing *c, int32_t step)
{
    return c->b->d->machine.in_place ? c->stages - 1 : step;
}

/* A job of a pair; to: of keys and of queries. */
static bool add_pair(struct rondo__crossing *c, int64_t q, int64_t k, const struct target *to)
{
    struct rondo__gradients *b = c->b;
    const struct knot *knot[2] = { knot_at(c, false, k), knot_at(c, true, q) };
    struct rondo_backward_job made = { .queries = 0 };
    for (int queried = 1; queried >= 0; queried--) {
        const int64_t first = b->part->leaves.count, places = b->part->places.count;
        const int64_t count = add_part(c, queried, knot[queried], knot[!queried], to + queried);
        if (count < 0)
            return false;
        rondo__job_side(&made, queried, first, count, places);
    }
    return rondo__add_made_job(b, knot[1]->sequence, RONDO_BACKWARD_QUERIES | RONDO_BACKWARD_KEYS, &made);
}

bool rondo__crossing_jobs(struct rondo__crossing *c, int32_t of, int32_t step, const int32_t *stores, int64_t *floats)
{
    const bool moves = c->queries_move;
    const int32_t rank = c->b->rank;
    struct target to[2];
    int64_t q = -1, k = -1;
    to[!moves] = (struct target){ step, rank, stores + RONDO_STORE_HOME, floats + RONDO_STORE_HOME, rank, -1, true };
    to[moves] = (struct target){ stage_of(c, step), of, stores + RONDO_STORE_MADE, floats + RONDO_STORE_MADE, rank, -1, true };
    while (next_pair(c, moves ? of : rank, moves ? rank : of, &q, &k))
        if (!add_pair(c, q, k, to))
            return false;
    return true;
}

bool rondo__crossing_tile(struct rondo__crossing *c, const int32_t *stores, int64_t *floats)
{
    const struct target one = { 0, 0, stores, floats, c->b->rank, -1, true }, to[2] = { one, one };
    const int32_t queries = rondo__crossing_team(c, true, c->b->rank), keys = rondo__crossing_team(c, false, c->b->rank);
    for (int64_t q = -1, k = -1; next_pair(c, queries, keys, &q, &k);)
        if (!add_pair(c, q, k, to))
            return false;
    return true;
}

/* What comes of all pairs of two teams to this rank's rows on one side. */
static bool come(struct rondo__crossing *c, bool queries, int32_t q_team, int32_t k_team, const struct target *to)
{
    for (int64_t q = -1, k = -1; next_pair(c, q_team, k_team, &q, &k);)
        if (add_part(c, queries, queries ? knot_at(c, true, q) : knot_at(c, false, k), queries ? knot_at(c, false, k) : knot_at(c, true, q), to) < 0)
            return false;
    return true;
}

bool rondo__crossing_come(struct rondo__crossing *c, int32_t from, int32_t step, int32_t store, int64_t *floats)
{
    const bool moves = c->queries_move;
    const int32_t rank = c->b->rank;
    const struct target to = { stage_of(c, step), rank, &store, floats, from, rank, false };
    return come(c, moves, moves ? rank : from, moves ? from : rank, &to);
}

bool rondo__crossing_tile_come(struct rondo__crossing *c, int32_t from, int32_t store, int64_t *floats)
{
    const int32_t rank = c->b->rank, queries = rondo__crossing_team(c, true, from), keys = rondo__crossing_team(c, false, from);
    const struct target to = { 0, rank, &store, floats, from, rank, false };
    const bool q = rondo__crossing_team(c, true, rank) == queries, k = rondo__crossing_team(c, false, rank) == keys;
    return (!q && !k) || come(c, q, queries, keys, &to);   /* who has both is this rank */
}

bool rondo__crossing_seat(struct rondo__crossing *c, int32_t step, const int32_t *stores, int64_t *floats)
{
    const int32_t rank = c->b->rank, seats = c->seats, teams = c->b->ranks / seats, team = rank / seats, of = (team - step + teams) % teams;
    const struct target own = { 2 * step, team * seats, stores, floats, rank, -1, true };
    const struct target other = { 2 * step, of * seats, stores + seats, floats + seats, rank, -1, true };
    const struct target to[2] = { step ? other : own, own };
    for (int64_t q = -1, k = -1; rondo__crossing_heads(c, rank).heads && next_pair(c, team, of, &q, &k);)
        if (!add_pair(c, q, k, to))
            return false;
    return true;
}

bool rondo__crossing_seat_come(struct rondo__crossing *c, int32_t from, int32_t step, int32_t store, int64_t *floats)
{
    const int32_t rank = c->b->rank, teams = c->b->ranks / c->seats, team = rank / c->seats, there = from / c->seats, of = (there - step + teams) % teams;
    const struct target to = { stage_of(c, 2 * step + 1), rank, &store, floats, from, rank, false };
    for (int64_t q = -1, k = -1; rondo__crossing_heads(c, from).heads && next_pair(c, there, of, &q, &k);)
        if ((there == team && add_part(c, true, knot_at(c, true, q), knot_at(c, false, k), &to) < 0) ||
            (of == team && add_part(c, false, knot_at(c, false, k), knot_at(c, true, q), &to) < 0))
            return false;
    return true;
}

void rondo__set_store(struct rondo__gradients *b, int32_t store, int32_t buffer, int64_t floats)
{
    struct rondo__backward_store *s = (struct rondo__backward_store *)b->part->node_buffers.items + store;
    *s = (struct rondo__backward_store){ floats ? buffer : -1, 0, rondo__product(floats, sizeof(float)) };
}

/* ---- joins ---- */

static bool given_after(const void *a, const void *b)
{
    const struct given *x = a, *y = b;
    return x->leaf != y->leaf ? x->leaf > y->leaf : x->seat != y->seat ? x->seat > y->seat : x->index > y->index;
}

static bool due_after(const void *a, const void *b)
{
    const struct due *x = a, *y = b;
    return x->stage != y->stage ? x->stage > y->stage : x->queries != y->queries ? x->queries > y->queries : x->order > y->order;
}

struct joiner {
    struct rondo__crossing *c;
    struct rondo__tree tree;
    struct rondo__list pieces, stages, due;
    struct rondo__list lists;          /* int32_t: of what is given to a leaf the first of each stage, [stages], and the next of its stage; -1: no more */
    struct rondo__backward_heads heads;
    bool queries;
};

/* The program of a stage of one leaf's tree, of one seat's heads, which becomes a join: places of what the stage brings, then of what waits. */
static bool add_join(struct joiner *j, const struct rondo_backward_leaf *leaf, const struct given *given, int64_t count, int32_t stage, int64_t waits)
{
    struct rondo__crossing *c = j->c;
    struct rondo__backward_part *p = c->b->part;
    const rondo_attention_desc *d = &c->b->d->desc;
    const int64_t first = p->steps.count, places = p->places.count, floats = node_floats(c, j->heads.heads, j->queries, leaf->count);
    struct rondo__program program = { .steps = 0 };
    if (count) {
        if (!rondo__tree_stage(&j->tree, stage, &p->steps, &program))
            return false;
    } else if (stage + 1 == c->stages) {   /* of a leaf that nothing comes to: all 0 */
        struct rondo_tree_step *out = rondo__list_add(&p->steps, sizeof *out, 1);
        if (!out)
            return false;
        *out = (struct rondo_tree_step){ RONDO_TREE_OUT, 0 };
        program.steps = 1;
    }
    if (!program.steps)
        return true;
    struct rondo_tree_step *step = (struct rondo_tree_step *)p->steps.items + first;
    for (int32_t i = 0; i < program.steps; i++) {
        if (step[i].code == RONDO_TREE_LEAF)
            step[i].code = RONDO_TREE_LOAD;
        else if (step[i].code == RONDO_TREE_LOAD || step[i].code == RONDO_TREE_STORE)
            step[i].arg += program.leaves;
    }
    const int32_t slots = count ? j->tree.slots : 0;
    struct rondo_backward_place *place = rondo__list_add(&p->places, sizeof *place, program.leaves + slots);
    struct due *due = rondo__list_add(&j->due, sizeof *due, 1);
    if (!due || (program.leaves + slots && !place))
        return false;
    const int32_t *head = j->lists.items, *next = head + c->stages;
    for (int32_t i = count ? head[stage] : -1; i >= 0; i = next[i])
        *place++ = (struct rondo_backward_place){ given[i].at, given[i].store, 0 };
    for (int32_t i = 0; i < slots; i++)
        *place++ = (struct rondo_backward_place){ waits + i * floats, c->wait_store[j->queries], 0 };
    *due = (struct due){ j->due.count, stage, j->queries, { .steps_first = first, .places_first = places, .row = leaf->row, .steps = program.steps,
                         .count = leaf->count, .queries = j->queries, .head = j->queries ? j->heads.head : j->heads.kv_head,
                         .heads = j->queries ? j->heads.heads : j->heads.kv_heads, .group = j->queries ? 1 : (int32_t)(d->heads / d->kv_heads) } };
    return true;
}

/* All that comes of one seat's heads to a leaf of this rank's. */
static bool join_leaf(struct joiner *j, const struct rondo_backward_leaf *leaf, const struct given *given, int64_t count)
{
    struct rondo__crossing *c = j->c;
    struct rondo__piece *piece = rondo__list_set(&j->pieces, sizeof *piece, count + 1);
    int32_t *stage = rondo__list_set(&j->stages, sizeof *stage, count + 1), *head = rondo__list_set(&j->lists, sizeof *head, c->stages + count);
    if (!piece || !stage || !head)
        return false;
    memset(head, 0xff, (size_t)c->stages * sizeof *head);
    for (int64_t i = count - 1; i >= 0; i--) {
        piece[i] = (struct rondo__piece){ .index = given[i].index, .leaves = 1 };
        stage[i] = given[i].stage;
        head[c->stages + i] = head[stage[i]];
        head[stage[i]] = (int32_t)i;
    }
    if (rondo__tree_build(&j->tree, piece, count, c->stages))
        return false;
    rondo__tree_stages(&j->tree, stage, false);
    for (int32_t s = 0; s < c->stages; s++)
        if (!add_join(j, leaf, given, count, s, c->waiting[j->queries]))
            return false;
    c->waiting[j->queries] += j->tree.slots * node_floats(c, j->heads.heads, j->queries, leaf->count);
    return true;
}

static bool join_side(struct joiner *j)
{
    struct rondo__crossing *c = j->c;
    struct rondo__list *list = c->given + j->queries;
    const struct given *given = list->items, *end = given + list->count;
    rondo__sort(list->items, sizeof *given, list->count, given_after);
    for (int64_t n = 0; n < c->side[j->queries].leaves.count; n++) {
        const struct rondo_backward_leaf *leaf = leaf_at(c, j->queries, n);
        for (int32_t seat = 0; seat < (c->seats ? c->seats : 1) && leaf->source == c->b->rank; seat++) {
            int64_t count = 0;
            while (given + count < end && given[count].leaf == n && given[count].seat == seat)
                count++;
            j->heads = rondo__crossing_heads(c, seat);
            if (j->heads.heads && !join_leaf(j, leaf, given, count))
                return false;
            given += count;
        }
    }
    return true;
}

bool rondo__crossing_join(struct rondo__crossing *c)
{
    struct rondo__backward_part *p = c->b->part;
    struct joiner j = { .c = c };
    bool fine = true;
    for (int queried = 0; queried < 2 && fine; queried++) {
        j.queries = queried;
        c->wait_store[queried] = rondo__add_nodes(c->b, -1, 0);
        fine = c->wait_store[queried] >= 0 && join_side(&j);
    }
    rondo__sort(j.due.items, sizeof(struct due), j.due.count, due_after);
    struct rondo_backward_join *join = fine ? rondo__list_add(&p->joins, sizeof *join, j.due.count) : NULL;
    const struct due *due = j.due.items;
    fine = fine && (join || !j.due.count);
    for (int64_t i = 0; i < j.due.count && fine; i++) {
        join[i] = due[i].join;
        c->joins_first[2 * due[i].stage + due[i].queries + 1]++;
    }
    for (int32_t i = 0; i < 2 * c->stages; i++)
        c->joins_first[i + 1] += c->joins_first[i];
    rondo__tree_free(&j.tree);
    rondo__list_free(&j.tree.memory);
    rondo__list_free(&j.pieces);
    rondo__list_free(&j.stages);
    rondo__list_free(&j.lists);
    rondo__list_free(&j.due);
    return fine;
}
