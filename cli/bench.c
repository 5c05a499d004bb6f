/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo bench: measures, always as a ratio to a ceiling taken in the same run.
 */
#include "cli/bench.h"
#include "cli/target.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct bench bench;
static const char *kind, *calibrate, *plot;
static int64_t repeat;
static bool shape_given, terms;
static int way = -1;               /* of the delta rule */

#define COMMON_ROWS                                                                                                                       \
    { "repeat", 0, OPTION_INT, "R", "samples a row (default 5)", &repeat, 1, BENCH_REPEAT_MOST, NULL },                                   \
    { "plot", 0, OPTION_TEXT, "FILE", "draw the rows (.png or .svg; needs gnuplot)", &plot, 0, 0, NULL },                                 \
    { "check", 0, OPTION_FLAG, NULL, "exit 1 where a mark of README's table is missed", &bench.check, 0, 0, NULL },                       \
    { "calibrate", 0, OPTION_TEXT, "FILE", "write a hardware file for this machine", &calibrate, 0, 0, NULL }
#define LAST_ROW { NULL, 0, OPTION_FLAG, NULL, NULL, NULL, 0, 0, NULL }

static const struct option tour_options[] = {
    COMMON_ROWS, LAST_ROW,
};
static const struct option attention_options[] = {
    { "tokens", 0, OPTION_INT, "T", "queries (default 4096)", &bench.shape.tokens, 1, 1 << 24, NULL },
    { "cached", 0, OPTION_INT, "P", "keys before them (default 0)", &bench.shape.cached, 0, 1 << 28, NULL },
    { "heads", 0, OPTION_INT, "H", "query heads (default 32)", &bench.shape.heads, 1, 4096, NULL },
    { "kv-heads", 0, OPTION_INT, "G", "KV heads (default 8, or H where 8 does not divide it)", &bench.shape.kv_heads, 1, 4096, NULL },
    { "head-dim", 0, OPTION_INT, "D", "size of q and k (default 128)", &bench.shape.head_dim, 1, 4096, NULL },
    { "value-dim", 0, OPTION_INT, "Dv", "size of v (default D)", &bench.shape.value_dim, 1, 4096, NULL },
    { "type", 0, OPTION_CALL, "f32|bf16|f16|q8", "of keys and values (default f32)", &bench.shape.type, 0, 0, option_number_type },
    { "causal", 0, OPTION_FLAG, NULL, "a query sees no key after its position", &bench.shape.causal, 0, 0, NULL },
    { "window", 0, OPTION_CALL, "L,R", "a query sees L keys before and R after; -1 = open", &bench.shape.window, 0, 0, option_window },
    { "softcap", 0, OPTION_REAL, "X", "scores s become X*tanh(s/X)", &bench.shape.softcap, 1e-30, 1e30, NULL },
    { "dropout", 0, OPTION_REAL, "P", "weights are dropped with this probability", &bench.shape.dropout, 0, 0.999, NULL },
    { "alibi", 0, OPTION_FLAG, NULL, "with slopes", &bench.shape.alibi, 0, 0, NULL },
    { "bias", 0, OPTION_FLAG, NULL, "with a bias of all queries and keys, one for all heads", &bench.shape.bias, 0, 0, NULL },
    { "sinks", 0, OPTION_FLAG, NULL, "with a sink for each head", &bench.shape.sinks, 0, 0, NULL },
    { "mask", 0, OPTION_FLAG, NULL, "with a mask that hides one pair in eight, here and there", &bench.shape.mask, 0, 0, NULL },
    { "documents", 0, OPTION_INT, "MEAN", "documents of so many keys on average", &bench.shape.documents, 1, 1 << 28, NULL },
    { "packed", 0, OPTION_INT, "MEAN", "sequences of so many tokens on average", &bench.shape.packed, 1, 1 << 24, NULL },
    { "lengths", 0, OPTION_FLAG, NULL, "a batch of two, the second with fewer keys than queries", &bench.shape.lengths, 0, 0, NULL },
    { "terms", 0, OPTION_FLAG, NULL, "each of these by turns, as a part of plain causal (default T: 8192)", &terms, 0, 0, NULL },
    { "backward", 0, OPTION_FLAG, NULL, "the gradients instead", &bench.shape.backward, 0, 0, NULL },
    { "decode", 0, OPTION_FLAG, NULL, "one query over P cached tokens (default P: 16384)", &bench.shape.decode, 0, 0, NULL },
    { "hardware", 0, OPTION_TEXT, "FILE|NAME", "compare with what is predicted on it", &bench.shape.hardware, 0, 0, NULL },
    COMMON_ROWS, LAST_ROW,
};
static const struct option linear_options[] = {
    { "rows", 0, OPTION_INT, "M", "rows of x (default 512)", &bench.shape.rows, 1, 1 << 24, NULL },
    { "in", 0, OPTION_INT, "K", "length of a row of x (default 2048)", &bench.shape.in, 1, 1 << 20, NULL },
    { "out", 0, OPTION_INT, "N", "length of a row of y (default 2048)", &bench.shape.out, 1, 1 << 20, NULL },
    { "type", 0, OPTION_CALL, "f32|bf16|f16|q8", "of the weights (default f32)", &bench.shape.type, 0, 0, option_number_type },
    { "dx", 0, OPTION_FLAG, NULL, "the gradient by x instead", &bench.shape.dx, 0, 0, NULL },
    { "dw", 0, OPTION_FLAG, NULL, "the gradient by the weights instead", &bench.shape.dw, 0, 0, NULL },
    COMMON_ROWS, LAST_ROW,
};
static const struct option transport_options[] = {
    { "size", 0, OPTION_INT, "BYTES", "a message (default 4 MiB)", &bench.shape.size, 1, (double)((int64_t)1 << 36), NULL },
    COMMON_ROWS, LAST_ROW,
};
static const struct option generate_options[] = {
    { "model", 'm', OPTION_TEXT, "DIR", "the model's folder", &bench.shape.model, 0, 0, NULL },
    { "prompt", 0, OPTION_INT, "N", "tokens of the prompt (default 256)", &bench.shape.prompt, 1, 1 << 24, NULL },
    { "tokens", 0, OPTION_INT, "N", "new tokens (default 32)", &bench.shape.new_tokens, 2, 1 << 24, NULL },
    COMMON_ROWS, LAST_ROW,
};

