/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Notices of the MPI transport: what ranks say to each other besides their messages. Called by world.c, parts.c and module.c.
 *
 * MPI has no portable way to interrupt a peer's wait, so every world keeps one receive posted for notices (tag 0, any source), and
 * all waits look at it. Whoever fails sends a notice to all others of its group; a group is known by its tag. A group counts as
 * revoked when one of its parents is. A rank that has cancelled its receives says so with a second notice: from then on no send
 * to it can be matched, and the sender may have its memory back.
 *
 * Who leaves a group in peace says how many messages it sent and took there, so that a wait for one more ends at once. The last
 * notice of a rank on a communicator says that it is the last: when all have said theirs, nothing can come any more that MPI would
 * hand to the next communicator of that number.
 *
 * A wait that runs out asks whom it waited for what that one waits for, and so on along the chain: the rank at fault is the one
 * that does not answer, or that waits for nobody.
 */
#include "backends/mpi/world.h"

#include <stdio.h>
#include <string.h>

/* ---- taking in ---- */

static void take_notice(struct rondo_endpoint *ep, const struct rondo_notice *notice)
{
    const struct rondo_head *head = &notice->head;
    for (int i = 0; i < ep->ranks; i++) {
        struct rondo_peer *p = &ep->peer[i];
        if (p->world_rank != head->rank)
            continue;
        if (head->kind == RONDO_NOTICE_QUIET)
            p->quiet = true;
        if (head->kind == RONDO_NOTICE_LEFT) {
            p->left = true;
            p->its_sent = head->sent;
            p->its_taken = head->taken;
        }
    }
    if (head->kind != RONDO_NOTICE_REVOKED || ep->revoked)
        return;
    ep->notice = *notice;
    ep->notice.sentence[RONDO_SENTENCE_BYTES - 1] = 0;
    ep->revoked = true;
    ep->world->broken = true;
    if (head->code == RONDO_ETIMEDOUT) {
        ep->world->late = true;
        ep->world->fault = head->about;
        rondo__mpi_lost_one();
    }
}

static void post(struct rondo_world *w, struct rondo_letter *letter, const struct rondo_head *head, int world_rank)
{
    int complete = 1;
    if (letter->request != MPI_REQUEST_NULL &&
        (MPI_Test(&letter->request, &complete, MPI_STATUS_IGNORE) != MPI_SUCCESS || !complete))
        return;   /* the one before is still on its way: that rank takes nothing in */
    letter->head = *head;
    if (MPI_Isend(&letter->head, (int)sizeof letter->head, MPI_BYTE, world_rank, RONDO_NOTICE_TAG, w->comm, &letter->request) !=
        MPI_SUCCESS)
        letter->request = MPI_REQUEST_NULL;
}

static const struct rondo_world *waits_in;
static int waits_for;

void rondo__mpi_wait_for(const struct rondo_world *w, int world_rank)
{
    waits_in = w;
    waits_for = world_rank;
}

/* Whom this rank waits for, in whatever world, as numbered in w; -1: nobody, or nobody of w. */
static int waits_for_in(const struct rondo_world *w)
{
    MPI_Group theirs, ours;
    int rank = MPI_UNDEFINED;
    if (!waits_in || waits_in == w)
        return waits_in ? waits_for : -1;
    if (MPI_Comm_group(waits_in->comm, &theirs) != MPI_SUCCESS)
        return -1;
    if (MPI_Comm_group(w->comm, &ours) == MPI_SUCCESS) {
        if (MPI_Group_translate_ranks(theirs, 1, &waits_for, ours, &rank) != MPI_SUCCESS)
            rank = MPI_UNDEFINED;
        MPI_Group_free(&ours);
    }
    MPI_Group_free(&theirs);
    return rank == MPI_UNDEFINED ? -1 : rank;
}

static void talk(struct rondo_world *w, const struct rondo_head *head)
{
    if (head->rank < 0 || head->rank >= w->ranks)
        return;
    struct rondo_talk *t = &w->talk[head->rank];
    if (head->kind == RONDO_NOTICE_ASK) {
        struct rondo_head answer = { .kind = RONDO_NOTICE_ANSWER, .rank = w->rank, .about = waits_for_in(w) };
        post(w, &t->answer, &answer, head->rank);
    } else {
        t->waits_for = head->about;
        t->answered = true;
    }
}

