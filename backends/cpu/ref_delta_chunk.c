/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The delta rule in chunks of tokens (contract C16), what matrix units are made for: what all tokens of a chunk write follows from one triangular
 * system, whose coefficients are products of queries and keys, and the state is read and written once a chunk (the WY form, arXiv:2406.06484, with
 * gates as in arXiv:2510.26692). A second way to the results of ref_delta.c, to hold it against; and the definition of its own bits, which
 * delta_chunk.c gives in vectors. Compiled without and with FMA instructions. Called by delta_ops.c.
 *
 * A key j that a token i meets has decayed by all tokens behind j up to i. That is a product of decays, never the exponential of a difference of
 * sums: so nothing overflows where gates are at most 0, whatever the gates, one of minus infinity makes zeros and no NaN, and gates of -1000 cost
 * the others no digit. Inside a block of 16 tokens keys decay pair by pair. Keys of earlier blocks have decayed up to the boundary before the
 * token's block, and the token's own key and query from there to the token: both factors are at most 1, and matrices can be multiplied.
 */
#include "backends/cpu/ref_delta.h"

#ifdef RONDO_ISA_fma
#define TABLE rondo__cpu_delta_chunk_fma
#else
#define TABLE rondo__cpu_delta_chunk_soft
#endif

#define BLOCK RONDO_CPU_DELTA_BLOCK
#define CHUNK RONDO_CPU_DELTA_CHUNK

/* What a worker has of the chunk that it is in. */
struct room {
    float *s;                      /* [key_dim][columns]: the state before it */
    float *x;                      /* [CHUNK][columns]: what its tokens have written */
    float *keys;                   /* [CHUNK][key_dim]: their keys, as they have decayed so far */
    float *before, *since;         /* [key_dim]: decays of the blocks before this one, and of its tokens so far */
    float *k, *q, *a;              /* [key_dim]: of the token */
    float *near_k, *near_q;        /* ... k and q as they meet what there was before the block */
    float *chain;                  /* [2][CHAINS][columns] */
    float *out;                    /* [columns] */
    float l[CHUNK], m[CHUNK];      /* of the token's row: what it reads of each write, by its key and by its query */
};

enum { VECTORS = 7 };              /* of key_dim numbers */

static bool bytes(const struct rondo_delta_form *form, int32_t columns, int64_t tasks, size_t *out)
{
    size_t wide, keys;
    (void)tasks;   /* one after the other */
    return rondo__mul((size_t)form->key_dim + CHUNK + 2 * CHAINS + 1, (size_t)columns, &wide) &&
           rondo__mul(CHUNK + VECTORS, (size_t)form->key_dim, &keys) && rondo__add(wide, keys, &wide) && rondo__mul(wide, sizeof(float), out) &&
           rondo__add(*out, sizeof(struct room), out);
}

static struct room *room_of(const struct rondo_delta_task *t, void *scratch)
{
    struct room *r = scratch;
    float *at = (float *)(void *)(r + 1);
    const int64_t dim = t->form->key_dim, columns = t->columns;
    float **const vectors[VECTORS] = { &r->before, &r->since, &r->k, &r->q, &r->a, &r->near_k, &r->near_q };
    r->s = at;
    r->x = r->s + dim * columns;
    r->chain = r->x + CHUNK * columns;
    r->out = r->chain + 2 * CHAINS * columns;
    r->keys = r->out + columns;
    at = r->keys + CHUNK * dim;
    for (int i = 0; i < VECTORS; i++, at += dim)
        *vectors[i] = at;
    return r;
}

static void multiply(float *to, const float *x, const float *y, int64_t dim)
{
    for (int64_t d = 0; d < dim; d++)
        to[d] = x[d] * y[d];
}

/* R of rule 14, of two vectors. */
static float product(const float *x, const float *y, int64_t dim)
{
    float chain[CHAINS] = { 0 };
    for (int64_t d = 0; d < dim; d++)
        chain[d % CHAINS] = rondo__fma(x[d], y[d], chain[d % CHAINS]);
    return join(chain);
}

/* Token i of the chunk, row `row` of the task: its numbers, and with them what the keys before it have become. Returns its beta. */
static float read_token(const struct rondo_delta_task *t, struct room *r, int64_t row, int64_t i, float gain)
{
    const struct rondo_delta_form *f = t->form;
    const int64_t dim = f->key_dim, first = i - i % BLOCK;
    const bool put_out = t->kind == RONDO_DELTA_FORWARD;
    read_row(f, t->k, row * t->k_stride, r->k);
    if (put_out)
        read_row(f, t->q, row * t->q_stride, r->q);
    read_decays(f, t->g, row * t->g_stride, t->dt_bias, gain, r->a);
    if (i == first)
        memcpy(r->since, r->a, (size_t)dim * sizeof *r->a);
    else
        multiply(r->since, r->since, r->a, dim);
    for (int64_t j = first; j < i; j++)
        multiply(r->keys + j * dim, r->a, r->keys + j * dim, dim);
    memcpy(r->keys + i * dim, r->k, (size_t)dim * sizeof *r->k);
    multiply(r->near_k, r->k, r->since, dim);
    for (int64_t j = 0; j < i; j++)
        r->l[j] = product(j < first ? r->near_k : r->k, r->keys + j * dim, dim);
    if (put_out) {
        multiply(r->near_q, r->q, r->since, dim);
        for (int64_t j = 0; j <= i; j++)
            r->m[j] = product(j < first ? r->near_q : r->q, r->keys + j * dim, dim);
    }
    return read_beta(f, t->beta, row * t->beta_stride);
}

