/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What --calibrate finds of computing: rates of one rank with the machine to itself, and how much of that is left while all cores compute.
 * Clocks and caches are shared, and a virtual machine's cores may be another one's at the same time.
 */
#include "cli/calibrate.h"

#include <stdlib.h>
#include <unistd.h>

#define HEADS TILE_HEADS
#define KV_HEADS TILE_KV_HEADS
#define LEAF 128.0

const int64_t calibrate_dims[CALIBRATE_DIMS] = { 64, 128, 256 };

struct attention {
    rondo_attention *plan;
    rondo_attention_io io;
    void *data[5];
};

static void attention_close(struct attention *a)
{
    rondo_attention_destroy(a->plan);
    for (int i = 0; i < 5; i++)
        free(a->data[i]);
}

static int attention_open(struct attention *a, rondo_context *ctx, int64_t heads, int64_t kv_heads, int64_t dim, int64_t tokens, int64_t cached)
{
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    const int64_t q[3] = { tokens, heads, dim }, k[3] = { tokens + cached, kv_heads, dim }, lse[2] = { tokens, heads };
    const int64_t sizes[5] = { tokens * heads * dim, k[0] * kv_heads * dim, k[0] * kv_heads * dim, tokens * heads * dim, tokens * heads };
    *a = (struct attention){ .io = RONDO_ATTENTION_IO_INIT };
    d.heads = heads, d.kv_heads = kv_heads, d.head_dim = dim, d.tokens = tokens, d.cached = cached, d.causal = 1;
    const int code = rondo_attention_create(&a->plan, ctx, &d);
    for (uint32_t i = 0; i < 5 && !code; i++)
        if (!(a->data[i] = bench_numbers(sizes[i], RONDO_F32, i)))
            return RONDO_ENOMEM;
    a->io.q = rondo_tensor_dense(a->data[0], RONDO_F32, 3, q);
    a->io.k = rondo_tensor_dense(a->data[1], RONDO_F32, 3, k);
    a->io.v = rondo_tensor_dense(a->data[2], RONDO_F32, 3, k);
    a->io.out = rondo_tensor_dense(a->data[3], RONDO_F32, 3, q);
    a->io.lse = rondo_tensor_dense(a->data[4], RONDO_F32, 2, lse);
    return code;
}

/* The fastest of some calls, the first of which is not counted; some with memory here and some with memory there, as this too makes calls
 * faster or slower. */
#define PLACES 5

static int attention_seconds(rondo_context *ctx, int repeat, const int64_t shape[5], double *least)
{
    struct attention a[PLACES];
    int code = 0, open = 0;
    *least = 1e30;
    for (; open < PLACES && !code; open++)
        code = attention_open(&a[open], ctx, shape[0], shape[1], shape[2], shape[3], shape[4]);
    for (int i = 0; i < PLACES * (repeat + 1) && !code; i++) {
        const double begin = now();
        code = rondo_attention_execute(a[i % PLACES].plan, &a[i % PLACES].io, NULL);
        const double took = now() - begin;
        *least = i >= PLACES && took < *least ? took : *least;
    }
    for (int i = 0; i < open; i++)
        attention_close(&a[i]);
    return code;
}

static double pairs(int64_t tokens)
{
    return (double)tokens * (double)(tokens + 1) / 2.0;
}

/* Rates, the edge and the time of nothing, of two lengths with heads of 128 and one with heads of each other size:
 *     seconds = operation + 4 * heads * dim * (pairs + edge * rows * (leaf - 1) / 2) / rate
 * They are measured by turns: a machine is slower at one time than at another, and the edge is a difference. */
#define TURNS 4

