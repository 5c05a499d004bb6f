/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Ranks that are MPI processes, in a program that has initialised MPI itself: each process computes attention for its own rows
 * of one long sequence, and all add up one hash, which does not depend on their number.
 *
 *     mpicc 03-mpi.c -o mpi $(pkg-config --cflags --libs rondo) && mpirun -n 3 ./mpi
 */
#include <stdio.h>
#include <stdlib.h>

#include <rondo_mpi.h>

enum { TOKENS = 1000, HEADS = 4, KV_HEADS = 2, DIM = 32 };

/* Element i of the whole array `which`: each process makes just the rows that it holds. */
static float element(int which, int64_t i)
{
    return (float)(i * (7919 - 2000 * which) % 1009) / 500.0f - 1.0f;
}

static void make_rows(float *x, int which, const rondo_span *spans, int64_t count, int64_t row_size)
{
    for (int64_t i = 0; i < count; i++)
        for (int64_t j = 0; j < spans[i].count; j++)
            for (int64_t d = 0; d < row_size; d++)
                x[(spans[i].row + j) * row_size + d] = element(which, (spans[i].first + j * spans[i].step) * row_size + d);
}

static int run(rondo_context *rank, uint64_t *hash)
{
    rondo_attention_desc desc = RONDO_ATTENTION_DESC_INIT;
    rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
    rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
    rondo_attention *plan = NULL;
    rondo_span keys[64], queries[64];
    float *q = NULL, *k = NULL, *v = NULL, *out = NULL;
    int64_t key_spans, query_spans;
    int code;

    desc.heads = HEADS;
    desc.kv_heads = KV_HEADS;
    desc.head_dim = DIM;
    desc.tokens = TOKENS;
    desc.causal = 1;
    if ((code = rondo_attention_create(&plan, rank, &desc)) || (code = rondo_attention_query(plan, &info)))
        goto done;
    key_spans = rondo_attention_spans(plan, 0, 1, -1, keys, 64);
    query_spans = rondo_attention_spans(plan, 0, 0, -1, queries, 64);
    code = RONDO_EINVAL;
    if (key_spans < 0 || key_spans > 64 || query_spans < 0 || query_spans > 64)
        goto done;

    const int64_t q_shape[3] = { info.q_rows, HEADS, DIM }, kv_shape[3] = { info.kv_rows, KV_HEADS, DIM };
    code = RONDO_ENOMEM;
    if (!(q = malloc((size_t)info.q_rows * HEADS * DIM * sizeof *q + 1)) ||
        !(k = malloc((size_t)info.kv_rows * KV_HEADS * DIM * sizeof *k + 1)) ||
        !(v = malloc((size_t)info.kv_rows * KV_HEADS * DIM * sizeof *v + 1)) ||
        !(out = malloc((size_t)info.q_rows * HEADS * DIM * sizeof *out + 1)))
        goto done;
    make_rows(q, 0, queries, query_spans, HEADS * DIM);
    make_rows(k, 1, keys, key_spans, KV_HEADS * DIM);
    make_rows(v, 2, keys, key_spans, KV_HEADS * DIM);
    io.q = rondo_tensor_dense(q, RONDO_F32, 3, q_shape);
    io.k = rondo_tensor_dense(k, RONDO_F32, 3, kv_shape);
    io.v = rondo_tensor_dense(v, RONDO_F32, 3, kv_shape);
    io.out = rondo_tensor_dense(out, RONDO_F32, 3, q_shape);
    if ((code = rondo_attention_execute(plan, &io, NULL)))
        goto done;

    /* The hash is a sum over elements by their place in the whole result: each rank adds what it holds. */
    for (int64_t i = 0; i < query_spans; i++)
        for (int64_t j = 0; j < queries[i].count; j++)
            rondo_hash_add(hash, out + (queries[i].row + j) * HEADS * DIM, sizeof *out,
                           (queries[i].first + j * queries[i].step) * HEADS * DIM, HEADS * DIM);
done:
    free(q), free(k), free(v), free(out);
    rondo_attention_destroy(plan);
    return code;
}

int main(int argc, char **argv)
{
    const int64_t shape[3] = { TOKENS, HEADS, DIM };
    MPI_Comm comm = MPI_COMM_WORLD;
    rondo_context *rank = NULL;
    uint64_t mine = 0, sum = 0;
    int provided, code;

    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    code = rondo_mpi_attach(&rank, comm, NULL);
    if (!code)
        code = run(rank, &mine);
    if (code)
        fprintf(stderr, "%s: %s\n", rondo_error_name(code), rondo_error_text());
    MPI_Allreduce(&mine, &sum, 1, MPI_UINT64_T, MPI_SUM, comm);
    if (!code && rondo_context_rank(rank) == 0)
        printf("%d processes: hash %016llx\n", rondo_context_ranks(rank),
               (unsigned long long)rondo_hash_close(sum, RONDO_ARITHMETIC_F32, 128, shape, 3));
    rondo_context_destroy(rank);
    MPI_Finalize();
    return code != 0;
}
