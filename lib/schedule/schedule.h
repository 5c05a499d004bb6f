/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A distributed computation as data: what one rank does in one execution, as a list of operations on buffers. A builder
 * (attention/algorithms/) makes it without a context, a device or a peer; everything that wants to know what will happen reads it:
 * run.c does it, count.c counts it, print.c tells it, check.c proves things about the schedules of all ranks together.
 *
 * Order. Operations are handed out in the order of the list. Packing, computing and blanking go to the device's stream and happen there in
 * that order; a transfer begins when what it waits for is over and ends some time later; a fence is over when every rank has come to it. Nothing
 * else orders them: an operation that reads what another one wrote, or writes where another one reads, waits for it by number. The builder
 * only says what an operation reads and writes; rondo__schedule_use() finds out what it must wait for, and check.c does not believe it.
 */
#ifndef RONDO_SCHEDULE_SCHEDULE_H
#define RONDO_SCHEDULE_SCHEDULE_H

#include "core/list.h"

/* What of the machine decides how a computation is put into operations. in_place is the same on all ranks; where some compute on
 * cards and others on processors the rest is each rank's own. */
struct rondo__machine {
    bool in_place;            /* the transport shows what it sends, up to the next fence, instead of copying it */
    bool unified;             /* the device computes on host memory */
    size_t eager;             /* with in_place: messages up to this size are copied all the same */
    uint32_t memories;        /* kinds of memory that transfers can be between: bit (1 << RONDO_MEMORY_*) */
};
void rondo__machine_of(const rondo_context *ctx, struct rondo__machine *out);
/* The same of a transport (NULL: alone) and a device that nobody has opened. plane: the data plane moves the data; else what the endpoint reaches
 * is `reached`. */
struct rondo_transport_ops;
struct rondo_device_ops;
void rondo__machine_with(const struct rondo_transport_ops *transport, const struct rondo_device_ops *device, bool plane, uint32_t reached,
                         struct rondo__machine *out);
/* By their names; NULL: "threads", "cpu" (api.c). */
int rondo__machine_find(struct rondo__machine *out, const char *transport, const char *device);

/* ---- buffers ---- */

enum rondo__owner {
    RONDO_OWNER_CALLER,       /* a tensor of the caller's: rows of heads of elements, with strides that only the execution knows */
    RONDO_OWNER_PLAN,         /* part of the workspace */
    RONDO_OWNER_PEER          /* a peer's memory, shown in place; `room` of the workspace, should it be copied after all */
};

/* bytes: of a caller's tensor those of its dense rows here. */
struct rondo__buffer {
    const char *name;         /* static: "k", "packed k", ... */
    int32_t index;            /* which of that name; -1: the only one */
    int32_t owner, memory;    /* enum rondo_memory */
    int32_t tensor;           /* enum rondo__tensor of a caller's; else -1 */
    size_t bytes, room;
    size_t at;                /* where in the workspace (of its kind of memory); room 0: nowhere */
    int32_t home;             /* packed rows: the caller's buffer that serves by itself where its rows lie as they travel; else -1 */
    int32_t spare;            /* 1: no place in the workspace, the plan takes it where `home` cannot serve */
    int32_t over;             /* the buffer whose place it uses too, which is large enough; -1: a place of its own */
    int32_t twin;             /* its copy in memory of another kind; 0: none */
    int32_t access;           /* enum rondo__access: a caller's that is no tensor */
    int64_t read, written;    /* while it is built: the latest entries of `history`, -1: none */
};
enum rondo__access { RONDO_ACCESS_INPUT, RONDO_ACCESS_RESULT, RONDO_ACCESS_BOTH };
enum rondo__tensor {
    RONDO_TENSOR_Q, RONDO_TENSOR_K, RONDO_TENSOR_V, RONDO_TENSOR_OUT, RONDO_TENSOR_LSE, RONDO_TENSOR_ALIBI, RONDO_TENSOR_SINKS,
    RONDO_TENSOR_BIAS, RONDO_TENSOR_PROBS, RONDO_TENSORS,
    RONDO_TENSOR_STATS = RONDO_TENSORS,   /* no caller's: M and l of this rank's rows, of all heads, in the workspace */
    RONDO_VIEWS
};
static inline bool rondo__tensor_is_result(int tensor)
{
    return tensor == RONDO_TENSOR_OUT || tensor == RONDO_TENSOR_LSE || tensor == RONDO_TENSOR_PROBS;
}

