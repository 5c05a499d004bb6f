/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The device "cuda" where the driver or the card fails: no driver, no card, one that is too old, and then each call of the driver, each allocation,
 * each launch and each copy of a small piece of work in turn, and a card that is lost after any of them. There is a code and a sentence each
 * time, no crash, and all memory is given back.
 */
#include <sys/wait.h>
#include <unistd.h>

#include "card.h"

static long held;
static void *allocate(void *user, size_t bytes, size_t align)
{
    void *memory = NULL;
    (void)user;
    held++;
    return posix_memalign(&memory, align, bytes) ? NULL : memory;
}
static void release(void *user, void *memory, size_t bytes)
{
    (void)user;
    (void)bytes;
    held--;
    free(memory);
}

enum { TOKENS = 40, HEADS = 2, DIM = 8, FLOATS = TOKENS * HEADS * DIM };
static float q[FLOATS], k[FLOATS], v[FLOATS], result[2][FLOATS];

/* A context, memory, attention, a layer, a norm: 0, or the first code, with its sentence in `said`. */
static char said[1024];
static int work(float *out)
{
    rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
    rondo_attention_desc a = RONDO_ATTENTION_DESC_INIT;
    rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
    rondo_linear_desc l = RONDO_LINEAR_DESC_INIT;
    rondo_context *ctx = NULL;
    rondo_attention *plan = NULL;
    rondo_linear *linear = NULL;
    void *memory = NULL;
    const int64_t shape[3] = { TOKENS, HEADS, DIM };
    static float y[FLOATS];
    d.device = "cuda";
    d.threads = 1;
    a.heads = a.kv_heads = HEADS;
    a.head_dim = DIM;
    a.tokens = TOKENS;
    a.causal = 1;
    a.leaf = 16;
    l.in = l.out = DIM;
    io.q = rondo_tensor_dense(q, RONDO_F32, 3, shape);
    io.k = rondo_tensor_dense(k, RONDO_F32, 3, shape);
    io.v = rondo_tensor_dense(v, RONDO_F32, 3, shape);
    io.out = rondo_tensor_dense(y, RONDO_F32, 3, shape);
    said[0] = 0;
    int err = rondo_context_create(&ctx, &d);
    err = err ? err : rondo_memory_create(&memory, ctx, RONDO_MEMORY_DEVICE, sizeof q);
    err = err ? err : rondo_attention_create(&plan, ctx, &a);
    err = err ? err : rondo_attention_execute(plan, &io, NULL);
    err = err ? err : rondo_linear_create(&linear, ctx, &l);
    err = err ? err : rondo_linear_load(linear, 0, DIM, k);
    err = err ? err : rondo_memory_copy(ctx, memory, y, sizeof y);
    err = err ? err : rondo_linear_execute(linear, ctx, TOKENS * HEADS, memory, DIM, y, DIM, NULL, 0);
    err = err ? err : rondo_rmsnorm(ctx, TOKENS * HEADS, DIM, y, v, 1e-5f, y);
    if (err)
        snprintf(said, sizeof said, "%s", rondo_error_text());
    rondo_linear_destroy(linear);
    rondo_attention_destroy(plan);
    rondo_memory_destroy(ctx, memory);
    rondo_context_destroy(ctx);
    memcpy(out, y, sizeof y);
    return err;
}

/* ---- what shows when the driver is opened: a process each ---- */

static void opening(const char *settings, const char *word)
{
    int status = 0;
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        setenv("RONDO_FAKE_CUDA", settings, 1);
        if (card_open())
            _exit(3);
        const int err = work(result[0]);
        ok(err == RONDO_ENOTSUP && strstr(said, word), "%s: code %d, %s", settings, err, said);
        fflush(stdout);
        _exit(tap_failed != 0);
    }
    tap_count++;
    tap_failed += child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}

/* ---- everything else ---- */

static int (*init)(unsigned);

static int set(const char *settings)
{
    int err = card_set(settings);
    (void)init(0);      /* the module calls it once for a process */
    return err;
}

