/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Sums over the tokens that name a row of a table, for all rows at once: the gradient of an embedding (rule 12 of rondo-numerics(7)). To a device
 * they are segments of a sum over tokens: tokens are put into the order of the rows that they name, of each row in that of all tokens, and what
 * they have of the tree is worked out as for all of them. Pure; called by gradients.c, and by tp_table.c where ranks share tokens and tables.
 */
#include "tensor/tokens.h"

#include <stdlib.h>

static int by_name(const void *a, const void *b)
{
    const struct rondo__named *x = a, *y = b;
    return x->name != y->name ? (x->name > y->name) - (x->name < y->name) : (x->place > y->place) - (x->place < y->place);
}

/* The leaves of a row's tokens [first, end). */
static void list_leaves(struct rondo__table_sum *s, const rondo_tokens *tokens, const struct rondo__named *named, int64_t first, int64_t end)
{
    struct rondo__tokens_stack stack = { .depth = 0 };
    for (int64_t i = first; i < end; i++) {
        s->order[i] = named[i].row;
        if (i > first && named[i].leaf == named[i - 1].leaf)
            continue;
        const int32_t height = i > first ? rondo__tokens_height(tokens->all + named[i - 1].leaf, tokens->all + named[i].leaf) : RONDO_TOKENS_TOP;
        const int32_t merges = rondo__tokens_push(&stack, height);
        if (i > first)
            s->leaves[s->leaf_count - 1].merges = merges;
        s->leaves[s->leaf_count++].first = i;
    }
    s->depth = stack.deepest > s->depth ? stack.deepest : s->depth;
}

int rondo__table_sum_make(struct rondo__table_sum *out, const rondo_tokens *tokens, struct rondo__named *named, int64_t count, int64_t rows,
                          bool every)
{
    *out = (struct rondo__table_sum){ .leaf_count = 0 };
    qsort(named, (size_t)count, sizeof *named, by_name);
    out->order = rondo__alloc_zero((size_t)count, sizeof *out->order);
    out->leaves = rondo__alloc_zero((size_t)count + 1, sizeof *out->leaves);
    out->segments = rondo__alloc_zero((size_t)(every ? rows : count), sizeof *out->segments);
    if (!out->order || !out->leaves || !out->segments)
        return rondo__fail(RONDO_ENOMEM, "no memory for the order of a sum over %lld tokens that name rows of a table", (long long)count);
    int64_t next = 0;                      /* the row that a segment is wanted of */
    for (int64_t i = 0, end; i < count; i = end) {
        const int64_t name = named[i].name, leaf = out->leaf_count;
        for (end = i + 1; end < count && named[end].name == name; end++)
            ;
        list_leaves(out, tokens, named, i, end);
        for (; every && next < name; next++)
            out->segments[out->segment_count++] = (struct rondo_token_segment){ leaf, 0, next };
        out->segments[out->segment_count++] = (struct rondo_token_segment){ leaf, out->leaf_count - leaf, name };
        next = name + 1;
    }
    for (; every && next < rows; next++)
        out->segments[out->segment_count++] = (struct rondo_token_segment){ out->leaf_count, 0, next };
    out->leaves[out->leaf_count].first = count;
    return 0;
}

void rondo__table_sum_free(struct rondo__table_sum *sum)
{
    rondo__free(sum->order);
    rondo__free(sum->leaves);
    rondo__free(sum->segments);
    *sum = (struct rondo__table_sum){ .leaf_count = 0 };
}

int rondo__table_ids(const char *function, const rondo_tokens *tokens, const int32_t *ids, int64_t total)
{
    for (int64_t i = 0; i < tokens->leaves[tokens->leaf_count].first; i++)
        if (ids[tokens->order[i]] < 0 || ids[tokens->order[i]] >= total)
            return rondo__fail(RONDO_EINVAL, "%s: ids[%lld] is %d; the table has rows 0 to %lld", function, (long long)tokens->order[i],
                               (int)ids[tokens->order[i]], (long long)total - 1);
    return 0;
}

struct rondo_token_run rondo__table_sum_run(const struct rondo__table_sum *sum)
{
    return (struct rondo_token_run){ .order = sum->order, .leaves = sum->leaves, .segments = sum->segments, .leaf_count = sum->leaf_count,
                                     .segment_count = sum->segment_count, .depth = sum->depth };
}
