/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Reads the decoder of tokenizer.json into a flat list of stages, and the post-processor into the ids that go before and after a
 * text. Called by load.c; decode.c runs the stages.
 */
#include "lm/tokenizer/tokenizer.h"

#define DEPTH_MAX 8

/* ---- decoder ---- */

struct reader {
    rondo_tokenizer *tokenizer;
    const char *path;
    bool fused;                    /* a stage before has made one text of all tokens */
};

static int new_stage(struct reader *r, enum rondo__stage_kind kind, struct rondo__stage **out)
{
    rondo_tokenizer *t = r->tokenizer;
    if (!t->stages) {
        t->stages = rondo__alloc_zero(RONDO__STAGES_MAX, sizeof *t->stages);
        if (!t->stages)
            return rondo__fail(RONDO_ENOMEM, "no memory for the decoder of %s", r->path);
    }
    if (t->stage_count == RONDO__STAGES_MAX)
        return rondo__fail(RONDO_ENOTSUP, "%s: the decoder has more than %d stages", r->path, RONDO__STAGES_MAX);
    if (r->fused && kind != RONDO__STAGE_STRIP && kind != RONDO__STAGE_FUSE)
        return rondo__fail(RONDO_ENOTSUP, "%s: after Fuse or ByteLevel a decoder may only have Strip here", r->path);
    *out = &t->stages[t->stage_count++];
    (*out)->kind = kind;
    (*out)->fused = r->fused;
    return 0;
}

static int set_text(struct reader *r, struct rondo__stage *stage, const char *text)
{
    stage->text = rondo__strdup(text);
    stage->bytes = strlen(text);
    return stage->text ? 0 : rondo__fail(RONDO_ENOMEM, "no memory for the decoder of %s", r->path);
}

static bool one_character(const char *text)
{
    uint32_t code;
    size_t n = text ? strlen(text) : 0;
    return n && rondo__utf8_decode((const unsigned char *)text, n, &code) == (int)n;
}

static int read_replace(struct reader *r, const json_t *value)
{
    static const char *const known[] = { "pattern", "content", NULL };
    struct rondo__stage *stage;
    const json_t *pattern = json_object_get(value, "pattern");
    const char *content = rondo__json_text(value, "content"), *string = rondo__json_text(pattern, "String"), *regex = rondo__json_text(pattern, "Regex");
    int err = rondo__component_fields(value, known, "decoder", r->path);
    if (!err && (!content || json_object_size(pattern) != 1 || (!string && !regex)))
        err = rondo__fail(RONDO_EFORMAT, "%s: decoder Replace needs a content and a pattern, {\"String\": ..} or {\"Regex\": ..}", r->path);
    if (!err)
        err = new_stage(r, RONDO__STAGE_REPLACE, &stage);
    if (!err)
        err = set_text(r, stage, content);
    return err ? err : rondo__regex_new(&stage->regex, string ? string : regex, string != NULL, r->path);
}

static int read_strip(struct reader *r, const json_t *value)
{
    static const char *const known[] = { "content", "start", "stop", NULL };
    struct rondo__stage *stage;
    const json_t *start = json_object_get(value, "start"), *stop = json_object_get(value, "stop");
    int err = rondo__component_fields(value, known, "decoder", r->path);
    if (!err && (!one_character(rondo__json_text(value, "content")) || !json_is_integer(start) || !json_is_integer(stop) || json_integer_value(start) < 0 ||
                 json_integer_value(stop) < 0 || json_integer_value(start) > 65535 || json_integer_value(stop) > 65535))
        err = rondo__fail(RONDO_EFORMAT, "%s: decoder Strip needs a content, one character, and start and stop, whole numbers from 0 to 65535", r->path);
    if (!err)
        err = new_stage(r, RONDO__STAGE_STRIP, &stage);
    if (err)
        return err;
    stage->start = (uint32_t)json_integer_value(start);
    stage->stop = (uint32_t)json_integer_value(stop);
    return set_text(r, stage, rondo__json_text(value, "content"));
}

static int read_metaspace(struct reader *r, const json_t *value)
{
    static const char *const known[] = { "replacement", "add_prefix_space", "prepend_scheme", "split", "str_rep", NULL };
    struct rondo__stage *stage;
    const char *scheme = rondo__json_text(value, "prepend_scheme");
    bool prefix = true;
    int err = rondo__component_fields(value, known, "decoder", r->path);
    if (!err && !one_character(rondo__json_text(value, "replacement")))
        err = rondo__fail(RONDO_EFORMAT, "%s: replacement of decoder Metaspace must be one character", r->path);
    if (!err && json_object_get(value, "add_prefix_space") && !json_is_null(json_object_get(value, "add_prefix_space")))
        err = rondo__component_bool(value, "add_prefix_space", -1, "decoder", r->path, &prefix);
    if (!err && (scheme ? strcmp(scheme, "always") && strcmp(scheme, "first") && strcmp(scheme, "never")
                        : json_object_get(value, "prepend_scheme") != NULL))
        err = rondo__fail(RONDO_EFORMAT, "%s: prepend_scheme of decoder Metaspace is none of always, first and never", r->path);
    if (!err)
        err = new_stage(r, RONDO__STAGE_METASPACE, &stage);
    if (err)
        return err;
    stage->drop_first = scheme ? strcmp(scheme, "never") != 0 : prefix;
    return set_text(r, stage, rondo__json_text(value, "replacement"));
}

