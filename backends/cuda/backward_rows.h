/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What gradients of attention take besides tiles (rule 13 of rondo-numerics(7)), a number for each thread: the bias's gradient, joins of nodes, and
 * numbers of rows.
 */
#ifndef RONDO_CUDA_BACKWARD_ROWS_H
#define RONDO_CUDA_BACKWARD_ROWS_H

#include "backends/cuda/backward_tile.h"

/* Chains in the order of C2 over rows that are dense. */
DEVICE float cuda_back_chain(const void *a, int64_t a_at, int a_type, const void *b, int64_t b_at, int b_type, int dim)
{
    float s = 0.0f;
    ROLLED
    for (int j = 0; j < dim + (dim & 1); j++) {
        const int d = j ^ 1;
        if (d < dim)
            s = NUM_FMA(rondo__element(a, a_at + d, a_type), rondo__element(b, b_at + d, b_type), s);
    }
    return s;
}

/* A tree over numbers of which each is one float. */
struct cuda_back_numbers {
    float at[CUDA_BACK_DEPTH];
    struct cuda_back_waiting has;
};

DEVICE void cuda_back_push(struct cuda_back_numbers *s, int64_t leaf, float x)
{
    while (cuda_back_merges(&s->has, leaf))
        s->at[s->has.depth - 1] = s->at[s->has.depth - 1] + s->at[s->has.depth];
    s->at[s->has.depth] = x;
    cuda_back_wait(&s->has, leaf);
}

DEVICE float cuda_back_total(struct cuda_back_numbers *s)
{
    float x = s->has.depth ? s->at[s->has.depth - 1] : 0.0f;
    for (int i = s->has.depth - 2; i >= 0; i--)
        x = s->at[i] + x;
    s->has.depth = 0;
    return x;
}

/* ---- the bias ---- */

/* The gradient of one pair's score in a job, 0 where it is not there: query `query`, counted from the sequence's first; number `j` of a key leaf. */
DEVICE float cuda_back_ds(const struct cuda_backward *p, int number, const struct cuda_back_leaf *keys, int key_number, int64_t query, int j, int head)
{
    const struct cuda_back_job *job = p->jobs + number;
    const int group = p->heads / p->kv_heads;
    ROLLED
    for (int n = 0; n < job->queries; n++) {
        const struct cuda_back_leaf *q = p->leaves + job->queries_first + n;
        const int64_t i = query - (q->first - job->cached);
        if (i < 0 || i >= q->count)
            continue;
        const struct cuda_back_query one = cuda_back_query_of(p, p->sights + job->sights + n, q, (int)i, head);
        const int64_t mask_head = p->mask_heads > 1 ? head : 0, position = keys->first + j;
        const int64_t view = job->views < 0 ? CUDA_VIEW_ALL : p->views[job->views + (mask_head * job->queries + n) * job->keys + key_number];
        struct cuda_back_pair pair;
        if (!cuda_back_sees(p, &one, view, position, j))
            return 0.0f;
        const struct cuda_back_side a = cuda_back_side_of(p, q, 1, head), b = cuda_back_side_of(p, keys, 0, head / group);
        const float s = cuda_back_chain(a.a, a.a_at + i * a.a_stride, a.a_type, b.a, b.a_at + j * b.a_stride, b.a_type, p->head_dim);
        const float dp = cuda_back_chain(a.b, a.b_at + i * a.b_stride, a.b_type, b.b, b.b_at + j * b.b_stride, b.b_type, p->value_dim);
        return cuda_back_pair_of(p, job, p->bias_at[number - p->first_job], &one, position, head, s, dp, &pair) ? pair.ds : 0.0f;
    }
    return 0.0f;
}

