/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Tensor x context parallelism changes no bit: scores and generations on tp x cp ranks, with layers whole on each context-parallel rank or
 * spread over them, are compared by hash with one rank that has all. Odd shapes: heads that no rank count divides, more ranks than KV heads,
 * than heads, than leaves of the down projection; ranks of unequal shares.
 */
#include <stdbool.h>

#include "lm_kit.h"

#define TOKENS 300

static int32_t tokens[TOKENS];

struct grid {
    int tp, cp, spread;
};

static int same_answers(const struct kit_generate *a, const struct kit_generate *b)
{
    for (int i = 0; i < a->prompt_count; i++)
        if (a->got[i].hash != b->got[i].hash || a->got[i].new_tokens != b->got[i].new_tokens || a->got[i].finish != b->got[i].finish ||
            memcmp(a->got[i].tokens, b->got[i].tokens, sizeof a->got[i].tokens) != 0)
            return 0;
    return 1;
}

/* Three prompts, drawn from, some of them late. */
static struct kit_generate generation(void)
{
    struct kit_generate g = { .desc = RONDO_LM_DESC_INIT, .sampling = RONDO_SAMPLING_INIT, .prompt_count = 3 };
    static const int64_t lengths[] = { 1, 140, 37 };
    for (int i = 0; i < 3; i++) {
        g.prompts[i] = tokens + 20 * i;
        g.counts[i] = lengths[i];
    }
    g.sampling.max_tokens = 9;
    g.sampling.ignore_eos = 1;
    g.sampling.temperature = 0.8;
    g.sampling.repetition_penalty = 1.1;
    g.sampling.seed = 3;
    return g;
}

/* One shape of model on one grid of ranks, with options that go round. */
static int try_grid(struct grid grid, const rondo_model_desc *like, int kv_type, int n, const struct kit_score *want,
                    const struct kit_generate *want_generate)
{
    static const int64_t chunks[] = { 0, 100, 33 };
    struct kit_parts parts;
    struct kit_score s = *want;
    struct kit_generate g = *want_generate;
    int err = kit_open_parts(&parts, scratch_dir, grid.tp, grid.cp, grid.spread, like), bad = 0;
    s.parts = g.parts = &parts;
    s.desc.kv_type = g.desc.kv_type = kv_type;
    s.desc.chunk = g.desc.chunk = chunks[n % 3];
    s.desc.layout = g.desc.layout = n % 5;
    g.desc.batch_tokens = n % 2 ? 64 : 0;
    g.late = n % 3 == 2 ? 1 : 0;
    if (!err)
        err = kit_run_score(&s, grid.tp * grid.cp);
    if (!err && (s.scores[0].hash != want->scores[0].hash || s.scores[0].nll != want->scores[0].nll)) {
        diag("tp %d cp %d spread %d: the score is %016llx, not %016llx", grid.tp, grid.cp, grid.spread, (unsigned long long)s.scores[0].hash,
             (unsigned long long)want->scores[0].hash);
        bad = 1;
    }
    if (!err)
        err = kit_run_generate(&g, grid.tp * grid.cp);
    if (!err && (g.disagree || !same_answers(want_generate, &g))) {
        diag("tp %d cp %d spread %d: generates something else", grid.tp, grid.cp, grid.spread);
        bad = 1;
    }
    kit_close_parts(&parts);
    return err ? err : bad;
}

