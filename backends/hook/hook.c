/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A transport that wraps any other one for tests: $RONDO_TEST_HOOK is a list, with commas, of words for it and for the device (device.c):
 *     delay[:SEED]     every call but progress() first sleeps for up to 200 microseconds
 *     reorder[:SEED]   transfers are held back until something waits, and then started in another order
 *     fail:N[:RANK]    the N-th call (from 1) of every rank, or of one, fails with RONDO_ETRANSPORT
 *     copy             what the transport shows in the sender's memory is copied, as between machines (copy.c)
 *     slow:RATE[:US]   the same, and a message comes only when a rank's link of RATE bytes a second each way, of which messages to several ranks
 *                      have even shares, and of a latency of so many microseconds would have brought it
 *     plane            the transport has a data plane, over an endpoint of its own (plane.c)
 *     trace            every call is logged (level debug)
 *     count, space, defer[:SEED]
 * All of it is a function of seed, rank and call number, so that a failing run can be repeated. context.c wraps every joined
 * endpoint where the variable is set; results must not change, and every failure must end in codes.
 */
#define _GNU_SOURCE   /* strtok_r */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "backends/hook/hook.h"

#define HELD_MAX 32
#define DELAY_NS_MAX 200000
#define PLANE_MEMORIES (1u << RONDO_MEMORY_HOST | 1u << RONDO_MEMORY_PINNED | 1u << RONDO_MEMORY_DEVICE)

struct hook {
    struct rondo_transport_ops table;   /* ours, with the inner one's name and abilities */
    const struct rondo_transport_ops *ops;
    struct rondo_endpoint *ep;
    struct rondo__hook_settings set;
    struct rondo__hook_copy *copy;      /* NULL: not that mode, or nothing is shown anyway */
    int32_t rank;
    int64_t calls;
    struct rondo_data *data;            /* its data plane while it is open, or NULL */
    int held_count;
    struct rondo_transfer *held[HELD_MAX];   /* that wait to be started */
};

/* The double's, or the one beneath. */
struct rondo_data {
    struct hook *hook;
    struct rondo__hook_plane *plane;
    struct rondo_data *inner;
};

static struct hook *hook_of(struct rondo_endpoint *ep)
{
    return (struct hook *)(void *)ep;
}

static const struct hook *const_hook_of(const struct rondo_endpoint *ep)
{
    return (const struct hook *)(const void *)ep;
}

/* ---- what is asked for ---- */

static int number(const char *text, int64_t *value)
{
    char *end;
    errno = 0;
    long long n = strtoll(text, &end, 10);
    if (end == text || *end || errno || n < 0)
        return -1;
    *value = n;
    return 0;
}

static int refuse(const char *word)
{
    return rondo__fail(RONDO_EINVAL, "RONDO_TEST_HOOK has '%s'; it takes delay[:SEED], reorder[:SEED], fail:N[:RANK], copy, slow:RATE[:US], plane, trace, "
                       "count, space and defer[:SEED], with commas between", word);
}

int rondo__hook_parse(struct rondo__hook_settings *set, const char *spec)
{
    char text[256], *next = NULL;
    memset(set, 0, sizeof *set);
    if (strlen(spec) >= sizeof text)
        return refuse(spec);
    snprintf(text, sizeof text, "%s", spec);
    set->fail_rank = -1;
    for (char *word = strtok_r(text, ",", &next); word; word = strtok_r(NULL, ",", &next)) {
        char *rest = NULL, *name = strtok_r(word, ":", &rest), *first = strtok_r(NULL, ":", &rest), *second = strtok_r(NULL, ":", &rest);
        int64_t a = 0, b = -1;
        if (!name || (first && number(first, &a)) || (second && number(second, &b)) || b > INT32_MAX || strtok_r(NULL, ":", &rest))
            return refuse(spec);
        if (strcmp(name, "trace") == 0 && !first) {
            set->trace = true;
        } else if (strcmp(name, "copy") == 0 && !first) {
            set->copy = true;
        } else if (strcmp(name, "slow") == 0 && first && a > 0) {
            set->copy = true;
            set->rate = (double)a;
            set->latency = second ? 1e-6 * (double)b : 0.0;
        } else if (strcmp(name, "plane") == 0 && !first) {
            set->plane = true;
        } else if (strcmp(name, "count") == 0 && !first) {
            set->count = true;
        } else if (strcmp(name, "space") == 0 && !first) {
            set->space = true;
        } else if (strcmp(name, "defer") == 0 && !second) {
            set->defer = true;
            set->order = (uint64_t)a;
        } else if (strcmp(name, "delay") == 0 && !second) {
            set->delay = true;
            set->seed ^= (uint64_t)a;
        } else if (strcmp(name, "reorder") == 0 && !second) {
            set->reorder = true;
            set->seed ^= (uint64_t)a << 32;
        } else if (strcmp(name, "fail") == 0 && first && a > 0) {
            set->fail_at = a;
            set->fail_rank = (int32_t)b;
        } else {
            return refuse(spec);
        }
    }
    return 0;
}

