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

#include "core/transport.h"

#define RONDO_NOTICE_TAG 0       /* of notices, all groups'; groups have 1, 2, ... */
#define RONDO_SENTENCE_BYTES 256

/* What a revoking rank sends to the others, and what each rank says when it will receive nothing any more after that. */
enum rondo_notice_kind { RONDO_NOTICE_REVOKED = 1, RONDO_NOTICE_QUIET = 2 };
struct rondo_notice {
    int32_t kind, tag, rank, code;   /* tag: the group; rank: as numbered in the world; code: why */
    char sentence[RONDO_SENTENCE_BYTES];
};

/* A notice about a group that this process has not made yet. */
struct rondo_early {
    struct rondo_early *next;
    struct rondo_notice notice;
};

struct rondo_world {
    MPI_Comm comm;
    int rank, ranks, ranks_here, cores;
    int tag_limit, next_tag, references;
    size_t piece;                /* largest single message in bytes */
    bool crowded;                /* more ranks on this machine than cores: waits must let others run */
    bool joining;                /* MPI may still write comm */
    bool broken;                 /* some group was revoked: nothing collective from here on */
    unsigned char *here;         /* [ranks]: 1 where on this machine */
    struct rondo_endpoint *endpoints;
    struct rondo_early *early;
    struct rondo_notice incoming;
    MPI_Request listening;
};

/* One shift in flight: pieces received, then pieces sent. */
struct rondo_flight {
    struct rondo_flight *next, *previous;
    MPI_Request *requests, few[4];
    int receives, count, done;   /* the first `done` requests are complete */
    size_t recv_bytes;
    int from, to;                /* as numbered in the group */
};

struct rondo_endpoint {
    struct rondo_world *world;
    struct rondo_endpoint *parent, *next;   /* next: in the world's list */
    int32_t rank, ranks, tag;
    int32_t *world_rank;         /* [ranks] */
    double seconds;              /* the longest wait inside split and leave */
    bool revoked;
    bool quiet;                  /* after that: it has said that it will receive nothing any more */
    unsigned char *quiet_ranks;  /* [ranks]: 1: that rank has said so */
    struct rondo_notice notice, quiet_notice;   /* why; and what is sent about being quiet */
    MPI_Request *telling;        /* [2*ranks]: notices on their way; MPI_REQUEST_NULL otherwise */
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
void rondo__mpi_all_here(void);                                 /* nobody is lost, whatever timed out before */
void rondo__mpi_listen(struct rondo_world *w);                  /* takes in notices; also lets MPI progress */
void rondo__mpi_revoke(struct rondo_endpoint *ep, int code, const char *sentence);
void rondo__mpi_say_quiet(struct rondo_endpoint *ep);
struct rondo_endpoint *rondo__mpi_revoked(struct rondo_endpoint *ep);   /* it or the parent that was; NULL: none */
void rondo__mpi_pause(const struct rondo_world *w, unsigned *turn);     /* between two looks */

/* ---- shift.c; even_if_revoked: for the one exchange that must work after failures, launch's ---- */
int rondo__mpi_shift_start(struct rondo_endpoint *ep, struct rondo_flight **out, int distance, const void *send, size_t send_bytes,
                           void *recv, size_t recv_bytes, bool even_if_revoked);
int rondo__mpi_shift_finish(struct rondo_endpoint *ep, struct rondo_flight *f, double seconds, int *peer, bool even_if_revoked);
int rondo__mpi_gather(struct rondo_endpoint *ep, const void *mine, void *all, size_t bytes, double seconds, bool even_if_revoked);
void rondo__mpi_quiesce(struct rondo_endpoint *ep, double seconds);

#endif