/* One row and column of dbias: over the jobs that share it and, where one bias is for all heads, over these. */
DEVICE void cuda_back_bias_number(const struct cuda_backward *p, const struct cuda_back_shared *shared, const struct cuda_back_leaf *q, int64_t key_leaf,
                                  int bias_head, int i, int j)
{
    const int longest = p->alike[shared->first + shared->longest], heads = p->bias_heads > 1 ? 1 : p->heads;
    const int64_t query = q->first - p->jobs[longest].cached + i;
    struct cuda_back_numbers sequences, over;
    sequences.has.depth = over.has.depth = 0;
    ROLLED
    for (int s = 0; s < shared->count; s++) {
        const int number = p->alike[shared->first + s];
        const struct cuda_back_job *job = p->jobs + number;
        const struct cuda_back_leaf *keys = p->leaves + job->keys_first;
        int n = 0;
        while (n < job->keys && keys[n].leaf != key_leaf)
            n++;
        if (n == job->keys || keys[n].source < 0)   /* nothing of it is here: nobody sees it */
            continue;
        ROLLED
        for (int h = 0; h < heads; h++)
            cuda_back_push(&over, h, j < keys[n].count ? cuda_back_ds(p, number, keys + n, n, query, j, heads > 1 ? h : bias_head) : 0.0f);
        cuda_back_push(&sequences, s, cuda_back_total(&over));
    }
    float *to = p->dbias + p->dbias_at[longest - p->first_job] + (q->first + i) * p->dbias_row + (p->head + bias_head) * p->dbias_head + key_leaf * p->leaf_size + j;
    rondo__backward_put(to, 0, RONDO_F32, cuda_back_total(&sequences), 1.0f, p->accumulate);
}

/* A block takes a leaf of queries, a leaf of keys and a head of the bias. */
DEVICE void cuda_back_bias_kernel(const struct cuda_backward *p)
{
    ROLLED
    for (int64_t number = BLOCK; number < p->count; number += BLOCKS) {
        const struct cuda_back_shared *shared = p->shared;
        int64_t item = number;
        for (; item >= shared->items; shared++)
            item -= shared->items;
        const struct cuda_back_leaf *q = p->leaves + p->jobs[p->alike[shared->first + shared->longest]].queries_first + item / p->bias_heads / shared->keys;
        const int64_t number_of_keys = p->jobs[p->alike[shared->first + shared->widest]].keys_first + item / p->bias_heads % shared->keys;
        const int64_t key_leaf = p->leaves[number_of_keys].leaf, left = shared->columns - key_leaf * p->leaf_size;
        const int columns = left < p->leaf_size ? (int)left : p->leaf_size;
        ROLLED
        for (int e = THREAD; e < q->count * columns; e += CUDA_THREADS)
            cuda_back_bias_number(p, shared, q, key_leaf, (int)(item % p->bias_heads), e / columns, e % columns);
    }
}

/* ---- joins ---- */

/* Of a place: the number of a row and head, component c: of dq or dk below dim, of dv from there on; *full: whether there is anything of the head. */
DEVICE float *cuda_back_place_of(const struct cuda_backward *p, const struct cuda_back_join *j, int number, int row, int head, int c, int values, float **full)
{
    const struct cuda_back_place place = p->places[j->places_first + number];
    const int64_t heads = (int64_t)j->heads * j->group;
    float *first = p->nodes[place.buffer] + place.at, *second = first + j->count * heads * p->head_dim;
    *full = second + j->count * heads * values + head;
    return c < p->head_dim ? first + ((int64_t)head * j->count + row) * p->head_dim + c : second + ((int64_t)head * j->count + row) * values + (c - p->head_dim);
}

/* The program for one number. What it stores is full where it has something; these flags are written by `flags` only. 1: it ends in OUT, and *out is
 * the root, 0 where there is nothing. */
DEVICE int cuda_back_program(const struct cuda_backward *p, const struct cuda_back_join *j, int row, int head, int c, int values, int flags, float *out)
{
    float at[CUDA_BACK_JOIN_DEPTH], *full, *x;
    int some[CUDA_BACK_JOIN_DEPTH], n = 0;
    ROLLED
    for (int i = 0; i < j->steps; i++) {
        const struct rondo_tree_step step = p->steps[j->steps_first + i];
        if (step.code == RONDO_TREE_LOAD) {
            x = cuda_back_place_of(p, j, step.arg, row, head, c, values, &full);
            some[n] = *full != 0.0f;
            at[n] = some[n] ? *x : 0.0f;
            n++;
        } else if (step.code == RONDO_TREE_STORE) {
            x = cuda_back_place_of(p, j, step.arg, row, head, c, values, &full);
            n--;
            if (flags)
                *full = some[n] ? 1.0f : 0.0f;
            else if (some[n])
                *x = at[n];
        } else if (step.code == RONDO_TREE_MERGE) {
            n--;
            at[n - 1] = some[n] ? some[n - 1] ? at[n - 1] + at[n] : at[n] : at[n - 1];
            some[n - 1] |= some[n];
        } else {
            *out = n && some[0] ? at[0] : 0.0f;
            return 1;
        }
    }
    return 0;
}

