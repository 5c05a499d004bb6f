/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The kinds of masks (core/mask.h), each in a file of this folder; make.c picks one. Where a query at p sees the keys from p - below to
 * p + above, a kind answers with the functions of interval.c, which it hands its two distances. To add a kind: its file, a line here,
 * an id in core/mask.h, and in make.c how it is asked for.
 */
#ifndef RONDO_ATTENTION_MASK_H
#define RONDO_ATTENTION_MASK_H

#include "core/internal.h"

extern const struct rondo_mask_kind rondo__mask_full, rondo__mask_causal, rondo__mask_window;

/* Without end, and still room to add positions. No position, and no side of a window, is farther from 0 than this. */
#define RONDO_MASK_FAR ((int64_t)1 << 61)

int rondo__interval_view(int64_t below, int64_t above, const rondo_span *queries, int64_t k0, int64_t k1, int64_t *lo, int64_t *hi);
uint64_t rondo__interval_pairs(int64_t below, int64_t above, const rondo_span *queries, const rondo_span *keys);

#endif
