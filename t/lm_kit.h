/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Tiny random models for the tests 61xx: written as a folder the way Hugging Face would, kept in memory in double, and run by
 * a plain fp64 program that shares nothing with the library but the formulas. Every stored value is exact in its type.
 */
#ifndef RONDO_T_LM_KIT_H
#define RONDO_T_LM_KIT_H

#include <math.h>
#include <stdint.h>

#include "rondo_lm.h"
#include "scratch.h"
#include "tap.h"

#define KIT_UNUSED __attribute__((unused))

enum kit_rope { KIT_DEFAULT, KIT_LINEAR, KIT_DYNAMIC, KIT_LLAMA3, KIT_YARN };

struct kit_config {
    const char *name;
    int mistral;
    int layers, hidden, intermediate, heads, kv_heads, head_dim, vocabulary;
    int window;                       /* 0: none */
    int tied, attention_bias, mlp_bias, type;
    int new_style;                    /* rope_parameters, as transformers 5 writes it */
    enum kit_rope rope;
    double theta, partial, factor;    /* partial_rotary_factor */
    int original;                     /* original_max_position_embeddings; dynamic: max_position_embeddings */
    double attention_factor, mscale, mscale_all;   /* yarn: 0 = absent */
    int no_truncate;
    int qwen;                         /* 2 or 3: that family; 2 has biases of q, k and v, 3 norms of q and k */
};

/* The smallest that has everything: GQA, a head size that is not hidden / heads, sizes that no vector divides. */
KIT_UNUSED static struct kit_config kit_defaults(const char *name)
{
    struct kit_config c = { .name = name, .layers = 2, .hidden = 44, .intermediate = 72, .heads = 4, .kv_heads = 2, .head_dim = 16,
                            .vocabulary = 67, .type = RONDO_F32, .theta = 10000.0, .partial = 1.0, .factor = 1.0, .original = 64 };
    return c;
}

struct kit_tensor {
    char name[80];
    int dims;
    int64_t shape[4], count;
    double *values;
};

struct kit_model {
    struct kit_config config;
    struct kit_tensor *tensors;
    int count;
};

KIT_UNUSED static uint64_t kit_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* About normal: the sum of twelve uniform numbers. */
KIT_UNUSED static double kit_normal(uint64_t *state)
{
    double sum = -6.0;
    for (int i = 0; i < 12; i++)
        sum += (double)(kit_random(state) >> 11) * 0x1p-53;
    return sum;
}

KIT_UNUSED static void kit_add(struct kit_model *m, uint64_t *seed, const char *name, int64_t rows, int64_t columns, double mean, double spread)
{
    m->tensors = realloc(m->tensors, (size_t)(m->count + 1) * sizeof *m->tensors);
    if (!m->tensors)
        scratch_die("no memory");
    struct kit_tensor *t = &m->tensors[m->count++];
    snprintf(t->name, sizeof t->name, "%s", name);
    t->dims = columns ? 2 : 1;
    t->shape[0] = rows;
    t->shape[1] = columns;
    t->count = rows * (columns ? columns : 1);
    t->values = malloc((size_t)t->count * sizeof(double));
    if (!t->values)
        scratch_die("no memory");
    for (int64_t i = 0; i < t->count; i++) {
        double v = mean + spread * kit_normal(seed);
        /* Seven bits after the point in narrow types: exact in both. */
        t->values[i] = m->config.type == RONDO_F32 ? (double)(float)v : mean + rint((v - mean) * 128.0) / 128.0;
    }
}

