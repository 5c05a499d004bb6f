/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The delta rule among ranks: outputs, final states and checkpoints have the bits of one rank for every way, number of ranks and division of the
 * tokens, and are right; a token at a time has the bits of all at once.
 */
#define DRAW_STREAM 3400
#include "t/delta_ranks.h"

/* In tiles: bits of their own, which are right, and the same for every number of ranks. */
static void affine(const struct job *one)
{
    const struct delta_case *c = one->c;
    struct job right = *one;
    right.way = RONDO_DELTA_AFFINE;
    right.tile = 1 + draw(20);
    room(&right);
    if (!ok(!rondo_launch(1, NULL, body, &right), "... in tiles of %d", (int)right.tile))
        diag("%s", rondo_error_text());
    const double out = delta_error(c->out, right.out, RONDO_F32, c->rows * c->heads * c->value_dim);
    const double to = delta_error(c->to, right.to, RONDO_F32, c->sequences * c->heads * c->key_dim * c->value_dim);
    if (!ok(out < 5e-6 && to < 5e-6, "... is right"))
        diag("out %g, states %g", out, to);
    for (int ranks = 2; ranks <= RANKS; ranks++) {
        struct job many = right;
        int64_t shares[RANKS + 1];
        draw_shares(shares, ranks, c->rows);
        for (int r = 1; r < ranks; r++) {      /* whole tiles */
            int64_t n = 0;
            while (n + 1 < c->sequences && c->cu[n + 1] <= shares[r])
                n++;
            shares[r] = shares[r] < c->rows ? c->cu[n] + (shares[r] - c->cu[n]) / right.tile * right.tile : c->rows;
        }
        many.shares = ranks % 2 ? NULL : shares;
        room(&many);
        const int err = rondo_launch(ranks, NULL, body, &many);
        if (!ok(!err && same(&right, &many), "... %d ranks: the same bits", ranks))
            diag("code %d: %s", err, rondo_error_text());
        job_free(&many);
    }
    job_free(&right);
}

static void rounds(void)
{
    for (int round = 0; round < 24; round++) {
        struct delta_case c;
        struct job one;
        draw_case(&c, &one, round);
        delta_oracle(&c);
        room(&one);
        if (!ok(!rondo_launch(1, NULL, body, &one), "round %d: %d sequences of %d tokens, %d checkpoints, on one rank", round, (int)c.sequences,
                (int)c.rows, (int)one.point_count))
            diag("%s", rondo_error_text());
        const double out = delta_error(c.out, one.out, RONDO_F32, c.rows * c.heads * c.value_dim);
        const double to = delta_error(c.to, one.to, RONDO_F32, c.sequences * c.heads * c.key_dim * c.value_dim);
        if (!ok(out < 1e-6 && to < 1e-6, "... is right"))
            diag("out %g, states %g", out, to);
        ok(points_right(&one), "... its checkpoints are the final states of fewer tokens");
        for (int ranks = 2; ranks <= RANKS; ranks++) {
            struct job many = one;
            int64_t shares[RANKS + 1];
            draw_shares(shares, ranks, c.rows);
            many.shares = ranks == 3 ? NULL : shares;
            many.way = ranks == 4 ? RONDO_DELTA_SERIAL : ranks == 5 ? RONDO_DELTA_AUTO : RONDO_DELTA_PIPELINE;
            room(&many);
            const int err = rondo_launch(ranks, NULL, body, &many);
            if (!ok(!err && same(&one, &many), "... %d ranks, %s: the same bits", ranks, rondo_delta_way_name(many.way)))
                diag("code %d: %s", err, rondo_error_text());
            job_free(&many);
            many.way = RONDO_DELTA_COLUMNS;
            many.holes = ranks % 2;
            room(&many);
            const int code = rondo_launch(ranks, NULL, body, &many);
            if (!ok(!code && same(&one, &many), "... %d ranks, columns of %d heads%s: the same bits", ranks, (int)c.heads, many.holes ? ", holes" : ""))
                diag("code %d: %s", code, rondo_error_text());
            job_free(&many);
        }
        affine(&one);
        job_free(&one);
        delta_free(&c);
    }
}

