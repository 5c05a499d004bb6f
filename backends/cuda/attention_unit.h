/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Nodes over leaves by the matrix unit of cards of compute capability 9.0: arithmetic bf16-hopper (rondo-numerics(7), rule 17; the scalar program is
 * backends/cpu/ref_attention.c). What a block takes, and what it knows of it, is as in attention_tile.h. A warp has 16 rows: lane / 4 says
 * which two of them, 8 apart, lane % 4 which columns (pairs, each fourth). K and V come through shared memory as BF16, 128 keys by 128 columns
 * at a time, the next on its way while one is computed with; scores and weights stay in registers, where a score's place is the one that the
 * unit wants of a weight. A node that waits for the leaf behind it stays in registers too where it has room there; the others lie in the stack, each
 * thread's own numbers side by side.
 *
 * Narrow: heads and leaves of at most 128, without terms and bits of masks. Wide: all else.
 */
#ifndef RONDO_CUDA_ATTENTION_UNIT_H
#define RONDO_CUDA_ATTENTION_UNIT_H

#include "backends/cuda/attention_nodes.h"

struct cuda_unit_memory {
    uint16_t *stage[2];            /* a chunk of K or of V, [128][CUDA_UNIT_PITCH] */
    uint16_t *q;                   /* [64][q_pitch], zeros where there are no rows and behind a row's end */
    struct cuda_row *row;          /* [64] */
    struct cuda_known *known;
    int *lo, *hi;                  /* [64]: the keys of the leaf that a row sees */
    int q_pitch;
};

DEVICE struct cuda_unit_memory cuda_unit_memory_of(const struct cuda_attention *p, char *shared)
{
    struct cuda_unit_memory m;
    m.stage[0] = (uint16_t *)(void *)shared;
    m.stage[1] = m.stage[0] + CUDA_COLUMNS * CUDA_UNIT_PITCH;
    m.q = m.stage[1] + CUDA_COLUMNS * CUDA_UNIT_PITCH;
    m.q_pitch = (int)cuda_unit_q_pitch(p->head_dim);
    m.row = (struct cuda_row *)(void *)(m.q + CUDA_TILE * m.q_pitch);
    m.known = (struct cuda_known *)(void *)(m.row + CUDA_TILE);
    m.lo = (int *)(void *)((char *)m.known + CUDA_KNOWN);
    m.hi = m.lo + CUDA_TILE;
    return m;
}

/* ---- to shared memory, as BF16 ---- */

struct eight { uint32_t a, b, c, d; } __attribute__((aligned(16)));   /* numbers of 16 bits */

/* Numbers c to c + 7 of a row that begins at element `at` and has `end`; zeros behind these. */
DEVICE struct eight cuda_unit_eight(const void *from, int64_t at, int c, int end, int type, int grain)
{
    struct eight x;
    float n[8];
    UNROLL
    for (int i = 0; i < 8; i++)
        n[i] = 0.0f;
    if (type == RONDO_F32 && grain == 16) {
        const struct quad *quads = (const struct quad *)(const void *)((const float *)from + at + c);
        const struct quad a = quads[0];
        n[0] = a.a, n[1] = a.b, n[2] = a.c, n[3] = a.d;
        if (c + 4 < end) {
            const struct quad b = quads[1];
            n[4] = b.a, n[5] = b.b, n[6] = b.c, n[7] = b.d;
        }
    } else {
        UNROLL
        for (int i = 0; i < 8; i++)
            if (c + i < end)
                n[i] = cuda_number(from, at, c + i, end, type);
    }
    x.a = PACK_BF16(n[0], n[1]), x.b = PACK_BF16(n[2], n[3]), x.c = PACK_BF16(n[4], n[5]), x.d = PACK_BF16(n[6], n[7]);
    return x;
}

/* 128 rows, of which those of [lo, hi) are read, and of each `columns` from c0 on, as far as there are; all else becomes zero. Row 0 begins at `at`. */
DEVICE void cuda_unit_stage(uint16_t *to, int lo, int hi, const void *from, int64_t at, int64_t stride, int c0, int columns, int end, int type, int grain)
{
    const int c = THREAD % 16 * 8, first = THREAD / 16, there = c0 + c < end;
    if (c >= columns)
        return;
    to += first * CUDA_UNIT_PITCH + c;
    if (type == RONDO_BF16 && grain == 16) {
        const uint16_t *x = (const uint16_t *)from + at + first * stride + c0 + c;
        const shared_at here = SHARED_AT(to);
        if (lo <= 0 && hi >= CUDA_COLUMNS && there) {
            UNROLL
            for (int n = 0; n < 16; n++, x += 8 * stride)
                COPY16_AT(here, 16 * n * CUDA_UNIT_PITCH, x, 1);
            return;
        }
        ROLLED
        for (int row = first; row < CUDA_COLUMNS; row += 8, x += 8 * stride)
            COPY16_AT(here, 2 * (row - first) * CUDA_UNIT_PITCH, x, there && row >= lo && row < hi);
        return;
    }
    ROLLED
    for (int row = first; row < CUDA_COLUMNS; row += 8, to += 8 * CUDA_UNIT_PITCH) {
        struct eight x = { 0, 0, 0, 0 };
        if (there && row >= lo && row < hi)
            x = cuda_unit_eight(from, at + row * stride, c0 + c, end, type, grain);
        *(struct eight *)(void *)to = x;
    }
}

