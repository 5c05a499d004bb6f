/* SPDX-License-Identifier: BSD-2-Clause
 *
 * From ids to text: the decoder's stages as a stream. A token goes through the stages as soon as it comes; a stage that cannot
 * decide yet holds back (bytes of a character that is not whole, byte tokens that follow each other, spaces at the end). Decoding
 * a list is a stream that is pushed to its end, so both give the same text. Called by the program and by engine/.
 *
 * What decides is the behaviour of Hugging Face's decoders/.
 */
#include "lm/tokenizer/tokenizer.h"

struct state {
    char *held;                    /* held back, or a workspace for one token */
    size_t bytes, room;
    bool begun;                    /* a token has come */
    uint32_t left;                 /* strip: characters that may still go at the start */
};

struct rondo_text_stream {
    const rondo_tokenizer *tokenizer;
    uint32_t flags;
    struct rondo__matcher *matcher;
    struct state states[RONDO__STAGES_MAX];
    char *out;
    size_t bytes, room;
};

static const char replacement[] = "\xef\xbf\xbd";

static int append(char **to, size_t *used, size_t *room, const char *text, size_t bytes)
{
    int err = rondo__grow((void **)to, room, *used, bytes + 1, 1);
    if (err)
        return err;
    if (bytes)
        memcpy(*to + *used, text, bytes);
    *used += bytes;
    return 0;
}

static int hold(struct state *s, const char *text, size_t bytes)
{
    return append(&s->held, &s->bytes, &s->room, text, bytes);
}

static int push(struct rondo_text_stream *s, int k, const char *text, size_t bytes);

/* Every match of the stage's pattern in the held text becomes `text`; the result goes on. */
static int replace(struct rondo_text_stream *s, int k, const char *token, size_t bytes, const char *text, size_t text_bytes)
{
    const struct rondo__stage *stage = &s->tokenizer->stages[k];
    struct state *state = &s->states[k];
    struct rondo__matches m = { 0, 0, false };
    size_t at = 0, begin, end;
    int found, err = 0;
    state->bytes = 0;
    while (!err && (found = rondo__regex_next(stage->regex, s->matcher, token, bytes, &m, &begin, &end)) != 0) {
        if (found < 0)
            return found;
        err = hold(state, token + at, begin - at);
        if (!err)
            err = hold(state, text, text_bytes);
        at = end;
    }
    if (!err)
        err = hold(state, token + at, bytes - at);
    return err ? err : push(s, k + 1, state->held, state->bytes);
}

static int hex_digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The byte that "<0x0A>" spells; -1: it is no such token. */
static int byte_token(const char *text, size_t bytes)
{
    if (bytes != 6 || memcmp(text, "<0x", 3) || text[5] != '>')
        return -1;
    int high = text[3] == '+' ? 0 : hex_digit(text[3]), low = hex_digit(text[4]);      /* a sign: as Rust reads numbers */
    return high < 0 || low < 0 ? -1 : high * 16 + low;
}

/* Byte tokens have come to an end: one text, or a replacement for each byte where it is no UTF-8. */
static int flush_bytes(struct rondo_text_stream *s, int k)
{
    struct state *state = &s->states[k];
    size_t at = 0;
    int n = 1, err = 0;
    if (!state->bytes)
        return 0;
    while (at < state->bytes && n) {
        uint32_t code;
        n = rondo__utf8_decode((const unsigned char *)state->held + at, state->bytes - at, &code);
        at += (size_t)n;
    }
    if (n)
        err = push(s, k + 1, state->held, state->bytes);
    for (size_t i = 0; !n && i < state->bytes && !err; i++)
        err = push(s, k + 1, replacement, 3);
    state->bytes = 0;
    return err;
}

/* ByteLevel: the bytes that the characters stand for, as far as they are whole characters. */
static int push_byte_level(struct rondo_text_stream *s, int k, const char *token, size_t bytes)
{
    struct state *state = &s->states[k];
    size_t before = state->bytes;
    int err = rondo__grow((void **)&state->held, &state->room, state->bytes, bytes + 1, 1);
    if (err)
        return err;
    bool mapped = true;
    for (size_t at = 0; at < bytes && mapped;) {
        uint32_t code = 0;
        at += (size_t)rondo__utf8_decode((const unsigned char *)token + at, bytes - at, &code);
        int byte = rondo__character_byte(code);
        mapped = byte >= 0;
        if (mapped)
            state->held[state->bytes++] = (char)(unsigned char)byte;
    }
    if (!mapped) {      /* a token of other characters stands for itself */
        memcpy(state->held + before, token, bytes);
        state->bytes = before + bytes;
    }
    const unsigned char *p = (const unsigned char *)state->held;
    size_t at = 0, good = 0;
    while (at < state->bytes && !err) {
        uint32_t code;
        size_t left = state->bytes - at, n = (size_t)rondo__utf8_decode(p + at, left, &code);
        if (n) {
            at += n;
            continue;
        }
        n = rondo__utf8_bad(p + at, left);
        if (n == left && p[at] >= 0xc2 && p[at] <= 0xf4)      /* may become a character yet */
            break;
        if (at > good)
            err = push(s, k + 1, state->held + good, at - good);
        if (!err)
            err = push(s, k + 1, replacement, 3);
        at += n;
        good = at;
    }
    if (!err && at > good)
        err = push(s, k + 1, state->held + good, at - good);
    state->bytes -= at;
    memmove(state->held, state->held + at, state->bytes);
    return err;
}