static int option_way(const struct option *o, const char *text)
{
    static const char *const known[] = { "auto", "off", "pipeline", "affine", "columns", NULL };
    char shown[SHOWN_NAME];
    const int at = choose_word(shown_name(o, shown), text, known, NULL);
    if (at >= 0)
        way = at;
    return at < 0 ? EXIT_USAGE : 0;
}

static const struct option kda_options[] = {
    { "tokens", 0, OPTION_INT, "T", "tokens of one sequence (default 2048)", &bench.shape.tokens, 1, 1 << 24, NULL },
    { "heads", 0, OPTION_INT, "H", "heads of values (default 32)", &bench.shape.heads, 1, 4096, NULL },
    { "key-heads", 0, OPTION_INT, "G", "heads of queries and keys (default H)", &bench.shape.kv_heads, 1, 4096, NULL },
    { "head-dim", 0, OPTION_INT, "K", "size of q and k (default 128)", &bench.shape.head_dim, 1, 512, NULL },
    { "value-dim", 0, OPTION_INT, "V", "size of v (default K)", &bench.shape.value_dim, 1, 512, NULL },
    { "cp", 0, OPTION_CALL, "WAY", "how ranks share: auto, off, columns, pipeline or affine (default: each of the last three)", &way, 0, 0, option_way },
    { "decode", 0, OPTION_FLAG, NULL, "one token of each of N sequences, states in place", &bench.shape.decode, 0, 0, NULL },
    { "backward", 0, OPTION_FLAG, NULL, "gradients, and no forward pass", &bench.shape.backward, 0, 0, NULL },
    { "sequences", 0, OPTION_INT, "N", "of --decode (default 256)", &bench.shape.cached, 1, 1 << 20, NULL },
    { "hardware", 0, OPTION_TEXT, "FILE|NAME", "one run, compared with what is predicted on it", &bench.shape.hardware, 0, 0, NULL },
    COMMON_ROWS, LAST_ROW,
};

