/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The neighbour of a mistyped word: among the names that would have been accepted, the one that the fewest slips of the pen
 * lead to (insertion, deletion, substitution, exchange of two neighbours: Damerau 1964, in its restricted form), if they
 * are few for the length of the word. A beginning counts as near too: --temp for --temperature. Called where options,
 * commands and the words of a choice are refused; nothing is ever taken for its neighbour.
 */
#include "cli/cli.h"

#include <string.h>

#define NEAR_BYTES 32   /* longer words than any name have no neighbour */

static int least(int a, int b)
{
    return a < b ? a : b;
}

static int slips(const char *a, size_t na, const char *b, size_t nb)
{
    int d[NEAR_BYTES + 1][NEAR_BYTES + 1];
    for (size_t i = 0; i <= na; i++)
        d[i][0] = (int)i;
    for (size_t j = 0; j <= nb; j++)
        d[0][j] = (int)j;
    for (size_t i = 1; i <= na; i++)
        for (size_t j = 1; j <= nb; j++) {
            d[i][j] = least(least(d[i - 1][j], d[i][j - 1]) + 1, d[i - 1][j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                d[i][j] = least(d[i][j], d[i - 2][j - 2] + 1);
        }
    return d[na][nb];
}

void near_try(struct near *n, const char *name)
{
    const size_t typed = n->length, length = strlen(name);
    if (typed < 2 || typed > NEAR_BYTES || length < 2 || length > NEAR_BYTES)
        return;
    int count = slips(n->typed, typed, name, length);
    /* a third of the letters at most; a beginning, of three letters on, is as good as one slip */
    if (typed >= 3 && typed < length && !memcmp(n->typed, name, typed))
        count = 1;
    else if (count > (int)(least((int)typed, (int)length) + 1) / 3)
        return;
    if (!n->name || count < n->slips) {
        n->name = name;
        n->slips = count;
    }
}

const char *near_hint(const struct near *n, const char *before, char text[NEAR_HINT])
{
    text[0] = 0;
    if (n->name)
        snprintf(text, NEAR_HINT, " (did you mean %s%s?)", before, n->name);
    return text;
}

int choose_word(const char *shown, const char *text, const char *const *known, const char *const *later)
{
    struct near near = { text, strlen(text), NULL, 0 };
    char list[160] = "", hint[NEAR_HINT];
    size_t n = 0;
    for (int i = 0; known[i]; i++) {
        if (!strcmp(text, known[i]))
            return i;
        near_try(&near, known[i]);
        n += (size_t)snprintf(list + n, sizeof list - n, "%s%s", !i ? "" : known[i + 1] ? ", " : " and ", known[i]);
    }
    for (int i = 0; later && later[i]; i++)
        if (!strcmp(text, later[i])) {
            fail(EXIT_USAGE, "%s %s is not part of this version; %s %s", shown, text, list, known[1] ? "are" : "is");
            return -1;
        }
    fail(EXIT_USAGE, "%s %s is not known%s; %s %s", shown, text, near_hint(&near, "", hint), list, known[1] ? "are" : "is");
    return -1;
}
