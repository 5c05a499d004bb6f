/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What becomes of raw scores where there is more than a product with a scale: softcap, ALiBi, bias and hidden keys, in the order of rule C2,
 * applied to each tile of scores as soon as it is there, while it is in the nearest cache. One function for each set of terms, so that no
 * loop asks which there are. Included by attention_tile.h, once per instruction set.
 */
#ifndef RONDO_CPU_ATTENTION_FINISH_H
#define RONDO_CPU_ATTENTION_FINISH_H

#include "backends/cpu/vec.h"

/* Of a panel and a leaf. Lanes are rows, tables lie as scores do: [key][row]. */
struct finish {
    void (*tile)(const struct finish *w, int32_t vecs, int32_t keys, int32_t key, float *st, float *top);
    const float *slope;                /* of ALiBi: slope * log2(e) */
    const float *far, *near;           /* their sum is the position of the row less that of the leaf's first key; each is exact */
    const float *bias;
    const uint64_t *seen;              /* [key]: bit r, row r sees it */
    const uint64_t *drop;              /* [key]: bit r, it is dropped for row r; NULL: none is. (weights() asks, not finish) */
    float cap_out;
    int32_t step;                      /* between the positions of keys */
};

enum { FINISH_CAP = 1, FINISH_ALIBI = 2, FINISH_BIAS = 4, FINISH_SEEN = 8, FINISHES = 16 };

/* Keys [key, key + keys) of st; top[row] = the largest so far. */
VEC void finish_tile(const int terms, const struct finish *w, int32_t vecs, int32_t keys, int32_t key, float *st, float *top)
{
    const int32_t ld = vecs * VL;
    const vf e2 = vf_set1(RONDO_LOG2E_F), hidden = vf_set1(-__builtin_inff());
    const vf cap = vf_set1(terms & FINISH_CAP ? w->cap_out : 0.0f);
    for (int32_t v = 0; v < ld; v += VL) {
        const vf slope = terms & FINISH_ALIBI ? vf_load(w->slope + v) : e2, far = terms & FINISH_ALIBI ? vf_load(w->far + v) : e2;
        const vf near = terms & FINISH_ALIBI ? vf_load(w->near + v) : e2;
        vf m = vf_load(top + v);
        for (int32_t i = key; i < key + keys; i++) {
            vf x = vf_load(st + i * ld + v);
            if (terms & FINISH_CAP)
                x = vf_mul(vf_tanh(x), cap);
            if (terms & FINISH_ALIBI) { /* the difference is exact, so that the sum is the rounded distance */
                const vf d = vf_add(far, vf_sub(near, vf_set1((float)(i * w->step))));
                x = vf_fma(slope, vf_neg_abs(d), x);   /* -a times d is a times -d */
            }
            if (terms & FINISH_BIAS) {
                const vf b = vf_load(w->bias + i * ld + v);
                x = vf_select(vf_eq(b, hidden), hidden, vf_fma(b, e2, x));
            }
            if (terms & FINISH_SEEN)
                x = vf_select(vm_from_bits((uint32_t)(w->seen[i] >> v)), x, hidden);
            m = vf_max(x, m);
            vf_store(st + i * ld + v, x);
        }
        vf_store(top + v, m);
    }
}

#define FINISH(terms)                                                                                                                      \
    static __attribute__((noinline)) void finish_##terms(const struct finish *w, int32_t vecs, int32_t keys, int32_t key, float *st,       \
                                                         float *top)                                                                       \
    {                                                                                                                                      \
        finish_tile(terms, w, vecs, keys, key, st, top);                                                                                   \
    }
FINISH(0)
FINISH(1)
FINISH(2)
FINISH(3)
FINISH(4)
FINISH(5)
FINISH(6)
FINISH(7)
FINISH(8)
FINISH(9)
FINISH(10)
FINISH(11)
FINISH(12)
FINISH(13)
FINISH(14)
FINISH(15)
static void (*const finish_tiles[FINISHES])(const struct finish *, int32_t, int32_t, int32_t, float *, float *) = {
    finish_0, finish_1, finish_2, finish_3, finish_4, finish_5, finish_6, finish_7,
    finish_8, finish_9, finish_10, finish_11, finish_12, finish_13, finish_14, finish_15,
};
#undef FINISH

#endif
