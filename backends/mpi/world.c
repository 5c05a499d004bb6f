/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Communicators of the MPI transport: starting MPI where the program has not, joining and leaving. Called by module.c.
 *
 * A communicator is given back to MPI only when every other rank has said its last word on it (notice.c), which may be after the
 * context is gone: until then its line waits in a list, looked at whenever ranks join or leave, and last when MPI is finalised.
 */
#define _GNU_SOURCE   /* sched_getaffinity */
#include "backends/mpi/world.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Looks before a rank on a crowded machine starts to sleep between them, and for how long. A core that is yielded costs who wants it next to
 * nothing, and what comes soon is seen at once. With naps that began at 10 us Linux took a core of waiting ranks for a busy one, to which it moves
 * no work: two ranks computed by turns on one core, beside another that rested. */
#define YIELDS 256
#define SLEEP_NS 100000
#define MOST_PIECE ((size_t)1 << 30)   /* MPI counts bytes in an int */
#define CORES_MAX 4096
/* For notices to get away; they are a few hundred bytes. And for what others say to come in, so that MPI has no messages left over
 * that it would complain about at the end. */
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

void rondo__mpi_lost_one(void)
{
    lost_a_peer = true;
}

void rondo__mpi_all_here(void)
{
    lost_a_peer = false;
}

/* ---- communicators that wait for their last notices ---- */

static struct rondo_line *waiting;

static void line_free(struct rondo_line *line, bool quiet)
{
    /* A cancelled receive completes at once, or it has just been matched; both end it. */
    if (line->listening != MPI_REQUEST_NULL) {
        MPI_Cancel(&line->listening);
        MPI_Wait(&line->listening, MPI_STATUS_IGNORE);
    }
    /* Else it stays with MPI: something may still come on it. */
    if (quiet && line->comm != MPI_COMM_NULL)
        MPI_Comm_free(&line->comm);
    MPI_Free_mem(line);
}

/* Frees those whose ranks are all done; false: there are others that this may still become true of. */
static bool tidy(void)
{
    bool done = true;
    for (struct rondo_line **p = &waiting; *p;) {
        struct rondo_line *line = *p;
        if (rondo__mpi_listen_after(line)) {
            *p = line->next;
            line_free(line, true);
        } else {
            done &= line->gone < 0;
            p = &line->next;
        }
    }
    return done;
}

/* MPI calls this first of all when it is finalised, by whomever. */
static int at_finalize(MPI_Comm comm, int key, void *value, void *state)
{
    (void)comm;
    (void)key;
    (void)value;
    (void)state;
    double until = MPI_Wtime() + GRACE_SECONDS;
    while (!tidy() && !lost_a_peer && MPI_Wtime() < until)
        sched_yield();
    while (waiting) {
        struct rondo_line *line = waiting;
        waiting = line->next;
        line_free(line, false);
    }
    return MPI_SUCCESS;
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
    static int key = MPI_KEYVAL_INVALID;
    int on = 0, off = 0, provided = 0, rc;
    if (!rondo__mpi_same_library())
        return rondo__mpi_fail(RONDO_ENOTSUP, "this program runs another MPI library than the one that rondo's MPI module was built with; "
                               "build rondo with the program's mpicc");
    MPI_Finalized(&off);
    if (off)
        return rondo__mpi_fail(RONDO_EINVAL, "MPI was finalised in this process and cannot start again; finalise it after the last use");
    MPI_Initialized(&on);
    if (!on) {
        rc = MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided);
        if (rc != MPI_SUCCESS)
            return rondo__mpi_error(rc, "MPI_Init_thread");
        atexit(end_at_exit);
    }
    if (key != MPI_KEYVAL_INVALID)
        return 0;
    rc = MPI_Comm_create_keyval(MPI_COMM_NULL_COPY_FN, at_finalize, &key, NULL);
    if (rc == MPI_SUCCESS)
        rc = MPI_Comm_set_attr(MPI_COMM_SELF, key, NULL);
    return rc == MPI_SUCCESS ? 0 : rondo__mpi_error(rc, "MPI_Comm_set_attr");
}

