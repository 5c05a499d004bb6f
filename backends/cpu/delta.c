/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The delta rule in vectors, compiled once for each instruction set: the bits of ref_delta.c. Vectors run across columns, which do not depend
 * on each other, in tiles of WIDE vectors. A tile's state stays in the nearest cache, and of each token it is walked over once: a row gets
 * what the token before writes, is read for that token's output, decays, and is read again for this token. That is two fused multiply-adds for
 * the state, one multiplication and one fused multiply-add more, one load and one store: with two units for the former and two loads and a store
 * in a cycle the four are what takes the time, whatever comes first of memory.
 *
 * Tokens come in blocks: their decays, keys and queries are made once for all tiles of the item. Called by delta_ops.c.
 */
#include "backends/cpu/delta_tokens.h"

#define TOKENS RONDO_CPU_DELTA_CLEAN /* of a block */
/* Vectors of a tile, and how many of the chains are under way at a time: their sums, which are two each, stay in registers, and are enough of
 * them to hide the time that an addition takes. */
#if VEC_REGISTERS == 32
#define WIDE 4
#else
#define WIDE 2
#endif
#define LIVE 2
#define TILE (WIDE * VL)

/* What a worker has. */
struct room {
    float *state;              /* [tiles][key_dim][TILE] */
    float *a, *k, *q;          /* [TOKENS][padded] */
    float *v, *out;            /* [TOKENS][tiles * TILE] */
    float *zero;               /* [padded]: what an absent bias is */
    int64_t padded, tiles;
    float beta[TOKENS];
};

static size_t floats_of(const struct rondo_delta_form *form, int32_t columns)
{
    const size_t padded = (size_t)up(form->key_dim, LANES), wide = (size_t)up(columns, TILE);
    return (size_t)form->key_dim * wide + (3 * TOKENS + 1) * padded + 2 * TOKENS * wide;
}

static bool bytes(const struct rondo_delta_form *form, int32_t columns, size_t *out)
{
    return rondo__mul(floats_of(form, columns), sizeof(float), out) && rondo__add(*out, sizeof(struct room) + 64, out);
}

static struct room *room_of(const struct rondo_delta_task *t, void *scratch)
{
    struct room *r = scratch;
    float *at = (float *)(void *)((char *)scratch + (sizeof *r + 63) / 64 * 64);
    r->padded = up(t->form->key_dim, LANES);
    r->tiles = up(t->columns, TILE) / TILE;
    r->state = at;
    r->v = r->state + t->form->key_dim * r->tiles * TILE;
    r->out = r->v + TOKENS * r->tiles * TILE;
    r->a = r->out + TOKENS * r->tiles * TILE;
    r->k = r->a + TOKENS * r->padded;
    r->q = r->k + TOKENS * r->padded;
    r->zero = r->q + TOKENS * r->padded;
    for (int64_t i = 0; i < r->padded; i++)
        r->zero[i] = 0.0f;
    return r;
}

/* ---- tokens ---- */

static void read_block(const struct rondo_delta_task *t, struct room *r, int64_t first, int64_t count, const float *bias, float gain)
{
    const struct rondo_delta_form *f = t->form;
    read_rows(f, r->padded, t->k, first, count, t->k_stride, r->k);
    if (t->kind == RONDO_DELTA_FORWARD)
        read_rows(f, r->padded, t->q, first, count, t->q_stride, r->q);
    for (int64_t i = 0; i < count; i++) {
        const int64_t token = first + i;
        read_gates(f, r->padded, t->g, token * t->g_stride, r->a + i * r->padded, bias, gain);
        r->beta[i] = rondo__delta_beta(f->beta, rondo__element(t->beta, token * t->beta_stride, f->beta_type));
        if (t->kind != RONDO_DELTA_MAP)
            read_numbers(r->v + i * r->tiles * TILE, r->tiles * TILE, t->v, token * t->v_stride, t->columns, f->type);
    }
}

static void write_block(const struct rondo_delta_task *t, const struct room *r, int64_t first, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        write_numbers(t->out, (first + i) * t->out_stride, t->columns, r->out + i * r->tiles * TILE, t->form->out_type);
}

/* ---- a walk over a tile's state ---- */

/* What a row of the state goes through, as flags that are constants where these functions are used. */
enum { WRITE = 1, OUT = 2, DECAY = 4 };

/* The token whose write the rows still lack, and the one that comes. */
struct sides {
    const float *k0, *q0, *a1, *k1;
};

