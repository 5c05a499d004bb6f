/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo score: how well a model predicts a text, on any number of ranks.
 */
#include "cli/lm_common.h"
#include "cli/target.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static struct {
    const char *model, *file, *ids, *logits;
    int64_t limit, chunk;
    int kv_type;
    bool lossy;
} options;

static const struct option own_options[] = {
    { "model", 'm', OPTION_TEXT, "DIR", "the model's folder", &options.model, 0, 0, NULL },
    { "file", 'f', OPTION_TEXT, "FILE", "the text (- is stdin)", &options.file, 0, 0, NULL },
    { "ids", 0, OPTION_TEXT, "FILE", "token ids separated by white space, used as they are (- is stdin)", &options.ids, 0, 0, NULL },
    { "limit", 0, OPTION_INT, "N", "the first N tokens only", &options.limit, 1, 9e18, NULL },
    { "chunk", 0, OPTION_INT, "N", "read in chunks of N tokens", &options.chunk, 1, 9e18, NULL },
    { "kv-type", 0, OPTION_CALL, "f32|f16|bf16|q8", "type of the KV cache (default f32)", &options.kv_type, 0, 0, option_number_type },
    { "lossy", 0, OPTION_FLAG, NULL, "invalid UTF-8 becomes U+FFFD instead of an error", &options.lossy, 0, 0, NULL },
    { "logits", 0, OPTION_TEXT, "FILE", "write all logits [n, vocabulary] (safetensors)", &options.logits, 0, 0, NULL },
    { NULL, 0, OPTION_FLAG, NULL, NULL, NULL, 0, 0, NULL },
};

struct work {
    struct models models;
    int32_t *tokens;
    int64_t count, vocabulary;
    _Atomic int stage;
    /* rank 0's */
    rondo_score score;
    rondo_arrays_writer *writer;
};

/* Non-zero: stop. A file is begun before the first token is read, so signals wait for this. */
static int on_prefill(void *user, int64_t done, int64_t total)
{
    (void)user;
    progress_set((uint64_t)done, (uint64_t)total);
    return signals_pending();
}

static int on_logits(void *user, int64_t row, const float *logits)
{
    struct work *w = user;
    const uint64_t bytes = (uint64_t)w->vocabulary * sizeof *logits;
    if (signals_pending())
        return RONDO_ECANCELED;   /* target_arrays_close() says it */
    return rondo_arrays_write(w->writer, 0, (uint64_t)row * bytes, bytes, logits);
}

static int body(rondo_context *ctx, struct slot *mine, void *arg)
{
    struct work *w = arg;
    const bool first = rondo_context_rank(ctx) == 0, writes = first && options.logits;
    const int64_t shape[2] = { w->count, w->vocabulary };
    const rondo_array array = { "logits", RONDO_ARRAY_F32, 2, shape, 0, 0, { 0 } };
    rondo_lm *lm = NULL;
    rondo_lm_desc d = RONDO_LM_DESC_INIT;
    rondo_score score = RONDO_SCORE_INIT;
    d.layout = common.layout;
    d.algorithm = common.algorithm;
    d.chunk = options.chunk;
    d.kv_type = options.kv_type;
    d.level = attention_level(options.kv_type);
    d.progress = first ? on_prefill : NULL;
    int code = rondo_lm_create(&lm, ctx, models_of(&w->models, ctx), &d);
    if (!code)
        w->stage = STAGE_INPUT;
    if (writes)
        code = target_arrays_open(&w->writer, code, options.logits, &array, 1);
    const double begin = now();
    if (!code)
        code = rondo_lm_score(lm, w->tokens, w->count, writes ? on_logits : NULL, w, &score);
    mine->real[0] = now() - begin;
    if (writes) {
        code = target_arrays_close(w->writer, code, options.logits);
        w->writer = NULL;
    }
    if (!code)
        slot_measure(mine, ctx);
    if (!code && first)
        w->score = score;
    rondo_lm_destroy(lm);
    return code;
}

static int report(const struct work *w, const struct run *run)
{
    json_t *r = report_new();
    json_object_set_new(r, "tokens", json_integer(w->count));
    json_object_set_new(r, "nll", number(w->score.nll));
    json_object_set_new(r, "perplexity", number(exp(w->score.nll)));
    report_hash(r, "hash", w->score.hash);
    report_numerics(r, 128);
    report_run(r, run, run->slots[0].real[0]);
    report_grid(r, &w->models);
    report_comm(r, run);
    return report_print(r);
}

