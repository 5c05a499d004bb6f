/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Version 1 of the numerics contract, frozen: results of attention, with every term of its scores, and of the layers have the hashes
 * that were recorded when the version was declared, those of terms when they came to it. Every other test compares the code with itself
 * or within a bound; this one notices a change that all builds make together. Where it fails on purpose, RONDO_NUMERICS and
 * rondo-numerics(7) must change too.
 */
#include <math.h>

#include "rondo.h"
#include "tap.h"

static uint32_t stream;
static const char *isa;

/* Numbers in (-1, 1), or with `wild` over many magnitudes: by Philox, so the same everywhere. */
static float *numbers(int64_t count, int wild)
{
    float *x = malloc((size_t)count * sizeof *x);
    stream++;
    for (int64_t i = 0; x && i < count; i++) {
        const uint32_t key[2] = { 2900, stream }, counter[4] = { (uint32_t)i, 0, 0, 0 };
        uint32_t r[4];
        rondo_philox(r, counter, key);
        x[i] = (float)(int32_t)r[0] * 0x1p-31f;
        for (uint32_t j = 0; wild && j < r[1] % 40; j++)
            x[i] *= r[1] & 0x10000 ? 0.5f : 2.0f;
    }
    return x;
}

static uint64_t hash_of(const void *x, int type, int64_t count)
{
    uint64_t hash = 0;
    rondo_hash_add(&hash, x, rondo_type_size(type), 0, count);
    return rondo_hash_close(hash, 0, 0, &count, 1);
}

static void frozen(uint64_t got, uint64_t want, const char *what)
{
    if (!ok(got == want, "%s, %s: the recorded bits", isa, what))
        diag("got 0x%016llx, recorded 0x%016llx", (unsigned long long)got, (unsigned long long)want);
}

struct shape {
    int64_t tokens, cached, heads, kv_heads, dim, value_dim;
    int causal, type, leaf;
    int64_t left;   /* < 0: no window */
    double spread;
    uint64_t want;
    const char *what;
    int terms;      /* what a score has besides q.k */
};
enum { CAP = 1, ALIBI = 2, BIAS = 4, SINKS = 8, DROP = 16, PROBS = 32 };

