/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Models with layers of Kimi Delta Attention between layers of attention (model_type kimi_linear): logits against a program in double that is
 * written from the layers' definition; one hash for tp x cp ranks, whole or spread, chunks, layouts, batches and threads; decoding has the bits of
 * prefill; memory for states is what is stated; what cannot be computed is refused by name.
 */
#include <stdbool.h>

#include "lm_kit.h"

enum { TOKENS = 150, KDA_HEADS = 3, KDA_DIM = 8, TAPS = 4, LAYERS = 4, PROMPT = 53, NEW = 12 };

static int32_t tokens[TOKENS];

struct hybrid {
    const char *name;
    bool kda[LAYERS], rope;
    int tied, type;
};
static const struct hybrid hybrids[] = {
    { "attention second", { true, false, true, true }, false, 0, RONDO_F32 },
    { "attention last, with rope", { true, true, true, false }, true, 0, RONDO_F32 },
    { "no attention, tied, f16", { true, true, true, true }, false, 1, RONDO_F16 },
};

/* ---- the folder ---- */

static void add(struct kit_model *m, uint64_t *seed, int layer, const char *rest, int64_t rows, int64_t columns, double mean, double spread)
{
    char name[80];
    snprintf(name, sizeof name, "model.layers.%d.%s", layer, rest);
    kit_add(m, seed, name, rows, columns, mean, spread);
}

/* The last tensor in more dimensions: what stood there as [rows][columns]. */
static void shape(struct kit_model *m, int dims, int64_t a, int64_t b, int64_t c, int64_t d)
{
    struct kit_tensor *t = &m->tensors[m->count - 1];
    const int64_t all[4] = { a, b, c, d };
    t->dims = dims;
    memcpy(t->shape, all, sizeof all);
}

static struct kit_model *make(const struct hybrid *h)
{
    struct kit_model *m = calloc(1, sizeof *m);
    struct kit_config c = kit_defaults(h->name);
    uint64_t seed = 77;
    const int width = KDA_HEADS * KDA_DIM, hd = c.hidden;
    if (!m)
        scratch_die("no memory");
    c.layers = LAYERS;
    c.tied = h->tied;
    c.type = h->type;
    m->config = c;
    kit_add(m, &seed, "model.embed_tokens.weight", c.vocabulary, hd, 0.0, 0.25);
    for (int i = 0; i < LAYERS; i++) {
        add(m, &seed, i, "input_layernorm.weight", hd, 0, 1.0, 0.125);
        add(m, &seed, i, "post_attention_layernorm.weight", hd, 0, 1.0, 0.125);
        add(m, &seed, i, "mlp.gate_proj.weight", c.intermediate, hd, 0.0, 0.15);
        add(m, &seed, i, "mlp.up_proj.weight", c.intermediate, hd, 0.0, 0.15);
        add(m, &seed, i, "mlp.down_proj.weight", hd, c.intermediate, 0.0, 0.1);
        add(m, &seed, i, "self_attn.q_proj.weight", h->kda[i] ? width : c.heads * c.head_dim, hd, 0.0, 0.2);
        add(m, &seed, i, "self_attn.k_proj.weight", h->kda[i] ? width : c.kv_heads * c.head_dim, hd, 0.0, 0.2);
        add(m, &seed, i, "self_attn.v_proj.weight", h->kda[i] ? width : c.kv_heads * c.head_dim, hd, 0.0, 0.2);
        add(m, &seed, i, "self_attn.o_proj.weight", hd, h->kda[i] ? width : c.heads * c.head_dim, 0.0, 0.1);
        if (!h->kda[i])
            continue;
        for (int part = 0; part < 3; part++) {
            char name[40];
            snprintf(name, sizeof name, "self_attn.%c_conv1d.weight", "qkv"[part]);
            add(m, &seed, i, name, width, TAPS, 0.25, 0.5);
            shape(m, 3, width, 1, TAPS, 0);
        }
        add(m, &seed, i, "self_attn.f_a_proj.weight", KDA_DIM, hd, 0.0, 0.2);
        add(m, &seed, i, "self_attn.f_b_proj.weight", width, KDA_DIM, 0.0, 0.3);
        add(m, &seed, i, "self_attn.g_a_proj.weight", KDA_DIM, hd, 0.0, 0.2);
        add(m, &seed, i, "self_attn.g_b_proj.weight", width, KDA_DIM, 0.0, 0.3);
        add(m, &seed, i, "self_attn.b_proj.weight", KDA_HEADS, hd, 0.0, 0.2);
        add(m, &seed, i, "self_attn.A_log", KDA_HEADS, 0, 0.0, 0.75);
        if (i != 2)   /* either shape is read */
            shape(m, 4, 1, 1, KDA_HEADS, 1);
        add(m, &seed, i, "self_attn.dt_bias", width, 0, -3.0, 1.5);
        add(m, &seed, i, "self_attn.o_norm.weight", KDA_DIM, 0, 1.0, 0.125);
    }
    kit_add(m, &seed, "model.norm.weight", hd, 0, 1.0, 0.125);
    if (!c.tied)
        kit_add(m, &seed, "lm_head.weight", c.vocabulary, hd, 0.0, 0.25);
    return m;
}

