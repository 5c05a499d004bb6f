/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Keys and values of 8 bits over ranks: every algorithm, layout, number of ranks and way of cutting gives the bits that one rank has with floats
 * that are number times scale. Each rank takes its rows from the whole arrays by rondo_attention_take(), so that moving them is tried as well.
 */
#include <stdbool.h>

#include "t/attention.h"

enum { TOKENS = 300, CACHED = 84, KEYS = TOKENS + CACHED, HEADS = 6, KV = 3, DIM = 24, VALUES = 40, ROW_K = KV * (DIM + 4), ROW_V = KV * (VALUES + 4) };

static float q[TOKENS * HEADS * DIM], k[KEYS * KV * DIM], v[KEYS * KV * VALUES], want[TOKENS * HEADS * VALUES], got[TOKENS * HEADS * VALUES];
static char k8[KEYS * ROW_K], v8[KEYS * ROW_V];

struct setting {
    int algorithm, layout, kv_type, one_query;
    float *out;
};

static int body(rondo_context *ctx, void *arg)
{
    const struct setting *s = arg;
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
    rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
    rondo_attention *plan = NULL;
    const bool q8 = s->kv_type == RONDO_Q8;
    const int64_t tokens = s->one_query ? 1 : TOKENS;
    d.heads = HEADS;
    d.kv_heads = KV;
    d.head_dim = DIM;
    d.value_dim = VALUES;
    d.tokens = tokens;
    d.cached = KEYS - tokens;
    d.causal = 1;
    d.leaf = 16;
    d.kv_type = s->kv_type;
    d.algorithm = s->algorithm;
    d.layout = s->layout;
    int err = rondo_attention_create(&plan, ctx, &d);
    if (!err)
        err = rondo_attention_query(plan, &info);
    if (err)
        return err;
    char *mine_q = malloc((size_t)(info.q_rows + 1) * HEADS * DIM * 4), *mine_o = malloc((size_t)(info.q_rows + 1) * HEADS * VALUES * 4);
    char *mine_k = malloc((size_t)(info.kv_rows + 1) * KV * DIM * 4 + 64), *mine_v = malloc((size_t)(info.kv_rows + 1) * KV * VALUES * 4 + 64);
    io.q = rondo_tensor_dense(mine_q, RONDO_F32, 3, (int64_t[]){ info.q_rows, HEADS, DIM });
    io.out = rondo_tensor_dense(mine_o, RONDO_F32, 3, (int64_t[]){ info.q_rows, HEADS, VALUES });
    io.k = rondo_tensor_dense(mine_k, s->kv_type, 3, (int64_t[]){ info.kv_rows, KV, DIM });
    io.v = rondo_tensor_dense(mine_v, s->kv_type, 3, (int64_t[]){ info.kv_rows, KV, VALUES });
    const rondo_tensor whole_q = rondo_tensor_dense(q + (size_t)(TOKENS - tokens) * HEADS * DIM, RONDO_F32, 3, (int64_t[]){ tokens, HEADS, DIM });
    const rondo_tensor whole_k = rondo_tensor_dense(q8 ? (void *)k8 : (void *)k, s->kv_type, 3, (int64_t[]){ KEYS, KV, DIM });
    const rondo_tensor whole_v = rondo_tensor_dense(q8 ? (void *)v8 : (void *)v, s->kv_type, 3, (int64_t[]){ KEYS, KV, VALUES });
    const rondo_tensor whole_o = rondo_tensor_dense(s->out, RONDO_F32, 3, (int64_t[]){ tokens, HEADS, VALUES });
    if (!err)
        err = rondo_attention_take(plan, 0, 0, &whole_q, &io.q, 0);
    if (!err)
        err = rondo_attention_take(plan, 0, 1, &whole_k, &io.k, 0);
    if (!err)
        err = rondo_attention_take(plan, 0, 1, &whole_v, &io.v, 0);
    if (!err)
        err = rondo_attention_execute(plan, &io, NULL);
    if (!err)
        err = rondo_attention_put(plan, 0, 0, &whole_o, &io.out, 0);
    rondo_attention_destroy(plan);
    free(mine_q);
    free(mine_k);
    free(mine_v);
    free(mine_o);
    return err;
}

static int make(rondo_context *ctx, void *arg)
{
    uint64_t x = 1;
    (void)arg;
    for (size_t i = 0; i < sizeof q / sizeof *q; i++)
        q[i] = (float)((int)((x = x * 6364136223846793005u + 1442695040888963407u) >> 40) % 2001 - 1000) / 400.0f;
    for (size_t i = 0; i < sizeof k / sizeof *k; i++)
        k[i] = (float)((int)((x = x * 6364136223846793005u + 1442695040888963407u) >> 40) % 2001 - 1000) / 500.0f;
    for (size_t i = 0; i < sizeof v / sizeof *v; i++)
        v[i] = (float)((int)((x = x * 6364136223846793005u + 1442695040888963407u) >> 40) % 2001 - 1000) / 300.0f;
    int err = rondo_convert_rows(ctx, (int64_t)KEYS * KV, DIM, RONDO_F32, k, DIM * 4, RONDO_Q8, k8, DIM + 4);
    err = err ? err : rondo_convert_rows(ctx, (int64_t)KEYS * KV, VALUES, RONDO_F32, v, VALUES * 4, RONDO_Q8, v8, VALUES + 4);
    err = err ? err : rondo_convert_rows(ctx, (int64_t)KEYS * KV, DIM, RONDO_Q8, k8, DIM + 4, RONDO_F32, k, DIM * 4);
    return err ? err : rondo_convert_rows(ctx, (int64_t)KEYS * KV, VALUES, RONDO_Q8, v8, VALUES + 4, RONDO_F32, v, VALUES * 4);
}

int main(void)
{
    static const int layouts[] = { RONDO_CONTIGUOUS, RONDO_ZIGZAG, RONDO_STRIPED };
    ok(rondo_run_threads(1, make, NULL) == 0, "rows become Q8 and come back: %s", rondo_error_text());
    for (int one = 0; one < 2; one++) {
        const size_t bytes = (size_t)(one ? 1 : TOKENS) * HEADS * VALUES * sizeof(float);
        struct setting floats = { RONDO_ALGORITHM_AUTO, RONDO_CONTIGUOUS, RONDO_F32, one, want };
        ok(rondo_run_threads(1, body, &floats) == 0, "floats on one rank");
        for (int algorithm = 1; algorithm <= RONDO_MESH; algorithm++)
            for (int ranks = 1; ranks <= 4; ranks++) {
                int same = 1, ran = 0;
                for (size_t i = 0; i < sizeof layouts / sizeof *layouts; i++) {
                    struct setting s = { algorithm, layouts[i], RONDO_Q8, one, got };
                    memset(got, 0xee, bytes);
                    const int err = rondo_run_threads(ranks, body, &s);
                    if (err == RONDO_EINVAL || err == RONDO_ENOTSUP) /* the algorithm cannot so many ranks, heads, or windows */
                        continue;
                    ran++;
                    same &= !err && !memcmp(want, got, bytes);
                    if (err || memcmp(want, got, bytes))
                        diag("%s: code %d %s", rondo_layout_name(layouts[i]), err, err ? rondo_error_text() : "other bits");
                }
                if (ran)
                    ok(same, "%s on %d ranks, %s: the bits of floats, in %d layouts", rondo_algorithm_name(algorithm), ranks,
                       one ? "one query" : "a prefill", ran);
            }
    }
    return done();
}
