/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The data plane, as far as any machine can show it: the test hook's, which serves devices whose memory is the host's and devices that
 * have memory of their own and streams that run late. What arrives, what it is kept apart from, how it fails, and in which order a
 * context opens and closes what it stands on.
 */
#define _GNU_SOURCE
#include <unistd.h>

#include "shift.h"
#include "t/memory.h"
#include "tap.h"

#define MOST 3000
#define PARTS 4
static const size_t part_size[PARTS] = { 5, MOST, 64, 65 };
static const int part_distance[PARTS] = { 1, 1, 2, 3 };

/* ---- a device with memory of its own ---- */

/* Its memory holds every byte changed, in each rank's own way, so that who looks at it from the host, or forgets a copy, gets something
 * else. What is put into its stream happens when somebody waits, not before. Each rank has one. */
#define ARENA (4 * PARTS * 4096)
#define QUEUE 64

struct rondo_device {
    unsigned char arena[ARENA];
    struct {
        unsigned char *to;
        const unsigned char *from;
        size_t bytes;
    } queue[QUEUE];
    int queued, events;
    unsigned char key;
};

static bool inside(const struct rondo_device *dev, const void *memory)
{
    return (uintptr_t)memory >= (uintptr_t)dev->arena && (uintptr_t)memory < (uintptr_t)(dev->arena + ARENA);
}

static int far_kind(const struct rondo_device *dev, const void *memory)
{
    return inside(dev, memory) ? RONDO_MEMORY_DEVICE : RONDO_MEMORY_HOST;
}

static int far_copy(struct rondo_device *dev, struct rondo_stream *stream, void *to, const void *from, size_t bytes)
{
    (void)stream;
    if (dev->queued == QUEUE)
        return rondo__fail(RONDO_EDEVICE, "the test's device has no room for another copy");
    dev->queue[dev->queued].to = to;
    dev->queue[dev->queued].from = from;
    dev->queue[dev->queued++].bytes = bytes;
    return 0;
}

static int far_wait(struct rondo_device *dev, struct rondo_event *event, const struct rondo_poll *poll)
{
    (void)event;
    (void)poll;
    for (int k = 0; k < dev->queued; k++)
        for (size_t i = 0; i < dev->queue[k].bytes; i++)
            dev->queue[k].to[i] = (unsigned char)(dev->queue[k].from[i] ^ (inside(dev, dev->queue[k].to) ? dev->key : 0) ^
                                                  (inside(dev, dev->queue[k].from) ? dev->key : 0));
    dev->queued = 0;
    return 0;
}

static int far_event_new(struct rondo_device *dev, struct rondo_event **out)
{
    *out = (struct rondo_event *)(void *)dev;
    dev->events++;
    return 0;
}

static void far_event_free(struct rondo_device *dev, struct rondo_event *event)
{
    (void)event;
    dev->events--;
}

static int far_record(struct rondo_device *dev, struct rondo_stream *stream, struct rondo_event *event)
{
    (void)dev;
    (void)stream;
    (void)event;
    return 0;
}

static int far_memory_new(struct rondo_device *dev, int kind, size_t bytes, void **out)
{
    (void)dev;
    (void)kind;
    *out = rondo__alloc(bytes);
    return *out ? 0 : rondo__fail(RONDO_ENOMEM, "no memory");
}

static void far_memory_free(struct rondo_device *dev, int kind, void *memory, size_t bytes)
{
    (void)dev;
    (void)kind;
    (void)bytes;
    rondo__free(memory);
}

static const struct rondo_device_ops far_device = {
    .size = sizeof(struct rondo_device_ops), .abi = RONDO_DEVICE_ABI, .name = "far", .unified = 0, .event_new = far_event_new,
    .event_free = far_event_free, .event_record = far_record, .event_wait = far_wait, .memory_kind = far_kind, .copy = far_copy,
    .memory_new = far_memory_new, .memory_free = far_memory_free,
};

/* ---- what arrives ---- */

static int start_group(rondo_context *ctx, struct rondo_part *parts, int count, struct rondo__step step)
{
    struct rondo__transfer t = { .group = { .parts = parts, .count = count }, .step = step, .operation = RONDO_OP_SHIFT };
    return rondo__transfer_stream(ctx, &t, NULL);
}

