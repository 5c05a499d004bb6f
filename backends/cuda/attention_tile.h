/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Nodes over leaves for tiles of many rows: contract C2 to C6 (rondo-numerics(7); the scalar program is backends/cpu/ref_attention.c), and what
 * leaves and rows are for the other kernels too. A block takes item after item. Of an item's leaves K and V come through shared memory
 * in chunks, the next on its way while one is computed with. Scores stay in registers, weights go through shared memory to their warp;
 * a row's sum is one lane's chain. A node is joined with those before it as the tree wants, which lie in a stack in global memory.
 */
#ifndef RONDO_CUDA_ATTENTION_TILE_H
#define RONDO_CUDA_ATTENTION_TILE_H

#include "backends/cuda/tile.h"

/* In place of a weight: what a row does not see; below zero: a weight that was dropped, which counts in the row's sum only. */
#define CUDA_UNSEEN (-4.0f)

/* ---- leaves ---- */

struct cuda_leaf {
    struct rondo_leaf leaf;
    const void *k, *v;
    int64_t k_at, v_at, k_row, v_row;
    int32_t k_grain, v_grain;
    int32_t lo, hi;                /* keys that somebody in the tile sees lie in [lo, hi): others are not read */
};

/* Leaf i of a run, for a KV head of the job. */
DEVICE struct cuda_leaf cuda_leaf_of(const struct cuda_attention *p, const struct cuda_tile *tile, const struct cuda_job *job,
                                     const struct rondo_leaf *run, int64_t i)
{
    struct cuda_leaf out;
    out.leaf = rondo__run_leaf(run, rondo__run_leaves(run, p->leaf_size), i, p->leaf_size);
    const struct cuda_source *source = p->sources + out.leaf.source;
    const int64_t head = job->kv_head + tile->kv_head;
    int64_t row = out.leaf.row + p->bases[(int64_t)(tile->job - p->first_job) * p->source_count + out.leaf.source];
    if (source->pages)
        row = source->pages[row / source->page_rows] * source->page_rows + row % source->page_rows;
    out.k = source->k;
    out.v = source->v;
    out.k_at = row * source->k_row + head * source->k_head;
    out.v_at = row * source->v_row + head * source->v_head;
    out.k_row = source->k_row;
    out.v_row = source->v_row;
    out.k_grain = source->k_grain;
    out.v_grain = source->v_grain;
    out.lo = out.hi = 0;
    for (int s = 0; s < tile->sights; s++) {
        const struct cuda_interval sight = p->sight[tile->sight + s];
        int32_t lo, hi;
        rondo__visible_in_leaf(&out.leaf, sight.lo, sight.hi, &lo, &hi);
        if (lo >= hi)
            continue;
        out.lo = out.hi ? out.lo : lo;
        out.hi = hi;
    }
    return out;
}

/* Where a row of the job's tile begins in an array of [token][head]: f = token * group + head of the KV head. */
DEVICE int64_t cuda_row_at(const struct cuda_job *job, const struct cuda_tile *tile, int64_t f, int64_t row_stride, int64_t head_stride)
{
    return f / job->group * row_stride + (tile->kv_head * job->group + f % job->group) * head_stride;
}

/* C2: x of a score; false: bias hides the key. h: the head, of the plan's; hq: of the job's. */
DEVICE int cuda_score(const struct cuda_attention *p, const struct cuda_bind *bind, float s, int64_t row_p, int64_t position, int h, int hq, float *x)
{
    *x = p->terms.cap_in != 0.0f ? rondo__tanh(s * p->terms.cap_in) * p->terms.cap_out : s * p->scale_log2;
    if (p->terms.alibi) {
        const uint64_t distance = position > row_p ? (uint64_t)position - (uint64_t)row_p : (uint64_t)row_p - (uint64_t)position;
        *x = NUM_FMA(-(p->alibi[h] * RONDO_LOG2E_F), (float)distance, *x);
    }
    if (p->terms.bias) {
        const float b = p->bias[bind->bias + row_p * p->bias_row + hq * p->bias_head + position];
        *x = NUM_FMA(b, RONDO_LOG2E_F, *x);
        return b != -__builtin_inff();
    }
    return 1;
}

