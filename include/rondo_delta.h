/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The gated delta rule: Kimi Delta Attention (arXiv:2510.26692) and, with one gate for all channels of a head, Gated DeltaNet
 * (arXiv:2412.06464). A part of rondo.h, which includes it; what stands at that one's head holds here too. rondo-kda(7) has the
 * mathematics and a guide, rondo-numerics(7) the order of every sum.
 */
#ifndef RONDO_DELTA_H
#define RONDO_DELTA_H

#include "rondo.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What the gate g of a channel is, of which a state keeps exp(g) in each step; x is the tensor g's element, A = exp(A_log) of the head (1
 * where there is none), b = dt_bias of head and channel (0). */
typedef enum rondo_gate {
    RONDO_GATE_LOG = 0,         /* g = x */
    RONDO_GATE_SOFTPLUS = 1,    /* g = -A * log(1 + exp(x + b)) */
    RONDO_GATE_BOUNDED = 2      /* g = lower_bound / (1 + exp(-A * (x + b))) */
} rondo_gate;
/* What beta is, of the tensor beta's element x. */
typedef enum rondo_beta { RONDO_BETA_PLAIN = 0, RONDO_BETA_SIGMOID = 1, RONDO_BETA_SIGMOID2 = 2 /* twice the sigmoid */ } rondo_beta;

/* How ranks share the work. All ways take the same tokens to the same ranks; they differ in what moves. */
typedef enum rondo_delta_way {
    RONDO_DELTA_AUTO = 0,       /* the best of those that have the bits of one rank */
    RONDO_DELTA_SERIAL = 1,     /* one walk: a rank begins when all states of the one before have come */
    RONDO_DELTA_PIPELINE = 2,   /* states go on in stages, some heads' columns at a time, and ranks work on different ones */
    RONDO_DELTA_AFFINE = 3,     /* each makes maps of its tiles of tokens, which are exchanged once and folded: 2.4 times the work, at once; bits of
                                   its own, which are the same for every number of ranks */
    RONDO_DELTA_COLUMNS = 4,    /* each takes all tokens through some heads' columns: tokens go there and results come back */
    RONDO_DELTA_LEGACY = 5      /* FlashKDA's two passes over segments, which leave out what a segment passes on of its incoming state: to compare
                                   with; see rondo_delta_legacy() */
} rondo_delta_way;
RONDO_API const char *rondo_delta_way_name(int way);   /* "pipeline"; NULL for an unknown one */

/* A sequence's tokens are rows, one after another, behind those of the sequence before; each rank has some rows of all arrays, all heads. */
typedef struct rondo_delta_desc {
    size_t struct_size;
    int64_t heads, key_heads;           /* of v, g, beta, out and states; of q and k (0 = heads): head h reads h / (heads / key_heads) */
    int64_t key_dim, value_dim;         /* 1 to 512; value_dim 0 = key_dim */
    int64_t gate_dim;                   /* 0 = key_dim; 1: one gate for all channels of a head */
    int64_t sequences;                  /* 0 = 1 */
    int64_t tokens;                     /* of each sequence, unless: */
    const int64_t *cu_seqlens;          /* [sequences + 1]: where each begins, from 0, and the end; or NULL. Read during create only */
    const int64_t *shares;              /* [ranks + 1]: rank r has rows [shares[r], shares[r + 1]), maybe none; NULL: nearly equal shares.
                                           Read during create only */
    int32_t type, gate_type, beta_type, out_type;   /* of q, k and v (0 = F32); of g, of beta, of out (0 = type): F32, BF16 or F16 */
    int32_t gate, beta;                 /* rondo_gate, rondo_beta */
    int32_t norm;                       /* 1: q and k are divided by sqrt(sum of squares + 1e-6) */
    int32_t way;                        /* rondo_delta_way */
    double lower_bound;                 /* of a bounded gate: -1000 <= L < 0 */
    double scale;                       /* of what is put out; 0 = 1 / sqrt(key_dim) */
    int32_t initial_state, final_state; /* 1: given to each execution; 1: wanted of it */
    int64_t checkpoint_count;           /* states that are wanted on the way: behind the first checkpoints[i] tokens of each sequence, or, with */
    const int64_t *checkpoints;         /* cu_seqlens, of all rows, where a boundary is the end of the sequence before it. They rise. Read during
                                           create only */
    int64_t tile;                       /* of RONDO_DELTA_AFFINE: tokens, from each sequence's first; shares end where tiles do; 0 = 4096; of
                                           RONDO_DELTA_LEGACY those of a segment, of which the same holds, 1 or more */
    int32_t gradients;                  /* 1: rondo_delta_backward() will be called too; not with a tolerance or RONDO_DELTA_LEGACY */
    double tolerance;                   /* of RONDO_DELTA_AFFINE: a tile whose certificate lies below it passes nothing of its incoming state on;
                                           0: never */
    int32_t chunk;                      /* 0: token by token; 16, 32 or 64: the rule's other form, in chunks of so many tokens from each sequence's
                                           first on, with bits of its own; shares and tiles are whole chunks, checkpoints lie between them. No
                                           gradients. See rondo-kda(7) */
    int32_t reserved;
} rondo_delta_desc;
#define RONDO_DELTA_DESC_INIT                                                                                          \
    { sizeof(rondo_delta_desc), 0, 0, 0, 0, 0, 0, 0, NULL, NULL, 0, 0, 0, 0, 0, 0, 0, 0, 0.0, 0.0, 0, 0, 0, NULL, 0, 0, 0.0, \
      0, 0 }

