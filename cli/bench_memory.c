/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Is the memory that a plan states what the system sees? A child process runs one plan, on one rank or on several that are threads, and
 * reads by how much its peak resident size (getrusage) grew; a process of its own, because the peak of this one was reached by
 * something else.
 */
#include "cli/bench.h"

#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define RANKS_MOST 4

struct memory_result {
    int64_t stated, measured;
    struct measurement m;
    rondo_comm_stats comm;              /* of all ranks */
    int32_t code, ranks, threads;
    char isa[32];
};

static int64_t peak_now(void)
{
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) ? 0 : (int64_t)usage.ru_maxrss * 1024;
}

static int plan_of(rondo_context *ctx, int64_t tokens, rondo_attention **plan, rondo_attention_info *info)
{
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    d.heads = 32;
    d.kv_heads = 8;
    d.head_dim = 128;
    d.tokens = tokens;
    d.causal = 1;
    int code = rondo_attention_create(plan, ctx, &d);
    return code ? code : rondo_attention_query(*plan, info);
}

struct part {                           /* of a rank */
    int64_t stated, measured;           /* measured: by how much the peak of the whole process grew until all ranks had run */
    double seconds, cpu, flops, before, after;
};

static int run_plan(rondo_context *ctx, int64_t tokens, struct part *part)
{
    rondo_attention *plan = NULL;
    rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
    rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
    const int64_t before = peak_now();
    int code = rondo_barrier(ctx);
    if (!code)
        code = plan_of(ctx, tokens, &plan, &info);
    const int64_t q_shape[3] = { info.q_rows, 32, 128 }, k_shape[3] = { info.kv_rows, 8, 128 }, lse_shape[2] = { info.q_rows, 32 };
    const int64_t q = info.q_rows * 32 * 128, k = info.kv_rows * 8 * 128;
    float *data[5] = { room(q, 4), room(k, 4), room(k, 4), room(q, 4), room(info.q_rows * 32, 4) };
    for (int i = 0; i < 5 && !code; i++) {
        if (!data[i])
            code = RONDO_ENOMEM;
        else
            memset(data[i], 0, (size_t)(i == 4 ? info.q_rows * 32 : i == 0 || i == 3 ? q : k) * 4);
    }
    io.q = rondo_tensor_dense(data[0], RONDO_F32, 3, q_shape);
    io.k = rondo_tensor_dense(data[1], RONDO_F32, 3, k_shape);
    io.v = rondo_tensor_dense(data[2], RONDO_F32, 3, k_shape);
    io.out = rondo_tensor_dense(data[3], RONDO_F32, 3, q_shape);
    io.lse = rondo_tensor_dense(data[4], RONDO_F32, 2, lse_shape);
    if (!code)
        code = rondo_barrier(ctx);
    const double begin = now(), cpu = process_cpu();
    if (!code)
        code = rondo_attention_execute(plan, &io, NULL);
    part->seconds = now() - begin;
    if (!code)
        code = rondo_barrier(ctx);   /* before anybody gives memory back */
    part->cpu = process_cpu() - cpu;
    part->measured = peak_now() - before;
    part->flops = info.flops;
    part->stated = (2 * q + 2 * k + info.q_rows * 32) * 4 + (int64_t)(info.workspace_bytes + info.device_bytes + info.plan_bytes);
    rondo_attention_destroy(plan);
    for (int i = 0; i < 5; i++)
        free(data[i]);
    return code;
}

