/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Between whole sequences and the rows of ranks: take and put, scatter and gather, against loops over the spans, with rows and arrays of
 * any strides, in any place; exactly the rows that other ranks hold travel; and what cannot be is refused, on every rank where all
 * ranks take part.
 */
#include "t/attention.h"
#include "t/memory.h"

enum { SEQUENCES = 3, HEADS = 3, DIM = 5, GAP = 7 };

static const int64_t tokens[SEQUENCES] = { 40, 9, 100 }, cached[SEQUENCES] = { 21, -4, 0 };

/* How an array lies in memory. */
enum style { DENSE, HEADS_OUTSIDE, GAPS, FLAT, STYLES };

static int elements_of(int type)
{
    return type == RONDO_F32 ? 1 : 2;
}

struct array {
    rondo_tensor t;
    size_t bytes;
};

static struct array make_array(int64_t rows, enum style style, int type)
{
    struct array a;
    const int64_t shape[3] = { rows, HEADS, DIM }, flat[2] = { rows, HEADS * DIM };
    a.t = style == FLAT ? rondo_tensor_dense(NULL, type, 2, flat) : rondo_tensor_dense(NULL, type, 3, shape);
    if (style == HEADS_OUTSIDE) {
        a.t.stride[0] = DIM;
        a.t.stride[1] = DIM * (rows + 1);
    }
    if (style == GAPS) {
        a.t.stride[1] = DIM + 2;
        a.t.stride[0] = HEADS * (DIM + 2) + 1;
    }
    a.bytes = (size_t)((rows + 1) * (HEADS * (DIM + 2) + 1)) * 4 / (size_t)elements_of(type);
    a.t.data = malloc(a.bytes);
    memset(a.t.data, 0xee, a.bytes);
    return a;
}

static char *at(const struct array *a, int64_t row, int64_t head, int64_t d)
{
    const int64_t place = a->t.dims == 2 ? row * a->t.stride[0] + head * DIM + d : row * a->t.stride[0] + head * a->t.stride[1] + d;
    return (char *)a->t.data + (size_t)place * rondo_type_size(a->t.type);
}

/* A number that says where it belongs, without a byte of memory that nobody wrote. */
static uint32_t mark(int64_t sequence, int keys, int64_t row, int64_t head, int64_t d)
{
    const uint32_t place = (uint32_t)(((sequence * 2 + keys) * 131 + row) * 15 + head * 5 + d);
    return (1 + place % 200) | (1 + place / 200 % 200) << 8 | (1 + place / 40000) << 16 | 1u << 24;
}

static void set(const struct array *a, int64_t row, int64_t head, int64_t d, uint32_t value)
{
    memcpy(at(a, row, head, d), &value, rondo_type_size(a->t.type));
}

static int is(const struct array *a, int64_t row, int64_t head, int64_t d, uint32_t value)
{
    return memcmp(at(a, row, head, d), &value, rondo_type_size(a->t.type)) == 0;
}

static void fill(const struct array *a, int64_t sequence, int keys, int64_t rows)
{
    for (int64_t r = 0; r < rows; r++)
        for (int h = 0; h < HEADS; h++)
            for (int d = 0; d < DIM; d++)
                set(a, r, h, d, mark(sequence, keys, r, h, d));
}

static int64_t untouched(const struct array *a)
{
    int64_t bytes = 0;
    for (size_t i = 0; i < a->bytes; i++)
        bytes += ((const unsigned char *)a->t.data)[i] == 0xee;
    return bytes;
}

struct run {
    int layout, type, root, rows_style, whole_style, row_given;
    struct array *whole;          /* [2 * SEQUENCES], that all ranks see: queries and keys */
    atomic_int bad;
    atomic_llong sent;            /* messages and bytes of scatter and gather */
    atomic_llong sent_bytes;
};

static int64_t rows_of(int64_t sequence, int keys)
{
    int64_t n = keys ? tokens[sequence] + cached[sequence] : tokens[sequence];
    return n > 0 ? n : 0;
}

