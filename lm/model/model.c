/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Opening a model folder: config.json (config.c), the part that this rank has (split.c), the shards (shards.c), which tensors it takes
 * (weights.c), and reading and packing them (load.c), or only counting what they would take. Called by users through
 * rondo_model_open() and by rondo_lm_generate().
 *
 * Weights keep their storage type (F32, BF16 or F16, each tensor its own) unless the caller wants another one; norms and biases, which are
 * small, become F32. Where the head is tied to the embedding only the packed head is held where that serves, and rows are looked up in it
 * (rondo__linear_read).
 */
#include "lm/model/model.h"

#include "core/internal.h"
#include "lm/files.h"
#include "lm/model/load.h"

int rondo__model_embedding(const rondo_model *model, int64_t id, void *scratch, const void **out)
{
    const int64_t row = id - model->split.vocab_first;
    if (row < 0 || row >= model->split.vocab)
        return rondo__fail(RONDO_EINVAL, "token %lld is not of this rank's part of the vocabulary", (long long)id);
    *out = model->embedding ? (const char *)model->embedding + (size_t)row * (size_t)model->config.hidden * rondo_type_size(model->embedding_type)
                            : scratch;
    return model->embedding ? 0 : rondo__linear_read(model->head, row, 1, scratch);
}

/* A tied model whose file has a head all the same: fine where it is the embedding again, contradictory otherwise. */
static int check_spare_head(struct rondo_load *l, const struct rondo_model *m)
{
    const rondo_array *head = rondo__weights_spare_head(m, l->shards);
    if (!head)
        return 0;
    int same = rondo__load_same(l, rondo__shards_find(l->shards, "model.embed_tokens.weight"), head, m->split.vocab_first, m->split.vocab);
    if (same == 0)
        return rondo__fail(RONDO_EFORMAT, "config.json says tie_word_embeddings, but the model's lm_head.weight differs from "
                           "model.embed_tokens.weight");
    return same < 0 ? same : 0;
}

static int load_all(struct rondo_load *l, rondo_model *m)
{
    const struct rondo_device_ops *ops = rondo__ops(l->ctx);
    const struct rondo_weights_wish wish = { l->desc->weights, !RONDO_HAS(ops, linear_read) };
    int err = rondo__weights_walk(m, l->shards, &wish, rondo__load_count, l);
    if (!err)
        err = check_spare_head(l, m);
    if (!err)
        err = rondo__weights_walk(m, l->shards, &wish, rondo__load_weight, l);
    if (!err)
        rondo__shards_report_unused(l->shards);
    if (!err)
        err = rondo__shards_hash(l->shards, &m->files);
    m->weight_bytes = l->held;
    return err;
}

static int count_held(void *load, const struct rondo_weight *w)
{
    struct rondo_load *l = load;
    l->held += rondo__weights_bytes(w, l->desc->group);
    return 0;
}

/* What headers say: all tensors are there and fit the configuration, and none is read. */
static int describe(struct rondo_load *l, rondo_model *m)
{
    const struct rondo_weights_wish wish = { l->desc->weights, !RONDO_HAS(rondo__ops(l->ctx), linear_read) };
    int err = rondo__weights_walk(m, l->shards, &wish, count_held, l);
    (void)rondo__weights_spare_head(m, l->shards);   /* known, if not compared */
    if (!err)
        rondo__shards_report_unused(l->shards);
    m->weight_bytes = l->held;
    return err;
}

static uint64_t word_of(double x)
{
    uint64_t w;
    memcpy(&w, &x, sizeof w);
    return w;
}

