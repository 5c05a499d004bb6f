/* SPDX-License-Identifier: BSD-2-Clause
 *
 * KV placement over several turns (rondo_placement_*): which rank holds which positions. A pure function of the calls made on it,
 * so ranks agree without messages. Kept as runs: a turn of millions of tokens takes a few entries for each rank, and keys dealt
 * out one by one (interleave = 1, Algorithm 4 of arXiv:2411.01783) one entry in all. Plans copy the sequences they use.
 */
#include "layout/layout.h"

/* Positions stay far enough below INT64_MAX for windows and leaf arithmetic to be added to them. */
#define LONGEST ((int64_t)1 << 60)

struct sequence {
    int64_t length, singles;      /* singles: turns of one token so far that went token by token */
    struct rondo__run *runs;
    int64_t count, room;
    int64_t *held;                /* [ranks] */
    int64_t name;                 /* its number where it was made: decides where small turns begin */
};

struct rondo_placement {
    rondo_placement_desc desc;
    struct sequence *sequences;
    struct rondo__deal *deals;    /* [RONDO_DEALS_MAX(ranks)], for append */
};

int rondo_placement_create(rondo_placement **out, const rondo_placement_desc *desc)
{
    rondo_placement_desc d;
    if (!out)
        return rondo__fail(RONDO_EINVAL, "rondo_placement_create: out is NULL");
    *out = NULL;
    int err = rondo__desc_copy(&d, sizeof d, desc, "rondo_placement_desc");
    if (err)
        return err;
    if (d.ranks < 1)
        return rondo__fail(RONDO_EINVAL, "rondo_placement_create: ranks is %d; it must be at least 1", (int)d.ranks);
    if (!d.layout)
        d.layout = RONDO_ZIGZAG;
    if (!rondo_layout_name(d.layout))
        return rondo__fail(RONDO_EINVAL, "rondo_placement_create: %d is no layout; contiguous, zigzag, striped and snake are 1 to 4",
                           (int)d.layout);
    if (!d.leaf)
        d.leaf = 128;
    if (d.leaf < 8 || d.leaf > 256 || (d.leaf & (d.leaf - 1)))
        return rondo__fail(RONDO_EINVAL, "rondo_placement_create: leaf is %d; it must be a power of two from 8 to 256", (int)d.leaf);
    if (d.interleave != 0 && d.interleave != 1)
        return rondo__fail(RONDO_EINVAL, "rondo_placement_create: interleave is %d; it must be 0 (by leaf) or 1 (by token)",
                           (int)d.interleave);
    if (!d.sequences)
        d.sequences = 1;
    if (d.sequences < 0)
        return rondo__fail(RONDO_EINVAL, "rondo_placement_create: sequences is %lld; it must not be negative", (long long)d.sequences);

    rondo_placement *p = rondo__alloc_zero(1, sizeof *p);
    if (!p)
        return rondo__fail(RONDO_ENOMEM, "rondo_placement_create: no memory for the placement");
    p->desc = d;
    size_t deals;
    if (rondo__mul((size_t)RONDO_DEALS_MAX(d.ranks), sizeof *p->deals, &deals))
        p->deals = rondo__alloc(deals);
    p->sequences = rondo__alloc_zero((size_t)d.sequences, sizeof *p->sequences);
    for (int64_t s = 0; p->sequences && s < d.sequences; s++) {
        p->sequences[s].name = s;
        p->sequences[s].held = rondo__alloc_zero((size_t)d.ranks, sizeof(int64_t));
        if (!p->sequences[s].held) {
            rondo_placement_destroy(p);
            return rondo__fail(RONDO_ENOMEM, "rondo_placement_create: no memory for %lld sequences on %d ranks", (long long)d.sequences,
                               (int)d.ranks);
        }
    }
    if (!p->deals || !p->sequences) {
        rondo_placement_destroy(p);
        return rondo__fail(RONDO_ENOMEM, "rondo_placement_create: no memory for %lld sequences on %d ranks", (long long)d.sequences,
                           (int)d.ranks);
    }
    *out = p;
    return 0;
}

void rondo_placement_destroy(rondo_placement *p)
{
    if (!p)
        return;
    for (int64_t s = 0; p->sequences && s < p->desc.sequences; s++) {
        rondo__free(p->sequences[s].runs);
        rondo__free(p->sequences[s].held);
    }
    rondo__free(p->sequences);
    rondo__free(p->deals);
    rondo__free(p);
}

static struct sequence *find(const rondo_placement *p, int64_t sequence)
{
    return p && sequence >= 0 && sequence < p->desc.sequences ? &p->sequences[sequence] : NULL;
}

static int no_sequence(const char *function, const rondo_placement *p, int64_t sequence)
{
    if (!p)
        return rondo__fail(RONDO_EINVAL, "%s: the placement is NULL", function);
    return rondo__fail(RONDO_EINVAL, "%s: there is no sequence %lld; the placement has %lld", function, (long long)sequence,
                       (long long)p->desc.sequences);
}

