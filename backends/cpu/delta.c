/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The delta rule in vectors, compiled once for each instruction set: the bits of ref_delta.c. Vectors run across columns, which do not depend
 * on each other, in tiles of WIDE vectors. A tile's state stays in the nearest cache, and of each token it is walked over once: a row gets
 * what the token before writes, is read for that token's output, decays, and is read again for this token. That is two fused multiply-adds for
 * the state, one multiplication and one fused multiply-add more, one load and one store: with two units for the former and two loads and a store
 * in a cycle the four are what takes the time, as long as nothing waits. So tokens come in blocks, whose decays, keys and queries are made once for
 * all tiles, and while one block is walked the next one is asked for.
 *
 * A worker has several tasks, heads as a rule, and takes a block of each in turn: the rows that they read lie in the same pages. Called by delta_ops.c.
 */
#include "backends/cpu/delta_states.h"

#define TOKENS 32 /* of a block; RONDO_CPU_DELTA_CLEAN is a multiple */
/* How many of the chains are under way at a time. Registers hold their sums, two each, and four numbers of a row. */
#if VL == 16
#define LIVE 4
#elif VL == 8
#define LIVE 1
#else
#define LIVE 2
#endif

/* What a worker has. */
struct room {
    float *states;             /* of each task [tiles][key_dim][TILE] */
    float *a, *k, *q;          /* [TOKENS][padded] */
    float *bias;               /* [padded] */
    int64_t padded, each;      /* each: floats from one task's state to the next */
    struct ahead ahead;
    float beta[TOKENS];
    const struct rondo_delta_task *ready;   /* the one token of this task is in slot `slot` */
    int slot;
};

static bool bytes(const struct rondo_delta_form *form, int32_t columns, int64_t tasks, size_t *out)
{
    const size_t padded = (size_t)up(form->key_dim, LANES), wide = (size_t)up(columns, TILE);
    return rondo__mul((size_t)form->key_dim * wide, (size_t)tasks, out) && rondo__add(*out, (3 * TOKENS + 1) * padded, out) &&
           rondo__mul(*out, sizeof(float), out) && rondo__add(*out, sizeof(struct room) + 64, out);
}

