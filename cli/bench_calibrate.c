/* SPDX-License-Identifier: BSD-2-Clause
 *
 * --calibrate FILE: what this machine can do, as a hardware file for rondo_predict(3). A rank of it is one thread. Computing is measured on rank
 * 0's machine (calibrate_compute.c), by that rank while the others sleep and then on all cores by all ranks there; links between ranks as they were
 * started: threads, processes of this host, or one process on each of several hosts. Of each call the fastest counts: neighbours only slow a
 * machine down.
 */
#define _GNU_SOURCE   /* sched_getaffinity */
#include "cli/calibrate.h"
#include "cli/target.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- links ---- */

#define REST 50000000L   /* nanoseconds, after which what a link lets through at once is there again */

static int broadcast_seconds(rondo_context *ctx, int repeat, void *data, size_t bytes, double *least)
{
    int code = 0;
    for (int i = -1; i < repeat && !code; i++) {
        const struct timespec rest = { 0, REST };
        nanosleep(&rest, NULL);
        code = rondo_barrier(ctx);
        const double begin = now();
        code = code ? code : rondo_broadcast(ctx, data, bytes, 0);
        code = code ? code : rondo_barrier(ctx);
        const double took = now() - begin;
        *least = i == 0 || (i > 0 && took < *least) ? took : *least;
    }
    return code;
}

/* Rank 0 sends in each of so many rounds. What a long message takes more than a shorter one is bandwidth; by how much the shorter one comes
 * sooner than that says is a burst that the link lets through at once. */
static int find_links(struct found *f, rondo_context *ctx)
{
    const size_t sizes[2] = { (size_t)1 << 20, (size_t)3 << 20 };
    enum { BARRIERS = 16 };             /* who comes last to one goes through at once, so many in a row are timed together */
    double seconds[2] = { 0.0, 0.0 }, least = 0.0, rounds = 0.0;
    const int repeat = f->b->repeat;
    void *data = room((int64_t)sizes[1], 1);
    int code = data ? 0 : body_fail(RONDO_ENOMEM, "not enough memory for messages of %zu bytes", sizes[1]);
    for (int n = 1; n < rondo_context_ranks(ctx); n *= 2)
        rounds++;
    if (data)
        memset(data, 1, sizes[1]);
    for (int i = 0; i < 8 * repeat && !code; i++) {
        code = rondo_barrier(ctx);
        const double begin = now();
        for (int k = 0; k < BARRIERS && !code; k++)
            code = rondo_barrier(ctx);
        const double took = (now() - begin) / BARRIERS;
        least = i == 0 || (took < least && took > 0.0) ? took : least;
    }
    for (int i = 0; i < 2 && !code; i++)
        code = broadcast_seconds(ctx, repeat, data, sizes[i], &seconds[i]);
    free(data);
    if (code || rounds == 0.0)
        return code;
    f->latency = least / rounds;
    f->bandwidth = seconds[1] > seconds[0] ? rounds * (double)(sizes[1] - sizes[0]) / (seconds[1] - seconds[0])
                                           : rounds * (double)sizes[1] / seconds[1];
    const double sooner = rounds * (double)sizes[0] - (seconds[0] - f->latency) * f->bandwidth;
    f->burst = sooner > 0.05 * (double)sizes[0] ? sooner : 0.0;
    return 0;
}

