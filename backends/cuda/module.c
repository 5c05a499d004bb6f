/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The cuda device as a loadable module: its table. The registry opens rondo_cuda.so when somebody asks for "cuda"; nothing of CUDA is opened
 * before that.
 */
#include "backends/cuda/cuda.h"

static const char *isa_used(const struct rondo_device *dev) { return dev->isa; }

/* Of the host: one, which hands out work. */
static int threads_used(const struct rondo_device *dev)
{
    (void)dev;
    return 1;
}

/* The card has no floating-point mode that somebody could have changed. */
static int check(struct rondo_device *dev)
{
    (void)dev;
    return 0;
}

const struct rondo_device_ops rondo__cuda_ops = {
    .size = sizeof rondo__cuda_ops,
    .abi = RONDO_DEVICE_ABI,
    .name = "cuda",
    .arithmetics = 1u << RONDO_ARITHMETIC_F32 | 1u << RONDO_ARITHMETIC_F64 | 1u << RONDO_ARITHMETIC_BF16_HOPPER,   /* the last on cards that have its unit: program.c */
    .levels = 1u << RONDO_STRICT | 1u << RONDO_FAST,
    .operations = 1u << RONDO_JOB_FORWARD | 1u << RONDO_JOB_JOIN | 1u << RONDO_JOB_PROBABILITIES,
    .unified = 0,
    .probe = rondo__cuda_probe,
    .isa = rondo__cuda_isa,
    .attach = rondo__cuda_attach,
    .detach = rondo__cuda_detach,
    .isa_used = isa_used,
    .threads_used = threads_used,
    .check = check,
    .stream_new = rondo__cuda_stream_new,
    .stream_free = rondo__cuda_stream_free,
    .event_new = rondo__cuda_event_new,
    .event_free = rondo__cuda_event_free,
    .event_record = rondo__cuda_event_record,
    .stream_wait = rondo__cuda_stream_wait,
    .event_wait = rondo__cuda_event_wait,
    .event_query = rondo__cuda_event_query,
    .sync = rondo__cuda_sync,
    .memory_new = rondo__cuda_memory_new,
    .memory_free = rondo__cuda_memory_free,
    .memory_kind = rondo__cuda_memory_kind,
    .copy = rondo__cuda_copy,
    .copy_rows = rondo__cuda_copy_rows,
    .program_new = rondo__cuda_program_new,
    .program_update = rondo__cuda_program_update,
    .program_free = rondo__cuda_program_free,
    .program_scratch = rondo__cuda_program_scratch,
    .attention = rondo__cuda_attention,
    .linear_new = rondo__cuda_linear_new,
    .linear_load = rondo__cuda_linear_load,
    .linear_read = rondo__cuda_linear_read,
    .linear_format = rondo__cuda_linear_format,
    .linear_free = rondo__cuda_linear_free,
    .linear_bytes = rondo__cuda_linear_bytes,
    .linear = rondo__cuda_linear,
    .linear_join = rondo__cuda_linear_join,
    .rmsnorm = rondo__cuda_rmsnorm,
    .rope = rondo__cuda_rope,
    .swiglu = rondo__cuda_swiglu,
    .convert = rondo__cuda_convert,
    .convert_rows = rondo__cuda_convert_rows,
    .logsumexp = rondo__cuda_logsumexp,
    .stream_handle = rondo__cuda_stream_handle,
    .linear_dx = rondo__cuda_linear_dx,
    .token_sum = rondo__cuda_token_sum,
    .rmsnorm_dx = rondo__cuda_rmsnorm_dx,
    .rope_back = rondo__cuda_rope_back,
    .swiglu_dx = rondo__cuda_swiglu_dx,
    .cross_entropy = rondo__cuda_cross_entropy,
    .delta = rondo__cuda_delta,
    .delta_fold = rondo__cuda_delta_fold,
    .delta_backward = rondo__cuda_delta_backward,
    .short_conv = rondo__cuda_short_conv,
    .sigmoid_mul = rondo__cuda_sigmoid_mul,
    .backward_new = rondo__cuda_backward_new,
    .backward_free = rondo__cuda_backward_free,
    .backward_scratch = rondo__cuda_backward_scratch,
    .backward = rondo__cuda_backward,
    .backward_join = rondo__cuda_backward_join,
    .backward_sums = rondo__cuda_backward_sums,
    .backward_sinks = rondo__cuda_backward_sinks,
};

/* Once: other threads may use it already. */
static void connect_services(const struct rondo_services *services)
{
    if (!rondo__cuda_host)
        rondo__cuda_host = services;
}

extern const struct rondo_module rondo_module_entry;
RONDO_API const struct rondo_module rondo_module_entry = { RONDO_MODULE_ABI, RONDO_VERSION_STRING, &rondo__cuda_ops, NULL, connect_services };
