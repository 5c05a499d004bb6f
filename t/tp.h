/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the tests of tensor parallelism share: a case, what one rank computes of it with whole layers, and the body in which every rank
 * of a launch does all of it with its part and compares the bits of what it keeps.
 */
#ifndef RONDO_T_TP_H
#define RONDO_T_TP_H

#include <stdatomic.h>
#include <stdlib.h>

#include "core/internal.h"
#include "tap.h"

enum division { EQUAL, WEIGHTED, GAPS, LAST, DIVISIONS };
__attribute__((unused)) static const char *const division_names[] = { "equal", "weighted", "with empty parts", "all on the last" };

enum { TP_RANKS = 9, TP_TABLE = 29 };

struct tp_case {
    int ranks, division, type, tied, table_type;
    int64_t in, out, rows, few;
    int32_t leaves;
    int calls;                    /* the same again so often: a later one has other numbers */
    int device;                   /* in every other call all arrays lie in the device's memory */
    int (*between)(rondo_context *ctx, struct tp_case *c, int call);   /* before each call; not 0: the rank ends with it, 1: as if all were well */
    /* what one rank makes of it: */
    float *x, *bias, *before, *w, *table;   /* [rows][in], [out], [rows][out], [out][in], [TP_TABLE][out] */
    void *packed, *packed_table;  /* w and table as they are stored */
    int32_t *ids;                 /* [rows] */
    float *sum, *added, *found;   /* [rows][out]: x w' + bias; x w' upon `before`; rows of the table */
    float *plain, *both;          /* x w'; x w' + bias upon `before` */
    _Atomic int wrong;            /* where a rank keeps other bits: which, as below */
    int code[TP_RANKS];           /* what each rank ended with, and its sentence */
    char text[TP_RANKS][600];
};

static float tp_number(uint64_t seed, uint64_t i)
{
    return (float)(int32_t)(rondo__mix64(seed * 1000003u + i) & 0xffffffffu) * 0x1p-31f;
}

static double tp_weight(int division, int ranks, int r)
{
    switch (division) {
    case WEIGHTED:
        return 1.0 + r % 3;
    case GAPS:
        return ranks == 1 || r % 2 ? 1.0 : 0.0;
    case LAST:
        return r == ranks - 1 ? 1.0 : 0.0;
    default:
        return 1.0;
    }
}

/* [ranks + 1] */
static void tp_begin(const struct tp_case *c, int64_t total, int64_t *begin)
{
    double weights[TP_RANKS];
    for (int r = 0; r < c->ranks; r++)
        weights[r] = tp_weight(c->division, c->ranks, r);
    int64_t count;
    for (int r = 0; r < c->ranks; r++)
        if (rondo_share(total, c->ranks, c->division ? weights : NULL, r, &begin[r], &count))
            exit(99);
    begin[c->ranks] = total;
}

/* What a layer of a type is loaded from. */
static int tp_loaded(int type)
{
    return type == RONDO_Q8 ? RONDO_F32 : type;
}

static void *tp_room(int64_t count, size_t size)
{
    void *p = calloc((size_t)count + 1, size);
    if (!p)
        exit(99);
    return p;
}

static int tp_reference(rondo_context *ctx, void *arg)
{
    struct tp_case *c = arg;
    rondo_linear_desc d = RONDO_LINEAR_DESC_INIT;
    rondo_linear *l = NULL;
    d.in = c->in;
    d.out = c->out;
    d.leaves = c->leaves;
    d.type = c->type;
    int err = rondo_convert(ctx, c->in * c->out, RONDO_F32, c->w, tp_loaded(c->type), c->packed);
    if (!err)
        err = rondo_linear_create(&l, ctx, &d);
    if (!err)
        err = rondo_linear_load(l, 0, c->out, c->packed);
    if (!err)
        err = rondo_linear_execute(l, ctx, c->rows, c->x, c->in, c->sum, c->out, c->bias, 0);
    if (!err)
        err = rondo_linear_execute(l, ctx, c->rows, c->x, c->in, c->added, c->out, NULL, 1);
    if (!err)
        err = rondo_linear_execute(l, ctx, c->rows, c->x, c->in, c->plain, c->out, NULL, 0);
    if (!err)
        err = rondo_linear_execute(l, ctx, c->rows, c->x, c->in, c->both, c->out, c->bias, 1);
    rondo_linear_destroy(l);
    if (!err)
        err = rondo_convert(ctx, TP_TABLE * c->out, RONDO_F32, c->table, tp_loaded(c->table_type), c->packed_table);
    if (c->table_type == RONDO_Q8 && !err) {   /* what is left of it in a layer */
        d = (rondo_linear_desc)RONDO_LINEAR_DESC_INIT;
        d.in = c->out;
        d.out = TP_TABLE;
        d.type = RONDO_Q8;
        err = rondo_linear_create(&l, ctx, &d);
        if (!err)
            err = rondo_linear_load(l, 0, TP_TABLE, c->packed_table);
        for (int64_t i = 0; i < c->rows && !err; i++)
            err = rondo__linear_read(l, c->ids[i], 1, c->found + i * c->out);
        rondo_linear_destroy(l);
        return err;
    }
    for (int64_t i = 0; i < c->rows && !err; i++)
        err = rondo_convert(ctx, c->out, c->table_type, (char *)c->packed_table + (size_t)(c->ids[i] * c->out) * rondo_type_size(c->table_type),
                            RONDO_F32, c->found + i * c->out);
    return err;
}

