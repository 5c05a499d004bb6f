/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Tables of runs (table.h). A turn of millions of tokens takes a few runs for each rank. Each run stands in two lists: that of the
 * sequence, by position, which says who holds a position; and that of its rank, with the rows before it, which says what a rank holds.
 * The ranks' lists are arrays side by side in one pool: a list that outgrows its place moves to the pool's end, and when that is reached
 * all move to a larger pool, without gaps but with room to grow. Called by placement.c.
 */
#include "layout/table.h"

struct rondo__table *rondo__table_new(int32_t ranks, int32_t begin)
{
    const size_t n = (size_t)ranks, each = sizeof(int64_t) + sizeof(struct rondo__rank_list) + sizeof(int32_t);
    size_t bytes;
    if (!rondo__mul(n, each, &bytes) || !rondo__add(bytes, sizeof(struct rondo__table), &bytes))
        return NULL;
    struct rondo__table *t = rondo__alloc_zero(1, bytes);
    if (!t)
        return NULL;
    t->ranks = ranks;
    t->begin = begin;
    t->held = (int64_t *)(void *)(t + 1);
    t->lists = (struct rondo__rank_list *)(void *)(t->held + n);
    t->winners = (int32_t *)(void *)(t->lists + n);
    return t;
}

void rondo__table_free(struct rondo__table *t)
{
    if (!t)
        return;
    rondo__free(t->runs);
    rondo__free(t->pool);
    rondo__free(t);
}

void rondo__table_clear(struct rondo__table *t, int32_t begin)
{
    const size_t n = (size_t)t->ranks;
    t->begin = begin;
    t->length = t->singles = t->count = 0;
    t->hash = 0;
    t->ranked = false;
    memset(t->held, 0, n * sizeof *t->held);
    for (size_t r = 0; r < n; r++)
        t->lists[r].count = 0;   /* each keeps its place in the pool */
}

size_t rondo__table_bytes(const struct rondo__table *t)
{
    return sizeof *t + (size_t)t->ranks * (sizeof *t->held + sizeof *t->lists + sizeof *t->winners) + (size_t)t->room * sizeof *t->runs +
           (size_t)t->pool_room * sizeof *t->pool;
}

/* ---- room ---- */

/* Where there is no room there is to be at least so much more than is needed: a sequence that grows token by token begins a run with each
 * leaf. */
#define SPARE_RUNS 32

/* Of a list of so many. */
static uint64_t room_for(uint64_t count)
{
    return count ? count + count / 2 + 2 : 0;
}

/* Every list in a pool of its own length and half as much again, and as much at the end for those that move. */
static bool move_lists(struct rondo__rank_run **pool, uint32_t *used, uint32_t *room, struct rondo__rank_list *lists, int32_t ranks)
{
    uint64_t total = 0;
    size_t bytes;
    for (int32_t r = 0; r < ranks; r++)
        total += room_for((uint64_t)lists[r].count + lists[r].more);
    total += total / 2 + SPARE_RUNS;
    if (total > UINT32_MAX || !rondo__mul((size_t)total, sizeof **pool, &bytes))
        return false;
    struct rondo__rank_run *to = rondo__alloc(bytes), *from = *pool;
    if (!to)
        return false;
    uint32_t at = 0;
    for (int32_t r = 0; r < ranks; r++) {
        if (lists[r].count)
            memcpy(to + at, from + lists[r].at, (size_t)lists[r].count * sizeof *to);
        lists[r].at = at;
        lists[r].room = (uint32_t)room_for((uint64_t)lists[r].count + lists[r].more);
        at += lists[r].room;
    }
    rondo__free(from);
    *pool = to;
    *used = at;
    *room = (uint32_t)total;
    return true;
}

