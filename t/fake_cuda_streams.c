/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The fake driver's streams and events (fake_cuda.h). What is put into a stream waits there until somebody waits for something, or asks, or the
 * seed lets it happen; then operations happen one after the other in the thread that waits, the next one drawn from the streams whose first
 * operation may begin. The context's own stream (NULL) and those that are not CU_STREAM_NON_BLOCKING wait for each other, as CUDA has it.
 *
 * When an operation fails its context is lost: nothing more happens in it, and each call that needs it returns the code.
 */
#define _GNU_SOURCE   /* clock_gettime */
#include "t/fake_cuda.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#define FLAG_NON_BLOCKING 1u
#define FLAG_BLOCKING_SYNC 1u
#define FLAG_DISABLE_TIMING 2u
#define FLAG_INTERPROCESS 4u
/* Who puts more into a stream waits, as on a real card */
#define MOST_PENDING 1024
/* One in so many that are put lets one happen */
#define PUT_ADVANCES 4
/* Of so many questions one lets something happen for certain */
#define QUERY_ADVANCES 4

struct fake_stream {
    struct fake_stream *next;
    struct fake_context *context;
    int non_blocking, performing, pending;
    struct fake_op *head, *last;
};
struct fake_event {
    struct fake_event *next;
    struct fake_context *context;
    unsigned flags;
    struct fake_record *record;   /* the latest; NULL: never recorded */
};
static struct fake_stream *streams;   /* of all contexts */
static struct fake_event *events;
static uint64_t numbers, questions;

/* ---- operations ---- */

struct fake_op *fake_op_new(enum fake_kind kind, size_t held)
{
    struct fake_op *op = calloc(1, sizeof *op);
    if (op && held && !(op->held = malloc(held))) {
        free(op);
        return NULL;
    }
    if (op)
        op->kind = kind;
    return op;
}

static void leave_record(struct fake_record *r)
{
    if (r && --r->users == 0)
        free(r);
}

