/* SPDX-License-Identifier: BSD-2-Clause */
#include <stdio.h>
#include <rondo.h>

static int body(rondo_context *rank, void *arg)                     /* runs once on every rank */
{
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;             /* what is zero means the default */
    rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
    rondo_attention *plan;                                          /* the same on every rank; says what it will cost */
    int code;

    d.heads = 32, d.kv_heads = 8, d.head_dim = 128, d.tokens = 65536, d.causal = 1;
    if ((code = rondo_attention_create(&plan, rank, &d)))
        return code;                                                /* rondo_error_text() has a sentence */
    if (!(code = rondo_attention_query(plan, &info)))
        printf("rank %d holds %lld queries and will send %.1f MB\n", rondo_context_rank(rank), (long long)info.q_rows,
               (double)info.bytes / 1e6);
    /* fill q, k, v of the rows of rondo_attention_spans(plan, ...), then: rondo_attention_execute(plan, &io, NULL) */
    (void)arg;
    rondo_attention_destroy(plan);
    return code;
}

int main(void)
{
    return rondo_run_threads(4, body, NULL) != 0;                   /* or rondo_launch() with "mpi" */
}

