/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Attention against the FMA ceiling (prefill) or against reading memory (decode).
 */
#include "cli/bench.h"

#include <stdlib.h>
#include <string.h>

struct work {
    const struct bench *b;
    const struct shape *shape;
    const struct extras *extras;
    struct attention_bench *got;
};
struct call {
    rondo_attention *plan;
    rondo_attention_io io;
    rondo_attention_gradients gradients;
    void *workspace;
};

static int execute(void *arg)
{
    struct call *c = arg;
    return rondo_attention_execute(c->plan, &c->io, c->workspace);
}

static int backward(void *arg)
{
    struct call *c = arg;
    return rondo_attention_backward(c->plan, &c->io, &c->gradients, c->workspace);
}

/* Gradients in the shapes of what they are of; data[4]: what they lie in. Then out and lse, which they are made from. */
static int prepare_backward(struct call *c, void *data[4])
{
    rondo_attention_gradients *g = &c->gradients;
    const rondo_tensor *like[4] = { &c->io.out, &c->io.q, &c->io.k, &c->io.v };
    rondo_tensor *t[4] = { &g->dout, &g->dq, &g->dk, &g->dv };
    for (uint32_t i = 0; i < 4; i++) {
        data[i] = bench_numbers(like[i]->shape[0] * like[i]->shape[1] * like[i]->shape[2], RONDO_F32, 4 + i);
        if (!data[i])
            return body_fail(RONDO_ENOMEM, "not enough memory for gradients");
        *t[i] = rondo_tensor_dense(data[i], RONDO_F32, 3, like[i]->shape);
    }
    return rondo_attention_execute(c->plan, &c->io, NULL);
}

/* Keys or values: `rows` rows of `dim` numbers. */
static void *kv_numbers(int64_t rows, int64_t dim, int type, uint32_t stream)
{
    if (type != RONDO_Q8)
        return bench_numbers(rows * dim, type, stream);
    enum { NUMBERS = 4096 };
    const float scale = 0x1p-7f;
    const size_t row = rondo_row_bytes(type, dim);
    float *x = bench_numbers(NUMBERS, RONDO_F32, stream);
    char *data = x ? room(rows, row) : NULL;
    for (int64_t r = 0; data && r < rows; r++) {
        char *to = data + (size_t)r * row;
        for (int64_t i = 0; i < dim; i++)
            to[i] = (char)(int)(127.0f * x[(r * 31 + i) % NUMBERS]);
        memcpy(to + dim, &scale, sizeof scale);
    }
    free(x);
    return data;
}

