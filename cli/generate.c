/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo generate: a model continues one or several texts, on any number of ranks.
 */
#include "cli/bench.h"
#include "cli/generate.h"

#include <float.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PROMPTS_MOST 4096
#define BATCH_MOST 65536

struct prompt {
    const char *given;             /* text, or the name of a file */
    bool file;
    bool numbers;                  /* token ids */
    char *text;                    /* as read */
    size_t bytes;
    int32_t *ids;                  /* rondo_lm_free(); of numbers free() */
    int64_t count;
};

static struct generate_options options = { .tokens = 128, .top_p = 1.0, .penalty = 1.0 };
static struct prompt prompts[PROMPTS_MOST];
static int64_t prompt_count;

static int add_prompt(const struct option *o, const char *text)
{
    const bool numbers = !strcmp(o->name, "prompt-ids"), file = o->letter == 'f' || numbers;
    if (prompt_count == PROMPTS_MOST)
        return fail(EXIT_USAGE, "more than %d prompts are given; give fewer at a time", PROMPTS_MOST);
    for (int64_t i = 0; i < prompt_count && file && !strcmp(text, "-"); i++)
        if (prompts[i].file && !strcmp(prompts[i].given, "-"))
            return fail(EXIT_USAGE, "stdin (-) is given as two prompts; it can be read once");
    prompts[prompt_count].given = text;
    prompts[prompt_count].numbers = numbers;
    prompts[prompt_count++].file = file;
    return 0;
}

static int add_stop(const struct option *o, const char *text)
{
    if (!*text)
        return fail(EXIT_USAGE, "--%s '': a text of at least one character is expected", o->name);
    if (options.stop_count == STOPS_MOST)
        return fail(EXIT_USAGE, "more than %d texts are given with --%s; give fewer", STOPS_MOST, o->name);
    options.stops[options.stop_count++] = text;
    return 0;
}

static int set_seed(const struct option *o, const char *text)
{
    return parse_u64(text, &options.seed) ? fail(EXIT_USAGE, "--%s %s: a whole number from 0 to 2^64-1 is expected", o->name, text) : 0;
}

static int set_interleave(const struct option *o, const char *text)
{
    static const char *const known[] = { "leaf", "1", NULL };
    char shown[SHOWN_NAME];
    options.interleave = choose_word(shown_name(o, shown), text, known, NULL);
    return options.interleave < 0 ? EXIT_USAGE : 0;
}

