/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Gradients of the delta rule in vectors, compiled once for each instruction set: the bits of ref_delta_backward.c. Vectors run across the columns
 * of a leaf. States are not all kept: every SUB tokens there is a mark, from which those of SUB tokens are made again when their turn comes, so that
 * what a leaf needs stays in the second-level cache. Of each token the gradient of the state is walked over once: a row gives what it adds to
 * the token's sums, decays, and gets what the token before adds.
 *
 * A sum over columns has its lanes in vectors, and sixteen rows of it are folded together. Called by delta_backward_ops.c.
 */
#include "backends/cpu/delta_tokens.h"

#define LEAF RONDO_CPU_DELTA_LEAF
#define SUB 16
#define MOST_LEAVES 8 /* of the 512 columns that there may be */
/* Vectors of a tile, whole lanes, and chains under way at a time. */
#if VL == 8
#define WIDE 2
#else
#define WIDE 4
#endif
#if VL == 16
#define LIVE 2
#else
#define LIVE 1
#endif
#define TILE (WIDE * VL)
#define TILES (LEAF / TILE)
#define ROWS 16 /* of the state, that are folded together */

/* A token's numbers for each column, side by side, so that one address reaches them all: v; v - R(k, S'); what is written; -dv; do * scale. */
enum { V, REST, U, N, W, COLUMNS };

/* What a worker has of the columns of a leaf. */
struct room {
    float *s, *d;                  /* [key_dim][LEAF]: the state, and its gradient */
    float *marks;                  /* [rows / SUB][key_dim][LEAF] */
    float *before;                 /* [SUB][key_dim][LEAF]: S' of each token */
    float *a, *k, *q;              /* [SUB][padded] */
    float *leaf;                   /* [SUB][COLUMNS][LEAF] */
    float *bias;                   /* [padded] */
    int64_t padded, dim, columns;
    float gain, beta[SUB];
};

static size_t floats_of(const struct rondo_delta_form *f, int64_t rows)
{
    const size_t padded = (size_t)up(f->key_dim, LANES), state = (size_t)f->key_dim * LEAF;
    return ((size_t)up(rows, SUB) / SUB + SUB + 2) * state + (3 * SUB + 1) * padded + SUB * COLUMNS * LEAF;
}

static bool bytes(const struct rondo_delta_form *form, int64_t rows, size_t *out)
{
    return rondo__mul(floats_of(form, rows), sizeof(float), out) && rondo__add(*out, sizeof(struct room) + 64, out);
}

static struct room *room_of(const struct rondo_delta_backward_task *t, void *scratch)
{
    struct room *r = scratch;
    const int64_t state = t->form->key_dim * LEAF;
    r->dim = t->form->key_dim;
    r->padded = up(r->dim, LANES);
    r->s = (float *)(void *)((char *)scratch + (sizeof *r + 63) / 64 * 64);
    r->d = r->s + state;
    r->before = r->d + state;
    r->marks = r->before + SUB * state;
    r->leaf = r->marks + up(t->rows, SUB) / SUB * state;
    r->a = r->leaf + SUB * COLUMNS * LEAF;
    r->k = r->a + SUB * r->padded;
    r->q = r->k + SUB * r->padded;
    r->bias = r->q + SUB * r->padded;
    read_numbers(r->bias, r->padded, t->dt_bias ? t->dt_bias : r->s, 0, t->dt_bias ? t->form->gate_dim : 0, RONDO_F32);
    r->gain = t->a_log ? rondo__exp(*t->a_log) : 1.0f;
    return r;
}

static inline float *of_token(const struct room *r, int64_t token, int64_t what) { return r->leaf + (token * COLUMNS + what) * LEAF; }

static void read_tokens(const struct rondo_delta_backward_task *t, struct room *r, int64_t first, int64_t count, int64_t column)
{
    const struct rondo_delta_form *f = t->form;
    read_rows(f, r->padded, t->k, first, count, t->k_stride, r->k);
    read_gates(f, r->padded, t->g, first, count, t->g_stride, r->a, r->bias, r->gain);
    read_betas(f, t->beta, first, count, t->beta_stride, r->beta);
    for (int64_t i = 0; i < count; i++)
        read_numbers(of_token(r, i, V), LEAF, t->v, (first + i) * t->v_stride + column, r->columns, f->type);
}

