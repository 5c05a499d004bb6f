/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Messages of the MPI transport: nonblocking, in pieces where MPI's int would overflow, polled until a deadline. Called by
 * module.c. Requests of one group match in the order in which they were started, because MPI keeps that order between two
 * processes for one tag.
 */
#include <string.h>

#include "backends/mpi/world.h"

/* How long sends may go on after a failure where the peer does not say that it will receive nothing more, because it is
 * computing, or dead. What it had matched completes meanwhile. After a wait that ran out it is RONDO_CLOSING_SECONDS, and nothing
 * for sends to the rank at fault. */
#define GRACE_SECONDS 2.0

/* ---- flights ---- */

static void unlink_flight(struct rondo_flight *f)
{
    f->previous->next = f->next;
    f->next->previous = f->previous;
}

static struct rondo_flight *take_flight(struct rondo_endpoint *ep, int count)
{
    struct rondo_flight *f = ep->spare;
    if (f) {
        ep->spare = f->next;
    } else {
        f = rondo__mpi_host->alloc_zero(1, sizeof *f);
        if (!f)
            return NULL;
    }
    f->requests = f->few;
    if (count > (int)(sizeof f->few / sizeof f->few[0])) {
        f->requests = rondo__mpi_host->alloc_zero((size_t)count, sizeof *f->requests);
        if (!f->requests) {
            f->next = ep->spare;
            ep->spare = f;
            return NULL;
        }
    }
    for (int i = 0; i < count; i++)
        f->requests[i] = MPI_REQUEST_NULL;
    f->receives = f->count = f->done = 0;
    f->previous = &ep->flights;
    f->next = ep->flights.next;
    f->next->previous = f->previous->next = f;
    return f;
}

static void give_flight(struct rondo_endpoint *ep, struct rondo_flight *f)
{
    unlink_flight(f);
    if (f->requests != f->few)
        rondo__mpi_host->free(f->requests);
    f->next = ep->spare;
    ep->spare = f;
}

static size_t piece_bytes(const struct rondo_world *w, size_t bytes, int index)
{
    size_t left = bytes - (size_t)index * w->piece;
    return left < w->piece ? left : w->piece;
}

static int pieces_of(const struct rondo_world *w, size_t bytes)
{
    return (int)(bytes / w->piece + (bytes % w->piece != 0));
}

int rondo__mpi_shift_start(struct rondo_endpoint *ep, struct rondo_flight **out, int distance, const void *send, size_t send_bytes,
                           void *recv, size_t recv_bytes, bool even_if_revoked)
{
    struct rondo_world *w = ep->world;
    *out = NULL;
    if (!even_if_revoked && rondo__mpi_revoked(ep))
        return RONDO_EPEER;
    if (send_bytes / w->piece > INT32_MAX / 4 || recv_bytes / w->piece > INT32_MAX / 4)
        return rondo__mpi_fail(RONDO_EINVAL, "a message of %zu bytes has too many pieces", send_bytes > recv_bytes ? send_bytes : recv_bytes);
    int receives = pieces_of(w, recv_bytes), sends = pieces_of(w, send_bytes);
    struct rondo_flight *f = take_flight(ep, receives + sends);
    if (!f)
        return rondo__mpi_fail(RONDO_ENOMEM, "no memory for a message of %d pieces", receives + sends);
    f->to = (ep->rank + distance) % ep->ranks;
    f->from = (ep->rank + ep->ranks - distance) % ep->ranks;
    f->recv_bytes = recv_bytes;
    struct rondo_peer *from = &ep->peer[f->from], *to = &ep->peer[f->to];
    f->recv_last = from->taken += receives;
    f->send_last = to->sent += sends;
    /* Both in place: what has been posted when a call fails is cancelled with everything else in quiesce(). */
    *out = f;
    for (int i = 0; i < receives; i++) {
        int rc = MPI_Irecv((char *)recv + (size_t)i * w->piece, (int)piece_bytes(w, recv_bytes, i), MPI_BYTE, from->world_rank,
                           ep->tag, w->comm, &f->requests[i]);
        if (rc != MPI_SUCCESS)
            return rondo__mpi_error(rc, "MPI_Irecv");
        f->receives = f->count = i + 1;
    }
    for (int i = 0; i < sends; i++) {
        int rc = MPI_Isend((const char *)send + (size_t)i * w->piece, (int)piece_bytes(w, send_bytes, i), MPI_BYTE, to->world_rank,
                           ep->tag, w->comm, &f->requests[receives + i]);
        if (rc != MPI_SUCCESS)
            return rondo__mpi_error(rc, "MPI_Isend");
        f->count = receives + i + 1;
    }
    return 0;
}

