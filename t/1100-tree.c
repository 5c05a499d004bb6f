/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The programs of lib/attention/tree.c, run symbolically: a node is a hash of what was merged with what. Whatever the layout, the
 * turns, the window and the order in which ranks' leaves come, the root must be the canonical tree's, computed here level by level
 * from its definition (rule C6), and nodes that wait must be few.
 */
#include "attention/survey.h"
#define DRAW_STREAM 1100
#include "t/draw.h"
#include "t/tap.h"

#define LEAF 8

static uint64_t merged(uint64_t a, uint64_t b)
{
    return rondo__hash_word(rondo__hash_word(3, a), b);
}

static int64_t leaves_of(const struct rondo__piece *p, int64_t n)
{
    int64_t leaves = 0;
    for (int64_t i = 0; i < n; i++)
        leaves += p[i].leaves;
    return leaves;
}

/* By the definition: at each height neighbours 2i and 2i+1 merge, one alone goes up as it is. Pieces are taken leaf by leaf. */
static uint64_t canonical(const struct rondo__piece *p, int64_t n)
{
    const int64_t leaves = leaves_of(p, n);
    int64_t *index = malloc((size_t)(leaves + 1) * sizeof *index), k = 0;
    uint64_t *value = calloc((size_t)leaves + 1, sizeof *value), root;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < p[i].leaves; j++) {
            int64_t first = p[i].first + j * LEAF * p[i].step, left = p[i].count - j * LEAF;
            uint64_t h = rondo__hash_word(rondo__hash_word(1, (uint64_t)first), (uint64_t)p[i].step);
            index[k] = p[i].index + j;
            value[k++] = rondo__hash_word(h, (uint64_t)(left < LEAF ? left : LEAF));
        }
    n = leaves;
    while (n > 1) {
        int64_t m = 0;
        for (int64_t i = 0; i < n; i++) {
            if (i + 1 < n && index[i] / 2 == index[i + 1] / 2) {
                value[m] = merged(value[i], value[i + 1]);
                index[m++] = index[i] / 2;
                i++;
            } else {
                value[m] = value[i];
                index[m++] = index[i] / 2;
            }
        }
        n = m;
    }
    root = value[0];
    free(index);
    free(value);
    return root;
}

static uint64_t leaf_value(const struct rondo__piece *p)
{
    return canonical(p, 1);
}

/* Runs a program; false where it breaks the machine's rules. */
static int run(const struct rondo_tree_step *steps, const struct rondo__program *g, const uint64_t *leaves, int32_t leaf_count,
               uint64_t *slots, int32_t slot_count, uint64_t *out, int *outs)
{
    uint64_t stack[128];
    int32_t height = 0, next_leaf = 0;
    for (int32_t i = 0; i < g->steps; i++) {
        int32_t a = steps[i].arg;
        switch (steps[i].code) {
        case RONDO_TREE_LEAF:
            if (a != next_leaf++ || a >= leaf_count)
                return 0;
            stack[height++] = leaves[a];
            break;
        case RONDO_TREE_LOAD:
            if (a < 0 || a >= slot_count || !slots[a])
                return 0;
            stack[height++] = slots[a];
            slots[a] = 0;
            break;
        case RONDO_TREE_MERGE:
            if (height < 2)
                return 0;
            height--;
            stack[height - 1] = merged(stack[height - 1], stack[height]);
            break;
        case RONDO_TREE_STORE:
            if (height != 1 || a < 0 || a >= slot_count || slots[a])
                return 0;
            slots[a] = stack[--height];
            break;
        case RONDO_TREE_OUT:
            if (height != 1)
                return 0;
            *out = stack[--height];
            ++*outs;
            break;
        default:
            return 0;
        }
        if (height > g->depth)
            return 0;
    }
    return height == 0 && next_leaf == leaf_count && g->leaves == leaf_count;
}

struct verdict {
    int kv, q;
    int32_t slots;
};

/* Both algorithms' programs over these pieces, for the queries of rank me. */
static struct verdict check(const struct rondo__piece *p, int64_t pieces, int ranks, int me)
{
    uint32_t n = (uint32_t)pieces;
    struct verdict v = { 1, 1, 0 };
    struct rondo__tree t;
    struct rondo__list steps = { 0 }, rank_of = { 0 };
    struct rondo__program g;
    int32_t *tag = malloc((size_t)(n + 1) * sizeof *tag);
    uint64_t *leaves = malloc((size_t)(n + 1) * sizeof *leaves), *slots, root = n ? canonical(p, n) : 0, out = 0;
    int64_t *counts = calloc((size_t)ranks, sizeof *counts);
    int outs = 0;