int rondo__mpi_listen_again(struct rondo_line *line)
{
    int rc = MPI_Irecv(&line->incoming, (int)sizeof line->incoming, MPI_BYTE, MPI_ANY_SOURCE, RONDO_NOTICE_TAG, line->comm,
                       &line->listening);
    if (rc != MPI_SUCCESS)
        line->listening = MPI_REQUEST_NULL;
    return rc;
}

/* true: a notice has come */
static bool incoming(struct rondo_line *line)
{
    int complete = 0;
    if (line->listening == MPI_REQUEST_NULL || MPI_Test(&line->listening, &complete, MPI_STATUS_IGNORE) != MPI_SUCCESS || !complete)
        return false;
    line->gone += line->incoming.head.last;
    return true;
}

static struct rondo_world *worlds;

void rondo__mpi_enter(struct rondo_world *w)
{
    w->next = worlds;
    worlds = w;
}

void rondo__mpi_remove(struct rondo_world *w)
{
    for (struct rondo_world **p = &worlds; *p; p = &(*p)->next)
        if (*p == w) {
            *p = w->next;
            return;
        }
}

static void listen_to(struct rondo_world *w)
{
    while (incoming(w->line)) {
        const struct rondo_notice *notice = &w->line->incoming;
        const int32_t tag = notice->head.tag;
        bool known = tag == RONDO_NOTICE_TAG;
        if (notice->head.kind == RONDO_NOTICE_ASK || notice->head.kind == RONDO_NOTICE_ANSWER)
            talk(w, &notice->head);
        for (struct rondo_endpoint *ep = w->endpoints; ep; ep = ep->next)
            if (ep->tag == tag) {
                take_notice(ep, notice);
                known = true;
            }
        /* A group that others have made already; where there is no memory to remember it, its deadline will do. */
        struct rondo_early *e = known || tag < w->next_tag ? NULL : rondo__mpi_host->alloc_zero(1, sizeof *e);
        if (e) {
            e->notice = *notice;
            e->next = w->early;
            w->early = e;
        }
        rondo__mpi_listen_again(w->line);
    }
}

/* Of all of them: whoever waits in one may be asked in another. */
void rondo__mpi_listen(void)
{
    for (struct rondo_world *w = worlds; w; w = w->next)
        listen_to(w);
}

bool rondo__mpi_listen_after(struct rondo_line *line)
{
    while (incoming(line)) {
        /* A failure that this rank had left before: the others will not say their last words. */
        if (line->incoming.head.kind == RONDO_NOTICE_REVOKED)
            line->gone = -line->ranks;
        rondo__mpi_listen_again(line);
    }
    return line->gone >= line->ranks - 1;
}

void rondo__mpi_remember(struct rondo_endpoint *ep)
{
    for (struct rondo_early **p = &ep->world->early; *p;) {
        struct rondo_early *e = *p;
        if (e->notice.head.tag != ep->tag) {
            p = &e->next;
            continue;
        }
        take_notice(ep, &e->notice);
        *p = e->next;
        rondo__mpi_host->free(e);
    }
}

struct rondo_endpoint *rondo__mpi_revoked(struct rondo_endpoint *ep)
{
    while (ep && !ep->revoked)
        ep = ep->parent;
    return ep;
}

/* ---- saying ---- */

void rondo__mpi_revoke(struct rondo_endpoint *ep, int code, const char *sentence)
{
    struct rondo_world *w = ep->world;
    struct rondo_notice notice;
    if (ep->revoked)
        return;
    memset(&notice, 0, sizeof notice);
    notice.head.kind = RONDO_NOTICE_REVOKED;
    notice.head.tag = ep->tag;
    notice.head.rank = w->rank;
    notice.head.code = code;
    notice.head.about = w->fault;
    snprintf(notice.sentence, sizeof notice.sentence, "%s", sentence);
    take_notice(ep, &notice);
    for (int i = 0; i < ep->ranks; i++)
        if (i != ep->rank && MPI_Isend(&ep->notice, (int)sizeof ep->notice, MPI_BYTE, ep->peer[i].world_rank, RONDO_NOTICE_TAG, w->comm,
                                       &ep->peer[i].revoked_request) != MPI_SUCCESS)
            ep->peer[i].revoked_request = MPI_REQUEST_NULL;
}

