/* SPDX-License-Identifier: BSD-2-Clause
 *
 * An attention plan and its execution, shared by the files of lib/attention: desc.c checks what was asked, survey.c finds out who
 * computes and sends what, plan.c puts a plan together, query.c answers about it, execute.c runs it by pass_kv.c or pass_q.c.
 */
#ifndef RONDO_ATTENTION_ATTENTION_H
#define RONDO_ATTENTION_ATTENTION_H

#include "attention/tree.h"

/* One job of a step; `first` fields are places in the plan's lists. Its places: pass-KV: buffer 0; pass-Q: nodes for or from rank
 * `buffer`. */
struct rondo__job {
    int64_t sequence;
    int64_t q_row, q_rows;             /* among all rows of the rank whose queries these are, packed */
    int64_t spans_first, leaves_first, steps_first, places_first;
    int32_t spans, leaves, steps, depth, places;
    int32_t step;                      /* of the ring; pass-Q: ranks = the final join */
};

/* Rows of the output that see no key. */
struct rondo__blank {
    int64_t sequence, q_row, q_rows;
};

/* What a rank sends round the ring: rows of K and V that others need, or its Q. */
struct rondo__parcel {
    int64_t rows;
    int32_t reach, reserved;           /* the last hop that anybody needs; 0: it stays */
};

struct rondo_attention {
    rondo_context *ctx;
    rondo_attention_desc desc;         /* defaults filled in, pointers gone */
    struct rondo_mask mask;
    struct rondo_shared_device *device;   /* the program's */
    struct rondo_program *program;
    struct rondo_job *device_jobs;
    float scale_log2;
    int32_t rank, ranks, groups, agreed;
    bool in_place;                     /* the transport shows other ranks' memory: nothing is gained by taking parcels one by one */
    int64_t sequences;
    int64_t *tokens, *cached;          /* [sequences] */
    int64_t *kv_first;                 /* [sequences + 1]: packed rows of K and V here */
    int64_t *q_first;                  /* [sequences + 1]: packed rows of Q here */
    int64_t *order;                    /* [sequences]: for rondo__check_io() */
    rondo_placement *keys;
    rondo_placement *queries;          /* where there are fewer keys than queries: the queries by themselves; else NULL */
    struct rondo__list spans, leaves, steps, jobs, places, blanks;
    int64_t *job_first;                /* [ranks + 2]: jobs are sorted by step */
    struct rondo__parcel *parcels;     /* [ranks] */
    int64_t *parcel_first;             /* [2 * sequences]: pass-KV: first row and number of rows of each sequence in this rank's parcel */
    int64_t *rows_to, *rows_from;      /* [ranks]: pass-Q: rows of nodes that this rank computes for, gets from each; own: rows_to */
    int64_t pending_rows;              /* pass-KV: of nodes that wait */
    int64_t jobs_most, places_most;    /* of a step */
    rondo_attention_info info;
};

/* ---- desc.c ---- */
/* Checks everything that does not depend on placements, fills defaults into ours. */
int rondo__attention_desc(rondo_attention_desc *ours, const rondo_attention_desc *theirs);

/* ---- survey.c ---- */
/* Key positions of the queries of a sequence that a rank holds; rows count from 0. Empties the list first. */
int rondo__query_spans(const rondo_attention *plan, struct rondo__list *out, int64_t sequence, int32_t rank);
/* Jobs, parcels, nodes, expected messages; chooses the head groups. */
int rondo__survey(rondo_attention *plan);

/* ---- workspace.c: how it is divided; all offsets in bytes, multiples of 64 ---- */
struct rondo__workspace {
    size_t labels, shifts, zeros;
    size_t pack[2];                    /* this rank's parcel where it must be packed: K, V; or Q and nothing */
    size_t pack_bytes;                 /* 0, or: no place for it here, execute takes so much where it must */
    size_t arrive[2];                  /* K, V: as many parcels as may be held at once */
    size_t arrive_each[2];             /* how far apart they are */
    int32_t arrive_places, reserved;
    size_t blocks;                     /* in_place pass-KV: struct rondo_kv_part [ranks]: the own rows, then by step */
    size_t buffers;                    /* void * [ranks] */
    size_t pending;                    /* pass-KV */
    size_t nodes;                      /* pass-Q: to ranks 0.., then from ranks 0.., each at a multiple of 64 bytes */
    size_t total;
    size_t parcel_bytes[2];            /* of a row: K, V; or Q, 0 */
    size_t node_bytes;                 /* of a row */
};
/* false: larger than memory. */
bool rondo__workspace(const rondo_attention *plan, int32_t groups, struct rondo__workspace *out);
/* How much room messages of up to so many bytes need where they arrive. */
size_t rondo__room(const rondo_attention *plan, size_t bytes);
#define RONDO_LABEL_BYTES 64

