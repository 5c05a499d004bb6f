/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Gradients of layers that ranks share have the bits of one rank: dx where ranks have outputs, dw and biases' where they have tokens, on 1 to 9
 * ranks, however outputs and leaves are dealt out, for few rows and many, upon what was there, called once and again; and where both are
 * shared, on ranks in two directions. Where an allocation or a transfer fails, the n-th for every n, all ranks say so. As `3610-gradient-ranks.t mpi` under mpirun, the same on its ranks: t/3350-tp-mpi.t.
 */
#include <stdatomic.h>
#include <stdlib.h>

#include "core/internal.h"
#include "memory.h"
#include "tap.h"

enum { TABLE = 23 };
enum { RANKS = 9, IN = 21, OUT = 34, DX_LEAVES = 13, SEQUENCES = 3, LEAVES = 12, LEAF = 128, GAP = 3 };
/* Tokens of each sequence: 12 leaves in all, 5, 1 and 6 of them, the last of each not full. */
static const int64_t length[SEQUENCES] = { 4 * LEAF + 9, 100, 5 * LEAF + 1 };
enum { TOKENS = 4 * LEAF + 9 + 100 + 5 * LEAF + 1 };

enum deal { CONTIGUOUS, ZIGZAG, STRIPED, ANYHOW, ON_LAST, DEALS };
static const char *const deal_names[] = { "contiguous", "zigzag", "striped", "anyhow", "all on the last" };

static float x[TOKENS][IN], dy[TOKENS][OUT], weights[OUT][IN];
static float want_dx[TOKENS][IN], want_dw[OUT][IN], want_db[OUT], want_table[2][TABLE][OUT];
static int32_t ids[TOKENS];       /* some rows are named often, some once, some never */
static int32_t labels[TOKENS];    /* of dy as logits; some are ignored */
static double want_loss[TOKENS], want_total;
static float want_slope[TOKENS][OUT];
static int64_t want_count;
static float few_dx[TOKENS][IN];

static float number(uint64_t seed, uint64_t i)
{
    return (float)(int32_t)(rondo__mix64(seed * 1000003u + i) & 0xffffffffu) * 0x1p-31f;
}

static int owner(int deal, int leaf, int ranks)
{
    const int chunk = leaf * 2 * ranks / LEAVES;
    switch (deal) {
    case CONTIGUOUS:
        return leaf * ranks / LEAVES;
    case ZIGZAG:
        return chunk < ranks ? chunk : 2 * ranks - 1 - chunk;
    case STRIPED:
        return leaf % ranks;
    case ANYHOW:
        return (int)(rondo__mix64((uint64_t)(leaf + 31 * ranks)) % (uint64_t)ranks);
    default:
        return ranks - 1;
    }
}

enum { IGNORE = -3 };
static rondo_cross_entropy_io entropy_of(int64_t rows, const float *logits, const int32_t *names, double *loss, float *slope)
{
    static const float by = 0.375f;
    rondo_cross_entropy_io io = RONDO_CROSS_ENTROPY_IO_INIT;
    io.rows = rows;
    io.classes = OUT;
    io.leaves = DX_LEAVES;
    io.ignore = IGNORE;
    io.labels = names;
    io.logits = logits;
    io.stride = OUT;
    io.loss = loss;
    io.dloss = &by;
    io.dx = slope;
    io.dx_stride = OUT;
    io.add = 1;
    return io;
}

