/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the tests of attention's gradients share: a run of a problem forward and backward on any number of ranks, an oracle in double precision
 * with a bound that follows from the arithmetic, and a loss for finite differences. Written from rondo-attend(1) and rondo-numerics(7).
 */
#ifndef RONDO_T_BACKWARD_H
#define RONDO_T_BACKWARD_H

#include "t/attention.h"

/* The whole result: rows as those of the problem's arrays. */
struct gradients {
    char *out;                 /* of the forward pass: [q_rows][heads][value_dim] of out_type */
    float *lse;
    void *dout;                /* what went in */
    float *dlse;
    char *dq, *dk, *dv;        /* of types[3] */
    float *dbias, *dsinks;
    int types[3];
    uint64_t messages, bytes, expected_messages, expected_bytes;
    int agree;
    rondo_attention_info info;
};

struct backward_setup {
    int ranks, layout, algorithm, threads;
    int teams;                 /* of all-to-all; 0: the plan's choice */
    int strided, accumulate, with_dlse;
    int again;                 /* out and lse are made once more, and not given */
    int zeros;                 /* results hold -0 before, not NO_GRADIENT */
    double dout;               /* size of dout; 0: 1 */
    int types[3];              /* of dq, dk, dv; 0: F32 */
    const char *isa;
};

#define NO_GRADIENT 0.75f      /* what results hold before */

static int64_t bias_elements(const struct problem *p)
{
    int64_t rows = p->q_rows;   /* of one bias for all sequences only so many are read */
    for (int64_t i = 0; i < p->sequences && p->bias_alike; i++)
        rows = i == 0 || p->tokens[i] > rows ? p->tokens[i] : rows;
    return rows * p->bias * p->most_keys;
}

__attribute__((unused)) static void gradients_make(const struct problem *p, const struct backward_setup *s, struct gradients *g)
{
    const int64_t q = p->q_rows * p->heads, k = p->kv_rows * p->kv_heads;
    memset(g, 0, sizeof *g);
    g->out = calloc((size_t)(q * p->value_dim + 1), 4);
    g->lse = calloc((size_t)q + 1, 4);
    g->dout = calloc((size_t)(q * p->value_dim + 1), 4);
    g->dlse = calloc((size_t)q + 1, 4);
    g->dq = calloc((size_t)(q * p->head_dim + 1), 4);
    g->dk = calloc((size_t)(k * p->head_dim + 1), 4);
    g->dv = calloc((size_t)(k * p->value_dim + 1), 4);
    g->dbias = calloc((size_t)bias_elements(p) + 1, 4);
    g->dsinks = calloc((size_t)p->heads, 4);
    for (int64_t i = 0; i < q * p->value_dim; i++)
        put_number(g->dout, p->out_type, i, (s->dout > 0.0 ? s->dout : 1.0) * counter_number(p->seed, 20, (uint32_t)i));
    for (int64_t i = 0; i < q && s->with_dlse; i++)
        g->dlse[i] = (float)counter_number(p->seed, 21, (uint32_t)i);
    for (int i = 0; i < 3; i++)
        g->types[i] = s->types[i] ? s->types[i] : RONDO_F32;
}

__attribute__((unused)) static void gradients_free(struct gradients *g)
{
    void *all[] = { g->out, g->lse, g->dout, g->dlse, g->dq, g->dk, g->dv, g->dbias, g->dsinks };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
    memset(g, 0, sizeof *g);
}

__attribute__((unused)) static int gradients_same(const struct problem *p, const struct gradients *a, const struct gradients *b)
{
    const size_t q = (size_t)(p->q_rows * p->heads), k = (size_t)(p->kv_rows * p->kv_heads);
    return !memcmp(a->dq, b->dq, q * (size_t)p->head_dim * rondo_type_size(a->types[0])) &&
           !memcmp(a->dk, b->dk, k * (size_t)p->head_dim * rondo_type_size(a->types[1])) &&
           !memcmp(a->dv, b->dv, k * (size_t)p->value_dim * rondo_type_size(a->types[2])) &&
           !memcmp(a->dbias, b->dbias, (size_t)bias_elements(p) * 4) && !memcmp(a->dsinks, b->dsinks, (size_t)p->heads * 4);
}