static int plan_of(rondo_attention **plan, rondo_context *ctx, int layout)
{
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    d.heads = d.kv_heads = HEADS;
    d.head_dim = DIM;
    d.sequences = SEQUENCES;
    d.tokens_of = tokens;
    d.cached_of = cached;
    d.layout = layout;
    d.leaf = 8;
    return rondo_attention_create(plan, ctx, &d);
}

#define NEED(condition) do { if (!(condition)) { atomic_store(&run->bad, __LINE__); } } while (0)

/* Whether the rows of a sequence hold what the spans say. */
static int holds(const struct array *mine, int64_t row, int64_t sequence, int keys, const rondo_span *spans, int64_t n)
{
    int good = 1;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < spans[i].count; j++)
            for (int h = 0; h < HEADS; h++)
                for (int d = 0; d < DIM; d++)
                    good &= is(mine, row + spans[i].row + j, h, d, mark(sequence, keys, spans[i].first + j * spans[i].step, h, d));
    return good;
}

static int body(rondo_context *ctx, void *arg)
{
    struct run *run = arg;
    const int rank = rondo_context_rank(ctx);
    rondo_attention *plan = NULL;
    rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
    rondo_comm_stats before = RONDO_COMM_STATS_INIT, after = RONDO_COMM_STATS_INIT;
    int err = plan_of(&plan, ctx, run->layout);
    if (!err)
        err = rondo_attention_query(plan, &info);
    if (err)
        return err;
    const int64_t element = (int64_t)rondo_type_size(run->type);
    for (int keys = 0; keys < 2 && !err; keys++) {
        int64_t all = keys ? info.kv_rows : info.q_rows, packed = 0;
        struct array a = make_array(all + GAP, (enum style)run->rows_style, run->type);
        struct array b = make_array(all + GAP, (enum style)run->rows_style, run->type);
        for (int64_t s = 0; s < SEQUENCES && !err; s++) {
            rondo_span spans[64];
            const int64_t n = rondo_attention_spans(plan, s, keys, -1, spans, 64), held = n ? spans[n - 1].row + spans[n - 1].count : 0;
            const int64_t row = run->row_given ? packed + s + 1 : -1, first = run->row_given ? row : packed;
            const struct array *whole = &run->whole[2 * s + keys];
            NEED(rondo_attention_take(plan, s, keys, &whole->t, &a.t, row) == 0);
            NEED(holds(&a, first, s, keys, spans, n));
            /* the root alone has it */
            err = rondo_comm_query(ctx, &before);
            if (!err)
                err = rondo_attention_scatter(plan, s, keys, run->root, rank == run->root ? &whole->t : NULL, &b.t, row);
            NEED(!err && holds(&b, first, s, keys, spans, n));
            /* and back, into arrays that were forgotten */
            struct array back = make_array(rows_of(s, keys), (enum style)run->whole_style, run->type);
            if (!err)
                err = rondo_attention_gather(plan, s, keys, run->root, rank == run->root ? &back.t : NULL, &b.t, row);
            for (int64_t r = 0; r < rows_of(s, keys) && rank == run->root; r++)
                for (int h = 0; h < HEADS; h++)
                    for (int d = 0; d < DIM; d++)
                        NEED(err || is(&back, r, h, d, mark(s, keys, r, h, d)));
            NEED(untouched(&back) == (int64_t)back.bytes - (rank == run->root ? rows_of(s, keys) * HEADS * DIM * element : 0));
            memset(back.t.data, 0xee, back.bytes);
            NEED(rondo_attention_put(plan, s, keys, &back.t, &a.t, row) == 0);
            NEED(untouched(&back) == (int64_t)back.bytes - held * HEADS * DIM * element);
            for (int64_t i = 0; i < n; i++)
                for (int64_t j = 0; j < spans[i].count; j++)
                    NEED(is(&back, spans[i].first + j * spans[i].step, HEADS - 1, 2, mark(s, keys, spans[i].first + j * spans[i].step, HEADS - 1, 2)));
            free(back.t.data);
            if (!err)
                err = rondo_comm_query(ctx, &after);
            for (int op = RONDO_OP_SCATTER; op <= RONDO_OP_GATHER; op++) {
                atomic_fetch_add(&run->sent, (long long)(after.messages[op] - before.messages[op]));
                atomic_fetch_add(&run->sent_bytes, (long long)(after.bytes[op] - before.bytes[op]));
            }
            if (rank != run->root)   /* what this rank held came and went */
                atomic_fetch_sub(&run->sent_bytes, 2 * held * HEADS * DIM * element);
            packed += held;
        }
        NEED(untouched(&a) >= (int64_t)a.bytes - all * HEADS * DIM * element);
        NEED(memcmp(a.t.data, b.t.data, a.bytes) == 0);
        free(a.t.data);
        free(b.t.data);
    }
    rondo_attention_destroy(plan);
    return err;
}

