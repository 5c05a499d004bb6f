/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Shares of things: whole, in order, as the formula says. What tensor parallelism cannot do is refused, with a code and a sentence that says
 * why; what ranks send is counted by operation, and timelines say what each step was.
 */
#include <math.h>

#include "tp.h"

/* ---- shares ---- */

static void shares(void)
{
    int whole = 1, formula = 1, weighted = 1;
    for (int parts = 1; parts < 40; parts++)
        for (int64_t total = 0; total < 60; total += 1 + total / 7) {
            double weights[40], all = 0.0, before = 0.0;
            int64_t next = 0, next_weighted = 0, first, count;
            for (int i = 0; i < parts; i++)
                all += weights[i] = (double)(rondo__mix64((uint64_t)(parts * 100 + i)) % 5) + (i ? 0.0 : 0.5);
            for (int i = 0; i < parts; i++) {
                whole &= !rondo_share(total, parts, NULL, i, &first, &count) && first == next && count >= 0;
                formula &= first == total * i / parts;
                next += count;
                whole &= !rondo_share(total, parts, weights, i, &first, &count) && first == next_weighted && count >= 0;
                weighted &= fabs((double)first - (double)total * before / all) <= 0.5 + 1e-9;
                before += weights[i];
                next_weighted += count;
            }
            whole &= next == total && next_weighted == total;
        }
    ok(whole, "shares follow each other and make up the whole");
    ok(formula, "equal ones begin at floor(total * i / parts)");
    ok(weighted, "weighted ones at the nearest whole number");
    int64_t first = -1, count = -1;
    ok(!rondo_share(INT64_MAX, 3, NULL, 2, &first, &count) && first == INT64_MAX / 3 * 2 && first + count == INT64_MAX,
       "of the largest total too");
    const double weights[3] = { 0.0, 1e300, 0.0 };
    ok(!rondo_share(1000, 3, weights, 1, &first, &count) && first == 0 && count == 1000, "weights of 0 get nothing");
}

static void says(int got, int want, const char *part, const char *what)
{
    const int good = got == want && (!part || strstr(rondo_error_text(), part));
    ok(good, "%s: %s", what, got ? rondo_error_text() : "accepted");
}

static void bad_shares(void)
{
    const double nan_weight[2] = { 1.0, NAN }, minus[2] = { 1.0, -1.0 }, none[2] = { 0.0, 0.0 }, huge[2] = { 1.7e308, 1.7e308 };
    int64_t first, count;
    says(rondo_share(10, 2, NULL, 0, NULL, &count), RONDO_EINVAL, "NULL", "no first");
    says(rondo_share(-1, 2, NULL, 0, &first, &count), RONDO_EINVAL, "-1", "a negative total");
    says(rondo_share(10, 0, NULL, 0, &first, &count), RONDO_EINVAL, "of 0", "no parts");
    says(rondo_share(10, 2, NULL, 2, &first, &count), RONDO_EINVAL, "part 2 of 2", "a part beyond");
    says(rondo_share(10, 2, nan_weight, 0, &first, &count), RONDO_EINVAL, "finite", "a weight that is no number");
    says(rondo_share(10, 2, minus, 0, &first, &count), RONDO_EINVAL, "negative", "a negative weight");
    says(rondo_share(10, 2, none, 0, &first, &count), RONDO_EINVAL, "above 0", "weights of 0 only");
    says(rondo_share(10, 2, huge, 0, &first, &count), RONDO_EINVAL, "finite", "weights whose sum is none");
}

/* ---- calls ---- */

static void fill(rondo_linear *l, int64_t out, int64_t in)
{
    float *w = tp_room(out * in, sizeof *w);
    if (rondo_linear_load(l, 0, out, w))
        exit(99);
    free(w);
}

static rondo_linear *layer(rondo_context *ctx, int32_t parts, int32_t part, const int32_t *begin, int loaded)
{
    rondo_linear_desc d = RONDO_LINEAR_DESC_INIT;
    rondo_linear *l;
    d.in = 8;
    d.out = 4;
    d.leaves = 2;
    d.parts = parts;
    d.part = part;
    d.leaf_begin = begin;
    if (rondo_linear_create(&l, ctx, &d))
        exit(99);
    if (loaded)
        fill(l, 4, begin ? (begin[part + 1] - begin[part]) * 4 : 8);
    return l;
}

