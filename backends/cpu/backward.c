/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Fast gradients of attention: the bits of ref_backward.c. Built once per instruction set.
 *
 * For each query head all tiles of a leaf of queries and a leaf of keys are visited once, along a Z-curve: the four quarters of a square of
 * leaves one after another, each in the same way. A quarter makes nodes of the tree over keys for its queries and nodes of the tree over queries
 * for its keys, so one visit of a tile feeds both trees, with five products, and of each height one node for each row waits at most: memory in
 * proportion to rows. Quarters that nobody sees anything in are left out, and nodes without anything in them are only marked.
 *
 * The first two products of a tile, and what they come to, are backward_tile.h's; a bias's gradient is backward_bias.h's. The five products are all
 * the same: acc[m][n] += a[m][k] * b[k][n], k in the contract's order, where b lies in panels of two vectors. What
 * is read for that (K and V turned, K as it is too, Q and dO in panels, which do for factors as well) is laid out once for a head.
 *
 * Hidden pairs of a tile of which some are seen have weight and gradient 0, and 0 times a number changes the sign of a zero at most; where
 * what would be multiplied is not finite each row takes the pairs that it sees, one by one.
 */
#include "backends/cpu/backward.h"
#include "backends/cpu/cpu.h"
#include "backends/cpu/vec.h"
#include "backends/cpu/backward_tile.h"
#include "backends/cpu/backward_bias.h"
#include "backends/cpu/backward_join.h"

/* ---- one tile: nodes ---- */

/* Element (i, d) of panels. */
static float panel_at(const float *panels, int32_t size, int32_t i, int32_t d)
{
    return panels[(int64_t)(d / PANEL) * PANEL * size + (int64_t)i * PANEL + d % PANEL];
}

/* Pair by pair: nothing is multiplied that is not seen. */
static void nodes_apart(struct unit *u, const struct tile *s, const struct nodes *to)
{
    const int32_t size = u->size, dim = u->dim_wide, values = u->values_wide;
    const float *k = u->k_panels + (size_t)s->key * (size_t)size * (size_t)dim, *q = u->q_panels + (size_t)s->query * (size_t)size * (size_t)dim;
    const float *o = u->o_panels + (size_t)s->query * (size_t)size * (size_t)values;
    if (u->makes_q)
        memset(to->q, 0, (size_t)size * (size_t)dim * sizeof(float));
    if (u->makes_k) {
        memset(to->k, 0, (size_t)size * (size_t)dim * sizeof(float));
        memset(to->v, 0, (size_t)size * (size_t)values * sizeof(float));
    }
    /* of pairs (i, j) with rising i ^ 1 and, within, rising j ^ 1: each sum takes them in its own order */
    for (int32_t a = 0; a < size; a++)
        for (int32_t b = 0; b < size; b++) {
            const int32_t i = a ^ 1, j = b ^ 1;
            const float g = u->g[i * u->across + j], w = u->weight[i * u->across + j];
            if (!(u->seen[i][j / 64] >> (j % 64) & 1))
                continue;
            for (int32_t d = 0; d < u->dim && u->makes_q; d++)
                to->q[i * dim + d] = rondo__fma(g, panel_at(k, size, j, d), to->q[i * dim + d]);
            for (int32_t d = 0; d < u->dim && u->makes_k; d++)
                to->k[j * dim + d] = rondo__fma(g, panel_at(q, size, i, d), to->k[j * dim + d]);
            for (int32_t d = 0; d < u->values && u->makes_k; d++)
                to->v[j * values + d] = rondo__fma(w, panel_at(o, size, i, d), to->v[j * values + d]);
        }
}

