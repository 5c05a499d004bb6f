/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The delta rule token by token (rule 14 of rondo-numerics(7); backends/cpu/ref_delta.c is the definition). A block takes 32 columns of a state. Half
 * of its threads walk over the tokens, four for a column, each with one of its four chains and the rows of that, in registers where there are 16 or 32
 * of them; so what a row reads is joined by two exchanges. Meanwhile the others make the tokens that come next ready: norms, decays, betas, values.
 *
 * What a token reads and what the one before it has written is one loop over the state, so that the chain of one hides the loads and sums of the other;
 * a chain of K/4 multiply-adds for each token is what takes the time, and no division of the work makes it shorter.
 */
#ifndef RONDO_CUDA_DELTA_H
#define RONDO_CUDA_DELTA_H

#include "backends/cuda/num.h"

#define CUDA_DELTA_WALKERS (CUDA_DELTA_THREADS / 2)
#define CUDA_DELTA_LANES 16        /* of a row's sum of squares */
#define CUDA_DELTA_MANY 8          /* numbers of a lane that are loaded together */
#define CUDA_DELTA_EPS 1e-6f
#define CUDA_DELTA_CLEAN 64        /* tokens after which what is tiny in a map becomes 0 */
#define CUDA_DELTA_TINY 0x1p-100f

/* Where a buffer of tokens has what, in floats; number d of a row is at chain d % 4. */
DEVICE int cuda_delta_place(const struct cuda_delta *p, int d) { return d % 4 * p->chain + d / 4; }
DEVICE float *cuda_delta_token(const struct cuda_delta *p, float *buffer, int n) { return buffer + n * 12 * p->chain; }
DEVICE float *cuda_delta_values(const struct cuda_delta *p, float *buffer) { return buffer + p->tokens * 12 * p->chain; }
DEVICE float *cuda_delta_betas(const struct cuda_delta *p, float *buffer) { return cuda_delta_values(p, buffer) + p->tokens * CUDA_DELTA_COLUMNS; }

/* ---- tokens ---- */

DEVICE void cuda_delta_load_as(float x[CUDA_DELTA_MANY], const void *from, int64_t at, int first, int end, int type)
{
    UNROLL
    for (int n = 0; n < CUDA_DELTA_MANY; n++) {
        const int d = first + CUDA_DELTA_LANES * n;
        x[n] = d < end ? rondo__element(from, at + d, type) : 0.0f;
    }
}

/* Each 16th number of a row, from `first` on; all loads are under way before one is used. */
DEVICE void cuda_delta_load(float x[CUDA_DELTA_MANY], const void *from, int64_t at, int first, int end, int type)
{
    if (type == RONDO_F32)
        cuda_delta_load_as(x, from, at, first, end, RONDO_F32);
    else if (type == RONDO_BF16)
        cuda_delta_load_as(x, from, at, first, end, RONDO_BF16);
    else
        cuda_delta_load_as(x, from, at, first, end, RONDO_F16);
}

DEVICE void cuda_delta_put(const struct cuda_delta *p, float *row, const float x[CUDA_DELTA_MANY], int first)
{
    UNROLL
    for (int n = 0; n < CUDA_DELTA_MANY; n++) {
        const int d = first + CUDA_DELTA_LANES * n;
        if (d < p->key_dim)
            row[cuda_delta_place(p, d)] = x[n];
    }
}

DEVICE void cuda_delta_decays_as(const struct cuda_delta *p, const float *bias, float x[CUDA_DELTA_MANY], int first, float gain, int gate)
{
    UNROLL
    for (int n = 0; n < CUDA_DELTA_MANY; n++) {
        const int d = first + CUDA_DELTA_LANES * n;
        x[n] = rondo__exp(rondo__delta_gate(gate, x[n], bias && d < p->key_dim ? bias[d] : 0.0f, gain, p->lower_bound));
    }
}

