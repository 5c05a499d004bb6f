/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Attention probabilities (rule C7): the scores of attention.c once more, their weights against the M and l that OUT has left of each row,
 * written as [row][head][key]. Included by attention.c, once per instruction set.
 */
#ifndef RONDO_CPU_ATTENTION_PROBS_H
#define RONDO_CPU_ATTENTION_PROBS_H

/* st[key][row] becomes the probability. */
static void divide(const struct block *b, const struct panel *p, const struct view *w)
{
    const struct rondo_attention_task *t = b->t;
    const int32_t ld = p->vecs * VL;
    float m[PANEL], inv[PANEL], l[PANEL];
    for (int32_t r = 0; r < ld; r++) {
        const int32_t row = p->row + (r < p->rows ? r : p->rows - 1);
        const float *stats = t->stats + (b->token + row / b->group) * t->stats_row_stride + p->head[r] * t->stats_head_stride;
        m[r] = stats[0];
        l[r] = stats[1];
        inv[r] = 1.0f / l[r];
    }
    for (int32_t v = 0; v < ld; v += VL) {
        const vf top = vf_load(m + v), factor = vf_load(inv + v);
        const vm empty = vf_eq(vf_load(l + v), vf_zero());
        for (int32_t key = w->u0; key < w->u1; key++) {
            float *s = b->st + key * ld + v;
            vf_store(s, vf_select(empty, vf_zero(), vf_canonical(vf_mul(vf_weight(vf_load(s), top), factor))));
        }
    }
}

/* The keys of a leaf that rows see go out, four rows at a time. line: room for as many rows of a leaf. */
static void write_out(const struct block *b, const struct panel *p, const struct rondo_leaf *f, const struct view *w, float *line)
{
    const struct rondo_attention_task *t = b->t;
    const int32_t ld = p->vecs * VL;
    for (int32_t r = 0; r < p->rows; r++) {
        const int32_t row = p->row + r;
        float *out = t->probs + ((b->token + row / b->group) * t->probs_row_stride + p->head[r] * t->probs_head_stride + t->probs_at + f->first);
        const float *own = line + (r & 3) * LEAF_MAX;
        uint64_t bits[4];
        for (int32_t key = w->u0; (r & 3) == 0 && key < w->u1; key++)
            for (int32_t i = 0; i < 4; i++)
                line[i * LEAF_MAX + key] = b->st[key * ld + r + i];
        row_bits(b, p, f, r, bits);
        for (int32_t i0 = first_bit(bits), last = end_bit(bits), i1; i0 < last; i0 = i1) {
            for (i1 = i0; i1 < last && bit(bits, i1); i1++) {
            }
            if (f->step == 1)
                memcpy(out + i0, own + i0, (size_t)(i1 - i0) * sizeof *out);
            for (int32_t key = i0; f->step != 1 && key < i1; key++)
                out[(int64_t)key * f->step] = own[key];
            while (i1 < last && !bit(bits, i1))
                i1++;
        }
    }
}

static int probabilities(struct block *b, const struct rondo_poll *poll)
{
    const struct rondo_attention_task *t = b->t;
    float line[4 * LEAF_MAX];
    for (int32_t i = 0; i < t->leaf_count; i++) {
        const struct rondo_leaf *run = t->leaves + i;
        const int64_t leaves = rondo__run_leaves(run, t->leaf_size);
        int64_t first, end;
        rondo__run_visible(run, leaves, b->lo_min, b->hi_max, t->leaf_size, &first, &end);
        for (int64_t j = first; j < end; j++) {
            const struct rondo_leaf f = rondo__run_leaf(run, leaves, j, t->leaf_size);
            int32_t u0, u1;
            block_sees(b, &f, &u0, &u1);
            if (u0 >= u1)
                continue;
            leaf_open(b, &f, b->kv_head, u0, u1);
            leaf_widen(b);
            for (int32_t k = 0; k < b->panels; k++) {
                struct panel *p = b->panel + k;
                struct view w = { 0, 0, 0, 0, 0 };
                panel_sees(b, p, &f, &w);
                if (w.u0 >= w.u1)
                    continue;
                leaf_scores(b, p, &f, &w, NULL, NULL);
                divide(b, p, &w);
                write_out(b, p, &f, &w, line);
            }
            int err = poll ? poll->call(poll->arg) : 0;
            if (err)
                return err;
        }
    }
    return 0;
}

#endif
