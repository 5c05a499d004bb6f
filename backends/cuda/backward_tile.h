/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Gradients of attention (rule 13 of rondo-numerics(7); backends/cpu/ref_backward.c is the definition). A block takes a leaf of one side and a head,
 * 64 of its positions at a time: these are its rows. The other side comes leaf by leaf: its columns, 128 at a time. Scores and
 * gradients of weights are the two products of attention_tile.h's form; what pairs give lies in shared memory, and its products with the columns'
 * own rows are added to the node of the leaf. Nodes lie in scratch, of which each thread reads and writes its own places only.
 */
#ifndef RONDO_CUDA_BACKWARD_TILE_H
#define RONDO_CUDA_BACKWARD_TILE_H

#include "backends/cuda/attention_tile.h"

/* What is known of a query, by row or by column of the tile. n NaN: it takes no part. */
struct cuda_back_query {
    int64_t p, lo, hi;
    float n, c, sums;
    int32_t in;                    /* number in its leaf's rows; -1: there is none */
};

struct cuda_back_memory {
    float *rows[2];                /* a chunk of the rows' side, [64][PITCH] */
    float *columns[2];             /* ... of the columns' side, [128][PITCH], or [32][128] of what is multiplied */
    float *pairs;                  /* [64][BACK_PITCH] */
    float *scores;                 /* the same, in place of the columns' chunks while nobody reads these */
    struct cuda_back_query *query; /* [128] */
};

typedef char cuda_back_scores_fit[CUDA_TILE * CUDA_BACK_PITCH <= 2 * CUDA_COLUMNS * CUDA_PITCH ? 1 : -1];

DEVICE struct cuda_back_memory cuda_back_memory_of(char *shared)
{
    struct cuda_back_memory m;
    m.rows[0] = (float *)(void *)shared;
    m.rows[1] = m.rows[0] + CUDA_TILE * CUDA_PITCH;
    m.columns[0] = m.rows[1] + CUDA_TILE * CUDA_PITCH;
    m.columns[1] = m.columns[0] + CUDA_COLUMNS * CUDA_PITCH;
    m.scores = m.columns[0];
    m.pairs = m.columns[1] + CUDA_COLUMNS * CUDA_PITCH;
    m.query = (struct cuda_back_query *)(void *)(m.pairs + CUDA_TILE * CUDA_BACK_PITCH);
    return m;
}

/* ---- numbers of a pair: also for the bias's gradient ---- */

DEVICE struct cuda_back_query cuda_back_query_of(const struct cuda_backward *p, const struct cuda_back_sight *sight, const struct cuda_back_leaf *q, int i,
                                                 int head)
{
    const struct cuda_back_source *from = p->queries + q->source;
    struct cuda_back_query out = { 0, 0, 0, 0.0f, 0.0f, 0.0f, -1 };
    if (i < 0 || i >= q->count)
        return out;
    const struct cuda_row row = p->rows[sight->rows + i];
    const int64_t at = (q->row + i) * p->heads + head;
    if (!rondo__backward_row(from->lse[at], &out.n, &out.c))
        return out;
    out.p = row.p;
    out.lo = row.lo;
    out.hi = row.hi;
    out.sums = from->sums[at];
    out.in = i;
    return out;
}

/* Whether the query sees the key, at `position`, number `key` of its leaf; view: of the two leaves. */
DEVICE int cuda_back_sees(const struct cuda_backward *p, const struct cuda_back_query *q, int64_t view, int64_t position, int key)
{
    if (q->in < 0 || position < q->lo || position >= q->hi || view == CUDA_VIEW_NONE)
        return 0;
    return view < 0 || (p->bits[(view + q->in) * 4 + key / 64] >> (key % 64) & 1);
}

struct cuda_back_pair {
    float value, ds, g;
};

