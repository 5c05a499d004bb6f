/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Opening a model folder: config.json (config.c), the shards (shards.c), every weight read once in bounded portions and packed
 * at once, so that at no time more than one portion is held twice. Tensor names and shapes are those that Hugging Face's Llama and
 * Mistral classes write. Called by users through rondo_model_open() and by rondo_lm_generate().
 *
 * Weights keep their storage type (F32, BF16 or F16, each tensor its own); norms and biases, which are small, become F32.
 * Where the head is tied to the embedding only the packed head is held, and rows are looked up in it (rondo__linear_read).
 */
#include "lm/model/model.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/internal.h"
#include "lm/files.h"
#include "lm/model/shards.h"

/* Bytes of weights read in one portion; one row where a row is longer. */
#define PORTION ((size_t)4 << 20)

struct loader {
    rondo_model *model;
    struct rondo_shards *shards;
    rondo_context *ctx;
    const rondo_model_desc *desc;
    char *portion;
    size_t portion_bytes;
    uint64_t done, total;
};

static void progress(struct loader *l, uint64_t bytes)
{
    l->done += bytes;
    if (l->desc->progress)
        l->desc->progress(l->desc->user, l->done < l->total ? l->done : l->total, l->total);
}

/* The buffer for `rows` rows of `row_bytes`, at least one: how many fit, or a code. */
static int64_t room(struct loader *l, size_t row_bytes, int64_t rows)
{
    size_t want = row_bytes > PORTION ? row_bytes : PORTION;
    if (want > l->portion_bytes) {
        rondo__free(l->portion);
        l->portion_bytes = 0;
        l->portion = rondo__alloc(want);
        if (!l->portion)
            return rondo__fail(RONDO_ENOMEM, "rondo_model_open: no memory for a portion of %zu bytes of weights", want);
        l->portion_bytes = want;
    }
    int64_t fit = (int64_t)(l->portion_bytes / row_bytes);
    return fit < rows ? fit : rows;
}

/* A vector (norm, bias) as F32. */
static int load_vector(struct loader *l, const char *name, int64_t count, float **out)
{
    const rondo_array *array;
    int err = rondo__shards_need(l->shards, name, 1, &count, &array);
    if (err)
        return err;
    size_t bytes = (size_t)count * sizeof(float);
    float *vector = rondo__alloc(bytes);
    void *raw = rondo__alloc((size_t)array->bytes);
    if (!vector || !raw)
        err = rondo__fail(RONDO_ENOMEM, "rondo_model_open: no memory for %s (%zu bytes)", name, bytes);
    if (!err)
        err = rondo__shards_read(l->shards, array, 0, array->bytes, raw);
    if (!err)
        err = rondo_convert(l->ctx, count, array->type, raw, RONDO_F32, vector);
    rondo__free(raw);
    if (err) {
        rondo__free(vector);
        return err;
    }
    *out = vector;
    l->model->parameters += (uint64_t)count;
    l->model->weight_bytes += bytes;
    progress(l, array->bytes);
    return 0;
}

/* A matrix [rows][in]: packed into *linear or, where that is NULL, copied into *table. *type, where wanted, gets its type. */
static int load_matrix(struct loader *l, const char *name, int64_t rows, int64_t in, int32_t leaves, rondo_linear **linear,
                       void **table, int32_t *type)
{
    const int64_t shape[2] = { rows, in };
    const rondo_array *array;
    int err = rondo__shards_need(l->shards, name, 2, shape, &array);
    if (err)
        return err;
    size_t row_bytes = (size_t)in * rondo_type_size(array->type);   /* config.c bounds `in`; all rows may be more than memory */
    if (type)
        *type = array->type;
    if (!linear) {
        size_t bytes;
        *table = __builtin_add_overflow(array->bytes, 0u, &bytes) ? NULL : rondo__alloc(bytes);
        if (!*table)
            return rondo__fail(RONDO_ENOMEM, "rondo_model_open: no memory for %s (%llu bytes)", name, (unsigned long long)array->bytes);
        l->model->weight_bytes += array->bytes;
    } else {
        rondo_linear_desc d = RONDO_LINEAR_DESC_INIT;
        d.in = in;
        d.out = rows;
        d.type = array->type;
        d.leaves = leaves;
        err = rondo_linear_create(linear, l->ctx, &d);
        if (err)
            return err;
        l->model->weight_bytes += rondo_linear_bytes(*linear);
    }
    for (int64_t first = 0; first < rows && !err;) {
        int64_t n = room(l, row_bytes, rows - first);
        if (n < 0)
            return (int)n;
        uint64_t at = (uint64_t)first * row_bytes, bytes = (uint64_t)n * row_bytes;
        void *to = linear ? l->portion : (char *)*table + at;
        err = rondo__shards_read(l->shards, array, at, bytes, to);
        if (!err && linear)
            err = rondo_linear_load(*linear, first, n, to);
        if (!err)
            progress(l, bytes);
        first += n;
    }
    l->model->parameters += (uint64_t)rows * (uint64_t)in;
    return err;
}