/* Channels that hardly decay, and writes that turn directions around: what tiles hand on stays whole. */
static void slow(void)
{
    struct delta_case c = { .heads = 2, .key_heads = 2, .key_dim = 64, .value_dim = 64, .gate_dim = 64, .sequences = 1, .rows = 700, .cu = { 0, 700 },
                            .beta = RONDO_BETA_SIGMOID2, .norm = 1, .type = RONDO_F32, .scale = 0.125 };
    struct job one = { .c = &c, .entries = 1 };
    delta_draw(&c, -1.0, 0.0, true);
    free(c.a_log);
    free(c.dt_bias);
    c.a_log = c.dt_bias = NULL;
    for (int64_t i = 0; i < c.rows * c.heads * 64; i++)
        if (i % 4 == 0)
            ((float *)c.g)[i] = -1e-4f;
    delta_oracle(&c);
    for (int way = RONDO_DELTA_SERIAL; way <= RONDO_DELTA_COLUMNS; way++) {
        one.way = way;
        one.tile = way == RONDO_DELTA_AFFINE ? 64 : 0;
        room(&one);
        const int err = rondo_launch(3, NULL, body, &one);
        const double out = delta_error(c.out, one.out, RONDO_F32, c.rows * c.heads * c.value_dim);
        ok(!err && out < (one.tile ? 5e-6 : 2e-6), "slow channels, %s: relative error %.2g", rondo_delta_way_name(way), out);
        job_free(&one);
    }
    delta_free(&c);
}

/* Some rows of a case, as one of their own in chunks. */
static struct job piece_of(const struct delta_case *c, int64_t first, int64_t rows, int32_t chunk, float *from, struct delta_case *of)
{
    *of = *c;
    of->rows = of->cu[1] = rows;
    of->q = (float *)c->q + first * c->heads * c->key_dim;
    of->k = (float *)c->k + first * c->heads * c->key_dim;
    of->v = (float *)c->v + first * c->heads * c->value_dim;
    of->g = (float *)c->g + first * c->heads * c->gate_dim;
    of->b = (float *)c->b + first * c->heads;
    of->chunk = chunk;
    of->from = from;
    return (struct job){ .c = of, .entries = 1 };
}

/* An affine scan's bits are those of its rule: maps and sources in chunks of 16 tokens, folded, and a walk from each tile's state. */
static void composed(void)
{
    enum { K = 24, V = 40, TILE = 50, ROWS = 3 * TILE + 7 };
    struct delta_case c = { .heads = 1, .key_heads = 1, .key_dim = K, .value_dim = V, .gate_dim = K, .sequences = 1, .rows = ROWS, .cu = { 0, ROWS },
                            .beta = RONDO_BETA_SIGMOID2, .norm = 1, .type = RONDO_F32, .scale = 0.25 };
    struct job all = { .c = &c, .entries = 1, .way = RONDO_DELTA_AFFINE, .tile = TILE };
    float state[K * V], eye[K * K] = { 0 }, none[TILE * K] = { 0 };
    delta_draw(&c, -0.3, 0.0, true);
    free(c.a_log);
    free(c.dt_bias);
    c.a_log = c.dt_bias = NULL;
    for (int i = 0; i < K; i++)
        eye[i * K + i] = 1.0f;
    memcpy(state, c.from, sizeof state);
    room(&all);
    bool good = !rondo_launch(2, NULL, body, &all);
    for (int64_t first = 0; first < ROWS; first += TILE) {
        const int64_t rows = ROWS - first < TILE ? ROWS - first : TILE;
        struct delta_case walked, behind, mapped;
        struct job walk = piece_of(&c, first, rows, 0, state, &walked);
        struct job source = piece_of(&c, first, rows, 16, first ? NULL : state, &behind), map = piece_of(&c, first, rows, 16, eye, &mapped);
        mapped.value_dim = K;
        mapped.v = none;
        room(&walk);
        room(&source);
        room(&map);
        good = good && !rondo_launch(1, NULL, body, &walk) && !rondo_launch(1, NULL, body, &source) && !rondo_launch(1, NULL, body, &map) &&
               !memcmp(walk.out, all.out + first * V, (size_t)(rows * V) * sizeof(float)) &&
               (rows == TILE || !memcmp(walk.to, all.to, sizeof state));
        float before[K * V];
        memcpy(before, state, sizeof before);
        for (int d = 0; d < K; d++)
            for (int j = 0; j < V; j++) {
                float chain[4] = { 0 };
                for (int i = 0; i < K; i++)
                    chain[i % 4] = rondo__fma(map.to[d * K + i], before[i * V + j], chain[i % 4]);
                const float fold = (chain[0] + chain[2]) + (chain[1] + chain[3]);
                state[d * V + j] = first ? fold + source.to[d * V + j] : source.to[d * V + j];
            }
        job_free(&walk);
        job_free(&source);
        job_free(&map);
    }
    ok(good, "an affine scan has the bits of its rule, tile by tile");
    job_free(&all);
    delta_free(&c);
}