static int push_strip_token(struct rondo_text_stream *s, int k, const char *token, size_t bytes)
{
    const struct rondo__stage *stage = &s->tokenizer->stages[k];
    size_t begin = 0, end = bytes, n = stage->bytes;
    for (uint32_t i = 0; i < stage->start && end - begin >= n && !memcmp(token + begin, stage->text, n); i++)
        begin += n;
    for (uint32_t i = 0; i < stage->stop && end - begin >= n && !memcmp(token + end - n, stage->text, n); i++)
        end -= n;
    return push(s, k + 1, token + begin, end - begin);
}

/* The same over a text that comes bit by bit: what may be the end of it is held back. */
static int push_strip_text(struct rondo_text_stream *s, int k, const char *token, size_t bytes)
{
    const struct rondo__stage *stage = &s->tokenizer->stages[k];
    struct state *state = &s->states[k];
    size_t n = stage->bytes, begin = 0;
    if (!bytes)
        return 0;
    if (!state->begun) {
        state->begun = true;
        state->left = stage->start;
    }
    while (state->left && bytes - begin >= n && !memcmp(token + begin, stage->text, n)) {
        begin += n;
        state->left--;
    }
    if (begin == bytes)
        return 0;
    state->left = 0;
    int err = hold(state, token + begin, bytes - begin);
    if (err)
        return err;
    size_t end = state->bytes;
    for (uint32_t i = 0; i < stage->stop && end >= n && !memcmp(state->held + end - n, stage->text, n); i++)
        end -= n;
    if (end)
        err = push(s, k + 1, state->held, end);
    state->bytes -= end;
    memmove(state->held, state->held + end, state->bytes);
    return err;
}

static int push_metaspace(struct rondo_text_stream *s, int k, const char *token, size_t bytes)
{
    const struct rondo__stage *stage = &s->tokenizer->stages[k];
    struct state *state = &s->states[k];
    bool drop = !state->begun && stage->drop_first;
    int err = 0;
    state->begun = true;
    state->bytes = 0;
    for (size_t at = 0; at < bytes && !err;) {
        if (bytes - at >= stage->bytes && !memcmp(token + at, stage->text, stage->bytes)) {
            err = drop ? 0 : hold(state, " ", 1);
            at += stage->bytes;
        } else {
            err = hold(state, token + at, 1);
            at++;
        }
    }
    return err ? err : push(s, k + 1, state->held, state->bytes);
}

/* BPEDecoder: the suffix of the last token vanishes, that of the others becomes a space; so one token is held. */
static int flush_bpe(struct rondo_text_stream *s, int k, bool last)
{
    struct state *state = &s->states[k];
    if (!state->begun)
        return 0;
    char *token = state->held;
    size_t bytes = state->bytes, room = state->room;
    state->held = NULL;
    state->room = 0;
    int err = replace(s, k, token, bytes, " ", last ? 0 : 1);
    rondo__free(state->held);
    state->held = token;
    state->room = room;
    state->bytes = 0;
    return err;
}

static int push(struct rondo_text_stream *s, int k, const char *text, size_t bytes)
{
    const struct rondo__stage *stage = &s->tokenizer->stages[k];
    struct state *state = &s->states[k];
    int err, byte;
    if (k == s->tokenizer->stage_count)
        return append(&s->out, &s->bytes, &s->room, text, bytes);
    switch (stage->kind) {
    case RONDO__STAGE_REPLACE:
        return replace(s, k, text, bytes, stage->text, stage->bytes);
    case RONDO__STAGE_BYTE_FALLBACK:
        byte = byte_token(text, bytes);
        if (byte >= 0)
            return hold(state, &(char){ (char)(unsigned char)byte }, 1);
        err = flush_bytes(s, k);
        return err ? err : push(s, k + 1, text, bytes);
    case RONDO__STAGE_FUSE:
        return push(s, k + 1, text, bytes);
    case RONDO__STAGE_STRIP:
        return stage->fused ? push_strip_text(s, k, text, bytes) : push_strip_token(s, k, text, bytes);
    case RONDO__STAGE_METASPACE:
        return push_metaspace(s, k, text, bytes);
    case RONDO__STAGE_BYTE_LEVEL:
        return push_byte_level(s, k, text, bytes);
    case RONDO__STAGE_BPE:
        err = flush_bpe(s, k, false);
        state->begun = true;
        return err ? err : hold(state, text, bytes);
    case RONDO__STAGE_JOIN:
        err = state->begun ? push(s, k + 1, " ", 1) : 0;
        state->begun = true;
        return err ? err : push(s, k + 1, text, bytes);
    }
    return 0;
}

