/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The transport "nccl" on the fake driver and the fake NCCL: ranks that are threads with a card each give the bits of one processor, whatever the
 * algorithm; so do rings of cards and processors over "threads". Then what fails: a library that is too old, a rank without a card, two ranks on
 * one card, each call of NCCL, a peer that does not come, one that is lost: a code and a sentence on every rank, within the deadline, and nothing
 * is left of communicators, streams, events and memory.
 */
#include <sys/wait.h>
#include <unistd.h>

#include "attention.h"
#include "card.h"

static long long (*nccl_count)(const char *what);   /* rondo_fake_nccl_count() */
static int (*nccl_set)(const char *settings);

/* The fake NCCL, beside the fake driver: under the name that the module asks for. */
static const char *nccl_open(const char *folder)
{
    char path[4096];
    const char *build = getenv("builddir");
    snprintf(path, sizeof path, "%s/t/fake/%s.libs/libnccl.so.2", build ? build : ".", folder);
    void *library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
    if (!library)
        return "the fake NCCL was not built";
    *(void **)(void *)&nccl_count = dlsym(library, "rondo_fake_nccl_count");
    *(void **)(void *)&nccl_set = dlsym(library, "rondo_fake_nccl_set");
    return nccl_count && nccl_set ? NULL : "the fake NCCL is none";
}

static const char *left(void)
{
    static const char *const things[] = { "contexts", "modules", "streams", "events", "blocks", "pinned", "pending" };
    for (size_t i = 0; i < sizeof things / sizeof things[0]; i++)
        if (card_count(things[i]))
            return things[i];
    return nccl_count("comms") ? "communicators" : nccl_count("aborts") >= 1000 ? "communicators that were not at their end" : NULL;
}

/* ---- what is computed ---- */

static void world(const char *transport, const char *device)
{
    setenv("RONDO_TEST_TRANSPORT", transport, 1);
    setenv("RONDO_TEST_DEVICE", device, 1);
}

static struct problem small(uint32_t seed)
{
    struct problem p = { .sequences = 2, .tokens = { 75, 40 }, .cached = { 0, 23 }, .heads = 4, .kv_heads = 2, .head_dim = 8, .value_dim = 8, .causal = 1,
                         .q_type = RONDO_F32, .kv_type = RONDO_F32, .out_type = RONDO_F32, .leaf = 16, .seed = seed };
    problem_data(&p);
    return p;
}

static uint64_t hash_on(const struct problem *p, const char *transport, const char *device, int ranks, int algorithm, int layout)
{
    struct result r = { .out = NULL };
    const struct setup s = { .ranks = ranks, .algorithm = algorithm, .layout = layout };
    world(transport, device);
    const int err = solve(p, &s, &r);
    if (err)
        diag("%s, %s, %d ranks, %s: %d %s", transport, device, ranks, rondo_algorithm_name(algorithm), err, rondo_error_text());
    else if (!r.agree)
        diag("%s, %s, %d ranks, %s: other messages than the plan's", transport, device, ranks, rondo_algorithm_name(algorithm));
    const uint64_t hash = err || !r.agree ? 0 : r.hash;
    result_free(&r);
    return hash;
}

static void bits(void)
{
    static const int algorithms[] = { RONDO_PASS_KV, RONDO_PASS_Q, RONDO_ALL_GATHER, RONDO_ALL_TO_ALL, RONDO_REDUCE, RONDO_MESH };
    static const struct {
        const char *transport, *device, *what;
    } worlds[] = {
        { "nccl", "cuda:0-3", "cards over NCCL" }, { "threads", "cuda:0-3", "cards over threads" },
        { "threads", "cuda:0,cpu,cuda:1", "cards and processors in one ring" }, { "threads", "cpu,cuda:0", "and the other way round" },
    };
    struct problem p = small(1);
    const uint64_t one = hash_on(&p, "threads", "cpu", 1, RONDO_ALGORITHM_AUTO, RONDO_CONTIGUOUS);
    ok(one != 0, "one rank on a processor");
    for (size_t w = 0; w < sizeof worlds / sizeof worlds[0]; w++) {
        int wrong = 0, runs = 0;
        nccl_set("");
        for (size_t a = 0; a < sizeof algorithms / sizeof algorithms[0]; a++)
            for (int ranks = 2; ranks <= 4; ranks++, runs++)
                wrong += hash_on(&p, worlds[w].transport, worlds[w].device, ranks, algorithms[a], a % 2 ? RONDO_ZIGZAG : RONDO_CONTIGUOUS) != one;
        is_int(wrong, 0, "%s: %d runs, all algorithms, the same bits", worlds[w].what, runs);
        if (!strcmp(worlds[w].transport, "nccl"))
            ok(nccl_count("groups") > 50 && nccl_count("bytes") > 10000, "  by %lld groups of NCCL, %lld bytes", nccl_count("groups"), nccl_count("bytes"));
        else
            is_int((int)nccl_count("groups"), 0, "  without NCCL");
        const char *rest = left();
        ok(!rest, "  and nothing is left: %s", rest ? rest : "nothing");
    }
    problem_free(&p);
}

