/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The device table: what computes. lib/ writes every algorithm against it, each folder of backends/ that computes fills one. All
 * arithmetic of the numerics contract happens behind this table; everything that decides *what* is summed in *which order* (leaves,
 * tree, merges) is data handed in from lib/: a device executes, it never chooses an order.
 *
 * A device is asynchronous. What has a stream among its arguments is put into that stream and happens there, in order, at some time; the
 * call returns before or after. Between streams there is no order but by events. Arrays of control data (struct rondo_attention_run and
 * what it points to, parts, spans) are read before the call returns and live on the host; data is read and written when the stream
 * comes to it, and lives where the device can reach it. On the CPU a stream runs at once and an event is nothing.
 *
 * Memory. RONDO_MEMORY_HOST is the program's own. RONDO_MEMORY_PINNED is host memory that copies reach faster. RONDO_MEMORY_DEVICE is what
 * computing reads and writes; nothing in lib/ or lm/ looks into it. A device whose `unified` is 1 computes on host memory as it is, and
 * then the three are the same; else only copy() and copy_rows() may be given host memory, and every other pointer to data is the device's.
 *
 * Called from the rank's own thread, but linear_free() by any. Functions return 0 or a code with its sentence; a failure inside a stream is
 * returned, once, by whoever waits for it, and what was in streams behind it is given up. Slots that may be NULL are marked; the others
 * must be there. What frees something waits for what is under way with it, or keeps it until then.
 */
#ifndef RONDO_CORE_DEVICE_H
#define RONDO_CORE_DEVICE_H

#include "core/leaf.h"
#include "core/mask.h"
#include "rondo.h"

#define RONDO_DEVICE_ABI 4u

struct rondo_device;    /* the device's own, as these: */
struct rondo_stream;
struct rondo_event;
struct rondo_program;

/* ---- what attention computes: a program ------------------------------------------------------------------------ */

/* Nodes in memory, for q_rows x heads rows, as they also travel between ranks: float acc[q_rows][heads][value_dim], then float
 * M[q_rows][heads], then float l[q_rows][heads]. The empty node has M = -FLT_MAX, l = 0, acc = 0. */
static inline size_t rondo__slot_floats(int64_t q_rows, int64_t heads, int64_t value_dim)
{
    return (size_t)q_rows * (size_t)heads * ((size_t)value_dim + 2);
}

/* Where a node of a job lies: `rows` rows (of heads * (value_dim + 2) floats) into one of the run's buffers of nodes. */
struct rondo_place {
    int64_t rows;
    int32_t buffer, reserved;
};

/* What a job computes. JOIN is FORWARD without leaves. PROBABILITIES writes, for each of its rows and each visible key of its leaves, the
 * weight over the row's sum, from what OUT has left in the run's `stats`; it has no steps, and reads no values. Gradients have jobs of
 * their own (struct rondo_backward_job). */
enum rondo_job_operation { RONDO_JOB_FORWARD = 0, RONDO_JOB_JOIN = 1, RONDO_JOB_PROBABILITIES = 2 };

/* One sequence's queries against some of its keys. The `first` fields count in the program's lists. */
struct rondo_job {
    int64_t sequence;                  /* index into kv_row of the run's KV parts */
    int64_t q_row, q_rows;             /* rows of the run's q (and of out and lse), where these are packed */
    int64_t row;                       /* the first of them among the rows of its sequence, where the run says where sequences begin */
    int32_t operation;                 /* enum rondo_job_operation */
    int64_t spans_first, leaves_first, steps_first, places_first;
    int32_t spans, leaves, steps, places;
    int32_t depth;                     /* bounds the stack, with what LEAF needs for itself */
    /* Which of the program's heads: query heads [head, head + heads), of KV heads [kv_head, kv_head + kv_heads), each with as many of them;
     * heads 0: all of both; kv_heads 0: one, or where heads are more than the program has for each KV head, as many as that makes. Its nodes
     * have so many heads, and begin as far into a place as the rows of the heads before it take. */
    int32_t head, heads, kv_head, kv_heads;
};

/* ... as they are counted: a job's heads and KV heads. */
static inline int32_t rondo__job_heads(const struct rondo_job *job, int32_t heads)
{
    return job->heads ? job->heads : heads;
}
static inline int32_t rondo__job_kv_heads(const struct rondo_job *job, int32_t heads, int32_t kv_heads)
{
    const int32_t group = heads / kv_heads;
    if (!job->heads || job->kv_heads)
        return job->heads ? job->kv_heads : kv_heads;
    return job->heads > group ? job->heads / group : 1;
}

/* All that is the same in every execution and every head group; copied or kept by the device: the arrays stay as they are until the
 * program is freed, or updated with others. */
