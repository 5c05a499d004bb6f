/* SPDX-License-Identifier: BSD-2-Clause
 *
 * --trace FILE: what every rank did when, in the Chrome trace format (chrome://tracing, Perfetto): one process a rank, with a row of its work and
 * waits and rows of the messages that are under way meanwhile. Events are kept per rank while it runs, joined when it ends, and written once at the
 * end of the command.
 *
 * Processes on several hosts have clocks that began when their hosts did and do not run alike. So they meet in a barrier when the
 * command begins and again after each run, and a rank's times are laid on the line through the two moments at which it left them, as
 * rank 0's clock has it. No rank leaves a barrier before the last one has come, which is not before it has come itself: the ranks
 * left within the longest time that the barrier took any of them. That is how far two of them may be apart in the timeline.
 *
 * The timeline of a simulated schedule (plan_simulate.c) is written in the same way.
 */
#include "cli/target.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TRACE_NAME 56
#define TRACE_KIND 24
#define TRACE_MOST ((int64_t)4 << 20)   /* events kept; what comes later is counted and said */

struct event {
    double begin, end;
    uint64_t bytes;
    int32_t rank, peer, head_group, lane;   /* lane 0: the rank's own work and waits; others: messages under way */
    char name[TRACE_NAME], kind[TRACE_KIND];
};
struct events {
    struct event *at;
    int64_t count, space, lost;
};

/* Barriers of which the shortest counts: the first ones may open connections, and some rank may not be scheduled. */
#define MEETINGS 8
struct meetings {
    double left[MEETINGS], took[MEETINGS];
};
struct moment {
    double here, first;   /* the same moment by this rank's clock and by rank 0's */
    double within;        /* seconds */
};

static struct events all_events;
static int64_t aligned;   /* so many of them have common times */
static struct moment began;
static double apart;
static bool simulated;
static pthread_mutex_t all_lock = PTHREAD_MUTEX_INITIALIZER;

static void add(struct events *list, const struct event *e)
{
    if (list->count == list->space) {
        const int64_t space = list->space ? list->space * 2 : 256;
        struct event *more = list->count < TRACE_MOST ? room(space, sizeof *more) : NULL;
        if (!more) {
            list->lost++;
            return;
        }
        if (list->count)
            memcpy(more, list->at, (size_t)list->count * sizeof *more);
        free(list->at);
        list->at = more;
        list->space = space;
    }
    list->at[list->count++] = *e;
}

/* "pass-KV 3 of 7", "wait pass-KV 3 of 7", "attention 2 of 7", "pack k": what a schedule calls it; else the library's word. */
static void name_event(char name[TRACE_NAME], const rondo_trace_event *e)
{
    const bool waits = !strncmp(e->name, "wait ", 5), packs = !strcmp(e->name, "pack");
    if (!e->operation)
        snprintf(name, TRACE_NAME, "%s", e->name);
    else if (e->steps)
        snprintf(name, TRACE_NAME, "%s%s %d of %d", waits ? "wait " : packs ? "pack " : "", e->operation, e->step, e->steps);
    else
        snprintf(name, TRACE_NAME, "%s%s", waits ? "wait " : packs ? "pack " : "", e->operation);
}

static void on_event(void *user, const rondo_trace_event *e)
{
    if (user) {
        struct event mine = { .begin = e->begin, .end = e->end, .bytes = e->bytes, .rank = e->rank, .peer = e->peer,
                              .head_group = e->head_group };
        snprintf(mine.kind, sizeof mine.kind, "%s", e->name);
        name_event(mine.name, e);
        add(user, &mine);
    }
    progress_note();
}

void trace_simulated(void *user, const rondo_trace_event *e)
{
    (void)user;
    simulated = true;
    on_event(&all_events, e);
}

void trace_attach(rondo_context *ctx, void **handle)
{
    *handle = common.trace ? calloc(1, sizeof(struct events)) : NULL;
    rondo_context_trace(ctx, on_event, *handle);
}

static void join(const struct events *list)
{
    pthread_mutex_lock(&all_lock);
    for (int64_t i = 0; i < list->count; i++)
        add(&all_events, &list->at[i]);
    all_events.lost += list->lost;
    pthread_mutex_unlock(&all_lock);
}