/* ---- failures ---- */

struct outcome {
    const struct problem *p;
    struct result result;
    int code[8];
    char text[8][700];
};

static int body(rondo_context *ctx, void *arg)
{
    struct outcome *o = arg;
    static struct run_ run;
    static const struct setup s = { .ranks = 3, .algorithm = RONDO_PASS_KV };
    const int rank = rondo_context_rank(ctx);
    if (rank == 0) {
        memset(&run, 0, sizeof run);
        run.p = o->p;
        run.s = &s;
        run.r = &o->result;
        result_make(o->p, &o->result);
    }
    int err = rondo_barrier(ctx);
    if (!err)
        err = run_plan_(ctx, &run, NULL, 0);
    o->code[rank] = err;
    snprintf(o->text[rank], sizeof o->text[0], "%s", err ? rondo_error_text() : "");
    return err;
}

static double seconds(void) { return rondo__now(); }

static int failing(struct outcome *o, const struct problem *p, const char *settings, const char *device, double deadline)
{
    rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
    world("nccl", device);
    if (nccl_set(settings))
        return 99;
    memset(o, 0, sizeof *o);
    o->p = p;
    d.threads = 1;
    d.deadline = deadline;
    const int err = rondo_launch(3, &d, body, o);
    free(o->result.out);
    free(o->result.lse);
    return err;
}

static void refusals(const struct problem *p)
{
    struct outcome o;
    int err = failing(&o, p, "", "cuda:0,cuda:1,cpu", 5.0);
    ok(err == RONDO_ENOTSUP && strstr(rondo_error_text(), "rank 2 computes on device cpu") && strstr(rondo_error_text(), "threads and mpi"),
       "a rank without a card: %d %s", err, rondo_error_text());
    err = failing(&o, p, "", "cuda:0,cuda:1,cuda:1", 5.0);
    ok(err == RONDO_ETRANSPORT && strstr(rondo_error_text(), "Duplicate GPU detected : rank 1 and rank 2"), "two ranks on one card: %d %s", err,
       rondo_error_text());
    err = failing(&o, p, "", "cuda:0-", 5.0);
    ok(err == RONDO_EINVAL && strstr(rondo_error_text(), "cuda:0-3"), "a list that is none: %s", rondo_error_text());
    err = failing(&o, p, "", "cuda:0,pigeon", 5.0);
    ok(err == RONDO_EINVAL && strstr(rondo_error_text(), "no device 'pigeon'"), "a list with a device that is none: %s", rondo_error_text());
    err = failing(&o, p, "", "cuda:0,cuda:77", 5.0);
    ok(err == RONDO_EINVAL && strstr(rondo_error_text(), "no graphics card 77"), "a list with a card that is not there: %s", rondo_error_text());
    rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
    d.device = "cuda:0-1,cuda:66-67,cpu";
    rondo_context *ctx = NULL;
    d.device_index = 8;
    err = rondo_context_create(&ctx, &d);
    ok(err == RONDO_EINVAL && strstr(rondo_error_text(), "no graphics card 67"), "an index besides a list says where it begins: %s", rondo_error_text());
    d.device_index = 9;
    err = rondo_context_create(&ctx, &d);
    ok(!err && !strcmp(rondo__ops(ctx)->name, "cpu"), "  and goes round");
    rondo_context_destroy(ctx);
    ok(!left(), "nothing is left: %s", left() ? left() : "nothing");
}

