/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A whole model: prefill against the FMA ceiling (two FLOP for each weight and token), decode against reading memory (all weights
 * and the KV cache once a token), behind the prompt and, to see what the context costs, at its start.
 */
#include "cli/bench.h"
#include "cli/lm_common.h"

#include <stdlib.h>
#include <string.h>

/* Tokens of the prompt that stands for the start of a context. */
#define START 16

struct work {
    const struct bench *b;
    struct models models;
    rondo_model_info info;
    struct measurement prefill, decode, start;     /* rank 0's */
};

/* Weights that a token is multiplied with, on all ranks together. */
static double weights_of(const rondo_model_info *i)
{
    const double hidden = (double)i->hidden, q = (double)(i->heads * i->head_dim), kv = (double)(i->kv_heads * i->head_dim);
    return (double)i->layers * hidden * (2 * q + 2 * kv + 3 * (double)i->intermediate) + hidden * (double)i->vocabulary;
}

/* cpu: of this process, before and after the first new token. */
static int one_run(rondo_context *ctx, struct work *w, int32_t *prompt, int64_t tokens, rondo_lm_counters *counters, double cpu[2])
{
    const struct shape *s = &w->b->shape;
    rondo_lm *lm = NULL;
    rondo_lm_desc d = RONDO_LM_DESC_INIT;
    rondo_sampling sampling = RONDO_SAMPLING_INIT;
    int64_t id, live = 1;
    d.layout = common.layout;
    d.algorithm = common.algorithm;
    sampling.max_tokens = s->new_tokens;
    sampling.ignore_eos = 1;
    for (int64_t i = 0; i < tokens; i++)
        prompt[i] = (int32_t)((i * 7919 + 11) % w->info.vocabulary);
    int code = rondo_lm_create(&lm, ctx, models_of(&w->models, ctx), &d);
    if (!code)
        code = rondo_lm_submit(lm, prompt, tokens, &sampling, &id);
    const double begin = process_cpu();
    double first = 0;
    while (!code && live > 0) {
        rondo_lm_event event;
        const int64_t n = rondo_lm_step(lm, &event, 1, &live);
        if (n < 0)
            code = (int)n;
        first = n > 0 && first <= 0 ? process_cpu() : first;
    }
    cpu[0] = first - begin;
    cpu[1] = process_cpu() - first;
    if (!code)
        code = rondo_lm_count(lm, counters);
    rondo_lm_destroy(lm);
    return code;
}

/* Two numbers of every rank; adds to sums. */
static int take_two(rondo_context *ctx, int ranks, double here[2], size_t *sizes, double *all, double sums[2])
{
    for (int r = 0; r < ranks; r++)
        sizes[r] = 2 * sizeof *here;
    const int code = rondo_all_gather(ctx, here, all, sizes);
    for (int r = 0; r < ranks && !code; r++) {
        sums[0] += all[2 * r];
        sums[1] += all[2 * r + 1];
    }
    return code;
}

/* Both ceilings of all ranks together. */
static int take_ceilings(rondo_context *ctx, struct ceiling *const ceiling[2], int ranks, size_t *sizes, double *all, double sums[2])
{
    double here[2] = { ceiling_rate(ceiling[0], 0), ceiling_rate(ceiling[1], 0) };
    return take_two(ctx, ranks, here, sizes, all, sums);
}

static void settle(struct measurement *m, double *seconds, double *ceilings, double *cpu, int count, double amount)
{
    double rates[BENCH_REPEAT_MOST], fractions[BENCH_REPEAT_MOST];
    for (int i = 0; i < count; i++) {
        rates[i] = seconds[i] > 0 ? amount / seconds[i] : 0;
        fractions[i] = ceilings[i] > 0 ? rates[i] / ceilings[i] : 0;
    }
    m->fraction = median(fractions, count);
    m->rate = median(rates, count);
    m->seconds = median(seconds, count);
    m->ceiling = median(ceilings, count);
    m->cpu = median(cpu, count);
}

