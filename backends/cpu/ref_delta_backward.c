/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The definition of the delta rule's gradients (contract C15): every state of a block's tokens is kept, and the tokens are taken from the last one
 * back, row by row, column by column. delta_backward.c must give these bits. Serves the instruction sets "soft" and "scalar"; compiled without
 * and with FMA instructions. Called by delta_backward_ops.c.
 */
#include "backends/cpu/ref_delta.h"

#ifdef RONDO_ISA_fma
#define TABLE rondo__cpu_delta_backward_fma
#else
#define TABLE rondo__cpu_delta_backward_soft
#endif

#define LEAF RONDO_CPU_DELTA_LEAF

/* ---- columns ---- */

/* One token, ready for use. */
struct token {
    float *k, *q, *a;              /* [key_dim] */
    float beta;
};

/* Of the columns of a leaf. */
struct leaf {
    int64_t columns;
    float *before;                 /* S' of each token: [rows][key_dim][LEAF] */
    float *u, *rest;               /* [rows][LEAF]: what is written, v - R(k, S') */
    float *s, *d;                  /* [key_dim][LEAF] */
};

static void read_token(const struct rondo_delta_backward_task *t, int64_t i, float gain, struct token *out)
{
    const struct rondo_delta_form *f = t->form;
    read_row(f, t->k, i * t->k_stride, out->k);
    read_row(f, t->q, i * t->q_stride, out->q);
    read_decays(f, t->g, i * t->g_stride, t->dt_bias, gain, out->a);
    out->beta = read_beta(f, t->beta, i * t->beta_stride);
}

/* As ref_delta.c does it, and what it leaves behind. */
static void forward(const struct rondo_delta_backward_task *t, const struct token *x, int64_t i, int64_t column, const struct leaf *l)
{
    const int64_t dim = t->form->key_dim;
    for (int64_t c = 0; c < l->columns; c++) {
        float read[CHAINS] = { 0 }, *before = l->before + i * dim * LEAF + c;
        for (int64_t d = 0; d < dim; d++) {
            before[d * LEAF] = x->a[d] * l->s[d * LEAF + c];
            read[d % CHAINS] = rondo__fma(x->k[d], before[d * LEAF], read[d % CHAINS]);
        }
        const float rest = rondo__element(t->v, i * t->v_stride + column + c, t->form->type) - join(read), u = x->beta * rest;
        l->rest[i * LEAF + c] = rest;
        l->u[i * LEAF + c] = u;
        for (int64_t d = 0; d < dim; d++)
            l->s[d * LEAF + c] = rondo__fma(x->k[d], u, before[d * LEAF]);
    }
}

/* What was there, if results are added up, and x; rounded once. */
static void put(void *to, int64_t at, int type, int32_t accumulate, float x)
{
    rondo__put_element(to, at, type, accumulate ? rondo__element(to, at, type) + x : x);
}

static void back(const struct rondo_delta_backward_task *t, const struct token *x, int64_t i, int64_t column, const struct leaf *l, float *sums)
{
    const int64_t dim = t->form->key_dim, padded = rondo__cpu_delta_padded(dim);
    float w[LEAF], dv[LEAF], beta[LANES] = { 0 };
    for (int64_t c = 0; c < l->columns; c++) {
        float chain[CHAINS] = { 0 };
        w[c] = rondo__element(t->dout, i * t->dout_stride + column + c, t->form->out_type) * t->form->scale;
        for (int64_t d = 0; d < dim; d++) {
            l->d[d * LEAF + c] = rondo__fma(x->q[d], w[c], l->d[d * LEAF + c]);
            chain[d % CHAINS] = rondo__fma(x->k[d], l->d[d * LEAF + c], chain[d % CHAINS]);
        }
        const float p = join(chain);
        dv[c] = x->beta * p;
        beta[c % LANES] = rondo__fma(p, l->rest[i * LEAF + c], beta[c % LANES]);
        put(t->dv, i * t->dv_stride + column + c, t->dv_type, t->accumulate, dv[c]);
    }
    for (int64_t d = 0; d < dim; d++) {
        float dq[LANES] = { 0 }, dk[LANES] = { 0 }, dg[LANES] = { 0 };
        for (int64_t c = 0; c < l->columns; c++) {
            const float before = l->before[(i * dim + d) * LEAF + c], u = l->u[i * LEAF + c], gradient = l->d[d * LEAF + c];
            const float behind = rondo__fma(x->k[d], u, before), rest = rondo__fma(x->k[d], -dv[c], gradient);
            dq[c % LANES] = rondo__fma(behind, w[c], dq[c % LANES]);
            dk[c % LANES] = rondo__fma(gradient, u, dk[c % LANES]);
            dk[c % LANES] = rondo__fma(before, -dv[c], dk[c % LANES]);
            dg[c % LANES] = rondo__fma(before, rest, dg[c % LANES]);
            l->d[d * LEAF + c] = x->a[d] * rest;
        }
        sums[d] = fold_lanes(dq);
        sums[padded + d] = fold_lanes(dk);
        sums[2 * padded + d] = fold_lanes(dg);
    }
    sums[3 * padded] = fold_lanes(beta);
}

