/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the host's files of backends/cuda share: the device object, calls of the driver with their sentences, memory that grows, lists that
 * a run uploads. device.c has streams, events and memory; program.c makes lists of a program; attention.c runs them; backward.c has their
 * gradients; layers.c has linear layers and what stands between them; blas.c their products at level fast; fast.c attention at that level,
 * by dnn.c, dnn_check.c and dnn_graph.c; gradient.c their gradients; probe.c looks at a card's bits; module.c the table.
 */
#ifndef RONDO_CUDA_CUDA_H
#define RONDO_CUDA_CUDA_H

#include <stdbool.h>

#include "core/internal.h"
#include "backends/cuda/driver.h"
#include "backends/cuda/params.h"

/* The module is not linked with librondo: what it needs of it comes in a table. */
extern const struct rondo_services *rondo__cuda_host;
int rondo__cuda_fail(int code, const char *format, ...) RONDO_PRINTF(2, 3);
static inline void *rondo__cuda_alloc(size_t count, size_t size) { return rondo__cuda_host->alloc_zero(count, size); }
static inline void rondo__cuda_free(void *memory) { rondo__cuda_host->free(memory); }
/* From bytes of RONDO_Q8 a scale too (rondo_row_bytes()). */
static inline int64_t rondo__cuda_size(int type) { return type == RONDO_F32 ? 4 : type == RONDO_Q8 ? 1 : 2; }

/* ---- kernels ---- */
enum {
#define X(name, parameters) KERNEL_##name,
    RONDO_CUDA_KERNELS(X)
#undef X
    CUDA_KERNELS
};

/* ---- memory of the device that grows, and is given back with it ---- */
struct rondo__cuda_room {
    cu_pointer memory;
    size_t bytes;
};

/* ---- what a run uploads: host memory that the card reads, and where it goes; used in turn ---- */
#define CUDA_SLOTS 16
struct rondo__cuda_slot {
    void *pinned;
    cu_pointer memory;
    size_t bytes, used;
    cu_event over;                 /* recorded when the run that uses it is in its stream */
    bool recorded;
};

struct rondo_stream {
    cu_stream stream;
    struct rondo_stream *next;     /* all of the device's */
};
struct rondo_event {
    cu_event event;
    bool recorded;
};

struct rondo_device {
    const struct rondo_cuda_driver *driver;
    cu_context context;
    cu_module module;
    cu_device device;
    cu_function kernel[CUDA_KERNELS];
    int32_t index, multiprocessors, shared_block, shared_multiprocessor, cc;
    char isa[16], name[80];
    struct rondo_stream own;       /* and the first of the list */
    cu_stream upload;              /* of programs and weights, which wait for it */
    struct rondo__cuda_room nodes, stack;      /* of attention */
    struct rondo__cuda_room parts, sums;       /* of linear layers: nodes of parts, stacks */
    struct rondo__cuda_room halves, workspace; /* of level fast: inputs of 16 bits, what the library asks for */
    struct rondo__cuda_room fast;              /* ... what attention leaves */
    struct rondo__cuda_blas *blas;             /* NULL until a layer of level fast is made */
    struct rondo__cuda_dnn *dnn;               /* ... a program of it */
    cu_stream dnn_stream;                      /* that its handle has; NULL: it was told none */
    bool dnn_turned;                           /* it writes log(sum(exp)) where it is told to, and not [heads][rows] whatever it is told */
    struct rondo__cuda_slot slot[CUDA_SLOTS + 1];   /* the last one is of runs that upload nothing */
    int32_t looks_at_unit;
    int32_t next_slot, scratch_slot;           /* the slot whose event says when scratch is free again; -1: none */
    cu_stream scratch_stream;                  /* ... which was recorded there */
};

/* 0, or a code with the sentence "WHAT: the driver's reason". The calling thread uses the device from here on. */
int rondo__cuda_check(const struct rondo_device *dev, cu_result code, const char *what);
int rondo__cuda_enter(struct rondo_device *dev);
static inline cu_stream rondo__cuda_stream(struct rondo_device *dev, struct rondo_stream *stream) { return stream ? stream->stream : dev->own.stream; }

/* The room has at least so many bytes; what it held is gone. */
int rondo__cuda_grow(struct rondo_device *dev, struct rondo__cuda_room *room, size_t bytes, const char *what);
void rondo__cuda_give(struct rondo_device *dev, struct rondo__cuda_room *room);

/* A slot with so many bytes, of which none is used; it may have to wait for the run that has it, which may wait for other ranks. With 0 bytes all get the
 * same one, and nobody waits: its event is behind everything before it, as uses of scratch are behind each other. add: space for
 * some, aligned to 16; its address on the card in *at. send: into the stream. close: behind the last launch that reads it, and uses scratch. */
