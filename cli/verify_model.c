/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo verify -m DIR -f FILE: the proof on a real model and a real text. The hash over all logits of the text, and the tokens
 * that the model then generates with the hash over their logits, on every number of ranks and in every layout and algorithm.
 */
#include "cli/verify.h"
#include "cli/lm_common.h"

#include <stdlib.h>
#include <string.h>

#define NEW_TOKENS 24

struct work {
    struct models models;
    const int32_t *tokens;
    int64_t count, chunk;
    int layout, algorithm;
    /* rank 0's */
    uint64_t score_hash, generate_hash;
    int32_t made[NEW_TOKENS];
    int64_t made_count;
};

static int body(rondo_context *ctx, struct slot *mine, void *arg)
{
    struct work *w = arg;
    const bool first = rondo_context_rank(ctx) == 0;
    rondo_lm *lm = NULL;
    rondo_lm_desc d = RONDO_LM_DESC_INIT;
    rondo_score score = RONDO_SCORE_INIT;
    rondo_sampling sampling = RONDO_SAMPLING_INIT;
    rondo_lm_status status = RONDO_LM_STATUS_INIT;
    int64_t id = 0, live = 1;
    d.layout = w->layout;
    d.algorithm = w->algorithm;
    d.chunk = w->chunk;
    sampling.max_tokens = NEW_TOKENS;
    sampling.ignore_eos = 1;
    int code = rondo_lm_create(&lm, ctx, models_of(&w->models, ctx), &d);
    if (!code)
        code = rondo_lm_score(lm, w->tokens, w->count, NULL, NULL, &score);
    if (!code)
        code = rondo_lm_submit(lm, w->tokens, w->count, &sampling, &id);
    while (!code && live > 0) {
        rondo_lm_event event;
        const int64_t n = rondo_lm_step(lm, &event, 1, &live);
        if (n < 0)
            code = (int)n;
    }
    if (!code)
        code = rondo_lm_query(lm, id, &status);
    if (!code && first) {
        w->score_hash = score.hash;
        w->generate_hash = status.hash;
        w->made_count = status.new_tokens < NEW_TOKENS ? status.new_tokens : NEW_TOKENS;
        memcpy(w->made, status.tokens, (size_t)w->made_count * sizeof *w->made);
    }
    if (!code)
        slot_measure(mine, ctx);
    rondo_lm_destroy(lm);
    return code;
}

static void add_case(struct verify *v, const char *name, const struct work *w, const struct run *run, uint64_t hash, bool pass)
{
    json_t *c = json_object();
    json_object_set_new(c, "name", json_string(name));
    json_object_set_new(c, "ranks", json_integer(run->ranks));
    report_grid(c, &w->models);
    json_object_set_new(c, "layout", json_string(rondo_layout_name(w->layout)));
    json_object_set_new(c, "algorithm", json_string(rondo_algorithm_name(w->algorithm)));
    json_object_set_new(c, "isa", json_string(run->used_isa));
    json_object_set_new(c, "threads", json_integer(run->used_threads));
    json_object_set_new(c, "chunk", json_integer(w->chunk));
    report_hash(c, "hash", hash);
    /* the difference from one rank, of which none is allowed; how large it is where there is one is not known */
    json_object_set_new(c, "max_error", pass ? json_real(0.0) : json_null());
    json_object_set_new(c, "bound", json_real(0.0));
    json_object_set_new(c, "pass", json_boolean(pass));
    json_array_append_new(v->cases, c);
    v->passed += pass;
    v->failed += !pass;
}

static int one_setting(struct verify *v, struct work *w, const struct work *base)
{
    const int ranks = w->models.tp * w->models.cp;
    char grid[32] = "";
    struct run run = RUN_INIT;
    run.ranks = ranks;
    if (w->models.tp > 1)
        snprintf(grid, sizeof grid, "  tp %d x cp %d%s", w->models.tp, w->models.cp, w->models.spread ? " spread" : "");
    const int code = fail_code(ranks_run(&run, body, w), STAGE_INPUT, run.text);
    progress_set(++v->done, v->total);
    if (!code && ranks_first()) {
        const bool logits = !base || w->score_hash == base->score_hash;
        const bool made = !base || (w->generate_hash == base->generate_hash && w->made_count == base->made_count &&
                                    !memcmp(w->made, base->made, (size_t)w->made_count * sizeof *w->made));
        char a[17], b[17];
        hash_text(w->score_hash, a);
        hash_text(w->generate_hash, b);
        add_case(v, "logits of the text", w, &run, w->score_hash, logits);
        add_case(v, "generated tokens", w, &run, w->generate_hash, made);
        say("%s %2d rank%s %-10s %-10s chunk %-5lld logits %s  tokens %s%s", pass_sign(logits && made), ranks, ranks == 1 ? " " : "s",
            rondo_layout_name(w->layout), rondo_algorithm_name(w->algorithm), (long long)w->chunk, a, b, grid);
    }
    run_free(&run);
    return code;
}