static int columns(const struct rondo_delta_backward_task *t, void *scratch, const struct rondo_poll *poll)
{
    const int64_t dim = t->form->key_dim, state = dim * LEAF;
    const float gain = t->a_log ? rondo__exp(*t->a_log) : 1.0f;
    struct leaf l = { 0, scratch, NULL, NULL, NULL, NULL };
    l.u = l.before + t->rows * state;
    l.rest = l.u + t->rows * LEAF;
    l.s = l.rest + t->rows * LEAF;
    l.d = l.s + state;
    struct token x = { l.d + state, l.d + state + dim, l.d + state + 2 * dim, 0.0f };
    for (int64_t column = 0; column < t->columns; column += LEAF) {
        l.columns = t->columns - column < LEAF ? t->columns - column : LEAF;
        for (int64_t d = 0; d < dim; d++)
            for (int64_t c = 0; c < l.columns; c++) {
                l.s[d * LEAF + c] = t->state ? t->state[d * t->state_stride + column + c] : 0.0f;
                l.d[d * LEAF + c] = t->end ? t->end[d * t->end_stride + column + c] : 0.0f;
            }
        for (int64_t i = 0; i < t->rows; i++) {
            read_token(t, i, gain, &x);
            forward(t, &x, i, column, &l);
        }
        for (int64_t i = t->rows - 1; i >= 0; i--) {
            read_token(t, i, gain, &x);
            back(t, &x, i, column, &l, t->sums + i * t->sums_token + column / LEAF * t->sums_leaf);
        }
        for (int64_t d = 0; d < dim && t->begin; d++)
            for (int64_t c = 0; c < l.columns; c++)
                put(t->begin, d * t->begin_stride + column + c, RONDO_F32, t->result && t->accumulate, l.d[d * LEAF + c]);
        int err = poll ? poll->call(poll->arg) : 0;
        if (err)
            return err;
    }
    return 0;
}

static bool bytes(const struct rondo_delta_form *form, int64_t rows, size_t *out)
{
    const size_t dim = (size_t)form->key_dim;
    size_t kept;
    return rondo__mul((size_t)rows, (dim + 2) * LEAF, &kept) && rondo__add(kept, dim * (2 * LEAF + 3), &kept) && rondo__mul(kept, sizeof(float), out);
}

/* ---- what becomes of the sums ---- */

/* The tree over n numbers, by their index. */
static float tree(float *x, int64_t n)
{
    for (int64_t step = 1; step < n; step *= 2)
        for (int64_t i = 0; i + step < n; i += 2 * step)
            x[i] = x[i] + x[i + step];
    return x[0];
}

#define MOST_LEAVES 8 /* of the 512 columns that there may be */

static float over_leaves(const float *sums, int64_t at, int64_t leaves, int64_t stride)
{
    float leaf[MOST_LEAVES];
    for (int64_t i = 0; i < leaves; i++)
        leaf[i] = sums[i * stride + at];
    return tree(leaf, leaves);
}

/* The derivative of the sigmoid. */
static float slope(float x) { return rondo__sigmoid(x) * rondo__sigmoid(-x); }

/* From the gradient by the gate of channel d to that by what was given; *term: what it adds to that of A_log, to acc. */
static float gate_back(const struct rondo_delta_backward_gates *of, float dg, float x, int64_t d, float gain, float *term)
{
    const struct rondo_delta_form *f = of->form;
    const float z = x + (of->dt_bias ? of->dt_bias[d] : 0.0f);
    if (f->gate == RONDO_GATE_LOG)
        return dg;
    if (f->gate == RONDO_GATE_SOFTPLUS) {
        *term = rondo__fma(dg, -(gain * rondo__softplus(z)), *term);
        return -(dg * (gain * rondo__sigmoid(z)));
    }
    const float dz = (dg * (f->lower_bound * gain)) * slope(gain * z);
    *term = rondo__fma(dz, z, *term);
    return dz;
}

