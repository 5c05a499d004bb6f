/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Fast attention: the bits of ref_attention.c, computed for many query rows at a time. Built once per
 * instruction set.
 *
 * An item is a block of rows (token, head of the KV head's group), cut into panels. The program runs once for
 * the block: for each leaf of a run the panels go one after another, while K and V of the leaf stay in the
 * second-level cache (widened there first, if they are 16 bits wide). Where rows are few, as in decoding, panels
 * are KV heads that take a leaf together, from where it lies (attention_decode.h). Each panel has its own stack of
 * nodes; nodes that would be empty are only marked. What the program merges right after a leaf is merged in the P*V
 * tile's epilogue, before the leaf's node has seen memory.
 *
 * Where the rows of a panel see different parts of a leaf, hidden scores are -inf, which gives weight 0 in
 * maximum and sum. In P*V a value with weight 0 changes the sign of a zero at most, unless it is NaN or
 * infinite: a hidden one must not even be multiplied by 0 then, so where a leaf has such values each row takes
 * the keys that it sees, run by run.
 */
#include "backends/cpu/attention_decode.h"
#include "backends/cpu/attention_terms.h"
#include "backends/cpu/attention_tiny.h"

/* ---- one leaf, one panel ---- */

#define LEAF_ARGUMENTS                                                                                       \
    const int32_t dim, const float *qt, const float *k, const int64_t stride, const float scale, float *st,  \
        const int32_t u0, const int32_t u1, const float *from, const float *to,                              \
        const struct finish *general, struct ahead *next, float *m, float *l
#define LEAF_KERNEL(nv, masked)                                                                              \
    static __attribute__((noinline)) void leaf_##nv##_##masked(LEAF_ARGUMENTS)                               \
    {                                                                                                        \
        float top[PANEL];                                                                                    \
        scores(nv, masked, dim, qt, k, stride, scale, st, top, u0, u1, from, to, general, next);             \
        if (masked == SEE_GENERAL && !m)                                                                     \
            return; /* scores are all that is asked for */                                                   \
        if (masked == SEE_GENERAL && general->drop)                                                          \
            weights(nv, 1, st, top, u0, u1, general->drop, m, l);                                            \
        else                                                                                                 \
            weights(nv, 0, st, top, u0, u1, NULL, m, l);                                                     \
    }
#define LEAF_KERNELS(masked) LEAF_KERNEL(1, masked) LEAF_KERNEL(2, masked) LEAF_KERNEL(3, masked)
LEAF_KERNELS(SEE_ALIKE)
LEAF_KERNELS(SEE_RANGES)
LEAF_KERNELS(SEE_GENERAL)
typedef void leaf_kernel(LEAF_ARGUMENTS);
static leaf_kernel *const leaf_kernels[3][RV] = { { leaf_1_SEE_ALIKE, leaf_2_SEE_ALIKE, leaf_3_SEE_ALIKE },
                                                  { leaf_1_SEE_RANGES, leaf_2_SEE_RANGES, leaf_3_SEE_RANGES },
                                                  { leaf_1_SEE_GENERAL, leaf_2_SEE_GENERAL, leaf_3_SEE_GENERAL } };

#define VALUE_ARGUMENTS                                                                                      \
    int32_t rows, const float *p, const int64_t ld, const char *v, const int64_t stride, const char *next, \
        const int64_t next_stride, const int32_t k0, const int32_t k1, const vm lanes, const float *start, float *out, const int64_t out_stride, \
        const struct merges *with, const int32_t row
#define VALUE_KERNEL(name, type, nc, tail)                                                                   \
    static __attribute__((noinline)) void name(VALUE_ARGUMENTS)                                              \
    {                                                                                                        \
        value_rows(type, nc, tail, lanes, rows, p, ld, v, stride, next, next_stride, k0, k1, start, out, out_stride, with, row); \
    }
#if COLS == 4
#define VALUE_KERNELS(name, type)                                                                            \
    VALUE_KERNEL(value_tail_##name, type, 1, 1)                                                              \
    VALUE_KERNEL(value_1_##name, type, 1, 0)                                                                 \
    VALUE_KERNEL(value_2_##name, type, 2, 0)                                                                 \
    VALUE_KERNEL(value_4_##name, type, 4, 0)
#define VALUE_TABLE(name) { value_tail_##name, value_1_##name, value_2_##name, value_4_##name }
#else
#define VALUE_KERNELS(name, type)                                                                            \
    VALUE_KERNEL(value_tail_##name, type, 1, 1)                                                              \
    VALUE_KERNEL(value_1_##name, type, 1, 0)                                                                 \
    VALUE_KERNEL(value_2_##name, type, 2, 0)
#define VALUE_TABLE(name) { value_tail_##name, value_1_##name, value_2_##name, NULL }
#endif
VALUE_KERNELS(wide, VALUES_WIDE)
VALUE_KERNELS(f32, RONDO_F32)
VALUE_KERNELS(bf16, RONDO_BF16)
VALUE_KERNELS(f16, RONDO_F16)
typedef void value_kernel(VALUE_ARGUMENTS);
/* by type: of what has been widened, or lies in floats; and of a leaf that is read where it lies */
static value_kernel *const value_kernels[][4] = { [VALUES_WIDE] = VALUE_TABLE(wide), [RONDO_F32] = VALUE_TABLE(f32),
                                                  [RONDO_BF16] = VALUE_TABLE(bf16), [RONDO_F16] = VALUE_TABLE(f16) };

/* ---- the leaf at work ---- */

static void widen(const char *from, int64_t stride, int type, int32_t rows, int32_t dim, float *to, int64_t to_stride)
{
    const int64_t bytes = (int64_t)rondo_row_bytes(type, dim);
    for (int32_t i = 0; i < rows; i++, from += stride, to += to_stride) {
        if (i + FETCH_ROWS < rows)
            fetch_row(from + FETCH_ROWS * stride, bytes);
        widen_row(from, 0, dim, dim, type, to);
    }
}

/* K or V (part 1) of a leaf, for all KV heads from kv_head on; keys [u0, u1) of it will be read. */
static struct strip leaf_strip(const struct rondo_attention_task *t, const struct rondo_leaf *f, int32_t kv_head, int part, int32_t u0, int32_t u1)
{
    const struct rondo_leaf_rows at = rondo__leaf_rows(t, f, kv_head);
    const int64_t element = (int64_t)rondo_type_size(t->kv_type), row = part ? at.v_at : at.k_at, stride = part ? at.v_stride : at.k_stride;
    return (struct strip){ (const char *)(part ? at.v : at.k) + row * element, stride * element, rondo__head_stride(t, f, part) * element, u0, u1 };
}

/* Takes up a leaf's rows of a KV head; keys [u0, u1) of it will be read. */
static void leaf_open(struct block *b, const struct rondo_leaf *f, int32_t kv_head, int32_t u0, int32_t u1)
{
    const struct rondo_attention_task *t = b->t;
    const struct rondo_leaf_rows at = rondo__leaf_rows(t, f, kv_head);
    const int64_t element = (int64_t)rondo_type_size(t->kv_type);
    b->u0 = u0;
    b->u1 = u1;
    b->finite = -1;
    b->raw_k = (const char *)at.k + at.k_at * element;
    b->raw_v = at.v ? (const char *)at.v + at.v_at * element : NULL;   /* none for probabilities */
    b->raw_k_stride = at.k_stride * element;
    b->raw_v_stride = at.v_stride * element;
    b->k = b->v = NULL;
    if (t->kv_type == RONDO_F32 && (!b->wide_k || (at.k_stride <= t->head_dim && at.v_stride <= t->value_dim))) {
        b->k = (const float *)(const void *)b->raw_k;
        b->v = (const float *)(const void *)b->raw_v;
        b->k_stride = at.k_stride;
        b->v_stride = at.v_stride;
    }
}

/* ... as floats, near each other. No values for probabilities. */
static void leaf_widen(struct block *b)
{
    const struct rondo_attention_task *t = b->t;
    if (b->k)
        return;
    b->k = b->wide_k;
    b->v = b->wide_v;
    b->k_stride = t->head_dim;
    b->v_stride = b->padded;
    widen(b->raw_k + b->u0 * b->raw_k_stride, b->raw_k_stride, t->kv_type, b->u1 - b->u0, t->head_dim, b->wide_k + b->u0 * b->k_stride,
          b->k_stride);
    if (t->operation != RONDO_JOB_PROBABILITIES)
        widen(b->raw_v + b->u0 * b->raw_v_stride, b->raw_v_stride, t->kv_type, b->u1 - b->u0, t->value_dim, b->wide_v + b->u0 * b->v_stride,
              b->v_stride);
}

/* Whether all values of the leaf at work that the block may take are finite. */
static bool finite_values(struct block *b)
{
    if (b->finite < 0) {
        const int32_t dim = b->t->value_dim;
        vf sum = vf_zero();
        for (int32_t key = b->u0; key < b->u1; key++) {
            const float *v = b->v + key * b->v_stride;
            int32_t d = 0;
            for (; d + VL <= dim; d += VL)
                sum = vf_fma(vf_load(v + d), vf_zero(), sum);
            if (d < dim)
                sum = vf_fma(vf_load_mask(v + d, vm_first(dim - d)), vf_zero(), sum);
        }
        b->finite = !vm_any(vf_is_nan(sum));
    }
    return b->finite;
}

/* The keys of a leaf that a row of a panel sees. */
static void row_bits(const struct block *b, const struct panel *p, const struct rondo_leaf *f, int32_t r, uint64_t bits[4])
{
    const int32_t row = p->row + r, token = row / b->group;
    rondo__leaf_bits(b->t, f, b->kv_head * b->group + row % b->group, rondo__cpu_position(b->t, b->token + token), b->lo[token], b->hi[token],
                     bits);
    for (int32_t key = first_bit(bits), end = end_bit(bits); b->bias && key < end; key++)
        if (b->bias[key * p->vecs * VL + r] == -__builtin_inff())
            bits[key / 64] &= ~((uint64_t)1 << (key % 64));
}

static bool bit(const uint64_t bits[4], int32_t key) { return bits[key / 64] >> (key % 64) & 1; }

/* acc of a panel of which no row may touch what it does not see: for a slice of columns, merged with what `with` says, into out. */
static void values_apart(const struct block *b, const struct panel *p, const struct rondo_leaf *f, value_kernel *kernel, int32_t column,
                         vm lanes, float *out, const struct merges *with)
{
    const int64_t ld = p->vecs * VL, padded = b->padded;
    uint64_t bits[4], next[4];
    row_bits(b, p, f, 0, next);
    for (int32_t r = 0, end; r < p->rows; r = end) {
        const float *start = NULL;
        memcpy(bits, next, sizeof bits);
        for (end = r + 1; end < p->rows; end++) { /* rows that see the same go together */
            row_bits(b, p, f, end, next);
            if (memcmp(next, bits, sizeof bits))
                break;
        }
        const int32_t last = end_bit(bits);
        for (int32_t i0 = first_bit(bits), i1; i0 < last; i0 = i1) { /* run by run, all but the last one into sum */
            for (i1 = i0; i1 < last && bit(bits, i1); i1++) {
            }
            if (i1 == last)
                kernel(end - r, b->st + r, ld, (const char *)(b->v + column), b->v_stride * 4, NULL, 0, i0, i1, lanes, start, out + r * padded, padded, with, r);
            else
                kernel(end - r, b->st + r, ld, (const char *)(b->v + column), b->v_stride * 4, NULL, 0, i0, i1, lanes, start, b->sum + r * padded + column, padded, NULL, 0);
            start = b->sum + r * padded + column;
            while (i1 < last && !bit(bits, i1))
                i1++;
        }
        if (!last)
            kernel(end - r, b->st + r, ld, (const char *)(b->v + column), b->v_stride * 4, NULL, 0, 0, 0, lanes, NULL, out + r * padded, padded, with, r);
    }
}

/* The scores of a panel, and with m and l their weights. */
static void leaf_scores(struct block *b, struct panel *p, const struct rondo_leaf *f, const struct view *w, float *m, float *l)
{
    const struct rondo_attention_task *t = b->t;
    const float scale = t->terms.cap_in != 0.0f ? t->terms.cap_in : t->scale_log2;
    float from[PANEL], to[PANEL]; /* ranges; or distances */
    struct finish closely;
    int how = SEE_ALIKE;

    pack_q(b, p);
    if (p->at) {
        how = SEE_GENERAL;
        look_closely(b, p, f, w, from, to, &closely);
    } else if (!w->uniform) {
        how = SEE_RANGES;
        for (int32_t r = 0; r < p->vecs * VL; r++) {
            int32_t i0, i1;
            row_range(b, p, f, r < p->rows ? r : p->rows - 1, &i0, &i1);
            from[r] = (float)i0;
            to[r] = (float)i1;
        }
    }
    leaf_kernels[how][p->vecs - 1](t->head_dim, p->qt, b->k, b->k_stride, scale, b->st, w->u0, w->u1, from, to, &closely, &b->next, m, l);
}

/* M and l of a leaf's node for a panel, merged with the nodes left of it, nearest first, go into node n, which may be the last of these; acc is
 * merged as `with` says then. */
static void merge_left(const struct block *b, const struct panel *p, float *const *left, int32_t count, float *m, float *l, float *n,
                       struct merges *with)
{
    const size_t ld = (size_t)p->vecs * VL;
    with->count = count;
    for (int32_t i = 0; i < count; i++) {
        with->acc[i] = left[i];
        merge_heads(b, p, left[i], m, l, with->scale[i]);
    }
    memcpy(node_m(b, n), m, ld * sizeof *n);
    memcpy(node_l(b, n), l, ld * sizeof *n);
}

/* Values of some keys of a leaf as P*V takes them: of a storage type, or VALUES_WIDE. */
struct values {
    int32_t type, k0, k1;
    const char *at; /* key 0 */
    int64_t stride; /* bytes */
    struct follow next;
};

/* st[key][row], keys ld apart, times values, into out, as value_tile() does it, in all columns; where `apart` is a leaf, no row may touch what
 * it does not see of that. */
static void panel_values(const struct block *b, const struct panel *p, const float *st, int64_t ld, const struct values *v, const float *start,
                         float *out, struct merges *with, const struct rondo_leaf *apart)
{
    const int32_t dim = b->t->value_dim, element = v->type == VALUES_WIDE ? (int32_t)sizeof(float) : (int32_t)rondo_type_size(v->type);
    for (int32_t c = 0; c < dim;) {
        const int32_t rest = dim - c, step = rest < 2 * VL ? VL : rest < COLS * VL ? 2 * VL : COLS * VL;
        value_kernel *kernel = value_kernels[v->type][rest < VL ? 0 : step == 4 * VL ? 3 : step / VL];
        if (with)
            with->column = c;
        if (apart)
            values_apart(b, p, apart, kernel, c, vm_first(rest), out + c, with);
        else
            kernel(p->rows, st, ld, v->at + (int64_t)c * element, v->stride, v->next.row ? v->next.row + (int64_t)c * element : NULL,
                   v->next.stride, v->k0, v->k1, vm_first(rest), start ? start + c : NULL, out + c, b->padded, with, 0);
        c += step;
    }
}

/* The node of a leaf for a panel, merged with nodes left of it, nearest first, into n; n may be the last of these. */
static void leaf_panel(struct block *b, struct panel *p, const struct rondo_leaf *f, const struct view *w, float *const *left, int32_t count,
                       float *n)
{
    const int32_t ld = p->vecs * VL;
    float m[PANEL], l[PANEL];
    struct merges with;

    leaf_widen(b);
    leaf_scores(b, p, f, w, m, l);
    const bool apart = (!w->uniform || b->t->terms.bias) && !finite_values(b);
    const uint64_t tiny = apart ? 0 : tiny_rows(p, b->st, ld, w->u0, w->u1);
    const float *start = tiny && finite_values(b) ? b->sum : NULL;
    if (start)
        take_tiny(b, p, b->st, ld, tiny, w->u0, w->u1);
    merge_left(b, p, left, count, m, l, n, &with);
    const struct values v = { VALUES_WIDE, w->u0, w->u1, (const char *)b->v, b->v_stride * (int64_t)sizeof *b->v, { NULL, 0 } };
    panel_values(b, p, b->st, ld, &v, start, n, &with, apart ? f : NULL);
}

/* The stack's topmost nodes of a panel, from position `at` on; nearest first. */
static int32_t nodes_left(struct block *b, struct panel *p, int32_t at, float *left[MERGES_MAX])
{
    int32_t count = 0;
    for (int32_t position = b->top - 1; position >= at; position--)
        if (p->full[position] != EMPTY) {
            bring(b, p, position);
            left[count++] = node(b, p, position);
        }
    return count;
}

/* ... which a leaf's node is merged with, into position `at`. m, l: of the panel's rows. */
static float *decode_node(struct block *b, struct panel *p, int32_t at, const float *m_of, const float *l_of, struct merges *with)
{
    float *left[MERGES_MAX], m[PANEL] = { 0.0f }, l[PANEL] = { 0.0f };
    const int32_t count = nodes_left(b, p, at, left);
    memcpy(m, m_of, (size_t)p->rows * sizeof *m);
    memcpy(l, l_of, (size_t)p->rows * sizeof *l);
    merge_left(b, p, left, count, m, l, node(b, p, at), with);
    p->full[at] = NODE;
    return node(b, p, at);
}

/* Numbers with a scale: widened where the nearest cache keeps them. */
static void decode_widen(const struct block *b, const struct values *v)
{
    const int32_t dim = b->t->value_dim;
    for (int32_t key = v->k0; key < v->k1; key++) {
        for (int32_t i = 0; v->next.row && i < dim; i += 64)
            __builtin_prefetch(v->next.row + (key - v->k0) * v->next.stride + i, 0, 2);
        widen_row(v->at + key * v->stride, 0, dim, dim, RONDO_Q8, b->wide_v + (int64_t)key * b->padded);
    }
}

/* One leaf of which all rows of a block of few see keys [u0, u1). */
static void decode_leaf(struct block *b, const struct rondo_leaf *f, int32_t u0, int32_t u1, int32_t at)
{
    const struct rondo_attention_task *t = b->t;
    const struct strip k = leaf_strip(t, f, b->kv_head, 0, u0, u1), v = leaf_strip(t, f, b->kv_head, 1, u0, u1);
    const int32_t height = decode_height(b->rows);
    struct merges with;

    decode_scores(b, &k, &v);
    decode_weights(b, u0, u1);
    for (int32_t i = 0; i < b->panels; i++) {
        struct panel *p = b->panel + i;
        float *st = b->st + i * height;
        const uint64_t tiny = tiny_rows(p, st, b->st_ld, u0, u1);
        p->done = false;
        if (!tiny)
            continue;
        leaf_open(b, f, p->kv_head, u0, u1);
        leaf_widen(b);
        if (!finite_values(b))
            continue;
        p->done = true;
        take_tiny(b, p, st, b->st_ld, tiny, u0, u1);
        float *n = decode_node(b, p, at, b->m + i * height, b->l + i * height, &with);
        const struct values wide = { VALUES_WIDE, u0, u1, (const char *)b->v, b->v_stride * (int64_t)sizeof *b->v, { NULL, 0 } };
        panel_values(b, p, st, b->st_ld, &wide, b->sum, n, &with, NULL);
    }
    for (int32_t k0 = u0, k1; k0 < u1; k0 = k1) { /* at whole pairs, for the order of sums */
        k1 = (k0 / b->apart + 1) * b->apart;
        k1 = k1 < u1 ? k1 : u1;
        for (int32_t i = 0; i < b->panels; i++) {
            struct panel *p = b->panel + i;
            float *sum = b->sum + (int64_t)i * b->rows * b->padded;
            struct values some = { t->kv_type, k0, k1, strip_row(&v, 0, i), v.key, follow(&v, &b->then, k0, i, b->apart) };
            if (p->done)
                continue;
            if (t->kv_type == RONDO_Q8) {
                decode_widen(b, &some);
                some = (struct values){ VALUES_WIDE, k0, k1, (const char *)b->wide_v, b->padded * (int64_t)sizeof(float), { NULL, 0 } };
            }
            float *n = k1 < u1 ? NULL : decode_node(b, p, at, b->m + i * height, b->l + i * height, &with);
            panel_values(b, p, b->st + i * height, b->st_ld, &some, k0 > u0 ? sum : NULL, n ? n : sum, n ? &with : NULL, NULL);
        }
    }
}

/* ---- the program ---- */

static bool shares(const struct rondo_attention_task *t)
{
    return decodes(t, (int32_t)(tokens(t) * (t->heads / t->kv_heads)));
}


/* The leaf that will be visited next, if the block sees it. */
static void look_at(struct block *b, const struct rondo_leaf *f)
{
    const struct rondo_attention_task *t = b->t;
    const int32_t element = (int32_t)rondo_type_size(t->kv_type), count = (int32_t)f->count;
    int32_t u0, u1;
    rondo__visible_in_leaf(f, b->lo_min, b->hi_max, &u0, &u1);
    if (u0 >= u1)
        return;
    if (b->few) {
        b->then = leaf_strip(t, f, b->kv_head, 0, u0, u1);
        return;
    }
    const struct rondo_leaf_rows at = rondo__leaf_rows(t, f, b->kv_head);
    b->next.k = (const char *)at.k + at.k_at * element;
    b->next.v = at.v ? (const char *)at.v + at.v_at * element : NULL;
    b->next.k_stride = at.k_stride * element;
    b->next.v_stride = at.v_stride * element;
    b->next.k_bytes = (int32_t)rondo_row_bytes(t->kv_type, t->head_dim);
    b->next.v_bytes = (int32_t)rondo_row_bytes(t->kv_type, t->value_dim);
    b->next.count = count;
    const int32_t keys = KEYS(b->panel[0].vecs), tiles = (count + keys - 1) / keys * b->panels;
    b->next.quota = (2 * count + tiles - 1) / tiles;
}

/* What comes after leaf i of the run of a step, whose last visible leaf is end - 1. */
static void look_ahead(struct block *b, int32_t step, const struct rondo_leaf *run, int64_t leaves, int64_t i, int64_t end)
{
    const struct rondo_attention_task *t = b->t;
    struct rondo_leaf f;
    b->next = (struct ahead){ .element = (int32_t)rondo_type_size(t->kv_type) };
    b->then = (struct strip){ NULL, 0, 0, 0, 0 };
    if (i + 1 < end) {
        f = rondo__run_leaf(run, leaves, i + 1, t->leaf_size);
        look_at(b, &f);
        return;
    }
    for (int32_t s = step + 1; !b->part && s < t->steps && s < step + 8; s++) {
        if (t->program[s].code != RONDO_TREE_LEAF)
            continue;
        int64_t first, last;
        run = t->leaves + t->program[s].arg;
        leaves = rondo__run_leaves(run, t->leaf_size);
        rondo__run_visible(run, leaves, b->lo_min, b->hi_max, t->leaf_size, &first, &last);
        if (first < last) {
            f = rondo__run_leaf(run, leaves, first, t->leaf_size);
            look_at(b, &f);
        }
        return;
    }
}

/* How many of the MERGEs after a LEAF are done with its last leaf, besides the `n` of the run itself. Not those for which a node would
 * have to be fetched from its slot first, or whose result goes to a slot: merge_step() does that in place. */
static int32_t merges_of(const struct block *b, int32_t step, int32_t n)
{
    const struct rondo_attention_task *t = b->t;
    const int32_t own = n;
    for (int32_t s = step + 1; n < MERGES_MAX && s < t->steps && t->program[s].code == RONDO_TREE_MERGE; s++, n++) {
        if (n && s + 1 < t->steps && t->program[s + 1].code == RONDO_TREE_STORE)
            break;
        for (int32_t i = 0; n && i < b->panels; i++)
            if (b->panel[i].full[b->top - n - 1] == IN_SLOT)
                return n - own;
    }
    return n - own;
}

/* What of a leaf the block sees; u0 >= u1: nothing. Between spans of queries that are far apart there may be leaves that none sees. */
static void block_sees(struct block *b, const struct rondo_leaf *f, int32_t *u0, int32_t *u1)
{
    rondo__visible_in_leaf(f, b->lo_min, b->hi_max, u0, u1);
    if (*u0 < *u1 && b->bits) {
        block_bits(b, f, u0, u1);
        return;
    }
    if (*u0 >= *u1 || b->t->q_span_count == 1)
        return;
    for (int32_t i = 0, p0, p1; i < b->panels; i++) {
        rondo__visible_in_leaf(f, b->panel[i].lo_min, b->panel[i].hi_max, &p0, &p1);
        if (p0 < p1)
            return;
    }
    *u1 = *u0;
}

static void panel_sees(const struct block *b, const struct panel *p, const struct rondo_leaf *f, struct view *w)
{
    if (b->bits) {
        panel_bits(b, p, w);
        return;
    }
    rondo__visible_in_leaf(f, p->lo_min, p->hi_max, &w->u0, &w->u1);
    rondo__visible_in_leaf(f, p->lo_max, p->hi_min, &w->c0, &w->c1);
    w->uniform = w->u0 == w->c0 && w->u1 == w->c1;
}

/* One leaf, and so many merges after it; [u0, u1): what of it the block sees. */
static void leaf_step(struct block *b, const struct rondo_leaf *f, int32_t u0, int32_t u1, int32_t merges)
{
    const int32_t at = b->top - merges;

    struct view w = { 0, 0, 0, 0, 0 };
    if (u0 < u1 && b->few)
        panel_sees(b, b->panel, f, &w); /* as all panels do */
    if (w.uniform) {
        decode_leaf(b, f, w.u0, w.u1, at);
        b->top = at + 1;
        return;
    }
    if (u0 < u1 && !b->few)
        leaf_open(b, f, b->kv_head, u0, u1);
    for (int32_t i = 0; i < b->panels; i++) {
        struct panel *p = b->panel + i;
        w = (struct view){ 0, 0, 0, 0, 0 };
        if (u0 < u1)
            panel_sees(b, p, f, &w);
        if (w.u0 >= w.u1) { /* only what is there already is merged */
            if (!merges)
                p->full[at] = EMPTY;
            for (int32_t left = b->top - 2; left >= at; left--)
                merge_panel(b, p, left, NULL);
            continue;
        }
        float *left[MERGES_MAX];
        const int32_t count = nodes_left(b, p, at, left);
        if (b->few)
            leaf_open(b, f, p->kv_head, u0, u1);
        leaf_panel(b, p, f, &w, left, count, node(b, p, at));
        p->full[at] = NODE;
    }
    b->top = at + 1;
}

/* Leaves [first, end) of the run that LEAF step `step` has, each merged with what it completes, the last one with what the MERGEs after the
 * LEAF ask for too; *merged is how many of these are done. */
static int run_leaves(struct block *b, int32_t step, int64_t first, int64_t end, int32_t *merged, const struct rondo_poll *poll)
{
    const struct rondo_attention_task *t = b->t;
    const struct rondo_leaf *run = t->leaves + t->program[step].arg;
    const int64_t leaves = rondo__run_leaves(run, t->leaf_size);

    if (b->few && first < end && !b->then.at) { /* nobody has asked for the first one */
        const struct rondo_leaf f = rondo__run_leaf(run, leaves, first, t->leaf_size);
        look_at(b, &f);
        decode_begin(b);
    }
    for (int64_t i = first; i < end; i++) {
        const struct rondo_leaf f = rondo__run_leaf(run, leaves, i, t->leaf_size);
        const int32_t all = rondo__run_merges(i, first, end);
        int32_t merges = all < MERGES_MAX ? all : MERGES_MAX, rest = all - merges, u0, u1;
        block_sees(b, &f, &u0, &u1);
        if (i + 1 == end && !rest && !b->part) {
            *merged = merges_of(b, step, merges);
            merges += *merged;
        }
        if (u0 < u1)
            look_ahead(b, step, run, leaves, i, end);
        leaf_step(b, &f, u0, u1, merges);
        for (; rest; rest--)
            merge_step(b, NULL);
        int err = u0 < u1 && poll ? poll->call(poll->arg) : 0;
        if (err)
            return err;
    }
    return 0;
}

/* LEAF: what of its run the block sees, or the nodes of parts of it. */
static int run_step(struct block *b, int32_t step, int32_t *merged, const struct rondo_cpu_parts *parts, int64_t *part, const struct rondo_poll *poll)
{
    const struct rondo_attention_task *t = b->t;
    const struct rondo_leaf *run = t->leaves + t->program[step].arg;
    int64_t first, end, p0, p1;

    rondo__run_visible(run, rondo__run_leaves(run, t->leaf_size), b->lo_min, b->hi_max, t->leaf_size, &first, &end);
    if (first >= end) { /* nothing of it: as a leaf of which nothing is seen */
        first = 0;
        end = 1;
    }
    if (!parts || rondo__run_parts(first, end, parts->shift, &p0, &p1) <= 1)
        return run_leaves(b, step, first, end, merged, poll);
    for (int64_t i = p0; i < p1; i++) {
        load_step(b, parts->nodes + (size_t)(*part)++ * parts->floats);
        for (int32_t n = rondo__run_merges(i, p0, p1); n > 0; n--)
            merge_step(b, NULL);
    }
    return 0;
}

#include "backends/cpu/attention_probs.h"

static void block_begin(struct block *b, const struct rondo_attention_task *t, int64_t t0, int64_t t1, int32_t kv_head, int32_t kv_heads, void *scratch)
{
    *b = (struct block){ .token = t0, .kv_head = kv_head };
    lay_out(t, t1 - t0, kv_heads, scratch, b);
    see(b);
    if (b->few && b->st_ld > b->panels * decode_height(b->rows)) /* lanes past the last panel are added up too, for nobody */
        memset(b->st, 0, (size_t)(t->leaf_size < LEAF_MAX ? t->leaf_size : LEAF_MAX) * (size_t)b->st_ld * sizeof *b->st);
    for (int32_t i = 0; i < b->panels; i++)
        if (b->few)
            pack_rows(b, b->panel + i, b->panel[i].q, decode_height(b->rows));
        else
            pack_q(b, b->panel + i);
}

static int part(const struct rondo_attention_task *t, int64_t t0, int64_t t1, int32_t kv_head, int32_t kv_heads, int32_t step, int64_t first,
                int64_t end, float *slot, void *scratch, const struct rondo_poll *poll)
{
    struct block b;
    int32_t merged;
    block_begin(&b, t, t0, t1, kv_head, kv_heads, scratch);
    b.part = true;
    int err = run_leaves(&b, step, first, end, &merged, poll);
    if (!err)
        store_step(&b, slot);
    return err;
}

static int run(const struct rondo_attention_task *t, int64_t t0, int64_t t1, int32_t kv_head, int32_t kv_heads, const struct rondo_cpu_parts *parts,
               void *scratch, const struct rondo_poll *poll)
{
    struct block b;
    int64_t part = 0;
    block_begin(&b, t, t0, t1, kv_head, kv_heads, scratch);
    if (t->operation == RONDO_JOB_PROBABILITIES)
        return probabilities(&b, poll);
    for (int32_t i = 0; i < t->steps; i++) {
        const struct rondo_tree_step *s = t->program + i;
        int32_t merged = 0;
        int err = 0;
        switch (s->code) {
        case RONDO_TREE_LEAF:
            err = run_step(&b, i, &merged, parts, &part, poll);
            i += merged;
            break;
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
        if (!err && poll && s->code != RONDO_TREE_LEAF)
            err = poll->call(poll->arg);
        if (err)
            return err;
    }
    return 0;
}

const struct rondo_cpu_attention RONDO_ISA_TABLE(attention) = { tokens, heads, bytes, shares, run, part };
