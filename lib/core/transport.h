/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The transport table: what moves bytes between ranks. It knows nothing of attention and never adds numbers. lib/core/comm.c
 * builds collectives, agreement, deadlines' sentences and statistics on it, once, for all transports.
 *
 * Two planes. Control: the endpoint, always there: messages between host memories, sleeping waits with deadlines, revocation, barrier; it belongs
 * to one rank and is used from that rank's thread only. Data: transfers between memories of the kinds that `memories` names. Where the table has no
 * data plane of its own (data_open is NULL), the endpoint serves for the data too, with host memory and what it `reaches` besides; else data
 * transfers are put into a device's stream and are over where it goes on. A context opens control, device, data, and closes them the other way
 * round.
 */
#ifndef RONDO_CORE_TRANSPORT_H
#define RONDO_CORE_TRANSPORT_H

#include "rondo.h"

#define RONDO_TRANSPORT_ABI 4u

struct rondo_endpoint;   /* the transport's own */
struct rondo_data;       /* its data plane's own */
struct rondo_device_ops;
struct rondo_device;
struct rondo_stream;

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

/* One message: bytes to or from a peer. bytes > 0: what is empty is not sent. */
struct rondo_part {
    void *memory;              /* where they lie, or go, or may go */
    size_t bytes;
    const void *where;         /* of a received part, after finish: where they can be read: memory, or the sender's own */
    int32_t peer;              /* never oneself */
    int32_t receives;          /* 1: from the peer; 0: to it */
    uint64_t word[4];          /* the transport's own */
};

/* A group of parts in flight. It and its parts stay at one place in the caller's memory until finish() has returned, or until some call
 * has failed: after that no transport looks at any of them again. */
struct rondo_transfer {
    struct rondo_part *parts;
    int32_t count;
    int32_t state;             /* the transport's own, as all below */
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

    /* Starts a group of parts and returns at once. Parts between two ranks match in the order in which they were started (within a
     * group: in the order of the array); what one sends and the other expects must be of one size. What is started makes its way
     * whenever this rank waits for anything, so that groups may be finished in any order.
     * What is sent may be written again once the group is finished; but where in_place is 1, a part of more than `eager` bytes is read
     * by its receiver where it lies until the next fence(), and must not change or go before. A receiver's `memory` must have room for
     * all bytes; with in_place never for more than `eager`. */
    int (*start)(struct rondo_endpoint *ep, struct rondo_transfer *transfer);
    /* Waits for all of it at most `seconds`; sets `where` of the received parts. RONDO_EPEER where the communicator was revoked,
     * RONDO_ETIMEDOUT where time ran out; RONDO_EPEER too where a peer has left and what is waited for will never come.
     * After RONDO_ETIMEDOUT it may be called again. */
    int (*finish)(struct rondo_endpoint *ep, struct rondo_transfer *transfer, double seconds, int *peer);
    /* The same without waiting: 1 finished, 0 not yet, or a code. */
    int (*test)(struct rondo_endpoint *ep, struct rondo_transfer *transfer, int *peer);
    /* Lets transfers progress; returns RONDO_EPEER once revoked. Never waits for another rank to come here; between two calls of
     * computing() it may make room for others to compute. May be NULL. */
    int (*progress)(struct rondo_endpoint *ep);
    /* Every rank has passed all its reads of what others showed it. Collective. NULL: not needed (nothing is read in place). */
    int (*fence)(struct rondo_endpoint *ep, double seconds, int *peer);
    /* Makes every rank's waits return RONDO_EPEER; `sentence` (cut to 255 bytes) becomes their text. Callable many times. */
    void (*revoke)(struct rondo_endpoint *ep, int code, const char *sentence);
    /* Who revoked it: 1 and fills the three, or 0. *rank is -1 where a parent was revoked by a rank outside this group. */
    int (*revoked)(struct rondo_endpoint *ep, int *rank, int *code, const char **sentence);
    /* After a failure, on a revoked endpoint: this rank no longer reads what others showed it and gives up its transfers in flight, those
     * of the endpoint's data plane too. Returns once no other rank reads what this one showed, or after `seconds`: then its memory may
     * go. Silent. */
    void (*quiesce)(struct rondo_endpoint *ep, double seconds);
    size_t eager;              /* messages up to this size are copied by start(): they need no fence() */
    /* Cores that this rank may use for itself, at least 1. NULL: the process's cores divided by ranks_here. */
    int (*cores)(const struct rondo_endpoint *ep);
    /* 1: what is larger than `eager` is always shown in the sender's memory and never copied, so that taking it costs nothing. */
    int32_t in_place, reserved;
    /* The rank begins to compute with so many threads, calling progress() now and then; 0: it has ended. -1: it has work that takes much memory for
     * a while, with which it waits while as many others have such as there are cores. NULL: nobody cares. */
    void (*computing)(struct rondo_endpoint *ep, int threads);
    /* What it stands on, and of which version, in one line; may be asked before anything else. NULL: nothing but the C library. */
    const char *(*library)(void);