static const struct option own_options[] = {
    { "model", 'm', OPTION_TEXT, "DIR", "the model's folder", &options.model, 0, 0, NULL },
    { "p", 'p', OPTION_EACH, "TEXT", "a prompt (repeatable: a batch)", NULL, 0, 0, add_prompt },
    { "f", 'f', OPTION_EACH, "FILE", "a prompt from a file (- is stdin; repeatable)", NULL, 0, 0, add_prompt },
    { "prompt-ids", 0, OPTION_EACH, "FILE", "a prompt of token ids separated by white space (- is stdin; repeatable)", NULL, 0, 0, add_prompt },
    { "requests", 0, OPTION_TEXT, "FILE", "instead of prompts: a JSON object a line, each answered by a line (- is stdin)", &options.requests, 0, 0, NULL },
    { "batch", 0, OPTION_INT, "N", "with --requests: so many run at the same time (default 64)", &options.batch, 1, BATCH_MOST, NULL },
    { "n", 'n', OPTION_INT, "N", "new tokens at most (default 128)", &options.tokens, 1, 1e12, NULL },
    { "temperature", 0, OPTION_REAL, "X", "0 (default): always the likeliest token", &options.temperature, 0, 1e6, NULL },
    { "top-k", 0, OPTION_INT, "N", "only the N likeliest tokens (0: all)", &options.top_k, 0, 9e18, NULL },
    { "top-p", 0, OPTION_REAL, "X", "only the likeliest tokens that together reach X (0: the likeliest; 1: off)", &options.top_p, 0, 1, NULL },
    { "min-p", 0, OPTION_REAL, "X", "only tokens of at least X times the likeliest's probability", &options.min_p, 0, 1, NULL },
    { "repetition-penalty", 0, OPTION_REAL, "X", "divide the score of what has been said (1: off)", &options.penalty, 0, 1e3, NULL },
    { "seed", 0, OPTION_CALL, "N", "of the random choices (default 0)", NULL, 0, 0, set_seed },
    { "stop", 0, OPTION_EACH, "TEXT", "end before this text (repeatable)", NULL, 0, 0, add_stop },
    { "ignore-eos", 0, OPTION_FLAG, NULL, "go on after the model's end token", &options.ignore_eos, 0, 0, NULL },
    { "chunk", 0, OPTION_INT, "N", "read prompts in chunks of N tokens", &options.chunk, 1, 9e18, NULL },
    { "kv-type", 0, OPTION_CALL, "f32|f16|bf16|q8", "type of the KV cache (default f32)", &options.kv_type, 0, 0, option_number_type },
    { "kv-interleave", 0, OPTION_CALL, "leaf|1", "new KV goes leaf by leaf (default) or token by token", NULL, 0, 0, set_interleave },
    { "plain", 0, OPTION_FLAG, NULL, "special tokens spelled in a prompt are text", &options.plain, 0, 0, NULL },
    { "lossy", 0, OPTION_FLAG, NULL, "invalid UTF-8 becomes U+FFFD instead of an error", &options.lossy, 0, 0, NULL },
    { "ids", 0, OPTION_FLAG, NULL, "print token ids instead of text (--json has both; with --prompt-ids alone: no tokenizer is read)", &options.ids, 0, 0, NULL },
    { "stream", 0, OPTION_FLAG, NULL, "with --json: one object a token, the report last (text streams by itself); with --requests: a line a token", &options.stream, 0, 0, NULL },
    { "logprobs", 0, OPTION_INT, "N", "with --json or --requests: log probabilities of each new token and of the N likeliest", &options.logprobs, 1, RONDO_LM_LOGPROBS,
      NULL },
    { "session", 0, OPTION_REFUSED, "FILE", "is not part of this version; give the whole text with -p or -f", NULL, 0, 0, NULL },
    { "chat", 0, OPTION_REFUSED_FLAG, NULL, "is not part of this version; write the template's text into the prompt", NULL, 0, 0, NULL },
    { NULL, 0, OPTION_FLAG, NULL, NULL, NULL, 0, 0, NULL },
};

static int on_prefill(void *user, int64_t done, int64_t total)
{
    (void)user;
    progress_set((uint64_t)done, (uint64_t)total);
    return 0;
}

/* Copies what lm knows of the finished answers; lm goes before the report is written. */
static int take_answers(rondo_lm *lm, struct output *o)
{
    for (int64_t i = 0; i < o->count; i++) {
        rondo_lm_status s = RONDO_LM_STATUS_INIT;
        struct answer *a = &o->answers[i];
        const int code = rondo_lm_query(lm, i, &s);
        if (code)
            return code;
        a->prompt_tokens = s.prompt_tokens;
        a->count = s.new_tokens;
        a->finish = s.finish;
        a->hash = s.hash;
        a->tokens = malloc((size_t)s.new_tokens * sizeof *a->tokens + 1);
        a->text = malloc(s.text_bytes + 1);
        if (!a->tokens || !a->text)
            return body_fail(RONDO_ENOMEM, "not enough memory for the answers");
        if (s.new_tokens)
            memcpy(a->tokens, s.tokens, (size_t)s.new_tokens * sizeof *a->tokens);
        if (s.text_bytes)
            memcpy(a->text, s.text, s.text_bytes);
        a->text_bytes = s.text_bytes;
    }
    return 0;
}

rondo_sampling generate_sampling(const struct generate_options *o)
{
    rondo_sampling s = RONDO_SAMPLING_INIT;
    s.temperature = o->temperature;
    s.top_p = o->top_p > 0 ? o->top_p : DBL_MIN;   /* a 0 would be "off" there; every token reaches this */
    s.min_p = o->min_p;
    s.repetition_penalty = o->penalty;
    s.top_k = o->top_k;
    s.seed = o->seed;
    s.max_tokens = o->tokens;
    s.ignore_eos = o->ignore_eos;
    s.stops = o->stops;
    s.stop_count = o->stop_count;
    return s;
}