__attribute__((unused)) static void tp_case_make(struct tp_case *c)
{
    c->x = tp_room(c->rows * c->in, 4);
    c->bias = tp_room(c->out, 4);
    c->before = tp_room(c->rows * c->out, 4);
    c->w = tp_room(c->out * c->in, 4);
    c->table = tp_room(TP_TABLE * c->out, 4);
    c->packed = tp_room(c->out * c->in, 4);
    c->packed_table = tp_room(TP_TABLE * c->out, 4);
    c->ids = tp_room(c->rows, 4);
    c->sum = tp_room(c->rows * c->out, 4);
    c->added = tp_room(c->rows * c->out, 4);
    c->found = tp_room(c->rows * c->out, 4);
    c->plain = tp_room(c->rows * c->out, 4);
    c->both = tp_room(c->rows * c->out, 4);
    for (int64_t i = 0; i < c->rows * c->in; i++)
        c->x[i] = tp_number(1, (uint64_t)i);
    for (int64_t i = 0; i < c->out * c->in; i++)
        c->w[i] = tp_number(2, (uint64_t)i);
    for (int64_t i = 0; i < c->out; i++)
        c->bias[i] = tp_number(3, (uint64_t)i);
    for (int64_t i = 0; i < c->rows * c->out; i++)
        c->both[i] = c->added[i] = c->before[i] = tp_number(4, (uint64_t)i);
    for (int64_t i = 0; i < TP_TABLE * c->out; i++)
        c->table[i] = tp_number(5, (uint64_t)i);
    for (int64_t i = 0; i < c->rows; i++)
        c->ids[i] = (int32_t)(rondo__mix64((uint64_t)i + 77) % TP_TABLE);
    c->wrong = 0;
    if (c->calls == 0)
        c->calls = 1;
    const char *hook = getenv("RONDO_TEST_HOOK");
    char *keep = hook ? strdup(hook) : NULL;
    unsetenv("RONDO_TEST_HOOK");
    if (rondo_run_threads(1, tp_reference, c)) {
        diag("%s", rondo_error_text());
        exit(99);
    }
    if (keep)
        setenv("RONDO_TEST_HOOK", keep, 1);
    free(keep);
}

__attribute__((unused)) static void tp_case_free(struct tp_case *c)
{
    void *all[] = { c->x, c->bias, c->before, c->w, c->table, c->packed, c->packed_table, c->ids, c->sum, c->added, c->found, c->plain, c->both };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}

/* ---- a rank ---- */

/* Arrays of a rank, made before anything is counted. */
struct tp_rank {
    rondo_tp *tp, *own;
    rondo_linear *part, *tied;
    int64_t begin[TP_RANKS + 1], row_begin[TP_RANKS + 1], column_begin[TP_RANKS + 1], table_begin[TP_RANKS + 1];
    int32_t leaf_begin[TP_RANKS + 1];
    double weights[TP_RANKS];
    int64_t first, count, columns;      /* rows that it keeps; inputs that it has */
    float *x, *y, *all, *to, *from;
    rondo_tp_table table;
};

/* y has so many numbers between its rows that nobody may touch. */
enum { GAP = 3 };