DEVICE void cuda_unit_stage_q(const struct cuda_attention *p, const struct cuda_unit_memory *m, const struct cuda_bind *bind)
{
    const struct cuda_tile *tile = &m->known->tile;
    const int across = (m->q_pitch - 8) / 8;
    ROLLED
    for (int i = THREAD; i < CUDA_TILE * across; i += CUDA_THREADS) {
        const int row = i / across, c = i % across * 8;
        struct eight x = { 0, 0, 0, 0 };
        if (row < tile->rows && c < p->head_dim) {
            const int64_t at = bind->q + cuda_row_at(&m->known->job, tile, tile->first + row, p->q_row, p->q_head);
            if (p->q_type == RONDO_BF16 && p->q_grain == 16)
                x = *(const struct eight *)(const void *)((const uint16_t *)p->q + at + c);
            else
                x = cuda_unit_eight(p->q, at, c, p->head_dim, p->q_type, p->q_grain);
        }
        *(struct eight *)(void *)(m->q + row * m->q_pitch + c) = x;
    }
}

/* What is staged next: 128 keys from `key` on, of K the columns from d on, of V those from `value` on. A leaf of more than 128 keys is gone through once
 * before, for the largest score. */
enum { CUDA_UNIT_FIRST, CUDA_UNIT_K, CUDA_UNIT_V };
struct cuda_unit_chunk {
    int what, key, d, value;
};

DEVICE struct cuda_unit_chunk cuda_unit_begin(int count, int wide)
{
    const struct cuda_unit_chunk c = { wide && count > CUDA_COLUMNS ? CUDA_UNIT_FIRST : CUDA_UNIT_K, 0, 0, 0 };
    return c;
}

/* 0: there is none, and the leaf is over. */
DEVICE int cuda_unit_next(const struct cuda_attention *p, int count, struct cuda_unit_chunk *c, int wide)
{
    if (!wide) {
        c->what++;
        return c->what == CUDA_UNIT_V;
    }
    if (c->what != CUDA_UNIT_V) {
        c->d += CUDA_COLUMNS;
        if (c->d < p->head_dim)
            return 1;
        c->d = 0;
        if (c->what == CUDA_UNIT_K) {
            c->what = CUDA_UNIT_V;
        } else {
            c->key += CUDA_COLUMNS;
            if (c->key >= count)
                c->key = 0, c->what = CUDA_UNIT_K;
        }
        return 1;
    }
    c->key += CUDA_COLUMNS;
    if (c->key >= count) {
        c->key = 0;
        c->value += CUDA_COLUMNS;
        if (c->value >= p->value_dim)
            return 0;
    }
    c->what = count > CUDA_COLUMNS ? CUDA_UNIT_K : CUDA_UNIT_V;
    return 1;
}

DEVICE void cuda_unit_fetch(const struct cuda_attention *p, const struct cuda_unit_memory *m, const struct cuda_leaf *f, const struct cuda_unit_chunk *c, uint16_t *to)
{
    const struct cuda_run *run = &m->known->run;
    const int v = c->what == CUDA_UNIT_V, lo = f->lo - c->key, hi = f->hi - c->key;
    const int64_t row = v ? run->v_row : run->k_row, at = (v ? f->v_at : f->k_at) + c->key * row;
    const int end = v ? p->value_dim : p->head_dim, c0 = v ? c->value : c->d, columns = end - c0 > CUDA_COLUMNS / 2 ? CUDA_COLUMNS : CUDA_COLUMNS / 2;
    if (p->kv_type == RONDO_BF16)
        cuda_unit_stage(to, lo, hi, v ? run->v : run->k, at, row, c0, columns, end, RONDO_BF16, v ? run->v_grain : run->k_grain);
    else if (p->kv_type == RONDO_F32)
        cuda_unit_stage(to, lo, hi, v ? run->v : run->k, at, row, c0, columns, end, RONDO_F32, v ? run->v_grain : run->k_grain);
    else
        cuda_unit_stage(to, lo, hi, v ? run->v : run->k, at, row, c0, columns, end, p->kv_type, v ? run->v_grain : run->k_grain);
    COPY_CLOSE();
}

/* ---- scores ---- */

