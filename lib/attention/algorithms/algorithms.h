/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The algorithms: each is one file here and one line in table.c. An algorithm says what all ranks together will move (flow), and then
 * makes one rank's program and schedule (build): pure functions of the survey and the machine. plan.c calls them; the checker, the printer
 * and a simulator call them for every rank.
 */
#ifndef RONDO_ATTENTION_ALGORITHMS_H
#define RONDO_ATTENTION_ALGORITHMS_H

#include "attention/survey.h"
#include "schedule/schedule.h"

struct rondo__shape {
    int64_t heads, kv_heads, head_dim, value_dim;
    int32_t q_type, kv_type, out_type;
    int32_t node_width;                /* floats of a node for one row and head */
    bool shared_kv;                    /* v lies in k: there is no v */
    bool alibi, sinks;
    bool probs;                        /* each row's M and l go to its owner too */
    int64_t bias_heads;                /* 0: none */
    const int64_t *tokens, *keys;      /* [sequences] */
    int32_t grid[2];                   /* that was asked for; 0, 0: the algorithm's choice */
};

/* The lists of a program (struct rondo_program_desc). */
struct rondo__tables {
    struct rondo__list spans, leaves, steps, places, jobs;
};

/* What is the same on all ranks, for all heads as one group. Every algorithm's own `flow` begins with it, and is in the survey's arena; so is
 * whatever a builder needs while it builds, which rondo__design_build() gives up behind it. */
struct rondo__flow {
    uint64_t messages;                 /* of one head group, over all ranks */
    uint64_t bytes;                    /* of all of them */
    double need, own;                  /* the largest of a rank: workspace, and its own q, k, v and out, in bytes */
    int32_t grid[2];                   /* that was taken; 0, 0: it has none */
    bool deals_heads;                  /* to ranks: there are no head groups */
};

struct rondo__build {
    const struct rondo__survey *survey;
    const struct rondo__shape *shape;
    struct rondo__machine machine;
    int32_t rank, groups;
    /* What computing takes at a time: a head group, of which `head` and `kv_head` are the first of group 0. A builder that deals heads to
     * ranks sets them to its rank's before anything else. */
    int32_t head, kv_head, heads, kv_heads;
    struct rondo__tables *tables;      /* filled */
    /* Probabilities, where they are wanted (else NULL): of the queries of this survey, whose tables are filled too. */
    const struct rondo__survey *probs;
    struct rondo__tables *probs_tables;
    uint64_t probs_messages;           /* of all ranks */
    struct rondo__schedule *schedule;  /* filled */
    /* lower.c's: */
    int32_t tensor[RONDO_TENSORS];     /* the buffers that computing sees; -1: no rows here */
    int32_t outside[RONDO_TENSORS];    /* the caller's, where those are others */
    int32_t stats;                     /* M and l of this rank's rows, for probabilities; -1: nobody asks */
};

struct rondo__algorithm {
    int32_t id;                        /* rondo_algorithm */
    const char *name;
    int (*flow)(struct rondo__survey *survey, const struct rondo__shape *shape, const struct rondo__machine *machine);
    int (*build)(struct rondo__build *b);
    /* [ranks]: what each rank computes: visible pairs of a query and a key, for each query head. UINT64_MAX: that many or more. false: no
     * memory. */
    bool (*pairs)(const struct rondo__survey *survey, const struct rondo__shape *shape, uint64_t *of_rank);
};
const struct rondo__algorithm *rondo__algorithm_at(int32_t id);
extern const struct rondo__algorithm rondo__ring_kv, rondo__ring_q, rondo__all_gather, rondo__halo, rondo__reduce, rondo__mesh,
                                     rondo__all_to_all;

