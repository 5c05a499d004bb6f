/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Nodes over leaves for tiles of one to eight rows, as decoding has them: what takes time is reading K and V, once for all the query heads that
 * share them. They come through shared memory as they are stored; a thread has a key while scores are computed, and a dimension afterwards.
 */
#ifndef RONDO_CUDA_ATTENTION_THIN_H
#define RONDO_CUDA_ATTENTION_THIN_H

#include "backends/cuda/attention_tile.h"

#define CUDA_THIN_PITCH (CUDA_THIN_BYTES + 16)      /* bytes from key to key of a stage of K */

struct cuda_thin_memory {
    char *stage;                   /* [2][CUDA_STAGE] */
    float *q;                      /* [head_dim][R] */
    float *weights;                /* [leaf_size][R] */
    float *k_scale, *v_scale;      /* [leaf_size] */
    float *most;                   /* [4][8]: a warp's M of each row; then its oddity, [4] */
    float *l;                      /* [8] */
    struct cuda_row *row;          /* [8] */
    struct cuda_known *known;
    float *stack;                  /* of nodes, in shared memory where it fits */
};

DEVICE struct cuda_thin_memory cuda_thin_memory_of(const struct cuda_attention *p, char *shared, int R)
{
    struct cuda_thin_memory m;
    m.stage = shared;
    m.q = (float *)(void *)(shared + 2 * CUDA_STAGE);
    m.weights = m.q + (p->head_dim + 3) / 4 * 4 * R;
    m.k_scale = m.weights + p->leaf_size * R;
    m.v_scale = m.k_scale + p->leaf_size;
    m.row = (struct cuda_row *)(void *)(m.v_scale + p->leaf_size);
    m.known = (struct cuda_known *)(void *)(m.row + CUDA_THIN);
    m.most = (float *)(void *)((char *)m.known + CUDA_KNOWN);
    m.l = m.most + 4 * CUDA_THIN + 4;
    m.stack = m.l + CUDA_THIN;
    return m;
}

/* Bytes [b0, b0 + bytes) of each of `rows` rows, as far as there are (`end`); stride: bytes. */
DEVICE void cuda_stage_bytes(char *to, int pitch, int rows, const char *from, int64_t stride, int b0, int bytes, int end, int grain)
{
    const int pieces = bytes / grain;
    if (grain == 16) {
        const int step = CUDA_THREADS / pieces, b = THREAD % pieces * 16;
        const char *f = from + THREAD / pieces * stride + b0 + b;
        char *t = to + THREAD / pieces * pitch + b;
        if (b0 + b >= end)
            return;
        if (rows == CUDA_COLUMNS) {
            UNROLL
            for (int n = 0; n < CUDA_COLUMNS / step; n++)
                COPY16(t + n * step * pitch, f + n * step * stride, 1);
            return;
        }
        ROLLED
        for (int row = THREAD / pieces; row < rows; row += step, f += step * stride, t += step * pitch)
            COPY16(t, f, 1);
        return;
    }
    for (int i = THREAD; i < rows * pieces; i += CUDA_THREADS) {
        const int row = i / pieces, b = i % pieces * grain;
        if (b0 + b >= end)
            continue;
        if (grain == 4)
            COPY4(to + row * pitch + b, from + row * stride + b0 + b, 1);
        else
            to[row * pitch + b] = from[row * stride + b0 + b];
    }
}

DEVICE void cuda_stage_any(char *to, int pitch, int rows, const char *from, int64_t stride, int b0, int bytes, int end, int grain)
{
    if (grain == 16)
        cuda_stage_bytes(to, pitch, rows, from, stride, b0, bytes, end, 16);
    else if (grain == 4)
        cuda_stage_bytes(to, pitch, rows, from, stride, b0, bytes, end, 4);
    else
        cuda_stage_bytes(to, pitch, rows, from, stride, b0, bytes, end, 1);
}

DEVICE int cuda_size(int type) { return type == RONDO_F32 ? 4 : type == RONDO_Q8 ? 1 : 2; }

/* A Q8 row's scale lies behind its numbers. */
DEVICE float cuda_scale_of(const void *rows, int64_t at, int dim)
{
    float scale;
    memcpy(&scale, (const char *)rows + at + dim, sizeof scale);
    return scale;
}

