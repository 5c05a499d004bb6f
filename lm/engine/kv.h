/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The keys and values that one rank holds, of all live sequences. See kv.c.
 */
#ifndef RONDO_LM_KV_H
#define RONDO_LM_KV_H

#include <stddef.h>
#include <stdint.h>

struct rondo_kv_run {
    int64_t first, capacity;     /* rows of every slab */
    int64_t used;                /* rows that hold keys */
};

struct rondo_kv {
    int32_t type;                /* rondo_type of what is stored */
    int64_t layers;
    int64_t width;               /* elements of a row: kv_heads * head_dim */
    void **keys, **values;       /* [layers] slabs of `rows` rows */
    int64_t rows;
    struct rondo_kv_run *runs;   /* [seats] */
    int64_t seats;
    int64_t *need, *limit;       /* [seats]: what reserve() is asked for; filled by the caller */
};

int rondo__kv_open(struct rondo_kv *kv, int type, int64_t layers, int64_t width);
void rondo__kv_close(struct rondo_kv *kv);
/* Room for so many seats (never fewer than before); new ones are empty. */
int rondo__kv_seats(struct rondo_kv *kv, int64_t seats);
/* Makes every run hold at least need[seat] rows; a run that grows gets room ahead, but not beyond limit[seat]. */
int rondo__kv_reserve(struct rondo_kv *kv);
/* A seat's rows are no longer wanted. */
void rondo__kv_drop(struct rondo_kv *kv, int64_t seat);
size_t rondo__kv_bytes(const struct rondo_kv *kv);

#endif
