/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The definition of attention's gradients: rule C13 of the numerics contract (rondo-numerics(7)), written as it reads, without the sharing of
 * work that makes it fast: each tile of a leaf of queries and a leaf of keys is looked at once for dQ, once for dK and dV, once for the bias.
 * Every fast kernel equals this bit for bit. Built twice, as ref_attention.c. Called by backward_run.c.
 */
#include "backends/cpu/backward.h"
#include "backends/cpu/cpu.h"

#define LEAF_MAX RONDO_BACKWARD_LEAF_MAX

/* A tile of one query head: what each pair gives. [query][key], by index in the leaf. */
struct tile {
    uint64_t seen[LEAF_MAX][4];        /* bit j: query i sees key j, and takes part */
    float value[LEAF_MAX][LEAF_MAX];   /* its weight, 0 where dropped: what dV is made of */
    float ds[LEAF_MAX][LEAF_MAX];      /* the gradient of its score, behind the softcap */
    float g[LEAF_MAX][LEAF_MAX];       /* ... and before it: what dQ and dK are made of */
};

struct work {
    const struct rondo_backward_task *t;
    struct tile *tile;
    float *stack;                      /* nodes, `floats` each */
    size_t floats;
    int64_t leaf[RONDO_BACKWARD_DEPTH];   /* the last leaf of each node there */
    int32_t depth;
};

static int32_t pairwise(int32_t j) { return j ^ 1; }

static bool sees(const struct tile *s, int32_t i, int32_t j) { return s->seen[i][j / 64] >> (j % 64) & 1; }

/* ---- sums over leaves: the tree of C6, with additions ---- */

static void join(struct work *w)
{
    float *left = w->stack + (size_t)(w->depth - 2) * w->floats, *right = left + w->floats;
    for (size_t i = 0; i < w->floats; i++)
        left[i] = left[i] + right[i];
    w->leaf[w->depth - 2] = w->leaf[w->depth - 1];
    w->depth--;
}

/* Nodes that wait at most in a tree over numbers up to `last`. */
static int32_t levels(int64_t last)
{
    int32_t n = 1;
    for (; last > 0; last >>= 1)
        n++;
    return n;
}

/* ... over the leaves of a task. */
static int32_t leaf_levels(const struct rondo_backward_task *t)
{
    const struct rondo_backward_job *j = t->job;
    const int64_t query = j->queries ? t->queries[j->queries - 1].leaf : 0, key = j->keys ? t->keys[j->keys - 1].leaf : 0;
    return levels(query > key ? query : key);
}

/* Room for the node of a leaf behind all that there is; all 0. */
static float *next_node(struct work *w, int64_t leaf)
{
    while (w->depth > 1 && rondo__leaves_merge(w->leaf[w->depth - 2], w->leaf[w->depth - 1], leaf))
        join(w);
    float *node = w->stack + (size_t)w->depth * w->floats;
    w->leaf[w->depth++] = leaf;
    memset(node, 0, w->floats * sizeof *node);
    return node;
}

/* The root, or NULL where there is nothing; the stack is empty then. */
static const float *root(struct work *w)
{
    while (w->depth > 1)
        join(w);
    const bool any = w->depth > 0;
    w->depth = 0;
    return any ? w->stack : NULL;
}

/* ---- one tile ---- */

static float chain(const void *a, int64_t a_at, int a_type, const void *b, int64_t b_at, int b_type, int32_t dim)
{
    float s = 0.0f;
    for (int32_t j = 0; j < dim + (dim & 1); j++) {
        const int32_t d = pairwise(j);
        if (d < dim)
            s = rondo__fma(rondo__element(a, a_at + d, a_type), rondo__element(b, b_at + d, b_type), s);
    }
    return s;
}

static int64_t bias_at(const struct rondo_attention_task *a, int32_t head, int64_t p, int64_t k)
{
    return a->bias_at + p * a->bias_row_stride + head * a->bias_head_stride + k;
}

