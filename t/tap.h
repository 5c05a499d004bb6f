/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The test kit: one header, TAP on stdout, so that `make check` and `prove` both read it. Each t/NNNN-name.c is one program.
 *     ok(condition, "what must hold, case %d", i);  is_int(got, want, "..."); skip(n, "why"); return done();
 */
#ifndef RONDO_T_TAP_H
#define RONDO_T_TAP_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int tap_count, tap_failed;

#if defined(__GNUC__)
#define TAP_PRINTF(a, b) __attribute__((format(printf, a, b), unused))
#else
#define TAP_PRINTF(a, b)
#endif

/* The larger of two errors, where one that is NaN is larger than all and stays: fmax() and a bare comparison lose it. */
__attribute__((unused)) static double worse(double worst, double error)
{
    return error > worst || error != error ? error : worst;
}

TAP_PRINTF(2, 3) static int ok(int condition, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    printf("%sok %d - ", condition ? "" : "not ", ++tap_count);
    vprintf(format, ap);
    printf("\n");
    va_end(ap);
    if (!condition)
        tap_failed++;
    fflush(stdout);
    return condition;
}

TAP_PRINTF(1, 2) static void diag(const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    printf("# ");
    vprintf(format, ap);
    printf("\n");
    va_end(ap);
}

TAP_PRINTF(3, 4) static int is_int(long long got, long long want, const char *format, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    if (!ok(got == want, "%s", text))
        diag("got %lld, want %lld", got, want);
    return got == want;
}

TAP_PRINTF(2, 3) static void skip(int n, const char *format, ...)
{
    char text[512];
    va_list ap;
    va_start(ap, format);
    vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    while (n-- > 0)
        printf("ok %d # SKIP %s\n", ++tap_count, text);
}

TAP_PRINTF(1, 2) static int skip_all(const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    printf("1..0 # SKIP ");
    vprintf(format, ap);
    printf("\n");
    va_end(ap);
    return 0;
}

/* `long_tests()`: the long grids run only where RONDO_TEST_LONG=1 */
__attribute__((unused)) static int long_tests(void)
{
    const char *s = getenv("RONDO_TEST_LONG");
    return s && *s && strcmp(s, "0") != 0;
}

/* Whether programs that name no device run on another one than the CPU, so that what is the CPU's (instruction sets, memory of one kind) is not there. */
__attribute__((unused)) static int other_device(void)
{
    const char *device = getenv("RONDO_TEST_DEVICE");
    return device && strcmp(device, "cpu") != 0;
}

__attribute__((unused)) static int under_sanitizer(void)
{
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
    return 1;
#else
    return 0;
#endif
}

/* Rounds of what is drawn at random. Sanitizers, under which a round takes ten times as long, see the same code in a quarter of them; and graphics
 * cards, which but for one machine in a thousand are a fake driver's, in a tenth. */
__attribute__((unused)) static int rounds_of(int rounds, int long_rounds)
{
    rounds /= under_sanitizer() ? 4 : 1;
    return long_tests() ? long_rounds : other_device() ? (rounds + 9) / 10 : rounds;
}

__attribute__((unused)) static int done(void)
{
    printf("1..%d\n", tap_count);
    return tap_failed ? 1 : 0;
}

#endif
