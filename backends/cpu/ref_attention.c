/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The definition of attention: rules C2-C7 of the numerics contract (rondo-numerics(7)) for one query row at
 * a time, and the tree program of core/device.h executed as it is written; in each arithmetic, which are different inside of a leaf only (C17).
 * Every fast kernel equals this bit for bit. Built twice: without FMA instructions (fused multiply-add in software) and, on x86, with them.
 */
#include "backends/cpu/cpu.h"
#include "backends/cpu/num.h"
#include "backends/cpu/task.h"
#include "core/aligned_sum.h"

#define TOKENS 8 /* of one item; any number would do */
#define LEAF_MAX 256

/* A node: M, l, acc[value_dim]. */
enum { NODE_M, NODE_L, NODE_ACC };

static size_t node_floats(const struct rondo_attention_task *t) { return (size_t)t->value_dim + NODE_ACC; }

static void node_empty(const struct rondo_attention_task *t, float *node)
{
    memset(node, 0, node_floats(t) * sizeof *node);
    node[NODE_M] = -FLT_MAX;
}

/* The keys of a leaf in the order of the contract, 1, 0, 3, 2, ...: the j-th of them, for j = 0, 1, ... below
 * count rounded up to even. Those that the row does not see take no part. */
static int32_t pairwise(int32_t j) { return j ^ 1; }

/* The row at work: a token in a query head of the task, which stands at p and sees keys of [lo, hi). */
struct row {
    const float *q;                    /* BF16_HOPPER: rounded to BF16 */
    double *wide;                      /* scratch of F64: [value_dim] */
    int64_t token, p, lo, hi;
    int32_t head, kv_head, arithmetic;
    float x[LEAF_MAX];                 /* scratch */
    uint64_t seen[4];                  /* bit i: key i of the leaf at work is visible */
};

static bool sees(const struct row *r, int32_t i) { return r->seen[i / 64] >> (i % 64) & 1; }

static float bf16(float x) { return rondo__from_bf16(rondo__to_bf16(x)); }

/* C2: the chain over the head dimension; C17: ascending in double, where the product of two floats is exact, so that product and sum are one
 * fused multiply-add; in blocks of 16 with zeros behind the last element. */
static float product(const struct rondo_attention_task *t, const struct row *r, const void *k)
{
    float s = 0.0f;
    if (r->arithmetic == RONDO_ARITHMETIC_F64) {
        double sum = 0.0;
        for (int32_t d = 0; d < t->head_dim; d++)
            sum = sum + (double)r->q[d] * (double)rondo__row_number(k, d, t->head_dim, t->kv_type);
        return (float)sum;
    }
    if (r->arithmetic == RONDO_ARITHMETIC_BF16_HOPPER) {
        for (int32_t d = 0; d < t->head_dim; d += RONDO_ALIGNED_SUM) {
            uint16_t a[RONDO_ALIGNED_SUM] = { 0 }, b[RONDO_ALIGNED_SUM] = { 0 };
            for (int32_t i = 0; i < RONDO_ALIGNED_SUM && d + i < t->head_dim; i++) {
                a[i] = rondo__to_bf16(r->q[d + i]);
                b[i] = rondo__to_bf16(rondo__row_number(k, d + i, t->head_dim, t->kv_type));
            }
            s = rondo__aligned_sum(s, a, b);
        }
        return s;
    }
    for (int32_t j = 0; j < t->head_dim + (t->head_dim & 1); j++) {
        int32_t d = pairwise(j);
        if (d < t->head_dim)
            s = rondo__fma(r->q[d], rondo__row_number(k, d, t->head_dim, t->kv_type), s);
    }
    return s;
}

/* C2: one product with scale * log2(e) or tanh between two products, then the terms. */
static float score(const struct rondo_attention_task *t, const struct row *r, const void *k, int64_t position)
{
    const uint64_t distance = position > r->p ? (uint64_t)position - (uint64_t)r->p : (uint64_t)r->p - (uint64_t)position;
    const float s = product(t, r, k);
    float x;
    x = t->terms.cap_in != 0.0f ? rondo__tanh(s * t->terms.cap_in) * t->terms.cap_out : s * t->scale_log2;
    if (t->terms.alibi)
        x = rondo__fma(-(t->alibi[r->head] * RONDO_LOG2E_F), (float)distance, x);
    if (t->terms.bias)
        x = rondo__fma(t->bias[t->bias_at + r->p * t->bias_row_stride + r->head * t->bias_head_stride + position], RONDO_LOG2E_F, x);
    return x;
}

