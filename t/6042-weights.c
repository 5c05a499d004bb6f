/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The types that weights are held in: made of what the files have when they are read, or whole numbers with scales that the files bring. Every
 * weight is read back, of whole models and of parts, and compared with what rondo-numerics(7) says, computed here in double; what comes of
 * such a model is compared with a plain fp64 program that has the same values, and its bits over divisions.
 */
#include "core/internal.h"
#include "lib/tensor/linear.h"
#include "lm/model/model.h"
#include "lm_kit.h"

static int wrong;

static void check(bool good, const char *what, int64_t at)
{
    if (!good && wrong++ < 10)
        diag("%s at %lld", what, (long long)at);
}

/* ---- the rules, once more ---- */

static double bits_of(double x, int bits)
{
    int e;
    const double f = frexp(x, &e), scaled = ldexp(f, bits);
    return ldexp(rint(scaled), e - bits);      /* nearest even */
}

static double rounded(double x, int type)
{
    if (type == RONDO_F16 && fabs(x) < 0x1p-14)      /* subnormal there, and nowhere else here */
        return rint(x * 0x1p24) * 0x1p-24;
    return x == 0.0 ? 0.0 : type == RONDO_BF16 ? bits_of(x, 8) : type == RONDO_F16 ? bits_of(x, 11) : (double)(float)x;
}

/* One group of a row as numbers of 8 bits: the largest over 127, rounded up to 16 bits. */
static void quantise(const double *x, int64_t count, double *to)
{
    double most = 0.0;
    for (int64_t i = 0; i < count; i++)
        most = fmax(most, fabs(x[i]));
    if (most == 0.0) {
        for (int64_t i = 0; i < count; i++)
            to[i] = 0.0;
        return;
    }
    int e;
    const double f = frexp(most / 127.0, &e), scale = ldexp(ceil(ldexp(f, 16)), e - 16);
    for (int64_t i = 0; i < count; i++)
        to[i] = fmax(-127.0, fmin(127.0, rint(x[i] / scale))) * scale;
}

/* All of W [rows][in] as a layer of so many leaves holds it. */
static double *held(const double *w, int64_t rows, int64_t in, int leaves, int type, int group)
{
    double *to = malloc((size_t)(rows * in) * sizeof *to);
    if (!to)
        scratch_die("no memory");
    for (int64_t r = 0; r < rows; r++)
        for (int leaf = 0; leaf < leaves; leaf++) {
            const int64_t begin = in * leaf / leaves, end = in * (leaf + 1) / leaves;
            for (int64_t i = begin; i < end; i += type == RONDO_Q8 ? group : 1)
                if (type == RONDO_Q8)
                    quantise(w + r * in + i, end - i < group ? end - i : group, to + r * in + i);
                else
                    to[r * in + i] = rounded(w[r * in + i], type);
        }
    return to;
}

/* ---- comparing ---- */

static float widened(const void *raw, int64_t at, int type)
{
    if (type == RONDO_F32)
        return ((const float *)raw)[at];
    const uint16_t h = ((const uint16_t *)raw)[at];
    uint32_t bits = (uint32_t)h << 16;
    float x;
    if (type == RONDO_F16) {
        const int e = h >> 10 & 31, m = h & 1023;
        return (float)ldexp((h >> 15 ? -1.0 : 1.0) * (e ? 1024 + m : m), (e ? e : 1) - 25);
    }
    memcpy(&x, &bits, sizeof x);
    return x;
}

static void matrix(const char *name, const rondo_linear *l, const double *want, int type, int64_t first, int64_t in, int64_t column)
{
    const rondo_linear_desc *d = l ? rondo__linear_desc(l) : NULL;
    check(l && d->type == type, name, -1);
    if (!l || !rondo__linear_columns(l))
        return;
    const int64_t columns = rondo__linear_columns(l);
    float *got = malloc((size_t)(d->out * columns) * sizeof *got);
    if (!got)
        scratch_die("no memory");
    check(!rondo__linear_read(l, 0, d->out, got), name, -2);
    for (int64_t r = 0; r < d->out; r++)
        for (int64_t i = 0; i < columns; i++)
            check(widened(got, r * columns + i, type == RONDO_Q8 ? RONDO_F32 : type) == (float)want[(first + r) * in + column + i], name, r * columns + i);
    free(got);
}

