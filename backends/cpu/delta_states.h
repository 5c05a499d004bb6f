/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What delta.c and delta_chunk.c share: a worker's states in tiles of columns, a block of tokens as both take it, and what is asked of memory before
 * it is wanted. Included by them, once for each instruction set.
 */
#ifndef RONDO_CPU_DELTA_STATES_H
#define RONDO_CPU_DELTA_STATES_H

#include "backends/cpu/delta_tokens.h"

/* Vectors of a tile. The state of 128 rows shall be half of the smallest first-level cache there is; fewer vectors would wait for loads of the
 * numbers that they share. */
#if VL >= 8
#define WIDE 2
#else
#define WIDE 4
#endif
#define TILE (WIDE * VL)
static inline int64_t tiles_of(const struct rondo_delta_task *t) { return up(t->columns, TILE) / TILE; }

/* ---- tokens ---- */

/* Some tokens of a task, of which a state takes what it needs: rows of `padded` numbers. */
struct token_rows {
    float *a, *k, *q;
    float *bias;               /* [padded] */
    float *beta;               /* up to whole vectors */
    int64_t padded;
};

static void read_block(const struct rondo_delta_task *t, const struct token_rows *to, int64_t first, int64_t count)
{
    const struct rondo_delta_form *f = t->form;
    const float gain = t->a_log ? rondo__exp(*t->a_log) : 1.0f;
    read_rows(f, to->padded, t->k, first, count, t->k_stride, to->k);
    if (t->kind == RONDO_DELTA_FORWARD)
        read_rows(f, to->padded, t->q, first, count, t->q_stride, to->q);
    read_numbers(to->bias, to->padded, t->dt_bias ? t->dt_bias : to->a, 0, t->dt_bias ? f->gate_dim : 0, RONDO_F32);
    read_gates(f, to->padded, t->g, first, count, t->g_stride, to->a, to->bias, gain);
    read_betas(f, t->beta, first, count, t->beta_stride, to->beta);
}

/* Of a tile's columns of a token: values, and what is put out. Whole tiles of F32 are what stands between two walks most often, and are spared
 * the call. */
__attribute__((noinline)) static void read_some(const struct rondo_delta_task *t, int64_t at, int64_t left, float *to)
{
    for (int j = 0; j < WIDE; j++)
        vf_store(to + j * VL, some(t->v, at + j * VL, left - j * VL, t->form->type));
}

VEC void read_values(const struct rondo_delta_task *t, int64_t token, int64_t column, vf v[WIDE])
{
    const int64_t at = token * t->v_stride + column, left = t->columns - column;
    float some_of[TILE];
    const float *from = some_of;
    if (t->kind == RONDO_DELTA_MAP) {
        UNROLL
        for (int j = 0; j < WIDE; j++)
            v[j] = vf_zero();
        return;
    }
    if (t->form->type == RONDO_F32 && left >= TILE)
        from = (const float *)t->v + at;
    else
        read_some(t, at, left, some_of);
    UNROLL
    for (int j = 0; j < WIDE; j++)
        v[j] = vf_load(from + j * VL);
}

__attribute__((noinline)) static void write_some(const struct rondo_delta_task *t, int64_t at, int64_t left, const float *from)
{
    write_numbers(t->out, at, left < TILE ? left : TILE, from, t->form->out_type);
}

VEC void write_values(const struct rondo_delta_task *t, int64_t token, int64_t column, const vf out[WIDE])
{
    const vf scale = vf_set1(t->form->scale);
    const int64_t at = token * t->out_stride + column, left = t->columns - column;
    float some_of[TILE];
    if (t->form->out_type == RONDO_F32 && left >= TILE) {
        UNROLL
        for (int j = 0; j < WIDE; j++)
            vf_store((float *)t->out + at + j * VL, vf_canonical(vf_mul(out[j], scale)));
        return;
    }
    UNROLL
    for (int j = 0; j < WIDE; j++)
        vf_store(some_of + j * VL, vf_mul(out[j], scale));
    write_some(t, at, left, some_of);
}