/* tp: one that is used for other cases too, with the same `few`; NULL: one of its own. */
static int tp_rank_make(struct tp_rank *m, rondo_context *ctx, struct tp_case *c, rondo_tp *tp)
{
    const int me = ctx->rank;
    rondo_tp_desc td = RONDO_TP_DESC_INIT;
    td.few = c->few;
    memset(m, 0, sizeof *m);
    int err = tp ? 0 : rondo_tp_create(&m->own, ctx, &td);
    if (err)
        return err;
    m->tp = tp ? tp : m->own;
    tp_begin(c, c->leaves, m->begin);
    tp_begin(c, c->rows, m->row_begin);
    tp_begin(c, c->out, m->column_begin);
    tp_begin(c, TP_TABLE, m->table_begin);
    for (int r = 0; r <= c->ranks; r++)
        m->leaf_begin[r] = (int32_t)m->begin[r];
    for (int r = 0; r < c->ranks; r++)
        m->weights[r] = tp_weight(c->division, c->ranks, r);
    rondo_linear_desc d = RONDO_LINEAR_DESC_INIT;
    d.in = c->in;
    d.out = c->out;
    d.leaves = c->leaves;
    d.type = c->type;
    d.parts = c->ranks;
    d.part = me;
    d.leaf_begin = m->leaf_begin;
    const int64_t x0 = m->begin[me] * c->in / c->leaves;
    m->columns = m->begin[me + 1] * c->in / c->leaves - x0;
    err = rondo_linear_create(&m->part, ctx, &d);
    const size_t size = rondo_type_size(tp_loaded(c->type));
    char *w = tp_room(c->out * m->columns, size);
    for (int64_t r = 0; r < c->out; r++)
        memcpy(w + (size_t)(r * m->columns) * size, (const char *)c->packed + (size_t)(r * c->in + x0) * size, (size_t)m->columns * size);
    if (!err && m->columns)
        err = rondo_linear_load(m->part, 0, c->out, w);
    free(w);
    if (!err)
        err = rondo_tp_rows(m->tp, c->rows, me, &m->first, &m->count);
    m->x = tp_room(c->rows * (m->columns + 2), 4);
    m->y = tp_room(c->rows * (c->out + GAP), 4);
    m->all = tp_room(c->rows * c->out, 4);
    m->to = tp_room(c->rows * c->out, 4);
    m->from = tp_room(c->rows * c->out, 4);
    for (int64_t i = 0; i < c->rows; i++)
        memcpy(m->x + i * (m->columns + 2), c->x + i * c->in + x0, (size_t)m->columns * 4);
    m->table = (rondo_tp_table)RONDO_TP_TABLE_INIT;
    m->table.total = TP_TABLE;
    m->table.width = c->out;
    m->table.weights = c->division ? m->weights : NULL;
    m->table.type = c->table_type;
    const int64_t have = m->table_begin[me + 1] - m->table_begin[me];
    m->table.data = have ? (char *)c->packed_table + (size_t)(m->table_begin[me] * c->out) * rondo_type_size(tp_loaded(c->table_type)) : NULL;
    if (!err && (c->tied || c->table_type == RONDO_Q8) && have) {
        rondo_linear_desc t = RONDO_LINEAR_DESC_INIT;
        t.in = c->out;
        t.out = have;
        t.type = c->table_type;
        err = rondo_linear_create(&m->tied, ctx, &t);
        if (!err)
            err = rondo_linear_load(m->tied, 0, have, m->table.data);
        m->table.linear = m->tied;
        m->table.data = NULL;
    }
    return err;
}

static void tp_rank_free(struct tp_rank *m)
{
    rondo_tp_destroy(m->own);
    rondo_linear_destroy(m->part);
    rondo_linear_destroy(m->tied);
    free(m->x);
    free(m->y);
    free(m->all);
    free(m->to);
    free(m->from);
}

static void tp_compare(struct tp_case *c, const float *got, const float *want, int64_t count, int kind)
{
    int none = 0;
    if (count > 0 && memcmp(got, want, (size_t)count * 4))
        atomic_compare_exchange_strong(&c->wrong, &none, kind);
}

enum { WRONG_SUM = 1, WRONG_ADDED, WRONG_GAP, WRONG_GATHER, WRONG_LOOKUP, WRONG_TO_ROWS, WRONG_TO_COLUMNS };

