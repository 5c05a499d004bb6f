/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What an attention layer costs, before anything runs: FLOPs, weights, activations, cache and the payload of messages, exactly, as lists of
 * terms that are added up and can be told. Pure functions; called by `rondo plan cost` and by programs that plan.
 *
 * The formulas are those of rondo-costs(7). Causal masks and windows change FLOPs only; activations are the tensors that stay: the layer's
 * input, what is projected, its output; scores are never whole in memory.
 */
#include <stdio.h>

#include "plan/cost.h"

enum measure { FLOPS, WEIGHTS, ACTIVATIONS, CACHE, MESSAGES, MEASURES };
static const struct {
    const char *what, *chip, *total;   /* total NULL: a chip's only */
} measures[MEASURES] = {
    { "flops", "flops_per_chip", "flops_total" },
    { "weights", "weight_memory_per_chip", "weight_memory_total" },
    { "activations", "activation_memory_per_chip", "activation_memory_total" },
    { "kv cache", "kv_cache_per_chip", "kv_cache_total" },
    { "communication", "communication_bytes", NULL },
};

#define FACTORS 6
#define TERMS 32

/* A product; `over`: divided by it and rounded up. */
struct product {
    int64_t factor[FACTORS], over;
    int count;
};

struct term {
    enum measure measure;
    const char *what, *formula;
    struct product chip, total;
    int64_t chip_value, total_value;
};

struct count {
    rondo_cost_case c;
    struct rondo__cost_sizes s;
    struct term terms[TERMS];
    int term_count;
    int64_t chip[MEASURES], total[MEASURES];
};

/* ---- terms ---- */

/* Arguments in braces, as many as there are. */
#define PRODUCT(...) ((struct product){ { __VA_ARGS__ }, 1, (int)(sizeof((int64_t[]){ __VA_ARGS__ }) / sizeof(int64_t)) })

static bool value_of(const struct product *p, int64_t *value)
{
    int64_t v = 1;
    for (int i = 0; i < p->count; i++)
        if (!rondo__mul64(v, p->factor[i], &v))
            return false;
    *value = v / p->over + (v % p->over != 0);
    return true;
}

static void term(struct count *n, enum measure measure, const char *what, const char *formula, struct product chip, struct product total)
{
    n->terms[n->term_count++] = (struct term){ measure, what, formula, chip, total, 0, 0 };
}

static void message(struct count *n, const char *what, const char *formula, struct product chip)
{
    term(n, MESSAGES, what, formula, chip, PRODUCT(0));
}

static bool counts(const struct count *n, int projection)
{
    return !(n->c.skip_projections & projection);
}

static void projections(struct count *n)
{
    static const struct {
        int bit;
        const char *flops, *weights, *kept;
        bool kv;
    } rows[] = { { RONDO_COST_Q, "q projection", "Wq", "q", false }, { RONDO_COST_K, "k projection", "Wk", "k", true },
                 { RONDO_COST_V, "v projection", "Wv", "v", true }, { RONDO_COST_O, "output projection", "Wo", NULL, false } };
    const struct rondo__cost_sizes *s = &n->s;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const int64_t local = rows[i].kv ? s->kv_heads_local : s->heads_local, all = rows[i].kv ? s->kv_heads_all : s->heads;
        if (counts(n, rows[i].bit))
            term(n, FLOPS, rows[i].flops,
                 rows[i].kv ? "2 * tokens_local * hidden_size * kv_heads_local * head_dim"
                            : "2 * tokens_local * hidden_size * heads_local * head_dim",
                 PRODUCT(2, s->tokens_local, s->hidden, local, s->head_dim), PRODUCT(2, s->tokens_all, s->hidden, all, s->head_dim));
        term(n, WEIGHTS, rows[i].weights,
             rows[i].kv ? "hidden_size * kv_heads_local * head_dim * bytes_per_elem"
                        : "hidden_size * heads_local * head_dim * bytes_per_elem",
             PRODUCT(s->hidden, local, s->head_dim, s->bytes), PRODUCT(s->cp, s->hidden, all, s->head_dim, s->bytes));
        if (rows[i].kept && counts(n, rows[i].bit))
            term(n, ACTIVATIONS, rows[i].kept,
                 rows[i].kv ? "tokens_local * kv_heads_local * head_dim * bytes_per_elem"
                            : "tokens_local * heads_local * head_dim * bytes_per_elem",
                 PRODUCT(s->tokens_local, local, s->head_dim, s->bytes), PRODUCT(s->tokens_all, all, s->head_dim, s->bytes));
    }
}