static int32_t rank_in_run(const rondo_placement *p, const struct rondo__run *run, int64_t position)
{
    if (run->stride == 1)
        return run->rank;
    return (int32_t)((run->rank + (position - run->first)) % p->desc.ranks);
}

static int32_t owner_of(const rondo_placement *p, const struct sequence *s, int64_t position)
{
    int64_t lo = 0, hi = s->count;
    while (hi - lo > 1) {
        int64_t mid = lo + (hi - lo) / 2;
        if (s->runs[mid].first <= position)
            lo = mid;
        else
            hi = mid;
    }
    return rank_in_run(p, &s->runs[lo], position);
}

static bool reserve(struct sequence *s, int64_t more)
{
    if (s->room - s->count >= more)
        return true;
    int64_t room = s->room / 2 * 3;
    if (room < s->count + more)
        room = s->count + more;
    size_t old_bytes = (size_t)s->room * sizeof *s->runs, bytes;
    if (!rondo__mul((size_t)room, sizeof *s->runs, &bytes))
        return false;
    struct rondo__run *runs = rondo__resize(s->runs, s->runs ? old_bytes : 0, bytes);
    if (!runs)
        return false;
    s->runs = runs;
    s->room = room;
    return true;
}

/* The next `tokens` positions go to rank. Room was reserved. */
static void extend(struct sequence *s, int32_t rank, int64_t tokens)
{
    if (tokens <= 0)
        return;
    const struct rondo__run *last = s->count ? &s->runs[s->count - 1] : NULL;
    if (!last || last->stride != 1 || last->rank != rank)
        s->runs[s->count++] = (struct rondo__run){ s->length, rank, 1 };
    s->length += tokens;
    s->held[rank] += tokens;
}

/* Who takes the next leaf of a turn that is too small for the layout: who holds least; the search starts at a rank of the
 * sequence's own, so that many short sequences do not all begin on rank 0. */
static int32_t emptiest(const rondo_placement *p, const struct sequence *s)
{
    int32_t n = p->desc.ranks, best = (int32_t)(s->name % n);
    for (int32_t i = 1; i < n; i++) {
        int32_t r = (int32_t)((s->name + i) % n);
        if (s->held[r] < s->held[best])
            best = r;
    }
    return best;
}

int rondo_placement_append(rondo_placement *p, int64_t sequence, int64_t tokens)
{
    struct sequence *s = find(p, sequence);
    if (!s)
        return no_sequence("rondo_placement_append", p, sequence);
    if (tokens < 0 || tokens > LONGEST - s->length)
        return rondo__fail(RONDO_EINVAL, "rondo_placement_append: cannot append %lld tokens to %lld; at most 2^60 in all", (long long)tokens,
                           (long long)s->length);
    int32_t n = p->desc.ranks, leaf = p->desc.leaf;

    if (p->desc.interleave && tokens == 1 && n > 1) {
        if (!reserve(s, 1))
            return rondo__fail(RONDO_ENOMEM, "rondo_placement_append: no memory for one more run of sequence %lld", (long long)sequence);
        int32_t rank = (int32_t)((s->name + s->singles) % n);
        const struct rondo__run *last = s->count ? &s->runs[s->count - 1] : NULL;
        if (!last || last->stride == 1 || rank_in_run(p, last, s->length) != rank)
            s->runs[s->count++] = (struct rondo__run){ s->length, rank, n };
        s->length++;
        s->singles++;
        s->held[rank]++;
        return 0;
    }

    int64_t fill = (leaf - s->length % leaf) % leaf;
    if (fill > tokens)
        fill = tokens;
    int64_t rest = tokens - fill, leaves = rest ? (rest - 1) / leaf + 1 : 0, deals = leaves < n ? leaves : 0;
    if (leaves >= n)
        deals = rondo__layout_deal(p->desc.layout, leaves, n, p->deals);
    if (!reserve(s, deals + 1))
        return rondo__fail(RONDO_ENOMEM, "rondo_placement_append: no memory for the runs of %lld tokens", (long long)tokens);
    if (fill)
        extend(s, owner_of(p, s, s->length - 1), fill);
    if (leaves < n) {
        for (int64_t i = 0; i < leaves; i++)
            extend(s, emptiest(p, s), i < leaves - 1 ? leaf : rest - i * leaf);
    } else {
        for (int64_t i = 0; i < deals; i++) {
            int64_t end = i < deals - 1 ? p->deals[i + 1].first * leaf : rest;
            extend(s, p->deals[i].rank, end - p->deals[i].first * leaf);
        }
    }
    return 0;
}

int rondo_placement_reset(rondo_placement *p, int64_t sequence)
{
    struct sequence *s = find(p, sequence);
    if (!s)
        return no_sequence("rondo_placement_reset", p, sequence);
    s->length = s->singles = s->count = 0;
    memset(s->held, 0, (size_t)p->desc.ranks * sizeof *s->held);
    return 0;
}

