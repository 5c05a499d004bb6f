/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Linear layers in vectors, compiled once for each instruction set: the bits of ref_linear.c. Vectors run
 * across outputs, so every lane is one output's own chain; x is broadcast. A tile of up to 12 rows (6 with 8
 * lanes) by two vectors lives in named registers for one leaf of the sum; its epilogue merges finished leaves
 * from the tile's stack (the canonical tree as a binary counter). Called by linear_ops.c.
 *
 * x is packed beforehand, tile by tile, as [step][row] with the steps in the order of the contract
 * (1,0,3,2,... in each leaf), so that the broadcasts read memory straight on. Weights of 16 and 8 bits are widened
 * in registers; where they serve many rows the first tile leaves them behind as floats for the others.
 *
 * Where there are many rows the loops are, from without: some panels, leaves (cut to STEPS), panels, tiles. Then the steps' x of all tiles,
 * which lies together, stays in the second-level cache for all of these panels, the panel's steps in the first and second one for all
 * tiles, and weights are fetched from memory once, ahead of time (Goto and van de Geijn, 2008, but with a stack of nodes in place of C).
 */
#include "backends/cpu/vec.h"
#include "backends/cpu/layers.h"

#define PANEL RONDO_CPU_PANEL
/* Steps of a longer leaf that are done at a time for all tiles: at most 64 KiB of weights. Even, for the pairs. */
#define STEPS 512
/* So few tiles read weights straight on from memory, the second one what the first one has read from the nearest cache: FEW_STEPS at a time. */
#define FEW_TILES 2
#define FEW_STEPS 128
/* Tiles from which on the first one widens weights for all of them. */
#define WIDE_TILES 3
/* Bytes that weights are fetched ahead: into the nearest cache where the same ones serve several tiles (more, or only into the second-level
 * one, measured slower with 512 rows), and from memory into the second-level cache where few tiles read panels from end to end (Emerald
 * Rapids: M = 1 of bf16 .85 -> .92 of what memory gives, M = 8 of floats .76 -> .85; 16 and 64 KiB were alike). */
#define AHEAD 4096
#define FAR_AHEAD 32768
/* ... and that x is fetched ahead, from the second-level cache. */
#define X_AHEAD 1024
/* Blocks of VL steps that packing fetches room for ahead: its stores would wait for their lines otherwise, twice as long as it computes. */
#define PACK_AHEAD 2

#if VL == 16
#define TILE 12
#else
#define TILE 6
#endif
#define NODE (TILE * PANEL)         /* floats of a node of the tree */

/* ---- the tile in registers ---- */

/* What the steps of a tile run over. */
struct steps {
    const float *x;
    int64_t count, group;              /* group: of Q8 */
    const char *next, *next_end;
    int lines;                         /* of it for two steps, of floats */
    bool far;                          /* weights come from memory, one after another */
};
/* Rows from which on there is time to fetch what comes after. */
#define MANY_ROWS (VL == 16 ? 6 : 4)

#define COLUMNS_2(F, r) F(r, 0) F(r, 1)
#define COLUMNS_4(F, r) COLUMNS_2(F, r) F(r, 2) F(r, 3)
#define WEIGHTS_2(r) WEIGHTS(r, 0, w0, w1)
#define WEIGHTS_4(r) WEIGHTS_2(r) WEIGHTS(r, 1, w2, w3)
#define ROWS_1(M, C) M(C, 0)
#define ROWS_2(M, C) ROWS_1(M, C) M(C, 1)
#define ROWS_3(M, C) ROWS_2(M, C) M(C, 2)
#define ROWS_4(M, C) ROWS_3(M, C) M(C, 3)
#define ROWS_5(M, C) ROWS_4(M, C) M(C, 4)
#define ROWS_6(M, C) ROWS_5(M, C) M(C, 5)
#define ROWS_8(M, C) ROWS_6(M, C) M(C, 6) M(C, 7)
#define ROWS_10(M, C) ROWS_8(M, C) M(C, 8) M(C, 9)
#define ROWS_12(M, C) ROWS_10(M, C) M(C, 10) M(C, 11)

