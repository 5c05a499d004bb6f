/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Errors of the program: one sentence is kept and printed once, at the end, by main.c. The map from library codes to exit
 * codes stands here and nowhere else.
 */
#define _GNU_SOURCE   /* madvise */
#include "cli/cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

static char sentence_kept[1024];

int fail(int exit_code, const char *format, ...)
{
    char text[sizeof sentence_kept];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    memcpy(sentence_kept, text, sizeof text);
    return exit_code;
}

void fail_replace(const char *sentence)
{
    snprintf(sentence_kept, sizeof sentence_kept, "%s", sentence);
}

int fail_where(int exit_code, const char *where)
{
    char text[sizeof sentence_kept];
    snprintf(text, sizeof text, "%s", sentence_kept);
    return fail(exit_code, "%s: %s", where, text);
}

const char *fail_text(void)
{
    return sentence_kept;
}

/* A full disk is told from a bad file by the system's own words in the sentence: the code is RONDO_EIO for both, and errno does
 * not travel between ranks. */
static bool about_room(const char *sentence)
{
    static const int codes[] = { ENOSPC, EDQUOT, EFBIG, ENOMEM };
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        if (strstr(sentence, strerror(codes[i])))
            return true;
    return false;
}

static int exit_code_of(int code, enum stage stage, const char *sentence)
{
    switch (code) {
    case RONDO_OK:
        return EXIT_DONE;
    case RONDO_EINVAL:
    case RONDO_ENOTSUP:
        return stage == STAGE_INPUT ? EXIT_INPUT : EXIT_USAGE;
    case RONDO_ENOMEM:
        return EXIT_ROOM;
    case RONDO_EIO:
        return stage == STAGE_OUTPUT || about_room(sentence) ? EXIT_ROOM : EXIT_INPUT;
    case RONDO_EFORMAT:
        return EXIT_INPUT;
    case RONDO_ECANCELED:
        return signals_exit_code();
    default:
        return EXIT_PEER;   /* EMISMATCH, EPEER, ETIMEDOUT, EDEVICE, ETRANSPORT */
    }
}

int fail_code(int code, enum stage stage, const char *sentence)
{
    if (!code)
        return EXIT_DONE;
    if (!sentence || !*sentence)
        sentence = rondo_error_string(code);
    return fail(exit_code_of(code, stage, sentence), "%s", sentence);
}

int fail_library(int code, enum stage stage)
{
    return fail_code(code, stage, rondo_error_text());
}

/* Bytes of the character at p, if it is UTF-8 and no control character; else 0. */
static size_t printable(const unsigned char *p)
{
    const size_t bytes = *p < 0x80 ? 1 : *p < 0xc2 ? 0 : *p < 0xe0 ? 2 : *p < 0xf0 ? 3 : *p < 0xf5 ? 4 : 0;
    uint32_t code = bytes == 1 ? *p : *p & (0x3fu >> (bytes - 1));
    for (size_t i = 1; i < bytes; code = code << 6 | (p[i++] & 0x3f))
        if ((p[i] & 0xc0) != 0x80)   /* the end, too */
            return 0;
    const bool control = code < 0x20 || (code >= 0x7f && code < 0xa0);
    const bool other = code > 0x10ffff || (code >= 0xd800 && code < 0xe000) || (bytes == 3 && code < 0x800) || (bytes == 4 && code < 0x10000);
    return control || other ? 0 : bytes;
}

void say_line(const char *text, const char *more)
{
    const char *const parts[] = { "rondo: ", text, more };
    for (int i = 0; i < 3; i++)
        for (const unsigned char *p = (const unsigned char *)parts[i]; *p;) {
            const size_t bytes = printable(p);
            if (bytes)
                fwrite(p, 1, bytes, stderr);
            else
                fprintf(stderr, "\\x%02x", *p);
            p += bytes ? bytes : 1;
        }
    fputc('\n', stderr);
}

void warn_user(const char *format, ...)
{
    char text[sizeof sentence_kept];
    va_list ap;
    if (common.quiet || !ranks_first())
        return;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    progress_wipe();
    say_line(text, "");
}

void *room(int64_t count, size_t size)
{
    size_t bytes;
    if (count < 0 || __builtin_mul_overflow((size_t)count, size, &bytes) || bytes > SIZE_MAX - 64)
        return NULL;
    bytes = (bytes + 63) & ~(size_t)63;
    char *block = aligned_alloc(64, bytes ? bytes : 64);
#ifdef MADV_HUGEPAGE
    /* as numpy does: large arrays in large pages */
    if (block && bytes >= (size_t)4 << 20) {
        const size_t skip = -(uintptr_t)block & 65535u;   /* to a page, of whatever size */
        (void)madvise(block + skip, bytes - skip, MADV_HUGEPAGE);
    }
#endif
    return block;
}
