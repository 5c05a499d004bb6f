/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What a failed call leaves in its output pointer: NULL. used by 4060 (librondo) and 6111 (librondo_lm), which together hold every
 * public function that gives a pointer; t/0125-structures.t sees that none is missing.
 */
#ifndef RONDO_T_OUTPUTS_H
#define RONDO_T_OUTPUTS_H

#include "rondo.h"
#include "tap.h"

__attribute__((unused)) static char outputs_poison;   /* its address stands for whatever the caller's variable held before */

/* The call fails with this code and a sentence, and its output is NULL after it. */
#define LEAVES_NULL(want, out, call)                                                                                \
    do {                                                                                                            \
        (out) = (void *)&outputs_poison;                                                                            \
        const int code_ = (call);                                                                                   \
        if (!ok(code_ == (want) && !(out) && *rondo_error_text(), "%s: %s", rondo_error_name(want), #call))         \
            diag("%s, output %s, '%s'", rondo_error_name(code_), !(out) ? "NULL" : (void *)(out) == (void *)&outputs_poison ? "untouched" : "set", \
                 rondo_error_text());                                                                               \
    } while (0)

/* Nowhere to put it: refused, and nothing is written. */
#define NEEDS_OUTPUT(call) is_int(call, RONDO_EINVAL, "%s", #call)

/* ---- each allocation fails once ---- */

static _Atomic long outputs_calls, outputs_fail_at;

__attribute__((unused)) static void *outputs_take(void *user, size_t bytes, size_t align)
{
    (void)user;
    return ++outputs_calls == outputs_fail_at ? NULL : aligned_alloc(align, bytes);
}

__attribute__((unused)) static void outputs_give(void *user, void *memory, size_t bytes)
{
    (void)user;
    (void)bytes;
    free(memory);
}

/* The n-th allocation of the call fails, for every n until it succeeds; then `release` gives back what came. One thread only. */
#define LEAVES_NULL_WITHOUT_MEMORY(out, call, release)                                                              \
    do {                                                                                                            \
        int code_ = RONDO_ENOMEM, wrong_ = 0;                                                                       \
        long n_ = 0;                                                                                                \
        while (code_) {                                                                                             \
            (out) = (void *)&outputs_poison;                                                                        \
            outputs_calls = 0;                                                                                      \
            outputs_fail_at = ++n_;                                                                                 \
            code_ = (call);                                                                                         \
            outputs_fail_at = 0;                                                                                    \
            if (code_ && (code_ != RONDO_ENOMEM || (out))) {                                                        \
                diag("allocation %ld: %s, %s", n_, rondo_error_name(code_), rondo_error_text());                    \
                wrong_++;                                                                                           \
                if (code_ != RONDO_ENOMEM)                                                                          \
                    break;                                                                                          \
            }                                                                                                       \
        }                                                                                                           \
        ok(!wrong_ && n_ > 1 && (out), "each of %ld allocations fails: %s", n_ - 1, #call);                         \
        release;                                                                                                    \
    } while (0)

#endif