void rondo__mpi_pause(const struct rondo_world *w, unsigned *turn)
{
    unsigned n = (*turn)++;
    if (!w->crowded || n < YIELDS) {
        sched_yield();
        return;
    }
    const struct timespec t = { 0, SLEEP_NS };
    nanosleep(&t, NULL);
}

/* ---- the machine ---- */

/* What a rank tells the others about where it runs. */
struct site {
    uint64_t host;
    uint64_t machine;                 /* whose cores a host has: containers of one machine are hosts with names of their own */
    uint64_t piece, eager;            /* bytes of messages: that its environment names, and that go to other machines without asking; or 0 */
    int32_t usable, reserved;         /* cores holds what the system said */
    unsigned char cores[CORES_MAX / 8];
};

static uint64_t add_text(uint64_t hash, const char *text)
{
    for (; *text; text++)
        hash = (hash ^ (unsigned char)*text) * 0x100000001b3u;
    return hash;
}

/* Hosts are told apart by their name, and by the boot where the system numbers it: names are often all alike. Hosts of one boot are on one
 * machine. */
static void describe(struct site *site, const struct rondo_world *w)
{
    char name[MPI_MAX_PROCESSOR_NAME + 1] = "";
    int length = 0;
    memset(site, 0, sizeof *site);
    site->piece = w->asked;
    site->eager = rondo__mpi_eager_bytes();
    if (MPI_Get_processor_name(name, &length) == MPI_SUCCESS)
        site->host = site->machine = add_text(0xcbf29ce484222325u, name);
#ifdef __linux__
    FILE *f = fopen("/proc/sys/kernel/random/boot_id", "r");
    if (f) {
        char boot[64] = "";
        if (fgets(boot, sizeof boot, f)) {
            site->host = add_text(site->host, boot);
            site->machine = add_text(0xcbf29ce484222325u, boot);
        }
        fclose(f);
    }
    union {
        cpu_set_t set;
        unsigned char bytes[CORES_MAX / 8];
    } mask;
    memset(&mask, 0, sizeof mask);
    site->usable = sched_getaffinity(0, sizeof mask, &mask.set) == 0;
    for (size_t c = 0; c < CORES_MAX && site->usable; c++)
        if (CPU_ISSET_S(c, sizeof mask, &mask.set))
            site->cores[c / 8] |= (unsigned char)(1u << c % 8);
#endif
}

/* A core that k ranks may use counts 1/k for each of them, so that processes bound to cores of their own keep them. Where a quota
 * leaves less than the mask, the ranks of a host are taken to be under one, as those of a container or a job are. */
static int share_of_cores(const struct rondo_world *w, const struct site *all)
{
    const struct site *mine = &all[w->rank];
    const int allowed = rondo__mpi_host->cores();
    int bound = 0;
    double cores = 0.0;
    for (int i = 0; i < w->ranks; i++)
        if (w->here[i] && !all[i].usable)
            return allowed / w->ranks_here;
    for (size_t c = 0; c < CORES_MAX; c++) {
        int users = 0;
        if (!(mine->cores[c / 8] >> c % 8 & 1))
            continue;
        for (int i = 0; i < w->ranks; i++)
            users += all[i].machine == mine->machine && all[i].cores[c / 8] >> c % 8 & 1;
        cores += 1.0 / users;
        bound++;
    }
    if (allowed < bound && cores > (double)allowed / w->ranks_here)
        cores = (double)allowed / w->ranks_here;
    return (int)(cores + 1e-6);
}

/* Both ends of a message must cut it alike. What an environment names holds for all; without, pieces for other machines are those that
 * no rank's MPI asks for. */
static void agree_on_pieces(struct rondo_world *w, const struct site *all)
{
    uint64_t named = 0, eager = all[0].eager;
    for (int i = 0; i < w->ranks; i++) {
        if (all[i].piece && (!named || all[i].piece < named))
            named = all[i].piece;
        if (all[i].eager < eager)
            eager = all[i].eager;
    }
    w->piece = named ? named : MOST_PIECE;
    w->piece_apart = named ? named : eager ? eager : MOST_PIECE;
}

/* ---- endpoints ---- */

static void endpoint_free(struct rondo_endpoint *ep)
{
    while (ep->spare) {
        struct rondo_flight *next = ep->spare->next;
        rondo__mpi_host->free(ep->spare);
        ep->spare = next;
    }
    rondo__mpi_host->free(ep->peer);
    rondo__mpi_host->free(ep);
}