/* Room in each list for what is to come. */
static bool grow_lists(struct rondo__table *t, const struct rondo__deal *deals, int64_t count, int32_t filler)
{
    uint64_t moving = 0;
    for (int64_t i = filler < 0; i <= count; i++) {
        const struct rondo__rank_list *l = &t->lists[i ? deals[i - 1].rank : filler];
        if (l->more > UINT32_MAX / 4 - l->count)
            return false;
        if (l->count + l->more > l->room)   /* counted again for each deal of one rank: more than is needed, and simple */
            moving += room_for((uint64_t)l->count + l->more);
    }
    if (!moving)
        return true;
    if (moving > t->pool_room - t->pool_used)
        return move_lists(&t->pool, &t->pool_used, &t->pool_room, t->lists, t->ranks);
    for (int64_t i = filler < 0; i <= count; i++) {
        struct rondo__rank_list *l = &t->lists[i ? deals[i - 1].rank : filler];
        if (l->count + l->more <= l->room)
            continue;
        memcpy(t->pool + t->pool_used, t->pool + l->at, (size_t)l->count * sizeof *t->pool);
        l->at = t->pool_used;
        l->room = (uint32_t)room_for((uint64_t)l->count + l->more);
        t->pool_used += l->room;
    }
    return true;
}

static bool grow_runs(struct rondo__table *t, int64_t more)
{
    if (t->room - t->count >= more)
        return true;
    int64_t room = t->room / 2 * 3 + SPARE_RUNS;
    if (room < t->count + more)
        room = t->count + more;
    size_t bytes;
    if (!rondo__mul((size_t)room, sizeof *t->runs, &bytes))
        return false;
    struct rondo__run *runs = rondo__resize(t->runs, t->runs ? (size_t)t->count * sizeof *runs : 0, bytes);
    if (!runs)
        return false;
    t->runs = runs;
    t->room = room;
    return true;
}

bool rondo__table_reserve(struct rondo__table *t, const struct rondo__deal *deals, int64_t count, int32_t filler)
{
    if (!grow_runs(t, count + 1))
        return false;
    if (filler >= 0)
        t->lists[filler].more++;
    for (int64_t i = 0; i < count; i++)
        t->lists[deals[i].rank].more++;
    bool fits = grow_lists(t, deals, count, filler);
    if (filler >= 0)
        t->lists[filler].more = 0;
    for (int64_t i = 0; i < count; i++)
        t->lists[deals[i].rank].more = 0;
    return fits;
}

/* Room for a pool of so many, whose content is void. */
static bool set_pool(struct rondo__table *t, uint32_t used)
{
    if (used > t->pool_room || !t->pool) {
        const uint64_t room = (uint64_t)used + used / 2 + SPARE_RUNS;
        size_t bytes;
        if (room > UINT32_MAX || !rondo__mul((size_t)room, sizeof *t->pool, &bytes))
            return false;
        struct rondo__rank_run *pool = rondo__alloc(bytes);
        if (!pool)
            return false;
        rondo__free(t->pool);
        t->pool = pool;
        t->pool_room = (uint32_t)room;
    }
    t->pool_used = used;
    return true;
}

bool rondo__table_copy(struct rondo__table **to, const struct rondo__table *from)
{
    struct rondo__table *t = *to ? *to : rondo__table_new(from->ranks, from->begin);
    if (!t)
        return false;
    *to = t;
    rondo__table_clear(t, from->begin);
    if (!grow_runs(t, from->count) || !set_pool(t, from->pool_used)) {
        for (int32_t r = 0; r < t->ranks; r++)
            t->lists[r] = (struct rondo__rank_list){ 0, 0, 0, 0 };
        t->pool_used = 0;
        return false;
    }
    if (from->count)
        memcpy(t->runs, from->runs, (size_t)from->count * sizeof *t->runs);
    if (from->pool_used)
        memcpy(t->pool, from->pool, (size_t)from->pool_used * sizeof *t->pool);
    const size_t n = (size_t)t->ranks;
    memcpy(t->held, from->held, n * sizeof *t->held);
    memcpy(t->lists, from->lists, n * sizeof *t->lists);
    memcpy(t->winners, from->winners, n * sizeof *t->winners);
    t->length = from->length;
    t->singles = from->singles;
    t->hash = from->hash;
    t->count = from->count;
    t->ranked = from->ranked;
    return true;
}

/* ---- adding ---- */

