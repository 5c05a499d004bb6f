/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Patterns of tokenizer.json on PCRE2 (regex.h). The rewriting keeps what both engines mean alike and spells out the classes in which
 * they differ: \s (PCRE2 adds U+180E), \w (PCRE2 before 10.43 has no marks), \h, \v, and scripts (PCRE2 takes script
 * extensions). Everything else is passed on or refused by name; nothing is guessed. Compared with Oniguruma over all of Unicode; what
 * is left is that the two know different versions of it.
 *
 * Matching is interpreted, without the just-in-time compiler: its state lies on the heap, under a limit, so that one
 * letter over and over cannot exhaust a stack. Called by split.c and decode.c.
 */
#include "lm/tokenizer/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <stdio.h>

#include "lm/files.h"

/* A match may take this many steps, and this many for each byte that lies ahead. Honest patterns take three or so a byte. */
#define STEPS 1000000u
#define STEPS_A_BYTE 64u
#define HEAP_KIB (512u << 10)
#define PATTERN_BYTES_MAX 65535u

struct rondo__regex {
    pcre2_code *code;      /* NULL: the literal */
    char *text;            /* the literal, or the pattern as it was given, for sentences */
    size_t bytes;
};

struct rondo__matcher {
    pcre2_general_context *general;
    pcre2_match_context *context;
    pcre2_match_data *data;
};

static void *take(PCRE2_SIZE bytes, void *unused)
{
    (void)unused;
    return rondo__alloc(bytes);
}

static void give(void *memory, void *unused)
{
    (void)unused;
    rondo__free(memory);
}

/* ---- rewriting ---- */

#define SPACE "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define NO_SPACE "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}\\x{200b}-\\x{2027}" \
                 "\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}"
#define WORD "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
#define BARE_WORD WORD "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}"      /* outside of brackets Oniguruma counts these in */
#define HEX "0-9a-fA-F"

