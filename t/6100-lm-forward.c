/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The forward pass against a plain fp64 program, for every kind of configuration: families, tied heads, biases, norms of heads, windows, head
 * sizes, storage types and all kinds of rope, on one rank and on three.
 *
 * Bound: values are of order 1 to 10; a logit is a chain of a dozen sums of at most 300 terms in float, each with a relative
 * error of at most 300 * 2^-24 and in practice its root. 2e-4 absolute is far above what was seen (5e-6) and far below what any mistake
 * in a formula makes (1e-2 and more). The likelihood is a mean, so its bound is a tenth.
 */
#include "lm_kit.h"

#define TOKENS 300
#define BOUND 2e-4

static void one(struct kit_config c, uint64_t seed)
{
    struct kit_model *m = kit_folder(&c, seed);
    rondo_model *model = kit_open(scratch_dir);
    if (!ok(model != NULL, "%s: opens", c.name)) {
        kit_free(m);
        return;
    }
    int32_t tokens[TOKENS];
    size_t size = (size_t)TOKENS * (size_t)c.vocabulary;
    double *want = malloc(size * sizeof *want);
    float *got = malloc(size * sizeof *got);
    if (!want || !got)
        scratch_die("no memory");
    kit_tokens(tokens, TOKENS, c.vocabulary, seed);
    kit_oracle(m, tokens, TOKENS, TOKENS, want);
    uint64_t hash = 0;
    for (int ranks = 1; ranks <= 3; ranks += 2) {
        struct kit_score s = { .model = model, .desc = RONDO_LM_DESC_INIT, .tokens = tokens, .count = TOKENS, .logits = got,
                               .vocabulary = c.vocabulary };
        memset(got, 0, size * sizeof *got);
        int err = kit_run_score(&s, ranks);
        double worst = 0.0;
        for (size_t i = 0; i < size; i++)
            worst = worse(worst, fabs((double)got[i] - want[i]));
        double nll = kit_nll(want, tokens, TOKENS, c.vocabulary);
        diag("%s, %d ranks: largest error %.2g, nll off by %.2g of %.3f", c.name, ranks, worst, fabs(nll - s.scores[0].nll), nll);
        ok(!err && worst <= BOUND && fabs(nll - s.scores[0].nll) <= BOUND / 10, "%s: logits and likelihood on %d ranks", c.name, ranks);
        ok(s.rows == TOKENS && s.disorder == 0, "%s: rank 0 is shown every row in order", c.name);
        if (ranks == 1)
            hash = s.scores[0].hash;
        else
            ok(hash == s.scores[0].hash, "%s: the same bits", c.name);
    }
    free(want);
    free(got);
    rondo_model_close(model);
    kit_free(m);
}

/* Narrower caches and weights: a number is off by a 512th (BF16), a 4096th (F16), a 254th of the largest of its row or group (Q8), and logits,
 * which are sums of such things over two layers, by little more. A bound each: above what was seen, far below what keys in the place of values
 * or another group's scale make, and no type may be another one. */