/* ---- ahead ---- */

/* Tokens of a task from `first` on that will be wanted next. */
struct ahead {
    const struct rondo_delta_task *task;   /* NULL: none */
    int64_t first;
};

/* Asks for part `part` of so many of a row's elements. */
static inline void ask(const void *rows, int64_t at, int64_t count, int type, int64_t part, int64_t parts)
{
    const int64_t size = type == RONDO_F32 ? 4 : 2;
    const char *p = (const char *)rows + at * size;
    for (int64_t i = part * 64; i < count * size; i += parts * 64)
        __builtin_prefetch(p + i, 0, 2);
}

/* ... of all that token i of what comes next brings. Its rows lie too far apart for the machine to foresee them. */
static inline void ask_token(const struct ahead *next, int64_t i, int64_t part, int64_t parts)
{
    const struct rondo_delta_task *t = next->task;
    const int64_t token = next->first + i;
    if (!t || token >= t->rows)
        return;
    ask(t->k, token * t->k_stride, t->form->key_dim, t->form->type, part, parts);
    ask(t->g, token * t->g_stride, t->form->gate_dim, t->form->gate_type, part, parts);
    if (t->kind == RONDO_DELTA_FORWARD)
        ask(t->q, token * t->q_stride, t->form->key_dim, t->form->type, part, parts);
    if (t->kind != RONDO_DELTA_MAP)
        ask(t->v, token * t->v_stride, t->columns, t->form->type, part, parts);
}

/* What comes behind the block of task i that begins with token `first`: `next` behind the last one. */
static struct ahead ahead_of(const struct rondo_delta_task *tasks, int64_t count, int64_t i, int64_t first, int64_t tokens,
                             const struct rondo_delta_task *next)
{
    for (int64_t n = 1; n <= count; n++) {
        const int64_t token = i + n < count ? first : first + tokens;
        const struct rondo_delta_task *t = tasks + (i + n) % count;
        if (token < t->rows)
            return (struct ahead){ t, token };
    }
    return (struct ahead){ next, 0 };
}

/* ---- states ---- */

static void take_state(const struct rondo_delta_task *t, float *state)
{
    for (int64_t tile = 0; tile < tiles_of(t); tile++)
        for (int64_t d = 0; d < t->form->key_dim; d++) {
            float *to = state + (tile * t->form->key_dim + d) * TILE;
            const int64_t left = t->columns - tile * TILE, at = d - t->column - tile * TILE;
            if (t->kind != RONDO_DELTA_MAP && t->from) {
                read_elements(to, TILE, t->from, d * t->from_stride + tile * TILE, left < TILE ? left : TILE, RONDO_F32);
                continue;
            }
            for (int j = 0; j < WIDE; j++)
                vf_store(to + j * VL, vf_zero());
            if (t->kind == RONDO_DELTA_MAP && at >= 0 && at < TILE)
                to[at] = 1.0f;
        }
}

static void give_state(const struct rondo_delta_task *t, const float *state)
{
    for (int64_t tile = 0; tile < tiles_of(t); tile++)
        for (int64_t d = 0; d < t->form->key_dim; d++) {
            const int64_t left = t->columns - tile * TILE;
            write_elements(t->to, d * t->to_stride + tile * TILE, left < TILE ? left : TILE,
                           state + (tile * t->form->key_dim + d) * TILE, RONDO_F32);
        }
}

/* C14: what has become tiny of a map is nothing. */
static void clean(const struct rondo_delta_task *t, float *state)
{
    for (int64_t i = 0; i < tiles_of(t) * t->form->key_dim * TILE; i += VL) {
        const vf x = vf_load(state + i);
        vf_store(state + i, vf_select(vf_lt(vf_set1(-RONDO_CPU_DELTA_TINY), vf_neg_abs(x)), vf_zero(), x));
    }
}

#endif
