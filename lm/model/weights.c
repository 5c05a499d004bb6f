/* SPDX-License-Identifier: BSD-2-Clause
 *
 * weights.h: names and shapes are those that Hugging Face's classes of these families write. Column-parallel layers (q, k, v, gate, up, the
 * head) give a rank some rows of the file's matrix, row-parallel ones (o, down) some columns of every row; split.h says which.
 */
#include "lm/model/weights.h"

#include <stdio.h>
#include <stdlib.h>

#include "core/internal.h"
#include "lm/files.h"

/* Inputs that share a scale in memory at least, where the file has more. */
#define LEAST_GROUP 16

struct walk {
    struct rondo_model *m;
    struct rondo_shards *shards;
    const struct rondo_weights_wish *wish;
    int (*visit)(void *arg, const struct rondo_weight *weight);
    void *arg;
    uint64_t parameters;
};

static const char *layer_name(char *buffer, size_t size, int64_t layer, const char *rest)
{
    snprintf(buffer, size, "model.layers.%lld.%s", (long long)layer, rest);
    return buffer;
}

/* Numbers in so many dimensions, which become a vector, of which this rank has some. */
static int numbers(struct walk *k, const char *name, int dims, const int64_t *shape, int64_t first, int64_t rows, float **to)
{
    struct rondo_weight w = { .kind = RONDO_WEIGHT_VECTOR, .type = RONDO_F32, .out = 1, .in = 1, .first = first, .rows = rows, .columns = 1,
                              .to = to };
    int err = rondo__shards_need(k->shards, name, dims, shape, false, &w.array);
    for (int i = 0; i < dims; i++)
        w.out *= shape[i];
    k->parameters += (uint64_t)w.out;
    return err || !rows ? err : k->visit(k->arg, &w);
}

static int vector(struct walk *k, const char *name, int64_t count, int64_t first, int64_t rows, float **to)
{
    return numbers(k, name, 1, &count, first, rows, to);
}

