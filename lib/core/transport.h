/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The transport table: what moves bytes between ranks. It knows nothing of attention and never adds numbers. lib/core/comm.c
 * builds collectives, agreement, deadlines' sentences and statistics on it, once, for all transports.
 *
 * An endpoint belongs to one rank and is used from that rank's thread only.
 */
#ifndef RONDO_CORE_TRANSPORT_H
#define RONDO_CORE_TRANSPORT_H

#include "rondo.h"

#define RONDO_TRANSPORT_ABI 2u

struct rondo_endpoint;   /* the transport's own */

/* What launch() hands to each rank and join() takes. `handle` is the transport's own business. */
struct rondo_boot {
    int32_t rank, ranks;
    int32_t ranks_here;        /* ranks on this machine, this one included: cores are shared out among them */
    int32_t reserved;
    const void *handle;        /* threads: the group; mpi: MPI_Comm *, NULL = MPI_COMM_WORLD */
    double seconds;            /* the longest wait inside join, split and leave */
};

/* Functions that return RONDO_EPEER or RONDO_ETIMEDOUT leave the sentence to comm.c (join excepted); with other codes they record
 * one. *peer, where there is one, gets the rank at fault, -1 if unknown: not simply the one next in line, who may itself be waiting
 * for somebody, but the one who waits for nobody and does not come. */

/* One shift in flight. Lives in the caller's frame or workspace until finish() returned. */
struct rondo_request {
    void *recv;                /* where the bytes go, or may go */
    size_t send_bytes, recv_bytes;
    const void *where;         /* after finish: where the received bytes can be read: recv, or the sender's own memory */
    int32_t to, from;          /* ranks */
    int32_t state;             /* transport's own, as all below */
    int32_t tag;
    const void *send;
    uint64_t word[4];
};

struct rondo_transport_ops {
    size_t size;
    uint32_t abi;
    const char *name;

    int (*probe)(void);        /* 1: usable here; silent */
    /* Starts `ranks` ranks (0: as many as there are) and calls body(arg, boot) once on each; returns the first failing
     * rank's code, with its sentence as the calling thread's. seconds: as in boot. */
    int (*launch)(int ranks, double seconds, int (*body)(void *arg, const struct rondo_boot *boot), void *arg);
    int (*join)(struct rondo_endpoint **out, const struct rondo_boot *boot);   /* collective */
    void (*leave)(struct rondo_endpoint *ep);                                  /* collective, but must not hang on a revoked one */
    int (*rank)(const struct rondo_endpoint *ep);
    int (*ranks)(const struct rondo_endpoint *ep);
    int (*ranks_here)(const struct rondo_endpoint *ep);
    /* As MPI_Comm_split; color < 0: *out = NULL. A child is revoked with its parent. */
    int (*split)(struct rondo_endpoint *ep, int color, int key, struct rondo_endpoint **out, int *peer);

    /* Starts sending send_bytes to rank (rank + distance) mod N and receiving recv_bytes from (rank - distance) mod N; either
     * may be 0 bytes: then nothing moves on that side. distance 1..N-1. Requests of one endpoint match between two ranks in the
     * order they were started. `send` may be read by the receiver in place until the next fence(): it must not change or go
     * before. recv must have room for recv_bytes even where the transport then shows the sender's memory instead; with in_place
     * never for more than `eager` bytes. */
    int (*shift)(struct rondo_endpoint *ep, int distance, const void *send, size_t send_bytes, void *recv, size_t recv_bytes,
                 struct rondo_request *request);
    /* Waits for it at most `seconds`; sets request->where. RONDO_EPEER where the communicator was revoked, RONDO_ETIMEDOUT where time ran
     * out, or where the peer has left and what is waited for will never come. */
    int (*finish)(struct rondo_endpoint *ep, struct rondo_request *request, double seconds, int *peer);
    /* Lets transfers progress; returns RONDO_EPEER once revoked. Never waits for another rank to come here; between two calls of
     * computing() it may make room for others to compute. May be NULL. */
    int (*progress)(struct rondo_endpoint *ep);
    /* Every rank has passed all its reads of what others showed it. Collective. NULL: not needed (nothing is read in place). */
    int (*fence)(struct rondo_endpoint *ep, double seconds, int *peer);
    /* Makes every rank's waits return RONDO_EPEER; `sentence` (cut to 255 bytes) becomes their text. Callable many times. */
    void (*revoke)(struct rondo_endpoint *ep, int code, const char *sentence);
    /* Who revoked it: 1 and fills the three, or 0. *rank is -1 where a parent was revoked by a rank outside this group. */
    int (*revoked)(struct rondo_endpoint *ep, int *rank, int *code, const char **sentence);
    /* After a failure, on a revoked endpoint: this rank no longer reads what others showed it and gives up its shifts in
     * flight. Returns once no other rank reads what this one showed, or after `seconds`: then its memory may go. Silent. */
    void (*quiesce)(struct rondo_endpoint *ep, double seconds);
    size_t eager;              /* messages up to this size are copied by shift(): they need no fence() */
    /* Cores that this rank may use for itself, at least 1. NULL: the process's cores divided by ranks_here. */
    int (*cores)(const struct rondo_endpoint *ep);
    /* 1: what is larger than `eager` is always shown in the sender's memory and never copied, so that taking it costs nothing. */
    int32_t in_place, reserved;
    /* The rank begins to compute with so many threads, calling progress() now and then; 0: it has ended. NULL: nobody cares. */
    void (*computing)(struct rondo_endpoint *ep, int threads);
    /* What it stands on, and of which version, in one line; may be asked before anything else. NULL: nothing but the C library. */
    const char *(*library)(void);
};

/* What a loadable module (rondo_<name>.so in $(pkglibdir)) exports, as `rondo_module_entry`. A module is not linked with librondo:
 * it gets what it needs of it in a table, so that it also serves programs that hold librondo as a static library. */
struct rondo_services {
    size_t size;
    int (*fail)(int code, const char *sentence);   /* as rondo__fail() */
    const char *(*text)(void);                     /* rondo_error_text() */
    void *(*alloc_zero)(size_t count, size_t size);
    void (*free)(void *memory);
    double (*now)(void);
    int (*cores)(void);
    int (*env_piece)(size_t *bytes);
};
struct rondo_device_ops;
struct rondo_module {
    uint32_t abi;                                  /* RONDO_MODULE_ABI */
    const char *version;                           /* RONDO_VERSION_STRING it was built with; must be equal */
    const struct rondo_device_ops *device;         /* or NULL */
    const struct rondo_transport_ops *transport;   /* or NULL */
    void (*connect)(const struct rondo_services *services);   /* called first, perhaps often; the table stays valid */
};
#define RONDO_MODULE_ABI 1u

#endif
