/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Races and bounds of kernels, thread by thread. The kernels of this build are compiled with the compiler's instrumentation for a thread
 * sanitizer, whose functions are these here instead: each access to memory comes by. For each four bytes of shared memory and of the card's it is
 * kept who wrote and who read them last, and how often its block and its warp had met by then. Two accesses, one of them a write, by threads that
 * have not met in between, or by two blocks of one launch, are a race: their order is luck on a card, whatever the fibers' order makes of it.
 *
 * An access that is in no block of the card's memory, nor in shared memory, nor on the thread's own stack or in constants, is refused as the
 * card would. The failure's sentence has both places in the kernels' text, as offsets into this library: addr2line -e libcuda.so.1 OFFSET.
 */
#define _GNU_SOURCE   /* dladdr */
#include "t/fake_check.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ERROR_ILLEGAL_ADDRESS 700
#define ERROR_MISALIGNED 716
#define ERROR_LAUNCH_FAILED 719
#define FIRST_ROOM ((size_t)1 << 16)

struct access {
    const void *pc;
    uint32_t met, warp_met;      /* how often by then; met 0: no access */
    int32_t block;
    int16_t thread, mask;        /* bytes of the four */
};
struct granule {
    uintptr_t key;               /* address / 4, and the launch in the high bits; 0: empty */
    struct access write, read, other;   /* other: a read by a second thread */
    int pending;                 /* a copy is under way there */
};

static struct granule *table;
static size_t room, used;
static uint32_t met, warp_met[32];
static int32_t shared_turn;      /* shared memory of each block is another one */
static const struct rondo_fiber_launch *current;

void fake_check_launch(const struct rondo_fiber_launch *launch)
{
    current = launch;
    if (table)
        memset(table, 0, room * sizeof *table);
    used = 0;
    met = 1;
}

void fake_check_block(void)
{
    shared_turn++;
    met++;
    memset(warp_met, 0, sizeof warp_met);
}

void fake_check_barrier(void)
{
    met++;
}

void fake_check_warp(int warp)
{
    warp_met[warp]++;
}

static struct granule *look(uintptr_t key);

static void grow(void)
{
    struct granule *old = table;
    const size_t old_room = room;
    room = room ? 4 * room : FIRST_ROOM;
    table = calloc(room, sizeof *table);
    if (!table)
        abort();
    used = 0;
    for (size_t i = 0; i < old_room; i++)
        if (old[i].key)
            *look(old[i].key) = old[i];
    free(old);
}

static struct granule *look(uintptr_t key)
{
    if (2 * used >= room)
        grow();
    size_t i = (size_t)((key * UINT64_C(0x9e3779b97f4a7c15)) >> 20) & (room - 1);
    while (table[i].key && table[i].key != key)
        i = (i + 1) & (room - 1);
    if (!table[i].key) {
        table[i].key = key;
        used++;
    }
    return table + i;
}

static unsigned long offset(const void *pc)
{
    Dl_info info;
    return pc && dladdr(pc, &info) ? (unsigned long)((uintptr_t)pc - (uintptr_t)info.dli_fbase) - 1 : 0;
}

static __attribute__((noreturn)) void race(const char *what, const void *at, const struct access *a, const struct access *b)
{
    char text[400], where[64];
    const uintptr_t into = (uintptr_t)at - (uintptr_t)rondo_fiber_now.shared;
    snprintf(where, sizeof where, into < current->shared_bytes ? "byte %llu of shared memory" : "global memory at %#llx",
             (unsigned long long)(into < current->shared_bytes ? into : (uintptr_t)at));
    snprintf(text, sizeof text, "a race at %s: %s; thread %d of block %d at %#lx, thread %d of block %d at %#lx", where, what, a->thread, (int)a->block,
             offset(a->pc), b->thread, (int)b->block, offset(b->pc));
    rondo_fiber_fail(ERROR_LAUNCH_FAILED, text);
}

/* Nothing says which of the two comes first. */
static int unordered(const struct access *a, const struct access *b, int shared)
{
    if (!a->met || !(a->mask & b->mask))
        return 0;
    if (a->block != b->block)
        return !shared;
    if (a->thread == b->thread || a->met != b->met)
        return 0;
    return a->thread / RONDO_FIBER_WARP != b->thread / RONDO_FIBER_WARP || a->warp_met == b->warp_met;
}

static void touch(const char *at, int bytes, int writes, int shared, const void *pc)
{
    const int thread = rondo_fiber_now.thread;
    struct access a = { .pc = pc, .met = met, .warp_met = warp_met[thread / RONDO_FIBER_WARP], .thread = (int16_t)thread,
                        .block = shared ? shared_turn : rondo_fiber_now.block };
    for (const char *end = at + bytes; at < end;) {
        const int first = (int)((uintptr_t)at % 4), count = end - at < 4 - first ? (int)(end - at) : 4 - first;
        struct granule *g = look((uintptr_t)at / 4);
        a.mask = (int16_t)(((1 << count) - 1) << first);
        if (g->pending && shared && g->write.block == a.block && (g->write.mask & a.mask))
            race("a copy is under way there", at, &g->write, &a);
        if (unordered(&g->write, &a, shared))
            race(writes ? "written twice" : "written, then read", at, &g->write, &a);
        if (writes) {
            if (unordered(&g->read, &a, shared))
                race("read, then written", at, &g->read, &a);
            if (unordered(&g->other, &a, shared))
                race("read, then written", at, &g->other, &a);
            g->write = a;
        } else {
            if (g->read.met == a.met && g->read.block == a.block && g->read.thread != a.thread)
                g->other = a;
            else
                g->read = a;
        }
        at += count;
    }
}

