/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Nodes over leaves by the FP64 matrix unit of cards of compute capability 8.0 and newer: arithmetic f64 (rondo-numerics(7), rule 17; the scalar
 * program is backends/cpu/ref_attention.c). Built like attention_unit.h, with what that has between the two products: scores are rounded to single
 * when their chain is over, weights are single, and so is a node. A warp has 16 rows, as two matrices of 8. K and V come through shared memory as
 * floats, 64 keys by 128 columns at a time, and are widened when the unit takes them.
 *
 * Of 8 keys of a tile, a thread (t = lane % 4) has key t and key t + 4: so its weights are where the unit wants them, four keys after the other.
 * That is so because column c of a tile of scores is made key c / 2 + 4 (c % 2).
 */
#ifndef RONDO_CUDA_ATTENTION_DOUBLE_H
#define RONDO_CUDA_ATTENTION_DOUBLE_H

#include "backends/cuda/attention_unit.h"

#define CUDA_DOUBLE_APART 4     /* keys: cuda_unit_key() */

struct cuda_double_memory {
    struct cuda_unit_memory rows;  /* all but stages and queries */
    float *stage[2];               /* a chunk of K, [64][CUDA_DOUBLE_K_PITCH], or of V, [64][CUDA_DOUBLE_V_PITCH] */
    float *q;                      /* [64][q_pitch], zeros where there are no rows and behind a row's end */
    int q_pitch;
};

DEVICE struct cuda_double_memory cuda_double_memory_of(const struct cuda_attention *p, char *shared)
{
    struct cuda_double_memory m;
    m.stage[0] = (float *)(void *)shared;
    m.stage[1] = m.stage[0] + CUDA_DOUBLE_KEYS * CUDA_DOUBLE_V_PITCH;
    m.q = m.stage[1] + CUDA_DOUBLE_KEYS * CUDA_DOUBLE_V_PITCH;
    m.q_pitch = (int)cuda_double_q_pitch(p->head_dim);
    m.rows.stage[0] = m.rows.stage[1] = m.rows.q = (uint16_t *)0;
    m.rows.q_pitch = 0;
    m.rows.row = (struct cuda_row *)(void *)(m.q + CUDA_TILE * m.q_pitch);
    m.rows.known = (struct cuda_known *)(void *)(m.rows.row + CUDA_TILE);
    m.rows.lo = (int *)(void *)((char *)m.rows.known + CUDA_KNOWN);
    m.rows.hi = m.rows.lo + CUDA_TILE;
    return m;
}

/* ---- to shared memory, as floats ---- */

/* Numbers c to c + 3 of a row that begins at element `at` and has `end`; zeros behind these. */
DEVICE struct quad cuda_double_quad(const void *from, int64_t at, int c, int end, int type, int grain)
{
    struct quad x = { 0.0f, 0.0f, 0.0f, 0.0f };
    if (grain == 16 && (type == RONDO_BF16 || type == RONDO_F16)) {
        const uint32_t *words = (const uint32_t *)(const void *)((const uint16_t *)from + at + c);
        x.a = cuda_low(words[0], type), x.b = cuda_high(words[0], type), x.c = cuda_low(words[1], type), x.d = cuda_high(words[1], type);
        return x;
    }
    x.a = cuda_number(from, at, c, end, type);
    if (c + 1 < end)
        x.b = cuda_number(from, at, c + 1, end, type);
    if (c + 2 < end)
        x.c = cuda_number(from, at, c + 2, end, type);
    if (c + 3 < end)
        x.d = cuda_number(from, at, c + 3, end, type);
    return x;
}

