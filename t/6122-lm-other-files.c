/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Ranks whose folders are not the same: any tensor that differs, numbers of another type, other end tokens or another tokenizer are told when
 * the ranks create their rondo_lm, with who has what, and nobody waits. The same weights in other files are the same.
 */
#include "lm_kit.h"

static struct kit_config base;

static rondo_model *open_now(int no_tokenizer)
{
    rondo_context *ctx = NULL;
    rondo_model *model = NULL;
    rondo_model_desc d = RONDO_MODEL_DESC_INIT;
    d.no_tokenizer = no_tokenizer;
    if (rondo_context_create(&ctx, NULL) || rondo_model_open(&model, ctx, scratch_dir, &d)) {
        printf("Bail out! %s\n", rondo_error_text());
        exit(1);
    }
    rondo_context_destroy(ctx);
    return model;
}

struct meeting {
    const rondo_model *usual, *other;
    int ranks, odd;            /* who has the other one */
    int chunk;                 /* an option that the odd one has too */
    int codes[9], again[9];
    char text[9][600];
};

/* After what they do not agree on they go on with what they do. */
static int meet(rondo_context *ctx, void *arg)
{
    struct meeting *m = arg;
    const int rank = rondo_context_rank(ctx);
    rondo_lm_desc d = RONDO_LM_DESC_INIT;
    rondo_lm *lm = NULL;
    d.chunk = rank == m->odd ? m->chunk : 0;
    m->codes[rank] = rondo_lm_create(&lm, ctx, rank == m->odd ? m->other : m->usual, &d);
    snprintf(m->text[rank], sizeof m->text[rank], "%s", m->codes[rank] ? rondo_error_text() : "");
    rondo_lm_destroy(lm);
    m->again[rank] = rondo_lm_create(&lm, ctx, m->usual, NULL);
    rondo_lm_destroy(lm);
    return m->again[rank];
}

/* Do they all get this code, and a sentence with these words and the odd rank's name? */
static int outcome(const rondo_model *usual, const rondo_model *other, int ranks, int odd, int chunk, int code, const char *words)
{
    struct meeting m = { .usual = usual, .other = other, .ranks = ranks, .odd = odd, .chunk = chunk };
    char name[32];
    int good = rondo_run_threads(ranks, meet, &m) == 0;
    snprintf(name, sizeof name, "rank %d has ", odd);
    for (int r = 0; r < ranks; r++) {
        const char *where = strstr(m.text[r], "where ");
        int right = m.codes[r] == code && (!code || (strstr(m.text[r], words) && (strstr(m.text[r], name) || (where && strstr(where, name)))));
        if (!right)
            diag("rank %d of %d, %d odd: %d, %s", r, ranks, odd, m.codes[r], m.text[r]);
        good &= right;
    }
    return good;
}

static const char files[] = "the model's files", options[] = "the model and options";

/* Each tensor in turn, in one number: the last one of those that are looked at as a whole, one of the first of the others. */
static void tensors(const rondo_model *usual, struct kit_model *m)
{
    int seen = 1;
    for (int i = 0; i < m->count; i++) {
        struct kit_tensor *t = &m->tensors[i];
        double *v = &t->values[t->count * 4 <= 2 * 4096 ? t->count - 1 : i % 1024], before = *v;
        *v += 0.5;
        kit_write_weights(m, NULL);
        rondo_model *other = open_now(1);
        seen &= outcome(usual, other, 3, i % 3, 0, RONDO_EMISMATCH, files);
        rondo_model_close(other);
        *v = before;
    }
    ok(seen && m->count > 10, "one number in any of %d tensors on one of 3 ranks: all are told who differs, in the model's files", m->count);
}

/* Of a tensor of many pages the first is looked at, and one more. */
static void large(void)
{
    struct kit_config c = base;
    c.vocabulary = 3000;
    struct kit_model *m = kit_folder(&c, 5), *n = kit_make(&c, 6);
    rondo_model *usual = open_now(1);
    int seen = 1;
    for (int i = 0; i < m->count; i++) {   /* its beginning is the same */
        struct kit_tensor *t = &m->tensors[i];
        if (t->count * 4 <= 2 * 4096)
            continue;
        memcpy(t->values + 1024, n->tensors[i].values + 1024, (size_t)(t->count - 1024) * sizeof *t->values);
        kit_write_weights(m, NULL);
        rondo_model *other = open_now(1);
        seen &= outcome(usual, other, 2, 1, 0, RONDO_EMISMATCH, files);
        rondo_model_close(other);
        rondo_model_close(usual);
        usual = open_now(1);
    }
    ok(seen, "large tensors that begin alike");
    rondo_model_close(usual);
    kit_free(m);
    kit_free(n);
}

