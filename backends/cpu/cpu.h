/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the files of backends/cpu share: the device object, the instruction sets, loops over threads, scratch, and the
 * functions that fill the device table. Nobody outside this folder includes it (tests of the kernels do).
 */
#ifndef RONDO_CPU_CPU_H
#define RONDO_CPU_CPU_H

#include "backends/cpu/kernels.h"

/* Ascending: better last. SOFT and SCALAR are the spec program, with fused multiply-add in software and by
 * instruction. */
enum rondo_cpu_isa { RONDO_CPU_SOFT, RONDO_CPU_SCALAR, RONDO_CPU_AVX2, RONDO_CPU_AVX512, RONDO_CPU_NEON, RONDO_CPU_ISAS };

const char *rondo__cpu_isa_name(int isa);
/* Is in this build (RONDO_CPU_HAVE_*: see backends/Makefile.inc) and can run on this machine. */
int rondo__cpu_isa_usable(int isa);
int rondo__cpu_fma_usable(void); /* the same for the spec built with FMA instructions */

struct rondo_device {
    int32_t threads;
    int32_t isa; /* enum rondo_cpu_isa, as asked for */
    int32_t crowded; /* its threads and those of other ranks are more than the cores */
    int32_t lent;    /* its threads are at work in host_run(): loops run on the thread that asks for them */
    struct rondo_cpu_kernels kernels;
    struct rondo_team *team; /* made when first of use (team.h) */
    char *scratch, *scratch_block; /* of whatever computes, as large as the largest yet needed; what was allocated for it */
    size_t scratch_bytes;
};

/* ---- loops (parallel.c) ---- */

/* Calls work(arg, item, worker) for items 0..items-1, handed out in this order to at most dev->threads
 * threads; worker is below rondo__cpu_workers(dev, items), and 0 is the calling thread, which alone calls
 * poll, after each of its items. The first failing code ends it and is returned, with its sentence. Every
 * thread runs in the default floating-point mode and gets its own back. */
int rondo__cpu_for(struct rondo_device *dev, int64_t items, int (*work)(void *arg, int64_t item, int worker),
                   void *arg, const struct rondo_poll *poll);
static inline int rondo__cpu_workers(const struct rondo_device *dev, int64_t items)
{
    if (dev->lent)
        return 1;
    return items < dev->threads ? (int)(items < 1 ? 1 : items) : dev->threads;
}
/* The slot host_run: the same for others, on at most `threads` threads. */
int rondo__cpu_host_run(struct rondo_device *dev, int32_t threads, int64_t items, int (*work)(void *arg, int64_t item, int worker), void *arg,
                        const struct rondo_poll *poll);
/* Asks the system for large pages where a block is worth it. */
void rondo__cpu_huge(void *memory, size_t bytes);
#define RONDO_CPU_LARGE_PAGE ((size_t)2 << 20)
/* Memory for `bytes` that begins with a large page where it takes some of them; *block is what rondo__free() takes. NULL: there is none. */
void *rondo__cpu_paged(size_t bytes, void **block);

/* ---- the floating-point mode (mode.c) ---- */

/* 0, or RONDO_EINVAL and a sentence: what of the calling thread's mode is not the default. */
int rondo__cpu_check_mode(void);
/* Sets the default mode and returns the one found, for leave. */
uint64_t rondo__cpu_mode_enter(void);
void rondo__cpu_mode_leave(uint64_t found);

/* ---- scratch (device.c) ---- */

/* The device's scratch holds at least so many bytes from now on. false: no memory, and it is as it was. */
bool rondo__cpu_scratch(struct rondo_device *dev, size_t bytes);
/* What is allocated for so many. */
size_t rondo__cpu_scratch_takes(size_t bytes);

/* ---- attention (attention_run.c): slots of the device table ---- */
int rondo__cpu_program_new(struct rondo_device *dev, struct rondo_program **out, const struct rondo_program_desc *desc);
int rondo__cpu_program_update(struct rondo_device *dev, struct rondo_program *program, const struct rondo_program_desc *desc);
void rondo__cpu_program_free(struct rondo_device *dev, struct rondo_program *program);
size_t rondo__cpu_program_scratch(const struct rondo_device *dev, const struct rondo_program *program);
int rondo__cpu_attention(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_program *program,
                         const struct rondo_attention_run *run, const struct rondo_poll *poll);