static int body(rondo_context *ctx, struct slot *mine, void *arg)
{
    struct work *w = arg;
    const struct shape *s = &w->b->shape;
    const int repeat = w->b->repeat, ranks = rondo_context_ranks(ctx);
    const bool first = rondo_context_rank(ctx) == 0;
    double prefill[BENCH_REPEAT_MOST], decode[BENCH_REPEAT_MOST], fma[BENCH_REPEAT_MOST], dram[BENCH_REPEAT_MOST], start[BENCH_REPEAT_MOST];
    double prefill_cpu[BENCH_REPEAT_MOST], decode_cpu[BENCH_REPEAT_MOST], start_cpu[BENCH_REPEAT_MOST], start_dram[BENCH_REPEAT_MOST];
    double read[2] = { 0, 0 };     /* bytes a token that all ranks read: behind the prompt, at the start */
    struct ceiling *ceiling[2] = { NULL, NULL };
    rondo_context_info info = RONDO_CONTEXT_INFO_INIT;
    int32_t *prompt = room(s->prompt > START ? s->prompt : START, sizeof *prompt);
    size_t *sizes = room(ranks, sizeof *sizes);
    double *all = room((int64_t)ranks * 2, sizeof *all);
    int code = rondo_context_query(ctx, &info);
    for (int i = 0; i < 2 && !code; i++)
        ceiling[i] = ceiling_open(i ? CEILING_DRAM : CEILING_FMA, info.isa, ranks, info.threads, 0);
    if (!code && (!prompt || !ceiling[0] || !ceiling[1] || !sizes || !all))
        code = body_fail(RONDO_ENOMEM, "not enough memory to measure a model");
    for (int i = -2; i < 2 * repeat && !code; i++) {
        const bool at_start = (i & 1) != 0;
        rondo_lm_counters counters = RONDO_LM_COUNTERS_INIT;
        double before[2] = { 0, 0 }, after[2] = { 0, 0 }, cpu[2] = { 0, 0 }, cpus[2] = { 0, 0 }, bytes[2] = { 0, 0 }, all_bytes[2] = { 0, 0 };
        const int k = i / 2;
        code = rondo_barrier(ctx);
        if (!code)
            code = take_ceilings(ctx, ceiling, ranks, sizes, all, before);
        if (!code)
            code = one_run(ctx, w, prompt, at_start ? START : s->prompt, &counters, cpu);
        if (!code)
            code = take_ceilings(ctx, ceiling, ranks, sizes, all, after);
        if (!first && strcmp(info.transport, "mpi"))   /* ranks that are threads share a process and its clock: one of them counts */
            cpu[0] = cpu[1] = 0;
        if (!code)
            code = take_two(ctx, ranks, cpu, sizes, all, cpus);
        bytes[0] = (double)counters.decode_bytes;
        if (!code)
            code = take_two(ctx, ranks, bytes, sizes, all, all_bytes);
        if (i < 0 || code)
            continue;
        const double tokens = counters.decode_tokens ? (double)counters.decode_tokens : 1, seconds = counters.decode_seconds / tokens;
        const double most = before[1] > after[1] ? before[1] : after[1];
        read[at_start] = all_bytes[0] / tokens;
        if (at_start) {
            start[k] = seconds;
            start_cpu[k] = cpus[1] / tokens;
            start_dram[k] = most;
            continue;
        }
        prefill[k] = counters.prefill_seconds;
        decode[k] = seconds;
        prefill_cpu[k] = cpus[0];
        decode_cpu[k] = cpus[1] / tokens;
        fma[k] = before[0] > after[0] ? before[0] : after[0];
        dram[k] = most;
    }
    if (!code && first) {
        settle(&w->prefill, prefill, fma, prefill_cpu, repeat, 2.0 * weights_of(&w->info) * (double)s->prompt);
        settle(&w->decode, decode, dram, decode_cpu, repeat, read[0]);
        settle(&w->start, start, start_dram, start_cpu, repeat, read[1]);
    }
    if (!code)
        slot_measure(mine, ctx);
    free(prompt);
    ceiling_close(ceiling[0]);
    ceiling_close(ceiling[1]);
    free(sizes);
    free(all);
    return code;
}

int bench_generate(struct bench *b, const struct shape *shape)
{
    struct work w;
    struct run run = RUN_INIT;
    memset(&w, 0, sizeof w);
    w.b = b;
    b->shape.prompt = shape->prompt ? shape->prompt : 256;
    b->shape.new_tokens = shape->new_tokens ? shape->new_tokens : 32;
    int code = ranks_together(lm_ranks_check());
    if (!code)
        code = models_open(&w.models, shape->model, MODEL_IDS, 0);
    if (!code) {
        w.info = (rondo_model_info)RONDO_MODEL_INFO_INIT;
        code = fail_library(rondo_model_query(models_any(&w.models), &w.info), STAGE_INPUT);
    }
    code = ranks_together(code);
    if (!code) {
        progress_begin("bench");
        code = fail_code(ranks_run(&run, body, &w), STAGE_OPTIONS, run.text);
    }
    if (!code && ranks_first()) {
        json_t *rows[3] = { row_new("prefill", &run), row_new("decode token", &run), row_new("decode at start", &run) };
        const struct measurement *m[3] = { &w.prefill, &w.decode, &w.start };
        for (int i = 0; i < 3; i++) {
            json_object_set_new(rows[i], "prompt", json_integer(i < 2 ? b->shape.prompt : START));
            json_object_set_new(rows[i], "tokens", json_integer(b->shape.new_tokens));
            report_grid(rows[i], &w.models);
            row_rate(rows[i], i ? "gbytes" : "gflops", ceiling_name(i ? CEILING_DRAM : CEILING_FMA), m[i]);
            code = code ? (json_decref(rows[i]), code) : row_add(b, rows[i]);
        }
    }
    run_free(&run);
    models_close(&w.models);
    return code;
}