/* s and dp: the two products. 0: the bias hides the key. */
DEVICE int cuda_back_pair_of(const struct cuda_backward *p, const struct cuda_back_job *job, int64_t bias_at, const struct cuda_back_query *q, int64_t position,
                             int head, float s, float dp, struct cuda_back_pair *out)
{
    float x = s * p->scale_log2, slope = 1.0f;
    int drops = 0;
    if (p->terms.cap_in != 0.0f) {
        const float tanh = rondo__tanh(s * p->terms.cap_in);
        x = tanh * p->terms.cap_out;
        slope = NUM_FMA(-tanh, tanh, 1.0f);
    }
    if (p->terms.alibi) {
        const uint64_t distance = position > q->p ? (uint64_t)position - (uint64_t)q->p : (uint64_t)q->p - (uint64_t)position;
        x = NUM_FMA(-(p->alibi[head] * RONDO_LOG2E_F), (float)distance, x);
    }
    if (p->terms.bias) {
        const float b = p->bias[bias_at + q->p * p->bias_row + head * p->bias_head + position];
        if (b == -__builtin_inff())
            return 0;
        x = NUM_FMA(b, RONDO_LOG2E_F, x);
    }
    const float weight = rondo__backward_weight(x, q->n, q->c);
    if (p->terms.drop) {
        const int64_t k = position & ~(int64_t)3;
        const uint32_t key[2] = { (uint32_t)p->seed, (uint32_t)(p->seed >> 32) };
        const uint32_t counter[4] = { (uint32_t)((uint64_t)k >> 2), (uint32_t)(uint64_t)q->p, rondo__drop_place(p->head + head, q->p, k),
                                      (uint32_t)job->sequence };
        uint32_t words[4];
        rondo__philox(words, counter, key);
        const int w = (int)(position & 3);
        drops = (w == 0 ? words[0] : w == 1 ? words[1] : w == 2 ? words[2] : words[3]) < p->terms.drop;
        dp = drops ? 0.0f : dp * p->terms.keep;
    }
    out->ds = weight * (dp - q->sums);
    out->value = drops ? 0.0f : weight;
    out->g = p->terms.cap_in != 0.0f ? out->ds * slope : out->ds;
    return 1;
}

/* ---- one tile of pairs ---- */

/* Both sides of a tile: where rows of a and b lie (a: q or k, b: the output's gradient or v). */
struct cuda_back_side {
    const void *a, *b;
    int64_t a_at, b_at, a_stride, b_stride;   /* elements; of the side's first row */
    int32_t a_type, b_type, a_grain, b_grain;
};

DEVICE struct cuda_back_side cuda_back_side_of(const struct cuda_backward *p, const struct cuda_back_leaf *leaf, int is_query, int head)
{
    const struct cuda_back_source *s = is_query ? p->queries + leaf->source : p->keys + leaf->source;
    const int heads = is_query ? p->heads : p->kv_heads;
    struct cuda_back_side side;
    side.a = s->a;
    side.b = s->b;
    side.a_at = (leaf->row * heads + head) * p->head_dim;
    side.b_at = (leaf->row * heads + head) * p->value_dim;
    side.a_stride = (int64_t)heads * p->head_dim;
    side.b_stride = (int64_t)heads * p->value_dim;
    side.a_type = is_query ? p->q_type : p->kv_type;
    side.b_type = is_query ? p->out_type : p->kv_type;
    side.a_grain = s->a_grain;
    side.b_grain = s->b_grain;
    return side;
}

/* Rows [row, row + rows) of one side and columns [column, column + columns) of the other; where the latter lie in the block of 128: from `at` on. */
struct cuda_back_block {
    int row, rows, column, columns, at;
};

DEVICE void cuda_back_stage(const struct cuda_back_memory *m, const struct cuda_back_side *r, const struct cuda_back_side *c, const struct cuda_back_block *k,
                            int second, int d, int dim, int parity)
{
    cuda_stage_typed(parity ? m->rows[1] : m->rows[0], CUDA_PITCH, CUDA_TILE, k->rows, second ? r->b : r->a,
                     second ? r->b_at + k->row * r->b_stride : r->a_at + k->row * r->a_stride, second ? r->b_stride : r->a_stride, d, CUDA_CHUNK, dim,
                     second ? r->b_type : r->a_type, second ? r->b_grain : r->a_grain);
    cuda_stage_typed((parity ? m->columns[1] : m->columns[0]) + k->at * CUDA_PITCH, CUDA_PITCH, CUDA_COLUMNS, k->columns, second ? c->b : c->a,
                     second ? c->b_at + k->column * c->b_stride : c->a_at + k->column * c->a_stride, second ? c->b_stride : c->a_stride, d, CUDA_CHUNK, dim,
                     second ? c->b_type : c->a_type, second ? c->b_grain : c->a_grain);
    COPY_CLOSE();
}

