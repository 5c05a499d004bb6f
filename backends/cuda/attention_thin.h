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
    m.most = (float *)(void *)(m.row + CUDA_THIN);
    m.l = m.most + 4 * CUDA_THIN + 4;
    return m;
}

/* Bytes [b0, b0 + bytes) of each of `rows` rows, as far as there are (`end`); stride: bytes. */
DEVICE void cuda_stage_bytes(char *to, int pitch, int rows, const char *from, int64_t stride, int b0, int bytes, int end, int grain)
{
    const int pieces = bytes / grain;
    for (int i = THREAD; i < rows * pieces; i += CUDA_THREADS) {
        const int row = i / pieces, b = i % pieces * grain;
        if (b0 + b >= end)
            continue;
        if (grain == 16)
            COPY16(to + row * pitch + b, from + row * stride + b0 + b, 1);
        else if (grain == 4)
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

struct cuda_thin_count {
    int size, k_bytes, k_parts, k, v_step, v_keys, all;
};
DEVICE struct cuda_thin_count cuda_thin_count_of(const struct cuda_attention *p, const struct rondo_leaf *leaf)
{
    struct cuda_thin_count n;
    n.size = cuda_size(p->kv_type);
    n.k_bytes = p->head_dim * n.size;
    n.k_parts = cuda_chunks(n.k_bytes, CUDA_THIN_BYTES);
    n.k = n.k_parts * cuda_chunks(leaf->count, CUDA_COLUMNS);
    n.v_step = n.size == 4 ? 64 : CUDA_COLUMNS;
    n.v_keys = cuda_chunks(leaf->count, n.v_step);
    n.all = n.k + n.v_keys * cuda_chunks(p->value_dim, CUDA_COLUMNS);
    return n;
}

/* A Q8 row's scale lies behind its numbers. */
DEVICE float cuda_scale_of(const void *rows, int64_t at, int dim)
{
    float scale;
    memcpy(&scale, (const char *)rows + at + dim, sizeof scale);
    return scale;
}

DEVICE void cuda_thin_stage(const struct cuda_attention *p, const struct cuda_thin_memory *m, const struct cuda_leaf *f, int c, int parity)
{
    const struct cuda_thin_count n = cuda_thin_count_of(p, &f->leaf);
    char *to = m->stage + parity * CUDA_STAGE;
    if (c < n.k) {
        const int key = c / n.k_parts * CUDA_COLUMNS, lo = cuda_maximum(key, f->lo), keys = cuda_minimum(f->hi, key + CUDA_COLUMNS) - lo;
        const int b0 = c % n.k_parts * CUDA_THIN_BYTES;
        cuda_stage_any(to + (lo - key) * CUDA_THIN_PITCH, CUDA_THIN_PITCH, keys, (const char *)f->k + (f->k_at + lo * f->k_row) * n.size,
                       f->k_row * n.size, b0, CUDA_THIN_BYTES, n.k_bytes, f->k_grain);
        if (p->kv_type == RONDO_Q8 && b0 == 0 && THREAD < keys)
            m->k_scale[lo + THREAD] = cuda_scale_of(f->k, f->k_at + (lo + THREAD) * f->k_row, p->head_dim);
    } else {
        const int key = (c - n.k) % n.v_keys * n.v_step, d0 = (c - n.k) / n.v_keys * CUDA_COLUMNS;
        const int lo = cuda_maximum(key, f->lo), keys = cuda_minimum(f->hi, key + n.v_step) - lo;
        cuda_stage_any(to + (lo - key) * CUDA_COLUMNS * n.size, CUDA_COLUMNS * n.size, keys, (const char *)f->v + (f->v_at + lo * f->v_row) * n.size,
                       f->v_row * n.size, d0 * n.size, CUDA_COLUMNS * n.size, p->value_dim * n.size, f->v_grain);
        if (p->kv_type == RONDO_Q8 && d0 == 0 && THREAD < keys)
            m->v_scale[lo + THREAD] = cuda_scale_of(f->v, f->v_at + (lo + THREAD) * f->v_row, p->value_dim);
    }
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
    } else if (type == RONDO_Q8) {
        ROLLED
        for (; k + 16 <= n; k += 16) {
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

DEVICE void cuda_thin_values(float *acc, float *l, const float *w, const float *own, const char *v, const float *scale, int n, int type, int R, int odd,
                             int sums)
{
    ROLLED
    for (int k = 0; k < n; k += 2) {
        UNROLL
        for (int half = 1; half >= 0; half--) {
            const int key = k + half;
            if (key >= n)
                continue;
            const float x = type == RONDO_Q8 ? (float)((const int8_t *)v)[key * CUDA_COLUMNS] * scale[key] : rondo__element(v, key * CUDA_COLUMNS, type);
            cuda_thin_value(acc, w + key * R, x, R, odd);
            if (sums)
                *l = cuda_sum(*l, own[key * R]);
        }
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
DEVICE void cuda_thin_scores(const struct cuda_attention *p, const struct cuda_tile *tile, const struct cuda_job *job, const struct cuda_bind *bind,
                             const struct cuda_thin_memory *m, const struct rondo_leaf *leaf, int64_t view, int key, const float *s, float *M, float *odd,
                             int R, int terms)
{
    if (key >= leaf->count)
        return;
    UNROLL
    for (int r = 0; r < CUDA_THIN; r++) {
        if (r >= R)
            continue;
        float x = s[r] * p->scale_log2;
        int seen = 1;
        if (r < tile->rows) {
            const int hq = tile->kv_head * job->group + (int)((tile->first + r) % job->group);
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

DEVICE void cuda_thin_weights(const struct cuda_attention *p, const struct cuda_tile *tile, const struct cuda_job *job, const struct cuda_thin_memory *m,
                              const struct rondo_leaf *leaf, const float *M, int R, int terms)
{
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
                w = -w;
            m->weights[key * R + r] = w;
        }
    }
}

/* As cuda_node(): the thread has dimension d of all rows. */
DEVICE void cuda_thin_node(const struct cuda_attention *p, const struct cuda_tile *tile, const struct cuda_thin_memory *m, float *acc, const float *leaf_M,
                           int d, int is_last, int top, int merges, float *stack, float *last, int R)
{
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

DEVICE void cuda_thin_item(const struct cuda_attention *p, const struct cuda_item *item, const struct cuda_thin_memory *m, float *stack, int R, int terms)
{
    const struct cuda_tile tile = p->tiles[item->tile];
    const struct cuda_job job = p->jobs[tile.job];
    const struct cuda_bind *bind = p->binds + (tile.job - p->first_job);
    const struct rondo_leaf run = p->leaves[job.leaves_first + item->run];
    float s[CUDA_THIN] = { 0.0f }, M[CUDA_THIN], l = 0.0f, odd = 0.0f;
    int top = 0, parity = 0, is_odd = 0;

    BARRIER();
    struct cuda_leaf f;
    int64_t staged = cuda_next_leaf(p, item, &tile, &job, &run, item->first, &f);
    if (staged < item->end)
        cuda_thin_stage(p, m, &f, 0, 0);
    if (THREAD < tile.rows)
        m->row[THREAD] = p->rows[job.rows + (tile.first + THREAD) / job.group];
    for (int i = THREAD; i < p->head_dim * R; i += CUDA_THREADS) {
        const int d = i / R, r = i % R;
        m->q[i] = r < tile.rows ? rondo__element(p->q, bind->q + cuda_row_at(&job, &tile, tile.first + r, p->q_row, p->q_head) + d, p->q_type) : 0.0f;
    }
    ROLLED
    for (int64_t i = item->first; i < item->end; i++) {
        const int64_t view = item->views < 0 ? CUDA_VIEW_ALL : p->views[item->views + (i - item->first)];
        const int merges = rondo__run_merges(i, item->first, item->end);
        float *const last = i + 1 == item->end ? p->nodes + item->nodes : (float *)0;
        UNROLL
        for (int r = 0; r < CUDA_THIN; r++)
            M[r] = -FLT_MAX;
        odd = 0.0f;
        if (i != staged) {                 /* the node of a leaf that nobody sees */
            BARRIER();
            if (THREAD < R)
                m->l[THREAD] = 0.0f;
            BARRIER();
            ROLLED
            for (int d0 = 0; d0 < p->value_dim; d0 += CUDA_COLUMNS) {
                UNROLL
                for (int r = 0; r < CUDA_THIN; r++)
                    s[r] = 0.0f;
                cuda_thin_node(p, &tile, m, s, M, d0 + THREAD, d0 + CUDA_COLUMNS >= p->value_dim, top, merges, stack, last, R);
            }
            top += 1 - merges;
            continue;
        }
        const struct cuda_thin_count n = cuda_thin_count_of(p, &f.leaf);
        const struct rondo_leaf leaf = f.leaf;
        ROLLED
        for (int c = 0; c < n.all; c++, parity ^= 1) {
            const char *stage = m->stage + parity * CUDA_STAGE;
            COPY_WAIT(0);
            BARRIER();
            if (c + 1 < n.all) {
                cuda_thin_stage(p, m, &f, c + 1, parity ^ 1);
            } else {
                staged = cuda_next_leaf(p, item, &tile, &job, &run, i + 1, &f);
                if (staged < item->end)
                    cuda_thin_stage(p, m, &f, 0, parity ^ 1);
            }
            if (c < n.k) {
                const int b0 = c % n.k_parts * CUDA_THIN_BYTES, key = c / n.k_parts * CUDA_COLUMNS + THREAD;
                if (b0 == 0) {
                    UNROLL
                    for (int r = 0; r < CUDA_THIN; r++)
                        s[r] = 0.0f;
                }
                if (key < leaf.count)
                    cuda_thin_chain_typed(s, m->q + b0 / n.size * R, stage + THREAD * CUDA_THIN_PITCH,
                                          cuda_minimum(n.k_bytes - b0, CUDA_THIN_BYTES) / n.size, p->kv_type, m->k_scale[key], R);
                if (b0 + CUDA_THIN_BYTES >= n.k_bytes)
                    cuda_thin_scores(p, &tile, &job, bind, m, &leaf, view, key, s, M, &odd, R, terms);
                if (c == n.k - 1) {
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
                    is_odd = 0;
                    UNROLL
                    for (int w = 0; w < 4; w++) {
                        UNROLL
                        for (int r = 0; r < CUDA_THIN; r++)
                            if (r < R)
                                M[r] = m->most[w * CUDA_THIN + r] > M[r] ? m->most[w * CUDA_THIN + r] : M[r];
                        is_odd |= m->most[4 * CUDA_THIN + w] != 0.0f;
                    }
                    cuda_thin_weights(p, &tile, &job, m, &leaf, M, R, terms);
                    l = 0.0f;
                }
            } else {
                const int key = (c - n.k) % n.v_keys * n.v_step, d0 = (c - n.k) / n.v_keys * CUDA_COLUMNS, d = d0 + THREAD;
                const int keys = cuda_minimum((int)leaf.count - key, n.v_step);
                if (key == 0) {
                    UNROLL
                    for (int r = 0; r < CUDA_THIN; r++)
                        s[r] = 0.0f;
                }
                cuda_thin_values_typed(s, &l, m->weights + key * R, m->weights + key * R + THREAD % R, stage + THREAD * n.size, m->v_scale + key, keys,
                                       p->kv_type, R, is_odd, d0 == 0);
                if (key + n.v_step >= leaf.count) {
                    if (d0 == 0 && THREAD < R)
                        m->l[THREAD] = l;
                    BARRIER();
                    cuda_thin_node(p, &tile, m, s, M, d, d0 + CUDA_COLUMNS >= p->value_dim, top, merges, stack, last, R);
                }
            }
        }
        top += 1 - merges;
    }
}

DEVICE void cuda_thin_kernel(const struct cuda_attention *p, char *shared, int R, int terms)
{
    const struct cuda_thin_memory m = cuda_thin_memory_of(p, shared, R);
    ROLLED
    for (int64_t i = p->first + BLOCK; i < p->first + p->count; i += BLOCKS) {
        const struct cuda_item item = p->items[i];
        cuda_thin_item(p, &item, &m, p->stack + BLOCK * p->stack_floats, R, terms);
    }
}

#endif