static int reference(rondo_context *ctx, void *arg)
{
    rondo_tokens_desc td = RONDO_TOKENS_DESC_INIT;
    rondo_linear_desc ld = RONDO_LINEAR_DESC_INIT;
    rondo_tokens *tokens = NULL;
    rondo_linear *linear = NULL;
    (void)arg;
    td.sequences = SEQUENCES;
    td.lengths = length;
    ld.in = IN;
    ld.out = OUT;
    int err = rondo_tokens_create(&tokens, &td);
    if (!err)
        err = rondo_linear_create(&linear, ctx, &ld);
    if (!err)
        err = rondo_linear_load(linear, 0, OUT, weights);
    for (int i = 0; i < TOKENS * IN; i++)
        (&want_dx[0][0])[i] = number(7, (uint64_t)i);
    if (!err)
        err = rondo_linear_dx(linear, ctx, TOKENS, &dy[0][0], OUT, DX_LEAVES, &want_dx[0][0], IN, 1);
    if (!err)
        err = rondo_linear_dx(linear, ctx, 3, &dy[0][0], OUT, DX_LEAVES, &few_dx[0][0], IN, 0);
    for (int i = 0; i < OUT * IN; i++)
        (&want_dw[0][0])[i] = number(8, (uint64_t)i);
    if (!err)
        err = rondo_linear_dw(ctx, tokens, OUT, &dy[0][0], OUT, IN, &x[0][0], IN, &want_dw[0][0], IN, 1);
    if (!err)
        err = rondo_token_sum(ctx, tokens, OUT, &dy[0][0], OUT, want_db, 0);
    for (int i = 0; i < TABLE * OUT; i++)
        (&want_table[1][0][0])[i] = number(9, (uint64_t)i);
    for (int add = 0; add < 2 && !err; add++)
        err = rondo_lookup_dw(ctx, tokens, ids, TABLE, 0, TABLE, OUT, &dy[0][0], OUT, &want_table[add][0][0], OUT, add);
    rondo_cross_entropy_io io = entropy_of(TOKENS, &dy[0][0], labels, want_loss, &want_slope[0][0]);
    for (int i = 0; i < TOKENS * OUT; i++)
        (&want_slope[0][0])[i] = number(10, (uint64_t)i);
    if (!err)
        err = rondo_cross_entropy(ctx, &io);
    if (!err)
        err = rondo_token_loss(tokens, want_loss, labels, IGNORE, &want_total, &want_count);
    rondo_linear_destroy(linear);
    rondo_tokens_destroy(tokens);
    return err;
}

/* ---- what a rank has ---- */

struct rank {
    rondo_tokens *tokens;
    float *x, *dy;                /* its tokens, from the last leaf to the first; [rows][IN + GAP], [rows][OUT + GAP] */
    int32_t *ids, *labels;
    double *loss;
};

/* Of tokens that `parts` share the part `part`, outputs from `out` on. */
static int rank_make(struct rank *m, int deal, int parts, int part)
{
    rondo_tokens_desc d = RONDO_TOKENS_DESC_INIT;
    rondo_span spans[LEAVES];
    int64_t counts[RANKS * SEQUENCES] = { 0 }, rows[RANKS] = { 0 }, row_of[LEAVES], begin[LEAVES], count[LEAVES];
    int sequence_of[LEAVES], n = 0;
    for (int s = 0, leaf = 0, before = 0; s < SEQUENCES; before += (int)length[s++])
        for (int64_t p = 0; p < length[s]; p += LEAF, leaf++) {
            begin[leaf] = before + p;
            count[leaf] = length[s] - p < LEAF ? length[s] - p : LEAF;
            sequence_of[leaf] = s;
        }
    for (int leaf = LEAVES - 1; leaf >= 0; leaf--) {
        const int o = owner(deal, leaf, parts);
        row_of[leaf] = rows[o];
        rows[o] += count[leaf];
    }
    for (int r = 0; r < parts; r++)
        for (int s = 0; s < SEQUENCES; s++)
            for (int leaf = 0; leaf < LEAVES; leaf++)
                if (sequence_of[leaf] == s && owner(deal, leaf, parts) == r) {
                    int64_t start = 0;
                    for (int q = 0; q < s; q++)
                        start += length[q];
                    spans[n++] = (rondo_span){ begin[leaf] - start, count[leaf], 1, row_of[leaf] };
                    counts[r * SEQUENCES + s]++;
                }
    d.sequences = SEQUENCES;
    d.parts = parts;
    d.part = part;
    d.spans = spans;
    d.span_counts = counts;
    m->x = calloc((size_t)rows[part] + 1, (IN + GAP) * sizeof *m->x);
    m->dy = calloc((size_t)rows[part] + 1, (OUT + GAP) * sizeof *m->dy);
    m->ids = calloc((size_t)rows[part] + 1, sizeof *m->ids);
    m->labels = calloc((size_t)rows[part] + 1, sizeof *m->labels);
    m->loss = calloc((size_t)rows[part] + 1, sizeof *m->loss);
    if (!m->x || !m->dy || !m->ids || !m->labels || !m->loss)
        exit(99);
    for (int leaf = 0; leaf < LEAVES; leaf++)
        for (int64_t i = 0; i < count[leaf] && owner(deal, leaf, parts) == part; i++) {
            memcpy(m->x + (row_of[leaf] + i) * (IN + GAP), x[begin[leaf] + i], sizeof x[0]);
            memcpy(m->dy + (row_of[leaf] + i) * (OUT + GAP), dy[begin[leaf] + i], sizeof dy[0]);
            m->ids[row_of[leaf] + i] = ids[begin[leaf] + i];
            m->labels[row_of[leaf] + i] = labels[begin[leaf] + i];
            m->loss[row_of[leaf] + i] = want_loss[begin[leaf] + i];
        }
    return rondo_tokens_create(&m->tokens, &d);
}

