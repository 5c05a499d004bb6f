/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Nodes over leaves for tiles of many rows: contract C2 to C6 (rondo-numerics(7); the scalar program is backends/cpu/ref_attention.c), and what
 * rows are for the other kernels too. A block takes item after item. Of an item's leaves K and V come through shared memory
 * in chunks, the next on its way while one is computed with. Scores stay in registers, weights go through shared memory to their warp;
 * a row's sum is one lane's chain. A node is joined with those before it as the tree wants, which lie in a stack in global memory.
 */
#ifndef RONDO_CUDA_ATTENTION_TILE_H
#define RONDO_CUDA_ATTENTION_TILE_H

#include "backends/cuda/attention_items.h"

/* In place of a weight: what a row does not see. With a sign: a weight that was dropped, which counts in the row's sum only, be it 0 or NaN. */
#define CUDA_UNSEEN (-4.0f)
DEVICE float cuda_drop(float w) { return rondo__float(rondo__bits(w) | 0x80000000u); }
DEVICE int cuda_is_odd(float w) { return rondo__bits(w) >> 31 != 0; }

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

DEVICE struct cuda_tile_memory cuda_tile_memory_of(const struct cuda_attention *p, char *shared, int wide)
{
    const int resident = !wide || p->resident;
    struct cuda_tile_memory m;
    m.stage[0] = (float *)(void *)shared;
    m.stage[1] = m.stage[0] + CUDA_COLUMNS * CUDA_PITCH;
    m.q = m.stage[1] + CUDA_COLUMNS * CUDA_PITCH;
    m.q_pitch = !wide ? CUDA_COLUMNS + 4 : resident ? (int)cuda_q_pitch(p->head_dim) : CUDA_PITCH;
    m.w_pitch = wide ? p->leaf_size + 4 : CUDA_COLUMNS + 4;
    m.weights = m.q + (resident ? CUDA_TILE * m.q_pitch : 2 * CUDA_TILE * CUDA_PITCH);
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

/* A chunk of a leaf: CUDA_COLUMNS keys from `key` on and CUDA_CHUNK columns of K from d on; or CUDA_CHUNK keys and CUDA_COLUMNS columns of V. */
struct cuda_chunk {
    int v, key, d;
};

/* The next one: K by blocks of keys, then V by blocks of dimensions. 0: there is none, and the leaf is over. */
DEVICE int cuda_next_chunk(const struct cuda_attention *p, int count, struct cuda_chunk *c, int wide)
{
    if (!c->v) {
        c->d += CUDA_CHUNK;
        if (c->d < p->head_dim)
            return 1;
        c->d = 0;
        c->key += CUDA_COLUMNS;
        if (!wide || c->key >= count)
            c->v = 1, c->key = 0;
        return 1;
    }
    c->key += CUDA_CHUNK;
    if (c->key < count)
        return 1;
    c->key = 0;
    c->d += CUDA_COLUMNS;
    return wide && c->d < p->value_dim;
}

/* Sends a chunk on its way, and its columns of the queries where these are not held. Keys that nobody sees stay what they are. */
DEVICE void cuda_fetch_chunk(const struct cuda_attention *p, const struct cuda_tile_memory *m, const struct cuda_bind *bind, const struct cuda_leaf *f,
                             const struct cuda_chunk *c, int parity, int wide)
{
    const struct cuda_run *run = &m->known->run;
    const int span = c->v ? CUDA_CHUNK : CUDA_COLUMNS, lo = cuda_maximum(c->key, f->lo), keys = cuda_minimum(f->hi, c->key + span) - lo;
    const int32_t grain = c->v ? run->v_grain : run->k_grain;
    float *to = parity ? m->stage[1] : m->stage[0];
    if (p->kv_type == RONDO_F32 && grain == 16 && keys == span) {   /* as nearly all are */
        const int row = c->v ? THREAD >> 5 : THREAD >> 3, column = (c->v ? THREAD & 31 : THREAD & 7) * 4, down = c->v ? 4 * CUDA_COLUMNS : 16 * CUDA_PITCH;
        const int64_t stride = c->v ? run->v_row : run->k_row;
        const float *from = (const float *)(c->v ? run->v : run->k) + (c->v ? f->v_at : f->k_at) + (lo + row) * stride + c->d + column;
        const int64_t step = stride * (c->v ? 4 : 16);
        to += row * (c->v ? CUDA_COLUMNS : CUDA_PITCH) + column;
        if (c->d + column < (c->v ? p->value_dim : p->head_dim)) {
            UNROLL
            for (int n = 0; n < 8; n++)
                COPY16(to + n * down, from + n * step, 1);
        }
    } else if (c->v) {
        cuda_stage_typed(to + (lo - c->key) * CUDA_COLUMNS, CUDA_COLUMNS, CUDA_CHUNK, keys, run->v, f->v_at + lo * run->v_row, run->v_row, c->d, CUDA_COLUMNS,
                         p->value_dim, p->kv_type, run->v_grain);
    } else {
        cuda_stage_typed(to + (lo - c->key) * CUDA_PITCH, CUDA_PITCH, CUDA_COLUMNS, keys, run->k, f->k_at + lo * run->k_row, run->k_row, c->d, CUDA_CHUNK,
                         p->head_dim, p->kv_type, run->k_grain);
    }
    if (wide && !c->v && !p->resident)
        cuda_stage_q(p, &m->known->tile, &m->known->job, bind, m->q + parity * CUDA_TILE * CUDA_PITCH, CUDA_PITCH, c->d, CUDA_CHUNK);
    COPY_CLOSE();
}

/* ---- weights ---- */

/* Whether it is so for one of the warp's threads. */
DEVICE int cuda_some(int it)
{
    float some = it ? 1.0f : 0.0f;
    UNROLL
    for (int other = 1; other < 32; other *= 2)
        some = NUM_MAX(some, SHUFFLE_XOR(some, other));
    return some != 0.0f;
}

/* Which keys of the leaf the warp's rows see; rows that are none see all, so that they do not slow the others. Returns 2 where a key is hidden from
 * a row, else 1 where a block of keys is not full, else 0. */
DEVICE int cuda_visible(const struct cuda_tile_memory *m, const struct rondo_leaf *leaf)
{
    const int r = (THREAD >> 5) * 16 + (THREAD & 31);
    int hidden = 0;
    if ((THREAD & 31) < 16) {
        int32_t lo = 0, hi = (int32_t)leaf->count;
        if (r < m->known->tile.rows)
            rondo__visible_in_leaf(leaf, m->row[r].lo, m->row[r].hi, &lo, &hi);
        m->lo[r] = lo;
        m->hi[r] = hi;
        hidden = lo > 0 || hi < leaf->count;
    }
    WARP_BARRIER();
    return cuda_some(hidden) ? 2 : leaf->count % CUDA_COLUMNS != 0;
}

/* Rows of a thread are first + 2 i, its columns lane % 16 + 16 j. Scores of a key block become x; M[i] grows by those that are seen. */
DEVICE void cuda_scores(const struct cuda_attention *p, const struct cuda_tile_memory *m, int key0, float s[8][8], float M[8], int hidden)
{
    const int lane = THREAD & 31, first = (THREAD >> 5) * 16 + (lane >> 4), column = key0 + (lane & 15);
    const int *los = m->lo + first, *his = m->hi + first;
    UNROLL
    for (int i = 0; i < 8; i++) {
        const int lo = hidden ? los[2 * i] - column : 0, hi = hidden ? his[2 * i] - column : 0;
        UNROLL
        for (int j = 0; j < 8; j++) {
            s[i][j] = s[i][j] * p->scale_log2;
            M[i] = NUM_MAX(M[i], hidden && (16 * j < lo || 16 * j >= hi) ? -__builtin_inff() : s[i][j]);
        }
    }
}

/* Those of a row, in all of the lanes that share it, become rule C3's M. Returns whether all of the warp's are such that cuda_weights() is exact. */
DEVICE int cuda_most(float M[8])
{
    int far = 0;
    UNROLL
    for (int i = 0; i < 8; i++) {
        UNROLL
        for (int other = 1; other < 16; other *= 2)
            M[i] = NUM_MAX(M[i], SHUFFLE_XOR(M[i], other));
        far |= !(M[i] > -4194000.0f && M[i] < 4194000.0f) && M[i] != -__builtin_inff();
        M[i] = M[i] == -__builtin_inff() ? -FLT_MAX : cuda_rint(M[i]);
    }
    return !cuda_some(far);
}

/* A key block's x become weights, in shared memory: rondo__weight(x - n, n - M) for n = rint(x). By sums with 1.5 * 2^23, whose last bits are a whole
 * number's: n is right where |x| < 2^22, and where x lies lower, below M by far more than 125, it is as low. */
DEVICE void cuda_weights(const struct cuda_attention *p, const struct cuda_tile_memory *m, int key0, float s[8][8], const float M[8], int hidden, int wide)
{
    const int lane = THREAD & 31, first = (THREAD >> 5) * 16 + (lane >> 4), column = key0 + (lane & 15);
    float *to = m->weights + first * m->w_pitch + column;
    const int *los = m->lo + first, *his = m->hi + first;
    UNROLL
    for (int i = 0; i < 8; i++) {
        const int lo = hidden ? los[2 * i] - column : 0, hi = hidden ? his[2 * i] - column : 0;
        UNROLL
        for (int j = 0; j < 8; j++) {
            const float x = s[i][j], t = x + 12582912.0f, e = t - M[i];
            float w = NUM_NAN(rondo__exp2_poly(x - (t - 12582912.0f)) * rondo__float((rondo__bits(e) << 23) + 0x3f800000u));
            w = e < 12582912.0f - 125.0f ? 0.0f : w;
            if (hidden)
                w = 16 * j < lo || 16 * j >= hi ? CUDA_UNSEEN : w;
            if (!wide || !hidden || column + 16 * j < p->leaf_size)
                to[2 * i * m->w_pitch + 16 * j] = w;
        }
    }
}

/* The same for every score there can be, with masks of bits and terms, one after the other: x lies where its weight will. What is unseen is CUDA_HIDDEN. */
#define CUDA_HIDDEN 0xffffdeadu        /* a NaN that no arithmetic of the card gives */
DEVICE void cuda_keep(const struct cuda_attention *p, const struct cuda_tile_memory *m, int key0, float s[8][8], int wide)
{
    const int lane = THREAD & 31, first = (THREAD >> 5) * 16 + (lane >> 4), column = key0 + (lane & 15);
    float *to = m->weights + first * m->w_pitch + column;
    UNROLL
    for (int i = 0; i < 8; i++) {
        UNROLL
        for (int j = 0; j < 8; j++)
            if (!wide || column + 16 * j < p->leaf_size)
                to[2 * i * m->w_pitch + 16 * j] = s[i][j];
    }
}

/* A thread's own row, its keys of all blocks; s there is a score, or x already. */
DEVICE float cuda_any_scores(const struct cuda_attention *p, const struct cuda_bind *bind, const struct cuda_tile_memory *m, const struct cuda_leaf *f, int r,
                             float M, int ready, int terms)
{
    const struct cuda_tile *tile = &m->known->tile;
    const struct cuda_job *job = &m->known->job;
    const int hq = tile->kv_head * job->group + (int)((tile->first + r) % job->group), there = r < tile->rows, lo = m->lo[r], hi = m->hi[r];
    ROLLED
    for (int key = THREAD & 15; key < p->leaf_size; key += 16) {
        float *at = m->weights + r * m->w_pitch + key, x = ready ? *at : *at * p->scale_log2;
        int seen = key >= lo && key < hi;
        if (f->view >= 0 && seen && there)
            seen = (int)(p->bits[(f->view + r) * 4 + key / 64] >> (key % 64) & 1);
        if (terms && seen && there)
            seen = cuda_score(p, bind, *at, m->row[r].p, f->leaf.first + (int64_t)key * f->leaf.step, p->head + job->head + hq, hq, &x);
        if (seen)
            M = NUM_MAX(M, x);
        *at = seen ? x : rondo__float(CUDA_HIDDEN);
    }
    return M;
}

/* Returns whether one is unseen or dropped. */
DEVICE int cuda_any_weights(const struct cuda_attention *p, const struct cuda_tile_memory *m, const struct cuda_leaf *f, int r, float M, int terms)
{
    const struct cuda_tile *tile = &m->known->tile;
    const struct cuda_job *job = &m->known->job;
    const int h = p->head + job->head + tile->kv_head * job->group + (int)((tile->first + r) % job->group);
    int odd = 0;
    ROLLED
    for (int key = THREAD & 15; key < p->leaf_size; key += 16) {
        float *at = m->weights + r * m->w_pitch + key, x = *at, n = cuda_rint(x), w = cuda_weight(x - n, n - M);
        if (rondo__bits(x) == CUDA_HIDDEN)
            w = CUDA_UNSEEN;
        else if (terms && r < tile->rows && key < f->leaf.count &&
                 cuda_dropped(p, job->sequence, h, m->row[r].p, f->leaf.first + (int64_t)key * f->leaf.step))
            w = cuda_drop(w);
        odd |= key < f->leaf.count && cuda_is_odd(w);
        *at = w;
    }
    return odd;
}

/* Element i of a row that lies in registers: their number has to be known when it is compiled. */
DEVICE float cuda_take(const float from[8], int i)
{
    float x = from[0];
    UNROLL
    for (int k = 1; k < 8; k++)
        x = i == k ? from[k] : x;
    return x;
}

DEVICE void cuda_set(float to[8], int i, float x)
{
    UNROLL
    for (int k = 0; k < 8; k++)
        to[k] = i == k ? x : to[k];
}

/* A key block has its scores. Behind the last one all weights of the leaf follow; s is not needed any more then. Returns whether weights of the warp are
 * unseen or dropped. */
DEVICE int cuda_block(const struct cuda_attention *p, const struct cuda_bind *bind, const struct cuda_tile_memory *m, const struct cuda_leaf *f, int key0,
                      float s[8][8], float M[8], int hidden, int terms, int wide)
{
    const int lane = THREAD & 31, first = (THREAD >> 5) * 16 + (lane >> 4), last = !wide || key0 + CUDA_COLUMNS >= f->leaf.count, any = terms || f->view >= 0;
    int odd = 0;
    if (!any && hidden)
        cuda_scores(p, m, key0, s, M, 1);
    else if (!any)
        cuda_scores(p, m, key0, s, M, 0);
    if (any || hidden || (wide && (key0 || !last)))
        cuda_keep(p, m, key0, s, wide);
    if (!last)
        return 0;
    if (any) {
        ROLLED
        for (int i = 0; i < 8; i++)
            cuda_set(M, i, cuda_any_scores(p, bind, m, f, first + 2 * i, cuda_take(M, i), 0, terms));
    }
    const int exact = cuda_most(M);
    if (any || !exact) {
        if (!any)
            cuda_keep(p, m, key0, s, wide);
        ROLLED
        for (int i = 0; i < 8; i++) {
            if (!any)
                cuda_any_scores(p, bind, m, f, first + 2 * i, 0.0f, 1, 0);
            odd |= cuda_any_weights(p, m, f, first + 2 * i, cuda_take(M, i), terms);
        }
        odd = cuda_some(odd);
    } else if (hidden || (wide && key0)) {
        odd = hidden > 1;
        ROLLED
        for (key0 = 0; key0 < f->leaf.count; key0 += CUDA_COLUMNS) {
            const float *from = m->weights + first * m->w_pitch + (wide ? key0 : 0) + (lane & 15);
            UNROLL
            for (int i = 0; i < 8; i++) {
                UNROLL
                for (int j = 0; j < 8; j++)        /* behind a short leaf's row others write */
                    s[i][j] = !wide || key0 + (lane & 15) + 16 * j < p->leaf_size ? from[2 * i * m->w_pitch + 16 * j] : 0.0f;
            }
            cuda_weights(p, m, key0, s, M, 1, wide);
            if (!wide)
                break;
        }
    } else {
        cuda_weights(p, m, key0, s, M, 0, wide);
    }
    WARP_BARRIER();
    return odd;
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
            *l = odd ? cuda_sum(*l, o.b) : *l + o.b;
            *l = odd ? cuda_sum(*l, o.a) : *l + o.a;
            *l = odd ? cuda_sum(*l, o.d) : *l + o.d;
            *l = odd ? cuda_sum(*l, o.c) : *l + o.c;
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
}

/* ... and over the last keys of a leaf, where they are no four. */
DEVICE void cuda_last_values(float acc[8][8], float *l, const float *w, int pitch, const float *own, const float *v, int n, int sums)
{
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
        cuda_key(acc, a, v + key * CUDA_COLUMNS, 2, 1);
    }
}