static int body(rondo_context *ctx, struct slot *mine, void *arg)
{
    const struct work *w = arg;
    const struct shape *s = w->shape;
    struct call c = { NULL, RONDO_ATTENTION_IO_INIT, RONDO_ATTENTION_GRADIENTS_INIT, NULL };
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
    const int64_t value_dim = s->value_dim ? s->value_dim : s->head_dim;
    void *q = NULL, *k = NULL, *v = NULL, *out = NULL, *gradients[4] = { NULL, NULL, NULL, NULL };
    float *lse = NULL;
    extras_describe(w->extras, s, &d);
    d.gradients = s->backward;
    d.arithmetic = common.arithmetic;
    d.layout = common.layout;
    d.algorithm = common.algorithm;
    d.grid[0] = common.grid[0];
    d.grid[1] = common.grid[1];
    int code = rondo_attention_create(&c.plan, ctx, &d);
    if (!code)
        code = rondo_attention_query(c.plan, &info);
    if (code)
        goto end;
    const int64_t q_shape[3] = { info.q_rows, s->heads, s->head_dim }, k_shape[3] = { info.kv_rows, s->kv_heads, s->head_dim };
    const int64_t v_shape[3] = { info.kv_rows, s->kv_heads, value_dim }, o_shape[3] = { info.q_rows, s->heads, value_dim };
    q = bench_numbers(q_shape[0] * q_shape[1] * q_shape[2], RONDO_F32, 0);
    k = kv_numbers(k_shape[0] * k_shape[1], k_shape[2], s->type, 1);
    v = kv_numbers(v_shape[0] * v_shape[1], v_shape[2], s->type, 2);
    out = bench_numbers(o_shape[0] * o_shape[1] * o_shape[2], RONDO_F32, 3);
    lse = room(info.q_rows * s->heads, sizeof *lse);
    c.workspace = room((int64_t)(s->backward ? info.backward_workspace_bytes : info.workspace_bytes), 1);
    if (!q || !k || !v || !out || !lse || !c.workspace) {
        code = body_fail(RONDO_ENOMEM, "not enough memory for %lld queries and %lld keys on a rank", (long long)info.q_rows,
                         (long long)info.kv_rows);
        goto end;
    }
    c.io.q = rondo_tensor_dense(q, RONDO_F32, 3, q_shape);
    c.io.k = rondo_tensor_dense(k, s->type, 3, k_shape);
    c.io.v = rondo_tensor_dense(v, s->type, 3, v_shape);
    c.io.out = rondo_tensor_dense(out, RONDO_F32, 3, o_shape);
    c.io.lse = rondo_tensor_dense(lse, RONDO_F32, 2, (int64_t[]){ info.q_rows, s->heads });
    extras_give(w->extras, s, &c.io);
    const double bytes = (double)(s->cached + 1) * (double)s->kv_heads *
                         (double)(rondo_row_bytes(s->type, s->head_dim) + rondo_row_bytes(s->type, value_dim));
    struct measurement m = { 0, 0, 0, 0, 0, 0 };
    if (s->backward)
        code = prepare_backward(&c, gradients);
    if (!code)
        code = bench_measure(ctx, s->decode ? CEILING_DRAM : CEILING_FMA, 0, w->b->repeat,
                             s->decode ? bytes : s->backward ? info.backward_flops : info.flops, s->backward ? backward : execute, &c, &m);
    if (!code && rondo_context_rank(ctx) == 0) {
        w->got->m = m;
        w->got->algorithm = s->backward ? info.backward_algorithm : info.algorithm;
        w->got->layout = info.layout;
        w->got->chosen_by = info.chosen_by;
        memcpy(w->got->predicted_seconds, info.predicted_seconds, sizeof info.predicted_seconds);
    }
    if (!code && s->hardware)
        code = bench_pace(ctx, w->b->repeat, s->backward ? backward : execute, &c, &w->got->pace);
    slot_measure(mine, ctx);
end:
    rondo_attention_destroy(c.plan);
    free(q);
    free(k);
    free(v);
    free(out);
    free(lse);
    free(c.workspace);
    for (int i = 0; i < 4; i++)
        free(gradients[i]);
    return code;
}

int bench_attention(struct bench *b, const struct shape *shape, int ranks, int threads, struct attention_bench *got, json_t **row)
{
    struct extras extras;
    struct work w = { b, shape, &extras, got };
    struct run run = RUN_INIT;
    memset(got, 0, sizeof *got);
    *row = NULL;
    run.ranks = ranks;
    run.threads = threads;
    memset(&extras, 0, sizeof extras);
    int code = grid_check(ranks);
    if (!code)
        code = extras_make(&extras, shape);
    code = ranks_together(code);
    if (!code)
        code = fail_code(ranks_run(&run, body, &w), STAGE_OPTIONS, run.text);
    if (!code && ranks_first()) {
        *row = row_new(shape->decode ? "decode" : shape->backward ? "backward" : "attention", &run);
        row_shape(*row, shape);
        json_object_set_new(*row, "algorithm", json_string(rondo_algorithm_name(got->algorithm)));
        if (!shape->backward)
            report_choice(*row, got->chosen_by, got->predicted_seconds);
        json_object_set_new(*row, "layout", json_string(rondo_layout_name(got->layout)));
        row_rate(*row, shape->decode ? "gbytes" : "gflops", ceiling_name(shape->decode ? CEILING_DRAM : CEILING_FMA), &got->m);
        if (shape->hardware)
            code = bench_predict(*row, shape, got, &run);
    }
    code = ranks_together(code);
    run_free(&run);
    extras_free(&extras);
    return code;
}
