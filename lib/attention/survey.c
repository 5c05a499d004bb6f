/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Makes a survey: the input side as stretches of leaves, the output side as strips with what they see. Called by plan.c once for a plan,
 * and once for all ranks by whoever looks at them all.
 */
#include "attention/survey.h"

/* At most so many strips for the rows of a rank in a sequence; neighbours share one where there are more spans. */
#define STRIPS_MAX 8

static int no_memory(void)
{
    return rondo__fail(RONDO_ENOMEM, "attention: no memory to survey who sees what");
}

/* ---- which positions a side has ---- */

static bool hold(struct rondo__list *out, int32_t rank, int64_t first, int64_t count, int64_t step)
{
    struct rondo__held *last = out->count ? (struct rondo__held *)out->items + out->count - 1 : NULL, *h;
    if (last && last->rank == rank && step == 1 && last->span.step == 1 && last->span.first + last->span.count == first) {
        last->span.count += count;
        return true;
    }
    h = rondo__list_add(out, sizeof *h, 1);
    if (h)
        *h = (struct rondo__held){ { first, count, count > 1 ? step : 1, 0 }, rank, 0 };
    return h != NULL;
}

/* Stable: by rank. Few are put in order as they are, many counted out. */
static int by_rank(struct rondo__list *list, int32_t ranks)
{
    struct rondo__held *h = list->items;
    bool sorted = true;
    for (int64_t i = 1; i < list->count; i++)
        sorted &= h[i - 1].rank <= h[i].rank;
    if (sorted)
        return 0;
    const struct rondo__arena_mark mark = rondo__arena_mark(list->arena);
    struct rondo__held *to = rondo__arena_take(list->arena, (size_t)list->count * sizeof *to);
    int64_t *first = rondo__arena_zero(list->arena, (size_t)ranks + 1, sizeof *first);
    if (!to || !first)
        return no_memory();
    for (int64_t i = 0; i < list->count; i++)
        first[h[i].rank + 1]++;
    for (int32_t r = 0; r < ranks; r++)
        first[r + 1] += first[r];
    for (int64_t i = 0; i < list->count; i++)
        to[first[h[i].rank]++] = h[i];
    memcpy(h, to, (size_t)list->count * sizeof *h);
    rondo__arena_return(list->arena, mark);
    return 0;
}

int rondo__side_held(const struct rondo__side *side, int64_t sequence, struct rondo__list *out)
{
    const int64_t shift = side->shift ? side->shift[sequence] : 0, from = side->from ? side->from[sequence] : 0;
    const rondo_placement *p = shift ? side->other : side->placement;
    const struct rondo__run *runs;
    int64_t count = rondo__placement_runs(p, sequence, &runs), length = rondo_placement_length(p, sequence), low = 0, high = count;
    if (side->until && side->until[sequence] < length)
        length = side->until[sequence];
    const int32_t ranks = rondo__placement_desc(p)->ranks;
    bool fits = true;
    out->count = 0;
    while (high - low > 1) {   /* the last run that begins at `from` or before */
        int64_t middle = low + (high - low) / 2;
        if (runs[middle].first <= from)
            low = middle;
        else
            high = middle;
    }
    for (int64_t i = low; i < count; i++) {
        int64_t end = i + 1 < count && runs[i + 1].first < length ? runs[i + 1].first : length, first = runs[i].first > from ? runs[i].first : from;
        if (first >= end)
            continue;
        if (runs[i].stride == 1) {
            fits &= hold(out, runs[i].rank, first + shift, end - first, 1);
            continue;
        }
        for (int32_t j = 0; j < ranks && first + j < end; j++)
            fits &= hold(out, (int32_t)((runs[i].rank + (first + j - runs[i].first)) % ranks), first + j + shift,
                         (end - 1 - first - j) / ranks + 1, ranks);
    }
    if (!fits)
        return no_memory();
    int err = by_rank(out, ranks);
    /* What touches is one span; rows count from 0 for each rank. */
    struct rondo__held *h = out->items;
    int64_t n = 0, row = 0;
    for (int64_t i = 0; i < out->count && !err; i++) {
        row = n && h[n - 1].rank == h[i].rank ? row : 0;
        h[i].span.row = row;
        row += h[i].span.count;
        if (n && h[n - 1].rank == h[i].rank && h[n - 1].span.step == 1 && h[i].span.step == 1 &&
            h[n - 1].span.first + h[n - 1].span.count == h[i].span.first)
            h[n - 1].span.count += h[i].span.count;
        else
            h[n++] = h[i];
    }
    out->count = n;
    return err;
}

/* ---- the input side ---- */

struct walk {
    struct rondo__survey *survey;
    struct rondo__sequence *sequence;
    int64_t *rows, *fragments;   /* [ranks] so far */
    int64_t leaf;
    bool failed;
};