/* config.json, with a text in the place of a field's: `name` NULL or what is to stand for it, where text "" leaves the field out. */
static void write_config(const struct hybrid *h, const char *name, const char *text)
{
    char lists[2][64] = { "", "" }, all[2048];
    for (int i = 0; i < LAYERS; i++) {
        char *list = lists[!h->kda[i]];
        snprintf(list + strlen(list), sizeof lists[0] - strlen(list), "%s%d", *list ? ", " : "", i + 1);
    }
    const struct kit_config c = kit_defaults("");
    char kda[80], full[80], tied[8], nope[8];
    snprintf(kda, sizeof kda, "[%s]", lists[0]);
    snprintf(full, sizeof full, "[%s]", lists[1]);
    snprintf(tied, sizeof tied, "%s", h->tied ? "true" : "false");
    snprintf(nope, sizeof nope, "%s", h->rope ? "false" : "true");
    const struct {
        const char *name, *text;
    } inner[] = { { "kda_layers", kda }, { "full_attn_layers", full }, { "num_heads", "3" }, { "head_dim", "8" }, { "short_conv_kernel_size", "4" },
                  { "full_attn_type", "\"gqa\"" } },
      outer[] = { { "kv_lora_rank", "" }, { "num_experts", "" }, { "mla_use_nope", nope }, { "tie_word_embeddings", tied } };
    size_t n = (size_t)snprintf(all, sizeof all, "{\"architectures\": [\"KimiLinearForCausalLM\"], \"model_type\": \"kimi_linear\", \"hidden_size\": %d, "
                                "\"intermediate_size\": %d, \"num_hidden_layers\": %d, \"num_attention_heads\": %d, \"num_key_value_heads\": %d, "
                                "\"head_dim\": %d, \"vocab_size\": %d, \"rms_norm_eps\": 1e-05, \"hidden_act\": \"silu\", \"rope_theta\": 10000.0, "
                                "\"bos_token_id\": 0, \"eos_token_id\": 1", c.hidden, c.intermediate, LAYERS, c.heads, c.kv_heads, c.head_dim,
                                c.vocabulary);
    for (size_t i = 0; i < sizeof outer / sizeof *outer; i++) {
        const char *value = name && !strcmp(name, outer[i].name) ? text : outer[i].text;
        if (*value)
            n += (size_t)snprintf(all + n, sizeof all - n, ", \"%s\": %s", outer[i].name, value);
    }
    const bool whole = name && !strcmp(name, "linear_attn_config");
    if (whole && *text)
        n += (size_t)snprintf(all + n, sizeof all - n, ", \"linear_attn_config\": %s", text);
    if (!whole)
        n += (size_t)snprintf(all + n, sizeof all - n, ", \"linear_attn_config\": {");
    for (size_t i = 0; i < sizeof inner / sizeof *inner && !whole; i++) {
        const char *value = name && !strcmp(name, inner[i].name) ? text : inner[i].text;
        if (*value)
            n += (size_t)snprintf(all + n, sizeof all - n, "%s\"%s\": %s", all[n - 1] == '{' ? "" : ", ", inner[i].name, value);
    }
    if (!whole)
        n += (size_t)snprintf(all + n, sizeof all - n, "%s}", name && !strcmp(name, "other") ? ", \"other\": 1" : "");
    snprintf(all + n, sizeof all - n, "}");
    scratch_text("config.json", all);
}

