/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Nodes that travel: how many of a strip's each group of ranks has, which strips are wanted by whom, and the owner's job that joins them. A
 * group is `columns` neighbouring ranks, which compute with its keys together (pass-Q: one). Both ends of a message count its nodes by
 * themselves. Called by the builders whose partial results go back to the queries' owner.
 */
#include "attention/algorithms/algorithms.h"

/* ---- how many ---- */

bool rondo__tally_make(struct rondo__tally *t, const struct rondo__survey *s, int32_t columns)
{
    const struct rondo__list empty = rondo__list_of(s->arena);
    *t = (struct rondo__tally){ .columns = columns, .touched = empty, .pieces = empty, .owners = empty, .tree = { .memory = empty } };
    t->count = rondo__arena_zero(s->arena, (size_t)(s->roles.ranks / columns), sizeof *t->count);
    return t->count != NULL;
}

static bool touch(struct rondo__tally *t, int32_t group, int64_t nodes)
{
    if (!t->count[group]) {
        int32_t *g = rondo__list_add(&t->touched, sizeof *g, 1);
        if (!g)
            return false;
        *g = group;
    }
    t->count[group] += nodes;
    return true;
}

/* In general: by the tree itself. */
static bool tally_tree(const struct rondo__survey *s, int64_t sequence, const struct rondo__strip *strip, struct rondo__tally *t)
{
    t->owners.count = 0;
    if (!rondo__pieces(s, sequence, rondo__strip_sees(s, strip), strip->sees, -1, &t->pieces) ||
        !rondo__list_add(&t->owners, sizeof(int32_t), t->pieces.count + 1) ||
        rondo__tree_build(&t->tree, t->pieces.items, t->pieces.count, 1))
        return false;
    const struct rondo__piece *p = t->pieces.items;
    int32_t *owner = t->owners.items;
    for (int64_t i = 0; i < t->pieces.count; i++) {
        owner[i] = p[i].rank / t->columns;
        t->alone &= owner[i] == strip->rank / t->columns;
        if (!t->count[owner[i]] && !touch(t, owner[i], 1))
            return false;
    }
    const int32_t *g = t->touched.items;
    for (int64_t i = 0; i < t->touched.count; i++)
        t->count[g[i]] = 0;
    rondo__tree_owners(&t->tree, owner, t->count);
    return true;
}

/* Of one interval of whole leaves: stretch by stretch, each between the leaves of two others. */
static bool tally_stretches(const struct rondo__survey *s, int64_t sequence, const struct rondo__strip *strip, struct rondo__tally *t)
{
    const struct rondo__sequence *q = s->sequence + sequence;
    const struct rondo__stretch *stretch = (const struct rondo__stretch *)s->stretches.items + q->stretches_first;
    const struct rondo__interval *v = rondo__strip_sees(s, strip);
    const int64_t lo = v->lo / s->roles.leaf, hi = (v->hi - 1) / s->roles.leaf + 1;
    for (int64_t j = rondo__stretch_find(stretch, q->stretches, lo), next; j < q->stretches && stretch[j].first < hi; j = next) {
        const int32_t group = stretch[j].rank / t->columns;
        for (next = j + 1; next < q->stretches && stretch[next].rank / t->columns == group; next++)
            ;
        int64_t first = stretch[j].first > lo ? stretch[j].first : lo, end = stretch[next - 1].end < hi ? stretch[next - 1].end : hi;
        t->alone &= group == strip->rank / t->columns;
        if (!touch(t, group, rondo__nodes_between(first, end, first > lo ? first - 1 : -1, end < hi ? end : -1)))
            return false;
    }
    return true;
}

bool rondo__tally_strip(struct rondo__tally *t, const struct rondo__survey *s, int64_t sequence, const struct rondo__strip *strip)
{
    const int32_t *g = t->touched.items;
    for (int64_t i = 0; i < t->touched.count; i++)
        t->count[g[i]] = 0;
    t->touched.count = 0;
    t->alone = true;
    if (!strip->sees)
        return true;
    return strip->sees == 1 && !s->sequence[sequence].fragments ? tally_stretches(s, sequence, strip, t) : tally_tree(s, sequence, strip, t);
}

