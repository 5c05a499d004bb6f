/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Text that comes out of generation: stop texts across token borders, what is held back and what is shown, end-of-sequence
 * lists, ids that the tokenizer does not have, and the one-call interface. With the shipped model and short prompts.
 */
#include "lm_kit.h"

#define NEW 40

static const rondo_model *kjv;
static int32_t *prompt;
static int64_t prompt_count;

static struct kit_generate job_of(const rondo_model *model)
{
    struct kit_generate g = { .model = model, .desc = RONDO_LM_DESC_INIT, .sampling = RONDO_SAMPLING_INIT, .prompt_count = 1 };
    g.prompts[0] = prompt;
    g.counts[0] = prompt_count;
    g.sampling.max_tokens = NEW;
    return g;
}

/* The whole text, and by which token each of its bytes had come. */
static struct kit_generate whole;

static void plain(void)
{
    whole = job_of(kjv);
    int err = kit_run_generate(&whole, 2);
    diag("%s", whole.got[0].text);
    ok(!err && !whole.disagree && whole.got[0].new_tokens == NEW && strlen(whole.got[0].text) > 60, "a text of %d tokens", NEW);
    ok(!strcmp(whole.got[0].text, whole.got[0].shown), "the events show all of it");
    char *again = NULL;
    size_t bytes = 0;
    err = rondo_tokenizer_decode(rondo_model_tokenizer(kjv), whole.got[0].tokens, NEW, 0, &again, &bytes);
    ok(!err && !strcmp(again, whole.got[0].text), "it is what the tokenizer makes of the tokens");
    rondo_lm_free(again);
}

/* The stop cuts at its first place; nothing of it or after it was ever shown. */
static void stops_at(const char *const *stops, int64_t count, const char *what)
{
    size_t cut = strlen(whole.got[0].text);
    int found = 0;
    for (int64_t i = 0; i < count; i++) {
        const char *at = strstr(whole.got[0].text, stops[i]);
        if (at && (size_t)(at - whole.got[0].text) <= cut) {
            cut = (size_t)(at - whole.got[0].text);
            found = 1;
        }
    }
    for (int ranks = 1; ranks <= 3; ranks += 2) {
        struct kit_generate g = job_of(kjv);
        g.sampling.stops = stops;
        g.sampling.stop_count = count;
        int err = kit_run_generate(&g, ranks);
        int right = strlen(g.got[0].text) == cut && !strncmp(g.got[0].text, whole.got[0].text, cut);
        ok(!err && !g.disagree && right && g.got[0].finish == (found ? RONDO_FINISH_STOP : RONDO_FINISH_LENGTH), "%s, %d ranks: cut where it should be",
           what, ranks);
        if (!right)
            diag("\"%s\", %zu bytes, not %zu", g.got[0].text, strlen(g.got[0].text), cut);
        ok(!strcmp(g.got[0].text, g.got[0].shown), "%s: shown is what is left", what);
        ok(!memcmp(g.got[0].tokens, whole.got[0].tokens, (size_t)g.got[0].new_tokens * sizeof(int32_t)) && (!found || g.got[0].new_tokens <= NEW),
           "%s: the tokens up to it", what);
    }
}

static void stops(void)
{
    const char *text = whole.got[0].text;
    const size_t bytes = strlen(text);
    char piece[8][32];
    /* Runs of several lengths from several places: they begin and end inside tokens. */
    for (size_t i = 0; i < 8; i++) {
        size_t from = bytes * (i + 1) / 10, length = 1 + 2 * i;
        snprintf(piece[i], sizeof piece[i], "%.*s", (int)length, text + from);
        const char *one[] = { piece[i] };
        stops_at(one, 1, "a stop text");
    }
    const char *several[] = { "never in there", piece[7], piece[6], "\x01" };
    stops_at(several, 4, "several stops, out of order");
    char first[2] = { text[0], 0 };
    const char *at_once[] = { first };
    stops_at(at_once, 1, "a stop at once");
    /* Held back to the last, then shown: the end of the text begins a stop that never comes. */
    char begun[64];
    snprintf(begun, sizeof begun, "%s and no more", text + bytes - 9);
    const char *never[] = { begun, "~~~~" };
    stops_at(never, 2, "a stop that only begins");
}

static void copy_folder(const char *generation_config)
{
    static const char *const names[] = { "config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors" };
    scratch_clear();
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[256];
        size_t bytes;
        snprintf(path, sizeof path, "examples/kjv/%s", names[i]);
        char *file = scratch_read(source_path(path), &bytes);
        scratch_write(names[i], file, bytes);
        free(file);
    }
    scratch_text("generation_config.json", generation_config);
}

static void ends(void)
{
    /* A token in the middle of the text that did not occur before becomes one of two ends. */
    int at = NEW / 2;
    for (int i = 0; i < at; i++)
        if (whole.got[0].tokens[i] == whole.got[0].tokens[at]) {
            at++;
            i = -1;
        }
    char config[128];
    snprintf(config, sizeof config, "{\"bos_token_id\": 0, \"eos_token_id\": [1, %d]}", whole.got[0].tokens[at]);
    copy_folder(config);
    rondo_model *model = kit_open(scratch_dir);
    rondo_model_info info = RONDO_MODEL_INFO_INIT;
    if (!ok(model && !rondo_model_query(model, &info) && info.eos_count == 2, "a model with two ends"))
        return;
    for (int ranks = 1; ranks <= 3; ranks += 2) {
        struct kit_generate g = job_of(model);
        int err = kit_run_generate(&g, ranks);
        ok(!err && g.got[0].finish == RONDO_FINISH_EOS && g.got[0].new_tokens == at + 1, "%d ranks: it ends at the end token", ranks);
        g = job_of(model);
        g.sampling.ignore_eos = 1;
        err = kit_run_generate(&g, ranks);
        ok(!err && g.got[0].finish == RONDO_FINISH_LENGTH && g.got[0].hash == whole.got[0].hash, "%d ranks: unless that is ignored", ranks);
    }
    rondo_model_close(model);
}