/* All grids, or those of them that meet every tp with every cp. */
static void grids(const struct kit_config *c, uint64_t seed, const rondo_model_desc *like, int kv_type, int most_tp, int step)
{
    struct kit_model *m = kit_folder(c, seed);
    struct kit_parts whole;
    struct kit_score want = { .desc = RONDO_LM_DESC_INIT, .tokens = tokens, .count = TOKENS };
    struct kit_generate want_generate = generation();
    rondo_model_desc one = RONDO_MODEL_DESC_INIT;
    if (like)
        one.weights = like->weights;
    int runs = 0, right = 0, n = 0;
    want.desc.kv_type = want_generate.desc.kv_type = kv_type;
    int err = kit_open_parts(&whole, scratch_dir, 1, 1, 0, &one);
    want.parts = want_generate.parts = &whole;
    err = err ? err : kit_run_score(&want, 1);
    err = err ? err : kit_run_generate(&want_generate, 1);
    ok(!err, "%s: one rank", c->name);
    for (int tp = 1; tp <= most_tp && !err; tp++)
        for (int cp = 1; cp <= 4; cp++)
            for (int spread = 0; spread <= (cp > 1); spread++, n++) {
                if (!long_tests() && n % step)
                    continue;
                runs++;
                right += !try_grid((struct grid){ tp, cp, spread }, like, kv_type, n, &want, &want_generate);
            }
    ok(runs > 0 && right == runs, "%s: %d of %d grids of ranks give the bits of one", c->name, right, runs);
    kit_close_parts(&whole);
    kit_free(m);
}

/* More sequences than are few: of a pass's rows those go on whose logits are wanted, more of them than every rank has; each keeps some of
 * these, and draws from others. */
static void batch(const struct kit_config *c)
{
    static const struct grid grid[] = { { 1, 1, 0 }, { 2, 1, 0 }, { 3, 2, 0 }, { 2, 2, 1 }, { 5, 1, 0 } };
    static struct kit_generate got[5];
    struct kit_model *m = kit_folder(c, 6);
    for (int i = 0; i < 5; i++) {
        struct kit_parts parts;
        got[i] = (struct kit_generate){ .desc = RONDO_LM_DESC_INIT, .sampling = RONDO_SAMPLING_INIT, .prompt_count = KIT_PROMPTS };
        got[i].parts = &parts;
        for (int p = 0; p < KIT_PROMPTS; p++) {
            got[i].prompts[p] = tokens + 3 * p;
            got[i].counts[p] = 1 + p * 7 % 30;
        }
        got[i].sampling.max_tokens = 4;
        got[i].sampling.ignore_eos = 1;
        got[i].sampling.temperature = 0.8;
        int err = kit_open_parts(&parts, scratch_dir, grid[i].tp, grid[i].cp, grid[i].spread, NULL);
        err = err ? err : kit_run_generate(&got[i], grid[i].tp * grid[i].cp);
        ok(!err && !got[i].disagree && same_answers(&got[0], &got[i]), "%d sequences at once, tp %d x cp %d%s: the bits of one rank", KIT_PROMPTS,
           grid[i].tp, grid[i].cp, grid[i].spread ? " spread" : "");
        kit_close_parts(&parts);
    }
    kit_free(m);
}

/* What is refused, on every rank, without waiting. */
static int wrong_part(rondo_context *ctx, void *arg)
{
    rondo_lm *lm = NULL;
    int err = rondo_lm_create(&lm, ctx, arg, NULL);
    rondo_lm_destroy(lm);
    return err == RONDO_EINVAL || err == RONDO_EPEER ? 0 : err ? err : 1;
}

static void refused(const struct kit_config *c)
{
    struct kit_model *m = kit_folder(c, 4);
    struct kit_parts parts;
    if (ok(!kit_open_parts(&parts, scratch_dir, 2, 1, 0, NULL), "two parts open")) {
        is_int(rondo_run_threads(2, wrong_part, parts.at[0]), 0, "a rank with another one's part is told so");
        is_int(rondo_run_threads(3, wrong_part, parts.at[0]), 0, "ranks that tp does not divide");
    }
    kit_close_parts(&parts);
    if (ok(!kit_open_parts(&parts, scratch_dir, 1, 3, 1, NULL), "three spread parts open"))
        is_int(rondo_run_threads(2, wrong_part, parts.at[0]), 0, "spread over another number of ranks");
    kit_close_parts(&parts);
    kit_free(m);
}