/* Which keys of the leaf the warp's rows see; rows that are none see all. Returns whether one is hidden, or there are fewer than a multiple of 128. */
DEVICE int cuda_unit_visible(const struct cuda_unit_memory *m, const struct rondo_leaf *leaf)
{
    const int lane = THREAD & 31, r = (THREAD >> 5) * 16 + lane;
    int hidden = leaf->count % CUDA_COLUMNS != 0;
    if (lane < 16) {
        int32_t lo = 0, hi = (int32_t)leaf->count;
        if (r < m->known->tile.rows)
            rondo__visible_in_leaf(leaf, m->row[r].lo, m->row[r].hi, &lo, &hi);
        m->lo[r] = lo;
        m->hi[r] = hi;
        hidden |= lo > 0 || hi < leaf->count;
    }
    WARP_BARRIER();
    return cuda_some(hidden);
}

#define CUDA_UNIT_AHEAD 3              /* matrices that are on their way from shared memory */

/* s[j]: keys 8 j + 2 (lane % 4) and the next one, of both rows. */
DEVICE void cuda_unit_product(float s[16][4], const uint16_t *q, int q_pitch, const uint16_t *k, int blocks)
{
    const int lane = THREAD & 31;
    shared_at a_at = SHARED_AT(q + (lane & 15) * q_pitch + (lane >> 4) * 8);
    shared_at b_at = SHARED_AT(k + ((lane & 7) + (lane >> 4) * 8) * CUDA_UNIT_PITCH + ((lane >> 3) & 1) * 8);
    ROLLED
    for (int d = 0; d < blocks; d++, a_at += 32, b_at += 32) {
        uint32_t a[4], b[8][4];
        MATRIX_LOAD(a, a_at, 0);
        UNROLL
        for (int j = 0; j < CUDA_UNIT_AHEAD; j++)
            MATRIX_LOAD(b[j], b_at, 32 * j * CUDA_UNIT_PITCH);
        UNROLL
        for (int j = 0; j < 8; j++) {
            if (j + CUDA_UNIT_AHEAD < 8)
                MATRIX_LOAD(b[j + CUDA_UNIT_AHEAD], b_at, 32 * (j + CUDA_UNIT_AHEAD) * CUDA_UNIT_PITCH);
            MATRIX_BF16(s[2 * j], a, b[j]);
            MATRIX_BF16(s[2 * j + 1], a, b[j] + 2);
        }
    }
}

/* The keys of a block that a thread has of both of its rows are first + 8 j + apart * e, for e = 0 and 1: neighbours (apart = 1), or, in the fragments of
 * attention_double.h, the same place in both halves of each eight (4). */
DEVICE int cuda_unit_key(int key0, int apart) { return key0 + (apart == 1 ? 2 : 1) * (THREAD & 3); }

/* Of the block at key0 its row, the first or the second, sees those of [lo, hi), counted from its first key. */
DEVICE int cuda_unit_first(const int *at, int key0, int second, int apart)
{
    return at[(THREAD >> 5) * 16 + ((THREAD & 31) >> 2) + 8 * second] - cuda_unit_key(key0, apart);
}

/* Scores of a row, the first or the second, become x. Returns the largest of M and those that are seen. */
DEVICE float cuda_unit_row_scores(const struct cuda_attention *p, const struct cuda_unit_memory *m, int key0, float s[16][4], float M, int second, int hidden,
                                  int apart)
{
    const int lo = hidden ? cuda_unit_first(m->lo, key0, second, apart) : 0, hi = hidden ? cuda_unit_first(m->hi, key0, second, apart) : 0;
    UNROLL
    for (int j = 0; j < 16; j++) {
        UNROLL
        for (int e = 0; e < 2; e++) {
            const float x = s[j][2 * second + e] * p->scale_log2;
            s[j][2 * second + e] = x;
            M = NUM_MAX(M, hidden && (8 * j + apart * e < lo || 8 * j + apart * e >= hi) ? -__builtin_inff() : x);
        }
    }
    return M;
}

DEVICE void cuda_unit_scores(const struct cuda_attention *p, const struct cuda_unit_memory *m, int key0, float s[16][4], float M[2], int hidden, int apart)
{
    M[0] = cuda_unit_row_scores(p, m, key0, s, M[0], 0, hidden, apart);
    M[1] = cuda_unit_row_scores(p, m, key0, s, M[1], 1, hidden, apart);
}

/* A thread's scores on their way to memory of its own, where their number need not be known when this is compiled, and back. */
DEVICE void cuda_unit_lay(float *own, float s[16][4])
{
    UNROLL
    for (int k = 0; k < 64; k++)
        own[k * CUDA_THREADS] = s[k >> 2][k & 3];
}
DEVICE void cuda_unit_take(const float *own, float s[16][4])
{
    UNROLL
    for (int k = 0; k < 64; k++)
        s[k >> 2][k & 3] = own[k * CUDA_THREADS];
}

