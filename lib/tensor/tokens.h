/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The order of a sum over tokens, of what rows a part has, and of the nodes that parts exchange. tokens.c makes it of spans; gradients.c and
 * tp_sum.c read it.
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

struct rondo_tokens {
    int32_t parts, part;
    int64_t rows;                          /* of this part's arrays */
    int64_t *order;                        /* its rows, in the order in which they are added */
    struct rondo_token_leaf *leaves;       /* [leaf_count + 1] its leaves, with what is merged where all of the tree is its own */
    int64_t leaf_count;
    struct rondo__token_node *nodes;       /* of all parts, by rising leaf */
    int64_t node_count;
    int32_t depth;                         /* of the stack, of leaves or nodes */
    int32_t reserved;
    uint64_t hash;                         /* of all spans: what exchanges follow from */
};

/* A run over leaves [leaf, leaf + leaves); what is summed, and where to, is the caller's to fill in. */
struct rondo_token_run rondo__tokens_run(const rondo_tokens *tokens, int64_t leaf, int64_t leaves);

#endif
