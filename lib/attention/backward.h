/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A plan's backward pass: backward_build.c and the builders that it calls (backward_build.h) make a rank's jobs and schedule of it,
 * backward_count.c says what these compute, backward.c keeps and runs them, backward_io.c looks at the caller's tensors and puts them where the
 * schedule's operations read and write.
 */
#ifndef RONDO_ATTENTION_BACKWARD_H
#define RONDO_ATTENTION_BACKWARD_H

#include "attention/attention.h"

/* Dense arrays of this rank's rows, the caller's own or copies. Those up to SUMS are the first buffers of the schedule, by number; others are
 * not moved, and known to the device alone. */
enum rondo__gradient {
    RONDO_GRADIENT_K, RONDO_GRADIENT_V, RONDO_GRADIENT_Q, RONDO_GRADIENT_OUT, RONDO_GRADIENT_LSE, RONDO_GRADIENT_DOUT, RONDO_GRADIENT_DLSE,
    RONDO_GRADIENT_DQ, RONDO_GRADIENT_DK, RONDO_GRADIENT_DV, RONDO_GRADIENT_DSINKS, RONDO_GRADIENT_CALLERS,
    RONDO_GRADIENT_ALIBI = RONDO_GRADIENT_CALLERS, RONDO_GRADIENT_SINKS, RONDO_GRADIENT_BIAS, RONDO_GRADIENT_DBIAS, RONDO_GRADIENT_ARRAYS
};

/* What a COMPUTE of the schedule does, its `first`. RUN and NODES are a round, which its `head` numbers: some jobs, or some joins. */
enum { RONDO_BACKWARD_SUM, RONDO_BACKWARD_RUN, RONDO_BACKWARD_NODES, RONDO_BACKWARD_SINK, RONDO_BACKWARD_JOIN };
enum { RONDO_ROUND_ALL = -1, RONDO_ROUND_NONE = -2, RONDO_ROUND_KEYS = -3 };   /* all ranks' rows, nobody's, all ranks' keys */
struct rondo__backward_round {
    int64_t first, count;
    int32_t source, sources;           /* whose rows jobs need besides this rank's, and of how many ranks from there on, as of its own; or one of these: */
};

/* Where nodes are, as places name them: the first bytes of a buffer of the schedule. */
struct rondo__backward_store {
    int32_t buffer, reserved;
    size_t bytes;
};

/* Heads that a rank computes, of the plan's. */
struct rondo__backward_heads {
    int32_t head, heads, kv_head, kv_heads;
};

/* Where a rank's rows are, by buffers of the schedule, and the bytes into each where the first of them lies; -1: none of them are here. */
struct rondo__backward_source {
    int32_t key[2], query[4];          /* k, v; q, dout, lse, sums */
    int64_t key_rows, query_rows;
};

/* Nodes of the gradients of sinks of one leaf, of the rank `source`. */
struct rondo__backward_node {
    int64_t sequence, leaf, row;       /* row: of that rank's */
    int32_t source, merges;
};

struct rondo__backward_part {
    struct rondo__list leaves, jobs;   /* struct rondo_backward_leaf, rondo_backward_job: the device's */
    struct rondo__list own, bases;     /* this rank's leaves of queries, and base of each: for sinks */
    struct rondo__list nodes;          /* struct rondo__backward_node of all ranks, by sequence, then leaf */
    struct rondo__list sources;        /* struct rondo__backward_source [ranks]; behind them, if heads are dealt out, the same of rows of all heads */
    struct rondo__list sink_buffers;   /* int32_t [ranks]: nodes of sinks */
    struct rondo__list places, joins, steps;   /* struct rondo_backward_place, rondo_backward_join, rondo_tree_step: the device's */
    struct rondo__list rounds;         /* struct rondo__backward_round */
    struct rondo__list node_buffers;   /* struct rondo__backward_store */
    struct rondo__backward_heads heads;
    int64_t dealt;                     /* jobs of these; the others, of a bias's gradient, are of all heads */
    struct rondo__schedule schedule;
    int32_t sums, joined;              /* buffers: this rank's sums; the sinks' sums of each sequence */
    uint64_t messages, bytes;          /* of all ranks */
};

/* Of the rows that go round a ring: which of a rank's others need, and how many ranks on the last one is who does. */
struct rondo__backward_reach {
    int64_t begin, end;
    int32_t hops, reserved;
};

/* How gradients come: the algorithm, and of a mesh the columns of its grid, of all-to-all the teams that form a ring; else 0. by, seconds: who chose, and
 * what candidates were simulated to take (as rondo__tell_choice()). messages, bytes: that go between all ranks, nodes of sinks apart. What all ranks'
 * pairs have to be looked at for is here, so that each rank's part is made without. */
struct rondo__backward_way {
    int32_t algorithm, columns, teams, by;
    double seconds[RONDO_ALGORITHMS];
    uint64_t messages, bytes;
    struct rondo__backward_reach *reach;   /* [ranks]; NULL: no ring */
};

