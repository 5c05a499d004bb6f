/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What a whole model costs besides its attention: MLP, norms, biases, embedding and head, as terms of cost.c. All of it is dealt by columns
 * or rows of its matrices to the chips that share heads, and copied to each group that shares a context; norms, and biases behind a sum, are
 * on every chip. Only matrix products count as FLOPs.
 *
 * Chips that share heads sum the MLP's output as they do attention's, and the embedding's rows, and gather the logits.
 */
#include "plan/cost.h"

/* A vector of `local` of `all` numbers in each layer, or (local = all) on every chip. */
static void vector(struct rondo__cost_count *n, const char *what, const char *formula, int64_t times, int64_t local, int64_t all)
{
    const struct rondo__cost_sizes *s = &n->s;
    rondo__cost_layer_term(n, RONDO_WEIGHTS, what, formula, RONDO_PRODUCT(times, local, s->weight_bytes),
                           RONDO_PRODUCT(s->cp, local == all ? s->tp : 1, times, all, s->weight_bytes));
}

static void mlp(struct rondo__cost_count *n)
{
    const struct rondo__cost_sizes *s = &n->s;
    static const struct {
        const char *flops, *weights, *kept;
    } rows[] = { { "gate projection", "Wgate", "gate" }, { "up projection", "Wup", "up" }, { "down projection", "Wdown", NULL } };
    if (!s->ffn)
        return;
    for (int i = n->c.mlp_matrices == 3 ? 0 : 1; i < 3; i++) {
        rondo__cost_layer_term(n, RONDO_FLOPS, rows[i].flops, "2 * tokens_local * hidden_size * intermediate_local",
                               RONDO_PRODUCT(2, s->tokens_local, s->hidden, s->ffn_local), RONDO_PRODUCT(2, s->tokens_all, s->hidden, s->ffn));
        rondo__cost_layer_term(n, RONDO_WEIGHTS, rows[i].weights, "hidden_size * intermediate_local * mlp_weight_bytes_per_elem",
                               RONDO_PRODUCT(s->hidden, s->ffn_local, s->ffn_bytes),
                               RONDO_PRODUCT(s->cp, s->hidden, s->ffn, s->ffn_bytes));
        if (rows[i].kept)
            rondo__cost_layer_term(n, RONDO_ACTIVATIONS, rows[i].kept, "tokens_local * intermediate_local * bytes_per_elem",
                                   RONDO_PRODUCT(s->tokens_local, s->ffn_local, s->bytes), RONDO_PRODUCT(s->tokens_all, s->ffn, s->bytes));
    }
    rondo__cost_layer_term(n, RONDO_ACTIVATIONS, "the MLP's output", "tokens_local * hidden_size * bytes_per_elem",
                           RONDO_PRODUCT(s->tokens_local, s->hidden, s->bytes), RONDO_PRODUCT(s->tp, s->tokens_all, s->hidden, s->bytes));
    if (s->tp > 1)
        rondo__cost_layer_term(n, RONDO_MESSAGES, "the MLP's output of all chips that share heads",
                               "tokens_local * hidden_size * bytes_per_elem", RONDO_PRODUCT(s->tokens_local, s->hidden, s->bytes),
                               RONDO_PRODUCT(0));
}

static void vectors(struct rondo__cost_count *n)
{
    const struct rondo__cost_sizes *s = &n->s;
    const int64_t q_local = s->heads_local * s->head_dim, q = s->heads * s->head_dim;
    const int64_t kv_local = s->kv_heads_local * s->head_dim, kv = s->kv_heads_all * s->head_dim;
    const struct {
        int32_t bit;
        const char *what, *formula;
        int64_t local, all;
    } biases[] = {
        { RONDO_COST_Q, "bias of q", "heads_local * head_dim * weight_bytes_per_elem", q_local, q },
        { RONDO_COST_K, "bias of k", "kv_heads_local * head_dim * weight_bytes_per_elem", kv_local, kv },
        { RONDO_COST_V, "bias of v", "kv_heads_local * head_dim * weight_bytes_per_elem", kv_local, kv },
        { RONDO_COST_O, "bias of o", "hidden_size * weight_bytes_per_elem", s->hidden, s->hidden },
        { RONDO_COST_GATE, "bias of gate", "intermediate_local * weight_bytes_per_elem", s->ffn_local, s->ffn },
        { RONDO_COST_UP, "bias of up", "intermediate_local * weight_bytes_per_elem", s->ffn_local, s->ffn },
        { RONDO_COST_DOWN, "bias of down", "hidden_size * weight_bytes_per_elem", s->hidden, s->hidden },
    };
    for (size_t i = 0; i < sizeof biases / sizeof *biases; i++)
        if (n->c.biases & biases[i].bit)
            vector(n, biases[i].what, biases[i].formula, 1, biases[i].local, biases[i].all);
    if (n->c.norms_per_layer)
        vector(n, "norms", "norms_per_layer * hidden_size * weight_bytes_per_elem", n->c.norms_per_layer, s->hidden, s->hidden);
    if (n->c.qk_norm)
        vector(n, "norms of q and k", "2 * head_dim * weight_bytes_per_elem", 2, s->head_dim, s->head_dim);
}

static void ends(struct rondo__cost_count *n)
{
    const struct rondo__cost_sizes *s = &n->s;
    if (!s->vocab)
        return;
    for (int i = n->c.tied_embeddings ? 1 : 0; i < 2; i++)
        rondo__cost_term(n, RONDO_WEIGHTS, i == 0 ? "embedding" : n->c.tied_embeddings ? "embedding, the head too" : "head",
                         "vocab_local * hidden_size * weight_bytes_per_elem", RONDO_PRODUCT(s->vocab_local, s->hidden, s->weight_bytes),
                         RONDO_PRODUCT(s->cp, s->vocab, s->hidden, s->weight_bytes));
    if (n->c.norms_per_layer)
        rondo__cost_term(n, RONDO_WEIGHTS, "norm before the head", "hidden_size * weight_bytes_per_elem",
                         RONDO_PRODUCT(s->hidden, s->weight_bytes), RONDO_PRODUCT(s->cp, s->tp, s->hidden, s->weight_bytes));
    rondo__cost_term(n, RONDO_FLOPS, "head", "2 * logits_local * hidden_size * vocab_local",
                     RONDO_PRODUCT(2, s->logits_local, s->hidden, s->vocab_local), RONDO_PRODUCT(2, s->logits_all, s->hidden, s->vocab));
    rondo__cost_term(n, RONDO_ACTIVATIONS, "logits", "logits_local * vocab_local * bytes_per_elem",
                     RONDO_PRODUCT(s->logits_local, s->vocab_local, s->bytes), RONDO_PRODUCT(s->logits_all, s->vocab, s->bytes));
    if (s->tp > 1) {
        rondo__cost_term(n, RONDO_MESSAGES, "rows of the embedding", "tokens_local * hidden_size * bytes_per_elem",
                         RONDO_PRODUCT(s->tokens_local, s->hidden, s->bytes), RONDO_PRODUCT(0));
        rondo__cost_term(n, RONDO_MESSAGES, "logits of all chips that share heads", "logits_local * vocab_size * bytes_per_elem",
                         RONDO_PRODUCT(s->logits_local, s->vocab, s->bytes), RONDO_PRODUCT(0));
    }
}

void rondo__cost_model(struct rondo__cost_count *n)
{
    mlp(n);
    vectors(n);
    ends(n);
}
