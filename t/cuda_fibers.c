/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Fibers for the kernels of a graphics card (cuda_fibers.h). A thread runs until it waits for others of its block or warp; then the next one that
 * may run does, without a way through a scheduler. Threads that may run stand in a queue: those of a warp, or of a block, come back to it
 * together, in an order drawn for them, when the last of them has arrived. When the queue is empty the block is over, or stuck.
 *
 * A fiber that has ended its thread begins the next fresh one itself, so that kernels without barriers need one fiber and no switches.
 */
#define _GNU_SOURCE   /* MAP_ANONYMOUS, REG_RIP */
#include "t/cuda_fibers.h"
#include "t/fake_check.h"

#include "core/aligned_sum.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define WITH_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define WITH_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define WITH_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define WITH_TSAN 1
#endif
#endif
#ifdef WITH_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#ifdef WITH_TSAN
#include <sanitizer/tsan_interface.h>
#endif

#define MOST_THREADS 1024
#define MOST_SHARED ((size_t)256 << 10)
#if defined(WITH_ASAN) || defined(WITH_TSAN)
#define STACK_BYTES ((size_t)256 << 10)
#else
#define STACK_BYTES ((size_t)64 << 10)
#endif
/* Stacks begin at different lines of the caches, or all fibers' variables would want the same few */
#define STAGGER_BYTES ((size_t)16 << 10)
#define STAGGER_STEP ((size_t)17 * 64)
#define ORDERS 16
#define POISON 0xff          /* a NaN of every type */

#define ERROR_ILLEGAL_ADDRESS 700
#define ERROR_MISALIGNED 716
#define ERROR_LAUNCH_FAILED 719
#define ERROR_OUT_OF_MEMORY 2

enum at { AT_START, AT_BARRIER, AT_WARP, AT_SHUFFLE, AT_END };
static const char *const at_words[] = { "has not begun", "waits at the barrier", "waits at the barrier of its warp", "waits at the shuffle", "has ended" };

struct fiber {
    struct fiber *next;
    char *stack, *top;
#if defined(__x86_64__) || defined(__aarch64__)
    void *sp;
#else
    ucontext_t context;
#endif
#ifdef WITH_ASAN
    void *fake_stack;
#endif
#ifdef WITH_TSAN
    void *tsan;
#endif
};

struct copy {
    char *to;
    const char *from;
    int bytes, valid;
    uint32_t group;
};

struct thread {
    struct fiber *fiber;     /* NULL: not begun */
    int at, line;
    unsigned shuffles;
    union exchange {         /* what the warp's other threads may read at a shuffle */
        float x;
        const void *at;
        uint32_t words[6];
        double numbers[2];
    } exchange[2];           /* by turns: who is through with one shuffle may be in the next before others have read this one */
    struct copy *copies;     /* a ring of `room`, a power of two; kept from block to block */
    uint32_t room, head, count, groups;
};

struct rondo_fiber_now rondo_fiber_now;

static struct thread threads[MOST_THREADS];
static int warp_arrived[MOST_THREADS / RONDO_FIBER_WARP];
static struct fiber fibers[MOST_THREADS], host, *spare, *running;
static int made;                                   /* fibers that have a stack */
static uint16_t queue[2 * MOST_THREADS];           /* a ring */
static uint32_t queue_head, queue_tail;
static int thread_count, arrived, ended, failed;
static char failure[512];
static const struct rondo_fiber_launch *launch;
static char *shared_end;                           /* a page that nobody may touch begins here */

/* ---- orders ---- */

static enum { SHUFFLED, UP, DOWN } order;
static uint64_t seed = 1, state = 1;
static uint16_t block_orders[ORDERS][MOST_THREADS];
static uint8_t warp_orders[ORDERS][RONDO_FIBER_WARP];
static int ordered_for;                            /* threads of a block; 0: not yet */

