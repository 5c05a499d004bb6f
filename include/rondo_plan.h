/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What work is like before it runs: the choice between pass-KV and pass-Q, what a layer or a model costs, hardware, and predictions of the
 * schedules that would be carried out. A part of rondo.h, which includes it; what stands at that one's head holds here too. rondo-plan(1) and
 * rondo-costs(7) have the guide and the formulas.
 */
#ifndef RONDO_PLAN_H
#define RONDO_PLAN_H

#include "rondo.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- choosing between pass-KV and pass-Q: pure functions (Algorithms 1 and 5 of arXiv:2411.01783) ------------------- */

typedef struct rondo_heuristic {
    int64_t tokens, cached, heads, kv_heads;
    int32_t ranks, element_bytes;
    double compute, bandwidth;        /* C in FLOP/s, BW in bytes/s: only their ratio counts */
    int64_t spare[6];                 /* zero; for numbers that further rules ask for */
} rondo_heuristic;
#define RONDO_HEURISTIC_INIT { 0, 0, 0, 0, 0, 0, 0.0, 0.0, { 0, 0, 0, 0, 0, 0 } }
/* Returns RONDO_PASS_KV or RONDO_PASS_Q. rule: 1 or 5. thresholds, if not NULL: [0] smallest T, [1] miss rate, both in favour
 * of pass-KV from there on. A bad argument gives a code. */
RONDO_API int rondo_choose(const rondo_heuristic *in, int rule, double thresholds[2]);

/* ---- what a layer costs: pure functions of a case ------------------------------------------------------------------- */

/* One attention layer, or a whole model, on tensor_parallel x context_parallel chips: chips of one tensor-parallel group share its heads, those
 * of one context-parallel group its tokens (prefill) and its cached positions. The names are those of `rondo plan cost`; rondo-costs(7) has the
 * formulas. Counts are of logical tensors: two FLOPs for a multiplication with its addition, the payload of messages and not what some ring
 * makes of it. 0 is the default of each field that has one. */
typedef enum rondo_cost_phase { RONDO_COST_PREFILL = 1, RONDO_COST_DECODE = 2 } rondo_cost_phase;
/* Projections that are not counted, added up. */
enum { RONDO_COST_Q = 1, RONDO_COST_K = 2, RONDO_COST_V = 4, RONDO_COST_O = 8 };
/* The same and these: linear layers that have a bias. */
enum { RONDO_COST_GATE = 16, RONDO_COST_UP = 32, RONDO_COST_DOWN = 64 };
typedef struct rondo_cost_case {
    size_t struct_size;
    int32_t phase;                      /* rondo_cost_phase */
    int32_t algorithm;                  /* how chips that share a context attend: RONDO_ALL_GATHER, RONDO_REDUCE (kv-sharded),
                                           RONDO_PASS_KV, RONDO_PASS_Q, RONDO_ALL_TO_ALL, RONDO_HALO, RONDO_MESH; 0: there is but one */
    int64_t hidden_size, num_heads;
    int64_t num_kv_heads;               /* divides num_heads; 0 = num_heads */
    int64_t head_dim, batch_size;
    int64_t seq_len;                    /* of a prefill from nothing; or these two: */
    int64_t past_seq_len, new_tokens;
    const int64_t *past_seq_len_of, *new_tokens_of;   /* [batch_size], where sequences are not alike; NULL: the fields above */
    int64_t kv_len_used;                /* cached positions that count; 0 = past_seq_len + new_tokens */
    int64_t bytes_per_elem, softmax_stat_bytes;       /* of the latter 0 = 4 */
    int64_t tensor_parallel, context_parallel;        /* 0 = 1 */
    int32_t skip_projections;           /* RONDO_COST_Q + ...: these are somebody else's */
    int32_t keep_hidden_sharded;        /* 1: after tensor parallelism each chip keeps what its heads gave; nobody sums */
    int32_t causal, windowed;           /* as in rondo_attention_desc, as the two below: they change FLOPs only */
    int64_t window_left, window_right;
    /* What makes a whole model of it; all 0: the attention layer alone. */
    int64_t num_layers;                 /* layers alike; 0 = 1 */
    int64_t intermediate_size;          /* of the MLP; 0: there is none */
    int64_t vocab_size;                 /* of embedding and head; 0: there are none */
    int64_t weight_bytes_per_elem, kv_bytes_per_elem;   /* of weights; of the cache. 0 = bytes_per_elem */
    int64_t mlp_weight_bytes_per_elem;  /* of the MLP's matrices; 0 = weight_bytes_per_elem */
    int32_t mlp_matrices;               /* 3: gate, up and down; 2: up and down; 0 = 3 */
    int32_t norms_per_layer;            /* vectors of hidden_size; with a head there is one more before it */
    int32_t qk_norm;                    /* 1: each layer has a vector of head_dim for q and one for k */
    int32_t biases;                     /* RONDO_COST_Q + ... + RONDO_COST_DOWN */
    int32_t tied_embeddings;            /* 1: the head is the embedding */
    int32_t all_logits;                 /* 1: of every new token; 0: of the last one of each sequence */
    int32_t grid[2];                    /* RONDO_MESH: rows of queries by columns of keys; 0, 0: the one of equal sides, or nearest to it */
    int32_t layout;                     /* rondo_layout, CONTIGUOUS to SNAKE, of what a run moves and takes; 0: as its plan chooses */
    int32_t kv_type;                    /* rondo_type of the cache, where kv_bytes_per_elem does not say it all: of RONDO_Q8 each row of a head
                                           has a scale. 0: by kv_bytes_per_elem */
} rondo_cost_case;
#define RONDO_COST_CASE_INIT                                                                                           \
    { sizeof(rondo_cost_case), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL, NULL, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, { 0, 0 }, 0, 0 }

