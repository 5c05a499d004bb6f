/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The second kernel of attention: each row's steps (core/device.h), as they are written, over the nodes that the first one left; and a kernel that
 * shows probabilities. A warp takes a row, 128 dimensions of it at a time; a lane has four of these, 32 apart, and its own copy of M and
 * l. The stack of nodes is in shared memory.
 */
#ifndef RONDO_CUDA_ATTENTION_STEPS_H
#define RONDO_CUDA_ATTENTION_STEPS_H

#include "backends/cuda/attention_tile.h"

struct cuda_node {                 /* a lane's part */
    float acc[4], M, l;
};

DEVICE void cuda_push(float *stack, int at, const struct cuda_node *node)
{
    float *to = stack + at * CUDA_LEVEL + THREAD % 32;
    UNROLL
    for (int e = 0; e < 4; e++)
        to[32 * e] = node->acc[e];
    to[128] = node->M;
    to[160] = node->l;
}

DEVICE struct cuda_node cuda_pop(const float *stack, int at)
{
    const float *from = stack + at * CUDA_LEVEL + THREAD % 32;
    struct cuda_node node;
    UNROLL
    for (int e = 0; e < 4; e++)
        node.acc[e] = from[32 * e];
    node.M = from[128];
    node.l = from[160];
    return node;
}

/* node = merge(the one below it, node), `merges` times; the stack had `top` without it. */
DEVICE void cuda_join(const float *stack, int top, int merges, struct cuda_node *node)
{
    ROLLED
    for (int n = 1; n <= merges; n++) {
        const struct cuda_node below = cuda_pop(stack, top - n);
        float left, right;
        cuda_merge(below.M, below.l, &node->M, &node->l, &left, &right);
        UNROLL
        for (int e = 0; e < 4; e++)
            node->acc[e] = NUM_FMA(below.acc[e], left, node->acc[e] * right);
    }
}

/* A node of `room` rows in memory, of which this is row r, dimensions from d0 on. */
DEVICE struct cuda_node cuda_load(const float *from, int64_t room, int64_t r, int d0, int dim)
{
    struct cuda_node node;
    UNROLL
    for (int e = 0; e < 4; e++) {
        const int d = d0 + THREAD % 32 + 32 * e;
        node.acc[e] = d < dim ? from[r * dim + d] : 0.0f;
    }
    node.M = from[room * dim + r];
    node.l = from[room * dim + room + r];
    return node;
}

/* C7 */
DEVICE void cuda_output(const struct cuda_attention *p, const struct cuda_bind *bind, int64_t token, int hq, int h, int d0, struct cuda_node *node)
{
    if (p->terms.sinks) {
        const float x = p->sinks[h] * RONDO_LOG2E_F, n = rondo__rint(x), l = rondo__exp2_poly(x - n), M = l != l ? FLT_MAX : n;
        if (node->l != 0.0f && x != -__builtin_inff()) {
            const float top = node->M > M ? node->M : M;
            const float sa = rondo__merge_scale(node->M - top), sb = rondo__merge_scale(M - top);
            node->M = top;
            node->l = NUM_FMA(node->l, sa, l * sb);
            UNROLL
            for (int e = 0; e < 4; e++)
                node->acc[e] = NUM_FMA(node->acc[e], sa, 0.0f * sb);
        }
    }
    const float l = node->l;
    float inv = 1.0f / l;
    if (p->terms.drop)
        inv = inv * p->terms.keep;
    UNROLL
    for (int e = 0; e < 4; e++) {
        const int d = d0 + THREAD % 32 + 32 * e;
        if (d < p->value_dim)
            rondo__put_element(p->out, bind->out + token * p->out_row + hq * p->out_head + d, p->out_type, l == 0.0f ? 0.0f : node->acc[e] * inv + 0.0f);
    }
    if (d0 || THREAD % 32)
        return;
    if (p->stats) {
        float *stats = p->stats + bind->stats + token * p->stats_row + hq * p->stats_head;
        rondo__put_element(stats, 0, RONDO_F32, l == 0.0f ? 0.0f : node->M + 0.0f);
        rondo__put_element(stats, 1, RONDO_F32, l);
    }
    if (p->lse)
        rondo__put_element(p->lse, bind->lse + token * p->lse_row + hq * p->lse_head, RONDO_F32, rondo__lse(node->M, l));
}

