/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Messages of ranks that are MPI processes with cards, on the fake driver: through pinned memory, or in the memory of the cards where MPI says that it
 * can, or RONDO_MPI_CUDA says so; the bits of one processor either way, beside processors too. What messages lay in is counted by an MPI that knows of
 * cards (fake_mpi.c). Then what fails with messages on cards under way: a rank that does not come, a card that is lost: a code and a sentence on every
 * rank, and nothing is left of memory. Starts itself under mpirun; rank 0 prints.
 */
#define _GNU_SOURCE   /* RTLD_DEFAULT */
#include <time.h>
#include <unistd.h>

#include "attention.h"
#include "card.h"
#include "fake_cuda.h"
#include "process.h"

#define RANKS 3

static long long (*mpi_count)(const char *what);   /* rondo_fake_mpi_count() */
static void (*mpi_begin)(void);
static void (*mpi_answer)(int yes);
static rondo_context_desc mpi = RONDO_CONTEXT_DESC_INIT;

static const char *left(void)
{
    static const char *const things[] = { "contexts", "modules", "streams", "events", "blocks", "pinned", "pending" };
    for (size_t i = 0; i < sizeof things / sizeof things[0]; i++)
        if (card_count(things[i]))
            return things[i];
    return "nothing";
}

static int sum_body(rondo_context *ctx, void *arg)
{
    int all[RANKS];
    const size_t bytes_of[RANKS] = { sizeof all[0], sizeof all[0], sizeof all[0] };
    me = rondo_context_rank(ctx);
    int err = rondo_all_gather(ctx, arg, all, bytes_of);
    *(int *)arg = err ? 0 : all[0] + all[1] + all[2];
    return err;
}

/* Rank 0 prints the verdict of all. */
static void verdict(const char *what)
{
    int sum = failures;
    mpi.device = "cpu";
    mpi.deadline = 0.0;
    const int err = rondo_launch(0, &mpi, sum_body, &sum);
    if (!me)
        ok(!err && !sum, "%s%s%s", what, err ? ": " : "", err ? rondo_error_text() : "");
    failures = 0;
}

/* ---- what is computed ---- */

struct job {
    const struct problem *p;
    const struct result *want;
    struct setup setup;
    int memory;                     /* what this rank's messages are to lie in */
    int fails, code;                /* fails: it is to fail */
    char text[512];
};

static uint64_t sent(rondo_context *ctx)
{
    rondo_comm_stats stats = RONDO_COMM_STATS_INIT;
    uint64_t bytes = 0;
    EXPECT(!rondo_comm_query(ctx, &stats), "%s", rondo_error_text());
    for (int i = 0; i < RONDO_OP_COUNT; i++)
        bytes += i == RONDO_OP_AGREE ? 0 : stats.bytes[i];
    return bytes;
}

/* Rows that this rank wrote, which are to have the bits of one processor. */
static int right_rows(const struct problem *p, const struct result *got, const struct result *want)
{
    static const char untouched[4] = { 0x55, 0x55, 0x55, 0x55 };
    const size_t bytes = (size_t)(p->heads * p->value_dim) * rondo_type_size(p->out_type);
    int rows = 0;
    for (int64_t i = 0; i < p->q_rows; i++) {
        if (!memcmp(got->out + (size_t)i * bytes, untouched, sizeof untouched))
            continue;
        rows++;
        if (memcmp(got->out + (size_t)i * bytes, want->out + (size_t)i * bytes, bytes) ||
            memcmp(got->lse + i * p->heads, want->lse + i * p->heads, (size_t)p->heads * sizeof(float)))
            return -1;
    }
    return rows;
}