#define CELL(r, c) (node + (r) * PANEL + (c) % 2 * second_of_pair + (c) / 2 * second_pair)
#define CELL_ZERO(r, c) vf a##r##_##c = vf_zero();
#define CELL_RESUME(r, c) a##r##_##c = vf_load(CELL(r, c));
#define CELL_FMA(r, c) vf_fma_into(&a##r##_##c, b, w##c);
#define CELL_MERGE(r, c) a##r##_##c = vf_add(vf_load(CELL(r, c)), a##r##_##c);
#define CELL_STORE(r, c) vf_store(CELL(r, c), a##r##_##c);
#define ROW_ZERO(C, r) COLUMNS_##C(CELL_ZERO, r)
#define ROW_RESUME(C, r) COLUMNS_##C(CELL_RESUME, r)
#define ROW_MERGE(C, r) COLUMNS_##C(CELL_MERGE, r)
#define ROW_STORE(C, r) COLUMNS_##C(CELL_STORE, r)
#define ROW_FMA(C, r) { const vf b = vf_set1(x[r]); COLUMNS_##C(CELL_FMA, r) }
#define WEIGHTS(r, pair, first, second)                                                                      \
    vf first, second;                                                                                        \
    weights(w, (r) * PANEL + (pair) * 2 * VL, type, scales + (pair) * 2 * VL, &first, &second);              \
    if (wide) {                                                                                              \
        vf_store(wide + (r) * PANEL + (pair) * second_pair, first);                                          \
        vf_store(wide + (r) * PANEL + (pair) * second_pair + second_of_pair, second);                        \
    }
#define BYTES(type) ((type) == RONDO_F32 ? sizeof(float) : (type) == RONDO_Q8 ? 1 : sizeof(uint16_t))

/* Two vectors of weights. Those of bf16 share 32-bit lanes (layers.h); those of Q8 have scales. */
VEC void weights(const void *w, int at, int type, const float *scales, vf *first, vf *second)
{
    if (type == RONDO_BF16) {
        vf_from_bf16_pairs((const uint16_t *)w + at, first, second);
    } else if (type == RONDO_Q8) {
        *first = vf_mul(vf_from_i8((const int8_t *)w + at), vf_load(scales));
        *second = vf_mul(vf_from_i8((const int8_t *)w + at + VL), vf_load(scales + VL));
    } else {
        *first = vf_element(w, at, type);
        *second = vf_element(w, at + VL, type);
    }
}

/* `count` steps over weights w (PANEL elements apart; of Q8 in groups behind their scales) and packed x, into the node on top of the tile's
 * stack. resume: goes on from what the node holds, else from +0. Then merges with as many nodes below it and stores there. Meanwhile a line
 * after another from `next` to `next_end` is fetched. type is a constant wherever this is used. Outputs of the two vectors of a pair, and of two pairs,
 * are so far apart in a node: */