/* Nodes of a part as a lane reads them, of dimensions from d0 on: where its first number of the first node lies, and M; floats from node to node. */
struct cuda_nodes {
    const float *acc, *sums;
    int64_t stride;
    int room, left;                /* left: dimensions from the lane's first one on */
};

DEVICE struct cuda_nodes cuda_nodes_of(const struct cuda_attention *p, const struct cuda_tile *tile, const struct cuda_part *part, int r, int d0)
{
    const int dim = p->value_dim, room = tile->room, d = d0 + THREAD % 32;
    const float *from = p->nodes + part->nodes;
    const struct cuda_nodes n = { from + r * dim + d, from + room * dim + r, (int64_t)room * (dim + 2), room, dim - d };
    return n;
}

/* Node number k of them on its way to the ring, each lane's own part of it: nodes come late, so some are under way at once. */
DEVICE void cuda_fetch(const struct cuda_nodes *n, int k, float *ring)
{
    const float *from = n->acc + k * n->stride, *sums = n->sums + k * n->stride;
    float *to = ring + k % CUDA_AHEAD * CUDA_LEVEL + THREAD % 32;
    UNROLL
    for (int e = 0; e < 4; e++)
        COPY4(to + 32 * e, 32 * e < n->left ? from + 32 * e : sums, 32 * e < n->left);
    COPY4(to + 128, sums, 1);
    COPY4(to + 160, sums + n->room, 1);
}

/* Of the nodes [first, end) of a LEAF's parts, counted from the run's first, rondo__run_merges() in 32 bits. */
DEVICE int cuda_merges(unsigned i, unsigned first, unsigned end)
{
    int n = 0;
    ROLLED
    for (unsigned up = i, base = i, size = 1; up && (up & 1 || i + 1 == end); up >>= 1, size <<= 1)
        if (up & 1) {
            n += base > first;
            base -= size;
        }
    return n;
}

/* These nodes, joined as the tree wants, end as one behind `top`. `begin`: the part's first. */
DEVICE void cuda_join_parts(const struct cuda_nodes *nodes, int begin, int first, int end, float *stack, float *ring, int top)
{
    ROLLED
    for (int k = first; k < first + CUDA_AHEAD - 1; k++) {
        if (k < end)
            cuda_fetch(nodes, k - begin, ring);
        COPY_CLOSE();
    }
    ROLLED
    for (int k = first; k < end; k++) {
        const int merges = cuda_merges((unsigned)k, (unsigned)first, (unsigned)end);
        if (k + CUDA_AHEAD - 1 < end)
            cuda_fetch(nodes, k + CUDA_AHEAD - 1 - begin, ring);
        COPY_CLOSE();
        COPY_WAIT(CUDA_AHEAD - 1);
        struct cuda_node node = cuda_pop(ring, (k - begin) % CUDA_AHEAD);
        cuda_join(stack, top, merges, &node);
        top -= merges;
        cuda_push(stack, top++, &node);
    }
}

/* LEAF: one node behind `top`. By the warp; or together by all warps of the block, each for an aligned group of the parts, whose nodes the first warp joins
 * then. */