/* far NULL: the context's own device, in the host's memory. */
static int groups(rondo_context *ctx, struct rondo_device *far)
{
    static _Thread_local unsigned char near_out[PARTS][MOST], near_in[PARTS][MOST];
    const int n = ctx->ranks, me = ctx->rank;
    const unsigned char key = far ? far->key : 0;
    for (int round = 0; round < 10; round++) {
        struct rondo_part parts[2 * PARTS];
        unsigned char *out[PARTS], *in[PARTS], word[8] = { 1, 2, 3, 4, 5, 6, 7, (unsigned char)me }, got[8];
        struct shift aside;
        int count = 0;
        /* Under way meanwhile, between the same ranks, but through the endpoint: begun before the group or after it. */
        if (me % 2 == 0)
            TRY(shift_start(ctx, &aside, 1, word, sizeof word, got, sizeof got, RONDO_OP_SHIFT, step_named("aside")));
        for (int k = 0; k < PARTS; k++) {
            int to = (me + part_distance[k]) % n, from = (me - part_distance[k] + 3 * n) % n;
            out[k] = far ? far->arena + k * 4096 : near_out[k];
            in[k] = far ? far->arena + (PARTS + k) * 4096 : near_in[k];
            for (size_t i = 0; i < part_size[k]; i++)
                out[k][i] = byte_of(me, to, round * PARTS + k, i) ^ key;
            if (to == me)
                continue;
            parts[count++] = part_to(to, out[k], part_size[k]);
            parts[count++] = part_from(from, in[k], part_size[k]);
        }
        TRY(start_group(ctx, parts, count, (struct rondo__step){ "groups", round, 10 }));
        if (me % 2)
            TRY(shift_start(ctx, &aside, 1, word, sizeof word, got, sizeof got, RONDO_OP_SHIFT, step_named("aside")));
        if (far)
            TRY(far_wait(far, NULL, NULL));   /* the stream's turn */
        memset(parts, 0xee, sizeof parts);
        for (int k = 0; k < PARTS; k++) {
            int from = (me - part_distance[k] + 3 * n) % n;
            memset(out[k], 0xaa, part_size[k]);   /* ours again, whatever the others do */
            for (size_t i = 0; i < part_size[k] && from != me; i++)
                CHECK((in[k][i] ^ key) == byte_of(from, me, round * PARTS + k, i));
        }
        const void *where = NULL;
        TRY(shift_finish(ctx, &aside, &where));
        CHECK(((const unsigned char *)where)[7] == (me - 1 + n) % n);
    }
    return 0;
}

static int near_memory(rondo_context *ctx, void *arg)
{
    rondo_comm_stats stats = RONDO_COMM_STATS_INIT;
    (void)arg;
    CHECK(ctx->data && ctx->transport->memories == 7);
    TRY(groups(ctx, NULL));
    CHECK(rondo_comm_query(ctx, &stats) == 0);
    int sent = 1;   /* aside */
    for (int k = 0; k < PARTS; k++)
        sent += part_distance[k] % ctx->ranks != 0;
    CHECK(stats.messages[RONDO_OP_SHIFT] == (uint64_t)(10 * sent));
    return 0;
}

static int far_memory(rondo_context *ctx, void *arg)
{
    (void)arg;
    struct rondo_device *far = rondo__alloc_zero(1, sizeof *far);
    int peer = -1, err = far ? 0 : RONDO_ENOMEM;
    if (far)
        far->key = (unsigned char)(0xf0 + ctx->rank);
    ctx->transport->data_close(ctx->data);
    ctx->data = NULL;
    if (!err)
        err = ctx->transport->data_open(&ctx->data, ctx->endpoint, &far_device, far, &peer);
    if (!err)
        err = groups(ctx, far);
    if (!err)
        err = rondo_barrier(ctx);
    err = rondo__collective_failed(ctx, err);
    if (ctx->data)
        ctx->transport->data_close(ctx->data);
    ctx->data = NULL;
    if (!err && (far->events || far->queued))
        err = rondo__fail(RONDO_EDEVICE, "%d events and %d copies are left", far->events, far->queued);
    rondo__free(far);
    return err;
}