/* ---- nodes ---- */

/* C5: what a merge multiplies with. M and l become the merged ones. */
DEVICE void cuda_merge(float left_M, float left_l, float *M, float *l, float *left, float *right)
{
    const float top = left_M > *M ? left_M : *M;
    *left = cuda_scale(left_M - top);
    *right = cuda_scale(*M - top);
    *l = NUM_FMA(left_l, *left, *l * *right);
    *M = top;
}

/* Floats of a node's row in the stack: quads. */
DEVICE int cuda_stack_row(const struct cuda_attention *p) { return (p->value_dim + 3) & ~3; }

/* merge(a node of the stack, acc): of a thread's rows, one block of dimensions. */
DEVICE void cuda_pop_node(const float *from, int row, int d, int first, float acc[8][8], float M[8], float l[8])
{
    struct quad x[8];
    float left[8], right[8];
    const float *at = from + first * row + d, *sums = from + CUDA_TILE * row + first;
    UNROLL
    for (int i = 0; i < 8; i++, at += 2 * row)
        x[i] = *(const struct quad *)(const void *)at;
    UNROLL
    for (int i = 0; i < 8; i++)
        cuda_merge(sums[2 * i], sums[CUDA_TILE + 2 * i], &M[i], &l[i], &left[i], &right[i]);
    UNROLL
    for (int h = 0; h < 2; h++) {
        if (d + 64 * h >= row)
            continue;
        if (h) {
            at = from + first * row + d + 64;
            UNROLL
            for (int i = 0; i < 8; i++, at += 2 * row)
                x[i] = *(const struct quad *)(const void *)at;
        }
        UNROLL
        for (int i = 0; i < 8; i++) {
            acc[i][4 * h] = NUM_FMA(x[i].a, left[i], acc[i][4 * h] * right[i]);
            acc[i][4 * h + 1] = NUM_FMA(x[i].b, left[i], acc[i][4 * h + 1] * right[i]);
            acc[i][4 * h + 2] = NUM_FMA(x[i].c, left[i], acc[i][4 * h + 2] * right[i]);
            acc[i][4 * h + 3] = NUM_FMA(x[i].d, left[i], acc[i][4 * h + 3] * right[i]);
        }
    }
}

