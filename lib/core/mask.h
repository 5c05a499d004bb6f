/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What a query may see, as an object: a kind (a table of questions, one file a kind in lib/attention/mask/) and the kind's numbers. The
 * survey, the counting of pairs, the cost of work and the devices ask only these questions; a device with its own kernels knows kinds
 * by `id` and reads the numbers.
 *
 * Positions are the plan's: keys of a sequence are 0, 1, ...; a query stands at a key position, perhaps below 0. Sequences are those of the
 * plan, by number. Made by rondo__mask_make(); plain data, copied freely, as long as what it points to lives.
 */
#ifndef RONDO_CORE_MASK_H
#define RONDO_CORE_MASK_H

#include <stdbool.h>

#include "rondo.h"

struct rondo_mask;

enum rondo_mask_view { RONDO_MASK_NONE, RONDO_MASK_PART, RONDO_MASK_ALL };

struct rondo_mask_kind {
    const char *name;                 /* "full", "causal", "window" */
    int32_t id, reserved;             /* enum rondo_mask_id */
    /* What the queries of a span see, all together and in any head, of keys [k0, k1): nothing, all of them every query in every head, or a
     * part. [*lo, *hi), a part of [k0, k1), holds every key that any of them sees (empty with NONE); it may hold more. */
    int (*view)(const struct rondo_mask *mask, int64_t sequence, const rondo_span *queries, int64_t k0, int64_t k1, int64_t *lo, int64_t *hi);
    /* The first run of keys of [k0, k1) of which every multiple of the leaf size has some that a query of the span sees, as [*lo, *hi); it may
     * hold a few more. false: they see nothing. NULL: what view() says is one run. */
    bool (*next)(const struct rondo_mask *mask, int64_t sequence, const rondo_span *queries, int64_t k0, int64_t k1, int64_t *lo, int64_t *hi);
    /* The keys that the query at p sees, in any head, lie in the interval [*lo, *hi) of all positions, not clipped to those that there are;
     * perhaps empty. INT64_MIN and INT64_MAX where it is open. */
    void (*row)(const struct rondo_mask *mask, int64_t sequence, int64_t p, int64_t *lo, int64_t *hi);
    /* Bit i of bits[] (the others are 0) says whether the query at p sees key k0 + i * step in a head (of all heads of the plan), for
     * i < count <= 256; all keys are there. NULL: a query sees all of the interval of row(). */
    void (*bits)(const struct rondo_mask *mask, int64_t sequence, int64_t head, int64_t p, int64_t k0, int64_t step, int32_t count,
                 uint64_t bits[4]);
    /* (query, key) pairs of a span of queries and keys k0, k0 + step, ... (`keys`), added up over mask->heads heads. UINT64_MAX where they
     * are more. */
    uint64_t (*pairs)(const struct rondo_mask *mask, int64_t sequence, const rondo_span *queries, const rondo_span *keys);
    /* Of one head, where a mask may distinguish them; NULL: they are alike. */
    uint64_t (*head_pairs)(const struct rondo_mask *mask, int64_t sequence, int64_t head, const rondo_span *queries, const rondo_span *keys);
};
enum rondo_mask_id { RONDO_MASK_FULL = 0, RONDO_MASK_CAUSAL = 1, RONDO_MASK_WINDOW = 2, RONDO_MASK_DOCUMENTS = 3, RONDO_MASK_BOOLEAN = 4 };

struct rondo_mask_data;               /* documents and bits: lib/attention/mask/ */

struct rondo_mask {
    const struct rondo_mask_kind *kind;
    int64_t left, right;              /* window: keys from p - left to p + right; -1 = open on that side. Causal: -1, 0 */
    int32_t heads, reserved;          /* that it distinguishes: 1, or all of the plan's */
    const struct rondo_mask_data *data;
};

/* The mask of a descriptor: window sides -1 where they are open, causal 0 or 1. Both together are a window whose right side is 0. */
void rondo__mask_make(struct rondo_mask *out, int causal, int64_t left, int64_t right);

#endif
