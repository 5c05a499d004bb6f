/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo_cost_*(): the eight anchors of the requirements to the last digit; formulas against counting one by one, every chip
 * dealt its heads, tokens and positions and every visible pair looked at; limits (one chip moves nothing, twice the tokens see
 * four times the pairs); sums and derivations that agree; and fields that cannot be so refused by name.
 */
#include "plan/cost.h"

#define DRAW_STREAM 1220
#include "t/draw.h"
#include "t/tap.h"

static rondo_cost_case plain(void)
{
    rondo_cost_case c = RONDO_COST_CASE_INIT;
    c.phase = RONDO_COST_PREFILL;
    c.hidden_size = 1024;
    c.num_heads = 16;
    c.head_dim = 64;
    c.batch_size = 2;
    c.seq_len = 128;
    c.bytes_per_elem = 2;
    return c;
}

static rondo_cost_case decode_of(int64_t past, int64_t tokens)
{
    rondo_cost_case c = plain();
    c.phase = RONDO_COST_DECODE;
    c.seq_len = 0;
    c.past_seq_len = past;
    c.new_tokens = tokens;
    return c;
}

static rondo_cost cost_of(const rondo_cost_case *c)
{
    rondo_cost cost = RONDO_COST_INIT;
    const int code = rondo_cost_count(c, &cost);
    if (code)
        ok(0, "a case that can be: %s", rondo_error_text());
    return cost;
}

/* ---- anchors ---- */

static void anchors(void)
{
    rondo_cost_case c[8];
    static const char *const names[8] = { "Test 1", "Test 2", "Test 3", "CP-1", "CP-2", "CP-3a", "CP-4", "CP-5" };
    static const int64_t want[8][10] = {   /* chips; FLOPs, weights, activations, cache: of a chip and in all; payload */
        { 1, 2281701376, 2281701376, 8388608, 8388608, 2621440, 2621440, 1048576, 1048576, 0 },
        { 4, 570425344, 2281701376, 2097152, 8388608, 1441792, 5767168, 262144, 1048576, 524288 },
        { 4, 4458496, 17833984, 2097152, 8388608, 11264, 45056, 264192, 1056768, 4096 },
        { 4, 570425344, 2281701376, 8388608, 33554432, 655360, 2621440, 262144, 1048576, 139264 },
        { 4, 570425344, 2281701376, 8388608, 33554432, 655360, 2621440, 262144, 1048576, 1048576 },
        { 4, 4456448, 17825792, 8388608, 33554432, 8192, 32768, 262144, 1048576, 4352 },
        { 16, 142606336, 2281701376, 2097152, 33554432, 360448, 5767168, 65536, 1048576, 165888 },
        { 16, 2162688, 34603008, 2097152, 33554432, 9216, 147456, 65536, 1048576, 5184 },
    };
    c[0] = c[1] = c[3] = plain();
    c[1].tensor_parallel = 4;
    c[2] = decode_of(128, 1);
    c[2].tensor_parallel = 4;
    c[3].context_parallel = 4;
    c[3].softmax_stat_bytes = 4;
    c[3].algorithm = RONDO_REDUCE;
    c[4] = c[6] = c[3];
    c[4].algorithm = RONDO_ALL_GATHER;
    c[5] = decode_of(128, 1);
    c[5].kv_len_used = 128;
    c[5].context_parallel = 4;
    c[5].algorithm = RONDO_REDUCE;
    c[7] = c[5];
    c[5].skip_projections = RONDO_COST_Q | RONDO_COST_K | RONDO_COST_V;
    c[6].tensor_parallel = 4;
    c[7].tensor_parallel = 4;
    c[7].skip_projections = RONDO_COST_K | RONDO_COST_V;
    for (int i = 0; i < 8; i++) {
        const rondo_cost cost = cost_of(&c[i]);
        const int64_t got[10] = { cost.num_chips, cost.flops_per_chip, cost.flops_total, cost.weight_memory_per_chip,
                                  cost.weight_memory_total, cost.activation_memory_per_chip, cost.activation_memory_total,
                                  cost.kv_cache_per_chip, cost.kv_cache_total, cost.communication_bytes };
        if (!ok(!memcmp(got, want[i], sizeof got), "%s", names[i]))
            for (int k = 0; k < 10; k++)
                diag("%lld, not %lld", (long long)got[k], (long long)want[i][k]);
    }
    /* of CP-4 without the sum over tensor-parallel chips the requirement says so much less */
    const rondo_cost whole = cost_of(&c[6]);
    c[6].keep_hidden_sharded = 1;
    const rondo_cost part = cost_of(&c[6]);
    ok(whole.activation_memory_per_chip - part.activation_memory_per_chip == 98304 &&
       whole.communication_bytes - part.communication_bytes == 131072,
       "CP-4 with its output left in shares");
}

