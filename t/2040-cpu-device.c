/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The CPU device outside of its arithmetic: names of instruction sets, the floating-point mode, scratch, lost
 * allocations, poll.
 */
#include <fenv.h>
#ifdef __SSE__
#include <xmmintrin.h>
#endif

#include "attention_case.h"

static void test_names(void)
{
    static const char *const refused[] = { "amx", "neon", "sse9", "AVX2", "avx512 " };
    const char *name, *last = "";
    int usable, listed = 0;
    for (int i = 0; (name = rondo__cpu_device.isa(i, &usable)) != NULL; i++) {
        struct rondo_device *dev = NULL;
        struct rondo_device_desc desc = { .threads = 2, .isa = name };
        const int err = rondo__cpu_device.attach(&dev, &desc);
        ok((err == 0) == usable && (!err || err == RONDO_ENOTSUP), "%s: %s", name,
           usable ? "usable" : "refused");
        if (dev) {
            ok(!strcmp(rondo__cpu_device.isa_used(dev), name), "  and says so");
            last = name;
        }
        rondo__cpu_device.detach(dev);
        listed++;
    }
    ok(listed >= 1 && rondo__cpu_device.isa(-1, &usable) == NULL, "%d instruction sets are listed", listed);
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        struct rondo_device *dev = NULL;
        struct rondo_device_desc desc = { .threads = 1, .isa = refused[i] };
        const int err = rondo__cpu_device.attach(&dev, &desc);
        ok(err == (i < 2 ? RONDO_ENOTSUP : RONDO_EINVAL) && !dev && strstr(rondo_error_text(), refused[i]),
           "\"%s\" is refused by name", refused[i]);
    }
    struct {
        const char *env, *want;
    } from[] = { { "scalar", "scalar" }, { "soft", "soft" }, { "auto", last }, { "", last }, { NULL, last } };
    for (size_t i = 0; i < sizeof from / sizeof *from; i++) {
        struct rondo_device *dev = NULL;
        struct rondo_device_desc desc = { .threads = 1, .isa = i % 2 ? "auto" : NULL };
        if (from[i].env)
            setenv("RONDO_ISA", from[i].env, 1);
        else
            unsetenv("RONDO_ISA");
        ok(rondo__cpu_device.attach(&dev, &desc) == 0 &&
               !strcmp(rondo__cpu_device.isa_used(dev), from[i].want),
           "auto with RONDO_ISA=%s is %s", from[i].env ? from[i].env : "(unset)", from[i].want);
        rondo__cpu_device.detach(dev);
    }
    struct rondo_device *dev = NULL;
    struct rondo_device_desc desc = { .threads = 1, .isa = NULL };
    setenv("RONDO_ISA", "mmx", 1);
    ok(rondo__cpu_device.attach(&dev, &desc) == RONDO_EINVAL && strstr(rondo_error_text(), "RONDO_ISA"),
       "a wrong RONDO_ISA is refused, with its name");
    unsetenv("RONDO_ISA");
    desc.index = 1;
    ok(rondo__cpu_device.attach(&dev, &desc) == RONDO_EINVAL, "there is no second cpu");
    desc.index = 0;
    desc.threads = -1;
    ok(rondo__cpu_device.attach(&dev, &desc) == RONDO_EINVAL, "nor are there -1 threads");
}

static struct shape middle(void)
{
    return (struct shape){ .heads = 8,
                           .kv_heads = 2,
                           .head_dim = 24,
                           .value_dim = 24,
                           .queries = 250,
                           .keys = 300,
                           .first = 50,
                           .causal = 1,
                           .left = -1,
                           .right = -1,
                           .q_type = 1,
                           .kv_type = 2,
                           .out_type = 1,
                           .leaf = 64,
                           .step = 1,
                           .tree = 1 };
}

