/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Gradients of the delta rule: the rule in double against finite differences of its loss; the definition against the rule in double; and the bits
 * of the definition for every instruction set, number of threads and ranks, and division of the tokens. Results are added to what is there where
 * that is asked for, and rounded once to their own types.
 */
#define DRAW_STREAM 3430
#include "t/delta.h"
#include "t/memory.h"
#include "tap.h"

enum { RANKS = 6, RESULTS = 8 };

/* ---- one problem, and what comes of it ---- */

struct job {
    const struct delta_case *c;
    const void *dout;
    const float *dto;              /* NULL: none */
    const int64_t *shares;
    int way, out_type, result_type, accumulate;
    double stop;                   /* of progress: there, unless 0 */
    void *result[RESULTS];         /* dq, dk, dv, dg, dbeta; F32: da_log, ddt_bias, dinitial_state */
    uint64_t sent[RANKS];
};

static const char *const names[RESULTS] = { "dq", "dk", "dv", "dg", "dbeta", "da_log", "ddt_bias", "dinitial_state" };

static int64_t count_of(const struct delta_case *c, int result)
{
    const int64_t counts[RESULTS] = { c->rows * c->key_heads * c->key_dim, c->rows * c->key_heads * c->key_dim, c->rows * c->heads * c->value_dim,
                                      c->rows * c->heads * c->gate_dim, c->rows * c->heads, c->gate ? c->heads : 0,
                                      c->gate ? c->heads * c->gate_dim : 0, c->from ? c->sequences * c->heads * c->key_dim * c->value_dim : 0 };
    return counts[result];
}

static int type_of(const struct job *j, int result) { return result < 5 ? j->result_type : RONDO_F32; }

static rondo_tensor rows_of(const void *data, int64_t first, int64_t rows, int64_t heads, int64_t dim, int type)
{
    const int64_t shape[] = { rows, heads, dim };
    return rondo_tensor_dense((char *)(uintptr_t)data + (size_t)(first * heads * (dim ? dim : 1)) * rondo_type_size(type), type, dim ? 3 : 2, shape);
}

static rondo_tensor states_of(const float *data, const struct delta_case *c)
{
    const int64_t shape[] = { c->sequences, c->heads, c->key_dim, c->value_dim };
    return data ? rondo_tensor_dense((float *)(uintptr_t)data, RONDO_F32, 4, shape) : (rondo_tensor)RONDO_TENSOR_INIT;
}

static rondo_delta_desc desc_of(const struct job *j)
{
    rondo_delta_desc d = delta_desc(j->c);
    d.shares = j->shares;
    d.out_type = j->out_type;
    d.way = j->way;
    d.tile = d.way == RONDO_DELTA_AFFINE ? 16 : 0;   /* shares of whole tiles: no others can be asked for */
    d.gradients = 1;
    return d;
}

