/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What --hardware predicts beside what was measured. Clocks and neighbours change a core's speed within seconds, so that a hardware file is
 * right about a machine only now and then: on a virtual one, cores were seen at two thirds of the speed that they had a second before. So
 * errors come twice: that of the file, and that of the model on the cores as they were at the moment of each sample, which a small piece of
 * attention that all ranks compute right before and right after it tells, in parts of what the file says of that piece.
 */
#include "cli/calibrate.h"
#include "cli/plan.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define LOOK 0.005       /* seconds; more where ranks have no cores of their own, and take turns within this */
#define LOOK_CROWDED 0.04
#define STEADY 0.05      /* samples that saw more of a change count only where all did */

struct look {            /* of a rank, of a sample */
    double seconds, before, after;
};

static void gather(struct pace *out, const struct look *all, int ranks, int repeat)
{
    memset(out, 0, sizeof *out);
    out->count = repeat;
    for (int i = 0; i < repeat; i++)
        for (int r = 0; r < ranks; r++) {
            struct moment *m = &out->moments[i];
            const struct look *k = &all[r * repeat + i];
            const double mean = (k->before + k->after) / 2.0, step = mean > 0.0 ? (k->after - k->before) / mean : 0.0;
            m->seconds = k->seconds > m->seconds ? k->seconds : m->seconds;
            m->all += mean;
            m->fastest = mean > m->fastest ? mean : m->fastest;
            m->slowest = r == 0 || mean < m->slowest ? mean : m->slowest;
            m->change = step > m->change ? step : -step > m->change ? -step : m->change;
        }
}

static bool crowded(int ranks)
{
    return ranks > sysconf(_SC_NPROCESSORS_ONLN);
}

int bench_pace(rondo_context *ctx, int repeat, bench_call *call, void *arg, struct pace *out)
{
    const int ranks = rondo_context_ranks(ctx);
    const double window = crowded(ranks) ? LOOK_CROWDED : LOOK;
    rondo_context_info info = RONDO_CONTEXT_INFO_INIT;
    struct calibrate_tile *tile = NULL;
    struct look mine[BENCH_REPEAT_MOST], *all = room((int64_t)ranks * repeat, sizeof *all);
    size_t *sizes = room(ranks, sizeof *sizes);
    int code = rondo_context_query(ctx, &info);
    if (!code)
        tile = calibrate_tile_open(info.isa);
    if (!code && (!all || !sizes || !tile))
        code = body_fail(RONDO_ENOMEM, "not enough memory to look at the speed of cores");
    for (int i = -1; i < repeat && !code; i++) {
        struct look k = { 0.0, 0.0, 0.0 };
        code = rondo_barrier(ctx);
        if (!code)
            k.before = calibrate_tile_rate(tile, window);
        code = code ? code : rondo_barrier(ctx);
        const double begin = now();
        code = code ? code : call(arg);
        k.seconds = now() - begin;
        code = code ? code : rondo_barrier(ctx);
        if (!code)
            k.after = calibrate_tile_rate(tile, window);
        if (i >= 0)
            mine[i] = k;
    }
    for (int r = 0; r < ranks && !code; r++)
        sizes[r] = (size_t)repeat * sizeof *mine;
    code = code ? code : rondo_all_gather(ctx, mine, all, sizes);
    if (!code && rondo_context_rank(ctx) == 0)
        gather(out, all, ranks, repeat);
    calibrate_tile_close(tile);
    free(all);
    free(sizes);
    return code;
}

/* What is predicted: attention, or the delta rule. */
struct subject {
    const rondo_cost_case *attention;
    const rondo_delta_desc *delta;     /* NULL: attention */
    const struct run *run;             /* of the delta rule */
    bool backward;
};

static int schedule_seconds(double *seconds, const struct subject *x, const rondo_hardware *h)
{
    rondo_schedule *s = NULL;
    rondo_schedule_desc d = RONDO_SCHEDULE_DESC_INIT;
    d.ranks = x->run->ranks;
    d.backward = x->backward;
    d.transport = x->run->transport;
    int code = fail_library(rondo_schedule_delta(&s, &d, x->delta), STAGE_INPUT);
    code = code ? code : fail_library(rondo_schedule_simulate(s, h, NULL, NULL, seconds), STAGE_INPUT);
    rondo_schedule_destroy(s);
    return code;
}

static int seconds_of(double *seconds, const struct subject *x, const rondo_hardware *h)
{
    rondo_prediction p = RONDO_PREDICTION_INIT;
    if (x->delta)
        return schedule_seconds(seconds, x, h);
    const int code = fail_library(rondo_predict(x->attention, h, RONDO_PREDICT_RUN, &p), STAGE_INPUT);
    *seconds = p.layer_attention;
    return code;
}

/* The hardware as it was at a moment; piece: seconds that the file predicts of calibrate_tile_rate()'s. Ranks that take turns say together
 * what the cores do, but nothing of one of them. */