/* ---- counting one by one ---- */

#define SEQUENCES 3

/* Items [0, n) dealt to `parts`: the first ones have one more; how many has `part`? */
static int64_t dealt(int64_t n, int64_t parts, int64_t part)
{
    return n / parts + (part < n % parts);
}

struct chip {
    int64_t flops, weights, activations, cache;
};

static bool sees(const rondo_cost_case *c, int64_t position, int64_t key)
{
    if (c->causal && key > position)
        return false;
    if (c->windowed && c->window_left >= 0 && key < position - c->window_left)
        return false;
    return !(c->windowed && c->window_right >= 0 && key > position + c->window_right);
}

static bool masked(const rondo_cost_case *c)
{
    return c->causal || (c->windowed && (c->window_left >= 0 || c->window_right >= 0));
}

/* A row of a head in the cache: of q8 with its scale. */
static int64_t kv_row(const rondo_cost_case *c)
{
    return c->kv_type == RONDO_Q8 ? c->head_dim + 4 : c->head_dim * c->kv_bytes_per_elem;
}

/* A chip's own counts, but for the pairs of a mask, of which the balanced share is taken. */
static struct chip one_chip(const rondo_cost_case *c, int64_t t, int64_t r, int64_t *pairs_seen)
{
    const int64_t tp = c->tensor_parallel, cp = c->context_parallel, e = c->bytes_per_elem, d = c->hidden_size;
    const int64_t q = dealt(c->num_heads, tp, t) * c->head_dim;
    const int64_t kv = (tp > c->num_kv_heads ? 1 : dealt(c->num_kv_heads, tp, t)) * c->head_dim;
    const bool prefill = c->phase == RONDO_COST_PREFILL;
    struct chip chip = { 0, e * (2 * d * q + 2 * d * kv), 0, 0 };
    for (int64_t s = 0; s < c->batch_size; s++) {
        const int64_t past = c->past_seq_len_of ? c->past_seq_len_of[s] : c->past_seq_len;
        const int64_t tokens = c->new_tokens_of ? c->new_tokens_of[s] : c->seq_len ? c->seq_len : c->new_tokens;
        const int64_t keys = c->kv_len_used ? c->kv_len_used : past + tokens;
        const int64_t rows = prefill ? dealt(tokens, cp, r) : tokens, cached = dealt(keys, cp, r);
        int64_t pairs = 0;
        for (int64_t i = 0; i < tokens; i++)
            for (int64_t k = 0; k < keys; k++)
                pairs += sees(c, i + keys - tokens, k);
        *pairs_seen += pairs * (q / c->head_dim);
        const int64_t mine = masked(c) ? (pairs + cp - 1) / cp : prefill ? rows * keys : tokens * cached;
        for (int projection = 0; projection < 4; projection++) {
            const bool counted = !(c->skip_projections >> projection & 1), of_kv = projection == 1 || projection == 2;
            chip.flops += counted ? 2 * rows * d * (of_kv ? kv : q) : 0;
            chip.activations += counted && projection < 3 ? rows * (of_kv ? kv : q) * e : 0;
        }
        chip.flops += 4 * mine * q;
        chip.activations += rows * d * e + (tp > 1 && c->keep_hidden_sharded ? rows * q * e : rows * d * e);
        chip.cache += 2 * cached * (kv / c->head_dim) * kv_row(c);
    }
    return chip;
}