static int attention(rondo_context *ctx, const struct shape *s)
{
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
    rondo_attention *plan = NULL;
    const int64_t keys = s->tokens + s->cached;
    const int64_t q_shape[3] = { s->tokens, s->heads, s->dim }, k_shape[3] = { keys, s->kv_heads, s->dim };
    const int64_t v_shape[3] = { keys, s->kv_heads, s->value_dim }, o_shape[3] = { s->tokens, s->heads, s->value_dim };
    const int64_t q_count = q_shape[0] * q_shape[1] * q_shape[2], k_count = keys * s->kv_heads * s->dim;
    const int64_t v_count = keys * s->kv_heads * s->value_dim, o_count = s->tokens * s->heads * s->value_dim, rows = s->tokens * s->heads;
    float *q = numbers(q_count, 0), *k = numbers(k_count, 0), *v = numbers(v_count, 1), *lse = malloc((size_t)rows * sizeof *lse);
    uint16_t *narrow[3] = { malloc((size_t)q_count * 2), malloc((size_t)k_count * 2), malloc((size_t)v_count * 2) };
    float *out = malloc((size_t)o_count * sizeof *out);
    const int64_t p_shape[3] = { s->tokens, s->heads, keys }, p_count = s->terms ? rows * keys : 0;
    float *slopes = NULL, *bias = NULL, *sinks = NULL, *probs = malloc((size_t)(p_count + 1) * sizeof *probs);
    int code = 0;

    for (int64_t i = 0; i < q_count; i++)
        q[i] *= (float)s->spread;
    d.heads = s->heads, d.kv_heads = s->kv_heads, d.head_dim = s->dim, d.value_dim = s->value_dim;
    d.tokens = s->tokens, d.cached = s->cached, d.causal = s->causal, d.leaf = s->leaf;
    d.windowed = s->left >= 0, d.window_left = s->left >= 0 ? s->left : 0, d.window_right = s->left >= 0 ? -1 : 0;
    d.q_type = d.kv_type = d.out_type = s->type;
    io.q = rondo_tensor_dense(q, s->type, 3, q_shape);
    io.k = rondo_tensor_dense(k, s->type, 3, k_shape);
    io.v = rondo_tensor_dense(v, s->type, 3, v_shape);
    if (s->terms & CAP)
        d.softcap = 1.75;
    if (s->terms & ALIBI) {
        d.alibi = 1;
        io.alibi = rondo_tensor_dense(slopes = numbers(s->heads, 0), RONDO_F32, 1, &s->heads);
    }
    if (s->terms & BIAS) {
        d.bias = (int32_t)s->heads;
        io.bias = rondo_tensor_dense(bias = numbers(p_count, 0), RONDO_F32, 3, p_shape);
        for (int64_t i = 7; i < p_count; i += 13)
            bias[i] = -INFINITY;
    }
    if (s->terms & SINKS) {
        d.sinks = 1;
        io.sinks = rondo_tensor_dense(sinks = numbers(s->heads, 0), RONDO_F32, 1, &s->heads);
    }
    if (s->terms & DROP) {
        d.dropout = 0.15;
        io.seed = UINT64_C(0x1234567890abcdef);
    }
    if (s->terms & PROBS) {
        d.probs = 1;
        io.probs = rondo_tensor_dense(probs, RONDO_F32, 3, p_shape);
    }
    if (s->type != RONDO_F32) {
        code = rondo_convert(ctx, q_count, RONDO_F32, q, s->type, narrow[0]);
        code = code ? code : rondo_convert(ctx, k_count, RONDO_F32, k, s->type, narrow[1]);
        code = code ? code : rondo_convert(ctx, v_count, RONDO_F32, v, s->type, narrow[2]);
        io.q.data = narrow[0], io.k.data = narrow[1], io.v.data = narrow[2];
    }
    io.out = rondo_tensor_dense(out, s->type, 3, o_shape);
    io.lse = rondo_tensor_dense(lse, RONDO_F32, 2, q_shape);
    if (!code && !(code = rondo_attention_create(&plan, ctx, &d)) && !(code = rondo_attention_execute(plan, &io, NULL)))
        frozen(hash_of(out, s->type, o_count) ^ hash_of(lse, RONDO_F32, rows) << 1 ^ (s->terms & PROBS ? hash_of(probs, RONDO_F32, p_count) << 2 : 0),
               s->want, s->what);
    rondo_attention_destroy(plan);
    free(slopes), free(bias), free(sinks), free(probs);
    free(q), free(k), free(v), free(out), free(lse), free(narrow[0]), free(narrow[1]), free(narrow[2]);
    return code;
}

static int layers(rondo_context *ctx)
{
    enum { ROWS = 5, IN = 1300, OUT = 70 };
    rondo_linear_desc d = RONDO_LINEAR_DESC_INIT;
    rondo_linear *linear = NULL;
    float *x = numbers(ROWS * IN, 0), *w = numbers(IN * OUT, 0), *b = numbers(OUT, 0), *y = malloc(ROWS * IN * sizeof *y);
    double sums[ROWS];
    int code = 0;

    for (int pass = 0; pass < 2 && !code; pass++) {
        d.in = IN, d.out = OUT, d.type = RONDO_F32, d.leaves = pass ? 7 : 0;
        if (!(code = rondo_linear_create(&linear, ctx, &d)) && !(code = rondo_linear_load(linear, 0, OUT, w)) &&
            !(code = rondo_linear_execute(linear, ctx, ROWS, x, IN, y, OUT, b, 0)))
            frozen(hash_of(y, RONDO_F32, ROWS * OUT), pass ? UINT64_C(0x13dc6f74154fb604) : UINT64_C(0xcd62213d626c9fa5), pass ? "linear, 7 leaves" : "linear");
        rondo_linear_destroy(linear);
        linear = NULL;
    }
    if (!code && !(code = rondo_rmsnorm(ctx, ROWS, IN, x, w, 1e-5f, y)))
        frozen(hash_of(y, RONDO_F32, ROWS * IN), UINT64_C(0x26b1d4ffd03d73a1), "rmsnorm");
    if (!code && !(code = rondo_swiglu(ctx, ROWS * IN, x, w, y)))
        frozen(hash_of(y, RONDO_F32, ROWS * IN), UINT64_C(0x80e55cf557071c83), "swiglu");
    if (!code && !(code = rondo_sigmoid_mul(ctx, ROWS * IN, x, w, y)))
        frozen(hash_of(y, RONDO_F32, ROWS * IN), UINT64_C(0x1bb2ad1ab69381e9), "sigmoid_mul");
    if (!code && !(code = rondo_short_conv(ctx, ROWS, IN, 4, x, IN, w, NULL, 1, y, IN)))
        frozen(hash_of(y, RONDO_F32, ROWS * IN), UINT64_C(0x921189078ba82034), "short_conv");
    if (!code && !(code = rondo_rope(ctx, ROWS, 5, 64, x, IN, 260, w)))
        frozen(hash_of(x, RONDO_F32, ROWS * IN), UINT64_C(0xbc8d07dce323ea50), "rope");
    if (!code && !(code = rondo_logsumexp(ctx, ROWS, IN, x, IN, sums))) {
        uint64_t hash = 0;
        const int64_t rows = ROWS;
        rondo_hash_add(&hash, sums, sizeof *sums, 0, ROWS);
        frozen(rondo_hash_close(hash, 0, 0, &rows, 1), UINT64_C(0xc5dae58496e13593), "logsumexp");
    }
    free(x), free(w), free(b), free(y);
    return code;
}

