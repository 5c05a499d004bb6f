/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What must hold of attention's gradients whatever the numbers: they are the slope of the loss (finite differences in double precision); what
 * is hidden has gradients of exactly +0, and may hold anything; a NaN stays in its row; the plan is refused, or its tensors, where something
 * does not fit.
 */
#include "t/backward.h"

/* ---- finite differences ---- */

struct inputs {
    double *q, *k, *v, *bias, *sink;
};

/* sum(out * dout) + sum(lse * dlse), in double. */
static double loss(const struct problem *p, const struct gradients *g, const struct inputs *x)
{
    const double scale = p->scale != 0.0 ? p->scale : 1.0 / sqrt((double)p->head_dim);
    const int64_t group = p->heads / p->kv_heads, D = p->head_dim, V = p->value_dim;
    double total = 0.0, *w = malloc((size_t)(p->most_keys + 1) * sizeof *w);
    for (int64_t s = 0; s < p->sequences; s++)
        for (int64_t i = 0; i < p->tokens[s]; i++)
            for (int64_t h = 0; h < p->heads; h++) {
                const int64_t row = (p->q_first[s] + i) * p->heads + h, keys = p->kv_first[s + 1] - p->kv_first[s];
                double sum = 0.0;
                int any = 0;
                for (int64_t k = 0; k < keys; k++) {
                    const int64_t key = (p->kv_first[s] + k) * p->kv_heads + h / group;
                    const int64_t at = ((p->bias_row[s] + i) * p->bias + (p->bias > 1 ? h : 0)) * p->most_keys + k;
                    double z = 0.0;
                    w[k] = 0.0;
                    if (!sees(p, s, i, h, k) || bias_at(p, s, i, h, k) == -INFINITY)
                        continue;
                    for (int64_t d = 0; d < D; d++)
                        z += x->q[row * D + d] * x->k[key * D + d];
                    z *= scale;
                    if (p->softcap > 0.0)
                        z = p->softcap * tanh(z / p->softcap);
                    z -= p->alibi ? (double)p->slope[h] * fabs((double)(p->cached[s] + i - k)) : 0.0;
                    z += p->bias ? x->bias[at] : 0.0;
                    w[k] = exp(z);
                    sum += w[k];
                    any = 1;
                }
                if (!any)
                    continue;
                sum += p->sinks ? exp(x->sink[h]) : 0.0;
                total += log(sum) * (double)g->dlse[row];
                for (int64_t k = 0; k < keys; k++) {
                    const int64_t key = (p->kv_first[s] + k) * p->kv_heads + h / group;
                    if (w[k] == 0.0 || !keeps(p, s, i, h, k))
                        continue;
                    for (int64_t d = 0; d < V; d++)
                        total += w[k] / sum / (1.0 - p->dropout) * x->v[key * V + d] * (double)((const float *)g->dout)[row * V + d];
                }
            }
    free(w);
    return total;
}

static double *doubles(const float *from, int64_t count)
{
    double *x = calloc((size_t)count + 1, sizeof *x);
    for (int64_t i = 0; i < count; i++)
        x[i] = (double)from[i];
    return x;
}

/* The slope in a direction of one input, and what its gradient says. */
static void slope(const struct problem *p, const struct gradients *g, const struct inputs *x, const char *name, double *of, const float *gradient,
                  int64_t count)
{
    const double step = 1e-5;
    double *was = malloc((size_t)count * sizeof *was), said = 0.0, ends[2], size = 0.0;
    memcpy(was, of, (size_t)count * sizeof *was);
    for (int side = 0; side < 2; side++) {
        for (int64_t i = 0; i < count; i++)
            of[i] = was[i] + (side ? step : -step) * counter_number(77, 1, (uint32_t)i);
        ends[side] = loss(p, g, x);
    }
    for (int64_t i = 0; i < count; i++) {
        said += (double)gradient[i] * counter_number(77, 1, (uint32_t)i);
        size += fabs((double)gradient[i] * counter_number(77, 1, (uint32_t)i));
    }
    memcpy(of, was, (size_t)count * sizeof *was);
    free(was);
    const double found = (ends[1] - ends[0]) / (2 * step);
    ok(fabs(found - said) <= 2e-6 * size + 1e-6, "d%s is the slope of the loss: %.9g by differences, %.9g", name, found, said);
}