static void moves(const char *hook)
{
    hook_use(hook);
    for (int style = 0; style < STYLES * STYLES; style++) {
        int bad = 0, err = 0;
        long long more = 0;
        struct run run = { .rows_style = style % STYLES, .whole_style = style / STYLES };
        if ((run.rows_style == FLAT) != (run.whole_style == FLAT))
            continue;
        for (int ranks = 1; ranks <= 5; ranks++) {
            run.layout = 1 + ranks % 4;
            run.type = ranks % 2 ? RONDO_F32 : RONDO_BF16;
            run.root = ranks / 2;
            run.row_given = ranks % 3 == 1;
            struct array whole[2 * SEQUENCES];
            for (int i = 0; i < 2 * SEQUENCES; i++) {
                whole[i] = make_array(rows_of(i / 2, i % 2), (enum style)run.whole_style, run.type);
                fill(&whole[i], i / 2, i % 2, rows_of(i / 2, i % 2));
            }
            run.whole = whole;
            err |= rondo_run_threads(ranks, body, &run);
            if (atomic_load(&run.bad) && !bad)
                diag("line %d, %d ranks", bad = atomic_load(&run.bad), ranks);
            more |= atomic_load(&run.sent_bytes);
            for (int i = 0; i < 2 * SEQUENCES; i++)
                free(whole[i].t.data);
        }
        ok(!err && !bad, "rows %d, whole %d: all move as the spans say%s%s%s", run.rows_style, run.whole_style, err ? ": " : "",
           err ? rondo_error_text() : "", hook ? " (hook)" : "");
        ok(more == 0 && atomic_load(&run.sent) > 0, "and what travels is what other ranks hold");
    }
    hook_use(NULL);
}

/* ---- lse: [rows, heads], any strides ---- */

static void heads_first_lse(void)
{
    rondo_context *ctx;
    rondo_attention *plan = NULL;
    int err = rondo_context_create(&ctx, NULL);
    if (!err)
        err = plan_of(&plan, ctx, 0);
    const int64_t shape[2] = { tokens[2], HEADS };
    static float whole[100 * HEADS], rows[149 * HEADS];
    rondo_tensor w = rondo_tensor_dense(whole, RONDO_F32, 2, shape), r = rondo_tensor_dense(rows, RONDO_F32, 2, shape);
    w.stride[0] = 1;
    w.stride[1] = tokens[2];   /* [H, T] */
    r.shape[0] = 149;
    for (int i = 0; i < 100 * HEADS; i++)
        whole[i] = (float)i;
    if (!err)
        err = rondo_attention_take(plan, 2, 0, &w, &r, -1);
    int good = !err;
    for (int t = 0; t < 100; t++)
        for (int h = 0; h < HEADS; h++)
            good &= rows[(49 + t) * HEADS + h] == (float)(h * 100 + t);
    ok(good, "numbers of a head each, heads first: %s", err ? rondo_error_text() : "moved");
    rondo_attention_destroy(plan);
    rondo_context_destroy(ctx);
}

/* ---- placements ---- */