/* per_chip: of the fullest chip; total: of all together, copies included, but for kv_cache_total, where each position counts once. */
typedef struct rondo_cost {
    size_t struct_size;
    int64_t num_chips;
    int64_t flops_per_chip, flops_total;                           /* INT64_MAX: that many or more; the last fields have them exactly */
    int64_t weight_memory_per_chip, weight_memory_total;           /* bytes, as the next ones */
    int64_t activation_memory_per_chip, activation_memory_total;
    int64_t kv_cache_per_chip, kv_cache_total;
    int64_t communication_bytes;                                   /* of a chip */
    int64_t steps;                                                 /* of the derivation */
    int64_t parameters;                                            /* numbers in the weights, each once */
    uint64_t flops_per_chip_words[2], flops_total_words[2];        /* the lower and the upper 64 bits */
} rondo_cost;
#define RONDO_COST_INIT { sizeof(rondo_cost), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, { 0, 0 }, { 0, 0 } }
/* RONDO_EINVAL: a field cannot be so, or a count is more than 2^63 - 1, of FLOPs more than 2^128 - 1; the sentence names it. */
RONDO_API int rondo_cost_count(const rondo_cost_case *of, rondo_cost *cost) RONDO_MUST_CHECK;
/* Step `index` of how these numbers come about, from 0, as snprintf() would write it: its length, or a code. */
RONDO_API int64_t rondo_cost_step_text(const rondo_cost_case *of, int64_t index, char *text, size_t bytes);

/* The other convention: what a run of this library moves for the same case, message by message, counted from the schedules that would be
 * carried out. It is of one attention layer, whatever the case has besides. Chips of a context make an attention plan of their heads (causal,
 * window and lengths as in the case; layout as the plan chooses; F32 or, of 2 bytes, BF16); chips that share heads gather the rows that they
 * keep before the projections and sum the output (rondo_tp_gather(), rondo_tp_linear(), F32). */
