/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The fake driver of graphics cards (fake_cuda.h) and the language of kernels on fibers (cuda_fibers.h): what the tests of the module rondo_cuda.so
 * stand on. That they do what the real ones do, that they do late what those may do late, and that they see the faults for which they are there.
 */
#define _GNU_SOURCE   /* fork, pthread_barrier_t */
#define RONDO_CUDA_FIBERS
#include "t/cuda_fibers.h"
#include "t/fake_cuda.h"
#include "t/tap.h"

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- kernels ---- */

enum { N = 128 };
struct toy {
    const float *in;
    float *out;
    int64_t count;
    int mode;
};

KERNEL(toy_reverse, toy, N, 2)   /* mode 1: as it must be */
{
    SHARED(shared);
    float *s = (float *)(void *)shared;
    s[THREAD] = p.in[THREAD];
    if (p.mode)
        BARRIER();
    p.out[THREAD] = s[N - 1 - THREAD];
}

/* Each warp adds up its numbers, warp w as often as w + 1 says. */
KERNEL(toy_shuffle, toy, N, 2)
{
    float x = p.in[THREAD];
    for (int round = 0; round <= THREAD / 32; round++) {
        x = p.in[THREAD];
        for (int m = 16; m; m /= 2)
            x = x + SHUFFLE_XOR(x, m);
        if (p.mode)
            WARP_BARRIER();
    }
    p.out[THREAD] = x;
}

KERNEL(toy_diverge, toy, N, 2)
{
    if (p.mode == 1 && THREAD >= 40 && THREAD < 50)
        return;
    if (p.mode == 2 && THREAD == 3)
        WARP_BARRIER();
    else if (p.mode == 3 && THREAD == 3)
        BARRIER();
    else if (p.mode == 4 && THREAD < 32)
        BARRIER();
    else
        BARRIER();
    if (p.mode == 5)
        p.out[THREAD] = THREAD % 32 < 16 ? SHUFFLE_XOR(1.0f, 1)
                                         : SHUFFLE_XOR(2.0f, 1);
    p.out[THREAD] = 1.0f;
}

/* Two groups of copies, of which the first has been waited for; mode 1: both; 2: none; 3: what is not valid; 4: an odd address; 5: beyond; 6: four bytes */
KERNEL(toy_copy, toy, N, 2)
{
    SHARED(shared);
    float *s = (float *)(void *)shared;
    if (p.mode == 6)
        COPY4(s + THREAD, p.in + THREAD, 1);
    else
        COPY16(s + 4 * THREAD + (p.mode == 4) + (p.mode == 5 ? 5 * N : 0), p.in + 4 * THREAD, p.mode != 3);
    COPY_CLOSE();
    COPY16(s + 4 * (N + THREAD), p.in + 4 * (N + THREAD), 1);
    COPY_CLOSE();
    if (p.mode == 1)
        COPY_WAIT(0);
    else if (p.mode != 2)
        COPY_WAIT(1);
    BARRIER();
    for (int i = 0; i < 8; i++)
        p.out[i * N + THREAD] = s[i * N + THREAD];
}

KERNEL(toy_places, toy, N, 2)
{
    SHARED(shared);
    float *s = (float *)(void *)shared;
    if (BLOCKS != p.mode)
        return;
    p.out[2 * (BLOCK * N + THREAD)] = (float)(1000 * BLOCK + THREAD);
    p.out[2 * (BLOCK * N + THREAD) + 1] = s[THREAD];   /* what nobody has written */
}

/* In which order threads go on behind a barrier. */
KERNEL(toy_order, toy, N, 2)
{
    BARRIER();
    p.out[(int)p.out[N]++] = (float)THREAD;
}

/* x -> 2 x + mode, so that order shows */
KERNEL(toy_step, toy, N, 2)
{
    for (int64_t i = BLOCK * N + THREAD; i < p.count; i += BLOCKS * N)
        p.out[i] = NUM_FMA(2.0f, p.in[i], (float)p.mode);
}

static int64_t deep(const volatile int64_t *above, int64_t n)
{
    volatile int64_t room[256];
    room[n % 256] = n;
    return n ? deep(room, n - 1) + above[0] + room[n % 256] : 0;
}

KERNEL(toy_wild, toy, N, 2)
{
    BARRIER();
    if (p.mode == 1 && THREAD == 5)
        p.out[THREAD] = *(const volatile float *)(uintptr_t)p.count;
    else if (p.mode == 2 && THREAD == 6)
        p.out[p.count] = 1.0f;
    else if (p.mode == 3 && THREAD == 7)
        p.out[THREAD] = (float)deep(&p.count, 1000);
    else if (p.mode == 4 && THREAD == 8)
        rondo_fiber_now.shared[4096] = 1;
    BARRIER();
}

KERNEL(toy_root, toy, 64, 8)
{
    p.out[THREAD] = NUM_SQRT(p.in[THREAD]);
}

