/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Tokens of rows (rule 12 of rondo-numerics(7)): in which order they are added, as lists that a device executes. The tree is that of leaves
 * within a sequence, and above it that of sequences, both without what is empty. Where leaves follow each other, the lowest node that has
 * both says which sums are ready between them: its height is all that the tree is here. Pure; called by users, who give tokens to gradients.
 */
#include "tensor/tokens.h"

#include <stdlib.h>

/* A token of this part. */
struct token {
    int64_t sequence, place, row;          /* place: the position with its lowest bit turned: pairs come odd one first */
};

static int no_memory(void)
{
    return rondo__fail(RONDO_ENOMEM, "rondo_tokens_create: no memory for the order of a sum over tokens");
}

static int by_place(const void *a, const void *b)
{
    const struct token *x = a, *y = b;
    return x->sequence != y->sequence ? (x->sequence > y->sequence) - (x->sequence < y->sequence) : (x->place > y->place) - (x->place < y->place);
}

static int by_number(const void *a, const void *b)
{
    const struct rondo__tokens_leaf *x = a, *y = b;
    if (x->sequence != y->sequence)
        return x->sequence > y->sequence ? 1 : -1;
    return x->number != y->number ? x->number > y->number ? 1 : -1 : (x->part > y->part) - (x->part < y->part);
}

static int32_t bits(int64_t x)
{
    int32_t n = 0;
    for (; x; x >>= 1)
        n++;
    return n;
}

int32_t rondo__tokens_height(const struct rondo__tokens_leaf *a, const struct rondo__tokens_leaf *b)
{
    return a->sequence == b->sequence ? bits(a->number ^ b->number) : 64 + bits(a->sequence ^ b->sequence);
}

/* ---- reading spans ---- */

/* How many of them lie in a leaf. */
static int32_t tokens_in(const rondo_span *s, int64_t step, int64_t leaf)
{
    const int64_t begin = leaf * RONDO_TOKEN_LEAF - s->first, end = begin + RONDO_TOKEN_LEAF - 1;   /* from the span's first position on */
    const int64_t first = begin > 0 ? (begin + step - 1) / step : 0, last = end / step < s->count - 1 ? end / step : s->count - 1;
    return (int32_t)(last - first + 1);
}

/* The lists that are filled; NULL while they are counted. */
struct reading {
    struct token *tokens;
    struct rondo__tokens_leaf *leaves;
    int64_t token_count, leaf_count, rows;
    uint64_t hash;
};

static int read_span(struct reading *r, const rondo_span *s, int64_t sequence, int32_t part, bool mine)
{
    int64_t reach, last;
    if (s->count < 0 || s->first < 0 || s->row < 0 || (s->count > 1 && s->step < 1) || !rondo__add64(s->row, s->count, &reach) ||
        !rondo__mul64(s->count > 1 ? s->count - 1 : 0, s->step, &last) || !rondo__add64(last, s->first, &last))
        return rondo__fail(RONDO_EINVAL, "rondo_tokens_create: a span of %lld tokens from position %lld on, %lld apart, in rows from %lld on; neither may "
                                         "be negative, and steps are at least 1", (long long)s->count, (long long)s->first, (long long)s->step,
                           (long long)s->row);
    if (!s->count)
        return 0;
    const int64_t step = s->count > 1 ? s->step : 1, first = s->first / RONDO_TOKEN_LEAF, end = last / RONDO_TOKEN_LEAF;
    const bool each = step <= RONDO_TOKEN_LEAF;   /* it has tokens of each leaf that it passes */
    const int64_t leaves = each ? end - first + 1 : s->count;
    for (int64_t i = 0; r->leaves && i < leaves; i++) {
        const int64_t number = each ? first + i : (s->first + i * step) / RONDO_TOKEN_LEAF;
        r->leaves[r->leaf_count + i] = (struct rondo__tokens_leaf){ sequence, number, part, 0, each ? tokens_in(s, step, number) : 1, 0 };
    }
    for (int64_t i = 0; r->tokens && mine && i < s->count; i++)
        r->tokens[r->token_count + i] = (struct token){ sequence, (s->first + i * step) ^ 1, s->row + i };
    r->rows = mine && reach > r->rows ? reach : r->rows;
    const int64_t word[] = { sequence, part, s->first, s->count, step, s->row };
    for (size_t i = 0; i < sizeof word / sizeof *word; i++)
        r->hash = rondo__hash_word(r->hash, (uint64_t)word[i]);
    if (!rondo__add64(r->leaf_count, leaves, &r->leaf_count) || (mine && !rondo__add64(r->token_count, s->count, &r->token_count)))
        return rondo__fail(RONDO_EINVAL, "rondo_tokens_create: there are more tokens than can be counted");
    return 0;
}

