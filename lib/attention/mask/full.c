/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Every query sees every key.
 */
#include "attention/mask/mask.h"

static int view(const struct rondo_mask *mask, int64_t sequence, const rondo_span *queries, int64_t k0, int64_t k1, int64_t *lo, int64_t *hi)
{
    (void)mask;
    (void)sequence;
    return rondo__interval_view(RONDO_MASK_FAR, RONDO_MASK_FAR, queries, k0, k1, lo, hi);
}

static void row(const struct rondo_mask *mask, int64_t sequence, int64_t p, int64_t *lo, int64_t *hi)
{
    (void)mask;
    (void)sequence;
    (void)p;
    *lo = INT64_MIN;
    *hi = INT64_MAX;
}

static uint64_t pairs(const struct rondo_mask *mask, int64_t sequence, const rondo_span *queries, const rondo_span *keys)
{
    (void)mask;
    (void)sequence;
    return rondo__interval_pairs(RONDO_MASK_FAR, RONDO_MASK_FAR, queries, keys);
}

const struct rondo_mask_kind rondo__mask_full = { "full", RONDO_MASK_FULL, 0, view, NULL, row, NULL, pairs, NULL };