rondo_lm_desc generate_desc(const struct generate_options *o)
{
    rondo_lm_desc d = RONDO_LM_DESC_INIT;
    d.kv_type = o->kv_type;
    d.level = attention_level(o->kv_type);
    d.layout = common.layout;
    d.algorithm = common.algorithm;
    d.interleave = o->interleave;
    d.chunk = o->chunk;
    d.logprobs = (int32_t)o->logprobs;
    return d;
}

int generate_count(struct work *w, rondo_context *ctx, rondo_lm *lm, struct slot *mine)
{
    rondo_lm_counters counters = RONDO_LM_COUNTERS_INIT;
    const int code = rondo_lm_count(lm, &counters);
    if (!code)
        slot_measure(mine, ctx);
    mine->whole[0] = (int64_t)counters.kv_bytes;
    mine->whole[1] = (int64_t)counters.workspace_bytes;
    mine->whole[2] = (int64_t)counters.decode_bytes;
    mine->whole[3] = (int64_t)counters.state_bytes;
    if (!code && rondo_context_rank(ctx) == 0)
        w->counters = counters;
    return code;
}

static int submit_all(rondo_lm *lm)
{
    const rondo_sampling s = generate_sampling(&options);
    for (int64_t i = 0; i < prompt_count; i++) {
        int64_t id;
        const int code = rondo_lm_submit(lm, prompts[i].ids, prompts[i].count, &s, &id);
        if (code)
            return code;
    }
    return 0;
}

/* The meter after so many new tokens. A text that comes is its own meter; where it waits for the report, tokens are counted. */
static void meter_tokens(int64_t before, int64_t made)
{
    int64_t all;
    if (!before) {
        progress_end();
        if (common.json && !options.stream)
            progress_begin("generating");
    }
    if (!__builtin_mul_overflow(prompt_count, options.tokens, &all))
        progress_set((uint64_t)made, (uint64_t)all);
}

static int body(rondo_context *ctx, struct slot *mine, void *arg)
{
    struct work *w = arg;
    const bool first = rondo_context_rank(ctx) == 0;
    rondo_lm *lm = NULL;
    rondo_lm_desc d = generate_desc(&options);
    rondo_lm_event *events = room(prompt_count, sizeof *events);
    int64_t live = prompt_count, made = 0;
    d.progress = first ? on_prefill : NULL;
    int code = events ? rondo_lm_create(&lm, ctx, models_of(&w->models, ctx), &d) : body_fail(RONDO_ENOMEM, "not enough memory for the batch");
    if (!code) {
        w->stage = STAGE_INPUT;
        code = submit_all(lm);
    }
    while (live > 0 && !code) {
        const int64_t n = rondo_lm_step(lm, events, prompt_count, &live);
        if (n < 0)
            code = (int)n;
        if (n > 0 && first)
            meter_tokens(made, made + n);
        made += n > 0 ? n : 0;
        for (int64_t i = 0; i < n && first && !code; i++)
            code = output_event(&w->output, &events[i]);
    }
    if (!code)
        code = generate_count(w, ctx, lm, mine);
    if (!code && first)
        code = take_answers(lm, &w->output);
    rondo_lm_destroy(lm);
    free(events);
    return code;
}

/* Weights that caches may hold say nothing of memory. */
#define MEMORY_BYTES_LEAST ((uint64_t)256 << 20)

static double rate(int64_t tokens, double seconds)
{
    return seconds > 0 ? (double)tokens / seconds : 0;
}

/* Bytes per second that all ranks together read while decoding, and what this machine's memory gives at this moment; 0: not known, or, of
 * the second, of no use. */