/* The same for all parts of a model, dealt out in one way. */
static uint64_t fingerprint(const rondo_model *m, const rondo_model_desc *d)
{
    const struct rondo_config *c = &m->config;
    const struct rondo_split *s = &m->split;
    const size_t parts = (size_t)s->tp * (size_t)s->cp;
    const struct rondo_rope_config *r = &c->rope;
    const uint64_t words[] = {
        (uint64_t)c->family, (uint64_t)c->layers, (uint64_t)c->hidden, (uint64_t)c->intermediate, (uint64_t)c->heads,
        (uint64_t)c->kv_heads, (uint64_t)c->head_dim, (uint64_t)c->vocabulary, (uint64_t)c->window, word_of(c->rms_eps), c->tied,
        c->qkv_bias, c->o_bias, c->mlp_bias, c->qk_norm, c->no_rope, (uint64_t)c->conv_taps, (uint64_t)c->kda_heads, (uint64_t)c->kda_dim,
        (uint64_t)r->kind, (uint64_t)r->dim, word_of(r->theta), word_of(r->factor),
        (uint64_t)r->original_max_positions, word_of(r->low_freq_factor), word_of(r->high_freq_factor), word_of(r->beta_fast),
        word_of(r->beta_slow), word_of(r->attention_factor), r->truncate, (uint64_t)m->embedding_type, m->parameters,
        m->tokenizer ? (uint64_t)rondo_tokenizer_size(m->tokenizer) : 0, (uint64_t)d->weights, (uint64_t)d->group, (uint64_t)d->level,
    };
    uint64_t h = 0x6d6f64656cu;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        h = rondo__hash_word(h, words[i]);
    h = rondo__lm_hash(h, c->eos, (size_t)c->eos_count * sizeof *c->eos);
    h = rondo__lm_hash(h, c->kda, ((size_t)c->layers + 7) / 8);
    h = rondo__lm_hash(h, s->kda_begin, (parts + 1) * sizeof *s->kda_begin);
    h = rondo__lm_hash(h, s->o_begin, (parts + 1) * sizeof *s->o_begin);
    h = rondo__lm_hash(h, s->down_begin, (parts + 1) * sizeof *s->down_begin);
    return rondo__lm_hash(h, s->weights, s->weights ? parts * sizeof *s->weights : 0);
}

static int check_rank(const char *kind, int32_t rank, int32_t *ranks)
{
    if (*ranks < 0 || rank < 0 || rank >= (*ranks ? *ranks : 1))
        return rondo__fail(RONDO_EINVAL, "rondo_model_open: %s_rank %d of %s_ranks %d cannot be; ranks count from 0", kind, (int)rank, kind,
                           (int)*ranks);
    *ranks = *ranks ? *ranks : 1;
    return 0;
}

/* Fills in what 0 stands for, but for weights. */
static int check_desc(rondo_model_desc *d)
{
    int err = check_rank("tp", d->tp_rank, &d->tp_ranks);
    if (!err)
        err = check_rank("cp", d->cp_rank, &d->cp_ranks);
    if (err)
        return err;
    if (d->cp_ranks > RONDO_MODEL_RANKS_MAX / d->tp_ranks)
        return rondo__fail(RONDO_EINVAL, "rondo_model_open: %d x %d ranks cannot share a model; at most %d can", (int)d->tp_ranks, (int)d->cp_ranks,
                           RONDO_MODEL_RANKS_MAX);
    if (d->threads < 0)
        return rondo__fail(RONDO_EINVAL, "rondo_model_open: threads is %d; 0 means those of the context", (int)d->threads);
    if (d->weights && !rondo_type_size(d->weights))
        return rondo__fail(RONDO_EINVAL, "rondo_model_open: weights is %d, which is no type; RONDO_F32, RONDO_BF16, RONDO_F16 and RONDO_Q8 are known, "
                           "0 means as stored", (int)d->weights);
    if (d->no_weights < 0 || d->no_weights > 2)
        return rondo__fail(RONDO_EINVAL, "rondo_model_open: no_weights is %d; it is 0 to 2", (int)d->no_weights);
    if (d->group < 0 || (d->group && d->weights != RONDO_Q8))
        return rondo__fail(RONDO_EINVAL, "rondo_model_open: group is %d; it is how many inputs share a scale with RONDO_Q8, 0 means 32, and there "
                           "are none otherwise", (int)d->group);
    return 0;
}

/* Ranks find ends of texts in what they decode, so all must decode alike. */
static int open_tokenizer(rondo_model *m, const char *dir)
{
    int err = rondo_tokenizer_open(&m->tokenizer, dir);
    char *path = err ? NULL : rondo__path_join(dir, "tokenizer.json");
    if (!err)
        err = path ? rondo__file_hash(&m->files, path) : rondo__fail(RONDO_ENOMEM, "rondo_model_open: no memory for the name of a file");
    rondo__free(path);
    return err;
}

