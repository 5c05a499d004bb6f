/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The delta rule in chunks of tokens in vectors, compiled once for each instruction set: the bits of ref_delta_chunk.c. What a chunk asks of a
 * state are two products of matrices - what its tokens read, and what they write - which a number of the state meets in registers: two fused
 * multiply-adds a token where the walk of delta.c takes three and a multiplication, and three with outputs. The rest is the same for all columns and
 * made once: products of a token's key and query with the keys before it, sixteen of which are side by side in a vector, as their chains run over
 * channels.
 *
 * Tiles, and heads in turn, are as in delta.c. A task of the same tokens as the one before - a map behind its source - finds them made. Called by
 * delta_ops.c.
 */
#include "backends/cpu/delta_states.h"

#define BLOCK RONDO_CPU_DELTA_BLOCK
#define CHUNK RONDO_CPU_DELTA_CHUNK
/* Tokens that read a tile's rows together, rows that are written together, and rows of the triangular system that registers hold: of one vector. */
#if VEC_REGISTERS == 32
#define READ (16 / WIDE)
#define WRITE (16 / WIDE)
#define SOLVE 16
#else
#define READ 4
#define WRITE 4
#define SOLVE 8
#endif
#define PAIR 2                 /* tokens whose products with earlier keys are made together */

struct room {
    float *states;             /* of each task [tiles][key_dim][TILE] */
    struct token_rows rows;    /* of the chunk: [chunk][padded] */
    float *near_k, *near_q;    /* [chunk][padded]: as they meet what there was before their block, then before the chunk */
    float *keys;               /* [chunk / BLOCK][padded][BLOCK]: keys of a block, as they have decayed so far */
    float *since, *before;     /* [padded]: decays of a block's tokens, and of all blocks so far */
    float *l, *m;              /* [chunk][chunk]: what a token reads of each write, by its key, negated, and by its query */
    float *x, *out;            /* [chunk][TILE]: what tokens write of a tile, and put out */
    float *chains;             /* [CHAINS][READ][TILE] */
    int64_t chunk, padded, each;
    struct ahead ahead;
    const struct rondo_delta_task *made;   /* the task whose chunk from `made_first` on is there; NULL: none */
    int64_t made_first;
};

/* Floats of all but the states. */
static size_t others(int64_t padded, int64_t chunk)
{
    return (size_t)(6 * chunk * padded + 3 * padded + 2 * chunk * chunk + 2 * chunk * TILE + CHAINS * READ * TILE + chunk);
}

static bool bytes(const struct rondo_delta_form *form, int32_t columns, int64_t tasks, size_t *out)
{
    const size_t wide = (size_t)up(columns, TILE);
    return rondo__mul((size_t)form->key_dim * wide, (size_t)tasks, out) && rondo__add(*out, others(up(form->key_dim, LANES), form->chunk), out) &&
           rondo__mul(*out, sizeof(float), out) && rondo__add(*out, sizeof(struct room) + 64, out);
}

static float *take(float **at, int64_t count)
{
    float *p = *at;
    *at += count;
    return p;
}

static struct room *room_of(const struct rondo_delta_task *t, int64_t tasks, void *scratch)
{
    struct room *r = scratch;
    const int64_t padded = up(t->form->key_dim, LANES), chunk = t->form->chunk;
    int64_t tiles = 0;
    for (int64_t i = 0; i < tasks; i++)
        tiles = tiles_of(t + i) > tiles ? tiles_of(t + i) : tiles;
    float *at = (float *)(void *)((char *)scratch + (sizeof *r + 63) / 64 * 64);
    *r = (struct room){ .chunk = chunk, .padded = padded, .each = tiles * t->form->key_dim * TILE };
    r->states = take(&at, tasks * r->each);
    r->rows = (struct token_rows){ .padded = padded };
    r->rows.a = take(&at, chunk * padded);
    r->rows.k = take(&at, chunk * padded);
    r->rows.q = take(&at, chunk * padded);
    r->near_k = take(&at, chunk * padded);
    r->near_q = take(&at, chunk * padded);
    r->keys = take(&at, chunk * padded);
    r->rows.bias = take(&at, padded);
    r->since = take(&at, padded);
    r->before = take(&at, padded);
    r->x = take(&at, chunk * TILE);
    r->out = take(&at, chunk * TILE);
    r->chains = take(&at, CHAINS * READ * TILE);
    r->l = take(&at, chunk * chunk);
    r->m = take(&at, chunk * chunk);
    r->rows.beta = take(&at, chunk);
    return r;
}

