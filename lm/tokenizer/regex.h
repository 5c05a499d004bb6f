/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Patterns of tokenizer.json. They are written for Oniguruma (Ruby syntax, UTF-8) and matched by PCRE2: regex.c rewrites what
 * the two mean differently and refuses by name what it cannot rewrite. A compiled pattern is immutable; what one match needs to
 * write is in a struct rondo__matcher, one for each call.
 */
#ifndef RONDO_LM_REGEX_H
#define RONDO_LM_REGEX_H

#include <stdbool.h>
#include <stddef.h>

struct rondo__regex;
struct rondo__matcher;

/* `where` names the place in sentences ("pre_tokenizer"). literal: the text is searched as it stands (not empty then). */
int rondo__regex_new(struct rondo__regex **out, const char *pattern, bool literal, const char *where);
void rondo__regex_free(struct rondo__regex *regex);

int rondo__matcher_new(struct rondo__matcher **out);
void rondo__matcher_free(struct rondo__matcher *matcher);

/* The leftmost match in text[from, bytes), as search() of Oniguruma: 1 and [*begin, *end), 0 where there is none, or a code. The text is
 * valid UTF-8 and from is at a character. */
int rondo__regex_find(const struct rondo__regex *regex, struct rondo__matcher *matcher, const char *text, size_t bytes, size_t from,
                      size_t *begin, size_t *end);

/* All matches one after another, as Oniguruma's find_iter gives them: an empty one right behind another does not count. Starts from
 * zero. Returns as rondo__regex_find(). */
struct rondo__matches {
    size_t from, last_end;
    bool any;
};
int rondo__regex_next(const struct rondo__regex *regex, struct rondo__matcher *matcher, const char *text, size_t bytes, struct rondo__matches *m,
                      size_t *begin, size_t *end);

/* One character classes that are needed outside of patterns: White_Space. */
bool rondo__is_space(unsigned code);

#endif