/* A thread's part of a node goes where rows are `row` floats apart, its first `rows` of `room`. */
DEVICE void cuda_put_node(const struct cuda_attention *p, float *to, int row, int rows, int room, int d, int first, float acc[8][8], const float M[8],
                          const float l[8], int whole, int with_sums)
{
    float *at = to + first * row + d, *end = to + (int64_t)room * row + first;
    UNROLL
    for (int i = 0; i < 8; i++, at += 2 * row) {
        if (first + 2 * i >= rows)
            continue;
        UNROLL
        for (int h = 0; h < 2; h++) {
            if (d + 64 * h >= p->value_dim)
                continue;
            if (whole) {
                const struct quad x = { acc[i][4 * h], acc[i][4 * h + 1], acc[i][4 * h + 2], acc[i][4 * h + 3] };
                *(struct quad *)(void *)(at + 64 * h) = x;
            } else {
                UNROLL
                for (int e = 0; e < 4; e++)
                    if (d + 64 * h + e < p->value_dim)
                        at[64 * h + e] = acc[i][4 * h + e];
            }
        }
        if (with_sums) {
            end[2 * i] = M[i];
            end[room + 2 * i] = l[i];
        }
    }
}

/* The node over a leaf is joined with `merges` nodes of the stack, which has `top`; it goes behind what is left of these, or to `last`. Of the
 * tile's rows and one block of dimensions; M and l are written with the last of these. Rows that the tile does not have lie in the stack too,
 * whatever they are. */
