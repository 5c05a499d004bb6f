/* SPDX-License-Identifier: BSD-2-Clause
 *
 * How things are dealt to parts, for users and for all of the libraries: heads, leaves, rows of tables, rows between layers. Pure.
 */
#include <float.h>

#include "core/internal.h"

/* Where part i begins. Weights are finite and not negative, their sum is above 0. */
static int64_t begin_of(int64_t total, int parts, const double *weights, int i)
{
    if (!weights)   /* floor(total * i / parts); total * i may be more than 64 bits hold */
        return total / parts * i + total % parts * i / parts;
    double before = 0.0, all = 0.0;
    for (int p = 0; p < parts; p++) {
        all += weights[p];
        if (p == i - 1)
            before = all;
    }
    if (i == 0 || i == parts)
        return i ? total : 0;
    const double at = (double)total * (before / all) + 0.5;
    const int64_t begin = at >= (double)total ? total : (int64_t)at;
    return begin < total ? begin : total;
}

int rondo_share(int64_t total, int parts, const double *weights, int index, int64_t *first, int64_t *count)
{
    if (!first || !count)
        return rondo__fail(RONDO_EINVAL, "rondo_share: first and count must not be NULL");
    if (total < 0 || parts < 1 || index < 0 || index >= parts)
        return rondo__fail(RONDO_EINVAL, "rondo_share: part %d of %d of %lld; parts count from 0, and a total is not negative", index, parts,
                           (long long)total);
    double all = 0.0;
    for (int p = 0; weights && p < parts; p++) {
        if (!(weights[p] >= 0.0 && weights[p] <= DBL_MAX))
            return rondo__fail(RONDO_EINVAL, "rondo_share: the weight of part %d is %g; it must be finite and not negative", p, weights[p]);
        all += weights[p];
    }
    if (weights && !(all > 0.0 && all <= DBL_MAX))
        return rondo__fail(RONDO_EINVAL, "rondo_share: the weights of %d parts add up to %g; it must be above 0 and finite", parts, all);
    *first = begin_of(total, parts, weights, index);
    *count = begin_of(total, parts, weights, index + 1) - *first;
    return 0;
}
