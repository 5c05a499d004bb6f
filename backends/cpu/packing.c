/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Weights converted and packed in vectors, compiled once for each instruction set: the bytes of ref_packing.c. A panel's 32 rows are taken
 * a cache line at a time and turned about in registers (vf_transpose), 16-bit numbers two rows to a word, 8-bit ones four, in the order in
 * which a panel has its outputs. Where types differ a line of each row is converted first, into a block that stays in the first-level cache.
 * Called by linear_ops.c.
 */
#include "backends/cpu/vec.h"
#include "backends/cpu/layers.h"

#define PANEL RONDO_CPU_PANEL
#define LINE 64                        /* bytes of a row at a time */
#define LINE_NUMBERS(size) (LINE / (int)(size))

/* ---- a line of each of 32 rows into LINE_NUMBERS columns of a panel ---- */

static void turn_32(const char *const *rows, char *to)
{
    for (int k = 0; k < 16; k += VL)
        for (int o = 0; o < PANEL; o += VL) {
            vf x[VL];
            UNROLL
            for (int i = 0; i < VL; i++)
                x[i] = vf_load((const float *)(const void *)rows[o + i] + k);
            vf_transpose(x);
            UNROLL
            for (int i = 0; i < VL; i++)
                vf_store((float *)(void *)to + (k + i) * PANEL + o, x[i]);
        }
}

/* Word j of a column has outputs j and j + 16 (bf16), or 2j and 2j + 1. */
VEC void turn_16(const char *const *rows, char *to, const int step, const int other)
{
    for (int k = 0; k < 16; k += VL)       /* words of a line */
        for (int j = 0; j < 16; j += VL) {
            vf even[VL], odd[VL];
            UNROLL
            for (int i = 0; i < VL; i++) {
                const vf a = vf_load((const float *)(const void *)rows[(j + i) * step] + k);
                const vf b = vf_load((const float *)(const void *)rows[(j + i) * step + other] + k);
                even[i] = vf_low_halves(a, b);
                odd[i] = vf_high_halves(a, b);
            }
            vf_transpose(even);
            UNROLL
            for (int i = 0; i < VL; i++)
                vf_store((float *)(void *)to + (k + i) * PANEL + j, even[i]);
            vf_transpose(odd);
            UNROLL
            for (int i = 0; i < VL; i++)
                vf_store((float *)(void *)to + (k + i) * PANEL + PANEL / 2 + j, odd[i]);
        }
}

static void turn_bf16(const char *const *rows, char *to)
{
    turn_16(rows, to, 1, 16);
}

static void turn_f16(const char *const *rows, char *to)
{
    turn_16(rows, to, 2, 1);
}

/* Byte `pair` and the one after it of each word of four rows, as words of four outputs. */
VEC void bytes_of(const char *const *rows, int word, const int pair, vf *first, vf *second)
{
    const vf a = vf_load((const float *)(const void *)rows[0] + word), b = vf_load((const float *)(const void *)rows[1] + word);
    const vf c = vf_load((const float *)(const void *)rows[2] + word), d = vf_load((const float *)(const void *)rows[3] + word);
    const vf ab = vf_low_bytes(a, b), cd = vf_low_bytes(c, d), ab2 = vf_high_bytes(a, b), cd2 = vf_high_bytes(c, d);
    *first = pair ? vf_high_halves(ab, cd) : vf_low_halves(ab, cd);
    *second = pair ? vf_high_halves(ab2, cd2) : vf_low_halves(ab2, cd2);
}

