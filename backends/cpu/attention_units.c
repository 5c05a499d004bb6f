/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Attention in the arithmetics of matrix units, f64 and bf16-hopper (rule 17 of rondo-numerics(7)): the bits of ref_attention.c, for some rows
 * of a KV head at a time. Built once per instruction set.
 *
 * An item is a block of rows (token, head of the KV head's group); of few rows for several KV heads, which take each leaf one after another, as
 * the heads of a token lie together. For each leaf K and V become operands once (attention_units.h), scores
 * st[key][row] and sums acc[row][column] are products of matrices, and between them lanes are rows. What a row does not see has the score
 * -infinity and so the weight 0, which adds nothing to a sum but where V is no finite number; leaves with such values go row by row, as the
 * definition does. The tree's nodes are those of all rows of the block, empty ones too, with which a merge changes nothing but a zero's sign.
 */
#include "backends/cpu/attention_units.h"
#include "backends/cpu/cpu.h"
#include "backends/cpu/task.h"

#define ROWS 96 /* of an item, where tokens have so few */
#define FEW_ROWS 16      /* up to here an item is of several KV heads, */
#define ROWS_OF_HEADS 256   /* of so many rows in all, whose nodes stay in the second-level cache */
#define KEYS(leaf) (((leaf) + RONDO_ALIGNED_SUM - 1) / RONDO_ALIGNED_SUM * RONDO_ALIGNED_SUM)

struct units {
    const struct rondo_attention_task *t;
    int arithmetic;
    int64_t token;
    int32_t rows, group, keys;           /* of each KV head; keys: a leaf's, up to whole blocks */
    int32_t first_head, heads, top;      /* KV heads; nodes on the stack, of each of them as many */
    int64_t ld, dim, padded;             /* rows, a head's elements and values, up to whole vectors and blocks */
    char *k, *v, *p;                     /* operands: doubles, or floats and behind them all their powers */
    float *st, *M, *l, *row;             /* [keys][ld], [ld], [ld], [dim or padded] */
    float *nodes;                        /* of all heads [depth] nodes: acc[rows][padded], M[ld], l[ld] */
    char *queries;                       /* of all heads */
    int *queries_safe;                   /* [heads] */
    int64_t *lo, *hi, *at;               /* [tokens] */
    uint64_t (*bits)[4];                 /* [rows]: keys of the leaf at work that a row sees */
    int k_safe, v_safe, v_finite;
    /* the KV head at work: */
    int32_t kv_head, q_safe;
    char *q;
    float *stack;
};

static int64_t up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

static int64_t tokens(const struct rondo_attention_task *t)
{
    const int64_t group = t->heads / t->kv_heads, n = group >= ROWS ? 1 : ROWS / group;
    return n < t->q_rows || t->q_rows < 1 ? n : t->q_rows;
}

static int32_t heads(const struct rondo_attention_task *t)
{
    const int64_t rows = tokens(t) * (t->heads / t->kv_heads);
    if (rows > FEW_ROWS)
        return 1;
    return ROWS_OF_HEADS / rows < t->kv_heads ? (int32_t)(ROWS_OF_HEADS / rows) : t->kv_heads;
}

/* Where one block has all rows, so that the nodes of parts are small. */
static bool shares(const struct rondo_attention_task *t) { return t->q_rows <= tokens(t); }

/* ---- scratch ---- */

static size_t node_floats(const struct units *u) { return (size_t)u->rows * (size_t)u->padded + 2 * (size_t)u->ld; }

/* Takes a part of the scratch at `from` (NULL: only counts). */
static void *take(char *from, uint64_t *used, uint64_t count, uint64_t size)
{
    void *at = from ? from + *used : NULL;
    *used += (count * size + 63) & ~(uint64_t)63;
    return at;
}

/* Returns what it takes; sizes are below 2^18 each, so that no product of three and a depth leaves 64 bits; several heads have few rows. */
static uint64_t lay_out(struct units *u, const struct rondo_attention_task *t, int64_t count, int32_t heads_of, char *scratch)
{
    uint64_t used = 0;
    u->t = t;
    u->group = t->heads / t->kv_heads;
    u->rows = (int32_t)count * u->group;
    u->keys = KEYS(t->leaf_size);
    u->ld = up(u->rows, VL);
    u->dim = up(t->head_dim, RONDO_ALIGNED_SUM);
    u->padded = up(t->value_dim, VL);
    u->heads = heads_of;
    u->queries = take(scratch, &used, (uint64_t)u->dim * (uint64_t)u->ld * (uint64_t)heads_of, 8);
    u->queries_safe = take(scratch, &used, (uint64_t)heads_of, sizeof *u->queries_safe);
    u->k = take(scratch, &used, (uint64_t)u->dim * (uint64_t)u->keys, 8);
    u->v = take(scratch, &used, (uint64_t)u->padded * (uint64_t)u->keys, 8);
    u->p = take(scratch, &used, (uint64_t)u->ld * (uint64_t)u->keys, 8);
    u->st = take(scratch, &used, (uint64_t)u->ld * (uint64_t)u->keys, sizeof *u->st);
    u->M = take(scratch, &used, (uint64_t)u->ld, sizeof *u->M);
    u->l = take(scratch, &used, (uint64_t)u->ld, sizeof *u->l);
    u->row = take(scratch, &used, (uint64_t)(u->dim > u->padded ? u->dim : u->padded) + VL, sizeof *u->row);
    u->lo = take(scratch, &used, (uint64_t)count, sizeof *u->lo);
    u->hi = take(scratch, &used, (uint64_t)count, sizeof *u->hi);
    u->at = take(scratch, &used, (uint64_t)count, sizeof *u->at);
    u->bits = take(scratch, &used, (uint64_t)u->rows, sizeof *u->bits);
    u->nodes = take(scratch, &used, (uint64_t)node_floats(u) * (uint64_t)t->depth * (uint64_t)heads_of, sizeof *u->nodes);
    return used;
}

static bool bytes(const struct rondo_attention_task *t, size_t *out)
{
    struct units u;
    const uint64_t all = lay_out(&u, t, tokens(t), heads(t), NULL);
    *out = (size_t)all;
    return all < SIZE_MAX / 2;
}

/* Turns to a KV head: number i of the item's. */
static void turn_to(struct units *u, int32_t i)
{
    u->kv_head = u->first_head + i;
    u->q = u->queries + (int64_t)i * u->dim * u->ld * 8;
    u->q_safe = u->queries_safe[i];
    u->stack = u->nodes + (int64_t)i * u->t->depth * (int64_t)node_floats(u);
}

/* A node of the head at work, by its place on the stack. */
static float *node_at(const struct units *u, int32_t place) { return u->stack + place * (int64_t)node_floats(u); }

/* ---- operands ---- */

static bool hopper(const struct units *u) { return u->arithmetic == RONDO_ARITHMETIC_BF16_HOPPER; }
static float *power_of(char *operands, int64_t count) { return (float *)(void *)operands + count; }

/* Row i of `count` numbers of k or v, from u->row. Returns whether they are safe. */
static int put_operands(const struct units *u, char *to, int64_t i, int64_t count, float least, float limit, float by)
{
    if (hopper(u)) {
        float *x = (float *)(void *)to + i * count;
        memcpy(x, u->row, (size_t)count * sizeof *x);
        return hopper_operands(x, power_of(to, u->keys * count) + i * count, count, least, limit, by);
    }
    for (int64_t d = 0; d < count; d += VDL)
        vd_store((double *)(void *)to + i * count + d, vd_from_floats(u->row + d));
    return 1;
}

/* q[d][row], rows and elements that are not there being 0. */
static void pack_q(struct units *u)
{
    const struct rondo_attention_task *t = u->t;
    float *q = (float *)(void *)u->q, *power = power_of(u->q, u->dim * u->ld);
    memset(u->q, 0, (size_t)(u->dim * u->ld) * 8);
    for (int32_t r = 0; r < u->rows; r++) {
        const int64_t at = (u->token + r / u->group) * t->q_row_stride + (u->kv_head * u->group + r % u->group) * t->q_head_stride;
        for (int32_t d = 0; d < t->head_dim; d++) {
            const float x = rondo__element(t->q, at + d, t->q_type);
            if (hopper(u))
                q[d * u->ld + r] = x;
            else
                ((double *)(void *)u->q)[d * u->ld + r] = (double)x;
        }
    }
    u->queries_safe[u->kv_head - u->first_head] = !hopper(u) || hopper_operands(q, power, u->dim * u->ld, SAFE_B_LEAST, SAFE_B_LIMIT, B_POWER);
}

static bool finite_row(const float *x, int64_t count)
{
    vf sum = vf_zero();
    for (int64_t d = 0; d < count; d += VL)
        sum = vf_fma(vf_load(x + d), vf_zero(), sum);
    return !vm_any(vf_is_nan(sum));
}

/* Row i of K or V as floats, where rows may lie pages apart, which no machine foresees; those up to `end` will be taken too. */
#define AHEAD 8
static void take_row(const struct units *u, const void *from, int64_t at, int64_t stride, int32_t i, int32_t end, int32_t dim)
{
    const int type = u->t->kv_type;
    const int64_t element = (int64_t)rondo_type_size(type), bytes_of_row = (int64_t)rondo_row_bytes(type, dim);
    const char *row = (const char *)from + (at + i * stride) * element, *next = row + AHEAD * stride * element;
    for (int64_t b = 0; i + AHEAD < end && b < bytes_of_row; b += 64)
        __builtin_prefetch(next + b, 0, 3);
    widen_row(row, 0, dim, dim, type, u->row);
}

/* K and V of keys [k0, k1) of a leaf, and V of 0 from there to whole blocks. */
static void open_leaf(struct units *u, const struct rondo_leaf_rows *at, int32_t k0, int32_t k1)
{
    const struct rondo_attention_task *t = u->t;
    const int32_t first = k0 / RONDO_ALIGNED_SUM * RONDO_ALIGNED_SUM, end = KEYS(k1);
    u->k_safe = u->v_safe = u->v_finite = 1;
    memset(u->row, 0, (size_t)(u->dim > u->padded ? u->dim : u->padded) * sizeof *u->row);
    for (int32_t i = k0; i < k1; i++) {
        take_row(u, at->k, at->k_at, at->k_stride, i, k1, t->head_dim);
        u->k_safe &= put_operands(u, u->k, i, u->dim, SAFE_A_LEAST, SAFE_A_LIMIT, 1.0f);
    }
    if (t->operation == RONDO_JOB_PROBABILITIES)
        return;
    memset(u->row, 0, (size_t)(u->dim > u->padded ? u->dim : u->padded) * sizeof *u->row);
    for (int32_t i = first; i < end; i++) {
        if (i >= k0 && i < k1)
            take_row(u, at->v, at->v_at, at->v_stride, i, k1, t->value_dim);
        else
            memset(u->row, 0, (size_t)u->padded * sizeof *u->row);
        u->v_safe &= put_operands(u, u->v, i, u->padded, SAFE_B_LEAST, SAFE_B_LIMIT, B_POWER);
        u->v_finite &= finite_row(hopper(u) ? (float *)(void *)u->v + i * u->padded : u->row, u->padded);
    }
}

/* ---- scores ---- */

static bool sees(const struct units *u, int32_t r, int32_t i) { return u->bits[r][i / 64] >> (i % 64) & 1; }

/* What the rows see of a leaf; keys [*k0, *k1) hold all of that. */
static void look(struct units *u, const struct rondo_leaf *f, int32_t *k0, int32_t *k1)
{
    uint64_t all[4] = { 0, 0, 0, 0 };
    *k0 = *k1 = 0;
    for (int32_t r = 0; r < u->rows; r++) {
        const int32_t token = r / u->group;
        rondo__leaf_bits(u->t, f, u->kv_head * u->group + r % u->group, u->at[token], u->lo[token], u->hi[token], u->bits[r]);
        for (int w = 0; w < 4; w++)
            all[w] |= u->bits[r][w];
    }
    for (int32_t w = 3; w >= 0; w--)
        *k0 = all[w] ? 64 * w + __builtin_ctzll(all[w]) : *k0;
    for (int32_t w = 0; w < 4; w++)
        *k1 = all[w] ? 64 * w + 64 - __builtin_clzll(all[w]) : *k1;
}

/* C2, of one score; s is the product. Returns false where a bias hides the key. */
static bool add_terms(const struct units *u, int32_t r, int64_t position, float *s)
{
    const struct rondo_attention_task *t = u->t;
    const int64_t p = u->at[r / u->group];
    const int32_t head = u->kv_head * u->group + r % u->group;
    const uint64_t distance = position > p ? (uint64_t)position - (uint64_t)p : (uint64_t)p - (uint64_t)position;
    float x = t->terms.cap_in != 0.0f ? rondo__tanh(*s * t->terms.cap_in) * t->terms.cap_out : *s * t->scale_log2;
    if (t->terms.alibi)
        x = rondo__fma(-(t->alibi[head] * RONDO_LOG2E_F), (float)distance, x);
    if (t->terms.bias) {
        const float bias = t->bias[t->bias_at + p * t->bias_row_stride + head * t->bias_head_stride + position];
        if (bias == -__builtin_inff())
            return false;
        x = rondo__fma(bias, RONDO_LOG2E_F, x);
    }
    *s = x;
    return true;
}

/* st[key][row]: x, -infinity for what a row does not see, also what a bias hides, which its bits lose; and M. Of whole blocks about [k0, k1). */
static void scores(struct units *u, const struct rondo_leaf *f, int32_t k0, int32_t k1)
{
    const struct rondo_attention_task *t = u->t;
    const bool plain = t->terms.cap_in == 0.0f && !t->terms.alibi && !t->terms.bias;
    const int32_t first = k0 / RONDO_ALIGNED_SUM * RONDO_ALIGNED_SUM, end = KEYS(k1);
    float *st = u->st + (int64_t)k0 * u->ld;
    if (hopper(u)) {
        const float *k = (const float *)(void *)u->k + k0 * u->dim, *q = (const float *)(void *)u->q;
        memset(st, 0, (size_t)((k1 - k0) * u->ld) * sizeof *st);
        hopper_products(k1 - k0, u->ld, u->dim / RONDO_ALIGNED_SUM, k, power_of(u->k, u->keys * u->dim) + k0 * u->dim, u->dim, 1, q,
                        power_of(u->q, u->dim * u->ld), u->ld, st, u->ld, u->q_safe && u->k_safe);
    } else {
        f64_products(k1 - k0, up(u->rows, VDL), t->head_dim, (const double *)(void *)u->k + k0 * u->dim, u->dim, 1, (const double *)(void *)u->q, u->ld, st, u->ld);
    }
    for (int64_t i = 0; plain && i < (k1 - k0) * u->ld; i += VL)
        vf_store(st + i, vf_mul(vf_load(st + i), vf_set1(t->scale_log2)));
    for (int32_t r = 0; !plain && r < u->rows; r++)
        for (int32_t i = k0; i < k1; i++)
            if (sees(u, r, i) && !add_terms(u, r, f->first + (int64_t)i * f->step, u->st + i * u->ld + r))
                u->bits[r][i / 64] &= ~((uint64_t)1 << (i % 64));
    for (int32_t r = 0; r < u->rows; r++)
        for (int32_t w = first / 64; w < (end + 63) / 64; w++)
            for (uint64_t hidden = ~u->bits[r][w]; hidden; hidden &= hidden - 1) {
                const int32_t i = 64 * w + __builtin_ctzll(hidden);
                if (i >= end)
                    break;
                if (i >= first)
                    u->st[i * u->ld + r] = -__builtin_inff();
            }
    for (int64_t r = u->rows; r < u->ld; r++)   /* lanes without a row */
        for (int32_t i = first; i < end; i++)
            u->st[i * u->ld + r] = -__builtin_inff();
    for (int64_t r = 0; r < u->ld; r += VL) {
        vf most = vf_set1(-FLT_MAX);
        for (int32_t i = k0; i < k1; i++)
            most = vf_max(vf_load(u->st + i * u->ld + r), most);
        vf_store(u->M + r, vf_rint(most));
    }
}

/* ---- weights ---- */

static bool dropped(const struct units *u, int32_t r, int64_t position)
{
    uint32_t words[4];
    if (!u->t->terms.drop)
        return false;
    rondo__drop_words(u->t, u->t->head + u->kv_head * u->group + r % u->group, u->at[r / u->group], position & ~(int64_t)3, words);
    return words[position & 3] < u->t->terms.drop;
}

/* st becomes weights, l their sums, and p the operands of keys that are not dropped. Returns whether these are safe. */
static int weights(struct units *u, const struct rondo_leaf *f, int32_t first, int32_t end)
{
    const int64_t ld = u->ld, count = (end - first) * ld;
    float *st = u->st + first * ld;
    int safe = 1;
    for (int64_t r = 0; r < ld; r += VL) {
        const vf most = vf_load(u->M + r);
        for (int64_t i = r; i < count; i += ld) {
            vf p = vf_weight(vf_load(st + i), most);
            if (hopper(u)) {
                uint16_t h[VL];
                vf_to_bf16(h, p);
                p = vf_from_bf16(h);
            }
            vf_store(st + i, p);
        }
    }
    if (hopper(u)) {
        static const float one[RONDO_ALIGNED_SUM] = { 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1 };
        float *p = (float *)(void *)u->p + first * ld, *power = power_of(u->p, u->keys * ld) + first * ld;
        memcpy(p, st, (size_t)count * sizeof *p);
        safe = hopper_operands(p, power, count, SAFE_A_LEAST, SAFE_B_LIMIT, B_POWER);   /* b here, but of products with 1 */
        memset(u->l, 0, (size_t)ld * sizeof *u->l);
        hopper_products(1, ld, (end - first) / RONDO_ALIGNED_SUM, one, one, 0, 0, p, power, ld, u->l, ld, safe);
    } else {
        for (int64_t r = 0; r < ld; r += VDL) {
            vd sum = vd_zero();
            for (int64_t i = r; i < count; i += ld)
                sum = vd_add(sum, vd_from_floats(st + i));
            vd_to_floats(u->l + r, sum);
        }
    }
    for (int32_t r = 0; u->t->terms.drop && r < u->rows; r++)
        for (int32_t i = first; i < end; i++)
            if (sees(u, r, i) && dropped(u, r, f->first + (int64_t)i * f->step))
                u->st[i * ld + r] = 0.0f;
    if (hopper(u)) {
        float *p = (float *)(void *)u->p + first * ld;
        memcpy(p, st, (size_t)count * sizeof *p);
        return hopper_operands(p, power_of(u->p, u->keys * ld) + first * ld, count, SAFE_A_LEAST, SAFE_A_LIMIT, 1.0f);
    }
    for (int64_t i = 0; i < count; i += VDL)
        vd_store((double *)(void *)u->p + first * ld + i, vd_from_floats(st + i));
    return safe;
}

/* ---- values ---- */

/* One row, as the definition does it. */
static void values_apart(const struct units *u, const struct rondo_leaf *f, int32_t r, int32_t first, int32_t end, float *acc)
{
    for (int32_t d = 0; d < u->t->value_dim; d++) {
        double sum = 0.0;
        acc[d] = 0.0f;
        for (int32_t i0 = first; i0 < end; i0 += RONDO_ALIGNED_SUM) {
            uint16_t p[RONDO_ALIGNED_SUM] = { 0 }, v[RONDO_ALIGNED_SUM] = { 0 };
            for (int32_t i = i0; i < i0 + RONDO_ALIGNED_SUM; i++) {
                const int32_t at = i - i0;
                if (!sees(u, r, i))
                    continue;
                if (!hopper(u)) {
                    sum = sum + ((const double *)(const void *)u->p)[i * u->ld + r] * ((const double *)(const void *)u->v)[i * u->padded + d];
                } else if (!dropped(u, r, f->first + (int64_t)i * f->step)) {
                    p[at] = (uint16_t)(rondo__bits(u->st[i * u->ld + r]) >> 16);
                    v[at] = (uint16_t)(rondo__bits(((const float *)(const void *)u->v)[i * u->padded + d]) >> 16);
                }
            }
            if (hopper(u))
                acc[d] = rondo__aligned_sum(acc[d], p, v);
        }
        if (!hopper(u))
            acc[d] = (float)sum;
    }
}

/* Rows go together as far as they see keys of about the same blocks. */
#define ROWS_TOGETHER 12

static void values(const struct units *u, const struct rondo_leaf *f, int32_t first, int32_t end, int safe, float *acc)
{
    memset(acc, 0, (size_t)u->rows * (size_t)u->padded * sizeof *acc);
    for (int32_t r = 0; !u->v_finite && r < u->rows; r++)
        values_apart(u, f, r, first, end, acc + r * u->padded);
    for (int32_t r = 0; u->v_finite && r < u->rows; r += ROWS_TOGETHER) {
        const int32_t n = u->rows - r < ROWS_TOGETHER ? u->rows - r : ROWS_TOGETHER;
        uint64_t all[4] = { 0, 0, 0, 0 };
        int32_t i0 = first, i1 = end;
        for (int32_t i = r; i < r + n; i++)
            for (int w = 0; w < 4; w++)
                all[w] |= u->bits[i][w];
        while (i0 < i1 && !(all[i0 / 64] >> (i0 % 64) & 0xffffu))
            i0 += RONDO_ALIGNED_SUM;
        while (i0 < i1 && !(all[(i1 - 1) / 64] >> ((i1 - RONDO_ALIGNED_SUM) % 64) & 0xffffu))
            i1 -= RONDO_ALIGNED_SUM;
        if (hopper(u)) {
            const float *p = (const float *)(const void *)u->p + i0 * u->ld + r, *v = (const float *)(const void *)u->v + i0 * u->padded;
            hopper_products(n, u->padded, (i1 - i0) / RONDO_ALIGNED_SUM, p, p + u->keys * u->ld, 1, u->ld, v, v + u->keys * u->padded, u->padded,
                            acc + r * u->padded, u->padded, safe && u->v_safe);
        } else {
            f64_products(n, u->padded, i1 - i0, (const double *)(const void *)u->p + i0 * u->ld + r, 1, u->ld,
                         (const double *)(const void *)u->v + i0 * u->padded, u->padded, acc + r * u->padded, u->padded);
        }
    }
}

/* ---- nodes ---- */

static float *node_m(const struct units *u, float *node) { return node + u->rows * u->padded; }
static float *node_l(const struct units *u, float *node) { return node_m(u, node) + u->ld; }

static void node_empty(const struct units *u, float *node)
{
    memset(node, 0, node_floats(u) * sizeof *node);
    for (int64_t r = 0; r < u->ld; r++)
        node_m(u, node)[r] = -FLT_MAX;
}

static void leaf(struct units *u, const struct rondo_leaf *f, float *node)
{
    const struct rondo_leaf_rows at = rondo__leaf_rows(u->t, f, u->kv_head);
    int32_t k0, k1;
    look(u, f, &k0, &k1);
    if (k0 >= k1) {
        node_empty(u, node);
        return;
    }
    const int32_t first = k0 / RONDO_ALIGNED_SUM * RONDO_ALIGNED_SUM, end = KEYS(k1);
    open_leaf(u, &at, k0, k1);
    scores(u, f, k0, k1);
    const int safe = weights(u, f, first, end);
    values(u, f, first, end, safe, node);
    for (int64_t r = 0; r < u->ld; r++) {
        node_m(u, node)[r] = u->l[r] != u->l[r] ? FLT_MAX : u->M[r];
        node_l(u, node)[r] = u->l[r];
    }
}

/* C5 */
static void merge(const struct units *u, float *a, const float *b)
{
    for (int32_t r = 0; r < u->rows; r++) {
        float *Ma = node_m(u, a) + r, *la = node_l(u, a) + r, *x = a + r * u->padded;
        const float Mb = b[u->rows * u->padded + r], lb = b[u->rows * u->padded + u->ld + r], *y = b + r * u->padded;
        const float M = *Ma > Mb ? *Ma : Mb, sa = rondo__merge_scale(*Ma - M), sb = rondo__merge_scale(Mb - M);
        *la = rondo__fma(*la, sa, lb * sb);
        *Ma = M;
        for (int64_t d = 0; d < u->padded; d += VL)
            vf_store(x + d, vf_fma(vf_load(x + d), vf_set1(sa), vf_mul(vf_load(y + d), vf_set1(sb))));
    }
}

/* The two topmost nodes of the head at work become one. */
static void merge_top(const struct units *u, int32_t top) { merge(u, node_at(u, top - 2), node_at(u, top - 1)); }

/* C6: leaves [a, b) of a run, all heads of each before the next one. */
static int run_of_leaves(struct units *u, const struct rondo_leaf *run, int64_t a, int64_t b, const struct rondo_poll *poll)
{
    const struct rondo_attention_task *t = u->t;
    const int64_t leaves = rondo__run_leaves(run, t->leaf_size);
    for (int32_t h = 0; a >= b && h < u->heads; h++) {
        turn_to(u, h);
        node_empty(u, node_at(u, u->top));
    }
    for (int64_t i = a; i < b; i++) {
        const struct rondo_leaf f = rondo__run_leaf(run, leaves, i, t->leaf_size);
        const int32_t merges = rondo__run_merges(i, a, b);
        for (int32_t h = 0; h < u->heads; h++) {
            turn_to(u, h);
            leaf(u, &f, node_at(u, u->top));
            for (int32_t n = 0; n < merges; n++)
                merge_top(u, u->top + 1 - n);
        }
        u->top += 1 - merges;
        const int err = poll ? poll->call(poll->arg) : 0;
        if (err)
            return err;
    }
    u->top += a >= b;
    return 0;
}

/* A slot holds acc[q_rows][heads][value_dim], M[q_rows][heads], l[q_rows][heads]. */
static void slot_move(const struct units *u, float *slot, float *node, bool store)
{
    const struct rondo_attention_task *t = u->t;
    const int64_t all = t->q_rows * t->heads, dim = t->value_dim;
    if (!store)
        node_empty(u, node);
    for (int32_t r = 0; r < u->rows; r++) {
        const int64_t at = (u->token + r / u->group) * t->heads + u->kv_head * u->group + r % u->group;
        float *from = node + r * u->padded, *to = slot + at * dim, *M = node_m(u, node) + r, *l = node_l(u, node) + r;
        memcpy(store ? to : from, store ? from : to, (size_t)dim * sizeof *to);
        if (store) {
            slot[all * dim + at] = *M;
            slot[all * dim + all + at] = *l;
        } else {
            *M = slot[all * dim + at];
            *l = slot[all * dim + all + at];
        }
    }
}

/* C7, for one row */
static void output(const struct units *u, int32_t r, float *node)
{
    const struct rondo_attention_task *t = u->t;
    const int64_t token = u->token + r / u->group;
    const int32_t head = u->kv_head * u->group + r % u->group;
    float M = node_m(u, node)[r], l = node_l(u, node)[r], *acc = node + r * u->padded;
    if (t->terms.sinks) {
        const float x = t->sinks[head] * RONDO_LOG2E_F, n = rondo__rint(x), its = rondo__exp2_poly(x - n), of = its != its ? FLT_MAX : n;
        if (l != 0.0f && x != -__builtin_inff()) {
            const float top = M > of ? M : of, sa = rondo__merge_scale(M - top), sb = rondo__merge_scale(of - top);
            M = top;
            l = rondo__fma(l, sa, its * sb);
            for (int32_t d = 0; d < t->value_dim; d++)
                acc[d] = rondo__fma(acc[d], sa, 0.0f * sb);
        }
    }
    const float inv = t->terms.drop ? 1.0f / l * t->terms.keep : 1.0f / l;
    if (t->stats) {
        float *stats = t->stats + token * t->stats_row_stride + head * t->stats_head_stride;
        rondo__put_element(stats, 0, RONDO_F32, l == 0.0f ? 0.0f : M + 0.0f);
        rondo__put_element(stats, 1, RONDO_F32, l);
    }
    for (int32_t d = 0; d < t->value_dim; d++)
        rondo__put_element(t->out, token * t->out_row_stride + head * t->out_head_stride + d, t->out_type, l == 0.0f ? 0.0f : acc[d] * inv + 0.0f);
    if (t->lse)
        rondo__put_element(t->lse, token * t->lse_row_stride + head * t->lse_head_stride, RONDO_F32, rondo__lse(M, l));
}

static int probabilities(struct units *u, const struct rondo_poll *poll)
{
    const struct rondo_attention_task *t = u->t;
    for (int32_t j = 0; j < t->leaf_count; j++) {
        const int64_t leaves = rondo__run_leaves(t->leaves + j, t->leaf_size);
        int64_t a, b;
        rondo__run_seen(t, u->token, u->token + u->rows / u->group, t->leaves + j, &a, &b);
        for (int64_t i = a; i < b; i++) {
            const struct rondo_leaf f = rondo__run_leaf(t->leaves + j, leaves, i, t->leaf_size);
            const struct rondo_leaf_rows at = rondo__leaf_rows(t, &f, u->kv_head);
            int32_t k0, k1;
            look(u, &f, &k0, &k1);
            if (k0 >= k1)
                continue;
            open_leaf(u, &at, k0, k1);
            scores(u, &f, k0, k1);
            for (int32_t r = 0; r < u->rows; r++) {
                const int64_t token = u->token + r / u->group;
                const int32_t head = u->kv_head * u->group + r % u->group;
                const float *stats = t->stats + token * t->stats_row_stride + head * t->stats_head_stride, inv = 1.0f / stats[1];
                float *out = t->probs + token * t->probs_row_stride + head * t->probs_head_stride;
                for (int32_t key = k0; key < k1; key++) {
                    if (!sees(u, r, key))
                        continue;
                    const float x = u->st[key * u->ld + r], n = rondo__rint(x), p = rondo__weight(x - n, n - stats[0]);
                    const float its = hopper(u) ? rondo__from_bf16(rondo__to_bf16(p)) : p;
                    rondo__put_element(out, t->probs_at + f.first + (int64_t)key * f.step, RONDO_F32, stats[1] == 0.0f ? 0.0f : its * inv);
                }
            }
            const int err = poll ? poll->call(poll->arg) : 0;
            if (err)
                return err;
        }
    }
    return 0;
}

/* ---- the table ---- */

static void begin(struct units *u, int arithmetic, const struct rondo_attention_task *t, int64_t t0, int64_t t1, int32_t kv_head, int32_t kv_heads,
                  void *scratch)
{
    *u = (struct units){ .arithmetic = arithmetic, .token = t0, .first_head = kv_head };
    lay_out(u, t, t1 - t0, kv_heads, scratch);
    for (int32_t i = 0; i < u->rows / u->group; i++) {
        u->at[i] = rondo__cpu_position(t, t0 + i);
        t->mask->kind->row(t->mask, t->sequence, u->at[i], u->lo + i, u->hi + i);
    }
    for (int32_t h = 0; h < kv_heads; h++) {
        turn_to(u, h);
        pack_q(u);
    }
}

/* LEAF: what of its run the block sees, or the nodes of parts of it. */
static int leaf_step(struct units *u, const struct rondo_leaf *run, const struct rondo_cpu_parts *parts, int64_t *part, const struct rondo_poll *poll)
{
    int64_t a, b, p0, p1;
    rondo__run_seen(u->t, u->token, u->token + u->rows / u->group, run, &a, &b);
    if (!parts || rondo__run_parts(a, b, parts->shift, &p0, &p1) <= 1)
        return run_of_leaves(u, run, a, b, poll);
    for (int64_t i = p0; i < p1; i++, ++*part) {
        const int32_t merges = rondo__run_merges(i, p0, p1);
        for (int32_t h = 0; h < u->heads; h++) {
            turn_to(u, h);
            slot_move(u, (float *)(uintptr_t)(parts->nodes + (size_t)*part * parts->floats), node_at(u, u->top), false);
            for (int32_t n = 0; n < merges; n++)
                merge_top(u, u->top + 1 - n);
        }
        u->top += 1 - merges;
    }
    return 0;
}

static void other_step(struct units *u, const struct rondo_tree_step *s)
{
    const int32_t top = u->top;
    for (int32_t h = 0; h < u->heads; h++) {
        turn_to(u, h);
        switch (s->code) {
        case RONDO_TREE_LOAD:
            slot_move(u, u->t->slots[s->arg], node_at(u, top), false);
            break;
        case RONDO_TREE_MERGE:
            merge_top(u, top);
            break;
        case RONDO_TREE_STORE:
            slot_move(u, u->t->slots[s->arg], node_at(u, top - 1), true);
            break;
        default:
            for (int32_t r = 0; r < u->rows; r++)
                output(u, r, node_at(u, top - 1));
        }
    }
    u->top += s->code == RONDO_TREE_LOAD ? 1 : -1;
}

static int run_units(struct units *u, const struct rondo_cpu_parts *parts, const struct rondo_poll *poll)
{
    const struct rondo_attention_task *t = u->t;
    int64_t part = 0;
    int err = 0;
    for (int32_t h = 0; t->operation == RONDO_JOB_PROBABILITIES && h < u->heads && !err; h++) {
        turn_to(u, h);
        err = probabilities(u, poll);
    }
    for (int32_t i = 0; t->operation != RONDO_JOB_PROBABILITIES && i < t->steps && !err; i++) {
        const struct rondo_tree_step *s = t->program + i;
        if (s->code == RONDO_TREE_LEAF) {
            err = leaf_step(u, t->leaves + s->arg, parts, &part, poll);
            continue;
        }
        other_step(u, s);
        err = poll ? poll->call(poll->arg) : 0;
    }
    return err;
}

static int part_of_units(struct units *u, int32_t step, int64_t first, int64_t end, float *slot, const struct rondo_poll *poll)
{
    const int err = run_of_leaves(u, u->t->leaves + u->t->program[step].arg, first, end, poll);
    for (int32_t h = 0; h < u->heads && !err; h++) {
        turn_to(u, h);
        slot_move(u, slot, node_at(u, 0), true);
    }
    return err;
}

#define TABLE(name, which)                                                                                                                 \
    static int run_##name(const struct rondo_attention_task *t, int64_t t0, int64_t t1, int32_t kv_head, int32_t kv_heads,                 \
                          const struct rondo_cpu_parts *parts, void *scratch, const struct rondo_poll *poll)                               \
    {                                                                                                                                      \
        struct units u;                                                                                                                    \
        begin(&u, which, t, t0, t1, kv_head, kv_heads, scratch);                                                                           \
        return run_units(&u, parts, poll);                                                                                                 \
    }                                                                                                                                      \
    static int part_##name(const struct rondo_attention_task *t, int64_t t0, int64_t t1, int32_t kv_head, int32_t kv_heads, int32_t step,  \
                           int64_t first, int64_t end, float *slot, void *scratch, const struct rondo_poll *poll)                          \
    {                                                                                                                                      \
        struct units u;                                                                                                                    \
        begin(&u, which, t, t0, t1, kv_head, kv_heads, scratch);                                                                           \
        return part_of_units(&u, step, first, end, slot, poll);                                                                            \
    }                                                                                                                                      \
    const struct rondo_cpu_attention RONDO_ISA_TABLE(attention_##name) = { tokens, heads, bytes, shares, run_##name, part_##name };
TABLE(f64, RONDO_ARITHMETIC_F64)
TABLE(hopper, RONDO_ARITHMETIC_BF16_HOPPER)
