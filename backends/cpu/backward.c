/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Fast gradients of attention: the bits of ref_backward.c. Built once per instruction set.
 *
 * For each query head all tiles of a leaf of queries and a leaf of keys are visited once, along a Z-curve: the four quarters of a square of
 * leaves one after another, each in the same way. A quarter makes nodes of the tree over keys for its queries and nodes of the tree over queries
 * for its keys, so one visit of a tile feeds both trees, with five products, and of each height one node for each row waits at most: memory in
 * proportion to rows. Quarters that nobody sees anything in are left out, and nodes without anything in them are only marked.
 *
 * The five products are all the same: acc[m][n] += a[m][k] * b[k][n], k in the contract's order, where b lies in panels of two vectors. What
 * is read for that (K and V turned, and as they are; Q and dO as factors and as panels) is laid out once for a head.
 *
 * Hidden pairs of a tile of which some are seen have weight and gradient 0, and 0 times a number changes the sign of a zero at most; where
 * what would be multiplied is not finite each row takes the pairs that it sees, one by one.
 */
#include "backends/cpu/backward.h"
#include "backends/cpu/cpu.h"
#include "backends/cpu/vec.h"
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
    bool makes_q, makes_k;
    /* K and V of the KV head, [leaf] each: turned, [panel of keys][dim][PANEL]; and K as it is, [panel of dim][key][PANEL] */
    float *k_turned, *v_turned, *k_panels;
    /* Q and dO of the head: [strip of queries][dim][STRIP], [panel of dim][query][PANEL] */
    float *q_strips, *o_strips, *q_panels, *o_panels;
    float *n, *c, *sum;                /* [leaf][size]; n NAN: so is the row */
    uint8_t *live, *whole, *q_finite, *k_finite;   /* live [leaf][size]: the row takes part; whole: all of them do */
    int32_t *see_first, *see_end;      /* [leaf of queries]: what they see lies in these of the list of keys' leaves */
    struct nodes result, wait[HEIGHTS];   /* wait[h]: of squares of 2^h leaves */
    float *heads_k, *heads_v;          /* stack of the group's nodes */
    uint8_t *heads_full;
    /* of the tile at work */
    float *weight, *g;                 /* [size][across]: first the products of Q and K, and of dO and V, then what comes of them */
    float *row;                        /* one row of numbers */
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
        for (int32_t j = 0; j < k->count; j++) {
            const int64_t row = (k->row + j) * d->kv_heads + u->kv_head;
            if (j + AHEAD < k->count) {
                ahead(from->k, (row + AHEAD * d->kv_heads) * u->dim, d->kv_type, u->dim);
                ahead(from->v, (row + AHEAD * d->kv_heads) * u->values, d->kv_type, u->values);
            }
            u->k_finite[n] &= widen(from->k, row * u->dim, d->kv_type, u->dim, u->dim_wide, u->row);
            to_columns(u->row, j, PANEL, u->dim, u->k_turned + (size_t)n * turned_k);
            if (u->makes_q)
                to_panels(u->row, j, u->size, u->dim_wide, u->k_panels + (size_t)n * panels);
            (void)widen(from->v, row * u->values, d->kv_type, u->values, u->values_wide, u->row);
            to_columns(u->row, j, PANEL, u->values, u->v_turned + (size_t)n * turned_v);
        }
    }
}