struct rondo_program_desc {
    int32_t heads, kv_heads, head_dim, value_dim;   /* of one head group; query head h reads KV head h / (heads / kv_heads) */
    int32_t q_type, kv_type, out_type, leaf_size;
    int32_t arithmetic, level;
    float scale_log2;                  /* (float)(scale * log2(e)), computed in double */
    struct rondo_terms terms;
    int32_t node_width;                /* floats of a node for one row and head: value_dim + 2 */
    struct rondo_mask mask;
    const rondo_span *spans;           /* where rows stand: span.row counts from 0 in its job; first is the *key* position */
    const struct rondo_leaf *leaves;
    const struct rondo_tree_step *steps;
    const struct rondo_place *places;
    const struct rondo_job *jobs;
    int64_t span_count, leaf_count, step_count, place_count, job_count;
};

/* [rows, heads, dim] with dense dim; strides count elements */
struct rondo_rows {
    void *data;
    int64_t row_stride, head_stride;
};

/* Where the keys of one source lie. */
struct rondo_kv_part {
    struct rondo_rows k, v;
    const int64_t *kv_row;             /* [sequences]: the row where each sequence's rows begin; NULL: 0 for all. On the host */
    const int64_t *pages;              /* row r of a sequence lies at row pages[r / page_rows] * page_rows + r % page_rows, where r counts from
                                          kv_row too; NULL: at row r. On the host; page_rows is a multiple of the leaf size */
    int64_t page_rows;
};

/* One execution of some of a program's jobs, for one head group. */
struct rondo_attention_run {
    int64_t first, count;              /* jobs */
    struct rondo_rows q, out;          /* out where the jobs' programs have OUT */
    struct rondo_rows lse;             /* float [rows, heads] (head_stride between heads); data NULL: not wanted */
    const int64_t *q_row, *out_row, *lse_row;   /* [sequences]: the row of q, out, lse where each begins; NULL: packed. On the host */
    const struct rondo_kv_part *kv;
    float *const *nodes;               /* by struct rondo_place; NULL where there is neither LOAD nor STORE */
    int32_t kv_count, node_count;

    /* Terms, where the program has them. Heads of these are the plan's; the run's first head is number `head` of them. */
    int32_t head, reserved;
    const float *alibi, *sinks;        /* [heads of the plan] */
    struct rondo_rows bias;            /* float [rows, heads, keys], dense in keys; a head stride of 0: one for all heads. The query at p
                                          has row bias_row[sequence] + p, the key at k column bias_key[sequence] + k; lists on the host */
    const int64_t *bias_row, *bias_key;
    uint64_t seed;
    /* For PROBABILITIES. stats: float [rows, heads, 2], the M and l of a row, sink and all, written by OUT where `data` is not NULL. probs:
     * float [rows, heads, keys], dense in keys; a row of a job has the row that probs_row[sequence] + job->row leads to, a key the
     * column of its position + probs_key[sequence]. What is not seen is not written. */
    struct rondo_rows stats, probs;
    const int64_t *stats_row, *probs_row, *probs_key;
};

/* ---- gradients of attention: what they are of, and one execution -------------------------------------------------- */

struct rondo_backward;         /* the device's own, made of: */

/* Positions of one leaf of a sequence, of queries or of keys, that one source holds: `count` of them from position `first` on. Queries are cut
 * at the same multiples of the leaf size as keys, counted from the sequence's first query where that stands before key 0 (`base` of the job). */
struct rondo_backward_leaf {
    int64_t leaf, first;       /* its index, and the first position that is here: a query's is the key position where it stands */
    int64_t row;               /* of that one, in its source */
    int32_t count, source;
};

/* Where the node of a leaf's rows lies that some leaves of the other side make: its sums as they are, without a factor, for each head of it. Of queries
 * float dq[heads][count][head_dim], then full[heads]; of keys dk[heads][count][head_dim], dv[heads][count][value_dim], then full[heads]. full 0:
 * nothing of that head is in it, its rows are anything, and it is joined with nothing; else 1. */
struct rondo_backward_place {
    int64_t at;                /* in floats, in the buffer of nodes */
    int32_t buffer, reserved;
};

/* Some queries of a sequence and some of its keys, both by rising leaf. With QUERIES each query's gradient is made over these keys, with KEYS each
 * key's over these queries, with BIAS the columns of these keys of each query's rows of the bias's; of a leaf of the source -1 there, of which nothing
 * is here, nobody sees anything. Where a side has no places its sums are over all that there is, and become
 * results, of the plan's own rows, each in the row that it has in its source. Else they are nodes: the leaves of the other side are all that there
 * is under one node of the tree. Nodes of keys are of query heads, or, with HEADS, of KV heads, added up over their query heads. */
