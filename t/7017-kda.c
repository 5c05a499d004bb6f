/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo kda, from file to file: the result against the rule in double precision, one hash and one file for every number of ranks and way, and each
 * kind of bad input with its exit code, one sentence and no file.
 */
#define DRAW_STREAM 7017
#include "t/delta.h"

#include "program.h"
#include "rondo_lm.h"
#include "t/tensor_file.h"

static struct tensor t(const char *name, int type, const void *data, int dims, int64_t a, int64_t b, int64_t c, int64_t d)
{
    return (struct tensor){ name, type, dims, { a, b, c, d }, data };
}

static int list_of(struct tensor *list, const struct delta_case *c, int64_t batch, const int64_t *starts)
{
    const int64_t tokens = c->rows / batch;
    int n = 0;
    list[n++] = t("q", c->type, c->q, 4, batch, tokens, c->key_heads, c->key_dim);
    list[n++] = t("k", c->type, c->k, 4, batch, tokens, c->key_heads, c->key_dim);
    list[n++] = t("v", c->type, c->v, 4, batch, tokens, c->heads, c->value_dim);
    list[n++] = t("g", c->type, c->g, 4, batch, tokens, c->heads, c->gate_dim);
    list[n++] = t("beta", c->type, c->b, 3, batch, tokens, c->heads, 0);
    if (c->from)
        list[n++] = t("initial_state", RONDO_ARRAY_F32, c->from, 4, c->sequences, c->heads, c->key_dim, c->value_dim);
    if (c->gate && c->a_log)
        list[n++] = t("A_log", RONDO_ARRAY_F32, c->a_log, 1, c->heads, 0, 0, 0);
    if (c->gate && c->dt_bias)
        list[n++] = t("dt_bias", RONDO_ARRAY_F32, c->dt_bias, 2, c->heads, c->gate_dim, 0, 0);
    if (starts)
        list[n++] = t("cu_seqlens", RONDO_ARRAY_I64, starts, 1, c->sequences + 1, 0, 0, 0);
    return n;
}

/* An array of a result; free() it. */
static void *result(const char *file, const char *name, int dims, const int64_t *shape)
{
    char path[1024];
    rondo_arrays *f = NULL;
    void *to = NULL;
    snprintf(path, sizeof path, "%s/%s", scratch_dir, file);
    const rondo_array *a = rondo_arrays_open(&f, path) ? NULL : rondo_arrays_find(f, name);
    bool same = a && a->dims == dims;
    for (int i = 0; i < dims && same; i++)
        same = a->shape[i] == shape[i];
    if (same && (to = malloc(a->bytes + 1)) != NULL && rondo_arrays_read(f, a, 0, a->bytes, to)) {
        free(to);
        to = NULL;
    }
    rondo_arrays_close(f);
    return to;
}

static struct delta_case shape_of(int64_t sequences, const int64_t *cu, int gate, int type)
{
    struct delta_case c = { .heads = 4, .key_heads = 2, .key_dim = 24, .value_dim = 70, .gate_dim = 24, .sequences = sequences, .gate = gate,
                            .beta = RONDO_BETA_SIGMOID, .norm = 1, .type = type, .lower_bound = -5.0, .scale = 1.0 / sqrt(24.0) };
    memcpy(c.cu, cu, (size_t)(sequences + 1) * sizeof *cu);
    c.rows = cu[sequences];
    return c;
}

static void check(const char *file, struct delta_case *c, int64_t batch)
{
    const int64_t out_shape[] = { batch, c->rows / batch, c->heads, c->value_dim };
    const int64_t state_shape[] = { c->sequences, c->heads, c->key_dim, c->value_dim };
    void *out = result(file, "out", 4, out_shape), *to = result(file, "final_state", 4, state_shape);
    delta_oracle(c);
    if (ok(out && to, "%s has out and final_state", file)) {
        const double a = delta_error(c->out, out, c->type, c->rows * c->heads * c->value_dim);
        const double b = delta_error(c->to, to, RONDO_F32, c->sequences * c->heads * c->key_dim * c->value_dim);
        ok(a < (c->type == RONDO_F32 ? 1e-6 : 4e-3) && b < 1e-6, "they agree with the rule (%.2g, %.2g)", a, b);
    }
    free(out);
    free(to);
}

