/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What rondo bench --calibrate finds: calibrate_compute.c on one rank and on all cores, bench_calibrate.c between ranks.
 */
#ifndef RONDO_CLI_CALIBRATE_H
#define RONDO_CLI_CALIBRATE_H

#include "cli/bench.h"

#define CALIBRATE_DIMS 3
#define CALIBRATE_ROWS 8
#define CALIBRATE_STATES 2

struct found {
    const struct bench *b;
    double peak, gemm, read, operation;  /* FLOP/s, FLOP/s, bytes/s, seconds */
    double rate[CALIBRATE_DIMS], edge;
    double part[CALIBRATE_ROWS];        /* of a rate that jobs of calibrate_rows rows reach */
    double delta[2][CALIBRATE_STATES];  /* FLOP/s of the delta rule, and of its gradients */
    double together, slowest;           /* of cores that all compute: what they do, and the slowest of them, in parts of what one does by itself */
    double slice;                       /* seconds that one keeps a core while another one waits for it; 0: not known */
    double bandwidth, latency, burst, inward;
    double join;                        /* bytes/s at which rank 0 joins nodes */
    double step[2];                     /* seconds of calibrate_crowd()'s steps; 0: each rank has a core */
    int64_t hosts, machines;            /* that the ranks are on, by their names and by the systems that they run */
    int64_t cores;                      /* that the ranks of rank 0's machine may use */
    int *share;                         /* [ranks] of these cores: each is one rank's; 0 on other machines */
    bool in_crowd;                      /* this rank is on that machine */
    double idle_cpu;                    /* of the waiting rank that took most of a processor while rank 0 computed, that part */
};

/* Attention of F32 with memory of its own. */
struct attention {
    rondo_attention *plan;
    rondo_attention_io io;
    void *data[5];
};
int attention_open(struct attention *a, rondo_context *ctx, const rondo_attention_desc *d);
void attention_close(struct attention *a);

/* By one process: seconds that a thread keeps a core while another one waits for it; 0: it cannot be known here. */
double calibrate_slice(void);

extern const int64_t calibrate_dims[CALIBRATE_DIMS];   /* of heads, each with a rate */
extern const int64_t calibrate_rows[CALIBRATE_ROWS];   /* of a KV head in a job */
extern const int64_t calibrate_states[CALIBRATE_STATES];   /* sizes of states, each with a rate; the last is also that of all */

int calibrate_delta(struct found *f, rondo_context *ctx, int repeat);   /* by one rank */

/* By all ranks. What rank 0 computes by itself, of the kernels that `world` has, while the others sleep; and what is left of that on each core
 * while all of its machine's are busy, by the ranks that are there, each of which computes on its share. */
int calibrate_computing(struct found *f, rondo_context *world);

/* Where ranks are more than cores: steps of decoding by all ranks, and then, by rank 0, the memory_bandwidth and core_turn with which these are
 * predicted as they were. */
int calibrate_crowd(struct found *f, rondo_context *world);
int calibrate_crowd_fit(const struct found *f, int ranks, const char *transport, rondo_hardware *h);

/* A small piece of attention on one rank of its own, whose rate says how fast a core is at a moment. NULL: no memory. */
enum { TILE_HEADS = 4, TILE_KV_HEADS = 2, TILE_DIM = 128, TILE_TOKENS = 256 };
struct calibrate_tile;
struct calibrate_tile *calibrate_tile_open(const char *isa);
void calibrate_tile_close(struct calibrate_tile *tile);
double calibrate_tile_rate(struct calibrate_tile *tile, double seconds);   /* calls/s, over these seconds; 0: it failed */

#endif