#define SECOND_OF_PAIR (type == RONDO_BF16 ? 16 : VL)
#define SECOND_PAIR (type == RONDO_BF16 ? VL : 2 * VL)
#define DEFINE_TILE(name, n, C)                                                                              \
    VEC void name(const struct steps *s, const void *w, int type, int half, float *node, int merges, int resume, float *wide) \
    {                                                                                                        \
        const size_t step = PANEL * BYTES(type);                                                             \
        const float *x = s->x, *scales = x;                                                                  \
        const char *next = s->next;                                                                          \
        int64_t left = s->count;                                                                             \
        const int second_of_pair = SECOND_OF_PAIR, second_pair = SECOND_PAIR;                                \
        (void)second_pair;                                                                                   \
        ROWS_##n(ROW_ZERO, C)                                                                                \
        if (resume) {                                                                                        \
            ROWS_##n(ROW_RESUME, C)                                                                          \
        }                                                                                                    \
        do {                                                                                                 \
            int64_t count = left;                                                                            \
            if (type == RONDO_Q8) {                                                                          \
                count = s->group < left ? s->group : left;                                                   \
                scales = (const float *)(const void *)((const char *)w - half) + half;                       \
                w = (const char *)w + RONDO_CPU_SCALES;                                                      \
            }                                                                                                \
            left -= count;                                                                                   \
            for (; count >= 2; count -= 2) {                                                                 \
                for (size_t line = 0; line < 2 * step; line += 64)                                           \
                    if (s->far)                                                                              \
                        __builtin_prefetch((const char *)w + FAR_AHEAD + line, 0, 2);                        \
                    else                                                                                     \
                        __builtin_prefetch((const char *)w + AHEAD + line, 0, 3);                            \
                if (n >= MANY_ROWS && !s->far) {                                                             \
                    for (size_t line = 0; line < 2 * n * sizeof *x; line += 64)                              \
                        __builtin_prefetch((const char *)x + X_AHEAD + line, 0, 3);                          \
                    for (int line = 0; line < (type == RONDO_F32 ? s->lines : 1); line++) {                  \
                        __builtin_prefetch(next, 0, 2);                                                      \
                        next += next < s->next_end ? 64 : 0;                                                 \
                    }                                                                                        \
                }                                                                                            \
                {                                                                                            \
                    WEIGHTS_##C(1)                                                                           \
                    ROWS_##n(ROW_FMA, C)                                                                     \
                }                                                                                            \
                x += n;                                                                                      \
                {                                                                                            \
                    WEIGHTS_##C(0)                                                                           \
                    ROWS_##n(ROW_FMA, C)                                                                     \
                }                                                                                            \
                x += n;                                                                                      \
                w = (const char *)w + 2 * step;                                                              \
                if (wide)                                                                                    \
                    wide += 2 * PANEL;                                                                       \
            }                                                                                                \
            if (count) {                                                                                     \
                WEIGHTS_##C(0)                                                                               \
                ROWS_##n(ROW_FMA, C)                                                                         \
                x += n;                                                                                      \
                w = (const char *)w + step;                                                                  \
                if (wide)                                                                                    \
                    wide += PANEL;                                                                           \
            }                                                                                                \
        } while (type == RONDO_Q8 && left);                                                                  \
        for (; merges > 0; merges--) {                                                                       \
            node -= NODE;                                                                                    \
            ROWS_##n(ROW_MERGE, C)                                                                           \
        }                                                                                                    \
        ROWS_##n(ROW_STORE, C)                                                                               \
    }

#if VL == 16

DEFINE_TILE(tile_1, 1, 2)
DEFINE_TILE(tile_2, 2, 2)
DEFINE_TILE(tile_3, 3, 2)
DEFINE_TILE(tile_4, 4, 2)
DEFINE_TILE(tile_5, 5, 2)
DEFINE_TILE(tile_6, 6, 2)
DEFINE_TILE(tile_8, 8, 2)
DEFINE_TILE(tile_10, 10, 2)
DEFINE_TILE(tile_12, 12, 2)
#define TILE_CASES(F) F(1) F(2) F(3) F(4) F(5) F(6) F(8) F(10) F(12)

#else

/* Half a panel at a time, which is 16 / VL vectors: with 8 lanes from 3 rows on, there being 16 registers; with 4 lanes always. */
#define DEFINE_HALVES(name, tile)                                                                            \
    VEC void name(const struct steps *s, const void *w, int type, int half, float *node, int merges, int resume, float *wide) \
    {                                                                                                        \
        tile(s, w, type, half, node, merges, resume, wide);                                                  \
        tile(s, (const char *)w + PANEL / 2 * BYTES(type), type, half + PANEL / 2, node + (8 / VL) * SECOND_PAIR, merges, resume, \
             wide ? wide + (8 / VL) * SECOND_PAIR : NULL);                                                   \
    }