/* C4: which keys of a leaf a row sees: what the mask says, less those that a bias hides; and their x. Returns M. */
static float leaf_scores(const struct rondo_attention_task *t, const struct rondo_leaf *f, struct row *r)
{
    const struct rondo_leaf_rows at = rondo__leaf_rows(t, f, r->kv_head);
    const int64_t size = (int64_t)rondo_type_size(t->kv_type);
    float M = -FLT_MAX;
    rondo__leaf_bits(t, f, r->head, r->p, r->lo, r->hi, r->seen);
    for (int32_t i = 0; i < f->count; i++) {
        const int64_t position = f->first + (int64_t)i * f->step;
        if (!sees(r, i))
            continue;
        if (t->terms.bias && t->bias[t->bias_at + r->p * t->bias_row_stride + r->head * t->bias_head_stride + position] == -__builtin_inff()) {
            r->seen[i / 64] &= ~((uint64_t)1 << (i % 64));
            continue;
        }
        r->x[i] = score(t, r, (const char *)at.k + (at.k_at + i * at.k_stride) * size, position);
        float n = rondo__rint(r->x[i]);
        M = n > M ? n : M;
    }
    return M;
}

/* C10. */
static bool dropped(const struct rondo_attention_task *t, const struct row *r, int64_t position)
{
    uint32_t words[4];
    if (!t->terms.drop)
        return false;
    rondo__drop_words(t, t->head + r->head, r->p, position & ~(int64_t)3, words);
    return words[position & 3] < t->terms.drop;
}

/* C3, C4: a key's weight against M. */
static float weight(const struct row *r, int32_t i, float M)
{
    const float n = rondo__rint(r->x[i]), p = rondo__weight(r->x[i] - n, n - M);
    return r->arithmetic == RONDO_ARITHMETIC_BF16_HOPPER ? bf16(p) : p;
}

/* A key's values. */
static const void *values(const struct rondo_attention_task *t, const struct rondo_leaf_rows *at, int32_t i)
{
    return (const char *)at->v + (at->v_at + i * at->v_stride) * (int64_t)rondo_type_size(t->kv_type);
}

/* C4: the sums of a leaf, weights being against M. Returns l. */
static float sums(const struct rondo_attention_task *t, const struct rondo_leaf *f, const struct row *r, float M, float *acc)
{
    const struct rondo_leaf_rows at = rondo__leaf_rows(t, f, r->kv_head);
    float l = 0.0f;
    for (int32_t j = 0; j < f->count + (f->count & 1); j++) {
        int32_t i = pairwise(j);
        if (i >= f->count || !sees(r, i))
            continue;
        float p = weight(r, i, M);
        l = l + p;
        if (dropped(t, r, f->first + (int64_t)i * f->step))
            p = 0.0f;
        for (int32_t d = 0; d < t->value_dim; d++)
            acc[d] = rondo__fma(p, rondo__row_number(values(t, &at, i), d, t->value_dim, t->kv_type), acc[d]);
    }
    return l;
}

/* C17: ascending in double. */
static float sums_f64(const struct rondo_attention_task *t, const struct rondo_leaf *f, const struct row *r, float M, float *acc)
{
    const struct rondo_leaf_rows at = rondo__leaf_rows(t, f, r->kv_head);
    double l = 0.0;
    memset(r->wide, 0, (size_t)t->value_dim * sizeof *r->wide);
    for (int32_t i = 0; i < f->count; i++) {
        if (!sees(r, i))
            continue;
        double p = (double)weight(r, i, M);
        l = l + p;
        if (dropped(t, r, f->first + (int64_t)i * f->step))
            p = 0.0;
        for (int32_t d = 0; d < t->value_dim; d++)
            r->wide[d] = r->wide[d] + p * (double)rondo__row_number(values(t, &at, i), d, t->value_dim, t->kv_type);
    }
    for (int32_t d = 0; d < t->value_dim; d++)
        acc[d] = (float)r->wide[d];
    return (float)l;
}