#define TOYS(X) X(toy_reverse, toy) X(toy_shuffle, toy) X(toy_diverge, toy) X(toy_copy, toy) X(toy_places, toy) X(toy_order, toy) \
    X(toy_step, toy) X(toy_wild, toy) X(toy_root, toy)
static const struct rondo_fiber_kernel toys[] = {
#define X(name, type) RONDO_FIBER_KERNEL(name, type)
    TOYS(X)
#undef X
};

const struct rondo_fiber_kernel *rondo_fake_kernels(int *count)
{
    *count = (int)(sizeof toys / sizeof toys[0]);
    return toys;
}

/* ---- a card ---- */

static const char image[] = "// toys\n.version 7.0\n.target sm_80\n";
static CUcontext context;
static CUmodule module;
static CUdeviceptr in_card, out_card;
enum { MANY = 8 * N };
static float in_host[MANY], out_host[MANY];

static void begin(const char *settings, const char *order)
{
    if (order)
        setenv("RONDO_FAKE_CUDA_ORDER", order, 1);
    else
        unsetenv("RONDO_FAKE_CUDA_ORDER");
    int err = rondo_fake_cuda_set(settings);
    err = err ? err : cuInit(0);
    err = err ? err : cuDevicePrimaryCtxRetain(&context, 0);
    err = err ? err : cuCtxSetCurrent(context);
    err = err ? err : cuModuleLoadData(&module, image);
    err = err ? err : cuMemAlloc_v2(&in_card, sizeof in_host);
    err = err ? err : cuMemAlloc_v2(&out_card, sizeof out_host);
    for (int i = 0; i < MANY; i++)
        in_host[i] = (float)(i + 1);
    err = err ? err : cuMemcpyHtoD_v2(in_card, in_host, sizeof in_host);
    err = err ? err : cuCtxSynchronize();
    if (err) {
        printf("Bail out! the fake driver does not begin: %d\n", err);
        exit(1);
    }
}

static void end(void)
{
    cuMemFree_v2(in_card);
    cuMemFree_v2(out_card);
    cuModuleUnload(module);
    cuDevicePrimaryCtxRelease_v2(0);
}

static int launch(const char *name, int mode, int blocks, unsigned shared, CUstream stream)
{
    struct toy p = { (const float *)(uintptr_t)in_card, (float *)(uintptr_t)out_card, MANY, mode };
    void *params[] = { &p };
    CUfunction f;
    int err = cuModuleGetFunction(&f, module, name);
    return err ? err : cuLaunchKernel(f, (unsigned)blocks, 1, 1, N, 1, 1, shared, stream, params, NULL);
}

/* A kernel, from beginning to end. */
static int run(const char *name, int mode, int blocks, unsigned shared)
{
    int err = launch(name, mode, blocks, shared, NULL);
    err = err ? err : cuCtxSynchronize();
    return err ? err : cuMemcpyDtoH_v2(out_host, out_card, sizeof out_host);
}

static const char *const orders[] = { "up", "down", "1", "2", "77" };
enum { ORDERS = sizeof orders / sizeof orders[0] };

/* ---- the language ---- */

static void barriers(void)
{
    int missed = 0, wrong = 0;
    for (int o = 0; o < ORDERS; o++) {
        begin("", orders[o]);
        int err = run("toy_reverse", 1, 1, 4 * N), bad = 0;
        for (int i = 0; i < N; i++)
            wrong += err || out_host[i] != in_host[N - 1 - i];
        err = run("toy_reverse", 0, 1, 4 * N);
        for (int i = 0; i < N; i++)
            bad += out_host[i] != in_host[N - 1 - i];
        missed += !err && !bad;
        end();
    }
    is_int(wrong, 0, "what one thread writes others read behind a barrier, in any order");
    is_int(missed, 0, "without the barrier it is wrong, in every order");

    static float first[N], again[N], other[N];
    for (int o = 0; o < 4; o++) {
        begin("", (const char *[]){ "up", "down", "5", "6" }[o]);
        const float zero = 0.0f;
        int err = cuMemcpyHtoD_v2(out_card + N * sizeof(float), &zero, sizeof zero);
        err = err ? err : run("toy_order", 0, 1, 0);
        int seen[N] = { 0 };
        for (int i = 0; i < N; i++)
            seen[(int)out_host[i] & (N - 1)]++;
        for (int i = 0; i < N; i++)
            err |= seen[i] != 1 || (o == 0 && (int)out_host[i] != i) || (o == 1 && (int)out_host[i] != N - 1 - i);
        memcpy(o == 2 ? first : other, out_host, sizeof first);
        ok(!err, "threads go on in the order %s", (const char *[]){ "up", "down", "of a seed", "of another" }[o]);
        end();
    }
    begin("", "5");
    const float zero = 0.0f;
    (void)(cuMemcpyHtoD_v2(out_card + N * sizeof(float), &zero, sizeof zero) || run("toy_order", 0, 1, 0));
    memcpy(again, out_host, sizeof again);
    ok(memcmp(first, other, sizeof first) != 0 && memcmp(first, again, sizeof first) == 0, "a seed says which order, each time the same");
    end();
}