/* All send so many rows of keys and values to the one rank that has a query, a kilobyte each. */
static int gather_seconds(rondo_context *ctx, int repeat, int64_t rows, double *bytes, double *least)
{
    struct attention a;
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
    d.heads = d.kv_heads = 1, d.head_dim = 256, d.tokens = 1, d.cached = rows * rondo_context_ranks(ctx) - 1, d.causal = 1;
    d.algorithm = RONDO_ALL_GATHER, d.layout = RONDO_CONTIGUOUS;
    int code = attention_open(&a, ctx, &d);
    if (!code)
        code = rondo_attention_query(a.plan, &info);
    *least = 1e30;
    for (int i = -1; i < repeat && !code; i++) {
        const struct timespec rest = { 0, REST };
        nanosleep(&rest, NULL);
        code = rondo_barrier(ctx);
        const double begin = now();
        code = code ? code : rondo_attention_execute(a.plan, &a.io, NULL);
        code = code ? code : rondo_barrier(ctx);
        *least = i >= 0 && now() - begin < *least ? now() - begin : *least;
    }
    *bytes = (double)info.bytes_total;
    attention_close(&a);
    return code;
}

/* Is what comes in faster than one link? By messages of a MiB that is told from a link; but what comes in of these is no more than what the
 * others' links let out. Where links let a burst out at once, messages that go with it say more, by what longer ones take more. */
static int find_inward(struct found *f, rondo_context *ctx)
{
    double bytes[3], seconds[3];
    int code = gather_seconds(ctx, f->b->repeat, 512, &bytes[0], &seconds[0]);
    f->inward = code ? 0.0 : bytes[0] / seconds[0];
    for (int i = 1; i < 3 && !code && f->burst > 128e3; i++)
        code = gather_seconds(ctx, 4 * f->b->repeat, i == 1 ? 8 : 48, &bytes[i], &seconds[i]);
    if (!code && f->burst > 128e3 && f->inward > 1.2 * f->bandwidth) {
        const double burst = seconds[2] > seconds[1] ? (bytes[2] - bytes[1]) / (seconds[2] - seconds[1]) : f->read;
        f->inward = burst > f->inward ? burst < f->read ? burst : f->read : f->inward;
    }
    return code;
}

static uint64_t hash_of(const char *text)
{
    uint64_t h = 14695981039346656037u;
    for (; *text; text++)
        h = (h ^ (unsigned char)*text) * 1099511628211u;
    return h;
}

/* ---- joins ---- */

static void hear_join(void *user, const rondo_trace_event *e)
{
    double *least = user;
    if (e->rank == 0 && e->operation && !strcmp(e->operation, "join") && !strncmp(e->name, "attention", 9) && e->end > e->begin)
        *least = e->end - e->begin < *least ? e->end - e->begin : *least;
}

/* What the model counts of rank 0's join, which is its time on hardware that joins a byte in a second. */
static int join_bytes(double *bytes, const rondo_attention_desc *d, int ranks, const char *transport)
{
    rondo_schedule *s = NULL;
    rondo_schedule_desc desc = RONDO_SCHEDULE_DESC_INIT;
    rondo_hardware h = RONDO_HARDWARE_INIT;
    double all = 0.0;
    desc.ranks = ranks;
    desc.transport = transport;
    h.peak_flops = h.memory_bandwidth = h.link_bandwidth = 1e20;
    h.join_bandwidth = 1.0;
    h.cores = (double)ranks, h.node_ranks = ranks, h.in_place = strcmp(transport, "mpi") != 0;
    *bytes = 1e30;
    int code = rondo_schedule_create(&s, &desc, d);
    if (!code)
        code = rondo_schedule_simulate(s, &h, hear_join, bytes, &all);
    rondo_schedule_destroy(s);
    return code;
}

/* Pass-Q, whose ranks join at home what others computed; the fastest join of some. */
static int find_join(struct found *f, rondo_context *ctx)
{
    const int ranks = rondo_context_ranks(ctx);
    struct attention a;
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    rondo_context_info info = RONDO_CONTEXT_INFO_INIT;
    double least = 1e30, bytes = 0.0;
    d.heads = 2 * TILE_HEADS, d.kv_heads = 2 * TILE_KV_HEADS, d.head_dim = TILE_DIM, d.tokens = 512 * ranks, d.causal = 1;   /* beyond a core's cache */
    d.algorithm = RONDO_PASS_Q;
    int code = rondo_context_query(ctx, &info);
    if (!code)
        code = join_bytes(&bytes, &d, ranks, info.transport);
    if (code)
        return code;
    code = attention_open(&a, ctx, &d);
    rondo_context_trace(ctx, rondo_context_rank(ctx) ? NULL : hear_join, &least);
    for (int i = 0; i < 4 * f->b->repeat && !code; i++)
        code = rondo_attention_execute(a.plan, &a.io, NULL);
    rondo_context_trace(ctx, NULL, NULL);
    attention_close(&a);
    f->join = least < 1e30 && bytes < 1e30 ? bytes / least : 0.0;
    return code;
}

