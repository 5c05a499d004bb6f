/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Ways to run a model on a world of ranks: what plan_ways.c finds for `rondo plan run`, and what plan_run.c and plan_pictures.c tell of them.
 */
#ifndef RONDO_CLI_PLAN_WAYS_H
#define RONDO_CLI_PLAN_WAYS_H

#include "cli/cli.h"

#define PLAN_WORLD_MOST 4096
#define PLAN_DIVISIONS 32

/* What is asked for. 0: whatever is best. */
struct plan_wish {
    rondo_cost_case model;
    const rondo_hardware *hardware;
    int64_t tokens, cached, batch, generate, world, tp, cp, bytes, weight_bytes;
    int64_t chunk;                      /* -1: whatever is best; 0: all tokens at once */
    int32_t layout, algorithm, decode_algorithm, kv_type;
    bool narrow;                        /* a cache that rounds what the model computes with may be looked at */
    bool brief;                         /* layouts are the plan's choice, and no chunks where all tokens at once fit */
};

enum { PLAN_LINEAR, PLAN_SHARED, PLAN_ATTENTION, PLAN_OVERHEAD, PLAN_PARTS };
enum { PLAN_WEIGHTS, PLAN_CACHE, PLAN_ACTIVATIONS, PLAN_WORKSPACE, PLAN_HELD };

struct plan_way {
    int64_t tp, cp, chunk;              /* chunk 0: all tokens at once */
    int32_t layout, algorithm, decode_algorithm, kv_type;
    bool narrow;
    double ttft, tpot, request;         /* request: what ways are ranked by */
    double parts[2][PLAN_PARTS];        /* of the prefill and of a decode step; seconds */
    uint64_t memory, held[PLAN_HELD];   /* of a rank in the pass that needs most; memory is the sum */
};

struct plan_list {
    struct plan_way *at;
    int64_t count, room;
};

struct plan_ways {
    struct plan_list list;              /* that fit, the best first */
    struct plan_list skipped;           /* that were not simulated, as they come behind the best one in any case, if they fit: with what they
                                         * take at least, by which they are ordered, and no parts */
    struct plan_way least;              /* of all, the one that needs least memory; memory 0: there is none */
    struct plan_way division[PLAN_DIVISIONS];   /* of each division of the world the same, whether it fits or not */
    int division_count;
    int refused;                        /* why a way cannot be counted: a code, and its sentence */
    char reason[512];
};

/* All of them. An exit code; plan_ways_free() in any case. */
int plan_ways_find(const struct plan_wish *wish, struct plan_ways *ways);
void plan_ways_free(struct plan_ways *ways);
/* The smallest world that has a way that fits; 0: none has. An exit code. */
int plan_ways_smallest(const struct plan_wish *wish, int64_t *world);

/* What a pass takes at least, and what else is predicted of it (plan_bound.c); the attention of it alone. Codes of the library. */
int plan_bound(const rondo_cost_case *c, const rondo_hardware *h, double *seconds, rondo_prediction *p);
double plan_bound_attention(const rondo_cost_case *c, const rondo_hardware *h);

/* --plot (plan_pictures.c). Exit codes. */
int plan_picture_ttft(const struct plan_wish *wish, const char *model, const char *hardware, const char *path);
int plan_picture_memory(const struct plan_ways *ways, const struct plan_wish *wish, const char *model, const char *hardware, const char *path);

#endif
