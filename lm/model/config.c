/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Reads config.json and generation_config.json of a model folder, in the style of any Transformers version from 4 on, with each
 * family's own defaults. A field that would change the computation and that we do not honour is refused by name; numbers must
 * lie in the ranges of config.h. Called by model.c. rope.* of the file is read by config_rope.c.
 *
 * Reference: transformers, models/{llama,mistral,qwen2,qwen3}/configuration_*.py; config_linear.c has the fifth's.
 */
#include "lm/model/config.h"

#include "lm/model/config_fields.h"
#include "lm/files.h"

#define CONFIG_BYTES_MAX (16u << 20)

/* ---- fields: the first failure stays, later calls do nothing ---- */

static void fail_range(struct rondo__fields *f, const char *key, const json_t *value, const char *accepted)
{
    char shown[RONDO_SHOW_BYTES];
    if (json_is_integer(value))
        f->err = rondo__fail(RONDO_EFORMAT, "%s: %s is %lld; %s", f->path, key, (long long)json_integer_value(value), accepted);
    else if (json_is_real(value))
        f->err = rondo__fail(RONDO_EFORMAT, "%s: %s is %g; %s", f->path, key, json_real_value(value), accepted);
    else if (json_is_string(value))
        f->err = rondo__fail(RONDO_EFORMAT, "%s: %s is \"%s\"; %s", f->path, key, rondo__show(shown, json_string_value(value)), accepted);
    else
        f->err = rondo__fail(RONDO_EFORMAT, "%s: %s is %s; %s", f->path, key, rondo__json_kind(value), accepted);
}

int64_t rondo__field_integer(struct rondo__fields *f, const json_t *object, const char *key, int64_t absent, int64_t null, int64_t least,
                             int64_t most)
{
    char accepted[96];
    const json_t *value = json_object_get(object, key);
    if (f->err)
        return absent;
    if (!value)
        return absent;
    if (json_is_null(value) && null != RONDO_FIELD_REFUSED)
        return null;
    if (!json_is_integer(value) || json_integer_value(value) < least || json_integer_value(value) > most) {
        snprintf(accepted, sizeof accepted, "a whole number from %lld to %lld is accepted", (long long)least, (long long)most);
        fail_range(f, key, value, accepted);
        return absent;
    }
    return json_integer_value(value);
}

double rondo__field_number(struct rondo__fields *f, const json_t *object, const char *key, double absent, double least, double most)
{
    char accepted[96];
    const json_t *value = json_object_get(object, key);
    if (f->err || !value || json_is_null(value))
        return absent;
    double x = json_number_value(value);
    if (!json_is_number(value) || !(x >= least && x <= most)) {
        snprintf(accepted, sizeof accepted, "a number from %g to %g is accepted", least, most);
        fail_range(f, key, value, accepted);
        return absent;
    }
    return x;
}

bool rondo__field_bool(struct rondo__fields *f, const json_t *object, const char *key, bool absent)
{
    const json_t *value = json_object_get(object, key);
    if (f->err || !value || json_is_null(value))
        return absent;
    if (!json_is_boolean(value)) {
        fail_range(f, key, value, "true or false is accepted");
        return absent;
    }
    return json_is_true(value);
}

const char *rondo__field_string(struct rondo__fields *f, const json_t *object, const char *key, const char *absent)
{
    const json_t *value = json_object_get(object, key);
    if (f->err || !value || json_is_null(value))
        return absent;
    if (!json_is_string(value)) {
        fail_range(f, key, value, "a text is accepted");
        return absent;
    }
    return json_string_value(value);
}

/* Does a field ask for something? null, false, 0 and what is empty do not, nor does the number that changes nothing. */
static bool is_set(const json_t *value, double neutral)
{
    if (!value || json_is_null(value) || json_is_false(value))
        return false;
    if (json_is_number(value))
        return json_number_value(value) != 0.0 && json_number_value(value) != neutral;
    return !(json_is_object(value) && !json_object_size(value)) && !(json_is_array(value) && !json_array_size(value));
}

/* ---- the architecture ---- */