/* ---- hosts ---- */

#define CPUS 4096

struct site {
    uint64_t host, machine;
    unsigned char cpus[CPUS / 8];       /* that this rank may use */
};

static void describe_site(struct site *s)
{
    char name[256] = "", boot[64] = "";
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "r");
    memset(s, 0, sizeof *s);
    if (gethostname(name, sizeof name - 1))
        name[0] = 0;
    if (file && !fgets(boot, sizeof boot, file))
        boot[0] = 0;
    if (file)
        fclose(file);
    s->host = hash_of(name);
    s->machine = *boot ? hash_of(boot) : s->host;
#ifdef __linux__
    union {
        cpu_set_t set;
        unsigned char bytes[CPUS / 8];
    } mask;
    memset(&mask, 0, sizeof mask);
    if (!sched_getaffinity(0, sizeof mask, &mask.set)) {
        for (int c = 0; c < CPUS; c++)
            s->cpus[c / 8] |= (unsigned char)((CPU_ISSET_S((size_t)c, sizeof mask, &mask.set) ? 1u : 0u) << c % 8);
        return;
    }
#endif
    for (long c = 0; c < sysconf(_SC_NPROCESSORS_ONLN) && c < CPUS; c++)
        s->cpus[c / 8] |= (unsigned char)(1u << c % 8);
}

/* Each core of rank 0's machine goes to the rank that has fewest of those that may use it. */
static void deal_cores(struct found *f, const struct site *all, int ranks)
{
    f->cores = 0;
    for (int c = 0; c < CPUS; c++) {
        int to = -1;
        for (int r = 0; r < ranks; r++)
            if (all[r].machine == all[0].machine && all[r].cpus[c / 8] >> c % 8 & 1 && (to < 0 || f->share[r] < f->share[to]))
                to = r;
        if (to >= 0)
            f->share[to]++, f->cores++;
    }
}

/* Hosts have names, and a system that was started one day: hosts that are made within one machine share its cores. */
static int find_hosts(struct found *f, rondo_context *ctx)
{
    const int ranks = rondo_context_ranks(ctx);
    struct site mine, *all = room(ranks, sizeof *all);
    size_t *sizes = room(ranks, sizeof *sizes);
    int code = all && sizes ? 0 : body_fail(RONDO_ENOMEM, "not enough memory for %d ranks", ranks);
    describe_site(&mine);
    for (int r = 0; r < ranks && !code; r++)
        sizes[r] = sizeof mine;
    if (!code)
        code = rondo_all_gather(ctx, &mine, all, sizes);
    f->hosts = f->machines = 0;
    for (int r = 0; r < ranks && !code; r++) {
        bool host = true, machine = true;
        for (int k = 0; k < r; k++) {
            host = host && all[k].host != all[r].host;
            machine = machine && all[k].machine != all[r].machine;
        }
        f->hosts += host;
        f->machines += machine;
    }
    if (!code) {
        deal_cores(f, all, ranks);
        f->in_crowd = mine.machine == all[0].machine;
    }
    free(all);
    free(sizes);
    return code;
}