/* ---- gradients of attention (backward_run.c): slots of the device table ---- */
int rondo__cpu_backward_new(struct rondo_device *dev, struct rondo_backward **out, const struct rondo_backward_desc *desc);
void rondo__cpu_backward_free(struct rondo_device *dev, struct rondo_backward *backward);
size_t rondo__cpu_backward_scratch(const struct rondo_device *dev, const struct rondo_backward *backward);
int rondo__cpu_backward(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_backward *backward,
                        const struct rondo_backward_run *run, const struct rondo_poll *poll);
int rondo__cpu_backward_join(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_backward *backward,
                             const struct rondo_backward_run *run, const struct rondo_poll *poll);
int rondo__cpu_backward_sums(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_backward_sums *of);
int rondo__cpu_backward_sinks(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_backward_sinks *of);

/* ---- linear layers and element-wise functions (linear.c, elementwise.c): slots of the device table ---- */
int rondo__cpu_linear_new(struct rondo_device *dev, struct rondo_device_linear **out, const rondo_linear_desc *desc);
int rondo__cpu_linear_load(struct rondo_device *dev, struct rondo_device_linear *linear, int64_t first, int64_t rows, int type, const void *weights,
                           const float *scales);
int rondo__cpu_linear_read(const struct rondo_device_linear *linear, int64_t first, int64_t rows, void *weights);
void rondo__cpu_linear_free(struct rondo_device *dev, struct rondo_device_linear *linear);
size_t rondo__cpu_linear_bytes(const struct rondo_device_linear *linear);
uint64_t rondo__cpu_linear_format(const struct rondo_device *dev);
int rondo__cpu_linear(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_device_linear *linear,
                      const struct rondo_linear_run *run, const struct rondo_poll *poll);
int rondo__cpu_linear_join(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_linear_join *join);
int rondo__cpu_linear_dx(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_device_linear *linear,
                         const struct rondo_linear_dx_run *run, const struct rondo_poll *poll);
int rondo__cpu_rmsnorm_dx(struct rondo_device *dev, struct rondo_stream *stream, int64_t rows, int64_t dim, const float *x, const float *weight,
                          float eps, const float *dy, float *dx, float *terms, int add);
int rondo__cpu_rope_back(struct rondo_device *dev, struct rondo_stream *stream, int64_t rows, int64_t heads, int64_t dim, float *x,
                         int64_t row_stride, int64_t head_stride, const float *table);
int rondo__cpu_swiglu_dx(struct rondo_device *dev, struct rondo_stream *stream, int64_t count, const float *gate, const float *up, const float *dy,
                         float *dgate, float *dup);
int rondo__cpu_token_sum(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_token_run *run, const struct rondo_poll *poll);
int rondo__cpu_rmsnorm(struct rondo_device *dev, struct rondo_stream *stream, int64_t rows, int64_t dim, const float *x, const float *weight,
                       float eps, float *y);
int rondo__cpu_rope(struct rondo_device *dev, struct rondo_stream *stream, int64_t rows, int64_t heads, int64_t dim, float *x,
                    int64_t row_stride, int64_t head_stride, const float *table);
int rondo__cpu_swiglu(struct rondo_device *dev, struct rondo_stream *stream, int64_t count, const float *gate, const float *up, float *y);
int rondo__cpu_convert(struct rondo_device *dev, struct rondo_stream *stream, int64_t count, int from_type, const void *from, int to_type,
                       void *to);
int rondo__cpu_convert_rows(struct rondo_device *dev, struct rondo_stream *stream, int64_t rows, int64_t dim, int from_type, const void *from,
                            size_t from_stride, int to_type, void *to, size_t to_stride);
int rondo__cpu_logsumexp(struct rondo_device *dev, struct rondo_stream *stream, int64_t rows, int64_t dim, const float *x, int64_t x_stride,
                         double *out);
int rondo__cpu_short_conv(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_conv_run *run);
int rondo__cpu_sigmoid_mul(struct rondo_device *dev, struct rondo_stream *stream, int64_t count, const float *gate, const float *x, float *y);

/* ---- cross-entropy (entropy_ops.c): a slot of the device table ---- */
int rondo__cpu_cross_entropy(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_entropy_run *run, const struct rondo_poll *poll);

/* ---- the delta rule (delta_ops.c): slots of the device table ---- */
int rondo__cpu_delta(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_delta_run *run, const struct rondo_poll *poll);
int rondo__cpu_delta_fold(struct rondo_device *dev, struct rondo_stream *stream, int32_t key_dim, const struct rondo_delta_fold *folds, int64_t count,
                          float *const *states, int32_t state_count);
/* ---- its gradients (delta_backward_ops.c) ---- */
int rondo__cpu_delta_backward(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_delta_backward_run *run,
                              const struct rondo_poll *poll);

#endif
