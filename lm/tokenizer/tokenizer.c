/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Tokenizers as downloaded: tokenizer.json of byte-level BPE (Llama 3, GPT-2) and of BPE in the manner of SentencePiece (Llama 2,
 * Mistral). Here: opening, asking, and the way from a text to ids. Called by the program (tokenize), by model/model.c and engine/.
 *
 * A tokenizer is immutable; a call of encode has a workspace of its own, so any number of threads may encode at once.
 */
#include "lm/tokenizer/tokenizer.h"

static void free_set(struct rondo__added_set *set)
{
    rondo__free(set->items);
}

static void free_steps(struct rondo__text_step *steps, int32_t count)
{
    for (int32_t i = 0; i < count; i++) {
        rondo__regex_free(steps[i].regex);
        rondo__free(steps[i].text);
    }
    rondo__free(steps);
}

int rondo_tokenizer_open(rondo_tokenizer **out, const char *model_dir)
{
    if (out)
        *out = NULL;
    if (!out || !model_dir)
        return rondo__fail(RONDO_EINVAL, "rondo_tokenizer_open: %s is NULL", out ? "model_dir" : "out");
    rondo_tokenizer *t = rondo__alloc_zero(1, sizeof *t);
    int err = t ? rondo__tokenizer_read(t, model_dir) : rondo__fail(RONDO_ENOMEM, "no memory for the tokenizer of %s", model_dir);
    if (err)
        rondo_tokenizer_close(t);
    else
        *out = t;
    return err;
}

void rondo_tokenizer_close(rondo_tokenizer *t)
{
    if (!t)
        return;
    free_set(&t->raw);
    free_set(&t->normalized);
    free_steps(t->normalizer, t->normalizer_count);
    free_steps(t->splitter, t->splitter_count);
    for (int32_t i = 0; i < t->stage_count; i++) {
        rondo__regex_free(t->stages[i].regex);
        rondo__free(t->stages[i].text);
    }
    rondo__free(t->stages);
    rondo__regex_free(t->word);
    rondo__free(t->bpe.vocabulary.ids);
    rondo__free(t->bpe.merges);
    rondo__free(t->added_names.ids);
    rondo__free(t->added);
    rondo__free(t->added_ids);
    rondo__free(t->before);
    rondo__free(t->after);
    rondo__free(t->normalized_pool);
    rondo__free(t->tokens);
    rondo__free(t->pool);
    rondo__free(t);
}

int32_t rondo_tokenizer_size(const rondo_tokenizer *t)
{
    return t ? t->size : 0;
}

const char *rondo_tokenizer_piece(const rondo_tokenizer *t, int32_t id)
{
    return t && id >= 0 && id < t->size ? t->tokens[id].name : NULL;
}

int32_t rondo_tokenizer_id(const rondo_tokenizer *t, const char *piece)
{
    if (!t || !piece)
        return -1;
    size_t bytes = strlen(piece);
    int32_t at = rondo__vocabulary_find(&t->added_names, t->added, piece, bytes);
    return at >= 0 ? t->added_ids[at] : rondo__vocabulary_find(&t->bpe.vocabulary, t->tokens, piece, bytes);
}

int rondo_tokenizer_is_special(const rondo_tokenizer *t, int32_t id)
{
    return t && id >= 0 && id < t->size && t->tokens[id].special;
}

/* ---- encoding ---- */

size_t rondo__utf8_bad(const unsigned char *p, size_t bytes)
{
    /* How many bytes could have begun a character: what a first byte allows its second to be, then plain continuations. */
    unsigned char a = p[0], low = 0x80, high = 0xbf;
    size_t need = a >= 0xc2 && a <= 0xdf ? 2 : a >= 0xe0 && a <= 0xef ? 3 : a >= 0xf0 && a <= 0xf4 ? 4 : 1;
    if (a == 0xe0)
        low = 0xa0;
    if (a == 0xed)
        high = 0x9f;
    if (a == 0xf0)
        low = 0x90;
    if (a == 0xf4)
        high = 0x8f;
    size_t n = 1;
    while (n < need && n < bytes && p[n] >= low && p[n] <= high) {
        n++;
        low = 0x80;
        high = 0xbf;
    }
    return n;
}

