/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Added tokens: texts that are found before anything else cuts the text, leftmost first, the longest of those that begin at one
 * place. Special ones (BOS ...) are text where the caller asked for that. Called by tokenizer.c; the rules are those of
 * Hugging Face's added_vocabulary.rs.
 */
#include "lm/tokenizer/tokenizer.h"

#include <stdlib.h>

static int by_bytes(const void *a, const void *b)
{
    const struct rondo__added *x = a, *y = b;
    size_t n = x->bytes < y->bytes ? x->bytes : y->bytes;
    int order = memcmp(x->text, y->text, n);
    return order ? order : x->bytes < y->bytes ? -1 : x->bytes > y->bytes;
}

static int by_bytes_and_order(const void *a, const void *b)
{
    const struct rondo__added *x = a, *y = b;
    int order = by_bytes(x, y);
    return order ? order : x->order < y->order ? -1 : x->order > y->order;
}

void rondo__added_index(struct rondo__added_set *set)
{
    int64_t kept = 0, at = 0;
    if (!set->count)
        return;
    qsort(set->items, (size_t)set->count, sizeof *set->items, by_bytes_and_order);
    for (int64_t i = 0; i < set->count; i++)      /* each text once */
        if (!kept || by_bytes(&set->items[kept - 1], &set->items[i]))
            set->items[kept++] = set->items[i];
    set->count = kept;
    for (int b = 0; b <= 256; b++) {
        while (at < set->count && (unsigned char)set->items[at].text[0] < b)
            at++;
        set->first[b] = (int32_t)at;
    }
}

/* The longest added token that text begins with; NULL: none. */
static const struct rondo__added *longest(const struct rondo__added_set *set, const char *text, size_t bytes)
{
    int64_t low = set->first[(unsigned char)text[0]], high = set->first[(unsigned char)text[0] + 1];
    const struct rondo__added *best = NULL;
    for (size_t n = 1; low < high; n++) {
        if (set->items[low].bytes == n)      /* the shortest comes first */
            best = &set->items[low++];
        if (n == bytes)
            break;
        unsigned char c = (unsigned char)text[n];
        int64_t a = low, b = high;      /* the first item whose byte n is at least c */
        while (a < b) {
            int64_t middle = a + (b - a) / 2;
            if ((unsigned char)set->items[middle].text[n] < c)
                a = middle + 1;
            else
                b = middle;
        }
        low = a;
        b = high;
        while (a < b) {
            int64_t middle = a + (b - a) / 2;
            if ((unsigned char)set->items[middle].text[n] <= c)
                a = middle + 1;
            else
                b = middle;
        }
        high = a;
    }
    return best;
}

/* Where the character before `at` begins. */
static size_t character_before(const char *text, size_t at)
{
    do
        at--;
    while (at && ((unsigned char)text[at] & 0xc0) == 0x80);
    return at;
}

/* Is the character that text begins with one of a word? */
static int is_word(struct rondo__encoder *e, const char *text, size_t bytes)
{
    size_t begin, end;
    int found = rondo__regex_find(e->tokenizer->word, e->matcher, text, bytes, 0, &begin, &end);
    return found > 0 ? begin == 0 : found;
}

/* 1 where the match may stand there, 0 where its neighbours forbid it, or a code. */
static int stands(struct rondo__encoder *e, const struct rondo__added *a, const char *text, size_t bytes, size_t begin, size_t end)
{
    int left = 0, right = 0;
    if (a->special && (e->flags & RONDO_ENCODE_PLAIN))
        return 0;
    if (!a->single_word)
        return 1;
    if (begin) {
        size_t before = character_before(text, begin);
        left = is_word(e, text + before, begin - before);
    }
    if (left >= 0 && end < bytes) {
        uint32_t code;
        right = is_word(e, text + end, (size_t)rondo__utf8_decode((const unsigned char *)text + end, bytes - end, &code));
    }
    return left < 0 ? left : right < 0 ? right : !left && !right;
}

static int cut(struct rondo__encoder *e, const struct rondo__added_set *set, const struct rondo__stretch *p)
{
    const char *text = e->text + p->begin;
    size_t bytes = p->end - p->begin, start = 0;
    for (size_t at = 0; at < bytes;) {
        const struct rondo__added *a = longest(set, text + at, bytes - at);
        if (!a) {
            at++;
            continue;
        }
        size_t begin = at, end = at + a->bytes;
        int fine = stands(e, a, text, bytes, begin, end);
        at = end;
        if (fine < 0)
            return fine;
        if (!fine)
            continue;
        uint32_t code;
        if (a->left && begin < start)      /* a match before has taken all white space that it had */
            begin = start;
        while (a->left && begin > start) {      /* the white space at its left goes with it */
            size_t before = character_before(text, begin);
            (void)rondo__utf8_decode((const unsigned char *)text + before, begin - before, &code);
            if (!rondo__is_space(code))
                break;
            begin = before;
        }
        while (a->right && end < bytes) {
            size_t n = (size_t)rondo__utf8_decode((const unsigned char *)text + end, bytes - end, &code);
            if (!rondo__is_space(code))
                break;
            end += n;
        }
        if (begin >= end)
            continue;
        int err = start < begin ? rondo__stretch_add(e, p->begin + start, p->begin + begin, -1) : 0;
        if (!err)
            err = rondo__stretch_add(e, 0, 0, a->id);
        if (err)
            return err;
        start = end;
    }
    return start < bytes ? rondo__stretch_add(e, p->begin + start, p->end, -1) : 0;
}

int rondo__encoder_added(struct rondo__encoder *e, const struct rondo__added_set *set)
{
    int err = 0;
    if (!set->count)
        return 0;
    e->next_count = 0;
    for (size_t i = 0; i < e->count && !err; i++) {
        const struct rondo__stretch p = e->stretches[i];
        err = p.token >= 0 ? rondo__stretch_add(e, 0, 0, p.token) : cut(e, set, &p);
    }
    if (err)
        return err;
    struct rondo__stretch *stretches = e->stretches;
    size_t room = e->stretch_room;
    e->stretches = e->next_stretches;
    e->stretch_room = e->next_stretch_room;
    e->count = e->next_count;
    e->next_stretches = stretches;
    e->next_stretch_room = room;
    return 0;
}