static void differences(struct problem p)
{
    struct gradients g;
    struct backward_setup s = { .ranks = 2, .with_dlse = 1 };
    problem_data(&p);
    const int64_t q = p.q_rows * p.heads, k = p.kv_rows * p.kv_heads;
    int err = solve_backward(&p, &s, &g);
    struct inputs x = { doubles(p.q, q * p.head_dim), doubles(p.k, k * p.head_dim), doubles(p.v, k * p.value_dim),
                        doubles(p.bias_of, bias_elements(&p)), doubles(p.sink, p.heads) };
    ok(!err, "finite differences, leaf %d%s%s", (int)p.leaf, err ? ": " : "", err ? rondo_error_text() : "");
    slope(&p, &g, &x, "q", x.q, (const float *)(void *)g.dq, q * p.head_dim);
    slope(&p, &g, &x, "k", x.k, (const float *)(void *)g.dk, k * p.head_dim);
    slope(&p, &g, &x, "v", x.v, (const float *)(void *)g.dv, k * p.value_dim);
    if (p.bias)
        slope(&p, &g, &x, "bias", x.bias, g.dbias, bias_elements(&p));
    if (p.sinks)
        slope(&p, &g, &x, "sinks", x.sink, g.dsinks, p.heads);
    free(x.q);
    free(x.k);
    free(x.v);
    free(x.bias);
    free(x.sink);
    gradients_free(&g);
    problem_free(&p);
}

/* ---- what is hidden ---- */

static int all_zero(const void *data, int64_t bytes)
{
    const char *c = data;
    for (int64_t i = 0; i < bytes; i++)
        if (c[i])
            return 0;
    return 1;
}

static int any_nan(const float *x, int64_t count)
{
    for (int64_t i = 0; i < count; i++)
        if (x[i] != x[i])
            return 1;
    return 0;
}

static const int shared_ways[] = { RONDO_ALL_GATHER, RONDO_ALL_TO_ALL, RONDO_PASS_KV, RONDO_PASS_Q, RONDO_MESH };
#define SHARED_WAYS ((int)(sizeof shared_ways / sizeof *shared_ways))

/* A window: keys before the first query's are seen by nobody. Queries of documents alone see nothing before key 0. isa: or NULL. */
static void hidden(const char *isa)
{
    struct problem p = { .tokens = { 40 }, .cached = { 60 }, .heads = 2, .kv_heads = 1, .head_dim = 8, .windowed = 1, .left = 20, .right = 0,
                         .leaf = 16, .seed = 31 }, wild;
    struct gradients g, other;
    struct backward_setup s = { .ranks = 1, .isa = isa };
    problem_data(&p);
    int err = solve_backward(&p, &s, &g);
    ok(!err && all_zero(g.dk, 40 * 8 * 4) && all_zero(g.dv, 40 * 8 * 4) && !all_zero(g.dk + 40 * 8 * 4, 8 * 4), "keys that nobody sees have "
       "gradients of +0%s%s", isa ? " on " : "", isa ? isa : "");
    /* not only those: each of the others is hidden from some */
    wild = p;
    problem_data(&wild);
    for (int64_t i = 0; i < 40 * 8; i++)
        ((float *)wild.k)[i] = ((float *)wild.v)[i] = i % 2 ? NAN : INFINITY;
    int same = 1, only = 1;
    for (int i = 0; i < SHARED_WAYS && !err; i++) {
        s.ranks = 3 + i % 2;
        s.algorithm = shared_ways[i];
        err = solve_backward(&wild, &s, &other);
        same &= !err && gradients_same(&p, &g, &other);
        gradients_free(&other);
    }
    ok(!err && same, "what they hold touches nothing, on 3 and 4 ranks by each algorithm");
    for (int64_t h = 0; h < 2; h++)
        ((float *)wild.q)[(10 * 2 + h) * 8] = NAN;   /* query 10 stands at 70 and sees 50 to 70 */
    for (int n = 0; n <= SHARED_WAYS && !err; n++) {
        s.ranks = n ? 3 + n % 2 : 1;
        s.algorithm = n ? shared_ways[n - 1] : 0;
        err = solve_backward(&wild, &s, &other);
        only &= !err;
        for (int64_t i = 0; i < 40 && only; i++)
            only = any_nan((float *)(void *)other.dq + i * 16, 16) == (i == 10);
        for (int64_t i = 0; i < 100 && only; i++)
            only = any_nan((float *)(void *)other.dk + i * 8, 8) == (i >= 50 && i <= 70) &&
                   any_nan((float *)(void *)other.dv + i * 8, 8) == (i >= 50 && i <= 70);
        gradients_free(&other);
    }
    ok(!err && only, "a NaN stays in its row, and comes to the keys that it sees, by each algorithm");
    s.ranks = 1;
    s.algorithm = 0;
    ((float *)wild.k)[90 * 8] = NAN;   /* seen by queries 30 to 39 */
    problem_free(&wild);
    gradients_free(&g);
    problem_free(&p);
}

