/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Attention of level fast on a graphics card: each line says what was done, what it took (the median of its rounds), beside it what cuDNN takes alone
 * for the same shape, in turns with it, and how large the largest error of some rows is, as a part of the bound in rondo-numerics(7). An execution ends
 * when its results are there, so who calls waits. Of cuDNN alone there are two times: of executions one behind the other, between two events, which is
 * the card's alone; and of one, from the call until its stream is through, by the clock that ours is taken by. With gpu_host.so before it (LD_PRELOAD)
 * lines follow of what the card and the host did in an execution, part by part. Exit status 1: the bound does not hold, or a case does not
 * run; 77: there is no cuDNN. Run by contrib/gpu-check; stands on the source's own headers, to call cuDNN as the module does:
 *
 *     cc -I.. -I../lib -I../include -I$BUILD/include gpu_fast.c ../backends/cuda/dnn_graph.c -o gpu_fast $(pkg-config --libs rondo) -ldl -lm
 */
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "backends/cuda/dnn.h"

enum { ROUNDS = 15, IN_A_ROW = 6 };
static rondo_context *ctx;
static struct rondo__cudnn dnn;
static dnn_handle handle;
static struct {
#define X(name, arguments) cu_result (*name) arguments;
    RONDO_CUDA_DRIVER(X)
    X(cuEventElapsedTime, (float *milliseconds, cu_event from, cu_event to))
#undef X
} cu;
static cu_stream stream;
static cu_event event[2];
static int wrong;