VEC void row(const int what, const struct sides *x, int64_t d, float *s, const vf u[WIDE], vf out[WIDE], vf read[WIDE])
{
    const vf k0 = what & WRITE ? vf_set1(x->k0[d]) : vf_zero(), q0 = what & OUT ? vf_set1(x->q0[d]) : vf_zero();
    const vf a1 = what & DECAY ? vf_set1(x->a1[d]) : vf_zero(), k1 = what & DECAY ? vf_set1(x->k1[d]) : vf_zero();
    UNROLL
    for (int j = 0; j < WIDE; j++) {
        vf at = vf_load(s + j * VL);
        if (what & WRITE)
            vf_fma_into(&at, k0, u[j]);
        if (what & OUT)
            vf_fma_into(&out[j], q0, at);
        if (what & DECAY)
            at = vf_mul(a1, at);
        vf_store(s + j * VL, at);
        if (what & DECAY)
            vf_fma_into(&read[j], k1, at);
    }
}

VEC void join(vf chain[CHAINS][WIDE], vf to[WIDE])
{
    UNROLL
    for (int j = 0; j < WIDE; j++)
        to[j] = vf_add(vf_add(chain[0][j], chain[2][j]), vf_add(chain[1][j], chain[3][j]));
}

/* Of the chains that are not all under way at once the sums wait in memory. */
VEC void walk(const int what, const struct sides *x, int64_t dim, float *s, const vf u[WIDE], vf out[WIDE], vf read[WIDE])
{
    vf outs[CHAINS][WIDE], reads[CHAINS][WIDE];
    for (int first = 0; first < CHAINS; first += LIVE) {
        vf o[LIVE][WIDE], r[LIVE][WIDE];
        int64_t d = first;
        UNROLL
        for (int c = 0; c < LIVE; c++)
            UNROLL
            for (int j = 0; j < WIDE; j++)
                o[c][j] = r[c][j] = vf_zero();
        for (; d + LIVE <= dim; d += CHAINS)
            UNROLL
            for (int c = 0; c < LIVE; c++)
                row(what, x, d + c, s + (d + c) * TILE, u, o[c], r[c]);
        UNROLL
        for (int c = 0; c < LIVE; c++)
            if (d + c < dim)
                row(what, x, d + c, s + (d + c) * TILE, u, o[c], r[c]);
        UNROLL
        for (int c = 0; c < LIVE; c++)
            UNROLL
            for (int j = 0; j < WIDE; j++) {
                outs[first + c][j] = o[c][j];
                reads[first + c][j] = r[c][j];
            }
    }
    if (what & OUT)
        join(outs, out);
    if (what & DECAY)
        join(reads, read);
}

/* A block of tokens over one tile. `full`: with outputs. */
VEC void tokens(const int full, const struct rondo_delta_task *t, struct room *r, int64_t tile, int64_t count)
{
    const int64_t dim = t->form->key_dim, wide = r->tiles * TILE;
    const vf scale = vf_set1(t->form->scale);
    float *s = r->state + tile * dim * TILE, *v = r->v + tile * TILE, *out = r->out + tile * TILE;
    struct sides x = { NULL, NULL, r->a, r->k };
    vf u[WIDE], o[WIDE], read[WIDE];
    UNROLL
    for (int j = 0; j < WIDE; j++)
        u[j] = vf_zero();
    walk(DECAY, &x, dim, s, u, o, read);
    for (int64_t i = 0; i < count; i++) {
        const vf beta = vf_set1(r->beta[i]);
        UNROLL
        for (int j = 0; j < WIDE; j++)
            u[j] = vf_mul(beta, vf_sub(t->kind == RONDO_DELTA_MAP ? vf_zero() : vf_load(v + i * wide + j * VL), read[j]));
        x = (struct sides){ r->k + i * r->padded, r->q + i * r->padded, r->a + (i + 1) * r->padded, r->k + (i + 1) * r->padded };
        if (i + 1 < count)
            walk(WRITE | DECAY | (full ? OUT : 0), &x, dim, s, u, o, read);
        else
            walk(WRITE | (full ? OUT : 0), &x, dim, s, u, o, read);
        UNROLL
        for (int j = 0; j < WIDE; j++)
            if (full)
                vf_store(out + i * wide + j * VL, vf_mul(o[j], scale));
    }
}

static void tokens_out(const struct rondo_delta_task *t, struct room *r, int64_t tile, int64_t count) { tokens(1, t, r, tile, count); }

static void tokens_state(const struct rondo_delta_task *t, struct room *r, int64_t tile, int64_t count) { tokens(0, t, r, tile, count); }

/* ---- states ---- */

