/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Model folders that are not what they should be, and arguments that cannot be: each gives a code and a sentence that names what
 * is wrong, and leaves the library as it was.
 */
#include "lm_kit.h"

static struct kit_config base;
static struct kit_model *good;

static int open_folder(rondo_model **model, int no_weights)
{
    rondo_context *ctx = NULL;
    rondo_model_desc d = RONDO_MODEL_DESC_INIT;
    d.no_tokenizer = 1;
    d.no_weights = no_weights;
    int err = rondo_context_create(&ctx, NULL);
    if (err) {
        printf("Bail out! %s\n", rondo_error_text());
        exit(1);
    }
    *model = NULL;
    err = rondo_model_open(model, ctx, scratch_dir, &d);
    rondo_context_destroy(ctx);
    return err;
}

/* Also by who reads no weights, unless only these are wrong. */
static void refuse_without(int code, const char *word, const char *what)
{
    rondo_model *model = NULL;
    const int err = open_folder(&model, 1);
    if (!ok(err == code && (code ? !model && strstr(rondo_error_text(), word) : model != NULL), "%s: %s without weights", what, code ? "also" : "not"))
        diag("%d: %s", err, rondo_error_text());
    rondo_model_close(model);
}

static void refuse_with(int code, const char *word, const char *what)
{
    rondo_model *model = NULL;
    int err = open_folder(&model, 0);
    is_int(err, code, "%s: code", what);
    if (!ok(!model && strstr(rondo_error_text(), word) != NULL, "%s: the sentence names %s", what, word))
        diag("%s", rondo_error_text());
    rondo_model_close(model);
}

/* The folder as it stands must be refused with `code`, and the sentence must name `word`. */
static void refuse(int code, const char *word, const char *what)
{
    refuse_with(code, word, what);
    refuse_without(code, word, what);
}

static void restore(void)
{
    scratch_clear();
    kit_write_config(&base);
    kit_write_weights(good, NULL);
}

static void missing_files(void)
{
    restore();
    (void)unlink(scratch_path("config.json"));
    refuse(RONDO_EIO, "config.json", "no config.json");
    restore();
    (void)unlink(scratch_path("model.safetensors"));
    refuse(RONDO_EIO, "model.safetensors", "no weights");
    restore();
    rondo_context *ctx = NULL;
    rondo_model *model = NULL;
    int err = rondo_context_create(&ctx, NULL);
    err = err ? err : rondo_model_open(&model, ctx, scratch_dir, NULL);
    ok(err == RONDO_EIO && strstr(rondo_error_text(), "tokenizer.json"), "no tokenizer.json");
    err = rondo_model_open(&model, ctx, "/nowhere/at/all", NULL);
    ok(err == RONDO_EIO && strstr(rondo_error_text(), "/nowhere/at/all"), "no folder");
    rondo_context_destroy(ctx);
}

static void tensors(void)
{
    static const char *const names[] = {
        "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight", "model.layers.0.input_layernorm.weight",
        "model.layers.1.post_attention_layernorm.weight", "model.layers.0.self_attn.q_proj.weight", "model.layers.1.self_attn.k_proj.weight",
        "model.layers.0.self_attn.v_proj.weight", "model.layers.1.self_attn.o_proj.weight", "model.layers.0.mlp.gate_proj.weight",
        "model.layers.1.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight",
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        restore();
        kit_write_weights(good, names[i]);
        refuse(RONDO_EFORMAT, names[i], "a missing tensor");
        /* One row more than the configuration says. */
        for (int k = 0; k < good->count; k++) {
            if (strcmp(good->tensors[k].name, names[i]))
                continue;
            struct kit_tensor whole = good->tensors[k];
            good->tensors[k].shape[0] -= 1;
            good->tensors[k].count -= whole.dims == 2 ? whole.shape[1] : 1;
            kit_write_weights(good, NULL);
            good->tensors[k] = whole;
        }
        refuse(RONDO_EFORMAT, names[i], "a tensor of another shape");
    }
}

static void tie(struct kit_config *c) { c->tied = 1; }

static void other_config(const char *what, const char *word, void (*change)(struct kit_config *c))
{
    struct kit_config c = base;
    change(&c);
    restore();
    kit_write_config(&c);
    if (change == tie) {   /* whether it is the embedding once more only its numbers say */
        refuse_with(RONDO_EFORMAT, word, what);
        refuse_without(0, "", what);
    } else {
        refuse(RONDO_EFORMAT, word, what);
    }
}