/* cuda_unit_scores() for every mask and term, one score after the other. What is hidden is CUDA_HIDDEN. */
DEVICE void cuda_unit_any_scores(const struct cuda_attention *p, const struct cuda_bind *bind, const struct cuda_unit_memory *m, const struct cuda_leaf *f, int key0,
                                 float s[16][4], float M[2], int terms, float *own, int apart)
{
    const struct cuda_tile *tile = &m->known->tile;
    const struct cuda_job *job = &m->known->job;
    const int lane = THREAD & 31, first = (THREAD >> 5) * 16 + (lane >> 2);
    float most[2] = { M[0], M[1] };
    cuda_unit_lay(own, s);
    ROLLED
    for (int k = 0; k < 64; k++) {
        const int h = k >> 1 & 1, r = first + 8 * h, key = cuda_unit_key(key0, apart) + 8 * (k >> 2) + apart * (k & 1), there = r < tile->rows;
        float *at = own + k * CUDA_THREADS, x = *at * p->scale_log2;
        int seen = key >= m->lo[r] && key < m->hi[r];
        if (seen && there && f->view >= 0)
            seen = (int)(p->bits[(f->view + r) * 4 + key / 64] >> (key % 64) & 1);
        if (seen && there && terms) {
            const int hq = tile->kv_head * job->group + (int)((tile->first + r) % job->group);
            seen = cuda_score(p, bind, *at, m->row[r].p, f->leaf.first + (int64_t)key * f->leaf.step, p->head + job->head + hq, hq, &x);
        }
        most[0] = NUM_MAX(most[0], seen && !h ? x : -__builtin_inff());
        most[1] = NUM_MAX(most[1], seen && h ? x : -__builtin_inff());
        *at = seen ? x : rondo__float(CUDA_HIDDEN);
    }
    M[0] = most[0];
    M[1] = most[1];
    cuda_unit_take(own, s);
}

/* Those of a row, in all of the lanes that share it, become rule C3's M. Returns whether all of the warp's are such that cuda_unit_weights() is exact. */
DEVICE int cuda_unit_most(float M[2])
{
    int far = 0;
    UNROLL
    for (int h = 0; h < 2; h++) {
        M[h] = NUM_MAX(M[h], SHUFFLE_XOR(M[h], 1));
        M[h] = NUM_MAX(M[h], SHUFFLE_XOR(M[h], 2));
        far |= !(M[h] > -4194000.0f && M[h] < 4194000.0f) && M[h] != -__builtin_inff();
        M[h] = M[h] == -__builtin_inff() ? -FLT_MAX : cuda_rint(M[h]);
    }
    return !cuda_some(far);
}

/* ---- weights ---- */

/* Of a block of 128 keys, both rows: which are hidden and which are dropped, bit 2 j + e. And what the unit takes: pairs of weights. */
struct cuda_unit_marks {
    uint32_t unseen[2], dropped[2];
};
struct cuda_unit_pairs {
    uint32_t w[16][2];
    struct cuda_unit_marks marks;
};

/* As cuda_weights() has them, of a row; x become weights. Returns the bits of those that are hidden. */
DEVICE uint32_t cuda_unit_row_weights(const struct cuda_unit_memory *m, int key0, float s[16][4], float M, int second, int hidden, int apart)
{
    const int lo = hidden ? cuda_unit_first(m->lo, key0, second, apart) : 0, hi = hidden ? cuda_unit_first(m->hi, key0, second, apart) : 0;
    uint32_t unseen = 0;
    UNROLL
    for (int j = 0; j < 16; j++) {
        UNROLL
        for (int e = 0; e < 2; e++) {
            const float x = s[j][2 * second + e], t = x + 12582912.0f, d = t - M;
            float w = rondo__exp2_poly(x - (t - 12582912.0f)) * rondo__float((rondo__bits(d) << 23) + 0x3f800000u);
            w = d < 12582912.0f - 125.0f ? 0.0f : w;
            if (hidden && (8 * j + apart * e < lo || 8 * j + apart * e >= hi)) {
                w = 0.0f;
                unseen |= UINT32_C(1) << (2 * j + e);
            }
            s[j][2 * second + e] = w;
        }
    }
    return unseen;
}

DEVICE void cuda_unit_weights(const struct cuda_unit_memory *m, int key0, float s[16][4], const float M[2], struct cuda_unit_marks *out, int hidden,
                              int apart)
{
    out->unseen[0] = cuda_unit_row_weights(m, key0, s, M[0], 0, hidden, apart);
    out->unseen[1] = cuda_unit_row_weights(m, key0, s, M[1], 1, hidden, apart);
}

