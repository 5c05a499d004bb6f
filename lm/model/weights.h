/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Which tensors of a folder make a model, and which part of each one rank holds: a walk over all of them, in one order, that checks names,
 * shapes and types before anything is read. model.c walks to load them (load.c) or to describe the model, estimate.c to count what they
 * would take.
 */
#ifndef RONDO_LM_WEIGHTS_H
#define RONDO_LM_WEIGHTS_H

#include "lm/model/model.h"
#include "lm/model/shards.h"

enum rondo_weight_kind {
    RONDO_WEIGHT_VECTOR,                /* norms, biases: becomes float[] */
    RONDO_WEIGHT_TABLE,                 /* rows to look up, in host memory */
    RONDO_WEIGHT_LINEAR                 /* a layer that the device packs */
};

struct rondo_weight {
    int32_t kind;                       /* enum rondo_weight_kind */
    int32_t type;                       /* what it is held in */
    const rondo_array *array;           /* [out][in]; of a vector [out], and in is 1 */
    bool table;                         /* LINEAR: rows are looked up in it too */
    int64_t out, in;
    int64_t first, rows;                /* the rows that are wanted */
    int64_t column, columns;            /* ... and the columns of them */
    int32_t leaves;                     /* of the layer's sum; 0: the library's own */
    const rondo_array *scales;          /* of an array of I8: [out][in / scale_inputs]; else NULL */
    int64_t scale_inputs;               /* inputs of the file that share one */
    int32_t group;                      /* Q8: inputs of a leaf that share one in memory; 0: the caller's wish */
    int32_t parts, part;                /* columns are a part of the leaves; 0: all of them */
    const int32_t *leaf_begin;
    void *to;                           /* where the pointer to it goes: float **, void **, rondo_linear ** */
};

/* Leaves [first, end) of the layer's sum are here, where `leaves` says how many it has. */
static inline int32_t rondo__weight_first_leaf(const struct rondo_weight *w) { return w->parts ? w->leaf_begin[w->part] : 0; }
static inline int32_t rondo__weight_end_leaf(const struct rondo_weight *w) { return w->parts ? w->leaf_begin[w->part + 1] : w->leaves; }

struct rondo_weights_wish {
    int32_t type;                       /* of linear layers; 0: as stored */
    bool table;                         /* an embedding that is tied to its head is wanted as a table besides */
};

/* Calls visit() for each tensor that this rank holds something of; a code other than 0 ends it. m has config, split and layers, and gets
 * parameters and embedding_type, which are the same on all ranks. A layer's tensor that nobody asked for is refused at the end. */
int rondo__weights_walk(struct rondo_model *m, struct rondo_shards *shards, const struct rondo_weights_wish *wish,
                        int (*visit)(void *arg, const struct rondo_weight *weight), void *arg);

/* The bytes that it takes in memory, but for what devices round up to whole panels. group: of Q8, where the file has no scales; 0: 32. */
uint64_t rondo__weights_bytes(const struct rondo_weight *weight, int32_t group);

/* The type that an embedding table is held in where linear layers are held in `wish`, and the file has `stored`: a float type, the
 * narrower one, as rows are widened exactly when they are looked up. */
int32_t rondo__weights_table_type(int32_t wish, int32_t stored);

/* The head that a tied model has in its file all the same; NULL: none. */
const rondo_array *rondo__weights_spare_head(const struct rondo_model *m, struct rondo_shards *shards);

#endif