/* What the middle tiles pass on is bounded as it should be, and left out where the bound lies below a tolerance, nowhere else. */
static double bound_of(const struct job *j)
{
    const struct delta_case *c = j->c;
    double most = 0.0;
    for (int64_t first = 0; first + j->tile < c->rows; first += j->tile)
        for (int64_t h = 0; h < c->heads; h++) {
            double sum = 0.0;
            for (int64_t t = first; t < first + j->tile; t++) {
                double g = -INFINITY;
                for (int64_t d = 0; d < c->key_dim; d++)
                    g = fmax(g, delta_gate(c, t, h, d));
                sum += g;
            }
            most = fmax(most, exp(sum));
        }
    return most;
}

static struct job certified(const struct job *like, int ranks, double tolerance, double *most, int64_t *skipped)
{
    struct job j = *like;
    j.tolerance = tolerance;
    room(&j);
    const int err = rondo_launch(ranks, NULL, body, &j);
    if (err)
        diag("code %d: %s", err, rondo_error_text());
    *most = err ? -1.0 : 0.0;
    *skipped = 0;
    for (int r = 0; r < ranks; r++) {
        *most = fmax(*most, j.certificate[r]);
        *skipped += j.skipped[r];
    }
    return j;
}

static void certificates(void)
{
    static const double low[] = { -0.05, -4.0, -1.5 }, high[] = { -0.02, -3.0, 0.0 };   /* raw gates, with which maps are not tiny */
    for (int gate = RONDO_GATE_LOG; gate <= RONDO_GATE_BOUNDED; gate++) {
        struct delta_case c = { .heads = 3, .key_heads = 3, .key_dim = 24, .value_dim = 20, .gate_dim = 24, .sequences = 1, .rows = 230,
                                .cu = { 0, 230 }, .gate = gate, .beta = RONDO_BETA_SIGMOID2, .norm = 1, .type = RONDO_F32, .scale = 0.2,
                                .lower_bound = -0.5 };
        struct job j = { .c = &c, .entries = 1, .way = RONDO_DELTA_AFFINE, .tile = 40 };
        double most, again;
        int64_t skipped, other;
        delta_draw(&c, low[gate], high[gate], true);
        if (!gate) {
            free(c.a_log);
            free(c.dt_bias);
            c.a_log = c.dt_bias = NULL;
        }
        const double want = bound_of(&j);
        struct job exact = certified(&j, 1, 0.0, &most, &skipped);
        if (!ok(fabs(most / want - 1.0) < 1e-4 && skipped == 0 && exact.segments == 6, "gate %d: the certificate is exp of the sum of largest gates", gate))
            diag("%g, should be %g; %d skipped of %d", most, want, (int)skipped, (int)exact.segments);
        struct job many = certified(&j, 4, want * 0.9, &again, &other);
        ok(again == most && other < 4 && other >= 0, "... the same of 4 ranks; not every tile lies below .9 of the largest");
        job_free(&many);
        struct job none = certified(&j, 1, fmin(1.0, want * 1.1), &again, &skipped);
        many = certified(&j, 4, fmin(1.0, want * 1.1), &again, &other);
        ok(skipped == 4 && other == 4 && !same(&exact, &none), "... all four of the middle are left out where it lies below the tolerance");
        ok(same(&none, &many), "... 4 ranks: the same bits");
        job_free(&many);
        job_free(&none);
        for (int64_t t = 0; t < c.rows * 3 && !gate; t++)
            ((float *)c.g)[t * 24 + 7] = -1e-4f;
        struct job slow = certified(&j, 1, 0.0, &most, &skipped);
        many = certified(&j, 3, 0.5, &again, &other);
        if (!gate)
            ok(most > 0.99 && again > 0.99 && other == 0 && same(&slow, &many), "one channel that hardly decays: every map is taken");
        job_free(&many);
        job_free(&slow);
        job_free(&exact);
        delta_free(&c);
    }
    /* writes beyond what turns a direction around make states larger, and their bound */
    struct delta_case c = { .heads = 1, .key_heads = 1, .key_dim = 1, .value_dim = 1, .gate_dim = 1, .sequences = 1, .rows = 24, .cu = { 0, 24 },
                            .type = RONDO_F32, .scale = 1.0 };
    struct job j = { .c = &c, .entries = 1, .way = RONDO_DELTA_AFFINE, .tile = 8 };
    double most;
    int64_t skipped;
    delta_draw(&c, 0.0, 0.0, false);
    for (int t = 0; t < 24; t++) {
        ((float *)c.k)[t] = 1.0f;
        ((float *)c.b)[t] = 3.0f;
    }
    struct job all = certified(&j, 1, 1.0, &most, &skipped);
    ok(most == 256.0 && skipped == 0, "beta |k|^2 of 3, 8 times: the bound is 2^8");
    job_free(&all);
    ((float *)c.g)[3] = __builtin_nanf("");
    all = certified(&j, 1, 1.0, &most, &skipped);
    ok(most == (double)INFINITY, "what is not a number bounds nothing");
    job_free(&all);
    delta_free(&c);
}

