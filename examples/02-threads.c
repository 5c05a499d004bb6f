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
    rondo_tensor q, k, v, out;   /* the whole sequence: all ranks read q, k and v, each writes its own rows of out */
};

/* Runs on every rank. What it returns, if not 0, stops the others too. */
static int body(rondo_context *rank, void *arg)
{
    const struct job *job = arg;
    rondo_attention_desc desc = RONDO_ATTENTION_DESC_INIT;
    rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
    rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
    rondo_attention *plan = NULL;
    float *q = NULL, *k = NULL, *v = NULL, *out = NULL;
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
    io.q = rondo_tensor_dense(q, RONDO_F32, 3, q_shape);
    io.k = rondo_tensor_dense(k, RONDO_F32, 3, kv_shape);
    io.v = rondo_tensor_dense(v, RONDO_F32, 3, kv_shape);
    io.out = rondo_tensor_dense(out, RONDO_F32, 3, q_shape);

    /* this rank's rows of sequence 0: queries (0) and keys (1), packed (-1) */
    if ((code = rondo_attention_take(plan, 0, 0, &job->q, &io.q, -1)) || (code = rondo_attention_take(plan, 0, 1, &job->k, &io.k, -1)) ||
        (code = rondo_attention_take(plan, 0, 1, &job->v, &io.v, -1)) || (code = rondo_attention_execute(plan, &io, NULL)))
        goto done;
    code = rondo_attention_put(plan, 0, 0, &job->out, &io.out, -1);
done:
    free(q), free(k), free(v), free(out);
    rondo_attention_destroy(plan);
    return code;
}

int main(void)
{
    static float q[TOKENS * HEADS * DIM], k[TOKENS * KV_HEADS * DIM], v[TOKENS * KV_HEADS * DIM];
    static float one[TOKENS * HEADS * DIM], many[TOKENS * HEADS * DIM];
    const int64_t q_shape[3] = { TOKENS, HEADS, DIM }, kv_shape[3] = { TOKENS, KV_HEADS, DIM };
    const int ranks[] = { 1, 2, 3, 5 };
    struct job job;
    int differ = 0;

    for (int i = 0; i < TOKENS * HEADS * DIM; i++)
        q[i] = (float)(i * 7919 % 1009) / 500.0f - 1.0f;
    for (int i = 0; i < TOKENS * KV_HEADS * DIM; i++) {
        k[i] = (float)(i * 6007 % 1013) / 500.0f - 1.0f;
        v[i] = (float)(i * 4001 % 1019) / 500.0f - 1.0f;
    }
    job.q = rondo_tensor_dense(q, RONDO_F32, 3, q_shape);
    job.k = rondo_tensor_dense(k, RONDO_F32, 3, kv_shape);
    job.v = rondo_tensor_dense(v, RONDO_F32, 3, kv_shape);
    for (int i = 0; i < 4; i++) {
        job.out = rondo_tensor_dense(i ? many : one, RONDO_F32, 3, q_shape);
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
