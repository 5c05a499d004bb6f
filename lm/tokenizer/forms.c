/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Unicode normal forms (UAX #15) by utf8proc, whose tables are kept by people who keep tables; without it a tokenizer that needs one is
 * refused by name. Called by steps.c, which reads which form a tokenizer wants, and split.c, which runs it.
 *
 * A text is normalized in runs: no ASCII character ever joins what stands before it, so a run begins with the last one before others, and what
 * lies between runs stays as it is.
 */
#include "lm/tokenizer/tokenizer.h"

#include "rondo_config.h"

#ifdef HAVE_UTF8PROC
#include <utf8proc.h>

/* Characters that one becomes at most: 18, U+FDFA. */
#define LONGEST 32

static const struct {
    const char *name;
    int options;
} forms[] = {
    { "NFC", UTF8PROC_STABLE | UTF8PROC_COMPOSE },
    { "NFD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE },
    { "NFKC", UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT },
    { "NFKD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT },
};

int rondo__form_find(const char *name)
{
    for (int i = 0; i < (int)(sizeof forms / sizeof *forms); i++)
        if (!strcmp(forms[i].name, name))
            return i;
    return -1;
}

const char *rondo__form_names(void)
{
    return ", NFC, NFD, NFKC, NFKD";
}

static int class_of(int32_t code)
{
    return (int)utf8proc_get_property(code)->combining_class;
}

/* Marks [first, end) by rising class, those of one class as they stood. utf8proc's own ordering goes back step by step, which a text of nothing
 * but marks makes quadratic. */
static int order(int32_t *codes, size_t first, size_t end, int32_t **spare, size_t *spare_room)
{
    size_t begins[257] = { 0 };
    const size_t n = end - first;
    int err = rondo__grow((void **)spare, spare_room, 0, n, sizeof **spare);
    for (size_t i = first; i < end && !err; i++)
        begins[class_of(codes[i]) + 1]++;
    for (int c = 1; c <= 256; c++)
        begins[c] += begins[c - 1];
    for (size_t i = first; i < end && !err; i++)
        (*spare)[begins[class_of(codes[i])]++] = codes[i];
    if (!err)
        memcpy(codes + first, *spare, n * sizeof *codes);
    return err;
}

/* Every run of marks that is not in order already. */
static int order_all(struct rondo__form_work *w)
{
    int err = 0;
    for (size_t i = 0; i < w->count && !err; i++) {
        const size_t first = i;
        bool ordered = true;
        for (int before = 0, class; i < w->count && (class = class_of(w->codes[i])) != 0; before = class, i++)
            ordered = ordered && before <= class;
        if (!ordered)
            err = order(w->codes, first, i, &w->spare, &w->spare_room);
    }
    return err;
}

int rondo__form_run(int form, const char *text, size_t bytes, struct rondo__form_work *w)
{
    const int options = forms[form].options;
    int err = 0;
    w->count = 0;
    for (size_t at = 0; at < bytes && !err;) {
        uint32_t code;
        int boundary = 0;
        at += (size_t)rondo__utf8_decode((const unsigned char *)text + at, bytes - at, &code);
        err = rondo__grow((void **)&w->codes, &w->room, w->count, LONGEST, sizeof *w->codes);
        if (err)
            break;
        const utf8proc_ssize_t n = utf8proc_decompose_char((utf8proc_int32_t)code, w->codes + w->count, LONGEST,
                                                           (utf8proc_option_t)((options & ~UTF8PROC_COMPOSE) | UTF8PROC_DECOMPOSE), &boundary);
        if (n < 0 || n > LONGEST)
            return rondo__fail(RONDO_EFORMAT, "the character U+%04X cannot be normalized", (unsigned)code);
        w->count += (size_t)n;
    }
    if (!err)
        err = order_all(w);
    if (!err && options & UTF8PROC_COMPOSE)
        w->count = (size_t)utf8proc_normalize_utf32(w->codes, (utf8proc_ssize_t)w->count, (utf8proc_option_t)options);
    return err;
}
#else

int rondo__form_find(const char *name)
{
    (void)name;
    return -1;
}

const char *rondo__form_names(void)
{
    return "";
}

int rondo__form_run(int form, const char *text, size_t bytes, struct rondo__form_work *w)
{
    (void)form, (void)text, (void)bytes;
    w->count = 0;
    return rondo__fail(RONDO_ENOTSUP, "this build has no utf8proc");
}
#endif
