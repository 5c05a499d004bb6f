/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Ranks that are MPI processes, in a program that has initialised MPI itself: process 0 has one long sequence, each process computes
 * attention for its own rows of it, and process 0 gets the result, whose hash does not depend on their number.
 *
 *     mpicc 03-mpi.c -o mpi $(pkg-config --cflags --libs rondo) && mpirun -n 3 ./mpi
 */
#include <stdio.h>
#include <stdlib.h>

#include <rondo_mpi.h>

enum { TOKENS = 1000, HEADS = 4, KV_HEADS = 2, DIM = 32 };

/* An array [rows, heads, DIM] of its own; free() its data. */
static int make(rondo_tensor *t, int64_t rows, int64_t heads)
{
    const int64_t shape[3] = { rows, heads, DIM };
    *t = rondo_tensor_dense(malloc((size_t)(rows * heads * DIM) * sizeof(float) + 1), RONDO_F32, 3, shape);
    return t->data ? 0 : RONDO_ENOMEM;
}

static void fill(rondo_tensor *t, int which)
{
    float *x = t->data;
    for (int64_t i = 0; i < t->shape[0] * t->shape[1] * DIM; i++)
        x[i] = (float)(i * (7919 - 2000 * which) % 1009) / 500.0f - 1.0f;
}

/* whole: q, k, v and out of the sequence, on process 0 only. */
static int run(rondo_context *rank, rondo_tensor whole[4])
{
    rondo_attention_desc desc = RONDO_ATTENTION_DESC_INIT;
    rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
    rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
    rondo_attention *plan = NULL;
    int code;

    desc.heads = HEADS;
    desc.kv_heads = KV_HEADS;
    desc.head_dim = DIM;
    desc.tokens = TOKENS;
    desc.causal = 1;
    if ((code = rondo_attention_create(&plan, rank, &desc)) || (code = rondo_attention_query(plan, &info)) ||
        (code = make(&io.q, info.q_rows, HEADS)) || (code = make(&io.k, info.kv_rows, KV_HEADS)) ||
        (code = make(&io.v, info.kv_rows, KV_HEADS)) || (code = make(&io.out, info.q_rows, HEADS)))
        goto done;
    /* of sequence 0: queries (0) and keys (1) go from process 0 to who computes with them, packed (-1); results come back */
    if ((code = rondo_attention_scatter(plan, 0, 0, 0, &whole[0], &io.q, -1)) ||
        (code = rondo_attention_scatter(plan, 0, 1, 0, &whole[1], &io.k, -1)) ||
        (code = rondo_attention_scatter(plan, 0, 1, 0, &whole[2], &io.v, -1)) || (code = rondo_attention_execute(plan, &io, NULL)))
        goto done;
    code = rondo_attention_gather(plan, 0, 0, 0, &whole[3], &io.out, -1);
done:
    free(io.q.data), free(io.k.data), free(io.v.data), free(io.out.data);
    rondo_attention_destroy(plan);
    return code;
}

int main(int argc, char **argv)
{
    rondo_tensor whole[4] = { RONDO_TENSOR_INIT, RONDO_TENSOR_INIT, RONDO_TENSOR_INIT, RONDO_TENSOR_INIT };
    rondo_context *rank = NULL;
    int provided, code;

    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    code = rondo_mpi_attach(&rank, MPI_COMM_WORLD, NULL);
    for (int i = 0; i < 4 && !code && rondo_context_rank(rank) == 0; i++) {
        code = make(&whole[i], TOKENS, i == 1 || i == 2 ? KV_HEADS : HEADS);
        if (!code)
            fill(&whole[i], i);
    }
    if (!code)
        code = run(rank, whole);
    if (!code && rondo_context_rank(rank) == 0) {
        uint64_t hash = 0;
        rondo_hash_add(&hash, whole[3].data, sizeof(float), 0, (int64_t)TOKENS * HEADS * DIM);
        printf("%d processes: hash %016llx\n", rondo_context_ranks(rank),
               (unsigned long long)rondo_hash_close(hash, RONDO_ARITHMETIC_F32, 128, whole[3].shape, 3));
    }
    if (code) {
        fprintf(stderr, "%s: %s\n", rondo_error_name(code), rondo_error_text());
        rondo_context_revoke(rank, code, NULL);   /* nobody waits for this process */
    }
    rondo_context_destroy(rank);
    MPI_Finalize();
    for (int i = 0; i < 4; i++)
        free(whole[i].data);
    return code != 0;
}