static void rank_free(struct rank *m)
{
    rondo_tokens_destroy(m->tokens);
    free(m->x);
    free(m->dy);
    free(m->ids);
    free(m->labels);
    free(m->loss);
}

/* ---- sums over tokens ---- */

struct work {
    int deal, few;
    _Atomic int wrong;
    int columns;                  /* ranks in the other direction: outputs */
};

/* The gradient of a table whose rows the ranks share, some of them having none. */
static int table_of(rondo_tp *tp, const rondo_context *ctx, struct work *w, const struct rank *m, int add)
{
    rondo_tp_table t = RONDO_TP_TABLE_INIT;
    double shares[RANKS] = { 0 };
    int64_t first = 0, count = 0;
    float dw[TABLE][OUT + GAP];
    for (int r = 0; r < ctx->ranks; r++)
        shares[r] = w->deal == ANYHOW ? r % 3 : w->deal == STRIPED ? r == ctx->ranks / 2 : 1;
    shares[0] += ctx->ranks == 1;
    t.total = TABLE;
    t.width = OUT;
    t.weights = shares;
    int err = rondo_share(TABLE, ctx->ranks, shares, ctx->rank, &first, &count);
    for (int r = 0; r < TABLE; r++)
        for (int i = 0; i < OUT; i++)
            dw[r][i] = add ? number(9, (uint64_t)((first + r) * OUT + i)) : -1.0f;
    if (!err)
        err = rondo_tp_lookup_dw(tp, m->tokens, &t, m->ids, m->dy, OUT + GAP, &dw[0][0], OUT + GAP, add);
    for (int64_t r = 0; r < count && !err; r++)
        w->wrong |= memcmp(dw[r], want_table[add][first + r], sizeof want_table[0][0]) ? 8 : 0;
    return err;
}

/* Outputs [o0, o1) of the sums over the tokens of ctx's ranks. */
static int sums(rondo_context *ctx, struct work *w, int o0, int o1)
{
    struct rank dealt[2] = { { .tokens = NULL }, { .tokens = NULL } };   /* in turn, with one object */
    rondo_tp *tp = NULL;
    rondo_tp_desc td = RONDO_TP_DESC_INIT;
    const int out = o1 - o0;
    int64_t first = 0, count = 0;
    float *dw = calloc((size_t)out + 1, (IN + GAP) * sizeof *dw), db[OUT];
    td.few = w->few ? OUT : 1;
    if (!dw)
        exit(99);
    int err = rank_make(&dealt[0], w->deal, ctx->ranks, ctx->rank);
    if (!err)
        err = rank_make(&dealt[1], (w->deal + 1) % DEALS, ctx->ranks, ctx->rank);
    if (!err)
        err = rondo_tp_create(&tp, ctx, &td);
    if (!err)
        err = rondo_tp_rows(tp, out, ctx->rank, &first, &count);
    for (int round = 0; round < 4 && !err; round++) {
        const struct rank *m = &dealt[round % 2];
        for (int64_t r = 0; r < count; r++)
            for (int i = 0; i < IN; i++)
                dw[r * (IN + GAP) + i] = number(8, (uint64_t)((o0 + first + r) * IN + i));
        memset(db, 0x55, sizeof db);
        err = rondo_tp_linear_dw(tp, m->tokens, out, m->dy + o0, OUT + GAP, IN, m->x, IN + GAP, dw, IN + GAP, 1);
        if (!err)
            err = rondo_tp_token_sum(tp, m->tokens, out, m->dy + o0, OUT + GAP, db, 0);
        for (int64_t r = 0; r < count && !err; r++)
            w->wrong |= memcmp(dw + r * (IN + GAP), want_dw[o0 + first + r], sizeof want_dw[0]) ? 1 : 0;
        if (!err)
            w->wrong |= memcmp(db, want_db + o0, (size_t)out * sizeof *db) ? 2 : 0;
        if (!err && out == OUT)
            err = table_of(tp, ctx, w, m, round / 2);
        double total = -1.0;
        int64_t counted = -1;
        if (!err)
            err = rondo_tp_token_loss(tp, m->tokens, m->loss, m->labels, IGNORE, &total, &counted);
        w->wrong |= !err && (memcmp(&total, &want_total, sizeof total) || counted != want_count) ? 16 : 0;
    }
    rondo_tp_destroy(tp);
    rank_free(&dealt[0]);
    rank_free(&dealt[1]);
    free(dw);
    return err;
}

