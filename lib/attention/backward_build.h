/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the builders of the backward pass share: backward_build.c finds who has what and puts around each what all of them have; backward_gather.c
 * brings rows to where results are made, backward_heads.c deals heads out among all ranks and backward_teams.c among the ranks of each team,
 * backward_ring.c lets rows of one side go round, backward_mesh.c gives each rank the queries of some and the keys of some.
 */
#ifndef RONDO_ATTENTION_BACKWARD_BUILD_H
#define RONDO_ATTENTION_BACKWARD_BUILD_H

#include "attention/backward.h"

/* Positions that a rank has of a sequence; rows are the rank's, over all sequences. */
struct rondo__possession {
    int64_t sequence, first, count, row;
};

struct rondo__possessions {
    struct rondo__list stretches;      /* by sequence, then position */
    int64_t rows;
};

struct rondo__rows {
    int64_t begin, end;                /* of a rank */
};

/* Arrays of a row of one side: k, v; q, dout, lse, sums. */
enum { RONDO_KEY_ARRAYS = 2, RONDO_QUERY_ARRAYS = 4 };
static inline int rondo__side_arrays(bool queries) { return queries ? RONDO_QUERY_ARRAYS : RONDO_KEY_ARRAYS; }

struct rondo__gradients {
    const struct rondo__design *d;
    struct rondo__backward_part *part;
    struct rondo__schedule *s;
    struct rondo__possessions *queries, *keys;   /* [ranks] */
    int32_t rank, ranks;
    int32_t base;                      /* the first of the sources to which rows come now: 0, or ranks */
    int32_t seats;                     /* ranks whose rows come together: of a team, or 1 */
    int32_t sent[2][RONDO_QUERY_ARRAYS];   /* from where all of this rank's rows are sent, of keys and of queries; -1: not yet known */
    struct rondo__backward_way way;
};

int rondo__no_gradients_memory(void);

/* Who has what; no way, part and schedule yet. The end takes what a failed beginning left. */
int rondo__gradients_begin(struct rondo__gradients *b, const struct rondo__design *design, int32_t rank);
void rondo__gradients_end(struct rondo__gradients *b);

static inline const struct rondo__possessions *rondo__side_of(const struct rondo__gradients *b, bool queries, int32_t rank)
{
    return (queries ? b->queries : b->keys) + rank;
}

/* Where leaves of a sequence count from. */
static inline int64_t rondo__leaf_base(const struct rondo__gradients *b, int64_t sequence, bool queries)
{
    return queries ? b->d->shift[sequence] : 0;
}

/* Leaf of a position, from a base at or below it. */
static inline int64_t rondo__leaf_index(const struct rondo__gradients *b, int64_t position, int64_t base)
{
    return (position - base) / b->d->desc.leaf;
}

/* Behind the last position of a stretch's leaf that has `position`. */
static inline int64_t rondo__leaf_end(const struct rondo__gradients *b, const struct rondo__possession *s, int64_t position, int64_t base)
{
    const int64_t end = base + (rondo__leaf_index(b, position, base) + 1) * b->d->desc.leaf;
    return end < s->first + s->count ? end : s->first + s->count;
}

/* Whether queries [first, first + count) of a sequence see any key of [key, key + keys). */
static inline bool rondo__any_sees(const struct rondo__gradients *b, int64_t sequence, int64_t first, int64_t count, int64_t key, int64_t keys)
{
    const rondo_span span = { first, count, 1, 0 };
    int64_t lo, hi;
    return b->d->mask.kind->view(&b->d->mask, sequence, &span, key, key + keys, &lo, &hi) != RONDO_MASK_NONE;
}

/* Bytes of a row of an array, and of one head of it. */
size_t rondo__gradient_row(const struct rondo__design *d, bool queries, int array);
size_t rondo__gradient_head(const struct rondo__design *d, bool queries, int array);
/* The same of the heads that this rank computes. */
size_t rondo__source_row(const struct rondo__gradients *b, bool queries, int array);
/* This rank's buffer of an array. */
int32_t rondo__gradient_own(const struct rondo__gradients *b, bool queries, int array);

/* From where all of its rows are sent: one copy, where there is one, for whoever sends any. */
int32_t rondo__gradient_sent(struct rondo__gradients *b, bool queries, int array);

/* Of a list of struct rondo_backward_leaf, those from number `first` on: by rising index. */
void rondo__sort_backward_leaves(struct rondo__list *leaves, int64_t first);
/* The leaves of a sequence that a rank has among these of its rows, whose numbers then count from the first of these. false: no memory. */
bool rondo__add_backward_leaves(struct rondo__gradients *b, int64_t sequence, int32_t source, struct rondo__rows rows, bool queries);
/* A job of a sequence, without leaves and places. */
struct rondo_backward_job *rondo__add_backward_job(struct rondo__gradients *b, int64_t sequence, int32_t what);

