/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the files of the hook that wraps devices share: device.c fills the table; program.c looks after attention, backward.c after its gradients,
 * delta.c after the delta rule, layers.c after layers; space.c gives the device addresses of its own, defer.c lets its streams run late.
 */
#ifndef RONDO_HOOK_DEVICE_H
#define RONDO_HOOK_DEVICE_H

#include <stdatomic.h>

#include "backends/hook/hook.h"

struct rondo__hook_device;

/* ---- one call of the device beneath, its pointers as that device knows them ---- */

enum rondo__hook_kind {
    RONDO_HOOK_COPY, RONDO_HOOK_COPY_ROWS, RONDO_HOOK_ATTENTION, RONDO_HOOK_LINEAR, RONDO_HOOK_RMSNORM, RONDO_HOOK_ROPE, RONDO_HOOK_SWIGLU,
    RONDO_HOOK_CONVERT, RONDO_HOOK_CONVERT_ROWS, RONDO_HOOK_LOGSUMEXP, RONDO_HOOK_LINEAR_JOIN, RONDO_HOOK_LINEAR_DX, RONDO_HOOK_TOKEN_SUM,
    RONDO_HOOK_RMSNORM_DX, RONDO_HOOK_ROPE_BACK, RONDO_HOOK_SWIGLU_DX, RONDO_HOOK_BACKWARD, RONDO_HOOK_BACKWARD_JOIN,
    RONDO_HOOK_BACKWARD_SUMS, RONDO_HOOK_BACKWARD_SINKS,
    RONDO_HOOK_DELTA, RONDO_HOOK_DELTA_FOLD, RONDO_HOOK_CROSS_ENTROPY, RONDO_HOOK_DELTA_BACKWARD,
    RONDO_HOOK_SHORT_CONV, RONDO_HOOK_SIGMOID_MUL,
    RONDO_HOOK_WAIT                    /* of a stream for another one: defer.c's own */
};

struct rondo__hook_call {
    int32_t kind;
    int32_t host;                      /* a copy from or to host memory that is not pinned */
    struct rondo_stream *stream;       /* of the device beneath */
    struct rondo_work *work;           /* of an attention */
    union {
        struct {
            void *to;
            const void *from;
            size_t bytes, to_stride, from_stride;
            int64_t rows;
        } copy;
        struct {
            const struct rondo_program *program;
            const struct rondo_attention_run *run;
        } attention;
        struct {
            struct rondo__hook_linear *linear;
            struct rondo_linear_run run;
        } linear;
        struct rondo_linear_join join;
        struct {
            struct rondo__hook_linear *linear;   /* where `linear` has it */
            struct rondo_linear_dx_run run;
        } linear_dx;
        struct rondo_token_run token_sum;
        struct rondo_entropy_run entropy;
        struct {
            int64_t rows, dim;
            const float *x, *weight, *dy;
            float *dx, *terms, eps;
            int32_t add;
        } rmsnorm_dx;
        struct {
            int64_t count;
            const float *gate, *up, *dy;
            float *dgate, *dup;
        } swiglu_dx;
        struct {
            const struct rondo_backward *backward;
            const struct rondo_backward_run *run;
        } backward;                        /* and of its joins */
        struct rondo_backward_sums sums;
        struct rondo_backward_sinks sinks;
        struct {
            int64_t rows, dim;
            const float *x, *weight;
            float *y, eps;
        } rmsnorm;
        struct {
            int64_t rows, heads, dim, row_stride, head_stride;
            float *x;
            const float *table;
        } rope;
        struct {
            int64_t count;
            const float *gate, *up;
            float *y;
        } swiglu;             /* sigmoid_mul: up is its x */
        struct rondo_conv_run conv;
        struct {
            int64_t count;
            const void *from;
            void *to;
            int32_t from_type, to_type;
        } convert;
        struct {
            int64_t rows, dim;
            const void *from;
            void *to;
            size_t from_stride, to_stride;
            int32_t from_type, to_type;
        } convert_rows;
        struct {
            int64_t rows, dim, x_stride;
            const float *x;
            double *out;
        } logsumexp;
        struct rondo_delta_run delta;
        struct rondo_delta_backward_run delta_backward;
        struct {
            const struct rondo_delta_fold *folds;
            float *const *states;
            int64_t count;
            int32_t key_dim, state_count;
        } fold;
        struct {
            const struct rondo__hook_stream *stream;
            uint64_t number;
        } wait;
    } as;
};