/* C10 */
DEVICE int cuda_dropped(const struct cuda_attention *p, int64_t sequence, int h, int64_t row_p, int64_t position)
{
    const int64_t k = position & ~(int64_t)3;
    const uint32_t key[2] = { (uint32_t)p->seed, (uint32_t)(p->seed >> 32) };
    const uint32_t counter[4] = { (uint32_t)((uint64_t)k >> 2), (uint32_t)(uint64_t)row_p, rondo__drop_place(h, row_p, k), (uint32_t)sequence };
    uint32_t words[4];
    if (!p->terms.drop)
        return 0;
    rondo__philox(words, counter, key);
    const int w = (int)(position & 3);
    return (w == 0 ? words[0] : w == 1 ? words[1] : w == 2 ? words[2] : words[3]) < p->terms.drop;
}

/* ---- a tile's part of shared memory ---- */

struct cuda_tile_memory {
    float *stage[2];               /* a chunk of K, [128][PITCH], or of V, [32][128] */
    float *q;                      /* [64][q_pitch] whole, or [2][64][PITCH] */
    float *weights;                /* [64][w_pitch] */
    float *l;                      /* [64] */
    int *lo, *hi;                  /* [64]: the keys of the leaf that a row sees */
    struct cuda_row *row;          /* [64] */
    int q_pitch, w_pitch;
};

DEVICE struct cuda_tile_memory cuda_tile_memory_of(const struct cuda_attention *p, char *shared)
{
    struct cuda_tile_memory m;
    m.stage[0] = (float *)(void *)shared;
    m.stage[1] = m.stage[0] + CUDA_COLUMNS * CUDA_PITCH;
    m.q = m.stage[1] + CUDA_COLUMNS * CUDA_PITCH;
    m.q_pitch = p->resident ? (int)cuda_q_pitch(p->head_dim) : CUDA_PITCH;
    m.w_pitch = p->leaf_size + 4;
    m.weights = m.q + (p->resident ? CUDA_TILE * m.q_pitch : 2 * CUDA_TILE * CUDA_PITCH);
    m.row = (struct cuda_row *)(void *)(m.weights + CUDA_TILE * m.w_pitch);
    m.l = (float *)(void *)(m.row + CUDA_TILE);
    m.lo = (int *)(void *)(m.l + CUDA_TILE);
    m.hi = m.lo + CUDA_TILE;
    return m;
}

/* Columns [c0, c0 + columns) of the tile's queries; columns is a multiple of 4. */
DEVICE void cuda_stage_q(const struct cuda_attention *p, const struct cuda_tile *tile, const struct cuda_job *job, const struct cuda_bind *bind,
                         float *to, int pitch, int c0, int columns)
{
    const int dim = p->head_dim, quads = columns / 4;
    if (p->q_type == RONDO_F32 && p->q_grain == 16) {
        for (int i = THREAD; i < tile->rows * quads; i += CUDA_THREADS) {
            const int row = i / quads, c = i % quads * 4;
            if (c0 + c < dim)
                COPY16(to + row * pitch + c, (const float *)p->q + bind->q + cuda_row_at(job, tile, tile->first + row, p->q_row, p->q_head) + c0 + c, 1);
        }
        return;
    }
    for (int i = THREAD; i < tile->rows * columns; i += CUDA_THREADS) {
        const int row = i / columns, c = i % columns;
        if (c0 + c < dim)
            to[row * pitch + c] = rondo__element(p->q, bind->q + cuda_row_at(job, tile, tile->first + row, p->q_row, p->q_head) + c0 + c, p->q_type);
    }
}

/* Chunks of a leaf: those of K, key block by key block, then those of V, block of dimensions by block. */
struct cuda_count {
    int k_dims, k, v_keys, all;
};
DEVICE struct cuda_count cuda_count_of(const struct cuda_attention *p, const struct rondo_leaf *leaf)
{
    struct cuda_count n;
    n.k_dims = cuda_chunks(p->head_dim, CUDA_CHUNK);
    n.k = n.k_dims * cuda_chunks(leaf->count, CUDA_COLUMNS);
    n.v_keys = cuda_chunks(leaf->count, CUDA_CHUNK);
    n.all = n.k + n.v_keys * cuda_chunks(p->value_dim, CUDA_COLUMNS);
    return n;
}

