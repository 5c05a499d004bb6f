/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo bench kda: the gated delta rule against what its instructions allow, ranks against one by turns, and decoding against reading memory
 * and writing it in place.
 *
 * A number of a state costs a token three fused multiply-adds and a multiplication: 7 FLOP in four instructions that all go through the units of
 * fused multiply-adds, which could do 8 in them. So the mix allows 7/8 of the FMA ceiling; its load, its store and a share of the broadcasts of
 * decays, keys and queries come to 1.5 and 1 for each four of those, which two units for loads and one for stores do meanwhile.
 */
#include "cli/bench.h"

#include <stdlib.h>
#include <string.h>

#define MIX (7.0 / 8.0)
/* Of gradients, which make each state twice once more: 27 FLOP in fifteen instructions. */
#define MIX_BACKWARD (9.0 / 10.0)
#define ROUNDS 5

struct kda_case {
    const struct shape *shape;
    int way;
    int64_t sequences;
    int repeat;
    struct measurement m;
    int ran, planned;                  /* the way that did, and, where that is the gradients', that of the plan, whose layout they have */
    struct pace pace;                  /* where the shape has hardware */
};

struct arrays {
    float *q, *k, *v, *g, *beta, *out, *states;
    float *dq, *dk, *dv, *dg, *dbeta;
};

struct call {
    rondo_delta *plan;
    rondo_delta_io io;
    rondo_delta_gradients gradients;
};

static int execute(void *arg)
{
    struct call *c = arg;
    return rondo_delta_execute(c->plan, &c->io);
}

static int execute_backward(void *arg)
{
    struct call *c = arg;
    return rondo_delta_backward(c->plan, &c->io, &c->gradients);
}

