/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The fake driver's memory (fake_cuda.h). Device memory lies behind a gate: pages that may be touched only while a kernel runs, by a protection key
 * of the processor, which is a thread's own, or else by mprotect(2) of the blocks that the kernel does touch, found by its faults: to open all
 * of them takes a hundred times as long. Copies go by a second address of the same pages, which only this file knows. A block ends where a
 * page ends that nobody may ever touch, as far as the alignment of 256 bytes allows; what that leaves around it is looked at when it is freed.
 * New memory is full of NaNs.
 *
 * Copies are told from each other by their addresses, and behave as the real driver's: what comes from pageable memory is read in the call, what
 * goes there has arrived when the call returns, pinned memory is read and written when the stream comes to it.
 */
#define _GNU_SOURCE   /* MAP_ANONYMOUS, memfd_create, pkey_alloc */
#include "t/fake_cuda.h"
#include "t/fake_check.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define ALIGN ((size_t)256)
#define FILL 0xff
#define ATTRIBUTE_CONTEXT 1
#define ATTRIBUTE_MEMORY_TYPE 2
#define ATTRIBUTE_DEVICE_POINTER 3
#define ATTRIBUTE_HOST_POINTER 4
#define ATTRIBUTE_DEVICE_ORDINAL 9
#define HOST_ALLOC_FLAGS 7u
#define MOST_PITCH ((size_t)INT32_MAX)

struct block {
    char *at, *pages;
    size_t bytes, page_bytes;   /* pages: with the two around it that nobody may touch */
    char *own;                  /* where the driver has the pages between these; of pinned memory, the same */
    struct fake_context *context;
    int pinned, open;
};
static struct block *blocks;    /* by address */
static size_t block_count, block_room;

/* ---- the gate ---- */

static int key = -1;            /* of the processor */
static int open_count;
static bool ajar;               /* it is open, and shut before anybody but the driver is at work: fake_gate_shut() */
static const struct fake_context *open_for;

static bool with_key(void)
{
    static int tried;
    if (!tried && !fake_settings.mprotect_gate) {
        tried = 1;
        key = pkey_alloc(0, PKEY_DISABLE_ACCESS);
    }
    return key >= 0 && !fake_settings.mprotect_gate;
}

static size_t page_size(void) { return (size_t)sysconf(_SC_PAGESIZE); }

static int protect(struct block *b, int open)
{
    b->open = open;
    return mprotect(b->pages + page_size(), b->page_bytes - 2 * page_size(), open ? PROT_READ | PROT_WRITE : PROT_NONE);
}

static void set_gate(bool open)
{
    if (with_key())
        pkey_set(key, open ? 0 : PKEY_DISABLE_ACCESS);
    else
        for (size_t i = 0; i < block_count && !open; i++)
            if (blocks[i].open)
                protect(blocks + i, 0);
}

void fake_gate_shut(void)
{
    if (ajar)
        set_gate(false);
    ajar = false;
}

void fake_gate_open(const struct fake_context *context)
{
    if (open_count++)
        return;
    if (ajar && open_for == context) {
        ajar = false;
        return;
    }
    fake_gate_shut();
    open_for = context;
    set_gate(true);
}

void fake_gate_close(void)
{
    ajar = --open_count == 0;
}

/* ---- blocks ---- */

static size_t before(const char *at);

/* A kernel came to memory that is shut. */
static int open_at(const void *at)
{
    const size_t i = before(at), last = i < block_count ? i : i - 1;
    for (size_t k = i ? i - 1 : 0; open_count && !with_key() && block_count && k <= last; k++) {
        struct block *b = blocks + k;
        if ((uintptr_t)at - (uintptr_t)b->pages - page_size() < b->page_bytes - 2 * page_size())
            return !b->pinned && !b->open && (!open_for || b->context == open_for) && !protect(b, 1);
    }
    return 0;
}