/* 64 rows, of which those of [lo, hi) are read, and of each `columns` from c0 on, as far as there are; all else becomes zero. Row 0 begins at `at`. */
DEVICE void cuda_double_stage(float *to, int pitch, int lo, int hi, const void *from, int64_t at, int64_t stride, int c0, int columns, int end, int type, int grain)
{
    const int c = THREAD % 32 * 4, first = THREAD / 32, there = c0 + c < end;
    if (c >= columns)
        return;
    to += first * pitch + c;
    if (type == RONDO_F32 && grain == 16) {
        const float *x = (const float *)from + at + first * stride + c0 + c;
        UNROLL
        for (int n = 0; n < CUDA_DOUBLE_KEYS / 4; n++) {
            const int row = first + 4 * n;
            COPY16(to + 4 * n * pitch, x + 4 * n * stride, there && row >= lo && row < hi);
        }
        return;
    }
    ROLLED
    for (int row = first; row < CUDA_DOUBLE_KEYS; row += 4, to += 4 * pitch) {
        struct quad x = { 0.0f, 0.0f, 0.0f, 0.0f };
        if (there && row >= lo && row < hi)
            x = cuda_double_quad(from, at + row * stride, c0 + c, end, type, grain);
        *(struct quad *)(void *)to = x;
    }
}

DEVICE void cuda_double_stage_q(const struct cuda_attention *p, const struct cuda_double_memory *m, const struct cuda_bind *bind)
{
    const struct cuda_tile *tile = &m->rows.known->tile;
    const int across = (m->q_pitch - 4) / 4;
    ROLLED
    for (int i = THREAD; i < CUDA_TILE * across; i += CUDA_THREADS) {
        const int row = i / across, c = i % across * 4;
        struct quad x = { 0.0f, 0.0f, 0.0f, 0.0f };
        if (row < tile->rows && c < p->head_dim) {
            const int64_t at = bind->q + cuda_row_at(&m->rows.known->job, tile, tile->first + row, p->q_row, p->q_head);
            if (p->q_type == RONDO_F32 && p->q_grain == 16)
                x = *(const struct quad *)(const void *)((const float *)p->q + at + c);
            else
                x = cuda_double_quad(p->q, at, c, p->head_dim, p->q_type, p->q_grain);
        }
        *(struct quad *)(void *)(m->q + row * m->q_pitch + c) = x;
    }
}

/* What is staged next: 64 keys from `key` on, of K the columns from d on, of V those from `value` on. Keys go by blocks of 128, the size of what a thread
 * holds weights of. A leaf of more is gone through once before, for the largest score. `what` is the unit's (attention_unit.h), and so is a chunk. */
DEVICE int cuda_double_next(const struct cuda_attention *p, int count, struct cuda_unit_chunk *c)
{
    if (c->what != CUDA_UNIT_V) {
        c->d += CUDA_COLUMNS;
        if (c->d < p->head_dim)
            return 1;
        c->d = 0;
        c->key += CUDA_DOUBLE_KEYS;
        if (c->what == CUDA_UNIT_FIRST) {
            if (c->key >= count)
                c->key = 0, c->what = CUDA_UNIT_K;
        } else if (c->key % CUDA_COLUMNS == 0 || c->key >= count) {
            c->key = (c->key - 1) / CUDA_COLUMNS * CUDA_COLUMNS;
            c->what = CUDA_UNIT_V;
        }
        return 1;
    }
    c->key += CUDA_DOUBLE_KEYS;
    if (c->key % CUDA_COLUMNS && c->key < count)
        return 1;
    if (c->key >= count) {
        c->key = 0;
        c->value += CUDA_COLUMNS;
        if (c->value >= p->value_dim)
            return 0;
    }
    c->what = count > CUDA_COLUMNS ? CUDA_UNIT_K : CUDA_UNIT_V;
    return 1;
}

