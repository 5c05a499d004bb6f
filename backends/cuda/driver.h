/* SPDX-License-Identifier: BSD-2-Clause
 *
 * CUDA's driver, as far as this module uses it: opened at run time, so that neither its headers nor its library are needed to build or to load the
 * module. Types and numbers are those of the driver's documented interface, which does not change for a name once it is exported.
 */
#ifndef RONDO_CUDA_DRIVER_H
#define RONDO_CUDA_DRIVER_H

#include <stddef.h>
#include <stdint.h>

typedef int cu_result, cu_device;
typedef struct cu_context_st *cu_context;
typedef struct cu_module_st *cu_module;
typedef struct cu_function_st *cu_function;
typedef struct cu_stream_st *cu_stream;
typedef struct cu_event_st *cu_event;
typedef unsigned long long cu_pointer;

enum {
    CU_OK = 0, CU_INVALID_VALUE = 1, CU_OUT_OF_MEMORY = 2, CU_NOT_INITIALIZED = 3, CU_NO_DEVICE = 100, CU_INVALID_DEVICE = 101, CU_NO_BINARY = 209,
    CU_INVALID_PTX = 218, CU_UNSUPPORTED_PTX = 222, CU_NOT_READY = 600
};
/* attributes of a device, of a function, of a pointer */
enum {
    CU_SHARED_MULTIPROCESSOR = 81, CU_SHARED_BLOCK = 97, CU_MULTIPROCESSORS = 16, CU_CC_MAJOR = 75, CU_CC_MINOR = 76, CU_UNIFIED_ADDRESSES = 41,
    CU_MAX_PITCH = 11
};
enum { CU_FUNCTION_SHARED = 8, CU_FUNCTION_CARVEOUT = 9 };
enum { CU_POINTER_KIND = 2, CU_KIND_HOST = 1, CU_KIND_DEVICE = 2, CU_KIND_ANY = 4 };
enum { CU_STREAM_OWN = 1, CU_EVENT_PLAIN = 2, CU_HOST_PORTABLE = 1 };   /* non-blocking; without times */

struct cu_copy_2d {
    size_t from_x, from_y;
    int from_kind;
    const void *from_host;
    cu_pointer from_device;
    void *from_array;
    size_t from_pitch;
    size_t to_x, to_y;
    int to_kind;
    void *to_host;
    cu_pointer to_device;
    void *to_array;
    size_t to_pitch;
    size_t width, height;
};

/* The functions, by the names that the library exports. */
#define RONDO_CUDA_DRIVER(X) \
    X(cuInit, (unsigned flags)) \
    X(cuDriverGetVersion, (int *version)) \
    X(cuDeviceGetCount, (int *count)) \
    X(cuDeviceGet, (cu_device *device, int index)) \
    X(cuDeviceGetName, (char *name, int bytes, cu_device device)) \
    X(cuDeviceGetAttribute, (int *value, int attribute, cu_device device)) \
    X(cuDeviceTotalMem_v2, (size_t *bytes, cu_device device)) \
    X(cuDevicePrimaryCtxRetain, (cu_context *context, cu_device device)) \
    X(cuDevicePrimaryCtxRelease_v2, (cu_device device)) \
    X(cuCtxSetCurrent, (cu_context context)) \
    X(cuModuleLoadDataEx, (cu_module *module, const void *image, unsigned options, int *names, void **values)) \
    X(cuModuleUnload, (cu_module module)) \
    X(cuModuleGetFunction, (cu_function *function, cu_module module, const char *name)) \
    X(cuFuncSetAttribute, (cu_function function, int attribute, int value)) \
    X(cuOccupancyMaxActiveBlocksPerMultiprocessor, (int *blocks, cu_function function, int threads, size_t shared)) \
    X(cuLaunchKernel, (cu_function function, unsigned x, unsigned y, unsigned z, unsigned threads, unsigned threads_y, unsigned threads_z, \
                       unsigned shared, cu_stream stream, void **parameters, void **extra)) \
    X(cuStreamCreate, (cu_stream *stream, unsigned flags)) \
    X(cuStreamDestroy_v2, (cu_stream stream)) \
    X(cuStreamWaitEvent, (cu_stream stream, cu_event event, unsigned flags)) \
    X(cuStreamSynchronize, (cu_stream stream)) \
    X(cuEventCreate, (cu_event *event, unsigned flags)) \
    X(cuEventDestroy_v2, (cu_event event)) \
    X(cuEventRecord, (cu_event event, cu_stream stream)) \
    X(cuEventQuery, (cu_event event)) \
    X(cuEventSynchronize, (cu_event event)) \
    X(cuMemAlloc_v2, (cu_pointer *memory, size_t bytes)) \
    X(cuMemFree_v2, (cu_pointer memory)) \
    X(cuMemHostAlloc, (void **memory, size_t bytes, unsigned flags)) \
    X(cuMemFreeHost, (void *memory)) \
    X(cuMemcpyAsync, (cu_pointer to, cu_pointer from, size_t bytes, cu_stream stream)) \
    X(cuMemcpy2DAsync_v2, (const struct cu_copy_2d *copy, cu_stream stream)) \
    X(cuMemGetInfo_v2, (size_t *unused, size_t *all)) \
    X(cuPointerGetAttribute, (void *value, int attribute, cu_pointer memory)) \
    X(cuGetErrorString, (cu_result code, const char **text))

struct rondo_cuda_driver {
#define X(name, arguments) cu_result (*name) arguments;
    RONDO_CUDA_DRIVER(X)
#undef X
    int version;                   /* of CUDA that the driver serves: 1000 * major + 10 * minor */
    int devices;
};

/* Opens the driver once for the process. 0, or RONDO_ENOTSUP with a sentence: there is none, it is too old, there is no card. */
int rondo__cuda_open(const struct rondo_cuda_driver **out);

#endif