static uint64_t random_word(void)
{
    state += UINT64_C(0x9e3779b97f4a7c15);
    uint64_t z = state;
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

uint64_t rondo_fibers_draw(uint64_t below)
{
    return order == UP ? 0 : order == DOWN ? below - 1 : random_word() % below;
}

int rondo_fibers_order(const char *text)
{
    char *end = NULL;
    order = SHUFFLED;
    seed = 1;
    if (text && strcmp(text, "up") == 0)
        order = UP;
    else if (text && strcmp(text, "down") == 0)
        order = DOWN;
    else if (text)
        seed = strtoull(text, &end, 10);
    state = seed;
    ordered_for = 0;
    return !end || (end != text && !*end);
}

/* The i-th of `count` in an order of its own. */
static int place(int i, int count)
{
    return order == DOWN ? count - 1 - i : i;
}

static void make_orders(int count)
{
    if (ordered_for == count)
        return;
    ordered_for = count;
    for (int n = 0; n < ORDERS; n++) {
        for (int i = 0; i < count; i++)
            block_orders[n][i] = (uint16_t)place(i, count);
        for (int i = 0; i < RONDO_FIBER_WARP; i++)
            warp_orders[n][i] = (uint8_t)place(i, RONDO_FIBER_WARP);
        if (order != SHUFFLED)
            continue;
        for (int i = count - 1; i > 0; i--) {
            const int j = (int)(random_word() % (uint64_t)(i + 1));
            const uint16_t kept = block_orders[n][i];
            block_orders[n][i] = block_orders[n][j];
            block_orders[n][j] = kept;
        }
        for (int i = RONDO_FIBER_WARP - 1; i > 0; i--) {
            const int j = (int)(random_word() % (uint64_t)(i + 1));
            const uint8_t kept = warp_orders[n][i];
            warp_orders[n][i] = warp_orders[n][j];
            warp_orders[n][j] = kept;
        }
    }
}

/* ---- switching ---- */

#if defined(__x86_64__)
void rondo_fiber_swap(void **save, void *load) RONDO_FIBER_HIDDEN;
__asm__(".text\n.p2align 4\n.globl rondo_fiber_swap\n.hidden rondo_fiber_swap\n.type rondo_fiber_swap, @function\nrondo_fiber_swap:\n"
        "pushq %rbp\npushq %rbx\npushq %r12\npushq %r13\npushq %r14\npushq %r15\n"
        "movq %rsp, (%rdi)\nmovq %rsi, %rsp\n"
        "popq %r15\npopq %r14\npopq %r13\npopq %r12\npopq %rbx\npopq %rbp\nret\n"
        ".size rondo_fiber_swap, .-rondo_fiber_swap\n");
enum { SAVED_WORDS = 6 };
#elif defined(__aarch64__)
void rondo_fiber_swap(void **save, void *load) RONDO_FIBER_HIDDEN;
__asm__(".text\n.p2align 4\n.globl rondo_fiber_swap\n.hidden rondo_fiber_swap\n.type rondo_fiber_swap, %function\nrondo_fiber_swap:\n"
        "sub sp, sp, #160\n"
        "stp x19, x20, [sp]\nstp x21, x22, [sp, #16]\nstp x23, x24, [sp, #32]\nstp x25, x26, [sp, #48]\nstp x27, x28, [sp, #64]\n"
        "stp x29, x30, [sp, #80]\nstp d8, d9, [sp, #96]\nstp d10, d11, [sp, #112]\nstp d12, d13, [sp, #128]\nstp d14, d15, [sp, #144]\n"
        "mov x9, sp\nstr x9, [x0]\nmov sp, x1\n"
        "ldp x19, x20, [sp]\nldp x21, x22, [sp, #16]\nldp x23, x24, [sp, #32]\nldp x25, x26, [sp, #48]\nldp x27, x28, [sp, #64]\n"
        "ldp x29, x30, [sp, #80]\nldp d8, d9, [sp, #96]\nldp d10, d11, [sp, #112]\nldp d12, d13, [sp, #128]\nldp d14, d15, [sp, #144]\n"
        "add sp, sp, #160\nret\n"
        ".size rondo_fiber_swap, .-rondo_fiber_swap\n");
enum { SAVED_WORDS = 20 };
#endif

static void fiber_main(void);

/* A fiber that begins in fiber_main() when it is first switched to. */
static void set_up(struct fiber *f)
{
#if defined(__x86_64__)
    void **sp = (void **)(void *)f->top;
    *--sp = NULL;                                       /* where a caller would be: keeps the stack aligned as after a call */
    *--sp = (void *)(uintptr_t)fiber_main;
    sp -= SAVED_WORDS;
    memset(sp, 0, SAVED_WORDS * sizeof *sp);
    f->sp = sp;
#elif defined(__aarch64__)
    void **sp = (void **)(void *)f->top - SAVED_WORDS;
    memset(sp, 0, SAVED_WORDS * sizeof *sp);
    sp[11] = (void *)(uintptr_t)fiber_main;             /* x30 */
    f->sp = sp;
#else
    if (getcontext(&f->context))
        abort();
    f->context.uc_stack.ss_sp = f->stack;
    f->context.uc_stack.ss_size = (size_t)(f->top - f->stack);
    f->context.uc_link = NULL;
    makecontext(&f->context, fiber_main, 0);
#endif
#ifdef WITH_ASAN
    f->fake_stack = NULL;
    __asan_unpoison_memory_region(f->stack, (size_t)(f->top - f->stack));
#endif
#ifdef WITH_TSAN
    if (f->tsan)
        __tsan_destroy_fiber(f->tsan);
    f->tsan = __tsan_create_fiber(0);
#endif
}

#ifdef WITH_ASAN
static struct fiber *came_from;
/* On a fiber that was switched to. It is now that the host's stack is known. */
static void arrive(struct fiber *self)
{
    const void *stack;
    size_t bytes;
    __sanitizer_finish_switch_fiber(self->fake_stack, &stack, &bytes);
    if (came_from == &host) {
        host.stack = (char *)(uintptr_t)stack;
        host.top = host.stack + bytes;
    }
}
#else
static void arrive(struct fiber *self)
{
    (void)self;
}
#endif

/* Called in one place only, so that the processor foresees where swaps return to. */
static __attribute__((noinline)) void switch_to(struct fiber *to)
{
    struct fiber *from = running;
    if (from == to)
        return;
    running = to;
#ifdef WITH_ASAN
    came_from = from;
    __sanitizer_start_switch_fiber(&from->fake_stack, to->stack, (size_t)(to->top - to->stack));
#endif
#ifdef WITH_TSAN
    __tsan_switch_to_fiber(to->tsan, 0);
#endif
#if defined(__x86_64__) || defined(__aarch64__)
    rondo_fiber_swap(&from->sp, to->sp);
#else
    if (swapcontext(&from->context, &to->context))
        abort();
#endif
    arrive(from);
}

/* ---- taking turns ---- */

static void push_back(int t)
{
    queue[queue_tail++ % (2 * MOST_THREADS)] = (uint16_t)t;
}

static int next_thread(void)
{
    return queue_head == queue_tail ? -1 : queue[queue_head++ % (2 * MOST_THREADS)];
}

/* The running fiber gives way to the next thread, or to the host where there is none. */
static void give_way(void)
{
    const int t = next_thread();
    struct fiber *to = &host;
    if (t >= 0) {
        struct thread *x = threads + t;
        if (!x->fiber) {
            x->fiber = spare;
            spare = spare->next;
        }
        to = x->fiber;
        rondo_fiber_now.thread = t;
    }
    switch_to(to);
}

static void fiber_main(void)
{
    arrive(running);
    for (;;) {
        launch->kernel->entry(launch->params);
        threads[rondo_fiber_now.thread].at = AT_END;
        ended++;
        const uint32_t next = queue_head;
        struct fiber *self = running;
        if (next != queue_tail && !threads[queue[next % (2 * MOST_THREADS)]].fiber) {
            rondo_fiber_now.thread = next_thread();
            threads[rondo_fiber_now.thread].fiber = self;
            continue;
        }
        self->next = spare;
        spare = self;
        give_way();
    }
}

/* The launch is over for all of its threads: their fibers are left where they are. */
static __attribute__((noreturn)) void fail(int code, const char *sentence)
{
    if (!failed) {
        failed = code;
        snprintf(failure, sizeof failure, "kernel %s, block %d, thread %d: %s", launch->kernel->name, rondo_fiber_now.block, rondo_fiber_now.thread,
                 sentence);
    }
    switch_to(&host);
    abort();
}

#ifdef FAKE_CHECKED
void rondo_fiber_fail(int code, const char *sentence)
{
    fail(code, sentence);
}

int rondo_fiber_own(const void *at)
{
    return (uintptr_t)at >= (uintptr_t)running->stack && (uintptr_t)at < (uintptr_t)running->top;
}
#endif

/* Two threads that should be at one place of the text. */
static __attribute__((noreturn)) void diverged(int a, int b, const char *who)
{
    char text[256];
    snprintf(text, sizeof text, "the barrier is divergent: of %s thread %d %s of line %d, thread %d %s of line %d", who, a, at_words[threads[a].at],
             threads[a].line, b, at_words[threads[b].at], threads[b].line);
    fail(ERROR_LAUNCH_FAILED, text);
}

static int warp_size(int first)
{
    return thread_count - first < RONDO_FIBER_WARP ? thread_count - first : RONDO_FIBER_WARP;
}

static void same_place(int first)
{
    for (int i = 1; i < warp_size(first); i++)
        if (threads[first + i].line != threads[first].line || threads[first + i].at != threads[first].at)
            diverged(first, first + i, "one warp");
}

void rondo_fiber_barrier(int line)
{
    struct thread *self = threads + rondo_fiber_now.thread;
    self->at = AT_BARRIER;
    self->line = line;
    if (++arrived == thread_count) {
        arrived = 0;
        fake_check_barrier();
        for (int first = 0; first < thread_count; first += RONDO_FIBER_WARP)
            same_place(first);
        const uint16_t *in = block_orders[rondo_fibers_draw(ORDERS)];
        for (int i = 0; i < thread_count; i++)
            push_back(in[i]);
    }
    give_way();
}

static void warp_meets(struct thread *self, int at, int line)
{
    const int thread = rondo_fiber_now.thread, warp = thread / RONDO_FIBER_WARP, first = warp * RONDO_FIBER_WARP, size = warp_size(first);
    self->at = at;
    self->line = line;
    if (++warp_arrived[warp] == size) {
        warp_arrived[warp] = 0;
        fake_check_warp(warp);
        same_place(first);
        const uint8_t *in = warp_orders[rondo_fibers_draw(ORDERS)];
        const int front = rondo_fibers_draw(2) == 0;    /* this warp goes on, or the others do */
        for (int i = RONDO_FIBER_WARP - 1; front && i >= 0; i--)
            if (in[i] < size)
                queue[--queue_head % (2 * MOST_THREADS)] = (uint16_t)(first + in[i]);
        for (int i = 0; !front && i < RONDO_FIBER_WARP; i++)
            if (in[i] < size)
                push_back(first + in[i]);
    }
    give_way();
}

void rondo_fiber_warp_barrier(int line)
{
    warp_meets(threads + rondo_fiber_now.thread, AT_WARP, line);
}

float rondo_fiber_shuffle(float x, int mask, int line)
{
    const int thread = rondo_fiber_now.thread, from = (thread & ~(RONDO_FIBER_WARP - 1)) | ((thread ^ mask) & (RONDO_FIBER_WARP - 1));
    struct thread *self = threads + thread;
    const unsigned turn = self->shuffles++ & 1;
    if (from >= thread_count)
        fail(ERROR_LAUNCH_FAILED, "a shuffle asks for a thread that its warp does not have");
    self->exchange[turn].x = x;
    warp_meets(self, AT_SHUFFLE, line);
    return threads[from].exchange[turn].x;
}

/* ---- the matrix unit (backends/cuda/kernel.h) ---- */

/* The turn in which a whole warp shows what it has; `first` is its first thread. */
static unsigned whole_warp(struct thread **first)
{
    const int thread = rondo_fiber_now.thread;
    *first = threads + (thread & ~(RONDO_FIBER_WARP - 1));
    if ((thread | (RONDO_FIBER_WARP - 1)) >= thread_count)
        fail(ERROR_LAUNCH_FAILED, "the matrix unit wants a whole warp");
    return threads[thread].shuffles++ & 1;
}

uint32_t rondo_fiber_take(uint32_t x, int lane, int line)
{
    struct thread *first, *self = threads + rondo_fiber_now.thread;
    const unsigned turn = whole_warp(&first);
    self->exchange[turn].words[0] = x;
    warp_meets(self, AT_SHUFFLE, line);
    return first[lane & (RONDO_FIBER_WARP - 1)].exchange[turn].words[0];
}

void rondo_fiber_matrix_load(uint32_t r[4], const void *at, int turned, int line)
{
    struct thread *first, *self = threads + rondo_fiber_now.thread;
    const int lane = rondo_fiber_now.thread & (RONDO_FIBER_WARP - 1), g = lane / 4, t = lane % 4;
    const uintptr_t low = (uintptr_t)rondo_fiber_now.shared, from = (uintptr_t)at;
    const unsigned turn = whole_warp(&first);
    if (from % 16 || from < low || from - low + 16 > launch->shared_bytes) {
        char text[128];
        snprintf(text, sizeof text, "a matrix of line %d has a row at byte %lld of %zu bytes of shared memory", line, (long long)(from - low),
                 launch->shared_bytes);
        fail(from % 16 ? ERROR_MISALIGNED : ERROR_ILLEGAL_ADDRESS, text);
    }
    fake_check_load(at, 16, __builtin_return_address(0));
    self->exchange[turn].at = at;
    warp_meets(self, AT_SHUFFLE, line);
    for (int i = 0; i < 4; i++) {
        const struct thread *const rows = first + 8 * i;
        const uint16_t *const own = rows[g].exchange[turn].at, *const upper = rows[2 * t].exchange[turn].at, *const lower = rows[2 * t + 1].exchange[turn].at;
        r[i] = turned ? upper[g] | (uint32_t)lower[g] << 16 : own[2 * t] | (uint32_t)own[2 * t + 1] << 16;
    }
}

void rondo_fiber_matrix_bf16(float d[4], const uint32_t a[4], const uint32_t b[2], int line)
{
    struct thread *first, *self = threads + rondo_fiber_now.thread;
    const int lane = rondo_fiber_now.thread & (RONDO_FIBER_WARP - 1), g = lane / 4, t = lane % 4;
    const unsigned turn = whole_warp(&first);
    memcpy(self->exchange[turn].words, a, 4 * sizeof *a);
    memcpy(self->exchange[turn].words + 4, b, 2 * sizeof *b);
    warp_meets(self, AT_SHUFFLE, line);
    for (int e = 0; e < 4; e++) {
        uint16_t x[16], y[16];
        for (int k = 0; k < 16; k++) {
            const uint32_t *const row = first[4 * g + k % 8 / 2].exchange[turn].words, *const column = first[4 * (2 * t + e % 2) + k % 8 / 2].exchange[turn].words;
            x[k] = (uint16_t)(row[e / 2 + k / 8 * 2] >> (16 * (k % 2)));
            y[k] = (uint16_t)(column[4 + k / 8] >> (16 * (k % 2)));
        }
        d[e] = rondo__aligned_sum(d[e], x, y);
    }
}

/* The chain is that of the FP64 unit. */
void rondo_fiber_matrix_f64(double d[2], double a, double b, int line)
{
    struct thread *first, *self = threads + rondo_fiber_now.thread;
    const int lane = rondo_fiber_now.thread & (RONDO_FIBER_WARP - 1), g = lane / 4, t = lane % 4;
    const unsigned turn = whole_warp(&first);
    self->exchange[turn].numbers[0] = a;
    self->exchange[turn].numbers[1] = b;
    warp_meets(self, AT_SHUFFLE, line);
    for (int e = 0; e < 2; e++)
        for (int k = 0; k < 4; k++)
            d[e] = __builtin_fma(first[4 * g + k].exchange[turn].numbers[0], first[4 * (2 * t + e) + k].exchange[turn].numbers[1], d[e]);
}

/* ---- copies ---- */

static void do_copy(const struct copy *c)
{
    if (!c->valid)
        memset(c->to, 0, (size_t)c->bytes);
    else if (c->bytes == 16)
        memcpy(c->to, c->from, 16);
    else
        memcpy(c->to, c->from, (size_t)c->bytes);
}

void rondo_fiber_copy(void *to, const void *from, int bytes, int valid, int line)
{
    struct thread *self = threads + rondo_fiber_now.thread;
    const uintptr_t low = (uintptr_t)rondo_fiber_now.shared, at = (uintptr_t)to;
    if ((at | (valid ? (uintptr_t)from : 0)) & (unsigned)(bytes - 1)) {
        char text[128];
        snprintf(text, sizeof text, "the addresses of the copy of line %d are no multiples of %d", line, bytes);
        fail(ERROR_MISALIGNED, text);
    }
    if (at < low || at - low + (unsigned)bytes > launch->shared_bytes) {
        char text[128];
        snprintf(text, sizeof text, "the copy of line %d goes to byte %lld of %zu bytes of shared memory", line, (long long)(at - low),
                 launch->shared_bytes);
        fail(ERROR_ILLEGAL_ADDRESS, text);
    }
    const struct copy c = { to, from, bytes, valid, self->groups };
    fake_check_copy(to, from, bytes, valid, __builtin_return_address(0));
#ifdef FAKE_CHECKED
    const int late = 1;      /* it is over where it was waited for */
#else
    const int late = order == UP || (order == SHUFFLED && !(random_word() >> 63));
#endif
    if (!late) {
        do_copy(&c);
        return;
    }
    if (self->count == self->room) {
        const uint32_t room = self->room ? 2 * self->room : 64;
        struct copy *more = malloc(room * sizeof *more);
        if (!more)
            fail(ERROR_OUT_OF_MEMORY, "no memory for a list of copies");
        for (uint32_t i = 0; i < self->count; i++)
            more[i] = self->copies[(self->head + i) & (self->room - 1)];
        free(self->copies);
        self->copies = more;
        self->room = room;
        self->head = 0;
    }
    self->copies[(self->head + self->count++) & (self->room - 1)] = c;
}

void rondo_fiber_copy_close(void)
{
    threads[rondo_fiber_now.thread].groups++;
}

void rondo_fiber_copy_wait(int latest)
{
    struct thread *self = threads + rondo_fiber_now.thread;
    while (self->count && self->copies[self->head].group + (uint32_t)latest < self->groups) {
        do_copy(self->copies + self->head);
        fake_check_copied(self->copies[self->head].to, self->copies[self->head].bytes);
        self->head = (self->head + 1) & (self->room - 1);
        self->count--;
    }
}

/* ---- memory that is not there ---- */

static char fault_text[128];
static int fault_code;
int (*rondo_fibers_fault)(const void *at);

#if defined(__x86_64__) || defined(__aarch64__)
static void fault_landing(void)
{
    fail(fault_code, fault_text);
}

/* The kernel's thread goes on in fault_landing(), on an empty stack. */
static int land(ucontext_t *u)
{
#ifdef WITH_ASAN
    __asan_unpoison_memory_region(running->stack, (size_t)(running->top - running->stack));
#endif
#if defined(__x86_64__)
    u->uc_mcontext.gregs[REG_RSP] = (greg_t)(uintptr_t)(running->top - 8);
    u->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)fault_landing;
#else
    u->uc_mcontext.sp = (uintptr_t)running->top;
    u->uc_mcontext.pc = (uintptr_t)fault_landing;
#endif
    return 1;
}
#else
static int land(ucontext_t *u)
{
    (void)u;
    return 0;
}
#endif