/* C2, as ref_attention.c has it; *slope gets what the softcap leaves of a change of the score. */
static float score(const struct rondo_attention_task *a, float s, int32_t head, int64_t p, int64_t k, float *slope)
{
    const uint64_t distance = k > p ? (uint64_t)k - (uint64_t)p : (uint64_t)p - (uint64_t)k;
    float x = s * a->scale_log2;
    *slope = 1.0f;
    if (a->terms.cap_in != 0.0f) {
        const float tanh = rondo__tanh(s * a->terms.cap_in);
        x = tanh * a->terms.cap_out;
        *slope = rondo__fma(-tanh, tanh, 1.0f);
    }
    if (a->terms.alibi)
        x = rondo__fma(-(a->alibi[head] * RONDO_LOG2E_F), (float)distance, x);
    if (a->terms.bias)
        x = rondo__fma(a->bias[bias_at(a, head, p, k)], RONDO_LOG2E_F, x);
    return x;
}

static bool dropped(const struct rondo_attention_task *a, int32_t head, int64_t p, int64_t k)
{
    uint32_t words[4];
    if (!a->terms.drop)
        return false;
    rondo__drop_words(a, head, p, k & ~(int64_t)3, words);
    return words[k & 3] < a->terms.drop;
}

/* Where a query stands in its leaf. */
static int32_t place(const struct rondo_backward_task *t, const struct rondo_backward_leaf *q)
{
    return (int32_t)((q->first - t->job->base) - q->leaf * t->desc->leaf_size);
}

/* C13: the weights and gradients of a tile's pairs. false: nobody sees anything. */
static bool look(const struct rondo_backward_task *t, const struct rondo_backward_leaf *q, const struct rondo_backward_leaf *k, int32_t head,
                 struct tile *out)
{
    const struct rondo_backward_desc *d = t->desc;
    const struct rondo_attention_task *a = &t->a;
    const struct rondo_backward_queries *from = t->run->queries + q->source;
    const struct rondo_backward_keys *keys = t->run->keys + k->source;
    const struct rondo_leaf leaf = { .row = 0, .first = k->first, .count = k->count, .step = 1 };
    const int32_t kv_head = head / (d->heads / d->kv_heads), before = place(t, q);
    bool any = false;

    memset(out->seen, 0, sizeof out->seen);
    for (int32_t i = 0; i < q->count; i++) {
        const int64_t p = q->first + i, row = (q->row + i) * d->heads + head;
        int64_t lo, hi;
        float n, c, slope;
        if (!rondo__backward_row(from->lse[row], &n, &c))
            continue;
        a->mask->kind->row(a->mask, a->sequence, p, &lo, &hi);
        uint64_t *seen = out->seen[before + i];
        rondo__leaf_bits(a, &leaf, head, p, lo, hi, seen);
        for (int32_t j = 0; j < k->count; j++) {
            const int64_t position = k->first + j, key = (k->row + j) * d->kv_heads + kv_head;
            if (!(seen[j / 64] >> (j % 64) & 1))
                continue;
            if (a->terms.bias && a->bias[bias_at(a, head, p, position)] == -__builtin_inff()) {
                seen[j / 64] &= ~((uint64_t)1 << (j % 64));
                continue;
            }
            const float s = chain(from->q, row * d->head_dim, d->q_type, keys->k, key * d->head_dim, d->kv_type, d->head_dim);
            const float weight = rondo__backward_weight(score(a, s, head, p, position, &slope), n, c);
            float dp = chain(from->dout, row * d->value_dim, d->out_type, keys->v, key * d->value_dim, d->kv_type, d->value_dim);
            const bool drops = dropped(a, a->head + head, p, position);
            if (a->terms.drop)
                dp = drops ? 0.0f : dp * a->terms.keep;
            const float ds = weight * (dp - from->sums[row]);
            out->value[before + i][j] = drops ? 0.0f : weight;
            out->ds[before + i][j] = ds;
            out->g[before + i][j] = a->terms.cap_in != 0.0f ? ds * slope : ds;
            any = true;
        }
    }
    return any;
}

/* ---- dQ: chains inside a leaf of keys, the tree over these ---- */

