/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Threads inside a rank: every item once, failures, the caller alone polls, a pool that the host program lends, children of
 * fork, and how many cores a process may use.
 */
#define _GNU_SOURCE   /* sched_setaffinity */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backends/cpu/cpu.h"
#include "core/hooks.h"
#include "scratch.h"
#include "tap.h"

#define ITEMS_MAX 3000

extern const struct rondo_device_ops rondo__cpu_device;

struct count {
    _Atomic int taken[ITEMS_MAX];
    _Atomic int at_once[64];      /* by worker: one item at a time */
    _Atomic int wrong, held;
    int limit, fail_item, hold;   /* hold: the first item that a helper takes ends after all others */
    int64_t items;
    _Atomic int64_t done;
    pthread_t caller;
};

static int count_item(void *arg, int64_t item, int worker)
{
    struct count *c = arg;
    if (worker < 0 || worker >= c->limit || (worker == 0) != (pthread_equal(pthread_self(), c->caller) != 0) ||
        atomic_fetch_add(&c->at_once[worker], 1) != 0)
        atomic_store(&c->wrong, 1);
    atomic_fetch_add(&c->taken[item], 1);
    /* time for a helper to come; awake, so that it is not given this core */
    for (double until = rondo__now() + 20e-3; !worker && item == 0 && c->hold && !atomic_load(&c->held) && rondo__now() < until;)
        ;
    if (worker && c->hold && !atomic_exchange(&c->held, 1)) {
        for (int i = 0; i < 600000 && atomic_load(&c->done) < c->items - 1; i++)
            usleep(100);
        if (atomic_load(&c->done) < c->items - 1)
            atomic_store(&c->wrong, 1);
    }
    atomic_fetch_add(&c->done, 1);
    atomic_fetch_sub(&c->at_once[worker], 1);
    return item == c->fail_item ? rondo__fail(RONDO_EIO, "item %lld, says the test", (long long)item) : 0;
}

static void count_begin(struct count *c, struct rondo_device *dev, int64_t items)
{
    memset(c, 0, sizeof *c);
    c->items = items;
    c->limit = rondo__cpu_workers(dev, items);
    c->fail_item = -1;
    c->caller = pthread_self();
}

static int each_once(const struct count *c)
{
    for (int64_t i = 0; i < c->items; i++)
        if (atomic_load(&c->taken[i]) != 1)
            return 0;
    return !atomic_load(&c->wrong);
}

static struct rondo_device *device(int threads, int crowded)
{
    struct rondo_device *dev = NULL;
    struct rondo_device_desc desc = { .threads = threads, .crowded = crowded };
    if (rondo__cpu_device.attach(&dev, &desc))
        exit(ok(0, "a device: %s", rondo_error_text()));
    return dev;
}

/* Rounds of loops of all sizes; 1 where all is right. */
static int rounds(struct rondo_device *dev, int count)
{
    static struct count c;
    static const int64_t items[] = { 1, 2, 3, 7, 64, ITEMS_MAX, 0, 5 };
    int right = 1;
    for (int i = 0; i < count; i++) {
        count_begin(&c, dev, items[i % 8]);
        right &= rondo__cpu_for(dev, c.items, count_item, &c, NULL) == 0 && each_once(&c);
    }
    return right;
}

static void test_loops(void)
{
    static struct count c;
    for (int threads = 1; threads <= 9; threads += threads == 3 ? 5 : 1)
        for (int crowded = 0; crowded < 2; crowded++) {
            struct rondo_device *dev = device(threads, crowded);
            ok(rounds(dev, 400), "%d threads%s: every item once, one at a time for each worker", threads, crowded ? ", crowded" : "");
            int told = 1;
            for (int i = 0; i < 40; i++) {
                count_begin(&c, dev, 40);
                c.fail_item = i;
                told &= rondo__cpu_for(dev, c.items, count_item, &c, NULL) == RONDO_EIO && strstr(rondo_error_text(), "says the test") &&
                        !atomic_load(&c.wrong);
            }
            ok(told, "  the code and sentence of whoever failed");
            rondo__cpu_device.detach(dev);
        }
}

