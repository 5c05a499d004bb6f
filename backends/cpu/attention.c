/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Fast attention: the bits of ref_attention.c, computed for many query rows at a time. Built once per
 * instruction set.
 *
 * An item is a block of rows (token, head of the KV head's group), cut into panels. The program runs once for
 * the block: for each leaf the panels go one after another, while K and V of the leaf stay in the
 * second-level cache (widened there first, if they are 16 bits wide). Each panel has its own stack of nodes;
 * nodes that would be empty are only marked. What the program merges right after a leaf is merged in the P*V
 * tile's epilogue, before the leaf's node has seen memory.
 *
 * Where the rows of a panel see different parts of a leaf, hidden scores are -inf, which gives weight 0 in
 * maximum and sum; in P*V a hidden value must not even be multiplied by 0, so rows take the keys that all see
 * in tiles and the others row by row.
 */
#include "backends/cpu/attention_tile.h"
#include "backends/cpu/cpu.h"

/* Rows of an item. A leaf is copied once for all of them, so more is better, until Q and the topmost nodes of
 * the panels leave the second-level cache: 576 to 1536 measured alike, 384 2 % slower. */
#define BLOCK_ROWS 768
/* How many rows ahead are worth fetching already. */
#define FETCH_ROWS 8

struct panel {
    float *qt; /* [head_dim][vecs * VL] */
    float *nodes; /* [depth] nodes: acc[PANEL][padded], m[PANEL], l[PANEL] */
    int16_t *place; /* stack position -> node */
    uint8_t *full; /* stack position: an enum state */
    float **slot;  /* stack position: the slot of a node that is IN_SLOT */
    int32_t row, rows, vecs;
    int64_t lo_min, lo_max, hi_min, hi_max; /* of its rows' visible ranges */
};

/* What a panel has at a position of its stack. A LOADed node stays IN_SLOT until somebody works on it: M and l
 * come at once, acc is read where it lies. STORED: a MERGE has put its result where the next step stores it. */
enum state { EMPTY, NODE, IN_SLOT, STORED };

struct block {
    const struct rondo_attention_task *t;
    int64_t token; /* the first one */
    int32_t tokens, group, kv_head, rows, panels, padded,
        top; /* padded: value_dim in whole vectors; top: stack height */
    size_t node_floats;
    int64_t *lo, *hi; /* [tokens] */
    struct panel *panel;
    float *st, *sum; /* scores; sums of a partly hidden leaf */
    float *wide_q, *wide_k,
        *wide_v; /* four rows of Q; a leaf, widened or copied together (NULL: read where it lies) */
    int64_t lo_min, hi_max;
    /* the leaf at work */
    const float *k, *v;
    int64_t k_stride, v_stride;
    struct ahead next;
};

/* ---- scratch ---- */

static int32_t padded_dim(const struct rondo_attention_task *t) { return (t->value_dim + VL - 1) / VL * VL; }

static int64_t tokens(const struct rondo_attention_task *t)
{
    int64_t n = BLOCK_ROWS / (t->heads / t->kv_heads);
    n = n < 1 ? 1 : n;
    return n < t->q_rows ? n : t->q_rows;
}

/* Takes `bytes` from the scratch at *at, or only counts them where scratch is NULL. */
static void *take(char *scratch, size_t *at, size_t bytes)
{
    size_t from = *at;
    *at = from + ((bytes + 63) & ~(size_t)63);
    return scratch ? scratch + from : NULL;
}

/* Whether the block may read leaves from its own copy: to widen them once for all panels, or because rows far
 * apart fall into few sets of the caches, which costs more than the copy where several panels read them. */
static bool copies(const struct rondo_attention_task *t, int32_t panels)
{
    if (t->kv_type != RONDO_F32)
        return true;
    return panels >= 4 && (t->k_row_stride > t->head_dim || t->v_row_stride > t->value_dim ||
                           (t->blocks && t->kv_heads > 1));
}

/* Lays out the scratch of a block; returns its size. Sizes cannot overflow: bytes() has checked their product
 * in advance. */
static size_t lay_out(const struct rondo_attention_task *t, int64_t count, char *scratch, struct block *b)
{
    size_t at = 0;
    const size_t leaf = (size_t)(t->leaf_size > 0 && t->leaf_size < LEAF_MAX ? t->leaf_size : LEAF_MAX);
    b->t = t;
    b->tokens = (int32_t)count;
    b->group = t->heads / t->kv_heads;
    b->rows = b->tokens * b->group;
    b->panels = (b->rows + PANEL - 1) / PANEL;
    b->padded = padded_dim(t);
    b->node_floats = (size_t)PANEL * ((size_t)b->padded + 2);
    b->lo = take(scratch, &at, (size_t)b->tokens * sizeof *b->lo);
    b->hi = take(scratch, &at, (size_t)b->tokens * sizeof *b->hi);
    b->st = take(scratch, &at, leaf * PANEL * sizeof(float));
    b->sum = take(scratch, &at, (size_t)PANEL * (size_t)b->padded * sizeof(float));
    b->wide_q = take(scratch, &at, 4 * (size_t)t->head_dim * sizeof(float));
    b->wide_k = !copies(t, b->panels) ? NULL : take(scratch, &at, leaf * (size_t)t->head_dim * sizeof(float));
    b->wide_v = !copies(t, b->panels) ? NULL : take(scratch, &at, leaf * (size_t)b->padded * sizeof(float));
    b->panel = take(scratch, &at, (size_t)b->panels * sizeof *b->panel);
    for (int32_t i = 0; i < b->panels; i++) {
        struct panel p = { .row = i * PANEL };
        p.rows = b->rows - p.row < PANEL ? b->rows - p.row : PANEL;
        p.vecs = (p.rows + VL - 1) / VL;
        p.qt = take(scratch, &at, (size_t)t->head_dim * (size_t)p.vecs * VL * sizeof(float));
        p.nodes = take(scratch, &at, (size_t)t->depth * b->node_floats * sizeof(float));
        p.place = take(scratch, &at, (size_t)t->depth * sizeof *p.place);
        p.full = take(scratch, &at, (size_t)t->depth);
        p.slot = take(scratch, &at, (size_t)t->depth * sizeof *p.slot);
        if (scratch) {
            for (int32_t j = 0; j < t->depth; j++) {
                p.place[j] = (int16_t)j;
                p.slot[j] = NULL;
            }
            b->panel[i] = p;
        }
    }
    return at;
}

static bool bytes(const struct rondo_attention_task *t, size_t *out)
{
    struct block b = { 0 };
    size_t rows, wide, all;
    /* a generous product first: if that fits, so does everything that lay_out() adds up */
    if (t->depth > INT16_MAX ||
        !rondo__mul((size_t)tokens(t) * (size_t)(t->heads / t->kv_heads) + PANEL, (size_t)t->depth + 2,
                    &rows) ||
        !rondo__add((size_t)t->head_dim + (size_t)t->value_dim, 4 * LEAF_MAX, &wide) ||
        !rondo__mul(rows, wide, &all) || !rondo__mul(all, 16 * sizeof(float), &all))
        return false;
    *out = lay_out(t, tokens(t), NULL, &b);
    return true;
}

/* Rows of K, V, Q and of slots may lie pages apart: the hardware does not foresee them. */
static void fetch_row(const void *row, int64_t bytes)
{
    for (int64_t i = 0; i < bytes; i += 64)
        __builtin_prefetch((const char *)row + i, 0, 3);
}

/* ---- Q ---- */

/* qt[d][row], lanes without a row 0. Four rows and four dimensions at a time. */
static void pack_q(const struct block *b, const struct panel *p)
{
    const struct rondo_attention_task *t = b->t;
    const int32_t dim = t->head_dim, ld = p->vecs * VL;
    for (int32_t r = 0; r < ld; r += 4) {
        const float *q[4];
        for (int32_t i = 0; i < 4; i++) {
            const int32_t row = p->row + r + i;
            const int64_t at = (b->token + row / b->group) * t->q_row_stride +
                               (b->kv_head * b->group + row % b->group) * t->q_head_stride;
            if (r + i < p->rows && t->q_type == RONDO_F32) {
                q[i] = (const float *)t->q + at;
                if (r + i + FETCH_ROWS < p->rows) {
                    const int32_t ahead = row + FETCH_ROWS;
                    fetch_row((const float *)t->q + (b->token + ahead / b->group) * t->q_row_stride +
                                  (b->kv_head * b->group + ahead % b->group) * t->q_head_stride,
                              (int64_t)dim * (int64_t)sizeof(float));
                }
                continue;
            }
            float *w = b->wide_q + (int64_t)i * dim;
            for (int32_t d = 0; d < dim; d++)
                w[d] = r + i < p->rows ? rondo__element(t->q, at + d, t->q_type) : 0.0f;
            q[i] = w;
        }
        int32_t d = 0;
        for (; d + 4 <= dim; d += 4) {
            __m128 a = _mm_loadu_ps(q[0] + d), c = _mm_loadu_ps(q[1] + d), e = _mm_loadu_ps(q[2] + d),
                   f = _mm_loadu_ps(q[3] + d);
            float *to = p->qt + (int64_t)d * ld + r;
            _MM_TRANSPOSE4_PS(a, c, e, f);
            _mm_storeu_ps(to, a);
            _mm_storeu_ps(to + ld, c);
            _mm_storeu_ps(to + 2 * ld, e);
            _mm_storeu_ps(to + 3 * ld, f);
        }
        for (; d < dim; d++)
            for (int32_t i = 0; i < 4; i++)
                p->qt[(int64_t)d * ld + r + i] = q[i][d];
    }
}

/* ---- nodes ---- */

static float *node(const struct block *b, const struct panel *p, int32_t position)
{
    return p->nodes + (size_t)p->place[position] * b->node_floats;
}
static float *node_m(const struct block *b, float *n) { return n + (size_t)PANEL * (size_t)b->padded; }
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
                      (size_t)(b->kv_head * b->group + row % b->group);
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

/* ---- one leaf, one panel ---- */

#define LEAF_ARGUMENTS                                                                                       \
    const int32_t dim, const float *qt, const float *k, const int64_t stride, const float scale, float *st,  \
        const int32_t u0, const int32_t u1, const float *from, const float *to, struct ahead *next,          \
        float *m, float *l
#define LEAF_KERNEL(nv, masked)                                                                              \
    static __attribute__((noinline)) void leaf_##nv##_##masked(LEAF_ARGUMENTS)                               \
    {                                                                                                        \
        float top[PANEL];                                                                                    \
        scores(nv, masked, dim, qt, k, stride, scale, st, top, u0, u1, from, to, next);                      \
        weights(nv, st, top, u0, u1, m, l);                                                                  \
    }
LEAF_KERNEL(1, 0)
LEAF_KERNEL(2, 0)
LEAF_KERNEL(3, 0)
LEAF_KERNEL(1, 1)
LEAF_KERNEL(2, 1)
LEAF_KERNEL(3, 1)
typedef void leaf_kernel(LEAF_ARGUMENTS);
static leaf_kernel *const leaf_kernels[2][RV] = { { leaf_1_0, leaf_2_0, leaf_3_0 },
                                                  { leaf_1_1, leaf_2_1, leaf_3_1 } };

#define VALUE_ARGUMENTS                                                                                      \
    int32_t rows, const float *p, const int64_t ld, const float *v, const int64_t stride, const int32_t k0,  \
        const int32_t k1, const vm lanes, const float *start, float *out, const int64_t out_stride,          \
        const struct merges *with, const int32_t row
#define VALUE_KERNEL(name, nc, tail)                                                                         \
    static __attribute__((noinline)) void name(VALUE_ARGUMENTS)                                              \
    {                                                                                                        \
        value_rows(nc, tail, lanes, rows, p, ld, v, stride, k0, k1, start, out, out_stride, with, row);      \
    }
VALUE_KERNEL(value_tail, 1, 1)
VALUE_KERNEL(value_1, 1, 0)
VALUE_KERNEL(value_2, 2, 0)
#if COLS == 4
VALUE_KERNEL(value_4, 4, 0)
#endif
typedef void value_kernel(VALUE_ARGUMENTS);

/* The range of a panel's row in the leaf; never i0 > i1. */
static void row_range(const struct block *b, const struct panel *p, const struct rondo_leaf *f, int32_t r,
                      int32_t *i0, int32_t *i1)
{
    const int32_t token = (p->row + r) / b->group;
    rondo__visible_in_leaf(f, b->lo[token], b->hi[token], i0, i1);
    if (*i0 > *i1)
        *i0 = *i1;
}

/* What of a leaf a panel sees: [u0, u1) by some row, [c0, c1) by all. */
struct view {
    int32_t u0, u1, c0, c1;
    int uniform;
};

/* acc of a panel whose rows see different keys: for a slice of columns, merged with what `with` says, into out.
 */
static void values_apart(const struct block *b, const struct panel *p, const struct rondo_leaf *f,
                         const struct view *w, value_kernel *kernel, int32_t column, vm lanes, float *out,
                         const struct merges *with)
{
    const int64_t ld = p->vecs * VL, padded = b->padded;
    const int32_t even0 = w->c0 + (w->c0 & 1), even1 = w->c1 & ~1; /* whole pairs that every row sees */
    const int common = even0 < even1;
    float *sum = b->sum + column;
    const float *v = b->v + column;
    for (int part = common ? 0 : 1; part < 2;
         part++) { /* keys before the common ones, with these; keys after them */
        if (part == 1 && common)
            kernel(p->rows, b->st, ld, v, b->v_stride, even0, even1, lanes, w->u0 < even0 ? sum : NULL, sum,
                   padded, NULL, 0);
        if (part == 0 && w->u0 >= even0)
            continue;
        for (int32_t r = 0, end; r < p->rows; r = end) {
            int32_t i0, i1, n0, n1;
            row_range(b, p, f, r, &i0, &i1);
            for (end = r + 1; end < p->rows; end++) { /* the heads of one token, at least, see the same */
                row_range(b, p, f, end, &n0, &n1);
                if (n0 != i0 || n1 != i1)
                    break;
            }
            const float *start = common && part == 1 ? sum + r * padded : NULL;
            if (part == 0)
                kernel(end - r, b->st + r, ld, v, b->v_stride, i0, even0, lanes, NULL, sum + r * padded,
                       padded, NULL, 0);
            else
                kernel(end - r, b->st + r, ld, v, b->v_stride, common ? even1 : i0, i1, lanes, start,
                       out + r * padded, padded, with, r);
        }
    }
}

/* The node of a leaf for a panel, merged with nodes left of it, nearest first, into n; n may be the last of
 * these. */
static void leaf_panel(struct block *b, struct panel *p, const struct rondo_leaf *f, const struct view *w,
                       float *const *left, int32_t count, float *n)
{
    const struct rondo_attention_task *t = b->t;
    const int32_t ld = p->vecs * VL;
    float from[PANEL], to[PANEL], m[PANEL], l[PANEL];
    struct merges with;

    if (!w->uniform)
        for (int32_t r = 0; r < ld; r++) {
            int32_t i0, i1;
            row_range(b, p, f, r < p->rows ? r : p->rows - 1, &i0, &i1);
            from[r] = (float)i0;
            to[r] = (float)i1;
        }
    leaf_kernels[!w->uniform][p->vecs - 1](t->head_dim, p->qt, b->k, b->k_stride, t->scale_log2, b->st, w->u0,
                                           w->u1, from, to, &b->next, m, l);
    with.count = count;
    for (int32_t i = 0; i < count; i++) {
        with.acc[i] = left[i];
        merge_heads(b, p, left[i], m, l, with.scale[i]);
    }
    memcpy(node_m(b, n), m, (size_t)ld * sizeof *n);
    memcpy(node_l(b, n), l, (size_t)ld * sizeof *n);
    for (int32_t c = 0; c < t->value_dim;) {
        const int32_t rest = t->value_dim - c;
        value_kernel *kernel = rest < VL ? value_tail : rest < 2 * VL ? value_1 : value_2;
        int32_t width = rest < 2 * VL ? VL : 2 * VL;
#if COLS == 4
        if (rest >= 4 * VL) {
            kernel = value_4;
            width = 4 * VL;
        }
#endif
        with.column = c;
        if (w->uniform)
            kernel(p->rows, b->st, ld, b->v + c, b->v_stride, w->u0, w->u1, vm_first(rest), NULL, n + c,
                   b->padded, &with, 0);
        else
            values_apart(b, p, f, w, kernel, c, vm_first(rest), n + c, &with);
        c += width;
    }
}

/* ---- the program ---- */

static void widen(const void *from, int64_t at, int64_t stride, int type, int32_t rows, int32_t dim,
                  float *to, int64_t to_stride)
{
    const int64_t element = type == RONDO_F32 ? 4 : 2;
    for (int32_t i = 0; i < rows; i++, at += stride, to += to_stride) {
        int32_t d = 0;
        if (i + FETCH_ROWS < rows)
            fetch_row((const char *)from + (at + FETCH_ROWS * stride) * element, dim * element);
        for (; d + VL <= dim; d += VL)
            vf_store(to + d, vf_element(from, at + d, type));
        for (; d < dim; d++)
            to[d] = rondo__element(from, at + d, type);
    }
}

/* Points b->k and b->v at the leaf's rows of this KV head; keys [u0, u1) of it will be read. */
static void leaf_open(struct block *b, const struct rondo_leaf *f, int32_t u0, int32_t u1)
{
    const struct rondo_attention_task *t = b->t;
    const struct rondo_leaf_rows at = rondo__leaf_rows(t, f, b->kv_head);
    const bool near = t->kv_type == RONDO_F32 && at.k_stride <= t->head_dim && at.v_stride <= t->value_dim;
    if (!b->wide_k || near) {
        b->k = (const float *)at.k + at.k_at;
        b->v = (const float *)at.v + at.v_at;
        b->k_stride = at.k_stride;
        b->v_stride = at.v_stride;
        return;
    }
    b->k = b->wide_k;
    b->v = b->wide_v;
    b->k_stride = t->head_dim;
    b->v_stride = b->padded;
    widen(at.k, at.k_at + u0 * at.k_stride, at.k_stride, t->kv_type, u1 - u0, t->head_dim,
          b->wide_k + u0 * b->k_stride, b->k_stride);
    widen(at.v, at.v_at + u0 * at.v_stride, at.v_stride, t->kv_type, u1 - u0, t->value_dim,
          b->wide_v + u0 * b->v_stride, b->v_stride);
}

/* The leaf that the program visits next, if the block sees it. */
static void look_ahead(struct block *b, int32_t step)
{
    const struct rondo_attention_task *t = b->t;
    const int32_t element = (int32_t)rondo_type_size(t->kv_type);
    b->next = (struct ahead){ .element = element };
    for (int32_t i = step + 1; i < t->steps && i < step + 8; i++) {
        if (t->program[i].code != RONDO_TREE_LEAF)
            continue;
        const struct rondo_leaf *f = t->leaves + t->program[i].arg;
        int32_t u0, u1;
        rondo__visible_in_leaf(f, b->lo_min, b->hi_max, &u0, &u1);
        if (u0 >= u1)
            return;
        const struct rondo_leaf_rows at = rondo__leaf_rows(t, f, b->kv_head);
        b->next.k = (const char *)at.k + at.k_at * element;
        b->next.v = (const char *)at.v + at.v_at * element;
        b->next.k_stride = at.k_stride * element;
        b->next.v_stride = at.v_stride * element;
        b->next.k_bytes = t->head_dim * element;
        b->next.v_bytes = t->value_dim * element;
        b->next.count = f->count;
        const int32_t keys = KEYS(b->panel[0].vecs), tiles = (f->count + keys - 1) / keys * b->panels;
        b->next.quota = (2 * f->count + tiles - 1) / tiles;
        return;
    }
}

/* How many of the MERGEs after a LEAF are done with it. Not those for which a node would have to be fetched
 * from its slot first, or whose result goes to a slot: merge_step() does that in place. */
static int32_t merges_of(const struct block *b, int32_t step)
{
    const struct rondo_attention_task *t = b->t;
    int32_t n = 0;
    while (n < MERGES_MAX && step + n + 1 < t->steps && t->program[step + n + 1].code == RONDO_TREE_MERGE) {
        if (n && step + n + 2 < t->steps && t->program[step + n + 2].code == RONDO_TREE_STORE)
            break;
        for (int32_t i = 0; n && i < b->panels; i++)
            if (b->panel[i].full[b->top - n - 1] == IN_SLOT)
                return n;
        n++;
    }
    return n;
}

/* LEAF, and so many MERGEs after it. Returns whether anything was computed. */
static int leaf_step(struct block *b, int32_t step, int32_t merges)
{
    const struct rondo_leaf *f = b->t->leaves + b->t->program[step].arg;
    const int32_t at = b->top - merges;
    int32_t u0, u1;

    rondo__visible_in_leaf(f, b->lo_min, b->hi_max, &u0, &u1);
    if (u0 < u1) {
        leaf_open(b, f, u0, u1);
        look_ahead(b, step);
    }
    for (int32_t i = 0; i < b->panels; i++) {
        struct panel *p = b->panel + i;
        struct view w = { 0, 0, 0, 0, 0 };
        if (u0 < u1) {
            rondo__visible_in_leaf(f, p->lo_min, p->hi_max, &w.u0, &w.u1);
            rondo__visible_in_leaf(f, p->lo_max, p->hi_min, &w.c0, &w.c1);
        }
        if (w.u0 >= w.u1) { /* only what is there already is merged */
            if (!merges)
                p->full[at] = EMPTY;
            for (int32_t left = b->top - 2; left >= at; left--)
                merge_panel(b, p, left, NULL);
            continue;
        }
        float *left[MERGES_MAX];
        int32_t count = 0;
        for (int32_t position = b->top - 1; position >= at; position--)
            if (p->full[position] != EMPTY) {
                bring(b, p, position);
                left[count++] = node(b, p, position);
            }
        w.uniform = w.u0 == w.c0 && w.u1 == w.c1;
        leaf_panel(b, p, f, &w, left, count, node(b, p, at));
        p->full[at] = NODE;
    }
    b->top = at + 1;
    return u0 < u1;
}

/* Whether acc may be read and written in slots by whole vectors. */
static bool whole(const struct block *b) { return b->padded == b->t->value_dim; }

static void load_step(struct block *b, float *slot)
{
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
            const int32_t row = p->row + r, head = b->kv_head * b->group + row % b->group;
            const int64_t token = b->token + row / b->group,
                          at = token * t->out_row_stride + head * t->out_head_stride;
            const float l = full ? node_l(b, n)[r] : 0.0f;
            const vf inv = vf_set1(1.0f / l);
            const float *acc = full ? acc_row(b, p, b->top, r) : n;
            for (int32_t d = 0; d < t->value_dim; d += VL) {
                const vf o = l == 0.0f ? vf_zero() : vf_add(vf_mul(vf_load(acc + d), inv), vf_zero());
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
                t->lse[token * t->lse_row_stride + head * t->lse_head_stride] =
                    rondo__lse(full ? node_m(b, n)[r] : 0.0f, l);
        }
    }
}

