/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The bias's gradient in vectors (backward.c, which is built once for each instruction set): the bits of ref_backward.c. Of the queries of one leaf
 * and the keys of another, for each head: the tile is made once more, and its gradients are a node. Nodes are added up in the tree over heads where
 * one bias is for all, then in that over the sequences that share it.
 */
#ifndef RONDO_CPU_BACKWARD_BIAS_H
#define RONDO_CPU_BACKWARD_BIAS_H

#include "backends/cpu/backward_tile.h"

/* Nodes of a tree that wait, [query][wide] each. */
struct pile {
    float *nodes;
    size_t floats;
    int64_t number[RONDO_BACKWARD_DEPTH];
    int32_t depth;
};

static void pile_join(struct pile *p)
{
    add(p->nodes + (size_t)(p->depth - 2) * p->floats, p->nodes + (size_t)(p->depth - 1) * p->floats, p->floats);
    p->number[p->depth - 2] = p->number[p->depth - 1];
    p->depth--;
}

static float *pile_next(struct pile *p, int64_t number)
{
    while (p->depth > 1 && rondo__leaves_merge(p->number[p->depth - 2], p->number[p->depth - 1], number))
        pile_join(p);
    p->number[p->depth] = number;
    return p->nodes + (size_t)p->depth++ * p->floats;
}

static const float *pile_root(struct pile *p)
{
    while (p->depth > 1)
        pile_join(p);
    const bool any = p->depth > 0;
    p->depth = 0;
    return any ? p->nodes : NULL;
}

/* Nodes that wait at most in a tree over numbers up to `last`. */
static int32_t pile_levels(int64_t last)
{
    int32_t n = 1;
    for (; last > 0; last >>= 1)
        n++;
    return n;
}

/* One leaf of each list, and nothing of what nodes of keys and queries take. */
static void bias_lay_out(struct unit *u, struct taker *k, struct pile *sequences, struct pile *heads)
{
    const struct rondo_backward_desc *d = u->t->desc;
    const int64_t size = u->size, wide = u->wide;
    u->k_turned = take(k, wide, u->dim, sizeof(float));
    u->v_turned = take(k, wide, u->values, sizeof(float));
    u->q_panels = take(k, size, u->dim_wide, sizeof(float));
    u->o_panels = take(k, size, u->values_wide, sizeof(float));
    u->n = take(k, 3 * size, 1, sizeof(float));
    u->live = take(k, size, 1, 1);
    u->whole = take(k, 3, 1, 1);
    u->weight = take(k, 2 * size, u->across, sizeof(float));
    u->row = take(k, TOGETHER, u->dim_wide > u->values_wide ? u->dim_wide : u->values_wide, sizeof(float));
    u->seen = take(k, size, 4, sizeof(uint64_t));
    sequences->floats = heads->floats = (size_t)size * (size_t)wide;
    sequences->nodes = take(k, pile_levels(d->sequences - 1), (int64_t)sequences->floats, sizeof(float));
    heads->nodes = take(k, pile_levels(d->heads - 1), (int64_t)heads->floats, sizeof(float));
    if (!k->at)
        return;
    u->c = u->n + size;
    u->sum = u->c + size;
    u->q_finite = u->whole + 1;
    u->k_finite = u->whole + 2;
    u->g = u->weight + size * u->across;
}

static struct unit bias_unit(const struct rondo_backward_task *t)
{
    const struct rondo_backward_desc *d = t->desc;
    return (struct unit){ .t = t, .size = d->leaf_size, .wide = up(d->leaf_size, PANEL), .across = up(d->leaf_size, PANEL) + 16, .dim = d->head_dim,
                          .values = d->value_dim, .dim_wide = up(d->head_dim, PANEL), .values_wide = up(d->value_dim, PANEL), .queries = 1, .keys = 1,
                          .makes_bias = true };
}

static bool bias_bytes(const struct rondo_backward_task *t, size_t *out)
{
    struct unit u = bias_unit(t);
    struct taker k = { NULL, 0, true };
    struct pile sequences, heads;
    bias_lay_out(&u, &k, &sequences, &heads);
    *out = k.bytes;
    return k.fits;
}