static struct rondo_endpoint *endpoint_alloc(int ranks)
{
    struct rondo_endpoint *ep = rondo__mpi_host->alloc_zero(1, sizeof *ep);
    if (!ep)
        return NULL;
    ep->peer = rondo__mpi_host->alloc_zero((size_t)ranks, sizeof *ep->peer);
    /* One flight ahead, so that a rank without memory can still take part in the exchange at the end of a launch. */
    ep->spare = rondo__mpi_host->alloc_zero(1, sizeof *ep->spare);
    if (!ep->peer || !ep->spare) {
        endpoint_free(ep);
        return NULL;
    }
    for (int i = 0; i < ranks; i++)
        ep->peer[i].revoked_request = ep->peer[i].quiet_request = ep->peer[i].farewell.request = MPI_REQUEST_NULL;
    ep->ranks = ranks;
    ep->flights.next = ep->flights.previous = &ep->flights;
    return ep;
}

static void endpoint_enter(struct rondo_endpoint *ep, struct rondo_world *w)
{
    ep->world = w;
    ep->next = w->endpoints;
    w->endpoints = ep;
    w->references++;
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
    for (int i = 0; i < ranks; i++)
        ep->peer[i].world_rank = world_rank ? world_rank[i] : parent->peer[i].world_rank;
    ep->parent = parent;
    ep->rank = rank;
    ep->tag = tag;
    ep->seconds = parent->seconds;
    ep->device_ops = parent->device_ops;
    ep->device = parent->device;
    endpoint_enter(ep, w);
    rondo__mpi_remember(ep);
    *out = ep;
    return 0;
}

/* ---- worlds ---- */

static int join_communicator(struct rondo_world *w, MPI_Comm comm, double seconds)
{
    MPI_Request request;
    int rc = MPI_Comm_idup(comm, &w->line->comm, &request);
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
        rondo__mpi_listen();
        if (rondo__mpi_host->now() >= until) {
            int silent = rondo__mpi_silent(comm, RONDO_ASK_SECONDS < seconds ? RONDO_ASK_SECONDS : seconds);
            lost_a_peer = true;
            if (silent >= 0)
                return rondo__mpi_fail(RONDO_ETIMEDOUT, "rank %d did not answer rank %d within %g s in step join; RONDO_DEADLINE or the "
                                       "context's deadline can be longer", silent, w->rank, seconds);
            return rondo__mpi_fail(RONDO_ETIMEDOUT, "not all of the %d ranks came within %g s, and MPI does not tell rank %d which of them "
                                   "are missing in step join; all ranks of the communicator must join, and RONDO_DEADLINE or the "
                                   "context's deadline can be longer", w->ranks, seconds, w->rank);
        }
        rondo__mpi_pause(w, &turn);
    }
    w->joining = false;
    w->comm = w->line->comm;
    rc = MPI_Comm_set_errhandler(w->comm, MPI_ERRORS_RETURN);
    if (rc != MPI_SUCCESS)
        return rondo__mpi_error(rc, "MPI_Comm_set_errhandler");
    rc = rondo__mpi_listen_again(w->line);
    return rc == MPI_SUCCESS ? 0 : rondo__mpi_error(rc, "MPI_Irecv");
}

/* What was found about MPI_COMM_WORLD. It does not change, and to ask all is slow where ranks outnumber cores. */
#define KNOWN_MAX 4096
static struct {
    int ranks, ranks_here, cores;
    size_t asked, piece, piece_apart;
    bool crowded;
    unsigned char here[KNOWN_MAX / 8];
} known;

static bool is_whole(const struct rondo_world *w, MPI_Comm comm)
{
    int alike = MPI_UNEQUAL;
    return w->ranks <= KNOWN_MAX && MPI_Comm_compare(comm, MPI_COMM_WORLD, &alike) == MPI_SUCCESS &&
           (alike == MPI_IDENT || alike == MPI_CONGRUENT);
}