static void nothing_seen(void)
{
    struct problem p = { .tokens = { 30 }, .cached = { -10 }, .heads = 2, .kv_heads = 1, .head_dim = 8, .causal = 1, .sinks = 1, .leaf = 16, .seed = 32 };
    struct gradients g;
    struct backward_setup s = { .ranks = 2, .with_dlse = 1 };
    problem_data(&p);
    p.sink[0] = -INFINITY;
    p.sink[1] = 0.3f;
    int err = solve_backward(&p, &s, &g);
    ok(!err && all_zero(g.dq, 10 * 16 * 4) && !all_zero(g.dq + 10 * 16 * 4, 16 * 4), "rows that see nothing have gradients of +0");
    ok(!err && all_zero(g.dsinks, 4) && !all_zero(g.dsinks + 1, 4), "a sink of -infinity is none");
    gradients_free(&g);
    problem_free(&p);
}

/* ---- the same bits from each instruction set, whatever the numbers ---- */

static void scatter(void *data, int64_t count, uint32_t seed)
{
    static const float odd[] = { INFINITY, -INFINITY, NAN, 1e-42f, -0.0f, 3e38f, -1e-38f, 1e20f, 0.0f };
    for (uint32_t i = 0; i < 3 && count; i++) {
        uint32_t r[4], counter[4] = { i, seed, 9, 0 }, key[2] = { 3, 4 };
        rondo_philox(r, counter, key);
        ((float *)data)[r[0] % (uint64_t)count] = odd[r[1] % 9];
    }
}

static void wild(void)
{
    int usable, sets = 0, same = 1, err = 0;
    for (uint32_t n = 0; n < 24 && !err; n++) {
        struct problem p = { .tokens = { 50 + n }, .cached = { (int64_t)(n % 3) * 11 - 9 }, .heads = 2, .kv_heads = 1 + n % 2, .head_dim = 7 + n,
                             .value_dim = 24 - n % 9, .causal = n % 4 != 0, .windowed = n % 5 == 0, .left = n % 5 ? 0 : 20, .right = n % 5 ? 0 : 3, .mask = n % 3 == 1,
                             .softcap = n % 2 ? 1.7 : 0.0, .alibi = n % 3 == 0, .sinks = n % 4 == 0, .dropout = n % 5 == 1 ? 0.4 : 0.0,
                             .spread = n % 7 == 0 ? 40.0 : 1.0, .leaf = 8 << n % 5, .seed = 100 + n };
        struct gradients g[8];
        problem_data(&p);
        scatter(p.q, p.q_rows * p.heads * p.head_dim, 10 * n);
        if (n % 2)
            scatter(p.k, p.kv_rows * p.kv_heads * p.head_dim, 10 * n + 1);
        if (n % 3)
            scatter(p.v, p.kv_rows * p.kv_heads * p.value_dim, 10 * n + 2);
        sets = 0;
        const char *name;
        for (int i = 0; (name = rondo_isa_name(i, &usable)) && !err; i++) {
            struct backward_setup s = { .ranks = 1, .with_dlse = 1, .isa = name };
            if (!usable)
                continue;
            err = solve_backward(&p, &s, g + sets);
            if (sets && !gradients_same(&p, g, g + sets)) {
                diag("problem %u differs on %s", n, name);
                same = 0;
            }
            sets++;
        }
        for (int i = 0; i < sets; i++)
            gradients_free(g + i);
        problem_free(&p);
    }
    ok(!err && same, "numbers of all sorts: %d instruction sets give the same bits%s%s", sets, err ? ": " : "", err ? rondo_error_text() : "");
}