static void tile(struct unit *u, int32_t query, int32_t key, const struct nodes *to)
{
    struct tile s = { u->t->queries + query, u->t->keys + key, query, key, 0, false };
    struct reach r;
    const int32_t size = u->size, across = u->across;
    const float *k_panels = u->k_panels + (size_t)key * (size_t)size * (size_t)u->dim_wide;
    const float *q_panels = u->q_panels + (size_t)query * (size_t)size * (size_t)u->dim_wide, *o_panels = u->o_panels + (size_t)query * (size_t)size * (size_t)u->values_wide;
    if (u->err || !weigh(u, &s, &r))
        return;
    if (!s.whole && !(u->k_finite[key] && u->q_finite[query])) {
        nodes_apart(u, &s, to);
    } else {
        for (int32_t d = 0; d < u->dim_wide && u->makes_q; d += PANEL)
            for (int32_t i = 0; i < size; i += STRIP)
                product_rows(u->g + i * across, across, k_panels + (int64_t)d * size, r.row_first[i / STRIP], r.row_end[i / STRIP],
                             to->q + i * u->dim_wide + d, u->dim_wide);
        for (int32_t d = 0; d < u->dim_wide && u->makes_k; d += PANEL)
            for (int32_t j = 0; j < size; j += STRIP)
                product_columns(u->g + j, across, q_panels + (int64_t)d * size, r.key_first[j / STRIP], r.key_end[j / STRIP], to->k + j * u->dim_wide + d,
                                u->dim_wide);
        for (int32_t d = 0; d < u->values_wide && u->makes_k; d += PANEL)
            for (int32_t j = 0; j < size; j += STRIP)
                product_columns(u->weight + j, across, o_panels + (int64_t)d * size, r.key_first[j / STRIP], r.key_end[j / STRIP],
                                to->v + j * u->values_wide + d, u->values_wide);
    }
    if (u->makes_q)
        *to->full_q = 1;
    if (u->makes_k)
        *to->full_k = 1;
    if (u->poll)
        u->err = u->poll->call(u->poll->arg);
}

/* ---- squares of leaves ---- */

static bool any(const uint8_t *full, int32_t count)
{
    return count > 0 && memchr(full, 1, (size_t)count) != NULL;
}

static bool sees(const struct unit *u, int32_t qa, int32_t qb, int32_t ka, int32_t kb)
{
    for (int32_t q = qa; q < qb; q++)
        if (u->see_first[q] < kb && u->see_end[q] > ka)
            return true;
    return false;
}

/* left = left + right, leaf by leaf */
static void join(float *left, uint8_t *full, const float *right, const uint8_t *right_full, int32_t count, size_t node)
{
    for (int32_t i = 0; i < count; i++, left += node, right += node) {
        if (!right_full[i])
            continue;
        if (full[i])
            add(left, right, node);
        else
            memcpy(left, right, node * sizeof *left);
        full[i] = 1;
    }
}

/* Leaves [qa, qb) of the list of queries, which lie in [q_base, q_base + 2^height), and likewise of keys; `to` begins with theirs, all empty. */
static void square(struct unit *u, int32_t height, int64_t q_base, int32_t qa, int32_t qb, int64_t k_base, int32_t ka, int32_t kb, struct nodes to)
{
    const size_t q_node = (size_t)u->size * (size_t)u->dim_wide, v_node = (size_t)u->size * (size_t)u->values_wide;
    const int64_t half = height ? (int64_t)1 << (height - 1) : 0;
    int32_t qm = qa, km = ka;
    if (qa >= qb || ka >= kb || u->err || !sees(u, qa, qb, ka, kb))
        return;
    if (!height) {
        tile(u, qa, ka, &to);
        return;
    }
    while (qm < qb && u->t->queries[qm].leaf < q_base + half)
        qm++;
    while (km < kb && u->t->keys[km].leaf < k_base + half)
        km++;
    for (int quarter = 0; quarter < 4; quarter++) {
        const bool below = quarter >= 2, right = quarter & 1;
        const int32_t q0 = below ? qm : qa, q1 = below ? qb : qm, k0 = right ? km : ka, k1 = right ? kb : km;
        struct nodes mine = to, *wait = u->wait + height - 1;
        if (q0 >= q1 || k0 >= k1)
            continue;
        mine.q += (size_t)(q0 - qa) * q_node;
        mine.full_q += q0 - qa;
        mine.k += (size_t)(k0 - ka) * q_node;
        mine.v += (size_t)(k0 - ka) * v_node;
        mine.full_k += k0 - ka;
        struct nodes there = mine;
        const bool q_waits = any(mine.full_q, q1 - q0), k_waits = any(mine.full_k, k1 - k0);
        if (q_waits) {
            mine.q = wait->q;
            mine.full_q = memset(wait->full_q, 0, (size_t)(q1 - q0));
        }
        if (k_waits) {
            mine.k = wait->k;
            mine.v = wait->v;
            mine.full_k = memset(wait->full_k, 0, (size_t)(k1 - k0));
        }
        square(u, height - 1, below ? q_base + half : q_base, q0, q1, right ? k_base + half : k_base, k0, k1, mine);
        if (q_waits)
            join(there.q, there.full_q, mine.q, mine.full_q, q1 - q0, q_node);
        if (k_waits) {
            uint8_t *both = there.full_k;
            for (int32_t i = 0; i < k1 - k0; i++) {   /* of v as of k */
                if (!mine.full_k[i])
                    continue;
                if (both[i]) {
                    add(there.k + (size_t)i * q_node, mine.k + (size_t)i * q_node, q_node);
                    add(there.v + (size_t)i * v_node, mine.v + (size_t)i * v_node, v_node);
                } else {
                    memcpy(there.k + (size_t)i * q_node, mine.k + (size_t)i * q_node, q_node * sizeof(float));
                    memcpy(there.v + (size_t)i * v_node, mine.v + (size_t)i * v_node, v_node * sizeof(float));
                }
                both[i] = 1;
            }
        }
    }
}