static struct kit_model *folder(const struct hybrid *h)
{
    struct kit_model *m = make(h);
    scratch_clear();
    write_config(h, NULL, NULL);
    kit_write_weights(m, NULL);
    return m;
}

/* ---- the oracle ---- */

static double sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }

/* A layer of Kimi Delta Attention on rows of x that are normed already, [n][hidden]; out [n][width], as the output projection reads it. */
static void linear_attention(const struct kit_model *m, int y, const double *x, int n, double *out)
{
    enum { K = KDA_DIM, W = KDA_HEADS * KDA_DIM };
    const int hd = m->config.hidden;
    static double raw[3][TOKENS][W], made[3][TOKENS][W];
    static const char *const projections[] = { "self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight" };
    static const char *const convolutions[] = { "self_attn.q_conv1d.weight", "self_attn.k_conv1d.weight", "self_attn.v_conv1d.weight" };
    const double *a_log = kit_values(m, y, "self_attn.A_log"), *bias = kit_values(m, y, "self_attn.dt_bias"), *norm = kit_values(m, y, "self_attn.o_norm.weight");
    double state[KDA_HEADS][K][K] = { 0 };
    for (int part = 0; part < 3; part++)
        for (int t = 0; t < n; t++) {
            kit_linear(x + t * hd, kit_values(m, y, projections[part]), NULL, W, hd, raw[part][t]);
            for (int c = 0; c < W; c++) {
                double sum = 0.0;
                for (int i = 0; i < TAPS; i++)
                    if (t - (TAPS - 1) + i >= 0)
                        sum += kit_values(m, y, convolutions[part])[c * TAPS + i] * raw[part][t - (TAPS - 1) + i][c];
                made[part][t][c] = sum * sigmoid(sum);
            }
        }
    for (int t = 0; t < n; t++) {
        double low[K], f[W], z[W], beta[KDA_HEADS];
        kit_linear(x + t * hd, kit_values(m, y, "self_attn.f_a_proj.weight"), NULL, K, hd, low);
        kit_linear(low, kit_values(m, y, "self_attn.f_b_proj.weight"), NULL, W, K, f);
        kit_linear(x + t * hd, kit_values(m, y, "self_attn.g_a_proj.weight"), NULL, K, hd, low);
        kit_linear(low, kit_values(m, y, "self_attn.g_b_proj.weight"), NULL, W, K, z);
        kit_linear(x + t * hd, kit_values(m, y, "self_attn.b_proj.weight"), NULL, KDA_HEADS, hd, beta);
        for (int h = 0; h < KDA_HEADS; h++) {
            double q[K], k[K], qq = 0.0, kk = 0.0, o[K];
            for (int d = 0; d < K; d++) {
                qq += made[0][t][h * K + d] * made[0][t][h * K + d];
                kk += made[1][t][h * K + d] * made[1][t][h * K + d];
            }
            for (int d = 0; d < K; d++) {
                q[d] = made[0][t][h * K + d] / sqrt(qq + 1e-6) / sqrt(K);
                k[d] = made[1][t][h * K + d] / sqrt(kk + 1e-6);
                const double decay = exp(-exp(a_log[h]) * log1p(exp(f[h * K + d] + bias[h * K + d])));
                for (int c = 0; c < K; c++)
                    state[h][d][c] *= decay;
            }
            for (int c = 0; c < K; c++) {
                double u = made[2][t][h * K + c];
                for (int d = 0; d < K; d++)
                    u -= k[d] * state[h][d][c];
                o[c] = 0.0;
                for (int d = 0; d < K; d++) {
                    state[h][d][c] += sigmoid(beta[h]) * u * k[d];
                    o[c] += q[d] * state[h][d][c];
                }
            }
            kit_norm(o, norm, K, out + t * W + h * K);
            for (int c = 0; c < K; c++)
                out[t * W + h * K + c] *= sigmoid(z[h * K + c]);
        }
    }
}

