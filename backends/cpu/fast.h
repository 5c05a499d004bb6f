/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Level fast: what linear_ops.c asks of a library for matrices.
 */
#ifndef RONDO_CPU_FAST_H
#define RONDO_CPU_FAST_H

#include "backends/cpu/layers.h"

/* Rows from which on a layer of level fast is the library's; fewer wait for their weights, whoever computes. */
#define RONDO_CPU_FAST_ROWS 32

/* 0, or a code and a sentence: the library that configure found is there. Tells, once, of one that takes the machine for an older one. */
int rondo__cpu_fast_open(void);
/* Bytes of scratch of one worker. */
size_t rondo__cpu_fast_bytes(void);
/* Panels [panel0, panel1) of a job, at most RONDO_CPU_FAST_PANELS of them, on the calling thread. */
#define RONDO_CPU_FAST_PANELS 8
void rondo__cpu_fast_run(const struct rondo_cpu_linear *kernels, const struct rondo_cpu_linear_job *job, int64_t panel0, int64_t panel1,
                         float *scratch);
/* Whether an OpenBLAS of this core type would compute at less than the speed of the machine, whose best set is `isa`. */
bool rondo__cpu_fast_slow_core(const char *core, int isa);

#endif