/* What an absent key means in each of them. */
struct family {
    const char *architecture, *model_type;
    int32_t family;
    int64_t intermediate, vocabulary, max_positions;
    int64_t kv_heads, head_dim;      /* 0: as many as there are heads; hidden_size / heads */
    int64_t bos, eos;                /* -1: none */
};
static const struct family families[] = {
    { "LlamaForCausalLM", "llama", RONDO_FAMILY_LLAMA, 11008, 32000, 2048, 0, 0, 1, 2 },
    { "MistralForCausalLM", "mistral", RONDO_FAMILY_MISTRAL, 14336, 32000, 131072, 8, 0, 1, 2 },
    { "Qwen2ForCausalLM", "qwen2", RONDO_FAMILY_QWEN2, 22016, 151936, 32768, 32, 0, -1, -1 },
    { "Qwen3ForCausalLM", "qwen3", RONDO_FAMILY_QWEN3, 22016, 151936, 32768, 32, 128, -1, -1 },
    { "KimiLinearForCausalLM", "kimi_linear", RONDO_FAMILY_KIMI, 11008, 163840, 1 << 20, 0, 0, 1, 2 },
};
enum { FAMILIES = sizeof families / sizeof families[0] };

static const struct family *read_architecture(struct rondo__fields *f, const json_t *root, struct rondo_config *c)
{
    char shown[RONDO_SHOW_BYTES];
    const json_t *list = json_object_get(root, "architectures");
    const char *type = rondo__field_string(f, root, "model_type", NULL), *name = NULL;
    if (f->err)
        return NULL;
    if (list && !json_is_null(list)) {
        name = json_string_value(json_array_get(list, 0));
        if (!name || json_array_size(list) != 1) {
            f->err = rondo__fail(RONDO_EFORMAT, "%s: architectures must be a list of one name", f->path);
            return NULL;
        }
    }
    if (!name && !type) {
        f->err = rondo__fail(RONDO_EFORMAT, "%s: neither architectures nor model_type says what the model is", f->path);
        return NULL;
    }
    for (int i = 0; i < FAMILIES; i++) {
        if (name ? strcmp(name, families[i].architecture) : strcmp(type, families[i].model_type))
            continue;
        if (type && strcmp(type, families[i].model_type)) {
            f->err = rondo__fail(RONDO_EFORMAT, "%s: architectures says %s, but model_type says \"%s\"", f->path, families[i].architecture,
                                 rondo__show(shown, type));
            return NULL;
        }
        c->family = families[i].family;
        snprintf(c->architecture, sizeof c->architecture, "%s", families[i].architecture);
        return &families[i];
    }
    f->err = rondo__fail(RONDO_ENOTSUP, "%s: %s \"%s\" is not supported; LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, "
                         "Qwen3ForCausalLM and KimiLinearForCausalLM are", f->path, name ? "architecture" : "model_type", rondo__show(shown, name ? name : type));
    return NULL;
}

/* What would change the computation and belongs to other families; a multiplier of 1 is fine. */
static const struct {
    const char *name;
    double neutral;
} refused[] = {
    { "quantization", 0 }, { "compression_config", 0 }, { "attn_logit_softcapping", 0 }, { "final_logit_softcapping", 0 },
    { "num_local_experts", 0 }, { "num_experts", 0 }, { "n_routed_experts", 0 }, { "clip_qkv", 0 }, { "qk_layernorm", 0 }, { "use_qk_norm", 0 },
    { "qk_norm", 0 }, { "embedding_multiplier", 1 }, { "residual_multiplier", 1 }, { "attention_multiplier", 0 }, { "logits_scaling", 1 },
    { "logit_scale", 1 }, { "rope_interleaved", 0 }, { "rotary_pct", 1 }, { "rotary_percent", 1 }, { "rope_pct", 1 }, { "rotary_emb_fraction", 1 },
    { "rotary_dim", 0 }, { "no_rope_layers", 0 }, { "alibi", 0 }, { "attention_sinks", 0 }, { "attention_chunk_size", 0 }, { "kv_lora_rank", 0 },
    { "cross_attention_layers", 0 }, { "block_list", 0 },
};