DEVICE void cuda_delta_decays(const struct cuda_delta *p, const float *bias, float x[CUDA_DELTA_MANY], int first, float gain)
{
    if (p->gate == RONDO_GATE_LOG)
        cuda_delta_decays_as(p, NULL, x, first, gain, RONDO_GATE_LOG);
    else if (p->gate == RONDO_GATE_SOFTPLUS)
        cuda_delta_decays_as(p, bias, x, first, gain, RONDO_GATE_SOFTPLUS);
    else
        cuda_delta_decays_as(p, bias, x, first, gain, RONDO_GATE_BOUNDED);
}

/* Behind a row's last number: a square of 0, which no sum of squares shows. */
DEVICE float cuda_delta_squares(const float x[CUDA_DELTA_MANY], float sum)
{
    UNROLL
    for (int n = 0; n < CUDA_DELTA_MANY; n++)
        sum = NUM_FMA(x[n], x[n], sum);
    return sum;
}

DEVICE float cuda_delta_fold_lanes(float sum)
{
    UNROLL
    for (int half = CUDA_DELTA_LANES / 2; half; half /= 2)
        sum = sum + SHUFFLE_XOR(sum, half);
    return sum;
}

/* A lane's numbers of a row, multiplied by what a row with that sum of squares is multiplied by. */
DEVICE void cuda_delta_normalise(const struct cuda_delta *p, float *row, float sum, int lane, int there)
{
    const float by = 1.0f / NUM_SQRT(cuda_delta_fold_lanes(sum) + CUDA_DELTA_EPS);
    for (int d = lane; d < p->key_dim && there; d += CUDA_DELTA_LANES) {
        const int at = cuda_delta_place(p, d);
        row[at] = row[at] * by;
    }
}

/* Token `number` by 16 lanes. Where it is not `there` they only take part. */
DEVICE void cuda_delta_prepare_row(const struct cuda_delta *p, const struct cuda_delta_task *t, int64_t number, float gain, float *k, int lane, int there)
{
    const int forward = t->kind == CUDA_DELTA_FORWARD, scalar = p->gate_dim == 1;
    float *a = k + 4 * p->chain, *q = a + 4 * p->chain, of_k = 0.0f, of_q = 0.0f;
    ROLLED
    for (int first = lane; first < p->key_dim && there; first += CUDA_DELTA_LANES * CUDA_DELTA_MANY) {
        float x[CUDA_DELTA_MANY], y[CUDA_DELTA_MANY], z[CUDA_DELTA_MANY];
        cuda_delta_load(x, t->k, number * t->k_stride, first, p->key_dim, p->type);
        if (forward)
            cuda_delta_load(y, t->q, number * t->q_stride, first, p->key_dim, p->type);
        if (!scalar)
            cuda_delta_load(z, t->g, number * t->g_stride, first, p->key_dim, p->gate_type);
        cuda_delta_put(p, k, x, first);
        of_k = cuda_delta_squares(x, of_k);
        if (forward) {
            cuda_delta_put(p, q, y, first);
            of_q = cuda_delta_squares(y, of_q);
        }
        if (!scalar) {
            cuda_delta_decays(p, t->dt_bias, z, first, gain);
            cuda_delta_put(p, a, z, first);
        }
    }
    if (scalar && there) {
        const float g = rondo__element(t->g, number * t->g_stride, p->gate_type);
        const float decay = rondo__exp(rondo__delta_gate(p->gate, g, t->dt_bias ? *t->dt_bias : 0.0f, gain, p->lower_bound));
        for (int d = lane; d < p->key_dim; d += CUDA_DELTA_LANES)
            a[cuda_delta_place(p, d)] = decay;
    }
    if (!p->norm)
        return;
    cuda_delta_normalise(p, k, of_k, lane, there);
    if (forward)
        cuda_delta_normalise(p, q, of_q, lane, there);
}

