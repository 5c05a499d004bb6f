/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Whether the cuDNN of this machine computes what it should on this card: two small problems by it and by the strict kernels, whose results may differ by
 * what rondo-numerics(7) says of level fast. cuDNN 9.19 is known to make plans without a word that are wrong from the first number on. Run when a
 * process makes a program of level fast on a card first; where a result misses the bound, the library is refused with a sentence, then and later.
 * Before that it is asked for log(sum(exp)) [rows][heads], as rondo's are: a library that makes a plan of it, and is not right then, is only not
 * asked for this again. Called by fast.c.
 */
#include "backends/cuda/dnn.h"

#include <pthread.h>
#include <stdio.h>

#include "backends/cpu/num.h"

#define MOST_CARDS 64
enum { KEYS = 136, MOST_ROWS = 80, HEADS = 4, KV_HEADS = 2, MOST_DIM = 128 };
static const double e = 0x1p-24, ln2 = 0x1.62e42fefa39efp-1;

struct problem {
    const char *name;
    int32_t type, rows, dim, causal;
};
static const struct problem problems[] = {
    { "causal attention in BF16", RONDO_BF16, 72, 128, 1 },
    { "full attention in F16", RONDO_F16, 80, 64, 0 },
};
static const float scale_log2 = 0.375f;

/* What a problem has here and, in the same places, on the card. q and k are eighths from -1 to 1, so that sums of products of them are exact; v is
 * from 1 to 2: an exact output is also the sum of its weights times |v|. */
struct memory {
    uint16_t q[MOST_ROWS * HEADS * MOST_DIM], k[KEYS * KV_HEADS * MOST_DIM], v[KEYS * KV_HEADS * MOST_DIM], out[MOST_ROWS * HEADS * MOST_DIM];
    float strict[MOST_ROWS * HEADS * MOST_DIM], lse[MOST_ROWS * HEADS], stats[MOST_ROWS * HEADS];
};
struct check {
    struct rondo_device *dev;
    struct memory *m;
    cu_pointer card;
    int tried;                         /* problems that the library has a way for */
    bool differs, turned;              /* turned: log(sum(exp)) is [rows][heads] */
};

#define ON_CARD(c, member) ((void *)(uintptr_t)((c)->card + offsetof(struct memory, member)))

static void draw(struct check *c, const struct problem *p)
{
    uint64_t z = 1;
    uint16_t *const arrays[] = { c->m->q, c->m->k, c->m->v };
    const int64_t counts[] = { (int64_t)p->rows * HEADS * p->dim, (int64_t)KEYS * KV_HEADS * p->dim, (int64_t)KEYS * KV_HEADS * p->dim };
    memset(c->m, 0xff, sizeof *c->m);
    for (int a = 0; a < 3; a++)
        for (int64_t i = 0; i < counts[a]; i++) {
            z = z * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
            rondo__put_element(arrays[a], i, p->type, a < 2 ? (float)((int)(z >> 33) % 17 - 8) / 8 : 1.0f + (float)((z >> 33) % 64) / 64);
        }
}

static void row_of_mask(const struct rondo_mask *m, int64_t sequence, int64_t p, int64_t *lo, int64_t *hi)
{
    (void)sequence;
    *lo = 0;
    *hi = m->right == 0 ? p + 1 : KEYS;
}
static int view_of_mask(const struct rondo_mask *m, int64_t sequence, const rondo_span *queries, int64_t k0, int64_t k1, int64_t *lo, int64_t *hi)
{
    int64_t end;
    row_of_mask(m, sequence, queries->first + queries->count - 1, lo, &end);
    *lo = k0;
    *hi = end < k1 ? end : k1;
    return *lo < *hi ? RONDO_MASK_PART : RONDO_MASK_NONE;
}
static const struct rondo_mask_kind mask = { .name = "of the check", .id = -1, .view = view_of_mask, .row = row_of_mask };

