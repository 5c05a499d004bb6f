/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The data plane: a group of parts is a group of ncclSend and ncclRecv in a stream of the cuda device. Called by module.c.
 *
 * The communicator does not block: what NCCL has not finished is asked for again and again, with a deadline, and meanwhile the control plane is heard.
 * A group that is in a stream is watched: its time begins when the stream comes to it, not while that still computes, and where it runs out the
 * communicator is aborted, so that the stream goes on, and the control plane finds out who does not come: each rank waits there, for a moment, for
 * the one whose bytes are missing, and waits for nothing else. NCCL itself knows no deadline. After an abort nothing is moved any more.
 */
#include "backends/nccl/nccl.h"

#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* As many as comm.c knows the steps of. */
#define GROUPS RONDO_STREAMED
/* The time that the control plane has to find out who does not come, and to bring the news of a failure that NCCL has seen first. */
#define ASK_SECONDS 0.5
#define NEWS_SECONDS 1.0
#define EAGER_LOOKS 200

struct group {
    struct rondo_event *begins, *ends;   /* recorded before and behind it; made when first used */
    double seconds, since;               /* since: the stream was first seen to have come to it; 0: not yet */
    int32_t peer;                        /* whom it receives from, or sends to; -1: several */
};

struct rondo_data {
    struct rondo__nccl_control *control;
    const struct rondo_nccl_library *nccl;
    const struct rondo_device_ops *ops;
    struct rondo_device *dev;
    nccl_comm comm;                      /* NULL: aborted, or never made */
    uint64_t first, next;                /* groups in streams, by number */
    struct group group[GROUPS];
};

static double now(void) { return rondo__nccl_host->now(); }

static void pause_between(unsigned looks)
{
    if (looks > EAGER_LOOKS)
        nanosleep(&(struct timespec){ .tv_nsec = 100000 }, NULL);
    else
        sched_yield();
}

/* RONDO_EPEER once the communicator of the control plane is revoked. */
static int hear(const struct rondo_data *d)
{
    const struct rondo__nccl_control *c = d->control;
    int rank, code;
    const char *sentence;
    const int err = c->ops->progress ? c->ops->progress(c->ep) : 0;
    return err ? err : c->ops->revoked(c->ep, &rank, &code, &sentence) ? RONDO_EPEER : 0;
}

void rondo__nccl_plane_abort(struct rondo_data *d)
{
    if (d->comm)
        (void)d->nccl->ncclCommAbort(d->comm);
    d->comm = NULL;
}

/* What NCCL says, as a sentence; where somebody else has failed the control plane brings the reason. The communicator is aborted. */
static int failed(struct rondo_data *d, const char *what, nccl_result code)
{
    char last[256] = "";
    const char *text = d->nccl->ncclGetErrorString(code), *more = d->comm ? d->nccl->ncclGetLastError(d->comm) : NULL;
    const double until = now() + NEWS_SECONDS;
    if (more && *more) {
        snprintf(last, sizeof last, ": %.200s", more);
        last[strcspn(last, "\r\n")] = 0;
    }
    rondo__nccl_plane_abort(d);
    for (unsigned looks = 0; code == NCCL_REMOTE && now() < until; looks++) {
        if (hear(d))
            return RONDO_EPEER;
        pause_between(looks);
    }
    return rondo__nccl_fail(RONDO_ETRANSPORT, "%s: NCCL says \"%s\" (error %d)%s", what, text ? text : "nothing", code, last);
}

/* Time has run out, waiting for `peer` (-1: for several): the one who waits for nobody and does not come is at fault, as the control plane finds
 * it. What is asked for is never sent. */
static int late(struct rondo_data *d, int32_t suspect, int *peer)
{
    struct rondo__nccl_control *c = d->control;
    rondo__nccl_plane_abort(d);
    *peer = suspect;
    if (suspect < 0)
        return RONDO_ETIMEDOUT;
    c->asked = (struct rondo_part){ .memory = c->answer, .bytes = sizeof c->answer, .peer = suspect, .receives = 1 };
    c->asking = (struct rondo_transfer){ .parts = &c->asked, .count = 1 };
    int err = c->ops->start(c->ep, &c->asking);
    if (!err)
        err = c->ops->finish(c->ep, &c->asking, c->seconds < ASK_SECONDS ? c->seconds : ASK_SECONDS, peer);
    return err == RONDO_EPEER ? err : RONDO_ETIMEDOUT;
}

/* Until NCCL has done what it was asked to do and has said is under way. */
static int settle(struct rondo_data *d, nccl_result code, const char *what, double seconds, int32_t suspect, int *peer)
{
    const double until = now() + seconds;
    for (unsigned looks = 0; code == NCCL_IN_PROGRESS; looks++) {
        const nccl_result asked = d->nccl->ncclCommGetAsyncError(d->comm, &code);
        code = asked ? asked : code;
        if (code != NCCL_IN_PROGRESS)
            break;
        if (hear(d)) {
            rondo__nccl_plane_abort(d);
            return RONDO_EPEER;
        }
        if (now() >= until)
            return late(d, suspect, peer);
        pause_between(looks);
    }
    return code ? failed(d, what, code) : 0;
}