/* s: the chains of q and k, or (second) of the output's gradient and v. */
DEVICE void cuda_back_chains(const struct cuda_back_memory *m, const struct cuda_back_side *r, const struct cuda_back_side *c, const struct cuda_back_block *k,
                             int second, int dim, float s[8][8])
{
    const int lane = THREAD % 32, first = THREAD / 32 * 16 + lane / 16;
    int parity = 0;
    cuda_zero(s);
    BARRIER();                     /* nobody reads the chunks any more */
    cuda_back_stage(m, r, c, k, second, 0, dim, 0);
    ROLLED
    for (int d = 0; d < dim; d += CUDA_CHUNK, parity ^= 1) {
        COPY_WAIT(0);
        BARRIER();
        if (d + CUDA_CHUNK < dim)
            cuda_back_stage(m, r, c, k, second, d + CUDA_CHUNK, dim, parity ^ 1);
        cuda_chain(s, (parity ? m->rows[1] : m->rows[0]) + first * CUDA_PITCH, CUDA_PITCH, (parity ? m->columns[1] : m->columns[0]) + lane % 16 * CUDA_PITCH,
                   CUDA_PITCH, cuda_minimum(dim - d, CUDA_CHUNK));
    }
}

/* The thread's own 64 places among [64][BACK_PITCH] pairs. */
DEVICE void cuda_back_hold(float *pairs, const float s[8][8])
{
    float *const own = pairs + (THREAD / 32 * 16 + THREAD % 32 / 16) * CUDA_BACK_PITCH + THREAD % 16;
    UNROLL
    for (int i = 0; i < 8; i++) {
        UNROLL
        for (int j = 0; j < 8; j++)
            own[2 * i * CUDA_BACK_PITCH + 16 * j] = s[i][j];
    }
}
DEVICE void cuda_back_take(const float *pairs, float s[8][8])
{
    const float *const own = pairs + (THREAD / 32 * 16 + THREAD % 32 / 16) * CUDA_BACK_PITCH + THREAD % 16;
    UNROLL
    for (int i = 0; i < 8; i++) {
        UNROLL
        for (int j = 0; j < 8; j++)
            s[i][j] = own[2 * i * CUDA_BACK_PITCH + 16 * j];
    }
}

/* The thread's pairs: scores become what dV is made of, and gradients of weights what dQ and dK are. Whether some of the warp's pairs are unseen. Both lie in
 * shared memory, since this much for a pair is a loop, and registers have no number that varies. */
DEVICE int cuda_back_pairs(const struct cuda_backward *p, const struct cuda_back_memory *m, const struct cuda_back_job *job, const struct cuda_back_leaf *keys,
                           const struct cuda_back_block *k, int64_t view, int head, int row_is_query)
{
    const int lane = THREAD % 32, first = THREAD / 32 * 16 + lane / 16;
    const int64_t bias_at = p->terms.bias ? p->bias_at[job - p->jobs - p->first_job] : 0;
    float odd = 0.0f;
    ROLLED
    for (int i = 0; i < 8; i++) {
        const int r = first + 2 * i;
        UNROLL
        for (int j = 0; j < 8; j++) {
            const int column = lane % 16 + 16 * j, inside = column >= k->at && column < k->at + k->columns && r < k->rows;
            const int key = row_is_query ? k->column + column - k->at : k->row + r;
            const struct cuda_back_query *q = m->query + (row_is_query ? r : column);
            float *const score = m->scores + r * CUDA_BACK_PITCH + column, *const weight = m->pairs + r * CUDA_BACK_PITCH + column;
            struct cuda_back_pair pair = { 0.0f, 0.0f, 0.0f };
            const int seen = inside && cuda_back_sees(p, q, view, keys->first + key, key) &&
                             cuda_back_pair_of(p, job, bias_at, q, keys->first + key, head, *score, *weight, &pair);
            const int hidden = !seen && r < k->rows;     /* rows that are none do not slow the others */
            odd = hidden ? 1.0f : odd;
            *score = hidden ? rondo__float(CUDA_HIDDEN) : pair.value;
            *weight = hidden ? rondo__float(CUDA_HIDDEN) : pair.g;
        }
    }
    UNROLL
    for (int other = 1; other < 32; other *= 2)
        odd = odd + SHUFFLE_XOR(odd, other);
    return odd != 0.0f;
}

