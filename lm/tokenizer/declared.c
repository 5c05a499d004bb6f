/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Which tokens are added to the vocabulary, and which ids they get. tokenizer.json lists them; tokenizer_config.json may declare
 * more (added_tokens_decoder, bos_token and its like, additional_special_tokens), and where it has no added_tokens_decoder
 * special_tokens_map.json and added_tokens.json may too. Ids follow from the order alone, as in Hugging Face's library: a token
 * that the vocabulary has keeps its id, any other gets the next free one, whatever the file says. Called by load.c.
 *
 * Reference: tokenizers, added_vocabulary.rs (add_tokens); transformers, tokenization_utils_tokenizers.py (__init__) and
 * tokenization_utils_base.py (_from_pretrained).
 */
#include "lm/tokenizer/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>

#define CONFIG_BYTES_MAX (64u << 20)

/* ---- the list ---- */

static int declare(struct rondo__declarations *d, struct rondo__declared token, const char *path)
{
    char shown[RONDO_SHOW_BYTES];
    token.bytes = strlen(token.text);
    if (!token.bytes)      /* as the reference: the empty text is no token */
        return 0;
    if (token.bytes > RONDO_ADDED_BYTES_MAX)
        return rondo__fail(RONDO_EFORMAT, "%s: the added token \"%s\" has %zu bytes; at most %d are accepted", path, rondo__show(shown, token.text),
                           token.bytes, RONDO_ADDED_BYTES_MAX);
    int err = rondo__grow((void **)&d->items, &d->room, d->count, 1, sizeof *d->items);
    if (!err)
        d->items[d->count++] = token;
    return err;
}

/* ---- tokenizer.json ---- */

int rondo__declared_list(struct rondo__declarations *d, const json_t *added, const char *path)
{
    static const char *const known[] = { "id", "content", "single_word", "lstrip", "rstrip", "normalized", "special", NULL };
    static const char what[] = "an added token";
    char shown[RONDO_SHOW_BYTES];
    for (size_t i = 0; i < json_array_size(added); i++) {
        const json_t *entry = json_array_get(added, i), *id = json_object_get(entry, "id");
        struct rondo__declared token = { .text = json_string_value(json_object_get(entry, "content")) };
        if (!token.text)
            return rondo__fail(RONDO_EFORMAT, "%s: added token %zu needs a content, a text", path, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > UINT32_MAX)
            return rondo__fail(RONDO_EFORMAT, "%s: the id of added token \"%s\" is no whole number from 0 to %u", path, rondo__show(shown, token.text),
                               UINT32_MAX);
        token.id = json_integer_value(id);
        int err = rondo__component_fields(entry, known, what, path);
        if (!err)
            err = rondo__component_bool(entry, "single_word", -1, what, path, &token.single_word);
        if (!err)
            err = rondo__component_bool(entry, "lstrip", -1, what, path, &token.left);
        if (!err)
            err = rondo__component_bool(entry, "rstrip", -1, what, path, &token.right);
        if (!err)
            err = rondo__component_bool(entry, "normalized", -1, what, path, &token.normalized);
        if (!err)
            err = rondo__component_bool(entry, "special", -1, what, path, &token.special);
        if (!err)
            err = declare(d, token, path);
        if (err)
            return err;
    }
    d->listed = d->count;
    return 0;
}

/* ---- tokenizer_config.json and its older companions ---- */

/* An object {"content": .., flags}, all flags optional; `special` where the place makes it so. */
static int read_object(const json_t *value, bool special, const char *path, struct rondo__declared *token)
{
    static const char what[] = "an added token";
    *token = (struct rondo__declared){ .text = json_string_value(json_object_get(value, "content")), .id = -1 };
    if (!token->text)
        return rondo__fail(RONDO_EFORMAT, "%s: an added token is %s; an object with a content, a text, is needed", path, rondo__json_kind(value));
    int err = rondo__component_bool(value, "special", 0, what, path, &token->special);
    if (!err)
        err = rondo__component_bool(value, "single_word", 0, what, path, &token->single_word);
    if (!err)
        err = rondo__component_bool(value, "lstrip", 0, what, path, &token->left);
    if (!err)
        err = rondo__component_bool(value, "rstrip", 0, what, path, &token->right);
    token->special = token->special || special;
    return err ? err : rondo__component_bool(value, "normalized", !token->special, what, path, &token->normalized);
}

