/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The two register tiles of attention.c and the pass between them, in the vocabulary of vec.h. A panel is up
 * to RV vectors of query rows. Scores lie as st[key][row]: lanes are rows, so that a key is only ever
 * broadcast, the maximum, the weights and the row sum are vertical, and st is already the operand that P*V
 * broadcasts. V is read along the head dimension as it lies. Every element of every result is one chain of
 * its own, so tile shapes change no bit.
 *
 * Accumulators are named variables, because not every compiler keeps arrays of vectors in registers.
 */
#ifndef RONDO_CPU_ATTENTION_TILE_H
#define RONDO_CPU_ATTENTION_TILE_H

#include "backends/cpu/attention_finish.h"
#include "backends/cpu/vec.h"

/* Keeps a compiler from mixing the loads of two steps, for which there are no registers. */
#define IN_ORDER __asm__ volatile("" : : : "memory")

#define RV 3 /* vectors of rows in a panel */
#if VEC_REGISTERS == 32 /* 24 accumulators */
#define KEYS(nv) 8 /* keys of a score tile, by the panel's vectors */
#define COLS 4 /* vectors of the head dimension in a P*V tile */
#else /* 12 accumulators */
#define KEYS(nv) ((nv) == 1 ? 8 : 4)
#define COLS 2
#endif
#define PANEL (RV * VL)
#define LEAF_MAX 256

/* Rows of the next leaf, K then V, to be brought into the second-level cache while the score tiles run. */
struct ahead {
    const char *k, *v; /* k NULL: nothing */
    int64_t k_stride, v_stride; /* bytes */
    int32_t count, at; /* keys; rows given out so far */
    int32_t quota; /* rows for each tile */
    int32_t element, k_bytes, v_bytes;
};

VEC const char *ahead_next(struct ahead *a)
{
    int32_t i = a->at++;
    if (i < a->count)
        return a->k + i * a->k_stride;
    return i < 2 * a->count ? a->v + (i - a->count) * a->v_stride : NULL;
}

/* Where tiles are few: a tile's whole quota at once. */
static void ahead_burst(struct ahead *a)
{
    for (int32_t n = 0; n < a->quota; n++) {
        const int32_t bytes = a->at < a->count ? a->k_bytes : a->v_bytes;
        const char *row = ahead_next(a);
        for (int32_t i = 0; row && i < bytes; i += 64)
            __builtin_prefetch(row + i, 0, 2);
    }
}

/* ---- scores: C2 ---- */

#define EACH_KEY(F) F(0) F(1) F(2) F(3) F(4) F(5) F(6) F(7)

/* What a kernel is for: leaves that all rows of the panel see alike; those of which rows see different ranges; and all else. */
enum { SEE_ALIKE, SEE_RANGES, SEE_GENERAL };

/* st[key][row] = (chain of q.k) * scale for nk keys and nv vectors of rows; top[row] = the largest so far.
 * With `masked` SEE_RANGES, the keys that a row does not see ([from, to) by index in the leaf, as floats) score -inf. With SEE_GENERAL st is
 * all, for a struct finish to go on with. */