DEVICE void cuda_stage_chunk(const struct cuda_attention *p, const struct cuda_tile *tile, const struct cuda_job *job, const struct cuda_bind *bind,
                             const struct cuda_tile_memory *m, const struct cuda_leaf *f, int c, int parity)
{
    const struct cuda_count n = cuda_count_of(p, &f->leaf);
    float *to = parity ? m->stage[1] : m->stage[0];
    if (c < n.k) {
        const int key = c / n.k_dims * CUDA_COLUMNS, d = c % n.k_dims * CUDA_CHUNK;
        const int lo = cuda_maximum(key, f->lo), keys = cuda_minimum(f->hi, key + CUDA_COLUMNS) - lo;
        cuda_stage(to + (lo - key) * CUDA_PITCH, CUDA_PITCH, keys, f->k, f->k_at + lo * f->k_row, f->k_row, d, CUDA_CHUNK, p->head_dim, p->kv_type,
                   f->k_grain);
        if (!p->resident)
            cuda_stage_q(p, tile, job, bind, m->q + parity * CUDA_TILE * CUDA_PITCH, CUDA_PITCH, d, CUDA_CHUNK);
    } else {
        const int key = (c - n.k) % n.v_keys * CUDA_CHUNK, d = (c - n.k) / n.v_keys * CUDA_COLUMNS;
        const int lo = cuda_maximum(key, f->lo), keys = cuda_minimum(f->hi, key + CUDA_CHUNK) - lo;
        cuda_stage(to + (lo - key) * CUDA_COLUMNS, CUDA_COLUMNS, keys, f->v, f->v_at + lo * f->v_row, f->v_row, d, CUDA_COLUMNS, p->value_dim,
                   p->kv_type, f->v_grain);
    }
    COPY_CLOSE();
}

/* ---- weights ---- */

/* Which keys of the leaf the warp's rows see; rows that are none see all, so that they do not slow the others. */
DEVICE void cuda_visible(const struct cuda_attention *p, const struct cuda_tile *tile, const struct cuda_tile_memory *m, const struct rondo_leaf *leaf)
{
    const int r = THREAD / 32 * 16 + THREAD % 32;
    (void)p;
    if (THREAD % 32 < 16) {
        int32_t lo = 0, hi = (int32_t)leaf->count;
        if (r < tile->rows)
            rondo__visible_in_leaf(leaf, m->row[r].lo, m->row[r].hi, &lo, &hi);
        m->lo[r] = lo;
        m->hi[r] = hi;
    }
    WARP_BARRIER();
}

/* What is to be known of the thread's element (i, j) of a key block. */
DEVICE int cuda_sees(const struct cuda_attention *p, const struct cuda_tile *tile, const struct cuda_tile_memory *m, int64_t view, int r, int key)
{
    if (key < m->lo[r] || key >= m->hi[r])
        return 0;
    if (view < 0 || r >= tile->rows)
        return 1;
    return (int)(p->bits[(view + r) * 4 + key / 64] >> (key % 64) & 1);
}