static rondo_hardware hardware_at(const rondo_hardware *file, const struct moment *m, double piece, int ranks)
{
    rondo_hardware h = *file;
    const double one = crowded(ranks) ? 1.0 : m->fastest * piece;
    double *const rates[] = { &h.gemm_flops, &h.attention_flops, &h.attention_rates[0], &h.attention_rates[1], &h.attention_rates[2],
                              &h.attention_rates[3], &h.delta_flops, &h.delta_backward_flops };
    for (size_t i = 0; i < sizeof rates / sizeof *rates; i++)
        *rates[i] *= one;
    for (size_t i = 0; i < sizeof h.delta_rates / sizeof *h.delta_rates; i++)
        h.delta_rates[i] *= one, h.delta_backward_rates[i] *= one;
    if (ranks > 1)
        h.cores = m->all * piece / one;
    if (ranks > 1 && !crowded(ranks))
        h.core_slowest = m->slowest / m->fastest;
    return h;
}

static int errors_at_pace(json_t *row, const struct subject *x, const rondo_hardware *file, const struct pace *pace, int ranks)
{
    double errors[BENCH_REPEAT_MOST], paces[BENCH_REPEAT_MOST], piece = 0.0;
    int count = 0, steady = 0;
    rondo_cost_case tile = RONDO_COST_CASE_INIT;
    const struct subject piece_of = { &tile, NULL, NULL, false };
    tile.algorithm = RONDO_PASS_KV;
    tile.phase = RONDO_COST_PREFILL, tile.causal = 1, tile.context_parallel = 1, tile.batch_size = 1, tile.bytes_per_elem = 4;
    tile.skip_projections = RONDO_COST_Q | RONDO_COST_K | RONDO_COST_V | RONDO_COST_O;
    tile.num_heads = TILE_HEADS, tile.num_kv_heads = TILE_KV_HEADS, tile.head_dim = TILE_DIM, tile.hidden_size = TILE_HEADS * TILE_DIM;
    tile.new_tokens = TILE_TOKENS, tile.past_seq_len = 0;
    int code = seconds_of(&piece, &piece_of, file);
    for (int i = 0; i < pace->count; i++)
        steady += pace->moments[i].change <= STEADY;
    for (int i = 0; i < pace->count && !code; i++) {
        const struct moment *m = &pace->moments[i];
        double seconds = 0.0;
        if ((steady && m->change > STEADY) || !(m->fastest > 0.0))
            continue;
        const rondo_hardware h = hardware_at(file, m, piece, ranks);
        code = seconds_of(&seconds, x, &h);
        paces[count] = m->all * piece / (double)ranks;
        errors[count++] = seconds / m->seconds - 1.0;
    }
    if (!code && count) {
        json_object_set_new(row, "pace", number(median(paces, count)));
        json_object_set_new(row, "pace_error", number(median(errors, count)));
    }
    return code;
}

/* The prediction of a row, and its errors. A rank of the file has one thread where it says how many share cores; they are those of one process, or
 * of one machine, unless it says that a node has fewer. Neighbours only slow a machine down, so the fastest run says what it can do; but between hosts
 * runs differ by when messages meet, the fastest is the one that was lucky with it, and what is predicted is the usual. */
static int predict(json_t *row, const struct subject *x, const char *hardware, const struct measurement *m, const struct pace *pace,
                   const struct run *run)
{
    rondo_hardware h = RONDO_HARDWARE_INIT;
    double seconds = 0.0;
    int code = plan_hardware(hardware, &h);
    const bool mpi = !strcmp(run->transport, "mpi"), together = !mpi || ranks_here() == run->ranks;
    if (!code)
        code = fail_library(rondo_hardware_run(&h, !mpi, together, run->ranks, run->used_threads), STAGE_INPUT);
    code = code ? code : seconds_of(&seconds, x, &h);
    if (code)
        return code;
    json_object_set_new(row, "predicted_seconds", number(seconds));
    json_object_set_new(row, "error", number(seconds / (together ? m->least : m->seconds) - 1.0));
    return !pace || run->used_threads > 1 ? 0 : errors_at_pace(row, x, &h, pace, run->ranks);
}

int bench_predict(json_t *row, const struct shape *s, const struct attention_bench *got, const struct run *run)
{
    rondo_cost_case c = RONDO_COST_CASE_INIT;
    const struct subject x = { &c, NULL, run, false };
    c.phase = s->decode ? RONDO_COST_DECODE : RONDO_COST_PREFILL;
    c.algorithm = got->algorithm;
    c.grid[0] = common.grid[0], c.grid[1] = common.grid[1];
    c.hidden_size = s->heads * s->head_dim;
    c.num_heads = s->heads, c.num_kv_heads = s->kv_heads, c.head_dim = s->head_dim;
    c.batch_size = 1, c.new_tokens = s->decode ? 1 : s->tokens, c.past_seq_len = s->cached;
    c.bytes_per_elem = 4, c.causal = s->causal, c.context_parallel = run->ranks;
    c.skip_projections = RONDO_COST_Q | RONDO_COST_K | RONDO_COST_V | RONDO_COST_O;
    if (s->window.given)
        c.windowed = 1, c.window_left = s->window.left, c.window_right = s->window.right;
    return predict(row, &x, s->hardware, &got->m, s->decode ? NULL : &got->pace, run);
}

int bench_predict_delta(json_t *row, const char *hardware, const rondo_delta_desc *desc, bool backward, const struct measurement *m,
                        const struct pace *pace, const struct run *run)
{
    const struct subject x = { NULL, desc, run, backward };
    return predict(row, &x, hardware, m, desc->tokens == 1 ? NULL : pace, run);
}
