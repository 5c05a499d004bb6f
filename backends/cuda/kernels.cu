/* SPDX-License-Identifier: BSD-2-Clause
 *
 * All kernels, as one text (kernel.h says in which languages). What they compute is in the headers; here are their names, which params.h
 * lists too, and how large a block's registers may be. Launched by attention.c, backward.c, delta.c, gradient.c and layers.c.
 */
#include "backends/cuda/attention_double.h"
#include "backends/cuda/attention_fast.h"
#include "backends/cuda/attention_thin.h"
#include "backends/cuda/attention_tile.h"
#include "backends/cuda/attention_unit.h"
#include "backends/cuda/backward_rows.h"
#include "backends/cuda/delta_backward.h"
#include "backends/cuda/delta_chunk.h"
#include "backends/cuda/entropy.h"
#include "backends/cuda/gradient.h"
#include "backends/cuda/linear.h"
#include "backends/cuda/rows.h"

#define ATTENTION(name, blocks, call) \
    KERNEL(name, cuda_attention, CUDA_THREADS, blocks) \
    { \
        SHARED(shared); \
        call; \
    }
ATTENTION(rondo_cuda_leaves, 2, cuda_tile_kernel(&p, shared, 0))
ATTENTION(rondo_cuda_leaves_wide, 1, cuda_tile_kernel(&p, shared, 1))
ATTENTION(rondo_cuda_unit, 2, cuda_unit_kernel(&p, shared, 0))
ATTENTION(rondo_cuda_unit_wide, 1, cuda_unit_kernel(&p, shared, 1))
ATTENTION(rondo_cuda_double, 2, cuda_double_kernel(&p, shared, 0))
ATTENTION(rondo_cuda_double_wide, 2, cuda_double_kernel(&p, shared, 1))
ATTENTION(rondo_cuda_steps, 3, cuda_steps_kernel(&p, shared))

#define THIN(name, blocks, rows, terms) \
    KERNEL(name, cuda_attention, CUDA_THIN_THREADS, blocks) \
    { \
        SHARED(shared); \
        cuda_thin_kernel(&p, shared, rows, terms); \
    }
THIN(rondo_cuda_thin_1, 10, 1, 0)
THIN(rondo_cuda_thin_2, 10, 2, 0)
THIN(rondo_cuda_thin_4, 10, 4, 0)
THIN(rondo_cuda_thin_8, 8, 8, 0)
THIN(rondo_cuda_thin_terms, 6, 8, 1)

KERNEL(rondo_cuda_probabilities, cuda_attention, CUDA_THREADS, 1)
{
    cuda_probabilities_kernel(&p);
}

KERNEL(rondo_cuda_fast, cuda_fast, CUDA_THREADS, 4)
{
    SHARED(shared);
    cuda_fast_kernel(&p, shared);
}

KERNEL(rondo_cuda_fast_rows, cuda_fast, CUDA_THREADS, 4)
{
    cuda_fast_rows_kernel(&p);
}

#define LINEAR(name, blocks, call) \
    KERNEL(name, cuda_linear, CUDA_THREADS, blocks) \
    { \
        SHARED(shared); \
        call; \
    }
LINEAR(rondo_cuda_linear_tile, 2, cuda_linear_tile_kernel(&p, shared))
LINEAR(rondo_cuda_linear_thin_1, 2, cuda_linear_thin_kernel(&p, shared, 1))
LINEAR(rondo_cuda_linear_thin_2, 2, cuda_linear_thin_kernel(&p, shared, 2))
LINEAR(rondo_cuda_linear_thin_4, 2, cuda_linear_thin_kernel(&p, shared, 4))
LINEAR(rondo_cuda_linear_thin_8, 2, cuda_linear_thin_kernel(&p, shared, 8))

KERNEL(rondo_cuda_linear_join, cuda_join, CUDA_THREADS, 1)
{
    cuda_join_kernel(&p);
}

KERNEL(rondo_cuda_rmsnorm, cuda_rmsnorm, CUDA_THREADS, 1)
{
    SHARED(shared);
    cuda_rmsnorm_kernel(&p, (float *)(void *)shared);
}

KERNEL(rondo_cuda_rope, cuda_rope, CUDA_THREADS, 1)
{
    cuda_rope_kernel(&p);
}

KERNEL(rondo_cuda_swiglu, cuda_swiglu, CUDA_THREADS, 1)
{
    cuda_swiglu_kernel(&p);
}

KERNEL(rondo_cuda_convert, cuda_convert, CUDA_THREADS, 1)
{
    cuda_convert_kernel(&p);
}