DEVICE void cuda_leaf_step(const struct cuda_attention *p, const struct cuda_tile *tile, const struct cuda_part *part, int r, int d0, float *stack,
                           float *ring, int top)
{
    const int first = part->first, end = first + part->count;
    if (part->count == 0) {
        const struct cuda_node node = { { 0.0f, 0.0f, 0.0f, 0.0f }, -FLT_MAX, 0.0f };
        cuda_push(stack, top, &node);
        return;
    }
    const struct cuda_nodes nodes = cuda_nodes_of(p, tile, part, r, d0);
    if (!p->together) {
        cuda_join_parts(&nodes, first, first, end, stack, ring, top);
        return;
    }
    const int pitch = cuda_chunks(p->value_dim, CUDA_COLUMNS) * p->depth * CUDA_LEVEL;     /* from a warp's stack to the next one's */
    int shift = 0;
    while (((end - 1) >> shift) - (first >> shift) >= CUDA_THREADS / 32)
        shift++;
    const int w = THREAD / 32, a = first >> shift, b = ((end - 1) >> shift) + 1, own = a + w;
    if (own < b)
        cuda_join_parts(&nodes, first, cuda_maximum(first, own << shift), cuda_minimum(end, (own + 1) << shift), stack, ring, top);
    BARRIER();
    if (w == 0) {
        const int bottom = top;
        ROLLED
        for (int k = a; k < b; k++) {
            struct cuda_node node = cuda_pop(stack + (k - a) * pitch, bottom);
            const int merges = cuda_merges((unsigned)k, (unsigned)a, (unsigned)b);
            cuda_join(stack, top, merges, &node);
            top -= merges;
            cuda_push(stack, top++, &node);
        }
    }
    BARRIER();                       /* before the others' stacks are used again */
}

/* LEAF at level fast: of the library's results for a row the node that attention_fast.h says. Where it has none nothing is visible. */
DEVICE void cuda_fast_step(const struct cuda_fast *p, int leaf, int64_t token, int hq, int heads, int d0, float *stack, int top)
{
    struct cuda_node node = { { 0.0f, 0.0f, 0.0f, 0.0f }, -FLT_MAX, 0.0f };
    ROLLED
    for (int n = 0; n < p->calls; n++) {
        const struct cuda_fast_call call = p->call[n];
        if (call.leaf != leaf || token < call.first || token >= call.first + call.rows)
            continue;
        const int64_t out = call.out + ((token - call.first) * heads + hq) * p->a.value_dim;
        const float lse = p->lse[call.lse + hq * call.rows + (token - call.first)];
        if (lse < -FLT_MAX)
            continue;
        const double x = (double)lse * 0x1.71547652b82fep0;
        const float M = rondo__rint((float)x), l = rondo__exp2_poly((float)(x - (double)M));
        const int finite = lse <= FLT_MAX;
        node.M = finite ? M : FLT_MAX;
        node.l = finite ? l : __builtin_nanf("");
        UNROLL
        for (int e = 0; e < 4; e++) {
            const int d = d0 + THREAD % 32 + 32 * e;
            if (d < p->a.value_dim)
                node.acc[e] = rondo__element(p->out, out + d, p->a.kv_type) * node.l;
        }
    }
    cuda_push(stack, top, &node);
}

/* All steps of a row, of a token and a query head of the job, by one warp, each for one block of dimensions after the other: what is in a place changes for
 * all of them at once. The blocks have stacks of their own, with M and l in each. Where the block's warps are together, all but the first only help with
 * LEAF. fast: at level fast what its nodes are made of, and then there are no tile, of which this is row r, and no ring; else NULL. */
