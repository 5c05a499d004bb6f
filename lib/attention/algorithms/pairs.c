/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Who computes how much. Ranks are put into classes twice, as owners of queries and as owners of keys, and a rank computes one class of
 * queries against one class of keys: pass-KV its own queries against all keys, pass-Q all queries against its own keys, tiles some of
 * both. How many visible pairs each two classes have is what a plan says of itself (visible_pairs_here, imbalance).
 *
 * Near-linear: of the side that has fewer classes each class is one list by position, with how many it has so far; each span of the other
 * side asks the mask about a list as a whole, takes what it sees all of or nothing of as it is, and halves the rest.
 */
#include "attention/algorithms/algorithms.h"

/* A span of a class. before: positions of the class in parts before it; end: beyond the last one of it and of all before it. */
struct part {
    rondo_span span;
    int64_t before, end;
    int32_t of, reserved;
};

_Static_assert(sizeof(struct part) <= RONDO_SORT_MOST, "rondo__sort() can move a part");

struct counting {
    const struct rondo__survey *survey;
    int64_t sequence, head;            /* head -1: all that the mask distinguishes */
    struct rondo__list queries, keys;
    bool split_keys;                   /* the lists that are halved are the keys' */
};

static bool add(struct rondo__list *list, rondo_span span, int32_t of)
{
    struct part *p = rondo__list_add(list, sizeof *p, 1);
    if (p)
        *p = (struct part){ .span = span, .of = of };
    return p != NULL;
}

static bool collect(struct counting *c, const int32_t *query_class, const int32_t *key_class)
{
    const struct rondo__survey *s = c->survey;
    const struct rondo__sequence *q = s->sequence + c->sequence;
    bool fine = true;
    c->queries.count = c->keys.count = 0;
    for (int64_t i = q->strips_first; i < q->strips_first + q->strips; i++) {
        const struct rondo__strip *strip = rondo__strip_at(s, i);
        const rondo_span *span = (const rondo_span *)s->spans.items + strip->spans_first;
        for (int32_t j = 0; j < strip->spans; j++)
            fine = fine && add(&c->queries, span[j], query_class[strip->rank]);
    }
    for (int64_t i = q->stretches_first; i < q->stretches_first + q->stretches; i++) {
        const struct rondo__stretch *stretch = (const struct rondo__stretch *)s->stretches.items + i;
        const int64_t first = stretch->first * s->roles.leaf, end = stretch->end * s->roles.leaf;
        const rondo_span keys = { first, (end < q->length ? end : q->length) - first, 1, 0 };
        fine = fine && add(&c->keys, keys, key_class[stretch->rank]);
    }
    for (int64_t i = q->fragments_first; i < q->fragments_first + q->fragments; i++) {
        const struct rondo__piece *p = (const struct rondo__piece *)s->fragments.items + i;
        const rondo_span keys = { p->first, p->count, p->step, 0 };
        fine = fine && add(&c->keys, keys, key_class[p->rank]);
    }
    return fine;
}

static bool is_after(const void *first, const void *second)
{
    const struct part *a = first, *b = second;
    return a->of != b->of ? a->of > b->of : a->span.first > b->span.first;
}

/* Those that touch as one; in_order: each class's by position before. */
static void arrange(struct rondo__list *list, bool in_order)
{
    struct part *p = list->items;
    int64_t n = 0;
    if (in_order)
        rondo__sort(p, sizeof *p, list->count, is_after);
    for (int64_t i = 0; i < list->count; i++) {
        const int64_t end = p[i].span.first + (p[i].span.count - 1) * p[i].span.step + 1;
        struct part *last = n && p[n - 1].of == p[i].of ? p + n - 1 : NULL;
        if (last && last->span.step == 1 && p[i].span.step == 1 && last->span.first + last->span.count == p[i].span.first) {
            last->span.count += p[i].span.count;
            last->end = end > last->end ? end : last->end;
            continue;
        }
        p[n] = p[i];
        p[n].before = last ? last->before + last->span.count : 0;
        p[n].end = last && last->end > end ? last->end : end;
        n++;
    }
    list->count = n;
}

static uint64_t ask(const struct counting *c, const rondo_span *queries, const rondo_span *keys)
{
    const struct rondo_mask *mask = &c->survey->roles.mask;
    return c->head < 0 || !mask->kind->head_pairs ? mask->kind->pairs(mask, c->sequence, queries, keys)
                                                  : mask->kind->head_pairs(mask, c->sequence, c->head, queries, keys);
}

/* Of a span of one side and parts of a list of the other that see each other wholly, in every head. */
static uint64_t product(const struct counting *c, const rondo_span *one, const struct part *first, const struct part *last)
{
    const uint64_t heads = c->head < 0 ? (uint64_t)c->survey->roles.mask.heads : 1;
    uint64_t pairs;
    return __builtin_mul_overflow(last->before + last->span.count - first->before, one->count, &pairs) ||
                   __builtin_mul_overflow(pairs, heads, &pairs) ? UINT64_MAX : pairs;
}

