/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What tests of the delta rule have in common: the rule in double, written from rondo-kda(7) and not from the kernels, and problems at random.
 */
#ifndef RONDO_T_DELTA_H
#define RONDO_T_DELTA_H

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "backends/cpu/num.h"
#include "rondo.h"
#include "t/draw.h"

/* One problem: sequences that lie one after another. */
struct delta_case {
    int64_t heads, key_heads, key_dim, value_dim, gate_dim, rows, sequences;
    int64_t cu[16];                /* where sequences begin, and the end */
    int gate, beta, norm, type;    /* type: of q, k, v, g and beta */
    int32_t chunk;                 /* 0: token by token */
    double lower_bound, scale;
    void *q, *k, *v, *g, *b;       /* as they are stored */
    float *a_log, *dt_bias, *from;
    /* what comes out of it in double: */
    double *out, *to;
};

/* A plan's descriptor of this problem; how the work is split and what else it takes is the caller's. */
__attribute__((unused)) static rondo_delta_desc delta_desc(const struct delta_case *c)
{
    rondo_delta_desc d = RONDO_DELTA_DESC_INIT;
    d.heads = c->heads;
    d.key_heads = c->key_heads;
    d.key_dim = c->key_dim;
    d.value_dim = c->value_dim;
    d.gate_dim = c->gate_dim;
    d.sequences = c->sequences;
    d.cu_seqlens = c->cu;
    d.type = c->type;
    d.gate = c->gate;
    d.chunk = c->chunk;
    d.beta = c->beta;
    d.norm = c->norm;
    d.lower_bound = c->gate == RONDO_GATE_BOUNDED ? c->lower_bound : 0.0;
    d.scale = c->scale;
    d.initial_state = c->from != NULL;
    d.final_state = 1;
    return d;
}

/* -1 .. 1 */
static double draw_number(void) { return (double)draw(2000001) / 1e6 - 1.0; }

__attribute__((unused)) static void *delta_fill(int64_t count, int type, double low, double high)
{
    void *to = malloc((size_t)(count ? count : 1) * rondo_type_size(type));
    for (int64_t i = 0; i < count; i++)
        rondo__put_element(to, i, type, (float)(low + (high - low) * (draw_number() + 1.0) / 2.0));
    return to;
}

static double delta_get(const void *p, int64_t i, int type) { return (double)rondo__element(p, i, type); }

static double delta_sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }

/* Everything of a case but its shape, which is set. gates: of the raw ones, from `low` to `high`. */
__attribute__((unused)) static void delta_draw(struct delta_case *c, double low, double high, bool extras)
{
    c->q = delta_fill(c->rows * c->key_heads * c->key_dim, c->type, -1.0, 1.0);
    c->k = delta_fill(c->rows * c->key_heads * c->key_dim, c->type, c->norm ? -1.0 : -1.0 / sqrt((double)c->key_dim), c->norm ? 1.0 : 1.0 / sqrt((double)c->key_dim));
    c->v = delta_fill(c->rows * c->heads * c->value_dim, c->type, -1.0, 1.0);
    c->g = delta_fill(c->rows * c->heads * c->gate_dim, c->type, low, high);
    c->b = delta_fill(c->rows * c->heads, c->type, c->beta == RONDO_BETA_PLAIN ? 0.0 : -3.0, c->beta == RONDO_BETA_PLAIN ? 1.0 : 3.0);
    c->a_log = extras ? delta_fill(c->heads, RONDO_F32, -1.0, 1.0) : NULL;
    c->dt_bias = extras ? delta_fill(c->heads * c->gate_dim, RONDO_F32, -2.0, 2.0) : NULL;
    c->from = extras ? delta_fill(c->sequences * c->heads * c->key_dim * c->value_dim, RONDO_F32, -1.0, 1.0) : NULL;
}

