/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The CPU's device table: choice of the instruction set, plain memory, and the slots that other files of this
 * folder fill. Its streams run at once, so that events are nothing and sync() has nothing to wait for.
 */
#include "backends/cpu/cpu.h"

#include <stdatomic.h>
#include <stdlib.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "backends/cpu/team.h"

#ifdef HAVE_CONFIG_H
#include "rondo_config.h"
#endif

/* ---- instruction sets ---- */

/* Those of x86 are listed everywhere, as they were from the beginning; others where they are built. "soft" is accepted, but it is the same
 * program as "scalar". */
static const char *isa(int index, int *usable)
{
    for (int i = RONDO_CPU_SCALAR; index >= 0 && i < RONDO_CPU_ISAS; i++) {
        if (i > RONDO_CPU_AVX512 && !rondo__cpu_isa_usable(i))
            continue;
        if (index-- > 0)
            continue;
        if (usable)
            *usable = rondo__cpu_isa_usable(i);
        return rondo__cpu_isa_name(i);
    }
    return NULL;
}

static int best(void)
{
    int i = RONDO_CPU_ISAS - 1;
    while (!rondo__cpu_isa_usable(i))
        i--;
    return i;
}

static int choose(const char *asked, int *out)
{
    static const char *const elsewhere[] = { "amx", "sve" };
    const char *from = "";
    if (!asked || !*asked || !strcmp(asked, "auto")) {
        asked = getenv("RONDO_ISA");
        from = " (from RONDO_ISA)";
        if (!asked || !*asked || !strcmp(asked, "auto")) {
            *out = best();
            return 0;
        }
    }
    for (int i = 0; i < RONDO_CPU_ISAS; i++)
        if (!strcmp(asked, rondo__cpu_isa_name(i))) {
            if (!rondo__cpu_isa_usable(i))
                return rondo__fail(
                    RONDO_ENOTSUP,
                    "instruction set \"%s\"%s cannot run on this machine; the best that can is \"%s\"", asked,
                    from, rondo__cpu_isa_name(best()));
            *out = i;
            return 0;
        }
    for (size_t i = 0; i < sizeof elsewhere / sizeof *elsewhere; i++)
        if (!strcmp(asked, elsewhere[i]))
            return rondo__fail(
                RONDO_ENOTSUP,
                "instruction set \"%s\"%s has no kernels in this version of rondo; the best that can run "
                "here is \"%s\"",
                asked, from, rondo__cpu_isa_name(best()));
    return rondo__fail(RONDO_EINVAL,
                       "unknown instruction set \"%s\"%s; known are auto, scalar, avx2, avx512 and neon", asked,
                       from);
}

/* ---- attach, detach ---- */

/* That there are in this process. */
static _Atomic int32_t devices;

static int probe(void) { return 1; }

static int attach(struct rondo_device **out, const struct rondo_device_desc *desc)
{
    struct rondo_device_desc d = desc ? *desc : (struct rondo_device_desc){ .index = 0 };
    int chosen = 0, err = choose(d.isa, &chosen);
    if (err)
        return err;
    if (d.index != 0)
        return rondo__fail(RONDO_EINVAL, "the cpu device has index 0 only, not %d", d.index);
    if (d.threads < 0)
        return rondo__fail(RONDO_EINVAL, "threads is %d; it takes 0 (all cores) or more", d.threads);
    struct rondo_device *dev = rondo__alloc_zero(1, sizeof *dev);
    if (!dev)
        return rondo__fail(RONDO_ENOMEM, "no memory for the cpu device");
    dev->isa = chosen;
    dev->threads = d.threads ? d.threads : rondo__cores();
    dev->crowded = d.crowded || dev->threads > rondo__cores();
    (void)rondo__team_forks(); /* from here on forks are counted */
    rondo__cpu_kernels(&dev->kernels, chosen);
    atomic_fetch_add_explicit(&devices, 1, memory_order_relaxed);   /* nothing else is published with it */
    *out = dev;
    return 0;
}

static void detach(struct rondo_device *dev)
{
    if (dev) {
        atomic_fetch_sub_explicit(&devices, 1, memory_order_relaxed);   /* the same */
        rondo__team_free(dev->team);
        rondo__free(dev->scratch_block);
    }
    rondo__free(dev);
}

static const char *isa_used(const struct rondo_device *dev) { return rondo__cpu_isa_name(dev->isa); }

static int threads_used(const struct rondo_device *dev) { return dev->threads; }

static int check(struct rondo_device *dev)
{
    (void)dev;
    return rondo__cpu_check_mode();
}

/* ---- streams and events: all work is done when a call returns ---- */

struct rondo_stream {
    int nothing;
};
struct rondo_event {
    int nothing;
};
static struct rondo_stream the_stream;
static struct rondo_event the_event;

static int stream_new(struct rondo_device *dev, struct rondo_stream **out)
{
    (void)dev;
    *out = &the_stream;
    return 0;
}

