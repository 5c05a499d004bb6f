/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Which rows of K and V somebody needs of whom: what direct transfers of keys carry. Both ends of a message list it by themselves and find
 * the same. Called by the builders that move keys.
 */
#include "attention/algorithms/algorithms.h"

static bool add(struct rondo__list *out, struct rondo__need need)
{
    struct rondo__need *n = rondo__list_add(out, sizeof *n, 1);
    if (n)
        *n = need;
    return n != NULL;
}

bool rondo__list_needs(const struct rondo__survey *s, int64_t sequence, const struct rondo__list *sees, int32_t holder, int32_t first,
                       int32_t ranks, struct rondo__list *out)
{
    const struct rondo__sequence *q = s->sequence + sequence;
    const struct rondo__stretch *stretch = (const struct rondo__stretch *)s->stretches.items + q->stretches_first;
    const struct rondo__piece *fragment = (const struct rondo__piece *)s->fragments.items + q->fragments_first;
    const struct rondo__interval *v = sees->items;
    const int64_t leaf = s->roles.leaf;
    out->count = 0;
    for (int64_t i = 0; i < sees->count; i++)
        for (int64_t k = rondo__stretch_find(stretch, q->stretches, v[i].lo / leaf); k < q->stretches && stretch[k].first * leaf < v[i].hi; k++) {
            int64_t begin = stretch[k].first * leaf, end = stretch[k].end * leaf, lo = v[i].lo > begin ? v[i].lo : begin;
            int64_t hi = v[i].hi < end ? v[i].hi : end;
            if (stretch[k].rank == holder || stretch[k].rank < first || stretch[k].rank >= first + ranks)
                continue;
            if (!add(out, (struct rondo__need){ lo / leaf, (hi - 1) / leaf + 1, stretch[k].row + (lo - begin), hi - lo, 0, stretch[k].rank, 0 }))
                return false;
        }
    for (int64_t i = 0; i < q->fragments; i++) {
        const struct rondo__piece *p = fragment + i;
        bool seen = false;
        for (int64_t j = 0; j < sees->count && !seen; j++)
            seen = p->first + (p->count - 1) * p->step >= v[j].lo && p->first < v[j].hi;
        if (!seen || p->rank == holder || p->rank < first || p->rank >= first + ranks)
            continue;
        if (!add(out, (struct rondo__need){ p->index, p->index + 1, p->row, p->count, 0, p->rank, 0 }))
            return false;
    }
    return true;
}

bool rondo__rank_needs(const struct rondo__survey *s, int64_t sequence, int32_t rank, int32_t from, struct rondo__list *sees,
                       struct rondo__list *out)
{
    int64_t strip, strips = rondo__strips_of(s, sequence, rank, &strip);
    out->count = 0;
    if (!strips)
        return true;
    return rondo__rank_sees(s, strip, strips, sees) &&
           rondo__list_needs(s, sequence, sees, rank, from < 0 ? 0 : from, from < 0 ? s->roles.ranks : 1, out);
}

int64_t rondo__need_row(const struct rondo__list *needs, const struct rondo__piece *p, int64_t *next)
{
    const struct rondo__need *need = needs->items;
    while (*next < needs->count && (need[*next].leaf_end <= p->index || need[*next].rank != p->rank))
        ++*next;
    /* of a leaf whose first keys nobody sees this lies before what came; those keys are never touched */
    return need[*next].at + p->row - need[*next].row;
}
