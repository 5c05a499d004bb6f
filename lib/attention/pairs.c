/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Counting visible (query, key) pairs without walking over them: what plans report as work, for every layout and window.
 */
#include "attention/attention.h"

/* Windows without end, and still room to add positions. */
#define FAR ((int64_t)1 << 61)

static uint64_t add(uint64_t a, uint64_t b)
{
    uint64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? UINT64_MAX : sum;
}

/* How many of a..b lie in [x - below, x + above]. */
static int64_t width(int64_t a, int64_t b, int64_t below, int64_t above, int64_t x)
{
    int64_t lo = x - below > a ? x - below : a, hi = x + above < b ? x + above : b;
    return hi >= lo ? hi - lo + 1 : 0;
}

static int64_t ceil_div(int64_t a, int64_t b)
{
    return a >= 0 ? (a + b - 1) / b : -(-a / b);
}

/* The sum of width() over x = first, first + step, ...: a trapezoid, so linear between its four corners, and a linear piece sums
 * to number * (first + last) / 2. */
static uint64_t trapezoid(int64_t a, int64_t b, int64_t below, int64_t above, const rondo_span *span)
{
    if (a > b || span->count <= 0)
        return 0;
    int64_t corners[4] = { a - above, b - above + 1, a + below, b + below + 1 };   /* starts, left, right, ends */
    if (corners[1] > corners[2]) {
        int64_t t = corners[1];
        corners[1] = corners[2];
        corners[2] = t;
    }
    uint64_t sum = 0;
    for (int c = 0; c < 3; c++) {
        int64_t i0 = ceil_div(corners[c] - span->first, span->step), i1 = ceil_div(corners[c + 1] - span->first, span->step);
        if (i0 < 0)
            i0 = 0;
        if (i1 > span->count)
            i1 = span->count;
        if (i0 >= i1)
            continue;
        int64_t n = i1 - i0, twice;
        int64_t ends = width(a, b, below, above, span->first + i0 * span->step) +
                       width(a, b, below, above, span->first + (i1 - 1) * span->step);
        if (!rondo__mul64(n, ends, &twice))
            return UINT64_MAX;
        sum = add(sum, (uint64_t)twice / 2);
    }
    return sum;
}

/* A query sees keys from `below` before its position to `above` after it. */
static int64_t keys_below(const struct rondo__mask *m)
{
    return m->left < 0 ? FAR : m->left;
}

static int64_t keys_above(const struct rondo__mask *m)
{
    return m->causal ? 0 : m->right < 0 ? FAR : m->right;
}

uint64_t rondo__pairs_of_keys(const struct rondo__mask *mask, int64_t p0, int64_t queries, const rondo_span *keys)
{
    return trapezoid(p0, p0 + queries - 1, keys_above(mask), keys_below(mask), keys);
}

uint64_t rondo__pairs_of_queries(const struct rondo__mask *mask, const rondo_span *queries, int64_t keys)
{
    return trapezoid(0, keys - 1, keys_below(mask), keys_above(mask), queries);
}
