/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Linear layers in vectors, compiled once for each instruction set: the bits of ref_linear.c. Vectors run across outputs, so
 * every lane is one output's own chain; x is broadcast. A tile of up to 12 rows (6 with 8 lanes) by two vectors lives in
 * named registers for one leaf of the sum; its epilogue merges finished leaves from the tile's stack (the canonical tree as
 * a binary counter). Called by linear_ops.c.
 *
 * x is packed beforehand, tile by tile, as [step][row] with the steps in the order of the contract (1,0,3,2,... in each leaf), so that
 * the broadcasts read memory straight on. Weights of 16 bits are widened in registers where one tile is all there is
 * (decoding: the weights stream from memory once), else once per leaf for all tiles.
 */
#include "backends/cpu/vec.h"
#include "backends/cpu/layers.h"

#define PANEL RONDO_CPU_PANEL
#define CHUNK 512                   /* steps of a longer leaf that are done at a time: 64 KiB of weights; even, for the pairs */
#define AHEAD 16384                 /* bytes; into the second-level cache: the first has too few line buffers for that */

#if VL == 16
#define TILE 12
#else
#define TILE 6
#endif

/* ---- the tile in registers ---- */

#define COLUMNS_2(F, r) F(r, 0) F(r, 1)
#define COLUMNS_4(F, r) F(r, 0) F(r, 1) F(r, 2) F(r, 3)
#define ROWS_1(M, C) M(C, 0)
#define ROWS_2(M, C) ROWS_1(M, C) M(C, 1)
#define ROWS_3(M, C) ROWS_2(M, C) M(C, 2)
#define ROWS_4(M, C) ROWS_3(M, C) M(C, 3)
#define ROWS_5(M, C) ROWS_4(M, C) M(C, 4)
#define ROWS_6(M, C) ROWS_5(M, C) M(C, 5)
#define ROWS_8(M, C) ROWS_6(M, C) M(C, 6) M(C, 7)
#define ROWS_10(M, C) ROWS_8(M, C) M(C, 8) M(C, 9)
#define ROWS_12(M, C) ROWS_10(M, C) M(C, 10) M(C, 11)

#define CELL_ZERO(r, c) vf a##r##_##c = vf_zero();
#define CELL_RESUME(r, c) a##r##_##c = vf_load(node + (r) * PANEL + (c) * VL);
#define CELL_FMA(r, c) a##r##_##c = vf_fma(b, w##c, a##r##_##c);
#define CELL_MERGE(r, c) a##r##_##c = vf_add(vf_load(node + (r) * PANEL + (c) * VL), a##r##_##c);
#define CELL_STORE(r, c) vf_store(node + (r) * PANEL + (c) * VL, a##r##_##c);
#define ROW_ZERO(C, r) C(CELL_ZERO, r)
#define ROW_RESUME(C, r) C(CELL_RESUME, r)
#define ROW_MERGE(C, r) C(CELL_MERGE, r)
#define ROW_STORE(C, r) C(CELL_STORE, r)
#define ROW_FMA(C, r) { const vf b = vf_set1(x[r]); C(CELL_FMA, r) }
#define WEIGHT(r, c) const vf w##c = vf_element(w, (r) * PANEL + (c) * VL, type);

/* `count` steps over weights w (row pitch PANEL elements) and packed x. resume: goes on from the node in memory, else from +0.
 * Then merges with as many nodes below it on the stack, `pitch` floats apart, and stores there. stream: w comes from memory.
 * type and stream are constants wherever this is used. */
#define DEFINE_TILE(name, n, C)                                                                                           \
    VEC void name(const float *x, const void *w, int type, int stream, int64_t count, float *node, int64_t pitch,       \
                  int merges, int resume)                                                                                \
    {                                                                                                                     \
        const size_t step = PANEL * (type == RONDO_F32 ? sizeof(float) : sizeof(uint16_t));                               \
        ROWS_##n(ROW_ZERO, C)                                                                                             \
        if (resume) {                                                                                                     \
            ROWS_##n(ROW_RESUME, C)                                                                                       \
        }                                                                                                                 \
        for (; count >= 2; count -= 2) {                                                                                  \
            if (stream)                                                                                                   \
                for (size_t line = 0; line < 2 * step; line += 64)                                                        \
                    __builtin_prefetch((const char *)w + AHEAD + line, 0, 2);                                             \
            {                                                                                                             \
                C(WEIGHT, 1)                                                                                              \
                ROWS_##n(ROW_FMA, C)                                                                                      \
            }                                                                                                             \
            x += n;                                                                                                       \
            {                                                                                                             \
                C(WEIGHT, 0)                                                                                              \
                ROWS_##n(ROW_FMA, C)                                                                                      \
            }                                                                                                             \
            x += n;                                                                                                       \
            w = (const char *)w + 2 * step;                                                                               \
        }                                                                                                                 \
        if (count) {                                                                                                      \
            C(WEIGHT, 0)                                                                                                  \
            ROWS_##n(ROW_FMA, C)                                                                                          \
        }                                                                                                                 \
        for (; merges > 0; merges--) {                                                                                    \
            node -= pitch;                                                                                                \
            ROWS_##n(ROW_MERGE, C)                                                                                        \
        }                                                                                                                 \
        ROWS_##n(ROW_STORE, C)                                                                                            \
    }

