/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A transport that wraps any other one for tests: $RONDO_TEST_HOOK is a list, with commas, of
 *     delay[:SEED]     every call but progress() first sleeps for up to 200 microseconds
 *     reorder[:SEED]   shifts are held back until something waits, and then started in another order
 *     fail:N[:RANK]    the N-th call (from 1) of every rank, or of one, fails with RONDO_ETRANSPORT
 *     copy             what the transport shows in the sender's memory is copied to where it was to arrive, as between machines
 *     trace            every call is logged (level debug)
 * All of it is a function of seed, rank and call number, so that a failing run can be repeated. context.c wraps every joined
 * endpoint where the variable is set; results must not change, and every failure must end in codes.
 */
#define _GNU_SOURCE   /* strtok_r */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "core/internal.h"

#define HELD_MAX 32
#define DELAY_NS_MAX 200000

/* A shift that waits to be started. */
struct held {
    struct rondo_request *request;
    const void *send;
    void *recv;
    size_t send_bytes, recv_bytes;
    int distance;
};

struct hook_settings {
    bool delay, reorder, copy, trace;
    uint64_t seed;
    int64_t fail_at;            /* 0: never */
    int32_t fail_rank;          /* -1: all */
};

struct hook {
    struct rondo_transport_ops table;   /* ours, with the inner one's name and abilities */
    const struct rondo_transport_ops *ops;
    struct rondo_endpoint *ep;
    struct hook_settings set;
    int32_t rank;
    int64_t calls;
    int held_count;
    struct held held[HELD_MAX];
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
    return rondo__fail(RONDO_EINVAL, "RONDO_TEST_HOOK has '%s'; it takes delay[:SEED], reorder[:SEED], fail:N[:RANK], copy and trace, with "
                       "commas between", word);
}

static int parse(struct hook_settings *set, const char *spec)
{
    char text[256], *next = NULL;
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

/* Starts what was held back, in a drawn order; between two ranks shifts of one distance keep theirs, as they must. */
static int release(struct hook *h)
{
    int err = 0;
    while (h->held_count > 0 && !err) {
        int pick = (int)(draw(h, (uint64_t)h->held_count) % (uint64_t)h->held_count);
        for (int i = 0; i < pick; i++)
            if (h->held[i].distance == h->held[pick].distance)
                pick = i;
        struct held s = h->held[pick];
        memmove(&h->held[pick], &h->held[pick + 1], (size_t)(h->held_count - pick - 1) * sizeof s);
        h->held_count--;
        err = h->ops->shift(h->ep, s.distance, s.send, s.send_bytes, s.recv, s.recv_bytes, s.request);
    }
    return err;
}

/* ---- the table ---- */

static void leave(struct rondo_endpoint *ep)
{
    struct hook *h = hook_of(ep);
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

static int wrap(struct rondo_endpoint **out, const struct hook_settings *set, const struct rondo_transport_ops *ops,
                struct rondo_endpoint *ep);

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
    err = wrap(out, &h->set, h->ops, inner);
    if (err) {
        h->ops->revoke(inner, err, rondo_error_text());
        h->ops->leave(inner);
        return err;
    }
    /* A child counts on, so that "the N-th call" is one of the rank's, not one of each communicator's. */
    hook_of(*out)->calls = h->calls;
    return 0;
}

static int shift(struct rondo_endpoint *ep, int distance, const void *send, size_t send_bytes, void *recv, size_t recv_bytes,
                 struct rondo_request *request)
{
    struct hook *h = hook_of(ep);
    int err = before(h, "shift", true);
    if (err)
        return err;
    if (!h->set.reorder)
        return h->ops->shift(h->ep, distance, send, send_bytes, recv, recv_bytes, request);
    if (h->held_count == HELD_MAX) {
        err = release(h);
        if (err)
            return err;
    }
    memset(request, 0, sizeof *request);
    int n = h->ops->ranks(h->ep);
    request->to = (h->rank + distance) % n;
    request->from = (h->rank + n - distance) % n;
    h->held[h->held_count++] = (struct held){ request, send, recv, send_bytes, recv_bytes, distance };
    return 0;
}

static int finish(struct rondo_endpoint *ep, struct rondo_request *request, double seconds, int *peer)
{
    struct hook *h = hook_of(ep);
    int err = before(h, "finish", true);
    if (!err)
        err = release(h);
    if (!err)
        err = h->ops->finish(h->ep, request, seconds, peer);
    if (!err && h->set.copy && request->recv_bytes && request->where != request->recv) {
        memcpy(request->recv, request->where, request->recv_bytes);
        request->where = request->recv;
    }
    return err;
}

static int progress(struct rondo_endpoint *ep)
{
    struct hook *h = hook_of(ep);
    int err = before(h, "progress", false);
    if (!err)
        err = release(h);
    return err ? err : h->ops->progress(h->ep);
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
    h->ops->quiesce(h->ep, seconds);
}

static int wrap(struct rondo_endpoint **out, const struct hook_settings *set, const struct rondo_transport_ops *ops,
                struct rondo_endpoint *ep)
{
    struct hook *h = rondo__alloc_zero(1, sizeof *h);
    if (!h)
        return rondo__fail(RONDO_ENOMEM, "no memory for the test hook");
    h->ops = ops;
    h->ep = ep;
    h->set = *set;
    h->rank = ops->rank(ep);
    h->table = (struct rondo_transport_ops){
        .size = sizeof h->table, .abi = RONDO_TRANSPORT_ABI, .name = ops->name, .probe = ops->probe, .launch = ops->launch,
        .join = ops->join, .leave = leave, .rank = rank_of, .ranks = ranks_of, .ranks_here = ranks_here, .split = split,
        .shift = shift, .finish = finish, .progress = ops->progress ? progress : NULL, .fence = ops->fence ? fence : NULL,
        .revoke = revoke, .revoked = revoked, .quiesce = quiesce, .eager = ops->eager,
        .cores = ops->cores ? cores : NULL, .in_place = ops->in_place && !set->copy,
        .computing = ops->computing ? computing : NULL,
    };
    *out = (struct rondo_endpoint *)(void *)h;
    return 0;
}

int rondo__hook_wrap(const char *spec, const struct rondo_transport_ops **ops, struct rondo_endpoint **ep)
{
    struct hook_settings set;
    memset(&set, 0, sizeof set);
    int err = parse(&set, spec);
    if (!err)
        err = wrap(ep, &set, *ops, *ep);
    if (!err)
        *ops = &hook_of(*ep)->table;
    return err;
}
