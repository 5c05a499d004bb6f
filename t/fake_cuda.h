/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A driver of graphics cards that has none: libcuda.so.1 as far as the module rondo_cuda.so uses it, so that all of the module's host side and
 * its kernels' text run in tests, on any machine. Signatures, numbers and behaviour are those of CUDA's driver API; kernels are plain C on
 * fibers (cuda_fibers.h). What a real card seldom does, and may, happens here: streams run late and in any order that events allow, copies
 * of pinned memory as well; device memory is full of NaNs, and faults where the host touches it; and each call can be made to fail.
 *
 *   fake_cuda.c          settings, devices, contexts, codes
 *   fake_cuda_modules.c  modules, their functions, launches
 *   fake_cuda_streams.c  what has been put into streams, and when it happens
 *   fake_cuda_memory.c   memory of the card and pinned memory, copies
 *   fake_kernels.c       the list of kernels
 *
 * RONDO_FAKE_CUDA is a list, with commas, of
 *   no-device  old-driver  version=N  init=CODE  module=CODE      what cuInit(), cuDriverGetVersion(), cuModuleLoadData() say
 *   devices=N  cc=80  sms=N  memory=BYTES                         what cards there are
 *   launch=N[:CODE]  copy=N[:CODE]  alloc=N[:CODE]                the N-th of them fails: codes below 700, and 701, in the call; others when the
 *                                                                 stream comes to it, and then all that follows
 *   call=N[:CODE]                                                 the N-th call of the API fails and does nothing
 *   lost=N[:CODE]                                                 each call from the N-th on does
 *   flip=N[:BIT]                                                  what the N-th launch wrote has one bit changed: of the last 4 bytes that it changed
 *   ftz                                                           kernels flush subnormal numbers to zero; where the host's processor can be told to
 *   gate=mprotect                                                 memory is shut by mprotect(2), also where the processor has keys for it
 * RONDO_FAKE_CUDA_ORDER is up, down or a seed (rondo_fibers_order()): of threads, copies and streams.
 */
#ifndef RONDO_T_FAKE_CUDA_H
#define RONDO_T_FAKE_CUDA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "t/cuda_fibers.h"

#define FAKE_EXPORT __attribute__((visibility("default")))
#define FAKE_HIDDEN __attribute__((visibility("hidden")))

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef struct fake_context *CUcontext;
typedef struct fake_module *CUmodule;
typedef struct fake_function *CUfunction;
typedef struct fake_stream *CUstream;
typedef struct fake_event *CUevent;

typedef struct {
    size_t srcXInBytes, srcY;
    int srcMemoryType;
    const void *srcHost;
    CUdeviceptr srcDevice;
    void *srcArray;
    size_t srcPitch, dstXInBytes, dstY;
    int dstMemoryType;
    void *dstHost;
    CUdeviceptr dstDevice;
    void *dstArray;
    size_t dstPitch, WidthInBytes, Height;
} CUDA_MEMCPY2D;

enum {
    CUDA_SUCCESS = 0, CUDA_ERROR_INVALID_VALUE = 1, CUDA_ERROR_OUT_OF_MEMORY = 2, CUDA_ERROR_NOT_INITIALIZED = 3, CUDA_ERROR_DEVICE_UNAVAILABLE = 46,
    CUDA_ERROR_NO_DEVICE = 100, CUDA_ERROR_INVALID_DEVICE = 101, CUDA_ERROR_INVALID_IMAGE = 200, CUDA_ERROR_INVALID_CONTEXT = 201,
    CUDA_ERROR_INVALID_PTX = 218, CUDA_ERROR_UNSUPPORTED_PTX_VERSION = 222, CUDA_ERROR_INVALID_HANDLE = 400, CUDA_ERROR_NOT_FOUND = 500,
    CUDA_ERROR_NOT_READY = 600, CUDA_ERROR_ILLEGAL_ADDRESS = 700, CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES = 701, CUDA_ERROR_CONTEXT_IS_DESTROYED = 709,
    CUDA_ERROR_LAUNCH_FAILED = 719, CUDA_ERROR_UNKNOWN = 999
};
enum { CU_MEMORYTYPE_HOST = 1, CU_MEMORYTYPE_DEVICE = 2, CU_MEMORYTYPE_UNIFIED = 4 };

/* The kernels that modules have; a program that is no libcuda.so.1 brings its own. */
FAKE_HIDDEN const struct rondo_fiber_kernel *rondo_fake_kernels(int *count);

/* ---- the API ---- */