/* ---- what is the same for all columns ---- */

/* Keys of the block that begins with token `first` and has n tokens, channel by channel; of tokens that are not there, zeros. */
static void turn_keys(const struct room *r, int64_t first, int64_t n)
{
    float *keys = r->keys + first * r->padded;
    memset(r->rows.k + (first + n) * r->padded, 0, (size_t)((BLOCK - n) * r->padded) * sizeof(float));
    for (int64_t lane = 0; lane < BLOCK; lane += VL)
        for (int64_t d = 0; d < r->padded; d += VL) {
            vf x[VL];
            vf_turn(r->rows.k + (first + lane) * r->padded + d, r->padded * (int64_t)sizeof(float), x);
            UNROLL
            for (int i = 0; i < VL; i++)
                vf_store(keys + (d + i) * BLOCK + lane, x[i]);
        }
}

/* Decays of the block's tokens, one after the other, and by them keys and queries. */
static void decay_rows(const struct room *r, int64_t first, int64_t n, bool forward)
{
    for (int64_t d = 0; d < r->padded; d += VL) {
        int64_t at = first * r->padded + d;
        vf since = vf_load(r->rows.a + at);
        for (int64_t i = 0; i < n; i++, at += r->padded) {
            since = i ? vf_mul(since, vf_load(r->rows.a + at)) : since;
            vf_store(r->near_k + at, vf_mul(vf_load(r->rows.k + at), since));
            if (forward)
                vf_store(r->near_q + at, vf_mul(vf_load(r->rows.q + at), since));
        }
        vf_store(r->since + d, since);
    }
}

/* Rows of a pair of tokens, and which of VL keys have decayed by each. */
struct pair {
    const float *a[PAIR], *k[PAIR], *q[PAIR];
    vm by[PAIR];
};

/* Products of a pair's keys and queries with VL keys. `own`: these are of its own block, and decay on the way. */
VEC void products(const int own, const int both, const struct pair *x, float *keys, int64_t dim, vf read[PAIR], vf out[PAIR])
{
    vf k[PAIR][CHAINS], q[PAIR][CHAINS];
    UNROLL
    for (int p = 0; p < PAIR; p++)
        UNROLL
        for (int c = 0; c < CHAINS; c++)
            k[p][c] = q[p][c] = vf_zero();
    for (int64_t d = 0; d < dim; d += CHAINS)
        UNROLL
        for (int c = 0; c < CHAINS; c++) {
            if (d + c >= dim)
                break;
            vf h = vf_load(keys + (d + c) * BLOCK);
            UNROLL
            for (int p = 0; p < PAIR; p++) {
                if (own)
                    h = vf_select(x->by[p], vf_mul(vf_set1(x->a[p][d + c]), h), h);
                vf_fma_into(&k[p][c], vf_set1(x->k[p][d + c]), h);
                if (both)
                    vf_fma_into(&q[p][c], vf_set1(x->q[p][d + c]), h);
            }
            if (own)
                vf_store(keys + (d + c) * BLOCK, h);
        }
    UNROLL
    for (int p = 0; p < PAIR; p++) {
        read[p] = vf_neg(vf_add(vf_add(k[p][0], k[p][2]), vf_add(k[p][1], k[p][3])));
        out[p] = vf_add(vf_add(q[p][0], q[p][2]), vf_add(q[p][1], q[p][3]));
    }
}

