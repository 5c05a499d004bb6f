/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Model folders as people have them: tensors that no layer of the architecture has a place for are refused by name, other spare ones
 * are told, left-over ones are neither; the one matrix of a tied model under either name; weight maps that list what is not
 * stored; pointers of Git LFS in the place of files; ids beyond the tokenizer's.
 */
#include <stdbool.h>

#include "lm_kit.h"

static char told[4096];
static struct kit_config base;

static void on_log(void *user, int level, const char *sentence)
{
    (void)user;
    size_t n = strlen(told);
    if (level <= RONDO_LOG_WARNING)
        snprintf(told + n, sizeof told - n, "%s\n", sentence);
}

static int open_folder(rondo_model **model)
{
    rondo_context *ctx = NULL;
    rondo_model_desc d = RONDO_MODEL_DESC_INIT;
    d.no_tokenizer = access(scratch_path("tokenizer.json"), F_OK) != 0;
    int err = rondo_context_create(&ctx, NULL);
    told[0] = 0;
    *model = NULL;
    err = err ? err : rondo_model_open(model, ctx, scratch_dir, &d);
    rondo_context_destroy(ctx);
    return err;
}

/* The hash of a score; 0: failed. */
static uint64_t hash_of(const rondo_model *model)
{
    int32_t tokens[40];
    kit_tokens(tokens, 40, base.vocabulary, 9);
    struct kit_score s = { .model = model, .desc = RONDO_LM_DESC_INIT, .tokens = tokens, .count = 40 };
    return model && !kit_run_score(&s, 1) ? s.scores[0].hash : 0;
}

static struct kit_model *fresh(void)
{
    struct kit_model *m = kit_make(&base, 7);
    scratch_clear();
    kit_write_config(&base);
    return m;
}

static void spare_tensors(void)
{
    static const struct {
        const char *name;
        int code;
        bool tells;
    } rows[] = {
        { "model.layers.0.self_attn.q_norm.weight", RONDO_ENOTSUP, false },
        { "model.layers.1.self_attn.k_norm.weight", RONDO_ENOTSUP, false },
        { "model.layers.0.self_attn.sinks", RONDO_ENOTSUP, false },
        { "model.layers.0.pre_feedforward_layernorm.weight", RONDO_ENOTSUP, false },
        { "model.layers.1.input_layernorm.bias", RONDO_ENOTSUP, false },
        { "model.layers.0.self_attn.q_proj.lora_A.weight", RONDO_ENOTSUP, false },
        { "model.layers.0.self_attn.rotary_emb.inv_freq_scale", RONDO_ENOTSUP, false },
        { "model.layers.1.mlp.gate_proj.bias", RONDO_EFORMAT, false },
        { "model.layers.2.mlp.gate_proj.weight", RONDO_EFORMAT, false },
        { "model.layers.0.self_attn.rotary_emb.inv_freq", 0, false },
        { "model.rotary_emb.inv_freq", 0, false },
        { "lm_head.bias", 0, true },
        { "model.embed_norm.weight", 0, true },
        { "vision_tower.weight", 0, true },
    };
    uint64_t want = 0;
    for (size_t i = 0; i <= sizeof rows / sizeof rows[0]; i++) {
        struct kit_model *m = fresh();
        rondo_model *model = NULL;
        uint64_t seed = 3;
        if (i)
            kit_add(m, &seed, rows[i - 1].name, base.head_dim, 0, 1.0, 0.1);
        kit_write_weights(m, NULL);
        int err = open_folder(&model);
        if (!i) {
            want = hash_of(model);
            ok(!err && want && !*told, "the folder as it should be");
        } else if (rows[i - 1].code) {
            is_int(err, rows[i - 1].code, "%s is refused: %s", rows[i - 1].name, rondo_error_text());
            ok(strstr(rondo_error_text(), rows[i - 1].name) != NULL, "by name");
        } else {
            ok(!err && hash_of(model) == want, "%s changes nothing", rows[i - 1].name);
            ok(rows[i - 1].tells ? strstr(told, rows[i - 1].name) != NULL : !*told, "%s: %s", rows[i - 1].tells ? "it is told" : "nor is it told", told);
        }
        rondo_model_close(model);
        kit_free(m);
    }
}

