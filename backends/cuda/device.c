/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The card: attaching, streams, events, launches, and what runs upload. A rank has a device object; ranks of one process that use one card share
 * the driver's primary context, and each has streams, scratch and a module of its own. A failure in a stream stays with the context, as
 * CUDA has it: every call after it returns it with its sentence.
 */
#include "backends/cuda/blas.h"
#include "backends/cuda/dnn.h"

#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>

const struct rondo_services *rondo__cuda_host;

int rondo__cuda_fail(int code, const char *format, ...)
{
    char text[1024];
    va_list ap;
    va_start(ap, format);
    const int n = vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    return rondo__cuda_host->fail(code, n < 0 ? "" : text);
}

int rondo__cuda_check(const struct rondo_device *dev, cu_result code, const char *what)
{
    const char *text = NULL;
    if (code == CU_OK)
        return 0;
    if (dev->driver->cuGetErrorString(code, &text) || !text)
        text = "no reason given";
    return rondo__cuda_fail(code == CU_OUT_OF_MEMORY ? RONDO_ENOMEM : RONDO_EDEVICE, "%s on graphics card %d: %s (CUDA error %d)", what,
                            (int)dev->index, text, code);
}

int rondo__cuda_enter(struct rondo_device *dev)
{
    return rondo__cuda_check(dev, dev->driver->cuCtxSetCurrent(dev->context), "using the context");
}

/* ---- attach, detach ---- */

int rondo__cuda_probe(void)
{
    const struct rondo_cuda_driver *driver;
    return rondo__cuda_open(&driver) == 0;
}

/* Kernels are one text for all cards: there is nothing to choose. */
const char *rondo__cuda_isa(int index, int *usable)
{
    if (index != 0)
        return NULL;
    if (usable)
        *usable = rondo__cuda_probe();
    return "ptx";
}

static int attribute(struct rondo_device *dev, int which, int32_t *out)
{
    int value = 0;
    const int err = rondo__cuda_check(dev, dev->driver->cuDeviceGetAttribute(&value, which, dev->device), "asking for an attribute");
    *out = value;
    return err;
}

static int look_at(struct rondo_device *dev)
{
    const struct rondo_cuda_driver *d = dev->driver;
    int32_t major = 0, minor = 0, unified = 0;
    int err = rondo__cuda_check(dev, d->cuDeviceGet(&dev->device, dev->index), "finding it");
    if (!err)
        err = rondo__cuda_check(dev, d->cuDeviceGetName(dev->name, sizeof dev->name, dev->device), "asking for its name");
    if (!err)
        err = attribute(dev, CU_MULTIPROCESSORS, &dev->multiprocessors);
    if (!err)
        err = attribute(dev, CU_SHARED_BLOCK, &dev->shared_block);
    if (!err)
        err = attribute(dev, CU_SHARED_MULTIPROCESSOR, &dev->shared_multiprocessor);
    if (!err)
        err = attribute(dev, CU_UNIFIED_ADDRESSES, &unified);
    if (!err)
        err = attribute(dev, CU_CC_MAJOR, &major);
    if (!err)
        err = attribute(dev, CU_CC_MINOR, &minor);
    if (err)
        return err;
    dev->cc = 10 * major + minor;
    snprintf(dev->isa, sizeof dev->isa, "sm_%d", (int)dev->cc);
    if (dev->cc < 80 || !unified)
        return rondo__cuda_fail(RONDO_ENOTSUP, "graphics card %d (%s) is of compute capability %d.%d; 8.0 or newer is needed", (int)dev->index, dev->name,
                                (int)major, (int)minor);
    return 0;
}

static const char *const kernel_names[CUDA_KERNELS] = {
#define X(name, parameters) #name,
    RONDO_CUDA_KERNELS(X)
#undef X
};

static int load_kernels(struct rondo_device *dev)
{
    const struct rondo_cuda_driver *d = dev->driver;
    const int code = d->cuModuleLoadDataEx(&dev->module, rondo__cuda_image, 0, NULL, NULL);
    if (code)
        dev->module = NULL;
    int err = rondo__cuda_check(dev, code, "loading rondo's kernels");
    for (int i = 0; i < CUDA_KERNELS && !err; i++) {
        err = rondo__cuda_check(dev, d->cuModuleGetFunction(&dev->kernel[i], dev->module, kernel_names[i]), kernel_names[i]);
        if (!err)
            err = rondo__cuda_check(dev, d->cuFuncSetAttribute(dev->kernel[i], CU_FUNCTION_SHARED, dev->shared_block), kernel_names[i]);
        if (!err && i <= KERNEL_rondo_cuda_steps)   /* attention wants as many blocks at once as shared memory has room for; a hint */
            (void)d->cuFuncSetAttribute(dev->kernel[i], CU_FUNCTION_CARVEOUT, 100);
    }
    return err;
}

