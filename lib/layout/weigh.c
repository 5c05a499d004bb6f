/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Dealing leaves by weight: what belongs together, a document, goes to one rank whole, the ranks being filled one after another up to an
 * equal share of all weight. What lies across the border between two ranks is cut there. What is heavier than a share is cut from outside
 * inwards: a rank gets a first and a last part of what is left, which together weigh what it has room for. Under a causal mask, where
 * later keys are seen by fewer queries and later queries see more keys, so it has its share of the rows too, as with zigzag.
 *
 * Shares are counted from the beginning, so that a rank which got half a cell too much makes the next one's place smaller by that and
 * no error adds up. What is left of one where cells are heavy, as those of many short sequences, is then evened out cell by cell. Linear in
 * cells and ranks, but for that. Called for plans that lay themselves out (attention/balance.c), on every rank alike.
 */
#include "layout/layout.h"

/* What is lighter than this part of a share is not cut. */
#define WHOLE (1.0 / 64.0)
/* Ranks that carry so much more than their share are relieved of a cell. */
#define TOO_MUCH 1.02

struct dealer {
    const struct rondo__cell *cells;
    int32_t *owner;
    const double *load;
    int32_t ranks, rank;               /* rank: who is being filled */
    double share, scale;               /* of all; what of a rank's room there is weight for */
    double given, until;               /* weight so far, and where the rank is full */
};

/* Where a rank that carries something has less room. */
static double room_of(const struct dealer *d, int32_t rank)
{
    return d->load[rank] < d->share ? (d->share - d->load[rank]) * d->scale : 0.0;
}

static void next_rank(struct dealer *d)
{
    if (d->rank + 1 < d->ranks)
        d->until += room_of(d, ++d->rank);
}

/* Cells [a, b) to whoever is being filled. */
static void put(struct dealer *d, int64_t a, int64_t b)
{
    for (int64_t i = a; i < b; i++) {
        d->owner[i] = d->rank;
        d->given += d->cells[i].weight;
    }
}

/* Whether so much more brings the rank nearer to its share. */
static bool takes(const struct dealer *d, double weight)
{
    return d->rank + 1 == d->ranks || d->given + weight / 2.0 <= d->until;
}

/* From the front. */
static void cut(struct dealer *d, int64_t a, int64_t b)
{
    for (; a < b; a++) {
        while (!takes(d, d->cells[a].weight))
            next_rank(d);
        put(d, a, a + 1);
    }
}

/* From outside inwards, the side first that gave less cells to the rank. */
static void cut_both(struct dealer *d, int64_t a, int64_t b)
{
    for (int64_t low = a, high = b; a < b;) {
        const bool front = a - low <= high - b;
        const int64_t cell = front ? a : b - 1;
        if (!takes(d, d->cells[cell].weight)) {
            next_rank(d);
            low = a;
            high = b;
            continue;
        }
        put(d, cell, cell + 1);
        a += front;
        b -= !front;
    }
}

static void deal(struct dealer *d, int64_t count)
{
    double total = 0.0, room = 0.0;
    for (int64_t i = 0; i < count; i++)
        total += d->cells[i].weight;
    d->share = total;
    for (int32_t r = 0; r < d->ranks; r++)
        d->share += d->load[r];
    d->share /= d->ranks;
    for (int32_t r = 0; r < d->ranks; r++)
        room += room_of(d, r);
    d->scale = room > 0.0 ? total / room : 0.0;
    d->until = room_of(d, 0);
    for (int64_t a = 0, b; a < count; a = b) {
        double weight = d->cells[a].weight;
        for (b = a + 1; b < count && !d->cells[b].begins; b++)
            weight += d->cells[b].weight;
        if (weight > d->share) {
            cut_both(d, a, b);
        } else if (weight > d->share * WHOLE) {
            cut(d, a, b);
        } else {
            while (!takes(d, weight))
                next_rank(d);
            put(d, a, b);
        }
    }
}

/* The cell of a rank that, given away, brings two ranks nearest to each other; -1: each is too heavy. `list` are those that it began with. */
static int64_t best_cell(const struct dealer *d, const int64_t *list, int64_t count, int32_t rank, double gap)
{
    int64_t best = -1;
    double left = gap;
    for (int64_t i = 0; i < count; i++) {
        const double weight = d->cells[list[i]].weight, after = gap > 2.0 * weight ? gap - 2.0 * weight : 2.0 * weight - gap;
        if (d->owner[list[i]] == rank && after < left) {
            best = list[i];
            left = after;
        }
    }
    return best;
}

/* From who carries most to who carries least, as long as that helps. */
static void even_out(struct dealer *d, int64_t count, double *load, int64_t *first, int64_t *list)
{
    memset(first, 0, ((size_t)d->ranks + 1) * sizeof *first);
    memcpy(load, d->load, (size_t)d->ranks * sizeof *load);
    for (int64_t i = 0; i < count; i++) {
        load[d->owner[i]] += d->cells[i].weight;
        first[d->owner[i] + 1]++;
    }
    for (int32_t r = 0; r < d->ranks; r++)
        first[r + 1] += first[r];
    for (int64_t i = 0; i < count; i++)
        list[first[d->owner[i]]++] = i;
    memmove(first + 1, first, (size_t)d->ranks * sizeof *first);
    first[0] = 0;
    for (int64_t round = 0; round < 4 * (int64_t)d->ranks; round++) {
        int32_t most = 0, least = 0;
        for (int32_t r = 1; r < d->ranks; r++) {
            most = load[r] > load[most] ? r : most;
            least = load[r] < load[least] ? r : least;
        }
        if (load[most] <= d->share * TOO_MUCH)
            return;
        const int64_t cell = best_cell(d, list + first[most], first[most + 1] - first[most], most, load[most] - load[least]);
        if (cell < 0)
            return;
        d->owner[cell] = least;
        load[most] -= d->cells[cell].weight;
        load[least] += d->cells[cell].weight;
    }
}

bool rondo__deal_by_weight(const struct rondo__cell *cells, int64_t count, const double *load, int32_t ranks, int32_t *owner,
                           struct rondo__arena *arena)
{
    struct dealer d = { .cells = cells, .owner = owner, .load = load, .ranks = ranks, .scale = 1.0 };
    double *now = rondo__arena_zero(arena, (size_t)ranks, sizeof *now);
    int64_t *first = rondo__arena_zero(arena, (size_t)ranks + 1, sizeof *first), *list = rondo__arena_zero(arena, (size_t)count, sizeof *list);
    const bool fine = now && first && list;
    if (fine) {
        deal(&d, count);
        even_out(&d, count, now, first, list);
    }
    return fine;
}