static int body(rondo_context *ctx, struct slot *mine, void *arg)
{
    struct found *all = arg, f = *all;
    f.share = calloc((size_t)rondo_context_ranks(ctx), sizeof *f.share);
    int code = f.share ? find_hosts(&f, ctx) : body_fail(RONDO_ENOMEM, "not enough memory for %d ranks", rondo_context_ranks(ctx));
    if (!code && f.hosts > 1 && f.hosts < rondo_context_ranks(ctx))
        code = body_fail(RONDO_EINVAL, "%d ranks on %lld hosts: links between hosts are measured with one rank on each; start as many ranks as hosts",
                         rondo_context_ranks(ctx), (long long)f.hosts);
    if (!code)
        code = calibrate_computing(&f, ctx);
    if (!code)
        code = rondo_barrier(ctx);
    if (!code)
        code = find_links(&f, ctx);
    if (!code && f.hosts > 2)
        code = find_inward(&f, ctx);
    if (!code)
        code = find_join(&f, ctx);
    if (!code)
        code = calibrate_crowd(&f, ctx);
    if (!code && rondo_context_rank(ctx) == 0) {
        *all = f;   /* and the list with it */
        f.share = NULL;
    }
    free(f.share);
    slot_measure(mine, ctx);
    return code;
}

/* ---- the file ---- */

static int write_file(const char *path, json_t *h)
{
    char *text = json_dumps(h, JSON_INDENT(2) | JSON_REAL_PRECISION(6));
    struct target t;
    int code = target_open(&t, "--calibrate", path);
    if (!code && !text)
        code = fail(EXIT_ROOM, "not enough memory for --calibrate");
    if (!code && dprintf(t.fd, "%s\n", text) < 0)
        code = target_fail(&t, "written");
    code = target_close(&t, code);
    free(text);
    return code;
}

static void set_hardware(const struct found *f, const struct run *run, rondo_hardware *h)
{
    const int64_t cores = f->cores;
    const bool hosts = f->hosts > 1, threads = strcmp(run->transport, "mpi") != 0;
    *h = (rondo_hardware)RONDO_HARDWARE_INIT;
    h->peak_flops = f->peak, h->attention_flops = f->rate[1], h->gemm_flops = f->gemm;
    h->memory_bandwidth = f->read;
    h->link_bandwidth = h->all_to_all_bandwidth = f->bandwidth, h->link_latency = h->all_to_all_latency = f->latency;
    h->overhead = h->operation_latency = f->operation;
    h->memory_bytes = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE) / (double)cores;
    h->link_burst = hosts ? f->burst : 0.0;
    h->link_inward = f->inward > 1.2 * f->bandwidth ? f->inward : 0.0;   /* else it is no more than a link's, and the same */
    h->local_work = hosts || threads ? 0.0 : 1.0 / f->bandwidth;
    h->join_bandwidth = f->join;
    h->delta_flops = f->delta[0][CALIBRATE_STATES - 1], h->delta_backward_flops = f->delta[1][CALIBRATE_STATES - 1];
    h->attention_edge = f->edge;
    for (int i = 0; i < CALIBRATE_DIMS; i++)
        h->attention_dims[i] = calibrate_dims[i], h->attention_rates[i] = f->rate[i];
    for (int i = 0; i < CALIBRATE_ROWS; i++)
        h->row_counts[i] = calibrate_rows[i], h->row_parts[i] = f->part[i];
    for (int i = 0; i < CALIBRATE_STATES; i++)
        h->delta_dims[i] = calibrate_states[i], h->delta_rates[i] = f->delta[0][i], h->delta_backward_rates[i] = f->delta[1][i];
    h->cores = f->together, h->core_slowest = f->slowest < 1.0 ? f->slowest : 0.0, h->core_slice = f->slice;
    h->core_ranks = hosts ? (run->ranks + f->machines - 1) / f->machines : cores;
    h->node_ranks = hosts ? 1 : cores;   /* one rank was on each host */
    h->node_links = 1;
    h->in_place = threads;
}