/* ---- neither out nor LSE are kept ---- */

static void once_more(void)
{
    static const int32_t algorithms[] = { 0, RONDO_ALL_GATHER, 0, RONDO_HALO };
    int same = 1, err = 0;
    for (uint32_t n = 0; n < 8 && !err; n++) {
        struct problem p = { .sequences = 2, .tokens = { 50 + n, 9 }, .cached = { (int64_t)(n % 3) * 10 - 7, 4 }, .heads = 4, .kv_heads = 2, .head_dim = 8,
                             .value_dim = 6, .causal = 1, .windowed = n % 4 == 3, .left = n % 4 == 3 ? 19 : 0, .softcap = n % 2 ? 2.0 : 0.0, .alibi = n % 3 == 0, .bias = n % 2,
                             .sinks = n % 3 == 1, .dropout = n % 2 ? 0.3 : 0.0, .q_type = n == 4 ? RONDO_BF16 : 0, .kv_type = n == 4 ? RONDO_BF16 : 0, .leaf = 8,
                             .seed = 300 + n };
        struct gradients g, again;
        struct backward_setup s = { .ranks = 1 + (int)(n % 4), .layout = n % 2 ? RONDO_ZIGZAG : RONDO_CONTIGUOUS, .with_dlse = n % 2 == 0,
                                    .algorithm = n % 4 == 3 && n > 4 ? 0 : algorithms[n % 4] };
        if (s.algorithm == RONDO_HALO)
            s.layout = RONDO_CONTIGUOUS;
        problem_data(&p);
        err = solve_backward(&p, &s, &g);
        s.again = 1;
        s.strided = n % 3 == 2;
        err = err ? err : solve_backward(&p, &s, &again);
        if (!err && !gradients_same(&p, &g, &again)) {
            diag("problem %u differs", n);
            same = 0;
        }
        if (!err)
            gradients_free(&again);
        gradients_free(&g);
        problem_free(&p);
    }
    ok(!err && same, "out and lse made once more: the bits of those that were kept%s%s", err ? ": " : "", err ? rondo_error_text() : "");
}

struct watch {
    double last, largest;
    int fell, calls;
};

static int watch(void *user, double done)
{
    struct watch *w = user;
    w->fell |= done < w->last;
    w->last = done;
    w->largest = done > w->largest ? done : w->largest;
    w->calls++;
    return w->calls == -1;
}

/* ---- refused ---- */

static void refused(int code, int got, const char *part, const char *what)
{
    ok(got == code && strstr(rondo_error_text(), part), "%s: refused", what);
    if (got != code || !strstr(rondo_error_text(), part))
        diag("code %d, \"%s\"", got, rondo_error_text());
}