DEVICE int cuda_thin_step(int size) { return size == 4 ? 64 : CUDA_COLUMNS; }   /* keys of a stage of V */

/* Bytes of K from b0 on, of keys from `key` on. */
DEVICE void cuda_thin_stage_k(const struct cuda_attention *p, const struct cuda_thin_memory *m, const struct cuda_leaf *f, int size, int key, int b0, int parity)
{
    const struct cuda_run *run = &m->known->run;
    const int lo = cuda_maximum(key, f->lo), keys = cuda_minimum(f->hi, key + CUDA_COLUMNS) - lo;
    cuda_stage_any(m->stage + parity * CUDA_STAGE + (lo - key) * CUDA_THIN_PITCH, CUDA_THIN_PITCH, keys,
                   (const char *)run->k + (f->k_at + lo * run->k_row) * size, run->k_row * size, b0, CUDA_THIN_BYTES, p->head_dim * size, run->k_grain);
    if (p->kv_type == RONDO_Q8 && b0 == 0 && THREAD < keys)
        m->k_scale[lo + THREAD] = cuda_scale_of(run->k, f->k_at + (lo + THREAD) * run->k_row, p->head_dim);
    COPY_CLOSE();
}

/* Dimensions of V from d0 on. */
DEVICE void cuda_thin_stage_v(const struct cuda_attention *p, const struct cuda_thin_memory *m, const struct cuda_leaf *f, int size, int key, int d0, int parity)
{
    const struct cuda_run *run = &m->known->run;
    const int step = cuda_thin_step(size), lo = cuda_maximum(key, f->lo), keys = cuda_minimum(f->hi, key + step) - lo;
    const char *from = (const char *)run->v + (f->v_at + lo * run->v_row) * size;
    char *to = m->stage + parity * CUDA_STAGE + (lo - key) * CUDA_COLUMNS * size;
    if (size == 2)
        cuda_stage_any(to, CUDA_COLUMNS * 2, keys, from, run->v_row * 2, d0 * 2, CUDA_COLUMNS * 2, p->value_dim * 2, run->v_grain);
    else if (size == 4)
        cuda_stage_any(to, CUDA_COLUMNS * 4, keys, from, run->v_row * 4, d0 * 4, CUDA_COLUMNS * 4, p->value_dim * 4, run->v_grain);
    else
        cuda_stage_any(to, CUDA_COLUMNS, keys, from, run->v_row, d0, CUDA_COLUMNS, p->value_dim, run->v_grain);
    if (p->kv_type == RONDO_Q8 && d0 == 0 && THREAD < keys)
        m->v_scale[lo + THREAD] = cuda_scale_of(run->v, f->v_at + (lo + THREAD) * run->v_row, p->value_dim);
    COPY_CLOSE();
}

/* R numbers of shared memory, by as few instructions as can be; `from` is a multiple of R floats. */
DEVICE void cuda_read(float *to, const float *from, int R)
{
    if (R >= 4) {
        UNROLL
        for (int r = 0; r < CUDA_THIN; r += 4)
            if (r < R) {
                const struct quad q = *(const struct quad *)(const void *)(from + r);
                to[r] = q.a, to[r + 1] = q.b, to[r + 2] = q.c, to[r + 3] = q.d;
            }
        return;
    }
    to[0] = from[0];
    if (R == 2)
        to[1] = from[1];
}

/* One product of each row's chain. */
DEVICE void cuda_link(float *s, const float *q, float x, int R)
{
    float a[CUDA_THIN];
    cuda_read(a, q, R);
    UNROLL
    for (int r = 0; r < CUDA_THIN; r++)
        if (r < R)
            s[r] = NUM_FMA(a[r], x, s[r]);
}

