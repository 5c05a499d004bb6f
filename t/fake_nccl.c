/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The fake NCCL (fake_nccl.h). Ranks meet in a file that all of them map: it has a channel of a few kilobytes for each two of them in each
 * direction, so that threads and processes are served alike. A group is one operation of the fake driver's (rondo_fake_cuda_put()), which is
 * called again and again until it is through.
 */
#define _GNU_SOURCE   /* mkstemp */
#include "t/fake_nccl.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { RANKS = 16, RING = 4096, PARTS = 256, SLOW = 3 };   /* SLOW: questions that are answered with "in progress" first */

/* ---- what ranks share ---- */

struct channel {
    _Atomic uint64_t head, tail;     /* bytes that have been read, and written, since the beginning */
    char ring[RING];
};
struct meeting {
    _Atomic int32_t joined, ended;
    struct {
        _Atomic int32_t here;
        int32_t card;
        char host[64];
    } rank[RANKS];
    struct channel channel[RANKS][RANKS];   /* from, to */
};

/* What goes before each message. */
struct front {
    uint64_t bytes, magic;
};
#define MAGIC 0x6e63636c66616b65u

struct fake_comm {
    struct meeting *meeting;
    int rank, ranks, slow;
    _Atomic int error;               /* what ncclCommGetAsyncError() says when nothing is in progress */
    _Atomic bool aborted;
    enum { JOINING, READY, ENDING, ENDED } state;
    uint64_t started;                /* groups put into streams; `done` of them, in this order, are over */
    _Atomic uint64_t done;
    _Atomic int pieces;              /* that the driver still has; and the communicator's own: who gives up the last one frees it */
    struct piece *waiting;           /* of a group: not yet in its stream */
    char last[160];
};

/* ---- settings ---- */

static struct settings {
    long long version, call, call_code, hang, hang_rank, async, async_rank, stay;
} set;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool settled;
static _Atomic long long calls, groups, bytes_sent, comms, aborts;
static char last_of_all[160];

static int settle(const char *text)
{
    struct settings s = { .version = 22809, .hang_rank = -1, .async_rank = -1, .stay = -1 };
    char list[256], *rest = NULL;
    snprintf(list, sizeof list, "%s", text ? text : "");
    for (char *word = strtok_r(list, ",", &rest); word; word = strtok_r(NULL, ",", &rest)) {
        char name[16];
        long long a = 0, b = -1;
        const int n = sscanf(word, "%15[a-z]=%lld:%lld", name, &a, &b);
        if (n >= 2 && !strcmp(name, "version"))
            s.version = a;
        else if (n >= 2 && !strcmp(name, "call"))
            s.call = a, s.call_code = n == 3 ? b : ncclInternalError;
        else if (n >= 2 && !strcmp(name, "hang"))
            s.hang = a, s.hang_rank = b;
        else if (n >= 2 && !strcmp(name, "async"))
            s.async = a, s.async_rank = b;
        else if (n >= 2 && !strcmp(name, "stay"))
            s.stay = a;
        else
            return fprintf(stderr, "# fake NCCL: RONDO_FAKE_NCCL has '%s', which is none of what t/fake_nccl.h says\n", word), ncclInvalidArgument;
    }
    set = s;
    settled = true;
    return 0;
}

int rondo_fake_nccl_set(const char *settings)
{
    pthread_mutex_lock(&lock);
    const int err = settle(settings ? settings : getenv("RONDO_FAKE_NCCL"));
    calls = groups = bytes_sent = aborts = 0;
    pthread_mutex_unlock(&lock);
    return err;
}

long long rondo_fake_nccl_count(const char *what)
{
    return !strcmp(what, "calls") ? calls : !strcmp(what, "groups") ? groups : !strcmp(what, "bytes") ? bytes_sent
           : !strcmp(what, "comms") ? comms : !strcmp(what, "aborts") ? aborts : -1;
}

/* What a call may fail with before it does anything. */
static int enter(void)
{
    int err = 0;
    pthread_mutex_lock(&lock);
    if (!settled)
        err = settle(getenv("RONDO_FAKE_NCCL"));
    pthread_mutex_unlock(&lock);
    return err ? err : ++calls == set.call ? (int)set.call_code : 0;
}

static int fail(struct fake_comm *c, int code, const char *text)
{
    snprintf(c ? c->last : last_of_all, sizeof last_of_all, "%s", text);
    if (c)
        c->error = code;
    return code;
}

