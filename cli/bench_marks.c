/* SPDX-License-Identifier: BSD-2-Clause
 *
 * --check: the marks that README promises, in one table. Each is a ratio taken within one run. They are about attention, linear layers
 * and memory: what else is measured has no mark, and bench.c says so.
 */
#include "cli/bench.h"

#include <string.h>

#define DECODE(t) { .tokens = 1, .cached = 65536, .heads = 32, .kv_heads = 8, .head_dim = 128, .causal = true, .decode = true, .type = t }
#define PREFILL(d, t) { .tokens = 4096, .heads = 32, .kv_heads = 8, .head_dim = d, .causal = true, .type = t }

#define BACKWARD(d) { .tokens = 4096, .heads = 32, .kv_heads = 8, .head_dim = d, .causal = true, .type = RONDO_F32, .backward = true }

enum mark_kind {
    MARK_FRACTION,      /* of the ceiling, at least */
    MARK_AGAINST_F32,   /* fraction over that of the same shape in f32, at least */
    MARK_CPU            /* CPU time of `ranks` ranks over that of one, at most */
};
static const struct mark {
    const char *what;
    enum mark_kind kind;
    struct shape shape;
    int ranks;
    double limit;
} marks[] = {
    { "causal prefill f32, D=128: part of the FMA ceiling", MARK_FRACTION, PREFILL(128, RONDO_F32), 1, 0.82 },
    { "causal prefill f32, D=64: part of the FMA ceiling", MARK_FRACTION, PREFILL(64, RONDO_F32), 1, 0.78 },
    { "bf16 keys and values against f32", MARK_AGAINST_F32, PREFILL(128, RONDO_BF16), 1, 0.95 },
    { "CPU time of 4 ranks against 1", MARK_CPU, PREFILL(128, RONDO_F32), 4, 1.05 },
    { "gradients f32, D=128: part of the FMA ceiling", MARK_FRACTION, BACKWARD(128), 1, 0.78 },
    { "gradients f32, D=64: part of the FMA ceiling", MARK_FRACTION, BACKWARD(64), 1, 0.74 },
    { "gradients: CPU time of 4 ranks against 1", MARK_CPU, BACKWARD(128), 4, 1.05 },
    { "decode over 65536 keys f32: part of the DRAM ceiling", MARK_FRACTION, DECODE(RONDO_F32), 1, 0.75 },
    { "decode over 65536 keys bf16: part of the DRAM ceiling", MARK_FRACTION, DECODE(RONDO_BF16), 1, 0.62 },
};

/* Linear layers: 512 rows against FMA, few ones against DRAM. */
#define LINEAR(m, t) { .rows = m, .in = 4096, .out = 14336, .type = t }
static const struct linear_mark {
    const char *what;
    struct shape shape;
    double limit;
} linear_marks[] = {
    { "linear layer of 512 rows f32: part of the FMA ceiling", LINEAR(512, RONDO_F32), 0.82 },
    { "linear layer of 512 rows bf16: part of the FMA ceiling", LINEAR(512, RONDO_BF16), 0.80 },
    { "linear layer of 1 row f32: part of the DRAM ceiling", LINEAR(1, RONDO_F32), 0.90 },
    { "linear layer of 1 row bf16: part of the DRAM ceiling", LINEAR(1, RONDO_BF16), 0.85 },
    { "linear layer of 8 rows f32: part of the DRAM ceiling", LINEAR(8, RONDO_F32), 0.75 },
    { "linear layer of 8 rows bf16: part of the DRAM ceiling", LINEAR(8, RONDO_BF16), 0.62 },
};

void bench_judge(struct bench *b, json_t *row, const char *what, double value, bool at_most, double limit)
{
    const bool pass = at_most ? value <= limit : value >= limit;
    json_t *mark = json_object();
    json_object_set_new(mark, "what", json_string(what));
    json_object_set_new(mark, "value", number(value));
    json_object_set_new(mark, "must", json_string(at_most ? "at most" : "at least"));
    json_object_set_new(mark, "limit", number(limit));
    json_object_set_new(mark, "pass", json_boolean(pass));
    json_object_set_new(row, "mark", mark);
    b->missed = b->missed || !pass;
    b->marks++;
}

static void judge(struct bench *b, json_t *row, const struct mark *m, double value)
{
    bench_judge(b, row, m->what, value, m->kind == MARK_CPU, m->limit);
}

#define ROUNDS 5