/* ---- what builders share (common.c) ---- */
int rondo__build_failed(void);         /* RONDO_ENOMEM with its sentence */
size_t rondo__q_row_bytes(const struct rondo__build *b);     /* of one row of one head group */
size_t rondo__kv_row_bytes(const struct rondo__build *b, int part);   /* 0: K, 1: V; 0 where V lies in K */
/* The same of so many heads. */
size_t rondo__q_heads_bytes(const struct rondo__shape *shape, int64_t heads);
size_t rondo__kv_heads_bytes(const struct rondo__shape *shape, int part, int64_t kv_heads);
size_t rondo__node_bytes(const struct rondo__build *b);
/* rows * bytes, or SIZE_MAX, which no workspace holds */
size_t rondo__product(int64_t rows, size_t bytes);
/* Of a row of K and of V together, all heads. */
uint64_t rondo__shape_kv_bytes(const struct rondo__shape *shape);
/* Bytes of a rank's q, k, v and out. */
double rondo__own_bytes(const struct rondo__survey *s, const struct rondo__shape *shape, int32_t rank);
/* Whether transfers between pairs move so much less than a ring that the ring is not worth it. */
bool rondo__goes_direct(uint64_t ring_bytes, uint64_t direct_bytes, double largest_bytes);

/* ---- who computes what (pairs.c) ---- */
/* Visible pairs of each class of queries, by their owner, with each class of keys: cells[key class * query_classes + query class], added up
 * over the mask's heads; UINT64_MAX where they are more. false: no memory. */
bool rondo__class_pairs(const struct rondo__survey *s, const int32_t *query_class, int32_t query_classes, const int32_t *key_class,
                        int32_t key_classes, uint64_t *cells);
/* The same of one head of a mask that distinguishes heads. */
bool rondo__class_head_pairs(const struct rondo__survey *s, int64_t head, const int32_t *query_class, int32_t query_classes,
                             const int32_t *key_class, int32_t key_classes, uint64_t *cells);
/* Of each rank and for all heads, where rank r computes the queries of the ranks that have its r % columns against the keys of those that
 * have its r / columns. */
bool rondo__tile_pairs(const struct rondo__survey *s, const struct rondo__shape *shape, int32_t columns, uint64_t *of_rank);

/* Steps of a ring from one rank to another. */
static inline int32_t rondo__hops(const struct rondo__survey *s, int32_t from, int32_t to)
{
    return (to - from + s->roles.ranks) % s->roles.ranks;
}

/* ---- probabilities (probs.c) ---- */
/* What they move besides, for all heads as one group. */
int rondo__probs_flow(const struct rondo__survey *probs, const struct rondo__shape *shape, struct rondo__flow *out);
/* Their operations, behind those of an algorithm. */
void rondo__add_probs(struct rondo__build *b);

/* ---- which rows of keys somebody needs (needs.c) ---- */
/* Rows of a rank that some queries see, as they lie in a parcel. leaf, leaf_end: the leaves, or the fragment, that they are of. */
struct rondo__need {
    int64_t leaf, leaf_end, row, rows, at;   /* at: the builder's, where in the parcel */
    int32_t rank, reserved;
};
/* What of a sequence's rows that ranks [first, first + ranks) have, other than `holder` (-1: nobody), lies in the intervals `sees`, by rising
 * position. Empties the list first. false: no memory. */
bool rondo__list_needs(const struct rondo__survey *s, int64_t sequence, const struct rondo__list *sees, int32_t holder, int32_t first,
                       int32_t ranks, struct rondo__list *out);
/* The same of what the queries of a rank see, which has its own, from rank `from` (-1: all); sees: room to work in. */
bool rondo__rank_needs(const struct rondo__survey *s, int64_t sequence, int32_t rank, int32_t from, struct rondo__list *sees,
                       struct rondo__list *out);
/* Where the first row of a piece lies in the parcel that it came in. Pieces are asked for by rising index; *next begins with 0. */
int64_t rondo__need_row(const struct rondo__list *needs, const struct rondo__piece *p, int64_t *next);

/* A job over a strip begins with its spans, which are copied; its leaves and places are added after it. */
bool rondo__add_spans(struct rondo__build *b, const struct rondo__strip *strip, int64_t *first);
struct rondo_job *rondo__add_job(struct rondo__build *b, int64_t sequence, const struct rondo__strip *strip, int64_t q_row,
                                 int64_t spans_first, const struct rondo__program *program);
struct rondo_leaf *rondo__add_leaves(struct rondo__build *b, int64_t count);
struct rondo_place *rondo__add_places(struct rondo__build *b, int64_t count);
/* Jobs in the order of their steps (int32_t each, as they were made); within a step as they were made. first[0..steps] gets where each step's
 * begin. false: no memory. */