DEVICE void cuda_delta_values_as(const struct cuda_delta *p, const struct cuda_delta_task *t, int64_t row, int64_t end, int first, float *to, int type)
{
    enum { TOGETHER = 4 };
    const int w = THREAD - CUDA_DELTA_WALKERS, c = w % CUDA_DELTA_COLUMNS, step = CUDA_DELTA_WALKERS / CUDA_DELTA_COLUMNS;
    for (int n = w / CUDA_DELTA_COLUMNS; n < p->tokens; n += TOGETHER * step) {
        float x[TOGETHER];
        UNROLL
        for (int i = 0; i < TOGETHER; i++)
            x[i] = row + n + i * step < end && n + i * step < p->tokens && first + c < t->columns
                 ? rondo__element(t->v, (row + n + i * step) * t->v_stride + first + c, type) : 0.0f;
        UNROLL
        for (int i = 0; i < TOGETHER; i++)
            if (n + i * step < p->tokens)
                to[(n + i * step) * CUDA_DELTA_COLUMNS + c] = x[i];
    }
}

/* Tokens from `row` on, as many as there are, into the buffer. */
DEVICE void cuda_delta_prepare(const struct cuda_delta *p, const struct cuda_delta_task *t, int64_t row, int first, float gain, float *buffer)
{
    const int w = THREAD - CUDA_DELTA_WALKERS, each = CUDA_DELTA_WALKERS / CUDA_DELTA_LANES;
    ROLLED
    for (int base = 0; base < p->tokens; base += each) {
        const int n = base + w / CUDA_DELTA_LANES, there = n < p->tokens && row + n < t->rows;
        cuda_delta_prepare_row(p, t, row + n, gain, cuda_delta_token(p, buffer, n), w % CUDA_DELTA_LANES, there);
    }
    for (int n = w; n < p->tokens && row + n < t->rows; n += CUDA_DELTA_WALKERS)
        cuda_delta_betas(p, buffer)[n] = rondo__delta_beta(p->beta, rondo__element(t->beta, (row + n) * t->beta_stride, p->beta_type));
    if (t->kind == CUDA_DELTA_MAP)
        for (int n = w; n < p->tokens * CUDA_DELTA_COLUMNS; n += CUDA_DELTA_WALKERS)
            cuda_delta_values(p, buffer)[n] = 0.0f;
    else if (p->type == RONDO_F32)
        cuda_delta_values_as(p, t, row, t->rows, first, cuda_delta_values(p, buffer), RONDO_F32);
    else if (p->type == RONDO_BF16)
        cuda_delta_values_as(p, t, row, t->rows, first, cuda_delta_values(p, buffer), RONDO_BF16);
    else
        cuda_delta_values_as(p, t, row, t->rows, first, cuda_delta_values(p, buffer), RONDO_F16);
}

/* ---- what is the same for states of all sizes ---- */

DEVICE float cuda_delta_clean(float x, int clean) { return clean && x > -CUDA_DELTA_TINY && x < CUDA_DELTA_TINY ? 0.0f : x; }

/* A thread's rows of its column as the block begins with it, and as it ends. */
DEVICE float cuda_delta_begin(const struct cuda_delta_task *t, int d, int column, int there)
{
    if (t->kind == CUDA_DELTA_MAP)
        return d == t->column + column ? 1.0f : 0.0f;
    return there && t->from ? t->from[d * t->from_stride + column] : 0.0f;
}

/* The map of the block makes of a state nothing that its run's tolerance would see. */
DEVICE int cuda_delta_nothing(const struct cuda_delta *p, const struct cuda_delta_task *t)
{
    return p->tolerance > 0.0 && t->kind == CUDA_DELTA_MAP && t->from && (double)*t->from < p->tolerance;
}

/* ---- a bound of what the map of some tokens makes of a state: backends/cpu/delta_ops.c ---- */

DEVICE float cuda_delta_largest_gate(const struct cuda_delta *p, const struct cuda_delta_task *t, int64_t row, float gain)
{
    const float sign = p->gate == RONDO_GATE_LOG ? 1.0f : -1.0f;
    float most = -__builtin_inff();
    for (int d = 0; d < p->gate_dim; d++) {
        const float x = rondo__element(t->g, row * t->g_stride + d, p->gate_type), z = sign * (t->dt_bias ? x + t->dt_bias[d] : x);
        if (z != z)
            return z;
        most = z > most ? z : most;
    }
    return rondo__delta_gate(p->gate, sign * most, 0.0f, gain, p->lower_bound);
}