static void lay_queries(struct unit *u)
{
    const struct rondo_backward_task *t = u->t;
    const struct rondo_backward_desc *d = t->desc;
    const size_t size = (size_t)u->size, strips = size * (size_t)u->dim, o_strips = size * (size_t)u->values;
    const size_t panels = size * (size_t)u->dim_wide, o_panels = size * (size_t)u->values_wide;
    for (int32_t n = 0; n < u->queries; n++) {
        const struct rondo_backward_leaf *q = t->queries + n;
        const struct rondo_backward_queries *from = t->run->queries + q->source;
        const int32_t before = place(u, q);
        u->whole[n] = q->count == u->size;
        u->q_finite[n] = 1;
        memset(u->live + (size_t)n * size, 0, size);
        if (!u->whole[n]) {
            memset(u->q_strips + (size_t)n * strips, 0, strips * sizeof(float));
            memset(u->o_strips + (size_t)n * o_strips, 0, o_strips * sizeof(float));
            if (u->makes_k) {
                memset(u->q_panels + (size_t)n * panels, 0, panels * sizeof(float));
                memset(u->o_panels + (size_t)n * o_panels, 0, o_panels * sizeof(float));
            }
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
            to_columns(u->row, before + i, STRIP, u->dim, u->q_strips + (size_t)n * strips);
            if (u->makes_k)
                to_panels(u->row, before + i, u->size, u->dim_wide, u->q_panels + (size_t)n * panels);
            u->q_finite[n] &= widen(from->dout, row * u->values, d->out_type, u->values, u->values_wide, u->row);
            to_columns(u->row, before + i, STRIP, u->values, u->o_strips + (size_t)n * o_strips);
            if (u->makes_k)
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
        if (general && a->terms.cap_in != 0.0f)
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
    const struct rondo_attention_task *a = &u->t->a;
    struct tile s = { u->t->queries + query, u->t->keys + key, query, key, 0, false };
    const bool general = a->terms.cap_in != 0.0f || a->terms.alibi || a->terms.bias || a->terms.drop;
    const int32_t size = u->size, wide = u->wide, across = u->across;
    const float *k_turned = u->k_turned + (size_t)key * (size_t)wide * (size_t)u->dim, *v_turned = u->v_turned + (size_t)key * (size_t)wide * (size_t)u->values;
    const float *q_strips = u->q_strips + (size_t)query * (size_t)size * (size_t)u->dim, *o_strips = u->o_strips + (size_t)query * (size_t)size * (size_t)u->values;
    const float *k_panels = u->k_panels + (size_t)key * (size_t)size * (size_t)u->dim_wide;
    const float *q_panels = u->q_panels + (size_t)query * (size_t)size * (size_t)u->dim_wide, *o_panels = u->o_panels + (size_t)query * (size_t)size * (size_t)u->values_wide;
    int32_t row_first[LEAF_MAX / STRIP], row_end[LEAF_MAX / STRIP], key_first[LEAF_MAX / STRIP], key_end[LEAF_MAX / STRIP];
    s.before = place(u, s.q);
    if (u->err || !look(u, &s))
        return;
    for (int32_t i = 0; i < size / STRIP; i++) {
        key_first[i] = s.whole ? 0 : size;
        key_end[i] = s.whole ? size : 0;
    }
    for (int32_t i = 0; i < size; i += STRIP) {
        int32_t j0 = 0, j1 = size;
        if (!s.whole) {
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
            product_strips(q_strips + i * u->dim, k_turned + (int64_t)j * u->dim, u->dim, u->weight + i * across + j, across);
            product_strips(o_strips + i * u->values, v_turned + (int64_t)j * u->values, u->values, u->g + i * across + j, across);
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
            finish_general(u, &s, i, from, until);
        else
            finish_plain(u, &s, i, from, until);
    }
    if (!s.whole && !(u->k_finite[key] && u->q_finite[query])) {
        nodes_apart(u, &s, to);
    } else {
        for (int32_t d = 0; d < u->dim_wide && u->makes_q; d += PANEL)
            for (int32_t i = 0; i < size; i += STRIP)
                product_rows(u->g + i * across, across, k_panels + (int64_t)d * size, row_first[i / STRIP], row_end[i / STRIP],
                             to->q + i * u->dim_wide + d, u->dim_wide);
        for (int32_t d = 0; d < u->dim_wide && u->makes_k; d += PANEL)
            for (int32_t j = 0; j < size; j += STRIP)
                product_columns(u->g + j, across, q_panels + (int64_t)d * size, key_first[j / STRIP], key_end[j / STRIP], to->k + j * u->dim_wide + d,
                                u->dim_wide);
        for (int32_t d = 0; d < u->values_wide && u->makes_k; d += PANEL)
            for (int32_t j = 0; j < size; j += STRIP)
                product_columns(u->weight + j, across, o_panels + (int64_t)d * size, key_first[j / STRIP], key_end[j / STRIP],
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

static void add(float *to, const float *from, size_t count)
{
    size_t i = 0;
    for (; i + VL <= count; i += VL)   /* leaves are whole panels */
        vf_store(to + i, vf_add(vf_load(to + i), vf_load(from + i)));
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
        for (int32_t i = 0; i < q->count && u->result.full_q[n]; i++)
            memcpy(to + (i * heads + u->head) * u->dim, node + i * u->dim_wide, (size_t)u->dim * sizeof *to);
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
        for (int64_t j = 0; j < rows && full[n]; j++) {
            const size_t at = (size_t)n * (size_t)u->size + (size_t)j;
            memcpy(to + (j * heads + head) * u->dim, dk + at * (size_t)u->dim_wide, (size_t)u->dim * sizeof *to);
            memcpy(values + (j * heads + head) * u->values, dv + at * (size_t)u->values_wide, (size_t)u->values * sizeof *to);
        }
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

/* The smallest square that has all leaves. */
static int32_t height_of(const struct unit *u)
{
    const struct rondo_backward_task *t = u->t;
    int64_t last = 0;
    int32_t height = 0;
    if (u->queries)
        last = t->queries[u->queries - 1].leaf;
    if (u->keys && t->keys[u->keys - 1].leaf > last)
        last = t->keys[u->keys - 1].leaf;
    for (; last; last >>= 1)
        height++;
    return height;
}

/* Of the group's heads so many nodes are on the stack at most. */
static int32_t head_depth(const struct unit *u)
{
    int32_t depth = 1;
    for (int32_t i = u->t->desc->heads / u->t->desc->kv_heads - 1; i > 0; i >>= 1)
        depth++;
    return depth;
}

static void lay_out(struct unit *u, struct taker *k)
{
    const int64_t size = u->size, wide = u->wide, q_rows = u->queries * size, k_rows = u->keys * size;
    const int32_t depth = head_depth(u), height = height_of(u);
    u->k_turned = take(k, u->keys * wide, u->dim, sizeof(float));
    u->v_turned = take(k, u->keys * wide, u->values, sizeof(float));
    u->k_panels = take(k, u->makes_q ? k_rows : 0, u->dim_wide, sizeof(float));
    u->q_strips = take(k, q_rows, u->dim, sizeof(float));
    u->o_strips = take(k, q_rows, u->values, sizeof(float));
    u->q_panels = take(k, u->makes_k ? q_rows : 0, u->dim_wide, sizeof(float));
    u->o_panels = take(k, u->makes_k ? q_rows : 0, u->values_wide, sizeof(float));
    u->n = take(k, q_rows, 3, sizeof(float));
    u->live = take(k, q_rows, 1, 1);
    u->whole = take(k, u->queries, 2, 1);
    u->k_finite = take(k, u->keys, 1, 1);
    u->see_first = take(k, u->queries, 2, sizeof(int32_t));
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
    u->row = take(k, 1, (u->dim_wide > u->values_wide ? u->dim_wide : u->values_wide), sizeof(float));
    u->seen = take(k, size, 4, sizeof(uint64_t));
    if (!k->at)
        return;
    u->c = u->n + q_rows;
    u->sum = u->c + q_rows;
    u->q_finite = u->whole + u->queries;
    u->see_end = u->see_first + u->queries;
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

static bool bytes(const struct rondo_backward_task *t, size_t *out)
{
    struct unit u = unit_of(t);
    struct taker k = { NULL, 0, true };
    lay_out(&u, &k);
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

static int run(const struct rondo_backward_task *t, int32_t kv_head, void *scratch, const struct rondo_poll *poll)
{
    struct unit u = unit_of(t);
    struct taker k = { scratch, 0, true };
    const int32_t group = t->desc->heads / t->desc->kv_heads;
    if (!(u.makes_q || u.makes_k))
        return 0;
    lay_out(&u, &k);
    u.poll = poll;
    u.kv_head = kv_head;
    lay_keys(&u);
    find_seen(&u);
    const size_t k_all = (size_t)u.keys * (size_t)u.size * (size_t)u.dim_wide, v_all = (size_t)u.keys * (size_t)u.size * (size_t)u.values_wide;
    const size_t k_node = (size_t)u.size * (size_t)u.dim_wide, v_node = (size_t)u.size * (size_t)u.values_wide;
    const bool apart = t->job->key_places >= 0 && !(t->job->what & RONDO_BACKWARD_HEADS);   /* heads' nodes are not added up */
    int32_t stack[RONDO_BACKWARD_DEPTH], depth = 0;
    for (int32_t h = 0; h <= group && !u.err; h++) {
        for (; depth > 1 && (h == group || rondo__leaves_merge(stack[depth - 2], stack[depth - 1], h)); depth--) {
            uint8_t *full = u.heads_full + (size_t)(depth - 2) * (size_t)u.keys, *right = full + u.keys;
            float *dk = u.heads_k + (size_t)(depth - 2) * k_all, *dv = u.heads_v + (size_t)(depth - 2) * v_all;
            for (int32_t i = 0; i < u.keys && u.makes_k && !apart; i++) {
                uint8_t was = full[i];
                if (full[i] != right[i]) {   /* a head without anything in it is 0, not left out: -0 + 0 */
                    memset((full[i] ? dk + k_all : dk) + (size_t)i * k_node, 0, k_node * sizeof *dk);
                    memset((full[i] ? dv + v_all : dv) + (size_t)i * v_node, 0, v_node * sizeof *dv);
                    was = full[i] = right[i] = 1;
                }
                join(dv + (size_t)i * v_node, &was, dv + v_all + (size_t)i * v_node, right + i, 1, v_node);
                join(dk + (size_t)i * k_node, full + i, dk + k_all + (size_t)i * k_node, right + i, 1, k_node);
            }
            stack[depth - 2] = stack[depth - 1];
        }
        if (h == group)
            break;
        u.head = kv_head * group + h;
        lay_queries(&u);
        u.result.k = u.heads_k + (size_t)depth * k_all;
        u.result.v = u.heads_v + (size_t)depth * v_all;
        u.result.full_k = memset(u.heads_full + (size_t)depth * (size_t)u.keys, 0, (size_t)u.keys);
        memset(u.result.full_q, 0, (size_t)u.queries);
        square(&u, height_of(&u), 0, 0, u.queries, 0, 0, u.keys, u.result);
        if (u.makes_q && !u.err)
            put_queries(&u);
        if (u.makes_k && apart && !u.err)
            store_keys(&u, u.head, t->desc->heads, u.result.k, u.result.v, u.result.full_k);
        stack[depth++] = h;
    }
    if (u.makes_k && !apart && !u.err)
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

const struct rondo_cpu_backward RONDO_ISA_TABLE(backward) = { bytes, run, NULL, NULL, sums, NULL };
