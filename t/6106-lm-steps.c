/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The forward pass bit for bit against the same steps made one by one with the public functions: this pins the order of the
 * steps and the leaves of every sum (rule 11 of rondo-numerics(7)), which no tolerance would notice.
 */
#include "core/internal.h"
#include "lm/model/rope.h"
#include "lm_kit.h"

#define TOKENS 200

struct by_hand {
    const struct kit_model *model;
    const int32_t *tokens;
    float *logits;
};

static void floats(const struct kit_model *m, int layer, const char *name, float *to, int64_t count)
{
    const double *values = kit_values(m, layer, name);
    for (int64_t i = 0; i < count; i++)
        to[i] = (float)values[i];
}

/* y = x W^T, with so many leaves; added to y where `add`. */
static int product(rondo_context *ctx, const struct kit_model *m, int layer, const char *name, int64_t in, int64_t out, int leaves,
                   const float *x, float *y, int add)
{
    rondo_linear *linear = NULL;
    rondo_linear_desc d = RONDO_LINEAR_DESC_INIT;
    float *weights = malloc((size_t)(in * out) * sizeof *weights);
    if (!weights)
        scratch_die("no memory");
    d.in = in;
    d.out = out;
    d.type = RONDO_F32;
    d.leaves = leaves;
    floats(m, layer, name, weights, in * out);
    int err = rondo_linear_create(&linear, ctx, &d);
    if (!err)
        err = rondo_linear_load(linear, 0, out, weights);
    if (!err)
        err = rondo_linear_execute(linear, ctx, TOKENS, x, in, y, out, NULL, add);
    rondo_linear_destroy(linear);
    free(weights);
    return err;
}

static int normed(rondo_context *ctx, const struct kit_model *m, int layer, const char *name, const float *x, float *y)
{
    float weight[256];
    floats(m, layer, name, weight, m->config.hidden);
    return rondo_rmsnorm(ctx, TOKENS, m->config.hidden, x, weight, 1e-5f, y);
}

static int attend(rondo_context *ctx, const struct kit_config *c, float *q, float *k, float *v)
{
    rondo_attention *plan = NULL;
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    d.heads = c->heads;
    d.kv_heads = c->kv_heads;
    d.head_dim = c->head_dim;
    d.tokens = TOKENS;
    d.causal = 1;
    const int64_t q_shape[] = { TOKENS, c->heads, c->head_dim }, kv_shape[] = { TOKENS, c->kv_heads, c->head_dim };
    rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
    io.q = io.out = rondo_tensor_dense(q, RONDO_F32, 3, q_shape);
    io.k = rondo_tensor_dense(k, RONDO_F32, 3, kv_shape);
    io.v = rondo_tensor_dense(v, RONDO_F32, 3, kv_shape);
    int err = rondo_attention_create(&plan, ctx, &d);
    if (!err)
        err = rondo_attention_execute(plan, &io, NULL);
    rondo_attention_destroy(plan);
    return err;
}

