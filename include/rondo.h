/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo: exact attention over very long contexts on many ranks. The bits of the answer never depend on how the work was
 * laid out: rank count, layout, algorithm, threads, batch, chunking, transport and instruction set (rondo-numerics(7)).
 *
 * Conventions that hold for every function here
 *   - Functions that can fail return 0 or a negative RONDO_E* code; rondo_error_text() then has one sentence for the
 *     calling thread. After a failure a pointer that the function would give (rondo_context **out, char **text) is NULL, with
 *     a size of 0 where one comes with it; all other outputs are left untouched. Destroy functions accept NULL.
 *   - Descriptors begin with struct_size and are made by their _INIT macro; a field that is zero means "the default".
 *     Bytes that this library does not know must be zero, else RONDO_ENOTSUP.
 *   - Tokens, rows and positions are int64_t; byte counts are size_t; strides count elements.
 *   - The library never prints, exits, aborts, or changes signals, locale or floating-point mode. It expects the default
 *     mode (round to nearest, gradual underflow), checks it on entry and refuses others (RONDO_EINVAL).
 *   - A context is used by one thread at a time: its rank's. So is what belongs to it: contexts split from it, its plans (they hold the
 *     state of an execution; only what a plan says of itself may be asked by any thread at any time), and every call that takes it.
 *     What is "immutable" (a loaded linear layer, a model, a tokenizer) is used by any number of threads and contexts at once; a
 *     placement by any number that read it, or one that changes it; a schedule by one at a time. All else, but rondo_set_hooks(),
 *     may be called from everywhere.
 *   - "Collective" calls must be made by every rank of the context's communicator, in the same order. When a rank fails
 *     inside one, the communicator is revoked and every other rank returns RONDO_EPEER; no wait outlasts its deadline.
 */
#ifndef RONDO_H
#define RONDO_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define RONDO_API __attribute__((visibility("default")))
#define RONDO_MUST_CHECK __attribute__((warn_unused_result))
#else
#define RONDO_API
#define RONDO_MUST_CHECK
#endif

/* ---- version ------------------------------------------------------------------------------------------------------ */

#define RONDO_VERSION_STRING "0.1.0"
/* Version of the numerics contract; part of every hash. Results compare bit for bit only where it is equal. */
#define RONDO_NUMERICS 1

RONDO_API const char *rondo_version(void);
RONDO_API int rondo_numerics_version(void);
RONDO_API const char *rondo_build_options(void);      /* how this library was configured, for reports */

/* ---- errors ------------------------------------------------------------------------------------------------------- */

/* One list: the enum, rondo_error_name() and the manual's test. Numbers are never reused. */
#define RONDO_ERROR_MAP(F)                                                                                             \
    F(EINVAL, -1, "an argument, option or combination that cannot be")                                                 \
    F(ENOMEM, -2, "not enough memory")                                                                                 \
    F(ENOTSUP, -3, "known but not supported here")                                                                     \
    F(EMISMATCH, -4, "ranks disagree on what they are doing")                                                          \
    F(EPEER, -5, "a peer failed or left")                                                                              \
    F(ETIMEDOUT, -6, "a wait passed its deadline")                                                                     \
    F(EDEVICE, -7, "the device failed")                                                                                \
    F(ETRANSPORT, -8, "the transport failed")                                                                          \
    F(EIO, -9, "a file cannot be read or written")                                                                     \
    F(EFORMAT, -10, "a file's content is not what it should be")                                                       \
    F(ECANCELED, -11, "the caller asked to stop")

typedef enum rondo_error {
    RONDO_OK = 0,
#define RONDO_ERROR_ENUM_(name, value, text) RONDO_##name = value,
    RONDO_ERROR_MAP(RONDO_ERROR_ENUM_)
#undef RONDO_ERROR_ENUM_
    RONDO_ERROR_ENSURE_INT_ = 0x7fffffff
} rondo_error;

/* Name of a code ("RONDO_EINVAL"); its general text. Static, never NULL. */
RONDO_API const char *rondo_error_name(int code);
RONDO_API const char *rondo_error_string(int code);
/* The sentence about the calling thread's last failure: what was wrong, where, what would be accepted. Valid until the
 * thread's next failing call; "" before the first. */
RONDO_API const char *rondo_error_text(void);

/* ---- hooks: memory, logging, threads ------------------------------------------------------------------------------ */

typedef enum rondo_log_level { RONDO_LOG_ERROR = 0, RONDO_LOG_WARNING = 1, RONDO_LOG_INFO = 2, RONDO_LOG_DEBUG = 3 } rondo_log_level;

typedef struct rondo_hooks {
    size_t struct_size;
    void *user;                                                  /* first argument of every hook */
    void *(*allocate)(void *user, size_t bytes, size_t align);   /* align: power of two >= 16; NULL = failure */
    void (*release)(void *user, void *memory, size_t bytes);     /* gets what allocate gave, with its size */
    void (*log)(void *user, int level, const char *sentence);    /* default: nothing is logged */
    void (*parallel)(void *user, int count, void (*work)(void *arg, int index), void *arg);   /* default: threads of our own */
} rondo_hooks;
#define RONDO_HOOKS_INIT { sizeof(rondo_hooks), NULL, NULL, NULL, NULL, NULL }

/* Process-wide; call before any other use and from one thread. NULL restores the defaults. allocate and release come
 * together or not at all. All memory of the library and of librondo_lm goes through them, except what a transport's or
 * file library (MPI, jansson, PCRE2, OpenMP) takes for itself.
 * parallel lends the host program's thread pool to ranks on the CPU: it calls work(arg, i) once for each i = 0..count-1, on
 * any threads, the calling one too, all at the same time or one after the other, and returns when all calls have returned.
 * count is at most the rank's number of threads; ranks that are threads call it at the same time. It must not fail: calls
 * that it leaves out are made up for by the caller. The bits do not depend on what it does. */
RONDO_API int rondo_set_hooks(const rondo_hooks *hooks) RONDO_MUST_CHECK;

/* ---- contexts: one rank = device + transport ---------------------------------------------------------------------- */

typedef struct rondo_context rondo_context;

