/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The case of a count: every field checked by its name, and the sizes that counts are made of. Where something does not divide, the fullest
 * chip has what is rounded up; all chips together have what there is, and copies where a chip needs one. Called by cost.c and moved.c.
 *
 * Deals. Heads: ceil(num_heads / tp). KV heads: ceil(num_kv_heads / tp), or one whole copy each where there are fewer than tp. Tokens of a
 * prefill and cached positions: ceil(of a sequence / cp); a decode step's queries are on each context-parallel rank. Each visible pair is
 * computed once: with a mask that hides keys by a layout in which all ranks compute the same, ceil(pairs / cp).
 */
#include "plan/cost.h"

#define SIZE_MOST (INT64_C(1) << 31)
#define TOKENS_MOST (INT64_C(1) << 40)
#define CHIPS_MOST (INT64_C(1) << 20)
#define LAYERS_MOST (INT64_C(1) << 16)

static int64_t ceil_div(int64_t a, int64_t b)
{
    return a / b + (a % b != 0);
}

/* ---- pairs ---- */

/* 1 + 2 + ... + x, whose halved factor is the even one. */
static bool triangle(int64_t x, int64_t *sum)
{
    return x % 2 ? rondo__mul64(x, (x + 1) / 2, sum) : rondo__mul64(x / 2, x + 1, sum);
}

/* Sum of clamp(x, 0, most) over x from `first` on, `count` of them. */
static bool clamped(int64_t first, int64_t count, int64_t most, int64_t *sum)
{
    const int64_t end = first + count, low = first > 0 ? first : 0, high = end < most ? end : most;
    const int64_t full = end - (first > most ? first : most);
    int64_t slope = 0, before = 0, top = 0;
    bool good = true;
    if (high > low)
        good = triangle(high - 1, &slope) && (low == 0 || triangle(low - 1, &before));
    if (full > 0)
        good = good && rondo__mul64(full, most, &top);
    return good && rondo__add64(slope - before, top, sum);
}

bool rondo__cost_pairs(int64_t tokens, int64_t keys, int64_t left, int64_t right, int64_t *pairs)
{
    /* the query at p sees keys [p - left, p + right]: those below the end without those below the beginning. Beyond all there are: open. */
    const int64_t first = keys - tokens, beyond = tokens + keys;
    int64_t below_end, below_begin = 0;
    bool good;
    if (right < 0 || right > beyond)
        good = rondo__mul64(tokens, keys, &below_end);
    else
        good = clamped(first + right + 1, tokens, keys, &below_end);
    if (good && left >= 0 && left <= beyond)
        good = clamped(first - left, tokens, keys, &below_begin);
    if (good)
        *pairs = below_end - below_begin;
    return good;
}

/* ---- fields ---- */

static int wrong(const char *name, int64_t value, int64_t low, int64_t high)
{
    if (!value)
        return rondo__fail(RONDO_EINVAL, "%s is missing or 0; it takes %lld to %lld", name, (long long)low, (long long)high);
    return rondo__fail(RONDO_EINVAL, "%s is %lld; it takes %lld to %lld", name, (long long)value, (long long)low, (long long)high);
}