DEVICE void cuda_steps_row(const struct cuda_attention *p, const struct cuda_job *of, const struct cuda_bind *bind, int64_t token, int hq,
                           const struct cuda_tile *tile, int r, const struct cuda_fast *fast, float *stack, float *ring)
{
    const struct cuda_job job = *of;
    const int dim = p->value_dim, size = p->depth * CUDA_LEVEL;
    const int64_t slot_rows = job.q_rows * job.heads, slot_row = token * job.heads + hq;
    const int helps = p->together && !fast && THREAD >= 32;
    int top = 0, leaf = 0;

    ROLLED
    for (int i = 0; i < job.steps; i++) {
        const struct rondo_tree_step s = p->steps[job.steps_first + i];
        struct cuda_node node;
        if (s.code == RONDO_TREE_LEAF && fast) {
            ROLLED
            for (int d0 = 0; d0 < dim; d0 += CUDA_COLUMNS)
                cuda_fast_step(fast, leaf, token, hq, job.heads, d0, stack + d0 / CUDA_COLUMNS * size, top);
            leaf++;
            top++;
        } else if (s.code == RONDO_TREE_LEAF) {
            const struct cuda_part part = p->parts[tile->parts + leaf++];
            ROLLED
            for (int d0 = 0; d0 < dim; d0 += CUDA_COLUMNS)
                cuda_leaf_step(p, tile, &part, r, d0, stack + d0 / CUDA_COLUMNS * size, ring, top);
            top++;
        } else if (helps) {
            top += s.code == RONDO_TREE_LOAD ? 1 : -1;
        } else if (s.code == RONDO_TREE_LOAD) {
            ROLLED
            for (int d0 = 0; d0 < dim; d0 += CUDA_COLUMNS) {
                node = cuda_load(p->slots[bind->slots + s.arg], slot_rows, slot_row, d0, dim);
                cuda_push(stack + d0 / CUDA_COLUMNS * size, top, &node);
            }
            top++;
        } else if (s.code == RONDO_TREE_MERGE) {
            top--;
            ROLLED
            for (int d0 = 0; d0 < dim; d0 += CUDA_COLUMNS) {
                float *const own = stack + d0 / CUDA_COLUMNS * size;
                node = cuda_pop(own, top);
                cuda_join(own, top, 1, &node);
                cuda_push(own, top - 1, &node);
            }
        } else if (s.code == RONDO_TREE_STORE) {
            float *to = p->slots[bind->slots + s.arg];
            top--;
            ROLLED
            for (int d0 = 0; d0 < dim; d0 += CUDA_COLUMNS) {
                node = cuda_pop(stack + d0 / CUDA_COLUMNS * size, top);
                UNROLL
                for (int e = 0; e < 4; e++) {
                    const int d = d0 + THREAD % 32 + 32 * e;
                    if (d < dim)
                        to[slot_row * dim + d] = node.acc[e];
                }
            }
            WARP_BARRIER();          /* all lanes have read what the place had, and see what it has */
            if (THREAD % 32 == 0) {
                to[slot_rows * dim + slot_row] = node.M;
                to[slot_rows * dim + slot_rows + slot_row] = node.l;
            }
            WARP_BARRIER();
        } else {
            top--;
            ROLLED
            for (int d0 = 0; d0 < dim; d0 += CUDA_COLUMNS) {
                node = cuda_pop(stack + d0 / CUDA_COLUMNS * size, top);
                cuda_output(p, bind, token, hq, p->head + job.head + hq, d0, &node);
            }
        }
    }
}

/* first, count: tiles */
DEVICE void cuda_steps_kernel(const struct cuda_attention *p, char *shared)
{
    const int blocks = cuda_chunks(p->value_dim, CUDA_COLUMNS), groups = p->together ? p->room : cuda_chunks(p->room, CUDA_THREADS / 32);
    float *stack = (float *)(void *)shared + THREAD / 32 * blocks * p->depth * CUDA_LEVEL;
    float *ring = (float *)(void *)shared + (CUDA_THREADS / 32 * blocks * p->depth + THREAD / 32 * CUDA_AHEAD) * CUDA_LEVEL;
    ROLLED
    for (int64_t i = BLOCK; i < p->count * groups; i += BLOCKS) {
        const struct cuda_tile tile = p->tiles[p->first + i / groups];
        const int r = p->together ? (int)(i % groups) : (int)(i % groups) * (CUDA_THREADS / 32) + THREAD / 32;
        if (r >= tile.rows)
            continue;
        const struct cuda_job job = p->jobs[tile.job];
        const struct cuda_bind bind = cuda_bind_of(p, tile.job);
        const int64_t f = tile.first + r;
        cuda_steps_row(p, &job, &bind, f / job.group, tile.kv_head * job.group + (int)(f % job.group), &tile, r, NULL, stack, ring);
    }
}