typedef struct rondo_cost_traffic {
    size_t struct_size;
    int32_t algorithm, layout;          /* of attention, as they would run */
    uint64_t messages, bytes;           /* sent by all chips, without agreements */
    uint64_t context_messages, context_bytes;   /* of these: between chips that share a context, as schedules of attention */
    uint64_t bytes_per_chip;            /* of the chip that sends most */
    uint64_t workspace_per_chip;        /* bytes, of attention: of the chip that needs most, workspace and what is packed */
    double flops;                       /* of attention itself, all chips */
} rondo_cost_traffic;
#define RONDO_COST_TRAFFIC_INIT { sizeof(rondo_cost_traffic), 0, 0, 0, 0, 0, 0, 0, 0, 0.0 }
/* transport: what the chips would be connected by, NULL = "threads"; asked, not joined. RONDO_ENOTSUP: there is no such run, and the sentence
 * says why: elements are not of 2 or 4 bytes, or chips do not have the same heads. */
RONDO_API int rondo_cost_moved(const rondo_cost_case *of, const char *transport, rondo_cost_traffic *traffic) RONDO_MUST_CHECK;

/* ---- what a pass would take: hardware, and predictions from schedules ------------------------------------------------ */

/* A world of ranks alike, in nodes of node_ranks. FLOP/s, bytes/s, seconds, bytes; rondo-plan(1) has the files. 0 is the default of each
 * field that has one. */
typedef struct rondo_hardware {
    size_t struct_size;
    double peak_flops;                  /* of a rank, of what the maker says; for fractions */
    double gemm_flops, attention_flops; /* that linear layers and attention reach; 0: peak_flops */
    double memory_bandwidth;            /* of a rank's memory */
    double link_bandwidth, link_latency;        /* of each link between nodes, and of what goes there */
    double all_to_all_bandwidth, all_to_all_latency;   /* the same where all send to all; 0: the link's */
    double overhead;                    /* of a layer, besides what it computes and moves */
    double memory_bytes;                /* of a rank; 0: not known */
    double local_bandwidth, local_latency;      /* within a node; 0 of the former: the link's, both */
    double operation_latency;           /* until a computation has begun */
    double skew;                        /* how far apart nodes that share a context begin a prefill: mean of an exponential distribution */
    int64_t node_ranks, node_links;     /* 0 = 1; 0 = node_ranks: each rank has its own */
    const char *name;                   /* for reports; may be NULL */
    double cores;                       /* how many times what one rank computes by itself all can that compute at a time, of ... */
    int64_t core_ranks;                 /* ... so many that share these cores; 0: those of a node, and 0 cores: each has its own */
    double link_burst;                  /* bytes that leave a node at once, after a rest; then link_bandwidth holds */
    double link_inward;                 /* bytes/s that come in by each link; 0: as many as leave */
    double link_work, local_work;       /* what sending or receiving a byte takes of a rank's own time, between and within nodes */
    double attention_edge;              /* part of what is hidden of a leaf seen in part that is computed all the same, 0 to 1 */
    double attention_rates[4];          /* what heads of attention_dims reach instead of attention_flops, ... */
    int64_t attention_dims[4];          /* ... ascending, as far as they are not 0; in between in proportion */
    int32_t in_place;                   /* 1: ranks of a node are threads of a process, whose memory each of them can read */
    int32_t spare;                      /* 0 */
    double core_slowest;                /* part of its speed by itself that is left to a rank on the slowest core while all compute; 0: 1 */
    double join_bandwidth;              /* at which partial results are joined: their bytes, and twice those of results; 0: memory_bandwidth */
    double delta_flops, delta_backward_flops;   /* that the delta rule and its gradients reach, in a schedule's FLOPs; 0: as attention */
    double core_slice;                  /* seconds that a rank keeps a core while others wait for one; 0: they share evenly at every moment */
    double core_turn;                   /* seconds that it takes a rank to go on when it gets one by such turns: others' data is in the caches */
    double row_parts[8];                /* part of its rate, up to 1, that attention reaches where a KV head has row_counts rows of queries, ... */
    int64_t row_counts[8];              /* ... ascending, as far as they are not 0; in between, and below the first, in proportion */
    double delta_rates[4], delta_backward_rates[4];   /* what states of delta_dims numbers a side reach instead of delta_flops and ... */
    int64_t delta_dims[4];              /* ... delta_backward_flops, ascending, as far as they are not 0; in between in proportion */
} rondo_hardware;
#define RONDO_HARDWARE_INIT                                                                                                                \
    { sizeof(rondo_hardware), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0, 0, NULL, 0.0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, \
      { 0.0, 0.0, 0.0, 0.0 }, { 0, 0, 0, 0 }, 0, 0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, { 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0 },                  \
      { 0, 0, 0, 0, 0, 0, 0, 0 }, { 0.0, 0.0, 0.0, 0.0 }, { 0.0, 0.0, 0.0, 0.0 }, { 0, 0, 0, 0 } }
