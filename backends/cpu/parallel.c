/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Loops over the threads of a rank: the host program's pool where it lends one (rondo_set_hooks), the OpenMP runtime where
 * configure was told to use it, a team of our own otherwise (team.c). A loop hands out independent items by an atomic counter;
 * which thread gets which item changes no bit, because no item reads what another one writes. So it does not matter either
 * how many threads come, or when: each takes items until there are none.
 */
#define _GNU_SOURCE /* madvise */
#include "backends/cpu/cpu.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "backends/cpu/team.h"
#include "core/hooks.h"

struct loop {
    _Atomic int64_t next, finished;
    _Atomic int code;
    char sentence[512]; /* of the first failure, written by the thread that set code */
    int64_t items;
    int (*work)(void *arg, int64_t item, int worker);
    void *arg;
    const struct rondo_poll *poll;
    pthread_t caller;
    int workers;
    _Atomic int others; /* a lent pool's threads that have come */
};

static void loop_fail(struct loop *l, int code)
{
    int none = 0;
    if (code && atomic_compare_exchange_strong(&l->code, &none, code))
        snprintf(l->sentence, sizeof l->sentence, "%s", rondo_error_text());
}

static void loop_poll(void *arg)
{
    struct loop *l = arg;
    if (l->poll && !atomic_load_explicit(&l->code, memory_order_relaxed))
        loop_fail(l, l->poll->call(l->poll->arg));
}

/* Takes items until there are none, or one has failed. */
static void loop_run(void *arg, int worker)
{
    struct loop *l = arg;
    bool took = false;
    uint64_t found = rondo__cpu_mode_enter();
    while (!atomic_load_explicit(&l->code, memory_order_relaxed)) {
        int64_t item = atomic_fetch_add_explicit(&l->next, 1, memory_order_relaxed);
        if (item >= l->items)
            break;
        took = true;
        loop_fail(l, l->work(l->arg, item, worker));
        if (worker == 0)
            loop_poll(l);
        atomic_fetch_add_explicit(&l->finished, 1, memory_order_relaxed);
    }
    if (worker == 0 && !took)
        loop_poll(l); /* transfers move even where others were faster */
    rondo__cpu_mode_leave(found);
}

#ifdef _OPENMP
/* Thread 0 of the team is the calling thread; OpenMP may give a smaller team than asked for, never a larger one. The barrier at
 * the end of a region polls nothing, so the caller keeps transfers going before it goes there. */
static void loop_openmp(struct loop *l)
{
#pragma omp parallel num_threads(l->workers) shared(l)
    {
        const int worker = omp_get_thread_num();
        loop_run(l, worker);
        while (worker == 0 && l->poll && !atomic_load(&l->code) && atomic_load(&l->finished) < l->items) {
            loop_poll(l);
            sched_yield();
        }
    }
}
#endif

/* One call of a lent pool. It may make its calls on any threads and in any order, also one after the other and also on the
 * calling thread, which alone is worker 0. */
static void loop_lent(void *arg, int index)
{
    struct loop *l = arg;
    (void)index;
    if (pthread_equal(pthread_self(), l->caller)) {
        loop_run(l, 0);
        return;
    }
    int worker = 1 + atomic_fetch_add_explicit(&l->others, 1, memory_order_relaxed);
    if (worker < l->workers)
        loop_run(l, worker);
}

static int loop_over(struct rondo_device *dev, int workers, int64_t items, int (*work)(void *arg, int64_t item, int worker), void *arg,
                     const struct rondo_poll *poll)
{
    const rondo_hooks *hooks = rondo__hooks();
    struct loop l = { .items = items, .work = work, .arg = arg, .poll = poll, .workers = workers };
    if (items <= 0)
        return 0;
    if (l.workers == 1) {
        loop_run(&l, 0);
    } else if (hooks->parallel) {
        l.caller = pthread_self();
        hooks->parallel(hooks->user, l.workers, loop_lent, &l);
        loop_run(&l, 0); /* what a pool without a free thread has left */
#ifdef _OPENMP
    } else if (rondo__team_forks() == 0) { /* its threads do not survive a fork, and it does not know */
        loop_openmp(&l);
#endif
    } else {
        if (!dev->team)
            dev->team = rondo__team_new(dev->threads, dev->crowded);
        int err = dev->team ? rondo__team_run(dev->team, l.workers, loop_run, poll ? loop_poll : NULL, &l)
                            : rondo__fail(RONDO_ENOMEM, "no memory for the %d threads of a rank", dev->threads);
        if (err)
            return err;
    }
    return l.code ? rondo__fail(l.code, "%s", l.sentence) : 0; /* it may be another thread's sentence */
}

int rondo__cpu_for(struct rondo_device *dev, int64_t items, int (*work)(void *arg, int64_t item, int worker),
                   void *arg, const struct rondo_poll *poll)
{
    return loop_over(dev, rondo__cpu_workers(dev, items), items, work, arg, poll);
}

int rondo__cpu_host_run(struct rondo_device *dev, int32_t threads, int64_t items, int (*work)(void *arg, int64_t item, int worker), void *arg,
                        const struct rondo_poll *poll)
{
    const int workers = rondo__cpu_workers(dev, items);
    dev->lent = 1;
    int err = loop_over(dev, threads > 0 && threads < workers ? threads : workers, items, work, arg, poll);
    dev->lent = 0;
    return err;
}

void rondo__cpu_huge(void *memory, size_t bytes)
{
#ifdef MADV_HUGEPAGE
    const uintptr_t large = RONDO_CPU_LARGE_PAGE;
    uintptr_t from = ((uintptr_t)memory + large - 1) & ~(large - 1),
              to = ((uintptr_t)memory + bytes) & ~(large - 1);
    if (memory && from < to)
        (void)madvise((void *)from, to - from, MADV_HUGEPAGE);
#else
    (void)memory;
    (void)bytes;
#endif
}

void *rondo__cpu_paged(size_t bytes, void **block)
{
    const size_t large = RONDO_CPU_LARGE_PAGE, slack = bytes >= 2 * large ? large - 1 : 0;
    size_t all;
    *block = rondo__add(bytes, slack, &all) ? rondo__alloc(all) : NULL;
    if (!*block || !slack)
        return *block;
    void *memory = (char *)*block + (large - 1 - ((uintptr_t)*block + large - 1) % large);
    rondo__cpu_huge(memory, bytes);
    return memory;
}
