/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo kda: the gated delta rule (Kimi Delta Attention) on arrays from a file, on any number of ranks. Every rank reads its own tokens of the
 * file and runs the plan; kda_output.c writes what came of it.
 */
#include "cli/kda.h"

#include <stdlib.h>
#include <string.h>

static struct {
    const char *output;
    int gate, beta, way, form;
    bool norm;
    double lower_bound, scale, tolerance;
    struct list points;
    int64_t tile, multiprocessors, chunk;
} options;

static int choose(const struct option *o, const char *text, const char *const *known, const char *const *later)
{
    char shown[SHOWN_NAME];
    const int at = choose_word(shown_name(o, shown), text, known, later);
    if (at < 0)
        return EXIT_USAGE;
    *(int *)o->to = at;
    return 0;
}

static int option_gate(const struct option *o, const char *text)
{
    static const char *const known[] = { "log", "softplus", "bounded", NULL };
    return choose(o, text, known, NULL);
}

static int option_beta(const struct option *o, const char *text)
{
    static const char *const known[] = { "plain", "sigmoid", "sigmoid2", NULL };
    return choose(o, text, known, NULL);
}

static int option_way(const struct option *o, const char *text)
{
    static const char *const known[] = { "auto", "off", "pipeline", "affine", "columns", "legacy", "exact", NULL };
    const int code = choose(o, text, known, NULL);
    if (!code && options.way == 6)
        options.way = RONDO_DELTA_AUTO;   /* what it takes has the bits of one walk */
    return code;
}

static int option_form(const struct option *o, const char *text)
{
    static const char *const known[] = { "recurrence", "chunk", NULL };
    return choose(o, text, known, NULL);
}

static const struct option own_options[] = {
    { "output", 'o', OPTION_TEXT, "FILE", "where out and states go (safetensors)", &options.output, 0, 0, NULL },
    { "gate", 0, OPTION_CALL, "log|softplus|bounded", "what g is: a logarithm (default), or raw", &options.gate, 0, 0, option_gate },
    { "lower-bound", 0, OPTION_REAL, "L", "of --gate bounded: -1000 to 0, not 0", &options.lower_bound, -1000, -1e-30, NULL },
    { "beta", 0, OPTION_CALL, "plain|sigmoid|sigmoid2", "what beta is: a number (default), or raw", &options.beta, 0, 0, option_beta },
    { "l2norm", 0, OPTION_FLAG, NULL, "normalise q and k", &options.norm, 0, 0, NULL },
    { "scale", 0, OPTION_REAL, "X", "factor of out (default 1/sqrt(K))", &options.scale, 1e-37, 1e38, NULL },
    { "checkpoints", 0, OPTION_CALL, "P1,P2,..", "write the states behind so many tokens too", &options.points, 0, 0x1p53, option_list },
    { "form", 0, OPTION_CALL, "recurrence|chunk", "token by token (default), or in chunks of tokens", &options.form, 0, 0, option_form },
    { "chunk", 0, OPTION_INT, "N", "of --form chunk: tokens of a chunk, 16, 32 or 64 (default)", &options.chunk, 16, 64, NULL },
    { "cp", 0, OPTION_CALL, "WAY", "how ranks share: auto (default), off, exact, columns, pipeline, affine or legacy", &options.way, 0, 0, option_way },
    { "tile", 0, OPTION_INT, "N", "of --cp affine: tokens of a tile (default 4096)", &options.tile, 1, 1e15, NULL },
    { "sm-count", 0, OPTION_INT, "N", "of --cp legacy: multiprocessors that its planner fills (default 132)", &options.multiprocessors, 1, 1e6, NULL },
    { "tolerance", 0, OPTION_REAL, "X", "of --cp affine: tiles certified to pass on less pass nothing on (default 0: never)", &options.tolerance, 0, 1, NULL },
    { "ranks", 0, OPTION_INT, "N", "context-parallel ranks (default 1; under mpirun its processes)", &common.ranks, 1, 4096, NULL },
    { "tp", 0, OPTION_REFUSED, "N", "goes with language models; here it is --ranks N", NULL, 0, 0, NULL },
    { NULL, 0, OPTION_FLAG, NULL, NULL, NULL, 0, 0, NULL },
};