__attribute__((unused)) static void delta_free(struct delta_case *c)
{
    void *const all[] = { c->q, c->k, c->v, c->g, c->b, c->a_log, c->dt_bias, c->from, c->out, c->to };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

/* The gate of a token's channel, natural logarithm. */
static double delta_gate(const struct delta_case *c, int64_t row, int64_t head, int64_t d)
{
    const int64_t channel = c->gate_dim == 1 ? 0 : d;
    const double x = delta_get(c->g, (row * c->heads + head) * c->gate_dim + channel, c->type);
    const double gain = c->a_log ? exp((double)c->a_log[head]) : 1.0;
    const double z = x + (c->dt_bias ? (double)c->dt_bias[head * c->gate_dim + channel] : 0.0);
    if (c->gate == RONDO_GATE_LOG)
        return x;
    return c->gate == RONDO_GATE_SOFTPLUS ? -gain * (fmax(z, 0.0) + log1p(exp(-fabs(z)))) : c->lower_bound * delta_sigmoid(gain * z);
}

/* A row of q or k. */
static void delta_vector(const struct delta_case *c, const void *from, int64_t row, int64_t head, double *to)
{
    double sum = 1e-6;
    for (int64_t d = 0; d < c->key_dim; d++) {
        to[d] = delta_get(from, (row * c->key_heads + head) * c->key_dim + d, c->type);
        sum += to[d] * to[d];
    }
    for (int64_t d = 0; d < c->key_dim && c->norm; d++)
        to[d] /= sqrt(sum);
}

/* out [rows][heads][value_dim], to [sequences][heads][key_dim][value_dim] */
__attribute__((unused)) static void delta_oracle(struct delta_case *c)
{
    const int64_t kd = c->key_dim, vd = c->value_dim, state = kd * vd;
    double *q = malloc((size_t)kd * 3 * sizeof *q), *k = q + kd, *a = k + kd;
    c->out = calloc((size_t)(c->rows * c->heads * vd) + 1, sizeof *c->out);
    c->to = calloc((size_t)(c->sequences * c->heads * state) + 1, sizeof *c->to);
    for (int64_t n = 0; n < c->sequences; n++)
        for (int64_t h = 0; h < c->heads; h++) {
            double *s = c->to + (n * c->heads + h) * state;
            for (int64_t i = 0; i < state && c->from; i++)
                s[i] = (double)c->from[(n * c->heads + h) * state + i];
            for (int64_t t = c->cu[n]; t < c->cu[n + 1]; t++) {
                const double x = delta_get(c->b, t * c->heads + h, c->type);
                const double beta = c->beta == RONDO_BETA_PLAIN ? x : (c->beta == RONDO_BETA_SIGMOID2 ? 2.0 : 1.0) * delta_sigmoid(x);
                delta_vector(c, c->q, t, h / (c->heads / c->key_heads), q);
                delta_vector(c, c->k, t, h / (c->heads / c->key_heads), k);
                for (int64_t d = 0; d < kd; d++)
                    a[d] = exp(delta_gate(c, t, h, d));
                for (int64_t j = 0; j < vd; j++) {
                    double read = 0.0, out = 0.0;
                    for (int64_t d = 0; d < kd; d++)
                        read += k[d] * (s[d * vd + j] *= a[d]);
                    const double u = beta * (delta_get(c->v, (t * c->heads + h) * vd + j, c->type) - read);
                    for (int64_t d = 0; d < kd; d++)
                        out += q[d] * (s[d * vd + j] += k[d] * u);
                    c->out[(t * c->heads + h) * vd + j] = c->scale * out;
                }
            }
        }
    free(q);
}

/* Of a loss, the sum of dout times out and of dto times final states, by all that a case has. */
struct delta_gradients {
    double *q, *k, *v, *g, *b, *a_log, *dt_bias, *from;
};

__attribute__((unused)) static void delta_gradients_free(struct delta_gradients *d)
{
    double *const all[] = { d->q, d->k, d->v, d->g, d->b, d->a_log, d->dt_bias, d->from };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

/* From dy, of what a row of q or k became, to what it was; adds to `to`. */
static void delta_vector_back(const struct delta_case *c, const void *from, int64_t row, int64_t head, const double *dy, double *to)
{
    double sum = 1e-6, along = 0.0;
    const int64_t at = (row * c->key_heads + head) * c->key_dim;
    for (int64_t d = 0; d < c->key_dim; d++) {
        const double x = delta_get(from, at + d, c->type);
        sum += x * x;
        along += x * dy[d];
    }
    for (int64_t d = 0; d < c->key_dim; d++)
        to[at + d] += c->norm ? (dy[d] - delta_get(from, at + d, c->type) * along / sum) / sqrt(sum) : dy[d];
}

/* The same of a gate: adds to dg, da_log, ddt_bias. */
static void delta_gate_back(const struct delta_case *c, struct delta_gradients *out, int64_t row, int64_t head, int64_t d, double dgate)
{
    const int64_t channel = c->gate_dim == 1 ? 0 : d, at = (row * c->heads + head) * c->gate_dim + channel;
    const double gain = c->a_log ? exp((double)c->a_log[head]) : 1.0;
    const double z = delta_get(c->g, at, c->type) + (c->dt_bias ? (double)c->dt_bias[head * c->gate_dim + channel] : 0.0);
    double dz = dgate;
    if (c->gate == RONDO_GATE_SOFTPLUS) {
        dz = -dgate * gain * delta_sigmoid(z);
        out->a_log[head] += dgate * delta_gate(c, row, head, d);
    } else if (c->gate == RONDO_GATE_BOUNDED) {
        dz = dgate * c->lower_bound * gain * delta_sigmoid(gain * z) * delta_sigmoid(-gain * z);
        out->a_log[head] += dz * z;
    }
    out->g[at] += dz;
    if (c->gate)
        out->dt_bias[head * c->gate_dim + channel] += dz;
}

/* dto NULL: 0. Keeps all states. */
__attribute__((unused)) static void delta_back_oracle(const struct delta_case *c, const double *dout, const double *dto, struct delta_gradients *out)
{
    const int64_t kd = c->key_dim, vd = c->value_dim, state = kd * vd, group = c->heads / c->key_heads;
    const size_t keys = (size_t)(c->rows * c->key_heads * kd) + 1, one = sizeof(double);
    int64_t longest = 0;
    for (int64_t n = 0; n < c->sequences; n++)
        longest = c->cu[n + 1] - c->cu[n] > longest ? c->cu[n + 1] - c->cu[n] : longest;
    *out = (struct delta_gradients){ calloc(keys, one), calloc(keys, one), calloc((size_t)(c->rows * c->heads * vd) + 1, one),
                                     calloc((size_t)(c->rows * c->heads * c->gate_dim) + 1, one), calloc((size_t)(c->rows * c->heads) + 1, one),
                                     calloc((size_t)c->heads, one), calloc((size_t)(c->heads * c->gate_dim), one),
                                     calloc((size_t)(c->sequences * c->heads * state), one) };
    double *s = malloc((size_t)((longest + 2) * state) * one), *d = malloc((size_t)(state + 5 * kd + 4 * vd) * one);
    double *q = d + state, *k = q + kd, *a = k + kd, *dq = a + kd, *dk = dq + kd, *rest = dk + kd, *u = rest + vd, *du = u + vd;
    for (int64_t n = 0; n < c->sequences; n++)
        for (int64_t h = 0; h < c->heads; h++)
            for (int64_t way = 0; way < 2; way++)
                for (int64_t i = 0, count = c->cu[n + 1] - c->cu[n]; i <= count; i++) {
                    /* there: the state behind i tokens; and back: the i-th token from the end, then the beginning */
                    const int64_t t = way ? count - 1 - i : i - 1, row = c->cu[n] + t, kh = h / group;
                    double *at = s + (t + 2) * state, *before = at - state;
                    double *const first = out->from + (n * c->heads + h) * state;
                    if (!way && !i)
                        for (int64_t j = 0; j < state; j++) {
                            at[j] = c->from ? (double)c->from[(n * c->heads + h) * state + j] : 0.0;
                            d[j] = dto ? dto[(n * c->heads + h) * state + j] : 0.0;
                        }
                    if (t < 0) {
                        for (int64_t j = 0; j < state && way; j++)
                            first[j] = d[j];
                        continue;
                    }
                    const double x = delta_get(c->b, row * c->heads + h, c->type);
                    const double times = c->beta == RONDO_BETA_SIGMOID2 ? 2.0 : 1.0, beta = c->beta == RONDO_BETA_PLAIN ? x : times * delta_sigmoid(x);
                    double dbeta = 0.0;
                    delta_vector(c, c->q, row, kh, q);
                    delta_vector(c, c->k, row, kh, k);
                    for (int64_t e = 0; e < kd; e++) {
                        a[e] = exp(delta_gate(c, row, h, e));
                        dq[e] = dk[e] = 0.0;
                    }
                    for (int64_t j = 0; j < vd; j++) {
                        double read = 0.0;
                        for (int64_t e = 0; e < kd; e++)
                            read += k[e] * a[e] * before[e * vd + j];
                        rest[j] = delta_get(c->v, (row * c->heads + h) * vd + j, c->type) - read;
                        u[j] = beta * rest[j];
                        for (int64_t e = 0; e < kd && !way; e++)
                            at[e * vd + j] = a[e] * before[e * vd + j] + k[e] * u[j];
                    }
                    if (!way)
                        continue;
                    const double *w = dout + (row * c->heads + h) * vd;
                    for (int64_t j = 0; j < vd; j++) {
                        du[j] = 0.0;
                        for (int64_t e = 0; e < kd; e++) {
                            dq[e] += c->scale * at[e * vd + j] * w[j];
                            d[e * vd + j] += c->scale * q[e] * w[j];
                            du[j] += d[e * vd + j] * k[e];
                        }
                        out->v[(row * c->heads + h) * vd + j] = beta * du[j];
                        dbeta += du[j] * rest[j];
                    }
                    for (int64_t e = 0; e < kd; e++) {
                        double da = 0.0;
                        for (int64_t j = 0; j < vd; j++) {
                            dk[e] += d[e * vd + j] * u[j] - beta * du[j] * a[e] * before[e * vd + j];
                            d[e * vd + j] -= k[e] * beta * du[j];
                            da += d[e * vd + j] * before[e * vd + j];
                            d[e * vd + j] *= a[e];
                        }
                        delta_gate_back(c, out, row, h, e, da * a[e]);
                    }
                    out->b[row * c->heads + h] = c->beta == RONDO_BETA_PLAIN ? dbeta : dbeta * times * delta_sigmoid(x) * delta_sigmoid(-x);
                    delta_vector_back(c, c->q, row, kh, dq, out->q);
                    delta_vector_back(c, c->k, row, kh, dk, out->k);
                }
    free(s);
    free(d);
}

/* What progress said: by how much it was wrong, and where to stop, unless that is 0. */
struct delta_heard {
    int64_t calls;
    double last, stop;
    int wrong;
};

__attribute__((unused)) static int delta_listen(void *user, double done)
{
    struct delta_heard *h = user;
    h->wrong += done < h->last || done < 0.0 || done > 1.0;
    h->last = done;
    h->calls++;
    return h->stop > 0.0 && done >= h->stop;
}

/* Root of the mean square of a difference over that of what is right. */
__attribute__((unused)) static double delta_error(const double *right, const void *got, int type, int64_t count)
{
    double difference = 0.0, all = 0.0;
    for (int64_t i = 0; i < count; i++) {
        const double x = delta_get(got, i, type) - right[i];
        difference += x * x;
        all += right[i] * right[i];
    }
    return all > 0.0 ? sqrt(difference / all) : sqrt(difference);
}

#endif