/* Log probabilities and the callback before a draw are the same wherever a row is drawn. */
struct look {
    const struct kit_parts *parts;
    int64_t calls;
    rondo_lm_logprob top[6][3];
    double own[6];
    int32_t tokens[6];
    int wrong;
};

static int ban(void *user, int64_t id, int64_t position, float *logits, int64_t count)
{
    (void)user;
    (void)id;
    logits[position % count] = -INFINITY;   /* a token that may not come here */
    return 0;
}

static int look_body(rondo_context *ctx, void *arg)
{
    struct look *all = arg, *l = &all[rondo_context_rank(ctx)];
    rondo_lm *lm = NULL;
    rondo_lm_desc d = RONDO_LM_DESC_INIT;
    rondo_sampling sampling = RONDO_SAMPLING_INIT;
    int64_t id, live = 1, n = 0, at = 0;
    d.logits = ban;
    d.logprobs = 3;
    sampling.max_tokens = 6;
    sampling.ignore_eos = 1;
    int err = rondo_lm_create(&lm, ctx, kit_model_of(NULL, all->parts, ctx), &d);
    if (!err)
        err = rondo_lm_submit(lm, tokens, 33, &sampling, &id);
    while (!err && live > 0) {
        rondo_lm_event e;
        n = rondo_lm_step(lm, &e, 1, &live);
        err = n < 0 ? (int)n : 0;
        if (n == 1) {
            memcpy(l->top[at], e.top, sizeof l->top[at]);
            l->own[at] = e.logprob;
            l->wrong += e.token == (33 + at) % 67 || !(e.logprob < 0.0) || e.top[0].logprob < e.top[1].logprob || e.top[0].logprob < e.logprob;
            l->tokens[at++] = e.token;
        }
    }
    rondo_lm_destroy(lm);
    return err;
}

static void looks(const struct kit_config *c)
{
    static const struct grid grid[] = { { 1, 1, 0 }, { 3, 1, 0 }, { 2, 2, 0 }, { 2, 3, 1 } };
    static struct look got[4][6];
    struct kit_model *m = kit_folder(c, 9);
    memset(got, 0, sizeof got);
    for (int i = 0; i < 4; i++) {
        struct kit_parts parts;
        const int ranks = grid[i].tp * grid[i].cp;
        int err = kit_open_parts(&parts, scratch_dir, grid[i].tp, grid[i].cp, grid[i].spread, NULL), same = 1;
        got[i][0].parts = &parts;
        err = err ? err : rondo_run_threads(ranks, look_body, got[i]);
        for (int r = 0; r < ranks; r++)
            same = same && !got[i][r].wrong && !memcmp(got[i][r].top, got[0][0].top, sizeof got[0][0].top) &&
                   !memcmp(got[i][r].own, got[0][0].own, sizeof got[0][0].own) && !memcmp(got[i][r].tokens, got[0][0].tokens, sizeof got[0][0].tokens);
        ok(!err && same, "tp %d cp %d: log probabilities and a callback's ban, on every rank", grid[i].tp, grid[i].cp);
        kit_close_parts(&parts);
    }
    kit_free(m);
}

/* A rank that gives up in the middle of a step: everybody returns. Which one draws depends on the grid; `stopper` is whoever does. */
static int stop(void *user, int64_t id, int64_t position, float *logits, int64_t count)
{
    (void)user;
    (void)id;
    (void)logits;
    (void)count;
    return position == 35;
}

struct stopped {
    const struct kit_parts *parts;
    int code[KIT_RANKS];
    char text[KIT_RANKS][200];
};