    /* pass-KV: rank (me - j) mod ranks comes at step j */
    memset(&t, 0, sizeof t);
    if (rondo__tree_build(&t, p, n, ranks > 2 ? ranks : 2))
        return (struct verdict){ 0, 0, 0 };
    for (uint32_t i = 0; i < n; i++)
        tag[i] = (me - p[i].rank + ranks) % ranks;
    rondo__tree_stages(&t, tag, false);
    slots = calloc((size_t)n + 1, sizeof *slots);
    for (int32_t j = 0; j < ranks; j++) {
        int32_t k = 0;
        for (uint32_t i = 0; i < n; i++)
            if (tag[i] == j)
                leaves[k++] = leaf_value(&p[i]);
        steps.count = 0;
        v.kv &= rondo__tree_stage(&t, j, &steps, &g);
        v.kv &= run((struct rondo_tree_step *)steps.items + g.first, &g, leaves, k, slots, t.slots, &out, &outs);
    }
    v.kv &= n ? outs == 1 && out == root : outs == 0;
    for (uint32_t i = 0; i <= n; i++)
        v.kv &= !slots[i];
    v.slots = t.slots;
    /* counting alone gives the same number */
    rondo__tree_stages(&t, tag, false);
    for (int32_t j = 0; j < ranks; j++)
        rondo__tree_stage(&t, j, NULL, &g);
    v.kv &= t.slots == v.slots;

    /* Tiles: groups of neighbouring ranks, each its nodes in order, which it completes in stages; the owner joins them. Of one rank: pass-Q. */
    uint64_t *nodes = calloc((size_t)n + 1, sizeof *nodes), *at = calloc((size_t)n + 1, sizeof *at);
    int64_t *first = calloc((size_t)ranks + 1, sizeof *first);
    for (int32_t columns = 1; columns <= ranks; columns += columns < 3 ? 1 : 2) {
        const int32_t groups = (ranks + columns - 1) / columns;
        int64_t total = 0;
        for (int32_t x = 0; x < groups; x++) {
            memset(slots, 0, ((size_t)n + 1) * sizeof *slots);
            v.q &= !rondo__tree_build(&t, p, n, columns);
            for (uint32_t i = 0; i < n; i++)
                tag[i] = p[i].rank / columns == x ? (me + p[i].rank) % columns : columns;
            rondo__tree_stages(&t, tag, true);
            for (int32_t stage = 0; stage < columns; stage++) {
                int32_t k = 0;
                for (uint32_t i = 0; i < n; i++)
                    if (tag[i] == stage)
                        leaves[k++] = leaf_value(&p[i]);
                steps.count = 0;
                v.q &= rondo__tree_stage(&t, stage, &steps, &g);
                v.q &= run(steps.items, &g, leaves, k, slots, t.slots, &out, &outs);
            }
            first[x] = total;
            for (int32_t i = 0; i < t.slots; i++)
                if (i < t.kept)
                    nodes[total++] = slots[i];
                else
                    v.q &= !slots[i];
        }
        first[groups] = total;
        for (uint32_t i = 0; i < n; i++)
            tag[i] = p[i].rank / columns;
        memset(counts, 0, (size_t)ranks * sizeof *counts);
        rondo__tree_owners(&t, tag, counts);
        for (int x = 0; x < groups; x++)
            v.q &= counts[x] == first[x + 1] - first[x];
        steps.count = rank_of.count = 0;
        v.q &= rondo__tree_join(&t, &steps, &g, &rank_of) && rank_of.count == total;
        for (int64_t i = 0; i < total && v.q; i++)
            at[i] = nodes[first[((int32_t *)rank_of.items)[i]]++];
        out = 0;
        outs = 0;
        v.q &= run((struct rondo_tree_step *)steps.items + g.first, &g, leaves, 0, at, (int32_t)total, &out, &outs);
        v.q &= n ? outs == 1 && out == root : outs == 0;
    }
    free(tag);
    free(leaves);
    free(slots);
    free(counts);
    free(nodes);
    free(at);
    free(first);
    rondo__list_free(&steps);
    rondo__list_free(&rank_of);
    rondo__tree_free(&t);
    return v;
}

