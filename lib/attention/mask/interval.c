/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What masks answer whose queries see an interval around their position: from p - below to p + above. Counting never walks over pairs,
 * so that plans of millions of tokens say what they compute in no time.
 */
#include "attention/mask/mask.h"

static int64_t floor_div(int64_t a, int64_t b)
{
    return a >= 0 ? a / b : -((b - 1 - a) / b);
}

static int64_t ceil_div(int64_t a, int64_t b)
{
    return -floor_div(-a, b);
}

void rondo__span_inside(const rondo_span *s, int64_t a, int64_t b, int64_t *i0, int64_t *i1)
{
    *i0 = a > s->first ? ceil_div(a - s->first, s->step) : 0;
    *i1 = b < s->first ? 0 : floor_div(b - s->first, s->step) + 1;
    *i1 = *i1 > s->count ? s->count : *i1;
    *i0 = *i0 > *i1 ? *i1 : *i0;
}

int rondo__interval_view(int64_t below, int64_t above, const rondo_span *queries, int64_t k0, int64_t k1, int64_t *lo, int64_t *hi)
{
    int64_t i0 = 0, i1 = 0;
    *lo = *hi = k0;
    if (k0 < k1)
        rondo__span_inside(queries, k0 - above, k1 - 1 + below, &i0, &i1);   /* the queries that see any of them */
    if (i0 >= i1)
        return RONDO_MASK_NONE;
    const int64_t first = queries->first + i0 * queries->step, last = queries->first + (i1 - 1) * queries->step;
    *lo = first - below > k0 ? first - below : k0;
    *hi = last + above < k1 - 1 ? last + above + 1 : k1;
    const bool all = i0 == 0 && i1 == queries->count && last - below <= k0 && first + above >= k1 - 1;
    return all ? RONDO_MASK_ALL : RONDO_MASK_PART;
}

/* ---- pairs ---- */

/* How many of a..b lie in [x - below, x + above]. */
static int64_t width(int64_t a, int64_t b, int64_t below, int64_t above, int64_t x)
{
    int64_t lo = x - below > a ? x - below : a, hi = x + above < b ? x + above : b;
    return hi >= lo ? hi - lo + 1 : 0;
}

/* The sum of width() over x = first, first + step, ...: a trapezoid, so linear between its four corners, and a linear piece sums
 * to number * (first + last) / 2. */
static uint64_t trapezoid(int64_t a, int64_t b, int64_t below, int64_t above, const rondo_span *span)
{
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
        int64_t n = i1 - i0;
        uint64_t ends = (uint64_t)width(a, b, below, above, span->first + i0 * span->step) +
                        (uint64_t)width(a, b, below, above, span->first + (i1 - 1) * span->step), twice;
        if (__builtin_mul_overflow((uint64_t)n, ends, &twice))
            return UINT64_MAX;
        sum = rondo__add_saturated(sum, twice / 2);
    }
    return sum;
}

uint64_t rondo__interval_pairs(int64_t below, int64_t above, const rondo_span *queries, const rondo_span *keys)
{
    if (queries->count <= 0 || keys->count <= 0)
        return 0;
    if (keys->step == 1 || keys->count == 1)
        return trapezoid(keys->first, rondo__span_last(keys), below, above, queries);
    if (queries->step == 1 || queries->count == 1)   /* seen from the keys, distances change places */
        return trapezoid(queries->first, rondo__span_last(queries), above, below, keys);
    uint64_t sum = 0;
    const bool turned = keys->count < queries->count;
    const rondo_span *few = turned ? keys : queries, *many = turned ? queries : keys;
    for (int64_t i = 0; i < few->count; i++) {
        const int64_t x = few->first + i * few->step;
        int64_t i0, i1;
        rondo__span_inside(many, x - (turned ? above : below), x + (turned ? below : above), &i0, &i1);
        sum = rondo__add_saturated(sum, (uint64_t)(i1 - i0));
    }
    return sum;
}