int rondo__cuda_attach(struct rondo_device **out, const struct rondo_device_desc *desc)
{
    const struct rondo_cuda_driver *driver;
    int err = rondo__cuda_open(&driver);
    *out = NULL;
    if (err)
        return err;
    if (desc->isa && *desc->isa && strcmp(desc->isa, "auto") && strcmp(desc->isa, "ptx"))
        return rondo__cuda_fail(RONDO_EINVAL, "the cuda device has no instruction set \"%s\"; its kernels are one text, \"ptx\", for all cards", desc->isa);
    if (desc->index < 0 || desc->index >= driver->devices)
        return rondo__cuda_fail(RONDO_EINVAL, "there is no graphics card %d; this machine has %d, counted from 0", (int)desc->index, driver->devices);
    struct rondo_device *dev = rondo__cuda_alloc(1, sizeof *dev);
    if (!dev)
        return rondo__cuda_fail(RONDO_ENOMEM, "no memory for a cuda device");
    dev->driver = driver;
    dev->index = desc->index;
    dev->scratch_slot = -1;
    err = look_at(dev);
    if (!err)
        err = rondo__cuda_check(dev, driver->cuDevicePrimaryCtxRetain(&dev->context, dev->device), "making a context");
    if (!err)
        err = rondo__cuda_enter(dev);
    if (!err)
        err = load_kernels(dev);
    if (!err)
        err = rondo__cuda_check(dev, driver->cuStreamCreate(&dev->own.stream, CU_STREAM_OWN), "making a stream");
    if (!err)
        err = rondo__cuda_check(dev, driver->cuStreamCreate(&dev->upload, CU_STREAM_OWN), "making a stream");
    for (int i = 0; i <= CUDA_SLOTS && !err; i++)
        err = rondo__cuda_check(dev, driver->cuEventCreate(&dev->slot[i].over, CU_EVENT_PLAIN), "making an event");
    if (!err)
        err = rondo__cuda_first_look(dev);
    if (err) {
        rondo__cuda_detach(dev);
        return err;
    }
    *out = dev;
    return 0;
}

void rondo__cuda_detach(struct rondo_device *dev)
{
    if (!dev)
        return;
    const struct rondo_cuda_driver *d = dev->driver;
    if (dev->context) {
        (void)d->cuCtxSetCurrent(dev->context);
        for (struct rondo_stream *s = &dev->own; s; s = s->next)
            if (s->stream)
                (void)d->cuStreamSynchronize(s->stream);
        rondo__cuda_blas_close(dev);
        rondo__cuda_dnn_close(dev);
        rondo__cuda_give(dev, &dev->fast);
        rondo__cuda_give(dev, &dev->workspace);
        rondo__cuda_give(dev, &dev->halves);
        rondo__cuda_give(dev, &dev->nodes);
        rondo__cuda_give(dev, &dev->stack);
        rondo__cuda_give(dev, &dev->parts);
        rondo__cuda_give(dev, &dev->sums);
        for (int i = 0; i <= CUDA_SLOTS; i++) {
            struct rondo__cuda_slot *slot = dev->slot + i;
            if (slot->memory)
                (void)d->cuMemFree_v2(slot->memory);
            if (slot->pinned)
                (void)d->cuMemFreeHost(slot->pinned);
            if (slot->over)
                (void)d->cuEventDestroy_v2(slot->over);
        }
        if (dev->upload)
            (void)d->cuStreamDestroy_v2(dev->upload);
        if (dev->own.stream)
            (void)d->cuStreamDestroy_v2(dev->own.stream);
        if (dev->module)
            (void)d->cuModuleUnload(dev->module);
        (void)d->cuDevicePrimaryCtxRelease_v2(dev->device);
    }
    rondo__cuda_free(dev);
}

/* ---- streams and events ---- */

int rondo__cuda_stream_new(struct rondo_device *dev, struct rondo_stream **out)
{
    int err = rondo__cuda_enter(dev);
    *out = NULL;
    if (err)
        return err;
    struct rondo_stream *stream = rondo__cuda_alloc(1, sizeof *stream);
    if (!stream)
        return rondo__cuda_fail(RONDO_ENOMEM, "no memory for a stream");
    err = rondo__cuda_check(dev, dev->driver->cuStreamCreate(&stream->stream, CU_STREAM_OWN), "making a stream");
    if (err) {
        rondo__cuda_free(stream);
        return err;
    }
    stream->next = dev->own.next;
    dev->own.next = stream;
    *out = stream;
    return 0;
}