bool rondo__is_space(unsigned c)
{
    return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 ||
           c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

#define DEPTH_MAX 200

struct rewrite {
    const char *at;        /* what is left of the pattern */
    const char *pattern, *where;
    char *out;
    size_t used, room;
    int err;
    int depth;
    bool caseless[DEPTH_MAX + 1];      /* of the group at each depth */
    char before;           /* the letter that was just written, for pairs; 0: none */
};

static int refuse(struct rewrite *r, const char *what)
{
    char shown[RONDO_SHOW_BYTES];
    if (!r->err)
        r->err = rondo__fail(RONDO_ENOTSUP, "%s: the pattern \"%s\" uses %s, which is not supported", r->where, rondo__show(shown, r->pattern), what);
    return r->err;
}

static void emit(struct rewrite *r, const char *text, size_t n)
{
    if (r->err)
        return;
    if (n > r->room - r->used) {
        size_t room = 2 * r->room + n + 64;
        char *more = rondo__resize(r->out, r->used, room);
        if (!more) {
            r->err = rondo__fail(RONDO_ENOMEM, "no memory for a pattern");
            return;
        }
        r->out = more;
        r->room = room;
    }
    memcpy(r->out + r->used, text, n);
    r->used += n;
}

static void emit_text(struct rewrite *r, const char *text)
{
    emit(r, text, strlen(text));
}

/* Without regard to case Oniguruma also lets one character match two (\u00df and "ss"), which PCRE2 does not. So what could do that is
 * refused there: characters beyond ASCII, and the pairs of letters that have a character of their own. */
static void check_case(struct rewrite *r, char c)
{
    static const char pairs[][3] = { "ss", "st", "ff", "fi", "fl" };
    char lower = c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
    if (r->caseless[r->depth]) {
        if ((unsigned char)c >= 0x80)
            refuse(r, "characters beyond ASCII without regard to case");
        for (size_t i = 0; i < sizeof pairs / sizeof pairs[0]; i++)
            if (r->before == pairs[i][0] && lower == pairs[i][1])
                refuse(r, "ss, st, ff, fi or fl without regard to case");
    }
    r->before = lower;
}

/* Class escapes: outside of brackets they become a class of their own. */
static void emit_class(struct rewrite *r, bool inside, bool negated, const char *members)
{
    if (inside) {
        emit_text(r, members);
    } else {
        emit_text(r, negated ? "[^" : "[");
        emit_text(r, members);
        emit_text(r, "]");
    }
}

/* \p{..}: general categories mean the same; a script is asked for by the Script property itself. */
static void property(struct rewrite *r, char letter)
{
    static const char *const categories[] = { "L", "Lu", "Ll", "Lt", "Lm", "Lo", "M", "Mn", "Mc", "Me", "N", "Nd", "Nl", "No", "P", "Pc", "Pd", "Ps", "Pe",
                                              "Pi", "Pf", "Po", "S", "Sm", "Sc", "Sk", "So", "Z", "Zs", "Zl", "Zp", "C", "Cc", "Cf", "Cn", "Co" };
    static const char *const scripts[] = { "Han", "Hiragana", "Katakana", "Hangul", "Latin", "Greek", "Cyrillic", "Arabic", "Hebrew", "Thai",
                                           "Devanagari", "Bengali", "Tamil", "Telugu", "Armenian", "Georgian", "Ethiopic", "Khmer", "Lao", "Myanmar",
                                           "Tibetan", "Mongolian", "Bopomofo" };
    char name[24];
    const char *end = *r->at == '{' ? strchr(r->at, '}') : NULL, *begin = r->at + 1;
    bool negated = letter == 'P';
    if (end && *begin == '^') {
        negated = !negated;
        begin++;
    }
    if (!end || end == begin || (size_t)(end - begin) >= sizeof name) {
        refuse(r, "\\p without a name that is known");
        return;
    }
    memcpy(name, begin, (size_t)(end - begin));
    name[end - begin] = 0;
    r->at = end + 1;
    const char *kind = NULL;
    for (size_t i = 0; i < sizeof categories / sizeof categories[0]; i++)
        if (!strcmp(name, categories[i]))
            kind = "";
    for (size_t i = 0; i < sizeof scripts / sizeof scripts[0]; i++)
        if (!strcmp(name, scripts[i]))
            kind = "sc:";
    if (!kind) {
        char what[96], shown[RONDO_SHOW_BYTES];
        snprintf(what, sizeof what, "\\p{%s}", rondo__show(shown, name));
        refuse(r, what);
        return;
    }
    emit_text(r, negated ? "\\P{" : "\\p{");
    emit_text(r, kind);
    emit_text(r, name);
    emit_text(r, "}");
}

/* \xHH (ASCII only: above it Oniguruma means a byte), \x{H..}, \uHHHH */
static void number(struct rewrite *r, char letter)
{
    char text[16];
    unsigned code = 0;
    int digits = 0, most = letter == 'u' ? 4 : 2;
    bool braces = letter == 'x' && *r->at == '{';
    if (braces) {
        r->at++;
        most = 8;
    }
    for (; digits < most; digits++, r->at++) {
        char c = *r->at;
        unsigned d = c >= '0' && c <= '9' ? (unsigned)(c - '0') : c >= 'a' && c <= 'f' ? (unsigned)(c - 'a' + 10)
                                                                : c >= 'A' && c <= 'F' ? (unsigned)(c - 'A' + 10) : 16;
        if (d == 16)
            break;
        code = code << 4 | d;
    }
    bool fine = braces ? digits > 0 && *r->at == '}' : letter == 'u' ? digits == 4 : digits == 2 && code < 0x80;
    if (!fine || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) {
        refuse(r, letter == 'u' ? "\\u without a character's four digits" : "\\x without an ASCII character's two digits");
        return;
    }
    if (braces)
        r->at++;
    snprintf(text, sizeof text, "\\x{%x}", code);
    emit_text(r, text);
}

/* r->at is behind the backslash. *is_class: it stands for a set, so that no range can begin or end with it. */
static void escape(struct rewrite *r, bool inside, bool *is_class)
{
    char c = *r->at, what[24];
    *is_class = c && strchr("sSdDwWhHpP", c);
    r->before = 0;
    if (r->caseless[r->depth] && c && strchr("SDwWHpPxu", c)) {
        refuse(r, "a class of letters or a character's number without regard to case");
        return;
    }
    if (!c) {
        refuse(r, "a backslash at its end");
        return;
    }
    r->at++;
    switch (c) {
    case 's':
        emit_class(r, inside, false, SPACE);
        return;
    case 'S':
        emit_class(r, inside, false, NO_SPACE);
        return;
    case 'd':
        emit_text(r, "\\p{Nd}");
        return;
    case 'D':
        emit_text(r, "\\P{Nd}");
        return;
    case 'w':
        emit_class(r, inside, false, inside ? WORD : BARE_WORD);
        return;
    case 'h':
        emit_class(r, inside, false, HEX);
        return;
    case 'W':
    case 'H':
        if (inside)
            break;
        emit_class(r, false, true, c == 'W' ? BARE_WORD : HEX);
        return;
    case 'p':
    case 'P':
        property(r, c);
        return;
    case 'x':
    case 'u':
        number(r, c);
        return;
    case 'v':
        emit_text(r, "\\x{b}");
        return;
    case 'n':
    case 'r':
    case 't':
    case 'f':
    case 'a':
    case 'e':
        emit(r, (const char[]){ '\\', c }, 2);
        return;
    case 'A':
    case 'z':
        if (inside)
            break;
        emit(r, (const char[]){ '\\', c }, 2);
        return;
    default:
        if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (unsigned char)c < 0x20 || (unsigned char)c >= 0x7f)
            break;
        emit(r, (const char[]){ '\\', c }, 2);
        return;
    }
    snprintf(what, sizeof what, (unsigned char)c >= 0x20 && (unsigned char)c < 0x7f ? "\\%c%s" : "an escape of a special character", c,
             inside ? " in brackets" : "");
    refuse(r, what);
}

