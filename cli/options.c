/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Options, table by table: each command brings its own and adds the shared ones of common.c. Long options are written whole
 * (--ranks 4 or --ranks=4), numbers are read to their last character, and an option given twice is refused: nothing that a
 * user writes is passed over.
 */
#include "cli/cli.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define OPTION_MOST 96   /* in all tables of a command */

int parse_int(const char *text, int64_t low, int64_t high, int64_t *out)
{
    char *end;
    if (!*text || strspn(text, "+-0123456789") != strlen(text))
        return -1;
    errno = 0;
    long long x = strtoll(text, &end, 10);
    if (errno || *end || end == text || x < low || x > high)
        return -1;
    *out = x;
    return 0;
}

int parse_u64(const char *text, uint64_t *out)
{
    char *end;
    if (!*text || strspn(text, "0123456789") != strlen(text))
        return -1;
    errno = 0;
    unsigned long long x = strtoull(text, &end, 10);
    if (errno || *end || end == text)
        return -1;
    *out = x;
    return 0;
}

int parse_real(const char *text, double low, double high, double *out)
{
    char *end;
    if (!*text || strspn(text, "+-.0123456789eE") != strlen(text))
        return -1;
    errno = 0;
    double x = strtod(text, &end);
    if (*end || end == text || (errno && fabs(x) > 1) || !(x >= low && x <= high))
        return -1;
    *out = x;
    return 0;
}

const char *shown_name(const struct option *o, char shown[SHOWN_NAME])
{
    snprintf(shown, SHOWN_NAME, "--%s", o->name);
    return shown;
}

int option_list(const struct option *option, const char *text)
{
    struct list *list = option->to;
    size_t commas = 1;
    for (const char *p = text; *p; p++)
        commas += *p == ',';
    list->at = room((int64_t)commas, sizeof *list->at);
    if (!list->at)
        return fail(EXIT_ROOM, "not enough memory for the list of --%s", option->name);
    const char *p = text;
    for (;;) {
        char piece[32];
        size_t n = strcspn(p, ",");
        if (n >= sizeof piece)
            n = sizeof piece - 1;
        memcpy(piece, p, n);
        piece[n] = 0;
        if (parse_int(piece, (int64_t)option->low, (int64_t)option->high, &list->at[list->count]))
            return fail(EXIT_USAGE, "--%s %s: '%s' is no whole number from %.0f to %.0f; give a list such as 1,2,8", option->name, text,
                        piece, option->low, option->high);
        list->count++;
        p += strcspn(p, ",");
        if (!*p)
            return 0;
        p++;
    }
}

int option_window(const struct option *option, const char *text)
{
    struct window *w = option->to;
    char left[32];
    const char *comma = strchr(text, ',');
    size_t n = comma ? (size_t)(comma - text) : sizeof left;
    if (n >= sizeof left)
        return fail(EXIT_USAGE, "--%s %s: two whole numbers L,R from 0 to 2^61 are expected, -1 for an open side", option->name, text);
    memcpy(left, text, n);
    left[n] = 0;
    if (parse_int(left, -1, INT64_MAX / 4, &w->left) || parse_int(comma + 1, -1, INT64_MAX / 4, &w->right))
        return fail(EXIT_USAGE, "--%s %s: two whole numbers L,R from 0 to 2^61 are expected, -1 for an open side", option->name, text);
    w->given = true;
    return 0;
}

/* The first `count` of the types. */
static int type_of(const struct option *option, const char *text, int count)
{
    int *type = option->to;
    char shown[SHOWN_NAME];
    static const char *const known[] = { "f32", "bf16", "f16", "q8", NULL };
    static const int types[] = { RONDO_F32, RONDO_BF16, RONDO_F16, RONDO_Q8 };
    const char *those[5] = { NULL };
    memcpy(those, known, (size_t)count * sizeof *known);
    const int i = choose_word(shown_name(option, shown), text, those, known + count);
    if (i < 0)
        return EXIT_USAGE;
    *type = types[i];
    return 0;
}

int option_type(const struct option *option, const char *text)
{
    return type_of(option, text, 3);
}

int option_number_type(const struct option *option, const char *text)
{
    return type_of(option, text, 4);
}

static void help_option(const struct option *o)
{
    int n = printf("  ");
    if (o->letter)
        n += printf("-%c%s", o->letter, o->name[1] ? ", " : "");
    if (!o->letter || o->name[1])
        n += printf("--%s", o->name);
    if (o->value)
        n += printf(" %s", o->value);
    if (n > 28)
        n = printf("\n") - 1;
    printf("%*s%s\n", 30 - n, "", o->help);
}

static void help(const struct command *command, const struct option *const tables[OPTION_TABLES])
{
    printf("Usage: rondo %s\n\n%s\n\nOptions:\n", command->synopsis, command->about);
    for (int t = 0; t < OPTION_TABLES && tables[t]; t++)
        for (const struct option *o = tables[t]; o->name; o++)
            if (o->kind != OPTION_REFUSED && o->kind != OPTION_REFUSED_FLAG)
                help_option(o);
    printf("  %-26s  %s\n", "--help", "print this and exit");
    printf("\nExit codes: 0 done, 1 a comparison failed, 2 wrong use, 3 bad input, 4 not enough memory or disk,\n"
           "5 a peer, transport or device failed; 129, 130, 143 ended by SIGHUP, SIGINT, SIGTERM. The manual: rondo-%s(1).\n", command->name);
}