VEC void turn_8_pair(const char *const *rows, char *to, const int pair)
{
#if VL == 16   /* 8 words of one byte and 8 of the next are two columns of the panel */
    vf x[16];
    UNROLL
    for (int j = 0; j < 8; j++)
        bytes_of(rows + 4 * j, 0, pair, &x[j], &x[j + 8]);
    vf_transpose(x);
    UNROLL
    for (int i = 0; i < 16; i++)
        vf_store((float *)(void *)(to + (4 * i + 2 * pair) * PANEL), x[i]);
#else
    for (int k = 0; k < 16; k += VL)
        for (int j = 0; j < 8; j += VL) {
            vf x[VL], y[VL];
            UNROLL
            for (int i = 0; i < VL; i++)
                bytes_of(rows + 4 * (j + i), k, pair, &x[i], &y[i]);
            vf_transpose(x);
            vf_transpose(y);
            UNROLL
            for (int i = 0; i < VL; i++) {
                vf_store((float *)(void *)(to + (4 * (k + i) + 2 * pair) * PANEL + 4 * j), x[i]);
                vf_store((float *)(void *)(to + (4 * (k + i) + 2 * pair + 1) * PANEL + 4 * j), y[i]);
            }
        }
#endif
}

static void turn_8(const char *const *rows, char *to)
{
    turn_8_pair(rows, to, 0);
    turn_8_pair(rows, to, 1);
}

static void turn(const char *const *rows, char *to, int type)
{
    if (type == RONDO_F32)
        turn_32(rows, to);
    else if (type == RONDO_BF16)
        turn_bf16(rows, to);
    else if (type == RONDO_F16)
        turn_f16(rows, to);
    else
        turn_8(rows, to);
}

/* ---- what becomes of a part of a row ---- */

/* `count` numbers from `from` on, converted; with a scale those of Q8. */
static void convert(const struct rondo_cpu_load *job, int64_t from, int64_t count, int to_type, float scale, char *to)
{
    const int type = job->type;
    int64_t i = 0;

    if (type == to_type) {
        memcpy(to, (const char *)job->weights + (size_t)from * rondo_type_size(type), (size_t)count * rondo_type_size(type));
        return;
    }
    if (to_type == RONDO_Q8) {
        if (!(scale > 0.0f)) {
            memset(to, 0, (size_t)count);
            return;
        }
        for (; i + VL <= count; i += VL)
            vf_to_i8((int8_t *)to + i, vf_max(vf_set1(-127.0f), vf_min(vf_set1(127.0f),
                                                                       vf_rint(vf_div(vf_element(job->weights, from + i, type), vf_set1(scale))))));
        for (; i < count; i++)
            ((int8_t *)to)[i] = rondo__q8_number(rondo__element(job->weights, from + i, type), scale);
        return;
    }
    for (; i + VL <= count; i += VL)
        vf_put_element(to, i, to_type, vf_element(job->weights, from + i, type));
    for (; i < count; i++)
        rondo__put_element(to, i, to_type, rondo__element(job->weights, from + i, type));
}

static float scale_of(const struct rondo_cpu_load *job, int64_t from, int64_t count)
{
    const float infinity = __builtin_inff();
    float lane[VL], largest = 0.0f;
    vf most = vf_zero();                       /* of -|x| the least */
    vm good = vm_first(VL);
    int64_t i = 0;

    for (; i + VL <= count; i += VL) {
        const vf x = vf_neg_abs(vf_element(job->weights, from + i, job->type));
        good = vm_and(good, vf_lt(vf_set1(-infinity), x));
        most = vf_min(x, most);
    }
    vf_store(lane, vf_select(good, vf_neg(most), vf_set1(infinity)));
    for (int j = 0; j < VL; j++)
        largest = lane[j] > largest ? lane[j] : largest;
    for (; i < count; i++) {
        const float x = rondo__element(job->weights, from + i, job->type), a = x < 0.0f ? -x : x;
        largest = !(a < infinity) ? infinity : a > largest ? a : largest;
    }
    return rondo__q8_scale(largest);
}

/* ---- blocks ---- */

struct block {
    const struct rondo_cpu_load *job;
    int64_t output, row0, row1;        /* rows of the panel from `output` on that are loaded, of 0 to 32 */
};