static void put_stretch(struct walk *w, int64_t first, int64_t end, int64_t row, int32_t rank)
{
    struct rondo__stretch *s = rondo__list_add(&w->survey->stretches, sizeof *s, 1);
    if (s)
        *s = (struct rondo__stretch){ first, end, row, rank, 0 };
    else
        w->failed = true;
    w->sequence->stretches++;
}

static void put_fragment(struct walk *w, int64_t first, int64_t count, int32_t step, int32_t rank)
{
    struct rondo__piece *p = rondo__list_add(&w->survey->fragments, sizeof *p, 1);
    if (p)
        *p = (struct rondo__piece){ .index = ((int64_t)(1 + rank) << w->sequence->shift) + w->fragments[rank]++, .leaves = 1,
                                    .row = w->rows[rank], .first = first, .count = count, .step = step, .rank = rank };
    else
        w->failed = true;
    w->sequence->fragments++;
}

/* Positions [a, end) on one rank: what comes before its first leaf boundary, whole leaves, the rest. */
static void walk_run(struct walk *w, int64_t a, int64_t end, int32_t rank)
{
    const int64_t leaf = w->leaf, length = w->sequence->length;
    if (a % leaf) {
        int64_t next = a - a % leaf + leaf, b = next < end ? next : end;
        put_fragment(w, a, b - a, 1, rank);
        w->rows[rank] += b - a;
        a = b;
    }
    int64_t whole = end == length ? (end + leaf - 1) / leaf : end / leaf, first = a / leaf;
    if (a < end && first < whole) {
        int64_t b = whole * leaf < end ? whole * leaf : end;
        put_stretch(w, first, whole, w->rows[rank], rank);
        w->rows[rank] += b - a;
        a = b;
    }
    if (a < end) {
        put_fragment(w, a, end - a, 1, rank);
        w->rows[rank] += end - a;
    }
}

/* Positions dealt out one by one, cut so that each rank's part has at most a leaf's number of keys. */
static void walk_dealt(struct walk *w, const struct rondo__run *run, int64_t end)
{
    const int32_t n = w->survey->roles.ranks;
    const int64_t cut = w->leaf * run->stride;
    for (int64_t a = run->first, b; a < end; a = b) {
        b = (a / cut + 1) * cut;
        b = b < end ? b : end;
        for (int32_t r = 0; r < n; r++) {
            int64_t first = a + (r - (run->rank + (a - run->first)) % n + n) % n;
            int64_t held = first < b ? (b - 1 - first) / n + 1 : 0;
            if (held)
                put_fragment(w, first, held, n, r);
            w->rows[r] += held;
        }
    }
}

_Static_assert(sizeof(struct rondo__piece) <= RONDO_SORT_MOST, "rondo__sort() can move a piece");

static bool is_after(const void *a, const void *b)
{
    return ((const struct rondo__piece *)a)->index > ((const struct rondo__piece *)b)->index;
}

static int walk_input(struct walk *w, int64_t sequence)
{
    struct rondo__survey *s = w->survey;
    struct rondo__sequence *q = w->sequence;
    const rondo_placement *p = s->roles.input.placement;
    const struct rondo__run *runs;
    int64_t count = rondo__placement_runs(p, sequence, &runs);
    const int32_t n = s->roles.ranks;
    bool dealt = false;
    q->length = rondo_placement_length(p, sequence);
    q->stretches_first = s->stretches.count;
    q->fragments_first = s->fragments.count;
    if (q->length / w->leaf >= RONDO_PIECES_MAX)
        return rondo__fail(RONDO_ENOTSUP, "attention: a sequence of %lld keys in leaves of %d; at most 2^28 leaves are supported",
                           (long long)q->length, (int)w->leaf);
    /* all leaf indices, and all fragments of a rank, are below 2^shift */
    q->shift = 1;
    while ((q->length / w->leaf + count + 1) >> q->shift)
        q->shift++;
    memset(w->rows, 0, (size_t)n * sizeof *w->rows);
    memset(w->fragments, 0, (size_t)n * sizeof *w->fragments);
    for (int64_t i = 0; i < count; i++) {
        int64_t end = i + 1 < count ? runs[i + 1].first : q->length;
        if (runs[i].stride == 1)
            walk_run(w, runs[i].first, end, runs[i].rank);
        else
            walk_dealt(w, runs + i, end);
        dealt |= runs[i].stride > 1;
    }
    if (w->failed)
        return no_memory();
    if (dealt)
        rondo__sort((struct rondo__piece *)s->fragments.items + q->fragments_first, sizeof(struct rondo__piece), q->fragments, is_after);
    for (int32_t r = 0; r < n; r++)
        s->input_rows[r] += w->rows[r];
    return 0;
}

/* ---- the output side ---- */

