/* SPDX-License-Identifier: BSD-2-Clause
 *
 * FlashKDA's context parallelism (its pull request 9), which is there to compare with: the planner's cases as published, its own five tests, the same bits
 * for every number of ranks, and what its test of convergence overlooks, beside the exact ways.
 */
#define DRAW_STREAM 3440
#include "t/delta.h"
#include "tap.h"

/* ---- the planner ---- */

static rondo_delta_desc shape(int64_t heads, int64_t tokens)
{
    rondo_delta_desc d = RONDO_DELTA_DESC_INIT;
    d.heads = heads;
    d.key_dim = 128;
    d.tokens = tokens;
    return d;
}

static void planned(int64_t heads, int64_t tokens, int64_t sm, int64_t segment, int64_t segments, int fits)
{
    rondo_delta_desc d = shape(heads, tokens);
    rondo_delta_cut cut = RONDO_DELTA_CUT_INIT;
    float a_log[64];
    for (int h = 0; h < 64; h++)
        a_log[h] = -0.5f;
    const int err = rondo_delta_legacy(&d, 1, sm, a_log, &cut);
    if (!ok(!err && cut.segment == segment && cut.segments == segments && cut.fits == fits && d.way == (fits ? RONDO_DELTA_LEGACY : RONDO_DELTA_SERIAL) &&
                d.tile == (fits ? segment : 0), "%d heads, %d tokens, %d multiprocessors: %d segments of %d, %s", (int)heads, (int)tokens, (int)sm,
            (int)segments, (int)segment, fits ? "taken" : "not taken"))
        diag("%lld of %lld, fits %d, way %d: %s", (long long)cut.segments, (long long)cut.segment, cut.fits, d.way, rondo_error_text());
}

static void planner(void)
{
    planned(16, 8192, 78, 512, 16, 1);      /* an H20, as published */
    planned(16, 65536, 78, 1024, 64, 1);
    planned(32, 8192, 78, 512, 16, 0);
    planned(32, 1 << 20, 78, 8192, 128, 0);
    planned(32, 8192, 132, 512, 16, 1);
    planned(32, 8192, 0, 512, 16, 1);       /* the same, where nobody says */
    planned(1, 100, 132, 64, 2, 1);         /* four chunks at least */
    planned(19, 8192, 78, 512, 16, 1);      /* the last that fits: 78 / 4 = 19 */
    planned(20, 8192, 78, 512, 16, 0);
    planned(1, 2048, 9, 256, 8, 1);         /* 3 sqrt(128 / 9) = 2^3.5: halves go to even, up */
    planned(1, 8192, 9, 256, 32, 1);        /* ... and down: 2^4.5 */
    int wrong = 0;
    for (int i = 0; i < 20000; i++) {
        rondo_delta_desc d = shape(1 + draw(64), 1 + (int64_t)draw(1 << (4 + draw(18))));
        rondo_delta_cut cut = RONDO_DELTA_CUT_INIT;
        const int64_t sm = 4 + draw(200), n = (d.tokens + 15) / 16;
        const double x = log2(3.0 * sqrt((double)(d.heads * n) / (double)sm));
        if (fabs(x - floor(x) - 0.5) < 1e-9)
            continue;
        const int64_t m = (int64_t)fmax(4.0, exp2(rint(x)));
        wrong += rondo_delta_legacy(&d, 1, sm, NULL, &cut) || cut.segment != 16 * m || cut.segments != (d.tokens + 16 * m - 1) / (16 * m) ||
                 cut.fits != (d.heads <= sm / 4) || cut.converges;
    }
    ok(!wrong, "as its formula says, for any number of heads, tokens and multiprocessors");

    static const int64_t two[] = { 0, 8192, 16384 }, uneven[] = { 0, 8192, 8192, 8292 };
    const float slow[] = { -1.0f, -1.0f, 0.0f, -1.0f }, fast[] = { -1.0f, -2.0f, -0.3f, -1.0f }, none[] = { -1.0f, __builtin_nanf(""), -1.0f, -1.0f };
    rondo_delta_desc d = shape(16, 0);
    rondo_delta_cut cut = RONDO_DELTA_CUT_INIT;
    d.sequences = 2;
    d.cu_seqlens = two;
    ok(!rondo_delta_legacy(&d, 1, 78, NULL, &cut) && !cut.fits && cut.segments == 32, "two packed sequences count for two: 2 * 16 heads do not fit 19");
    d.sequences = 3;
    d.cu_seqlens = uneven;
    ok(!rondo_delta_legacy(&d, 1, 78, NULL, &cut) && cut.fits && cut.segments == 17 && cut.shortest == 100,
       "a long and a short one count for little more than one; an empty one for none");
    d = shape(4, 4096);
    d.sequences = 2;
    ok(!rondo_delta_legacy(&d, 1, 78, fast, &cut) && !cut.fits && d.way == RONDO_DELTA_SERIAL, "a batch of two is left alone");
    d = shape(4, 4096);
    ok(!rondo_delta_legacy(&d, 1, 78, fast, &cut) && cut.converges && d.way == RONDO_DELTA_LEGACY, "tokens of the shortest segment times the largest A_log");
    ok(!rondo_delta_legacy(&d, 0, 78, fast, &cut) && d.way == RONDO_DELTA_SERIAL && d.tile == 0, "auto_cp off: the plain walk");
    ok(!rondo_delta_legacy(&d, 1, 78, slow, &cut) && !cut.converges && d.way == RONDO_DELTA_SERIAL, "one A_log of 0: it is not taken to converge");
    ok(!rondo_delta_legacy(&d, 1, 78, none, NULL) && d.way == RONDO_DELTA_SERIAL, "nor with NaN");
    d = shape(4, 4096 + 16);
    ok(!rondo_delta_legacy(&d, 1, 78, fast, &cut) && !cut.converges && cut.shortest == 16, "nor where a short last segment, whose map nobody needs, is in the way");
    ok(rondo_delta_legacy(NULL, 1, 78, fast, &cut) == RONDO_EINVAL && strstr(rondo_error_text(), "descriptor is NULL"), "no descriptor is refused");
    ok(rondo_delta_legacy(&d, 1, -1, fast, &cut) == RONDO_EINVAL && strstr(rondo_error_text(), "-1 multiprocessors"), "so are -1 multiprocessors");
    d.heads = 0;
    ok(rondo_delta_legacy(&d, 1, 78, fast, &cut) == RONDO_EINVAL && strstr(rondo_error_text(), "heads is 0"), "so is what no plan is made of");
}