struct kda {
    const char *path;
    struct kda_input in;
    struct kda_output out;
    rondo_delta_cut cut;               /* rank 0's, of --cp legacy */
    _Atomic int stage;
};

static int make_plan(rondo_delta **plan, rondo_context *ctx, const struct kda_input *in, const float *a_log, rondo_delta_cut *cut)
{
    rondo_delta_desc d = RONDO_DELTA_DESC_INIT;
    d.heads = in->heads;
    d.key_heads = in->key_heads;
    d.key_dim = in->key_dim;
    d.value_dim = in->value_dim;
    d.gate_dim = in->gate_dim;
    d.sequences = in->sequences;
    d.tokens = in->cu ? 0 : in->tokens;
    d.cu_seqlens = in->cu;
    d.type = in->q->type;
    d.gate_type = in->g->type;
    d.beta_type = in->beta->type;
    d.gate = options.gate;
    d.beta = options.beta;
    d.norm = options.norm;
    d.way = options.way;
    d.tile = options.tile;
    d.chunk = (int32_t)options.chunk;
    d.tolerance = options.tolerance;
    d.lower_bound = options.lower_bound;
    d.scale = options.scale;
    d.initial_state = in->initial != NULL;
    d.final_state = 1;
    d.checkpoint_count = options.points.count;
    d.checkpoints = options.points.at;
    d.gradients = in->dout != NULL;
    const int code = options.way == RONDO_DELTA_LEGACY ? rondo_delta_legacy(&d, 1, options.multiprocessors, a_log, cut) : 0;
    return code ? code : rondo_delta_create(plan, ctx, &d);
}

/* What a rank has of the arrays. */
struct arrays {
    void *q, *k, *v, *g, *beta, *out;
    float *a_log, *dt_bias, *initial, *final_state, *points;
    struct kda_gradients of;
    int64_t bytes;
};

static void arrays_free(struct arrays *a)
{
    void *const all[] = { a->q, a->k, a->v, a->g, a->beta, a->out, a->a_log, a->dt_bias, a->initial, a->final_state, a->points };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    kda_backward_free(&a->of);
}

static void *take(struct arrays *a, int64_t count, size_t size)
{
    void *memory = room(count, size);
    a->bytes += memory ? count * (int64_t)size : 0;
    return memory;
}

/* This rank's rows of an array [batch, tokens, ...]. */
static int read_rows(const struct kda *x, struct arrays *a, const rondo_delta_info *info, const rondo_array *array, int64_t width, void **to)
{
    const size_t row = (size_t)width * rondo_type_size(array->type);
    *to = take(a, info->rows, row);
    if (!*to)
        return body_fail(RONDO_ENOMEM, "not enough memory for %lld tokens of '%s' on a rank; more ranks hold fewer each", (long long)info->rows,
                         array->name);
    return info->rows ? rondo_arrays_read(x->in.file, array, (uint64_t)info->first_row * row, (uint64_t)info->rows * row, *to) : 0;
}

/* A whole array, as F32. */
static int read_all(rondo_context *ctx, const struct kda *x, struct arrays *a, const rondo_array *array, float **to)
{
    int64_t count = 1;
    if (!array)
        return 0;
    for (int i = 0; i < array->dims; i++)
        count *= array->shape[i];
    void *raw = room(count, rondo_type_size(array->type));
    *to = take(a, count, sizeof **to);
    int code = raw && *to ? rondo_arrays_read(x->in.file, array, 0, array->bytes, raw)
                          : body_fail(RONDO_ENOMEM, "not enough memory for '%s'", array->name);
    if (!code)
        code = rondo_convert(ctx, count, array->type, raw, RONDO_F32, *to);
    free(raw);
    return code;
}