static int by_strict_kernels(const struct check *c, const struct problem *p)
{
    static const struct rondo_tree_step steps[] = { { RONDO_TREE_LEAF, 0 }, { RONDO_TREE_OUT, 0 } };
    static const struct rondo_leaf leaf = { 0, 0, KEYS, 1, 0 };
    static const int64_t first[1] = { 0 };
    const rondo_span span = { .first = KEYS - p->rows, .count = p->rows, .step = 1 };
    const struct rondo_job job = { .q_rows = p->rows, .spans = 1, .leaves = 1, .steps = 2, .depth = 1 };
    const struct rondo_program_desc d = {
        .heads = HEADS, .kv_heads = KV_HEADS, .head_dim = p->dim, .value_dim = p->dim, .q_type = p->type, .kv_type = p->type, .out_type = RONDO_F32,
        .leaf_size = 256, .arithmetic = RONDO_ARITHMETIC_F32, .level = RONDO_STRICT, .scale_log2 = scale_log2, .terms = { .keep = 1.0f },
        .node_width = p->dim + 2, .mask = { &mask, -1, p->causal ? 0 : -1, 1, 0, NULL }, .spans = &span, .leaves = &leaf, .steps = steps, .jobs = &job,
        .span_count = 1, .leaf_count = 1, .step_count = 2, .job_count = 1,
    };
    const struct rondo_kv_part kv = { .k = { ON_CARD(c, k), KV_HEADS * p->dim, p->dim }, .v = { ON_CARD(c, v), KV_HEADS * p->dim, p->dim }, .kv_row = first };
    const struct rondo_attention_run run = { .q = { ON_CARD(c, q), HEADS * p->dim, p->dim }, .kv = &kv, .kv_count = 1,
                                             .out = { ON_CARD(c, strict), HEADS * p->dim, p->dim }, .lse = { ON_CARD(c, lse), HEADS, 1 }, .count = 1 };
    struct rondo_program *program = NULL;
    int err = rondo__cuda_program_new(c->dev, &program, &d);
    if (!err)
        err = rondo__cuda_attention(c->dev, NULL, program, &run, NULL);
    if (!err)
        err = rondo__cuda_sync(c->dev);
    if (program)
        rondo__cuda_program_free(c->dev, program);
    return err;
}

/* *done 0: the library has no way to do it. */
static int by_library(const struct check *c, const struct problem *p, int *done)
{
    const struct rondo__dnn_shape shape = { .type = p->type, .heads = HEADS, .kv_heads = KV_HEADS, .head_dim = p->dim, .value_dim = p->dim,
                                            .causal = p->causal, .rows = p->rows, .keys = KEYS, .q_row = HEADS * p->dim, .q_head = p->dim,
                                            .k_row = KV_HEADS * p->dim, .k_head = p->dim, .v_row = KV_HEADS * p->dim, .v_head = p->dim,
                                            .out_row = HEADS * p->dim, .out_head = p->dim, .stats_row = c->turned ? HEADS : 1,
                                            .stats_head = c->turned ? 1 : p->rows };
    const struct rondo__dnn_data data = { .q = ON_CARD(c, q), .k = ON_CARD(c, k), .v = ON_CARD(c, v), .out = ON_CARD(c, out), .stats = ON_CARD(c, stats),
                                          .scale = (float)((double)scale_log2 * ln2) };
    struct rondo__dnn_plan *way;
    int err = rondo__cuda_dnn_find(c->dev, &shape, &way);
    *done = 0;
    if (err || !way)
        return err;
    *done = 1;
    err = rondo__cuda_dnn_run(c->dev, c->dev->own.stream, way, &shape, &data);
    return err ? err : rondo__cuda_sync(c->dev);
}

/* Of a row of a head: 64 times the largest sum of |q k|, and of |sum of q k|, over what it sees. */
static void scores(const struct check *c, const struct problem *p, int64_t row, int64_t head, int64_t seen, int64_t *size, int64_t *far)
{
    const int64_t q = (row * HEADS + head) * p->dim;
    *size = *far = 0;
    for (int64_t key = 0; key < seen; key++) {
        const int64_t k = (key * KV_HEADS + head / (HEADS / KV_HEADS)) * p->dim;
        int64_t sum = 0, all = 0;
        for (int64_t d = 0; d < p->dim; d++) {
            const int x = (int)(64 * rondo__element(c->m->q, q + d, p->type) * rondo__element(c->m->k, k + d, p->type));
            sum += x;
            all += x < 0 ? -x : x;
        }
        sum = sum < 0 ? -sum : sum;
        *size = all > *size ? all : *size;
        *far = sum > *far ? sum : *far;
    }
}

static double size_of(double x) { return x < 0 ? -x : x; }

static int refuse(struct check *c, const struct problem *p, const char *what, int64_t row, int64_t head, double is, double should, double bound)
{
    c->differs = true;
    return rondo__cuda_fail(RONDO_EDEVICE, "the cuDNN of this machine computes %s wrongly on graphics card %d (%s), and is not used: %s of row %lld, head %lld is "
                            "%g, and by the strict kernels %g, of which it may be off by %g; use level strict", p->name, (int)c->dev->index, c->dev->name, what,
                            (long long)row, (long long)head, is, should, bound);
}

