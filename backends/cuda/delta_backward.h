/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Gradients of the delta rule (rule 15 of rondo-numerics(7); backends/cpu/ref_delta_backward.c is the definition). A block takes a leaf of 64 columns of a
 * head's state through the tokens of a run's block: forward, with a mark every 16 tokens, then from the last mark back, making the states of 16 tokens
 * again. Sums over rows have four threads for a column, sums over columns 16 threads for a row: these take turns, with the states in shared memory. What is
 * summed up waits for the second kernel, which adds leaves and heads and goes on to what was given, token leaf by token leaf.
 */
#ifndef RONDO_CUDA_DELTA_BACKWARD_H
#define RONDO_CUDA_DELTA_BACKWARD_H

#include "backends/cuda/delta.h"

#define CUDA_DELTA_ACROSS (CUDA_DELTA_LEAF / CUDA_DELTA_LANES)   /* columns of a lane */
#define CUDA_DELTA_STEP 8                  /* rows of a chain that are loaded together */

/* What a block has of its leaf. */
struct cuda_delta_leaf {
    const struct cuda_delta_back_task *t;
    float *tokens, *betas, *u, *rest;      /* of the tokens since a mark: k, decays and q; betas; what was written; v - R(k, S') */
    float *w, *dv, *p, *sums;              /* of a token, by columns; sums: [2][4][64] of chains */
    float *s, *d;                          /* the state and its gradient: [key_dim][CUDA_DELTA_PITCH] */
    float *marks, *before;                 /* [key_dim][64] each */
    float gain;
    int first, columns;                    /* of the head's columns */
};

/* What was there, if results are added up, and x. */
DEVICE void cuda_delta_add(void *to, int64_t at, int type, int accumulate, float x)
{
    rondo__put_element(to, at, type, accumulate ? rondo__element(to, at, type) + x : x);
}

/* A column's chain goes to all of its threads. `turn` alternates, so that one barrier is enough. */
DEVICE float cuda_delta_chains(const struct cuda_delta_leaf *x, int turn, float chain)
{
    float *at = x->sums + turn * 4 * CUDA_DELTA_LEAF;
    const int c = THREAD % CUDA_DELTA_LEAF;
    at[THREAD] = chain;
    BARRIER();
    return (at[c] + at[2 * CUDA_DELTA_LEAF + c]) + (at[CUDA_DELTA_LEAF + c] + at[3 * CUDA_DELTA_LEAF + c]);
}

/* Tokens from `row` on, `many` of them. */
DEVICE void cuda_delta_leaf_tokens(const struct cuda_delta_back *p, const struct cuda_delta_leaf *x, int64_t row, int many)
{
    const int n = THREAD / CUDA_DELTA_LANES;
    BARRIER();
    cuda_delta_prepare_row(&p->form, &x->t->of, row + n, x->gain, x->tokens + n * 12 * p->form.chain, THREAD % CUDA_DELTA_LANES, n < many);
    if (THREAD < many)
        x->betas[THREAD] = rondo__delta_beta(p->form.beta, rondo__element(x->t->of.beta, (row + THREAD) * x->t->of.beta_stride, p->form.beta_type));
    BARRIER();
}

/* Token n of these forward; keep: what the way back needs of it stays. */
DEVICE void cuda_delta_leaf_forward(const struct cuda_delta_back *p, const struct cuda_delta_leaf *x, int64_t row, int n, int keep)
{
    const int c = THREAD % CUDA_DELTA_LEAF, j = THREAD / CUDA_DELTA_LEAF, dim = p->form.key_dim;
    const float *k = x->tokens + n * 12 * p->form.chain + j * p->form.chain, *a = k + 4 * p->form.chain;
    const float v = c < x->columns ? rondo__element(x->t->of.v, (row + n) * x->t->of.v_stride + x->first + c, p->form.type) : 0.0f;
    float *s = x->s + c, *before = x->before + (int64_t)n * dim * CUDA_DELTA_LEAF + c, read = 0.0f;
    ROLLED
    for (int i = 0; 4 * i + j < dim; i += CUDA_DELTA_STEP) {
        float y[CUDA_DELTA_STEP];
        UNROLL
        for (int m = 0; m < CUDA_DELTA_STEP; m++)
            y[m] = 4 * (i + m) + j < dim ? a[i + m] * s[(4 * (i + m) + j) * CUDA_DELTA_PITCH] : 0.0f;
        UNROLL
        for (int m = 0; m < CUDA_DELTA_STEP; m++)
            if (4 * (i + m) + j < dim) {
                read = NUM_FMA(k[i + m], y[m], read);
                s[(4 * (i + m) + j) * CUDA_DELTA_PITCH] = y[m];
                if (keep)
                    before[(4 * (i + m) + j) * CUDA_DELTA_LEAF] = y[m];
            }
    }
    const float rest = v - cuda_delta_chains(x, n & 1, read), u = x->betas[n] * rest;
    if (keep && j == 0) {
        x->u[n * CUDA_DELTA_LEAF + c] = u;
        x->rest[n * CUDA_DELTA_LEAF + c] = rest;
    }
    ROLLED
    for (int i = 0; 4 * i + j < dim; i += CUDA_DELTA_STEP) {
        float y[CUDA_DELTA_STEP];
        UNROLL
        for (int m = 0; m < CUDA_DELTA_STEP; m++)
            y[m] = 4 * (i + m) + j < dim ? s[(4 * (i + m) + j) * CUDA_DELTA_PITCH] : 0.0f;
        UNROLL
        for (int m = 0; m < CUDA_DELTA_STEP; m++)
            if (4 * (i + m) + j < dim)
                s[(4 * (i + m) + j) * CUDA_DELTA_PITCH] = NUM_FMA(k[i + m], u, y[m]);
    }
}

