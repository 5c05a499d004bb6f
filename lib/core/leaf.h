/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Runs of leaves, the steps of the tree, the terms of scores: the part of the device table (core/device.h) that a device's kernels read too, with
 * the arithmetic of indices that all of them share. Plain data and pure functions, in what C and C++ have in common: a graphics card's
 * kernels include it.
 */
#ifndef RONDO_CORE_LEAF_H
#define RONDO_CORE_LEAF_H

#include <stdint.h>
#ifndef __cplusplus
#include <stdbool.h>
#endif

/* Keys that one rank holds, as a run of leaves: count keys from position `first` on, cut at the multiples of the leaf size; their rows
 * follow each other. As many leaves as fit under one aligned node of the tree: first is a multiple of leaf size * 2^h with at most 2^h
 * leaves, and only the last may have fewer keys. Or a piece of keys that were dealt out one by one (step > 1, or an odd piece): then it is
 * one leaf, of at most leaf size keys, wherever it begins. */
struct rondo_leaf {
    int64_t row;     /* row of the first key in its source, from where the source's rows of this sequence begin */
    int64_t first;   /* its position */
    int64_t count;   /* keys */
    int32_t step;    /* positions are first, first + step, ... */
    int32_t source;  /* which of the run's KV parts */
};

/* The canonical tree as a program for a stack machine; one program serves every query row of a job.
 *   LEAF i    push the node (M, l, acc) over leaves[i] of the row's visible keys, which for several leaves is the canonical tree over them
 *             with what is empty pruned; nothing visible: the empty node
 *   LOAD i    push the node that lies in place i
 *   MERGE     pop the right node, pop the left one, push merge(left, right)
 *   STORE i   pop into place i
 *   OUT       pop, divide, round, write out and lse
 * The stack is empty at the end. A device may skip what is empty: merging with the empty node is the identity (rondo-numerics(7)). */
enum rondo_tree_code { RONDO_TREE_LEAF, RONDO_TREE_LOAD, RONDO_TREE_MERGE, RONDO_TREE_STORE, RONDO_TREE_OUT };
struct rondo_tree_step {
    int32_t code, arg;
};

/* What a score is made of besides q.k (rondo-numerics(7), rule 2, which says in which order), and what becomes of weights. All zero:
 * x = s * scale_log2, nothing dropped. */
struct rondo_terms {
    float cap_in, cap_out;             /* other than 0: x = tanh(s * cap_in) * cap_out, where these are scale / softcap, softcap * log2(e) */
    int32_t alibi, bias, sinks;        /* 1: a run has them */
    uint32_t drop;                     /* weights whose random word is below it are dropped (rule 10) */
    float keep;                        /* 1 / (1 - P), the factor of what is left; 1 where drop is 0 */
};

/* ---- leaves of a run ---- */

/* How many leaves a run is. What does not begin where a leaf does is one piece, whatever its length. */
static inline int64_t rondo__run_leaves(const struct rondo_leaf *run, int32_t leaf_size)
{
    return run->step == 1 && run->first % leaf_size == 0 ? (run->count - 1) / leaf_size + 1 : 1;
}

/* The i-th of them, as a run of its own. */
static inline struct rondo_leaf rondo__run_leaf(const struct rondo_leaf *run, int64_t leaves, int64_t i, int32_t leaf_size)
{
    struct rondo_leaf f = *run;
    if (leaves > 1) {
        f.row += i * leaf_size;
        f.first += i * leaf_size;
        f.count = run->count - i * leaf_size < leaf_size ? run->count - i * leaf_size : leaf_size;
    }
    return f;
}