/* Of the rest of a model: each matrix and vector of each layer, one by one; `layers` of the chip above are added too. */
static struct chip whole_chip(const rondo_cost_case *c, int64_t t, int64_t r, int64_t *pairs_seen)
{
    const int64_t tp = c->tensor_parallel, w = c->weight_bytes_per_elem, e = c->bytes_per_elem, d = c->hidden_size;
    const int64_t f = dealt(c->intermediate_size, tp, t), v = dealt(c->vocab_size, tp, t);
    const int64_t q = dealt(c->num_heads, tp, t) * c->head_dim;
    const int64_t kv = (tp > c->num_kv_heads ? 1 : dealt(c->num_kv_heads, tp, t)) * c->head_dim;
    struct chip chip = one_chip(c, t, r, pairs_seen), all = { 0, 0, chip.activations, 0 };
    int64_t rows = 0, last = 0;
    for (int64_t s = 0; s < c->batch_size; s++) {
        const int64_t tokens = c->new_tokens_of ? c->new_tokens_of[s] : c->seq_len ? c->seq_len : c->new_tokens;
        rows += c->phase == RONDO_COST_PREFILL ? dealt(tokens, c->context_parallel, r) : tokens;
        last += c->phase == RONDO_COST_DECODE || r == 0;   /* a prefill's last tokens: taken to be one rank's */
    }
    for (int64_t l = 0; l < c->num_layers; l++) {
        all.flops += chip.flops;
        all.weights += chip.weights / e * w;
        all.cache += chip.cache;
        for (int m = 3 - c->mlp_matrices; m < 3 && f; m++) {
            all.flops += 2 * rows * d * f;
            all.weights += d * f * c->mlp_weight_bytes_per_elem;
            all.activations += l == 0 ? m < 2 ? rows * f * e : rows * d * e : 0;
        }
        const int64_t biases[7] = { q, kv, kv, d, f, f, d };
        for (int b = 0; b < 7; b++)
            all.weights += c->biases >> b & 1 ? biases[b] * w : 0;
        all.weights += (c->norms_per_layer * d + (c->qk_norm ? 2 * c->head_dim : 0)) * w;
    }
    if (!c->vocab_size)
        return all;
    const int64_t logits = c->all_logits ? rows : last;
    all.weights += ((c->tied_embeddings ? 1 : 2) * v * d + (c->norms_per_layer ? d : 0)) * w;
    all.flops += 2 * logits * d * v;
    all.activations += logits * v * e;
    return all;
}

static bool same_as_counted(const rondo_cost_case *c, const rondo_cost *cost)
{
    const int64_t chips = c->tensor_parallel * c->context_parallel;
    struct chip most = { 0, 0, 0, 0 }, all = most;
    int64_t pairs = 0, unique = 0;
    for (int64_t i = 0; i < chips; i++) {
        int64_t seen = 0;
        const struct chip one = whole_chip(c, i % c->tensor_parallel, i / c->tensor_parallel, &seen);
        most.flops = one.flops > most.flops ? one.flops : most.flops;
        most.weights = one.weights > most.weights ? one.weights : most.weights;
        most.activations = one.activations > most.activations ? one.activations : most.activations;
        most.cache = one.cache > most.cache ? one.cache : most.cache;
        all.weights += one.weights;
        all.activations += one.activations;
        all.cache += one.cache;
        /* what a mask leaves is dealt evenly: all chips' is the pairs that there are */
        pairs += i < c->tensor_parallel ? seen : 0;
        rondo_cost_case bare = *c;
        int64_t ignored = 0;
        bare.skip_projections = 15;
        all.flops += one.flops - c->num_layers * one_chip(&bare, i % c->tensor_parallel, i / c->tensor_parallel, &ignored).flops;
    }
    all.flops += c->num_layers * 4 * pairs * c->head_dim;
    const int64_t columns = c->tensor_parallel > c->num_kv_heads ? 1 : c->tensor_parallel;   /* copies of a KV head are no more cache */
    for (int64_t t = 0; t < columns; t++)
        for (int64_t r = 0; r < c->context_parallel; r++) {
            int64_t ignored = 0;
            unique += c->num_layers * one_chip(c, t, r, &ignored).cache * (c->tensor_parallel > c->num_kv_heads ? c->num_kv_heads : 1);
        }
    return cost->num_chips == chips && cost->flops_per_chip == most.flops && cost->flops_total == all.flops &&
           cost->weight_memory_per_chip == most.weights && cost->weight_memory_total == all.weights &&
           cost->activation_memory_per_chip == most.activations && cost->activation_memory_total == all.activations &&
           cost->kv_cache_per_chip == most.cache && cost->kv_cache_total == unique;
}