/* R chains go on over n numbers that lie at `from`, with those of q, [n][R]. Also of a linear layer, whose x is q. */
DEVICE void cuda_thin_chain(float *s, const float *q, const char *from, int n, int type, float scale, int R)
{
    int k = 0;
    if (type == RONDO_F32) {
        ROLLED
        for (; k + 4 <= n; k += 4) {
            const struct quad x = *(const struct quad *)(const void *)(from + 4 * k);
            cuda_link(s, q + (k + 1) * R, x.b, R);
            cuda_link(s, q + k * R, x.a, R);
            cuda_link(s, q + (k + 3) * R, x.d, R);
            cuda_link(s, q + (k + 2) * R, x.c, R);
        }
    } else if (type == RONDO_Q8) {     /* a layer's group may begin anywhere */
        ROLLED
        for (; k + 16 <= n && ((uintptr_t)from & 15) == 0; k += 16) {
            int8_t b[16];
            const struct quad x = *(const struct quad *)(const void *)(from + k);
            memcpy(b, &x, sizeof b);
            UNROLL
            for (int i = 0; i < 16; i++)
                cuda_link(s, q + (k + (i ^ 1)) * R, (float)b[i ^ 1] * scale, R);
        }
    } else {
        ROLLED
        for (; k + 8 <= n; k += 8) {
            uint32_t w[4];
            const struct quad x = *(const struct quad *)(const void *)(from + 2 * k);
            memcpy(w, &x, sizeof w);
            UNROLL
            for (int i = 0; i < 4; i++) {
                cuda_link(s, q + (k + 2 * i + 1) * R, cuda_high(w[i], type), R);
                cuda_link(s, q + (k + 2 * i) * R, cuda_low(w[i], type), R);
            }
        }
    }
    ROLLED
    for (const int end = n + (n & 1); k < end; k++) {
        const int c = k ^ 1;
        if (c < n)
            cuda_link(s, q + c * R, type == RONDO_Q8 ? (float)((const int8_t *)from)[c] * scale : rondo__element(from, c, type), R);
    }
}

DEVICE void cuda_thin_chain_typed(float *s, const float *q, const char *from, int n, int type, float scale, int R)
{
    if (type == RONDO_F32)
        cuda_thin_chain(s, q, from, n, RONDO_F32, 1.0f, R);
    else if (type == RONDO_BF16)
        cuda_thin_chain(s, q, from, n, RONDO_BF16, 1.0f, R);
    else if (type == RONDO_F16)
        cuda_thin_chain(s, q, from, n, RONDO_F16, 1.0f, R);
    else
        cuda_thin_chain(s, q, from, n, RONDO_Q8, scale, R);
}

/* One key's values. */
DEVICE void cuda_thin_value(float *acc, const float *w, float v, int R, int odd)
{
    float a[CUDA_THIN];
    cuda_read(a, w, R);
    UNROLL
    for (int r = 0; r < CUDA_THIN; r++)
        if (r < R)
            acc[r] = cuda_value(a[r], v, acc[r], odd);
}

/* The keys of a stage, in pairs; eight at a time are fetched together. */
DEVICE void cuda_thin_values(float *acc, float *l, const float *w, const float *own, const char *v, const float *scale, int n, int type, int R, int odd,
                             int sums)
{
    int k = 0;
    ROLLED
    for (; k + 8 <= n; k += 8) {
        float x[8], o[8];
        UNROLL
        for (int i = 0; i < 8; i++) {
            x[i] = type == RONDO_Q8 ? (float)((const int8_t *)v)[(k + i) * CUDA_COLUMNS] * scale[k + i] : rondo__element(v, (k + i) * CUDA_COLUMNS, type);
            o[i] = sums ? own[(k + i) * R] : 0.0f;
        }
        UNROLL
        for (int i = 0; i < 8; i++) {
            cuda_thin_value(acc, w + (k + (i ^ 1)) * R, x[i ^ 1], R, odd);
            if (sums)
                *l = cuda_sum(*l, o[i ^ 1]);
        }
    }
    ROLLED
    for (const int end = n + (n & 1); k < end; k++) {
        const int key = k ^ 1;
        if (key >= n)
            continue;
        const float x = type == RONDO_Q8 ? (float)((const int8_t *)v)[key * CUDA_COLUMNS] * scale[key] : rondo__element(v, key * CUDA_COLUMNS, type);
        cuda_thin_value(acc, w + key * R, x, R, odd);
        if (sums)
            *l = cuda_sum(*l, own[key * R]);
    }
}

