/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What a tile of a leaf of queries and a leaf of keys comes to (backward.c, which is built once for each instruction set): rows laid out for its
 * products, who sees what, and of each pair its weight and the gradient of its score, by rule 13 of rondo-numerics(7).
 */
#ifndef RONDO_CPU_BACKWARD_TILE_H
#define RONDO_CPU_BACKWARD_TILE_H

#include "backends/cpu/backward_product.h"

#define LEAF_MAX RONDO_BACKWARD_LEAF_MAX
#define HEIGHTS 42

/* Nodes of both trees for some leaves; full[i]: the i-th is not empty. */
struct nodes {
    float *q, *k, *v;
    uint8_t *full_q, *full_k;
};

struct unit {
    const struct rondo_backward_task *t;
    const struct rondo_poll *poll;
    int32_t size, wide, dim, values, dim_wide, values_wide;   /* of a leaf; wide: up to whole panels */
    int32_t across;                    /* from a row of the tile to the next: an odd number of cache lines, so that columns do not crowd */
    int32_t queries, keys, head, kv_head;
    bool makes_q, makes_k, makes_bias; /* makes_bias: g is the gradient of the score behind the softcap */
    /* K and V of the KV head, [leaf] each: turned, [panel of keys][dim][PANEL]; and K as it is, [panel of dim][key][PANEL] */
    float *k_turned, *v_turned, *k_panels;
    float *q_panels, *o_panels;        /* Q and dO of the head: [panel of dim][query][PANEL] */
    float *n, *c, *sum;                /* [leaf][size]; n NAN: so is the row */
    uint8_t *live, *whole, *q_finite, *k_finite;   /* live [leaf][size]: the row takes part; whole: all of them do */
    int32_t *see_first, *see_end;      /* [leaf of queries]: what they see lies in these of the list of keys' leaves */
    struct {
        float *k_turned, *v_turned, *k_panels;
        uint8_t *k_finite;
        int32_t *see;
    } all;                             /* these of all tasks that go together, of the first of them; those above are the one's at work */
    struct nodes result, wait[HEIGHTS];   /* wait[h]: of squares of 2^h leaves */
    float *heads_k, *heads_v;          /* stack of the group's nodes */
    uint8_t *heads_full;
    /* of the tile at work */
    float *weight, *g;                 /* [size][across]: first the products of Q and K, and of dO and V, then what comes of them */
    float *row;                        /* some rows of numbers */
    uint64_t (*seen)[4];               /* [size] */
    int err;
};

/* ---- rows, laid out ---- */

static int32_t place(const struct unit *u, const struct rondo_backward_leaf *q)
{
    return (int32_t)((q->first - u->t->job->base) - q->leaf * u->size);
}

static void lay_keys(struct unit *u)
{
    const struct rondo_backward_task *t = u->t;
    const struct rondo_backward_desc *d = t->desc;
    const size_t turned_k = (size_t)u->wide * (size_t)u->dim, turned_v = (size_t)u->wide * (size_t)u->values;
    const size_t panels = (size_t)u->size * (size_t)u->dim_wide;
    for (int32_t n = 0; n < u->keys; n++) {
        const struct rondo_backward_leaf *k = t->keys + n;
        const struct rondo_backward_keys *from = t->run->keys + k->source;
        u->k_finite[n] = 1;
        if (k->count < u->wide) {
            memset(u->k_turned + (size_t)n * turned_k, 0, turned_k * sizeof(float));
            memset(u->v_turned + (size_t)n * turned_v, 0, turned_v * sizeof(float));
            if (u->makes_q)
                memset(u->k_panels + (size_t)n * panels, 0, panels * sizeof(float));
        }
        for (int32_t j = 0, rows; j < k->count; j += rows) {
            rows = together(j, k->count - j);
            for (int32_t r = j; r < j + rows; r++) {
                const int64_t row = (k->row + r) * d->kv_heads + u->kv_head;
                float *wide = u->row + (r - j) * u->dim_wide;
                if (r + AHEAD < k->count) {
                    ahead(from->k, (row + AHEAD * d->kv_heads) * u->dim, d->kv_type, u->dim);
                    ahead(from->v, (row + AHEAD * d->kv_heads) * u->values, d->kv_type, u->values);
                }
                u->k_finite[n] &= widen(from->k, row * u->dim, d->kv_type, u->dim, u->dim_wide, wide);
                if (u->makes_q)
                    to_panels(wide, r, u->size, u->dim_wide, u->k_panels + (size_t)n * panels);
            }
            to_columns(u->row, rows, u->dim_wide, j, PANEL, u->dim, u->k_turned + (size_t)n * turned_k);
            for (int32_t r = j; r < j + rows; r++)
                (void)widen(from->v, ((k->row + r) * d->kv_heads + u->kv_head) * u->values, d->kv_type, u->values, u->values_wide,
                            u->row + (r - j) * u->values_wide);
            to_columns(u->row, rows, u->values_wide, j, PANEL, u->values, u->v_turned + (size_t)n * turned_v);
        }
    }
}

