/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What a model is said to take in memory is what its parts then take, up to what devices round up; and the division that is said to fit is one
 * of the fewest ranks that do, which is found here by asking for every division.
 */
#include "lm_kit.h"

static int near(uint64_t want, uint64_t got)
{
    return (double)got >= (double)want * 0.999 && (double)got <= (double)want * 1.06 + 4096.0;
}

static rondo_estimate ask(int tp, int cp, int spread, const rondo_estimate_desc *other)
{
    rondo_estimate_desc d = *other;
    rondo_estimate e = RONDO_ESTIMATE_INIT;
    d.tp_ranks = tp;
    d.cp_ranks = cp;
    d.spread = spread;
    if (rondo_model_estimate(scratch_dir, &d, &e))
        diag("%s", rondo_error_text());
    return e;
}

static void against_parts(const char *name, int tp, int cp, int spread, const double *shares, int weights)
{
    rondo_context *ctx = NULL;
    rondo_estimate_desc d = RONDO_ESTIMATE_DESC_INIT;
    d.shares = shares;
    d.weights = weights;
    const rondo_estimate e = ask(tp, cp, spread, &d);
    uint64_t most = 0, all = 0;
    int alike = 1;
    int err = rondo_context_create(&ctx, NULL);
    for (int w = 0; w < tp * (spread ? cp : 1) && !err; w++) {
        rondo_model *model = NULL, *described = NULL;
        rondo_model_desc p = RONDO_MODEL_DESC_INIT;
        rondo_model_info info = RONDO_MODEL_INFO_INIT, without = RONDO_MODEL_INFO_INIT;
        p.no_tokenizer = 1;
        p.tp_ranks = tp;
        p.tp_rank = spread ? w / cp : w;
        p.cp_ranks = spread ? cp : 0;
        p.cp_rank = spread ? w % cp : 0;
        p.shares = shares;
        p.weights = weights;
        err = rondo_model_open(&model, ctx, scratch_dir, &p);
        err = err ? err : rondo_model_query(model, &info);
        most = info.weight_bytes > most ? info.weight_bytes : most;
        all += info.weight_bytes;
        p.no_weights = 1;
        err = err ? err : rondo_model_open(&described, ctx, scratch_dir, &p);
        err = err ? err : rondo_model_query(described, &without);
        alike &= near(without.weight_bytes, info.weight_bytes) && without.parameters == info.parameters && without.layers == info.layers &&
                 without.vocabulary == info.vocabulary && without.tied == info.tied && without.eos_count == info.eos_count && !err &&
                 !strcmp(without.architecture, info.architecture) && !strcmp(without.rope, info.rope);
        rondo_model_close(described);
        rondo_model_close(model);
    }
    rondo_context_destroy(ctx);
    if (err)
        diag("%s", rondo_error_text());
    ok(!err && near(e.weight_bytes, most) && near(e.all_weight_bytes, all), "%s, %d x %d%s%s: %llu bytes of a rank, said %llu; of all %llu, said %llu", name, tp,
       cp, spread ? " spread" : "", shares ? " weighted" : "", (unsigned long long)most, (unsigned long long)e.weight_bytes, (unsigned long long)all,
       (unsigned long long)e.all_weight_bytes);
    ok(alike, "... and each part, opened without its weights, says the same of itself");
}

/* Its weights are not there: it is for asking, not for running. */
static void described(void)
{
    rondo_context *ctx = NULL;
    rondo_model *model = NULL;
    rondo_lm *lm = NULL;
    rondo_model_desc p = RONDO_MODEL_DESC_INIT;
    p.no_tokenizer = p.no_weights = 1;
    int err = rondo_context_create(&ctx, NULL);
    err = err ? err : rondo_model_open(&model, ctx, scratch_dir, &p);
    ok(!err && rondo_lm_create(&lm, ctx, model, NULL) == RONDO_EINVAL && !lm && strstr(rondo_error_text(), "no_weights"), "it cannot be run: %s",
       rondo_error_text());
    rondo_model_close(model);
    rondo_context_destroy(ctx);
}

static void fits(int spread, uint64_t memory)
{
    rondo_estimate_desc d = RONDO_ESTIMATE_DESC_INIT;
    d.tokens = 3000;
    d.memory = memory;
    d.ranks = 40;
    const rondo_estimate e = ask(1, 1, spread, &d);
    int fewest = 0;
    uint64_t least = 0;
    for (int n = 1; n <= 40 && !fewest; n++)
        for (int tp = 1; tp <= n && tp <= 8; tp++) {
            if (n % tp)
                continue;
            const rondo_estimate p = ask(tp, n / tp, spread, &d);
            const uint64_t bytes = p.weight_bytes + p.kv_bytes;
            if (bytes <= memory) {
                fewest = n;
                least = !least || bytes < least ? bytes : least;
            }
        }
    ok(e.fit_tp * e.fit_cp == fewest, "%llu bytes a rank%s: %d x %d ranks fit, and no fewer (%d)", (unsigned long long)memory, spread ? ", spread" : "",
       (int)e.fit_tp, (int)e.fit_cp, fewest);
    if (fewest) {
        const rondo_estimate p = ask(e.fit_tp, e.fit_cp, spread, &d);
        ok(p.weight_bytes + p.kv_bytes <= memory && p.weight_bytes + p.kv_bytes <= least + least / 100, "... as they need least");
    }
}