static int by_id(const void *a, const void *b)
{
    const struct rondo__declared *x = a, *y = b;
    return x->id < y->id ? -1 : x->id > y->id;
}

/* {"32000": {"content": ..}, ..}, in the order of the numbers */
static int read_decoder_map(struct rondo__declarations *d, json_t *map, const char *path)
{
    char shown[RONDO_SHOW_BYTES];
    const char *key;
    json_t *value;
    const size_t first = d->count;
    if (!json_is_object(map))
        return rondo__fail(RONDO_EFORMAT, "%s: added_tokens_decoder is %s; an object is needed", path, rondo__json_kind(map));
    json_object_foreach(map, key, value) {
        struct rondo__declared token;
        char *end;
        const long long id = strtoll(key, &end, 10);
        if (*end || end == key || id < 0 || id > UINT32_MAX)
            return rondo__fail(RONDO_EFORMAT, "%s: added_tokens_decoder has the key \"%s\"; whole numbers are needed", path, rondo__show(shown, key));
        int err = read_object(value, false, path, &token);
        token.id = id;
        token.kind = RONDO__DECLARED_DECODER;
        if (!err)
            err = declare(d, token, path);
        if (err)
            return err;
    }
    if (d->count > first)
        qsort(d->items + first, d->count - first, sizeof *d->items, by_id);
    return 0;
}

/* added_tokens.json: {"<pad>": 32000, ..} */
static int read_encoder_map(struct rondo__declarations *d, json_t *map, const char *path)
{
    char shown[RONDO_SHOW_BYTES];
    const char *text;
    json_t *id;
    const size_t first = d->count;
    json_object_foreach(map, text, id) {
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > UINT32_MAX)
            return rondo__fail(RONDO_EFORMAT, "%s: the id of \"%s\" is no whole number from 0 to %u", path, rondo__show(shown, text), UINT32_MAX);
        int err = declare(d, (struct rondo__declared){ .text = text, .id = json_integer_value(id), .normalized = true, .kind = RONDO__DECLARED_OLD }, path);
        if (err)
            return err;
    }
    if (d->count > first)
        qsort(d->items + first, d->count - first, sizeof *d->items, by_id);
    return 0;
}

/* A token that plays a part, or is one of the additional ones: its flags count where it is declared nowhere else. */
static int read_part(struct rondo__declarations *d, const json_t *value, enum rondo__declaration kind, const char *path)
{
    struct rondo__declared token = { .text = json_string_value(value), .id = -1, .special = true };
    int err = json_is_object(value) ? read_object(value, true, path, &token) : 0;
    token.kind = kind;
    return err || !token.text ? err : declare(d, token, path);
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n >= m && !strcmp(text + n - m, end);
}

static const char *const parts[] = { "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token" };
enum { PARTS = sizeof parts / sizeof parts[0] };

static bool is_part(const char *key)
{
    for (int i = 0; i < PARTS; i++)
        if (!strcmp(key, parts[i]))
            return true;
    return false;
}

/* The parts in their order, then other names that end in _token, then lists. `over`: a file whose parts go before; may be NULL. */
static int read_parts(struct rondo__declarations *d, json_t *root, json_t *over, const char *path)
{
    static const char *const lists[] = { "extra_special_tokens", "additional_special_tokens" };
    const char *key;
    json_t *value;
    int err = 0;
    for (int i = 0; i < PARTS && !err; i++) {
        value = json_object_get(over, parts[i]);
        err = read_part(d, value ? value : json_object_get(root, parts[i]), RONDO__DECLARED_PART, path);
    }
    for (int k = 0; k < 2; k++) {
        json_object_foreach(k ? over : root, key, value) {
            if (!err && ends_with(key, "_token") && !is_part(key) && (json_is_string(value) || json_is_object(value)))
                err = read_part(d, value, RONDO__DECLARED_PART, path);
        }
    }
    for (int k = 0; k < 2; k++) {
        for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++) {
            json_t *list = json_object_get(k ? over : root, lists[i]);
            for (size_t n = 0; n < json_array_size(list) && !err; n++)
                err = read_part(d, json_array_get(list, n), RONDO__DECLARED_EXTRA, path);
            json_object_foreach(list, key, value) {
                if (!err)
                    err = read_part(d, value, RONDO__DECLARED_EXTRA, path);
            }
        }
    }
    return err;
}