/* One plan of a token, its state in place. */
static int decode(rondo_context *ctx, void *arg)
{
    struct job *j = arg;
    const struct delta_case *c = j->c;
    rondo_delta_desc d = desc_of(j);
    rondo_delta *plan;
    rondo_delta_io io = RONDO_DELTA_IO_INIT;
    d.cu_seqlens = NULL;
    d.tokens = 1;
    d.checkpoint_count = 0;
    d.initial_state = 1;
    int err = rondo_delta_create(&plan, ctx, &d);
    if (err)
        return err;
    memcpy(j->to, c->from, state_bytes(c));
    io.initial_state = io.final_state = states_of(j->to, 1, c);
    for (int64_t t = 0; t < c->rows && !err; t++) {
        const int64_t beta[] = { 1, c->heads };
        io.q = rows_of(c->q, t, 1, c->key_heads, c->key_dim, c->type);
        io.k = rows_of(c->k, t, 1, c->key_heads, c->key_dim, c->type);
        io.v = rows_of(c->v, t, 1, c->heads, c->value_dim, c->type);
        io.g = rows_of(c->g, t, 1, c->heads, c->gate_dim, c->type);
        io.beta = rondo_tensor_dense((char *)c->b + (size_t)(t * c->heads) * rondo_type_size(c->type), c->type, 2, beta);
        io.out = rows_of(j->out, t, 1, c->heads, c->value_dim, RONDO_F32);
        err = rondo_delta_execute(plan, &io);
    }
    rondo_delta_destroy(plan);
    return err;
}

static void steps(void)
{
    struct delta_case c = { .heads = 3, .key_heads = 3, .key_dim = 24, .value_dim = 70, .gate_dim = 24, .sequences = 1, .rows = 90, .cu = { 0, 90 },
                            .beta = RONDO_BETA_SIGMOID2, .norm = 1, .type = RONDO_BF16, .scale = 0.2 };
    struct job all = { .c = &c, .entries = 1 }, one = all;
    delta_draw(&c, -0.4, 0.0, true);
    free(c.a_log);
    free(c.dt_bias);
    c.a_log = c.dt_bias = NULL;
    room(&all);
    room(&one);
    ok(!rondo_launch(1, NULL, body, &all) && !rondo_launch(1, NULL, decode, &one) && same(&all, &one), "a token at a time, its state in place: the same bits");
    job_free(&all);
    job_free(&one);
    delta_free(&c);
}

/* How far an execution has come is told on its way, and it can be stopped. */
static void progress(void)
{
    struct delta_case c = { .heads = 6, .key_heads = 6, .key_dim = 64, .value_dim = 64, .gate_dim = 64, .sequences = 1, .rows = 1500, .cu = { 0, 1500 },
                            .norm = 1, .type = RONDO_F32, .scale = 0.125 };
    /* a device that runs by itself may be through with everything before anybody asks */
    const char *hook = getenv("RONDO_TEST_HOOK");
    const bool by_itself = other_device() || (hook && strstr(hook, "defer"));
    delta_draw(&c, -1.0, 0.0, false);
    struct job quiet = { .c = &c, .entries = 1 };
    for (int way = RONDO_DELTA_SERIAL; way <= RONDO_DELTA_COLUMNS; way++)
        for (int ranks = 1; ranks <= 3; ranks += 2) {
            struct delta_heard heard[3] = { { 0, 0.0, 0.0, 0 } }, cut[3] = { { 0, 0.0, 0.3, 0 } };
            quiet.way = way;
            quiet.tile = way == RONDO_DELTA_AFFINE ? 256 : 0;
            struct job told = quiet, stopped = quiet;
            told.heard = heard;
            stopped.heard = cut;
            room(&quiet);
            room(&told);
            room(&stopped);
            bool good = !rondo_launch(ranks, NULL, body, &quiet) && !rondo_launch(ranks, NULL, body, &told) && same(&quiet, &told);
            for (int r = 0; r < ranks; r++)
                good = good && heard[r].calls >= (by_itself ? 1 : 3) && !heard[r].wrong && heard[r].last == 1.0;
            ok(good, "%s, %d ranks: progress never falls, ends with 1, and changes no bit", rondo_delta_way_name(way), ranks);
            const int code = rondo_launch(ranks, NULL, body, &stopped);
            if (!ok(code == RONDO_ECANCELED && (by_itself || cut[0].last < 1.0), "... it stops at %.2f where it is asked to", cut[0].last))
                diag("code %d: %s", code, rondo_error_text());
            job_free(&quiet);
            job_free(&told);
            job_free(&stopped);
        }
    delta_free(&c);
}

int main(void)
{
    progress();
    rounds();
    slow();
    composed();
    certificates();
    steps();
    return done();
}