/* Of a span of one side and parts [low, high) of a list of the other. */
static uint64_t count(const struct counting *c, const rondo_span *one, const struct part *list, int64_t low, int64_t high)
{
    const struct rondo_mask *mask = &c->survey->roles.mask;
    const struct part *first = list + low, *last = list + high - 1;
    if (high - low == 1)
        return ask(c, c->split_keys ? one : &first->span, c->split_keys ? &first->span : one);
    const rondo_span hull = { first->span.first, last->end - first->span.first, 1, 0 };
    const rondo_span *queries = c->split_keys ? one : &hull;
    const int64_t k0 = c->split_keys ? hull.first : one->first, k1 = c->split_keys ? last->end : one->first + (one->count - 1) * one->step + 1;
    int64_t lo, hi;
    const int view = mask->kind->view(mask, c->sequence, queries, k0, k1, &lo, &hi);
    if (view == RONDO_MASK_NONE)
        return 0;
    if (view == RONDO_MASK_ALL)
        return product(c, one, first, last);
    const int64_t middle = low + (high - low) / 2;
    return rondo__add_saturated(count(c, one, list, low, middle), count(c, one, list, middle, high));
}

/* Whether every query sees every key, as in a step that decodes. */
static bool sees_all(const struct counting *c)
{
    const struct rondo_mask *mask = &c->survey->roles.mask;
    const struct part *q = c->queries.items;
    int64_t first = INT64_MAX, end = INT64_MIN, lo, hi;
    if (!c->queries.count)
        return false;
    for (int64_t i = 0; i < c->queries.count; i++) {
        first = q[i].span.first < first ? q[i].span.first : first;
        end = q[i].end > end ? q[i].end : end;
    }
    if (!c->queries.count)
        return false;
    const rondo_span hull = { first, end - first, 1, 0 };
    return mask->kind->view(mask, c->sequence, &hull, 0, c->survey->sequence[c->sequence].length, &lo, &hi) == RONDO_MASK_ALL;
}

static void count_all(const struct counting *c, int32_t query_classes, uint64_t *cells)
{
    const struct rondo__list *halved = c->split_keys ? &c->keys : &c->queries, *other = c->split_keys ? &c->queries : &c->keys;
    const struct part *list = halved->items, *one = other->items;
    const bool all = sees_all(c);
    for (int64_t i = 0, end; i < halved->count; i = end) {
        for (end = i; end < halved->count && list[end].of == list[i].of; end++)
            ;
        for (int64_t j = 0; j < other->count; j++) {
            const int32_t q = c->split_keys ? one[j].of : list[i].of, k = c->split_keys ? list[i].of : one[j].of;
            uint64_t *cell = cells + (int64_t)k * query_classes + q;
            *cell = rondo__add_saturated(*cell, all ? product(c, &one[j].span, list + i, list + end - 1) : count(c, &one[j].span, list, i, end));
        }
    }
}

bool rondo__class_head_pairs(const struct rondo__survey *s, int64_t head, const int32_t *query_class, int32_t query_classes,
                             const int32_t *key_class, int32_t key_classes, uint64_t *cells)
{
    struct counting c = { .survey = s, .head = head, .queries = rondo__list_of(s->arena), .keys = rondo__list_of(s->arena),
                          .split_keys = key_classes <= query_classes };
    const struct rondo__arena_mark mark = rondo__arena_mark(s->arena);
    bool fine = true;
    memset(cells, 0, (size_t)query_classes * (size_t)key_classes * sizeof *cells);
    for (c.sequence = 0; c.sequence < s->roles.sequences && fine; c.sequence++) {
        fine = collect(&c, query_class, key_class);
        if (!fine)
            break;
        arrange(&c.queries, !c.split_keys);
        arrange(&c.keys, c.split_keys);
        count_all(&c, query_classes, cells);
    }
    rondo__arena_return(s->arena, mark);
    return fine;
}

bool rondo__class_pairs(const struct rondo__survey *s, const int32_t *query_class, int32_t query_classes, const int32_t *key_class,
                        int32_t key_classes, uint64_t *cells)
{
    return rondo__class_head_pairs(s, -1, query_class, query_classes, key_class, key_classes, cells);
}

bool rondo__tile_pairs(const struct rondo__survey *s, const struct rondo__shape *shape, int32_t columns, uint64_t *of_rank)
{
    const int32_t n = s->roles.ranks;
    int32_t *of = rondo__arena_take(s->arena, (size_t)n * 2 * sizeof *of);
    if (!of)
        return false;
    for (int32_t r = 0; r < n; r++) {
        of[r] = r % columns;
        of[n + r] = r / columns;
    }
    const bool fine = rondo__class_pairs(s, of, columns, of + n, n / columns, of_rank);
    const uint64_t alike = (uint64_t)(shape->heads / s->roles.mask.heads);   /* heads that see the same */
    for (int32_t r = 0; r < n && fine; r++)
        of_rank[r] = __builtin_mul_overflow(of_rank[r], alike, &of_rank[r]) ? UINT64_MAX : of_rank[r];
    return fine;
}
