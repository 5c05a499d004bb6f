/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the files of lib/ share with each other and with backends/ and lm/: errors, memory, checked sizes, contexts and the
 * communication calls of comm.c. Nothing here is exported to users, except to our own modules and librondo_lm, which get
 * the rondo__ symbols that lib/librondo.map.in lists under RONDO_PRIVATE_<version>.
 */
#ifndef RONDO_CORE_INTERNAL_H
#define RONDO_CORE_INTERNAL_H

#include <stdarg.h>
#include <stdbool.h>
#include <string.h>

#include "rondo.h"
#include "core/device.h"
#include "core/transport.h"

#if defined(__GNUC__)
#define RONDO_PRINTF(a, b) __attribute__((format(printf, a, b)))
#else
#define RONDO_PRINTF(a, b)
#endif

/* ---- errors (error.c) ---- */
/* Records the calling thread's sentence and returns code. One sentence: what was wrong, where, what would be accepted. */
RONDO_API int rondo__fail(int code, const char *format, ...) RONDO_PRINTF(2, 3);
/* The number of the calling thread's last one among all of the process; 0: none yet. */
uint64_t rondo__last_failure(void);
RONDO_API void rondo__log(int level, const char *format, ...) RONDO_PRINTF(2, 3);

/* ---- memory (memory.c): through the hooks; 64-byte aligned; a size of 0 gives a valid pointer ---- */
RONDO_API void *rondo__alloc(size_t bytes);                       /* NULL = failure (no sentence recorded) */
RONDO_API void *rondo__alloc_zero(size_t count, size_t size);     /* checked product */
RONDO_API void *rondo__resize(void *memory, size_t old_bytes, size_t new_bytes);   /* old stays valid on failure */
RONDO_API void rondo__free(void *memory);                         /* knows the size itself (header before the block) */
RONDO_API char *rondo__strdup(const char *text);

/* a*b, a+b with overflow: return false and leave *out */
static inline bool rondo__mul(size_t a, size_t b, size_t *out) { return !__builtin_mul_overflow(a, b, out); }
static inline bool rondo__add(size_t a, size_t b, size_t *out) { return !__builtin_add_overflow(a, b, out); }
static inline bool rondo__mul64(int64_t a, int64_t b, int64_t *out) { return !__builtin_mul_overflow(a, b, out); }
static inline bool rondo__add64(int64_t a, int64_t b, int64_t *out) { return !__builtin_add_overflow(a, b, out); }
/* a+b; UINT64_MAX where that is more */
static inline uint64_t rondo__add_saturated(uint64_t a, uint64_t b) { return a > UINT64_MAX - b ? UINT64_MAX : a + b; }

/* ---- descriptors (desc.c) ---- */
/* Copies a caller's sized struct into ours, zero-filled. `name` for the sentence. */
RONDO_API int rondo__desc_copy(void *ours, size_t our_size, const void *theirs, const char *name);
/* A descriptor's spare field, which a newer header may give a name: what we do not know is refused. */
RONDO_API int rondo__reserved(int32_t value, const char *function);
/* Fills a caller's sized out-struct: min(theirs, ours) bytes, keeping their struct_size. */
RONDO_API int rondo__info_copy(void *theirs, const void *ours, size_t our_size, const char *name);

/* ---- tensors (types.c) ---- */
/* Elements of a row of `dim` numbers: of Q8 its scale is four more, as an element is a byte. */
static inline int64_t rondo__row_numbers(int type, int64_t dim) { return type == RONDO_Q8 ? dim + (int64_t)sizeof(float) : dim; }
/* The fields of a tensor that say how it is stored: what no tensor can have yet is refused. */
int rondo__tensor_check(const char *function, const char *name, const rondo_tensor *tensor);

/* ---- hash ---- */
RONDO_API uint64_t rondo__mix64(uint64_t x);                       /* splitmix64's finaliser */
static inline uint64_t rondo__hash_word(uint64_t h, uint64_t word) { return rondo__mix64(h ^ rondo__mix64(word + 0x9e3779b97f4a7c15u)); }

