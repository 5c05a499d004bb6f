/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The programs of lib/attention/tree.c, run symbolically: a node is a hash of what was merged with what. Whatever the layout, the
 * turns, the window and the order in which ranks' leaves come, the root must be the canonical tree's, computed here level by level
 * from its definition (rule C6), and nodes that wait must be few.
 */
#include "attention/tree.h"
#include "t/tap.h"

static uint32_t seed = 1;
static uint32_t draw(uint32_t below)
{
    uint32_t out[4], counter[4] = { seed++, 0, 0, 0 }, key[2] = { 1100, 0 };
    rondo_philox(out, counter, key);
    return out[0] % below;
}

static uint64_t leaf_value(const struct rondo__piece *p)
{
    uint64_t h = rondo__hash_word(1, (uint64_t)p->first);
    h = rondo__hash_word(h, (uint64_t)p->step);
    return rondo__hash_word(h, (uint64_t)p->count);
}

static uint64_t merged(uint64_t a, uint64_t b)
{
    return rondo__hash_word(rondo__hash_word(3, a), b);
}

/* By the definition: at each height neighbours 2i and 2i+1 merge, one alone goes up as it is. */
static uint64_t canonical(const struct rondo__piece *p, int64_t n)
{
    int64_t *index = malloc((size_t)(n + 1) * sizeof *index);
    uint64_t *value = calloc((size_t)n + 1, sizeof *value), root;
    for (int64_t i = 0; i < n; i++) {
        index[i] = p[i].index;
        value[i] = leaf_value(&p[i]);
    }
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
    if (rondo__tree_build(&t, p, n, ranks > 2 ? ranks : 2))
        return (struct verdict){ 0, 0, 0 };
    for (uint32_t i = 0; i < n; i++)
        tag[i] = (me - p[i].rank + ranks) % ranks;
    rondo__tree_stages(&t, tag);
    slots = calloc((size_t)n + 1, sizeof *slots);
    for (int32_t j = 0; j < ranks; j++) {
        int32_t k = 0;
        for (uint32_t i = 0; i < n; i++)
            if (tag[i] == j)
                leaves[k++] = leaf_value(&p[i]);
        steps.count = 0;
        v.kv &= rondo__tree_stage(&t, j, false, &steps, &g);
        v.kv &= run((struct rondo_tree_step *)steps.items + g.first, &g, leaves, k, slots, t.slots, &out, &outs);
    }
    v.kv &= n ? outs == 1 && out == root : outs == 0;
    for (uint32_t i = 0; i <= n; i++)
        v.kv &= !slots[i];
    v.slots = t.slots;
    /* counting alone gives the same number */
    rondo__tree_stages(&t, tag);
    for (int32_t j = 0; j < ranks; j++)
        rondo__tree_stage(&t, j, false, NULL, &g);
    v.kv &= t.slots == v.slots;

    /* pass-Q: each rank its nodes in order, the owner joins them */
    uint64_t *nodes = calloc((size_t)n + 1, sizeof *nodes), *at = calloc((size_t)n + 1, sizeof *at);
    int64_t *first = calloc((size_t)ranks + 1, sizeof *first), total = 0;
    for (int32_t r = 0; r < ranks; r++) {
        int32_t k = 0;
        for (uint32_t i = 0; i < n; i++) {
            tag[i] = p[i].rank != r;
            if (!tag[i])
                leaves[k++] = leaf_value(&p[i]);
        }
        rondo__tree_stages(&t, tag);
        steps.count = 0;
        v.q &= rondo__tree_stage(&t, 0, true, &steps, &g);
        first[r] = total;
        v.q &= run((struct rondo_tree_step *)steps.items + g.first, &g, leaves, k, nodes + total, g.stores, &out, &outs);
        total += g.stores;
    }
    first[ranks] = total;
    for (uint32_t i = 0; i < n; i++)
        tag[i] = p[i].rank;
    rondo__tree_owners(&t, tag, counts);
    for (int r = 0; r < ranks; r++)
        v.q &= counts[r] == first[r + 1] - first[r];
    steps.count = 0;
    v.q &= rondo__tree_join(&t, &steps, &g, &rank_of) && rank_of.count == total;
    for (int64_t i = 0; i < total; i++)
        at[i] = nodes[first[((int32_t *)rank_of.items)[i]]++];
    out = 0;
    outs = 0;
    v.q &= run((struct rondo_tree_step *)steps.items + g.first, &g, leaves, 0, at, (int32_t)total, &out, &outs);
    v.q &= n ? outs == 1 && out == root : outs == 0;
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
            p[i] = (struct rondo__piece){ index, 0, index * 8, 1, 8, (int32_t)draw((uint32_t)ranks), 0 };
            index += 1 + (draw(3) ? 0 : draw(100));
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

static void placements(void)
{
    int kv = 1, q = 1, alike = 1, complete = 1, own = 1, dealt = 1;
    for (int round = 0; round < 300; round++) {
        rondo_placement_desc d = RONDO_PLACEMENT_DESC_INIT;
        rondo_placement *place;
        int ranks = 1 + (int)draw(9);
        d.ranks = ranks;
        d.layout = 1 + (int)draw(4);
        d.leaf = 8;
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
        const int causal = (int)draw(2);
        const int64_t left = draw(2) ? (int64_t)draw(200) : -1, right = draw(2) ? (int64_t)draw(50) : -1;
        struct rondo_mask mask, open;
        rondo__mask_make(&mask, causal, left, right);
        rondo__mask_make(&open, 0, -1, -1);
        int me = (int)draw((uint32_t)ranks);
        rondo_span spans[64];
        int64_t n = rondo_placement_spans(place, 0, me, length - turn, spans, 64);
        struct rondo__list seen = { 0 }, all = { 0 };
        rondo_span everything = { 0, length, 1, 0 };
        if (rondo__pieces(&seen, place, 0, &mask, spans, n) || rondo__pieces(&all, place, 0, &open, &everything, 1)) {
            own = 0;
            continue;
        }
        const struct rondo__piece *p = seen.items, *a = all.items;
        struct verdict v = check(p, seen.count, ranks, me);
        kv &= v.kv;
        q &= v.q;

        /* the whole: rows and owners are the placement's, every key once, indices rise */
        int64_t keys = 0;
        char *hit = calloc((size_t)length + 1, 1);
        for (int64_t i = 0; i < all.count; i++) {
            complete &= !i || a[i].index > a[i - 1].index;
            complete &= a[i].count >= 1 && a[i].count <= 8;
            for (int32_t j = 0; j < a[i].count; j++, keys++) {
                int64_t position = a[i].first + (int64_t)j * a[i].step;
                complete &= position < length && !hit[position]++;
                own &= rondo_placement_owner(place, 0, position) == a[i].rank;
                rondo_span one;
                own &= rondo_placement_spans(place, 0, a[i].rank, position, &one, 1) >= 1 && one.first == position && one.row == a[i].row + j;
            }
            if (!d.interleave)
                dealt &= a[i].step == 1 && a[i].index == a[i].first / 8;
        }
        complete &= keys == length;
        /* what is left out is what no query sees */
        int64_t k = 0;
        for (int64_t i = 0; i < all.count; i++) {
            int visible = 0;
            for (int64_t s = 0; s < n && !visible; s++)
                for (int64_t j = 0; j < spans[s].count && !visible; j++)
                    for (int32_t x = 0; x < a[i].count && !visible; x++) {
                        int64_t at = spans[s].first + j * spans[s].step, key = a[i].first + (int64_t)x * a[i].step;
                        visible = (!causal || key <= at) && (left < 0 || key >= at - left) && (right < 0 || key <= at + right);
                    }
            int here = k < seen.count && p[k].index == a[i].index;
            /* between keys dealt one by one and queries with a step the test may err on the side of yes */
            alike &= d.interleave ? here >= visible : here == visible;
            k += here;
        }
        alike &= k == seen.count;
        free(hit);
        rondo__list_free(&seen);
        rondo__list_free(&all);
        rondo_placement_destroy(place);
    }
    ok(kv, "placements over many turns: pass-KV yields the canonical tree");
    ok(q, "placements over many turns: pass-Q yields it too");
    ok(complete, "the pieces are all keys, each once");
    ok(own, "with the placement's owners and rows");
    ok(dealt, "by leaf: a piece is a leaf, its index the leaf's");
    ok(alike, "leaves that no query sees are left out, and no others");
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
                rondo__mask_make(&open, 0, -1, -1);
                rondo_span everything = { 0, 8 * 1024, 1, 0 };
                d.ranks = ranks;
                d.layout = layout;
                d.leaf = 8;
                if (rondo_placement_create(&place, &d) || rondo_placement_append(place, 0, 8 * 1024) ||
                    rondo__pieces(&list, place, 0, &open, &everything, 1)) {
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
    waiting();
    return done();
}
