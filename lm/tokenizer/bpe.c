/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Byte-pair encoding of one word: the vocabulary and the merges as hash tables, and the merge loop. The lowest rank is merged first,
 * the leftmost of equals; candidates lie in a heap and stale ones are skipped, so that a word of n characters costs
 * O(n log n): with no pre-tokenizer a whole text is one word. Called by tokenizer.c for each stretch of text.
 *
 * Sennrich et al. 2016; what decides is the behaviour of Hugging Face's models/bpe (word.rs, model.rs).
 */
#include "lm/tokenizer/tokenizer.h"

/* ---- tables ---- */

int rondo__grow(void **items, size_t *room, size_t used, size_t more, size_t size)
{
    size_t need, bytes;
    if (*room - used >= more)
        return 0;
    if (!rondo__add(used, more, &need) || !rondo__mul(need, 2 * size, &bytes))
        return rondo__fail(RONDO_ENOMEM, "the text is too long for this machine");
    need = need + need / 2 + 16;
    if (!rondo__mul(need, size, &bytes))
        return rondo__fail(RONDO_ENOMEM, "the text is too long for this machine");
    void *grown = rondo__resize(*items, used * size, bytes);
    if (!grown)
        return rondo__fail(RONDO_ENOMEM, "no memory for %zu bytes of a text", bytes);
    *items = grown;
    *room = need;
    return 0;
}

/* Seeds differ from process to process, so that no file can be made whose texts all meet in one place. Nothing depends on the order. */
static uint64_t new_seed(const void *address)
{
    return rondo__mix64((uint64_t)(uintptr_t)address ^ (uint64_t)(rondo__now() * 1e9));
}

static uint64_t hash_text(uint64_t seed, const char *text, size_t bytes)
{
    uint64_t h = seed ^ bytes;
    for (; bytes >= 8; text += 8, bytes -= 8) {
        uint64_t word;
        memcpy(&word, text, 8);
        h = rondo__mix64(h ^ word);
    }
    uint64_t last = 0;
    for (size_t i = 0; i < bytes; i++)
        last = last << 8 | (unsigned char)text[i];
    return rondo__mix64(h ^ last);
}

static size_t table_size(size_t count)
{
    size_t size = 16;
    while (size < 2 * count)
        size *= 2;
    return size;
}

int rondo__vocabulary_new(struct rondo__vocabulary *v, size_t count)
{
    size_t size = table_size(count);
    v->ids = rondo__alloc(size * sizeof *v->ids);
    if (!v->ids)
        return rondo__fail(RONDO_ENOMEM, "no memory for a vocabulary of %zu tokens", count);
    memset(v->ids, 0xff, size * sizeof *v->ids);
    v->mask = size - 1;
    v->seed = new_seed(v->ids);
    return 0;
}

static size_t vocabulary_at(const struct rondo__vocabulary *v, const struct rondo__token *tokens, const char *text, size_t bytes)
{
    size_t at = (size_t)hash_text(v->seed, text, bytes) & v->mask;
    for (; v->ids[at] >= 0; at = (at + 1) & v->mask) {
        const struct rondo__token *t = &tokens[v->ids[at]];
        if (t->bytes == bytes && !memcmp(t->text, text, bytes))
            break;
    }
    return at;
}

int32_t rondo__vocabulary_add(struct rondo__vocabulary *v, const struct rondo__token *tokens, int32_t id)
{
    size_t at = vocabulary_at(v, tokens, tokens[id].text, tokens[id].bytes);
    if (v->ids[at] >= 0)
        return v->ids[at];
    v->ids[at] = id;
    return -1;
}

int32_t rondo__vocabulary_find(const struct rondo__vocabulary *v, const struct rondo__token *tokens, const char *text, size_t bytes)
{
    return v->ids ? v->ids[vocabulary_at(v, tokens, text, bytes)] : -1;
}

int rondo__merges_new(struct rondo__bpe *bpe, size_t count)
{
    size_t size = table_size(count);
    bpe->merges = rondo__alloc_zero(size, sizeof *bpe->merges);
    if (!bpe->merges)
        return rondo__fail(RONDO_ENOMEM, "no memory for %zu merges", count);
    for (size_t i = 0; i < size; i++)
        bpe->merges[i].id = -1;
    bpe->merge_mask = size - 1;
    bpe->seed = new_seed(bpe->merges);
    return 0;
}

static struct rondo__merge *merge_at(const struct rondo__bpe *bpe, int32_t left, int32_t right)
{
    uint64_t pair = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    size_t at = (size_t)rondo__mix64(pair ^ bpe->seed) & bpe->merge_mask;
    while (bpe->merges[at].id >= 0 && bpe->merges[at].pair != pair)
        at = (at + 1) & bpe->merge_mask;
    return &bpe->merges[at];
}

void rondo__merges_add(struct rondo__bpe *bpe, int32_t left, int32_t right, uint32_t rank, int32_t id)
{
    *merge_at(bpe, left, right) = (struct rondo__merge){ (uint64_t)(uint32_t)left << 32 | (uint32_t)right, rank, id };
}

/* ---- one word ---- */

int rondo__encoder_push(struct rondo__encoder *e, int32_t id)
{
    int err = rondo__grow((void **)&e->ids, &e->id_room, e->id_count, 1, sizeof *e->ids);
    if (!err)
        e->ids[e->id_count++] = id;
    return err;
}