/* All layers of a part. values[] replaces the model's own where it is not NULL (a folder of numbers with scales). */
static void part(const struct kit_model *m, const rondo_model *model, int type, int group)
{
    const struct kit_config *c = &m->config;
    const struct rondo_split *s = &model->split;
    const int q = c->heads * c->head_dim, kv = c->kv_heads * c->head_dim, h = c->hidden, mlp = c->intermediate, w = s->t * s->cp + s->c;
    const int wide = (h + 511) / 512, down = mlp < 16 ? mlp : 16;
    for (int i = 0; i < c->layers; i++) {
        const struct rondo_layer *y = &model->layers[i];
        const struct {
            const char *name;
            const rondo_linear *linear;
            int64_t out, in, first, column;
            int leaves;
        } layers[] = {
            { "self_attn.q_proj.weight", y->q, q, h, s->q_first, 0, wide },
            { "self_attn.k_proj.weight", y->k, kv, h, s->kv_first, 0, wide },
            { "self_attn.v_proj.weight", y->v, kv, h, s->kv_first, 0, wide },
            { "self_attn.o_proj.weight", y->o, h, q, 0, (int64_t)s->o_begin[w] * c->head_dim, c->heads },
            { "mlp.gate_proj.weight", y->gate, mlp, h, s->mlp_first, 0, wide },
            { "mlp.up_proj.weight", y->up, mlp, h, s->mlp_first, 0, wide },
            { "mlp.down_proj.weight", y->down, h, mlp, 0, s->mlp_first, down },
        };
        for (size_t k = 0; k < sizeof layers / sizeof *layers; k++) {
            double *want = held(kit_values(m, i, layers[k].name), layers[k].out, layers[k].in, layers[k].leaves, type, group);
            matrix(layers[k].name, layers[k].linear, want, type, layers[k].first, layers[k].in, layers[k].column);
            free(want);
        }
        for (int64_t k = 0; k < h; k++)
            check(y->attention_norm[k] == (float)kit_values(m, i, "input_layernorm.weight")[k], "a norm", k);
    }
    double *want = held(kit_values(m, -1, c->tied ? "model.embed_tokens.weight" : "lm_head.weight"), c->vocabulary, h, wide, type, group);
    matrix("the head", model->head, want, type, s->vocab_first, h, 0);
    /* An embedding: of a float type, the narrower one; of the head's, where that is looked up. */
    const int table = type == RONDO_Q8 ? c->type : type == RONDO_F32 && !c->tied ? c->type : type;
    const double *ids = kit_values(m, -1, "model.embed_tokens.weight");
    float scratch[512];
    check(model->embedding_type == table, "the embedding's type", model->embedding_type);
    for (int64_t id = 0; id < s->vocab; id++) {
        const void *row = NULL;
        const int err = rondo__model_embedding(model, s->vocab_first + id, scratch, &row);
        for (int k = 0; !err && k < h; k++)
            check(widened(row, k, table) == (float)rounded(ids[(s->vocab_first + id) * h + k], table), "a token's row", id);
        check(!err, "a token's row", id);
    }
    free(want);
}

static void open_as(struct kit_config c, int weights, int group, int tp, int cp)
{
    static uint64_t seed = 50;
    rondo_context *ctx = NULL;
    struct kit_model *m = kit_folder(&c, seed++);
    uint64_t fingerprint = 0;
    wrong = 0;
    check(!rondo_context_create(&ctx, NULL), "a context", 0);
    for (int w = 0; w < tp * cp; w++) {
        rondo_model *model = NULL;
        rondo_model_desc d = RONDO_MODEL_DESC_INIT;
        d.no_tokenizer = 1;
        d.tp_rank = w / cp;
        d.tp_ranks = tp;
        d.cp_rank = w % cp;
        d.cp_ranks = cp;
        d.weights = weights;
        d.group = group;
        d.threads = w % 3;
        const int err = rondo_model_open(&model, ctx, scratch_dir, &d);
        check(!err, err ? rondo_error_text() : "opens", w);
        if (err)
            break;
        part(m, model, weights ? weights : c.type, group ? group : 32);
        check(!fingerprint || fingerprint == model->fingerprint, "one fingerprint", w);
        fingerprint = model->fingerprint;
        rondo_model_close(model);
    }
    static const char *const types[] = { "as stored", "f32", "bf16", "f16", "q8" };
    ok(!wrong, "%s, stored as %s: held %s, groups of %d, %d x %d parts", c.name, types[c.type], types[weights], group, tp, cp);
    rondo_context_destroy(ctx);
    kit_free(m);
}