bool rondo__sort_jobs(struct rondo__build *b, const struct rondo__list *step_of, int32_t steps, int64_t *first);

/* ---- jobs of strips (jobs.c) ---- */
struct rondo__maker {
    /* The builder's: */
    struct rondo__build *b;            /* NULL: to count only */
    const struct rondo__survey *survey;
    int32_t first, ranks;              /* keys of these ranks are computed with here */
    int32_t stages;
    const int32_t *stage, *source;     /* [ranks]: when a rank's keys come, and which of that computation's parts they are */
    /* The row where a piece that is not this rank's begins in its part. Pieces are asked for by rising index; *next begins with 0. */
    int64_t (*row)(void *arg, int64_t sequence, const struct rondo__piece *p, int64_t *next);
    void *arg;
    int32_t waiting, reserved;         /* which of a computation's buffers of nodes theirs is that wait for a later stage */
    /* What there is so far: */
    int64_t waiting_rows;
    struct rondo__list step_of;        /* int32_t for each job: its step */
    int64_t here;                      /* by the last look: pieces of these ranks that the strip sees */
    bool alone;                        /* ... and nothing else */
    /* Its own: */
    bool last_keeps;
    int64_t last_job, last_jobs, last_sequence;
    struct rondo__list pieces, tags, order, begin, rows, stage_of, last;
    struct rondo__tree tree;
};
/* Stages and sources where the keys of the rank j before this one in its group of `columns` come at step j, or all at once. */
void rondo__set_stages(int32_t rank, int32_t columns, bool at_once, int32_t *stage, int32_t *source);
/* Its own: empty. Called first. */
void rondo__maker_begin(struct rondo__maker *m);
/* What a strip sees of these ranks' keys. All of these: false: no memory. */
bool rondo__maker_look(struct rondo__maker *m, int64_t sequence, const struct rondo__strip *strip);
/* Jobs of the strip last looked at, whose step is `step` + stride * stage. kept_rows NULL: their result goes to OUT; else what they complete is
 * kept in buffer `kept` of nodes from row *kept_rows on. */
bool rondo__maker_jobs(struct rondo__maker *m, int64_t sequence, const struct rondo__strip *strip, int64_t q_row, int32_t step, int32_t stride,
                       int32_t kept, int64_t *kept_rows);
/* Adds the rows of nodes that would wait to waiting_rows. */
bool rondo__maker_count(struct rondo__maker *m, const struct rondo__strip *strip, bool keep);

/* ---- nodes that travel (nodes.c) ---- */
/* How many nodes of a strip each group of `columns` neighbouring ranks has. */
struct rondo__tally {
    int32_t columns, reserved;
    int64_t *count;                    /* [groups], 0 but for those in `touched` */
    struct rondo__list touched;        /* int32_t */
    bool alone;                        /* all that the strip sees is its own group's */
    struct rondo__list pieces, owners;
    struct rondo__tree tree;
};
bool rondo__tally_make(struct rondo__tally *t, const struct rondo__survey *s, int32_t columns);
bool rondo__tally_strip(struct rondo__tally *t, const struct rondo__survey *s, int64_t sequence, const struct rondo__strip *strip);

/* Which groups see something of each of a rank's strips, which are counted over all sequences. */
struct rondo__wanted {
    uint64_t *bits;                    /* [strips][words] */
    int64_t words;
};
bool rondo__wanted_make(struct rondo__wanted *w, const struct rondo__survey *s, int32_t rank, int32_t columns);
static inline bool rondo__is_wanted(const struct rondo__wanted *w, int64_t strip, int32_t group)
{
    return w->bits[strip * w->words + group / 64] >> group % 64 & 1;
}

/* A buffer of so many rows of nodes; -1 for none. */
int32_t rondo__node_buffer(struct rondo__build *b, const char *name, int32_t index, int64_t rows);

