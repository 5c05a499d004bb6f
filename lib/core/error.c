/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Error codes, the per-thread sentence about the last failure, and the log hook. Everything that fails, in lib/, lm/ and
 * backends/, passes through rondo__fail(); nothing here allocates, so that "not enough memory" can always be said.
 */
#include "core/internal.h"

#include <stdatomic.h>
#include <stdio.h>

#include "core/hooks.h"

/* Long enough for a path and a sentence; what is longer is cut. */
#define SENTENCE_BYTES 1024

static _Thread_local char sentence[SENTENCE_BYTES];
static _Atomic uint64_t failures;
static _Thread_local uint64_t last_failure;

const char *rondo_error_name(int code)
{
    switch (code) {
    case RONDO_OK:
        return "RONDO_OK";
#define CASE(name, value, text)                                                                                        \
    case value:                                                                                                        \
        return "RONDO_" #name;
        RONDO_ERROR_MAP(CASE)
#undef CASE
    default:
        return "unknown code";
    }
}

const char *rondo_error_string(int code)
{
    switch (code) {
    case RONDO_OK:
        return "no error";
#define CASE(name, value, text)                                                                                        \
    case value:                                                                                                        \
        return text;
        RONDO_ERROR_MAP(CASE)
#undef CASE
    default:
        return "unknown code";
    }
}

const char *rondo_error_text(void)
{
    return sentence;
}

uint64_t rondo__last_failure(void)
{
    return last_failure;
}

int rondo__fail(int code, const char *format, ...)
{
    /* Through a second buffer: an argument may be the present sentence itself. */
    char text[SENTENCE_BYTES];
    va_list ap;
    va_start(ap, format);
    int n = vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    if (n < 0)
        text[0] = 0;
    memcpy(sentence, text, sizeof sentence);
    last_failure = atomic_fetch_add_explicit(&failures, 1, memory_order_relaxed) + 1;   /* only that it is another one matters */
    rondo__log(RONDO_LOG_DEBUG, "%s: %s", rondo_error_name(code), sentence);
    return code;
}

void rondo__log(int level, const char *format, ...)
{
    const rondo_hooks *h = rondo__hooks();
    if (!h->log)
        return;
    char text[SENTENCE_BYTES + 64];
    va_list ap;
    va_start(ap, format);
    int n = vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    if (n >= 0)
        h->log(h->user, level, text);
}