int main(void)
{
    static const double shares[3] = { 2, 1, 0 };
    scratch_make("estimate");
    struct kit_config c = kit_defaults("estimate");
    c.hidden = 128;
    c.intermediate = 2048;
    c.heads = 8;
    c.kv_heads = 4;
    c.head_dim = 32;
    c.vocabulary = 640;
    c.type = RONDO_BF16;
    struct kit_model *m = kit_folder(&c, 5);
    for (int tp = 1; tp <= 8; tp += tp > 3 ? 2 : 1) {
        against_parts("bf16", tp, 1, 0, NULL, 0);
        against_parts("bf16", tp, 2, tp % 2, NULL, 0);
    }
    against_parts("bf16", 3, 1, 0, shares, 0);
    described();
    rondo_estimate_desc d = RONDO_ESTIMATE_DESC_INIT;
    rondo_estimate e = RONDO_ESTIMATE_INIT;
    d.tokens = 1000;
    e = ask(1, 1, 0, &d);
    is_int((long long)e.kv_token_bytes, 2 * 2 * 4 * 32 * 4, "one token's keys and values");
    is_int((long long)e.kv_bytes, 1000 * 2 * 2 * 4 * 32 * 4, "1000 tokens'");
    is_int((long long)e.all_kv_bytes, (long long)e.kv_bytes, "of all ranks, being one");
    e = ask(8, 3, 0, &d);
    is_int((long long)e.kv_token_bytes, 2 * 2 * 4 * 32 * 4, "the same whatever the ranks");
    is_int((long long)e.kv_bytes, 3 * 128 * 2 * 2 * 1 * 32 * 4, "a third of 8 leaves of 128 keys, of one head");
    is_int((long long)e.all_kv_bytes, 2 * 1000 * 2 * 2 * 4 * 32 * 4, "two ranks have each head");
    d.tokens = INT64_MAX;
    for (int tp = 1; tp <= 8; tp++) {
        e = ask(tp, 1, 0, &d);
        ok(e.kv_bytes >= (uint64_t)1 << 61 && e.all_kv_bytes >= e.kv_bytes && e.fit_tp == 0, "more tokens than there can be, %d ranks: %llu bytes of %llu", tp,
           (unsigned long long)e.kv_bytes, (unsigned long long)e.all_kv_bytes);
    }
    d.tokens = 1000;
    d.kv_type = RONDO_BF16;
    e = ask(2, 1, 0, &d);
    is_int((long long)e.kv_bytes, 1000 * 2 * 2 * 2 * 32 * 2, "half the heads, half the bytes");
    d.kv_type = 0;
    const uint64_t stored = ask(1, 1, 0, &d).weight_bytes;
    d.weights = RONDO_F32;
    const uint64_t wide = ask(1, 1, 0, &d).weight_bytes;
    ok(wide > stored * 3 / 2 && wide < stored * 2, "in single precision they take nearly twice as much: the embedding stays");
    d.weights = RONDO_Q8;
    const uint64_t narrow = ask(1, 1, 0, &d).weight_bytes;
    d.group = 64;
    const uint64_t narrower = ask(1, 1, 0, &d).weight_bytes;
    ok(narrow > stored / 2 && narrow < stored * 3 / 4 && narrower < narrow, "in 8 bits little more than half, and less with fewer scales");
    for (int spread = 0; spread < 2; spread++) {
        const uint64_t all = stored + 3000u * 2048u;
        fits(spread, all);
        fits(spread, all - 1);
        fits(spread, all / 2);
        fits(spread, all / 3);
        fits(spread, all / 5);
        fits(spread, all / 9);
        fits(spread, 1000);
    }
    d = (rondo_estimate_desc)RONDO_ESTIMATE_DESC_INIT;
    is_int(rondo_model_estimate(scratch_dir, NULL, &e), 0, "without a description: the whole model");
    ok(e.weight_bytes == stored && e.kv_bytes == 0 && e.fit_tp == 0, "and nothing else");
    is_int(rondo_model_estimate(NULL, NULL, &e), RONDO_EINVAL, "no folder");
    is_int(rondo_model_estimate(scratch_dir, NULL, NULL), RONDO_EINVAL, "no place for the answer");
    is_int(rondo_model_estimate(scratch_path("none"), NULL, &e), RONDO_EIO, "a folder that is not there");
    d.tp_ranks = -1;
    is_int(rondo_model_estimate(scratch_dir, &d, &e), RONDO_EINVAL, "fewer ranks than none");
    d.tp_ranks = 0;
    d.tokens = -1;
    is_int(rondo_model_estimate(scratch_dir, &d, &e), RONDO_EINVAL, "fewer tokens than none");
    d.tokens = INT64_MAX;
    is_int(rondo_model_estimate(scratch_dir, &d, &e), 0, "more tokens than there is memory anywhere");
    ok(e.kv_bytes > INT64_MAX / 4, "are said to need much");
    d.tokens = 0;
    d.weights = 9;
    is_int(rondo_model_estimate(scratch_dir, &d, &e), RONDO_EINVAL, "weights of no type");
    d.weights = 0;
    d.group = 32;
    is_int(rondo_model_estimate(scratch_dir, &d, &e), RONDO_EINVAL, "a group without RONDO_Q8");
    d.group = 0;
    d.reserved = 1;
    is_int(rondo_model_estimate(scratch_dir, &d, &e), RONDO_ENOTSUP, "a field that has no name");
    d.reserved = 0;
    d.ranks = 1 << 30;
    is_int(rondo_model_estimate(scratch_dir, &d, &e), RONDO_EINVAL, "too many ranks");
    kit_write_weights(m, "model.layers.1.mlp.up_proj.weight");
    is_int(rondo_model_estimate(scratch_dir, NULL, &e), RONDO_EFORMAT, "a folder that lacks a tensor");
    kit_free(m);
    scratch_remove();
    return done();
}
