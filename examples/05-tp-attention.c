/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A tensor-parallel attention layer with Mistral's proportions: projections of q, k and v by columns, so that each rank has whole KV heads with
 * their query heads; rope and attention of its own heads; the output projection by rows, whose sum over all heads the ranks make together. The
 * answer is compared with that of one rank that has everything, bit for bit.
 *
 *     cc 05-tp-attention.c -o tp-attention $(pkg-config --cflags --libs rondo) -lm && ./tp-attention [TP [full]]
 */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rondo.h>

/* Mistral 7B's shape, and a sixteenth of it. */
struct shape {
    int64_t hidden, intermediate, heads, kv_heads, tokens;
};
static const struct shape full = { 4096, 14336, 32, 8, 64 }, small = { 256, 896, 32, 8, 300 };

struct job {
    const struct shape *shape;
    float *y;                        /* [tokens][hidden]: every rank writes the rows that it keeps */
    size_t bytes;                    /* of the weights that rank 0 has */
};

/* Number (row, column) of a matrix that nobody has all of: every rank makes what it needs, and a checkpoint would be read so. */
static float number(uint64_t matrix, int64_t row, int64_t column)
{
    uint64_t x = ((matrix << 48) ^ ((uint64_t)row << 24) ^ (uint64_t)column) * UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return (float)(int32_t)(x >> 32) * 0x1p-31f;
}

/* A linear layer with rows [row, row + desc->out) and `columns` columns, from `column` on, of a matrix. None where it has no outputs. */
static int layer(rondo_linear **out, rondo_context *rank, const rondo_linear_desc *desc, uint64_t matrix, int64_t row, int64_t column,
                 int64_t columns)
{
    const float scale = 64.0f / (float)desc->in;
    float *numbers = malloc(((size_t)columns + 1) * sizeof *numbers);
    uint16_t *stored = malloc(((size_t)columns + 1) * sizeof *stored);
    int code = numbers && stored ? 0 : RONDO_ENOMEM;

    *out = NULL;
    if (!code && desc->out)
        code = rondo_linear_create(out, rank, desc);
    for (int64_t r = 0; r < desc->out && columns && !code; r++) {
        for (int64_t c = 0; c < columns; c++)
            numbers[c] = scale * number(matrix, row + r, column + c);
        code = rondo_convert(rank, columns, RONDO_F32, numbers, RONDO_BF16, stored);
        if (!code)
            code = rondo_linear_load(*out, r, 1, stored);
    }
    free(numbers);
    free(stored);
    return code;
}

/* Column-parallel: rows [row, row + rows) of a matrix of `in` columns. */
static int columns_of(rondo_linear **out, rondo_context *rank, uint64_t matrix, int64_t in, int64_t row, int64_t rows)
{
    rondo_linear_desc desc = RONDO_LINEAR_DESC_INIT;
    desc.in = in;
    desc.out = rows;
    desc.type = RONDO_BF16;
    return layer(out, rank, &desc, matrix, row, 0, in);
}

/* Row-parallel: the columns of this rank's leaves, begin[rank] to begin[rank + 1] of `leaves`. */
static int rows_of(rondo_linear **out, rondo_context *rank, uint64_t matrix, int64_t in, int64_t rows, int32_t leaves, const int32_t *begin)
{
    const int me = rondo_context_rank(rank);
    const int64_t first = begin[me] * in / leaves, end = begin[me + 1] * in / leaves;
    rondo_linear_desc desc = RONDO_LINEAR_DESC_INIT;
    desc.in = in;
    desc.out = rows;
    desc.type = RONDO_BF16;
    desc.leaves = leaves;
    desc.parts = rondo_context_ranks(rank);
    desc.part = me;
    desc.leaf_begin = begin;
    return layer(out, rank, &desc, matrix, 0, first, end - first);
}

/* What a rank has of an attention layer: whole KV heads with the query heads that read them. */
struct attention {
    int64_t heads, kv_heads, dim;    /* its own */
    rondo_linear *q, *k, *v, *o;
    rondo_context *alone;            /* attention is local: a context of one rank */
    rondo_attention *plan;
    float *table, *at_q, *at_k, *at_v, *at_out;
};

