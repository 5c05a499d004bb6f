/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What --calibrate finds of computing: rates of one rank with the machine to itself, and how much of that is left while all cores compute. Ranks
 * that are not asked sleep: a processor that looks for messages is not there for who computes. Clocks and caches are shared, and a virtual
 * machine's cores may be another one's at the same time.
 */
#include "cli/calibrate.h"

#include <stdlib.h>
#include <time.h>

#define HEADS TILE_HEADS
#define KV_HEADS TILE_KV_HEADS
#define LEAF 128.0

const int64_t calibrate_dims[CALIBRATE_DIMS] = { 64, 128, 256 };

void attention_close(struct attention *a)
{
    rondo_attention_destroy(a->plan);
    for (int i = 0; i < 5; i++)
        free(a->data[i]);
}

int attention_open(struct attention *a, rondo_context *ctx, const rondo_attention_desc *d)
{
    rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
    *a = (struct attention){ .io = RONDO_ATTENTION_IO_INIT };
    int code = rondo_attention_create(&a->plan, ctx, d);
    if (!code)
        code = rondo_attention_query(a->plan, &info);
    const int64_t q[3] = { info.q_rows, d->heads, d->head_dim }, k[3] = { info.kv_rows, d->kv_heads, d->head_dim }, lse[2] = { q[0], d->heads };
    for (uint32_t i = 0; i < 5 && !code; i++)
        if (!(a->data[i] = bench_numbers((i == 1 || i == 2 ? k[0] * k[1] : q[0] * q[1]) * d->head_dim + 1, RONDO_F32, i)))
            code = body_fail(RONDO_ENOMEM, "not enough memory for %lld keys", (long long)k[0]);
    a->io.q = rondo_tensor_dense(a->data[0], RONDO_F32, 3, q);
    a->io.k = rondo_tensor_dense(a->data[1], RONDO_F32, 3, k);
    a->io.v = rondo_tensor_dense(a->data[2], RONDO_F32, 3, k);
    a->io.out = rondo_tensor_dense(a->data[3], RONDO_F32, 3, q);
    a->io.lse = rondo_tensor_dense(a->data[4], RONDO_F32, 2, lse);
    return code;
}

