/* SPDX-License-Identifier: BSD-2-Clause
 *
 * How a plan without a placement lays its sequences out: as the caller says, or, where nothing is said, so that all ranks compute alike.
 * What counts is the visible pairs of the queries that a rank holds; of its keys, with an algorithm that leaves these where they are. Zigzag
 * is taken where it balances them, as under a causal mask; for other masks leaves are dealt by what their queries see (layout/weigh.c),
 * unless dealing them in turn is better still. Several sequences or documents stay on a rank each where that balances the rows too, because
 * then next to nothing moves. Pure functions of the descriptor: every rank comes to the same. Called by design.c.
 */
#include "attention/mask/mask.h"
#include "attention/attention.h"

/* Below this a layout balances; what another one gains beyond it is not looked for. */
#define BALANCED 1.03
/* ... and rows, of whole documents: memory, and all that a model does besides attention. */
#define ROWS_BALANCED 1.1
/* What a layout that comes later in the list, and moves more, must gain. */
#define GAIN 0.01
/* Cells that leaves are dealt in by weight: for each rank so many, and in all at least so many. */
#define CELLS_EACH 256
#define CELLS 65536

static int no_memory(void)
{
    return rondo__fail(RONDO_ENOMEM, "rondo_attention_create: no memory for the plan's layout");
}

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* ---- what queries see ---- */

/* Ranks compute with their keys, and all queries; else with their queries, and all keys. */
static bool by_keys(const struct rondo__design *plan)
{
    return plan->desc.algorithm == RONDO_PASS_Q || plan->desc.algorithm == RONDO_REDUCE;
}

/* Whether the rows that count are placed by themselves: queries of a sequence with fewer keys, the first at position `cached`. */
static bool apart(const struct rondo__design *plan, int64_t sequence)
{
    return plan->cached[sequence] < 0 && !by_keys(plan);
}

static int64_t keys_of(const struct rondo__design *plan, int64_t sequence)
{
    return max64(plan->cached[sequence] + plan->tokens[sequence], 0);
}

/* Visible pairs of the queries (keys) at positions [first, first + count) of a sequence, all heads that the mask tells apart. */
static uint64_t pairs_of(const struct rondo__design *plan, int64_t sequence, int64_t first, int64_t count)
{
    const rondo_span some = { first, count, 1, 0 };
    const rondo_span all = by_keys(plan) ? (rondo_span){ plan->cached[sequence], plan->tokens[sequence], 1, 0 }
                                         : (rondo_span){ 0, keys_of(plan, sequence), 1, 0 };
    if (count <= 0 || all.count <= 0)
        return 0;
    return plan->mask.kind->pairs(&plan->mask, sequence, by_keys(plan) ? &all : &some, by_keys(plan) ? &some : &all);
}

static double over_mean(const double *of_rank, int32_t ranks)
{
    double most = 0.0, all = 0.0;
    for (int32_t r = 0; r < ranks; r++) {
        all += of_rank[r];
        most = of_rank[r] > most ? of_rank[r] : most;
    }
    return all > 0.0 ? most * ranks / all : 1.0;
}

/* The most pairs of a rank over their mean, 1 where there are none; *rows: the same of its rows. of_rank: room, [2][ranks]. */
static double imbalance(const struct rondo__design *plan, double *of_rank, double *rows)
{
    memset(of_rank, 0, (size_t)plan->ranks * 2 * sizeof *of_rank);
    for (int64_t i = 0; i < plan->sequences; i++) {
        const rondo_placement *p = apart(plan, i) ? plan->queries : plan->keys;
        const int64_t shift = apart(plan, i) ? plan->cached[i] : 0, from = apart(plan, i) || by_keys(plan) ? 0 : plan->cached[i];
        const int64_t length = rondo_placement_length(p, i);
        const struct rondo__run *runs;
        const int64_t count = rondo__placement_runs(p, i, &runs);
        for (int64_t j = 0; j < count; j++) {
            const int64_t first = max64(runs[j].first, from), end = j + 1 < count ? runs[j + 1].first : length;
            of_rank[runs[j].rank] += (double)pairs_of(plan, i, first + shift, end - first);
            of_rank[plan->ranks + runs[j].rank] += (double)max64(end - first, 0);
        }
    }
    *rows = over_mean(of_rank + plan->ranks, plan->ranks);
    return over_mean(of_rank, plan->ranks);
}