#if VL == 16

DEFINE_TILE(tile_1, 1, COLUMNS_2)
DEFINE_TILE(tile_2, 2, COLUMNS_2)
DEFINE_TILE(tile_3, 3, COLUMNS_2)
DEFINE_TILE(tile_4, 4, COLUMNS_2)
DEFINE_TILE(tile_5, 5, COLUMNS_2)
DEFINE_TILE(tile_6, 6, COLUMNS_2)
DEFINE_TILE(tile_8, 8, COLUMNS_2)
DEFINE_TILE(tile_10, 10, COLUMNS_2)
DEFINE_TILE(tile_12, 12, COLUMNS_2)
#define TILE_CASES(F) F(1) F(2) F(3) F(4) F(5) F(6) F(8) F(10) F(12)

/* Rows that a tile of so many is computed as; the extra ones are zeros. */
static int64_t padded(int64_t rows)
{
    return rows <= 6 ? rows : (rows + 1) / 2 * 2;
}

#else

/* 16 registers: half a panel at a time from 3 rows on. */
#define DEFINE_HALVES(name, half)                                                                                         \
    VEC void name(const float *x, const void *w, int type, int stream, int64_t count, float *node, int64_t pitch,       \
                  int merges, int resume)                                                                                \
    {                                                                                                                     \
        half(x, w, type, stream, count, node, pitch, merges, resume);                                                     \
        half(x, (const char *)w + PANEL / 2 * (type == RONDO_F32 ? sizeof(float) : sizeof(uint16_t)), type, 0, count,    \
             node + PANEL / 2, pitch, merges, resume);                                                                    \
    }
DEFINE_TILE(tile_1, 1, COLUMNS_4)
DEFINE_TILE(tile_2, 2, COLUMNS_4)
DEFINE_TILE(half_3, 3, COLUMNS_2)
DEFINE_TILE(half_4, 4, COLUMNS_2)
DEFINE_TILE(half_5, 5, COLUMNS_2)
DEFINE_TILE(half_6, 6, COLUMNS_2)
DEFINE_HALVES(tile_3, half_3)
DEFINE_HALVES(tile_4, half_4)
DEFINE_HALVES(tile_5, half_5)
DEFINE_HALVES(tile_6, half_6)
#define TILE_CASES(F) F(1) F(2) F(3) F(4) F(5) F(6)

static int64_t padded(int64_t rows)
{
    return rows;
}

#endif

#define TILE_CASE(n)                                                                                                      \
    case n:                                                                                                               \
        tile_##n(x, w, TYPE, STREAM, count, node, pitch, merges, resume);                                                 \
        break;
typedef void tile_function(int64_t rows, const float *x, const void *w, int64_t count, float *node, int64_t pitch, int merges,
                           int resume);
#define DEFINE_SWITCH(name)                                                                                               \
    static void name(int64_t rows, const float *x, const void *w, int64_t count, float *node, int64_t pitch, int merges, \
                     int resume)                                                                                          \
    {                                                                                                                     \
        switch (rows) {                                                                                                   \
            TILE_CASES(TILE_CASE)                                                                                         \
        }                                                                                                                 \
    }

#define STREAM 0
#define TYPE RONDO_F32
DEFINE_SWITCH(tile_cached)
#undef STREAM
#define STREAM 1
DEFINE_SWITCH(tile_f32)
#undef TYPE
#define TYPE RONDO_BF16
DEFINE_SWITCH(tile_bf16)
#undef TYPE
#define TYPE RONDO_F16
DEFINE_SWITCH(tile_f16)

/* ---- packing x ---- */

