/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Nodes over leaves for tiles of one to eight rows, as decoding has them: what takes time is reading K and V, once for all the query heads that
 * share them. A block is one warp, which has a leaf at a time and waits for nobody; many of them are at work, so that memory always has something to
 * bring. K and V come through shared memory as they are stored, in stages of CUDA_THIN_STAGE bytes, the next on its way while one is computed with: of
 * keys a part of each, of which a thread has CUDA_THIN_KEYS; of values whole rows, of which a thread has CUDA_THIN_DIMS neighbours. Each number that is
 * read from there is used for several rows, keys or dimensions: what else a card has to do besides multiplying is what made it wait before. Leaves that
 * all rows see as a whole, the usual case, have code of their own.
 */
#ifndef RONDO_CUDA_ATTENTION_THIN_H
#define RONDO_CUDA_ATTENTION_THIN_H

#include "backends/cuda/attention_tile.h"

#define CUDA_THIN_BLOCK (CUDA_THIN_STAGE >> CUDA_THIN_KEY)      /* keys of a stage of K */
#define CUDA_THIN_KEYS (CUDA_THIN_BLOCK / CUDA_THIN_THREADS)
#define CUDA_THIN_DIMS (CUDA_COLUMNS / CUDA_THIN_THREADS)
#define CUDA_THIN_MOST (CUDA_THIN_KEYS > CUDA_THIN_DIMS ? CUDA_THIN_KEYS : CUDA_THIN_DIMS)

struct cuda_thin_memory {
    char *stage;                   /* [2][CUDA_THIN_STAGE] */
    float *q;                      /* [head_dim][R] */
    float *weights;                /* [leaf_size][R] */
    float *k_scale, *v_scale;      /* [leaf_size], of Q8 */
    float *l;                      /* [8] */
    struct cuda_row *row;          /* [8] */
    struct cuda_interval *sight;   /* the tile's first */
    struct cuda_source *source;
    struct cuda_known *known;
};

DEVICE struct cuda_thin_memory cuda_thin_memory_of(const struct cuda_attention *p, char *shared, int R)
{
    struct cuda_thin_memory m;
    m.stage = shared;
    m.q = (float *)(void *)(shared + 2 * CUDA_THIN_STAGE);
    m.weights = m.q + (p->head_dim + 3) / 4 * 4 * R;
    m.row = (struct cuda_row *)(void *)(m.weights + (p->leaf_size + 3) / 4 * 4 * R);
    m.known = (struct cuda_known *)(void *)(m.row + CUDA_THIN);
    m.source = (struct cuda_source *)(void *)((char *)m.known + CUDA_KNOWN);
    m.sight = (struct cuda_interval *)(void *)(m.source + 1);
    m.l = (float *)(void *)(m.sight + 1);
    m.k_scale = m.l + CUDA_THIN;
    m.v_scale = m.k_scale + p->leaf_size;
    return m;
}

/* ---- what is known of an item ---- */