void rondo__mpi_say_quiet(struct rondo_endpoint *ep)
{
    if (ep->quiet || !rondo__mpi_revoked(ep))
        return;
    ep->quiet = true;
    ep->quiet_notice.kind = RONDO_NOTICE_QUIET;
    ep->quiet_notice.tag = ep->tag;
    ep->quiet_notice.rank = ep->world->rank;
    for (int i = 0; i < ep->ranks; i++)
        if (i != ep->rank && MPI_Isend(&ep->quiet_notice, (int)sizeof ep->quiet_notice, MPI_BYTE, ep->peer[i].world_rank,
                                       RONDO_NOTICE_TAG, ep->world->comm, &ep->peer[i].quiet_request) != MPI_SUCCESS)
            ep->peer[i].quiet_request = MPI_REQUEST_NULL;
}

void rondo__mpi_say_left(struct rondo_endpoint *ep, bool last)
{
    for (int i = 0; i < ep->ranks; i++) {
        struct rondo_peer *p = &ep->peer[i];
        struct rondo_head head = { .kind = RONDO_NOTICE_LEFT, .tag = ep->tag, .rank = ep->world->rank, .about = -1, .last = last,
                                   .sent = p->sent, .taken = p->taken };
        if (i != ep->rank)
            post(ep->world, &p->farewell, &head, p->world_rank);
    }
}

void rondo__mpi_say_last(struct rondo_world *w)
{
    struct rondo_head head = { .kind = RONDO_NOTICE_LEFT, .tag = RONDO_NOTICE_TAG, .rank = w->rank, .about = -1, .last = 1 };
    for (int i = 0; i < w->ranks; i++)
        if (i != w->rank)
            post(w, &w->talk[i].ask, &head, i);
}

void rondo__mpi_ask(struct rondo_world *w, int world_rank)
{
    struct rondo_head head = { .kind = RONDO_NOTICE_ASK, .rank = w->rank, .about = -1 };
    w->talk[world_rank].answered = false;
    post(w, &w->talk[world_rank].ask, &head, world_rank);
}

int rondo__mpi_silent(MPI_Comm comm, double seconds)
{
    int alike = MPI_UNEQUAL, silent = -1;
    struct rondo_world *w = worlds;
    for (; w; w = w->next)
        if (!w->broken && MPI_Comm_compare(comm, w->comm, &alike) == MPI_SUCCESS && alike == MPI_CONGRUENT)
            break;
    if (!w)
        return -1;
    for (int i = 0; i < w->ranks; i++)
        if (i != w->rank)
            rondo__mpi_ask(w, i);
    unsigned turn = 0;
    double until = rondo__mpi_host->now() + seconds;
    do {
        rondo__mpi_listen();
        rondo__mpi_pause(w, &turn);
        silent = -1;
        for (int i = 0; i < w->ranks && silent < 0; i++)
            if (i != w->rank && !w->talk[i].answered)
                silent = i;
    } while (silent >= 0 && rondo__mpi_host->now() < until);
    if (silent >= 0)
        w->fault = silent;
    return silent;
}

static bool is_over(MPI_Request *request)
{
    int done = 1;
    return *request == MPI_REQUEST_NULL || MPI_Test(request, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS || done;
}

bool rondo__mpi_told_all(struct rondo_endpoint *ep, bool but_fault)
{
    bool all = true;
    for (int i = 0; i < ep->ranks; i++) {
        struct rondo_peer *p = &ep->peer[i];
        if (but_fault && ep->world->late && p->world_rank == ep->world->fault)
            continue;
        bool told = is_over(&p->revoked_request);
        told &= is_over(&p->quiet_request);
        told &= is_over(&p->farewell.request);
        all &= told;
    }
    return all;
}

bool rondo__mpi_heard_all(const struct rondo_endpoint *ep)
{
    for (int i = 0; i < ep->ranks; i++)
        if (i != ep->rank && !ep->peer[i].quiet)
            return false;
    return true;
}