static void read_gradients(const struct rondo_delta_backward_task *t, struct room *r, int64_t first, int64_t count, int64_t column)
{
    const vf scale = vf_set1(t->form->scale);
    read_rows(t->form, r->padded, t->q, first, count, t->q_stride, r->q);
    for (int64_t i = 0; i < count; i++) {
        float *w = of_token(r, i, W);
        read_numbers(w, LEAF, t->dout, (first + i) * t->dout_stride + column, r->columns, t->form->out_type);
        for (int64_t c = 0; c < LEAF; c += VL)
            vf_store(w + c, vf_mul(vf_load(w + c), scale));
    }
}

/* ---- there ---- */

VEC void join(vf chain[CHAINS][WIDE], vf to[WIDE])
{
    UNROLL
    for (int j = 0; j < WIDE; j++)
        to[j] = vf_add(vf_add(chain[0][j], chain[2][j]), vf_add(chain[1][j], chain[3][j]));
}

/* A tile's state gets what k0 writes (NULL: nothing), decays by a (NULL: it does not), and is read by k. */
VEC void walk(const int writes, const int decays_, int64_t dim, const float *k0, const float *a, const float *k, const float *from, float *to,
              const vf u[WIDE], vf read[WIDE])
{
    vf chain[CHAINS][WIDE];
    UNROLL
    for (int c = 0; c < CHAINS; c++)
        UNROLL
        for (int j = 0; j < WIDE; j++)
            chain[c][j] = vf_zero();
    for (int64_t d = 0; d < dim; d += CHAINS)
        UNROLL
        for (int c = 0; c < CHAINS; c++) {
            if (d + c >= dim)
                break;
            UNROLL
            for (int j = 0; j < WIDE; j++) {
                vf at = vf_load(from + (d + c) * LEAF + j * VL);
                if (writes)
                    at = vf_fma(vf_set1(k0[d + c]), u[j], at);
                if (decays_) {
                    at = vf_mul(vf_set1(a[d + c]), at);
                    chain[c][j] = vf_fma(vf_set1(k[d + c]), at, chain[c][j]);
                }
                vf_store(to + (d + c) * LEAF + j * VL, at);
            }
        }
    if (decays_)
        join(chain, read);
}

/* Tokens of a sub-block from its mark, which r->s has; with `kept` the states before each write are, else r->s goes on behind the last one. */
VEC void advance_tile(const int kept, const struct room *r, int64_t count, int64_t tile)
{
    const int64_t state = r->dim * LEAF;
    float *s = r->s + tile * TILE, *before = r->before + tile * TILE;
    vf u[WIDE], read[WIDE];
    for (int64_t i = 0; i < count; i++) {
        const float *k = r->k + i * r->padded, *a = r->a + i * r->padded;
        if (!i)
            walk(0, 1, r->dim, k, a, k, s, kept ? before : s, u, read);
        else
            walk(1, 1, r->dim, k - r->padded, a, k, kept ? before + (i - 1) * state : s, kept ? before + i * state : s, u, read);
        UNROLL
        for (int j = 0; j < WIDE; j++) {
            float *at = of_token(r, i, 0) + tile * TILE + j * VL;
            const vf rest = vf_sub(vf_load(at + V * LEAF), read[j]);
            u[j] = vf_mul(vf_set1(r->beta[i]), rest);
            if (kept) {
                vf_store(at + REST * LEAF, rest);
                vf_store(at + U * LEAF, u[j]);
            }
        }
    }
    if (!kept)
        walk(1, 0, r->dim, r->k + (count - 1) * r->padded, NULL, NULL, s, s, u, read);
}

static void advance(const struct room *r, int64_t count)
{
    for (int64_t tile = 0; tile * TILE < r->columns; tile++)
        advance_tile(0, r, count, tile);
}

static void advance_kept(const struct room *r, int64_t count)
{
    for (int64_t tile = 0; tile * TILE < r->columns; tile++)
        advance_tile(1, r, count, tile);
}

/* ---- and back ---- */

/* What a row of the gradient goes through: it gives what token i adds, and decays; it gets what the token before it adds. */
enum { GIVE = 1, GET = 2 };

/* The sums of a row: lanes of dq, dk and dg. */
enum { DQ, DK, DG, SUMS };

struct sides {
    const float *k, *a, *k1, *q1;              /* of the token, and of the one before it */
    vm mask[WIDE];                             /* columns that there are */
};