FAKE_EXPORT CUresult cuInit(unsigned flags);
FAKE_EXPORT CUresult cuDriverGetVersion(int *out);
FAKE_EXPORT CUresult cuDeviceGetCount(int *out);
FAKE_EXPORT CUresult cuDeviceGet(CUdevice *out, int ordinal);
FAKE_EXPORT CUresult cuDeviceGetName(char *name, int bytes, CUdevice device);
FAKE_EXPORT CUresult cuDeviceTotalMem_v2(size_t *bytes, CUdevice device);
FAKE_EXPORT CUresult cuDeviceGetAttribute(int *out, int attribute, CUdevice device);
FAKE_EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext *out, CUdevice device);
FAKE_EXPORT CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device);
FAKE_EXPORT CUresult cuCtxSetCurrent(CUcontext context);
FAKE_EXPORT CUresult cuCtxGetCurrent(CUcontext *out);
FAKE_EXPORT CUresult cuModuleLoadData(CUmodule *out, const void *image);
FAKE_EXPORT CUresult cuModuleLoadDataEx(CUmodule *out, const void *image, unsigned count, const int *options, void **values);
FAKE_EXPORT CUresult cuModuleUnload(CUmodule module);
FAKE_EXPORT CUresult cuModuleGetFunction(CUfunction *out, CUmodule module, const char *name);
FAKE_EXPORT CUresult cuFuncSetAttribute(CUfunction function, int attribute, int value);
FAKE_EXPORT CUresult cuFuncGetAttribute(int *out, int attribute, CUfunction function);
FAKE_EXPORT CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *out, CUfunction function, int threads, size_t shared);
FAKE_EXPORT CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
    unsigned block_y, unsigned block_z, unsigned shared, CUstream stream, void **params, void **extra);
FAKE_EXPORT CUresult cuGetErrorString(CUresult err, const char **out);
FAKE_EXPORT CUresult cuGetErrorName(CUresult err, const char **out);
FAKE_EXPORT CUresult cuMemAlloc_v2(CUdeviceptr *out, size_t bytes);
FAKE_EXPORT CUresult cuMemHostAlloc(void **out, size_t bytes, unsigned flags);
FAKE_EXPORT CUresult cuMemFree_v2(CUdeviceptr at);
FAKE_EXPORT CUresult cuMemFreeHost(void *at);
FAKE_EXPORT CUresult cuMemGetInfo_v2(size_t *unused, size_t *total);
FAKE_EXPORT CUresult cuPointerGetAttribute(void *data, int attribute, CUdeviceptr at);
FAKE_EXPORT CUresult cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream);
FAKE_EXPORT CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, CUstream stream);
FAKE_EXPORT CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, CUstream stream);
FAKE_EXPORT CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream);
FAKE_EXPORT CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t bytes);
FAKE_EXPORT CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t bytes);
FAKE_EXPORT CUresult cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D *p, CUstream stream);
FAKE_EXPORT CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, CUstream stream);
FAKE_EXPORT CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count, CUstream stream);
FAKE_EXPORT CUresult cuStreamCreate(CUstream *out, unsigned flags);
FAKE_EXPORT CUresult cuStreamDestroy_v2(CUstream stream);
FAKE_EXPORT CUresult cuStreamSynchronize(CUstream stream);
FAKE_EXPORT CUresult cuStreamQuery(CUstream stream);
FAKE_EXPORT CUresult cuCtxSynchronize(void);
FAKE_EXPORT CUresult cuEventCreate(CUevent *out, unsigned flags);
FAKE_EXPORT CUresult cuEventDestroy_v2(CUevent event);
FAKE_EXPORT CUresult cuEventRecord(CUevent event, CUstream stream);
FAKE_EXPORT CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned flags);
FAKE_EXPORT CUresult cuEventQuery(CUevent event);
FAKE_EXPORT CUresult cuEventSynchronize(CUevent event);
FAKE_EXPORT CUresult cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end);

/* ---- for tests, beside the API ---- */

/* As RONDO_FAKE_CUDA; counters begin again. NULL: what the environment says. No context may exist. */
FAKE_EXPORT int rondo_fake_cuda_set(const char *settings);
/* Of calls, launches, copies, allocations so far, or of one function of the API or launches of one kernel, by its name; of contexts, modules, streams, events, blocks, pinned,
 * bytes that there are now, of what is pending in streams; leaks: of things that contexts took along when they went. -1: none of these. */
FAKE_EXPORT long long rondo_fake_cuda_count(const char *what);
/* The card that is the calling thread's, or -1. And work of another library's in a stream: once that comes to it step(arg) is called, again and
 * again until it returns 1, and may touch the card's memory where it has opened it for a moment; drop(arg) when it is over or given up. */
FAKE_EXPORT int rondo_fake_cuda_card(void);
FAKE_EXPORT int rondo_fake_cuda_put(CUstream stream, int (*step)(void *arg), void *arg, void (*drop)(void *arg));
FAKE_EXPORT void rondo_fake_cuda_gate(int open);
/* For another library that moves what lies there by itself, as an MPI may: where the driver has it. Returns CU_MEMORYTYPE_DEVICE with its card,
 * CU_MEMORYTYPE_HOST where it is pinned, or 0: the driver does not know it. */
FAKE_EXPORT int rondo_fake_cuda_own(const void *at, void **own, int *card);
/* What the last failure of a kernel was. */
FAKE_EXPORT const char *rondo_fake_cuda_text(void);

