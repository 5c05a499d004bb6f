/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The KV cache of one rank. Which rank holds which position is the placement's business (rondo_placement); here a sequence is
 * just a growing run of rows, in the order of their positions. Called by forward.c and sequence.c.
 *
 * Attention takes the keys of a whole batch from one tensor and a row number per sequence (rondo_attention_io.kv_row).
 * So each layer has one slab for keys and one for values, and a sequence ("seat") has a run of rows at the same place in all of
 * them. A run that is too small grows into the hole behind it; else it moves, alone, into the smallest hole that will do. Only where
 * there is no such hole are all slabs laid out anew, one after another, so that never more than one exists twice.
 *
 * How much that costs, U being the rows that hold keys and S the seats that have some:
 *   a run has at most max(9/8 U + 64, sure) rows, and never more than the limit. So one that grows by its rows one by one copies less
 *   than 9 rows for each in the course of time, and others stay where they are;
 *   all runs together have at most C = 9/8 U + 64 S rows (and what was said to be sure); a slab has exactly so many when it is first
 *   made, 5/4 of them when it is laid out anew, and that again when they have come to be less than a quarter. So a slab has at most
 *   5/4 of the largest C, and at most 4 C + 1024;
 *   a new layout leaves at least C/8 rows free in one hole. Before the next one as many were given out, which came of appended rows:
 *   layouts too copy a constant number of rows for each row that was appended.
 */
#include "lm/engine/kv.h"

#include "core/internal.h"

/* A run that grows gets this many rows and an eighth ahead. */
#define AHEAD 64
/* Below this slabs are not worth making smaller. */
#define SMALL 1024

int rondo__kv_open(struct rondo_kv *kv, int type, int64_t layers, size_t row_bytes)
{
    memset(kv, 0, sizeof *kv);
    kv->type = type;
    kv->layers = layers;
    kv->row_bytes = row_bytes;
    kv->keys = rondo__alloc_zero((size_t)layers, sizeof *kv->keys);
    kv->values = rondo__alloc_zero((size_t)layers, sizeof *kv->values);
    if (!kv->keys || !kv->values)
        return rondo__fail(RONDO_ENOMEM, "no memory for the KV cache's table of %lld layers", (long long)layers);
    return 0;
}

/* Nothing is held any more. */
static void clear(struct rondo_kv *kv)
{
    for (int64_t i = 0; i < kv->layers; i++) {
        if (kv->keys)
            rondo__free(kv->keys[i]);
        if (kv->values)
            rondo__free(kv->values[i]);
        if (kv->keys)
            kv->keys[i] = NULL;
        if (kv->values)
            kv->values[i] = NULL;
    }
    for (int64_t i = 0; i < kv->taken; i++)
        kv->runs[kv->order[i]] = (struct rondo_kv_run){ 0, 0, 0 };
    kv->rows = kv->capacity = kv->taken = 0;
}

void rondo__kv_close(struct rondo_kv *kv)
{
    clear(kv);
    rondo__free(kv->keys);
    rondo__free(kv->values);
    rondo__free(kv->runs);
    rondo__free(kv->order);
    memset(kv, 0, sizeof *kv);
}

int rondo__kv_seats(struct rondo_kv *kv, int64_t seats)
{
    if (seats <= kv->seats)
        return 0;
    struct rondo_kv_run *runs = rondo__alloc_zero((size_t)seats, sizeof *runs);
    int64_t *order = rondo__alloc_zero((size_t)seats, sizeof *order);
    if (!runs || !order) {
        rondo__free(runs);
        rondo__free(order);
        return rondo__fail(RONDO_ENOMEM, "no memory for %lld sequences in the KV cache", (long long)seats);
    }
    if (kv->seats) {
        memcpy(runs, kv->runs, (size_t)kv->seats * sizeof *runs);
        memcpy(order, kv->order, (size_t)kv->taken * sizeof *order);
    }
    rondo__free(kv->runs);
    rondo__free(kv->order);
    kv->runs = runs;
    kv->order = order;
    kv->seats = seats;
    return 0;
}