static int body(rondo_context *ctx, void *arg)
{
    static struct run_ run;
    struct job *job = arg;
    struct result r;
    rondo_context_info info = RONDO_CONTEXT_INFO_INIT;
    int rows = 0, all[RANKS];
    const size_t bytes_of[RANKS] = { sizeof rows, sizeof rows, sizeof rows };
    memset(&run, 0, sizeof run);
    run.p = job->p;
    run.s = &job->setup;
    run.r = &r;
    EXPECT(!rondo_context_query(ctx, &info), "%s", rondo_error_text());
    EXPECT(info.transfer_memory == job->memory, "memory of kind %d", info.transfer_memory);
    result_make(job->p, &r);
    const uint64_t before = sent(ctx);
    mpi_begin();
    int err = run_plan_(ctx, &run, NULL, 0);
    const long long from_card = mpi_count("sent card"), pinned = mpi_count("sent pinned"), all_sent = (long long)(sent(ctx) - before);
    const long long to_card = mpi_count("received card"), to_pinned = mpi_count("received pinned");
    if (!err && !job->fails) {
        const char *what = rondo_algorithm_name(job->setup.algorithm);
        const bool is_card = job->memory != RONDO_MEMORY_HOST, direct = job->memory == RONDO_MEMORY_DEVICE;
        EXPECT(all_sent > 0 && from_card == (direct ? all_sent : 0) && pinned == (is_card && !direct ? all_sent : 0),
               "%s: %lld bytes were sent, %lld of them from a card, %lld from pinned memory", what, all_sent, from_card, pinned);
        EXPECT((to_card > 0) == direct && (to_pinned > 0) == (is_card && !direct), "%s: %lld bytes came to a card, %lld to pinned memory", what, to_card,
               to_pinned);
        EXPECT(!mpi_count("strayed"), "%s: %lld messages on another card than the thread's", what, mpi_count("strayed"));
        rows = right_rows(job->p, &r, job->want);
        EXPECT(rows > 0, "%s: other bits than one processor's", what);
        err = rondo_all_gather(ctx, &rows, all, bytes_of);
        EXPECT(err || all[0] + all[1] + all[2] == job->p->q_rows, "%s: not all rows", what);
    }
    job->code = err;
    snprintf(job->text, sizeof job->text, "%s", err ? rondo_error_text() : "");
    free(r.out);
    free(r.lse);
    return err;
}

static const int algorithms[] = { RONDO_PASS_KV, RONDO_PASS_Q, RONDO_ALL_GATHER, RONDO_ALL_TO_ALL, RONDO_REDUCE, RONDO_MESH };

/* answer, memory: of each rank. */
static void world(const struct problem *p, const struct result *want, const char *what, const char *device, const int answer[RANKS], const char *asked,
                  const int memory[RANKS], int count)
{
    if (asked)
        setenv("RONDO_MPI_CUDA", asked, 1);
    else
        unsetenv("RONDO_MPI_CUDA");
    mpi_answer(answer[me]);
    for (int a = 0; a < count; a++) {
        struct job job = { .p = p, .want = want, .memory = memory[me],
                           .setup = { .ranks = RANKS, .algorithm = algorithms[a], .layout = a % 2 ? RONDO_ZIGZAG : RONDO_CONTIGUOUS } };
        mpi.device = device;
        mpi.deadline = 0.0;
        const int err = rondo_launch(0, &mpi, body, &job);
        EXPECT(!err, "%s: %d %s", rondo_algorithm_name(algorithms[a]), err, rondo_error_text());
        EXPECT(!strcmp(left(), "nothing"), "left: %s", left());
    }
    verdict(what);
}

static void worlds(const struct problem *p, const struct result *want)
{
    enum { HOST = RONDO_MEMORY_HOST, PINNED = RONDO_MEMORY_PINNED, CARD = RONDO_MEMORY_DEVICE };
    static const int no[] = { 0, 0, 0 }, yes[] = { 1, 1, 1 }, real[] = { -1, -1, -1 }, one[] = { 0, 1, 0 };
    static const int through[] = { PINNED, PINNED, PINNED }, direct[] = { CARD, CARD, CARD }, mixed[] = { CARD, HOST, CARD }, of_one[] = { PINNED, CARD, PINNED };
    int (*query)(void) = NULL;
    *(void **)(void *)&query = dlsym(RTLD_DEFAULT, "MPIX_Query_cuda_support");
    mpi_answer(-1);
    world(p, want, "cards, as this MPI says", "cuda:0-2", real, NULL, query && query() == 1 ? direct : through, 1);
    world(p, want, "cards, MPI says no: through pinned memory", "cuda:0-2", no, NULL, through, 1);
    world(p, want, "cards, MPI says yes: from card to card, by all algorithms", "cuda:0-2", yes, "auto", direct, 6);
    world(p, want, "cards, MPI says yes, RONDO_MPI_CUDA=no", "cuda:0-2", yes, "no", through, 1);
    world(p, want, "cards, MPI says no, RONDO_MPI_CUDA=yes", "cuda:0-2", no, "yes", direct, 1);
    world(p, want, "cards and a processor", "cuda:0,cpu,cuda:1", yes, NULL, mixed, 6);
    world(p, want, "MPI says yes to one of three", "cuda:0-2", one, NULL, of_one, 2);
}

/* ---- failures ---- */