void fake_op_free(struct fake_op *op)
{
    leave_record(op->record);
    if (op->drop)
        op->drop(op->arg);
    free(op->held);
    free(op);
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* In the processor's mode that flushes subnormal numbers. */
static int run_flushing(const struct rondo_fiber_launch *launch)
{
#if defined(__SSE2__)
    const unsigned mode = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(mode | 0x8040u);
    const int err = rondo_fibers_run(launch);
    __builtin_ia32_ldmxcsr(mode);
    return err;
#elif defined(__aarch64__)
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    __asm__ volatile("msr fpcr, %0" : : "r"(mode | (uint64_t)1 << 24));
    const int err = rondo_fibers_run(launch);
    __asm__ volatile("msr fpcr, %0" : : "r"(mode));
    return err;
#else
    return rondo_fibers_run(launch);
#endif
}

static int run_launch(struct fake_context *c, const struct fake_op *op)
{
    char *kept = NULL;
    if (op->flip && !fake_keep(c, &kept))
        return CUDA_ERROR_OUT_OF_MEMORY;
    fake_gate_open(c);
    const int err = fake_settings.ftz ? run_flushing(&op->launch) : rondo_fibers_run(&op->launch);
    fake_gate_close();
    if (err)
        fake_report("%s", rondo_fibers_text());
    if (op->flip)
        fake_flip(c, kept, op->flip - 1);
    free(kept);
    return err;
}

static struct fake_context *stepping;   /* whose step is under way */

void rondo_fake_cuda_gate(int open)
{
    if (open)
        fake_gate_open(stepping);
    else
        fake_gate_close();
}

static int perform(struct fake_context *c, const struct fake_op *op, bool *over)
{
    int err = op->fault;
    char *to;
    const char *from;
    *over = true;
    if (err)
        return err;
    switch (op->kind) {
    case FAKE_LAUNCH:
        err = run_launch(c, op);
        break;
    case FAKE_COPY:
        to = fake_own(op->to);
        from = fake_own(op->from);
        for (size_t i = 0; i < op->height; i++)
            memmove(to + i * op->to_pitch, from + i * op->from_pitch, op->width);
        break;
    case FAKE_FILL:
        to = fake_own(op->to);
        for (size_t i = 0; i < op->height; i++)
            if (op->width == 1)
                to[i] = (char)op->value;
            else
                memcpy(to + i * op->width, &op->value, op->width);
        break;
    case FAKE_STEPS:
        stepping = c;
        rondo_fibers_watch();
        *over = op->step(op->arg) != 0;
        rondo_fibers_unwatch();
        break;
    case FAKE_RECORD:
    case FAKE_WAIT:
        break;
    }
    return err;
}

static void finish(struct fake_stream *s)
{
    struct fake_op *op = s->head;
    s->head = op->next;
    if (op->kind == FAKE_RECORD) {
        op->record->seconds = seconds();
        op->record->done = 1;
    }
    fake_counts.pending--;
    s->pending--;
    fake_op_free(op);
}

/* A context is lost: what has been put into its streams is given up. */
static void give_up(struct fake_context *c)
{
    for (struct fake_stream *s = streams; s; s = s->next)
        while (s->context == c && s->head)
            finish(s);
}

static bool may_begin(const struct fake_stream *s)
{
    const struct fake_op *op = s->head;
    if (!op || (op->kind == FAKE_WAIT && !op->record->done))
        return false;
    const struct fake_context *c = s->context;
    if (s != c->null)
        return s->non_blocking || !c->null->head || c->null->head->number > op->number;
    for (const struct fake_stream *other = streams; other; other = other->next)
        if (other->context == c && other != s && !other->non_blocking && other->head && other->head->number < op->number)
            return false;
    return true;
}

/* One operation happens, or some of one. As streams wait for what was put before, there is one as long as anything is pending. */
static void advance(void)
{
    struct fake_stream *ready[64], *s;
    size_t count = 0;
    for (s = streams; s; s = s->next)
        if (may_begin(s) && count < sizeof ready / sizeof ready[0]) {
            size_t i = count++;
            for (; i && ready[i - 1]->head->number > s->head->number; i--)   /* by age */
                ready[i] = ready[i - 1];
            ready[i] = s;
        }
    if (!count)
        return;
    s = ready[rondo_fibers_draw(count)];
    struct fake_context *c = s->context;
    bool over;
    const int err = perform(c, s->head, &over);
    if (over)
        finish(s);
    if (err) {
        c->sticky = err;
        give_up(c);
    }
}

void fake_put(struct fake_stream *s, struct fake_op *op)
{
    while (s->pending >= MOST_PENDING) {
        advance();
        fake_breathe();
    }
    if (s->context->sticky) {
        if (op->record)
            op->record->done = 1;
        fake_op_free(op);
        return;
    }
    op->number = ++numbers;
    if (s->head)
        s->last->next = op;
    else
        s->head = op;
    s->last = op;
    fake_counts.pending++;
    s->pending++;
    if (rondo_fibers_draw(PUT_ADVANCES) == 0)
        advance();
}

void fake_sync(struct fake_stream *s)
{
    while (s->head) {
        advance();
        fake_breathe();
    }
}

static bool idle(const struct fake_context *c)
{
    for (const struct fake_stream *s = streams; s; s = s->next)
        if (s->context == c && s->head)
            return false;
    return true;
}

void fake_sync_context(struct fake_context *c)
{
    while (!idle(c)) {
        advance();
        fake_breathe();
    }
}

static void question(void)
{
    if (rondo_fibers_draw(2) == 0 || ++questions % QUERY_ADVANCES == 0)
        advance();
}

/* ---- streams ---- */

static struct fake_stream *new_stream(struct fake_context *c, unsigned flags)
{
    struct fake_stream *s = calloc(1, sizeof *s);
    if (!s)
        return NULL;
    s->context = c;
    s->non_blocking = (flags & FLAG_NON_BLOCKING) != 0;
    s->next = streams;
    streams = s;
    return s;
}

static void free_stream(struct fake_stream *s)
{
    for (struct fake_stream **at = &streams; *at; at = &(*at)->next)
        if (*at == s) {
            *at = s->next;
            break;
        }
    free(s);
}

struct fake_stream *fake_stream_of(struct fake_context *c, CUstream stream)
{
    if (!stream)
        return c->null;
    for (struct fake_stream *s = streams; s; s = s->next)
        if (s == stream && s->context == c)
            return s;
    return NULL;
}

bool fake_streams_begin(struct fake_context *c)
{
    c->null = new_stream(c, 0);
    return c->null != NULL;
}

CUresult cuStreamCreate(CUstream *out, unsigned flags)
{
    struct fake_context *c;
    int err = fake_enter(&c);
    if (!err && (!out || flags & ~FLAG_NON_BLOCKING))
        err = CUDA_ERROR_INVALID_VALUE;
    if (!err && !(*out = new_stream(c, flags)))
        err = CUDA_ERROR_OUT_OF_MEMORY;
    fake_counts.streams += !err;
    return fake_leave(err);
}

/* What is in it happens still; that it happens now is one of the ways in which that may be. */
CUresult cuStreamDestroy_v2(CUstream stream)
{
    struct fake_context *c;
    int err = fake_enter(&c);
    if (!err && (!stream || !fake_stream_of(c, stream)))
        err = CUDA_ERROR_INVALID_HANDLE;
    if (!err) {
        fake_sync(stream);
        free_stream(stream);
        fake_counts.streams--;
        err = c->sticky;
    }
    return fake_leave(err);
}

CUresult cuStreamSynchronize(CUstream stream)
{
    struct fake_context *c;
    int err = fake_enter(&c);
    struct fake_stream *s = err ? NULL : fake_stream_of(c, stream);
    if (!err && !s)
        err = CUDA_ERROR_INVALID_HANDLE;
    while (!err && s->head) {
        advance();
        fake_breathe();
        err = c->sticky;
    }
    return fake_leave(err ? err : c->sticky);
}

CUresult cuStreamQuery(CUstream stream)
{
    struct fake_context *c;
    int err = fake_enter(&c);
    struct fake_stream *s = err ? NULL : fake_stream_of(c, stream);
    if (!err && !s)
        err = CUDA_ERROR_INVALID_HANDLE;
    if (!err) {
        question();
        err = c->sticky ? c->sticky : s->head ? CUDA_ERROR_NOT_READY : 0;
    }
    return fake_leave(err);
}

CUresult cuCtxSynchronize(void)
{
    struct fake_context *c;
    int err = fake_enter(&c);
    while (!err && !idle(c)) {
        advance();
        fake_breathe();
        err = c->sticky;
    }
    return fake_leave(err ? err : c->sticky);
}

int rondo_fake_cuda_put(CUstream stream, int (*step)(void *arg), void *arg, void (*drop)(void *arg))
{
    struct fake_context *c;
    int err = fake_enter(&c);
    struct fake_stream *s = err ? NULL : fake_stream_of(c, stream);
    struct fake_op *op = s ? fake_op_new(FAKE_STEPS, 0) : NULL;
    if (op) {
        op->step = step;
        op->arg = arg;
        op->drop = drop;
        fake_put(s, op);
    }
    return fake_leave(err ? err : !s ? CUDA_ERROR_INVALID_HANDLE : !op ? CUDA_ERROR_OUT_OF_MEMORY : 0);
}

/* ---- events ---- */

static struct fake_event *event_of(CUevent event)
{
    for (struct fake_event *e = events; e; e = e->next)
        if (e == event)
            return e;
    return NULL;
}

static void free_event(struct fake_event *event)
{
    for (struct fake_event **at = &events; *at; at = &(*at)->next)
        if (*at == event) {
            *at = event->next;
            break;
        }
    leave_record(event->record);
    free(event);
}

CUresult cuEventCreate(CUevent *out, unsigned flags)
{
    struct fake_context *c;
    int err = fake_enter(&c);
    if (!err && (!out || flags & ~(FLAG_BLOCKING_SYNC | FLAG_DISABLE_TIMING | FLAG_INTERPROCESS) ||
                 (flags & FLAG_INTERPROCESS && !(flags & FLAG_DISABLE_TIMING))))
        err = CUDA_ERROR_INVALID_VALUE;
    struct fake_event *e = err ? NULL : calloc(1, sizeof *e);
    if (!err && !e)
        err = CUDA_ERROR_OUT_OF_MEMORY;
    if (e) {
        e->context = c;
        e->flags = flags;
        e->next = events;
        events = e;
        *out = e;
        fake_counts.events++;
    }
    return fake_leave(err);
}

CUresult cuEventDestroy_v2(CUevent event)
{
    struct fake_context *c;
    int err = fake_enter(&c);
    if (!err && !event_of(event))
        err = CUDA_ERROR_INVALID_HANDLE;
    if (!err) {
        free_event(event);
        fake_counts.events--;
    }
    return fake_leave(err);
}

CUresult cuEventRecord(CUevent event, CUstream stream)
{
    struct fake_context *c;
    int err = fake_enter(&c);
    struct fake_event *e = err ? NULL : event_of(event);
    struct fake_stream *s = err ? NULL : fake_stream_of(c, stream);
    if (!err && (!e || !s || e->context != c))
        err = CUDA_ERROR_INVALID_HANDLE;
    struct fake_record *r = err ? NULL : calloc(1, sizeof *r);
    struct fake_op *op = r ? fake_op_new(FAKE_RECORD, 0) : NULL;
    if (!err && !op) {
        free(r);
        err = CUDA_ERROR_OUT_OF_MEMORY;
    }
    if (!err) {
        leave_record(e->record);
        r->users = 2;
        e->record = op->record = r;
        fake_put(s, op);
        err = c->sticky;
    }
    return fake_leave(err);
}

CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned flags)
{
    struct fake_context *c;
    int err = fake_enter(&c);
    struct fake_event *e = err ? NULL : event_of(event);
    struct fake_stream *s = err ? NULL : fake_stream_of(c, stream);
    if (!err && (!e || !s))
        err = CUDA_ERROR_INVALID_HANDLE;
    if (!err && flags)
        err = CUDA_ERROR_INVALID_VALUE;
    if (!err && e->record && !e->record->done) {
        struct fake_op *op = fake_op_new(FAKE_WAIT, 0);
        if (op) {
            op->record = e->record;
            op->record->users++;
            fake_put(s, op);
        }
        err = op ? c->sticky : CUDA_ERROR_OUT_OF_MEMORY;
    }
    return fake_leave(err);
}