typedef struct rondo_context_desc {
    size_t struct_size;
    const char *device;             /* "cpu" (default) */
    const char *transport;          /* NULL: one rank alone; "mpi": handle points to an MPI_Comm, NULL = MPI_COMM_WORLD */
    const void *transport_handle;
    const char *isa;                /* "auto" (default: $RONDO_ISA, else the best here), "scalar", "avx2", "avx512", "neon" */
    int32_t device_index;           /* which one, for devices that are several */
    int32_t threads;                /* inside the rank; 0 = the cores shared out evenly among the ranks of this machine */
    double deadline;                /* seconds that one wait for a peer may last; 0 = $RONDO_DEADLINE, else 300 */
    const struct rondo_hardware *hardware;   /* what the ranks run on, the same on all: by it algorithms are chosen. NULL: what $RONDO_HARDWARE
                                       names, else nobody knows. Read while the context is made */
} rondo_context_desc;
#define RONDO_CONTEXT_DESC_INIT { sizeof(rondo_context_desc), NULL, NULL, NULL, NULL, 0, 0, 0.0, NULL }

/* Makes this process or thread a rank. Collective over the transport's communicator. Destroy is collective too. */
RONDO_API int rondo_context_create(rondo_context **out, const rondo_context_desc *desc) RONDO_MUST_CHECK;
RONDO_API void rondo_context_destroy(rondo_context *ctx);

/* Starts ranks and runs body(rank, arg) once on each. transport "threads" (the default) makes `ranks` threads of this
 * process; "mpi" uses the processes that mpirun started (ranks: 0 or their number). Returns when all have returned: 0,
 * or the code of the rank that failed first, whose sentence is then the caller's rondo_error_text(). A body that
 * returns a code revokes its communicator, so that no other rank waits for it. */
typedef int rondo_body(rondo_context *rank, void *arg);
RONDO_API int rondo_launch(int ranks, const rondo_context_desc *desc, rondo_body *body, void *arg) RONDO_MUST_CHECK;
RONDO_API int rondo_run_threads(int ranks, rondo_body *body, void *arg) RONDO_MUST_CHECK;   /* all defaults */

RONDO_API int rondo_context_rank(const rondo_context *ctx);    /* 0 to ranks - 1; or, as the next, a code for NULL */
RONDO_API int rondo_context_ranks(const rondo_context *ctx);

/* A context over the ranks that give the same color (>= 0), ordered by key, then by rank; color -1: *out = NULL. The
 * device is shared with ctx, which must outlive it; use the two from the same thread. Sentences and timelines name ranks by their number in
 * the context that all others were split from, and what is sent counts for ctx too. Collective over ctx. */
RONDO_API int rondo_context_split(rondo_context **out, rondo_context *ctx, int color, int key) RONDO_MUST_CHECK;

typedef struct rondo_context_info {
    size_t struct_size;
    const char *device, *transport, *isa;   /* what really runs; transport "none" when alone. Valid as long as ctx */
    int32_t rank, ranks, threads;
    int32_t transfer_memory;    /* where its messages lie that hold data of computations (enum rondo_memory): the device's, or the host's: pinned where
                                   the device has memory of its own, which data then go through */
} rondo_context_info;
#define RONDO_CONTEXT_INFO_INIT { sizeof(rondo_context_info), NULL, NULL, NULL, 0, 0, 0, 0 }
RONDO_API int rondo_context_query(const rondo_context *ctx, rondo_context_info *info) RONDO_MUST_CHECK;

/* What this rondo knows, in itself and as modules, by index from 0; NULL past the end. usable says whether it can run here: for a
 * module, that it is there and opens. */
RONDO_API const char *rondo_device_name(int index, int *usable);
RONDO_API const char *rondo_transport_name(int index, int *usable);
RONDO_API const char *rondo_isa_name(int index, int *usable);
/* The library that a transport stands on and its version, in one line ("Open MPI v4.1.4, ..."); "": none, or it cannot be used. */
RONDO_API const char *rondo_transport_library(int index);
/* The folders in which modules are looked for, in order, with colons between, as snprintf() would write them: returns the length. */
RONDO_API size_t rondo_module_path(char *text, size_t bytes);

/* Makes every other rank's present and later calls on this communicator return RONDO_EPEER with this sentence. */
RONDO_API void rondo_context_revoke(rondo_context *ctx, int code, const char *sentence);

/* ---- small collectives -------------------------------------------------------------------------------------------- */

RONDO_API int rondo_barrier(rondo_context *ctx) RONDO_MUST_CHECK;
RONDO_API int rondo_broadcast(rondo_context *ctx, void *data, size_t bytes, int root) RONDO_MUST_CHECK;
/* Rank r's bytes_of[r] bytes from `mine` land on every rank at all + sum(bytes_of[0..r-1]). */
RONDO_API int rondo_all_gather(rondo_context *ctx, const void *mine, void *all, const size_t *bytes_of) RONDO_MUST_CHECK;
/* RONDO_EMISMATCH unless all ranks give the same number; `what` names it in the sentence. A rank that has already failed
 * passes its code (else 0): then every rank returns a code instead of waiting. */
RONDO_API int rondo_agree(rondo_context *ctx, uint64_t hash, int code, const char *what) RONDO_MUST_CHECK;

typedef enum rondo_operation {
    RONDO_OP_SHIFT = 0, RONDO_OP_ALL_TO_ALL, RONDO_OP_ALL_GATHER, RONDO_OP_BROADCAST, RONDO_OP_AGREE, RONDO_OP_SCATTER,
    RONDO_OP_GATHER, RONDO_OP_COUNT
} rondo_operation;
RONDO_API const char *rondo_operation_name(int operation);   /* "shift", "all-to-all", ... */
/* Room for operations, for ever; RONDO_OP_COUNT is how many there are now. */
#define RONDO_OP_ROOM 32
typedef struct rondo_comm_stats {
    size_t struct_size;
    uint64_t messages[RONDO_OP_ROOM], bytes[RONDO_OP_ROOM];   /* by rondo_operation; sent by this rank since the context was made */
    double wait_seconds;                                      /* spent in waits */
} rondo_comm_stats;
#define RONDO_COMM_STATS_INIT { sizeof(rondo_comm_stats), { 0 }, { 0 }, 0.0 }
RONDO_API int rondo_comm_query(const rondo_context *ctx, rondo_comm_stats *stats) RONDO_MUST_CHECK;