/* ---- opening ---- */

/* What each rank tells the others before it has a communicator. */
struct hello {
    int32_t code, version;
    struct nccl_id id;                   /* of rank 0: the communicator's */
    char text[256];
};

/* The control plane brings them together; RONDO_EPEER, RONDO_ETIMEDOUT without a sentence. */
static int exchange(const struct rondo__nccl_control *c, struct hello *all, struct rondo_part *parts, int me, int ranks, int *peer)
{
    struct rondo_transfer t = { .parts = parts };
    int err = 0;
    for (int r = 0; r < ranks; r++) {
        if (r == me)
            continue;
        parts[t.count++] = (struct rondo_part){ .memory = all + r, .bytes = sizeof *all, .peer = r, .receives = 1 };
        parts[t.count++] = (struct rondo_part){ .memory = all + me, .bytes = sizeof *all, .peer = r };
    }
    if (t.count)
        err = c->ops->start(c->ep, &t);
    if (!err && t.count)
        err = c->ops->finish(c->ep, &t, c->seconds, peer);
    for (int32_t i = 0; i < t.count && !err; i++)
        if (parts[i].receives && parts[i].where != parts[i].memory)
            memcpy(parts[i].memory, parts[i].where, sizeof *all);
    if (!err && c->ops->fence)           /* what was read in place is the others' */
        err = c->ops->fence(c->ep, c->seconds, peer);
    return err;
}

/* Whether this rank can: its code and sentence go to all. */
static void greet(struct rondo_data *d, struct hello *mine, int me)
{
    int err = rondo__nccl_open(&d->nccl);
    if (!err && (strcmp(d->ops->name, "cuda") != 0 || !RONDO_HAS(d->ops, stream_handle)))
        err = rondo__nccl_fail(RONDO_ENOTSUP, "rank %d computes on device %s, and transport " RONDO_NCCL_NAME " moves between graphics cards only; "
                               "transports threads and mpi serve ranks on cards and processors together", me, d->ops->name);
    void *stream;
    if (!err)
        err = d->ops->stream_handle(d->dev, NULL, &stream);   /* a communicator is for the card that is the calling thread's */
    if (!err)
        mine->version = d->nccl->version;
    if (!err && me == 0) {
        const nccl_result code = d->nccl->ncclGetUniqueId(&mine->id);
        err = code ? failed(d, "making a communicator", code) : 0;
    }
    mine->code = err;
    if (err)
        snprintf(mine->text, sizeof mine->text, "%s", rondo__nccl_host->text());
}

static int refuse(const struct hello *all, int ranks)
{
    for (int r = 0; r < ranks; r++)
        if (all[r].code)
            return rondo__nccl_fail(all[r].code, "%s", all[r].text);
    for (int r = 1; r < ranks; r++)
        if (all[r].version != all[0].version)
            return rondo__nccl_fail(RONDO_ENOTSUP, "rank 0 has NCCL %d.%d.%d and rank %d has %d.%d.%d; all ranks need the same", NCCL_VERSION(all[0].version), r,
                                    NCCL_VERSION(all[r].version));
    return 0;
}

static int connect_ranks(struct rondo_data *d, const struct nccl_id *id, int me, int ranks, int *peer)
{
    struct nccl_config config = { sizeof config, NCCL_MAGIC, NCCL_LEAST, 0, NCCL_UNDEF, NCCL_UNDEF, NCCL_UNDEF, NULL, NCCL_UNDEF };
    const nccl_result code = d->nccl->ncclCommInitRankConfig(&d->comm, ranks, *id, me, &config);
    int err = d->comm ? settle(d, code, "making a communicator", d->control->seconds, -1, peer)
                      : failed(d, "making a communicator", code ? code : NCCL_INVALID_USAGE);
    return err;
}

int rondo__nccl_plane_open(struct rondo_data **out, struct rondo__nccl_control *control, const struct rondo_device_ops *ops, struct rondo_device *dev,
                           int *peer)
{
    const int me = control->ops->rank(control->ep), ranks = control->ops->ranks(control->ep);
    struct rondo_data *d = rondo__nccl_host->alloc_zero(1, sizeof *d);
    struct hello *all = rondo__nccl_host->alloc_zero((size_t)ranks, sizeof *all);
    struct rondo_part *parts = rondo__nccl_host->alloc_zero((size_t)ranks * 2, sizeof *parts);
    *out = NULL;
    control->hellos[0] = all;            /* until the endpoint goes: after a failure the control plane may still write there */
    control->hellos[1] = parts;
    int err = d && all && parts ? 0 : rondo__nccl_fail(RONDO_ENOMEM, "no memory to open NCCL on %d ranks", ranks);
    if (!err) {
        *d = (struct rondo_data){ .control = control, .ops = ops, .dev = dev };
        greet(d, all + me, me);
        err = exchange(control, all, parts, me, ranks, peer);
    }
    if (!err)
        err = refuse(all, ranks);
    if (!err)
        err = connect_ranks(d, &all[0].id, me, ranks, peer);
    if (err) {
        if (d)
            rondo__nccl_plane_abort(d);
        rondo__nccl_host->free(d);
        return err;
    }
    control->data = *out = d;
    return 0;
}