KIT_UNUSED static struct kit_model *kit_make(const struct kit_config *c, uint64_t seed)
{
    struct kit_model *m = calloc(1, sizeof *m);
    if (!m)
        scratch_die("no memory");
    m->config = *c;
    char name[80];
    int q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim, qkv_bias = c->attention_bias || c->qwen == 2;
    kit_add(m, &seed, "model.embed_tokens.weight", c->vocabulary, c->hidden, 0.0, 0.25);
    for (int i = 0; i < c->layers; i++) {
        const struct {
            const char *name;
            int rows, columns;
            double mean, spread;
            int present;
        } parts[] = {
            { "input_layernorm.weight", c->hidden, 0, 1.0, 0.125, 1 },
            { "post_attention_layernorm.weight", c->hidden, 0, 1.0, 0.125, 1 },
            { "self_attn.q_proj.weight", q, c->hidden, 0.0, 0.2, 1 },
            { "self_attn.k_proj.weight", kv, c->hidden, 0.0, 0.2, 1 },
            { "self_attn.v_proj.weight", kv, c->hidden, 0.0, 0.1, 1 },
            { "self_attn.o_proj.weight", c->hidden, q, 0.0, 0.1, 1 },
            { "mlp.gate_proj.weight", c->intermediate, c->hidden, 0.0, 0.15, 1 },
            { "mlp.up_proj.weight", c->intermediate, c->hidden, 0.0, 0.15, 1 },
            { "mlp.down_proj.weight", c->hidden, c->intermediate, 0.0, 0.1, 1 },
            { "self_attn.q_proj.bias", q, 0, 0.0, 0.25, qkv_bias },
            { "self_attn.k_proj.bias", kv, 0, 0.0, 0.25, qkv_bias },
            { "self_attn.v_proj.bias", kv, 0, 0.0, 0.25, qkv_bias },
            { "self_attn.o_proj.bias", c->hidden, 0, 0.0, 0.25, c->attention_bias },
            { "self_attn.q_norm.weight", c->head_dim, 0, 1.0, 0.125, c->qwen == 3 },
            { "self_attn.k_norm.weight", c->head_dim, 0, 1.25, 0.125, c->qwen == 3 },
            { "mlp.gate_proj.bias", c->intermediate, 0, 0.0, 0.25, c->mlp_bias },
            { "mlp.up_proj.bias", c->intermediate, 0, 0.0, 0.25, c->mlp_bias },
            { "mlp.down_proj.bias", c->hidden, 0, 0.0, 0.25, c->mlp_bias },
        };
        for (size_t k = 0; k < sizeof parts / sizeof *parts; k++) {
            if (!parts[k].present)
                continue;
            snprintf(name, sizeof name, "model.layers.%d.%s", i, parts[k].name);
            kit_add(m, &seed, name, parts[k].rows, parts[k].columns, parts[k].mean, parts[k].spread);
        }
    }
    kit_add(m, &seed, "model.norm.weight", c->hidden, 0, 1.0, 0.125);
    if (!c->tied)
        kit_add(m, &seed, "lm_head.weight", c->vocabulary, c->hidden, 0.0, 0.25);
    return m;
}

KIT_UNUSED static void kit_free(struct kit_model *m)
{
    for (int i = 0; m && i < m->count; i++)
        free(m->tensors[i].values);
    if (m)
        free(m->tensors);
    free(m);
}

KIT_UNUSED static const double *kit_values(const struct kit_model *m, int layer, const char *name)
{
    char full[80];
    if (layer >= 0)
        snprintf(full, sizeof full, "model.layers.%d.%s", layer, name);
    else
        snprintf(full, sizeof full, "%s", name);
    for (int i = 0; i < m->count; i++)
        if (!strcmp(m->tensors[i].name, full))
            return m->tensors[i].values;
    return NULL;
}

/* ---- the folder ---- */

KIT_UNUSED static uint16_t kit_half(double v)
{
    if (v == 0.0)
        return 0;
    int e;
    double f = frexp(fabs(v), &e);   /* normal numbers only: nothing here lies below 2^-14 */
    uint16_t bits = (uint16_t)((unsigned)(e + 14) << 10 | ((unsigned)(f * 2048.0) & 0x3ff));
    return v < 0.0 ? (uint16_t)(bits | 0x8000) : bits;
}

KIT_UNUSED static void kit_store(void *to, int64_t at, int type, double v)
{
    float f = (float)v;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    if (type == RONDO_F32)
        ((float *)to)[at] = f;
    else
        ((uint16_t *)to)[at] = type == RONDO_BF16 ? (uint16_t)(bits >> 16) : kit_half(v);
}