/* Packed weights. They may be freed while some stream has still to compute with them, and go with the last that does. */
struct rondo__hook_linear {
    const struct rondo_device_ops *ops;   /* of the device beneath, as `inner` */
    struct rondo_device_linear *inner;
    rondo_linear_desc desc;               /* its leaf_begin is not kept: */
    int32_t first, end;                   /* the leaves that it has */
    _Atomic int64_t users;
};
/* Which a call uses; NULL: none. */
static inline struct rondo__hook_linear *rondo__hook_call_linear(const struct rondo__hook_call *call)
{
    return call->kind == RONDO_HOOK_LINEAR ? call->as.linear.linear : call->kind == RONDO_HOOK_LINEAR_DX ? call->as.linear_dx.linear : NULL;
}
/* Gives up one use. */
void rondo__hook_linear_leave(struct rondo__hook_device *h, struct rondo__hook_linear *linear);

/* Now, on the device beneath. */
int rondo__hook_perform(struct rondo__hook_device *h, const struct rondo__hook_call *call, const struct rondo_poll *poll);

/* ---- space.c ---- */

/* Memory that memory_new() gave out. Device memory with a space of its own: `at` is where nothing can be read or written, the bytes are at
 * `real`. */
struct rondo__hook_block {
    char *at, *real;
    size_t bytes, reserved;            /* reserved: what the addresses take; 0: at is real */
    int32_t kind;
};
int rondo__hook_memory_new(struct rondo__hook_device *h, int kind, size_t bytes, void **out);
void rondo__hook_memory_free(struct rondo__hook_device *h, int kind, void *memory, size_t bytes);
int rondo__hook_memory_kind(const struct rondo__hook_device *h, const void *memory);
/* Where bytes [low, high) from `pointer` on really are: they must be the device's. Nothing (low >= high): NULL. */
int rondo__hook_own(const struct rondo__hook_device *h, const char *call, const char *argument, const void *pointer, int64_t low, int64_t high,
                    void **out);
/* ... the device's or the host's; *host is set where they are the host's and not pinned. */
int rondo__hook_any(const struct rondo__hook_device *h, const char *call, const char *argument, const void *pointer, int64_t bytes, void **out,
                    int32_t *host);
void rondo__hook_space_end(struct rondo__hook_device *h);

/* ---- defer.c ---- */
struct rondo__hook_stream {
    struct rondo__hook_stream *next;   /* all that there are, and after stream_free() those that can be taken again */
    struct rondo__hook_node *head, *last;
    uint64_t queued, done;             /* calls so far */
    int32_t live, reserved;
};
struct rondo__hook_event {
    struct rondo__hook_stream *stream; /* where it was recorded last, behind so many calls; NULL: never */
    uint64_t number;
};
int rondo__hook_defer_begin(struct rondo__hook_device *h);
void rondo__hook_defer_end(struct rondo__hook_device *h);
/* `bytes` that the next call put into a stream may use until it is over. NULL: no memory, with its sentence. */
void *rondo__hook_take(struct rondo__hook_device *h, size_t bytes);
/* Into the stream; without `defer` it happens at once. */
int rondo__hook_put(struct rondo__hook_device *h, struct rondo_stream *stream, const struct rondo__hook_call *call,
                    const struct rondo_poll *poll);