static void lay_queries(struct unit *u)
{
    const struct rondo_backward_task *t = u->t;
    const struct rondo_backward_desc *d = t->desc;
    const size_t size = (size_t)u->size, panels = size * (size_t)u->dim_wide, o_panels = size * (size_t)u->values_wide;
    for (int32_t n = 0; n < u->queries; n++) {
        const struct rondo_backward_leaf *q = t->queries + n;
        const struct rondo_backward_queries *from = t->run->queries + q->source;
        const int32_t before = place(u, q);
        u->whole[n] = q->count == u->size;
        u->q_finite[n] = 1;
        memset(u->live + (size_t)n * size, 0, size);
        if (!u->whole[n]) {
            memset(u->q_panels + (size_t)n * panels, 0, panels * sizeof(float));
            memset(u->o_panels + (size_t)n * o_panels, 0, o_panels * sizeof(float));
        }
        for (int32_t i = 0; i < q->count; i++) {
            const int64_t row = (q->row + i) * d->heads + u->head;
            const size_t at = (size_t)n * size + (size_t)(before + i);
            if (i + AHEAD < q->count) {
                ahead(from->q, (row + AHEAD * d->heads) * u->dim, d->q_type, u->dim);
                ahead(from->dout, (row + AHEAD * d->heads) * u->values, d->out_type, u->values);
            }
            const bool lives = rondo__backward_row(from->lse[row], u->n + at, u->c + at);
            u->live[at] = lives;
            u->whole[n] &= lives;
            if (lives && u->n[at] != u->n[at])
                u->c[at] = u->n[at];   /* what is scaled by 2^NaN may not know */
            u->sum[at] = from->sums[row];
            u->q_finite[n] &= widen(from->q, row * u->dim, d->q_type, u->dim, u->dim_wide, u->row);
            to_panels(u->row, before + i, u->size, u->dim_wide, u->q_panels + (size_t)n * panels);
            u->q_finite[n] &= widen(from->dout, row * u->values, d->out_type, u->values, u->values_wide, u->row);
            to_panels(u->row, before + i, u->size, u->values_wide, u->o_panels + (size_t)n * o_panels);
        }
    }
}

/* ---- one tile: what each pair gives ---- */

static int32_t first_bit(const uint64_t bits[4])
{
    for (int32_t w = 0; w < 4; w++)
        if (bits[w])
            return 64 * w + __builtin_ctzll(bits[w]);
    return LEAF_MAX;
}

static int32_t end_bit(const uint64_t bits[4])
{
    for (int32_t w = 3; w >= 0; w--)
        if (bits[w])
            return 64 * w + 64 - __builtin_clzll(bits[w]);
    return 0;
}

struct tile {
    const struct rondo_backward_leaf *q, *k;
    int32_t query, key, before;        /* of the lists; before: rows of the leaf before the first that is here */
    bool whole;                        /* every pair is seen */
};