KIT_UNUSED static void kit_write_config(const struct kit_config *c)
{
    static const char *const ropes[] = { "default", "linear", "dynamic", "llama3", "yarn" };
    static const char *const qwens[] = { "Qwen2ForCausalLM", "Qwen3ForCausalLM", "qwen2", "qwen3" };
    char rope[512] = "", text[2048];
    int n = snprintf(rope, sizeof rope, "{\"rope_type\": \"%s\"", ropes[c->rope]);
    if (c->new_style)
        n += snprintf(rope + n, sizeof rope - (size_t)n, ", \"rope_theta\": %.17g, \"partial_rotary_factor\": %.17g", c->theta, c->partial);
    if (c->rope != KIT_DEFAULT)
        n += snprintf(rope + n, sizeof rope - (size_t)n, ", \"factor\": %.17g", c->factor);
    if (c->rope == KIT_LLAMA3)
        n += snprintf(rope + n, sizeof rope - (size_t)n, ", \"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0");
    if (c->rope == KIT_LLAMA3 || c->rope == KIT_YARN)
        n += snprintf(rope + n, sizeof rope - (size_t)n, ", \"original_max_position_embeddings\": %d", c->original);
    if (c->attention_factor > 0.0)
        n += snprintf(rope + n, sizeof rope - (size_t)n, ", \"attention_factor\": %.17g", c->attention_factor);
    if (c->mscale > 0.0)
        n += snprintf(rope + n, sizeof rope - (size_t)n, ", \"mscale\": %.17g, \"mscale_all_dim\": %.17g", c->mscale, c->mscale_all);
    if (c->no_truncate)
        n += snprintf(rope + n, sizeof rope - (size_t)n, ", \"truncate\": false");
    snprintf(rope + n, sizeof rope - (size_t)n, "}");
    n = snprintf(text, sizeof text,
                 "{\"architectures\": [\"%s\"], \"model_type\": \"%s\", \"hidden_size\": %d, \"intermediate_size\": %d, \"num_hidden_layers\": %d,"
                 " \"num_attention_heads\": %d, \"num_key_value_heads\": %d, \"head_dim\": %d, \"vocab_size\": %d, \"rms_norm_eps\": 1e-05,"
                 " \"max_position_embeddings\": %d, \"tie_word_embeddings\": %s, \"attention_bias\": %s, \"mlp_bias\": %s, \"hidden_act\": \"silu\","
                 " \"bos_token_id\": 0, \"eos_token_id\": 1, ",
                 c->qwen ? qwens[c->qwen - 2] : c->mistral ? "MistralForCausalLM" : "LlamaForCausalLM",
                 c->qwen ? qwens[c->qwen] : c->mistral ? "mistral" : "llama", c->hidden, c->intermediate, c->layers,
                 c->heads, c->kv_heads, c->head_dim, c->vocabulary, c->rope == KIT_DYNAMIC ? c->original : 4096, c->tied ? "true" : "false",
                 c->attention_bias ? "true" : "false", c->mlp_bias ? "true" : "false");
    if (c->mistral && c->window)
        n += snprintf(text + n, sizeof text - (size_t)n, "\"sliding_window\": %d, ", c->window);
    else if (c->mistral)
        n += snprintf(text + n, sizeof text - (size_t)n, "\"sliding_window\": null, ");
    if (c->qwen && c->window)
        n += snprintf(text + n, sizeof text - (size_t)n, "\"sliding_window\": %d, \"use_sliding_window\": true, \"max_window_layers\": 0, ", c->window);
    if (c->new_style)
        snprintf(text + n, sizeof text - (size_t)n, "\"rope_parameters\": %s}", rope);
    else
        snprintf(text + n, sizeof text - (size_t)n, "\"rope_theta\": %.17g, \"partial_rotary_factor\": %.17g, \"rope_scaling\": %s}", c->theta, c->partial,
                 c->rope == KIT_DEFAULT ? "null" : rope);
    scratch_text("config.json", text);
}