const char *ncclGetErrorString(ncclResult_t code)
{
    static const char *const text[] = { "no error", "unhandled cuda error (run with NCCL_DEBUG=INFO for details)", "unhandled system error",
                                        "internal error", "invalid argument", "invalid usage", "remote process exited or there was a network error",
                                        "NCCL operation in progress" };
    return code >= 0 && code < (int)(sizeof text / sizeof text[0]) ? text[code] : "unknown result code";
}

const char *ncclGetLastError(ncclComm_t comm) { return comm ? comm->last : last_of_all; }

ncclResult_t ncclGetVersion(int *version)
{
    const int err = enter();
    *version = (int)set.version;
    return err;
}

/* ---- communicators ---- */

/* Files at which ranks meet: the last to come there takes the name away, and where one never comes the process that made it does, at its end. */
struct made {
    struct made *next;
    char name[32];
};
static struct made *all_made;

static void __attribute__((destructor)) unmake(void)
{
    for (struct made *m = all_made, *next; m; m = next) {
        next = m->next;
        unlink(m->name);
        free(m);
    }
    all_made = NULL;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    char name[] = "/tmp/rondo-fake-nccl-XXXXXX";
    const int err = enter(), file = err ? -1 : mkstemp(name);
    if (file < 0 || ftruncate(file, sizeof(struct meeting)))
        return err ? err : ncclSystemError;
    close(file);
    struct made *m = malloc(sizeof *m);
    if (!m)
        return unlink(name), ncclSystemError;
    snprintf(m->name, sizeof m->name, "%s", name);
    pthread_mutex_lock(&lock);
    m->next = all_made;
    all_made = m;
    pthread_mutex_unlock(&lock);
    memset(id, 0, sizeof *id);
    snprintf(id->internal, sizeof id->internal, "%s", name);
    return 0;
}