/* Scores of a key block become x, in shared memory, with what is unseen marked; M[i] grows. */
#define CUDA_HIDDEN 0xffffdeadu        /* a NaN that no arithmetic of the card gives */
DEVICE void cuda_scores(const struct cuda_attention *p, const struct cuda_tile *tile, const struct cuda_job *job, const struct cuda_bind *bind,
                        const struct cuda_tile_memory *m, const struct rondo_leaf *leaf, int64_t view, int key0, float s[8][8], float M[8], int terms)
{
    const int lane = THREAD % 32, first = THREAD / 32 * 16 + lane / 16;
    UNROLL
    for (int i = 0; i < 8; i++) {
        const int r = first + 2 * i;
        int64_t row_p = 0;
        int h = 0, hq = 0;
        if (terms && r < tile->rows) {
            hq = tile->kv_head * job->group + (int)((tile->first + r) % job->group);
            h = p->head + job->head + hq;
            row_p = m->row[r].p;
        }
        UNROLL
        for (int j = 0; j < 8; j++) {
            const int key = key0 + lane % 16 + 16 * j;
            int seen = cuda_sees(p, tile, m, view, r, key);
            float x = s[i][j] * p->scale_log2;
            if (terms && seen && r < tile->rows)
                seen = cuda_score(p, bind, s[i][j], row_p, leaf->first + (int64_t)key * leaf->step, h, hq, &x);
            const float n = cuda_rint(x);
            if (seen && n > M[i])
                M[i] = n;
            if (key < p->leaf_size)
                m->weights[r * m->w_pitch + key] = seen ? x : rondo__float(CUDA_HIDDEN);
        }
    }
}

/* x of all key blocks become weights; each thread reads what it wrote. Returns whether some of the warp's are unseen or dropped. */
DEVICE int cuda_weights(const struct cuda_attention *p, const struct cuda_tile *tile, const struct cuda_job *job, const struct cuda_tile_memory *m,
                        const struct rondo_leaf *leaf, float M[8], int terms)
{
    const int lane = THREAD % 32, first = THREAD / 32 * 16 + lane / 16;
    float odd = 0.0f;
    UNROLL
    for (int i = 0; i < 8; i++) {
        UNROLL
        for (int other = 1; other < 16; other *= 2) {
            const float n = SHUFFLE_XOR(M[i], other);
            M[i] = n > M[i] ? n : M[i];
        }
    }
    ROLLED
    for (int key0 = 0; key0 < leaf->count; key0 += CUDA_COLUMNS) {
        UNROLL
        for (int i = 0; i < 8; i++) {
            const int r = first + 2 * i;
            UNROLL
            for (int j = 0; j < 8; j++) {
                const int key = key0 + lane % 16 + 16 * j;
                if (key >= p->leaf_size)
                    continue;
                const float x = m->weights[r * m->w_pitch + key], n = cuda_rint(x);
                float w = cuda_weight(x - n, n - M[i]);
                if (rondo__bits(x) == CUDA_HIDDEN)
                    w = CUDA_UNSEEN;
                else if (terms && r < tile->rows && key < leaf->count &&
                         cuda_dropped(p, job->sequence, p->head + job->head + tile->kv_head * job->group + (int)((tile->first + r) % job->group),
                                      m->row[r].p, leaf->first + (int64_t)key * leaf->step))
                    w = -w;
                if (key < leaf->count && w < 0.0f)
                    odd = 1.0f;
                m->weights[r * m->w_pitch + key] = w;
            }
        }
    }
    UNROLL
    for (int other = 1; other < 32; other *= 2)
        odd = odd + SHUFFLE_XOR(odd, other);
    WARP_BARRIER();
    return odd != 0.0f;
}

/* ---- values ---- */

DEVICE float cuda_value(float w, float v, float acc, int odd)
{
    if (odd && w <= CUDA_UNSEEN)
        return acc;
    return NUM_FMA(odd && w < 0.0f ? 0.0f : w, v, acc);
}

/* One key: its weights w[i], its values of `quads` quads. */
DEVICE void cuda_key(float acc[8][8], const float w[8], const float *v, int quads, int odd)
{
    UNROLL
    for (int h = 0; h < quads; h++) {
        const struct quad x = *(const struct quad *)(const void *)(v + 64 * h);
        UNROLL
        for (int i = 0; i < 8; i++) {
            acc[i][4 * h] = cuda_value(w[i], x.a, acc[i][4 * h], odd);
            acc[i][4 * h + 1] = cuda_value(w[i], x.b, acc[i][4 * h + 1], odd);
            acc[i][4 * h + 2] = cuda_value(w[i], x.c, acc[i][4 * h + 2], odd);
            acc[i][4 * h + 3] = cuda_value(w[i], x.d, acc[i][4 * h + 3], odd);
        }
    }
}

DEVICE float cuda_sum(float l, float w)
{
    const float a = w < 0.0f ? -w : w;
    return w <= CUDA_UNSEEN ? l : l + a;
}