enum { RONDO_BACKWARD_QUERIES = 1, RONDO_BACKWARD_KEYS = 2, RONDO_BACKWARD_BIAS = 4, RONDO_BACKWARD_HEADS = 8 };
struct rondo_backward_job {
    int64_t sequence, base;    /* base: 0, or the position of query 0 where that is below 0 */
    int64_t queries_first, keys_first;   /* in the list of leaves */
    int32_t queries, keys, what, reserved;
    int64_t query_places, key_places;    /* in the list of places, one for each leaf; -1: none */
    int64_t cached;            /* the position of the sequence's query 0 */
    int64_t tokens, length;    /* of the whole sequence: queries, keys */
};

/* Nodes of one leaf's rows joined, by LOAD, MERGE, STORE and OUT (core/leaf.h) on places: those of the join, by number; none is loaded after it was
 * stored. OUT makes the result (0 where the stack is empty): `group` heads of the nodes, added up, each of the heads of the plan from `head` on. */
struct rondo_backward_join {
    int64_t steps_first, places_first;
    int64_t row;               /* of the first one in the result */
    int32_t steps, count;      /* count: rows */
    int32_t queries;           /* 1: of queries; 0: of keys */
    int32_t head, heads, group;
};
#define RONDO_BACKWARD_JOIN_DEPTH 64   /* nodes on its stack, at most */

struct rondo_backward_desc {
    int32_t heads, kv_heads, head_dim, value_dim;     /* heads: of its jobs, and of the rows that these are given */
    int32_t head, kv_head;     /* ... the first of them among those of the plan: */
    int32_t all_heads, all_kv_heads;                  /* which results have */
    int32_t q_type, kv_type, out_type, leaf_size;     /* out_type: of out and of its gradient */
    int32_t bias_heads, sequences;
    float scale_log2, scale;   /* (float)(scale * log2(e)), (float)scale */
    struct rondo_terms terms;
    struct rondo_mask mask;
    const struct rondo_backward_leaf *leaves;
    const struct rondo_backward_job *jobs;
    const struct rondo_backward_place *places;
    const struct rondo_backward_join *joins;
    const struct rondo_tree_step *steps;              /* of these */
    int64_t leaf_count, job_count, place_count, join_count, step_count;
    int64_t most_jobs;         /* of one run, at most */
};

/* Rows of queries, resp. of keys, dense: [rows, heads, dim]; lse and sums float [rows, heads], sums being what backward_sums() makes. */
struct rondo_backward_queries {
    const void *q, *dout;
    const float *lse, *sums;
    int64_t rows;
};
struct rondo_backward_keys {
    const void *k, *v;
    int64_t rows;
};

/* Memory for nodes. */
struct rondo_backward_nodes {
    float *data;
    int64_t floats;
};

struct rondo_backward_run {
    int64_t first, count;      /* jobs; of backward_join() joins, which need nodes and results only */
    const struct rondo_backward_queries *queries;     /* by a leaf's source; on the host */
    const struct rondo_backward_keys *keys;
    const struct rondo_backward_nodes *nodes;         /* by a place's buffer; on the host */
    int32_t query_count, key_count, node_count;
    int32_t accumulate;        /* 1: results are added to what is there */
    int32_t dq_type, dk_type, dv_type;
    void *dq, *dk, *dv;        /* dense, [rows, all_heads or all_kv_heads, dim] */
    int64_t dq_rows, dkv_rows;
    /* Terms, as struct rondo_attention_run has them. dbias lies as bias does, in rows and columns of its own: both lists name the row and the
     * column of the query and the key at position 0. Sequences whose rows of dbias are the same share them, and are summed. */
    const float *alibi;
    struct rondo_rows bias, dbias;
    const int64_t *bias_row, *bias_key, *dbias_row, *dbias_key;
    uint64_t seed;
};

/* The number that each row's gradient of its weights is less by: sums = chain(dout * out) - dlse, [rows, heads], all dense; dlse NULL: none. */
struct rondo_backward_sums {
    int64_t rows;
    int32_t heads, value_dim, out_type, reserved;
    const void *out, *dout;
    const float *dlse;
    float *sums;
};

/* What a row gives to the gradient of its head's sink, summed over each leaf of queries: node[i][head] of leaves[i]. */
struct rondo_backward_sinks {
    const struct rondo_backward_leaf *leaves;         /* on the host, as bases */
    const int64_t *bases;      /* of each */
    int64_t count, rows;
    int32_t heads, leaf_size;
    const float *sinks, *lse, *sums;
    float *nodes;
};

/* Called by a device now and then while the host waits for it or computes (from the rank's thread), so that transfers make progress. Of the
 * poll that attention() is given, `work` is of use until that call is over in its stream, all else until the function returns. */
struct rondo_work {
    uint64_t total;           /* added to by the device before it begins; any unit */
    _Atomic uint64_t done;    /* added to by any of its threads */
};
struct rondo_poll {
    int (*call)(void *arg);   /* non-zero: stop as soon as possible and return this code */
    void *arg;
    struct rondo_work *work;  /* for attention, how far it has come; NULL: nobody wants to know */
};