/* ---- between the files ---- */

#define FAKE_DEVICES 16
#if defined(__SSE2__) || defined(__aarch64__)
#define FAKE_FLUSHES true
#else
#define FAKE_FLUSHES false
#endif

struct fake_fault {
    long long number;        /* 0: none */
    int code;
};
struct fake_settings {
    int init, version, module, devices, cc, sms, mprotect_gate, ftz;
    size_t memory;
    struct fake_fault launch, copy, alloc, call, lost, flip;
};
struct fake_context {
    int device, retained, sticky;
    size_t bytes;            /* of device memory in use */
    struct fake_stream *null;
};
struct fake_card {           /* what a multiprocessor of it has, in threads, blocks and bytes of shared memory */
    int cc, threads, blocks, shared, shared_block;
};
#define FAKE_REGISTERS 65536
#define FAKE_SHARED_RESERVED 1024
#define FAKE_SHARED_USUAL 49152
FAKE_HIDDEN const struct fake_card *fake_card(void);

struct fake_counts {
    long long calls, launches, copies, allocations, streams, events, modules, blocks, pinned, pending, leaks;
};
extern FAKE_HIDDEN struct fake_settings fake_settings;
extern FAKE_HIDDEN struct fake_counts fake_counts;
extern FAKE_HIDDEN struct fake_context fake_contexts[FAKE_DEVICES];

/* Each call of the API stands between these two, under one lock. With `context` the current one is wanted, and that nothing has failed in it. */
FAKE_HIDDEN int fake_enter_as(const char *name, struct fake_context **context);
#define fake_enter(context) fake_enter_as(__func__, context)
FAKE_HIDDEN int fake_leave(int err);
/* Of a function of the API that is called, or a kernel that is launched: for rondo_fake_cuda_count(). */
FAKE_HIDDEN void fake_count_name(const char *name);
/* Lets others have the lock for a moment. */
FAKE_HIDDEN void fake_breathe(void);
FAKE_HIDDEN bool fake_strikes(const struct fake_fault *fault, long long number);
FAKE_HIDDEN bool fake_in_call(int code);
FAKE_HIDDEN void fake_report(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* What is put into a stream. */
struct fake_record {         /* of an event, once */
    int users, done;
    double seconds;
};
struct fake_op {
    struct fake_op *next;
    uint64_t number;
    enum fake_kind { FAKE_LAUNCH, FAKE_COPY, FAKE_FILL, FAKE_RECORD, FAKE_WAIT, FAKE_STEPS } kind;
    int fault;               /* it fails, with this code */
    int flip;                /* LAUNCH: the bit that is changed in what it wrote, and 1; 0: none */
    char *to;                /* COPY; FILL: with `width` bytes each */
    const char *from;
    size_t to_pitch, from_pitch, width, height;
    uint32_t value;
    struct rondo_fiber_launch launch;
    struct fake_record *record;
    int (*step)(void *arg);  /* STEPS */
    void (*drop)(void *arg);
    void *arg;
    char *held;              /* parameters, or bytes of the host's, freed with it */
};
/* NULL: no memory */
FAKE_HIDDEN struct fake_op *fake_op_new(enum fake_kind kind, size_t held);
FAKE_HIDDEN void fake_op_free(struct fake_op *op);
/* NULL for a stream is the context's own. NULL: it is no stream of this context */
FAKE_HIDDEN struct fake_stream *fake_stream_of(struct fake_context *context, CUstream stream);
FAKE_HIDDEN void fake_put(struct fake_stream *stream, struct fake_op *op);
/* Until all of it has happened; what failed is in the context. */
FAKE_HIDDEN void fake_sync(struct fake_stream *stream);
FAKE_HIDDEN void fake_sync_context(struct fake_context *context);
FAKE_HIDDEN bool fake_streams_begin(struct fake_context *context);
FAKE_HIDDEN long long fake_streams_end(struct fake_context *context);   /* how many things it takes along */
FAKE_HIDDEN long long fake_memory_end(struct fake_context *context);
FAKE_HIDDEN long long fake_modules_end(struct fake_context *context);
/* A card's memory may be touched at its addresses, by this thread, between these; NULL: all cards'. It may stay open until the call of the API is
 * over or lets others have the lock: to open and to shut memory takes longer than what most operations do there. */
FAKE_HIDDEN void fake_gate_open(const struct fake_context *context);
FAKE_HIDDEN void fake_gate_close(void);
FAKE_HIDDEN void fake_gate_shut(void);
/* Where the driver itself has what lies there in a card's memory, gate or not; of other memory, the same. */
FAKE_HIDDEN void *fake_own(const void *at);
/* All device memory of a context as it is, to be freed; false: no memory. Then a bit of the last 4 bytes that differ from that is changed. */
FAKE_HIDDEN bool fake_keep(const struct fake_context *c, char **out);
FAKE_HIDDEN void fake_flip(const struct fake_context *c, const char *kept, int bit);

#endif
