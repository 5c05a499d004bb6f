/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Linear layers against the FMA ceiling, or where there are few rows against reading memory; the transport against memcpy().
 */
#include "cli/bench.h"

#include <stdlib.h>
#include <string.h>

/* ---- linear ---- */
#define FEW_ROWS 16   /* up to here a layer waits for its weights: each serves for so few products */

struct linear_work {
    const struct bench *b;
    const struct shape *shape;
    enum ceiling_kind ceiling;
    struct measurement m;
};
struct linear_call {
    rondo_context *ctx;
    const rondo_linear *linear;
    const rondo_tokens *tokens;
    int64_t rows, in, out;
    float *x, *y, *dw;
};

static int linear_execute(void *arg)
{
    struct linear_call *c = arg;
    return rondo_linear_execute(c->linear, c->ctx, c->rows, c->x, c->in, c->y, c->out, NULL, 0);
}

static int linear_dx(void *arg)
{
    struct linear_call *c = arg;
    return rondo_linear_dx(c->linear, c->ctx, c->rows, c->y, c->out, 0, c->x, c->in, 0);
}

static int linear_dw(void *arg)
{
    struct linear_call *c = arg;
    return rondo_linear_dw(c->ctx, c->tokens, c->out, c->y, c->out, c->in, c->x, c->in, c->dw, c->in, 0);
}

static int linear_body(rondo_context *ctx, struct slot *mine, void *arg)
{
    struct linear_work *w = arg;
    const struct shape *s = w->shape;
    rondo_linear *linear = NULL;
    rondo_linear_desc d = RONDO_LINEAR_DESC_INIT;
    float *weights = room(s->in, sizeof *weights);
    float *x = room(s->rows * s->in, sizeof *x), *y = room(s->rows * s->out, sizeof *y);
    float *dw = room(s->dw ? s->in * s->out : 1, sizeof *dw);
    rondo_tokens *tokens = NULL;
    rondo_tokens_desc one = RONDO_TOKENS_DESC_INIT;
    int code = 0;
    d.in = s->in;
    d.out = s->out;
    d.type = s->type;
    d.level = common.level;
    one.lengths = &s->rows;
    if (!weights || !x || !y || !dw)
        code = body_fail(RONDO_ENOMEM, "not enough memory for a linear layer of %lld x %lld", (long long)s->in, (long long)s->out);
    if (!code)
        code = rondo_linear_create(&linear, ctx, &d);
    if (!code)
        code = rondo_tokens_create(&tokens, &one);
    for (int64_t o = 0; o < s->out && !code && !s->dw; o++) {
        for (int64_t i = 0; i < s->in; i++)
            weights[i] = (float)((i * 7 + o * 13) % 31 - 15) * 0.03125f;   /* exact in all types but q8 */
        code = rondo_linear_load_from(linear, o, 1, RONDO_F32, weights, NULL);
    }
    for (int64_t i = 0; i < s->rows * s->in && x; i++)
        x[i] = (float)(i % 257 - 128) * 0.0078125f;
    for (int64_t i = 0; i < s->rows * s->out && y; i++)
        y[i] = s->dx || s->dw ? (float)(i % 263 - 131) * 0.0078125f : 0.0f;
    if (dw)
        memset(dw, 0, (size_t)(s->dw ? s->in * s->out : 1) * sizeof *dw);
    struct linear_call c = { ctx, linear, tokens, s->rows, s->in, s->out, x, y, dw };
    struct measurement m = { 0, 0, 0, 0, 0, 0 };
    const double weights_read = (double)rondo_linear_bytes(linear), flops = 2.0 * (double)s->rows * (double)s->in * (double)s->out;
    if (!code)
        code = bench_measure(ctx, w->ceiling, 0, w->b->repeat, w->ceiling == CEILING_DRAM ? weights_read : flops,
                             s->dx ? linear_dx : s->dw ? linear_dw : linear_execute, &c, &m);
    if (!code)
        w->m = m;
    slot_measure(mine, ctx);
    rondo_linear_destroy(linear);
    rondo_tokens_destroy(tokens);
    free(dw);
    free(weights);
    free(x);
    free(y);
    return code;
}

int bench_linear(struct bench *b, const struct shape *shape, int threads, struct measurement *got, json_t **row)
{
    struct linear_work w = { b, shape, shape->rows <= FEW_ROWS && !shape->dx && !shape->dw ? CEILING_DRAM : CEILING_FMA, { 0, 0, 0, 0, 0, 0 } };
    struct run run = RUN_INIT;
    run.ranks = 1;
    run.threads = threads;
    *row = NULL;
    int code = fail_code(ranks_run(&run, linear_body, &w), STAGE_OPTIONS, run.text);
    if (!code && ranks_first()) {
        *row = row_new("linear", &run);
        row_shape(*row, shape);
        row_rate(*row, w.ceiling == CEILING_DRAM ? "gbytes" : "gflops", ceiling_name(w.ceiling), &w.m);
    }
    *got = w.m;
    run_free(&run);
    return code;
}