static void add_run(struct rondo__table *t, int32_t rank, int32_t stride)
{
    t->runs[t->count++] = (struct rondo__run){ t->length, rank, stride };
    t->hash = rondo__hash_word(rondo__hash_word(t->hash, (uint64_t)t->length), (uint64_t)rank << 32 | (uint64_t)stride);
}

static void add_rank_run(struct rondo__table *t, int32_t rank, int64_t count, int64_t step)
{
    struct rondo__rank_list *l = &t->lists[rank];
    struct rondo__rank_run *next = t->pool + l->at + l->count;
    *next = (struct rondo__rank_run){ t->length, count, step, l->count ? next[-1].row + next[-1].count : 0 };
    l->count++;
}

void rondo__table_add(struct rondo__table *t, int32_t rank, int64_t tokens)
{
    if (tokens <= 0)
        return;
    const struct rondo__run *last = t->count ? &t->runs[t->count - 1] : NULL;
    if (last && last->stride == 1 && last->rank == rank) {
        t->pool[t->lists[rank].at + t->lists[rank].count - 1].count += tokens;
    } else {
        add_run(t, rank, 1);
        add_rank_run(t, rank, tokens, 1);
    }
    t->length += tokens;
}

void rondo__table_add_single(struct rondo__table *t, int32_t rank)
{
    const struct rondo__run *last = t->count ? &t->runs[t->count - 1] : NULL;
    const struct rondo__rank_list *l = &t->lists[rank];
    const int64_t begun = last && last->stride > 1 ? t->length - last->first : 0;
    if (!begun || (last->rank + begun) % t->ranks != rank)
        add_run(t, rank, t->ranks);
    /* in a run that has gone round once this rank has a part already */
    if (t->runs[t->count - 1].first <= t->length - t->ranks)
        t->pool[l->at + l->count - 1].count++;
    else
        add_rank_run(t, rank, 1, t->ranks);
    t->length++;
    t->singles++;
}

/* ---- who holds how much ---- */

/* A match is a node from 1 to ranks - 1, played between nodes 2j and 2j + 1; nodes from `ranks` on are the players themselves. */
static int32_t player(const struct rondo__table *t, int64_t node)
{
    return node >= t->ranks ? (int32_t)(node - t->ranks) : t->winners[node];
}

static int64_t held_by(const struct rondo__table *t, int32_t player)
{
    return t->held[((int64_t)t->begin + player) % t->ranks];
}

static void play(struct rondo__table *t, int64_t node)
{
    int32_t a = player(t, 2 * node), b = player(t, 2 * node + 1);
    int64_t of_a = held_by(t, a), of_b = held_by(t, b);
    t->winners[node] = of_a < of_b || (of_a == of_b && a < b) ? a : b;
}

void rondo__table_count(struct rondo__table *t, int32_t rank, int64_t tokens)
{
    t->held[rank] += tokens;
    if (!t->ranked)
        return;
    for (int64_t node = (((int64_t)rank - t->begin + t->ranks) % t->ranks + t->ranks) / 2; node > 0; node /= 2)
        play(t, node);
}

int32_t rondo__table_emptiest(struct rondo__table *t)
{
    if (t->ranks == 1)
        return 0;
    if (!t->ranked)
        for (int64_t node = t->ranks - 1; node > 0; node--)
            play(t, node);
    t->ranked = true;
    return (int32_t)(((int64_t)t->begin + t->winners[1]) % t->ranks);
}

/* ---- who holds what ---- */

int32_t rondo__table_owner(const struct rondo__table *t, int64_t position)
{
    int64_t lo = 0, hi = t->count;
    while (hi - lo > 1) {
        int64_t mid = lo + (hi - lo) / 2;
        if (t->runs[mid].first <= position)
            lo = mid;
        else
            hi = mid;
    }
    const struct rondo__run *run = &t->runs[lo];
    return run->stride == 1 ? run->rank : (int32_t)((run->rank + (position - run->first)) % t->ranks);
}

int64_t rondo__rank_run_find(const struct rondo__rank_run *runs, int64_t count, int64_t position)
{
    int64_t lo = 0, hi = count;
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        if (runs[mid].first + (runs[mid].count - 1) * runs[mid].step < position)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}
