/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Threads inside a rank, made for machines that others use too. A token of a small model is some 300 loops of 100 us each,
 * and any of them would wait a time slice for a thread that the system has put aside. So nobody waits for a thread to come:
 * the caller starts at once, helpers join while there is work, and when the caller finds none left it closes the gate and
 * waits only for those inside. Two things may still hurt: a helper that is put aside inside, and one that the system runs on
 * the caller's own core. Both are noticed, and that helper rests for a while (see blame()).
 *
 * The gate is one word: generation of the run, whether it is open, how many helpers are inside. A helper enters by adding
 * itself to exactly the word that it saw, so it cannot enter a run that is over; the caller changes what belongs to a run
 * only while the gate is closed and empty.
 */
#define _GNU_SOURCE /* sched_getcpu */
#include "backends/cpu/team.h"

#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>
#include <unistd.h>

#include "backends/bell.h"

#if defined(__x86_64__) || defined(__i386__)
#define PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define PAUSE() __asm__ volatile("yield")
#else
#define PAUSE() ((void)0)
#endif

/* Before it sleeps, a thread looks for so long: the gap between two loops of a layer is shorter, waking takes as long. */
#define SPIN_SECONDS 20e-6
#define LOOKS_PER_CLOCK 16
/* While the caller waits with transfers to keep going, it sleeps no longer than this at a time; so does a helper until it sees
 * whether the system has given it another core. */
#define NAP_SECONDS 300e-6
/* A helper rests when it cost this part of the time since its last rest and more than a moment, at first for the shorter time,
 * then for twice the last one, up to the longer; one that did well for TRUST_SECONDS is trusted anew. */
#define LOST_PART 0.15
#define LOST_LEAST 0.5e-3
#define REST_LEAST 1e-3
#define REST_MOST 64e-3
#define TRUST_SECONDS 100e-3

/* What kernels put on the stack is small; the rest is for the system, sanitizers and thread-local data of the host. */
#define STACK_BYTES ((size_t)1 << 20)

#define OPEN ((uint64_t)1 << 31)
#define INSIDE (OPEN - 1)
static uint32_t generation_of(uint64_t gate) { return (uint32_t)(gate >> 32); }

struct helper {
    _Alignas(64) struct rondo_bell bell;
    struct rondo_team *team;
    _Atomic uint32_t invited;           /* the generation that it may enter */
    _Atomic int32_t inside, crossed;    /* crossed: found itself on the caller's core */
    _Atomic uint64_t rest_until;        /* it enters nothing before; nanoseconds of rondo__now() */
    int32_t worker;                     /* its number in that generation */
    int32_t has_clock, resting;         /* resting: when the present run began */
    pthread_t thread;
    clockid_t clock;                    /* of its processor time */
    /* the caller's book about it: seconds */
    double lost, since, rest, ran;
};

struct rondo_team {
    _Alignas(64) _Atomic uint64_t gate;
    _Atomic int32_t stop;
    /* of the present run */
    void (*run)(void *arg, int worker);
    void *arg;
    int32_t cpu;                        /* the caller's core, -1: unknown */
    /* the caller's */
    int32_t threads, made;              /* made: helpers that run */
    bool crowded;
    unsigned forks;
    _Alignas(64) struct rondo_bell done;   /* the last to leave a closed gate rings it */
    struct helper helper[];
};

/* ---- forks ---- */

static _Atomic unsigned forks;
static pthread_once_t fork_once = PTHREAD_ONCE_INIT;

static void forked(void)
{
    atomic_fetch_add_explicit(&forks, 1, memory_order_relaxed); /* the child has one thread */
}

static void watch_forks(void) { (void)pthread_atfork(NULL, NULL, forked); }

unsigned rondo__team_forks(void)
{
    pthread_once(&fork_once, watch_forks);
    return atomic_load_explicit(&forks, memory_order_relaxed);
}

/* ---- helpers ---- */

static int core_now(void)
{
#ifdef __linux__
    return sched_getcpu();
#else
    return -1;
#endif
}

/* Inside. false: this is the caller's core, where a helper only takes time from it. */
static bool work(struct helper *h, uint32_t generation)
{
    struct rondo_team *t = h->team;
    int cpu = core_now();
    bool apart = cpu < 0 || cpu != t->cpu;
    if (apart) {
        atomic_store_explicit(&h->inside, 1, memory_order_relaxed); /* for the caller's book only, as crossed */
        /* once in a run */
        atomic_store_explicit(&h->invited, generation - 1, memory_order_relaxed);
        t->run(t->arg, h->worker);
        atomic_store_explicit(&h->inside, 0, memory_order_relaxed);
    } else {
        atomic_store_explicit(&h->crossed, 1, memory_order_relaxed);
    }
    /* release: what was computed is seen by the caller, who loads the gate; acquire: with the close that it may see */
    uint64_t gate = atomic_fetch_sub_explicit(&t->gate, 1, memory_order_acq_rel);
    if ((gate & (OPEN | INSIDE)) == 1)
        rondo__bell_ring(&t->done, 1);
    return apart;
}

