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

const struct rondo__cost_measure_names rondo__cost_measures[RONDO_MEASURES] = {
    { "flops", "flops_per_chip", "flops_total" },
    { "weights", "weight_memory_per_chip", "weight_memory_total" },
    { "activations", "activation_memory_per_chip", "activation_memory_total" },
    { "kv cache", "kv_cache_per_chip", "kv_cache_total" },
    { "communication", "communication_bytes", NULL },
};

/* ---- terms ---- */

static bool value_of(const struct rondo__cost_product *p, int64_t *value)
{
    int64_t v = 1;
    for (int i = 0; i < p->count; i++)
        if (!rondo__mul64(v, p->factor[i], &v))
            return false;
    return rondo__mul64(v / p->over + (v % p->over != 0), p->times, value);
}

void rondo__cost_term(struct rondo__cost_count *n, enum rondo__cost_measure measure, const char *what, const char *formula,
                      struct rondo__cost_product chip, struct rondo__cost_product total)
{
    n->terms[n->term_count++] = (struct rondo__cost_term){ measure, what, formula, chip, total, 0, 0 };
}

void rondo__cost_layer_term(struct rondo__cost_count *n, enum rondo__cost_measure measure, const char *what, const char *formula,
                            struct rondo__cost_product chip, struct rondo__cost_product total)
{
    if (measure != RONDO_ACTIVATIONS)
        chip.times = total.times = n->s.layers;
    rondo__cost_term(n, measure, what, formula, chip, total);
}

static void message(struct rondo__cost_count *n, const char *what, const char *formula, struct rondo__cost_product chip)
{
    rondo__cost_layer_term(n, RONDO_MESSAGES, what, formula, chip, RONDO_PRODUCT(0));
}

static bool counts(const struct rondo__cost_count *n, int projection)
{
    return !(n->c.skip_projections & projection);
}

static void projections(struct rondo__cost_count *n)
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
            rondo__cost_layer_term(n, RONDO_FLOPS, rows[i].flops,
                                   rows[i].kv ? "2 * tokens_local * hidden_size * kv_heads_local * head_dim"
                                              : "2 * tokens_local * hidden_size * heads_local * head_dim",
                                   RONDO_PRODUCT(2, s->tokens_local, s->hidden, local, s->head_dim),
                                   RONDO_PRODUCT(2, s->tokens_all, s->hidden, all, s->head_dim));
        rondo__cost_layer_term(n, RONDO_WEIGHTS, rows[i].weights,
             rows[i].kv ? "hidden_size * kv_heads_local * head_dim * weight_bytes_per_elem"
                        : "hidden_size * heads_local * head_dim * weight_bytes_per_elem",
             RONDO_PRODUCT(s->hidden, local, s->head_dim, s->weight_bytes),
             RONDO_PRODUCT(s->cp, s->hidden, all, s->head_dim, s->weight_bytes));
        if (rows[i].kept && counts(n, rows[i].bit))
            rondo__cost_layer_term(n, RONDO_ACTIVATIONS, rows[i].kept,
                 rows[i].kv ? "tokens_local * kv_heads_local * head_dim * bytes_per_elem"
                            : "tokens_local * heads_local * head_dim * bytes_per_elem",
                 RONDO_PRODUCT(s->tokens_local, local, s->head_dim, s->bytes), RONDO_PRODUCT(s->tokens_all, all, s->head_dim, s->bytes));
    }
}

static void core(struct rondo__cost_count *n)
{
    static const char *const names[] = { "scores q.k", "weights on v" };
    const struct rondo__cost_sizes *s = &n->s;
    for (int i = 0; i < 2; i++)
        rondo__cost_layer_term(n, RONDO_FLOPS, names[i], "2 * heads_local * pairs_local * head_dim",
                               RONDO_PRODUCT(2, s->heads_local, s->pairs_local, s->head_dim),
                               RONDO_PRODUCT(2, s->heads, s->pairs, s->head_dim));
    rondo__cost_layer_term(n, RONDO_CACHE, "k and v", RONDO_KV_ROW(s, "2 * keys_local * kv_heads_local * ", ""),
                           RONDO_PRODUCT(2, s->keys_local, s->kv_heads_local, s->kv_numbers, s->kv_bytes),
                           RONDO_PRODUCT(2, s->keys, s->kv_heads, s->kv_numbers, s->kv_bytes));
}