static void placements(void)
{
    int good = 1;
    for (int interleave = 0; interleave < 2; interleave++) {
        rondo_placement_desc d = RONDO_PLACEMENT_DESC_INIT;
        rondo_placement *p = NULL;
        d.ranks = 3;
        d.leaf = 8;
        d.interleave = interleave;
        good &= rondo_placement_create(&p, &d) == 0 && rondo_placement_append(p, 0, 70) == 0;
        for (int i = 0; i < 30; i++)
            good &= rondo_placement_append(p, 0, 1) == 0;
        for (int64_t from = 0; from <= 100; from += from < 66 ? 11 : 1) {
            struct array whole = make_array(100 - from, HEADS_OUTSIDE, RONDO_F32), back = make_array(100 - from, DENSE, RONDO_F32);
            fill(&whole, 0, 1, 100 - from);
            for (int r = 0; r < 3; r++) {
                rondo_span spans[64];
                const int64_t n = rondo_placement_spans(p, 0, r, from, spans, 64), held = rondo_placement_held(p, 0, r);
                struct array cache = make_array(held, GAPS, RONDO_F32);
                good &= rondo_placement_take(p, 0, r, from, &whole.t, &cache.t) == 0;
                int64_t moved = 0;
                for (int64_t i = 0; i < n; i++) {
                    moved += spans[i].count;
                    spans[i].first -= from;
                }
                good &= holds(&cache, 0, 0, 1, spans, n) && untouched(&cache) == (int64_t)cache.bytes - moved * HEADS * DIM * 4;
                good &= rondo_placement_put(p, 0, r, from, &back.t, &cache.t) == 0;
                free(cache.t.data);
            }
            for (int64_t q = 0; q < 100 - from; q++)
                good &= is(&back, q, 1, 3, mark(0, 1, q, 1, 3));
            free(whole.t.data);
            free(back.t.data);
        }
        rondo_placement_destroy(p);
    }
    ok(good, "placements: what each rank holds from any position on, to its cache and back");

    rondo_placement_desc d = RONDO_PLACEMENT_DESC_INIT;
    rondo_placement *p = NULL;
    d.ranks = 1;
    good = rondo_placement_create(&p, &d) == 0 && rondo_placement_append(p, 0, 10) == 0;
    struct array whole = make_array(10, DENSE, RONDO_F32), rows = make_array(10, DENSE, RONDO_F32);
    rondo_tensor w = whole.t, r = rows.t;
    is_int(good ? rondo_placement_take(p, 1, 0, 0, &w, &r) : 1, RONDO_EINVAL, "no sequence 1");
    is_int(rondo_placement_take(p, 0, 1, 0, &w, &r), RONDO_EINVAL, "no rank 1");
    is_int(rondo_placement_take(p, 0, 0, -1, &w, &r), RONDO_EINVAL, "from -1");
    is_int(rondo_placement_take(p, 0, 0, 11, &w, &r), RONDO_EINVAL, "from behind the end");
    is_int(rondo_placement_take(p, 0, 0, 1, &w, &r), RONDO_EINVAL, "more rows than positions: %s", rondo_error_text());
    is_int(rondo_placement_take(NULL, 0, 0, 0, &w, &r), RONDO_EINVAL, "no placement");
    r.memory = RONDO_MEMORY_DEVICE;
    is_int(rondo_placement_put(p, 0, 0, 0, &w, &r), RONDO_EINVAL, "memory of a device: %s", rondo_error_text());
    free(whole.t.data);
    free(rows.t.data);
    rondo_placement_destroy(p);
}

/* ---- what is refused ---- */

static void refuse(const rondo_attention *plan, const rondo_tensor *whole, const rondo_tensor *rows, int64_t sequence, int64_t row, int code,
                   const char *word)
{
    int got = rondo_attention_take(plan, sequence, 0, whole, rows, row);
    if (!ok(got == code && strstr(rondo_error_text(), word), "%s: %s", word, rondo_error_text()))
        diag("got %s", rondo_error_name(got));
}