static int meet(rondo_context *world, struct moment *m)
{
    const int ranks = rondo_context_ranks(world);
    struct meetings mine, *all = room(ranks, sizeof *all);
    size_t *sizes = room(ranks, sizeof *sizes);
    int code = rondo_agree(world, 0, all && sizes ? 0 : RONDO_ENOMEM, "memory for the trace");
    for (int r = 0; r < ranks && !code; r++)
        sizes[r] = sizeof mine;
    for (int i = 0; i < MEETINGS && !code; i++) {
        const double came = now();
        code = rondo_barrier(world);
        mine.left[i] = now();
        mine.took[i] = mine.left[i] - came;
    }
    if (!code)
        code = rondo_all_gather(world, &mine, all, sizes);
    for (int i = 0; i < MEETINGS && !code; i++) {
        double within = 0;
        for (int r = 0; r < ranks; r++)
            within = all[r].took[i] > within ? all[r].took[i] : within;
        if (i == 0 || within < m->within)
            *m = (struct moment){ mine.left[i], all[0].left[i], within };
    }
    free(all);
    free(sizes);
    return code;
}

int trace_begin(rondo_context *world)
{
    return common.trace ? meet(world, &began) : 0;
}

/* This process's new events in rank 0's time, which begins with `began`. */
static int align(rondo_context *world)
{
    struct moment ended;
    int code = meet(world, &ended);
    if (code)
        return code;
    const double mine = ended.here - began.here, firsts = ended.first - began.first, pace = mine > 0 && firsts > 0 ? firsts / mine : 1;
    for (; aligned < all_events.count; aligned++) {
        struct event *e = &all_events.at[aligned];
        e->begin = (e->begin - began.here) * pace;
        e->end = (e->end - began.here) * pace;
    }
    apart = began.within > apart ? began.within : apart;
    apart = ended.within > apart ? ended.within : apart;
    return 0;
}

/* From a rank that ends (ctx, handle), and, under MPI, once more with world: then rank 0 gets what the others hold. */
int trace_detach(rondo_context *ctx, void *handle, rondo_context *world)
{
    if (ctx)
        rondo_context_trace(ctx, NULL, NULL);
    if (handle) {
        struct events *list = handle;
        join(list);
        free(list->at);
        free(list);
    }
    if (!world || !common.trace)
        return 0;
    const int ranks = rondo_context_ranks(world), rank = rondo_context_rank(world);
    int code = align(world);
    if (code)
        return code;
    size_t *sizes = room(ranks, sizeof *sizes), *eights = room(ranks, sizeof *eights), total = 0;
    struct event *everything = NULL;
    const size_t bytes = rank ? (size_t)all_events.count * sizeof(struct event) : 0;
    code = rondo_agree(world, 0, sizes && eights ? 0 : RONDO_ENOMEM, "memory for the trace");
    for (int r = 0; r < ranks && !code; r++)
        eights[r] = sizeof *sizes;
    if (!code)
        code = rondo_all_gather(world, &bytes, sizes, eights);
    for (int r = 0; r < ranks && !code; r++)
        total += sizes[r];
    if (!code)
        everything = room((int64_t)total, 1);
    if (!code)
        code = rondo_agree(world, 0, everything ? 0 : RONDO_ENOMEM, "memory for the trace");
    if (!code)
        code = rondo_all_gather(world, all_events.at, everything, sizes);
    if (!code && rank == 0)
        for (size_t i = 0; i < total / sizeof *everything; i++)
            add(&all_events, &everything[i]);
    if (rank)
        all_events.count = 0;
    aligned = all_events.count;
    free(everything);
    free(sizes);
    free(eights);
    return code;
}

/* ---- rows ---- */

/* Viewers draw a row's events one after another or inside each other. A rank's work and waits are so; messages under way cross each other,
 * so they go into as many rows more as it takes. */
#define LANES_MOST 1024
#define LANE_ROWS 65536   /* a lane of rank r is thread LANE * LANE_ROWS + r, so that all threads have numbers of their own */
#define LANE_DEPTH 4
struct lane {
    double end[LANE_DEPTH];   /* of the events that the latest one lies in, the outermost first */
    int depth;
};

static bool is_message(const struct event *e)
{
    return e->peer >= 0 && strncmp(e->kind, "wait ", 5) != 0;
}

static int by_begin(const void *a, const void *b)
{
    const struct event *x = *(struct event *const *)a, *y = *(struct event *const *)b;
    if (x->rank != y->rank)
        return x->rank < y->rank ? -1 : 1;
    if (x->begin < y->begin || x->begin > y->begin)
        return x->begin < y->begin ? -1 : 1;
    return x->end > y->end ? -1 : x->end < y->end;
}