/* C3, C4 over n keys of a chunk: w: the thread's first row; own: the row whose sum is the lane's. */
DEVICE void cuda_values(float acc[8][8], float *l, const float *w, int pitch, const float *own, const float *v, int n, int quads, int odd, int sums)
{
    ROLLED
    for (int k = 0; k + 4 <= n; k += 4) {
        struct quad x[8];
        UNROLL
        for (int i = 0; i < 8; i++)
            x[i] = *(const struct quad *)(const void *)(w + 2 * i * pitch + k);
        if (sums) {
            const struct quad o = *(const struct quad *)(const void *)(own + k);
            *l = cuda_sum(*l, o.b);
            *l = cuda_sum(*l, o.a);
            *l = cuda_sum(*l, o.d);
            *l = cuda_sum(*l, o.c);
        }
        float a[8];
        UNROLL
        for (int i = 0; i < 8; i++)
            a[i] = x[i].b;
        cuda_key(acc, a, v + (k + 1) * CUDA_COLUMNS, quads, odd);
        UNROLL
        for (int i = 0; i < 8; i++)
            a[i] = x[i].a;
        cuda_key(acc, a, v + k * CUDA_COLUMNS, quads, odd);
        UNROLL
        for (int i = 0; i < 8; i++)
            a[i] = x[i].d;
        cuda_key(acc, a, v + (k + 3) * CUDA_COLUMNS, quads, odd);
        UNROLL
        for (int i = 0; i < 8; i++)
            a[i] = x[i].c;
        cuda_key(acc, a, v + (k + 2) * CUDA_COLUMNS, quads, odd);
    }
    ROLLED
    for (int k = n & ~3; k < n + (n & 1); k++) {
        float a[8];
        const int key = k ^ 1;
        if (key >= n)
            continue;
        if (sums)
            *l = cuda_sum(*l, own[key]);
        UNROLL
        for (int i = 0; i < 8; i++)
            a[i] = w[2 * i * pitch + key];
        cuda_key(acc, a, v + key * CUDA_COLUMNS, quads, 1);
    }
}

/* ---- nodes ---- */

/* C5: what a merge multiplies with. M and l become the merged ones. */
DEVICE void cuda_merge(float left_M, float left_l, float *M, float *l, float *left, float *right)
{
    const float top = left_M > *M ? left_M : *M;
    *left = rondo__merge_scale(left_M - top);
    *right = rondo__merge_scale(*M - top);
    *l = NUM_FMA(left_l, *left, *l * *right);
    *M = top;
}

/* The node over a leaf is joined with `merges` nodes of the stack, which has `top` before it, and goes behind what is left of these, or to
 * `last`. Of the tile's rows and one block of dimensions; M and l are written with the last of these. */
DEVICE void cuda_node(const struct cuda_attention *p, const struct cuda_tile *tile, const struct cuda_tile_memory *m, float acc[8][8],
                      const float leaf_M[8], int d0, int quads, int top, int merges, float *stack, float *last)
{
    const int lane = THREAD % 32, first = THREAD / 32 * 16 + lane / 16, dim = p->value_dim;
    const int64_t level = (int64_t)CUDA_TILE * (dim + 2);
    float *to = last ? last : stack + (top - merges) * level;
    const int room = last ? tile->room : CUDA_TILE;
    float Ms[8], ls[8];
    UNROLL
    for (int i = 0; i < 8; i++) {
        const int r = first + 2 * i;
        if (r >= tile->rows)
            continue;
        float l = m->l[r], M = l != l ? FLT_MAX : leaf_M[i];
        ROLLED
        for (int n = 1; n <= merges; n++) {
            const float *from = stack + (top - n) * level;
            float left, right;
            cuda_merge(from[CUDA_TILE * dim + r], from[CUDA_TILE * dim + CUDA_TILE + r], &M, &l, &left, &right);
            UNROLL
            for (int j = 0; j < 8; j++) {
                const int d = d0 + j / 4 * 64 + lane % 16 * 4 + j % 4;
                if (j < 4 * quads && d < dim)
                    acc[i][j] = NUM_FMA(from[(int64_t)r * dim + d], left, acc[i][j] * right);
            }
        }
        UNROLL
        for (int j = 0; j < 8; j++) {
            const int d = d0 + j / 4 * 64 + lane % 16 * 4 + j % 4;
            if (j < 4 * quads && d < dim)
                to[(int64_t)r * dim + d] = acc[i][j];
        }
        Ms[i] = M;
        ls[i] = l;
    }
    WARP_BARRIER();                  /* the M and l there have been read by all lanes */
    UNROLL
    for (int i = 0; i < 8; i++) {
        const int r = first + 2 * i;
        if (r < tile->rows && d0 + CUDA_COLUMNS >= dim && lane % 16 == 0) {
            to[(int64_t)room * dim + r] = Ms[i];
            to[(int64_t)room * dim + room + r] = ls[i];
        }
    }
}