static const char *layer_name(char *buffer, size_t size, int64_t layer, const char *rest)
{
    snprintf(buffer, size, "model.layers.%lld.%s", (long long)layer, rest);
    return buffer;
}

/* One projection and its bias. A bias in the file that the configuration does not know would change the answer silently. */
static int load_projection(struct loader *l, int64_t layer, const char *what, int64_t out, int64_t in, int32_t leaves, bool biased,
                           rondo_linear **linear, float **bias)
{
    char name[128], rest[64];
    snprintf(rest, sizeof rest, "%s.weight", what);
    int err = load_matrix(l, layer_name(name, sizeof name, layer, rest), out, in, leaves, linear, NULL, NULL);
    if (err)
        return err;
    snprintf(rest, sizeof rest, "%s.bias", what);
    layer_name(name, sizeof name, layer, rest);
    if (biased)
        return load_vector(l, name, out, bias);
    if (rondo__shards_find(l->shards, name))
        return rondo__fail(RONDO_EFORMAT, "the model has a tensor %s, but its config.json says that there are no such biases", name);
    return 0;
}

static int load_layer(struct loader *l, int64_t i)
{
    const struct rondo_config *c = &l->model->config;
    struct rondo_layer *y = &l->model->layers[i];
    int64_t q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim;
    int32_t down = c->intermediate < RONDO_LM_DOWN_LEAVES ? (int32_t)c->intermediate : RONDO_LM_DOWN_LEAVES;
    bool ab = c->attention_bias, mb = c->mlp_bias;
    char name[128];
    int err = load_vector(l, layer_name(name, sizeof name, i, "input_layernorm.weight"), c->hidden, &y->attention_norm);
    if (!err)
        err = load_vector(l, layer_name(name, sizeof name, i, "post_attention_layernorm.weight"), c->hidden, &y->mlp_norm);
    if (!err)
        err = load_projection(l, i, "self_attn.q_proj", q, c->hidden, 0, ab, &y->q, &y->q_bias);
    if (!err)
        err = load_projection(l, i, "self_attn.k_proj", kv, c->hidden, 0, ab, &y->k, &y->k_bias);
    if (!err)
        err = load_projection(l, i, "self_attn.v_proj", kv, c->hidden, 0, ab, &y->v, &y->v_bias);
    if (!err)
        err = load_projection(l, i, "self_attn.o_proj", c->hidden, q, (int32_t)c->heads, ab, &y->o, &y->o_bias);
    if (!err)
        err = load_projection(l, i, "mlp.gate_proj", c->intermediate, c->hidden, 0, mb, &y->gate, &y->gate_bias);
    if (!err)
        err = load_projection(l, i, "mlp.up_proj", c->intermediate, c->hidden, 0, mb, &y->up, &y->up_bias);
    if (!err)
        err = load_projection(l, i, "mlp.down_proj", c->hidden, c->intermediate, down, mb, &y->down, &y->down_bias);
    return err;
}

const void *rondo__model_embedding(const rondo_model *model, int64_t id, void *scratch)
{
    if (model->embedding)
        return (const char *)model->embedding + (size_t)id * (size_t)model->config.hidden * rondo_type_size(model->embedding_type);
    return rondo__linear_read(model->head, id, 1, scratch) ? NULL : scratch;
}

/* A tied model whose file has a head all the same: fine where it is the embedding again, contradictory otherwise. */
static int check_spare_head(struct loader *l)
{
    const rondo_model *m = l->model;
    const rondo_array *head = rondo__shards_find(l->shards, "lm_head.weight");
    if (!head)
        return 0;
    const size_t row_bytes = (size_t)m->config.hidden * rondo_type_size(m->embedding_type);
    bool same = head->type == m->embedding_type && head->bytes == (uint64_t)m->config.vocabulary * row_bytes;
    int64_t fit = room(l, 2 * row_bytes, 1);
    if (fit < 0)
        return (int)fit;
    for (int64_t id = 0; same && id < m->config.vocabulary; id++) {
        int err = rondo__shards_read(l->shards, head, (uint64_t)id * row_bytes, row_bytes, l->portion);
        if (err)
            return err;
        const void *row = rondo__model_embedding(m, id, l->portion + row_bytes);
        same = row && memcmp(l->portion, row, row_bytes) == 0;
    }
    if (!same)
        return rondo__fail(RONDO_EFORMAT, "config.json says tie_word_embeddings, but the model's lm_head.weight differs from "
                           "model.embed_tokens.weight");
    progress(l, head->bytes);
    return 0;
}

