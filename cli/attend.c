/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo attend: exact attention on arrays from a file, on any number of ranks. Every rank reads its own rows of the file, runs
 * the plan, and rank 0 takes the rows of all and writes them once, so that no partial result can be seen.
 */
#include "cli/attend.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static struct {
    const char *output;
    bool causal;
    struct window window;
    double scale;
    int out_type;
} options;

struct attend {
    const char *path;
    struct attend_input in;
    _Atomic int stage;
    /* filled by rank 0 */
    rondo_attention_info info;
    uint64_t hash;
};

static int set_scale(const struct option *o, const char *text)
{
    if (parse_real(text, -1e38, 1e38, &options.scale) || (options.scale < 1e-37 && options.scale > -1e-37))
        return fail(EXIT_USAGE, "--%s %s: a number of size 1e-37 to 1e38 is expected (default: 1/sqrt(head size))", o->name, text);
    return 0;
}

static const struct option own_options[] = {
    { "output", 'o', OPTION_TEXT, "FILE", "where out and lse go (safetensors)", &options.output, 0, 0, NULL },
    { "causal", 0, OPTION_FLAG, NULL, "a query sees no key after its position", &options.causal, 0, 0, NULL },
    { "window", 0, OPTION_CALL, "L,R", "a query sees L keys before and R after its position; -1 = open", &options.window, 0, 0, option_window },
    { "scale", 0, OPTION_CALL, "X", "factor of q.k (default 1/sqrt(head size))", NULL, 0, 0, set_scale },
    { "out-type", 0, OPTION_CALL, "f32|bf16|f16", "type of out (default: the input's)", &options.out_type, 0, 0, option_type },
    { "heads-first", 0, OPTION_REFUSED_FLAG, NULL, "is not part of this version; give arrays as [B, T, H, D], or packed [T, H, D]", NULL, 0, 0, NULL },
    { "softcap", 0, OPTION_REFUSED, "X", "is not part of this version; leave it out", NULL, 0, 0, NULL },
    { "dropout", 0, OPTION_REFUSED, "P", "is not part of this version; leave it out", NULL, 0, 0, NULL },
    { "seed", 0, OPTION_REFUSED, "S", "goes with --dropout, which is not part of this version; leave it out", NULL, 0, 0, NULL },
    { "probs", 0, OPTION_REFUSED_FLAG, NULL, "is not part of this version; out and lse are written", NULL, 0, 0, NULL },
    { NULL, 0, OPTION_FLAG, NULL, NULL, NULL, 0, 0, NULL },
};

/* Rank 0's side of the result: out goes to the file as it comes, lse is turned from rows to heads and goes last. */
struct sink {
    const struct attend *a;
    rondo_arrays_writer *writer;
    uint64_t hash;
    float *lse;             /* [B, H, Tq] or [H, Tq] */
    int out_type;
};

static int put_out(void *user, int64_t s, int64_t first, int64_t count, const void *rows)
{
    struct sink *k = user;
    const struct attend_input *in = &k->a->in;
    const int64_t width = in->heads * in->value_dim, row = in->q_first[s] + first;
    const size_t size = rondo_type_size(k->out_type);
    if (signals_pending())
        return body_fail(RONDO_ECANCELED, "interrupted while %s was written; it is left as it was", options.output);
    rondo_hash_add(&k->hash, rows, size, row * width, count * width);
    return rondo_arrays_write(k->writer, 0, (uint64_t)(row * width) * size, (uint64_t)(count * width) * size, rows);
}

static int put_lse(void *user, int64_t s, int64_t first, int64_t count, const void *rows)
{
    struct sink *k = user;
    const struct attend_input *in = &k->a->in;
    const float *x = rows;
    for (int64_t i = 0; i < count; i++)
        for (int64_t h = 0; h < in->heads; h++) {
            const int64_t row = in->packed ? in->q_first[s] + first + i : first + i;
            const int64_t block = in->packed ? h : s * in->heads + h;
            k->lse[block * in->q_rows + row] = x[i * in->heads + h];
        }
    return 0;
}