/* ... of tokens i and i + 1, of which the second may not be there, with lanes from `lane` on of the block that begins with token `from`. */
VEC void read_keys(const int both, const struct room *r, int64_t i, bool second, int64_t from, int64_t lane, int64_t dim)
{
    const bool own = i - i % BLOCK == from;
    const float *k = own ? r->rows.k : r->near_k, *q = own ? r->rows.q : r->near_q;
    struct pair x;
    vf read[PAIR], out[PAIR];
    for (int p = 0; p < PAIR; p++) {
        const int64_t row = (second ? i + p : i) * r->padded, older = i + p - from - lane;
        x.a[p] = r->rows.a + row;
        x.k[p] = k + row;
        x.q[p] = q + row;
        x.by[p] = vm_first(older < 0 || (p && !second) ? 0 : older > VL ? VL : (int)older);
    }
    float *keys = r->keys + from * r->padded + lane;
    if (own)
        products(1, both, &x, keys, dim, read, out);
    else
        products(0, both, &x, keys, dim, read, out);
    for (int p = 0; p < PAIR; p++) {
        const int64_t at = (i + p) * r->chunk + from + lane;
        vf_store(r->l + at, read[p]);
        if (both)
            vf_store(r->m + at, out[p]);
    }
}

static void read_keys_state(const struct room *r, int64_t i, bool second, int64_t from, int64_t lane, int64_t dim)
{
    read_keys(0, r, i, second, from, lane, dim);
}

static void read_keys_out(const struct room *r, int64_t i, bool second, int64_t from, int64_t lane, int64_t dim)
{
    read_keys(1, r, i, second, from, lane, dim);
}

/* The chunk so far ends with the block of n tokens: keys before it have decayed by all of it, and its tokens have what was before it. */
static void end_block(const struct room *r, int64_t first, int64_t n, bool forward)
{
    for (int64_t from = 0; from < first; from += BLOCK)
        for (int64_t d = 0; d < r->padded; d++) {
            const vf since = vf_set1(r->since[d]);
            float *keys = r->keys + from * r->padded + d * BLOCK;
            UNROLL
            for (int lane = 0; lane < BLOCK; lane += VL)
                vf_store(keys + lane, vf_mul(since, vf_load(keys + lane)));
        }
    for (int64_t d = 0; d < r->padded; d += VL) {
        const vf before = vf_load(r->before + d);
        for (int64_t at = first * r->padded + d; at < (first + n) * r->padded; at += r->padded) {
            vf_store(r->near_k + at, vf_mul(vf_load(r->near_k + at), before));
            if (forward)
                vf_store(r->near_q + at, vf_mul(vf_load(r->near_q + at), before));
        }
        vf_store(r->before + d, vf_mul(before, vf_load(r->since + d)));
    }
}

static void make_chunk(const struct rondo_delta_task *t, struct room *r, int64_t first, int64_t count)
{
    const int64_t dim = t->form->key_dim, whole = up(count, BLOCK);
    const bool forward = t->kind == RONDO_DELTA_FORWARD;
    read_block(t, &r->rows, first, count);
    for (int64_t d = 0; d < r->padded; d += VL)
        vf_store(r->before + d, vf_set1(1.0f));
    for (int64_t from = 0; from < count; from += BLOCK) {
        const int64_t n = count - from < BLOCK ? count - from : BLOCK;
        turn_keys(r, from, n);
        decay_rows(r, from, n, forward);
        for (int64_t i = from; i < from + n; i += PAIR)
            for (int64_t earlier = 0; earlier <= from; earlier += BLOCK)
                for (int64_t lane = 0; lane < BLOCK && earlier + lane < i + PAIR; lane += VL)
                    if (forward)
                        read_keys_out(r, i, i + 1 < from + n, earlier, lane, dim);
                    else
                        read_keys_state(r, i, i + 1 < from + n, earlier, lane, dim);
        end_block(r, from, n, forward);
    }
    memset(r->near_k + count * r->padded, 0, (size_t)((whole - count) * r->padded) * sizeof(float));
    if (forward)
        memset(r->near_q + count * r->padded, 0, (size_t)((whole - count) * r->padded) * sizeof(float));
}

/* ---- a tile ---- */