static void attention(const struct kit_model *m, int y, const double *x, int n, bool rope, double *out)
{
    const struct kit_config *c = &m->config;
    const int hd = c->hidden, d = c->head_dim, qw = c->heads * d, kw = c->kv_heads * d;
    double *q = calloc((size_t)(n * qw), sizeof *q), *k = calloc((size_t)(n * kw), sizeof *k), *v = calloc((size_t)(n * kw), sizeof *v), p[TOKENS];
    if (!q || !k || !v)
        scratch_die("no memory");
    for (int t = 0; t < n; t++) {
        kit_linear(x + t * hd, kit_values(m, y, "self_attn.q_proj.weight"), NULL, qw, hd, q + t * qw);
        kit_linear(x + t * hd, kit_values(m, y, "self_attn.k_proj.weight"), NULL, kw, hd, k + t * kw);
        kit_linear(x + t * hd, kit_values(m, y, "self_attn.v_proj.weight"), NULL, kw, hd, v + t * kw);
        for (int g = 0; g < c->heads + c->kv_heads && rope; g++) {
            double *a = g < c->heads ? q + t * qw + g * d : k + t * kw + (g - c->heads) * d;
            for (int i = 0; i < d / 2; i++) {
                const double angle = (double)((float)t * (float)pow(10000.0, -2.0 * i / d)), a0 = a[i], a1 = a[i + d / 2];
                a[i] = a0 * cos(angle) - a1 * sin(angle);
                a[i + d / 2] = a1 * cos(angle) + a0 * sin(angle);
            }
        }
    }
    for (int t = 0; t < n; t++)
        for (int g = 0; g < c->heads; g++) {
            const int kg = g / (c->heads / c->kv_heads);
            double sum = 0.0;
            for (int j = 0; j <= t; j++) {
                double s = 0.0;
                for (int i = 0; i < d; i++)
                    s += q[t * qw + g * d + i] * k[j * kw + kg * d + i];
                p[j] = exp(s / sqrt(d));
                sum += p[j];
            }
            for (int i = 0; i < d; i++) {
                double o = 0.0;
                for (int j = 0; j <= t; j++)
                    o += p[j] / sum * v[j * kw + kg * d + i];
                out[t * qw + g * d + i] = o;
            }
        }
    free(q);
    free(k);
    free(v);
}