VEC void add_up(const int full, vf *acc, vf a, vf b, vm mask)
{
    if (full)
        vf_fma_into(acc, a, b);
    else
        *acc = vf_select(mask, vf_fma(a, b, *acc), *acc);
}

/* `live` rows from `row` on of a tile, side by side, as the sums of one alone would wait for each other. leaf: the token's numbers for the first
 * column, w1: what the token before it has of W there. more: lanes hold at i what came of tiles before. */
VEC void rows_at(const int what, const int full, const int live, const struct sides *x, int64_t row, const float *leaf, const float *w1,
                 const float *before, float *d, const int more, float lanes[SUMS][ROWS][LANES], int64_t i, vf p[LIVE][WIDE])
{
    vf k[LIVE], a[LIVE], k1[LIVE], q1[LIVE], acc[LIVE][SUMS][PARTS];
    UNROLL
    for (int c = 0; c < live; c++) {
        UNROLL
        for (int s = 0; s < SUMS; s++)
            UNROLL
            for (int l = 0; l < PARTS; l++)
                acc[c][s][l] = more && what & GIVE ? vf_load(lanes[s][i + c] + l * VL) : vf_zero();
        k[c] = what & GIVE ? vf_set1(x->k[row + c]) : vf_zero();
        a[c] = what & GIVE ? vf_set1(x->a[row + c]) : vf_zero();
        k1[c] = what & GET ? vf_set1(x->k1[row + c]) : vf_zero();
        q1[c] = what & GET ? vf_set1(x->q1[row + c]) : vf_zero();
    }
    UNROLL
    for (int j = 0; j < WIDE; j++) {
        /* once for all rows: of what is stored below the compiler must think that it may lie here */
        const vf u = what & GIVE ? vf_load(leaf + U * LEAF + j * VL) : vf_zero();
        const vf n = what & GIVE ? vf_load(leaf + N * LEAF + j * VL) : vf_zero();
        const vf w = what & GIVE ? vf_load(leaf + W * LEAF + j * VL) : vf_zero(), next = what & GET ? vf_load(w1 + j * VL) : vf_zero();
        UNROLL
        for (int c = 0; c < live; c++) {
            vf at = vf_load(d + c * LEAF + j * VL);
            if (what & GIVE) {
                const vf s = vf_load(before + c * LEAF + j * VL);
                vf behind = s;
                vf_fma_into(&behind, k[c], u);
                add_up(full, &acc[c][DQ][j % PARTS], behind, w, x->mask[j]);
                add_up(full, &acc[c][DK][j % PARTS], at, u, x->mask[j]);
                add_up(full, &acc[c][DK][j % PARTS], s, n, x->mask[j]);
                vf_fma_into(&at, k[c], n);
                add_up(full, &acc[c][DG][j % PARTS], s, at, x->mask[j]);
                at = vf_mul(a[c], at);
            }
            if (what & GET) {
                vf_fma_into(&at, q1[c], next);
                vf_fma_into(&p[c][j], k1[c], at);
            }
            vf_store(d + c * LEAF + j * VL, at);
        }
    }
    UNROLL
    for (int c = 0; c < live; c++)
        UNROLL
        for (int s = 0; s < SUMS; s++)
            UNROLL
            for (int l = 0; l < PARTS; l++)
                if (what & GIVE)
                    vf_store(lanes[s][i + c] + l * VL, acc[c][s][l]);
}

/* `count` rows of the gradient, in all tiles. */
VEC void rows_of(const int what, const int full, const int64_t count, const struct room *r, struct sides x, int64_t token, int64_t first, float *pending,
                 float lanes[SUMS][ROWS][LANES])
{
    for (int64_t tile = 0; tile * TILE < r->columns; tile++) {
        const int64_t at = tile * TILE;
        float *d = r->d + first * LEAF + at, *chains = pending + tile * CHAINS * TILE;
        const float *before = r->before + (token * r->dim + first) * LEAF + at, *leaf = of_token(r, token, 0) + at;
        const float *w1 = leaf + (what & GIVE ? W - COLUMNS : W) * LEAF;
        UNROLL
        for (int j = 0; j < WIDE; j++) {
            const int64_t left = r->columns - at - j * VL;
            x.mask[j] = vm_first(left > VL ? VL : left < 0 ? 0 : (int)left);
        }
        for (int chain = 0; chain < CHAINS; chain += LIVE) {
            vf p[LIVE][WIDE];
            UNROLL
            for (int c = 0; c < LIVE; c++)
                UNROLL
                for (int j = 0; j < WIDE; j++)
                    p[c][j] = what & GET ? vf_load(chains + ((chain + c) * WIDE + j) * VL) : vf_zero();
            int64_t i = chain;
            for (; i + LIVE <= count; i += CHAINS)
                rows_at(what, full, LIVE, &x, first + i, leaf, w1, before + i * LEAF, d + i * LEAF, tile > 0, lanes, i, p);
            if (i < count)   /* LIVE is 2 at most */
                rows_at(what, full, 1, &x, first + i, leaf, w1, before + i * LEAF, d + i * LEAF, tile > 0, lanes, i, p);
            UNROLL
            for (int c = 0; c < LIVE; c++)
                UNROLL
                for (int j = 0; j < WIDE; j++)
                    if (what & GET)
                        vf_store(chains + ((chain + c) * WIDE + j) * VL, p[c][j]);
        }
    }
}