static int read_spans(struct reading *r, const rondo_tokens_desc *d)
{
    const rondo_span *s = d->spans;
    int64_t row = 0;
    int err = 0;
    r->token_count = r->leaf_count = r->rows = 0;
    r->hash = 0;
    if (d->lengths) {
        for (int64_t q = 0; q < d->sequences && !err; row += d->lengths[q++]) {
            int64_t end;
            if (d->lengths[q] < 0 || !rondo__add64(row, d->lengths[q], &end))
                return rondo__fail(RONDO_EINVAL, "rondo_tokens_create: sequence %lld has %lld tokens; they must not be negative, nor more than can be "
                                                 "counted", (long long)q, (long long)d->lengths[q]);
            err = read_span(r, &(rondo_span){ 0, d->lengths[q], 1, row }, q, 0, true);
        }
        return err;
    }
    for (int32_t p = 0; p < d->parts; p++)
        for (int64_t q = 0; q < d->sequences; q++) {
            const int64_t count = d->span_counts[(int64_t)p * d->sequences + q];
            if (count < 0)
                return rondo__fail(RONDO_EINVAL, "rondo_tokens_create: part %d has %lld spans of sequence %lld; they must not be negative", (int)p,
                                   (long long)count, (long long)q);
            if (count && !s)
                return rondo__fail(RONDO_EINVAL, "rondo_tokens_create: spans is NULL, and part %d has %lld of sequence %lld", (int)p, (long long)count,
                                   (long long)q);
            for (int64_t i = 0; i < count && !err; i++)
                err = read_span(r, s++, q, p, p == d->part);
            if (err)
                return err;
        }
    return 0;
}

/* Each leaf once, and what the tree knows of it. */
static int settle_leaves(struct reading *r)
{
    int64_t n = 0;
    qsort(r->leaves, (size_t)r->leaf_count, sizeof *r->leaves, by_number);
    for (int64_t i = 0; i < r->leaf_count; i++) {
        const struct rondo__tokens_leaf *l = r->leaves + i;
        const bool same = n && r->leaves[n - 1].sequence == l->sequence && r->leaves[n - 1].number == l->number;
        if (same && r->leaves[n - 1].part != l->part)
            return rondo__fail(RONDO_EINVAL, "rondo_tokens_create: parts %d and %d both have tokens of positions %lld to %lld of sequence %lld; such a leaf "
                                             "belongs whole to one", (int)r->leaves[n - 1].part, (int)l->part,
                               (long long)(l->number * RONDO_TOKEN_LEAF), (long long)(l->number * RONDO_TOKEN_LEAF + RONDO_TOKEN_LEAF - 1),
                               (long long)l->sequence);
        if (same) {
            r->leaves[n - 1].tokens += l->tokens;
            continue;
        }
        r->leaves[n] = *l;
        r->leaves[n].height = n ? rondo__tokens_height(r->leaves + n - 1, l) : RONDO_TOKENS_TOP;
        n++;
    }
    r->leaf_count = n;
    return 0;
}