static int64_t common(int64_t a, int64_t b)
{
    while (b) {
        const int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* The scales of a matrix of I8. In memory groups are counted from each leaf's first input (rondo-numerics(7)), in the file from the row's: one
 * that lies in both is as long as the greatest number that divides the file's and where leaves begin; a scale for the whole row serves
 * groups of any length. Where that would be nearly as many scales as numbers the matrix is refused. */
static int quantised(struct walk *k, const char *name, struct rondo_weight *w)
{
    char full[160], shown[RONDO_SHOW_BYTES];
    const size_t n = strlen(name) - strlen("weight");
    snprintf(full, sizeof full, "%.*sweight_scale", (int)n, name);
    const rondo_array *a = rondo__shards_find(k->shards, full);
    const int64_t groups = a && a->dims == 2 ? a->shape[1] : 1;
    const int64_t shape[2] = { w->out, groups };
    if (a && (groups < 1 || w->in % groups))
        return rondo__fail(RONDO_EFORMAT, "tensor \"%s\" has %lld scales for %lld inputs; their number must divide that of the inputs",
                           rondo__show(shown, full), (long long)groups, (long long)w->in);
    int err = rondo__shards_need(k->shards, full, a && a->dims == 1 ? 1 : 2, shape, false, &w->scales);
    if (err)
        return err;
    w->scale_inputs = w->in / groups;
    if (!w->leaves)
        w->leaves = rondo__linear_leaves(w->in);
    int64_t group = groups > 1 ? w->scale_inputs : w->in;
    for (int64_t i = 1; groups > 1 && i < w->leaves; i++)
        group = common(group, rondo__linear_leaf_begin(w->in, w->leaves, i));
    if (group < LEAST_GROUP && group < w->scale_inputs)
        return rondo__fail(RONDO_ENOTSUP, "tensor \"%s\" has a scale for %lld inputs, but the layer's sum is cut into %d leaves, which begin inside of "
                           "these; groups that leaves cut into pieces of %d or more are supported", rondo__show(shown, full),
                           (long long)w->scale_inputs, (int)w->leaves, LEAST_GROUP);
    const bool stays = !k->wish->type || k->wish->type == RONDO_Q8;
    if (stays && group % 2 && group * w->leaves < w->in)   /* it ends inside of a leaf */
        return rondo__fail(RONDO_ENOTSUP, "tensor \"%s\" has a scale for %lld inputs; weights of 8 bits are held in pairs, so that even numbers of inputs "
                           "are supported, or any where weights are held in another type", rondo__show(shown, full), (long long)w->scale_inputs);
    w->group = (int32_t)group;
    return 0;
}

/* What the caller has said of a matrix, with what the file says of it. */
static int matrix(struct walk *k, const char *name, struct rondo_weight *w)
{
    const int64_t shape[2] = { w->out, w->in };
    int err = rondo__shards_need(k->shards, name, 2, shape, k->m->config.int8 && w->kind == RONDO_WEIGHT_LINEAR && !w->table, &w->array);
    if (!err && w->array->type == RONDO_ARRAY_I8)
        err = quantised(k, name, w);
    if (err)
        return err;
    if (w->kind == RONDO_WEIGHT_TABLE)
        w->type = rondo__weights_table_type(k->wish->type, w->array->type);
    else
        w->type = k->wish->type ? k->wish->type : w->scales ? RONDO_Q8 : w->array->type;
    k->parameters += (uint64_t)w->out * (uint64_t)w->in;
    return !w->rows ? 0 : k->visit(k->arg, w);
}

/* One projection and its bias, of which this rank has rows [first, first + rows). A bias in the file that the configuration does not know
 * would change the answer silently. */
static int projection(struct walk *k, int64_t layer, const char *what, struct rondo_weight w, bool biased, float **bias)
{
    char name[128], rest[64];
    w.kind = RONDO_WEIGHT_LINEAR;
    snprintf(rest, sizeof rest, "%s.weight", what);
    int err = matrix(k, layer_name(name, sizeof name, layer, rest), &w);
    if (err)
        return err;
    snprintf(rest, sizeof rest, "%s.bias", what);
    layer_name(name, sizeof name, layer, rest);
    if (biased)
        return vector(k, name, w.out, w.first, w.rows, bias);
    if (rondo__shards_find(k->shards, name))
        return rondo__fail(RONDO_EFORMAT, "the model has a tensor %s, but its config.json says that there are no such biases", name);
    return 0;
}

/* By outputs: rows [first, first + rows) of the matrix. */
static struct rondo_weight by_rows(int64_t out, int64_t in, int64_t first, int64_t rows, rondo_linear **to)
{
    return (struct rondo_weight){ .out = out, .in = in, .first = first, .rows = rows, .columns = in, .to = to };
}

/* By inputs: the leaves of this rank. */
static struct rondo_weight by_leaves(const struct rondo_split *s, int64_t out, int64_t in, const int32_t *begin, rondo_linear **to)
{
    const int32_t parts = s->tp * s->cp, part = s->t * s->cp + s->c, leaves = begin[parts];
    struct rondo_weight w = by_rows(out, in, 0, out, to);
    w.leaves = leaves;
    if (parts == 1)
        return w;
    w.parts = parts;
    w.part = part;
    w.leaf_begin = begin;
    w.column = rondo__linear_leaf_begin(in, leaves, begin[part]);
    w.columns = rondo__linear_leaf_begin(in, leaves, begin[part + 1]) - w.column;
    return w;
}

/* Published models have it as [1, 1, heads, 1], others as [heads]. */
static int decay(struct walk *k, int64_t i, struct rondo_kda_layer *y)
{
    const struct rondo_config *c = &k->m->config;
    const struct rondo_split *s = &k->m->split;
    const int64_t four[4] = { 1, 1, c->kda_heads, 1 };
    char name[128];
    layer_name(name, sizeof name, i, "self_attn.A_log");
    const rondo_array *a = rondo__shards_find(k->shards, name);
    const bool one = a && a->dims == 1;
    return numbers(k, name, one ? 1 : 4, one ? &c->kda_heads : four, s->kda_head, s->kda_heads, &y->a_log);
}

/* A layer of Kimi Delta Attention but its norm and its MLP. Where this rank has no heads it has nothing of it. */
static int linear_attention(struct walk *k, int64_t i)
{
    const struct rondo_config *c = &k->m->config;
    const struct rondo_split *s = &k->m->split;
    struct rondo_kda_layer *y = &k->m->layers[i].kda;
    const int64_t hidden = c->hidden, dim = c->kda_dim, width = c->kda_heads * dim, first = s->kda_head * dim, own = s->kda_heads * dim;
    const int64_t low = own ? dim : 0, taps = c->conv_taps, shape[3] = { width, 1, taps };
    static const char *const convolutions[] = { "self_attn.q_conv1d.weight", "self_attn.k_conv1d.weight", "self_attn.v_conv1d.weight" };
    const struct {
        const char *name;
        struct rondo_weight w;
    } layers[] = {
        { "self_attn.q_proj", by_rows(width, hidden, first, own, &y->q) }, { "self_attn.k_proj", by_rows(width, hidden, first, own, &y->k) },
        { "self_attn.v_proj", by_rows(width, hidden, first, own, &y->v) },
        { "self_attn.b_proj", by_rows(c->kda_heads, hidden, s->kda_head, s->kda_heads, &y->beta) },
        { "self_attn.f_a_proj", by_rows(dim, hidden, 0, low, &y->f_a) }, { "self_attn.f_b_proj", by_rows(width, dim, first, own, &y->f_b) },
        { "self_attn.g_a_proj", by_rows(dim, hidden, 0, low, &y->g_a) }, { "self_attn.g_b_proj", by_rows(width, dim, first, own, &y->g_b) },
        { "self_attn.o_proj", by_leaves(s, hidden, width, s->kda_begin, &y->o) },
    };
    char name[128];
    int err = 0;
    for (size_t n = 0; n < sizeof layers / sizeof *layers && !err; n++)
        err = projection(k, i, layers[n].name, layers[n].w, false, NULL);
    for (int n = 0; n < 3 && !err; n++)
        err = numbers(k, layer_name(name, sizeof name, i, convolutions[n]), 3, shape, first * taps, own * taps, &y->conv[n]);
    if (!err)
        err = decay(k, i, y);
    if (!err)
        err = vector(k, layer_name(name, sizeof name, i, "self_attn.dt_bias"), width, first, own, &y->dt_bias);
    return err ? err : vector(k, layer_name(name, sizeof name, i, "self_attn.o_norm.weight"), dim, 0, low, &y->norm);
}

static int attention(struct walk *k, int64_t i)
{
    const struct rondo_config *c = &k->m->config;
    const struct rondo_split *s = &k->m->split;
    struct rondo_layer *y = &k->m->layers[i];
    const int64_t q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim, hidden = c->hidden;
    char name[128];
    int err = projection(k, i, "self_attn.q_proj", by_rows(q, hidden, s->q_first, s->q_columns, &y->q), c->qkv_bias, &y->q_bias);
    if (!err)
        err = projection(k, i, "self_attn.k_proj", by_rows(kv, hidden, s->kv_first, s->kv_columns, &y->k), c->qkv_bias, &y->k_bias);
    if (!err)
        err = projection(k, i, "self_attn.v_proj", by_rows(kv, hidden, s->kv_first, s->kv_columns, &y->v), c->qkv_bias, &y->v_bias);
    if (!err)
        err = projection(k, i, "self_attn.o_proj", by_leaves(s, hidden, q, s->o_begin, &y->o), c->o_bias, &y->o_bias);
    if (!err && c->qk_norm)
        err = vector(k, layer_name(name, sizeof name, i, "self_attn.q_norm.weight"), c->head_dim, 0, c->head_dim, &y->q_norm);
    if (!err && c->qk_norm)
        err = vector(k, layer_name(name, sizeof name, i, "self_attn.k_norm.weight"), c->head_dim, 0, c->head_dim, &y->k_norm);
    return err;
}

static int layer(struct walk *k, int64_t i)
{
    const struct rondo_config *c = &k->m->config;
    const struct rondo_split *s = &k->m->split;
    struct rondo_layer *y = &k->m->layers[i];
    const int64_t mlp = c->intermediate, hidden = c->hidden;
    char name[128];
    int err = vector(k, layer_name(name, sizeof name, i, "input_layernorm.weight"), hidden, 0, hidden, &y->attention_norm);
    if (!err)
        err = vector(k, layer_name(name, sizeof name, i, "post_attention_layernorm.weight"), hidden, 0, hidden, &y->mlp_norm);
    if (!err)
        err = rondo__config_is_kda(c, i) ? linear_attention(k, i) : attention(k, i);
    if (!err)
        err = projection(k, i, "mlp.gate_proj", by_rows(mlp, hidden, s->mlp_first, s->mlp_columns, &y->gate), c->mlp_bias, &y->gate_bias);
    if (!err)
        err = projection(k, i, "mlp.up_proj", by_rows(mlp, hidden, s->mlp_first, s->mlp_columns, &y->up), c->mlp_bias, &y->up_bias);
    if (!err)
        err = projection(k, i, "mlp.down_proj", by_leaves(s, hidden, mlp, s->down_begin, &y->down), c->mlp_bias, &y->down_bias);
    return err;
}

int32_t rondo__weights_table_type(int32_t wish, int32_t stored)
{
    return wish == RONDO_BF16 || wish == RONDO_F16 ? wish : stored;
}

uint64_t rondo__weights_bytes(const struct rondo_weight *w, int32_t group)
{
    const uint64_t numbers = (uint64_t)w->rows * (uint64_t)w->columns;
    if (w->type != RONDO_Q8)
        return numbers * rondo_type_size(w->type);
    const int32_t leaves = w->leaves ? w->leaves : rondo__linear_leaves(w->in), shared = w->group ? w->group : group ? group : RONDO_LINEAR_GROUP;
    const int32_t first = w->parts ? w->leaf_begin[w->part] : 0, end = w->parts ? w->leaf_begin[w->part + 1] : leaves;
    return numbers + (uint64_t)w->rows * (uint64_t)rondo__linear_groups(w->in, leaves, shared, first, end) * sizeof(float);
}

/* The embedding; where it is tied to the head, one matrix under either name: some exporters keep the other one. */
static const char *embedding_name(const struct rondo_model *m, struct rondo_shards *shards, bool *spare)
{
    const bool first = rondo__shards_find(shards, "model.embed_tokens.weight"), head = m->config.tied && rondo__shards_find(shards, "lm_head.weight");
    *spare = first && head;
    return !first && head ? "lm_head.weight" : "model.embed_tokens.weight";
}

const rondo_array *rondo__weights_spare_head(const struct rondo_model *m, struct rondo_shards *shards)
{
    bool spare;
    (void)embedding_name(m, shards, &spare);
    return spare ? rondo__shards_find(shards, "lm_head.weight") : NULL;
}

/* Embedding and head. A tied one is looked up in the packed head, unless that is held in numbers that no embedding has, or the device cannot. */
static int ends(struct walk *k)
{
    struct rondo_model *m = k->m;
    const struct rondo_split *s = &m->split;
    bool spare;
    const char *embedding = embedding_name(m, k->shards, &spare);
    struct rondo_weight w = by_rows(m->config.vocabulary, m->config.hidden, s->vocab_first, s->vocab, NULL);
    const bool table = !m->config.tied || k->wish->table || k->wish->type == RONDO_Q8;
    int err = 0;
    if (table) {
        w.kind = RONDO_WEIGHT_TABLE;
        w.to = &m->embedding;
        err = matrix(k, embedding, &w);
        m->embedding_type = w.type;
    }
    w.kind = RONDO_WEIGHT_LINEAR;
    w.table = m->config.tied;
    w.to = &m->head;
    if (!err)
        err = matrix(k, m->config.tied ? embedding : "lm_head.weight", &w);
    if (!table)
        m->embedding_type = w.type;
    else if (m->config.tied)        /* the same numbers once more */
        k->parameters -= (uint64_t)w.out * (uint64_t)w.in;
    return err;
}

/* What a layer has besides takes part in the computation of whoever trained it: leaving it out would give another model. */
static int check_layers(const struct walk *k)
{
    const struct rondo_config *c = &k->m->config;
    static const char prefix[] = "model.layers.";
    char shown[RONDO_SHOW_BYTES];
    const char *name = rondo__shards_unused(k->shards, prefix);
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

int rondo__weights_walk(struct rondo_model *m, struct rondo_shards *shards, const struct rondo_weights_wish *wish,
                        int (*visit)(void *arg, const struct rondo_weight *weight), void *arg)
{
    struct walk k = { m, shards, wish, visit, arg, 0 };
    int err = ends(&k);
    for (int64_t i = 0; i < m->config.layers && !err; i++)
        err = layer(&k, i);
    if (!err)
        err = vector(&k, "model.norm.weight", m->config.hidden, 0, m->config.hidden, &m->norm);
    m->parameters = k.parameters;
    return err ? err : check_layers(&k);
}