static int sums_body(rondo_context *ctx, void *arg)
{
    return sums(ctx, arg, 0, OUT);
}

/* ---- dx ---- */

/* Losses and gradients of the logits of classes [c0, c1); every other rank wants one of the two alone. */
static int loss_of(rondo_tp *tp, struct work *w, int64_t rows, const int32_t *begin, int c0, int c1)
{
    const int own = c1 - c0;
    double *loss = calloc((size_t)rows, sizeof *loss);
    float *slope = calloc((size_t)(rows * own) + 1, sizeof *slope);
    int err = 0;
    if (!loss || !slope)
        exit(99);
    for (int round = 0; round < 3 && !err; round++) {
        rondo_cross_entropy_io io = entropy_of(rows, own ? &dy[0][c0] : NULL, labels, (round + c0) % 3 ? loss : NULL, (round + c0) % 3 < 2 ? slope : NULL);
        io.dx_stride = own;
        for (int64_t i = 0; i < rows * own; i++)
            slope[i] = number(10, (uint64_t)(i / own * OUT + c0 + i % own));
        err = rondo_tp_cross_entropy(tp, begin, &io);
        if (!err && io.loss)
            w->wrong |= memcmp(loss, want_loss, (size_t)rows * sizeof *loss) ? 32 : 0;
        for (int64_t r = 0; r < rows && !err && io.dx; r++)
            w->wrong |= memcmp(slope + r * own, &want_slope[r][c0], (size_t)own * sizeof *slope) ? 64 : 0;
    }
    free(loss);
    free(slope);
    return err;
}

/* Outputs of the leaves of ctx's ranks, of `rows` rows. */
static int dx_of(rondo_context *ctx, struct work *w, int64_t rows)
{
    rondo_tp *tp = NULL;
    rondo_tp_desc td = RONDO_TP_DESC_INIT;
    rondo_tp_outputs o = RONDO_TP_OUTPUTS_INIT;
    rondo_linear_desc ld = RONDO_LINEAR_DESC_INIT;
    rondo_linear *linear = NULL;
    int32_t begin[RANKS + 1];
    int64_t first = 0, count = 0;
    const int ranks = ctx->ranks, me = ctx->rank;
    for (int r = 0; r <= ranks; r++)   /* some ranks have nothing */
        begin[r] = r == ranks ? DX_LEAVES : w->deal == ON_LAST ? 0 : w->deal == ANYHOW ? DX_LEAVES * (r & ~1) / ranks : DX_LEAVES * r / ranks;
    const int o0 = begin[me] * OUT / DX_LEAVES, o1 = begin[me + 1] * OUT / DX_LEAVES;
    o.in = IN;
    o.out = OUT;
    o.leaves = DX_LEAVES;
    o.leaf_begin = begin;
    ld.in = IN;
    ld.out = o1 - o0;
    int err = o1 > o0 ? rondo_linear_create(&linear, ctx, &ld) : 0;
    if (!err && linear)
        err = rondo_linear_load(linear, 0, o1 - o0, weights[o0]);
    if (!err)
        err = rondo_tp_create(&tp, ctx, &td);
    if (!err)
        err = rondo_tp_rows(tp, rows, me, &first, &count);
    const int few = rows < 16;
    float *dx = calloc((size_t)count + 1, (IN + GAP) * sizeof *dx);
    if (!dx)
        exit(99);
    for (int round = 0; round < 2 && !err; round++) {
        for (int64_t r = 0; r < count; r++)
            for (int i = 0; i < IN; i++)
                dx[r * (IN + GAP) + i] = few ? -1.0f : number(7, (uint64_t)((first + r) * IN + i));
        err = rondo_tp_linear_dx(tp, &o, linear, rows, o1 > o0 ? &dy[0][o0] : NULL, OUT, dx, IN + GAP, !few);
        for (int64_t r = 0; r < count && !err; r++)
            w->wrong |= memcmp(dx + r * (IN + GAP), few ? few_dx[first + r] : want_dx[first + r], sizeof want_dx[0]) ? 4 : 0;
    }
    free(dx);
    if (!err)
        err = loss_of(tp, w, rows, begin, o0, o1);
    rondo_tp_destroy(tp);
    rondo_linear_destroy(linear);
    return err;
}

