/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A count as data: what is counted, out of which numbers. Sums and the sentences that derive them are both made of the same terms, so that
 * a derivation cannot say anything else than the result. cost_case.c checks a case and works out what the counts are made of, cost.c
 * makes the terms and adds up.
 */
#ifndef RONDO_PLAN_COST_H
#define RONDO_PLAN_COST_H

#include "core/internal.h"

/* What of a case counts are made of. Rows are tokens of all sequences; _local is what the fullest chip has, and copies are
 * counted in _all. */
struct rondo__cost_sizes {
    int64_t tp, cp, chips;
    int64_t hidden, head_dim, bytes, stat_bytes;
    int64_t heads, heads_local;
    int64_t kv_heads, kv_heads_local, kv_heads_all;   /* _all: sum over the chips of one context-parallel rank */
    int64_t tokens, tokens_local, tokens_all;         /* _all: sum over the context-parallel ranks */
    int64_t keys, keys_local;                         /* cached positions */
    int64_t pairs, pairs_local;                       /* of a query and a key that it sees, in one head */
};
/* Fills in the case's defaults and checks it. */
int rondo__cost_case(rondo_cost_case *c, const rondo_cost_case *given, struct rondo__cost_sizes *sizes);

/* Pairs of a query and a key that it sees: `tokens` queries, the last at the last of `keys` positions; left, right: -1 is open. false: more
 * than an int64_t can hold. */
bool rondo__cost_pairs(int64_t tokens, int64_t keys, int64_t left, int64_t right, int64_t *pairs);

#endif