/* Messages of chip 0, which is the fullest, listed one by one. */
static int64_t payload(const rondo_cost_case *c)
{
    const int64_t tp = c->tensor_parallel, cp = c->context_parallel, e = c->bytes_per_elem;
    const int64_t heads = dealt(c->num_heads, tp, 0), kv_heads = tp > c->num_kv_heads ? 1 : dealt(c->num_kv_heads, tp, 0);
    int64_t rows = 0, local_keys = 0, keys = 0, sum = 0, halo = 0;
    for (int64_t s = 0; s < c->batch_size; s++) {
        const int64_t past = c->past_seq_len_of ? c->past_seq_len_of[s] : c->past_seq_len;
        const int64_t tokens = c->new_tokens_of ? c->new_tokens_of[s] : c->seq_len ? c->seq_len : c->new_tokens;
        const int64_t all = c->kv_len_used ? c->kv_len_used : past + tokens;
        rows += c->phase == RONDO_COST_PREFILL ? dealt(tokens, cp, 0) : tokens;
        local_keys += dealt(all, cp, 0);
        /* keys of others that some query of the middle one could see */
        int64_t near = 0;
        for (int64_t k = -all; k <= all; k++)
            near += k && (!c->windowed || c->window_left < 0 || k >= -c->window_left) && !(c->causal && k > 0) &&
                    !(c->windowed && c->window_right >= 0 && k > c->window_right);
        halo += near < all - dealt(all, cp, 0) ? near : all - dealt(all, cp, 0);
        keys += all;
    }
    const int64_t q = rows * heads * c->head_dim * e, kv = 2 * local_keys * kv_heads * kv_row(c);
    for (int64_t peer = 1; peer < cp; peer++)
        sum += c->algorithm == RONDO_PASS_KV ? kv : c->algorithm == RONDO_PASS_Q ? 2 * q + rows * heads * c->softmax_stat_bytes : 0;
    if (cp > 1 && c->algorithm == RONDO_ALL_GATHER)
        sum = 2 * keys * kv_heads * kv_row(c);
    if (cp > 1 && c->algorithm == RONDO_REDUCE)
        sum = q + 2 * rows * heads * c->softmax_stat_bytes;
    if (cp > 1 && c->algorithm == RONDO_ALL_TO_ALL)
        sum = (2 * q * (cp - 1) + cp - 1) / cp + (kv * (cp - 1) + cp - 1) / cp;
    for (int32_t peer = 1; peer < c->grid[0]; peer++)
        sum += kv;
    for (int32_t peer = 1; peer < c->grid[1]; peer++)
        sum += 2 * q + rows * heads * c->softmax_stat_bytes;
    if (cp > 1 && c->algorithm == RONDO_HALO)
        sum = 2 * halo * kv_heads * kv_row(c);
    sum += tp > 1 && !c->keep_hidden_sharded ? rows * c->hidden_size * e : 0;
    sum += tp > 1 && c->intermediate_size ? rows * c->hidden_size * e : 0;
    const int64_t logits = c->all_logits ? rows : c->batch_size;
    return sum * c->num_layers + (tp > 1 && c->vocab_size ? rows * c->hidden_size * e + logits * c->vocab_size * e : 0);
}

static rondo_cost_case drawn(int64_t past_of[SEQUENCES], int64_t tokens_of[SEQUENCES])
{
    static const int32_t algorithms[] = { RONDO_ALL_GATHER, RONDO_REDUCE, RONDO_PASS_KV, RONDO_PASS_Q, RONDO_ALL_TO_ALL, RONDO_HALO,
                                          RONDO_MESH };
    rondo_cost_case c = RONDO_COST_CASE_INIT;
    c.phase = draw(2) ? RONDO_COST_PREFILL : RONDO_COST_DECODE;
    c.algorithm = algorithms[draw(7)];
    c.num_kv_heads = 1 + draw(4);
    c.num_heads = c.num_kv_heads * (1 + draw(4));
    c.hidden_size = 1 + draw(40);
    c.head_dim = 1 + draw(9);
    c.batch_size = 1 + draw(SEQUENCES);
    c.bytes_per_elem = 1 + draw(4);
    c.softmax_stat_bytes = 1 + draw(8);
    c.tensor_parallel = 1 + draw(c.num_heads < 6 ? (uint32_t)c.num_heads : 6);
    c.context_parallel = 1 + draw(5);
    c.skip_projections = draw(3) ? 0 : (int32_t)draw(16);
    c.keep_hidden_sharded = !draw(4);
    c.weight_bytes_per_elem = draw(2) ? c.bytes_per_elem : 1 + draw(4);
    c.kv_bytes_per_elem = draw(2) ? c.bytes_per_elem : 1 + draw(4);
    c.layout = (int32_t)draw(5);
    if (!draw(4)) {
        static const int64_t sizes[] = { 0, 4, 2, 2, 1 };
        c.kv_type = 1 + (int32_t)draw(4);
        c.kv_bytes_per_elem = sizes[c.kv_type];
    }
    c.mlp_weight_bytes_per_elem = draw(2) ? c.weight_bytes_per_elem : 1 + draw(4);
    c.num_layers = 1;
    c.mlp_matrices = 2 + (int32_t)draw(2);
    if (draw(2)) {
        c.num_layers = 1 + draw(4);
        c.intermediate_size = draw(4) ? 6 + draw(30) : 0;
        c.vocab_size = draw(4) ? 6 + draw(30) : 0;
        c.norms_per_layer = (int32_t)draw(3);
        c.qk_norm = (int32_t)draw(2);
        c.biases = (int32_t)draw(c.intermediate_size ? 128 : 16) & (c.mlp_matrices == 2 ? 127 - RONDO_COST_GATE : 127);
        c.tied_embeddings = c.vocab_size ? (int32_t)draw(2) : 0;
        c.all_logits = c.vocab_size ? (int32_t)draw(2) : 0;
    }
    if (c.algorithm == RONDO_MESH) {
        do
            c.grid[0] = 1 + (int32_t)draw((uint32_t)c.context_parallel);
        while (c.context_parallel % c.grid[0]);
        c.grid[1] = (int32_t)c.context_parallel / c.grid[0];
    }
    c.causal = (int32_t)draw(2);
    c.windowed = !draw(3);
    c.window_left = c.windowed ? (int64_t)draw(12) - 1 : 0;
    c.window_right = c.windowed ? (int64_t)draw(12) - 1 : 0;
    for (int i = 0; i < SEQUENCES; i++) {
        past_of[i] = draw(20);
        tokens_of[i] = 1 + draw(20);
    }
    switch (draw(3)) {
    case 0:
        c.past_seq_len_of = past_of;
        c.new_tokens_of = tokens_of;
        break;
    case 1:
        c.past_seq_len = draw(20);
        c.new_tokens = 1 + draw(20);
        c.kv_len_used = draw(2) ? 0 : 1 + draw((uint32_t)(c.past_seq_len + c.new_tokens));
        break;
    default:
        c.phase = RONDO_COST_PREFILL;
        c.seq_len = 1 + draw(30);
    }
    return c;
}

