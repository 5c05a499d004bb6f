/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What rondo bench --calibrate finds: calibrate_compute.c on one rank and on all cores, bench_calibrate.c between ranks.
 */
#ifndef RONDO_CLI_CALIBRATE_H
#define RONDO_CLI_CALIBRATE_H

#include "cli/bench.h"

#define CALIBRATE_DIMS 3

struct found {
    const struct bench *b;
    double peak, gemm, read, operation;  /* FLOP/s, FLOP/s, bytes/s, seconds */
    double rate[CALIBRATE_DIMS], edge;
    double together, slowest;           /* of cores that all compute: what they do, and the slowest of them, in parts of what one does by itself */
    double bandwidth, latency, burst, inward;
    int64_t hosts, machines;            /* that the ranks are on, by their names and by the systems that they run */
};

extern const int64_t calibrate_dims[CALIBRATE_DIMS];   /* of heads, each with a rate */

/* What one rank computes by itself, of the kernels that `world` has, and what is left of that on each core while all are busy. */
int calibrate_computing(struct found *f, const rondo_context *world);

#endif