static void more_layers(struct kit_config *c) { c->layers = 3; }
static void fewer_layers(struct kit_config *c) { c->layers = 1; }
static void more_heads(struct kit_config *c) { c->heads = 8; }
static void fewer_kv(struct kit_config *c) { c->kv_heads = 1; }
static void wider(struct kit_config *c) { c->hidden += 2; }
static void longer(struct kit_config *c) { c->vocabulary += 1; }
static void biased(struct kit_config *c) { c->attention_bias = 1; }

static void contradictions(void)
{
    other_config("config: a layer more", "model.layers.2", more_layers);
    other_config("config: a layer less", "model.layers.1", fewer_layers);
    other_config("config: more heads", "q_proj", more_heads);
    other_config("config: fewer KV heads", "k_proj", fewer_kv);
    other_config("config: wider", "embed_tokens", wider);
    other_config("config: more ids", "embed_tokens", longer);
    other_config("config: biases that are not there", "q_proj.bias", biased);
    other_config("config: tied, but another head", "lm_head", tie);

    struct kit_config c = base;
    c.attention_bias = 1;
    struct kit_model *m = kit_folder(&c, 8);
    kit_write_config(&base);
    refuse(RONDO_EFORMAT, "bias", "biases that the configuration does not know");
    kit_free(m);

    /* A tied model that stores its head again is fine where it is the same. */
    c = base;
    c.tied = 1;
    m = kit_folder(&c, 9);
    uint64_t seed = 1;
    kit_add(m, &seed, "lm_head.weight", c.vocabulary, c.hidden, 0.0, 1.0);
    memcpy(m->tensors[m->count - 1].values, kit_values(m, -1, "model.embed_tokens.weight"),
           (size_t)c.vocabulary * (size_t)c.hidden * sizeof(double));
    kit_write_weights(m, NULL);
    rondo_model *model = NULL;
    is_int(open_folder(&model, 0), 0, "a tied model with its head stored twice");
    rondo_model_info tied = RONDO_MODEL_INFO_INIT, untied = RONDO_MODEL_INFO_INIT;
    int err = model ? rondo_model_query(model, &tied) : -1;
    rondo_model_close(model);
    restore();
    err = err ? err : open_folder(&model, 0);
    err = err ? err : rondo_model_query(model, &untied);
    rondo_model_close(model);
    int64_t table = (int64_t)c.vocabulary * c.hidden;
    ok(!err && untied.weight_bytes - tied.weight_bytes == (uint64_t)table * 4 && untied.parameters - tied.parameters == (uint64_t)table,
       "embedding and head are held once where they are tied");
    kit_free(m);
}

static void truncated(void)
{
    restore();
    size_t bytes;
    char *all = scratch_read(scratch_path("model.safetensors"), &bytes);
    const size_t cuts[] = { 0, 7, 8, 100, bytes / 2, bytes - 1 };
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        scratch_write("model.safetensors", all, cuts[i]);
        refuse(RONDO_EFORMAT, "model.safetensors", "a truncated file");
    }
    free(all);
    /* A type that weights cannot have. */
    restore();
    char *file = scratch_read(scratch_path("model.safetensors"), &bytes);
    char *type = strstr(file + 8, "\"F32\"");
    if (type)
        memcpy(type, "\"I32\"", 5);
    scratch_write("model.safetensors", file, bytes);
    free(file);
    rondo_model *model = NULL;
    int err = open_folder(&model, 0);
    ok((err == RONDO_ENOTSUP || err == RONDO_EFORMAT) && strstr(rondo_error_text(), "BF16"), "weights of type I32: %s", rondo_error_text());
    rondo_model_close(model);
}

/* ---- arguments ---- */