/* The weights but for the tensor `without` (NULL: all). */
KIT_UNUSED static void kit_write_weights(const struct kit_model *m, const char *without)
{
    rondo_array *arrays = calloc((size_t)m->count, sizeof *arrays);
    rondo_arrays_writer *writer = NULL;
    int64_t count = 0;
    if (!arrays)
        scratch_die("no memory");
    for (int i = 0; i < m->count; i++) {
        const struct kit_tensor *t = &m->tensors[i];
        if (!without || strcmp(t->name, without))
            arrays[count++] = (rondo_array){ .name = t->name, .type = m->config.type, .dims = t->dims, .shape = t->shape };
    }
    int err = rondo_arrays_create(&writer, scratch_path("model.safetensors"), arrays, count);
    count = 0;
    for (int i = 0; i < m->count && !err; i++) {
        const struct kit_tensor *t = &m->tensors[i];
        if (without && !strcmp(t->name, without))
            continue;
        size_t bytes = (size_t)t->count * rondo_type_size(m->config.type);
        void *raw = malloc(bytes);
        if (!raw)
            scratch_die("no memory");
        for (int64_t k = 0; k < t->count; k++)
            kit_store(raw, k, m->config.type, t->values[k]);
        err = rondo_arrays_write(writer, count++, 0, bytes, raw);
        free(raw);
    }
    if (!err)
        err = rondo_arrays_commit(writer);
    free(arrays);
    if (err) {
        printf("Bail out! cannot write a model: %s\n", rondo_error_text());
        exit(1);
    }
}

KIT_UNUSED static struct kit_model *kit_folder(const struct kit_config *c, uint64_t seed)
{
    struct kit_model *m = kit_make(c, seed);
    scratch_clear();
    kit_write_config(c);
    kit_write_weights(m, NULL);
    return m;
}

KIT_UNUSED static void kit_tokens(int32_t *tokens, int64_t count, int vocabulary, uint64_t seed)
{
    for (int64_t i = 0; i < count; i++)
        tokens[i] = (int32_t)(kit_random(&seed) % (uint64_t)vocabulary);
}

/* ---- the oracle ---- */

KIT_UNUSED static void kit_frequencies(const struct kit_config *c, int64_t length, double *f, double *scaling)
{
    int dim = (int)(c->head_dim * c->partial);
    double base = c->theta, pi = acos(-1.0);
    *scaling = 1.0;
    if (c->rope == KIT_DYNAMIC) {
        double m = c->original, n = length > c->original ? (double)length : m;
        base *= pow(c->factor * n / m - (c->factor - 1.0), dim / (dim - 2.0));
    }
    double low = dim * log(c->original / (32.0 * 2.0 * pi)) / (2.0 * log(c->theta));
    double high = dim * log(c->original / (1.0 * 2.0 * pi)) / (2.0 * log(c->theta));
    if (!c->no_truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0.0);
    high = fmin(high, dim - 1.0);
    if (low == high)
        high += 0.001;
    if (c->rope == KIT_YARN) {
        *scaling = c->factor <= 1.0 ? 1.0 : 0.1 * log(c->factor) + 1.0;
        if (c->mscale > 0.0)
            *scaling = (0.1 * c->mscale * log(c->factor) + 1.0) / (0.1 * c->mscale_all * log(c->factor) + 1.0);
        if (c->attention_factor > 0.0)
            *scaling = c->attention_factor;
    }
    for (int i = 0; i < dim / 2; i++) {
        f[i] = pow(base, -2.0 * i / dim);
        if (c->rope == KIT_LINEAR)
            f[i] /= c->factor;
        if (c->rope == KIT_LLAMA3) {
            double w = 2.0 * pi / f[i], original = c->original;
            if (w > original / 1.0) {
                f[i] /= c->factor;
            } else if (w >= original / 4.0) {
                double t = (original / w - 1.0) / (4.0 - 1.0);
                f[i] = (1.0 - t) * f[i] / c->factor + t * f[i];
            }
        }
        if (c->rope == KIT_YARN) {
            double ramp = fmin(fmax((i - low) / (high - low), 0.0), 1.0);
            f[i] = f[i] / c->factor * ramp + f[i] * (1.0 - ramp);
        }
        f[i] = (double)(float)f[i];
    }
}