static int body(rondo_context *ctx, void *arg)
{
    struct job *j = arg;
    const struct delta_case *c = j->c;
    const rondo_delta_desc d = desc_of(j);
    const int64_t state = c->heads * c->key_dim * c->value_dim, bias[] = { c->heads, c->gate_dim };
    const int rank = rondo_context_rank(ctx), type = j->result_type;
    rondo_delta *plan;
    rondo_delta_info info = RONDO_DELTA_INFO_INIT;
    rondo_delta_io io = RONDO_DELTA_IO_INIT;
    rondo_delta_gradients g = RONDO_DELTA_GRADIENTS_INIT;
    int err = rondo_delta_create(&plan, ctx, &d);
    if (!err)
        err = rondo_delta_query(plan, &info);
    if (err)
        return err;
    const int64_t first = info.first_row, rows = info.rows;
    float *a_log = malloc((size_t)c->heads * sizeof *a_log), *dt_bias = malloc((size_t)(c->heads * c->gate_dim) * sizeof *dt_bias);
    float *initial = malloc((size_t)(c->sequences * state) * sizeof *initial);
    io.q = rows_of(c->q, first, rows, c->key_heads, c->key_dim, c->type);
    io.k = rows_of(c->k, first, rows, c->key_heads, c->key_dim, c->type);
    io.v = rows_of(c->v, first, rows, c->heads, c->value_dim, c->type);
    io.g = rows_of(c->g, first, rows, c->heads, c->gate_dim, c->type);
    io.beta = rows_of(c->b, first, rows, c->heads, 0, c->type);
    io.initial_state = states_of(c->from, c);
    if (c->a_log && c->gate)
        io.a_log = rondo_tensor_dense(c->a_log, RONDO_F32, 1, bias);
    if (c->dt_bias && c->gate)
        io.dt_bias = rondo_tensor_dense(c->dt_bias, RONDO_F32, 2, bias);
    g.dout = rows_of(j->dout, first, rows, c->heads, c->value_dim, j->out_type);
    g.dfinal_state = states_of(j->dto, c);
    g.dq = rows_of(j->result[0], first, rows, c->key_heads, c->key_dim, type);
    g.dk = rows_of(j->result[1], first, rows, c->key_heads, c->key_dim, type);
    g.dv = rows_of(j->result[2], first, rows, c->heads, c->value_dim, type);
    g.dg = rows_of(j->result[3], first, rows, c->heads, c->gate_dim, type);
    g.dbeta = rows_of(j->result[4], first, rows, c->heads, 0, type);
    memcpy(a_log, j->result[5], (size_t)count_of(c, 5) * sizeof *a_log);
    memcpy(dt_bias, j->result[6], (size_t)count_of(c, 6) * sizeof *dt_bias);
    memcpy(initial, j->result[7], (size_t)count_of(c, 7) * sizeof *initial);
    if (c->gate) {
        g.da_log = rondo_tensor_dense(a_log, RONDO_F32, 1, bias);
        g.ddt_bias = rondo_tensor_dense(dt_bias, RONDO_F32, 2, bias);
    }
    if (c->from)
        g.dinitial_state = states_of(initial, c);
    g.accumulate = j->accumulate;
    err = rondo_barrier(ctx);
    struct delta_heard heard = { 0, 0.0, j->stop, 0 };
    io.progress = delta_listen;
    io.user = &heard;
    for (int again = 0; again < (j->accumulate ? 1 : 2) && !err; again++) {
        heard.last = 0.0;
        err = rondo_delta_backward(plan, &io, &g);
        if (!err && (heard.wrong || heard.last < 1.0 || !heard.calls))
            err = 80;              /* progress never falls, and ends with 1 */
    }
    if (!err)
        err = rondo_barrier(ctx);
    for (int64_t n = 0; n < c->sequences && !err && c->from; n++)
        if (rondo_delta_keeper(plan, n, 0) == rank)
            memcpy((float *)j->result[7] + n * state, initial + n * state, (size_t)state * sizeof *initial);
    if (rank == 0 && !err) {       /* after a failure others may not have read it yet */
        memcpy(j->result[5], a_log, (size_t)count_of(c, 5) * sizeof *a_log);
        memcpy(j->result[6], dt_bias, (size_t)count_of(c, 6) * sizeof *dt_bias);
    }
    if (!err)
        err = rondo_barrier(ctx);
    if (!err && (memcmp(j->result[5], a_log, (size_t)count_of(c, 5) * sizeof *a_log) ||
                 memcmp(j->result[6], dt_bias, (size_t)count_of(c, 6) * sizeof *dt_bias)))
        err = 78;                  /* the sums are all ranks' */
    rondo_comm_stats stats = RONDO_COMM_STATS_INIT;
    if (!err)
        err = rondo_comm_query(ctx, &stats);
    if (!err && stats.messages[RONDO_OP_SHIFT] + stats.messages[RONDO_OP_ALL_GATHER] != (j->accumulate ? 1 : 2) * info.backward_messages)
        err = 79;
    rondo_delta_destroy(plan);
    free(a_log);
    free(dt_bias);
    free(initial);
    return err;
}