/* How FlashKDA's fwd_cp (github.com/MoonshotAI/FlashKDA, pull request 9) would cut sequences, and whether it would. */
typedef struct rondo_delta_cut {
    size_t struct_size;
    int64_t segment;                    /* tokens of one: 16 * 2^round(log2(3 sqrt(heads * chunks / multiprocessors))), 64 at least; chunks: of 16 */
    int64_t segments;                   /* of all sequences */
    int64_t shortest;                   /* tokens of the shortest one, also of those whose map nobody needs */
    int32_t fits;                       /* 1: heads * chunks / (chunks of the longest sequence) <= multiprocessors / 4, and there is no batch */
    int32_t converges;                  /* 1: shortest * (largest A_log) < -5, which its authors take for decay; A_log is a gain */
} rondo_delta_cut;
#define RONDO_DELTA_CUT_INIT { sizeof(rondo_delta_cut), 0, 0, 0, 0, 0 }

/* Sets way and tile of *desc as that function would act: RONDO_DELTA_LEGACY where auto_cp is not 0, and the planner and the test of convergence agree;
 * else RONDO_DELTA_SERIAL, the plain walk. multiprocessors: of the card that it plans for; 0 = 132. a_log [heads], or NULL: all 0. *cut, unless NULL:
 * what was found. Local. */
RONDO_API int rondo_delta_legacy(rondo_delta_desc *desc, int auto_cp, int64_t multiprocessors, const float *a_log, rondo_delta_cut *cut) RONDO_MUST_CHECK;

typedef struct rondo_delta rondo_delta;   /* a plan: the same on every rank */

/* Makes a plan; local (no messages). The plan belongs to ctx, which must outlive it, and is executed and destroyed by the thread of ctx, one
 * execution at a time. It holds all memory that an execution needs. */
RONDO_API int rondo_delta_create(rondo_delta **out, rondo_context *ctx, const rondo_delta_desc *desc) RONDO_MUST_CHECK;
RONDO_API void rondo_delta_destroy(rondo_delta *plan);

typedef struct rondo_delta_info {
    size_t struct_size;
    int32_t way, backward_way;          /* what will run; of gradients serial or pipeline, where the plan has them, else 0 */
    int64_t first_row, rows, rows_total;   /* of this rank, and of all */
    int64_t operations;                 /* of the schedule of this rank */
    size_t workspace_bytes;             /* that the plan holds for states on their way */
    uint64_t messages, bytes;           /* that this rank will send in one execute, the first agreement apart */
    double flops;                       /* 7 * key_dim * value_dim for each token and head, all ranks */
    uint64_t hash;                      /* of the plan; what ranks compare */
    int64_t segments;                   /* of all ranks: tiles, or segments, where there are; sequences of RONDO_DELTA_COLUMNS, else parts of
                                           sequences that one rank has */
    int64_t skipped;                    /* by the last execution, of this rank's tiles: how many passed nothing on, in any head; of segments of
                                           RONDO_DELTA_LEGACY all but the last of each sequence */
    double certificate;                 /* of the last execution, of this rank's tiles but the last of each sequence: the largest bound, in the
                                           2-norm, on what a tile passes on of its incoming state; 0 where it has none. See rondo-kda(7) */
    /* Of one rondo_delta_backward(), where the plan has gradients; else 0. */
    int64_t backward_operations;
    size_t backward_workspace_bytes;    /* states at marks, and gradients of states, on their way */
    uint64_t backward_messages, backward_bytes;   /* that this rank will send in one */
    double backward_flops;              /* 27 * key_dim * value_dim for each token and head, all ranks */
} rondo_delta_info;
#define RONDO_DELTA_INFO_INIT { sizeof(rondo_delta_info), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0, 0, 0, 0, 0.0, 0, 0, 0, 0, 0.0 }
RONDO_API int rondo_delta_query(const rondo_delta *plan, rondo_delta_info *info) RONDO_MUST_CHECK;

/* The rank that has the state behind the first `position` tokens of a sequence: 0: where its initial state is read; its length: where its final
 * state is written; a checkpoint's: where that is. Or a code. */
RONDO_API int rondo_delta_keeper(const rondo_delta *plan, int64_t sequence, int64_t position);