DEVICE float cuda_back_link(float w, float v, float acc, int odd)
{
    return odd && rondo__bits(w) == CUDA_HIDDEN ? acc : NUM_FMA(w, v, acc);
}

DEVICE void cuda_back_column(float acc[8][8], const float *pairs, int column, const float *v, int odd)
{
    UNROLL
    for (int h = 0; h < 2; h++) {
        const struct quad x = *(const struct quad *)(const void *)(v + 64 * h);
        UNROLL
        for (int i = 0; i < 8; i++) {
            const float w = pairs[2 * i * CUDA_BACK_PITCH + column];
            acc[i][4 * h] = cuda_back_link(w, x.a, acc[i][4 * h], odd);
            acc[i][4 * h + 1] = cuda_back_link(w, x.b, acc[i][4 * h + 1], odd);
            acc[i][4 * h + 2] = cuda_back_link(w, x.c, acc[i][4 * h + 2], odd);
            acc[i][4 * h + 3] = cuda_back_link(w, x.d, acc[i][4 * h + 3], odd);
        }
    }
}

/* Columns from `from` on, at most 32 of them, of what is multiplied: dimensions [d, d + 128). */
DEVICE void cuda_back_stage_product(const struct cuda_back_memory *m, const struct cuda_back_side *c, const struct cuda_back_block *k, int second, int d, int dim,
                                    int from, int parity)
{
    const int lo = cuda_maximum(from, k->at), count = cuda_minimum(from + CUDA_CHUNK, k->at + k->columns) - lo;
    const int64_t row = k->column + lo - k->at;
    if (count > 0)
        cuda_stage_typed((parity ? m->columns[1] : m->columns[0]) + (lo - from) * CUDA_COLUMNS, CUDA_COLUMNS, CUDA_CHUNK, count, second ? c->b : c->a,
                         second ? c->b_at + row * c->b_stride : c->a_at + row * c->a_stride, second ? c->b_stride : c->a_stride, d, CUDA_COLUMNS, dim,
                         second ? c->b_type : c->a_type, second ? c->b_grain : c->a_grain);
    COPY_CLOSE();
}

/* Node += pairs times the columns' rows, in the pairwise order of the columns. fresh: the node is 0 before. node: the thread's first float. */
DEVICE void cuda_back_product(const struct cuda_back_memory *m, const struct cuda_back_side *c, const struct cuda_back_block *k, int second, int dim, int odd,
                              int fresh, float *node)
{
    const int lane = THREAD % 32, first = THREAD / 32 * 16 + lane / 16, end = k->at + k->columns;
    const float *pairs = m->pairs + first * CUDA_BACK_PITCH;
    float acc[8][8];
    ROLLED
    for (int d = 0; d < dim; d += CUDA_COLUMNS, node += CUDA_TILE * CUDA_COLUMNS) {
        int parity = 0;
        UNROLL
        for (int i = 0; i < 8; i++) {
            UNROLL
            for (int j = 0; j < 8; j++)
                acc[i][j] = fresh ? 0.0f : node[(i * 8 + j) * CUDA_THREADS];
        }
        BARRIER();
        cuda_back_stage_product(m, c, k, second, d, dim, 0, 0);
        ROLLED
        for (int from = 0; from < end; from += CUDA_CHUNK, parity ^= 1) {
            const float *v = (parity ? m->columns[1] : m->columns[0]) + lane % 16 * 4;
            const int n = cuda_minimum(end - from, CUDA_CHUNK);
            COPY_WAIT(0);
            BARRIER();
            if (from + CUDA_CHUNK < end)
                cuda_back_stage_product(m, c, k, second, d, dim, from + CUDA_CHUNK, parity ^ 1);
            ROLLED
            for (int u = 0; u < n + (n & 1); u++) {
                const int column = u ^ 1;
                if (column >= n)
                    continue;
                if (odd)
                    cuda_back_column(acc, pairs, from + column, v + column * CUDA_COLUMNS, 1);
                else
                    cuda_back_column(acc, pairs, from + column, v + column * CUDA_COLUMNS, 0);
            }
        }
        UNROLL
        for (int i = 0; i < 8; i++) {
            UNROLL
            for (int j = 0; j < 8; j++)
                node[(i * 8 + j) * CUDA_THREADS] = acc[i][j];
        }
    }
}