DEVICE void cuda_double_fetch(const struct cuda_attention *p, const struct cuda_double_memory *m, const struct cuda_leaf *f, const struct cuda_unit_chunk *c, float *to)
{
    const struct cuda_run *run = &m->rows.known->run;
    const int v = c->what == CUDA_UNIT_V, lo = f->lo - c->key, hi = f->hi - c->key, pitch = v ? CUDA_DOUBLE_V_PITCH : CUDA_DOUBLE_K_PITCH;
    const int64_t row = v ? run->v_row : run->k_row, at = (v ? f->v_at : f->k_at) + c->key * row;
    const int end = v ? p->value_dim : p->head_dim, c0 = v ? c->value : c->d, columns = end - c0 > CUDA_COLUMNS / 2 ? CUDA_COLUMNS : CUDA_COLUMNS / 2;
    if (p->kv_type == RONDO_F32)
        cuda_double_stage(to, pitch, lo, hi, v ? run->v : run->k, at, row, c0, columns, end, RONDO_F32, v ? run->v_grain : run->k_grain);
    else
        cuda_double_stage(to, pitch, lo, hi, v ? run->v : run->k, at, row, c0, columns, end, p->kv_type, v ? run->v_grain : run->k_grain);
    COPY_CLOSE();
}

/* ---- products ---- */

/* 64 keys: s[j]: those of tile j that the thread has, of both rows; `steps` of 16 columns. */
DEVICE void cuda_double_product(double s[8][4], const float *q, int q_pitch, const float *k, int steps)
{
    const int g = (THREAD & 31) >> 2, t = THREAD & 3;
    const float *a_at = q + g * q_pitch + t, *b_at = k + (g / 2 + 4 * (g % 2)) * CUDA_DOUBLE_K_PITCH + t;
    ROLLED
    for (int d = 0; d < steps; d++, a_at += 16, b_at += 16) {
        UNROLL
        for (int i = 0; i < 16; i += 4) {
            const double a = (double)a_at[i], lower = (double)a_at[8 * q_pitch + i];
            UNROLL
            for (int j = 0; j < 8; j++) {
                const double b = (double)b_at[8 * j * CUDA_DOUBLE_K_PITCH + i];
                MATRIX_F64(s[j], a, b);
                MATRIX_F64(s[j] + 2, lower, b);
            }
        }
    }
}

/* l: the weights of all keys, by a column of ones. */
DEVICE void cuda_double_sums(double l[4], float w[16][4])
{
    UNROLL
    for (int j = 0; j < 16; j++) {
        UNROLL
        for (int e = 0; e < 2; e++) {
            MATRIX_F64(l, (double)w[j][e], 1.0);
            MATRIX_F64(l + 2, (double)w[j][2 + e], 1.0);
        }
    }
}

/* Weights of dropped keys become zero, which is what they have in acc: an infinite value makes NaN of that. */
DEVICE void cuda_double_drop(float w[16][4], const struct cuda_unit_marks *marks)
{
    UNROLL
    for (int j = 0; j < 16; j++) {
        UNROLL
        for (int e = 0; e < 4; e++)
            w[j][e] = marks->dropped[e >> 1] >> (2 * j + (e & 1)) & 1 ? 0.0f : w[j][e];
    }
}

/* acc[j]: columns 8 j + 2 t and the next one of V; of the first half of w, 64 keys. */
DEVICE void cuda_double_values(double acc[16][4], float w[16][4], const float *v, int tiles)
{
    const float *at = v + (THREAD & 3) * CUDA_DOUBLE_V_PITCH + ((THREAD & 31) >> 2);
    UNROLL
    for (int k = 0; k < 16; k++) {
        const double a = (double)w[k >> 1][k & 1], lower = (double)w[k >> 1][2 + (k & 1)];
        UNROLL
        for (int j = 0; j < tiles; j++) {
            const double b = (double)at[4 * k * CUDA_DOUBLE_V_PITCH + 8 * j];
            MATRIX_F64(acc[j], a, b);
            MATRIX_F64(acc[j] + 2, lower, b);
        }
    }
}

