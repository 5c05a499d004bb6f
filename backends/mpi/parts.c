/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Messages of the MPI transport: nonblocking, in pieces where MPI's int would overflow, polled until a deadline. Called by
 * module.c. The parts of one group match in the order in which they were started, because MPI keeps that order between two
 * processes for one tag.
 */
#include <string.h>
#include <time.h>

#include "backends/mpi/world.h"

/* How long sends may go on after a failure where the peer does not say that it will receive nothing more, because it is
 * computing, or dead. What it had matched completes meanwhile. After a wait that ran out it is RONDO_CLOSING_SECONDS, and nothing
 * for sends to the rank at fault. */
#define GRACE_SECONDS 2.0

/* A wait as long as this goes on between naps, each a hundredth of it and no longer than some hundred microseconds: the core is
 * somebody else's meanwhile. */
#define LONG_SECONDS 0.01
#define NAPS 100.0
#define NAP_SECONDS_MOST 500e-6
#define SMALL_BYTES 4096

/* ---- flights ---- */

/* The blocks of a group go back. */
static void give_flights(struct rondo_endpoint *ep, struct rondo_flight *f)
{
    while (f) {
        struct rondo_flight *more = f->more;
        f->previous->next = f->next;
        f->next->previous = f->previous;
        f->next = ep->spare;
        ep->spare = f;
        f = more;
    }
}

/* Blocks for so many pieces, none of them used yet; NULL: no memory. */
static struct rondo_flight *take_flights(struct rondo_endpoint *ep, int pieces)
{
    struct rondo_flight *first = NULL, **last = &first;
    for (int have = 0; have < pieces; have += RONDO_PIECES) {
        struct rondo_flight *f = ep->spare;
        if (f)
            ep->spare = f->next;
        else
            f = rondo__mpi_host->alloc_zero(1, sizeof *f);
        if (!f) {
            give_flights(ep, first);
            return NULL;
        }
        f->count = f->done = 0;
        f->more = NULL;
        f->previous = &ep->flights;
        f->next = ep->flights.next;
        f->next->previous = f->previous->next = f;
        *last = f;
        last = &f->more;
    }
    return first;
}

/* The same on both ends. */
static size_t piece_bytes(const struct rondo_endpoint *ep, int32_t peer)
{
    const struct rondo_world *w = ep->world;
    return w->here[ep->peer[peer].world_rank] ? w->piece : w->piece_apart;
}

static size_t pieces_of(const struct rondo_endpoint *ep, const struct rondo_part *part)
{
    const size_t piece = piece_bytes(ep, part->peer);
    return part->bytes / piece + (part->bytes % piece != 0);
}

/* All pieces of a part, into *f and the blocks after it. */
static int post_part(struct rondo_endpoint *ep, struct rondo_flight **f, const struct rondo_part *part)
{
    struct rondo_world *w = ep->world;
    struct rondo_peer *peer = &ep->peer[part->peer];
    const size_t piece = piece_bytes(ep, part->peer), pieces = pieces_of(ep, part);
    for (size_t i = 0; i < pieces; i++) {
        if ((*f)->count == RONDO_PIECES)
            *f = (*f)->more;
        struct rondo_piece_in_flight *p = &(*f)->piece[(*f)->count];
        char *at = (char *)part->memory + i * piece;
        const size_t left = part->bytes - i * piece;
        p->peer = part->peer;
        p->receives = part->receives;
        p->bytes = (int32_t)(left < piece ? left : piece);
        p->number = part->receives ? peer->taken + 1 : peer->sent + 1;
        int rc = part->receives ? MPI_Irecv(at, p->bytes, MPI_BYTE, peer->world_rank, ep->tag, w->comm, &p->request)
                                : MPI_Isend(at, p->bytes, MPI_BYTE, peer->world_rank, ep->tag, w->comm, &p->request);
        if (rc != MPI_SUCCESS)
            return rondo__mpi_error(rc, part->receives ? "MPI_Irecv" : "MPI_Isend");
        peer->taken += part->receives;
        peer->sent += !part->receives;
        (*f)->count++;
    }
    return 0;
}