void rondo__cuda_stream_free(struct rondo_device *dev, struct rondo_stream *stream)
{
    if (!stream)
        return;
    for (struct rondo_stream *s = &dev->own; s; s = s->next)
        if (s->next == stream) {
            s->next = stream->next;
            break;
        }
    if (dev->scratch_stream == stream->stream)
        dev->scratch_stream = NULL;    /* its handle may come again */
    if (dev->dnn_stream == stream->stream)
        dev->dnn_stream = NULL;
    (void)dev->driver->cuCtxSetCurrent(dev->context);
    (void)dev->driver->cuStreamSynchronize(stream->stream);
    (void)dev->driver->cuStreamDestroy_v2(stream->stream);
    rondo__cuda_free(stream);
}

int rondo__cuda_event_new(struct rondo_device *dev, struct rondo_event **out)
{
    int err = rondo__cuda_enter(dev);
    *out = NULL;
    if (err)
        return err;
    struct rondo_event *event = rondo__cuda_alloc(1, sizeof *event);
    if (!event)
        return rondo__cuda_fail(RONDO_ENOMEM, "no memory for an event");
    err = rondo__cuda_check(dev, dev->driver->cuEventCreate(&event->event, CU_EVENT_PLAIN), "making an event");
    if (err) {
        rondo__cuda_free(event);
        return err;
    }
    *out = event;
    return 0;
}

void rondo__cuda_event_free(struct rondo_device *dev, struct rondo_event *event)
{
    if (!event)
        return;
    (void)dev->driver->cuCtxSetCurrent(dev->context);
    (void)dev->driver->cuEventDestroy_v2(event->event);
    rondo__cuda_free(event);
}

int rondo__cuda_event_record(struct rondo_device *dev, struct rondo_stream *stream, struct rondo_event *event)
{
    int err = rondo__cuda_enter(dev);
    if (!err)
        err = rondo__cuda_check(dev, dev->driver->cuEventRecord(event->event, rondo__cuda_stream(dev, stream)), "recording an event");
    event->recorded = !err;
    return err;
}

int rondo__cuda_stream_wait(struct rondo_device *dev, struct rondo_stream *stream, struct rondo_event *event)
{
    if (!event->recorded)
        return 0;
    int err = rondo__cuda_enter(dev);
    return err ? err : rondo__cuda_check(dev, dev->driver->cuStreamWaitEvent(rondo__cuda_stream(dev, stream), event->event, 0), "waiting for an event");
}

/* At first it looks again and again, later it sleeps between. With poll NULL the driver waits. */
static int wait_for(struct rondo_device *dev, cu_event event, const struct rondo_poll *poll, const char *what)
{
    enum { EAGER = 2000 };
    if (!poll)
        return rondo__cuda_check(dev, dev->driver->cuEventSynchronize(event), what);
    for (int64_t looks = 0;; looks++) {
        const cu_result code = dev->driver->cuEventQuery(event);
        if (code != CU_NOT_READY)
            return rondo__cuda_check(dev, code, what);
        const int err = poll->call(poll->arg);
        if (err)
            return err;
        if (looks > EAGER)
            nanosleep(&(struct timespec){ .tv_nsec = 50000 }, NULL);
        else if (looks > EAGER / 10)
            sched_yield();
    }
}

int rondo__cuda_event_wait(struct rondo_device *dev, struct rondo_event *event, const struct rondo_poll *poll)
{
    if (!event->recorded)
        return 0;
    int err = rondo__cuda_enter(dev);
    return err ? err : wait_for(dev, event->event, poll, "the work before an event");
}

int rondo__cuda_event_query(struct rondo_device *dev, struct rondo_event *event)
{
    if (!event->recorded)
        return 1;
    int err = rondo__cuda_enter(dev);
    if (err)
        return err;
    const cu_result code = dev->driver->cuEventQuery(event->event);
    return code == CU_OK ? 1 : code == CU_NOT_READY ? 0 : rondo__cuda_check(dev, code, "the work before an event");
}

int rondo__cuda_stream_handle(struct rondo_device *dev, struct rondo_stream *stream, void **out)
{
    *out = rondo__cuda_stream(dev, stream);
    return rondo__cuda_enter(dev);
}

int rondo__cuda_sync(struct rondo_device *dev)
{
    int err = rondo__cuda_enter(dev);
    for (struct rondo_stream *s = &dev->own; s && !err; s = s->next)
        err = rondo__cuda_check(dev, dev->driver->cuStreamSynchronize(s->stream), "the work in a stream");
    return err;
}