/* Sub-groups have planes of their own. */
static int child_planes(rondo_context *ctx, void *arg)
{
    rondo_context *child = NULL, *pair = NULL;
    (void)arg;
    TRY(rondo_context_split(&child, ctx, ctx->rank % 2, -ctx->rank));
    int err = child->data && child->data != ctx->data ? 0 : rondo__fail(RONDO_EDEVICE, "no data plane of its own");
    if (!err && child->ranks > 1)
        err = groups(child, NULL);
    if (!err)
        err = rondo_context_split(&pair, child, child->rank / 2, 0);
    if (!err && pair->ranks > 1)
        err = groups(pair, NULL);
    rondo_context_destroy(pair);
    rondo_context_destroy(child);
    TRY(err);
    TRY(groups(ctx, NULL));
    return 0;
}

/* A hook over a hook: the outer one has the inner one's plane to hand on. */
static int handed_on(rondo_context *ctx, void *arg)
{
    const struct rondo_transport_ops *ops = ctx->transport, *inner_ops = ops;
    struct rondo_endpoint *ep = ctx->endpoint, *inner = ep;
    int peer = -1;
    (void)arg;
    ctx->transport->data_close(ctx->data);
    ctx->data = NULL;
    TRY(rondo__hook_wrap("delay:3", &ops, &ep));
    ctx->transport = ops;
    ctx->endpoint = ep;
    int err = ops->data_open && ops->memories == inner_ops->memories ? 0 : rondo__fail(RONDO_EDEVICE, "no data plane is handed on");
    if (!err)
        err = ops->data_open(&ctx->data, ep, rondo__ops(ctx), rondo__dev(ctx), &peer);
    if (!err)
        err = groups(ctx, NULL);
    (void)inner;
    return rondo__collective_failed(ctx, err);
}

/* ---- memory ---- */

/* ---- failing ---- */

struct outcome {
    int code[16];
    char text[16][600];
};

static void note(struct outcome *o, int rank, int code)
{
    o->code[rank] = code;
    snprintf(o->text[rank], sizeof o->text[0], "%s", code ? rondo_error_text() : "");
}

/* The last rank stays away, and everybody else waits for the next one before it sends: all must name the last. */
static int stays_away(rondo_context *ctx, void *arg)
{
    struct outcome *o = arg;
    static _Thread_local unsigned char out[MOST], in[MOST];
    const int n = ctx->ranks, me = ctx->rank;
    struct rondo_part from = part_from((me + 1) % n, in, MOST), to = part_to((me - 1 + n) % n, out, MOST);
    int err = rondo_barrier(ctx);
    if (me == n - 1)
        usleep(600000);
    else if (!err)
        err = start_group(ctx, &from, 1, (struct rondo__step){ "a chain", 2, 7 });
    if (!err && me && me < n - 1)
        err = start_group(ctx, &to, 1, (struct rondo__step){ "a chain", 3, 7 });
    note(o, me, err);
    return rondo__collective_failed(ctx, err);
}

/* The last rank fails while the others are inside a group with it. */
static int fails_meanwhile(rondo_context *ctx, void *arg)
{
    struct outcome *o = arg;
    unsigned char *out = rondo__alloc_zero(1, MOST), *in = rondo__alloc_zero(1, MOST);
    const int n = ctx->ranks, me = ctx->rank;
    int err = out && in ? 0 : RONDO_ENOMEM;
    struct rondo_part parts[2] = { part_from(n - 1, in, MOST), part_to(n - 1, out, MOST) };
    if (!err)
        err = rondo_barrier(ctx);
    if (!err && me == n - 1) {
        usleep(5000);
        err = rondo__fail(RONDO_EIO, "the last rank was told to fail");
    } else if (!err) {
        err = start_group(ctx, parts, 2, step_named("a star"));
    }
    note(o, me, err);
    err = rondo__collective_failed(ctx, err);
    rondo__free(out);
    rondo__free(in);
    return err;
}

static int wrong_size(rondo_context *ctx, void *arg)
{
    struct outcome *o = arg;
    unsigned char out[300] = { 0 }, in[300];
    const int n = ctx->ranks, me = ctx->rank;
    struct rondo_part parts[2] = { part_from((me - 1 + n) % n, in, me == 1 ? 299 : 300), part_to((me + 1) % n, out, 300) };
    int err = start_group(ctx, parts, 2, step_named("sizes"));
    note(o, me, err);
    return rondo__collective_failed(ctx, err);
}

static int plain(rondo_context *ctx, void *arg)
{
    struct outcome *o = arg;
    int err = groups(ctx, NULL);
    note(o, ctx->rank, err);
    return err;
}