#if VL == 8
DEFINE_TILE(tile_1, 1, 4)
DEFINE_TILE(tile_2, 2, 4)
DEFINE_TILE(half_3, 3, 2)
DEFINE_TILE(half_4, 4, 2)
DEFINE_TILE(half_5, 5, 2)
DEFINE_TILE(half_6, 6, 2)
#else
DEFINE_TILE(half_1, 1, 4)
DEFINE_TILE(half_2, 2, 4)
DEFINE_TILE(half_3, 3, 4)
DEFINE_TILE(half_4, 4, 4)
DEFINE_TILE(half_5, 5, 4)
DEFINE_TILE(half_6, 6, 4)
DEFINE_HALVES(tile_1, half_1)
DEFINE_HALVES(tile_2, half_2)
#endif
DEFINE_HALVES(tile_3, half_3)
DEFINE_HALVES(tile_4, half_4)
DEFINE_HALVES(tile_5, half_5)
DEFINE_HALVES(tile_6, half_6)
#define TILE_CASES(F) F(1) F(2) F(3) F(4) F(5) F(6)

#endif

static int64_t padded(int64_t rows)
{
    return rondo__cpu_padded(TILE, rows);
}

#define TILE_CASE(n)                                                                                         \
    case n:                                                                                                  \
        tile_##n(s, w, TYPE, 0, node, merges, resume, NULL);                                                 \
        break;
/* What the first tile does besides: its weights, widened, go to `wide` for the others. It is not the last tile, so it has all its rows. */
#define WIDENING_TILE(n) tile_##n
#define WIDENING_OF(n) WIDENING_TILE(n)
#define DEFINE_WIDENING(name)                                                                                \
    static void name(const struct steps *s, const void *w, float *node, int merges, int resume, float *wide) \
    {                                                                                                        \
        WIDENING_OF(TILE)(s, w, TYPE, 0, node, merges, resume, wide);                                        \
    }
typedef void tile_function(int64_t rows, const struct steps *s, const void *w, float *node, int merges, int resume);
typedef void widening_function(const struct steps *s, const void *w, float *node, int merges, int resume, float *wide);
#define DEFINE_SWITCH(name)                                                                                  \
    static void name(int64_t rows, const struct steps *s, const void *w, float *node, int merges, int resume) \
    {                                                                                                        \
        switch (rows) {                                                                                      \
            TILE_CASES(TILE_CASE)                                                                            \
        }                                                                                                    \
    }

#define TYPE RONDO_F32
DEFINE_SWITCH(tile_f32)
#undef TYPE
#define TYPE RONDO_BF16
DEFINE_SWITCH(tile_bf16)
DEFINE_WIDENING(widening_bf16)
#undef TYPE
#define TYPE RONDO_F16
DEFINE_SWITCH(tile_f16)
DEFINE_WIDENING(widening_f16)
#undef TYPE
#define TYPE RONDO_Q8
DEFINE_SWITCH(tile_q8)
DEFINE_WIDENING(widening_q8)

/* ---- packing x ---- */

/* Rows of all of a job's tiles: [leaf][tile][step][row of the tile], so that a leaf's x lies together. */
static int64_t padded_of(const struct rondo_cpu_linear_job *job)
{
    return (job->tiles - 1) * TILE + padded(rondo__cpu_tile_begin(job, job->tiles) - rondo__cpu_tile_begin(job, job->tiles - 1));
}

/* VL steps of up to VL rows of a tile that has n, of which the last may be none of x: zeros. */
static void pack_block(const struct rondo_cpu_linear_job *job, int64_t row, int64_t rows, int64_t k, int lanes, int64_t n, float *to)
{
    const vm stored = vm_first(lanes);
    vf x[VL];

    UNROLL
    for (int r = 0; r < VL; r++)
        x[r] = r < rows ? vf_load(job->x + (row + r) * job->x_stride + k) : vf_zero();
    vf_transpose(x);
    UNROLL
    for (int i = 0; i < VL; i++)
        vf_store_mask(to + (i ^ 1) * n, stored, x[i]);
}