static int arguments_body(rondo_context *ctx, void *arg)
{
    const rondo_model *model = arg;
    static const struct {
        const char *what;
        size_t offset;
        int32_t value;
        int code;
    } bad[] = {
        { "kv_type", offsetof(rondo_lm_desc, kv_type), 9, RONDO_EINVAL },
        { "layout", offsetof(rondo_lm_desc, layout), 77, RONDO_EINVAL },
        { "algorithm", offsetof(rondo_lm_desc, algorithm), 8, RONDO_EINVAL },
        { "arithmetic", offsetof(rondo_lm_desc, arithmetic), RONDO_ARITHMETIC_BF16_DOT, RONDO_ENOTSUP },
        { "arithmetic", offsetof(rondo_lm_desc, arithmetic), 99, RONDO_EINVAL },
        { "level", offsetof(rondo_lm_desc, level), RONDO_NATIVE, RONDO_ENOTSUP },
        { "leaf", offsetof(rondo_lm_desc, leaf), 100, RONDO_EINVAL },
        { "interleave", offsetof(rondo_lm_desc, interleave), 2, RONDO_EINVAL },
        { "chunk", offsetof(rondo_lm_desc, chunk), -1, RONDO_EINVAL },
        { "batch_tokens", offsetof(rondo_lm_desc, batch_tokens), -5, RONDO_EINVAL },
    };
    const int rank = rondo_context_rank(ctx);
    int wrong = 0;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        rondo_lm_desc d = RONDO_LM_DESC_INIT;
        rondo_lm *lm = NULL;
        if (bad[i].offset == offsetof(rondo_lm_desc, chunk))
            d.chunk = bad[i].value;
        else if (bad[i].offset == offsetof(rondo_lm_desc, batch_tokens))
            d.batch_tokens = bad[i].value;
        else
            memcpy((char *)&d + bad[i].offset, &bad[i].value, sizeof bad[i].value);
        int err = rondo_lm_create(&lm, ctx, model, &d);
        if (err != bad[i].code || lm || !strstr(rondo_error_text(), bad[i].what)) {
            diag("%s %d: %d, %s", bad[i].what, bad[i].value, err, rondo_error_text());
            wrong++;
        }
    }
    rondo_lm *lm = NULL;
    wrong += rondo_lm_create(&lm, ctx, NULL, NULL) != RONDO_EINVAL;
    rondo_lm_desc d = RONDO_LM_DESC_INIT;
    d.chunk = rank;
    if (rondo_context_ranks(ctx) > 1)
        wrong += rondo_lm_create(&lm, ctx, model, &d) != RONDO_EMISMATCH;
    int err = rondo_lm_create(&lm, ctx, model, NULL);
    if (err)
        return err;

    const int32_t tokens[] = { 1, 2, 66, 67, -1 };
    rondo_sampling s = RONDO_SAMPLING_INIT;
    int64_t id = -1, live = -1;
    rondo_lm_event event;
    rondo_lm_status status = RONDO_LM_STATUS_INIT;
    rondo_score score = RONDO_SCORE_INIT;
    const char *stop = "end";
    wrong += rondo_lm_submit(lm, tokens, 0, &s, &id) != RONDO_EINVAL;
    wrong += rondo_lm_submit(lm, tokens, 4, &s, &id) != RONDO_EINVAL;
    wrong += rondo_lm_submit(lm, tokens + 2, 3, &s, &id) != RONDO_EINVAL;
    s.max_tokens = INT64_MAX;
    wrong += rondo_lm_submit(lm, tokens, 3, &s, &id) != RONDO_EINVAL;
    s = (rondo_sampling)RONDO_SAMPLING_INIT;
    s.stops = &stop;
    s.stop_count = 1;
    wrong += rondo_lm_submit(lm, tokens, 3, &s, &id) != RONDO_EINVAL || !strstr(rondo_error_text(), "tokenizer");
    s = (rondo_sampling)RONDO_SAMPLING_INIT;
    s.top_p = 3.0;
    wrong += rondo_lm_submit(lm, tokens, 3, &s, &id) != RONDO_EINVAL;
    if (rondo_context_ranks(ctx) > 1)
        wrong += rondo_lm_submit(lm, tokens, 1 + rank % 2, NULL, &id) != RONDO_EMISMATCH;
    wrong += rondo_lm_score(lm, tokens, 1, NULL, NULL, &score) != RONDO_EINVAL;
    wrong += rondo_lm_score(lm, tokens, 4, NULL, NULL, &score) != RONDO_EINVAL;
    wrong += rondo_lm_query(lm, 0, &status) != RONDO_EINVAL;
    if (wrong)
        diag("rank %d: %d wrong before the first sequence", rank, wrong);
    /* None of that has hurt it. */
    wrong += rondo_lm_step(lm, NULL, 0, &live) != 0 || live != 0;
    s = (rondo_sampling)RONDO_SAMPLING_INIT;
    s.max_tokens = 0;
    wrong += rondo_lm_submit(lm, tokens, 3, &s, &id) != 0 || id != 0;
    if (rondo_context_ranks(ctx) == 1)   /* among several ranks that ends it: t/6113 */
        wrong += rondo_lm_step(lm, &event, 0, &live) != RONDO_EINVAL;
    wrong += rondo_lm_step(lm, &event, 1, &live) != 1 || event.token != -1 || event.finish != RONDO_FINISH_LENGTH || live != 0;
    s.max_tokens = 2;
    s.ignore_eos = 1;
    wrong += rondo_lm_submit(lm, tokens, 3, &s, &id) != 0 || id != 1;
    wrong += rondo_lm_step(lm, &event, 1, &live) != 1 || event.id != 1 || event.token < 0 || event.finish || live != 1;
    wrong += rondo_lm_score(lm, tokens, 3, NULL, NULL, &score) != 0 || score.tokens != 3;
    wrong += rondo_lm_step(lm, &event, 1, &live) != 1 || event.finish != RONDO_FINISH_LENGTH || live != 0;
    wrong += rondo_lm_query(lm, 1, &status) != 0 || status.new_tokens != 2 || status.prompt_tokens != 3;
    rondo_lm_destroy(lm);
    return wrong;
}