/* ---- by a layout ---- */

/* Empty placements: of the keys, and of the queries where there are sequences with fewer keys. They are in placements[0]. */
static int begin(struct rondo__design *plan, const rondo_attention_desc *d, int32_t layout)
{
    rondo_placement_desc p = RONDO_PLACEMENT_DESC_INIT;
    bool fewer = false;
    for (int64_t i = 0; i < plan->sequences; i++)
        fewer |= plan->cached[i] < 0;
    p.ranks = plan->ranks;
    p.layout = layout;
    p.leaf = d->leaf;
    p.sequences = plan->sequences;
    int err = rondo__placement_renew(&plan->placements[0][0], &p);
    if (layout == RONDO_CUSTOM)
        p.layout = RONDO_ZIGZAG;
    if (!err && fewer)
        err = rondo__placement_renew(&plan->placements[0][1], &p);
    plan->keys = plan->placements[0][0];
    plan->queries = fewer ? plan->placements[0][1] : NULL;
    return err;
}

/* What is cached, then what is new, each a turn of its own. */
static int place_turns(struct rondo__design *plan)
{
    int err = 0;
    for (int64_t i = 0; i < plan->sequences && !err; i++) {
        const int64_t cached = plan->cached[i], keys = cached + plan->tokens[i];
        if (cached > 0)
            err = rondo_placement_append(plan->keys, i, cached);
        if (!err && keys > 0)
            err = rondo_placement_append(plan->keys, i, cached < 0 ? keys : plan->tokens[i]);
        if (!err && cached < 0)
            err = rondo_placement_append(plan->queries, i, plan->tokens[i]);
    }
    return err;
}

/* ---- as the caller lists ---- */

static int place_owners(struct rondo__design *plan, const int32_t *owners)
{
    const int64_t leaf = rondo__placement_desc(plan->keys)->leaf;
    struct rondo__list deals = rondo__list_of(&plan->arena);
    int64_t at = 0;
    int err = 0;
    for (int64_t i = 0; i < plan->sequences && !err; i++) {
        const int64_t keys = keys_of(plan, i), leaves = (keys + leaf - 1) / leaf;
        deals.count = 0;
        for (int64_t j = 0; j < leaves && !err; j++) {
            const int32_t rank = owners[at + j];
            if (rank < 0 || rank >= plan->ranks)
                err = rondo__fail(RONDO_EINVAL, "rondo_attention_create: owners[%lld], of leaf %lld of sequence %lld, is %d; the context has ranks "
                                                "0 to %d", (long long)(at + j), (long long)j, (long long)i, (int)rank, (int)plan->ranks - 1);
            if (err || (j && rank == owners[at + j - 1]))
                continue;
            struct rondo__deal *deal = rondo__list_add(&deals, sizeof *deal, 1);
            if (deal)
                *deal = (struct rondo__deal){ j, rank, 0 };
            else
                err = no_memory();
        }
        at += leaves;
        if (!err)
            err = rondo__placement_append_deals(plan->keys, i, keys, deals.items, deals.count);
        if (!err && plan->cached[i] < 0)
            err = rondo_placement_append(plan->queries, i, plan->tokens[i]);
    }
    return err;
}

/* ---- by weight ---- */

/* The new leaves of a sequence: where the queries in the first of them stand, and their number. Before them the last leaf of what is cached
 * is filled. */
struct fresh {
    int64_t position, tokens, leaves, fill;
};

static struct fresh fresh_of(const struct rondo__design *plan, int64_t i, int64_t leaf)
{
    const int64_t cached = plan->cached[i], open = cached > 0 ? (leaf - cached % leaf) % leaf : 0;
    if (cached < 0 && by_keys(plan))
        return (struct fresh){ 0, keys_of(plan, i), (keys_of(plan, i) + leaf - 1) / leaf, 0 };
    struct fresh f = { .fill = min64(open, plan->tokens[i]) };
    f.position = cached + f.fill;
    f.tokens = plan->tokens[i] - f.fill;
    f.leaves = (f.tokens + leaf - 1) / leaf;
    return f;
}

