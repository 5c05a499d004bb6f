/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Starting ranks. A command calls ranks_session() once and ranks_run() as often as it likes (verify does so hundreds of
 * times): with threads each run starts its own ranks, with MPI the processes exist already and each run takes a context on
 * them. After a run every process knows what every rank had to say (struct slot), so all of them go the same way.
 */
#define _GNU_SOURCE   /* sched_getaffinity */
#include "cli/cli.h"

#ifdef __GLIBC__
#include <malloc.h>
#endif
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HOST_BYTES 64

/* MPI: the context that lives as long as the command; NULL with threads. */
static rondo_context *world;
static int world_rank, world_size = 1;
static char (*world_hosts)[HOST_BYTES];   /* [world_size]: where each rank runs */
static bool alone;
/* The processes no longer hear each other, so that each has to speak for itself. */
static bool apart;

static _Thread_local char body_text[512];

int body_fail(int code, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    vsnprintf(body_text, sizeof body_text, format, ap);
    va_end(ap);
    return code;
}

const char *body_said(void)
{
    return body_text[0] ? body_text : rondo_error_text();
}

void slot_measure(struct slot *mine, const rondo_context *ctx)
{
    rondo_comm_stats stats = RONDO_COMM_STATS_INIT;
    if (!rondo_comm_query(ctx, &stats))
        mine->comm = stats;
}

bool ranks_alone(void)
{
    return alone;
}

bool ranks_first(void)
{
    if (world)
        return world_rank == 0;
    int rank, size;
    mpi_environment(&rank, &size);
    return rank == 0;
}

bool ranks_apart(void)
{
    return apart;
}

int ranks_here(void)
{
    int count = 0;
    for (int r = 0; world && world_hosts && r < world_size; r++)
        count += !strcmp(world_hosts[r], world_hosts[world_rank]);
    return count ? count : 1;
}

int ranks_rank(void)
{
    return world ? world_rank : 0;
}

int ranks_world(void)
{
    return world ? world_size : 1;
}

/* ---- the session ---- */
struct session {
    int (*command)(void *arg);
    void *arg;
    const struct file_use *files;
    const char *variable;          /* what the starter said, before MPI was: that sets PMIX_RANK even where it was started by nobody */
    int rank, size;
    int exit_code;
    bool ran;
};

static int gather(const void *mine, size_t bytes, void *all)
{
    size_t *sizes = room(world_size, sizeof *sizes);
    if (!sizes)
        return RONDO_ENOMEM;
    for (int r = 0; r < world_size; r++)
        sizes[r] = bytes;
    int code = rondo_all_gather(world, mine, all, sizes);
    free(sizes);
    return code;
}

/* Files, memory and the environment are a host's own: what failed on another rank than 0 is said with its place. */
static void add_place(char *text, size_t bytes, int rank)
{
    const size_t length = strlen(text);
    if (world && world_hosts && rank > 0 && rank < world_size)
        snprintf(text + length, bytes - length, " (on rank %d, host %s)", rank, world_hosts[rank]);
}

int ranks_together(int exit_code)
{
    if (!world)
        return exit_code;
    struct opinion {
        int32_t exit_code;
        char text[508];
    } mine = { exit_code, "" }, *all = room(world_size, sizeof *all);
    if (!all)
        return exit_code ? exit_code : fail(EXIT_ROOM, "not enough memory for %d ranks", world_size);
    snprintf(mine.text, sizeof mine.text, "%s", fail_text());
    int code = gather(&mine, sizeof mine, all);
    if (code) {
        exit_code = exit_code ? exit_code : fail_library(code, STAGE_OPTIONS);
        apart = exit_code == EXIT_PEER;
    } else
        for (int r = 0, chosen = -1; r < world_size; r++)
            if (all[r].exit_code && (chosen < 0 || (all[chosen].exit_code == EXIT_PEER && all[r].exit_code != EXIT_PEER))) {
                char text[sizeof all[r].text + HOST_BYTES + 32];
                chosen = r;
                exit_code = all[r].exit_code;
                snprintf(text, sizeof text, "%s", all[r].text);
                add_place(text, sizeof text, r);
                fail_replace(text);
            }
    free(all);
    return exit_code;
}

