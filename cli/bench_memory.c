/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Is the memory that a plan states what the system sees? A child process runs one plan, with gradients both of its passes, on one rank or
 * on several that are threads, and reads by how much its peak resident size (getrusage) grew; a process of its own, because the peak of this
 * one was reached by something else.
 */
#include "cli/bench.h"

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define USUAL_RANKS 4                  /* of the second row, where no shape was given */
#define SMALL 64                       /* tokens of the first plan */

struct memory_result {
    int64_t stated, measured;
    struct measurement m;
    rondo_comm_stats comm;              /* of all ranks */
    int32_t code, ranks, threads;
    char isa[32], text[512];
};

struct work {
    const struct shape *shape, *small;   /* small: to begin with */
    const struct extras *small_extras, *extras;
    struct memory_result *result;
};

static int64_t peak_now(void)
{
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) ? 0 : (int64_t)usage.ru_maxrss * 1024;
}

/* Linux lets a process begin its peak again with what it has now: a child takes over its parent's, of pages that it has not touched. */
static void begin_peak(void)
{
    FILE *f = fopen("/proc/self/clear_refs", "w");
    if (!f)
        return;
    fputs("5", f);
    (void)fclose(f);
}

struct part {                           /* of a rank */
    int64_t stated, measured;           /* measured: by how much the peak of the whole process grew until all ranks had run */
    double seconds, cpu, flops, before, after;
};

/* One array of a plan, all of it touched, so that the system has given it. Adds its bytes to *stated. */
static void *array(rondo_tensor *t, int type, int32_t dims, const int64_t shape[3], int64_t *stated)
{
    int64_t rows = shape[0];
    for (int32_t i = 1; i < dims - 1; i++)
        rows *= shape[i];
    const size_t row = rondo_row_bytes(type, shape[dims - 1]);
    void *data = room(rows, row);
    if (data)
        memset(data, 0, (size_t)rows * row);
    *t = rondo_tensor_dense(data, type, dims, shape);
    *stated += rows * (int64_t)row;
    return data;
}

/* A plan, its arrays, and one execution: with gradients both passes. */
static int run_plan(rondo_context *ctx, const struct shape *s, const struct extras *extras, struct part *part)
{
    enum { ARRAYS = 10 };
    rondo_attention *plan = NULL;
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
    rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
    rondo_attention_gradients g = RONDO_ATTENTION_GRADIENTS_INIT;
    const int64_t values = s->value_dim ? s->value_dim : s->head_dim;
    void *data[ARRAYS] = { NULL };
    begin_peak();
    int count = 0, code = rondo_barrier(ctx);
    const int64_t before = peak_now();
    if (!code)
        code = rondo_barrier(ctx);
    extras_describe(extras, s, &d);
    d.gradients = s->backward;
    d.layout = common.layout;
    d.algorithm = common.algorithm;
    d.grid[0] = common.grid[0];
    d.grid[1] = common.grid[1];
    if (!code)
        code = rondo_attention_create(&plan, ctx, &d);
    if (!code)
        code = rondo_attention_query(plan, &info);
    const int64_t q[3] = { info.q_rows, s->heads, s->head_dim }, k[3] = { info.kv_rows, s->kv_heads, s->head_dim }, v[3] = { info.kv_rows, s->kv_heads, values };
    const int64_t out[3] = { info.q_rows, s->heads, values };
    const size_t workspace = info.backward_workspace_bytes > info.workspace_bytes ? info.backward_workspace_bytes : info.workspace_bytes;
    const size_t scratch = info.backward_device_bytes > info.device_bytes ? info.backward_device_bytes : info.device_bytes;   /* one for both */
    int64_t stated = (int64_t)(workspace + scratch + info.plan_bytes);
    const struct {
        rondo_tensor *t;
        int type, dims;
        const int64_t *shape;
    } arrays[ARRAYS - 1] = {
        { &io.q, RONDO_F32, 3, q }, { &io.k, s->type, 3, k }, { &io.v, s->type, 3, v }, { &io.out, RONDO_F32, 3, out }, { &io.lse, RONDO_F32, 2, out },
        { &g.dout, RONDO_F32, 3, out }, { &g.dq, RONDO_F32, 3, q }, { &g.dk, RONDO_F32, 3, k }, { &g.dv, RONDO_F32, 3, v },
    };
    for (int i = 0; i < (s->backward ? ARRAYS - 1 : 5) && !code; i++) {
        data[count] = array(arrays[i].t, arrays[i].type, arrays[i].dims, arrays[i].shape, &stated);
        if (!data[count++])
            code = body_fail(RONDO_ENOMEM, "not enough memory for the arrays of a plan");
    }
    void *const memory = data[count++] = code ? NULL : room((int64_t)workspace, 1);
    if (!code && !memory)
        code = body_fail(RONDO_ENOMEM, "not enough memory for a workspace of %zu bytes", workspace);
    extras_give(extras, s, &io);
    if (!code)
        code = rondo_barrier(ctx);
    const double begin = now(), cpu = process_cpu();
    if (!code)
        code = rondo_attention_execute(plan, &io, memory);
    if (!code && s->backward)
        code = rondo_attention_backward(plan, &io, &g, memory);
    part->seconds = now() - begin;
    if (!code)
        code = rondo_barrier(ctx);   /* before anybody gives memory back */
    part->cpu = process_cpu() - cpu;
    part->measured = peak_now() - before;
    part->flops = info.flops + info.backward_flops;
    part->stated = stated;
    rondo_attention_destroy(plan);
    for (int i = 0; i < count; i++)
        free(data[i]);
    return code;
}