static const struct option load_options[] = {
    { "model", 'm', OPTION_TEXT, "DIR", "the model's folder", &bench.shape.model, 0, 0, NULL },
    COMMON_ROWS, LAST_ROW,
};

static int ranks_asked(int otherwise)
{
    return common.mpi ? ranks_world() : common.ranks ? (int)common.ranks : otherwise;
}

static void attention_defaults(struct shape *s)
{
    s->tokens = s->tokens ? s->tokens : terms ? 8192 : 4096;
    s->heads = s->heads ? s->heads : 32;
    s->kv_heads = s->kv_heads ? s->kv_heads : s->heads % 8 ? s->heads : 8;
    s->head_dim = s->head_dim ? s->head_dim : 128;
    s->type = s->type ? s->type : RONDO_F32;
    if (s->decode && !s->cached)
        s->cached = 16384;
    s->causal = s->causal || terms;
}

static int run_attention(struct bench *b)
{
    struct attention_bench got;
    json_t *row;
    struct shape *s = &b->shape;
    if (b->check && !shape_given && !terms)
        return bench_marks(b);
    if (terms)
        return bench_terms(b, s);
    if (b->check && (!s->backward || bench_has_mark(s, ranks_asked(1))))
        return bench_mark(b, s, ranks_asked(1));
    int code = bench_attention(b, s, ranks_asked(1), 0, &got, &row);
    return code || !row ? code : row_add(b, row);
}

static int run_linear(struct bench *b)
{
    struct shape *s = &b->shape;
    s->rows = s->rows ? s->rows : 512;
    s->in = s->in ? s->in : 2048;
    s->out = s->out ? s->out : 2048;
    s->type = s->type ? s->type : RONDO_F32;
    struct measurement got;
    json_t *row;
    const int code = bench_linear(b, s, 0, &got, &row);
    return !code && row ? row_add(b, row) : code;
}

static int run_transport(struct bench *b)
{
    b->shape.size = b->shape.size ? b->shape.size : 4 << 20;
    return bench_transport(b, &b->shape, ranks_asked(2), NULL);
}

/* A row or two of everything. */
static int run_tour(struct bench *b)
{
    static const struct shape prefill[] = {
        { .tokens = 2048, .heads = 32, .kv_heads = 8, .head_dim = 128, .causal = true, .type = RONDO_F32 },
        { .tokens = 2048, .heads = 32, .kv_heads = 8, .head_dim = 64, .causal = true, .type = RONDO_F32 },
        { .tokens = 2048, .heads = 32, .kv_heads = 8, .head_dim = 128, .causal = true, .type = RONDO_BF16 },
        { .tokens = 1, .cached = 16384, .heads = 32, .kv_heads = 8, .head_dim = 128, .causal = true, .decode = true, .type = RONDO_F32 },
    };
    static const struct shape linear[] = { { .rows = 512, .in = 2048, .out = 2048, .type = RONDO_F32 },
                                           { .rows = 512, .in = 2048, .out = 2048, .type = RONDO_BF16 } };
    static const struct shape message = { .size = 4 << 20 };
    int code = 0;
    if (!common.mpi)
        code = bench_memory(b, NULL, 1);
    if (!code && b->check)
        return bench_marks(b);
    for (size_t i = 0; i < sizeof prefill / sizeof *prefill && !code; i++) {
        struct attention_bench got;
        json_t *row;
        code = bench_attention(b, &prefill[i], ranks_asked(1), 0, &got, &row);
        if (!code && row)
            code = row_add(b, row);
    }
    for (size_t i = 0; i < sizeof linear / sizeof *linear && !code; i++) {
        struct measurement got;
        json_t *row;
        code = bench_linear(b, &linear[i], 0, &got, &row);
        if (!code && row)
            code = row_add(b, row);
    }
    return code ? code : bench_transport(b, &message, ranks_asked(2), NULL);
}