/* held: of F32, what the results hold at first, of which each rank's sums are the same; NULL: anything. */
static bool run(struct job *j, int ranks, const char *isa, int threads, struct job *const held)
{
    rondo_context_desc desc = RONDO_CONTEXT_DESC_INIT;
    desc.isa = isa;
    desc.threads = threads;
    for (int i = 0; i < RESULTS; i++) {
        const size_t bytes = (size_t)count_of(j->c, i) * rondo_type_size(type_of(j, i));
        j->result[i] = malloc(bytes + 1);
        memset(j->result[i], 0x55, bytes);
        for (int64_t e = 0; held && e < count_of(j->c, i); e++)
            rondo__put_element(j->result[i], e, type_of(j, i), rondo__element(held->result[i], e, type_of(held, i)));
    }
    const int err = rondo_launch(ranks, &desc, body, j);
    if (err)
        diag("code %d: %s", err, rondo_error_text());
    return !err;
}

static void job_free(struct job *j)
{
    for (int i = 0; i < RESULTS; i++)
        free(j->result[i]);
}

static bool stopped(struct job *j, int ranks)
{
    for (int i = 0; i < RESULTS; i++)
        j->result[i] = calloc((size_t)count_of(j->c, i) + 1, sizeof(double));
    const int err = rondo_launch(ranks, NULL, body, j);
    job_free(j);
    return err == RONDO_ECANCELED;
}

static bool same(const struct job *a, const struct job *b)
{
    bool all = true;
    for (int i = 0; i < RESULTS; i++) {
        const bool one = !memcmp(a->result[i], b->result[i], (size_t)count_of(a->c, i) * rondo_type_size(type_of(a, i)));
        if (!one)
            diag("%s differs", names[i]);
        all = all && one;
    }
    return all;
}

/* ---- the rule in double ---- */

static double loss(struct delta_case *c, const double *dout, const double *dto)
{
    double sum = 0.0;
    free(c->out);
    free(c->to);
    delta_oracle(c);
    for (int64_t i = 0; i < c->rows * c->heads * c->value_dim; i++)
        sum += dout[i] * c->out[i];
    for (int64_t i = 0; i < c->sequences * c->heads * c->key_dim * c->value_dim; i++)
        sum += dto[i] * c->to[i];
    return sum;
}

static double *doubles(int64_t count)
{
    double *to = malloc((size_t)(count + 1) * sizeof *to);
    for (int64_t i = 0; i < count; i++)
        to[i] = draw_number();
    return to;
}

/* Steps of 2^-9, of which numbers that are multiples of them have exact neighbours; the error of four is of their fourth power. */
static void differences(int gate, int beta, int norm, int gate_dim)
{
    struct delta_case c = { .heads = 4, .key_heads = 2, .key_dim = 3, .value_dim = 2, .gate_dim = gate_dim, .sequences = 3, .rows = 7,
                            .cu = { 0, 4, 4, 7 }, .gate = gate, .beta = beta, .norm = norm, .type = RONDO_F32, .lower_bound = -2.0, .scale = 0.5 };
    const double step = 0x1p-9;
    struct delta_gradients d;
    delta_draw(&c, gate ? -1.0 : -1.5, gate ? 1.0 : -0.1, true);
    double *dout = doubles(c.rows * c.heads * c.value_dim), *dto = doubles(c.sequences * c.heads * c.key_dim * c.value_dim);
    struct { const char *name; float *x; double *got; int64_t count; } all[] = {
        { "q", c.q, NULL, count_of(&c, 0) }, { "k", c.k, NULL, count_of(&c, 1) }, { "v", c.v, NULL, count_of(&c, 2) }, { "g", c.g, NULL, count_of(&c, 3) },
        { "beta", c.b, NULL, count_of(&c, 4) }, { "A_log", c.a_log, NULL, gate ? c.heads : 0 }, { "dt_bias", c.dt_bias, NULL, gate ? c.heads * gate_dim : 0 },
        { "initial", c.from, NULL, count_of(&c, 7) }
    };
    for (int i = 0; i < RESULTS; i++)
        for (int64_t e = 0; e < all[i].count; e++)
            all[i].x[e] = (float)((int)(all[i].x[e] / (float)step)) * (float)step;
    delta_back_oracle(&c, dout, dto, &d);
    double *const got[] = { d.q, d.k, d.v, d.g, d.b, d.a_log, d.dt_bias, d.from };
    for (int i = 0; i < RESULTS; i++) {
        double worst = 0.0;
        for (int64_t e = 0; e < all[i].count; e++) {
            const float was = all[i].x[e];
            double f[4];
            for (int s = 0; s < 4; s++) {
                all[i].x[e] = was + (float)step * (float)(s < 2 ? s - 2 : s - 1);
                f[s] = loss(&c, dout, dto);
            }
            all[i].x[e] = was;
            worst = worse(worst, fabs((f[0] - 8.0 * f[1] + 8.0 * f[2] - f[3]) / (12.0 * step) - got[i][e]));
        }
        if (!ok(worst < 1e-7, "gate %d, beta %d, norm %d, %d gates: the gradient by %s is that of differences", gate, beta, norm, gate_dim, all[i].name))
            diag("error %g", worst);
    }
    delta_gradients_free(&d);
    delta_free(&c);
    free(dout);
    free(dto);
}