/* The fake driver from here on. */
static void driver(const char *settings)
{
    CUresult (*init)(unsigned flags) = NULL;
    *(void **)(void *)&init = dlsym(RTLD_DEFAULT, "cuInit");
    EXPECT(!card_set(settings) && init && !init(0), "%s", settings);
}

static int failing(const struct problem *p, struct job *job)
{
    *job = (struct job){ .p = p, .memory = RONDO_MEMORY_DEVICE, .fails = 1, .setup = { .ranks = RANKS, .algorithm = RONDO_PASS_KV } };
    mpi.device = "cuda:0-2";
    mpi.deadline = 20.0;
    return rondo_launch(0, &mpi, body, job);
}

/* As a context on another card leaves the thread. */
static void leave_card(void)
{
    CUresult (*set)(CUcontext context) = NULL;
    *(void **)(void *)&set = dlsym(RTLD_DEFAULT, "cuCtxSetCurrent");
    EXPECT(set && !set(NULL), "the thread has a card");
}

/* Rank 1 is late with what the others wait for on their cards, whose memory has gone when it comes. */
static int late_body(rondo_context *ctx, void *arg)
{
    struct job *job = arg;
    struct rondo_part parts[RANKS];
    struct rondo__transfer t = { .group = { .parts = parts }, .step = { "waiting", 0, 0 }, .operation = RONDO_OP_SHIFT };
    const size_t bytes = 200000;
    void *memory = NULL;
    int err = rondo_memory_create(&memory, ctx, RONDO_MEMORY_DEVICE, bytes);
    if (err)
        return err;
    if (me == 1)
        nanosleep(&(struct timespec){ .tv_sec = 1, .tv_nsec = 200000000 }, NULL);
    for (int r = 0; r < RANKS; r++)
        if ((r == 1) != (me == 1))
            parts[t.group.count++] = (struct rondo_part){ .memory = memory, .bytes = bytes, .peer = r, .receives = me != 1 };
    mpi_begin();
    leave_card();
    err = rondo__transfer_start(ctx, &t);
    EXPECT(!mpi_count("strayed") && (err || mpi_count(me == 1 ? "sent card" : "received card") > 0), "%lld messages on another card than the thread's",
           mpi_count("strayed"));
    if (!err)
        err = rondo__transfer_finish(ctx, &t);
    err = rondo__collective_failed(ctx, err);
    rondo_memory_destroy(ctx, memory);
    job->code = err;
    snprintf(job->text, sizeof job->text, "%s", err ? rondo_error_text() : "");
    return err;
}

static void stalled(void)
{
    struct job job = { .code = 0 };
    const double begin = rondo__now();
    mpi.device = "cuda:0-2";
    mpi.deadline = 0.4;
    const int err = rondo_launch(0, &mpi, late_body, &job);
    EXPECT(err == RONDO_ETIMEDOUT || (me == 1 && err == RONDO_EPEER), "%d %s", err, rondo_error_text());
    EXPECT((job.code == RONDO_ETIMEDOUT && me != 1) || job.code == RONDO_EPEER, "%d", job.code);
    EXPECT(strstr(job.text, "rank 1 did not answer rank") && strstr(job.text, "in step waiting"), "%s", job.text);
    EXPECT(rondo__now() - begin < 6.0, "after %.1f s", rondo__now() - begin);
    EXPECT(!strcmp(left(), "nothing"), "left: %s", left());
    verdict("a rank that does not come while others wait for it on their cards");
}

/* Each call of one rank's transport, so that others' messages are at any place of their ways. */
static void every_call(const struct problem *p)
{
    int n = 1, err = 1;
    for (; n < 200 && err; n += 3) {
        struct job job;
        char hook[32];
        snprintf(hook, sizeof hook, "fail:%d:1", n);
        setenv("RONDO_TEST_HOOK", hook, 1);
        err = failing(p, &job);
        unsetenv("RONDO_TEST_HOOK");
        EXPECT(!err || (err == RONDO_ETRANSPORT && strstr(rondo_error_text(), "the test hook lets call")), "%s: %d %s", hook, err, rondo_error_text());
        EXPECT(!strcmp(left(), "nothing"), "%s: left: %s", hook, left());
    }
    EXPECT(!err && n > 20, "%d calls: %d", n, err);
    verdict("each third call of one rank's transport fails");
}