int ranks_bytes(void *data, size_t bytes)
{
    if (!world || !bytes)
        return 0;
    return fail_library(rondo_broadcast(world, data, bytes, 0), STAGE_INPUT);
}

static int know_hosts(void)
{
    char mine[HOST_BYTES] = "";
    if (gethostname(mine, sizeof mine))
        snprintf(mine, sizeof mine, "without a name");
    mine[sizeof mine - 1] = 0;
    world_hosts = room(world_size, sizeof *world_hosts);
    if (!world_hosts)
        return fail(EXIT_ROOM, "not enough memory for %d ranks", world_size);
    return fail_library(gather(mine, sizeof mine, world_hosts), STAGE_OPTIONS);
}

static int session_body(rondo_context *ctx, void *arg)
{
    struct session *s = arg;
    world_rank = rondo_context_rank(ctx);
    world_size = rondo_context_ranks(ctx);
    if (s->size > 1 && world_size == 1) {
        s->exit_code = fail(EXIT_PEER, "%d processes were started (%s) which do not see each other; start them with the mpirun of the MPI "
                            "that rondo was built with", s->size, s->variable);
        return 0;
    }
    if (s->size == 0 && world_size == 1) {
        s->exit_code = fail(EXIT_PEER, "%s says that this process is rank %d of several, but MPI sees none of the others; start them with the "
                            "mpirun of the MPI that rondo was built with, or unset %s where it runs alone", s->variable, s->rank, s->variable);
        return 0;
    }
    world = ctx;
    alone = false;
    s->ran = true;
    int code = ranks_together(know_hosts());
    if (!code)
        code = ranks_together(fail_library(trace_begin(ctx), STAGE_OPTIONS));
    if (!code)
        code = ranks_together(world_rank == 0 ? files_check(s->files) : 0);
    if (!code)
        code = ranks_together(s->command(s->arg));
    s->exit_code = code;
    world = NULL;
    free(world_hosts);
    world_hosts = NULL;
    return 0;
}

int ranks_session(int (*command)(void *arg), void *arg, const struct file_use *files)
{
    int code;
    if (!common.mpi) {
        code = files_check(files);
        if (!code)
            code = command(arg);
    } else {
        struct session s = { .command = command, .arg = arg, .files = files, .exit_code = EXIT_PEER };
        rondo_context_desc desc = RONDO_CONTEXT_DESC_INIT;
        s.variable = mpi_environment(&s.rank, &s.size);
        desc.transport = "mpi";
        desc.threads = 1;
        alone = true;
        int error = rondo_launch(0, &desc, session_body, &s);
        /* what the command said comes before what became of the ranks after it */
        code = error && !(s.ran && s.exit_code) ? fail_library(error, STAGE_OPTIONS) : s.exit_code;
        apart = apart || (error && code == EXIT_PEER && !alone);
    }
    return code;
}

/* ---- one run ---- */
struct job {
    struct run *run;
    run_body *body;
    void *arg;
};

int ranks_check(void)
{
    if (common.mpi && common.ranks && common.ranks != ranks_world())
        return fail(EXIT_USAGE, "--ranks %lld does not fit the %d processes of this run; start it as mpirun -n %lld rondo ..., or leave --ranks "
                    "out", (long long)common.ranks, ranks_world(), (long long)common.ranks);
    return 0;
}

int ranks_count(const struct run *run)
{
    if (run->ranks)
        return run->ranks;
    const int64_t asked = common.cp || common.tp ? (common.cp ? common.cp : 1) * (common.tp ? common.tp : 1) : common.ranks;
    return world ? world_size : asked ? (int)asked : 1;
}