DEVICE void cuda_thin_values_typed(float *acc, float *l, const float *w, const float *own, const char *v, const float *scale, int n, int type, int R,
                                   int odd, int sums)
{
    if (type == RONDO_F32 && !odd)
        cuda_thin_values(acc, l, w, own, v, scale, n, RONDO_F32, R, 0, sums);
    else if (type == RONDO_BF16 && !odd)
        cuda_thin_values(acc, l, w, own, v, scale, n, RONDO_BF16, R, 0, sums);
    else if (type == RONDO_F16 && !odd)
        cuda_thin_values(acc, l, w, own, v, scale, n, RONDO_F16, R, 0, sums);
    else if (type == RONDO_Q8 && !odd)
        cuda_thin_values(acc, l, w, own, v, scale, n, RONDO_Q8, R, 0, sums);
    else
        cuda_thin_values(acc, l, w, own, v, scale, n, type, R, 1, sums);
}

/* Scores of the thread's key, of all rows: x to shared memory, M grows. */
DEVICE void cuda_thin_scores(const struct cuda_attention *p, const struct cuda_bind *bind, const struct cuda_thin_memory *m, const struct cuda_leaf *f, int key,
                             const float *s, float *M, float *odd, int R, int terms)
{
    const struct cuda_tile *tile = &m->known->tile;
    const struct cuda_job *job = &m->known->job;
    const struct rondo_leaf *leaf = &f->leaf;
    const int64_t view = f->view;
    if (key >= leaf->count)
        return;
    UNROLL
    for (int r = 0; r < CUDA_THIN; r++) {
        if (r >= R)
            continue;
        float x = s[r] * p->scale_log2;
        int seen = 1;
        if (r < tile->rows) {
            const int hq = terms ? tile->kv_head * job->group + (int)((tile->first + r) % job->group) : 0;
            const int64_t position = leaf->first + (int64_t)key * leaf->step;
            seen = position >= m->row[r].lo && position < m->row[r].hi;
            if (seen && view >= 0)
                seen = (int)(p->bits[(view + r) * 4 + key / 64] >> (key % 64) & 1);
            if (terms && seen)
                seen = cuda_score(p, bind, s[r], m->row[r].p, position, p->head + job->head + hq, hq, &x);
        }
        const float n = cuda_rint(x);
        if (seen && n > M[r])
            M[r] = n;
        if (!seen || p->terms.drop)
            *odd = 1.0f;
        m->weights[key * R + r] = seen ? x : rondo__float(CUDA_HIDDEN);
    }
}

DEVICE void cuda_thin_weights(const struct cuda_attention *p, const struct cuda_thin_memory *m, const struct rondo_leaf *leaf, const float *M, int R, int terms)
{
    const struct cuda_tile *tile = &m->known->tile;
    const struct cuda_job *job = &m->known->job;
    for (int key = THREAD; key < leaf->count; key += CUDA_THREADS) {
        UNROLL
        for (int r = 0; r < CUDA_THIN; r++) {
            if (r >= R)
                continue;
            const float x = m->weights[key * R + r], n = cuda_rint(x);
            float w = cuda_weight(x - n, n - M[r]);
            if (rondo__bits(x) == CUDA_HIDDEN)
                w = CUDA_UNSEEN;
            else if (terms && r < tile->rows &&
                     cuda_dropped(p, job->sequence, p->head + job->head + tile->kv_head * job->group + (int)((tile->first + r) % job->group),
                                  m->row[r].p, leaf->first + (int64_t)key * leaf->step))
                w = cuda_drop(w);
            m->weights[key * R + r] = w;
        }
    }
}

/* As cuda_node(): the thread has dimension d of all rows. */
DEVICE void cuda_thin_node(const struct cuda_attention *p, const struct cuda_thin_memory *m, float *acc, const float *leaf_M, int d, int is_last, int top,
                           int merges, float *stack, float *last, int R)
{
    const struct cuda_tile *tile = &m->known->tile;
    const int dim = p->value_dim;
    const int64_t level = (int64_t)R * (dim + 2);
    float *to = last ? last : stack + (top - merges) * level;
    float Ms[CUDA_THIN] = { 0.0f }, ls[CUDA_THIN] = { 0.0f };
    UNROLL
    for (int r = 0; r < CUDA_THIN; r++) {
        if (r >= R)
            continue;
        float l = m->l[r], M = l != l ? FLT_MAX : leaf_M[r];
        ROLLED
        for (int n = 1; n <= merges; n++) {
            const float *from = stack + (top - n) * level;
            float left, right;
            cuda_merge(from[R * dim + r], from[R * dim + R + r], &M, &l, &left, &right);
            if (d < dim)
                acc[r] = NUM_FMA(from[r * dim + d], left, acc[r] * right);
        }
        if (d < dim && (!last || r < tile->rows))
            to[r * dim + d] = acc[r];
        Ms[r] = M;
        ls[r] = l;
    }
    BARRIER();
    UNROLL
    for (int r = 0; r < CUDA_THIN; r++)
        if (r < R && is_last && THREAD == r) {
            to[R * dim + r] = Ms[r];
            to[R * dim + R + r] = ls[r];
        }
}