static void see(const void *address, int bytes, int writes, const void *pc)
{
    const char *at = address;
    const uintptr_t into_shared = (uintptr_t)at - (uintptr_t)rondo_fiber_now.shared;
    size_t into, size;
    int pinned;
    char text[300];
    Dl_info info;
    if (rondo_fiber_own(at) || (!writes && (uintptr_t)at - (uintptr_t)current->params < current->kernel->bytes))
        return;
    if (into_shared < current->shared_bytes) {
        const int odd = (uintptr_t)at % (unsigned)bytes != 0;
        if (!odd && into_shared + (unsigned)bytes <= current->shared_bytes) {
            touch(at, bytes, writes, 1, pc);
            return;
        }
        snprintf(text, sizeof text, "%d bytes at byte %llu of %zu of shared memory%s, at %#lx", bytes, (unsigned long long)into_shared,
                 current->shared_bytes, odd ? ", an odd address" : "", offset(pc));
        rondo_fiber_fail(odd ? ERROR_MISALIGNED : ERROR_ILLEGAL_ADDRESS, text);
    }
    if (fake_block_at(at, &into, &size, &pinned)) {
        if ((uintptr_t)at % (unsigned)bytes)
            snprintf(text, sizeof text, "an odd address for %d bytes: byte %zu of a block of %zu, at %#lx", bytes, into, size, offset(pc));
        else if (into + (unsigned)bytes > size)
            snprintf(text, sizeof text, "%d bytes at byte %zu of a block of %zu, at %#lx", bytes, into, size, offset(pc));
        else {
            touch(at, bytes, writes, 0, pc);
            return;
        }
        rondo_fiber_fail(ERROR_ILLEGAL_ADDRESS, text);
    }
    if (!writes && dladdr(at, &info))
        return;   /* constants */
    snprintf(text, sizeof text, "%d bytes at %p, which is no memory of the card, at %#lx", bytes, address, offset(pc));
    rondo_fiber_fail(ERROR_ILLEGAL_ADDRESS, text);
}

void fake_check_load(const void *from, int bytes, const void *pc)
{
    see(from, bytes, 0, pc);
}

void fake_check_copy(const void *to, const void *from, int bytes, int valid, const void *pc)
{
    if (valid)
        see(from, bytes, 0, pc);
    see(to, bytes, 1, pc);
    for (int i = 0; i < bytes; i += 4)
        look((uintptr_t)to / 4 + (uintptr_t)i / 4)->pending = 1;
}

void fake_check_copied(const void *to, int bytes)
{
    for (int i = 0; i < bytes; i += 4) {
        struct granule *g = look((uintptr_t)to / 4 + (uintptr_t)i / 4);
        g->pending = 0;
        /* it may have been written as late as now */
        g->write.met = met;
        g->write.warp_met = warp_met[g->write.thread / RONDO_FIBER_WARP];
    }
}

/* ---- what the compiler calls ---- */

#define PC __builtin_return_address(0)
#define BOTH(n) \
    RONDO_FIBER_HIDDEN void __tsan_read##n(void *at); \
    RONDO_FIBER_HIDDEN void __tsan_write##n(void *at); \
    RONDO_FIBER_HIDDEN void __tsan_volatile_read##n(void *at); \
    RONDO_FIBER_HIDDEN void __tsan_volatile_write##n(void *at); \
    void __tsan_read##n(void *at) { see(at, n, 0, PC); } \
    void __tsan_write##n(void *at) { see(at, n, 1, PC); } \
    void __tsan_volatile_read##n(void *at) { see(at, n, 0, PC); } \
    void __tsan_volatile_write##n(void *at) { see(at, n, 1, PC); }
/* bytes at a time, where the text says that they may begin anywhere */
#define ODD(n) \
    RONDO_FIBER_HIDDEN void __tsan_unaligned_read##n(void *at); \
    RONDO_FIBER_HIDDEN void __tsan_unaligned_write##n(void *at); \
    void __tsan_unaligned_read##n(void *at) { odd(at, n, 0, PC); } \
    void __tsan_unaligned_write##n(void *at) { odd(at, n, 1, PC); }

static void odd(char *at, unsigned long bytes, int writes, const void *pc)
{
    for (unsigned long i = 0; i < bytes; i++)
        see(at + i, 1, writes, pc);
}

BOTH(1)
BOTH(2)
BOTH(4)
BOTH(8)
BOTH(16)
ODD(2)
ODD(4)
ODD(8)
ODD(16)
RONDO_FIBER_HIDDEN void __tsan_read_range(void *at, unsigned long bytes);
RONDO_FIBER_HIDDEN void __tsan_write_range(void *at, unsigned long bytes);
RONDO_FIBER_HIDDEN void __tsan_func_entry(void *pc);
RONDO_FIBER_HIDDEN void __tsan_func_exit(void);
RONDO_FIBER_HIDDEN void __tsan_init(void);
void __tsan_read_range(void *at, unsigned long bytes) { odd(at, bytes, 0, PC); }
void __tsan_write_range(void *at, unsigned long bytes) { odd(at, bytes, 1, PC); }
void __tsan_func_entry(void *pc) { (void)pc; }
void __tsan_func_exit(void) { }
void __tsan_init(void) { }