/* The last steps of a leaf, fewer than VL. */
static void pack_rest(const struct rondo_cpu_linear_job *job, int64_t row, int64_t rows, int64_t n, int64_t k, int64_t count, float *to)
{
    for (int64_t i = 0; i < count; i++)
        for (int64_t r = 0; r < n; r++)
            to[((i ^ 1) < count ? i ^ 1 : i) * n + r] = r < rows ? job->x[(row + r) * job->x_stride + k + i] : 0.0f;
}

static void pack(const struct rondo_cpu_linear_job *job, int64_t t)
{
    const struct rondo_device_linear *l = job->linear;
    int64_t row = rondo__cpu_tile_begin(job, t), rows = rondo__cpu_tile_begin(job, t + 1) - row,
            n = padded(rows);
    const int64_t begin = rondo__cpu_leaf_begin(l, job->leaf0);
    const int64_t padded_rows = padded_of(job);

    for (int64_t g = job->leaf0; g < job->leaf1; g++) {
        int64_t k0 = rondo__cpu_leaf_begin(l, g) - begin, k1 = rondo__cpu_leaf_begin(l, g + 1) - begin;
        float *to = job->packed + k0 * padded_rows + t * TILE * (k1 - k0) - k0 * n;
        for (int64_t k = k0; k < k1; k += VL) {
            for (size_t line = 0; line < (size_t)n * VL * sizeof *to; line += 64)
                __builtin_prefetch((const char *)(to + (k + PACK_AHEAD * VL) * n) + line, 1, 3);
            if (k1 - k < VL)
                pack_rest(job, row, rows, n, k, k1 - k, to + k * n);
            else
                for (int64_t r = 0; r < n; r += VL)
                    pack_block(job, row + r, rows - r, k, n - r < VL ? (int)(n - r) : VL, n, to + k * n + r);
        }
    }
}

/* ---- panels ---- */

/* The panels' steps widened, then for each panel and tile its stack of nodes. */
#define WIDE ((size_t)STEPS * PANEL)

/* Of a tile's stack, with room for the leaf that comes upon it. */
static int64_t depth_of(const struct rondo_cpu_linear_job *job)
{
    return job->depth ? job->depth : rondo__cpu_tree_depth(job->leaf1 - job->leaf0) + 1;
}

static bool bytes(const struct rondo_cpu_linear_job *job, int64_t panels, int64_t tiles, size_t *out)
{
    size_t floats;
    return rondo__mul((size_t)tiles * NODE, (size_t)panels, &floats) &&
           rondo__mul(floats, (size_t)depth_of(job), &floats) && rondo__add(floats, WIDE, &floats) &&
           rondo__mul(floats, sizeof(float), out);
}

/* The rest of the tree, bias, what y held, and out. */
static void finish(const struct rondo_cpu_linear_job *job, int64_t panel, int64_t row, int64_t rows,
                   const float *stack, int nodes)
{
    int64_t first = panel * PANEL;

    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < PANEL && first + c < job->linear->out; c += VL) {
            const float *node = stack + (nodes - 1) * NODE + r * PANEL + c;
            int64_t o = first + c;
            float *y = job->y + (row + r) * job->y_stride + o;
            vm lanes = vm_first(job->linear->out - o < VL ? (int)(job->linear->out - o) : VL);
            vf sum = vf_load(node);
            for (int n = nodes - 2; n >= 0; n--) {
                node -= NODE;
                sum = vf_add(vf_load(node), sum);
            }
            if (job->bias)
                sum = vf_add(sum, vf_load_mask(job->bias + o, lanes));
            if (job->add)
                sum = vf_add(vf_load_mask(y, lanes), sum);
            vf_store_mask(y, lanes, vf_canonical(sum));
        }
}