/* In peace all ranks come here and NCCL lets them go together; a peer that fails meanwhile, or stays away, holds nobody up. */
void rondo__nccl_plane_close(struct rondo_data *d)
{
    int peer = -1;
    if (d->comm && (hear(d) || settle(d, d->nccl->ncclCommFinalize(d->comm), "ending a communicator", d->control->seconds, -1, &peer)))
        rondo__nccl_plane_abort(d);
    if (d->comm)
        (void)d->nccl->ncclCommDestroy(d->comm);
    for (int i = 0; i < GROUPS; i++) {
        if (d->group[i].begins)
            d->ops->event_free(d->dev, d->group[i].begins);
        if (d->group[i].ends)
            d->ops->event_free(d->dev, d->group[i].ends);
    }
    d->control->data = NULL;
    rondo__nccl_host->free(d);
}

/* ---- groups ---- */

int rondo__nccl_plane_watch(struct rondo_data *d, int *peer, uint64_t *group)
{
    nccl_result code = 0;
    *peer = -1;
    for (; d->first < d->next; d->first++) {
        const int over = d->ops->event_query(d->dev, d->group[d->first % GROUPS].ends);
        if (over < 0)
            return over;
        if (!over)
            break;
    }
    *group = d->first < d->next ? d->first : d->next - (d->next > 0);
    if (!d->comm)
        return d->first < d->next ? RONDO_EPEER : 0;
    const nccl_result asked = d->nccl->ncclCommGetAsyncError(d->comm, &code);
    code = asked ? asked : code;
    if (code && code != NCCL_IN_PROGRESS)
        return failed(d, "moving between cards", code);
    if (d->first == d->next)
        return 0;
    struct group *g = d->group + d->first % GROUPS;
    if (g->since == 0.0) {
        const int begun = d->ops->event_query(d->dev, g->begins);
        if (begun < 0)
            return begun;
        g->since = begun ? now() : 0.0;
    }
    return g->since != 0.0 && now() - g->since >= g->seconds ? late(d, g->peer, peer) : 0;
}

/* Its place among those that are watched, once one is free. */
static int take_place(struct rondo_data *d, struct group **out, int *peer)
{
    uint64_t group;
    int err = 0;
    for (unsigned looks = 0; d->next - d->first == GROUPS && !err; looks++) {
        err = rondo__nccl_plane_watch(d, peer, &group);
        if (!err && d->next - d->first == GROUPS) {
            err = hear(d);
            pause_between(looks);
        }
    }
    struct group *g = *out = d->group + d->next % GROUPS;
    if (!err && !g->begins)
        err = d->ops->event_new(d->dev, &g->begins);
    if (!err && !g->ends)
        err = d->ops->event_new(d->dev, &g->ends);
    return err;
}

/* Whose bytes are missing where it does not end: of several that it receives from nobody knows. */
static int32_t suspect_of(const struct rondo_part *parts, int32_t count)
{
    int32_t found[2] = { -1, -1 }, many[2] = { 0, 0 };
    for (int32_t i = 0; i < count; i++) {
        const int32_t way = parts[i].receives != 0;
        many[way] += found[way] != parts[i].peer;
        found[way] = parts[i].peer;
    }
    return many[1] == 1 ? found[1] : many[1] ? -1 : many[0] == 1 ? found[0] : -1;
}

static nccl_result put(struct rondo_data *d, void *stream, const struct rondo_part *parts, int32_t count)
{
    nccl_result code = d->nccl->ncclGroupStart(), ended;
    if (code)
        return code;
    for (int32_t i = 0; i < count && (!code || code == NCCL_IN_PROGRESS); i++)
        code = parts[i].receives ? d->nccl->ncclRecv(parts[i].memory, parts[i].bytes, NCCL_BYTES, parts[i].peer, d->comm, stream)
                                 : d->nccl->ncclSend(parts[i].memory, parts[i].bytes, NCCL_BYTES, parts[i].peer, d->comm, stream);
    ended = d->nccl->ncclGroupEnd();     /* in any case: groups are the thread's */
    return code && code != NCCL_IN_PROGRESS ? code : ended;
}

int rondo__nccl_plane_start(struct rondo_data *d, struct rondo_stream *stream, const struct rondo_part *parts, int32_t count, double seconds, int *peer)
{
    struct group *g;
    void *handle;
    int err = d->comm ? hear(d) : RONDO_EPEER;
    if (!err)
        err = take_place(d, &g, peer);
    if (!err)
        err = d->ops->stream_handle(d->dev, stream, &handle);
    if (!err)
        err = d->ops->event_record(d->dev, stream, g->begins);
    if (err)
        return err;
    g->peer = suspect_of(parts, count);
    g->seconds = seconds;
    g->since = 0.0;
    err = settle(d, put(d, handle, parts, count), "putting a group into a stream", seconds, g->peer, peer);
    if (!err)
        err = d->ops->event_record(d->dev, stream, g->ends);
    d->next += !err;
    return err;
}