/* The n-th leaf of queries of the job. */
static void query_leaf(struct work *w, int32_t number, int32_t head)
{
    const struct rondo_backward_task *t = w->t;
    const struct rondo_backward_leaf *q = t->queries + number;
    const struct rondo_backward_desc *d = t->desc;
    const int32_t kv_head = head / (d->heads / d->kv_heads), before = place(t, q), dim = d->head_dim;
    w->floats = (size_t)d->leaf_size * (size_t)dim;
    for (int32_t n = 0; n < t->job->keys; n++) {
        const struct rondo_backward_leaf *k = t->keys + n;
        if (!look(t, q, k, head, w->tile))
            continue;
        float *node = next_node(w, k->leaf);
        for (int32_t i = before; i < before + q->count; i++)
            for (int32_t u = 0; u < k->count + (k->count & 1); u++) {
                const int32_t j = pairwise(u);
                if (j >= k->count || !sees(w->tile, i, j))
                    continue;
                const int64_t key = (k->row + j) * d->kv_heads + kv_head;
                for (int32_t c = 0; c < dim; c++)
                    node[i * dim + c] = rondo__fma(w->tile->g[i][j], rondo__element(t->run->keys[k->source].k, key * dim + c, d->kv_type),
                                                   node[i * dim + c]);
            }
    }
    const float *sum = root(w);
    if (t->job->query_places >= 0) {
        float *to = rondo__backward_node(t, t->job->query_places, number);
        to[(int64_t)q->count * d->heads * dim + head] = sum ? 1.0f : 0.0f;
        for (int32_t i = 0; i < q->count && sum; i++)
            memcpy(to + ((int64_t)head * q->count + i) * dim, sum + (before + i) * dim, (size_t)dim * sizeof *to);
        return;
    }
    for (int32_t i = 0; i < q->count; i++)
        for (int32_t c = 0; c < dim; c++)
            rondo__backward_put(t->run->dq, ((q->row + i) * d->all_heads + d->head + head) * dim + c, t->run->dq_type,
                                sum ? sum[(before + i) * dim + c] : 0.0f, d->scale, t->run->accumulate);
}

/* ---- dK and dV: chains inside a leaf of queries, the tree over these, then the tree over the query heads ---- */

/* Node of one head, [keys][head_dim], [keys][value_dim]; into `to`. false: there is nothing in it, it is 0. */
static bool key_head(struct work *w, const struct rondo_backward_leaf *k, int32_t head, float *to)
{
    const struct rondo_backward_task *t = w->t;
    const struct rondo_backward_desc *d = t->desc;
    const int32_t size = d->leaf_size, dim = d->head_dim, values = d->value_dim;
    for (int32_t n = 0; n < t->job->queries; n++) {
        const struct rondo_backward_leaf *q = t->queries + n;
        const int32_t before = place(t, q);
        if (!look(t, q, k, head, w->tile))
            continue;
        float *dk = next_node(w, q->leaf), *dv = dk + (size_t)size * (size_t)dim;
        for (int32_t j = 0; j < k->count; j++)
            for (int32_t u = 0; u < size; u++) {
                const int32_t i = pairwise(u);
                if (i < before || i >= before + q->count || !sees(w->tile, i, j))
                    continue;
                const struct rondo_backward_queries *from = t->run->queries + q->source;
                const int64_t row = (q->row + i - before) * d->heads + head;
                for (int32_t c = 0; c < dim; c++)
                    dk[j * dim + c] = rondo__fma(w->tile->g[i][j], rondo__element(from->q, row * dim + c, d->q_type), dk[j * dim + c]);
                for (int32_t c = 0; c < values; c++)
                    dv[j * values + c] = rondo__fma(w->tile->value[i][j], rondo__element(from->dout, row * values + c, d->out_type),
                                                    dv[j * values + c]);
            }
    }
    const float *sum = root(w);
    if (sum)
        memcpy(to, sum, w->floats * sizeof *to);
    else
        memset(to, 0, w->floats * sizeof *to);
    return sum != NULL;
}

/* A node of head `head` of `heads`, to its place. */
static void store_keys(const struct rondo_backward_task *t, int32_t number, int32_t head, int32_t heads, const float *sum, bool full)
{
    const int32_t dim = t->desc->head_dim, values = t->desc->value_dim;
    const int64_t rows = t->keys[number].count;
    float *dk = rondo__backward_node(t, t->job->key_places, number), *dv = dk + rows * heads * dim;
    dv[rows * heads * values + head] = full ? 1.0f : 0.0f;
    for (int64_t j = 0; j < rows && full; j++) {
        memcpy(dk + (head * rows + j) * dim, sum + j * dim, (size_t)dim * sizeof *dk);
        memcpy(dv + (head * rows + j) * values, sum + t->desc->leaf_size * dim + j * values, (size_t)values * sizeof *dv);
    }
}