VEC void score_tile(const int nv, const int nk, const int masked, const int32_t dim, const float *qt,
                    const float *k, const int64_t stride, const float scale, float *st, float *top,
                    const int32_t key, const float *from, const float *to, const char *ahead0,
                    const char *ahead1, const int32_t ahead_bytes)
{
    const int ld = nv * VL;
#define DECLARE(i)                                                                                           \
    const float *k##i = k + (i < nk ? i : 0) * stride;                                                       \
    vf a##i##0 = vf_zero(), a##i##1 = vf_zero(), a##i##2 = vf_zero();
    EACH_KEY(DECLARE)
#define KEY_STEP(i)                                                                                          \
    if (nk > i) {                                                                                            \
        const vf b = vf_set1(k##i[d]);                                                                       \
        vf_fma_into(&a##i##0, q0, b);                                                                        \
        if (nv > 1)                                                                                          \
            vf_fma_into(&a##i##1, q1, b);                                                                    \
        if (nv > 2)                                                                                          \
            vf_fma_into(&a##i##2, q2, b);                                                                    \
    }
#define STEP(at)                                                                                             \
    {                                                                                                        \
        const int64_t d = (at);                                                                              \
        const vf q0 = vf_load(qt + d * ld);                                                                  \
        const vf q1 = nv > 1 ? vf_load(qt + d * ld + VL) : q0;                                               \
        const vf q2 = nv > 2 ? vf_load(qt + d * ld + 2 * VL) : q0;                                           \
        (void)q1;                                                                                            \
        (void)q2;                                                                                            \
        EACH_KEY(KEY_STEP)                                                                                   \
    }
    int32_t e = 0;
    for (; e + 16 <= dim; e += 16) {
        __builtin_prefetch(ahead0 + e * ahead_bytes, 0, 2);
        __builtin_prefetch(ahead1 + e * ahead_bytes, 0, 2);
        for (int32_t f = e; f < e + 16; f += 2) {
            STEP(f + 1)
            IN_ORDER;
            STEP(f)
            IN_ORDER;
        }
    }
    for (; e + 2 <= dim; e += 2) {
        STEP(e + 1)
        STEP(e)
    }
    if (e < dim)
        STEP(e)

    const vf c = vf_set1(scale), hidden = vf_set1(-__builtin_inff());
#define FINISH(v)                                                                                            \
    if (nv > v) {                                                                                            \
        const vf lo = masked == SEE_RANGES ? vf_load(from + v * VL) : c;                                     \
        const vf hi = masked == SEE_RANGES ? vf_load(to + v * VL) : c;                                       \
        vf m = masked == SEE_GENERAL ? c : vf_load(top + v * VL), x;                                         \
        (void)lo;                                                                                            \
        (void)hi;                                                                                            \
        EACH_KEY(FINISH_KEY_##v)                                                                             \
        if (masked != SEE_GENERAL)                                                                           \
            vf_store(top + v * VL, m);                                                                       \
    }
#define FINISH_KEY(i, v)                                                                                     \
    if (nk > i) {                                                                                            \
        x = vf_mul(a##i##v, c);                                                                              \
        if (masked == SEE_RANGES) {                                                                          \
            const vf at = vf_set1((float)(key + i));                                                         \
            x = vf_select(vm_and(vf_ge(at, lo), vf_lt(at, hi)), x, hidden);                                  \
        }                                                                                                    \
        if (masked != SEE_GENERAL)                                                                           \
            m = vf_max(x, m);                                                                                \
        vf_store(st + i * ld + v * VL, x);                                                                   \
    }
#define FINISH_KEY_0(i) FINISH_KEY(i, 0)
#define FINISH_KEY_1(i) FINISH_KEY(i, 1)
#define FINISH_KEY_2(i) FINISH_KEY(i, 2)
    FINISH(0)
    FINISH(1)
    FINISH(2)
    (void)hidden;
#undef DECLARE
#undef KEY_STEP
#undef STEP
#undef FINISH
#undef FINISH_KEY
#undef FINISH_KEY_0
#undef FINISH_KEY_1
#undef FINISH_KEY_2
}

/* Keys [u0, u1) of a leaf whose first key is at k. The last tile may begin early and compute some scores
 * twice. */
VEC void scores(const int nv, const int masked, const int32_t dim, const float *qt, const float *k,
                const int64_t stride, const float scale, float *st, float *top, const int32_t u0,
                const int32_t u1, const float *from, const float *to, const struct finish *general, struct ahead *next)
{
    const int ld = nv * VL, keys = KEYS(nv);
    for (int v = 0; v < nv; v++)
        vf_store(top + v * VL, vf_set1(-FLT_MAX));
    if (u1 - u0 < keys) {
        for (int32_t j = u0; j < u1; j++) {
            score_tile(nv, 1, masked, dim, qt, k + j * stride, stride, scale, st + j * ld, top, j, from, to,
                       NULL, NULL, 0);
            if (masked == SEE_GENERAL)
                general->tile(general, nv, 1, j, st, top);
        }
        return;
    }
    for (int32_t j = u0; j < u1; j += keys) {
        const int32_t i = j <= u1 - keys ? j : u1 - keys;
        const char *a = NULL, *b = NULL;
        if (next->k && next->quota > 2) {
            ahead_burst(next);
        } else if (next->k) {
            a = ahead_next(next);
            b = ahead_next(next);
        }
        score_tile(nv, KEYS(nv), masked, dim, qt, k + i * stride, stride, scale, st + i * ld, top, i, from,
                   to, a ? a : (const char *)qt, b ? b : (const char *)qt, a ? next->element : 0);
        if (masked == SEE_GENERAL)
            general->tile(general, nv, keys, i, st, top);
    }
}

/* ---- weights: C3, C4 ---- */

/* st[key][row] becomes the weight; m[row], l[row] the row's integer maximum and sum. With `drops`, weights of which `drop` has the row's bit
 * are 0 in st. */
VEC void weights(const int nv, const int drops, float *st, const float *top, const int32_t u0, const int32_t u1, const uint64_t *drop, float *m,
                 float *l)
{
    const int ld = nv * VL;
    for (int v = 0; v < nv; v++) {
        const vf big = vf_rint(vf_load(top + v * VL));
        vf sum = vf_zero(), p;
        float *s = st + v * VL;
#define WEIGHT(key)                                                                                          \
    p = vf_weight(vf_load(s + (key) * ld), big);                                                               \
    sum = vf_add(sum, p);                                                                                    \
    if (drops)                                                                                               \
        p = vf_select(vm_from_bits((uint32_t)(drop[key] >> (v * VL))), vf_zero(), p);                        \
    vf_store(s + (key) * ld, p);
        int32_t j = u0;
        if ((j & 1) && j < u1) {
            WEIGHT(j)
            j++;
        }
        for (; j + 2 <= u1; j += 2) {
            WEIGHT(j + 1)
            WEIGHT(j)
        }
        if (j < u1) {
            WEIGHT(j)
        }
#undef WEIGHT
        vf_store(m + v * VL, vf_select(vf_is_nan(sum), vf_set1(FLT_MAX), big));
        vf_store(l + v * VL, sum);
    }
}

/* ---- P*V: C4, with the merge of C5 ---- */

#define EACH_ROW(F) F(0) F(1) F(2) F(3) F(4) F(5)

/* Nodes that a leaf is merged with, one after another, while it is in registers. */
#define MERGES_MAX 8
struct merges {
    int32_t count, column; /* the first column of the tiles at work */
    const float *acc[MERGES_MAX]; /* of a left node, rows as far apart as in `out` */
    float scale[MERGES_MAX][2 * PANEL]; /* [row] for the left node, [PANEL + row] for what is merged with it */
};

/* Instead of a storage type: floats that are in a cache. Of the others, values come from far away: `next` is asked for as they are read. */
#define VALUES_WIDE 0

/* Columns of one key's values, of which not all are there: lanes says which. */
static vf values_rest(const int type, const char *v, vm lanes)
{
    const uint32_t bits = vm_to_bits(lanes);
    float x[VL];
    if (type == VALUES_WIDE || type == RONDO_F32)
        return vf_load_mask((const float *)(const void *)v, lanes);
    for (int i = 0; i < VL; i++)
        x[i] = bits >> i & 1 ? rondo__element(v, i, type) : 0.0f;
    return vf_load(x);
}

/* Vector c of one key's values. */
VEC vf values_of(const int type, const char *v, const int c)
{
    return type == VALUES_WIDE ? vf_load((const float *)(const void *)v + c * VL) : vf_element(v, c * VL, type);
}

/* Rows p[.][0..nr-1] times nc vectors of columns over the keys [k0, k1), whose values lie stride bytes apart; sums begin at `start` (NULL:
 * zero). The result is merged as `with` says (NULL: not, it is the `start` of what follows with the same type; row is the panel's row of
 * p[.][0]), and stored. next (NULL: nothing) and what lies next_stride bytes apart from there on: one row asked for with each key. */
VEC void value_tile(const int type, const int nr, const int nc, const int tail, const vm lanes, const float *p,
                    const int64_t ld, const char *v, const int64_t stride, const char *next, const int64_t next_stride,
                    const int32_t k0, const int32_t k1, const float *start, float *out, const int64_t out_stride,
                    const struct merges *with, const int32_t row)
{
#define DECLARE(i) vf o##i##0 = vf_zero(), o##i##1 = vf_zero(), o##i##2 = vf_zero(), o##i##3 = vf_zero();
    EACH_ROW(DECLARE)
    /* of bf16 two vectors come apart as odd columns and even ones, which the sums then are of */
    const int pairs = type == RONDO_BF16 && nc > 1, far = type != VALUES_WIDE;
#define START(i)                                                                                             \
    if (nr > i) {                                                                                            \
        const float *s = start + i * out_stride;                                                             \
        o##i##0 = vf_load(s);                                                                                \
        if (nc > 1)                                                                                          \
            o##i##1 = vf_load(s + VL);                                                                       \
        if (nc > 2)                                                                                          \
            o##i##2 = vf_load(s + 2 * VL);                                                                   \
        if (nc > 3)                                                                                          \
            o##i##3 = vf_load(s + 3 * VL);                                                                   \
    }
    if (start) {
        EACH_ROW(START)
    }
#define ROW_STEP(i)                                                                                          \
    if (nr > i) {                                                                                            \
        const vf w = vf_set1(pk[i]);                                                                         \
        vf_fma_into(&o##i##0, w, v0);                                                                        \
        if (nc > 1)                                                                                          \
            vf_fma_into(&o##i##1, w, v1);                                                                    \
        if (nc > 2)                                                                                          \
            vf_fma_into(&o##i##2, w, v2);                                                                    \
        if (nc > 3)                                                                                          \
            vf_fma_into(&o##i##3, w, v3);                                                                    \
    }
#define STEP(key)                                                                                            \
    {                                                                                                        \
        const float *pk = p + (key) * ld;                                                                    \
        const char *vk = v + (key)*stride;                                                                   \
        vf v0, v1, v2, v3;                                                                                   \
        if (pairs) {                                                                                         \
            vf_from_bf16_pairs((const uint16_t *)(const void *)vk, &v0, &v1);                                \
            if (nc > 2)                                                                                      \
                vf_from_bf16_pairs((const uint16_t *)(const void *)vk + 2 * VL, &v2, &v3);                   \
        } else {                                                                                             \
            v0 = tail ? values_rest(type, vk, lanes) : values_of(type, vk, 0);                               \
            if (nc > 1)                                                                                      \
                v1 = values_of(type, vk, 1);                                                                 \
            if (nc > 2)                                                                                      \
                v2 = values_of(type, vk, 2);                                                                 \
            if (nc > 3)                                                                                      \
                v3 = values_of(type, vk, 3);                                                                 \
        }                                                                                                    \
        (void)v1;                                                                                            \
        (void)v2;                                                                                            \
        (void)v3;                                                                                            \
        EACH_ROW(ROW_STEP)                                                                                   \
    }
    int32_t j = k0;
    if ((j & 1) && j < k1) {
        STEP(j)
        j++;
    }
    for (; j + 2 <= k1; j += 2) {
        STEP(j + 1)
        IN_ORDER;
        STEP(j)
        IN_ORDER;
        for (int64_t i = 0; far && next && i < nc * VL * (type == RONDO_F32 ? 4 : 2); i += 64) {
            __builtin_prefetch(next + (j - k0) * next_stride + i, 0, 2);
            __builtin_prefetch(next + (j - k0 + 1) * next_stride + i, 0, 2);
        }
    }
    if (j < k1)
        STEP(j)
#define ZIP_ROW(i)                                                                                           \
    if (nr > i) {                                                                                            \
        vf_zip(&o##i##0, &o##i##1);                                                                          \
        if (nc > 2)                                                                                          \
            vf_zip(&o##i##2, &o##i##3);                                                                      \
    }
    if (pairs && with) {
        EACH_ROW(ZIP_ROW)
    }
#define MERGE(i, c)                                                                                          \
    if (nc > c)                                                                                              \
        o##i##c = vf_fma(vf_load(left + i * out_stride + c * VL), its, vf_mul(o##i##c, mine));
#define MERGE_ROW(i)                                                                                         \
    if (nr > i) {                                                                                            \
        const vf its = vf_set1(scale[i]), mine = vf_set1(scale[PANEL + i]);                                  \
        MERGE(i, 0) MERGE(i, 1) MERGE(i, 2) MERGE(i, 3)                                                      \
    }
    for (int32_t g = 0; with && g < with->count; g++) {
        const float *left = with->acc[g] + with->column + row * out_stride, *scale = with->scale[g] + row;
        EACH_ROW(MERGE_ROW)
    }
#define STORE(i, c)                                                                                          \
    if (nc > c)                                                                                              \
        vf_store(out + i * out_stride + c * VL, o##i##c);
#define STORE_ROW(i)                                                                                         \
    if (nr > i) {                                                                                            \
        STORE(i, 0) STORE(i, 1) STORE(i, 2) STORE(i, 3)                                                      \
    }
    EACH_ROW(STORE_ROW)
#undef DECLARE
#undef START
#undef ROW_STEP
#undef STEP
#undef ZIP_ROW
#undef MERGE
#undef MERGE_ROW
#undef STORE
#undef STORE_ROW
}

/* A run of rows of any length by tiles of 6, 4, 2 and 1. */
VEC void value_rows(const int type, const int nc, const int tail, const vm lanes, int32_t rows, const float *p,
                    const int64_t ld, const char *v, const int64_t stride, const char *next, const int64_t next_stride,
                    const int32_t k0, const int32_t k1, const float *start, float *out, const int64_t out_stride, const struct merges *with,
                    int32_t row)
{
#define TILES(n)                                                                                             \
    while (rows >= n) {                                                                                      \
        value_tile(type, n, nc, tail, lanes, p, ld, v, stride, next, next_stride, k0, k1, start, out, out_stride, with, row); \
        next = NULL; /* once is enough */                                                                    \
        rows -= n;                                                                                           \
        p += n;                                                                                              \
        out += n * out_stride;                                                                               \
        start = start ? start + n * out_stride : NULL;                                                       \
        row += n;                                                                                            \
    }
    TILES(6)
    TILES(4)
    TILES(2)
    TILES(1)
#undef TILES
}

#endif