/* One file on one rank; others must give the same. */
static void same_file(const char *options)
{
    static const char *const others[] = { "--ranks 2", "--ranks 3 --cp off", "--ranks 5 --cp pipeline --threads 2", "--ranks 4 --cp exact --isa scalar",
                                          "--cp pipeline", "--ranks 6 --cp columns", "--cp columns --isa scalar", "--ranks 40 --cp pipeline", "--ranks 7 --layout contiguous" };
    char want[32], line[2200];
    snprintf(want, sizeof want, "%s", program_text("hash"));
    ok(strlen(want) == 16, "hash %s", want);
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        const int code = rondo("", "kda %s -o many --json %s", options, others[i]);
        snprintf(line, sizeof line, "cmp -s '%s/one' '%s/many'", scratch_dir, scratch_dir);
        if (!ok(code == 0 && !strcmp(program_text("hash"), want) && !system(line), "%s: the same hash and file", others[i]))
            diag("exit %d, %s", code, program_err);
    }
}

/* Of the file "batch", in chunks: bits of their own, the same for all. */
static void chunks(void)
{
    static const char *const others[] = { "", "--ranks 2 --cp off", "--ranks 3 --cp columns", "--ranks 3 --cp pipeline --isa scalar --threads 2" };
    char walk[32], want[32] = "";
    rondo("", "kda batch -o one --json --gate softplus --beta sigmoid --l2norm");
    ok(!strcmp(program_text("form"), "recurrence"), "token by token is what runs where nobody asks");
    snprintf(walk, sizeof walk, "%s", program_text("hash"));
    for (size_t i = 0; i < sizeof others / sizeof *others; i++) {
        const int code = rondo("", "kda batch -o many --json --gate softplus --beta sigmoid --l2norm --form chunk --chunk 16 --checkpoints 16,40 %s", others[i]);
        json_t *r = program_json();
        if (!i)
            snprintf(want, sizeof want, "%s", program_text("hash"));
        ok(code == 0 && !strcmp(program_text("form"), "chunk") && json_integer_value(json_object_get(r, "chunk")) == 16 &&
               !strcmp(program_text("hash"), want) && strcmp(walk, want) != 0, "in chunks of 16 %s: the report says so, and the hash is the same", others[i]);
        json_decref(r);
    }
    is_int(rondo("", "kda batch -o many --json --gate softplus --beta sigmoid --l2norm --form chunk --cp affine --tile 64 --ranks 2"), 0, "in tiles, too");
    json_t *r = program_json();
    ok(json_integer_value(json_object_get(r, "chunk")) == 64, "a chunk has 64 tokens where nobody says");
    json_decref(r);
}

