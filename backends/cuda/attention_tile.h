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

/* In place of a weight: what a row does not see. With a sign: a weight that was dropped, which counts in the row's sum only, be it 0 or NaN. */
#define CUDA_UNSEEN (-4.0f)
DEVICE float cuda_drop(float w) { return rondo__float(rondo__bits(w) | 0x80000000u); }
DEVICE int cuda_is_odd(float w) { return rondo__bits(w) >> 31 != 0; }

/* ---- leaves ---- */

/* A run, for a KV head of the job: what is the same for all of its leaves. */
struct cuda_run {
    struct rondo_leaf run;
    const void *k, *v;
    const int64_t *pages;
    int64_t leaves, row, page_rows, k_head, v_head, k_row, v_row;   /* row: of its first key */
    int32_t k_grain, v_grain;
};

/* A leaf of it. Keys that somebody in the tile sees lie in [lo, hi): others are not read. */
struct cuda_leaf {
    struct rondo_leaf leaf;
    int64_t k_at, v_at, number, view;
    int32_t lo, hi;
};

/* What all threads of a block know of the item at work, in shared memory: one thread finds it out. */
struct cuda_known {
    struct cuda_tile tile;
    struct cuda_job job;
    struct cuda_run run;
    struct cuda_leaf leaf[2];
    struct cuda_item item;
};

typedef char cuda_known_fits[sizeof(struct cuda_known) <= CUDA_KNOWN ? 1 : -1];

DEVICE void cuda_run_of(const struct cuda_attention *p, const struct cuda_tile *tile, const struct cuda_job *job, const struct rondo_leaf *run,
                        struct cuda_run *out)
{
    const struct cuda_source *source = p->sources + run->source;
    const int64_t head = job->kv_head + tile->kv_head;
    out->run = *run;
    out->leaves = rondo__run_leaves(run, p->leaf_size);
    out->row = run->row + p->bases[(int64_t)(tile->job - p->first_job) * p->source_count + run->source];
    out->k = source->k;
    out->v = source->v;
    out->pages = source->pages;
    out->page_rows = source->page_rows;
    out->k_row = source->k_row;
    out->v_row = source->v_row;
    out->k_head = head * source->k_head;
    out->v_head = head * source->v_head;
    out->k_grain = source->k_grain;
    out->v_grain = source->v_grain;
}

DEVICE void cuda_leaf_of(const struct cuda_attention *p, const struct cuda_tile *tile, const struct cuda_run *run, int64_t i, struct cuda_leaf *out)
{
    int64_t row = run->row + (run->leaves > 1 ? i * p->leaf_size : 0);
    const struct rondo_leaf leaf = rondo__run_leaf(&run->run, run->leaves, i, p->leaf_size);
    int32_t first = 0, end = 0;
    if (run->pages)
        row = run->pages[row / run->page_rows] * run->page_rows + row % run->page_rows;
    for (int s = 0; s < tile->sights; s++) {
        const struct cuda_interval sight = p->sight[tile->sight + s];
        int32_t lo, hi;
        rondo__visible_in_leaf(&leaf, sight.lo, sight.hi, &lo, &hi);
        if (lo >= hi)
            continue;
        first = end ? first : lo;
        end = hi;
    }
    out->leaf = leaf;
    out->k_at = row * run->k_row + run->k_head;
    out->v_at = row * run->v_row + run->v_head;
    out->number = i;
    out->lo = first;
    out->hi = end;
}

/* The leaf at i, or the next one that is seen by somebody; number is the item's end where there is none. */
DEVICE void cuda_next_leaf(const struct cuda_attention *p, const struct cuda_item *item, const struct cuda_tile *tile, const struct cuda_run *run, int64_t i,
                           struct cuda_leaf *out)
{
    for (; i < item->end; i++) {
        const int64_t view = item->views < 0 ? CUDA_VIEW_ALL : p->views[item->views + (i - item->first)];
        if (view == CUDA_VIEW_NONE)
            continue;
        cuda_leaf_of(p, tile, run, i, out);
        out->view = view;
        if (out->hi)
            return;
    }
    out->number = item->end;
}