/* [...]; r->at is behind the bracket. */
static void brackets(struct rewrite *r)
{
    emit_text(r, "[");
    if (*r->at == '^') {
        emit_text(r, "^");
        r->at++;
    }
    if (*r->at == ']') {
        refuse(r, "an empty pair of brackets, or one that begins with ]");
        return;
    }
    while (!r->err && *r->at != ']') {
        char c = *r->at++;
        bool is_class = false;
        if (!c) {
            refuse(r, "a bracket that is not closed");
        } else if (c == '[') {
            refuse(r, "brackets within brackets");
        } else if (c == '&' && *r->at == '&') {
            refuse(r, "&& in brackets");
        } else if (c == '\\') {
            escape(r, true, &is_class);
            if (is_class && *r->at == '-' && r->at[1] != ']') {      /* the hyphen is one of the characters */
                emit_text(r, "\\-");
                r->at++;
            }
        } else {
            r->before = 0;
            check_case(r, c);
            emit(r, &c, 1);
        }
    }
    r->before = 0;
    emit_text(r, "]");
    if (!r->err)
        r->at++;
}

static void group(struct rewrite *r)
{
    static const char *const fine[] = { "?:", "?=", "?!", "?<=", "?<!", "?>", "?i:", "?-i:", "?i)", "?-i)" };
    emit_text(r, "(");
    if (r->depth == DEPTH_MAX) {
        refuse(r, "groups that are nested too deep");
        return;
    }
    r->depth++;
    r->caseless[r->depth] = r->caseless[r->depth - 1];
    r->before = 0;
    if (*r->at == '*') {
        refuse(r, "a group that begins with *");
        return;
    }
    if (*r->at != '?')
        return;
    for (size_t i = 0; i < sizeof fine / sizeof fine[0]; i++) {
        size_t n = strlen(fine[i]);
        if (!strncmp(r->at, fine[i], n)) {
            emit(r, r->at, n);
            r->at += n;
            if (fine[i][n - 1] == ')')      /* for the rest of the group around it */
                r->depth--;
            if (strchr(fine[i], 'i'))
                r->caseless[r->depth] = fine[i][1] == 'i';
            return;
        }
    }
    refuse(r, "a group of a special kind");
}

