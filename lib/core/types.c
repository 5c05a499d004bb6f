/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Small facts: versions, storage types, tensor descriptors, the clock.
 */
#include "core/internal.h"

#include <time.h>

#ifdef HAVE_CONFIG_H
#include "rondo_config.h"
#endif
#ifndef RONDO_BUILD_OPTIONS
#define RONDO_BUILD_OPTIONS ""
#endif

const char *rondo_version(void)
{
    return RONDO_VERSION_STRING;
}

int rondo_numerics_version(void)
{
    return RONDO_NUMERICS;
}

const char *rondo_build_options(void)
{
    return RONDO_BUILD_OPTIONS;
}

_Static_assert(RONDO_OP_COUNT <= RONDO_OP_ROOM, "rondo_comm_stats never changes its size for an operation");

size_t rondo_type_size(int type)
{
    switch (type) {
    case RONDO_F32:
        return 4;
    case RONDO_BF16:
    case RONDO_F16:
        return 2;
    case RONDO_Q8:
        return 1;
    default:
        return 0;
    }
}

const char *rondo_type_name(int type)
{
    switch (type) {
    case RONDO_F32:
        return "f32";
    case RONDO_BF16:
        return "bf16";
    case RONDO_F16:
        return "f16";
    case RONDO_Q8:
        return "q8";
    default:
        return NULL;
    }
}

size_t rondo_row_bytes(int type, int64_t dim)
{
    size_t bytes;
    return dim >= 0 && (uint64_t)dim <= SIZE_MAX - sizeof(float) && rondo__mul((size_t)rondo__row_numbers(type, dim), rondo_type_size(type), &bytes)
               ? bytes : 0;
}

rondo_tensor rondo_tensor_dense(void *data, int type, int dims, const int64_t *shape)
{
    rondo_tensor t = RONDO_TENSOR_INIT;
    t.data = data;
    t.type = type;
    t.dims = dims > 4 ? 4 : dims;
    int64_t stride = 1;
    for (int i = t.dims - 1; i >= 0; i--) {
        t.shape[i] = shape[i];
        t.stride[i] = stride;
        const int64_t numbers = i && i == t.dims - 1 && shape[i] > 0 && shape[i] < INT64_MAX - 4 ? rondo__row_numbers(type, shape[i]) : shape[i];
        /* A product that does not fit is caught where the tensor is used: a stride of 0 is refused there. */
        if (__builtin_mul_overflow(stride, numbers > 0 ? numbers : 1, &stride))
            stride = 0;
    }
    return t;
}

int rondo__tensor_check(const char *function, const char *name, const rondo_tensor *t)
{
    if (t->memory < RONDO_MEMORY_HOST || t->memory > RONDO_MEMORY_DEVICE)
        return rondo__fail(RONDO_EINVAL, "%s: %s lies in memory of kind %d; host, pinned and device are 0, 1 and 2", function, name,
                           (int)t->memory);
    if (t->scale)
        return rondo__fail(RONDO_EINVAL, "%s: %s has scales, which no type has in an array of its own; scale must be NULL", function, name);
    int64_t spare = t->reserved;
    for (size_t i = 0; i < sizeof t->spare / sizeof *t->spare; i++)
        spare |= t->spare[i];
    if (spare)
        return rondo__fail(RONDO_ENOTSUP, "%s: %s uses a field that rondo %s does not know; make it by rondo_tensor_dense() or "
                                          "RONDO_TENSOR_INIT, or use a newer library", function, name, RONDO_VERSION_STRING);
    return 0;
}

double rondo__now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