/* Of no meaning here: training, bookkeeping, or read elsewhere. */
static const char *const known[] = {
    "architectures", "model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "vocab_size", "max_position_embeddings", "original_max_position_embeddings", "rms_norm_eps", "sliding_window",
    "tie_word_embeddings", "rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor", "attention_bias", "mlp_bias", "hidden_act",
    "bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "sep_token_id", "cls_token_id", "mask_token_id", "layer_types",
    "max_window_layers", "use_sliding_window", "torch_dtype", "dtype", "transformers_version", "use_cache", "attention_dropout",
    "initializer_range", "pretraining_tp", "_name_or_path", "unsloth_version", "unsloth_fixed", "auto_map", "output_attentions",
    "output_hidden_states", "return_dict", "_attn_implementation_autoset", "_attn_implementation", "attn_implementation", "_flash_attn_2_enabled",
    "name_or_path", "is_decoder", "max_sequence_length", "hidden_dropout", "residual_dropout", "mm_vision_select_layer", "chunk_size_feed_forward",
    "is_llama_config", "transformers.js_config", "id2label", "label2id", "tokenizer_class", "max_length", "min_length", "temperature", "top_k",
    "top_p", "typical_p", "do_sample", "num_beams", "num_beam_groups", "num_return_sequences", "length_penalty", "repetition_penalty",
    "diversity_penalty", "_commit_hash", "torchscript", "use_bfloat16", "tie_encoder_decoder", "is_encoder_decoder", "add_cross_attention",
    "linear_attn_config", "mla_use_nope", "model_max_length", "quantization_config", "problem_type", "finetuning_task", "task_specific_params", "neftune_noise_alpha",
};

static bool is_known(const char *key)
{
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (!strcmp(key, known[i]))
            return true;
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++)
        if (!strcmp(key, refused[i].name))
            return true;
    return false;
}

/* One warning for all fields that nobody here knows: one of them may be what makes the model another one. */
static void tell_unknown(const char *path, json_t *root)
{
    char text[480], shown[RONDO_SHOW_BYTES];
    const char *key;
    json_t *value;
    size_t n = 0, count = 0;
    text[0] = 0;
    json_object_foreach(root, key, value) {
        if (!is_set(value, 0) || is_known(key))
            continue;
        if (n + RONDO_SHOW_BYTES + 8 < sizeof text)
            n += (size_t)snprintf(text + n, sizeof text - n, "%s\"%s\"", count ? ", " : "", rondo__show(shown, key));
        else if (n + 8 < sizeof text && strcmp(text + n - 3, "..."))
            n += (size_t)snprintf(text + n, sizeof text - n, ", ...");
        count++;
    }
    if (count)
        rondo__log(RONDO_LOG_WARNING, "%s: %s not known and %s no effect: %s", path, count > 1 ? "these fields are" : "this field is",
                   count > 1 ? "have" : "has", text);
}

static void check_other(struct rondo__fields *f, const json_t *root)
{
    for (size_t i = 0; i < sizeof refused / sizeof refused[0] && !f->err; i++)
        if (is_set(json_object_get(root, refused[i].name), refused[i].neutral))
            f->err = rondo__fail(RONDO_ENOTSUP, "%s: %s is set; models that need it are not supported", f->path, refused[i].name);
    if (!f->err)
        tell_unknown(f->path, (json_t *)(uintptr_t)root);
}

/* ---- shapes ---- */