static void shuffles(void)
{
    int wrong = 0;
    for (int o = 0; o < 2 * ORDERS; o++) {
        begin("", orders[o / 2]);
        int err = run("toy_shuffle", o % 2, 3, 0);
        for (int i = 0; i < N; i++) {
            const int w = i / 32;
            wrong += err || out_host[i] != (float)(32 * 32 * w + 32 * 33 / 2);
        }
        end();
    }
    is_int(wrong, 0, "warps exchange what they have, each as often as it likes");
}

static void divergence(void)
{
    static const struct {
        int mode, code;
        const char *word, *what;
    } cases[] = {
        { 0, 0, "", "all threads at one barrier" },
        { 1, 719, "has ended", "some have ended, others wait" },
        { 2, 719, "waits at the barrier of its warp", "one waits for its warp, others for the block" },
        { 3, 719, "of one warp thread", "threads of a warp at different barriers" },
        { 4, 0, "", "whole warps at different barriers" },
        { 5, 719, "waits at the shuffle", "threads of a warp at different shuffles" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int o = 0; o < 3; o++) {
            begin("", orders[o]);
            int err = run("toy_diverge", cases[i].mode, 2, 0), later = err ? run("toy_diverge", 0, 1, 0) : 0;
            ok(err == cases[i].code && later == err && (!err || strstr(rondo_fake_cuda_text(), cases[i].word)), "%s: %d%s%s", cases[i].what, err,
               err ? ", " : "", err ? rondo_fake_cuda_text() : "");
            end();
        }
    begin("", NULL);
    ok(!run("toy_diverge", 0, 1, 0) && out_host[0] == 1.0f, "a new context is sound, and so are its fibers");
    end();
}

static void copies(void)
{
    const unsigned shared = 8 * N * sizeof(float);
    for (int o = 0; o < 3; o++) {
        begin("", orders[o]);
        int err = run("toy_copy", 1, 1, shared);
        ok(!err && memcmp(in_host, out_host, sizeof in_host) == 0, "copies have arrived where they were waited for");
        err = run("toy_copy", 0, 1, shared);
        int late = 0;
        for (int i = 0; i < MANY / 2; i++)
            late += out_host[MANY / 2 + i] != in_host[MANY / 2 + i];
        ok(!err && memcmp(in_host, out_host, sizeof in_host / 2) == 0 && (o == 0 ? late == MANY / 2 : o == 1 ? !late : late > 50 && late < 450),
           "the latest group is under way still: %d of %d numbers are not there", late, MANY / 2);
        err = run("toy_copy", 2, 1, shared);
        for (int i = late = 0; i < MANY; i++)
            late += out_host[i] != in_host[i];
        ok(!err && (o == 1 ? !late : late > 100), "nobody has waited: %d of %d are not there", late, MANY);
        err = run("toy_copy", 3, 1, shared);
        for (int i = late = 0; i < MANY / 2; i++)
            late += out_host[i] != 0.0f;
        ok(!err && !late, "what is not valid is zeros");
        err = run("toy_copy", 6, 1, shared);
        ok(!err && memcmp(in_host, out_host, N * sizeof(float)) == 0, "copies of four bytes");
        err = run("toy_copy", 4, 1, shared);
        ok(err == 716, "an odd address: %d, %s", err, rondo_fake_cuda_text());
        end();
        begin("", orders[o]);
        err = run("toy_copy", 5, 1, shared);
        ok(err == 700, "beyond shared memory: %d, %s", err, rondo_fake_cuda_text());
        end();
    }
}

static void places(void)
{
    begin("", NULL);
    const int err = run("toy_places", 3, 3, 4 * N);
    int wrong = 0;
    for (int b = 0; b < 3; b++)
        for (int t = 0; t < N; t++)
            wrong += out_host[2 * (b * N + t)] != (float)(1000 * b + t) || out_host[2 * (b * N + t) + 1] == out_host[2 * (b * N + t) + 1];
    is_int(err ? -1 : wrong, 0, "blocks and threads have their numbers; shared memory is full of NaNs");
    end();
    for (int mode = 1; mode <= 4; mode++) {
        begin(mode == 2 ? "gate=mprotect" : "", NULL);
        const int bad = run("toy_wild", mode, 2, 4 * N);
        const int again = run("toy_wild", 0, 1, 0);
        ok(bad == 700 && again == 700, "%s: %d, %s",
           (const char *[]){ "a wild address", "beyond a block of memory", "no end of recursion", "beyond shared memory" }[mode - 1], bad, rondo_fake_cuda_text());
        end();
    }
}

/* ---- memory ---- */

static volatile float sink;
static CUdeviceptr touched;
static void read_it(void) { sink = *(volatile float *)(uintptr_t)touched; }
static void write_it(void) { *(volatile float *)(uintptr_t)touched = 1.0f; }

static int child_dies(void (*act)(void))
{
    int status = 0;
    fflush(stdout);
    const pid_t pid = fork();
    if (pid == 0) {
        fclose(stderr);
        act();
        _exit(0);
    }
    return pid > 0 && waitpid(pid, &status, 0) == pid && (WIFSIGNALED(status) || WEXITSTATUS(status) != 0);
}

static void memory(void)
{
    static const char *const gates[] = { "memory=100000", "memory=100000,gate=mprotect" };
    for (int g = 0; g < 2; g++) {
        begin(gates[g], "up");
        touched = in_card;
        ok(child_dies(read_it) && child_dies(write_it), "%s: a host that touches device memory dies", gates[g]);
        int err = run("toy_step", 1, 1, 0);
        ok(!err && child_dies(read_it), "also after a kernel has run");
        CUdeviceptr a = 0, b = 0;
        size_t unused = 0, total = 0;
        ok(!cuMemGetInfo_v2(&unused, &total) && total == 100000 && unused == total - 2 * sizeof in_host, "what is used is counted");
        ok(cuMemAlloc_v2(&a, total) == 2 && cuMemAlloc_v2(&a, 0) == 1 && !cuMemAlloc_v2(&a, 1000) && a % 256 == 0, "more than there is, nothing, something");
        float back[250];
        err = cuMemcpyDtoH_v2(back, a, 1000);
        int number = 0;
        for (int i = 0; i < 250; i++)
            number += back[i] == back[i];
        is_int(err ? -1 : number, 0, "new memory is full of NaNs");
        ok(cuMemcpyDtoH_v2(back, a + 4, 1000) == 1 && cuMemcpyHtoD_v2(a - 4, back, 8) == 1 && cuMemcpyHtoD_v2((CUdeviceptr)(uintptr_t)back, in_host, 8) == 1,
           "copies beyond a block, and of the wrong kind, are refused");
        unsigned kind = 0;
        int device = -1;
        CUdeviceptr at = 0;
        void *pinned = NULL, *host = NULL;
        ok(!cuMemHostAlloc(&pinned, 100, 1) && !cuPointerGetAttribute(&kind, 2, (CUdeviceptr)(uintptr_t)pinned + 99) && kind == 1 &&
               !cuPointerGetAttribute(&kind, 2, a + 999) && kind == 2 && cuPointerGetAttribute(&kind, 2, (CUdeviceptr)(uintptr_t)back) == 1 &&
               !cuPointerGetAttribute(&device, 9, a) && device == 0 && !cuPointerGetAttribute(&at, 3, a) && at == a &&
               cuPointerGetAttribute(&host, 4, a) == 1 && !cuPointerGetAttribute(&host, 4, (CUdeviceptr)(uintptr_t)pinned) && host == pinned,
           "each address has its kind");
        ok(cuMemFree_v2(a + 256) == 1 && cuMemFreeHost((void *)(uintptr_t)a) == 1 && cuMemFree_v2((CUdeviceptr)(uintptr_t)pinned) == 1 &&
               !cuMemFree_v2(a) && cuMemFree_v2(a) == 1 && !cuMemFree_v2(b) && !cuMemFreeHost(pinned) && !cuMemFreeHost(NULL), "what is no block is not freed");
        ok(rondo_fake_cuda_count("blocks") == 2 && rondo_fake_cuda_count("pinned") == 0, "and the rest is");

        CUDA_MEMCPY2D rows = { .srcMemoryType = 1, .srcHost = in_host, .srcPitch = 40, .dstMemoryType = 2, .dstDevice = out_card, .dstPitch = 24, .WidthInBytes = 20,
                               .Height = 5 };
        err = cuMemsetD32Async(out_card, 0x40000000u, MANY, NULL);   /* 2.0f */
        err = err ? err : cuMemsetD8Async(out_card + 200, 0, 8, NULL);
        err = err ? err : cuMemcpy2DAsync_v2(&rows, NULL);
        err = err ? err : cuMemcpyDtoH_v2(out_host, out_card, sizeof out_host);
        for (int i = 0; i < 60; i++)
            err |= out_host[i] != (i < 30 && i % 6 < 5 ? in_host[i / 6 * 10 + i % 6] : i == 50 || i == 51 ? 0.0f : 2.0f);
        ok(!err, "rows and fills");
        CUDA_MEMCPY2D bad[5] = { rows, rows, rows, rows, rows };
        bad[0].srcPitch = 19;
        bad[1].dstPitch = 0;
        bad[2].Height = sizeof out_host;
        bad[3].dstMemoryType = 1;
        bad[4].srcMemoryType = 3;
        for (int i = 0; i < 5; i++)
            err += cuMemcpy2DAsync_v2(bad + i, NULL) == 1;
        is_int(err, 4 + (bad[3].dstHost == NULL), "bad rows are refused");
        end();
    }
}

/* ---- streams ---- */

static void lateness(void)
{
    float *pinned = NULL, pageable[MANY], back[MANY];
    begin("", "down");   /* nothing happens before it must */
    int err = cuMemHostAlloc((void **)(void *)&pinned, sizeof pageable, 0);
    CUstream s;
    err = err ? err : cuStreamCreate(&s, 1);
    for (int i = 0; i < MANY; i++)
        pageable[i] = pinned[i] = 1.0f;
    err = err ? err : cuMemcpyHtoDAsync_v2(in_card, pageable, sizeof pageable, s);
    pageable[7] = 2.0f;
    err = err ? err : cuMemcpyDtoHAsync_v2(back, in_card, sizeof back, s);
    ok(!err && back[7] == 1.0f, "pageable memory has been read, and written, when a copy returns");
    err = cuMemcpyHtoDAsync_v2(in_card, pinned, sizeof pageable, s);
    pinned[7] = 3.0f;
    err = err ? err : cuMemcpyDtoHAsync_v2(back, in_card, sizeof back, s);
    ok(!err && back[7] == 3.0f, "pinned memory is read when the stream comes to it");
    err = cuMemcpyDtoHAsync_v2(pinned, in_card, sizeof pageable, s);
    pinned[7] = 4.0f;
    ok(!err && pinned[7] == 4.0f && rondo_fake_cuda_count("pending") == 1, "and written then");
    err = cuStreamSynchronize(s);
    ok(!err && pinned[7] == 3.0f && !rondo_fake_cuda_count("pending"), "which waiting brings about");
    err = cuMemcpyHtoD_v2(in_card, pageable, sizeof pageable);
    err = err ? err : cuMemcpyDtoHAsync_v2(back, in_card, sizeof back, s);
    ok(!err && back[7] == 3.0f, "what copies to the device wrote need not be there for streams that do not wait for it");
    err = cuCtxSynchronize();
    err = err ? err : cuMemcpyDtoHAsync_v2(back, in_card, sizeof back, s);
    ok(!err && back[7] == 2.0f, "and is after waiting");
    CUdeviceptr more;
    err = cuMemAlloc_v2(&more, 256);
    err = err ? err : launch("toy_step", 1, 1, 0, s);
    ok(!err && rondo_fake_cuda_count("pending") > 0 && !cuMemFree_v2(more) && rondo_fake_cuda_count("pending") == 0, "freeing waits for all that is under way");
    err = launch("toy_step", 1, 1, 0, s);
    int asked = 0, now = 0;
    while (!err && (now = cuStreamQuery(s)) == 600)
        asked++;
    ok(!err && !now && asked > 0 && asked < 20, "who asks often enough sees the end: %d", asked);
    err = cuStreamDestroy_v2(s);
    ok(!err && cuStreamSynchronize(s) == 400, "a stream that is gone is no stream");
    cuMemFreeHost(pinned);
    end();
}

/* in -> step 1 in one stream, step 0 of its result in another: which is right only if the event is waited for. */
static float two_streams(const char *order, int with_event)
{
    CUstream a, b;
    CUevent e, never;
    float x = -1.0f;
    begin("", order);
    int err = cuStreamCreate(&a, 1) || cuStreamCreate(&b, 1) || cuEventCreate(&e, 2) || cuEventCreate(&never, 0) || cuMemsetD32Async(out_card, 0, MANY, a) ||
              cuStreamSynchronize(a) || cuEventQuery(never) || cuStreamWaitEvent(b, never, 0);
    struct toy p = { (const float *)(uintptr_t)in_card, (float *)(uintptr_t)out_card, 1, 1 }, q = { p.out, p.out, 1, 0 };
    void *first[] = { &p }, *second[] = { &q };
    CUfunction f;
    err = err || cuModuleGetFunction(&f, module, "toy_step") || cuLaunchKernel(f, 1, 1, 1, N, 1, 1, 0, a, first, NULL) || cuEventRecord(e, a);
    if (with_event)
        err = err || cuStreamWaitEvent(b, e, 0) || cuEventRecord(e, a) || cuEventDestroy_v2(e);
    err = err || cuLaunchKernel(f, 1, 1, 1, N, 1, 1, 0, b, second, NULL);
    p.mode = 100;   /* parameters have been read */
    err = err || cuStreamSynchronize(b) || cuStreamSynchronize(a) || cuMemcpyDtoH_v2(&x, out_card, sizeof x);
    if (!with_event)
        err = err || cuEventDestroy_v2(e);
    err = err || cuEventDestroy_v2(never) || cuStreamDestroy_v2(a) || cuStreamDestroy_v2(b);
    end();
    return err ? -1.0f : x;
}

static void streams(void)
{
    int right = 0, early = 0, other = 0, wrong = 0;
    char seed[16];
    for (int i = 0; i < 40; i++) {
        snprintf(seed, sizeof seed, "%d", i);
        const float x = two_streams(seed, 0);
        right += x == 6.0f;
        early += x == 3.0f;
        other += x != 6.0f && x != 3.0f;
        wrong += two_streams(seed, 1) != 6.0f;
    }
    ok(right > 0 && early > 0 && !other, "streams without an event go in any order: %d one way, %d the other", right, early);
    is_int(wrong, 0, "an event makes one wait for the other");

    wrong = 0;
    for (int o = 0; o < ORDERS; o++) {   /* the context's own stream, and those that wait for it */
        begin("", orders[o]);
        CUstream s;
        float x = -1.0f;
        int err = cuStreamCreate(&s, 0) || cuMemcpyDtoDAsync_v2(out_card, in_card, 4, NULL);
        struct toy p = { (const float *)(uintptr_t)out_card, (float *)(uintptr_t)out_card, 1, 1 };
        void *params[] = { &p };
        CUfunction f;
        err = err || cuModuleGetFunction(&f, module, "toy_step");
        for (int i = 0; i < 6; i++)
            err = err || cuLaunchKernel(f, 1, 1, 1, N, 1, 1, 0, i % 2 ? s : NULL, params, NULL) || (p.mode++, 0);
        err = err || cuStreamSynchronize(s) || cuMemcpyAsync((CUdeviceptr)(uintptr_t)&x, out_card, 4, s);
        float want = 1.0f;
        for (int i = 0; i < 6; i++)
            want = 2.0f * want + (float)(i + 1);
        wrong += err || x != want;
        cuStreamDestroy_v2(s);
        end();
    }
    is_int(wrong, 0, "the context's own stream and those that block wait for each other");

    begin("", "down");
    CUevent a, b, untimed;
    float ms = -1.0f;
    int err = cuEventCreate(&a, 0) || cuEventCreate(&b, 0) || cuEventCreate(&untimed, 2) || cuEventRecord(a, NULL) || launch("toy_step", 1, 1, 0, NULL) ||
              cuEventRecord(b, NULL);
    ok(!err && cuEventElapsedTime(&ms, a, b) == 600 && !cuEventSynchronize(b) && !cuEventQuery(a) && !cuEventElapsedTime(&ms, a, b) && ms >= 0.0f &&
           cuEventElapsedTime(&ms, a, untimed) == 400, "events have times");
    ok(cuEventCreate(&a, 8) == 1 && cuEventCreate(&a, 4) == 1 && cuStreamWaitEvent(NULL, b, 5) == 1 && cuEventRecord(NULL, NULL) == 400 &&
           cuStreamCreate((CUstream *)(void *)&a, 2) == 1, "bad arguments of events and streams are refused");
    end();   /* it takes the three events along, */
    ok(rondo_fake_cuda_count("leaks") == 3 && rondo_fake_cuda_count("events") == 0, "and says so");
}

/* ---- the API ---- */

static void api(void)
{
    unsetenv("RONDO_FAKE_CUDA_ORDER");
    setenv("RONDO_FAKE_CUDA", "devices=2,cc=80,sms=7", 1);
    int n = 0, x = 0;
    CUdevice d = -1;
    char name[32];
    size_t bytes;
    CUcontext c = NULL, now = NULL;
    ok(!rondo_fake_cuda_set(NULL) && cuDeviceGetCount(&n) == 3 && !cuInit(0) && cuInit(1) == 1 && !cuDeviceGetCount(&n) && n == 2,
       "nothing before cuInit(); the environment says how many cards there are");
    ok(!cuDriverGetVersion(&x) && x == 13000 && !cuDeviceGet(&d, 1) && d == 1 && cuDeviceGet(&d, 2) == 101 && !cuDeviceGetName(name, sizeof name, 1) &&
           strcmp(name, "Fake card 1") == 0 && !cuDeviceTotalMem_v2(&bytes, 0) && bytes == (size_t)2 << 30, "a card");
    ok(!cuDeviceGetAttribute(&x, 16, 0) && x == 7 && !cuDeviceGetAttribute(&x, 75, 0) && x == 8 && !cuDeviceGetAttribute(&x, 76, 0) && x == 0 &&
           !cuDeviceGetAttribute(&x, 97, 0) && x == 166912 && cuDeviceGetAttribute(&x, 7777, 0) == 1, "and what it has");
    CUdeviceptr p;
    ok(!cuCtxSetCurrent(NULL) && cuMemAlloc_v2(&p, 8) == 201 && !cuDevicePrimaryCtxRetain(&c, 1) && !cuDevicePrimaryCtxRetain(&now, 1) && c == now &&
       !cuCtxSetCurrent(c) &&
           !cuCtxGetCurrent(&now) && now == c && !cuMemAlloc_v2(&p, 8) && !cuMemFree_v2(p), "its context is current where a thread made it so");
    ok(!cuDevicePrimaryCtxRelease_v2(1) && rondo_fake_cuda_count("contexts") == 1 && !cuDevicePrimaryCtxRelease_v2(1) && cuDevicePrimaryCtxRelease_v2(1) == 201 &&
           cuMemAlloc_v2(&p, 8) == 709 && !cuCtxSetCurrent(NULL), "and goes with the last who wanted it");
    unsetenv("RONDO_FAKE_CUDA");

    begin("", NULL);
    static const char *const images[] = { "", "nonsense", ".version 7.0\n.target sm_80\n{", ".version 7.0\n.target sm_80\n} {", ".version 7.0\n" };
    static const int codes[] = { 200, 200, 218, 218, 218 };
    CUmodule m;
    CUfunction f;
    char log[100] = "";
    const int options[] = { 5, 6 };
    void *values[] = { log, (void *)(uintptr_t)sizeof log };
    int wrong = 0;
    for (int i = 0; i < 5; i++)
        wrong += cuModuleLoadDataEx(&m, images[i], 2, options, values) != codes[i] || !log[0];
    ok(!wrong && cuModuleLoadData(&m, NULL) == 1 && !cuModuleLoadData(&m, "\x7f" "ELF"), "damaged modules are refused");
    ok(!cuModuleGetFunction(&f, m, "toy_root") && cuModuleGetFunction(&f, m, "toy_rood") == 500 && !cuModuleUnload(m) && cuModuleUnload(m) == 400 &&
           cuModuleGetFunction(&f, m, "toy_root") == 400, "a module has its kernels until it goes");
    ok(!cuModuleLoadData(&m, ".version 7.0 .target sm_80 .visible .entry toy_step(") && !cuModuleGetFunction(&f, m, "toy_step") &&
           cuModuleGetFunction(&f, m, "toy_root") == 500 && !cuModuleUnload(m), "PTX has the kernels that it has");
    struct toy t = { (const float *)(uintptr_t)in_card, (float *)(uintptr_t)out_card, MANY, 0 };
    void *params[] = { &t };
    wrong = cuModuleGetFunction(&f, module, "toy_root");
    ok(!wrong && cuLaunchKernel(f, 1, 1, 1, 65, 1, 1, 0, NULL, params, NULL) == 701 && cuLaunchKernel(f, 0, 1, 1, 64, 1, 1, 0, NULL, params, NULL) == 1 &&
           cuLaunchKernel(f, 1, 1, 1, 64, 1, 1, 50000, NULL, params, NULL) == 1 && cuLaunchKernel(f, 1, 1, 1, 64, 1, 1, 0, NULL, NULL, NULL) == 1 &&
           !cuFuncSetAttribute(f, 8, 50000) && !cuLaunchKernel(f, 1, 1, 1, 64, 1, 1, 50000, NULL, params, NULL) && cuFuncSetAttribute(f, 8, 300000) == 1,
       "launches that a card would refuse are refused");
    int blocks = -1, threads = 0;
    ok(!cuFuncGetAttribute(&threads, 0, f) && threads == 64 && !cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, f, 64, 50000) && blocks == 4 &&
           !cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, f, 64, 100) && blocks == 8, "how many blocks fit, by shared memory and by registers");
    wrong = cuCtxSynchronize() || cuMemcpyDtoH_v2(out_host, out_card, 64 * sizeof(float));
    for (int i = 0; i < 64; i++)
        wrong |= out_host[i] * out_host[i] - in_host[i] > 1e-5f * in_host[i];
    ok(!wrong, "a block may be smaller than others");
    const char *text = NULL;
    ok(!cuGetErrorString(719, &text) && strcmp(text, "unspecified launch failure") == 0 && !cuGetErrorName(2, &text) &&
           strcmp(text, "CUDA_ERROR_OUT_OF_MEMORY") == 0 && cuGetErrorName(12345, &text) == 1 && !text, "codes have names");
    end();
}

