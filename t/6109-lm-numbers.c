/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Scores of a model whose logits are no numbers: every rank hears of the first such position, whatever holds it, and can go on.
 * And the count of new tokens, of which the first of each sequence comes out of the pass that reads its prompt.
 */
#include "lm_kit.h"

#define TOKENS 90
#define DAMAGED 9     /* the id whose embedding is no number */

static struct kit_model *model_with(double value)
{
    struct kit_config c = kit_defaults("llama");
    struct kit_model *m = kit_make(&c, 5);
    if (strcmp(m->tensors[0].name, "model.embed_tokens.weight"))
        scratch_die("the embedding is not the first tensor");
    for (int i = 0; i < c.hidden; i++)
        m->tensors[0].values[DAMAGED * c.hidden + i] = value;
    scratch_clear();
    kit_write_config(&c);
    kit_write_weights(m, NULL);
    return m;
}

struct job {
    const rondo_model *model;
    int32_t tokens[TOKENS];
    int64_t chunk, damaged_at, shown;
    int show, right;                /* ranks that heard the position, and could go on */
    int32_t codes[KIT_RANKS];
};

static int on_row(void *user, int64_t row, const float *logits)
{
    struct job *j = user;
    (void)logits;
    j->shown = row + 1;
    return 0;
}

/* The score must fail on every rank; afterwards the tokens before the damaged one are scored. */
static int body(rondo_context *ctx, void *arg)
{
    struct job *j = arg;
    rondo_lm *lm = NULL;
    rondo_lm_desc d = RONDO_LM_DESC_INIT;
    rondo_score score = RONDO_SCORE_INIT;
    const int rank = rondo_context_rank(ctx);
    char want[40];
    d.chunk = j->chunk;
    d.leaf = 8;
    snprintf(want, sizeof want, "position %lld ", (long long)j->damaged_at);
    int err = rondo_lm_create(&lm, ctx, j->model, &d);
    if (err)
        return err;
    j->codes[rank] = rondo_lm_score(lm, j->tokens, TOKENS, j->show && rank == 0 ? on_row : NULL, j, &score);
    const int said = strstr(rondo_error_text(), want) != NULL;
    if (j->codes[rank] && !said)
        diag("rank %d: %s", rank, rondo_error_text());
    if (j->damaged_at > 1)
        err = rondo_lm_score(lm, j->tokens, j->damaged_at, NULL, NULL, &score);
    rondo_lm_destroy(lm);
    return err ? err : j->codes[rank] != RONDO_EFORMAT ? 21 : !said ? 22 : !(score.nll >= 0.0) && j->damaged_at > 1 ? 23 : 0;
}

static void damaged(const rondo_model *model, const char *what)
{
    static const int64_t places[] = { 0, 37, 64, TOKENS - 1 }, chunks[] = { 0, 20 };
    for (size_t p = 0; p < sizeof places / sizeof *places; p++) {
        int wrong = 0;
        for (int ranks = 1; ranks <= 5; ranks += 2)
            for (size_t c = 0; c < 2; c++)
                for (int show = 0; show < 2; show++) {
                    struct job j = { .model = model, .chunk = chunks[c], .damaged_at = places[p], .show = show };
                    kit_tokens(j.tokens, TOKENS, 60, 4);
                    for (int i = 0; i < TOKENS; i++)
                        j.tokens[i] = j.tokens[i] == DAMAGED ? DAMAGED + 1 : j.tokens[i];
                    j.tokens[places[p]] = DAMAGED;
                    const int err = rondo_run_threads(ranks, body, &j);
                    if (err)
                        diag("%d ranks, chunk %lld, %s: %d %s", ranks, (long long)chunks[c], show ? "shown" : "quiet", err, rondo_error_text());
                    wrong += err != 0;
                }
        ok(wrong == 0, "%s from position %lld on: told on every rank, which can go on", what, (long long)places[p]);
    }
}