struct rondo_device_desc {
    int32_t index, threads;
    const char *isa;
    int32_t crowded;          /* threads of this and of other ranks here are more than the cores: who waits sleeps at once */
};

struct rondo_device_linear;   /* packed weights, the device's own format */

/* What rondo_linear_desc's leaves and group of 0 stand for. */
#define RONDO_LINEAR_GROUP 32
static inline int32_t rondo__linear_leaves(int64_t in)
{
    return (int32_t)((in + 511) / 512);
}

/* Leaf g of a sum over `in` inputs begins at this one; in and leaves are at most INT32_MAX. */
static inline int64_t rondo__linear_leaf_begin(int64_t in, int32_t leaves, int64_t g)
{
    return g * in / leaves;
}

/* Q8: groups of `group` inputs, counted from each leaf's first input on, in leaves [first, end). Leaves are `least` inputs long, or one more. */
static inline int64_t rondo__linear_groups(int64_t in, int32_t leaves, int32_t group, int32_t first, int32_t end)
{
    const int64_t least = in / leaves, inputs = rondo__linear_leaf_begin(in, leaves, end) - rondo__linear_leaf_begin(in, leaves, first);
    const int64_t longer = inputs - (end - first) * least;
    return (end - first) * ((least + group - 1) / group) + (least % group == 0 ? longer : 0);
}

/* Which leaves a layer has weights of: all, or, of a part, [leaf_begin[part], leaf_begin[part + 1]), which may be none. */
static inline int32_t rondo__linear_first(const rondo_linear_desc *desc)
{
    return desc->leaf_begin ? desc->leaf_begin[desc->part] : 0;
}
static inline int32_t rondo__linear_end(const rondo_linear_desc *desc)
{
    return desc->leaf_begin ? desc->leaf_begin[desc->part + 1] : desc->leaves;
}

/* One execution of a linear layer on `rows` rows. x holds the columns of leaves [first_leaf, first_leaf + leaves), its first column being
 * the first of that range; the layer must have them; leaves 0: all that it has. Leaves are those of the whole sum, also in a part. With
 * `nodes` NULL y gets sums, bias and add as in rondo_linear_execute() (only for all leaves: a part of them is no sum). Else the maximal
 * aligned nodes of the range go to nodes[i * node_stride + row * out + column], i by rising leaf, rondo__linear_nodes() many, for others to
 * join; y, bias and add are unused then. Nodes here are plain sums: width 1. */
struct rondo_linear_run {
    int64_t rows;
    const float *x;
    int64_t x_stride;
    float *y;
    int64_t y_stride;
    const float *bias;
    int32_t add, first_leaf, leaves, reserved;
    float *nodes;
    int64_t node_stride;
};

/* Of the tree over `total` leaves, the highest node that begins at `first` and has no leaf from `end` on: where it ends. Beyond the last leaf
 * there is nothing, so that a node that reaches it may be as high as it likes. */
static inline int32_t rondo__linear_node_end(int32_t total, int32_t first, int32_t end)
{
    int64_t size = 1;
    while (first % (2 * size) == 0 && first + size < end && (first + 2 * size <= end || end == total))
        size *= 2;
    return first + size < end ? (int32_t)(first + size) : end;
}

/* How many nodes leaves [first, first + leaves) make. */
static inline int32_t rondo__linear_nodes(int32_t total, int32_t first, int32_t leaves)
{
    int32_t nodes = 0;
    for (int32_t at = first; at < first + leaves; at = rondo__linear_node_end(total, at, first + leaves))
        nodes++;
    return nodes;
}

/* When nodes are pushed onto a stack by rising leaf, one after another without a gap: how often the two on top are to be added after
 * [first, end) has come, so that the stack holds the tree's nodes as high as they go. What reaches the last leaf merges at the end. */
static inline int32_t rondo__linear_merges(int32_t total, int32_t first, int32_t end)
{
    int32_t merges = 0;
    if (end < total)
        for (int32_t i = first / (end - first); i & 1; i >>= 1)
            merges++;
    return merges;
}

/* Sums of nodes: the right node of a merge is added to the left one. Nodes come by rising leaf; each is pushed, then the two on top are added
 * `merges` times; what is left at the end, at most RONDO_LINEAR_DEPTH, hangs together from the right. Then bias, then what y held. y may be
 * a node's data. */
#define RONDO_LINEAR_DEPTH 40
struct rondo_linear_node {
    const float *data;        /* [rows, out] */
    int64_t stride;
    int32_t merges, reserved;
};
struct rondo_linear_join {
    int64_t rows, out;
    const struct rondo_linear_node *nodes;   /* on the host */
    int32_t count, add;
    float *y;
    int64_t y_stride;
    const float *bias;
};