static struct room *room_of(const struct rondo_delta_task *t, int64_t tasks, void *scratch)
{
    struct room *r = scratch;
    int64_t tiles = 0;
    for (int64_t i = 0; i < tasks; i++)
        if (!rondo__cpu_delta_in_place(t + i) && tiles_of(t + i) > tiles)
            tiles = tiles_of(t + i);
    r->ready = NULL;
    r->slot = 0;
    r->padded = up(t->form->key_dim, LANES);
    r->each = tiles * t->form->key_dim * TILE;
    r->states = (float *)(void *)((char *)scratch + (sizeof *r + 63) / 64 * 64);
    r->a = r->states + tasks * r->each;
    r->k = r->a + TOKENS * r->padded;
    r->q = r->k + TOKENS * r->padded;
    r->bias = r->q + TOKENS * r->padded;
    return r;
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
VEC void tokens(const int full, const struct rondo_delta_task *t, struct room *r, float *state, int64_t tile, int64_t first, int64_t count)
{
    const int64_t dim = t->form->key_dim, tiles = tiles_of(t);
    float *s = state + tile * dim * TILE;
    struct sides x = { NULL, NULL, r->a, r->k };
    vf u[WIDE], v[WIDE], o[WIDE], read[WIDE];
    UNROLL
    for (int j = 0; j < WIDE; j++)
        u[j] = vf_zero();
    walk(DECAY, &x, dim, s, u, o, read);
    for (int64_t i = 0; i < count; i++) {
        const vf beta = vf_set1(r->beta[i]);
        ask_token(&r->ahead, i, tile, tiles);
        read_values(t, first + i, tile * TILE, v);
        UNROLL
        for (int j = 0; j < WIDE; j++)
            u[j] = vf_mul(beta, vf_sub(v[j], read[j]));
        x = (struct sides){ r->k + i * r->padded, r->q + i * r->padded, r->a + (i + 1) * r->padded, r->k + (i + 1) * r->padded };
        if (i + 1 < count)
            walk(WRITE | DECAY | (full ? OUT : 0), &x, dim, s, u, o, read);
        else
            walk(WRITE | (full ? OUT : 0), &x, dim, s, u, o, read);
        if (full)
            write_values(t, first + i, tile * TILE, o);
    }
}

static void tokens_out(const struct rondo_delta_task *t, struct room *r, float *state, int64_t tile, int64_t first, int64_t count)
{
    tokens(1, t, r, state, tile, first, count);
}

static void tokens_state(const struct rondo_delta_task *t, struct room *r, float *state, int64_t tile, int64_t first, int64_t count)
{
    tokens(0, t, r, state, tile, first, count);
}

/* ---- one token ---- */

/* A state of which one token is all there is stays where it lies, and what takes the time is memory: reading it there and writing it back. A
 * stretch of columns as wide as a line of a cache is walked over twice, to be read and to be written, and lines of that stretch lie so far apart that
 * no machine foresees them. So while one state is walked over, the next one is asked for, straight on, and evenly: a line for each two rows.
 * Then memory has the same to do all the time, and both walks find their lines in the second-level cache. Asked for in bursts, or whole rows at
 * a time, it takes a third longer (MEASURED). */
#define STRIP RONDO_CPU_DELTA_STEP
#define STRIPS (STRIP / VL)

/* Lines of the state that comes next. */
struct lines {
    const float *at;           /* NULL: none */
    int64_t left, wide, gap;   /* of a row: lines to come, lines, and numbers from its last line to the next row's first one */
    int64_t rows;              /* to come, this one among them */
};

static struct lines lines_of(const struct rondo_delta_task *t)
{
    if (!t || !t->columns || !rondo__cpu_delta_in_place(t))
        return (struct lines){ NULL, 0, 0, 0, 0 };
    const int64_t wide = t->columns / STRIP;
    return (struct lines){ t->from, wide, wide, t->from_stride - t->columns, t->form->key_dim };
}

static inline void ask_line(struct lines *next)
{
    if (!next->at)
        return;
    __builtin_prefetch(next->at, 0, 2);
    next->at += STRIP;
    if (--next->left)
        return;
    next->left = next->wide;
    next->at = --next->rows ? next->at + next->gap : NULL;
}

/* What both walks over some columns read and write. In one place, so that what is stored cannot be one of these. */
struct stretch {
    const float *a, *k, *q, *from;
    float *to;
    int64_t dim, from_stride, to_stride;
};

/* One row of each chain, or of `live` chains. */
VEC void step_read(const struct stretch *x, const int live, int64_t d, struct lines *next, vf sum[CHAINS][STRIPS])
{
    UNROLL
    for (int c = 0; c < live; c++) {
        const vf a = vf_set1(x->a[d + c]), k = vf_set1(x->k[d + c]);
        const float *from = x->from + (d + c) * x->from_stride;
        UNROLL
        for (int j = 0; j < STRIPS; j++)
            vf_fma_into(&sum[c][j], k, vf_mul(a, vf_load(from + j * VL)));
        if (c % 2 == 0)
            ask_line(next);
    }
}

/* All rows get their write, and are read for the output. */
VEC void step_write(const struct stretch *x, const int live, int64_t d, struct lines *next, const vf u[STRIPS], vf sum[CHAINS][STRIPS])
{
    UNROLL
    for (int c = 0; c < live; c++) {
        const vf a = vf_set1(x->a[d + c]), k = vf_set1(x->k[d + c]), q = vf_set1(x->q[d + c]);
        const float *from = x->from + (d + c) * x->from_stride;
        float *to = x->to + (d + c) * x->to_stride;
        UNROLL
        for (int j = 0; j < STRIPS; j++) {
            vf at = vf_mul(a, vf_load(from + j * VL));
            vf_fma_into(&at, k, u[j]);
            vf_fma_into(&sum[c][j], q, at);
            vf_store(to + j * VL, at);
        }
        if (c % 2 == 0)
            ask_line(next);
    }
}

/* Both: rows' sums, of which the second walk's are of what it writes. */
VEC void step_walk(const int writes, const struct stretch *x, struct lines *next, const vf u[STRIPS], vf out[STRIPS])
{
    const struct stretch y = *x;
    struct lines lines = *next;
    vf sum[CHAINS][STRIPS];
    int64_t d = 0;
    UNROLL
    for (int c = 0; c < CHAINS; c++)
        UNROLL
        for (int j = 0; j < STRIPS; j++)
            sum[c][j] = vf_zero();
    for (; d + CHAINS <= y.dim; d += CHAINS)
        if (writes)
            step_write(&y, CHAINS, d, &lines, u, sum);
        else
            step_read(&y, CHAINS, d, &lines, sum);
    UNROLL
    for (int c = 0; c < CHAINS - 1; c++) {
        if (d + c >= y.dim)
            break;
        struct stretch z = y;
        z.a += c, z.k += c, z.q += c, z.from += c * y.from_stride, z.to += c * y.to_stride;
        if (writes)
            step_write(&z, 1, d, &lines, u, sum + c);
        else
            step_read(&z, 1, d, &lines, sum + c);
    }
    *next = lines;
    UNROLL
    for (int j = 0; j < STRIPS; j++)
        out[j] = vf_add(vf_add(sum[0][j], sum[2][j]), vf_add(sum[1][j], sum[3][j]));
}

/* One token is made ready in parts, so that memory does not wait meanwhile; there are two slots, as the one before is still in use. */
enum { PART_K, PART_Q, PART_GATES, PART_BETA, PARTS_OF_STEP };

static void read_part(const struct rondo_delta_task *t, struct room *r, int slot, int part)
{
    const struct rondo_delta_form *f = t->form;
    const int64_t at = slot * r->padded;
    if (part == PART_K) {
        read_rows(f, r->padded, t->k, 0, 1, t->k_stride, r->k + at);
    } else if (part == PART_Q) {
        read_rows(f, r->padded, t->q, 0, 1, t->q_stride, r->q + at);
    } else if (part == PART_GATES) {
        read_numbers(r->bias, r->padded, t->dt_bias ? t->dt_bias : r->a, 0, t->dt_bias ? f->gate_dim : 0, RONDO_F32);
        read_gates(f, r->padded, t->g, 0, 1, t->g_stride, r->a + at, r->bias, t->a_log ? rondo__exp(*t->a_log) : 1.0f);
    } else {
        read_betas(f, t->beta, 0, 1, t->beta_stride, r->beta + slot * VL);
    }
}

/* then: the task whose token is made ready meanwhile, or NULL. */
static void step(const struct rondo_delta_task *t, struct room *r, struct lines next, const struct rondo_delta_task *then)
{
    const int slot = r->slot;
    const int64_t at = slot * r->padded;
    const float beta = r->beta[slot * VL];
    int part = then ? 0 : PARTS_OF_STEP;
    for (int64_t column = 0; column < t->columns; column += STRIP) {
        const struct stretch x = { r->a + at, r->k + at, r->q + at, t->from + column, t->to + column, t->form->key_dim, t->from_stride, t->to_stride };
        vf u[STRIPS], out[STRIPS];
        step_walk(0, &x, &next, NULL, u);
        UNROLL
        for (int j = 0; j < STRIPS; j++)
            u[j] = vf_mul(vf_set1(beta), vf_sub(some(t->v, column + j * VL, VL, t->form->type), u[j]));
        step_walk(1, &x, &next, u, out);
        UNROLL
        for (int j = 0; j < STRIPS; j++) {
            vf_put_element(t->out, column + j * VL, t->form->out_type, vf_mul(out[j], vf_set1(t->form->scale)));
            if (!vm_any(vf_is_nan(out[j])))   /* then no number that it is a sum of was one */
                continue;
            for (int64_t d = 0; d < t->form->key_dim; d++) {
                float *to = t->to + d * t->to_stride + column + j * VL;
                vf_store(to, vf_canonical(vf_load(to)));
            }
        }
        if (part < PARTS_OF_STEP)
            read_part(then, r, 1 - slot, part++);
    }
    for (; part < PARTS_OF_STEP; part++)
        read_part(then, r, 1 - slot, part);
    r->ready = then;
    r->slot = then ? 1 - slot : slot;
}

/* ---- blocks ---- */

/* Tokens from `first` on of one task. */
static int64_t run_block(const struct rondo_delta_task *t, struct room *r, float *state, int64_t first, const struct rondo_delta_task *next,
                         bool next_here)
{
    const int64_t left = t->rows - first, count = left < TOKENS ? left : TOKENS, tiles = tiles_of(t);
    if (rondo__cpu_delta_in_place(t)) {
        for (int part = 0; part < PARTS_OF_STEP && r->ready != t; part++)
            read_part(t, r, r->slot, part);
        step(t, r, lines_of(next), next_here && rondo__cpu_delta_in_place(next) ? next : NULL);
        return 1;
    }
    const struct token_rows rows = { r->a, r->k, r->q, r->bias, r->beta, r->padded };
    read_block(t, &rows, first, count);
    for (int64_t tile = 0; tile < tiles; tile++)
        if (t->kind == RONDO_DELTA_FORWARD)
            tokens_out(t, r, state, tile, first, count);
        else
            tokens_state(t, r, state, tile, first, count);
    if (t->kind == RONDO_DELTA_MAP && (first + count) % RONDO_CPU_DELTA_CLEAN == 0)
        clean(t, state);
    return count;
}

static int run(const struct rondo_delta_task *tasks, int64_t count, const struct rondo_delta_task *next, bool cold, void *scratch,
               const struct rondo_poll *poll)
{
    struct room *r = room_of(tasks, count, scratch);
    const int64_t often = rondo__cpu_delta_poll(tasks) * tasks->columns;
    int64_t most = 0, due = 0;
    r->ahead = (struct ahead){ tasks, 0 };
    for (int64_t i = 0; i < TOKENS && cold; i++)
        ask_token(&r->ahead, i, 0, 1);
    if (cold && rondo__cpu_delta_in_place(tasks)) {
        struct lines lines = lines_of(tasks);
        r->ahead = (struct ahead){ count > 1 ? tasks + 1 : NULL, 0 };
        ask_token(&r->ahead, 0, 0, 1);
        for (int64_t i = 0; i < tasks->form->key_dim * lines.wide; i++)
            ask_line(&lines);
    }
    for (int64_t i = 0; i < count; i++) {
        most = tasks[i].rows > most ? tasks[i].rows : most;
        if (!rondo__cpu_delta_in_place(tasks + i))
            take_state(tasks + i, r->states + i * r->each);
    }
    for (int64_t first = 0; first < most; first += TOKENS)
        for (int64_t i = 0; i < count; i++) {
            if (first >= tasks[i].rows)
                continue;
            r->ahead = ahead_of(tasks, count, i, first, TOKENS, next);
            const struct rondo_delta_task *const then = r->ahead.task;
            if (rondo__cpu_delta_in_place(tasks + i)) {   /* while a token is read, that of the task behind it is made ready */
                r->ahead = (struct ahead){ i + 2 < count ? tasks + i + 2 : NULL, 0 };
                ask_token(&r->ahead, 0, 0, 1);
            }
            due += run_block(tasks + i, r, r->states + i * r->each, first, then, then && then != next) * tasks[i].columns;
            if (poll && due >= often) {
                rondo__cpu_delta_tell(poll, 1, due);
                due = 0;
                int err = poll->call(poll->arg);
                if (err)
                    return err;
            }
        }
    rondo__cpu_delta_tell(poll, 1, due);
    for (int64_t i = 0; i < count; i++)
        if (tasks[i].to && !rondo__cpu_delta_in_place(tasks + i))
            give_state(tasks + i, r->states + i * r->each);
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