/* ---- who wants which ---- */

bool rondo__wanted_make(struct rondo__wanted *w, const struct rondo__survey *s, int32_t rank, int32_t columns)
{
    struct rondo__tally t;
    int64_t own = 0, first;
    size_t words;
    *w = (struct rondo__wanted){ .words = (s->roles.ranks / columns + 63) / 64 };
    for (int64_t i = 0; i < s->roles.sequences; i++)
        own += rondo__strips_of(s, i, rank, &first);
    w->bits = rondo__mul((size_t)own, (size_t)w->words, &words) ? rondo__arena_zero(s->arena, words, sizeof *w->bits) : NULL;
    bool fine = rondo__tally_make(&t, s, columns) && w->bits;
    uint64_t *at = w->bits;
    for (int64_t i = 0; i < s->roles.sequences && fine; i++)
        for (int64_t j = 0, n = rondo__strips_of(s, i, rank, &first); j < n && fine; j++, at += w->words) {
            fine = rondo__tally_strip(&t, s, i, rondo__strip_at(s, first + j));
            const int32_t *g = t.touched.items;
            for (int64_t k = 0; k < t.touched.count; k++)
                at[g[k] / 64] |= (uint64_t)1 << g[k] % 64;
        }
    return fine;
}

/* ---- where they lie ---- */

int32_t rondo__node_buffer(struct rondo__build *b, const char *name, int32_t index, int64_t rows)
{
    struct rondo__buffer buffer = { .name = name, .index = index, .owner = RONDO_OWNER_PLAN, .memory = rondo__compute_memory(b), .tensor = -1,
                                    .home = -1, .over = -1 };
    buffer.bytes = buffer.room = rondo__product(rows, rondo__node_bytes(b));
    return rows ? rondo__buffer_add(b->schedule, buffer) : -1;
}

/* ---- the owner's join ---- */

void rondo__joiner_begin(struct rondo__joiner *j, struct rondo__build *b, int32_t columns)
{
    const struct rondo__list empty = rondo__list_of(b->survey->arena);
    *j = (struct rondo__joiner){ .columns = columns, .pieces = empty, .owners = empty, .group_of = empty, .tree = { .memory = empty } };
}

bool rondo__join_strip(struct rondo__joiner *j, struct rondo__build *b, int64_t sequence, const struct rondo__strip *strip, int64_t *rows)
{
    const struct rondo__survey *s = b->survey;
    struct rondo__program program;
    int64_t spans_first;
    j->owners.count = j->group_of.count = 0;
    if (!rondo__pieces(s, sequence, rondo__strip_sees(s, strip), strip->sees, -1, &j->pieces) ||
        !rondo__list_add(&j->owners, sizeof(int32_t), j->pieces.count + 1) ||
        rondo__tree_build(&j->tree, j->pieces.items, j->pieces.count, 1))
        return false;
    int32_t *owner = j->owners.items;
    for (int64_t i = 0; i < j->pieces.count; i++)
        owner[i] = ((const struct rondo__piece *)j->pieces.items)[i].rank / j->columns;
    rondo__tree_owners(&j->tree, owner, NULL);
    if (!rondo__tree_join(&j->tree, &b->tables->steps, &program, &j->group_of) || !rondo__add_spans(b, strip, &spans_first))
        return false;
    struct rondo_job *job = rondo__add_job(b, sequence, strip, strip->row, spans_first, &program);
    struct rondo_place *place = rondo__add_places(b, j->group_of.count);
    if (!job || !place)
        return false;
    job->places = (int32_t)j->group_of.count;
    /* nodes of a group lie in their order in its message */
    const int32_t *group = j->group_of.items;
    for (int64_t i = 0; i < j->group_of.count; i++) {
        place[i] = (struct rondo_place){ rows[group[i]], group[i], 0 };
        rows[group[i]] += strip->rows;
    }
    return true;
}