static void take_state(const struct rondo_delta_task *t, const struct room *r)
{
    for (int64_t tile = 0; tile < r->tiles; tile++)
        for (int64_t d = 0; d < t->form->key_dim; d++) {
            float *to = r->state + (tile * t->form->key_dim + d) * TILE;
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

static void give_state(const struct rondo_delta_task *t, const struct room *r)
{
    for (int64_t tile = 0; tile < r->tiles; tile++)
        for (int64_t d = 0; d < t->form->key_dim; d++) {
            const int64_t left = t->columns - tile * TILE;
            write_elements(t->to, d * t->to_stride + tile * TILE, left < TILE ? left : TILE,
                           r->state + (tile * t->form->key_dim + d) * TILE, RONDO_F32);
        }
}

/* C14: what has become tiny of a map is nothing. */
static void clean(const struct rondo_delta_task *t, const struct room *r)
{
    for (int64_t i = 0; i < r->tiles * t->form->key_dim * TILE; i += VL) {
        const vf x = vf_load(r->state + i);
        vf_store(r->state + i, vf_select(vf_lt(vf_set1(-RONDO_CPU_DELTA_TINY), vf_neg_abs(x)), vf_zero(), x));
    }
}

static int run(const struct rondo_delta_task *t, void *scratch, const struct rondo_poll *poll)
{
    struct room *r = room_of(t, scratch);
    const float gain = t->a_log ? rondo__exp(*t->a_log) : 1.0f;
    const int64_t often = rondo__cpu_delta_poll(t);
    float *bias = r->zero;
    int64_t polled = 0;
    if (t->dt_bias)
        read_numbers(bias, r->padded, t->dt_bias, 0, t->form->gate_dim, RONDO_F32);
    take_state(t, r);
    for (int64_t first = 0; first < t->rows; first += TOKENS) {
        const int64_t count = t->rows - first < TOKENS ? t->rows - first : TOKENS;
        read_block(t, r, first, count, bias, gain);
        for (int64_t tile = 0; tile < r->tiles; tile++) {
            if (t->kind == RONDO_DELTA_FORWARD)
                tokens_out(t, r, tile, count);
            else
                tokens_state(t, r, tile, count);
        }
        if (t->kind == RONDO_DELTA_FORWARD)
            write_block(t, r, first, count);
        if (t->kind == RONDO_DELTA_MAP && count == TOKENS)
            clean(t, r);
        if (poll && first + count - polled >= often) {
            rondo__cpu_delta_tell(poll, first + count - polled, t->columns);
            polled = first + count;
            int err = poll->call(poll->arg);
            if (err)
                return err;
        }
    }
    rondo__cpu_delta_tell(poll, t->rows - polled, t->columns);
    if (t->to)
        give_state(t, r);
    return 0;
}

/* ---- folding ---- */

VEC void fold_vector(int32_t key_dim, const float *map, const float *from, int64_t from_stride, vf *sum)
{
    vf chain[CHAINS];
    int64_t i = 0;
    UNROLL
    for (int c = 0; c < CHAINS; c++)
        chain[c] = vf_zero();
    for (; i + CHAINS <= key_dim; i += CHAINS)
        UNROLL
        for (int c = 0; c < CHAINS; c++)
            vf_fma_into(&chain[c], vf_set1(map[i + c]), vf_load(from + (i + c) * from_stride));
    for (int c = 0; i + c < key_dim; c++)
        vf_fma_into(&chain[c], vf_set1(map[i + c]), vf_load(from + (i + c) * from_stride));
    *sum = vf_add(vf_add(chain[0], chain[2]), vf_add(chain[1], chain[3]));
}

static void fold(int32_t key_dim, int32_t columns, const float *map, int64_t map_stride, const float *from, int64_t from_stride,
                 const float *source, int64_t source_stride, float *to, int64_t to_stride)
{
    for (int64_t d = 0; d < key_dim; d++) {
        int64_t c = 0;
        for (; c + VL <= columns; c += VL) {
            vf sum;
            fold_vector(key_dim, map + d * map_stride, from + c, from_stride, &sum);
            vf_store(to + d * to_stride + c, vf_canonical(vf_add(sum, vf_load(source + d * source_stride + c))));
        }
        for (; c < columns; c++) {
            float chain[CHAINS] = { 0 };
            for (int64_t i = 0; i < key_dim; i++)
                chain[i % CHAINS] = rondo__fma(map[d * map_stride + i], from[i * from_stride + c], chain[i % CHAINS]);
            rondo__put_element(to, d * to_stride + c, RONDO_F32, ((chain[0] + chain[2]) + (chain[1] + chain[3])) + source[d * source_stride + c]);
        }
    }
}

extern const struct rondo_cpu_delta RONDO_ISA_TABLE(delta);
const struct rondo_cpu_delta RONDO_ISA_TABLE(delta) = { bytes, run, fold };