static int check_numbers(const rondo_cost_case *c)
{
    const struct {
        const char *name;
        int64_t value, low, high;
    } fields[] = {
        { "hidden_size", c->hidden_size, 1, SIZE_MOST }, { "num_heads", c->num_heads, 1, SIZE_MOST },
        { "num_kv_heads", c->num_kv_heads, 1, SIZE_MOST },
        { "head_dim", c->head_dim, 1, SIZE_MOST }, { "batch_size", c->batch_size, 1, SIZE_MOST }, { "seq_len", c->seq_len, 0, TOKENS_MOST },
        { "past_seq_len", c->past_seq_len, 0, TOKENS_MOST }, { "new_tokens", c->new_tokens, 0, TOKENS_MOST },
        { "kv_len_used", c->kv_len_used, 0, 2 * TOKENS_MOST },
        { "bytes_per_elem", c->bytes_per_elem, 1, 64 }, { "softmax_stat_bytes", c->softmax_stat_bytes, 1, 64 },
        { "tensor_parallel", c->tensor_parallel, 1, CHIPS_MOST }, { "context_parallel", c->context_parallel, 1, CHIPS_MOST },
        { "num_layers", c->num_layers, 1, LAYERS_MOST }, { "intermediate_size", c->intermediate_size, 0, SIZE_MOST },
        { "vocab_size", c->vocab_size, 0, SIZE_MOST }, { "weight_bytes_per_elem", c->weight_bytes_per_elem, 1, 64 },
        { "kv_bytes_per_elem", c->kv_bytes_per_elem, 1, 64 },
        { "mlp_weight_bytes_per_elem", c->mlp_weight_bytes_per_elem, 1, 64 }, { "mlp_matrices", c->mlp_matrices, 2, 3 },
        { "norms_per_layer", c->norms_per_layer, 0, 16 },
    };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (fields[i].value < fields[i].low || fields[i].value > fields[i].high)
            return wrong(fields[i].name, fields[i].value, fields[i].low, fields[i].high);
    if (c->num_heads % c->num_kv_heads)
        return rondo__fail(RONDO_EINVAL, "num_kv_heads is %lld, which does not divide num_heads, %lld",
                           (long long)c->num_kv_heads, (long long)c->num_heads);
    if (c->tensor_parallel > c->num_heads)
        return rondo__fail(RONDO_EINVAL, "tensor_parallel is %lld, but num_heads only %lld; each chip takes a head at least",
                           (long long)c->tensor_parallel,
                           (long long)c->num_heads);
    return 0;
}

static int check_words(const rondo_cost_case *c)
{
    const int32_t all = RONDO_COST_Q | RONDO_COST_K | RONDO_COST_V | RONDO_COST_O;
    if (c->phase != RONDO_COST_PREFILL && c->phase != RONDO_COST_DECODE)
        return rondo__fail(RONDO_EINVAL, "phase is %d; RONDO_COST_PREFILL and RONDO_COST_DECODE are known", (int)c->phase);
    switch (c->algorithm) {
    case 0: case RONDO_ALL_GATHER: case RONDO_REDUCE: case RONDO_PASS_KV: case RONDO_PASS_Q: case RONDO_ALL_TO_ALL:
    case RONDO_HALO: case RONDO_MESH:
        break;
    default:
        return rondo__fail(RONDO_EINVAL,
                           "algorithm is %d; 0, all-gather, reduce, pass-kv, pass-q, all-to-all, halo and mesh can be counted", (int)c->algorithm);
    }
    if (!c->algorithm && c->context_parallel > 1)
        return rondo__fail(RONDO_EINVAL,
                           "algorithm is none, but context_parallel %lld; chips that share a context exchange something, say how",
                           (long long)c->context_parallel);
    if (c->skip_projections & ~all)
        return rondo__fail(RONDO_EINVAL, "projections: skip_projections is %d; it is a sum out of RONDO_COST_Q, _K, _V and _O",
                           (int)c->skip_projections);
    const int32_t flags[] = { c->keep_hidden_sharded, c->causal, c->windowed };
    static const char *const names[] = { "keep_hidden_sharded", "causal", "windowed" };
    for (int i = 0; i < 3; i++)
        if (flags[i] & ~1)
            return rondo__fail(RONDO_EINVAL, "%s is %d; it takes 0 or 1", names[i], (int)flags[i]);
    if (c->layout < 0 || c->layout > RONDO_SNAKE)
        return rondo__fail(RONDO_EINVAL, "layout is %d; contiguous, zigzag, striped and snake, %d to %d, can be planned, 0 is the plan's choice",
                           (int)c->layout, RONDO_CONTIGUOUS, RONDO_SNAKE);
    if (c->kv_type && (!rondo_type_size(c->kv_type) || rondo_type_size(c->kv_type) != (size_t)c->kv_bytes_per_elem))
        return rondo__fail(RONDO_EINVAL, "kv_type is %d, but kv_bytes_per_elem %lld; leave that out, and take f32, bf16, f16 or q8, 1 to 4",
                           (int)c->kv_type, (long long)c->kv_bytes_per_elem);
    if (c->windowed && (c->window_left < -1 || c->window_right < -1))
        return rondo__fail(RONDO_EINVAL, "window is %lld,%lld; each side takes a number of keys, or -1 for open", (long long)c->window_left,
                           (long long)c->window_right);
    return 0;
}