static void results(void)
{
    static const int64_t equal[] = { 0, 40, 80 }, packed[] = { 0, 30, 30, 77 };
    struct tensor list[10];
    struct delta_case c = shape_of(2, equal, RONDO_GATE_SOFTPLUS, RONDO_F32);
    delta_draw(&c, -3.0, 2.0, true);
    write_tensors("batch", list, list_of(list, &c, 2, NULL));
    is_int(rondo("", "kda batch -o one --json --gate softplus --beta sigmoid --l2norm"), 0, "two sequences, a softplus gate, states");
    check("one", &c, 2);
    same_file("batch --gate softplus --beta sigmoid --l2norm");
    is_int(rondo("", "kda batch -o one --json --gate softplus --beta sigmoid --l2norm --checkpoints 0,7,40"), 0, "with checkpoints");
    const int64_t point_shape[] = { 3, 2, c.heads, c.key_dim, c.value_dim }, state_shape[] = { 2, c.heads, c.key_dim, c.value_dim };
    const size_t entry = (size_t)(c.heads * c.key_dim * c.value_dim);
    float *points = result("one", "checkpoints", 5, point_shape), *to = result("one", "final_state", 4, state_shape);
    ok(points && to && !memcmp(points, c.from, 2 * entry * sizeof(float)) && !memcmp(points + 4 * entry, to, 2 * entry * sizeof(float)),
       "behind no token they are the initial states, behind all tokens the final ones");
    free(points);
    free(to);
    same_file("batch --gate softplus --beta sigmoid --l2norm --checkpoints 0,7,40");
    delta_free(&c);

    c = shape_of(3, packed, RONDO_GATE_BOUNDED, RONDO_BF16);
    delta_draw(&c, -3.0, 2.0, true);
    write_tensors("packed", list, list_of(list, &c, 1, packed));
    is_int(rondo("", "kda packed -o one --json --gate bounded --lower-bound=-5 --beta sigmoid --l2norm --checkpoints 30,50"), 0,
           "packed sequences, an empty one among them, in BF16");
    check("one", &c, 1);
    const int64_t packed_shape[] = { 2, 1, c.heads, c.key_dim, c.value_dim }, packed_states[] = { 3, c.heads, c.key_dim, c.value_dim };
    points = result("one", "checkpoints", 5, packed_shape);
    to = result("one", "final_state", 4, packed_states);
    ok(points && to && !memcmp(points, to, entry * sizeof(float)), "a checkpoint on a boundary is the end of the sequence before it");
    free(points);
    free(to);
    same_file("packed --gate bounded --lower-bound=-5 --beta sigmoid --l2norm --checkpoints 30,50");
    json_t *r = program_json();
    ok(json_integer_value(json_object_get(r, "ranks")) == 7 && json_number_value(json_object_get(r, "flops")) > 0 &&
           json_integer_value(json_object_get(r, "peak_bytes_per_rank")) > 0 &&
           json_integer_value(json_object_get(json_object_get(r, "comm"), "bytes")) > 0, "the report has ranks, cost and what moved");
    json_decref(r);
    rondo("", "kda packed -o many --json --gate bounded --lower-bound=-5");
    ok(!strcmp(program_text("path"), "serial"), "what runs is told: one walk on one rank");
    rondo("", "kda packed -o many --json --gate bounded --lower-bound=-5 --cp pipeline");
    ok(!strcmp(program_text("path"), "pipeline"), "... and a way that was asked for by name");
    rondo("", "kda packed -o many --json --gate bounded --lower-bound=-5 --cp columns --ranks 3");
    r = program_json();
    ok(!strcmp(program_text("path"), "columns") && json_integer_value(json_object_get(r, "segments")) == 2, "... columns, in which nothing is cut");
    json_decref(r);
    delta_free(&c);

    /* in tiles: bits of their own, the same for all */
    is_int(rondo("", "kda batch -o one --json --gate softplus --beta sigmoid --l2norm --cp affine --tile 16"), 0, "in tiles of 16");
    r = program_json();
    const double certificate = json_number_value(json_object_get(r, "certificate"));
    ok(!strcmp(program_text("path"), "affine") && json_integer_value(json_object_get(r, "segments")) == 6 &&
           json_integer_value(json_object_get(r, "skipped")) == 0 && certificate > 0 && certificate < 1, "... which is told, with a certificate");
    json_decref(r);
    rondo("", "kda batch -o many --json --gate softplus --beta sigmoid --l2norm --cp affine --tile 16 --ranks 3 --tolerance 1");
    r = program_json();
    ok(json_integer_value(json_object_get(r, "skipped")) == 2 && json_number_value(json_object_get(r, "certificate")) == certificate,
       "... below a tolerance nothing is passed on, which is told, too");
    json_decref(r);
    rondo("", "kda batch -o one --json --gate softplus --beta sigmoid --l2norm --cp affine --tile 16");
    char want[32];
    snprintf(want, sizeof want, "%s", program_text("hash"));
    for (int ranks = 2; ranks < 8; ranks += 2) {
        const int code = rondo("", "kda batch -o many --json --gate softplus --beta sigmoid --l2norm --cp affine --tile 16 --ranks %d", ranks);
        ok(code == 0 && strlen(want) == 16 && !strcmp(program_text("hash"), want), "... %d ranks: the same hash", ranks);
    }
    rondo("", "kda batch -o many --json --gate softplus --beta sigmoid --l2norm");
    ok(strcmp(program_text("hash"), want) != 0, "... another one than that of one walk");
    chunks();
}