/* ---- running ---- */

struct job {
    const struct delta_case *c;
    rondo_delta_desc desc;
    float *out, *to;
    double certificate[8];
    int64_t skipped[8], segments;
};

static rondo_tensor rows_of(const void *data, int64_t first, int64_t rows, int64_t heads, int64_t dim)
{
    const int64_t rank3[] = { rows, heads, dim };
    return rondo_tensor_dense((float *)(uintptr_t)data + first * heads * (dim ? dim : 1), RONDO_F32, dim ? 3 : 2, rank3);
}

static int body(rondo_context *ctx, void *arg)
{
    struct job *j = arg;
    const struct delta_case *c = j->c;
    const int64_t states[] = { c->sequences, c->heads, c->key_dim, c->value_dim }, bias[] = { c->heads, c->gate_dim };
    const size_t state = (size_t)(c->heads * c->key_dim * c->value_dim);
    rondo_delta_info info = RONDO_DELTA_INFO_INIT;
    rondo_delta_io io = RONDO_DELTA_IO_INIT;
    rondo_delta *plan;
    int err = rondo_delta_create(&plan, ctx, &j->desc);
    if (!err)
        err = rondo_delta_query(plan, &info);
    if (err)
        return err;
    float *to = calloc((size_t)c->sequences, state * sizeof *to);
    io.q = rows_of(c->q, info.first_row, info.rows, c->heads, c->key_dim);
    io.k = rows_of(c->k, info.first_row, info.rows, c->heads, c->key_dim);
    io.v = rows_of(c->v, info.first_row, info.rows, c->heads, c->value_dim);
    io.g = rows_of(c->g, info.first_row, info.rows, c->heads, c->key_dim);
    io.beta = rows_of(c->b, info.first_row, info.rows, c->heads, 0);
    io.out = rows_of(j->out, info.first_row, info.rows, c->heads, c->value_dim);
    io.a_log = rondo_tensor_dense(c->a_log, RONDO_F32, 1, &c->heads);
    io.dt_bias = rondo_tensor_dense(c->dt_bias, RONDO_F32, 2, bias);
    io.final_state = rondo_tensor_dense(to, RONDO_F32, 4, states);
    if (j->desc.initial_state)
        io.initial_state = rondo_tensor_dense(c->from, RONDO_F32, 4, states);
    err = rondo_delta_execute(plan, &io);
    for (int64_t n = 0; n < c->sequences && !err; n++)
        if (rondo_delta_keeper(plan, n, c->cu[n + 1] - c->cu[n]) == rondo_context_rank(ctx))
            memcpy(j->to + (size_t)n * state, to + (size_t)n * state, state * sizeof *to);
    if (!err)
        err = rondo_delta_query(plan, &info);
    j->certificate[rondo_context_rank(ctx)] = info.certificate;
    j->skipped[rondo_context_rank(ctx)] = info.skipped;
    if (rondo_context_rank(ctx) == 0)
        j->segments = info.segments;
    rondo_delta_destroy(plan);
    free(to);
    return err;
}