/* Of READ tokens what they read of a tile before the chunk. */
VEC void read_tile(const struct room *r, const float *by, const float *state, int64_t dim, float *to)
{
    for (int c = 0; c < CHAINS; c++) {
        vf sum[READ][WIDE];
        UNROLL
        for (int i = 0; i < READ; i++)
            UNROLL
            for (int j = 0; j < WIDE; j++)
                sum[i][j] = vf_zero();
        for (int64_t d = c; d < dim; d += CHAINS) {
            vf s[WIDE];
            UNROLL
            for (int j = 0; j < WIDE; j++)
                s[j] = vf_load(state + d * TILE + j * VL);
            UNROLL
            for (int i = 0; i < READ; i++) {
                const vf x = vf_set1(by[i * r->padded + d]);
                UNROLL
                for (int j = 0; j < WIDE; j++)
                    vf_fma_into(&sum[i][j], x, s[j]);
            }
        }
        UNROLL
        for (int i = 0; i < READ; i++)
            UNROLL
            for (int j = 0; j < WIDE; j++)
                vf_store(r->chains + (c * READ + i) * TILE + j * VL, sum[i][j]);
    }
    for (int64_t i = 0; i < READ * TILE; i += VL) {
        const float *chain = r->chains + i;
        const vf even = vf_add(vf_load(chain), vf_load(chain + 2 * READ * TILE));
        vf_store(to + i, vf_add(even, vf_add(vf_load(chain + READ * TILE), vf_load(chain + 3 * READ * TILE))));
    }
}

/* SOLVE rows of one vector from row `first` on, to which earlier tokens' writes are added. solves: these are writes, each of which waits for those
 * before it; otherwise outputs. */
VEC void add_writes(const int solves, const struct room *r, int64_t first, int64_t column, const float *by, float *at)
{
    const int64_t chunk = r->chunk;
    const float *written = r->x + column;
    vf e[SOLVE];
    by += first * chunk;
    UNROLL
    for (int i = 0; i < SOLVE; i++)
        e[i] = vf_load(at + (first + i) * TILE + column);
    for (int64_t j = 0; j < first; j++) {
        const vf x = vf_load(written + j * TILE);
        UNROLL
        for (int i = 0; i < SOLVE; i++)
            vf_fma_into(&e[i], vf_set1(by[i * chunk + j]), x);
    }
    by += first;
    UNROLL
    for (int j = 0; j < SOLVE; j++) {
        float *row = r->x + (first + j) * TILE + column;
        vf x;
        if (solves) {
            x = vf_mul(vf_set1(r->rows.beta[first + j]), e[j]);
            vf_store(row, x);
        } else {
            x = vf_load(row);
            vf_fma_into(&e[j], vf_set1(by[j * chunk + j]), x);
        }
        UNROLL
        for (int i = j + 1; i < SOLVE; i++)
            vf_fma_into(&e[i], vf_set1(by[i * chunk + j]), x);
    }
    if (!solves)
        UNROLL
        for (int i = 0; i < SOLVE; i++)
            vf_store(at + (first + i) * TILE + column, e[i]);
}

/* Some rows of a tile behind the chunk. */
VEC void write_rows(const int rows, const struct room *r, int64_t d, int64_t count, float *state)
{
    vf s[WRITE][WIDE];
    UNROLL
    for (int i = 0; i < rows; i++)
        UNROLL
        for (int j = 0; j < WIDE; j++)
            s[i][j] = vf_mul(vf_set1(r->before[d + i]), vf_load(state + (d + i) * TILE + j * VL));
    for (int64_t from = 0; from < count; from += BLOCK) {
        const float *keys = r->keys + from * r->padded + d * BLOCK, *written = r->x + from * TILE;
        const int64_t n = count - from < BLOCK ? count - from : BLOCK;
        for (int64_t token = 0; token < n; token++) {
            vf x[WIDE];
            UNROLL
            for (int j = 0; j < WIDE; j++)
                x[j] = vf_load(written + token * TILE + j * VL);
            UNROLL
            for (int i = 0; i < rows; i++) {
                const vf by = vf_set1(keys[i * BLOCK + token]);
                UNROLL
                for (int j = 0; j < WIDE; j++)
                    vf_fma_into(&s[i][j], by, x[j]);
            }
        }
    }
    UNROLL
    for (int i = 0; i < rows; i++)
        UNROLL
        for (int j = 0; j < WIDE; j++)
            vf_store(state + (d + i) * TILE + j * VL, s[i][j]);
}