int rondo__mpi_parts_start(struct rondo_endpoint *ep, struct rondo_flight **out, const struct rondo_part *parts, int32_t count,
                           bool even_if_revoked)
{
    size_t pieces = 0;
    *out = NULL;
    if (!even_if_revoked && rondo__mpi_revoked(ep))
        return RONDO_EPEER;
    for (int32_t i = 0; i < count; i++) {
        size_t more = pieces_of(ep, &parts[i]);
        if (more > INT32_MAX / 4 || (pieces += more) > INT32_MAX / 4)
            return rondo__mpi_fail(RONDO_EINVAL, "a message of %zu bytes has too many pieces", parts[i].bytes);
    }
    if (!pieces)
        return 0;
    struct rondo_flight *f = take_flights(ep, (int)pieces);
    if (!f)
        return rondo__mpi_fail(RONDO_ENOMEM, "no memory for messages of %zu pieces", pieces);
    /* What has been posted when a call fails is cancelled with everything else in quiesce(). */
    *out = f;
    /* Sends first. A long message begins when its receiver has answered, and an answer waits behind what its sender has begun to send to
     * the same rank: were receives first, they would answer those who came before, whose megabytes then keep back the answers to what is
     * sent here, and this rank's link would rest meanwhile. */
    for (int receives = 0; receives <= 1; receives++)
        for (int32_t i = 0; i < count; i++) {
            int err = parts[i].receives == receives ? post_part(ep, &f, &parts[i]) : 0;
            if (err)
                return err;
        }
    return 0;
}

/* 1: complete, 0: not yet, or a code. */
static int test_piece(struct rondo_endpoint *ep, struct rondo_piece_in_flight *p)
{
    MPI_Status status;
    int complete = 0, got = 0;
    int rc = MPI_Test(&p->request, &complete, &status);
    if (rc != MPI_SUCCESS) {
        int class = 0;
        MPI_Error_class(rc, &class);
        if (class == MPI_ERR_TRUNCATE)
            return rondo__mpi_fail(RONDO_EMISMATCH, "rank %d sent more than the %d bytes that rank %d expects", p->peer, p->bytes, ep->rank);
        return rondo__mpi_error(rc, p->receives ? "receiving" : "sending");
    }
    if (!complete || !p->receives)
        return complete;
    rc = MPI_Get_count(&status, MPI_BYTE, &got);
    if (rc != MPI_SUCCESS || got != p->bytes)
        return rondo__mpi_fail(RONDO_EMISMATCH, "rank %d sent %d bytes where rank %d expects %d", p->peer, got, ep->rank, p->bytes);
    return 1;
}

/* The other rank has left, and the message never comes, or is never taken. */
static bool in_vain(const struct rondo_endpoint *ep, const struct rondo_piece_in_flight *piece)
{
    const struct rondo_peer *p = &ep->peer[piece->peer];
    return p->left && piece->number > (piece->receives ? p->its_sent : p->its_taken);
}

/* Goes on with a group from block *f, the first that is not complete. 1: complete, 0: not yet, or a code. */
static int look(struct rondo_endpoint *ep, struct rondo_flight **f, int *peer, bool even_if_revoked)
{
    if (!even_if_revoked && rondo__mpi_revoked(ep))
        return RONDO_EPEER;
    for (; *f; *f = (*f)->more)
        for (; (*f)->done < (*f)->count; (*f)->done++) {
            struct rondo_piece_in_flight *p = &(*f)->piece[(*f)->done];
            *peer = p->peer;
            int complete = test_piece(ep, p);
            if (complete == 1)
                continue;
            if (complete < 0)
                return complete;
            rondo__mpi_wait_for(ep->world, ep->peer[p->peer].world_rank);
            rondo__mpi_listen();
            return in_vain(ep, p) ? RONDO_EPEER : 0;
        }
    return 1;
}