/* Sums over the columns of token n, and the gradient of the state before it: 16 threads for a row. */
DEVICE void cuda_delta_leaf_rows(const struct cuda_delta_back *p, const struct cuda_delta_leaf *x, int n, float *sums)
{
    const int l = THREAD % CUDA_DELTA_LANES, r = THREAD / CUDA_DELTA_LANES, dim = p->form.key_dim;
    const float *k = x->tokens + n * 12 * p->form.chain, *a = k + 4 * p->form.chain;
    float u[CUDA_DELTA_ACROSS], w[CUDA_DELTA_ACROSS], v[CUDA_DELTA_ACROSS], beta = 0.0f;
    UNROLL
    for (int m = 0; m < CUDA_DELTA_ACROSS; m++) {
        const int c = l + CUDA_DELTA_LANES * m;
        u[m] = x->u[n * CUDA_DELTA_LEAF + c];
        w[m] = x->w[c];
        v[m] = -x->dv[c];
        if (c < x->columns)
            beta = NUM_FMA(x->p[c], x->rest[n * CUDA_DELTA_LEAF + c], beta);
    }
    ROLLED
    for (int first = 0; first < dim; first += CUDA_DELTA_THREADS / CUDA_DELTA_LANES) {
        const int d = first + r, there = d < dim, at = cuda_delta_place(&p->form, there ? d : 0);
        const float *before = x->before + ((int64_t)n * dim + (there ? d : 0)) * CUDA_DELTA_LEAF, key = k[at], decay = a[at];
        float *gradient = x->d + (there ? d : 0) * CUDA_DELTA_PITCH, dq = 0.0f, dk = 0.0f, dg = 0.0f;
        UNROLL
        for (int m = 0; m < CUDA_DELTA_ACROSS; m++) {
            const int c = l + CUDA_DELTA_LANES * m;
            if (there && c < x->columns) {
                const float b = before[c], g = gradient[c], behind = NUM_FMA(key, u[m], b), rest = NUM_FMA(key, v[m], g);
                dq = NUM_FMA(behind, w[m], dq);
                dk = NUM_FMA(g, u[m], dk);
                dk = NUM_FMA(b, v[m], dk);
                dg = NUM_FMA(b, rest, dg);
                gradient[c] = decay * rest;
            }
        }
        dq = cuda_delta_fold_lanes(dq);
        dk = cuda_delta_fold_lanes(dk);
        dg = cuda_delta_fold_lanes(dg);
        if (there && l == 0) {
            sums[d] = dq;
            sums[p->padded + d] = dk;
            sums[2 * p->padded + d] = dg;
        }
    }
    beta = cuda_delta_fold_lanes(beta);
    if (THREAD == 0)
        sums[3 * p->padded] = beta;
}