static int read_arrays(rondo_context *ctx, const struct kda *x, struct arrays *a, const rondo_delta_info *info)
{
    const struct kda_input *in = &x->in;
    const int64_t state = in->heads * in->key_dim * in->value_dim, entries = options.points.count * (in->cu ? 1 : in->sequences);
    int code = read_rows(x, a, info, in->q, in->key_heads * in->key_dim, &a->q);
    if (!code)
        code = read_rows(x, a, info, in->k, in->key_heads * in->key_dim, &a->k);
    if (!code)
        code = read_rows(x, a, info, in->v, in->heads * in->value_dim, &a->v);
    if (!code)
        code = read_rows(x, a, info, in->g, in->heads * in->gate_dim, &a->g);
    if (!code)
        code = read_rows(x, a, info, in->beta, in->heads, &a->beta);
    if (!code)
        code = read_all(ctx, x, a, in->dt_bias, &a->dt_bias);
    if (!code)
        code = read_all(ctx, x, a, in->initial, &a->initial);
    if (!code && in->dout)
        code = read_rows(x, a, info, in->dout, in->heads * in->value_dim, &a->of.dout);
    if (!code && in->dout)
        code = read_all(ctx, x, a, in->dstate, &a->of.dstate);
    if (!code && in->dout)
        code = kda_backward_room(&a->of, in, info->rows, &a->bytes);
    if (code)
        return code;
    a->out = take(a, info->rows * in->heads * in->value_dim, rondo_type_size(in->q->type));
    a->final_state = take(a, in->sequences * state, sizeof(float));
    a->points = entries ? take(a, entries * state, sizeof(float)) : NULL;
    if (!a->out || !a->final_state || (entries && !a->points))
        return body_fail(RONDO_ENOMEM, "not enough memory for %lld outputs, %lld states and %lld checkpoints on a rank", (long long)info->rows,
                         (long long)in->sequences, (long long)entries);
    return 0;
}

static rondo_tensor dense(const void *data, int type, int dims, int64_t s0, int64_t s1, int64_t s2, int64_t s3)
{
    const int64_t shape[] = { s0, s1, s2, s3 };
    return rondo_tensor_dense((void *)(uintptr_t)data, type, dims, shape);
}

static void give(rondo_delta_io *io, const struct kda_input *in, const struct arrays *a, int64_t rows)
{
    const int64_t entries = options.points.count * (in->cu ? 1 : in->sequences);
    io->q = dense(a->q, in->q->type, 3, rows, in->key_heads, in->key_dim, 0);
    io->k = dense(a->k, in->q->type, 3, rows, in->key_heads, in->key_dim, 0);
    io->v = dense(a->v, in->q->type, 3, rows, in->heads, in->value_dim, 0);
    io->g = dense(a->g, in->g->type, 3, rows, in->heads, in->gate_dim, 0);
    io->beta = dense(a->beta, in->beta->type, 2, rows, in->heads, 0, 0);
    io->out = dense(a->out, in->q->type, 3, rows, in->heads, in->value_dim, 0);
    io->final_state = dense(a->final_state, RONDO_F32, 4, in->sequences, in->heads, in->key_dim, in->value_dim);
    if (a->a_log)
        io->a_log = dense(a->a_log, RONDO_F32, 1, in->heads, 0, 0, 0);
    if (a->dt_bias)
        io->dt_bias = dense(a->dt_bias, RONDO_F32, 2, in->heads, in->gate_dim, 0, 0);
    if (a->initial)
        io->initial_state = dense(a->initial, RONDO_F32, 4, in->sequences, in->heads, in->key_dim, in->value_dim);
    if (entries)
        io->checkpoints = dense(a->points, RONDO_F32, 4, entries, in->heads, in->key_dim, in->value_dim);
}