/* C17: blocks of 16 keys. What is hidden is a product of zeros, and so is what is dropped, but in l. */
static float sums_hopper(const struct rondo_attention_task *t, const struct rondo_leaf *f, const struct row *r, float M, float *acc)
{
    const struct rondo_leaf_rows at = rondo__leaf_rows(t, f, r->kv_head);
    float l = 0.0f;
    for (int32_t first = 0; first < f->count; first += RONDO_ALIGNED_SUM) {
        uint16_t p[RONDO_ALIGNED_SUM] = { 0 }, kept[RONDO_ALIGNED_SUM] = { 0 }, v[RONDO_ALIGNED_SUM] = { 0 }, one[RONDO_ALIGNED_SUM];
        bool keeps[RONDO_ALIGNED_SUM] = { false };
        for (int32_t i = 0; i < RONDO_ALIGNED_SUM; i++) {
            one[i] = rondo__to_bf16(1.0f);
            if (first + i >= f->count || !sees(r, first + i))
                continue;
            p[i] = rondo__to_bf16(weight(r, first + i, M));
            keeps[i] = !dropped(t, r, f->first + (int64_t)(first + i) * f->step);
            kept[i] = keeps[i] ? p[i] : 0;
        }
        l = rondo__aligned_sum(l, p, one);
        for (int32_t d = 0; d < t->value_dim; d++) {
            for (int32_t i = 0; i < RONDO_ALIGNED_SUM; i++)
                if (keeps[i])
                    v[i] = rondo__to_bf16(rondo__row_number(values(t, &at, first + i), d, t->value_dim, t->kv_type));
            acc[d] = rondo__aligned_sum(acc[d], kept, v);
        }
    }
    return l;
}

/* C3, C4: the node of one leaf. */
static void leaf(const struct rondo_attention_task *t, const struct rondo_leaf *f, struct row *r, float *node)
{
    node_empty(t, node);
    const float M = leaf_scores(t, f, r);
    const float l = (r->arithmetic == RONDO_ARITHMETIC_F64 ? sums_f64 : r->arithmetic == RONDO_ARITHMETIC_BF16_HOPPER ? sums_hopper : sums)(
        t, f, r, M, node + NODE_ACC);
    node[NODE_M] = l != l ? FLT_MAX : M;
    node[NODE_L] = l;
}

/* C5: a = merge(a, b). */
static void merge(const struct rondo_attention_task *t, float *a, const float *b)
{
    float M = a[NODE_M] > b[NODE_M] ? a[NODE_M] : b[NODE_M];
    float sa = rondo__merge_scale(a[NODE_M] - M), sb = rondo__merge_scale(b[NODE_M] - M);
    a[NODE_L] = rondo__fma(a[NODE_L], sa, b[NODE_L] * sb);
    for (int32_t d = 0; d < t->value_dim; d++)
        a[NODE_ACC + d] = rondo__fma(a[NODE_ACC + d], sa, b[NODE_ACC + d] * sb);
    a[NODE_M] = M;
}

/* C6: the canonical tree over the leaves of a run in which this row sees keys, at *top, which goes one node up. */
static float *run_of_leaves(const struct rondo_attention_task *t, const struct rondo_leaf *run, struct row *r, float *top)
{
    const size_t size = node_floats(t);
    const int64_t leaves = rondo__run_leaves(run, t->leaf_size);
    int64_t a, b;

    rondo__run_visible(run, leaves, r->lo, r->hi, t->leaf_size, &a, &b);
    if (a >= b) {
        node_empty(t, top);
        return top + size;
    }
    for (int64_t i = a; i < b; i++) {
        const struct rondo_leaf f = rondo__run_leaf(run, leaves, i, t->leaf_size);
        leaf(t, &f, r, top);
        for (int32_t n = rondo__run_merges(i, a, b); n > 0; n--, top -= size)
            merge(t, top - size, top);
        top += size;
    }
    return top;
}