int64_t rondo_placement_length(const rondo_placement *p, int64_t sequence)
{
    const struct sequence *s = find(p, sequence);
    return s ? s->length : no_sequence("rondo_placement_length", p, sequence);
}

static int no_rank(const char *function, const rondo_placement *p, int rank)
{
    return rondo__fail(RONDO_EINVAL, "%s: there is no rank %d; the placement has %d", function, rank, (int)p->desc.ranks);
}

int64_t rondo_placement_held(const rondo_placement *p, int64_t sequence, int rank)
{
    const struct sequence *s = find(p, sequence);
    if (!s)
        return no_sequence("rondo_placement_held", p, sequence);
    if (rank < 0 || rank >= p->desc.ranks)
        return no_rank("rondo_placement_held", p, rank);
    return s->held[rank];
}

int rondo_placement_owner(const rondo_placement *p, int64_t sequence, int64_t position)
{
    const struct sequence *s = find(p, sequence);
    if (!s)
        return no_sequence("rondo_placement_owner", p, sequence);
    if (position < 0 || position >= s->length)
        return rondo__fail(RONDO_EINVAL, "rondo_placement_owner: there is no position %lld; sequence %lld has %lld", (long long)position,
                           (long long)sequence, (long long)s->length);
    return owner_of(p, s, position);
}

int64_t rondo_placement_spans(const rondo_placement *p, int64_t sequence, int rank, int64_t from, rondo_span *spans, int64_t max)
{
    const struct sequence *s = find(p, sequence);
    if (!s)
        return no_sequence("rondo_placement_spans", p, sequence);
    if (rank < 0 || rank >= p->desc.ranks)
        return no_rank("rondo_placement_spans", p, rank);
    if (max < 0 || (max > 0 && !spans))
        return rondo__fail(RONDO_EINVAL, "rondo_placement_spans: room for %lld spans is asked for, but none is given", (long long)max);

    int64_t count = 0, row = 0;
    rondo_span last = { 0, 0, 1, 0 };   /* spans that touch are given as one */
    for (int64_t i = 0; i < s->count; i++) {
        const struct rondo__run *run = &s->runs[i];
        int64_t end = i + 1 < s->count ? s->runs[i + 1].first : s->length;
        int64_t step = run->stride, first = run->first;
        if (step == 1 && run->rank != rank)
            continue;
        if (step > 1)
            first += ((int64_t)rank - run->rank + step) % step;
        if (first >= end)
            continue;
        int64_t held = (end - 1 - first) / step + 1, hidden = 0;
        if (from > first)
            hidden = (from - first - 1) / step + 1;
        if (hidden > held)
            hidden = held;
        rondo_span span = { first + hidden * step, held - hidden, held - hidden > 1 ? step : 1, row + hidden };
        row += held;
        if (!span.count)
            continue;
        if (last.count && last.step == 1 && span.step == 1 && last.first + last.count == span.first) {
            last.count += span.count;
        } else {
            if (last.count && count++ < max)
                spans[count - 1] = last;
            last = span;
        }
    }
    if (last.count && count++ < max)
        spans[count - 1] = last;
    return count;
}

int64_t rondo__placement_runs(const rondo_placement *p, int64_t sequence, const struct rondo__run **runs)
{
    *runs = p->sequences[sequence].runs;
    return p->sequences[sequence].count;
}

const rondo_placement_desc *rondo__placement_desc(const rondo_placement *p)
{
    return &p->desc;
}

int rondo__placement_copy(rondo_placement **out, const rondo_placement *from, const int64_t *names, int64_t count)
{
    rondo_placement_desc d = from->desc;
    rondo_placement *p;
    d.sequences = count;
    int err = rondo_placement_create(&p, &d);
    if (err)
        return err;
    for (int64_t i = 0; i < count; i++) {
        const struct sequence *a = &from->sequences[names ? names[i] : i];
        struct sequence *b = &p->sequences[i];
        if (!reserve(b, a->count)) {
            rondo_placement_destroy(p);
            return rondo__fail(RONDO_ENOMEM, "no memory to copy the placement of sequence %lld", (long long)(names ? names[i] : i));
        }
        if (a->count)
            memcpy(b->runs, a->runs, (size_t)a->count * sizeof *a->runs);
        memcpy(b->held, a->held, (size_t)d.ranks * sizeof *a->held);
        b->count = a->count;
        b->length = a->length;
        b->singles = a->singles;
        b->name = a->name;
    }
    *out = p;
    return 0;
}

size_t rondo__placement_bytes(const rondo_placement *p)
{
    size_t bytes = sizeof *p + (size_t)RONDO_DEALS_MAX(p->desc.ranks) * sizeof *p->deals;
    for (int64_t i = 0; i < p->desc.sequences; i++)
        bytes += sizeof *p->sequences + (size_t)p->desc.ranks * sizeof(int64_t) + (size_t)p->sequences[i].room * sizeof(struct rondo__run);
    return bytes;
}
