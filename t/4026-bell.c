/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The bell by itself: a sleep lasts until the bell rings or the time is over, neither shorter nor longer. Where time_t is wider
 * than the kernel's old call takes (32-bit machines, -D_TIME_BITS=64) sleeps once lost what was less than a second, and spun.
 */
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include "backends/bell.h"
#include "core/internal.h"
#include "t/tap.h"

static struct rondo_bell bell;

static void *ring_later(void *unused)
{
    const struct timespec t = { 0, 200000000 };
    (void)unused;
    nanosleep(&t, NULL);
    rondo__bell_ring(&bell, 1);
    return NULL;
}

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int main(void)
{
    pthread_t thread;
    if (rondo__bell_init(&bell))
        return 1;
    uint32_t seen = rondo__bell_count(&bell);
    double begin = rondo__now();
    rondo__bell_sleep(&bell, seen, begin + 0.25);
    double lasted = rondo__now() - begin;
    ok(lasted >= 0.24, "nobody rings: the whole time is slept (%.3f of 0.25 s)", lasted);
    begin = rondo__now();
    rondo__bell_sleep(&bell, seen, begin - 1.0);
    ok(rondo__now() - begin < 0.2, "a time that is over is none");
    rondo__bell_ring(&bell, 1);
    begin = rondo__now();
    rondo__bell_sleep(&bell, seen, begin + 30.0);
    ok(rondo__now() - begin < 10.0, "a ring before the sleep is not lost");

    seen = rondo__bell_count(&bell);
    if (pthread_create(&thread, NULL, ring_later, NULL))
        return 1;
    const double busy = cpu_seconds();
    int sleeps = 0;
    begin = rondo__now();
    while (rondo__bell_count(&bell) == seen && rondo__now() - begin < 30.0) {
        rondo__bell_sleep(&bell, seen, begin + 30.0);
        sleeps++;
    }
    lasted = rondo__now() - begin;
    ok(lasted < 10.0 && rondo__bell_count(&bell) != seen, "a ring ends a long sleep (%.3f s)", lasted);
    ok(sleeps < 100 && cpu_seconds() - busy < 0.1, "which was one, and no spinning (%d sleeps, %.3f s of processor time)", sleeps, cpu_seconds() - busy);
    pthread_join(thread, NULL);
    rondo__bell_end(&bell);
    return done();
}