/* Memory that may be touched now, a kernel that fails, or as if there were no handler. */
static void on_fault(int number, siginfo_t *info, void *context)
{
    if (number == SIGSEGV && info->si_code == SEGV_ACCERR && rondo_fibers_fault && rondo_fibers_fault(info->si_addr))
        return;
    fault_code = ERROR_ILLEGAL_ADDRESS;
    snprintf(fault_text, sizeof fault_text, "memory at %p is not there for it", info->si_addr);
    if (info->si_code == SI_KERNEL || (number == SIGBUS && info->si_code == BUS_ADRALN)) {   /* x86 tells no address for it */
        fault_code = ERROR_MISALIGNED;
        snprintf(fault_text, sizeof fault_text, "an odd address, or one that cannot be");
    }
    if (!running || running == &host || !land(context))
        signal(number, SIG_DFL);
}

static _Alignas(64) char fault_stack[64 << 10];
static struct sigaction old_segv, old_bus;
static stack_t old_stack;

void rondo_fibers_watch(void)
{
    struct sigaction action;
    const stack_t stack = { .ss_sp = fault_stack, .ss_size = sizeof fault_stack };
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaltstack(&stack, &old_stack);
    sigaction(SIGSEGV, &action, &old_segv);
    sigaction(SIGBUS, &action, &old_bus);
}