/* What all ranks saw, on rank 0. */
static void sum_up(struct memory_result *r, const struct part *all, int ranks)
{
    double before = 0, after = 0;
    r->measured = all[0].measured;
    r->m.cpu = all[0].cpu;              /* ranks that are threads share a process and its clock */
    for (int i = 0; i < ranks; i++) {
        r->stated += all[i].stated;
        before += all[i].before;
        after += all[i].after;
        r->m.seconds = all[i].seconds > r->m.seconds ? all[i].seconds : r->m.seconds;
    }
    r->m.ceiling = before > after ? before : after;
    r->m.rate = all[0].flops / r->m.seconds;
    r->m.fraction = r->m.rate / r->m.ceiling;
}

static int body(rondo_context *ctx, struct slot *mine, void *arg)
{
    const struct work *w = arg;
    const int ranks = rondo_context_ranks(ctx);
    struct part part, *all = room(ranks, sizeof *all);
    size_t *bytes_of = room(ranks, sizeof *bytes_of);
    rondo_context_info info = RONDO_CONTEXT_INFO_INIT;
    struct ceiling *ceiling = NULL;
    memset(&part, 0, sizeof part);
    int code = all && bytes_of ? rondo_context_query(ctx, &info) : body_fail(RONDO_ENOMEM, "not enough memory for %d ranks", ranks);
    for (int i = 0; i < ranks && !code; i++)
        bytes_of[i] = sizeof part;
    /* a small one first: threads, their stacks and the allocator's first pages are nobody's plan */
    if (!code)
        code = run_plan(ctx, w->small, w->small_extras, &part);
    if (!code && !(ceiling = ceiling_open(CEILING_FMA, info.isa, info.ranks, info.threads, 0)))
        code = body_fail(RONDO_ENOMEM, "not enough memory to measure a ceiling");
    const double before = code ? 0 : ceiling_rate(ceiling, 1);
    if (!code)
        code = run_plan(ctx, w->shape, w->extras, &part);
    if (!code) {
        part.before = before;
        part.after = ceiling_rate(ceiling, part.seconds);
    }
    ceiling_close(ceiling);
    if (!code)
        code = rondo_all_gather(ctx, &part, all, bytes_of);
    if (!code && rondo_context_rank(ctx) == 0)
        sum_up(w->result, all, ranks);
    slot_measure(mine, ctx);
    free(all);
    free(bytes_of);
    return code;
}