static void read_shape(struct rondo__fields *f, const json_t *root, const struct family *family, struct rondo_config *c)
{
    int64_t none = RONDO_FIELD_REFUSED;
    c->layers = rondo__field_integer(f, root, "num_hidden_layers", 32, none, 1, RONDO_CONFIG_LAYERS_MAX);
    c->hidden = rondo__field_integer(f, root, "hidden_size", 4096, none, 1, 1 << 20);
    c->intermediate = rondo__field_integer(f, root, "intermediate_size", family->intermediate, none, 1, 1 << 24);
    c->vocabulary = rondo__field_integer(f, root, "vocab_size", family->vocabulary, none, 1, 1 << 27);
    c->max_positions = rondo__field_integer(f, root, "max_position_embeddings", family->max_positions, none, 1, (int64_t)1 << 40);
    c->heads = rondo__field_integer(f, root, "num_attention_heads", 32, none, 1, 1 << 16);
    c->kv_heads = rondo__field_integer(f, root, "num_key_value_heads", family->kv_heads ? family->kv_heads : c->heads, c->heads, 1, 1 << 16);
    c->head_dim = rondo__field_integer(f, root, "head_dim", family->head_dim, 0, 1, 1 << 14);
    c->rms_eps = rondo__field_number(f, root, "rms_norm_eps", 1e-6, 1e-30, 1.0);
    c->tied = rondo__field_bool(f, root, "tie_word_embeddings", false);
    if (f->err)
        return;
    if (c->heads % c->kv_heads)
        f->err = rondo__fail(RONDO_EFORMAT, "%s: num_key_value_heads %lld does not divide num_attention_heads %lld", f->path,
                             (long long)c->kv_heads, (long long)c->heads);
    else if (!c->head_dim && c->hidden % c->heads)
        f->err = rondo__fail(RONDO_EFORMAT, "%s: num_attention_heads %lld does not divide hidden_size %lld, and there is no head_dim", f->path,
                             (long long)c->heads, (long long)c->hidden);
    else if (!c->head_dim && c->hidden / c->heads > 1 << 14)
        f->err = rondo__fail(RONDO_EFORMAT, "%s: hidden_size / num_attention_heads is %lld; a head has at most %d entries", f->path,
                             (long long)(c->hidden / c->heads), 1 << 14);
    if (!f->err && !c->head_dim)
        c->head_dim = c->hidden / c->heads;
}

/* Which layers have biases and norms besides: the family's own, or (Llama, Qwen3) as the file says. */
static void read_extras(struct rondo__fields *f, const json_t *root, struct rondo_config *c)
{
    const bool attention = rondo__field_bool(f, root, "attention_bias", false), mlp = rondo__field_bool(f, root, "mlp_bias", false);
    const bool choice = c->family == RONDO_FAMILY_LLAMA || c->family == RONDO_FAMILY_QWEN3, qwen2 = c->family == RONDO_FAMILY_QWEN2;
    c->qkv_bias = qwen2 || (choice && attention);
    c->o_bias = choice && attention;
    c->mlp_bias = mlp;
    c->qk_norm = c->family == RONDO_FAMILY_QWEN3;
    if (f->err)
        return;
    if (attention && !choice && !qwen2)
        f->err = rondo__fail(RONDO_ENOTSUP, "%s: attention_bias is set, which %s does not have", f->path, c->architecture);
    else if (mlp && c->family != RONDO_FAMILY_LLAMA)
        f->err = rondo__fail(RONDO_ENOTSUP, "%s: mlp_bias is set, which %s does not have", f->path, c->architecture);
}

/* layer_types, where it is there: one kind for all layers. NULL: not there. */
static const char *read_layer_types(struct rondo__fields *f, const json_t *root, const struct rondo_config *c)
{
    char shown[RONDO_SHOW_BYTES], other[RONDO_SHOW_BYTES];
    const json_t *types = json_object_get(root, "layer_types");
    if (f->err || !types || json_is_null(types))
        return NULL;
    if (!json_is_array(types) || (int64_t)json_array_size(types) != c->layers) {
        f->err = rondo__fail(RONDO_EFORMAT, "%s: layer_types must be a list of one text for each of the %lld layers", f->path, (long long)c->layers);
        return NULL;
    }
    const char *all = json_string_value(json_array_get(types, 0));
    for (size_t i = 0; i < json_array_size(types); i++) {
        const char *type = json_string_value(json_array_get(types, i));
        if (!type || (strcmp(type, "full_attention") && strcmp(type, "sliding_attention")))
            f->err = rondo__fail(RONDO_ENOTSUP, "%s: layer_types[%zu] is \"%s\"; \"full_attention\" and \"sliding_attention\" are supported", f->path, i,
                                 type ? rondo__show(shown, type) : "no text");
        else if (strcmp(type, all))
            f->err = rondo__fail(RONDO_ENOTSUP, "%s: layer_types[%zu] is \"%s\" and layer_types[0] \"%s\"; all layers must be alike here", f->path, i,
                                 rondo__show(shown, type), rondo__show(other, all));
        if (f->err)
            return NULL;
    }
    return all;
}