/* All rows. GIVE: of token `token`, whose sums go to `sums`; GET: of the one before it, or with GET alone of `token`: to is R(k, D) of it. */
VEC void sweep(const int what, const int full, const struct room *r, int64_t token, float *sums, float to[LEAF])
{
    float pending[CHAINS * LEAF], lanes[SUMS][ROWS][LANES];
    const int64_t before = (what & GIVE ? token - 1 : token) * r->padded;
    const struct sides x = { .k = r->k + token * r->padded, .a = r->a + token * r->padded, .k1 = r->k + before, .q1 = r->q + before };
    if (what & GET)
        memset(pending, 0, sizeof pending);
    for (int64_t first = 0; first < r->dim; first += ROWS) {
        if (full && r->dim - first >= ROWS)   /* the number of rows is known here */
            rows_of(what, full, ROWS, r, x, token, first, pending, lanes);
        else {
            if (what & GIVE)                  /* of rows that there are not the sums are 0 */
                memset(lanes, 0, sizeof lanes);
            rows_of(what, full, r->dim - first < ROWS ? r->dim - first : ROWS, r, x, token, first, pending, lanes);
        }
        if (!(what & GIVE))
            continue;
        for (int s = 0; s < SUMS; s++)
            for (int i = 0; i < ROWS; i += VL)
                vf_store(sums + s * r->padded + first + i, vf_fold(lanes[s][i]));
    }
    for (int64_t tile = 0; tile * TILE < r->columns && what & GET; tile++) {
        vf chain[CHAINS][WIDE], p[WIDE];
        UNROLL
        for (int c = 0; c < CHAINS; c++)
            UNROLL
            for (int j = 0; j < WIDE; j++)
                chain[c][j] = vf_load(pending + tile * CHAINS * TILE + (c * WIDE + j) * VL);
        join(chain, p);
        UNROLL
        for (int j = 0; j < WIDE; j++)
            vf_store(to + tile * TILE + j * VL, p[j]);
    }
}

static void begin_full(const struct room *r, int64_t token, float p[LEAF]) { sweep(GET, 1, r, token, NULL, p); }
static void begin_part(const struct room *r, int64_t token, float p[LEAF]) { sweep(GET, 0, r, token, NULL, p); }
static void go_full(const struct room *r, int64_t token, float *sums, float p[LEAF]) { sweep(GIVE | GET, 1, r, token, sums, p); }
static void go_part(const struct room *r, int64_t token, float *sums, float p[LEAF]) { sweep(GIVE | GET, 0, r, token, sums, p); }
static void end_full(const struct room *r, int64_t token, float *sums) { sweep(GIVE, 1, r, token, sums, NULL); }
static void end_part(const struct room *r, int64_t token, float *sums) { sweep(GIVE, 0, r, token, sums, NULL); }

static float fold_lanes(float lane[LANES])
{
    for (int half = LANES / 2; half; half /= 2)
        for (int i = 0; i < half; i++)
            lane[i] = lane[i] + lane[i + half];
    return lane[0];
}

/* What was there, if results are added up, and x; rounded once. x is lost. */
static void put(void *to, int64_t at, int64_t count, float *x, int type, int32_t accumulate)
{
    float held[512 + VL];
    if (accumulate) {
        read_numbers(held, up(count, VL), to, at, count, type);
        for (int64_t i = 0; i < count; i += VL)
            vf_store(x + i, vf_add(vf_load(held + i), vf_load(x + i)));
    }
    write_numbers(to, at, count, x, type);
}

