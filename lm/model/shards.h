/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The tensors of a model folder, whether they lie in one model.safetensors or in shards listed by
 * model.safetensors.index.json. Filled by shards.c; read by model.c, which takes every tensor that it needs by name.
 */
#ifndef RONDO_LM_SHARDS_H
#define RONDO_LM_SHARDS_H

#include <stdbool.h>
#include <stdint.h>

#include "rondo_lm.h"

struct rondo_shards;   /* open files; reading may be done by several threads at once */

/* Opens and validates every shard. RONDO_EIO, RONDO_EFORMAT (names the file and the tensor). */
int rondo__shards_open(struct rondo_shards **out, const char *dir);
void rondo__shards_close(struct rondo_shards *shards);

/* A tensor by name; marks it as wanted. NULL: there is none (no sentence is recorded). */
const rondo_array *rondo__shards_find(struct rondo_shards *shards, const char *name);

/* As find, but checks: a missing tensor, other dims or shape (dims <= 4) and a type that is not F32, BF16 or F16 (or, where `int8`, I8) are
 * RONDO_EFORMAT / RONDO_ENOTSUP with a sentence that says which tensor of which file and what was expected. */
int rondo__shards_need(struct rondo_shards *shards, const char *name, int dims, const int64_t *shape, bool int8, const rondo_array **out);

/* Bytes [first, first + bytes) of a tensor that find or need gave. */
int rondo__shards_read(struct rondo_shards *shards, const rondo_array *array, uint64_t first, uint64_t bytes, void *to);

/* Adds to *h what tells these weights from others: name, type, shape and some bytes of each tensor that somebody asked for, at places that
 * are the same in every folder. How they are dealt out to files does not count. Reads a page or two of each. */
int rondo__shards_hash(struct rondo_shards *shards, uint64_t *h);

/* Bytes of all tensors together. */
uint64_t rondo__shards_bytes(const struct rondo_shards *shards);

/* The first tensor in the order of names that nobody asked for and whose name begins so; NULL: none. */
const char *rondo__shards_unused(struct rondo_shards *shards, const char *prefix);

/* Tells the log (one warning, the first names and a count) which tensors nobody asked for; returns their number. Names that
 * known exporters leave behind (rotary_emb.inv_freq) are not counted; a tied model's spare lm_head.weight is for the caller to find. */
int64_t rondo__shards_report_unused(struct rondo_shards *shards);

#endif