/* Cosines and sines of every position, for half of the pairs each. */
static float *rope_table(int64_t tokens, int64_t dim)
{
    float *table = malloc((size_t)(tokens * dim) * sizeof *table);
    for (int64_t p = 0; table && p < tokens; p++)
        for (int64_t i = 0; i < dim / 2; i++) {
            const double angle = (double)p * pow(10000.0, -2.0 * (double)i / (double)dim);
            table[p * dim + i] = (float)cos(angle);
            table[p * dim + dim / 2 + i] = (float)sin(angle);
        }
    return table;
}

static int attention_make(struct attention *a, rondo_context *rank, const struct shape *s)
{
    const int ranks = rondo_context_ranks(rank), me = rondo_context_rank(rank);
    const int64_t group = s->heads / s->kv_heads, dim = s->hidden / s->heads;
    rondo_attention_desc desc = RONDO_ATTENTION_DESC_INIT;
    int32_t *begin = malloc(((size_t)ranks + 1) * sizeof *begin);
    int64_t first = 0, count = 0;
    int code = begin ? 0 : RONDO_ENOMEM;

    for (int r = 0; r < ranks && !code; r++) {
        code = rondo_share(s->kv_heads, ranks, NULL, r, &first, &count);
        begin[r] = (int32_t)(first * group);       /* a leaf of the output projection's sum for each query head */
        begin[r + 1] = (int32_t)((first + count) * group);
    }
    if (!code)
        code = rondo_share(s->kv_heads, ranks, NULL, me, &first, &count);
    a->kv_heads = count;
    a->heads = count * group;
    a->dim = dim;
    if (!code)
        code = columns_of(&a->q, rank, 1, s->hidden, first * group * dim, a->heads * dim);
    if (!code)
        code = columns_of(&a->k, rank, 2, s->hidden, first * dim, count * dim);
    if (!code)
        code = columns_of(&a->v, rank, 3, s->hidden, first * dim, count * dim);
    if (!code)
        code = rows_of(&a->o, rank, 4, s->heads * dim, s->hidden, (int32_t)s->heads, begin);
    if (!code)
        code = rondo_context_split(&a->alone, rank, me, 0);
    desc.heads = a->heads;
    desc.kv_heads = count;
    desc.head_dim = dim;
    desc.tokens = s->tokens;
    desc.causal = 1;
    if (!code && count)
        code = rondo_attention_create(&a->plan, a->alone, &desc);
    a->table = rope_table(s->tokens, dim);
    a->at_q = malloc((size_t)(s->tokens * a->heads * dim + 1) * sizeof(float));
    a->at_out = malloc((size_t)(s->tokens * a->heads * dim + 1) * sizeof(float));
    a->at_k = malloc((size_t)(s->tokens * count * dim + 1) * sizeof(float));
    a->at_v = malloc((size_t)(s->tokens * count * dim + 1) * sizeof(float));
    free(begin);
    return code ? code : a->table && a->at_q && a->at_k && a->at_v && a->at_out ? 0 : RONDO_ENOMEM;
}

static void attention_free(struct attention *a)
{
    rondo_attention_destroy(a->plan);
    rondo_context_destroy(a->alone);
    rondo_linear_destroy(a->q), rondo_linear_destroy(a->k), rondo_linear_destroy(a->v), rondo_linear_destroy(a->o);
    free(a->table), free(a->at_q), free(a->at_k), free(a->at_v), free(a->at_out);
}

static size_t attention_bytes(const struct attention *a)
{
    return rondo_linear_bytes(a->q) + rondo_linear_bytes(a->k) + rondo_linear_bytes(a->v) + rondo_linear_bytes(a->o);
}