/* Whether a number of the chunk of V is infinite or NaN, which the zero weight of a hidden key would let through. */
DEVICE int cuda_double_odd(const float *v, int tiles)
{
    int odd = 0;
    ROLLED
    for (int i = THREAD & 31; i < CUDA_DOUBLE_KEYS * tiles * 2; i += 32) {
        const struct quad x = *(const struct quad *)(const void *)(v + i / (2 * tiles) * CUDA_DOUBLE_V_PITCH + i % (2 * tiles) * 4);
        const uint32_t w[4] = { rondo__bits(x.a), rondo__bits(x.b), rondo__bits(x.c), rondo__bits(x.d) };
        UNROLL
        for (int k = 0; k < 4; k++)
            odd |= (w[k] & 0x7f800000u) == 0x7f800000u;
    }
    return cuda_some(odd);
}

/* cuda_double_values() where there are hidden keys and such numbers: row after row, each with V as far as it sees it. half: of the keys that marks are of. */
DEVICE void cuda_double_values_apart(double acc[16][4], float w[16][4], const struct cuda_unit_marks *marks, int half, const float *v, int tiles)
{
    const int lane = THREAD & 31, g = lane >> 2, t = lane & 3;
    const float *at = v + t * CUDA_DOUBLE_V_PITCH + g;
    ROLLED
    for (int k = 0; k < 16; k++) {
        float upper = 0.0f, lower = 0.0f;
        UNROLL
        for (int i = 0; i < 16; i++) {
            upper = i == k ? w[i >> 1][i & 1] : upper;
            lower = i == k ? w[i >> 1][2 + (i & 1)] : lower;
        }
        ROLLED
        for (int r = 0; r < 16; r++) {
            const uint32_t hides = SHUFFLE_FROM((r & 8 ? marks->unseen[1] : marks->unseen[0]) >> (16 * half + k) & 1, (r & 7) * 4 + t);
            const int own = g == (r & 7);
            const double a = (double)(r & 8 ? lower : upper);
            UNROLL
            for (int j = 0; j < 16; j++) {
                if (j >= tiles)
                    continue;
                double d[2] = { r & 8 ? acc[j][2] : acc[j][0], r & 8 ? acc[j][3] : acc[j][1] };
                MATRIX_F64(d, a, (double)(hides ? 0.0f : at[4 * k * CUDA_DOUBLE_V_PITCH + 8 * j]));
                acc[j][0] = own && r < 8 ? d[0] : acc[j][0];
                acc[j][1] = own && r < 8 ? d[1] : acc[j][1];
                acc[j][2] = own && r >= 8 ? d[0] : acc[j][2];
                acc[j][3] = own && r >= 8 ? d[1] : acc[j][3];
            }
        }
    }
}

DEVICE void cuda_double_value_block(const struct cuda_attention *p, double acc[16][4], float w[16][4], const struct cuda_unit_marks *marks, int half, const float *v,
                                    int value, int hidden)
{
    const int tiles = p->value_dim - value > CUDA_COLUMNS / 2 ? 16 : 8;
    if (hidden && cuda_some((marks->unseen[0] | marks->unseen[1]) != 0) && cuda_double_odd(v, tiles))
        cuda_double_values_apart(acc, w, marks, half, v, tiles);
    else if (tiles == 16)
        cuda_double_values(acc, w, v, 16);
    else
        cuda_double_values(acc, w, v, 8);
}

/* ---- the kernel ---- */

DEVICE void cuda_double_zero(double acc[16][4])
{
    UNROLL
    for (int j = 0; j < 16; j++) {
        UNROLL
        for (int e = 0; e < 4; e++)
            acc[j][e] = 0.0;
    }
}

/* What is of the second half of a block's keys comes to the front, and the other way round: so that one text can be for both. */
DEVICE void cuda_double_turn(float s[16][4])
{
    UNROLL
    for (int j = 0; j < 8; j++) {
        UNROLL
        for (int e = 0; e < 4; e++) {
            const float x = s[j][e];
            s[j][e] = s[j + 8][e];
            s[j + 8][e] = x;
        }
    }
}