int rondo__cuda_slot_take(struct rondo_device *dev, const struct rondo_poll *poll, size_t bytes, struct rondo__cuda_slot **out);
void *rondo__cuda_slot_add(struct rondo__cuda_slot *slot, size_t bytes, cu_pointer *at);
int rondo__cuda_slot_send(struct rondo_device *dev, struct rondo__cuda_slot *slot, cu_stream stream);
int rondo__cuda_slot_close(struct rondo_device *dev, struct rondo__cuda_slot *slot, cu_stream stream);
/* The stream may use scratch: what used it before is over when it does. */
int rondo__cuda_scratch_begin(struct rondo_device *dev, cu_stream stream);

/* Blocks of CUDA_THREADS threads, or of so many; parameters: the kernel's struct. */
int rondo__cuda_launch_of(struct rondo_device *dev, int kernel, int64_t blocks, unsigned threads, size_t shared, cu_stream stream, const void *parameters);
int rondo__cuda_launch(struct rondo_device *dev, int kernel, int64_t blocks, size_t shared, cu_stream stream, const void *parameters);
/* Blocks of a kernel that run at once. At least 1, where the card can run it at all. */
int rondo__cuda_blocks(struct rondo_device *dev, int kernel, size_t shared);

/* Host memory to the card's and back, all of it done when the call returns. */
int rondo__cuda_put(struct rondo_device *dev, cu_pointer to, const void *from, size_t bytes);
int rondo__cuda_get(const struct rondo_device *dev, void *to, cu_pointer from, size_t bytes);

/* Bytes of which both a pointer and strides (in bytes) are multiples: 16, 4 or 1. */
int32_t rondo__cuda_grain(const void *pointer, int64_t stride, int64_t other, int64_t row);

/* ---- slots of the device table ---- */
int rondo__cuda_program_new(struct rondo_device *dev, struct rondo_program **out, const struct rondo_program_desc *desc);
int rondo__cuda_program_update(struct rondo_device *dev, struct rondo_program *program, const struct rondo_program_desc *desc);
void rondo__cuda_program_free(struct rondo_device *dev, struct rondo_program *program);
size_t rondo__cuda_program_scratch(const struct rondo_device *dev, const struct rondo_program *program);
int rondo__cuda_attention(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_program *program,
                          const struct rondo_attention_run *run, const struct rondo_poll *poll);
int rondo__cuda_linear_new(struct rondo_device *dev, struct rondo_device_linear **out, const rondo_linear_desc *desc);
int rondo__cuda_linear_load(struct rondo_device *dev, struct rondo_device_linear *linear, int64_t first, int64_t rows, int type, const void *weights,
                            const float *scales);
int rondo__cuda_linear_read(const struct rondo_device_linear *linear, int64_t first, int64_t rows, void *weights);
void rondo__cuda_linear_free(struct rondo_device *dev, struct rondo_device_linear *linear);
uint64_t rondo__cuda_linear_format(const struct rondo_device *dev);
size_t rondo__cuda_linear_bytes(const struct rondo_device_linear *linear);
int rondo__cuda_linear(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_device_linear *linear,
                       const struct rondo_linear_run *run, const struct rondo_poll *poll);
int rondo__cuda_linear_join(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_linear_join *join);
int rondo__cuda_rmsnorm(struct rondo_device *dev, struct rondo_stream *stream, int64_t rows, int64_t dim, const float *x, const float *weight, float eps,
                        float *y);
int rondo__cuda_rope(struct rondo_device *dev, struct rondo_stream *stream, int64_t rows, int64_t heads, int64_t dim, float *x, int64_t row_stride,
                     int64_t head_stride, const float *table);
int rondo__cuda_sigmoid_mul(struct rondo_device *dev, struct rondo_stream *stream, int64_t count, const float *gate, const float *x, float *y);
int rondo__cuda_short_conv(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_conv_run *run);
int rondo__cuda_swiglu(struct rondo_device *dev, struct rondo_stream *stream, int64_t count, const float *gate, const float *up, float *y);
int rondo__cuda_convert(struct rondo_device *dev, struct rondo_stream *stream, int64_t count, int from_type, const void *from, int to_type, void *to);
int rondo__cuda_convert_rows(struct rondo_device *dev, struct rondo_stream *stream, int64_t rows, int64_t dim, int from_type, const void *from,
                             size_t from_stride, int to_type, void *to, size_t to_stride);
int rondo__cuda_logsumexp(struct rondo_device *dev, struct rondo_stream *stream, int64_t rows, int64_t dim, const float *x, int64_t x_stride, double *out);
int rondo__cuda_linear_dx(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_device_linear *linear,
                          const struct rondo_linear_dx_run *run, const struct rondo_poll *poll);