/* ---- transport ---- */
struct transport_work {
    const struct bench *b;
    size_t bytes;
    struct measurement gather, broadcast, barrier;
};
struct transport_call {
    rondo_context *ctx;
    char *mine, *all;
    size_t bytes, *sizes;
};

static int call_gather(void *arg)
{
    struct transport_call *c = arg;
    return rondo_all_gather(c->ctx, c->mine, c->all, c->sizes);
}

static int call_broadcast(void *arg)
{
    struct transport_call *c = arg;
    return rondo_broadcast(c->ctx, c->mine, c->bytes, 0);
}

#define BARRIERS 50

static int call_barriers(void *arg)
{
    struct transport_call *c = arg;
    int code = 0;
    for (int i = 0; i < BARRIERS && !code; i++)
        code = rondo_barrier(c->ctx);
    return code;
}

static int transport_body(rondo_context *ctx, struct slot *mine, void *arg)
{
    struct transport_work *w = arg;
    const int ranks = rondo_context_ranks(ctx);
    struct transport_call c = { ctx, room((int64_t)w->bytes, 1), room((int64_t)w->bytes * ranks, 1), w->bytes, room(ranks, sizeof(size_t)) };
    struct measurement m[3];
    int code = 0;
    memset(m, 0, sizeof m);
    if (!c.mine || !c.all || !c.sizes)
        code = body_fail(RONDO_ENOMEM, "not enough memory for messages of %zu bytes", w->bytes);
    for (int r = 0; r < ranks && !code; r++)
        c.sizes[r] = w->bytes;
    if (!code) {
        memset(c.mine, 1, w->bytes);
        memset(c.all, 0, w->bytes * (size_t)ranks);
    }
    const double one = (double)w->bytes * (double)(ranks - 1);
    if (!code)
        code = bench_measure(ctx, CEILING_COPY, (int64_t)w->bytes, w->b->repeat, one * (double)ranks, call_gather, &c, &m[0]);
    if (!code)
        code = bench_measure(ctx, CEILING_COPY, (int64_t)w->bytes, w->b->repeat, one, call_broadcast, &c, &m[1]);
    if (!code)
        code = bench_measure(ctx, CEILING_COPY, (int64_t)w->bytes, w->b->repeat, 0, call_barriers, &c, &m[2]);
    if (!code && rondo_context_rank(ctx) == 0) {
        w->gather = m[0];
        w->broadcast = m[1];
        w->barrier = m[2];
    }
    slot_measure(mine, ctx);
    free(c.mine);
    free(c.all);
    free(c.sizes);
    return code;
}

int bench_transport(struct bench *b, const struct shape *shape, int ranks, struct link *got)
{
    struct transport_work w = { b, (size_t)shape->size, { 0, 0, 0, 0, 0, 0 }, { 0, 0, 0, 0, 0, 0 }, { 0, 0, 0, 0, 0, 0 } };
    struct run run = RUN_INIT;
    run.ranks = ranks;
    int code = fail_code(ranks_run(&run, transport_body, &w), STAGE_OPTIONS, run.text);
    if (!code && ranks_first()) {
        json_t *rows[3] = { row_new("all-gather", &run), row_new("broadcast", &run), row_new("barrier", &run) };
        for (int i = 0; i < 3; i++)   /* a barrier carries nothing: 0 bytes, and none of what copying could do */
            json_object_set_new(rows[i], "size", json_integer(i < 2 ? shape->size : 0));
        row_rate(rows[0], "gbytes", ceiling_name(CEILING_COPY), &w.gather);
        row_rate(rows[1], "gbytes", ceiling_name(CEILING_COPY), &w.broadcast);
        w.barrier.seconds /= BARRIERS;
        w.barrier.cpu /= BARRIERS;
        row_rate(rows[2], "gbytes", ceiling_name(CEILING_COPY), &w.barrier);
        if (got) {
            got->bandwidth = w.broadcast.rate;
            got->all_to_all = w.gather.rate / (run.ranks > 1 ? run.ranks : 1);
            got->latency = w.barrier.seconds / 2;
            got->overhead = w.barrier.cpu / run.ranks;
        }
        for (int i = 0; i < 3; i++)
            code = code ? (json_decref(rows[i]), code) : row_add(b, rows[i]);
    }
    run_free(&run);
    return code;
}