/* The chunk that comes next is there, and the one behind it is sent on its way. */
DEVICE const float *cuda_double_step(const struct cuda_attention *p, const struct cuda_double_memory *m, struct cuda_unit_walk *w)
{
    const struct cuda_leaf *f = m->rows.known->leaf + w->now, *other = m->rows.known->leaf + (w->now ^ 1);
    float *const here = w->parity ? m->stage[1] : m->stage[0], *const there = w->parity ? m->stage[0] : m->stage[1];
    COPY_WAIT(0);
    BARRIER();
    if (cuda_double_next(p, (int)f->leaf.count, &w->c)) {
        cuda_double_fetch(p, m, f, &w->c, there);
    } else if (other->number < w->end) {
        w->c = cuda_unit_begin((int)other->leaf.count, 1);
        cuda_double_fetch(p, m, other, &w->c, there);
    }
    w->parity ^= 1;
    return here;
}

/* The scores of the block of keys at key0, of a leaf of `count`, from its chunks of K. */
DEVICE void cuda_double_block(const struct cuda_attention *p, const struct cuda_double_memory *m, struct cuda_unit_walk *w, float s[16][4], int key0, int count,
                              int active, int wide)
{
    ROLLED
    for (int half = 0; half < 2; half++) {
        double sum[8][4];
        UNROLL
        for (int j = 0; j < 8; j++) {
            UNROLL
            for (int e = 0; e < 4; e++)
                sum[j][e] = 0.0;
        }
        ROLLED
        for (int d = 0; d < (wide ? p->head_dim : 1) && key0 + half * CUDA_DOUBLE_KEYS < count; d += CUDA_COLUMNS) {
            const float *k = cuda_double_step(p, m, w);
            if (active)
                cuda_double_product(sum, m->q + (THREAD >> 5) * 16 * m->q_pitch + d, m->q_pitch, k, cuda_minimum(cuda_chunks(p->head_dim - d, 16), 8));
        }
        UNROLL
        for (int j = 0; j < 8; j++) {
            UNROLL
            for (int e = 0; e < 4; e++) {
                s[j][e] = s[j + 8][e];
                s[j + 8][e] = (float)sum[j][e];
            }
        }
    }
}

