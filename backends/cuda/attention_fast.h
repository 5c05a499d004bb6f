/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Level fast of attention: nodes of what the library computed. Of a row's result o over some keys and the logarithm z of its sum of exponentials, in
 * double x = z log2(e), M = rint(x), l = 2^(x - M) by the contract's polynomial, and acc = o l: a node like any other, to be joined with others' nodes. The
 * steps are those of attention_steps.h. Launched by fast.c.
 */
#ifndef RONDO_CUDA_ATTENTION_FAST_H
#define RONDO_CUDA_ATTENTION_FAST_H

#include "backends/cuda/attention_steps.h"

/* first, count: tokens of the job; direct: results are there, only log(sum(exp)) is to be brought where it belongs. A warp takes a row, as there. */
DEVICE void cuda_fast_kernel(const struct cuda_fast *p, char *shared)
{
    const struct cuda_job job = p->a.jobs[p->job];
    const struct cuda_bind bound = cuda_bind_of(&p->a, p->job), *const bind = &bound;
    const int blocks = cuda_chunks(p->a.value_dim, CUDA_COLUMNS);
    float *stack = (float *)(void *)shared + THREAD / 32 * blocks * p->a.depth * CUDA_LEVEL;
    ROLLED
    for (int64_t i = (int64_t)BLOCK * (CUDA_THREADS / 32) + THREAD / 32; i < p->a.count * job.heads; i += (int64_t)BLOCKS * (CUDA_THREADS / 32)) {
        const int64_t token = p->a.first + i / job.heads;
        const int hq = (int)(i % job.heads);
        if (p->direct) {
            ROLLED
            for (int n = 0; n < p->calls && THREAD % 32 == 0; n++)
                if (token >= p->call[n].first && token < p->call[n].first + p->call[n].rows)
                    rondo__put_element(p->a.lse, bind->lse + token * p->a.lse_row + hq * p->a.lse_head, RONDO_F32,
                                       p->memory[p->call[n].lse + hq * p->call[n].rows + (token - p->call[n].first)]);
            continue;
        }
        const struct cuda_tile tile = { .job = p->job, .kv_head = hq / job.group, .first = token * job.group + hq % job.group };
        cuda_steps_row(&p->a, &tile, p, 0, stack, (float *)0);
    }
}

#endif