/* The node of a leaf that nobody sees. */
DEVICE void cuda_nothing(const struct cuda_attention *p, const struct cuda_tile *tile, const struct cuda_tile_memory *m, float acc[8][8],
                         const float M[8], int top, int merges, float *stack, float *last)
{
    WARP_BARRIER();
    if (THREAD % 32 < 16)
        m->l[THREAD / 32 * 16 + THREAD % 32] = 0.0f;
    WARP_BARRIER();
    ROLLED
    for (int d0 = 0; d0 < p->value_dim; d0 += CUDA_COLUMNS) {
        UNROLL
        for (int a = 0; a < 8; a++) {
            UNROLL
            for (int b = 0; b < 8; b++)
                acc[a][b] = 0.0f;
        }
        cuda_node(p, tile, m, acc, M, d0, 2, top, merges, stack, last);
    }
}

/* ---- the kernel ---- */

/* The leaf that lies at i or as soon as possible behind it and is seen by somebody: *f. The item's end where there is none. */
DEVICE int64_t cuda_next_leaf(const struct cuda_attention *p, const struct cuda_item *item, const struct cuda_tile *tile, const struct cuda_job *job,
                              const struct rondo_leaf *run, int64_t i, struct cuda_leaf *f)
{
    for (; i < item->end; i++) {
        if (item->views >= 0 && p->views[item->views + (i - item->first)] == CUDA_VIEW_NONE)
            continue;
        *f = cuda_leaf_of(p, tile, job, run, i);
        if (f->hi)
            break;
    }
    return i;
}