/* ---- gradients of layers: rule 12 of the contract ---- */

/* dx = dy W on `rows` rows, where the layer's `out` outputs are leaves [first_leaf, first_leaf + leaves) of a sum over `outputs` outputs in
 * `total` leaves, cut as a linear layer's sum is; dy holds these leaves' columns, dx the inputs that the layer has. dx and nodes as y and
 * nodes of a linear run. */
struct rondo_linear_dx_run {
    int64_t rows, outputs;
    int32_t total, first_leaf, leaves, add;
    const float *dy;
    int64_t dy_stride;
    float *dx;
    int64_t dx_stride;
    float *nodes;
    int64_t node_stride;
};

/* A leaf of a sum over tokens: rows order[first .. the next leaf's first) of the list of a run, in the order in which they are added; then
 * the two sums on top are added `merges` times. A list of leaves ends with one that has only its `first`. */
struct rondo_token_leaf {
    int64_t first;
    int32_t merges, reserved;
};

/* Sums over tokens. What is left on the stack at the end hangs together from the right; it is never deeper than `depth`. Lists are on the
 * host. Without segments: y[r][c] gets the chains fma(a[t][r], b[t][c], acc). With them: row segments[i].row of y gets those of b[t][c] + acc
 * over the leaves of segment i, which has a stack of its own; rows of no segment stay as they are. No leaves make 0. add: y + sum. */
struct rondo_token_segment {
    int64_t leaf, leaves, row;
};
struct rondo_token_run {
    const int64_t *order;
    const struct rondo_token_leaf *leaves;
    const struct rondo_token_segment *segments;
    int64_t leaf_count, segment_count;
    int64_t tokens;                               /* rows of a and b that the list may name */
    int64_t rows, columns;                        /* of y */
    const float *a, *b;
    int64_t a_stride, b_stride;
    float *y;
    int64_t y_stride;
    int32_t add, depth;
};

/* Cross-entropy of rows of `classes` logits, whose sum is cut into `leaves` as a linear layer's is (rule 12). A node of a row: the sum of weights
 * against the largest logit, that, and the label's logit, 0 where the label is elsewhere. */
struct rondo_entropy_node {
    double sum;
    float most, label;
};
/* x has the classes of leaves [first_leaf, first_leaf + own_leaves). nodes not NULL: the maximal aligned nodes of these go to nodes[i * node_stride +
 * row], as in a linear run, and nothing else is done. Else rows' loss and gradient, each where it is not NULL; parts: of these nodes, joined as
 * in a linear join (data: nodes [rows], on the device), else of x, which has all leaves then. dx, of the classes that x has, may be x unless
 * add. A row with the label `ignore` has a loss and a gradient of 0. dloss NULL: ones. */
struct rondo_entropy_run {
    int64_t rows, classes;
    int32_t leaves, first_leaf, own_leaves, ignore;
    const float *x;
    int64_t x_stride;
    const int32_t *labels;
    struct rondo_entropy_node *nodes;
    int64_t node_stride;
    const struct rondo_linear_node *parts;        /* on the host */
    int32_t part_count, add;
    double *loss;
    const float *dloss;
    int64_t dloss_stride;
    float *dx;
    int64_t dx_stride;
};

/* ---- the delta rule (rondo-numerics(7), rule 14) ---- */

/* What is the same in all that a plan runs. heads have values, gates, beta and states; head h reads q and k of head h / (heads / key_heads). */
struct rondo_delta_form {
    int32_t key_dim, value_dim;
    int32_t type, gate_type, beta_type, out_type;   /* of q, k and v; of g; of beta; of what is put out */
    int32_t gate, beta, norm;          /* rondo_gate; rondo_beta; 1: q and k are normalised */
    int32_t gate_dim;                  /* key_dim, or 1: all channels of a head have the same gate */
    float lower_bound, scale;
    int32_t chunk;                     /* 0: token by token; else tokens of a chunk, from each block's first one (rule 16) */
};

/* Where rows of tokens lie: of g with its gate_dim, of beta with 1. */
struct rondo_delta_rows {
    struct rondo_rows q, k, v, g, beta, out;
};

/* A state or some columns of it, in one of the run's buffers: row d of it at + d * stride floats from its beginning. buffer -1: at first, all
 * zeros; at the end, not wanted. */
struct rondo_delta_state {
    int32_t buffer, reserved;
    int64_t at, stride;
};

enum rondo_delta_kind {
    RONDO_DELTA_FORWARD,   /* the state goes on, and there is an output of each token */
    RONDO_DELTA_STATE,     /* the state goes on */
    RONDO_DELTA_MAP,       /* the same of values of 0: columns of the map that the tokens make of a state, from the identity; zeros where the number
                            * at `from`, if there is one, lies below the run's tolerance */
    RONDO_DELTA_BOUND      /* one number at `to`: a bound of the map's 2-norm; `from`, q, v and out are not touched */
};