DEVICE void cuda_delta_leaf_back(const struct cuda_delta_back *p, const struct cuda_delta_leaf *x, int64_t row, int n, float *sums)
{
    const int c = THREAD % CUDA_DELTA_LEAF, j = THREAD / CUDA_DELTA_LEAF, dim = p->form.key_dim;
    const float *k = x->tokens + n * 12 * p->form.chain + j * p->form.chain, *q = k + 8 * p->form.chain;
    const float given = c < x->columns ? rondo__element(x->t->dout, (row + n) * x->t->dout_stride + x->first + c, p->form.out_type) : 0.0f;
    const float w = given * p->form.scale;
    float *d = x->d + c, chain = 0.0f;
    ROLLED
    for (int i = 0; 4 * i + j < dim; i += CUDA_DELTA_STEP) {
        float y[CUDA_DELTA_STEP];
        UNROLL
        for (int m = 0; m < CUDA_DELTA_STEP; m++)
            y[m] = 4 * (i + m) + j < dim ? NUM_FMA(q[i + m], w, d[(4 * (i + m) + j) * CUDA_DELTA_PITCH]) : 0.0f;
        UNROLL
        for (int m = 0; m < CUDA_DELTA_STEP; m++)
            if (4 * (i + m) + j < dim) {
                chain = NUM_FMA(k[i + m], y[m], chain);
                d[(4 * (i + m) + j) * CUDA_DELTA_PITCH] = y[m];
            }
    }
    const float of = cuda_delta_chains(x, n & 1, chain), dv = x->betas[n] * of;
    if (j == 0) {
        x->w[c] = w;
        x->dv[c] = dv;
        x->p[c] = of;
        if (c < x->columns)
            cuda_delta_add(x->t->dv, (row + n) * x->t->dv_stride + x->first + c, p->v_type, p->accumulate, dv);
    }
    BARRIER();
    cuda_delta_leaf_rows(p, x, n, sums);
    BARRIER();
}

/* A thread's rows of its column between the state and a mark. */
DEVICE void cuda_delta_mark(const struct cuda_delta_back *p, const struct cuda_delta_leaf *x, int64_t number, int save)
{
    const int c = THREAD % CUDA_DELTA_LEAF;
    float *mark = x->marks + number * p->form.key_dim * CUDA_DELTA_LEAF + c, *s = x->s + c;
    for (int d = THREAD / CUDA_DELTA_LEAF; d < p->form.key_dim; d += 4)
        if (save)
            mark[d * CUDA_DELTA_LEAF] = s[d * CUDA_DELTA_PITCH];
        else
            s[d * CUDA_DELTA_PITCH] = mark[d * CUDA_DELTA_LEAF];
}

DEVICE void cuda_delta_back_leaf(const struct cuda_delta_back *p, const struct cuda_delta_back_task *t, int leaf, float *shared, float *scratch)
{
    const int dim = p->form.key_dim, c = THREAD % CUDA_DELTA_LEAF, j = THREAD / CUDA_DELTA_LEAF, state = dim * CUDA_DELTA_PITCH;
    const int64_t rows = t->of.rows, groups = (rows + CUDA_DELTA_MARK - 1) / CUDA_DELTA_MARK;
    struct cuda_delta_leaf x;
    x.t = t;
    x.tokens = shared;
    x.betas = x.tokens + CUDA_DELTA_MARK * 12 * p->form.chain;
    x.u = x.betas + CUDA_DELTA_MARK;
    x.rest = x.u + CUDA_DELTA_MARK * CUDA_DELTA_LEAF;
    x.w = x.rest + CUDA_DELTA_MARK * CUDA_DELTA_LEAF;
    x.dv = x.w + CUDA_DELTA_LEAF;
    x.p = x.dv + CUDA_DELTA_LEAF;
    x.sums = x.p + CUDA_DELTA_LEAF;
    x.before = scratch;
    x.marks = x.before + CUDA_DELTA_MARK * dim * CUDA_DELTA_LEAF;
    x.s = p->held ? x.sums + 8 * CUDA_DELTA_LEAF : scratch + p->scratch_floats - 2 * state;
    x.d = x.s + state;
    x.gain = t->of.a_log ? rondo__exp(*t->of.a_log) : 1.0f;
    x.first = leaf * CUDA_DELTA_LEAF;
    x.columns = cuda_minimum(CUDA_DELTA_LEAF, t->of.columns - x.first);
    for (int d = j; d < dim; d += 4) {
        x.s[d * CUDA_DELTA_PITCH + c] = c < x.columns && t->of.from ? t->of.from[d * t->of.from_stride + x.first + c] : 0.0f;
        x.d[d * CUDA_DELTA_PITCH + c] = c < x.columns && t->end ? t->end[d * t->end_stride + x.first + c] : 0.0f;
    }
    ROLLED
    for (int64_t pass = 0; pass < 2 * groups - 1; pass++) {    /* groups forward, but the last; then all back */
        const int back = pass >= groups - 1;
        const int64_t group = back ? 2 * groups - 2 - pass : pass, row = group * CUDA_DELTA_MARK;
        const int many = (int)(rows - row < CUDA_DELTA_MARK ? rows - row : CUDA_DELTA_MARK);
        if (group + 1 < groups)
            cuda_delta_mark(p, &x, group, !back);
        cuda_delta_leaf_tokens(p, &x, row, many);
        ROLLED
        for (int n = 0; n < many; n++)
            cuda_delta_leaf_forward(p, &x, row, n, back);
        BARRIER();
        ROLLED
        for (int n = back ? many - 1 : -1; n >= 0; n--)
            cuda_delta_leaf_back(p, &x, row, n, t->sums + (row + n) * p->sums_token + leaf * p->sums_leaf);
    }
    for (int d = j; d < dim && t->of.to && c < x.columns; d += 4)
        cuda_delta_add(t->of.to, d * t->of.to_stride + x.first + c, RONDO_F32, t->result && p->accumulate, x.d[d * CUDA_DELTA_PITCH + c]);
    BARRIER();
}