static void oracle(const struct kit_model *m, const struct hybrid *h, int n, double *logits)
{
    const struct kit_config *c = &m->config;
    const int hd = c->hidden;
    double *x = calloc((size_t)(n * hd), sizeof *x), *y = calloc((size_t)(n * hd), sizeof *y), *o = calloc((size_t)(n * 64), sizeof *o);
    double gate[72], up[72], row[44];
    if (!x || !y || !o)
        scratch_die("no memory");
    for (int t = 0; t < n; t++)
        memcpy(x + t * hd, kit_values(m, -1, "model.embed_tokens.weight") + tokens[t] * hd, (size_t)hd * sizeof *x);
    for (int i = 0; i < LAYERS; i++) {
        const int width = h->kda[i] ? KDA_HEADS * KDA_DIM : c->heads * c->head_dim;
        for (int t = 0; t < n; t++)
            kit_norm(x + t * hd, kit_values(m, i, "input_layernorm.weight"), hd, y + t * hd);
        if (h->kda[i])
            linear_attention(m, i, y, n, o);
        else
            attention(m, i, y, n, h->rope, o);
        for (int t = 0; t < n; t++) {
            kit_linear(o + t * width, kit_values(m, i, "self_attn.o_proj.weight"), NULL, hd, width, row);
            for (int j = 0; j < hd; j++)
                x[t * hd + j] += row[j];
            kit_norm(x + t * hd, kit_values(m, i, "post_attention_layernorm.weight"), hd, row);
            kit_linear(row, kit_values(m, i, "mlp.gate_proj.weight"), NULL, c->intermediate, hd, gate);
            kit_linear(row, kit_values(m, i, "mlp.up_proj.weight"), NULL, c->intermediate, hd, up);
            for (int j = 0; j < c->intermediate; j++)
                gate[j] = gate[j] * sigmoid(gate[j]) * up[j];
            kit_linear(gate, kit_values(m, i, "mlp.down_proj.weight"), NULL, hd, c->intermediate, row);
            for (int j = 0; j < hd; j++)
                x[t * hd + j] += row[j];
        }
    }
    for (int t = 0; t < n; t++) {
        kit_norm(x + t * hd, kit_values(m, -1, "model.norm.weight"), hd, row);
        kit_linear(row, kit_values(m, -1, c->tied ? "model.embed_tokens.weight" : "lm_head.weight"), NULL, c->vocabulary, hd, logits + t * c->vocabulary);
    }
    free(x);
    free(y);
    free(o);
}

/* ---- one hash ---- */

/* Three prompts of unlike lengths, of which some come late, drawn from. */
static struct kit_generate generation(void)
{
    struct kit_generate g = { .desc = RONDO_LM_DESC_INIT, .sampling = RONDO_SAMPLING_INIT, .prompt_count = 3 };
    static const int64_t lengths[] = { 2, 71, 37 };
    for (int i = 0; i < 3; i++) {
        g.prompts[i] = tokens + 20 * i;
        g.counts[i] = lengths[i];
    }
    g.desc.leaf = 16;
    g.sampling.max_tokens = 7;
    g.sampling.ignore_eos = 1;
    g.sampling.temperature = 0.8;
    g.sampling.seed = 3;
    return g;
}

static bool same_answers(const struct kit_generate *a, const struct kit_generate *b)
{
    for (int i = 0; i < a->prompt_count; i++)
        if (a->got[i].hash != b->got[i].hash || memcmp(a->got[i].tokens, b->got[i].tokens, sizeof a->got[i].tokens) != 0)
            return false;
    return true;
}

static int64_t expected_states(int64_t heads)
{
    return ((heads * KDA_DIM * KDA_DIM + 3 * (TAPS - 1) * heads * KDA_DIM + 15) & ~(int64_t)15) * (int64_t)sizeof(float);
}

static void grids(const struct hybrid *h, const struct kit_score *want, const struct kit_generate *want_generate)
{
    static const int64_t chunks[] = { 0, 1, 7, 64 };
    int runs = 0, wrong = 0, n = 0;
    for (int tp = 1; tp <= 4; tp++)
        for (int cp = 1; cp <= 3; cp++)
            for (int spread = 0; spread <= (cp > 1); spread++, n++) {
                struct kit_parts parts;
                struct kit_score s = *want;
                struct kit_generate g = *want_generate;
                if (!long_tests() && h != hybrids && n % 5)
                    continue;
                s.logits = NULL;
                s.parts = g.parts = &parts;
                s.desc.chunk = chunks[n % 4];
                s.count = TOKENS;
                s.desc.layout = g.desc.layout = n % 5;
                g.desc.chunk = chunks[(n + 2) % 4];
                g.desc.batch_tokens = n % 2 ? 64 : 0;
                g.late = n % 3;
                int err = kit_open_parts(&parts, scratch_dir, tp, cp, spread, NULL);
                err = err ? err : kit_run_score(&s, tp * cp);
                err = err ? err : kit_run_generate(&g, tp * cp);
                const bool bad = err || s.scores[0].hash != want->scores[0].hash || s.scores[0].nll != want->scores[0].nll || g.disagree ||
                                 !same_answers(&g, want_generate);
                if (bad)
                    diag("tp %d cp %d spread %d: %s", tp, cp, spread, err ? rondo_error_text() : "other bits");
                wrong += bad;
                runs++;
                kit_close_parts(&parts);
            }
    ok(runs > 0 && !wrong, "%s: %d grids of ranks, chunks and layouts give the bits of one rank", h->name, runs);
}

