/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Streams of the hook that wraps devices: they run late and in any order but that of events, failures are told to whoever waits, and a run
 * allocates nothing. And what the hook counts is what plans state. Memory and pointers are t/2060's.
 */
#include <stdatomic.h>

#include "t/hook_device.h"

#define SEEDS 200

/* ---- streams ---- */

static char hook_text[64];

static const char *with_seed(int seed)
{
    snprintf(hook_text, sizeof hook_text, "space,defer:%d", seed);
    return hook_text;
}

/* Numbers go to the device in one stream and are added up in another one, three times, whose result comes back in the first. Without
 * `waits` nothing orders the two. */
static bool two_streams(int seed, bool waits)
{
    need(with_seed(seed));
    const size_t bytes = COUNT * sizeof(float);
    float *in = take(RONDO_MEMORY_PINNED, bytes), *out = take(RONDO_MEMORY_PINNED, bytes);
    float *a = take(RONDO_MEMORY_DEVICE, bytes), *b = take(RONDO_MEMORY_DEVICE, bytes);
    struct rondo_stream *one = NULL, *other = NULL;
    struct rondo_event *there = NULL, *computed = NULL, *back = NULL;
    bool good = true;
    int err = ops->stream_new(dev, &one) || ops->stream_new(dev, &other) || ops->event_new(dev, &there) || ops->event_new(dev, &computed) ||
              ops->event_new(dev, &back);
    memset(out, 0, bytes);
    for (int round = 0; round < 3 && !err; round++) {
        for (int i = 0; i < COUNT; i++)
            in[i] = (float)(i + round);
        err = ops->copy(dev, one, a, in, bytes) || ops->event_record(dev, one, there);
        if (waits)
            err = err || ops->stream_wait(dev, other, there);
        err = err || ops->convert(dev, other, COUNT, RONDO_F32, a, RONDO_F32, b) || ops->event_record(dev, other, computed);
        if (waits)
            err = err || ops->stream_wait(dev, one, computed);
        err = err || ops->copy(dev, one, out, b, bytes) || ops->event_record(dev, one, back) || ops->event_wait(dev, back, NULL);
        for (int i = 0; i < COUNT; i++)
            good = good && out[i] == (float)(i + round);
    }
    if (err)
        diag("%s: %s", hook_text, rondo_error_text());
    good = good && !err;
    ops->event_free(dev, there);
    ops->event_free(dev, computed);
    ops->event_free(dev, back);
    ops->stream_free(dev, one);
    ops->stream_free(dev, other);
    give(RONDO_MEMORY_PINNED, in, bytes);
    give(RONDO_MEMORY_PINNED, out, bytes);
    give(RONDO_MEMORY_DEVICE, a, bytes);
    give(RONDO_MEMORY_DEVICE, b, bytes);
    end();
    return good;
}

static void order(void)
{
    int right = 0, wrong = 0;
    for (int seed = 0; seed < SEEDS; seed++) {
        right += two_streams(seed, true);
        wrong += !two_streams(seed, false);
    }
    is_int(right, SEEDS, "streams that wait for each other give the same for every seed");
    ok(wrong > SEEDS / 4, "without events they give something else for %d of %d seeds", wrong, SEEDS);
}

static int polled;

static int poll_call(void *arg)
{
    (void)arg;
    polled++;
    return 0;
}

static int poll_stops(void *arg)
{
    (void)arg;
    return RONDO_ECANCELED;
}

