/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The delta rule among ranks. desc.c makes a design of a descriptor, which is the same on all ranks; a builder (ways/) makes of it one rank's
 * schedule and what its COMPUTEs do: calls, which are lists of blocks (core/device.h). plan.c is what users create, execute.c runs it.
 *
 * Tokens are rows, sequence after sequence; rank r has rows [begin[r], begin[r + 1]) of all inputs and of out, whatever the way. The state
 * behind a token is kept where the token is: that is where a checkpoint and a final state are written, and, of the first token, where an initial
 * state is read.
 */
#ifndef RONDO_DELTA_DELTA_H
#define RONDO_DELTA_DELTA_H

#include "schedule/run.h"

#define RONDO_DELTA_DIM 512         /* key_dim and value_dim are at most this (rule 14 has one leaf of squares) */
#define RONDO_DELTA_TILE 4096      /* tokens of a tile, where nobody says */
#define RONDO_DELTA_MAP_CHUNK 16   /* tokens of a chunk, in which tiles make maps and sources where the plan has no chunks (rule 14) */

struct rondo__delta_design {
    rondo_delta_desc desc;         /* filled in; of its lists those that follow are the design's own */
    struct rondo_delta_form form;
    int32_t ranks, packed;         /* packed: there is a list of where sequences begin */
    int64_t rows;                  /* of all ranks */
    int64_t *lists;                /* what holds: */
    int64_t *cu;                   /* [sequences + 1] */
    int64_t *begin;                /* [ranks + 1] */
    int64_t *checkpoints;          /* [checkpoint_count] */
};

int rondo__delta_design(struct rondo__delta_design *out, const rondo_delta_desc *desc, int32_t ranks);
void rondo__delta_design_free(struct rondo__delta_design *design);
uint64_t rondo__delta_hash(const struct rondo__delta_design *design);
/* Who has the row; of the end of all rows, or where there are none, the last one of those before. */
int32_t rondo__delta_owner(const struct rondo__delta_design *design, int64_t row);
/* The sequence that a row below `rows` is of. */
int64_t rondo__delta_sequence(const struct rondo__delta_design *design, int64_t row);
/* Who keeps the state behind the first `position` tokens of a sequence. */
int32_t rondo__delta_keeper(const struct rondo__delta_design *design, int64_t sequence, int64_t position);

/* Tiles of an affine scan, or segments of the legacy way, of one sequence: how many there are, and that a rank has [first, end) of them. */
struct rondo__delta_tiles {
    int64_t sequence, tiles, first, end;
};
struct rondo__delta_tiles rondo__delta_tiles(const struct rondo__delta_design *design, int32_t rank, int64_t sequence);
static inline bool rondo__delta_tiled(const struct rondo__delta_design *d) { return d->desc.way == RONDO_DELTA_AFFINE || d->desc.way == RONDO_DELTA_LEGACY; }
/* Ranks have whole ones of so many tokens, from each sequence's first on: tiles, or chunks. */
static inline int64_t rondo__delta_grain(const struct rondo__delta_design *d)
{
    return rondo__delta_tiled(d) ? d->desc.tile : d->desc.chunk ? d->desc.chunk : 1;
}
/* All that a rank has, of all sequences; 0 of other ways. */
int64_t rondo__delta_tile_count(const struct rondo__delta_design *design, int32_t rank);

/* ---- what is built ---- */

/* The caller's buffers, by number: they are the first of a schedule. */
enum rondo__delta_caller {
    RONDO_DELTA_Q, RONDO_DELTA_K, RONDO_DELTA_V, RONDO_DELTA_G, RONDO_DELTA_BETA, RONDO_DELTA_A_LOG, RONDO_DELTA_DT_BIAS, RONDO_DELTA_INITIAL,
    RONDO_DELTA_OUT, RONDO_DELTA_FINAL, RONDO_DELTA_CHECKPOINTS, RONDO_DELTA_BOUNDS /* the plan's own, staged as theirs are */,
    RONDO_DELTA_CALLERS
};

