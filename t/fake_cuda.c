/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The fake driver (fake_cuda.h): its settings, and of the API devices, contexts and codes.
 */
#define _GNU_SOURCE   /* sched_yield */
#include "t/fake_cuda.h"

#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct fake_settings fake_settings;
struct fake_counts fake_counts;
struct fake_context fake_contexts[FAKE_DEVICES];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_int waiting;
static int ready, settled;
static char report[600];
static _Thread_local struct fake_context *current;

/* ---- settings ---- */

static const struct fake_settings usual = { .version = 13000, .devices = 1, .cc = 90, .sms = 4, .memory = (size_t)2 << 30 };

static bool number(const char *text, const char **end, long long most, long long *out)
{
    char *stop;
    *out = strtoll(text, &stop, 10);
    *end = stop;
    return stop != text && *out >= 0 && *out <= most;
}

/* One word of the list. */
static bool setting(const char *word, struct fake_settings *s)
{
    static const struct {
        const char *name;
        size_t at;
    } ints[] = {
        { "init=", offsetof(struct fake_settings, init) }, { "version=", offsetof(struct fake_settings, version) },
        { "module=", offsetof(struct fake_settings, module) }, { "devices=", offsetof(struct fake_settings, devices) },
        { "cc=", offsetof(struct fake_settings, cc) }, { "sms=", offsetof(struct fake_settings, sms) },
    }, faults[] = {
        { "launch=", offsetof(struct fake_settings, launch) }, { "copy=", offsetof(struct fake_settings, copy) },
        { "alloc=", offsetof(struct fake_settings, alloc) }, { "call=", offsetof(struct fake_settings, call) },
        { "lost=", offsetof(struct fake_settings, lost) }, { "flip=", offsetof(struct fake_settings, flip) },
    };
    long long n;
    const char *end = word;
    if (strcmp(word, "no-device") == 0) {
        s->init = CUDA_ERROR_NO_DEVICE;
        s->devices = 0;
        return true;
    }
    if (strcmp(word, "old-driver") == 0) {
        s->version = 10020;
        s->module = CUDA_ERROR_UNSUPPORTED_PTX_VERSION;
        return true;
    }
    if (strcmp(word, "gate=mprotect") == 0) {
        s->mprotect_gate = 1;
        return true;
    }
    if (strcmp(word, "ftz") == 0) {
        s->ftz = 1;
        return FAKE_FLUSHES;
    }
    if (strncmp(word, "memory=", 7) == 0) {
        const bool good = number(word + 7, &end, INT64_MAX, &n) && !*end;
        s->memory = (size_t)n;
        return good;
    }
    for (size_t i = 0; i < sizeof ints / sizeof ints[0]; i++)
        if (strncmp(word, ints[i].name, strlen(ints[i].name)) == 0) {
            const bool good = number(word + strlen(ints[i].name), &end, INT32_MAX, &n) && !*end;
            *(int *)(void *)((char *)s + ints[i].at) = (int)n;
            return good;
        }
    for (size_t i = 0; i < sizeof faults / sizeof faults[0]; i++)
        if (strncmp(word, faults[i].name, strlen(faults[i].name)) == 0) {
            struct fake_fault *fault = (struct fake_fault *)(void *)((char *)s + faults[i].at);
            if (!number(word + strlen(faults[i].name), &end, INT64_MAX, &fault->number))
                return false;
            n = 0;
            if (*end == ':' && !number(end + 1, &end, INT32_MAX, &n))
                return false;
            fault->code = (int)n;
            return !*end;
        }
    return false;
}

