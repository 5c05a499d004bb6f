/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Few query rows against many keys, as in decoding, where reading K and V is all that should take time. Lanes of scores are keys then: K of
 * some keys, which lies token by token, is turned about in registers (widened there, if its type is not float) into kt[dim][key], which stays
 * in the nearest cache while all rows take it; V is widened as P*V reads it, so that no copy of a leaf is made. While a leaf is at work the
 * next one is brought into the second-level cache, line by line as this one's are read. Each score is the same chain as in the tiles of
 * prefill, and weights go on as theirs do. Included by attention.c, once per instruction set.
 */
#ifndef RONDO_CPU_ATTENTION_DECODE_H
#define RONDO_CPU_ATTENTION_DECODE_H

#include "backends/cpu/attention_nodes.h"

/* ---- K, turned about ---- */

/* Vector operations, roughly: of VL keys and as many words turned about, and of 16 dimensions of a tile of scores. */
#define TURN_WORK(type) (VL * ((type) == RONDO_F32 ? 9 : (type) == RONDO_BF16 ? 13 : 11))
#define SCORE_WORK(nr) (32 * ((nr) < 4 ? 4 : (nr)))
#define WEIGHT_WORK 24 /* of a row and VL keys */

/* kt[d][i] of dimensions from d on and VL keys, whose rows lie `stride` bytes apart from k on; those from `count` on are the last one again. By
 * way of floats in `wide`. */
VEC void turn_widened(const int type, const char *k, int64_t stride, int32_t count, int32_t d, int32_t dim, float *kt, struct ahead *next)
{
    float wide[VL * VL] = { 0.0f };
    for (; d < dim; d += VL) {
        const int32_t width = dim - d < VL ? dim - d : VL;
        vf x[VL];
        for (int i = 0; i < VL; i++)
            widen_row(k + (i < count ? i : count - 1) * stride, d, width, dim, type, wide + i * VL);
        vf_turn(wide, VL * (int64_t)sizeof *wide, x);
        UNROLL
        for (int i = 0; i < VL; i++)
            if (i < width)
                vf_store(kt + (d + i) * DECODE_KEYS, x[i]);
        ahead_work(next, TURN_WORK(type));
    }
}

/* ... where all VL keys are there: floats are turned about where they lie, pairs of bf16 as words that come apart afterwards. */
VEC void turn_keys(const int type, const char *k, int64_t stride, int32_t dim, float *kt, struct ahead *next)
{
    const int32_t word = type == RONDO_BF16 ? 2 : 1; /* numbers */
    int32_t d = 0;
    for (; (type == RONDO_F32 || type == RONDO_BF16) && d + word * VL <= dim; d += word * VL) {
        vf x[VL];
        vf_turn(k + 4 * (d / word), stride, x);
        UNROLL
        for (int i = 0; i < VL; i++) {
            float *to = kt + (d + word * i) * DECODE_KEYS;
            vf odd = x[i];
            if (type == RONDO_BF16)
                vf_split_bf16(x[i], &x[i], &odd);
            vf_store(to, x[i]);
            if (word == 2)
                vf_store(to + DECODE_KEYS, odd);
        }
        ahead_work(next, TURN_WORK(type));
    }
    turn_widened(type, k, stride, VL, d, dim, kt, next);
}

/* Keys [0, DECODE_KEYS), of which `count` are there. */
VEC void turn_tile(const int type, const char *k, int64_t stride, int32_t count, int32_t dim, float *kt, struct ahead *next)
{
    for (int v = 0; v < DECODE_KEYS; v += VL) {
        if (v + VL <= count)
            turn_keys(type, k + v * stride, stride, dim, kt + v, next);
        else if (v < count)
            turn_widened(type, k + v * stride, stride, count - v, 0, dim, kt + v, next);
        for (int32_t d = 0; v >= count && d < dim; d++)
            vf_store(kt + d * DECODE_KEYS + v, vf_load(kt + d * DECODE_KEYS));
    }
}
#define TURN(name, type)                                                                                                                   \
    static __attribute__((noinline)) void name(const char *k, int64_t stride, int32_t count, int32_t dim, float *kt, struct ahead *next)   \
    {                                                                                                                                      \
        turn_tile(type, k, stride, count, dim, kt, next);                                                                                  \
    }