static int plans(rondo_context *ctx, void *arg)
{
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    rondo_attention *plan = NULL;
    const int lone = rondo_context_ranks(ctx) == 1;
    (void)arg;
    d.heads = d.kv_heads = 2;
    d.head_dim = 8;
    d.tokens = 32;
    d.gradients = 1;
    d.algorithm = RONDO_REDUCE;
    int got = rondo_attention_create(&plan, ctx, &d);
    if (!lone && rondo_context_rank(ctx) == 0)
        refused(RONDO_ENOTSUP, got, "reduce does not", "reduce on two ranks");
    rondo_attention_destroy(plan);
    if (!lone)
        return 0;
    ok(!got, "any algorithm's name will do on one rank");
    d.gradients = 2;
    refused(RONDO_EINVAL, rondo_attention_create(&plan, ctx, &d), "gradients is 2", "gradients of 2");
    d.gradients = 1;
    d.kv_type = RONDO_Q8;
    refused(RONDO_ENOTSUP, rondo_attention_create(&plan, ctx, &d), "q8", "keys of 8 bits");
    d.kv_type = 0;
    d.shared_kv = 1;
    refused(RONDO_ENOTSUP, rondo_attention_create(&plan, ctx, &d), "shared_kv", "values in keys");
    d.shared_kv = 0;
    d.head_groups = 2;
    refused(RONDO_ENOTSUP, rondo_attention_create(&plan, ctx, &d), "head_groups", "head groups");
    return 0;
}

static float room[9][32 * 2 * 8];
static struct { rondo_attention_io io; rondo_attention_gradients g; } good;

static int backward(rondo_attention *plan, const rondo_attention_io *io, const rondo_attention_gradients *g)
{
    return rondo_attention_backward(plan, io, g, NULL);
}