static void widen(const struct rondo_device_linear *l, const void *w, int64_t i, int64_t count, float *to, int64_t stride)
{
    if (l->type == RONDO_BF16) {
        const uint16_t *from = (const uint16_t *)w + i * PANEL;
        for (int64_t k = 0; k < count; k++, from += PANEL, to += stride)
            for (int j = 0; j < 16; j += VL) {
                vf a, b;
                vf_from_bf16_pairs(from + 2 * j, &a, &b);
                vf_store(to + j, a);
                vf_store(to + 16 + j, b);
            }
    } else if (l->type != RONDO_Q8) {
        for (int64_t k = 0; k < count; k++, to += stride)
            for (int j = 0; j < PANEL; j += VL)
                vf_store(to + j, vf_element(w, (i + k) * PANEL + j, l->type));
    } else {
        for (int64_t first = i - i % l->group; first < i + count; first += l->group) {
            const char *group = (const char *)w + rondo__cpu_columns(l, first);
            const int64_t k0 = first < i ? i : first, k1 = first + l->group < i + count ? first + l->group : i + count;
            for (int j = 0; j < PANEL; j += VL) {
                const vf scale = vf_load((const float *)(const void *)group + j);
                const int8_t *from = (const int8_t *)group + RONDO_CPU_SCALES + j;
                for (int64_t k = k0; k < k1; k++)
                    vf_store(to + (k - i) * stride + j, vf_mul(vf_from_i8(from + (k - first) * PANEL), scale));
            }
        }
    }
}

/* Some panels x some tiles on their way: what they run on. */
struct item {
    const struct rondo_cpu_linear_job *job;
    int64_t panel0, panel1, tile0, tiles;
    int64_t depth;
    bool few, wide;
    float *widened, *stacks;
    tile_function *tile;
    widening_function *widening;
};

/* A piece of a leaf: its steps [first, end) with what lies before them in x, and where their sums go. */
struct piece {
    int32_t leaf;
    int64_t at, count, first, end;      /* where the leaf begins in the job's steps; its steps; the piece's own */
    const float *x;                     /* of the leaf */
    bool fused;                         /* the first tile widens for all */
    bool last;                          /* of the sum */
    int nodes, merges;                  /* on the stack below; to be joined with when this is the end of the leaf */
};

/* Steps of a leaf that are done at a time: pieces of one length, of whole groups where the scales are behind them. */
static int64_t steps_of(const struct rondo_device_linear *l, int64_t count, int64_t tiles, bool wide)
{
    const int64_t most = tiles > FEW_TILES ? STEPS : FEW_STEPS, pieces = (count + most - 1) / most;
    int64_t unit = 2;

    if (tiles == 1 || count <= most)
        return count;
    if (l->type == RONDO_Q8 && !(wide && l->group > STEPS))
        unit = l->group < count ? l->group : count;
    const int64_t steps = ((count + pieces - 1) / pieces + unit - 1) / unit * unit;
    return wide && steps > STEPS ? STEPS / unit * unit : steps;
}

/* Weights that come after a piece of a panel: the same steps of the next panel, or after the last one what comes next in the first; or
 * what another item begins with. */
static const char *after(const struct item *item, const struct piece *p, int64_t panel)
{
    const struct rondo_cpu_linear_job *job = item->job;
    const struct rondo_device_linear *l = job->linear;

    if (panel + 1 < item->panel1)
        return (const char *)rondo__cpu_leaf_at(l, panel + 1, p->leaf) + rondo__cpu_columns(l, p->first);
    if (!p->last)
        return (const char *)rondo__cpu_leaf_at(l, item->panel0, p->leaf) + rondo__cpu_columns(l, p->end);
    return item->panel1 < l->panels ? rondo__cpu_leaf_at(l, item->panel1, (int32_t)job->leaf0) : NULL;
}