static void key_leaf(struct work *w, int32_t number, int32_t kv_head)
{
    const struct rondo_backward_task *t = w->t;
    const struct rondo_backward_leaf *k = t->keys + number;
    const struct rondo_backward_desc *d = t->desc;
    const int32_t group = d->heads / d->kv_heads, dim = d->head_dim, values = d->value_dim;
    w->floats = (size_t)d->leaf_size * (size_t)(dim + values);
    /* the heads' stack lies behind that of leaves */
    struct work heads = { .stack = w->stack + (size_t)leaf_levels(t) * w->floats, .floats = w->floats };
    const bool apart = t->job->key_places >= 0 && !(t->job->what & RONDO_BACKWARD_HEADS);
    for (int32_t i = 0; i < group; i++) {
        float *node = next_node(&heads, i);
        const bool full = key_head(w, k, kv_head * group + i, node);
        if (apart) {
            store_keys(t, number, kv_head * group + i, d->heads, node, full);
            heads.depth = 0;
        }
    }
    if (apart)
        return;
    const float *sum = root(&heads), *dv = sum + (size_t)d->leaf_size * (size_t)dim;
    if (t->job->key_places >= 0) {
        store_keys(t, number, kv_head, d->kv_heads, sum, true);
        return;
    }
    for (int32_t j = 0; j < k->count; j++) {
        const int64_t row = (k->row + j) * d->all_kv_heads + d->kv_head + kv_head;
        for (int32_t c = 0; c < dim; c++)
            rondo__backward_put(t->run->dk, row * dim + c, t->run->dk_type, sum[j * dim + c], d->scale, t->run->accumulate);
        for (int32_t c = 0; c < values; c++)
            rondo__backward_put(t->run->dv, row * values + c, t->run->dv_type, dv[j * values + c], t->a.terms.keep, t->run->accumulate);
    }
}

/* ---- dbias: of the tasks that share rows of it, the tree over heads where one bias is for all, then the tree over the sequences ---- */

static const struct rondo_backward_leaf *leaf_of(const struct rondo_backward_leaf *list, int32_t count, int64_t leaf)
{
    for (int32_t i = 0; i < count; i++)
        if (list[i].leaf == leaf)
            return list + i;
    return NULL;
}

/* Of the queries of one leaf of tasks[0], counted from their query 0, and the keys of one leaf, for one head of the bias. w: for sequences. */
static void bias_tile(struct work *w, const struct rondo_backward_task *tasks, int32_t count, const struct rondo_backward_leaf *q, int64_t key_leaf,
                      int32_t bias_head)
{
    const struct rondo_backward_desc *d = w->t->desc;
    const struct rondo_backward_run *run = w->t->run;
    const int32_t size = d->leaf_size, heads = d->bias_heads > 1 ? 1 : d->heads, dim = size * size;
    const int64_t query = q->first - w->t->job->cached;
    int64_t columns = 0;
    w->floats = (size_t)dim;
    struct work over = { .stack = w->stack + (size_t)levels(d->sequences - 1) * w->floats, .floats = w->floats };
    for (int32_t s = 0; s < count; s++) {
        const struct rondo_backward_task *t = tasks + s;
        const struct rondo_backward_leaf *k = leaf_of(t->keys, t->job->keys, key_leaf);
        const int64_t keys = t->job->length - key_leaf * size;
        columns = keys > columns ? keys : columns;
        if (!k || k->source < 0)
            continue;
        for (int32_t h = 0; h < heads; h++) {
            float *node = next_node(&over, h);
            for (int32_t n = 0; n < t->job->queries; n++) {
                const struct rondo_backward_leaf *other = t->queries + n;
                const int64_t first = other->first - t->job->cached - query;   /* its rows, counted from this tile's first */
                if (first >= q->count || first + other->count <= 0 || !look(t, other, k, heads > 1 ? h : bias_head, w->tile))
                    continue;
                for (int64_t i = 0; i < other->count; i++)
                    for (int32_t j = 0; j < k->count && first + i >= 0 && first + i < q->count; j++)
                        if (sees(w->tile, place(t, other) + (int32_t)i, j))
                            node[(first + i) * size + j] = w->tile->ds[place(t, other) + i][j];
            }
        }
        const float *sum = root(&over);
        memcpy(next_node(w, s), sum, w->floats * sizeof *sum);
    }
    const float *sum = root(w);
    float *to = run->dbias.data;
    to += (run->dbias_row[w->t->job->sequence] + q->first) * run->dbias.row_stride + (d->head + bias_head) * run->dbias.head_stride;
    columns = columns < size ? columns : size;
    for (int32_t i = 0; i < q->count; i++)
        for (int64_t j = 0; j < columns; j++)
            rondo__backward_put(to, i * run->dbias.row_stride + run->dbias_key[w->t->job->sequence] + key_leaf * size + j, RONDO_F32,
                                sum ? sum[i * size + j] : 0.0f, 1.0f, run->accumulate);
}