/* Which keys each row sees, into u->seen. false: none does. */
static bool look(struct unit *u, struct tile *s)
{
    const struct rondo_attention_task *a = &u->t->a;
    const struct rondo_leaf leaf = { .row = 0, .first = s->k->first, .count = s->k->count, .step = 1 };
    const rondo_span span = { s->q->first, s->q->count, 1, 0 };
    int64_t lo, hi;
    const int view = a->mask->kind->view(a->mask, a->sequence, &span, leaf.first, leaf.first + leaf.count, &lo, &hi);
    uint64_t any = 0;
    if (view == RONDO_MASK_NONE)
        return false;
    s->whole = view == RONDO_MASK_ALL && u->whole[s->query] && s->k->count == u->size && !a->terms.bias;
    if (s->whole)
        return true;
    memset(u->seen, 0, (size_t)u->size * sizeof *u->seen);
    for (int32_t i = 0; i < s->q->count; i++) {
        const int64_t p = s->q->first + i;
        uint64_t *seen = u->seen[s->before + i];
        if (!u->live[(size_t)s->query * (size_t)u->size + (size_t)(s->before + i)])
            continue;
        a->mask->kind->row(a->mask, a->sequence, p, &lo, &hi);
        rondo__leaf_bits(a, &leaf, u->head, p, lo, hi, seen);
        if (a->terms.bias) {
            const float *bias = a->bias + a->bias_at + p * a->bias_row_stride + u->head * a->bias_head_stride + leaf.first;
            for (int32_t j = first_bit(seen), end = end_bit(seen); j < end; j++)
                if (bias[j] == -__builtin_inff())
                    seen[j / 64] &= ~((uint64_t)1 << (j % 64));
        }
        any |= seen[0] | seen[1] | seen[2] | seen[3];
    }
    return any != 0;
}

/* Which of a row's keys are dropped, of [j0, j1). */
static void drop_bits(const struct unit *u, int64_t p, int64_t first, int32_t j0, int32_t j1, uint64_t bits[4])
{
    memset(bits, 0, 4 * sizeof *bits);
    for (int64_t k = (first + j0) & ~(int64_t)3; k < first + j1; k += 4) {
        uint32_t words[4];
        rondo__drop_words(&u->t->a, u->t->a.head + u->head, p, k, words);
        for (int32_t i = 0; i < 4; i++) {
            const int64_t j = k + i - first;
            if (j >= j0 && j < j1 && words[i] < u->t->a.terms.drop)
                bits[j / 64] |= (uint64_t)1 << (j % 64);
        }
    }
}