/* As cuda_leaf_of(), whose common case waits for no memory here. */
DEVICE void cuda_thin_leaf(const struct cuda_attention *p, const struct cuda_thin_memory *m, int64_t i, struct cuda_leaf *out)
{
    const struct cuda_run *run = &m->known->run;
    const struct cuda_tile *tile = &m->known->tile;
    int64_t row = run->row + (run->leaves > 1 ? i * p->leaf_size : 0);
    const struct rondo_leaf leaf = rondo__run_leaf(&run->run, run->leaves, i, p->leaf_size);
    int32_t first = 0, end = 0;
    if (run->pages) {
        if (((row | run->page_rows) >> 32) == 0) {     /* a division of 32 bits, as of all that is no giant */
            const uint32_t page = (uint32_t)row / (uint32_t)run->page_rows;
            row = run->pages[page] * run->page_rows + ((uint32_t)row - page * (uint32_t)run->page_rows);
        } else {
            row = run->pages[row / run->page_rows] * run->page_rows + row % run->page_rows;
        }
    }
    ROLLED
    for (int s = 0; s < tile->sights; s++) {
        const struct cuda_interval *sight = s ? p->sight + tile->sight + s : m->sight;
        int32_t lo, hi;
        rondo__visible_in_leaf(&leaf, sight->lo, sight->hi, &lo, &hi);
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
DEVICE void cuda_thin_next(const struct cuda_attention *p, const struct cuda_thin_memory *m, int64_t i, struct cuda_leaf *out)
{
    const struct cuda_item *item = &m->known->item;
    ROLLED
    for (; i < item->end; i++) {
        const int64_t view = item->views < 0 ? CUDA_VIEW_ALL : p->views[item->views + (i - item->first)];
        if (view == CUDA_VIEW_NONE)
            continue;
        cuda_thin_leaf(p, m, i, out);
        out->view = view;
        if (out->hi)
            return;
    }
    out->number = item->end;
}

/* What an item names is read at once, some words by each thread, with what its job and source are bound to: one wait for memory behind that for the item.
 * The result: where the job's first query lies. */
DEVICE int64_t cuda_thin_know(const struct cuda_attention *p, int64_t number, const struct cuda_thin_memory *m)
{
    enum { TILE = sizeof(struct cuda_tile) / 4, JOB = TILE + sizeof(struct cuda_job) / 4, RUN = JOB + sizeof(struct rondo_leaf) / 4,
           SIGHT = RUN + sizeof(struct cuda_source) / 4, ALL = SIGHT + sizeof(struct cuda_interval) / 4,
           WORDS = (ALL + CUDA_THIN_THREADS - 1) / CUDA_THIN_THREADS };
    struct cuda_known *known = m->known;
    const struct cuda_item *item = p->items + number;
    uint32_t word[WORDS];
    if (THREAD == CUDA_THIN_THREADS - 1)
        known->item = *item;
    const int64_t base = cuda_base_of(p, item->job, item->source), q = cuda_bind_of(p, item->job).q;
    UNROLL
    for (int n = 0; n < WORDS; n++) {
        const int i = THREAD + n * CUDA_THIN_THREADS;
        const char *from = i < TILE    ? (const char *)(p->tiles + item->tile) + 4 * i
                           : i < JOB   ? (const char *)(p->jobs + item->job) + 4 * (i - TILE)
                           : i < RUN   ? (const char *)(p->leaves + item->leaf) + 4 * (i - JOB)
                           : i < SIGHT ? (const char *)p->sources + (p->binds ? item->source * (int64_t)sizeof(struct cuda_source) + 4 * (i - RUN) : 0)
                                       : (const char *)(p->sight + item->sight) + 4 * (i - SIGHT);
        if (i < (item->sight < 0 ? SIGHT : ALL) && (p->binds || i < RUN || i >= SIGHT))
            memcpy(word + n, __builtin_assume_aligned(from, 4), 4);      /* but not what came with the launch */
    }
    UNROLL
    for (int n = 0; n < WORDS; n++) {
        const int i = THREAD + n * CUDA_THIN_THREADS;
        char *to = i < TILE    ? (char *)&known->tile + 4 * i
                   : i < JOB   ? (char *)&known->job + 4 * (i - TILE)
                   : i < RUN   ? (char *)&known->run.run + 4 * (i - JOB)
                   : i < SIGHT ? (char *)m->source + 4 * (i - RUN)
                               : (char *)m->sight + 4 * (i - SIGHT);
        if (i < (item->sight < 0 ? SIGHT : ALL))
            memcpy(__builtin_assume_aligned(to, 4), word + n, 4);
    }
    WARP_BARRIER();
    if (THREAD == 0) {
        struct cuda_run *run = &known->run;
        const int64_t head = known->job.kv_head + known->tile.kv_head;
        const struct cuda_source source = cuda_source_of(p, m->source);
        run->leaves = rondo__run_leaves(&run->run, p->leaf_size);
        run->row = run->run.row + base;
        run->k = source.k;
        run->v = source.v;
        run->pages = source.pages;
        run->page_rows = source.page_rows;
        run->k_row = source.k_row;
        run->v_row = source.v_row;
        run->k_head = head * source.k_head;
        run->v_head = head * source.v_head;
        run->k_grain = source.k_grain;
        run->v_grain = source.v_grain;
        cuda_thin_next(p, m, item->first, &known->leaf[0]);
    }
    WARP_BARRIER();
    return q;
}

/* The tile's queries, as [head_dim][R], and rows. */
DEVICE void cuda_thin_queries(const struct cuda_attention *p, int64_t q, const struct cuda_thin_memory *m, int R)
{
    const struct cuda_tile *tile = &m->known->tile;
    const int group = m->known->job.group, first = (int)tile->first;      /* a job's rows are eight at most */
    int token = first / group, head = first - token * group;
    UNROLL
    for (int r = 0; r < CUDA_THIN; r++) {
        if (r >= R)
            continue;
        const int64_t at = q + token * p->q_row + (tile->kv_head * group + head) * p->q_head;
        if (THREAD == r && r < tile->rows)
            m->row[r] = p->rows[m->known->job.rows + token];
        ROLLED
        for (int d = THREAD; d < p->head_dim; d += CUDA_THIN_THREADS)
            m->q[d * R + r] = r < tile->rows ? rondo__element(p->q, at + d, p->q_type) : 0.0f;
        token += head + 1 == group;
        head = head + 1 == group ? 0 : head + 1;
    }
}

/* ---- stages ---- */

/* Where byte b of a key's part lies in a stage of K: so that eight neighbours' pieces of 16 bytes meet in no bank. */
DEVICE int cuda_thin_twist(int key) { return (CUDA_THIN_KEY == 7 ? key << 4 : key << 3) & ((1 << CUDA_THIN_KEY) - 16); }
DEVICE int cuda_thin_at(int key, int b) { return (key << CUDA_THIN_KEY) + (b ^ cuda_thin_twist(key)); }

/* To rows [first, first + rows) of a stage, of 1 << bits bytes each, from `from` on, `stride` bytes apart; a row has `end` bytes there. */
DEVICE void cuda_thin_copy(char *to, int bits, int twisted, int first, int rows, const char *from, int64_t stride, int end, int grain)
{
    if (grain == 16) {
        const int step = CUDA_THIN_THREADS >> (bits - 4), b = (THREAD << 4) & ((1 << bits) - 1);
        int row = THREAD >> (bits - 4);
        if (b >= end)
            return;
        from += row * stride + b;
        to += (first + row) << bits;
        const shared_at even = SHARED_AT(to + (twisted ? b ^ cuda_thin_twist(first + row) : b));      /* two steps leave the twist as it is */
        const shared_at odd = SHARED_AT(to + (twisted ? b ^ cuda_thin_twist(first + row + step) : b));
        stride *= step;
        if (rows == CUDA_THIN_STAGE >> bits) {
            UNROLL
            for (int n = 0; n < CUDA_THIN_STAGE / 16 / CUDA_THIN_THREADS; n++, from += stride)
                COPY16_AT(n % 2 ? odd : even, n * 16 * CUDA_THIN_THREADS, from, 1);
            return;
        }
        ROLLED
        for (int n = 0; row < rows; n++, row += step, from += stride)
            COPY16_AT(n % 2 ? odd : even, n * 16 * CUDA_THIN_THREADS, from, 1);
        return;
    }
    ROLLED
    for (int i = THREAD * grain; i < rows << bits; i += CUDA_THIN_THREADS * grain) {
        const int row = i >> bits, b = i & ((1 << bits) - 1), at = ((first + row) << bits) + (twisted ? b ^ cuda_thin_twist(first + row) : b);
        if (b >= end)
            continue;
        if (grain == 4)
            COPY4(to + at, from + row * stride + b, 1);
        else
            to[at] = from[row * stride + b];
    }
}

/* A Q8 row's scale lies behind its numbers. */
DEVICE void cuda_thin_scales(float *to, const void *rows, int64_t at, int64_t stride, int dim, int count)
{
    ROLLED
    for (int i = THREAD; i < count; i += CUDA_THIN_THREADS)
        memcpy(to + i, (const char *)rows + at + i * stride + dim, sizeof *to);
}

/* Keys of a stage of V, whose rows have 128 numbers of 1 << shift bytes. */
DEVICE int cuda_thin_step(int shift) { return CUDA_THIN_STAGE / CUDA_COLUMNS >> shift; }
DEVICE int cuda_thin_shift(int type) { return type == RONDO_F32 ? 2 : type == RONDO_Q8 ? 0 : 1; }

/* A stage of a leaf: of keys from `key` on K's bytes, or V's dimensions, from d on. */
struct cuda_thin_stage {
    int v, key, d;
};

/* The next one: K by blocks of keys, then V by blocks of dimensions. 0: there is none, and the leaf is over. */
DEVICE int cuda_thin_advance(const struct cuda_attention *p, int count, struct cuda_thin_stage *s)
{
    const int shift = cuda_thin_shift(p->kv_type);
    if (!s->v) {
        s->d += 1 << CUDA_THIN_KEY;
        if (s->d < p->head_dim << shift)
            return 1;
        s->d = 0;
        s->key += CUDA_THIN_BLOCK;
        if (s->key >= count)
            s->v = 1, s->key = 0;
        return 1;
    }
    s->key += cuda_thin_step(shift);
    if (s->key < count)
        return 1;
    s->key = 0;
    s->d += CUDA_COLUMNS;
    return s->d < p->value_dim;
}

DEVICE void cuda_thin_fetch(const struct cuda_attention *p, const struct cuda_thin_memory *m, const struct cuda_leaf *f, const struct cuda_thin_stage *s,
                            int parity)
{
    const struct cuda_run *run = &m->known->run;
    const int shift = cuda_thin_shift(p->kv_type), v = s->v, dim = v ? p->value_dim : p->head_dim, b = v ? s->d << shift : s->d;
    const int lo = cuda_maximum(s->key, f->lo), rows = cuda_minimum(f->hi, s->key + (v ? cuda_thin_step(shift) : CUDA_THIN_BLOCK)) - lo;
    const int64_t stride = v ? run->v_row : run->k_row, at = ((v ? f->v_at : f->k_at) + lo * stride) << shift;
    const char *from = (const char *)(v ? run->v : run->k) + at;
    cuda_thin_copy(m->stage + parity * CUDA_THIN_STAGE, v ? 7 + shift : CUDA_THIN_KEY, !v, lo - s->key, rows, from + b, stride << shift, (dim << shift) - b,
                   v ? run->v_grain : run->k_grain);
    if (p->kv_type == RONDO_Q8 && s->d == 0)
        cuda_thin_scales((v ? m->v_scale : m->k_scale) + lo, from, 0, stride, dim, rows);
    COPY_CLOSE();
}

/* ---- chains ---- */

/* Four links of the chain of each row and each of n columns (keys, or dimensions): those of a, [4][R], with x[column][4], in the order of rule C2. */
DEVICE void cuda_thin_links(float (*s)[CUDA_THIN], const float *a, float (*x)[4], int n, int R, int odd)
{
    float b[4 * CUDA_THIN];
    UNROLL
    for (int i = 0; i < 4 * CUDA_THIN; i += 4)
        if (i < 4 * R) {
            const struct quad q = *(const struct quad *)(const void *)(a + i);
            b[i] = q.a, b[i + 1] = q.b, b[i + 2] = q.c, b[i + 3] = q.d;
        }
    UNROLL
    for (int i = 0; i < 4; i++) {
        UNROLL
        for (int c = 0; c < CUDA_THIN_MOST; c++) {
            UNROLL
            for (int r = 0; r < CUDA_THIN; r++)
                if (c < n && r < R)
                    s[c][r] = cuda_value(b[(i ^ 1) * R + r], x[c][i ^ 1], s[c][r], odd);
        }
    }
}

/* Scores go on over n numbers of each key, with those of q, [n][R]. stage: with the thread's first key in its first row. */
DEVICE void cuda_thin_keys(float (*s)[CUDA_THIN], const float *q, const char *stage, int n, int type, const float *scale, int R)
{
    const int size = cuda_size(type), twist = cuda_thin_twist(THREAD);
    int k = 0;
    ROLLED
    for (; k + 16 / size <= n; k += 16 / size) {
        uint32_t w[CUDA_THIN_KEYS][4];
        UNROLL
        for (int j = 0; j < CUDA_THIN_KEYS; j++) {
            const struct quad raw = *(const struct quad *)(const void *)(stage + (j * CUDA_THIN_THREADS << CUDA_THIN_KEY) + ((k * size) ^ twist));
            memcpy(w[j], &raw, sizeof w[j]);
        }
        UNROLL
        for (int u = 0; u < 4 / size; u++) {
            float x[CUDA_THIN_MOST][4];
            UNROLL
            for (int j = 0; j < CUDA_THIN_KEYS; j++) {
                UNROLL
                for (int i = 0; i < 4; i++)
                    x[j][i] = size == 4   ? rondo__float(w[j][i])
                              : size == 1 ? (float)(int8_t)(w[j][u] >> 8 * i) * scale[j]
                              : i % 2     ? cuda_high(w[j][(2 * u + i / 2) & 3], type)
                                          : cuda_low(w[j][(2 * u + i / 2) & 3], type);
            }
            cuda_thin_links(s, q + (k + 4 * u) * R, x, CUDA_THIN_KEYS, R, 0);
        }
    }
    ROLLED
    for (const int end = n + (n & 1); k < end; k++) {
        const int c = k ^ 1;
        if (c >= n)
            continue;
        UNROLL
        for (int j = 0; j < CUDA_THIN_KEYS; j++) {
            const char *at = stage + (j * CUDA_THIN_THREADS << CUDA_THIN_KEY) + ((c * size) ^ twist);
            const float x = type == RONDO_Q8 ? (float)*(const int8_t *)at * scale[j] : rondo__element(at, 0, type);
            UNROLL
            for (int r = 0; r < CUDA_THIN; r++)
                if (r < R)
                    s[j][r] = NUM_FMA(q[c * R + r], x, s[j][r]);
        }
    }
}

/* The thread's dimensions of one key, which lie at v. */
DEVICE void cuda_thin_numbers(float *x, const char *v, float scale, int type)
{
    uint32_t w[4] = { 0 };
    const int bytes = CUDA_THIN_DIMS * cuda_size(type);
    if (bytes == 16) {
        const struct quad q = *(const struct quad *)(const void *)v;
        memcpy(w, &q, sizeof q);
    } else if (bytes == 8) {
        memcpy(w, __builtin_assume_aligned(v, 8), 8);
    } else if (bytes == 4) {
        memcpy(w, __builtin_assume_aligned(v, 4), 4);
    } else {
        memcpy(w, __builtin_assume_aligned(v, 2), 2);
    }
    UNROLL
    for (int e = 0; e < CUDA_THIN_DIMS; e++)
        x[e] = type == RONDO_F32  ? rondo__float(w[e])
               : type == RONDO_Q8 ? (float)(int8_t)(w[0] >> 8 * e) * scale
               : e % 2            ? cuda_high(w[e / 2], type)
                                  : cuda_low(w[e / 2], type);
}

/* The keys of a stage; v: with the thread's first dimension first; own: the row whose sum is the thread's. */
DEVICE void cuda_thin_values(float (*acc)[CUDA_THIN], float *l, const float *w, const float *own, const char *v, const float *scale, int n, int type, int R,
                             int odd)
{
    const int pitch = CUDA_COLUMNS * cuda_size(type);
    int k = 0;
    ROLLED
    for (; k + 8 <= n; k += 8) {
        UNROLL
        for (int u = 0; u < 2; u++) {
            float x[CUDA_THIN_MOST][4], o[4];
            UNROLL
            for (int i = 0; i < 4; i++) {
                float y[CUDA_THIN_DIMS];
                cuda_thin_numbers(y, v + (k + 4 * u + i) * pitch, type == RONDO_Q8 ? scale[k + 4 * u + i] : 1.0f, type);
                UNROLL
                for (int e = 0; e < CUDA_THIN_DIMS; e++)
                    x[e][i] = y[e];
                o[i] = own[(k + 4 * u + i) * R];
            }
            cuda_thin_links(acc, w + (k + 4 * u) * R, x, CUDA_THIN_DIMS, R, odd);
            UNROLL
            for (int i = 0; i < 4; i++)
                *l = odd ? cuda_sum(*l, o[i ^ 1]) : *l + o[i ^ 1];
        }
    }
    ROLLED
    for (const int end = n + (n & 1); k < end; k++) {
        const int key = k ^ 1;
        float y[CUDA_THIN_DIMS];
        if (key >= n)
            continue;
        cuda_thin_numbers(y, v + key * pitch, type == RONDO_Q8 ? scale[key] : 1.0f, type);
        UNROLL
        for (int e = 0; e < CUDA_THIN_DIMS; e++) {
            UNROLL
            for (int r = 0; r < CUDA_THIN; r++)
                if (r < R)
                    acc[e][r] = cuda_value(w[key * R + r], y[e], acc[e][r], 1);
        }
        *l = cuda_sum(*l, own[key * R]);
    }
}

DEVICE void cuda_thin_values_typed(float (*acc)[CUDA_THIN], float *l, const float *w, const float *own, const char *v, const float *scale, int n, int type,
                                   int R, int odd)
{
    if (odd)
        cuda_thin_values(acc, l, w, own, v, scale, n, type, R, 1);
    else
        cuda_thin_values(acc, l, w, own, v, scale, n, type, R, 0);
}

/* ---- weights ---- */

/* Scores of the thread's keys become x, in shared memory; M grows. whole: all rows see all keys. */
DEVICE void cuda_thin_scores(const struct cuda_attention *p, const struct cuda_bind *bind, const struct cuda_thin_memory *m, const struct cuda_leaf *f, int key0,
                             float (*s)[CUDA_THIN], float *M, int whole, int R, int terms)
{
    const struct cuda_tile *tile = &m->known->tile;
    const struct cuda_job *job = &m->known->job;
    UNROLL
    for (int j = 0; j < CUDA_THIN_KEYS; j++) {
        const int key = key0 + THREAD + j * CUDA_THIN_THREADS;
        const int64_t position = f->leaf.first + (int64_t)key * f->leaf.step;
        if (key >= f->leaf.count)
            continue;
        UNROLL
        for (int r = 0; r < CUDA_THIN; r++) {
            if (r >= R)
                continue;
            float x = s[j][r] * p->scale_log2;
            int seen = 1;
            if ((terms || !whole) && r < tile->rows) {
                seen = position >= m->row[r].lo && position < m->row[r].hi;
                if (seen && f->view >= 0)
                    seen = (int)(p->bits[(f->view + r) * 4 + key / 64] >> (key % 64) & 1);
                if (terms && seen) {
                    const int hq = tile->kv_head * job->group + ((int)tile->first + r) % job->group;
                    seen = cuda_score(p, bind, s[j][r], m->row[r].p, position, p->head + job->head + hq, hq, &x);
                }
            }
            const float n = cuda_rint(x);       /* no zero with a sign, so that the larger of two is one number */
            if (seen)
                M[r] = NUM_MAX(M[r], n);
            s[j][r] = seen ? x : rondo__float(CUDA_HIDDEN);
        }
        UNROLL
        for (int r = 0; r < CUDA_THIN; r++)
            if (r < R)
                m->weights[key * R + r] = s[j][r];
    }
}

/* The largest of each row, in all threads. */
DEVICE void cuda_thin_most(float *M, int R)
{
    UNROLL
    for (int other = 1; other < CUDA_THIN_THREADS; other *= 2) {
        UNROLL
        for (int r = 0; r < CUDA_THIN; r++)
            if (r < R)
                M[r] = NUM_MAX(M[r], SHUFFLE_XOR(M[r], other));
    }
}

/* Each thread's own keys. */
DEVICE void cuda_thin_weights(const struct cuda_attention *p, const struct cuda_thin_memory *m, const struct rondo_leaf *leaf, const float *M, int R, int terms)
{
    const struct cuda_tile *tile = &m->known->tile;
    const struct cuda_job *job = &m->known->job;
    ROLLED
    for (int key = THREAD; key < leaf->count; key += CUDA_THIN_THREADS) {
        float w[CUDA_THIN];
        UNROLL
        for (int r = 0; r < CUDA_THIN; r++)
            if (r < R)
                w[r] = m->weights[key * R + r];
        UNROLL
        for (int r = 0; r < CUDA_THIN; r++) {
            if (r >= R)
                continue;
            const float x = w[r], n = cuda_rint(x);
            w[r] = cuda_weight(x - n, n - M[r]);
            if (rondo__bits(x) == CUDA_HIDDEN)
                w[r] = CUDA_UNSEEN;
            else if (terms && r < tile->rows &&
                     cuda_dropped(p, job->sequence, p->head + job->head + tile->kv_head * job->group + ((int)tile->first + r) % job->group, m->row[r].p,
                                  leaf->first + (int64_t)key * leaf->step))
                w[r] = cuda_drop(w[r]);
        }
        UNROLL
        for (int r = 0; r < CUDA_THIN; r++)
            if (r < R)
                m->weights[key * R + r] = w[r];
    }
}

/* ---- nodes ---- */

/* As cuda_node(): the thread has dimensions from d on of all rows, which lie side by side in the stack, as [R][CUDA_COLUMNS] for each block of
 * dimensions; to: where the stack has the node. Or it is the item's, and goes where the second kernel looks for it. */
DEVICE void cuda_thin_node(const struct cuda_attention *p, float (*acc)[CUDA_THIN], const float *leaf_M, const float *leaf_l, int d0, int top, int merges,
                           const float *stack, float *to, int is_last, int rows, int R)
{
    const int dim = p->value_dim, d = d0 + THREAD * CUDA_THIN_DIMS, at = d0 * R + THREAD * CUDA_THIN_DIMS, sums = cuda_chunks(dim, CUDA_COLUMNS) * CUDA_COLUMNS * R;
    const int64_t level = cuda_thin_level(dim, R);
    float M[CUDA_THIN], l[CUDA_THIN];
    UNROLL
    for (int r = 0; r < CUDA_THIN; r++)
        if (r < R) {
            l[r] = leaf_l[r];
            M[r] = l[r] != l[r] ? FLT_MAX : leaf_M[r];
        }
    ROLLED
    for (int n = 1; n <= merges; n++) {
        const float *from = stack + (top - n) * level;
        struct quad x[CUDA_THIN];
        float below_M[CUDA_THIN], below_l[CUDA_THIN];
        UNROLL
        for (int r = 0; r < CUDA_THIN; r++) {
            if (r >= R)
                continue;
            below_M[r] = from[sums + r];
            below_l[r] = from[sums + R + r];
            x[r] = *(const struct quad *)(const void *)(from + at + r * CUDA_COLUMNS);
        }
        UNROLL
        for (int r = 0; r < CUDA_THIN; r++) {
            float left, right;
            if (r >= R)
                continue;
            cuda_merge(below_M[r], below_l[r], &M[r], &l[r], &left, &right);
            acc[0][r] = NUM_FMA(x[r].a, left, acc[0][r] * right);
            acc[1][r] = NUM_FMA(x[r].b, left, acc[1][r] * right);
            acc[2][r] = NUM_FMA(x[r].c, left, acc[2][r] * right);
            acc[3][r] = NUM_FMA(x[r].d, left, acc[3][r] * right);
        }
    }
    UNROLL
    for (int r = 0; r < CUDA_THIN; r++) {
        const struct quad x = { acc[0][r], acc[1][r], acc[2][r], acc[3][r] };
        if (r < R && !is_last)
            *(struct quad *)(void *)(to + at + r * CUDA_COLUMNS) = x;
        UNROLL
        for (int e = 0; e < CUDA_THIN_DIMS; e++)
            if (r < R && is_last && r < rows && d + e < dim)
                to[r * dim + d + e] = acc[e][r];
    }
    if (d0 + CUDA_COLUMNS < dim)
        return;
    WARP_BARRIER();                  /* the M and l there have been read by all */
    to += is_last ? R * dim : sums;
    UNROLL
    for (int r = 0; r < CUDA_THIN; r++)
        if (r < R && r < rows && THREAD == r) {
            to[r] = M[r];
            to[R + r] = l[r];
        }
    WARP_BARRIER();                  /* and are seen by all */
}
typedef char cuda_thin_has_quads[CUDA_THIN_DIMS == 4 ? 1 : -1];

DEVICE void cuda_thin_zero(float (*s)[CUDA_THIN])
{
    UNROLL
    for (int c = 0; c < CUDA_THIN_MOST; c++) {
        UNROLL
        for (int r = 0; r < CUDA_THIN; r++)
            s[c][r] = 0.0f;
    }
}

/* ---- the kernel ---- */

/* A block of keys: their scores go on over a stage. */
DEVICE void cuda_thin_stage_keys(const struct cuda_attention *p, const struct cuda_thin_memory *m, const struct cuda_thin_stage *at, int count, int parity,
                                 float (*s)[CUDA_THIN], int R)
{
    const int shift = cuda_thin_shift(p->kv_type), n = cuda_minimum((p->head_dim << shift) - at->d, 1 << CUDA_THIN_KEY) >> shift;
    const char *stage = m->stage + parity * CUDA_THIN_STAGE + (THREAD << CUDA_THIN_KEY);
    const float *q = m->q + (at->d >> shift) * R;
    float scale[CUDA_THIN_KEYS] = { 0.0f };
    if (p->kv_type == RONDO_F32) {
        cuda_thin_keys(s, q, stage, n, RONDO_F32, scale, R);
    } else if (p->kv_type == RONDO_BF16) {
        cuda_thin_keys(s, q, stage, n, RONDO_BF16, scale, R);
    } else if (p->kv_type == RONDO_F16) {
        cuda_thin_keys(s, q, stage, n, RONDO_F16, scale, R);
    } else {
        UNROLL
        for (int j = 0; j < CUDA_THIN_KEYS; j++)
            scale[j] = at->key + THREAD + j * CUDA_THIN_THREADS < count ? m->k_scale[at->key + THREAD + j * CUDA_THIN_THREADS] : 0.0f;
        cuda_thin_keys(s, q, stage, n, RONDO_Q8, scale, R);
    }
}

/* Keys of a stage of V, of which row `THREAD % R`'s weights are the thread's to add. */
DEVICE void cuda_thin_stage_values(const struct cuda_attention *p, const struct cuda_thin_memory *m, const struct cuda_thin_stage *at, int count, int parity,
                                   float (*s)[CUDA_THIN], float *l, int R, int odd)
{
    const int shift = cuda_thin_shift(p->kv_type), n = cuda_minimum(count - at->key, cuda_thin_step(shift));
    const float *w = m->weights + at->key * R, *own = w + THREAD % R, *scale = m->v_scale + at->key;
    const char *v = m->stage + parity * CUDA_THIN_STAGE + (THREAD * CUDA_THIN_DIMS << shift);
    if (p->kv_type == RONDO_F32)
        cuda_thin_values_typed(s, l, w, own, v, scale, n, RONDO_F32, R, odd);
    else if (p->kv_type == RONDO_BF16)
        cuda_thin_values_typed(s, l, w, own, v, scale, n, RONDO_BF16, R, odd);
    else if (p->kv_type == RONDO_F16)
        cuda_thin_values_typed(s, l, w, own, v, scale, n, RONDO_F16, R, odd);
    else
        cuda_thin_values_typed(s, l, w, own, v, scale, n, RONDO_Q8, R, odd);
}

DEVICE void cuda_thin_item(const struct cuda_attention *p, int64_t number, const struct cuda_thin_memory *m, float *stack, int R, int terms)
{
    struct cuda_known *known = m->known;
    const struct cuda_tile *tile = &known->tile;
    const int64_t level = cuda_thin_level(p->value_dim, R);
    const struct cuda_thin_stage begins = { 0, 0, 0 };
    float s[CUDA_THIN_MOST][CUDA_THIN], M[CUDA_THIN], l;
    int top = 0, parity = 0, now = 0;

    WARP_BARRIER();                  /* nobody reads the item before */
    const int64_t q = cuda_thin_know(p, number, m);
    const struct cuda_bind bound = cuda_bind_of(p, tile->job), *const bind = &bound;
    const int64_t begin = known->item.first, end = known->item.end;
    if (known->leaf[0].number < end)
        cuda_thin_fetch(p, m, &known->leaf[0], &begins, 0);
    cuda_thin_queries(p, q, m, R);
    WARP_BARRIER();
    int64_t all_lo = INT64_MIN, all_hi = INT64_MAX;      /* positions that all rows see */
    ROLLED
    for (int r = 0; r < tile->rows; r++) {
        all_lo = m->row[r].lo > all_lo ? m->row[r].lo : all_lo;
        all_hi = m->row[r].hi < all_hi ? m->row[r].hi : all_hi;
    }
    ROLLED
    for (int64_t i = begin; i < end; i++) {
        const struct cuda_leaf *f = known->leaf + now;
        const int merges = rondo__run_merges(i, begin, end), nothing = i != f->number, count = nothing ? 0 : (int)f->leaf.count, is_last = i + 1 == end;
        float *const to = is_last ? p->nodes + known->item.nodes : stack + (top - merges) * level;
        const int whole = !nothing && f->view == CUDA_VIEW_ALL && f->leaf.first >= all_lo && f->leaf.first + (int64_t)(count - 1) * f->leaf.step < all_hi;
        const int odd = !whole || terms;
        struct cuda_thin_stage at = { nothing, 0, 0 };   /* what nobody sees has a node of zeros, without any stage */
        UNROLL
        for (int r = 0; r < CUDA_THIN; r++)
            M[r] = -FLT_MAX;
        cuda_thin_zero(s);
        l = 0.0f;
        ROLLED
        for (int more = 1; more;) {
            struct cuda_thin_stage next = at;
            more = cuda_thin_advance(p, count, &next);
            if (!nothing) {
                COPY_WAIT(0);
                WARP_BARRIER();
                const struct cuda_thin_stage then = { more ? next.v : 0, more ? next.key : 0, more ? next.d : 0 };
                if (more || known->leaf[now ^ 1].number < end)
                    cuda_thin_fetch(p, m, known->leaf + (more ? now : now ^ 1), &then, parity ^ 1);
                if (!at.v && at.key == 0 && at.d == 0 && THREAD == CUDA_THIN_THREADS - 1)
                    cuda_thin_next(p, m, i + 1, known->leaf + (now ^ 1));
            }
            if (!at.v) {
                cuda_thin_stage_keys(p, m, &at, count, parity, s, R);
                if (next.d == 0) {
                    if (whole)
                        cuda_thin_scores(p, bind, m, f, at.key, s, M, 1, R, terms);
                    else
                        cuda_thin_scores(p, bind, m, f, at.key, s, M, 0, R, terms);
                    cuda_thin_zero(s);
                }
                if (next.v) {
                    cuda_thin_most(M, R);
                    cuda_thin_weights(p, m, &f->leaf, M, R, terms);
                }
            } else {
                if (!nothing)
                    cuda_thin_stage_values(p, m, &at, count, parity, s, &l, R, odd);
                if (next.key == 0) {
                    if (at.d == 0) {
                        if (THREAD < R)
                            m->l[THREAD] = l;
                        WARP_BARRIER();
                    }
                    cuda_thin_node(p, s, M, m->l, at.d, top, merges, stack, to, is_last, is_last ? tile->rows : R, R);
                    cuda_thin_zero(s);
                }
            }
            at = next;
            parity ^= !nothing;
        }
        top += 1 - merges;
        now ^= !nothing;
    }
}

DEVICE void cuda_thin_kernel(const struct cuda_attention *p, char *shared, int R, int terms)
{
    const struct cuda_thin_memory m = cuda_thin_memory_of(p, shared, R);
    ROLLED
    for (int64_t i = p->first + BLOCK; i < p->first + p->count; i += BLOCKS)
        cuda_thin_item(p, i, &m, p->stack + BLOCK * p->stack_floats, R, terms);
}

#endif
