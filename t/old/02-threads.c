/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A ring of threads: the same attention on 1, 2, 3 and 5 ranks of this process, each rank with its own rows only. All answers
 * are compared bit for bit with that of one rank.
 *
 *     cc 02-threads.c -o threads $(pkg-config --cflags --libs rondo) && ./threads
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rondo.h>

enum { TOKENS = 1000, HEADS = 4, KV_HEADS = 2, DIM = 32 };

struct job {
    const float *q, *k, *v;   /* the whole sequence: read by all ranks */
    float *out;               /* each rank writes its own rows */
};

/* Copies rows between the whole sequence and the rows that a rank holds, which are `spans`, one after another. */
static void take(float *mine, const float *whole, const rondo_span *spans, int64_t count, int64_t row_size)
{
    for (int64_t i = 0; i < count; i++)
        for (int64_t j = 0; j < spans[i].count; j++)
            memcpy(mine + (spans[i].row + j) * row_size, whole + (spans[i].first + j * spans[i].step) * row_size,
                   (size_t)row_size * sizeof *mine);
}

static void put(float *whole, const float *mine, const rondo_span *spans, int64_t count, int64_t row_size)
{
    for (int64_t i = 0; i < count; i++)
        for (int64_t j = 0; j < spans[i].count; j++)
            memcpy(whole + (spans[i].first + j * spans[i].step) * row_size, mine + (spans[i].row + j) * row_size,
                   (size_t)row_size * sizeof *mine);
}

/* Runs on every rank. What it returns, if not 0, stops the others too. */
static int body(rondo_context *rank, void *arg)
{
    const struct job *job = arg;
    rondo_attention_desc desc = RONDO_ATTENTION_DESC_INIT;
    rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
    rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
    rondo_attention *plan = NULL;
    rondo_span spans[64];
    float *q = NULL, *k = NULL, *v = NULL, *out = NULL;
    int64_t count;
    int code;

    desc.heads = HEADS;
    desc.kv_heads = KV_HEADS;
    desc.head_dim = DIM;
    desc.tokens = TOKENS;
    desc.causal = 1;
    desc.layout = RONDO_ZIGZAG;
    desc.algorithm = RONDO_PASS_KV;
    if ((code = rondo_attention_create(&plan, rank, &desc)) || (code = rondo_attention_query(plan, &info)))
        goto done;

    const int64_t q_shape[3] = { info.q_rows, HEADS, DIM }, kv_shape[3] = { info.kv_rows, KV_HEADS, DIM };
    size_t q_bytes = (size_t)info.q_rows * HEADS * DIM * sizeof(float);
    size_t kv_bytes = (size_t)info.kv_rows * KV_HEADS * DIM * sizeof(float);
    code = RONDO_ENOMEM;
    if (!(q = malloc(q_bytes + 1)) || !(k = malloc(kv_bytes + 1)) || !(v = malloc(kv_bytes + 1)) || !(out = malloc(q_bytes + 1)))
        goto done;

    count = rondo_attention_spans(plan, 0, 1, -1, spans, 64);   /* keys of sequence 0 on this rank */
    if ((code = count < 0 ? (int)count : count > 64 ? RONDO_EINVAL : 0))
        goto done;
    take(k, job->k, spans, count, KV_HEADS * DIM);
    take(v, job->v, spans, count, KV_HEADS * DIM);
    count = rondo_attention_spans(plan, 0, 0, -1, spans, 64);   /* queries */
    if ((code = count < 0 ? (int)count : count > 64 ? RONDO_EINVAL : 0))
        goto done;
    take(q, job->q, spans, count, HEADS * DIM);

    io.q = rondo_tensor_dense(q, RONDO_F32, 3, q_shape);
    io.k = rondo_tensor_dense(k, RONDO_F32, 3, kv_shape);
    io.v = rondo_tensor_dense(v, RONDO_F32, 3, kv_shape);
    io.out = rondo_tensor_dense(out, RONDO_F32, 3, q_shape);
    if ((code = rondo_attention_execute(plan, &io, NULL)))
        goto done;
    put(job->out, out, spans, count, HEADS * DIM);
done:
    free(q), free(k), free(v), free(out);
    rondo_attention_destroy(plan);
    return code;
}

int main(void)
{
    static float q[TOKENS * HEADS * DIM], k[TOKENS * KV_HEADS * DIM], v[TOKENS * KV_HEADS * DIM];
    static float one[TOKENS * HEADS * DIM], many[TOKENS * HEADS * DIM];
    const int ranks[] = { 1, 2, 3, 5 };
    int differ = 0;

    for (int i = 0; i < TOKENS * HEADS * DIM; i++)
        q[i] = (float)(i * 7919 % 1009) / 500.0f - 1.0f;
    for (int i = 0; i < TOKENS * KV_HEADS * DIM; i++) {
        k[i] = (float)(i * 6007 % 1013) / 500.0f - 1.0f;
        v[i] = (float)(i * 4001 % 1019) / 500.0f - 1.0f;
    }
    for (int i = 0; i < 4; i++) {
        struct job job = { q, k, v, i ? many : one };
        int code = rondo_run_threads(ranks[i], body, &job);
        if (code) {
            fprintf(stderr, "%s: %s\n", rondo_error_name(code), rondo_error_text());
            return 1;
        }
        int same = !i || !memcmp(one, many, sizeof one);
        printf("%d rank%s: %s\n", ranks[i], i ? "s" : "", i ? same ? "the same bits" : "OTHER BITS" : "done");
        differ += !same;
    }
    return differ != 0;
}
