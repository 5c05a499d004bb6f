/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the files of the MPI module share. A world is one duplicated communicator; endpoints are the group that joined it and
 * all groups split from it, told apart by their tag. Included by the files of backends/mpi only.
 */
#ifndef RONDO_MPI_WORLD_H
#define RONDO_MPI_WORLD_H

#include <mpi.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/device.h"
#include "core/transport.h"

#define RONDO_NOTICE_TAG 0       /* of notices, all groups'; groups have 1, 2, ... */
#define RONDO_SENTENCE_BYTES 256
/* After a wait has run out: the time that others have to answer whom they wait for, and that sends to them have to end. */
#define RONDO_ASK_SECONDS 0.5
#define RONDO_CLOSING_SECONDS 0.5

/* What ranks say to each other besides their messages. */
enum rondo_notice_kind {
    RONDO_NOTICE_REVOKED = 1,    /* the group is revoked: code and sentence say why, about: whom it waited for, or -1 */
    RONDO_NOTICE_QUIET,          /* after that: I will receive nothing any more */
    RONDO_NOTICE_LEFT,           /* I have left the group; so many messages I sent you in it, so many I took or would have taken */
    RONDO_NOTICE_ASK,            /* whom do you wait for? */
    RONDO_NOTICE_ANSWER          /* for rank `about`; -1: nobody */
};
struct rondo_head {
    int32_t kind, tag, rank, code;   /* tag: the group; rank: who says it; all ranks here as numbered in the world */
    int32_t about, last;             /* last: 1: nothing more will come from me on this communicator */
    int64_t sent, taken;
};
struct rondo_notice {
    struct rondo_head head;
    char sentence[RONDO_SENTENCE_BYTES];
};
/* A notice without a sentence, on its way to one rank. */
struct rondo_letter {
    struct rondo_head head;
    MPI_Request request;
};

/* A notice about a group that this process has not made yet. */
struct rondo_early {
    struct rondo_early *next;
    struct rondo_notice notice;
};

/* What may have to outlive a world, until the last notice of every other rank is in: only then is its communicator free for
 * others to get. In MPI's memory, because the context's is given back with the context. */
struct rondo_line {
    struct rondo_line *next;     /* of those whose world has ended */
    MPI_Comm comm;
    MPI_Request listening;
    int ranks, gone;             /* ranks that have said their last word */
    struct rondo_notice incoming;
};

/* What a rank of the world was asked and what it was answered. */
struct rondo_talk {
    struct rondo_letter ask, answer;
    int32_t waits_for;
    bool answered;
};

struct rondo_world {
    struct rondo_line *line;
    MPI_Comm comm;
    int rank, ranks, ranks_here, cores;
    int tag_limit, next_tag, references;
    size_t asked;                /* the largest message in bytes that the environment names here, or 0 */
    size_t piece, piece_apart;   /* that all have agreed on, for ranks on one machine and for others */
    bool crowded;                /* more ranks on this machine than cores: waits must let others run */
    bool joining;                /* MPI may still write comm */
    bool broken;                 /* some group was revoked: nothing collective from here on */
    bool late;                   /* because a wait ran out: nobody is waited for that long again */
    int32_t fault;               /* who was at fault for that, or -1 */
    unsigned char *here;         /* [ranks]: 1 where on this machine */
    struct rondo_talk *talk;     /* [ranks] */
    struct rondo_endpoint *endpoints;
    struct rondo_early *early;
    struct rondo_world *next;    /* of all that this process is in */
};

/* Messages in flight, in blocks of a few pieces: a group of parts takes as many blocks as it needs, first what it receives. Blocks are
 * all alike and used again, so that who does the same again allocates nothing. They are not in the caller's memory because that may
 * be gone, after a failure, before MPI has done with the requests. */
#define RONDO_PIECES 6
struct rondo_piece_in_flight {
    MPI_Request request;
    int32_t peer;                /* as numbered in the group */
    int32_t receives, bytes;
    int64_t number;              /* among all pieces between the two ranks in this direction, from 1 */
};
struct rondo_flight {
    struct rondo_flight *next, *previous;   /* in the endpoint's ring */
    struct rondo_flight *more;              /* the next block of the same group */
    int count, done;                        /* the first `done` pieces are complete */
    struct rondo_piece_in_flight piece[RONDO_PIECES];
};

/* Another rank of a group. */
struct rondo_peer {
    int32_t world_rank;
    bool quiet, left;            /* it has said so */
    int64_t sent, taken;         /* pieces that this rank sent to it, and receives that it started from it */
    int64_t its_sent, its_taken; /* once it has left: the same as it counted */
    MPI_Request revoked_request, quiet_request;
    struct rondo_letter farewell;
};