static void speed_of_memory(const struct work *w, const struct run *run, double *reading, double *memory)
{
    const rondo_lm_counters *c = &w->counters;
    rondo_model_info info = RONDO_MODEL_INFO_INIT;
    double bytes = 0;
    *reading = *memory = 0;
    for (int i = 0; i < run->ranks; i++)
        bytes += (double)run->slots[i].whole[2];
    if (c->decode_seconds > 0)
        *reading = bytes / c->decode_seconds;
    if (*reading <= 0 || ranks_world() > 1 || rondo_model_query(models_any(&w->models), &info) || info.weight_bytes < MEMORY_BYTES_LEAST)
        return;
    struct ceiling *ceiling = ceiling_open(CEILING_DRAM, run->used_isa, run->ranks, run->ranks * run->used_threads, 0);
    if (ceiling)
        *memory = ceiling_rate(ceiling, 0);
    ceiling_close(ceiling);
}

static json_t *phase(int64_t tokens, double seconds, int algorithm, int chosen_by, const double predicted[RONDO_ALGORITHMS])
{
    json_t *p = json_object();
    json_object_set_new(p, "tokens", json_integer(tokens));
    json_object_set_new(p, "seconds", number(seconds));
    json_object_set_new(p, "tokens_per_second", number(rate(tokens, seconds)));
    json_object_set_new(p, "algorithm", json_string(algorithm ? rondo_algorithm_name(algorithm) : "none"));   /* 0: no pass ran */
    report_choice(p, chosen_by, predicted);
    return p;
}

static int report(const struct work *w, const struct run *run)
{
    const rondo_lm_counters *c = &w->counters;
    /* The pass that reads a prompt also makes its first new token: the drawing of it is decoding. */
    const double reading = c->prefill_seconds - c->first_seconds, saying = c->decode_seconds + c->first_seconds;
    const int64_t made = c->first_tokens + c->decode_tokens;
    json_t *r = options.requests ? requests_report(&w->requests) : output_report(&w->output), *bytes = json_array(), *states = json_array();
    json_t *decode = phase(made, saying, c->decode_algorithm, c->decode_chosen_by, c->decode_predicted);
    double reads, memory;
    speed_of_memory(w, run, &reads, &memory);
    if (reads > 0)
        json_object_set_new(decode, "bytes_per_second", number(reads));
    if (memory > 0)
        json_object_set_new(decode, "memory_bytes_per_second", number(memory));
    report_numerics(r, 128);
    report_run(r, run, c->prefill_seconds + c->decode_seconds);
    json_object_set_new(r, "prefill", phase(c->prefill_tokens, reading, c->prefill_algorithm, c->prefill_chosen_by, c->prefill_predicted));
    json_object_set_new(r, "decode", decode);
    report_grid(r, &w->models);
    for (int i = 0; i < run->ranks; i++)
        json_array_append_new(bytes, json_integer(run->slots[i].whole[0]));
    json_object_set_new(r, "kv_bytes_per_rank", bytes);
    int64_t held = 0;
    for (int i = 0; i < run->ranks; i++) {
        json_array_append_new(states, json_integer(run->slots[i].whole[3]));
        held += run->slots[i].whole[3];
    }
    if (held)
        json_object_set(r, "state_bytes_per_rank", states);
    json_decref(states);
    report_comm(r, run);
    if (common.json && (options.stream || options.requests)) {
        const int bad = json_dumpf(r, stdout, JSON_COMPACT | JSON_REAL_PRECISION(17));
        putchar('\n');
        json_decref(r);
        return bad ? fail(EXIT_ROOM, "the report cannot be written to stdout") : output_check();
    }
    if (common.json)
        return report_print(r);
    if (!common.quiet) {
        fprintf(stderr, "rondo: %lld prompt token%s in %.2f s, %lld new token%s in %.2f s", (long long)c->prefill_tokens,
                c->prefill_tokens == 1 ? "" : "s", reading, (long long)made, made == 1 ? "" : "s", saying);
        if (reading > 0 && saying > 0)
            fprintf(stderr, " (%.4g and %.4g a second)", rate(c->prefill_tokens, reading), rate(made, saying));
        if (reads > 0)
            fprintf(stderr, "; decoding read %.3g GB/s", reads * 1e-9);
        if (memory > 0)
            fprintf(stderr, " of the memory's %.3g", memory * 1e-9);
        fprintf(stderr, "; %d rank%s (%s), %s; hash %s\n", run->ranks, run->ranks == 1 ? "" : "s", run->transport, run->used_isa,
                json_string_value(json_object_get(r, "hash")));
    }
    json_decref(r);
    return output_check();
}