static int compare(struct check *c, const struct problem *p)
{
    const double u = p->type == RONDO_BF16 ? 0x1p-8 : 0x1p-11;
    for (int64_t row = 0; row < p->rows; row++)
        for (int64_t head = 0; head < HEADS; head++) {
            const int64_t seen = p->causal ? KEYS - p->rows + row + 1 : KEYS, at = row * HEADS + head;
            const double lse = (double)c->m->lse[at], got = (double)c->m->stats[c->turned ? at : head * p->rows + row], scale = (double)scale_log2 * ln2 / 64;
            const double sums = 2 * (4.0 * (double)seen + 40.0) * e;       /* the library's and the strict kernels' */
            int64_t size, far;
            scores(c, p, row, head, seen, &size, &far);
            const double d = (4.0 * p->dim + 40.0) * e * scale * (double)size + (scale * (double)far + size_of(lse) + 16.0) * 0x1p-22;
            if (!(size_of(got - lse) <= d + sums))
                return refuse(c, p, "log-sum-exp", row, head, got, lse, d + sums);
            for (int64_t i = 0; i < p->dim; i++) {
                const double is = (double)rondo__element(c->m->out, at * p->dim + i, p->type), should = (double)c->m->strict[at * p->dim + i];
                double bound = (2 * d + 4 * d * d + u + sums) * (1 + 0x1p-6) * should;   /* 2 d + 4 d^2: no less than e^(2d) - 1 */
                if (p->type == RONDO_F16)
                    bound += 0x1p-24 * (double)seen;
                bound += u * (should + bound);                             /* out is rounded */
                if (!(size_of(is - should) <= bound))
                    return refuse(c, p, "a number", row, head, is, should, bound);
            }
        }
    return 0;
}

static int solve(struct check *c)
{
    int err = 0;
    c->differs = false;
    c->tried = 0;
    for (size_t i = 0; i < sizeof problems / sizeof *problems && !err; i++) {
        int done = 0;
        draw(c, problems + i);
        err = rondo__cuda_put(c->dev, c->card, c->m, sizeof *c->m);
        if (!err)
            err = by_library(c, problems + i, &done);
        if (err || !done)
            continue;
        err = by_strict_kernels(c, problems + i);
        if (!err)
            err = rondo__cuda_get(c->dev, c->m, c->card, sizeof *c->m);
        if (!err)
            err = compare(c, problems + i);
        c->tried++;
    }
    return err;
}

static int look(struct check *c)
{
    const struct rondo_cuda_driver *driver = c->dev->driver;
    int err = 0;
    c->m = rondo__cuda_alloc(1, sizeof *c->m);
    if (!c->m)
        return rondo__cuda_fail(RONDO_ENOMEM, "no memory for a first look at cuDNN");
    err = rondo__cuda_check(c->dev, driver->cuMemAlloc_v2(&c->card, sizeof *c->m), "memory for a first look at cuDNN");
    if (err)
        c->card = 0;
    c->turned = true;
    if (!err)
        err = solve(c);
    if (c->differs || (!err && c->tried < (int)(sizeof problems / sizeof *problems))) {
        c->turned = false;
        err = solve(c);
    }
    if (c->card) {
        (void)driver->cuStreamSynchronize(c->dev->own.stream);
        (void)driver->cuMemFree_v2(c->card);
    }
    rondo__cuda_free(c->m);
    return err;
}

int rondo__cuda_dnn_check(struct rondo_device *dev)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static bool good[MOST_CARDS], turned[MOST_CARDS];
    static char refused[MOST_CARDS][512];
    struct check c = { .dev = dev };
    if (dev->index >= MOST_CARDS) {
        const int failed = look(&c);
        dev->dnn_turned = c.turned;
        return failed;
    }
    (void)pthread_mutex_lock(&lock);
    int err = refused[dev->index][0] ? rondo__cuda_fail(RONDO_EDEVICE, "%s", refused[dev->index]) : good[dev->index] ? 0 : look(&c);
    if (!err && c.tried) {
        good[dev->index] = true;
        turned[dev->index] = c.turned;
    }
    dev->dnn_turned = turned[dev->index];
    if (c.differs)
        snprintf(refused[dev->index], sizeof refused[0], "%s", rondo__cuda_host->text());
    (void)pthread_mutex_unlock(&lock);
    return err;
}