static int body(rondo_context *ctx, void *arg)
{
    struct by_hand *job = arg;
    const struct kit_model *m = job->model;
    const struct kit_config *c = &m->config;
    const int hd = c->hidden, qw = c->heads * c->head_dim, kw = c->kv_heads * c->head_dim, ff = c->intermediate;
    const struct rondo_rope_config rope = { .kind = RONDO_ROPE_DEFAULT, .dim = c->head_dim, .theta = c->theta, .factor = 1.0, .attention_factor = 1.0 };
    float *all = calloc((size_t)TOKENS * (size_t)(2 * hd + qw + 2 * kw + 2 * ff + c->head_dim), sizeof *all), inv_freq[64];
    if (!all)
        scratch_die("no memory");
    float *x = all, *h = x + TOKENS * hd, *q = h + TOKENS * hd, *k = q + TOKENS * qw, *v = k + TOKENS * kw, *gate = v + TOKENS * kw;
    float *up = gate + TOKENS * ff, *table = up + TOKENS * ff;
    for (int t = 0; t < TOKENS; t++)
        for (int i = 0; i < hd; i++)
            x[t * hd + i] = (float)kit_values(m, -1, "model.embed_tokens.weight")[job->tokens[t] * hd + i];
    rondo__rope_frequencies(&rope, TOKENS, inv_freq);
    rondo__rope_table(&rope, inv_freq, 0, 1, TOKENS, table);
    int err = 0;
    for (int y = 0; y < c->layers && !err; y++) {
        err |= normed(ctx, m, y, "input_layernorm.weight", x, h);
        err |= product(ctx, m, y, "self_attn.q_proj.weight", hd, qw, 0, h, q, 0);
        err |= product(ctx, m, y, "self_attn.k_proj.weight", hd, kw, 0, h, k, 0);
        err |= product(ctx, m, y, "self_attn.v_proj.weight", hd, kw, 0, h, v, 0);
        err |= rondo_rope(ctx, TOKENS, c->heads, c->head_dim, q, qw, c->head_dim, table);
        err |= rondo_rope(ctx, TOKENS, c->kv_heads, c->head_dim, k, kw, c->head_dim, table);
        err |= attend(ctx, c, q, k, v);
        err |= product(ctx, m, y, "self_attn.o_proj.weight", qw, hd, c->heads, q, x, 1);
        err |= normed(ctx, m, y, "post_attention_layernorm.weight", x, h);
        err |= product(ctx, m, y, "mlp.gate_proj.weight", hd, ff, 0, h, gate, 0);
        err |= product(ctx, m, y, "mlp.up_proj.weight", hd, ff, 0, h, up, 0);
        err |= rondo_swiglu(ctx, (int64_t)TOKENS * ff, gate, up, gate);
        err |= product(ctx, m, y, "mlp.down_proj.weight", ff, hd, 16, gate, x, 1);
    }
    err |= normed(ctx, m, -1, "model.norm.weight", x, h);
    err |= product(ctx, m, -1, "lm_head.weight", hd, c->vocabulary, 0, h, job->logits, 0);
    free(all);
    return err;
}

int main(void)
{
    scratch_make("lm-steps");
    struct kit_config c = kit_defaults("llama");
    struct kit_model *m = kit_folder(&c, 41);
    rondo_model *model = kit_open(scratch_dir);
    int32_t tokens[TOKENS];
    const size_t size = (size_t)TOKENS * (size_t)c.vocabulary;
    float *want = calloc(size, sizeof *want), *got = calloc(size, sizeof *got);
    if (!want || !got)
        scratch_die("no memory");
    kit_tokens(tokens, TOKENS, c.vocabulary, 6);
    struct by_hand job = { m, tokens, want };
    is_int(rondo_run_threads(1, body, &job), 0, "the steps one by one");
    struct kit_score s = { .model = model, .desc = RONDO_LM_DESC_INIT, .tokens = tokens, .count = TOKENS, .logits = got, .vocabulary = c.vocabulary };
    ok(model && !kit_run_score(&s, 2), "a score on two ranks");
    size_t differ = 0;
    for (size_t i = 0; i < size; i++)
        differ += memcmp(&want[i], &got[i], sizeof *got) != 0;
    is_int((long long)differ, 0, "logits that differ in any bit");
    uint64_t hash = 0;
    const int64_t shape[] = { TOKENS, c.vocabulary };
    rondo_hash_add(&hash, want, sizeof *want, 0, (int64_t)size);
    ok(rondo_hash_close(hash, RONDO_ARITHMETIC_F32, 128, shape, 2) == s.scores[0].hash, "the hash is over the logits in their order");
    double sum = 0.0;
    rondo_context *ctx = NULL;
    double *lse = calloc(TOKENS, sizeof *lse);
    int err = rondo_context_create(&ctx, NULL);
    if (!err && lse)
        err = rondo_logsumexp(ctx, TOKENS, c.vocabulary, want, c.vocabulary, lse);
    for (int t = 0; t + 1 < TOKENS && lse; t++)
        sum += lse[t] - (double)want[t * c.vocabulary + tokens[t + 1]];
    ok(!err && sum / (TOKENS - 1) == s.scores[0].nll, "the likelihood is their sum in order");
    rondo_context_destroy(ctx);
    free(lse);
    free(want);
    free(got);
    rondo_model_close(model);
    kit_free(m);
    scratch_remove();
    return done();
}
