/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The keys and values that one rank holds, of all live sequences. See kv.c.
 */
#ifndef RONDO_LM_KV_H
#define RONDO_LM_KV_H

#include <stddef.h>
#include <stdint.h>

/* A run of rows, the same in every slab. */
struct rondo_kv_run {
    int64_t first, capacity;     /* capacity 0: the seat has none */
    int64_t used;                /* rows that hold keys; set by the caller */
};

struct rondo_kv {
    int32_t type;                /* rondo_type of what is stored */
    int64_t layers;
    size_t row_bytes;            /* of all heads */
    void **keys, **values;       /* [layers] slabs of `rows` rows */
    int64_t rows;
    struct rondo_kv_run *runs;   /* [seats] */
    int64_t seats;
    int64_t *order;              /* [taken]: the seats that have rows, by their first */
    int64_t taken;
    int64_t capacity;            /* rows of all runs together */
};

/* What a seat is to have. */
struct rondo_kv_wish {
    int64_t seat, rows;
    int64_t sure;                /* rows that it will need soon: as many are taken at once */
    int64_t limit;               /* rows that it can never exceed: none are taken ahead beyond it */
};

int rondo__kv_open(struct rondo_kv *kv, int type, int64_t layers, size_t row_bytes);
void rondo__kv_close(struct rondo_kv *kv);
/* Room for so many seats (never fewer than before); new ones are empty. */
int rondo__kv_seats(struct rondo_kv *kv, int64_t seats);
/* Gives every seat of the list (each named once) at least the rows that it wishes; what seats hold stays. Runs may move. After a
 * failure nothing is held any more. */
int rondo__kv_reserve(struct rondo_kv *kv, const struct rondo_kv_wish *wishes, int64_t count);
/* A seat's rows are no longer wanted. */
void rondo__kv_drop(struct rondo_kv *kv, int64_t seat);
size_t rondo__kv_bytes(const struct rondo_kv *kv);

#endif