/* One thing wrong at a time. */
static int tensors(rondo_context *ctx, void *arg)
{
    const int64_t shape[3] = { 32, 2, 8 }, two = 2;
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    rondo_attention *plan = NULL, *without = NULL;
    rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
    rondo_attention_gradients g = RONDO_ATTENTION_GRADIENTS_INIT;
    (void)arg;
    d.heads = d.kv_heads = 2;
    d.head_dim = 8;
    d.tokens = 32;
    int err = rondo_attention_create(&without, ctx, &d);
    d.gradients = 1;
    if (!err)
        err = rondo_attention_create(&plan, ctx, &d);
    rondo_tensor *t[] = { &io.q, &io.k, &io.v, &io.out, &g.dout, &g.dq, &g.dk, &g.dv };
    for (int i = 0; i < 8; i++)
        *t[i] = rondo_tensor_dense(room[i], RONDO_F32, 3, shape);
    io.lse = rondo_tensor_dense(room[8], RONDO_F32, 2, shape);
    if (err)
        return err;
    good.io = io;
    good.g = g;
    for (int i = 0; i < 5; i++)
        for (uint32_t j = 0; j < 32 * 2 * 8; j++)
            room[i][j] = (float)counter_number(55, (uint32_t)i, j);
    ok(!rondo_attention_execute(plan, &io, NULL) && !backward(plan, &io, &g), "nothing wrong");
    rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
    struct watch w = { 0.0, 0.0, 0, 0 };
    io = good.io;
    g = good.g;
    io.out.data = io.lse.data = NULL;
    io.progress = watch;
    io.user = &w;
    g.recompute = 1;
    err = backward(plan, &io, &g);
    ok(!err && !w.fell && w.calls > 1 && w.largest == 1.0, "both passes are one to who watches (%d calls, up to %g)", w.calls, w.largest);
    static float wide[40 * 2 * 8], dq[32 * 2 * 8];
    const int64_t eight = 8, wide_shape[3] = { 40, 2, 8 };
    memcpy(dq, room[5], sizeof dq);
    memcpy(wide + 8 * 2 * 8, room[4], sizeof room[4]);
    g.dout = rondo_tensor_dense(wide, RONDO_F32, 3, wide_shape);
    io.out_row = io.lse_row = &eight;
    err = backward(plan, &io, &g);
    ok(!err && !memcmp(dq, room[5], sizeof dq), "dout begins where out_row says, though out is not there");
    io.out_row = io.lse_row = NULL;
    g.dout = good.g.dout;
    w = (struct watch){ 0.0, 0.0, 0, -2 };   /* stops at once: in the forward pass */
    is_int(backward(plan, &io, &g), RONDO_ECANCELED, "and may be stopped in the first");
    ok(!rondo_attention_query(plan, &info) && info.backward_recompute_bytes == 32 * 2 * 4 + 32 * 2 * 8 * 4, "the plan says what it keeps for that: %zu bytes",
       info.backward_recompute_bytes);
#define WRONG(change, code, part, what)                                                                                \
    do {                                                                                                               \
        io = good.io;                                                                                                  \
        g = good.g;                                                                                                    \
        change;                                                                                                        \
        refused(code, backward(plan, &io, &g), part, what);                                                            \
    } while (0)
    refused(RONDO_EINVAL, backward(without, &io, &g), "made without gradients", "a plan without gradients");
    refused(RONDO_EINVAL, backward(NULL, &io, &g), "plan is NULL", "no plan");
    refused(RONDO_EINVAL, rondo_attention_backward(plan, &io, &g, room[0] + 1), "64 bytes", "a workspace that is not aligned");
    WRONG(io.lse.data = NULL, RONDO_EINVAL, "lse is NULL", "no lse");
    WRONG(io.lse.shape[1] = 3, RONDO_EINVAL, "lse has 2 dimensions, [32, 3,", "lse of a plan of other heads");
    WRONG(io.lse.shape[0] = 31, RONDO_EINVAL, "lse has 2 dimensions, [31, 2,", "lse of a plan of fewer tokens");
    WRONG(io.out.data = NULL, RONDO_EINVAL, "out is NULL", "no out");
    WRONG(g.dout.data = NULL, RONDO_EINVAL, "dout is NULL", "no dout");
    WRONG(g.dout.type = RONDO_BF16, RONDO_EINVAL, "dout is bf16; it must be f32", "dout of another type");
    WRONG(g.dq.shape[1] = 3, RONDO_EINVAL, "dq has 3 dimensions", "dq of another shape");
    WRONG(g.dk.shape[0] = 31, RONDO_EINVAL, "32 or more", "dk with too few rows");
    WRONG(g.dv.type = RONDO_Q8, RONDO_EINVAL, "dv is q8", "dv of numbers with a scale");
    WRONG(g.dv.stride[0] = 4, RONDO_EINVAL, "dv", "dv whose rows overlap");
    WRONG(g.dk.data = room[0], RONDO_EINVAL, "dk overlaps q", "dk upon q");
    WRONG(g.dk.data = room[5], RONDO_EINVAL, "overlaps d", "dk upon dq");
    WRONG(g.accumulate = 2, RONDO_EINVAL, "accumulate is 2", "accumulate of 2");
    WRONG(g.dsinks = rondo_tensor_dense(room[8], RONDO_F32, 1, &two), RONDO_EINVAL, "dsinks is given", "dsinks without sinks");
    WRONG(g.dbias = rondo_tensor_dense(room[8], RONDO_F32, 3, shape), RONDO_EINVAL, "without bias", "dbias without bias");
    WRONG(io.seed = 7, RONDO_EINVAL, "dropout", "a seed without dropout");
    WRONG(g.struct_size = 8, RONDO_EINVAL, "dout is NULL", "a structure that ends early");
    WRONG(g.recompute = 2, RONDO_EINVAL, "recompute is 2", "recompute of 2");
    WRONG(g.recompute = 1, RONDO_EINVAL, "out is given, but recompute is 1", "out that is to be made once more");
    WRONG((g.recompute = 1, io.out.data = NULL), RONDO_EINVAL, "lse is given, but recompute is 1", "lse that is to be made once more");
    io = good.io;
    g = good.g;
    ok(!backward(plan, &io, &g), "and it still runs");
    rondo_attention_destroy(plan);
    rondo_attention_destroy(without);
    return 0;
}

