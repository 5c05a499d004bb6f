/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Programs for the canonical tree. The tree of rule C6 pairs leaf ranges that are aligned at powers of two and prunes what is not
 * there; as a data structure that is the binary trie over the leaf indices without its one-child nodes. Which pieces are where,
 * and when they come, cuts the trie; the pairing stays what it is, and with it every bit of the result.
 */
#include "attention/tree.h"

int rondo__tree_build(struct rondo__tree *t, const struct rondo__piece *pieces, int64_t count, int32_t stages)
{
    if (count > RONDO_PIECES_MAX)
        return rondo__fail(RONDO_ENOTSUP, "attention: %lld leaves in one sequence; at most 2^28 are supported", (long long)count);
    size_t n = (size_t)count, nodes = n ? 2 * n - 1 : 0;
    if (!rondo__list_set(&t->memory, sizeof(int32_t), (int64_t)(5 * nodes + n + 2 * (size_t)stages)))
        return rondo__fail(RONDO_ENOMEM, "attention: no memory for a tree of %lld leaves", (long long)count);
    t->pieces = pieces;
    t->leaves = (int32_t)count;
    t->stages = stages;
    t->left = t->memory.items;
    t->right = t->left + nodes;
    t->stage = t->right + nodes;
    t->slot = t->stage + nodes;
    t->next = t->slot + nodes;
    t->spare = t->next + nodes;
    t->head = t->spare + n;
    t->tail = t->head + stages;
    t->root = count ? 0 : -1;

    /* Node n+i-1 parts pieces i-1 and i, at the highest bit in which their indices differ: a tree with the highest bits on top. The
     * rightmost branch is kept as a stack in `spare`; `stage` holds the bits meanwhile. */
    int32_t top = 0;
    for (int32_t i = 0; i < t->leaves; i++) {
        t->left[i] = t->right[i] = -1;
        if (!i)
            continue;
        int32_t node = t->leaves + i - 1, below = i - 1;
        int32_t bit = 63 - __builtin_clzll((unsigned long long)(pieces[i - 1].index ^ pieces[i].index));
        while (top && t->stage[t->spare[top - 1]] < bit)
            below = t->spare[--top];
        t->left[node] = below;
        t->right[node] = i;
        t->stage[node] = bit;
        if (top)
            t->right[t->spare[top - 1]] = node;
        else
            t->root = node;
        t->spare[top++] = node;
    }
    return 0;
}

void rondo__tree_free(struct rondo__tree *t)
{
    rondo__list_free(&t->memory);
    *t = (struct rondo__tree){ .memory = t->memory };
}

/* The recursions below go as deep as the tree is high: at most 62 levels. */

static int32_t set_stages(struct rondo__tree *t, int32_t node, const int32_t *stage_of_piece)
{
    if (t->left[node] < 0)
        return t->stage[node] = stage_of_piece[node];
    int32_t a = set_stages(t, t->left[node], stage_of_piece), b = set_stages(t, t->right[node], stage_of_piece);
    return t->stage[node] = a > b ? a : b;
}

/* A node is computed in its own stage unless its parent is computed then too and takes it up at once. One whose parent is never computed
 * here is kept. */
static void list_stages(struct rondo__tree *t, int32_t node, int32_t parent_stage)
{
    int32_t s = t->stage[node];
    if (s < parent_stage && s < t->stages) {
        t->slot[node] = parent_stage >= t->stages && (node != t->root || t->keeps_root) ? t->kept++ : -1;
        t->next[node] = -1;
        if (t->tail[s] >= 0)
            t->next[t->tail[s]] = node;
        else
            t->head[s] = node;
        t->tail[s] = node;
    }
    if (t->left[node] >= 0) {
        list_stages(t, t->left[node], s);
        list_stages(t, t->right[node], s);
    }
}

void rondo__tree_stages(struct rondo__tree *t, const int32_t *stage_of_piece, bool keep)
{
    for (int32_t s = 0; s < t->stages; s++)
        t->head[s] = t->tail[s] = -1;
    t->slots = t->spares = t->kept = 0;
    t->keeps_root = keep;
    if (t->root < 0)
        return;
    set_stages(t, t->root, stage_of_piece);
    list_stages(t, t->root, INT32_MAX);
    t->slots = t->kept;
}

