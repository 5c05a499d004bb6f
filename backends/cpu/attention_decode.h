/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Few query rows against many keys, as in decoding, where reading K and V is all that should take time. Lanes of scores are keys then: K of
 * some keys, which lies token by token, is turned about in registers (widened there, if its type is not float) into kt[dim][key], which stays
 * in the nearest cache while all rows take it; V is widened as P*V reads it, so that no copy of a leaf is made. Each score is the same chain
 * as in the tiles of prefill, and weights go on as theirs do.
 *
 * All KV heads of an item take a leaf together, some keys at a time, first K and then V, as it lies in memory: there a token's heads follow
 * each other, and memory is at its fastest where it is read straight on. What lies AHEAD_BYTES after what is read is asked for meanwhile.
 * Included by attention.c, once per instruction set.
 */
#ifndef RONDO_CPU_ATTENTION_DECODE_H
#define RONDO_CPU_ATTENTION_DECODE_H

#include "backends/cpu/attention_nodes.h"

/* ---- rows of a leaf ---- */

/* What comes `apart` keys after one of `now`, which `then` follows. */
static struct follow follow(const struct strip *now, const struct strip *then, int32_t key, int32_t head, int32_t apart)
{
    key += apart;
    if (key < now->end)
        return (struct follow){ strip_row(now, key, head), now->key };
    key += then->first - now->end;
    return key < then->end ? (struct follow){ strip_row(then, key, head), then->key } : (struct follow){ NULL, 0 };
}

/* What is asked for while two units are at work: rows in turn, spread evenly, so that memory is never idle nor asked for more than it can hold. */
struct stream {
    struct follow of[2]; /* VL rows each */
    int32_t at, bytes, quota; /* rows asked for; of a row; rows at a time */
};

VEC void stream_rows(struct stream *s, int32_t count)
{
    for (int32_t end = s->at + count * s->quota; s->at < end && s->at < 2 * VL; s->at++) {
        const struct follow *f = s->of + s->at / VL;
        const char *row = f->row + (f->row ? s->at % VL * f->stride : 0);
        for (int32_t i = 0; f->row && i < s->bytes; i += 64)
            __builtin_prefetch(row + i, 0, 2);
    }
}

/* Asks for the first keys of what comes, for which nobody has asked while something else was read. */
static void decode_begin(const struct block *b)
{
    const struct strip *s = &b->then;
    const int64_t bytes = (int64_t)rondo_row_bytes(b->t->kv_type, b->t->head_dim);
    for (int32_t key = s->first; key < s->end && key < s->first + b->apart; key++)
        for (int32_t head = 0; head < b->panels; head++)
            for (int64_t i = 0; i < bytes; i += 64)
                __builtin_prefetch(strip_row(s, key, head) + i, 0, 2);
}

/* ---- K, turned about ---- */

#define KT_LD (2 * VL) /* kt holds two units of VL keys each */

/* kt[d][i] of dimensions from d on and VL keys, whose rows lie `stride` bytes apart from k on; those from `count` on are the last one again. By
 * way of floats in `wide`. */
VEC void turn_widened(const int type, const char *k, int64_t stride, int32_t count, int32_t d, int32_t dim, float *kt)
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
                vf_store(kt + (d + i) * KT_LD, x[i]);
    }
}

/* ... where all VL keys are there: floats are turned about where they lie, smaller numbers as words that come apart afterwards. */
VEC void turn_unit(const int type, const char *k, int64_t stride, int32_t count, int32_t dim, float *kt, struct stream *next)
{
    const int32_t word = type == RONDO_F32 ? 1 : type == RONDO_BF16 ? 2 : type == RONDO_Q8 ? 4 : 0; /* numbers */
    vf scale = vf_zero();
    int32_t d = 0;
    if (type == RONDO_Q8 && count >= VL) {
        float scales[VL];
        for (int i = 0; i < VL; i++)
            memcpy(scales + i, k + i * stride + dim, sizeof *scales);
        scale = vf_load(scales);
    }
    for (; word && count >= VL && d + word * VL <= dim; d += word * VL) {
        const int32_t at = d / (word ? word : 1) * 4;
        vf x[VL];
        vf_turn(k + at, stride, x);
        stream_rows(next, word);
        UNROLL
        for (int i = 0; i < VL; i++) {
            float *to = kt + (d + word * i) * KT_LD;
            if (type == RONDO_F32) {
                vf_store(to, x[i]);
            } else if (type == RONDO_BF16) {
                vf even, odd;
                vf_split_bf16(x[i], &even, &odd);
                vf_store(to, even);
                vf_store(to + KT_LD, odd);
            } else {
                vf_store(to, vf_mul(vf_byte(x[i], 0), scale));
                vf_store(to + KT_LD, vf_mul(vf_byte(x[i], 1), scale));
                vf_store(to + 2 * KT_LD, vf_mul(vf_byte(x[i], 2), scale));
                vf_store(to + 3 * KT_LD, vf_mul(vf_byte(x[i], 3), scale));
            }
        }
    }
    if (d < dim) {
        stream_rows(next, (dim - d) / VL + 1);
        turn_widened(type, k, stride, count, d, dim, kt);
    }
}
#define TURN_ARGUMENTS const char *k, int64_t stride, int32_t count, int32_t dim, float *kt, struct stream *next
#define TURN(name, type)                                                                                                                   \
    static __attribute__((noinline)) void name(TURN_ARGUMENTS) { turn_unit(type, k, stride, count, dim, kt, next); }