/* ---- cases ---- */

static const struct {
    int64_t heads, key_heads, key_dim, value_dim, gate_dim, cu[5], sequences;
    int gate, beta, norm, type, out_type, result_type;
    double low, high;
} shapes[] = {
    { 2, 2, 16, 16, 16, { 0, 300 }, 1, RONDO_GATE_SOFTPLUS, RONDO_BETA_SIGMOID, 1, RONDO_F32, RONDO_F32, RONDO_F32, -6.0, 1.0 },
    { 4, 2, 33, 70, 33, { 0, 129, 129, 190 }, 3, RONDO_GATE_BOUNDED, RONDO_BETA_SIGMOID2, 1, RONDO_F32, RONDO_F32, RONDO_F32, -4.0, 2.0 },
    { 3, 1, 64, 64, 64, { 0, 40 }, 1, RONDO_GATE_LOG, RONDO_BETA_PLAIN, 1, RONDO_BF16, RONDO_F32, RONDO_BF16, -0.5, 0.0 },
    { 1, 1, 20, 200, 1, { 0, 65, 90 }, 2, RONDO_GATE_SOFTPLUS, RONDO_BETA_SIGMOID, 0, RONDO_F16, RONDO_BF16, RONDO_F32, -4.0, 0.0 },
    { 6, 2, 1, 1, 1, { 0, 400, 530, 531, 600 }, 4, RONDO_GATE_BOUNDED, RONDO_BETA_PLAIN, 0, RONDO_F32, RONDO_F32, RONDO_F16, -4.0, 1.0 },
    { 1, 1, 17, 130, 17, { 0, 20 }, 1, RONDO_GATE_LOG, RONDO_BETA_SIGMOID2, 1, RONDO_F32, RONDO_F32, RONDO_F32, -3.0, 0.0 },
    { 5, 5, 8, 3, 1, { 0, 257, 258, 770 }, 3, RONDO_GATE_LOG, RONDO_BETA_SIGMOID, 1, RONDO_F32, RONDO_F32, RONDO_F32, -0.3, 0.0 },
};

/* Of all results: what the contract says may change only with its version. */
static const uint64_t frozen[] = {
    UINT64_C(0x4220156dc365daf2), UINT64_C(0x7bb3a4b7ecb22e36), UINT64_C(0x5edd1279aec738cb), UINT64_C(0x767223565df3ffec),
    UINT64_C(0x0a80cf0bf0615007), UINT64_C(0x3535ae6325f14a11), UINT64_C(0x37d48b7d83174a60)
};