static int stopped_body(rondo_context *ctx, void *arg)
{
    struct stopped *s = arg;
    const int rank = rondo_context_rank(ctx);
    rondo_lm *lm = NULL;
    rondo_lm_desc d = RONDO_LM_DESC_INIT;
    rondo_sampling sampling = RONDO_SAMPLING_INIT;
    int64_t id, live = 1;
    d.logits = stop;
    sampling.ignore_eos = 1;
    int err = rondo_lm_create(&lm, ctx, kit_model_of(NULL, s->parts, ctx), &d);
    if (!err)
        err = rondo_lm_submit(lm, tokens, 33, &sampling, &id);
    while (!err && live > 0) {
        rondo_lm_event e;
        int64_t n = rondo_lm_step(lm, &e, 1, &live);
        err = n < 0 ? (int)n : 0;
    }
    s->code[rank] = err;
    snprintf(s->text[rank], sizeof s->text[rank], "%s", rondo_error_text());
    if (err && rondo_lm_step(lm, NULL, 0, &live) != err)   /* and stays so */
        s->code[rank] = 1;
    rondo_lm_destroy(lm);
    return err;
}

static void give_up(const struct kit_config *c)
{
    static const struct grid grid[] = { { 3, 1, 0 }, { 2, 2, 0 }, { 2, 2, 1 } };
    struct kit_model *m = kit_folder(c, 9);
    for (int i = 0; i < 3; i++) {
        struct kit_parts parts;
        struct stopped s = { .parts = &parts };
        const int ranks = grid[i].tp * grid[i].cp;
        int gave_up = 0, heard = 0;
        if (!kit_open_parts(&parts, scratch_dir, grid[i].tp, grid[i].cp, grid[i].spread, NULL))
            (void)!rondo_run_threads(ranks, stopped_body, &s);
        for (int r = 0; r < ranks; r++) {
            gave_up += s.code[r] == RONDO_ECANCELED;
            heard += s.code[r] == RONDO_EPEER && strstr(s.text[r], "logits function asked to stop") && strstr(s.text[r], "rank ");
        }
        ok(gave_up == 1 && heard == ranks - 1, "tp %d cp %d: one rank gives up in a step, %d of %d others hear why", grid[i].tp, grid[i].cp, heard, ranks - 1);
        kit_close_parts(&parts);
    }
    kit_free(m);
}

/* Ranks of unlike machines. */
static void unequal(const struct kit_config *c)
{
    static const double shares[3] = { 1.0, 0.0, 2.6 };
    rondo_model_desc d = RONDO_MODEL_DESC_INIT;
    struct kit_model *m = kit_folder(c, 31);
    struct kit_parts whole, parts;
    struct kit_score want = { .desc = RONDO_LM_DESC_INIT, .tokens = tokens, .count = TOKENS }, got = want;
    rondo_model_info info[3];
    int err = kit_open_parts(&whole, scratch_dir, 1, 1, 0, NULL);
    d.shares = shares;
    err = err ? err : kit_open_parts(&parts, scratch_dir, 3, 2, 1, &d);
    want.parts = &whole;
    got.parts = &parts;
    err = err ? err : kit_run_score(&want, 1);
    err = err ? err : kit_run_score(&got, 6);
    for (int t = 0; t < 3 && !err; t++) {
        info[t] = (rondo_model_info)RONDO_MODEL_INFO_INIT;
        err = rondo_model_query(parts.at[2 * t], &info[t]);
    }
    ok(!err && got.scores[0].hash == want.scores[0].hash, "shares of 1, 0 and 2.6, spread over two: the same bits");
    ok(!err && info[1].weight_bytes < info[0].weight_bytes && info[0].weight_bytes < info[2].weight_bytes, "and weights as they say");
    kit_close_parts(&whole);
    kit_close_parts(&parts);
    kit_free(m);
}

/* What decoding one sequence has read: a token's row is one context-parallel rank's, which alone reads weights for it, and keys are divided. */
struct reads {
    const struct kit_parts *parts;
    int64_t prompt;
    uint64_t bytes[KIT_RANKS];
};

