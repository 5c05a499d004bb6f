/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Reads tokenizer.json: the BPE model (vocabulary and merges); added tokens are read by declared.c, the other components
 * by steps.c and decoder.c. Whatever would change ids or text and is not known is refused by name.
 * Called by rondo_tokenizer_open().
 */
#include "lm/tokenizer/tokenizer.h"

#include <stdio.h>

#define FILE_BYTES_MAX (512u << 20)

/* ---- components ---- */

int rondo__component(const json_t *value, const char *what, const char *path, const char **type)
{
    const json_t *name = json_object_get(value, "type");
    if (!json_is_object(value) || !json_is_string(name))
        return rondo__fail(RONDO_EFORMAT, "%s: %s is %s; null or an object with a \"type\" is needed", path, what,
                           json_is_object(value) ? "an object without a type" : rondo__json_kind(value));
    *type = json_string_value(name);
    return 0;
}

int rondo__component_fields(const json_t *value, const char *const *known, const char *what, const char *path)
{
    char shown[RONDO_SHOW_BYTES];
    const char *key;
    json_t *field;
    json_object_foreach((json_t *)(uintptr_t)value, key, field) {
        size_t i = 0;
        while (known[i] && strcmp(known[i], key))
            i++;
        if (!known[i] && strcmp(key, "type"))
            return rondo__fail(RONDO_ENOTSUP, "%s: %s has the field \"%s\", which is not supported", path, what, rondo__show(shown, key));
    }
    return 0;
}

int rondo__component_bool(const json_t *value, const char *key, int absent, const char *what, const char *path, bool *out)
{
    const json_t *field = json_object_get(value, key);
    if (!field && absent >= 0) {
        *out = absent;
        return 0;
    }
    if (!json_is_boolean(field))
        return rondo__fail(RONDO_EFORMAT, "%s: %s of %s is %s; true or false is needed", path, key, what, rondo__json_kind(field));
    *out = json_is_true(field);
    return 0;
}

/* ---- tokens ---- */

/* The vocabulary's largest id and the bytes of its texts with their zeros. */
static int measure(const char *path, json_t *vocabulary, int32_t *largest, size_t *bytes)
{
    char shown[RONDO_SHOW_BYTES];
    const char *text;
    json_t *id;
    json_object_foreach(vocabulary, text, id) {
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= RONDO_TOKENS_MAX)
            return rondo__fail(RONDO_EFORMAT, "%s: the id of token \"%s\" is no whole number from 0 to %d", path, rondo__show(shown, text),
                               RONDO_TOKENS_MAX - 1);
        if (json_integer_value(id) > *largest)
            *largest = (int32_t)json_integer_value(id);
        *bytes += strlen(text) + 1;
    }
    return 0;
}

/* Room for the tokens of the vocabulary and all that may be added: the next free ids, at most. */
static int make_room(rondo_tokenizer *t, const char *path, json_t *vocabulary, const struct rondo__declarations *added)
{
    int32_t largest = -1;
    size_t bytes = 1;
    int err = measure(path, vocabulary, &largest, &bytes);
    if (err)
        return err;
    for (size_t i = 0; i < added->count; i++)
        bytes += added->items[i].bytes + 1;
    t->size = largest + 1;
    t->bpe.count = (int32_t)json_object_size(vocabulary);
    if (added->count > RONDO_TOKENS_MAX)
        return rondo__fail(RONDO_EFORMAT, "%s: %zu tokens are added; at most %d are accepted", path, added->count, RONDO_TOKENS_MAX);
    t->pool = rondo__alloc(bytes);
    t->tokens = rondo__alloc_zero((size_t)(t->size > t->bpe.count ? t->size : t->bpe.count) + added->count, sizeof *t->tokens);
    if (!t->pool || !t->tokens)
        return rondo__fail(RONDO_ENOMEM, "no memory for the %zu tokens of %s", (size_t)t->size + added->count, path);
    return 0;
}

static char *put_token(rondo_tokenizer *t, int32_t id, const char *text, char *to)
{
    size_t n = strlen(text) + 1;
    memcpy(to, text, n);
    t->tokens[id].text = t->tokens[id].name = t->tokens[id].shown = to;
    t->tokens[id].bytes = t->tokens[id].shown_bytes = (uint32_t)(n - 1);
    return to + n;
}

