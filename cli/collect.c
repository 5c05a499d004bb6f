/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Bringing the rows of all ranks to rank 0, in portions of a few MiB so that no rank ever holds the whole result. Which rows a
 * portion holds follows from the plan alone.
 *
 * A portion is a broadcast, which wakes every rank that is in it. Of many ranks, each of which has portions, only some are: about the square root
 * of their number next to who has it, and the first ones of all such neighbourhoods.
 */
#include "cli/cli.h"

#include <stdlib.h>
#include <string.h>

#define PIECE_BYTES ((size_t)4 << 20)
/* Fewer ranks are all in every portion. */
#define MANY 32
/* Ranks that have nothing to do with what is under way wait for the others after so much, lest they wait too long in a portion of theirs; a
 * portion counts as PORTION_LEAST at least. */
#define TOGETHER_BYTES ((size_t)64 << 20)
#define PORTION_LEAST ((size_t)64 << 10)

int collector_open(struct collector *c, rondo_context *ctx)
{
    const int ranks = rondo_context_ranks(ctx), rank = rondo_context_rank(ctx);
    int near = 1;
    *c = (struct collector){ .all = ctx };
    if (ranks < MANY)
        return 0;
    while (near * near < ranks)
        near++;
    c->neighbours = near;
    const int code = rondo_context_split(&c->near, ctx, rank / near, 0);
    return code ? code : rondo_context_split(&c->first, ctx, rank % near ? -1 : 0, 0);
}

void collector_close(struct collector *c)
{
    rondo_context_destroy(c->first);
    rondo_context_destroy(c->near);
}

bool collector_takes(const struct collector *c, int from)
{
    return !c->near || c->first || rondo_context_rank(c->all) / c->neighbours == from / c->neighbours;
}

int collector_bring(struct collector *c, void *data, size_t bytes, int from)
{
    const int near = c->neighbours;
    int code = 0;
    if (rondo_context_ranks(c->all) == 1)
        return 0;
    if (!c->near)
        return rondo_broadcast(c->all, data, bytes, from);
    if (rondo_context_rank(c->all) / near == from / near)
        code = rondo_broadcast(c->near, data, bytes, from % near);
    if (!code && c->first && from >= near)   /* rank 0 has those of its neighbours */
        code = rondo_broadcast(c->first, data, bytes, from / near);
    c->since += bytes > PORTION_LEAST ? bytes : PORTION_LEAST;
    if (!code && c->since >= TOGETHER_BYTES) {
        c->since = 0;
        code = rondo_barrier(c->all);
    }
    return code;
}

rondo_span *spans_of(const rondo_attention *plan, int64_t sequence, int keys, int rank, int64_t *count, int *code)
{
    int64_t n = rondo_attention_spans(plan, sequence, keys, rank, NULL, 0);
    rondo_span *spans = n < 0 ? NULL : room(n, sizeof *spans);
    if (n < 0) {
        *code = (int)n;
    } else if (!spans) {
        *code = body_fail(RONDO_ENOMEM, "not enough memory for %lld spans", (long long)n);
    } else {
        *count = rondo_attention_spans(plan, sequence, keys, rank, spans, n);
        if (*count == n)
            return spans;
        *code = *count < 0 ? (int)*count : body_fail(RONDO_EINVAL, "the spans of a plan changed between two calls");
    }
    free(spans);
    return NULL;
}

struct stripe {
    int64_t row, sequence, first, step, count;   /* row: among all of the rank's rows */
};

/* All spans of one rank as stripes, ascending by row. */
static struct stripe *stripes_of(const rondo_attention *plan, int64_t sequences, int keys, int rank, int64_t *count, int64_t *rows, int *code)
{
    struct stripe *list = NULL;
    int64_t n = 0, space = 0, base = 0;
    for (int64_t s = 0; s < sequences; s++) {
        int64_t k, held = 0;
        rondo_span *spans = spans_of(plan, s, keys, rank, &k, code);
        if (!spans)
            goto fail;
        if (n + k > space) {
            space = (n + k) * 2 + 8;
            struct stripe *more = room(space, sizeof *more);
            if (!more) {
                free(spans);
                *code = body_fail(RONDO_ENOMEM, "not enough memory for the rows of rank %d", rank);
                goto fail;
            }
            if (n)
                memcpy(more, list, (size_t)n * sizeof *list);
            free(list);
            list = more;
        }
        for (int64_t i = 0; i < k; i++) {
            list[n++] = (struct stripe){ base + spans[i].row, s, spans[i].first, spans[i].step, spans[i].count };
            held += spans[i].count;
        }
        base += held;
        free(spans);
    }
    *count = n;
    *rows = base;
    return list ? list : room(1, sizeof *list);
fail:
    free(list);
    return NULL;
}

/* Rows [first, first+count) of the rank's, cut at its stripes. */
static int put_rows(const struct stripe *list, int64_t n, int64_t first, int64_t count, const char *rows, size_t row_bytes,
                    collect_put *put, void *user)
{
    for (int64_t i = 0; i < n; i++) {
        const struct stripe *p = &list[i];
        const int64_t a = p->row > first ? p->row : first;
        const int64_t end = p->row + p->count, b = end < first + count ? end : first + count;
        if (a >= b)
            continue;
        const int64_t at_once = p->step == 1 ? b - a : 1;
        for (int64_t row = a; row < b; row += at_once) {
            int code = put(user, p->sequence, p->first + (row - p->row) * p->step, at_once, rows + (size_t)(row - first) * row_bytes);
            if (code)
                return code;
        }
    }
    return 0;
}

int collect_rows_of(struct collector *to, const rondo_attention *plan, int64_t sequences, int keys, const void *mine, size_t row_bytes,
                    collect_put *put, void *user)
{
    const int rank = rondo_context_rank(to->all), ranks = rondo_context_ranks(to->all);
    const int64_t most = row_bytes < PIECE_BYTES ? (int64_t)(PIECE_BYTES / (row_bytes ? row_bytes : 1)) : 1;
    char *buffer = NULL;
    int code = 0;
    for (int r = 0; r < ranks && !code; r++) {
        int64_t n, rows;
        struct stripe *list = stripes_of(plan, sequences, keys, r, &n, &rows, &code);
        if (!list)
            break;
        for (int64_t first = 0; first < rows && !code; first += most) {
            const int64_t count = rows - first < most ? rows - first : most;
            const size_t bytes = (size_t)count * row_bytes;
            char *data = r == rank ? (char *)(uintptr_t)mine + (size_t)first * row_bytes : buffer;
            if (!data && collector_takes(to, r) && !(data = buffer = room(most, row_bytes)))
                code = body_fail(RONDO_ENOMEM, "not enough memory for a portion of %zu bytes", bytes);
            if (!code)
                code = collector_bring(to, data, bytes, r);
            if (!code && rank == 0)
                code = put_rows(list, n, first, count, data, row_bytes, put, user);
        }
        free(list);
    }
    free(buffer);
    return code;
}

int collect_rows(struct collector *to, const rondo_attention *plan, int64_t sequences, const void *mine, size_t row_bytes,
                 collect_put *put, void *user)
{
    return collect_rows_of(to, plan, sequences, 0, mine, row_bytes, put, user);
}