/* What COMPUTE number `first` does: blocks, or folds, that are independent of each other. Their states are in the schedule's buffers, by number. */
struct rondo__delta_call {
    int64_t first, count;
    int32_t folds, part;           /* 1: of the folds; where the blocks' tokens lie */
    int32_t back, chunk;           /* enum rondo__delta_back; the blocks' form: 0, token by token, or tokens of a chunk */
};

/* Where tokens lie that blocks are of, and what is put out of them goes. in >= 0: two packets of dense arrays of some heads, of v and out some
 * columns, which are counted through all heads. in -1: the caller's arrays; it is the first part of all. */
struct rondo__delta_part {
    int32_t in, out;               /* buffers */
    int32_t head, heads, key_head, key_heads;
    int64_t column, columns;
    int64_t row, rows;             /* of all ranks' rows: the first one there */
    size_t at[RONDO_DELTA_OUT + 1];   /* bytes into `in`, or `out`, by enum rondo__delta_caller */
};

struct rondo__delta_built {
    struct rondo__schedule schedule;
    struct rondo__list blocks;     /* struct rondo_delta_block */
    struct rondo__list folds;      /* struct rondo_delta_fold */
    struct rondo__list calls;      /* struct rondo__delta_call */
    struct rondo__list parts;      /* struct rondo__delta_part */
};

/* Makes rank's. RONDO_ENOMEM, or RONDO_EINVAL where it is larger than memory can be. Freed by rondo__delta_unbuild(), also after a failure. */
int rondo__delta_build(struct rondo__delta_built *out, const struct rondo__delta_design *design, int32_t rank, const struct rondo__machine *machine);
void rondo__delta_unbuild(struct rondo__delta_built *built);

/* ---- for builders (build.c) ---- */

struct rondo__delta_build {
    struct rondo__delta_built *out;
    struct rondo__schedule *s;
    const struct rondo__delta_design *d;
    const struct rondo__machine *m;
    int32_t rank;
    int32_t part;                  /* that the COMPUTEs to come are of */
    bool large;                    /* some size is more than memory can be */
};

/* Some columns of a head; its states in a packet begin `at` floats from the packet's first. */
struct rondo__delta_unit {
    int32_t head, column, columns, reserved;
    int64_t at;
};

/* Where the states of one sequence are: buffer -1: zeros, or nowhere. A packet has those of some units, one after another, each dense; any other
 * buffer those of all heads, from float `at` on. */
struct rondo__delta_place {
    int32_t buffer, packet;
    int64_t at;
};

/* Tokens of a sequence, in rows of all ranks, that this rank computes. */
struct rondo__delta_piece {
    int64_t sequence, first, end;
    struct rondo__delta_place from, to;
    struct rondo__delta_place points;   /* where its checkpoints go, in a packet one after another; packet 0: to the caller's array */
};

static inline int64_t rondo__delta_state(const struct rondo__delta_design *d) { return d->desc.key_dim * d->desc.value_dim; }
struct rondo__delta_place rondo__delta_initial(const struct rondo__delta_build *b, int64_t sequence);
struct rondo__delta_place rondo__delta_final(const struct rondo__delta_build *b, int64_t sequence);
struct rondo__delta_place rondo__delta_point(const struct rondo__delta_build *b, int64_t point, int64_t sequence);
/* The checkpoints that a piece makes: numbers [*low, *high). That where a sequence begins is the state before it, in a packed row that of the
 * first only: of the others it is the end of the one before. */
void rondo__delta_points(const struct rondo__delta_design *d, const struct rondo__delta_piece *piece, int64_t *low, int64_t *high);
/* Bytes of x by y by z; what is more than memory can be sets `large`. */
size_t rondo__delta_bytes(struct rondo__delta_build *b, int64_t x, int64_t y, int64_t z);
/* Cuts all heads' columns into units of at most `columns`, in the order of their columns. NULL: no memory, and *count is 0. */
struct rondo__delta_unit *rondo__delta_units(const struct rondo__delta_design *d, int64_t columns, int64_t *count);
/* COMPUTEs of pieces that do not depend on each other, of some units; with checkpoints on the way. */
void rondo__delta_compute(struct rondo__delta_build *b, const struct rondo__delta_piece *pieces, int64_t count, const struct rondo__delta_unit *units,
                          int64_t unit_count, struct rondo__step step);