static void one_hash(const struct hybrid *h)
{
    static double right[TOKENS * 67];
    static float got[TOKENS * 67];
    struct kit_model *m = folder(h);
    struct kit_parts whole;
    struct kit_score s = { .desc = RONDO_LM_DESC_INIT, .tokens = tokens, .count = TOKENS, .logits = got, .vocabulary = 67 };
    struct kit_generate g = generation();
    double worst = 0.0;
    s.desc.leaf = 16;
    oracle(m, h, TOKENS, right);
    int err = kit_open_parts(&whole, scratch_dir, 1, 1, 0, NULL);
    s.parts = g.parts = &whole;
    err = err ? err : kit_run_score(&s, 1);
    for (int i = 0; i < TOKENS * 67 && !err; i++)
        worst = worse(worst, fabs((double)got[i] - right[i]));
    diag("%s: logits off by %.2g", h->name, worst);
    ok(!err && worst <= 5e-5, "%s: the logits of the program in double", h->name);
    ok(!err && fabs(s.scores[0].nll - kit_nll(right, tokens, TOKENS, 67)) < 1e-5, "%s: its score", h->name);
    err = err ? err : kit_run_generate(&g, 1);
    if (ok(!err, "%s: generates", h->name))
        grids(h, &s, &g);
    kit_close_parts(&whole);
    kit_free(m);
}

/* ---- decoding, states, threads ---- */

struct seen {
    float rows[NEW][67];
    int count;
};

static int look(void *user, int64_t id, int64_t position, float *logits, int64_t count)
{
    struct seen *s = user;
    (void)id;
    if (position >= PROMPT && position - PROMPT < NEW)
        memcpy(s->rows[position - PROMPT], logits, (size_t)count * sizeof *logits);
    s->count++;
    return 0;
}