KIT_UNUSED static void kit_norm(const double *x, const double *w, int n, double *y)
{
    double sum = 0.0;
    for (int i = 0; i < n; i++)
        sum += x[i] * x[i];
    for (int i = 0; i < n; i++)
        y[i] = x[i] / sqrt(sum / n + (double)1e-05f) * w[i];
}

KIT_UNUSED static void kit_linear(const double *x, const double *w, const double *bias, int out, int in, double *y)
{
    for (int o = 0; o < out; o++) {
        double sum = 0.0;
        for (int i = 0; i < in; i++)
            sum += x[i] * w[(size_t)o * (size_t)in + (size_t)i];
        y[o] = sum + (bias ? bias[o] : 0.0);
    }
}

/* logits [n][vocabulary]; of the kind dynamic the first `prompt` tokens turn for their number, each other one for its place + 1. */
KIT_UNUSED static void kit_oracle(const struct kit_model *m, const int32_t *tokens, int n, int64_t prompt, double *logits)
{
    const struct kit_config *c = &m->config;
    const int hd = c->hidden, d = c->head_dim, qw = c->heads * d, kw = c->kv_heads * d, turn = (int)(d * c->partial) / 2;
    double *x = calloc((size_t)n * (size_t)hd, sizeof *x), *q = calloc((size_t)n * (size_t)qw, sizeof *q);
    double *k = calloc((size_t)n * (size_t)kw, sizeof *k), *v = calloc((size_t)n * (size_t)kw, sizeof *v);
    double *h = calloc((size_t)(hd + qw + 2 * c->intermediate), sizeof *h), *p = calloc((size_t)n, sizeof *p);
    double f[256], scaling;
    if (!x || !q || !k || !v || !h || !p)
        scratch_die("no memory");
    double *o = h + hd, *gate = o + qw, *up = gate + c->intermediate;
    for (int t = 0; t < n; t++)
        memcpy(x + t * hd, kit_values(m, -1, "model.embed_tokens.weight") + tokens[t] * hd, (size_t)hd * sizeof *x);
    for (int y = 0; y < c->layers; y++) {
        for (int t = 0; t < n; t++) {
            kit_norm(x + t * hd, kit_values(m, y, "input_layernorm.weight"), hd, h);
            kit_linear(h, kit_values(m, y, "self_attn.q_proj.weight"), kit_values(m, y, "self_attn.q_proj.bias"), qw, hd, q + t * qw);
            kit_linear(h, kit_values(m, y, "self_attn.k_proj.weight"), kit_values(m, y, "self_attn.k_proj.bias"), kw, hd, k + t * kw);
            kit_linear(h, kit_values(m, y, "self_attn.v_proj.weight"), kit_values(m, y, "self_attn.v_proj.bias"), kw, hd, v + t * kw);
            kit_frequencies(c, t < prompt ? prompt : t + 1, f, &scaling);
            for (int g = 0; g < c->heads + c->kv_heads; g++) {
                double *a = g < c->heads ? q + t * qw + g * d : k + t * kw + (g - c->heads) * d, normed[256];
                const double *norm = kit_values(m, y, g < c->heads ? "self_attn.q_norm.weight" : "self_attn.k_norm.weight");
                if (norm) {
                    kit_norm(a, norm, d, normed);
                    memcpy(a, normed, (size_t)d * sizeof *a);
                }
                for (int i = 0; i < turn; i++) {
                    double angle = (double)((float)t * (float)f[i]), cs = cos(angle) * scaling, sn = sin(angle) * scaling;
                    double a0 = a[i], a1 = a[i + turn];
                    a[i] = a0 * cs - a1 * sn;
                    a[i + turn] = a1 * cs + a0 * sn;
                }
            }
        }
        for (int t = 0; t < n; t++) {
            int from = c->window && t - c->window + 1 > 0 ? t - c->window + 1 : 0;
            for (int g = 0; g < c->heads; g++) {
                const double *qq = q + t * qw + g * d;
                int kg = g / (c->heads / c->kv_heads);
                double top = -INFINITY, sum = 0.0;
                for (int j = from; j <= t; j++) {
                    p[j] = 0.0;
                    for (int i = 0; i < d; i++)
                        p[j] += qq[i] * k[j * kw + kg * d + i];
                    p[j] /= sqrt(d);
                    top = fmax(top, p[j]);
                }
                for (int i = 0; i < d; i++)
                    o[g * d + i] = 0.0;
                for (int j = from; j <= t; j++) {
                    double e = exp(p[j] - top);
                    sum += e;
                    for (int i = 0; i < d; i++)
                        o[g * d + i] += e * v[j * kw + kg * d + i];
                }
                for (int i = 0; i < d; i++)
                    o[g * d + i] /= sum;
            }
            kit_linear(o, kit_values(m, y, "self_attn.o_proj.weight"), kit_values(m, y, "self_attn.o_proj.bias"), hd, qw, h);
            for (int i = 0; i < hd; i++)
                x[t * hd + i] += h[i];
            kit_norm(x + t * hd, kit_values(m, y, "post_attention_layernorm.weight"), hd, h);
            kit_linear(h, kit_values(m, y, "mlp.gate_proj.weight"), kit_values(m, y, "mlp.gate_proj.bias"), c->intermediate, hd, gate);
            kit_linear(h, kit_values(m, y, "mlp.up_proj.weight"), kit_values(m, y, "mlp.up_proj.bias"), c->intermediate, hd, up);
            for (int i = 0; i < c->intermediate; i++)
                gate[i] = gate[i] / (1.0 + exp(-gate[i])) * up[i];
            kit_linear(gate, kit_values(m, y, "mlp.down_proj.weight"), kit_values(m, y, "mlp.down_proj.bias"), hd, c->intermediate, h);
            for (int i = 0; i < hd; i++)
                x[t * hd + i] += h[i];
        }
    }
    const double *head = kit_values(m, -1, c->tied ? "model.embed_tokens.weight" : "lm_head.weight");
    for (int t = 0; t < n; t++) {
        kit_norm(x + t * hd, kit_values(m, -1, "model.norm.weight"), hd, h);
        kit_linear(h, head, NULL, c->vocabulary, hd, logits + (size_t)t * (size_t)c->vocabulary);
    }
    free(x);
    free(q);
    free(k);
    free(v);
    free(h);
    free(p);
}