/* Those in which keys of [lo, hi) may lie: [*a, *b). */
static inline void rondo__run_visible(const struct rondo_leaf *run, int64_t leaves, int64_t lo, int64_t hi, int32_t leaf_size, int64_t *a,
                                      int64_t *b)
{
    *a = 0;
    *b = leaves;
    if (leaves == 1)
        return;
    if (lo > run->first)
        *a = lo >= run->first + run->count ? leaves : (lo - run->first) / leaf_size;
    if (hi <= run->first)
        *b = 0;
    else if (hi < run->first + run->count)
        *b = (hi - run->first - 1) / leaf_size + 1;
}

/* The canonical tree over the leaves [a, b) of a run, written as what follows each leaf: how many of the nodes before it are merged with
 * leaf i (and what came of it) at once, nearest first. A node goes up as long as it is a right child, past siblings of which nothing is
 * visible; the last leaf goes up to the top. Indices count from the run's first leaf: the run lies under one aligned node, so that they
 * have the same low bits as absolute ones. */
static inline int32_t rondo__run_merges(int64_t i, int64_t a, int64_t b)
{
    int32_t n = 0;
    for (int64_t up = i, base = i, size = 1; up; up >>= 1, size <<= 1) {
        if (up & 1) {
            n += base > a;              /* the left sibling is [base - size, base) */
            base -= size;
        } else if (i + 1 < b) {
            break;
        }
    }
    return n;
}

/* Leaves [first, end) in parts of 2^shift leaves, parts [*a, *b). */
static inline int64_t rondo__run_parts(int64_t first, int64_t end, int32_t shift, int64_t *a, int64_t *b)
{
    *a = first >> shift;
    *b = first < end ? ((end - 1) >> shift) + 1 : *a;
    return *b - *a;
}

/* Nodes that a run may have on the stack at once. */
static inline int32_t rondo__run_depth(int64_t leaves)
{
    int32_t depth = 1;
    for (int64_t i = leaves - 1; i > 0; i >>= 1)
        depth++;
    return depth;
}

/* Two nodes of a sum over leaves a < b are merged, with nothing between them, as soon as the next leaf, y, is known to lie outside of the
 * smallest aligned node that has both. */
static inline bool rondo__leaves_merge(int64_t a, int64_t b, int64_t y)
{
    uint64_t differ = (uint64_t)a ^ (uint64_t)b, apart = (uint64_t)b ^ (uint64_t)y;
    int32_t height = 0;
    for (; differ; differ >>= 1)
        height++;
    return apart >> height != 0;
}

/* ---- one leaf ---- */

/* [lo, hi) of positions as a range of key indices of a leaf; lo >= hi: none. */
static inline void rondo__visible_in_leaf(const struct rondo_leaf *f, int64_t lo, int64_t hi, int32_t *i0, int32_t *i1)
{
    int64_t a = 0, b = f->count;
    if (f->step == 1) {   /* the usual case: no division. Unsigned, as clang 14 takes the maximum of a difference that overflows where lo is open */
        const uint64_t below = lo > f->first ? (uint64_t)lo - (uint64_t)f->first : 0, upto = hi > f->first ? (uint64_t)hi - (uint64_t)f->first : 0;
        *i0 = (int32_t)(below < (uint64_t)f->count ? below : (uint64_t)f->count);
        *i1 = (int32_t)(upto < (uint64_t)f->count ? upto : (uint64_t)f->count);
        return;
    }
    if (lo > f->first)
        a = (lo - f->first + f->step - 1) / f->step;
    if (hi <= f->first)
        b = 0;
    else if (hi - 1 - f->first < (f->count - 1) * f->step)
        b = (hi - 1 - f->first) / f->step + 1;
    if (a > f->count)
        a = f->count;
    *i0 = (int32_t)a;
    *i1 = (int32_t)b;
}

/* C10: what the counter of dropout is made of, besides a key's number by four. */
static inline uint32_t rondo__drop_place(int32_t head, int64_t p, int64_t k)
{
    return (uint32_t)head | ((uint32_t)((uint64_t)k >> 34) & 0xffu) << 16 | ((uint32_t)((uint64_t)p >> 32) & 0xffu) << 24;
}

#endif