/* Every function once. call: how often before; numbers change with it, so that what is left of the last call is no answer. */
static int tp_rank_run(struct tp_rank *m, rondo_context *ctx, struct tp_case *c, int call)
{
    const int64_t wide = c->out + GAP, all = c->rows * c->out;
    const int me = ctx->rank;
    const int other = call / 2 % 2;   /* the bias comes with what is not added, or with what is */
    memset(m->y, 0x55, (size_t)(c->rows * wide) * 4);
    int err = rondo_tp_linear(m->tp, m->part, c->rows, m->columns ? m->x : NULL, m->columns + 2, m->y, wide, other ? NULL : c->bias, 0);
    for (int64_t i = 0; i < m->count && !err; i++)
        tp_compare(c, m->y + i * wide, (other ? c->plain : c->sum) + (m->first + i) * c->out, c->out, WRONG_SUM);
    const uint32_t untouched[GAP] = { 0x55555555u, 0x55555555u, 0x55555555u };
    for (int64_t i = 0; i < m->count && !err; i++)
        tp_compare(c, m->y + i * wide + c->out, (const float *)(const void *)untouched, GAP, WRONG_GAP);
    for (int64_t i = 0; i < m->count && !err; i++)
        memcpy(m->y + i * wide, c->before + (m->first + i) * c->out, (size_t)c->out * 4);
    if (!err)
        err = rondo_tp_linear(m->tp, m->part, c->rows, m->columns ? m->x : NULL, m->columns + 2, m->y, wide, other ? c->bias : NULL, 1);
    for (int64_t i = 0; i < m->count && !err; i++)
        tp_compare(c, m->y + i * wide, (other ? c->both : c->added) + (m->first + i) * c->out, c->out, WRONG_ADDED);
    /* from elsewhere, and from its place */
    memset(m->all, 0, (size_t)all * 4);
    float *mine = call % 2 ? m->all + m->first * c->out : m->to;
    memcpy(mine, c->sum + m->first * c->out, (size_t)(m->count * c->out) * 4);
    if (!err)
        err = rondo_tp_gather(m->tp, c->rows, c->out, mine, m->all);
    if (!err)
        tp_compare(c, m->all, c->sum, all, WRONG_GATHER);
    memset(m->to, 0, (size_t)all * 4);
    if (!err)
        err = rondo_tp_lookup(m->tp, &m->table, c->rows, c->ids, m->to);
    if (!err)
        tp_compare(c, m->to, c->found + m->first * c->out, m->count * c->out, WRONG_LOOKUP);
    const int64_t r0 = m->row_begin[me], rows = m->row_begin[me + 1] - r0, c0 = m->column_begin[me], columns = m->column_begin[me + 1] - c0;
    memset(m->to, 0, (size_t)all * 4);
    for (int64_t i = 0; i < c->rows; i++)
        memcpy(m->from + i * columns, c->sum + i * c->out + c0, (size_t)columns * 4);
    if (!err)
        err = rondo_tp_swap(m->tp, 1, m->row_begin, m->column_begin, m->from, m->to);
    if (!err)
        tp_compare(c, m->to, c->sum + r0 * c->out, rows * c->out, WRONG_TO_ROWS);
    if (!err)
        err = rondo_tp_swap(m->tp, 0, m->row_begin, m->column_begin, c->before + r0 * c->out, m->from);
    for (int64_t i = 0; i < c->rows && !err; i++)
        tp_compare(c, m->from + i * columns, c->before + i * c->out + c0, columns, WRONG_TO_COLUMNS);
    return err;
}

/* ---- the same on memory of the device ---- */

/* `count` numbers on their way to `at`: they are there when the device has come to them. */
static int tp_arrive(rondo_context *ctx, float *at, float *by_way_of, const float *from, int64_t count)
{
    int err = count ? rondo_memory_copy(ctx, by_way_of, from, (size_t)count * 4) : 0;
    return err || !count ? err : rondo_convert(ctx, count, RONDO_F32, by_way_of, RONDO_F32, at);
}

/* What came of it. */
static int tp_look(rondo_context *ctx, struct tp_case *c, float *room, const float *at, const float *want, int64_t count, int kind)
{
    int err = count ? rondo_memory_copy(ctx, room, at, (size_t)count * 4) : 0;
    if (!err)
        tp_compare(c, room, want, count, kind);
    return err;
}

