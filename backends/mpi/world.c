/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Communicators of the MPI transport: starting MPI where the program has not, joining, leaving, and revoking. Called by
 * module.c and shift.c.
 *
 * Revoking. MPI has no portable way to interrupt a peer's wait, so every world keeps one receive posted for notices (tag 0,
 * any source), and all waits look at it. Whoever fails sends a notice to all others of its group; a group is known by its
 * tag. A group counts as revoked when one of its parents is. A rank that has cancelled its receives says so with a second
 * notice: from then on no send to it can be matched, and the sender may have its memory back.
 */
#define _GNU_SOURCE   /* sched_getaffinity */
#include "backends/mpi/world.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Looks before a rank on a crowded machine starts to sleep between them, and how long. */
#define YIELDS 32
#define SLEEP_NS_MIN 10000
#define SLEEP_NS_MAX 500000
#define CORES_MAX 4096
/* For what was sent about a failure to get away; it is a few hundred bytes. And for what others say to come in, so that MPI has
 * no messages left over that it would complain about at the end. */
#define GRACE_SECONDS 1.0
#define HEARING_SECONDS 0.02

/* ---- the library ---- */

bool rondo__mpi_same_library(void)
{
    static char text[MPI_MAX_LIBRARY_VERSION_STRING + 1];
    int length = 0;
    MPI_Get_library_version(text, &length);
#if defined(OPEN_MPI)
    return strstr(text, "Open MPI") != NULL;
#elif defined(MPICH_VERSION) || defined(MPICH)
    return strstr(text, "MPICH") != NULL || strstr(text, "MVAPICH") != NULL || strstr(text, "Intel") != NULL;
#else
    return true;
#endif
}

const char *rondo__mpi_library(void)
{
    static char text[MPI_MAX_LIBRARY_VERSION_STRING + 1];
    int length = 0;
    MPI_Get_library_version(text, &length);   /* allowed before MPI_Init */
    text[strcspn(text, "\r\n")] = 0;         /* MPICH goes on for many lines */
    for (char *p = text; *p; p++)
        *p = *p == '\t' ? ' ' : *p;
    return text;
}

static bool lost_a_peer;   /* a wait timed out: MPI_Finalize might wait for that peer for ever */

void rondo__mpi_all_here(void)
{
    lost_a_peer = false;
}

/* At exit and not when a launch ends: MPI cannot be initialised twice in one process, and a program may launch again. */
static void end_at_exit(void)
{
    int finalized = 1;
    if (MPI_Finalized(&finalized) == MPI_SUCCESS && !finalized && !lost_a_peer)
        MPI_Finalize();
}

int rondo__mpi_start(void)
{
    int on = 0, off = 0, provided = 0;
    if (!rondo__mpi_same_library())
        return rondo__mpi_fail(RONDO_ENOTSUP, "this program runs another MPI library than the one that rondo's MPI module was built with; "
                               "build rondo with the program's mpicc");
    MPI_Finalized(&off);
    if (off)
        return rondo__mpi_fail(RONDO_EINVAL, "MPI was finalised in this process and cannot start again; finalise it after the last use");
    MPI_Initialized(&on);
    if (on)
        return 0;
    int rc = MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided);
    if (rc != MPI_SUCCESS)
        return rondo__mpi_error(rc, "MPI_Init_thread");
    atexit(end_at_exit);
    return 0;
}

void rondo__mpi_pause(const struct rondo_world *w, unsigned *turn)
{
    unsigned n = (*turn)++;
    if (!w->crowded || n < YIELDS) {
        sched_yield();
        return;
    }
    unsigned doublings = (n - YIELDS) / 8 < 8 ? (n - YIELDS) / 8 : 8;
    long ns = (long)SLEEP_NS_MIN << doublings;
    struct timespec t = { 0, ns < SLEEP_NS_MAX ? ns : SLEEP_NS_MAX };
    nanosleep(&t, NULL);
}

/* ---- the machine ---- */