/* What is generated, read as a text: each token's logits are those that it was drawn from. */
static void decoding(const struct hybrid *h)
{
    static float got[TOKENS * 67];
    static struct seen seen;
    struct kit_model *m = folder(h);
    struct kit_parts whole;
    struct kit_generate g = generation();
    struct kit_score s = { .desc = RONDO_LM_DESC_INIT, .logits = got, .vocabulary = 67, .count = PROMPT + NEW };
    int32_t all[PROMPT + NEW];
    int err = kit_open_parts(&whole, scratch_dir, 1, 1, 0, NULL), wrong = 0;
    s.parts = g.parts = &whole;
    s.desc.leaf = 16;
    g.prompt_count = 1;
    g.prompts[0] = tokens;
    g.counts[0] = PROMPT;
    g.desc.chunk = 9;
    g.desc.logits = look;
    g.desc.user = &seen;
    g.sampling.max_tokens = NEW;
    err = err ? err : kit_run_generate(&g, 1);
    memcpy(all, tokens, PROMPT * sizeof *all);
    memcpy(all + PROMPT, g.got[0].tokens, NEW * sizeof *all);
    s.tokens = all;
    err = err ? err : kit_run_score(&s, 1);
    for (int i = 0; i < NEW; i++)
        wrong += memcmp(seen.rows[i], got + (PROMPT - 1 + i) * 67, sizeof seen.rows[i]) != 0;
    ok(!err && seen.count == NEW && !wrong, "decoding has the bits of prefill");
    const size_t want = (size_t)(3 * expected_states(KDA_HEADS)), kv = (size_t)2 * 32 * sizeof(float);
    ok(g.counters.state_bytes == want, "states take %zu bytes, %zu are held", want, g.counters.state_bytes);
    ok(g.counters.kv_bytes % kv == 0 && g.counters.kv_bytes >= kv * (PROMPT + NEW - 1) && g.counters.kv_bytes <= kv * (2 * PROMPT + 128),
       "keys are those of one layer: %zu bytes", g.counters.kv_bytes);
    rondo_estimate_desc d = RONDO_ESTIMATE_DESC_INIT;
    rondo_estimate e = RONDO_ESTIMATE_INIT;
    d.sequences = 5;
    d.tokens = 100;
    ok(!rondo_model_estimate(scratch_dir, &d, &e) && e.state_bytes == 5 * want && e.all_state_bytes == 5 * want && e.kv_token_bytes == kv &&
       e.weight_bytes > 0, "and so says an estimate, of five sequences");
    d.cp_ranks = 2;
    ok(!rondo_model_estimate(scratch_dir, &d, &e) && e.state_bytes == (size_t)(15 * expected_states(2)) &&
       e.all_state_bytes == (size_t)(15 * (expected_states(2) + expected_states(1))), "two context-parallel ranks share them");
    rondo_model_info info = RONDO_MODEL_INFO_INIT;
    ok(!err && !rondo_model_query(whole.at[0], &info) && info.kda_layers == 3 && info.kda_heads == KDA_HEADS && info.kda_head_dim == KDA_DIM &&
       info.conv_taps == TAPS && info.no_rope == 1 && info.layers == LAYERS && !strcmp(info.architecture, "KimiLinearForCausalLM"), "the model says what it is");
    uint64_t parameters = 0;
    for (int i = 0; i < m->count; i++)
        parameters += (uint64_t)m->tensors[i].count;
    ok(!err && info.parameters == parameters && info.weight_bytes >= parameters * sizeof(float), "... and counts its parameters");
    d.cp_ranks = 1;
    ok(!rondo_model_estimate(scratch_dir, &d, &e) && e.weight_bytes == parameters * sizeof(float), "... which are the estimate's");
    kit_close_parts(&whole);
    kit_free(m);
}

static int threads_body(rondo_context *ctx, void *arg)
{
    return kit_score_body(ctx, arg);
}

static void threads(const struct hybrid *h)
{
    struct kit_model *m = folder(h);
    struct kit_parts whole;
    int err = kit_open_parts(&whole, scratch_dir, 1, 1, 0, NULL);
    uint64_t hash[2] = { 0, 1 };
    for (int i = 0; i < 2 && !err; i++) {
        struct kit_score s = { .desc = RONDO_LM_DESC_INIT, .tokens = tokens, .count = TOKENS, .parts = &whole };
        rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
        d.threads = i ? 3 : 1;
        d.isa = i ? NULL : "scalar";
        err = rondo_launch(1, &d, threads_body, &s);
        hash[i] = s.scores[0].hash;
    }
    ok(!err && hash[0] == hash[1], "three threads with vectors have the bits of the scalar definition");
    kit_close_parts(&whole);
    kit_free(m);
}

/* ---- what is refused ---- */

static void refused_folder(int code, const char *says, const char *what)
{
    rondo_context *ctx = NULL;
    rondo_model *model = NULL;
    rondo_model_desc d = RONDO_MODEL_DESC_INIT;
    d.no_tokenizer = 1;
    int err = rondo_context_create(&ctx, NULL);
    err = err ? err : rondo_model_open(&model, ctx, scratch_dir, &d);
    if (!ok(err == code && !model && strstr(rondo_error_text(), says), "%s is refused", what))
        diag("%s: %s", rondo_error_name(err), rondo_error_text());
    rondo_model_close(model);
    rondo_context_destroy(ctx);
}