static int read_vocabulary(rondo_tokenizer *t, const char *path, json_t *vocabulary, char **to)
{
    char shown[RONDO_SHOW_BYTES], other[RONDO_SHOW_BYTES];
    const char *text;
    json_t *value;
    int err = rondo__vocabulary_new(&t->bpe.vocabulary, json_object_size(vocabulary));
    if (err)
        return err;
    json_object_foreach(vocabulary, text, value) {
        int32_t id = (int32_t)json_integer_value(value);
        if (t->tokens[id].text)
            return rondo__fail(RONDO_EFORMAT, "%s: the tokens \"%s\" and \"%s\" have the same id %d", path,
                               rondo__show(shown, t->tokens[id].text), rondo__show(other, text), (int)id);
        *to = put_token(t, id, text, *to);
        rondo__vocabulary_add(&t->bpe.vocabulary, t->tokens, id);
        if (t->tokens[id].bytes > t->bpe.longest)
            t->bpe.longest = t->tokens[id].bytes;
    }
    for (int b = 0; b < 256; b++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)b);
        t->bpe.byte[b] = rondo__vocabulary_find(&t->bpe.vocabulary, t->tokens, name, 6);
        if (b < 128) {
            char c = (char)b;
            t->bpe.ascii[b] = rondo__vocabulary_find(&t->bpe.vocabulary, t->tokens, &c, 1);
        }
    }
    return 0;
}

/* ---- merges ---- */

static int bad_merge(const char *path, size_t i, const char *what)
{
    return rondo__fail(RONDO_EFORMAT, "%s: merge %zu %s", path, i, what);
}

static int read_merges(rondo_tokenizer *t, const char *path, const json_t *merges)
{
    size_t count = json_array_size(merges);
    uint32_t rank = 0;
    int err = rondo__merges_new(&t->bpe, count);
    char *joined = err ? NULL : rondo__alloc(2 * t->bpe.longest + 1);
    if (!err && !joined)
        err = rondo__fail(RONDO_ENOMEM, "no memory for the merges of %s", path);
    for (size_t i = 0; i < count && !err; i++) {
        const json_t *m = json_array_get(merges, i);
        const char *left, *right;
        size_t a, b;
        if (json_is_string(m)) {
            left = json_string_value(m);
            if (!strncmp(left, "#version", 8))
                continue;
            right = strchr(left, ' ');
            if (!right || strchr(right + 1, ' ')) {
                err = bad_merge(path, i, "is not two texts with a space between them");
                break;
            }
            a = (size_t)(right - left);
            right++;
        } else {
            left = json_string_value(json_array_get(m, 0));
            right = json_string_value(json_array_get(m, 1));
            if (!left || !right || json_array_size(m) != 2) {
                err = bad_merge(path, i, "is not a pair of texts");
                break;
            }
            a = strlen(left);
        }
        b = strlen(right);
        int32_t l = rondo__vocabulary_find(&t->bpe.vocabulary, t->tokens, left, a), r = rondo__vocabulary_find(&t->bpe.vocabulary, t->tokens, right, b),
                whole = -1;
        if (l >= 0 && r >= 0) {      /* then neither is longer than the longest */
            memcpy(joined, left, a);
            memcpy(joined + a, right, b);
            whole = rondo__vocabulary_find(&t->bpe.vocabulary, t->tokens, joined, a + b);
        }
        if (whole < 0)
            err = bad_merge(path, i, "is of tokens, or gives one, that the vocabulary does not have");
        else
            rondo__merges_add(&t->bpe, l, r, rank++, whole);
    }
    rondo__free(joined);
    return err;
}

/* ---- the model ---- */

