/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the device "cuda" asks of the driver in an execution of a plan that has run before, counted by the fake driver: a number that follows from
 * the plan, so that the host's overhead, which is these calls, cannot grow unnoticed. A launch for each kind of tile and one for their rows, one upload of
 * lists where there are several jobs, one wait at the end; nothing is allocated, and memory is asked for its kind once for each array.
 */
#include "card.h"

enum { HEADS = 4, DIM = 16, ROWS_MAX = 1024, ARRAYS = 4, WARM = 20 };

static const struct plan {
    const char *name;
    int64_t sequences, tokens[3], cached[3];
    int launches, uploads;       /* kinds of tiles, by their rows, and the rows' steps; what one job binds goes with these */
} plans[] = {
    { "a prompt", 1, { 200 }, { 0 }, 2, 0 },
    { "a token behind 600", 1, { 1 }, { 600 }, 2, 0 },
    { "a prompt and two tokens", 3, { 200, 1, 1 }, { 0, 300, 77 }, 3, 1 },
};

static const char *const waits[] = { "cuEventSynchronize", "cuStreamSynchronize", "cuCtxSynchronize", "cuEventQuery", "cuStreamQuery" },
                  *const makes[] = { "cuMemAlloc_v2", "cuMemHostAlloc", "cuMemFree_v2", "cuMemFreeHost", "cuEventCreate", "cuEventDestroy_v2",
                                     "cuStreamCreate", "cuStreamDestroy_v2", "cuModuleLoadDataEx", "cuFuncSetAttribute",
                                     "cuOccupancyMaxActiveBlocksPerMultiprocessor" },
                  *const all[] = { "cuCtxSetCurrent", "cuPointerGetAttribute", "cuMemcpyAsync", "cuMemcpy2DAsync_v2", "cuLaunchKernel", "cuEventRecord",
                                   "cuStreamWaitEvent", "cuEventSynchronize", "cuStreamSynchronize", "cuEventQuery" };

static long long sum(const char *const *names, size_t count)
{
    long long calls = 0;
    for (size_t i = 0; i < count; i++)
        calls += card_count(names[i]);
    return calls;
}
#define SUM(names) sum(names, sizeof names / sizeof names[0])

static void look(rondo_context *ctx, const struct plan *p)
{
    rondo_attention_desc a = RONDO_ATTENTION_DESC_INIT;
    rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
    rondo_attention *plan = NULL;
    void *memory[ARRAYS] = { NULL };
    int64_t rows = 0, keys = 0;
    static float numbers[ROWS_MAX * HEADS * DIM];
    int err = 0;
    for (int64_t i = 0; i < p->sequences; i++) {
        rows += p->tokens[i];
        keys += p->tokens[i] + p->cached[i];
    }
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        numbers[i] = (float)(i * 7919 % 2003) * 1e-3f - 1.0f;
    for (int i = 0; i < ARRAYS && !err; i++)
        err = rondo_memory_create(&memory[i], ctx, RONDO_MEMORY_DEVICE, sizeof numbers);
    for (int i = 0; i < ARRAYS && !err; i++)
        err = rondo_memory_copy(ctx, memory[i], numbers, sizeof numbers);
    const int64_t q[3] = { rows, HEADS, DIM }, k[3] = { keys, HEADS, DIM };
    rondo_tensor *const tensors[ARRAYS] = { &io.q, &io.k, &io.v, &io.out };
    for (int i = 0; i < ARRAYS; i++) {
        *tensors[i] = rondo_tensor_dense(memory[i], RONDO_F32, 3, i % 3 ? k : q);
        tensors[i]->memory = RONDO_MEMORY_DEVICE;
    }
    a.heads = a.kv_heads = HEADS;
    a.head_dim = DIM;
    a.sequences = p->sequences;
    a.tokens_of = p->tokens;
    a.cached_of = p->cached;
    a.causal = 1;
    a.leaf = 16;
    err = err ? err : rondo_attention_create(&plan, ctx, &a);
    for (int i = 0; i < WARM && !err; i++)   /* as often as there are lists of runs in turn, and more */
        err = rondo_attention_execute(plan, &io, NULL);
    const long long calls = card_count("calls"), set = card_count("cuCtxSetCurrent"), kinds = card_count("cuPointerGetAttribute"),
                    launches = card_count("launches"), copies = card_count("copies"), records = card_count("cuEventRecord"), waited = SUM(waits),
                    made = SUM(makes);
    long long each[sizeof all / sizeof all[0]];
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        each[i] = card_count(all[i]);
    err = err ? err : rondo_attention_execute(plan, &io, NULL);
    const long long took = card_count("calls") - calls;
    ok(!err, "%s: it runs%s%s", p->name, err ? ": " : "", err ? rondo_error_text() : "");
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        diag("%s: %lld", all[i], card_count(all[i]) - each[i]);
    is_int(card_count("launches") - launches, p->launches, "  launches");
    is_int(card_count("copies") - copies, p->uploads, "  copies: the lists of the run");
    is_int(card_count("cuEventRecord") - records, 1, "  records: when they may be written again");
    is_int(SUM(waits) - waited, 1 + p->uploads, "  waits: at the end, and for the run before that had the lists");
    is_int(SUM(makes) - made, 0, "  nothing is made, nothing is given back");
    ok(card_count("cuPointerGetAttribute") - kinds == ARRAYS, "  kinds of memory: %lld", card_count("cuPointerGetAttribute") - kinds);
    ok(card_count("cuCtxSetCurrent") - set <= ARRAYS + 2, "  the context: %lld", card_count("cuCtxSetCurrent") - set);
    ok(took <= 2 * ARRAYS + 2 + p->launches + 2 * p->uploads + 2, "  all together: %lld", took);
    rondo_attention_destroy(plan);
    for (int i = 0; i < ARRAYS; i++)
        rondo_memory_destroy(ctx, memory[i]);
}

int main(void)
{
    const char *why = card_open();
    if (why)
        return skip_all("%s", why);
    rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
    rondo_context *ctx = NULL;
    d.device = "cuda";
    d.threads = 1;
    if (!ok(!rondo_context_create(&ctx, &d), "a context: %s", ctx ? "made" : rondo_error_text()))
        return done();
    for (size_t i = 0; i < sizeof plans / sizeof plans[0]; i++)
        look(ctx, plans + i);
    rondo_context_destroy(ctx);
    return done();
}