static void shapes(void)
{
    int wrong = 0, messages = 0;
    for (int i = 0; i < 3000; i++) {
        int64_t past_of[SEQUENCES], tokens_of[SEQUENCES];
        const rondo_cost_case c = drawn(past_of, tokens_of);
        const rondo_cost cost = cost_of(&c);
        wrong += !same_as_counted(&c, &cost);
        messages += cost.communication_bytes != payload(&c);
    }
    is_int(wrong, 0, "3,000 shapes at random: counts are what is counted one by one");
    is_int(messages, 0, "and messages those that are listed");
    wrong = 0;
    for (int64_t tokens = 1; tokens < 9; tokens++)
        for (int64_t keys = 1; keys < 12; keys++)
            for (int64_t left = -1; left < 14; left++)
                for (int64_t right = -1; right < 14; right++) {
                    int64_t want = 0, got = -1;
                    for (int64_t i = 0; i < tokens; i++)
                        for (int64_t k = 0; k < keys; k++)
                            want += (left < 0 || k >= i + keys - tokens - left) && (right < 0 || k <= i + keys - tokens + right);
                    wrong += !rondo__cost_pairs(tokens, keys, left, right, &got) || got != want;
                }
    is_int(wrong, 0, "visible pairs of every small window");
}

/* ---- whole models ---- */

static rondo_cost_case model(int64_t layers, int64_t hidden, int64_t heads, int64_t kv_heads, int64_t intermediate, int64_t vocab)
{
    rondo_cost_case c = RONDO_COST_CASE_INIT;
    c.phase = RONDO_COST_PREFILL;
    c.hidden_size = hidden, c.num_heads = heads, c.num_kv_heads = kv_heads, c.head_dim = 128;
    c.batch_size = 1, c.seq_len = 128000, c.bytes_per_elem = 2, c.causal = 1;
    c.num_layers = layers, c.intermediate_size = intermediate, c.vocab_size = vocab, c.norms_per_layer = 2;
    return c;
}

static void models(void)
{
    /* parameters as published with the weights */
    rondo_cost_case c = model(32, 4096, 32, 8, 14336, 32000);
    is_int(cost_of(&c).parameters, 7241732096, "parameters of Mistral 7B");
    c = model(32, 4096, 32, 8, 14336, 128256);
    is_int(cost_of(&c).parameters, 8030261248, "of Llama-3.1 8B");
    c = model(80, 8192, 64, 8, 28672, 128256);
    is_int(cost_of(&c).parameters, 70553706496, "of 70B");
    c = model(126, 16384, 128, 8, 53248, 128256);
    const rondo_cost big = cost_of(&c);
    is_int(big.parameters, 405853388800, "of 405B");
    is_int(big.kv_cache_total, INT64_C(516096) * 128000, "whose cache has 516,096 bytes a token");
    /* linear layers: two FLOPs a weight and token; the head once; attention 4 * 128 * 128 heads over T(T + 1)/2 pairs */
    const int64_t linear = 405853388800 - 2 * INT64_C(128256) * 16384 - (2 * 126 + 1) * INT64_C(16384);
    is_int(big.flops_total, 2 * 128000 * linear + 2 * INT64_C(128256) * 16384 + 126 * (4 * 128 * 128 * (INT64_C(128000) * 128001 / 2)),
           "and whose FLOPs of 128,000 tokens are counted by hand");
    c.context_parallel = 16, c.tensor_parallel = 8, c.algorithm = RONDO_PASS_KV;
    const rondo_cost dealt_out = cost_of(&c);
    ok(dealt_out.parameters == big.parameters && dealt_out.num_chips == 128, "parameters do not depend on the chips");
    c.tied_embeddings = 1;
    is_int(big.parameters - cost_of(&c).parameters, INT64_C(128256) * 16384, "a tied head is no weights of its own");
    char text[1024];
    int found = 0;
    for (int64_t i = 0; i < dealt_out.steps; i++)
        if (rondo_cost_step_text(&c, i, text, sizeof text) > 0)
            found += strstr(text, "down projection: 2 * tokens_local * hidden_size * intermediate_local * num_layers = "
                                  "2 * 8000 * 16384 * 6656 * 126 = ") != NULL;
    is_int(found, 1, "and layers stand in the derivation");
}