CUresult cuEventQuery(CUevent event)
{
    struct fake_context *c;
    int err = fake_enter(&c);
    struct fake_event *e = err ? NULL : event_of(event);
    if (!err && !e)
        err = CUDA_ERROR_INVALID_HANDLE;
    if (!err) {
        question();
        err = c->sticky ? c->sticky : e->record && !e->record->done ? CUDA_ERROR_NOT_READY : 0;
    }
    return fake_leave(err);
}

CUresult cuEventSynchronize(CUevent event)
{
    struct fake_context *c;
    int err = fake_enter(&c);
    struct fake_event *e = err ? NULL : event_of(event);
    struct fake_record *r = e ? e->record : NULL;
    if (!err && !e)
        err = CUDA_ERROR_INVALID_HANDLE;
    if (r)
        r->users++;
    while (!err && r && !r->done) {
        advance();
        fake_breathe();
        err = c->sticky;
    }
    leave_record(r);
    return fake_leave(err ? err : c->sticky);
}

CUresult cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end)
{
    struct fake_context *c;
    int err = fake_enter(&c);
    struct fake_event *a = err ? NULL : event_of(start), *b = err ? NULL : event_of(end);
    if (!err && !milliseconds)
        err = CUDA_ERROR_INVALID_VALUE;
    if (!err && (!a || !b || !a->record || !b->record || (a->flags | b->flags) & FLAG_DISABLE_TIMING))
        err = CUDA_ERROR_INVALID_HANDLE;
    if (!err && (!a->record->done || !b->record->done))
        err = CUDA_ERROR_NOT_READY;
    if (!err)
        *milliseconds = (float)(1e3 * (b->record->seconds - a->record->seconds));
    return fake_leave(err);
}

long long fake_streams_end(struct fake_context *c)
{
    long long taken = 0;
    give_up(c);
    for (struct fake_stream *s = streams, *next; s; s = next) {
        next = s->next;
        if (s->context == c) {
            taken += s != c->null;
            fake_counts.streams -= s != c->null;
            free_stream(s);
        }
    }
    for (struct fake_event *e = events, *next; e; e = next) {
        next = e->next;
        if (e->context == c) {
            taken++;
            fake_counts.events--;
            free_event(e);
        }
    }
    c->null = NULL;
    return taken;
}