/* y (+)= attention of x [tokens][hidden], of which every rank has all rows; of y each has those that it keeps. */
static int attention_run(struct attention *a, rondo_context *rank, rondo_tp *tp, const struct shape *s, const float *x, float *y, int add)
{
    const int64_t n = s->tokens, wide = a->heads * a->dim, narrow = a->kv_heads * a->dim;
    const int64_t q_shape[3] = { n, a->heads, a->dim }, kv_shape[3] = { n, a->kv_heads, a->dim };
    rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
    int code = 0;

    if (a->plan) {
        io.q = rondo_tensor_dense(a->at_q, RONDO_F32, 3, q_shape);
        io.k = rondo_tensor_dense(a->at_k, RONDO_F32, 3, kv_shape);
        io.v = rondo_tensor_dense(a->at_v, RONDO_F32, 3, kv_shape);
        io.out = rondo_tensor_dense(a->at_out, RONDO_F32, 3, q_shape);
        if ((code = rondo_linear_execute(a->q, rank, n, x, s->hidden, a->at_q, wide, NULL, 0)) ||
            (code = rondo_linear_execute(a->k, rank, n, x, s->hidden, a->at_k, narrow, NULL, 0)) ||
            (code = rondo_linear_execute(a->v, rank, n, x, s->hidden, a->at_v, narrow, NULL, 0)) ||
            (code = rondo_rope(rank, n, a->heads, a->dim, a->at_q, wide, a->dim, a->table)) ||
            (code = rondo_rope(rank, n, a->kv_heads, a->dim, a->at_k, narrow, a->dim, a->table)) ||
            (code = rondo_attention_execute(a->plan, &io, NULL)))
            return code;
    }
    return rondo_tp_linear(tp, a->o, n, a->plan ? a->at_out : NULL, wide, y, s->hidden, NULL, add);
}

/* Runs on every rank; all make the same calls. */
static int body(rondo_context *rank, void *arg)
{
    struct job *job = arg;
    const struct shape *s = job->shape;
    struct attention mine = { 0 };
    rondo_tp *tp = NULL;
    int64_t first, count;
    float *x = malloc((size_t)(s->tokens * s->hidden) * sizeof *x);
    int code = x ? 0 : RONDO_ENOMEM;

    for (int64_t i = 0; x && i < s->tokens * s->hidden; i++)
        x[i] = number(0, i / s->hidden, i % s->hidden);
    if (!code)
        code = rondo_tp_create(&tp, rank, NULL);
    if (!code)
        code = attention_make(&mine, rank, s);
    if (!code)
        code = rondo_tp_rows(tp, s->tokens, rondo_context_rank(rank), &first, &count);
    if (!code)
        code = attention_run(&mine, rank, tp, s, x, job->y + first * s->hidden, 0);
    if (!rondo_context_rank(rank))
        job->bytes = attention_bytes(&mine);
    attention_free(&mine);
    rondo_tp_destroy(tp);
    free(x);
    return code;
}

/* Of the rows that all ranks together have made. */
static int run(int tp, struct job *job, uint64_t *hash)
{
    const int64_t count = job->shape->tokens * job->shape->hidden;
    job->y = calloc((size_t)count, sizeof *job->y);
    int code = job->y ? rondo_run_threads(tp, body, job) : RONDO_ENOMEM;

    *hash = 0;
    if (!code) {
        rondo_hash_add(hash, job->y, sizeof *job->y, 0, count);
        printf("tp=%d: %zu bytes of weights on rank 0, hash %016llx\n", tp, job->bytes, (unsigned long long)*hash);
    }
    return code;
}

int main(int argc, char **argv)
{
    const int tp = argc > 1 ? atoi(argv[1]) : 4;
    struct job one = { argc > 2 ? &full : &small, NULL, 0 }, many = one;
    uint64_t one_hash = 0, many_hash = 0;

    if (argc > 3 || tp < 1 || tp > 1024 || (argc == 3 && strcmp(argv[2], "full"))) {
        fprintf(stderr, "usage: %s [TP [full]]\n", argv[0]);
        return 2;
    }
    int code = run(1, &one, &one_hash);
    if (!code)
        code = run(tp, &many, &many_hash);
    if (code)
        fprintf(stderr, "%s: %s\n", rondo_error_name(code), rondo_error_text());
    const int same = !code && !memcmp(one.y, many.y, (size_t)(one.shape->tokens * one.shape->hidden) * sizeof *one.y);
    if (!code)
        puts(same && one_hash == many_hash ? "equal" : "DIFFERENT");
    free(one.y);
    free(many.y);
    return !same;
}
