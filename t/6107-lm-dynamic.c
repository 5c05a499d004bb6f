/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The rope kind dynamic over the length at which its base begins to grow: a prompt turns for its length, each generated token for
 * its own position, and nothing else matters: not the number of tokens asked for, chunks, ranks, nor the rest of the batch. The
 * tokens are those of the fp64 program, which keeps turned keys as Hugging Face's library does.
 */
#include "lm_kit.h"

#define NEW 60

static struct kit_model *m;
static rondo_model *model;

static void run(struct kit_generate *g, const int32_t *prompt, int64_t count, int64_t new_tokens)
{
    memset(g, 0, sizeof *g);
    g->model = model;
    g->desc = (rondo_lm_desc)RONDO_LM_DESC_INIT;
    g->sampling = (rondo_sampling)RONDO_SAMPLING_INIT;
    g->sampling.ignore_eos = 1;
    g->sampling.max_tokens = new_tokens;
    g->prompts[0] = prompt;
    g->counts[0] = count;
    g->prompt_count = 1;
}

/* The greedy tokens of the oracle; *least: by how much the best logit beat the second, at least. */
static void oracle(const int32_t *prompt, int count, int32_t *tokens, double *least)
{
    const int vocabulary = m->config.vocabulary;
    double *logits = malloc((size_t)(count + NEW) * (size_t)vocabulary * sizeof *logits);
    int32_t all[512];
    if (!logits)
        scratch_die("no memory");
    memcpy(all, prompt, (size_t)count * sizeof *all);
    *least = INFINITY;
    for (int i = 0; i < NEW; i++) {
        kit_oracle(m, all, count + i, count, logits);
        const double *row = logits + (size_t)(count + i - 1) * (size_t)vocabulary;
        int best = 0;
        for (int k = 1; k < vocabulary; k++)
            best = row[k] > row[best] ? k : best;
        for (int k = 0; k < vocabulary; k++)
            *least = k == best ? *least : fmin(*least, row[best] - row[k]);
        tokens[i] = all[count + i] = best;
    }
    free(logits);
}

static void one(int count, uint64_t seed)
{
    int32_t prompt[200], want[NEW];
    static const struct {
        int ranks;
        int64_t chunk, new_tokens;
        int layout;
    } ways[] = { { 1, 0, NEW, 0 }, { 1, 0, 7, 0 }, { 1, 0, 31, 0 }, { 1, 1, NEW, 0 }, { 1, 33, NEW, 0 }, { 3, 0, NEW, 0 }, { 2, 17, 50, RONDO_CONTIGUOUS } };
    double least;
    kit_tokens(prompt, count, m->config.vocabulary, seed);
    oracle(prompt, count, want, &least);
    diag("a prompt of %d: the likeliest token is ahead by %.3g at least", count, least);
    struct kit_generate g, other;
    uint64_t hash = 0;
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        run(&g, prompt, count, ways[i].new_tokens);
        g.desc.chunk = ways[i].chunk;
        g.desc.layout = ways[i].layout;
        int err = kit_run_generate(&g, ways[i].ranks), same = 0;
        while (same < ways[i].new_tokens && g.got[0].tokens[same] == want[same])
            same++;
        ok(!err && same == ways[i].new_tokens && g.got[0].new_tokens == same, "a prompt of %d, %d new tokens, chunks of %d, %d ranks: %d as the oracle", count,
           (int)ways[i].new_tokens, (int)ways[i].chunk, ways[i].ranks, same);
        hash = i ? hash : g.got[0].hash;
        if (ways[i].new_tokens == NEW)
            ok(!err && g.got[0].hash == hash, "and the bits");
    }
    /* beside others, of other lengths */
    int32_t short_one[3] = { 5, 6, 7 };
    run(&other, short_one, 3, NEW);
    other.prompts[1] = prompt;
    other.counts[1] = count;
    other.prompt_count = 2;
    ok(!kit_run_generate(&other, 2) && other.got[1].hash == hash, "the bits in a batch");
}

int main(void)
{
    scratch_make("lm-dynamic");
    struct kit_config c = kit_defaults("dynamic");
    c.rope = KIT_DYNAMIC;
    c.factor = 8.0;
    c.original = 40;
    m = kit_folder(&c, 31);
    model = kit_open(scratch_dir);
    if (ok(model != NULL, "the model opens")) {
        one(10, 1);      /* grows while it decodes */
        one(39, 2);
        one(40, 3);      /* from the first new token on */
        one(41, 4);      /* has grown with the prompt */
        one(120, 5);
    }
    rondo_model_close(model);
    kit_free(m);
    scratch_remove();
    return done();
}