int main(void)
{
    static const struct shape shapes[] = {
        { 300, 0, 4, 2, 64, 64, 1, RONDO_F32, 0, -1, 1.0, UINT64_C(0xc0f3f7952ec2a02e), "causal, leaves of 128", 0 },
        { 70, 431, 2, 1, 33, 40, 1, RONDO_F32, 8, -1, 4.0, UINT64_C(0xa6ae494a0c8686ee), "cached keys, odd head size, leaves of 8", 0 },
        { 200, 0, 2, 2, 128, 128, 1, RONDO_F32, 16, 50, 30.0, UINT64_C(0xa149eaeb199d2107), "sliding window, sharp scores", 0 },
        { 90, 90, 3, 1, 16, 16, 0, RONDO_BF16, 32, -1, 2.0, UINT64_C(0xa838d7f00b8c7e0c), "bf16", 0 },
        { 90, 10, 3, 3, 24, 24, 1, RONDO_F16, 64, -1, 2.0, UINT64_C(0xd719ca9027a2ed67), "f16", 0 },
    }, with_terms[] = {
        { 60, 41, 4, 2, 24, 24, 1, RONDO_F32, 16, -1, 3.0, UINT64_C(0x4417017cb1d8835e), "softcap", CAP },
        { 60, 41, 4, 2, 24, 24, 0, RONDO_F32, 16, -1, 3.0, UINT64_C(0x911247cf384ee725), "ALiBi", ALIBI },
        { 60, 41, 4, 2, 24, 24, 1, RONDO_F32, 16, -1, 3.0, UINT64_C(0x0f9bd364fe53512e), "bias", BIAS },
        { 60, 41, 4, 2, 24, 24, 1, RONDO_F32, 16, -1, 3.0, UINT64_C(0xfdba5e9242b1da04), "ALiBi, then bias", ALIBI | BIAS },
        { 60, 41, 4, 2, 24, 24, 1, RONDO_F32, 16, -1, 3.0, UINT64_C(0xe5368c7fe20c6e05), "sinks", SINKS },
        { 60, 41, 4, 2, 24, 24, 1, RONDO_F32, 16, -1, 3.0, UINT64_C(0xc7f5cf068cd15f71), "dropout", DROP },
        { 60, 41, 4, 2, 33, 17, 1, RONDO_BF16, 8, 37, 3.0, UINT64_C(0x695f0e009659641a), "every term, and probabilities", CAP | ALIBI | BIAS | SINKS | DROP | PROBS },
    };
    int usable;

    is_int(RONDO_NUMERICS, 1, "these are the bits of version 1");
    for (int i = 0; (isa = rondo_isa_name(i, &usable)); i++) {
        rondo_context_desc alone = RONDO_CONTEXT_DESC_INIT;
        rondo_context *ctx = NULL;
        if (!usable) {
            skip(1, "%s cannot run here", isa);
            continue;
        }
        stream = 0;
        alone.threads = 1;
        alone.isa = isa;
        int code = rondo_context_create(&ctx, &alone);
        for (size_t j = 0; j < sizeof shapes / sizeof *shapes && !code; j++)
            code = attention(ctx, &shapes[j]);
        if (!code)
            code = layers(ctx);
        for (size_t j = 0; j < sizeof with_terms / sizeof *with_terms && !code; j++)
            code = attention(ctx, &with_terms[j]);
        if (!ok(!code, "%s: all of it ran", isa))
            diag("%s: %s", rondo_error_name(code), rondo_error_text());
        rondo_context_destroy(ctx);
    }
    return done();
}
