/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Hashes of attention for a fixed list of problems, put together from what each rank holds. Without arguments a test on threads: every
 * rank count gives the hashes of one rank. As `3900-hashes.t mpi` under mpirun, rank 0 prints them; t/3910-mpi-hashes.t compares.
 */
#include "t/attention.h"

static const struct problem problems[] = {
    { .tokens = { 64 }, .heads = 1, .kv_heads = 1, .head_dim = 32, .causal = 1, .leaf = 8, .seed = 900 },
    { .tokens = { 500 }, .cached = { 300 }, .heads = 4, .kv_heads = 2, .head_dim = 32, .causal = 1, .leaf = 16, .seed = 901 },
    { .sequences = 3, .tokens = { 100, 1, 40 }, .cached = { 0, 200, 33 }, .heads = 4, .kv_heads = 1, .head_dim = 16, .causal = 1, .leaf = 8,
      .kv_type = RONDO_BF16, .seed = 902 },
    { .sequences = 5, .tokens = { 1, 1, 1, 1, 1 }, .cached = { 5, 64, 700, 128, 0 }, .heads = 4, .kv_heads = 2, .head_dim = 64, .causal = 1,
      .seed = 903 },
    { .tokens = { 700 }, .heads = 2, .kv_heads = 2, .head_dim = 16, .windowed = 1, .left = 70, .right = 10, .leaf = 8, .seed = 904 },
};
#define PROBLEMS (sizeof problems / sizeof *problems)
#define VARIANTS 6

static int quiet;
static uint64_t hashes[PROBLEMS][VARIANTS];

/* The hash of the whole from what this rank holds. */
static int solve_here(rondo_context *ctx, const struct problem *p, const struct setup *s, uint64_t *hash)
{
    static _Thread_local struct run_ run;
    struct result r;
    memset(&r, 0, sizeof r);
    memset(&run, 0, sizeof run);
    run.p = p;
    run.s = s;
    run.r = &r;
    size_t out_bytes = (size_t)(p->q_rows * p->heads * p->value_dim) * 4, lse_bytes = (size_t)(p->q_rows * p->heads) * 4;
    r.out = calloc(1, out_bytes + 1);
    r.lse = calloc(1, lse_bytes + 1);
    /* run_rank_() leaves this rank's rows at their places: their share of the sum, spans again from a plan of the same kind */
    int err = run_rank_(ctx, &run);
    rondo_attention_desc d;
    rondo_attention *plan = NULL;
    describe(p, s, &d);
    if (!err)
        err = rondo_attention_create(&plan, ctx, &d);
    uint64_t mine[2] = { 0, 0 }, all[64][2];
    for (int64_t q = 0; q < p->sequences && !err; q++) {
        rondo_span spans[64];
        int64_t n = rondo_attention_spans(plan, q, 0, -1, spans, 64);
        for (int64_t i = 0; i < n && i < 64; i++)
            for (int64_t j = 0; j < spans[i].count; j++) {
                int64_t row = p->q_first[q] + spans[i].first + j * spans[i].step, width = p->heads * p->value_dim;
                size_t e = rondo_type_size(p->out_type);
                rondo_hash_add(&mine[0], r.out + (size_t)(row * width) * e, e, row * width, width);
                rondo_hash_add(&mine[1], r.lse + row * p->heads, 4, row * p->heads, p->heads);
            }
    }
    size_t bytes_of[64];
    for (int i = 0; i < 64; i++)
        bytes_of[i] = sizeof mine;
    if (!err)
        err = rondo_all_gather(ctx, mine, all, bytes_of);
    uint64_t sum[2] = { 0, 0 };
    for (int i = 0; i < rondo_context_ranks(ctx) && !err; i++) {
        sum[0] += all[i][0];
        sum[1] += all[i][1];
    }
    *hash = rondo_hash_close(sum[0], 0, p->leaf, p->tokens, 1) ^ (rondo_hash_close(sum[1], 0, p->leaf, p->tokens, 1) << 1);
    rondo_attention_destroy(plan);
    free(r.out);
    free(r.lse);
    return err;
}

static int body(rondo_context *ctx, void *arg)
{
    const struct problem *p = arg;
    int err = 0;
    for (size_t i = 0; i < PROBLEMS && !err; i++)
        for (int variant = 0; variant < VARIANTS && !err; variant++) {
            struct setup s = { .ranks = rondo_context_ranks(ctx), .layout = 1 + variant % 4, .algorithm = variant % 3, .strided = variant == 4,
                               .head_groups = variant == 5 ? (int)p[i].kv_heads : 0 };
            uint64_t hash;
            err = solve_here(ctx, &p[i], &s, &hash);
            if (rondo_context_rank(ctx) == 0) {
                hashes[i][variant] = hash;
                if (!quiet && !err)
                    printf("hash %zu %016llx\n", i, (unsigned long long)hash);
            }
        }
    return err;
}

int main(int argc, char **argv)
{
    struct problem p[PROBLEMS];
    for (size_t i = 0; i < PROBLEMS; i++) {
        p[i] = problems[i];
        problem_data(&p[i]);
    }
    rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
    d.threads = 1;
    if (argc > 1 && !strcmp(argv[1], "mpi")) {
        d.transport = "mpi";
        int err = rondo_launch(0, &d, body, p);
        if (err)
            fprintf(stderr, "%s: %s\n", rondo_error_name(err), rondo_error_text());
        return err ? 5 : 0;
    }
    if (argc > 1 && !strcmp(argv[1], "threads")) {
        int err = rondo_launch(argc > 2 ? atoi(argv[2]) : 1, &d, body, p);
        if (err)
            fprintf(stderr, "%s: %s\n", rondo_error_name(err), rondo_error_text());
        return err ? 5 : 0;
    }
    quiet = 1;
    uint64_t want[PROBLEMS];
    for (int ranks = 1; ranks <= 8; ranks += 1 + ranks / 3) {
        int err = rondo_launch(ranks, &d, body, p), same = !err;
        if (err)
            diag("%s", rondo_error_text());
        for (size_t i = 0; i < PROBLEMS; i++) {
            if (ranks == 1)
                want[i] = hashes[i][0];
            for (int v = 0; v < VARIANTS; v++)
                same &= hashes[i][v] == want[i];
        }
        ok(same, "%d ranks: the hashes of one rank, added up from what each holds", ranks);
    }
    for (size_t i = 0; i < PROBLEMS; i++)
        problem_free(&p[i]);
    return done();
}