/* C2: the sum of a query's and a key's products. */
DEVICE float cuda_any_product(const struct cuda_attention *p, int64_t q, const void *k, int64_t k_at)
{
    float s = 0.0f;
    if (p->arithmetic == RONDO_ARITHMETIC_F64) {
        double sum = 0.0;                  /* products of two floats are exact */
        for (int d = 0; d < p->head_dim; d++)
            sum = sum + (double)rondo__element(p->q, q + d, p->q_type) * (double)cuda_number(k, k_at, d, p->head_dim, p->kv_type);
        return (float)sum;
    }
    if (p->arithmetic == RONDO_ARITHMETIC_BF16_HOPPER) {
        for (int d0 = 0; d0 < p->head_dim; d0 += RONDO_ALIGNED_SUM) {
            uint16_t a[RONDO_ALIGNED_SUM], b[RONDO_ALIGNED_SUM];
            for (int i = 0; i < RONDO_ALIGNED_SUM; i++) {
                a[i] = d0 + i < p->head_dim ? rondo__to_bf16(rondo__element(p->q, q + d0 + i, p->q_type)) : 0;
                b[i] = d0 + i < p->head_dim ? rondo__to_bf16(cuda_number(k, k_at, d0 + i, p->head_dim, p->kv_type)) : 0;
            }
            s = rondo__aligned_sum(s, a, b);
        }
        return s;
    }
    for (int j = 0; j < p->head_dim + (p->head_dim & 1); j++)
        if ((j ^ 1) < p->head_dim)
            s = NUM_FMA(rondo__element(p->q, q + (j ^ 1), p->q_type), cuda_number(k, k_at, j ^ 1, p->head_dim, p->kv_type), s);
    return s;
}

/* C7: first, count: tiles of jobs that show probabilities. A block takes a row; a thread some of its keys, read where they lie: whoever asks for
 * them all has a small problem. */
DEVICE void cuda_probabilities_kernel(const struct cuda_attention *p)
{
    ROLLED
    for (int64_t i = BLOCK; i < p->count * p->room; i += BLOCKS) {
        const struct cuda_tile tile = p->tiles[p->first + i / p->room];
        const int r = (int)(i % p->room);
        const struct cuda_job job = p->jobs[tile.job];
        const struct cuda_bind bound = cuda_bind_of(p, tile.job), *const bind = &bound;
        if (r >= tile.rows)
            continue;
        const int64_t f = tile.first + r, token = f / job.group;
        const int hq = tile.kv_head * job.group + (int)(f % job.group);
        const struct cuda_row row = p->rows[job.rows + token];
        const float *stats = p->stats + bind->stats + token * p->stats_row + hq * p->stats_head;
        const int64_t out = bind->probs + token * p->probs_row + hq * p->probs_head, q = bind->q + token * p->q_row + hq * p->q_head;
        const float M = stats[0], inv = 1.0f / stats[1];
        int64_t view = tile.bits;
        for (int n = 0; n < job.leaves; n++) {
            const struct rondo_leaf run = p->leaves[job.leaves_first + n];
            struct cuda_run known;
            struct cuda_leaf at;
            cuda_run_of(p, &tile, &job, &run, &known);
            for (int64_t k = 0; k < known.leaves; k++) {
                cuda_leaf_of(p, &tile, &known, k, &at);
                const int64_t bits = view < 0 ? CUDA_VIEW_ALL : p->views[view++];
                if (bits == CUDA_VIEW_NONE)
                    continue;
                for (int key = THREAD; key < at.leaf.count; key += CUDA_THREADS) {
                    const int64_t position = at.leaf.first + (int64_t)key * at.leaf.step, k_at = at.k_at + key * known.k_row;
                    float x;
                    if (position < row.lo || position >= row.hi || (bits >= 0 && !(p->bits[(bits + r) * 4 + key / 64] >> (key % 64) & 1)))
                        continue;
                    if (!cuda_score(p, bind, cuda_any_product(p, q, known.k, k_at), row.p, position, p->head + job.head + hq, hq, &x))
                        continue;
                    const float near = rondo__rint(x), w = rondo__weight(x - near, near - M), rounded = rondo__from_bf16(rondo__to_bf16(w));
                    const float prob = (p->arithmetic == RONDO_ARITHMETIC_BF16_HOPPER ? rounded : w) * inv;
                    rondo__put_element(p->probs, out + position, RONDO_F32, stats[1] == 0.0f ? 0.0f : prob);
                }
            }
        }
    }
}

#endif