static void recall(struct rondo_world *w)
{
    for (int i = 0; i < w->ranks; i++)
        w->here[i] = known.here[i / 8] >> (i % 8) & 1;
    w->ranks_here = known.ranks_here;
    w->cores = known.cores;
    w->crowded = known.crowded;
    w->piece = known.piece;
    w->piece_apart = known.piece_apart;
}

static void remember(const struct rondo_world *w)
{
    memset(known.here, 0, sizeof known.here);
    for (int i = 0; i < w->ranks; i++)
        known.here[i / 8] |= (unsigned char)(w->here[i] << (i % 8));
    known.ranks_here = w->ranks_here;
    known.cores = w->cores;
    known.crowded = w->crowded;
    known.asked = w->asked;
    known.piece = w->piece;
    known.piece_apart = w->piece_apart;
    known.ranks = w->ranks;
}

/* All ranks have joined by now, but any of them may stall even so: these waits have their deadline too. They go on when a rank fails
 * that was quicker here: it has told already what is needed, and why it failed is for the next step to hear. */
static int look_around(struct rondo_endpoint *ep, MPI_Comm comm, struct site *all, double seconds, int *peer)
{
    struct rondo_world *w = ep->world;
    int *limit = NULL, found = 0, whole = is_whole(w, comm);
    w->tag_limit = 32767;
    if (MPI_Comm_get_attr(MPI_COMM_WORLD, MPI_TAG_UB, &limit, &found) == MPI_SUCCESS && found)
        w->tag_limit = *limit;
    /* All of them recall, or none: one that failed here earlier may be the only one that has to ask. */
    unsigned char knows = whole && known.ranks == w->ranks && known.asked == w->asked;
    int err = whole ? rondo__mpi_gather(ep, &knows, w->here, 1, seconds, true, peer) : 0;
    if (err)
        return err;
    for (int i = 0; i < w->ranks; i++)
        knows &= whole && w->here[i];
    if (knows) {
        recall(w);
        return 0;
    }
    struct site mine;
    describe(&mine, w);
    err = rondo__mpi_gather(ep, &mine, all, sizeof mine, seconds, true, peer);
    if (!err) {
        w->ranks_here = 0;
        for (int i = 0; i < w->ranks; i++) {
            w->here[i] = all[i].host == mine.host;
            w->ranks_here += w->here[i];
        }
        int share = share_of_cores(w, all);
        w->crowded = share < 1;
        w->cores = share < 1 ? 1 : share;
        agree_on_pieces(w, all);
        if (whole)
            remember(w);
    }
    return err;
}

/* false: a letter is still under way, so that their memory has to stay. */
static bool letters_gone(struct rondo_world *w)
{
    bool all = true;
    for (int i = 0; i < w->ranks; i++) {
        MPI_Request *requests[] = { &w->talk[i].ask.request, &w->talk[i].answer.request };
        for (int k = 0; k < 2; k++) {
            int complete = 1;
            if (*requests[k] != MPI_REQUEST_NULL && MPI_Test(requests[k], &complete, MPI_STATUS_IGNORE) == MPI_SUCCESS && !complete)
                all = false;
        }
    }
    return all;
}

static void world_free(struct rondo_world *w)
{
    rondo__mpi_remove(w);
    rondo__mpi_host->free(w->here);
    if (w->joining)
        return;   /* a nonblocking collective cannot be cancelled: its result must still have a place */
    while (w->early) {
        struct rondo_early *next = w->early->next;
        rondo__mpi_host->free(w->early);
        w->early = next;
    }
    if (w->broken || !w->line || w->comm == MPI_COMM_NULL) {
        if (w->line)
            line_free(w->line, false);
    } else {
        w->line->next = waiting;
        waiting = w->line;
        tidy();
    }
    if (!w->talk || letters_gone(w))
        rondo__mpi_host->free(w->talk);
    rondo__mpi_host->free(w);
}