/* A core that k ranks may use counts 1/k for each of them, so that processes bound to cores of their own keep them. */
static int share_of_cores(MPI_Comm here, int ranks_here)
{
    int share = rondo__mpi_host->cores() / ranks_here;
#ifdef __linux__
    union {
        cpu_set_t set;
        unsigned char bytes[CORES_MAX / 8];
    } mask;
    size_t bytes = CORES_MAX * sizeof(int);
    int *mine = rondo__mpi_host->alloc_zero(1, bytes), *users = rondo__mpi_host->alloc_zero(1, bytes);
    memset(&mask, 0, sizeof mask);
    int usable = mine && users && sched_getaffinity(0, sizeof mask, &mask.set) == 0, all_usable = 0;
    MPI_Allreduce(&usable, &all_usable, 1, MPI_INT, MPI_MIN, here);
    if (all_usable) {
        for (size_t c = 0; c < CORES_MAX; c++)
            mine[c] = CPU_ISSET_S(c, sizeof mask, &mask.set) ? 1 : 0;
        MPI_Allreduce(mine, users, CORES_MAX, MPI_INT, MPI_SUM, here);
        double cores = 0.0;
        for (int c = 0; c < CORES_MAX; c++)
            if (mine[c] && users[c] > 0)
                cores += 1.0 / users[c];
        share = (int)(cores + 1e-6);
    }
    rondo__mpi_host->free(mine);
    rondo__mpi_host->free(users);
#endif
    return share;
}

/* ---- endpoints ---- */

static struct rondo_endpoint *endpoint_alloc(int ranks)
{
    struct rondo_endpoint *ep = rondo__mpi_host->alloc_zero(1, sizeof *ep);
    if (!ep)
        return NULL;
    ep->world_rank = rondo__mpi_host->alloc_zero((size_t)ranks, sizeof *ep->world_rank);
    ep->telling = rondo__mpi_host->alloc_zero(2 * (size_t)ranks, sizeof *ep->telling);
    ep->quiet_ranks = rondo__mpi_host->alloc_zero((size_t)ranks, 1);
    /* One flight ahead, so that a rank without memory can still take part in the exchange at the end of a launch. */
    ep->spare = rondo__mpi_host->alloc_zero(1, sizeof *ep->spare);
    if (!ep->world_rank || !ep->telling || !ep->quiet_ranks || !ep->spare) {
        rondo__mpi_host->free(ep->spare);
        rondo__mpi_host->free(ep->world_rank);
        rondo__mpi_host->free(ep->telling);
        rondo__mpi_host->free(ep->quiet_ranks);
        rondo__mpi_host->free(ep);
        return NULL;
    }
    for (int i = 0; i < 2 * ranks; i++)
        ep->telling[i] = MPI_REQUEST_NULL;
    ep->ranks = ranks;
    ep->flights.next = ep->flights.previous = &ep->flights;
    return ep;
}

static void endpoint_free(struct rondo_endpoint *ep)
{
    while (ep->spare) {
        struct rondo_flight *next = ep->spare->next;
        rondo__mpi_host->free(ep->spare);
        ep->spare = next;
    }
    rondo__mpi_host->free(ep->world_rank);
    rondo__mpi_host->free(ep->telling);
    rondo__mpi_host->free(ep->quiet_ranks);
    rondo__mpi_host->free(ep);
}

static void endpoint_enter(struct rondo_endpoint *ep, struct rondo_world *w)
{
    ep->world = w;
    ep->next = w->endpoints;
    w->endpoints = ep;
    w->references++;
}

static void take_notice(struct rondo_endpoint *ep, const struct rondo_notice *notice)
{
    if (notice->kind == RONDO_NOTICE_QUIET)
        for (int i = 0; i < ep->ranks; i++)
            if (ep->world_rank[i] == notice->rank)
                ep->quiet_ranks[i] = 1;
    if (notice->kind != RONDO_NOTICE_REVOKED || ep->revoked)
        return;
    ep->notice = *notice;
    ep->notice.sentence[RONDO_SENTENCE_BYTES - 1] = 0;
    ep->revoked = true;
    ep->world->broken = true;
    if (notice->code == RONDO_ETIMEDOUT)
        lost_a_peer = true;
}