/* M of all warps, and whether any thread's keys are unseen or dropped: M and the answer are the same in all threads. */
DEVICE int cuda_thin_most(const struct cuda_thin_memory *m, float *M, float odd, int R)
{
    int is_odd = 0;
    UNROLL
    for (int other = 1; other < 32; other *= 2) {
        UNROLL
        for (int r = 0; r < CUDA_THIN; r++)
            if (r < R) {
                const float x = SHUFFLE_XOR(M[r], other);
                M[r] = x > M[r] ? x : M[r];
            }
        odd = odd + SHUFFLE_XOR(odd, other);
    }
    if (THREAD % 32 == 0) {
        UNROLL
        for (int r = 0; r < CUDA_THIN; r++)
            if (r < R)
                m->most[THREAD / 32 * CUDA_THIN + r] = M[r];
        m->most[4 * CUDA_THIN + THREAD / 32] = odd;
    }
    BARRIER();
    UNROLL
    for (int w = 0; w < 4; w++) {
        UNROLL
        for (int r = 0; r < CUDA_THIN; r++)
            if (r < R)
                M[r] = m->most[w * CUDA_THIN + r] > M[r] ? m->most[w * CUDA_THIN + r] : M[r];
        is_odd |= m->most[4 * CUDA_THIN + w] != 0.0f;
    }
    return is_odd;
}

DEVICE void cuda_thin_zero(float *s)
{
    UNROLL
    for (int r = 0; r < CUDA_THIN; r++)
        s[r] = 0.0f;
}

/* The node of a leaf that nobody sees. */
DEVICE void cuda_thin_nothing(const struct cuda_attention *p, const struct cuda_thin_memory *m, float *s, const float *M, int top, int merges, float *stack,
                              float *last, int R)
{
    BARRIER();
    if (THREAD < R)
        m->l[THREAD] = 0.0f;
    BARRIER();
    ROLLED
    for (int d0 = 0; d0 < p->value_dim; d0 += CUDA_COLUMNS) {
        cuda_thin_zero(s);
        cuda_thin_node(p, m, s, M, d0 + THREAD, d0 + CUDA_COLUMNS >= p->value_dim, top, merges, stack, last, R);
    }
}