static void pack(const struct rondo_cpu_linear_job *job, int64_t t)
{
    const struct rondo_device_linear *l = job->linear;
    int64_t row = rondo__cpu_tile_begin(job, t), rows = rondo__cpu_tile_begin(job, t + 1) - row, n = padded(rows);
    float *to = job->packed + t * TILE * l->in;

    for (int64_t g = 0; g < l->leaves; g++) {
        int64_t k0 = rondo__cpu_leaf_begin(l, g), k1 = rondo__cpu_leaf_begin(l, g + 1);
        for (int64_t k = k0; k < k1; k += 16) {          /* 16: a cache line of each row */
            int64_t count = k1 - k < 16 ? k1 - k : 16, pairs = count & ~(int64_t)1;
            float *p = to + k * n;
            for (int64_t r = 0; r < n; r++) {
                if (r >= rows) {
                    for (int64_t i = 0; i < count; i++)
                        p[i * n + r] = 0.0f;
                    continue;
                }
                const float *x = job->x + (row + r) * job->x_stride + k;
                for (int64_t i = 0; i < pairs; i += 2) {
                    p[i * n + r] = x[i + 1];
                    p[(i + 1) * n + r] = x[i];
                }
                if (pairs < count)
                    p[pairs * n + r] = x[pairs];
            }
        }
    }
}

/* ---- panels ---- */

#define NODE (TILE * PANEL)         /* floats of a node of the tree */

/* scratch: weights widened, then for each tile its stack of nodes, then the tile */
static bool bytes(const struct rondo_device_linear *linear, int64_t tiles, size_t *out)
{
    size_t floats;
    return rondo__mul((size_t)tiles * NODE, (size_t)rondo__cpu_tree_depth(linear->leaves) + 1, &floats) &&
           rondo__add(floats, CHUNK * PANEL, &floats) && rondo__mul(floats, sizeof(float), out);
}

static void widen(float *to, const void *from, int type, int64_t count)
{
    const uint16_t *p = from;
    if (type == RONDO_BF16)
        for (int64_t i = 0; i < count; i += 2 * VL) {
            __builtin_prefetch((const char *)(p + i) + AHEAD, 0, 2);
            vf_store(to + i, vf_from_bf16(p + i));
            vf_store(to + i + VL, vf_from_bf16(p + i + VL));
        }
    else
        for (int64_t i = 0; i < count; i += 2 * VL) {
            __builtin_prefetch((const char *)(p + i) + AHEAD, 0, 2);
            vf_store(to + i, vf_from_f16(p + i));
            vf_store(to + i + VL, vf_from_f16(p + i + VL));
        }
}

/* The rest of the tree, bias, what y held, and out. */
static void finish(const struct rondo_cpu_linear_job *job, int64_t panel, int64_t row, int64_t rows, const float *stack, int nodes)
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

static void run(const struct rondo_cpu_linear_job *job, int64_t panel0, int64_t panel1, int64_t tile0, int64_t tile1, void *scratch)
{
    const struct rondo_device_linear *l = job->linear;
    const size_t element = l->type == RONDO_F32 ? sizeof(float) : sizeof(uint16_t);
    const int64_t depth = rondo__cpu_tree_depth(l->leaves) + 1;
    float *wide = scratch, *stacks = wide + CHUNK * PANEL;
    tile_function *stream = l->type == RONDO_F32 ? tile_f32 : l->type == RONDO_BF16 ? tile_bf16 : tile_f16;

    for (int64_t panel = panel0; panel < panel1; panel++) {
        int nodes = 0;
        for (int64_t g = 0; g < l->leaves; g++) {
            int64_t k0 = rondo__cpu_leaf_begin(l, g), k1 = rondo__cpu_leaf_begin(l, g + 1);
            int merges = 0;
            for (int64_t i = g; i & 1; i >>= 1)
                merges++;
            for (int64_t k = k0; k < k1; k += CHUNK) {
                int64_t count = k1 - k < CHUNK ? k1 - k : CHUNK;
                const void *w = (const char *)l->weights + (size_t)((panel * l->in + k) * PANEL) * element;
                tile_function *tile = stream;
                if (tile1 - tile0 > 1 && l->type != RONDO_F32) {
                    widen(wide, w, l->type, count * PANEL);
                    w = wide;
                    tile = tile_cached;
                }
                for (int64_t t = tile0; t < tile1; t++) {
                    int64_t n = padded(rondo__cpu_tile_begin(job, t + 1) - rondo__cpu_tile_begin(job, t));
                    float *node = stacks + ((t - tile0) * depth + nodes) * NODE;
                    tile(n, job->packed + t * TILE * l->in + k * n, w, count, node, NODE, k + count == k1 ? merges : 0, k > k0);
                    tile = tile_cached;
                }
            }
            nodes += 1 - merges;
        }
        for (int64_t t = tile0; t < tile1; t++) {
            int64_t row = rondo__cpu_tile_begin(job, t);
            finish(job, panel, row, rondo__cpu_tile_begin(job, t + 1) - row, stacks + (t - tile0) * depth * NODE, nodes);
        }
    }
}

extern const struct rondo_cpu_linear RONDO_ISA_TABLE(linear);
const struct rondo_cpu_linear RONDO_ISA_TABLE(linear) = { TILE, pack, bytes, run };