/* Some columns of one head over some tokens of one sequence. */
struct rondo_delta_block {
    int32_t kind, part;                /* enum rondo_delta_kind; which of the run's rows of tokens */
    int64_t row, rows;                 /* of these; rows may be 0 */
    int32_t head, key_head;            /* of v, g, beta and out; of q and k: as the part counts them */
    int32_t of;                        /* the head's number in A_log and dt_bias */
    int32_t column, columns;           /* of v and out, or of the map */
    struct rondo_delta_state from, to; /* may be the same */
};

/* Blocks that are independent of each other. */
struct rondo_delta_run {
    const struct rondo_delta_form *form;
    const struct rondo_delta_rows *parts;
    const struct rondo_delta_block *blocks;   /* form, parts, blocks, states: on the host */
    float *const *states;
    const float *a_log, *dt_bias;      /* [heads], [heads, gate_dim], or NULL */
    int64_t count;
    int32_t part_count, state_count;
    double tolerance;                  /* 0: every map is made */
};

/* to = map * from + source, of some columns: map [key_dim, key_dim]. Independent of each other, too. */
struct rondo_delta_fold {
    struct rondo_delta_state map, from, source, to;   /* `to` is neither of the others */
    int32_t columns, reserved;
};

/* ---- gradients of the delta rule (rule 15) ---- */

/* All columns of one head over some tokens of a sequence, from the last one back. Blocks of the heads that read one key head stand one behind the
 * other, in their order. A sum of a head over tokens is gate_dim numbers of dt_bias and one of A_log, of leaves of positions; gates that are given
 * have none. */
struct rondo_delta_backward_block {
    int64_t row, rows;                 /* as of a rondo_delta_block; at most RONDO_DELTA_BACKWARD_ROWS */
    int64_t position, length;          /* of the first token in its sequence; of the sequence */
    int32_t head, key_head, of;
    int32_t result;                    /* 1: `begin` is the caller's: a run that accumulates adds to it */
    struct rondo_delta_state state;    /* before the first token */
    struct rondo_delta_state end, begin;   /* the gradient of the state behind the last token, and of that before the first one; may be the same */
    struct rondo_delta_state open, left;   /* the sum of the leaf that goes on behind the last token, and of the one that began before the first */
    struct rondo_delta_state leaves;   /* sums of the leaves that begin here: of the first, and `stride` floats further of each next one */
};
#define RONDO_DELTA_BACKWARD_ROWS 256

/* Blocks that are independent of each other, but those of a key head. A place that is NULL among the states: as buffer -1. */
struct rondo_delta_backward_run {
    const struct rondo_delta_form *form;
    const struct rondo_delta_rows *rows, *results;   /* out: rows': of its gradient; results': none */
    const struct rondo_delta_backward_block *blocks;   /* form, rows, results, blocks, states: on the host */
    float *const *states;
    const float *a_log, *dt_bias;
    int64_t count;
    int32_t group, state_count, accumulate;
    int32_t q_type, k_type, v_type, g_type, beta_type;   /* of the results */
};

/* A short convolution over the rows of one sequence: y[t][c] is the sum of weight[i][c] * x[t - taps + 1 + i][c], by rising i; silu: gated by itself
 * (rule 14). Rows before the first are `state`, the last of them last, or zeros where that is NULL; afterwards it holds the last taps - 1 rows that
 * have come. y may be x. */
#define RONDO_CONV_TAPS 8
struct rondo_conv_run {
    int64_t rows, channels, x_stride, y_stride;
    int32_t taps, silu;                /* taps: 1 to RONDO_CONV_TAPS */
    const float *x, *weight;           /* weight [taps][channels] */
    float *state, *y;                  /* state [taps - 1][channels] */
};

struct rondo_device_ops {
    size_t size;
    uint32_t abi;
    const char *name;
    uint32_t arithmetics;     /* of attention forward: bit (1 << RONDO_ARITHMETIC_*) for each that it has; all else is f32 */
    uint32_t levels;          /* bit (1 << RONDO_STRICT), ... */
    uint32_t operations;      /* bit (1 << RONDO_JOB_*) */
    int32_t unified;          /* 1: computes on host memory as it is */

    int (*probe)(void);                                             /* 1: usable on this machine */
    const char *(*isa)(int index, int *usable);                     /* names that attach accepts, best last; NULL past the end */
    int (*attach)(struct rondo_device **out, const struct rondo_device_desc *desc);
    void (*detach)(struct rondo_device *dev);
    const char *(*isa_used)(const struct rondo_device *dev);
    int (*threads_used)(const struct rondo_device *dev);
    int (*check)(struct rondo_device *dev);                         /* 0, or a code where the floating-point mode is not the default */

