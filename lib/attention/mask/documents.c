/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A query sees keys of its own document only, the one of the key at its position, and of these what an interval around it shows. A query
 * that stands before key 0 has no document and sees nothing.
 *
 * Documents are kept as runs of keys. Where each is one run what a query sees is an interval, whose two ends rise with the query's
 * position: two binary searches answer for any span of queries. Documents that come back have lists of their runs besides; no question
 * walks over keys, queries or pairs.
 */
#include "attention/mask/mask.h"

/* ---- finding runs ---- */

/* The run of a sequence that has the key at p. */
static int64_t run_of(const struct rondo__documents *d, int64_t sequence, int64_t p)
{
    int64_t low = d->sequence[sequence], high = d->sequence[sequence + 1];
    while (high - low > 1) {
        const int64_t middle = low + (high - low) / 2;
        if (d->runs[middle].first <= p)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static int64_t keys_of(const struct rondo__documents *d, int64_t sequence)
{
    return d->sequence[sequence] < d->sequence[sequence + 1] ? d->runs[d->sequence[sequence + 1] - 1].end : 0;
}

/* Of a document, the place of the first run that ends beyond p; one behind its last: none does. */
static int64_t place_beyond(const struct rondo__documents *d, int64_t document, int64_t p)
{
    int64_t low = d->document[document], high = d->document[document + 1];
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (d->runs[d->list[middle]].end > p)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static const struct rondo__document_run *at_place(const struct rondo__documents *d, int64_t place)
{
    return d->runs + d->list[place];
}

/* The queries of a span that stand on keys of a run, as a span. */
static bool queries_in(const rondo_span *queries, const struct rondo__document_run *run, rondo_span *out)
{
    int64_t i0, i1;
    rondo__span_inside(queries, run->first, run->end - 1, &i0, &i1);
    *out = (rondo_span){ queries->first + i0 * queries->step, i1 - i0, queries->step, 0 };
    return i0 < i1;
}

/* Those that have a document: others stand before key 0. */
static rondo_span placed(const rondo_span *queries)
{
    rondo_span q = *queries;
    if (q.first < 0) {
        int64_t i0, i1;
        rondo__span_inside(queries, 0, RONDO_MASK_FAR, &i0, &i1);
        q.first += i0 * q.step;
        q.count = i1 - i0;
    }
    return q;
}

/* ---- documents that are one run ---- */

static void row(const struct rondo_mask *mask, int64_t sequence, int64_t p, int64_t *lo, int64_t *hi)
{
    const struct rondo__documents *d = &mask->data->documents;
    *lo = *hi = 0;
    if (p < 0 || p >= keys_of(d, sequence))
        return;
    const struct rondo__document_run *run = d->runs + run_of(d, sequence, p);
    const int64_t below = rondo__mask_distance(mask->left), above = rondo__mask_distance(mask->right);
    *lo = p - below > run->first ? p - below : run->first;
    *hi = p + above + 1 < run->end ? p + above + 1 : run->end;
}

/* The first query of the span whose interval ends beyond k (ends), or begins at k or beyond: both ends rise with the queries. */
static int64_t first_query(const struct rondo_mask *mask, int64_t sequence, const rondo_span *queries, bool ends, int64_t k)
{
    int64_t low = 0, high = queries->count;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        int64_t lo, hi;
        row(mask, sequence, queries->first + middle * queries->step, &lo, &hi);
        if (ends ? hi > k : lo >= k)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static int view(const struct rondo_mask *mask, int64_t sequence, const rondo_span *queries, int64_t k0, int64_t k1, int64_t *lo, int64_t *hi)
{
    const rondo_span q = placed(queries);
    int64_t i0 = 0, i1 = 0, first, first_end, last, last_end;
    *lo = *hi = k0;
    if (k0 < k1 && q.count > 0) {   /* the queries that see any of them */
        i0 = first_query(mask, sequence, &q, true, k0);
        i1 = first_query(mask, sequence, &q, false, k1);
    }
    if (i0 >= i1)
        return RONDO_MASK_NONE;
    row(mask, sequence, q.first + i0 * q.step, &first, &first_end);
    row(mask, sequence, q.first + (i1 - 1) * q.step, &last, &last_end);
    *lo = first > k0 ? first : k0;
    *hi = last_end < k1 ? last_end : k1;
    const bool all = q.count == queries->count && i0 == 0 && i1 == q.count && last <= k0 && first_end >= k1;
    return all ? RONDO_MASK_ALL : RONDO_MASK_PART;
}

/* ---- documents that come back ---- */

/* The first keys from c on, below k1, that some query of the span sees: [*lo, *hi), of one run of keys. The span stands on few runs: each is
 * asked where it goes on. */
static bool seen_by_few(const struct rondo_mask *mask, const rondo_span *queries, int64_t run, int64_t last, int64_t c, int64_t k1,
                        int64_t *lo, int64_t *hi)
{
    const struct rondo__documents *d = &mask->data->documents;
    const int64_t below = rondo__mask_distance(mask->left), above = rondo__mask_distance(mask->right);
    *lo = k1;
    *hi = c;
    for (; run <= last; run++) {
        rondo_span q;
        if (!queries_in(queries, d->runs + run, &q))
            continue;
        const int64_t document = d->runs[run].document, from = q.first - below > c ? q.first - below : c;
        const int64_t place = place_beyond(d, document, from);
        if (place == d->document[document + 1])
            continue;
        const struct rondo__document_run *keys = at_place(d, place);
        const int64_t a = keys->first > from ? keys->first : from, to = rondo__span_last(&q) + above + 1, b = keys->end < to ? keys->end : to;
        if (a < b && (a < *lo || (a == *lo && b > *hi))) {
            *lo = a;
            *hi = b < k1 ? b : k1;
        }
    }
    return *lo < k1;
}

/* The same where it stands on many: each run of keys from c on is asked whether a query of its document is there. */
static bool seen_by_many(const struct rondo_mask *mask, int64_t sequence, const rondo_span *queries, int64_t c, int64_t k1, int64_t *lo,
                         int64_t *hi)
{
    const struct rondo__documents *d = &mask->data->documents;
    const int64_t below = rondo__mask_distance(mask->left), above = rondo__mask_distance(mask->right), last = rondo__span_last(queries);
    for (int64_t i = run_of(d, sequence, c); i < d->sequence[sequence + 1] && d->runs[i].first < k1; i++) {
        const struct rondo__document_run *keys = d->runs + i;
        const int64_t a = keys->first > c ? keys->first : c, from = a - above > queries->first ? a - above : queries->first;
        for (int64_t j = place_beyond(d, keys->document, from); j < d->document[keys->document + 1]; j++) {
            rondo_span q;
            if (at_place(d, j)->first > last || at_place(d, j)->first - below >= keys->end)
                break;
            if (!queries_in(queries, at_place(d, j), &q) || rondo__span_last(&q) + above < a)
                continue;
            const int64_t first = q.first - below > a ? q.first - below : a, to = rondo__span_last(&q) + above + 1;
            *lo = first;
            *hi = to < keys->end ? to : keys->end;
            *hi = *hi < k1 ? *hi : k1;
            if (first < *hi)
                return true;
        }
    }
    return false;
}

/* A span that stands on more runs than these is not asked run by run. */
#define FEW_RUNS 8

static bool seen_from(const struct rondo_mask *mask, int64_t sequence, const rondo_span *queries, int64_t c, int64_t k1, int64_t *lo, int64_t *hi)
{
    const struct rondo__documents *d = &mask->data->documents;
    if (c >= k1)
        return false;
    const int64_t run = run_of(d, sequence, queries->first), last = run_of(d, sequence, rondo__span_last(queries));
    if (last - run < FEW_RUNS)
        return seen_by_few(mask, queries, run, last, c, k1, lo, hi);
    return seen_by_many(mask, sequence, queries, c, k1, lo, hi);
}

/* Whole leaves: a device may look at all keys of a leaf of which a query sees some. */
static bool next(const struct rondo_mask *mask, int64_t sequence, const rondo_span *queries, int64_t k0, int64_t k1, int64_t *lo, int64_t *hi)
{
    const int64_t leaf = mask->data->leaf, keys = keys_of(&mask->data->documents, sequence), end = k1 < keys ? k1 : keys;
    const rondo_span q = placed(queries);
    int64_t a, b;
    if (q.count <= 0 || !seen_from(mask, sequence, &q, k0, end, &a, &b))
        return false;
    *lo = a - a % leaf > k0 ? a - a % leaf : k0;
    for (;;) {
        const int64_t edge = (b + leaf - 1) / leaf * leaf;
        if (edge >= end || !seen_from(mask, sequence, &q, edge, end, &a, &b) || a >= edge + leaf) {
            *hi = edge < k1 ? edge : k1;
            return true;
        }
    }
}

/* Whether the query at p sees some of [k0, k1). */
static bool sees(const struct rondo_mask *mask, int64_t sequence, int64_t p, int64_t k0, int64_t k1)
{
    const struct rondo__documents *d = &mask->data->documents;
    const int64_t document = d->runs[run_of(d, sequence, p)].document;
    const int64_t from = p - rondo__mask_distance(mask->left), to = p + rondo__mask_distance(mask->right) + 1;
    const int64_t a = from > k0 ? from : k0, b = to < k1 ? to : k1, place = place_beyond(d, document, a);
    return a < b && place < d->document[document + 1] && at_place(d, place)->first < b;
}

/* A span with a step may leave out what all of its positions together would see. */
static bool steps_over(const struct rondo_mask *mask, int64_t sequence, const rondo_span *queries, int64_t k0, int64_t k1)
{
    int64_t i0, i1;
    if (queries->step == 1)
        return false;
    rondo__span_inside(queries, k0 - rondo__mask_distance(mask->right), k1 - 1 + rondo__mask_distance(mask->left), &i0, &i1);
    for (int64_t i = i0; i < i1; i++)
        if (sees(mask, sequence, queries->first + i * queries->step, k0, k1))
            return false;
    return true;
}

static int view_again(const struct rondo_mask *mask, int64_t sequence, const rondo_span *queries, int64_t k0, int64_t k1, int64_t *lo,
                      int64_t *hi)
{
    const struct rondo__documents *d = &mask->data->documents;
    const int64_t keys = keys_of(d, sequence), end = k1 < keys ? k1 : keys;
    const rondo_span q = placed(queries);
    int64_t a, b;
    *lo = *hi = k0;
    if (q.count <= 0 || !seen_from(mask, sequence, &q, k0, end, &a, &b) || steps_over(mask, sequence, &q, k0, end))
        return RONDO_MASK_NONE;
    *lo = a;
    *hi = k1;
    /* all: the keys are one run's, all queries of its document, and each sees the keys' whole interval */
    const int64_t document = d->runs[run_of(d, sequence, k0)].document;
    bool all = q.count == queries->count && run_of(d, sequence, k0) == run_of(d, sequence, k1 - 1) && k1 <= keys;
    for (int64_t i = 0, next_run; i < q.count && all; i = next_run) {
        const struct rondo__document_run *run = d->runs + run_of(d, sequence, q.first + i * q.step);
        next_run = (run->end - 1 - q.first) / q.step + 1;
        all = run->document == document;
    }
    int64_t unused[2];
    all = all && rondo__interval_view(rondo__mask_distance(mask->left), rondo__mask_distance(mask->right), &q, k0, k1, unused, unused + 1) ==
                     RONDO_MASK_ALL;
    return all ? RONDO_MASK_ALL : RONDO_MASK_PART;
}

/* From the first to the last of its document's keys that the interval shows. */
static void row_again(const struct rondo_mask *mask, int64_t sequence, int64_t p, int64_t *lo, int64_t *hi)
{
    const struct rondo__documents *d = &mask->data->documents;
    *lo = *hi = 0;
    if (p < 0 || p >= keys_of(d, sequence))
        return;
    const int64_t document = d->runs[run_of(d, sequence, p)].document;
    const int64_t from = p - rondo__mask_distance(mask->left), to = p + rondo__mask_distance(mask->right);
    const struct rondo__document_run *first = at_place(d, place_beyond(d, document, from));   /* there is one: that of p */
    int64_t place = place_beyond(d, document, to);
    if (place == d->document[document + 1] || at_place(d, place)->first > to)
        place--;
    const struct rondo__document_run *last = at_place(d, place);
    *lo = from > first->first ? from : first->first;
    *hi = to + 1 < last->end ? to + 1 : last->end;
}

static void bits_again(const struct rondo_mask *mask, int64_t sequence, int64_t head, int64_t p, int64_t k0, int64_t step, int32_t count,
                       uint64_t bits[4])
{
    const struct rondo__documents *d = &mask->data->documents;
    int64_t lo, hi;
    (void)head;
    memset(bits, 0, 4 * sizeof *bits);
    row_again(mask, sequence, p, &lo, &hi);
    if (lo >= hi)
        return;
    const rondo_span keys = { k0, count, step, 0 };
    const int64_t document = d->runs[run_of(d, sequence, p)].document, last = rondo__span_last(&keys);
    for (int64_t i = place_beyond(d, document, k0 > lo ? k0 : lo); i < d->document[document + 1] && at_place(d, i)->first <= last; i++) {
        const struct rondo__document_run *run = at_place(d, i);
        int64_t a, b;
        rondo__span_inside(&keys, run->first > lo ? run->first : lo, (run->end < hi ? run->end : hi) - 1, &a, &b);
        if (a < b)
            rondo__mask_set(bits, a, b);
    }
}

/* ---- pairs, of either kind ---- */

static uint64_t product(int64_t a, int64_t b)
{
    uint64_t all;
    return __builtin_mul_overflow((uint64_t)a, (uint64_t)b, &all) ? UINT64_MAX : all;
}

/* Keys of a document before position p. */
static int64_t keys_before(const struct rondo__documents *d, int64_t document, int64_t p)
{
    const int64_t place = place_beyond(d, document, p - 1);
    if (place == d->document[document + 1])
        return at_place(d, place - 1)->before + at_place(d, place - 1)->end - at_place(d, place - 1)->first;
    const struct rondo__document_run *run = at_place(d, place);
    return run->before + (p > run->first ? p - run->first : 0);
}

/* Pairs of queries of one document with the runs of its keys in [a, b), one by one. */
static uint64_t pairs_by_run(const struct rondo_mask *mask, int64_t document, const rondo_span *queries, const rondo_span *keys, int64_t a, int64_t b)
{
    const struct rondo__documents *d = &mask->data->documents;
    const int64_t below = rondo__mask_distance(mask->left), above = rondo__mask_distance(mask->right);
    uint64_t sum = 0;
    for (int64_t i = place_beyond(d, document, a); a < b && i < d->document[document + 1] && at_place(d, i)->first < b; i++) {
        const struct rondo__document_run *run = at_place(d, i);
        int64_t k0, k1;
        rondo__span_inside(keys, run->first > a ? run->first : a, (run->end < b ? run->end : b) - 1, &k0, &k1);
        const rondo_span some = { keys->first + k0 * keys->step, k1 - k0, keys->step, 0 };
        if (k0 < k1)
            sum = rondo__add_saturated(sum, rondo__interval_pairs(below, above, queries, &some));
    }
    return sum;
}

/* Keys that all of the queries see are counted at once; what is left at the two ends moves on from one run of queries to the next, so that all
 * of them together look at each run of keys but a few times. */
static uint64_t pairs_of_run(const struct rondo_mask *mask, int64_t document, const rondo_span *queries, const rondo_span *keys)
{
    const struct rondo__documents *d = &mask->data->documents;
    const int64_t below = rondo__mask_distance(mask->left), above = rondo__mask_distance(mask->right);
    const int64_t first = keys->first, end = rondo__span_last(keys) + 1, q0 = queries->first, q1 = rondo__span_last(queries);
    int64_t a = q1 - below > first ? q1 - below : first, b = q0 + above + 1 < end ? q0 + above + 1 : end;   /* what all see */
    if (keys->step > 1 || a >= b)
        return pairs_by_run(mask, document, queries, keys, first > q0 - below ? first : q0 - below, end < q1 + above + 1 ? end : q1 + above + 1);
    uint64_t all = product(queries->count, keys_before(d, document, b) - keys_before(d, document, a));
    const int64_t low = q0 - below > first ? q0 - below : first, high = q1 + above + 1 < end ? q1 + above + 1 : end;
    all = rondo__add_saturated(all, pairs_by_run(mask, document, queries, keys, low, a));
    return rondo__add_saturated(all, pairs_by_run(mask, document, queries, keys, b, high));
}

static uint64_t pairs(const struct rondo_mask *mask, int64_t sequence, const rondo_span *queries, const rondo_span *keys)
{
    const struct rondo__documents *d = &mask->data->documents;
    const rondo_span q = placed(queries);
    uint64_t sum = 0;
    if (q.count <= 0 || keys->count <= 0)
        return 0;
    int64_t low = q.first, high = rondo__span_last(&q);
    if (mask->kind == &rondo__mask_documents) {   /* who sees a key stands in one run with it */
        if (keys->first > low)
            low = keys->first;
        if (rondo__span_last(keys) < high)
            high = rondo__span_last(keys);
        if (low > high) {   /* one run may have both */
            const int64_t moved = low;
            low = high;
            high = moved;
            if (run_of(d, sequence, low) != run_of(d, sequence, high))
                return 0;
        }
    }
    for (int64_t i = run_of(d, sequence, low), end = run_of(d, sequence, high); i <= end; i++) {
        rondo_span some;
        if (queries_in(&q, d->runs + i, &some))
            sum = rondo__add_saturated(sum, pairs_of_run(mask, d->runs[i].document, &some, keys));
    }
    return sum;
}

const struct rondo_mask_kind rondo__mask_documents = { "documents", RONDO_MASK_DOCUMENTS, 0, view, NULL, row, NULL, pairs, NULL };
const struct rondo_mask_kind rondo__mask_documents_again = { "documents", RONDO_MASK_DOCUMENTS, 0, view_again, next, row_again, bits_again,
                                                             pairs, NULL };

/* ---- making them ---- */

/* Orders run numbers by document id, those of one id as they are: digit by digit, from the lowest. `key` are the ids by run, from `first`. */
static void sort_by_id(int64_t *list, int64_t *spare, int64_t count, const int32_t *ids, int64_t first)
{
    bool sorted = true;
    for (int64_t i = 1; i < count; i++)
        sorted &= ids[list[i - 1] - first] < ids[list[i] - first];
    for (int shift = 0; shift < 32 && !sorted; shift += 8) {
        int64_t at[257] = { 0 };
        for (int64_t i = 0; i < count; i++)
            at[((uint32_t)ids[list[i] - first] >> shift & 255) + 1]++;
        for (int j = 0; j < 256; j++)
            at[j + 1] += at[j];
        for (int64_t i = 0; i < count; i++)
            spare[at[(uint32_t)ids[list[i] - first] >> shift & 255]++] = list[i];
        memcpy(list, spare, (size_t)count * sizeof *list);
    }
}

static const int32_t *ids_of(const rondo_attention_desc *d, int64_t sequence, int64_t packed)
{
    return d->documents + (d->documents_first ? d->documents_first[sequence] : packed);
}

/* Runs of a sequence, their documents' ids, and who follows whom. */
static void fill(struct rondo__documents *o, int64_t sequence, const int32_t *id, int64_t keys, int32_t *ids, int64_t *spare)
{
    const int64_t first = o->sequence[sequence];
    int64_t n = first;
    for (int64_t k = 0; k < keys; k++) {
        if (k && id[k] == id[k - 1]) {
            o->runs[n - 1].end++;
            continue;
        }
        ids[n - first] = id[k];
        o->list[n] = n;
        o->runs[n++] = (struct rondo__document_run){ k, k + 1, 0, 0 };
    }
    o->sequence[sequence + 1] = n;
    sort_by_id(o->list + first, spare, n - first, ids, first);
    for (int64_t i = first; i < n; i++) {
        struct rondo__document_run *run = o->runs + o->list[i], *last = i > first ? o->runs + o->list[i - 1] : NULL;
        if (last && ids[o->list[i] - first] == ids[o->list[i - 1] - first])
            run->before = last->before + last->end - last->first;
        else
            o->document[o->documents++] = i;
        run->document = o->documents - 1;
    }
    o->document[o->documents] = n;
}

int rondo__documents_make(struct rondo_mask_data *data, const rondo_attention_desc *d, const int64_t *tokens, const int64_t *cached)
{
    struct rondo__documents *o = &data->documents;
    int64_t most = 0, packed = 0;
    for (int64_t s = 0; s < data->sequences; s++) {
        const int64_t keys = cached[s] + tokens[s];
        const int32_t *id = ids_of(d, s, packed);
        int64_t runs = keys > 0;
        for (int64_t k = 1; k < keys; k++)
            runs += id[k] != id[k - 1];
        most = runs > most ? runs : most;
        o->count += runs;
        packed += keys > 0 ? keys : 0;
    }
    o->sequence = rondo__list_set(&data->sequence_room, sizeof *o->sequence, data->sequences + 1);
    o->runs = rondo__list_set(&data->run_room, sizeof *o->runs, o->count);
    o->list = rondo__list_set(&data->list_room, sizeof *o->list, o->count);
    o->document = rondo__list_set(&data->document_room, sizeof *o->document, o->count + 1);
    int64_t *spare = rondo__list_set(&data->sort_room, sizeof *spare, most);
    int32_t *ids = rondo__list_set(&data->id_room, sizeof *ids, most);
    const bool fine = o->sequence && o->runs && o->list && o->document && spare && ids;
    if (fine)
        o->sequence[0] = o->document[0] = 0;
    packed = 0;
    for (int64_t s = 0; s < data->sequences && fine; s++) {
        const int64_t keys = cached[s] + tokens[s];
        fill(o, s, ids_of(d, s, packed), keys, ids, spare);
        packed += keys > 0 ? keys : 0;
    }
    return fine ? 0 : rondo__fail(RONDO_ENOMEM, "rondo_attention_create: no memory for %lld runs of documents", (long long)o->count);
}