/* Of R(k, D) of a token its dv, and its dbeta. */
static void values(const struct rondo_delta_backward_task *t, struct room *r, int64_t first, int64_t token, int64_t column, const float p[LEAF], float *sums)
{
    const vf beta = vf_set1(r->beta[token]);
    float dv[LEAF], lanes[LANES];
    vf acc[PARTS];
    UNROLL
    for (int l = 0; l < PARTS; l++)
        acc[l] = vf_zero();
    for (int64_t c = 0; c < LEAF && c < r->columns; c += VL) {
        const int64_t left = r->columns - c;
        const vf at = vf_load(p + c), d = vf_mul(beta, at);
        add_up(0, &acc[c / VL % PARTS], at, vf_load(of_token(r, token, REST) + c), vm_first(left > VL ? VL : (int)left));
        vf_store(dv + c, d);
        vf_store(of_token(r, token, N) + c, vf_neg(d));
    }
    UNROLL
    for (int l = 0; l < PARTS; l++)
        vf_store(lanes + l * VL, acc[l]);
    sums[3 * r->padded] = fold_lanes(lanes);
    put(t->dv, (first + token) * t->dv_stride + column, r->columns, dv, t->dv_type, t->accumulate);
}

static void sub_block(const struct rondo_delta_backward_task *t, struct room *r, int64_t first, int64_t count, int64_t column, float *sums)
{
    const bool full = r->columns == LEAF;
    float p[LEAF];
    if (full)
        begin_full(r, count - 1, p);
    else
        begin_part(r, count - 1, p);
    for (int64_t i = count - 1; i >= 0; i--) {
        float *mine = sums + i * t->sums_token;
        values(t, r, first, i, column, p, mine);
        if (i && full)
            go_full(r, i, mine, p);
        else if (i)
            go_part(r, i, mine, p);
        else if (full)
            end_full(r, i, mine);
        else
            end_part(r, i, mine);
    }
}

static void take(const struct room *r, const float *from, int64_t stride, float *to)
{
    for (int64_t d = 0; d < r->dim; d++, to += LEAF)
        if (from)
            read_numbers(to, LEAF, from + d * stride, 0, r->columns, RONDO_F32);
        else
            memset(to, 0, LEAF * sizeof *to);
}

static int columns(const struct rondo_delta_backward_task *t, void *scratch, const struct rondo_poll *poll)
{
    struct room *r = room_of(t, scratch);
    const int64_t state = r->dim * LEAF;
    int err = 0;
    for (int64_t column = 0; column < t->columns && !err; column += LEAF) {
        float *sums = t->sums + column / LEAF * t->sums_leaf;
        r->columns = t->columns - column < LEAF ? t->columns - column : LEAF;
        take(r, t->state ? t->state + column : NULL, t->state_stride, r->s);
        take(r, t->end ? t->end + column : NULL, t->end_stride, r->d);
        for (int64_t first = 0; first + SUB < t->rows; first += SUB) {
            read_tokens(t, r, first, SUB, column);
            memcpy(r->marks + first / SUB * state, r->s, (size_t)state * sizeof *r->s);
            advance(r, SUB);
        }
        for (int64_t first = t->rows > 0 ? (t->rows - 1) / SUB * SUB : -1; first >= 0 && !err; first -= SUB) {
            const int64_t count = t->rows - first < SUB ? t->rows - first : SUB;
            read_tokens(t, r, first, count, column);
            read_gradients(t, r, first, count, column);
            if (first + SUB < t->rows)
                memcpy(r->s, r->marks + first / SUB * state, (size_t)state * sizeof *r->s);
            advance_kept(r, count);
            sub_block(t, r, first, count, column, sums + first * t->sums_token);
            err = poll ? poll->call(poll->arg) : 0;
        }
        for (int64_t d = 0; d < r->dim && t->begin && !err; d++)
            put(t->begin, d * t->begin_stride + column, r->columns, r->d + d * LEAF, RONDO_F32, t->result && t->accumulate);
    }
    return err;
}

/* ---- what becomes of the sums ---- */

/* The tree over a token's leaves of columns, of VL numbers. */
VEC vf over_leaves(const float *sums, int64_t leaves, int64_t stride)
{
    vf leaf[MOST_LEAVES];
    leaf[0] = vf_load(sums);   /* there is one at least, which a compiler cannot see */
    for (int64_t i = 1; i < leaves; i++)
        leaf[i] = vf_load(sums + i * stride);
    for (int64_t step = 1; step < leaves; step *= 2)
        for (int64_t i = 0; i + step < leaves; i += 2 * step)
            leaf[i] = vf_add(leaf[i], leaf[i + step]);
    return leaf[0];
}