static void core(struct count *n)
{
    static const char *const names[] = { "scores q.k", "weights on v" };
    const struct rondo__cost_sizes *s = &n->s;
    for (int i = 0; i < 2; i++)
        term(n, FLOPS, names[i], "2 * heads_local * pairs_local * head_dim", PRODUCT(2, s->heads_local, s->pairs_local, s->head_dim),
             PRODUCT(2, s->heads, s->pairs, s->head_dim));
    term(n, CACHE, "k and v", "2 * keys_local * kv_heads_local * head_dim * bytes_per_elem",
         PRODUCT(2, s->keys_local, s->kv_heads_local, s->head_dim, s->bytes),
         PRODUCT(2, s->keys, s->kv_heads, s->head_dim, s->bytes));
}

/* The layer's input, and its output: of all of hidden_size where chips have summed, or of a chip's heads. */
static void ends(struct count *n)
{
    const struct rondo__cost_sizes *s = &n->s;
    term(n, ACTIVATIONS, "x", "tokens_local * hidden_size * bytes_per_elem", PRODUCT(s->tokens_local, s->hidden, s->bytes),
         PRODUCT(s->tp, s->tokens_all, s->hidden, s->bytes));
    if (s->tp > 1 && n->c.keep_hidden_sharded)
        term(n, ACTIVATIONS, "y, of own heads", "tokens_local * heads_local * head_dim * bytes_per_elem",
             PRODUCT(s->tokens_local, s->heads_local, s->head_dim, s->bytes), PRODUCT(s->tokens_all, s->heads, s->head_dim, s->bytes));
    else
        term(n, ACTIVATIONS, "y", "tokens_local * hidden_size * bytes_per_elem", PRODUCT(s->tokens_local, s->hidden, s->bytes),
             PRODUCT(s->tp, s->tokens_all, s->hidden, s->bytes));
}

/* What chips that share a context exchange, by algorithm; then those that share heads. */
static void messages(struct count *n)
{
    const struct rondo__cost_sizes *s = &n->s;
    const int64_t others = s->cp - 1;
    struct product heads = PRODUCT(others, s->heads_local + s->heads_local, s->tokens_local, s->head_dim, s->bytes);
    struct product kv = PRODUCT(others, 2, s->keys_local, s->kv_heads_local, s->head_dim, s->bytes);
    switch (s->cp > 1 ? n->c.algorithm : 0) {
    case RONDO_ALL_GATHER:
        message(n, "all keys and values", "2 * keys * kv_heads_local * head_dim * bytes_per_elem",
                PRODUCT(2, s->keys, s->kv_heads_local, s->head_dim, s->bytes));
        break;
    case RONDO_REDUCE:
        message(n, "softmax statistics", "2 * tokens_local * heads_local * softmax_stat_bytes",
                PRODUCT(2, s->tokens_local, s->heads_local, s->stat_bytes));
        message(n, "partial outputs", "tokens_local * heads_local * head_dim * bytes_per_elem",
                PRODUCT(s->tokens_local, s->heads_local, s->head_dim, s->bytes));
        break;
    case RONDO_PASS_KV:
        message(n, "k and v round the ring", "(cp - 1) * 2 * keys_local * kv_heads_local * head_dim * bytes_per_elem", kv);
        break;
    case RONDO_PASS_Q:
        message(n, "q round the ring", "(cp - 1) * tokens_local * heads_local * head_dim * bytes_per_elem",
                PRODUCT(others, s->tokens_local, s->heads_local, s->head_dim, s->bytes));
        message(n, "partial outputs back", "(cp - 1) * tokens_local * heads_local * head_dim * bytes_per_elem",
                PRODUCT(others, s->tokens_local, s->heads_local, s->head_dim, s->bytes));
        message(n, "their LSE", "(cp - 1) * tokens_local * heads_local * softmax_stat_bytes",
                PRODUCT(others, s->tokens_local, s->heads_local, s->stat_bytes));
        break;
    case RONDO_ALL_TO_ALL:
        heads.over = kv.over = s->cp;
        message(n, "q and o", "(cp - 1) * 2 * heads_local * tokens_local * head_dim * bytes_per_elem / cp", heads);
        message(n, "k and v", "(cp - 1) * 2 * keys_local * kv_heads_local * head_dim * bytes_per_elem / cp", kv);
        break;
    default:
        break;
    }
    if (s->tp > 1 && !n->c.keep_hidden_sharded)
        message(n, "y of all chips that share heads", "tokens_local * hidden_size * bytes_per_elem",
                PRODUCT(s->tokens_local, s->hidden, s->bytes));
}

