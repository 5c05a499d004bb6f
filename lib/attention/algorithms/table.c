/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The algorithms that there are. To add one: its file, its line here, its number in rondo_algorithm.
 */
#include "attention/algorithms/algorithms.h"

static const struct rondo__algorithm *const algorithms[] = { &rondo__ring_kv, &rondo__ring_q, &rondo__all_gather, &rondo__reduce,
                                                           &rondo__halo, &rondo__mesh, &rondo__all_to_all };

const struct rondo__algorithm *rondo__algorithm_at(int32_t id)
{
    for (size_t i = 0; i < sizeof algorithms / sizeof *algorithms; i++)
        if (algorithms[i]->id == id)
            return algorithms[i];
    return NULL;
}