/* C7: the root with its sink. */
static void sink(const struct rondo_attention_task *t, int32_t head, float *node)
{
    const float x = t->sinks[head] * RONDO_LOG2E_F, n = rondo__rint(x), l = rondo__exp2_poly(x - n), M = l != l ? FLT_MAX : n;
    if (node[NODE_L] == 0.0f || x == -__builtin_inff())
        return;
    const float top = node[NODE_M] > M ? node[NODE_M] : M;
    const float sa = rondo__merge_scale(node[NODE_M] - top), sb = rondo__merge_scale(M - top);
    node[NODE_M] = top;
    node[NODE_L] = rondo__fma(node[NODE_L], sa, l * sb);
    for (int32_t d = 0; d < t->value_dim; d++)
        node[NODE_ACC + d] = rondo__fma(node[NODE_ACC + d], sa, 0.0f * sb);
}

/* C7. */
static void output(const struct rondo_attention_task *t, int64_t token, int32_t head, float *node)
{
    if (t->terms.sinks)
        sink(t, head, node);
    float l = node[NODE_L], inv = 1.0f / l;
    if (t->terms.drop)
        inv = inv * t->terms.keep;
    if (t->stats) {
        float *stats = t->stats + token * t->stats_row_stride + head * t->stats_head_stride;
        rondo__put_element(stats, 0, RONDO_F32, l == 0.0f ? 0.0f : node[NODE_M] + 0.0f);
        rondo__put_element(stats, 1, RONDO_F32, l);
    }
    int64_t at = token * t->out_row_stride + head * t->out_head_stride;
    for (int32_t d = 0; d < t->value_dim; d++)
        rondo__put_element(t->out, at + d, t->out_type, l == 0.0f ? 0.0f : node[NODE_ACC + d] * inv + 0.0f);
    if (t->lse)
        rondo__put_element(t->lse, token * t->lse_row_stride + head * t->lse_head_stride, RONDO_F32,
                           rondo__lse(node[NODE_M], l));
}

/* A slot holds acc[q_rows][heads][value_dim], M[q_rows][heads], l[q_rows][heads]. */
static void slot_move(const struct rondo_attention_task *t, float *slot, int64_t token, int32_t head,
                      float *node, bool store)
{
    size_t row = (size_t)token * (size_t)t->heads + (size_t)head, rows = (size_t)t->q_rows * (size_t)t->heads;
    size_t dim = (size_t)t->value_dim;
    float *acc = slot + row * dim, *M = slot + rows * dim + row, *l = M + rows;
    if (store) {
        memcpy(acc, node + NODE_ACC, dim * sizeof *acc);
        *M = node[NODE_M];
        *l = node[NODE_L];
    } else {
        memcpy(node + NODE_ACC, acc, dim * sizeof *acc);
        node[NODE_M] = *M;
        node[NODE_L] = *l;
    }
}

/* C7: the probabilities of a row's visible keys. */
static void probabilities(const struct rondo_attention_task *t, struct row *r)
{
    const float *stats = t->stats + r->token * t->stats_row_stride + r->head * t->stats_head_stride, M = stats[0], inv = 1.0f / stats[1];
    float *out = t->probs + r->token * t->probs_row_stride + r->head * t->probs_head_stride;
    for (int32_t j = 0; j < t->leaf_count; j++) {
        const int64_t leaves = rondo__run_leaves(t->leaves + j, t->leaf_size);
        int64_t a, b;
        rondo__run_visible(t->leaves + j, leaves, r->lo, r->hi, t->leaf_size, &a, &b);
        for (int64_t k = a; k < b; k++) {
            const struct rondo_leaf f = rondo__run_leaf(t->leaves + j, leaves, k, t->leaf_size);
            leaf_scores(t, &f, r);
            for (int32_t i = 0; i < f.count; i++) {
                if (!sees(r, i))
                    continue;
                rondo__put_element(out, t->probs_at + f.first + (int64_t)i * f.step, RONDO_F32, stats[1] == 0.0f ? 0.0f : weight(r, i, M) * inv);
            }
        }
    }
}