static void die(const char *what, long long code)
{
    fprintf(stderr, "gpu_fast: %s (%lld)\n", what, code);
    exit(2);
}
static void need(int code)
{
    if (code)
        die(rondo_error_text(), code);
}
static void need_cu(cu_result code, const char *what)
{
    if (code)
        die(what, code);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
static double median(double *seconds, int count)
{
    qsort(seconds, (size_t)count, sizeof *seconds, by_value);
    return seconds[count / 2];
}

/* The driver, the library, and a stream in the context that rondo uses too. */
static void open_all(void)
{
    void *driver = dlopen("libcuda.so.1", RTLD_NOW), *library = dlopen("libcudnn_graph.so.9", RTLD_NOW);
    cu_context context;
    if (!driver || !library) {
        printf("%s\n", dlerror());
        exit(77);
    }
#define X(name, arguments) \
    if (!(*(void **)(void *)&cu.name = dlsym(driver, #name))) \
        die("the driver lacks " #name, 0);
    RONDO_CUDA_DRIVER(X)
    X(cuEventElapsedTime, )
#undef X
#define X(type, name, arguments) \
    if (!(*(void **)(void *)&dnn.name = dlsym(library, #name))) \
        die("cuDNN lacks " #name, 0);
    RONDO_CUDNN(X)
#undef X
    need_cu(cu.cuInit(0), "the driver");
    need_cu(cu.cuDevicePrimaryCtxRetain(&context, 0), "a context");
    need_cu(cu.cuCtxSetCurrent(context), "a context");
    need_cu(cu.cuStreamCreate(&stream, CU_STREAM_OWN), "a stream");
    for (int i = 0; i < 2; i++)
        need_cu(cu.cuEventCreate(event + i, 0), "an event");
    need_cu(dnn.cudnnCreate(&handle), "a handle of cuDNN");
    need_cu(dnn.cudnnSetStream(handle, stream), "a stream of cuDNN's");
    printf("cuDNN %zu\n", dnn.cudnnGetVersion());
}

static float half_of(uint16_t h, int type)
{
    const uint32_t bits = (uint32_t)h << 16;
    float x;
    if (type == RONDO_BF16)
        return memcpy(&x, &bits, sizeof x), x;
    const int e = h >> 10 & 31, m = h & 1023;
    x = e == 0 ? ldexpf((float)m, -24) : e == 31 ? INFINITY : ldexpf((float)(1024 + m), e - 25);
    return h & 0x8000 ? -x : x;
}
static float number(const void *p, int64_t i, int type) { return type == RONDO_F32 ? ((const float *)p)[i] : half_of(((const uint16_t *)p)[i], type); }
static size_t size_of(int type) { return type == RONDO_F32 ? 4 : 2; }

struct array {
    char *host, *card;
    int64_t count;
    int type;
};

/* About normal numbers, of a type, on both sides; which 0: memory that is written later. */
static struct array array_of(int64_t count, int type, uint32_t which)
{
    struct array a = { calloc((size_t)count, size_of(type)), NULL, count, type };
    const uint32_t key[2] = { 2026, which };
    if (!a.host)
        die("no memory", 0);
    for (int64_t i = 0; which && i < count; i += 4) {
        const uint32_t counter[4] = { (uint32_t)(i / 4), 0, 0, 0 };
        uint32_t r[4], bits;
        rondo_philox(r, counter, key);
        for (int64_t k = 0; k < 4 && i + k < count; k++) {
            const float x = (float)((int)(r[k] & 255) + (int)(r[k] >> 8 & 255) + (int)(r[k] >> 16 & 255) + (int)(r[k] >> 24) - 510) / 128.0f;
            memcpy(&bits, &x, sizeof bits);
            const uint16_t bf = (uint16_t)(bits >> 16);
            const uint16_t f = (uint16_t)(x == 0 ? 0 : (bits >> 16 & 0x8000) | ((bits >> 13 & 0x3fc00) - 0x1c000 + (bits >> 13 & 0x3ff)));
            const void *from = type == RONDO_F32 ? (const void *)&x : type == RONDO_BF16 ? (const void *)&bf : (const void *)&f;
            memcpy(a.host + (size_t)(i + k) * size_of(type), from, size_of(type));
        }
    }
    void *at;
    need(rondo_memory_create(&at, ctx, RONDO_MEMORY_DEVICE, (size_t)count * size_of(type)));
    need(rondo_memory_copy(ctx, at, a.host, (size_t)count * size_of(type)));
    a.card = at;
    return a;
}
static void give(struct array *a)
{
    rondo_memory_destroy(ctx, a->card);
    free(a->host);
}

struct attention_case {
    const char *name;
    int64_t tokens, cached, heads, kv_heads, dim;
    int q_type, kv_type, out_type, causal, joined;   /* joined: by way of nodes */
};

static double unit(int type) { return type == RONDO_BF16 ? 0x1p-8 : type == RONDO_F16 ? 0x1p-11 : 0x1p-24; }

/* Of a row of a head: the largest part of the bound that is taken, and, beside it, the largest error itself. */
static double excess(const struct attention_case *c, const struct array *q, const struct array *k, const struct array *v, const struct array *out, const float *lse,
                     int64_t row, int64_t head, double *largest)
{
    const int64_t n = c->causal ? c->cached + row + 1 : c->cached + c->tokens, kv = head / (c->heads / c->kv_heads), D = c->dim;
    const int narrowed = c->joined || c->out_type != c->kv_type;      /* what the library wrote is rounded, and becomes floats */
    const double u = unit(c->kv_type), u_q = c->q_type == RONDO_F32 ? u : 0, scale = 1 / sqrt((double)D), e = 0x1p-24;
    double *s = malloc((size_t)n * sizeof *s), most = -INFINITY, sum = 0, delta = 0, far = 0, worst;
    if (!s)
        die("no memory", 0);
    for (int64_t j = 0; j < n; j++) {
        double dot = 0, size = 0, keys = 0;
        for (int64_t d = 0; d < D; d++) {
            const double a = (double)number(q->host, (row * c->heads + head) * D + d, c->q_type);
            const double b = (double)number(k->host, (j * c->kv_heads + kv) * D + d, c->kv_type);
            dot += a * b;
            size += fabs(a * b);
            keys += fabs(b);
        }
        s[j] = dot * scale;
        delta = fmax(delta, ((u_q + (4.0 * (double)D + 40) * e) * size + (u_q > 0 && c->kv_type == RONDO_F16 ? 0x1p-25 * keys : 0)) * scale);
        far = fmax(far, fabs(s[j]));
        most = fmax(most, s[j]);
    }
    for (int64_t j = 0; j < n; j++)
        sum += exp(s[j] - most);
    const double z = most + log(sum);
    delta += (far + fabs(z) + 16) * 0x1p-22;
    for (int64_t j = 0; j < n; j++)
        s[j] = exp(s[j] - z);                  /* now the weight */
    worst = fabs((double)lse[row * c->heads + head] - z) / (delta + (4.0 * (double)n + 40) * e);
    for (int64_t d = 0; d < D; d++) {
        double mean = 0, size = 0, values = 0;
        for (int64_t j = 0; j < n; j++) {
            const double w = s[j], x = (double)number(v->host, (j * c->kv_heads + kv) * D + d, c->kv_type);
            mean += w * x;
            size += w * fabs(x);
            values += fabs(x);
        }
        const double bound = (exp(2 * delta) - 1 + (narrowed ? 2 * u : u) + (4.0 * (double)n + 40) * e) * (1 + 0x1p-6) * size +
                             (c->kv_type == RONDO_F16 ? 0x1p-25 * (values + narrowed) : 0);
        const double error = fabs((double)number(out->host, (row * c->heads + head) * D + d, c->out_type) - mean);
        *largest = fmax(*largest, error);
        worst = fmax(worst, error / (bound + unit(c->out_type) * (fabs(mean) + bound)));
    }
    free(s);
    return worst == worst ? worst : INFINITY;
}

/* cuDNN alone; seconds each, by events. plan.plan NULL: none. */
static double alone(struct rondo__dnn_plan *plan, const struct rondo__dnn_shape *s, const struct rondo__dnn_data *data, void *workspace)
{
    float ms = 0;
    need_cu(cu.cuEventRecord(event[0], stream), "an event");
    for (int k = 0; k < IN_A_ROW; k++)
        need_cu(rondo__dnn_execute(&dnn, handle, plan, s, data, workspace), "cuDNN");
    need_cu(cu.cuEventRecord(event[1], stream), "an event");
    need_cu(cu.cuEventSynchronize(event[1]), "an event");
    need_cu(cu.cuEventElapsedTime(&ms, event[0], event[1]), "an event");
    return (double)ms * 1e-3 / IN_A_ROW;
}

/* One, until it is over, by the clock. */
static double one(struct rondo__dnn_plan *plan, const struct rondo__dnn_shape *s, const struct rondo__dnn_data *data, void *workspace)
{
    const double begin = now();
    need_cu(rondo__dnn_execute(&dnn, handle, plan, s, data, workspace), "cuDNN");
    need_cu(cu.cuStreamSynchronize(stream), "a stream");
    return now() - begin;
}

/* What the card does in an execution, where gpu_host.so is there to see it. */
static void look_at_card(rondo_attention *plan, const rondo_attention_io *io, void *memory)
{
    void (*card)(int);
    *(void **)(void *)&card = dlsym(RTLD_DEFAULT, "gpu_host_card");
    if (!card)
        return;
    card(1);
    for (int i = 0; i < ROUNDS; i++)
        need(rondo_attention_execute(plan, io, memory));
    card(0);
}

static void run(const struct attention_case *c, int check)
{
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
    rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
    rondo_attention *plan;
    const int64_t keys = c->cached + c->tokens, q_shape[3] = { c->tokens, c->heads, c->dim }, kv_shape[3] = { keys, c->kv_heads, c->dim };
    const int64_t lse_shape[2] = { c->tokens, c->heads }, sinks_shape[1] = { c->heads };
    double ours[ROUNDS], theirs[ROUNDS], single[ROUNDS], worst = 0, largest = 0;
    struct array q = array_of(c->tokens * c->heads * c->dim, c->q_type, 1), k = array_of(keys * c->kv_heads * c->dim, c->kv_type, 2);
    struct array v = array_of(keys * c->kv_heads * c->dim, c->kv_type, 3), out = array_of(c->tokens * c->heads * c->dim, c->out_type, 0);
    struct array lse = array_of(c->tokens * c->heads, RONDO_F32, 0), sinks = array_of(c->heads, RONDO_F32, 0), other = array_of(q.count, c->kv_type, 0);
    struct array stats = array_of(lse.count, RONDO_F32, 0), q16 = array_of(q.count, c->kv_type, 1);
    d.tokens = c->tokens;
    d.cached = c->cached;
    d.heads = c->heads;
    d.kv_heads = c->kv_heads;
    d.head_dim = c->dim;
    d.causal = c->causal;
    d.q_type = c->q_type;
    d.kv_type = c->kv_type;
    d.out_type = c->out_type;
    d.level = RONDO_FAST;
    d.sinks = c->joined;
    io.q = rondo_tensor_dense(q.card, c->q_type, 3, q_shape);
    io.k = rondo_tensor_dense(k.card, c->kv_type, 3, kv_shape);
    io.v = rondo_tensor_dense(v.card, c->kv_type, 3, kv_shape);
    io.out = rondo_tensor_dense(out.card, c->out_type, 3, q_shape);
    io.lse = rondo_tensor_dense(lse.card, RONDO_F32, 2, lse_shape);
    for (int64_t i = 0; i < c->heads; i++)
        ((float *)(void *)sinks.host)[i] = -INFINITY;
    need(rondo_memory_copy(ctx, sinks.card, sinks.host, (size_t)c->heads * 4));
    if (c->joined) {
        io.sinks = rondo_tensor_dense(sinks.card, RONDO_F32, 1, sinks_shape);
        io.sinks.memory = RONDO_MEMORY_DEVICE;
    }
    io.q.memory = io.k.memory = io.v.memory = io.out.memory = io.lse.memory = RONDO_MEMORY_DEVICE;
    double begin = now();
    void *memory = NULL, *workspace = NULL;
    int err = rondo_attention_create(&plan, ctx, &d);
    if (!err)
        err = rondo_attention_query(plan, &info);
    if (!err)
        err = rondo_memory_create(&memory, ctx, RONDO_MEMORY_HOST, info.workspace_bytes);
    if (!err)
        err = rondo_attention_execute(plan, &io, memory);
    const double first = now() - begin;
    if (err)
        printf("%-46s %s\n", c->name, rondo_error_text());

    const struct rondo__dnn_shape s = { .type = c->kv_type, .heads = (int32_t)c->heads, .kv_heads = (int32_t)c->kv_heads,
                                        .head_dim = (int32_t)c->dim, .value_dim = (int32_t)c->dim,
                                        .causal = c->causal && c->tokens > 1, .rows = c->tokens, .keys = keys,
                                        .q_row = c->heads * c->dim, .q_head = c->dim, .k_row = c->kv_heads * c->dim, .k_head = c->dim,
                                        .v_row = c->kv_heads * c->dim, .v_head = c->dim, .out_row = c->heads * c->dim, .out_head = c->dim,
                                        .stats_row = 1, .stats_head = c->tokens };
    const struct rondo__dnn_data data = { q16.card, k.card, v.card, other.card, (float *)(void *)stats.card, (float)(1 / sqrt((double)c->dim)) };
    struct rondo__dnn_plan way;
    const int status = rondo__dnn_make(&dnn, handle, NULL, &s, &way);
    if (status) {
        char more[2000] = "";
        dnn.cudnnGetLastErrorString(more, sizeof more);
        printf("%-46s cuDNN has no plan of it: %s (%d) %s\n", "", dnn.cudnnGetErrorString(status), status, more);
    }
    if (!status && way.workspace)
        need(rondo_memory_create(&workspace, ctx, RONDO_MEMORY_DEVICE, way.workspace));
    if (!status)
        (void)alone(&way, &s, &data, workspace);
    for (int i = 0; i < ROUNDS; i++) {
        theirs[i] = status ? NAN : alone(&way, &s, &data, workspace);
        single[i] = status ? NAN : one(&way, &s, &data, workspace);
        begin = now();
        if (!err)
            need(rondo_attention_execute(plan, &io, memory));
        ours[i] = now() - begin;
    }
    const double a = median(ours, ROUNDS), b = status ? NAN : median(theirs, ROUNDS), alike = status ? NAN : median(single, ROUNDS);
    const double flops = 4.0 * (double)info.visible_pairs * (double)(c->heads * c->dim);
    const double bytes = 2.0 * (double)(keys * c->kv_heads * c->dim) * (double)size_of(c->kv_type);
    printf("%-46s %8.3f ms %7.1f TFLOP/s %7.1f GB/s of KV; cuDNN alone %8.3f ms, %.3f of its rate; one of its executions with a wait %8.3f ms, %.3f; "
           "first run %.2f s\n", c->name, a * 1e3, flops / a * 1e-12, bytes / a * 1e-9, b * 1e3, b / a, alike * 1e3, alike / a, first);
    if (!err)
        look_at_card(plan, &io, memory);
    need(rondo_memory_copy(ctx, out.host, out.card, (size_t)out.count * size_of(c->out_type)));
    need(rondo_memory_copy(ctx, lse.host, lse.card, (size_t)lse.count * 4));
    for (int i = 0; i < check && !err; i++) {
        const int64_t row = i == 0 ? 0 : i == 1 ? c->tokens - 1 : (int64_t)((uint64_t)i * 2654435761u % (uint64_t)c->tokens);
        worst = fmax(worst, excess(c, &q, &k, &v, &out, (const float *)(const void *)lse.host, row, i * 7 % c->heads, &largest));
    }
    printf("%-46s %s: %.3f of the bound, largest error of out %.3g\n", "", err ? "NOT COMPUTED" : worst <= 1 ? "within" : "OUT OF", worst, largest);
    wrong |= err || !(worst <= 1);
    fflush(stdout);
    rondo__dnn_forget(&dnn, &way);
    rondo_attention_destroy(plan);
    rondo_memory_destroy(ctx, memory);
    rondo_memory_destroy(ctx, workspace);
    give(&q), give(&k), give(&v), give(&out), give(&lse), give(&sinks), give(&other), give(&stats), give(&q16);
}

int main(int argc, char **argv)
{
    static const struct attention_case cases[] = {
        { "fast prefill 8192, H=32/8 D=128, bf16, causal", 8192, 0, 32, 8, 128, RONDO_BF16, RONDO_BF16, RONDO_BF16, 1, 0 },
        { "fast prefill 8192, H=32/8 D=128, bf16, full", 8192, 0, 32, 8, 128, RONDO_BF16, RONDO_BF16, RONDO_BF16, 0, 0 },
        { "... as nodes that are joined, out f32, causal", 8192, 0, 32, 8, 128, RONDO_BF16, RONDO_BF16, RONDO_F32, 1, 1 },
        { "... q and out f32, KV bf16, causal", 8192, 0, 32, 8, 128, RONDO_F32, RONDO_BF16, RONDO_F32, 1, 0 },
        { "fast 2048 behind 6144, H=32/8 D=128, bf16", 2048, 6144, 32, 8, 128, RONDO_BF16, RONDO_BF16, RONDO_BF16, 1, 0 },
        { "fast prefill 4096, H=16/16 D=64, f16, causal", 4096, 0, 16, 16, 64, RONDO_F16, RONDO_F16, RONDO_F16, 1, 0 },
        { "fast prefill 1000, H=32/8 D=128, bf16, causal", 1000, 0, 32, 8, 128, RONDO_BF16, RONDO_BF16, RONDO_BF16, 1, 0 },
        { "decode 65536 cached, H=32/8 D=128, bf16", 1, 65535, 32, 8, 128, RONDO_BF16, RONDO_BF16, RONDO_BF16, 1, 0 },
    };
    rondo_context_desc desc = RONDO_CONTEXT_DESC_INIT;
    rondo_context_info info = RONDO_CONTEXT_INFO_INIT;
    const int quick = argc > 1 && !strcmp(argv[1], "quick");
    desc.device = "cuda";
    need(rondo_context_create(&ctx, &desc));
    need(rondo_context_query(ctx, &info));
    printf("device %s, %s\n", info.device, info.isa);
    open_all();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct attention_case c = cases[i];
        if (quick) {
            c.tokens = c.tokens > 1 ? 64 + (int64_t)i : 1;
            c.cached /= 512;
            c.heads /= 8;
            c.kv_heads = c.kv_heads > 8 ? 2 : 1;
        }
        run(&c, quick ? 8 : 24);
    }
    rondo_context_destroy(ctx);
    return wrong;
}