static void arrays_free(struct arrays *a)
{
    float *const all[] = { a->q, a->k, a->v, a->g, a->beta, a->out, a->states, a->dq, a->dk, a->dv, a->dg, a->dbeta };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

static rondo_tensor dense(float *data, int dims, int64_t a, int64_t b, int64_t c, int64_t d)
{
    const int64_t shape[] = { a, b, c, d };
    return rondo_tensor_dense(data, RONDO_F32, dims, shape);
}

static int prepare(struct call *c, struct arrays *a, const struct shape *s, int64_t rows, int64_t sequences)
{
    const int64_t kd = s->head_dim, vd = s->value_dim ? s->value_dim : kd, states = s->decode ? sequences * s->heads * kd * vd : 0;
    a->q = bench_numbers(rows * s->kv_heads * kd, RONDO_F32, 0);
    a->k = bench_numbers(rows * s->kv_heads * kd, RONDO_F32, 1);
    a->v = bench_numbers(rows * s->heads * vd, RONDO_F32, 2);
    a->g = bench_numbers(rows * s->heads * kd, RONDO_F32, 3);
    a->beta = bench_numbers(rows * s->heads, RONDO_F32, 4);
    a->out = bench_numbers(rows * s->heads * vd, RONDO_F32, 5);
    a->states = states ? bench_numbers(states, RONDO_F32, 6) : NULL;
    if (!a->q || !a->k || !a->v || !a->g || !a->beta || !a->out || (states && !a->states))
        return body_fail(RONDO_ENOMEM, "not enough memory for %lld tokens and %lld states on a rank", (long long)rows, (long long)(sequences * s->heads));
    for (int64_t i = 0; i < rows * s->heads * kd; i++)
        a->g[i] = a->g[i] < 0.0f ? a->g[i] : -a->g[i];
    c->io.q = dense(a->q, 3, rows, s->kv_heads, kd, 0);
    c->io.k = dense(a->k, 3, rows, s->kv_heads, kd, 0);
    c->io.v = dense(a->v, 3, rows, s->heads, vd, 0);
    c->io.g = dense(a->g, 3, rows, s->heads, kd, 0);
    c->io.beta = dense(a->beta, 2, rows, s->heads, 0, 0);
    c->io.out = dense(a->out, 3, rows, s->heads, vd, 0);
    if (states)
        c->io.initial_state = c->io.final_state = dense(a->states, 4, sequences, s->heads, kd, vd);
    return 0;
}

/* Gradients, of a loss whose gradient with respect to out is what prepare() has put there. */
static int prepare_backward(struct call *c, struct arrays *a, const struct shape *s, int64_t rows)
{
    const int64_t kd = s->head_dim, vd = s->value_dim ? s->value_dim : kd;
    a->dq = bench_numbers(rows * s->kv_heads * kd, RONDO_F32, 0);
    a->dk = bench_numbers(rows * s->kv_heads * kd, RONDO_F32, 0);
    a->dv = bench_numbers(rows * s->heads * vd, RONDO_F32, 0);
    a->dg = bench_numbers(rows * s->heads * kd, RONDO_F32, 0);
    a->dbeta = bench_numbers(rows * s->heads, RONDO_F32, 0);
    if (!a->dq || !a->dk || !a->dv || !a->dg || !a->dbeta)
        return body_fail(RONDO_ENOMEM, "not enough memory for the gradients of %lld tokens on a rank", (long long)rows);
    c->gradients.dout = c->io.out;
    c->gradients.dq = dense(a->dq, 3, rows, s->kv_heads, kd, 0);
    c->gradients.dk = dense(a->dk, 3, rows, s->kv_heads, kd, 0);
    c->gradients.dv = dense(a->dv, 3, rows, s->heads, vd, 0);
    c->gradients.dg = dense(a->dg, 3, rows, s->heads, kd, 0);
    c->gradients.dbeta = dense(a->dbeta, 2, rows, s->heads, 0, 0);
    return 0;
}

static rondo_delta_desc describe(const struct kda_case *w)
{
    const struct shape *s = w->shape;
    rondo_delta_desc d = RONDO_DELTA_DESC_INIT;
    d.heads = s->heads;
    d.key_heads = s->kv_heads;
    d.key_dim = s->head_dim;
    d.value_dim = s->value_dim;
    d.sequences = w->sequences;
    d.tokens = s->decode ? 1 : s->tokens;
    d.norm = 1;
    d.beta = RONDO_BETA_SIGMOID;
    d.way = w->way;
    d.initial_state = d.final_state = s->decode;
    d.gradients = s->backward;
    return d;
}

static int body(rondo_context *ctx, struct slot *mine, void *arg)
{
    struct kda_case *w = arg;
    const struct shape *s = w->shape;
    struct call c = { NULL, RONDO_DELTA_IO_INIT, RONDO_DELTA_GRADIENTS_INIT };
    struct arrays a = { NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL };
    rondo_delta_info info = RONDO_DELTA_INFO_INIT;
    struct measurement m = { 0, 0, 0, 0, 0, 0 };
    const rondo_delta_desc d = describe(w);
    int code = rondo_delta_create(&c.plan, ctx, &d);
    if (!code)
        code = rondo_delta_query(c.plan, &info);
    if (!code)
        code = prepare(&c, &a, s, info.rows, w->sequences);
    if (!code && s->backward)
        code = prepare_backward(&c, &a, s, info.rows);
    if (!code)
        code = bench_measure(ctx, s->decode ? CEILING_UPDATE : CEILING_FMA, 0, w->repeat,
                             s->decode ? (double)w->sequences * (double)(s->heads * s->head_dim) * (double)(s->value_dim ? s->value_dim : s->head_dim) * 4.0
                             : s->backward ? info.backward_flops
                                           : info.flops, s->backward ? execute_backward : execute, &c, &m);
    if (!code && rondo_context_rank(ctx) == 0) {
        w->m = m;
        w->ran = s->backward ? info.backward_way : info.way;
        w->planned = info.way;
    }
    if (!code && s->hardware) {
        struct pace pace;
        code = bench_pace(ctx, w->repeat, s->backward ? execute_backward : execute, &c, &pace);
        if (rondo_context_rank(ctx) == 0)
            w->pace = pace;
    }
    slot_measure(mine, ctx);
    rondo_delta_destroy(c.plan);
    arrays_free(&a);
    return code;
}

static int measure(struct kda_case *w, int ranks, int threads, struct run *run)
{
    run->ranks = ranks;
    run->threads = threads;
    return fail_code(ranks_run(run, body, w), STAGE_OPTIONS, run->text);
}

/* more: what is to be read besides, or "". */
static json_t *row_of(const char *what, const struct kda_case *w, const struct run *run, const char *more)
{
    const struct shape *s = w->shape;
    const struct {
        const char *name;
        int64_t value;
    } counts[] = { { "tokens", s->decode ? 1 : s->tokens }, { "sequences", w->sequences }, { "heads", s->heads }, { "key_heads", s->kv_heads },
                   { "head_dim", s->head_dim }, { "value_dim", s->value_dim ? s->value_dim : s->head_dim } };
    char text[96];
    json_t *row = row_new(what, run);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        json_object_set_new(row, counts[i].name, json_integer(counts[i].value));
    snprintf(text, sizeof text, "N=%lld T=%lld H=%lld D=%lld %s%s", (long long)w->sequences, (long long)counts[0].value, (long long)s->heads,
             (long long)s->head_dim, rondo_delta_way_name(w->ran), more);
    json_object_set_new(row, "type", json_string(rondo_type_name(s->type)));
    json_object_set_new(row, "way", json_string(rondo_delta_way_name(w->ran)));
    json_object_set_new(row, "variant", json_string(text));
    return row;
}

/* One plan against a ceiling. */
static int plain(struct bench *b, const struct shape *s, int way, int ranks)
{
    struct kda_case w = { .shape = s, .way = way, .sequences = s->decode ? s->cached : 1, .repeat = b->repeat };
    struct run run = RUN_INIT;
    json_t *row = NULL;
    int code = measure(&w, ranks, 0, &run);
    if (!code && ranks_first()) {
        const double mix = w.m.fraction / (s->backward ? MIX_BACKWARD : MIX);
        char more[32] = "";
        if (!s->decode)
            snprintf(more, sizeof more, ", %.3f of mix", mix);
        row = row_of(s->decode ? "kda decode" : s->backward ? "kda backward" : "kda", &w, &run, more);
        row_rate(row, s->decode ? "gbytes" : "gflops", ceiling_name(s->decode ? CEILING_UPDATE : CEILING_FMA), &w.m);
        if (!s->decode)
            json_object_set_new(row, "mix_fraction", number(mix));
        if (b->check && s->decode)
            bench_judge(b, row, "decoding, states read and written: part of updating memory", w.m.fraction, false, 0.85);
        else if (b->check && !s->backward)
            bench_judge(b, row, "the delta rule, D=128: part of what its instructions allow", mix, false, 0.90);
        if (s->hardware) {
            rondo_delta_desc d = describe(&w);
            d.way = w.planned;
            code = bench_predict_delta(row, s->hardware, &d, s->backward, &w.m, &w.pace, &run);
        }
        if (code)
            json_decref(row);
        else
            code = row_add(b, row);
    }
    run_free(&run);
    return code;
}

/* Ranks with a thread each against one of them alone, by CPU time, in turns, so that the machine's moods meet both. */
static int compare(struct bench *b, const struct shape *s, int way, int ranks, double limit)
{
    double ratio[ROUNDS] = { 0 }, rate[ROUNDS] = { 0 };
    struct kda_case one = { .shape = s, .way = RONDO_DELTA_SERIAL, .sequences = 1, .repeat = 1 }, many = one;
    struct run run = RUN_INIT;
    int code = 0;
    many.way = way;
    for (int i = 0; i < ROUNDS && !code; i++) {
        run_free(&run);
        run = (struct run)RUN_INIT;
        code = measure(&one, 1, 1, &run);
        run_free(&run);
        run = (struct run)RUN_INIT;
        if (!code)
            code = measure(&many, ranks, 1, &run);
        if (!code) {
            ratio[i] = one.m.cpu / many.m.cpu;
            rate[i] = one.m.rate;
        }
    }
    if (!code) {
        json_t *row = row_of("kda ranks", &many, &run, "");
        const double fraction = median(ratio, ROUNDS);
        many.m.ceiling = median(rate, ROUNDS);
        many.m.fraction = fraction;
        many.m.rate = fraction * many.m.ceiling;   /* of one rank's time */
        row_rate(row, "gflops", "one-rank", &many.m);
        if (b->check)
            bench_judge(b, row, "ranks: CPU time of one rank against that of all", fraction, false, limit);
        code = row_add(b, row);
    }
    run_free(&run);
    return code;
}

int bench_kda(struct bench *b, struct shape *s, int way, int ranks)
{
    static const struct {
        int way;
        double limit;
    } ways[] = { { RONDO_DELTA_COLUMNS, 0.90 }, { RONDO_DELTA_PIPELINE, 0.90 }, { RONDO_DELTA_AFFINE, 0.41 } };
    const bool all = !s->decode && !s->backward && !ranks && way < 0 && !s->hardware;
    int code = 0;
    s->type = RONDO_F32;
    s->heads = s->heads ? s->heads : 32;
    s->kv_heads = s->kv_heads ? s->kv_heads : s->heads;
    s->head_dim = s->head_dim ? s->head_dim : 128;
    s->tokens = s->tokens ? s->tokens : 2048;
    s->cached = s->cached ? s->cached : 256;
    if (s->heads % s->kv_heads)
        return fail(EXIT_USAGE, "--heads %lld is no multiple of --key-heads %lld", (long long)s->heads, (long long)s->kv_heads);
    if (s->decode || s->backward || s->hardware || ranks <= 1 || common.mpi)
        code = plain(b, s, way < 0 ? RONDO_DELTA_AUTO : way, ranks ? ranks : 1);
    for (size_t i = 0; i < 3 && !code && !s->decode && !s->backward && !s->hardware && !common.mpi && ranks != 1; i++)
        if (way <= RONDO_DELTA_AUTO || ways[i].way == way)
            code = compare(b, s, ways[i].way, ranks ? ranks : 2, ways[i].limit);
    struct shape step = *s, back = *s;
    step.decode = true;
    back.backward = true;
    if (all && !code)
        code = plain(b, &step, RONDO_DELTA_AUTO, 1);
    return code || !all ? code : plain(b, &back, RONDO_DELTA_AUTO, 1);
}