/* With `do` all gradients are there, in the shapes of what they are of, and agree with the rule. */
static void gradients(void)
{
    static const int64_t packed[] = { 0, 130, 130, 177 };
    struct tensor list[12];
    struct delta_case c = shape_of(3, packed, RONDO_GATE_BOUNDED, RONDO_F32);
    struct delta_gradients d;
    const int64_t values = c.rows * c.heads * c.value_dim, states = c.sequences * c.heads * c.key_dim * c.value_dim;
    delta_draw(&c, -3.0, 2.0, true);
    float *dout = delta_fill(values, RONDO_F32, -1.0, 1.0), *dto = delta_fill(states, RONDO_F32, -1.0, 1.0);
    int n = list_of(list, &c, 1, packed);
    list[n++] = t("do", RONDO_ARRAY_F32, dout, 4, 1, c.rows, c.heads, c.value_dim);
    list[n++] = t("dstate", RONDO_ARRAY_F32, dto, 4, c.sequences, c.heads, c.key_dim, c.value_dim);
    write_tensors("there", list, n);
    is_int(rondo("", "kda there -o one --json --gate bounded --lower-bound=-5 --beta sigmoid --l2norm --checkpoints 7"), 0, "with gradients");
    check("one", &c, 1);
    double *wide = malloc((size_t)(values + states) * sizeof *wide);
    for (int64_t i = 0; i < values + states; i++)
        wide[i] = (double)(i < values ? dout[i] : dto[i - values]);
    delta_back_oracle(&c, wide, wide + values, &d);
    const struct { const char *name; const double *want; int dims; int64_t shape[4]; } all[] = {
        { "dq", d.q, 4, { 1, c.rows, c.key_heads, c.key_dim } }, { "dk", d.k, 4, { 1, c.rows, c.key_heads, c.key_dim } },
        { "dv", d.v, 4, { 1, c.rows, c.heads, c.value_dim } }, { "dg", d.g, 4, { 1, c.rows, c.heads, c.gate_dim } },
        { "dbeta", d.b, 3, { 1, c.rows, c.heads } }, { "dA_log", d.a_log, 1, { c.heads } }, { "ddt_bias", d.dt_bias, 2, { c.heads, c.gate_dim } },
        { "dinitial_state", d.from, 4, { c.sequences, c.heads, c.key_dim, c.value_dim } }
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        int64_t count = 1;
        for (int j = 0; j < all[i].dims; j++)
            count *= all[i].shape[j];
        void *got = result("one", all[i].name, all[i].dims, all[i].shape);
        ok(got && delta_error(all[i].want, got, RONDO_F32, count) < 2e-6, "%s is there, and agrees with the rule", all[i].name);
        free(got);
    }
    same_file("there --gate bounded --lower-bound=-5 --beta sigmoid --l2norm --checkpoints 7");
    delta_gradients_free(&d);
    delta_free(&c);
    free(dout);
    free(dto);
    free(wide);
}

/* The requirement's own method: planned as it plans, told what it found, and what it falls back to is the plain walk. */
static void legacy(void)
{
    static const int64_t cu[] = { 0, 8192 };
    static const char *const options = "--gate bounded --lower-bound=-5 --beta sigmoid --l2norm --json";
    struct tensor list[10];
    struct delta_case c = { .heads = 16, .key_heads = 16, .key_dim = 4, .value_dim = 4, .gate_dim = 4, .sequences = 1, .rows = 8192,
                            .gate = RONDO_GATE_BOUNDED, .beta = RONDO_BETA_SIGMOID, .norm = 1, .type = RONDO_F32, .lower_bound = -5.0 };
    char want[32];
    memcpy(c.cu, cu, sizeof cu);
    delta_draw(&c, -1.0, 1.0, true);
    for (int h = 0; h < 16; h++)
        c.a_log[h] = -0.5f;
    for (int i = 0; i < 64; i++)
        c.dt_bias[i] = 0.0f;
    write_tensors("cp", list, list_of(list, &c, 1, NULL));
    is_int(rondo("", "kda cp -o one %s --cp off", options), 0, "8k tokens of 16 heads, one walk");
    snprintf(want, sizeof want, "%s", program_text("hash"));
    for (int ranks = 1; ranks <= 3; ranks += 2) {
        is_int(rondo("", "kda cp -o many %s --cp legacy --sm-count 78 --ranks %d", options, ranks), 0, "--cp legacy as on an H20, %d ranks", ranks);
        json_t *r = program_json(), *l = json_object_get(r, "legacy");
        ok(!strcmp(program_text("path"), "legacy") && json_integer_value(json_object_get(r, "segments")) == 16 &&
               json_integer_value(json_object_get(r, "skipped")) == 15 && json_integer_value(json_object_get(l, "segment")) == 512 &&
               json_is_true(json_object_get(l, "fits")) && json_is_true(json_object_get(l, "converges")) && !strcmp(program_text("hash"), want),
           "... 16 segments of 512, and where all decays the same bits");
        json_decref(r);
    }
    rondo("", "kda cp -o many %s --cp legacy --sm-count 40", options);
    json_t *r = program_json(), *l = json_object_get(r, "legacy");
    ok(!strcmp(program_text("path"), "serial") && json_is_false(json_object_get(l, "fits")) && !strcmp(program_text("hash"), want),
       "on a smaller card it does not fit: what ran is the plain walk, and the report says so");
    json_decref(r);
    c.a_log[3] = 0.0f;
    write_tensors("gain", list, list_of(list, &c, 1, NULL));
    rondo("", "kda gain -o many %s --cp legacy", options);
    r = program_json(), l = json_object_get(r, "legacy");
    ok(!strcmp(program_text("path"), "serial") && json_is_true(json_object_get(l, "fits")) && json_is_false(json_object_get(l, "converges")),
       "... nor is it taken to converge with one A_log of 0");
    json_decref(r);
    delta_free(&c);
}

