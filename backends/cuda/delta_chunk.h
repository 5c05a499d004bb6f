/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The delta rule in chunks (rule 16 of rondo-numerics(7); backends/cpu/ref_delta_chunk.c is the definition, whose steps these are): a second way to the
 * results of delta.h, to hold it against, and not a faster one. A block takes 32 columns of a state; four threads have a column, each one of its four
 * chains, as in delta.h, and products of keys have four threads, too.
 */
#ifndef RONDO_CUDA_DELTA_CHUNK_H
#define RONDO_CUDA_DELTA_CHUNK_H

#include "backends/cuda/delta.h"

/* What a block has of the chunk that it is in; vectors of key_dim numbers are [4][chain]. */
struct cuda_delta_chunk {
    float *tokens;                         /* [p->tokens]: k, decays and q of some tokens */
    float *betas, *keys;                   /* [chunk]: keys as they have decayed so far */
    float *before, *since, *near_k, *near_q;   /* decays of the blocks before this one, and of its tokens so far; k and q as they meet what there was */
    float *s, *x;                          /* [key_dim][32]: the state before the chunk; [chunk][32]: what its tokens have written */
    float *reads, *outs;                   /* [4][32] of chains */
    float *l, *m;                          /* [chunk]: what the token reads of each write, by its key and by its query */
};

DEVICE struct cuda_delta_chunk cuda_delta_chunk_room(const struct cuda_delta *p, float *shared)
{
    const int vector = 4 * p->chain;
    struct cuda_delta_chunk x;
    x.tokens = shared;
    x.keys = x.tokens + p->tokens * 3 * vector;
    x.before = x.keys + p->chunk * vector;
    x.since = x.before + vector;
    x.near_k = x.since + vector;
    x.near_q = x.near_k + vector;
    x.s = x.near_q + vector;
    x.x = x.s + p->key_dim * CUDA_DELTA_COLUMNS;
    x.reads = x.x + p->chunk * CUDA_DELTA_COLUMNS;
    x.outs = x.reads + CUDA_THREADS;
    x.l = x.outs + CUDA_THREADS;
    x.m = x.l + p->chunk;
    x.betas = x.m + p->chunk;
    return x;
}

/* Token i of the chunk, with k at `k`: what keys before it have become, by channels. */
DEVICE void cuda_delta_chunk_decay(const struct cuda_delta *p, const struct cuda_delta_chunk *x, const float *k, int i, int forward)
{
    const int vector = 4 * p->chain, first = i - i % CUDA_DELTA_BLOCK;
    for (int d = THREAD; d < p->key_dim; d += CUDA_THREADS) {
        const int at = cuda_delta_place(p, d);
        const float a = k[vector + at], since = i == first ? a : x->since[at] * a;
        if (i == 0)
            x->before[at] = 1.0f;
        x->since[at] = since;
        for (int j = first; j < i; j++)
            x->keys[j * vector + at] = a * x->keys[j * vector + at];
        x->keys[i * vector + at] = k[at];
        x->near_k[at] = k[at] * since;
        if (forward)
            x->near_q[at] = k[2 * vector + at] * since;
    }
}

/* R of rule 14, of two vectors, by four threads. */
DEVICE float cuda_delta_product(const struct cuda_delta *p, const float *a, const float *b)
{
    const int chain = THREAD % 4, rows = (p->key_dim - chain + 3) / 4;
    float sum = 0.0f;
    for (int i = 0; i < rows; i++)
        sum = NUM_FMA(a[chain * p->chain + i], b[chain * p->chain + i], sum);
    sum = sum + SHUFFLE_XOR(sum, 2);
    return sum + SHUFFLE_XOR(sum, 1);
}

DEVICE void cuda_delta_chunk_products(const struct cuda_delta *p, const struct cuda_delta_chunk *x, const float *k, int i, int forward)
{
    const int vector = 4 * p->chain, first = i - i % CUDA_DELTA_BLOCK;
    for (int base = 0; base <= i; base += CUDA_THREADS / 4) {
        const int j = cuda_minimum(base + THREAD / 4, i);
        const float *key = x->keys + j * vector, l = cuda_delta_product(p, j < first ? x->near_k : k, key);
        const float m = forward ? cuda_delta_product(p, j < first ? x->near_q : k + 2 * vector, key) : 0.0f;
        if (THREAD % 4 == 0 && base + THREAD / 4 <= i) {
            x->l[j] = l;
            x->m[j] = m;
        }
    }
}

/* A row of the system, and of what is put out. */
DEVICE void cuda_delta_chunk_solve(const struct cuda_delta *p, const struct cuda_delta_task *t, const struct cuda_delta_chunk *x, int64_t row, int i, int first,
                                   int forward)
{
    enum { C = CUDA_DELTA_COLUMNS };
    const int c = THREAD % C, j = THREAD / C, rows = (p->key_dim - j + 3) / 4;
    float read = 0.0f, out = 0.0f;
    for (int n = 0; n < rows; n++) {
        const int at = j * p->chain + n;
        const float s = x->s[(4 * n + j) * C + c], before = x->before[at];
        read = NUM_FMA(x->near_k[at] * before, s, read);
        if (forward)
            out = NUM_FMA(x->near_q[at] * before, s, out);
    }
    x->reads[THREAD] = read;
    x->outs[THREAD] = out;
    BARRIER();
    if (j == 0) {
        const float v = t->kind != CUDA_DELTA_MAP && first + c < t->columns ? rondo__element(t->v, row * t->v_stride + first + c, p->type) : 0.0f;
        float e = v - ((x->reads[c] + x->reads[2 * C + c]) + (x->reads[C + c] + x->reads[3 * C + c]));
        for (int n = 0; n < i; n++)
            e = NUM_FMA(-x->l[n], x->x[n * C + c], e);
        e = x->betas[0] * e;
        x->x[i * C + c] = e;
        if (forward) {
            float o = (x->outs[c] + x->outs[2 * C + c]) + (x->outs[C + c] + x->outs[3 * C + c]);
            for (int n = 0; n < i; n++)
                o = NUM_FMA(x->m[n], x->x[n * C + c], o);
            o = NUM_FMA(x->m[i], e, o);
            if (first + c < t->columns)
                rondo__put_element(t->out, row * t->out_stride + first + c, p->out_type, o * p->scale);
        }
    }
    BARRIER();
}