/* Timeline: called at the end of every compute step, wait and transfer of this rank, from the rank's thread. */
typedef struct rondo_trace_event {
    const char *name;       /* "attention", "wait shift", "pack", "linear", ...; static */
    double begin, end;      /* seconds, CLOCK_MONOTONIC */
    int32_t rank, peer;     /* peer -1: none */
    uint64_t bytes;
    const char *operation;  /* of a plan's schedule: "pass-KV", "join", ...; static; NULL: none */
    int32_t step, steps;    /* "3 of 7"; 0, 0: it has no number */
    int32_t head_group;     /* of the plan, from 0; -1: of all heads, or no plan's */
    int32_t reserved;
} rondo_trace_event;
RONDO_API void rondo_context_trace(rondo_context *ctx, void (*event)(void *user, const rondo_trace_event *), void *user);

/* ---- types, tensors ----------------------------------------------------------------------------------------------- */

/* Q8: whole numbers -127..127 of 8 bits that share a scale, value = number * scale: in one multiplication, which is exact where the scale has
 * at most 16 significant bits, as those made here. As keys and values a row of one head is head_dim numbers and then its scale, a float;
 * as weights of a linear layer `group` inputs of an output share one. Of nothing else. */
typedef enum rondo_type { RONDO_TYPE_DEFAULT = 0, RONDO_F32 = 1, RONDO_BF16 = 2, RONDO_F16 = 3, RONDO_Q8 = 4 } rondo_type;
RONDO_API size_t rondo_type_size(int type);           /* bytes of a number; 0 for an unknown type */
RONDO_API const char *rondo_type_name(int type);      /* "f32", "bf16", "f16", "q8"; NULL for an unknown type */
/* Bytes of a row of `dim` numbers of one head: with Q8 the scale too; 0 for an unknown type, or more than memory can be. */
RONDO_API size_t rondo_row_bytes(int type, int64_t dim);

/* Where memory lies. For a device that computes on host memory as it is, such as "cpu", the three are the same. */
typedef enum rondo_memory {
    RONDO_MEMORY_HOST = 0,     /* the program's own */
    RONDO_MEMORY_PINNED = 1,   /* the host's, which copies of the device reach faster */
    RONDO_MEMORY_DEVICE = 2
} rondo_memory;

/* Memory that belongs to the caller. shape and stride have `dims` valid entries; strides count elements and may be any
 * positive number except that the last of three dimensions must be dense (stride 1). Make it by rondo_tensor_dense() or from
 * RONDO_TENSOR_INIT: all fields that a program does not know must be zero. */
typedef struct rondo_tensor {
    void *data;
    int32_t type, dims;
    int64_t shape[4], stride[4];
    const void *scale;        /* of storage types whose numbers come with scales; F32, BF16 and F16 have none: NULL */
    int32_t memory;           /* rondo_memory: where data lies */
    int32_t reserved;
    int64_t spare[4];
} rondo_tensor;
#define RONDO_TENSOR_INIT { NULL, 0, 0, { 0, 0, 0, 0 }, { 0, 0, 0, 0 }, NULL, 0, 0, { 0, 0, 0, 0 } }
RONDO_API rondo_tensor rondo_tensor_dense(void *data, int type, int dims, const int64_t *shape);   /* row-major */

/* Memory of a kind, of the context's device, 64-byte aligned; it belongs to the context and goes with it at the latest. Where the device has
 * memory of its own the host must not touch RONDO_MEMORY_DEVICE, but copy. Destroy waits for what the device still does. */
RONDO_API int rondo_memory_create(void **out, rondo_context *ctx, int kind, size_t bytes) RONDO_MUST_CHECK;
RONDO_API void rondo_memory_destroy(rondo_context *ctx, void *memory);
/* Between memories of any kinds, behind all that was called on ctx before; done when it returns. */
RONDO_API int rondo_memory_copy(rondo_context *ctx, void *to, const void *from, size_t bytes) RONDO_MUST_CHECK;
/* The rondo_memory that an address is for the context's device: always the host's where that computes on host memory as it is. */
RONDO_API int rondo_memory_kind(const rondo_context *ctx, const void *memory);

/* 64-bit hash over IEEE bits that does not depend on how the elements were divided: the sum over elements of a mix of
 * (index in the whole tensor, bits). Ranks add up what they hold. Start from *hash = 0. NaNs must be canonical. */
RONDO_API void rondo_hash_add(uint64_t *hash, const void *data, size_t element_size, int64_t first_index, int64_t count);
/* Closes it: mixes in the numerics version, arithmetic, leaf and shape. */
RONDO_API uint64_t rondo_hash_close(uint64_t hash, int arithmetic, int leaf, const int64_t *shape, int dims);

/* Philox 4x32-10 (Salmon et al., SC'11): out = f(key, counter). */
RONDO_API void rondo_philox(uint32_t out[4], const uint32_t counter[4], const uint32_t key[2]);
/* The contract's elementary functions: IEEE operations only, the same bits everywhere. Scalars, in double. */
RONDO_API double rondo_exp(double x);
RONDO_API double rondo_log(double x);
RONDO_API double rondo_sin(double x);
RONDO_API double rondo_cos(double x);
RONDO_API double rondo_pow(double base, double exponent);

/* ---- layouts and KV placement: who holds which positions ---------------------------------------------------------- */

typedef enum rondo_layout {
    RONDO_LAYOUT_DEFAULT = 0,   /* zigzag; of a plan that lays itself out: what balances its work */
    RONDO_CONTIGUOUS = 1,       /* rank r: the r-th of N equal pieces */
    RONDO_ZIGZAG = 2,           /* the paper's 2N chunks: rank r has chunks r and 2N-1-r (arXiv:2411.01783, 3.5.1) */
    RONDO_STRIPED = 3,          /* blocks of leaves dealt 0..N-1, 0..N-1, ... */
    RONDO_SNAKE = 4,            /* blocks of leaves dealt 0..N-1, N-1..0, ... */
    RONDO_DOCUMENT = 5,         /* whole documents to ranks, long ones split, so that all compute alike */
    RONDO_CUSTOM = 6            /* leaf by leaf, as a list says */
} rondo_layout;
RONDO_API const char *rondo_layout_name(int layout);   /* "zigzag"; NULL for an unknown one */

/* `count` positions first, first+step, ...; `row` is where the first of them lies among the rank's rows of its sequence. */
typedef struct rondo_span {
    int64_t first, count, step, row;
} rondo_span;

