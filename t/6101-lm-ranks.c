/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The bits of a language model do not depend on ranks, layouts, algorithms, chunks, batches, nor on whether a position was
 * read as part of a prompt or decoded: scores and generations are compared by hash with one rank that does all at once.
 */
#include <stdbool.h>

#include "lm_kit.h"

#define TOKENS 420

static int32_t tokens[TOKENS];

static struct kit_score score_of(const rondo_model *model)
{
    return (struct kit_score){ .model = model, .desc = RONDO_LM_DESC_INIT, .tokens = tokens, .count = TOKENS };
}

static void scores(const rondo_model *model, const char *name)
{
    static const int ranks[] = { 1, 2, 3, 4, 5, 8, 7, 12, 16 };
    static const int64_t chunks[] = { 0, 128, 129, 7, 1, 200 };
    double exact = 0.0;
    for (int type = RONDO_F32; type <= RONDO_F16; type++) {
        struct kit_score s = score_of(model);
        s.desc.kv_type = type;
        if (!ok(!kit_run_score(&s, 1), "%s, kv %s: one rank, all at once", name, rondo_type_name(type)))
            continue;
        const uint64_t hash = s.scores[0].hash;
        const double nll = s.scores[0].nll;
        /* A narrow cache rounds keys and values by 2^-9 and 2^-12: near, but not the same. */
        if (type == RONDO_F32)
            exact = nll;
        else
            ok(nll != exact && fabs(nll - exact) < 0.02, "%s, kv %s: likelihood moves by %.1g", name, rondo_type_name(type), fabs(nll - exact));
        int runs = 0, equal = 0, n = 0;
        for (size_t r = 0; r < (long_tests() ? 9 : 6); r++)
            for (size_t c = 0; c < 6; c++)
                for (int layout = RONDO_CONTIGUOUS; layout <= RONDO_SNAKE; layout++)
                    for (int algorithm = 0; algorithm <= RONDO_PASS_Q; algorithm++, n++) {
                        /* A sample of the grid that meets every value with every other; token by token only now and then. */
                        if (!long_tests() && ((n % 11) != type || (chunks[c] == 1 && n % 5 != 0)))
                            continue;
                        s.desc.layout = layout;
                        s.desc.algorithm = algorithm;
                        s.desc.chunk = chunks[c];
                        int err = kit_run_score(&s, ranks[r]);
                        int same = !err && s.scores[0].hash == hash && s.scores[0].nll == nll;
                        if (!same)
                            diag("%d ranks, chunk %lld, %s, %s: %016llx, not %016llx", ranks[r], (long long)chunks[c],
                                 rondo_layout_name(layout), rondo_algorithm_name(algorithm), (unsigned long long)s.scores[0].hash,
                                 (unsigned long long)hash);
                        runs++;
                        equal += same;
                    }
        ok(runs > 20 && equal == runs, "%s, kv %s: %d of %d runs give the same bits", name, rondo_type_name(type), equal, runs);
    }
}