/* The same weights under another name, in two files. */
static void sharded(const rondo_model *usual, const struct kit_model *m)
{
    char index[8192] = "{\"weight_map\": {";
    size_t n = strlen(index);
    for (int i = 0; i < m->count; i++)
        n += (size_t)snprintf(index + n, sizeof index - n, "%s\"%s\": \"model-00001-of-00001.safetensors\"", i ? ", " : "", m->tensors[i].name);
    snprintf(index + n, sizeof index - n, "}}");
    if (rename(scratch_path("model.safetensors"), scratch_path("model-00001-of-00001.safetensors")))
        exit(99);
    scratch_text("model.safetensors.index.json", index);
    rondo_model *other = open_now(1);
    ok(outcome(usual, other, 4, 3, 0, 0, ""), "the same weights in another file are the same model");
    rondo_model_close(other);
}

static void ends(const rondo_model *usual)
{
    scratch_text("generation_config.json", "{\"eos_token_id\": [1, 3]}");
    rondo_model *other = open_now(1);
    ok(outcome(usual, other, 2, 1, 0, RONDO_EMISMATCH, options), "other end tokens are told");
    rondo_model_close(other);
    (void)unlink(scratch_path("generation_config.json"));
}

/* The shipped model, twice, with a tokenizer.json that was edited. */
static void tokenizers(void)
{
    static const char *const names[] = { "config.json", "tokenizer.json", "model.safetensors" };
    const char *top = getenv("srcdir");
    char path[1200];
    rondo_model *model[2];
    scratch_clear();
    for (int i = 0; i < 3; i++) {
        size_t count;
        snprintf(path, sizeof path, "%s/examples/kjv/%s", top ? top : ".", names[i]);
        char *bytes = scratch_read(path, &count);
        scratch_write(names[i], bytes, count);
        free(bytes);
    }
    for (int i = 0; i < 2; i++) {
        model[i] = open_now(0);
        FILE *f = fopen(scratch_path("tokenizer.json"), "a");
        if (!f || fputs("\n", f) < 0 || fclose(f))
            exit(99);
    }
    ok(outcome(model[0], model[1], 3, 2, 0, RONDO_EMISMATCH, files), "an edited tokenizer is told");
    ok(outcome(model[0], model[0], 3, 2, 0, 0, ""), "one that is not is not");
    rondo_model_close(model[0]);
    rondo_model_close(model[1]);
}

int main(void)
{
    scratch_make("lm-other-files");
    base = kit_defaults("llama");
    struct kit_model *m = kit_folder(&base, 12);
    rondo_model *usual = open_now(1), *same = open_now(1);
    for (int ranks = 1; ranks <= 9; ranks += 2)
        ok(outcome(usual, same, ranks, ranks / 2, 0, 0, ""), "%d ranks, each with a folder of its own that is the same", ranks);
    ok(outcome(usual, same, 3, 1, 77, RONDO_EMISMATCH, options), "an option that differs is none of the files'");
    tensors(usual, m);
    kit_write_weights(m, NULL);
    sharded(usual, m);
    ends(usual);
    rondo_model_close(same);
    rondo_model_close(usual);
    kit_free(m);
    large();
    struct kit_config half = base;
    half.type = RONDO_BF16;
    m = kit_folder(&half, 12);   /* numbers that bf16 holds */
    usual = open_now(1);
    m->config.type = RONDO_F32;
    kit_write_weights(m, NULL);
    same = open_now(1);
    ok(outcome(usual, same, 2, 0, 0, RONDO_EMISMATCH, ""), "the same numbers of another type are another model");
    rondo_model_close(same);
    rondo_model_close(usual);
    kit_free(m);
    tokenizers();
    scratch_remove();
    return done();
}