/* ---- folders of numbers with scales ---- */

static int stored_group;      /* inputs of a row that share a scale; 0: all of them */
static int scale_type, flat;
static const char *damage;

static bool is_quantised(const char *name)
{
    return strstr(name, "_proj.weight") != NULL;
}

/* The folder again, layers as I8; the model's values become what they are then. */
static void write_int8(struct kit_model *m)
{
    rondo_array *arrays = calloc((size_t)m->count * 2, sizeof *arrays);
    char (*names)[100] = calloc((size_t)m->count, sizeof *names);
    int64_t (*shapes)[2] = calloc((size_t)m->count, sizeof *shapes), count = 0;
    rondo_arrays_writer *writer = NULL;
    if (!arrays || !names || !shapes)
        scratch_die("no memory");
    for (int i = 0; i < m->count; i++) {
        struct kit_tensor *t = &m->tensors[i];
        const bool q = is_quantised(t->name);
        arrays[count++] = (rondo_array){ .name = t->name, .type = q ? RONDO_ARRAY_I8 : m->config.type, .dims = t->dims, .shape = t->shape };
        if (!q)
            continue;
        snprintf(names[i], sizeof names[i], "%s%s", t->name, damage && !strcmp(damage, "name") ? "_size" : "_scale");
        shapes[i][0] = t->shape[0];
        shapes[i][1] = stored_group ? t->shape[1] / stored_group : 1;
        if (damage && !strcmp(damage, "shape"))
            shapes[i][1] = 3;
        arrays[count++] = (rondo_array){ .name = names[i], .type = scale_type, .dims = flat ? 1 : 2, .shape = shapes[i] };
    }
    int err = rondo_arrays_create(&writer, scratch_path("model.safetensors"), arrays, count);
    count = 0;
    for (int i = 0; i < m->count && !err; i++) {
        struct kit_tensor *t = &m->tensors[i];
        char *raw = calloc((size_t)t->count, 4), *scales = calloc((size_t)t->count, 4);
        if (!raw || !scales)
            scratch_die("no memory");
        if (!is_quantised(t->name)) {
            for (int64_t k = 0; k < t->count; k++)
                kit_store(raw, k, m->config.type, t->values[k]);
            err = rondo_arrays_write(writer, count++, 0, (size_t)t->count * rondo_type_size(m->config.type), raw);
        } else {
            const int64_t group = t->shape[1] / shapes[i][1], groups = t->shape[0] * shapes[i][1];
            for (int64_t g = 0; g < groups && !(damage && !strcmp(damage, "shape")); g++) {
                double most = 0.0, *x = t->values + g * group;
                for (int64_t k = 0; k < group; k++)
                    most = fmax(most, fabs(x[k]));
                const double scale = rounded(most / 127.0, scale_type);
                kit_store(scales, g, scale_type, scale);
                for (int64_t k = 0; k < group; k++) {
                    const double n = fmax(-128.0, fmin(127.0, rint(x[k] / scale)));
                    raw[g * group + k] = (char)(int8_t)n;
                    x[k] = (double)((float)n * (float)scale);
                }
            }
            err = rondo_arrays_write(writer, count++, 0, (size_t)t->count, raw);
            err = err ? err : rondo_arrays_write(writer, count++, 0, (size_t)groups * rondo_type_size(scale_type), scales);
        }
        free(raw);
        free(scales);
    }
    err = err ? err : rondo_arrays_commit(writer);
    if (err)
        scratch_die("cannot write a folder of 8 bits");
    free(arrays);
    free(names);
    free(shapes);
}

static void write_quant_config(void)
{
    size_t n;
    char *text = scratch_read(scratch_path("config.json"), &n), more[4096];
    n = strcspn(text, "}") == n ? n : n - 1;
    while (n && text[n] != '}')
        n--;
    snprintf(more, sizeof more, "%.*s, \"quantization_config\": {\"quant_method\": \"compressed-tensors\", \"format\": \"int-quantized\", \"config_groups\": "
             "{\"group_0\": {\"targets\": [\"Linear\"], \"weights\": {\"num_bits\": 8, \"type\": \"int\", \"strategy\": \"%s\", \"symmetric\": true}}}}}",
             (int)n, text, stored_group ? "group" : "channel");
    scratch_text("config.json", more);
    free(text);
}