/* Visible ranges of tokens, panels and the block. */
static void see(struct block *b)
{
    b->lo_min = INT64_MAX;
    b->hi_max = INT64_MIN;
    for (int32_t i = 0; i < b->tokens; i++)
        rondo__visible(b->t, rondo__cpu_position(b->t, b->token + i), &b->lo[i], &b->hi[i]);
    for (int32_t i = 0; i < b->panels; i++) {
        struct panel *p = b->panel + i;
        p->lo_min = p->hi_min = INT64_MAX;
        p->lo_max = p->hi_max = INT64_MIN;
        for (int32_t token = p->row / b->group; token <= (p->row + p->rows - 1) / b->group; token++) {
            const int64_t lo = b->lo[token], hi = b->hi[token];
            p->lo_min = lo < p->lo_min ? lo : p->lo_min;
            p->lo_max = lo > p->lo_max ? lo : p->lo_max;
            p->hi_min = hi < p->hi_min ? hi : p->hi_min;
            p->hi_max = hi > p->hi_max ? hi : p->hi_max;
        }
        b->lo_min = p->lo_min < b->lo_min ? p->lo_min : b->lo_min;
        b->hi_max = p->hi_max > b->hi_max ? p->hi_max : b->hi_max;
    }
}

static int run(const struct rondo_attention_task *t, int64_t t0, int64_t t1, int32_t kv_head, void *scratch,
               const struct rondo_poll *poll)
{
    struct block b = { .token = t0, .kv_head = kv_head };
    lay_out(t, t1 - t0, scratch, &b);
    see(&b);
    for (int32_t i = 0; i < b.panels; i++)
        pack_q(&b, b.panel + i);
    for (int32_t i = 0; i < t->steps; i++) {
        const struct rondo_tree_step *s = t->program + i;
        int busy = 1;
        switch (s->code) {
        case RONDO_TREE_LEAF: {
            const int32_t merges = merges_of(&b, i);
            busy = leaf_step(&b, i, merges);
            i += merges;
            break;
        }
        case RONDO_TREE_LOAD:
            load_step(&b, t->slots[s->arg]);
            break;
        case RONDO_TREE_MERGE: {
            const struct rondo_tree_step *next = i + 1 < t->steps ? s + 1 : NULL;
            merge_step(&b, next && next->code == RONDO_TREE_STORE && whole(&b) ? t->slots[next->arg] : NULL);
            break;
        }
        case RONDO_TREE_STORE:
            store_step(&b, t->slots[s->arg]);
            break;
        default:
            out_step(&b);
        }
        int err = busy && poll ? poll->call(poll->arg) : 0;
        if (err)
            return err;
    }
    return 0;
}

const struct rondo_cpu_attention RONDO_ISA_TABLE(attention) = { tokens, bytes, run };