/* Embedding and head. A device that cannot look rows up in a packed head needs the table besides. */
static int load_ends(struct loader *l)
{
    rondo_model *m = l->model;
    const int64_t ids = m->config.vocabulary, hidden = m->config.hidden;
    const char *embedding = "model.embed_tokens.weight";
    const bool other = m->config.tied && !rondo__shards_find(l->shards, embedding) && rondo__shards_find(l->shards, "lm_head.weight");
    if (other)      /* one matrix under two names: some exporters keep this one */
        embedding = "lm_head.weight";
    if (!m->config.tied) {
        int err = load_matrix(l, embedding, ids, hidden, 0, NULL, &m->embedding, &m->embedding_type);
        return err ? err : load_matrix(l, "lm_head.weight", ids, hidden, 0, &m->head, NULL, NULL);
    }
    int err = load_matrix(l, embedding, ids, hidden, 0, &m->head, NULL, &m->embedding_type);
    if (!err && rondo__linear_read(m->head, 0, 0, l->portion) == RONDO_ENOTSUP) {
        err = load_matrix(l, embedding, ids, hidden, 0, NULL, &m->embedding, NULL);
        m->parameters -= (uint64_t)ids * (uint64_t)hidden;
    }
    return err || other ? err : check_spare_head(l);
}

/* What a layer has besides takes part in the computation of whoever trained it: leaving it out would give another model. */
static int check_layers(struct loader *l)
{
    const struct rondo_config *c = &l->model->config;
    static const char prefix[] = "model.layers.";
    char shown[RONDO_SHOW_BYTES];
    const char *name = rondo__shards_unused(l->shards, prefix);
    if (!name)
        return 0;
    const char *digits = name + sizeof prefix - 1;
    const size_t n = strspn(digits, "0123456789");
    if (n > 0 && n < 10 && strtol(digits, NULL, 10) >= c->layers)
        return rondo__fail(RONDO_EFORMAT, "the model has a tensor %s, but its config.json says num_hidden_layers %lld", rondo__show(shown, name),
                           (long long)c->layers);
    return rondo__fail(RONDO_ENOTSUP, "the model has a tensor %s, which a layer of %s has no place for; such models are not supported",
                       rondo__show(shown, name), c->architecture);
}

static int load_all(struct loader *l)
{
    rondo_model *m = l->model;
    const struct rondo_config *c = &m->config;
    int err = load_ends(l);
    for (int64_t i = 0; i < c->layers && !err; i++)
        err = load_layer(l, i);
    if (!err)
        err = load_vector(l, "model.norm.weight", c->hidden, &m->norm);
    if (err)
        return err;
    err = check_layers(l);
    if (err)
        return err;
    rondo__shards_report_unused(l->shards);
    return 0;
}

static uint64_t word_of(double x)
{
    uint64_t w;
    memcpy(&w, &x, sizeof w);
    return w;
}

static uint64_t fingerprint(const rondo_model *m)
{
    const struct rondo_config *c = &m->config;
    const struct rondo_rope_config *r = &c->rope;
    const uint64_t words[] = {
        (uint64_t)c->family, (uint64_t)c->layers, (uint64_t)c->hidden, (uint64_t)c->intermediate, (uint64_t)c->heads,
        (uint64_t)c->kv_heads, (uint64_t)c->head_dim, (uint64_t)c->vocabulary, (uint64_t)c->window, word_of(c->rms_eps), c->tied,
        c->attention_bias, c->mlp_bias, (uint64_t)r->kind, (uint64_t)r->dim, word_of(r->theta), word_of(r->factor),
        (uint64_t)r->original_max_positions, word_of(r->low_freq_factor), word_of(r->high_freq_factor), word_of(r->beta_fast),
        word_of(r->beta_slow), word_of(r->attention_factor), r->truncate, (uint64_t)m->embedding_type, m->parameters,
        m->tokenizer ? (uint64_t)rondo_tokenizer_size(m->tokenizer) : 0,
    };
    uint64_t h = 0x6d6f64656cu;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        h = rondo__hash_word(h, words[i]);
    return h;
}