static int open_shape(struct attention *a, rondo_context *ctx, int64_t heads, int64_t kv_heads, int64_t dim, int64_t tokens, int64_t cached)
{
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    d.heads = heads, d.kv_heads = kv_heads, d.head_dim = dim, d.tokens = tokens, d.cached = cached, d.causal = 1;
    return attention_open(a, ctx, &d);
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
        code = open_shape(&a[open], ctx, shape[0], shape[1], shape[2], shape[3], shape[4]);
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

const int64_t calibrate_rows[CALIBRATE_ROWS] = { 2, 4, 8, 16, 32, 88, 192, 512 };

/* What jobs of few rows reach of the rate of many, the last ones: a leaf is made ready for all rows of a KV head, and panels of rows
 * are not full. By turns, as ratios are asked for. */
static int find_rows(struct found *f, rondo_context *ctx, int repeat)
{
    enum { GROUP = HEADS / KV_HEADS, KEYS = 8192, DIM = 64 };   /* keys and values of all places do not stay in caches */
    double least[CALIBRATE_ROWS], rate[CALIBRATE_ROWS];
    int code = 0;
    for (int turn = 0; turn < TURNS; turn++)
        for (int i = 0; i < CALIBRATE_ROWS && !code; i++) {
            const int64_t tokens = calibrate_rows[i] / GROUP, shape[5] = { HEADS, KV_HEADS, DIM, tokens, KEYS };
            double seconds = 0.0;
            code = attention_seconds(ctx, tokens < 32 ? repeat : (repeat + TURNS - 1) / TURNS, shape, &seconds);
            least[i] = turn == 0 || seconds < least[i] ? seconds : least[i];
            const double all = pairs(KEYS + tokens) - pairs(KEYS) + f->edge * (double)tokens * (LEAF - 1.0) / 2.0;
            rate[i] = all / (least[i] > 2.0 * f->operation ? least[i] - f->operation : least[i]);
        }
    for (int i = 0; i < CALIBRATE_ROWS && !code; i++)
        f->part[i] = rate[i] < rate[CALIBRATE_ROWS - 1] ? rate[i] / rate[CALIBRATE_ROWS - 1] : 1.0;
    return code;
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
#define LEAD 0.03        /* until all have begun */
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
              open_shape(&t->attention, t->ctx, TILE_HEADS, TILE_KV_HEADS, TILE_DIM, TILE_TOKENS, 0) ||
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

static double rate_from(struct calibrate_tile *t, double begin, double seconds)
{
    double calls = 0.0, before = now();
    while (before < begin) {   /* others do so too */
        if (rondo_attention_execute(t->attention.plan, &t->attention.io, NULL))
            return 0.0;
        before = now();
    }
    const double end = before + seconds;
    for (double after = before; after < end; before = after) {
        if (rondo_attention_execute(t->attention.plan, &t->attention.io, NULL))
            return 0.0;
        after = now();
        calls += after <= end ? 1.0 : (end - before) / (after - before);   /* what is under way when the time is over counts in part */
    }
    return calls / seconds;
}

double calibrate_tile_rate(struct calibrate_tile *t, double seconds)
{
    return rate_from(t, 0.0, seconds);
}

struct crowd {
    const char *isa;
    double begin;                       /* when all do, in now()'s seconds, which a machine's processes share */
    double rates[MOST_CORES];           /* by rank */
};

static int crowd_body(rondo_context *rank, void *arg)
{
    struct crowd *all = arg;
    struct calibrate_tile *tile = calibrate_tile_open(all->isa);
    const int code = tile ? 0 : RONDO_ENOMEM;
    if (!code)
        all->rates[rondo_context_rank(rank)] = rate_from(tile, all->begin, WINDOW);
    calibrate_tile_close(tile);
    return code;
}

struct crowd_rates {
    double sum, slowest;
};

/* What these ranks' cores do together, all ranks knowing it: only rank 0's, or each rank its share. */
static int crowd_rates(const struct found *f, rondo_context *world, struct crowd *crowd, bool all, struct crowd_rates *got)
{
    const int ranks = rondo_context_ranks(world), rank = rondo_context_rank(world);
    const int mine = !all ? rank == 0 : f->share[rank] < MOST_CORES ? f->share[rank] : MOST_CORES;
    struct crowd_rates own = { 0.0, 1e300 }, *of = room(ranks, sizeof *of);
    size_t *sizes = room(ranks, sizeof *sizes);
    rondo_context_desc desc = RONDO_CONTEXT_DESC_INIT;
    int code = of && sizes ? 0 : body_fail(RONDO_ENOMEM, "not enough memory for %d ranks", ranks);
    desc.isa = crowd->isa;
    desc.threads = 1;
    crowd->begin = now() + LEAD;
    code = code ? code : rondo_broadcast(world, &crowd->begin, sizeof crowd->begin, 0);
    crowd->begin = f->in_crowd ? crowd->begin : 0.0;
    if (!code && mine)
        code = rondo_launch(mine, &desc, crowd_body, crowd);
    for (int r = 0; r < mine && !code; r++) {
        own.sum += crowd->rates[r];
        own.slowest = crowd->rates[r] < own.slowest ? crowd->rates[r] : own.slowest;
    }
    for (int r = 0; r < ranks && !code; r++)
        sizes[r] = sizeof own;
    code = code ? code : rondo_all_gather(world, &own, of, sizes);
    *got = (struct crowd_rates){ 0.0, 1e300 };
    for (int r = 0; r < ranks && !code; r++) {
        got->sum += of[r].sum;
        got->slowest = of[r].slowest < got->slowest ? of[r].slowest : got->slowest;
    }
    free(of);
    free(sizes);
    return code;
}

/* One alone and all together, by turns; the turn counts in which all did most. */
static int find_together(struct found *f, rondo_context *world, const char *isa)
{
    struct crowd *crowd = room(1, sizeof *crowd);
    double alone = 0.0, most = 0.0, least = 0.0;
    int code = crowd ? 0 : body_fail(RONDO_ENOMEM, "not enough memory to compute on all cores");
    if (crowd)
        crowd->isa = isa;
    for (int i = 0; i < 2 * f->b->repeat && f->cores > 1 && !code; i++) {
        struct crowd_rates one, all;
        code = crowd_rates(f, world, crowd, false, &one);
        if (!code)
            code = crowd_rates(f, world, crowd, true, &all);
        if (code)
            break;
        alone = one.sum > alone ? one.sum : alone;
        if (all.sum > most)
            most = all.sum, least = all.slowest;
    }
    f->together = alone > 0.0 && most < (double)f->cores * alone ? most / alone : (double)f->cores;
    f->slowest = alone > 0.0 && least < alone ? least / alone : 1.0;
    free(crowd);
    return code;
}

static int find_alone(struct found *f, const char *isa)
{
    rondo_context *ctx = NULL;
    rondo_context_desc desc = RONDO_CONTEXT_DESC_INIT;
    desc.isa = isa;
    desc.threads = 1;
    int code = rondo_context_create(&ctx, &desc);
    struct ceiling *fma = code ? NULL : ceiling_open(CEILING_FMA, isa, 1, 1, 0);
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
        code = find_rows(f, ctx, f->b->repeat);
    if (!code)
        code = calibrate_delta(f, ctx, f->b->repeat);
    rondo_context_destroy(ctx);
    return code;
}

/* The others wait in a barrier, where after a moment they sleep. */
static int find_idle(struct found *f, rondo_context *world, double cpu, double seconds)
{
    const int ranks = rondo_context_ranks(world);
    const bool waits = rondo_context_rank(world) != 0;
    double part = waits && seconds > 0.0 ? cpu / seconds : 0.0, *all = room(ranks, sizeof *all);
    size_t *sizes = room(ranks, sizeof *sizes);
    int code = all && sizes ? 0 : body_fail(RONDO_ENOMEM, "not enough memory for %d ranks", ranks);
    for (int r = 0; r < ranks && !code; r++)
        sizes[r] = sizeof part;
    code = code ? code : rondo_all_gather(world, &part, all, sizes);
    for (int r = 0; r < ranks && !code; r++)
        f->idle_cpu = all[r] > f->idle_cpu ? all[r] : f->idle_cpu;
    free(all);
    free(sizes);
    return code;
}

int calibrate_computing(struct found *f, rondo_context *world)
{
    const struct timespec moment = { 0, 20000000L };   /* until those that wait sleep */
    rondo_context_info info = RONDO_CONTEXT_INFO_INIT;
    int code = rondo_context_query(world, &info);
    code = code ? code : rondo_barrier(world);
    const double begin = now(), cpu = thread_cpu();
    if (!code && rondo_context_rank(world) == 0) {
        nanosleep(&moment, NULL);
        code = find_alone(f, info.isa);
        f->slice = calibrate_slice();
    }
    code = code ? code : rondo_barrier(world);
    code = code ? code : find_idle(f, world, thread_cpu() - cpu, now() - begin);
    return code ? code : find_together(f, world, info.isa);
}
