/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The derivation of a count (cost.c), step by step: the sizes, the terms made of them, the sums. It is written from the terms that were
 * added up, and so cannot say anything else.
 */
#include <stdio.h>

#include "plan/cost.h"

/* snprintf() that goes on at `*at`. */
static void put(char *text, size_t bytes, size_t *at, const char *format, ...) RONDO_PRINTF(4, 5);
static void put(char *text, size_t bytes, size_t *at, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    const int n = vsnprintf(*at < bytes ? text + *at : NULL, *at < bytes ? bytes - *at : 0, format, list);
    va_end(list);
    *at += n > 0 ? (size_t)n : 0;
}

static void put_product(char *text, size_t bytes, size_t *at, const struct rondo__cost_product *p, struct rondo__wide value)
{
    char digits[40];
    for (int i = 0; i < p->count; i++)
        put(text, bytes, at, "%s%lld", i ? " * " : "", (long long)p->factor[i]);
    if (p->over > 1)
        put(text, bytes, at, " / %lld", (long long)p->over);
    if (p->times > 1)
        put(text, bytes, at, " * %lld", (long long)p->times);
    put(text, bytes, at, " = %s", rondo__wide_text(value, digits));
}

/* The sizes that formulas speak of: name, how it comes about, number. */
#define SIZES 9
static void put_size(const struct rondo__cost_count *n, int index, char *text, size_t bytes, size_t *at)
{
    const struct rondo__cost_sizes *s = &n->s;
    const bool prefill = n->c.phase == RONDO_COST_PREFILL;
    const bool masked = n->c.causal || (n->c.windowed && (n->c.window_left >= 0 || n->c.window_right >= 0));
    const char *pairs_local = "sum over sequences of ceil(pairs / context_parallel)";
    if (!masked)
        pairs_local = prefill ? "sum over sequences of ceil(new tokens / context_parallel) * cached positions"
                              : "sum over sequences of new tokens * ceil(cached positions / context_parallel)";
    const struct {
        const char *name, *formula;
        int64_t value;
    } sizes[SIZES] = {
        { "num_chips", "tensor_parallel * context_parallel", s->chips },
        { "heads_local", "ceil(num_heads / tensor_parallel)", s->heads_local },
        { "kv_heads_local",
          s->kv_heads_all > s->kv_heads ? "1, a copy where tensor_parallel is more than num_kv_heads"
                                        : "ceil(num_kv_heads / tensor_parallel)",
          s->kv_heads_local },
        { "tokens", "sum over sequences of the new tokens", s->tokens },
        { "tokens_local",
          prefill ? "sum over sequences of ceil(new tokens / context_parallel)" : "tokens, on each context-parallel rank",
          s->tokens_local },
        { "keys", "sum over sequences of the cached positions", s->keys },
        { "keys_local", "sum over sequences of ceil(cached positions / context_parallel)", s->keys_local },
        { "pairs",
          masked ? "sum over sequences of the keys that each query sees" : "sum over sequences of new tokens * cached positions",
          s->pairs },
        { "pairs_local", pairs_local, s->pairs_local },
    };
    put(text, bytes, at, "%s = %s = %lld", sizes[index].name, sizes[index].formula, (long long)sizes[index].value);
}

static void put_term(const struct rondo__cost_term *t, char *text, size_t bytes, size_t *at)
{
    put(text, bytes, at, "%s, %s: %s%s = ", rondo__cost_measures[t->measure].what, t->what, t->formula, t->chip.times > 1 ? " * num_layers" : "");
    put_product(text, bytes, at, &t->chip, t->chip_value);
    if (rondo__cost_measures[t->measure].total) {
        put(text, bytes, at, "; of all chips ");
        put_product(text, bytes, at, &t->total, t->total_value);
    }
}

/* A measure's sum, of a chip or of all. */
static void put_sum(const struct rondo__cost_count *n, enum rondo__cost_measure m, bool total, char *text, size_t bytes, size_t *at)
{
    bool first = true;
    char digits[40];
    put(text, bytes, at, "%s = ", total ? rondo__cost_measures[m].total : rondo__cost_measures[m].chip);
    for (int i = 0; i < n->term_count; i++)
        if (n->terms[i].measure == m) {
            put(text, bytes, at, "%s%s", first ? "" : " + ", rondo__wide_text(total ? n->terms[i].total_value : n->terms[i].chip_value, digits));
            first = false;
        }
    put(text, bytes, at, "%s = %s", first ? "nothing is exchanged" : "", rondo__wide_text(total ? n->total[m] : n->chip[m], digits));
}

#define SUMS (2 * RONDO_MEASURES - 1)   /* messages are a chip's only */

int rondo__cost_steps(const struct rondo__cost_count *n)
{
    return SIZES + n->term_count + SUMS;
}

int64_t rondo_cost_step_text(const rondo_cost_case *of, int64_t index, char *text, size_t bytes)
{
    struct rondo__cost_count n;
    size_t at = 0;
    int err = rondo__cost_count(&n, of);
    if (err)
        return err;
    if (!text && bytes)
        return rondo__fail(RONDO_EINVAL, "rondo_cost_step_text: text is NULL, but has room for %zu bytes", bytes);
    if (index < 0 || index >= rondo__cost_steps(&n))
        return rondo__fail(RONDO_EINVAL, "rondo_cost_step_text: there is no step %lld; there are %d, from 0", (long long)index,
                           rondo__cost_steps(&n));
    const int i = (int)index;
    if (i < SIZES)
        put_size(&n, i, text, bytes, &at);
    else if (i < SIZES + n.term_count)
        put_term(&n.terms[i - SIZES], text, bytes, &at);
    else
        put_sum(&n, (enum rondo__cost_measure)((i - SIZES - n.term_count) / 2), (i - SIZES - n.term_count) % 2, text, bytes, &at);
    return (int64_t)at;
}