static bool has_tokenizer(const char *dir)
{
    const size_t bytes = strlen(dir) + sizeof "/tokenizer.json";
    char *path = malloc(bytes);
    bool found = true;
    if (path) {
        snprintf(path, bytes, "%s/tokenizer.json", dir);
        found = access(path, F_OK) == 0;
    }
    free(path);
    return found;
}

/* A prompt's tokens, of which the model must have each, and of which there must be one. */
static int encode(struct work *w, struct prompt *p, const rondo_model_info *info)
{
    const uint32_t flags = RONDO_ENCODE_SPECIAL | (options.plain ? RONDO_ENCODE_PLAIN : 0) | (options.lossy ? RONDO_ENCODE_LOSSY : 0);
    const char *where = !p->file ? "the prompt of -p" : strcmp(p->given, "-") ? p->given : "stdin";
    int code = 0;
    if (p->numbers) {
        code = ids_parse(where, p->text, p->bytes, &p->ids, &p->count);
    } else {
        code = fail_library(rondo_tokenizer_encode(rondo_model_tokenizer(models_any(&w->models)), p->text ? p->text : p->given, p->bytes, flags,
                                                   &p->ids, &p->count), STAGE_INPUT);
        code = code ? fail_where(code, where) : 0;
    }
    if (!code && !p->count)
        code = fail(EXIT_INPUT, "%s gives no token; at least one is expected", where);
    return code ? code : ids_check(where, p->ids, p->count, info);
}

static bool all_numbers(void)
{
    bool all = true;
    for (int64_t i = 0; i < prompt_count; i++)
        all = all && prompts[i].numbers;
    return all;
}

static int prepare(struct work *w)
{
    int code = ranks_together(lm_ranks_check());
    if (!code && options.requests)
        code = ranks_together(ranks_first() ? lines_open(&w->requests.in, options.requests) : 0);
    for (int64_t i = 0; i < prompt_count && !code; i++) {
        struct prompt *p = &prompts[i];
        if (p->file)
            code = text_read(p->given, &p->text, &p->bytes);
        else
            p->bytes = strlen(p->given);
    }
    /* From ids to ids no tokenizer is needed, be it that there is none or that it is of a kind unknown here. */
    const bool wordless = (options.requests || all_numbers()) && !options.stop_count && (options.ids || !has_tokenizer(options.model));
    options.ids = options.ids || wordless;
    if (!code)
        code = models_open(&w->models, options.model, wordless ? MODEL_IDS : MODEL_TEXT, options.kv_type);
    rondo_model_info info = RONDO_MODEL_INFO_INIT;
    int64_t longest = 0;
    if (!code)
        code = fail_library(rondo_model_query(models_any(&w->models), &info), STAGE_INPUT);
    for (int64_t i = 0; i < prompt_count && !code; i++)
        code = encode(w, &prompts[i], &info);
    for (int64_t i = 0; i < prompt_count; i++)
        longest = prompts[i].count > longest ? prompts[i].count : longest;
    int64_t cached = 0;
    for (int64_t i = 0; i < prompt_count && !code; i++)   /* new tokens may come to an end before their number does */
        cached += prompts[i].count;
    code = ranks_together(code);
    if (!code)
        code = memory_check(&w->models, options.model, options.kv_type, cached, prompt_count);
    if (!code && !options.requests)
        lm_warn_length(&info, longest + options.tokens);
    w->output.answers = room(prompt_count, sizeof *w->output.answers);
    if (!code && !w->output.answers)
        code = fail(EXIT_ROOM, "not enough memory for the batch");
    if (w->output.answers)
        memset(w->output.answers, 0, (size_t)prompt_count * sizeof *w->output.answers);
    w->output.count = prompt_count;
    w->output.ids = options.ids;
    w->output.stream = options.stream;
    w->output.logprobs = (int32_t)options.logprobs;
    return ranks_together(code);
}