/* Cores that this process is bound to; 0 where it may use all there are. */
static int bound_cores(void)
{
#ifdef __linux__
    union {
        cpu_set_t set;
        unsigned char bytes[8192];   /* the largest machine: cpu_set_t holds 1,024 cores */
    } mask;
    memset(&mask, 0, sizeof mask);
    if (!sched_getaffinity(0, sizeof mask, &mask.set)) {
        const int count = CPU_COUNT_S(sizeof mask, &mask.set);
        return count < sysconf(_SC_NPROCESSORS_ONLN) ? count : 0;
    }
#endif
    return 0;
}

/* Once, and from rank 0: threads that wait for each other's core cost most of the speed, and nothing else tells. */
static void warn_of_binding(const struct run *run)
{
    static bool told;
    for (int r = 0; r < run->ranks && !told; r++) {
        const struct slot *s = &run->slots[r];
        if (!s->cores || s->threads <= s->cores)
            continue;
        told = true;
        warn_user("warning: rank %d has %d threads, but its process is bound to %d core%s; bind wider (mpirun --bind-to none, or --map-by "
                  "slot:PE=%d; srun --cpus-per-task=%d), or give --threads %d", r, s->threads, s->cores, s->cores > 1 ? "s" : "", s->threads,
                  s->threads, s->cores);
    }
}

static int run_rank(rondo_context *ctx, struct job *job)
{
    struct run *run = job->run;
    const int rank = rondo_context_rank(ctx);
    struct slot *mine = &run->slots[rank];
    void *trace = NULL;
    mine->rank = rank;
    body_text[0] = 0;
    rondo_context_info info = RONDO_CONTEXT_INFO_INIT;
    int code = rondo_context_query(ctx, &info);
    if (rank == 0 && !code) {
        snprintf(run->device, sizeof run->device, "%s", info.device);
        snprintf(run->transport, sizeof run->transport, "%s", info.transport);
        snprintf(run->used_isa, sizeof run->used_isa, "%s", info.isa);
        run->used_threads = info.threads;
        run->transfer_memory = info.transfer_memory;
    }
    mine->threads = info.threads;
    mine->cores = bound_cores();
    trace_attach(ctx, &trace);
    if (!code)
        code = job->body(ctx, mine, job->arg);
    if (!code && !mine->comm.struct_size)
        slot_measure(mine, ctx);
    trace_detach(ctx, trace, NULL);
    if (code) {
        mine->code = code;
        snprintf(mine->text, sizeof mine->text, "%s", body_said());
        rondo_context_revoke(ctx, code, mine->text);
    }
    return code;
}

static int run_thread(rondo_context *ctx, void *arg)
{
    return run_rank(ctx, arg);
}

/* The failure that caused the others: of the lowest rank whose code is its own. */
static int settle(struct run *run)
{
    const struct slot *first = NULL;
    for (int r = 0; r < run->ranks; r++) {
        const struct slot *s = &run->slots[r];
        if (s->code && (!first || (first->code == RONDO_EPEER && s->code != RONDO_EPEER)))
            first = s;
    }
    if (!first)
        return 0;
    snprintf(run->text, sizeof run->text, "%s", first->text);
    /* sentences about waits name their ranks themselves */
    if (first->code != RONDO_EPEER && first->code != RONDO_ETIMEDOUT && first->code != RONDO_EMISMATCH && first->code != RONDO_ECANCELED)
        add_place(run->text, sizeof run->text, first->rank);
    return first->code;
}