/* Without other ranks nothing is revoked. */
static int alone(void)
{
    rondo_context *ctx;
    rondo_tp *tp = NULL;
    rondo_tp_desc d = RONDO_TP_DESC_INIT;
    const int32_t begin[3] = { 0, 1, 2 }, whole[2] = { 0, 2 };
    if (rondo_context_create(&ctx, NULL))
        return RONDO_ENOMEM;
    rondo_linear *half = layer(ctx, 2, 0, begin, 1), *all = layer(ctx, 0, 0, NULL, 1), *one = layer(ctx, 1, 0, whole, 1);
    float x[64] = { 0 }, y[64] = { 0 };
    int64_t first, count;
    says(rondo_tp_create(NULL, ctx, NULL), RONDO_EINVAL, "NULL", "nowhere to make it");
    says(rondo_tp_create(&tp, NULL, NULL), RONDO_EINVAL, "NULL", "no context");
    d.few = -1;
    says(rondo_tp_create(&tp, ctx, &d), RONDO_EINVAL, "few is -1", "fewer than no rows");
    d.few = 0;
    d.struct_size = 3;
    says(rondo_tp_create(&tp, ctx, &d), RONDO_EINVAL, "rondo_tp_desc", "a descriptor of no size");
    ok(!tp, "and nothing was made");
    if (rondo_tp_create(&tp, ctx, NULL))
        return RONDO_ENOMEM;
    says(rondo_tp_rows(NULL, 1, 0, &first, &count), RONDO_EINVAL, "NULL", "rows of nothing");
    says(rondo_tp_rows(tp, 1, 0, NULL, &count), RONDO_EINVAL, "NULL", "rows to nowhere");
    says(rondo_tp_rows(tp, -1, 0, &first, &count), RONDO_EINVAL, "-1 rows", "negative rows");
    says(rondo_tp_rows(tp, 100, 1, &first, &count), RONDO_EINVAL, "rank 1 of 1", "of a rank beyond");
    says(rondo_tp_rows(tp, 1, 1, &first, &count), RONDO_EINVAL, "rank 1 of 1", "also of few rows");
    says(rondo_tp_gather(NULL, 1, 1, x, y), RONDO_EINVAL, "NULL", "gather of nothing");
    says(rondo_tp_gather(tp, -1, 1, x, y), RONDO_EINVAL, "-1 rows", "gather negative rows");
    says(rondo_tp_gather(tp, 1, 0, x, y), RONDO_EINVAL, "of 0 numbers", "gather rows of nothing");
    says(rondo_tp_gather(tp, INT64_MAX / 4, 8, x, y), RONDO_EINVAL, "memory", "gather more than memory");
    says(rondo_tp_gather(tp, 1, 1, NULL, y), RONDO_EINVAL, "kept must not be NULL", "gather from nowhere");
    says(rondo_tp_gather(tp, 1, 1, x, NULL), RONDO_EINVAL, "all must not be NULL", "gather to nowhere");
    says(rondo_tp_gather(tp, 4, 4, x + 1, x), RONDO_EINVAL, "overlaps", "gather upon itself");
    says(rondo_tp_gather(tp, 4, 4, x, x), 0, NULL, "gather in place");
    says(rondo_tp_linear(NULL, all, 1, x, 8, y, 4, NULL, 0), RONDO_EINVAL, "tp", "a sum of nobody's");
    says(rondo_tp_linear(tp, NULL, 1, x, 8, y, 4, NULL, 0), RONDO_EINVAL, "linear must not be NULL", "a sum of nothing");
    says(rondo_tp_linear(tp, half, 1, x, 4, y, 4, NULL, 0), RONDO_EINVAL, "one of 2 parts and 1 rank", "parts for other ranks");
    says(rondo_tp_linear(tp, all, -1, x, 8, y, 4, NULL, 0), RONDO_EINVAL, "rows is -1", "a sum of negative rows");
    says(rondo_tp_linear(tp, all, 1, x, 8, y, 4, NULL, 0), 0, NULL, "a whole layer, of one rank");
    says(rondo_tp_linear(tp, one, 1, x, 8, y, 4, NULL, 0), 0, NULL, "the only part");
    const int64_t list[2] = { 0, 3 }, late[2] = { 1, 3 }, back[2] = { 0, -1 }, far[2] = { 0, INT64_MAX / 2 };
    says(rondo_tp_swap(NULL, 1, list, list, x, y), RONDO_EINVAL, "NULL", "swap of nothing");
    says(rondo_tp_swap(tp, 1, NULL, list, x, y), RONDO_EINVAL, "rows must not be NULL", "swap without rows");
    says(rondo_tp_swap(tp, 1, list, NULL, x, y), RONDO_EINVAL, "columns must not be NULL", "swap without columns");
    says(rondo_tp_swap(tp, 1, late, list, x, y), RONDO_EINVAL, "rows[0] is 1", "rows that begin late");
    says(rondo_tp_swap(tp, 1, list, back, x, y), RONDO_EINVAL, "columns[1] is -1", "columns that descend");
    says(rondo_tp_swap(tp, 1, far, list, x, y), RONDO_EINVAL, "memory", "swap more than memory");
    says(rondo_tp_swap(tp, 1, list, list, NULL, y), RONDO_EINVAL, "x must not be NULL", "swap from nowhere");
    says(rondo_tp_swap(tp, 0, list, list, x, NULL), RONDO_EINVAL, "y must not be NULL", "swap to nowhere");
    says(rondo_tp_swap(tp, 0, list, list, x, x + 8), RONDO_EINVAL, "overlaps", "swap upon itself");
    rondo_tp_table t = RONDO_TP_TABLE_INIT;
    const int32_t ids[3] = { 0, 9, 3 }, beyond[3] = { 0, 10, 3 }, minus[3] = { 0, 1, -1 };
    float table[40] = { 0 };
    t.total = 10;
    t.width = 4;
    t.data = table;
    says(rondo_tp_lookup(NULL, &t, 3, ids, y), RONDO_EINVAL, "NULL", "lookup of nobody's");
    says(rondo_tp_lookup(tp, NULL, 3, ids, y), RONDO_EINVAL, "rondo_tp_table", "lookup of nothing");
    says(rondo_tp_lookup(tp, &t, -1, ids, y), RONDO_EINVAL, "-1 rows", "lookup of negative rows");
    says(rondo_tp_lookup(tp, &t, 3, NULL, y), RONDO_EINVAL, "ids", "lookup without ids");
    says(rondo_tp_lookup(tp, &t, 3, ids, NULL), RONDO_EINVAL, "y must not be NULL", "lookup to nowhere");
    says(rondo_tp_lookup(tp, &t, 3, beyond, y), RONDO_EINVAL, "ids[1] is 10", "an id beyond the table");
    says(rondo_tp_lookup(tp, &t, 3, minus, y), RONDO_EINVAL, "ids[2] is -1", "a negative id");
    says(rondo_tp_lookup(tp, &t, 3, ids, table + 30), RONDO_EINVAL, "overlaps the table", "lookup upon the table");
    says(rondo_tp_lookup(tp, &t, 3, ids, y), 0, NULL, "a lookup, F32 by default");
    t.linear = all;
    says(rondo_tp_lookup(tp, &t, 3, ids, y), RONDO_EINVAL, "both given", "data and a layer");
    t.data = NULL;
    says(rondo_tp_lookup(tp, &t, 3, ids, y), RONDO_EINVAL, "this part of the table has 10 rows of 4", "a layer of another shape");
    t.type = RONDO_BF16;
    says(rondo_tp_lookup(tp, &t, 3, ids, y), RONDO_EINVAL, "they must be one", "a layer of another type");
    t.linear = NULL;
    says(rondo_tp_lookup(tp, &t, 3, ids, y), RONDO_EINVAL, "both NULL", "neither data nor a layer");
    t.type = 9;
    says(rondo_tp_lookup(tp, &t, 3, ids, y), RONDO_EINVAL, "type is 9", "a type that is none");
    t.type = 0;
    t.data = table;
    t.reserved = 1;
    says(rondo_tp_lookup(tp, &t, 3, ids, y), RONDO_ENOTSUP, "reserved", "something reserved");
    t.reserved = 0;
    t.total = 0;
    says(rondo_tp_lookup(tp, &t, 0, ids, y), RONDO_EINVAL, "0 rows of 4", "an empty table");
    t.total = 10;
    t.width = INT64_MAX;
    says(rondo_tp_lookup(tp, &t, 3, ids, y), RONDO_EINVAL, "numbers", "rows wider than memory");
    rondo_tp_destroy(NULL);
    rondo_tp_destroy(tp);
    rondo_linear_destroy(half);
    rondo_linear_destroy(all);
    rondo_linear_destroy(one);
    rondo_context_destroy(ctx);
    return 0;
}