/* The ids of a text, or those that it lists. */
static int take_tokens(struct work *w, const char *where, const char *text, size_t bytes)
{
    const uint32_t flags = RONDO_ENCODE_SPECIAL | (options.lossy ? RONDO_ENCODE_LOSSY : 0);
    int32_t *ids = NULL;
    if (options.ids)
        return ids_parse(where, text, bytes, &w->tokens, &w->count);
    int code = fail_library(rondo_tokenizer_encode(rondo_model_tokenizer(models_any(&w->models)), text, bytes, flags, &ids, &w->count), STAGE_INPUT);
    if (code)
        return fail_where(code, where);
    w->tokens = malloc((size_t)w->count * sizeof *ids + 1);
    if (!w->tokens)
        code = fail(EXIT_ROOM, "not enough memory for %lld tokens", (long long)w->count);
    else if (w->count)
        memcpy(w->tokens, ids, (size_t)w->count * sizeof *ids);
    rondo_lm_free(ids);
    return code;
}

static int score(void *arg)
{
    struct work *w = arg;
    char *text = NULL;
    size_t bytes = 0;
    rondo_model_info info = RONDO_MODEL_INFO_INIT;
    const char *path = options.file ? options.file : options.ids, *where = strcmp(path, "-") ? path : "stdin";
    struct run run = RUN_INIT;
    int code = ranks_together(lm_ranks_check());
    if (!code)
        code = text_read(path, &text, &bytes);
    if (!code)
        code = models_open(&w->models, options.model, options.ids ? MODEL_IDS : MODEL_TEXT, options.kv_type);
    if (code)
        goto end;
    code = take_tokens(w, where, text, bytes);
    if (!code)
        code = fail_library(rondo_model_query(models_any(&w->models), &info), STAGE_INPUT);
    w->vocabulary = info.vocabulary;
    if (!code)
        lm_warn_length(&info, options.limit && w->count > options.limit ? options.limit : w->count);
    if (options.limit && w->count > options.limit)
        w->count = options.limit;
    if (!code && w->count < 2)
        code = fail(EXIT_INPUT, "%s gives %lld tokens; at least 2 are needed, one to predict from and one to predict", where, (long long)w->count);
    if (!code)
        code = ids_check(where, w->tokens, w->count, &info);
    code = ranks_together(code);
    if (!code)
        code = memory_check(&w->models, options.model, options.kv_type, w->count, 1);
    if (code)
        goto end;
    progress_begin("score");
    const int error = ranks_run(&run, body, w);
    progress_end();
    code = fail_code(error, (enum stage)w->stage, run.text);
    if (!code)
        code = trace_write();
    if (!code && ranks_first())
        code = report(w, &run);
    run_free(&run);
end:
    models_close(&w->models);
    free(w->tokens);
    free(text);
    return code;
}

static int score_command(const struct command *self, int argc, char **argv)
{
    const struct option *const tables[OPTION_TABLES] = { own_options, options_lm_ranks, options_machine, options_output };
    struct work w;
    int operands = 0;
    bool help;
    memset(&w, 0, sizeof w);
    w.stage = STAGE_OPTIONS;
    int code = options_parse(self, tables, argc, argv, NULL, 0, &operands, &help);
    if (code || help)
        return code;
    if ((code = common_f32("score")) != 0)
        return code;
    if (!options.model)
        return fail(EXIT_USAGE, "no model is given; add -m DIR");
    if (!options.file == !options.ids)
        return fail(EXIT_USAGE, "one of -f FILE (a text) and --ids FILE (token ids) is needed");
    if (options.lossy && options.ids)
        return fail(EXIT_USAGE, "--lossy is about text that is read; with --ids ids are read");
    const struct file_use files[] = { { "-m", options.model, FILE_FOLDER }, { "-f", options.file, FILE_IN },
                                      { "--ids", options.ids, FILE_IN },    { "--logits", options.logits, FILE_OUT },
                                      { NULL, NULL, FILE_IN } };
    if ((code = common_settle()) != 0)
        return code;
    return ranks_session(score, &w, files);
}

const struct command command_score = {
    "score", "score -m DIR (-f FILE | --ids FILE) [OPTION]...",
    "Says how well a model predicts a text: mean negative log likelihood and perplexity.",
    score_command,
};