static int generate(void *arg)
{
    struct work *w = arg;
    struct run run = RUN_INIT;
    int code = prepare(w);
    if (!code) {
        if (options.requests)
            signals_hold();
        if (!options.requests || !isatty(STDOUT_FILENO))   /* lines would come between a meter's */
            progress_begin(options.requests ? "requests answered" : "reading the prompt");
        const int error = ranks_run(&run, options.requests ? requests_body : body, w);
        progress_end();
        code = fail_code(error, (enum stage)w->stage, run.text);
        if (options.requests)
            signals_release();
    }
    if (!code)
        code = trace_write();
    if (!code && ranks_first())
        code = report(w, &run);
    if (!code && options.requests && ranks_first())
        code = requests_verdict(&w->requests);
    run_free(&run);
    models_close(&w->models);
    lines_close(&w->requests.in);
    for (int64_t i = 0; i < prompt_count; i++) {
        free(prompts[i].text);
        if (prompts[i].numbers)
            free(prompts[i].ids);
        else
            rondo_lm_free(prompts[i].ids);
    }
    output_free(&w->output);
    return code;
}

static int generate_command(const struct command *self, int argc, char **argv)
{
    const struct option *const tables[OPTION_TABLES] = { own_options, options_lm_ranks, options_machine, options_output };
    struct work w;
    int operands = 0;
    bool help;
    memset(&w, 0, sizeof w);
    w.stage = STAGE_OPTIONS;
    w.options = &options;
    w.requests.in.fd = -1;
    int code = options_parse(self, tables, argc, argv, NULL, 0, &operands, &help);
    if (code || help)
        return code;
    if ((code = common_f32("generate")) != 0)
        return code;
    if (!options.model)
        return fail(EXIT_USAGE, "no model is given; add -m DIR");
    if (options.requests && prompt_count)
        return fail(EXIT_USAGE, "--requests %s has its own prompts; leave -p, -f and --prompt-ids out", options.requests);
    if (!options.requests && !prompt_count)
        return fail(EXIT_USAGE, "no prompt is given; add -p TEXT, -f FILE, --prompt-ids FILE or --requests FILE");
    if (!options.requests && options.batch)
        return fail(EXIT_USAGE, "--batch says how many of --requests run at the same time; prompts of the command line all do");
    if (options.requests && options.ids && (options.stop_count || options.lossy || options.plain))
        return fail(EXIT_USAGE, "--%s is about text, and with --ids requests have ids alone; leave one of the two out",
                    options.stop_count ? "stop" : options.lossy ? "lossy" : "plain");
    if ((options.lossy || options.plain) && !options.requests && all_numbers())
        return fail(EXIT_USAGE, "--%s is about text that is read; with --prompt-ids ids are read", options.lossy ? "lossy" : "plain");
    if (options.logprobs && !common.json && !options.requests)
        return fail(EXIT_USAGE, "--logprobs goes with --json, whose report has them; add --json");
    if (options.temperature > 0 && options.temperature < 1e-6)
        return fail(EXIT_USAGE, "--temperature %g: 0 (always the likeliest) or a number from 1e-06 to 1e+06 is expected", options.temperature);
    if (options.penalty < 1e-3)
        return fail(EXIT_USAGE, "--repetition-penalty %g: a number from 0.001 to 1000 is expected (1: off)", options.penalty);
    struct file_use files[PROMPTS_MOST + 3] = { { "-m", options.model, FILE_FOLDER }, { "--requests", options.requests, FILE_IN } };
    for (int64_t i = 0; i < prompt_count; i++)   /* a prompt's text is no file; it is passed over */
        files[i + 2] = (struct file_use){ prompts[i].numbers ? "--prompt-ids" : "-f",
                                          prompts[i].file ? prompts[i].given : NULL, FILE_IN };
    if ((code = common_settle()) != 0)
        return code;
    return ranks_session(generate, &w, files);
}

const struct command command_generate = {
    "generate", "generate -m DIR ((-p TEXT | -f FILE)... | --requests FILE) [OPTION]...",
    "A language model continues one or several texts.\n"
    "The text comes as it is made; several prompts are read at once, each with the bits that it has alone.\n"
    "With --requests more of them join while others run, and each is answered as soon as it ends.",
    generate_command,
};