void rondo_fibers_unwatch(void)
{
    sigaction(SIGSEGV, &old_segv, NULL);
    sigaction(SIGBUS, &old_bus, NULL);
    sigaltstack(&old_stack, NULL);
}

/* ---- blocks ---- */

/* Stacks for so many fibers, each above a page that nobody may touch. */
static int make_fibers(int count)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), guard = page > 4096 ? page : 4096, slot = guard + STACK_BYTES + STAGGER_BYTES;
    for (; made < count; made++) {
        char *at = mmap(NULL, slot, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (at == MAP_FAILED)
            return 0;
        struct fiber *f = fibers + made;
        mprotect(at, guard, PROT_NONE);
        f->stack = at + guard;
        f->top = at + slot - (size_t)made * STAGGER_STEP % STAGGER_BYTES / 64 * 64;
        set_up(f);
        f->next = spare;
        spare = f;
    }
    return 1;
}

/* After a failure fibers stand anywhere. */
static void renew_fibers(void)
{
    spare = NULL;
    for (int i = made - 1; i >= 0; i--) {
        set_up(fibers + i);
        fibers[i].next = spare;
        spare = fibers + i;
    }
}

static int make_shared(void)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (shared_end)
        return 1;
    char *at = mmap(NULL, MOST_SHARED + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED || mprotect(at + page, MOST_SHARED, PROT_READ | PROT_WRITE))
        return 0;
    shared_end = at + page + MOST_SHARED;
    return 1;
}