/* ---- what every call does ---- */

static uint64_t draw(const struct hook *h, uint64_t what)
{
    return rondo__hash_word(rondo__hash_word(rondo__hash_word(h->set.seed, (uint64_t)h->rank), (uint64_t)h->calls), what);
}

static int before(struct hook *h, const char *call, bool waits)
{
    h->calls++;
    if (h->set.trace)
        rondo__log(RONDO_LOG_DEBUG, "rank %d, transport call %lld: %s", h->rank, (long long)h->calls, call);
    if (h->set.delay && waits) {
        struct timespec t = { 0, (long)(draw(h, 0) % DELAY_NS_MAX) };
        nanosleep(&t, NULL);
    }
    if (h->calls == h->set.fail_at && (h->set.fail_rank < 0 || h->set.fail_rank == h->rank))
        return rondo__fail(RONDO_ETRANSPORT, "the test hook lets call %lld (%s) of rank %d fail", (long long)h->calls, call, h->rank);
    return 0;
}

static int start_now(struct hook *h, struct rondo_transfer *transfer)
{
    return h->copy ? rondo__hook_copy_start(h->copy, transfer) : h->ops->start(h->ep, transfer);
}

/* Whether they have parts in the same direction between the same two ranks. */
static bool in_order(const struct rondo_transfer *a, const struct rondo_transfer *b)
{
    for (int32_t i = 0; i < a->count; i++)
        for (int32_t k = 0; k < b->count; k++)
            if (a->parts[i].peer == b->parts[k].peer && a->parts[i].receives == b->parts[k].receives)
                return true;
    return false;
}

/* Starts what was held back, in a drawn order; parts between two ranks keep theirs, as they must. */
static int release(struct hook *h)
{
    int err = 0;
    while (h->held_count > 0 && !err) {
        int pick = (int)(draw(h, (uint64_t)h->held_count) % (uint64_t)h->held_count);
        for (int i = 0; i < pick; i++)
            if (in_order(h->held[i], h->held[pick])) {
                pick = i;
                i = -1;
            }
        struct rondo_transfer *transfer = h->held[pick];
        memmove(&h->held[pick], &h->held[pick + 1], (size_t)(h->held_count - pick - 1) * sizeof h->held[0]);
        h->held_count--;
        err = start_now(h, transfer);
    }
    return err;
}

/* ---- the table ---- */

static void leave(struct rondo_endpoint *ep)
{
    struct hook *h = hook_of(ep);
    rondo__hook_copy_free(h->copy);
    h->ops->leave(h->ep);
    rondo__free(h);
}

static int rank_of(const struct rondo_endpoint *ep)
{
    return const_hook_of(ep)->rank;
}

static int ranks_of(const struct rondo_endpoint *ep)
{
    const struct hook *h = const_hook_of(ep);
    return h->ops->ranks(h->ep);
}

static int ranks_here(const struct rondo_endpoint *ep)
{
    const struct hook *h = const_hook_of(ep);
    return h->ops->ranks_here(h->ep);
}

static int cores(const struct rondo_endpoint *ep)
{
    const struct hook *h = const_hook_of(ep);
    return h->ops->cores(h->ep);
}

static int wrap(struct rondo_endpoint **out, const struct rondo__hook_settings *set, const struct rondo_transport_ops *ops,
                struct rondo_endpoint *ep, int *peer);

static int split(struct rondo_endpoint *ep, int color, int key, struct rondo_endpoint **out, int *peer)
{
    struct hook *h = hook_of(ep);
    struct rondo_endpoint *inner = NULL;
    *out = NULL;
    int err = before(h, "split", true);
    if (!err)
        err = release(h);
    if (!err)
        err = h->ops->split(h->ep, color, key, &inner, peer);
    if (err || !inner)
        return err;
    err = wrap(out, &h->set, h->ops, inner, peer);
    if (err) {
        /* The others wait in the new group: they are to hear of this one as of any failure in this step. */
        if (err != RONDO_EPEER && err != RONDO_ETIMEDOUT)
            h->ops->revoke(h->ep, err, rondo_error_text());
        h->ops->leave(inner);
        return err;
    }
    /* A child counts on, so that "the N-th call" is one of the rank's, not one of each communicator's. */
    hook_of(*out)->calls = h->calls;
    return 0;
}