static void gates(const struct rondo_delta_backward_gates *of)
{
    const struct rondo_delta_form *f = of->form;
    const int64_t dim = f->key_dim, padded = rondo__cpu_delta_padded(dim), channels = f->gate_dim;
    const float gain = of->a_log ? rondo__exp(*of->a_log) : 1.0f;
    float sum[512] = { 0 }, a_sum = 0.0f, dg[512];
    for (int64_t d = 0; d < channels && of->from; d++)
        sum[d] = of->from[d];
    a_sum = of->from ? of->from[channels] : a_sum;
    for (int64_t i = of->rows - 1; i >= 0; i--) {
        const float *at = of->sums + i * of->sums_token, raw = rondo__element(of->beta, i * of->beta_stride, f->beta_type);
        float term[LANES] = { 0 }, all[LANES] = { 0 }, dbeta = over_leaves(at, 3 * padded, of->leaves, of->sums_leaf);
        if (f->beta != RONDO_BETA_PLAIN)
            dbeta = dbeta * slope(raw);
        put(of->dbeta, i * of->dbeta_stride, of->beta_type, of->accumulate, f->beta == RONDO_BETA_SIGMOID2 ? 2.0f * dbeta : dbeta);
        for (int64_t d = 0; d < dim; d++) {
            dg[d] = over_leaves(at, 2 * padded + d, of->leaves, of->sums_leaf);
            all[d % LANES] = dg[d] + all[d % LANES];
        }
        if (channels == 1)
            dg[0] = fold_lanes(all);
        for (int64_t d = 0; d < channels; d++) {
            const float dz = gate_back(of, dg[d], rondo__element(of->g, i * of->g_stride + d, f->gate_type), d, gain, term + d % LANES);
            sum[d] = dz + sum[d];
            put(of->dg, i * of->dg_stride + d, of->g_type, of->accumulate, dz);
        }
        a_sum = fold_lanes(term) + a_sum;
    }
    for (int64_t d = 0; d < channels && of->to; d++)
        of->to[d] = sum[d];
    if (of->to)
        of->to[channels] = a_sum;
}

/* A row of dq or dk, at `at` of the sums. */
static void key_row(const struct rondo_delta_backward_keys *of, const float *sums, int64_t at, const void *from, int64_t place, void *to, int64_t to_place,
                    int type)
{
    const struct rondo_delta_form *f = of->form;
    const int64_t dim = f->key_dim;
    float x[512], dy[512], lane[LANES] = { 0 }, r = 1.0f;
    for (int64_t d = 0; d < dim; d++) {
        /* the tree over heads, as a stack: whatever is complete is added up */
        float stack[64];
        int64_t depth = 0;
        for (int64_t h = 0; h < of->heads; h++) {
            stack[depth++] = over_leaves(sums + h * of->sums_head, at + d, of->leaves, of->sums_leaf);
            for (int64_t n = h; n & 1; n >>= 1, depth--)
                stack[depth - 2] = stack[depth - 2] + stack[depth - 1];
        }
        for (; depth > 1; depth--)
            stack[depth - 2] = stack[depth - 2] + stack[depth - 1];
        dy[d] = stack[0];
        x[d] = rondo__element(from, place + d, f->type);
    }
    if (f->norm) {
        r = norm_of(x, dim);
        for (int64_t d = 0; d < dim; d++)
            lane[d % LANES] = rondo__fma(x[d] * r, dy[d], lane[d % LANES]);
        const float m = fold_lanes(lane);
        for (int64_t d = 0; d < dim; d++)
            dy[d] = rondo__fma(-(x[d] * r), m, dy[d]) * r;
    }
    for (int64_t d = 0; d < dim; d++)
        put(to, to_place + d, type, of->accumulate, dy[d]);
}

static void keys(const struct rondo_delta_backward_keys *of)
{
    const int64_t padded = rondo__cpu_delta_padded(of->form->key_dim);
    for (int64_t i = 0; i < of->rows; i++) {
        const float *sums = of->sums + i * of->sums_token;
        key_row(of, sums, 0, of->q, i * of->q_stride, of->dq, i * of->dq_stride, of->q_type);
        key_row(of, sums, padded, of->k, i * of->k_stride, of->dk, i * of->dk_stride, of->k_type);
    }
}

extern const struct rondo_cpu_delta_backward TABLE;
const struct rondo_cpu_delta_backward TABLE = { bytes, columns, gates, keys };
