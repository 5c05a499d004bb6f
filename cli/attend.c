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

/* What a rank has of the arrays. */
struct arrays {
    void *q, *k, *v, *out;
    float *lse, *probs;                /* probs NULL: not wanted */
    struct attend_gradients of;
    int64_t bytes;
};

static void arrays_free(struct arrays *r)
{
    free(r->q);
    free(r->k);
    free(r->v);
    free(r->out);
    free(r->lse);
    free(r->probs);
    attend_backward_free(&r->of);
}

static void *take(struct arrays *r, int64_t count, size_t size)
{
    void *memory = room(count, size);
    r->bytes += memory ? count * (int64_t)size : 0;
    return memory;
}

static int take_arrays(struct arrays *r, const struct attend_input *in, const rondo_attention_info *info)
{
    const size_t size = rondo_type_size(in->type);
    const int64_t probs = options.terms.probs ? info->q_rows * in->heads * attend_probs_keys(in) : 0;
    r->q = take(r, info->q_rows * in->heads * in->head_dim, size);
    r->k = take(r, info->kv_rows * in->kv_heads * in->head_dim, size);
    r->v = take(r, info->kv_rows * in->kv_heads * in->value_dim, size);
    r->out = take(r, info->q_rows * in->heads * in->value_dim, rondo_type_size(options.out_type));
    r->lse = take(r, info->q_rows * in->heads, sizeof *r->lse);
    r->probs = options.terms.probs ? take(r, probs, sizeof *r->probs) : NULL;
    if (!r->q || !r->k || !r->v || !r->out || !r->lse || (options.terms.probs && !r->probs))
        return body_fail(RONDO_ENOMEM, "not enough memory for %lld queries and %lld keys on a rank; more ranks hold fewer each",
                         (long long)info->q_rows, (long long)info->kv_rows);
    if (r->probs)
        memset(r->probs, 0, (size_t)probs * sizeof *r->probs);   /* beyond a sequence's keys nothing is written */
    return in->dout ? attend_backward_room(&r->of, in, info, options.out_type, &r->bytes) : 0;
}

static int read_arrays(const struct attend *a, const rondo_attention *plan, const rondo_attention_info *info, const struct arrays *r)
{
    const struct attend_input *in = &a->in;
    int code = read_rows(a, plan, in->q, 0, info->q_rows, r->q);
    if (!code && in->dout)
        code = read_rows(a, plan, in->dout, 0, info->q_rows, r->of.dout);
    if (!code)
        code = read_rows(a, plan, in->k, 1, info->kv_rows, r->k);
    return code ? code : read_rows(a, plan, in->v, 1, info->kv_rows, r->v);
}

static void give(rondo_attention_io *io, const struct attend_input *in, const rondo_attention_info *info, const struct arrays *r)
{
    const int64_t out_shape[3] = { info->q_rows, in->heads, in->value_dim }, probs_shape[3] = { info->q_rows, in->heads, attend_probs_keys(in) };
    io->q = rows_of(r->q, in, info->q_rows, in->heads, in->head_dim);
    io->k = rows_of(r->k, in, info->kv_rows, in->kv_heads, in->head_dim);
    io->v = rows_of(r->v, in, info->kv_rows, in->kv_heads, in->value_dim);
    io->out = rondo_tensor_dense(r->out, options.out_type, 3, out_shape);
    io->lse = rondo_tensor_dense(r->lse, RONDO_F32, 2, out_shape);
    if (r->probs)
        io->probs = rondo_tensor_dense(r->probs, RONDO_F32, 3, probs_shape);
    give_terms(io, in);
}

/* What the plan takes besides these arrays: the larger of what its two passes have of the device's memory. */
static size_t plan_bytes(const struct attend_input *in, const rondo_attention_info *info)
{
    const size_t device = info->device_bytes > info->backward_device_bytes ? info->device_bytes : info->backward_device_bytes;
    return info->workspace_bytes + info->backward_workspace_bytes + device + info->plan_bytes +
           (in->heads_first ? info->pack_bytes + info->backward_pack_bytes : 0);
}

static int body(rondo_context *ctx, struct slot *mine, void *arg)
{
    struct attend *a = arg;
    const struct attend_input *in = &a->in;
    rondo_attention *plan = NULL;
    rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
    rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
    struct arrays r = { .bytes = 0 };
    int code = make_plan(&plan, ctx, in);
    if (!code)
        code = rondo_attention_query(plan, &info);
    if (!code)
        code = take_arrays(&r, in, &info);
    if (code)
        goto end;
    a->stage = STAGE_INPUT;
    code = read_arrays(a, plan, &info, &r);
    if (code)
        goto end;
    give(&io, in, &info, &r);
    io.progress = rondo_context_rank(ctx) == 0 ? progress_part : NULL;
    code = rondo_barrier(ctx);
    const double begin = now();
    if (!code)
        code = rondo_attention_execute(plan, &io, NULL);
    if (!code && in->dout)
        code = attend_backward(plan, &io, in, &info, rondo_context_ranks(ctx), &r.of);
    const double seconds = now() - begin;
    if (code)
        goto end;
    slot_measure(mine, ctx);
    mine->whole[0] = r.bytes + (int64_t)plan_bytes(in, &info);
    mine->real[0] = seconds;
    if (rondo_context_rank(ctx) == 0)
        a->out.info = info;
    code = attend_write(ctx, &a->out, plan, r.out, r.lse, r.probs, in->dout ? &r.of : NULL);
end:
    rondo_attention_destroy(plan);
    arrays_free(&r);
    return code;
}

static int report(const struct attend *a, const struct run *run)
{
    json_t *r = report_new();
    double seconds = 0;
    for (int i = 0; i < run->ranks; i++)
        seconds = run->slots[i].real[0] > seconds ? run->slots[i].real[0] : seconds;
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
    report_bytes(r, run);
    report_comm(r, run);
    return report_print(r);
}

static int attend(void *arg)
{
    struct attend *a = arg;
    struct run run = RUN_INIT;
    const int ranks = ranks_count(&run);
    int code = ranks_check();
    if (code)
        return code;
    code = grid_check(ranks);
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