/* A JSON file of the folder that need not be there: *out stays NULL. */
static int read_optional(json_t **out, const char *dir, const char *name, bool ids, char **path)
{
    *out = NULL;
    *path = rondo__path_join(dir, name);
    if (!*path)
        return RONDO_ENOMEM;
    if (!rondo__file_exists(*path))
        return 0;
    return ids ? rondo__json_read(out, *path, CONFIG_BYTES_MAX) : rondo__json_read_reals(out, *path, CONFIG_BYTES_MAX);
}

int rondo__declared_config(struct rondo__declarations *d, const char *dir)
{
    static const char *const files[] = { "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json" };
    char *path[3] = { NULL, NULL, NULL };
    int err = read_optional(&d->config[0], dir, files[0], false, &path[0]);
    json_t *map = json_object_get(d->config[0], "added_tokens_decoder");
    for (int i = 1; i < 3 && !err && !map; i++)
        err = read_optional(&d->config[i], dir, files[i], i == 2, &path[i]);
    d->decoder = map != NULL;
    if (!err && map)
        err = read_decoder_map(d, map, path[0]);
    else if (!err && d->config[2])
        err = read_encoder_map(d, d->config[2], path[2]);
    if (!err)
        err = read_parts(d, d->config[0], d->config[1], dir);
    for (int i = 0; i < 3; i++)
        rondo__free(path[i]);
    return err;
}

void rondo__declared_free(struct rondo__declarations *d)
{
    for (int i = 0; i < 3; i++)
        json_decref(d->config[i]);
    rondo__free(d->items);
}

/* ---- ids ---- */

/* Tells where a file gives an id that the token does not get: whoever made the file counts on it. */
static void tell_ids(const rondo_tokenizer *t, const struct rondo__declarations *d, const char *path)
{
    char shown[RONDO_SHOW_BYTES];
    int64_t count = 0;
    const struct rondo__declared *first = NULL;
    for (size_t i = 0; i < d->count; i++) {
        const struct rondo__declared *token = &d->items[i];
        if (token->id >= 0 && token->id != rondo_tokenizer_id(t, token->text) && !count++)
            first = token;
    }
    if (count)
        rondo__log(RONDO_LOG_WARNING, "%s: the added token \"%s\" is said to have id %lld, but gets %d%s", path, rondo__show(shown, first->text),
                   (long long)first->id, (int)rondo_tokenizer_id(t, first->text), count > 1 ? "; so it is with others" : "");
}

/* A pattern for each text; those of special tokens come first, and of two that look for the same text the first is found. */
static int make_patterns(rondo_tokenizer *t, const struct rondo__declared *last, const char *path)
{
    int err = 0;
    t->raw.items = rondo__alloc_zero((size_t)t->added_count, sizeof *t->raw.items);
    t->normalized.items = rondo__alloc_zero((size_t)t->added_count, sizeof *t->normalized.items);
    if (!t->raw.items || !t->normalized.items)
        return rondo__fail(RONDO_ENOMEM, "no memory for %d added tokens", (int)t->added_count);
    for (int32_t i = 0; i < t->added_count && !err; i++) {
        const struct rondo__declared *a = &last[i];
        const int32_t id = t->added_ids[i];
        struct rondo__added_set *set = a->normalized ? &t->normalized : &t->raw;
        struct rondo__token *token = &t->tokens[id];
        if (token->added != i + 1)      /* a vocabulary with holes can give one id to two: the last one declared has it */
            continue;
        set->items[set->count++] = (struct rondo__added){
            .text = t->added[i].text, .bytes = a->bytes, .id = id, .order = a->special ? i : t->added_count + i,
            .single_word = a->single_word, .left = a->left, .right = a->right, .special = a->special,
        };
        token->name = token->shown = t->added[i].text;
        token->shown_bytes = t->added[i].bytes;
        token->special = a->special;
        if (a->single_word && !t->word)
            err = rondo__regex_new(&t->word, "[\\w\\u200c\\u200d]", false, path);
    }
    return err;
}