/* ---- stacks of nodes, of which a thread has its own floats ---- */

/* Which nodes of a tree wait to be merged (rondo__leaves_merge()), for leaves that come in rising order: of each node and the one below it the highest bit in
 * which their leaves differ. These fall from the bottom to the top, and a merge leaves those below as they are, so one word has them all. */
struct cuda_back_waiting {
    uint64_t bits;
    int64_t last;                  /* leaf of the top */
    int depth;
};

/* Whether the top and the one below it merge before the leaf comes; then they have. */
DEVICE int cuda_back_merges(struct cuda_back_waiting *w, int64_t leaf)
{
    if (w->depth < 2 || ((uint64_t)w->last ^ (uint64_t)leaf) >> 1 < (w->bits & (0 - w->bits)))
        return 0;
    w->bits &= w->bits - 1;
    w->depth--;
    return 1;
}

DEVICE void cuda_back_wait(struct cuda_back_waiting *w, int64_t leaf)
{
    uint64_t apart = w->depth ? (uint64_t)w->last ^ (uint64_t)leaf : 0;
    UNROLL
    for (int n = 1; n < 64; n *= 2)
        apart |= apart >> n;
    w->bits = (w->depth ? w->bits : 0) | (apart ^ apart >> 1);
    w->last = leaf;
    w->depth++;
}

struct cuda_back_stack {
    float *at;                     /* the thread's first */
    int64_t level;                 /* floats from node to node, of all threads */
    struct cuda_back_waiting has;
};

/* The node at `depth` into the one below it. */
DEVICE void cuda_back_merge(const struct cuda_back_stack *s, int depth)
{
    float *left = s->at + (depth - 1) * s->level;
    const float *right = left + s->level;
    ROLLED
    for (int64_t i = 0; i < s->level; i += CUDA_THREADS)
        left[i] = left[i] + right[i];
}

/* Room for the node of a leaf behind all that there is. */
DEVICE float *cuda_back_next(struct cuda_back_stack *s, int64_t leaf)
{
    while (cuda_back_merges(&s->has, leaf))
        cuda_back_merge(s, s->has.depth);
    cuda_back_wait(&s->has, leaf);
    return s->at + (s->has.depth - 1) * s->level;
}

/* The root, or NULL where there is nothing; the stack is empty then. */
DEVICE const float *cuda_back_root(struct cuda_back_stack *s)
{
    const int any = s->has.depth > 0;
    for (; s->has.depth > 1; s->has.depth--)
        cuda_back_merge(s, s->has.depth - 1);
    s->has.depth = 0;
    return any ? s->at : (const float *)0;
}

/* ---- the kernel ---- */

/* Where a sum goes: the results of a side, or a node in its place. */
struct cuda_back_target {
    void *to;
    int64_t at, stride;            /* elements: of the leaf's first row */
    float factor;
    int32_t type, node, accumulate;
};

/* sum: the thread's first float, NULL: zeros. rows: of the tile, from `row` on of the leaf. */
DEVICE void cuda_back_put(const struct cuda_back_target *t, const float *sum, int row, int rows, int dim)
{
    const int lane = THREAD % 32, first = THREAD / 32 * 16 + lane / 16;
    ROLLED
    for (int i = 0; i < 8; i++) {
        const int r = first + 2 * i;
        ROLLED
        for (int j = 0; j < (dim + CUDA_COLUMNS - 1) / CUDA_COLUMNS * 8 && r < rows; j++) {
            const int d = j / 8 * CUDA_COLUMNS + lane % 16 * 4 + j % 8 / 4 * 64 + j % 4;
            const float x = sum ? sum[(j / 8 * 64 + i * 8 + j % 8) * CUDA_THREADS] : 0.0f;
            const int64_t at = t->at + (row + r) * t->stride + d;
            if (d >= dim)
                continue;
            if (t->node)
                ((float *)t->to)[at] = x;
            else
                rondo__backward_put(t->to, at, t->type, x, t->factor, t->accumulate);
        }
    }
}