/* A COMPUTE without outputs of some pieces, each with its kind (RONDO_DELTA_STATE, RONDO_DELTA_MAP, RONDO_DELTA_BOUND) and its units; units of the
 * same number stand side by side. chunk: as of the call. */
struct rondo__delta_scan {
    int32_t kind;
    struct rondo__delta_piece piece;
    const struct rondo__delta_unit *units;
    int64_t count;
};
void rondo__delta_scan(struct rondo__delta_build *b, const struct rondo__delta_scan *scans, int64_t count, int32_t chunk, struct rondo__step step);
/* A COMPUTE: states of all heads at `to` = map * (those at `from`) + source, where a packet has the sources of all heads, then the maps. */
void rondo__delta_fold(struct rondo__delta_build *b, int32_t packet, struct rondo__delta_place from, int32_t to, struct rondo__step step);
int32_t rondo__delta_own(struct rondo__delta_build *b, const char *name, int32_t index, size_t bytes);

/* ---- ways ---- */
void rondo__delta_pipeline(struct rondo__delta_build *b);
/* Columns of a unit, and how many stages, where `ranks` hand states on. */
int64_t rondo__delta_unit_columns(const struct rondo__delta_design *d, int32_t ranks);
int64_t rondo__delta_stages(const struct rondo__delta_design *d, int32_t ranks);
void rondo__delta_affine(struct rondo__delta_build *b);
void rondo__delta_columns(struct rondo__delta_build *b);
void rondo__delta_legacy(struct rondo__delta_build *b);
/* Of that way: the most columns, of all heads together, that a rank has. */
int64_t rondo__delta_columns_most(const struct rondo__delta_design *d);
/* The way of those with the bits of one rank that is likely to be over first (choose.c). */
int32_t rondo__delta_choose(const struct rondo__delta_design *d);

/* ---- the caller's arrays (execute.c) ---- */
struct rondo__delta_array {
    const char *name;
    const rondo_tensor *tensor;
    int64_t shape[4];
    int32_t dims, type, uses;      /* uses: RONDO_STAGE_*; 0: there is none, and none may be given */
    int32_t optional, dense;       /* optional: data may be NULL */
};
/* Those that are read, by enum rondo__delta_caller, up to the initial state. */
void rondo__delta_inputs(const rondo_delta *plan, const rondo_delta_io *io, struct rondo__delta_array *arrays);
/* where: the function, for the sentence. */
int rondo__delta_check(const rondo_context *ctx, const char *where, const struct rondo__delta_array *array);
/* Where the device has it: as it is, or, of host memory to a device with memory of its own, a dense copy. rows: NULL: not wanted. */
int rondo__delta_stage(struct rondo__staging *s, const struct rondo__delta_array *array, void **at, struct rondo_rows *rows);

/* ---- a plan ---- */
struct rondo_delta {
    rondo_context *ctx;
    struct rondo__delta_design design;
    struct rondo__delta_built built;
    struct rondo__runner *runner;
    rondo_delta_info info;
    void *room[3];                 /* the workspace, by kind of memory */
    float **states;                /* [buffers]: room for a run's */
    float *bounds;                 /* [this rank's tiles, heads]: certificates; NULL: none */
    void *dense[RONDO_DELTA_CALLERS];   /* where the way needs dense arrays: copies of those that are not, made once */
    size_t dense_bytes[RONDO_DELTA_CALLERS];
    int32_t agreed;
    struct rondo__delta_backward *backward;   /* NULL: the plan has no gradients */
};
/* The kind of memory that the device computes on. */
static inline int rondo__delta_memory(const rondo_delta *plan)
{
    return rondo__ops(plan->ctx)->unified ? RONDO_MEMORY_HOST : RONDO_MEMORY_DEVICE;
}

#endif