/* One item: leaves [first, end) of a run. */
DEVICE void cuda_double_item(const struct cuda_attention *p, int64_t number, const struct cuda_double_memory *m, float *stack, int terms, int wide)
{
    struct cuda_known *known = m->rows.known;
    const struct cuda_tile *tile = &known->tile;
    const int64_t level = (int64_t)CUDA_UNIT_LEVEL * (wide ? cuda_chunks(p->value_dim, CUDA_COLUMNS) : 1);   /* floats of a node in the stack */
    struct cuda_unit_walk w;
    int top = 0;

    cuda_know(p, number, known);
    const struct cuda_bind bound = cuda_bind_of(p, tile->job), *const bind = &bound;
    const int64_t begin = known->item.first, end = known->item.end;
    const int active = (THREAD >> 5) * 16 < tile->rows;     /* a warp without rows only moves data */
    if (THREAD < tile->rows)
        m->rows.row[THREAD] = p->rows[known->job.rows + (tile->first + THREAD) / known->job.group];
    w.end = end;
    w.parity = w.now = 0;
    w.c = cuda_unit_begin((int)known->leaf[0].leaf.count, 1);
    if (known->leaf[0].number < end) {   /* else nobody would wait for what is on its way */
        cuda_double_fetch(p, m, &known->leaf[0], &w.c, m->stage[0]);
        cuda_double_stage_q(p, m, bind);
    }
    ROLLED
    for (int64_t i = begin; i < end; i++) {
        struct cuda_unit_leaf at = { known->leaf + w.now, { -FLT_MAX, -FLT_MAX }, 0, 1, 0 };
        const int merges = rondo__run_merges(i, begin, end), seen = i == at.f->number, count = seen ? (int)at.f->leaf.count : 0;
        const int blocks = wide && count > CUDA_COLUMNS ? 2 : 1;
        struct cuda_unit_marks marks = { { 0, 0 }, { 0, 0 } };
        float s[16][4];
        double l[4] = { 0.0, 0.0, 0.0, 0.0 };
        float *const own = stack + top * level + THREAD;         /* where the leaf's node will be */
        int told = 0;
        if (seen) {
            at.M[0] = at.M[1] = -__builtin_inff();
            at.any = wide && (terms || at.f->view >= 0);
        }
        ROLLED
        for (int value = 0; value < (wide ? p->value_dim : 1); value += CUDA_COLUMNS) {
            double acc[16][4];
            struct cuda_unit_node node;
            if (!seen)
                cuda_double_zero(acc);
            /* a leaf of two blocks is gone through once before, for M */
            ROLLED
            for (int key = blocks == 2 && value == 0 ? -2 * CUDA_COLUMNS : 0; seen && key < blocks * CUDA_COLUMNS; key += CUDA_COLUMNS) {
                const int key0 = wide && key < 0 ? key + 2 * CUDA_COLUMNS : key;
                if (value == 0 || blocks == 2) {
                    cuda_double_block(p, m, &w, s, key0, count, active, wide);
                    if (!told) {             /* behind the first barrier: what was read of the leaf before has been */
                        told = 1;
                        at.hidden = cuda_unit_visible(&m->rows, &at.f->leaf);
                        cuda_know_next(p, known, i, w.now ^ 1);
                    }
                    if (active)
                        cuda_unit_see(p, bind, &m->rows, &at, key0, s, blocks == 2 && key >= 0, blocks == 1 || key == -CUDA_COLUMNS, terms, own, CUDA_DOUBLE_APART);
                    if (key < 0)
                        continue;
                    if (active) {
                        cuda_unit_weigh(p, &m->rows, &at, key0, s, &marks, terms, own, CUDA_DOUBLE_APART);
                        if (value == 0)
                            cuda_double_sums(l, s);
                        if (terms && p->terms.drop)
                            cuda_double_drop(s, &marks);
                    }
                }
                if (!wide || key == 0)
                    cuda_double_zero(acc);
                ROLLED
                for (int half = 0; half < 2; half++) {
                    if (key0 + half * CUDA_DOUBLE_KEYS < count) {
                        const float *v = cuda_double_step(p, m, &w);
                        if (active)
                            cuda_double_value_block(p, acc, s, &marks, half, v, value, at.hidden || at.any);
                    }
                    cuda_double_turn(s);
                }
            }
            UNROLL
            for (int h = 0; h < 2; h++) {
                node.l[h] = (float)l[2 * h];
                node.M[h] = node.l[h] != node.l[h] ? FLT_MAX : at.M[h];
            }
            UNROLL
            for (int j = 0; j < 16; j++) {
                UNROLL
                for (int e = 0; e < 4; e++)
                    node.acc[j][e] = (float)acc[j][e];
            }
            if (active)
                cuda_unit_join(p, &node, (struct cuda_unit_node *)0, (int *)0, stack, top, merges, level, value,
                               i + 1 == end ? p->nodes + known->item.nodes : (float *)0, tile, 1);
        }
        top += 1 - merges;
        w.now ^= seen;
    }
}

/* Narrow and wide as in attention_unit.h. */
DEVICE void cuda_double_kernel(const struct cuda_attention *p, char *shared, int wide)
{
    const struct cuda_double_memory m = cuda_double_memory_of(p, shared);
    const int terms = cuda_terms(p, wide);
    ROLLED
    for (int64_t i = p->first + BLOCK; i < p->first + p->count; i += BLOCKS)
        cuda_double_item(p, i, &m, p->stack + BLOCK * p->stack_floats, terms, wide);
}

#endif
