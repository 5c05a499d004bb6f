/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the kernels of attention know of the item at work: its tile, job and run, the leaf that is computed with and the next one, which one thread
 * finds out for its block.
 */
#ifndef RONDO_CUDA_ATTENTION_ITEMS_H
#define RONDO_CUDA_ATTENTION_ITEMS_H

#include "backends/cuda/tile.h"

/* ---- leaves ---- */

/* A run, for a KV head of the job: what is the same for all of its leaves. */
struct cuda_run {
    struct rondo_leaf run;
    const void *k, *v;
    const int64_t *pages;
    int64_t leaves, row, page_rows, k_head, v_head, k_row, v_row;   /* row: of its first key */
    int32_t k_grain, v_grain;
};

/* A leaf of it. Keys that somebody in the tile sees lie in [lo, hi): others are not read. */
struct cuda_leaf {
    struct rondo_leaf leaf;
    int64_t k_at, v_at, number, view;
    int32_t lo, hi;
};

/* What all threads of a block know of the item at work, in shared memory: one thread finds it out. */
struct cuda_known {
    struct cuda_tile tile;
    struct cuda_job job;
    struct cuda_run run;
    struct cuda_leaf leaf[2];
    struct cuda_item item;
};

typedef char cuda_known_fits[sizeof(struct cuda_known) <= CUDA_KNOWN ? 1 : -1];

/* What a tile's job, and a source, are bound to: what came with the launch, or the lists say; the other one is 0. Their sum, since of a choice between two
 * addresses compilers make a copy of the parameters for each thread. */
DEVICE struct cuda_bind cuda_bind_of(const struct cuda_attention *p, int job)
{
    struct cuda_bind b = { 0, 0, 0, 0, 0, 0, 0 };
    if (p->binds)
        b = p->binds[job - p->first_job];
    b.q += p->bound.bind.q, b.out += p->bound.bind.out, b.lse += p->bound.bind.lse, b.stats += p->bound.bind.stats;
    b.probs += p->bound.bind.probs, b.bias += p->bound.bind.bias;
    return b;
}
DEVICE int64_t cuda_base_of(const struct cuda_attention *p, int job, int source)
{
    return p->bound.base + (p->binds ? p->bases[(int64_t)(job - p->first_job) * p->source_count + source] : 0);
}
DEVICE struct cuda_source cuda_source_of(const struct cuda_attention *p, const struct cuda_source *there)
{
    struct cuda_source s = { NULL, NULL, 0, 0, 0, 0, NULL, 0, 0, 0 };
    if (p->binds)
        s = *there;
    s.k = (const void *)((uintptr_t)s.k + (uintptr_t)p->bound.source.k), s.k_row += p->bound.source.k_row, s.k_head += p->bound.source.k_head;
    s.v = (const void *)((uintptr_t)s.v + (uintptr_t)p->bound.source.v), s.v_row += p->bound.source.v_row, s.v_head += p->bound.source.v_head;
    s.k_grain += p->bound.source.k_grain, s.v_grain += p->bound.source.v_grain;
    return s;
}

DEVICE void cuda_run_of(const struct cuda_attention *p, const struct cuda_tile *tile, const struct cuda_job *job, const struct rondo_leaf *run,
                        struct cuda_run *out)
{
    const struct cuda_source source = cuda_source_of(p, p->sources + run->source);
    const int64_t head = job->kv_head + tile->kv_head;
    out->run = *run;
    out->leaves = rondo__run_leaves(run, p->leaf_size);
    out->row = run->row + cuda_base_of(p, tile->job, run->source);
    out->k = source.k;
    out->v = source.v;
    out->pages = source.pages;
    out->page_rows = source.page_rows;
    out->k_row = source.k_row;
    out->v_row = source.v_row;
    out->k_head = head * source.k_head;
    out->v_head = head * source.v_head;
    out->k_grain = source.k_grain;
    out->v_grain = source.v_grain;
}

DEVICE void cuda_leaf_of(const struct cuda_attention *p, const struct cuda_tile *tile, const struct cuda_run *run, int64_t i, struct cuda_leaf *out)
{
    int64_t row = run->row + (run->leaves > 1 ? i * p->leaf_size : 0);
    const struct rondo_leaf leaf = rondo__run_leaf(&run->run, run->leaves, i, p->leaf_size);
    int32_t first = 0, end = 0;
    if (run->pages)
        row = run->pages[row / run->page_rows] * run->page_rows + row % run->page_rows;
    for (int s = 0; s < tile->sights; s++) {
        const struct cuda_interval sight = p->sight[tile->sight + s];
        int32_t lo, hi;
        rondo__visible_in_leaf(&leaf, sight.lo, sight.hi, &lo, &hi);
        if (lo >= hi)
            continue;
        first = end ? first : lo;
        end = hi;
    }
    out->leaf = leaf;
    out->k_at = row * run->k_row + run->k_head;
    out->v_at = row * run->v_row + run->v_head;
    out->number = i;
    out->lo = first;
    out->hi = end;
}

/* The leaf at i, or the next one that is seen by somebody; number is the item's end where there is none. */
DEVICE void cuda_next_leaf(const struct cuda_attention *p, const struct cuda_item *item, const struct cuda_tile *tile, const struct cuda_run *run, int64_t i,
                           struct cuda_leaf *out)
{
    for (; i < item->end; i++) {
        const int64_t view = item->views < 0 ? CUDA_VIEW_ALL : p->views[item->views + (i - item->first)];
        if (view == CUDA_VIEW_NONE)
            continue;
        cuda_leaf_of(p, tile, run, i, out);
        out->view = view;
        if (out->hi)
            return;
    }
    out->number = item->end;
}

/* By all threads: behind the first barrier nobody reads the item before any more, and the first thread finds this one out. */
DEVICE void cuda_know(const struct cuda_attention *p, int64_t number, struct cuda_known *known)
{
    BARRIER();
    if (THREAD == 0) {
        known->item = p->items[number];
        known->tile = p->tiles[known->item.tile];
        known->job = p->jobs[known->tile.job];
        const struct rondo_leaf run = p->leaves[known->job.leaves_first + known->item.run];
        cuda_run_of(p, &known->tile, &known->job, &run, &known->run);
        cuda_next_leaf(p, &known->item, &known->tile, &known->run, known->item.first, &known->leaf[0]);
    }
    BARRIER();
}

/* By its last thread: the leaf behind leaf i, or behind all, becomes known as leaf[at]. */
DEVICE void cuda_know_next(const struct cuda_attention *p, struct cuda_known *known, int64_t i, int at)
{
    if (THREAD == CUDA_THREADS - 1)
        cuda_next_leaf(p, &known->item, &known->tile, &known->run, i + 1, known->leaf + at);
}

/* Whether scores are more than products with a scale; only a wide kernel is asked for these. */
DEVICE int cuda_terms(const struct cuda_attention *p, int wide)
{
    return wide && (p->terms.cap_in != 0.0f || p->terms.alibi || p->terms.bias || p->terms.drop);
}

#endif