/* ---- results ---- */

/* Rows that are `wide` apart, one behind another: at once where nothing lies between. */
static void store_rows(const float *from, int64_t rows, int32_t dim, int32_t wide, float *to)
{
    if (dim == wide) {
        memcpy(to, from, (size_t)rows * (size_t)dim * sizeof *to);
        return;
    }
    for (int64_t i = 0; i < rows; i++)
        memcpy(to + i * dim, from + i * wide, (size_t)dim * sizeof *to);
}

/* Of one head, as store_keys(). */
static void store_queries(const struct unit *u)
{
    const struct rondo_backward_task *t = u->t;
    const int64_t heads = t->desc->heads;
    for (int32_t n = 0; n < u->queries; n++) {
        const struct rondo_backward_leaf *q = t->queries + n;
        const float *node = u->result.q + ((size_t)n * (size_t)u->size + (size_t)place(u, q)) * (size_t)u->dim_wide;
        float *to = rondo__backward_node(t, t->job->query_places, n);
        to[q->count * heads * u->dim + u->head] = u->result.full_q[n] ? 1.0f : 0.0f;
        if (u->result.full_q[n])
            store_rows(node, q->count, u->dim, u->dim_wide, to + (int64_t)u->head * q->count * u->dim);
    }
}

/* Nodes as they are, to their places: head `head` of `heads`. */
static void store_keys(const struct unit *u, int32_t head, int64_t heads, const float *dk, const float *dv, const uint8_t *full)
{
    const struct rondo_backward_task *t = u->t;
    for (int32_t n = 0; n < u->keys; n++) {
        const int64_t rows = t->keys[n].count;
        float *to = rondo__backward_node(t, t->job->key_places, n), *values = to + rows * heads * u->dim;
        values[rows * heads * u->values + head] = full[n] ? 1.0f : 0.0f;
        if (!full[n])
            continue;
        store_rows(dk + (size_t)n * (size_t)u->size * (size_t)u->dim_wide, rows, u->dim, u->dim_wide, to + head * rows * u->dim);
        store_rows(dv + (size_t)n * (size_t)u->size * (size_t)u->values_wide, rows, u->values, u->values_wide, values + head * rows * u->values);
    }
}

static void put_queries(const struct unit *u)
{
    const struct rondo_backward_task *t = u->t;
    if (t->job->query_places >= 0) {
        store_queries(u);
        return;
    }
    for (int32_t n = 0; n < u->queries; n++) {
        const struct rondo_backward_leaf *q = t->queries + n;
        const float *node = u->result.q + (size_t)n * (size_t)u->size * (size_t)u->dim_wide;
        for (int32_t i = 0; i < q->count; i++)
            put_row(u->result.full_q[n] ? node + (place(u, q) + i) * u->dim_wide : NULL, u->dim, t->run->dq,
                    ((q->row + i) * t->desc->all_heads + t->desc->head + u->head) * u->dim, t->run->dq_type, t->desc->scale, t->run->accumulate);
    }
}