static void narrow(void)
{
    static const double most[2][5] = { { 0, BOUND, 0.2, 0.03, 0.4 }, { 0, BOUND, 0.15, 0.02, 0.25 } };
    struct kit_config c = kit_defaults("llama");
    struct kit_model *m = kit_folder(&c, 18);
    static int32_t tokens[TOKENS];
    const size_t size = (size_t)TOKENS * (size_t)c.vocabulary;
    double *want = malloc(size * sizeof *want);
    float *got = malloc(size * sizeof *got);
    if (!want || !got)
        scratch_die("no memory");
    kit_tokens(tokens, TOKENS, c.vocabulary, 18);
    kit_oracle(m, tokens, TOKENS, TOKENS, want);
    for (int cache = 0; cache < 2; cache++)
        for (int type = RONDO_F32; type <= RONDO_Q8; type++) {
            struct kit_parts parts;
            rondo_model_desc like = RONDO_MODEL_DESC_INIT;
            struct kit_score s = { .parts = &parts, .desc = RONDO_LM_DESC_INIT, .tokens = tokens, .count = TOKENS, .logits = got,
                                   .vocabulary = c.vocabulary };
            double worst = 0.0;
            like.weights = cache ? 0 : type;
            s.desc.kv_type = cache ? type : 0;
            int err = kit_open_parts(&parts, scratch_dir, 1, 1, 0, &like);
            err = err ? err : kit_run_score(&s, 1);
            for (size_t i = 0; i < size; i++)
                worst = worse(worst, fabs((double)got[i] - want[i]));
            ok(!err && worst <= most[cache][type] && (type == RONDO_F32 || worst > BOUND), "%s of %s: logits are off by %.2g at most",
               cache ? "a cache" : "weights", rondo_type_name(type), worst);
            kit_close_parts(&parts);
        }
    free(want);
    free(got);
    kit_free(m);
}

int main(void)
{
    scratch_make("lm-forward");
    narrow();
    struct kit_config c = kit_defaults("llama");
    one(c, 1);
    c = kit_defaults("mistral with a window of 37, bf16");
    c.mistral = 1;
    c.window = 37;
    c.type = RONDO_BF16;
    one(c, 2);
    c = kit_defaults("mistral without window, f16, new style");
    c.mistral = c.new_style = 1;
    c.type = RONDO_F16;
    one(c, 3);
    c = kit_defaults("tied, biases everywhere");
    c.tied = c.attention_bias = c.mlp_bias = 1;
    one(c, 4);
    c = kit_defaults("one KV head, head size hidden / heads");
    c.kv_heads = 1;
    c.head_dim = 12;
    c.hidden = 48;
    one(c, 5);
    c = kit_defaults("a rotary part of one half");
    c.partial = 0.5;
    one(c, 6);
    c.name = "a rotary part of one quarter, new style, linear";
    c.partial = 0.25;
    c.new_style = 1;
    c.rope = KIT_LINEAR;
    c.factor = 2.0;
    one(c, 13);
    c = kit_defaults("rope linear");
    c.rope = KIT_LINEAR;
    c.factor = 4.0;
    one(c, 7);
    c = kit_defaults("rope dynamic");
    c.rope = KIT_DYNAMIC;
    c.factor = 2.0;
    c.new_style = 1;
    one(c, 8);
    c = kit_defaults("rope llama3");
    c.rope = KIT_LLAMA3;
    c.theta = 500000.0;
    c.factor = 8.0;
    one(c, 9);
    c = kit_defaults("rope yarn");
    c.rope = KIT_YARN;
    c.factor = 4.0;
    c.original = 1024;
    one(c, 10);
    c.name = "rope yarn, attention factor, not truncated";
    c.attention_factor = 1.25;
    c.no_truncate = c.new_style = 1;
    one(c, 11);
    c.name = "rope yarn, mscale";
    c.attention_factor = 0.0;
    c.mscale = 0.8;
    c.mscale_all = 0.4;
    one(c, 12);
    c = kit_defaults("qwen2, a window of 19");
    c.qwen = 2;
    c.window = 19;
    one(c, 14);
    c = kit_defaults("qwen2, tied, new style, bf16, one KV head");
    c.qwen = 2;
    c.tied = c.new_style = c.kv_heads = 1;
    c.type = RONDO_BF16;
    one(c, 15);
    c = kit_defaults("qwen3, three heads of 20");
    c.qwen = c.heads = c.kv_heads = 3;
    c.head_dim = 20;
    one(c, 16);
    c = kit_defaults("qwen3, tied, biases, rope yarn");
    c.qwen = 3;
    c.tied = c.attention_bias = 1;
    c.rope = KIT_YARN;
    c.factor = 4.0;
    c.original = 1024;
    one(c, 17);
    scratch_remove();
    return done();
}
