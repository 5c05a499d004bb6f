/* SPDX-License-Identifier: BSD-2-Clause
 *
 * KV placement over several turns (rondo_placement_*): which rank holds which positions. A pure function of the calls made on it,
 * so ranks agree without messages. Here is decided who gets what; table.c writes it down, a table for each sequence that has tokens.
 * Plans have placements of their own: copies of the sequences that they use, or what they lay out themselves.
 */
#include "layout/table.h"

/* Positions stay far enough below INT64_MAX for windows and leaf arithmetic to be added to them. */
#define LONGEST ((int64_t)1 << 60)

struct sequence {
    struct rondo__table *table;   /* NULL, or empty: nothing in it */
    int64_t name;                 /* its number where it was made: decides where small turns begin */
};

struct rondo_placement {
    rondo_placement_desc desc;
    struct sequence *sequences;
    int64_t room, made;           /* of `sequences`; of them so many are set, which may have tables: a renewed placement may have fewer */
    struct rondo__deal *deals;    /* [RONDO_DEALS_MAX(ranks)], for append; NULL before the first */
    struct rondo__table *all;     /* layout document: who holds how much of all sequences; no positions. NULL: not counted yet */
};

static void clear_sequence(rondo_placement *p, int64_t s, int64_t name)
{
    p->sequences[s].name = name;
    if (p->sequences[s].table)
        rondo__table_clear(p->sequences[s].table, (int32_t)(name % p->desc.ranks));
}

/* Up to `sequences`, the new ones empty; room doubles, so that one by one costs no more than all at once. */
static bool add_sequences(rondo_placement *p, int64_t sequences)
{
    if (sequences > p->room) {
        int64_t room = p->room > sequences / 2 ? 2 * p->room : sequences;
        size_t bytes;
        if ((uint64_t)room > SIZE_MAX || !rondo__mul((size_t)room, sizeof *p->sequences, &bytes))
            return false;
        struct sequence *all = rondo__resize(p->sequences, (size_t)p->made * sizeof *all, bytes);
        if (!all)
            return false;
        p->sequences = all;
        p->room = room;
    }
    for (int64_t s = p->desc.sequences; s < p->made && s < sequences; s++)
        clear_sequence(p, s, s);
    for (; p->made < sequences; p->made++)
        p->sequences[p->made] = (struct sequence){ NULL, p->made };
    p->desc.sequences = sequences;
    return true;
}

int rondo__placement_renew(rondo_placement **out, const rondo_placement_desc *desc)
{
    rondo_placement *p = *out;
    rondo_placement_desc d;
    int err = rondo__desc_copy(&d, sizeof d, desc, "rondo_placement_desc");
    if (err)
        return err;
    if (d.ranks < 1)
        return rondo__fail(RONDO_EINVAL, "rondo_placement_create: ranks is %d; it must be at least 1", (int)d.ranks);
    if (!d.layout)
        d.layout = RONDO_ZIGZAG;
    if (!rondo_layout_name(d.layout))
        return rondo__fail(RONDO_EINVAL, "rondo_placement_create: %d is no layout; contiguous, zigzag, striped, snake, document and "
                                         "custom are 1 to 6", (int)d.layout);
    if (!d.leaf)
        d.leaf = RONDO_LEAF_DEFAULT;
    if (d.leaf < 8 || d.leaf > 256 || (d.leaf & (d.leaf - 1)))
        return rondo__fail(RONDO_EINVAL, "rondo_placement_create: leaf is %d; it must be a power of two from 8 to 256", (int)d.leaf);
    if (d.interleave != 0 && d.interleave != 1)
        return rondo__fail(RONDO_EINVAL, "rondo_placement_create: interleave is %d; it must be 0 (by leaf) or 1 (by token)",
                           (int)d.interleave);
    if (!d.sequences)
        d.sequences = 1;
    if (d.sequences < 0)
        return rondo__fail(RONDO_EINVAL, "rondo_placement_create: sequences is %lld; it must not be negative", (long long)d.sequences);

    if (p && p->desc.ranks != d.ranks) {
        rondo_placement_destroy(p);
        p = *out = NULL;
    }
    if (!p)
        p = *out = rondo__alloc_zero(1, sizeof *p);
    if (!p)
        return rondo__fail(RONDO_ENOMEM, "rondo_placement_create: no memory for the placement");
    p->desc = d;
    p->desc.sequences = 0;
    if (p->all)
        rondo__table_clear(p->all, 0);
    if (!add_sequences(p, d.sequences))
        return rondo__fail(RONDO_ENOMEM, "rondo_placement_create: no memory for %lld sequences", (long long)d.sequences);
    return 0;
}