/* Qwen's windows are off unless asked for, and then the layers from max_window_layers on have them. */
static void read_window_from(struct rondo__fields *f, const json_t *root, struct rondo_config *c, const char *types)
{
    const int64_t most = (int64_t)1 << 40;
    const bool used = rondo__field_bool(f, root, "use_sliding_window", false);
    const int64_t width = rondo__field_integer(f, root, "sliding_window", 4096, 0, 1, most);
    const int64_t from = rondo__field_integer(f, root, "max_window_layers", 28, RONDO_FIELD_REFUSED, 0, most);
    if (f->err)
        return;
    const bool sliding = types && !strcmp(types, "sliding_attention");
    if (types && sliding && (!used || !width))
        f->err = rondo__fail(RONDO_EFORMAT, "%s: layer_types says sliding_attention, but %s", f->path,
                             used ? "there is no sliding_window" : "use_sliding_window is not true");
    else if (types)
        c->window = sliding ? width : 0;
    else if (!used || !width || from >= c->layers)
        c->window = 0;
    else if (from == 0)
        c->window = width;
    else
        f->err = rondo__fail(RONDO_ENOTSUP, "%s: the first %lld of %lld layers see all tokens and the others a sliding_window (max_window_layers); all "
                             "layers must be alike here", f->path, (long long)from, (long long)c->layers);
}

/* Sliding window: an absent key means 4096 for Mistral and none for Llama, which does not know the field. */
static void read_window(struct rondo__fields *f, const json_t *root, struct rondo_config *c)
{
    bool mistral = c->family == RONDO_FAMILY_MISTRAL;
    const char *types = read_layer_types(f, root, c);
    if (c->family == RONDO_FAMILY_QWEN2 || c->family == RONDO_FAMILY_QWEN3) {
        read_window_from(f, root, c, types);
        return;
    }
    const bool used = rondo__field_bool(f, root, "use_sliding_window", true);
    /* Where Llama's file says that the window is not used, its width is left over from the family that it was converted from. */
    c->window = !mistral && !used ? 0 : rondo__field_integer(f, root, "sliding_window", mistral ? 4096 : 0, 0, 1, (int64_t)1 << 40);
    if (f->err)
        return;
    if (!mistral && c->window) {
        f->err = rondo__fail(RONDO_ENOTSUP, "%s: sliding_window is %lld, which %s does not have", f->path, (long long)c->window,
                             c->architecture);
        return;
    }
    if (c->window && !used)
        f->err = rondo__fail(RONDO_ENOTSUP, "%s: use_sliding_window is false, which MistralForCausalLM does not have; set sliding_window to null",
                             f->path);
    const char *all = c->window ? "sliding_attention" : "full_attention";
    if (!f->err && types && strcmp(types, all))
        f->err = rondo__fail(RONDO_ENOTSUP, "%s: layer_types says \"%s\"; all layers must be \"%s\" here", f->path, types, all);
}

static void read_activation(struct rondo__fields *f, const json_t *root)
{
    char shown[RONDO_SHOW_BYTES];
    const char *name = rondo__field_string(f, root, "hidden_act", "silu");
    if (!f->err && strcmp(name, "silu") && strcmp(name, "swish"))      /* two names of one function */
        f->err = rondo__fail(RONDO_ENOTSUP, "%s: hidden_act is \"%s\"; silu is supported", f->path, rondo__show(shown, name));
}