struct backward_run_ {
    const struct problem *p;
    const struct backward_setup *s;
    struct gradients *g;
    rondo_attention_info info[64];
    uint64_t messages[64], bytes[64];
};

static rondo_tensor whole_(const void *data, int type, int64_t rows, int64_t heads, int64_t dim)
{
    const int64_t shape[3] = { rows, heads, dim };
    return rondo_tensor_dense((void *)(uintptr_t)data, type, 3, shape);
}

static void fill_(rondo_tensor *t, int64_t elements, double x)
{
    for (int64_t i = 0; i < elements; i++)
        put_number(t->data, t->type, i, x);
}

/* Between a whole array and a rank's rows. */
static int move_(rondo_attention *plan, const struct problem *p, int keys, const void *data, int heads, int64_t dim, rondo_tensor *rows, int put)
{
    int err = 0;
    for (int64_t s = 0; s < p->sequences && !err; s++) {
        const int64_t first = keys ? p->kv_first[s] : p->q_first[s], count = (keys ? p->kv_first[s + 1] : p->q_first[s + 1]) - first;
        rondo_tensor all = whole_((const char *)data + (size_t)(first * heads * dim) * rondo_type_size(rows->type), rows->type, count, heads, dim);
        if (count)
            err = put ? rondo_attention_put(plan, s, keys, &all, rows, -1) : rondo_attention_take(plan, s, keys, &all, rows, -1);
    }
    return err;
}