static int body(rondo_context *ctx, struct slot *mine, void *arg)
{
    struct kda *x = arg;
    rondo_delta *plan = NULL;
    rondo_delta_info info = RONDO_DELTA_INFO_INIT;
    rondo_delta_io io = RONDO_DELTA_IO_INIT;
    struct arrays a = { .bytes = 0 };
    rondo_delta_cut cut = RONDO_DELTA_CUT_INIT;
    x->stage = STAGE_INPUT;
    int code = read_all(ctx, x, &a, x->in.a_log, &a.a_log);   /* which a plan may depend on */
    x->stage = STAGE_OPTIONS;
    if (!code)
        code = make_plan(&plan, ctx, &x->in, a.a_log, &cut);
    if (!code)
        code = rondo_delta_query(plan, &info);
    if (code)
        goto end;
    x->stage = STAGE_INPUT;
    code = read_arrays(ctx, x, &a, &info);
    if (code)
        goto end;
    give(&io, &x->in, &a, info.rows);
    io.progress = rondo_context_rank(ctx) == 0 ? progress_part : NULL;
    code = rondo_barrier(ctx);
    const double begin = now();
    if (!code)
        code = rondo_delta_execute(plan, &io);
    if (!code && x->in.dout)
        code = kda_backward(plan, &io, &x->in, info.rows, &a.of);
    const double seconds = now() - begin;
    if (code)
        goto end;
    slot_measure(mine, ctx);
    mine->whole[0] = a.bytes + (int64_t)(info.workspace_bytes + info.backward_workspace_bytes);
    mine->real[0] = seconds;
    code = rondo_delta_query(plan, &info);
    if (code)
        goto end;
    mine->whole[1] = info.skipped;
    mine->real[1] = info.certificate;
    struct kda_output out = x->out;   /* each rank knows its own first row */
    out.info = info;
    code = kda_write(ctx, &out, plan, a.out, a.final_state, a.points, &a.of);
    if (rondo_context_rank(ctx) == 0) {
        x->out = out;
        x->cut = cut;
    }
end:
    rondo_delta_destroy(plan);
    arrays_free(&a);
    return code;
}

static int report(const struct kda *x, const struct run *run)
{
    json_t *r = report_new();
    int64_t skipped = 0;
    double seconds = 0, certificate = 0;
    for (int i = 0; i < run->ranks; i++) {
        const struct slot *s = &run->slots[i];
        skipped += s->whole[1];
        certificate = s->real[1] > certificate ? s->real[1] : certificate;
        seconds = s->real[0] > seconds ? s->real[0] : seconds;
    }
    report_hash(r, "hash", x->out.hash);
    json_object_set_new(r, "path", json_string(rondo_delta_way_name(x->out.info.way)));
    if (x->in.dout)
        json_object_set_new(r, "backward_path", json_string(rondo_delta_way_name(x->out.info.backward_way)));
    json_object_set_new(r, "form", json_string(options.form ? "chunk" : "recurrence"));
    if (options.form)
        json_object_set_new(r, "chunk", json_integer(options.chunk));
    json_object_set_new(r, "segments", json_integer(x->out.info.segments));
    json_object_set_new(r, "certificate", number(certificate));
    json_object_set_new(r, "skipped", json_integer(skipped));
    if (options.way == RONDO_DELTA_LEGACY)
        json_object_set_new(r, "legacy", json_pack("{sIsIsIsbsb}", "segment", (json_int_t)x->cut.segment, "segments", (json_int_t)x->cut.segments,
                                                   "shortest", (json_int_t)x->cut.shortest, "fits", (int)x->cut.fits, "converges",
                                                   (int)x->cut.converges));
    report_numerics(r, 0);
    report_run(r, run, seconds);
    json_object_set_new(r, "flops", number(x->out.info.flops + x->out.info.backward_flops));
    report_bytes(r, run);
    report_comm(r, run);
    return report_print(r);
}

static int check_points(const struct kda_input *in)
{
    const struct list *p = &options.points;
    for (int64_t i = 0; i < p->count; i++)
        if (p->at[i] < 0 || p->at[i] > in->tokens || (i && p->at[i] <= p->at[i - 1]))
            return fail(EXIT_USAGE, "--checkpoints: number %lld is %lld; they must rise, from 0 at least to the %lld tokens of %s at most",
                        (long long)i + 1, (long long)p->at[i], (long long)in->tokens, in->path);
    return 0;
}

static int kda(void *arg)
{
    struct kda *x = arg;
    struct run run = RUN_INIT;
    int code = ranks_check();
    if (code)
        return code;
    code = kda_open(&x->in, x->path, options.gate);
    if (!code)
        code = check_points(&x->in);
    if (!code && x->in.dout && (options.tolerance > 0.0 || options.way == RONDO_DELTA_LEGACY))
        code = fail(EXIT_USAGE, "%s has no gradients, which 'do' of %s asks for: they are those of the whole rule, without states that are cut",
                    options.tolerance > 0.0 ? "--tolerance" : "--cp legacy", x->path);
    if (!code && x->in.dout && options.form)
        code = fail(EXIT_USAGE, "--form chunk has no gradients, which 'do' of %s asks for; --form recurrence has", x->path);
    x->out = (struct kda_output){ .in = &x->in, .path = options.output, .points = &options.points };
    code = ranks_together(code);
    if (code) {
        kda_close(&x->in);
        return code;
    }
    progress_begin("kda");
    const int error = ranks_run(&run, body, x);
    progress_end();
    code = fail_code(error, (enum stage)x->stage, run.text);
    if (!code)
        code = trace_write();
    if (!code && ranks_first())
        code = report(x, &run);
    run_free(&run);
    kda_close(&x->in);
    return code;
}

