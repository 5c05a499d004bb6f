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

void warn_user(const char *format, ...)
{
    if (common.quiet || !ranks_first())
        return;
    va_list ap;
    va_start(ap, format);
    progress_wipe();
    fputs("rondo: ", stderr);
    vfprintf(stderr, format, ap);
    fputc('\n', stderr);
    va_end(ap);
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