/* Time ran out: who along the chain of those that wait for each other does not answer, or waits for nobody? Returns as look(); with
 * 0 *peer has that rank. */
static int find_fault(struct rondo_endpoint *ep, struct rondo_flight **f, double seconds, int *peer, bool even_if_revoked)
{
    struct rondo_world *w = ep->world;
    int suspect = ep->peer[*peer].world_rank, fault = *peer, found;
    unsigned turn = 0;
    for (int hops = 0; hops < w->ranks; hops++) {
        for (int i = 0; i < ep->ranks; i++)
            if (ep->peer[i].world_rank == suspect)
                fault = i;
        rondo__mpi_ask(w, suspect);
        double until = rondo__mpi_host->now() + (RONDO_ASK_SECONDS < seconds ? RONDO_ASK_SECONDS : seconds);
        do {
            found = look(ep, f, peer, even_if_revoked);
            if (found)
                return found;
            rondo__mpi_pause(w, &turn);
        } while (!w->talk[suspect].answered && rondo__mpi_host->now() < until);
        if (!w->talk[suspect].answered || w->talk[suspect].waits_for < 0 || w->talk[suspect].waits_for >= w->ranks ||
            w->talk[suspect].waits_for == w->rank)
            break;
        suspect = w->talk[suspect].waits_for;
    }
    *peer = fault;
    w->fault = suspect;
    return 0;
}

/* Nothing but small messages is under way, which go at once when both ends have come; a long one moves on only while these look. */
static bool is_idle(const struct rondo_world *w)
{
    for (const struct rondo_endpoint *ep = w->endpoints; ep; ep = ep->next)
        for (const struct rondo_flight *f = ep->flights.next; f != &ep->flights; f = f->next)
            for (int i = f->done; i < f->count; i++)
                if (f->piece[i].request != MPI_REQUEST_NULL && f->piece[i].bytes > SMALL_BYTES)
                    return false;
    return true;
}

/* A part of what was waited already, so that no wait gets much longer by it. */
static void nap(double waited)
{
    const double part = waited / NAPS < NAP_SECONDS_MOST ? waited / NAPS : NAP_SECONDS_MOST;
    const struct timespec t = { 0, (long)(part * 1e9) };
    nanosleep(&t, NULL);
}

int rondo__mpi_parts_finish(struct rondo_endpoint *ep, struct rondo_flight **flights, double seconds, int *peer, bool even_if_revoked)
{
    struct rondo_flight *f = *flights;
    unsigned turn = 0;
    double until = 0.0, begun = 0.0;
    bool closes = false;
    int found;
    while (!(found = look(ep, &f, peer, even_if_revoked))) {
        double now = rondo__mpi_host->now();
        if (until == 0.0) {
            begun = now;
            until = now + seconds;
        }
        bool closing = even_if_revoked && ep->world->late;
        if (closing && !closes && until > now + RONDO_CLOSING_SECONDS)
            until = now + RONDO_CLOSING_SECONDS;
        closes = closing;
        if (now >= until) {
            found = closing ? 0 : find_fault(ep, &f, seconds, peer, even_if_revoked);
            if (!found)
                found = RONDO_ETIMEDOUT;
            break;
        }
        if (now - begun > LONG_SECONDS && is_idle(ep->world))
            nap(now - begun);
        else
            rondo__mpi_pause(ep->world, &turn);
    }
    rondo__mpi_wait_for(NULL, -1);
    if (found < 0)
        return found;
    give_flights(ep, *flights);
    *flights = NULL;
    return 0;
}

int rondo__mpi_parts_test(struct rondo_endpoint *ep, struct rondo_flight **flights, int *peer)
{
    struct rondo_flight *f = *flights;
    int found = look(ep, &f, peer, false);
    rondo__mpi_wait_for(NULL, -1);
    if (found == 1) {
        give_flights(ep, *flights);
        *flights = NULL;
    }
    return found;
}