/* How many begin at or before `at`. */
static size_t before(const char *at)
{
    size_t low = 0, high = block_count;
    while (low < high) {
        const size_t middle = low + (high - low) / 2;
        if ((uintptr_t)blocks[middle].at <= (uintptr_t)at)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static struct block *find(const void *at)
{
    const size_t i = before(at);
    struct block *b = i ? blocks + i - 1 : NULL;
    return b && (uintptr_t)at - (uintptr_t)b->at < b->bytes ? b : NULL;
}

#ifdef FAKE_CHECKED
int fake_block_at(const void *at, size_t *into, size_t *bytes, int *pinned)
{
    const size_t i = before(at);
    const struct block *b = i ? blocks + i - 1 : NULL;
    if (!b || (uintptr_t)at >= (uintptr_t)b->pages + b->page_bytes)
        return 0;
    *into = (size_t)((uintptr_t)at - (uintptr_t)b->at);
    *bytes = b->bytes;
    *pinned = b->pinned;
    return 1;
}
#endif

/* The pages of a block between the two that nobody may touch, at both of their addresses. */
static bool map_pages(struct block *b)
{
    char *const at = b->pages + page_size();
    const size_t bytes = b->page_bytes - 2 * page_size();
    b->own = at;
    if (b->pinned)
        return !mprotect(at, bytes, PROT_READ | PROT_WRITE);
    const int file = memfd_create("card", MFD_CLOEXEC);
    bool good = file >= 0 && !ftruncate(file, (off_t)bytes) && mmap(at, bytes, PROT_NONE, MAP_SHARED | MAP_FIXED, file, 0) != MAP_FAILED;
    if (good) {
        b->own = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        good = b->own != MAP_FAILED && (!with_key() || !pkey_mprotect(at, bytes, PROT_READ | PROT_WRITE, key));
        if (!good && b->own != MAP_FAILED)
            munmap(b->own, bytes);
    }
    if (file >= 0)
        close(file);
    return good;
}

static char *own_of(const struct block *b, const void *at) { return b->own + ((uintptr_t)at - (uintptr_t)b->pages - page_size()); }

void *fake_own(const void *at)
{
    const struct block *b = find(at);
    return b ? own_of(b, at) : (void *)(uintptr_t)at;
}

int rondo_fake_cuda_own(const void *at, void **own, int *card)
{
    int kind = 0;
    const int err = fake_enter(NULL);
    const struct block *b = err ? NULL : find(at);
    *own = (void *)(uintptr_t)at;
    *card = -1;
    if (b) {
        kind = b->pinned ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
        *own = own_of(b, at);
        *card = b->context->device;
    }
    (void)fake_leave(err);
    return kind;
}

static int new_block(struct fake_context *c, size_t bytes, int pinned, void **out)
{
    const size_t page = page_size(), used = (bytes + ALIGN - 1) / ALIGN * ALIGN;
    *out = NULL;
    if (!bytes)
        return CUDA_ERROR_INVALID_VALUE;
    if (fake_strikes(&fake_settings.alloc, ++fake_counts.allocations))
        return fake_settings.alloc.code ? fake_settings.alloc.code : CUDA_ERROR_OUT_OF_MEMORY;
    if (bytes > SIZE_MAX / 2 || (!pinned && used > fake_settings.memory - c->bytes))
        return CUDA_ERROR_OUT_OF_MEMORY;
    if (block_count == block_room) {
        const size_t room = block_room ? 2 * block_room : 64;
        struct block *more = realloc(blocks, room * sizeof *more);
        if (!more)
            return CUDA_ERROR_OUT_OF_MEMORY;
        blocks = more;
        block_room = room;
    }
    struct block b = { .bytes = bytes, .context = c, .pinned = pinned };
    b.page_bytes = (used + page - 1) / page * page + 2 * page;
    b.pages = mmap(NULL, b.page_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (b.pages == MAP_FAILED)
        return CUDA_ERROR_OUT_OF_MEMORY;
    b.at = b.pages + b.page_bytes - page - used;
    if (!map_pages(&b)) {
        munmap(b.pages, b.page_bytes);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    memset(b.own, FILL, b.page_bytes - 2 * page);
    rondo_fibers_fault = open_at;
    const size_t i = before(b.at);
    memmove(blocks + i + 1, blocks + i, (block_count - i) * sizeof b);
    blocks[i] = b;
    block_count++;
    if (pinned) {
        fake_counts.pinned++;
    } else {
        fake_counts.blocks++;
        c->bytes += used;
    }
    *out = b.at;
    return 0;
}

static void look_around(const struct block *b)
{
    const char *const low = own_of(b, b->at), *const end = b->own + b->page_bytes - 2 * page_size();
    for (const char *at = b->own; at < end; at++) {
        if (at == low)
            at += b->bytes;
        if (at < end && (unsigned char)*at != FILL) {
            fake_report("byte %lld of a block of %zu bytes was written", (long long)(at - low), b->bytes);
            return;
        }
    }
}

static void free_block(struct block *b)
{
    look_around(b);
    if (b->pinned) {
        fake_counts.pinned--;
    } else {
        fake_counts.blocks--;
        b->context->bytes -= (b->bytes + ALIGN - 1) / ALIGN * ALIGN;
    }
    if (!b->pinned)
        munmap(b->own, b->page_bytes - 2 * page_size());
    munmap(b->pages, b->page_bytes);
    memmove(b, b + 1, (size_t)(blocks + block_count - (b + 1)) * sizeof *b);
    block_count--;
}

long long fake_memory_end(struct fake_context *c)
{
    long long taken = 0;
    for (size_t i = block_count; i-- > 0;)
        if (blocks[i].context == c) {
            free_block(blocks + i);
            taken++;
        }
    return taken;
}

/* ---- what a launch changed ---- */

bool fake_keep(const struct fake_context *c, char **out)
{
    char *to = *out = malloc(c->bytes + 1);
    for (size_t i = 0; i < block_count && to; i++)
        if (blocks[i].context == c && !blocks[i].pinned) {
            memcpy(to, fake_own(blocks[i].at), blocks[i].bytes);
            to += blocks[i].bytes;
        }
    return to != NULL;
}

void fake_flip(const struct fake_context *c, const char *kept, int bit)
{
    unsigned char *last = NULL;
    for (size_t i = 0; i < block_count; i++) {
        if (blocks[i].context != c || blocks[i].pinned)
            continue;
        char *now = fake_own(blocks[i].at);
        for (size_t at = 0; at + 4 <= blocks[i].bytes; at += 4)
            if (memcmp(kept + at, now + at, 4))
                last = (unsigned char *)now + at;
        kept += blocks[i].bytes;
    }
    if (last)
        last[bit / 8 % 4] ^= (unsigned char)(1u << bit % 8);
}

/* ---- the API: memory ---- */

CUresult cuMemAlloc_v2(CUdeviceptr *out, size_t bytes)
{
    struct fake_context *c;
    void *at = NULL;
    int err = fake_enter(&c);
    if (!err && !out)
        err = CUDA_ERROR_INVALID_VALUE;
    if (!err)
        err = new_block(c, bytes, 0, &at);
    if (!err)
        *out = (CUdeviceptr)(uintptr_t)at;
    return fake_leave(err);
}

CUresult cuMemHostAlloc(void **out, size_t bytes, unsigned flags)
{
    struct fake_context *c;
    int err = fake_enter(&c);
    if (!err && (!out || flags & ~HOST_ALLOC_FLAGS))
        err = CUDA_ERROR_INVALID_VALUE;
    if (!err)
        err = new_block(c, bytes, 1, out);
    return fake_leave(err);
}

/* As the real one, it waits for all that is under way in the context. */
static int release(const char *name, void *at, int pinned)
{
    struct fake_context *c;
    int err = fake_enter_as(name, &c);
    struct block *b = err || !at ? NULL : find(at);
    if (!err && at && (!b || b->at != (char *)at || b->pinned != pinned))
        err = CUDA_ERROR_INVALID_VALUE;
    if (!err && b) {
        fake_sync_context(b->context);
        err = c->sticky;
        if (!err)
            free_block(find(at));
    }
    return fake_leave(err);
}

CUresult cuMemFree_v2(CUdeviceptr at)
{
    return release(__func__, (void *)(uintptr_t)at, 0);
}

CUresult cuMemFreeHost(void *at)
{
    return release(__func__, at, 1);
}

CUresult cuMemGetInfo_v2(size_t *unused, size_t *total)
{
    struct fake_context *c;
    int err = fake_enter(&c);
    if (!err && unused)
        *unused = fake_settings.memory - c->bytes;
    if (!err && total)
        *total = fake_settings.memory;
    return fake_leave(err);
}

CUresult cuPointerGetAttribute(void *data, int attribute, CUdeviceptr at)
{
    struct fake_context *c;
    int err = fake_enter(&c);
    const struct block *b = err ? NULL : find((const void *)(uintptr_t)at);
    if (!err && (!b || !data))
        err = CUDA_ERROR_INVALID_VALUE;   /* pageable memory has no attributes */
    if (err)
        return fake_leave(err);
    switch (attribute) {
    case ATTRIBUTE_CONTEXT:
        *(CUcontext *)data = b->context;
        break;
    case ATTRIBUTE_MEMORY_TYPE:
        *(unsigned *)data = b->pinned ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_DEVICE;
        break;
    case ATTRIBUTE_DEVICE_POINTER:
        *(CUdeviceptr *)data = at;
        break;
    case ATTRIBUTE_HOST_POINTER:
        if (b->pinned)
            *(void **)data = (void *)(uintptr_t)at;
        else
            err = CUDA_ERROR_INVALID_VALUE;
        break;
    case ATTRIBUTE_DEVICE_ORDINAL:
        *(int *)data = b->context->device;
        break;
    default:
        fake_report("cuPointerGetAttribute() of attribute %d, which it does not have", attribute);
        err = CUDA_ERROR_INVALID_VALUE;
    }
    return fake_leave(err);
}

/* ---- the API: copies ---- */

/* The kind of the memory of `height` rows; 0: they do not lie in one block. */
enum kind { OUTSIDE, PAGEABLE, PINNED, CARD };
static enum kind kind_of(const void *at, size_t pitch, size_t width, size_t height)
{
    const struct block *b = find(at);
    if (!b)
        return PAGEABLE;
    const size_t into = (uintptr_t)at - (uintptr_t)b->at;
    if (width > b->bytes - into || (height > 1 && (b->bytes - into - width) / (height - 1) < pitch))
        return OUTSIDE;
    return b->pinned ? PINNED : CARD;
}

struct rows {
    char *to;
    const char *from;
    size_t to_pitch, from_pitch, width, height;
};

/* wait: a copy that is over for the host when the call returns. to_device, from_device: 1 it must be, 0 it must not, -1 either. */
static int copy(struct fake_context *c, const struct rows *r, CUstream stream, int to_device, int from_device, bool wait)
{
    struct fake_stream *s = fake_stream_of(c, stream);
    if (!s)
        return CUDA_ERROR_INVALID_HANDLE;
    if (fake_strikes(&fake_settings.copy, ++fake_counts.copies) && fake_in_call(fake_settings.copy.code))
        return fake_settings.copy.code;
    const int fault = fake_strikes(&fake_settings.copy, fake_counts.copies) ? fake_settings.copy.code ? fake_settings.copy.code : CUDA_ERROR_ILLEGAL_ADDRESS : 0;
    if (!r->width || !r->height)
        return 0;
    const enum kind to = kind_of(r->to, r->to_pitch, r->width, r->height), from = kind_of(r->from, r->from_pitch, r->width, r->height);
    if (!r->to || !r->from || to == OUTSIDE || from == OUTSIDE || (to_device >= 0 && (to == CARD) != to_device) ||
        (from_device >= 0 && (from == CARD) != from_device))
        return CUDA_ERROR_INVALID_VALUE;
    const bool staged = from == PAGEABLE && to == CARD;
    if (staged && wait)
        fake_sync(s);
    struct fake_op *op = fake_op_new(FAKE_COPY, staged ? r->width * r->height : 0);
    if (!op)
        return CUDA_ERROR_OUT_OF_MEMORY;
    op->fault = fault;
    op->to = r->to;
    op->to_pitch = r->to_pitch;
    op->from = r->from;
    op->from_pitch = r->from_pitch;
    op->width = r->width;
    op->height = r->height;
    if (staged) {
        for (size_t i = 0; i < r->height; i++)
            memcpy(op->held + i * r->width, r->from + i * r->from_pitch, r->width);
        op->from = op->held;
        op->from_pitch = r->width;
    }
    fake_put(s, op);
    if (to == PAGEABLE || (wait && !staged))
        fake_sync(s);
    return c->sticky;
}

static int copy_bytes(const char *name, void *to, const void *from, size_t bytes, CUstream stream, int to_device, int from_device, bool wait)
{
    struct fake_context *c;
    const struct rows r = { .to = to, .from = from, .to_pitch = bytes, .from_pitch = bytes, .width = bytes, .height = 1 };
    int err = fake_enter_as(name, &c);
    if (!err)
        err = copy(c, &r, stream, to_device, from_device, wait);
    return fake_leave(err);
}

CUresult cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream)
{
    return copy_bytes(__func__, (void *)(uintptr_t)to, (const void *)(uintptr_t)from, bytes, stream, -1, -1, false);
}

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, CUstream stream)
{
    return copy_bytes(__func__, (void *)(uintptr_t)to, from, bytes, stream, 1, 0, false);
}

CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, CUstream stream)
{
    return copy_bytes(__func__, to, (const void *)(uintptr_t)from, bytes, stream, 0, 1, false);
}

CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream)
{
    return copy_bytes(__func__, (void *)(uintptr_t)to, (const void *)(uintptr_t)from, bytes, stream, 1, 1, false);
}

