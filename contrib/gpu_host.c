/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What an execution of a plan of attention costs the host: a library that stands between a program and rondo, and between rondo and CUDA's driver, and
 * looks at the clock.
 *
 *     cc -shared -fPIC gpu_host.c -o gpu_host.so -ldl && LD_PRELOAD=./gpu_host.so ./gpu_bench cuda host
 *
 * Of the last 200 executions of each plan it says, when the plan goes, the medians of: the whole; the wait for the card, which is the last call that
 * waits (where rondo asks again and again, from the first question to the last one); the host's part, which is all else; of this the driver's calls, by
 * name, and rondo's own. Then the calls in their order, with the time before each. x86-64 only: all calls are passed on as eleven words.
 *
 * A program that looks for gpu_host_card() and calls it with 1 has, until it calls it with 0, the card's part looked at instead, by events around each of
 * rondo's launches; then come the medians of what the card did in an execution, one thing after the other: rondo's kernels, by name, and before,
 * between and behind them what is not rondo's, as cuDNN's are, the first of these with the time that its launch takes.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { RUNS = 200, CALLS = 64, LEAST_RUNS = 10, MARKS = 24, NAMES = 128, NOT_READY = 600 };

#define DRIVER(X) \
    X(cuCtxSetCurrent) X(cuPointerGetAttribute) X(cuMemcpyAsync) X(cuMemcpy2DAsync_v2) X(cuLaunchKernel) X(cuLaunchKernelEx) X(cuStreamWaitEvent) \
    X(cuEventRecord) X(cuEventQuery) X(cuEventSynchronize) X(cuStreamSynchronize)
enum {
#define X(name) ID_##name,
    DRIVER(X)
#undef X
    FUNCTIONS
};
static const char *const names[FUNCTIONS] = {
#define X(name) #name,
    DRIVER(X)
#undef X
};

struct call {
    int function, result;
    uint64_t begin, end;
};
static struct run {
    uint64_t begin, end;
    int calls;
    struct call call[CALLS];
} run[RUNS];
static long runs;                  /* of this plan */
static __thread struct run *now;   /* under way in this thread */

static uint64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- the driver ---- */

typedef long word;
typedef int (*passed)(word, word, word, word, word, word, word, word, word, word, word);
static passed real[FUNCTIONS];

static int waits(int function) { return function == ID_cuEventQuery || function == ID_cuEventSynchronize || function == ID_cuStreamSynchronize; }

/* ---- the card's part ---- */

static struct {
    int (*create)(void **, unsigned), (*record)(void *, void *), (*elapsed)(float *, void *, void *);
    struct {
        void *function;
        const char *name;
    } names[NAMES];
    int named, on, marks, count, wrong;
    void *stream, *event[MARKS];
    const char *of[MARKS], *usual[MARKS];      /* what lies before a mark; NULL: nothing of rondo's */
    double took[RUNS][MARKS];                  /* microseconds */
    int usual_marks;
} card;

/* again: in place of the last one */
static void mark(const char *of, int again)
{
    if (!card.stream || card.marks - again >= MARKS)
        return;
    void **event = card.event + card.marks - again;
    if (!*event && card.create(event, 0))
        return;
    card.of[card.marks - again] = of;
    card.marks += !again;
    card.wrong |= card.record(*event, card.stream) != 0;
}

static const char *name_of(const void *function)
{
    for (int i = 0; i < card.named; i++)
        if (card.names[i].function == function)
            return card.names[i].name;
    return "a kernel";
}

/* Of an execution that is over. */
static void measure(void)
{
    if (card.count == RUNS || card.marks < 2)
        return;
    card.wrong |= card.count && card.marks != card.usual_marks;
    for (int i = 1; i < card.marks; i++) {
        float ms = 0;
        card.wrong |= card.elapsed(&ms, card.event[i - 1], card.event[i]) != 0 || (card.count && card.usual[i] != card.of[i]);
        card.took[card.count][i] = 1e3 * (double)ms;
        card.usual[i] = card.of[i];
    }
    card.usual_marks = card.marks;
    card.count++;
}

