/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Cross-entropy and its gradient (rule 12 of rondo-numerics(7); backends/cpu/ref_entropy.c and entropy_ops.c are the definition). A block takes a row;
 * 16 threads take a leaf of its classes, each a lane of it, eight leaves at once; nodes of leaves are joined by all threads alike.
 */
#ifndef RONDO_CUDA_ENTROPY_H
#define RONDO_CUDA_ENTROPY_H

#include "backends/cuda/rows.h"

DEVICE struct cuda_entropy_node cuda_entropy_merge(struct cuda_entropy_node a, struct cuda_entropy_node b)
{
    struct cuda_entropy_node out;
    out.most = a.most > b.most ? a.most : b.most;
    const double left = a.sum * rondo__exp64((double)a.most - (double)out.most), right = b.sum * rondo__exp64((double)b.most - (double)out.most);
    out.sum = left + right;
    out.label = a.label + b.label;
    return out;
}

DEVICE float cuda_entropy_weight(float x, float most) { return rondo__exp2((x - most) * RONDO_LOG2E_F); }

DEVICE int64_t cuda_entropy_begin(const struct cuda_entropy *p, int64_t g) { return g * p->classes / p->leaves; }

/* Leaves [leaf0, leaf1), which are a node of the tree, to all threads. x: the class p->first. shared: double[8][16], double[8], float[8]. */
DEVICE struct cuda_entropy_node cuda_entropy_node_of(const struct cuda_entropy *p, const float *x, int64_t label, int leaf0, int leaf1, double *shared)
{
    const int lane = THREAD % CUDA_NORM_LANES, slot = THREAD / CUDA_NORM_LANES, slots = CUDA_THREADS / CUDA_NORM_LANES;
    double *sums = shared + CUDA_THREADS;
    float *largest = (float *)(void *)(sums + slots);
    struct cuda_entropy_node stack[40];
    int n = 0;
    for (int leaf = leaf0; leaf < leaf1; leaf += slots) {
        const int64_t first = leaf + slot < leaf1 ? cuda_entropy_begin(p, leaf + slot) : 0, end = leaf + slot < leaf1 ? cuda_entropy_begin(p, leaf + slot + 1) : 0;
        float most = -FLT_MAX;
        double sum = 0.0;
        for (int64_t i = first + lane; i < end; i += CUDA_NORM_LANES)
            most = x[i - p->first] > most ? x[i - p->first] : most;
        UNROLL
        for (int other = CUDA_NORM_LANES / 2; other; other /= 2) {
            const float m = SHUFFLE_XOR(most, other);
            most = m > most ? m : most;
        }
        for (int64_t i = first + lane; i < end; i += CUDA_NORM_LANES)
            sum = sum + (double)cuda_entropy_weight(x[i - p->first], most);
        shared[THREAD] = sum;
        BARRIER();
        for (int half = CUDA_NORM_LANES / 2; half; half /= 2) {
            if (lane < half)
                shared[THREAD] = shared[THREAD] + shared[THREAD + half];
            BARRIER();
        }
        if (lane == 0) {
            sums[slot] = shared[THREAD];
            largest[slot] = most;
        }
        BARRIER();
        for (int s = 0; s < slots && leaf + s < leaf1; s++) {
            struct cuda_entropy_node one;
            one.sum = sums[s];
            one.most = largest[s];
            one.label = label >= cuda_entropy_begin(p, leaf + s) && label < cuda_entropy_begin(p, leaf + s + 1) ? x[label - p->first] : 0.0f;
            for (int i = leaf + s - leaf0; i & 1; i >>= 1)
                one = cuda_entropy_merge(stack[--n], one);
            stack[n++] = one;
        }
        BARRIER();
    }
    for (; n > 1; n--)
        stack[n - 2] = cuda_entropy_merge(stack[n - 2], stack[n - 1]);
    return stack[0];
}

DEVICE struct cuda_entropy_node cuda_entropy_join(const struct cuda_entropy *p, int64_t row)
{
    struct cuda_entropy_node stack[40];
    int n = 0;
    for (int i = 0; i < p->part_count; i++) {
        stack[n++] = p->parts[i].data[row];
        for (int64_t m = i + 1 < p->part_count ? p->parts[i].merges : n - 1; m > 0; m--, n--)
            stack[n - 2] = cuda_entropy_merge(stack[n - 2], stack[n - 1]);
    }
    return stack[0];
}

DEVICE void cuda_entropy_slope(const struct cuda_entropy *p, int64_t row, const float *x, const struct cuda_entropy_node *all)
{
    float *dx = p->dx + row * p->dx_stride;
    const int ignored = p->labels[row] == p->ignore;
    const int64_t label = p->labels[row] - p->first;
    const float by = p->dloss ? p->dloss[row * p->dloss_stride] : 1.0f, scale = ignored ? 0.0f : (float)(1.0 / all->sum);
    for (int64_t i = THREAD; i < p->own; i += CUDA_THREADS) {
        if (ignored) {             /* takes no part, whatever it holds */
            if (!p->add)
                dx[i] = 0.0f;
            continue;
        }
        const float w = cuda_entropy_weight(x[i], all->most) * scale, one = i == label ? (w - 1.0f) * by : w * by;
        rondo__put_element(dx, i, RONDO_F32, p->add ? dx[i] + one : one);
    }
}

/* The end of the maximal aligned node that begins at `first` (rondo__linear_node_end()). */
DEVICE int cuda_entropy_node_end(int total, int first, int end)
{
    int64_t size = 1;
    while (first % (2 * size) == 0 && first + size < end && (first + 2 * size <= end || end == total))
        size *= 2;
    return first + size < end ? (int)(first + size) : end;
}

DEVICE void cuda_entropy_kernel(const struct cuda_entropy *p, double *shared)
{
    const int end = p->first_leaf + p->own_leaves;
    for (int64_t row = BLOCK; row < p->rows; row += BLOCKS) {
        const float *x = p->x + (p->own ? row * p->x_stride : 0);
        const int ignored = p->labels[row] == p->ignore;
        struct cuda_entropy_node all = { 0.0, 0.0f, 0.0f };
        if (p->nodes) {
            struct cuda_entropy_node *to = p->nodes + row;
            for (int leaf = p->first_leaf, next; leaf < end; leaf = next, to += p->node_stride) {
                next = cuda_entropy_node_end(p->leaves, leaf, end);
                all = cuda_entropy_node_of(p, x, p->labels[row], leaf, next, shared);
                if (THREAD == 0)
                    *to = all;
            }
            continue;
        }
        if (!ignored)
            all = p->part_count ? cuda_entropy_join(p, row) : cuda_entropy_node_of(p, x, p->labels[row], 0, p->leaves, shared);
        if (p->loss && THREAD == 0) {
            const double loss = ignored ? 0.0 : (double)all.most + rondo__log64(all.sum) - (double)all.label;
            p->loss[row] = loss != loss ? rondo__nan64() : loss;
        }
        if (p->dx && p->own)
            cuda_entropy_slope(p, row, x, &all);
    }
}

#endif
