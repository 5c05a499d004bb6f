/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Memory of the three kinds, scratch that grows, and copies. Copies of rows within the card are a kernel's, others the driver's.
 */
#include "backends/cuda/cuda.h"

#include <stdio.h>

int rondo__cuda_grow(struct rondo_device *dev, struct rondo__cuda_room *room, size_t bytes, const char *what)
{
    if (room->bytes >= bytes)
        return 0;
    rondo__cuda_give(dev, room);       /* waits for whoever uses it */
    int err = rondo__cuda_check(dev, dev->driver->cuMemAlloc_v2(&room->memory, bytes), what);
    if (err) {
        room->memory = 0;
        return err;
    }
    room->bytes = bytes;
    return 0;
}

void rondo__cuda_give(struct rondo_device *dev, struct rondo__cuda_room *room)
{
    if (room->memory)
        (void)dev->driver->cuMemFree_v2(room->memory);
    room->memory = 0;
    room->bytes = 0;
}

int rondo__cuda_memory_new(struct rondo_device *dev, int kind, size_t bytes, void **out)
{
    char what[96];
    void *memory = NULL;
    cu_pointer at = 0;
    *out = NULL;
    bytes = bytes ? bytes : 1;
    if (kind == RONDO_MEMORY_HOST) {
        memory = rondo__cuda_alloc(1, bytes);
        *out = memory;
        return memory ? 0 : rondo__cuda_fail(RONDO_ENOMEM, "no memory for %zu bytes of the host's", bytes);
    }
    snprintf(what, sizeof what, "%zu bytes of %s memory", bytes, kind == RONDO_MEMORY_PINNED ? "pinned" : "device");
    int err = rondo__cuda_enter(dev);
    if (!err)
        err = rondo__cuda_check(dev, kind == RONDO_MEMORY_PINNED ? dev->driver->cuMemHostAlloc(&memory, bytes, CU_HOST_PORTABLE)
                                                                : dev->driver->cuMemAlloc_v2(&at, bytes), what);
    if (!err)
        *out = kind == RONDO_MEMORY_PINNED ? memory : (void *)(uintptr_t)at;
    return err;
}

void rondo__cuda_memory_free(struct rondo_device *dev, int kind, void *memory, size_t bytes)
{
    (void)bytes;
    if (!memory)
        return;
    if (kind == RONDO_MEMORY_HOST) {
        (void)rondo__cuda_sync(dev);   /* a copy may still read it */
        rondo__cuda_free(memory);
        return;
    }
    (void)dev->driver->cuCtxSetCurrent(dev->context);
    if (kind == RONDO_MEMORY_PINNED)
        (void)dev->driver->cuMemFreeHost(memory);
    else
        (void)dev->driver->cuMemFree_v2((cu_pointer)(uintptr_t)memory);
}

int rondo__cuda_memory_kind(const struct rondo_device *dev, const void *memory)
{
    unsigned kind = 0;
    (void)dev->driver->cuCtxSetCurrent(dev->context);
    if (!memory || dev->driver->cuPointerGetAttribute(&kind, CU_POINTER_KIND, (cu_pointer)(uintptr_t)memory))
        return RONDO_MEMORY_HOST;      /* what the driver does not know */
    return kind == CU_KIND_DEVICE ? RONDO_MEMORY_DEVICE : kind == CU_KIND_HOST ? RONDO_MEMORY_PINNED : RONDO_MEMORY_HOST;
}

int rondo__cuda_copy(struct rondo_device *dev, struct rondo_stream *stream, void *to, const void *from, size_t bytes)
{
    if (!bytes)
        return 0;
    int err = rondo__cuda_enter(dev);
    return err ? err : rondo__cuda_check(dev, dev->driver->cuMemcpyAsync((cu_pointer)(uintptr_t)to, (cu_pointer)(uintptr_t)from, bytes,
                                                                         rondo__cuda_stream(dev, stream)), "a copy");
}

int rondo__cuda_copy_rows(struct rondo_device *dev, struct rondo_stream *stream, void *to, size_t to_stride, const void *from, size_t from_stride,
                          size_t row_bytes, int64_t rows)
{
    enum { PITCH_MAX = INT32_MAX };
    cu_stream s = rondo__cuda_stream(dev, stream);
    if (row_bytes == 0 || rows <= 0)
        return 0;
    if (to_stride == row_bytes && from_stride == row_bytes)
        return rondo__cuda_copy(dev, stream, to, from, row_bytes * (size_t)rows);
    int err = rondo__cuda_enter(dev);
    if (err)
        return err;
    if (rondo__cuda_memory_kind(dev, to) == RONDO_MEMORY_DEVICE && rondo__cuda_memory_kind(dev, from) == RONDO_MEMORY_DEVICE) {
        const struct cuda_rows p = { from, to, rows, (int64_t)row_bytes, (int64_t)from_stride, (int64_t)to_stride };
        const int64_t words = (int64_t)(row_bytes / 16 + 1) * rows;
        return rondo__cuda_launch(dev, KERNEL_rondo_cuda_copy_rows, words / CUDA_THREADS + 1 < 65536 ? words / CUDA_THREADS + 1 : 65536, 0, s, &p);
    }
    if (from_stride >= row_bytes && to_stride >= row_bytes && from_stride <= PITCH_MAX && to_stride <= PITCH_MAX) {
        const struct cu_copy_2d c = { .from_kind = CU_KIND_ANY, .from_device = (cu_pointer)(uintptr_t)from, .from_pitch = from_stride,
                                      .to_kind = CU_KIND_ANY, .to_device = (cu_pointer)(uintptr_t)to, .to_pitch = to_stride, .width = row_bytes,
                                      .height = (size_t)rows };
        return rondo__cuda_check(dev, dev->driver->cuMemcpy2DAsync_v2(&c, s), "a copy of rows");
    }
    for (int64_t i = 0; i < rows && !err; i++)
        err = rondo__cuda_check(dev, dev->driver->cuMemcpyAsync((cu_pointer)(uintptr_t)to + (cu_pointer)i * to_stride,
                                                                (cu_pointer)(uintptr_t)from + (cu_pointer)i * from_stride, row_bytes, s),
                                "a copy of rows");
    return err;
}

int rondo__cuda_put(struct rondo_device *dev, cu_pointer to, const void *from, size_t bytes)
{
    int err = !bytes ? 0 : rondo__cuda_check(dev, dev->driver->cuMemcpyAsync(to, (cu_pointer)(uintptr_t)from, bytes, dev->upload), "an upload");
    return err || !bytes ? err : rondo__cuda_check(dev, dev->driver->cuStreamSynchronize(dev->upload), "an upload");
}

int rondo__cuda_get(const struct rondo_device *dev, void *to, cu_pointer from, size_t bytes)
{
    int err = !bytes ? 0 : rondo__cuda_check(dev, dev->driver->cuMemcpyAsync((cu_pointer)(uintptr_t)to, from, bytes, dev->upload), "a download");
    return err || !bytes ? err : rondo__cuda_check(dev, dev->driver->cuStreamSynchronize(dev->upload), "a download");
}

int32_t rondo__cuda_grain(const void *pointer, int64_t stride, int64_t other, int64_t row)
{
    const uint64_t all = (uint64_t)(uintptr_t)pointer | (uint64_t)stride | (uint64_t)other | (uint64_t)row;
    return all % 16 == 0 ? 16 : all % 4 == 0 ? 4 : 1;
}