static void refused(void)
{
    static const struct {
        const char *field, *text;
        int code;
        const char *says;
    } wrong[] = {
        { "linear_attn_config", "", RONDO_EFORMAT, "linear_attn_config is not there" },
        { "linear_attn_config", "[]", RONDO_EFORMAT, "linear_attn_config is " },
        { "kda_layers", "", RONDO_EFORMAT, "linear_attn_config.kda_layers is not there" },
        { "kda_layers", "[1, 3]", RONDO_EFORMAT, "names layer 4 neither in kda_layers" },
        { "kda_layers", "[1, 3, 4, 3]", RONDO_EFORMAT, "names layer 3 twice" },
        { "kda_layers", "[0, 1, 3]", RONDO_EFORMAT, "kda_layers[0] is no layer; layers count from 1 to 4" },
        { "kda_layers", "[1, 3, 5]", RONDO_EFORMAT, "kda_layers[2] is no layer" },
        { "full_attn_layers", "[2, 3]", RONDO_EFORMAT, "names layer 3 twice" },
        { "num_heads", "", RONDO_EFORMAT, "linear_attn_config.num_heads is not there" },
        { "num_heads", "0", RONDO_EFORMAT, "num_heads is 0" },
        { "head_dim", "513", RONDO_EFORMAT, "head_dim is 513; a whole number from 1 to 512" },
        { "short_conv_kernel_size", "9", RONDO_EFORMAT, "short_conv_kernel_size is 9" },
        { "full_attn_type", "", RONDO_ENOTSUP, "full_attn_type is not there; \"gqa\"" },
        { "full_attn_type", "\"mla\"", RONDO_ENOTSUP, "full_attn_type is mla; \"gqa\"" },
        { "other", "", RONDO_ENOTSUP, "linear_attn_config has other, which is not known" },
        { "kv_lora_rank", "512", RONDO_ENOTSUP, "kv_lora_rank is set, so layers of full attention are multi-head latent attention" },
        { "num_experts", "256", RONDO_ENOTSUP, "num_experts is set, so layers have experts" },
        { "mla_use_nope", "3", RONDO_EFORMAT, "mla_use_nope is 3" },
        /* what does not fit the tensors */
        { "num_heads", "2", RONDO_EFORMAT, "q_proj.weight\" has shape [24, 44]; the configuration asks for [16, 44]" },
        { "short_conv_kernel_size", "3", RONDO_EFORMAT, "q_conv1d.weight\" has shape [24, 1, 4]; the configuration asks for [24, 1, 3]" },
    };
    static const char *const missing[] = { "self_attn.A_log", "self_attn.k_conv1d.weight", "self_attn.dt_bias", "self_attn.o_norm.weight",
                                           "self_attn.b_proj.weight", "self_attn.g_b_proj.weight" };
    struct kit_model *m = folder(&hybrids[0]);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        write_config(&hybrids[0], wrong[i].field, wrong[i].text);
        refused_folder(wrong[i].code, wrong[i].says, wrong[i].says);
    }
    write_config(&hybrids[0], NULL, NULL);
    for (size_t i = 0; i < sizeof missing / sizeof *missing; i++) {
        char name[80], says[120];
        snprintf(name, sizeof name, "model.layers.2.%s", missing[i]);
        snprintf(says, sizeof says, "tensor \"%s\" is missing", name);
        kit_write_weights(m, name);
        refused_folder(RONDO_EFORMAT, says, says);
    }
    kit_free(m);
    /* A tensor of the published attention that nobody asks for. */
    m = make(&hybrids[0]);
    uint64_t seed = 5;
    add(m, &seed, 1, "self_attn.kv_b_proj.weight", 8, 8, 0.0, 0.1);
    kit_write_weights(m, NULL);
    refused_folder(RONDO_ENOTSUP, "model.layers.1.self_attn.kv_b_proj.weight, which a layer of KimiLinearForCausalLM has no place for", "a stray tensor");
    kit_free(m);
}

int main(void)
{
    scratch_make("6130-lm-hybrid");
    kit_tokens(tokens, TOKENS, 67, 11);
    for (size_t i = 0; i < sizeof hybrids / sizeof *hybrids; i++)
        one_hash(&hybrids[i]);
    decoding(&hybrids[0]);
    threads(&hybrids[0]);
    refused();
    scratch_remove();
    return done();
}