    /* Streams and events. A stream NULL is the device's own, which always exists. wait: what is put into the stream from now on happens
     * after what event was recorded last; an event never recorded is over. event_wait: the host waits, calling poll (or NULL) now and
     * then. event_query: 1 over, 0 not yet, or a code. sync: the host waits for all streams. */
    int (*stream_new)(struct rondo_device *dev, struct rondo_stream **out);
    void (*stream_free)(struct rondo_device *dev, struct rondo_stream *stream);
    int (*event_new)(struct rondo_device *dev, struct rondo_event **out);
    void (*event_free)(struct rondo_device *dev, struct rondo_event *event);
    int (*event_record)(struct rondo_device *dev, struct rondo_stream *stream, struct rondo_event *event);
    int (*stream_wait)(struct rondo_device *dev, struct rondo_stream *stream, struct rondo_event *event);
    int (*event_wait)(struct rondo_device *dev, struct rondo_event *event, const struct rondo_poll *poll);
    int (*event_query)(struct rondo_device *dev, struct rondo_event *event);
    int (*sync)(struct rondo_device *dev);

    /* Memory of a kind, 64-byte aligned. memory_kind: of any address (enum rondo_memory); what it does not know is the host's. */
    int (*memory_new)(struct rondo_device *dev, int kind, size_t bytes, void **out);
    void (*memory_free)(struct rondo_device *dev, int kind, void *memory, size_t bytes);
    int (*memory_kind)(const struct rondo_device *dev, const void *memory);
    /* Copies between any two kinds; rows of row_bytes each between two strides (bytes; from_stride 0: the same row again and again).
     * Host memory that is not pinned may be read and written at once, and then must not be still in use. */
    int (*copy)(struct rondo_device *dev, struct rondo_stream *stream, void *to, const void *from, size_t bytes);
    int (*copy_rows)(struct rondo_device *dev, struct rondo_stream *stream, void *to, size_t to_stride, const void *from, size_t from_stride,
                     size_t row_bytes, int64_t rows);

    /* Attention. program_scratch: the device memory that runs of the program need besides; it belongs to the device, which grows it here or
     * in program_new() to the largest asked for: a run allocates nothing. attention runs jobs that are independent of each other. */
    int (*program_new)(struct rondo_device *dev, struct rondo_program **out, const struct rondo_program_desc *desc);
    void (*program_free)(struct rondo_device *dev, struct rondo_program *program);
    size_t (*program_scratch)(const struct rondo_device *dev, const struct rondo_program *program);
    int (*attention)(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_program *program,
                     const struct rondo_attention_run *run, const struct rondo_poll *poll);