static void make(struct delta_case *c, struct job *j, size_t i, bool extras)
{
    *c = (struct delta_case){ .heads = shapes[i].heads, .key_heads = shapes[i].key_heads, .key_dim = shapes[i].key_dim, .value_dim = shapes[i].value_dim,
                              .gate_dim = shapes[i].gate_dim, .sequences = shapes[i].sequences, .gate = shapes[i].gate, .beta = shapes[i].beta,
                              .norm = shapes[i].norm, .type = shapes[i].type, .lower_bound = -5.0, .scale = 0.125 };
    memcpy(c->cu, shapes[i].cu, sizeof shapes[i].cu);
    c->rows = c->cu[c->sequences];
    delta_draw(c, shapes[i].low, shapes[i].high, extras);
    *j = (struct job){ .c = c, .out_type = shapes[i].out_type, .result_type = shapes[i].result_type };
    j->dout = delta_fill(c->rows * c->heads * c->value_dim, shapes[i].out_type, -1.0, 1.0);
    if (extras)
        j->dto = delta_fill(c->sequences * c->heads * c->key_dim * c->value_dim, RONDO_F32, -1.0, 1.0);
}

static void draw_shares(int64_t *shares, int ranks, int64_t rows)
{
    shares[0] = 0;
    for (int r = 1; r <= ranks; r++)
        shares[r] = r == ranks ? rows : shares[r - 1] + (draw(4) ? (int64_t)draw((uint32_t)(rows - shares[r - 1]) / 2 + 1) : 0);
}

/* A token's rounding errors, at most some K + V of 2^-24 relative to what it handles, are not made larger by tokens that follow, whose maps have
 * norms of at most 1; so n tokens' are below n (K + V) 2^-24, and, as their signs are not one, about the root of that; results of 16 bits are
 * rounded once more. */
static double bound_of(const struct delta_case *c, int type)
{
    const double most = sqrt((double)c->rows * (double)(c->key_dim + c->value_dim)) * 0x1p-24;
    return most + (type == RONDO_F32 ? 0.0 : type == RONDO_BF16 ? 0x1p-8 : 0x1p-11);
}

static void right(const struct job *j, size_t number)
{
    const struct delta_case *c = j->c;
    const int64_t values = c->rows * c->heads * c->value_dim, states = c->sequences * c->heads * c->key_dim * c->value_dim;
    double *dout = doubles(values), *dto = doubles(states);
    struct delta_gradients d;
    for (int64_t i = 0; i < values; i++)
        dout[i] = delta_get(j->dout, i, j->out_type);
    for (int64_t i = 0; i < states && j->dto; i++)
        dto[i] = (double)j->dto[i];
    delta_back_oracle(c, dout, j->dto ? dto : NULL, &d);
    double *const want[] = { d.q, d.k, d.v, d.g, d.b, d.a_log, d.dt_bias, d.from };
    for (int i = 0; i < RESULTS; i++) {
        if (!count_of(c, i))
            continue;
        const double error = delta_error(want[i], j->result[i], type_of(j, i), count_of(c, i)), bound = bound_of(c, type_of(j, i));
        if (!ok(error < bound, "case %zu: %s against the rule in double", number, names[i]))
            diag("error %g, bound %g", error, bound);
    }
    delta_gradients_free(&d);
    free(dout);
    free(dto);
}

static uint64_t hash_of(const struct job *j)
{
    uint64_t hash = 0;
    for (int i = 0; i < RESULTS; i++)
        rondo_hash_add(&hash, j->result[i], rondo_type_size(type_of(j, i)), (int64_t)i << 20, count_of(j->c, i));
    return hash;
}