/* By one thread. */
DEVICE void cuda_know(const struct cuda_attention *p, int64_t number, struct cuda_known *known)
{
    known->item = p->items[number];
    known->tile = p->tiles[known->item.tile];
    known->job = p->jobs[known->tile.job];
    const struct rondo_leaf run = p->leaves[known->job.leaves_first + known->item.run];
    cuda_run_of(p, &known->tile, &known->job, &run, &known->run);
    cuda_next_leaf(p, &known->item, &known->tile, &known->run, known->item.first, &known->leaf[0]);
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
    struct cuda_known *known;
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
    m.known = (struct cuda_known *)(void *)(m.row + CUDA_TILE);
    m.l = (float *)(void *)((char *)m.known + CUDA_KNOWN);
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

/* A chunk of K: keys from `key` on, columns from d on; and of the queries, where these are not held. */
DEVICE void cuda_stage_k(const struct cuda_attention *p, const struct cuda_tile_memory *m, const struct cuda_bind *bind, const struct cuda_leaf *f, int key, int d,
                         int parity)
{
    const struct cuda_run *run = &m->known->run;
    const int lo = cuda_maximum(key, f->lo), keys = cuda_minimum(f->hi, key + CUDA_COLUMNS) - lo;
    cuda_stage_typed((parity ? m->stage[1] : m->stage[0]) + (lo - key) * CUDA_PITCH, CUDA_PITCH, CUDA_COLUMNS, keys, run->k, f->k_at + lo * run->k_row, run->k_row, d,
                     CUDA_CHUNK, p->head_dim, p->kv_type, run->k_grain);
    if (!p->resident)
        cuda_stage_q(p, &m->known->tile, &m->known->job, bind, m->q + parity * CUDA_TILE * CUDA_PITCH, CUDA_PITCH, d, CUDA_CHUNK);
    COPY_CLOSE();
}

/* ... of V. */
DEVICE void cuda_stage_v(const struct cuda_attention *p, const struct cuda_tile_memory *m, const struct cuda_leaf *f, int key, int d, int parity)
{
    const struct cuda_run *run = &m->known->run;
    const int lo = cuda_maximum(key, f->lo), keys = cuda_minimum(f->hi, key + CUDA_CHUNK) - lo;
    cuda_stage_typed((parity ? m->stage[1] : m->stage[0]) + (lo - key) * CUDA_COLUMNS, CUDA_COLUMNS, CUDA_CHUNK, keys, run->v, f->v_at + lo * run->v_row, run->v_row, d,
                     CUDA_COLUMNS, p->value_dim, p->kv_type, run->v_grain);
    COPY_CLOSE();
}

/* ---- weights ---- */

/* Which keys of the leaf the warp's rows see; rows that are none see all, so that they do not slow the others. */
DEVICE void cuda_visible(const struct cuda_tile_memory *m, const struct rondo_leaf *leaf)
{
    const int r = THREAD / 32 * 16 + THREAD % 32;
    if (THREAD % 32 < 16) {
        int32_t lo = 0, hi = (int32_t)leaf->count;
        if (r < m->known->tile.rows)
            rondo__visible_in_leaf(leaf, m->row[r].lo, m->row[r].hi, &lo, &hi);
        m->lo[r] = lo;
        m->hi[r] = hi;
    }
    WARP_BARRIER();
}

/* Scores of a key block become x. What is unseen becomes CUDA_HIDDEN; M[i] grows. */
#define CUDA_HIDDEN 0xffffdeadu        /* a NaN that no arithmetic of the card gives */
DEVICE void cuda_scores(const struct cuda_attention *p, const struct cuda_bind *bind, const struct cuda_tile_memory *m, const struct cuda_leaf *f, int key0,
                        float s[8][8], float M[8], int terms)
{
    const struct cuda_tile *tile = &m->known->tile;
    const struct cuda_job *job = &m->known->job;
    const int lane = THREAD % 32, first = THREAD / 32 * 16 + lane / 16, column = key0 + lane % 16;
    UNROLL
    for (int i = 0; i < 8; i++) {
        const int r = first + 2 * i, lo = m->lo[r] - column, hi = m->hi[r] - column;
        int64_t row_p = 0;
        int h = 0, hq = 0;
        if (terms && r < tile->rows) {
            hq = tile->kv_head * job->group + (int)((tile->first + r) % job->group);
            h = p->head + job->head + hq;
            row_p = m->row[r].p;
        }
        UNROLL
        for (int j = 0; j < 8; j++) {
            int seen = 16 * j >= lo && 16 * j < hi;
            float x = s[i][j] * p->scale_log2;
            if (f->view >= 0 && seen && r < tile->rows)
                seen = (int)(p->bits[(f->view + r) * 4 + (column + 16 * j) / 64] >> ((column + 16 * j) % 64) & 1);
            if (terms && seen && r < tile->rows)
                seen = cuda_score(p, bind, s[i][j], row_p, f->leaf.first + (int64_t)(column + 16 * j) * f->leaf.step, h, hq, &x);
            const float n = cuda_rint(x);
            if (seen && n > M[i])
                M[i] = n;
            s[i][j] = seen ? x : rondo__float(CUDA_HIDDEN);
        }
    }
}

/* The largest of each row, in all of the lanes that share it. */
DEVICE void cuda_most(float M[8])
{
    UNROLL
    for (int i = 0; i < 8; i++) {
        UNROLL
        for (int other = 1; other < 16; other *= 2) {
            const float n = SHUFFLE_XOR(M[i], other);
            M[i] = n > M[i] ? n : M[i];
        }
    }
}

/* A key block's x become weights, in shared memory. Returns whether some of the thread's are unseen or dropped. */
DEVICE int cuda_weights(const struct cuda_attention *p, const struct cuda_tile_memory *m, const struct cuda_leaf *f, int key0, float s[8][8], const float M[8],
                        int terms)
{
    const struct cuda_tile *tile = &m->known->tile;
    const struct cuda_job *job = &m->known->job;
    const int lane = THREAD % 32, first = THREAD / 32 * 16 + lane / 16, column = key0 + lane % 16;
    int odd = 0;
    UNROLL
    for (int i = 0; i < 8; i++) {
        const int r = first + 2 * i;
        float *to = m->weights + r * m->w_pitch + column;
        UNROLL
        for (int j = 0; j < 8; j++) {
            const int key = column + 16 * j;
            const float x = s[i][j], n = cuda_rint(x);
            float w = cuda_weight(x - n, n - M[i]);
            if (rondo__bits(x) == CUDA_HIDDEN)
                w = CUDA_UNSEEN;
            else if (terms && r < tile->rows && key < f->leaf.count &&
                     cuda_dropped(p, job->sequence, p->head + job->head + tile->kv_head * job->group + (int)((tile->first + r) % job->group), m->row[r].p,
                                  f->leaf.first + (int64_t)key * f->leaf.step))
                w = cuda_drop(w);
            if (key < p->leaf_size) {
                odd |= key < f->leaf.count && cuda_is_odd(w);
                to[16 * j] = w;
            }
        }
    }
    return odd;
}

/* All key blocks of a leaf but its last one have left their x in shared memory (each thread its own); s has the last one's. Returns whether
 * weights of the warp are unseen or dropped. */
DEVICE int cuda_all_weights(const struct cuda_attention *p, const struct cuda_tile_memory *m, const struct cuda_leaf *f, int last0, float s[8][8], float M[8],
                            int terms)
{
    const int lane = THREAD % 32, first = THREAD / 32 * 16 + lane / 16;
    int odd;
    cuda_most(M);
    odd = cuda_weights(p, m, f, last0, s, M, terms);
    ROLLED
    for (int key0 = 0; key0 < last0; key0 += CUDA_COLUMNS) {
        UNROLL
        for (int i = 0; i < 8; i++) {
            UNROLL
            for (int j = 0; j < 8; j++)
                s[i][j] = m->weights[(first + 2 * i) * m->w_pitch + key0 + lane % 16 + 16 * j];
        }
        odd |= cuda_weights(p, m, f, key0, s, M, terms);
    }
    float some = odd ? 1.0f : 0.0f;
    UNROLL
    for (int other = 1; other < 32; other *= 2)
        some = some + SHUFFLE_XOR(some, other);
    WARP_BARRIER();
    return some != 0.0f;
}

/* ---- values ---- */

DEVICE float cuda_value(float w, float v, float acc, int odd)
{
    if (odd && w <= CUDA_UNSEEN)
        return acc;
    return NUM_FMA(odd && cuda_is_odd(w) ? 0.0f : w, v, acc);
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
    const float a = rondo__float(rondo__bits(w) & 0x7fffffffu);
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
DEVICE void cuda_node(const struct cuda_attention *p, const struct cuda_tile_memory *m, float acc[8][8], const float leaf_M[8], int d0, int quads, int top,
                      int merges, float *stack, float *last)
{
    const struct cuda_tile *tile = &m->known->tile;
    const int lane = THREAD % 32, first = THREAD / 32 * 16 + lane / 16, dim = p->value_dim, d = d0 + lane % 16 * 4, whole = dim % 4 == 0;
    const int64_t level = (int64_t)CUDA_TILE * (dim + 2);
    float *to = last ? last : stack + (top - merges) * level;
    const int room = last ? tile->room : CUDA_TILE;
    float Ms[8], ls[8];
    UNROLL
    for (int i = 0; i < 8; i++) {
        ls[i] = m->l[first + 2 * i];
        Ms[i] = ls[i] != ls[i] ? FLT_MAX : leaf_M[i];
    }
    ROLLED
    for (int n = 1; n <= merges; n++) {      /* rows that the tile does not have lie in the stack too, whatever they are */
        const float *from = stack + (top - n) * level;
        float left[8], right[8];
        UNROLL
        for (int i = 0; i < 8; i++)
            cuda_merge(from[CUDA_TILE * dim + first + 2 * i], from[CUDA_TILE * dim + CUDA_TILE + first + 2 * i], &Ms[i], &ls[i], &left[i], &right[i]);
        UNROLL
        for (int h = 0; h < 2; h++) {
            if (h >= quads || d + 64 * h >= dim)
                continue;
            if (whole) {
                struct quad x[8];
                UNROLL
                for (int i = 0; i < 8; i++)
                    x[i] = *(const struct quad *)(const void *)(from + (int64_t)(first + 2 * i) * dim + d + 64 * h);
                UNROLL
                for (int i = 0; i < 8; i++) {
                    acc[i][4 * h] = NUM_FMA(x[i].a, left[i], acc[i][4 * h] * right[i]);
                    acc[i][4 * h + 1] = NUM_FMA(x[i].b, left[i], acc[i][4 * h + 1] * right[i]);
                    acc[i][4 * h + 2] = NUM_FMA(x[i].c, left[i], acc[i][4 * h + 2] * right[i]);
                    acc[i][4 * h + 3] = NUM_FMA(x[i].d, left[i], acc[i][4 * h + 3] * right[i]);
                }
            } else {
                UNROLL
                for (int i = 0; i < 8; i++) {
                    UNROLL
                    for (int e = 0; e < 4; e++)
                        if (d + 64 * h + e < dim)
                            acc[i][4 * h + e] =
                                NUM_FMA(from[(int64_t)(first + 2 * i) * dim + d + 64 * h + e], left[i], acc[i][4 * h + e] * right[i]);
                }
            }
        }
    }
    UNROLL
    for (int i = 0; i < 8; i++) {
        const int r = first + 2 * i;
        if (last && r >= tile->rows)
            continue;
        UNROLL
        for (int h = 0; h < 2; h++) {
            if (h >= quads || d + 64 * h >= dim)
                continue;
            if (whole) {
                const struct quad x = { acc[i][4 * h], acc[i][4 * h + 1], acc[i][4 * h + 2], acc[i][4 * h + 3] };
                *(struct quad *)(void *)(to + (int64_t)r * dim + d + 64 * h) = x;
            } else {
                UNROLL
                for (int e = 0; e < 4; e++)
                    if (d + 64 * h + e < dim)
                        to[(int64_t)r * dim + d + 64 * h + e] = acc[i][4 * h + e];
            }
        }
    }
    WARP_BARRIER();                  /* the M and l there have been read by all lanes */
    UNROLL
    for (int i = 0; i < 8; i++) {
        const int r = first + 2 * i;
        if (d0 + CUDA_COLUMNS >= dim && lane % 16 == 0 && (!last || r < tile->rows)) {
            to[(int64_t)room * dim + r] = Ms[i];
            to[(int64_t)room * dim + room + r] = ls[i];
        }
    }
}

/* The node of a leaf that nobody sees. */
DEVICE void cuda_nothing(const struct cuda_attention *p, const struct cuda_tile_memory *m, float acc[8][8], const float M[8], int top, int merges, float *stack,
                         float *last)
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
        cuda_node(p, m, acc, M, d0, 2, top, merges, stack, last);
    }
}