static void leave(struct fake_comm *c)
{
    if (atomic_fetch_sub(&c->pieces, 1) > 1)
        return;
    munmap(c->meeting, sizeof *c->meeting);
    comms--;
    free(c);
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t *config)
{
    int err = enter();
    const int card = rondo_fake_cuda_card();
    *comm = NULL;
    if (err)
        return fail(NULL, err, "the fake lets this call fail");
    if (!config || config->size < sizeof *config || config->magic != 0xcafebeef || config->version < 21800 || config->blocking != 0)
        return fail(NULL, ncclInvalidArgument, "a config that is none, or that blocks");
    if (ranks < 1 || ranks > RANKS || rank < 0 || rank >= ranks || card < 0)
        return fail(NULL, ncclInvalidArgument, "ranks that cannot be, or no card");
    const int file = open(id.internal, O_RDWR | O_CLOEXEC);
    struct meeting *m = file < 0 ? MAP_FAILED : mmap(NULL, sizeof *m, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (file >= 0)
        close(file);
    struct fake_comm *c = m == MAP_FAILED ? NULL : calloc(1, sizeof *c);
    if (!c)
        return fail(NULL, ncclSystemError, "an id that is none");
    *c = (struct fake_comm){ .meeting = m, .rank = rank, .ranks = ranks, .slow = SLOW, .pieces = 1 };
    comms++;
    *comm = c;
    if (rank == set.stay)
        return ncclInProgress;
    const char *host = getenv("NCCL_HOSTID");
    m->rank[rank].card = card;
    snprintf(m->rank[rank].host, sizeof m->rank[rank].host, "%s", host ? host : "");
    atomic_store(&m->rank[rank].here, 1);
    if (atomic_fetch_add(&m->joined, 1) == ranks - 1)
        unlink(id.internal);
    return ncclInProgress;
}

static void look_at_cards(struct fake_comm *c)
{
    const struct meeting *m = c->meeting;
    char text[120];
    for (int a = 0; a < c->ranks; a++)
        for (int b = 0; b < a; b++)
            if (m->rank[a].card == m->rank[b].card && !strcmp(m->rank[a].host, m->rank[b].host)) {
                snprintf(text, sizeof text, "Duplicate GPU detected : rank %d and rank %d both on CUDA device %d", b, a, (int)m->rank[a].card);
                fail(c, ncclInvalidUsage, text);
            }
}

/* ---- groups ---- */

struct part {
    char *memory;
    size_t bytes, at;                /* at: of the front and the message, that have gone */
    int peer, receives;
    uint64_t end;                    /* of the channel, once all is written: the send is over when it has been read to there */
    struct front front;
    bool over;
};
struct piece {                       /* all that one group has for one communicator */
    struct fake_comm *comm;
    CUstream stream;
    uint64_t number;                 /* among the communicator's, from 1 */
    int count, idle, turns;
    struct part part[PARTS];
};

static size_t move_out(struct channel *ch, const char *from, size_t bytes)
{
    const uint64_t tail = ch->tail, free_bytes = RING - (tail - ch->head);
    const size_t n = bytes < free_bytes ? bytes : (size_t)free_bytes;
    for (size_t i = 0; i < n; i++)
        ch->ring[(tail + i) % RING] = from[i];
    ch->tail = tail + n;
    return n;
}

static size_t move_in(struct channel *ch, char *to, size_t bytes)
{
    const uint64_t head = ch->head, there = ch->tail - head;
    const size_t n = bytes < there ? bytes : (size_t)there;
    for (size_t i = 0; i < n; i++)
        to[i] = ch->ring[(head + i) % RING];
    ch->head = head + n;
    return n;
}

/* A little of one part. */
static void step_part(struct fake_comm *c, struct part *p)
{
    struct channel *ch = p->receives ? &c->meeting->channel[p->peer][c->rank] : &c->meeting->channel[c->rank][p->peer];
    const size_t front = sizeof p->front;
    char *place = p->at < front ? (char *)&p->front + p->at : p->memory + (p->at - front);
    const size_t left = p->at < front ? front - p->at : front + p->bytes - p->at;
    if (p->at == front + p->bytes) {   /* a send whose last bytes are still to be read */
        p->over = ch->head >= p->end;
        return;
    }
    if (ch->tail - ch->head == (p->receives ? 0 : RING))
        return;
    rondo_fake_cuda_gate(1);
    const size_t n = p->receives ? move_in(ch, place, left) : move_out(ch, place, left);
    rondo_fake_cuda_gate(0);
    p->at += n;
    if (p->receives && p->at == front && n && (p->front.magic != MAGIC || p->front.bytes != p->bytes))
        fail(c, ncclInvalidArgument, "a message of another size than expected");
    if (p->at == front + p->bytes) {
        p->end = ch->tail;
        p->over = p->receives;
        bytes_sent += p->receives ? 0 : (long long)p->bytes;
    }
}

static bool struck(const struct piece *g, long long number, long long rank)
{
    return number && g->number == (uint64_t)number && (rank < 0 || rank == g->comm->rank);
}

/* 1: over, 0: not yet. The driver calls it when the stream has come to it. */
static int step(void *arg)
{
    struct piece *g = arg;
    struct fake_comm *c = g->comm;
    bool over = true;
    if (c->aborted)
        return 1;
    if (struck(g, set.async, set.async_rank) && ++g->idle > 20)
        fail(c, ncclRemoteError, "the fake lets a peer go");
    if (c->done + 1 != g->number || c->error || struck(g, set.hang, set.hang_rank) || struck(g, set.async, set.async_rank) || ++g->turns % 3)
        return 0;                    /* a communicator's groups happen one after the other */
    for (int i = 0; i < g->count && !c->error; i++) {
        struct part *p = g->part + i;
        bool first = !p->over;       /* of those between the two ranks in this direction */
        for (int k = 0; k < i && first; k++)
            first = g->part[k].over || g->part[k].peer != p->peer || g->part[k].receives != p->receives;
        if (first)
            step_part(c, p);
        over = over && p->over;
    }
    if (!over || c->error)
        return 0;
    c->done = g->number;
    return 1;
}

static void drop(void *arg)
{
    struct piece *g = arg;
    leave(g->comm);
    free(g);
}

static _Thread_local int depth;
static _Thread_local struct piece *open_group;

ncclResult_t ncclGroupStart(void)
{
    const int err = enter();
    depth += !err;
    return err;
}

static int add(void *memory, size_t count, int type, int peer, ncclComm_t c, CUstream stream, int receives)
{
    unsigned kind = 0;
    int err = enter();
    if (err)
        return fail(c, err, "the fake lets this call fail");
    if (c->error)
        return c->error;             /* what it has failed with, to whoever asks */
    if (!depth || c->state != READY || c->aborted)
        return fail(c, ncclInvalidUsage, "no group, or a communicator that is not ready");
    if (type != 0 || !count || peer < 0 || peer >= c->ranks || peer == c->rank)
        return fail(c, ncclInvalidArgument, "a type, a size or a peer that is none");
    if (cuPointerGetAttribute(&kind, 2, (CUdeviceptr)(uintptr_t)memory) || kind != CU_MEMORYTYPE_DEVICE)
        return fail(c, ncclInvalidArgument, "memory that is not the card's");
    if (!open_group) {
        open_group = calloc(1, sizeof *open_group);
        if (!open_group)
            return fail(c, ncclSystemError, "no memory");
        open_group->comm = c;
        open_group->stream = stream;
    }
    struct piece *g = open_group;
    if (g->comm != c || g->stream != stream || g->count == PARTS)
        return fail(c, ncclInvalidUsage, "a group that the fake does not do");
    g->part[g->count++] = (struct part){ .memory = memory, .bytes = count, .peer = peer, .receives = receives,
                                         .front = { receives ? 0 : count, receives ? 0 : MAGIC } };
    return 0;
}

ncclResult_t ncclSend(const void *from, size_t count, int type, int peer, ncclComm_t comm, CUstream stream)
{
    return add((void *)(uintptr_t)from, count, type, peer, comm, stream, 0);
}

ncclResult_t ncclRecv(void *to, size_t count, int type, int peer, ncclComm_t comm, CUstream stream)
{
    return add(to, count, type, peer, comm, stream, 1);
}

ncclResult_t ncclGroupEnd(void)
{
    int err = enter();
    struct piece *g = open_group;
    depth -= depth > 0;
    if (depth)
        return err;
    open_group = NULL;
    if (!g)
        return err;
    if (err || g->comm->error) {
        err = err ? fail(g->comm, err, "the fake lets this call fail") : g->comm->error;
        free(g);
        return err;
    }
    g->number = ++g->comm->started;
    g->comm->waiting = g;
    g->comm->slow = SLOW;
    groups++;
    return ncclInProgress;
}

static void put(struct fake_comm *c)
{
    struct piece *g = c->waiting;
    c->waiting = NULL;
    atomic_fetch_add(&c->pieces, 1);
    if (rondo_fake_cuda_put(g->stream, step, g, drop)) {
        drop(g);
        fail(c, ncclUnhandledCudaError, "a stream of another card, or none");
    }
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t c, ncclResult_t *error)
{
    const int err = enter();
    if (err)
        return fail(c, err, "the fake lets this call fail");
    *error = ncclInProgress;
    if (c->error || c->slow-- > 0) {
        *error = c->error ? c->error : ncclInProgress;
        return 0;
    }
    if (c->state == JOINING && c->rank != set.stay && c->meeting->joined == c->ranks) {
        look_at_cards(c);
        c->state = READY;
    }
    if (c->waiting)
        put(c);
    if (c->state == ENDING && c->meeting->ended >= c->ranks)
        c->state = ENDED;
    *error = c->error ? c->error : c->state == READY || c->state == ENDED ? 0 : ncclInProgress;
    return 0;
}

/* Over once it is on all ranks, and all that was put into streams has happened. */
ncclResult_t ncclCommFinalize(ncclComm_t c)
{
    const int err = enter();
    if (err)
        return fail(c, err, "the fake lets this call fail");
    if (c->state != READY || c->done != c->started)
        return fail(c, ncclInvalidUsage, "a communicator that is not ready, or at work");
    c->state = ENDING;
    c->slow = SLOW;
    atomic_fetch_add(&c->meeting->ended, 1);
    return ncclInProgress;
}

static void end(struct fake_comm *c)
{
    if (c->waiting) {
        free(c->waiting);
        c->waiting = NULL;
    }
    c->aborted = true;
    leave(c);
}

ncclResult_t ncclCommDestroy(ncclComm_t c)
{
    const int err = enter();
    if (c->state != ENDED)
        aborts += 1000;              /* nobody should; tests look at it */
    end(c);
    return err;
}

#ifndef FAKE_NCCL_OLD
ncclResult_t ncclCommAbort(ncclComm_t c)
{
    const int err = enter();
    aborts++;
    end(c);
    return err;
}
#endif