/* The same for all x that there can be, CUDA_HIDDEN among them. */
DEVICE void cuda_unit_any_weights(float s[16][4], const float M[2], struct cuda_unit_marks *out, float *own)
{
    const float M0 = M[0], M1 = M[1];
    uint32_t first = 0, second = 0;
    cuda_unit_lay(own, s);
    ROLLED
    for (int k = 0; k < 64; k++) {
        const int h = k >> 1 & 1, hides = rondo__bits(own[k * CUDA_THREADS]) == CUDA_HIDDEN;
        const float x = own[k * CUDA_THREADS], n = cuda_rint(x);
        const uint32_t bit = (uint32_t)hides << (2 * (k >> 2) + (k & 1));
        own[k * CUDA_THREADS] = hides ? 0.0f : cuda_weight(x - n, n - (h ? M1 : M0));
        first |= h ? 0 : bit;
        second |= h ? bit : 0;
    }
    out->unseen[0] = first;
    out->unseen[1] = second;
    cuda_unit_take(own, s);
}

DEVICE void cuda_unit_pack(float s[16][4], struct cuda_unit_pairs *out)
{
    UNROLL
    for (int j = 0; j < 16; j++) {
        out->w[j][0] = PACK_BF16(s[j][0], s[j][1]);
        out->w[j][1] = PACK_BF16(s[j][2], s[j][3]);
    }
}

DEVICE void cuda_unit_drop(const struct cuda_attention *p, const struct cuda_unit_memory *m, const struct cuda_leaf *f, int key0, struct cuda_unit_marks *out,
                           int apart)
{
    const struct cuda_tile *tile = &m->known->tile;
    const struct cuda_job *job = &m->known->job;
    const int lane = THREAD & 31, first = (THREAD >> 5) * 16 + (lane >> 2), heads = p->head + job->head + tile->kv_head * job->group;
    uint32_t first_row = 0, second_row = 0;
    ROLLED
    for (int k = 0; k < 64; k++) {
        const int r = first + 8 * (k & 1), key = cuda_unit_key(key0, apart) + 8 * (k >> 2) + apart * (k >> 1 & 1);
        if (r >= tile->rows || key >= f->leaf.count ||
            !cuda_dropped(p, job->sequence, heads + (int)((tile->first + r) % job->group), m->row[r].p, f->leaf.first + (int64_t)key * f->leaf.step))
            continue;
        first_row |= k & 1 ? 0 : UINT32_C(1) << (k >> 1);
        second_row |= k & 1 ? UINT32_C(1) << (k >> 1) : 0;
    }
    out->dropped[0] = first_row;
    out->dropped[1] = second_row;
}

/* Where M is out of the reach of cuda_unit_weights(): what is hidden becomes CUDA_HIDDEN. */
DEVICE void cuda_unit_hide_row(const struct cuda_unit_memory *m, int key0, float s[16][4], int second, int apart)
{
    const int lo = cuda_unit_first(m->lo, key0, second, apart), hi = cuda_unit_first(m->hi, key0, second, apart);
    UNROLL
    for (int j = 0; j < 16; j++) {
        UNROLL
        for (int e = 0; e < 2; e++)
            if (8 * j + apart * e < lo || 8 * j + apart * e >= hi)
                s[j][2 * second + e] = rondo__float(CUDA_HIDDEN);
    }
}

/* ---- values ---- */

#define CUDA_UNIT_ONES 0x3f803f80u     /* 1 and 1 */

/* Of two pairs' bits of a mask, what is left of the pairs. */
DEVICE uint32_t cuda_unit_keep(uint32_t w, uint32_t bits) { return w & ~((bits & 1 ? 0xffffu : 0) | (bits & 2 ? 0xffff0000u : 0)); }

/* acc[j]: columns 8 j + 2 (lane % 4) and the next one of V; l: a column of ones. */
DEVICE void cuda_unit_values(float acc[16][4], float l[4], const struct cuda_unit_pairs *x, const uint16_t *v, int tiles, int drop, int sums)
{
    const int lane = THREAD & 31;
    const uint32_t ones[2] = { CUDA_UNIT_ONES, CUDA_UNIT_ONES };
    const shared_at at = SHARED_AT(v + (lane & 15) * CUDA_UNIT_PITCH + (lane >> 4) * 8);
    UNROLL
    for (int b = 0; b < 8; b++) {
        uint32_t a[4] = { x->w[2 * b][0], x->w[2 * b][1], x->w[2 * b + 1][0], x->w[2 * b + 1][1] };
        if (sums)
            MATRIX_BF16(l, a, ones);
        if (drop) {
            UNROLL
            for (int i = 0; i < 4; i++)
                a[i] = cuda_unit_keep(a[i], x->marks.dropped[i & 1] >> (4 * b + 2 * (i >> 1)));
        }
        uint32_t w[8][4];
        UNROLL
        for (int j = 0; j < CUDA_UNIT_AHEAD; j++)
            MATRIX_LOAD_TURNED(w[j], at, 32 * b * CUDA_UNIT_PITCH + 32 * j);
        UNROLL
        for (int j = 0; j < tiles / 2; j++) {
            if (j + CUDA_UNIT_AHEAD < tiles / 2)
                MATRIX_LOAD_TURNED(w[j + CUDA_UNIT_AHEAD], at, 32 * b * CUDA_UNIT_PITCH + 32 * (j + CUDA_UNIT_AHEAD));
            MATRIX_BF16(acc[2 * j], a, w[j]);
            MATRIX_BF16(acc[2 * j + 1], a, w[j] + 2);
        }
    }
}