static int settle(const char *text)
{
    struct fake_settings s = usual;
    char list[512];
    if (text && strlen(text) >= sizeof list) {
        fake_report("RONDO_FAKE_CUDA is too long");
        return CUDA_ERROR_INVALID_VALUE;
    }
    snprintf(list, sizeof list, "%s", text ? text : "");
    char *rest = NULL;
    for (char *word = strtok_r(list, ",", &rest); word; word = strtok_r(NULL, ",", &rest))
        if (!setting(word, &s)) {
            fake_report("RONDO_FAKE_CUDA has '%s', which is none of what t/fake_cuda.h says", word);
            return CUDA_ERROR_INVALID_VALUE;
        }
    if (s.devices > FAKE_DEVICES) {
        fake_report("RONDO_FAKE_CUDA has devices=%d; there are at most %d", s.devices, FAKE_DEVICES);
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (!rondo_fibers_order(getenv("RONDO_FAKE_CUDA_ORDER"))) {
        fake_report("RONDO_FAKE_CUDA_ORDER is '%s', and should be up, down or a number", getenv("RONDO_FAKE_CUDA_ORDER"));
        return CUDA_ERROR_INVALID_VALUE;
    }
    fake_settings = s;
    settled = 1;
    return 0;
}

/* How often each function has been called, by the address of its name or the name. */
static struct {
    const char *name;
    long long count;
} named[128];

void fake_count_name(const char *name)
{
    for (size_t i = 0; i < sizeof named / sizeof named[0]; i++) {
        if (!named[i].name)
            named[i].name = name;
        if (named[i].name == name) {
            named[i].count++;
            return;
        }
    }
}

static long long count_of(const char *name)
{
    for (size_t i = 0; i < sizeof named / sizeof named[0] && named[i].name; i++)
        if (!strcmp(named[i].name, name))
            return named[i].count;
    return strncmp(name, "cu", 2) && strncmp(name, "rondo_cuda_", 11) ? -1 : 0;
}

int rondo_fake_cuda_set(const char *settings)
{
    pthread_mutex_lock(&lock);
    int err = settle(settings ? settings : getenv("RONDO_FAKE_CUDA"));
    for (int i = 0; i < FAKE_DEVICES; i++)
        if (fake_contexts[i].retained)
            err = CUDA_ERROR_INVALID_VALUE;
    fake_counts.calls = fake_counts.launches = fake_counts.copies = fake_counts.allocations = fake_counts.leaks = 0;
    memset(named, 0, sizeof named);
    ready = 0;
    pthread_mutex_unlock(&lock);
    return err;
}

long long rondo_fake_cuda_count(const char *what)
{
    long long count = -1, contexts = 0, bytes = 0;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < FAKE_DEVICES; i++) {
        contexts += fake_contexts[i].retained > 0;
        bytes += (long long)fake_contexts[i].bytes;
    }
    const struct {
        const char *name;
        long long count;
    } list[] = {
        { "calls", fake_counts.calls }, { "launches", fake_counts.launches }, { "copies", fake_counts.copies }, { "allocations", fake_counts.allocations },
        { "contexts", contexts }, { "modules", fake_counts.modules }, { "streams", fake_counts.streams }, { "events", fake_counts.events },
        { "blocks", fake_counts.blocks }, { "pinned", fake_counts.pinned }, { "bytes", bytes }, { "pending", fake_counts.pending },
        { "leaks", fake_counts.leaks },
    };
    count = count_of(what);
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++)
        if (strcmp(what, list[i].name) == 0)
            count = list[i].count;
    pthread_mutex_unlock(&lock);
    return count;
}

int rondo_fake_cuda_card(void)
{
    return current ? current->device : -1;
}

const char *rondo_fake_cuda_text(void)
{
    return report;
}

void fake_report(const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    vsnprintf(report, sizeof report, format, ap);
    va_end(ap);
    fprintf(stderr, "# fake cuda: %s\n", report);
}

bool fake_strikes(const struct fake_fault *fault, long long count)
{
    return fault->number && fault->number == count;
}