static int stop_after(void *user, int64_t done_tokens, int64_t total)
{
    (void)total;
    return done_tokens >= *(int64_t *)user;
}

static int stop_row(void *user, int64_t row, const float *logits)
{
    (void)logits;
    return row >= *(int64_t *)user;
}

static int fail_row(void *user, int64_t row, const float *logits)
{
    (void)logits;
    return row >= *(int64_t *)user ? rondo_comm_query(NULL, NULL) : 0;   /* any call that fails with a sentence */
}

struct stopping {
    const rondo_model *model;
    int64_t at;
    int by_row;
};

/* Rank 0 stops: it gets RONDO_ECANCELED, or the code that its function had; the others are told. */
static int stopping_body(rondo_context *ctx, void *arg)
{
    struct stopping *job = arg;
    rondo_lm_desc d = RONDO_LM_DESC_INIT;
    rondo_lm *lm = NULL;
    int32_t tokens[200];
    rondo_score score = RONDO_SCORE_INIT;
    kit_tokens(tokens, 200, 60, 4);
    d.chunk = 40;
    const int rank = rondo_context_rank(ctx);
    if (rank == 0 && !job->by_row) {
        d.progress = stop_after;
        d.user = &job->at;
    }
    int err = rondo_lm_create(&lm, ctx, job->model, &d);
    if (err)
        return err;
    err = rondo_lm_score(lm, tokens, 200, job->by_row == 2 ? fail_row : job->by_row ? stop_row : NULL, &job->at, &score);
    const int own = job->by_row != 2 || strstr(rondo_error_text(), "rondo_comm_query") != NULL;   /* its sentence, on every rank */
    int again = rondo_lm_score(lm, tokens, 200, NULL, NULL, &score);
    rondo_lm_destroy(lm);
    if (again != err || !own)
        return 11;
    return rank == 0 || err == RONDO_EPEER ? err : 12;
}

/* Ranks that divided the model in two ways are told so before the first step, whose exchanges would not fit. */
static int unlike_body(rondo_context *ctx, void *arg)
{
    rondo_model *const *models = arg;
    rondo_lm *lm = NULL;
    int err = rondo_lm_create(&lm, ctx, models[rondo_context_rank(ctx)], NULL);
    rondo_lm_destroy(lm);
    return err == RONDO_EMISMATCH ? 0 : err ? err : 1;
}