static int write_result(rondo_context *ctx, struct attend *a, const rondo_attention *plan, const void *out, const float *lse)
{
    const struct attend_input *in = &a->in;
    const bool first = rondo_context_rank(ctx) == 0;
    const int out_type = options.out_type ? options.out_type : in->type;
    const int64_t out_shape[4] = { in->batch, in->q_rows, in->heads, in->value_dim }, lse_shape[3] = { in->batch, in->heads, in->q_rows };
    const int skip = in->packed ? 1 : 0;
    const rondo_array arrays[2] = { { .name = "out", .type = out_type, .dims = 4 - skip, .shape = out_shape + skip },
                                    { .name = "lse", .type = RONDO_ARRAY_F32, .dims = 3 - skip, .shape = lse_shape + skip } };
    const int64_t lse_count = in->batch * in->heads * in->q_rows, out_count = lse_count * in->value_dim;
    struct sink sink = { a, NULL, 0, NULL, out_type };
    int code = 0;
    if (first) {
        signals_hold();
        sink.lse = room(lse_count, sizeof *sink.lse);
        code = sink.lse ? rondo_arrays_create(&sink.writer, options.output, arrays, 2)
                        : body_fail(RONDO_ENOMEM, "not enough memory for lse (%lld numbers)", (long long)lse_count);
    }
    if (!code)
        code = collect_rows(ctx, plan, in->sequences, out, (size_t)(in->heads * in->value_dim) * rondo_type_size(out_type), put_out, &sink);
    if (!code)
        code = collect_rows(ctx, plan, in->sequences, lse, (size_t)in->heads * sizeof *lse, put_lse, &sink);
    if (first) {
        if (!code) {
            rondo_hash_add(&sink.hash, sink.lse, sizeof *sink.lse, out_count, lse_count);
            code = rondo_arrays_write(sink.writer, 1, 0, (uint64_t)lse_count * sizeof *sink.lse, sink.lse);
        }
        if (!code && signals_pending())
            code = body_fail(RONDO_ECANCELED, "interrupted before %s was complete; it is left as it was", options.output);
        if (!code) {
            a->hash = rondo_hash_close(sink.hash, a->info.arithmetic, a->info.leaf, out_shape + skip, 4 - skip);
            code = rondo_arrays_commit(sink.writer);
        } else {
            rondo_arrays_abandon(sink.writer);
        }
        free(sink.lse);
        signals_release();
    }
    return code;
}

/* The rows of one tensor that this rank holds, sequence after sequence. */
static int read_rows(const struct attend *a, const rondo_attention *plan, const rondo_array *array, int keys, char *to)
{
    const struct attend_input *in = &a->in;
    const int64_t elements = array->shape[array->dims - 1] * array->shape[array->dims - 2];
    const uint64_t row_bytes = (uint64_t)elements * rondo_type_size(in->type);
    int code = 0;
    for (int64_t s = 0; s < in->sequences && !code; s++) {
        int64_t n, held = 0;
        rondo_span *spans = spans_of(plan, s, keys, -1, &n, &code);
        if (!spans)
            return code;
        const int64_t first = keys ? in->k_first[s] : in->q_first[s];
        for (int64_t i = 0; i < n && !code; i++) {
            const int64_t at_once = spans[i].step == 1 ? spans[i].count : 1;
            for (int64_t j = 0; j < spans[i].count && !code; j += at_once)
                code = rondo_arrays_read(in->file, array, (uint64_t)(first + spans[i].first + j * spans[i].step) * row_bytes,
                                         (uint64_t)at_once * row_bytes, to + (uint64_t)(spans[i].row + j) * row_bytes);
            held += spans[i].count;
        }
        to += (uint64_t)held * row_bytes;
        free(spans);
    }
    return code;
}