static void arbitrary_leaves(void)
{
    int kv = 1, q = 1, slots = 1;
    for (int round = 0; round < 400; round++) {
        int ranks = 1 + (int)draw(9);
        struct rondo__piece p[200];
        int64_t n = draw(200), index = draw(5);
        memset(p, 0, sizeof p);
        for (int64_t i = 0; i < n; i++) {
            int64_t leaves = draw(2) ? 1 : (int64_t)1 << draw(6);
            index = (index + leaves - 1) / leaves * leaves;
            p[i] = (struct rondo__piece){ index, leaves, 0, index * LEAF, leaves * LEAF - draw(LEAF), 1, (int32_t)draw((uint32_t)ranks) };
            index += leaves + (draw(3) ? 0 : draw(100));
        }
        struct verdict v = check(p, n, ranks, (int)draw((uint32_t)ranks));
        kv &= v.kv;
        q &= v.q;
        slots &= v.slots <= n;
    }
    ok(kv, "any leaves on any ranks: pass-KV's programs yield the canonical tree");
    ok(q, "any leaves on any ranks: pass-Q's nodes and their join yield it too");
    ok(slots, "never more nodes wait than there are leaves");
}

/* Nodes of one rank by the pieces that a builder sees of it are those by all pieces. */
static int own_alone(const struct rondo__survey *s, const struct rondo__interval *sees, int32_t count, int ranks, const struct rondo__piece *p,
                     int64_t n)
{
    struct rondo__list own = { 0 }, steps = { 0 };
    struct rondo__tree t = { 0 };
    struct rondo__program g;
    int good = 1, outs = 0;
    int32_t *tag = calloc(2 * (size_t)n + 8, sizeof *tag);
    uint64_t *leaves = calloc(2 * (size_t)n + 8, sizeof *leaves), *nodes[2], out;
    nodes[0] = calloc(2 * (size_t)n + 8, sizeof *leaves);
    nodes[1] = calloc(2 * (size_t)n + 8, sizeof *leaves);
    for (int r = 0; r < ranks; r++) {
        int64_t stores[2] = { 0, 0 };
        good &= rondo__pieces(s, 0, sees, count, r, &own);
        for (int which = 0; which < 2; which++) {
            const struct rondo__piece *q = which ? own.items : p;
            int64_t m = which ? own.count : n;
            int32_t k = 0;
            if (rondo__tree_build(&t, q, m, 1))
                return 0;
            for (int64_t i = 0; i < m; i++) {
                tag[i] = q[i].rank != r;
                if (!tag[i])
                    leaves[k++] = leaf_value(q + i);
            }
            rondo__tree_stages(&t, tag, true);
            steps.count = 0;
            memset(nodes[which], 0, (2 * (size_t)n + 8) * sizeof *leaves);
            good &= rondo__tree_stage(&t, 0, &steps, &g);
            good &= run(steps.items, &g, leaves, k, nodes[which], g.stores, &out, &outs);
            stores[which] = g.stores;
        }
        good &= stores[0] == stores[1] && !memcmp(nodes[0], nodes[1], (size_t)stores[0] * sizeof *leaves);
    }
    free(tag);
    free(leaves);
    free(nodes[0]);
    free(nodes[1]);
    rondo__list_free(&own);
    rondo__list_free(&steps);
    rondo__tree_free(&t);
    return good;
}

static struct rondo__arena surveyed;

static int make_survey(struct rondo__survey *s, const rondo_placement *place, int ranks, const struct rondo_mask *mask, const int64_t *from)
{
    const struct rondo__roles roles = { .sequences = 1, .ranks = ranks, .leaf = LEAF, .mask = *mask, .output = { place, NULL, from, NULL },
                                        .input = { place, NULL, NULL, NULL } };
    rondo__arena_clear(&surveyed);
    return rondo__survey_make(s, &roles, &surveyed);
}

