/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo attend: exact attention on arrays from a file, on any number of ranks. Every rank reads its own rows of the file and runs
 * the plan; attend_output.c writes what came of it.
 */
#include "cli/attend.h"

#include <stdlib.h>
#include <string.h>

static struct {
    const char *output;
    struct terms terms;
    bool heads_first;
    int out_type;
} options;

struct attend {
    const char *path;
    struct attend_input in;
    struct attend_output out;
    _Atomic int stage;
};

static const struct option own_options[] = {
    { "output", 'o', OPTION_TEXT, "FILE", "where out and lse go (safetensors)", &options.output, 0, 0, NULL },
    { "causal", 0, OPTION_FLAG, NULL, "a query sees no key after its position", &options.terms.causal, 0, 0, NULL },
    { "window", 0, OPTION_CALL, "L,R", "a query sees L keys before and R after its position; -1 = open", &options.terms.window, 0, 0, option_window },
    { "scale", 0, OPTION_CALL, "X", "factor of q.k (default 1/sqrt(head size))", &options.terms, 0, 0, option_scale },
    { "softcap", 0, OPTION_CALL, "X", "scores s become X*tanh(s/X)", &options.terms, 0, 0, option_softcap },
    { "dropout", 0, OPTION_CALL, "P", "weights are dropped with this probability", &options.terms, 0, 0, option_dropout },
    { "seed", 0, OPTION_CALL, "S", "of --dropout (default 0)", &options.terms, 0, 0, option_seed },
    { "probs", 0, OPTION_FLAG, NULL, "write the attention probabilities too", &options.terms.probs, 0, 0, NULL },
    { "out-type", 0, OPTION_CALL, "f32|bf16|f16", "type of out (default: the input's)", &options.out_type, 0, 0, option_type },
    { "heads-first", 0, OPTION_FLAG, NULL, "q, k, v and out are [B, H, T, D], packed [H, T, D]", &options.heads_first, 0, 0, NULL },
    { NULL, 0, OPTION_FLAG, NULL, NULL, NULL, 0, 0, NULL },
};

/* Bytes [first, first + count) of an array, counted in pieces of a row (all heads of a token; heads first: one head of it). */
static int read_piece(const struct attend *a, const rondo_array *array, size_t piece, int64_t first, int64_t count, char *to)
{
    return count ? rondo_arrays_read(a->in.file, array, (uint64_t)first * piece, (uint64_t)count * piece, to) : 0;
}