static void under_mpi(void)
{
    const char *mpirun = getenv("MPIRUN");
    char want[32], before[1100];
    if (!mpirun || !*mpirun) {
        skip(1, "no mpirun");
        return;
    }
    rondo("", "kda batch -o one --json --gate softplus --l2norm");
    snprintf(want, sizeof want, "%s", program_text("hash"));
    snprintf(before, sizeof before, "%s -n 3", mpirun);
    const int code = rondo(before, "kda batch -o many --json --gate softplus --l2norm </dev/null");
    if (!ok(code == 0 && !strcmp(program_text("hash"), want) && !strcmp(program_text("transport"), "mpi"), "3 MPI processes give the same hash"))
        diag("exit %d: %s %s", code, program_out, program_err);
}

/* A file over which one rank with the slowest instructions is busy for a while. */
static void meter(void)
{
    static const int64_t cu[] = { 0, 8000 };
    struct tensor list[10];
    struct delta_case c = { .heads = 1, .key_heads = 1, .key_dim = 512, .value_dim = 512, .gate_dim = 512, .sequences = 1, .rows = 8000, .norm = 1,
                            .type = RONDO_F32, .scale = 0.1 };
    memcpy(c.cu, cu, sizeof cu);
    delta_draw(&c, -1.0, 0.0, false);
    write_tensors("long", list, list_of(list, &c, 1, NULL));
    delta_free(&c);
    rondo("timeout -s INT 2.2", "kda long -o cut --isa scalar --threads 1 --progress always");
    int moved = 0, fell = 0;
    double last = -1.0;
    for (const char *p = program_err; (p = strstr(p, "kda: ")) != NULL; p++) {
        double percent;
        if (sscanf(p, "kda: %lf %%", &percent) == 1) {
            moved += percent > last;
            fell += percent < last;
            last = percent;
        }
    }
    ok(moved >= 2 && !fell, "the meter moves (%d times, to %.1f %%)", moved, last);
    is_int(rondo("timeout --preserve-status -s INT 1.2", "kda long -o left --isa scalar --threads 1"), 130, "an interrupt ends it");
    char path[1100];
    snprintf(path, sizeof path, "test ! -e '%s/left'", scratch_dir);
    is_int(system(path), 0, "... and leaves no file");
}