/* Two ranks, of which one makes a mistake, or both: the one that does has its own sentence, the other one hears of it. */
enum { OTHER_PART, NOT_LOADED, NO_X, NARROW_X, NARROW_Y, NO_Y, UPON_X, UPON_BIAS, WHOLE, MISTAKES };
static const char *const mistake_says[] = { "the layer is part 0, and this is rank 1", "have not been loaded", "x must not be NULL", "x_stride is 3",
                                            "y_stride is 3", "y must not be NULL", "overlaps x", "overlaps bias", "one of 1 parts and 2 ranks" };
static char mistake_text[2][600];

static int mistaken(rondo_context *ctx, void *arg)
{
    const int kind = *(int *)arg, mine = ctx->rank == 1;
    const int32_t begin[3] = { 0, 1, 2 };
    rondo_linear *l = mine && kind == WHOLE ? layer(ctx, 0, 0, NULL, 1) : layer(ctx, 2, mine && kind == OTHER_PART ? 0 : ctx->rank, begin,
                                                                               !mine || kind != NOT_LOADED);
    rondo_tp *tp = NULL;
    float x[64] = { 0 }, y[64] = { 0 }, bias[4] = { 0 };
    int err = rondo_barrier(ctx);   /* else one that is still joining would be revoked out of that */
    if (!err)
        err = rondo_tp_create(&tp, ctx, NULL);
    if (!err)
        err = rondo_tp_linear(tp, l, 2, mine && kind == NO_X ? NULL : x, mine && kind == NARROW_X ? 3 : 4,
                              mine && kind == NO_Y ? NULL : mine && kind == UPON_X ? x + 2 : y, mine && kind == NARROW_Y ? 3 : 4,
                              kind == UPON_BIAS ? mine ? y + 3 : bias : NULL, 0);
    snprintf(mistake_text[ctx->rank], sizeof mistake_text[0], "%s", err ? rondo_error_text() : "");
    int again = err ? rondo_tp_linear(tp, l, 2, x, 4, y, 4, NULL, 0) : 0;   /* the communicator is closed */
    rondo_tp_destroy(tp);
    rondo_linear_destroy(l);
    return again == RONDO_EPEER || !err ? err : rondo__fail(RONDO_EIO, "the communicator is open still");
}