static void test_mode(struct device_under_test *d, int n)
{
    ok(rondo__cpu_device.check(d[0].dev) == 0, "the default mode is accepted");
    if (fesetround(FE_UPWARD) == 0) {
        ok(rondo__cpu_device.check(d[0].dev) == RONDO_EINVAL && strstr(rondo_error_text(), "nearest"),
           "rounding upward is refused");
        fesetround(FE_TONEAREST);
    }
#ifdef __SSE__
    static const struct {
        unsigned bit;
        const char *what;
    } bits[] = { { 0x8000u, "FTZ" }, { 0x40u, "DAZ" } };
    const unsigned mode = _mm_getcsr();
    for (int i = 0; i < 2; i++) {
        _mm_setcsr(mode | bits[i].bit);
        const int err = rondo__cpu_device.check(d[0].dev);
        const unsigned left = _mm_getcsr();
        _mm_setcsr(mode);
        ok(err == RONDO_EINVAL && strstr(rondo_error_text(), bits[i].what) &&
               (left & 0xffc0u) == ((mode | bits[i].bit) & 0xffc0u),
           "%s is refused and left as it was", bits[i].what);
    }
    _mm_setcsr(mode & ~0x80u);
    const int err = rondo__cpu_device.check(d[0].dev);
    _mm_setcsr(mode);
    ok(err == RONDO_EINVAL && strstr(rondo_error_text(), "trap"), "trapping exceptions are refused");
#endif
    /* threads that were started in another mode compute in the default one all the same */
    struct test_case c;
    struct shape s = middle();
    case_make(&c, &s);
    fill_normal(c.v, c.v_elements, s.kv_type, 0x1p-130);
    case_run(&c, d[n - 1].dev);
    char *want = case_result(&c);
    for (int i = 0; i < n; i++) {
        if (d[i].threads == 1 || !strcmp(d[i].isa, "scalar"))
            continue;
#ifdef __SSE__
        _mm_setcsr(mode | 0x8040u);
        const int code = case_run(&c, d[i].dev);
        const unsigned left = _mm_getcsr();
        _mm_setcsr(mode);
        char *got = case_result(&c);
        ok(code == 0 && !memcmp(want, got, case_result_bytes(&c)),
           "%s with %d threads: the same subnormal bits from a flushing caller", d[i].isa, d[i].threads);
        ok((left & 0xffc0u) == ((mode | 0x8040u) & 0xffc0u), "  whose mode is kept");
        free(got);
#endif
    }
    free(want);
    case_free(&c);
}

static size_t held, peak;
static int64_t calls, fail_at;
static void *count_allocate(void *user, size_t bytes, size_t align)
{
    (void)user;
    if (++calls == fail_at)
        return NULL;
    held += bytes;
    peak = held > peak ? held : peak;
    return aligned_alloc(align, (bytes + align - 1) / align * align);
}
static void count_release(void *user, void *memory, size_t bytes)
{
    (void)user;
    held -= bytes;
    free(memory);
}

static void test_memory(struct device_under_test *d, int n)
{
    rondo_hooks hooks = RONDO_HOOKS_INIT;
    hooks.allocate = count_allocate;
    hooks.release = count_release;
    for (int i = 0; i < n; i++) {
        int bounded = 1, failed = 1;
        for (int j = 0; j < 4; j++) {
            struct test_case c;
            struct shape s = middle();
            s.queries = j == 0 ? 1 : j == 1 ? 10 : 70;
            s.head_dim = s.value_dim = j == 3 ? 192 : 20;
            s.kv_type = 1 + j % 2;
            case_make(&c, &s);
            case_run(&c, d[i].dev); /* the threads are there now */
            if (rondo_set_hooks(&hooks))
                bounded = 0;
            held = peak = 0;
            calls = fail_at = 0;
            bounded &= case_run(&c, d[i].dev) == 0;
            const size_t stated = rondo__cpu_device.attention_scratch(d[i].dev, &c.task, 1);
            bounded &= peak <= stated && stated < peak + 4096 && held == 0;
            const int64_t all = calls;
            for (fail_at = 1; fail_at <= all; fail_at++) {
                calls = 0;
                failed &= case_run(&c, d[i].dev) == RONDO_ENOMEM && held == 0 &&
                          strstr(rondo_error_text(), "memory");
            }
            fail_at = 0;
            if (rondo_set_hooks(NULL))
                bounded = 0;
            case_free(&c);
        }
        ok(bounded, "%s with %d threads: takes what it stated", d[i].isa, d[i].threads);
        ok(failed, "  and returns RONDO_ENOMEM where an allocation fails");
    }
}

static int polls, stop_at;
static int poll_call(void *arg)
{
    (void)arg;
    return ++polls == stop_at ? rondo__fail(RONDO_ECANCELED, "stop, says the test") : 0;
}

static void test_poll(struct device_under_test *d, int n)
{
    struct test_case c;
    struct shape s = middle();
    const struct rondo_poll poll = { poll_call, NULL, NULL };
    case_make(&c, &s);
    for (int i = 0; i < n; i++) {
        polls = stop_at = 0;
        ok(rondo__cpu_device.attention(d[i].dev, &c.task, 1, &poll) == 0 && polls >= 1,
           "%s with %d threads polls: %d times", d[i].isa, d[i].threads, polls);
        polls = 0;
        stop_at = 1;
        ok(rondo__cpu_device.attention(d[i].dev, &c.task, 1, &poll) == RONDO_ECANCELED && polls == 1 &&
               !strcmp(rondo_error_text(), "stop, says the test"),
           "  and stops with the caller's code and sentence");
    }
    case_free(&c);
}