static void note(int function, uint64_t begin, int result)
{
    struct call *last = now->calls ? now->call + now->calls - 1 : NULL;
    if (last && function == ID_cuEventQuery && last->function == function && last->result == NOT_READY) {
        last->end = clock_ns();
        last->result = result;
    } else if (now->calls < CALLS) {
        now->call[now->calls++] = (struct call){ function, result, begin, clock_ns() };
    }
}

static void before(int function, word second, word ninth)
{
    if (function == ID_cuLaunchKernel)
        card.stream = (void *)ninth;
    if (!now || !card.on)
        return;
    if (function == ID_cuLaunchKernel || (function == ID_cuEventRecord && (void *)second == card.stream))
        mark(NULL, 0);
    else if (function == ID_cuCtxSetCurrent)
        mark(NULL, card.marks == 1);       /* where it begins: behind the last of these */
}

#define X(name) \
    static int between_##name(word a, word b, word c, word d, word e, word f, word g, word h, word i, word j, word k) \
    { \
        before(ID_##name, b, i); \
        const uint64_t begin = clock_ns(); \
        const int result = real[ID_##name](a, b, c, d, e, f, g, h, i, j, k); \
        if (now && !card.on) \
            note(ID_##name, begin, result); \
        if (now && card.on && ID_##name == ID_cuLaunchKernel) \
            mark(name_of((const void *)a), 0); \
        return result; \
    }
DRIVER(X)
#undef X
static const passed between[FUNCTIONS] = {
#define X(name) between_##name,
    DRIVER(X)
#undef X
};

static void *found(void *library, const char *name)
{
    static void *(*look)(void *, const char *);
    if (!look)
        *(void **)&look = dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.34");
    if (!look)
        *(void **)&look = dlvsym(RTLD_NEXT, "dlsym", "GLIBC_2.2.5");
    return look(library, name);
}

static int (*real_function)(void **, void *, const char *);
static int between_function(void **function, void *module, const char *name)
{
    const int result = real_function(function, module, name);
    if (!result && card.named < NAMES) {
        card.names[card.named].function = *function;
        card.names[card.named++].name = name;
    }
    return result;
}

void *dlsym(void *library, const char *name)
{
    void *at = found(library, name);
    if (at && !strcmp(name, "cuModuleGetFunction")) {
        *(void **)&real_function = at;
        *(void **)&card.create = found(library, "cuEventCreate");
        *(void **)&card.record = found(library, "cuEventRecord");
        *(void **)&card.elapsed = found(library, "cuEventElapsedTime");
        int (*const between_it)(void **, void *, const char *) = between_function;
        return *(void *const *)&between_it;
    }
    for (int i = 0; at && i < FUNCTIONS; i++)
        if (!strcmp(name, names[i])) {
            *(void **)&real[i] = at;
            return *(void *const *)&between[i];
        }
    return at;
}

/* ---- what has been seen ---- */

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double of_runs[RUNS];
static double quantile(int count, double part)
{
    qsort(of_runs, (size_t)count, sizeof *of_runs, by_value);
    return of_runs[(int)(part * (count - 1) + 0.5)];
}

/* Microseconds of a run. */
static double whole(const struct run *r) { return 1e-3 * (double)(r->end - r->begin); }
static double waited(const struct run *r)
{
    for (int i = r->calls; i-- > 0;)
        if (waits(r->call[i].function))
            return 1e-3 * (double)(r->call[i].end - r->call[i].begin);
    return 0;
}
static double spent(const struct run *r, int function)
{
    double all = 0;
    int last = r->calls;
    while (last-- > 0 && !waits(r->call[last].function))
        continue;
    for (int i = 0; i < r->calls; i++)
        if (i != last && (function < 0 || r->call[i].function == function))
            all += 1e-3 * (double)(r->call[i].end - r->call[i].begin);
    return all;
}

#define MEDIAN(expression) ({ for (int n = 0; n < count; n++) { const struct run *r = run + n; of_runs[n] = (expression); } quantile(count, 0.5); })

static void say(void)
{
    const int count = runs < RUNS ? (int)runs : RUNS;
    if (count < LEAST_RUNS)
        return;
    const struct run *last = run + (runs - 1) % RUNS;
    double stamp = 0;
    const uint64_t begin = clock_ns();
    for (int i = 0; i < 1000; i++)
        stamp = (double)(clock_ns() - begin);
    const double host = MEDIAN(whole(r) - waited(r)), low = quantile(count, 0.1), high = quantile(count, 0.9);
    const double all = MEDIAN(whole(r)), wait = MEDIAN(waited(r)), driver = MEDIAN(spent(r, -1)), own = MEDIAN(whole(r) - waited(r) - spent(r, -1));
    printf("host: %d executions, %d calls of the driver: %.2f us each, %.2f of them a wait; the host's part %.2f (%.2f to %.2f): driver %.2f, rondo's own "
           "%.2f; a look at the clock is %.3f\n", count, last->calls, all, wait, host, low, high, driver, own, stamp * 1e-6);
    printf("host: of the driver");
    for (int f = 0; f < FUNCTIONS; f++) {
        int calls = 0;
        for (int i = 0; i < last->calls; i++)
            calls += last->call[i].function == f;
        const double took = MEDIAN(spent(r, f));
        if (calls)
            printf(", %d %s %.2f", calls, names[f], took);
    }
    printf("\nhost: in order:");
    for (int i = 0; i < last->calls; i++) {
        for (int n = 0; n < count; n++)
            if (run[n].calls != last->calls || run[n].call[i].function != last->call[i].function)
                goto differ;
        const double before = MEDIAN(1e-3 * (double)(r->call[i].begin - (i ? r->call[i - 1].end : r->begin)));
        const double took = MEDIAN(1e-3 * (double)(r->call[i].end - r->call[i].begin));
        printf(" %.2f, %s %.2f;", before, names[last->call[i].function] + 2, took);
    }
    printf(" %.2f\n", MEDIAN(last->calls ? 1e-3 * (double)(r->end - r->call[r->calls - 1].end) : 0));
    fflush(stdout);
    return;
differ:
    printf(" executions differ\n");
    fflush(stdout);
}

void gpu_host_card(int on);
void gpu_host_card(int on)
{
    const int count = card.count;
    card.on = on && card.create && card.record && card.elapsed;
    if (!on && count && !card.wrong) {
        double all = 0;
        printf("card: %d executions, microseconds:", count);
        for (int i = 1; i < card.usual_marks; i++) {
            for (int n = 0; n < count; n++)
                of_runs[n] = card.took[n][i];
            const double took = quantile(count, 0.5);
            all += took;
            printf(" %s %.1f,", card.usual[i] ? card.usual[i] : "others", took);
        }
        printf(" together %.1f\n", all);
    } else if (!on) {
        printf("card: %s\n", count ? "executions differ" : "nothing was seen");
    }
    fflush(stdout);
    card.count = card.wrong = 0;
}

int rondo_attention_execute(void *plan, const void *io, void *workspace)
{
    static int (*execute)(void *, const void *, void *);
    static struct run other;
    if (!execute)
        *(void **)&execute = found(RTLD_NEXT, "rondo_attention_execute");
    now = card.on ? &other : run + runs++ % RUNS;
    card.marks = 0;
    now->calls = 0;
    now->begin = clock_ns();
    const int err = execute(plan, io, workspace);
    now->end = clock_ns();
    now = NULL;
    if (card.on)
        measure();
    return err;
}

void rondo_attention_destroy(void *plan)
{
    static void (*destroy)(void *);
    if (!destroy)
        *(void **)&destroy = found(RTLD_NEXT, "rondo_attention_destroy");
    say();
    runs = 0;
    destroy(plan);
}