/* A token that is there already is declared again: whether that counts. Special once is special for good. */
static bool again(struct rondo__declared *last, const struct rondo__declared *token, bool decoder)
{
    const enum rondo__declaration before = last->kind;
    switch (token->kind) {
    case RONDO__DECLARED_LIST:
    case RONDO__DECLARED_DECODER: {
        const bool special = last->special || token->special;
        *last = *token;
        last->special = special;
        return true;
    }
    case RONDO__DECLARED_PART:
    case RONDO__DECLARED_EXTRA:
        if (before == RONDO__DECLARED_OLD && !last->special)      /* that file says nothing about what is special */
            last->normalized = false;
        if (before == RONDO__DECLARED_OLD || (token->kind == RONDO__DECLARED_PART && (before == RONDO__DECLARED_DECODER || !decoder)))
            last->special = true;
        return false;
    default:
        return false;
    }
}

int rondo__declared_apply(rondo_tokenizer *t, const struct rondo__declarations *d, char **to, const char *path)
{
    char shown[RONDO_SHOW_BYTES];
    int32_t next = t->bpe.count, largest = -1;      /* of the added tokens so far */
    int err = rondo__vocabulary_new(&t->added_names, d->count);
    struct rondo__declared *last = rondo__alloc_zero(d->count, sizeof *last);
    t->added = rondo__alloc_zero(d->count, sizeof *t->added);
    t->added_ids = rondo__alloc_zero(d->count, sizeof *t->added_ids);
    if (!err && (!last || !t->added || !t->added_ids))
        err = rondo__fail(RONDO_ENOMEM, "no memory for %zu added tokens", d->count);
    for (size_t i = 0; i < d->count && !err; i++) {
        const struct rondo__declared *token = &d->items[i];
        const int32_t at = t->added_count;
        if (i == d->listed && largest >= t->bpe.count)      /* the reference adds what other files declare in a call of its own */
            next = largest + 1;
        memcpy(*to, token->text, token->bytes + 1);
        t->added[at].text = *to;
        t->added[at].bytes = (uint32_t)token->bytes;
        const int32_t there = rondo__vocabulary_add(&t->added_names, t->added, at);
        if (there >= 0) {
            if (again(&last[there], token, d->decoder))
                t->tokens[t->added_ids[there]].added = there + 1;
            continue;
        }
        *to += token->bytes + 1;
        last[at] = *token;
        t->added_count++;
        int32_t id = rondo__vocabulary_find(&t->bpe.vocabulary, t->tokens, token->text, token->bytes);
        if (id < 0)
            id = next++;
        if (id >= RONDO_TOKENS_MAX)
            err = rondo__fail(RONDO_EFORMAT, "%s: the added token \"%s\" would have id %d; ids are below %d", path, rondo__show(shown, token->text), (int)id,
                              RONDO_TOKENS_MAX);
        else
            t->tokens[id].added = at + 1;
        t->added_ids[at] = id;
        largest = id > largest ? id : largest;
        t->size = id >= t->size ? id + 1 : t->size;
    }
    if (!err)
        err = make_patterns(t, last, path);
    if (!err)
        tell_ids(t, d, path);
    rondo__free(last);
    return err;
}

/* ---- what tokenizer_config.json says about BOS and EOS ---- */

/* The id of the token that plays a part; -1: none is said. */
static int32_t part_id(const rondo_tokenizer *t, const struct rondo__declarations *d, const char *key)
{
    for (int k = 1; k >= 0; k--) {
        const json_t *value = json_object_get(d->config[k], key);
        const char *text = json_is_object(value) ? json_string_value(json_object_get(value, "content")) : json_string_value(value);
        if (text)
            return rondo_tokenizer_id(t, text);
    }
    return -1;
}

void rondo__declared_tell(const rondo_tokenizer *t, const struct rondo__declarations *d, const char *dir)
{
    const struct {
        const char *option, *part;
        const int32_t *ids;
        int64_t count;
    } ends[] = { { "add_bos_token", "bos_token", t->before, t->before_count }, { "add_eos_token", "eos_token", t->after, t->after_count } };
    for (int k = 0; k < 2; k++) {
        const json_t *wish = json_object_get(d->config[0], ends[k].option);
        const int32_t id = part_id(t, d, ends[k].part);
        bool does = id < 0 && ends[k].count > 0;
        for (int64_t i = 0; i < ends[k].count; i++)
            does = does || ends[k].ids[i] == id;
        if (json_is_boolean(wish) && json_is_true(wish) != does)
            rondo__log(RONDO_LOG_WARNING, "%s/tokenizer_config.json: %s is %s, but the post_processor of tokenizer.json adds %s; that is what is done",
                       dir, ends[k].option, does ? "false" : "true", does ? "one" : "none");
    }
}