/* Nobody may run, and not all have ended: one that waits, and one that will not come. */
static void stuck(void)
{
    int a = 0, b = 0;
    while (threads[a].at == AT_END)
        a++;
    while (b < thread_count - 1 && (ended ? threads[b].at != AT_END : threads[b].at == threads[a].at))
        b++;
    failed = ERROR_LAUNCH_FAILED;
    snprintf(failure, sizeof failure, "kernel %s, block %d: the barrier is divergent: thread %d %s of line %d, thread %d %s (line %d)",
             launch->kernel->name, rondo_fiber_now.block, a, at_words[threads[a].at], threads[a].line, b, at_words[threads[b].at], threads[b].line);
}

static void run_block(int block)
{
    rondo_fiber_now.block = block;
    memset(rondo_fiber_now.shared, POISON, launch->shared_bytes);
    memset(warp_arrived, 0, sizeof warp_arrived);
    fake_check_block();
    arrived = ended = 0;
    queue_head = queue_tail = MOST_THREADS;
    const uint16_t *in = block_orders[rondo_fibers_draw(ORDERS)];
    for (int i = 0; i < thread_count; i++) {
        struct thread *x = threads + i;
        x->fiber = NULL;
        x->at = AT_START;
        x->line = 0;
        x->shuffles = 0;
        x->head = x->count = x->groups = 0;
        push_back(in[i]);
    }
    give_way();
    if (!failed && ended < thread_count)
        stuck();
    if (failed)
        renew_fibers();
}