static json_t *describe(const rondo_hardware *f)
{
    json_t *h = json_object(), *rates = json_array(), *rows = json_array(), *states = json_array();
    const struct {
        const char *key;
        double value;
        bool always;                    /* else where it is known */
    } values[] = {
        { "peak_flops", f->peak_flops, true }, { "attention_flops", f->attention_flops, true }, { "gemm_flops", f->gemm_flops, true },
        { "memory_bandwidth", f->memory_bandwidth, true }, { "link_bandwidth", f->link_bandwidth, true }, { "link_latency", f->link_latency, true },
        { "all_to_all_bandwidth", f->all_to_all_bandwidth, true }, { "all_to_all_latency", f->all_to_all_latency, true },
        { "overhead", f->overhead, true }, { "operation_latency", f->operation_latency, true }, { "memory_bytes", f->memory_bytes, true },
        { "attention_edge", f->attention_edge, true }, { "link_burst", f->link_burst, false }, { "link_inward", f->link_inward, false },
        { "local_work", f->local_work, false }, { "cores", f->cores, true }, { "core_slowest", f->core_slowest, false },
        { "core_slice", f->core_slice, false }, { "core_turn", f->core_turn, false }, { "join_bandwidth", f->join_bandwidth, false },
        { "delta_flops", f->delta_flops, true }, { "delta_backward_flops", f->delta_backward_flops, true },
    };
    for (size_t i = 0; i < sizeof values / sizeof *values; i++)
        if (values[i].always || values[i].value > 0.0)
            json_object_set_new(h, values[i].key, number(values[i].value));
    for (int i = 0; i < CALIBRATE_DIMS; i++)
        json_array_append_new(rates, json_pack("[If]", (json_int_t)f->attention_dims[i], f->attention_rates[i]));
    for (int i = 0; i < CALIBRATE_ROWS; i++)
        json_array_append_new(rows, json_pack("[If]", (json_int_t)f->row_counts[i], f->row_parts[i]));
    for (int i = 0; i < CALIBRATE_STATES; i++)
        json_array_append_new(states, json_pack("[Iff]", (json_int_t)f->delta_dims[i], f->delta_rates[i], f->delta_backward_rates[i]));
    json_object_set_new(h, "attention_rates", rates);
    json_object_set_new(h, "attention_rows", rows);
    json_object_set_new(h, "delta_rates", states);
    json_object_set_new(h, "in_place", json_boolean(f->in_place));
    json_object_set_new(h, "node_ranks", json_integer(f->node_ranks));
    json_object_set_new(h, "node_links", json_integer(f->node_links));
    json_object_set_new(h, "core_ranks", json_integer(f->core_ranks));
    return h;
}

int bench_calibrate(struct bench *b, const char *path)
{
    struct found f = { .b = b };
    struct run run = RUN_INIT;
    run.ranks = common.mpi ? ranks_world() : 2;
    run.threads = 1;
    rondo_hardware hardware;
    int code = fail_code(ranks_run(&run, body, &f), STAGE_OPTIONS, run.text);
    if (!code && ranks_first()) {
        set_hardware(&f, &run, &hardware);
        code = fail_code(calibrate_crowd_fit(&f, run.ranks, run.transport, &hardware), STAGE_OPTIONS, rondo_error_text());
    }
    if (!code && ranks_first()) {
        json_t *h = describe(&hardware), *row = row_new("calibrate", &run), *share = json_array();
        for (int r = 0; r < run.ranks; r++)
            json_array_append_new(share, json_integer(f.share[r]));
        json_object_set_new(row, "rank_cores", share);
        json_object_set_new(row, "idle_cpu", number(f.idle_cpu));
        if (f.step[0] > 0.0)
            json_object_set_new(row, "crowd_seconds", json_pack("[ff]", f.step[0], f.step[1]));
        json_object_set(row, "hardware", h);
        code = row_add(b, row);
        if (!code)
            code = write_file(path, h);
        json_decref(h);
    }
    free(f.share);
    run_free(&run);
    return code;
}