static int check_model(const char *path, const json_t *model)
{
    static const char *const known[] = { "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback",
                                         "ignore_merges", "vocab", "merges", NULL };
    static const char *const affixes[] = { "continuing_subword_prefix", "end_of_word_suffix" };
    char shown[RONDO_SHOW_BYTES];
    const json_t *type = json_object_get(model, "type"), *dropout = json_object_get(model, "dropout");
    if (!json_is_object(model))
        return rondo__fail(RONDO_EFORMAT, "%s: model is %s; an object is needed", path, rondo__json_kind(model));
    if (type && (!json_is_string(type) || strcmp(json_string_value(type), "BPE")))
        return rondo__fail(RONDO_ENOTSUP, "%s: model type \"%s\" is not supported; BPE is", path,
                           json_is_string(type) ? rondo__show(shown, json_string_value(type)) : rondo__json_kind(type));
    int err = rondo__component_fields(model, known, "model", path);
    if (err)
        return err;
    if (!json_is_object(json_object_get(model, "vocab")) || !json_is_array(json_object_get(model, "merges")))
        return rondo__fail(RONDO_EFORMAT, "%s: a BPE model needs vocab, an object, and merges, an array", path);
    if (dropout && !json_is_null(dropout) && !(json_is_number(dropout) && json_number_value(dropout) == 0.0))
        return rondo__fail(RONDO_ENOTSUP, "%s: dropout of the model is set, which is for training; null is supported", path);
    for (int i = 0; i < 2; i++) {
        const json_t *affix = json_object_get(model, affixes[i]);
        if (affix && !json_is_null(affix) && !(json_is_string(affix) && !*json_string_value(affix)))
            return rondo__fail(RONDO_ENOTSUP, "%s: %s of the model is set; null is supported", path, affixes[i]);
    }
    return 0;
}

static int optional_bool(const json_t *model, const char *key, const char *path, bool *out)
{
    const json_t *value = json_object_get(model, key);
    *out = false;
    return !value || json_is_null(value) ? 0 : rondo__component_bool(model, key, 0, "model", path, out);
}

static int read_model(rondo_tokenizer *t, const char *path, const json_t *model, char **to)
{
    char shown[RONDO_SHOW_BYTES];
    int err = optional_bool(model, "fuse_unk", path, &t->bpe.fuse_unknown);
    if (!err)
        err = optional_bool(model, "byte_fallback", path, &t->bpe.byte_fallback);
    if (!err)
        err = optional_bool(model, "ignore_merges", path, &t->bpe.ignore_merges);
    if (!err)
        err = read_vocabulary(t, path, json_object_get(model, "vocab"), to);
    if (!err)
        err = read_merges(t, path, json_object_get(model, "merges"));
    if (err)
        return err;
    const json_t *unknown = json_object_get(model, "unk_token");
    t->bpe.unknown = -1;
    if (!unknown || json_is_null(unknown))
        return 0;
    const char *text = json_string_value(unknown);
    if (text)
        t->bpe.unknown = rondo__vocabulary_find(&t->bpe.vocabulary, t->tokens, text, strlen(text));
    if (t->bpe.unknown < 0)
        return rondo__fail(RONDO_EFORMAT, "%s: unk_token \"%s\" is no token of the vocabulary", path, text ? rondo__show(shown, text) : "");
    return 0;
}

/* ---- added tokens ---- */

/* Tokens that are looked for in the normalized text are looked for as the normalizer leaves them. */
static int normalize_added(rondo_tokenizer *t)
{
    struct rondo__encoder e = { .tokenizer = t };
    size_t room = 0, used = 0;
    struct rondo__added_set *set = &t->normalized;
    if (!set->count || !t->normalizer_count)
        return 0;
    size_t *begins = rondo__alloc_zero((size_t)set->count, sizeof *begins);
    int err = begins ? rondo__matcher_new(&e.matcher) : rondo__fail(RONDO_ENOMEM, "no memory for added tokens");
    for (int64_t i = 0; i < set->count && !err; i++) {
        struct rondo__added *a = &set->items[i];
        e.count = 0;
        err = rondo__grow((void **)&e.text, &e.room, 0, a->bytes, 1);
        if (!err)
            err = rondo__grow((void **)&e.stretches, &e.stretch_room, 0, 1, sizeof *e.stretches);
        if (err)
            break;
        memcpy(e.text, a->text, a->bytes);
        e.stretches[e.count++] = (struct rondo__stretch){ 0, a->bytes, -1 };
        for (int32_t k = 0; k < t->normalizer_count && !err; k++)
            err = rondo__encoder_step(&e, &t->normalizer[k]);
        const size_t bytes = err || !e.count ? 0 : e.stretches[0].end - e.stretches[0].begin;
        if (!err)
            err = rondo__grow((void **)&t->normalized_pool, &room, used, bytes + 1, 1);
        if (err)
            break;
        begins[i] = used;
        if (bytes)
            memcpy(t->normalized_pool + used, e.text + e.stretches[0].begin, bytes);
        used += bytes;
        t->normalized_pool[used++] = 0;
    }
    for (int64_t i = 0; i < set->count && !err; i++) {
        struct rondo__added *a = &set->items[i];
        const char *text = t->normalized_pool + begins[i];
        const size_t bytes = strlen(text);
        if (bytes) {      /* where nothing is left of it, the reference looks for it as it is */
            a->text = text;
            a->bytes = bytes;
        }
        if (!a->special) {
            t->tokens[a->id].shown = text;
            t->tokens[a->id].shown_bytes = (uint32_t)bytes;
        }
    }
    rondo__free(begins);
    rondo__encoder_free(&e);
    return err;
}

