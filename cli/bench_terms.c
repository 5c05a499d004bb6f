/* SPDX-License-Identifier: BSD-2-Clause
 *
 * bench attention --terms: what masks and terms cost. One plan of each on the same arrays, executed by turns, so that the machine's moods
 * meet all of them; each rate per visible pair is told as a part of the rate that plain causal attention had just before and after. What
 * counts is the time that the one thread ran, not what others of the machine took meanwhile.
 */
#include "cli/bench.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define EVERY 4   /* so many variants run between two plain calls */

static const struct variant {
    const char *name;
    struct shape add;         /* what is set here is set in the shape */
    double limit;             /* the mark in README's table */
} variants[] = {
    { "window of 2048", { .window = { 2048, 0, true } }, 0.85 },
    { "packed, mean 1000", { .packed = 1000 }, 0.85 },
    { "documents, mean 1000", { .documents = 1000 }, 0.85 },
    { "ALiBi", { .alibi = true }, 0.85 },
    { "softcap", { .softcap = 30 }, 0.85 },
    { "sinks", { .sinks = true }, 0.85 },
    { "lengths", { .lengths = true }, 0.85 },
    { "bias", { .bias = true }, 0.70 },
    { "boolean mask", { .mask = true }, 0.70 },
    { "dropout", { .dropout = 0.1 }, 0.60 },
};
#define COUNT ((int)(sizeof variants / sizeof *variants))

struct one {
    struct shape shape;
    struct extras extras;
    rondo_attention *plan;
    rondo_attention_io io;
    double flops, seconds[BENCH_REPEAT_MOST], cpu[BENCH_REPEAT_MOST], part[BENCH_REPEAT_MOST];
};
struct work {
    const struct bench *b;
    struct one all[COUNT + 1];   /* the last is plain */
    void *q, *k, *v, *out, *workspace;
};

static struct shape shape_of(const struct shape *plain, const struct variant *v)
{
    struct shape s = *plain;
    s.window = v->add.window;
    s.packed = v->add.packed;
    s.documents = v->add.documents;
    s.alibi = v->add.alibi;
    s.softcap = v->add.softcap;
    s.sinks = v->add.sinks;
    s.lengths = v->add.lengths;
    s.bias = v->add.bias;
    s.mask = v->add.mask;
    s.dropout = v->add.dropout;
    return s;
}

static int execute(struct work *w, struct one *o, double *seconds, double *cpu)
{
    const double begin = now(), cpu_begin = thread_cpu();
    const int code = rondo_attention_execute(o->plan, &o->io, w->workspace);
    *seconds = now() - begin;
    *cpu = thread_cpu() - cpu_begin;
    return code;
}

/* A round: plain, some variants, plain, some variants, ..., plain; a variant's part is of the mean of the two around it. */
static int round_of(struct work *w, int n)
{
    struct one *plain = &w->all[COUNT];
    double before = 0, after = 0, seconds;
    int code = execute(w, plain, &plain->seconds[n], &before);
    for (int i = 0; i < COUNT && !code; i += EVERY) {
        const int end = i + EVERY < COUNT ? i + EVERY : COUNT;
        for (int k = i; k < end && !code; k++)
            code = execute(w, &w->all[k], &w->all[k].seconds[n], &w->all[k].cpu[n]);
        if (!code)
            code = execute(w, plain, &seconds, &after);
        const double rate = plain->flops / ((before + after) / 2);
        for (int k = i; k < end && !code; k++)
            w->all[k].part[n] = w->all[k].flops / w->all[k].cpu[n] / rate;
        plain->cpu[n] = before = after;
    }
    plain->part[n] = 1;
    return code;
}