static void refused(void)
{
    rondo_context *ctx;
    rondo_attention *plan = NULL;
    if (rondo_context_create(&ctx, NULL) || plan_of(&plan, ctx, 0)) {
        ok(0, "a plan");
        return;
    }
    struct array a = make_array(40, DENSE, RONDO_F32), b = make_array(149, DENSE, RONDO_F32);
    rondo_tensor w = a.t, r = b.t;
#define REFUSE(code, word, ...) do { w = a.t, r = b.t; __VA_ARGS__; refuse(plan, &w, &r, 0, -1, code, word); } while (0)
    is_int(rondo_attention_take(plan, 0, 0, &w, &r, -1), 0, "good tensors");
    is_int(rondo_attention_take(plan, 0, 0, &w, &r, 109), 0, "in the last rows");
    REFUSE(RONDO_EINVAL, "whole is bf16", w.type = RONDO_BF16);
    REFUSE(RONDO_EINVAL, "rows is of no known type", w.type = r.type = 77);
    REFUSE(RONDO_EINVAL, "rows has 4 dimensions", r.dims = 4);
    REFUSE(RONDO_EINVAL, "whole has other or no heads", w.shape[1] = 2);
    REFUSE(RONDO_EINVAL, "whole has other or no heads", w.shape[2] = 4);
    REFUSE(RONDO_EINVAL, "whole has other or no heads", w.dims = 2);
    REFUSE(RONDO_EINVAL, "rows has other or no heads", r.shape[1] = 0);
    REFUSE(RONDO_EINVAL, "whole has 41 rows; it must have 40", w.shape[0] = 41);
    REFUSE(RONDO_EINVAL, "rows has 39 rows; it must have 40 or more", r.shape[0] = 39);
    REFUSE(RONDO_EINVAL, "whole is NULL", w.data = NULL);
    REFUSE(RONDO_EINVAL, "dense (1)", r.stride[2] = 2);
    REFUSE(RONDO_EINVAL, "positive", w.stride[0] = 0);
    REFUSE(RONDO_EINVAL, "positive", r.stride[1] = -3);
    REFUSE(RONDO_EINVAL, "beyond memory", r.stride[0] = INT64_MAX / 30);
    REFUSE(RONDO_EINVAL, "overlaps", r.data = a.t.data, r.shape[0] = 40);
    REFUSE(RONDO_EINVAL, "whole has scales", w.scale = &w);
    REFUSE(RONDO_EINVAL, "rows lies in memory of kind 9", r.memory = 9);
    REFUSE(RONDO_ENOTSUP, "rows uses a field", r.spare[0] = 1);
    w = a.t, r = b.t;
    refuse(plan, &w, &r, 3, -1, RONDO_EINVAL, "no sequence 3");
    refuse(plan, &w, &r, 0, -2, RONDO_EINVAL, "row must be");
    refuse(plan, &w, &r, 0, INT64_MAX, RONDO_EINVAL, "row must be");
    refuse(plan, &w, &r, 0, 110, RONDO_EINVAL, "it must have 150 or more");
    refuse(plan, NULL, &r, 0, -1, RONDO_EINVAL, "whole is NULL");
    refuse(plan, &w, NULL, 0, -1, RONDO_EINVAL, "rows is NULL");
    refuse(NULL, &w, &r, 0, -1, RONDO_EINVAL, "the plan is NULL");
    is_int(rondo_attention_scatter(NULL, 0, 0, 0, &w, &r, -1), RONDO_EINVAL, "no plan to scatter by");
    is_int(rondo_attention_scatter(plan, 0, 0, 1, &w, &r, -1), RONDO_EINVAL, "no root 1: %s", rondo_error_text());
    free(a.t.data);
    free(b.t.data);
    rondo_attention_destroy(plan);
    rondo_context_destroy(ctx);
}