static int find_attention(struct found *f, rondo_context *ctx, int repeat)
{
    static const int64_t shapes[6][5] = {
        { 1, 1, 64, 1, 0 }, { HEADS, KV_HEADS, 128, 1, 8192 }, { HEADS, KV_HEADS, 128, 256, 0 },
        { HEADS, KV_HEADS, 64, 512, 512 }, { HEADS, KV_HEADS, 128, 1024, 0 }, { HEADS, KV_HEADS, 256, 512, 512 },
    };
    double least[6] = { 1e30, 1e30, 1e30, 1e30, 1e30, 1e30 };
    int code = 0;
    for (int turn = 0; turn < TURNS; turn++)
        for (int i = 0; i < 6 && !code; i++) {
            double seconds = 0.0;
            code = attention_seconds(ctx, i == 0 ? 20 : (repeat + TURNS - 1) / TURNS, shapes[i], &seconds);
            least[i] = seconds < least[i] ? seconds : least[i];
        }
    if (code)
        return code;
    f->operation = least[0];
    f->read = 2.0 * 8193 * KV_HEADS * 128 * 4 / least[1];
    /* few: pairs + edge * hidden is to the same of many as their seconds are */
    const double few = pairs(256), few_hidden = 256.0 * (LEAF - 1.0) / 2.0, many = pairs(1024), many_hidden = 1024.0 * (LEAF - 1.0) / 2.0;
    const double ratio = (least[2] - f->operation) / (least[4] - f->operation), edge = (ratio * many - few) / (few_hidden - ratio * many_hidden);
    f->edge = edge > 0.0 ? edge < 1.0 ? edge : 1.0 : 0.0;
    for (int i = 0; i < 3; i++) {
        const int64_t *s = shapes[3 + i];
        const double all = pairs(s[3] + s[4]) - pairs(s[4]) + f->edge * (double)s[3] * (LEAF - 1.0) / 2.0;
        f->rate[i] = 4.0 * HEADS * (double)calibrate_dims[i] * all / (least[3 + i] > f->operation ? least[3 + i] - f->operation : least[3 + i]);
    }
    return 0;
}

static int find_gemm(struct found *f, rondo_context *ctx, int repeat)
{
    enum { ROWS = 512, SIZE = 1024 };
    rondo_linear *linear = NULL;
    rondo_linear_desc d = RONDO_LINEAR_DESC_INIT;
    float *w = bench_numbers(SIZE * SIZE, RONDO_F32, 0), *x = bench_numbers(ROWS * SIZE, RONDO_F32, 1), *y = room(ROWS * SIZE, sizeof *y);
    d.in = d.out = SIZE;
    d.type = RONDO_F32;
    int code = w && x && y ? rondo_linear_create(&linear, ctx, &d) : RONDO_ENOMEM;
    if (!code)
        code = rondo_linear_load(linear, 0, SIZE, w);
    for (int i = -1; i < 2 * repeat && !code; i++) {
        const double begin = now();
        code = rondo_linear_execute(linear, ctx, ROWS, x, SIZE, y, SIZE, NULL, 0);
        const double rate = 2.0 * ROWS * SIZE * SIZE / (now() - begin);
        f->gemm = i >= 0 && rate > f->gemm ? rate : f->gemm;
    }
    rondo_linear_destroy(linear);
    free(w);
    free(x);
    free(y);
    return code;
}

/* ---- all cores ---- */

#define WINDOW 0.03      /* seconds */
#define MOST_CORES 1024

struct calibrate_tile {
    rondo_context *ctx;
    struct attention attention;
};

struct calibrate_tile *calibrate_tile_open(const char *isa)
{
    struct calibrate_tile *t = room(1, sizeof *t);
    rondo_context_desc desc = RONDO_CONTEXT_DESC_INIT;
    desc.isa = isa;
    desc.threads = 1;
    if (t && (rondo_context_create(&t->ctx, &desc) ||
              attention_open(&t->attention, t->ctx, TILE_HEADS, TILE_KV_HEADS, TILE_DIM, TILE_TOKENS, 0) ||
              rondo_attention_execute(t->attention.plan, &t->attention.io, NULL))) {
        calibrate_tile_close(t);
        return NULL;
    }
    return t;
}