/* This rank's rows; F32 where no type of the descriptor's holds. States are dense, of all sequences on every rank, but only what the rank keeps is
 * read or written: the rest of final_state and checkpoints stays as it is. final_state may be initial_state: decoding, a token at a time, in
 * place. */
typedef struct rondo_delta_io {
    size_t struct_size;
    rondo_tensor q, k;                  /* [rows, key_heads, key_dim], the last dimension dense; as the next ones */
    rondo_tensor v;                     /* [rows, heads, value_dim] */
    rondo_tensor g;                     /* [rows, heads, gate_dim] */
    rondo_tensor beta;                  /* [rows, heads] */
    rondo_tensor a_log, dt_bias;        /* [heads], [heads, gate_dim], dense; softplus and bounded gates; none: dims 0 */
    rondo_tensor initial_state;         /* [sequences, heads, key_dim, value_dim], where the descriptor says so, as the next ones */
    rondo_tensor out;                   /* [rows, heads, value_dim] */
    rondo_tensor final_state;           /* [sequences, heads, key_dim, value_dim] */
    rondo_tensor checkpoints;           /* [checkpoint_count * sequences, heads, key_dim, value_dim]; with cu_seqlens [checkpoint_count, ...] */
    /* Called now and then from the rank's thread with the part of this rank's work that is done, 0 to 1, never falling; other than 0: stop
     * (RONDO_ECANCELED). NULL: nobody asks. */
    int (*progress)(void *user, double done);
    void *user;
} rondo_delta_io;
#define RONDO_DELTA_IO_INIT                                                                                            \
    { sizeof(rondo_delta_io), RONDO_TENSOR_INIT, RONDO_TENSOR_INIT, RONDO_TENSOR_INIT, RONDO_TENSOR_INIT, RONDO_TENSOR_INIT, RONDO_TENSOR_INIT, \
      RONDO_TENSOR_INIT, RONDO_TENSOR_INIT, RONDO_TENSOR_INIT, RONDO_TENSOR_INIT, RONDO_TENSOR_INIT, NULL, NULL }

/* Collective where there are several ranks. */
RONDO_API int rondo_delta_execute(rondo_delta *plan, const rondo_delta_io *io) RONDO_MUST_CHECK;

/* As rondo_schedule_create(), of the delta rule: what rondo_delta_execute() would do, or, with backward, rondo_delta_backward(), of a descriptor that
 * asks for gradients. All that is said of a schedule holds: it is told, proved, and simulated. */
RONDO_API int rondo_schedule_delta(rondo_schedule **out, const rondo_schedule_desc *desc, const rondo_delta_desc *delta) RONDO_MUST_CHECK;

/* ---- gradients: of a plan whose descriptor says so ---- */

/* Of a loss with respect to what rondo_delta_execute() was given, as it was given (before norm, gate and sigmoid), from its gradients with respect
 * to out and to the final states. Each has the shape of what it is of, and this rank's rows, or of states what this rank keeps. Those of states,
 * A_log and dt_bias are F32 and dense; of others the last of three dimensions is dense, and results are of F32, BF16 or F16, whatever what they are
 * of is; sums are made in F32 and rounded once. data NULL, dims 0: dfinal_state: 0; a result: not wanted, which da_log, ddt_bias and dinitial_state
 * need not be. */
typedef struct rondo_delta_gradients {
    size_t struct_size;
    rondo_tensor dout;                  /* of out's type */
    rondo_tensor dfinal_state;          /* where the plan has final states */
    rondo_tensor dq, dk, dv, dg, dbeta;
    rondo_tensor da_log, ddt_bias;      /* where gates are computed: the whole sum, on every rank; of the rule's own gain 1 and bias 0 where io has none */
    rondo_tensor dinitial_state;        /* where the plan has initial states */
    int32_t accumulate;                 /* 1: added to what the results hold, which on every rank is the same for da_log and ddt_bias */
    int32_t reserved;
} rondo_delta_gradients;
#define RONDO_DELTA_GRADIENTS_INIT                                                                                     \
    { sizeof(rondo_delta_gradients), RONDO_TENSOR_INIT, RONDO_TENSOR_INIT, RONDO_TENSOR_INIT, RONDO_TENSOR_INIT, RONDO_TENSOR_INIT, \
      RONDO_TENSOR_INIT, RONDO_TENSOR_INIT, RONDO_TENSOR_INIT, RONDO_TENSOR_INIT, RONDO_TENSOR_INIT, 0, 0 }

/* Backward of the same plan: io as rondo_delta_execute() was given it, whose out, final_state and checkpoints are not looked at: states are made
 * again from the initial one. Collective where there are several ranks. */
RONDO_API int rondo_delta_backward(rondo_delta *plan, const rondo_delta_io *io, const rondo_delta_gradients *gradients) RONDO_MUST_CHECK;

#ifdef __cplusplus
}
#endif
#endif