/* C6: the program for one row. scratch: what bytes() says. */
static void row(const struct rondo_attention_task *t, int arithmetic, int64_t token, int32_t head, void *scratch)
{
    const size_t size = node_floats(t);
    double *wide = scratch;
    float *q = (float *)(wide + (arithmetic == RONDO_ARITHMETIC_F64 ? t->value_dim : 0)), *top = q + t->head_dim; /* the next free place of the stack */
    struct row r = { .q = q, .wide = wide, .token = token, .p = rondo__cpu_position(t, token), .head = head,
                     .kv_head = head / (t->heads / t->kv_heads), .arithmetic = arithmetic };

    t->mask->kind->row(t->mask, t->sequence, r.p, &r.lo, &r.hi);
    for (int32_t d = 0; d < t->head_dim; d++)
        q[d] = rondo__element(t->q, token * t->q_row_stride + head * t->q_head_stride + d, t->q_type);
    if (t->operation == RONDO_JOB_PROBABILITIES) {
        probabilities(t, &r);
        return;
    }
    for (int32_t i = 0; i < t->steps; i++) {
        const struct rondo_tree_step *s = t->program + i;
        switch (s->code) {
        case RONDO_TREE_LEAF:
            top = run_of_leaves(t, t->leaves + s->arg, &r, top);
            break;
        case RONDO_TREE_LOAD:
            slot_move(t, t->slots[s->arg], token, head, top, false);
            top += size;
            break;
        case RONDO_TREE_MERGE:
            top -= size;
            merge(t, top - size, top);
            break;
        case RONDO_TREE_STORE:
            top -= size;
            slot_move(t, t->slots[s->arg], token, head, top, true);
            break;
        default:
            top -= size;
            output(t, token, head, top);
        }
    }
}

/* ---- the table ---- */

static int64_t tokens(const struct rondo_attention_task *t)
{
    (void)t;
    return TOKENS;
}

static int32_t heads(const struct rondo_attention_task *t)
{
    (void)t;
    return 1;
}

static bool shares(const struct rondo_attention_task *t)
{
    (void)t;
    return false;
}

/* A row's q and its stack. */
static bool bytes(const struct rondo_attention_task *t, size_t *out)
{
    size_t stack, floats;
    return rondo__mul(node_floats(t), (size_t)t->depth, &stack) &&
           rondo__add(stack, (size_t)t->head_dim, &floats) &&
           rondo__mul(floats, sizeof(float), out);
}

static bool bytes_f64(const struct rondo_attention_task *t, size_t *out)
{
    return bytes(t, out) && rondo__add(*out, (size_t)t->value_dim * sizeof(double), out);
}

static int rows(const struct rondo_attention_task *t, int arithmetic, int64_t t0, int64_t t1, int32_t kv_head, int32_t kv_heads, void *scratch,
                const struct rondo_poll *poll)
{
    const int32_t group = t->heads / t->kv_heads;
    for (int64_t token = t0; token < t1; token++) {
        for (int32_t head = kv_head * group; head < (kv_head + kv_heads) * group; head++)
            row(t, arithmetic, token, head, scratch);
        int err = poll ? poll->call(poll->arg) : 0;
        if (err)
            return err;
    }
    return 0;
}

#define RUN(name, arithmetic)                                                                                                              \
    static int name(const struct rondo_attention_task *t, int64_t t0, int64_t t1, int32_t kv_head, int32_t kv_heads,                        \
                    const struct rondo_cpu_parts *parts, void *scratch, const struct rondo_poll *poll)                                      \
    {                                                                                                                                      \
        (void)parts;                                                                                                                       \
        return rows(t, arithmetic, t0, t1, kv_head, kv_heads, scratch, poll);                                                              \
    }
RUN(run, RONDO_ARITHMETIC_F32)
RUN(run_f64, RONDO_ARITHMETIC_F64)
RUN(run_hopper, RONDO_ARITHMETIC_BF16_HOPPER)

#ifdef RONDO_ISA_fma
#define SPEC(name) rondo__cpu_##name##_fma
#else
#define SPEC(name) rondo__cpu_##name##_soft
#endif
const struct rondo_cpu_attention SPEC(attention) = { tokens, heads, bytes, shares, run, NULL };
const struct rondo_cpu_attention SPEC(attention_f64) = { tokens, heads, bytes_f64, shares, run_f64, NULL };
const struct rondo_cpu_attention SPEC(attention_hopper) = { tokens, heads, bytes, shares, run_hopper, NULL };