int rondo__hook_stream_new(struct rondo__hook_device *h, struct rondo_stream **out);
void rondo__hook_stream_free(struct rondo__hook_device *h, struct rondo_stream *stream);
int rondo__hook_event_record(struct rondo__hook_device *h, struct rondo_stream *stream, struct rondo__hook_event *event);
int rondo__hook_stream_wait(struct rondo__hook_device *h, struct rondo_stream *stream, const struct rondo__hook_event *event);
int rondo__hook_event_wait(struct rondo__hook_device *h, const struct rondo__hook_event *event, const struct rondo_poll *poll);
int rondo__hook_event_query(struct rondo__hook_device *h, const struct rondo__hook_event *event);
int rondo__hook_sync(struct rondo__hook_device *h);
/* All that is under way happens; a failure is kept for whoever waits. */
void rondo__hook_drain(struct rondo__hook_device *h);
bool rondo__hook_is_idle(const struct rondo__hook_device *h);   /* nothing is put off */

/* ---- program.c ---- */
int rondo__hook_program_new(struct rondo__hook_device *h, struct rondo_program **out, const struct rondo_program_desc *desc);
int rondo__hook_program_update(struct rondo__hook_device *h, struct rondo_program *program, const struct rondo_program_desc *desc);
void rondo__hook_program_free(struct rondo__hook_device *h, struct rondo_program *program);
const struct rondo_program *rondo__hook_program_inner(const struct rondo_program *program);
int rondo__hook_attention(struct rondo__hook_device *h, struct rondo_stream *stream, const struct rondo_program *program,
                          const struct rondo_attention_run *run, const struct rondo_poll *poll);

/* ---- backward.c ---- */
int rondo__hook_backward_new(struct rondo_device *dev, struct rondo_backward **out, const struct rondo_backward_desc *desc);
void rondo__hook_backward_free(struct rondo_device *dev, struct rondo_backward *backward);
size_t rondo__hook_backward_scratch(const struct rondo_device *dev, const struct rondo_backward *backward);
int rondo__hook_backward(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_backward *backward,
                         const struct rondo_backward_run *run, const struct rondo_poll *poll);
int rondo__hook_backward_join(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_backward *backward,
                              const struct rondo_backward_run *run, const struct rondo_poll *poll);
int rondo__hook_backward_sums(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_backward_sums *of);
int rondo__hook_backward_sinks(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_backward_sinks *of);

/* ---- delta.c ---- */
int rondo__hook_delta(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_delta_run *run, const struct rondo_poll *poll);
int rondo__hook_delta_fold(struct rondo_device *dev, struct rondo_stream *stream, int32_t key_dim, const struct rondo_delta_fold *folds,
                           int64_t count, float *const *states, int32_t state_count);
int rondo__hook_delta_backward(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_delta_backward_run *run,
                               const struct rondo_poll *poll);

/* ---- layers.c ---- */
/* Fills the slots of layers. */
void rondo__hook_layers(struct rondo_device_ops *table, const struct rondo_device_ops *ops);

/* ---- device.c ---- */
/* One call of a kind of enum rondo__hook_counted. */
void rondo__hook_count(struct rondo__hook_device *h, int what, double flops, double bytes);
/* Bytes from the first to the end of the last of `rows`; -1: more than memory can be. */
int64_t rondo__hook_reach(size_t stride, size_t row_bytes, int64_t rows);

struct rondo__hook_device {
    const struct rondo_device_ops *ops;   /* the device beneath */
    struct rondo_device *dev;
    struct rondo__hook_settings set;
    struct rondo__hook_counts counts;
    /* space.c: by rising address */
    struct rondo__hook_block *blocks;
    int64_t block_count, block_room;
    /* defer.c: */
    struct rondo__hook_stream own;        /* the device's own stream, and the first of the list */
    struct rondo__hook_node *nodes, *spare;
    char *arena;                          /* what calls in streams use besides */
    size_t arena_bytes, arena_used;
    char *scratch;                        /* program.c: while a run is looked at */
    size_t scratch_bytes;
    int64_t waiting;                      /* calls in streams */
    uint64_t draws;
    int32_t performing;
    int32_t failed;                       /* told to whoever waits; all that was in streams is given up */
    char sentence[512];
};

static inline struct rondo__hook_device *rondo__hook_device_of(struct rondo_device *dev)
{
    return (struct rondo__hook_device *)(void *)dev;
}

static inline const struct rondo__hook_device *rondo__hook_device_const(const struct rondo_device *dev)
{
    return (const struct rondo__hook_device *)(const void *)dev;
}

#endif