/* Where the keys of some sequences lie, over several turns. A leaf (leaf positions, absolute) belongs to one rank for
 * ever; an appended turn first fills the last leaf, then its new leaves are dealt by the layout; a turn of fewer leaves
 * than ranks (decoding) goes leaf by leaf to the rank that holds least of the sequence. Layout document: a turn of fewer than 4 leaves
 * for each rank goes whole to the rank that holds least of all sequences, longer ones as with zigzag. A pure function of the calls made
 * on it: ranks that make the same calls hold the same placement, without messages. It belongs to no context: the ranks of a process may
 * share one, as long as no thread changes it meanwhile; a plan has what it needs of it from when it is made. */
typedef struct rondo_placement rondo_placement;
typedef struct rondo_placement_desc {
    size_t struct_size;
    int32_t ranks;            /* > 0 */
    int32_t layout;           /* rondo_layout */
    int32_t leaf;             /* 0 = 128; a power of two, 8..256 */
    int32_t interleave;       /* 0: by leaf. 1: turns of one token go token by token, token i of sequence s to rank
                                 (s + i) mod ranks (Algorithm 4): balanced to the token, equal only to rounding */
    int64_t sequences;        /* 0 = 1 */
} rondo_placement_desc;
#define RONDO_PLACEMENT_DESC_INIT { sizeof(rondo_placement_desc), 0, 0, 0, 0, 0 }
RONDO_API int rondo_placement_create(rondo_placement **out, const rondo_placement_desc *desc) RONDO_MUST_CHECK;
RONDO_API void rondo_placement_destroy(rondo_placement *placement);
/* More sequences, empty ones behind those that are there; never fewer. The others, their numbers too, stay as they are. */
RONDO_API int rondo_placement_grow(rondo_placement *placement, int64_t sequences) RONDO_MUST_CHECK;
RONDO_API int rondo_placement_append(rondo_placement *placement, int64_t sequence, int64_t tokens) RONDO_MUST_CHECK;
/* With layout custom: owners has the rank of each leaf that the turn begins, those behind the last leaf that is there: of keys that leaf has
 * no room for, ceil(rest / leaf) leaves. NULL where there are none. */
RONDO_API int rondo_placement_append_owners(rondo_placement *placement, int64_t sequence, int64_t tokens, const int32_t *owners) RONDO_MUST_CHECK;
RONDO_API int rondo_placement_reset(rondo_placement *placement, int64_t sequence) RONDO_MUST_CHECK;   /* empty again */
/* A sequence's tokens; those of them that a rank holds, its rows; who holds a position. Or a code. */
RONDO_API int64_t rondo_placement_length(const rondo_placement *placement, int64_t sequence);
RONDO_API int64_t rondo_placement_held(const rondo_placement *placement, int64_t sequence, int rank);
RONDO_API int rondo_placement_owner(const rondo_placement *placement, int64_t sequence, int64_t position);
/* The spans of the positions >= from that `rank` holds, ascending; returns how many there are (more than max: call again
 * with room), or a code. */
RONDO_API int64_t rondo_placement_spans(const rondo_placement *placement, int64_t sequence, int rank, int64_t from,
                                        rondo_span *spans, int64_t max);
/* Copies between a whole array of a sequence's positions >= from (its row 0 is position `from`) and the rank's rows of the sequence: take
 * copies into `rows`, put back into `whole`. Both are [rows, heads, dim] or [rows, n], of one type and any strides, in host memory. */
RONDO_API int rondo_placement_take(const rondo_placement *placement, int64_t sequence, int rank, int64_t from, const rondo_tensor *whole,
                                   const rondo_tensor *rows) RONDO_MUST_CHECK;
RONDO_API int rondo_placement_put(const rondo_placement *placement, int64_t sequence, int rank, int64_t from, const rondo_tensor *whole,
                                  const rondo_tensor *rows) RONDO_MUST_CHECK;

/* ---- attention ---------------------------------------------------------------------------------------------------- */

typedef enum rondo_algorithm {
    RONDO_ALGORITHM_AUTO = 0,   /* what is simulated to take least time, on the context's hardware; where that is not known: Algorithm 5, with this
                                   build's constants; one token per sequence: pass-Q */
    RONDO_PASS_KV = 1,          /* ring pass-KV, Algorithm 2 */
    RONDO_PASS_Q = 2,           /* ring pass-Q, Algorithms 3 and 4 */
    RONDO_ALL_GATHER = 3,       /* K and V of all ranks come first, then one computation */
    RONDO_ALL_TO_ALL = 4,       /* heads for rows (arXiv:2309.14509), in groups of grid[0] ranks, of which grid[1] form a ring */
    RONDO_REDUCE = 5,           /* keys stay, all queries come to all, nodes go back: sharded softmax */
    RONDO_HALO = 6,             /* each rank gets just the keys that it sees, from whoever has them */
    RONDO_MESH = 7              /* 2-D tiles (arXiv:2512.20968): of grid[0] ranks' queries by grid[1] ranks' keys */
} rondo_algorithm;
#define RONDO_ALGORITHMS 16     /* of an array that has an entry for each; more of them than there are yet */
/* Why it is this one. */
typedef enum rondo_chosen {
    RONDO_CHOSEN_BY_CALLER = 0,
    RONDO_CHOSEN_BY_RULE = 1,   /* Algorithm 5 */
    RONDO_CHOSEN_BY_TIME = 2,   /* it is simulated to take least */
    RONDO_CHOSEN_BEFORE = 3     /* the same, when lengths were nearly these; or no other one takes 5 % less than what an update found */
} rondo_chosen;
RONDO_API const char *rondo_algorithm_name(int algorithm);
/* What the inside of a leaf is computed in. F64 and BF16_HOPPER are of attention forward, at level strict; the other two of BF16 are refused. */
typedef enum rondo_arithmetic {
    RONDO_ARITHMETIC_F32 = 0, RONDO_ARITHMETIC_BF16_DOT = 1, RONDO_ARITHMETIC_BF16_TILE = 2, RONDO_ARITHMETIC_F64 = 3,
    RONDO_ARITHMETIC_BF16_HOPPER = 4
} rondo_arithmetic;
RONDO_API const char *rondo_arithmetic_name(int arithmetic);
typedef enum rondo_level { RONDO_STRICT = 0, RONDO_NATIVE = 1, RONDO_FAST = 2 } rondo_level;
RONDO_API const char *rondo_level_name(int level);

/* Query i of a sequence (0-based among its `tokens`) stands at key position cached + i; keys are 0..cached+tokens-1.
 * cached may be negative: fewer keys than queries (bottom-right alignment, as FlashAttention >= 2.1). */