static void put_keys(const struct unit *u, const float *dk, const float *dv, const uint8_t *full)
{
    const struct rondo_backward_task *t = u->t;
    if (t->job->key_places >= 0) {
        store_keys(u, u->kv_head, t->desc->kv_heads, dk, dv, full);
        return;
    }
    for (int32_t n = 0; n < u->keys; n++) {
        const struct rondo_backward_leaf *k = t->keys + n;
        for (int32_t j = 0; j < k->count; j++) {
            const int64_t row = (k->row + j) * t->desc->all_kv_heads + t->desc->kv_head + u->kv_head;
            const size_t at = (size_t)n * (size_t)u->size + (size_t)j;
            put_row(full[n] ? dk + at * (size_t)u->dim_wide : NULL, u->dim, t->run->dk, row * u->dim, t->run->dk_type, t->desc->scale,
                    t->run->accumulate);
            put_row(full[n] ? dv + at * (size_t)u->values_wide : NULL, u->values, t->run->dv, row * u->values, t->run->dv_type, t->a.terms.keep,
                    t->run->accumulate);
        }
    }
}

/* ---- scratch ---- */

/* The smallest square that has all leaves. */
static int32_t height_of(const struct rondo_backward_task *tasks, int32_t count)
{
    int64_t last = 0;
    int32_t height = 0;
    for (const struct rondo_backward_task *t = tasks; t < tasks + count; t++) {
        if (t->job->queries && t->queries[t->job->queries - 1].leaf > last)
            last = t->queries[t->job->queries - 1].leaf;
        if (t->job->keys && t->keys[t->job->keys - 1].leaf > last)
            last = t->keys[t->job->keys - 1].leaf;
    }
    for (; last; last >>= 1)
        height++;
    return height;
}

/* Heads' nodes are not added up. */
static bool apart(const struct rondo_backward_task *t)
{
    return t->job->key_places >= 0 && !(t->job->what & RONDO_BACKWARD_HEADS);
}

/* Number `number` of the tasks is at work, before which there are so many leaves of keys. */
static void set_task(struct unit *u, const struct rondo_backward_task *t, int32_t number, int32_t before)
{
    u->t = t;
    u->keys = t->job->keys;
    u->k_turned = u->all.k_turned + (size_t)before * (size_t)u->wide * (size_t)u->dim;
    u->v_turned = u->all.v_turned + (size_t)before * (size_t)u->wide * (size_t)u->values;
    u->k_panels = u->all.k_panels + (u->makes_q ? (size_t)before * (size_t)u->size * (size_t)u->dim_wide : 0);
    u->k_finite = u->all.k_finite + before;
    u->see_first = u->all.see + (size_t)number * 2 * (size_t)u->queries;
    u->see_end = u->see_first + u->queries;
}

/* Of the group's heads so many nodes are on the stack at most. */
static int32_t head_depth(const struct unit *u)
{
    int32_t depth = 1;
    for (int32_t i = u->t->desc->heads / u->t->desc->kv_heads - 1; i > 0; i >>= 1)
        depth++;
    return depth;
}

