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

enum { LIMBS = 4 };   /* of 32 bits, the lowest first: there are no longer integers on every machine */

static void take_apart(const struct rondo__wide *v, uint64_t limb[LIMBS])
{
    for (int i = 0; i < LIMBS; i++)
        limb[i] = (i < 2 ? v->low : v->high) >> (i % 2 * 32) & UINT32_MAX;
}

static struct rondo__wide put_together(const uint64_t limb[LIMBS])
{
    return (struct rondo__wide){ limb[1] << 32 | limb[0], limb[3] << 32 | limb[2] };
}

/* *v times a number below 2^32; false: more than 128 bits. */
static bool times_part(struct rondo__wide *v, uint64_t factor)
{
    uint64_t limb[LIMBS], carry = 0;
    take_apart(v, limb);
    for (int i = 0; i < LIMBS; i++) {
        carry += limb[i] * factor;
        limb[i] = carry & UINT32_MAX;
        carry >>= 32;
    }
    *v = put_together(limb);
    return !carry;
}

static bool add(struct rondo__wide *sum, const struct rondo__wide *v)
{
    const uint64_t low = sum->low + v->low, carry = low < v->low;
    if (v->high > UINT64_MAX - sum->high || carry > UINT64_MAX - sum->high - v->high)
        return false;
    *sum = (struct rondo__wide){ low, sum->high + v->high + carry };
    return true;
}

static bool multiply(struct rondo__wide *v, uint64_t factor)
{
    struct rondo__wide upper = *v;
    if (!times_part(v, factor & UINT32_MAX))
        return false;
    if (!(factor >> 32))
        return true;
    if (!times_part(&upper, factor >> 32) || upper.high >> 32)
        return false;
    upper = (struct rondo__wide){ upper.low << 32, upper.high << 32 | upper.low >> 32 };
    return add(v, &upper);
}

/* What is left over of *v by a number below 2^32. */
static uint64_t divide(struct rondo__wide *v, uint64_t by)
{
    uint64_t limb[LIMBS], rest = 0;
    take_apart(v, limb);
    for (int i = LIMBS - 1; i >= 0; i--) {
        rest = rest << 32 | limb[i];
        limb[i] = rest / by;
        rest %= by;
    }
    *v = put_together(limb);
    return rest;
}

const char *rondo__wide_text(struct rondo__wide value, char text[40])
{
    char *at = text + 39;
    *at = 0;
    do
        *--at = (char)('0' + (int)divide(&value, 10));
    while (value.low || value.high);
    return at;
}

/* No factor is negative, and what is divided by are ranks. */
static bool value_of(const struct rondo__cost_product *p, struct rondo__wide *value)
{
    const struct rondo__wide one = { 1, 0 };
    *value = one;
    for (int i = 0; i < p->count; i++)
        if (!multiply(value, (uint64_t)p->factor[i]))
            return false;
    if (p->over > 1 && divide(value, (uint64_t)p->over) && !add(value, &one))
        return false;
    return multiply(value, (uint64_t)p->times);
}

static bool sum_up(enum rondo__cost_measure measure, const struct rondo__cost_product *p, struct rondo__wide *value, struct rondo__wide *sum)
{
    return value_of(p, value) && add(sum, value) && (measure == RONDO_FLOPS || (!sum->high && sum->low <= (uint64_t)INT64_MAX));
}

void rondo__cost_term(struct rondo__cost_count *n, enum rondo__cost_measure measure, const char *what, const char *formula,
                      struct rondo__cost_product chip, struct rondo__cost_product total)
{
    n->terms[n->term_count++] = (struct rondo__cost_term){ measure, what, formula, chip, total, { 0, 0 }, { 0, 0 } };
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

static int too_large(enum rondo__cost_measure measure, const char *what)
{
    return rondo__fail(RONDO_EINVAL, "%s is more than %s; smaller sizes, and fewer or shorter sequences, can be counted", what,
                       measure == RONDO_FLOPS ? "2^128 - 1" : "9223372036854775807");
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
        if (!sum_up(t->measure, &t->chip, &t->chip_value, &n->chip[t->measure]))
            return too_large(t->measure, rondo__cost_measures[t->measure].chip);
        if (!sum_up(t->measure, &t->total, &t->total_value, &n->total[t->measure]))
            return too_large(t->measure, rondo__cost_measures[t->measure].total);
    }
    return 0;
}

static int64_t bounded(struct rondo__wide value)
{
    return !value.high && value.low <= (uint64_t)INT64_MAX ? (int64_t)value.low : INT64_MAX;
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
    *count = bounded(n.chip[RONDO_WEIGHTS]);
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
    const struct rondo__wide chip = n.chip[RONDO_FLOPS], total = n.total[RONDO_FLOPS];
    const rondo_cost ours = { sizeof ours, n.s.chips, bounded(chip), bounded(total), bounded(n.chip[RONDO_WEIGHTS]),
                              bounded(n.total[RONDO_WEIGHTS]), bounded(n.chip[RONDO_ACTIVATIONS]), bounded(n.total[RONDO_ACTIVATIONS]),
                              bounded(n.chip[RONDO_CACHE]), bounded(n.total[RONDO_CACHE]), bounded(n.chip[RONDO_MESSAGES]),
                              rondo__cost_steps(&n), numbers, { chip.low, chip.high }, { total.low, total.high } };
    return rondo__info_copy(cost, &ours, sizeof ours, "rondo_cost");
}