typedef struct rondo_attention_desc {
    size_t struct_size;
    int64_t heads, kv_heads;            /* kv_heads divides heads; query head h reads KV head h / (heads / kv_heads) */
    int64_t head_dim, value_dim;        /* value_dim 0 = head_dim */
    int64_t sequences;                  /* 0 = 1 */
    int64_t tokens, cached;             /* of each sequence, unless given per sequence: */
    const int64_t *tokens_of, *cached_of;   /* [sequences], or NULL; read during create only */
    int32_t causal;                     /* 1: hides keys after the query's position */
    int32_t windowed;                   /* 1: the two fields below hold; -1 = open on that side */
    int64_t window_left, window_right;  /* hides keys below the position by more than left, above by more than right */
    double scale;                       /* of q.k; 0 = 1/sqrt(head_dim) */
    int32_t q_type, kv_type, out_type;  /* rondo_type; 0 = F32 (out: like q) */
    int32_t layout;                     /* of a plan without placement; each turn (cached, new) is laid out so. 0: what balances its work */
    int32_t algorithm;                  /* rondo_algorithm */
    int32_t arithmetic, level;          /* rondo_arithmetic: f32, f64 or bf16-hopper; rondo_level: strict, or with f32 fast. Others are refused
                                           by name */
    int32_t leaf;                       /* keys to a leaf; 0 = 128; a power of two, 8..256; changes the bits */
    int32_t head_groups;                /* rings run one after another, over kv_heads/head_groups heads each: less
                                           workspace, more messages. 0 = chosen by the plan. Must divide kv_heads */
    const rondo_placement *placement;   /* KV of several turns, new tokens appended already; NULL: a plan's own. Then a
                                           sequence's keys are all of the placement's, its queries the last tokens_of;
                                           cached_of, layout and leaf are the placement's. Read during create only */
    const int64_t *placement_sequences; /* [sequences]: which of the placement's; NULL = 0, 1, 2, ... */

    int32_t grid[2];                    /* of all-to-all and mesh; 0, 0: the plan's choice */
    const int32_t *owners;              /* layout RONDO_CUSTOM: the rank of each leaf, sequence after sequence, each with its cached and its
                                           new tokens together, ceil(keys / leaf) of them. Read during create only */
    /* What a score is, besides scale * q.k, in this order: softcap * tanh(x / softcap), - slope * |distance|, + bias; and what follows.
     * What is 1 here is given to each execution (rondo_attention_io). */
    double softcap;                     /* 0: none */
    int32_t alibi, bias, sinks;         /* 0 or 1; bias: 1 where it is one for all heads, else `heads` */
    int32_t probs;                      /* 1: attention probabilities are wanted, of these queries of each sequence: */
    int64_t probs_first, probs_count;   /* [first, first + count), as many of them as there are; count 0: all from first on */
    double dropout;                     /* 0 <= P < 1: weights are dropped with this probability, the others divided by 1 - P; LSE and
                                           probabilities are without it */
    /* A query sees keys of its own document only, that is the one of the key at its position; a query before key 0 sees nothing then. */
    const int32_t *documents;           /* of each key, sequence after sequence; NULL: none. Read during create only */
    const int64_t *documents_first;     /* [sequences]: where a sequence's begin; NULL: packed */
    /* A query sees only keys of which this is not 0. Element (query index i, head h, key k) of sequence s is
     * mask[(mask_row[s] + i) * mask_row_stride + h * mask_head_stride + mask_key[s] + k]. Read during create only */
    const uint8_t *mask;                /* NULL: none */
    int64_t mask_heads;                 /* 1 (0 is the same) or heads */
    int64_t mask_row_stride, mask_head_stride;   /* 0: all rows, resp. all heads, alike */
    const int64_t *mask_row, *mask_key; /* [sequences]; NULL: rows packed, columns from 0 */
    int32_t shared_kv;                  /* 1: v is the first value_dim elements of each row of k, and is not given: as in latent attention */
    int32_t gradients;                  /* 1: rondo_attention_backward() will be called too */
} rondo_attention_desc;
#define RONDO_ATTENTION_DESC_INIT                                                                                      \
    { sizeof(rondo_attention_desc), 0, 0, 0, 0, 0, 0, 0, NULL, NULL, 0, 0, 0, 0, 0.0, 0, 0, 0, 0, 0, 0, 0, 0, 0, NULL, NULL, { 0, 0 }, \
      NULL, 0.0, 0, 0, 0, 0, 0, 0, 0.0, NULL, NULL, NULL, 0, 0, 0, NULL, NULL, 0, 0 }

typedef struct rondo_attention rondo_attention;   /* a plan: the same on every rank */

/* Makes a plan; local (no messages). The plan belongs to ctx, which must outlive it, and is executed and destroyed by the thread of ctx,
 * one execution at a time: what an execution needs to remember is in it. The same plan for several contexts is made several times. */
RONDO_API int rondo_attention_create(rondo_attention **out, rondo_context *ctx, const rondo_attention_desc *desc) RONDO_MUST_CHECK;
/* Makes an existing plan that of another descriptor, in its memory: exactly what rondo_attention_create() would make, but where nothing
 * grows beyond what the plan has had before nothing is allocated, as in decoding, a token at a time. After a failure the plan is none: it can
 * be updated again, or destroyed. */
RONDO_API int rondo_attention_update(rondo_attention *plan, const rondo_attention_desc *desc) RONDO_MUST_CHECK;
RONDO_API void rondo_attention_destroy(rondo_attention *plan);