static int store(const struct option *o, const char *shown, const char *text)
{
    switch (o->kind) {
    case OPTION_FLAG:
        *(bool *)o->to = true;
        return 0;
    case OPTION_INT:
        if (parse_int(text, (int64_t)o->low, o->high >= 9e18 ? INT64_MAX : (int64_t)o->high, o->to))
            return o->high >= 1e15 ? fail(EXIT_USAGE, "%s %s: a whole number of at least %.0f is expected", shown, text, o->low)
                                   : fail(EXIT_USAGE, "%s %s: a whole number from %.0f to %.0f is expected", shown, text, o->low, o->high);
        return 0;
    case OPTION_REAL:
        if (parse_real(text, o->low, o->high, o->to))
            return o->high >= 1e30 ? fail(EXIT_USAGE, "%s %s: a number%s is expected", shown, text,
                                          o->low > 0 ? " above 0" : o->low >= 0 ? " of at least 0" : "")
                                   : fail(EXIT_USAGE, "%s %s: a number from %g to %g is expected", shown, text, o->low, o->high);
        return 0;
    case OPTION_TEXT:
        *(const char **)o->to = text;
        return 0;
    case OPTION_CALL:
    case OPTION_EACH:
        return o->call(o, text);
    default:
        return fail(EXIT_USAGE, "%s: %s", shown, o->help);
    }
}

static const struct option *find(const struct option *const tables[OPTION_TABLES], const char *name, size_t length, char letter, int *index)
{
    *index = 0;
    for (int t = 0; t < OPTION_TABLES && tables[t]; t++)
        for (const struct option *o = tables[t]; o->name; o++, ++*index)
            if (letter ? o->letter == letter : strlen(o->name) == length && length > 1 && !memcmp(o->name, name, length))
                return o;
    return NULL;
}

/* An option that has one dash too few or a slip of the pen is told its neighbour. */
static int unknown(const struct command *command, const struct option *const tables[OPTION_TABLES], const char *word, int length)
{
    const int dashes = word[1] == '-' ? 2 : 1;
    struct near near = { word + dashes, (size_t)(length - dashes), NULL, 0 };
    char hint[NEAR_HINT];
    for (int pass = 0; pass < 2; pass++)   /* what runs comes before what is refused by name */
        for (int t = 0; t < OPTION_TABLES && tables[t]; t++)
            for (const struct option *o = tables[t]; o->name; o++)
                if ((o->kind == OPTION_REFUSED || o->kind == OPTION_REFUSED_FLAG) == pass)
                    near_try(&near, o->name);
    near_try(&near, "help");
    return fail(EXIT_USAGE, "unknown option '%.*s'%s; 'rondo %s --help' lists the options", length, word, near_hint(&near, "--", hint),
                command->name);
}

int options_parse(const struct command *command, const struct option *const tables[OPTION_TABLES], int argc, char **argv,
                  const char **operands, int max, int *operand_count, bool *asked_help)
{
    unsigned char seen[OPTION_MOST] = { 0 };
    bool only_operands = false;
    int operand_n = 0;
    *asked_help = false;
    /* help comes before every complaint about the rest */
    for (int i = 1; i < argc && strcmp(argv[i], "--"); i++)
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            help(command, tables);
            *asked_help = true;
            return output_check();
        }
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        if (only_operands || word[0] != '-' || !word[1]) {
            if (operand_n == max)
                return max ? fail(EXIT_USAGE, "'%s' is one operand too many; usage: rondo %s", word, command->synopsis)
                           : fail(EXIT_USAGE, "'%s': this command takes options only; usage: rondo %s", word, command->synopsis);
            operands[operand_n++] = word;
            continue;
        }
        if (!strcmp(word, "--")) {
            only_operands = true;
            continue;
        }
        const bool is_long = word[1] == '-';
        const char *name = word + (is_long ? 2 : 1), *equals = is_long ? strchr(name, '=') : NULL;
        const size_t length = equals ? (size_t)(equals - name) : strlen(name);
        int index;
        const struct option *o = find(tables, name, length, is_long ? 0 : name[0], &index);
        int whole;   /* -output is no -o with the value "utput" */
        if (!o || (!is_long && find(tables, name, length, 0, &whole)))
            return unknown(command, tables, word, (int)(name - word + (ptrdiff_t)length));
        char shown[64];
        snprintf(shown, sizeof shown, "%.*s", is_long ? (int)(length + 2) : 2, word);
        if (index < OPTION_MOST && seen[index]++ && o->kind != OPTION_EACH)
            return fail(EXIT_USAGE, "%s is given twice; give it once", shown);
        const bool flag = o->kind == OPTION_FLAG || o->kind == OPTION_REFUSED_FLAG;
        const char *text = equals ? equals + 1 : !is_long && name[1] ? name + 1 : NULL;
        if (flag && text)
            return fail(EXIT_USAGE, "%s takes no value, '%s' is given", shown, text);
        if (!flag && !text) {
            if (i + 1 == argc || (!strncmp(argv[i + 1], "--", 2) && o->kind != OPTION_REFUSED))
                return fail(EXIT_USAGE, "%s needs a value %s", shown, o->value ? o->value : "");
            text = argv[++i];
        }
        int code = store(o, shown, text);
        if (code)
            return code;
    }
    *operand_count = operand_n;
    return 0;
}