int rondo_fibers_run(const struct rondo_fiber_launch *l)
{
    failed = 0;
    failure[0] = 0;
    if (l->threads < 1 || l->threads > MOST_THREADS || l->shared_bytes > MOST_SHARED || !make_shared() || !make_fibers(l->threads)) {
        snprintf(failure, sizeof failure, "kernel %s: no room for %d threads and %zu bytes of shared memory", l->kernel->name, l->threads,
                 l->shared_bytes);
        return ERROR_OUT_OF_MEMORY;
    }
    make_orders(l->threads);
    launch = l;
    thread_count = l->threads;
    running = &host;
#ifdef WITH_TSAN
    host.tsan = __tsan_get_current_fiber();
#endif
    rondo_fiber_now.blocks = l->blocks;
    rondo_fiber_now.shared = shared_end - (l->shared_bytes + 15) / 16 * 16;
    fake_check_launch(l);
    rondo_fibers_watch();
    for (int block = 0; block < l->blocks && !failed; block++)
        run_block(order == DOWN ? l->blocks - 1 - block : block);
    rondo_fibers_unwatch();
    return failed;
}

const char *rondo_fibers_text(void)
{
    return failure;
}

void rondo_fibers_free(void)
{
    for (int i = 0; i < MOST_THREADS; i++) {
        free(threads[i].copies);
        threads[i].copies = NULL;
        threads[i].room = 0;
    }
}