static void faults(const struct problem *p, const struct result *want)
{
    static const int yes[] = { 1, 1, 1 }, direct[] = { RONDO_MEMORY_DEVICE, RONDO_MEMORY_DEVICE, RONDO_MEMORY_DEVICE };
    struct job job;
    unsetenv("RONDO_MPI_CUDA");
    mpi_answer(1);
    stalled();
    every_call(p);
    driver(me == 2 ? "devices=3,launch=2:719" : "devices=3");
    int err = failing(p, &job);
    EXPECT(err == RONDO_EDEVICE, "%d %s", err, rondo_error_text());
    EXPECT(job.code == (me == 2 ? RONDO_EDEVICE : RONDO_EPEER) && job.text[0], "%d %s", job.code, job.text);
    EXPECT(!strcmp(left(), "nothing"), "left: %s", left());
    driver("devices=3");
    verdict("a card is lost");

    if (me == 1)
        setenv("RONDO_MPI_CUDA", "perhaps", 1);
    err = failing(p, &job);
    EXPECT(err == RONDO_EINVAL && strstr(rondo_error_text(), "RONDO_MPI_CUDA is 'perhaps'; it takes yes"), "%d %s", err, rondo_error_text());
    EXPECT(!strcmp(left(), "nothing"), "left: %s", left());
    unsetenv("RONDO_MPI_CUDA");
    verdict("a value that RONDO_MPI_CUDA does not take");
    world(p, want, "and all is as before", "cuda:0-2", yes, NULL, direct, 1);
}

/* ---- one process ---- */

static int rank(void)
{
    static const struct setup alone = { .ranks = 1 };
    static struct run_ run;
    struct result want;
    rondo_context *ctx = NULL;
    rondo_context_desc cpu = RONDO_CONTEXT_DESC_INIT;
    struct problem p = { .sequences = 2, .tokens = { 75, 40 }, .cached = { 0, 23 }, .heads = 4, .kv_heads = 2, .head_dim = 8, .value_dim = 8, .causal = 1,
                         .q_type = RONDO_F32, .kv_type = RONDO_F32, .out_type = RONDO_F32, .leaf = 16, .seed = 5 };
    int sum = 0;
    *(void **)(void *)&mpi_count = dlsym(RTLD_DEFAULT, "rondo_fake_mpi_count");
    *(void **)(void *)&mpi_begin = dlsym(RTLD_DEFAULT, "rondo_fake_mpi_begin");
    *(void **)(void *)&mpi_answer = dlsym(RTLD_DEFAULT, "rondo_fake_mpi_answer");
    const char *why = card_open();
    if (why || !mpi_count || !mpi_begin || !mpi_answer) {
        printf("Bail out! %s\n", why ? why : "the fake MPI was not preloaded");
        return 1;
    }
    alarm(200);
    problem_data(&p);
    run.p = &p;
    run.s = &alone;
    run.r = &want;
    result_make(&p, &want);
    cpu.threads = mpi.threads = 1;
    cpu.device = mpi.device = "cpu";
    mpi.transport = "mpi";
    int err = rondo_context_create(&ctx, &cpu);
    if (!err)
        err = run_plan_(ctx, &run, NULL, 0);
    rondo_context_destroy(ctx);
    if (!err)
        err = rondo_launch(RANKS, &mpi, sum_body, &sum);
    if (err) {
        printf("Bail out! %s\n", rondo_error_text());
        return 1;
    }
    worlds(&p, &want);
    faults(&p, &want);
    problem_free(&p);
    free(want.out);
    free(want.lse);
    return me ? 0 : done();
}

int main(int argc, char **argv)
{
    const char *build = getenv("builddir"), *mpirun = getenv("MPIRUN");
    char path[3000], command[12000];
    if (argc > 1)
        return rank();
    if (__BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__)
        return skip_all("%s", "a graphics card is little-endian");
    if (under_sanitizer())
        return skip_all("%s", "MPI libraries and sanitizers do not mix");
    build = build ? build : ".";
    snprintf(path, sizeof path, "%s/t/fake/.libs/libfake_mpi.so", build);
    if (!mpirun || !*mpirun || access(path, R_OK))
        return skip_all("%s", "no MPI module, or no mpirun");
    unsetenv("RONDO_TEST_HOOK");
    setenv("RONDO_FAKE_CUDA", "devices=3", 1);
    snprintf(command, sizeof command, "exec %s -n %d env LD_LIBRARY_PATH='%s/t/fake/.libs' LD_PRELOAD='%s' '%s' rank", mpirun, RANKS, build, path, argv[0]);
    execl("/bin/sh", "sh", "-c", command, (char *)NULL);
    return 1;
}