static void tied(void)
{
    uint64_t hashes[3] = { 0, 0, 0 };
    rondo_model_info info = RONDO_MODEL_INFO_INIT;
    uint64_t parameters = 0;
    base.tied = 1;
    for (int i = 0; i < 3; i++) {      /* the embedding; the head; both */
        struct kit_model *m = fresh();
        rondo_model *model = NULL;
        for (int k = 0; k < m->count; k++)
            if (!strcmp(m->tensors[k].name, "model.embed_tokens.weight")) {
                if (i == 1)
                    snprintf(m->tensors[k].name, sizeof m->tensors[k].name, "lm_head.weight");
                if (i == 2) {
                    uint64_t seed = 1;
                    kit_add(m, &seed, "lm_head.weight", base.vocabulary, base.hidden, 0.0, 1.0);
                    memcpy(m->tensors[m->count - 1].values, m->tensors[k].values, (size_t)m->tensors[k].count * sizeof(double));
                }
                break;
            }
        kit_write_weights(m, NULL);
        int err = open_folder(&model);
        hashes[i] = hash_of(model);
        ok(!err && hashes[i] && hashes[i] == hashes[0] && !*told, "a tied model that stores %s", (const char *[]){ "the embedding", "the head", "both" }[i]);
        ok(!rondo_model_query(model, &info) && (i == 0 || info.parameters == parameters), "counts it once");
        parameters = info.parameters;
        rondo_model_close(model);
        kit_free(m);
    }
    struct kit_model *m = fresh();
    rondo_model *model = NULL;
    kit_write_weights(m, "model.embed_tokens.weight");
    is_int(open_folder(&model), RONDO_EFORMAT, "one that stores neither: %s", rondo_error_text());
    kit_free(m);
    base.tied = 0;
    m = fresh();
    kit_write_weights(m, "model.embed_tokens.weight");
    is_int(open_folder(&model), RONDO_EFORMAT, "one that is not tied, without embedding: %s", rondo_error_text());
    kit_free(m);
}

static void maps(void)
{
    struct kit_model *m = fresh();
    rondo_model *model = NULL;
    char *index = malloc(1 << 16);
    if (!index)
        scratch_die("no memory");
    static const struct {
        const char *what, *spare;
        int code;
    } rows[] = {
        { "as it should be", "", 0 },
        { "with an inv_freq that is not stored", ",\"model.layers.0.self_attn.rotary_emb.inv_freq\":\"m.safetensors\"", 0 },
        { "with a tensor that is not stored", ",\"model.layers.2.input_layernorm.weight\":\"m.safetensors\"", RONDO_EFORMAT },
    };
    kit_write_weights(m, NULL);
    if (rename(scratch_path("model.safetensors"), scratch_path("m.safetensors")))
        scratch_die("rename");
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        size_t n = (size_t)sprintf(index, "{\"weight_map\":{");
        for (int k = 0; k < m->count; k++)
            n += (size_t)sprintf(index + n, "%s\"%s\":\"m.safetensors\"", k ? "," : "", m->tensors[k].name);
        sprintf(index + n, "%s}}", rows[i].spare);
        scratch_text("model.safetensors.index.json", index);
        is_int(open_folder(&model), rows[i].code, "a weight map %s: %s", rows[i].what, rows[i].code ? rondo_error_text() : "");
        rondo_model_close(model);
    }
    free(index);
    kit_free(m);
}