/* A number, a list of numbers, null or nothing. */
static void read_eos(struct rondo__fields *f, const json_t *root, struct rondo_config *c, int64_t absent)
{
    const json_t *value = json_object_get(root, "eos_token_id");
    if (f->err || (!value && absent < 0))
        return;
    c->eos_count = 0;
    if (!value || json_is_null(value)) {
        if (!value)
            c->eos[c->eos_count++] = (int32_t)absent;
        return;
    }
    size_t n = json_is_array(value) ? json_array_size(value) : 1;
    if (n > RONDO_CONFIG_EOS_MAX) {
        f->err = rondo__fail(RONDO_EFORMAT, "%s: eos_token_id is a list of %zu; at most %d are accepted", f->path, n, RONDO_CONFIG_EOS_MAX);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_is_array(value) ? json_array_get(value, i) : value;
        if (json_is_integer(id) && json_integer_value(id) == -1)      /* an old spelling of "none" */
            continue;
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > INT32_MAX) {
            fail_range(f, "eos_token_id", id, "a token's number, or a list of them, is accepted");
            return;
        }
        c->eos[c->eos_count++] = (int32_t)json_integer_value(id);
    }
}

/* ---- generation_config.json ---- */

/* A count as people write it here: 50, 50.0, and -1 for "off". */
static void check_count(struct rondo__fields *f, const json_t *root, const char *key, int64_t most)
{
    const double x = rondo__field_number(f, root, key, 0.0, -1.0, (double)most);
    if (!f->err && (double)(int64_t)x != x)
        fail_range(f, key, json_object_get(root, key), "a whole number is accepted");
}

/* Its sampling is not ours, which is greedy unless asked for otherwise; but a damaged file is told. */
static void check_sampling(struct rondo__fields *f, const json_t *root)
{
    static const struct {
        const char *key;
        double low, high;
    } numbers[] = { { "temperature", 0.0, 1e6 }, { "top_p", 0.0, 1.0 }, { "min_p", 0.0, 1.0 }, { "repetition_penalty", 1e-6, 1e6 } };
    (void)rondo__field_bool(f, root, "do_sample", false);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        (void)rondo__field_number(f, root, numbers[i].key, numbers[i].low, numbers[i].low, numbers[i].high);
    check_count(f, root, "top_k", INT32_MAX);
    check_count(f, root, "max_new_tokens", (int64_t)1 << 40);
}

static int read_generation(struct rondo_config *c, const char *path)
{
    struct rondo__fields f = { path, 0 };
    json_t *root = NULL;
    int err = rondo__json_read(&root, path, CONFIG_BYTES_MAX);
    if (err)
        return err;
    const json_t *eos = json_object_get(root, "eos_token_id");
    if (eos && !json_is_null(eos))
        read_eos(&f, root, c, -1);
    check_sampling(&f, root);
    json_decref(root);
    return f.err;
}

int rondo__config_read(struct rondo_config *out, const char *dir)
{
    struct rondo_config c = { .bos = -1 };
    json_t *root = NULL;
    char *path = rondo__path_join(dir, "config.json"), *generation = rondo__path_join(dir, "generation_config.json");
    int err = RONDO_ENOMEM;
    if (!path || !generation)
        goto done;
    err = rondo__folder_named(dir);
    if (!err)
        err = rondo__json_read(&root, path, CONFIG_BYTES_MAX);
    if (err)
        goto done;
    struct rondo__fields f = { path, 0 };
    const struct family *family = read_architecture(&f, root, &c);
    if (!f.err && c.family == RONDO_FAMILY_KIMI)
        rondo__config_linear_others(&f, root);
    if (!f.err)
        check_other(&f, root);
    if (!f.err)
        read_shape(&f, root, family, &c);
    if (!f.err && c.family == RONDO_FAMILY_KIMI)
        rondo__config_linear(&f, root, &c);
    if (!f.err)
        read_extras(&f, root, &c);
    if (!f.err)
        read_window(&f, root, &c);
    read_activation(&f, root);
    if (!f.err)
        rondo__config_rope(&f, root, &c);
    rondo__config_quant(&f, root, &c);
    c.bos = (int32_t)rondo__field_integer(&f, root, "bos_token_id", family ? family->bos : -1, -1, -1, INT32_MAX);
    read_eos(&f, root, &c, family ? family->eos : -1);
    err = f.err;
    if (!err && rondo__file_exists(generation))
        err = read_generation(&c, generation);
    if (!err)
        *out = c;
done:
    json_decref(root);
    rondo__free(path);
    rondo__free(generation);
    return err;
}