/* One rank of three is wrong: all return a code, and may go on. */
static int wrong(rondo_context *ctx, void *arg)
{
    atomic_int *codes = arg;
    const int rank = rondo_context_rank(ctx);
    rondo_attention *plan = NULL;
    rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
    int err = plan_of(&plan, ctx, 0);
    if (!err)
        err = rondo_attention_query(plan, &info);
    if (err)
        return err;
    struct array whole = make_array(40, DENSE, RONDO_F32), rows = make_array(info.q_rows, DENSE, RONDO_F32);
    rondo_tensor none = rows.t, half = rows.t;
    none.shape[1] = 0;
    half.type = RONDO_F16;
    for (int i = 0; i < 4; i++) {   /* a bad tensor; another root; another type; none */
        int code = rondo_attention_scatter(plan, 0, 0, i == 1 && rank == 1 ? 1 : 0, i == 2 && rank == 0 ? NULL : &whole.t,
                                           i == 0 && rank == 2 ? &none : i == 3 && rank == 1 ? &half : &rows.t, -1);
        atomic_store(&codes[4 * rank + i], code);
    }
    err = rondo_attention_scatter(plan, 0, 0, 0, &whole.t, &rows.t, -1);
    free(whole.t.data);
    free(rows.t.data);
    rondo_attention_destroy(plan);
    return err;
}

/* ---- without memory ---- */

/* All ranks are through their plan when the n-th allocation fails on one of them: all return a code from that call, and the next is good. */
static int poor(rondo_context *ctx, void *arg)
{
    atomic_int *failed = arg;
    rondo_attention *plan = NULL;
    rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
    int err = plan_of(&plan, ctx, 0);
    if (!err)
        err = rondo_attention_query(plan, &info);
    if (err)
        return err;
    struct array whole = make_array(tokens[2], DENSE, RONDO_F32), rows = make_array(info.q_rows, DENSE, RONDO_F32);
    fill(&whole, 2, 0, tokens[2]);
    for (long n = 0; n < 12 && !err; n++) {
        err = rondo_barrier(ctx);
        if (rondo_context_rank(ctx) == 0)
            atomic_store(&memory_until_failure, n);
        if (!err)
            err = rondo_barrier(ctx);
        int code = err ? err : n % 2 ? rondo_attention_gather(plan, 2, 0, 0, &whole.t, &rows.t, -1)
                                     : rondo_attention_scatter(plan, 2, 0, 0, &whole.t, &rows.t, -1);
        if (code)
            atomic_fetch_add(failed, code == RONDO_ENOMEM || code == RONDO_EPEER ? 1 : 1000);
        if (!err)
            err = rondo_barrier(ctx);
        atomic_store(&memory_until_failure, -1);
        if (!err)
            err = rondo_attention_scatter(plan, 2, 0, 0, &whole.t, &rows.t, -1);
    }
    free(whole.t.data);
    free(rows.t.data);
    rondo_attention_destroy(plan);
    return err;
}

static void without_memory(void)
{
    atomic_int failed = 0;
    hook_use("");   /* which takes memory itself, in the middle of a message */
    memory_hooks();
    is_int(rondo_run_threads(3, poor, &failed), 0, "where memory is missing on one rank, all go on");
    ok(atomic_load(&failed) >= 9 && atomic_load(&failed) % 3 == 0 && atomic_load(&failed) < 1000, "and all heard of it: %d codes",
       atomic_load(&failed));
    is_int(atomic_load(&memory_live), 0, "all memory was given back");
    is_int(rondo_set_hooks(NULL), 0, "as before");
    hook_use(NULL);
}

int main(void)
{
    moves(NULL);
    moves("copy");
    heads_first_lse();
    placements();
    refused();
    atomic_int codes[12];
    is_int(rondo_run_threads(3, wrong, codes), 0, "after refusals the ranks go on");
    static const int want[12] = { RONDO_EPEER, RONDO_EMISMATCH, RONDO_EINVAL, RONDO_EMISMATCH, RONDO_EPEER, RONDO_EMISMATCH, RONDO_EPEER,
                                  RONDO_EMISMATCH, RONDO_EINVAL, RONDO_EMISMATCH, RONDO_EPEER, RONDO_EMISMATCH };
    static const char *const what[4] = { "a tensor that cannot be", "another root", "no array on the root", "another type" };
    for (int i = 0; i < 12; i++)
        is_int(atomic_load(&codes[i]), want[i], "rank %d: %s", i / 4, what[i % 4]);
    without_memory();
    return done();
}