/* Bound to a core of its own a helper comes to one of many loops, however busy the machine. */
static void test_held(void)
{
#ifdef __linux__
    static struct count c;
    cpu_set_t before, mine, rest;
    CPU_ZERO(&before);
    if (sched_getaffinity(0, sizeof before, &before) || CPU_COUNT(&before) < 2) {
        skip(1, "this process may use one core only");
        return;
    }
    CPU_ZERO(&mine);
    for (size_t i = 0; !CPU_COUNT(&mine); i++)
        if (CPU_ISSET(i, &before))
            CPU_SET(i, &mine);
    CPU_XOR(&rest, &before, &mine);
    int held[3] = { 0 }, right = 1;
    for (int i = 0; i < 3; i++) {
        struct rondo_device *dev = device(2 + i, i == 2);
        right &= sched_setaffinity(0, sizeof rest, &rest) == 0 && rounds(dev, 8);   /* where the helpers start, they stay */
        right &= sched_setaffinity(0, sizeof mine, &mine) == 0;
        for (int k = 0; k < 500 && !held[i]; k++) {
            count_begin(&c, dev, 40);
            c.hold = 1;
            right &= rondo__cpu_for(dev, c.items, count_item, &c, NULL) == 0 && each_once(&c);
            held[i] = atomic_load(&c.held);
        }
        rondo__cpu_device.detach(dev);
    }
    right &= sched_setaffinity(0, sizeof before, &before) == 0;
    ok(right && held[0] && held[1] && held[2], "a helper that stands still holds up nobody (%d %d %d)", held[0], held[1], held[2]);
#else
    skip(1, "threads cannot be bound to cores here");
#endif
}

struct polls {
    pthread_t caller;
    int count, stop_at, wrong;
};
static int poll_call(void *arg)
{
    struct polls *p = arg;
    p->wrong |= !pthread_equal(pthread_self(), p->caller);
    return ++p->count == p->stop_at ? rondo__fail(RONDO_ECANCELED, "stop, says the test") : 0;
}

static void test_polls(void)
{
    static struct count c;
    struct rondo_device *dev = device(3, 0);
    struct polls p = { .caller = pthread_self() };
    const struct rondo_poll poll = { poll_call, &p, NULL };
    int right = 1;
    for (int i = 0; i < 200; i++) {
        count_begin(&c, dev, 1 + i % 50);
        const int before = p.count;
        right &= rondo__cpu_for(dev, c.items, count_item, &c, &poll) == 0 && each_once(&c) && p.count > before;
    }
    ok(right && !p.wrong, "the caller polls in every loop, and it alone: %d times", p.count);
    p.count = 0;
    p.stop_at = 1;
    count_begin(&c, dev, ITEMS_MAX);
    is_int(rondo__cpu_for(dev, c.items, count_item, &c, &poll), RONDO_ECANCELED, "and its code stops the loop");
    rondo__cpu_device.detach(dev);
}

/* ---- a pool that the host lends ---- */

enum pool { IN_ORDER, BACKWARD, ELSEWHERE, AT_ONCE, NOTHING, POOLS };
static const char *const pool_names[POOLS] = { "on the caller in order", "on the caller backward", "on one other thread",
                                               "on many threads", "not at all" };
struct lent {
    enum pool kind;
    _Atomic int calls, most;
};
struct call {
    void (*work)(void *arg, int index);
    void *arg;
    int index, count;
};

static void *call_run(void *arg)
{
    const struct call *c = arg;
    for (int i = 0; i < c->count; i++)
        c->work(c->arg, c->index + i);
    return NULL;
}