/* Whether a number of the chunk of V is infinite or NaN, which the zero weight of a hidden or a dropped key would let through. */
DEVICE int cuda_unit_odd(const uint16_t *v, int tiles)
{
    int odd = 0;
    ROLLED
    for (int i = THREAD & 31; i < CUDA_COLUMNS * tiles; i += 32) {
        const struct eight x = *(const struct eight *)(const void *)(v + i / tiles * CUDA_UNIT_PITCH + i % tiles * 8);
        const uint32_t w[4] = { x.a, x.b, x.c, x.d };
        UNROLL
        for (int k = 0; k < 4; k++)
            odd |= (w[k] & 0x7f80u) == 0x7f80u || (w[k] & 0x7f800000u) == 0x7f800000u;
    }
    return cuda_some(odd);
}

/* acc = acc + a b, of the first or the second row only. */
DEVICE void cuda_unit_own(float acc[4], const uint32_t a[4], const uint32_t b[2], int first, int second)
{
    float d[4] = { acc[0], acc[1], acc[2], acc[3] };
    MATRIX_BF16(d, a, b);
    acc[0] = first ? d[0] : acc[0];
    acc[1] = first ? d[1] : acc[1];
    acc[2] = second ? d[2] : acc[2];
    acc[3] = second ? d[3] : acc[3];
}

/* cuda_unit_values() where both are: row after row, each with V as far as it sees it. */
DEVICE void cuda_unit_values_apart(float acc[16][4], float l[4], const struct cuda_unit_pairs *x, const uint16_t *v, int tiles, int sums)
{
    const int lane = THREAD & 31, g = lane >> 2;
    const uint32_t ones[2] = { CUDA_UNIT_ONES, CUDA_UNIT_ONES };
    shared_at at = SHARED_AT(v + (lane & 15) * CUDA_UNIT_PITCH + (lane >> 4) * 8);
    ROLLED
    for (int b = 0; b < 8; b++, at += 32 * CUDA_UNIT_PITCH) {
        uint32_t a[4] = { 0, 0, 0, 0 };
        UNROLL
        for (int k = 0; k < 8; k++) {
            UNROLL
            for (int i = 0; i < 4; i++)
                a[i] = k == b ? x->w[2 * k + (i >> 1)][i & 1] : a[i];
        }
        if (sums)
            MATRIX_BF16(l, a, ones);
        UNROLL
        for (int i = 0; i < 4; i++)
            a[i] = cuda_unit_keep(a[i], x->marks.dropped[i & 1] >> (4 * b + 2 * (i >> 1)));
        ROLLED
        for (int r = 0; r < 16; r++) {
            const uint32_t all = r & 8 ? x->marks.unseen[1] | x->marks.dropped[1] : x->marks.unseen[0] | x->marks.dropped[0];
            const uint32_t hides = SHUFFLE_FROM(all >> (4 * b) & 15, (r & 7) * 4 + (lane & 3));
            const int own = g == (r & 7);
            const uint32_t row[4] = { own && r < 8 ? a[0] : 0, own && r >= 8 ? a[1] : 0, own && r < 8 ? a[2] : 0, own && r >= 8 ? a[3] : 0 };
            UNROLL
            for (int j = 0; j < tiles / 2; j++) {
                uint32_t w[4];
                MATRIX_LOAD_TURNED(w, at, 32 * j);
                UNROLL
                for (int i = 0; i < 4; i++)
                    w[i] = cuda_unit_keep(w[i], hides >> (2 * (i & 1)));
                cuda_unit_own(acc[2 * j], row, w, own && r < 8, own && r >= 8);
                cuda_unit_own(acc[2 * j + 1], row, w + 2, own && r < 8, own && r >= 8);
            }
        }
    }
}