static void stream_free(struct rondo_device *dev, struct rondo_stream *stream)
{
    (void)dev;
    (void)stream;
}

static int event_new(struct rondo_device *dev, struct rondo_event **out)
{
    (void)dev;
    *out = &the_event;
    return 0;
}

static void event_free(struct rondo_device *dev, struct rondo_event *event)
{
    (void)dev;
    (void)event;
}

static int event_in_stream(struct rondo_device *dev, struct rondo_stream *stream, struct rondo_event *event)
{
    (void)dev;
    (void)stream;
    (void)event;
    return 0;
}

static int event_wait(struct rondo_device *dev, struct rondo_event *event, const struct rondo_poll *poll)
{
    (void)dev;
    (void)event;
    (void)poll;
    return 0;
}

static int event_query(struct rondo_device *dev, struct rondo_event *event)
{
    (void)dev;
    (void)event;
    return 1;
}

static int sync_streams(struct rondo_device *dev)
{
    (void)dev;
    return 0;
}

/* ---- memory ---- */

/* A large page. Scratch of some size is laid over whole ones: the kernels walk over all of it at once, which
 * small pages would slow by a few percent. Not where ranks are very many, each of which would take a page or two. */
#define LARGE RONDO_CPU_LARGE_PAGE
#define DEVICES_MANY 64

static size_t slack_of(size_t bytes)
{
    const bool few = atomic_load_explicit(&devices, memory_order_relaxed) <= DEVICES_MANY;
    return few && bytes >= LARGE / 4 ? LARGE - 1 - (bytes - 1) % LARGE + LARGE : 0;
}

size_t rondo__cpu_scratch_takes(size_t bytes)
{
    size_t all;
    return !bytes ? 0 : rondo__add(bytes, slack_of(bytes) + 2 * 64, &all) ? all : SIZE_MAX; /* rounded up, and its header */
}

bool rondo__cpu_scratch(struct rondo_device *dev, size_t bytes)
{
    const size_t slack = slack_of(bytes);
    size_t all;
    if (bytes <= dev->scratch_bytes)
        return true;
    char *block = rondo__add(bytes, slack, &all) ? rondo__alloc(all) : NULL;
    if (!block)
        return false;
    rondo__free(dev->scratch_block);
    dev->scratch_block = dev->scratch = block;
    dev->scratch_bytes = bytes;
    if (slack) {
        dev->scratch = block + (LARGE - 1 - ((uintptr_t)block + LARGE - 1) % LARGE);
        rondo__cpu_huge(dev->scratch, bytes + LARGE - 1 - (bytes - 1) % LARGE);
    }
    return true;
}

/* Of all kinds: it is one memory. */
static int memory_new(struct rondo_device *dev, int kind, size_t bytes, void **out)
{
    (void)dev;
    (void)kind;
    *out = NULL;
    void *memory = rondo__alloc(bytes);
    if (!memory)
        return rondo__fail(RONDO_ENOMEM, "no memory for %zu bytes on the cpu device", bytes);
    rondo__cpu_huge(memory, bytes);
    *out = memory;
    return 0;
}

static void memory_free(struct rondo_device *dev, int kind, void *memory, size_t bytes)
{
    (void)dev;
    (void)kind;
    (void)bytes;
    rondo__free(memory);
}

static int memory_kind(const struct rondo_device *dev, const void *memory)
{
    (void)dev;
    (void)memory;
    return RONDO_MEMORY_HOST;
}

static int copy(struct rondo_device *dev, struct rondo_stream *stream, void *to, const void *from, size_t bytes)
{
    (void)dev;
    (void)stream;
    if (bytes)
        memmove(to, from, bytes);
    return 0;
}

/* What is more than this leaves the caches before it is read again, so that it need not be fetched into one only to be overwritten: a third of
 * what a copy moves. memcpy knows that of its own calls only, which are a row each here. */
#define PAST_CACHES ((size_t)8 << 20)

static bool may_go_past(const void *to, size_t to_stride, size_t row_bytes, int64_t rows)
{
#ifdef __SSE2__
    size_t all;
    return rondo__mul(row_bytes, (size_t)rows, &all) && all >= PAST_CACHES && row_bytes % 64 == 0 && to_stride % 64 == 0 && (uintptr_t)to % 64 == 0;
#else
    (void)to, (void)to_stride, (void)row_bytes, (void)rows;
    return false;
#endif
}

