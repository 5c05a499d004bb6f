/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The few signs that the program prints beyond ASCII, for people: only where the user's locale is UTF-8. The program never
 * calls setlocale(), so that numbers are written the same everywhere; here the locale is asked for without being taken.
 */
#define _GNU_SOURCE   /* newlocale, nl_langinfo_l */
#include "cli/cli.h"

#include <langinfo.h>
#include <locale.h>
#include <stdlib.h>
#include <string.h>

/* The variables in their order; a locale that is named and not installed (a bare container) is believed all the same. */
static bool named_utf8(void)
{
    static const char *const names[] = { "LC_ALL", "LC_CTYPE", "LANG" };
    const char *text = NULL;
    for (size_t i = 0; i < sizeof names / sizeof *names && (!text || !*text); i++)
        text = getenv(names[i]);
    const char *dot = text ? strchr(text, '.') : NULL;
    return dot && (!strncmp(dot, ".UTF-8", 6) || !strncmp(dot, ".utf8", 5));
}

static bool utf8(void)
{
    locale_t locale = newlocale(LC_CTYPE_MASK, "", (locale_t)0);
    if (!locale)
        return named_utf8();
    const bool is = !strcmp(nl_langinfo_l(CODESET, locale), "UTF-8");
    freelocale(locale);
    return is;
}

const char *sign(const char *fancy, const char *plain)
{
    static int known;   /* 0: not asked yet */
    if (!known)
        known = utf8() ? 1 : 2;
    return known == 1 ? fancy : plain;
}

const char *pass_sign(bool pass)
{
    return pass ? sign("\u2705", "[ok]") : sign("\u274C", "[!!]");
}