static int start(struct rondo_endpoint *ep, struct rondo_transfer *transfer)
{
    struct hook *h = hook_of(ep);
    int err = before(h, "start", true);
    if (err || !h->set.reorder)
        return err ? err : start_now(h, transfer);
    if (h->held_count == HELD_MAX)
        err = release(h);
    if (!err)
        h->held[h->held_count++] = transfer;
    return err;
}

static int finish(struct rondo_endpoint *ep, struct rondo_transfer *transfer, double seconds, int *peer)
{
    struct hook *h = hook_of(ep);
    int err = before(h, "finish", true);
    if (!err)
        err = release(h);
    if (err)
        return err;
    return h->copy ? rondo__hook_copy_finish(h->copy, transfer, seconds, peer) : h->ops->finish(h->ep, transfer, seconds, peer);
}

static int test(struct rondo_endpoint *ep, struct rondo_transfer *transfer, int *peer)
{
    struct hook *h = hook_of(ep);
    int err = before(h, "test", false);
    if (!err)
        err = release(h);
    if (err)
        return err;
    return h->copy ? rondo__hook_copy_test(h->copy, transfer, peer) : h->ops->test(h->ep, transfer, peer);
}

static int progress(struct rondo_endpoint *ep)
{
    struct hook *h = hook_of(ep);
    int err = before(h, "progress", false), peer;
    if (!err)
        err = release(h);
    if (!err && h->copy)
        err = rondo__hook_copy_progress(h->copy, &peer);
    return err || !h->ops->progress ? err : h->ops->progress(h->ep);
}

static void computing(struct rondo_endpoint *ep, int threads)
{
    struct hook *h = hook_of(ep);
    h->ops->computing(h->ep, threads);
}

static int fence(struct rondo_endpoint *ep, double seconds, int *peer)
{
    struct hook *h = hook_of(ep);
    int err = before(h, "fence", true);
    if (!err)
        err = release(h);
    return err ? err : h->ops->fence(h->ep, seconds, peer);
}

static void revoke(struct rondo_endpoint *ep, int code, const char *sentence)
{
    struct hook *h = hook_of(ep);
    h->held_count = 0;
    h->ops->revoke(h->ep, code, sentence);
}

static int revoked(struct rondo_endpoint *ep, int *rank, int *code, const char **sentence)
{
    struct hook *h = hook_of(ep);
    return h->ops->revoked(h->ep, rank, code, sentence);
}

static void quiesce(struct rondo_endpoint *ep, double seconds)
{
    struct hook *h = hook_of(ep);
    h->held_count = 0;
    if (h->data && h->data->plane)
        rondo__hook_plane_quiesce(h->data->plane, seconds);
    if (h->copy)
        rondo__hook_copy_quiesce(h->copy, seconds);
    h->ops->quiesce(h->ep, seconds);
}

static int reaches(struct rondo_endpoint *ep, const struct rondo_device_ops *ops, struct rondo_device *dev, uint32_t *memories)
{
    struct hook *h = hook_of(ep);
    return h->ops->reaches(h->ep, ops, dev, memories);
}

/* ---- data plane ---- */

static int data_open(struct rondo_data **out, struct rondo_endpoint *ep, const struct rondo_device_ops *device_ops, struct rondo_device *dev,
                     int *peer)
{
    struct hook *h = hook_of(ep);
    *out = NULL;
    int err = before(h, "data_open", true);
    if (!err)
        err = release(h);
    if (err)
        return err;
    struct rondo_data *data = rondo__alloc_zero(1, sizeof *data);
    if (!data)
        return rondo__fail(RONDO_ENOMEM, "no memory for the test hook's data plane");
    data->hook = h;
    err = h->set.plane ? rondo__hook_plane_open(&data->plane, h->ops, h->ep, device_ops, dev, peer)
                       : h->ops->data_open(&data->inner, h->ep, device_ops, dev, peer);
    if (err || !(data->plane || data->inner)) {
        rondo__free(data);
        return err;
    }
    h->data = *out = data;
    return 0;
}

static void data_close(struct rondo_data *data)
{
    data->hook->data = NULL;
    if (data->plane)
        rondo__hook_plane_close(data->plane);
    else
        data->hook->ops->data_close(data->inner);
    rondo__free(data);
}