/* `count` columns of the source's rows from `from` on (in the first row of W that is loaded), into `to`, where the panel has these columns. */
static void load_block(const struct block *b, int64_t from, int64_t count, const float *scales, char *to)
{
    const struct rondo_cpu_load *job = b->job;
    const struct rondo_device_linear *l = job->linear;
    const size_t size = rondo_type_size(l->type);
    const bool whole = count == LINE_NUMBERS(size), all = b->row0 == 0 && b->row1 == PANEL;
    char lines[PANEL * LINE], turned[PANEL * LINE];
    const char *rows[PANEL];

    for (int64_t r = 0; r < PANEL; r++) {
        const int64_t row = r < b->row0 ? b->row0 : r < b->row1 ? r : b->row1 - 1;   /* what is not loaded is not written either */
        const int64_t at = from + (b->output + row - job->first) * l->columns;
        if (whole && job->type == l->type) {
            rows[r] = (const char *)job->weights + (size_t)at * size;
            continue;
        }
        rows[r] = lines + row * LINE;
        if (r == row)
            convert(job, at, count, l->type, scales ? scales[r] : 0.0f, lines + r * LINE);
        if (r == row && !whole)
            memset(lines + r * LINE + (size_t)count * size, 0, LINE - (size_t)count * size);
    }
    if (all && whole) {
        turn(rows, to, l->type);
        return;
    }
    turn(rows, turned, l->type);
    if (all) {
        memcpy(to, turned, (size_t)count * PANEL * size);
        return;
    }
    for (int64_t k = 0; k < count; k++)
        for (int64_t r = b->row0; r < b->row1; r++) {
            const size_t at = (size_t)(k * PANEL + rondo__cpu_column(l->type, r)) * size;
            memcpy(to + at, turned + at, size);
        }
}

static void load_columns(const struct block *b, int64_t from, int64_t count, const float *scales, char *to)
{
    const size_t size = rondo_type_size(b->job->linear->type);
    const int64_t step = LINE_NUMBERS(size);
    for (int64_t k = 0; k < count; k += step)
        load_block(b, from + k, count - k < step ? count - k : step, scales, to + (size_t)(k * PANEL) * size);
}

/* One group of Q8: its scales, then its numbers. `group` counts in a row of the source's scales. */
static void load_group(const struct block *b, int64_t from, int64_t count, int64_t group, int64_t groups, char *to)
{
    const struct rondo_cpu_load *job = b->job;
    float scales[PANEL] = { 0 };

    for (int64_t r = b->row0; r < b->row1; r++) {
        const int64_t row = b->output + r - job->first;
        scales[r] = job->type == RONDO_Q8 ? job->scales[row * groups + group] : scale_of(job, from + row * job->linear->columns, count);
        ((float *)(void *)to)[r] = scales[r];
    }
    load_columns(b, from, count, scales, to + RONDO_CPU_SCALES);
}

static void load(const struct rondo_cpu_load *job, int64_t panel, int32_t leaf0, int32_t leaf1)
{
    const struct rondo_device_linear *l = job->linear;
    const int64_t output = panel * PANEL, end = job->first + job->rows;
    const struct block b = { job, output, job->first > output ? job->first - output : 0, end - output < PANEL ? end - output : PANEL };

    if (l->type != RONDO_Q8) {             /* leaves are of no matter */
        const int64_t k = rondo__cpu_leaf_begin(l, leaf0);
        load_columns(&b, k - l->first_column, rondo__cpu_leaf_begin(l, leaf1) - k, NULL, rondo__cpu_leaf_at(l, panel, leaf0));
        return;
    }
    const int64_t groups = rondo__linear_groups(l->in, l->leaves, l->group, l->first_leaf, l->end_leaf);
    int64_t group = rondo__linear_groups(l->in, l->leaves, l->group, l->first_leaf, leaf0);
    for (int32_t leaf = leaf0; leaf < leaf1; leaf++) {
        const int64_t k = rondo__cpu_leaf_begin(l, leaf), count = rondo__cpu_leaf_begin(l, leaf + 1) - k;
        char *to = rondo__cpu_leaf_at(l, panel, leaf);
        for (int64_t i = 0; i < count; i += l->group, group++)
            load_group(&b, k - l->first_column + i, count - i < l->group ? count - i : l->group, group, groups, to + rondo__cpu_columns(l, i));
    }
}

extern const struct rondo_cpu_packing RONDO_ISA_TABLE(packing);
const struct rondo_cpu_packing RONDO_ISA_TABLE(packing) = { load };