/* Behind the block whose last token is i: keys of the blocks before have decayed by all of it. */
DEVICE void cuda_delta_chunk_block(const struct cuda_delta *p, const struct cuda_delta_chunk *x, int i)
{
    const int vector = 4 * p->chain;
    for (int d = THREAD; d < p->key_dim; d += CUDA_THREADS) {
        const int at = cuda_delta_place(p, d);
        for (int j = 0; j < i - i % CUDA_DELTA_BLOCK; j++)
            x->keys[j * vector + at] = x->since[at] * x->keys[j * vector + at];
        x->before[at] = x->before[at] * x->since[at];
    }
    BARRIER();
}

DEVICE void cuda_delta_chunk_end(const struct cuda_delta *p, const struct cuda_delta_chunk *x, int tokens, int clean)
{
    const int c = THREAD % CUDA_DELTA_COLUMNS, j = THREAD / CUDA_DELTA_COLUMNS, rows = (p->key_dim - j + 3) / 4;
    for (int n = 0; n < rows; n++) {
        const int at = j * p->chain + n;
        float *held = x->s + (4 * n + j) * CUDA_DELTA_COLUMNS + c, s = x->before[at] * *held;
        for (int i = 0; i < tokens; i++)
            s = NUM_FMA(x->keys[i * 4 * p->chain + at], x->x[i * CUDA_DELTA_COLUMNS + c], s);
        *held = cuda_delta_clean(s, clean);
    }
    BARRIER();
}

/* 32 columns of a task, from `first` on. */
DEVICE void cuda_delta_chunk_columns(const struct cuda_delta *p, const struct cuda_delta_task *t, int first, float *shared)
{
    const struct cuda_delta_chunk x = cuda_delta_chunk_room(p, shared);
    const int c = THREAD % CUDA_DELTA_COLUMNS, j = THREAD / CUDA_DELTA_COLUMNS, column = first + c, there = column < t->columns;
    const int forward = t->kind == CUDA_DELTA_FORWARD, nothing = cuda_delta_nothing(p, t), slots = CUDA_THREADS / CUDA_DELTA_LANES;
    const float gain = t->a_log ? rondo__exp(*t->a_log) : 1.0f;
    for (int d = j; d < p->key_dim; d += 4)
        x.s[d * CUDA_DELTA_COLUMNS + c] = cuda_delta_begin(t, d, column, there);
    ROLLED
    for (int64_t row = 0; row < t->rows && !nothing; row++) {
        const int i = (int)(row % p->chunk), n = (int)(row % p->tokens), ends = i == p->chunk - 1 || row == t->rows - 1;
        const float *k = x.tokens + n * 12 * p->chain;
        if (n == 0)
            for (int base = 0; base < p->tokens; base += slots) {
                const int slot = base + THREAD / CUDA_DELTA_LANES, some = slot < p->tokens && row + slot < t->rows;
                cuda_delta_prepare_row(p, t, row + slot, gain, x.tokens + slot * 12 * p->chain, THREAD % CUDA_DELTA_LANES, some);
            }
        if (THREAD == 0)
            x.betas[0] = rondo__delta_beta(p->beta, rondo__element(t->beta, row * t->beta_stride, p->beta_type));
        BARRIER();
        cuda_delta_chunk_decay(p, &x, k, i, forward);
        BARRIER();
        cuda_delta_chunk_products(p, &x, k, i, forward);
        BARRIER();
        cuda_delta_chunk_solve(p, t, &x, row, i, first, forward);
        if (ends || i % CUDA_DELTA_BLOCK == CUDA_DELTA_BLOCK - 1)
            cuda_delta_chunk_block(p, &x, i);
        if (ends)
            cuda_delta_chunk_end(p, &x, i + 1, t->kind == CUDA_DELTA_MAP && row % CUDA_DELTA_CLEAN == CUDA_DELTA_CLEAN - 1);
    }
    for (int d = j; d < p->key_dim && t->to && there; d += 4)
        rondo__put_element(t->to, d * t->to_stride + column, RONDO_F32, nothing ? 0.0f : x.s[d * CUDA_DELTA_COLUMNS + c]);
    BARRIER();
}

DEVICE void cuda_delta_chunk_kernel(const struct cuda_delta *p, float *shared)
{
    ROLLED
    for (int64_t number = BLOCK; number < p->count * p->slices; number += BLOCKS) {
        const struct cuda_delta_task *t = p->tasks + number / p->slices;
        const int first = (int)(number % p->slices) * CUDA_DELTA_COLUMNS;
        if (t->kind == CUDA_DELTA_BOUND) {
            if (first == 0)
                cuda_delta_bound(p, t, (double *)(void *)shared, CUDA_THREADS);
        } else if (first < t->columns) {
            cuda_delta_chunk_columns(p, t, first, shared);
        }
    }
}

#endif