/* seq_len or the other two: one way of saying it. */
static int check_lengths(rondo_cost_case *c)
{
    const bool apart = c->past_seq_len || c->new_tokens || c->past_seq_len_of || c->new_tokens_of;
    if (c->seq_len && apart)
        return rondo__fail(RONDO_EINVAL,
                           "seq_len is %lld, but past_seq_len and new_tokens are given too; give it, or these two", (long long)c->seq_len);
    if (c->seq_len && c->phase == RONDO_COST_DECODE)
        return rondo__fail(RONDO_EINVAL, "seq_len is given, but phase is decode; give past_seq_len and new_tokens");
    if (c->seq_len)
        c->new_tokens = c->seq_len;
    if (!c->new_tokens_of && !c->new_tokens)
        return rondo__fail(RONDO_EINVAL, "%s", apart || c->phase == RONDO_COST_DECODE
                                                   ? "new_tokens is missing or 0; there is one token at least"
                                                   : "seq_len is missing or 0; give it, or past_seq_len and new_tokens");
    if (c->kv_len_used && (c->past_seq_len_of || c->new_tokens_of))
        return rondo__fail(RONDO_EINVAL, "kv_len_used is %lld, but sequences have lengths of their own; leave it out",
                           (long long)c->kv_len_used);
    if (c->kv_len_used > c->past_seq_len + c->new_tokens)
        return rondo__fail(RONDO_EINVAL, "kv_len_used is %lld; there are past_seq_len + new_tokens = %lld positions at most",
                           (long long)c->kv_len_used,
                           (long long)(c->past_seq_len + c->new_tokens));
    return 0;
}

/* What only a whole model has. */
static int check_model(const rondo_cost_case *c)
{
    const int32_t of_mlp = RONDO_COST_GATE | RONDO_COST_UP | RONDO_COST_DOWN;
    const struct {
        const char *name;
        int32_t value;
    } flags[] = { { "qk_norm", c->qk_norm }, { "tied_embeddings", c->tied_embeddings }, { "all_logits", c->all_logits } };
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if (flags[i].value != 0 && flags[i].value != 1)
            return rondo__fail(RONDO_EINVAL, "%s is %d; it takes 0 or 1", flags[i].name, (int)flags[i].value);
    if (c->biases & ~(RONDO_COST_Q | RONDO_COST_K | RONDO_COST_V | RONDO_COST_O | of_mlp))
        return rondo__fail(RONDO_EINVAL, "biases is %d; the sum of RONDO_COST_Q to RONDO_COST_DOWN, 127, is the most", (int)c->biases);
    if (!c->intermediate_size && (c->biases & of_mlp))
        return rondo__fail(RONDO_EINVAL, "biases has layers of an MLP, but intermediate_size is 0; give it, or leave them out");
    if (c->mlp_matrices == 2 && (c->biases & RONDO_COST_GATE))
        return rondo__fail(RONDO_EINVAL, "biases has the gate's, but mlp_matrices is 2; an MLP with a gate has 3");
    if (!c->vocab_size && (c->tied_embeddings || c->all_logits))
        return rondo__fail(RONDO_EINVAL, "%s is 1, but vocab_size is 0; give it, or leave that out",
                           c->tied_embeddings ? "tied_embeddings" : "all_logits");
    if ((c->intermediate_size && c->tensor_parallel > c->intermediate_size) || (c->vocab_size && c->tensor_parallel > c->vocab_size))
        return rondo__fail(RONDO_EINVAL, "tensor_parallel is %lld, but %s only %lld; each chip takes a column at least",
                           (long long)c->tensor_parallel,
                           c->intermediate_size && c->tensor_parallel > c->intermediate_size ? "intermediate_size" : "vocab_size",
                           (long long)(c->intermediate_size && c->tensor_parallel > c->intermediate_size ? c->intermediate_size
                                                                                                         : c->vocab_size));
    return 0;
}