static int make_plan(rondo_attention **plan, rondo_context *ctx, const struct attend_input *in)
{
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    d.heads = in->heads;
    d.kv_heads = in->kv_heads;
    d.head_dim = in->head_dim;
    d.value_dim = in->value_dim;
    d.sequences = in->sequences;
    d.tokens_of = in->tokens;
    d.cached_of = in->cached;
    d.causal = options.causal;
    d.windowed = options.window.given;
    d.window_left = options.window.left;
    d.window_right = options.window.right;
    d.scale = options.scale;
    d.q_type = d.kv_type = in->type;
    d.out_type = options.out_type ? options.out_type : in->type;
    d.layout = common.layout;
    d.algorithm = common.algorithm;
    return rondo_attention_create(plan, ctx, &d);
}

static int on_progress(void *user, double done)
{
    (void)user;
    progress_set((uint64_t)(done * 1e6), 1000000);
    return 0;
}

static int body(rondo_context *ctx, struct slot *mine, void *arg)
{
    struct attend *a = arg;
    const struct attend_input *in = &a->in;
    const size_t in_size = rondo_type_size(in->type), out_size = rondo_type_size(options.out_type ? options.out_type : in->type);
    rondo_attention *plan = NULL;
    rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
    rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
    void *q = NULL, *k = NULL, *v = NULL, *out = NULL;
    float *lse = NULL;
    int code = make_plan(&plan, ctx, in);
    if (!code)
        code = rondo_attention_query(plan, &info);
    if (code)
        goto end;
    const int64_t q_shape[3] = { info.q_rows, in->heads, in->head_dim }, k_shape[3] = { info.kv_rows, in->kv_heads, in->head_dim };
    const int64_t v_shape[3] = { info.kv_rows, in->kv_heads, in->value_dim }, o_shape[3] = { info.q_rows, in->heads, in->value_dim };
    const int64_t q_count = q_shape[0] * q_shape[1] * q_shape[2], k_count = k_shape[0] * k_shape[1] * k_shape[2];
    const int64_t v_count = v_shape[0] * v_shape[1] * v_shape[2], o_count = o_shape[0] * o_shape[1] * o_shape[2];
    q = room(q_count, in_size);
    k = room(k_count, in_size);
    v = room(v_count, in_size);
    out = room(o_count, out_size);
    lse = room(info.q_rows * in->heads, sizeof *lse);
    if (!q || !k || !v || !out || !lse) {
        code = body_fail(RONDO_ENOMEM, "not enough memory for %lld queries and %lld keys on a rank; more ranks hold fewer each",
                         (long long)info.q_rows, (long long)info.kv_rows);
        goto end;
    }
    a->stage = STAGE_INPUT;
    code = read_rows(a, plan, in->q, 0, q);
    if (!code)
        code = read_rows(a, plan, in->k, 1, k);
    if (!code)
        code = read_rows(a, plan, in->v, 1, v);
    if (code)
        goto end;
    io.q = rondo_tensor_dense(q, in->type, 3, q_shape);
    io.k = rondo_tensor_dense(k, in->type, 3, k_shape);
    io.v = rondo_tensor_dense(v, in->type, 3, v_shape);
    io.out = rondo_tensor_dense(out, options.out_type ? options.out_type : in->type, 3, o_shape);
    const int64_t lse_shape[2] = { info.q_rows, in->heads };
    io.lse = rondo_tensor_dense(lse, RONDO_F32, 2, lse_shape);
    io.progress = rondo_context_rank(ctx) == 0 ? on_progress : NULL;
    code = rondo_barrier(ctx);
    const double begin = now();
    if (!code)
        code = rondo_attention_execute(plan, &io, NULL);
    const double seconds = now() - begin;
    if (code)
        goto end;
    slot_measure(mine, ctx);
    mine->whole[0] = (int64_t)((size_t)(q_count + k_count + v_count) * in_size + (size_t)o_count * out_size +
                               (size_t)(info.q_rows * in->heads) * sizeof *lse + info.workspace_bytes + info.device_bytes + info.plan_bytes);
    mine->real[0] = seconds;
    if (rondo_context_rank(ctx) == 0)
        a->info = info;
    code = write_result(ctx, a, plan, out, lse);
end:
    rondo_attention_destroy(plan);
    free(q);
    free(k);
    free(v);
    free(out);
    free(lse);
    return code;
}

