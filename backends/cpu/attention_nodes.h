/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The nodes of attention.c's panels: stacks of them, nodes in slots, merging, and the output. Included once per
 * instruction set.
 */
#ifndef RONDO_CPU_ATTENTION_NODES_H
#define RONDO_CPU_ATTENTION_NODES_H

#include "backends/cpu/attention_block.h"

static float *node(const struct block *b, const struct panel *p, int32_t position)
{
    return p->nodes + (size_t)p->place[position] * b->node_floats;
}
static float *node_m(const struct block *b, float *n) { return n + (size_t)b->height * (size_t)b->padded; }
static float *node_l(const struct block *b, float *n) { return node_m(b, n) + PANEL; }

/* C5 for M and l of a panel: m and l, a right node's, become those of its merge with the left node n;
 * scale[row], scale[PANEL + row] are the factors for the left acc and the right one. */
static void merge_heads(const struct block *b, const struct panel *p, float *n, float *m, float *l,
                        float *scale)
{
    const float *nm = node_m(b, n), *nl = node_l(b, n);
    for (int32_t v = 0; v < p->vecs * VL; v += VL) {
        const vf ma = vf_load(nm + v), mb = vf_load(m + v), big = vf_max(ma, mb);
        const vf sa = vf_merge_scale(vf_sub(ma, big)), sb = vf_merge_scale(vf_sub(mb, big));
        vf_store(m + v, big);
        vf_store(l + v, vf_fma(vf_load(nl + v), sa, vf_mul(vf_load(l + v), sb)));
        vf_store(scale + v, sa);
        vf_store(scale + PANEL + v, sb);
    }
}

/* Where row r of a panel lies in a slot: acc at *acc, M and l at *m and *l. */
static void slot_row(const struct block *b, const struct panel *p, float *slot, int32_t r, float **acc,
                     float **m, float **l)
{
    const struct rondo_attention_task *t = b->t;
    const int32_t row = p->row + r;
    const size_t rows = (size_t)t->q_rows * (size_t)t->heads;
    const size_t at = (size_t)(b->token + row / b->group) * (size_t)t->heads +
                      (size_t)(p->kv_head * b->group + row % b->group);
    *acc = slot + at * (size_t)t->value_dim;
    *m = slot + rows * (size_t)t->value_dim + at;
    *l = *m + rows;
}

/* Where the acc of row r lies for a stack position of a panel. */
static float *acc_row(const struct block *b, const struct panel *p, int32_t position, int32_t r)
{
    float *acc, *m, *l;
    if (p->full[position] == NODE)
        return node(b, p, position) + (size_t)r * (size_t)b->padded;
    slot_row(b, p, p->slot[position], r, &acc, &m, &l);
    return acc;
}

/* Fetches a node that is still in its slot, for who works on it in place. */
static void bring(const struct block *b, const struct panel *p, int32_t position)
{
    const size_t dim = (size_t)b->t->value_dim, pad = (size_t)b->padded - dim;
    float *n = node(b, p, position);
    if (p->full[position] != IN_SLOT)
        return;
    for (int32_t r = 0; r < p->rows; r++) {
        memcpy(n + (size_t)r * (size_t)b->padded, acc_row(b, p, position, r), dim * sizeof *n);
        memset(n + (size_t)r * (size_t)b->padded + dim, 0, pad * sizeof *n);
    }
    p->full[position] = NODE;
}

/* What waits below `top` in a slot that is about to be written must leave it. */
static void leave_slot(const struct block *b, const struct panel *p, int32_t top, const float *slot)
{
    for (int32_t i = 0; i < top; i++)
        if (p->slot[i] == slot)
            bring(b, p, i);
}

/* The nodes of a panel at `left` and the position after it become one, there; or in slot `to`. */
static void merge_panel(const struct block *b, struct panel *p, int32_t left, float *to)
{
    const int64_t row_bytes = (int64_t)b->t->value_dim * (int64_t)sizeof(float);
    const int32_t right = left + 1;
    float scale[2 * PANEL];
    if (p->full[right] == EMPTY)
        return;
    if (to)
        leave_slot(b, p, left, to);
    if (p->full[left] == EMPTY) {
        const int16_t place = p->place[left];
        p->place[left] = p->place[right];
        p->place[right] = place;
        p->full[left] = p->full[right];
        p->slot[left] = p->slot[right];
        return;
    }
    float *n = node(b, p, left), *y = node(b, p, right), *into, *m, *l;
    merge_heads(b, p, n, node_m(b, y), node_l(b, y), scale);
    memcpy(node_m(b, n), node_m(b, y), 2 * PANEL * sizeof *n);
    for (int32_t r = 0; r < p->rows; r++) {
        const vf sa = vf_set1(scale[r]), sb = vf_set1(scale[PANEL + r]);
        const float *x = acc_row(b, p, left, r), *z = acc_row(b, p, right, r);
        const int32_t later = r + FETCH_ROWS;
        if (later < p->rows) {
            for (int32_t position = left; position <= right; position++)
                if (p->full[position] == IN_SLOT)
                    fetch_row(acc_row(b, p, position, later), row_bytes);
            if (to) {
                slot_row(b, p, to, later, &into, &m, &l);
                fetch_row(into, row_bytes);
            }
        }
        into = n + (size_t)r * (size_t)b->padded;
        if (to) {
            slot_row(b, p, to, r, &into, &m, &l);
            *m = node_m(b, n)[r];
            *l = node_l(b, n)[r];
        }
        for (int32_t d = 0; d < b->padded; d += VL)
            vf_store(into + d, vf_fma(vf_load(x + d), sa, vf_mul(vf_load(z + d), sb)));
    }
    p->full[left] = to ? STORED : NODE;
}