static int body(rondo_context *ctx, struct slot *mine, void *arg)
{
    struct work *w = arg;
    const struct shape *s = &w->all[COUNT].shape;
    size_t workspace = 0;
    int code = 0;
    (void)mine;
    const int64_t value_dim = s->value_dim ? s->value_dim : s->head_dim;
    for (int i = 0; i <= COUNT && !code; i++) {
        struct one *o = &w->all[i];
        rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
        rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
        o->io = (rondo_attention_io)RONDO_ATTENTION_IO_INIT;
        extras_describe(&o->extras, &o->shape, &d);
        code = rondo_attention_create(&o->plan, ctx, &d);
        if (!code)
            code = rondo_attention_query(o->plan, &info);
        if (code)
            break;
        o->flops = info.flops;
        workspace = info.workspace_bytes > workspace ? info.workspace_bytes : workspace;
        /* all have the same rows but with lengths, where some keys are missing */
        const int64_t q_shape[3] = { info.q_rows, s->heads, s->head_dim }, k_shape[3] = { info.kv_rows, s->kv_heads, s->head_dim };
        const int64_t v_shape[3] = { info.kv_rows, s->kv_heads, value_dim }, o_shape[3] = { info.q_rows, s->heads, value_dim };
        o->io.q = rondo_tensor_dense(w->q, RONDO_F32, 3, q_shape);
        o->io.k = rondo_tensor_dense(w->k, s->type, 3, k_shape);
        o->io.v = rondo_tensor_dense(w->v, s->type, 3, v_shape);
        o->io.out = rondo_tensor_dense(w->out, RONDO_F32, 3, o_shape);
        extras_give(&o->extras, &o->shape, &o->io);
    }
    w->workspace = room((int64_t)workspace, 1);
    if (!code && !w->workspace)
        code = body_fail(RONDO_ENOMEM, "not enough memory for a workspace of %zu bytes", workspace);
    const int rounds = w->b->repeat;
    for (int n = -1; n < rounds && !code; n++) {   /* the first one warms up */
        code = round_of(w, n < 0 ? 0 : n);
        progress_set((uint64_t)(n + 2), (uint64_t)(rounds + 1));
    }
    for (int i = 0; i <= COUNT; i++)
        rondo_attention_destroy(w->all[i].plan);
    free(w->workspace);
    return code;
}

static int report(struct bench *b, struct work *w, const struct run *run)
{
    const struct one *plain = &w->all[COUNT];
    double cpu[BENCH_REPEAT_MOST];
    int code = 0;
    memcpy(cpu, plain->cpu, sizeof cpu);
    const double plain_rate = plain->flops / median(cpu, b->repeat);
    for (int i = COUNT, n = 0; n <= COUNT && !code; i = n++) {
        struct one *o = &w->all[i];
        struct measurement m = { .ceiling = plain_rate };
        m.fraction = median(o->part, b->repeat);
        m.seconds = median(o->seconds, b->repeat);
        m.cpu = median(o->cpu, b->repeat);
        m.rate = o->flops / m.cpu;
        json_t *row = row_new("attention", run);
        json_object_set_new(row, "variant", json_string(i == COUNT ? "causal" : variants[i].name));
        row_shape(row, &o->shape);
        row_rate(row, "gflops", "causal", &m);
        if (b->check && i < COUNT) {
            char what[64];
            snprintf(what, sizeof what, "%s: rate per visible pair, of causal's", variants[i].name);
            bench_judge(b, row, what, m.fraction, false, variants[i].limit);
        }
        code = row_add(b, row);
    }
    return code;
}

int bench_terms(struct bench *b, const struct shape *shape)
{
    struct work *w = room(1, sizeof *w);
    struct run run = RUN_INIT;
    int code = w ? 0 : fail(EXIT_ROOM, "not enough memory for the variants");
    if (w)
        memset(w, 0, sizeof *w);
    for (int i = 0; i <= COUNT && !code; i++) {
        w->all[i].shape = i == COUNT ? *shape : shape_of(shape, &variants[i]);
        code = extras_make(&w->all[i].extras, &w->all[i].shape);
    }
    if (!code) {
        const int64_t value_dim = shape->value_dim ? shape->value_dim : shape->head_dim, rows = shape->tokens;
        w->b = b;
        w->q = bench_numbers(rows * shape->heads * shape->head_dim, RONDO_F32, 0);
        w->k = bench_numbers(rows * shape->kv_heads * shape->head_dim, shape->type, 1);
        w->v = bench_numbers(rows * shape->kv_heads * value_dim, shape->type, 2);
        w->out = bench_numbers(rows * shape->heads * value_dim, RONDO_F32, 3);
        if (!w->q || !w->k || !w->v || !w->out)
            code = fail(EXIT_ROOM, "not enough memory for %lld tokens", (long long)rows);
    }
    run.ranks = 1;
    run.threads = 1;
    if (!code)
        code = fail_code(ranks_run(&run, body, w), STAGE_OPTIONS, run.text);
    if (!code)
        code = report(b, w, &run);
    run_free(&run);
    for (int i = 0; i <= COUNT && w; i++)
        extras_free(&w->all[i].extras);
    if (w) {
        free(w->q);
        free(w->k);
        free(w->v);
        free(w->out);
    }
    free(w);
    return code;
}
