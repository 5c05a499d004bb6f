/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Attention of level fast: what program.c and attention.c call (fast.c).
 */
#ifndef RONDO_CUDA_FAST_H
#define RONDO_CUDA_FAST_H

#include "backends/cuda/program.h"

#define CUDA_FAST_QUERIES 64       /* of a sequence, from which on the library has them: fewer read keys as fast as memory gives them in any case */
#define CUDA_FAST_DIM 256          /* of a head, at most */

struct cuda_fast_batch {           /* rows of a job whose calls have room in scratch together */
    int64_t first, rows, call, floats, halves;   /* of scratch for what its calls leave, numbers */
    int32_t calls, alone;          /* alone: its calls' results are the job's */
};
struct cuda_fast_job {             /* batches 0: a job of the strict kernels */
    int64_t batch;
    int32_t batches, reserved;
};
struct rondo__cuda_place {         /* a job's first element in the run's arrays */
    int64_t q, out, lse;
};

static inline bool rondo__cuda_fast_has(const struct rondo_program *p, int64_t job)
{
    return p->fast_jobs.count && ((const struct cuda_fast_job *)p->fast_jobs.data)[job].batches;
}

/* Of a program of level fast: the library is opened, or its lack refused with a sentence, and lists are made. Of another one: nothing. */
int rondo__cuda_fast_program(struct rondo_device *dev, struct rondo_program *p);
/* Into the stream. *done 0, and nothing else happened, where the library cannot do it. Scratch is the caller's. */
int rondo__cuda_fast_run(struct rondo_device *dev, struct rondo_stream *stream, const struct rondo_program *p, const struct rondo_attention_run *run, int64_t number,
                         const struct rondo__cuda_place *place, const struct cuda_attention *c, int *done);

#endif