/* 1: complete, 0: not yet, or a code. */
static int test_flight(struct rondo_endpoint *ep, struct rondo_flight *f)
{
    for (; f->done < f->count; f->done++) {
        MPI_Status status;
        int complete = 0, got = 0;
        int rc = MPI_Test(&f->requests[f->done], &complete, &status);
        if (rc != MPI_SUCCESS) {
            int class = 0;
            MPI_Error_class(rc, &class);
            if (class == MPI_ERR_TRUNCATE)
                return rondo__mpi_fail(RONDO_EMISMATCH, "rank %d sent more than the %zu bytes that rank %d expects", f->from, f->recv_bytes,
                                       ep->rank);
            return rondo__mpi_error(rc, f->done < f->receives ? "receiving" : "sending");
        }
        if (!complete)
            return 0;
        if (f->done >= f->receives)
            continue;
        rc = MPI_Get_count(&status, MPI_BYTE, &got);
        size_t want = piece_bytes(ep->world, f->recv_bytes, f->done);
        if (rc != MPI_SUCCESS || got < 0 || (size_t)got != want)
            return rondo__mpi_fail(RONDO_EMISMATCH, "rank %d sent %d bytes where rank %d expects %zu", f->from, got, ep->rank, want);
    }
    return 1;
}

/* The other rank has left, and the message never comes, or is never taken. */
static bool in_vain(const struct rondo_endpoint *ep, const struct rondo_flight *f)
{
    const struct rondo_peer *p = &ep->peer[f->done < f->receives ? f->from : f->to];
    return p->left && (f->done < f->receives ? f->recv_last > p->its_sent : f->send_last > p->its_taken);
}

/* 1: complete, 0: not yet, or a code. */
static int look(struct rondo_endpoint *ep, struct rondo_flight *f, int *peer, bool even_if_revoked)
{
    *peer = f->done < f->receives ? f->from : f->to;
    rondo__mpi_wait_for(ep->world, ep->peer[*peer].world_rank);
    if (!even_if_revoked && rondo__mpi_revoked(ep))
        return RONDO_EPEER;
    int complete = test_flight(ep, f);
    if (complete)
        return complete;
    rondo__mpi_listen();
    *peer = f->done < f->receives ? f->from : f->to;
    return in_vain(ep, f) ? RONDO_EPEER : 0;
}

/* Time ran out: who along the chain of those that wait for each other does not answer, or waits for nobody? Returns as look(); with
 * 0 *peer has that rank. */
static int find_fault(struct rondo_endpoint *ep, struct rondo_flight *f, double seconds, int *peer, bool even_if_revoked)
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

int rondo__mpi_shift_finish(struct rondo_endpoint *ep, struct rondo_flight *f, double seconds, int *peer, bool even_if_revoked)
{
    unsigned turn = 0;
    double until = 0.0;
    bool closes = false;
    int found;
    while (!(found = look(ep, f, peer, even_if_revoked))) {
        double now = rondo__mpi_host->now();
        if (until == 0.0)
            until = now + seconds;
        bool closing = even_if_revoked && ep->world->late;
        if (closing && !closes && until > now + RONDO_CLOSING_SECONDS)
            until = now + RONDO_CLOSING_SECONDS;
        closes = closing;
        if (now >= until) {
            found = closing ? 0 : find_fault(ep, f, seconds, peer, even_if_revoked);
            if (!found)
                found = RONDO_ETIMEDOUT;
            break;
        }
        rondo__mpi_pause(ep->world, &turn);
    }
    rondo__mpi_wait_for(NULL, -1);
    if (found < 0)
        return found;
    give_flight(ep, f);
    return 0;
}

int rondo__mpi_gather(struct rondo_endpoint *ep, const void *mine, void *all, size_t bytes, double seconds, bool even_if_revoked,
                      int *peer)
{
    memcpy((char *)all + (size_t)ep->rank * bytes, mine, bytes);
    int err = 0;
    bool closes = false;
    double until = rondo__mpi_host->now() + seconds;
    for (int d = 1; d < ep->ranks && !err; d++) {
        int from = (ep->rank + ep->ranks - d) % ep->ranks;
        struct rondo_flight *f;
        *peer = from;
        err = rondo__mpi_shift_start(ep, &f, d, mine, bytes, (char *)all + (size_t)from * bytes, bytes, even_if_revoked);
        double left = until - rondo__mpi_host->now();
        if (even_if_revoked && ep->world->late && !closes && left > RONDO_CLOSING_SECONDS) {
            until -= left - RONDO_CLOSING_SECONDS;
            left = RONDO_CLOSING_SECONDS;
            closes = true;
        }
        if (!err)
            err = rondo__mpi_shift_finish(ep, f, left > 0.0 ? left : 0.0, peer, even_if_revoked);
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
            int complete = 1;
            if (f->requests[i] == MPI_REQUEST_NULL)
                continue;
            if (MPI_Test(&f->requests[i], &complete, MPI_STATUS_IGNORE) != MPI_SUCCESS)
                f->requests[i] = MPI_REQUEST_NULL;   /* failed: nothing will come of it */
            else if (!complete && i < f->receives)
                ++*receiving;
            else if (!complete && !ep->peer[f->to].quiet && !(ep->world->late && ep->peer[f->to].world_rank == ep->world->fault))
                ++*sending;
        }
}

void rondo__mpi_quiesce(struct rondo_endpoint *ep, double seconds)
{
    for (struct rondo_flight *f = ep->flights.next; f != &ep->flights; f = f->next)
        for (int i = 0; i < f->receives; i++)
            if (f->requests[i] != MPI_REQUEST_NULL)
                MPI_Cancel(&f->requests[i]);
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
            if (f->requests[i] != MPI_REQUEST_NULL)
                MPI_Request_free(&f->requests[i]);
        give_flight(ep, f);
    }
}