KIT_UNUSED static double kit_nll(const double *logits, const int32_t *tokens, int n, int vocabulary)
{
    double total = 0.0;
    for (int t = 0; t + 1 < n; t++) {
        const double *row = logits + (size_t)t * (size_t)vocabulary;
        double top = -INFINITY, sum = 0.0;
        for (int i = 0; i < vocabulary; i++)
            top = fmax(top, row[i]);
        for (int i = 0; i < vocabulary; i++)
            sum += exp(row[i] - top);
        total += top + log(sum) - row[tokens[t + 1]];
    }
    return total / (n - 1);
}

/* ---- the library, on some ranks ---- */

KIT_UNUSED static rondo_model *kit_open(const char *dir)
{
    rondo_context *ctx = NULL;
    rondo_model *model = NULL;
    rondo_model_desc d = RONDO_MODEL_DESC_INIT;
    char path[600];
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    d.no_tokenizer = access(path, F_OK) != 0;
    int err = rondo_context_create(&ctx, NULL);
    if (!err)
        err = rondo_model_open(&model, ctx, dir, &d);
    if (err)
        diag("%s: %s", dir, rondo_error_text());
    rondo_context_destroy(ctx);
    return model;
}

/* A model in the parts that tp x cp ranks need. */
struct kit_parts {
    int tp, cp, spread, count;
    rondo_model **at;                  /* [spread: tp * cp, by t * cp + c; else tp] */
};

KIT_UNUSED static void kit_close_parts(struct kit_parts *p)
{
    for (int i = 0; i < p->count && p->at; i++)
        rondo_model_close(p->at[i]);
    free(p->at);
    p->at = NULL;
}