DEVICE void cuda_delta_back_kernel(const struct cuda_delta_back *p, float *shared)
{
    ROLLED
    for (int64_t number = BLOCK; number < p->count * p->leaves; number += BLOCKS)
        cuda_delta_back_leaf(p, p->tasks + number / p->leaves, (int)(number % p->leaves), shared, p->scratch + BLOCK * p->scratch_floats);
}

/* ---- what becomes of the sums ---- */

DEVICE float cuda_delta_over_leaves(const struct cuda_delta_back *p, const float *sums)
{
    float stack[8];
    int n = 0;
    for (int64_t leaf = 0; leaf < p->leaves; leaf++) {
        float top = sums[leaf * p->sums_leaf];
        for (int64_t i = leaf; i & 1; i >>= 1)
            top = stack[--n] + top;
        stack[n++] = top;
    }
    for (; n > 1; n--)
        stack[n - 2] = stack[n - 2] + stack[n - 1];
    return stack[0];
}

DEVICE float cuda_delta_over_heads(const struct cuda_delta_back *p, const float *sums)
{
    float stack[32];
    int n = 0;
    for (int head = 0; head < p->group; head++) {
        float top = cuda_delta_over_leaves(p, sums + head * p->sums_head);
        for (int i = head; i & 1; i >>= 1)
            top = stack[--n] + top;
        stack[n++] = top;
    }
    for (; n > 1; n--)
        stack[n - 2] = stack[n - 2] + stack[n - 1];
    return stack[0];
}

DEVICE float cuda_delta_slope(float x) { return rondo__sigmoid(x) * rondo__sigmoid(-x); }

/* From the gradient by the gate of channel d to that by what was given; *term: what it adds to that of A_log. */
DEVICE float cuda_delta_gate_back(const struct cuda_delta_back *p, const struct cuda_delta_gates *t, float dg, float given, int d, float gain, float *term)
{
    const float z = given + (t->dt_bias ? t->dt_bias[d] : 0.0f);
    if (p->form.gate == RONDO_GATE_LOG)
        return dg;
    if (p->form.gate == RONDO_GATE_SOFTPLUS) {
        *term = NUM_FMA(dg, -(gain * rondo__softplus(z)), *term);
        return -(dg * (gain * rondo__sigmoid(z)));
    }
    const float dz = (dg * (p->form.lower_bound * gain)) * cuda_delta_slope(gain * z);
    *term = NUM_FMA(dz, z, *term);
    return dz;
}

/* A token by 16 lanes: what it adds to the sums over tokens stays in its row of sums. */
DEVICE void cuda_delta_gates_row(const struct cuda_delta_back *p, const struct cuda_delta_gates *t, int64_t row, float gain, int there)
{
    const int lane = THREAD % CUDA_DELTA_LANES, dim = p->form.key_dim;
    float *sums = t->sums + row * p->sums_token, *dg = sums + 2 * p->padded, *of_beta = sums + 3 * p->padded, all = 0.0f, term = 0.0f;
    if (there && lane == 0) {
        const float raw = rondo__element(t->beta, row * t->beta_stride, p->form.beta_type);
        float dbeta = cuda_delta_over_leaves(p, of_beta);
        dbeta = p->form.beta != RONDO_BETA_PLAIN ? dbeta * cuda_delta_slope(raw) : dbeta;
        cuda_delta_add(t->dbeta, row * t->dbeta_stride, p->beta_type, p->accumulate, p->form.beta == RONDO_BETA_SIGMOID2 ? 2.0f * dbeta : dbeta);
    }
    for (int d = lane; d < dim && there; d += CUDA_DELTA_LANES) {
        const float sum = cuda_delta_over_leaves(p, dg + d);
        if (p->form.gate_dim == 1) {
            all = sum + all;
            continue;
        }
        const float dz = cuda_delta_gate_back(p, t, sum, rondo__element(t->g, row * t->g_stride + d, p->form.gate_type), d, gain, &term);
        dg[d] = dz;
        cuda_delta_add(t->dg, row * t->dg_stride + d, p->g_type, p->accumulate, dz);
    }
    if (p->form.gate_dim == 1) {
        all = cuda_delta_fold_lanes(all);
        if (there && lane == 0) {
            const float dz = cuda_delta_gate_back(p, t, all, rondo__element(t->g, row * t->g_stride, p->form.gate_type), 0, gain, &term);
            dg[0] = dz;
            cuda_delta_add(t->dg, row * t->dg_stride, p->g_type, p->accumulate, dz);
        }
    }
    term = cuda_delta_fold_lanes(term);
    if (there && lane == 0)
        *of_beta = term;
}

