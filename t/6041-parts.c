/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What a part of a model has in memory is what the files say, in the place that split.h says: every weight of every part is read back and
 * compared with the model that was written, for tensor-parallel, spread and weighted divisions, with ranks that have none of a layer, narrow and wide
 * types, tied heads, and rows of which columns are read one by one or through whole rows. All parts agree on what the model is.
 */
#include "lib/tensor/linear.h"
#include "lm/model/model.h"
#include "lm_kit.h"

static int wrong;

static void check(bool good, const char *what, int64_t at)
{
    if (!good && wrong++ < 10)
        diag("%s at %lld", what, (long long)at);
}

/* A layer's rows [first, +rows) and columns [column, +columns) of the matrix `name` [.., in]. */
static void matrix(const struct kit_model *m, int layer, const char *name, const rondo_linear *l, int64_t first, int64_t rows, int64_t in,
                   int64_t column, int64_t columns)
{
    const double *want = kit_values(m, layer, name);
    const int type = m->config.type;
    const size_t size = rondo_type_size(type);
    if (rows == 0) {
        check(l == NULL, name, -1);
        return;
    }
    check(l && rondo__linear_columns(l) == columns && rondo__linear_desc(l)->out == rows && rondo__linear_desc(l)->in == in, name, -2);
    if (!l || !columns)
        return;
    char *got = malloc((size_t)(rows * columns) * size), *row = malloc((size_t)columns * size);
    if (!got || !row)
        scratch_die("no memory");
    check(!rondo__linear_read(l, 0, rows, got), name, -3);
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t i = 0; i < columns; i++)
            kit_store(row, i, type, want[(first + r) * in + column + i]);
        check(!memcmp(row, got + (size_t)(r * columns) * size, (size_t)columns * size), name, r);
    }
    free(got);
    free(row);
}

static void vector(const struct kit_model *m, int layer, const char *name, const float *got, int64_t first, int64_t count)
{
    const double *want = kit_values(m, layer, name);
    check((got != NULL) == (want != NULL && count > 0), name, -1);
    for (int64_t i = 0; got && want && i < count; i++)
        check(got[i] == (float)want[first + i], name, i);
}

static void part(const struct kit_model *m, const rondo_model *model)
{
    const struct kit_config *c = &m->config;
    const struct rondo_split *s = &model->split;
    const int q = c->heads * c->head_dim, h = c->hidden, mlp = c->intermediate;
    const int w = s->t * s->cp + s->c;
    const int64_t o = (int64_t)s->o_begin[w] * c->head_dim, o_end = (int64_t)s->o_begin[w + 1] * c->head_dim;
    for (int i = 0; i < c->layers; i++) {
        const struct rondo_layer *y = &model->layers[i];
        matrix(m, i, "self_attn.q_proj.weight", y->q, s->q_first, s->q_columns, h, 0, h);
        matrix(m, i, "self_attn.k_proj.weight", y->k, s->kv_first, s->kv_columns, h, 0, h);
        matrix(m, i, "self_attn.v_proj.weight", y->v, s->kv_first, s->kv_columns, h, 0, h);
        matrix(m, i, "self_attn.o_proj.weight", y->o, 0, h, q, o, o_end - o);
        matrix(m, i, "mlp.gate_proj.weight", y->gate, s->mlp_first, s->mlp_columns, h, 0, h);
        matrix(m, i, "mlp.up_proj.weight", y->up, s->mlp_first, s->mlp_columns, h, 0, h);
        matrix(m, i, "mlp.down_proj.weight", y->down, 0, h, mlp, s->mlp_first, s->mlp_columns);
        vector(m, i, "input_layernorm.weight", y->attention_norm, 0, h);
        vector(m, i, "post_attention_layernorm.weight", y->mlp_norm, 0, h);
        vector(m, i, "self_attn.q_proj.bias", y->q_bias, s->q_first, s->q_columns);
        vector(m, i, "self_attn.k_proj.bias", y->k_bias, s->kv_first, s->kv_columns);
        vector(m, i, "self_attn.v_proj.bias", y->v_bias, s->kv_first, s->kv_columns);
        vector(m, i, "self_attn.o_proj.bias", y->o_bias, 0, h);
        vector(m, i, "mlp.gate_proj.bias", y->gate_bias, s->mlp_first, s->mlp_columns);
        vector(m, i, "mlp.up_proj.bias", y->up_bias, s->mlp_first, s->mlp_columns);
        vector(m, i, "mlp.down_proj.bias", y->down_bias, 0, h);
        vector(m, i, "self_attn.q_norm.weight", y->q_norm, 0, c->head_dim);
        vector(m, i, "self_attn.k_norm.weight", y->k_norm, 0, c->head_dim);
    }
    vector(m, -1, "model.norm.weight", model->norm, 0, h);
    const char *embedding = "model.embed_tokens.weight";
    matrix(m, -1, c->tied ? embedding : "lm_head.weight", model->head, s->vocab_first, s->vocab, h, 0, h);
    const double *want = kit_values(m, -1, embedding);
    char got[8192], row[8192];
    for (int64_t id = 0; id < s->vocab; id++) {
        const void *at = NULL;
        const int err = rondo__model_embedding(model, s->vocab_first + id, got, &at);
        for (int k = 0; k < h; k++)
            kit_store(row, k, c->type, want[(s->vocab_first + id) * h + k]);
        check(!err && !memcmp(at, row, (size_t)h * rondo_type_size(c->type)), "a token's row", id);
    }
    const void *none;
    check(rondo__model_embedding(model, s->vocab_first - 1, got, &none) == RONDO_EINVAL &&
          rondo__model_embedding(model, s->vocab_first + s->vocab, got, &none) == RONDO_EINVAL, "tokens of others", 0);
}