static int report(const struct attend *a, const struct run *run)
{
    json_t *r = report_new(), *bytes = json_array();
    int64_t peak = 0;
    double seconds = 0;
    for (int i = 0; i < run->ranks; i++) {
        const struct slot *s = &run->slots[i];
        peak = s->whole[0] > peak ? s->whole[0] : peak;
        seconds = s->real[0] > seconds ? s->real[0] : seconds;
        json_array_append_new(bytes, json_integer(s->whole[0]));
    }
    report_hash(r, "hash", a->hash);
    json_object_set_new(r, "algorithm", json_string(rondo_algorithm_name(a->info.algorithm)));
    json_object_set_new(r, "layout", json_string(rondo_layout_name(a->info.layout)));
    report_numerics(r, a->info.leaf);
    report_run(r, run, seconds);
    json_object_set_new(r, "flops", number(a->info.flops));
    json_object_set_new(r, "visible_pairs", json_integer((json_int_t)a->info.visible_pairs));
    json_object_set_new(r, "peak_bytes_per_rank", json_integer(peak));
    json_object_set_new(r, "bytes_of_ranks", bytes);
    report_comm(r, run);
    return report_print(r);
}

static int attend(void *arg)
{
    struct attend *a = arg;
    if (common.mpi && common.ranks && common.ranks != ranks_world())
        return fail(EXIT_USAGE, "--ranks %lld does not fit the %d processes of this run; start it as mpirun -n %lld rondo ..., or leave --ranks "
                    "out", (long long)common.ranks, ranks_world(), (long long)common.ranks);
    int code = ranks_together(attend_open(&a->in, a->path));
    if (code)
        return code;
    struct run run = RUN_INIT;
    progress_begin("attend");
    const int error = ranks_run(&run, body, a);
    progress_end();
    code = fail_code(error, (enum stage)a->stage, run.text);
    if (!code)
        code = trace_write();
    if (!code && ranks_first())
        code = report(a, &run);
    run_free(&run);
    attend_close(&a->in);
    return code;
}

static int attend_command(const struct command *self, int argc, char **argv)
{
    const struct option *const tables[OPTION_TABLES] = { own_options, options_ranks, options_machine, options_output };
    struct attend a;
    const char *path = NULL;
    int operands = 0;
    bool help;
    memset(&a, 0, sizeof a);
    a.stage = STAGE_OPTIONS;
    int code = options_parse(self, tables, argc, argv, &path, 1, &operands, &help);
    if (code || help)
        return code;
    if (!operands)
        return fail(EXIT_USAGE, "no input file is given; usage: rondo %s", self->synopsis);
    if (!options.output)
        return fail(EXIT_USAGE, "no output file is given; add -o OUT.safetensors");
    const struct file_use files[] = { { "IN", path, FILE_IN }, { "-o", options.output, FILE_OUT }, { NULL, NULL, FILE_IN } };
    if ((code = common_settle()) != 0)
        return code;
    a.path = path;
    return ranks_session(attend, &a, files);
}

const struct command command_attend = {
    "attend", "attend [OPTION]... IN.safetensors -o OUT.safetensors",
    "Exact attention on arrays from a file, on any number of ranks.\n"
    "IN: q [B,Tq,H,D], k [B,Tk,Hkv,D], v [B,Tk,Hkv,Dv], optionally lengths_k [B]; or packed q [Tq,H,D], k [Tk,Hkv,D],\n"
    "v [Tk,Hkv,Dv] with cu_seqlens_q and cu_seqlens_k. OUT: out and lse.",
    attend_command,
};