/* ---- what is told ---- */

enum { EVENTS = 400 };
struct told {
    int events;
    struct {
        const char *name, *operation;
    } event[EVENTS];
};

static void event(void *user, const rondo_trace_event *e)
{
    struct told *t = user;
    if (t->events < EVENTS) {
        t->event[t->events].name = e->name;
        t->event[t->events++].operation = e->operation;
    }
}

static int was_told(const struct told *t, const char *name, const char *operation)
{
    for (int i = 0; i < t->events; i++)
        if (!strcmp(t->event[i].name, name) && t->event[i].operation && !strcmp(t->event[i].operation, operation))
            return 1;
    return 0;
}

static _Atomic int untold;
static _Atomic uint64_t sent[3];

static void missing(const struct told *t, const char *name, const char *operation)
{
    if (!was_told(t, name, operation)) {
        diag("no \"%s\" of \"%s\"", name, operation);
        untold++;
    }
}

static int telling(rondo_context *ctx, void *arg)
{
    struct tp_case *c = arg;
    struct tp_rank m;
    struct told t = { 0 };
    rondo_comm_stats before = RONDO_COMM_STATS_INIT, after = RONDO_COMM_STATS_INIT;
    static const int operations[3] = { RONDO_OP_ALL_GATHER, RONDO_OP_SCATTER, RONDO_OP_ALL_TO_ALL };
    int err = tp_rank_make(&m, ctx, c, NULL);
    if (!err)
        err = rondo_comm_query(ctx, &before);
    rondo_context_trace(ctx, event, &t);
    if (!err)
        err = tp_rank_run(&m, ctx, c, 0);
    rondo_context_trace(ctx, NULL, NULL);
    if (!err)
        err = rondo_comm_query(ctx, &after);
    for (int i = 0; i < 3 && !err; i++)
        sent[i] += after.bytes[operations[i]] - before.bytes[operations[i]];
    const char *nodes = c->few >= c->rows ? "nodes to all" : "nodes to their rows";
    if (m.columns)
        missing(&t, "nodes", "nodes");
    missing(&t, "join", "join");
    const int plane = getenv("RONDO_TEST_HOOK") && strstr(getenv("RONDO_TEST_HOOK"), "plane");   /* a stream waits, not the rank */
    const char *gathers = plane ? "all-gather" : "wait all-gather", *exchanges = plane ? "all-to-all" : "wait all-to-all";
    missing(&t, c->few >= c->rows ? gathers : plane ? "scatter" : "wait scatter", nodes);
    missing(&t, "find rows", "find rows");
    missing(&t, "convert rows", "convert rows");
    missing(&t, exchanges, "columns to rows");
    missing(&t, exchanges, "rows to columns");
    missing(&t, "pack", "place blocks");
    if (c->few < c->rows) {
        missing(&t, gathers, "rows to all");
        missing(&t, "pack", "gather rows");
    }
    tp_rank_free(&m);
    return err;
}