static void faults(void)
{
    static const char *const bad[] = { "nonsense", "launch", "launch=", "launch=x", "launch=1:", "launch=1:y", "sms=4x", "devices=17", "memory=-1" };
    int wrong = 0, x;
    fprintf(stderr, "# (what follows is refused on purpose)\n");
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        wrong += rondo_fake_cuda_set(bad[i]) != 1;
    is_int(wrong, 0, "settings that there are not are refused");
    rondo_fake_cuda_set("no-device");
    ok(cuInit(0) == 100, "no card");
    rondo_fake_cuda_set("init=34");
    ok(cuInit(0) == 34, "a driver that does not begin");
    rondo_fake_cuda_set("version=9000");
    ok(!cuInit(0) && !cuDriverGetVersion(&x) && x == 9000, "a version");
    rondo_fake_cuda_set("old-driver");
    ok(!cuInit(0) && !cuDriverGetVersion(&x) && x < 11000 && !cuDevicePrimaryCtxRetain(&context, 0) && !cuCtxSetCurrent(context) &&
           cuModuleLoadData(&module, image) == 222 && !cuDevicePrimaryCtxRelease_v2(0), "an old driver");

    begin("launch=2", "down");
    ok(!launch("toy_step", 0, 1, 0, NULL) && !launch("toy_step", 0, 1, 0, NULL) && cuCtxSynchronize() == 719 && launch("toy_step", 0, 1, 0, NULL) == 719 &&
           cuMemFree_v2(in_card) == 719 && !cuDevicePrimaryCtxRelease_v2(0), "the second launch fails, and all behind it");
    ok(!rondo_fake_cuda_count("blocks") && !rondo_fake_cuda_count("leaks"), "what was there goes with the context");
    begin("launch=2:701", "down");
    ok(!launch("toy_step", 0, 1, 0, NULL) && launch("toy_step", 0, 1, 0, NULL) == 701 && !launch("toy_step", 0, 1, 0, NULL) && !cuCtxSynchronize(),
       "a launch that is refused fails alone");
    end();
    begin("copy=2:700", "up");
    ok(cuMemcpyDtoH_v2(out_host, in_card, 4) == 700, "a copy fails");
    end();
    begin("copy=2:1", "up");
    ok(cuMemcpyDtoH_v2(out_host, in_card, 4) == 1 && !cuMemcpyDtoH_v2(out_host, in_card, 4), "a copy is refused");
    end();
    begin("alloc=3", NULL);
    CUdeviceptr p;
    void *q;
    ok(cuMemHostAlloc(&q, 8, 0) == 2 && !cuMemAlloc_v2(&p, 8) && !cuMemFree_v2(p), "no memory, once");
    end();
    begin("", NULL);
    const long long calls = rondo_fake_cuda_count("calls");
    end();
    char text[40];
    snprintf(text, sizeof text, "call=%lld:3", calls + 2);
    begin(text, NULL);
    ok(!cuCtxSynchronize() && cuCtxSynchronize() == 3 && !cuCtxSynchronize(), "a call fails, once");
    end();
    snprintf(text, sizeof text, "lost=%lld", calls + 2);
    begin(text, NULL);
    ok(!cuCtxSynchronize() && cuCtxSynchronize() == 46 && cuMemFree_v2(in_card) == 46 && cuDeviceGetCount(&x) == 46 && cuDevicePrimaryCtxRelease_v2(0) == 46 &&
           !rondo_fake_cuda_count("contexts") && !rondo_fake_cuda_count("blocks"), "a card is lost, and its memory given back");
    ok(rondo_fake_cuda_count("nonsense") == -1 && rondo_fake_cuda_count("launches") == 0, "counts");
}

