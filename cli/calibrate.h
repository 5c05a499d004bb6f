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

/* A small piece of attention on one rank of its own, whose rate says how fast a core is at a moment. NULL: no memory. */
enum { TILE_HEADS = 4, TILE_KV_HEADS = 2, TILE_DIM = 128, TILE_TOKENS = 256 };
struct calibrate_tile;
struct calibrate_tile *calibrate_tile_open(const char *isa);
void calibrate_tile_close(struct calibrate_tile *tile);
double calibrate_tile_rate(struct calibrate_tile *tile, double seconds);   /* calls/s, over these seconds; 0: it failed */

#endif