/* Of an item's node in its place: rows, heads of a node, its number of them. What is summed is all there, so that it is full, if only of zeros. */
DEVICE void cuda_back_node_of(const struct cuda_backward *p, int64_t place, const struct cuda_back_leaf *leaf, int heads, int head, int values,
                              struct cuda_back_target *first, struct cuda_back_target *second)
{
    const struct cuda_back_place at = p->places[place];
    float *to = p->nodes[at.buffer] + at.at, *full = to + (int64_t)leaf->count * heads * (p->head_dim + values);
    first->to = to;
    first->at = (int64_t)head * leaf->count * p->head_dim;
    first->stride = p->head_dim;
    first->node = 1;
    second->to = to + (int64_t)leaf->count * heads * p->head_dim;
    second->at = (int64_t)head * leaf->count * values;
    second->stride = values;
    second->node = 1;
    if (THREAD == 0)
        full[head] = 1.0f;
}

/* One leaf of columns, onto the stack: of queries, number n of the job's, or of keys. */
DEVICE void cuda_back_leaf_pairs(const struct cuda_backward *p, const struct cuda_back_memory *m, const struct cuda_back_job *job,
                                 const struct cuda_back_leaf *rows, int row_number, int row, const struct cuda_back_leaf *columns, int number, int head,
                                 struct cuda_back_stack *stack, int row_is_query)
{
    const int query_number = row_is_query ? row_number : number, key_number = row_is_query ? number : row_number, group = p->heads / p->kv_heads;
    const struct cuda_back_leaf *q = row_is_query ? rows : columns, *keys = row_is_query ? columns : rows;
    const struct cuda_back_sight *sight = p->sights + job->sights + query_number;
    const int before = row_is_query ? 0 : (int)(q->first - job->base - q->leaf * p->leaf_size), end = before + columns->count;
    const int64_t mask_head = p->mask_heads > 1 ? head : 0;
    const int64_t view = job->views < 0 ? CUDA_VIEW_ALL : p->views[job->views + (mask_head * job->queries + query_number) * job->keys + key_number];
    if (sight->hi <= keys->first || sight->lo >= keys->first + keys->count || view == CUDA_VIEW_NONE)
        return;
    const struct cuda_back_side r = cuda_back_side_of(p, rows, row_is_query, row_is_query ? head : head / group);
    const struct cuda_back_side c = cuda_back_side_of(p, columns, !row_is_query, row_is_query ? head / group : head);
    float *node = cuda_back_next(stack, columns->leaf), *values = node + (p->head_dim + CUDA_COLUMNS - 1) / CUDA_COLUMNS * CUDA_TILE * CUDA_COLUMNS;
    int fresh = 1;
    ROLLED
    for (int c0 = before / CUDA_COLUMNS * CUDA_COLUMNS; c0 < end; c0 += CUDA_COLUMNS, fresh = 0) {
        struct cuda_back_block k;
        float s[8][8];
        k.row = row;
        k.rows = cuda_minimum(rows->count - row, CUDA_TILE);
        k.at = cuda_maximum(before - c0, 0);
        k.column = c0 + k.at - before;
        k.columns = cuda_minimum(end - c0, CUDA_COLUMNS) - k.at;
        BARRIER();                 /* nobody looks at the queries any more */
        if (row_is_query ? THREAD < CUDA_TILE : THREAD < CUDA_COLUMNS)
            m->query[THREAD] = cuda_back_query_of(p, sight, q, row_is_query ? row + THREAD : c0 + THREAD - before, head);
        cuda_back_chains(m, &r, &c, &k, 1, p->value_dim, s);
        cuda_back_hold(m->pairs, s);       /* of its rows no other warp reads any */
        cuda_back_chains(m, &r, &c, &k, 0, p->head_dim, s);
        BARRIER();                         /* nobody reads the chunks any more */
        cuda_back_hold(m->scores, s);
        const int odd = cuda_back_pairs(p, m, job, keys, &k, view, head, row_is_query);
        if (!row_is_query)
            cuda_back_take(m->scores, s);
        cuda_back_product(m, &c, &k, 0, p->head_dim, odd, fresh, node);
        if (row_is_query)
            continue;
        WARP_BARRIER();            /* the warp has read its rows */
        cuda_back_hold(m->pairs, s);
        cuda_back_product(m, &c, &k, 1, p->value_dim, odd, fresh, values);
    }
}

