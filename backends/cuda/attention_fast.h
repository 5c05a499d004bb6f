/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Level fast of attention: what follows the library's calls (fast.c). Where their results are the job's, only log(sum(exp)) of each row is to be brought
 * where it belongs, and what the library wrote elsewhere becomes out. Else they are nodes: of a row's result o over some keys and the logarithm z of its
 * sum of exponentials, in double x = z log2(e), M = rint(x), l = 2^(x - M) by the contract's polynomial, and acc = o l: nodes like any other, to be joined
 * with others' by the steps of attention_steps.h.
 */
#ifndef RONDO_CUDA_ATTENTION_FAST_H
#define RONDO_CUDA_ATTENTION_FAST_H

#include "backends/cuda/attention_steps.h"

/* Of both kernels: first, count: tokens of the job. Rows of a batch are few enough to be counted in 32 bits. Here a warp takes a row. */
DEVICE void cuda_fast_kernel(const struct cuda_fast *p, char *shared)
{
    const struct cuda_job job = p->a.jobs[p->job];
    const struct cuda_bind bind = cuda_bind_of(&p->a, p->job);
    float *stack = (float *)(void *)shared + THREAD / 32 * cuda_chunks(p->a.value_dim, CUDA_COLUMNS) * p->a.depth * CUDA_LEVEL;
    const unsigned heads = (unsigned)job.heads, rows = (unsigned)p->a.count * heads;
    ROLLED
    for (unsigned i = (unsigned)(BLOCK * (CUDA_THREADS / 32) + THREAD / 32); i < rows; i += (unsigned)(BLOCKS * (CUDA_THREADS / 32)))
        cuda_steps_row(&p->a, &job, &bind, p->a.first + i / heads, (int)(i % heads), (const struct cuda_tile *)0, 0, p, stack, (float *)0);
}

/* Results of a row that the library did not write where they belong, eight of them, from d on; at: their first, of 16 bits. */
DEVICE void cuda_fast_out(const struct cuda_fast *p, int64_t to, int64_t at)
{
    float x[8];
    cuda_get8(x, p->out, at, p->a.kv_type);
    if (p->grain == 16) {
        cuda_put8(p->a.out, to, p->a.out_type, x);
        return;
    }
    UNROLL
    for (int i = 0; i < 8; i++)
        rondo__put_element(p->a.out, to + i, p->a.out_type, x[i]);
}

/* A thread takes a row, or eight numbers of it, of which the first ones' has its logarithm too. */
DEVICE void cuda_fast_rows_kernel(const struct cuda_fast *p)
{
    const struct cuda_bind bind = cuda_bind_of(&p->a, p->job);
    const unsigned heads = (unsigned)p->a.jobs[p->job].heads, parts = p->out ? (unsigned)p->a.value_dim / 8 : 1, all = (unsigned)p->a.count * heads * parts;
    ROLLED
    for (unsigned i = (unsigned)(BLOCK * CUDA_THREADS + THREAD); i < all; i += (unsigned)(BLOCKS * CUDA_THREADS)) {
        const unsigned row = i / parts, d = i % parts * 8, hq = row % heads;
        const int64_t token = p->a.first + row / heads;
        ROLLED
        for (int n = 0; n < p->calls; n++) {
            const int64_t rows = p->call[n].rows, r = token - p->call[n].first;
            if (r < 0 || r >= rows)
                continue;
            if (p->a.lse && d == 0)
                rondo__put_element(p->a.lse, bind.lse + token * p->a.lse_row + hq * p->a.lse_head, RONDO_F32, p->lse[p->call[n].lse + hq * rows + r]);
            if (p->out)
                cuda_fast_out(p, bind.out + token * p->a.out_row + hq * p->a.out_head + d, p->call[n].out + (r * heads + hq) * p->a.value_dim + d);
        }
    }
}

#endif