/* Pageable memory of the host has been read when it returns, but need not have reached the device before what other streams do next. */
CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t bytes)
{
    return copy_bytes(__func__, (void *)(uintptr_t)to, from, bytes, NULL, 1, 0, true);
}

CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t bytes)
{
    return copy_bytes(__func__, to, (const void *)(uintptr_t)from, bytes, NULL, 0, 1, true);
}

CUresult cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D *p, CUstream stream)
{
    struct fake_context *c;
    int err = fake_enter(&c);
    if (!err && (!p || p->srcMemoryType < CU_MEMORYTYPE_HOST || p->srcMemoryType == 3 || p->srcMemoryType > CU_MEMORYTYPE_UNIFIED ||
                 p->dstMemoryType < CU_MEMORYTYPE_HOST || p->dstMemoryType == 3 || p->dstMemoryType > CU_MEMORYTYPE_UNIFIED ||
                 p->srcPitch > MOST_PITCH || p->dstPitch > MOST_PITCH || p->srcXInBytes + p->WidthInBytes > p->srcPitch ||
                 p->dstXInBytes + p->WidthInBytes > p->dstPitch))
        err = CUDA_ERROR_INVALID_VALUE;
    if (!err) {
        const int to_host = p->dstMemoryType == CU_MEMORYTYPE_HOST, from_host = p->srcMemoryType == CU_MEMORYTYPE_HOST;
        const struct rows r = {
            .to = (to_host ? (char *)p->dstHost : (char *)(uintptr_t)p->dstDevice) + p->dstXInBytes + p->dstY * p->dstPitch,
            .from = (from_host ? (const char *)p->srcHost : (const char *)(uintptr_t)p->srcDevice) + p->srcXInBytes + p->srcY * p->srcPitch,
            .to_pitch = p->dstPitch, .from_pitch = p->srcPitch, .width = p->WidthInBytes, .height = p->Height,
        };
        err = copy(c, &r, stream, p->dstMemoryType == CU_MEMORYTYPE_UNIFIED ? -1 : !to_host, p->srcMemoryType == CU_MEMORYTYPE_UNIFIED ? -1 : !from_host,
                   false);
    }
    return fake_leave(err);
}

static int fill(const char *name, CUdeviceptr to, uint32_t value, size_t width, size_t count, CUstream stream)
{
    struct fake_context *c;
    int err = fake_enter_as(name, &c);
    struct fake_stream *s = err ? NULL : fake_stream_of(c, stream);
    if (!err && !s)
        err = CUDA_ERROR_INVALID_HANDLE;
    const enum kind kind = err || !count ? CARD : kind_of((const void *)(uintptr_t)to, width, width, count);
    if (!err && (kind == OUTSIDE || kind == PAGEABLE || to % width))
        err = CUDA_ERROR_INVALID_VALUE;
    struct fake_op *op = err || !count ? NULL : fake_op_new(FAKE_FILL, 0);
    if (!err && count && !op)
        err = CUDA_ERROR_OUT_OF_MEMORY;
    if (op) {
        op->to = (char *)(uintptr_t)to;
        op->width = width;
        op->height = count;
        op->value = value;
        fake_put(s, op);
        err = c->sticky;
    }
    return fake_leave(err);
}

CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, CUstream stream)
{
    return fill(__func__, to, value, 1, count, stream);
}

CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count, CUstream stream)
{
    return fill(__func__, to, value, 4, count, stream);
}
