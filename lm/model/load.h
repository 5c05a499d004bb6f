/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Weights from files into memory: of each tensor the rows and columns that a rank holds (weights.h), read in small pieces and packed at
 * once on all threads of the device, so that nothing but a piece for each thread is held twice. Called by model.c.
 */
#ifndef RONDO_LM_LOAD_H
#define RONDO_LM_LOAD_H

#include "lm/model/weights.h"

struct rondo_load {
    struct rondo_shards *shards;
    rondo_context *ctx;
    const rondo_model_desc *desc;
    uint64_t done, total;               /* bytes of the files that are wanted */
    uint64_t held;                      /* bytes that the weights take in memory */
    char *buffer;                       /* for what is on its way: bounded, whatever the model's size */
    size_t buffer_bytes;
};

/* Both are visits of a walk with a struct rondo_load: what there is to read, and reading it. */
int rondo__load_count(void *load, const struct rondo_weight *weight);
int rondo__load_weight(void *load, const struct rondo_weight *weight);

/* Are rows [first, first + rows) of two matrices the same bytes? 1, 0 or a code. */
int rondo__load_same(struct rondo_load *load, const rondo_array *a, const rondo_array *b, int64_t first, int64_t rows);

void rondo__load_end(struct rondo_load *load);

#endif