/* Every transport call of a run fails once, on one rank; each time all ranks return. The number of calls, or 0. */
static int every_call(int ranks, int rank)
{
    for (int k = 1; k < 500; k++) {
        struct outcome o;
        char hook[64], text[64];
        snprintf(hook, sizeof hook, "plane,fail:%d:%d", k, rank);
        snprintf(text, sizeof text, "the test hook lets call %d (", k);
        memset(&o, 0, sizeof o);
        setenv("RONDO_TEST_HOOK", hook, 1);
        int err = rondo_launch(ranks, NULL, plain, &o);
        if (!err)
            return k;
        if (err != RONDO_ETRANSPORT || !strstr(rondo_error_text(), text)) {
            diag("%s: %d %s", hook, err, rondo_error_text());
            return 0;
        }
        for (int r = 0; r < ranks; r++)
            if (o.code[r] && o.code[r] != RONDO_ETRANSPORT && o.code[r] != RONDO_EPEER) {
                diag("%s: rank %d: %d %s", hook, r, o.code[r], o.text[r]);
                return 0;
            }
    }
    return 0;
}

/* ---- the order in which a context opens and closes ---- */

static char order[256];

static void step_of(const char *what)
{
    snprintf(order + strlen(order), sizeof order - strlen(order), "%s ", what);
}

static int one_join(struct rondo_endpoint **out, const struct rondo_boot *boot)
{
    (void)boot;
    step_of("control");
    *out = (struct rondo_endpoint *)(void *)order;
    return 0;
}

static void one_leave(struct rondo_endpoint *ep)
{
    (void)ep;
    step_of("/control");
}

static int zero(const struct rondo_endpoint *ep)
{
    (void)ep;
    return 0;
}

static int one(const struct rondo_endpoint *ep)
{
    (void)ep;
    return 1;
}

static int revoke_code;

static int one_revoked(struct rondo_endpoint *ep, int *rank, int *code, const char **sentence)
{
    (void)ep;
    *rank = 0;
    *code = revoke_code;
    *sentence = "";
    return revoke_code != 0;
}

static void one_revoke(struct rondo_endpoint *ep, int code, const char *sentence)
{
    (void)ep;
    (void)sentence;
    revoke_code = code;
    step_of("revoke");
}

static void no_quiesce(struct rondo_endpoint *ep, double seconds)
{
    (void)ep;
    (void)seconds;
}

static int data_code;

static int one_data_open(struct rondo_data **out, struct rondo_endpoint *ep, const struct rondo_device_ops *ops, struct rondo_device *dev, int *peer)
{
    (void)peer;
    if (ep && dev && ops->threads_used(dev) > 0)
        step_of("device data");
    *out = NULL;
    if (data_code)
        return rondo__fail(data_code, "no data plane for this device");
    *out = (struct rondo_data *)(void *)dev;
    return 0;
}

static void one_data_close(struct rondo_data *data)
{
    (void)data;
    step_of("/data");
}

static void opening(void)
{
    static const struct rondo_transport_ops ops = {
        .size = sizeof ops, .abi = RONDO_TRANSPORT_ABI, .name = "one", .join = one_join, .leave = one_leave, .rank = zero, .ranks = one,
        .ranks_here = one, .revoked = one_revoked, .revoke = one_revoke, .quiesce = no_quiesce, .data_open = one_data_open,
        .data_close = one_data_close,
    };
    rondo_context_desc desc, empty = RONDO_CONTEXT_DESC_INIT;
    rondo_context *ctx = NULL;
    struct rondo_boot boot = { .ranks = 1, .ranks_here = 1 };
    unsetenv("RONDO_TEST_HOOK");
    is_int(rondo__context_desc(&desc, &empty), 0, "a descriptor");
    is_int(rondo__context_open(&ctx, &desc, &ops, &boot), 0, "a context on a transport with a data plane");
    ok(ctx && ctx->data, "has it");
    rondo_context_destroy(ctx);
    ok(!strcmp(order, "control device data /data /control "), "control, device, data, and back: %s", order);
    order[0] = 0;
    data_code = RONDO_ENOTSUP;
    is_int(rondo__context_open(&ctx, &desc, &ops, &boot), RONDO_ENOTSUP, "a data plane that does not open");
    ok(strstr(rondo_error_text(), "no data plane for this device") && strstr(rondo_error_text(), "in step data plane"), "with a sentence: %s",
       rondo_error_text());
    ok(!strcmp(order, "control device data revoke /control "), "and nothing is left open: %s", order);
}