/* Token by token (Algorithm 4's placement) leaves are split: the same numbers up to rounding, also where that follows a prompt. */
static void interleaved(const rondo_model *model, int vocabulary)
{
    float *want = malloc((size_t)TOKENS * (size_t)vocabulary * sizeof *want), *got = malloc((size_t)TOKENS * (size_t)vocabulary * sizeof *got);
    if (!want || !got)
        scratch_die("no memory");
    struct kit_score s = score_of(model);
    s.vocabulary = vocabulary;
    s.logits = want;
    int err = kit_run_score(&s, 1);
    for (int ranks = 2; ranks <= 5 && !err; ranks++) {
        s.logits = got;
        s.desc.interleave = 1;
        s.desc.chunk = 1;
        err = kit_run_score(&s, ranks);
        double worst = 0.0;
        for (int64_t i = 0; i < (int64_t)TOKENS * vocabulary; i++)
            worst = worse(worst, fabs((double)got[i] - (double)want[i]));
        ok(!err && s.rows == TOKENS && s.disorder == 0 && worst < 1e-4, "interleaved on %d ranks: off by %.2g", ranks, worst);
    }
    static const int32_t prompt[] = { 9, 8, 7, 6, 5 };
    struct kit_generate g = { .model = model, .desc = RONDO_LM_DESC_INIT, .sampling = RONDO_SAMPLING_INIT, .prompt_count = 2 }, h;
    g.prompts[0] = prompt;
    g.prompts[1] = tokens;
    g.counts[0] = 5;
    g.counts[1] = 150;
    g.sampling.max_tokens = 50;
    g.sampling.ignore_eos = 1;
    h = g;
    h.desc.interleave = 1;
    err = kit_run_generate(&g, 1);
    err = err ? err : kit_run_generate(&h, 3);
    ok(!err && !h.disagree && !memcmp(g.got[0].tokens, h.got[0].tokens, sizeof g.got[0].tokens) &&
       !memcmp(g.got[1].tokens, h.got[1].tokens, sizeof g.got[1].tokens), "interleaved decoding after prompts: the greedy tokens");
    free(want);
    free(got);
}

/* A leaf of another size is another sum; both must hold over ranks. */
static void leaves(const rondo_model *model)
{
    struct kit_score s = score_of(model);
    uint64_t hash[2] = { 0, 0 };
    for (int i = 0; i < 2; i++) {
        s.desc.leaf = i ? 8 : 64;
        s.desc.chunk = 0;
        int err = kit_run_score(&s, 1);
        hash[i] = s.scores[0].hash;
        s.desc.chunk = 37;
        err = err ? err : kit_run_score(&s, 6);
        ok(!err && s.scores[0].hash == hash[i], "leaf %d: six ranks and chunks of 37", s.desc.leaf);
    }
    ok(hash[0] != hash[1], "the leaf is part of the hash");
}

static void batch_tokens(const rondo_model *model)
{
    struct kit_score s = score_of(model);
    int err = kit_run_score(&s, 1);
    const uint64_t hash = s.scores[0].hash;
    s.desc.batch_tokens = 33;
    err = err ? err : kit_run_score(&s, 3);
    ok(!err && s.scores[0].hash == hash, "a small batch_tokens cuts a score without changing it");
}

/* The hash of a generation, made of the logits of a score over prompt and answer. */
static uint64_t hash_by_score(const rondo_model *model, const int32_t *prompt, int64_t count, const int32_t *answer, int64_t new_tokens,
                              int vocabulary)
{
    int32_t all[TOKENS + KIT_NEW];
    memcpy(all, prompt, (size_t)count * sizeof *all);
    memcpy(all + count, answer, (size_t)new_tokens * sizeof *all);
    struct kit_score s = score_of(model);
    s.tokens = all;
    s.count = count + new_tokens;
    s.vocabulary = vocabulary;
    s.logits = calloc((size_t)s.count * (size_t)vocabulary, sizeof *s.logits);
    if (!s.logits || kit_run_score(&s, 1))
        scratch_die("score");
    uint64_t hash = 0;
    for (int64_t i = 0; i < new_tokens; i++)
        rondo_hash_add(&hash, s.logits + (count - 1 + i) * vocabulary, sizeof(float), i * vocabulary, vocabulary);
    free(s.logits);
    const int64_t shape[2] = { new_tokens, vocabulary };
    return rondo_hash_close(hash, RONDO_ARITHMETIC_F32, 128, shape, 2);
}

static int same_answers(const struct kit_generate *a, const struct kit_generate *b)
{
    for (int i = 0; i < a->prompt_count; i++)
        if (a->got[i].hash != b->got[i].hash || a->got[i].new_tokens != b->got[i].new_tokens || a->got[i].finish != b->got[i].finish ||
            memcmp(a->got[i].tokens, b->got[i].tokens, sizeof a->got[i].tokens) != 0) {
            diag("prompt %d: %016llx after %lld tokens, not %016llx after %lld", i, (unsigned long long)b->got[i].hash,
                 (long long)b->got[i].new_tokens, (unsigned long long)a->got[i].hash, (long long)a->got[i].new_tokens);
            return 0;
        }
    return 1;
}