static void told(void)
{
    for (int few = 0; few < 2; few++) {
        struct tp_case c = { .ranks = 3, .division = EQUAL, .rows = 6, .few = few ? 6 : 2, .in = 40, .out = 24, .leaves = 6, .type = RONDO_F32,
                             .table_type = RONDO_F32, .calls = 1 };
        tp_case_make(&c);
        untold = 0;
        for (int i = 0; i < 3; i++)
            sent[i] = 0;
        is_int(rondo_run_threads(3, telling, &c), 0, "three ranks, %s rows, watched", few ? "few" : "many");
        is_int(untold, 0, "timelines say what each step was");
        /* two leaves each, which make one node; two sums */
        const uint64_t row = 24 * 4, all_sums = 2 * 3 * 2 * 6 * row, shared_sums = all_sums / 3, gathered = 2 * 6 * row;
        uint64_t elsewhere = 0, blocks = 0;
        for (int i = 0; i < 6; i++) {   /* rows 2r, 2r + 1 are rank r's where they are shared; the table is dealt out equally */
            int64_t first, count;
            for (int r = 0; r < 3; r++)
                if (!rondo_share(TP_TABLE, 3, NULL, r, &first, &count) && c.ids[i] >= first && c.ids[i] < first + count)
                    elsewhere += few ? 2 * row : i / 2 != r ? row : 0;
        }
        blocks = 2 * 6 * 2 * 8 * 4;     /* six blocks of 2 rows by 8 columns, each way */
        ok(sent[1] == (few ? 0 : shared_sums), "%llu bytes are scattered", (unsigned long long)sent[1]);
        ok(sent[0] == (few ? all_sums + elsewhere : gathered), "%llu gathered", (unsigned long long)sent[0]);
        ok(sent[2] == blocks + (few ? 0 : elsewhere), "%llu go from all to all", (unsigned long long)sent[2]);
        tp_case_free(&c);
    }
}

int main(void)
{
    shares();
    bad_shares();
    is_int(alone(), 0, "one rank");
    for (int kind = 0; kind < MISTAKES; kind++) {
        int err = rondo_run_threads(2, mistaken, &kind);
        ok(err && strstr(mistake_text[1], mistake_says[kind]) && strstr(mistake_text[0], mistake_says[kind]) && strstr(mistake_text[0], "rank 1"),
           "a mistake of rank 1: %s", mistake_text[0]);
        if (!err || !strstr(mistake_text[1], mistake_says[kind]))
            diag("%d, %s", err, mistake_text[1]);
    }
    told();
    return done();
}