/* The layer's input, and its output: of all of hidden_size where chips have summed, or of a chip's heads. */
static void ends(struct rondo__cost_count *n)
{
    const struct rondo__cost_sizes *s = &n->s;
    rondo__cost_layer_term(n, RONDO_ACTIVATIONS, "x", "tokens_local * hidden_size * bytes_per_elem",
                           RONDO_PRODUCT(s->tokens_local, s->hidden, s->bytes), RONDO_PRODUCT(s->tp, s->tokens_all, s->hidden, s->bytes));
    if (s->tp > 1 && n->c.keep_hidden_sharded)
        rondo__cost_layer_term(n, RONDO_ACTIVATIONS, "y, of own heads", "tokens_local * heads_local * head_dim * bytes_per_elem",
                               RONDO_PRODUCT(s->tokens_local, s->heads_local, s->head_dim, s->bytes),
                               RONDO_PRODUCT(s->tokens_all, s->heads, s->head_dim, s->bytes));
    else
        rondo__cost_layer_term(n, RONDO_ACTIVATIONS, "y", "tokens_local * hidden_size * bytes_per_elem",
                               RONDO_PRODUCT(s->tokens_local, s->hidden, s->bytes),
                               RONDO_PRODUCT(s->tp, s->tokens_all, s->hidden, s->bytes));
}

/* What chips that share a context exchange, by algorithm; then those that share heads. */
static void messages(struct rondo__cost_count *n)
{
    const struct rondo__cost_sizes *s = &n->s;
    const int64_t others = s->cp - 1;
    struct rondo__cost_product heads = RONDO_PRODUCT(others, s->heads_local + s->heads_local, s->tokens_local, s->head_dim, s->bytes);
    struct rondo__cost_product kv = RONDO_PRODUCT(others, 2, s->keys_local, s->kv_heads_local, s->kv_numbers, s->kv_bytes);
    const int64_t rows = s->rows - 1, columns = s->columns - 1;
    switch (s->cp > 1 ? n->c.algorithm : 0) {
    case RONDO_ALL_GATHER:
        message(n, "all keys and values", RONDO_KV_ROW(s, "2 * keys * kv_heads_local * ", ""),
                RONDO_PRODUCT(2, s->keys, s->kv_heads_local, s->kv_numbers, s->kv_bytes));
        break;
    case RONDO_REDUCE:
        message(n, "softmax statistics", "2 * tokens_local * heads_local * softmax_stat_bytes",
                RONDO_PRODUCT(2, s->tokens_local, s->heads_local, s->stat_bytes));
        message(n, "partial outputs", "tokens_local * heads_local * head_dim * bytes_per_elem",
                RONDO_PRODUCT(s->tokens_local, s->heads_local, s->head_dim, s->bytes));
        break;
    case RONDO_PASS_KV:
        message(n, "k and v round the ring", RONDO_KV_ROW(s, "(cp - 1) * 2 * keys_local * kv_heads_local * ", ""), kv);
        break;
    case RONDO_PASS_Q:
        message(n, "q round the ring", "(cp - 1) * tokens_local * heads_local * head_dim * bytes_per_elem",
                RONDO_PRODUCT(others, s->tokens_local, s->heads_local, s->head_dim, s->bytes));
        message(n, "partial outputs back", "(cp - 1) * tokens_local * heads_local * head_dim * bytes_per_elem",
                RONDO_PRODUCT(others, s->tokens_local, s->heads_local, s->head_dim, s->bytes));
        message(n, "their LSE", "(cp - 1) * tokens_local * heads_local * softmax_stat_bytes",
                RONDO_PRODUCT(others, s->tokens_local, s->heads_local, s->stat_bytes));
        break;
    case RONDO_ALL_TO_ALL:
        heads.over = kv.over = s->cp;
        message(n, "q and o", "(cp - 1) * 2 * heads_local * tokens_local * head_dim * bytes_per_elem / cp", heads);
        message(n, "k and v", RONDO_KV_ROW(s, "(cp - 1) * 2 * keys_local * kv_heads_local * ", " / cp"), kv);
        break;
    case RONDO_HALO:
        message(n, "k and v within the window", RONDO_KV_ROW(s, "2 * halo * kv_heads_local * ", ""),
                RONDO_PRODUCT(2, s->halo, s->kv_heads_local, s->kv_numbers, s->kv_bytes));
        break;
    case RONDO_MESH:
        message(n, "k and v of the column", RONDO_KV_ROW(s, "(rows - 1) * 2 * keys_local * kv_heads_local * ", ""),
                RONDO_PRODUCT(rows, 2, s->keys_local, s->kv_heads_local, s->kv_numbers, s->kv_bytes));
        message(n, "q of the row", "(columns - 1) * tokens_local * heads_local * head_dim * bytes_per_elem",
                RONDO_PRODUCT(columns, s->tokens_local, s->heads_local, s->head_dim, s->bytes));
        message(n, "partial outputs back", "(columns - 1) * tokens_local * heads_local * head_dim * bytes_per_elem",
                RONDO_PRODUCT(columns, s->tokens_local, s->heads_local, s->head_dim, s->bytes));
        message(n, "their LSE", "(columns - 1) * tokens_local * heads_local * softmax_stat_bytes",
                RONDO_PRODUCT(columns, s->tokens_local, s->heads_local, s->stat_bytes));
        break;
    default:
        break;
    }
    if (s->tp > 1 && !n->c.keep_hidden_sharded)
        message(n, "y of all chips that share heads", "tokens_local * hidden_size * bytes_per_elem",
                RONDO_PRODUCT(s->tokens_local, s->hidden, s->bytes));
}