static double weight_of(const struct rondo__design *plan, int64_t sequence, int64_t first, int64_t count)
{
    /* what sees nothing is spread evenly too */
    return (double)pairs_of(plan, sequence, first, count) + (double)count / 1024.0;
}

/* Cells of a sequence; what belongs together begins where a document does, at the nearest cell. */
static bool add_cells(const struct rondo__design *plan, int64_t sequence, const struct fresh *f, int64_t leaf, int64_t grain, struct rondo__list *out)
{
    const int64_t count = (f->leaves + grain - 1) / grain, size = leaf * grain;
    if (!count)
        return true;
    struct rondo__cell *cell = rondo__list_add(out, sizeof *cell, count);
    if (!cell)
        return false;
    for (int64_t i = 0; i < count; i++) {
        const int64_t first = i * size, end = min64(first + size, f->tokens);
        cell[i] = (struct rondo__cell){ sequence, i * grain, min64((i + 1) * grain, f->leaves),
                                        weight_of(plan, sequence, f->position + first, end - first), i == 0 };
    }
    const struct rondo__documents *d = plan->mask.data ? &plan->mask.data->documents : NULL;
    for (int64_t i = d && d->sequence ? d->sequence[sequence] : 0; d && d->sequence && i < d->sequence[sequence + 1]; i++) {
        const int64_t at = (d->runs[i].first - f->position + size / 2) / size;
        if (d->runs[i].first > f->position && at < count)
            cell[at].begins = true;
    }
    return true;
}

/* Each sequence's turn, by the owners of the cells, which are in the order of sequences. */
static int append_cells(struct rondo__design *plan, const struct rondo__list *cells, const int32_t *owner)
{
    const struct rondo__cell *cell = cells->items;
    struct rondo__deal *deals = rondo__arena_zero(&plan->arena, (size_t)cells->count, sizeof *deals);
    int err = deals ? 0 : no_memory();
    for (int64_t i = 0, at = 0; i < plan->sequences && !err; i++) {
        int64_t n = 0;
        for (; at < cells->count && cell[at].sequence == i; at++)
            if (!n || deals[n - 1].rank != owner[at])
                deals[n++] = (struct rondo__deal){ cell[at].first, owner[at], 0 };
        const int64_t tokens = apart(plan, i) ? plan->tokens[i] : keys_of(plan, i) - rondo_placement_length(plan->keys, i);
        err = rondo__placement_append_deals(apart(plan, i) ? plan->queries : plan->keys, i, tokens, deals, n);
    }
    return err;
}

/* What is not dealt by weight goes as in any turn: keys that are cached, or the rows of the other side where it lies by itself. */
static int place_before(struct rondo__design *plan, int64_t i, const struct fresh *f, double *load)
{
    const int64_t cached = plan->cached[i], before = cached >= 0 ? cached : by_keys(plan) ? 0 : keys_of(plan, i);
    const struct rondo__run *runs;
    int err = rondo_placement_append(plan->keys, i, before);
    if (!err && cached < 0 && by_keys(plan))
        err = rondo_placement_append(plan->queries, i, plan->tokens[i]);
    if (!err && f->fill)
        load[rondo_placement_owner(plan->keys, i, before - 1)] += weight_of(plan, i, cached, f->fill);
    if (err || !by_keys(plan))
        return err;
    const int64_t count = rondo__placement_runs(plan->keys, i, &runs);
    for (int64_t j = 0; j < count; j++)
        load[runs[j].rank] += weight_of(plan, i, runs[j].first, (j + 1 < count ? runs[j + 1].first : before) - runs[j].first);
    return 0;
}