/* {n}, {n,}, {n,m}, {,m}; anything else is a plain brace. Possessive and {n}? mean other things in Ruby's syntax. */
static void interval(struct rewrite *r)
{
    const char *p = r->at;
    size_t low = 0, high = 0;
    while (p[low] >= '0' && p[low] <= '9')
        low++;
    bool comma = p[low] == ',';
    if (comma)
        while (p[low + 1 + high] >= '0' && p[low + 1 + high] <= '9')
            high++;
    size_t n = low + (comma ? 1 + high : 0);
    if (p[n] != '}' || (!low && !high)) {
        emit_text(r, "\\{");
        return;
    }
    if (r->caseless[r->depth] && r->before) {
        refuse(r, "a letter with {..} without regard to case");
        return;
    }
    if (p[n + 1] == '+' || (p[n + 1] == '?' && !comma)) {
        refuse(r, p[n + 1] == '+' ? "{..}+" : "{n}?");
        return;
    }
    emit_text(r, low ? "{" : "{0");
    emit(r, p, n + 1);
    r->at += n + 1;
}

static void plain(struct rewrite *r, char c)
{
    if (c == ')') {
        if (!r->depth)
            refuse(r, "a parenthesis that was not opened");
        else
            r->depth--;
    }
    if (strchr(")|^$.*+?", c))
        r->before = 0;
    else
        check_case(r, c);
    emit(r, &c, 1);
}

static void rewrite(struct rewrite *r)
{
    while (!r->err && *r->at) {
        char c = *r->at++;
        bool is_class;
        if (c == '\\')
            escape(r, false, &is_class);
        else if (c == '[')
            brackets(r);
        else if (c == '(')
            group(r);
        else if (c == '{')
            interval(r);
        else
            plain(r, c);
    }
}

/* ---- compiling ---- */

static int compile(struct rondo__regex *regex, const char *pattern, const char *where)
{
    struct rewrite r = { .at = pattern, .pattern = pattern, .where = where };
    pcre2_general_context *general = NULL;
    pcre2_compile_context *context = NULL;
    char shown[RONDO_SHOW_BYTES], text[128];
    int error = 0;
    PCRE2_SIZE offset = 0;
    rewrite(&r);
    int err = r.err;
    if (err)
        goto done;
    err = RONDO_ENOMEM;
    general = pcre2_general_context_create(take, give, NULL);
    context = general ? pcre2_compile_context_create(general) : NULL;
    if (!context) {
        rondo__fail(RONDO_ENOMEM, "no memory for a pattern");
        goto done;
    }
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    regex->code = pcre2_compile((PCRE2_SPTR)(r.out ? r.out : ""), r.used, PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C |
                                PCRE2_NO_AUTO_CAPTURE, &error, &offset, context);
    if (regex->code) {
        err = 0;
    } else if (error == PCRE2_ERROR_NOMEMORY || error == 121) {      /* 121: failed to allocate heap memory */
        rondo__fail(RONDO_ENOMEM, "no memory for a pattern");
    } else {
        if (pcre2_get_error_message(error, (PCRE2_UCHAR *)text, sizeof text) < 0)
            snprintf(text, sizeof text, "error %d", error);
        err = rondo__fail(RONDO_EFORMAT, "%s: the pattern \"%s\" is no acceptable one: %s", where, rondo__show(shown, pattern), text);
    }
done:
    rondo__free(r.out);
    pcre2_compile_context_free(context);
    pcre2_general_context_free(general);
    return err;
}

int rondo__regex_new(struct rondo__regex **out, const char *pattern, bool literal, const char *where)
{
    size_t n = strlen(pattern);
    *out = NULL;
    if (n > PATTERN_BYTES_MAX)
        return rondo__fail(RONDO_EFORMAT, "%s: a pattern has %zu bytes; at most %u are accepted", where, n, PATTERN_BYTES_MAX);
    if (literal && !n)
        return rondo__fail(RONDO_EFORMAT, "%s: the text to look for is empty", where);
    struct rondo__regex *regex = rondo__alloc_zero(1, sizeof *regex);
    if (!regex || !(regex->text = rondo__strdup(pattern))) {
        rondo__free(regex);
        return rondo__fail(RONDO_ENOMEM, "no memory for a pattern");
    }
    regex->bytes = n;
    int err = literal ? 0 : compile(regex, pattern, where);
    if (err) {
        rondo__regex_free(regex);
        return err;
    }
    *out = regex;
    return 0;
}