static void batches(const rondo_model *model, int vocabulary, double temperature)
{
    static const int64_t lengths[] = { 1, 5, 127, 128, 129, 260 };
    struct kit_generate want = { .model = model, .desc = RONDO_LM_DESC_INIT, .sampling = RONDO_SAMPLING_INIT, .prompt_count = 6 };
    want.sampling.max_tokens = 21;
    want.sampling.ignore_eos = 1;
    want.sampling.temperature = temperature;
    want.sampling.top_p = temperature > 0.0 ? 0.9 : 0.0;
    want.sampling.repetition_penalty = 1.1;
    want.sampling.seed = 5;
    const char *how = temperature > 0.0 ? "sampled" : "greedy";
    int err = 0, by_score = 0;
    for (int i = 0; i < 6; i++) {
        want.prompts[i] = tokens + 10 * i;
        want.counts[i] = lengths[i];
        struct kit_generate alone = want;
        alone.prompt_count = 1;
        alone.prompts[0] = want.prompts[i];
        alone.counts[0] = lengths[i];
        err = err ? err : kit_run_generate(&alone, 1);
        want.got[i] = alone.got[0];
        if (!err)
            by_score += alone.got[0].hash == hash_by_score(model, alone.prompts[0], lengths[i], alone.got[0].tokens, alone.got[0].new_tokens,
                                                           vocabulary);
        ok(!err && alone.got[0].new_tokens == 21 && alone.got[0].events == 21 && alone.got[0].finish == RONDO_FINISH_LENGTH,
           "%s, %lld tokens alone: 21 new ones, one an event", how, (long long)lengths[i]);
    }
    /* Of the kind dynamic only where the whole stays within the length at which its base grows. */
    rondo_model_info info = RONDO_MODEL_INFO_INIT;
    const bool grows = !rondo_model_query(model, &info) && !strcmp(info.rope, "dynamic");
    int same = 0;
    for (int i = 0; i < 6; i++)
        same += !grows || lengths[i] + want.sampling.max_tokens - 1 <= info.max_positions;
    ok(by_score == same, "%s: decoding gives the logits that a score of prompt and answer gives, %d of 6", how, by_score);
    struct {
        int ranks, late;
        int64_t chunk, batch_tokens;
        int layout, algorithm;
    } cases[] = {
        { 1, 0, 0, 0, 0, 0 }, { 2, 0, 50, 0, RONDO_STRIPED, RONDO_PASS_Q }, { 3, 0, 0, 0, RONDO_SNAKE, 0 }, { 5, 2, 64, 100, 0, RONDO_PASS_KV },
        { 8, 3, 0, 0, RONDO_CONTIGUOUS, RONDO_PASS_Q }, { 3, 0, 0, 4, 0, 0 }, { 16, 1, 0, 0, 0, 0 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct kit_generate g = want;
        g.desc.chunk = cases[i].chunk;
        g.desc.batch_tokens = cases[i].batch_tokens;
        g.desc.layout = cases[i].layout;
        g.desc.algorithm = cases[i].algorithm;
        g.late = cases[i].late;
        err = kit_run_generate(&g, cases[i].ranks);
        ok(!err && !g.disagree && same_answers(&want, &g), "%s: six prompts together on %d ranks, chunk %lld, batch_tokens %lld%s", how,
           cases[i].ranks, (long long)cases[i].chunk, (long long)cases[i].batch_tokens, cases[i].late ? ", some late" : "");
    }
}

/* More sequences than the placement was made for, and again in the slots that come free. */
static int many_body(rondo_context *ctx, void *arg)
{
    const rondo_model *model = arg;
    rondo_lm *lm = NULL;
    rondo_sampling sampling = RONDO_SAMPLING_INIT;
    rondo_lm_event events[40];
    int64_t live = 1;
    int err = rondo_lm_create(&lm, ctx, model, NULL), wrong = 0;
    sampling.ignore_eos = 1;
    uint64_t hash[80];
    for (int round = 0; round < 2 && !err; round++) {
        for (int i = 0; i < 40 && !err; i++) {
            sampling.max_tokens = 3 + i % 5;
            err = rondo_lm_submit(lm, tokens + i % 20, 5 + i % 20, &sampling, NULL);
            if (!err && i % 9 == 8)
                err = rondo_lm_step(lm, events, 40, NULL) < 0;
        }
        for (live = 1; live > 0 && !err;)
            err = rondo_lm_step(lm, events, 40, &live) < 0;
    }
    for (int i = 0; i < 80 && !err; i++) {
        rondo_lm_status s = RONDO_LM_STATUS_INIT;
        err = rondo_lm_query(lm, i, &s);
        hash[i] = s.hash;
        /* i, i + 20 and i + 40 read the same prompt and write as many tokens. */
        wrong += i >= 40 && hash[i] != hash[i - 40];
        wrong += i >= 20 && i < 40 && hash[i] != hash[i - 20];
    }
    rondo_lm_destroy(lm);
    return err ? err : wrong ? 9 : 0;
}

static int threads_body(rondo_context *ctx, void *arg)
{
    return kit_score_body(ctx, arg);
}

int main(void)
{
    scratch_make("lm-ranks");
    struct kit_config c = kit_defaults("llama");
    kit_tokens(tokens, TOKENS, c.vocabulary, 99);
    struct kit_model *m = kit_folder(&c, 21);
    rondo_model *model = kit_open(scratch_dir);
    if (!ok(model != NULL, "the model opens"))
        return done();
    scores(model, "llama");
    interleaved(model, c.vocabulary);
    leaves(model);
    batch_tokens(model);
    batches(model, c.vocabulary, 0.0);
    batches(model, c.vocabulary, 1.0);
    for (int ranks = 1; ranks <= 3; ranks += 2)
        is_int(rondo_run_threads(ranks, many_body, model), 0, "forty sequences twice on %d ranks", ranks);

    struct kit_score s = score_of(model);
    int err = kit_run_score(&s, 2);
    const uint64_t hash = s.scores[0].hash;
    rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
    d.threads = 3;
    err = err ? err : rondo_launch(2, &d, threads_body, &s);
    ok(!err && s.scores[0].hash == hash, "three threads a rank");
    d.threads = 1;
    d.isa = other_device() ? NULL : "scalar";   /* a card's kernels are one text */
    err = rondo_launch(3, &d, threads_body, &s);
    ok(!err && s.scores[0].hash == hash, "scalar code");
    rondo_model_close(model);

    /* A device whose streams run late: what the engine reads on the host has been waited for. */
    const char *hook = getenv("RONDO_TEST_HOOK");
    if (!hook) {
        setenv("RONDO_TEST_HOOK", "defer:5", 1);
        s.model = model = kit_open(scratch_dir);
        err = model ? kit_run_score(&s, 2) : RONDO_EIO;
        ok(!err && s.scores[0].hash == hash, "streams that run late");
        rondo_model_close(model);
        unsetenv("RONDO_TEST_HOOK");
    }
    kit_free(m);

    c = kit_defaults("mistral with a window");
    c.mistral = 1;
    c.window = 131;
    c.tied = 1;
    c.type = RONDO_BF16;
    c.rope = KIT_DYNAMIC;
    c.factor = 2.0;
    m = kit_folder(&c, 22);
    model = kit_open(scratch_dir);
    if (ok(model != NULL, "another model opens")) {
        scores(model, c.name);
        batches(model, c.vocabulary, 0.0);
    }
    rondo_model_close(model);
    kit_free(m);
    scratch_remove();
    return done();
}