typedef struct rondo_attention_info {
    size_t struct_size;
    int32_t algorithm, layout, arithmetic, level, leaf, head_groups;   /* what will run */
    int64_t q_rows, kv_rows;            /* rows of q and of k, v on this rank, all sequences */
    size_t workspace_bytes;             /* execute needs this much host memory, 64-byte aligned */
    size_t device_bytes;                /* the device's own scratch at most, and, where its memory is its own, the plan's there */
    size_t plan_bytes;                  /* held by the plan */
    uint64_t messages, bytes;           /* that this rank will send in one execute, the first agreement apart */
    uint64_t messages_total, bytes_total;
    uint64_t visible_pairs;             /* (query, key) pairs over all ranks, per head */
    uint64_t visible_pairs_here;        /* of them, computed by this rank */
    double flops;                       /* 2*(head_dim+value_dim) a pair and query head, all ranks */
    uint64_t hash;                      /* of the plan; what ranks compare */
    size_t pack_bytes;                  /* what the plan takes besides, when first executed so, where rows of k or v (pass-Q: of q) are
                                           not dense or, on a device whose memory is its own, tensors are the host's */
    int64_t operations;                 /* of this rank's schedule: rondo_attention_operation() */
    double imbalance;                   /* the largest number of pairs that a rank computes over their mean; 1 where there are none */
    int32_t grid[2];                    /* of all-to-all and mesh */
    int64_t probs_rows;                 /* rows of probs on this rank */
    /* Of one rondo_attention_backward(), where the plan has gradients; else 0. */
    int32_t backward_algorithm, reserved;   /* rondo_algorithm */
    size_t backward_workspace_bytes, backward_device_bytes, backward_pack_bytes;   /* as the fields of these names */
    uint64_t backward_messages, backward_bytes, backward_messages_total, backward_bytes_total;
    double backward_flops;              /* 6*head_dim+4*value_dim a pair and query head, all ranks */
    int32_t chosen_by, reserved2;       /* rondo_chosen: why it is this algorithm; 0 */
    double predicted_seconds[RONDO_ALGORITHMS];   /* of each rondo_algorithm that was a candidate, when they were last simulated; else 0 */
    size_t backward_recompute_bytes;    /* of a backward pass with `recompute`: besides, and with the forward pass's workspace */
} rondo_attention_info;
#define RONDO_ATTENTION_INFO_INIT                                                                                      \
    { sizeof(rondo_attention_info), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0, 0, 0, 0, 0.0, { 0, 0 }, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0, 0, 0, { 0.0 }, 0 }
RONDO_API int rondo_attention_query(const rondo_attention *plan, rondo_attention_info *info) RONDO_MUST_CHECK;

/* Which query indices (0..tokens-1; keys != 0: key positions) of a sequence this rank holds, ascending. The rank's rows are
 * these, sequence after sequence. Returns their number, as rondo_placement_spans(). rank -1 = this one. */
RONDO_API int64_t rondo_attention_spans(const rondo_attention *plan, int64_t sequence, int keys, int rank,
                                        rondo_span *spans, int64_t max);

/* Between a whole array of a sequence, [tokens, ...] (keys != 0: [cached + tokens, ...]), and this rank's rows of it in a tensor as
 * rondo_attention_execute() takes it, where they begin in row `row`; -1: packed, behind those of the sequences before. Both are [rows,
 * heads, dim] or [rows, n], of one type and any strides. take copies into `rows`, put back into `whole`, each on the spot: for
 * ranks that see the whole array. */
RONDO_API int rondo_attention_take(const rondo_attention *plan, int64_t sequence, int keys, const rondo_tensor *whole,
                                   const rondo_tensor *rows, int64_t row) RONDO_MUST_CHECK;
RONDO_API int rondo_attention_put(const rondo_attention *plan, int64_t sequence, int keys, const rondo_tensor *whole,
                                  const rondo_tensor *rows, int64_t row) RONDO_MUST_CHECK;
/* The same where only rank `root` has the whole array (`whole` is not looked at elsewhere): scatter fills `rows` on every rank, gather
 * `whole` on the root. Collective; each other rank's rows are one message, and need as much memory besides while it travels. */
RONDO_API int rondo_attention_scatter(rondo_attention *plan, int64_t sequence, int keys, int root, const rondo_tensor *whole,
                                      const rondo_tensor *rows, int64_t row) RONDO_MUST_CHECK;
RONDO_API int rondo_attention_gather(rondo_attention *plan, int64_t sequence, int keys, int root, const rondo_tensor *whole,
                                     const rondo_tensor *rows, int64_t row) RONDO_MUST_CHECK;

/* Tensors may lie in host memory or in the device's, each as its `memory` says (rondo_memory_create()). */
typedef struct rondo_attention_io {
    size_t struct_size;
    rondo_tensor q;             /* [q_rows, heads, head_dim] */
    rondo_tensor k, v;          /* [rows, kv_heads, head_dim], [rows, kv_heads, value_dim] */
    rondo_tensor out;           /* [q_rows, heads, value_dim]; may be q where shapes and types agree and no probabilities are wanted */
    rondo_tensor lse;           /* F32 [q_rows, heads], natural log, any strides; data NULL: not wanted */
    const int64_t *kv_row;      /* [sequences]: the row of k and v where a sequence's first key here lies; NULL: packed */
    /* Called now and then from the rank's thread with the part of this rank's work that is done, 0 to 1, never falling; other than 0:
     * stop (RONDO_ECANCELED). NULL: nobody asks. */
    int (*progress)(void *user, double done);
    void *user;
    /* [sequences]: the same of q, out and lse: the row where a sequence's first query here lies; NULL: packed. With a list a tensor
     * may have more rows than are used. So arrays [B, H, T, D] are given as they are: row stride D, head stride T * D, and sequence b
     * begins at row b * H * T (lse [B, H, T]: strides 1 and T, rows b * H * T). */
    const int64_t *q_row, *out_row, *lse_row;

    /* Where the descriptor says so. Slopes and sinks are F32 [heads], alike on all ranks. bias is F32 [rows, heads or 1, keys], dense in keys,
     * with a row for each query of a sequence, wherever it is: every rank must have those elements whose pairs it computes, that is with
     * pass-KV, all-gather and halo those of its own queries, else perhaps any. No other element is looked at, so that the tensor may be
     * a mapped file. -inf hides a key, from the head that it is of. */
    rondo_tensor alibi, sinks, bias;
    const int64_t *bias_row, *bias_key;   /* [sequences]: row of a sequence's query 0, column of its key 0; NULL: packed, resp. 0 */
    rondo_tensor probs;                   /* F32 [probs_rows, heads, keys], dense in keys; 0 where a query sees no key. A rank's own queries */
    const int64_t *probs_row, *probs_key; /* [sequences]: the same of it, for the first of its rows here; NULL: packed, resp. 0 */
    uint64_t seed;                        /* of dropout */
} rondo_attention_io;
#define RONDO_ATTENTION_IO_INIT                                                                                        \
    { sizeof(rondo_attention_io), RONDO_TENSOR_INIT, RONDO_TENSOR_INIT, RONDO_TENSOR_INIT, RONDO_TENSOR_INIT, RONDO_TENSOR_INIT, NULL, NULL, NULL, \
      NULL, NULL, NULL, RONDO_TENSOR_INIT, RONDO_TENSOR_INIT, RONDO_TENSOR_INIT, NULL, NULL, RONDO_TENSOR_INIT, NULL, NULL, 0 }