int rondo__mpi_endpoint_new(struct rondo_endpoint **out, struct rondo_endpoint *parent, int tag, int ranks, const int32_t *world_rank,
                            int rank)
{
    struct rondo_world *w = parent->world;
    if (tag > w->tag_limit)
        return rondo__mpi_fail(RONDO_ENOTSUP, "this MPI library has room for %d groups only; destroy the context and make a new one",
                               w->tag_limit);
    struct rondo_endpoint *ep = endpoint_alloc(ranks);
    if (!ep)
        return rondo__mpi_fail(RONDO_ENOMEM, "no memory for a group of %d ranks", ranks);
    memcpy(ep->world_rank, world_rank, (size_t)ranks * sizeof *world_rank);
    ep->parent = parent;
    ep->rank = rank;
    ep->tag = tag;
    ep->seconds = parent->seconds;
    endpoint_enter(ep, w);
    for (struct rondo_early *e = w->early; e; e = e->next)
        if (e->notice.tag == tag)
            take_notice(ep, &e->notice);
    *out = ep;
    return 0;
}

/* ---- notices ---- */

static int listen_again(struct rondo_world *w)
{
    return MPI_Irecv(&w->incoming, (int)sizeof w->incoming, MPI_BYTE, MPI_ANY_SOURCE, RONDO_NOTICE_TAG, w->comm, &w->listening);
}

void rondo__mpi_listen(struct rondo_world *w)
{
    int complete = 0;
    while (w->listening != MPI_REQUEST_NULL) {
        if (MPI_Test(&w->listening, &complete, MPI_STATUS_IGNORE) != MPI_SUCCESS || !complete)
            return;
        bool known = false;
        for (struct rondo_endpoint *ep = w->endpoints; ep; ep = ep->next)
            if (ep->tag == w->incoming.tag) {
                take_notice(ep, &w->incoming);
                known = true;
            }
        /* A group that others have made already; where there is no memory to remember it, its deadline will do. */
        struct rondo_early *e = known || w->incoming.tag < w->next_tag ? NULL : rondo__mpi_host->alloc_zero(1, sizeof *e);
        if (e) {
            e->notice = w->incoming;
            e->next = w->early;
            w->early = e;
        }
        if (listen_again(w) != MPI_SUCCESS)
            w->listening = MPI_REQUEST_NULL;
    }
}

struct rondo_endpoint *rondo__mpi_revoked(struct rondo_endpoint *ep)
{
    while (ep && !ep->revoked)
        ep = ep->parent;
    return ep;
}

static void tell(struct rondo_endpoint *ep, const struct rondo_notice *notice, MPI_Request *requests)
{
    for (int i = 0; i < ep->ranks; i++)
        if (i != ep->rank && MPI_Isend(notice, (int)sizeof *notice, MPI_BYTE, ep->world_rank[i], RONDO_NOTICE_TAG, ep->world->comm,
                                       &requests[i]) != MPI_SUCCESS)
            requests[i] = MPI_REQUEST_NULL;
}

void rondo__mpi_revoke(struct rondo_endpoint *ep, int code, const char *sentence)
{
    struct rondo_notice notice;
    if (ep->revoked)
        return;
    memset(&notice, 0, sizeof notice);
    notice.kind = RONDO_NOTICE_REVOKED;
    notice.tag = ep->tag;
    notice.rank = ep->world->rank;
    notice.code = code;
    snprintf(notice.sentence, sizeof notice.sentence, "%s", sentence);
    take_notice(ep, &notice);
    tell(ep, &ep->notice, ep->telling);
}

void rondo__mpi_say_quiet(struct rondo_endpoint *ep)
{
    if (ep->quiet || !rondo__mpi_revoked(ep))
        return;
    ep->quiet = true;
    ep->quiet_notice.kind = RONDO_NOTICE_QUIET;
    ep->quiet_notice.tag = ep->tag;
    ep->quiet_notice.rank = ep->world->rank;
    tell(ep, &ep->quiet_notice, ep->telling + ep->ranks);
}

/* false: some notice is still under way. */
static bool told_all(struct rondo_endpoint *ep)
{
    bool all = true;
    for (int i = 0; i < 2 * ep->ranks; i++) {
        int complete = 1;
        if (ep->telling[i] != MPI_REQUEST_NULL && MPI_Test(&ep->telling[i], &complete, MPI_STATUS_IGNORE) == MPI_SUCCESS && !complete)
            all = false;
    }
    return all;
}

static bool heard_all(const struct rondo_endpoint *ep)
{
    for (int i = 0; i < ep->ranks; i++)
        if (i != ep->rank && !ep->quiet_ranks[i])
            return false;
    return true;
}