bool fake_in_call(int code)
{
    return code && (code < CUDA_ERROR_ILLEGAL_ADDRESS || code == CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
}

/* ---- every call ---- */

static void take_lock(void)
{
    atomic_fetch_add(&waiting, 1);
    pthread_mutex_lock(&lock);
    atomic_fetch_sub(&waiting, 1);
}

/* What a call may fail with before anything else is looked at. */
static int count_call(const char *name)
{
    const struct fake_settings *s = &fake_settings;
    int err = settled ? 0 : settle(getenv("RONDO_FAKE_CUDA"));
    if (err)
        return err;
    fake_counts.calls++;
    fake_count_name(name);
    if (fake_strikes(&s->call, fake_counts.calls))
        return s->call.code ? s->call.code : CUDA_ERROR_UNKNOWN;
    if (s->lost.number && fake_counts.calls >= s->lost.number)
        return s->lost.code ? s->lost.code : CUDA_ERROR_DEVICE_UNAVAILABLE;
    return 0;
}

int fake_enter_as(const char *name, struct fake_context **context)
{
    take_lock();
    int err = count_call(name);
    if (!err && !ready)
        err = CUDA_ERROR_NOT_INITIALIZED;
    if (!context)
        return err;
    *context = current;
    if (!err && !current)
        err = CUDA_ERROR_INVALID_CONTEXT;
    if (!err && !current->retained)
        err = CUDA_ERROR_CONTEXT_IS_DESTROYED;
    return err ? err : current->sticky;
}

int fake_leave(int err)
{
    fake_gate_shut();
    pthread_mutex_unlock(&lock);
    return err;
}

void fake_breathe(void)
{
    if (atomic_load(&waiting)) {
        fake_gate_shut();
        pthread_mutex_unlock(&lock);
        sched_yield();
        take_lock();
    }
}

/* ---- the API: the driver and its devices ---- */

CUresult cuInit(unsigned flags)
{
    take_lock();
    int err = count_call(__func__);
    if (!err && flags)
        err = CUDA_ERROR_INVALID_VALUE;
    if (!err)
        err = fake_settings.init;
    ready |= !err;
    return fake_leave(err);
}

CUresult cuDriverGetVersion(int *out)
{
    take_lock();
    int err = count_call(__func__);
    if (!err && !out)
        err = CUDA_ERROR_INVALID_VALUE;
    if (!err)
        *out = fake_settings.version;
    return fake_leave(err);
}

static int enter_device(const char *name, CUdevice device)
{
    int err = fake_enter_as(name, NULL);
    return !err && (device < 0 || device >= fake_settings.devices) ? CUDA_ERROR_INVALID_DEVICE : err;
}

CUresult cuDeviceGetCount(int *out)
{
    int err = fake_enter(NULL);
    if (!err && !out)
        err = CUDA_ERROR_INVALID_VALUE;
    if (!err)
        *out = fake_settings.devices;
    return fake_leave(err);
}

CUresult cuDeviceGet(CUdevice *out, int ordinal)
{
    int err = enter_device(__func__, ordinal);
    if (!err && !out)
        err = CUDA_ERROR_INVALID_VALUE;
    if (!err)
        *out = ordinal;
    return fake_leave(err);
}

CUresult cuDeviceGetName(char *name, int bytes, CUdevice device)
{
    int err = enter_device(__func__, device);
    if (!err && (!name || bytes < 1))
        err = CUDA_ERROR_INVALID_VALUE;
    if (!err)
        snprintf(name, (size_t)bytes, "Fake card %d", device);
    return fake_leave(err);
}

CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device)
{
    int err = enter_device(__func__, device);
    if (!err && !bytes)
        err = CUDA_ERROR_INVALID_VALUE;
    if (!err)
        *bytes = fake_settings.memory;
    return fake_leave(err);
}

/* What a multiprocessor has, by compute capability, as CUDA's programming guide says. */
static const struct fake_card cards[] = {
    { 75, 1024, 16, 65536, 65536 }, { 80, 2048, 32, 167936, 166912 }, { 86, 1536, 16, 102400, 101376 }, { 89, 1536, 24, 102400, 101376 },
    { 90, 2048, 32, 233472, 232448 }, { 100, 2048, 32, 233472, 232448 }, { 120, 1536, 32, 102400, 101376 },
};

const struct fake_card *fake_card(void)
{
    const struct fake_card *found = cards;
    for (size_t i = 0; i < sizeof cards / sizeof cards[0]; i++)
        if (cards[i].cc <= fake_settings.cc)
            found = cards + i;
    return found;
}

CUresult cuDeviceGetAttribute(int *out, int attribute, CUdevice device)
{
    int err = enter_device(__func__, device);
    if (!err && !out)
        err = CUDA_ERROR_INVALID_VALUE;
    if (err)
        return fake_leave(err);
    const struct fake_card *c = fake_card();
    const int list[][2] = {
        { 1, 1024 }, { 2, 1024 }, { 3, 1024 }, { 4, 64 }, { 5, INT32_MAX }, { 6, 65535 }, { 7, 65535 }, { 8, FAKE_SHARED_USUAL }, { 9, 65536 }, { 10, RONDO_FIBER_WARP },
        { 11, INT32_MAX }, { 12, FAKE_REGISTERS }, { 13, 1000000 }, { 15, 1 }, { 16, fake_settings.sms }, { 17, 0 }, { 18, 0 }, { 19, 1 }, { 20, 0 }, { 31, 1 }, { 32, 1 },
        { 33, device + 1 }, { 34, 0 }, { 35, 0 }, { 36, 1000000 }, { 37, 5120 }, { 38, 1 << 20 }, { 39, c->threads }, { 40, 2 }, { 41, 1 }, { 50, 0 },
        { 75, fake_settings.cc / 10 }, { 76, fake_settings.cc % 10 }, { 78, 1 }, { 81, c->shared }, { 82, FAKE_REGISTERS }, { 83, 0 }, { 88, 0 }, { 97, c->shared_block },
        { 106, c->blocks }, { 111, FAKE_SHARED_RESERVED },
    };
    err = CUDA_ERROR_INVALID_VALUE;
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++)
        if (list[i][0] == attribute) {
            *out = list[i][1];
            err = 0;
        }
    if (err)
        fake_report("cuDeviceGetAttribute() of attribute %d, which it does not have", attribute);
    return fake_leave(err);
}