DEVICE void cuda_node(const struct cuda_attention *p, const struct cuda_tile_memory *m, float acc[8][8], const float leaf_M[8], int d0, int top,
                      int merges, float *stack, float *last)
{
    const struct cuda_tile *tile = &m->known->tile;
    const int lane = THREAD & 31, first = (THREAD >> 5) * 16 + (lane >> 4), dim = p->value_dim, d = d0 + (lane & 15) * 4, row = cuda_stack_row(p);
    const int64_t level = (int64_t)CUDA_TILE * (row + 2);
    float M[8], l[8];
    UNROLL
    for (int i = 0; i < 8; i++) {
        l[i] = m->l[first + 2 * i];
        M[i] = l[i] != l[i] ? FLT_MAX : leaf_M[i];
    }
    ROLLED
    for (int n = 1; n <= merges; n++)
        if (d < row)
            cuda_pop_node(stack + (top - n) * level, row, d, first, acc, M, l);
    WARP_BARRIER();                  /* the M and l there have been read by all lanes */
    const int sums = d0 + CUDA_COLUMNS >= dim && (lane & 15) == 0;
    if (!last)
        cuda_put_node(p, stack + (top - merges) * level, row, CUDA_TILE, CUDA_TILE, d, first, acc, M, l, 1, sums);
    else if (dim % 4 == 0)
        cuda_put_node(p, last, dim, tile->rows, tile->room, d, first, acc, M, l, 1, sums);
    else
        cuda_put_node(p, last, dim, tile->rows, tile->room, d, first, acc, M, l, 0, sums);
}