/* The rows of one tensor that this rank holds, sequence after sequence; `rows` of them. Heads first, they lie [heads, rows, dim]. */
static int read_rows(const struct attend *a, const rondo_attention *plan, const rondo_array *array, int keys, int64_t rows, char *to)
{
    const struct attend_input *in = &a->in;
    const int64_t heads = keys ? in->kv_heads : in->heads, tokens = keys ? in->k_rows : in->q_rows, blocks = in->heads_first ? heads : 1;
    const size_t piece = (size_t)(array->shape[array->dims - 1] * (in->heads_first ? 1 : heads)) * rondo_type_size(array->type);
    int64_t before = 0;
    int code = 0;
    for (int64_t s = 0; s < in->sequences && !code; s++) {
        int64_t n, held = 0;
        rondo_span *spans = spans_of(plan, s, keys, -1, &n, &code);
        if (!spans)
            return code;
        const int64_t begins = keys ? in->k_first[s] : in->q_first[s];
        for (int64_t i = 0; i < n && !code; i++) {
            const int64_t at_once = spans[i].step == 1 ? spans[i].count : 1;
            for (int64_t j = 0; j < spans[i].count && !code; j += at_once)
                for (int64_t h = 0; h < blocks && !code; h++) {
                    const int64_t token = spans[i].first + j * spans[i].step, here = before + spans[i].row + j;
                    /* heads first: of the file's blocks [batch, heads], in which sequence s has rows from `begins` or from its block on */
                    const int64_t from = !in->heads_first ? begins + token
                                         : in->packed     ? h * tokens + begins + token
                                                          : (s * heads + h) * tokens + token;
                    code = read_piece(a, array, piece, from, at_once, to + (size_t)(h * rows + here) * piece);
                }
            held += spans[i].count;
        }
        before += held;
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
    d.q_type = d.kv_type = in->type;
    d.out_type = options.out_type;
    d.level = common.level;
    d.arithmetic = common.arithmetic;
    terms_describe(&options.terms, &d);
    d.alibi = in->alibi != NULL;
    d.sinks = in->sinks != NULL;
    d.bias = in->bias.data ? (int32_t)in->bias.heads : 0;
    d.gradients = in->dout != NULL;
    d.documents = in->documents;
    d.documents_first = in->documents_first;
    if (in->mask.data) {
        d.mask = in->mask.data;
        d.mask_heads = in->mask.heads;
        d.mask_row_stride = in->mask.row_stride;
        d.mask_head_stride = in->mask.head_stride;
        d.mask_row = in->mask.row;
        d.mask_key = in->mask.key;
    }
    return rondo_attention_create(plan, ctx, &d);
}

static rondo_tensor numbers(const void *data, int dims, const int64_t *shape)
{
    return rondo_tensor_dense((void *)(uintptr_t)data, RONDO_F32, dims, shape);   /* only read */
}

/* What an execution is given besides q, k, v and the room for results. */
static void give_terms(rondo_attention_io *io, const struct attend_input *in)
{
    const int64_t heads[1] = { in->heads }, shape[3] = { in->bias.rows, in->bias.heads, in->k_rows };
    if (in->alibi)
        io->alibi = numbers(in->alibi, 1, heads);
    if (in->sinks)
        io->sinks = numbers(in->sinks, 1, heads);
    if (in->bias.data) {
        io->bias = numbers(in->bias.data, 3, shape);
        io->bias.stride[0] = in->bias.row_stride;
        io->bias.stride[1] = in->bias.heads > 1 ? in->bias.head_stride : 1;
        io->bias_row = in->bias.row;
        io->bias_key = in->bias.key;
    }
    io->seed = options.terms.dropout > 0 ? options.terms.seed : 0;
}

/* A tensor of this rank's rows, as read_rows() lays them. */
static rondo_tensor rows_of(void *data, const struct attend_input *in, int64_t rows, int64_t heads, int64_t dim)
{
    const int64_t shape[3] = { rows, heads, dim };
    rondo_tensor t = rondo_tensor_dense(data, in->type, 3, shape);
    if (in->heads_first) {
        t.stride[0] = dim;
        t.stride[1] = rows > 0 ? rows * dim : dim;
    }
    return t;
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
    const size_t in_size = rondo_type_size(in->type), out_size = rondo_type_size(options.out_type);
    rondo_attention *plan = NULL;
    rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
    rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
    void *q = NULL, *k = NULL, *v = NULL, *out = NULL;
    float *lse = NULL, *probs = NULL;
    struct attend_gradients g = { NULL, NULL, NULL, NULL, NULL, NULL };
    int64_t g_bytes = 0;
    int code = make_plan(&plan, ctx, in);
    if (!code)
        code = rondo_attention_query(plan, &info);
    if (code)
        goto end;
    const int64_t o_shape[3] = { info.q_rows, in->heads, in->value_dim }, lse_shape[2] = { info.q_rows, in->heads };
    const int64_t probs_shape[3] = { info.q_rows, in->heads, attend_probs_keys(in) };
    const int64_t q_count = info.q_rows * in->heads * in->head_dim, k_count = info.kv_rows * in->kv_heads * in->head_dim;
    const int64_t v_count = info.kv_rows * in->kv_heads * in->value_dim, o_count = info.q_rows * in->heads * in->value_dim;
    const int64_t p_count = options.terms.probs ? info.q_rows * in->heads * attend_probs_keys(in) : 0;
    q = room(q_count, in_size);
    k = room(k_count, in_size);
    v = room(v_count, in_size);
    out = room(o_count, out_size);
    lse = room(info.q_rows * in->heads, sizeof *lse);
    probs = options.terms.probs ? room(p_count, sizeof *probs) : NULL;
    if (!q || !k || !v || !out || !lse || (options.terms.probs && !probs)) {
        code = body_fail(RONDO_ENOMEM, "not enough memory for %lld queries and %lld keys on a rank; more ranks hold fewer each",
                         (long long)info.q_rows, (long long)info.kv_rows);
        goto end;
    }
    if (in->dout)
        code = attend_backward_room(&g, in, &info, options.out_type, &g_bytes);
    if (code)
        goto end;
    a->stage = STAGE_INPUT;
    code = read_rows(a, plan, in->q, 0, info.q_rows, q);
    if (!code && in->dout)
        code = read_rows(a, plan, in->dout, 0, info.q_rows, g.dout);
    if (!code)
        code = read_rows(a, plan, in->k, 1, info.kv_rows, k);
    if (!code)
        code = read_rows(a, plan, in->v, 1, info.kv_rows, v);
    if (code)
        goto end;
    io.q = rows_of(q, in, info.q_rows, in->heads, in->head_dim);
    io.k = rows_of(k, in, info.kv_rows, in->kv_heads, in->head_dim);
    io.v = rows_of(v, in, info.kv_rows, in->kv_heads, in->value_dim);
    io.out = rondo_tensor_dense(out, options.out_type, 3, o_shape);
    io.lse = rondo_tensor_dense(lse, RONDO_F32, 2, lse_shape);
    give_terms(&io, in);
    if (probs) {
        memset(probs, 0, (size_t)p_count * sizeof *probs);   /* beyond a sequence's keys nothing is written */
        io.probs = rondo_tensor_dense(probs, RONDO_F32, 3, probs_shape);
    }
    io.progress = rondo_context_rank(ctx) == 0 ? on_progress : NULL;
    code = rondo_barrier(ctx);
    const double begin = now();
    if (!code)
        code = rondo_attention_execute(plan, &io, NULL);
    if (!code && in->dout)
        code = attend_backward(plan, &io, in, &info, rondo_context_ranks(ctx), &g);
    const double seconds = now() - begin;
    if (code)
        goto end;
    slot_measure(mine, ctx);
    mine->whole[0] = (int64_t)((size_t)(q_count + k_count + v_count) * in_size + (size_t)o_count * out_size +
                               (size_t)(info.q_rows * in->heads + p_count) * sizeof *lse + info.workspace_bytes + info.device_bytes + info.plan_bytes +
                               (in->heads_first ? info.pack_bytes + info.backward_pack_bytes : 0)) +
                     g_bytes + (int64_t)(info.backward_workspace_bytes + (info.backward_device_bytes > info.device_bytes
                                                                              ? info.backward_device_bytes - info.device_bytes : 0));
    mine->real[0] = seconds;
    if (rondo_context_rank(ctx) == 0)
        a->out.info = info;
    code = attend_write(ctx, &a->out, plan, out, lse, probs, in->dout ? &g : NULL);
end:
    rondo_attention_destroy(plan);
    free(q);
    free(k);
    free(v);
    free(out);
    free(lse);
    free(probs);
    attend_backward_free(&g);
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
    report_hash(r, "hash", a->out.hash);
    json_object_set_new(r, "algorithm", json_string(rondo_algorithm_name(a->out.info.algorithm)));
    report_choice(r, a->out.info.chosen_by, a->out.info.predicted_seconds);
    if (a->in.dout)
        json_object_set_new(r, "backward_algorithm", json_string(rondo_algorithm_name(a->out.info.backward_algorithm)));
    json_object_set_new(r, "layout", json_string(rondo_layout_name(a->out.info.layout)));
    if (a->out.info.grid[0])
        json_object_set_new(r, "grid", json_pack("[ii]", (int)a->out.info.grid[0], (int)a->out.info.grid[1]));
    report_numerics(r, a->out.info.leaf);
    report_run(r, run, seconds);
    json_object_set_new(r, "flops", number(a->out.info.flops + a->out.info.backward_flops));
    json_object_set_new(r, "visible_pairs", json_integer((json_int_t)a->out.info.visible_pairs));
    json_object_set_new(r, "imbalance", number(a->out.info.imbalance));
    if (options.terms.dropping) {
        json_object_set_new(r, "dropout", number(options.terms.dropout));
        json_object_set_new(r, "seed", json_integer((json_int_t)options.terms.seed));
    }
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
    struct run run = RUN_INIT;
    const int ranks = ranks_count(&run);
    int code = grid_check(ranks);
    if (!code)
        code = attend_open(&a->in, a->path, options.heads_first);
    options.out_type = options.out_type ? options.out_type : a->in.type;
    if (!code)
        code = attend_check_do(&a->in, options.out_type);
    if (!code)
        code = attend_spread_bias(&a->in, ranks);
    a->out = (struct attend_output){ .in = &a->in, .path = options.output, .type = options.out_type };
    if (!code && options.terms.probs)
        code = attend_probs_check(&a->out, ranks);
    code = ranks_together(code);
    if (code) {
        attend_close(&a->in);
        return code;
    }
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
    if ((code = terms_check(&options.terms)) != 0 || (code = common_settle()) != 0)
        return code;
    a.path = path;
    return ranks_session(attend, &a, files);
}

const struct command command_attend = {
    "attend", "attend [OPTION]... IN.safetensors -o OUT.safetensors",
    "Exact attention on arrays from a file, on any number of ranks.\n"
    "IN: q [B,Tq,H,D], k [B,Tk,Hkv,D], v [B,Tk,Hkv,Dv], or packed q [Tq,H,D], k [Tk,Hkv,D], v [Tk,Hkv,Dv] with cu_seqlens_q\n"
    "and cu_seqlens_k; optionally lengths_k [B], documents [B,Tk], mask and bias [1|B,1|H,Tq,Tk], alibi [H], sinks [H],\n"
    "do [B,Tq,H,Dv], which asks for gradients.\n"
    "OUT: out, lse, when asked for probs, and with do dq, dk, dv and, where given, dbias and dsinks.",
    attend_command,
};
