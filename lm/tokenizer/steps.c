/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Reads the normalizer and the pre-tokenizer of tokenizer.json into flat lists of steps. Types that we cannot do right are refused by
 * name, NFC and its kin where configure did not find utf8proc. Called by load.c.
 */
#include "lm/tokenizer/tokenizer.h"

#include <stdio.h>

#define DEPTH_MAX 8
static const char gpt2_pattern[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

struct list {
    struct rondo__text_step **steps;
    int32_t *count;
    rondo_tokenizer *tokenizer;
    const char *path, *what;       /* "normalizer", "pre_tokenizer" */
};

/* A new step at the end of the list; zeroed. */
static int new_step(struct list *l, enum rondo__text_step_kind kind, struct rondo__text_step **out)
{
    if (!*l->steps) {
        *l->steps = rondo__alloc_zero(RONDO__STEPS_MAX, sizeof **l->steps);
        if (!*l->steps)
            return rondo__fail(RONDO_ENOMEM, "no memory for the %s of %s", l->what, l->path);
    }
    if (*l->count == RONDO__STEPS_MAX)
        return rondo__fail(RONDO_ENOTSUP, "%s: the %s has more than %d steps", l->path, l->what, RONDO__STEPS_MAX);
    *out = &(*l->steps)[(*l->count)++];
    (*out)->kind = kind;
    return 0;
}

static int set_text(struct list *l, struct rondo__text_step *step, const char *text)
{
    step->text = rondo__strdup(text);
    step->bytes = strlen(text);
    return step->text ? 0 : rondo__fail(RONDO_ENOMEM, "no memory for the %s of %s", l->what, l->path);
}

/* {"String": ".."} or {"Regex": ".."} */
static int read_pattern(struct list *l, const json_t *value, const char *type, struct rondo__regex **out)
{
    const json_t *pattern = json_object_get(value, "pattern");
    const char *string = rondo__json_text(pattern, "String"), *regex = rondo__json_text(pattern, "Regex");
    if (json_object_size(pattern) != 1 || (!string && !regex))
        return rondo__fail(RONDO_EFORMAT, "%s: %s %s needs a pattern, {\"String\": ..} or {\"Regex\": ..}", l->path, l->what, type);
    return rondo__regex_new(out, string ? string : regex, string != NULL, l->path);
}

/* Exactly one character. */
static int check_character(struct list *l, const char *text, const char *type, const char *key)
{
    uint32_t code;
    size_t n = text ? strlen(text) : 0;
    if (!n || rondo__utf8_decode((const unsigned char *)text, n, &code) != (int)n)
        return rondo__fail(RONDO_EFORMAT, "%s: %s of %s %s must be one character", l->path, key, l->what, type);
    return 0;
}

static int read_bool(struct list *l, const json_t *value, const char *key, int absent, bool *out)
{
    return rondo__component_bool(value, key, absent, l->what, l->path, out);
}

static int read_replace(struct list *l, const json_t *value)
{
    static const char *const known[] = { "pattern", "content", NULL };
    struct rondo__text_step *step = NULL;
    const char *content = rondo__json_text(value, "content");
    int err = rondo__component_fields(value, known, l->what, l->path);
    if (!err && !content)
        err = rondo__fail(RONDO_EFORMAT, "%s: %s Replace needs a content", l->path, l->what);
    if (!err)
        err = new_step(l, RONDO__STEP_REPLACE, &step);
    if (!err)
        err = set_text(l, step, content);
    return err ? err : read_pattern(l, value, "Replace", &step->regex);
}

static int read_prepend(struct list *l, const json_t *value)
{
    static const char *const known[] = { "prepend", NULL };
    struct rondo__text_step *step = NULL;
    const char *text = rondo__json_text(value, "prepend");
    int err = rondo__component_fields(value, known, l->what, l->path);
    if (!err && !text)
        err = rondo__fail(RONDO_EFORMAT, "%s: normalizer Prepend needs a text \"prepend\"", l->path);
    if (!err)
        err = new_step(l, RONDO__STEP_PREPEND, &step);
    return err ? err : set_text(l, step, text);
}

static int read_strip(struct list *l, const json_t *value)
{
    static const char *const known[] = { "strip_left", "strip_right", NULL };
    struct rondo__text_step *step = NULL;
    int err = rondo__component_fields(value, known, l->what, l->path);
    if (!err)
        err = new_step(l, RONDO__STEP_STRIP, &step);
    if (!err)
        err = read_bool(l, value, "strip_left", -1, &step->left);
    return err ? err : read_bool(l, value, "strip_right", -1, &step->right);
}

static int read_form(struct list *l, const json_t *value, int form)
{
    static const char *const none[] = { NULL };
    struct rondo__text_step *step = NULL;
    int err = rondo__component_fields(value, none, l->what, l->path);
    if (!err)
        err = new_step(l, RONDO__STEP_FORM, &step);
    if (!err)
        step->behavior = form;
    return err;
}

/* ---- pre-tokenizers ---- */

static int add_split(struct list *l, const char *pattern, bool literal, int behavior, bool invert)
{
    struct rondo__text_step *step = NULL;
    int err = new_step(l, RONDO__STEP_SPLIT, &step);
    if (err)
        return err;
    step->behavior = behavior;
    step->invert = invert;
    return rondo__regex_new(&step->regex, pattern, literal, l->path);
}

static int add_prefix(struct list *l, const char *text, bool first_only)
{
    struct rondo__text_step *step = NULL;
    int err = new_step(l, RONDO__STEP_PREPEND, &step);
    if (err)
        return err;
    step->unless = true;
    step->first_only = first_only;
    if (first_only)
        l->tokenizer->track_origin = true;
    return set_text(l, step, text);
}

static int read_split(struct list *l, const json_t *value)
{
    static const char *const known[] = { "pattern", "behavior", "invert", NULL };
    static const char *const names[] = { "Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous" };
    char shown[RONDO_SHOW_BYTES];
    struct rondo__text_step *step = NULL;
    const char *name = rondo__json_text(value, "behavior");
    int behavior = 0, err = rondo__component_fields(value, known, l->what, l->path);
    if (err)
        return err;
    while (behavior < 5 && (!name || strcmp(names[behavior], name)))
        behavior++;
    if (behavior == 5)
        return rondo__fail(RONDO_EFORMAT, "%s: the behavior of pre_tokenizer Split is \"%s\"; Isolated, Removed, MergedWithPrevious, MergedWithNext "
                           "and Contiguous are known", l->path, name ? rondo__show(shown, name) : "");
    err = new_step(l, RONDO__STEP_SPLIT, &step);
    if (err)
        return err;
    step->behavior = behavior;
    err = read_bool(l, value, "invert", -1, &step->invert);
    return err ? err : read_pattern(l, value, "Split", &step->regex);
}

static int read_byte_level(struct list *l, const json_t *value)
{
    static const char *const known[] = { "add_prefix_space", "trim_offsets", "use_regex", NULL };
    struct rondo__text_step *step = NULL;
    bool prefix = false, regex = true, trim = true;
    int err = rondo__component_fields(value, known, l->what, l->path);
    if (!err)
        err = read_bool(l, value, "add_prefix_space", -1, &prefix);
    if (!err)
        err = read_bool(l, value, "use_regex", 1, &regex);
    if (!err)
        err = read_bool(l, value, "trim_offsets", 1, &trim);      /* of offsets, which nobody asks for here */
    if (!err && prefix)
        err = add_prefix(l, " ", false);
    if (!err && regex)
        err = add_split(l, gpt2_pattern, false, RONDO__ISOLATED, false);
    return err ? err : new_step(l, RONDO__STEP_BYTES, &step);
}

static int read_metaspace(struct list *l, const json_t *value)
{
    static const char *const known[] = { "replacement", "add_prefix_space", "prepend_scheme", "split", "str_rep", NULL };
    char shown[RONDO_SHOW_BYTES];
    struct rondo__text_step *step = NULL;
    const char *replacement = rondo__json_text(value, "replacement"), *scheme = rondo__json_text(value, "prepend_scheme");
    const json_t *legacy = json_object_get(value, "add_prefix_space"), *given = json_object_get(value, "split");
    bool prefix = true, cut = true;
    int err = rondo__component_fields(value, known, l->what, l->path);
    if (!err)
        err = check_character(l, replacement, "Metaspace", "replacement");
    if (!err && legacy && !json_is_null(legacy))
        err = read_bool(l, value, "add_prefix_space", -1, &prefix);
    if (!err && given && !json_is_null(given))
        err = read_bool(l, value, "split", -1, &cut);
    if (err)
        return err;
    if (!scheme && json_object_get(value, "prepend_scheme"))
        return rondo__fail(RONDO_EFORMAT, "%s: prepend_scheme of pre_tokenizer Metaspace is no text", l->path);
    if (!scheme)      /* files from before there were schemes */
        scheme = prefix ? "always" : "never";
    if (strcmp(scheme, "always") && strcmp(scheme, "first") && strcmp(scheme, "never"))
        return rondo__fail(RONDO_EFORMAT, "%s: prepend_scheme of pre_tokenizer Metaspace is \"%s\"; always, first and never are known", l->path,
                           rondo__show(shown, scheme));
    if (!prefix && strcmp(scheme, "never"))
        return rondo__fail(RONDO_EFORMAT, "%s: pre_tokenizer Metaspace has add_prefix_space false and prepend_scheme \"%s\", which disagree", l->path, scheme);
    err = new_step(l, RONDO__STEP_REPLACE, &step);
    if (!err)
        err = set_text(l, step, replacement);
    if (!err)
        err = rondo__regex_new(&step->regex, " ", true, l->path);
    if (!err && strcmp(scheme, "never"))
        err = add_prefix(l, replacement, !strcmp(scheme, "first"));
    if (!err && cut)
        err = add_split(l, replacement, true, RONDO__MERGED_WITH_NEXT, false);
    return err;
}

static int read_digits(struct list *l, const json_t *value)
{
    static const char *const known[] = { "individual_digits", NULL };
    bool individual = false;
    int err = rondo__component_fields(value, known, l->what, l->path);
    if (!err)
        err = read_bool(l, value, "individual_digits", -1, &individual);
    return err ? err : add_split(l, "\\p{N}", false, individual ? RONDO__ISOLATED : RONDO__CONTIGUOUS, false);
}

/* ---- sequences ---- */

static int read_steps(struct list *l, const json_t *value, int depth);

static int read_sequence(struct list *l, const json_t *value, const char *key, int depth)
{
    const char *const known[] = { key, NULL };
    const json_t *items = json_object_get(value, key);
    int err = rondo__component_fields(value, known, l->what, l->path);
    if (!err && !json_is_array(items))
        err = rondo__fail(RONDO_EFORMAT, "%s: %s Sequence needs a list \"%s\"", l->path, l->what, key);
    if (!err && depth == DEPTH_MAX)
        err = rondo__fail(RONDO_ENOTSUP, "%s: %s Sequence is nested more than %d deep", l->path, l->what, DEPTH_MAX);
    for (size_t i = 0; i < json_array_size(items) && !err; i++)
        err = read_steps(l, json_array_get(items, i), depth + 1);
    return err;
}

static int read_steps(struct list *l, const json_t *value, int depth)
{
    static const char *const none[] = { NULL };
    char shown[RONDO_SHOW_BYTES];
    const char *type;
    bool normalizer = l->what[0] == 'n';
    int err = rondo__component(value, l->what, l->path, &type);
    if (err)
        return err;
    if (!strcmp(type, "Sequence"))
        return read_sequence(l, value, normalizer ? "normalizers" : "pretokenizers", depth);
    if (normalizer) {
        if (!strcmp(type, "Replace"))
            return read_replace(l, value);
        if (!strcmp(type, "Prepend"))
            return read_prepend(l, value);
        if (!strcmp(type, "Strip"))
            return read_strip(l, value);
        if (rondo__form_find(type) >= 0)
            return read_form(l, value, rondo__form_find(type));
        if (!strcmp(type, "NFC") || !strcmp(type, "NFD") || !strcmp(type, "NFKC") || !strcmp(type, "NFKD"))
            return rondo__fail(RONDO_ENOTSUP, "%s: normalizer \"%s\" needs utf8proc, which this build of rondo is without; build it where libutf8proc-dev "
                               "is installed", l->path, type);
        return rondo__fail(RONDO_ENOTSUP, "%s: normalizer \"%s\" is not supported; Sequence, Prepend, Replace, Strip%s are", l->path,
                           rondo__show(shown, type), rondo__form_names());
    }
    if (!strcmp(type, "Split"))
        return read_split(l, value);
    if (!strcmp(type, "ByteLevel"))
        return read_byte_level(l, value);
    if (!strcmp(type, "Metaspace"))
        return read_metaspace(l, value);
    if (!strcmp(type, "Digits"))
        return read_digits(l, value);
    if (!strcmp(type, "WhitespaceSplit") || !strcmp(type, "Whitespace")) {
        bool words = !strcmp(type, "Whitespace");
        err = rondo__component_fields(value, none, l->what, l->path);
        return err ? err : add_split(l, words ? "[\\w\\u200c\\u200d]+|[^\\w\\u200c\\u200d\\s]+" : "\\s", false, RONDO__REMOVED, words);
    }
    return rondo__fail(RONDO_ENOTSUP, "%s: pre_tokenizer \"%s\" is not supported; Sequence, Split, ByteLevel, Metaspace, Digits, Whitespace and "
                       "WhitespaceSplit are", l->path, rondo__show(shown, type));
}

int rondo__read_normalizer(rondo_tokenizer *t, const json_t *value, const char *path)
{
    struct list l = { &t->normalizer, &t->normalizer_count, t, path, "normalizer" };
    return !value || json_is_null(value) ? 0 : read_steps(&l, value, 0);
}

int rondo__read_splitter(rondo_tokenizer *t, const json_t *value, const char *path)
{
    struct list l = { &t->splitter, &t->splitter_count, t, path, "pre_tokenizer" };
    return !value || json_is_null(value) ? 0 : read_steps(&l, value, 0);
}