KIT_UNUSED static int kit_open_parts(struct kit_parts *p, const char *dir, int tp, int cp, int spread, const rondo_model_desc *like)
{
    rondo_context *ctx = NULL;
    char path[600];
    *p = (struct kit_parts){ .tp = tp, .cp = cp, .spread = spread, .count = spread ? tp * cp : tp };
    p->at = calloc((size_t)p->count, sizeof *p->at);
    if (!p->at)
        scratch_die("no memory");
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    int err = rondo_context_create(&ctx, NULL);
    for (int i = 0; i < p->count && !err; i++) {
        rondo_model_desc d = RONDO_MODEL_DESC_INIT;
        if (like)
            d = *like;
        d.no_tokenizer = access(path, F_OK) != 0;
        d.tp_ranks = tp;
        d.tp_rank = spread ? i / cp : i;
        d.cp_ranks = spread ? cp : 0;
        d.cp_rank = spread ? i % cp : 0;
        err = rondo_model_open(&p->at[i], ctx, dir, &d);
    }
    if (err && err != RONDO_ENOMEM)   /* which faults come to by the hundred */
        diag("%s, tp %d cp %d: %s", dir, tp, cp, rondo_error_text());
    rondo_context_destroy(ctx);
    return err;
}

KIT_UNUSED static const rondo_model *kit_model_of(const rondo_model *whole, const struct kit_parts *p, const rondo_context *ctx)
{
    if (!p)
        return whole;
    const int rank = rondo_context_rank(ctx), t = rank % p->tp, c = rank / p->tp;
    return p->at[p->spread ? t * p->cp + c : t];
}

#define KIT_RANKS 32
struct kit_score {
    const rondo_model *model;
    const struct kit_parts *parts;     /* or NULL: the model is whole */
    rondo_lm_desc desc;
    const int32_t *tokens;
    int64_t count;
    float *logits;                     /* [count][vocabulary], or NULL */
    int64_t vocabulary, rows, disorder;
    rondo_score scores[KIT_RANKS];     /* by rank */
    rondo_lm_counters counters[KIT_RANKS];
};

KIT_UNUSED static int kit_row(void *user, int64_t row, const float *logits)
{
    struct kit_score *s = user;
    s->disorder += row != s->rows++;
    if (s->logits)
        memcpy(s->logits + row * s->vocabulary, logits, (size_t)s->vocabulary * sizeof *logits);
    return 0;
}

KIT_UNUSED static int kit_score_body(rondo_context *ctx, void *arg)
{
    struct kit_score *s = arg;
    rondo_lm *lm = NULL;
    int rank = rondo_context_rank(ctx), err = rondo_lm_create(&lm, ctx, kit_model_of(s->model, s->parts, ctx), &s->desc);
    s->scores[rank] = (rondo_score)RONDO_SCORE_INIT;
    s->counters[rank] = (rondo_lm_counters)RONDO_LM_COUNTERS_INIT;
    if (!err)
        err = rondo_lm_score(lm, s->tokens, s->count, s->logits && rank == 0 ? kit_row : NULL, s, &s->scores[rank]);
    if (!err)
        err = rondo_lm_count(lm, &s->counters[rank]);
    rondo_lm_destroy(lm);
    return err;
}

/* 0 where all ranks agree on the answer; it is in s->scores[0]. */
KIT_UNUSED static int kit_run_score(struct kit_score *s, int ranks)
{
    s->rows = s->disorder = 0;
    int err = rondo_run_threads(ranks, kit_score_body, s);
    if (err)
        diag("%s: %s", rondo_error_name(err), rondo_error_text());
    for (int r = 1; r < ranks && !err; r++)
        if (s->scores[r].hash != s->scores[0].hash || s->scores[r].nll != s->scores[0].nll)
            err = 1;
    return err;
}