/* Hardware known by name: that of an index from 0, NULL behind the last; and what is known of it. */
RONDO_API const char *rondo_hardware_name(int index);
RONDO_API int rondo_hardware_find(const char *name, rondo_hardware *hardware) RONDO_MUST_CHECK;
/* What is known by this name, or else what the file of this name says: rondo-plan(1) has its fields. RONDO_EFORMAT: it is no such file, and the
 * sentence names line and field; RONDO_EIO: it cannot be read. */
RONDO_API int rondo_hardware_read(const char *name, rondo_hardware *hardware) RONDO_MUST_CHECK;
/* Hardware, of a file in which a rank is one thread, as the ranks of a run see it: so many in all, each with so many threads; in_place: they are
 * threads of one process; one_host: they are on one host. With its defaults filled in. Contexts do so by themselves. */
RONDO_API int rondo_hardware_run(rondo_hardware *hardware, int in_place, int one_host, int64_t ranks, int64_t threads) RONDO_MUST_CHECK;

typedef enum rondo_prediction_kind {
    RONDO_PREDICT_RUN = 0,              /* the schedules that this library would carry out */
    RONDO_PREDICT_PAPER = 1,            /* Algorithms 2 to 4 of arXiv:2411.01783 as printed: causal, pass-KV and pass-Q */
    RONDO_PREDICT_LEAST = 2             /* no more than RONDO_PREDICT_RUN: attention from the lists of some ranks, each as if all others were
                                           always ready. Soon known of thousands of ranks; what is of parts of a layer is 0 */
} rondo_prediction_kind;
/* Seconds, of one pass: a prefill, or a decode step. What is of a layer is of attention, simulated on all ranks of a context; the busiest
 * rank's. */
typedef struct rondo_prediction {
    size_t struct_size;
    double seconds;                     /* all layers, and the head */
    double linear_seconds;              /* of these: linear layers; what chips that share heads exchange; attention; the rest */
    double shared_seconds, attention_seconds, overhead_seconds;
    double layer_attention;             /* attention of a layer */
    double layer_compute, layer_transfer, layer_exchange;   /* of a layer: its computations, transfers and exchanges of all with all */
    double longest_compute, longest_transfer;   /* one of them */
    uint64_t memory_per_rank;           /* bytes: weights, cache, activations and attention's workspace */
    int32_t algorithm, layout;          /* as they would run; layout of RONDO_PREDICT_RUN */
    uint64_t weight_bytes, cache_bytes, activation_bytes, workspace_bytes;   /* what memory_per_rank is the sum of */
} rondo_prediction;
#define RONDO_PREDICTION_INIT { sizeof(rondo_prediction), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0, 0, 0, 0, 0, 0, 0 }
/* RONDO_EINVAL: a field of either cannot be so; the sentence names it. RONDO_ENOTSUP: no run does that. */
RONDO_API int rondo_predict(const rondo_cost_case *of, const rondo_hardware *hardware, int kind, rondo_prediction *prediction) RONDO_MUST_CHECK;

/* What a schedule would take: all of its ranks, simulated. event, if not NULL, hears what rondo_context_trace() would tell of such a run - every
 * computation, copy, wait and message - rank after rank, in seconds from 0; each rank's work and waits follow each other without a gap.
 * Errors as rondo_predict(). */
RONDO_API int rondo_schedule_simulate(rondo_schedule *schedule, const rondo_hardware *hardware,
                                      void (*event)(void *user, const rondo_trace_event *event), void *user, double *seconds) RONDO_MUST_CHECK;

#ifdef __cplusplus
}
#endif
#endif