/* Adds an interval to those from `first` on, in order; those that touch one leaf become one. */
static bool see(struct rondo__list *list, int64_t first, int64_t lo, int64_t hi, int64_t leaf)
{
    struct rondo__interval *v = list->items;
    int64_t at = list->count;
    while (at > first && v[at - 1].lo > lo)
        at--;
    if (at > first && lo / leaf <= (v[at - 1].hi - 1) / leaf) {
        at--;
        v[at].hi = hi > v[at].hi ? hi : v[at].hi;
    } else {
        if (!rondo__list_add(list, sizeof *v, 1))
            return false;
        v = list->items;
        memmove(v + at + 1, v + at, (size_t)(list->count - 1 - at) * sizeof *v);
        v[at] = (struct rondo__interval){ lo, hi };
    }
    int64_t next = at + 1;
    for (; next < list->count && v[next].lo / leaf <= (v[at].hi - 1) / leaf; next++)
        v[at].hi = v[next].hi > v[at].hi ? v[next].hi : v[at].hi;
    memmove(v + at + 1, v + next, (size_t)(list->count - next) * sizeof *v);
    list->count -= next - at - 1;
    return true;
}

/* What a span sees, as intervals of whole leaves but for their ends. */
static bool see_span(struct rondo__survey *s, const struct rondo__strip *strip, int64_t sequence, const rondo_span *span, int64_t length)
{
    const struct rondo_mask *mask = &s->roles.mask;
    int64_t lo, hi;
    if (!mask->kind->next)
        return mask->kind->view(mask, sequence, span, 0, length, &lo, &hi) == RONDO_MASK_NONE || lo >= hi ||
               see(&s->sees, strip->sees_first, lo, hi, s->roles.leaf);
    for (int64_t from = 0; from < length && mask->kind->next(mask, sequence, span, from, length, &lo, &hi); from = hi)
        if (!see(&s->sees, strip->sees_first, lo, hi, s->roles.leaf))
            return false;
    return true;
}

/* The held spans [first, end) of one rank as one strip. */
static bool make_strip(struct rondo__survey *s, const struct rondo__sequence *q, int64_t sequence, const struct rondo__held *held, int64_t count)
{
    struct rondo__strip *strip = rondo__list_add(&s->strips, sizeof *strip, 1);
    rondo_span *span = rondo__list_add(&s->spans, sizeof *span, count);
    if (!strip || !span)
        return false;
    *strip = (struct rondo__strip){ .row = held->span.row, .spans_first = s->spans.count - count, .spans = (int32_t)count,
                                    .sees_first = s->sees.count, .rank = held->rank };
    for (int64_t i = 0; i < count; i++) {
        span[i] = held[i].span;
        span[i].row -= strip->row;
        strip->rows += span[i].count;
        if (!see_span(s, strip, sequence, &span[i], q->length))
            return false;
    }
    strip->sees = (int32_t)(s->sees.count - strip->sees_first);
    return true;
}

static int walk_output(struct rondo__survey *s, struct rondo__sequence *q, int64_t sequence, struct rondo__list *held)
{
    int err = rondo__side_held(&s->roles.output, sequence, held);
    const struct rondo__held *h = held->items;
    q->strips_first = s->strips.count;
    for (int64_t i = 0, end; i < held->count && !err; i = end) {
        for (end = i; end < held->count && h[end].rank == h[i].rank; end++)
            s->output_rows[h[i].rank] += h[end].span.count;
        int64_t spans = end - i, strips = spans < STRIPS_MAX ? spans : STRIPS_MAX;
        for (int64_t j = 0; j < strips && !err; j++) {
            int64_t a = i + spans * j / strips, b = i + spans * (j + 1) / strips;
            if (!make_strip(s, q, sequence, h + a, b - a))
                err = no_memory();
        }
    }
    q->strips = s->strips.count - q->strips_first;
    return err;
}

int rondo__survey_make(struct rondo__survey *s, const struct rondo__roles *roles, struct rondo__arena *arena)
{
    struct rondo__list held = rondo__list_of(arena);
    const size_t ranks = (size_t)roles->ranks;
    *s = (struct rondo__survey){ .roles = *roles, .arena = arena };
    s->stretches.arena = s->fragments.arena = s->strips.arena = s->spans.arena = s->sees.arena = arena;
    s->sequence = rondo__arena_zero(arena, (size_t)roles->sequences, sizeof *s->sequence);
    s->output_rows = rondo__arena_zero(arena, ranks, 2 * sizeof *s->output_rows);
    struct walk w = { .survey = s, .leaf = roles->leaf, .rows = rondo__arena_take(arena, ranks * 2 * sizeof *w.rows) };
    if (!s->sequence || !s->output_rows || !w.rows)
        return no_memory();
    s->input_rows = s->output_rows + ranks;
    w.fragments = w.rows + ranks;
    int err = 0;
    for (int64_t i = 0; i < roles->sequences && !err; i++) {
        w.sequence = s->sequence + i;
        err = walk_input(&w, i);
        if (!err)
            err = walk_output(s, w.sequence, i, &held);
    }
    return err;
}