/* Of a mesh: its sides. */
static int check_grid(const rondo_cost_case *c, struct rondo__cost_sizes *s)
{
    const int64_t cp = c->context_parallel;
    if ((c->grid[0] || c->grid[1]) && c->algorithm != RONDO_MESH)
        return rondo__fail(RONDO_EINVAL, "grid is given, but algorithm is not mesh; leave it out");
    if (c->grid[0] < 0 || c->grid[1] < 0 || ((c->grid[0] || c->grid[1]) && (int64_t)c->grid[0] * c->grid[1] != cp))
        return rondo__fail(RONDO_EINVAL, "grid is %d, %d; its product must be context_parallel, %lld", (int)c->grid[0], (int)c->grid[1],
                           (long long)cp);
    s->rows = c->grid[0] ? c->grid[0] : 1;
    for (int64_t a = 1; a * a <= cp && !c->grid[0]; a++)
        s->rows = cp % a ? s->rows : a;
    s->columns = cp / s->rows;
    return 0;
}

/* ---- sizes ---- */

static int too_many(const char *what, const rondo_cost_case *c)
{
    return rondo__fail(RONDO_EINVAL, "%s of batch_size %lld sequences are more than %lld; fewer or shorter ones can be counted", what,
                       (long long)c->batch_size, (long long)INT64_MAX);
}

/* *sum += times * value */
static bool add(int64_t *sum, int64_t times, int64_t value)
{
    int64_t product;
    return rondo__mul64(times, value, &product) && rondo__add64(*sum, product, sum);
}

/* `times` sequences alike. */
static int add_sequences(struct rondo__cost_sizes *s, const rondo_cost_case *c, int64_t times, int64_t past, int64_t tokens)
{
    const int64_t keys = c->kv_len_used ? c->kv_len_used : past + tokens, cp = s->cp;
    const bool dealt = c->phase == RONDO_COST_PREFILL;   /* queries, over the context-parallel ranks */
    const int64_t local = dealt ? ceil_div(tokens, cp) : tokens;
    const int64_t left = c->windowed ? c->window_left : -1;
    int64_t right = c->windowed ? c->window_right : -1, pairs;
    if (c->causal)
        right = 0;
    if (!rondo__cost_pairs(tokens, keys, left, right, &pairs))
        return too_many("the visible pairs", c);
    /* Without a mask the fullest chip's are exact; a layout that balances a mask may come to any number near the mean. */
    int64_t pairs_local = ceil_div(pairs, cp);
    if (left < 0 && right < 0 && !rondo__mul64(dealt ? local : tokens, dealt ? keys : ceil_div(keys, cp), &pairs_local))
        return too_many("the visible pairs", c);
    if (!add(&s->tokens, times, tokens) || !add(&s->tokens_local, times, local) || !add(&s->keys, times, keys) ||
        !add(&s->keys_local, times, ceil_div(keys, cp)))
        return too_many("the tokens", c);
    /* The window beyond a chip's positions, of which others hold so many. */
    const int64_t others = keys - ceil_div(keys, cp), before = left < 0 || left > keys ? keys : left;
    const int64_t behind = right < 0 || right > keys ? keys : right;
    if (!add(&s->halo, times, before + behind < others ? before + behind : others))
        return too_many("the tokens", c);
    return add(&s->pairs, times, pairs) && add(&s->pairs_local, times, pairs_local) ? 0 : too_many("the visible pairs", c);
}