int rondo__mpi_gather(struct rondo_endpoint *ep, const void *mine, void *all, size_t bytes, double seconds, bool even_if_revoked,
                      int *peer)
{
    memcpy((char *)all + (size_t)ep->rank * bytes, mine, bytes);
    int err = 0;
    bool closes = false;
    double until = rondo__mpi_host->now() + seconds;
    for (int d = 1; d < ep->ranks && !err; d++) {
        int from = (ep->rank + ep->ranks - d) % ep->ranks, to = (ep->rank + d) % ep->ranks;
        struct rondo_part parts[2] = { { .memory = (char *)all + (size_t)from * bytes, .bytes = bytes, .peer = from, .receives = 1 },
                                       { .memory = (char *)all + (size_t)ep->rank * bytes, .bytes = bytes, .peer = to } };
        struct rondo_flight *f;
        *peer = from;
        err = rondo__mpi_parts_start(ep, &f, parts, 2, even_if_revoked);
        double left = until - rondo__mpi_host->now();
        if (even_if_revoked && ep->world->late && !closes && left > RONDO_CLOSING_SECONDS) {
            until -= left - RONDO_CLOSING_SECONDS;
            left = RONDO_CLOSING_SECONDS;
            closes = true;
        }
        if (!err)
            err = rondo__mpi_parts_finish(ep, &f, left > 0.0 ? left : 0.0, peer, even_if_revoked);
    }
    return err;
}

/* ---- after a failure ---- */

/* One look at every flight; the number of receives and sends that may still touch memory. */
static void look_round(struct rondo_endpoint *ep, int *receiving, int *sending)
{
    *receiving = *sending = 0;
    for (struct rondo_flight *f = ep->flights.next; f != &ep->flights; f = f->next)
        for (int i = 0; i < f->count; i++) {
            struct rondo_piece_in_flight *p = &f->piece[i];
            int complete = 1;
            if (p->request == MPI_REQUEST_NULL)
                continue;
            if (MPI_Test(&p->request, &complete, MPI_STATUS_IGNORE) != MPI_SUCCESS)
                p->request = MPI_REQUEST_NULL;   /* failed: nothing will come of it */
            else if (!complete && p->receives)
                ++*receiving;
            else if (!complete && !ep->peer[p->peer].quiet && !(ep->world->late && ep->peer[p->peer].world_rank == ep->world->fault))
                ++*sending;
        }
}

void rondo__mpi_quiesce(struct rondo_endpoint *ep, double seconds)
{
    for (struct rondo_flight *f = ep->flights.next; f != &ep->flights; f = f->next)
        for (int i = 0; i < f->count; i++)
            if (f->piece[i].receives && f->piece[i].request != MPI_REQUEST_NULL)
                MPI_Cancel(&f->piece[i].request);
    /* A receive ends: cancelled, or complete where its sender was already sending. */
    double begin = rondo__mpi_host->now();
    unsigned turn = 0;
    const double grace = ep->world->late ? RONDO_CLOSING_SECONDS : GRACE_SECONDS;
    for (;;) {
        int receiving, sending;
        look_round(ep, &receiving, &sending);
        if (!receiving)
            rondo__mpi_say_quiet(ep);
        double waited = rondo__mpi_host->now() - begin;
        if (waited >= seconds || (!receiving && (!sending || waited >= grace)))
            break;
        rondo__mpi_listen();
        rondo__mpi_pause(ep->world, &turn);
    }
    while (ep->flights.next != &ep->flights) {
        struct rondo_flight *f = ep->flights.next;
        for (int i = 0; i < f->count; i++)
            if (f->piece[i].request != MPI_REQUEST_NULL)
                MPI_Request_free(&f->piece[i].request);
        f->more = NULL;   /* a block by itself: each is in the ring */
        give_flights(ep, f);
    }
}