/* ---- io.c ---- */
/* Whether the caller's tensors are what the plan needs, and results lie where nothing else does. */
int rondo__check_io(const rondo_attention *plan, const rondo_attention_io *io);

/* ---- execute.c: one execution under way ---- */
struct rondo__extra {                  /* memory taken during it, released after the next fence */
    struct rondo__extra *next;
    char pad[56];                      /* what follows is aligned to 64 bytes */
};

struct rondo__execution {
    rondo_attention *plan;
    const rondo_attention_io *io;
    rondo_context *ctx;
    char *base;                        /* the workspace */
    struct rondo__workspace at;
    int32_t group, heads, kv_heads;    /* which head group, and the heads of one */
    void **buffers;                    /* [ranks]: nodes by struct rondo_place */
    bool exposed[2];                   /* arrival places that were shown on: not to be written before the fence */
    struct rondo__extra *extra;
    /* where io->progress is given: */
    struct rondo_work work;            /* of the step under way */
    double before, share, told;        /* of all work: that of the steps before it, that of it; what was told last */
};

/* Keys and values that came, dense. */
struct rondo__parcel_parts {
    const void *part[2];
};
struct rondo_kv_part rondo__parcel_kv(const struct rondo__execution *e, const struct rondo__parcel_parts *parcel);
struct rondo_kv_part rondo__own_kv(const struct rondo__execution *e);
/* Computes all jobs of a step. q: rows that arrived, dense; NULL: the caller's. kv: the sources of leaves. */
int rondo__compute(struct rondo__execution *e, int32_t step, const void *q, const struct rondo_kv_part *kv, int32_t kv_count);
/* The row of k and v where a sequence's first key here lies. */
int64_t rondo__kv_row(const struct rondo__execution *e, int64_t sequence);

/* The same for q, out or lse of a packed row of a sequence, where `list` says where sequences begin, or is NULL. */
int64_t rondo__query_row(const rondo_attention *plan, const int64_t *list, int64_t sequence, int64_t packed);

/* Where something of the caller's lies: row and head of a tensor [rows, heads, dim]. */
const void *rondo__row(const rondo_tensor *t, int64_t row, int64_t head);
/* Whether `heads` heads of consecutive rows are one dense block. */
bool rondo__dense_rows(const rondo_tensor *t, int64_t heads);
/* Copies `heads` heads from `head` on of rows [first, first + rows) to a dense block. */
int rondo__pack_rows(struct rondo__execution *e, const rondo_tensor *t, int64_t head, int64_t heads, int64_t first, int64_t rows, char *to);

/* Room for part (0: K or Q, 1: V) of this rank's own parcel, packed. NULL: no memory. */
void *rondo__pack_room(struct rondo__execution *e, int part);
/* Room for part (0: K or Q, 1: V) of a parcel that arrives at hop. NULL: no memory. */
void *rondo__arrival(struct rondo__execution *e, int32_t hop, int part, size_t bytes);
/* This memory is shown to the next rank: if it is an arrival place, it must wait for the fence. */
void rondo__expose(struct rondo__execution *e, const void *memory, size_t bytes);
struct rondo_shift *rondo__shift_slot(struct rondo__execution *e, int32_t index);
const char *rondo__label(struct rondo__execution *e, int32_t index, const char *what, int32_t step);
/* The end of a head group: nobody reads any more what was shown. */
int rondo__settle(struct rondo__execution *e, const char *step);

/* ---- pass_kv.c, pass_q.c ---- */
int rondo__pass_kv(struct rondo__execution *e);
int rondo__pass_q(struct rondo__execution *e);

#endif