static int too_large(const char *what)
{
    return rondo__fail(RONDO_EINVAL, "%s is more than %lld; smaller sizes, and fewer or shorter sequences, can be counted",
                       what, (long long)INT64_MAX);
}

int rondo__cost_terms(struct rondo__cost_count *n, const rondo_cost_case *of)
{
    memset(n, 0, sizeof *n);
    int err = rondo__cost_case(&n->c, of, &n->s);
    if (err)
        return err;
    projections(n);
    core(n);
    ends(n);
    messages(n);
    rondo__cost_model(n);
    return 0;
}

double rondo__cost_about(const struct rondo__cost_count *n, enum rondo__cost_measure measure)
{
    double sum = 0.0;
    for (int i = 0; i < n->term_count; i++) {
        const struct rondo__cost_product *p = &n->terms[i].chip;
        double value = (double)p->times / (double)p->over;
        for (int k = 0; k < p->count; k++)
            value *= (double)p->factor[k];
        sum += n->terms[i].measure == measure ? value : 0.0;
    }
    return sum;
}

int rondo__cost_count(struct rondo__cost_count *n, const rondo_cost_case *of)
{
    const int err = rondo__cost_terms(n, of);
    if (err)
        return err;
    for (int i = 0; i < n->term_count; i++) {
        struct rondo__cost_term *t = &n->terms[i];
        if (!value_of(&t->chip, &t->chip_value) || !rondo__add64(n->chip[t->measure], t->chip_value, &n->chip[t->measure]))
            return too_large(rondo__cost_measures[t->measure].chip);
        if (!value_of(&t->total, &t->total_value) || !rondo__add64(n->total[t->measure], t->total_value, &n->total[t->measure]))
            return too_large(rondo__cost_measures[t->measure].total);
    }
    return 0;
}

/* The weights of one chip that has all of it. */
static int parameters(const rondo_cost_case *of, int64_t *count)
{
    struct rondo__cost_count n;
    rondo_cost_case alone;
    int err = rondo__desc_copy(&alone, sizeof alone, of, "rondo_cost_case");
    alone.tensor_parallel = alone.context_parallel = alone.weight_bytes_per_elem = alone.mlp_weight_bytes_per_elem = 1;
    alone.grid[0] = alone.grid[1] = 0;
    if (!err)
        err = rondo__cost_count(&n, &alone);
    if (err)
        return err;
    *count = n.chip[RONDO_WEIGHTS];
    return 0;
}

int rondo_cost_count(const rondo_cost_case *of, rondo_cost *cost)
{
    struct rondo__cost_count n;
    int64_t numbers = 0;
    if (!cost)
        return rondo__fail(RONDO_EINVAL, "rondo_cost_count: cost is NULL");
    int err = rondo__cost_count(&n, of);
    if (!err)
        err = parameters(of, &numbers);
    if (err)
        return err;
    const rondo_cost ours = { sizeof ours, n.s.chips, n.chip[RONDO_FLOPS], n.total[RONDO_FLOPS], n.chip[RONDO_WEIGHTS],
                              n.total[RONDO_WEIGHTS], n.chip[RONDO_ACTIVATIONS], n.total[RONDO_ACTIVATIONS], n.chip[RONDO_CACHE],
                              n.total[RONDO_CACHE], n.chip[RONDO_MESSAGES], rondo__cost_steps(&n), numbers };
    return rondo__info_copy(cost, &ours, sizeof ours, "rondo_cost");
}