static void bad(void)
{
    static const int64_t packed[] = { 0, 30, 30, 77 }, down[] = { 0, 40, 30, 77 };
    struct tensor list[10];
    struct delta_case c = shape_of(3, packed, RONDO_GATE_LOG, RONDO_F32);
    delta_draw(&c, -1.0, 0.0, true);
    const int n = list_of(list, &c, 1, packed);
    write_tensors("good", list, n);
    refuses(2, "no output file", "kda good");
    refuses(2, "no input file", "kda -o bad");
    refuses(2, "--lower-bound", "kda good -o bad --gate bounded");
    refuses(2, "--gate bounded", "kda good -o bad --lower-bound=-5");
    refuses(2, "--lower-bound", "kda good -o bad --gate bounded --lower-bound=5");
    refuses(2, "gate", "kda good -o bad --gate hard");
    refuses(2, "beta", "kda good -o bad --beta 2");
    refuses(2, "--tile", "kda good -o bad --tile 64");
    refuses(2, "--chunk goes with --form chunk", "kda good -o bad --chunk 16");
    refuses(2, "takes 16, 32 and 64", "kda good -o bad --form chunk --chunk 24");
    refuses(2, "--form", "kda good -o bad --form blocks");
    refuses(2, "tiles are whole chunks", "kda good -o bad --form chunk --cp affine --tile 100");
    refuses(2, "inside a chunk", "kda good -o bad --form chunk --checkpoints 50");
    refuses(2, "--sm-count goes with --cp legacy", "kda good -o bad --sm-count 78");
    refuses(2, "--sm-count", "kda good -o bad --cp legacy --sm-count 0");
    refuses(2, "--tolerance goes with", "kda good -o bad --tolerance 1e-3");
    refuses(2, "--tolerance", "kda good -o bad --cp affine --tolerance 2");
    refuses(2, "a number above 0", "kda good -o bad --scale 0");
    refuses(2, "zigzag", "kda good -o bad --layout zigzag --ranks 2");
    refuses(2, "--cp", "kda good -o bad --algorithm pass-kv");
    refuses(2, "--checkpoints", "kda good -o bad --checkpoints 5,5");
    refuses(2, "--checkpoints", "kda good -o bad --checkpoints 78");
    refuses(2, "input itself", "kda good -o good");
    refuses(3, "nowhere", "kda nowhere -o bad");
    write_tensors("few", list + 1, n - 1);
    refuses(3, "no tensor 'q'", "kda few -o bad");
    list[n] = t("do", RONDO_ARRAY_F32, c.v, 4, 1, c.rows, c.heads, c.value_dim);
    write_tensors("gradients", list, n + 1);
    refuses(2, "--cp legacy has no gradients", "kda gradients -o bad --cp legacy");
    refuses(2, "--tolerance has no gradients", "kda gradients -o bad --cp affine --tolerance 0.1");
    refuses(2, "--form chunk has no gradients", "kda gradients -o bad --form chunk");
    list[n] = t("do", RONDO_ARRAY_BF16, c.v, 4, 1, c.rows, c.heads, c.value_dim);
    write_tensors("gradients", list, n + 1);
    refuses(3, "'do' has another type", "kda gradients -o bad");
    list[n] = t("do", RONDO_ARRAY_F32, c.v, 4, 1, c.rows, c.heads, c.value_dim - 1);
    write_tensors("gradients", list, n + 1);
    refuses(3, "'do' is not [1, 77, 4, 70]", "kda gradients -o bad");
    list[n] = t("dstate", RONDO_ARRAY_F32, c.from, 4, 3, c.heads, c.key_dim, c.value_dim);
    write_tensors("gradients", list, n + 1);
    refuses(3, "'dstate' goes with 'do'", "kda gradients -o bad");
    list[8] = t("mask", RONDO_ARRAY_F32, c.b, 1, 4, 0, 0, 0);
    write_tensors("unknown", list, 9);
    refuses(3, "'mask' has no meaning", "kda unknown -o bad");
    list_of(list, &c, 1, down);
    write_tensors("down", list, n);
    refuses(3, "entry 2 of 'cu_seqlens' is 30", "kda down -o bad");
    list_of(list, &c, 1, packed);
    list[2] = t("v", RONDO_ARRAY_F32, c.v, 4, 1, c.rows, 3, c.value_dim);
    write_tensors("heads", list, n);
    refuses(3, "a multiple of q's", "kda heads -o bad");
    list_of(list, &c, 1, packed);
    list[4] = t("beta", RONDO_ARRAY_I32, c.b, 3, 1, c.rows, c.heads, 0);
    write_tensors("type", list, n);
    refuses(3, "'beta' is of another type", "kda type -o bad");
    list_of(list, &c, 1, packed);
    list[5] = t("initial_state", RONDO_ARRAY_F32, c.from, 4, 2, c.heads, c.key_dim, c.value_dim);
    write_tensors("states", list, n);
    refuses(3, "'initial_state' is not [3, 4, 24, 70]", "kda states -o bad");
    list[n] = t("A_log", RONDO_ARRAY_F32, c.a_log, 1, 4, 0, 0, 0);
    list_of(list, &c, 1, packed);
    write_tensors("gain", list, n + 1);
    refuses(3, "'A_log' is of gates that are computed", "kda gain -o bad");
    char path[1100];
    snprintf(path, sizeof path, "test ! -e '%s/bad'", scratch_dir);
    is_int(system(path), 0, "none of them left a file");
    delta_free(&c);
}

int main(void)
{
    if (!getenv("RONDO") || !*getenv("RONDO"))
        return skip_all("the program was not built");
    scratch_make("7017-kda");
    results();
    gradients();
    legacy();
    under_mpi();
    meter();
    bad();
    scratch_remove();
    return done();
}