static void unlike(void)
{
    static const double shares[2] = { 1.0, 3.0 };
    rondo_model *models[2] = { NULL, NULL };
    rondo_context *ctx = NULL;
    rondo_model_desc d = RONDO_MODEL_DESC_INIT;
    restore();
    d.no_tokenizer = 1;
    d.tp_ranks = 2;
    int err = rondo_context_create(&ctx, NULL);
    for (int t = 0; t < 2; t++) {
        d.tp_rank = t;
        d.shares = t ? shares : NULL;
        err = err ? err : rondo_model_open(&models[t], ctx, scratch_dir, &d);
    }
    if (ok(!err, "two parts, of which one is a part by shares"))
        is_int(rondo_run_threads(2, unlike_body, models), 0, "ranks that divided the model in two ways");
    rondo_model_close(models[0]);
    rondo_model_close(models[1]);
    rondo_context_destroy(ctx);
}

static void arguments(void)
{
    restore();
    rondo_model *model = NULL;
    if (!ok(open_folder(&model, 0) == 0, "the whole folder opens"))
        return;
    for (int ranks = 1; ranks <= 3; ranks += 2)
        is_int(rondo_run_threads(ranks, arguments_body, model), 0, "arguments that cannot be, %d ranks", ranks);
    for (int ranks = 1; ranks <= 4; ranks += 3)
        for (int by_row = 0; by_row < 3; by_row++) {
            struct stopping job = { model, by_row ? 50 : 100, by_row };
            is_int(rondo_run_threads(ranks, stopping_body, &job), by_row == 2 ? RONDO_EINVAL : RONDO_ECANCELED,
                   "stopped by a %s function, %d ranks", by_row ? "row" : "progress", ranks);
        }
    rondo_model_info info = RONDO_MODEL_INFO_INIT;
    is_int(rondo_model_query(model, &info), 0, "the model answers");
    uint64_t parameters = 0;
    for (int i = 0; i < good->count; i++)
        parameters += (uint64_t)good->tensors[i].count;
    ok(info.parameters == parameters && info.layers == 2 && info.heads == 4 && info.kv_heads == 2 && info.head_dim == 16 && info.eos_count == 1 &&
       info.eos[0] == 1 && !strcmp(info.architecture, "LlamaForCausalLM") && !strcmp(info.rope, "default"), "it says what it is");
    ok(info.weight_bytes >= 4 * parameters && info.weight_bytes < 8 * parameters, "its weights are held once (%llu bytes for %llu parameters)",
       (unsigned long long)info.weight_bytes, (unsigned long long)parameters);
    ok(rondo_model_tokenizer(model) == NULL, "it has no tokenizer");
    rondo_model_close(model);

    rondo_context *ctx = NULL;
    rondo_model_desc d = RONDO_MODEL_DESC_INIT;
    d.no_tokenizer = 1;
    is_int(rondo_context_create(&ctx, NULL), 0, "a context");
    d.tp_ranks = 1;
    d.tp_rank = 1;
    is_int(rondo_model_open(&model, ctx, scratch_dir, &d), RONDO_EINVAL, "a rank beyond the ranks");
    ok(strstr(rondo_error_text(), "tp_ranks") != NULL, "by name");
    d.tp_rank = 0;
    d.cp_rank = 1;
    is_int(rondo_model_open(&model, ctx, scratch_dir, &d), RONDO_EINVAL, "a context-parallel rank beyond the ranks");
    d.cp_rank = 0;
    d.tp_ranks = d.cp_ranks = 1 << 16;
    is_int(rondo_model_open(&model, ctx, scratch_dir, &d), RONDO_EINVAL, "more ranks than can be listed");
    d.tp_ranks = d.cp_ranks = 0;
    d.weights = 9;
    is_int(rondo_model_open(&model, ctx, scratch_dir, &d), RONDO_EINVAL, "weights of no type");
    d.weights = 0;
    d.group = 32;
    is_int(rondo_model_open(&model, ctx, scratch_dir, &d), RONDO_EINVAL, "a group without RONDO_Q8");
    d.group = 0;
    is_int(rondo_model_open(&model, ctx, NULL, NULL), RONDO_EINVAL, "no name");
    is_int(rondo_model_open(&model, NULL, scratch_dir, NULL), RONDO_EINVAL, "no context");
    rondo_context_destroy(ctx);
    rondo_model_close(NULL);
    rondo_lm_destroy(NULL);
}

int main(void)
{
    scratch_make("lm-damage");
    base = kit_defaults("llama");
    good = kit_make(&base, 31);
    missing_files();
    tensors();
    contradictions();
    truncated();
    arguments();
    unlike();
    kit_free(good);
    scratch_remove();
    return done();
}