/* C13 of one row: columns [j0, j1) of a strip, whole panels. general: the plan has terms. */
VEC void finish_row(struct unit *u, const struct tile *s, int32_t i, int32_t j0, int32_t j1, const bool general)
{
    const struct rondo_attention_task *a = &u->t->a;
    const size_t at = (size_t)s->query * (size_t)u->size + (size_t)i;
    const vf n = vf_set1(u->n[at]), c = vf_set1(u->c[at]), sum = vf_set1(u->sum[at]), least = vf_set1(-125.0f);
    const vf scale = vf_set1(general && a->terms.cap_in != 0.0f ? a->terms.cap_in : a->scale_log2);
    const int64_t p = s->q->first + i - s->before;
    float *weight = u->weight + (size_t)i * (size_t)u->across, *g = u->g + (size_t)i * (size_t)u->across;
    float distance[LEAF_MAX], bias[LEAF_MAX];
    uint64_t drops[4] = { 0, 0, 0, 0 };
    if (general && a->terms.alibi)
        for (int32_t j = j0; j < j1; j++) {
            const int64_t k = s->k->first + j;
            distance[j] = (float)(k > p ? (uint64_t)k - (uint64_t)p : (uint64_t)p - (uint64_t)k);
        }
    if (general && a->terms.bias && (i < s->before || i >= s->before + s->q->count)) {   /* no row of a query's, and none of the bias's */
        memset(bias, 0, sizeof bias);
    } else if (general && a->terms.bias) {
        const float *from = a->bias + a->bias_at + p * a->bias_row_stride + u->head * a->bias_head_stride + s->k->first;
        for (int32_t j = j0; j < j1; j++)
            bias[j] = j < s->k->count ? from[j] : 0.0f;
    }
    if (general && a->terms.drop)
        drop_bits(u, p, s->k->first, j0, j1 < s->k->count ? j1 : s->k->count, drops);
    for (int32_t j = j0; j < j1; j += VL) {
        vf x = vf_mul(vf_load(weight + j), scale), dp = vf_load(g + j), slope = vf_set1(1.0f);
        if (general) {
            if (a->terms.cap_in != 0.0f) {
                const vf tanh = vf_tanh(x);
                x = vf_mul(tanh, vf_set1(a->terms.cap_out));
                slope = vf_fma(vf_neg(tanh), tanh, slope);
            }
            if (a->terms.alibi)
                x = vf_fma(vf_set1(-(a->alibi[u->head] * RONDO_LOG2E_F)), vf_load(distance + j), x);
            if (a->terms.bias)
                x = vf_fma(vf_load(bias + j), vf_set1(RONDO_LOG2E_F), x);
        }
        const vf whole = vf_rint(x), e = vf_min(vf_set1(127.0f), vf_sub(whole, n));
        vf w = vf_scale(vf_exp2_poly(vf_sub(x, whole)), e);
        w = vf_mul(vf_select(vf_lt(e, least), vf_zero(), w), c);
        vf value = w;
        if (general && a->terms.drop) {
            const vm dropped = vm_from_bits((uint32_t)(drops[j / 64] >> (j % 64)));
            dp = vf_select(dropped, vf_zero(), vf_mul(dp, vf_set1(a->terms.keep)));
            value = vf_select(dropped, vf_zero(), w);
        }
        vf ds = vf_mul(w, vf_sub(dp, sum));
        if (general && a->terms.cap_in != 0.0f && !u->makes_bias)
            ds = vf_mul(ds, slope);
        if (!s->whole) {
            const vm seen = vm_from_bits((uint32_t)(u->seen[i][j / 64] >> (j % 64)));
            value = vf_select(seen, value, vf_zero());
            ds = vf_select(seen, ds, vf_zero());
        }
        vf_store(weight + j, value);
        vf_store(g + j, ds);
    }
}

static __attribute__((noinline)) void finish_plain(struct unit *u, const struct tile *s, int32_t i, int32_t j0, int32_t j1)
{
    for (int32_t r = 0; r < STRIP; r++)
        finish_row(u, s, i + r, j0, j1, false);
}

static __attribute__((noinline)) void finish_general(struct unit *u, const struct tile *s, int32_t i, int32_t j0, int32_t j1)
{
    for (int32_t r = 0; r < STRIP; r++)
        finish_row(u, s, i + r, j0, j1, true);
}

/* Which keys strips of queries see, from the first to the last, and which queries see strips of keys. */
struct reach {
    int32_t row_first[LEAF_MAX / STRIP], row_end[LEAF_MAX / STRIP], key_first[LEAF_MAX / STRIP], key_end[LEAF_MAX / STRIP];
};