static int dx_body(rondo_context *ctx, void *arg)
{
    int err = dx_of(ctx, arg, TOKENS);
    return err ? err : dx_of(ctx, arg, 3);
}

/* ---- both directions ---- */

/* Rank r has the outputs of r % columns and the tokens of r / columns. */
static int both_body(rondo_context *ctx, void *arg)
{
    struct work *w = arg;
    const int t = ctx->rank % w->columns;
    rondo_context *others = NULL;
    int err = rondo_context_split(&others, ctx, t, ctx->rank);
    if (!err)
        err = sums(others, w, OUT * t / w->columns, OUT * (t + 1) / w->columns);
    rondo_context_destroy(others);
    return err;
}

static void judge(int err, struct work *w, const char *what, int ranks, const char *more)
{
    ok(!err && !w->wrong, "%s, %d ranks, %s%s: the bits of one", what, ranks, deal_names[w->deal], more);
    if (err || w->wrong)
        diag("wrong %d; %s", (int)w->wrong, err ? rondo_error_text() : "");
}

static void grid(int least, int most, const char *more)
{
    for (int ranks = least; ranks <= most; ranks++)
        for (int deal = 0; deal < DEALS; deal++) {
            struct work w = { .deal = deal, .few = (ranks + deal) % 2 };
            judge(rondo_run_threads(ranks, sums_body, &w), &w, "dw, sums and tables", ranks, more);
            w.wrong = 0;
            judge(rondo_run_threads(ranks, dx_body, &w), &w, "dx and losses", ranks, more);
        }
}

static int over_mpi(rondo_context *ctx, void *arg)
{
    (void)arg;
    for (int deal = 0; deal < DEALS; deal++) {
        struct work w = { .deal = deal, .few = deal % 2, .columns = 2 };
        int err = sums_body(ctx, &w);
        if (!err)
            err = dx_body(ctx, &w);
        if (!err && ctx->ranks % 2 == 0)
            err = both_body(ctx, &w);
        if (!err && w.wrong)
            err = rondo__fail(RONDO_EMISMATCH, "rank %d has other bits (%d), %s", ctx->rank, (int)w.wrong, deal_names[deal]);
        if (err)
            return err;
    }
    if (!ctx->rank)
        printf("%d ranks: the bits of one\n", ctx->ranks);
    return 0;
}

static int refused_body(rondo_context *ctx, void *arg)
{
    struct rank m = { .tokens = NULL };
    rondo_tp *tp = NULL;
    float y[OUT * IN];
    (void)arg;
    int err = rank_make(&m, CONTIGUOUS, 3, ctx->rank);
    if (!err)
        err = rondo_tp_create(&tp, ctx, NULL);
    if (!err)
        err = rondo_tp_linear_dw(tp, m.tokens, OUT, m.dy, OUT, IN, m.x, IN, y, IN, 0);
    rondo_tp_destroy(tp);
    rank_free(&m);
    return err;
}

static int outputs_refused(rondo_context *ctx, void *arg)
{
    rondo_tp *tp = NULL;
    rondo_tp_outputs o = RONDO_TP_OUTPUTS_INIT;
    const int32_t begin[3] = { 0, 2, 1 };
    float y[IN];
    (void)arg;
    o.in = IN;
    o.out = OUT;
    o.leaves = 2;
    o.leaf_begin = begin;
    int err = rondo_tp_create(&tp, ctx, NULL);
    if (!err)
        err = rondo_tp_linear_dx(tp, &o, NULL, 1, y, OUT, y, IN, 0);
    rondo_tp_destroy(tp);
    return err;
}

/* ---- allocations and transfers that fail ---- */

struct attempt {
    rondo_body *body;
    struct work w;
};

static int attempt(void *arg, int *right)
{
    struct attempt *a = arg;
    a->w.wrong = 0;
    const int err = rondo_run_threads(3, a->body, &a->w);
    *right = !err && !a->w.wrong;
    return err;
}