/* ---- worlds ---- */

static int join_communicator(struct rondo_world *w, MPI_Comm comm, double seconds)
{
    MPI_Request request;
    int rc = MPI_Comm_idup(comm, &w->comm, &request);
    if (rc != MPI_SUCCESS)
        return rondo__mpi_error(rc, "MPI_Comm_idup");
    w->joining = true;
    unsigned turn = 0;
    double until = rondo__mpi_host->now() + seconds;
    for (;;) {
        int complete = 0;
        rc = MPI_Test(&request, &complete, MPI_STATUS_IGNORE);
        if (rc != MPI_SUCCESS)
            return rondo__mpi_error(rc, "MPI_Comm_idup");
        if (complete)
            break;
        if (rondo__mpi_host->now() >= until) {
            lost_a_peer = true;
            return rondo__mpi_fail(RONDO_ETIMEDOUT, "not all of the %d ranks came to join the communicator within %g s", w->ranks, seconds);
        }
        rondo__mpi_pause(w, &turn);
    }
    w->joining = false;
    rc = MPI_Comm_set_errhandler(w->comm, MPI_ERRORS_RETURN);
    if (rc != MPI_SUCCESS)
        return rondo__mpi_error(rc, "MPI_Comm_set_errhandler");
    return 0;
}

/* What was found about MPI_COMM_WORLD. It does not change, and blocking collectives are slow where ranks outnumber cores. */
#define KNOWN_MAX 4096
static struct {
    int ranks, ranks_here, cores;
    bool crowded;
    unsigned char here[KNOWN_MAX / 8];
} known;

static bool recall(struct rondo_world *w, MPI_Comm comm)
{
    int alike = MPI_UNEQUAL;
    if (known.ranks != w->ranks || MPI_Comm_compare(comm, MPI_COMM_WORLD, &alike) != MPI_SUCCESS)
        return false;
    if (alike != MPI_IDENT && alike != MPI_CONGRUENT)
        return false;
    for (int i = 0; i < w->ranks; i++)
        w->here[i] = known.here[i / 8] >> (i % 8) & 1;
    w->ranks_here = known.ranks_here;
    w->cores = known.cores;
    w->crowded = known.crowded;
    return true;
}

static void remember(const struct rondo_world *w, MPI_Comm comm)
{
    int alike = MPI_UNEQUAL;
    if (w->ranks > KNOWN_MAX || MPI_Comm_compare(comm, MPI_COMM_WORLD, &alike) != MPI_SUCCESS)
        return;
    if (alike != MPI_IDENT && alike != MPI_CONGRUENT)
        return;
    memset(known.here, 0, sizeof known.here);
    for (int i = 0; i < w->ranks; i++)
        known.here[i / 8] |= (unsigned char)(w->here[i] << (i % 8));
    known.ranks_here = w->ranks_here;
    known.cores = w->cores;
    known.crowded = w->crowded;
    known.ranks = w->ranks;
}

/* All ranks are in here by now, so blocking calls do not wait for anybody who might not come. All of them remember, or none. */
static int look_around(struct rondo_world *w, MPI_Comm comm)
{
    int *limit = NULL, found = 0;
    w->tag_limit = 32767;
    if (MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, &limit, &found) == MPI_SUCCESS && found)
        w->tag_limit = *limit;
    if (recall(w, comm))
        return 0;
    MPI_Comm here;
    MPI_Group group_here, group;
    int rc = MPI_Comm_split_type(w->comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &here);
    if (rc != MPI_SUCCESS)
        return rondo__mpi_error(rc, "MPI_Comm_split_type");
    MPI_Comm_size(here, &w->ranks_here);
    MPI_Comm_group(here, &group_here);
    MPI_Comm_group(w->comm, &group);
    for (int i = 0; i < w->ranks_here; i++) {
        int rank = 0;
        if (MPI_Group_translate_ranks(group_here, 1, &i, group, &rank) == MPI_SUCCESS && rank >= 0 && rank < w->ranks)
            w->here[rank] = 1;
    }
    int share = share_of_cores(here, w->ranks_here);
    w->crowded = share < 1;
    w->cores = share < 1 ? 1 : share;
    MPI_Group_free(&group_here);
    MPI_Group_free(&group);
    MPI_Comm_free(&here);
    remember(w, comm);
    return 0;
}