/* The two topmost nodes of every panel become one; in slot `to` at once where the program stores it next. */
static void merge_step(struct block *b, float *to)
{
    b->top--;
    for (int32_t i = 0; i < b->panels; i++)
        merge_panel(b, b->panel + i, b->top - 1, to);
}

/* ---- LOAD, STORE, OUT ---- */

/* Whether acc may be read and written in slots by whole vectors. */
static bool whole(const struct block *b) { return b->padded == b->t->value_dim; }

static void load_step(struct block *b, const float *from)
{
    float *slot = (float *)(uintptr_t)from; /* which nothing writes to as long as it waits here */
    for (int32_t i = 0; i < b->panels; i++) {
        struct panel *p = b->panel + i;
        float *n = node(b, p, b->top), *acc, *m, *l;
        memset(node_m(b, n), 0, 2 * PANEL * sizeof *n);
        for (int32_t r = 0; r < p->rows; r++) {
            slot_row(b, p, slot, r, &acc, &m, &l);
            node_m(b, n)[r] = *m;
            node_l(b, n)[r] = *l;
        }
        p->full[b->top] = IN_SLOT;
        p->slot[b->top] = slot;
        if (!whole(b))
            bring(b, p, b->top);
    }
    b->top++;
}

static void store_step(struct block *b, float *slot)
{
    const size_t dim = (size_t)b->t->value_dim;
    b->top--;
    for (int32_t i = 0; i < b->panels; i++) {
        const struct panel *p = b->panel + i;
        float *n = node(b, p, b->top), *acc, *m, *l;
        const bool empty = p->full[b->top] == EMPTY;
        leave_slot(b, p, b->top, slot);
        if (p->full[b->top] == STORED)
            continue;
        bring(b, p, b->top);
        for (int32_t r = 0; r < p->rows; r++) {
            slot_row(b, p, slot, r, &acc, &m, &l);
            if (empty)
                memset(acc, 0, dim * sizeof *acc);
            else
                memcpy(acc, n + (size_t)r * (size_t)b->padded, dim * sizeof *acc);
            *m = empty ? -FLT_MAX : node_m(b, n)[r];
            *l = empty ? 0.0f : node_l(b, n)[r];
        }
    }
}

/* C7: the root of a row with its sink; returns the factor for its acc. */
static float sink(const struct rondo_attention_task *t, int32_t head, float *m, float *l)
{
    const float x = t->sinks[head] * RONDO_LOG2E_F, n = rondo__rint(x), weight = rondo__exp2_poly(x - n);
    const float M = weight != weight ? FLT_MAX : n, top = *m > M ? *m : M, scale = rondo__merge_scale(*m - top);
    if (*l == 0.0f || x == -__builtin_inff())
        return 1.0f;
    *m = top;
    *l = rondo__fma(*l, scale, weight * rondo__merge_scale(M - top));
    return scale;
}

/* C7. */
static void out_step(struct block *b)
{
    const struct rondo_attention_task *t = b->t;
    b->top--;
    for (int32_t i = 0; i < b->panels; i++) {
        const struct panel *p = b->panel + i;
        const int full = p->full[b->top] != EMPTY;
        float *n = node(b, p, b->top);
        for (int32_t r = 0; r < p->rows; r++) {
            const int32_t row = p->row + r, head = p->kv_head * b->group + row % b->group;
            const int64_t token = b->token + row / b->group,
                          at = token * t->out_row_stride + head * t->out_head_stride;
            float l = full ? node_l(b, n)[r] : 0.0f, m = full ? node_m(b, n)[r] : 0.0f;
            const vf own = vf_set1(t->terms.sinks ? sink(t, head, &m, &l) : 1.0f);
            const vf inv = vf_set1(t->terms.drop ? 1.0f / l * t->terms.keep : 1.0f / l);
            const float *acc = full ? acc_row(b, p, b->top, r) : n;
            for (int32_t d = 0; d < t->value_dim; d += VL) {
                const vf o = l == 0.0f ? vf_zero() : vf_add(vf_mul(vf_mul(vf_load(acc + d), own), inv), vf_zero());
                if (d + VL <= t->value_dim) {
                    vf_put_element(t->out, at + d, t->out_type, o);
                } else {
                    float rest[VL];
                    vf_store(rest, o);
                    for (int32_t j = 0; d + j < t->value_dim; j++)
                        rondo__put_element(t->out, at + d + j, t->out_type, rest[j]);
                }
            }
            if (t->lse)
                t->lse[token * t->lse_row_stride + head * t->lse_head_stride] = rondo__lse(m, l);
            if (t->stats) {
                float *stats = t->stats + token * t->stats_row_stride + head * t->stats_head_stride;
                rondo__put_element(stats, 0, RONDO_F32, l == 0.0f ? 0.0f : m + 0.0f);
                rondo__put_element(stats, 1, RONDO_F32, l);
            }
        }
    }
}

#endif