void rondo__regex_free(struct rondo__regex *regex)
{
    if (!regex)
        return;
    pcre2_code_free(regex->code);
    rondo__free(regex->text);
    rondo__free(regex);
}

int rondo__matcher_new(struct rondo__matcher **out)
{
    struct rondo__matcher *m = rondo__alloc_zero(1, sizeof *m);
    *out = NULL;
    if (m) {
        m->general = pcre2_general_context_create(take, give, NULL);
        m->context = m->general ? pcre2_match_context_create(m->general) : NULL;
        m->data = m->context ? pcre2_match_data_create(1, m->general) : NULL;
    }
    if (!m || !m->data) {
        rondo__matcher_free(m);
        return rondo__fail(RONDO_ENOMEM, "no memory to match patterns");
    }
    pcre2_set_heap_limit(m->context, HEAP_KIB);
    pcre2_set_depth_limit(m->context, UINT32_MAX);      /* the heap limit bounds it */
    *out = m;
    return 0;
}

void rondo__matcher_free(struct rondo__matcher *m)
{
    if (!m)
        return;
    pcre2_match_data_free(m->data);
    pcre2_match_context_free(m->context);
    pcre2_general_context_free(m->general);
    rondo__free(m);
}

static int find_literal(const struct rondo__regex *regex, const char *text, size_t bytes, size_t from, size_t *begin, size_t *end)
{
    while (bytes - from >= regex->bytes) {
        const char *p = memchr(text + from, regex->text[0], bytes - from - regex->bytes + 1);
        if (!p)
            return 0;
        if (!memcmp(p, regex->text, regex->bytes)) {
            *begin = (size_t)(p - text);
            *end = *begin + regex->bytes;
            return 1;
        }
        from = (size_t)(p - text) + 1;
    }
    return 0;
}

int rondo__regex_find(const struct rondo__regex *regex, struct rondo__matcher *m, const char *text, size_t bytes, size_t from, size_t *begin,
                      size_t *end)
{
    char shown[RONDO_SHOW_BYTES], what[128];
    if (!regex->code)
        return find_literal(regex, text, bytes, from, begin, end);
    size_t ahead = bytes - from;
    pcre2_set_match_limit(m->context, ahead < (UINT32_MAX - STEPS) / STEPS_A_BYTE ? STEPS + STEPS_A_BYTE * (uint32_t)ahead : UINT32_MAX);
    int rc = pcre2_match(regex->code, (PCRE2_SPTR)text, bytes, from, PCRE2_NO_UTF_CHECK, m->data, m->context);
    if (rc == PCRE2_ERROR_NOMATCH)
        return 0;
    if (rc >= 0) {
        const PCRE2_SIZE *pair = pcre2_get_ovector_pointer(m->data);
        *begin = pair[0];
        *end = pair[1] < pair[0] ? pair[0] : pair[1];
        return 1;
    }
    if (rc == PCRE2_ERROR_NOMEMORY)
        return rondo__fail(RONDO_ENOMEM, "no memory to match the pattern \"%s\"", rondo__show(shown, regex->text));
    if (pcre2_get_error_message(rc, (PCRE2_UCHAR *)what, sizeof what) < 0)
        snprintf(what, sizeof what, "error %d", rc);
    return rondo__fail(RONDO_ENOTSUP, "the pattern \"%s\" cannot be matched from byte %zu of the text on: %s", rondo__show(shown, regex->text),
                       from, what);
}

int rondo__regex_next(const struct rondo__regex *regex, struct rondo__matcher *matcher, const char *text, size_t bytes, struct rondo__matches *m,
                      size_t *begin, size_t *end)
{
    while (m->from <= bytes) {
        int found = rondo__regex_find(regex, matcher, text, bytes, m->from, begin, end);
        if (found <= 0)
            return found;
        if (*begin == *end && m->any && *end == m->last_end) {
            uint32_t code;
            m->from += m->from < bytes ? (size_t)rondo__utf8_decode((const unsigned char *)text + m->from, bytes - m->from, &code) : 1;
            continue;
        }
        m->from = m->last_end = *end;
        m->any = true;
        return 1;
    }
    return 0;
}