static bool is_kind(const char *name)
{
    return kind && !strcmp(kind, name);
}

static int measure(struct bench *b)
{
    int code = is_kind("attention")   ? run_attention(b)
               : is_kind("linear")    ? run_linear(b)
               : is_kind("transport") ? run_transport(b)
               : is_kind("generate")  ? bench_generate(b, &b->shape)
               : is_kind("load")      ? bench_load(b, &b->shape)
               : is_kind("kda")       ? bench_kda(b, &b->shape, way, ranks_asked(0))
               : calibrate            ? 0   /* it has a row of its own */
                                      : run_tour(b);
    return code || !calibrate ? code : bench_calibrate(b, calibrate);
}

static int report(const struct bench *b, double seconds)
{
    const json_t *first = json_array_get(b->rows, 0), *comm;
    json_t *r = report_new();
    report_numerics(r, 128);
    json_object_set_new(r, "device", json_string("cpu"));
    json_object_set_new(r, "transport", json_string(common.mpi ? "mpi" : "threads"));
    json_object_set(r, "isa", json_object_get(first, "isa"));
    json_object_set(r, "ranks", json_object_get(first, "ranks"));
    json_object_set_new(r, "seconds", number(seconds));
    json_object_set(r, "rows", b->rows);
    report_comm_in_all(r);
    comm = json_object_get(r, "comm");
    if (!json_integer_value(json_object_get(comm, "messages")) && !json_integer_value(json_object_get(comm, "bytes")))
        json_object_del(r, "comm");
    if (b->check) {
        json_object_set_new(r, "marks", json_integer(b->marks));
        json_object_set_new(r, "pass", b->marks ? json_boolean(!b->missed) : json_null());   /* nothing judged: neither */
    }
    return report_print(r);
}

static int run(void *arg)
{
    struct bench *b = arg;
    const double begin = now();
    b->rows = json_array();
    b->repeat = repeat ? (int)repeat : 5;
    int code = ranks_check();
    if (code)
        return code;
    if (calibrate && common.mpi && ranks_world() < 2)
        return fail(EXIT_USAGE, "--calibrate measures links between ranks, and mpirun started one; start two or more");
    if (ranks_first() && plot)
        code = target_try("--plot", plot);
    if (ranks_first() && calibrate && !code)
        code = target_try("--calibrate", calibrate);
    code = ranks_together(code);
    if (is_kind("attention"))
        attention_defaults(&b->shape);
    if (!code && is_kind("attention") && b->check && !shape_given && !terms)
        code = bench_memory(b, NULL, 1);
    if (!code && is_kind("attention") && b->shape.backward && !common.mpi)
        code = bench_memory(b, &b->shape, ranks_asked(1));
    progress_begin("bench");
    if (!code)
        code = measure(b);
    progress_end();
    if (!code)
        code = b->unwritten;
    if (!code)
        code = trace_write();
    if (!code && plot && ranks_first())
        code = bench_plot(b, plot);
    if (!code && ranks_first() && common.json)
        code = report(b, now() - begin);
    else if (!code && ranks_first() && !common.quiet && b->check && !b->marks)
        printf("no mark of README's table is about this: nothing was judged\n");
    json_decref(b->rows);
    return code ? code : b->missed ? EXIT_DIFFERS : EXIT_DONE;
}