static void counting(const rondo_model *model)
{
    int32_t prompt[6] = { 2, 3, 4, 5, 6, 7 };
    for (int new_tokens = 1; new_tokens <= 5; new_tokens += 4) {
        struct kit_generate g = { .model = model, .desc = RONDO_LM_DESC_INIT, .sampling = RONDO_SAMPLING_INIT, .prompt_count = 3 };
        g.sampling.max_tokens = new_tokens;
        g.sampling.ignore_eos = 1;
        for (int i = 0; i < 3; i++) {
            g.prompts[i] = prompt;
            g.counts[i] = 4 + i;
        }
        is_int(kit_run_generate(&g, 2), 0, "three prompts, %d new tokens each", new_tokens);
        is_int(g.counters.first_tokens + g.counters.decode_tokens, 3 * new_tokens, "all of them are counted");
        is_int(g.counters.first_tokens, 3, "the first ones as such");
        ok(g.counters.first_seconds > 0.0 && g.counters.first_seconds <= g.counters.prefill_seconds, "with their part of the time");
    }
}

/* Progress inside one pass: of its layers, and of the logits of a score. */
struct watched {
    int64_t calls, last, total;
    int wrong;
};

static int watch(void *user, int64_t done, int64_t total)
{
    struct watched *w = user;
    w->wrong += done < w->last || done > total;
    w->calls++;
    w->last = done;
    w->total = total;
    return 0;
}

static int watch_body(rondo_context *ctx, void *arg)
{
    const rondo_model *model = arg;
    enum { LONG = 3000 };
    static int32_t tokens[LONG];
    struct watched w[2];
    rondo_lm *lm = NULL;
    rondo_lm_desc d = RONDO_LM_DESC_INIT;
    rondo_score score = RONDO_SCORE_INIT;
    rondo_sampling s = RONDO_SAMPLING_INIT;
    rondo_lm_event event;
    int64_t id, live = 1;
    memset(w, 0, sizeof w);
    kit_tokens(tokens, LONG, DAMAGED, 8);
    s.max_tokens = 1;
    d.progress = watch;
    int err = 0;
    for (int i = 0; i < 2 && !err; i++) {
        d.user = &w[i];
        err = rondo_lm_create(&lm, ctx, model, &d);
        if (!err)
            err = i ? rondo_lm_submit(lm, tokens, LONG, &s, &id) : rondo_lm_score(lm, tokens, LONG, NULL, NULL, &score);
        if (!err && i && rondo_lm_step(lm, &event, 1, &live) != 1)
            err = 31;
        rondo_lm_destroy(lm);
        /* two layers: a report at the end of each would be two, and the logits make one more; a device that runs by itself may be through
         * before anybody asks */
        const char *hook = getenv("RONDO_TEST_HOOK");
        if (!err && (w[i].wrong || w[i].calls < (hook && strstr(hook, "defer") ? 3 : 12) || w[i].last != LONG || w[i].total != LONG))
            err = 32;
        diag("%s: %lld reports, the last of %lld tokens", i ? "prefill" : "score", (long long)w[i].calls, (long long)w[i].last);
    }
    return err;
}

int main(void)
{
    static const double values[] = { NAN, INFINITY };
    scratch_make("lm-numbers");
    for (int i = 0; i < 2; i++) {
        struct kit_model *m = model_with(values[i]);
        rondo_model *model = kit_open(scratch_dir);
        if (!ok(model != NULL, "a model with a damaged embedding"))
            return done();
        damaged(model, i ? "infinite" : "NaN");
        if (!i) {
            counting(model);
            for (int ranks = 1; ranks <= 2; ranks++)
                is_int(rondo_run_threads(ranks, watch_body, model), 0, "%d ranks: progress is told inside of a pass", ranks);
        }
        rondo_model_close(model);
        kit_free(m);
    }
    scratch_remove();
    return done();
}