/* All tiles of a panel, which meanwhile fetch what comes after, each a share. */
static void run_piece(const struct item *item, const struct piece *p, int64_t panel)
{
    const struct rondo_cpu_linear_job *job = item->job;
    const struct rondo_device_linear *l = job->linear;
    const char *w = rondo__cpu_leaf_at(l, panel, p->leaf), *at = w + rondo__cpu_columns(l, p->first);
    const char *next = item->few ? at + FAR_AHEAD : after(item, p, panel);
    const size_t lines = (rondo__cpu_columns(l, p->end) - rondo__cpu_columns(l, p->first)) / 64, tiles = (size_t)item->tiles;
    const size_t share = next ? (lines + tiles) / tiles * 64 : 0;
    const int merges = p->end == p->count ? p->merges : 0;

    if (job->bring)
        job->bring(job->bring_arg, panel, p->at + p->first, p->at + p->end);
    if (item->wide && !p->fused)
        widen(l, w, p->first, p->end - p->first, item->widened, PANEL);
    for (int64_t t = 0; t < item->tiles; t++) {
        const int64_t row = rondo__cpu_tile_begin(job, item->tile0 + t), rows = rondo__cpu_tile_begin(job, item->tile0 + t + 1) - row;
        size_t bytes = share;
        const char *asked = job->bring ? job->ahead(job->bring_arg, panel, p->at + p->first, p->at + p->end, t, &bytes) : NULL;
        const char *from = asked ? asked : next ? next + (size_t)t * share : at;
        const struct steps s = { p->x + (item->tile0 + t) * TILE * p->count + p->first * padded(rows), p->end - p->first, l->group, from,
                                 from + bytes, item->few ? 2 : 1, item->tiles == 1 };
        float *stack = item->stacks + ((panel - item->panel0) * item->tiles + t) * item->depth * NODE, *node = stack + p->nodes * NODE;
        for (int64_t r = 0; p->last && r < rows; r++)   /* what finish() writes, and where it adds reads, comes while the tile computes */
            for (int line = 0; line < PANEL; line += 16)
                __builtin_prefetch(job->y + (row + r) * job->y_stride + panel * PANEL + line, 1, 3);
        if (p->fused && !t)
            item->widening(&s, at, node, merges, p->first > 0, item->widened);
        else if (item->wide)
            tile_f32(padded(rows), &s, item->widened, node, merges, p->first > 0);
        else
            item->tile(padded(rows), &s, at, node, merges, p->first > 0);
        if (p->last)
            finish(job, panel, row, rows, stack, p->nodes + 1 - merges);
    }
}

static int run_panels(const struct rondo_cpu_linear_job *job, int64_t panel0, int64_t panel1, int64_t tile0, int64_t tile1, void *scratch,
                      const struct rondo_poll *poll)
{
    const struct rondo_device_linear *l = job->linear;
    const int64_t leaves = job->leaf1 - job->leaf0, tiles = tile1 - tile0, begin = rondo__cpu_leaf_begin(l, job->leaf0);
    struct item item = { job, panel0, panel1, tile0, tiles, depth_of(job), tiles <= FEW_TILES,
                         l->type != RONDO_F32 && tiles >= WIDE_TILES, scratch, (float *)scratch + WIDE, tile_f32, NULL };
    int64_t work = 0;                      /* since the last poll */
    int nodes = 0;

    if (l->type != RONDO_F32) {
        item.tile = l->type == RONDO_BF16 ? tile_bf16 : l->type == RONDO_F16 ? tile_f16 : tile_q8;
        item.widening = l->type == RONDO_BF16 ? widening_bf16 : l->type == RONDO_F16 ? widening_f16 : widening_q8;
    }
    for (int64_t g = 0; g < leaves; g++) {
        const int32_t leaf = (int32_t)(job->leaf0 + g);
        const int64_t k0 = rondo__cpu_leaf_begin(l, leaf), count = rondo__cpu_leaf_begin(l, leaf + 1) - k0;
        const int64_t steps = steps_of(l, count, tiles, item.wide);
        struct piece p = { .leaf = leaf, .at = k0 - begin, .count = count, .x = job->packed + (k0 - begin) * padded_of(job), .nodes = nodes };
        p.fused = item.wide && (l->type != RONDO_Q8 || steps == count || steps % l->group == 0);   /* no group is cut */
        p.merges = rondo__cpu_leaf_merges(job, leaf);
        for (; p.first < count; p.first = p.end) {
            p.end = count - p.first < steps ? count : p.first + steps;
            p.last = g + 1 == leaves && p.end == count;
            for (int64_t panel = panel0; panel < panel1; panel++) {
                run_piece(&item, &p, panel);
                work += (p.end - p.first) * PANEL * TILE * tiles;
                if (!poll || work < RONDO_CPU_POLL_WORK)
                    continue;
                work = 0;
                const int err = poll->call(poll->arg);
                if (err)
                    return err;
            }
        }
        nodes += 1 - p.merges;
    }
    return 0;
}