static void pool_run(void *user, int count, void (*work)(void *arg, int index), void *arg)
{
    struct lent *lent = user;
    atomic_fetch_add(&lent->calls, 1);
    if (count > atomic_load(&lent->most))
        atomic_store(&lent->most, count);
    pthread_t thread[16];
    struct call call[16];
    switch (lent->kind) {
    case IN_ORDER:
        for (int i = 0; i < count; i++)
            work(arg, i);
        break;
    case BACKWARD:
        for (int i = count; i-- > 0;)
            work(arg, i);
        break;
    case ELSEWHERE:
        call[0] = (struct call){ work, arg, 0, count };
        if (!pthread_create(&thread[0], NULL, call_run, &call[0]))
            pthread_join(thread[0], NULL);
        break;
    case AT_ONCE:
        for (int i = 0; i < count; i++) {
            call[i] = (struct call){ work, arg, i, 1 };
            if (pthread_create(&thread[i], NULL, call_run, &call[i]))
                exit(ok(0, "a thread"));
        }
        for (int i = 0; i < count; i++)
            pthread_join(thread[i], NULL);
        break;
    default:
        break;
    }
}

static int two_ranks(rondo_context *ctx, void *arg)
{
    static struct count c[2];
    struct rondo_device *dev = rondo__dev(ctx);
    struct count *mine = c + rondo_context_rank(ctx);
    (void)arg;
    for (int i = 0; i < 50; i++) {
        count_begin(mine, dev, 100);
        if (rondo__cpu_for(dev, mine->items, count_item, mine, NULL) || !each_once(mine))
            return RONDO_EIO;
    }
    return 0;
}

static void test_lent(void)
{
    static struct count c;
    struct lent lent = { .kind = IN_ORDER };
    rondo_hooks hooks = RONDO_HOOKS_INIT;
    hooks.user = &lent;
    hooks.parallel = pool_run;
    is_int(rondo_set_hooks(&hooks), 0, "a pool is lent");
    for (int kind = 0; kind < POOLS; kind++) {
        struct rondo_device *dev = device(5, 0);
        lent.kind = (enum pool)kind;
        atomic_store(&lent.calls, 0);
        atomic_store(&lent.most, 0);
        const int right = rounds(dev, 80);
        ok(right && atomic_load(&lent.calls) == 60 && atomic_load(&lent.most) == 5, "%s: every item once; %d loops of at most %d calls",
           pool_names[kind], atomic_load(&lent.calls), atomic_load(&lent.most));
        count_begin(&c, dev, 40);
        c.fail_item = 11;
        is_int(rondo__cpu_for(dev, c.items, count_item, &c, NULL), RONDO_EIO, "  a failure comes through");
        rondo__cpu_device.detach(dev);
    }
    lent.kind = AT_ONCE;
    rondo_context_desc desc = RONDO_CONTEXT_DESC_INIT;
    desc.threads = 3;
    is_int(rondo_launch(2, &desc, two_ranks, NULL), 0, "two ranks borrow it at the same time");
    is_int(rondo_set_hooks(NULL), 0, "and it is given back");
    atomic_store(&lent.calls, 0);
    struct rondo_device *dev = device(3, 0);
    ok(rounds(dev, 8) && atomic_load(&lent.calls) == 0, "then threads of our own serve");
    rondo__cpu_device.detach(dev);
}

/* ---- forks ---- */

/* Runs f(dev) in a child; its result, or -1 where it hangs or dies. */
static int in_child(int (*f)(struct rondo_device *dev), struct rondo_device *dev)
{
    int status;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        alarm(60);   /* a child that hangs dies */
        _exit(f(dev));
    }
    return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Threads of this process; -1 where the system does not tell. */
static int threads_now(void)
{
    int count = 0;
    DIR *tasks = opendir("/proc/self/task");
    if (!tasks)
        return -1;
    for (struct dirent *e; (e = readdir(tasks));)
        count += e->d_name[0] != '.';
    closedir(tasks);
    return count;
}