/* Runs it on this rank's rows. Collective. workspace: workspace_bytes from the caller, 64-byte aligned, or NULL: the plan
 * takes it at its first execution and keeps it. A later execution takes no memory. The first execute of a plan compares its hash
 * over the ranks (RONDO_EMISMATCH). */
RONDO_API int rondo_attention_execute(rondo_attention *plan, const rondo_attention_io *io, void *workspace) RONDO_MUST_CHECK;

/* ---- gradients: of a plan whose descriptor says so ---- */

/* Of a loss with respect to what rondo_attention_execute() was given, from its gradients with respect to out and lse. Each lies as what it is
 * of: rows of dq begin where q's do (q_row), those of dout where out's do, dlse where lse's do, dk and dv where k's and v's do (kv_row), dbias
 * where bias's do. Results are of F32, BF16 or F16, whatever what they are of is; sums are made in F32 and rounded once. */
typedef struct rondo_attention_gradients {
    size_t struct_size;
    rondo_tensor dout;          /* [q_rows, heads, value_dim], of out's type */
    rondo_tensor dlse;          /* F32 [q_rows, heads]; data NULL: 0 */
    rondo_tensor dq;            /* [q_rows, heads, head_dim] */
    rondo_tensor dk, dv;        /* [rows, kv_heads, head_dim], [rows, kv_heads, value_dim] */
    rondo_tensor dbias;         /* F32, in the shape of bias, where the plan has one; data NULL: not wanted. Rows of this rank's queries are
                                   written. Sequences whose bias begins in the same row and column share it, and are summed */
    rondo_tensor dsinks;        /* F32 [heads], the whole sum on every rank, where the plan has sinks; data NULL: not wanted */
    int32_t accumulate;         /* 1: added to what the results hold, which on every rank is the same for dsinks */
    int32_t recompute;          /* 1, on all ranks: io has neither out nor lse (data NULL); a forward pass makes both again, in
                                   backward_recompute_bytes, which the plan keeps. dout and dlse lie as out_row and lse_row say */
} rondo_attention_gradients;
#define RONDO_ATTENTION_GRADIENTS_INIT                                                                                 \
    { sizeof(rondo_attention_gradients), RONDO_TENSOR_INIT, RONDO_TENSOR_INIT, RONDO_TENSOR_INIT, RONDO_TENSOR_INIT, RONDO_TENSOR_INIT, \
      RONDO_TENSOR_INIT, RONDO_TENSOR_INIT, 0, 0 }

/* Backward of the same plan: io as rondo_attention_execute() was given it, with the out and lse that it made (both are read; probs is not looked
 * at), or with neither, see recompute. Where pairs are hidden, gradients are exactly 0. Collective. workspace: backward_workspace_bytes, or NULL,
 * as there. */
RONDO_API int rondo_attention_backward(rondo_attention *plan, const rondo_attention_io *io, const rondo_attention_gradients *gradients,
                                       void *workspace) RONDO_MUST_CHECK;

/* ---- partial results: for programs whose own ranks exchange them ---- */

/* A node of the canonical tree (rondo-numerics(7), rule 6) is what some queries have seen of the keys of leaves [first, end): for `rows` queries
 * float acc[rows][heads][value_dim], M[rows][heads], l[rows][heads], dense, as ranks of rondo send them. It begins at a multiple of a power of
 * two and holds as many leaves, or fewer where the sequence ends. Who cuts a sequence into leaves as rondo does, computes the nodes of the
 * leaves that it has, and joins those of all has the bits of rondo_attention_execute(). All calls here are local. */
typedef struct rondo_node {
    int64_t first, end;
} rondo_node;
RONDO_API size_t rondo_node_bytes(int64_t rows, int64_t heads, int64_t value_dim);   /* 0: no such, or more than memory can be */
/* The fewest nodes that leaves [first, end) of a sequence of `leaves` make, ascending; returns how many (more than max: call again with room),
 * or a code. */
RONDO_API int64_t rondo_node_ranges(int64_t leaves, int64_t first, int64_t end, rondo_node *nodes, int64_t max);
/* The node of all `tokens` queries of a sequence (desc: one sequence, and nothing about its layout or algorithm; with dropout it has number
 * 0). io has q [tokens, heads, head_dim], k and v with the rows of the node's keys, and slopes and bias as in rondo_attention_execute(). data
 * gets rondo_node_bytes(tokens, heads, value_dim) bytes. Arrays may lie in host memory or the device's. */
RONDO_API int rondo_node_compute(rondo_context *ctx, const rondo_attention_desc *desc, const rondo_attention_io *io, const rondo_node *node,
                                 float *data) RONDO_MUST_CHECK;
/* Joins nodes of the same queries, ascending and apart, in the tree's order; leaves of which none is given are as if nothing of them were
 * seen. `to` may be one of the data. */
RONDO_API int rondo_node_join(rondo_context *ctx, int64_t rows, int64_t heads, int64_t value_dim, int64_t count, const rondo_node *nodes,
                              const float *const *data, float *to) RONDO_MUST_CHECK;
/* What all of a sequence's leaves, joined, give: io.out and, where its data is not NULL, io.lse; sinks, where the descriptor has them, take
 * part here. */
RONDO_API int rondo_node_output(rondo_context *ctx, const rondo_attention_desc *desc, const rondo_attention_io *io, const float *data) RONDO_MUST_CHECK;
/* Partial results as others keep them: out_i F32 [rows, heads, dim] with lse_i F32 [rows, heads] (natural; -infinity: nothing seen), over keys
 * that lie apart. out = sum(exp(lse_i - lse) out_i), of F32, BF16 or F16, lse = log(sum(exp(lse_i))), in this order of parts, 1 to 16 of them;
 * lse NULL, or without data: not wanted. The bits depend on how the keys were divided, as with all such partial results. */
RONDO_API int rondo_merge(rondo_context *ctx, int64_t parts, const rondo_tensor *outs, const rondo_tensor *lses, const rondo_tensor *out,
                          const rondo_tensor *lse) RONDO_MUST_CHECK;

/* ---- schedules: what the ranks of a plan do, told before there are any --------------------------------------------- */