int rondo_model_open(rondo_model **out, rondo_context *ctx, const char *dir, const rondo_model_desc *desc)
{
    rondo_model_desc d = RONDO_MODEL_DESC_INIT;
    if (out)
        *out = NULL;
    if (!out || !ctx || !dir)
        return rondo__fail(RONDO_EINVAL, "rondo_model_open: %s is NULL", !out ? "out" : !ctx ? "the context" : "the folder's name");
    int err = desc ? rondo__desc_copy(&d, sizeof d, desc, "rondo_model_desc") : 0;
    if (err)
        return err;
    if (d.tp_ranks < 0 || d.tp_rank < 0 || d.tp_rank >= (d.tp_ranks > 0 ? d.tp_ranks : 1))
        return rondo__fail(RONDO_EINVAL, "rondo_model_open: tp_rank %d of tp_ranks %d cannot be", d.tp_rank, d.tp_ranks);
    if (d.tp_ranks > 1)
        return rondo__fail(RONDO_ENOTSUP, "rondo_model_open: tensor parallelism (tp_ranks %d) is not supported; use 1", d.tp_ranks);
    if (d.cp_ranks > 1 || d.shares || d.weights || d.group)
        return rondo__fail(RONDO_ENOTSUP, "rondo_model_open: cp_ranks, shares, weights and group are not supported yet");
    if (d.threads < 0)
        return rondo__fail(RONDO_EINVAL, "rondo_model_open: threads is %d; 0 means those of the context", d.threads);

    struct loader l = { .ctx = ctx, .desc = &d };
    rondo_model *m = rondo__alloc_zero(1, sizeof *m);
    if (!m)
        return rondo__fail(RONDO_ENOMEM, "rondo_model_open: no memory for a model");
    l.model = m;
    err = rondo__config_read(&m->config, dir);
    if (!err)
        err = rondo__split_make(&m->split, &m->config, 1, 0, 1, 0, NULL);
    if (!err && !(m->layers = rondo__alloc_zero((size_t)m->config.layers, sizeof *m->layers)))
        err = rondo__fail(RONDO_ENOMEM, "rondo_model_open: no memory for %lld layers", (long long)m->config.layers);
    if (!err && !d.no_tokenizer)
        err = rondo_tokenizer_open(&m->tokenizer, dir);
    if (!err && m->tokenizer && rondo_tokenizer_size(m->tokenizer) > m->config.vocabulary)
        rondo__log(RONDO_LOG_WARNING, "%s: the tokenizer knows %d ids, the model only %lld", dir, rondo_tokenizer_size(m->tokenizer),
                   (long long)m->config.vocabulary);
    if (!err)
        err = rondo__shards_open(&l.shards, dir);
    if (!err) {
        l.total = rondo__shards_bytes(l.shards);
        err = load_all(&l);
    }
    rondo__shards_close(l.shards);
    rondo__free(l.portion);
    if (err) {
        rondo_model_close(m);
        return err;
    }
    m->fingerprint = fingerprint(m);
    *out = m;
    return 0;
}

void rondo_model_close(rondo_model *model)
{
    if (!model)
        return;
    for (int64_t i = 0; model->layers && i < model->config.layers; i++) {
        struct rondo_layer *y = &model->layers[i];
        rondo_linear *const linears[] = { y->q, y->k, y->v, y->o, y->gate, y->up, y->down };
        float *const vectors[] = { y->attention_norm, y->mlp_norm, y->q_bias, y->k_bias, y->v_bias, y->o_bias, y->gate_bias, y->up_bias,
                                   y->down_bias, y->q_norm, y->k_norm };
        for (size_t k = 0; k < sizeof linears / sizeof *linears; k++)
            rondo_linear_destroy(linears[k]);
        for (size_t k = 0; k < sizeof vectors / sizeof *vectors; k++)
            rondo__free(vectors[k]);
    }
    rondo_linear_destroy(model->head);
    rondo_tokenizer_close(model->tokenizer);
    rondo__free(model->norm);
    rondo__free(model->embedding);
    rondo__free(model->layers);
    rondo__split_free(&model->split);
    rondo__free(model);
}

int rondo_model_query(const rondo_model *model, rondo_model_info *info)
{
    if (!model)
        return rondo__fail(RONDO_EINVAL, "rondo_model_query: the model is NULL");
    const struct rondo_config *c = &model->config;
    rondo_model_info i = RONDO_MODEL_INFO_INIT;
    i.architecture = c->architecture;
    i.rope = rondo__rope_name(c->rope.kind);
    i.layers = c->layers;
    i.hidden = c->hidden;
    i.intermediate = c->intermediate;
    i.heads = c->heads;
    i.kv_heads = c->kv_heads;
    i.head_dim = c->head_dim;
    i.vocabulary = c->vocabulary;
    i.max_positions = c->max_positions;
    i.window = c->window;
    i.parameters = model->parameters;
    i.weight_bytes = model->weight_bytes;
    i.bos = c->bos;
    i.tied = c->tied;
    i.eos = c->eos;
    i.eos_count = c->eos_count;
    return rondo__info_copy(info, &i, sizeof i, "rondo_model_info");
}

const rondo_tokenizer *rondo_model_tokenizer(const rondo_model *model)
{
    return model ? model->tokenizer : NULL;
}
