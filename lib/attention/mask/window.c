/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A query sees the keys from `left` before its position to `right` after it; a side of -1 is open.
 */
#include "attention/mask/mask.h"

static int view(const struct rondo_mask *mask, int64_t sequence, const rondo_span *queries, int64_t k0, int64_t k1, int64_t *lo, int64_t *hi)
{
    (void)sequence;
    return rondo__interval_view(rondo__mask_distance(mask->left), rondo__mask_distance(mask->right), queries, k0, k1, lo, hi);
}

static void row(const struct rondo_mask *mask, int64_t sequence, int64_t p, int64_t *lo, int64_t *hi)
{
    (void)sequence;
    *lo = mask->left < 0 ? INT64_MIN : p - mask->left;
    *hi = mask->right < 0 ? INT64_MAX : p + mask->right + 1;
}

static uint64_t pairs(const struct rondo_mask *mask, int64_t sequence, const rondo_span *queries, const rondo_span *keys)
{
    (void)sequence;
    return rondo__interval_pairs(rondo__mask_distance(mask->left), rondo__mask_distance(mask->right), queries, keys);
}

const struct rondo_mask_kind rondo__mask_window = { "window", RONDO_MASK_WINDOW, 0, view, NULL, row, NULL, pairs, NULL };