static void world_free(struct rondo_world *w)
{
    rondo__mpi_host->free(w->here);
    if (w->joining)
        return;   /* a nonblocking collective cannot be cancelled: its result must still have a place */
    /* A cancelled receive completes at once, or it has just been matched; both end it. */
    if (w->listening != MPI_REQUEST_NULL) {
        MPI_Cancel(&w->listening);
        MPI_Wait(&w->listening, MPI_STATUS_IGNORE);
    }
    while (w->early) {
        struct rondo_early *next = w->early->next;
        rondo__mpi_host->free(w->early);
        w->early = next;
    }
    /* Freeing a communicator is collective; after a failure the others may never come, so it stays with MPI. */
    if (w->comm != MPI_COMM_NULL && !w->broken)
        MPI_Comm_free(&w->comm);
    rondo__mpi_host->free(w);
}

int rondo__mpi_world_new(struct rondo_endpoint **out, MPI_Comm comm, double seconds)
{
    int ranks = 0, rank = 0, inter = 0;
    *out = NULL;
    if (comm == MPI_COMM_NULL)
        return rondo__mpi_fail(RONDO_EINVAL, "the communicator is MPI_COMM_NULL; only its members may join");
    MPI_Comm_test_inter(comm, &inter);
    if (inter)
        return rondo__mpi_fail(RONDO_EINVAL, "the communicator is an inter-communicator; merge it first (MPI_Intercomm_merge)");
    MPI_Comm_size(comm, &ranks);
    MPI_Comm_rank(comm, &rank);
    struct rondo_world *w = rondo__mpi_host->alloc_zero(1, sizeof *w);
    struct rondo_endpoint *ep = endpoint_alloc(ranks);
    if (w)
        w->here = rondo__mpi_host->alloc_zero((size_t)ranks, 1);
    if (!w || !ep || !w->here) {
        if (w)
            rondo__mpi_host->free(w->here);
        rondo__mpi_host->free(w);
        if (ep)
            endpoint_free(ep);
        return rondo__mpi_fail(RONDO_ENOMEM, "no memory for a communicator of %d ranks", ranks);
    }
    w->comm = MPI_COMM_NULL;
    w->listening = MPI_REQUEST_NULL;
    w->rank = rank;
    w->ranks = ranks;
    w->crowded = true;   /* until known */
    w->next_tag = RONDO_NOTICE_TAG + 2;
    ep->rank = rank;
    ep->tag = RONDO_NOTICE_TAG + 1;
    ep->seconds = seconds;
    for (int i = 0; i < ranks; i++)
        ep->world_rank[i] = i;
    int err = rondo__mpi_host->env_piece(&w->piece);
    if (!err)
        err = join_communicator(w, comm, seconds);
    if (!err)
        err = look_around(w, comm);
    if (!err) {
        int rc = listen_again(w);
        if (rc != MPI_SUCCESS)
            err = rondo__mpi_error(rc, "MPI_Irecv");
    }
    if (err) {
        w->broken = true;
        world_free(w);
        endpoint_free(ep);
        return err;
    }
    endpoint_enter(ep, w);
    *out = ep;
    return 0;
}

void rondo__mpi_leave(struct rondo_endpoint *ep)
{
    struct rondo_world *w = ep->world;
    rondo__mpi_quiesce(ep, ep->seconds);
    unsigned turn = 0;
    double until = rondo__mpi_host->now() + GRACE_SECONDS;
    bool told;
    while (!(told = told_all(ep)) && rondo__mpi_host->now() < until)
        rondo__mpi_pause(w, &turn);
    until = rondo__mpi_host->now() + HEARING_SECONDS;
    while (ep->quiet && !heard_all(ep) && rondo__mpi_host->now() < until) {
        rondo__mpi_listen(w);
        rondo__mpi_pause(w, &turn);
    }
    for (struct rondo_endpoint **p = &w->endpoints; *p; p = &(*p)->next)
        if (*p == ep) {
            *p = ep->next;
            break;
        }
    if (told)
        endpoint_free(ep);   /* else MPI still reads the notice in it */
    if (--w->references == 0)
        world_free(w);
}