/* A block takes a join and a head of its results. */
DEVICE void cuda_back_join_kernel(const struct cuda_backward *p)
{
    int64_t number = BLOCK;
    ROLLED
    for (int64_t at = p->first; at < p->first + p->count; at++) {
        const struct cuda_back_join *j = p->joins + at;
        const int values = j->queries ? 0 : p->value_dim, width = p->head_dim + values;
        ROLLED
        for (; number < j->heads; number += BLOCKS) {
            const int h = (int)number;
            ROLLED
            for (int64_t e = THREAD; e < (int64_t)j->count * width; e += CUDA_THREADS) {
                const int row = (int)(e / width), c = (int)(e % width);
                struct cuda_back_numbers heads;
                int ends = 0;
                heads.has.depth = 0;
                ROLLED
                for (int g = 0; g < j->group; g++) {
                    float x = 0.0f;
                    ends = cuda_back_program(p, j, row, h * j->group + g, c, values, 0, &x);
                    cuda_back_push(&heads, g, x);
                }
                if (!ends)
                    continue;
                const int64_t result = (j->row + row) * (j->queries ? p->all_heads : p->all_kv_heads) + j->head + h;
                const float sum = cuda_back_total(&heads);
                if (c >= p->head_dim)
                    rondo__backward_put(p->dv, result * values + c - p->head_dim, p->dv_type, sum, p->terms.keep, p->accumulate);
                else
                    rondo__backward_put(j->queries ? p->dq : p->dk, result * p->head_dim + c, j->queries ? p->dq_type : p->dk_type, sum, p->scale, p->accumulate);
            }
            BARRIER();             /* all have read what is full before any of it changes */
            float x;
            for (int g = THREAD; g < j->group; g += CUDA_THREADS)
                (void)cuda_back_program(p, j, 0, h * j->group + g, 0, values, 1, &x);
        }
        number -= j->heads;
    }
}

/* ---- numbers of rows ---- */

DEVICE void cuda_back_sums_kernel(const struct cuda_back_sums *p)
{
    ROLLED
    for (int64_t i = (int64_t)BLOCK * CUDA_THREADS + THREAD; i < p->rows; i += (int64_t)BLOCKS * CUDA_THREADS) {
        const float s = cuda_back_chain(p->dout, i * p->value_dim, p->type, p->out, i * p->value_dim, p->type, p->value_dim);
        p->sums[i] = p->dlse ? s - p->dlse[i] : s;
    }
}

DEVICE void cuda_back_sinks_kernel(const struct cuda_back_sinks *p)
{
    ROLLED
    for (int64_t e = (int64_t)BLOCK * CUDA_THREADS + THREAD; e < p->count * p->heads; e += (int64_t)BLOCKS * CUDA_THREADS) {
        const struct cuda_back_leaf leaf = p->leaves[e / p->heads];
        const int h = (int)(e % p->heads), before = (int)(leaf.first - p->bases[e / p->heads] - leaf.leaf * p->leaf_size);
        const float x = p->sinks[h] * RONDO_LOG2E_F;
        float sum = 0.0f, n, c;
        ROLLED
        for (int u = 0; u < p->leaf_size && x != -__builtin_inff(); u++) {
            const int at = (u ^ 1) - before;
            const int64_t row = (leaf.row + at) * p->heads + h;
            if (at >= 0 && at < leaf.count && rondo__backward_row(p->lse[row], &n, &c))
                sum = NUM_FMA(-rondo__backward_weight(x, n, c), p->sums[row], sum);
        }
        p->nodes[e] = sum;
    }
}

#endif