/* ---- linear layers (tensor/linear.c) ---- */
/* Rows [first, first + rows) of W, of the layer's own type, but numbers that have a scale come as F32. An embedding that is tied to its head
 * needs no table of its own. RONDO_ENOTSUP where the device cannot, also for no rows at all. */
RONDO_API int rondo__linear_read(const rondo_linear *linear, int64_t first, int64_t rows, void *weights);

/* ---- time ---- */
RONDO_API double rondo__now(void);                                 /* CLOCK_MONOTONIC, seconds */

/* ---- registry (registry.c) ---- */
int rondo__device_find(const struct rondo_device_ops **out, const char *name);
int rondo__transport_find(const struct rondo_transport_ops **out, const char *name);

/* ---- environment (env.c): the only place that reads it; a value that makes no sense is RONDO_EINVAL ---- */
int rondo__env_deadline(double *seconds);                          /* $RONDO_DEADLINE, else 300 */
const char *rondo__env_module_path(void);                          /* $RONDO_MODULE_PATH, folders with colons between; or NULL */
const char *rondo__env_hook(void);                                 /* $RONDO_TEST_HOOK, or NULL */
const char *rondo__env_device(void);                               /* $RONDO_TEST_DEVICE: where nobody names one, else "cpu" */
const char *rondo__env_transport(void);                            /* $RONDO_TEST_TRANSPORT: launched where nobody names one, else "threads" */
const char *rondo__env_hardware(void);                             /* $RONDO_HARDWARE, a name or a file; or NULL */
int rondo__env_piece(size_t *bytes);                               /* $RONDO_MPI_PIECE: largest single MPI message, else 0 */
int rondo__env_mpi_cuda(int *asked);                               /* $RONDO_MPI_CUDA: 1 yes, 0 no, -1 as MPI says */

/* ---- machine ---- */
int rondo__cores(void);                                            /* that this process may use, at least 1 */
RONDO_API int rondo__memory_nodes(void);                           /* that have cores which this process may use, at least 1 */
int rondo__memory_nodes_of(const char *root);                      /* by the files under root, of any cores; "": the system's, of this process's */
int rondo__cores_quota(const char *root);                          /* by the control groups under root ("": the system's); 0: no limit */

/* ---- test hook (backends/hook): wraps a joined endpoint as $RONDO_TEST_HOOK says; *ops and *ep are replaced ---- */
int rondo__hook_wrap(const char *spec, const struct rondo_transport_ops **ops, struct rondo_endpoint **ep);
/* ... an attached device, where the list has words for devices */
int rondo__hook_wrap_device(const char *spec, const struct rondo_device_ops **ops, struct rondo_device **dev);
/* What it would make of a machine that is not there: of a transport that shows in place and reaches kinds of memory, and of a device that
 * computes on host memory. */
int rondo__hook_changes(const char *spec, bool *in_place, bool *unified, uint32_t *memories);

/* ---- communication (comm.c): statistics, deadlines, sentences that name peer and step; revokes on its own failures ---- */
/* Where in its work a rank is, for sentences: { "pass-KV", 3, 7 } is told as "pass-KV 3 of 7"; of 0: only `what`, which is static. */
struct rondo__step {
    const char *what;
    int32_t index, of;
};
static inline struct rondo__step rondo__step_named(const char *what) { return (struct rondo__step){ what, 0, 0 }; }
/* The index-th, from 1, of several; of one, or of more than can be told, the name alone. */
static inline struct rondo__step rondo__step_of(const char *what, int64_t index, int64_t of)
{
    return of > 1 && of < INT32_MAX ? (struct rondo__step){ what, (int32_t)index, (int32_t)of } : rondo__step_named(what);
}

/* ---- contexts (context.c) ---- */
struct rondo_shared_device {          /* a context and what was split from it use one device */
    const struct rondo_device_ops *ops;
    struct rondo_device *dev;
    _Atomic int64_t references;
};

/* Of a list of devices (deal.c) the one of this rank; index: as the descriptor has it, and the card's. */
#define RONDO_DEVICE_NAME 64
int rondo__device_deal(const char *list, int rank, char name[RONDO_DEVICE_NAME], int32_t *index);