/* ---- the table ---- */

/* A tile, and so many nodes of `floats` numbers for each row of a leaf. */
static bool room_of(const struct rondo_backward_task *t, int32_t nodes, size_t floats, size_t *out)
{
    size_t all;
    return rondo__mul(floats * (size_t)t->desc->leaf_size, (size_t)nodes * sizeof(float), &all) && rondo__add(all, sizeof(struct tile), out);
}

static bool bytes(const struct rondo_backward_task *tasks, int32_t count, size_t *out)
{
    const struct rondo_backward_desc *d = tasks->desc;
    int32_t most = 0;
    for (int32_t i = 0; i < count; i++)
        most = leaf_levels(tasks + i) > most ? leaf_levels(tasks + i) : most;
    return room_of(tasks, most + levels(d->heads / d->kv_heads - 1), (size_t)d->head_dim + (size_t)d->value_dim, out);
}

static bool bias_bytes(const struct rondo_backward_task *t, size_t *out)
{
    return room_of(t, levels(t->desc->sequences - 1) + levels(t->desc->heads - 1), (size_t)t->desc->leaf_size, out);
}

static struct work work_of(const struct rondo_backward_task *t, void *scratch)
{
    return (struct work){ .t = t, .tile = scratch, .stack = (float *)(void *)((char *)scratch + sizeof(struct tile)) };
}

static int run_one(const struct rondo_backward_task *t, int32_t kv_head, void *scratch, const struct rondo_poll *poll)
{
    const int32_t group = t->desc->heads / t->desc->kv_heads;
    struct work w = work_of(t, scratch);
    int err = 0;
    for (int32_t i = 0; i < t->job->queries && t->job->what & RONDO_BACKWARD_QUERIES && !err; i++) {
        for (int32_t h = kv_head * group; h < (kv_head + 1) * group; h++)
            query_leaf(&w, i, h);
        err = poll ? poll->call(poll->arg) : 0;
    }
    for (int32_t i = 0; i < t->job->keys && t->job->what & RONDO_BACKWARD_KEYS && !err; i++) {
        key_leaf(&w, i, kv_head);
        err = poll ? poll->call(poll->arg) : 0;
    }
    return err;
}

static int run(const struct rondo_backward_task *tasks, int32_t count, int32_t kv_head, void *scratch, const struct rondo_poll *poll)
{
    int err = 0;
    for (int32_t i = 0; i < count && !err; i++)
        err = run_one(tasks + i, kv_head, scratch, poll);
    return err;
}

static int bias(const struct rondo_backward_task *tasks, int32_t count, int32_t longest, int32_t leaf, void *scratch, const struct rondo_poll *poll)
{
    struct work w = work_of(tasks + longest, scratch);
    const struct rondo_backward_desc *d = w.t->desc;
    const struct rondo_backward_task *widest = tasks;
    int err = 0;
    for (int32_t s = 1; s < count; s++)
        widest = tasks[s].job->keys > widest->job->keys ? tasks + s : widest;
    for (int32_t k = 0; k < widest->job->keys && !err; k++) {
        for (int32_t h = 0; h < d->bias_heads; h++)
            bias_tile(&w, tasks, count, w.t->queries + leaf, widest->keys[k].leaf, h);
        err = poll ? poll->call(poll->arg) : 0;
    }
    return err;
}

/* ---- nodes joined ---- */

/* A node of one row and head on a stack. */
struct joined {
    const struct rondo_backward_desc *d;
    const struct rondo_backward_run *run;
    const struct rondo_backward_join *join;
    float *stack;                      /* of nodes, `floats` each: of a key dk, then dv */
    bool full[RONDO_BACKWARD_JOIN_DEPTH];
    int32_t floats, dim, depth;        /* dim: of dq or dk */
};

