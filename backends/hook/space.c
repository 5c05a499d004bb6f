/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The hook's mode `space`: device memory has addresses of its own. They are reserved pages that nobody may touch, of the size of the block
 * that they stand for, so that a host that reads or writes device memory faults, as with a graphics card; the hook alone knows where the
 * bytes are. Without the mode this only remembers which memory is of which kind. Called by device.c and program.c for every pointer.
 *
 * New memory is full of NaNs: whoever reads what nobody wrote gets a wrong result.
 */
#define _GNU_SOURCE   /* MAP_ANONYMOUS */
#include "backends/hook/device.h"

#include <sys/mman.h>
#include <unistd.h>

#ifndef MAP_NORESERVE
#define MAP_NORESERVE 0
#endif

#define FILL 0xff

/* How many blocks begin at or before `at`. */
static int64_t before(const struct rondo__hook_device *h, const char *at)
{
    int64_t low = 0, high = h->block_count;
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if ((uintptr_t)h->blocks[middle].at <= (uintptr_t)at)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The block among whose addresses it is; one past the last byte counts for blocks of no bytes only. NULL: none. */
static const struct rondo__hook_block *find(const struct rondo__hook_device *h, const void *pointer)
{
    const int64_t i = before(h, pointer);
    if (!i)
        return NULL;
    const struct rondo__hook_block *b = h->blocks + i - 1;
    const size_t into = (size_t)((uintptr_t)pointer - (uintptr_t)b->at), size = b->reserved ? b->reserved : b->bytes;
    return into < size || (!size && !into) ? b : NULL;
}

static int no_memory(size_t bytes)
{
    return rondo__fail(RONDO_ENOMEM, "no memory for %zu bytes on the test hook's device", bytes);
}

/* Addresses for a block. false: there are none left. */
static bool reserve(struct rondo__hook_block *b)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t bytes;
    if (!rondo__add(b->bytes ? b->bytes : 1, page - 1, &bytes))
        return false;
    bytes -= bytes % page;
    void *at = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
        return false;
    b->at = at;
    b->reserved = bytes;
    return true;
}

int rondo__hook_memory_new(struct rondo__hook_device *h, int kind, size_t bytes, void **out)
{
    void *real = NULL;
    *out = NULL;
    if (h->block_count == h->block_room) {
        const int64_t room = h->block_room ? 2 * h->block_room : 16;
        struct rondo__hook_block *more = rondo__resize(h->blocks, (size_t)h->block_count * sizeof *more, (size_t)room * sizeof *more);
        if (!more)
            return no_memory(bytes);
        h->blocks = more;
        h->block_room = room;
    }
    int err = h->ops->memory_new(h->dev, kind, bytes, &real);
    if (err)
        return err;
    struct rondo__hook_block b = { .at = real, .real = real, .bytes = bytes, .kind = kind };
    if (h->ops->unified)
        memset(real, FILL, bytes);
    if (h->set.space && kind == RONDO_MEMORY_DEVICE && !reserve(&b)) {
        h->ops->memory_free(h->dev, kind, real, bytes);
        return no_memory(bytes);
    }
    const int64_t i = before(h, b.at);
    memmove(h->blocks + i + 1, h->blocks + i, (size_t)(h->block_count - i) * sizeof b);
    h->blocks[i] = b;
    h->block_count++;
    *out = b.at;
    return 0;
}

static void release(struct rondo__hook_device *h, const struct rondo__hook_block *b)
{
    h->ops->memory_free(h->dev, b->kind, b->real, b->bytes);
    if (b->reserved)
        (void)munmap(b->at, b->reserved);
}

void rondo__hook_memory_free(struct rondo__hook_device *h, int kind, void *memory, size_t bytes)
{
    const int64_t i = before(h, memory) - 1;
    if (!memory || i < 0)
        return;
    const struct rondo__hook_block b = h->blocks[i];
    if (b.at != (char *)memory || b.kind != kind || b.bytes != bytes) {
        rondo__log(RONDO_LOG_ERROR, "the test hook's device is to free %zu bytes of memory of kind %d at %p, which it did not give out", bytes, kind,
                   memory);
        return;
    }
    memmove(h->blocks + i, h->blocks + i + 1, (size_t)(h->block_count - 1 - i) * sizeof b);
    h->block_count--;
    release(h, &b);
}

int rondo__hook_memory_kind(const struct rondo__hook_device *h, const void *memory)
{
    const struct rondo__hook_block *b = h->set.space ? find(h, memory) : NULL;
    return b ? b->kind : h->set.space ? RONDO_MEMORY_HOST : h->ops->memory_kind(h->dev, memory);
}

/* Bytes [low, high) from `pointer` on in block b. */
static int inside(const struct rondo__hook_block *b, const char *call, const char *argument, const void *pointer, int64_t low, int64_t high,
                  void **out)
{
    const int64_t at = (int64_t)((uintptr_t)pointer - (uintptr_t)b->at);
    if (at + low < 0)
        return rondo__fail(RONDO_EDEVICE, "%s: %s begins %lld bytes before the block of memory in which it lies", call, argument,
                           -(long long)(at + low));
    if (at + high > (int64_t)b->bytes)
        return rondo__fail(RONDO_EDEVICE, "%s: %s ends %lld bytes beyond the block of %zu bytes in which it lies", call, argument,
                           (long long)(at + high) - (long long)b->bytes, b->bytes);
    *out = b->real + at;
    return 0;
}

int rondo__hook_own(const struct rondo__hook_device *h, const char *call, const char *argument, const void *pointer, int64_t low, int64_t high,
                    void **out)
{
    *out = NULL;
    if (low >= high)
        return 0;
    if (!h->set.space) {
        *out = (void *)(uintptr_t)pointer;
        return 0;
    }
    if (!pointer)
        return rondo__fail(RONDO_EDEVICE, "%s: %s is NULL", call, argument);
    /* rows may begin behind what the first of them would be: it is the bytes that count */
    const struct rondo__hook_block *b = find(h, (const void *)((uintptr_t)pointer + (uintptr_t)low));
    if (!b)
        b = find(h, pointer);
    if (!b || b->kind != RONDO_MEMORY_DEVICE)
        return rondo__fail(RONDO_EDEVICE, "%s: %s is %s; it must be the device's", call, argument,
                           b ? "pinned memory of the host" : "memory of the host");
    return inside(b, call, argument, pointer, low, high, out);
}

int rondo__hook_any(const struct rondo__hook_device *h, const char *call, const char *argument, const void *pointer, int64_t bytes, void **out,
                    int32_t *host)
{
    const struct rondo__hook_block *b = find(h, pointer);
    *out = (void *)(uintptr_t)pointer;
    if (bytes <= 0)
        return 0;
    if (!pointer)
        return rondo__fail(RONDO_EDEVICE, "%s: %s is NULL", call, argument);
    if (b)
        return inside(b, call, argument, pointer, 0, bytes, out);
    *host = 1;
    return 0;
}

void rondo__hook_space_end(struct rondo__hook_device *h)
{
    if (h->block_count)
        rondo__log(RONDO_LOG_WARNING, "the test hook's device goes with %lld blocks of its memory that nobody has freed",
                   (long long)h->block_count);
    for (int64_t i = 0; i < h->block_count; i++)
        release(h, h->blocks + i);
    rondo__free(h->blocks);
}