    /* The data plane; all NULL or none. memories: bit (1 << RONDO_MEMORY_*) for each kind that it moves; without a data plane of its
     * own, host memory. data_open is collective; dev is the device whose streams and memory it serves. *out NULL, on all ranks alike: it
     * does not serve this device, the endpoint does. data_close comes before the device and the endpoint go, and must not hang on a
     * revoked endpoint.
     * data_start puts the group into the stream: it begins when the stream comes to it and is over where the stream goes on; parts as
     * above, but never shown in place (`where` is not set), and matched with those of data_start only. They may go when it returns.
     * Every rank puts the groups of its streams there in an order in which each could be finished before the next is begun, so that it
     * may wait inside, at most `seconds`. A failure later on is told by whoever waits for the stream, or by data_watch(), which is called now and
     * then while somebody waits; progress() tells of revocation. */
    uint32_t memories, reserved2;
    int (*data_open)(struct rondo_data **out, struct rondo_endpoint *ep, const struct rondo_device_ops *ops, struct rondo_device *dev,
                     int *peer);
    void (*data_close)(struct rondo_data *data);
    int (*data_start)(struct rondo_data *data, struct rondo_stream *stream, const struct rondo_part *parts, int32_t count, double seconds,
                      int *peer);
    /* Looks after groups that are in streams: 0, or what became of one, as finish() says it, and which it was, counted from 0 by calls of
     * data_start that returned 0. After a failure nothing of the plane's holds a stream up. May be NULL, also where there is a plane. */
    int (*data_watch)(struct rondo_data *data, int *peer, uint64_t *group);
    /* Kinds of memory in which messages of the endpoint itself may lie, where a device computes: bit (1 << RONDO_MEMORY_*) for each. It is each rank's
     * own business, whatever its peers' memory is. What is sent has to be there when start() is called, what has come is there when finish()
     * returns: nothing of it is in a stream. Asked once of an endpoint, which serves that device from then on, as do those that are split from it;
     * ep and dev are NULL where nobody has opened either: as far as it can be told. NULL: the host's. */
    int (*reaches)(struct rondo_endpoint *ep, const struct rondo_device_ops *ops, struct rondo_device *dev, uint32_t *memories);
    /* make(arg, value), whose result follows from the key alone and which waits for nobody; but where another rank of this process has made it
     * for the same key, a copy of that one's, and who is the first may let the others wait. Moves nothing; make()'s code, if it was called here. NULL:
     * ranks have no memory in common. */
    int (*once)(struct rondo_endpoint *ep, const void *key, size_t key_bytes, void *value, size_t value_bytes,
                int (*make)(void *arg, void *value), void *arg);
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
    int (*env_piece)(size_t *bytes);               /* 0: as the transport thinks best */
    const struct rondo_device_ops *reference;      /* the device that defines the numerics, by its first instruction sets */
    /* Another transport, for one that is built on it; as rondo__transport_find(). */
    int (*transport)(const struct rondo_transport_ops **out, const char *name);
    int (*env_mpi_cuda)(int *asked);
};
struct rondo_module {
    uint32_t abi;                                  /* RONDO_MODULE_ABI */
    const char *version;                           /* RONDO_VERSION_STRING it was built with; must be equal */
    const struct rondo_device_ops *device;         /* or NULL */
    const struct rondo_transport_ops *transport;   /* or NULL */
    void (*connect)(const struct rondo_services *services);   /* called first, perhaps often, by one thread at a time */
};
#define RONDO_MODULE_ABI 1u

#endif