/* Several prompts at once. */
#define KIT_PROMPTS 40
#define KIT_NEW 64
struct kit_generate {
    const rondo_model *model;
    const struct kit_parts *parts;
    rondo_lm_desc desc;
    rondo_sampling sampling;           /* of all prompts */
    const int32_t *prompts[KIT_PROMPTS];
    int64_t counts[KIT_PROMPTS];
    int prompt_count;
    int late;                          /* prompts from this on are submitted only after two steps; 0: all at once */
    struct {
        int32_t tokens[KIT_NEW];
        int64_t new_tokens, events, event_text;
        int finish;
        uint64_t hash;
        char text[1024];               /* status.text, cut */
        char shown[1024];              /* what the events gave, cut */
    } got[KIT_PROMPTS];                /* rank 0's */
    rondo_lm_counters counters;
    int disagree;                      /* ranks that saw something else than rank 0 says */
    uint64_t seen[KIT_RANKS];
};

KIT_UNUSED static int kit_generate_body(rondo_context *ctx, void *arg)
{
    struct kit_generate *g = arg;
    rondo_lm *lm = NULL;
    const int rank = rondo_context_rank(ctx);
    int err = rondo_lm_create(&lm, ctx, kit_model_of(g->model, g->parts, ctx), &g->desc);
    int submitted = 0, steps = 0;
    int64_t live = 0;
    uint64_t seen = 0;
    while (!err) {
        int until = g->late > 0 && steps < 2 ? g->late : g->prompt_count;
        for (; submitted < until && !err; submitted++) {
            int64_t id = -1;
            err = rondo_lm_submit(lm, g->prompts[submitted], g->counts[submitted], &g->sampling, &id);
            if (!err && id != submitted)
                err = 7;
        }
        rondo_lm_event events[KIT_PROMPTS];
        int64_t n = err ? err : rondo_lm_step(lm, events, KIT_PROMPTS, &live);
        if (n < 0)
            err = (int)n;
        steps++;
        for (int64_t i = 0; i < n && !err; i++) {
            seen = seen * 31 + (uint64_t)events[i].token * 7 + (uint64_t)events[i].id + (uint64_t)events[i].finish * 1001 + events[i].text_bytes * 77;
            if (rank != 0)
                continue;
            size_t have = strlen(g->got[events[i].id].shown);
            g->got[events[i].id].events++;
            if (have + events[i].text_bytes < sizeof g->got[0].shown && events[i].text_bytes) {
                memcpy(g->got[events[i].id].shown + have, events[i].text, events[i].text_bytes);
                g->got[events[i].id].shown[have + events[i].text_bytes] = 0;
            }
        }
        if (live == 0 && submitted == g->prompt_count)
            break;
    }
    for (int i = 0; i < g->prompt_count && !err; i++) {
        rondo_lm_status s = RONDO_LM_STATUS_INIT;
        err = rondo_lm_query(lm, i, &s);
        seen = seen * 31 + s.hash;
        if (rank != 0 || err)
            continue;
        g->got[i].new_tokens = s.new_tokens;
        g->got[i].finish = s.finish;
        g->got[i].hash = s.hash;
        memcpy(g->got[i].tokens, s.tokens, (size_t)(s.new_tokens < KIT_NEW ? s.new_tokens : KIT_NEW) * sizeof *s.tokens);
        snprintf(g->got[i].text, sizeof g->got[i].text, "%s", s.text ? s.text : "(null)");
        if (strlen(s.text ? s.text : "") != s.text_bytes)
            err = 8;
    }
    if (!err && rank == 0) {
        g->counters = (rondo_lm_counters)RONDO_LM_COUNTERS_INIT;
        err = rondo_lm_count(lm, &g->counters);
    }
    g->seen[rank] = seen;
    rondo_lm_destroy(lm);
    return err;
}

KIT_UNUSED static int kit_run_generate(struct kit_generate *g, int ranks)
{
    memset(g->got, 0, sizeof g->got);
    int err = rondo_run_threads(ranks, kit_generate_body, g);
    if (err)
        diag("%s: %s", rondo_error_name(err), rondo_error_text());
    g->disagree = 0;
    for (int r = 1; r < ranks && !err; r++)
        g->disagree += g->seen[r] != g->seen[0];
    return err;
}

#endif