__attribute__((unused)) static int backward_rank_(rondo_context *ctx, void *arg)
{
    struct backward_run_ *run = arg;
    const struct problem *p = run->p;
    const struct backward_setup *s = run->s;
    struct gradients *g = run->g;
    const struct setup forward = { .ranks = s->ranks, .layout = s->layout, .algorithm = s->algorithm,
                                   .grid = { s->teams ? s->ranks / s->teams : 0, s->teams } };
    const int rank = rondo_context_rank(ctx), h = (int)p->heads, kh = (int)p->kv_heads, strided = s->strided;
    rondo_attention_desc d;
    rondo_attention *plan = NULL;
    rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
    rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
    rondo_attention_gradients of = RONDO_ATTENTION_GRADIENTS_INIT;
    rondo_comm_stats before = RONDO_COMM_STATS_INIT, after = RONDO_COMM_STATS_INIT;
    describe(p, &forward, &d);
    d.gradients = 1;
    int err = rondo_attention_create(&plan, ctx, &d);
    if (!err)
        err = rondo_attention_query(plan, &info);
    if (err)
        return err;
    io.q = make_tensor(info.q_rows, h, p->head_dim, p->q_type, strided);
    io.k = make_tensor(info.kv_rows, kh, p->head_dim, p->kv_type, strided);
    io.v = make_tensor(info.kv_rows, kh, p->value_dim, p->kv_type, strided);
    io.out = make_tensor(info.q_rows, h, p->value_dim, p->out_type, strided);
    of.dout = make_tensor(info.q_rows, h, p->value_dim, p->out_type, strided);
    of.dq = make_tensor(info.q_rows, h, p->head_dim, g->types[0], strided);
    of.dk = make_tensor(info.kv_rows, kh, p->head_dim, g->types[1], strided);
    of.dv = make_tensor(info.kv_rows, kh, p->value_dim, g->types[2], strided);
    rondo_tensor lse3 = make_tensor(info.q_rows, h, 1, RONDO_F32, strided), dlse3 = make_tensor(info.q_rows, h, 1, RONDO_F32, strided);
    io.lse = lse3;
    of.dlse = dlse3;
    io.lse.dims = of.dlse.dims = 2;
    give_terms(p, &io);
    of.accumulate = s->accumulate;
    float *dbias = calloc((size_t)(p->q_rows * p->bias * p->most_keys) + 1, 4), *dsinks = calloc((size_t)h, 4);
    if (p->bias) {
        of.dbias = whole_(dbias, RONDO_F32, p->q_rows, p->bias, p->most_keys);
        for (int64_t i = 0; i < bias_elements(p); i++)
            dbias[i] = NO_GRADIENT;
    }
    if (p->sinks) {
        of.dsinks = rondo_tensor_dense(dsinks, RONDO_F32, 1, &p->heads);
        for (int i = 0; i < h; i++)
            dsinks[i] = NO_GRADIENT;
    }
    if (s->accumulate) {
        rondo_tensor *t[3] = { &of.dq, &of.dk, &of.dv };
        for (int i = 0; i < 3; i++)
            fill_(t[i], strided ? t[i]->stride[1] * t[i]->shape[1] : t[i]->shape[0] * t[i]->shape[1] * t[i]->shape[2],
                  s->zeros ? -0.0 : (double)NO_GRADIENT);
    }
    err = move_(plan, p, 0, p->q, h, p->head_dim, &io.q, 0);
    if (!err)
        err = move_(plan, p, 1, p->k, kh, p->head_dim, &io.k, 0);
    if (!err)
        err = move_(plan, p, 1, p->v, kh, p->value_dim, &io.v, 0);
    if (!err)
        err = move_(plan, p, 0, g->dout, h, p->value_dim, &of.dout, 0);
    if (!err)
        err = move_(plan, p, 0, g->dlse, h, 1, &dlse3, 0);
    if (!s->with_dlse)
        of.dlse.data = NULL;
    if (!err && !s->again)
        err = rondo_attention_execute(plan, &io, NULL);
    if (!err)
        err = rondo_comm_query(ctx, &before);
    rondo_attention_io kept = io;
    if (s->again)
        kept.out.data = kept.lse.data = NULL;
    of.recompute = s->again;
    for (int i = 0; i < (s->accumulate ? 1 : 2) && !err; i++)   /* a second time is the same */
        err = rondo_attention_backward(plan, &kept, &of, NULL);
    if (!err)
        err = rondo_comm_query(ctx, &after);
    if (!err)
        err = move_(plan, p, 0, g->out, h, p->value_dim, &io.out, 1);
    if (!err)
        err = move_(plan, p, 0, g->lse, h, 1, &lse3, 1);
    if (!err)
        err = move_(plan, p, 0, g->dq, h, p->head_dim, &of.dq, 1);
    if (!err)
        err = move_(plan, p, 1, g->dk, kh, p->head_dim, &of.dk, 1);
    if (!err)
        err = move_(plan, p, 1, g->dv, kh, p->value_dim, &of.dv, 1);
    rondo_span spans[64];
    for (int64_t q = 0; q < p->sequences && p->bias && !err; q++) {
        const int64_t n = rondo_attention_spans(plan, q, 0, -1, spans, 64), row = p->bias * p->most_keys;
        const int64_t keys = p->kv_first[q + 1] - p->kv_first[q];
        for (int64_t i = 0; i < n && i < 64; i++)
            for (int64_t j = 0; j < spans[i].count * row; j++) {
                const int64_t at = (p->bias_row[q] + spans[i].first) * row + j;
                g->dbias[at] = dbias[at];
                if (j % p->most_keys >= keys)   /* beyond the sequence: it stays */
                    g->dbias[at] = dbias[at] != NO_GRADIENT ? NAN : s->accumulate ? NO_GRADIENT : 0.0f;
            }
    }
    if (p->sinks && rank == s->ranks - 1)
        memcpy(g->dsinks, dsinks, (size_t)h * 4);
    run->info[rank] = info;
    for (int i = 0; i < RONDO_OP_COUNT; i++) {
        run->messages[rank] += (after.messages[i] - before.messages[i]) / (s->accumulate ? 1 : 2);
        run->bytes[rank] += (after.bytes[i] - before.bytes[i]) / (s->accumulate ? 1 : 2);
    }
    rondo_tensor *all[] = { &io.q, &io.k, &io.v, &io.out, &of.dout, &of.dq, &of.dk, &of.dv, &lse3, &dlse3 };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]->data);
    free(dbias);
    free(dsinks);
    rondo_attention_destroy(plan);
    return err;
}

__attribute__((unused)) static int solve_backward(const struct problem *p, const struct backward_setup *s, struct gradients *g)
{
    static struct backward_run_ run;
    rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
    memset(&run, 0, sizeof run);
    run.p = p;
    run.s = s;
    run.g = g;
    gradients_make(p, s, g);
    d.threads = s->threads ? s->threads : 1;
    d.isa = s->isa;
    int err = rondo_launch(s->ranks, &d, backward_rank_, &run);
    g->agree = 1;
    for (int i = 0; i < s->ranks && !err; i++) {
        g->agree &= run.messages[i] == run.info[i].backward_messages && run.bytes[i] == run.info[i].backward_bytes;
        g->agree &= run.info[i].backward_messages_total == run.info[0].backward_messages_total;
        g->messages += run.messages[i];
        g->bytes += run.bytes[i];
    }
    g->info = run.info[0];
    g->agree &= g->messages == g->info.backward_messages_total && g->bytes == g->info.backward_bytes_total;
    return err;
}