VEC vf slope(vf x) { return vf_mul(vf_sigmoid(x), vf_sigmoid(vf_neg(x))); }

/* From the gradient by gates to that by what was given; *term: what they add to that of A_log, to acc. */
VEC vf gate_back(const int gate, vf dg, vf x, vf bias, vf gain, vf bound, vf *term)
{
    const vf z = vf_add(x, bias);
    if (gate == RONDO_GATE_LOG)
        return dg;
    if (gate == RONDO_GATE_SOFTPLUS) {
        *term = vf_fma(dg, vf_neg(vf_mul(gain, vf_softplus(z))), *term);
        return vf_neg(vf_mul(dg, vf_mul(gain, vf_sigmoid(z))));
    }
    const vf dz = vf_mul(vf_mul(dg, vf_mul(bound, gain)), slope(vf_mul(gain, z)));
    *term = vf_fma(dz, z, *term);
    return dz;
}

/* Sums over tokens, and a token's numbers, of so many channels filled up. */
struct channels {
    float sum[512 + LANES], a_sum, bias[512 + LANES], x[512 + LANES], dz[512 + LANES];
};

VEC void gates_row(const int gate, struct channels *at, int64_t count, float gain, float bound, const float *dg)
{
    float lanes[LANES];
    vf term[PARTS];
    UNROLL
    for (int l = 0; l < PARTS; l++)
        term[l] = vf_zero();
    for (int64_t d = 0; d < count; d += LANES)
        UNROLL
        for (int l = 0; l < PARTS; l++) {
            const int64_t c = d + l * VL, left = count - c;
            const vm mask = vm_first(left > VL ? VL : left < 0 ? 0 : (int)left);
            vf acc = term[l];
            const vf dz = gate_back(gate, vf_load(dg + c), vf_load(at->x + c), vf_load(at->bias + c), vf_set1(gain), vf_set1(bound), &acc);
            term[l] = vf_select(mask, acc, term[l]);
            vf_store(at->dz + c, dz);
            vf_store(at->sum + c, vf_add(dz, vf_load(at->sum + c)));
        }
    UNROLL
    for (int l = 0; l < PARTS; l++)
        vf_store(lanes + l * VL, term[l]);
    at->a_sum = fold_lanes(lanes) + at->a_sum;
}

static void gates(const struct rondo_delta_backward_gates *of)
{
    const struct rondo_delta_form *f = of->form;
    const int64_t padded = up(f->key_dim, LANES), channels = f->gate_dim, wide = up(channels, LANES);
    const float gain = of->a_log ? rondo__exp(*of->a_log) : 1.0f;
    struct channels at;
    float dg[512 + LANES];
    read_numbers(at.sum, wide, of->from ? of->from : of->sums, 0, of->from ? channels : 0, RONDO_F32);
    read_numbers(at.bias, wide, of->dt_bias ? of->dt_bias : of->sums, 0, of->dt_bias ? channels : 0, RONDO_F32);
    at.a_sum = of->from ? of->from[channels] : 0.0f;
    for (int64_t i = of->rows - 1; i >= 0; i--) {
        const float *sums = of->sums + i * of->sums_token, raw = rondo__element(of->beta, i * of->beta_stride, f->beta_type);
        vf all[PARTS];
        float dbeta[VL];
        vf_store(dbeta, over_leaves(sums + 3 * padded, of->leaves, of->sums_leaf));
        if (f->beta != RONDO_BETA_PLAIN)
            dbeta[0] = dbeta[0] * (rondo__sigmoid(raw) * rondo__sigmoid(-raw));
        if (f->beta == RONDO_BETA_SIGMOID2)
            dbeta[0] = 2.0f * dbeta[0];
        put(of->dbeta, i * of->dbeta_stride, 1, dbeta, of->beta_type, of->accumulate);
        UNROLL
        for (int l = 0; l < PARTS; l++)
            all[l] = vf_zero();
        for (int64_t d = 0; d < padded; d += LANES)
            UNROLL
            for (int l = 0; l < PARTS; l++) {
                const vf x = over_leaves(sums + 2 * padded + d + l * VL, of->leaves, of->sums_leaf);
                all[l] = vf_add(x, all[l]);
                vf_store(dg + d + l * VL, x);
            }
        if (channels == 1) {
            UNROLL
            for (int l = 0; l < PARTS; l++)
                vf_store(dg + l * VL, all[l]);
            dg[0] = fold_lanes(dg);
        }
        read_numbers(at.x, wide, of->g, i * of->g_stride, channels, f->gate_type);
        if (f->gate == RONDO_GATE_LOG)
            gates_row(RONDO_GATE_LOG, &at, channels, gain, f->lower_bound, dg);
        else if (f->gate == RONDO_GATE_SOFTPLUS)
            gates_row(RONDO_GATE_SOFTPLUS, &at, channels, gain, f->lower_bound, dg);
        else
            gates_row(RONDO_GATE_BOUNDED, &at, channels, gain, f->lower_bound, dg);
        put(of->dg, i * of->dg_stride, channels, at.dz, of->g_type, of->accumulate);
    }
    if (of->to) {
        write_numbers(of->to, 0, channels, at.sum, RONDO_F32);
        of->to[channels] = at.a_sum;
    }
}