/* What the stages hold back comes out, first stage first; then all is as at the start. */
static int finish(struct rondo_text_stream *s)
{
    int err = 0;
    for (int k = 0; k < s->tokenizer->stage_count && !err; k++) {
        struct state *state = &s->states[k];
        enum rondo__stage_kind kind = s->tokenizer->stages[k].kind;
        if (kind == RONDO__STAGE_BYTE_FALLBACK)
            err = flush_bytes(s, k);
        else if (kind == RONDO__STAGE_BYTE_LEVEL && state->bytes)
            err = push(s, k + 1, replacement, 3);
        else if (kind == RONDO__STAGE_BPE)
            err = flush_bpe(s, k, true);
        state->bytes = 0;
        state->begun = false;
    }
    return err;
}

static int push_id(struct rondo_text_stream *s, int32_t id)
{
    const rondo_tokenizer *t = s->tokenizer;
    if (id < 0)
        return rondo__fail(RONDO_EINVAL, "token %d cannot be; ids count from 0", (int)id);
    /* Models have more ids than tokenizers have tokens, and may come to such an id: it stands for no text. */
    if (id >= t->size || !t->tokens[id].name || (t->tokens[id].special && !(s->flags & RONDO_DECODE_SPECIAL)))
        return 0;
    return push(s, 0, t->tokens[id].shown, t->tokens[id].shown_bytes);
}

/* ---- the calls ---- */

/* A stream for the call named function. */
static int stream_new(rondo_text_stream **out, const char *function, const rondo_tokenizer *tokenizer, uint32_t flags)
{
    if (flags & ~RONDO_DECODE_SPECIAL)
        return rondo__fail(RONDO_EINVAL, "%s: flags 0x%x has bits that are not known; RONDO_DECODE_SPECIAL is", function, (unsigned)flags);
    rondo_text_stream *s = rondo__alloc_zero(1, sizeof *s);
    int err = s ? rondo__matcher_new(&s->matcher) : rondo__fail(RONDO_ENOMEM, "no memory for a text");
    if (!err) {
        s->tokenizer = tokenizer;
        s->flags = flags;
        err = append(&s->out, &s->bytes, &s->room, NULL, 0);
    }
    if (err) {
        rondo_text_stream_destroy(s);
        return err;
    }
    *out = s;
    return 0;
}

int rondo_text_stream_create(rondo_text_stream **out, const rondo_tokenizer *tokenizer, uint32_t flags)
{
    if (out)
        *out = NULL;
    if (!out || !tokenizer)
        return rondo__fail(RONDO_EINVAL, "rondo_text_stream_create: %s is NULL", out ? "tokenizer" : "out");
    return stream_new(out, "rondo_text_stream_create", tokenizer, flags);
}

void rondo_text_stream_destroy(rondo_text_stream *s)
{
    if (!s)
        return;
    for (int k = 0; k < RONDO__STAGES_MAX; k++)
        rondo__free(s->states[k].held);
    rondo__matcher_free(s->matcher);
    rondo__free(s->out);
    rondo__free(s);
}

int rondo_text_stream_push(rondo_text_stream *s, int32_t id, const char **text, size_t *bytes)
{
    if (text)
        *text = NULL;
    if (bytes)
        *bytes = 0;
    if (!s || !text || !bytes)
        return rondo__fail(RONDO_EINVAL, "rondo_text_stream_push: %s is NULL", !s ? "stream" : !text ? "text" : "bytes");
    s->bytes = 0;
    int err = id == -1 ? finish(s) : push_id(s, id);
    if (err)
        return err;
    s->out[s->bytes] = 0;
    *text = s->out;
    *bytes = s->bytes;
    return 0;
}

int rondo_tokenizer_decode(const rondo_tokenizer *t, const int32_t *ids, int64_t count, uint32_t flags, char **text, size_t *bytes)
{
    if (text)
        *text = NULL;
    if (bytes)
        *bytes = 0;
    if (!t || !text || !bytes || count < 0 || (!ids && count))
        return rondo__fail(RONDO_EINVAL, "rondo_tokenizer_decode: %s", !t ? "tokenizer is NULL" : !text ? "text is NULL" : !bytes ? "bytes is NULL"
                           : count < 0 ? "count is negative" : "ids is NULL");
    rondo_text_stream *s = NULL;
    int err = stream_new(&s, "rondo_tokenizer_decode", t, flags);
    for (int64_t i = 0; i < count && !err; i++)
        err = push_id(s, ids[i]);
    if (!err)
        err = finish(s);
    if (!err) {
        s->out[s->bytes] = 0;
        *text = s->out;
        *bytes = s->bytes;
        s->out = NULL;
    }
    rondo_text_stream_destroy(s);
    return err;
}