/* ---- launches ---- */

static unsigned threads_of(int kernel)
{
    return kernel >= KERNEL_rondo_cuda_thin_1 && kernel <= KERNEL_rondo_cuda_thin_terms ? CUDA_THIN_THREADS : CUDA_THREADS;
}

int rondo__cuda_launch_of(struct rondo_device *dev, int kernel, int64_t blocks, unsigned threads, size_t shared, cu_stream stream, const void *parameters)
{
    void *list[1] = { (void *)(uintptr_t)parameters };
    if (blocks < 1)
        return 0;
    const unsigned grid = blocks < INT32_MAX ? (unsigned)blocks : INT32_MAX;   /* every kernel goes over what is more */
    return rondo__cuda_check(dev, dev->driver->cuLaunchKernel(dev->kernel[kernel], grid, 1, 1, threads, 1, 1, (unsigned)shared, stream, list, NULL),
                             kernel_names[kernel]);
}

int rondo__cuda_launch(struct rondo_device *dev, int kernel, int64_t blocks, size_t shared, cu_stream stream, const void *parameters)
{
    return rondo__cuda_launch_of(dev, kernel, blocks, threads_of(kernel), shared, stream, parameters);
}

int rondo__cuda_blocks(struct rondo_device *dev, int kernel, size_t shared)
{
    int blocks = 0;
    if (dev->driver->cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, dev->kernel[kernel], (int)threads_of(kernel), shared) || blocks < 1)
        blocks = 1;
    return blocks * dev->multiprocessors;
}

/* ---- what runs upload ---- */

int rondo__cuda_slot_take(struct rondo_device *dev, const struct rondo_poll *poll, size_t bytes, struct rondo__cuda_slot **out)
{
    const struct rondo_cuda_driver *d = dev->driver;
    struct rondo__cuda_slot *slot = dev->slot + (bytes ? dev->next_slot : CUDA_SLOTS);
    int err = 0;
    *out = slot;
    if (!bytes)
        return 0;
    dev->next_slot = (dev->next_slot + 1) % CUDA_SLOTS;
    if (slot->recorded)
        err = wait_for(dev, slot->over, poll, "an earlier run");
    if (!err && slot->bytes < bytes) {
        size_t all = slot->bytes ? slot->bytes : 4096;
        while (all < bytes)
            all *= 2;
        if (slot->memory)
            (void)d->cuMemFree_v2(slot->memory);
        if (slot->pinned)
            (void)d->cuMemFreeHost(slot->pinned);
        slot->memory = 0;
        slot->pinned = NULL;
        slot->bytes = 0;
        err = rondo__cuda_check(dev, d->cuMemHostAlloc(&slot->pinned, all, CU_HOST_PORTABLE), "pinned memory for the lists of a run");
        if (err)
            slot->pinned = NULL;
        if (!err)
            err = rondo__cuda_check(dev, d->cuMemAlloc_v2(&slot->memory, all), "memory for the lists of a run");
        if (!err)
            slot->bytes = all;
    }
    slot->used = 0;
    return err;
}

void *rondo__cuda_slot_add(struct rondo__cuda_slot *slot, size_t bytes, cu_pointer *at)
{
    void *memory = (char *)slot->pinned + slot->used;
    *at = slot->memory + slot->used;
    slot->used += (bytes + 15) & ~(size_t)15;
    return memory;
}

int rondo__cuda_slot_send(struct rondo_device *dev, struct rondo__cuda_slot *slot, cu_stream stream)
{
    return slot->used ? rondo__cuda_check(dev, dev->driver->cuMemcpyAsync(slot->memory, (cu_pointer)(uintptr_t)slot->pinned, slot->used, stream),
                                          "uploading the lists of a run") : 0;
}

int rondo__cuda_slot_close(struct rondo_device *dev, struct rondo__cuda_slot *slot, cu_stream stream)
{
    int err = rondo__cuda_check(dev, dev->driver->cuEventRecord(slot->over, stream), "recording an event");
    slot->recorded = !err;
    dev->scratch_slot = (int32_t)(slot - dev->slot);
    dev->scratch_stream = stream;
    return err;
}

int rondo__cuda_scratch_begin(struct rondo_device *dev, cu_stream stream)
{
    if (dev->scratch_slot < 0 || dev->scratch_stream == stream || !dev->slot[dev->scratch_slot].recorded)
        return 0;
    return rondo__cuda_check(dev, dev->driver->cuStreamWaitEvent(stream, dev->slot[dev->scratch_slot].over, 0), "waiting for scratch");
}