#define LAYOUTS 4      /* of a cache that grows */
#define ALGORITHMS 7

static int64_t settings(const struct verify *v)
{
    return v->ranks.count * LAYOUTS * ALGORITHMS;
}

/* The n-th combination; returns its ranks, or 0: it is not asked for, or left out. With less patience those that are taken have other
 * algorithms in each layout and with each number of ranks. */
static int setting_at(const struct verify *v, int64_t n, struct work *w)
{
    const int64_t rank = n / (LAYOUTS * ALGORITHMS), one_of = v->effort == EFFORT_QUICK ? 8 : v->effort == EFFORT_USUAL ? 4 : 1;
    const int layout = (int)(n / ALGORITHMS % LAYOUTS), algorithm = (int)(n % ALGORITHMS);
    w->layout = RONDO_CONTIGUOUS + layout;
    w->algorithm = RONDO_PASS_KV + algorithm;
    if ((common.layout && w->layout != common.layout) || (common.algorithm && w->algorithm != common.algorithm))
        return 0;
    if (!common.layout && !common.algorithm && (3 * layout + algorithm + rank) % one_of)
        return 0;
    return (int)v->ranks.at[rank];
}

/* ---- tensor parallelism ---- */

/* The n-th grid of tensor x context parallel ranks: as many as are asked for as tensor-parallel ones alone, then over two context-parallel ones,
 * whole and spread. false: none is left. */
static bool grid_at(const struct verify *v, int64_t n, int *tp, int *cp, bool *spread)
{
    if (n / 3 >= v->ranks.count)
        return false;
    *tp = (int)v->ranks.at[n / 3];
    *cp = n % 3 ? 2 : 1;
    *spread = n % 3 == 2;
    return true;
}

/* Under MPI there are only so many ranks; of one rank alone the rest of the proof speaks. */
static bool grid_runs(int tp, int cp)
{
    return tp > 1 && (ranks_world() == 1 || tp * cp <= ranks_world());
}

static int64_t grids(const struct verify *v)
{
    int64_t count = 0;
    int tp, cp;
    bool spread;
    for (int64_t n = 0; grid_at(v, n, &tp, &cp, &spread); n++)
        count += grid_runs(tp, cp);
    return count;
}

static int tensor_parallel(struct verify *v, const char *dir, const struct work *base)
{
    int tp, cp, code = 0;
    bool spread;
    for (int64_t n = 0; !code && grid_at(v, n, &tp, &cp, &spread); n++) {
        struct work w = *base;
        if (!grid_runs(tp, cp))
            continue;
        w.layout = RONDO_ZIGZAG;
        w.algorithm = RONDO_ALGORITHM_AUTO;
        code = models_open_quietly(&w.models, dir, tp, cp, spread);
        if (!code)
            code = one_setting(v, &w, base);
        models_close(&w.models);
    }
    return code;
}

int verify_model(struct verify *v, const char *dir, const char *path)
{
    struct work base, w;
    char *text = NULL;
    size_t bytes = 0;
    int32_t *tokens = NULL;
    int64_t count = 0;
    const int64_t most = v->effort == EFFORT_QUICK ? 256 : v->effort == EFFORT_FULL ? INT64_MAX : 768;
    memset(&base, 0, sizeof base);
    int code = text_read(path, &text, &bytes);
    if (!code)
        code = models_open(&base.models, dir, MODEL_TEXT, 0);
    if (!code)
        code = ranks_together(fail_library(
            rondo_tokenizer_encode(rondo_model_tokenizer(models_any(&base.models)), text, bytes, RONDO_ENCODE_SPECIAL, &tokens, &count), STAGE_INPUT));
    if (!code && count < 2)
        code = fail(EXIT_INPUT, "%s gives %lld tokens; at least 2 are needed", path, (long long)count);
    if (code)
        goto end;
    base.tokens = tokens;
    base.count = count < most ? count : most;
    base.layout = RONDO_CONTIGUOUS;
    base.algorithm = RONDO_PASS_KV;
    say("--- %s reads %lld of the %lld tokens of %s and says %d more ---", dir, (long long)base.count, (long long)count, path, NEW_TOKENS);
    v->total = 2 + (uint64_t)grids(v);
    for (int64_t n = 0; n < settings(v); n++)
        v->total += setting_at(v, n, &w) > 0;
    progress_begin("verify");
    code = one_setting(v, &base, NULL);
    for (int64_t n = 0; n < settings(v) && !code; n++) {
        w = base;
        const int ranks = setting_at(v, n, &w);
        w.models.cp = ranks;
        if (ranks)
            code = one_setting(v, &w, &base);
    }
    if (!code) {
        w = base;
        w.chunk = 100;
        w.layout = RONDO_ZIGZAG;
        w.models.cp = (int)v->ranks.at[v->ranks.count - 1];
        code = one_setting(v, &w, &base);
    }
    if (!code)
        code = tensor_parallel(v, dir, &base);
    progress_end();
end:
    rondo_lm_free(tokens);
    models_close(&base.models);
    free(text);
    return code;
}