/* On one rank: what reference() makes is what it made at first. */
static int alone(void *arg, int *right)
{
    float was[OUT][IN], table[2][TABLE][OUT];
    (void)arg;
    memcpy(was, want_dw, sizeof was);
    memcpy(table, want_table, sizeof table);
    const int err = rondo_run_threads(1, reference, NULL);
    *right = !err && !memcmp(was, want_dw, sizeof was) && !memcmp(table, want_table, sizeof table);
    memcpy(want_dw, was, sizeof was);
    memcpy(want_table, table, sizeof table);
    return err;
}

static void faults(void)
{
    static const char *const ways[] = { "", "copy", "space,defer", "plane,space,defer" };
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        char what[80];
        if (*ways[i])
            setenv("RONDO_TEST_HOOK", ways[i], 1);
        for (int dx = 0; dx < 2; dx++) {
            struct attempt a = { dx ? dx_body : sums_body, { .deal = i % 2 ? ANYHOW : ZIGZAG } };
            snprintf(what, sizeof what, "%s, \"%s\"", dx ? "dx and losses" : "dw, sums and tables", ways[i]);
            memory_failures(attempt, &a, 17, what);
            transport_failures(attempt, &a, 7, ways[i], what);
        }
        snprintf(what, sizeof what, "gradients of layers on one rank, \"%s\"", ways[i]);
        if (i % 2 == 0)
            memory_failures(alone, NULL, 3, what);
        unsetenv("RONDO_TEST_HOOK");
    }
    int right;   /* for what comes later, without a failure */
    if (alone(NULL, &right) || !right)
        exit(99);
}

int main(int argc, char **argv)
{
    memory_hooks();
    char *hook = getenv("RONDO_TEST_HOOK") ? strdup(getenv("RONDO_TEST_HOOK")) : NULL;
    for (int i = 0; i < TOKENS * IN; i++)
        (&x[0][0])[i] = number(1, (uint64_t)i);
    for (int i = 0; i < TOKENS * OUT; i++)
        (&dy[0][0])[i] = number(2, (uint64_t)i);
    for (int i = 0; i < OUT * IN; i++)
        (&weights[0][0])[i] = number(3, (uint64_t)i);
    for (int i = 0; i < TOKENS; i++)
        labels[i] = i % 11 == 5 ? IGNORE : (int)(rondo__mix64((uint64_t)i + 77) % OUT);
    for (int i = 0; i < TOKENS; i++)
        ids[i] = i == 300 ? 17 : i % 3 ? (int)(rondo__mix64((uint64_t)i) % 6) : (int)(rondo__mix64((uint64_t)i) % (TABLE - 8));
    unsetenv("RONDO_TEST_HOOK");
    if (rondo_run_threads(1, reference, NULL)) {
        diag("%s", rondo_error_text());
        return 99;
    }
    if (hook)
        setenv("RONDO_TEST_HOOK", hook, 1);
    if (argc > 1 && !strcmp(argv[1], "mpi")) {
        rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
        d.transport = "mpi";
        d.threads = 1;
        int err = rondo_launch(0, &d, over_mpi, NULL);
        if (err)
            fprintf(stderr, "%s: %s\n", rondo_error_name(err), rondo_error_text());
        return err != 0;
    }
    grid(1, RANKS, "");
    for (int columns = 2; columns <= 3; columns++)
        for (int rows = 1; rows <= 3; rows++) {
            struct work w = { .deal = ANYHOW, .columns = columns };
            judge(rondo_run_threads(columns * rows, both_body, &w), &w, "outputs and tokens shared", columns * rows, "");
        }
    static const char *const machines[] = { "copy", "space,defer", "plane,space,defer" };
    for (size_t i = 0; i < sizeof machines / sizeof *machines && !hook; i++) {
        char text[40];
        snprintf(text, sizeof text, ", %s", machines[i]);
        setenv("RONDO_TEST_HOOK", machines[i], 1);
        grid(3, 3, text);
        unsetenv("RONDO_TEST_HOOK");
    }
    if (!hook)
        faults();
    ok(rondo_run_threads(2, refused_body, NULL) == RONDO_EINVAL && strstr(rondo_error_text(), "of 3"), "tokens of another number of ranks are refused");
    ok(rondo_run_threads(2, outputs_refused, NULL) == RONDO_EINVAL && strstr(rondo_error_text(), "leaf_begin[2] is 1"), "leaves that descend are refused");
    free(hook);
    return done();
}