#define RONDO_STAGES 40                /* arrays of one call that may lie in host memory */
struct rondo__stage_room {                 /* device memory for them, kept for the next call */
    void *memory;
    size_t bytes;
};

#define RONDO_STREAMED 64                /* groups of a data plane that may be under way at once */
struct rondo_context {
    struct rondo_shared_device *device;
    rondo_hardware *hardware;                      /* that its ranks run on, as they see it, agreed on; NULL: not known, or the parent's */
    const struct rondo_transport_ops *transport;   /* NULL: alone */
    struct rondo_endpoint *endpoint;               /* NULL: alone */
    struct rondo_data *data;                       /* NULL: the endpoint moves the data too */
    uint32_t reached;                              /* ... in these kinds of memory: bit (1 << RONDO_MEMORY_*) */
    int32_t rank, ranks;
    rondo_context *parent;                         /* it was split from; NULL: from none */
    int32_t *origin;                               /* [ranks]: their numbers in the context that all were split from; NULL: the same */
    double deadline;
    rondo_comm_stats stats;                        /* its own and those of what was split from it */
    void (*trace)(void *user, const rondo_trace_event *event);
    void *trace_user;
    int32_t failed;                                /* code with which this rank revoked, or 0 */
    uint32_t unfenced;                             /* small collectives since the last fence */
    struct rondo__stage_room stage[RONDO_STAGES];       /* device_memory.c's, as the two below */
    struct rondo_event *staged;
    struct rondo__memory *memory;                  /* of rondo_memory_create() */
    uint64_t streams;                              /* groups put into streams of the data plane, and what the last ones were: comm.c's */
    struct rondo__step streamed[RONDO_STREAMED];
    uint64_t agreed;                               /* where the last call was an agreement that failed on all alike: the failure's number */
};
/* ops NULL: alone. boot comes from the transport's launch, or describes what the caller gave. */
int rondo__context_open(rondo_context **out, const rondo_context_desc *desc, const struct rondo_transport_ops *ops,
                        const struct rondo_boot *boot);
int rondo__context_desc(rondo_context_desc *ours, const rondo_context_desc *theirs);   /* NULL: defaults; deadline filled in */

/* What its ranks run on, or NULL; *beside: how many contexts of as many ranks there are, where it was split from another one. */
RONDO_API const rondo_hardware *rondo__hardware_of(const rondo_context *ctx, int64_t *beside);

/* What a device made may live longer than the context: it keeps the device. */
struct rondo_shared_device *rondo__device_keep(struct rondo_shared_device *device);
void rondo__device_release(struct rondo_shared_device *device);   /* NULL: nothing */
static inline const struct rondo_device_ops *rondo__ops(const rondo_context *ctx) { return ctx->device->ops; }
static inline struct rondo_device *rondo__dev(const rondo_context *ctx) { return ctx->device->dev; }
/* By what number people know a rank of this context: that in the one which all others were split from. -1 stays. */
static inline int rondo__rank_name(const rondo_context *ctx, int rank) { return rank >= 0 && ctx->origin ? ctx->origin[rank] : rank; }
RONDO_API void rondo__trace(rondo_context *ctx, const char *name, double begin, int peer, uint64_t bytes);   /* ends now */

/* ---- memory of the device (device_memory.c) ---- */
/* The arrays of one call of a layer: { .ctx = ctx } to begin with. An array is `rows` rows of `blocks` blocks of `bytes` each; strides count
 * bytes. *at is where the device has it: where it is, or else dense. */
enum rondo__stage_uses { RONDO_STAGE_READ = 1, RONDO_STAGE_WRITE = 2 };
struct rondo__array {
    const void *data;                 /* NULL: none */
    int64_t rows, blocks;
    size_t row_stride, block_stride, bytes;
};
struct rondo__staged {
    struct rondo__array array;
    char *at;
    int32_t uses;
};
struct rondo__staging {
    rondo_context *ctx;
    struct rondo__staged array[RONDO_STAGES];
    int32_t count;
    bool waits;                       /* host memory is in use */
};
int rondo__stage(struct rondo__staging *s, int uses, struct rondo__array array, void **at);
/* Rows of one block. */
static inline struct rondo__array rondo__rows_of(const void *data, int64_t rows, size_t row_stride, size_t bytes)
{
    return (struct rondo__array){ data, rows, 1, row_stride, bytes, bytes };
}
/* Last of all, whether the call failed (err) or not: results come back, and nothing of the host's is in use any more. Returns err, or what
 * failed late. polls: transfers go on meanwhile. */
