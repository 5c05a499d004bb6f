/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The canonical tree (rule C6 of the numerics contract) and its cutting into programs for the device's stack machine
 * (core/device.h), one for each piece of work. Called by the builders; t/1100 runs the programs symbolically.
 */
#ifndef RONDO_ATTENTION_TREE_H
#define RONDO_ATTENTION_TREE_H

#include "core/list.h"
#include "layout/layout.h"

/* What some keys of one rank are in the tree: an aligned run of leaves. Their number is a power of two, of which `index`, the first leaf's, is
 * a multiple; the keys of the last leaf may end early. Keys that are no whole leaves (dealt out one by one, interleave = 1) are one leaf
 * for each piece: each rank's share stands in a subtree of its own to the right of all leaves. */
struct rondo__piece {
    int64_t index, leaves;
    int64_t row, first, count;   /* row among the rank's rows of the sequence; keys first, first + step, ... */
    int32_t step, rank;
};

/* In one sequence: 2^35 keys in leaves of 128; every count of nodes and steps fits int32_t. */
#define RONDO_PIECES_MAX ((int64_t)1 << 28)

/* The pruned tree over n pieces: node i < n is piece i, the others have two children. Also the state of its evaluation. */
struct rondo__tree {
    const struct rondo__piece *pieces;   /* the caller's, alive as long as the tree */
    int32_t leaves, root;        /* leaves: pieces; root -1: none */
    int32_t *left, *right;       /* [nodes], -1 for pieces */
    int32_t *stage;              /* when a node's last piece is there */
    int32_t *slot, *next;
    int32_t *head, *tail;        /* [stages]: nodes to be computed in a stage, by rising position */
    int32_t *spare;              /* slots free for reuse */
    int32_t spares, slots, stages;
    int32_t kept;                /* slots 0..kept-1: nodes that others go on with, by rising position */
    bool keeps_root;
    struct rondo__list memory;   /* int32_t */
};
/* Of a tree that is {0} but for memory.arena, or was built before, whose memory is then used again. */
int rondo__tree_build(struct rondo__tree *tree, const struct rondo__piece *pieces, int64_t count, int32_t stages);
void rondo__tree_free(struct rondo__tree *tree);

struct rondo__program {
    int64_t first;               /* in the list of steps */
    int32_t steps, depth;
    int32_t leaves;              /* pieces it computes: those of its stage, in order */
    int32_t stores;              /* nodes it leaves in slots */
};

/* Pieces come in stages: stage_of(piece) in 0..stages-1, or `stages`, which never comes: somebody else has them. Afterwards
 * rondo__tree_stage(0), (1), ... give each stage's program: it computes the maximal aligned nodes whose pieces are all there, LOADs what
 * waited for them and STOREs what still waits, or is kept because what it waits for never comes; the root goes to OUT, unless `keep`. Slots of
 * nodes that wait are reused as soon as they were read; tree->slots is how many are needed. */
void rondo__tree_stages(struct rondo__tree *tree, const int32_t *stage_of_piece, bool keep);
/* steps NULL: only counts slots. false: no memory. */
bool rondo__tree_stage(struct rondo__tree *tree, int32_t stage, struct rondo__list *steps, struct rondo__program *program);

/* Nodes all of whose pieces belong to one rank and that are as high as such can be travel between ranks. `owner` gives each piece's;
  * counts[rank] (zeroed by the caller; or NULL) their number. */
void rondo__tree_owners(struct rondo__tree *tree, const int32_t *owner, int64_t *counts);
/* After rondo__tree_owners(): the program that merges these nodes, LOAD 0, 1, ... by rising position, and ends in OUT. rank_of gets (as
 * int32_t) whose each is. */
bool rondo__tree_join(struct rondo__tree *tree, struct rondo__list *steps, struct rondo__program *program, struct rondo__list *rank_of);

#endif