DEVICE void cuda_unit_value_block(const struct cuda_attention *p, float acc[16][4], float l[4], const struct cuda_unit_pairs *x, const uint16_t *v, int value,
                                  int hidden, int terms)
{
    const int two = p->value_dim - value > CUDA_COLUMNS / 2, sums = value == 0, drop = terms && p->terms.drop;
    const uint32_t marks = x->marks.unseen[0] | x->marks.unseen[1] | x->marks.dropped[0] | x->marks.dropped[1];
    if ((hidden || drop) && cuda_some(marks != 0) && cuda_unit_odd(v, two ? 16 : 8)) {
        cuda_unit_values_apart(acc, l, x, v, 16, sums);
    } else if (drop) {
        cuda_unit_values(acc, l, x, v, 16, 1, sums);
    } else if (two) {
        cuda_unit_values(acc, l, x, v, 16, 0, sums);
    } else {
        cuda_unit_values(acc, l, x, v, 8, 0, sums);
        KEEP_APART();                /* else the ends of both become one, with acc in memory */
    }
}

/* ---- the kernel ---- */

DEVICE void cuda_unit_zero(float s[16][4])
{
    UNROLL
    for (int j = 0; j < 16; j++) {
        UNROLL
        for (int e = 0; e < 4; e++)
            s[j][e] = 0.0f;
    }
}

/* Where a block is among the chunks of its item. */
struct cuda_unit_walk {
    struct cuda_unit_chunk c;
    int64_t end;
    int parity, now;
};

/* The chunk that comes next is there, and the one behind it is sent on its way. */
DEVICE const uint16_t *cuda_unit_step(const struct cuda_attention *p, const struct cuda_unit_memory *m, struct cuda_unit_walk *w, int wide)
{
    const struct cuda_leaf *f = m->known->leaf + w->now, *other = m->known->leaf + (w->now ^ 1);
    uint16_t *const here = w->parity ? m->stage[1] : m->stage[0], *const there = w->parity ? m->stage[0] : m->stage[1];
    COPY_WAIT(0);
    BARRIER();
    if (cuda_unit_next(p, (int)f->leaf.count, &w->c, wide)) {
        cuda_unit_fetch(p, m, f, &w->c, there);
    } else if (other->number < w->end) {
        w->c = cuda_unit_begin((int)other->leaf.count, wide);
        cuda_unit_fetch(p, m, other, &w->c, there);
    }
    w->parity ^= 1;
    return here;
}

/* The scores of a block of keys, from its chunks of K. */
DEVICE void cuda_unit_block(const struct cuda_attention *p, const struct cuda_unit_memory *m, struct cuda_unit_walk *w, float s[16][4], int active, int wide)
{
    cuda_unit_zero(s);
    ROLLED
    for (int d = 0; d < (wide ? p->head_dim : 1); d += CUDA_COLUMNS) {
        const uint16_t *k = cuda_unit_step(p, m, w, wide);
        if (active)
            cuda_unit_product(s, m->q + (THREAD >> 5) * 16 * m->q_pitch + d, m->q_pitch, k, cuda_minimum(cuda_chunks(p->head_dim - d, 16), 8));
    }
}

/* A leaf at work: whom it shows what, and the largest x that has been seen. */
struct cuda_unit_leaf {
    const struct cuda_leaf *f;
    float M[2];
    int hidden, exact, any;
};

/* Scores of the keys from key0 on become x. last: M is known then. */
DEVICE void cuda_unit_see(const struct cuda_attention *p, const struct cuda_bind *bind, const struct cuda_unit_memory *m, struct cuda_unit_leaf *at, int key0,
                          float s[16][4], int again, int last, int terms, float *own, int apart)
{
    float M[2] = { at->M[0], at->M[1] };
    if (at->any)
        cuda_unit_any_scores(p, bind, m, at->f, key0, s, M, terms, own, apart);
    else if (at->hidden)
        cuda_unit_scores(p, m, key0, s, M, 1, apart);
    else
        cuda_unit_scores(p, m, key0, s, M, 0, apart);
    if (!again)
        at->M[0] = M[0], at->M[1] = M[1];
    if (last)
        at->exact = cuda_unit_most(at->M);
}

/* ... and weights */
DEVICE void cuda_unit_weigh(const struct cuda_attention *p, const struct cuda_unit_memory *m, const struct cuda_unit_leaf *at, int key0, float s[16][4],
                            struct cuda_unit_marks *x, int terms, float *own, int apart)
{
    x->unseen[0] = x->unseen[1] = x->dropped[0] = x->dropped[1] = 0;
    if (at->any || !at->exact) {
        if (!at->any) {
            cuda_unit_hide_row(m, key0, s, 0, apart);
            cuda_unit_hide_row(m, key0, s, 1, apart);
        }
        cuda_unit_any_weights(s, at->M, x, own);
    } else if (at->hidden) {
        cuda_unit_weights(m, key0, s, at->M, x, 1, apart);
    } else {
        cuda_unit_weights(m, key0, s, at->M, x, 0, apart);
    }
    if (terms && p->terms.drop)
        cuda_unit_drop(p, m, at->f, key0, x, apart);
}

