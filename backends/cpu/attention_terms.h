/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What a panel needs of a leaf where there is more than ranges of keys (rules C2, C4 and C10): the distances of ALiBi, the bias as scores lie,
 * which keys each row sees, and which are dropped. Included once per instruction set.
 */
#ifndef RONDO_CPU_ATTENTION_TERMS_H
#define RONDO_CPU_ATTENTION_TERMS_H

#include "backends/cpu/attention_nodes.h"

/* What of a leaf a panel sees: [u0, u1) by some row, [c0, c1) by all. */
struct view {
    int32_t u0, u1, c0, c1;
    int uniform;
};

/* The range of a panel's row in the leaf; never i0 > i1. */
static void row_range(const struct block *b, const struct panel *p, const struct rondo_leaf *f, int32_t r,
                      int32_t *i0, int32_t *i1)
{
    const int32_t token = (p->row + r) / b->group;
    rondo__visible_in_leaf(f, b->lo[token], b->hi[token], i0, i1);
    if (*i0 > *i1)
        *i0 = *i1;
}

/* ---- masks of bits ---- */

static int32_t first_bit(const uint64_t bits[4])
{
    for (int32_t w = 0; w < 4; w++)
        if (bits[w])
            return 64 * w + __builtin_ctzll(bits[w]);
    return 256;
}

static int32_t end_bit(const uint64_t bits[4])
{
    for (int32_t w = 4; w-- > 0;)
        if (bits[w])
            return 64 * w + 64 - __builtin_clzll(bits[w]);
    return 0;
}

/* Asks the mask about a leaf, for all rows of the block; [*u0, *u1): where some row sees something. */
static void block_bits(struct block *b, const struct rondo_leaf *f, int32_t *u0, int32_t *u1)
{
    const struct rondo_attention_task *t = b->t;
    const int32_t share = sharing(b), heads = b->group / share;
    uint64_t any[4] = { 0, 0, 0, 0 };
    for (int32_t i = 0; i < b->tokens; i++) {
        const int64_t p = rondo__cpu_position(t, b->token + i);
        for (int32_t h = 0; h < heads; h++) {
            uint64_t *bits = b->bits[i * heads + h];
            rondo__leaf_bits(t, f, b->kv_head * b->group + h, p, b->lo[i], b->hi[i], bits);
            for (int32_t w = 0; w < 4; w++)
                any[w] |= bits[w];
        }
    }
    *u0 = first_bit(any);
    *u1 = end_bit(any);
}

/* What of it a panel sees. */
static void panel_bits(const struct block *b, const struct panel *p, struct view *w)
{
    const int32_t share = sharing(b), end = (p->row + p->rows - 1) / share;
    uint64_t any[4] = { 0, 0, 0, 0 }, all[4];
    memset(all, 0xff, sizeof all);
    for (int32_t i = p->row / share; i <= end; i++)
        for (int32_t j = 0; j < 4; j++) {
            any[j] |= b->bits[i][j];
            all[j] &= b->bits[i][j];
        }
    w->u0 = first_bit(any);
    w->u1 = end_bit(any);
    w->uniform = w->u0 < w->u1;
    for (int32_t j = w->u0; w->uniform && j < w->u1; j++)
        w->uniform = (int)(all[j / 64] >> (j % 64)) & 1;
}

/* seen[key] of keys [u0, u1): what rows see, the other way round. */
static void fill_seen(const struct block *b, const struct panel *p, const struct rondo_leaf *f, const struct view *w)
{
    const int32_t share = b->bits ? sharing(b) : b->group;
    memset(b->seen + w->u0, 0, (size_t)(w->u1 - w->u0) * sizeof *b->seen);
    for (int32_t r = 0, end; r < p->rows; r = end) { /* rows that see the same */
        uint64_t own[4], *bits = own, rows;
        end = ((p->row + r) / share + 1) * share - p->row;
        end = end < p->rows ? end : p->rows;
        rows = (~(uint64_t)0 >> (64 - (end - r))) << r;
        if (b->bits) {
            bits = b->bits[(p->row + r) / share];
        } else {
            const int32_t token = (p->row + r) / b->group;
            rondo__leaf_bits(b->t, f, p->head[r], p->at[r], b->lo[token], b->hi[token], own);
        }
        for (int32_t key = w->u0; key < w->u1; key++)
            b->seen[key] |= ((uint64_t)0 - (bits[key / 64] >> (key % 64) & 1)) & rows;
    }
}

/* ---- ALiBi, bias ---- */

/* Positions of rows less that of the leaf's first key, each in two floats that are exact, the first one a multiple of 2^23: exact as long as
 * positions are below 2^47, which is more keys than any machine has bytes. */
static void fill_distances(const struct panel *p, const struct rondo_leaf *f, float *far, float *near)
{
    for (int32_t r = 0; r < p->vecs * VL; r++) {
        const int64_t d = p->at[r] - f->first, low = d & (((int64_t)1 << 23) - 1);
        near[r] = (float)low;
        far[r] = (float)(d - low);
    }
}