/* ---- the kernel ---- */

DEVICE void cuda_zero(float s[8][8])
{
    UNROLL
    for (int i = 0; i < 8; i++) {
        UNROLL
        for (int j = 0; j < 8; j++)
            s[i][j] = 0.0f;
    }
}

/* A chunk of values, which lies at `parity`. */
DEVICE void cuda_value_chunk(const struct cuda_attention *p, const struct cuda_tile_memory *m, const struct cuda_chunk *c, int count, float acc[8][8], float *l,
                             int parity, int odd)
{
    const int lane = THREAD & 31, w = THREAD >> 5, keys = cuda_minimum(count - c->key, CUDA_CHUNK), sums = c->d == 0;
    const float *weights = m->weights + (w * 16 + (lane >> 4)) * m->w_pitch + c->key, *own = m->weights + (w * 16 + (lane & 15)) * m->w_pitch + c->key;
    const float *v = (parity ? m->stage[1] : m->stage[0]) + (lane & 15) * 4;
    const int two = p->value_dim - c->d > 64;
    if (two && !odd)
        cuda_values(acc, l, weights, m->w_pitch, own, v, keys, 2, 0, sums);
    else if (two)
        cuda_values(acc, l, weights, m->w_pitch, own, v, keys, 2, 1, sums);
    else if (!odd)
        cuda_values(acc, l, weights, m->w_pitch, own, v, keys, 1, 0, sums);
    else
        cuda_values(acc, l, weights, m->w_pitch, own, v, keys, 1, 1, sums);
    if (keys % 4)
        cuda_last_values(acc, l, weights, m->w_pitch, own, v, keys, sums);
}