static uint64_t nanoseconds(double seconds) { return (uint64_t)(seconds * 1e9); }

static bool rests(const struct helper *h, double now)
{
    return atomic_load_explicit(&h->rest_until, memory_order_relaxed) > nanoseconds(now); /* nothing else hangs on it */
}

static bool may_enter(const struct helper *h, uint64_t gate)
{
    return (gate & OPEN) && atomic_load_explicit(&h->invited, memory_order_relaxed) == generation_of(gate) &&
           (!atomic_load_explicit(&h->rest_until, memory_order_relaxed) || !rests(h, rondo__now()));
}

static void *helper_main(void *arg)
{
    struct helper *h = arg;
    struct rondo_team *t = h->team;
    double spin_until = 0.0;
    for (unsigned looks = 0;; looks++) {
        uint32_t seen = rondo__bell_count(&h->bell);
        /* acquire: pairs with the store that opens, so that what belongs to the run is seen */
        uint64_t gate = atomic_load_explicit(&t->gate, memory_order_acquire);
        if (may_enter(h, gate)) {
            /* acquire: as above; the gate may have closed, and opened again, since the load */
            if (atomic_compare_exchange_strong_explicit(&t->gate, &gate, gate + 1, memory_order_acquire, memory_order_relaxed)) {
                if (!work(h, generation_of(gate)))
                    rondo__bell_sleep(&h->bell, seen, rondo__now() + NAP_SECONDS);
                spin_until = 0.0;
            }
            continue;
        }
        if (atomic_load_explicit(&t->stop, memory_order_acquire))
            return NULL;
        if (looks % LOOKS_PER_CLOCK == 0) {
            double now = rondo__now();
            if (spin_until == 0.0)
                spin_until = now + (t->crowded ? 0.0 : SPIN_SECONDS);
            if (now >= spin_until) {
                /* a rest ends by itself, so that a long run finds it on the way */
                double rest = 1e-9 * (double)atomic_load_explicit(&h->rest_until, memory_order_relaxed);
                rondo__bell_sleep(&h->bell, seen, rest > now ? rest + 1e-6 : now + 3600.0);
                spin_until = 0.0;
            }
        }
        PAUSE();
    }
}

static int start_helper(struct rondo_team *t, int index)
{
    struct helper *h = t->helper + index;
    pthread_attr_t attributes;
    sigset_t all, before;
    *h = (struct helper){ .team = t };
    if (rondo__bell_init(&h->bell))
        return rondo__fail(RONDO_ENOMEM, "no bell for thread %d of a rank; use fewer threads", index + 2);
    /* signals are for the host program's threads */
    sigfillset(&all);
    int why = pthread_attr_init(&attributes);
    if (!why) {
        (void)pthread_attr_setstacksize(&attributes, STACK_BYTES);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        why = pthread_create(&h->thread, &attributes, helper_main, h);
        pthread_sigmask(SIG_SETMASK, &before, NULL);
        pthread_attr_destroy(&attributes);
    }
    if (why) {
        rondo__bell_end(&h->bell);
        return rondo__fail(RONDO_ENOMEM, "only %d of the %d threads of a rank could be started (%s); use fewer, or raise the limit on "
                           "threads", index + 1, t->threads, strerror(why));
    }
#if defined(_POSIX_THREAD_CPUTIME) && _POSIX_THREAD_CPUTIME >= 0
    h->has_clock = pthread_getcpuclockid(h->thread, &h->clock) == 0;
#endif
    t->made = index + 1;
    return 0;
}

/* ---- the team ---- */

struct rondo_team *rondo__team_new(int threads, bool crowded)
{
    size_t bytes = sizeof(struct rondo_team), helpers;
    if (!rondo__mul((size_t)(threads - 1), sizeof(struct helper), &helpers) || !rondo__add(bytes, helpers, &bytes))
        return NULL;
    struct rondo_team *t = rondo__alloc_zero(1, bytes);
    if (!t)
        return NULL;
    t->threads = threads;
    t->crowded = crowded;
    t->forks = rondo__team_forks();
    if (rondo__bell_init(&t->done)) {
        rondo__free(t);
        return NULL;
    }
    return t;
}

void rondo__team_free(struct rondo_team *t)
{
    if (!t)
        return;
    if (t->forks == rondo__team_forks()) {
        /* release: pairs with the load in helper_main() */
        atomic_store_explicit(&t->stop, 1, memory_order_release);
        for (int i = 0; i < t->made; i++)
            rondo__bell_ring(&t->helper[i].bell, 1);
        for (int i = 0; i < t->made; i++) {
            pthread_join(t->helper[i].thread, NULL);
            rondo__bell_end(&t->helper[i].bell);
        }
        rondo__bell_end(&t->done);
    }
    rondo__free(t);
}

/* In a child of fork there are no helpers, whatever the memory says, and nobody is inside. */
static int made_anew(struct rondo_team *t)
{
    t->forks = rondo__team_forks();
    t->made = 0;
    atomic_store(&t->gate, atomic_load(&t->gate) & ~(OPEN | INSIDE));
    return rondo__bell_init(&t->done) ? rondo__fail(RONDO_ENOMEM, "no bell for the threads of a rank") : 0;
}

