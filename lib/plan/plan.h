/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What lib/attention asks of the cost rules.
 */
#ifndef RONDO_PLAN_PLAN_H
#define RONDO_PLAN_PLAN_H

#include "core/internal.h"

/* RONDO_ALGORITHM_AUTO made definite: the same on every rank. tokens and cached are sums over the sequences. */
int rondo__choose_algorithm(int64_t tokens, int64_t cached, int64_t heads, int64_t kv_heads, int32_t ranks, int32_t element_bytes,
                            bool one_token_each);

#endif