static int body(rondo_context *ctx, struct slot *mine, void *arg)
{
    struct memory_result *r = arg;
    struct part part, all[RANKS_MOST];
    size_t bytes_of[RANKS_MOST];
    rondo_context_info info = RONDO_CONTEXT_INFO_INIT;
    struct ceiling *ceiling = NULL;
    memset(&part, 0, sizeof part);
    memset(all, 0, sizeof all);
    for (int i = 0; i < RANKS_MOST; i++)
        bytes_of[i] = sizeof part;
    int code = rondo_context_query(ctx, &info);
    /* a small one first: threads, their stacks and the allocator's first pages are nobody's plan */
    if (!code)
        code = run_plan(ctx, 64, &part);
    if (!code && !(ceiling = ceiling_open(CEILING_FMA, info.isa, info.ranks, info.threads, 0)))
        code = body_fail(RONDO_ENOMEM, "not enough memory to measure a ceiling");
    const double before = code ? 0 : ceiling_rate(ceiling, 1);
    if (!code)
        code = run_plan(ctx, 4096, &part);
    if (!code) {
        part.before = before;
        part.after = ceiling_rate(ceiling, part.seconds);
    }
    ceiling_close(ceiling);
    if (!code)
        code = rondo_all_gather(ctx, &part, all, bytes_of);
    if (!code && rondo_context_rank(ctx) == 0) {
        r->measured = part.measured;
        r->m.cpu = part.cpu;             /* ranks that are threads share a process and its clock */
        double before_all = 0, after_all = 0;
        for (int i = 0; i < rondo_context_ranks(ctx); i++) {
            r->stated += all[i].stated;
            before_all += all[i].before;
            after_all += all[i].after;
            r->m.seconds = all[i].seconds > r->m.seconds ? all[i].seconds : r->m.seconds;
        }
        r->m.ceiling = before_all > after_all ? before_all : after_all;
        r->m.rate = part.flops / r->m.seconds;
        r->m.fraction = r->m.rate / r->m.ceiling;
    }
    slot_measure(mine, ctx);
    return code;
}

static void child(int pipe_end, int ranks)
{
    struct memory_result r;
    struct run run = RUN_INIT;
    memset(&r, 0, sizeof r);
    run.ranks = ranks;
    common.trace = NULL;
    r.code = ranks_run(&run, body, &r);
    for (int i = 0; i < run.ranks && !r.code; i++)
        for (int o = 0; o < RONDO_OP_COUNT; o++) {
            r.comm.messages[o] += run.slots[i].comm.messages[o];
            r.comm.bytes[o] += run.slots[i].comm.bytes[o];
        }
    r.ranks = run.ranks;
    r.threads = run.used_threads;
    snprintf(r.isa, sizeof r.isa, "%s", run.used_isa);
    _exit(write(pipe_end, &r, sizeof r) == (ssize_t)sizeof r ? 0 : 1);
}

static int measure(struct bench *b, int ranks)
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
        child(ends[1], ranks);
    close(ends[1]);
    const bool whole = read(ends[0], &r, sizeof r) == (ssize_t)sizeof r;
    close(ends[0]);
    waitpid(pid, &status, 0);
    if (!whole || r.code)
        return fail(EXIT_ROOM, "the measurement of memory failed in its process: %s", whole ? rondo_error_string(r.code) : "no answer came");
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
    json_t *row = row_new("memory", &run), *mark = json_object();
    const struct shape shape = { .tokens = 4096, .heads = 32, .kv_heads = 8, .head_dim = 128, .causal = true, .type = RONDO_F32 };
    row_shape(row, &shape);
    json_object_set_new(row, "stated_bytes", json_integer(r.stated));
    json_object_set_new(row, "measured_bytes", json_integer(r.measured));
    row_rate(row, "gflops", ceiling_name(CEILING_FMA), &r.m);
    const double off = (double)(r.measured > r.stated ? r.measured - r.stated : r.stated - r.measured) /
                       (0.05 * (double)r.stated + 4194304.0 * r.ranks);
    if (b->check) {
        json_object_set_new(mark, "what", json_string("difference between stated and measured memory, as a part of 5 % + 4 MiB a rank"));
        json_object_set_new(mark, "value", number(off));
        json_object_set_new(mark, "must", json_string("at most"));
        json_object_set_new(mark, "limit", number(1.0));
        json_object_set_new(mark, "pass", json_boolean(off <= 1.0));
        json_object_set(row, "mark", mark);
        b->missed = b->missed || off > 1.0;
        b->marks++;
    }
    json_decref(mark);
    return row_add(b, row);
}

int bench_memory(struct bench *b)
{
    int code = measure(b, 1);
    return code ? code : measure(b, RANKS_MOST);
}