struct rondo_endpoint {
    struct rondo_world *world;
    struct rondo_endpoint *parent, *next;   /* next: in the world's list */
    int32_t rank, ranks, tag;
    double seconds;              /* the longest wait inside split and leave */
    const struct rondo_device_ops *device_ops;   /* whose memory messages may lie in; NULL: the host's only */
    struct rondo_device *device;
    bool revoked;
    bool quiet;                  /* after that: it has said that it will receive nothing any more */
    struct rondo_peer *peer;     /* [ranks] */
    struct rondo_notice notice;  /* why it is revoked */
    struct rondo_head quiet_notice;
    struct rondo_flight flights; /* head of a ring */
    struct rondo_flight *spare;
};

/* ---- module.c ---- */
extern const struct rondo_services *rondo__mpi_host;
int rondo__mpi_fail(int code, const char *format, ...) __attribute__((format(printf, 2, 3)));
int rondo__mpi_error(int mpi_code, const char *call);   /* the sentence is MPI's */

/* ---- world.c ---- */
const char *rondo__mpi_library(void);                           /* its version, one line */
bool rondo__mpi_same_library(void);                             /* the MPI that runs is the one compiled with */
int rondo__mpi_start(void);                                     /* MPI_Init_thread, where nobody has */
int rondo__mpi_world_new(struct rondo_endpoint **out, MPI_Comm comm, double seconds);
/* Another endpoint in the world of parent: world_rank is copied; the tag must be the same on all of its ranks. */
int rondo__mpi_endpoint_new(struct rondo_endpoint **out, struct rondo_endpoint *parent, int tag, int ranks, const int32_t *world_rank,
                            int rank);
void rondo__mpi_leave(struct rondo_endpoint *ep);
void rondo__mpi_lost_one(void);                                 /* MPI_Finalize might wait for ever */
void rondo__mpi_all_here(void);                                 /* nobody is lost, whatever timed out before */
void rondo__mpi_pause(const struct rondo_world *w, unsigned *turn);     /* between two looks */

/* ---- cards.c ---- */
int rondo__mpi_reaches(struct rondo_endpoint *ep, const struct rondo_device_ops *ops, struct rondo_device *dev, uint32_t *memories);
int rondo__mpi_use_card(const struct rondo_endpoint *ep);       /* before MPI may touch a card's memory on the calling thread */

/* ---- network.c ---- */
size_t rondo__mpi_eager_bytes(void);                            /* that go to other machines without asking, where asking is slow; else 0 */

/* ---- notice.c ---- */
int rondo__mpi_listen_again(struct rondo_line *line);
void rondo__mpi_enter(struct rondo_world *w);                   /* into the list of worlds whose notices are taken in */
void rondo__mpi_remove(struct rondo_world *w);
void rondo__mpi_listen(void);                                   /* takes in notices, of all worlds; also lets MPI progress */
bool rondo__mpi_listen_after(struct rondo_line *line);          /* the same when the world has ended; true: it was its last word */
void rondo__mpi_remember(struct rondo_endpoint *ep);            /* takes in what came about it before it was made */
void rondo__mpi_revoke(struct rondo_endpoint *ep, int code, const char *sentence);
void rondo__mpi_say_quiet(struct rondo_endpoint *ep);
void rondo__mpi_say_left(struct rondo_endpoint *ep, bool last);
void rondo__mpi_say_last(struct rondo_world *w);
struct rondo_endpoint *rondo__mpi_revoked(struct rondo_endpoint *ep);   /* it or the parent that was; NULL: none */
void rondo__mpi_wait_for(const struct rondo_world *w, int world_rank);   /* what is answered when asked; NULL: nobody */
void rondo__mpi_ask(struct rondo_world *w, int world_rank);
/* Of the ranks of comm one that does not answer within `seconds`, by its number there; -1 where all do, or where this process is in
 * no other world of the same ranks through which it could ask. */
int rondo__mpi_silent(MPI_Comm comm, double seconds);
/* false: some notice is still under way; but_fault: to others than the one who does not answer anyway */
bool rondo__mpi_told_all(struct rondo_endpoint *ep, bool but_fault);
bool rondo__mpi_heard_all(const struct rondo_endpoint *ep);

/* ---- parts.c; even_if_revoked: for the one exchange that must work after failures, launch's ---- */
/* *out: what is in flight, for finish; it is quiesce()'s after a failure. */
int rondo__mpi_parts_start(struct rondo_endpoint *ep, struct rondo_flight **out, const struct rondo_part *parts, int32_t count,
                           bool even_if_revoked);
/* Once a wait in this world has run out, waits that go on even so have RONDO_CLOSING_SECONDS. */
int rondo__mpi_parts_finish(struct rondo_endpoint *ep, struct rondo_flight **f, double seconds, int *peer, bool even_if_revoked);
/* 1: complete, 0: not yet, or a code. */
int rondo__mpi_parts_test(struct rondo_endpoint *ep, struct rondo_flight **f, int *peer);
/* seconds: for all of it */
int rondo__mpi_gather(struct rondo_endpoint *ep, const void *mine, void *all, size_t bytes, double seconds, bool even_if_revoked,
                      int *peer);
void rondo__mpi_quiesce(struct rondo_endpoint *ep, double seconds);

#endif