/* ---- the API: contexts ---- */

CUresult cuDevicePrimaryCtxRetain(CUcontext *out, CUdevice device)
{
    int err = enter_device(__func__, device);
    if (!err && !out)
        err = CUDA_ERROR_INVALID_VALUE;
    struct fake_context *c = err ? NULL : fake_contexts + device;
    if (!err && !c->retained) {
        c->device = device;
        c->sticky = 0;
        c->bytes = 0;
        if (!fake_streams_begin(c))
            err = CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (!err) {
        c->retained++;
        *out = c;
    }
    return fake_leave(err);
}

/* With a card that is lost, too: a context that is given back takes all along that is its own. */
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device)
{
    int err = enter_device(__func__, device);
    if (err && (!ready || device < 0 || device >= fake_settings.devices))
        return fake_leave(err);
    struct fake_context *c = fake_contexts + device;
    if (!c->retained)
        return fake_leave(CUDA_ERROR_INVALID_CONTEXT);
    if (--c->retained == 0) {
        const long long taken = fake_streams_end(c) + fake_memory_end(c) + fake_modules_end(c);
        if (taken && !c->sticky && !err) {
            fake_counts.leaks += taken;
            fake_report("a context goes with %lld blocks, streams, events and modules that nobody has given back", taken);
        }
    }
    return fake_leave(err);
}

CUresult cuCtxSetCurrent(CUcontext context)
{
    int err = fake_enter(NULL);
    if (!err && context && (context < fake_contexts || context >= fake_contexts + FAKE_DEVICES || !context->retained))
        err = CUDA_ERROR_INVALID_CONTEXT;
    if (!err)
        current = context;
    return fake_leave(err);
}

CUresult cuCtxGetCurrent(CUcontext *out)
{
    int err = fake_enter(NULL);
    if (!err && !out)
        err = CUDA_ERROR_INVALID_VALUE;
    if (!err)
        *out = current;
    return fake_leave(err);
}

/* ---- the API: codes ---- */

static const struct {
    int code;
    const char *name, *text;
} codes[] = {
    { 0, "CUDA_SUCCESS", "no error" },
    { 1, "CUDA_ERROR_INVALID_VALUE", "invalid argument" },
    { 2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory" },
    { 3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error" },
    { 34, "CUDA_ERROR_STUB_LIBRARY", "CUDA driver is a stub library" },
    { 46, "CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA-capable device(s) is/are busy or unavailable" },
    { 100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected" },
    { 101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal" },
    { 200, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid" },
    { 201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context" },
    { 209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device" },
    { 214, "CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable ECC error encountered" },
    { 218, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed" },
    { 222, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the provided PTX was compiled with an unsupported toolchain." },
    { 400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle" },
    { 500, "CUDA_ERROR_NOT_FOUND", "named symbol not found" },
    { 600, "CUDA_ERROR_NOT_READY", "device not ready" },
    { 700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered" },
    { 701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch" },
    { 702, "CUDA_ERROR_LAUNCH_TIMEOUT", "the launch timed out and was terminated" },
    { 709, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed" },
    { 716, "CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address" },
    { 719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure" },
    { 999, "CUDA_ERROR_UNKNOWN", "unknown error" },
};

static int code_text(int err, const char **out, bool name)
{
    *out = NULL;
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++)
        if (codes[i].code == err)
            *out = name ? codes[i].name : codes[i].text;
    return *out ? 0 : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuGetErrorString(CUresult err, const char **out)
{
    return code_text(err, out, false);
}

CUresult cuGetErrorName(CUresult err, const char **out)
{
    return code_text(err, out, true);
}