static struct job job_of(const struct delta_case *c)
{
    struct job j = { .c = c, .desc = RONDO_DELTA_DESC_INIT };
    j.desc.heads = c->heads;
    j.desc.key_dim = c->key_dim;
    j.desc.value_dim = c->value_dim;
    j.desc.sequences = c->sequences;
    j.desc.cu_seqlens = c->cu;
    j.desc.gate = c->gate;
    j.desc.beta = c->beta;
    j.desc.norm = c->norm;
    j.desc.lower_bound = c->lower_bound;
    j.desc.scale = c->scale;
    j.desc.initial_state = c->from != NULL;
    j.desc.final_state = 1;
    j.out = calloc((size_t)(c->rows * c->heads * c->value_dim) + 1, sizeof *j.out);
    j.to = calloc((size_t)(c->sequences * c->heads * c->key_dim * c->value_dim), sizeof *j.to);
    return j;
}

static void job_free(struct job *j)
{
    free(j->out);
    free(j->to);
}

static int run(struct job *j, int ranks)
{
    const int err = rondo_launch(ranks, NULL, body, j);
    if (err)
        diag("code %d: %s", err, rondo_error_text());
    return err;
}

static bool same_rows(const struct job *a, const struct job *b, int64_t first, int64_t end)
{
    const size_t row = (size_t)(a->c->heads * a->c->value_dim);
    return !memcmp(a->out + (size_t)first * row, b->out + (size_t)first * row, (size_t)(end - first) * row * sizeof *a->out);
}

static bool same(const struct job *a, const struct job *b)
{
    const size_t states = (size_t)(a->c->sequences * a->c->heads * a->c->key_dim * a->c->value_dim);
    return same_rows(a, b, 0, a->c->rows) && !memcmp(a->to, b->to, states * sizeof *a->to);
}

/* As its tests have it: a bounded gate of -5, sigmoids, norms; A_log below 0, and gates that decay to e^-2.5 in a token. */
static struct delta_case drawn(int64_t heads, int64_t sequences, const int64_t *cu)
{
    struct delta_case c = { .heads = heads, .key_heads = heads, .key_dim = 16, .value_dim = 16, .gate_dim = 16, .sequences = sequences,
                            .gate = RONDO_GATE_BOUNDED, .beta = RONDO_BETA_SIGMOID, .norm = 1, .type = RONDO_F32, .lower_bound = -5.0, .scale = 0.25 };
    memcpy(c.cu, cu, (size_t)(sequences + 1) * sizeof *cu);
    c.rows = cu[sequences];
    delta_draw(&c, -1.0, 1.0, true);
    for (int64_t h = 0; h < heads; h++)
        c.a_log[h] = -0.5f;
    for (int64_t i = 0; i < heads * 16; i++)
        c.dt_bias[i] = 0.0f;
    return c;
}

/* It is planned with SM multiprocessors, and what is asked for is what runs. */
static struct job legacy(const struct delta_case *c, int64_t sm, int auto_cp, int ranks)
{
    struct job j = job_of(c);
    if (rondo_delta_legacy(&j.desc, auto_cp, sm, c->a_log, NULL) || (auto_cp && j.desc.way != RONDO_DELTA_LEGACY) || run(&j, ranks))
        ok(false, "legacy runs");
    return j;
}

