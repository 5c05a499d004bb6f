/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The steps of normalizers and pre-tokenizers on a text that lies in stretches. A step that changes characters writes a new text
 * (and, where some later step asks, where each of its bytes comes from in the raw text); a step that cuts only makes more
 * stretches. Stretches that are added tokens pass unchanged; empty ones vanish. Called by tokenizer.c.
 *
 * What decides is the behaviour of Hugging Face's tokenizers (normalizer.rs, pattern.rs, pre_tokenizers/).
 */
#include "lm/tokenizer/tokenizer.h"

uint32_t rondo__byte_character(unsigned char b)
{
    if ((b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae)
        return b;
    /* the others, in their order, from U+0100 on */
    if (b <= 0x20)
        return 0x100u + b;
    if (b <= 0xa0)
        return 0x100u + 33u + (b - 0x7fu);
    return 0x100u + 33u + 34u;      /* 0xad */
}

int rondo__character_byte(uint32_t c)
{
    if (c < 0x100)
        return rondo__byte_character((unsigned char)c) == c ? (int)c : -1;
    if (c <= 0x120)
        return (int)c - 0x100;
    if (c <= 0x142)
        return (int)c - 0x121 + 0x7f;
    return c == 0x143 ? 0xad : -1;
}

/* ---- writing the next text ---- */

/* Appends bytes that all come from `origin`, or one by one from `origins` (where that is not NULL). */
static int write_text(struct rondo__encoder *e, const char *text, size_t bytes, const uint64_t *origins, uint64_t origin)
{
    if (!bytes)
        return 0;
    int err = rondo__grow((void **)&e->next_text, &e->next_room, e->next_bytes, bytes, 1);
    if (!err && e->origin)
        err = rondo__grow((void **)&e->next_origin, &e->next_origin_room, e->next_bytes, bytes, sizeof *e->next_origin);
    if (err)
        return err;
    memcpy(e->next_text + e->next_bytes, text, bytes);
    if (e->origin)
        for (size_t i = 0; i < bytes; i++)
            e->next_origin[e->next_bytes + i] = origins ? origins[i] : origin;
    e->next_bytes += bytes;
    return 0;
}

static int keep(struct rondo__encoder *e, size_t begin, size_t end)
{
    return write_text(e, e->text + begin, end - begin, e->origin ? e->origin + begin : NULL, 0);
}

static uint64_t origin_of(const struct rondo__encoder *e, size_t at)
{
    return e->origin ? e->origin[at] : 0;
}

int rondo__stretch_add(struct rondo__encoder *e, size_t begin, size_t end, int32_t token)
{
    int err = rondo__grow((void **)&e->next_stretches, &e->next_stretch_room, e->next_count, 1, sizeof *e->next_stretches);
    if (!err)
        e->next_stretches[e->next_count++] = (struct rondo__stretch){ begin, end, token };
    return err;
}

static void swap_stretches(struct rondo__encoder *e)
{
    struct rondo__stretch *stretches = e->stretches;
    size_t room = e->stretch_room;
    e->stretches = e->next_stretches;
    e->stretch_room = e->next_stretch_room;
    e->count = e->next_count;
    e->next_stretches = stretches;
    e->next_stretch_room = room;
    e->next_count = 0;
}

static void swap_text(struct rondo__encoder *e)
{
    char *text = e->text;
    size_t room = e->room, origin_room = e->origin_room;
    uint64_t *origin = e->origin;
    e->text = e->next_text;
    e->room = e->next_room;
    e->bytes = e->next_bytes;
    e->next_text = text;
    e->next_room = room;
    e->next_bytes = 0;
    if (origin) {
        e->origin = e->next_origin;
        e->origin_room = e->next_origin_room;
        e->next_origin = origin;
        e->next_origin_room = origin_room;
    }
}

/* ---- steps that change characters ---- */

static int prepend(struct rondo__encoder *e, const struct rondo__text_step *step, const struct rondo__stretch *p)
{
    bool there = p->end - p->begin >= step->bytes && !memcmp(e->text + p->begin, step->text, step->bytes);
    int err = 0;
    if (!(step->unless && there) && !(step->first_only && origin_of(e, p->begin) != 0))
        err = write_text(e, step->text, step->bytes, NULL, origin_of(e, p->begin));
    return err ? err : keep(e, p->begin, p->end);
}

/* The next match in a stretch, as offsets in the text. */
static int next_match(struct rondo__encoder *e, const struct rondo__regex *regex, const struct rondo__stretch *p, struct rondo__matches *m,
                      size_t *begin, size_t *end)
{
    int found = rondo__regex_next(regex, e->matcher, e->text + p->begin, p->end - p->begin, m, begin, end);
    if (found > 0) {
        *begin += p->begin;
        *end += p->begin;
    }
    return found;
}

static int replace(struct rondo__encoder *e, const struct rondo__text_step *step, const struct rondo__stretch *p)
{
    struct rondo__matches m = { 0, 0, false };
    size_t at = p->begin, begin, end;
    int found, err = 0;
    while (!err && (found = next_match(e, step->regex, p, &m, &begin, &end)) != 0) {
        if (found < 0)
            return found;
        err = keep(e, at, begin);
        if (!err)      /* the new text comes from where the last replaced byte came from */
            err = write_text(e, step->text, step->bytes, NULL, end > p->begin ? origin_of(e, end - 1) : 0);
        at = end;
    }
    return err ? err : keep(e, at, p->end);
}

static int strip(struct rondo__encoder *e, const struct rondo__text_step *step, const struct rondo__stretch *p)
{
    size_t begin = p->begin, end = p->end;
    uint32_t code = 0;
    while (step->left && begin < end) {
        size_t n = (size_t)rondo__utf8_decode((const unsigned char *)e->text + begin, end - begin, &code);
        if (!rondo__is_space(code))
            break;
        begin += n;
    }
    while (step->right && begin < end) {
        size_t last = end - 1;
        while (last > begin && ((unsigned char)e->text[last] & 0xc0) == 0x80)
            last--;
        (void)rondo__utf8_decode((const unsigned char *)e->text + last, end - last, &code);
        if (!rondo__is_space(code))
            break;
        end = last;
    }
    return keep(e, begin, end);
}

/* From the last ASCII character before others up to the next one: nothing after it takes part in what it becomes. */
static size_t run_of_form(const char *text, size_t begin, size_t end)
{
    size_t at = begin + 1;
    while (at < end && (unsigned char)text[at] >= 0x80)
        at++;
    return at;
}

static int normal_form(struct rondo__encoder *e, const struct rondo__text_step *step, const struct rondo__stretch *p)
{
    int err = 0;
    for (size_t at = p->begin, end; at < p->end && !err; at = end) {
        size_t plain = at;
        while (plain < p->end && (unsigned char)e->text[plain] < 0x80)
            plain++;
        end = plain;
        if (plain > at && plain < p->end)
            plain--;
        err = keep(e, at, plain);
        if (err || plain == p->end)
            continue;
        end = run_of_form(e->text, plain, p->end);
        err = rondo__form_run(step->behavior, e->text + plain, end - plain, &e->form);
        for (size_t i = 0; i < e->form.count && !err; i++) {
            char to[4];
            const int n = rondo__utf8_encode(to, (uint32_t)e->form.codes[i]);
            err = write_text(e, to, (size_t)n, NULL, origin_of(e, i ? end - 1 : plain));
        }
    }
    return err;
}

static int map_bytes(struct rondo__encoder *e, const struct rondo__stretch *p)
{
    int err = rondo__grow((void **)&e->next_text, &e->next_room, e->next_bytes, 2 * (p->end - p->begin), 1);
    for (size_t i = p->begin; i < p->end && !err; i++) {
        char to[4];
        int n = rondo__utf8_encode(to, rondo__byte_character((unsigned char)e->text[i]));
        err = write_text(e, to, (size_t)n, NULL, origin_of(e, i));
    }
    return err;
}

static int change(struct rondo__encoder *e, const struct rondo__text_step *step)
{
    int err = 0;
    for (size_t i = 0; i < e->count && !err; i++) {
        const struct rondo__stretch *p = &e->stretches[i];
        size_t begin = e->next_bytes;
        if (p->token >= 0) {
            err = rondo__stretch_add(e, 0, 0, p->token);
            continue;
        }
        switch (step->kind) {
        case RONDO__STEP_PREPEND:
            err = prepend(e, step, p);
            break;
        case RONDO__STEP_REPLACE:
            err = replace(e, step, p);
            break;
        case RONDO__STEP_STRIP:
            err = strip(e, step, p);
            break;
        case RONDO__STEP_FORM:
            err = normal_form(e, step, p);
            break;
        default:
            err = map_bytes(e, p);
            break;
        }
        if (!err && e->next_bytes > begin)
            err = rondo__stretch_add(e, begin, e->next_bytes, -1);
    }
    if (!err) {
        swap_text(e);
        swap_stretches(e);
    }
    return err;
}

/* ---- the step that cuts ---- */

static int add_cut(struct rondo__encoder *e, size_t begin, size_t end, bool match)
{
    int err = rondo__grow((void **)&e->cuts, &e->cut_room, e->cut_count, 1, sizeof *e->cuts);
    if (!err)
        e->cuts[e->cut_count++] = (struct rondo__stretch){ begin, end, match };
    return err;
}

/* The stretch as cuts, alternating or not: matches and what lies between them. */
static int find_cuts(struct rondo__encoder *e, const struct rondo__text_step *step, const struct rondo__stretch *p)
{
    struct rondo__matches m = { 0, 0, false };
    size_t at = p->begin, begin, end;
    int found, err = 0;
    e->cut_count = 0;
    while (!err && (found = next_match(e, step->regex, p, &m, &begin, &end)) != 0) {
        if (found < 0)
            return found;
        if (at != begin)
            err = add_cut(e, at, begin, step->invert);
        if (!err)
            err = add_cut(e, begin, end, !step->invert);
        at = end;
    }
    return !err && at != p->end ? add_cut(e, at, p->end, step->invert) : err;
}

/* Joins the cuts as the behaviour says and makes stretches of them. Walks backwards for "merged with next". */
static int cut(struct rondo__encoder *e, const struct rondo__text_step *step, const struct rondo__stretch *p)
{
    int err = find_cuts(e, step, p);
    bool backwards = step->behavior == RONDO__MERGED_WITH_NEXT, previous = false;
    size_t first = e->next_count;
    for (size_t k = 0; k < e->cut_count && !err; k++) {
        const struct rondo__stretch *s = &e->cuts[backwards ? e->cut_count - 1 - k : k];
        bool match = s->token, join = false;
        if (step->behavior == RONDO__CONTIGUOUS)
            join = match == previous;
        else if (step->behavior == RONDO__MERGED_WITH_PREVIOUS || backwards)
            join = match && !previous;
        previous = match;
        if (step->behavior == RONDO__REMOVED && match)
            continue;
        if (join && e->next_count > first) {
            struct rondo__stretch *last = &e->next_stretches[e->next_count - 1];
            if (backwards)
                last->begin = s->begin;
            else
                last->end = s->end;
        } else {
            err = rondo__stretch_add(e, s->begin, s->end, -1);
        }
    }
    if (err)
        return err;
    for (size_t i = first, j = e->next_count; backwards && i + 1 < j; i++) {
        struct rondo__stretch t = e->next_stretches[i];
        e->next_stretches[i] = e->next_stretches[--j];
        e->next_stretches[j] = t;
    }
    size_t kept = first;
    for (size_t i = first; i < e->next_count; i++)
        if (e->next_stretches[i].begin != e->next_stretches[i].end)
            e->next_stretches[kept++] = e->next_stretches[i];
    e->next_count = kept;
    return 0;
}

static int split(struct rondo__encoder *e, const struct rondo__text_step *step)
{
    int err = 0;
    for (size_t i = 0; i < e->count && !err; i++) {
        const struct rondo__stretch *p = &e->stretches[i];
        err = p->token >= 0 ? rondo__stretch_add(e, 0, 0, p->token) : cut(e, step, p);
    }
    if (!err)
        swap_stretches(e);
    return err;
}

int rondo__encoder_step(struct rondo__encoder *e, const struct rondo__text_step *step)
{
    e->next_count = 0;
    e->next_bytes = 0;
    return step->kind == RONDO__STEP_SPLIT ? split(e, step) : change(e, step);
}

void rondo__encoder_free(struct rondo__encoder *e)
{
    rondo__matcher_free(e->matcher);
    rondo__free(e->text);
    rondo__free(e->next_text);
    rondo__free(e->origin);
    rondo__free(e->next_origin);
    rondo__free(e->stretches);
    rondo__free(e->next_stretches);
    rondo__free(e->cuts);
    rondo__free(e->symbols);
    rondo__free(e->heap);
    rondo__free(e->form.codes);
    rondo__free(e->form.spare);
    rondo__free(e->ids);
}