struct told {
    uint64_t calls, done, total;
};

static void progress(void *user, uint64_t done, uint64_t total)
{
    struct told *t = user;
    check(done >= t->done && done <= total && (!t->calls || total == t->total), "progress", (int64_t)done);
    t->calls++;
    t->done = done;
    t->total = total;
}

static void one(struct kit_config c, int tp, int cp, const double *shares)
{
    static uint64_t seed = 1;
    rondo_context *ctx = NULL;
    struct kit_model *m = kit_folder(&c, seed++);
    uint64_t fingerprint = 0, bytes = 0, parameters = 0;
    for (int i = 0; i < m->count; i++)
        parameters += (uint64_t)m->tensors[i].count;
    wrong = 0;
    check(!rondo_context_create(&ctx, NULL), "a context", 0);
    for (int w = 0; w < tp * cp; w++) {
        struct told told = { 0, 0, 0 };
        rondo_model *model = NULL;
        rondo_model_desc d = RONDO_MODEL_DESC_INIT;
        rondo_model_info info = RONDO_MODEL_INFO_INIT;
        d.no_tokenizer = 1;
        d.tp_rank = w / cp;
        d.tp_ranks = tp;
        d.cp_rank = w % cp;
        d.cp_ranks = cp;
        d.shares = shares;
        d.progress = progress;
        d.user = &told;
        int err = rondo_model_open(&model, ctx, scratch_dir, &d);
        check(!err, err ? rondo_error_text() : "opens", w);
        if (err)
            break;
        part(m, model);
        check(told.calls && told.done == told.total, "all of it is told", (int64_t)told.done);
        if (w == 0)
            fingerprint = model->fingerprint;
        check(model->fingerprint == fingerprint, "one fingerprint", w);
        check(!rondo_model_query(model, &info) && info.parameters == parameters, "parameters of the whole model", w);
        bytes += info.weight_bytes;
        rondo_model_close(model);
    }
    ok(!wrong, "%s: %d x %d parts%s (%llu bytes together)", c.name, tp, cp, shares ? ", weighted" : "", (unsigned long long)bytes);
    rondo_context_destroy(ctx);
    kit_free(m);
}

int main(void)
{
    static const double shares[3] = { 3, 0, 1.5 };
    scratch_make("parts");
    struct kit_config c = kit_defaults("llama");
    for (int tp = 1; tp <= 5; tp++)
        for (int cp = 1; cp <= 3; cp++)
            one(c, tp, cp, NULL);
    one(c, 19, 1, NULL);
    one(c, 3, 2, shares);
    c.name = "tied, biases, bf16";
    c.tied = c.attention_bias = c.mlp_bias = 1;
    c.type = RONDO_BF16;
    one(c, 3, 1, NULL);
    one(c, 2, 3, NULL);
    one(c, 3, 1, shares);
    c = kit_defaults("qwen3, 5 heads");
    c.qwen = 3;
    c.heads = c.kv_heads = 5;
    c.head_dim = 6;
    one(c, 4, 1, NULL);
    one(c, 2, 2, NULL);
    c = kit_defaults("fewer inputs of down than leaves");
    c.intermediate = 11;
    one(c, 3, 1, NULL);
    c = kit_defaults("rows of which columns are read one by one");
    c.layers = 1;
    c.intermediate = 3000;
    one(c, 2, 1, NULL);
    one(c, 1, 5, NULL);
    scratch_remove();
    return done();
}