static void read_all(const struct room *r, const float *by, const float *state, int64_t dim, int64_t count, float *to)
{
    for (int64_t i = 0; i < count; i += READ)
        read_tile(r, by + i * r->padded, state, dim, to + i * TILE);
}

/* The chunk of tokens from `first` on over one tile. */
static void run_tile(const struct rondo_delta_task *t, const struct room *r, float *state, int64_t tile, int64_t first, int64_t count)
{
    const int64_t dim = t->form->key_dim, tiles = tiles_of(t), whole = up(count, BLOCK);
    float *s = state + tile * dim * TILE;
    int64_t d = 0;
    for (int64_t i = 0; i < count / 2; i++)
        ask_token(&r->ahead, i, tile, tiles);
    read_all(r, r->near_k, s, dim, count, r->x);
    for (int64_t i = 0; i < count; i++) {
        vf v[WIDE];
        read_values(t, first + i, tile * TILE, v);
        UNROLL
        for (int j = 0; j < WIDE; j++)
            vf_store(r->x + i * TILE + j * VL, vf_sub(v[j], vf_load(r->x + i * TILE + j * VL)));
    }
    for (int64_t i = 0; i < whole; i += SOLVE)
        for (int64_t column = 0; column < TILE; column += VL)
            add_writes(1, r, i, column, r->l, r->x);
    for (int64_t i = count / 2; i < r->chunk; i++)
        ask_token(&r->ahead, i, tile, tiles);
    if (t->kind == RONDO_DELTA_FORWARD) {
        read_all(r, r->near_q, s, dim, count, r->out);
        for (int64_t i = 0; i < whole; i += SOLVE)
            for (int64_t column = 0; column < TILE; column += VL)
                add_writes(0, r, i, column, r->m, r->out);
        for (int64_t i = 0; i < count; i++) {
            vf out[WIDE];
            UNROLL
            for (int j = 0; j < WIDE; j++)
                out[j] = vf_load(r->out + i * TILE + j * VL);
            write_values(t, first + i, tile * TILE, out);
        }
    }
    for (; d + WRITE <= dim; d += WRITE)
        write_rows(WRITE, r, d, count, s);
    for (; d < dim; d++)
        write_rows(1, r, d, count, s);
}

/* ---- blocks ---- */

static bool same_tokens(const struct rondo_delta_task *t, const struct rondo_delta_task *u)
{
    return t->k == u->k && t->g == u->g && t->beta == u->beta && t->a_log == u->a_log && t->dt_bias == u->dt_bias &&
           t->k_stride == u->k_stride && t->g_stride == u->g_stride && t->beta_stride == u->beta_stride;
}

/* The chunk from token `first` on of one task. */
static int64_t run_chunk(const struct rondo_delta_task *t, struct room *r, float *state, int64_t first)
{
    const int64_t left = t->rows - first, count = left < r->chunk ? left : r->chunk, tiles = tiles_of(t);
    const struct rondo_delta_task *made = r->made;
    if (!made || r->made_first != first || made->kind == RONDO_DELTA_FORWARD || t->kind == RONDO_DELTA_FORWARD || made->rows != t->rows ||
        !same_tokens(made, t))
        make_chunk(t, r, first, count);
    r->made = t;
    r->made_first = first;
    for (int64_t tile = 0; tile < tiles; tile++)
        run_tile(t, r, state, tile, first, count);
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
    (void)cold;
    for (int64_t i = 0; i < count; i++) {
        most = tasks[i].rows > most ? tasks[i].rows : most;
        take_state(tasks + i, r->states + i * r->each);
    }
    for (int64_t first = 0; first < most; first += r->chunk)
        for (int64_t i = 0; i < count; i++) {
            if (first >= tasks[i].rows)
                continue;
            r->ahead = ahead_of(tasks, count, i, first, r->chunk, next);
            due += run_chunk(tasks + i, r, r->states + i * r->each, first) * tasks[i].columns;
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
        if (tasks[i].to)
            give_state(tasks + i, r->states + i * r->each);
    return 0;
}

extern const struct rondo_cpu_delta RONDO_ISA_TABLE(delta_chunk);
const struct rondo_cpu_delta RONDO_ISA_TABLE(delta_chunk) = { bytes, run, NULL };