static int read_bpe(struct reader *r, const json_t *value)
{
    static const char *const known[] = { "suffix", NULL };
    struct rondo__stage *stage;
    const char *suffix = rondo__json_text(value, "suffix");
    int err = rondo__component_fields(value, known, "decoder", r->path);
    if (!err && (!suffix || !*suffix))
        err = rondo__fail(RONDO_EFORMAT, "%s: decoder BPEDecoder needs a suffix", r->path);
    if (!err)
        err = new_stage(r, RONDO__STAGE_BPE, &stage);
    if (!err)
        err = set_text(r, stage, suffix);
    return err ? err : rondo__regex_new(&stage->regex, suffix, true, r->path);
}

static int read_stages(struct reader *r, const json_t *value, int depth)
{
    static const char *const byte_level[] = { "add_prefix_space", "trim_offsets", "use_regex", NULL }, *const sequence[] = { "decoders", NULL },
                      *const none[] = { NULL };
    char shown[RONDO_SHOW_BYTES];
    const char *type;
    struct rondo__stage *stage;
    int err = rondo__component(value, "decoder", r->path, &type);
    if (err)
        return err;
    if (!strcmp(type, "Sequence")) {
        const json_t *items = json_object_get(value, "decoders");
        err = rondo__component_fields(value, sequence, "decoder", r->path);
        if (!err && (!json_is_array(items) || depth == DEPTH_MAX))
            err = rondo__fail(RONDO_EFORMAT, "%s: decoder Sequence needs a list \"decoders\", nested at most %d deep", r->path, DEPTH_MAX);
        for (size_t i = 0; i < json_array_size(items) && !err; i++)
            err = read_stages(r, json_array_get(items, i), depth + 1);
        return err;
    }
    if (!strcmp(type, "Replace"))
        return read_replace(r, value);
    if (!strcmp(type, "Strip"))
        return read_strip(r, value);
    if (!strcmp(type, "Metaspace"))
        return read_metaspace(r, value);
    if (!strcmp(type, "BPEDecoder"))
        return read_bpe(r, value);
    if (!strcmp(type, "ByteFallback")) {
        err = rondo__component_fields(value, none, "decoder", r->path);
        return err ? err : new_stage(r, RONDO__STAGE_BYTE_FALLBACK, &stage);
    }
    if (!strcmp(type, "Fuse") || !strcmp(type, "ByteLevel")) {
        bool fuse = !strcmp(type, "Fuse");
        err = rondo__component_fields(value, fuse ? none : byte_level, "decoder", r->path);
        if (!err)
            err = new_stage(r, fuse ? RONDO__STAGE_FUSE : RONDO__STAGE_BYTE_LEVEL, &stage);
        r->fused = true;
        return err;
    }
    return rondo__fail(RONDO_ENOTSUP, "%s: decoder \"%s\" is not supported; Sequence, Replace, ByteFallback, Fuse, Strip, Metaspace, ByteLevel and "
                       "BPEDecoder are", r->path, rondo__show(shown, type));
}

int rondo__read_decoder(rondo_tokenizer *t, const json_t *value, const char *path)
{
    struct reader r = { t, path, false };
    struct rondo__stage *stage;
    return value && !json_is_null(value) ? read_stages(&r, value, 0) : new_stage(&r, RONDO__STAGE_JOIN, &stage);
}

/* ---- post-processor ---- */

/* Puts `ids` before what is there already (at the front), or behind it. */
static int add_ids(int32_t **list, int64_t *count, const int32_t *ids, int64_t more, bool front, const char *path)
{
    if (!more)
        return 0;
    int32_t *grown = rondo__alloc_zero((size_t)(*count + more), sizeof *grown);
    if (!grown)
        return rondo__fail(RONDO_ENOMEM, "no memory for the post_processor of %s", path);
    memcpy(grown + (front ? 0 : *count), ids, (size_t)more * sizeof *ids);
    if (*count)
        memcpy(grown + (front ? more : 0), *list, (size_t)*count * sizeof *ids);
    rondo__free(*list);
    *list = grown;
    *count += more;
    return 0;
}

#define TEMPLATE_IDS_MAX 256

