/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Attention on one rank: make a context, make a plan, run it. The result is compared with the textbook formula.
 *
 *     cc 01-single.c -o single $(pkg-config --cflags --libs rondo) -lm && ./single
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <rondo.h>

enum { TOKENS = 300, HEADS = 4, KV_HEADS = 2, DIM = 32 };

/* Some numbers between -1 and 1: a function of their index, so that every run and every rank sees the same. */
static void fill(float *x, size_t count, uint32_t which)
{
    const uint32_t key[2] = { 2026, which };
    for (size_t i = 0; i < count; i++) {
        const uint32_t counter[4] = { (uint32_t)(i / 4), 0, 0, 0 };
        uint32_t random[4];
        rondo_philox(random, counter, key);
        x[i] = (float)(random[i % 4] >> 8) / 8388608.0f - 1.0f;
    }
}

/* The largest difference between `out` and softmax(q k^T / sqrt(DIM)) v, computed in double. */
static double compare(const float *q, const float *k, const float *v, const float *out)
{
    double worst = 0;
    for (int t = 0; t < TOKENS; t++)
        for (int h = 0; h < HEADS; h++) {
            const float *row = q + (t * HEADS + h) * DIM;
            int g = h / (HEADS / KV_HEADS);
            double sum = 0, want[DIM] = { 0 };
            for (int s = 0; s <= t; s++) {
                double score = 0;
                for (int d = 0; d < DIM; d++)
                    score += (double)row[d] * k[(s * KV_HEADS + g) * DIM + d];
                score = exp(score / sqrt(DIM));
                sum += score;
                for (int d = 0; d < DIM; d++)
                    want[d] += score * v[(s * KV_HEADS + g) * DIM + d];
            }
            for (int d = 0; d < DIM; d++) {
                double error = fabs(want[d] / sum - out[(t * HEADS + h) * DIM + d]);
                worst = error > worst ? error : worst;
            }
        }
    return worst;
}

int main(void)
{
    rondo_context_desc alone = RONDO_CONTEXT_DESC_INIT;      /* no transport: one rank */
    rondo_attention_desc desc = RONDO_ATTENTION_DESC_INIT;
    rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
    rondo_context *ctx = NULL;
    rondo_attention *plan = NULL;
    const int64_t q_shape[3] = { TOKENS, HEADS, DIM }, kv_shape[3] = { TOKENS, KV_HEADS, DIM };
    size_t q_size = (size_t)TOKENS * HEADS * DIM, kv_size = (size_t)TOKENS * KV_HEADS * DIM;
    float *q = malloc(q_size * sizeof *q), *k = malloc(kv_size * sizeof *k);
    float *v = malloc(kv_size * sizeof *v), *out = malloc(q_size * sizeof *out);
    uint64_t hash = 0;
    double error = 1;
    int code = RONDO_ENOMEM;

    if (!q || !k || !v || !out)
        goto done;
    fill(q, q_size, 1);
    fill(k, kv_size, 2);
    fill(v, kv_size, 3);

    desc.heads = HEADS;
    desc.kv_heads = KV_HEADS;
    desc.head_dim = DIM;
    desc.tokens = TOKENS;
    desc.causal = 1;
    io.q = rondo_tensor_dense(q, RONDO_F32, 3, q_shape);
    io.k = rondo_tensor_dense(k, RONDO_F32, 3, kv_shape);
    io.v = rondo_tensor_dense(v, RONDO_F32, 3, kv_shape);
    io.out = rondo_tensor_dense(out, RONDO_F32, 3, q_shape);

    if ((code = rondo_context_create(&ctx, &alone)) || (code = rondo_attention_create(&plan, ctx, &desc)) ||
        (code = rondo_attention_execute(plan, &io, NULL)))
        goto done;

    rondo_hash_add(&hash, out, sizeof *out, 0, (int64_t)q_size);
    hash = rondo_hash_close(hash, RONDO_ARITHMETIC_F32, 128, q_shape, 3);
    error = compare(q, k, v, out);
    printf("hash %016llx, largest difference from the formula in double precision %.1e\n", (unsigned long long)hash, error);
done:
    if (code)
        fprintf(stderr, "%s: %s\n", rondo_error_name(code), rondo_error_text());
    rondo_attention_destroy(plan);
    rondo_context_destroy(ctx);
    free(q), free(k), free(v), free(out);
    return code || error > 1e-5;
}