/* ---- the oracle ---- */

/* What is told of one query and one key of a head. */
struct pair_ {
    double s, slope, off;      /* score in natural units, what the cap leaves of its change, its error */
    double ds, ds_off, g, g_off, value, value_off;
};

static double number_(const void *from, int type, int64_t at) { return get_number(from, type, at); }

/* Bound, with u = 2^-24: a score is off by `off`, as in attention.h; a weight then by a factor expm1(off) + 10 u (polynomial, c, two roundings); a
 * product do.v by (Dv + 2) u of its terms' sizes, and the row's sum likewise, which the stored out takes as it is. Sums of n terms in chains of a
 * leaf and a tree add (leaf + 2 height + 4) u of the sizes of their terms. */
__attribute__((unused)) static double worst_gradient(const struct problem *p, const struct gradients *g, double base)
{
    const double u = 0x1p-24, scale = p->scale != 0.0 ? p->scale : 1.0 / sqrt((double)p->head_dim), keep = 1.0 / (1.0 - p->dropout);
    const int64_t group = p->heads / p->kv_heads, D = p->head_dim, V = p->value_dim, leaf = p->leaf ? p->leaf : 128;
    const size_t k_size = (size_t)(p->kv_rows * p->kv_heads), q_size = (size_t)(p->q_rows * p->heads);
    double *dq = calloc(2 * q_size * (size_t)D + 1, 8), *dk = calloc(2 * k_size * (size_t)D + 1, 8), *dv = calloc(2 * k_size * (size_t)V + 1, 8);
    double *db = calloc(2 * (size_t)bias_elements(p) + 1, 8), *dsink = calloc(2 * (size_t)p->heads, 8), worst = 0.0;
    double height = 3;
    while ((int64_t)1 << (int)height < (p->q_rows + p->most_keys) / leaf + p->heads + p->sequences)
        height++;
    const double chain = ((double)leaf + 2 * height + 6) * u;
    for (int64_t s = 0; s < p->sequences; s++)
        for (int64_t i = 0; i < p->tokens[s]; i++)
            for (int64_t h = 0; h < p->heads; h++) {
                const int64_t row = (p->q_first[s] + i) * p->heads + h, keys = p->kv_first[s + 1] - p->kv_first[s];
                double sum = 0.0, sum_off = 0.0;
                const double lse = (double)g->lse[row];
                if (lse == -INFINITY)
                    continue;
                for (int64_t d = 0; d < V; d++) {
                    const double x = number_(g->dout, p->out_type, row * V + d) * number_(g->out, p->out_type, row * V + d);
                    sum += x;
                    sum_off += fabs(x);
                }
                sum_off = sum_off * ((double)V + 2) * u + 2 * u * fabs((double)g->dlse[row]);
                sum -= (double)g->dlse[row];
                if (p->sinks && p->sink[h] > -INFINITY) {
                    const double w = exp((double)p->sink[h] - lse);
                    dsink[h] -= w * sum;
                    dsink[p->heads + h] += fabs(w * sum) * (expm1(3 * u * fabs((double)p->sink[h])) + 12 * u + chain) + w * sum_off;
                }
                for (int64_t k = 0; k < keys; k++) {
                    if (!sees(p, s, i, h, k) || bias_at(p, s, i, h, k) == -INFINITY)
                        continue;
                    const int64_t key = (p->kv_first[s] + k) * p->kv_heads + h / group;
                    double dot = 0.0, size = 0.0, dp = 0.0, dp_off = 0.0, slope = 1.0, slope_off = 0.0;
                    for (int64_t d = 0; d < D; d++) {
                        const double x = number_(p->q, p->q_type, row * D + d) * number_(p->k, p->kv_type, key * D + d);
                        dot += x;
                        size += fabs(x);
                    }
                    double w = dot * scale, off = fabs(scale) * ((double)D + 3) * u * size;
                    if (p->softcap > 0.0) {
                        const double t = tanh(w / p->softcap);
                        slope = 1 - t * t;
                        slope_off = 2 * fabs(t) * (off / p->softcap + 8 * u) + 2 * u;
                        w = p->softcap * t;
                        off += 12 * u * fabs(w);
                    }
                    if (p->alibi) {
                        const double term = (double)p->slope[h] * fabs((double)(p->cached[s] + i - k));
                        w -= term;
                        off += 3 * u * term + u * fabs(w);
                    }
                    if (p->bias) {
                        w += bias_at(p, s, i, h, k);
                        off += u * fabs(bias_at(p, s, i, h, k)) + u * fabs(w);
                    }
                    for (int64_t d = 0; d < V; d++) {
                        const double x = number_(g->dout, p->out_type, row * V + d) * number_(p->v, p->kv_type, key * V + d);
                        dp += x;
                        dp_off += fabs(x);
                    }
                    const int kept = keeps(p, s, i, h, k);
                    dp = kept ? dp * keep : 0.0;
                    dp_off = kept ? dp_off * keep * ((double)V + 4) * u : 0.0;
                    const double weight = exp(w - lse), part = expm1(off) + 10 * u, ds = weight * (dp - sum);
                    const double ds_off = weight * (dp_off + sum_off + u * fabs(dp - sum)) * (1 + part) + fabs(ds) * (part + u) + 0x1p-140;
                    const double gg = ds * slope, g_off = ds_off * slope + fabs(ds) * slope_off + u * fabs(gg);
                    const double value = kept ? weight * keep : 0.0, value_off = value * (part + 3 * u);
                    for (int64_t d = 0; d < D; d++) {
                        const double a = number_(p->k, p->kv_type, key * D + d), b = number_(p->q, p->q_type, row * D + d);
                        dq[row * D + d] += gg * a * scale;
                        dq[(int64_t)q_size * D + row * D + d] += fabs(scale * a) * (g_off + fabs(gg) * chain);
                        dk[key * D + d] += gg * b * scale;
                        dk[(int64_t)k_size * D + key * D + d] += fabs(scale * b) * (g_off + fabs(gg) * chain);
                    }
                    for (int64_t d = 0; d < V; d++) {
                        const double a = number_(g->dout, p->out_type, row * V + d);
                        dv[key * V + d] += value * a;
                        dv[(int64_t)k_size * V + key * V + d] += fabs(a) * (value_off + value * chain);
                    }
                    if (p->bias) {
                        const int64_t at = ((p->bias_row[s] + i) * p->bias + (p->bias > 1 ? h : 0)) * p->most_keys + k;
                        db[at] += ds;
                        db[bias_elements(p) + at] += ds_off + fabs(ds) * chain;
                    }
                }
            }
    const struct {
        const double *want;
        const void *got;
        int type;
        int64_t count;
    } all[] = { { dq, g->dq, g->types[0], (int64_t)q_size * D }, { dk, g->dk, g->types[1], (int64_t)k_size * D },
                { dv, g->dv, g->types[2], (int64_t)k_size * V }, { db, g->dbias, RONDO_F32, bias_elements(p) },
                { dsink, g->dsinks, RONDO_F32, p->sinks ? p->heads : 0 } };
    for (size_t n = 0; n < sizeof all / sizeof *all; n++)
        for (int64_t i = 0; i < all[n].count; i++) {
            const double rounding = all[n].type == RONDO_F32 ? 2 * u : all[n].type == RONDO_BF16 ? 0x1p-8 : 0x1p-11;
            const double floor_ = all[n].type == RONDO_F16 ? 0x1p-24 : 1e-37, want = all[n].want[i] + base;
            const double off = all[n].want[all[n].count + i] * (1 + 2 * rounding) + rounding * (fabs(want) + fabs(all[n].want[i]) * u) + floor_;
            const double ratio = fabs(number_(all[n].got, all[n].type, i) - want) / off;
            if (ratio > 1 && worst <= 1)
                diag("%s element %lld: %g instead of %g, bound %g", n == 0 ? "dq" : n == 1 ? "dk" : n == 2 ? "dv" : n == 3 ? "dbias" : "dsinks",
                     (long long)i, number_(all[n].got, all[n].type, i), want, off);
            worst = worse(worst, ratio);
        }
    free(dq);
    free(dk);
    free(dv);
    free(db);
    free(dsink);
    return worst;
}

#endif