/* ---- limits ---- */

static void limits(void)
{
    static const int32_t algorithms[] = { 0, RONDO_ALL_GATHER, RONDO_REDUCE, RONDO_PASS_KV, RONDO_PASS_Q, RONDO_ALL_TO_ALL };
    rondo_cost_case c = plain();
    const rondo_cost alone = cost_of(&c);
    int nothing = 1, same = 1;
    for (int i = 0; i < 6; i++) {
        c.algorithm = algorithms[i];
        const rondo_cost other = cost_of(&c);
        nothing &= other.communication_bytes == 0;
        same &= other.flops_per_chip == alone.flops_per_chip && other.flops_total == alone.flops_total && other.num_chips == 1 &&
                other.activation_memory_per_chip == alone.activation_memory_per_chip && other.kv_cache_per_chip == alone.kv_cache_total;
    }
    ok(nothing, "one chip moves nothing, whatever the algorithm");
    ok(same, "and counts as the plain case does");
    c = plain();
    c.skip_projections = 15;
    const rondo_cost once = cost_of(&c);
    c.seq_len *= 2;
    ok(cost_of(&c).flops_total == 4 * once.flops_total, "twice the tokens: four times the attention");
    c.causal = 1;
    const int64_t t = c.seq_len;
    is_int(cost_of(&c).flops_total, 4 * c.batch_size * c.num_heads * c.head_dim * (t * (t + 1) / 2), "causal: T(T + 1)/2 pairs");
    c.windowed = 1;
    c.window_left = 2 * t, c.window_right = -1;
    is_int(cost_of(&c).flops_total, 4 * c.batch_size * c.num_heads * c.head_dim * (t * (t + 1) / 2), "a window that hides nothing");
    c.window_left = 0;
    is_int(cost_of(&c).flops_total, 4 * c.batch_size * c.num_heads * c.head_dim * t, "a window of the token itself");
    /* more of anything never costs less in all */
    int monotone = 1;
    for (int i = 0; i < 500; i++) {
        int64_t past_of[SEQUENCES], tokens_of[SEQUENCES];
        rondo_cost_case a = drawn(past_of, tokens_of), b = a;
        switch (draw(4)) {
        case 0: b.hidden_size++; break;
        case 1: b.head_dim++; break;
        case 2: b.bytes_per_elem++; break;
        default: b.num_heads += b.num_kv_heads;
        }
        const rondo_cost less = cost_of(&a), more = cost_of(&b);
        monotone &= more.flops_total >= less.flops_total && more.weight_memory_total >= less.weight_memory_total &&
            more.kv_cache_total >= less.kv_cache_total &&
                    more.activation_memory_total >= less.activation_memory_total && more.communication_bytes >= less.communication_bytes;
    }
    ok(monotone, "more of anything never costs less");
    /* 10 million tokens on 1,024 chips, counted by hand: two products of 2 * 32 heads * 128 over 10^14 pairs, causal */
    c = plain();
    c.hidden_size = 4096, c.num_heads = 32, c.num_kv_heads = 8, c.head_dim = 128, c.batch_size = 1;
    c.seq_len = 10000000;
    c.causal = 1;
    c.skip_projections = 15;
    c.context_parallel = 1024;
    c.algorithm = RONDO_PASS_KV;
    ok(cost_of(&c).flops_total == INT64_C(2) * 2 * 32 * 128 * INT64_C(50000005000000), "10 million tokens on 1,024 chips");
    /* ... of a model of 405B, beyond 64 bits, by Python: 126 layers of 4 * 128 heads * 128 over the pairs, and what its linear layers do */
    c = model(126, 16384, 128, 8, 53248, 128256);
    c.seq_len = 10000000;
    const rondo_cost all = cost_of(&c);
    static const char want[] = "420909772312682692608";   /* 22 * 2^64 + 15081402691072557056 */
    ok(all.flops_total == INT64_MAX && all.flops_total_words[0] == 15081402691072557056u && all.flops_total_words[1] == 22,
       "of 405B they are %s FLOPs", want);
    char text[1024] = "";
    int64_t step = 0;
    while (step < all.steps && (rondo_cost_step_text(&c, step, text, sizeof text) < 0 || strncmp(text, "flops_total = ", 14)))
        step++;
    ok(strlen(text) > sizeof want && !strcmp(text + strlen(text) - strlen(want), want), "of which the derivation has all digits");
    c.context_parallel = 1024, c.algorithm = RONDO_PASS_KV;
    const rondo_cost shared = cost_of(&c);
    ok(shared.flops_per_chip < INT64_MAX && shared.flops_per_chip == (int64_t)shared.flops_per_chip_words[0] && !shared.flops_per_chip_words[1] &&
           shared.flops_total_words[1] == 22, "on 1,024 chips each has a number of 63 bits");
}