/* Products too small for a number leave zeros of either sign; with hidden pairs between them, onto -0, each kernel gives +0 and nothing else. */
static void zeros(const char *name, struct problem p)
{
    static const char *const isas[] = { "scalar", "avx2", "avx512", "neon" };
    int err = 0, plus = 1, usable, runs = 0;
    problem_data(&p);
    float *const small[] = { p.q, p.k, p.v };   /* F32 all */
    const int64_t count[] = { p.q_rows * p.heads * p.head_dim, p.kv_rows * p.kv_heads * p.head_dim, p.kv_rows * p.kv_heads * p.value_dim };
    for (int i = 0; i < 3; i++)
        for (int64_t j = 0; j < count[i]; j++)
            small[i][j] *= 0x1p-85f;
    const char *known;
    for (int i = 0; i < 12 && !err; i++) {   /* on 3 ranks: nodes that are joined elsewhere */
        struct backward_setup s = { .ranks = 1 + i / 4, .algorithm = i < 8 ? 0 : RONDO_PASS_KV, .accumulate = 1, .zeros = 1, .isa = isas[i % 4] };
        struct gradients g;
        for (int j = 0; (known = rondo_isa_name(j, &usable)) && strcmp(known, s.isa); j++) {
        }
        if (!known || !usable)
            continue;
        for (int tiny = 0; tiny < 2 && !err; tiny++) {   /* dq and dk of any dout; dv of a tiny one */
            s.dout = tiny ? 0x1p-149 : 1.0;
            err = solve_backward(&p, &s, &g);
            const char *const got[] = { g.dq, g.dk, g.dv };
            for (int n = 0; n < (tiny ? 3 : 2); n++)
                for (int64_t j = 0; j < count[n] * 4; j++)
                    plus &= !got[n][j];
            runs++;
            gradients_free(&g);
        }
    }
    ok(!err && plus && runs, "%s: zeros onto -0 are +0 in each of %d runs%s%s", name, runs, err ? ": " : "", err ? rondo_error_text() : "");
    problem_free(&p);
}

/* Three sequences with the same rows of a bias, which end in different leaves: one sum, with the same bits from each instruction set. */
struct shared {
    int heads;                         /* of the bias */
    float *dbias;
};
enum { SHARED_ROWS = 150, SHARED_KEYS = 157, SHARED_HEADS = 4, SHARED_DIM = 12 };

static int shared_body(rondo_context *ctx, void *arg)
{
    const struct shared *s = arg;
    static const int64_t tokens[3] = { 90, SHARED_ROWS, 33 }, cached[3] = { 0, 7, 0 }, rows[3] = { 0, 0, 0 };
    enum { Q = 90 + SHARED_ROWS + 33, K = Q + 7, NUMBERS = K * SHARED_HEADS * SHARED_DIM };
    const int64_t q[3] = { Q, SHARED_HEADS, SHARED_DIM }, k[3] = { K, 2, SHARED_DIM }, bias_shape[3] = { SHARED_ROWS, s->heads, SHARED_KEYS };
    static float data[8][NUMBERS], lse[Q * SHARED_HEADS], bias[SHARED_ROWS * SHARED_HEADS * SHARED_KEYS];
    rondo_attention *plan;
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
    rondo_attention_gradients g = RONDO_ATTENTION_GRADIENTS_INIT;
    rondo_tensor *t[8] = { &io.q, &g.dout, &io.k, &io.v, &io.out, &g.dq, &g.dk, &g.dv };
    for (uint32_t i = 0; i < 4; i++)
        for (uint32_t j = 0; j < NUMBERS; j++)
            data[i][j] = (float)counter_number(61, i, j);
    for (uint32_t j = 0; j < SHARED_ROWS * SHARED_HEADS * SHARED_KEYS; j++)
        bias[j] = j % 11 ? (float)counter_number(62, 0, j) : -INFINITY;
    for (int i = 0; i < 8; i++)
        *t[i] = rondo_tensor_dense(data[i], RONDO_F32, 3, i == 2 || i == 3 || i > 5 ? k : q);
    io.lse = rondo_tensor_dense(lse, RONDO_F32, 2, q);
    io.bias = rondo_tensor_dense(bias, RONDO_F32, 3, bias_shape);
    io.bias_row = io.bias_key = rows;
    g.dbias = rondo_tensor_dense(s->dbias, RONDO_F32, 3, bias_shape);
    g.accumulate = 1;
    d.heads = SHARED_HEADS;
    d.kv_heads = 2;
    d.head_dim = SHARED_DIM;
    d.sequences = 3;
    d.tokens_of = tokens;
    d.cached_of = cached;
    d.causal = d.gradients = 1;
    d.softcap = 3;
    d.leaf = 32;
    d.bias = s->heads;
    int err = rondo_attention_create(&plan, ctx, &d);
    if (err)
        return err;
    err = rondo_attention_execute(plan, &io, NULL);
    if (!err)
        err = rondo_attention_backward(plan, &io, &g, NULL);
    rondo_attention_destroy(plan);
    return err;
}