/* Where there is hardly a tile more than one, a panel is read from end to end. */
static int run(const struct rondo_cpu_linear_job *job, int64_t panel0, int64_t panel1, int64_t tile0, int64_t tile1, void *scratch,
               const struct rondo_poll *poll)
{
    const int64_t some = tile1 - tile0 > FEW_TILES ? panel1 - panel0 : 1;
    int err = 0;
    for (int64_t panel = panel0; panel < panel1 && !err; panel += some)
        err = run_panels(job, panel, panel + some, tile0, tile1, scratch, poll);
    return err;
}

/* ---- joining nodes ---- */

/* Vectors of one row that are joined at a time: their stack stays in the first-level cache, and each node is read in whole cache lines. */
#define JOIN 4

static void join(const struct rondo_linear_join *job, int64_t row0, int64_t row1, int64_t column0, int64_t column1)
{
    vf stack[RONDO_LINEAR_DEPTH][JOIN];

    for (int64_t row = row0; row < row1; row++)
        for (int64_t first = column0; first < column1; first += JOIN * VL) {
            vm lanes[JOIN];
            int depth = 0;
            for (int v = 0; v < JOIN; v++) {
                const int64_t left = column1 - first - v * VL;
                lanes[v] = vm_first(left > VL ? VL : left < 0 ? 0 : (int)left);
            }
            for (int32_t i = 0; i < job->count; i++) {
                const float *node = job->nodes[i].data + row * job->nodes[i].stride + first;
                for (int v = 0; v < JOIN; v++)
                    stack[depth][v] = vf_load_mask(node + v * VL, lanes[v]);
                for (int32_t m = job->nodes[i].merges; m > 0; m--, depth--)
                    for (int v = 0; v < JOIN; v++)
                        stack[depth - 1][v] = vf_add(stack[depth - 1][v], stack[depth][v]);
                depth++;
            }
            for (depth--; depth > 0; depth--)
                for (int v = 0; v < JOIN; v++)
                    stack[depth - 1][v] = vf_add(stack[depth - 1][v], stack[depth][v]);
            for (int v = 0; v < JOIN; v++) {
                float *y = job->y + row * job->y_stride + first + v * VL;
                vf sum = stack[0][v];
                if (job->bias)
                    sum = vf_add(sum, vf_load_mask(job->bias + first + v * VL, lanes[v]));
                if (job->add)
                    sum = vf_add(vf_load_mask(y, lanes[v]), sum);
                vf_store_mask(y, lanes[v], vf_canonical(sum));
            }
        }
}

extern const struct rondo_cpu_linear RONDO_ISA_TABLE(linear);
const struct rondo_cpu_linear RONDO_ISA_TABLE(linear) = { TILE, pack, bytes, run, widen, join };