/* The tree over heads: whatever is complete of what came so far is added up. */
VEC vf over_heads(const struct rondo_delta_backward_keys *of, const float *sums)
{
    vf stack[32] = { over_leaves(sums, of->leaves, of->sums_leaf) };
    int depth = 1;
    for (int64_t h = 1; h < of->heads; h++) {
        stack[depth++] = over_leaves(sums + h * of->sums_head, of->leaves, of->sums_leaf);
        for (int64_t n = h; n & 1; n >>= 1, depth--)
            stack[depth - 2] = vf_add(stack[depth - 2], stack[depth - 1]);
    }
    for (; depth > 1; depth--)
        stack[depth - 2] = vf_add(stack[depth - 2], stack[depth - 1]);
    return stack[0];
}

static void key_row(const struct rondo_delta_backward_keys *of, const float *sums, const void *from, int64_t place, void *to, int64_t to_place, int type)
{
    const struct rondo_delta_form *f = of->form;
    const int64_t padded = up(f->key_dim, LANES);
    float x[512 + LANES], dy[512 + LANES], lanes[LANES];
    vf acc[PARTS];
    for (int64_t d = 0; d < padded; d += VL)
        vf_store(dy + d, over_heads(of, sums + d));
    if (f->norm) {
        read_numbers(x, padded, from, place, f->key_dim, f->type);
        squares_of(x, 0, padded, RONDO_F32, lanes);
        const vf by = vf_set1(1.0f / __builtin_sqrtf(fold_lanes(lanes) + RONDO_CPU_DELTA_EPS));
        UNROLL
        for (int l = 0; l < PARTS; l++)
            acc[l] = vf_zero();
        for (int64_t d = 0; d < padded; d += LANES)
            UNROLL
            for (int l = 0; l < PARTS; l++) {
                const int64_t left = f->key_dim - d - l * VL;
                const vf y = vf_mul(vf_load(x + d + l * VL), by);
                add_up(0, &acc[l], y, vf_load(dy + d + l * VL), vm_first(left > VL ? VL : left < 0 ? 0 : (int)left));
                vf_store(x + d + l * VL, y);
            }
        UNROLL
        for (int l = 0; l < PARTS; l++)
            vf_store(lanes + l * VL, acc[l]);
        const vf m = vf_set1(fold_lanes(lanes));
        for (int64_t d = 0; d < padded; d += VL)
            vf_store(dy + d, vf_mul(vf_fma(vf_neg(vf_load(x + d)), m, vf_load(dy + d)), by));
    }
    put(to, to_place, f->key_dim, dy, type, of->accumulate);
}

static void keys(const struct rondo_delta_backward_keys *of)
{
    const int64_t padded = up(of->form->key_dim, LANES);
    for (int64_t i = 0; i < of->rows; i++) {
        const float *sums = of->sums + i * of->sums_token;
        key_row(of, sums, of->q, i * of->q_stride, of->dq, i * of->dq_stride, of->q_type);
        key_row(of, sums + padded, of->k, i * of->k_stride, of->dk, i * of->dk_stride, of->k_type);
    }
}

extern const struct rondo_cpu_delta_backward RONDO_ISA_TABLE(delta_backward);
const struct rondo_cpu_delta_backward RONDO_ISA_TABLE(delta_backward) = { bytes, columns, gates, keys };
