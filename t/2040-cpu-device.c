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
    static const char *const refused[] = { "amx", "sve", "sse9", "AVX2", "avx512 " };
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
        int bounded = 1, failed = 1, none = 1;
        for (int j = 0; j < 4; j++) {
            struct rondo_device_desc of = { .threads = d[i].threads, .isa = d[i].isa };
            struct rondo_device *dev = NULL;
            struct rondo_program *program = NULL;
            struct test_case c;
            struct shape s = middle();
            s.queries = j == 0 ? 1 : j == 1 ? 10 : 70;
            s.head_dim = s.value_dim = j == 3 ? 192 : 20;
            s.kv_type = 1 + j % 2;
            case_make(&c, &s);
            if (rondo_set_hooks(&hooks))
                bounded = 0;
            held = peak = 0;
            calls = fail_at = 0;
            bounded &= rondo__cpu_device.attach(&dev, &of) == 0;
            const size_t before = held;
            const struct rondo_program_desc desc = case_desc(&c);
            const struct rondo_attention_run run = case_io(&c);
            const int64_t attached = calls;
            bounded &= rondo__cpu_device.program_new(dev, &program, &desc) == 0;
            const int64_t all = calls - attached;
            const size_t stated = rondo__cpu_device.program_scratch(dev, program);
            bounded &= held - before >= stated && held - before < stated + 4096;   /* and what the program itself is */
            none &= rondo__cpu_device.attention(dev, NULL, program, &run, NULL) == 0; /* the threads are there now */
            calls = 0;
            none &= rondo__cpu_device.attention(dev, NULL, program, &run, NULL) == 0 && calls == 0;
            rondo__cpu_device.program_free(dev, program);
            /* a second one of the size takes no more scratch; scratch goes with the device */
            none &= rondo__cpu_device.program_new(dev, &program, &desc) == 0 && calls == all - 1;
            rondo__cpu_device.program_free(dev, program);
            rondo__cpu_device.detach(dev);
            bounded &= held == 0;
            fail_at = 0;
            bounded &= rondo__cpu_device.attach(&dev, &of) == 0;
            const size_t empty = held;
            for (fail_at = 1; fail_at <= all; fail_at++) {
                calls = 0;
                failed &= rondo__cpu_device.program_new(dev, &program, &desc) == RONDO_ENOMEM && !program && held == empty &&
                          strstr(rondo_error_text(), "memory");
            }
            fail_at = 0;
            rondo__cpu_device.detach(dev);
            if (rondo_set_hooks(NULL))
                bounded = 0;
            case_free(&c);
        }
        ok(bounded, "%s with %d threads: a program takes what it stated", d[i].isa, d[i].threads);
        ok(none, "  runs of it allocate nothing");
        ok(failed, "  and it returns RONDO_ENOMEM where an allocation fails");
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
        ok(case_attention(&c, d[i].dev, &poll) == 0 && polls >= 1,
           "%s with %d threads polls: %d times", d[i].isa, d[i].threads, polls);
        polls = 0;
        stop_at = 1;
        ok(case_attention(&c, d[i].dev, &poll) == RONDO_ECANCELED && polls == 1 &&
               !strcmp(rondo_error_text(), "stop, says the test"),
           "  and stops with the caller's code and sentence");
    }
    case_free(&c);
}

