/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Nodes as the fragments of a matrix unit have them (attention_unit.h, attention_double.h): a thread has two rows, 8 apart, and of each eight columns a
 * pair. They are merged, wait in the stack, each thread's own numbers side by side, and go to where the second kernel looks for them.
 */
#ifndef RONDO_CUDA_ATTENTION_NODES_H
#define RONDO_CUDA_ATTENTION_NODES_H

#include "backends/cuda/attention_tile.h"

struct cuda_unit_node {
    float acc[16][4], M[2], l[2];
};

/* merge(left, node) */
DEVICE void cuda_unit_merge(const struct cuda_unit_node *left, struct cuda_unit_node *node)
{
    float a[2], b[2];
    UNROLL
    for (int h = 0; h < 2; h++)
        cuda_merge(left->M[h], left->l[h], &node->M[h], &node->l[h], &a[h], &b[h]);
    UNROLL
    for (int j = 0; j < 16; j++) {
        UNROLL
        for (int e = 0; e < 4; e++)
            node->acc[j][e] = NUM_FMA(left->acc[j][e], a[e >> 1], node->acc[j][e] * b[e >> 1]);
    }
}

/* ... where the left one lies in the stack */
DEVICE void cuda_unit_pop(const float *level, struct cuda_unit_node *node, int tiles)
{
    const struct quad *at = (const struct quad *)(const void *)level + THREAD, sums = at[16 * CUDA_THREADS];
    float a[2], b[2];
    cuda_merge(sums.a, sums.c, &node->M[0], &node->l[0], &a[0], &b[0]);
    cuda_merge(sums.b, sums.d, &node->M[1], &node->l[1], &a[1], &b[1]);
    UNROLL
    for (int j = 0; j < 16; j++) {
        if (j >= tiles)
            continue;
        const struct quad x = at[j * CUDA_THREADS];
        node->acc[j][0] = NUM_FMA(x.a, a[0], node->acc[j][0] * b[0]);
        node->acc[j][1] = NUM_FMA(x.b, a[0], node->acc[j][1] * b[0]);
        node->acc[j][2] = NUM_FMA(x.c, a[1], node->acc[j][2] * b[1]);
        node->acc[j][3] = NUM_FMA(x.d, a[1], node->acc[j][3] * b[1]);
    }
}

DEVICE void cuda_unit_push(float *level, const struct cuda_unit_node *node, int tiles)
{
    struct quad *at = (struct quad *)(void *)level + THREAD;
    const struct quad sums = { node->M[0], node->M[1], node->l[0], node->l[1] };
    at[16 * CUDA_THREADS] = sums;
    UNROLL
    for (int j = 0; j < 16; j++) {
        const struct quad x = { node->acc[j][0], node->acc[j][1], node->acc[j][2], node->acc[j][3] };
        if (j < tiles)
            at[j * CUDA_THREADS] = x;
    }
}

struct pair { float a, b; } __attribute__((aligned(8)));

/* The item's node, to where the second kernel looks for it. */
DEVICE void cuda_unit_store(const struct cuda_attention *p, const struct cuda_tile *tile, const struct cuda_unit_node *node, int value, float *to)
{
    const int lane = THREAD & 31, r = (THREAD >> 5) * 16 + (lane >> 2), d = value + 2 * (lane & 3), dim = p->value_dim, even = dim % 2 == 0;
    UNROLL
    for (int h = 0; h < 2; h++) {
        const int row = r + 8 * h;
        if (row >= tile->rows)
            continue;
        float *at = to + (int64_t)row * dim + d;
        UNROLL
        for (int j = 0; j < 16; j++) {
            const struct pair x = { node->acc[j][2 * h], node->acc[j][2 * h + 1] };
            if (even && d + 8 * j < dim)
                *(struct pair *)(void *)(at + 8 * j) = x;
            if (!even && d + 8 * j < dim)
                at[8 * j] = x.a;
            if (!even && d + 8 * j + 1 < dim)
                at[8 * j + 1] = x.b;
        }
        if (value == 0 && (lane & 3) == 0) {
            to[(int64_t)tile->room * dim + row] = node->M[h];
            to[(int64_t)tile->room * dim + tile->room + row] = node->l[h];
        }
    }
}

/* The leaf's node goes through the tree. */
DEVICE void cuda_unit_join(const struct cuda_attention *p, struct cuda_unit_node *node, struct cuda_unit_node *held, int *holds, float *stack, int top, int merges,
                           int64_t level, int value, float *last, const struct cuda_tile *tile, int wide)
{
    const int tiles = p->value_dim - value > CUDA_COLUMNS / 2 ? 16 : 8;
    stack += value / CUDA_COLUMNS * CUDA_UNIT_LEVEL;
    if (merges > 0) {                /* of what is held nothing is wanted behind this, and its registers are free */
        int n = 1;
        if (!wide && *holds) {
            cuda_unit_merge(held, node);
            n = 2;
        }
        ROLLED
        for (; n <= merges; n++)
            cuda_unit_pop(stack + (top - n) * level, node, tiles);
    } else if (!wide && *holds && !last) {
        cuda_unit_push(stack + (top - 1) * level, held, tiles);
    }
    if (last) {
        cuda_unit_store(p, tile, node, value, last);
    } else if (wide) {
        cuda_unit_push(stack + (top - merges) * level, node, tiles);
    } else {
        *held = *node;
        *holds = 1;
    }
}

#endif