    int (*linear_new)(struct rondo_device *dev, struct rondo_device_linear **out, const rondo_linear_desc *desc);
    /* Weights of `type`, converted to the layer's; scales as rondo_linear_load_from() has them. Of a part (desc.parts) the columns that it has.
     * Several threads of host_run() may load different rows at once: no scratch of the device's own, no loop over its threads then. */
    int (*linear_load)(struct rondo_device *dev, struct rondo_device_linear *linear, int64_t first, int64_t rows, int type, const void *weights,
                       const float *scales);
    void (*linear_free)(struct rondo_device *dev, struct rondo_device_linear *linear);
    size_t (*linear_bytes)(const struct rondo_device_linear *linear);
    int (*linear)(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_device_linear *linear,
                  const struct rondo_linear_run *run, const struct rondo_poll *poll);
    int (*rmsnorm)(struct rondo_device *dev, struct rondo_stream *stream, int64_t rows, int64_t dim, const float *x, const float *weight,
                   float eps, float *y);
    int (*rope)(struct rondo_device *dev, struct rondo_stream *stream, int64_t rows, int64_t heads, int64_t dim, float *x,
                int64_t row_stride, int64_t head_stride, const float *table);
    int (*swiglu)(struct rondo_device *dev, struct rondo_stream *stream, int64_t count, const float *gate, const float *up, float *y);
    int (*convert)(struct rondo_device *dev, struct rondo_stream *stream, int64_t count, int from_type, const void *from, int to_type,
                   void *to);
    int (*logsumexp)(struct rondo_device *dev, struct rondo_stream *stream, int64_t rows, int64_t dim, const float *x, int64_t x_stride,
                     double *out);
    /* The rows as they are packed, of the layer's type, or of RONDO_Q8 as F32, to host memory. May be NULL: then nobody can ask for them. */
    int (*linear_read)(const struct rondo_device_linear *linear, int64_t first, int64_t rows, void *weights);
    /* What a device's packed weights are, a number other than 0: linear() of a device of this table takes what linear_new() of another one
     * made where both say the same. NULL or 0: it takes its own only. */
    uint64_t (*linear_format)(const struct rondo_device *dev);
    int (*linear_join)(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_linear_join *join);
    /* Rows of `dim` numbers between two strides in bytes; with RONDO_Q8 each with its scale behind it (rondo_convert_rows()). */
    int (*convert_rows)(struct rondo_device *dev, struct rondo_stream *stream, int64_t rows, int64_t dim, int from_type, const void *from,
                        size_t from_stride, int to_type, void *to, size_t to_stride);
    /* Work of the host's own on the device's threads, such as reading files: work(arg, item, worker) for items 0..items-1 on at most `threads` of
     * them (0: as many as there are), worker being below that; worker 0 is the calling thread, which alone calls poll (or NULL), after each
     * of its items. work may call linear_load() for rows that are nobody else's, and no other slot. The first failing code ends it and is
     * returned, with its sentence. May be NULL: the caller has its own thread only. */
    int (*host_run)(struct rondo_device *dev, int32_t threads, int64_t items, int (*work)(void *arg, int64_t item, int worker), void *arg,
                    const struct rondo_poll *poll);
    /* Makes a program another one, in the memory that it has where that suffices; a program that grows a little each time seldom takes more.
     * No run is under way with it, and the arrays of the old description may be gone. After a failure it can only be freed. NULL: it is
     * freed, and made anew. */
    int (*program_update)(struct rondo_device *dev, struct rondo_program *program, const struct rondo_program_desc *desc);
    /* Gradients of layers; those that are NULL are refused by name. */
    int (*linear_dx)(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_device_linear *linear,
                     const struct rondo_linear_dx_run *run, const struct rondo_poll *poll);
    int (*token_sum)(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_token_run *run, const struct rondo_poll *poll);
    /* terms [rows, dim]: what a row adds to the weight's gradient; NULL: not wanted. dx may be x or dy, NULL: not wanted; add: dx += . */
    int (*rmsnorm_dx)(struct rondo_device *dev, struct rondo_stream *stream, int64_t rows, int64_t dim, const float *x, const float *weight,
                      float eps, const float *dy, float *dx, float *terms, int add);
    int (*rope_back)(struct rondo_device *dev, struct rondo_stream *stream, int64_t rows, int64_t heads, int64_t dim, float *x,
                     int64_t row_stride, int64_t head_stride, const float *table);
    int (*swiglu_dx)(struct rondo_device *dev, struct rondo_stream *stream, int64_t count, const float *gate, const float *up, const float *dy,
                     float *dgate, float *dup);
    /* Gradients of attention (rondo-numerics(7), rule 13). All of these, or none: then lib/ refuses them. Lists stay as they are until it is
     * freed; scratch is as program_scratch() has it, so that a run allocates nothing. backward runs jobs that are independent of each
     * other, and so does backward_join with joins; with sequences that share rows of dbias all of them are in one run. */
    int (*backward_new)(struct rondo_device *dev, struct rondo_backward **out, const struct rondo_backward_desc *desc);
    void (*backward_free)(struct rondo_device *dev, struct rondo_backward *backward);
    size_t (*backward_scratch)(const struct rondo_device *dev, const struct rondo_backward *backward);
    int (*backward)(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_backward *backward,
                    const struct rondo_backward_run *run, const struct rondo_poll *poll);
    int (*backward_join)(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_backward *backward,
                         const struct rondo_backward_run *run, const struct rondo_poll *poll);
    int (*backward_sums)(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_backward_sums *of);
    int (*backward_sinks)(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_backward_sinks *of);
    /* The delta rule. NULL: the device does not compute it. */
    int (*delta)(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_delta_run *run, const struct rondo_poll *poll);
    int (*delta_fold)(struct rondo_device *dev, struct rondo_stream *stream, int32_t key_dim, const struct rondo_delta_fold *folds, int64_t count,
                      float *const *states, int32_t state_count);
    /* NULL: refused by name. */
    int (*cross_entropy)(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_entropy_run *run, const struct rondo_poll *poll);
    /* Gradients of the delta rule. NULL: the device does not compute them. */
    int (*delta_backward)(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_delta_backward_run *run,
                          const struct rondo_poll *poll);
    /* What stands around it in a layer; NULL: refused by name. sigmoid_mul: y = x * sigmoid(gate). */
    int (*short_conv)(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_conv_run *run);
    int (*sigmoid_mul)(struct rondo_device *dev, struct rondo_stream *stream, int64_t count, const float *gate, const float *x, float *y);
    /* The driver's own handle of a stream (of cuda a CUstream), for a transport whose transfers go into it; the calling thread is one that may use
     * it. NULL: the device has none to show. */
    int (*stream_handle)(struct rondo_device *dev, struct rondo_stream *stream, void **out);
};

/* A slot that an older table may lack. */
#define RONDO_HAS(ops, slot) ((ops)->size >= offsetof(struct rondo_device_ops, slot) + sizeof((ops)->slot) && (ops)->slot)

#endif