/* Three threads, made anew. */
static int child_loops(struct rondo_device *dev)
{
    const int before = threads_now(), right = rounds(dev, 200), after = threads_now();
    return right && (after < 0 || after >= before + 2) ? 7 : 1;
}
static int child_detaches(struct rondo_device *dev)
{
    rondo__cpu_device.detach(dev);
    return 7;
}
static int child_ranks(struct rondo_device *dev)
{
    (void)dev;
    rondo_context_desc desc = RONDO_CONTEXT_DESC_INIT;
    desc.threads = 2;
    return rondo_launch(2, &desc, two_ranks, NULL) == 0 ? 7 : 1;
}
static int child_child(struct rondo_device *dev) { return rounds(dev, 20) ? in_child(child_loops, dev) : 1; }

/* ThreadSanitizer ends a child that starts threads. */
#if defined(__SANITIZE_THREAD__)
#define CHILDREN 0
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define CHILDREN 0
#endif
#endif
#ifndef CHILDREN
#define CHILDREN 1
#endif

static void test_forks(void)
{
    if (!CHILDREN) {
        skip(7, "the thread sanitizer does not let children of fork start threads");
        return;
    }
    struct rondo_device *dev = device(3, 0);
    is_int(in_child(child_loops, dev), 7, "a child computes, though its parent has not");
    ok(rounds(dev, 200), "the parent computes");
    is_int(in_child(child_loops, dev), 7, "then its child computes with the parent's device");
    is_int(in_child(child_child, dev), 7, "and the child's child");
    is_int(in_child(child_ranks, dev), 7, "a child starts ranks");
    is_int(in_child(child_detaches, dev), 7, "a child gives the device back");
    ok(rounds(dev, 200), "the parent goes on");
    rondo__cpu_device.detach(dev);
}

/* ---- cores ---- */

static const char *root;
static void put(const char *path, const char *text)
{
    char name[1024];
    snprintf(name, sizeof name, "%s%s", root, path);
    for (char *slash = name + strlen(root) + 1; (slash = strchr(slash, '/')) != NULL; *slash++ = '/') {
        *slash = 0;
        mkdir(name, 0777);
    }
    FILE *f = fopen(name, "w");
    if (!f || fputs(text, f) < 0 || fclose(f))
        exit(ok(0, "%s is written", name));
}