/* One item: leaves [first, end) of a run. */
DEVICE void cuda_tile_item(const struct cuda_attention *p, const struct cuda_item *item, const struct cuda_tile_memory *m, float *stack, int terms)
{
    const struct cuda_tile tile = p->tiles[item->tile];
    const struct cuda_job job = p->jobs[tile.job];
    const struct cuda_bind *bind = p->binds + (tile.job - p->first_job);
    const struct rondo_leaf run = p->leaves[job.leaves_first + item->run];
    const int lane = THREAD % 32, w = THREAD / 32, first = w * 16 + lane / 16;
    float s[8][8], M[8], l = 0.0f;
    int top = 0, parity = 0, odd = 0;

    BARRIER();                       /* nobody reads the item before */
    if (THREAD < tile.rows)
        m->row[THREAD] = p->rows[job.rows + (tile.first + THREAD) / job.group];
    if (p->resident)
        cuda_stage_q(p, &tile, &job, bind, m->q, m->q_pitch, 0, (p->head_dim + 3) / 4 * 4);
    struct cuda_leaf f;
    int64_t staged = cuda_next_leaf(p, item, &tile, &job, &run, item->first, &f);
    if (staged < item->end)
        cuda_stage_chunk(p, &tile, &job, bind, m, &f, 0, 0);
    ROLLED
    for (int64_t i = item->first; i < item->end; i++) {
        const int64_t view = item->views < 0 ? CUDA_VIEW_ALL : p->views[item->views + (i - item->first)];
        const int merges = rondo__run_merges(i, item->first, item->end);
        float *const last = i + 1 == item->end ? p->nodes + item->nodes : (float *)0;
        UNROLL
        for (int k = 0; k < 8; k++)
            M[k] = -FLT_MAX;
        if (i != staged) {
            cuda_nothing(p, &tile, m, s, M, top, merges, stack, last);
            top += 1 - merges;
            continue;
        }
        const struct cuda_count n = cuda_count_of(p, &f.leaf);
        const struct rondo_leaf leaf = f.leaf;
        ROLLED
        for (int c = 0; c < n.all; c++, parity ^= 1) {
            const float *stage = parity ? m->stage[1] : m->stage[0];
            COPY_WAIT(0);
            BARRIER();
            if (c + 1 < n.all) {
                cuda_stage_chunk(p, &tile, &job, bind, m, &f, c + 1, parity ^ 1);
            } else {
                staged = cuda_next_leaf(p, item, &tile, &job, &run, i + 1, &f);
                if (staged < item->end)
                    cuda_stage_chunk(p, &tile, &job, bind, m, &f, 0, parity ^ 1);
            }
            if (c == 0)
                cuda_visible(p, &tile, m, &leaf);
            if (c < n.k) {
                const int d = c % n.k_dims * CUDA_CHUNK, key0 = c / n.k_dims * CUDA_COLUMNS;
                if (d == 0) {
                    UNROLL
                    for (int a = 0; a < 8; a++) {
                        UNROLL
                        for (int b = 0; b < 8; b++)
                            s[a][b] = 0.0f;
                    }
                }
                const float *q = p->resident ? m->q + d : m->q + parity * CUDA_TILE * CUDA_PITCH;
                cuda_chain(s, q + first * m->q_pitch, m->q_pitch, stage + lane % 16 * CUDA_PITCH, CUDA_PITCH,
                           cuda_minimum(p->head_dim - d, CUDA_CHUNK));
                if (d + CUDA_CHUNK >= p->head_dim)
                    cuda_scores(p, &tile, &job, bind, m, &leaf, view, key0, s, M, terms);
                if (c == n.k - 1) {
                    odd = cuda_weights(p, &tile, &job, m, &leaf, M, terms);
                    l = 0.0f;
                }
            } else {
                const int key = (c - n.k) % n.v_keys * CUDA_CHUNK, d0 = (c - n.k) / n.v_keys * CUDA_COLUMNS;
                const float *weights = m->weights + first * m->w_pitch + key, *own = m->weights + (w * 16 + lane % 16) * m->w_pitch + key;
                const int keys = cuda_minimum((int)leaf.count - key, CUDA_CHUNK), quads = p->value_dim - d0 > 64 ? 2 : 1, sums = d0 == 0;
                if (key == 0) {
                    UNROLL
                    for (int a = 0; a < 8; a++) {
                        UNROLL
                        for (int b = 0; b < 8; b++)
                            s[a][b] = 0.0f;
                    }
                }
                if (quads == 2 && !odd)
                    cuda_values(s, &l, weights, m->w_pitch, own, stage + lane % 16 * 4, keys, 2, 0, sums);
                else if (quads == 2)
                    cuda_values(s, &l, weights, m->w_pitch, own, stage + lane % 16 * 4, keys, 2, 1, sums);
                else
                    cuda_values(s, &l, weights, m->w_pitch, own, stage + lane % 16 * 4, keys, 1, 1, sums);
                if (key + CUDA_CHUNK >= leaf.count) {
                    if (sums && lane < 16)
                        m->l[w * 16 + lane] = l;
                    WARP_BARRIER();
                    cuda_node(p, &tile, m, s, M, d0, quads, top, merges, stack, last);
                }
            }
        }
        top += 1 - merges;
    }
}

DEVICE void cuda_tile_kernel(const struct cuda_attention *p, char *shared, int terms)
{
    const struct cuda_tile_memory m = cuda_tile_memory_of(p, shared);
    ROLLED
    for (int64_t i = p->first + BLOCK; i < p->first + p->count; i += BLOCKS) {
        const struct cuda_item item = p->items[i];
        cuda_tile_item(p, &item, &m, p->stack + BLOCK * p->stack_floats, terms);
    }
}

#endif
