/* SPDX-License-Identifier: BSD-2-Clause
 *
 * How fast the cuda device is, through the public interface: each line names what was done, what it took (the median of its rounds, host and all)
 * and the rate. contrib/gpu-check runs it beside the card's own rates and on the cpu device for the bits.
 *
 *     cc gpu_bench.c -o gpu_bench $(pkg-config --cflags --libs rondo) && ./gpu_bench [cuda|cpu [all|once|quick|tiny|host|profile [WORD]]]
 *
 * With WORD only the lines that have it in their name, such as "prefill". once: all lines with one round each, for their hashes.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <rondo.h>

static rondo_context *ctx;
static const char *only = "";      /* lines whose name has it */
static int once;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void need(int code)
{
    if (!code)
        return;
    fprintf(stderr, "gpu_bench: %s: %s\n", rondo_error_name(code), rondo_error_text());
    exit(1);
}

/* Numbers between -1 and 1, of a type, in the device's memory; as F16, whose bits are BF16's here, between -2 and 2. */
static void *numbers(size_t count, int type, uint32_t which)
{
    const size_t size = type == RONDO_F32 ? 4 : 2, bytes = count * size;
    const uint32_t key[2] = { 2026, which };
    char *host = malloc(bytes ? bytes : 1);
    void *device;
    if (!host)
        exit(1);
    for (size_t i = 0; i < count; i += 4) {
        const uint32_t counter[4] = { (uint32_t)(i / 4), 0, 0, 0 };
        uint32_t random[4];
        rondo_philox(random, counter, key);
        for (size_t k = 0; k < 4 && i + k < count; k++) {
            const float x = (float)(random[k] >> 8) / 8388608.0f - 1.0f;
            uint32_t bits;
            memcpy(&bits, &x, 4);
            const uint16_t half = (uint16_t)(bits >> 16);
            memcpy(host + (i + k) * size, type == RONDO_F32 ? (const void *)&x : &half, size);
        }
    }
    need(rondo_memory_create(&device, ctx, RONDO_MEMORY_DEVICE, bytes));
    need(rondo_memory_copy(ctx, device, host, bytes));
    free(host);
    return device;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

#define ROUNDS 40
#define MANY 201        /* of small things, where microseconds count */
#define IN_A_ROW 8

static int rounds_of(int most, int room) { return once ? 1 : most < room ? most : room; }

static double median(double *seconds, int count)
{
    qsort(seconds, (size_t)count, sizeof *seconds, by_value);
    return seconds[count / 2];
}

static uint64_t hash_of(void *device, size_t count)
{
    float *host = malloc(count * sizeof *host);
    uint64_t hash = 0;
    if (!host)
        exit(1);
    need(rondo_memory_copy(ctx, host, device, count * sizeof *host));
    rondo_hash_add(&hash, host, sizeof *host, 0, (int64_t)count);
    free(host);
    return hash;
}

/* `sequences` of `tokens` new tokens, behind `cached`. */
static void attention_in(int arithmetic, const char *name, int64_t sequences, int64_t tokens, int64_t cached, int64_t heads, int64_t kv_heads, int64_t dim,
                         int q_type, int kv_type, int causal, int most)
{
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
    rondo_attention *plan;
    rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
    const int64_t q_rows = sequences * tokens, kv_rows = sequences * (tokens + cached), q_shape[3] = { q_rows, heads, dim },
                  kv_shape[3] = { kv_rows, kv_heads, dim };
    double seconds[MANY], begin, took;
    if (!strstr(name, only))
        return;
    d.sequences = sequences;
    d.tokens = tokens;
    d.cached = cached;
    d.heads = heads;
    d.kv_heads = kv_heads;
    d.head_dim = dim;
    d.causal = causal;
    d.q_type = q_type;
    d.kv_type = kv_type;
    d.out_type = RONDO_F32;
    d.arithmetic = arithmetic;
    io.q = rondo_tensor_dense(numbers((size_t)(q_rows * heads * dim), q_type, 1), q_type, 3, q_shape);
    io.k = rondo_tensor_dense(numbers((size_t)(kv_rows * kv_heads * dim), kv_type, 2), kv_type, 3, kv_shape);
    io.v = rondo_tensor_dense(numbers((size_t)(kv_rows * kv_heads * dim), kv_type, 3), kv_type, 3, kv_shape);
    io.out = rondo_tensor_dense(numbers((size_t)(q_rows * heads * dim), RONDO_F32, 4), RONDO_F32, 3, q_shape);
    io.q.memory = io.k.memory = io.v.memory = io.out.memory = RONDO_MEMORY_DEVICE;
    if (rondo_attention_create(&plan, ctx, &d)) {
        printf("%-44s %s\n", name, rondo_error_text());
        rondo_memory_destroy(ctx, io.q.data), rondo_memory_destroy(ctx, io.k.data), rondo_memory_destroy(ctx, io.v.data), rondo_memory_destroy(ctx, io.out.data);
        return;
    }
    need(rondo_attention_query(plan, &info));
    void *workspace = NULL;
    need(rondo_memory_create(&workspace, ctx, RONDO_MEMORY_HOST, info.workspace_bytes));
    const int rounds = rounds_of(most, MANY);
    need(rondo_attention_execute(plan, &io, workspace));
    for (int i = 0; i < rounds; i++) {
        begin = now();
        need(rondo_attention_execute(plan, &io, workspace));
        seconds[i] = now() - begin;
    }
    took = median(seconds, rounds);
    const double flops = 4.0 * (double)info.visible_pairs * (double)heads * (double)dim;
    const double bytes = 2.0 * (double)(kv_rows * kv_heads * dim) * (kv_type == RONDO_F32 ? 4 : 2);
    printf("%-44s %10.3f ms %9.2f TFLOP/s %9.1f GB/s of KV  hash %016llx\n", name, took * 1e3, flops / took * 1e-12, bytes / took * 1e-9,
           (unsigned long long)hash_of(io.out.data, (size_t)(q_rows * heads * dim)));
    fflush(stdout);
    rondo_attention_destroy(plan);
    rondo_memory_destroy(ctx, workspace);
    rondo_memory_destroy(ctx, io.q.data), rondo_memory_destroy(ctx, io.k.data), rondo_memory_destroy(ctx, io.v.data), rondo_memory_destroy(ctx, io.out.data);
}

static void attention(const char *name, int64_t sequences, int64_t tokens, int64_t cached, int64_t heads, int64_t kv_heads, int64_t dim, int kv_type, int causal,
                      int most)
{
    attention_in(RONDO_ARITHMETIC_F32, name, sequences, tokens, cached, heads, kv_heads, dim, RONDO_F32, kv_type, causal, most);
}

static void hopper(const char *name, int64_t tokens, int64_t cached, int64_t heads, int64_t kv_heads, int64_t dim, int q_type, int kv_type, int causal, int most)
{
    attention_in(RONDO_ARITHMETIC_BF16_HOPPER, name, 1, tokens, cached, heads, kv_heads, dim, q_type, kv_type, causal, most);
}

static void doubles(const char *name, int64_t tokens, int64_t cached, int64_t heads, int64_t kv_heads, int64_t dim, int kv_type, int causal, int most)
{
    attention_in(RONDO_ARITHMETIC_F64, name, 1, tokens, cached, heads, kv_heads, dim, RONDO_F32, kv_type, causal, most);
}

/* Of the first 64 outputs of the last row: the largest error beside the sum of the magnitudes of what was added. */
static double error_of(const float *x, const float *w, const float *y, int64_t rows, int64_t in, int64_t out, int type)
{
    const int64_t some = out < 64 ? out : 64;
    float *row = malloc((size_t)in * sizeof *row), got[64];
    double worst = 0;
    if (!row)
        exit(1);
    need(rondo_memory_copy(ctx, row, x + (rows - 1) * in, (size_t)in * sizeof *row));
    need(rondo_memory_copy(ctx, got, y + (rows - 1) * out, (size_t)some * sizeof *got));
    for (int64_t o = 0; o < some; o++) {
        double sum = 0, size = 0;
        for (int64_t k = 0; k < in; k++) {
            float weight = w[o * in + k];
            uint32_t bits;
            memcpy(&bits, &weight, sizeof bits);
            bits = type == RONDO_BF16 ? (bits + 0x7fffu + (bits >> 16 & 1u)) & 0xffff0000u : bits;   /* to the nearest */
            memcpy(&weight, &bits, sizeof weight);
            sum += (double)row[k] * (double)weight;
            size += fabs((double)row[k] * (double)weight);
        }
        worst = fmax(worst, fabs((double)got[o] - sum) / size);
    }
    free(row);
    return worst;
}

static void linear_at(int level, const char *name, int64_t rows, int64_t in, int64_t out, int type, int most)
{
    rondo_linear_desc d = RONDO_LINEAR_DESC_INIT;
    rondo_linear *l;
    double seconds[ROUNDS], begin, took;
    if (!strstr(name, only))
        return;
    float some, *x = numbers((size_t)(rows * in), RONDO_F32, 1), *y = numbers((size_t)(rows * out), RONDO_F32, 2);
    d.in = in;
    d.out = out;
    d.type = type;
    d.level = level;
    if (rondo_linear_create(&l, ctx, &d)) {
        printf("%-44s %s\n", name, rondo_error_text());
        rondo_memory_destroy(ctx, x), rondo_memory_destroy(ctx, y);
        return;
    }
    const uint32_t key[2] = { 7, 7 };
    float *w = malloc((size_t)(in * out) * sizeof *w);
    if (!w)
        exit(1);
    for (int64_t i = 0; i < in * out; i += 4) {
        const uint32_t counter[4] = { (uint32_t)i, 0, 0, 0 };
        uint32_t random[4];
        rondo_philox(random, counter, key);
        for (int k = 0; k < 4 && i + k < in * out; k++)
            w[i + k] = (float)(random[k] >> 8) / 8388608.0f - 1.0f;
    }
    need(rondo_linear_load_from(l, 0, out, RONDO_F32, w, NULL));
    const int rounds = rounds_of(most, ROUNDS);
    need(rondo_linear_execute(l, ctx, rows, x, in, y, out, NULL, 0));
    need(rondo_memory_copy(ctx, &some, y, sizeof some));
    for (int i = 0; i < rounds; i++) {     /* several in a row: the host hands out work ahead of the card */
        begin = now();
        for (int k = 0; k < IN_A_ROW; k++)
            need(rondo_linear_execute(l, ctx, rows, x, in, y, out, NULL, 0));
        need(rondo_memory_copy(ctx, &some, y, sizeof some));
        seconds[i] = (now() - begin) / IN_A_ROW;
    }
    took = median(seconds, rounds);
    printf("%-44s %10.3f ms %9.2f TFLOP/s %9.1f GB/s of weights  hash %016llx\n", name, took * 1e3, 2.0 * (double)rows * (double)in * (double)out / took * 1e-12,
           (double)rondo_linear_bytes(l) / took * 1e-9, (unsigned long long)hash_of(y, (size_t)(rows * out)));
    if (level == RONDO_FAST)
        printf("%-44s largest error %.3g of sum |x w|\n", "", error_of(x, w, y, rows, in, out, type));
    fflush(stdout);
    free(w);
    rondo_linear_destroy(l);
    rondo_memory_destroy(ctx, x), rondo_memory_destroy(ctx, y);
}

static void linear(const char *name, int64_t rows, int64_t in, int64_t out, int type, int most)
{
    linear_at(RONDO_STRICT, name, rows, in, out, type, most);
}

/* The delta rule: `sequences` of `tokens`, raw gates, keys that are normalised; of one token their states are written where they lie. */
static void delta_of(const char *name, int64_t sequences, int64_t tokens, int64_t heads, int64_t dim, int type, int most, int back)
{
    rondo_delta_desc d = RONDO_DELTA_DESC_INIT;
    rondo_delta_io io = RONDO_DELTA_IO_INIT;
    rondo_delta *plan;
    const int64_t rows = sequences * tokens, shape[3] = { rows, heads, dim }, betas[2] = { rows, heads }, states[4] = { sequences, heads, dim, dim };
    const size_t count = (size_t)(rows * heads * dim), state = (size_t)(sequences * heads * dim * dim);
    double seconds[ROUNDS], begin, took;
    if (!strstr(name, only))
        return;
    d.heads = heads;
    d.key_dim = dim;
    d.sequences = sequences;
    d.tokens = tokens;
    d.type = type;
    d.gate_type = d.beta_type = d.out_type = RONDO_F32;
    d.gate = RONDO_GATE_SOFTPLUS;
    d.beta = RONDO_BETA_SIGMOID;
    d.norm = d.initial_state = d.final_state = 1;
    d.gradients = back;
    io.q = rondo_tensor_dense(numbers(count, type, 1), type, 3, shape);
    io.k = rondo_tensor_dense(numbers(count, type, 2), type, 3, shape);
    io.v = rondo_tensor_dense(numbers(count, type, 3), type, 3, shape);
    io.g = rondo_tensor_dense(numbers(count, RONDO_F32, 4), RONDO_F32, 3, shape);
    io.beta = rondo_tensor_dense(numbers((size_t)(rows * heads), RONDO_F32, 5), RONDO_F32, 2, betas);
    io.out = rondo_tensor_dense(numbers(count, RONDO_F32, 6), RONDO_F32, 3, shape);
    io.initial_state = rondo_tensor_dense(numbers(state, RONDO_F32, 7), RONDO_F32, 4, states);
    rondo_tensor *all[] = { &io.q, &io.k, &io.v, &io.g, &io.beta, &io.out, &io.initial_state };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        all[i]->memory = RONDO_MEMORY_DEVICE;
    io.final_state = io.initial_state;
    need(rondo_delta_create(&plan, ctx, &d));
    if (!back)
        need(rondo_delta_execute(plan, &io));
    rondo_delta_gradients of = RONDO_DELTA_GRADIENTS_INIT;
    rondo_tensor *made[] = { &of.dq, &of.dk, &of.dv, &of.dg, &of.dbeta };
    for (size_t i = 0; i < sizeof made / sizeof *made && back; i++) {   /* of the shapes of what they are of */
        *made[i] = *all[i];
        made[i]->type = RONDO_F32;
        made[i]->data = numbers(i < 4 ? count : (size_t)(rows * heads), RONDO_F32, 8);
    }
    of.dout = io.out;
    if (back)
        need(rondo_delta_backward(plan, &io, &of));
    const uint64_t hash = hash_of(back ? of.dq.data : io.out.data, count), behind = back ? hash_of(of.dk.data, count) : hash_of(io.final_state.data, state);
    const int rounds = rounds_of(most, ROUNDS);
    for (int i = 0; i < rounds; i++) {
        begin = now();
        need(back ? rondo_delta_backward(plan, &io, &of) : rondo_delta_execute(plan, &io));
        seconds[i] = now() - begin;
    }
    took = median(seconds, rounds);
    printf("%-44s %10.3f ms %9.2f TFLOP/s %9.1f GB/s of states  hash %016llx, %016llx\n", name, took * 1e3,
           (back ? 27.0 : 7.0) * (double)count * (double)dim / took * 1e-12, 8.0 * (double)state / took * 1e-9, (unsigned long long)hash, (unsigned long long)behind);
    fflush(stdout);
    rondo_delta_destroy(plan);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        rondo_memory_destroy(ctx, all[i]->data);
    for (size_t i = 0; i < sizeof made / sizeof *made && back; i++)
        rondo_memory_destroy(ctx, made[i]->data);
}

static void delta(const char *name, int64_t sequences, int64_t tokens, int64_t heads, int64_t dim, int type, int most)
{
    delta_of(name, sequences, tokens, heads, dim, type, most, 0);
}

/* Gradients of causal attention, from out and log(sum(exp)) that were kept. */
static void gradients(const char *name, int64_t tokens, int64_t heads, int64_t kv_heads, int64_t dim, int type, int most)
{
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
    rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
    rondo_attention_gradients of = RONDO_ATTENTION_GRADIENTS_INIT;
    rondo_attention *plan;
    const int64_t q_shape[3] = { tokens, heads, dim }, kv_shape[3] = { tokens, kv_heads, dim };
    const size_t count = (size_t)(tokens * heads * dim), kv_count = (size_t)(tokens * kv_heads * dim);
    double seconds[ROUNDS];
    if (!strstr(name, only))
        return;
    d.tokens = tokens;
    d.heads = heads;
    d.kv_heads = kv_heads;
    d.head_dim = dim;
    d.causal = d.gradients = 1;
    d.q_type = d.kv_type = type;
    d.out_type = RONDO_F32;
    rondo_tensor *const queries[] = { &io.q, &io.out, &of.dout, &of.dq }, *const keys[] = { &io.k, &io.v, &of.dk, &of.dv };
    for (uint32_t i = 0; i < 4; i++) {
        *queries[i] = rondo_tensor_dense(numbers(count, i ? RONDO_F32 : type, i + 1), i ? RONDO_F32 : type, 3, q_shape);
        *keys[i] = rondo_tensor_dense(numbers(kv_count, i > 1 ? RONDO_F32 : type, i + 5), i > 1 ? RONDO_F32 : type, 3, kv_shape);
        queries[i]->memory = keys[i]->memory = RONDO_MEMORY_DEVICE;
    }
    io.lse = rondo_tensor_dense(numbers((size_t)(tokens * heads), RONDO_F32, 9), RONDO_F32, 2, q_shape);
    io.lse.memory = RONDO_MEMORY_DEVICE;
    need(rondo_attention_create(&plan, ctx, &d));
    need(rondo_attention_query(plan, &info));
    need(rondo_attention_execute(plan, &io, NULL));
    need(rondo_attention_backward(plan, &io, &of, NULL));
    const int rounds = rounds_of(most, ROUNDS);
    for (int i = 0; i < rounds; i++) {
        const double begin = now();
        need(rondo_attention_backward(plan, &io, &of, NULL));
        seconds[i] = now() - begin;
    }
    const double took = median(seconds, rounds);
    printf("%-44s %10.3f ms %9.2f TFLOP/s  hash %016llx, %016llx, %016llx\n", name, took * 1e3, info.backward_flops / took * 1e-12,
           (unsigned long long)hash_of(of.dq.data, count), (unsigned long long)hash_of(of.dk.data, kv_count), (unsigned long long)hash_of(of.dv.data, kv_count));
    fflush(stdout);
    rondo_attention_destroy(plan);
    for (int i = 0; i < 4; i++)
        rondo_memory_destroy(ctx, queries[i]->data), rondo_memory_destroy(ctx, keys[i]->data);
    rondo_memory_destroy(ctx, io.lse.data);
}

int main(int argc, char **argv)
{
    rondo_context_desc desc = RONDO_CONTEXT_DESC_INIT;
    rondo_context_info info = RONDO_CONTEXT_INFO_INIT;
    desc.device = argc > 1 ? argv[1] : "cuda";
    const char *how = argc > 2 ? argv[2] : "all";
    only = argc > 3 ? argv[3] : "";
    once = !strcmp(how, "once");
    need(rondo_context_create(&ctx, &desc));
    need(rondo_context_query(ctx, &info));
    printf("device %s, %s\n", info.device, info.isa);
    if (!strcmp(how, "profile")) {         /* once or twice each what takes time, for a profiler */
        attention("prefill 8192, H=32/8 D=128, f32, causal", 1, 8192, 0, 32, 8, 128, RONDO_F32, 1, 1);
        attention("decode 65536 cached, H=32/8 D=128, bf16", 1, 1, 65535, 32, 8, 128, RONDO_BF16, 1, 1);
        hopper("bf16-hopper prefill 8192, H=32/8 D=128, bf16, causal", 8192, 0, 32, 8, 128, RONDO_BF16, RONDO_BF16, 1, 1);
        doubles("f64 prefill 8192, H=32/8 D=128, f32, causal", 8192, 0, 32, 8, 128, RONDO_F32, 1, 1);
        linear("linear 4096 rows, 4096 -> 4096, f32", 4096, 4096, 4096, RONDO_F32, 1);
        linear("linear 1 row, 4096 -> 14336, bf16", 1, 4096, 14336, RONDO_BF16, 1);
        delta("delta 8192, H=32 K=V=128, f32", 1, 8192, 32, 128, RONDO_F32, 1);
        delta("delta 1 token of 64, H=32 K=V=128, f32", 64, 1, 32, 128, RONDO_F32, 1);
        return 0;
    }
    attention("tiny (what an execution costs)", 1, 16, 0, 4, 4, 64, RONDO_F32, 1, MANY);
    if (!strcmp(how, "host")) {            /* what of it is the host's: for gpu_host.c */
        attention("decode 1 cached, H=32/8 D=128, bf16", 1, 1, 1, 32, 8, 128, RONDO_BF16, 1, MANY);
        attention("decode 5000 cached, H=32/8 D=128, bf16", 1, 1, 4999, 32, 8, 128, RONDO_BF16, 1, MANY);
        attention("decode 65536 cached, H=32/8 D=128, bf16", 1, 1, 65535, 32, 8, 128, RONDO_BF16, 1, MANY);
        attention("decode 65536 cached, H=32/8 D=128, f32", 1, 1, 65535, 32, 8, 128, RONDO_F32, 1, MANY);
        return 0;
    }
    if (!strcmp(how, "tiny")) {            /* for a sanitizer */
        attention("prefill 300, H=4/2 D=64, f32, causal", 1, 300, 0, 4, 2, 64, RONDO_F32, 1, 1);
        attention("decode 700 cached, H=8/2 D=128, bf16", 1, 1, 699, 8, 2, 128, RONDO_BF16, 1, 1);
        hopper("bf16-hopper prefill 300, H=4/2 D=64, bf16, causal", 300, 0, 4, 2, 64, RONDO_BF16, RONDO_BF16, 1, 1);
        hopper("bf16-hopper decode 300 cached, H=2/1 D=136, f32", 1, 299, 2, 1, 136, RONDO_F32, RONDO_F32, 1, 1);
        doubles("f64 prefill 300, H=4/2 D=64, f32, causal", 300, 0, 4, 2, 64, RONDO_F32, 1, 1);
        doubles("f64 decode 300 cached, H=2/1 D=136, bf16", 1, 299, 2, 1, 136, RONDO_BF16, 1, 1);
        linear("linear 70 rows, 1030 -> 130, f32", 70, 1030, 130, RONDO_F32, 1);
        linear("linear 3 rows, 1030 -> 130, bf16", 3, 1030, 130, RONDO_BF16, 1);
        delta("delta 100, H=2 K=V=128, f32", 1, 100, 2, 128, RONDO_F32, 1);
        delta("delta 40 of 2, H=3 K=V=96, bf16", 2, 40, 3, 96, RONDO_BF16, 1);
        delta_of("delta backward 40, H=2 K=V=64, bf16", 1, 40, 2, 64, RONDO_BF16, 1, 1);
        gradients("gradients 300, H=4/2 D=64, bf16", 300, 4, 2, 64, RONDO_BF16, 1);
        return 0;
    }
    attention("prefill 1000, H=32/8 D=128, f32, causal", 1, 1000, 0, 32, 8, 128, RONDO_F32, 1, 5);
    hopper("bf16-hopper prefill 600, H=4/2 D=128, bf16, causal", 600, 0, 4, 2, 128, RONDO_BF16, RONDO_BF16, 1, 5);
    hopper("bf16-hopper prefill 300, H=2/2 D=192, f32, full", 300, 0, 2, 2, 192, RONDO_F32, RONDO_F32, 0, 5);
    doubles("f64 prefill 600, H=4/2 D=128, f32, causal", 600, 0, 4, 2, 128, RONDO_F32, 1, 5);
    doubles("f64 prefill 300, H=2/2 D=192, bf16, full", 300, 0, 2, 2, 192, RONDO_BF16, 0, 5);
    attention("decode 5000 cached, H=32/8 D=128, bf16", 1, 1, 4999, 32, 8, 128, RONDO_BF16, 1, ROUNDS);
    attention("decode 5000 cached, H=32/8 D=128, f32", 1, 1, 4999, 32, 8, 128, RONDO_F32, 1, ROUNDS);
    linear("linear 100 rows, 4096 -> 1000, f32", 100, 4096, 1000, RONDO_F32, 5);
    linear("linear 1 row, 4096 -> 4096, bf16", 1, 4096, 4096, RONDO_BF16, ROUNDS);
    linear("linear 3 rows, 4096 -> 1000, q8", 3, 4096, 1000, RONDO_Q8, ROUNDS);
    delta("delta 500, H=8 K=V=128, f32", 1, 500, 8, 128, RONDO_F32, 5);
    delta("delta 200 of 3, H=4 K=V=64, bf16", 3, 200, 4, 64, RONDO_BF16, 5);
    delta("delta 200, H=4 K=V=96, f32", 1, 200, 4, 96, RONDO_F32, 5);
    delta("delta 1 token of 2, H=32 K=V=128, f32", 2, 1, 32, 128, RONDO_F32, ROUNDS);
    delta_of("delta backward 300, H=4 K=V=128, f32", 1, 300, 4, 128, RONDO_F32, 3, 1);
    gradients("gradients 600, H=4/2 D=128, f32", 600, 4, 2, 128, RONDO_F32, 3);
    if (!strcmp(how, "quick"))
        return 0;
    attention("prefill 8192, H=32/8 D=128, f32, causal", 1, 8192, 0, 32, 8, 128, RONDO_F32, 1, 5);
    attention("prefill 8192, H=32/8 D=128, f32, full", 1, 8192, 0, 32, 8, 128, RONDO_F32, 0, 3);
    attention("prefill 8192, H=32/8 D=64, f32, causal", 1, 8192, 0, 32, 8, 64, RONDO_F32, 1, 5);
    attention("prefill 8192, H=32/8 D=128, bf16 KV, causal", 1, 8192, 0, 32, 8, 128, RONDO_BF16, 1, 5);
    gradients("gradients 8192, H=32/8 D=128, f32", 8192, 32, 8, 128, RONDO_F32, 3);
    if (!once) {                           /* too much for a cpu */
        hopper("bf16-hopper prefill 8192, H=32/8 D=128, bf16, causal", 8192, 0, 32, 8, 128, RONDO_BF16, RONDO_BF16, 1, 10);
        hopper("bf16-hopper prefill 8192, H=32/8 D=128, bf16, full", 8192, 0, 32, 8, 128, RONDO_BF16, RONDO_BF16, 0, 10);
        hopper("bf16-hopper prefill 32768, H=32/8 D=128, bf16, causal", 32768, 0, 32, 8, 128, RONDO_BF16, RONDO_BF16, 1, 3);
        hopper("bf16-hopper prefill 8192, H=32/8 D=64, bf16, causal", 8192, 0, 32, 8, 64, RONDO_BF16, RONDO_BF16, 1, 10);
        hopper("bf16-hopper prefill 8192, H=32/8 D=128, f32, causal", 8192, 0, 32, 8, 128, RONDO_F32, RONDO_F32, 1, 10);
        hopper("bf16-hopper decode 65536 cached, H=32/8 D=128, bf16", 1, 65535, 32, 8, 128, RONDO_BF16, RONDO_BF16, 1, ROUNDS);
        doubles("f64 prefill 8192, H=32/8 D=128, f32, causal", 8192, 0, 32, 8, 128, RONDO_F32, 1, 5);
        doubles("f64 prefill 1000, H=32/8 D=128, f32, causal", 1000, 0, 32, 8, 128, RONDO_F32, 1, 10);
        doubles("f64 prefill 8192, H=32/8 D=64, f32, causal", 8192, 0, 32, 8, 64, RONDO_F32, 1, 5);
        doubles("f64 decode 65536 cached, H=32/8 D=128, f32", 1, 65535, 32, 8, 128, RONDO_F32, 1, ROUNDS);
    }
    attention("decode 65536 cached, H=32/8 D=128, bf16", 1, 1, 65535, 32, 8, 128, RONDO_BF16, 1, ROUNDS);
    attention("decode 65536 cached, H=32/8 D=128, f32", 1, 1, 65535, 32, 8, 128, RONDO_F32, 1, ROUNDS);
    attention("decode 65536 cached, H=32/8 D=128, f16", 1, 1, 65535, 32, 8, 128, RONDO_F16, 1, ROUNDS);
    attention("decode 65536 cached, H=8/8 D=128, bf16", 1, 1, 65535, 8, 8, 128, RONDO_BF16, 1, ROUNDS);
    attention("decode 65536 cached, H=64/8 D=128, bf16", 1, 1, 65535, 64, 8, 128, RONDO_BF16, 1, ROUNDS);
    attention("decode 8 x 65536 cached, H=32/8 D=128, bf16", 8, 1, 65535, 32, 8, 128, RONDO_BF16, 1, 10);
    linear("linear 512 rows, 4096 -> 4096, f32", 512, 4096, 4096, RONDO_F32, 10);
    linear("linear 4096 rows, 4096 -> 4096, f32", 4096, 4096, 4096, RONDO_F32, 5);
    linear("linear 512 rows, 4096 -> 14336, bf16", 512, 4096, 14336, RONDO_BF16, 10);
    linear_at(RONDO_FAST, "fast linear 4096 rows, 4096 -> 4096, f32", 4096, 4096, 4096, RONDO_F32, 5);
    linear_at(RONDO_FAST, "fast linear 512 rows, 4096 -> 14336, bf16", 512, 4096, 14336, RONDO_BF16, 10);
    linear_at(RONDO_FAST, "fast linear 4096 rows, 4096 -> 14336, bf16", 4096, 4096, 14336, RONDO_BF16, 10);
    linear("linear 1 row, 4096 -> 14336, bf16", 1, 4096, 14336, RONDO_BF16, ROUNDS);
    linear("linear 1 row, 14336 -> 4096, bf16", 1, 14336, 4096, RONDO_BF16, ROUNDS);
    linear("linear 1 row, 4096 -> 32000, f32", 1, 4096, 32000, RONDO_F32, ROUNDS);
    linear("linear 8 rows, 4096 -> 14336, bf16", 8, 4096, 14336, RONDO_BF16, ROUNDS);
    delta("delta 8192, H=32 K=V=128, f32", 1, 8192, 32, 128, RONDO_F32, 5);
    delta("delta 8192, H=32 K=V=128, bf16", 1, 8192, 32, 128, RONDO_BF16, 5);
    delta("delta 8192 of 4, H=32 K=V=128, bf16", 4, 8192, 32, 128, RONDO_BF16, 3);
    delta_of("delta backward 8192, H=32 K=V=128, f32", 1, 8192, 32, 128, RONDO_F32, 3, 1);
    delta("delta 1 token of 1, H=32 K=V=128, f32", 1, 1, 32, 128, RONDO_F32, ROUNDS);
    delta("delta 1 token of 64, H=32 K=V=128, f32", 64, 1, 32, 128, RONDO_F32, ROUNDS);
    rondo_context_destroy(ctx);
    return 0;
}