/* One side of what a job is made of: leaves and, for each, a place. */
static inline void rondo__job_side(struct rondo_backward_job *job, bool queries, int64_t first, int64_t count, int64_t places)
{
    *(queries ? &job->queries_first : &job->keys_first) = first;
    *(queries ? &job->queries : &job->keys) = (int32_t)count;
    *(queries ? &job->query_places : &job->key_places) = places;
}
/* A job of a sequence with both sides of `made`. false: no memory. */
bool rondo__add_made_job(struct rondo__gradients *b, int64_t sequence, int32_t what, const struct rondo_backward_job *made);

static inline struct rondo__backward_source *rondo__source_at(struct rondo__gradients *b, int32_t rank)
{
    return (struct rondo__backward_source *)b->part->sources.items + rank;
}
static inline int32_t *rondo__source_array(struct rondo__gradients *b, int32_t rank, bool queries, int array)
{
    return queries ? rondo__source_at(b, rank)->query + array : rondo__source_at(b, rank)->key + array;
}

/* Memory of the workspace for computing. */
int32_t rondo__add_gradient_buffer(struct rondo__gradients *b, const char *name, int32_t index, size_t bytes);
void rondo__use_all(struct rondo__gradients *b, int32_t buffer, bool writes);
/* One exchange of rows: all arrays of a side. mine[r]: what rank r needs of this rank's rows; theirs[r]: what of rank r's comes here. */
void rondo__exchange_rows(struct rondo__gradients *b, const char *what, bool queries, const struct rondo__rows *mine, const struct rondo__rows *theirs);
/* The operation that makes each row's number. */
void rondo__add_sums(struct rondo__gradients *b);
/* Of jobs [first, first + count), or joins, of sources' rows (source: as a round's), and nodes in places of them. */
void rondo__add_backward_jobs(struct rondo__gradients *b, struct rondo__step step, int64_t first, int64_t count, int32_t source);
void rondo__add_backward_joins(struct rondo__gradients *b, struct rondo__step step, int64_t first, int64_t count);
/* Number of a buffer of nodes, by which places name it: its first bytes, which a later step may change. -1: no memory. */
int32_t rondo__add_nodes(struct rondo__gradients *b, int32_t buffer, size_t bytes);

/* The bias's gradient, of this rank's queries: columns of the keys of rank `of`, or all (-1), of which the rows `here` [ranks] are here; of this rank all
 * are. false: no memory. */
bool rondo__add_bias_jobs(struct rondo__gradients *b, int32_t of, const struct rondo__rows *here);
/* The same of all keys, where a builder does not bring them: they come to whose queries see them. On a grid those of the row are here, `here`. */
bool rondo__bias_gradients(struct rondo__gradients *b, const struct rondo__rows *here);
void rondo__bias_moves(struct rondo__gradients *b, uint64_t *messages, uint64_t *bytes);

/* ---- heads that are dealt out to seats: backward_heads.c ---- */
size_t rondo__heads_row(const struct rondo__gradients *b, const struct rondo__backward_heads *of, bool queries, int array);
/* This rank's rows by whose heads they are, [seats][arrays]: buffers, -1: none. One seat: the rows as they are. */
void rondo__pack_heads(struct rondo__gradients *b, bool queries, int32_t seats, int32_t (*to)[RONDO_QUERY_ARRAYS]);
/* From where these are sent, but for those of the seat `skip`. */
void rondo__heads_sent(struct rondo__gradients *b, int32_t seats, bool queries, int32_t skip, const int32_t (*packed)[RONDO_QUERY_ARRAYS],
                       int32_t (*sent)[RONDO_QUERY_ARRAYS]);
/* Ranks first, first + 1, ... give each other theirs, which become sources. */
void rondo__exchange_heads(struct rondo__gradients *b, bool queries, int32_t first, int32_t seats, const int32_t (*packed)[RONDO_QUERY_ARRAYS],
                           const int32_t (*sent)[RONDO_QUERY_ARRAYS]);

/* ---- builders: all but sinks. 0 or a code ---- */
int rondo__gather_gradients(struct rondo__gradients *b);
int rondo__heads_gradients(struct rondo__gradients *b);
int rondo__teams_gradients(struct rondo__gradients *b);
int rondo__ring_kv_gradients(struct rondo__gradients *b);
int rondo__ring_q_gradients(struct rondo__gradients *b);
int rondo__mesh_gradients(struct rondo__gradients *b);
/* Bytes that go between all ranks, and messages, which all pairs of ranks are looked at for. false: no memory. */
void rondo__gather_moves(struct rondo__gradients *b, uint64_t *messages, uint64_t *bytes);
void rondo__heads_move(struct rondo__gradients *b, uint64_t *messages, uint64_t *bytes);
bool rondo__teams_move(struct rondo__gradients *b, int32_t teams, uint64_t *messages, uint64_t *bytes);
/* reach: [ranks], filled. */
bool rondo__ring_moves(struct rondo__gradients *b, bool queries, uint64_t *messages, uint64_t *bytes, struct rondo__backward_reach *reach);
/* ... on a grid of so many columns; and the grid that moves least. */
bool rondo__mesh_moves(struct rondo__gradients *b, int32_t columns, uint64_t *messages, uint64_t *bytes);
bool rondo__mesh_choose(struct rondo__gradients *b, int32_t *columns);

#endif