/* ---- derivations ---- */

static void derivations(void)
{
    rondo_cost_case c = plain();
    char text[1024], small[8];
    c.tensor_parallel = c.context_parallel = 4;
    c.algorithm = RONDO_REDUCE;
    const rondo_cost cost = cost_of(&c);
    int sums = 0, whole = 1, term = 0;
    for (int64_t i = 0; i < cost.steps; i++) {
        const int64_t n = rondo_cost_step_text(&c, i, text, sizeof text);
        whole &= n > 0 && n == (int64_t)strlen(text) && rondo_cost_step_text(&c, i, small, sizeof small) == n && strlen(small) == 7 &&
                 !strncmp(small, text, 7) && rondo_cost_step_text(&c, i, NULL, 0) == n;
        sums += !strcmp(text, "flops_per_chip = 33554432 + 33554432 + 33554432 + 33554432 + 4194304 + 4194304 = 142606336");
        sums += !strcmp(text, "communication_bytes = 2048 + 32768 + 131072 = 165888");
        sums += !strcmp(text, "kv_cache_total = 1048576 = 1048576");
        term += !strcmp(text,
                        "flops, q projection: 2 * tokens_local * hidden_size * heads_local * head_dim = 2 * 64 * 1024 * 4 * 64 = 33554432; "
                              "of all chips 2 * 256 * 1024 * 16 * 64 = 536870912");
    }
    is_int(sums, 3, "sums are derived");
    is_int(term, 1, "and their terms");
    ok(whole, "in any room, as snprintf() would");
    ok(rondo_cost_step_text(&c, cost.steps, text, sizeof text) == RONDO_EINVAL &&
       rondo_cost_step_text(&c, -1, text, sizeof text) == RONDO_EINVAL,
       "no step before or behind: %s", rondo_error_text());
    is_int(rondo_cost_step_text(&c, 0, NULL, 4), RONDO_EINVAL, "no text: %s", rondo_error_text());
}

/* ---- refused ---- */

static void refused(const rondo_cost_case *c, const char *name)
{
    rondo_cost cost = RONDO_COST_INIT;
    const int code = rondo_cost_count(c, &cost);
    if (!ok(code == RONDO_EINVAL && strstr(rondo_error_text(), name), "refused by name: %s", name))
        diag("%d %s", code, rondo_error_text());
}