static int tp_rank_run_device(struct tp_rank *m, rondo_context *ctx, struct tp_case *c)
{
    const int64_t all = c->rows * c->out, kept = m->count * c->out;
    const int me = ctx->rank;
    const int64_t r0 = m->row_begin[me], rows = m->row_begin[me + 1] - r0, c0 = m->column_begin[me], columns = m->column_begin[me + 1] - c0;
    void *memory[5] = { NULL };
    int err = 0;
    for (int i = 0; i < 5 && !err; i++)
        err = rondo_memory_create(&memory[i], ctx, RONDO_MEMORY_DEVICE, (size_t)(all + c->rows * (m->columns + 2) + c->out) * 4 + 4);
    float *a = memory[0], *b = memory[1], *x = memory[2], *y = memory[3], *bias = memory[4];
    const int64_t wide = m->columns + 2;
    if (!err)
        err = tp_arrive(ctx, bias, a, c->bias, c->out);
    if (!err)
        err = tp_arrive(ctx, x, b, m->x, c->rows * wide);
    if (!err)
        err = rondo_tp_linear(m->tp, m->part, c->rows, m->columns ? x : NULL, wide, y, c->out, bias, 0);
    if (!err)
        err = tp_look(ctx, c, m->to, y, c->sum + m->first * c->out, kept, WRONG_SUM);
    if (!err)
        err = tp_arrive(ctx, y, a, c->before + m->first * c->out, kept);
    if (!err)
        err = tp_arrive(ctx, x, b, m->x, c->rows * wide);
    if (!err)
        err = rondo_tp_linear(m->tp, m->part, c->rows, m->columns ? x : NULL, wide, y, c->out, NULL, 1);
    if (!err)
        err = tp_look(ctx, c, m->to, y, c->added + m->first * c->out, kept, WRONG_ADDED);
    for (int place = 0; place < 2 && !err; place++) {
        err = tp_arrive(ctx, place ? y + m->first * c->out : x, a, c->sum + m->first * c->out, kept);
        if (!err)
            err = rondo_tp_gather(m->tp, c->rows, c->out, place ? y + m->first * c->out : x, y);
        if (!err)
            err = tp_look(ctx, c, m->to, y, c->sum, all, WRONG_GATHER);
    }
    if (!err)
        err = rondo_tp_lookup(m->tp, &m->table, c->rows, c->ids, y);
    if (!err)
        err = tp_look(ctx, c, m->to, y, c->found + m->first * c->out, kept, WRONG_LOOKUP);
    for (int64_t i = 0; i < c->rows; i++)
        memcpy(m->from + i * columns, c->sum + i * c->out + c0, (size_t)columns * 4);
    if (!err)
        err = tp_arrive(ctx, x, a, m->from, c->rows * columns);
    if (!err)
        err = rondo_tp_swap(m->tp, 1, m->row_begin, m->column_begin, x, y);
    if (!err)
        err = tp_look(ctx, c, m->to, y, c->sum + r0 * c->out, rows * c->out, WRONG_TO_ROWS);
    if (!err)
        err = tp_arrive(ctx, y, a, c->sum + r0 * c->out, rows * c->out);
    if (!err)
        err = rondo_tp_swap(m->tp, 0, m->row_begin, m->column_begin, y, x);
    if (!err)
        err = tp_look(ctx, c, m->to, x, m->from, c->rows * columns, WRONG_TO_COLUMNS);
    for (int i = 0; i < 5; i++)
        rondo_memory_destroy(ctx, memory[i]);
    return err;
}

__attribute__((unused)) static int tp_body(rondo_context *ctx, void *arg)
{
    struct tp_case *c = arg;
    struct tp_rank m;
    int err = tp_rank_make(&m, ctx, c, NULL), ends = 0;
    for (int i = 0; i < c->calls && !err && !ends; i++) {
        ends = c->between ? c->between(ctx, c, i) : 0;
        err = ends == 1 ? 0 : ends;
        if (!ends)
            err = c->device && i % 2 ? tp_rank_run_device(&m, ctx, c) : tp_rank_run(&m, ctx, c, i);
    }
    c->code[ctx->rank] = err;
    snprintf(c->text[ctx->rank], sizeof c->text[0], "%s", err ? rondo_error_text() : "");
    tp_rank_free(&m);
    return err;
}

#endif