static struct kit_model *int8_folder(const struct kit_config *c, uint64_t seed)
{
    struct kit_model *m = kit_folder(c, seed);
    write_quant_config();
    write_int8(m);
    return m;
}

/* Every value, held as it is and as other types, of whole models and parts. */
static void stored(struct kit_config c, int group, int type, int is_flat, int weights, int tp)
{
    rondo_context *ctx = NULL;
    stored_group = group;
    scale_type = type;
    flat = is_flat;
    struct kit_model *m = int8_folder(&c, 77);
    wrong = 0;
    check(!rondo_context_create(&ctx, NULL), "a context", 0);
    for (int t = 0; t < tp; t++) {
        rondo_model *model = NULL;
        rondo_model_desc d = RONDO_MODEL_DESC_INIT;
        d.no_tokenizer = 1;
        d.tp_rank = t;
        d.tp_ranks = tp;
        d.weights = weights;
        const int err = rondo_model_open(&model, ctx, scratch_dir, &d);
        check(!err, err ? rondo_error_text() : "opens", t);
        if (err)
            break;
        const struct rondo_split *s = &model->split;
        for (int i = 0; i < c.layers; i++) {
            const struct rondo_layer *y = &model->layers[i];
            const struct {
                const char *name;
                const rondo_linear *linear;
                int64_t in, first, column;
            } layers[] = {
                { "self_attn.q_proj.weight", y->q, c.hidden, s->q_first, 0 },
                { "self_attn.v_proj.weight", y->v, c.hidden, s->kv_first, 0 },
                { "self_attn.o_proj.weight", y->o, c.heads * c.head_dim, 0, (int64_t)s->o_begin[t] * c.head_dim },
                { "mlp.up_proj.weight", y->up, c.hidden, s->mlp_first, 0 },
                { "mlp.down_proj.weight", y->down, c.intermediate, 0, s->mlp_first },
            };
            for (size_t k = 0; k < sizeof layers / sizeof *layers; k++) {
                const double *values = kit_values(m, i, layers[k].name);
                const int64_t out = k == 2 || k == 4 ? c.hidden : k == 0 ? c.heads * c.head_dim : k == 1 ? c.kv_heads * c.head_dim : c.intermediate;
                double *want = held(values, out, layers[k].in, 1, weights && weights != RONDO_Q8 ? weights : RONDO_F32, 0);
                matrix(layers[k].name, layers[k].linear, want, weights ? weights : RONDO_Q8, layers[k].first, layers[k].in, layers[k].column);
                free(want);
            }
        }
        check(model->embedding_type == c.type, "the embedding stays", model->embedding_type);
        rondo_model_close(model);
    }
    ok(!wrong, "%s: 8 bits with %s scales, groups of %d%s, held as %d, %d parts", c.name, type == RONDO_F32 ? "f32" : type == RONDO_BF16 ? "bf16" : "f16",
       group, is_flat ? ", flat" : "", weights, tp);
    rondo_context_destroy(ctx);
    kit_free(m);
}

static void refused(struct kit_config c, int group, const char *how, int code, const char *says)
{
    rondo_context *ctx = NULL;
    rondo_model *model = NULL;
    rondo_model_desc d = RONDO_MODEL_DESC_INIT;
    d.no_tokenizer = 1;
    stored_group = group;
    scale_type = RONDO_F32;
    flat = 0;
    damage = how;
    struct kit_model *m = int8_folder(&c, 5);
    damage = NULL;
    if (how && !strcmp(how, "config"))
        kit_write_config(&c);
    int err = rondo_context_create(&ctx, NULL);
    is_int(err ? err : rondo_model_open(&model, ctx, scratch_dir, &d), code, "%s: refused", says);
    ok(!model && strstr(rondo_error_text(), says) != NULL, "by name: %s", rondo_error_text());
    rondo_context_destroy(ctx);
    kit_free(m);
}

/* ---- what comes of them ---- */

#define TOKENS 60