static void placements(void)
{
    int kv = 1, q = 1, alike = 1, complete = 1, own = 1, dealt = 1, alone = 1, few = 1;
    for (int round = 0; round < 300; round++) {
        rondo_placement_desc d = RONDO_PLACEMENT_DESC_INIT;
        rondo_placement *place;
        int ranks = 1 + (int)draw(9);
        d.ranks = ranks;
        d.layout = 1 + (int)draw(4);
        d.leaf = LEAF;
        d.interleave = round % 4 == 3;
        if (rondo_placement_create(&place, &d))
            continue;
        int turns = 1 + (int)draw(8);
        int64_t length = 0, turn = 0;
        for (int i = 0; i < turns; i++) {
            turn = draw(2) ? draw(3) : draw(500);
            length += turn;
            if (rondo_placement_append(place, 0, turn))
                own = 0;
        }
        struct rondo_mask mask;
        rondo__mask_make(&mask, (int)draw(2), draw(2) ? (int64_t)draw(200) : -1, draw(2) ? (int64_t)draw(50) : -1);
        int me = (int)draw((uint32_t)ranks);
        const int64_t from = length - turn;
        struct rondo__survey s;
        struct rondo__list seen = { 0 }, all = { 0 };
        const struct rondo__interval everything = { 0, length };
        if (make_survey(&s, place, ranks, &mask, &from) || !rondo__pieces(&s, 0, &everything, length ? 1 : 0, -1, &all)) {
            own = 0;
            continue;
        }

        /* the whole: rows and owners are the placement's, every key once, indices rise, pieces are few and stand under one node */
        const struct rondo__piece *a = all.items;
        int64_t keys = 0;
        char *hit = calloc((size_t)length + 1, 1);
        for (int64_t i = 0; i < all.count; i++) {
            int64_t size = 1;
            while (size < a[i].leaves)
                size *= 2;
            complete &= !i || a[i].index > a[i - 1].index;
            complete &= a[i].count >= 1 && a[i].count <= a[i].leaves * LEAF && a[i].index % size == 0;
            for (int32_t j = 0; j < a[i].count; j++, keys++) {
                int64_t position = a[i].first + (int64_t)j * a[i].step;
                complete &= position < length && !hit[position]++;
                own &= rondo_placement_owner(place, 0, position) == a[i].rank;
                rondo_span one;
                own &= rondo_placement_spans(place, 0, a[i].rank, position, &one, 1) >= 1 && one.first == position && one.row == a[i].row + j;
            }
            if (!d.interleave)
                dealt &= a[i].step == 1 && a[i].index == a[i].first / LEAF;
        }
        complete &= keys == length;
        few &= d.interleave || all.count <= (int64_t)turns * 4 * ranks * 12;

        int64_t strip, strips = rondo__strips_of(&s, 0, me, &strip);
        for (int64_t t = strip; t < strip + strips; t++) {
            const struct rondo__strip *v = rondo__strip_at(&s, t);
            const rondo_span *spans = (const rondo_span *)s.spans.items + v->spans_first;
            const struct rondo__interval *sees = rondo__strip_sees(&s, v);
            if (!rondo__pieces(&s, 0, sees, v->sees, -1, &seen)) {
                own = 0;
                continue;
            }
            struct verdict w = check(seen.items, seen.count, ranks, me);
            kv &= w.kv;
            q &= w.q;
            alone &= own_alone(&s, sees, v->sees, ranks, seen.items, seen.count);
            /* the leaves that are left out are those that no query sees */
            memset(hit, 0, (size_t)length + 1);
            const struct rondo__piece *p = seen.items;
            for (int64_t i = 0; i < seen.count; i++)
                for (int64_t j = 0; j < p[i].count; j++)
                    hit[p[i].first + j * p[i].step] = 1;
            for (int64_t i = 0; i < all.count; i++)
                for (int64_t leaf = 0; leaf < a[i].leaves; leaf++) {
                    int visible = 0, here = 0;
                    for (int64_t x = leaf * LEAF; x < a[i].count && x < (leaf + 1) * LEAF; x++) {
                        int64_t key = a[i].first + x * a[i].step;
                        here |= hit[key];
                        for (int32_t j = 0; j < v->spans && !visible; j++)
                            for (int64_t k = 0; k < spans[j].count && !visible; k++) {
                                int64_t lo, hi;
                                mask.kind->row(&mask, 0, spans[j].first + k * spans[j].step, &lo, &hi);
                                visible = key >= lo && key < hi;
                            }
                    }
                    /* between keys dealt one by one and queries with a step the test may err on the side of yes */
                    alike &= d.interleave ? here >= visible : here == visible;
                }
        }
        free(hit);
        rondo__list_free(&seen);
        rondo__list_free(&all);
        rondo_placement_destroy(place);
    }
    ok(kv, "placements over many turns: pass-KV yields the canonical tree");
    ok(q, "placements over many turns: pass-Q yields it too");
    ok(alone, "a rank finds the same nodes by its own pieces and the places of the others'");
    ok(complete, "the pieces are all keys, each once, under one node each");
    ok(few, "and few");
    ok(own, "with the placement's owners and rows");
    ok(dealt, "by leaf: a piece begins with a leaf, its index the leaf's");
    ok(alike, "leaves that no query sees are left out, and no others");
}