struct writer {
    struct rondo__tree *tree;
    struct rondo__list *steps;   /* NULL: only counts */
    struct rondo__list *rank_of;
    int32_t stage, leaves, loads, height, depth, count;
    bool failed;
};

/* inside: nodes that wait on the stack while a run of leaves is computed */
static void step(struct writer *w, int32_t code, int32_t arg, int32_t inside)
{
    w->count++;
    w->height += code == RONDO_TREE_LEAF || code == RONDO_TREE_LOAD ? 1 : -1;
    if (w->height + inside > w->depth)
        w->depth = w->height + inside;
    if (!w->steps)
        return;
    struct rondo_tree_step *s = rondo__list_add(w->steps, sizeof *s, 1);
    if (s)
        *s = (struct rondo_tree_step){ code, arg };
    else
        w->failed = true;
}

static void compute(struct writer *w, int32_t node)
{
    struct rondo__tree *t = w->tree;
    if (t->stage[node] < w->stage) {
        step(w, RONDO_TREE_LOAD, t->slot[node], 0);
        t->spare[t->spares++] = t->slot[node];
    } else if (t->left[node] < 0) {
        const int64_t n = t->pieces[node].leaves;
        step(w, RONDO_TREE_LEAF, w->leaves++, n > 1 ? 64 - __builtin_clzll((unsigned long long)n - 1) : 0);
    } else {
        compute(w, t->left[node]);
        compute(w, t->right[node]);
        step(w, RONDO_TREE_MERGE, 0, 0);
    }
}

bool rondo__tree_stage(struct rondo__tree *t, int32_t stage, struct rondo__list *steps, struct rondo__program *program)
{
    struct writer w = { .tree = t, .steps = steps, .stage = stage };
    *program = (struct rondo__program){ .first = steps ? steps->count : 0 };
    for (int32_t node = t->root < 0 ? -1 : t->head[stage]; node >= 0; node = t->next[node]) {
        compute(&w, node);
        if (node == t->root && !t->keeps_root) {
            step(&w, RONDO_TREE_OUT, 0, 0);
        } else {
            if (t->slot[node] < 0)
                t->slot[node] = t->spares ? t->spare[--t->spares] : t->slots++;
            step(&w, RONDO_TREE_STORE, t->slot[node], 0);
            program->stores++;
        }
    }
    program->steps = w.count;
    program->depth = w.depth;
    program->leaves = w.leaves;
    return !w.failed;
}

/* Uses `stage` for the owner, -1 where there are several. */
static int32_t set_owners(struct rondo__tree *t, int32_t node, const int32_t *owner, int64_t *counts)
{
    if (t->left[node] < 0)
        return t->stage[node] = owner[node];
    int32_t a = set_owners(t, t->left[node], owner, counts), b = set_owners(t, t->right[node], owner, counts);
    if (a == b && a >= 0)
        return t->stage[node] = a;
    if (a >= 0 && counts)
        counts[a]++;
    if (b >= 0 && counts)
        counts[b]++;
    return t->stage[node] = -1;
}

void rondo__tree_owners(struct rondo__tree *t, const int32_t *owner, int64_t *counts)
{
    if (t->root < 0)
        return;
    int32_t all = set_owners(t, t->root, owner, counts);
    if (all >= 0 && counts)
        counts[all]++;
}

static void join(struct writer *w, int32_t node)
{
    struct rondo__tree *t = w->tree;
    if (t->stage[node] < 0) {
        join(w, t->left[node]);
        join(w, t->right[node]);
        step(w, RONDO_TREE_MERGE, 0, 0);
        return;
    }
    step(w, RONDO_TREE_LOAD, w->loads++, 0);
    int32_t *rank = rondo__list_add(w->rank_of, sizeof *rank, 1);
    if (rank)
        *rank = t->stage[node];
    else
        w->failed = true;
}

bool rondo__tree_join(struct rondo__tree *t, struct rondo__list *steps, struct rondo__program *program, struct rondo__list *rank_of)
{
    struct writer w = { .tree = t, .steps = steps, .rank_of = rank_of };
    *program = (struct rondo__program){ .first = steps->count };
    if (t->root >= 0) {
        join(&w, t->root);
        step(&w, RONDO_TREE_OUT, 0, 0);
    }
    program->steps = w.count;
    program->depth = w.depth;
    return !w.failed;
}