static int too_large(const char *what)
{
    return rondo__fail(RONDO_EINVAL, "%s is more than %lld; smaller sizes, and fewer or shorter sequences, can be counted",
                       what, (long long)INT64_MAX);
}

static int count(struct count *n, const rondo_cost_case *of)
{
    memset(n, 0, sizeof *n);
    int err = rondo__cost_case(&n->c, of, &n->s);
    if (err)
        return err;
    projections(n);
    core(n);
    ends(n);
    messages(n);
    for (int i = 0; i < n->term_count; i++) {
        struct term *t = &n->terms[i];
        if (!value_of(&t->chip, &t->chip_value) || !rondo__add64(n->chip[t->measure], t->chip_value, &n->chip[t->measure]))
            return too_large(measures[t->measure].chip);
        if (!value_of(&t->total, &t->total_value) || !rondo__add64(n->total[t->measure], t->total_value, &n->total[t->measure]))
            return too_large(measures[t->measure].total);
    }
    return 0;
}

/* ---- the derivation ---- */

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

static void put_product(char *text, size_t bytes, size_t *at, const struct product *p, int64_t value)
{
    for (int i = 0; i < p->count; i++)
        put(text, bytes, at, "%s%lld", i ? " * " : "", (long long)p->factor[i]);
    if (p->over > 1)
        put(text, bytes, at, " / %lld", (long long)p->over);
    put(text, bytes, at, " = %lld", (long long)value);
}

/* The sizes that formulas speak of: name, how it comes about, number. */
#define SIZES 9
static void put_size(const struct count *n, int index, char *text, size_t bytes, size_t *at)
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

static void put_term(const struct term *t, char *text, size_t bytes, size_t *at)
{
    put(text, bytes, at, "%s, %s: %s = ", measures[t->measure].what, t->what, t->formula);
    put_product(text, bytes, at, &t->chip, t->chip_value);
    if (measures[t->measure].total) {
        put(text, bytes, at, "; of all chips ");
        put_product(text, bytes, at, &t->total, t->total_value);
    }
}

/* A measure's sum, of a chip or of all. */
static void put_sum(const struct count *n, enum measure m, bool total, char *text, size_t bytes, size_t *at)
{
    bool first = true;
    put(text, bytes, at, "%s = ", total ? measures[m].total : measures[m].chip);
    for (int i = 0; i < n->term_count; i++)
        if (n->terms[i].measure == m) {
            put(text, bytes, at, "%s%lld", first ? "" : " + ", (long long)(total ? n->terms[i].total_value : n->terms[i].chip_value));
            first = false;
        }
    put(text, bytes, at, "%s = %lld", first ? "nothing is exchanged" : "", (long long)(total ? n->total[m] : n->chip[m]));
}

#define SUMS (2 * MEASURES - 1)   /* messages are a chip's only */

int rondo_cost_count(const rondo_cost_case *of, rondo_cost *cost)
{
    struct count n;
    if (!cost)
        return rondo__fail(RONDO_EINVAL, "rondo_cost_count: cost is NULL");
    int err = count(&n, of);
    if (err)
        return err;
    const rondo_cost ours = { sizeof ours, n.s.chips, n.chip[FLOPS], n.total[FLOPS], n.chip[WEIGHTS], n.total[WEIGHTS], n.chip[ACTIVATIONS],
                              n.total[ACTIVATIONS], n.chip[CACHE], n.total[CACHE], n.chip[MESSAGES], SIZES + n.term_count + SUMS };
    return rondo__info_copy(cost, &ours, sizeof ours, "rondo_cost");
}

int64_t rondo_cost_step_text(const rondo_cost_case *of, int64_t index, char *text, size_t bytes)
{
    struct count n;
    size_t at = 0;
    int err = count(&n, of);
    if (err)
        return err;
    if (!text && bytes)
        return rondo__fail(RONDO_EINVAL, "rondo_cost_step_text: text is NULL, but has room for %zu bytes", bytes);
    if (index < 0 || index >= SIZES + n.term_count + SUMS)
        return rondo__fail(RONDO_EINVAL, "rondo_cost_step_text: there is no step %lld; there are %d, from 0", (long long)index,
                           SIZES + n.term_count + SUMS);
    const int i = (int)index;
    if (i < SIZES)
        put_size(&n, i, text, bytes, &at);
    else if (i < SIZES + n.term_count)
        put_term(&n.terms[i - SIZES], text, bytes, &at);
    else
        put_sum(&n, (enum measure)((i - SIZES - n.term_count) / 2), (i - SIZES - n.term_count) % 2, text, bytes, &at);
    return (int64_t)at;
}