/* Queries cut into several jobs of one program, one of them empty: the bits of one job, all at once or some by some. */
static void test_jobs(struct device_under_test *d, int n)
{
    static const int64_t cuts[] = { 0, 5, 5, 65, 250 };
    struct test_case c;
    struct shape s = middle();
    struct rondo_job jobs[4];
    struct rondo_place places[4 * CASE_SLOTS];
    rondo_span spans[4];
    case_make(&c, &s);
    case_run(&c, d[0].dev);
    char *want = case_result(&c);
    struct rondo_program_desc desc = case_desc(&c);
    for (int i = 0; i < 4; i++) {
        spans[i] = (rondo_span){ s.first + cuts[i], cuts[i + 1] - cuts[i], 1, 0 };
        jobs[i] = c.job;
        jobs[i].q_row = cuts[i];
        jobs[i].q_rows = cuts[i + 1] - cuts[i];
        jobs[i].spans_first = i;
        jobs[i].spans = 1;
        jobs[i].places_first = i * c.slots_used;
        for (int j = 0; j < c.slots_used; j++) /* each has its own part of each buffer */
            places[i * c.slots_used + j] = (struct rondo_place){ cuts[i], j, 0 };
    }
    desc.places = places;
    desc.place_count = 4 * c.slots_used;
    desc.jobs = jobs;
    desc.job_count = desc.span_count = 4;
    desc.spans = spans;
    for (int v = 0; v < n; v++) {
        struct rondo_attention_run run = case_io(&c);
        struct rondo_program *program;
        int same = rondo__cpu_device.program_new(d[v].dev, &program, &desc) == 0;
        memset(c.out, 0, c.out_bytes);
        for (int j = 0; j < c.slots_used; j++)
            memset(c.slots[j], 0xa5, c.slot_floats * sizeof(float));
        run.count = 4;
        same &= rondo__cpu_device.attention(d[v].dev, NULL, program, &run, NULL) == 0 && !memcmp(c.out, want, c.out_bytes);
        for (int j = 0; j < c.slots_used; j++) /* all parts of all buffers were written */
            for (size_t f = 0; f < c.slot_floats; f++)
                same &= rondo__bits(c.slots[j][f]) != 0xa5a5a5a5u;
        ok(same, "%s with %d threads: several jobs in one run", d[v].isa, d[v].threads);
        memset(c.out, 0, c.out_bytes);
        run.count = 1;
        for (run.first = 3; run.first >= 0; run.first--)
            same &= rondo__cpu_device.attention(d[v].dev, NULL, program, &run, NULL) == 0;
        ok(same && !memcmp(c.out, want, c.out_bytes), "  or one after the other");
        run.first = 4;
        run.count = 0;
        ok(rondo__cpu_device.attention(d[v].dev, NULL, program, &run, NULL) == 0, "  or none");
        run.count = 1;
        ok(rondo__cpu_device.attention(d[v].dev, NULL, program, &run, NULL) == RONDO_EINVAL, "  but none that is not there");
        rondo__cpu_device.program_free(d[v].dev, program);
    }
    free(want);
    case_free(&c);
}

/* What this device has no kernels for is refused when the program is made, by name. */
static void test_refused(struct rondo_device *dev)
{
    struct test_case c;
    struct shape s = middle();
    struct rondo_program *program;
    case_make(&c, &s);
    struct rondo_program_desc desc = case_desc(&c);
    desc.arithmetic = RONDO_ARITHMETIC_BF16_DOT;
    ok(rondo__cpu_device.program_new(dev, &program, &desc) == RONDO_ENOTSUP && strstr(rondo_error_text(), "f32"), "arithmetic");
    desc = case_desc(&c);
    desc.level = RONDO_NATIVE;
    ok(rondo__cpu_device.program_new(dev, &program, &desc) == RONDO_ENOTSUP && strstr(rondo_error_text(), "strict"), "level");
    desc = case_desc(&c);
    c.job.operation = RONDO_JOB_PROBABILITIES + 1;
    ok(rondo__cpu_device.program_new(dev, &program, &desc) == RONDO_ENOTSUP && strstr(rondo_error_text(), "number 3"), "operation");
    ok(!(rondo__cpu_device.operations >> (RONDO_JOB_PROBABILITIES + 1) & 1) && (rondo__cpu_device.operations >> RONDO_JOB_FORWARD & 1),
       "  as the table says");
    desc = case_desc(&c);
    desc.node_width++;
    ok(rondo__cpu_device.program_new(dev, &program, &desc) == RONDO_ENOTSUP, "node width");
    case_free(&c);
}