static void shared(int heads)
{
    static const char *const isas[] = { "scalar", "avx2", "avx512", "neon" };
    static float dbias[2][SHARED_ROWS * SHARED_HEADS * SHARED_KEYS];
    int err = 0, same = 1, usable;
    for (int i = 0; i < 4 && !err; i++) {
        rondo_context_desc desc = RONDO_CONTEXT_DESC_INIT;
        struct shared s = { heads, dbias[i > 0] };
        const char *known;
        desc.isa = isas[i];
        desc.threads = 1 + i % 2;
        for (int j = 0; (known = rondo_isa_name(j, &usable)) && strcmp(known, desc.isa); j++) {
        }
        if (!known || !usable)
            continue;
        for (size_t j = 0; j < sizeof dbias[0] / 4; j++)
            s.dbias[j] = 0.25f;
        err = rondo_launch(1, &desc, shared_body, &s);
        same &= !i || !memcmp(dbias[0], dbias[1], sizeof dbias[0]);
    }
    ok(!err && same, "a bias of %d heads that three sequences share: its gradient's bits from each instruction set%s%s", heads, err ? ": " : "",
       err ? rondo_error_text() : "");
}

int main(void)
{
    differences((struct problem){ .sequences = 2, .tokens = { 30, 13 }, .cached = { 0, 5 }, .heads = 4, .kv_heads = 2, .head_dim = 6, .value_dim = 5,
                                  .causal = 1, .softcap = 3, .alibi = 1, .bias = 1, .sinks = 1, .dropout = 0.2, .leaf = 8, .seed = 41 });
    differences((struct problem){ .tokens = { 45 }, .heads = 2, .kv_heads = 1, .head_dim = 8, .bias = 2, .leaf = 16, .seed = 42 });
    hidden("scalar");
    hidden(NULL);
    nothing_seen();
    wild();
    zeros("a mask", (struct problem){ .tokens = { 90 }, .cached = { 24 }, .heads = 4, .kv_heads = 2, .head_dim = 12, .mask = 4, .causal = 1, .leaf = 16, .seed = 51 });
    zeros("a window", (struct problem){ .tokens = { 75 }, .cached = { 24 }, .heads = 2, .kv_heads = 1, .head_dim = 32, .windowed = 1, .left = 19, .right = 4, .leaf = 32, .seed = 52 });
    zeros("negative scale", (struct problem){ .tokens = { 60 }, .cached = { 24 }, .heads = 1, .kv_heads = 1, .head_dim = 16, .causal = 1, .scale = -0.4, .leaf = 16, .seed = 53 });
    shared(1);
    shared(SHARED_HEADS);
    once_more();
    ok(!rondo_run_threads(1, plans, NULL) && !rondo_run_threads(2, plans, NULL), "plans");
    ok(!rondo_run_threads(1, tensors, NULL), "tensors%s", rondo_error_text());
    return done();
}
