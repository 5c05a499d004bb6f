/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A tensor-parallel SwiGLU layer with Mistral's proportions: gate and up by columns, down by rows: the ranks have whole leaves of its sum, and
 * make it together. The answer is compared with that of one rank that has everything, bit for bit.
 *
 *     cc 06-tp-swiglu.c -o tp-swiglu $(pkg-config --cflags --libs rondo) -lm && ./tp-swiglu [TP [full]]
 */
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

/* What a rank has of a gated MLP: the inputs of its leaves of the down projection, which are outputs of gate and up. */
enum { LEAVES = 16 };
struct mlp {
    int64_t columns;                 /* its own of intermediate */
    rondo_linear *gate, *up, *down;
    float *at_gate, *at_up;
};

static int mlp_make(struct mlp *m, rondo_context *rank, const struct shape *s)
{
    const int ranks = rondo_context_ranks(rank), me = rondo_context_rank(rank);
    int32_t *begin = malloc(((size_t)ranks + 1) * sizeof *begin);
    int code = begin ? 0 : RONDO_ENOMEM;

    for (int r = 0; r < ranks && !code; r++) {
        int64_t first, count;
        code = rondo_share(LEAVES, ranks, NULL, r, &first, &count);
        begin[r] = (int32_t)first;
        begin[r + 1] = (int32_t)(first + count);
    }
    const int64_t first = code ? 0 : begin[me] * s->intermediate / LEAVES;
    m->columns = code ? 0 : begin[me + 1] * s->intermediate / LEAVES - first;
    if (!code)
        code = columns_of(&m->gate, rank, 5, s->hidden, first, m->columns);
    if (!code)
        code = columns_of(&m->up, rank, 6, s->hidden, first, m->columns);
    if (!code)
        code = rows_of(&m->down, rank, 7, s->intermediate, s->hidden, LEAVES, begin);
    m->at_gate = malloc((size_t)(s->tokens * m->columns + 1) * sizeof(float));
    m->at_up = malloc((size_t)(s->tokens * m->columns + 1) * sizeof(float));
    free(begin);
    return code ? code : m->at_gate && m->at_up ? 0 : RONDO_ENOMEM;
}

static void mlp_free(struct mlp *m)
{
    rondo_linear_destroy(m->gate), rondo_linear_destroy(m->up), rondo_linear_destroy(m->down);
    free(m->at_gate), free(m->at_up);
}

static size_t mlp_bytes(const struct mlp *m)
{
    return rondo_linear_bytes(m->gate) + rondo_linear_bytes(m->up) + rondo_linear_bytes(m->down);
}

/* y (+)= down(silu(gate x) * up x) of x [tokens][hidden], of which every rank has all rows; of y each has those that it keeps. */
static int mlp_run(struct mlp *m, rondo_context *rank, rondo_tp *tp, const struct shape *s, const float *x, float *y, int add)
{
    const int64_t n = s->tokens, wide = m->columns;
    int code = 0;

    if (m->gate && ((code = rondo_linear_execute(m->gate, rank, n, x, s->hidden, m->at_gate, wide, NULL, 0)) ||
                    (code = rondo_linear_execute(m->up, rank, n, x, s->hidden, m->at_up, wide, NULL, 0)) ||
                    (code = rondo_swiglu(rank, n * wide, m->at_gate, m->at_up, m->at_gate))))
        return code;
    return rondo_tp_linear(tp, m->down, n, m->gate ? m->at_gate : NULL, wide, y, s->hidden, NULL, add);
}

/* Runs on every rank; all make the same calls. */
static int body(rondo_context *rank, void *arg)
{
    struct job *job = arg;
    const struct shape *s = job->shape;
    struct mlp mine = { 0 };
    rondo_tp *tp = NULL;
    int64_t first, count;
    float *x = malloc((size_t)(s->tokens * s->hidden) * sizeof *x);
    int code = x ? 0 : RONDO_ENOMEM;

    for (int64_t i = 0; x && i < s->tokens * s->hidden; i++)
        x[i] = number(0, i / s->hidden, i % s->hidden);
    if (!code)
        code = rondo_tp_create(&tp, rank, NULL);
    if (!code)
        code = mlp_make(&mine, rank, s);
    if (!code)
        code = rondo_tp_rows(tp, s->tokens, rondo_context_rank(rank), &first, &count);
    if (!code)
        code = mlp_run(&mine, rank, tp, s, x, job->y + first * s->hidden, 0);
    if (!rondo_context_rank(rank))
        job->bytes = mlp_bytes(&mine);
    mlp_free(&mine);
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