int rondo_model_open(rondo_model **out, rondo_context *ctx, const char *dir, const rondo_model_desc *desc)
{
    rondo_model_desc d = RONDO_MODEL_DESC_INIT;
    if (out)
        *out = NULL;
    if (!out || !ctx || !dir)
        return rondo__fail(RONDO_EINVAL, "rondo_model_open: %s is NULL", !out ? "out" : !ctx ? "the context" : "the folder's name");
    int err = desc ? rondo__desc_copy(&d, sizeof d, desc, "rondo_model_desc") : 0;
    if (!err)
        err = check_desc(&d);
    if (err)
        return err;

    struct rondo_load l = { .ctx = ctx, .desc = &d };
    rondo_model *m = rondo__alloc_zero(1, sizeof *m);
    if (!m)
        return rondo__fail(RONDO_ENOMEM, "rondo_model_open: no memory for a model");
    err = rondo__config_read(&m->config, dir);
    if (!err)
        err = rondo__split_make(&m->split, &m->config, d.tp_ranks, d.tp_rank, d.cp_ranks, d.cp_rank, d.shares);
    if (!err && !(m->layers = rondo__alloc_zero((size_t)m->config.layers, sizeof *m->layers)))
        err = rondo__fail(RONDO_ENOMEM, "rondo_model_open: no memory for %lld layers", (long long)m->config.layers);
    if (!err && !d.no_tokenizer)
        err = open_tokenizer(m, dir);
    if (!err && m->tokenizer && rondo_tokenizer_size(m->tokenizer) > m->config.vocabulary)
        rondo__log(RONDO_LOG_WARNING, "%s: the tokenizer knows %d ids, the model only %lld", dir, rondo_tokenizer_size(m->tokenizer),
                   (long long)m->config.vocabulary);
    m->described = d.no_weights != 0;
    if (!err && d.no_weights < 2)
        err = rondo__shards_open(&l.shards, dir);
    if (!err && d.no_weights < 2)
        err = d.no_weights ? describe(&l, m) : load_all(&l, m);
    rondo__load_end(&l);
    rondo__shards_close(l.shards);
    if (err) {
        rondo_model_close(m);
        return err;
    }
    m->fingerprint = fingerprint(m, &d);
    *out = m;
    return 0;
}

void rondo_model_close(rondo_model *model)
{
    if (!model)
        return;
    for (int64_t i = 0; model->layers && i < model->config.layers; i++) {
        struct rondo_layer *y = &model->layers[i];
        const struct rondo_kda_layer *z = &y->kda;
        rondo_linear *const linears[] = { y->q, y->k, y->v, y->o, y->gate, y->up, y->down, z->q, z->k, z->v, z->beta, z->f_a, z->f_b, z->g_a, z->g_b,
                                          z->o };
        float *const vectors[] = { y->attention_norm, y->mlp_norm, y->q_bias, y->k_bias, y->v_bias, y->o_bias, y->gate_bias, y->up_bias,
                                   y->down_bias, y->q_norm, y->k_norm, z->conv[0], z->conv[1], z->conv[2], z->a_log, z->dt_bias, z->norm };
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
    i.biases = (c->qkv_bias ? RONDO_COST_Q | RONDO_COST_K | RONDO_COST_V : 0) | (c->o_bias ? RONDO_COST_O : 0) |
               (c->mlp_bias ? RONDO_COST_GATE | RONDO_COST_UP | RONDO_COST_DOWN : 0);
    i.qk_norm = c->qk_norm;
    i.no_rope = c->no_rope;
    i.kda_layers = c->kda_layers;
    i.kda_heads = c->kda_heads;
    i.kda_head_dim = c->kda_dim;
    i.conv_taps = c->conv_taps;
    return rondo__info_copy(info, &i, sizeof i, "rondo_model_info");
}

const rondo_tokenizer *rondo_model_tokenizer(const rondo_model *model)
{
    return model ? model->tokenizer : NULL;
}