/* What was there is added to the finished sum, before the one rounding. */
static void added(const struct job *one)
{
    struct job held = *one, wide = *one, sum = *one;
    bool all = true;
    held.accumulate = 0;
    held.result_type = wide.result_type = RONDO_F32;
    sum.accumulate = 1;
    held.dout = delta_fill(one->c->rows * one->c->heads * one->c->value_dim, one->out_type, -1.0, 1.0);
    const bool ran = run(&held, 1, "auto", 1, NULL) & run(&wide, 1, "auto", 1, NULL) & run(&sum, 3, "auto", 1, &held);
    for (int i = 0; i < RESULTS && ran; i++)
        for (int64_t e = 0; e < count_of(one->c, i); e++) {
            float was[1], want[1];
            rondo__put_element(was, 0, type_of(&sum, i), rondo__element(held.result[i], e, RONDO_F32));
            rondo__put_element(want, 0, type_of(&sum, i), rondo__element(was, 0, type_of(&sum, i)) + rondo__element(wide.result[i], e, RONDO_F32));
            all = all && !memcmp(want, (const char *)sum.result[i] + (size_t)e * rondo_type_size(type_of(&sum, i)), rondo_type_size(type_of(&sum, i)));
        }
    ok(ran && all, "... added to what is there");
    free((void *)(uintptr_t)held.dout);
    job_free(&held);
    job_free(&wide);
    job_free(&sum);
}

static void cases(void)
{
    static const char *const isas[] = { "soft", "scalar", "avx2", "avx512", "neon" };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        struct delta_case c;
        struct job one;
        int64_t shares[RANKS + 1];
        make(&c, &one, i, i != 3 && i != 6);
        if (!ok(run(&one, 1, "scalar", 1, NULL), "case %zu: the definition", i))
            continue;
        right(&one, i);
        if (!ok(hash_of(&one) == frozen[i], "case %zu: the bits of contract version 1", i))
            diag("0x%016llx", (unsigned long long)hash_of(&one));
        for (size_t s = 0; s < sizeof isas / sizeof *isas; s++) {
            struct job got = one;
            rondo_context_desc desc = RONDO_CONTEXT_DESC_INIT;
            rondo_context *ctx;
            desc.isa = isas[s];
            if (rondo_context_create(&ctx, &desc))
                continue;
            rondo_context_destroy(ctx);
            ok(run(&got, 1, isas[s], s % 2 ? 3 : 1, NULL) && same(&one, &got), "... %s: the same bits", isas[s]);
            job_free(&got);
        }
        for (int ranks = 2; ranks <= RANKS; ranks++) {
            struct job got = one;
            draw_shares(shares, ranks, c.rows);
            got.way = ranks == 4 ? RONDO_DELTA_COLUMNS : ranks == 5 ? RONDO_DELTA_AFFINE : ranks % 2 ? RONDO_DELTA_AUTO : RONDO_DELTA_SERIAL;
            got.shares = ranks == 3 || ranks == 5 ? NULL : shares;
            ok(run(&got, ranks, "auto", 1, NULL) && same(&one, &got), "... %d ranks: the same bits", ranks);
            job_free(&got);
            got.stop = 0.3;
            if (ranks == 3 && c.rows)
                ok(stopped(&got, ranks), "... and stop where they are asked to");
        }
        added(&one);
        job_free(&one);
        free((void *)(uintptr_t)one.dout);
        free((void *)(uintptr_t)one.dto);
        delta_free(&c);
    }
}