/* ---- the caller's book ---- */

/* seconds: of the caller's time that this helper cost. */
static void blame(struct helper *h, double seconds, double now)
{
    h->lost += seconds;
    if (h->lost > LOST_LEAST && h->lost > LOST_PART * (now - h->since)) {
        h->rest = h->rest == 0.0 ? REST_LEAST : h->rest < REST_MOST ? 2.0 * h->rest : REST_MOST;
        h->since = now + h->rest;
        h->lost = 0.0;
        atomic_store_explicit(&h->rest_until, nanoseconds(h->since), memory_order_relaxed);
        rondo__bell_ring(&h->bell, 1); /* it may have gone to sleep for longer */
    } else if (now - h->since > TRUST_SECONDS) {
        h->since = now;
        h->lost = h->rest = 0.0;
    }
}

static double ran(const struct helper *h)
{
    struct timespec t;
    return h->has_clock && clock_gettime(h->clock, &t) == 0 ? (double)t.tv_sec + 1e-9 * (double)t.tv_nsec : -1.0;
}

/* Until nobody is inside. A helper that is inside and does not run meanwhile is to blame for that time. */
static void wait_for_helpers(struct rondo_team *t, void (*idle)(void *arg))
{
    double began = 0.0, slept = 0.0;
    for (unsigned looks = 0;; looks++) {
        uint32_t seen = rondo__bell_count(&t->done);
        /* acquire: pairs with the subtraction in work() */
        if (!(atomic_load_explicit(&t->gate, memory_order_acquire) & INSIDE))
            break;
        if (idle)
            idle(t->arg);
        if (looks % LOOKS_PER_CLOCK == 0 || slept != 0.0) {
            double now = rondo__now();
            if (began == 0.0)
                began = now;
            if (now - began >= SPIN_SECONDS || t->crowded) {
                for (int i = 0; slept == 0.0 && i < t->made; i++)
                    t->helper[i].ran = atomic_load_explicit(&t->helper[i].inside, memory_order_relaxed) ? ran(t->helper + i) : -1.0;
                if (slept == 0.0)
                    slept = now;
                rondo__bell_sleep(&t->done, seen, now + (idle ? NAP_SECONDS : 3600.0));
                continue;
            }
        }
        PAUSE();
    }
    if (slept == 0.0)
        return;
    double now = rondo__now();
    for (int i = 0; i < t->made; i++) {
        struct helper *h = t->helper + i;
        double since = h->ran < 0.0 ? -1.0 : ran(h) - h->ran;
        if (since >= 0.0 && now - slept > since)
            blame(h, now - slept - since, now);
    }
}

int rondo__team_run(struct rondo_team *t, int workers, void (*run)(void *arg, int worker), void (*idle)(void *arg), void *arg)
{
    int err = 0, called = 1;
    if (workers > t->threads)
        workers = t->threads;
    if (t->forks != rondo__team_forks())
        err = made_anew(t);
    while (!err && t->made < workers - 1)
        err = start_helper(t, t->made);
    if (err)
        return err;

    const double began = rondo__now();
    uint64_t gate = atomic_load_explicit(&t->gate, memory_order_relaxed); /* nobody else changes it while it is closed and empty */
    uint32_t generation = generation_of(gate) + 1;
    t->run = run;
    t->arg = arg;
    t->cpu = core_now();
    for (int i = 0; i < t->made; i++) {
        t->helper[i].resting = rests(t->helper + i, began);
        atomic_store_explicit(&t->helper[i].invited, generation - 1, memory_order_relaxed);
    }
    /* those that rest come after the others, and are not woken for it */
    for (int resting = 0; resting < 2; resting++)
        for (int i = 0; i < t->made && called < workers; i++)
            if (t->helper[i].resting == resting) {
                t->helper[i].worker = called++;
                atomic_store_explicit(&t->helper[i].invited, generation, memory_order_relaxed);
            }
    /* release: pairs with the loads in helper_main() */
    atomic_store_explicit(&t->gate, (uint64_t)generation << 32 | OPEN, memory_order_release);
    for (int i = 0; i < t->made; i++)
        if (!t->helper[i].resting && atomic_load_explicit(&t->helper[i].invited, memory_order_relaxed) == generation)
            rondo__bell_ring(&t->helper[i].bell, 1);
    run(arg, 0);
    /* acquire: what those wrote that have left already; release: they see that it is closed */
    if (atomic_fetch_and_explicit(&t->gate, ~OPEN, memory_order_acq_rel) & INSIDE)
        wait_for_helpers(t, idle);
    for (int i = 0; i < t->made; i++)
        if (atomic_load_explicit(&t->helper[i].crossed, memory_order_relaxed)) {
            double now = rondo__now();
            atomic_store_explicit(&t->helper[i].crossed, 0, memory_order_relaxed);
            blame(t->helper + i, now - began < NAP_SECONDS ? now - began : NAP_SECONDS, now);
        }
    return 0;
}
