/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What it costs ranks that they are more than cores: who gets a core finds another rank's data in its caches, and reads its own from further away
 * than one that has a core to itself. Neither can be seen by a rank alone. So all ranks take two steps of decoding, of few keys and of many,
 * and what the simulator must know to say as much follows: memory_bandwidth by what many keys take more, then core_turn by what is left.
 */
#include "cli/calibrate.h"

#include <stdlib.h>

enum { FEW = 512, MANY = 2048, HEADS = 16, KV_HEADS = 8, DIM = 64 };   /* keys of a rank: 2 and 8 MiB with their values */
#define BETWEEN 0.01   /* seconds of something else that each rank computes before a step, as a model's other layers do */

static void describe(rondo_attention_desc *d, int ranks, int64_t keys)
{
    *d = (rondo_attention_desc)RONDO_ATTENTION_DESC_INIT;
    d->heads = HEADS, d->kv_heads = KV_HEADS, d->head_dim = DIM, d->causal = 1;
    d->tokens = 1, d->cached = keys * ranks - 1;
    d->algorithm = RONDO_PASS_Q;
}

/* A step, as long as its slowest rank takes. The fastest of some, as elsewhere: but of these the median of several rounds, as with so many ranks
 * and so few cores the fastest of all is one that nobody sees again. */
#define ROUNDS 5

static int step_seconds(rondo_context *world, struct calibrate_tile *tile, int64_t keys, int repeat, double *seconds)
{
    const int ranks = rondo_context_ranks(world);
    double *all = room(ranks, sizeof *all);
    size_t *sizes = room(ranks, sizeof *sizes);
    struct attention a;
    rondo_attention_desc d;
    describe(&d, ranks, keys);
    int code = attention_open(&a, world, &d);
    if (!code && !(all && sizes && tile))
        code = body_fail(RONDO_ENOMEM, "not enough memory for %d ranks", ranks);
    for (int r = 0; r < ranks && !code; r++)
        sizes[r] = sizeof *all;
    double least[ROUNDS];
    for (int i = 0; i < ROUNDS; i++)
        least[i] = 1e30;
    for (int i = -1; i < ROUNDS * repeat && !code; i++) {
        calibrate_tile_rate(tile, BETWEEN);
        code = rondo_barrier(world);
        code = code ? code : rondo_barrier(world);
        const double begin = now();
        code = code ? code : rondo_attention_execute(a.plan, &a.io, NULL);
        double took = now() - begin;
        code = code ? code : rondo_all_gather(world, &took, all, sizes);
        for (int r = 0; r < ranks && !code; r++)
            took = all[r] > took ? all[r] : took;
        if (i >= 0 && !code && took < least[i / repeat])
            least[i / repeat] = took;
    }
    qsort(least, ROUNDS, sizeof *least, ascending);
    *seconds = least[ROUNDS / 2];
    attention_close(&a);
    free(all);
    free(sizes);
    return code;
}

int calibrate_crowd(struct found *f, rondo_context *world)
{
    rondo_context_info info = RONDO_CONTEXT_INFO_INIT;
    int code = rondo_context_query(world, &info);
    if (code || (int64_t)rondo_context_ranks(world) <= f->cores * f->machines)
        return code;
    struct calibrate_tile *tile = calibrate_tile_open(info.isa);
    code = step_seconds(world, tile, FEW, f->b->repeat, &f->step[0]);
    code = code ? code : step_seconds(world, tile, MANY, f->b->repeat, &f->step[1]);
    calibrate_tile_close(tile);
    return code;
}

static int simulate(rondo_schedule *const schedules[2], const rondo_hardware *h, double seconds[2])
{
    int code = 0;
    for (int i = 0; i < 2 && !code; i++)
        code = rondo_schedule_simulate(schedules[i], h, NULL, NULL, &seconds[i]);
    return code;
}

/* Both by halves: the more bandwidth, the less the longer step takes more; the more a turn takes, the longer is the shorter one. Neither goes
 * beyond what a rank alone has, and nobody waits for a turn longer than this. */
#define HALVES 24
#define TURN_MOST 1e-3

static int fit(rondo_schedule *const schedules[2], const double step[2], rondo_hardware *h)
{
    double low = h->memory_bandwidth / 4.0, high = h->memory_bandwidth, seconds[2] = { 0.0, 0.0 };
    int code = 0;
    for (int i = 0; i < HALVES && !code; i++) {
        h->memory_bandwidth = (low + high) / 2.0;
        code = simulate(schedules, h, seconds);
        if (seconds[1] - seconds[0] > step[1] - step[0])
            low = h->memory_bandwidth;
        else
            high = h->memory_bandwidth;
    }
    low = 0.0, high = TURN_MOST;
    for (int i = 0; i < HALVES && !code; i++) {
        h->core_turn = (low + high) / 2.0;
        code = simulate(schedules, h, seconds);
        if (seconds[0] < step[0])
            low = h->core_turn;
        else
            high = h->core_turn;
    }
    h->core_turn = low;                 /* 0 where even without one it would take longer */
    return code;
}

int calibrate_crowd_fit(const struct found *f, int ranks, const char *transport, rondo_hardware *h)
{
    rondo_schedule *schedules[2] = { NULL, NULL };
    rondo_schedule_desc desc = RONDO_SCHEDULE_DESC_INIT;
    rondo_hardware seen = *h;           /* as these ranks see it */
    int code = 0;
    if (!(f->step[0] > 0.0 && f->step[1] > f->step[0] && h->core_slice > 0.0))
        return 0;
    desc.ranks = ranks;
    desc.transport = transport;
    for (int i = 0; i < 2 && !code; i++) {
        rondo_attention_desc d;
        describe(&d, ranks, i ? MANY : FEW);
        code = rondo_schedule_create(&schedules[i], &desc, &d);
    }
    code = code ? code : rondo_hardware_run(&seen, h->in_place, f->hosts == 1, ranks, 1);
    code = code ? code : fit(schedules, f->step, &seen);
    h->memory_bandwidth = seen.memory_bandwidth, h->core_turn = seen.core_turn;
    rondo_schedule_destroy(schedules[0]);
    rondo_schedule_destroy(schedules[1]);
    return code;
}