/* The owner's job that joins all groups' nodes of a strip: each group's from rows[group] of the buffer of that number on. */
struct rondo__joiner {
    int32_t columns, reserved;
    struct rondo__list pieces, owners, group_of;
    struct rondo__tree tree;
};
void rondo__joiner_begin(struct rondo__joiner *j, struct rondo__build *b, int32_t columns);
bool rondo__join_strip(struct rondo__joiner *j, struct rondo__build *b, int64_t sequence, const struct rondo__strip *strip, int64_t *rows);

/* ---- rows packed for somebody (pack.c) ---- */
struct rondo__packed {
    int64_t first, count, rows;
    int32_t buffer[2], group;          /* group: the head group whose rows are there */
    int32_t spares;                    /* 1: where the caller's tensor has no gaps, no place is needed */
};
struct rondo__packer {
    struct rondo__build *b;
    int32_t tensor;                    /* RONDO_TENSOR_Q; or RONDO_TENSOR_K, and V with it */
    int32_t head, heads;               /* of it; heads 0: those of the head group */
    int32_t reserved;
    struct rondo__list runs, packed;
    struct rondo__list known;          /* int32_t by index: 0: not yet; -1: nothing; else which one of `packed`, + 1 */
    int64_t first, rows;               /* of what is being put together */
};
/* For a tensor; heads 0: those of the head group. */
void rondo__packer_begin(struct rondo__packer *p, struct rondo__build *b, int32_t tensor, int64_t head, int64_t heads);
void rondo__pack_begin(struct rondo__packer *p);
void rondo__pack_add(struct rondo__packer *p, int64_t sequence, int64_t row, int64_t rows);
/* How many rows they are, and the buffers where they lie; -1: nothing, or V lies in K. index: whose they are, a number of the builder's, which names
 * the buffer too; -1: nobody's. over: buffers whose places will do (each -1: none), or NULL. */
int64_t rondo__pack_end(struct rondo__packer *p, int32_t group, int32_t index, const int32_t *over, int32_t out[2]);
/* The same into these buffers, from their beginning, and nowhere else. */
void rondo__pack_into(struct rondo__packer *p, int32_t group, const int32_t to[2]);
/* The same for another head group of what was put together for `index` before; -1: nothing was yet. */
int64_t rondo__pack_known(struct rondo__packer *p, int32_t group, int32_t index, int32_t out[2]);

/* ---- putting it on a machine (lower.c) ---- */
/* Kinds of memory: what computing uses, and what transfers between ranks use. */
int32_t rondo__compute_memory(const struct rondo__build *b);
int32_t rondo__transfer_memory(const struct rondo__build *b);
/* Buffers for the caller's tensors; with copies of them on a device that has memory of its own. Called first. */
void rondo__lower_begin(struct rondo__build *b);
/* Output rows that see nothing, and results to where the caller wants them. Called last. */
void rondo__lower_end(struct rondo__build *b);
/* Where a message of so many bytes arrives: a place of its own in the workspace, or the peer's memory. */
int32_t rondo__lower_arrival(struct rondo__build *b, const char *name, int32_t index, size_t bytes);
/* A part of the transfer under way that sends or receives a buffer which computing writes or reads: through memory that transfers reach,
 * where it must. Before the transfer begins, resp. after it ended. */
int32_t rondo__lower_send(struct rondo__build *b, int32_t buffer, size_t at, size_t bytes, int32_t group);
int32_t rondo__lower_received(struct rondo__build *b, int32_t buffer, size_t bytes, int32_t group);
/* A COMPUTE of jobs [first, first + count) begins; results that are not the tensors, sources and nodes are added after it, then
 * rondo__schedule_end(). */
struct rondo__operation *rondo__lower_compute(struct rondo__build *b, struct rondo__step step, int32_t group, int64_t first, int64_t count,
                                              int32_t q, size_t q_bytes, bool writes_out);
/* Dense buffers for the results of the COMPUTE under way, rows that count as those of its q. stats -1: nobody asks. */
void rondo__lower_results(struct rondo__build *b, int32_t out, int32_t lse, int32_t stats);
/* rows: that are there, of one head group; -1: all of a tensor. */
void rondo__lower_source(struct rondo__build *b, int32_t k, int32_t v, int64_t rows);
void rondo__lower_fence(struct rondo__build *b, struct rondo__step step);

#endif