/* bias[key][row], four rows and four keys at a time. */
static void fill_bias(const struct block *b, const struct panel *p, const struct rondo_leaf *f, int32_t u0, int32_t u1)
{
    const struct rondo_attention_task *t = b->t;
    const int32_t ld = p->vecs * VL;
    for (int32_t r = 0; r < ld; r += 4) {
        const float *from[4];
        int32_t key = u0;
        for (int32_t i = 0; i < 4; i++)
            from[i] = t->bias + (t->bias_at + p->at[r + i] * t->bias_row_stride + p->head[r + i] * t->bias_head_stride + f->first);
        for (; f->step == 1 && key + 4 <= u1; key += 4)
            vec_transpose4(from[0] + key, from[1] + key, from[2] + key, from[3] + key, b->bias + key * ld + r, ld);
        for (; key < u1; key++)
            for (int32_t i = 0; i < 4; i++)
                b->bias[key * ld + r + i] = from[i][(int64_t)key * f->step];
    }
}

/* ---- dropout ---- */

/* rondo__drop_words() for VL rows, held against the limit: bits of rows by key. low, place: parts of the counters, those of even rows first. */
static void drop_four(const struct rondo_attention_task *t, const uint64_t low[VL], const uint64_t place[VL], uint64_t k, vm below[4])
{
    vw c[2][4];
    for (int odd = 0; odd < 2; odd++) {
        c[odd][0] = vw_set1(k >> 2 & 0xffffffffu);
        c[odd][1] = vw_load(low + odd * (VL / 2));
        c[odd][2] = vw_xor3(vw_load(place + odd * (VL / 2)), vw_set1(rondo__drop_place(0, 0, (int64_t)k)), vw_set1(0));
        c[odd][3] = vw_set1((uint32_t)t->sequence);
    }
    uint32_t k0 = (uint32_t)t->seed, k1 = (uint32_t)(t->seed >> 32);
    for (int round = 0; round < 10; round++) {
        for (int odd = 0; odd < 2; odd++) {
            const vw x = vw_mul(c[odd][0], vw_set1(0xD2511F53u)), y = vw_mul(c[odd][2], vw_set1(0xCD9E8D57u));
            c[odd][0] = vw_xor3(vw_high(y), c[odd][1], vw_set1(k0));
            c[odd][2] = vw_xor3(vw_high(x), c[odd][3], vw_set1(k1));
            c[odd][1] = y;
            c[odd][3] = x;
        }
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    for (int i = 0; i < 4; i++)
        below[i] = vw_below(c[0][i], c[1][i], t->terms.drop);
}

/* drop[key] of keys [u0, u1). */
static void fill_drop(const struct block *b, const struct panel *p, const struct rondo_leaf *f, int32_t u0, int32_t u1)
{
    const struct rondo_attention_task *t = b->t;
    memset(b->drop + u0, 0, (size_t)(u1 - u0) * sizeof *b->drop);
    if (f->step != 1) { /* four neighbours are not here together */
        for (int32_t r = 0; r < p->rows; r++)
            for (int32_t key = u0; key < u1; key++) {
                const int64_t k = f->first + (int64_t)key * f->step;
                uint32_t words[4];
                rondo__drop_words(t, t->head + p->head[r], p->at[r], k & ~(int64_t)3, words);
                b->drop[key] |= (uint64_t)(words[k & 3] < t->terms.drop) << r;
            }
        return;
    }
    for (int32_t v = 0; v < p->vecs * VL; v += VL) {
        uint64_t low[VL], place[VL];
        for (int32_t i = 0; i < VL; i++) {
            const int32_t lane = i / 2 + i % 2 * (VL / 2);
            low[lane] = (uint32_t)(uint64_t)p->at[v + i];
            place[lane] = rondo__drop_place(t->head + p->head[v + i], p->at[v + i], 0);
        }
        for (int64_t k = (f->first + u0) & ~(int64_t)3; k < f->first + u1; k += 4) {
            vm below[4];
            drop_four(t, low, place, (uint64_t)k, below);
            for (int32_t i = 0; i < 4; i++) {
                const int64_t key = k + i - f->first;
                if (key >= u0 && key < u1)
                    b->drop[key] |= (uint64_t)vm_to_bits(below[i]) << v;
            }
        }
    }
}

/* ---- all of it ---- */

/* For the keys that a panel sees of a leaf. far, near: room for distances. */
static void look_closely(const struct block *b, const struct panel *p, const struct rondo_leaf *f, const struct view *w, float *far, float *near,
                         struct finish *out)
{
    const struct rondo_attention_task *t = b->t;
    int terms = t->terms.cap_in != 0.0f ? FINISH_CAP : 0;
    *out = (struct finish){ .slope = p->slope, .far = far, .near = near, .bias = b->bias, .seen = b->seen, .drop = b->drop,
                            .cap_out = t->terms.cap_out, .step = f->step };
    if (t->terms.alibi) {
        terms |= FINISH_ALIBI;
        fill_distances(p, f, far, near);
    }
    if (t->terms.bias) {
        terms |= FINISH_BIAS;
        fill_bias(b, p, f, w->u0, w->u1);
    }
    if (!w->uniform) {
        terms |= FINISH_SEEN;
        fill_seen(b, p, f, w);
    }
    if (t->terms.drop && t->operation != RONDO_JOB_PROBABILITIES)
        fill_drop(b, p, f, w->u0, w->u1);
    out->tile = finish_tiles[terms];
}

#endif