void calibrate_tile_close(struct calibrate_tile *t)
{
    if (!t)
        return;
    attention_close(&t->attention);
    rondo_context_destroy(t->ctx);
    free(t);
}

double calibrate_tile_rate(struct calibrate_tile *t, double seconds)
{
    double calls = 0.0, before = now();
    const double end = before + seconds;
    for (double after = before; after < end; before = after) {
        if (rondo_attention_execute(t->attention.plan, &t->attention.io, NULL))
            return 0.0;
        after = now();
        calls += after <= end ? 1.0 : (end - before) / (after - before);   /* what is under way when the time is over counts in part */
    }
    return calls / seconds;
}

struct crowd {
    const char *isa;
    double rates[MOST_CORES];           /* by rank */
};

/* Begins with the others. */
static int crowd_body(rondo_context *rank, void *arg)
{
    struct crowd *all = arg;
    struct calibrate_tile *tile = calibrate_tile_open(all->isa);
    int code = tile ? rondo_barrier(rank) : RONDO_ENOMEM;
    if (!code)
        all->rates[rondo_context_rank(rank)] = calibrate_tile_rate(tile, WINDOW);
    calibrate_tile_close(tile);
    return code;
}

/* One alone and all together, by turns; the turn counts in which all did most. */
static int find_together(struct found *f, const char *isa, int repeat)
{
    const long online = sysconf(_SC_NPROCESSORS_ONLN);
    const int cores = online < 1 ? 1 : online < MOST_CORES ? (int)online : MOST_CORES;
    rondo_context_desc desc = RONDO_CONTEXT_DESC_INIT;
    struct crowd crowd = { .isa = isa };
    double alone = 0.0, most = 0.0, least = 0.0;
    int code = 0;
    desc.isa = isa;
    desc.threads = 1;
    for (int i = 0; i < 2 * repeat && cores > 1 && !code; i++) {
        double sum = 0.0, slowest = 1e300;
        code = rondo_launch(1, &desc, crowd_body, &crowd);
        alone = crowd.rates[0] > alone ? crowd.rates[0] : alone;
        if (!code)
            code = rondo_launch(cores, &desc, crowd_body, &crowd);
        for (int r = 0; r < cores; r++) {
            sum += crowd.rates[r];
            slowest = crowd.rates[r] < slowest ? crowd.rates[r] : slowest;
        }
        if (sum > most)
            most = sum, least = slowest;
    }
    f->together = alone > 0.0 && most < cores * alone ? most / alone : cores;
    f->slowest = alone > 0.0 && least < alone ? least / alone : 1.0;
    return code;
}

int calibrate_computing(struct found *f, const rondo_context *world)
{
    rondo_context *ctx = NULL;
    rondo_context_desc desc = RONDO_CONTEXT_DESC_INIT;
    rondo_context_info info = RONDO_CONTEXT_INFO_INIT;
    int code = rondo_context_query(world, &info);
    desc.isa = info.isa;
    desc.threads = 1;
    if (!code)
        code = rondo_context_create(&ctx, &desc);
    struct ceiling *fma = code ? NULL : ceiling_open(CEILING_FMA, info.isa, 1, 1, 0);
    if (!code && !fma)
        code = body_fail(RONDO_ENOMEM, "not enough memory to measure a ceiling");
    for (int i = 0; i < f->b->repeat && !code; i++) {
        const double rate = ceiling_rate(fma, 0.0);
        f->peak = rate > f->peak ? rate : f->peak;
    }
    ceiling_close(fma);
    if (!code)
        code = find_gemm(f, ctx, f->b->repeat);
    if (!code)
        code = find_attention(f, ctx, f->b->repeat);
    if (!code)
        code = find_together(f, info.isa, f->b->repeat);
    rondo_context_destroy(ctx);
    return code;
}