/* Two settings in turn, so that the machine's moods meet both; the median of the rounds' ratios. */
static int compare(struct bench *b, const struct mark *m)
{
    struct shape plain = m->shape;
    double ratio[ROUNDS] = { 0 };
    const int repeat = b->repeat;
    json_t *row = NULL;
    int code = 0;
    int32_t grid[2];
    memcpy(grid, common.grid, sizeof grid);
    plain.type = RONDO_F32;
    b->repeat = 1;   /* after one to warm up */
    for (int i = 0; i < ROUNDS && !code; i++) {
        struct attention_bench one, other;
        json_t *unused = NULL;
        memset(&other, 0, sizeof other);
        memset(common.grid, 0, sizeof common.grid);   /* which is that of all ranks */
        code = bench_attention(b, &plain, 1, 1, &one, &unused);
        memcpy(common.grid, grid, sizeof grid);
        json_decref(unused);
        json_decref(row);
        row = NULL;
        if (!code)
            code = bench_attention(b, &m->shape, m->ranks, 1, &other, &row);
        if (!code)
            ratio[i] = m->kind == MARK_CPU ? other.m.cpu / one.m.cpu : other.m.fraction / one.m.fraction;
    }
    b->repeat = repeat;
    if (code) {
        json_decref(row);
        return code;
    }
    judge(b, row, m, median(ratio, ROUNDS));
    return row_add(b, row);
}

static int measure_mark(struct bench *b, const struct mark *m)
{
    struct attention_bench got;
    json_t *row;
    if (m->kind != MARK_FRACTION)
        return compare(b, m);
    int code = bench_attention(b, &m->shape, m->ranks, 1, &got, &row);
    if (code)
        return code;
    judge(b, row, m, got.m.fraction);
    return row_add(b, row);
}

static int measure_linear(struct bench *b, const struct linear_mark *m)
{
    struct measurement got;
    json_t *row;
    const int code = bench_linear(b, &m->shape, 1, &got, &row);
    if (code)
        return code;
    bench_judge(b, row, m->what, got.fraction, false, m->limit);
    return row_add(b, row);
}

int bench_marks(struct bench *b)
{
    int code = 0;
    for (size_t i = 0; i < sizeof marks / sizeof *marks && !code; i++)
        code = measure_mark(b, &marks[i]);
    for (size_t i = 0; i < sizeof linear_marks / sizeof *linear_marks && !code; i++)
        code = measure_linear(b, &linear_marks[i]);
    static const struct shape terms = { .tokens = 8192, .heads = 32, .kv_heads = 8, .head_dim = 128, .causal = true, .type = RONDO_F32 };
    return code ? code : bench_terms(b, &terms);
}

/* The mark of gradients on ranks holds for any number of these, and of tokens with 1024 for each, however they share the work. */
static bool of_ranks(const struct mark *m, const struct shape *s, int ranks)
{
    return m->kind == MARK_CPU && m->shape.backward && ranks > 1 && s->tokens / ranks >= 1024;
}

static bool mark_of(const struct shape *s, int ranks, struct mark *out)
{
    char text[128];
    const bool usual = common.threads == 1 && !common.mpi && !*extras_text(s, text, sizeof text), chosen = common.layout || common.algorithm;
    for (size_t i = 0; i < sizeof marks / sizeof *marks && usual; i++) {
        const struct shape *m = &marks[i].shape;
        const bool any = of_ranks(&marks[i], s, ranks);
        if ((any || (ranks == marks[i].ranks && !chosen && (s->decode || s->tokens == m->tokens))) && s->cached == m->cached && s->heads == m->heads && s->kv_heads == m->kv_heads &&
            s->head_dim == m->head_dim && (!s->value_dim || s->value_dim == m->head_dim) && s->causal == m->causal && s->decode == m->decode &&
            s->backward == m->backward && s->type == m->type) {
            *out = marks[i];
            if (any) {
                out->what = "gradients: CPU time of these ranks against 1";
                out->shape.tokens = s->tokens;
                out->ranks = ranks;
            }
            return true;
        }
    }
    return false;
}

bool bench_has_mark(const struct shape *s, int ranks)
{
    struct mark unused;
    return mark_of(s, ranks, &unused);
}

int bench_mark(struct bench *b, const struct shape *s, int ranks)
{
    struct mark m;
    return mark_of(s, ranks, &m) ? measure_mark(b, &m)
             : fail(EXIT_USAGE, "--check: README's table has no mark for this shape with these ranks, threads (each has --threads 1) and options; "
                                "leave out the shape, then all of the table is measured, or leave out --check");
}