/* One item: leaves [first, end) of a run. */
DEVICE void cuda_tile_item(const struct cuda_attention *p, int64_t number, const struct cuda_tile_memory *m, float *stack, int terms, int wide)
{
    struct cuda_known *known = m->known;
    const struct cuda_tile *tile = &known->tile;
    const int lane = THREAD & 31, w = THREAD >> 5, first = w * 16 + (lane >> 4);
    const struct cuda_chunk begins = { 0, 0, 0 };
    float s[8][8], M[8], l = 0.0f;
    int top = 0, parity = 0, now = 0, odd = 0, hidden = 0;

    cuda_know(p, number, known);
    const struct cuda_bind bound = cuda_bind_of(p, tile->job), *const bind = &bound;
    const int64_t begin = known->item.first, end = known->item.end;
    if (THREAD < tile->rows)
        m->row[THREAD] = p->rows[known->job.rows + (tile->first + THREAD) / known->job.group];
    if (known->leaf[0].number < end) {   /* else nobody would wait for what is on its way */
        if (!wide || p->resident)
            cuda_stage_q(p, tile, &known->job, bind, m->q, m->q_pitch, 0, (p->head_dim + 3) / 4 * 4);
        cuda_fetch_chunk(p, m, bind, &known->leaf[0], &begins, 0, wide);
    }
    ROLLED
    for (int64_t i = begin; i < end; i++) {
        const struct cuda_leaf *f = known->leaf + now;
        const int merges = rondo__run_merges(i, begin, end), seen = i == f->number, count = seen ? (int)f->leaf.count : 0;
        struct cuda_chunk c = begins;
        int more = 1;
        UNROLL
        for (int k = 0; k < 8; k++)
            M[k] = seen ? -__builtin_inff() : -FLT_MAX;
        if (!seen) {                 /* nobody sees it: no chunks, and a node of zeros */
            c.v = 1;
            WARP_BARRIER();
            if (lane < 16)
                m->l[w * 16 + lane] = 0.0f;
            WARP_BARRIER();
        }
        ROLLED
        while (more) {
            struct cuda_chunk next = c;
            more = cuda_next_chunk(p, count, &next, wide);
            if (seen) {
                COPY_WAIT(0);
                BARRIER();
                if (more)
                    cuda_fetch_chunk(p, m, bind, f, &next, parity ^ 1, wide);
                else if (known->leaf[now ^ 1].number < end)
                    cuda_fetch_chunk(p, m, bind, known->leaf + (now ^ 1), &begins, parity ^ 1, wide);
            }
            if (c.v ? c.key == 0 : c.d == 0)
                cuda_zero(s);
            if (!c.v) {
                if (c.d == 0 && c.key == 0) {    /* what comes next is known in time: a leaf has more chunks than this one */
                    hidden = cuda_visible(m, &f->leaf);
                    cuda_know_next(p, known, i, now ^ 1);
                }
                const float *q = !wide || p->resident ? m->q + c.d : m->q + parity * CUDA_TILE * CUDA_PITCH;
                cuda_chain(s, q + first * m->q_pitch, m->q_pitch, (parity ? m->stage[1] : m->stage[0]) + (lane & 15) * CUDA_PITCH, CUDA_PITCH,
                           cuda_minimum(p->head_dim - c.d, CUDA_CHUNK));
                if (next.d == 0)
                    odd = cuda_block(p, bind, m, f, c.key, s, M, hidden, terms, wide);
                l = 0.0f;
            } else {
                if (seen)
                    cuda_value_chunk(p, m, &c, count, s, &l, parity, odd);
                if (next.key == 0) {
                    if (seen && c.d == 0) {
                        if (lane < 16)
                            m->l[w * 16 + lane] = l;
                        WARP_BARRIER();
                    }
                    cuda_node(p, m, s, M, c.d, top, merges, stack, i + 1 == end ? p->nodes + known->item.nodes : (float *)0);
                }
            }
            parity ^= seen;
            c = next;
        }
        top += 1 - merges;
        now ^= seen;
    }
}

/* Narrow: heads and leaves of at most 128, queries held, no terms. */
DEVICE void cuda_tile_kernel(const struct cuda_attention *p, char *shared, int wide)
{
    const struct cuda_tile_memory m = cuda_tile_memory_of(p, shared, wide);
    const int terms = cuda_terms(p, wide);
    ROLLED
    for (int64_t i = p->first + BLOCK; i < p->first + p->count; i += BLOCKS)
        cuda_tile_item(p, i, &m, p->stack + BLOCK * p->stack_floats, terms, wide);
}

#endif
