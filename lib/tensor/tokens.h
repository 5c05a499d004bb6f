/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The order of a sum over tokens, of what rows a part has, and of the nodes that parts exchange. tokens.c makes it of spans; gradients.c and
 * tp_gradients.c read it. Of sums over some of the tokens, those that name a row of a table, table.c makes the order, from what is here.
 */
#ifndef RONDO_TENSOR_TOKENS_H
#define RONDO_TENSOR_TOKENS_H

#include "core/internal.h"

/* Leaves of a sequence's positions. */
#define RONDO_TOKEN_LEAF 128

/* A node of the tree that one part computes of its leaves [leaf, leaf + leaves), numbered among its own, and after which `merges` sums of two
 * follow where nodes of all parts are pushed one after another. */
struct rondo__token_node {
    int64_t leaf, leaves;
    int32_t part, merges;
};

/* A leaf of any part. */
struct rondo__tokens_leaf {
    int64_t sequence, number;
    int32_t part, height;                  /* height: of the lowest node that has the leaf before it, too */
    int32_t tokens, reserved;
};

struct rondo_tokens {
    int32_t parts, part;
    int64_t rows;                          /* of this part's arrays */
    int64_t *order;                        /* its rows, in the order in which they are added */
    struct rondo_token_leaf *leaves;       /* [leaf_count + 1] its leaves, with what is merged where all of the tree is its own */
    int64_t leaf_count;
    struct rondo__token_node *nodes;       /* of all parts, by rising leaf */
    int64_t node_count;
    struct rondo__tokens_leaf *all;        /* the leaves of all parts, in the tree's order */
    int64_t all_count;
    int32_t depth;                         /* of the stack, of leaves or nodes */
    int32_t reserved;
    uint64_t hash;                         /* of all spans: what exchanges follow from */
};

/* A run over leaves [leaf, leaf + leaves); what is summed, and where to, is the caller's to fill in. */
struct rondo_token_run rondo__tokens_run(const rondo_tokens *tokens, int64_t leaf, int64_t leaves);

/* ---- the tree as a list ---- */

/* What is pushed: between two things lies the height of the lowest node that has both. */
struct rondo__tokens_stack {
    int32_t height[2 * 64 + 2];
    int32_t depth, deepest;
};
/* Above all heights that there are: of what comes first. */
#define RONDO_TOKENS_TOP 200

/* Another one comes, with so much between it and the one before; how many sums are made of what is there first. */
int32_t rondo__tokens_push(struct rondo__tokens_stack *s, int32_t height);
/* Of two leaves, a before b: the height of the lowest node that has both. */
int32_t rondo__tokens_height(const struct rondo__tokens_leaf *a, const struct rondo__tokens_leaf *b);

/* ---- tokens that name rows of a table (table.c) ---- */

/* One of them: the row that it names, its place among all tokens in the order of leaves, the row that it stands in, and its leaf (of `all`). */
struct rondo__named {
    int64_t name, place, row, leaf;
};

/* The lists of a run in segments: for each row that is named the sum over the tokens that name it. */
struct rondo__table_sum {
    int64_t *order;
    struct rondo_token_leaf *leaves;
    struct rondo_token_segment *segments;
    int64_t leaf_count, segment_count;
    int32_t depth, reserved;
};
/* Of `count` tokens, which are put into order; their names are below `rows`. every: a row that nobody names has a segment too. Freed by
 * rondo__table_sum_free(), after a failure as well. */
int rondo__table_sum_make(struct rondo__table_sum *out, const rondo_tokens *tokens, struct rondo__named *named, int64_t count, int64_t rows,
                          bool every);
void rondo__table_sum_free(struct rondo__table_sum *sum);
/* 0, or a sentence: an id that is no row of a table of `total` rows. Rows without a token may hold any. */
int rondo__table_ids(const char *function, const rondo_tokens *tokens, const int32_t *ids, int64_t total);
/* What is summed, and where to, is the caller's to fill in. */
struct rondo_token_run rondo__table_sum_run(const struct rondo__table_sum *sum);

#endif