/* What an operation of a rank's list does. */
typedef enum rondo_schedule_kind {
    RONDO_PACK = 0,       /* copies rows to where they travel from, or the device needs them; nothing where they lie so already */
    RONDO_TRANSFER = 1,   /* sends to peers and receives from peers */
    RONDO_COMPUTE = 2,    /* attention over keys that are there, or joins of partial results */
    RONDO_BLANK = 3,      /* writes the output rows that see no key */
    RONDO_FENCE = 4       /* waits until every rank has come so far: what peers read in place may change again */
} rondo_schedule_kind;
RONDO_API const char *rondo_schedule_kind_name(int kind);   /* "pack", ...; NULL for an unknown one */

/* A plan is carried out by lists of operations, one for each rank, which goes through its own in order. A schedule has them for all ranks
 * of a machine of which nothing need be there: no context, no data, no message. It is a pure function of its descriptors. It keeps the
 * list of the rank that was asked about last, so one thread at a time uses it. */
typedef struct rondo_schedule rondo_schedule;
typedef struct rondo_schedule_desc {
    size_t struct_size;
    int32_t ranks;                  /* > 0 */
    int32_t backward;               /* 1: of rondo_attention_backward(); the attention descriptor asks for gradients. 0: of rondo_attention_execute() */
    const char *transport;          /* NULL = "threads"; asked for which memory it reaches and what it shows in place, not joined */
    const char *device;             /* NULL = "cpu"; asked for where its memory is, not opened */
    const struct rondo_hardware *hardware;   /* as in rondo_context_desc; ranks share its cores out evenly */
} rondo_schedule_desc;
#define RONDO_SCHEDULE_DESC_INIT { sizeof(rondo_schedule_desc), 0, 0, NULL, NULL, NULL }
RONDO_API int rondo_schedule_create(rondo_schedule **out, const rondo_schedule_desc *desc,
                                    const rondo_attention_desc *attention) RONDO_MUST_CHECK;
RONDO_API void rondo_schedule_destroy(rondo_schedule *schedule);

/* Of all ranks together: the same as rondo_attention_info says of a plan; of a backward pass algorithm, messages and bytes are those of its
 * backward_ fields, and flops what the ranks do, some of it twice where two of them need it. */
typedef struct rondo_schedule_info {
    size_t struct_size;
    int32_t ranks, algorithm, layout, arithmetic, level, leaf, head_groups;
    int32_t in_place;               /* 1: peers read what is sent where it lies */
    uint64_t messages, bytes;       /* sent, without agreements */
    uint64_t visible_pairs;
    double flops;
    uint64_t hash;                  /* of the plan; what ranks would compare */
    double imbalance;
    int32_t grid[2];
    int32_t chosen_by;              /* of attention itself, as the next */
    int32_t delta_way;              /* of rondo_schedule_delta(): rondo_delta_way, that would run; else 0 */
    double predicted_seconds[RONDO_ALGORITHMS];
} rondo_schedule_info;
#define RONDO_SCHEDULE_INFO_INIT { sizeof(rondo_schedule_info), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0, 0, 0.0, { 0, 0 }, 0, 0, { 0.0 } }
RONDO_API int rondo_schedule_query(const rondo_schedule *schedule, rondo_schedule_info *info) RONDO_MUST_CHECK;

/* Of one rank. */
typedef struct rondo_schedule_rank_info {
    size_t struct_size;
    int64_t operations;             /* numbered from 0 */
    uint64_t messages, bytes;       /* sent */
    double flops;
    size_t workspace_bytes;         /* as in rondo_attention_info, as pack_bytes */
    size_t pack_bytes;
} rondo_schedule_rank_info;
#define RONDO_SCHEDULE_RANK_INFO_INIT { sizeof(rondo_schedule_rank_info), 0, 0, 0, 0.0, 0, 0 }
RONDO_API int rondo_schedule_rank(rondo_schedule *schedule, int rank, rondo_schedule_rank_info *info) RONDO_MUST_CHECK;

typedef struct rondo_schedule_operation_info {
    size_t struct_size;
    int32_t kind;                   /* rondo_schedule_kind */
    int32_t head_group;             /* from 0; -1: of all heads */
    const char *operation;          /* "pass-KV", "attention", "join", ...: as rondo_trace_event has it; static */
    int32_t step, steps;            /* "3 of 7"; 0, 0: it has no number */
    int32_t peer;                   /* whom a transfer sends to or, where it only receives, whom from; -1: nobody, or several */
    int32_t counted;                /* the rondo_operation by which rondo_comm_stats counts a transfer; else -1 */
    uint64_t messages, bytes;       /* sent */
    uint64_t received;              /* bytes, also where they are read in place */
    uint64_t copied;                /* bytes of a pack; where rows lie as they travel it does nothing */
    double flops;
    const int32_t *waits;           /* numbers of operations before it that must be over; valid until another rank is asked about */
    int32_t wait_count, reserved;
} rondo_schedule_operation_info;
#define RONDO_SCHEDULE_OPERATION_INFO_INIT                                                                             \
    { sizeof(rondo_schedule_operation_info), 0, 0, NULL, 0, 0, 0, 0, 0, 0, 0, 0, 0.0, NULL, 0, 0 }
RONDO_API int rondo_schedule_operation(rondo_schedule *schedule, int rank, int64_t index,
                                       rondo_schedule_operation_info *info) RONDO_MUST_CHECK;
/* The same in one line, as snprintf() would write it: its length, or a code. */
RONDO_API int64_t rondo_schedule_operation_text(rondo_schedule *schedule, int rank, int64_t index, char *text,
                                                size_t bytes);

/* Proves over all ranks that nothing is read before it was written or written while somebody may read it, that every message has its
 * receiver, that no rank waits for ever, and that what is sent and computed is what rondo_schedule_query() says. RONDO_EINVAL: it is not
 * so, and the sentence says where. progress, if not NULL, hears the part that is done, 0 to 1; other than 0 from it: stop
 * (RONDO_ECANCELED). */
RONDO_API int rondo_schedule_check(rondo_schedule *schedule, int (*progress)(void *user, double done), void *user) RONDO_MUST_CHECK;

/* The same of a plan: this rank's operations, `operations` of rondo_attention_info. waits is valid as long as the plan. */
RONDO_API int rondo_attention_operation(const rondo_attention *plan, int64_t index, rondo_schedule_operation_info *info) RONDO_MUST_CHECK;
RONDO_API int64_t rondo_attention_operation_text(const rondo_attention *plan, int64_t index, char *text, size_t bytes);

#ifdef __cplusplus
}
#endif

/* The rest of this interface, in headers of its own for their length only. */
#include "rondo_plan.h"
#include "rondo_layers.h"
#include "rondo_delta.h"

#endif
