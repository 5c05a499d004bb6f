/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Reading a survey: the pieces of the input side that some output rows see, which the canonical tree is built over. A piece is a run of
 * leaves under one aligned node, so there are few of them, whatever the length. Called by the builders; all ranks that look at one strip
 * find the same pieces, so that both ends of a message leave out the same ones without a word between them.
 */
#include "attention/survey.h"

struct walk {
    const struct rondo__survey *survey;
    struct rondo__list *out;
    int64_t leaf, length;
    int32_t own, own_end;                  /* of these ranks */
    bool failed;
    int64_t foreign_first, foreign_last;   /* of others', since the last own piece; first -1: none */
};

static bool is_own(const struct walk *w, int32_t rank)
{
    return rank >= w->own && rank < w->own_end;
}

static void put(struct walk *w, struct rondo__piece piece)
{
    struct rondo__piece *p = rondo__list_add(w->out, sizeof *p, 1);
    if (p)
        *p = piece;
    else
        w->failed = true;
}

/* What others have, seen from here: its first and its last leaf, which are inside every node that has any of it. */
static void put_foreign(struct walk *w)
{
    if (w->foreign_first < 0)
        return;
    put(w, (struct rondo__piece){ .index = w->foreign_first, .leaves = 1, .rank = -1 });
    if (w->foreign_last != w->foreign_first)
        put(w, (struct rondo__piece){ .index = w->foreign_last, .leaves = 1, .rank = -1 });
    w->foreign_first = -1;
}

/* Leaves [first, end) of a stretch as aligned runs. */
static void put_leaves(struct walk *w, const struct rondo__stretch *s, int64_t first, int64_t end)
{
    if (!is_own(w, s->rank)) {
        w->foreign_first = w->foreign_first < 0 ? first : w->foreign_first;
        w->foreign_last = end - 1;
        return;
    }
    put_foreign(w);
    while (first < end) {
        int64_t size = first ? first & -first : (int64_t)1 << 62;
        while (size > end - first)
            size /= 2;
        int64_t key = first * w->leaf, last = (first + size) * w->leaf;
        put(w, (struct rondo__piece){ .index = first, .leaves = size, .row = s->row + (first - s->first) * w->leaf, .first = key,
                                      .count = (last < w->length ? last : w->length) - key, .step = 1, .rank = s->rank });
        first += size;
    }
}

int64_t rondo__stretch_find(const struct rondo__stretch *s, int64_t count, int64_t at)
{
    int64_t low = 0, high = count;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (s[middle].end > at)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static void put_fragment(struct walk *w, const struct rondo__piece *p, const struct rondo__interval *sees, int32_t count)
{
    const int64_t last = p->first + (p->count - 1) * p->step;
    bool seen = false;
    for (int32_t i = 0; i < count && !seen; i++)
        seen = last >= sees[i].lo && p->first < sees[i].hi;
    if (!seen)
        return;
    if (!is_own(w, p->rank)) {
        w->foreign_first = w->foreign_first < 0 ? p->index : w->foreign_first;
        w->foreign_last = p->index;
        return;
    }
    put_foreign(w);
    put(w, *p);
}

bool rondo__pieces_of(const struct rondo__survey *s, int64_t sequence, const struct rondo__interval *sees, int32_t count, int32_t first,
                      int32_t ranks, struct rondo__list *out)
{
    const struct rondo__sequence *q = s->sequence + sequence;
    const struct rondo__stretch *stretches = (const struct rondo__stretch *)s->stretches.items + q->stretches_first;
    const struct rondo__piece *fragments = (const struct rondo__piece *)s->fragments.items + q->fragments_first;
    struct walk w = { .survey = s, .out = out, .leaf = s->roles.leaf, .length = q->length, .own = first, .own_end = first + ranks,
                      .foreign_first = -1 };
    out->count = 0;
    for (int32_t i = 0; i < count; i++) {
        int64_t lo = sees[i].lo / w.leaf, hi = (sees[i].hi - 1) / w.leaf + 1;
        for (int64_t j = rondo__stretch_find(stretches, q->stretches, lo); j < q->stretches && stretches[j].first < hi; j++) {
            int64_t begin = stretches[j].first > lo ? stretches[j].first : lo, end = stretches[j].end < hi ? stretches[j].end : hi;
            put_leaves(&w, stretches + j, begin, end);
        }
    }
    for (int64_t i = 0; i < q->fragments; i++)
        put_fragment(&w, fragments + i, sees, count);
    put_foreign(&w);
    return !w.failed;
}

bool rondo__pieces(const struct rondo__survey *s, int64_t sequence, const struct rondo__interval *sees, int32_t count, int32_t rank,
                   struct rondo__list *out)
{
    return rondo__pieces_of(s, sequence, sees, count, rank < 0 ? 0 : rank, rank < 0 ? s->roles.ranks : 1, out);
}

int64_t rondo__strips_of(const struct rondo__survey *s, int64_t sequence, int32_t rank, int64_t *first)
{
    const struct rondo__sequence *q = s->sequence + sequence;
    int64_t low = q->strips_first, high = q->strips_first + q->strips, n = 0;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (rondo__strip_at(s, middle)->rank < rank)
            low = middle + 1;
        else
            high = middle;
    }
    *first = low;
    while (low + n < q->strips_first + q->strips && rondo__strip_at(s, low + n)->rank == rank)
        n++;
    return n;
}