DEVICE double cuda_delta_write_norm(const struct cuda_delta *p, const struct cuda_delta_task *t, int64_t row)
{
    const double beta = (double)rondo__delta_beta(p->beta, rondo__element(t->beta, row * t->beta_stride, p->beta_type));
    double square = 0.0;
    if (p->norm && beta >= 0.0 && beta <= 2.0)
        return 1.0;
    for (int d = 0; d < p->key_dim; d++) {
        const double x = (double)rondo__element(t->k, row * t->k_stride + d, p->type), xx = x * x;
        square = square + xx;
    }
    const double along = 1.0 - beta * (p->norm ? square / (square + (double)CUDA_DELTA_EPS) : square);
    return along >= -1.0 && along <= 1.0 ? 1.0 : along < 0.0 ? -along : along;
}

DEVICE double cuda_delta_exponential(double x)
{
    const float near = (float)x;
    if (x == (double)-__builtin_inff())
        return 0.0;
    return x < -80.0 ? 0x1p-115 : (double)rondo__exp(near) * (1.0 + (x - (double)near));
}

/* Each thread looks at a token, the first one joins them in their order. */
DEVICE void cuda_delta_bound(const struct cuda_delta *p, const struct cuda_delta_task *t, double *gates, int threads)
{
    const float gain = t->a_log ? rondo__exp(*t->a_log) : 1.0f;
    double *norms = gates + threads, sum = 0.0, product = 1.0;
    ROLLED
    for (int64_t row = 0; row < t->rows; row += threads) {
        if (row + THREAD < t->rows) {
            gates[THREAD] = (double)cuda_delta_largest_gate(p, t, row + THREAD, gain);
            norms[THREAD] = cuda_delta_write_norm(p, t, row + THREAD);
        }
        BARRIER();
        for (int n = 0; n < threads && row + n < t->rows && THREAD == 0; n++) {
            sum = sum + gates[n];
            product = product * norms[n];
        }
        BARRIER();
    }
    if (THREAD == 0)
        rondo__put_element(t->to, 0, RONDO_F32, (float)(product * cuda_delta_exponential(sum)));
}

/* ---- the kernels ---- */

#define SIZE 0
#define SIZED(name) name##_any
#include "backends/cuda/delta_walk.h"
#define SIZE 16
#define SIZED(name) name##_16
#include "backends/cuda/delta_walk.h"
#define SIZE 32
#define SIZED(name) name##_32
#include "backends/cuda/delta_walk.h"

/* A thread has a number of what a fold makes. */
DEVICE void cuda_delta_fold_kernel(const struct cuda_delta_folds *p)
{
    const int64_t each = (int64_t)p->key_dim * p->columns;
    ROLLED
    for (int64_t e = (int64_t)BLOCK * CUDA_THREADS + THREAD; e < p->count * each; e += (int64_t)BLOCKS * CUDA_THREADS) {
        const struct cuda_delta_fold *f = p->folds + e / each;
        const int d = (int)(e % each / p->columns), c = (int)(e % p->columns);
        float chain[4] = { 0.0f, 0.0f, 0.0f, 0.0f };
        if (c >= f->columns)
            continue;
        for (int i = 0; i < p->key_dim; i += 4) {
            UNROLL
            for (int j = 0; j < 4; j++)
                if (i + j < p->key_dim)
                    chain[j] = NUM_FMA(f->map[d * f->map_stride + i + j], f->from[(i + j) * f->from_stride + c], chain[j]);
        }
        rondo__put_element(f->to, d * f->to_stride + c, RONDO_F32, ((chain[0] + chain[2]) + (chain[1] + chain[3])) + f->source[d * f->source_stride + c]);
    }
}

#endif