static void pointers(void)
{
    static const char pointer[] = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
                                  "size 12345\n";
    static const char *const names[] = { "model.safetensors", "tokenizer.json", "config.json" };
    for (int i = 0; i < 3; i++) {
        struct kit_model *m = fresh();
        rondo_model *model = NULL;
        kit_write_weights(m, NULL);
        scratch_text(names[i], pointer);
        is_int(open_folder(&model), RONDO_EFORMAT, "a pointer in the place of %s", names[i]);
        ok(strstr(rondo_error_text(), names[i]) && strstr(rondo_error_text(), "Git LFS pointer") && strstr(rondo_error_text(), "12345 bytes"), "is named: %s",
           rondo_error_text());
        kit_free(m);
    }
    rondo_arrays *file = NULL;
    is_int(rondo_arrays_open(&file, scratch_text("in", pointer)), RONDO_EFORMAT, "arrays too");
    ok(strstr(rondo_error_text(), "Git LFS pointer") != NULL, "by name");
}

/* A tokenizer with a hole and fewer tokens than the model has ids: most of what a random model says has no token. */
static void ids_without_token(void)
{
    struct kit_model *m = fresh();
    kit_write_weights(m, NULL);
    scratch_text("tokenizer.json", "{\"decoder\":{\"type\":\"Fuse\"},\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":2,\"b\":3,\"c\":40},\"merges\":[]}}");
    rondo_model *model = kit_open(scratch_dir);
    struct kit_generate g = { .model = model, .desc = RONDO_LM_DESC_INIT, .sampling = RONDO_SAMPLING_INIT, .prompt_count = 3 };
    int32_t prompt[3] = { 2, 3, 40 };
    g.sampling.ignore_eos = 1;
    g.sampling.max_tokens = KIT_NEW;
    g.sampling.temperature = 2.0;
    for (int i = 0; i < 3; i++) {
        g.prompts[i] = prompt + i;
        g.counts[i] = 1;
    }
    int err = model ? kit_run_generate(&g, 2) : RONDO_EFORMAT, without = 0, fine = 0;
    for (int i = 0; i < 3 && !err; i++) {
        char want[KIT_NEW + 1];
        int n = 0;
        for (int k = 0; k < KIT_NEW; k++) {
            const char *piece = rondo_tokenizer_piece(rondo_model_tokenizer(model), g.got[i].tokens[k]);
            without += !piece;
            if (piece)
                want[n++] = *piece;
        }
        want[n] = 0;
        fine += g.got[i].new_tokens == KIT_NEW && g.got[i].finish == RONDO_FINISH_LENGTH && !strcmp(want, g.got[i].text) && !strcmp(want, g.got[i].shown);
    }
    ok(!err && fine == 3 && without > KIT_NEW, "a batch with %d ids that have no token runs to its end, and they are no text", without);
    rondo_model_close(model);
    kit_free(m);
}

/* "" is no folder: names of files behind it would begin at the root. */
static void no_name(void)
{
    rondo_context *ctx = NULL;
    rondo_model *model = NULL;
    rondo_tokenizer *tokenizer = NULL;
    rondo_model_desc d = RONDO_MODEL_DESC_INIT;
    d.no_tokenizer = 1;
    ok(!rondo_context_create(&ctx, NULL), "a context");
    ok(rondo_model_open(&model, ctx, "", &d) == RONDO_EINVAL && !model && strstr(rondo_error_text(), "name is empty"), "a model without a name: %s",
       rondo_error_text());
    ok(rondo_tokenizer_open(&tokenizer, "") == RONDO_EINVAL && !tokenizer && strstr(rondo_error_text(), "name is empty"), "and a tokenizer");
    rondo_context_destroy(ctx);
}

int main(void)
{
    rondo_hooks hooks = RONDO_HOOKS_INIT;
    hooks.log = on_log;
    scratch_make("lm-folders");
    base = kit_defaults("a folder");
    ok(!rondo_set_hooks(&hooks), "warnings are listened to");
    spare_tensors();
    tied();
    maps();
    pointers();
    ids_without_token();
    no_name();
    scratch_remove();
    return done();
}