/* Between a place and a number on the stack. */
static void move(struct joined *s, int32_t number, int32_t row, int32_t head, int32_t at, bool load)
{
    const struct rondo_backward_join *j = s->join;
    const struct rondo_backward_place *p = s->d->places + j->places_first + number;
    const int64_t heads = j->heads * j->group, values = s->floats - s->dim;
    float *first = s->run->nodes[p->buffer].data + p->at, *second = first + j->count * heads * s->dim, *full = second + j->count * heads * values;
    float *node = s->stack + at * s->floats;
    first += ((int64_t)head * j->count + row) * s->dim;
    second += ((int64_t)head * j->count + row) * values;
    if (load)
        s->full[at] = full[head] != 0.0f;
    else if (row + 1 == j->count)   /* the other rows have read what it was */
        full[head] = s->full[at] ? 1.0f : 0.0f;
    if (!s->full[at])
        return;
    memcpy(load ? node : first, load ? first : node, (size_t)s->dim * sizeof *node);
    memcpy(load ? node + s->dim : second, load ? second : node + s->dim, (size_t)values * sizeof *node);
}

static void merge(struct joined *s)
{
    float *left = s->stack + (s->depth - 2) * s->floats, *right = left + s->floats;
    s->depth--;
    if (!s->full[s->depth])
        return;
    for (int32_t i = 0; i < s->floats; i++)
        left[i] = s->full[s->depth - 1] ? left[i] + right[i] : right[i];
    s->full[s->depth - 1] = true;
}

/* The program of one row and head of the nodes. true: it ends in OUT, and the root is at the bottom of the stack. */
static bool joined_head(struct joined *s, int32_t row, int32_t head)
{
    const struct rondo_tree_step *step = s->d->steps + s->join->steps_first;
    s->depth = 0;
    for (int32_t i = 0; i < s->join->steps; i++)
        switch (step[i].code) {
        case RONDO_TREE_LOAD:
            move(s, step[i].arg, row, head, s->depth++, true);
            break;
        case RONDO_TREE_STORE:
            move(s, step[i].arg, row, head, --s->depth, false);
            break;
        case RONDO_TREE_MERGE:
            merge(s);
            break;
        default:
            return true;
        }
    return false;
}

/* scratch: nodes of a stack, then of one of heads. */
static void join_nodes(const struct rondo_backward_desc *d, const struct rondo_backward_run *run, const struct rondo_backward_join *j, float *scratch)
{
    const int32_t values = j->queries ? 0 : d->value_dim, dim = d->head_dim;
    const int64_t across = j->queries ? d->all_heads : d->all_kv_heads;
    struct joined s = { .d = d, .run = run, .join = j, .stack = scratch, .floats = dim + values, .dim = dim };
    struct work heads = { .stack = scratch + RONDO_BACKWARD_JOIN_DEPTH * s.floats, .floats = (size_t)s.floats };
    for (int32_t i = 0; i < j->count; i++)
        for (int32_t h = 0; h < j->heads; h++) {
            bool out = false;
            for (int32_t g = 0; g < j->group; g++) {
                out = joined_head(&s, i, h * j->group + g);
                if (out && s.depth && s.full[0])
                    memcpy(next_node(&heads, g), s.stack, heads.floats * sizeof *s.stack);
                else if (out)
                    (void)next_node(&heads, g);
            }
            if (!out)
                continue;
            const float *sum = root(&heads);
            const int64_t at = (j->row + i) * across + j->head + h;
            for (int32_t c = 0; c < dim; c++)
                rondo__backward_put(j->queries ? run->dq : run->dk, at * dim + c, j->queries ? run->dq_type : run->dk_type, sum[c], d->scale,
                                    run->accumulate);
            for (int32_t c = 0; c < values; c++)
                rondo__backward_put(run->dv, at * values + c, run->dv_type, sum[dim + c], d->terms.keep, run->accumulate);
        }
}

/* C13: the number that a row's gradients of weights are less by. */
static void sums(const struct rondo_backward_sums *of, int64_t first, int64_t end)
{
    for (int64_t i = first * of->heads; i < end * of->heads; i++) {
        const float s = chain(of->dout, i * of->value_dim, of->out_type, of->out, i * of->value_dim, of->out_type, of->value_dim);
        of->sums[i] = of->dlse ? s - of->dlse[i] : s;
    }
}

#ifdef RONDO_ISA_fma
const struct rondo_cpu_backward rondo__cpu_backward_fma = { bytes, run, bias, bias_bytes, sums, join_nodes };
#else
const struct rondo_cpu_backward rondo__cpu_backward_soft = { bytes, run, bias, bias_bytes, sums, join_nodes };
#endif