/* R(x * before, S), of all columns: in the first row of `chain`. */
static void read_state(const struct room *r, const float *x, int64_t dim, int64_t columns, float *chain)
{
    for (int64_t i = 0; i < CHAINS * columns; i++)
        chain[i] = 0.0f;
    for (int64_t d = 0; d < dim; d++) {
        float *sum = chain + d % CHAINS * columns;
        const float *s = r->s + d * columns, by = x[d] * r->before[d];
        for (int64_t c = 0; c < columns; c++)
            sum[c] = rondo__fma(by, s[c], sum[c]);
    }
    for (int64_t c = 0; c < columns; c++)
        chain[c] = (chain[c] + chain[2 * columns + c]) + (chain[columns + c] + chain[3 * columns + c]);
}

/* A row of the system, and of what is put out. */
static void solve(const struct rondo_delta_task *t, struct room *r, int64_t row, int64_t i, float beta)
{
    const int64_t dim = t->form->key_dim, columns = t->columns;
    float *x = r->x + i * columns, *reads = r->chain, *outs = r->chain + CHAINS * columns;
    read_state(r, r->near_k, dim, columns, reads);
    for (int64_t c = 0; c < columns; c++)
        x[c] = (t->kind == RONDO_DELTA_MAP ? 0.0f : rondo__element(t->v, row * t->v_stride + c, t->form->type)) - reads[c];
    for (int64_t j = 0; j < i; j++) {
        const float *written = r->x + j * columns, by = -r->l[j];
        for (int64_t c = 0; c < columns; c++)
            x[c] = rondo__fma(by, written[c], x[c]);
    }
    for (int64_t c = 0; c < columns; c++)
        x[c] = beta * x[c];
    if (t->kind != RONDO_DELTA_FORWARD)
        return;
    read_state(r, r->near_q, dim, columns, outs);
    for (int64_t j = 0; j <= i; j++) {
        const float *written = r->x + j * columns, by = r->m[j];
        for (int64_t c = 0; c < columns; c++)
            outs[c] = rondo__fma(by, written[c], outs[c]);
    }
    for (int64_t c = 0; c < columns; c++)
        rondo__put_element(t->out, row * t->out_stride + c, t->form->out_type, outs[c] * t->form->scale);
}

/* Behind the block whose last token is i: keys of the blocks before have decayed by all of it. */
static void end_block(struct room *r, int64_t i, int64_t dim)
{
    for (int64_t j = 0; j < i - i % BLOCK; j++)
        multiply(r->keys + j * dim, r->since, r->keys + j * dim, dim);
    multiply(r->before, r->before, r->since, dim);
}

static void end_chunk(struct room *r, int64_t tokens, int64_t dim, int64_t columns)
{
    for (int64_t d = 0; d < dim; d++) {
        float *s = r->s + d * columns;
        for (int64_t c = 0; c < columns; c++)
            s[c] = r->before[d] * s[c];
        for (int64_t j = 0; j < tokens; j++) {
            const float *written = r->x + j * columns, by = r->keys[j * dim + d];
            for (int64_t c = 0; c < columns; c++)
                s[c] = rondo__fma(by, written[c], s[c]);
        }
    }
}

static int run_task(const struct rondo_delta_task *t, void *scratch, const struct rondo_poll *poll)
{
    const int64_t dim = t->form->key_dim, columns = t->columns, chunk = t->form->chunk;
    const float gain = t->a_log ? rondo__exp(*t->a_log) : 1.0f;
    struct room *r = room_of(t, scratch);
    begin_state(t, r->s);
    for (int64_t row = 0; row < t->rows; row++) {
        const int64_t i = row % chunk;
        for (int64_t d = 0; d < dim && !i; d++)
            r->before[d] = 1.0f;
        const float beta = read_token(t, r, row, i, gain);
        solve(t, r, row, i, beta);
        const bool ends = i == chunk - 1 || row == t->rows - 1;
        if (ends || i % BLOCK == BLOCK - 1)
            end_block(r, i, dim);
        if (ends)
            end_chunk(r, i + 1, dim, columns);
        const int err = end_token(t, row, r->s, poll);
        if (err)
            return err;
    }
    end_state(t, r->s);
    return 0;
}

RUN_EACH(run_task)

extern const struct rondo_cpu_delta TABLE;
const struct rondo_cpu_delta TABLE = { bytes, run, NULL };
