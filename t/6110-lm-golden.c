/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The shipped model against Hugging Face's own numbers (t/golden/kjv, made by contrib/make_golden.py): logits, likelihood and the
 * greedy continuation, on three ranks, one and eight with one hash. mark.ids: the 2048 tokens that reference.json speaks of.
 *
 * The tolerances are those that reference.json states: it was computed in fp64 with some parts kept in fp32.
 */
#include "lm_kit.h"

#define TOKENS 2048
#define NEW 48

static char *reference;
static int32_t tokens[TOKENS];
static const int ranks[] = { 3, 1, 8 };
static int runs = 3;   /* of them; one where the code is scalar and a run takes half a minute */

/* The value after "key": in the reference, from `from` on. */
static const char *value(const char *from, const char *key)
{
    char quoted[64];
    snprintf(quoted, sizeof quoted, "\"%s\":", key);
    const char *at = strstr(from, quoted);
    if (!at) {
        printf("Bail out! the reference has no %s\n", key);
        exit(1);
    }
    return at + strlen(quoted);
}

static int read_list(const char *text, int32_t *list, int max)
{
    int n = 0;
    char *end;
    for (const char *at = text + strcspn(text, "0123456789"); n < max; at = end + strspn(end, ", \t\n")) {
        long number = strtol(at, &end, 10);
        if (end == at)
            break;
        list[n++] = (int32_t)number;
    }
    return n;
}

static void scores(const rondo_model *model, int vocabulary)
{
    rondo_arrays *file = NULL;
    if (rondo_arrays_open(&file, source_path("t/golden/kjv/logits.safetensors"))) {
        ok(0, "the golden logits: %s", rondo_error_text());
        return;
    }
    const rondo_array *at = rondo_arrays_find(file, "positions"), *rows = rondo_arrays_find(file, "logits");
    int64_t positions[16], count = at ? at->shape[0] : 0;
    float *want = malloc((size_t)16 * (size_t)vocabulary * sizeof *want), *got = malloc((size_t)TOKENS * (size_t)vocabulary * sizeof *got);
    if (!at || !rows || count > 16 || rows->shape[1] != vocabulary || !want || !got ||
        rondo_arrays_read(file, at, 0, at->bytes, positions) || rondo_arrays_read(file, rows, 0, rows->bytes, want)) {
        ok(0, "the golden logits can be read");
        goto out;
    }
    const double nll = strtod(value(reference, "nll"), NULL);
    uint64_t hash = 0;
    for (int i = 0; i < runs; i++) {
        struct kit_score s = { .model = model, .desc = RONDO_LM_DESC_INIT, .tokens = tokens, .count = TOKENS, .logits = got,
                               .vocabulary = vocabulary };
        s.desc.chunk = i == 0 ? 700 : 0;
        int err = kit_run_score(&s, ranks[i]);
        double worst = 0.0;
        for (int64_t r = 0; r < count && !err; r++)
            for (int64_t v = 0; v < vocabulary; v++)
                worst = worse(worst, fabs((double)got[positions[r] * vocabulary + v] - (double)want[r * vocabulary + v]));
        diag("%d ranks: logits off by %.2g, nll %.9f off by %.2g, hash %016llx", ranks[i], worst, s.scores[0].nll, fabs(s.scores[0].nll - nll),
             (unsigned long long)s.scores[0].hash);
        ok(!err && worst <= 1e-3, "%d ranks: logits within 1e-3", ranks[i]);
        ok(!err && fabs(s.scores[0].nll - nll) <= 1e-5, "%d ranks: likelihood within 1e-5", ranks[i]);
        if (i == 0)
            hash = s.scores[0].hash;
        else
            ok(!err && s.scores[0].hash == hash, "%d ranks: the same bits", ranks[i]);
    }
out:
    free(want);
    free(got);
    rondo_arrays_close(file);
}

static void greedy(const rondo_model *model)
{
    const char *part = value(reference, "greedy");
    int32_t want[NEW];
    int prompt = (int)strtol(value(part, "prompt_tokens"), NULL, 10);
    int count = read_list(strchr(value(part, "tokens"), '['), want, NEW);
    if (!ok(count == NEW && prompt > 0 && prompt < TOKENS, "the reference has %d greedy tokens after %d", count, prompt))
        return;
    uint64_t hash = 0;
    for (int i = 0; i < runs; i++) {
        struct kit_generate g = { .model = model, .desc = RONDO_LM_DESC_INIT, .sampling = RONDO_SAMPLING_INIT, .prompt_count = 1 };
        g.prompts[0] = tokens;
        g.counts[0] = prompt;
        g.sampling.max_tokens = NEW;
        g.desc.chunk = i == 2 ? 512 : 0;
        int err = kit_run_generate(&g, ranks[i]);
        ok(!err && !g.disagree && g.got[0].new_tokens == NEW && !memcmp(g.got[0].tokens, want, sizeof want), "%d ranks: the greedy tokens",
           ranks[i]);
        if (i == 0)
            hash = g.got[0].hash;
        else
            ok(!err && g.got[0].hash == hash, "%d ranks: the same bits (%016llx)", ranks[i], (unsigned long long)hash);
        /* The reference spells a newline as JSON does; everything else in its text is plain. */
        char spelled[2048];
        size_t n = 0;
        for (const char *c = g.got[0].text; *c && n + 3 < sizeof spelled; c++) {
            if (*c == '\n')
                spelled[n++] = '\\';
            spelled[n++] = *c == '\n' ? 'n' : *c;
        }
        spelled[n] = 0;
        const char *text = strchr(value(part, "text"), '"') + 1;
        if (!ok(n > 0 && !strncmp(text, spelled, n) && text[n] == '"', "%d ranks: its text", ranks[i]))
            diag("%s", spelled);
        ok(!strcmp(g.got[0].text, g.got[0].shown), "%d ranks: the events showed all of it", ranks[i]);
    }
}

static int probe(rondo_context *ctx, void *arg)
{
    rondo_context_info info = RONDO_CONTEXT_INFO_INIT;
    int err = rondo_context_query(ctx, &info);
    *(int *)arg = !err && strncmp(info.isa, "avx", 3) ? 1 : 3;
    return err;
}

int main(void)
{
    is_int(rondo_run_threads(1, probe, &runs), 0, "the instruction set is known");
    runs = long_tests() ? 3 : runs;
    reference = scratch_read(source_path("t/golden/kjv/reference.json"), NULL);
    char *ids = scratch_read(source_path("t/golden/kjv/mark.ids"), NULL);
    int32_t head[64];
    is_int(read_list(ids, tokens, TOKENS), TOKENS, "the tokens of the text");
    is_int(read_list(strchr(value(reference, "ids_head"), '['), head, 64), 64, "the reference's first tokens");
    ok(!memcmp(head, tokens, sizeof head), "they are the same text");
    rondo_model *model = kit_open(source_path("examples/kjv"));
    if (ok(model != NULL, "the shipped model opens")) {
        rondo_model_info info = RONDO_MODEL_INFO_INIT;
        is_int(rondo_model_query(model, &info), 0, "it answers");
        scores(model, (int)info.vocabulary);
        greedy(model);
    }
    rondo_model_close(model);
    free(ids);
    free(reference);
    return done();
}
