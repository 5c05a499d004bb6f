/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Memory through the caller's hooks: every allocation of lib/, lm/ and backends/. Blocks are aligned to 64 bytes (a cache
 * line, an AVX-512 register) and remember their size in a line of their own before the data, because the release hook is
 * told it. A request for nothing gives a valid block, so that NULL always means failure.
 */
#define _GNU_SOURCE   /* madvise */
#include "core/internal.h"

#include <stdlib.h>
#ifdef __linux__
#include <sys/mman.h>
#endif

#include "core/hooks.h"

#define ALIGN ((size_t)64)

/* Blocks of this size and more are worth large pages: keys, values and weights are read from end to end, and with small pages one
 * thread reads a tenth less (numpy does the same for its arrays). */
#define WORTH_LARGE_PAGES ((size_t)4 << 20)

static rondo_hooks current = RONDO_HOOKS_INIT;

const rondo_hooks *rondo__hooks(void)
{
    return &current;
}

int rondo_set_hooks(const rondo_hooks *hooks)
{
    rondo_hooks ours = RONDO_HOOKS_INIT;
    if (hooks) {
        int err = rondo__desc_copy(&ours, sizeof ours, hooks, "rondo_hooks");
        if (err)
            return err;
        if (!ours.allocate != !ours.release)
            return rondo__fail(RONDO_EINVAL, "rondo_set_hooks: allocate and release come together; give both or neither");
    }
    ours.struct_size = sizeof ours;
    current = ours;
    return 0;
}

static void advise(void *block, size_t bytes)
{
#ifdef MADV_HUGEPAGE
    const size_t skip = -(uintptr_t)block & 65535u;   /* no machine's small pages are larger */
    if (bytes >= WORTH_LARGE_PAGES)
        (void)madvise((char *)block + skip, bytes - skip, MADV_HUGEPAGE);
#else
    (void)block;
    (void)bytes;
#endif
}

static void *from_system(size_t bytes)
{
    void *block = aligned_alloc(ALIGN, bytes);
    if (block)
        advise(block, bytes);
    return block;
}

void *rondo__alloc(size_t bytes)
{
    size_t total;
    if (!rondo__add(bytes, 2 * ALIGN - 1, &total))
        return NULL;
    total &= ~(ALIGN - 1);
    char *block = current.allocate ? current.allocate(current.user, total, ALIGN) : from_system(total);
    if (!block)
        return NULL;
    memcpy(block, &total, sizeof total);
    return block + ALIGN;
}

void *rondo__alloc_zero(size_t count, size_t size)
{
    size_t bytes;
    if (!rondo__mul(count, size, &bytes))
        return NULL;
    void *memory = rondo__alloc(bytes);
    if (memory)
        memset(memory, 0, bytes);
    return memory;
}

void *rondo__resize(void *memory, size_t old_bytes, size_t new_bytes)
{
    void *next = rondo__alloc(new_bytes);
    if (!next)
        return NULL;
    if (memory) {
        memcpy(next, memory, old_bytes < new_bytes ? old_bytes : new_bytes);
        rondo__free(memory);
    }
    return next;
}

void rondo__free(void *memory)
{
    if (!memory)
        return;
    char *block = (char *)memory - ALIGN;
    size_t total;
    memcpy(&total, block, sizeof total);
    if (current.release)
        current.release(current.user, block, total);
    else
        free(block);
}

char *rondo__strdup(const char *text)
{
    size_t bytes = strlen(text) + 1;
    char *copy = rondo__alloc(bytes);
    if (copy)
        memcpy(copy, text, bytes);
    return copy;
}