static void lay_out(struct unit *u, struct taker *k, const struct rondo_backward_task *tasks, int32_t count)
{
    int64_t all = 0;
    u->keys = 0;
    for (int32_t i = 0; i < count; i++) {
        all += tasks[i].job->keys;
        u->keys = tasks[i].job->keys > u->keys ? tasks[i].job->keys : u->keys;
    }
    const int64_t size = u->size, wide = u->wide, q_rows = u->queries * size, k_rows = u->keys * size;
    const int32_t depth = apart(tasks) ? 1 : head_depth(u), height = height_of(tasks, count);
    u->all.k_turned = take(k, all * wide, u->dim, sizeof(float));
    u->all.v_turned = take(k, all * wide, u->values, sizeof(float));
    u->all.k_panels = take(k, u->makes_q ? all * size : 0, u->dim_wide, sizeof(float));
    u->q_panels = take(k, q_rows, u->dim_wide, sizeof(float));
    u->o_panels = take(k, q_rows, u->values_wide, sizeof(float));
    u->n = take(k, q_rows, 3, sizeof(float));
    u->live = take(k, q_rows, 1, 1);
    u->whole = take(k, u->queries, 2, 1);
    u->all.k_finite = take(k, all, 1, 1);
    u->all.see = take(k, u->queries, 2 * (int64_t)count, sizeof(int32_t));
    u->result.q = take(k, u->makes_q ? q_rows : 0, u->dim_wide, sizeof(float));
    u->result.full_q = take(k, u->queries, 1, 1);
    u->heads_k = take(k, u->makes_k ? k_rows * depth : 0, u->dim_wide, sizeof(float));
    u->heads_v = take(k, u->makes_k ? k_rows * depth : 0, u->values_wide, sizeof(float));
    u->heads_full = take(k, u->keys, depth, 1);
    for (int32_t h = 0; h < height; h++) {
        const int64_t most = (int64_t)1 << h, q = u->queries < most ? u->queries : most, keys = u->keys < most ? u->keys : most;
        struct nodes *w = u->wait + h;
        w->q = take(k, u->makes_q ? q * size : 0, u->dim_wide, sizeof(float));
        w->k = take(k, u->makes_k ? keys * size : 0, u->dim_wide, sizeof(float));
        w->v = take(k, u->makes_k ? keys * size : 0, u->values_wide, sizeof(float));
        w->full_q = take(k, q, 1, 1);
        w->full_k = take(k, keys, 1, 1);
    }
    u->weight = take(k, 2 * size, u->across, sizeof(float));
    u->row = take(k, TOGETHER, u->dim_wide > u->values_wide ? u->dim_wide : u->values_wide, sizeof(float));
    u->seen = take(k, size, 4, sizeof(uint64_t));
    if (!k->at)
        return;
    u->c = u->n + q_rows;
    u->sum = u->c + q_rows;
    u->q_finite = u->whole + u->queries;
    u->g = u->weight + size * u->across;
}

static struct unit unit_of(const struct rondo_backward_task *t)
{
    const struct rondo_backward_desc *d = t->desc;
    return (struct unit){ .t = t, .size = d->leaf_size, .wide = up(d->leaf_size, PANEL), .across = up(d->leaf_size, PANEL) + 16, .dim = d->head_dim, .values = d->value_dim,
                          .dim_wide = up(d->head_dim, PANEL), .values_wide = up(d->value_dim, PANEL), .queries = t->job->queries, .keys = t->job->keys,
                          .makes_q = t->job->what & RONDO_BACKWARD_QUERIES, .makes_k = t->job->what & RONDO_BACKWARD_KEYS };
}

/* ---- the table ---- */

static bool bytes(const struct rondo_backward_task *tasks, int32_t count, size_t *out)
{
    struct unit u = unit_of(tasks);
    struct taker k = { NULL, 0, true };
    lay_out(&u, &k, tasks, count);
    *out = k.bytes;
    return k.fits;
}

/* Which leaves of the list of keys have any that a leaf of queries may see. */
static void find_seen(struct unit *u)
{
    const struct rondo_attention_task *a = &u->t->a;
    for (int32_t n = 0; n < u->queries; n++) {
        const struct rondo_backward_leaf *q = u->t->queries + n;
        int64_t low = INT64_MAX, high = INT64_MIN;
        for (int32_t i = 0; i < q->count; i++) {
            int64_t lo, hi;
            a->mask->kind->row(a->mask, a->sequence, q->first + i, &lo, &hi);
            low = lo < low ? lo : low;
            high = hi > high ? hi : high;
        }
        u->see_first[n] = u->see_end[n] = 0;
        for (int32_t j = 0; j < u->keys && low < high; j++) {
            const struct rondo_backward_leaf *k = u->t->keys + j;
            if (k->first + k->count <= low)
                u->see_first[n] = j + 1;
            if (k->first < high)
                u->see_end[n] = j + 1;
        }
    }
}

/* The two heads on top of the stack become one. */
static void add_heads(struct unit *u, int32_t depth)
{
    const size_t k_node = (size_t)u->size * (size_t)u->dim_wide, v_node = (size_t)u->size * (size_t)u->values_wide;
    const size_t k_all = (size_t)u->keys * k_node, v_all = (size_t)u->keys * v_node;
    uint8_t *full = u->heads_full + (size_t)(depth - 2) * (size_t)u->keys, *right = full + u->keys;
    float *dk = u->heads_k + (size_t)(depth - 2) * k_all, *dv = u->heads_v + (size_t)(depth - 2) * v_all;
    for (int32_t i = 0; i < u->keys; i++) {
        uint8_t was = full[i];
        if (full[i] != right[i]) {     /* a head without anything in it is 0, not left out: -0 + 0 */
            memset((full[i] ? dk + k_all : dk) + (size_t)i * k_node, 0, k_node * sizeof *dk);
            memset((full[i] ? dv + v_all : dv) + (size_t)i * v_node, 0, v_node * sizeof *dv);
            was = full[i] = right[i] = 1;
        }
        join(dv + (size_t)i * v_node, &was, dv + v_all + (size_t)i * v_node, right + i, 1, v_node);
        join(dk + (size_t)i * k_node, full + i, dk + k_all + (size_t)i * k_node, right + i, 1, k_node);
    }
}