static int place_by_weight(struct rondo__design *plan, double *load)
{
    const int64_t leaf = rondo__placement_desc(plan->keys)->leaf;
    struct rondo__list cells = rondo__list_of(&plan->arena);
    int64_t leaves = 0, grain = 1;
    int err = 0;
    memset(load, 0, (size_t)plan->ranks * sizeof *load);
    for (int64_t i = 0; i < plan->sequences; i++)
        leaves += fresh_of(plan, i, leaf).leaves;
    while (leaves / grain > max64(CELLS, (int64_t)CELLS_EACH * plan->ranks))
        grain *= 2;
    for (int64_t i = 0; i < plan->sequences && !err; i++) {
        const struct fresh f = fresh_of(plan, i, leaf);
        err = place_before(plan, i, &f, load);
        if (!err && !add_cells(plan, i, &f, leaf, grain, &cells))
            err = no_memory();
    }
    int32_t *owner = rondo__arena_zero(&plan->arena, (size_t)cells.count, sizeof *owner);
    if (!err && (!owner || !rondo__deal_by_weight(cells.items, cells.count, load, plan->ranks, owner, &plan->arena)))
        err = no_memory();
    if (!err)
        err = append_cells(plan, &cells, owner);
    return err;
}

/* ---- choosing ---- */

static int place(struct rondo__design *plan, const rondo_attention_desc *d, int32_t layout, double *of_rank)
{
    int err = begin(plan, d, layout);
    if (!err)
        err = layout == RONDO_CUSTOM ? place_owners(plan, d->owners)
                                     : layout == RONDO_DOCUMENT ? place_by_weight(plan, of_rank) : place_turns(plan);
    return err;
}

/* Whether layouts can differ: on one rank, with fewer leaves than ranks, or a token to each sequence, they hardly do. */
static bool differs(const struct rondo__design *plan, int64_t leaf)
{
    int64_t leaves = 0, most = 0;
    if (plan->ranks == 1)
        return false;
    for (int64_t i = 0; i < plan->sequences; i++) {
        leaves += (plan->tokens[i] + leaf - 1) / leaf;
        most = max64(most, plan->tokens[i]);
    }
    return leaves >= plan->ranks && most > 1;
}

/* By what they move where they balance alike: of one document; of several. */
static const int32_t candidates[2][4] = { { RONDO_ZIGZAG, RONDO_DOCUMENT, RONDO_SNAKE, RONDO_STRIPED },
                                          { RONDO_DOCUMENT, RONDO_ZIGZAG, RONDO_SNAKE, RONDO_STRIPED } };

/* What is tried becomes the best, whose place the next one is tried in. */
static void swap_placements(struct rondo__design *plan)
{
    rondo_placement *tried[2];
    memcpy(tried, plan->placements[0], sizeof tried);
    memcpy(plan->placements[0], plan->placements[1], sizeof tried);
    memcpy(plan->placements[1], tried, sizeof tried);
}

int rondo__lay_out(struct rondo__design *plan, const rondo_attention_desc *d)
{
    if (d->layout == RONDO_LAYOUT_DEFAULT && !differs(plan, d->leaf ? d->leaf : RONDO_LEAF_DEFAULT))
        return place(plan, d, RONDO_ZIGZAG, NULL);
    const bool several = plan->sequences > 1 || (plan->mask.data && plan->mask.data->documents.sequence);
    const struct rondo__arena_mark mark = rondo__arena_mark(&plan->arena);
    double *of_rank = rondo__arena_zero(&plan->arena, (size_t)plan->ranks, 2 * sizeof *of_rank), best_of = 0.0, rows = 1.0;
    int err = of_rank ? 0 : no_memory();
    if (!err && d->layout)
        err = place(plan, d, d->layout, of_rank);
    bool fine = false;
    for (int i = 0; i < 4 && !err && !d->layout && !fine; i++) {
        const int32_t layout = candidates[several][i];
        err = place(plan, d, layout, of_rank);
        const double is = err ? 0.0 : imbalance(plan, of_rank, &rows);
        fine = is < BALANCED && (!several || layout != RONDO_DOCUMENT || rows < ROWS_BALANCED);
        if (!err && (!i || fine || is < best_of - GAIN)) {
            swap_placements(plan);
            best_of = is;
        }
    }
    if (!err && !d->layout) {
        swap_placements(plan);
        plan->keys = plan->placements[0][0];
        plan->queries = plan->queries ? plan->placements[0][1] : NULL;
    }
    rondo__arena_return(&plan->arena, mark);
    return err;
}