/* ---- operations ---- */

/* What an operation reads or writes of a buffer. */
struct rondo__use {
    int32_t buffer, writes;
    size_t at, bytes;
};

/* Rows that PACK copies. Between a tensor's rows (of some heads, of one sequence) and a dense buffer, or between two dense buffers. */
struct rondo__copy {
    int32_t from, to;         /* buffers; a caller's or what stands for it is seen through its tensor's strides */
    size_t from_at, to_at;    /* bytes, into dense ones */
    int64_t sequence, row, rows;   /* of the tensor; sequence -1: all of `rows` bytes from one buffer to another, or `rows` rows, see below */
    int32_t head, heads;      /* of the tensor, where the other one is dense; heads 0: those of the operation's group */
    int64_t columns;          /* of a tensor whose last dimension is keys: so many, from the sequence's first on; 0: all of a row */
    size_t row_bytes;         /* sequence -1: of each row, between two strides in bytes; 0: bytes */
    size_t from_stride, to_stride;
};

/* A message. `at` counts bytes into the buffer. An execution may have less of it than was built: `at` and `bytes` are then changed on both
 * sides before it runs, and of 0 bytes nothing is sent; what waits for what stays. */
struct rondo__part {
    int32_t buffer, peer, receives, reserved;
    size_t at, bytes;
};

/* Where COMPUTE finds keys: k and v by buffer. */
struct rondo__source {
    int32_t k, v;
};

/* Output rows of one sequence that see no key; or, where a buffer is named, rows of a tensor that are all 0 at first. */
struct rondo__blank {
    int64_t sequence, row, rows;
    int32_t buffer, reserved;   /* -1: of out and lse */
};

struct rondo__operation {
    int32_t kind;             /* rondo_schedule_kind */
    int32_t group;            /* head group; -1: all */
    struct rondo__step step;  /* what sentences and timelines call it */
    int64_t first, count;     /* PACK copies, TRANSFER parts, COMPUTE jobs, BLANK blanks */
    int64_t uses_first, waits_first;
    int32_t uses, waits;      /* waits: numbers of operations before it */
    int32_t operation;        /* TRANSFER: enum rondo_operation, for the statistics */
    int32_t q, out, lse;      /* COMPUTE: buffers of its queries and results; -1: none */
    int32_t head, kv_head;    /* ... the program's first heads are these of the tensors, and of the plan */
    int64_t sources_first, nodes_first;   /* ... of its keys, and of its nodes (buffers, by struct rondo_place) */
    int32_t sources, nodes;
    int32_t elides;           /* PACK: nothing to do where `home` of what it writes serves */
    int32_t program;          /* COMPUTE: 0, or 1: the one of probabilities; -1: no attention, the runner's own function, which knows `first` */
    int32_t stats;            /* COMPUTE: buffer of each row's M and l, as many rows as q's; -1: not wanted */
};

struct rondo__schedule {
    int32_t rank, ranks, groups;
    struct rondo__list buffers, operations, uses, waits, copies, parts, sources, nodes, blanks;
    struct rondo__list history;        /* while it is built: what used each buffer (struct rondo__past) */
    int32_t fence;                     /* ... the last fence, -1: none */
    size_t workspace_bytes[3];         /* by kind of memory; the host's is the caller's workspace */
    size_t spare_bytes;                /* what buffers without a place may take */
    bool failed;                       /* no memory: everything else is void */
    struct rondo__operation nowhere;   /* what begin() gives then */
};

/* Whether an operation goes to the device's stream, where the order of the list is enough; else it is the ranks'. */
static inline bool rondo__operation_on_stream(const struct rondo__operation *o) { return o->kind != RONDO_TRANSFER && o->kind != RONDO_FENCE; }

void rondo__schedule_free(struct rondo__schedule *s);
size_t rondo__schedule_bytes(const struct rondo__schedule *s);   /* of its lists */
/* Before it is built again: each list as rondo__list_ready() says. */
bool rondo__schedule_ready(struct rondo__schedule *s, bool first);
/* Built, and to be executed for long: what only building needs goes, and room in its lists that was not used. */
void rondo__schedule_trim(struct rondo__schedule *s);
/* As new, for another rank; the lists keep their memory. */
void rondo__schedule_clear(struct rondo__schedule *s, int32_t rank, int32_t ranks, int32_t groups);