/* ---- the order of the runs ---- */

/* The place of the first run that begins at `row` or behind it. */
static int64_t place_of(const struct rondo_kv *kv, int64_t row)
{
    int64_t lo = 0, hi = kv->taken;
    while (lo < hi) {
        const int64_t mid = lo + (hi - lo) / 2;
        if (kv->runs[kv->order[mid]].first < row)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static void take_out(struct rondo_kv *kv, int64_t seat)
{
    const int64_t at = place_of(kv, kv->runs[seat].first);
    kv->taken--;
    kv->capacity -= kv->runs[seat].capacity;
    memmove(kv->order + at, kv->order + at + 1, (size_t)(kv->taken - at) * sizeof *kv->order);
}

static void put_in(struct rondo_kv *kv, int64_t seat, int64_t first, int64_t capacity)
{
    const int64_t at = place_of(kv, first);
    memmove(kv->order + at + 1, kv->order + at, (size_t)(kv->taken - at) * sizeof *kv->order);
    kv->order[at] = seat;
    kv->taken++;
    kv->capacity += capacity;
    kv->runs[seat].first = first;
    kv->runs[seat].capacity = capacity;
}

/* The smallest hole of at least so many rows: its first, or -1. */
static int64_t find_hole(const struct rondo_kv *kv, int64_t rows)
{
    int64_t best = -1, least = INT64_MAX, end = 0;
    for (int64_t i = 0; i <= kv->taken; i++) {
        const struct rondo_kv_run *next = i < kv->taken ? &kv->runs[kv->order[i]] : NULL;
        const int64_t hole = (next ? next->first : kv->rows) - end;
        if (hole >= rows && hole < least) {
            best = end;
            least = hole;
        }
        end = next ? next->first + next->capacity : end;
    }
    return best;
}

/* ---- moving ---- */

static void copy_rows(const struct rondo_kv *kv, int64_t from, int64_t to, int64_t rows)
{
    const size_t row = kv->row_bytes, bytes = (size_t)rows * row;
    for (int64_t i = 0; i < kv->layers && bytes; i++) {
        char *keys = kv->keys[i], *values = kv->values[i];
        memcpy(keys + (size_t)to * row, keys + (size_t)from * row, bytes);
        memcpy(values + (size_t)to * row, values + (size_t)from * row, bytes);
    }
}

/* A seat's run with so many rows, where it is or in a hole: whether there was room. */
static bool fit(struct rondo_kv *kv, int64_t seat, int64_t capacity)
{
    struct rondo_kv_run *run = &kv->runs[seat];
    if (run->capacity) {
        const int64_t next = place_of(kv, run->first) + 1;
        const int64_t end = next < kv->taken ? kv->runs[kv->order[next]].first : kv->rows;
        if (end - run->first >= capacity) {
            kv->capacity += capacity - run->capacity;
            run->capacity = capacity;
            return true;
        }
    }
    const int64_t first = find_hole(kv, capacity);
    if (first < 0)
        return false;
    copy_rows(kv, run->first, first, run->used);
    if (run->capacity)
        take_out(kv, seat);
    put_in(kv, seat, first, capacity);
    return true;
}

/* One slab in the new layout; the old one is gone afterwards. */
static int move_slab(const struct rondo_kv *kv, void **slab, const int64_t *first, size_t bytes)
{
    const size_t row = kv->row_bytes;
    char *fresh = rondo__alloc(bytes);
    if (!fresh)
        return rondo__fail(RONDO_ENOMEM, "no memory for %zu bytes of keys or values of one layer", bytes);
    for (int64_t i = 0; i < kv->taken; i++) {
        const struct rondo_kv_run *run = &kv->runs[kv->order[i]];
        if (run->used)
            memcpy(fresh + (size_t)first[i] * row, (const char *)*slab + (size_t)run->first * row, (size_t)run->used * row);
    }
    rondo__free(*slab);
    *slab = fresh;
    return 0;
}

/* All runs, one behind the other, in slabs of so many rows. */
static int lay_out(struct rondo_kv *kv, int64_t rows)
{
    size_t bytes;
    int64_t *first = rondo__alloc((size_t)(kv->taken + 1) * sizeof *first);
    int err = first ? 0 : rondo__fail(RONDO_ENOMEM, "no memory for the layout of the KV cache");
    if (!err && !rondo__mul((size_t)rows, kv->row_bytes, &bytes))
        err = rondo__fail(RONDO_ENOMEM, "the KV cache of %lld rows would not fit the address space", (long long)rows);
    for (int64_t i = 0, at = 0; i < kv->taken && !err; i++) {
        first[i] = at;
        at += kv->runs[kv->order[i]].capacity;
    }
    for (int64_t i = 0; i < kv->layers && !err; i++) {
        err = move_slab(kv, &kv->keys[i], first, bytes);
        if (!err)
            err = move_slab(kv, &kv->values[i], first, bytes);
    }
    for (int64_t i = 0; i < kv->taken && !err; i++)
        kv->runs[kv->order[i]].first = first[i];
    kv->rows = rows;
    rondo__free(first);
    return err;
}

/* ---- what callers ask for ---- */

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int64_t capacity_for(const struct rondo_kv_wish *w)
{
    const int64_t ahead = larger(w->rows + w->rows / 8 + AHEAD, w->sure);
    return ahead > w->limit ? larger(w->rows, w->limit) : ahead;
}

/* The rows of the slabs in a new layout; -1: more than can be counted. */
static int64_t rows_for(const struct rondo_kv *kv)
{
    const int64_t c = kv->capacity;
    if (c > INT64_MAX / 8)
        return -1;
    if (kv->rows == 0)   /* what comes first may well be all, and then nothing of it is ahead */
        return larger(c, 1);
    return kv->rows >= c + c / 8 && kv->rows <= 4 * c + SMALL ? kv->rows : larger(c + c / 4, 1);
}

int rondo__kv_reserve(struct rondo_kv *kv, const struct rondo_kv_wish *wishes, int64_t count)
{
    bool all = kv->rows > 0;   /* one row at least, so that a rank without keys still has an address to show */
    for (int64_t i = 0; i < count; i++) {
        const struct rondo_kv_wish *w = &wishes[i];
        struct rondo_kv_run *run = &kv->runs[w->seat];
        if (w->rows <= run->capacity)
            continue;
        const int64_t capacity = capacity_for(w);
        if (all && fit(kv, w->seat, capacity))
            continue;
        /* Wider than its place until all are laid out anew below; until then there is no looking for holes. */
        all = false;
        if (run->capacity) {
            kv->capacity += capacity - run->capacity;
            run->capacity = capacity;
        } else {
            put_in(kv, w->seat, kv->rows + kv->taken, capacity);
        }
    }
    if (all && kv->rows <= 4 * kv->capacity + SMALL)
        return 0;
    const int64_t rows = rows_for(kv);
    int err = rows < 0 ? rondo__fail(RONDO_ENOMEM, "the KV cache would have more rows than can be counted") : lay_out(kv, rows);
    if (err)
        clear(kv);   /* some slabs may be in the old layout and some in the new one: none is of use any more, and the caller gives up */
    return err;
}

void rondo__kv_drop(struct rondo_kv *kv, int64_t seat)
{
    if (kv->runs[seat].capacity)
        take_out(kv, seat);
    kv->runs[seat] = (struct rondo_kv_run){ 0, 0, 0 };
    if (kv->taken == 0)
        clear(kv);
}

size_t rondo__kv_bytes(const struct rondo_kv *kv)
{
    return 2 * (size_t)kv->layers * (size_t)kv->rows * kv->row_bytes;
}