static int settle_tokens(struct reading *r)
{
    qsort(r->tokens, (size_t)r->token_count, sizeof *r->tokens, by_place);
    for (int64_t i = 1; i < r->token_count; i++)
        if (!by_place(r->tokens + i - 1, r->tokens + i))
            return rondo__fail(RONDO_EINVAL, "rondo_tokens_create: position %lld of sequence %lld stands in rows %lld and %lld; a token has one row",
                               (long long)(r->tokens[i].place ^ 1), (long long)r->tokens[i].sequence, (long long)r->tokens[i - 1].row,
                               (long long)r->tokens[i].row);
    return 0;
}

/* ---- the tree as a list ---- */

int32_t rondo__tokens_push(struct rondo__tokens_stack *s, int32_t height)
{
    int32_t merges = 0;
    while (s->depth > 1 && s->height[s->depth - 1] < height) {
        s->depth--;
        merges++;
    }
    s->height[s->depth++] = height;
    s->deepest = s->depth > s->deepest ? s->depth : s->deepest;
    return merges;
}

/* The end of the highest node that begins with leaf i and has leaves of its part only. */
static int64_t node_end(const struct reading *r, int64_t i)
{
    const struct rondo__tokens_leaf *l = r->leaves;
    int64_t end = i + 1;
    int32_t inside = 0;
    for (int64_t j = i + 1; j < r->leaf_count && l[j].part == l[i].part && l[j].height < l[i].height; j++) {
        inside = l[j].height > inside ? l[j].height : inside;
        if (j + 1 == r->leaf_count || inside < l[j + 1].height)
            end = j + 1;
    }
    return end;
}

static int make_nodes(rondo_tokens *t, const struct reading *r)
{
    struct rondo__tokens_stack s = { .depth = 0 };
    int64_t mine = 0;
    t->nodes = rondo__alloc_zero((size_t)r->leaf_count, sizeof *t->nodes);
    if (!t->nodes)
        return no_memory();
    for (int64_t i = 0, end; i < r->leaf_count; i = end) {
        struct rondo__token_node *n = t->nodes + t->node_count;
        end = node_end(r, i);
        const int32_t merges = rondo__tokens_push(&s, r->leaves[i].height);
        if (t->node_count)
            n[-1].merges = merges;
        *n = (struct rondo__token_node){ mine, end - i, r->leaves[i].part, 0 };
        mine += n->part == t->part ? end - i : 0;
        t->node_count++;
    }
    t->depth = s.deepest > t->depth ? s.deepest : t->depth;
    return 0;
}

static int make_leaves(rondo_tokens *t, const struct reading *r)
{
    struct rondo__tokens_stack s = { .depth = 0 };
    int64_t at = 0;
    t->order = rondo__alloc_zero((size_t)r->token_count, sizeof *t->order);
    for (int64_t i = 0; i < r->leaf_count; i++)
        t->leaf_count += r->leaves[i].part == t->part;
    t->leaves = rondo__alloc_zero((size_t)t->leaf_count + 1, sizeof *t->leaves);
    if (!t->order || !t->leaves)
        return no_memory();
    struct rondo_token_leaf *l = t->leaves;
    int32_t between = 0;                   /* the highest node that ends between this leaf and the part's one before */
    for (int64_t i = 0; i < r->leaf_count; i++) {
        between = r->leaves[i].height > between ? r->leaves[i].height : between;
        if (r->leaves[i].part != t->part)
            continue;
        const int32_t merges = rondo__tokens_push(&s, l == t->leaves ? RONDO_TOKENS_TOP : between);
        if (l > t->leaves)
            l[-1].merges = merges;
        l->first = at;
        between = 0;
        for (; at < r->token_count && r->tokens[at].sequence == r->leaves[i].sequence &&
               r->tokens[at].place / RONDO_TOKEN_LEAF == r->leaves[i].number; at++)
            t->order[at] = r->tokens[at].row;
        l++;
    }
    l->first = at;
    t->depth = s.deepest > t->depth ? s.deepest : t->depth;
    return 0;
}