TURN(turn_f32, RONDO_F32)
TURN(turn_bf16, RONDO_BF16)
TURN(turn_f16, RONDO_F16)
#undef TURN

/* ---- scores: C2 ---- */

#if VEC_REGISTERS == 32
#define DECODE_TILE 8 /* rows of a tile */
#else
#define DECODE_TILE 4
#endif

/* x[row][key] of a tile of nr rows and DECODE_KEYS keys, and each row's largest so far, by lane. */
VEC void decode_tile(const int nr, int32_t dim, const float *qt, int64_t ld, const float *kt, float scale, float *x, int64_t x_stride,
                     float *top, struct ahead *next)
{
#define EACH_TILE_ROW(F) F(0) F(1) F(2) F(3) F(4) F(5) F(6) F(7)
#define DECLARE(i) vf a##i = vf_zero(), b##i = vf_zero();
    EACH_TILE_ROW(DECLARE)
#define ROW_STEP(i)                                                                                                                        \
    if (nr > i) {                                                                                                                          \
        const vf q = vf_set1(q0[i]);                                                                                                       \
        vf_fma_into(&a##i, q, k0);                                                                                                         \
        vf_fma_into(&b##i, q, k1);                                                                                                         \
    }
#define STEP(d)                                                                                                                            \
    {                                                                                                                                      \
        const float *q0 = qt + (d) * ld;                                                                                                   \
        const vf k0 = vf_load(kt + (d) * DECODE_KEYS), k1 = vf_load(kt + (d) * DECODE_KEYS + VL);                                          \
        EACH_TILE_ROW(ROW_STEP)                                                                                                            \
    }
    int32_t d = 0;
    for (; d + 16 <= dim; d += 16) {
        for (int32_t e = d; e < d + 16; e += 2) {
            STEP(e + 1)
            STEP(e)
        }
        ahead_work(next, SCORE_WORK(nr));
    }
    for (; d + 2 <= dim; d += 2) {
        STEP(d + 1)
        STEP(d)
    }
    if (d < dim)
        STEP(d)
    const vf c = vf_set1(scale);
#define FINISH_ROW(i)                                                                                                                      \
    if (nr > i) {                                                                                                                          \
        const vf first = vf_mul(a##i, c), second = vf_mul(b##i, c);                                                                        \
        vf_store(x + i * x_stride, first);                                                                                                 \
        vf_store(x + i * x_stride + VL, second);                                                                                           \
        vf_store(top + i * VL, vf_max(second, vf_max(first, vf_load(top + i * VL))));                                                      \
    }
    EACH_TILE_ROW(FINISH_ROW)
#undef EACH_TILE_ROW
#undef DECLARE
#undef ROW_STEP
#undef STEP
#undef FINISH_ROW
}

/* ... of any number of rows. */
static __attribute__((noinline)) void decode_rows(int32_t rows, int32_t dim, const float *qt, int64_t ld, const float *kt, float scale, float *x,
                                                  int64_t x_stride, float *top, struct ahead *next)
{
#define TILES(n)                                                                                                                           \
    for (; rows >= n; rows -= n, qt += n, x += n * x_stride, top += n * VL)                                                                \
        decode_tile(n, dim, qt, ld, kt, scale, x, x_stride, top, next);
#if DECODE_TILE == 8
    TILES(8)
#endif
    TILES(4)
    TILES(2)
    TILES(1)
#undef TILES
}

/* ---- a leaf ---- */

/* C3 and C4: x becomes weights, then st[key][row] as the other kernels leave them; m[row], l[row]. */
static void decode_weights(struct block *b, const struct panel *p, int32_t u0, int32_t u1, const float *top, float *m, float *l)
{
    const int32_t ld = p->vecs * VL, keys = u1 - u0;
    for (int32_t r = 0; r < p->rows; r++) {
        float *x = b->x + (int64_t)r * DECODE_LD, most = top[r * VL];
        for (int i = 1; i < VL; i++)
            most = top[r * VL + i] > most ? top[r * VL + i] : most;
        const vf big = vf_rint(vf_set1(most));
        for (int32_t i = 0; i < keys; i += 2 * VL) {
            vf_store(x + i, vf_weight(vf_load(x + i), big));
            vf_store(x + i + VL, vf_weight(vf_load(x + i + VL), big));
            ahead_work(&b->next, 2 * WEIGHT_WORK);
        }
        m[r] = rondo__rint(most);
    }
    for (int32_t r = 0; r < p->rows; r += 4) {
        const float *row[4];
        for (int i = 0; i < 4; i++)
            row[i] = b->x + (int64_t)(r + i < p->rows ? r + i : p->rows - 1) * DECODE_LD;
        for (int32_t i = 0; i < keys; i += 4)
            vec_transpose4(row[0] + i, row[1] + i, row[2] + i, row[3] + i, b->st + (int64_t)(u0 + i) * ld + r, ld);
    }
    for (int32_t v = 0; v < p->rows; v += VL) {
        const float *s = b->st + v;
        vf sum = vf_zero();
        int32_t j = u0;
        if (j & 1)
            sum = vf_add(sum, vf_load(s + ld * j++));
        for (; j + 2 <= u1; j += 2)
            sum = vf_add(vf_add(sum, vf_load(s + (j + 1) * ld)), vf_load(s + j * ld));
        if (j < u1)
            sum = vf_add(sum, vf_load(s + j * ld));
        vf_store(l + v, sum);
    }
    for (int32_t r = 0; r < ld; r++)
        m[r] = r >= p->rows || l[r] == l[r] ? m[r] : FLT_MAX;
}

/* How far apart in a leaf's work the rows of the next one are asked for. */
static void decode_ahead(struct block *b, int32_t keys)
{
    const struct rondo_attention_task *t = b->t;
    const int64_t all = (keys + VL - 1) / VL, tiles = (keys + DECODE_KEYS - 1) / DECODE_KEYS, rows = b->rows;
    const int64_t turn = all * (t->head_dim / (t->kv_type == RONDO_BF16 ? 2 * VL : VL)) * TURN_WORK(t->kv_type);
    const int64_t score = tiles * (t->head_dim / 16) * SCORE_WORK(rows), weight = rows * all * WEIGHT_WORK;
    const int64_t value = keys / 2 * VALUE_WORK(rows, b->padded / VL, t->kv_type);
    b->next.work = 0;
    b->next.step = b->next.k ? b->panels * (turn + score + weight + value) / (2 * (int64_t)b->next.count * b->next.inners) + 1 : INT64_MAX;
}

/* What leaf_scores() does, for a leaf that all rows see alike, from where it lies. */
static void decode_scores(struct block *b, const struct panel *p, int32_t u0, int32_t u1, float *m, float *l)
{
    const struct rondo_attention_task *t = b->t;
    const int32_t ld = p->vecs * VL;
    float top[PANEL * VL];
    for (int32_t r = 0; r < p->rows; r++)
        vf_store(top + r * VL, vf_set1(-FLT_MAX));
    for (int32_t r = p->rows; r < ld; r++)
        m[r] = l[r] = 0.0f;
    for (int32_t key = u0; key < u1; key += DECODE_KEYS) {
        const char *k = b->raw_k + key * b->raw_k_stride;
        if (b->k)
            turn_f32((const char *)(b->k + key * b->k_stride), b->k_stride * (int64_t)sizeof *b->k, u1 - key, t->head_dim, b->kt, &b->next);
        else if (t->kv_type == RONDO_BF16)
            turn_bf16(k, b->raw_k_stride, u1 - key, t->head_dim, b->kt, &b->next);
        else
            turn_f16(k, b->raw_k_stride, u1 - key, t->head_dim, b->kt, &b->next);
        decode_rows(p->rows, t->head_dim, p->qt, ld, b->kt, t->scale_log2, b->x + (key - u0), DECODE_LD, top, &b->next);
    }
    decode_weights(b, p, u0, u1, top, m, l);
}

#endif