static int run(int ranks, const char *hook, rondo_body *body, void *arg)
{
    rondo_context_desc desc = RONDO_CONTEXT_DESC_INIT;
    desc.deadline = body == stays_away ? 0.25 : 0.0;
    setenv("RONDO_TEST_HOOK", hook, 1);
    int err = rondo_launch(ranks, &desc, body, arg);
    unsetenv("RONDO_TEST_HOOK");
    return err;
}

static int again(rondo_context *ctx, void *arg)
{
    (void)arg;
    TRY(groups(ctx, NULL));
    TRY(groups(ctx, NULL));
    for (int i = 0; i < 30; i++)   /* until mailboxes have all they ever take */
        TRY(groups(ctx, NULL));
    TRY(rondo_barrier(ctx));
    long before = atomic_load(&memory_asked[0]);
    TRY(rondo_barrier(ctx));
    for (int i = 0; i < 5; i++)
        TRY(groups(ctx, NULL));
    TRY(rondo_barrier(ctx));
    long after = atomic_load(&memory_asked[0]);
    TRY(rondo_barrier(ctx));
    return after == before ? 0 : rondo__fail(RONDO_EDEVICE, "%ld allocations", after - before);
}

int main(void)
{
    static const char *const hooks[] = { "plane", "plane,copy", "plane,delay:3", "plane,reorder:2", "plane,trace,copy,reorder:5" };
    alarm(120);
    unsetenv("RONDO_DEADLINE");
    unsetenv("RONDO_TEST_HOOK");
    memory_hooks();
    for (size_t h = 0; h < sizeof hooks / sizeof hooks[0]; h++)
        for (int ranks = 2; ranks <= 6; ranks += 2) {
            if (!is_int(run(ranks, hooks[h], near_memory, NULL), 0, "%s, %d ranks: groups in the host's memory", hooks[h], ranks) ||
                !is_int(run(ranks, hooks[h], far_memory, NULL), 0, "in the memory of a device") ||
                !is_int(run(ranks, hooks[h], child_planes, NULL), 0, "in sub-groups"))
                diag("%s", rondo_error_text());
        }
    if (!is_int(run(3, "plane", handed_on, NULL), 0, "a plane is handed on by a hook over it"))
        diag("%s", rondo_error_text());
    if (!is_int(run(3, "plane", again, NULL), 0, "the same again allocates nothing"))
        diag("%s", rondo_error_text());

    struct outcome o;
    for (int ranks = 2; ranks <= 4; ranks++) {
        char who[64];
        int named = 0;
        memset(&o, 0, sizeof o);
        is_int(run(ranks, "plane", stays_away, &o), RONDO_ETIMEDOUT, "%d ranks, one of them stays away", ranks);
        snprintf(who, sizeof who, "rank %d did not answer rank", ranks - 1);
        for (int r = 0; r < ranks - 1; r++)
            named += (o.code[r] == RONDO_ETIMEDOUT || o.code[r] == RONDO_EPEER) && strstr(o.text[r], who) && strstr(o.text[r], "in step a chain 2 of 7");
        ok(named == ranks - 1, "it and the step are named by all: %s", o.text[0]);
        memset(&o, 0, sizeof o);
        is_int(run(ranks, "plane", fails_meanwhile, &o), RONDO_EIO, "one of them fails meanwhile");
        named = 0;
        for (int r = 0; r < ranks - 1; r++)
            named += o.code[r] == RONDO_EPEER && strstr(o.text[r], "the last rank was told to fail") && strstr(o.text[r], "in step a star");
        ok(named == ranks - 1, "and all are told: %s", o.text[0]);
    }
    memset(&o, 0, sizeof o);
    is_int(run(3, "plane", wrong_size, &o), RONDO_EMISMATCH, "a message of another size than expected");
    ok(o.code[1] == RONDO_EMISMATCH && strstr(o.text[1], "sent 300 bytes where rank 1 expects 299"), "is named: %s", o.text[1]);
    for (int rank = 0; rank < 3; rank++) {
        int calls = every_call(3, rank);
        ok(calls > 20, "each of %d calls of rank %d fails, and all return", calls - 1, rank);
    }
    opening();
    return done();
}