static int data_start(struct rondo_data *data, struct rondo_stream *stream, const struct rondo_part *parts, int32_t count, double seconds,
                      int *peer)
{
    struct hook *h = data->hook;
    int err = before(h, "data_start", true);
    if (!err)
        err = release(h);
    if (err)
        return err;
    return data->plane ? rondo__hook_plane_start(data->plane, stream, parts, count, seconds, peer)
                       : h->ops->data_start(data->inner, stream, parts, count, seconds, peer);
}

static int data_watch(struct rondo_data *data, int *peer, uint64_t *group)
{
    return data->plane ? 0 : data->hook->ops->data_watch(data->inner, peer, group);
}

/* No call to another rank. */
static int once(struct rondo_endpoint *ep, const void *key, size_t key_bytes, void *value, size_t value_bytes,
                int (*make)(void *arg, void *value), void *arg)
{
    struct hook *h = hook_of(ep);
    return h->ops->once(h->ep, key, key_bytes, value, value_bytes, make, arg);
}

/* ---- wrapping ---- */

static int wrap(struct rondo_endpoint **out, const struct rondo__hook_settings *set, const struct rondo_transport_ops *ops,
                struct rondo_endpoint *ep, int *peer)
{
    struct hook *h = rondo__alloc_zero(1, sizeof *h);
    if (!h)
        return rondo__fail(RONDO_ENOMEM, "no memory for the test hook");
    int err = set->rate > 0.0 && !ops->in_place ? rondo__fail(RONDO_ENOTSUP, "RONDO_TEST_HOOK has slow, but transport %s has links of its own; it is "
                                                                            "for threads", ops->name) : 0;
    if (!err && set->copy && ops->in_place)
        err = rondo__hook_copy_new(&h->copy, set, ops, ep, peer);
    if (err) {
        rondo__free(h);
        return err;
    }
    h->ops = ops;
    h->ep = ep;
    h->set = *set;
    h->rank = ops->rank(ep);
    h->table = (struct rondo_transport_ops){
        .size = sizeof h->table, .abi = RONDO_TRANSPORT_ABI, .name = ops->name, .probe = ops->probe, .launch = ops->launch,
        .join = ops->join, .leave = leave, .rank = rank_of, .ranks = ranks_of, .ranks_here = ranks_here, .split = split,
        .start = start, .finish = finish, .test = test, .progress = ops->progress || h->copy ? progress : NULL,
        .fence = ops->fence && !h->copy ? fence : NULL,   /* no barrier either: one that waits has to take in what comes */
        .revoke = revoke, .revoked = revoked, .quiesce = quiesce, .eager = ops->eager,
        .cores = ops->cores ? cores : NULL, .in_place = ops->in_place && !h->copy,
        .computing = ops->computing ? computing : NULL, .library = ops->library, .memories = ops->memories,
        .reaches = ops->reaches ? reaches : NULL, .once = ops->once ? once : NULL,
    };
    if (set->plane || ops->data_open) {
        h->table.data_open = data_open;
        h->table.data_close = data_close;
        h->table.data_start = data_start;
        h->table.data_watch = ops->data_watch ? data_watch : NULL;
    }
    if (set->plane)
        h->table.memories = PLANE_MEMORIES;
    *out = (struct rondo_endpoint *)(void *)h;
    return 0;
}

int rondo__hook_changes(const char *spec, bool *in_place, bool *unified, uint32_t *memories)
{
    struct rondo__hook_settings set;
    int err = rondo__hook_parse(&set, spec);
    if (err)
        return err;
    *in_place = *in_place && !set.copy && !set.plane;
    *unified = *unified && !set.space;
    if (set.plane)
        *memories = PLANE_MEMORIES;
    return 0;
}

int rondo__hook_wrap(const char *spec, const struct rondo_transport_ops **ops, struct rondo_endpoint **ep)
{
    struct rondo__hook_settings set;
    int peer = -1, rank, code;
    const char *why;
    int err = rondo__hook_parse(&set, spec);
    if (!err)
        err = wrap(ep, &set, *ops, *ep, &peer);
    if (err == RONDO_EPEER && (*ops)->revoked(*ep, &rank, &code, &why))
        return rondo__fail(err, "rank %d failed: %s (%s; noticed in step join)", rank, why, rondo_error_name(code));
    if (err == RONDO_EPEER || err == RONDO_ETIMEDOUT)
        return rondo__fail(err, "rank %d %s in step join", peer, err == RONDO_EPEER ? "has left" : "did not answer");
    if (!err)
        *ops = &hook_of(*ep)->table;
    return err;
}