static void rows_past_caches(char *to, size_t to_stride, const char *from, size_t from_stride, size_t row_bytes, int64_t rows)
{
#ifdef __SSE2__
    for (int64_t i = 0; i < rows; i++, to += to_stride, from += from_stride)
        for (size_t at = 0; at < row_bytes; at += 64) {
            const __m128i *const s = (const __m128i *)(const void *)(from + at);
            __m128i *const d = (__m128i *)(void *)(to + at);
            const __m128i a = _mm_loadu_si128(s), b = _mm_loadu_si128(s + 1), c = _mm_loadu_si128(s + 2), e = _mm_loadu_si128(s + 3);
            _mm_stream_si128(d, a);
            _mm_stream_si128(d + 1, b);
            _mm_stream_si128(d + 2, c);
            _mm_stream_si128(d + 3, e);
        }
    _mm_sfence();   /* before anybody is told */
#else
    (void)to, (void)to_stride, (void)from, (void)from_stride, (void)row_bytes, (void)rows;
#endif
}

static int copy_rows(struct rondo_device *dev, struct rondo_stream *stream, void *to, size_t to_stride, const void *from, size_t from_stride,
                     size_t row_bytes, int64_t rows)
{
    (void)dev;
    (void)stream;
    if (row_bytes == 0 || rows <= 0)
        return 0;
    if (to_stride == row_bytes && from_stride == row_bytes) {
        memcpy(to, from, row_bytes * (size_t)rows);
        return 0;
    }
    char *d = to;
    const char *s = from;
    if (may_go_past(to, to_stride, row_bytes, rows)) {
        rows_past_caches(d, to_stride, s, from_stride, row_bytes, rows);
        return 0;
    }
    for (int64_t i = 0; i < rows; i++, d += to_stride, s += from_stride)
        memcpy(d, s, row_bytes);
    return 0;
}

/* of linear layers (fast.c) */
#ifdef RONDO_OPENBLAS
#define LEVEL_FAST 1u << RONDO_FAST
#else
#define LEVEL_FAST 0u
#endif

const struct rondo_device_ops rondo__cpu_device = {
    .size = sizeof(struct rondo_device_ops),
    .abi = RONDO_DEVICE_ABI,
    .name = "cpu",
    .arithmetics = 1u << RONDO_ARITHMETIC_F32 | 1u << RONDO_ARITHMETIC_F64 | 1u << RONDO_ARITHMETIC_BF16_HOPPER,
    .levels = 1u << RONDO_STRICT | LEVEL_FAST,
    .operations = 1u << RONDO_JOB_FORWARD | 1u << RONDO_JOB_JOIN | 1u << RONDO_JOB_PROBABILITIES,
    .unified = 1,
    .probe = probe,
    .isa = isa,
    .attach = attach,
    .detach = detach,
    .isa_used = isa_used,
    .threads_used = threads_used,
    .check = check,
    .stream_new = stream_new,
    .stream_free = stream_free,
    .event_new = event_new,
    .event_free = event_free,
    .event_record = event_in_stream,
    .stream_wait = event_in_stream,
    .event_wait = event_wait,
    .event_query = event_query,
    .sync = sync_streams,
    .memory_new = memory_new,
    .memory_free = memory_free,
    .memory_kind = memory_kind,
    .copy = copy,
    .copy_rows = copy_rows,
    .program_new = rondo__cpu_program_new,
    .program_update = rondo__cpu_program_update,
    .program_free = rondo__cpu_program_free,
    .program_scratch = rondo__cpu_program_scratch,
    .attention = rondo__cpu_attention,
    .backward_new = rondo__cpu_backward_new,
    .backward_free = rondo__cpu_backward_free,
    .backward_scratch = rondo__cpu_backward_scratch,
    .backward = rondo__cpu_backward,
    .backward_join = rondo__cpu_backward_join,
    .backward_sums = rondo__cpu_backward_sums,
    .backward_sinks = rondo__cpu_backward_sinks,
    .linear_new = rondo__cpu_linear_new,
    .linear_load = rondo__cpu_linear_load,
    .linear_read = rondo__cpu_linear_read,
    .linear_format = rondo__cpu_linear_format,
    .linear_free = rondo__cpu_linear_free,
    .linear_bytes = rondo__cpu_linear_bytes,
    .linear = rondo__cpu_linear,
    .linear_join = rondo__cpu_linear_join,
    .host_run = rondo__cpu_host_run,
    .linear_dx = rondo__cpu_linear_dx,
    .token_sum = rondo__cpu_token_sum,
    .rmsnorm_dx = rondo__cpu_rmsnorm_dx,
    .rope_back = rondo__cpu_rope_back,
    .swiglu_dx = rondo__cpu_swiglu_dx,
    .rmsnorm = rondo__cpu_rmsnorm,
    .rope = rondo__cpu_rope,
    .swiglu = rondo__cpu_swiglu,
    .convert = rondo__cpu_convert,
    .convert_rows = rondo__cpu_convert_rows,
    .logsumexp = rondo__cpu_logsumexp,
    .delta = rondo__cpu_delta,
    .delta_fold = rondo__cpu_delta_fold,
    .cross_entropy = rondo__cpu_cross_entropy,
    .delta_backward = rondo__cpu_delta_backward,
    .short_conv = rondo__cpu_short_conv,
    .sigmoid_mul = rondo__cpu_sigmoid_mul,
};