static int run_mpi(struct job *job, const rondo_context_desc *desc)
{
    struct run *run = job->run;
    rondo_context *all = NULL, *ctx = NULL;
    struct slot *slots = room(world_size, sizeof *slots);
    int code = slots ? 0 : RONDO_ENOMEM;
    if (!code)
        code = rondo_context_create(&all, desc);
    const bool part = run->ranks < world_size;
    if (!code && part)
        code = rondo_context_split(&ctx, all, world_rank < run->ranks ? 0 : -1, world_rank);
    struct slot mine;
    memset(&mine, 0, sizeof mine);
    if (code) {
        mine.code = code;
        snprintf(mine.text, sizeof mine.text, "%s", rondo_error_text());
        rondo_context_revoke(world, code, mine.text);
    } else {
        if (world_rank < run->ranks)
            run_rank(part ? ctx : all, job);
        mine = run->slots[world_rank < run->ranks ? world_rank : 0];
        if (world_rank >= run->ranks)
            memset(&mine, 0, sizeof mine);
        /* A rank that one waited for in vain would not come to tell its part either. */
        if (mine.code == RONDO_ETIMEDOUT)
            rondo_context_revoke(world, mine.code, mine.text);
        rondo_context_destroy(ctx);
        rondo_context_destroy(all);
        all = ctx = NULL;
        code = gather(&mine, sizeof mine, slots);
        if (!code) {
            memcpy(run->slots, slots, (size_t)run->ranks * sizeof *slots);
            int known = rondo_broadcast(world, run->device, sizeof run->device, 0);
            if (!known)
                known = rondo_broadcast(world, run->transport, sizeof run->transport, 0);
            if (!known)
                known = rondo_broadcast(world, run->used_isa, sizeof run->used_isa, 0);
            if (!known)
                known = rondo_broadcast(world, &run->used_threads, sizeof run->used_threads, 0);
            code = known;
            if (!code)
                code = trace_detach(NULL, NULL, world);
        }
        if (code && !mine.code) {
            mine.code = code;
            snprintf(mine.text, sizeof mine.text, "%s", rondo_error_text());
        } else if (!code) {
            free(slots);
            warn_of_binding(run);
            report_moved(run);
            return settle(run);
        }
    }
    rondo_context_destroy(ctx);
    rondo_context_destroy(all);
    free(slots);
    snprintf(run->text, sizeof run->text, "%s", mine.text);
    return mine.code;
}

/* glibc takes blocks that are freed for large ones once into its arenas from then on, where smaller ones stay behind them: of ranks that make large
 * tables one after the other, and keep some of what they make, each would leave a hole of its own. */
#define RANKS_MANY 64
static void keep_no_holes(int ranks)
{
#ifdef M_MMAP_THRESHOLD
    if (ranks > RANKS_MANY)
        mallopt(M_MMAP_THRESHOLD, 1 << 20);
#else
    (void)ranks;
#endif
}

int ranks_run(struct run *run, run_body *body, void *arg)
{
    struct job job = { run, body, arg };
    run->ranks = ranks_count(run);
    if (world && run->ranks > world_size) {
        snprintf(run->text, sizeof run->text, "%d ranks are asked for, mpirun started %d processes; start as many as ranks", run->ranks,
                 world_size);
        return RONDO_EINVAL;
    }
    run->slots = room(run->ranks, sizeof *run->slots);
    if (!run->slots) {
        snprintf(run->text, sizeof run->text, "not enough memory for %d ranks", run->ranks);
        return RONDO_ENOMEM;
    }
    memset(run->slots, 0, (size_t)run->ranks * sizeof *run->slots);
    rondo_context_desc desc = RONDO_CONTEXT_DESC_INIT;
    desc.device = common.device;
    desc.isa = run->isa ? run->isa : common.isa;
    desc.threads = (int32_t)(run->threads ? run->threads : common.threads);
    if (common.nccl)
        desc.transport = world ? "nccl_mpi" : "nccl";
    if (world) {
        desc.transport = common.nccl ? desc.transport : "mpi";
        return run_mpi(&job, &desc);
    }
    keep_no_holes(run->ranks);
    int code = rondo_launch(run->ranks, &desc, run_thread, &job);
    if (code) {
        const char *text = rondo_error_text();
        snprintf(run->text, sizeof run->text, "%s", text);
        const int own = settle(run);   /* none where the ranks did not come to run */
        return own ? own : code;
    }
    warn_of_binding(run);
    report_moved(run);
    return 0;
}

void run_free(struct run *run)
{
    free(run->slots);
    run->slots = NULL;
}
