/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Sleeping and waking for the thread transport and for the threads inside a rank, by futex on Linux (Franke, Russell, Kirkwood
 * 2002) and by a condition variable elsewhere. Where nobody sleeps, ringing costs one atomic addition and one load.
 */
#define _GNU_SOURCE   /* syscall */
#include "backends/bell.h"

#include <errno.h>
#include <time.h>

#include "core/internal.h"

uint32_t rondo__bell_count(struct rondo_bell *b)
{
    /* acquire: pairs with the addition in ring(), so that what was changed before the ring is seen after it */
    return atomic_load_explicit(&b->rings, memory_order_acquire);
}

static struct timespec interval(double seconds)
{
    struct timespec t;
    if (seconds < 0.0)
        seconds = 0.0;
    t.tv_sec = (time_t)seconds;
    t.tv_nsec = (long)((seconds - (double)t.tv_sec) * 1e9);
    return t;
}

#ifndef RONDO_BELL_CONDITION

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

int rondo__bell_init(struct rondo_bell *b)
{
    atomic_init(&b->rings, 0);
    atomic_init(&b->sleepers, 0);
    return 0;
}

void rondo__bell_end(struct rondo_bell *b)
{
    (void)b;
}

/* Waits while *word is `seen`, at most so long. The kernel knows two calls where time_t outgrew a long (32-bit machines with
 * 64-bit times): the old one takes two longs and must not be given our timespec; the new one came with Linux 5.1. */
static void wait_while(_Atomic uint32_t *word, uint32_t seen, const struct timespec *t)
{
#ifdef SYS_futex_time64
    if (sizeof t->tv_sec > sizeof(long)) {
        if (syscall(SYS_futex_time64, word, FUTEX_WAIT_PRIVATE, seen, t, NULL, 0) == 0 || errno != ENOSYS)
            return;
    }
#endif
#ifdef SYS_futex
#if defined(__ILP32__) && defined(__x86_64__)
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, t, NULL, 0);   /* x32 has 64-bit times and one call */
#else
    const long old[2] = { (long)t->tv_sec, (long)t->tv_nsec };
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, old, NULL, 0);
#endif
#endif
}

static void wake(_Atomic uint32_t *word, int enough)
{
#ifdef SYS_futex
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, enough, NULL, NULL, 0);
#else   /* newer 32-bit machines */
    syscall(SYS_futex_time64, word, FUTEX_WAKE_PRIVATE, enough, NULL, NULL, 0);
#endif
}

/* The ringer adds to rings, then reads sleepers; a sleeper adds to sleepers, then the kernel compares rings. All four are
 * sequentially consistent, so one of the two sees the other: no wake is lost. */
void rondo__bell_ring(struct rondo_bell *b, int enough)
{
    /* seq_cst; also release: pairs with count() */
    atomic_fetch_add_explicit(&b->rings, 1, memory_order_seq_cst);
    /* seq_cst: pairs with the store in sleep() */
    if (atomic_load_explicit(&b->sleepers, memory_order_seq_cst))
        wake(&b->rings, enough);
}

void rondo__bell_sleep(struct rondo_bell *b, uint32_t seen, double until)
{
    double left = until - rondo__now();
    if (left <= 0.0)
        return;
    struct timespec t = interval(left < 3600.0 ? left : 3600.0);
    /* seq_cst: pairs with the load in ring() */
    atomic_fetch_add_explicit(&b->sleepers, 1, memory_order_seq_cst);
    wait_while(&b->rings, seen, &t);
    /* relaxed: a ringer that still reads it makes one system call in vain */
    atomic_fetch_sub_explicit(&b->sleepers, 1, memory_order_relaxed);
}

#else

int rondo__bell_init(struct rondo_bell *b)
{
    atomic_init(&b->rings, 0);
    atomic_init(&b->sleepers, 0);
    if (pthread_mutex_init(&b->mutex, NULL))
        return -1;
    if (pthread_cond_init(&b->condition, NULL) == 0)
        return 0;
    pthread_mutex_destroy(&b->mutex);
    return -1;
}

void rondo__bell_end(struct rondo_bell *b)
{
    pthread_cond_destroy(&b->condition);
    pthread_mutex_destroy(&b->mutex);
}

void rondo__bell_ring(struct rondo_bell *b, int enough)
{
    (void)enough;
    /* Under the mutex, so that a sleeper is either before its look at rings or already asleep. */
    pthread_mutex_lock(&b->mutex);
    atomic_fetch_add_explicit(&b->rings, 1, memory_order_release);   /* pairs with count() */
    if (atomic_load_explicit(&b->sleepers, memory_order_relaxed))    /* ordered by the mutex */
        pthread_cond_broadcast(&b->condition);
    pthread_mutex_unlock(&b->mutex);
}

void rondo__bell_sleep(struct rondo_bell *b, uint32_t seen, double until)
{
    double left = until - rondo__now();
    if (left <= 0.0)
        return;
    struct timespec now, t = interval(left < 1.0 ? left : 1.0);   /* short naps: the wall clock may be set meanwhile */
    clock_gettime(CLOCK_REALTIME, &now);
    t.tv_sec += now.tv_sec;
    t.tv_nsec += now.tv_nsec;
    if (t.tv_nsec >= 1000000000) {
        t.tv_nsec -= 1000000000;
        t.tv_sec++;
    }
    pthread_mutex_lock(&b->mutex);
    atomic_fetch_add_explicit(&b->sleepers, 1, memory_order_relaxed);    /* ordered by the mutex */
    if (rondo__bell_count(b) == seen)
        pthread_cond_timedwait(&b->condition, &b->mutex, &t);
    atomic_fetch_sub_explicit(&b->sleepers, 1, memory_order_relaxed);    /* ordered by the mutex */
    pthread_mutex_unlock(&b->mutex);
}

#endif
