/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The KV cache of one rank. Which rank holds which position is the placement's business (rondo_placement); here a sequence is
 * just a growing run of rows, in the order of their positions. Called by forward.c and batch.c.
 *
 * Attention takes the keys of a whole batch from one tensor and a row number per sequence (rondo_attention_io.kv_row).
 * So each layer has one slab for keys and one for values, cut into runs, one per sequence ("seat"), at the same rows in
 * every slab. When a run is too small, all slabs are laid out anew, one after another: runs that grow get an eighth
 * ahead, so that copying stays a constant factor of appending, and never more than one slab exists twice.
 */
#include "lm/engine/kv.h"

#include "core/internal.h"

/* A run that grows gets this many rows and an eighth ahead. */
#define AHEAD 64

int rondo__kv_open(struct rondo_kv *kv, int type, int64_t layers, int64_t width)
{
    memset(kv, 0, sizeof *kv);
    kv->type = type;
    kv->layers = layers;
    kv->width = width;
    kv->keys = rondo__alloc_zero((size_t)layers, sizeof *kv->keys);
    kv->values = rondo__alloc_zero((size_t)layers, sizeof *kv->values);
    if (!kv->keys || !kv->values)
        return rondo__fail(RONDO_ENOMEM, "no memory for the KV cache's table of %lld layers", (long long)layers);
    return 0;
}

static void free_slabs(struct rondo_kv *kv)
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
    kv->rows = 0;
}

void rondo__kv_close(struct rondo_kv *kv)
{
    free_slabs(kv);
    rondo__free(kv->keys);
    rondo__free(kv->values);
    rondo__free(kv->runs);
    rondo__free(kv->need);
    rondo__free(kv->limit);
    memset(kv, 0, sizeof *kv);
}

int rondo__kv_seats(struct rondo_kv *kv, int64_t seats)
{
    if (seats <= kv->seats)
        return 0;
    struct rondo_kv_run *runs = rondo__alloc_zero((size_t)seats, sizeof *runs);
    int64_t *need = rondo__alloc_zero((size_t)seats, sizeof *need);
    int64_t *limit = rondo__alloc_zero((size_t)seats, sizeof *limit);
    if (!runs || !need || !limit) {
        rondo__free(runs);
        rondo__free(need);
        rondo__free(limit);
        return rondo__fail(RONDO_ENOMEM, "no memory for %lld sequences in the KV cache", (long long)seats);
    }
    if (kv->seats) {
        memcpy(runs, kv->runs, (size_t)kv->seats * sizeof *runs);
        memcpy(need, kv->need, (size_t)kv->seats * sizeof *need);
        memcpy(limit, kv->limit, (size_t)kv->seats * sizeof *limit);
    }
    rondo__free(kv->runs);
    rondo__free(kv->need);
    rondo__free(kv->limit);
    kv->runs = runs;
    kv->need = need;
    kv->limit = limit;
    kv->seats = seats;
    return 0;
}

/* One slab in the new layout; the old one is gone afterwards. */
static int move_slab(const struct rondo_kv *kv, void **slab, const struct rondo_kv_run *next, size_t row_bytes, size_t bytes)
{
    char *fresh = rondo__alloc(bytes);
    if (!fresh)
        return rondo__fail(RONDO_ENOMEM, "no memory for %zu bytes of keys or values of one layer", bytes);
    for (int64_t s = 0; s < kv->seats; s++) {
        const struct rondo_kv_run *old = &kv->runs[s];
        if (old->used)
            memcpy(fresh + (size_t)next[s].first * row_bytes, (const char *)*slab + (size_t)old->first * row_bytes,
                   (size_t)old->used * row_bytes);
    }
    rondo__free(*slab);
    *slab = fresh;
    return 0;
}

int rondo__kv_reserve(struct rondo_kv *kv)
{
    bool fits = kv->rows > 0;
    for (int64_t s = 0; s < kv->seats; s++)
        fits = fits && kv->need[s] <= kv->runs[s].capacity;
    if (fits)
        return 0;

    struct rondo_kv_run *next = rondo__alloc_zero((size_t)kv->seats, sizeof *next);
    if (!next)
        return rondo__fail(RONDO_ENOMEM, "no memory for the layout of the KV cache");
    int64_t rows = 0;
    int err = 0;
    for (int64_t s = 0; s < kv->seats && !err; s++) {
        int64_t capacity = kv->runs[s].capacity, need = kv->need[s];
        if (need > capacity) {
            int64_t ahead = need / 8 + AHEAD, room = kv->limit[s] - need;
            capacity = need + (room < 0 ? 0 : ahead < room ? ahead : room);
        }
        next[s] = (struct rondo_kv_run){ rows, capacity, kv->runs[s].used };
        if (!rondo__add64(rows, capacity, &rows))
            err = rondo__fail(RONDO_ENOMEM, "the KV cache would have more rows than can be counted");
    }
    /* One row at least, so that a rank without keys still has an address to show. */
    rows = rows > 0 ? rows : 1;
    size_t row_bytes = 0, bytes = 0;
    if (!err && (!rondo__mul((size_t)kv->width, rondo_type_size(kv->type), &row_bytes) || !rondo__mul((size_t)rows, row_bytes, &bytes)))
        err = rondo__fail(RONDO_ENOMEM, "the KV cache of %lld rows would not fit the address space", (long long)rows);
    for (int64_t i = 0; i < kv->layers && !err; i++) {
        err = move_slab(kv, &kv->keys[i], next, row_bytes, bytes);
        if (!err)
            err = move_slab(kv, &kv->values[i], next, row_bytes, bytes);
    }
    if (err) {
        /* Some slabs are in the old layout and some in the new one: none is of use any more, and the caller gives up. */
        free_slabs(kv);
        for (int64_t s = 0; s < kv->seats; s++)
            kv->runs[s] = (struct rondo_kv_run){ 0, 0, 0 };
        rondo__free(next);
        return err;
    }
    rondo__free(kv->runs);
    kv->runs = next;
    kv->rows = rows;
    return 0;
}

void rondo__kv_drop(struct rondo_kv *kv, int64_t seat)
{
    /* The rows go back at the next layout; when nothing is left, at once. */
    kv->runs[seat] = (struct rondo_kv_run){ 0, 0, 0 };
    kv->need[seat] = kv->limit[seat] = 0;
    for (int64_t s = 0; s < kv->seats; s++)
        if (kv->runs[s].capacity)
            return;
    free_slabs(kv);
}

size_t rondo__kv_bytes(const struct rondo_kv *kv)
{
    return 2 * (size_t)kv->layers * (size_t)kv->rows * (size_t)kv->width * rondo_type_size(kv->type);
}