static int kda_command(const struct command *self, int argc, char **argv)
{
    const struct option *const tables[OPTION_TABLES] = { own_options, options_machine, options_output, NULL };
    struct kda x = { .path = NULL };
    const char *path = NULL;
    int operands = 0;
    bool help;
    x.stage = STAGE_OPTIONS;
    int code = options_parse(self, tables, argc, argv, &path, 1, &operands, &help);
    if (code || help)
        return code;
    if ((code = common_strict()) != 0 || (code = common_f32("kda")) != 0)
        return code;
    if (!operands)
        return fail(EXIT_USAGE, "no input file is given; usage: rondo %s", self->synopsis);
    if (!options.output)
        return fail(EXIT_USAGE, "no output file is given; add -o OUT.safetensors");
    if (options.gate == RONDO_GATE_BOUNDED && options.lower_bound == 0)
        return fail(EXIT_USAGE, "--gate bounded needs --lower-bound L");
    if (options.gate != RONDO_GATE_BOUNDED && options.lower_bound != 0)
        return fail(EXIT_USAGE, "--lower-bound goes with --gate bounded");
    if (options.tile && options.way != RONDO_DELTA_AFFINE)
        return fail(EXIT_USAGE, "--tile goes with --cp affine");
    if (options.chunk && !options.form)
        return fail(EXIT_USAGE, "--chunk goes with --form chunk");
    options.chunk = options.form && !options.chunk ? 64 : options.chunk;
    if (options.chunk & (options.chunk - 1))
        return fail(EXIT_USAGE, "--chunk is %lld; it takes 16, 32 and 64", (long long)options.chunk);
    if (options.chunk && options.tile % options.chunk)
        return fail(EXIT_USAGE, "--tile is %lld and --chunk %lld; tiles are whole chunks", (long long)options.tile, (long long)options.chunk);
    if (options.multiprocessors && options.way != RONDO_DELTA_LEGACY)
        return fail(EXIT_USAGE, "--sm-count goes with --cp legacy");
    if (options.tolerance > 0 && options.way != RONDO_DELTA_AFFINE)
        return fail(EXIT_USAGE, "--tolerance goes with --cp affine; other ways pass every state on whole");
    if (common.layout && common.layout != RONDO_CONTIGUOUS)
        return fail(EXIT_USAGE, "--layout %s: states go on from token to token, so ranks have tokens in order; contiguous is accepted",
                    rondo_layout_name(common.layout));
    if (common.algorithm || common.grid[0])
        return fail(EXIT_USAGE, "--%s is of attention; how ranks share a delta rule is --cp", common.algorithm ? "algorithm" : "grid");
    const struct file_use files[] = { { "IN", path, FILE_IN }, { "-o", options.output, FILE_OUT }, { NULL, NULL, FILE_IN } };
    if ((code = common_settle()) != 0)
        return code;
    x.path = path;
    return ranks_session(kda, &x, files);
}

const struct command command_kda = {
    "kda", "kda [OPTION]... IN.safetensors -o OUT.safetensors",
    "The gated delta rule (Kimi Delta Attention) on arrays from a file, on any number of ranks.\n"
    "IN: q, k [B,T,H,K], v [B,T,HV,V], g [B,T,HV,K or 1], beta [B,T,HV]; optionally cu_seqlens [N+1], initial_state [N,HV,K,V],\n"
    "A_log [HV], dt_bias [HV,K], and do [B,T,HV,V] with dstate [N,HV,K,V], which ask for gradients.\n"
    "OUT: out, final_state, when asked for checkpoints, and with do dq, dk, dv, dg, dbeta and, where given, dinitial_state, dA_log, ddt_bias.",
    kda_command,
};