static void child(int pipe_end, struct work *w, int ranks)
{
    struct memory_result r;
    struct run run = RUN_INIT;
    memset(&r, 0, sizeof r);
    run.ranks = ranks;
    common.trace = NULL;
    w->result = &r;
    r.code = ranks_run(&run, body, w);
    for (int i = 0; i < run.ranks && !r.code; i++)
        for (int o = 0; o < RONDO_OP_COUNT; o++) {
            r.comm.messages[o] += run.slots[i].comm.messages[o];
            r.comm.bytes[o] += run.slots[i].comm.bytes[o];
        }
    r.ranks = run.ranks;
    r.threads = run.used_threads;
    snprintf(r.isa, sizeof r.isa, "%s", run.used_isa);
    snprintf(r.text, sizeof r.text, "%s", r.code ? run.text : "");
    _exit(write(pipe_end, &r, sizeof r) == (ssize_t)sizeof r ? 0 : 1);
}

static int measure(struct bench *b, struct work *w, int ranks)
{
    struct memory_result r;
    int ends[2], status = 0;
    memset(&r, 0, sizeof r);
    progress_end();
    fflush(NULL);
    if (pipe(ends))
        return fail(EXIT_ROOM, "a pipe for the measurement of memory cannot be made");
    const pid_t pid = fork();
    if (pid < 0) {
        close(ends[0]);
        close(ends[1]);
        return fail(EXIT_ROOM, "a process for the measurement of memory cannot be started");
    }
    if (!pid)
        child(ends[1], w, ranks);
    close(ends[1]);
    const bool whole = read(ends[0], &r, sizeof r) == (ssize_t)sizeof r;
    close(ends[0]);
    waitpid(pid, &status, 0);
    r.text[sizeof r.text - 1] = 0;
    if (!whole)
        return fail(EXIT_ROOM, "the measurement of memory failed in its process: no answer came");
    if (r.code)
        return fail_code(r.code, STAGE_OPTIONS, r.text);
    struct slot moved;   /* the child's counters are not this process's */
    struct run run = RUN_INIT;
    memset(&moved, 0, sizeof moved);
    moved.comm = r.comm;
    run.ranks = 1;
    run.slots = &moved;
    report_moved(&run);
    run.slots = NULL;
    run.ranks = r.ranks;
    run.used_threads = r.threads;
    snprintf(run.used_isa, sizeof run.used_isa, "%s", r.isa);
    snprintf(run.transport, sizeof run.transport, "threads");
    json_t *row = row_new("memory", &run);
    row_shape(row, w->shape);
    if (w->shape->backward)
        json_object_set_new(row, "backward", json_true());
    json_object_set_new(row, "stated_bytes", json_integer(r.stated));
    json_object_set_new(row, "measured_bytes", json_integer(r.measured));
    row_rate(row, "gflops", ceiling_name(CEILING_FMA), &r.m);
    const double off = (double)(r.measured > r.stated ? r.measured - r.stated : r.stated - r.measured) /
                       (0.05 * (double)r.stated + 4194304.0 * r.ranks);
    if (b->check)
        bench_judge(b, row, "difference between stated and measured memory, as a part of 5 % + 4 MiB a rank", off, true, 1.0);
    return row_add(b, row);
}

int bench_memory(struct bench *b, const struct shape *shape, int ranks)
{
    static const struct shape usual = { .tokens = 4096, .heads = 32, .kv_heads = 8, .head_dim = 128, .causal = true, .type = RONDO_F32 };
    const struct shape *s = shape ? shape : &usual;
    /* of one small head, so that what it leaves of scratch is little */
    const struct shape small = { .tokens = SMALL, .heads = 1, .kv_heads = 1, .head_dim = 8, .causal = true, .type = RONDO_F32, .backward = s->backward };
    struct extras small_extras, extras;
    struct work w = { s, &small, &small_extras, &extras, NULL };
    int code = extras_make(&small_extras, &small);
    if (!code) {
        code = extras_make(&extras, s);
        if (!code)
            code = measure(b, &w, ranks);
        if (!code && !shape)
            code = measure(b, &w, USUAL_RANKS);
        extras_free(&extras);
    }
    extras_free(&small_extras);
    return code;
}
