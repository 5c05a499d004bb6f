/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Weights far below a leaf's largest, as ALiBi makes them for the oldest keys: the first sums of weights times values are subnormal numbers
 * then, on which some machines take a hundred times as long, and no shortcut is allowed, as their roundings are part of the contract. So the
 * first keys of such rows are taken with weights and sums multiplied by 2^64, and where the true sum would be subnormal it is rounded to a
 * multiple of 2^-149, as subnormal numbers are. Included once per instruction set.
 */
#ifndef RONDO_CPU_ATTENTION_TINY_H
#define RONDO_CPU_ATTENTION_TINY_H

#include "backends/cpu/attention_nodes.h"

#define TINY 0x1p-112f /* from here on sums are subnormal only where values are rather small too */
#define LIFT 0x1p64f
#define LIFT_FAR 0x1p-40f
#define LIFT_NORMAL 0x1p-62f /* LIFT times the least number that is not subnormal */

/* Rows of a panel that have tiny weights before any other, as bits; keys [u0, u1) of st[key][row], which are ld apart. */
static uint64_t tiny_rows(const struct panel *p, const float *st, int64_t ld, int32_t u0, int32_t u1)
{
    uint64_t rows = 0;
    for (int32_t v = 0; v < p->rows; v += VL) {
        uint32_t waits = vm_to_bits(vm_first(p->rows - v)), found = 0; /* for a weight that is not tiny */
        for (int32_t key = u0; key < u1 && waits; key++) {
            const vf x = vf_load(st + key * ld + v);
            waits &= vm_to_bits(vf_lt(x, vf_set1(TINY)));
            found |= waits & vm_to_bits(vf_lt(vf_zero(), x));
        }
        rows |= (uint64_t)found << v;
    }
    return rows;
}

/* One step of a chain, acc + w v, where w, acc and the result are LIFT times what they are. n is right unless it would be subnormal. Then
 * |n + c|, for c as below, lies between two powers of 2 whose floats are 2^-149 LIFT apart; acc + c is exact, as the two have opposite signs
 * and are multiples of that, unless acc is so large that c is none of its last bit: this is left to the machine, but it takes a
 * cancellation of 22 bits. What is left without c is exact. */
static vf lifted_fma(vf w, vf v, vf acc)
{
    const vf n = vf_fma(w, v, acc), normal = vf_set1(LIFT_NORMAL), sign = vf_copysign(vf_set1(1.0f), acc);
    const vm small = vf_lt(vf_neg(vf_neg_abs(n)), normal);
    if (!vm_any(small))
        return n;
    if (vm_any(vm_and(small, vf_ge(vf_neg(vf_neg_abs(acc)), vf_set1(LIFT_FAR))))) {
        const vf down = vf_set1(1.0f / LIFT);
        return vf_mul(vf_fma(vf_mul(w, down), v, vf_mul(acc, down)), vf_set1(LIFT));
    }
    const vm same = vf_ge(vf_mul(n, sign), vf_zero());
    const vf c = vf_mul(vf_select(same, vf_set1(2 * LIFT_NORMAL), normal), vf_neg(sign));
    return vf_select(small, vf_sub(vf_fma(w, v, vf_add(acc, c)), c), n);
}

/* The chains of `count` vectors of columns over keys [begin, end), which are whole pairs or what there is of them; w: weights, ld apart. */
VEC void lifted_chains(const int count, const float *w, int64_t ld, const float *v, int64_t stride, int32_t begin, int32_t end, vm lanes,
                       float *sum)
{
    vf acc[4] = { vf_zero(), vf_zero(), vf_zero(), vf_zero() };
    for (int32_t j = begin & ~1; j < end + (end & 1); j++) {
        const int32_t key = j ^ 1;
        if (key < begin || key >= end || w[key * ld] == 0.0f)
            continue;
        const vf weight = vf_set1(w[key * ld] * LIFT);
        for (int i = 0; i < count; i++) {
            const float *at = v + key * stride + i * VL;
            acc[i] = lifted_fma(weight, count > 1 ? vf_load(at) : vf_load_mask(at, lanes), acc[i]);
        }
    }
    for (int i = 0; i < count; i++)
        vf_store(sum + i * VL, vf_mul(acc[i], vf_set1(1.0f / LIFT)));
}

/* For those rows b->sum becomes the sums of the keys up to the first that has another weight, and the weights of these become 0; for the
 * others it becomes 0. All values are finite. */
static void take_tiny(const struct block *b, const struct panel *p, float *st, int64_t ld, uint64_t rows, int32_t u0, int32_t u1)
{
    const int32_t dim = b->t->value_dim;
    memset(b->sum, 0, (size_t)p->rows * (size_t)b->padded * sizeof *b->sum);
    for (int32_t r = 0; r < p->rows; r++) {
        float *w = st + r, *sum = b->sum + (int64_t)r * b->padded;
        int32_t begin = u0, end, c = 0;
        if (!(rows >> r & 1))
            continue;
        while (w[begin * ld] == 0.0f)
            begin++;
        for (end = begin; end < u1 && w[end * ld] < TINY; end++) {
        }
        end = end < u1 ? end & ~1 : end; /* whole pairs, for their order */
        begin = begin & 1 && begin > u0 ? begin - 1 : begin;
        for (; c + 4 * VL <= dim; c += 4 * VL)
            lifted_chains(4, w, ld, b->v + c, b->v_stride, begin, end, vm_first(VL), sum + c);
        for (; c < dim; c += VL)
            lifted_chains(1, w, ld, b->v + c, b->v_stride, begin, end, vm_first(dim - c), sum + c);
        for (int32_t key = u0; key < end; key++)
            w[key * ld] = 0.0f;
    }
}

#endif
