/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the definitions of the delta rule, token by token, in chunks and of its gradients, begin with: a token's query, key, decays and beta as
 * rule 14 of rondo-numerics(7) takes them. Included by ref_delta.c, ref_delta_chunk.c and ref_delta_backward.c.
 */
#ifndef RONDO_CPU_REF_DELTA_H
#define RONDO_CPU_REF_DELTA_H

#include "backends/cpu/delta.h"

#define CHAINS RONDO_CPU_DELTA_CHAINS
#define LANES RONDO_CPU_DELTA_LANES

static inline float fold_lanes(float lane[LANES])
{
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++)
            lane[i] = lane[i] + lane[i + half];
    return lane[0];
}

static inline float join(const float chain[CHAINS]) { return (chain[0] + chain[2]) + (chain[1] + chain[3]); }

/* 1 / sqrt(sum x^2 + eps), the sum in lanes as that of a norm. */
static inline float norm_of(const float *x, int64_t dim)
{
    float lane[LANES] = { 0 };
    for (int64_t d = 0; d < dim; d++)
        lane[d % LANES] = rondo__fma(x[d], x[d], lane[d % LANES]);
    return 1.0f / __builtin_sqrtf(fold_lanes(lane) + RONDO_CPU_DELTA_EPS);
}

static inline void read_row(const struct rondo_delta_form *f, const void *from, int64_t at, float *to)
{
    for (int64_t d = 0; d < f->key_dim; d++)
        to[d] = rondo__element(from, at + d, f->type);
    if (f->norm) {
        const float r = norm_of(to, f->key_dim);
        for (int64_t d = 0; d < f->key_dim; d++)
            to[d] = to[d] * r;
    }
}

/* The decays of a token, whose gates begin at element `at`. */
static inline void read_decays(const struct rondo_delta_form *f, const void *g, int64_t at, const float *dt_bias, float gain, float *to)
{
    for (int64_t d = 0; d < f->key_dim; d++) {
        const int64_t channel = f->gate_dim == 1 ? 0 : d;
        const float x = rondo__element(g, at + channel, f->gate_type);
        to[d] = rondo__exp(rondo__delta_gate(f->gate, x, dt_bias ? dt_bias[channel] : 0.0f, gain, f->lower_bound));
    }
}

static inline float read_beta(const struct rondo_delta_form *f, const void *beta, int64_t at)
{
    return rondo__delta_beta(f->beta, rondo__element(beta, at, f->beta_type));
}

/* The state that a task begins with, dense. */
static inline void begin_state(const struct rondo_delta_task *t, float *s)
{
    const int64_t dim = t->form->key_dim, columns = t->columns;
    for (int64_t d = 0; d < dim; d++)
        for (int64_t c = 0; c < columns; c++)
            s[d * columns + c] = t->kind == RONDO_DELTA_MAP ? (d == t->column + c ? 1.0f : 0.0f) : t->from ? t->from[d * t->from_stride + c] : 0.0f;
}

/* Behind a token: of a map what has become tiny is nothing. Returns poll's code. */
static inline int end_token(const struct rondo_delta_task *t, int64_t token, float *s, const struct rondo_poll *poll)
{
    const int64_t often = rondo__cpu_delta_poll(t);
    const bool clean = t->kind == RONDO_DELTA_MAP && token % RONDO_CPU_DELTA_CLEAN == RONDO_CPU_DELTA_CLEAN - 1;
    for (int64_t d = 0; d < t->form->key_dim * t->columns && clean; d++)
        if (s[d] > -RONDO_CPU_DELTA_TINY && s[d] < RONDO_CPU_DELTA_TINY)
            s[d] = 0.0f;
    rondo__cpu_delta_tell(poll, 1, t->columns);
    return poll && token % often == often - 1 ? poll->call(poll->arg) : 0;
}

static inline void end_state(const struct rondo_delta_task *t, const float *s)
{
    for (int64_t d = 0; d < t->form->key_dim && t->to; d++)
        for (int64_t c = 0; c < t->columns; c++)
            rondo__put_element(t->to, d * t->to_stride + c, RONDO_F32, s[d * t->columns + c]);
}

/* Each by itself: who goes on with which state next is of no use here. */
#define RUN_EACH(run_task)                                                                                                              \
    static int run(const struct rondo_delta_task *tasks, int64_t count, const struct rondo_delta_task *next, bool cold, void *scratch,  \
                   const struct rondo_poll *poll)                                                                                       \
    {                                                                                                                                   \
        int err = 0;                                                                                                                    \
        (void)next, (void)cold;                                                                                                         \
        for (int64_t i = 0; i < count && !err; i++)                                                                                     \
            err = run_task(tasks + i, scratch, poll);                                                                                   \
        return err;                                                                                                                     \
    }

#endif