static void test_cores(void)
{
    scratch_make("2050-threads");
    root = scratch_dir;
    is_int(rondo__cores_quota(root), 0, "no control groups: no quota");
    put("/proc/self/cgroup", "0::/a.slice/b.scope\n");
    is_int(rondo__cores_quota(root), 0, "a group that is not to be seen: none");
    put("/sys/fs/cgroup/a.slice/b.scope/cpu.max", "max 100000\n");
    is_int(rondo__cores_quota(root), 0, "cpu.max says max: none");
    put("/sys/fs/cgroup/a.slice/b.scope/cpu.max", "350000 100000\n");
    is_int(rondo__cores_quota(root), 3, "three and a half: whole cores");
    put("/sys/fs/cgroup/a.slice/cpu.max", "200000 100000\n");
    is_int(rondo__cores_quota(root), 2, "the group around it has less");
    put("/sys/fs/cgroup/cpu.max", "50000 100000\n");
    is_int(rondo__cores_quota(root), 1, "and the container half a core: one");
    put("/sys/fs/cgroup/cpu.max", "rubbish\n");
    is_int(rondo__cores_quota(root), 2, "what is no number is no quota");
    put("/proc/self/cgroup", "0::/../../other\n");
    put("/sys/fs/cgroup/cpu.max", "400000 100000\n");
    is_int(rondo__cores_quota(root), 4, "a path out of the container: what is mounted counts");
    put("/proc/self/cgroup", "12:cpuset:/job\n5:cpu,cpuacct:/job\n0::/\n");
    put("/sys/fs/cgroup/cpu.max", "max 100000\n");
    put("/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "-1\n");
    put("/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", "100000\n");
    is_int(rondo__cores_quota(root), 0, "version 1 without a quota");
    put("/sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "600000\n");
    is_int(rondo__cores_quota(root), 6, "version 1 with one");
    scratch_remove();
#ifdef __linux__
    cpu_set_t before, one;
    rondo_context *ctx = NULL;
    rondo_context_info info = RONDO_CONTEXT_INFO_INIT;
    CPU_ZERO(&one);
    if (sched_getaffinity(0, sizeof before, &before) == 0) {
        for (size_t i = 0; i < CPU_SETSIZE && !CPU_COUNT(&one); i++)
            if (CPU_ISSET(i, &before))
                CPU_SET(i, &one);
        if (sched_setaffinity(0, sizeof one, &one) == 0) {
            ok(rondo_context_create(&ctx, NULL) == 0 && rondo_context_query(ctx, &info) == 0 && info.threads == 1,
               "bound to one core a rank takes one thread");
            rondo_context_destroy(ctx);
            struct rondo_device *dev = device(3, 0);
            ok(rounds(dev, 200), "and three threads, where asked for, do their work there");
            rondo__cpu_device.detach(dev);
            if (sched_setaffinity(0, sizeof before, &before))
                ok(0, "the affinity is given back");
        }
    }
#endif
}

/* ---- the device's threads, lent to work of the host's own ---- */

struct outer {
    struct count count;
    struct rondo_device *dev;
    _Atomic int inner;            /* items of loops inside that another thread than the asking one has run */
};

static int inner_item(void *arg, int64_t item, int worker)
{
    (void)item;
    if (worker || !pthread_equal(pthread_self(), *(pthread_t *)arg))
        return 1;
    return 0;
}

static int outer_item(void *arg, int64_t item, int worker)
{
    struct outer *o = arg;
    pthread_t self = pthread_self();
    if (rondo__cpu_for(o->dev, 5, inner_item, &self, NULL))
        atomic_fetch_add(&o->inner, 1);
    return count_item(&o->count, item, worker);
}

static void test_host_run(void)
{
    struct outer *o = calloc(1, sizeof *o);
    struct rondo_device *dev = device(5, 0);
    if (!o)
        scratch_die("no memory");
    for (int threads = 0; threads <= 7; threads++) {
        int right = 0;
        for (int round = 0; round < 20; round++) {
            count_begin(&o->count, dev, 40);
            o->dev = dev;
            o->count.limit = threads && threads < 5 ? threads : 5;
            right += !rondo__cpu_device.host_run(dev, threads, 40, outer_item, o, NULL) && each_once(&o->count) && !atomic_load(&o->inner);
        }
        is_int(right, 20, "host_run on at most %d threads: each item once, loops inside stay where they are", threads);
    }
    count_begin(&o->count, dev, 40);
    o->count.fail_item = 7;
    is_int(rondo__cpu_device.host_run(dev, 0, 40, outer_item, o, NULL), RONDO_EIO, "a failing item's code");
    ok(strstr(rondo_error_text(), "says the test") != NULL, "and its sentence");
    count_begin(&o->count, dev, 40);
    is_int(rondo__cpu_for(dev, 40, count_item, &o->count, NULL), 0, "afterwards loops run");
    ok(each_once(&o->count) && rondo__cpu_workers(dev, 40) == 5, "on all threads");
    is_int(rondo__cpu_device.host_run(dev, 0, 0, outer_item, o, NULL), 0, "nothing to do");
    rondo__cpu_device.detach(dev);
    free(o);
}

int main(void)
{
    test_forks();   /* first: nothing has computed yet */
    test_loops();
    test_held();
    test_polls();
    test_lent();
    test_host_run();
    test_cores();
    return done();
}