/* ---- the file ---- */

static int check_root(const char *path, json_t *root)
{
    static const char *const known[] = { "version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor",
                                         "decoder", "model", "type" };
    char shown[RONDO_SHOW_BYTES];
    const char *key;
    json_t *value;
    const json_t *version = json_object_get(root, "version"), *added = json_object_get(root, "added_tokens");
    if (version && (!json_is_string(version) || strcmp(json_string_value(version), "1.0")))
        return rondo__fail(RONDO_ENOTSUP, "%s: version is not \"1.0\", the only one that is known", path);
    for (int i = 1; i <= 2; i++) {
        value = json_object_get(root, known[i]);
        if (value && !json_is_null(value))
            return rondo__fail(RONDO_ENOTSUP, "%s: %s is set; set it to null, for a text is encoded whole here", path, known[i]);
    }
    if (added && !json_is_null(added) && !json_is_array(added))
        return rondo__fail(RONDO_EFORMAT, "%s: added_tokens is %s; an array is needed", path, rondo__json_kind(added));
    json_object_foreach(root, key, value) {
        size_t i = 0;
        while (i < sizeof known / sizeof known[0] && strcmp(known[i], key))
            i++;
        if (i == sizeof known / sizeof known[0])
            rondo__log(RONDO_LOG_INFO, "%s: the field \"%s\" is not known and has no effect", path, rondo__show(shown, key));
    }
    return 0;
}

static int read_file(rondo_tokenizer *t, const char *path, const json_t *root, const struct rondo__declarations *added, const char *dir)
{
    const json_t *model = json_object_get(root, "model");
    int err = make_room(t, path, json_object_get(model, "vocab"), added);
    char *to = t->pool;
    if (!err)
        err = read_model(t, path, model, &to);
    if (!err)
        err = rondo__declared_apply(t, added, &to, dir);
    if (!err)
        err = rondo__read_normalizer(t, json_object_get(root, "normalizer"), path);
    if (!err)
        err = rondo__read_splitter(t, json_object_get(root, "pre_tokenizer"), path);
    if (!err)
        err = rondo__read_processor(t, json_object_get(root, "post_processor"), path);
    if (!err)
        err = rondo__read_decoder(t, json_object_get(root, "decoder"), path);
    if (!err)
        err = normalize_added(t);
    if (err)
        return err;
    rondo__added_index(&t->raw);
    rondo__added_index(&t->normalized);
    rondo__declared_tell(t, added, dir);
    return 0;
}

int rondo__tokenizer_read(rondo_tokenizer *t, const char *dir)
{
    struct rondo__declarations added = { .items = NULL };
    json_t *root = NULL;
    char *path = rondo__path_join(dir, "tokenizer.json");
    int err = path ? rondo__folder_named(dir) : RONDO_ENOMEM;
    if (!err)
        err = rondo__json_read(&root, path, FILE_BYTES_MAX);
    if (!err)
        err = check_root(path, root);
    if (!err)
        err = check_model(path, json_object_get(root, "model"));
    if (!err)
        err = rondo__declared_list(&added, json_object_get(root, "added_tokens"), path);
    if (!err)
        err = rondo__declared_config(&added, dir);
    if (!err)
        err = read_file(t, path, root, &added, dir);
    rondo__declared_free(&added);
    json_decref(root);
    rondo__free(path);
    return err;
}