/* Queries are laid out once for all tasks. */
static int run(const struct rondo_backward_task *tasks, int32_t count, int32_t kv_head, void *scratch, const struct rondo_poll *poll)
{
    struct unit u = unit_of(tasks);
    struct taker k = { scratch, 0, true };
    const int32_t group = tasks->desc->heads / tasks->desc->kv_heads, height = height_of(tasks, count);
    const bool sums = u.makes_k && !apart(tasks);   /* of the group's heads; then there is one task */
    if (!(u.makes_q || u.makes_k))
        return 0;
    lay_out(&u, &k, tasks, count);
    u.poll = poll;
    u.kv_head = kv_head;
    for (int32_t i = 0, before = 0; i < count; before += tasks[i++].job->keys) {
        set_task(&u, tasks + i, i, before);
        lay_keys(&u);
        find_seen(&u);
    }
    int32_t stack[RONDO_BACKWARD_DEPTH], depth = 0;
    for (int32_t h = 0; h <= group && !u.err; h++) {
        for (; depth > 1 && (h == group || rondo__leaves_merge(stack[depth - 2], stack[depth - 1], h)); depth--) {
            add_heads(&u, depth);
            stack[depth - 2] = stack[depth - 1];
        }
        if (h == group)
            break;
        u.head = kv_head * group + h;
        lay_queries(&u);
        for (int32_t i = 0, before = 0; i < count && !u.err; before += tasks[i++].job->keys) {
            set_task(&u, tasks + i, i, before);
            u.result.k = u.heads_k + (size_t)depth * (size_t)u.keys * (size_t)u.size * (size_t)u.dim_wide;
            u.result.v = u.heads_v + (size_t)depth * (size_t)u.keys * (size_t)u.size * (size_t)u.values_wide;
            u.result.full_k = memset(u.heads_full + (size_t)depth * (size_t)u.keys, 0, (size_t)u.keys);
            memset(u.result.full_q, 0, (size_t)u.queries);
            square(&u, height, 0, 0, u.queries, 0, 0, u.keys, u.result);
            if (u.makes_q && !u.err)
                put_queries(&u);
            if (u.makes_k && !sums && !u.err)
                store_keys(&u, u.head, u.t->desc->heads, u.result.k, u.result.v, u.result.full_k);
        }
        if (sums)
            stack[depth++] = h;
    }
    if (sums && !u.err)
        put_keys(&u, u.heads_k, u.heads_v, u.heads_full);
    return u.err;
}

/* C13: chains of several rows at once, as each waits for itself. */
static void sums(const struct rondo_backward_sums *of, int64_t first, int64_t end)
{
    enum { AT_ONCE = 8 };
    const int64_t dim = of->value_dim;
    for (int64_t i = first * of->heads; i < end * of->heads; i += AT_ONCE) {
        const int64_t rows = end * of->heads - i < AT_ONCE ? end * of->heads - i : AT_ONCE;
        float s[AT_ONCE] = { 0.0f };
        for (int64_t j = 0; j < dim + (dim & 1); j++) {
            const int64_t d = j ^ 1;
            for (int64_t r = 0; r < rows && d < dim; r++)
                s[r] = rondo__fma(rondo__element(of->dout, (i + r) * dim + d, of->out_type), rondo__element(of->out, (i + r) * dim + d, of->out_type),
                                  s[r]);
        }
        for (int64_t r = 0; r < rows; r++)
            of->sums[i + r] = of->dlse ? s[r] - of->dlse[i + r] : s[r];
    }
}

const struct rondo_cpu_backward RONDO_ISA_TABLE(backward) = { bytes, run, bias, bias_bytes, sums, join_nodes };