/* ---- for users ---- */

static int check(rondo_tokens_desc *d)
{
    d->sequences = d->sequences ? d->sequences : 1;
    d->parts = d->parts ? d->parts : 1;
    if (d->sequences < 0 || d->parts < 0 || d->part < 0 || d->part >= d->parts)
        return rondo__fail(RONDO_EINVAL, "rondo_tokens_create: part %d of %d parts of %lld sequences cannot be; parts count from 0", (int)d->part,
                           (int)d->parts, (long long)d->sequences);
    if (!d->lengths == !d->span_counts || (d->lengths && d->spans))
        return rondo__fail(RONDO_EINVAL, "rondo_tokens_create: %s; either lengths or spans with span_counts say which tokens there are",
                           d->lengths ? "lengths and spans are given" : "neither lengths nor span_counts are given");
    if (d->lengths && d->parts > 1)
        return rondo__fail(RONDO_EINVAL, "rondo_tokens_create: lengths with %d parts; spans say which part has what", (int)d->parts);
    return 0;
}

int rondo_tokens_create(rondo_tokens **out, const rondo_tokens_desc *desc)
{
    rondo_tokens_desc d = RONDO_TOKENS_DESC_INIT;
    struct reading r = { .tokens = NULL };
    if (out)
        *out = NULL;
    if (!out || !desc)
        return rondo__fail(RONDO_EINVAL, "rondo_tokens_create: out and desc must not be NULL");
    int err = rondo__desc_copy(&d, sizeof d, desc, "rondo_tokens_desc");
    if (!err)
        err = check(&d);
    if (!err)
        err = read_spans(&r, &d);
    if (err)
        return err;
    rondo_tokens *t = rondo__alloc_zero(1, sizeof *t);
    r.tokens = rondo__alloc_zero((size_t)r.token_count, sizeof *r.tokens);
    r.leaves = rondo__alloc_zero((size_t)r.leaf_count, sizeof *r.leaves);
    if (!t || !r.tokens || !r.leaves)
        err = no_memory();
    if (!err) {
        t->parts = d.parts;
        t->part = d.part;
        err = read_spans(&r, &d);
    }
    if (!err)
        err = settle_leaves(&r);
    if (!err)
        err = settle_tokens(&r);
    if (!err) {
        t->rows = r.rows;
        t->hash = rondo__hash_word(rondo__hash_word(r.hash, (uint64_t)t->parts), RONDO_TOKEN_LEAF);
        err = make_nodes(t, &r);
    }
    if (!err)
        err = make_leaves(t, &r);
    if (!err && (t->depth > RONDO_LINEAR_DEPTH || t->leaf_count > INT32_MAX))
        err = rondo__fail(RONDO_ENOTSUP, "rondo_tokens_create: a sum over %lld leaves of tokens keeps %d sums at a time; there is room for %d",
                          (long long)r.leaf_count, (int)t->depth, RONDO_LINEAR_DEPTH);
    rondo__free(r.tokens);
    if (err) {
        rondo__free(r.leaves);
        rondo_tokens_destroy(t);
        return err;
    }
    t->all = r.leaves;
    t->all_count = r.leaf_count;
    *out = t;
    return 0;
}

void rondo_tokens_destroy(rondo_tokens *tokens)
{
    if (!tokens)
        return;
    rondo__free(tokens->order);
    rondo__free(tokens->leaves);
    rondo__free(tokens->nodes);
    rondo__free(tokens->all);
    rondo__free(tokens);
}

int64_t rondo_tokens_rows(const rondo_tokens *tokens)
{
    return tokens ? tokens->rows : 0;
}

struct rondo_token_run rondo__tokens_run(const rondo_tokens *tokens, int64_t leaf, int64_t leaves)
{
    return (struct rondo_token_run){ .order = tokens->order, .leaves = tokens->leaves + leaf, .leaf_count = leaves, .tokens = tokens->rows,
                                     .depth = tokens->depth };
}