/* All return, none of them with nothing to say, long before the deadline has passed twice. */
static void waits(const struct problem *p, const char *settings, int code, const char *word, const char *what)
{
    struct outcome o;
    const double begin = seconds();
    const int err = failing(&o, p, settings, "cuda:0-2", 1.0);
    const double took = seconds() - begin;
    int told = 0, failed = 0;
    ok(err == code && strstr(rondo_error_text(), word), "%s: %d %s", what, err, rondo_error_text());
    for (int r = 0; r < 3; r++) {
        failed += o.code[r] != 0;
        told += o.code[r] && o.text[r][0];
    }
    ok(failed == told && (failed == 3 || strstr(settings, "stay")), "  %d ranks have a code, %d of them a sentence", failed, told);
    for (int r = 0; r < 3; r++)
        diag("rank %d: %d %s", r, o.code[r], o.text[r]);
    ok(took < 8.0, "  after %.1f s, with a deadline of 1", took);
    const char *rest = left();
    ok(!rest && nccl_count("aborts") > 0, "  its communicators were aborted, and nothing is left: %s", rest ? rest : "nothing");
}

static void every_call(const struct problem *p)
{
    struct outcome o;
    char settings[32];
    const int step = under_sanitizer() ? 7 : 1;
    int wrong = 0, failures = 0, n = 1;
    failing(&o, p, "", "cuda:0-2", 20.0);
    /* one has been opened already: what a process does once is not in it; looks come by time, so that there are more or fewer of them */
    const long long all = nccl_count("calls") < 260 ? nccl_count("calls") : 260;
    for (; n <= all; n += step) {
        snprintf(settings, sizeof settings, "call=%d", n);
        const int err = failing(&o, p, settings, "cuda:0-2", 20.0);
        const char *rest = left();
        failures += err != 0;
        if (rest || (err && (err != RONDO_ETRANSPORT || !strstr(rondo_error_text(), "NCCL says")))) {
            diag("%s: %d %s; left: %s", settings, err, rondo_error_text(), rest ? rest : "nothing");
            wrong++;
        }
    }
    ok(!wrong && failures > 20 / step, "each%s of %lld calls of NCCL fails: a code and a sentence on all ranks, and nothing is left (%d failures)",
       step > 1 ? " seventh" : "", all, failures);
}

/* What shows when the library is opened: a process each. */
static void opening(const struct problem *p, const char *folder, const char *settings, const char *word)
{
    int status = 0;
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        struct outcome o;
        if (card_open() || nccl_open(folder))
            _exit(3);
        const int err = failing(&o, p, settings, "cuda:0-2", 5.0);
        ok(err == RONDO_ENOTSUP && strstr(rondo_error_text(), word), "%s%s: %d %s", folder, settings, err, rondo_error_text());
        fflush(stdout);
        _exit(tap_failed != 0);
    }
    tap_count++;
    tap_failed += child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}

int main(void)
{
    setenv("RONDO_FAKE_CUDA", "devices=4", 1);
    alarm(280);
    if (__BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__)
        return skip_all("%s", "a graphics card is little-endian");
    struct problem p = small(2);
    opening(&p, "old/", "", "has no function ncclCommAbort; NCCL 2.18 or newer is needed");
    opening(&p, "", "version=21705", "is 2.17.5; 2.18 or newer is needed");
    const char *why = card_open();
    if (!why)
        why = nccl_open("");
    if (why)
        return skip_all("%s", why);
    bits();
    refusals(&p);
    waits(&p, "stay=1", RONDO_ETIMEDOUT, "within 1 s in step data plane", "a rank whose communicator is never made");
    waits(&p, "hang=1:1", RONDO_ETIMEDOUT, "did not answer rank", "a rank whose group never begins");
    waits(&p, "hang=2", RONDO_ETIMEDOUT, "in step pass-KV 2 of 2", "a group that begins nowhere");
    waits(&p, "async=1:1", RONDO_ETRANSPORT, "remote process exited", "a peer that is lost");
    every_call(&p);
    problem_free(&p);
    return done();
}