/* The weights and gradients of a tile's pairs, 0 where a pair is hidden. false: nobody sees anything. */
static bool weigh(struct unit *u, struct tile *s, struct reach *reach)
{
    const struct rondo_attention_task *a = &u->t->a;
    const bool general = a->terms.cap_in != 0.0f || a->terms.alibi || a->terms.bias || a->terms.drop;
    const int32_t size = u->size, wide = u->wide, across = u->across;
    const float *k_turned = u->k_turned + (size_t)s->key * (size_t)wide * (size_t)u->dim, *v_turned = u->v_turned + (size_t)s->key * (size_t)wide * (size_t)u->values;
    const float *q = u->q_panels + (size_t)s->query * (size_t)size * (size_t)u->dim_wide, *o = u->o_panels + (size_t)s->query * (size_t)size * (size_t)u->values_wide;
    const int64_t block = (int64_t)size * PANEL;
    int32_t *row_first = reach->row_first, *row_end = reach->row_end, *key_first = reach->key_first, *key_end = reach->key_end;
    s->before = place(u, s->q);
    if (!look(u, s))
        return false;
    for (int32_t i = 0; i < size / STRIP; i++) {
        key_first[i] = s->whole ? 0 : size;
        key_end[i] = s->whole ? size : 0;
    }
    for (int32_t i = 0; i < size; i += STRIP) {
        int32_t j0 = 0, j1 = size;
        if (!s->whole) {
            j0 = LEAF_MAX;
            j1 = 0;
            for (int32_t r = i; r < i + STRIP; r++) {
                const int32_t first = first_bit(u->seen[r]), end = end_bit(u->seen[r]);
                j0 = first < j0 ? first : j0;
                j1 = end > j1 ? end : j1;
            }
            for (int32_t j = j0 / STRIP; j * STRIP < j1; j++) {
                key_first[j] = i < key_first[j] ? i : key_first[j];
                key_end[j] = i + STRIP;
            }
        }
        row_first[i / STRIP] = j0;
        row_end[i / STRIP] = j1;
    }
    /* a panel stays in the nearest cache while all strips come past */
    for (int32_t j = 0; j < wide; j += PANEL)
        for (int32_t i = 0; i < size; i += STRIP) {
            if (row_first[i / STRIP] >= j + PANEL || row_end[i / STRIP] <= j)
                continue;
            product_panels(q + i * PANEL, block, k_turned + (int64_t)j * u->dim, u->dim, u->weight + i * across + j, across);
            product_panels(o + i * PANEL, block, v_turned + (int64_t)j * u->values, u->values, u->g + i * across + j, across);
        }
    for (int32_t i = 0; i < size; i += STRIP) {
        const int32_t j0 = row_first[i / STRIP], j1 = row_end[i / STRIP];
        const int32_t from = j0 < j1 ? j0 / PANEL * PANEL : wide, until = j0 < j1 ? (j1 + PANEL - 1) / PANEL * PANEL : wide;
        for (int32_t r = i; r < i + STRIP && (from > 0 || until < wide); r++) {
            memset(u->weight + r * across, 0, (size_t)from * sizeof(float));
            memset(u->g + r * across, 0, (size_t)from * sizeof(float));
            memset(u->weight + r * across + until, 0, (size_t)(wide - until) * sizeof(float));
            memset(u->g + r * across + until, 0, (size_t)(wide - until) * sizeof(float));
        }
        if (from >= until)
            continue;
        if (general)
            finish_general(u, s, i, from, until);
        else
            finish_plain(u, s, i, from, until);
    }
    return true;
}

/* ---- results ---- */

static void put_row(const float *sum, int32_t dim, void *to, int64_t at, int type, float factor, int accumulate)
{
    int32_t d = 0;
    for (; d + VL <= dim; d += VL) {
        const vf x = vf_add(vf_mul(sum ? vf_load(sum + d) : vf_zero(), vf_set1(factor)), vf_zero());   /* a zero is +0 */
        vf_put_element(to, at + d, type, accumulate ? vf_add(vf_element(to, at + d, type), x) : x);
    }
    for (; d < dim; d++)
        rondo__backward_put(to, at + d, type, sum ? sum[d] : 0.0f, factor, accumulate);
}

static void add(float *to, const float *from, size_t count)
{
    size_t i = 0;
    for (; i + VL <= count; i += VL)   /* leaves are whole panels */
        vf_store(to + i, vf_add(vf_load(to + i), vf_load(from + i)));
}

/* ---- scratch ---- */

struct taker {
    char *at;                          /* NULL: only measured */
    size_t bytes;
    bool fits;
};

static void *take(struct taker *k, int64_t rows, int64_t columns, size_t element)
{
    size_t bytes, all;
    k->fits = k->fits && rondo__mul((size_t)rows, (size_t)columns, &bytes) && rondo__mul(bytes, element, &bytes) && rondo__add(bytes, 63, &bytes) &&
              rondo__add(k->bytes, bytes & ~(size_t)63, &all);
    if (!k->fits)
        return NULL;
    void *p = k->at ? k->at + k->bytes : NULL;
    k->bytes = all;
    return p;
}

static int32_t up(int32_t x, int32_t to) { return (x + to - 1) / to * to; }

#endif
