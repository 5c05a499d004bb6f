/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The text of a sequence as its tokens come, and the texts that end it. Called by generate.c, on every rank alike: all come to
 * the same end without telling each other.
 *
 * The tokenizer's stream gives only characters that later tokens cannot change. Of these, what may yet become a stop text is
 * held back: the longest end of the text that begins one. The earliest stop found ends the text before it; of two that begin
 * at the same place it does not matter which.
 */
#include "core/internal.h"
#include "lm/engine/lm.h"

/* Where a stop begins in text[from, bytes), or -1. */
static int64_t find_stop(const struct rondo_sequence *s, size_t from)
{
    for (size_t at = from; at < s->text_bytes; at++)
        for (int64_t i = 0; i < s->sampling.stop_count; i++)
            if (s->stop_bytes[i] <= s->text_bytes - at && memcmp(s->text + at, s->stops[i], s->stop_bytes[i]) == 0)
                return (int64_t)at;
    return -1;
}

size_t rondo__text_ready(const struct rondo_sequence *s)
{
    if (s->finish)
        return s->text_bytes;
    for (size_t at = s->shown; at < s->text_bytes; at++) {
        size_t rest = s->text_bytes - at;
        for (int64_t i = 0; i < s->sampling.stop_count; i++)
            if (s->stop_bytes[i] > rest && memcmp(s->text + at, s->stops[i], rest) == 0)
                return at;
    }
    return s->text_bytes;
}

int rondo__text_add(struct rondo_sequence *s, int32_t id, bool *stopped)
{
    const char *text = NULL;
    size_t bytes = 0, need;
    *stopped = false;
    if (!s->stream)
        return 0;
    int err = rondo_text_stream_push(s->stream, id, &text, &bytes);
    if (err || bytes == 0)
        return err;
    if (!rondo__add(s->text_bytes, bytes, &need) || !rondo__add(need, 1, &need))
        return rondo__fail(RONDO_ENOMEM, "the text of a sequence would not fit the address space");
    if (need > s->text_room) {
        size_t room = need > SIZE_MAX / 2 ? need : 2 * need;
        char *grown = rondo__resize(s->text, s->text_room, room);
        if (!grown)
            return rondo__fail(RONDO_ENOMEM, "no memory for %zu bytes of text", room);
        s->text = grown;
        s->text_room = room;
    }
    memcpy(s->text + s->text_bytes, text, bytes);
    s->text_bytes = need - 1;
    s->text[s->text_bytes] = 0;
    /* What was shown could not begin a stop that the text then continued, so nothing before it needs another look. */
    int64_t at = find_stop(s, s->shown);
    if (at >= 0) {
        s->text_bytes = (size_t)at;
        s->text[at] = 0;
        *stopped = true;
    }
    return 0;
}