/* The formula against the tree: leaves [first, end) between two others, or one, or none. */
static void formula(void)
{
    int good = 1;
    for (int round = 0; round < 20000; round++) {
        int64_t before = draw(4) ? (int64_t)draw(300) : -1, first = before + 1 + (draw(2) ? 0 : draw(40)), end = first + 1 + draw(200);
        int64_t after = draw(4) ? end + (draw(2) ? 0 : draw(100)) : -1;
        struct rondo__piece *all = calloc((size_t)(end - first) + 2, sizeof *all);
        struct rondo__tree t = { 0 };
        int32_t *owner = calloc((size_t)(end - first) + 2, sizeof *owner);
        int64_t n = 0, counts[2] = { 0, 0 };
        if (before >= 0)
            all[n++] = (struct rondo__piece){ .index = before, .leaves = 1, .rank = 1 };
        for (int64_t i = first; i < end; i++)
            all[n++] = (struct rondo__piece){ .index = i, .leaves = 1, .rank = 0 };
        if (after >= 0)
            all[n++] = (struct rondo__piece){ .index = after, .leaves = 1, .rank = 1 };
        for (int64_t i = 0; i < n; i++)
            owner[i] = all[i].rank;
        good &= rondo__tree_build(&t, all, n, 2) == 0;
        rondo__tree_owners(&t, owner, counts);
        if (counts[0] != rondo__nodes_between(first, end, before, after)) {
            if (good)
                diag("[%lld, %lld) between %lld and %lld: %lld nodes, not %d", (long long)first, (long long)end, (long long)before,
                     (long long)after, (long long)counts[0], (int)rondo__nodes_between(first, end, before, after));
            good = 0;
        }
        rondo__tree_free(&t);
        free(all);
        free(owner);
    }
    ok(good, "the number of a rank's nodes by formula is the tree's");
}

/* Nodes that wait at once: research on this scheme gives 4 (contiguous) and 8 (zigzag) for 8 ranks and aligned shards. */
static void waiting(void)
{
    for (int layout = 1; layout <= 4; layout++) {
        int32_t most = 0;
        int good = 1;
        for (int ranks = 1; ranks <= 16; ranks++)
            for (int me = 0; me < ranks; me++) {
                rondo_placement_desc d = RONDO_PLACEMENT_DESC_INIT;
                rondo_placement *place;
                struct rondo__list list = { 0 };
                struct rondo_mask open;
                struct rondo__survey s;
                const struct rondo__interval everything = { 0, 8 * 1024 };
                rondo__mask_make(&open, 0, -1, -1);
                d.ranks = ranks;
                d.layout = layout;
                d.leaf = 8;
                if (rondo_placement_create(&place, &d) || rondo_placement_append(place, 0, 8 * 1024) ||
                    make_survey(&s, place, ranks, &open, NULL) || !rondo__pieces(&s, 0, &everything, 1, -1, &list)) {
                    good = 0;
                    continue;
                }
                struct verdict v = check(list.items, list.count, ranks, me);
                good &= v.kv && v.q;
                if (ranks == 8 && v.slots > most)
                    most = v.slots;
                good &= v.slots <= 4 * ranks + 20;
                rondo__list_free(&list);
                rondo_placement_destroy(place);
            }
        ok(good, "%s: 1 to 16 ranks, few nodes wait", rondo_layout_name(layout));
        if (layout <= RONDO_ZIGZAG)
            ok(most <= 4 * layout, "%s: 8 ranks, aligned: %d nodes wait", rondo_layout_name(layout), (int)most);
        else
            diag("%s: 8 ranks, aligned: %d nodes wait", rondo_layout_name(layout), (int)most);
    }
}

int main(void)
{
    arbitrary_leaves();
    placements();
    formula();
    waiting();
    rondo__arena_free(&surveyed);
    return done();
}