DEVICE void cuda_thin_item(const struct cuda_attention *p, int64_t number, const struct cuda_thin_memory *m, float *stack, int R, int terms)
{
    struct cuda_known *known = m->known;
    const struct cuda_tile *tile = &known->tile;
    const int size = cuda_size(p->kv_type), k_bytes = p->head_dim * size, step = cuda_thin_step(size);
    float s[CUDA_THIN] = { 0.0f }, M[CUDA_THIN], l;
    int top = 0, parity = 0, now = 0;

    BARRIER();
    if (THREAD == 0)
        cuda_know(p, number, known);
    BARRIER();
    const struct cuda_bind *bind = p->binds + (tile->job - p->first_job);
    const int64_t begin = known->item.first, end = known->item.end;
    if (known->leaf[0].number < end)
        cuda_thin_stage_k(p, m, &known->leaf[0], size, 0, 0, 0);
    if (THREAD < tile->rows)
        m->row[THREAD] = p->rows[known->job.rows + (tile->first + THREAD) / known->job.group];
    for (int i = THREAD; i < p->head_dim * R; i += CUDA_THREADS) {
        const int d = i / R, r = i % R;
        m->q[i] = r < tile->rows ? rondo__element(p->q, bind->q + cuda_row_at(&known->job, tile, tile->first + r, p->q_row, p->q_head) + d, p->q_type) : 0.0f;
    }
    ROLLED
    for (int64_t i = begin; i < end; i++) {
        const struct cuda_leaf *f = known->leaf + now;
        const int merges = rondo__run_merges(i, begin, end);
        float *const last = i + 1 == end ? p->nodes + known->item.nodes : (float *)0;
        float odd = 0.0f;
        int is_odd = 0;
        UNROLL
        for (int r = 0; r < CUDA_THIN; r++)
            M[r] = -FLT_MAX;
        if (i != f->number) {
            cuda_thin_nothing(p, m, s, M, top, merges, stack, last, R);
            top += 1 - merges;
            continue;
        }
        const int count = (int)f->leaf.count;
        ROLLED
        for (int key0 = 0; key0 < count; key0 += CUDA_COLUMNS) {
            const int key = key0 + THREAD;
            cuda_thin_zero(s);
            ROLLED
            for (int b0 = 0; b0 < k_bytes; b0 += CUDA_THIN_BYTES, parity ^= 1) {
                COPY_WAIT(0);
                BARRIER();
                if (b0 + CUDA_THIN_BYTES < k_bytes)
                    cuda_thin_stage_k(p, m, f, size, key0, b0 + CUDA_THIN_BYTES, parity ^ 1);
                else if (key0 + CUDA_COLUMNS < count)
                    cuda_thin_stage_k(p, m, f, size, key0 + CUDA_COLUMNS, 0, parity ^ 1);
                else
                    cuda_thin_stage_v(p, m, f, size, 0, 0, parity ^ 1);
                if (b0 == 0 && key0 == 0 && THREAD == CUDA_THREADS - 1)
                    cuda_next_leaf(p, &known->item, tile, &known->run, i + 1, known->leaf + (now ^ 1));
                if (key < count)
                    cuda_thin_chain_typed(s, m->q + b0 / size * R, m->stage + parity * CUDA_STAGE + THREAD * CUDA_THIN_PITCH,
                                          cuda_minimum(k_bytes - b0, CUDA_THIN_BYTES) / size, p->kv_type, m->k_scale[key], R);
            }
            cuda_thin_scores(p, bind, m, f, key, s, M, &odd, R, terms);
        }
        is_odd = cuda_thin_most(m, M, odd, R);
        cuda_thin_weights(p, m, &f->leaf, M, R, terms);
        l = 0.0f;
        ROLLED
        for (int d0 = 0; d0 < p->value_dim; d0 += CUDA_COLUMNS) {
            cuda_thin_zero(s);
            ROLLED
            for (int key = 0; key < count; key += step, parity ^= 1) {
                COPY_WAIT(0);
                BARRIER();
                if (key + step < count)
                    cuda_thin_stage_v(p, m, f, size, key + step, d0, parity ^ 1);
                else if (d0 + CUDA_COLUMNS < p->value_dim)
                    cuda_thin_stage_v(p, m, f, size, 0, d0 + CUDA_COLUMNS, parity ^ 1);
                else if (known->leaf[now ^ 1].number < end)
                    cuda_thin_stage_k(p, m, known->leaf + (now ^ 1), size, 0, 0, parity ^ 1);
                cuda_thin_values_typed(s, &l, m->weights + key * R, m->weights + key * R + THREAD % R, m->stage + parity * CUDA_STAGE + THREAD * size,
                                       m->v_scale + key, cuda_minimum(count - key, step), p->kv_type, R, is_odd, d0 == 0);
            }
            if (d0 == 0) {
                if (THREAD < R)
                    m->l[THREAD] = l;
                BARRIER();
            }
            cuda_thin_node(p, m, s, M, d0 + THREAD, d0 + CUDA_COLUMNS >= p->value_dim, top, merges, stack, last, R);
        }
        top += 1 - merges;
        now ^= 1;
    }
}

DEVICE void cuda_thin_kernel(const struct cuda_attention *p, char *shared, int R, int terms)
{
    const struct cuda_thin_memory m = cuda_thin_memory_of(p, shared, R);
    ROLLED
    for (int64_t i = p->first + BLOCK; i < p->first + p->count; i += BLOCKS) {
        if (p->levels)
            cuda_thin_item(p, i, &m, m.stack, R, terms);
        else
            cuda_thin_item(p, i, &m, p->stack + BLOCK * p->stack_floats, R, terms);
    }
}

#endif