int64_t rondo__rows_before(const struct rondo__survey *s, int64_t sequence, int32_t rank, int64_t position)
{
    int64_t strip, strips = rondo__strips_of(s, sequence, rank, &strip), rows = 0;
    for (int64_t i = strip; i < strip + strips; i++) {
        const rondo_span *span = (const rondo_span *)s->spans.items + rondo__strip_at(s, i)->spans_first;
        for (int32_t j = 0; j < rondo__strip_at(s, i)->spans; j++, span++)
            if (span->first < position) {
                const int64_t before = (position - 1 - span->first) / span->step + 1;
                rows += before < span->count ? before : span->count;
            }
    }
    return rows;
}

int64_t rondo__rows_here(const struct rondo__survey *s, int64_t sequence, int32_t rank)
{
    int64_t strip, strips = rondo__strips_of(s, sequence, rank, &strip), rows = 0;
    for (int64_t i = strip; i < strip + strips; i++)
        rows += rondo__strip_at(s, i)->rows;
    return rows;
}

static bool add_sees(const struct rondo__survey *s, int64_t strip, int64_t strips, struct rondo__list *out)
{
    for (int64_t i = strip; i < strip + strips; i++) {
        const struct rondo__strip *t = rondo__strip_at(s, i);
        struct rondo__interval *v = t->sees ? rondo__list_add(out, sizeof *v, t->sees) : NULL;
        if (v)
            memcpy(v, rondo__strip_sees(s, t), (size_t)t->sees * sizeof *v);
        else if (t->sees)
            return false;
    }
    return true;
}

static bool is_after(const void *a, const void *b)
{
    return ((const struct rondo__interval *)a)->lo > ((const struct rondo__interval *)b)->lo;
}

/* Those that touch one leaf become one. */
static void unite(struct rondo__list *list, int64_t leaf)
{
    struct rondo__interval *v = list->items;
    int64_t n = 0;
    rondo__sort(v, sizeof *v, list->count, is_after);
    for (int64_t i = 0; i < list->count; i++) {
        if (n && v[i].lo / leaf <= (v[n - 1].hi - 1) / leaf)
            v[n - 1].hi = v[i].hi > v[n - 1].hi ? v[i].hi : v[n - 1].hi;
        else
            v[n++] = v[i];
    }
    list->count = n;
}

bool rondo__rank_sees(const struct rondo__survey *s, int64_t strip, int64_t strips, struct rondo__list *out)
{
    out->count = 0;
    const bool fine = add_sees(s, strip, strips, out);
    unite(out, s->roles.leaf);
    return fine;
}

bool rondo__ranks_see(const struct rondo__survey *s, int64_t sequence, int32_t first, int32_t step, struct rondo__list *out)
{
    bool fine = true;
    out->count = 0;
    for (int32_t r = first; r < s->roles.ranks && fine; r += step) {
        int64_t strip, strips = rondo__strips_of(s, sequence, r, &strip);
        fine = add_sees(s, strip, strips, out);
    }
    unite(out, s->roles.leaf);
    return fine;
}

/* Subtrees right of leaf `before` and left of leaf `end`, within [0, 2^62), that meet [first, end): one for each level at which `before` is a
 * left child, up to `top`. */
static int32_t right_of(int64_t before, int64_t first, int64_t end, int32_t top)
{
    int32_t n = 0;
    for (int32_t bit = 0; bit < top; bit++) {
        if (before >> bit & 1)
            continue;
        int64_t begin = ((before >> bit) + 1) << bit, stop = begin + ((int64_t)1 << bit);
        n += begin < end && stop > first;
        if (begin >= end)
            break;
    }
    return n;
}

static int32_t left_of(int64_t after, int64_t first, int64_t end, int32_t top)
{
    int32_t n = 0;
    for (int32_t bit = 0; bit < top; bit++) {
        if (!(after >> bit & 1))
            continue;
        int64_t begin = ((after >> bit) - 1) << bit, stop = begin + ((int64_t)1 << bit);
        n += begin < end && stop > first;
        if (stop <= first)
            break;
    }
    return n;
}

int32_t rondo__nodes_between(int64_t first, int64_t end, int64_t before, int64_t after)
{
    if (first >= end)
        return 0;
    if (before < 0 && after < 0)
        return 1;
    if (before < 0)
        return left_of(after, first, end, 62);
    if (after < 0)
        return right_of(before, first, end, 62);
    /* Where the two part, a subtree on each side. */
    int32_t top = 63 - __builtin_clzll((unsigned long long)(before ^ after));
    return right_of(before, first, end, top) + left_of(after, first, end, top);
}