/* High temperature makes broken characters of byte tokens; the events must still add up to the text. */
static void wild(void)
{
    struct kit_generate g = job_of(kjv);
    g.prompt_count = 4;
    g.sampling.temperature = 8.0;
    g.sampling.max_tokens = 60;
    for (int i = 0; i < 4; i++) {
        g.prompts[i] = prompt;
        g.counts[i] = prompt_count - i;
    }
    int err = kit_run_generate(&g, 2), same = 0;
    for (int i = 0; i < 4; i++)
        same += !strcmp(g.got[i].text, g.got[i].shown);
    ok(!err && !g.disagree && same == 4, "four wild texts come out whole");
}

static int count_beyond(const rondo_model *model, int limit)
{
    struct kit_generate g = job_of(model);
    static const int32_t one[] = { 3, 4, 5 };
    int beyond = 0;
    g.prompts[0] = one;
    g.counts[0] = 3;
    g.sampling.temperature = 5.0;
    g.sampling.max_tokens = KIT_NEW;
    g.sampling.ignore_eos = 1;
    int err = kit_run_generate(&g, 1);
    for (int i = 0; i < KIT_NEW && !err; i++)
        beyond += g.got[0].tokens[i] >= limit;
    return err ? -1 : beyond;
}

static void masked(void)
{
    struct kit_config c = kit_defaults("llama");
    struct kit_model *m = kit_folder(&c, 5);
    rondo_model *model = kit_open(scratch_dir);
    ok(model && count_beyond(model, 40) > 5, "without a tokenizer every row of the head may be drawn");
    rondo_model_close(model);
    char text[4096];
    int n = snprintf(text, sizeof text,
                     "{\"version\": \"1.0\", \"truncation\": null, \"padding\": null, \"added_tokens\": [], \"normalizer\": null,"
                     " \"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": true, \"use_regex\": true},"
                     " \"post_processor\": null, \"decoder\": {\"type\": \"ByteLevel\", \"add_prefix_space\": true, \"trim_offsets\": true,"
                     " \"use_regex\": true}, \"model\": {\"type\": \"BPE\", \"dropout\": null, \"unk_token\": null,"
                     " \"continuing_subword_prefix\": null, \"end_of_word_suffix\": null, \"fuse_unk\": false, \"byte_fallback\": false,"
                     " \"ignore_merges\": false, \"vocab\": {");
    for (int i = 0; i < 40; i++)
        n += snprintf(text + n, sizeof text - (size_t)n, "%s\"%c\": %d", i ? ", " : "", "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMN"[i], i);
    snprintf(text + n, sizeof text - (size_t)n, "}, \"merges\": []}}");
    scratch_text("tokenizer.json", text);
    model = kit_open(scratch_dir);
    ok(model && rondo_tokenizer_size(rondo_model_tokenizer(model)) == 40, "a tokenizer of forty ids for a model of more");
    is_int(model ? count_beyond(model, 40) : -1, 0, "ids beyond the tokenizer are never drawn");
    rondo_model_close(model);
    kit_free(m);
}

static void one_call(void)
{
    rondo_sampling s = RONDO_SAMPLING_INIT;
    char dir[1024], *text = NULL;
    snprintf(dir, sizeof dir, "%s", source_path("examples/kjv"));
    s.max_tokens = NEW;
    for (int ranks = 1; ranks <= 3; ranks += 2) {
        int err = rondo_lm_generate(dir, ranks, "And it came to pass", &s, &text);
        if (!ok(!err && text && !strcmp(text, whole.got[0].text), "rondo_lm_generate() on %d ranks", ranks))
            diag("%s", err ? rondo_error_text() : text);
        rondo_lm_free(text);
        text = NULL;
    }
    is_int(rondo_lm_generate("/nowhere", 2, "And", &s, &text), RONDO_EIO, "no folder");
    is_int(rondo_lm_generate(dir, -1, "And", &s, &text), RONDO_EINVAL, "no ranks");
    is_int(rondo_lm_generate(dir, 1, NULL, &s, &text), RONDO_EINVAL, "no prompt");
    is_int(rondo_lm_generate(dir, 2, "\xff", &s, &text), RONDO_EFORMAT, "a prompt that is no text");
    s.min_p = 7.0;
    is_int(rondo_lm_generate(dir, 3, "And", &s, &text), RONDO_EINVAL, "options that cannot be");
    ok(text == NULL, "nothing is given back then");
}

int main(void)
{
    scratch_make("lm-text");
    rondo_model *model = kit_open(source_path("examples/kjv"));
    if (!ok(model != NULL, "the shipped model opens"))
        return done();
    kjv = model;
    int err = rondo_tokenizer_encode(rondo_model_tokenizer(model), "And it came to pass", 19, RONDO_ENCODE_SPECIAL, &prompt, &prompt_count);
    if (!ok(!err && prompt_count > 3, "the prompt"))
        return done();
    plain();
    stops();
    ends();
    wild();
    masked();
    one_call();
    rondo_lm_free(prompt);
    rondo_model_close(model);
    scratch_remove();
    return done();
}
