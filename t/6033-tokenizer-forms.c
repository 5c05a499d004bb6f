/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Tokenizers that want Unicode normal forms: one as Qwen's against vectors of Hugging Face's library, and each form of hostile texts (marks in
 * any order, Hangul whole and in parts, what becomes one, many or another character). Where utf8proc was not found: the refusal.
 */
#include <jansson.h>

#include "core/internal.h"
#include "rondo_lm.h"
#include "scratch.h"
#include "tap.h"

static json_t *load(const char *name)
{
    json_t *root = json_load_file(source_path(name), JSON_ALLOW_NUL, NULL);
    if (!root)
        scratch_die("a golden file cannot be read");
    return root;
}

static int is_same(const char *got, size_t bytes, const json_t *want)
{
    return bytes == json_string_length(want) && !memcmp(got, json_string_value(want), bytes);
}

/* Ids and the way back. */
static void vectors(const rondo_tokenizer *t)
{
    json_t *root = load("t/golden/tokenizers/qwen.json");
    const json_t *rows = json_object_get(root, "vectors");
    int wrong = 0;
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *row = json_array_get(rows, i), *text = json_object_get(row, "text"), *want = json_object_get(row, "ids");
        int32_t *ids = NULL;
        int64_t count = 0;
        char *back = NULL;
        size_t bytes = 0;
        int same = !rondo_tokenizer_encode(t, json_string_value(text), json_string_length(text), RONDO_ENCODE_SPECIAL, &ids, &count) &&
                   count == (int64_t)json_array_size(want);
        for (int64_t k = 0; same && k < count; k++)
            same = ids[k] == json_integer_value(json_array_get(want, (size_t)k));
        same = same && !rondo_tokenizer_decode(t, ids, count, 0, &back, &bytes) && is_same(back, bytes, json_object_get(row, "decoded"));
        if (!same && wrong++ < 5)
            diag("vector %zu: %s", i, json_string_value(text));
        rondo_lm_free(ids);
        rondo_lm_free(back);
    }
    is_int(wrong, 0, "ids and texts of %zu vectors", json_array_size(rows));
    ok(json_array_size(rows) > 150, "which are many");
    json_decref(root);
}

/* The tokenizer with another normalizer, written to the scratch folder. */
static rondo_tokenizer *with_form(const char *form)
{
    json_t *root = load("t/golden/tokenizers/qwen/tokenizer.json");
    rondo_tokenizer *t = NULL;
    json_object_set_new(root, "normalizer", json_pack("{s:s}", "type", form));
    if (json_dump_file(root, scratch_path("tokenizer.json"), 0))
        scratch_die("cannot write a tokenizer");
    json_decref(root);
    const int err = rondo_tokenizer_open(&t, scratch_dir);
    if (err)
        diag("%s: %s", rondo_error_name(err), rondo_error_text());
    return t;
}

static void form(const char *name, const json_t *rows)
{
    rondo_tokenizer *t = with_form(name);
    int wrong = 0;
    if (!ok(t != NULL, "%s: opens", name))
        return;
    for (size_t i = 0; i < json_array_size(rows); i++) {
        const json_t *text = json_object_get(json_array_get(rows, i), "text");
        int32_t *ids = NULL;
        int64_t count = 0;
        char *back = NULL;
        size_t bytes = 0;
        const int same = !rondo_tokenizer_encode(t, json_string_value(text), json_string_length(text), RONDO_ENCODE_PLAIN, &ids, &count) &&
                         !rondo_tokenizer_decode(t, ids, count, RONDO_DECODE_SPECIAL, &back, &bytes) &&
                         is_same(back, bytes, json_object_get(json_array_get(rows, i), name));
        if (!same && wrong++ < 5)
            diag("%s of row %zu: %s became %s", name, i, json_string_value(text), back ? back : "nothing");
        rondo_lm_free(ids);
        rondo_lm_free(back);
    }
    is_int(wrong, 0, "%s of %zu texts", name, json_array_size(rows));
    rondo_tokenizer_close(t);
}

/* A text of nothing but marks, in the order that takes longest to put right. */
static void hostile(const rondo_tokenizer *t)
{
    const size_t marks = 200000;
    char *text = malloc(2 * marks + 2);
    int32_t *ids = NULL;
    int64_t count = 0;
    if (!text)
        scratch_die("no memory");
    text[0] = 'a';
    for (size_t i = 0; i < marks; i++)
        memcpy(text + 1 + 2 * i, i % 2 ? "\xcc\xa3" : "\xcc\x81", 2);     /* U+0323, class 220, and U+0301, class 230 */
    text[1 + 2 * marks] = 'b';
    const double begin = rondo__now();
    is_int(rondo_tokenizer_encode(t, text, 2 * marks + 2, 0, &ids, &count), 0, "200,000 marks in the wrong order");
    ok(rondo__now() - begin < 20.0, "take no quadratic time");
    char *back = NULL;
    size_t bytes = 0;
    ok(!rondo_tokenizer_decode(t, ids, count, 0, &back, &bytes) && bytes == 2 * marks + 2 + 0 && !memcmp(back, "\xe1\xba\xa1\xcc\xa3", 5) && back[bytes - 1] == 'b',
       "and come in the right one");
    rondo_lm_free(ids);
    rondo_lm_free(back);
    free(text);
}

int main(void)
{
    scratch_make("forms");
    if (!strstr(rondo_build_options(), "--with-utf8proc=yes")) {
        rondo_tokenizer *t = NULL;
        is_int(rondo_tokenizer_open(&t, source_path("t/golden/tokenizers/qwen")), RONDO_ENOTSUP, "without utf8proc a normal form is refused");
        ok(strstr(rondo_error_text(), "NFC") && strstr(rondo_error_text(), "utf8proc"), "by name: %s", rondo_error_text());
        scratch_remove();
        return done();
    }
    rondo_tokenizer *t = NULL;
    if (!ok(!rondo_tokenizer_open(&t, source_path("t/golden/tokenizers/qwen")), "a tokenizer as Qwen's opens: %s", rondo_error_text()))
        return done();
    vectors(t);
    hostile(t);
    rondo_tokenizer_close(t);
    json_t *root = load("t/golden/tokenizers/forms.json");
    static const char *const names[] = { "NFC", "NFD", "NFKC", "NFKD" };
    for (int i = 0; i < 4; i++)
        form(names[i], json_object_get(root, "forms"));
    json_decref(root);
    rondo_tokenizer *none = with_form("NFX");
    ok(!none && strstr(rondo_error_text(), "NFX") && strstr(rondo_error_text(), "NFC"), "a form that there is none of is refused: %s", rondo_error_text());
    scratch_remove();
    return done();
}