static int reads_body(rondo_context *ctx, void *arg)
{
    struct reads *r = arg;
    rondo_lm *lm = NULL;
    rondo_sampling sampling = RONDO_SAMPLING_INIT;
    rondo_lm_counters counters = RONDO_LM_COUNTERS_INIT;
    int64_t live = 1;
    sampling.max_tokens = 20;
    sampling.ignore_eos = 1;
    int err = rondo_lm_create(&lm, ctx, kit_model_of(NULL, r->parts, ctx), NULL);
    if (!err)
        err = rondo_lm_submit(lm, tokens, r->prompt, &sampling, NULL);
    while (!err && live > 0) {
        rondo_lm_event e;
        int64_t n = rondo_lm_step(lm, &e, 1, &live);
        err = n < 0 ? (int)n : 0;
    }
    if (!err)
        err = rondo_lm_count(lm, &counters);
    r->bytes[rondo_context_rank(ctx)] = counters.decode_bytes;
    rondo_lm_destroy(lm);
    return err;
}

static void read_once(const struct kit_config *c)
{
    static const int64_t prompts[] = { 1, 120, 290 };   /* shorter than a leaf, growing into the next one, longer than the window */
    struct kit_model *m = kit_folder(c, 8);
    struct kit_parts parts;
    if (ok(!kit_open_parts(&parts, scratch_dir, 1, 1, 0, NULL), "%s: a whole model", c->name))
        for (int i = 0; i < 3; i++) {
            struct reads one = { &parts, prompts[i], { 0 } }, three = one;
            int err = rondo_run_threads(1, reads_body, &one);
            err = err ? err : rondo_run_threads(3, reads_body, &three);
            const uint64_t sum = three.bytes[0] + three.bytes[1] + three.bytes[2];
            ok(!err && one.bytes[0] > 0 && sum == one.bytes[0], "%s, %lld tokens: three context-parallel ranks read %llu bytes together, one rank %llu", c->name,
               (long long)prompts[i], (unsigned long long)sum, (unsigned long long)one.bytes[0]);
        }
    kit_close_parts(&parts);
    kit_free(m);
}

int main(void)
{
    scratch_make("lm-tensor");
    struct kit_config c = kit_defaults("four heads of two KV heads");
    kit_tokens(tokens, TOKENS, c.vocabulary, 99);
    grids(&c, 31, NULL, RONDO_F32, 8, 3);
    batch(&c);

    c = kit_defaults("six heads of three KV heads, biases, tied, bf16");
    c.heads = 6;
    c.kv_heads = 3;
    c.attention_bias = c.mlp_bias = c.tied = 1;
    c.type = RONDO_BF16;
    grids(&c, 32, NULL, RONDO_BF16, 8, 5);

    c = kit_defaults("five heads of one KV head, a window");
    c.heads = 5;
    c.kv_heads = 1;
    c.mistral = 1;
    c.window = 90;
    grids(&c, 33, NULL, RONDO_F16, 8, 5);

    c = kit_defaults("twelve heads of four KV heads, few columns");
    c.heads = 12;
    c.kv_heads = 4;
    c.head_dim = 6;
    c.intermediate = 5;
    grids(&c, 34, NULL, RONDO_F32, 8, 5);

    rondo_model_desc narrow = RONDO_MODEL_DESC_INIT;
    c = kit_defaults("weights of 8 bits");
    narrow.weights = RONDO_Q8;
    grids(&c, 35, &narrow, RONDO_F32, 8, 7);
    c = kit_defaults("keys and values of 8 bits");
    grids(&c, 36, NULL, RONDO_Q8, 8, 5);

    c = kit_defaults("what is refused");
    refused(&c);
    c = kit_defaults("log probabilities");
    looks(&c);
    give_up(&c);
    unequal(&c);
    c = kit_defaults("what decoding reads");
    read_once(&c);
    c = kit_defaults("what decoding reads, in a window");
    c.mistral = 1;
    c.window = 150;
    read_once(&c);
    scratch_remove();
    return done();
}