static const char *left(void)
{
    static const char *const things[] = { "contexts", "modules", "streams", "events", "blocks", "pinned", "pending" };
    for (size_t i = 0; i < sizeof things / sizeof things[0]; i++)
        if (card_count(things[i]))
            return things[i];
    return held ? "memory of the host" : NULL;
}

/* The N-th of a kind fails, for each N until there are not so many. quiet: what fails may be something whose failure does not matter. */
static void sweep(const char *what, const char *code, int quiet)
{
    int wrong = 0, silent = 0, n = 1, failures = 0;
    char settings[64];
    const long long all = (set(""), work(result[1]), card_count(strcmp(what, "call") == 0 || strcmp(what, "lost") == 0 ? "calls"
                                                                : strcmp(what, "launch") == 0 ? "launches"
                                                                : strcmp(what, "alloc") == 0 ? "allocations" : "copies"));
    for (; n <= all; n++) {
        snprintf(settings, sizeof settings, "%s=%d%s", what, n, code);
        if (set(settings)) {
            diag("%s is refused", settings);
            wrong++;
            break;
        }
        memset(result[1], 0, sizeof result[1]);
        const int err = work(result[1]);
        const char *rest = left();
        failures += err != 0;
        silent += !err;
        if (rest || (err && !said[0]) || (!err && memcmp(result[0], result[1], sizeof result[0]))) {
            diag("%s: code %d, \"%s\"; left: %s", settings, err, said, rest ? rest : "nothing");
            wrong++;
        }
    }
    is_int(wrong, 0, "%s%s, each of %lld: a code and a sentence, and nothing is left (%d failures)", what, code, all, failures);
    ok(failures > 0 && (quiet || !silent), "  and all of them are told: %d are not", silent);
}

int main(void)
{
    for (int i = 0; i < FLOATS; i++) {
        q[i] = (float)(i * 7919 % 2003) * 1e-3f - 0.9f;
        k[i] = (float)(i * 104729 % 1999) * 1e-3f - 0.9f;
        v[i] = (float)(i * 1299709 % 1997) * 1e-3f - 0.9f;
    }
    if (card_open())   /* also in the children, which begin anew below */
        return skip_all("%s", "the module for graphics cards was not built");
    opening("no-device", "sees no graphics card");
    opening("devices=0", "sees no graphics card");
    opening("old-driver", "is of CUDA 10.2; 11.8 or newer is needed");
    opening("init=34", "stub library (error 34)");
    opening("init=999", "unknown error (error 999)");
    opening("cc=75", "compute capability 7.5; 8.0 or newer is needed");

    rondo_hooks hooks = RONDO_HOOKS_INIT;
    hooks.allocate = allocate;
    hooks.release = release;
    *(void **)(void *)&init = dlsym(RTLD_DEFAULT, "cuInit");
    if (!init || rondo_set_hooks(&hooks))
        return 99;
    int err = work(result[0]);   /* opens the driver for good */
    ok(!err && !left(), "without a failure it goes through: %s", err ? said : left() ? left() : "nothing is left");
    err = work(result[1]);
    ok(!err && !memcmp(result[0], result[1], sizeof result[0]), "with the same result each time");

    rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
    rondo_context *ctx = NULL;
    d.device = "cuda";
    d.device_index = 3;
    err = rondo_context_create(&ctx, &d);
    ok(err == RONDO_EINVAL && strstr(rondo_error_text(), "no graphics card 3; this machine has 1"), "a card that is not there: %s", rondo_error_text());
    set("memory=100000");
    err = work(result[1]);
    ok(err == RONDO_ENOMEM && !left(), "too little memory: %s", said);
    set("module=218");
    err = work(result[1]);
    ok(err == RONDO_EDEVICE && strstr(said, "kernels") && !left(), "kernels that the driver does not take: %s", said);
    sweep("alloc", "", 0);
    sweep("launch", "", 0);
    sweep("launch", ":701", 0);
    sweep("copy", "", 0);
    sweep("copy", ":1", 0);
    sweep("call", "", 1);
    sweep("lost", "", 1);
    return done();
}