/* ---- the kernel ---- */

/* Behind a chunk of K the next one is fetched, at last the first one of V. */
DEVICE void cuda_stage_after_k(const struct cuda_attention *p, const struct cuda_tile_memory *m, const struct cuda_bind *bind, const struct cuda_leaf *f, int key,
                               int d, int parity)
{
    if (d + CUDA_CHUNK < p->head_dim)
        cuda_stage_k(p, m, bind, f, key, d + CUDA_CHUNK, parity);
    else if (key + CUDA_COLUMNS < f->leaf.count)
        cuda_stage_k(p, m, bind, f, key + CUDA_COLUMNS, 0, parity);
    else
        cuda_stage_v(p, m, f, 0, 0, parity);
}

DEVICE void cuda_zero(float s[8][8])
{
    UNROLL
    for (int i = 0; i < 8; i++) {
        UNROLL
        for (int j = 0; j < 8; j++)
            s[i][j] = 0.0f;
    }
}

/* One item: leaves [first, end) of a run. */
DEVICE void cuda_tile_item(const struct cuda_attention *p, int64_t number, const struct cuda_tile_memory *m, float *stack, int terms)
{
    struct cuda_known *known = m->known;
    const struct cuda_tile *tile = &known->tile;
    const int lane = THREAD % 32, w = THREAD / 32, first = w * 16 + lane / 16;
    float s[8][8], M[8], l;
    int top = 0, parity = 0, now = 0;

    BARRIER();                       /* nobody reads the item before */
    if (THREAD == 0)
        cuda_know(p, number, known);
    BARRIER();
    const struct cuda_bind *bind = p->binds + (tile->job - p->first_job);
    const int64_t begin = known->item.first, end = known->item.end;
    if (THREAD < tile->rows)
        m->row[THREAD] = p->rows[known->job.rows + (tile->first + THREAD) / known->job.group];
    if (known->leaf[0].number < end) {   /* else nobody would wait for what is on its way */
        if (p->resident)
            cuda_stage_q(p, tile, &known->job, bind, m->q, m->q_pitch, 0, (p->head_dim + 3) / 4 * 4);
        cuda_stage_k(p, m, bind, &known->leaf[0], 0, 0, 0);
    }
    ROLLED
    for (int64_t i = begin; i < end; i++) {
        const struct cuda_leaf *f = known->leaf + now;
        const int merges = rondo__run_merges(i, begin, end);
        float *const last = i + 1 == end ? p->nodes + known->item.nodes : (float *)0;
        UNROLL
        for (int k = 0; k < 8; k++)
            M[k] = -FLT_MAX;
        if (i != f->number) {
            cuda_nothing(p, m, s, M, top, merges, stack, last);
            top += 1 - merges;
            continue;
        }
        const int count = (int)f->leaf.count;
        int odd = 0;
        ROLLED
        for (int key0 = 0; key0 < count; key0 += CUDA_COLUMNS) {
            cuda_zero(s);
            ROLLED
            for (int d = 0; d < p->head_dim; d += CUDA_CHUNK, parity ^= 1) {
                COPY_WAIT(0);
                BARRIER();
                cuda_stage_after_k(p, m, bind, f, key0, d, parity ^ 1);
                if (d == 0 && key0 == 0) {   /* what comes next is known in time: a leaf has more chunks than this one */
                    cuda_visible(m, &f->leaf);
                    if (THREAD == CUDA_THREADS - 1)
                        cuda_next_leaf(p, &known->item, tile, &known->run, i + 1, known->leaf + (now ^ 1));
                }
                const float *q = p->resident ? m->q + d : m->q + parity * CUDA_TILE * CUDA_PITCH;
                cuda_chain(s, q + first * m->q_pitch, m->q_pitch, (parity ? m->stage[1] : m->stage[0]) + lane % 16 * CUDA_PITCH, CUDA_PITCH,
                           cuda_minimum(p->head_dim - d, CUDA_CHUNK));
            }
            cuda_scores(p, bind, m, f, key0, s, M, terms);
            if (key0 + CUDA_COLUMNS >= count) {
                odd = cuda_all_weights(p, m, f, key0, s, M, terms);
            } else {
                UNROLL
                for (int a = 0; a < 8; a++) {
                    UNROLL
                    for (int b = 0; b < 8; b++)
                        m->weights[(first + 2 * a) * m->w_pitch + key0 + lane % 16 + 16 * b] = s[a][b];
                }
            }
        }
        l = 0.0f;
        ROLLED
        for (int d0 = 0; d0 < p->value_dim; d0 += CUDA_COLUMNS) {
            const int quads = p->value_dim - d0 > 64 ? 2 : 1;
            cuda_zero(s);
            ROLLED
            for (int key = 0; key < count; key += CUDA_CHUNK, parity ^= 1) {
                const float *weights = m->weights + first * m->w_pitch + key, *own = m->weights + (w * 16 + lane % 16) * m->w_pitch + key;
                const float *v = (parity ? m->stage[1] : m->stage[0]) + lane % 16 * 4;
                const int keys = cuda_minimum(count - key, CUDA_CHUNK);
                COPY_WAIT(0);
                BARRIER();
                if (key + CUDA_CHUNK < count)
                    cuda_stage_v(p, m, f, key + CUDA_CHUNK, d0, parity ^ 1);
                else if (d0 + CUDA_COLUMNS < p->value_dim)
                    cuda_stage_v(p, m, f, 0, d0 + CUDA_COLUMNS, parity ^ 1);
                else if (known->leaf[now ^ 1].number < end)
                    cuda_stage_k(p, m, bind, known->leaf + (now ^ 1), 0, 0, parity ^ 1);
                if (quads == 2 && !odd)
                    cuda_values(s, &l, weights, m->w_pitch, own, v, keys, 2, 0, d0 == 0);
                else if (quads == 2)
                    cuda_values(s, &l, weights, m->w_pitch, own, v, keys, 2, 1, d0 == 0);
                else if (!odd)
                    cuda_values(s, &l, weights, m->w_pitch, own, v, keys, 1, 0, d0 == 0);
                else
                    cuda_values(s, &l, weights, m->w_pitch, own, v, keys, 1, 1, d0 == 0);
            }
            if (d0 == 0) {
                if (lane < 16)
                    m->l[w * 16 + lane] = l;
                WARP_BARRIER();
            }
            cuda_node(p, m, s, M, d0, quads, top, merges, stack, last);
        }
        top += 1 - merges;
        now ^= 1;
    }
}

DEVICE void cuda_tile_kernel(const struct cuda_attention *p, char *shared, int terms)
{
    const struct cuda_tile_memory m = cuda_tile_memory_of(p, shared);
    ROLLED
    for (int64_t i = p->first + BLOCK; i < p->first + p->count; i += BLOCKS)
        cuda_tile_item(p, i, &m, p->stack + BLOCK * p->stack_floats, terms);
}

#endif