DEVICE void cuda_delta_gates_of(const struct cuda_delta_back *p, const struct cuda_delta_gates *t)
{
    const float gain = t->a_log ? rondo__exp(*t->a_log) : 1.0f;
    const int each = CUDA_THREADS / CUDA_DELTA_LANES;
    ROLLED
    for (int64_t first = 0; first < t->rows; first += each) {
        const int64_t row = first + THREAD / CUDA_DELTA_LANES;
        cuda_delta_gates_row(p, t, row, gain, row < t->rows);
    }
    BARRIER();
    /* sums over tokens, from the last one back; behind those of the channels that of A_log */
    for (int d = THREAD; d <= p->form.gate_dim && t->to; d += CUDA_THREADS) {
        const float *term = t->sums + (d < p->form.gate_dim ? 2 * p->padded + d : 3 * p->padded);
        float sum = t->from ? t->from[d] : 0.0f;
        for (int64_t row = t->rows - 1; row >= 0; row--)
            sum = term[row * p->sums_token] + sum;
        rondo__put_element(t->to, d, RONDO_F32, sum);
    }
}

/* A row of dq or dk by 16 lanes; `sums` of its number 0. */
DEVICE void cuda_delta_key_row(const struct cuda_delta_back *p, float *sums, const void *from, int64_t place, void *to, int64_t to_place, int type, int there)
{
    const int lane = THREAD % CUDA_DELTA_LANES, dim = there ? p->form.key_dim : 0, of = p->form.type;
    float square = 0.0f, along = 0.0f;
    if (!p->form.norm) {
        for (int d = lane; d < dim; d += CUDA_DELTA_LANES)
            cuda_delta_add(to, to_place + d, type, p->accumulate, cuda_delta_over_heads(p, sums + d));
        return;
    }
    for (int d = lane; d < dim; d += CUDA_DELTA_LANES) {
        const float x = rondo__element(from, place + d, of);
        square = NUM_FMA(x, x, square);
    }
    const float r = 1.0f / NUM_SQRT(cuda_delta_fold_lanes(square) + CUDA_DELTA_EPS);
    for (int d = lane; d < dim; d += CUDA_DELTA_LANES) {
        const float dy = cuda_delta_over_heads(p, sums + d), x = rondo__element(from, place + d, of) * r;
        sums[d] = dy;
        along = NUM_FMA(x, dy, along);
    }
    const float m = cuda_delta_fold_lanes(along);
    for (int d = lane; d < dim; d += CUDA_DELTA_LANES) {
        const float x = rondo__element(from, place + d, of) * r;
        cuda_delta_add(to, to_place + d, type, p->accumulate, NUM_FMA(-x, m, sums[d]) * r);
    }
}

DEVICE void cuda_delta_keys_of(const struct cuda_delta_back *p, const struct cuda_delta_keys *t)
{
    ROLLED
    for (int64_t first = 0; first < t->rows; first += CUDA_THREADS / CUDA_DELTA_LANES) {
        const int64_t row = first + THREAD / CUDA_DELTA_LANES;
        float *sums = t->sums + row * p->sums_token;
        cuda_delta_key_row(p, sums, t->q, row * t->q_stride, t->dq, row * t->dq_stride, p->q_type, row < t->rows);
        cuda_delta_key_row(p, sums + p->padded, t->k, row * t->k_stride, t->dk, row * t->dk_stride, p->k_type, row < t->rows);
    }
}

DEVICE void cuda_delta_back_tokens_kernel(const struct cuda_delta_back *p)
{
    ROLLED
    for (int64_t number = BLOCK; number < p->gate_count + p->key_count; number += BLOCKS)
        if (number < p->gate_count)
            cuda_delta_gates_of(p, p->gates + number);
        else
            cuda_delta_keys_of(p, p->keys + (number - p->gate_count));
}

#endif