TURN(turn_f32, RONDO_F32)
TURN(turn_bf16, RONDO_BF16)
TURN(turn_f16, RONDO_F16)
TURN(turn_q8, RONDO_Q8)
#undef TURN
typedef void turn_kernel(TURN_ARGUMENTS);
static turn_kernel *const turn_kernels[] = { [RONDO_F32] = turn_f32, [RONDO_BF16] = turn_bf16, [RONDO_F16] = turn_f16, [RONDO_Q8] = turn_q8 };

/* ---- scores: C2 ---- */

#if VEC_REGISTERS == 32
#define DECODE_TILE 8 /* rows of a tile */
#else
#define DECODE_TILE 4
#endif

#define STREAM_STEPS 8 /* dimensions between two rows that are asked for */

/* A unit of VL keys in kt: rows of Q, and where their scores and largest scores by lane go. */
struct unit {
    const float *q;
    float *x, *top;
};

/* Scores of nr rows in two units, and each row's largest so far, by lane. The units are apart, as a chain alone would wait for itself. */
VEC void decode_tile(const int nr, int32_t dim, int64_t ld, const float *kt, float scale, const struct unit *first, const struct unit *second,
                     int32_t row, struct stream *next)
{
#define EACH_TILE_ROW(F) F(0) F(1) F(2) F(3) F(4) F(5) F(6) F(7)
#define DECLARE(i) vf a##i = vf_zero(), b##i = vf_zero();
    EACH_TILE_ROW(DECLARE)
#define ROW_STEP(i)                                                                                                                        \
    if (nr > i) {                                                                                                                          \
        vf_fma_into(&a##i, vf_set1(p0[i]), k0);                                                                                            \
        vf_fma_into(&b##i, vf_set1(p1[i]), k1);                                                                                            \
    }
#define STEP(d)                                                                                                                            \
    {                                                                                                                                      \
        const float *p0 = q0 + (d) * ld, *p1 = q1 + (d) * ld;                                                                              \
        const vf k0 = vf_load(kt + (d) * KT_LD), k1 = vf_load(kt + (d) * KT_LD + VL);                                                      \
        EACH_TILE_ROW(ROW_STEP)                                                                                                            \
    }
    const float *q0 = first->q + row, *q1 = second->q + row;
    int32_t d = 0;
    for (; d + STREAM_STEPS <= dim; d += STREAM_STEPS) {
        for (int32_t e = d; e < d + STREAM_STEPS; e += 2) {
            STEP(e + 1)
            STEP(e)
        }
        stream_rows(next, 1);
    }
    for (; d + 2 <= dim; d += 2) {
        STEP(d + 1)
        STEP(d)
    }
    if (d < dim)
        STEP(d)
    const vf c = vf_set1(scale);
#define FINISH(i, sum, unit)                                                                                                               \
    {                                                                                                                                      \
        const vf x = vf_mul(sum, c);                                                                                                       \
        float *top = (unit)->top + (row + i) * VL;                                                                                         \
        vf_store((unit)->x + (int64_t)(row + i) * DECODE_LD, x);                                                                           \
        vf_store(top, vf_max(x, vf_load(top)));                                                                                            \
    }
#define FINISH_ROW(i)                                                                                                                      \
    if (nr > i) {                                                                                                                          \
        FINISH(i, a##i, first)                                                                                                             \
        FINISH(i, b##i, second)                                                                                                            \
    }
    EACH_TILE_ROW(FINISH_ROW)
#undef EACH_TILE_ROW
#undef DECLARE
#undef ROW_STEP
#undef STEP
#undef FINISH
#undef FINISH_ROW
}

/* ... of any number of rows. */
static __attribute__((noinline)) void decode_rows(int32_t rows, int32_t dim, int64_t ld, const float *kt, float scale, const struct unit *first,
                                                  const struct unit *second, struct stream *next)
{
    int32_t row = 0;
#define TILES(n)                                                                                                                           \
    for (; rows - row >= n; row += n)                                                                                                      \
        decode_tile(n, dim, ld, kt, scale, first, second, row, next);
#if DECODE_TILE == 8
    TILES(8)
#endif
    TILES(4)
    TILES(2)
    TILES(1)
#undef TILES
}

/* Scores of all panels; unit after unit as they lie in memory. x[panel row][key - first]. */
static void decode_scores(struct block *b, const struct strip *k, const struct strip *then)
{
    const struct rondo_attention_task *t = b->t;
    const int32_t rows = b->rows, units = (k->end - k->first + VL - 1) / VL * b->panels, ld = decode_height(b->rows);
    for (int32_t i = 0; i < b->panels * rows; i++)
        vf_store(b->top_score + (int64_t)i * VL, vf_set1(-FLT_MAX));
    const int32_t turns = t->head_dim / STREAM_STEPS + 2 * (t->head_dim / VL), quota = turns ? (2 * VL + turns - 1) / turns : 2 * VL;
    for (int32_t n = 0; n < units; n += 2) {
        struct unit unit[2];
        const char *from[2];
        int32_t left[2];
        struct stream next = { .bytes = (int32_t)rondo_row_bytes(t->kv_type, t->head_dim), .quota = quota };
        for (int half = 0; half < 2; half++) {
            const int32_t at = n + half < units ? n + half : n, head = at % b->panels, key = k->first + at / b->panels * VL;
            unit[half] = (struct unit){ b->panel[head].q, b->x + (int64_t)head * rows * DECODE_LD + (key - k->first),
                                        b->top_score + (int64_t)head * rows * VL };
            if (n + half < units)
                next.of[half] = follow(k, then, key, head, b->apart);
            from[half] = strip_row(k, key, head);
            left[half] = k->end - key;
        }
        for (int half = 0; half < 2; half++)
            turn_kernels[t->kv_type](from[half], k->key, left[half], t->head_dim, b->kt + half * VL, &next);
        decode_rows(rows, t->head_dim, ld, b->kt, t->scale_log2, unit, unit + 1, &next);
    }
}

/* ---- weights: C3 and C4 ---- */

/* x becomes weights, then st[key][row], rows of all panels, each with decode_height() of them; m[row], l[row]. */
static void decode_weights(struct block *b, int32_t u0, int32_t u1)
{
    const int32_t step = decode_height(b->rows), ld = b->st_ld, keys = u1 - u0;
    for (int32_t i = 0; i < b->panels; i++) {
        float *x = b->x + (int64_t)i * b->rows * DECODE_LD, *m = b->m + (int64_t)i * step;
        for (int32_t r = 0; r < b->rows; r++) {
            const float *top = b->top_score + ((int64_t)i * b->rows + r) * VL;
            float *of = x + (int64_t)r * DECODE_LD, most = top[0];
            for (int j = 1; j < VL; j++)
                most = top[j] > most ? top[j] : most;
            const vf big = vf_rint(vf_set1(most));
            for (int32_t j = 0; j < keys; j += VL)
                vf_store(of + j, vf_weight(vf_load(of + j), big));
            m[r] = rondo__rint(most);
        }
        for (int32_t r = b->rows; r < step; r++)
            m[r] = 0.0f;
        for (int32_t r = 0; r < b->rows; r += 4) {
            const float *row[4];
            for (int j = 0; j < 4; j++)
                row[j] = x + (int64_t)(r + j < b->rows ? r + j : b->rows - 1) * DECODE_LD;
            for (int32_t j = 0; j < keys; j += 4)
                vec_transpose4(row[0] + j, row[1] + j, row[2] + j, row[3] + j, b->st + (int64_t)(u0 + j) * ld + i * step + r, ld);
        }
    }
    for (int32_t v = 0; v < b->panels * step; v += VL) {
        const float *s = b->st + v;
        vf sum = vf_zero();
        int32_t j = u0;
        if (j & 1)
            sum = vf_add(sum, vf_load(s + (int64_t)ld * j++));
        for (; j + 2 <= u1; j += 2)
            sum = vf_add(vf_add(sum, vf_load(s + (int64_t)(j + 1) * ld)), vf_load(s + (int64_t)j * ld));
        if (j < u1)
            sum = vf_add(sum, vf_load(s + (int64_t)j * ld));
        vf_store(b->l + v, sum);
        vf_store(b->m + v, vf_select(vf_is_nan(sum), vf_set1(FLT_MAX), vf_load(b->m + v)));
    }
}

#endif