static int check_options(void)
{
    const struct shape *s = &bench.shape;
    char extras[128];
    shape_given = s->tokens || s->cached || s->heads || s->kv_heads || s->head_dim || s->value_dim || s->type || s->causal || s->decode ||
                  s->backward || *extras_text(s, extras, sizeof extras);
    if (bench.check && (!kind || (is_kind("attention") && !shape_given)) &&
        (common.ranks || common.threads || common.layout || common.algorithm || common.grid[0] || common.mpi))
        return fail(EXIT_USAGE, "--check measures README's table with ranks and threads of its own; leave out --ranks, --threads, --layout, "
                    "--algorithm, --grid and mpirun");
    if (bench.check && calibrate)
        return fail(EXIT_USAGE, "--check and --calibrate exclude each other; give one of them");
    if (calibrate && !kind && common.ranks)
        return fail(EXIT_USAGE, "--calibrate measures with two ranks, or those that mpirun started; leave out --ranks");
    if (is_kind("linear") && (common.ranks > 1 || common.layout || common.algorithm || common.grid[0]))
        return fail(EXIT_USAGE, "a linear layer runs inside one rank; leave out --ranks, --layout, --algorithm and --grid");
    if (s->backward && (s->decode || terms))
        return fail(EXIT_USAGE, "--backward is of one plan; leave %s out", s->decode ? "--decode" : "--terms");
    if (s->backward && bench.check && common.mpi)
        return fail(EXIT_USAGE, "--check with --backward judges memory, which is that of ranks in one process; leave out --check or mpirun");
    if (s->dx && s->dw)
        return fail(EXIT_USAGE, "--dx and --dw are two gradients; give one of them");
    if ((s->dx || s->dw) && common.level != RONDO_STRICT)
        return fail(EXIT_USAGE, "gradients are computed at level strict; leave out --level");
    if (s->dw && s->type && s->type != RONDO_F32)
        return fail(EXIT_USAGE, "the gradient by the weights reads none, and is f32; leave out --type");
    if (is_kind("transport") && (common.layout || common.algorithm || common.grid[0]))
        return fail(EXIT_USAGE, "a transport knows no layout and no algorithm; leave out --layout, --algorithm and --grid");
    if (is_kind("kda") && (common.layout || common.algorithm || common.grid[0]))
        return fail(EXIT_USAGE, "how ranks share a delta rule is --cp; leave out --layout, --algorithm and --grid");
    if (is_kind("kda") && s->decode && (s->tokens > 1 || way > 0 || common.ranks > 1))
        return fail(EXIT_USAGE, "--decode measures a token on one rank; leave out --tokens, --cp and --ranks");
    if (is_kind("kda") && s->backward && bench.check)
        return fail(EXIT_USAGE, "--check has no mark for gradients of the delta rule; leave out --check or --backward");
    if (is_kind("kda") && s->hardware && bench.check)
        return fail(EXIT_USAGE, "--hardware compares one run with a prediction, and --check with marks; leave out one of them");
    if (is_kind("kda") && s->cached && !s->decode)
        return fail(EXIT_USAGE, "--sequences goes with --decode");
    if (is_kind("load") && (common.ranks > 1 || common.layout || common.algorithm || common.grid[0] || common.mpi))
        return fail(EXIT_USAGE, "a model is read by one rank here; leave out --ranks, --layout, --algorithm, --grid and mpirun");
    if ((is_kind("generate") || is_kind("load")) && !s->model)
        return fail(EXIT_USAGE, "bench %s needs a model; add -m DIR", kind);
    if (common.arithmetic != RONDO_ARITHMETIC_F32 && (bench.check || terms || s->backward || s->hardware))
        return fail(EXIT_USAGE, "marks, gradients, --terms and predictions are of arithmetic f32; leave out --arithmetic %s, or --%s",
                    rondo_arithmetic_name(common.arithmetic), bench.check ? "check" : terms ? "terms" : s->backward ? "backward" : "hardware");
    if (is_kind("attention")) {
        const int64_t heads = s->heads ? s->heads : 32, kv_heads = s->kv_heads ? s->kv_heads : heads % 8 ? heads : 8;
        if (heads % kv_heads)
            return fail(EXIT_USAGE, "--heads %lld is no multiple of --kv-heads %lld", (long long)heads, (long long)kv_heads);
        if (s->decode && s->tokens > 1)
            return fail(EXIT_USAGE, "--decode measures one query; leave out --tokens, or give --tokens 1");
        if (s->lengths + (s->packed != 0) + s->decode + (s->cached > 0 && !s->decode) > 1)
            return fail(EXIT_USAGE, "--packed, --lengths, --cached and --decode each say what sequences there are; give one of them");
        if (s->hardware && (terms || s->type > RONDO_F32 || s->value_dim || bench.check || s->softcap > 0 || s->dropout > 0 || s->documents ||
                            s->packed || s->alibi || s->bias || s->sinks || s->mask || s->lengths))
            return fail(EXIT_USAGE, "--hardware predicts attention over F32 with nothing but --causal or --window; leave out the other terms, "
                        "--type, --value-dim and --check");
        if (terms && (*extras_text(s, extras, sizeof extras) || s->causal || s->decode || s->cached))
            return fail(EXIT_USAGE, "--terms has masks and terms of its own; leave out all but --tokens, --heads, --kv-heads, --head-dim, --value-dim "
                        "and --type");
        if (terms && (common.ranks > 1 || common.threads > 1 || common.layout || common.algorithm || common.grid[0] || common.mpi))
            return fail(EXIT_USAGE, "--terms runs on one rank with one thread; leave out --ranks, --threads, --layout, --algorithm, --grid and mpirun");
    }
    if (plot_check(plot, "leave the option out"))
        return EXIT_USAGE;
    return 0;
}