static bool fits(struct lane *l, const struct event *e)
{
    while (l->depth && l->end[l->depth - 1] <= e->begin)
        l->depth--;
    if (l->depth == LANE_DEPTH || (l->depth && e->end > l->end[l->depth - 1]))
        return false;
    l->end[l->depth++] = e->end;
    return true;
}

static int choose_lanes(void)
{
    struct event **order = room(all_events.count, sizeof *order);
    struct lane *lanes = room(LANES_MOST, sizeof *lanes);
    int used = 0;
    if (order && lanes) {
        for (int64_t i = 0; i < all_events.count; i++)
            order[i] = all_events.at + i;
        qsort(order, (size_t)all_events.count, sizeof *order, by_begin);
        for (int64_t i = 0; i < all_events.count; i++) {
            struct event *e = order[i];
            int k = 0;
            if (i && e->rank != order[i - 1]->rank)
                used = 0;
            if (!is_message(e))
                continue;
            while (k < used && k < LANES_MOST - 1 && !fits(lanes + k, e))
                k++;
            if (k == used) {
                lanes[used++].depth = 0;
                fits(lanes + k, e);
            }
            e->lane = k + 1;
        }
    }
    const bool fine = order && lanes;
    free(order);
    free(lanes);
    return fine ? 0 : fail(EXIT_ROOM, "not enough memory for the trace");
}

/* Ranks are shown as processes: their work first, and under it what is under way. */
static void write_names(FILE *f)
{
    int32_t most = -1;
    for (int64_t i = 0; i < all_events.count; i++)
        most = all_events.at[i].rank > most ? all_events.at[i].rank : most;
    for (int32_t r = 0; r <= most; r++) {
        fprintf(f, "%s\n{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":%d,\"tid\":%d,\"args\":{\"name\":\"rank %d\"}}", r ? "," : "", r, r, r);
        fprintf(f, ",\n{\"name\":\"process_sort_index\",\"ph\":\"M\",\"pid\":%d,\"tid\":%d,\"args\":{\"sort_index\":%d}}", r, r, r);
        fprintf(f, ",\n{\"name\":\"thread_name\",\"ph\":\"M\",\"pid\":%d,\"tid\":%d,\"args\":{\"name\":\"work\"}}", r, r);
    }
}

int trace_write(void)
{
    if (!common.trace || !ranks_first())
        return 0;
    struct target t;
    int code = target_open(&t, "--trace", common.trace);
    if (!code)
        code = choose_lanes();
    const int fd = code ? -1 : dup(t.fd);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "w");
    if (!code && !f)
        code = target_fail(&t, "created");
    if (!f && fd >= 0)
        close(fd);
    double origin = 0;
    for (int64_t i = 0; i < all_events.count; i++)
        if (!i || all_events.at[i].begin < origin)
            origin = all_events.at[i].begin;
    if (f) {
        fprintf(f, "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[");
        write_names(f);
        for (int64_t i = 0; i < all_events.count && !signals_pending(); i++) {
            const struct event *e = &all_events.at[i];
            /* names are the library's own words: no character of them needs an escape */
            fprintf(f, ",\n{\"name\":\"%s\",\"cat\":\"%s\",\"ph\":\"X\",\"pid\":%d,\"tid\":%d,\"ts\":%.3f,\"dur\":%.3f,\"args\":{\"peer\":%d,\"bytes\":%llu",
                    e->name, e->kind, e->rank, e->lane * LANE_ROWS + e->rank, (e->begin - origin) * 1e6, (e->end - e->begin) * 1e6, e->peer,
                    (unsigned long long)e->bytes);
            if (e->head_group >= 0)
                fprintf(f, ",\"head_group\":%d", e->head_group);
            fprintf(f, "}}");
        }
        fprintf(f, "\n],\"otherData\":{\"rondo\":\"%s\",\"lost\":%lld,\"apart\":%.3f%s}}\n", rondo_version(), (long long)all_events.lost,
                apart * 1e6, simulated ? ",\"simulated\":true" : "");
        const bool bad = ferror(f) != 0;
        if (fclose(f) || bad)
            code = target_fail(&t, "written");
    }
    code = target_close(&t, code);
    if (!code && all_events.lost)
        warn_user("warning: the trace lacks %lld events that found no memory", (long long)all_events.lost);
    free(all_events.at);
    memset(&all_events, 0, sizeof all_events);
    return code;
}