static int world_alloc(struct rondo_world **world, struct rondo_endpoint **endpoint, int ranks)
{
    struct rondo_world *w = rondo__mpi_host->alloc_zero(1, sizeof *w);
    struct rondo_endpoint *ep = endpoint_alloc(ranks);
    *world = w;
    *endpoint = ep;
    if (!w)
        return RONDO_ENOMEM;
    w->comm = MPI_COMM_NULL;
    w->here = rondo__mpi_host->alloc_zero((size_t)ranks, 1);
    w->talk = rondo__mpi_host->alloc_zero((size_t)ranks, sizeof *w->talk);
    for (int i = 0; w->talk && i < ranks; i++)
        w->talk[i].ask.request = w->talk[i].answer.request = MPI_REQUEST_NULL;
    if (!ep || !w->here || !w->talk || MPI_Alloc_mem(sizeof *w->line, MPI_INFO_NULL, &w->line) != MPI_SUCCESS)
        return RONDO_ENOMEM;
    memset(w->line, 0, sizeof *w->line);
    w->line->comm = MPI_COMM_NULL;
    w->line->listening = MPI_REQUEST_NULL;
    w->line->ranks = ranks;
    return 0;
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
    tidy();
    struct rondo_world *w;
    struct rondo_endpoint *ep;
    /* Before others wait: a rank without memory must not come to join. */
    struct site *sites = rondo__mpi_host->alloc_zero((size_t)ranks, sizeof *sites);
    if (world_alloc(&w, &ep, ranks) || !sites) {
        rondo__mpi_host->free(sites);
        if (w)
            world_free(w);
        if (ep)
            endpoint_free(ep);
        return rondo__mpi_fail(RONDO_ENOMEM, "no memory for a communicator of %d ranks", ranks);
    }
    w->rank = rank;
    w->ranks = ranks;
    w->fault = -1;
    w->crowded = true;   /* until known */
    w->next_tag = RONDO_NOTICE_TAG + 2;
    ep->rank = rank;
    ep->tag = RONDO_NOTICE_TAG + 1;
    ep->seconds = seconds;
    for (int i = 0; i < ranks; i++)
        ep->peer[i].world_rank = i;
    w->piece = w->piece_apart = MOST_PIECE;   /* until all have told theirs */
    int err = rondo__mpi_host->env_piece(&w->asked);
    if (!err)
        err = join_communicator(w, comm, seconds);
    if (err) {
        w->broken = true;
        world_free(w);
        endpoint_free(ep);
        rondo__mpi_host->free(sites);
        return err;
    }
    endpoint_enter(ep, w);
    rondo__mpi_enter(w);
    int peer = -1;
    err = look_around(ep, comm, sites, seconds, &peer);
    rondo__mpi_host->free(sites);
    if (err) {
        if (err == RONDO_EPEER)
            rondo__mpi_fail(err, "rank %d has left, but rank %d still waits for it in step join", peer, rank);
        else if (err == RONDO_ETIMEDOUT)
            rondo__mpi_fail(err, "rank %d did not answer rank %d within %g s in step join", peer, rank, seconds);
        rondo__mpi_revoke(ep, err, rondo__mpi_host->text());
        rondo__mpi_leave(ep);
        return err;
    }
    *out = ep;
    return 0;
}

void rondo__mpi_leave(struct rondo_endpoint *ep)
{
    struct rondo_world *w = ep->world;
    const bool final = w->references == 1;
    rondo__mpi_quiesce(ep, w->late && GRACE_SECONDS < ep->seconds ? GRACE_SECONDS : ep->seconds);
    rondo__mpi_listen();
    if (!rondo__mpi_revoked(ep))
        rondo__mpi_say_left(ep, final && !w->broken && ep->ranks == w->ranks);
    if (final && !w->broken && ep->ranks != w->ranks)
        rondo__mpi_say_last(w);
    unsigned turn = 0;
    double until = rondo__mpi_host->now() + GRACE_SECONDS;
    while (!rondo__mpi_told_all(ep, true) && rondo__mpi_host->now() < until)
        rondo__mpi_pause(w, &turn);
    until = rondo__mpi_host->now() + HEARING_SECONDS;
    while (ep->quiet && !rondo__mpi_heard_all(ep) && rondo__mpi_host->now() < until) {
        rondo__mpi_listen();
        rondo__mpi_pause(w, &turn);
    }
    for (struct rondo_endpoint **p = &w->endpoints; *p; p = &(*p)->next)
        if (*p == ep) {
            *p = ep->next;
            break;
        }
    if (rondo__mpi_told_all(ep, false))
        endpoint_free(ep);   /* else MPI still reads the notice in it */
    if (--w->references == 0)
        world_free(w);
}