static int bench_command(const struct command *self, int argc, char **argv)
{
    static const char *const kinds[] = { "attention", "linear", "transport", "generate", "load", "kda", NULL };
    static const struct option *const options_of[] = { attention_options, linear_options, transport_options, generate_options, load_options,
                                                        kda_options };
    const struct option *own = tour_options;
    const char *operand = NULL;
    int operands = 0;
    bool help;
    if (argc > 1 && argv[1][0] != '-') {
        const int i = choose_word("bench", argv[1], kinds, NULL);
        if (i < 0)
            return EXIT_USAGE;
        own = options_of[i];
        kind = kinds[i];
    }
    const struct option *const tables[OPTION_TABLES] = { own, is_kind("generate") ? options_lm_ranks : options_ranks, options_machine,
                                                         options_output };
    int code = options_parse(self, tables, argc, argv, &operand, 1, &operands, &help);
    if (code || help)
        return code;
    if (operand && !kind)
        return fail(EXIT_USAGE, "'%s' must come right after bench; usage: rondo %s", operand, self->synopsis);
    if (!is_kind("linear") && !is_kind("generate") && (code = common_strict()) != 0)
        return code;
    if (!is_kind("attention") && (code = common_f32(kind ? "this bench" : "bench without a kind")) != 0)
        return code;
    if (common.device && strcmp(common.device, "cpu"))
        return fail(EXIT_USAGE, "bench measures the CPU against ceilings of the CPU; leave out --device %s", common.device);
    if ((code = common_settle()) != 0 || (code = check_options()) != 0)
        return code;
    const struct file_use files[] = { { "-m", bench.shape.model, FILE_FOLDER }, { "--plot", plot, FILE_OUT },
                                      { "--calibrate", calibrate, FILE_OUT },   { NULL, NULL, FILE_IN } };
    return ranks_session(run, &bench, files);
}

const struct command command_bench = {
    "bench", "bench [attention|linear|transport|generate|load|kda] [OPTION]...",
    "Measures, always as a ratio to a ceiling taken in the same run.\n"
    "Without a kind: a short tour of all.",
    bench_command,
};