static void test_tasks(struct device_under_test *d, int n)
{
    struct test_case c[3];
    struct rondo_attention_task tasks[4];
    char *want[3];
    for (int i = 0; i < 3; i++) {
        struct shape s = middle();
        s.queries = i == 0 ? 5 : 60 * i;
        s.heads = i == 1 ? 2 : 6;
        case_make(&c[i], &s);
        case_run(&c[i], d[0].dev);
        want[i] = case_result(&c[i]);
    }
    for (int v = 0; v < n; v++) {
        int same = 1;
        for (int i = 0; i < 3; i++) {
            memset(c[i].out, 0, c[i].out_bytes);
            tasks[i + (i > 0)] = c[i].task;
        }
        tasks[1] = c[0].task;
        tasks[1].q_rows = 0;
        same &= rondo__cpu_device.attention(d[v].dev, tasks, 4, NULL) == 0;
        for (int i = 0; i < 3; i++) {
            char *got = case_result(&c[i]);
            same &= memcmp(got, want[i], c[i].out_bytes) == 0;
            free(got);
        }
        ok(same, "%s with %d threads: several tasks in one call", d[v].isa, d[v].threads);
    }
    ok(rondo__cpu_device.attention(d[0].dev, tasks, 0, NULL) == 0, "no task at all");
    for (int i = 0; i < 3; i++) {
        free(want[i]);
        case_free(&c[i]);
    }
}

static void test_copies(struct rondo_device *dev)
{
    int8_t a[64], b[64];
    void *p = NULL;
    for (int i = 0; i < 64; i++)
        a[i] = (int8_t)i;
    memset(b, -1, sizeof b);
    ok(rondo__cpu_device.copy_rows(dev, b, 5, a, 8, 3, 4) == 0 && b[0] == 0 && b[2] == 2 && b[3] == -1 &&
           b[5] == 8 && b[15] == 24 && b[18] == -1,
       "rows between strides");
    ok(rondo__cpu_device.copy_rows(dev, b, 4, a, 4, 4, 16) == 0 && !memcmp(a, b, 64), "dense rows");
    ok(rondo__cpu_device.memory_new(dev, (size_t)9 << 20, &p) == 0 && p && (uintptr_t)p % 64 == 0, "memory");
    memset(p, 1, (size_t)9 << 20);
    rondo__cpu_device.memory_free(dev, p, (size_t)9 << 20);
    p = NULL;
    ok(rondo__cpu_device.memory_new(dev, SIZE_MAX - 8, &p) == RONDO_ENOMEM && !p,
       "too much memory is refused");
}

#if defined(__linux__) && (defined(__x86_64__) || defined(__i386__))
static int has(const char *flags, const char *names)
{
    char word[32], padded[40];
    for (int n; sscanf(names, "%31s%n", word, &n) == 1; names += n) {
        snprintf(padded, sizeof padded, " %s ", word);
        if (!strstr(flags, padded))
            return 0;
    }
    return 1;
}

/* What the processor has is used, by programs of 32 bits too, which the probe once forgot. */
static void test_probe(void)
{
    static const struct {
        const char *isa, *flags;
    } sets[] = { { "avx2", "avx2 fma f16c" }, { "avx512", "avx2 fma f16c avx512f avx512bw avx512vl avx512dq" } };
    static char line[8192];
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && fgets(line, sizeof line - 1, f) && strncmp(line, "flags", 5) != 0)
        ;
    if (f)
        fclose(f);
    if (strncmp(line, "flags", 5) != 0)
        return;
    line[strcspn(line, "\n")] = ' ';
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        const char *name;
        int usable = 0, found = 0;
        for (int k = 0; !found && (name = rondo__cpu_device.isa(k, &usable)) != NULL; k++)
            found = !strcmp(name, sets[i].isa);
        ok(found && usable == has(line, sets[i].flags), "%s is used where the processor has it: %s", sets[i].isa, usable ? "here too" : "not here");
    }
}
#else
static void test_probe(void) { }
#endif

int main(void)
{
    struct device_under_test d[8];
    test_probe();
    test_names();
    const int n = devices_open(d, 8);
    test_mode(d, n);
    test_memory(d, n);
    test_poll(d, n);
    test_tasks(d, n);
    test_copies(d[0].dev);
    devices_close(d, n);
    return done();
}