int rondo__stage_end(struct rondo__staging *s, bool polls, int err);
/* Until the device is through: nothing of the caller's is in use from here on. Returns err with its sentence, or what failed late. */
int rondo__settle(rondo_context *ctx, int err);
/* Whether memory is of the kind that the caller says: RONDO_EINVAL with a sentence. NULL is of any kind. */
int rondo__check_memory(const rondo_context *ctx, const char *function, const char *name, int kind, const void *memory);
void rondo__memory_end(rondo_context *ctx);

const char *rondo__wait_name(int operation);   /* "wait shift", ...: as timelines name a wait for it; static */
/* rondo__trace(), of an operation of a schedule; group: of heads, from 1; 0: all */
RONDO_API void rondo__trace_step(rondo_context *ctx, const char *name, struct rondo__step step, int32_t group, double begin, int peer, uint64_t bytes);
/* A group of parts in flight; its parts and it stay where they are until finish. group.parts, group.count, step and operation
 * (RONDO_OP_*, for the statistics) are the caller's; a group of no parts is nothing. */
struct rondo__transfer {
    struct rondo_transfer group;
    struct rondo__step step;
    int32_t operation, active;        /* active: started and not yet finished */
    int32_t head_group, reserved;     /* as rondo__trace_step() takes it */
    double begin;
};
int rondo__transfer_start(rondo_context *ctx, struct rondo__transfer *t);
int rondo__transfer_finish(rondo_context *ctx, struct rondo__transfer *t);
/* Where there is a data plane (ctx->data): the group goes into the stream, is over where that goes on, and its parts are the caller's
 * again; nothing to finish. */
int rondo__transfer_stream(rondo_context *ctx, struct rondo__transfer *t, struct rondo_stream *stream);
int rondo__fence(rondo_context *ctx, struct rondo__step step);
int rondo__fence_at_times(rondo_context *ctx, struct rondo__step step);   /* behind what needs none: every so many times there is one */

/* The least of all ranks' numbers, in place; counted as agreement. */
int rondo__agree_least(rondo_context *ctx, int64_t *value, const char *what);

int rondo__poll(void *ctx);           /* for struct rondo_poll: transport progress */
/* Around work that takes long: ranks that outnumber the cores take turns. */
void rondo__computing(rondo_context *ctx, bool begins);
/* Around making what takes much memory until it is made: of many ranks of one process a few make theirs at a time. */
void rondo__building(rondo_context *ctx, bool begins);
/* As make(arg, value), whose result follows from the key alone, of which all bytes are set: of many ranks of one process it is called by one, and the
 * others copy what it made. No collective. */
int rondo__once(const rondo_context *ctx, const void *key, size_t key_bytes, void *value, size_t value_bytes,
                int (*make)(void *arg, void *value), void *arg);
/* A communicator that was revoked serves no more calls, not even those that would need no other rank. */
int rondo__collective_begin(rondo_context *ctx, const char *step);
/* What every failing transport call goes through: the sentence names peer (-1: unknown) and step, and the communicator is revoked. */
int rondo__comm_failed(rondo_context *ctx, int code, int peer, const char *step);
/* Every collective function passes each of its failures, EPEER too, through this as the last thing before it frees or hands back
 * memory that it sent or was shown. Revokes with the calling thread's sentence unless a peer has done so; then waits until no
 * other rank reads this rank's memory any more. Returns code; 0 does nothing. */
RONDO_API int rondo__collective_failed(rondo_context *ctx, int code);

/* ---- attention (attention/plan.c) ---- */
/* The ranks have agreed on all that the plan follows from: it needs no agreement of its own. */
RONDO_API void rondo__attention_agreed(rondo_attention *plan);

#endif