/* What of a task's queries lies in rows [query, query + rows), counted from its query 0, with one leaf of its keys, for one head: onto a node of zeros.
 * *laid: the KV head whose keys are laid out, -1: none. */
static void bias_node(struct unit *u, const struct rondo_backward_task *t, const struct rondo_backward_leaf *k, int32_t head, int64_t query,
                      int32_t rows, int32_t *laid, float *node)
{
    struct rondo_backward_task one = *t;
    const int32_t kv_head = head / (t->desc->heads / t->desc->kv_heads);
    one.keys = k;
    u->t = &one;
    u->head = head;
    u->kv_head = kv_head;
    for (int32_t n = 0; n < t->job->queries; n++) {
        const struct rondo_backward_leaf *q = one.queries = t->queries + n;
        const int64_t first = q->first - t->job->cached - query;
        struct tile s = { q, k, 0, 0, 0, false };
        struct reach reach;
        if (first >= rows || first + q->count <= 0)
            continue;
        if (*laid != kv_head)
            lay_keys(u);
        *laid = kv_head;
        lay_queries(u);
        if (!weigh(u, &s, &reach))
            continue;
        for (int64_t i = first < 0 ? -first : 0; i < q->count && first + i < rows; i++)
            memcpy(node + (first + i) * u->wide, u->g + (s.before + i) * u->across, (size_t)u->wide * sizeof *node);
    }
    u->t = t;
}

static const struct rondo_backward_leaf *bias_leaf(const struct rondo_backward_task *t, int64_t leaf)
{
    for (int32_t i = 0; i < t->job->keys; i++)
        if (t->keys[i].leaf == leaf)
            return t->keys + i;
    return NULL;
}

static int bias(const struct rondo_backward_task *tasks, int32_t count, int32_t longest, int32_t leaf, void *scratch, const struct rondo_poll *poll)
{
    const struct rondo_backward_task *most = tasks + longest;
    const struct rondo_backward_desc *d = most->desc;
    const struct rondo_backward_run *run = most->run;
    const struct rondo_backward_leaf *q = most->queries + leaf;
    const int32_t size = d->leaf_size, each = d->bias_heads > 1 ? 1 : d->heads;
    struct unit u = bias_unit(most);
    struct taker k = { scratch, 0, true };
    struct pile over = { .depth = 0 }, heads = { .depth = 0 };
    const struct rondo_backward_task *widest = tasks;
    int64_t length = 0;
    int err = 0;
    bias_lay_out(&u, &k, &over, &heads);
    for (int32_t s = 0; s < count; s++) {
        length = tasks[s].job->length > length ? tasks[s].job->length : length;
        widest = tasks[s].job->keys > widest->job->keys ? tasks + s : widest;
    }
    for (int32_t n = 0; n < widest->job->keys && !err; n++) {
        const int64_t key = widest->keys[n].leaf;
        int32_t laid = -1, laid_of = -1;
        for (int32_t h = 0; h < d->bias_heads; h++) {
            for (int32_t s = 0; s < count; s++) {
                const struct rondo_backward_leaf *keys = bias_leaf(tasks + s, key);
                if (!keys || keys->source < 0)
                    continue;
                laid = laid_of == s ? laid : -1;
                laid_of = s;
                for (int32_t i = 0; i < each; i++) {
                    float *node = memset(pile_next(&heads, i), 0, heads.floats * sizeof(float));
                    bias_node(&u, tasks + s, keys, each > 1 ? i : h, q->first - most->job->cached, q->count, &laid, node);
                }
                const float *sum = pile_root(&heads);
                memcpy(pile_next(&over, s), sum, over.floats * sizeof *sum);
            }
            const float *sum = pile_root(&over);
            const int64_t columns = length - key * size < size ? length - key * size : size;
            const int64_t at = (run->dbias_row[most->job->sequence] + q->first) * run->dbias.row_stride + (d->head + h) * run->dbias.head_stride +
                               run->dbias_key[most->job->sequence] + key * size;
            for (int32_t i = 0; i < q->count; i++)
                put_row(sum ? sum + (int64_t)i * u.wide : NULL, (int32_t)columns, run->dbias.data, at + i * run->dbias.row_stride, RONDO_F32, 1.0f,
                        run->accumulate);
        }
        err = poll ? poll->call(poll->arg) : 0;
    }
    return err;
}

#endif