int rondo_placement_create(rondo_placement **out, const rondo_placement_desc *desc)
{
    if (!out)
        return rondo__fail(RONDO_EINVAL, "rondo_placement_create: out is NULL");
    *out = NULL;
    int err = rondo__placement_renew(out, desc);
    if (err) {
        rondo_placement_destroy(*out);
        *out = NULL;
    }
    return err;
}

void rondo_placement_destroy(rondo_placement *p)
{
    if (!p)
        return;
    for (int64_t s = 0; s < p->made; s++)
        rondo__table_free(p->sequences[s].table);
    rondo__table_free(p->all);
    rondo__free(p->sequences);
    rondo__free(p->deals);
    rondo__free(p);
}

int rondo_placement_grow(rondo_placement *p, int64_t sequences)
{
    if (!p)
        return rondo__fail(RONDO_EINVAL, "rondo_placement_grow: the placement is NULL");
    if (sequences < p->desc.sequences)
        return rondo__fail(RONDO_EINVAL, "rondo_placement_grow: %lld sequences are asked for, but the placement has %lld already; it can only "
                                         "grow (rondo_placement_reset() empties one)", (long long)sequences, (long long)p->desc.sequences);
    if (!add_sequences(p, sequences))
        return rondo__fail(RONDO_ENOMEM, "rondo_placement_grow: no memory for %lld sequences", (long long)sequences);
    return 0;
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

/* ---- appending ---- */

/* A table to write to, and room for a turn's deals. */
static bool prepare(rondo_placement *p, struct sequence *s)
{
    const int32_t n = p->desc.ranks;
    size_t bytes;
    if (!p->deals && rondo__mul((size_t)RONDO_DEALS_MAX(n), sizeof *p->deals, &bytes))
        p->deals = rondo__alloc(bytes);
    if (!p->deals)
        return false;
    if (!s->table)
        s->table = rondo__table_new(n, (int32_t)(s->name % n));
    return s->table != NULL;
}

/* A turn under way: where its tokens go. */
struct turn {
    rondo_placement *p;
    struct rondo__table *t;
    const struct rondo__deal *deals;
    int64_t count, tokens;        /* deals; tokens in new leaves */
};

static int64_t dealt(const struct turn *u, int64_t i)
{
    const int64_t leaf = u->p->desc.leaf, end = i + 1 < u->count ? u->deals[i + 1].first * leaf : u->tokens;
    return end - u->deals[i].first * leaf;
}

static void count(const struct turn *u, int32_t rank, int64_t tokens)
{
    rondo__table_count(u->t, rank, tokens);
    if (u->p->all)
        rondo__table_count(u->p->all, rank, tokens);
}

/* Layout document counts over all sequences, from when it is first asked. */
static bool count_sequences(rondo_placement *p)
{
    if (p->desc.layout != RONDO_DOCUMENT || p->all)
        return true;
    p->all = rondo__table_new(p->desc.ranks, 0);
    for (int64_t i = 0; p->all && i < p->desc.sequences; i++)
        for (int32_t r = 0; p->sequences[i].table && r < p->desc.ranks; r++)
            rondo__table_count(p->all, r, p->sequences[i].table->held[r]);
    return p->all != NULL;
}

/* Of a turn with fewer leaves than this a rank that is one of all would get too little to be worth cutting it. */
#define LEAVES_TO_SPLIT 4

/* Who gets the new leaves of a turn: u->deals, counted in the table already. A turn of fewer leaves than ranks goes leaf by leaf to who
 * holds least; the search starts at a rank of the sequence's own, so that many short sequences do not all begin on rank 0. With layout
 * document a turn that is not long goes whole to who holds least of all sequences. */
static void deal(struct turn *u)
{
    rondo_placement *p = u->p;
    const int64_t leaf = p->desc.leaf, leaves = u->tokens ? (u->tokens - 1) / leaf + 1 : 0, n = p->desc.ranks;
    u->deals = p->deals;
    if (p->desc.layout == RONDO_DOCUMENT && leaves && leaves < LEAVES_TO_SPLIT * n) {
        p->deals[0] = (struct rondo__deal){ 0, rondo__table_emptiest(p->all), 0 };
        u->count = 1;
        count(u, p->deals[0].rank, u->tokens);
        return;
    }
    if (leaves >= n) {
        u->count = rondo__layout_deal(p->desc.layout, leaves, (int32_t)n, p->deals);
        u->t->ranked = false;   /* many change: the next small turn looks at all */
        if (p->all)
            p->all->ranked = false;
        for (int64_t i = 0; i < u->count; i++)
            count(u, p->deals[i].rank, dealt(u, i));
        return;
    }
    for (int64_t i = 0; i < leaves; i++) {
        p->deals[i] = (struct rondo__deal){ i, rondo__table_emptiest(u->t), 0 };
        count(u, p->deals[i].rank, i + 1 < leaves ? leaf : u->tokens - i * leaf);
    }
    u->count = leaves;
}

static int append_single(rondo_placement *p, struct sequence *s, int64_t sequence)
{
    struct turn u = { .p = p, .t = s->table };
    const int32_t rank = (int32_t)((s->name + u.t->singles) % u.t->ranks);
    if (!rondo__table_reserve(u.t, NULL, 0, rank))
        return rondo__fail(RONDO_ENOMEM, "rondo_placement_append: no memory for one more run of sequence %lld", (long long)sequence);
    count(&u, rank, 1);
    rondo__table_add_single(u.t, rank);
    return 0;
}

/* How many tokens of a turn the sequence's last leaf takes. */
static int64_t fills(const rondo_placement *p, int64_t length, int64_t tokens)
{
    const int64_t leaf = p->desc.leaf, open = (leaf - length % leaf) % leaf;
    return open < tokens ? open : tokens;
}

/* deals NULL: the layout says. */
static int append(rondo_placement *p, struct sequence *s, int64_t sequence, int64_t tokens, const struct rondo__deal *deals, int64_t deal_count,
                  const char *function)
{
    if (!prepare(p, s) || !count_sequences(p))
        return rondo__fail(RONDO_ENOMEM, "%s: no memory for sequence %lld on %d ranks", function, (long long)sequence, (int)p->desc.ranks);
    struct rondo__table *t = s->table;
    if (p->desc.interleave && tokens == 1 && p->desc.ranks > 1)
        return append_single(p, s, sequence);

    const int64_t fill = fills(p, t->length, tokens);
    const int32_t filler = fill ? rondo__table_owner(t, t->length - 1) : -1;
    struct turn u = { .p = p, .t = t, .deals = deals, .count = deal_count, .tokens = tokens - fill };
    if (fill)
        count(&u, filler, fill);
    if (!deals)
        deal(&u);
    for (int64_t i = 0; deals && i < u.count; i++)
        count(&u, deals[i].rank, dealt(&u, i));
    if (!rondo__table_reserve(t, u.deals, u.count, filler)) {
        for (int64_t i = 0; i < u.count; i++)
            count(&u, u.deals[i].rank, -dealt(&u, i));
        if (fill)
            count(&u, filler, -fill);
        return rondo__fail(RONDO_ENOMEM, "%s: no memory for the runs of %lld tokens", function, (long long)tokens);
    }
    if (fill)
        rondo__table_add(t, filler, fill);
    for (int64_t i = 0; i < u.count; i++)
        rondo__table_add(t, u.deals[i].rank, dealt(&u, i));
    return 0;
}

/* Whether there is such a sequence, and place in it. */
static int check_turn(const char *function, const rondo_placement *p, int64_t sequence, int64_t tokens, struct sequence **out)
{
    struct sequence *s = *out = find(p, sequence);
    if (!s)
        return no_sequence(function, p, sequence);
    const int64_t length = s->table ? s->table->length : 0;
    if (tokens < 0 || tokens > LONGEST - length)
        return rondo__fail(RONDO_EINVAL, "%s: cannot append %lld tokens to %lld; at most 2^60 in all", function, (long long)tokens,
                           (long long)length);
    return 0;
}

/* Leaves that a turn begins. */
static int64_t new_leaves(const rondo_placement *p, const struct sequence *s, int64_t tokens)
{
    const int64_t rest = tokens - fills(p, s->table ? s->table->length : 0, tokens);
    return rest ? (rest - 1) / p->desc.leaf + 1 : 0;
}

int rondo_placement_append(rondo_placement *p, int64_t sequence, int64_t tokens)
{
    struct sequence *s;
    int err = check_turn("rondo_placement_append", p, sequence, tokens, &s);
    if (err || !tokens)
        return err;
    if (p->desc.layout == RONDO_CUSTOM && new_leaves(p, s, tokens) && !(p->desc.interleave && tokens == 1))
        return rondo__fail(RONDO_EINVAL, "rondo_placement_append: %lld tokens begin %lld leaves, and with layout custom only a list says whose; "
                                         "use rondo_placement_append_owners()", (long long)tokens, (long long)new_leaves(p, s, tokens));
    return append(p, s, sequence, tokens, NULL, 0, "rondo_placement_append");
}

int rondo_placement_append_owners(rondo_placement *p, int64_t sequence, int64_t tokens, const int32_t *owners)
{
    struct sequence *s;
    int err = check_turn("rondo_placement_append_owners", p, sequence, tokens, &s);
    if (err)
        return err;
    if (p->desc.layout != RONDO_CUSTOM)
        return rondo__fail(RONDO_EINVAL, "rondo_placement_append_owners: the placement's layout is %s, which says whose leaves are; make it with "
                                         "RONDO_CUSTOM, or use rondo_placement_append()", rondo_layout_name(p->desc.layout));
    if (p->desc.interleave && tokens == 1)
        return rondo__fail(RONDO_EINVAL, "rondo_placement_append_owners: with interleave 1 a single token goes where its turn says; use "
                                         "rondo_placement_append()");
    const int64_t leaves = new_leaves(p, s, tokens);
    if (leaves && !owners)
        return rondo__fail(RONDO_EINVAL, "rondo_placement_append_owners: owners is NULL, but %lld tokens begin %lld leaves", (long long)tokens,
                           (long long)leaves);
    int64_t runs = 0;
    for (int64_t i = 0; i < leaves; i++) {
        if (owners[i] < 0 || owners[i] >= p->desc.ranks)
            return rondo__fail(RONDO_EINVAL, "rondo_placement_append_owners: owners[%lld] is %d; the placement has ranks 0 to %d", (long long)i,
                               (int)owners[i], (int)p->desc.ranks - 1);
        runs += !i || owners[i] != owners[i - 1];
    }
    if (!tokens)
        return 0;
    struct rondo__deal *deals = rondo__alloc_zero((size_t)runs, sizeof *deals);
    if (!deals)
        return rondo__fail(RONDO_ENOMEM, "rondo_placement_append_owners: no memory for %lld runs", (long long)runs);
    runs = 0;
    for (int64_t i = 0; i < leaves; i++)
        if (!i || owners[i] != owners[i - 1])
            deals[runs++] = (struct rondo__deal){ i, owners[i], 0 };
    err = append(p, s, sequence, tokens, deals, runs, "rondo_placement_append_owners");
    rondo__free(deals);
    return err;
}

int rondo__placement_append_deals(rondo_placement *p, int64_t sequence, int64_t tokens, const struct rondo__deal *deals, int64_t deal_count)
{
    return tokens ? append(p, &p->sequences[sequence], sequence, tokens, deals, deal_count, "rondo_attention_create") : 0;
}

int rondo_placement_reset(rondo_placement *p, int64_t sequence)
{
    struct sequence *s = find(p, sequence);
    if (!s)
        return no_sequence("rondo_placement_reset", p, sequence);
    for (int32_t r = 0; p->all && s->table && r < p->desc.ranks; r++)
        rondo__table_count(p->all, r, -s->table->held[r]);
    rondo__table_free(s->table);
    s->table = NULL;
    return 0;
}

/* ---- answers ---- */

int64_t rondo_placement_length(const rondo_placement *p, int64_t sequence)
{
    const struct sequence *s = find(p, sequence);
    if (!s)
        return no_sequence("rondo_placement_length", p, sequence);
    return s->table ? s->table->length : 0;
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
    return s->table ? s->table->held[rank] : 0;
}

int rondo_placement_owner(const rondo_placement *p, int64_t sequence, int64_t position)
{
    const struct sequence *s = find(p, sequence);
    if (!s)
        return no_sequence("rondo_placement_owner", p, sequence);
    const int64_t length = s->table ? s->table->length : 0;
    if (position < 0 || position >= length)
        return rondo__fail(RONDO_EINVAL, "rondo_placement_owner: there is no position %lld; sequence %lld has %lld", (long long)position,
                           (long long)sequence, (long long)length);
    return rondo__table_owner(s->table, position);
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

    const struct rondo__rank_run *runs;
    const int64_t all = rondo__placement_rank_runs(p, sequence, rank, &runs);
    int64_t count = 0, i = rondo__rank_run_find(runs, all, from);
    rondo_span last = { 0, 0, 1, 0 };   /* spans that touch are given as one */
    for (; i < all; i++) {
        const struct rondo__rank_run *run = &runs[i];
        const int64_t hidden = from > run->first ? (from - run->first - 1) / run->step + 1 : 0, held = run->count - hidden;
        const rondo_span span = { run->first + hidden * run->step, held, held > 1 ? run->step : 1, run->row + hidden };
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

/* ---- for the library ---- */

int64_t rondo__placement_runs(const rondo_placement *p, int64_t sequence, const struct rondo__run **runs)
{
    const struct rondo__table *t = p->sequences[sequence].table;
    *runs = t ? t->runs : NULL;
    return t ? t->count : 0;
}

int64_t rondo__placement_rank_runs(const rondo_placement *p, int64_t sequence, int32_t rank, const struct rondo__rank_run **runs)
{
    const struct rondo__table *t = p->sequences[sequence].table;
    *runs = t && t->lists[rank].count ? t->pool + t->lists[rank].at : NULL;
    return t ? t->lists[rank].count : 0;
}

uint64_t rondo__placement_hash(const rondo_placement *p, int64_t sequence)
{
    const struct rondo__table *t = p->sequences[sequence].table;
    return t && t->length ? rondo__hash_word(t->hash, (uint64_t)t->length) : 0;
}

const rondo_placement_desc *rondo__placement_desc(const rondo_placement *p)
{
    return &p->desc;
}

int rondo__placement_copy(rondo_placement **out, const rondo_placement *from, const int64_t *names, int64_t count)
{
    rondo_placement_desc d = from->desc;
    d.sequences = count;
    int err = rondo__placement_renew(out, &d);
    if (!err) {   /* counted when it is asked for */
        rondo__table_free((*out)->all);
        (*out)->all = NULL;
    }
    for (int64_t i = 0; i < count && !err; i++) {
        const struct sequence *s = &from->sequences[names ? names[i] : i];
        struct sequence *to = &(*out)->sequences[i];
        to->name = s->name;
        if (s->table && !rondo__table_copy(&to->table, s->table))
            err = rondo__fail(RONDO_ENOMEM, "rondo_attention_create: no memory to copy the placement of sequence %lld", (long long)i);
    }
    return err;
}

size_t rondo__placement_bytes(const rondo_placement *p)
{
    size_t bytes = sizeof *p + (p->deals ? (size_t)RONDO_DEALS_MAX(p->desc.ranks) * sizeof *p->deals : 0);
    bytes += (size_t)p->room * sizeof *p->sequences + (p->all ? rondo__table_bytes(p->all) : 0);
    for (int64_t i = 0; i < p->made; i++)
        bytes += p->sequences[i].table ? rondo__table_bytes(p->sequences[i].table) : 0;
    return bytes;
}