struct template {
    int32_t ids[2][TEMPLATE_IDS_MAX];      /* before and after the text */
    int64_t count[2];
};

static int read_item(const rondo_tokenizer *t, const json_t *specials, const json_t *item, struct template *out, bool *seen, const char *path)
{
    char shown[RONDO_SHOW_BYTES];
    const json_t *sequence = json_object_get(item, "Sequence"), *special = json_object_get(item, "SpecialToken");
    const char *name = rondo__json_text(sequence ? sequence : special, "id");
    if (json_object_size(item) != 1 || !name)
        return rondo__fail(RONDO_EFORMAT, "%s: a piece of post_processor TemplateProcessing is neither a Sequence nor a SpecialToken with an id", path);
    if (sequence) {
        if (*seen || strcmp(name, "A"))
            return rondo__fail(RONDO_EFORMAT, "%s: \"single\" of post_processor TemplateProcessing must have the sequence A once and no other", path);
        *seen = true;
        return 0;
    }
    const json_t *ids = json_object_get(json_object_get(specials, name), "ids");
    if (!json_is_array(ids))
        return rondo__fail(RONDO_EFORMAT, "%s: post_processor TemplateProcessing has no ids for the special token \"%s\"", path, rondo__show(shown, name));
    for (size_t i = 0; i < json_array_size(ids); i++) {
        const json_t *id = json_array_get(ids, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= t->size || !t->tokens[json_integer_value(id)].name ||
            out->count[*seen] == TEMPLATE_IDS_MAX)
            return rondo__fail(RONDO_EFORMAT, "%s: post_processor TemplateProcessing has an id for \"%s\" that is no token, or too many of them", path,
                               rondo__show(shown, name));
        out->ids[*seen][out->count[*seen]++] = (int32_t)json_integer_value(id);
    }
    return 0;
}

static int read_template(rondo_tokenizer *t, const json_t *value, const char *path)
{
    static const char *const known[] = { "single", "pair", "special_tokens", NULL };
    const json_t *single = json_object_get(value, "single"), *specials = json_object_get(value, "special_tokens");
    bool seen = false;
    int err = rondo__component_fields(value, known, "post_processor", path);
    if (!err && (!json_is_array(single) || !json_is_object(specials)))
        err = rondo__fail(RONDO_EFORMAT, "%s: post_processor TemplateProcessing needs single, an array, and special_tokens, an object", path);
    struct template *template = err ? NULL : rondo__alloc_zero(1, sizeof *template);
    if (!err && !template)
        err = rondo__fail(RONDO_ENOMEM, "no memory for the post_processor of %s", path);
    for (size_t i = 0; i < json_array_size(single) && !err; i++)
        err = read_item(t, specials, json_array_get(single, i), template, &seen, path);
    if (!err && !seen)
        err = rondo__fail(RONDO_EFORMAT, "%s: \"single\" of post_processor TemplateProcessing must have the sequence A once and no other", path);
    if (!err)
        err = add_ids(&t->before, &t->before_count, template->ids[0], template->count[0], true, path);
    if (!err)
        err = add_ids(&t->after, &t->after_count, template->ids[1], template->count[1], false, path);
    rondo__free(template);
    return err;
}

static int read_processors(rondo_tokenizer *t, const json_t *value, const char *path, int depth)
{
    static const char *const byte_level[] = { "add_prefix_space", "trim_offsets", "use_regex", NULL }, *const sequence[] = { "processors", NULL };
    char shown[RONDO_SHOW_BYTES];
    const char *type;
    int err = rondo__component(value, "post_processor", path, &type);
    if (err)
        return err;
    if (!strcmp(type, "TemplateProcessing"))
        return read_template(t, value, path);
    if (!strcmp(type, "ByteLevel"))      /* is about offsets alone */
        return rondo__component_fields(value, byte_level, "post_processor", path);
    if (!strcmp(type, "Sequence")) {
        const json_t *items = json_object_get(value, "processors");
        err = rondo__component_fields(value, sequence, "post_processor", path);
        if (!err && (!json_is_array(items) || depth == DEPTH_MAX))
            err = rondo__fail(RONDO_EFORMAT, "%s: post_processor Sequence needs a list \"processors\", nested at most %d deep", path, DEPTH_MAX);
        for (size_t i = 0; i < json_array_size(items) && !err; i++)
            err = read_processors(t, json_array_get(items, i), path, depth + 1);
        return err;
    }
    return rondo__fail(RONDO_ENOTSUP, "%s: post_processor \"%s\" is not supported; Sequence, TemplateProcessing and ByteLevel are", path,
                       rondo__show(shown, type));
}

int rondo__read_processor(rondo_tokenizer *t, const json_t *value, const char *path)
{
    return value && !json_is_null(value) ? read_processors(t, value, path, 0) : 0;
}