int rondo__cuda_token_sum(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_token_run *run, const struct rondo_poll *poll);
int rondo__cuda_rmsnorm_dx(struct rondo_device *dev, struct rondo_stream *stream, int64_t rows, int64_t dim, const float *x, const float *weight, float eps,
                           const float *dy, float *dx, float *terms, int add);
int rondo__cuda_rope_back(struct rondo_device *dev, struct rondo_stream *stream, int64_t rows, int64_t heads, int64_t dim, float *x, int64_t row_stride,
                          int64_t head_stride, const float *table);
int rondo__cuda_swiglu_dx(struct rondo_device *dev, struct rondo_stream *stream, int64_t count, const float *gate, const float *up, const float *dy,
                          float *dgate, float *dup);
int rondo__cuda_cross_entropy(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_entropy_run *run, const struct rondo_poll *poll);
int rondo__cuda_delta(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_delta_run *run, const struct rondo_poll *poll);
int rondo__cuda_delta_fold(struct rondo_device *dev, struct rondo_stream *stream, int32_t key_dim, const struct rondo_delta_fold *folds, int64_t count,
                           float *const *states, int32_t state_count);
int rondo__cuda_delta_backward(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_delta_backward_run *run,
                               const struct rondo_poll *poll);
int rondo__cuda_backward_new(struct rondo_device *dev, struct rondo_backward **out, const struct rondo_backward_desc *desc);
void rondo__cuda_backward_free(struct rondo_device *dev, struct rondo_backward *backward);
size_t rondo__cuda_backward_scratch(const struct rondo_device *dev, const struct rondo_backward *backward);
int rondo__cuda_backward(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_backward *backward, const struct rondo_backward_run *run,
                         const struct rondo_poll *poll);
int rondo__cuda_backward_join(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_backward *backward,
                              const struct rondo_backward_run *run, const struct rondo_poll *poll);
int rondo__cuda_backward_sums(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_backward_sums *of);
int rondo__cuda_backward_sinks(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_backward_sinks *of);

/* ---- device.c ---- */
int rondo__cuda_probe(void);
const char *rondo__cuda_isa(int index, int *usable);
int rondo__cuda_attach(struct rondo_device **out, const struct rondo_device_desc *desc);
void rondo__cuda_detach(struct rondo_device *dev);
int rondo__cuda_stream_new(struct rondo_device *dev, struct rondo_stream **out);
void rondo__cuda_stream_free(struct rondo_device *dev, struct rondo_stream *stream);
int rondo__cuda_event_new(struct rondo_device *dev, struct rondo_event **out);
void rondo__cuda_event_free(struct rondo_device *dev, struct rondo_event *event);
int rondo__cuda_event_record(struct rondo_device *dev, struct rondo_stream *stream, struct rondo_event *event);
int rondo__cuda_stream_wait(struct rondo_device *dev, struct rondo_stream *stream, struct rondo_event *event);
int rondo__cuda_event_wait(struct rondo_device *dev, struct rondo_event *event, const struct rondo_poll *poll);
int rondo__cuda_event_query(struct rondo_device *dev, struct rondo_event *event);
int rondo__cuda_sync(struct rondo_device *dev);
/* probe.c: 0, or RONDO_EDEVICE and a sentence where the card does not give the contract's bits; computes only when the process asks first */
int rondo__cuda_first_look(struct rondo_device *dev);
/* The same for the matrix unit of an arithmetic, when a program wants it first. */
int rondo__cuda_look_at_unit(struct rondo_device *dev, int arithmetic);
int rondo__cuda_stream_handle(struct rondo_device *dev, struct rondo_stream *stream, void **out);
/* memory.c */
int rondo__cuda_memory_new(struct rondo_device *dev, int kind, size_t bytes, void **out);
void rondo__cuda_memory_free(struct rondo_device *dev, int kind, void *memory, size_t bytes);
int rondo__cuda_memory_kind(const struct rondo_device *dev, const void *memory);
int rondo__cuda_copy(struct rondo_device *dev, struct rondo_stream *stream, void *to, const void *from, size_t bytes);
int rondo__cuda_copy_rows(struct rondo_device *dev, struct rondo_stream *stream, void *to, size_t to_stride, const void *from, size_t from_stride,
                          size_t row_bytes, int64_t rows);

extern const struct rondo_device_ops rondo__cuda_ops;   /* module.c */

/* The kernels (kernels.cu), compiled: PTX, or a fat binary. */
extern const unsigned char rondo__cuda_image[];
extern const size_t rondo__cuda_image_bytes;

#endif