static void answers(const char *name, const struct kit_model *m, int weights)
{
    int32_t tokens[TOKENS];
    const int vocabulary = m->config.vocabulary;
    double *want = malloc((size_t)TOKENS * (size_t)vocabulary * sizeof *want);
    float *got = malloc((size_t)TOKENS * (size_t)vocabulary * sizeof *got);
    if (!want || !got)
        scratch_die("no memory");
    kit_tokens(tokens, TOKENS, vocabulary, 4);
    kit_oracle(m, tokens, TOKENS, TOKENS, want);
    uint64_t hash = 0;
    for (int tp = 1; tp <= 3; tp++) {
        struct kit_parts parts;
        rondo_model_desc like = RONDO_MODEL_DESC_INIT;
        like.weights = weights;
        struct kit_score s = { .parts = &parts, .desc = RONDO_LM_DESC_INIT, .tokens = tokens, .count = TOKENS, .logits = got, .vocabulary = vocabulary };
        int err = kit_open_parts(&parts, scratch_dir, tp, 1, 0, &like);
        err = err ? err : kit_run_score(&s, tp);
        double worst = 0.0;
        for (int i = 0; i < TOKENS * vocabulary && tp == 1; i++)
            worst = worse(worst, fabs((double)got[i] - want[i]));
        if (tp == 1)
            diag("%s: largest error %.2g", name, worst);
        ok(!err && worst <= 2e-4 && (tp == 1 || s.scores[0].hash == hash), "%s, %d ranks: %s", name, tp, tp == 1 ? "near the fp64 program" : "the same bits");
        hash = s.scores[0].hash;
        kit_close_parts(&parts);
    }
    free(want);
    free(got);
}

int main(void)
{
    scratch_make("weights");
    struct kit_config c = kit_defaults("llama");
    c.layers = 1;
    for (int type = RONDO_F32; type <= RONDO_F16; type++)
        for (int weights = 0; weights <= RONDO_Q8; weights++) {
            c.type = type;
            c.tied = weights % 2;
            open_as(c, weights, 0, 1, 1);
            open_as(c, weights, weights == RONDO_Q8 ? 10 : 0, 3, 1);
        }
    c.type = RONDO_F32;
    c.tied = 1;
    open_as(c, RONDO_Q8, 64, 2, 2);
    open_as(c, RONDO_BF16, 0, 1, 3);
    c = kit_defaults("a layer of several pieces, some to a thread");
    c.layers = 1;
    c.hidden = 300;
    c.intermediate = 4300;
    open_as(c, RONDO_BF16, 0, 1, 1);
    open_as(c, RONDO_Q8, 0, 2, 1);

    c = kit_defaults("llama");
    c.hidden = 64;
    c.intermediate = 512;
    c.head_dim = 32;
    c.type = RONDO_BF16;
    for (int tp = 1; tp <= 3; tp++) {
        stored(c, 0, RONDO_BF16, 0, 0, tp);
        stored(c, 32, RONDO_F16, 0, 0, tp);
        stored(c, 64, RONDO_F32, 0, 0, tp);
    }
    stored(c, 0, RONDO_F32, 1, 0, 2);
    stored(c, 0, RONDO_BF16, 0, RONDO_F32, 2);
    stored(c, 32, RONDO_BF16, 0, RONDO_BF16, 3);
    stored(c, 16, RONDO_F32, 0, RONDO_Q8, 1);
    stored_group = 32;
    scale_type = RONDO_BF16;
    struct kit_model *m = int8_folder(&c, 9);
    answers("8 bits as stored", m, 0);
    kit_free(m);
    m = kit_folder(&c, 10);
    for (int i = 0; i < m->count; i++) {      /* the model becomes what it is held as */
        struct kit_tensor *t = &m->tensors[i];
        const int leaves = strstr(t->name, "o_proj") ? c.heads : strstr(t->name, "down_proj") ? 16 : 1;
        if (t->dims != 2 || !strcmp(t->name, "model.embed_tokens.weight"))
            continue;
        double *values = held(t->values, t->shape[0], t->shape[1], leaves, RONDO_Q8, 32);
        free(t->values);
        t->values = values;
    }
    answers("8 bits made here", m, RONDO_Q8);
    kit_free(m);

    refused(c, 32, "config", RONDO_ENOTSUP, "quantization_config");
    refused(c, 32, "name", RONDO_EFORMAT, "weight_scale");
    refused(c, 32, "shape", RONDO_EFORMAT, "divide");
    c.head_dim = 20;
    c.hidden = 80;
    refused(c, 16, NULL, RONDO_ENOTSUP, "leaves");
    c.head_dim = 34;
    c.hidden = 136;
    c.intermediate = 272;
    refused(c, 17, NULL, RONDO_ENOTSUP, "q_proj.weight_scale\" has a scale for 17 inputs");
    stored(c, 17, RONDO_F32, 0, RONDO_F32, 2);
    scratch_remove();
    return done();
}