static int lengths(struct rondo__cost_sizes *s, const rondo_cost_case *c)
{
    if (!c->past_seq_len_of && !c->new_tokens_of)
        return add_sequences(s, c, c->batch_size, c->past_seq_len, c->new_tokens);
    int err = 0;
    for (int64_t i = 0; i < c->batch_size && !err; i++) {
        const int64_t past = c->past_seq_len_of ? c->past_seq_len_of[i] : c->past_seq_len;
        const int64_t tokens = c->new_tokens_of ? c->new_tokens_of[i] : c->new_tokens;
        if (past < 0 || past > TOKENS_MOST)
            err = rondo__fail(RONDO_EINVAL, "past_seq_len of sequence %lld is %lld; it takes 0 to %lld", (long long)i,
                              (long long)past, (long long)TOKENS_MOST);
        else if (tokens < 1 || tokens > TOKENS_MOST)
            err = rondo__fail(RONDO_EINVAL, "new_tokens of sequence %lld is %lld; it takes 1 to %lld", (long long)i,
                              (long long)tokens, (long long)TOKENS_MOST);
        else
            err = add_sequences(s, c, 1, past, tokens);
    }
    return err;
}

int rondo__cost_case(rondo_cost_case *c, const rondo_cost_case *given, struct rondo__cost_sizes *sizes)
{
    int err = rondo__desc_copy(c, sizeof *c, given, "rondo_cost_case");
    if (err)
        return err;
    c->num_kv_heads = c->num_kv_heads ? c->num_kv_heads : c->num_heads;
    c->softmax_stat_bytes = c->softmax_stat_bytes ? c->softmax_stat_bytes : 4;
    c->tensor_parallel = c->tensor_parallel ? c->tensor_parallel : 1;
    c->context_parallel = c->context_parallel ? c->context_parallel : 1;
    c->num_layers = c->num_layers ? c->num_layers : 1;
    c->weight_bytes_per_elem = c->weight_bytes_per_elem ? c->weight_bytes_per_elem : c->bytes_per_elem;
    if (!c->kv_bytes_per_elem)
        c->kv_bytes_per_elem = rondo_type_size(c->kv_type) ? (int64_t)rondo_type_size(c->kv_type) : c->bytes_per_elem;
    c->mlp_weight_bytes_per_elem = c->mlp_weight_bytes_per_elem ? c->mlp_weight_bytes_per_elem : c->weight_bytes_per_elem;
    c->mlp_matrices = c->mlp_matrices ? c->mlp_matrices : 3;
    err = check_numbers(c);
    if (!err)
        err = check_words(c);
    if (!err)
        err = check_lengths(c);
    if (!err)
        err = check_model(c);
    if (err)
        return err;
    const int64_t tp = c->tensor_parallel, cp = c->context_parallel;
    struct rondo__cost_sizes s = { .tp = tp, .cp = cp, .chips = tp * cp, .hidden = c->hidden_size, .head_dim = c->head_dim,
                                   .bytes = c->bytes_per_elem,
                                   .stat_bytes = c->softmax_stat_bytes, .heads = c->num_heads, .heads_local = ceil_div(c->num_heads, tp),
                                   .kv_heads = c->num_kv_heads, .kv_heads_local = ceil_div(c->num_kv_heads, tp),
                                   .kv_heads_all = tp > c->num_kv_heads ? tp : c->num_kv_heads,
                                   .layers = c->num_layers, .weight_bytes = c->weight_bytes_per_elem, .kv_bytes = c->kv_bytes_per_elem,
                                   .kv_numbers = c->kv_type == RONDO_Q8 ? (int64_t)rondo_row_bytes(RONDO_Q8, c->head_dim) : c->head_dim,
                                   .ffn_bytes = c->mlp_weight_bytes_per_elem, .ffn = c->intermediate_size, .ffn_local = ceil_div(c->intermediate_size, tp),
                                   .vocab = c->vocab_size, .vocab_local = ceil_div(c->vocab_size, tp) };
    err = check_grid(c, &s);
    if (!err)
        err = lengths(&s, c);
    if (!err && !rondo__mul64(s.tokens, c->phase == RONDO_COST_DECODE ? cp : 1, &s.tokens_all))
        err = too_many("the tokens", c);
    /* A prefill's last tokens may all be one rank's; a decode step's are on each. */
    s.logits = c->all_logits ? s.tokens : c->batch_size;
    s.logits_local = c->all_logits ? s.tokens_local : c->batch_size;
    s.logits_all = c->phase == RONDO_COST_DECODE ? s.logits * cp : s.logits;
    *sizes = s;
    return err;
}