DEVICE void cuda_back_kernel(const struct cuda_backward *p, char *shared, int row_is_query)
{
    const struct cuda_back_memory m = cuda_back_memory_of(shared);
    const int blocks_a = (p->head_dim + CUDA_COLUMNS - 1) / CUDA_COLUMNS, blocks_b = row_is_query ? 0 : (p->value_dim + CUDA_COLUMNS - 1) / CUDA_COLUMNS;
    const int group = row_is_query ? 1 : p->heads / p->kv_heads, values = row_is_query ? 0 : p->value_dim;
    struct cuda_back_stack stack, heads;
    stack.level = heads.level = (int64_t)(blocks_a + blocks_b) * CUDA_TILE * CUDA_COLUMNS;
    stack.at = p->stack + BLOCK * p->stack_floats + THREAD;
    heads.at = stack.at;
    ROLLED
    for (int64_t number = p->first + BLOCK; number < p->first + p->count; number += BLOCKS) {
        const struct cuda_back_item item = p->items[number];
        const struct cuda_back_job *job = p->jobs + item.job;
        const struct cuda_back_leaf *rows = p->leaves + (row_is_query ? job->queries_first : job->keys_first) + item.leaf;
        const struct cuda_back_leaf *columns = p->leaves + (row_is_query ? job->keys_first : job->queries_first);
        const int count = row_is_query ? job->keys : job->queries;
        const int64_t places = row_is_query ? job->query_places : job->key_places;
        const int apart = row_is_query || (places >= 0 && !(job->what & CUDA_BACK_HEADS));
        const int64_t across = row_is_query ? p->all_heads : p->all_kv_heads, own = (row_is_query ? p->head : p->kv_head) + item.head;
        struct cuda_back_target a = { row_is_query ? p->dq : p->dk, (rows->row * across + own) * p->head_dim, across * p->head_dim, p->scale,
                                      row_is_query ? p->dq_type : p->dk_type, 0, p->accumulate };
        struct cuda_back_target b = { p->dv, (rows->row * across + own) * p->value_dim, across * p->value_dim, p->terms.keep, p->dv_type, 0, p->accumulate };
        ROLLED
        for (int row = 0; row < rows->count; row += CUDA_TILE) {
            const int tile = cuda_minimum(rows->count - row, CUDA_TILE);
            stack.has.depth = heads.has.depth = 0;
            ROLLED
            for (int g = 0; g < group; g++) {
                const int head = item.head * group + g;
                /* the stack of leaves lies behind that of heads */
                stack.at = p->stack + BLOCK * p->stack_floats + THREAD + (apart ? 0 : heads.has.depth + 1) * heads.level;
                ROLLED
                for (int n = 0; n < count; n++)
                    cuda_back_leaf_pairs(p, &m, job, rows, item.leaf, row, columns + n, n, head, &stack, row_is_query);
                const float *sum = cuda_back_root(&stack);
                if (apart) {
                    if (places >= 0)
                        cuda_back_node_of(p, places + item.leaf, rows, p->heads, head, values, &a, &b);
                    cuda_back_put(&a, sum, row, tile, p->head_dim);
                    if (!row_is_query)
                        cuda_back_put(&b, sum ? sum + (int64_t)blocks_a * CUDA_TILE * CUDA_COLUMNS : sum, row, tile, p->value_dim);
                    continue;
                }
                float *node = cuda_back_next(&heads, g);
                ROLLED
                for (int64_t i = 0; i < heads.level; i += CUDA_THREADS)
                    node[i] = sum ? sum[i] : 0.0f;
            }
            if (apart)
                continue;
            const float *sum = cuda_back_root(&heads);
            if (places >= 0)
                cuda_back_node_of(p, places + item.leaf, rows, p->kv_heads, item.head, values, &a, &b);
            cuda_back_put(&a, sum, row, tile, p->head_dim);
            cuda_back_put(&b, sum + (int64_t)blocks_a * CUDA_TILE * CUDA_COLUMNS, row, tile, p->value_dim);
        }
    }
}

#endif