static void lateness(void)
{
    const size_t bytes = COUNT * sizeof(float);
    const struct rondo_poll poll = { poll_call, NULL, NULL }, stop = { poll_stops, NULL, NULL };
    float host[COUNT], got[COUNT];
    need(with_seed(5));
    float *pinned = take(RONDO_MEMORY_PINNED, bytes), *a = take(RONDO_MEMORY_DEVICE, bytes), *b = take(RONDO_MEMORY_DEVICE, bytes);
    struct rondo_event *event = NULL, *never = NULL;
    struct rondo_stream *stream = NULL;
    ok(!ops->event_new(dev, &event) && !ops->event_new(dev, &never) && !ops->stream_new(dev, &stream), "events and a stream");
    ok(!ops->event_wait(dev, never, NULL) && ops->event_query(dev, never) == 1 && !ops->stream_wait(dev, stream, never),
       "an event that was never recorded is over");

    pinned[0] = 1.0f;
    int err = ops->copy(dev, NULL, a, pinned, bytes);
    pinned[0] = 2.0f;
    err = err || ops->sync(dev) || ops->copy(dev, NULL, got, a, bytes);
    ok(!err && got[0] == 2.0f, "pinned memory is read when the stream comes to it: %g", (double)got[0]);
    host[0] = 1.0f;
    err = ops->copy(dev, stream, a, host, bytes);
    host[0] = 2.0f;
    err = err || ops->sync(dev) || ops->copy(dev, NULL, got, a, bytes);
    ok(!err && got[0] == 1.0f, "other host memory is read at once: %g", (double)got[0]);

    /* a copy to host memory waits for all before it in its stream, and for what that waits for */
    for (int i = 0; i < COUNT; i++)
        pinned[i] = (float)i;
    err = ops->copy(dev, stream, a, pinned, bytes) || ops->event_record(dev, stream, event) || ops->stream_wait(dev, NULL, event) ||
          ops->convert(dev, NULL, COUNT, RONDO_F32, a, RONDO_F32, b) || ops->copy(dev, NULL, got, b, bytes);
    ok(!err && got[COUNT - 1] == (float)(COUNT - 1), "and written with all that is before it");

    /* the list of a call's nodes is the caller's again at once */
    struct rondo_linear_node nodes[2] = { { a, 8, 0, 0 }, { a + 8, 8, 1, 0 } };
    const struct rondo_linear_join join = { 1, 8, nodes, 2, 0, b, 8, NULL };
    err = ops->sync(dev) || ops->linear_join(dev, stream, &join);
    memset(nodes, 9, sizeof nodes);
    err = err || ops->sync(dev) || ops->copy(dev, NULL, got, b, bytes);
    ok(!err && got[7] == 7.0f + 15.0f, "nodes are joined when the stream comes to it: %g", (double)got[7]);

    /* recorded again it is another one */
    int queries = 0, found = 0;
    for (int i = 0; i < 9 && !err; i++)
        err = ops->copy(dev, stream, a, pinned, bytes);
    err = err || ops->event_record(dev, stream, event);
    while (!err && queries < 1000 && !(found = ops->event_query(dev, event)))
        queries++;
    ok(!err && found == 1 && queries > 0, "who asks often enough hears that it is over, after %d times", queries);
    for (int i = 0; i < 20 && !err; i++)
        err = ops->convert(dev, i % 2 ? stream : NULL, COUNT, RONDO_F32, a, RONDO_F32, b);
    err = err || ops->event_record(dev, stream, event);
    err = err || ops->event_wait(dev, event, &poll);
    ok(!err && polled > 0, "the host that waits polls, %d times", polled);
    err = ops->sync(dev) || ops->convert(dev, stream, COUNT, RONDO_F32, a, RONDO_F32, b) || ops->event_record(dev, stream, event);
    ok(!err && ops->event_wait(dev, event, &stop) == RONDO_ECANCELED && ops->sync(dev) == 0, "a poll that says stop ends the wait only");

    /* a failure: a part of a linear layer's leaves is no sum */
    rondo_linear_desc d = RONDO_LINEAR_DESC_INIT;
    struct rondo_device_linear *linear = NULL;
    d.in = d.out = 4;
    d.type = RONDO_F32;
    d.leaves = 2;
    memset(host, 0, bytes);
    err = ops->linear_new(dev, &linear, &d) || ops->linear_load(dev, linear, 0, 4, RONDO_F32, host, NULL);
    const struct rondo_linear_run bad = { .rows = 1, .x = a, .x_stride = 4, .y = b, .y_stride = 4, .leaves = 1 };
    const struct rondo_linear_run fine = { .rows = 1, .x = a, .x_stride = 4, .y = b, .y_stride = 4 };
    ok(!err && !ops->linear(dev, stream, linear, &bad, NULL), "a call that will fail goes into its stream");
    ok(ops->sync(dev) == RONDO_EINVAL && strstr(rondo_error_text(), "no sum"), "who waits is told: %s", rondo_error_text());
    is_int(ops->sync(dev), 0, "once");
    err = ops->linear(dev, NULL, linear, &bad, NULL) || ops->event_record(dev, NULL, event);
    is_int(err ? 0 : ops->event_wait(dev, event, NULL), RONDO_EINVAL, "by an event too");
    err = ops->linear(dev, NULL, linear, &bad, NULL);
    is_int(err ? 0 : ops->copy(dev, NULL, got, a, bytes), RONDO_EINVAL, "by a copy to the host");
    err = ops->linear(dev, NULL, linear, &bad, NULL) || ops->event_record(dev, NULL, event);
    for (queries = 0; !err && queries < 1000 && !(found = ops->event_query(dev, event)); queries++) {
    }
    is_int(found, RONDO_EINVAL, "and by asking");

    /* more than there is room for, and weights that go while they are in use */
    err = 0;
    for (int i = 0; i < 3000 && !err; i++)
        err = ops->linear(dev, i % 3 ? stream : NULL, linear, &fine, NULL);
    ops->linear_free(dev, linear);
    ok(!err && ops->sync(dev) == 0, "3000 calls, and weights freed meanwhile");
    ops->event_free(dev, event);
    ops->event_free(dev, never);
    ops->stream_free(dev, stream);
    give(RONDO_MEMORY_PINNED, pinned, bytes);
    give(RONDO_MEMORY_DEVICE, a, bytes);
    give(RONDO_MEMORY_DEVICE, b, bytes);
    end();
}