/* The text as valid UTF-8, whole. */
static int take_text(struct rondo__encoder *e, const char *text, size_t bytes)
{
    static const char replacement[] = "\xef\xbf\xbd";
    const unsigned char *p = (const unsigned char *)text;
    int err = rondo__grow((void **)&e->text, &e->room, 0, bytes, 1);
    for (size_t at = 0; at < bytes && !err;) {
        uint32_t code;
        size_t plain = at;
        int n = 1;
        while (at < bytes && (p[at] < 0x80 || (n = rondo__utf8_decode(p + at, bytes - at, &code)) > 0)) {
            at += p[at] < 0x80 ? 1 : (size_t)n;
        }
        err = rondo__grow((void **)&e->text, &e->room, e->bytes, at - plain + 3, 1);
        if (err)
            break;
        memcpy(e->text + e->bytes, text + plain, at - plain);
        e->bytes += at - plain;
        if (at == bytes)
            break;
        if (!(e->flags & RONDO_ENCODE_LOSSY))
            return rondo__fail(RONDO_EFORMAT, "the text is not UTF-8 at byte %zu (0x%02x); give valid UTF-8; RONDO_ENCODE_LOSSY (--lossy of the program rondo) replaces such bytes",
                               at, p[at]);
        memcpy(e->text + e->bytes, replacement, 3);
        e->bytes += 3;
        at += rondo__utf8_bad(p + at, bytes - at);
    }
    if (!err && e->tokenizer->track_origin) {
        err = rondo__grow((void **)&e->origin, &e->origin_room, 0, e->bytes + 1, sizeof *e->origin);
        for (size_t i = 0; i < e->bytes && !err; i++)
            e->origin[i] = i;
    }
    if (!err && e->bytes) {
        err = rondo__grow((void **)&e->stretches, &e->stretch_room, 0, 1, sizeof *e->stretches);
        if (!err)
            e->stretches[e->count++] = (struct rondo__stretch){ 0, e->bytes, -1 };
    }
    return err;
}

static int encode(struct rondo__encoder *e, const char *text, size_t bytes)
{
    const rondo_tokenizer *t = e->tokenizer;
    int err = rondo__matcher_new(&e->matcher);
    if (!err)
        err = take_text(e, text, bytes);
    if (!err)
        err = rondo__encoder_added(e, &t->raw);
    for (int32_t i = 0; i < t->normalizer_count && !err; i++)
        err = rondo__encoder_step(e, &t->normalizer[i]);
    if (!err)
        err = rondo__encoder_added(e, &t->normalized);
    for (int32_t i = 0; i < t->splitter_count && !err; i++)
        err = rondo__encoder_step(e, &t->splitter[i]);
    bool special = e->flags & RONDO_ENCODE_SPECIAL;
    for (int64_t i = 0; special && i < t->before_count && !err; i++)
        err = rondo__encoder_push(e, t->before[i]);
    for (size_t i = 0; i < e->count && !err; i++) {
        const struct rondo__stretch *p = &e->stretches[i];
        err = p->token >= 0 ? rondo__encoder_push(e, p->token) : rondo__encoder_bpe(e, e->text + p->begin, p->end - p->begin);
    }
    for (int64_t i = 0; special && i < t->after_count && !err; i++)
        err = rondo__encoder_push(e, t->after[i]);
    return err;
}

int rondo_tokenizer_encode(const rondo_tokenizer *t, const char *text, size_t bytes, uint32_t flags, int32_t **ids, int64_t *count)
{
    if (ids)
        *ids = NULL;
    if (count)
        *count = 0;
    if (!t || !ids || !count || (!text && bytes))
        return rondo__fail(RONDO_EINVAL, "rondo_tokenizer_encode: %s is NULL", !t ? "tokenizer" : !ids ? "ids" : !count ? "count" : "text");
    if (flags & ~(RONDO_ENCODE_SPECIAL | RONDO_ENCODE_LOSSY | RONDO_ENCODE_PLAIN))
        return rondo__fail(RONDO_EINVAL, "rondo_tokenizer_encode: flags 0x%x has bits that are not known; RONDO_ENCODE_SPECIAL, _LOSSY and _PLAIN are",
                           (unsigned)flags);
    struct rondo__encoder e = { .tokenizer = t, .flags = flags };
    int err = encode(&e, text, bytes);
    if (!err)
        err = rondo__grow((void **)&e.ids, &e.id_room, e.id_count, 1, sizeof *e.ids);      /* no ids give a pointer too */
    if (!err) {
        *ids = e.ids;
        *count = (int64_t)e.id_count;
        e.ids = NULL;
    }
    rondo__encoder_free(&e);
    return err;
}