/* One item: leaves [first, end) of a run. */
DEVICE void cuda_unit_item(const struct cuda_attention *p, int64_t number, const struct cuda_unit_memory *m, float *stack, int terms, int wide)
{
    struct cuda_known *known = m->known;
    const struct cuda_tile *tile = &known->tile;
    const int64_t level = (int64_t)CUDA_UNIT_LEVEL * (wide ? cuda_chunks(p->value_dim, CUDA_COLUMNS) : 1);   /* floats of a node in the stack */
    struct cuda_unit_node node, held;
    struct cuda_unit_walk w;
    int top = 0, holds = 0;

    cuda_know(p, number, known);
    const struct cuda_bind bound = cuda_bind_of(p, tile->job), *const bind = &bound;
    const int64_t begin = known->item.first, end = known->item.end;
    const int active = (THREAD >> 5) * 16 < tile->rows;     /* a warp without rows only moves data */
    if (THREAD < tile->rows)
        m->row[THREAD] = p->rows[known->job.rows + (tile->first + THREAD) / known->job.group];
    w.end = end;
    w.parity = w.now = 0;
    w.c = cuda_unit_begin((int)known->leaf[0].leaf.count, wide);
    if (known->leaf[0].number < end) {   /* else nobody would wait for what is on its way */
        cuda_unit_fetch(p, m, &known->leaf[0], &w.c, m->stage[0]);
        cuda_unit_stage_q(p, m, bind);
    }
    ROLLED
    for (int64_t i = begin; i < end; i++) {
        struct cuda_unit_leaf at = { known->leaf + w.now, { -FLT_MAX, -FLT_MAX }, 0, 1, 0 };
        const int merges = rondo__run_merges(i, begin, end), seen = i == at.f->number;
        const int blocks = wide && seen && at.f->leaf.count > CUDA_COLUMNS ? 2 : 1;
        float s[16][4], l[4] = { 0.0f, 0.0f, 0.0f, 0.0f };
        struct cuda_unit_pairs x;
        float *const own = stack + top * level + THREAD;         /* where the leaf's node will be */
        int told = 0;
        if (seen) {
            at.M[0] = at.M[1] = -__builtin_inff();
            at.any = wide && (terms || at.f->view >= 0);
        }
        ROLLED
        for (int value = 0; value < (wide ? p->value_dim : 1); value += CUDA_COLUMNS) {
            if (!seen)
                cuda_unit_zero(node.acc);
            /* a leaf of two blocks is gone through once before, for M */
            ROLLED
            for (int key = blocks == 2 && value == 0 ? -2 * CUDA_COLUMNS : 0; seen && key < blocks * CUDA_COLUMNS; key += CUDA_COLUMNS) {
                const int key0 = wide && key < 0 ? key + 2 * CUDA_COLUMNS : key;
                if (value == 0 || blocks == 2) {
                    cuda_unit_block(p, m, &w, s, active, wide);
                    if (!told) {             /* behind the first barrier: what was read of the leaf before has been */
                        told = 1;
                        at.hidden = cuda_unit_visible(m, &at.f->leaf);
                        cuda_know_next(p, known, i, w.now ^ 1);
                    }
                    if (active)
                        cuda_unit_see(p, bind, m, &at, key0, s, blocks == 2 && key >= 0, blocks == 1 || key == -CUDA_COLUMNS, terms, own, 1);
                    if (key < 0)
                        continue;
                    if (active) {
                        cuda_unit_weigh(p, m, &at, key0, s, &x.marks, terms, own, 1);
                        cuda_unit_pack(s, &x);
                    }
                }
                const uint16_t *v = cuda_unit_step(p, m, &w, wide);
                if (!wide || key == 0)
                    cuda_unit_zero(node.acc);
                if (active)
                    cuda_unit_value_block(p, node.acc, l, &x, v, value, at.hidden || at.any, terms);
            }
            UNROLL
            for (int h = 0; h < 2; h++) {
                node.l[h] = l[2 * h];
                node.M[h] = node.l[h] != node.l[h] ? FLT_MAX : at.M[h];
            }
            if (active)
                cuda_unit_join(p, &node, &held, &holds, stack, top, merges, level, value, i + 1 == end ? p->nodes + known->item.nodes : (float *)0, tile, wide);
        }
        top += 1 - merges;
        w.now ^= seen;
    }
}

DEVICE void cuda_unit_kernel(const struct cuda_attention *p, char *shared, int wide)
{
    const struct cuda_unit_memory m = cuda_unit_memory_of(p, shared);
    const int terms = cuda_terms(p, wide);
    ROLLED
    for (int64_t i = p->first + BLOCK; i < p->first + p->count; i += BLOCKS)
        cuda_unit_item(p, i, &m, p->stack + BLOCK * p->stack_floats, terms, wide);
}

#endif