/* ---- plans: another run allocates nothing, and as much is computed as they say ---- */

static _Thread_local long allocations;
static _Atomic long alive;

static void *allocate(void *user, size_t bytes, size_t align)
{
    void *memory = NULL;
    (void)user;
    if (posix_memalign(&memory, align, bytes))
        return NULL;
    allocations++;
    alive++;
    return memory;
}

static void release(void *user, void *memory, size_t bytes)
{
    (void)user;
    (void)bytes;
    alive--;
    free(memory);
}

struct plan_case {
    int algorithm, windowed;
    double flops[8], stated;
    _Atomic long later;
};

static int run_plan(rondo_context *rank, void *arg)
{
    struct plan_case *c = arg;
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
    rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
    rondo_attention *plan = NULL;
    const int me = rondo_context_rank(rank);
    d.heads = 4;
    d.kv_heads = 2;
    d.head_dim = 8;
    d.tokens = 300;
    d.cached = 85;
    d.causal = 1;
    d.leaf = 16;
    d.algorithm = c->algorithm;
    d.windowed = c->windowed;
    d.window_left = c->windowed ? 50 : 0;
    int err = rondo_attention_create(&plan, rank, &d);
    if (!err)
        err = rondo_attention_query(plan, &info);
    if (err)
        return err;
    int64_t q_shape[3] = { info.q_rows, 4, 8 }, kv_shape[3] = { info.kv_rows, 2, 8 }, lse_shape[2] = { info.q_rows, 4 };
    io.q = rondo_tensor_dense(calloc((size_t)info.q_rows * 32 + 1, 4), RONDO_F32, 3, q_shape);
    io.k = rondo_tensor_dense(calloc((size_t)info.kv_rows * 16 + 1, 4), RONDO_F32, 3, kv_shape);
    io.v = rondo_tensor_dense(calloc((size_t)info.kv_rows * 16 + 1, 4), RONDO_F32, 3, kv_shape);
    io.out = rondo_tensor_dense(calloc((size_t)info.q_rows * 32 + 1, 4), RONDO_F32, 3, q_shape);
    io.lse = rondo_tensor_dense(calloc((size_t)info.q_rows * 4 + 1, 4), RONDO_F32, 2, lse_shape);
    /* the second still finds the boxes of the thread transport without room for two turns */
    err = rondo_attention_execute(plan, &io, NULL);
    const double first = rondo__hook_counts(rank)->of[RONDO_HOOK_COUNT_ATTENTION].flops;
    if (!err)
        err = rondo_attention_execute(plan, &io, NULL);
    const long before = allocations;
    if (!err)
        err = rondo_attention_execute(plan, &io, NULL);
    c->later += allocations - before;
    c->flops[me] = first;
    if (rondo__hook_counts(rank)->of[RONDO_HOOK_COUNT_ATTENTION].flops != 3.0 * first)
        err = rondo__fail(RONDO_EINVAL, "another run computed something else");
    c->stated = info.flops;
    free(io.q.data);
    free(io.k.data);
    free(io.v.data);
    free(io.out.data);
    free(io.lse.data);
    rondo_attention_destroy(plan);
    return err;
}

static void plans(void)
{
    static const char *const hooks[] = { "count", "count,space", "count,space,defer:3", "count,space,defer:4,copy" };
    rondo_context_desc desc = RONDO_CONTEXT_DESC_INIT;
    rondo_hooks memory_hooks = RONDO_HOOKS_INIT;
    desc.threads = 1;
    memory_hooks.allocate = allocate;
    memory_hooks.release = release;
    for (size_t h = 0; h < sizeof hooks / sizeof hooks[0]; h++)
        for (int ranks = 1; ranks <= 3; ranks++) {
            int err = rondo_set_hooks(&memory_hooks), exact = 1;
            long later = 0;
            setenv("RONDO_TEST_HOOK", hooks[h], 1);
            for (int variant = 0; variant < 4 && !err; variant++) {
                struct plan_case c = { .algorithm = variant % 2 ? RONDO_PASS_Q : RONDO_PASS_KV, .windowed = variant / 2 };
                double flops = 0.0;
                err = rondo_launch(ranks, &desc, run_plan, &c);
                for (int r = 0; r < ranks; r++)
                    flops += c.flops[r];
                exact = exact && flops == c.stated;
                later += c.later;
            }
            unsetenv("RONDO_TEST_HOOK");
            ok(!err && exact, "%s, %d ranks: as many FLOPs as the plans state%s%s", hooks[h], ranks, err ? ": " : "", err ? rondo_error_text() : "");
            is_int(later, 0, "and another run allocates nothing");
            is_int(alive, 0, "all memory comes back");
            if (rondo_set_hooks(NULL))
                exit(99);
        }
}

int main(void)
{
    unsetenv("RONDO_TEST_HOOK");
    order();
    lateness();
    plans();
    return done();
}