/* ---- building ---- */
/* About so many are to come: a hint. */
void rondo__schedule_reserve(struct rondo__schedule *s, int64_t operations, int64_t transfers);
/* All return a number; what cannot be recorded for want of memory sets `failed`, which a builder looks at once, at the end. */
int32_t rondo__buffer_add(struct rondo__schedule *s, struct rondo__buffer buffer);
static inline struct rondo__buffer *rondo__buffer_at(const struct rondo__schedule *s, int64_t index)
{
    return (struct rondo__buffer *)s->buffers.items + index;
}
static inline struct rondo__operation *rondo__operation_at(const struct rondo__schedule *s, int64_t index)
{
    return (struct rondo__operation *)s->operations.items + index;
}
/* Begins an operation; its parts, copies, sources, nodes and uses follow; rondo__schedule_end() works out what it waits for. */
struct rondo__operation *rondo__schedule_begin(struct rondo__schedule *s, int kind, struct rondo__step step, int32_t group);
void rondo__schedule_use(struct rondo__schedule *s, int32_t buffer, size_t at, size_t bytes, bool writes);
void rondo__schedule_part(struct rondo__schedule *s, int32_t buffer, size_t at, size_t bytes, int32_t peer, bool receives);
void rondo__schedule_copy(struct rondo__schedule *s, struct rondo__copy copy, size_t bytes);
void rondo__schedule_source(struct rondo__schedule *s, int32_t k, int32_t v);
void rondo__schedule_nodes(struct rondo__schedule *s, int32_t buffer);
int32_t rondo__schedule_end(struct rondo__schedule *s);
/* Gives every buffer its place in the workspace. false: larger than memory can be. */
bool rondo__schedule_place(struct rondo__schedule *s);

/* ---- putting it on a machine (lower.c) ---- */
/* Where what computes reads and writes; where what comes from other ranks lands, and what goes to them is taken from. */
int32_t rondo__machine_compute_memory(const struct rondo__machine *machine);
int32_t rondo__machine_transfer_memory(const struct rondo__machine *machine);
/* First of all, behind the caller's buffers: on a device with streams of its own what it was given before may still work on these. Then transfers
 * wait for this, where they are as if they were written. */
void rondo__schedule_arguments(struct rondo__schedule *s, const struct rondo__machine *machine);
/* A place for what comes from a peer. */
int32_t rondo__schedule_arrival(struct rondo__schedule *s, const struct rondo__machine *machine, const char *name, int32_t index, size_t bytes);
/* Before a transfer: the buffer to send bytes [at, at + bytes) of `buffer` from, a copy of it where transfers do not reach it. */
int32_t rondo__schedule_sent(struct rondo__schedule *s, const struct rondo__machine *machine, int32_t buffer, size_t at, size_t bytes,
                             int32_t group);
/* Behind one: the buffer to compute on, what came or a copy. */
int32_t rondo__schedule_received(struct rondo__schedule *s, const struct rondo__machine *machine, int32_t buffer, size_t bytes, int32_t group);
/* Behind the last use of what peers show, where they do. */
void rondo__schedule_fence(struct rondo__schedule *s, const struct rondo__machine *machine, struct rondo__step step);

/* ---- counting (count.c): what a plan states ---- */
struct rondo__counts {
    uint64_t messages, bytes;          /* sent */
    size_t workspace_bytes;
};
void rondo__schedule_count(const struct rondo__schedule *s, struct rondo__counts *out);

/* ---- checking (check.c) ---- */
/* The schedules of all ranks of one execution, given one after the other. 0, or RONDO_EINVAL with a sentence that says which rank and
 * operation breaks which rule. at(arg, rank, ...) shows a rank's schedule, until it is called for the next. */
int rondo__schedule_check(int32_t ranks, const struct rondo__machine *machine,
                          int (*at)(void *arg, int32_t rank, const struct rondo__schedule **out), void *arg);

/* ---- telling (print.c) ---- */
/* One line of an operation, as snprintf() would: its length. flops: of a COMPUTE, by the caller. */
int rondo__operation_print(const struct rondo__schedule *s, int64_t index, double flops, char *text, size_t bytes);

#endif