/* Whether a rank is among those with which another one is asked for. */
static inline bool rondo__round_has(int32_t rank, int32_t first, int32_t count) { return rank >= first && rank < first + count; }

/* way: of rondo__backward_algorithm(); part: { 0 } or one that was built before. After a failure it is empty. */
int rondo__backward_build(const struct rondo__design *design, const struct rondo__backward_way *way, int32_t rank, struct rondo__backward_part *part);
void rondo__backward_part_free(struct rondo__backward_part *part);
/* What only building needs goes. */
void rondo__backward_part_trim(struct rondo__backward_part *part);
/* all: of jobs of all heads where heads are dealt out (part->dealt and on), by number from the first of these; else of the others. */
void rondo__backward_desc(const struct rondo__design *design, const struct rondo__backward_part *part, bool all, struct rondo_backward_desc *out);
/* What a design's gradients come by, where its descriptor asked for `asked`, perhaps auto; RONDO_ENOTSUP: not by that. */
int rondo__backward_algorithm(const struct rondo__design *design, int32_t asked, struct rondo__backward_way *out);
/* The same of a plan's design, by one of the ranks that are in one process. hash: rondo__design_hash(). */
int rondo__backward_algorithm_of(const rondo_context *ctx, const struct rondo__design *design, uint64_t hash, int32_t asked,
                                 struct rondo__backward_way *out);
void rondo__backward_way_free(struct rondo__backward_way *way);
/* The most that copies of all arrays take. */
size_t rondo__backward_pack_bytes(const struct rondo__backward_part *part);

/* ---- backward_count.c ---- */
/* Of an operation, from its jobs: pairs, added up over the heads that it computes, of which is made exactly this: RONDO_BACKWARD_QUERIES, _KEYS, or
 * both. */
uint64_t rondo__backward_pairs(const struct rondo__design *design, const struct rondo__backward_part *part, const struct rondo__operation *o,
                               int32_t what);
double rondo__backward_flops(const struct rondo__design *design, const struct rondo__backward_part *part, const struct rondo__operation *o);
/* FLOPs of a rank, of the placements alone. */
int rondo__backward_work(const struct rondo__design *design, const struct rondo__backward_way *way, int32_t rank, double *out);
/* The heads of one of the seats among which KV heads are dealt out, each with all queries that read it. */
struct rondo__backward_heads rondo__backward_heads_of(const struct rondo__design *design, int32_t seat, int32_t seats);

/* An array that had to be copied. */
struct rondo__backward_stage {
    void *memory;
    size_t bytes;
};

struct rondo__backward {
    struct rondo__backward_part part;
    struct rondo_backward *device, *all;   /* all: of jobs of all heads, where heads are dealt out; else NULL */
    struct rondo__runner *runner;
    struct rondo_backward_queries *queries;   /* [sources] */
    struct rondo_backward_keys *keys;
    struct rondo_backward_nodes *node_memory;   /* [node_buffers] */
    struct rondo__backward_shown {
        int32_t first, count;
    } shown[2];                        /* of the three arrays those that are set: ranks, and nodes of this round: */
    const struct rondo__operation *shown_for;   /* NULL: of none */
    int64_t *lists;                    /* [4][sequences]: rows and columns of bias and dbias of position 0 */
    struct rondo_linear_node *join;    /* room for nodes of sinks */
    struct rondo__backward_stage stage[RONDO_GRADIENT_ARRAYS];
    size_t pack_bytes;                 /* of all stages, should all be needed */
    struct rondo__backward_stage again;   /* out and lse, where they are made once more */
};

/* What one call was given, checked: the plan's arrays as they are computed on. */
struct rondo__backward_call {
    rondo_attention *plan;
    rondo_attention_io io;
    rondo_attention_gradients gradients;
    void *at[RONDO_GRADIENT_ARRAYS];   /* NULL: none */
    struct rondo_rows bias, dbias;
};

/* ---- backward_io.c ---- */
int rondo__backward_check(struct rondo__backward_call *call);
/* Copies what is not dense, or not where the device computes: before, and results back after. */
int rondo__backward_take(struct rondo__backward_call *call);
int rondo__backward_give(struct rondo__backward_call *call);

/* ---- backward_again.c: `recompute` ---- */
size_t rondo__backward_again_bytes(const rondo_attention *plan);
/* Checks what was asked; out and lse of the call are the plan's own from then on, where they are made once more. */
int rondo__backward_again_room(struct rondo__backward_call *call);
/* The forward pass: collective, and failed alike on all ranks, who need not be told any more. */
int rondo__backward_again(struct rondo__backward_call *call);
/* What of both passes is done, from what is of the second one. user: the call. */
int rondo__backward_again_progress(void *user, double done);

/* ---- backward.c: called by plan.c ---- */
/* algorithm: what the descriptor names, perhaps auto. What the plan had before goes. */
int rondo__backward_make(rondo_attention *plan, int32_t algorithm);
void rondo__backward_free(rondo_attention *plan);
size_t rondo__backward_bytes(const struct rondo__backward *b);

#endif