/* More than caches hold goes past them, by whole lines, where these lie as it needs them; else row by row. */
static void many_rows(struct rondo_device *dev)
{
    enum { ROWS = 20000, WIDE = 448, FROM = 500, TO = 512 };
    char *from = malloc((size_t)ROWS * FROM), *to = aligned_alloc(64, ((size_t)ROWS + 1) * TO);
    for (int odd = 0; odd < 2; odd++) {
        int64_t wrong = 0;
        for (size_t i = 0; i < (size_t)ROWS * FROM; i++)
            from[i] = (char)(i * 7 + i / 251);
        memset(to, 1, ((size_t)ROWS + 1) * TO);
        wrong += rondo__cpu_device.copy_rows(dev, NULL, to + odd, TO, from, FROM, WIDE, ROWS) != 0;
        for (int64_t r = 0; r < ROWS; r++)
            wrong += memcmp(to + odd + r * TO, from + r * FROM, WIDE) != 0 || to[odd + r * TO + WIDE] != 1 || to[odd + r * TO + TO - 1] != 1;
        is_int(wrong, 0, "8.5 MiB of rows with something between them%s", odd ? ", off a line" : "");
    }
    free(from);
    free(to);
}

static void test_copies(struct rondo_device *dev)
{
    int8_t a[64], b[64];
    void *p = NULL;
    for (int i = 0; i < 64; i++)
        a[i] = (int8_t)i;
    memset(b, -1, sizeof b);
    ok(rondo__cpu_device.copy_rows(dev, NULL, b, 5, a, 8, 3, 4) == 0 && b[0] == 0 && b[2] == 2 && b[3] == -1 &&
           b[5] == 8 && b[15] == 24 && b[18] == -1,
       "rows between strides");
    ok(rondo__cpu_device.copy_rows(dev, NULL, b, 4, a, 4, 4, 16) == 0 && !memcmp(a, b, 64), "dense rows");
    ok(rondo__cpu_device.copy_rows(dev, NULL, b, 4, a + 8, 0, 4, 16) == 0 && b[0] == 8 && b[63] == 11, "the same row again and again");
    many_rows(dev);
    for (int kind = RONDO_MEMORY_HOST; kind <= RONDO_MEMORY_DEVICE; kind++) {
        ok(rondo__cpu_device.memory_new(dev, kind, (size_t)9 << 20, &p) == 0 && p && (uintptr_t)p % 64 == 0, "memory of kind %d", kind);
        memset(p, 1, (size_t)9 << 20);
        rondo__cpu_device.memory_free(dev, kind, p, (size_t)9 << 20);
        p = dev;
        ok(rondo__cpu_device.memory_new(dev, kind, SIZE_MAX - 8, &p) == RONDO_ENOMEM && !p, "too much of it is refused");
    }
    ok(rondo__cpu_device.unified == 1 && rondo__cpu_device.memory_kind(dev, a) == RONDO_MEMORY_HOST, "which is all one");
}

/* A stream runs at once and an event is over, so that who waits for both goes on. */
static void test_streams(struct rondo_device *dev)
{
    const struct rondo_device_ops *ops = &rondo__cpu_device;
    struct rondo_stream *stream = NULL;
    struct rondo_event *event = NULL;
    int a = 1, b = 2;
    ok(ops->stream_new(dev, &stream) == 0 && stream && ops->event_new(dev, &event) == 0 && event, "streams and events");
    ok(ops->event_query(dev, event) == 1, "an event never recorded is over");
    ok(ops->copy(dev, stream, &a, &b, sizeof a) == 0 && a == 2 && ops->event_record(dev, stream, event) == 0 &&
           ops->stream_wait(dev, NULL, event) == 0 && ops->event_wait(dev, event, NULL) == 0 && ops->event_query(dev, event) == 1 &&
           ops->sync(dev) == 0,
       "so is one behind a copy");
    ops->event_free(dev, event);
    ops->stream_free(dev, stream);
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
    test_jobs(d, n);
    test_refused(d[0].dev);
    test_copies(d[0].dev);
    test_streams(d[0].dev);
    devices_close(d, n);
    return done();
}