static int add_symbol(struct rondo__encoder *e, int32_t id)
{
    int err = rondo__grow((void **)&e->symbols, &e->symbol_room, e->symbol_count, 1, sizeof *e->symbols);
    if (err)
        return err;
    if (e->symbol_count >= INT32_MAX - 1)
        return rondo__fail(RONDO_ENOTSUP, "a word has more than %d characters; cut the text", INT32_MAX - 1);
    int32_t at = (int32_t)e->symbol_count++;
    e->symbols[at] = (struct rondo__symbol){ id, at - 1, at + 1 };
    return 0;
}

static bool before(struct rondo__candidate a, struct rondo__candidate b)
{
    return a.key < b.key;
}

/* A pair that could merge. */
static int push_candidate(struct rondo__encoder *e, int32_t position)
{
    const struct rondo__symbol *left = &e->symbols[position];
    const struct rondo__merge *m = merge_at(&e->tokenizer->bpe, left->id, e->symbols[left->next].id);
    if (m->id < 0)
        return 0;
    int err = rondo__grow((void **)&e->heap, &e->heap_room, e->heap_count, 1, sizeof *e->heap);
    if (err)
        return err;
    struct rondo__candidate c = { (uint64_t)m->rank << 32 | (uint32_t)position, m->id };
    size_t at = e->heap_count++;
    while (at && before(c, e->heap[(at - 1) / 2])) {
        e->heap[at] = e->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    e->heap[at] = c;
    return 0;
}

static struct rondo__candidate pop_candidate(struct rondo__encoder *e)
{
    struct rondo__candidate top = e->heap[0], last = e->heap[--e->heap_count];
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= e->heap_count)
            break;
        if (child + 1 < e->heap_count && before(e->heap[child + 1], e->heap[child]))
            child++;
        if (!before(e->heap[child], last))
            break;
        e->heap[at] = e->heap[child];
        at = child;
    }
    e->heap[at] = last;
    return top;
}

/* One character that is no token: its bytes, the unknown token, or nothing that could stand for it. `pending`: an unknown token
 * not yet written, which a following one may join. The order of the two is that of the reference, odd as it is. */
static int add_unknown(struct rondo__encoder *e, const char *text, size_t bytes, bool *pending)
{
    const struct rondo__bpe *bpe = &e->tokenizer->bpe;
    int err = 0;
    if (bpe->byte_fallback) {
        bool all = true;
        for (size_t i = 0; i < bytes; i++)
            all = all && bpe->byte[(unsigned char)text[i]] >= 0;
        for (size_t i = 0; all && i < bytes && !err; i++)
            err = add_symbol(e, bpe->byte[(unsigned char)text[i]]);
        if (all)
            return err;
    }
    if (bpe->unknown >= 0) {
        if (*pending && !bpe->fuse_unknown)
            err = add_symbol(e, bpe->unknown);
        *pending = true;
        return err;
    }
    if (e->flags & RONDO_ENCODE_LOSSY)
        return 0;
    uint32_t code = 0;
    (void)rondo__utf8_decode((const unsigned char *)text, bytes, &code);
    return rondo__fail(RONDO_EFORMAT, "the tokenizer has neither a token for the character U+%04X nor one for the unknown", (unsigned)code);
}

static int spell(struct rondo__encoder *e, const char *word, size_t bytes)
{
    const rondo_tokenizer *t = e->tokenizer;
    bool pending = false;
    int err = 0;
    e->symbol_count = 0;
    for (size_t at = 0; at < bytes && !err;) {
        uint32_t code;
        size_t n = (size_t)rondo__utf8_decode((const unsigned char *)word + at, bytes - at, &code);
        int32_t id = n == 1 ? t->bpe.ascii[(unsigned char)word[at]] : rondo__vocabulary_find(&t->bpe.vocabulary, t->tokens, word + at, n);
        if (id >= 0) {
            if (pending)
                err = add_symbol(e, t->bpe.unknown);
            pending = false;
            if (!err)
                err = add_symbol(e, id);
        } else {
            err = add_unknown(e, word + at, n, &pending);
        }
        at += n;
    }
    return !err && pending ? add_symbol(e, t->bpe.unknown) : err;
}

static int merge_all(struct rondo__encoder *e)
{
    struct rondo__symbol *s = e->symbols;
    int32_t count = (int32_t)e->symbol_count;
    int err = 0;
    e->heap_count = 0;
    for (int32_t i = 0; i + 1 < count && !err; i++)
        err = push_candidate(e, i);
    while (e->heap_count && !err) {
        struct rondo__candidate c = pop_candidate(e);
        int32_t at = (int32_t)(uint32_t)c.key, next = s[at].next;
        if (s[at].id < 0 || next >= count || merge_at(&e->tokenizer->bpe, s[at].id, s[next].id)->id != c.id)
            continue;      /* one of the two has merged with another meanwhile */
        s[at].id = c.id;
        s[at].next = s[next].next;
        s[next].id = -1;
        if (s[at].next < count) {
            s[s[at].next].previous = at;
            err = push_candidate(e, at);
        }
        if (s[at].previous >= 0 && !err)
            err = push_candidate(e, s[at].previous);
    }
    return err;
}

int rondo__encoder_bpe(struct rondo__encoder *e, const char *word, size_t bytes)
{
    const rondo_tokenizer *t = e->tokenizer;
    if (t->bpe.ignore_merges && bytes <= t->bpe.longest) {
        int32_t whole = rondo__vocabulary_find(&t->bpe.vocabulary, t->tokens, word, bytes);
        if (whole >= 0)
            return rondo__encoder_push(e, whole);
    }
    int err = spell(e, word, bytes);
    if (!err)
        err = merge_all(e);
    for (int32_t i = 0; i < (int32_t)e->symbol_count && !err; i = e->symbols[i].next)
        err = rondo__encoder_push(e, e->symbols[i].id);
    return err;
}