KERNEL(rondo_cuda_logsumexp, cuda_logsumexp, CUDA_THREADS, 1)
{
    SHARED(shared);
    cuda_logsumexp_kernel(&p, (double *)(void *)shared);
}

KERNEL(rondo_cuda_copy_rows, cuda_rows, CUDA_THREADS, 1)
{
    cuda_copy_rows_kernel(&p);
}

KERNEL(rondo_cuda_back_queries, cuda_backward, CUDA_THREADS, 2)
{
    SHARED(shared);
    cuda_back_kernel(&p, shared, 1);
}

KERNEL(rondo_cuda_back_keys, cuda_backward, CUDA_THREADS, 2)
{
    SHARED(shared);
    cuda_back_kernel(&p, shared, 0);
}

KERNEL(rondo_cuda_back_bias, cuda_backward, CUDA_THREADS, 1)
{
    cuda_back_bias_kernel(&p);
}

KERNEL(rondo_cuda_back_join, cuda_backward, CUDA_THREADS, 1)
{
    cuda_back_join_kernel(&p);
}

KERNEL(rondo_cuda_back_sums, cuda_back_sums, CUDA_THREADS, 1)
{
    cuda_back_sums_kernel(&p);
}

KERNEL(rondo_cuda_back_sinks, cuda_back_sinks, CUDA_THREADS, 1)
{
    cuda_back_sinks_kernel(&p);
}

KERNEL(rondo_cuda_linear_dx, cuda_dx, CUDA_THREADS, 2)
{
    SHARED(shared);
    cuda_dx_kernel(&p, (float *)(void *)shared);
}

KERNEL(rondo_cuda_token_product, cuda_tokens, CUDA_THREADS, 2)
{
    SHARED(shared);
    cuda_token_product_kernel(&p, (float *)(void *)shared);
}

KERNEL(rondo_cuda_token_sum, cuda_tokens, CUDA_THREADS, 1)
{
    cuda_token_sum_kernel(&p);
}

KERNEL(rondo_cuda_rmsnorm_dx, cuda_rmsnorm_dx, CUDA_THREADS, 1)
{
    SHARED(shared);
    cuda_rmsnorm_dx_kernel(&p, (float *)(void *)shared);
}

KERNEL(rondo_cuda_rope_back, cuda_rope, CUDA_THREADS, 1)
{
    cuda_rope_back_kernel(&p);
}

KERNEL(rondo_cuda_swiglu_dx, cuda_swiglu_dx, CUDA_THREADS, 1)
{
    cuda_swiglu_dx_kernel(&p);
}

KERNEL(rondo_cuda_cross_entropy, cuda_entropy, CUDA_THREADS, 1)
{
    SHARED(shared);
    cuda_entropy_kernel(&p, (double *)(void *)shared);
}

KERNEL(rondo_cuda_delta, cuda_delta, CUDA_DELTA_THREADS, 2)
{
    SHARED(shared);
    cuda_delta_kernel_any(&p, (float *)(void *)shared);
}

KERNEL(rondo_cuda_delta_64, cuda_delta, CUDA_DELTA_THREADS, 2)
{
    SHARED(shared);
    cuda_delta_kernel_16(&p, (float *)(void *)shared);
}

KERNEL(rondo_cuda_delta_128, cuda_delta, CUDA_DELTA_THREADS, 2)
{
    SHARED(shared);
    cuda_delta_kernel_32(&p, (float *)(void *)shared);
}

KERNEL(rondo_cuda_delta_chunk, cuda_delta, CUDA_THREADS, 1)
{
    SHARED(shared);
    cuda_delta_chunk_kernel(&p, (float *)(void *)shared);
}

KERNEL(rondo_cuda_delta_fold, cuda_delta_folds, CUDA_THREADS, 1)
{
    cuda_delta_fold_kernel(&p);
}

KERNEL(rondo_cuda_delta_back, cuda_delta_back, CUDA_DELTA_THREADS, 1)
{
    SHARED(shared);
    cuda_delta_back_kernel(&p, (float *)(void *)shared);
}

KERNEL(rondo_cuda_delta_back_tokens, cuda_delta_back, CUDA_THREADS, 1)
{
    cuda_delta_back_tokens_kernel(&p);
}

KERNEL(rondo_cuda_short_conv, cuda_conv, CUDA_THREADS, 1)
{
    cuda_short_conv_kernel(&p);
}

KERNEL(rondo_cuda_sigmoid_mul, cuda_swiglu, CUDA_THREADS, 1)
{
    cuda_sigmoid_mul_kernel(&p);
}