static void own_tests(void)
{
    static const int64_t single[] = { 0, 8192 }, lengthy[] = { 0, 65536 }, packed[] = { 0, 3000, 3000, 3040, 8192 };
    struct delta_case c = drawn(4, 1, single), none;
    struct job plain = job_of(&c), disabled = legacy(&c, 78, 0, 1), cut = legacy(&c, 78, 1, 1), first = job_of(&c);
    ok(!run(&plain, 1) && same(&plain, &disabled), "test_cp_disabled: auto_cp off is the plain walk, bit for bit");
    ok(cut.segments == 32 && cut.skipped[0] == 31 && same_rows(&plain, &cut, 0, c.rows), "test_cp_correctness_single_seq: 8k in 32 segments, the same bits");
    ok(!memcmp(plain.to, cut.to, (size_t)(c.heads * 256) * sizeof *cut.to), "test_cp_final_state: that of the last segment");
    none = c;
    none.from = NULL;
    first.desc.initial_state = 0;
    first.c = &none;
    ok(!run(&first, 1) && same_rows(&plain, &cut, 0, 256) && !same_rows(&first, &cut, 0, 256),
       "test_cp_with_initial_state: the first segment begins with it");
    for (int ranks = 2; ranks <= 7; ranks += 5) {
        struct job many = legacy(&c, 78, 1, ranks);
        ok(same(&cut, &many), "%d ranks: the same bits", ranks);
        job_free(&many);
    }
    job_free(&plain);
    job_free(&disabled);
    job_free(&cut);
    job_free(&first);
    delta_free(&c);

    c = drawn(1, 1, lengthy);
    plain = job_of(&c);
    cut = legacy(&c, 78, 1, 1);
    ok(!run(&plain, 1) && cut.segments == 256 && same(&plain, &cut), "test_cp_correctness_long_seq: 64k in 256 segments, the same bits");
    job_free(&plain);
    job_free(&cut);
    delta_free(&c);

    c = drawn(2, 4, packed);
    plain = job_of(&c);
    cut = legacy(&c, 78, 1, 1);
    ok(!run(&plain, 1) && cut.segments > 20 && same(&plain, &cut), "packed sequences, an empty one and one that is not cut among them: the same bits");
    for (int ranks = 3; ranks <= 5; ranks++) {
        struct job many = legacy(&c, 78, 1, ranks);
        ok(same(&cut, &many), "... %d ranks: the same bits", ranks);
        job_free(&many);
    }
    job_free(&plain);
    job_free(&cut);
    delta_free(&c);
}

/* One channel of 16 hardly decays, which A_log does not say. */
static void overlooked(void)
{
    static const int64_t cu[] = { 0, 2048 };
    struct delta_case c = drawn(2, 1, cu);
    for (int64_t h = 0; h < 2; h++)
        c.dt_bias[h * 16 + 5] = -12.0f;
    delta_oracle(&c);
    struct job plain = job_of(&c), cut = legacy(&c, 78, 1, 1), many = legacy(&c, 78, 1, 3);
    const int64_t count = c.rows * c.heads * c.value_dim;
    ok(!run(&plain, 1) && delta_error(c.out, plain.out, RONDO_F32, count) < 1e-6, "a slow channel: the plain walk is right");
    const double error = delta_error(c.out, cut.out, RONDO_F32, count);
    ok(error > 1e-3, "... this method is wrong by %.2g, and takes itself to be right", error);
    ok(cut.certificate[0] > 0.3, "... its certificate says so: of a state %.2g may have been left out", cut.certificate[0]);
    ok(same(&cut, &many), "... on three ranks alike");
    ok(!same_rows(&plain, &cut, cut.desc.tile, 2 * cut.desc.tile), "... from the second segment on, where a state is given");
    static const int ways[] = { RONDO_DELTA_COLUMNS, RONDO_DELTA_PIPELINE, RONDO_DELTA_AFFINE };
    for (int i = 0; i < 3; i++) {
        struct job exact = job_of(&c);
        exact.desc.way = ways[i];
        exact.desc.tile = ways[i] == RONDO_DELTA_AFFINE ? cut.desc.tile : 0;
        const int err = run(&exact, 3);
        const double left = delta_error(c.out, exact.out, RONDO_F32, count);
        ok(!err && (exact.desc.tile ? left < 5e-6 : same(&plain, &exact)), "... the way %s: an error of %.2g%s", rondo_delta_way_name(ways[i]), left,
           exact.desc.tile ? "" : ", that of the plain walk, bit for bit");
        job_free(&exact);
    }
    job_free(&plain);
    job_free(&cut);
    job_free(&many);
    free(c.from);
    c.from = NULL;
    plain = job_of(&c);
    cut = legacy(&c, 78, 1, 1);
    ok(!run(&plain, 1) && same_rows(&plain, &cut, 0, 2 * cut.desc.tile) && !same_rows(&plain, &cut, 2 * cut.desc.tile, 3 * cut.desc.tile),
       "without a state to begin with, from the third segment on");
    job_free(&plain);
    job_free(&cut);
    delta_free(&c);
}

int main(void)
{
    planner();
    own_tests();
    overlooked();
    return done();
}