/* ---- threads ---- */

static void *work(void *arg)
{
    int *result = arg;
    CUstream s;
    CUevent e;
    CUdeviceptr mine;
    float numbers[64], back[64];
    int err = cuCtxSetCurrent(context) || cuStreamCreate(&s, 1) || cuEventCreate(&e, 2) || cuMemAlloc_v2(&mine, sizeof numbers);
    for (int round = 0; round < 50 && !err; round++) {
        for (int i = 0; i < 64; i++)
            numbers[i] = (float)(*result + round + i);
        struct toy p = { (const float *)(uintptr_t)mine, (float *)(uintptr_t)mine, 64, round };
        void *params[] = { &p };
        CUfunction f;
        err = cuMemcpyHtoDAsync_v2(mine, numbers, sizeof numbers, s) || cuModuleGetFunction(&f, module, "toy_step") ||
              cuLaunchKernel(f, 2, 1, 1, N, 1, 1, 0, s, params, NULL) || cuEventRecord(e, s) || cuStreamWaitEvent(s, e, 0);
        while (!err && (err = cuEventQuery(e)) == 600)
            err = 0;
        err = err || cuMemcpyDtoHAsync_v2(back, mine, sizeof back, s);
        for (int i = 0; i < 64; i++)
            err |= back[i] != 2.0f * numbers[i] + (float)round;
    }
    err = err || cuMemFree_v2(mine) || cuEventDestroy_v2(e) || cuStreamDestroy_v2(s);
    *result = err;
    return NULL;
}

static void many(void)
{
    pthread_t threads[4];
    int results[4], err = 0;
    begin("", NULL);
    for (int i = 0; i < 4; i++) {
        results[i] = 1000 * i;
        err |= pthread_create(threads + i, NULL, work, results + i);
    }
    for (int i = 0; i < 4 && !err; i++) {
        pthread_join(threads[i], NULL);
        err |= results[i];
    }
    ok(!err, "four threads at once, each with a stream of its own");
    end();
    ok(!rondo_fake_cuda_count("leaks"), "nothing is left");
}

int main(void)
{
    barriers();
    shuffles();
    divergence();
    copies();
    places();
    memory();
    lateness();
    streams();
    api();
    faults();
    many();
    rondo_fibers_free();
    return done();
}