/* What is not finite, tiny or 0, all over the inputs: each instruction set has the definition's bits, and 4 ranks those of one. */
static void strange(void)
{
    static const float numbers[] = { 0.0f, -0.0f, 1e-45f, -1e-40f, 3e38f, -3e38f, 1e20f, -1000.0f, -104.0f, 1.0f, -1.0f };
    for (int round = 0; round < 9; round++) {
        struct delta_case c = { .heads = 2, .key_heads = 1, .key_dim = 21, .value_dim = 70, .gate_dim = round == 7 ? 1 : 21, .sequences = 1, .rows = 70,
                                .cu = { 0, 70 }, .gate = round % 3, .beta = round / 3 % 3, .norm = round % 2, .type = RONDO_F32, .lower_bound = -5.0,
                                .scale = 0.5 };
        delta_draw(&c, -1.0, 0.0, true);
        struct job one = { .c = &c, .out_type = RONDO_F32, .result_type = RONDO_F32 };
        one.dout = delta_fill(c.rows * c.heads * c.value_dim, RONDO_F32, -1.0, 1.0);
        float *const array[] = { c.q, c.k, c.v, c.g, c.b, (float *)(uintptr_t)one.dout };
        const int64_t count[] = { 70 * 21, 70 * 21, 70 * 2 * 70, 70 * 2 * c.gate_dim, 70 * 2, 70 * 2 * 70 };
        for (int a = 0; a < 6; a++)
            for (int64_t i = 0; i < count[a] / (round < 5 ? 200 : 10) + 1; i++) {
                const uint32_t which = draw(14);
                array[a][draw((uint32_t)count[a])] = which < 11 ? numbers[which] : round < 7 ? -0.5f : which == 11 ? __builtin_inff()
                                                     : which == 12 ? -__builtin_inff() : __builtin_nanf("");
            }
        struct job fast = one, many = one;
        const bool ran = run(&one, 1, "scalar", 1, NULL) & run(&fast, 1, "auto", 1, NULL) & run(&many, 4, "auto", 1, NULL);
        ok(ran && same(&one, &fast) && same(&one, &many), "strange numbers, round %d: the same bits", round);
        job_free(&many);
        job_free(&fast);
        job_free(&one);
        free((void *)(uintptr_t)one.dout);
        delta_free(&c);
    }
}

/* ---- allocations and transfers that fail ---- */

struct attempt {
    const struct job *one;
    int way;
};

static int attempt(void *arg, int *right)
{
    const struct attempt *a = arg;
    struct job got = *a->one;
    got.way = a->way;
    for (int i = 0; i < RESULTS; i++)
        got.result[i] = calloc((size_t)count_of(got.c, i) + 1, rondo_type_size(type_of(&got, i)));
    const int err = rondo_launch(3, NULL, body, &got);
    *right = !err && same(a->one, &got);
    job_free(&got);
    return err;
}

static void faults(void)
{
    static const char *const hooks[] = { "", "copy" };
    static const int ways[] = { RONDO_DELTA_AUTO, RONDO_DELTA_COLUMNS };
    char *outer = getenv("RONDO_TEST_HOOK") ? strdup(getenv("RONDO_TEST_HOOK")) : NULL;
    struct delta_case c = { .heads = 4, .key_heads = 2, .key_dim = 9, .value_dim = 12, .gate_dim = 9, .sequences = 2, .rows = 90, .cu = { 0, 31, 90 },
                            .gate = 1, .beta = 1, .norm = 1, .type = RONDO_F32, .lower_bound = -5.0, .scale = 0.5 };
    delta_draw(&c, -1.0, 0.0, true);
    struct job one = { .c = &c, .out_type = RONDO_F32, .result_type = RONDO_F32 };
    one.dout = delta_fill(c.rows * c.heads * c.value_dim, RONDO_F32, -1.0, 1.0);
    ok(run(&one, 1, "auto", 1, NULL), "on one rank");
    for (int i = 0; i < 4; i++) {
        struct attempt a = { &one, ways[i / 2] };
        char what[80];
        snprintf(what, sizeof what, "gradients of the delta rule, %s, \"%s\"", rondo_delta_way_name(a.way), hooks[i % 2]);
        if (*hooks[i % 2])
            setenv("RONDO_TEST_HOOK", hooks[i % 2], 1);
        memory_failures(attempt, &a, 11, what);
        unsetenv("RONDO_TEST_HOOK");
        transport_failures(attempt, &a, 3, hooks[i % 2], what);
    }
    if (outer)
        setenv("RONDO_TEST_HOOK", outer, 1);
    free(outer);
    job_free(&one);
    free((void *)(uintptr_t)one.dout);
    delta_free(&c);
}

int main(void)
{
    memory_hooks();
    for (int gate = 0; gate < 3; gate++)
        for (int i = 0; i < 2; i++)
            differences(gate, (gate + i) % 3, (gate + i) % 2, i ? 1 : 3);
    cases();
    strange();
    faults();
    return done();
}