static void refusals(void)
{
    rondo_cost cost = RONDO_COST_INIT;
    rondo_cost_case c;
    is_int(rondo_cost_count(NULL, &cost), RONDO_EINVAL, "no case");
    c = plain();
    is_int(rondo_cost_count(&c, NULL), RONDO_EINVAL, "no place");
#define REFUSE(name, change)         \
    do {                             \
        c = plain();                 \
        change;                      \
        refused(&c, name);           \
    } while (0)
    REFUSE("phase", c.phase = 0);
    REFUSE("phase", c.phase = 3);
    REFUSE("hidden_size", c.hidden_size = 0);
    REFUSE("hidden_size", c.hidden_size = -1024);
    REFUSE("num_heads", c.num_heads = 0);
    REFUSE("num_kv_heads", c.num_kv_heads = 3);
    REFUSE("num_kv_heads", c.num_kv_heads = -4);
    REFUSE("num_kv_heads", c.num_kv_heads = 32);
    REFUSE("head_dim", c.head_dim = INT64_MAX);
    REFUSE("batch_size", c.batch_size = 0);
    REFUSE("seq_len", c.seq_len = 0);
    REFUSE("seq_len", c.seq_len = INT64_C(1) << 60);
    REFUSE("seq_len", c.new_tokens = 5);
    REFUSE("seq_len", c.past_seq_len = 5);
    REFUSE("seq_len", c.phase = RONDO_COST_DECODE);
    REFUSE("new_tokens", (c.phase = RONDO_COST_DECODE, c.seq_len = 0, c.past_seq_len = 5));
    REFUSE("past_seq_len", (c.seq_len = 0, c.new_tokens = 1, c.past_seq_len = -1));
    REFUSE("kv_len_used", c.kv_len_used = 129);
    REFUSE("kv_len_used", c.kv_len_used = -1);
    REFUSE("bytes_per_elem", c.bytes_per_elem = 0);
    REFUSE("bytes_per_elem", c.bytes_per_elem = INT64_MIN);
    REFUSE("softmax_stat_bytes", c.softmax_stat_bytes = -4);
    REFUSE("tensor_parallel", c.tensor_parallel = 17);
    REFUSE("tensor_parallel", c.tensor_parallel = -1);
    REFUSE("context_parallel", c.context_parallel = INT64_MAX);
    REFUSE("algorithm", c.algorithm = 99);
    REFUSE("algorithm", c.context_parallel = 2);
    REFUSE("projections", c.skip_projections = 16);
    REFUSE("causal", c.causal = 2);
    REFUSE("keep_hidden_sharded", c.keep_hidden_sharded = -1);
    REFUSE("num_layers", c.num_layers = -1);
    REFUSE("num_layers", c.num_layers = 1 << 17);
    REFUSE("intermediate_size", c.intermediate_size = -5);
    REFUSE("intermediate_size", (c.intermediate_size = 2, c.tensor_parallel = 4));
    REFUSE("vocab_size", c.vocab_size = INT64_C(1) << 60);
    REFUSE("vocab_size", (c.vocab_size = 3, c.tensor_parallel = 4));
    REFUSE("vocab_size is 0", c.tied_embeddings = 1);
    REFUSE("tied_embeddings", (c.vocab_size = 9, c.tied_embeddings = 2));
    REFUSE("all_logits", c.all_logits = 1);
    REFUSE("weight_bytes_per_elem", c.weight_bytes_per_elem = -1);
    REFUSE("mlp_weight_bytes_per_elem", c.mlp_weight_bytes_per_elem = 65);
    REFUSE("kv_bytes_per_elem", c.kv_bytes_per_elem = 65);
    REFUSE("kv_type", c.kv_type = 5);
    REFUSE("kv_type", c.kv_type = -1);
    REFUSE("kv_type", (c.kv_type = RONDO_Q8, c.kv_bytes_per_elem = 2));
    REFUSE("layout", c.layout = -1);
    REFUSE("layout", c.layout = 5);
    REFUSE("mlp_matrices", c.mlp_matrices = 4);
    REFUSE("mlp_matrices", (c.intermediate_size = 9, c.mlp_matrices = 2, c.biases = RONDO_COST_GATE));
    REFUSE("norms_per_layer", c.norms_per_layer = -1);
    REFUSE("qk_norm", c.qk_norm = 2);
    REFUSE("biases", c.biases = 128);
    REFUSE("biases", c.biases = RONDO_COST_UP);
    REFUSE("grid", c.grid[0] = c.grid[1] = 1);
    REFUSE("grid", (c.algorithm = RONDO_MESH, c.context_parallel = 6, c.grid[0] = 4, c.grid[1] = 2));
    REFUSE("grid", (c.algorithm = RONDO_MESH, c.context_parallel = 6, c.grid[0] = 6));
    REFUSE("window", (c.windowed = 1, c.window_left = -2));
    REFUSE("visible pairs", c.seq_len = INT64_C(1) << 40);
    REFUSE("weight_memory_per_chip", (c.hidden_size = c.num_heads = c.num_kv_heads = INT64_C(1) << 21, c.head_dim = INT64_C(1) << 20));
    REFUSE("weight_memory_per_chip", (c.seq_len = 1, c.batch_size = 1, c.skip_projections = 15,
                                      c.hidden_size = INT64_C(1) << 31, c.num_heads = 1 << 10, c.head_dim = INT64_C(1) << 31));
    const int64_t lengths[2] = { 3, -1 }, zero[2] = { 3, 0 };
    REFUSE("past_seq_len of sequence 1", (c.seq_len = 0, c.new_tokens = 1, c.past_seq_len_of = lengths));
    REFUSE("new_tokens of sequence 1", (c.seq_len = 0, c.new_tokens_of = zero));
    REFUSE("kv_len_used", (c.seq_len = 0, c.kv_len_used = 1, c.new_tokens_of = lengths));
}

int main(void)
{
    anchors();
    shapes();
    models();
    limits();
    derivations();
    refusals();
    return done();
}
