/* SPDX-License-Identifier: BSD-2-Clause
 *
 * NCCL as far as the modules rondo_nccl.so and rondo_nccl_mpi.so use it: opened at run time, so that neither its headers nor its library are needed
 * to build or to load them; and what their files share. library.c opens it; plane.c is the data plane, on a device's streams; module.c the
 * table, whose control plane is another transport's. Types and numbers are those of NCCL's documented interface since 2.18.
 */
#ifndef RONDO_NCCL_NCCL_H
#define RONDO_NCCL_NCCL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/internal.h"

typedef int nccl_result;
typedef struct nccl_comm_st *nccl_comm;
enum { NCCL_OK = 0, NCCL_INVALID_USAGE = 5, NCCL_REMOTE = 6, NCCL_IN_PROGRESS = 7 };
enum { NCCL_BYTES = 0 };               /* the type of what is sent: 8-bit integers */

struct nccl_id {
    char bytes[128];
};
/* As 2.18 had it: newer libraries take a shorter one for what it is. What is UNDEF they choose. */
#define NCCL_MAGIC 0xcafebeefu
#define NCCL_UNDEF INT32_MIN
struct nccl_config {
    size_t size;
    unsigned magic, version;
    int blocking, cga_cluster, least_ctas, most_ctas;
    const char *net;
    int split_share;
};
#define NCCL_LEAST 21800
#define NCCL_VERSION(v) (v) / 10000, (v) / 100 % 100, (v) % 100

/* The functions, by the names that the library exports. */
#define RONDO_NCCL(X) \
    X(nccl_result, ncclGetVersion, (int *version)) \
    X(nccl_result, ncclGetUniqueId, (struct nccl_id *id)) \
    X(nccl_result, ncclCommInitRankConfig, (nccl_comm *comm, int ranks, struct nccl_id id, int rank, struct nccl_config *config)) \
    X(nccl_result, ncclCommGetAsyncError, (nccl_comm comm, nccl_result *error)) \
    X(nccl_result, ncclCommFinalize, (nccl_comm comm)) \
    X(nccl_result, ncclCommDestroy, (nccl_comm comm)) \
    X(nccl_result, ncclCommAbort, (nccl_comm comm)) \
    X(nccl_result, ncclGroupStart, (void)) \
    X(nccl_result, ncclGroupEnd, (void)) \
    X(nccl_result, ncclSend, (const void *from, size_t count, int type, int peer, nccl_comm comm, void *stream)) \
    X(nccl_result, ncclRecv, (void *to, size_t count, int type, int peer, nccl_comm comm, void *stream)) \
    X(const char *, ncclGetErrorString, (nccl_result code)) \
    X(const char *, ncclGetLastError, (nccl_comm comm))

struct rondo_nccl_library {
#define X(type, name, arguments) type (*name) arguments;
    RONDO_NCCL(X)
#undef X
    int version;                       /* 10000 * major + 100 * minor + patch */
};

/* The module is not linked with librondo: what it needs of it comes in a table. */
extern const struct rondo_services *rondo__nccl_host;
int rondo__nccl_fail(int code, const char *format, ...) RONDO_PRINTF(2, 3);

/* Opens the library once for the process. 0, or RONDO_ENOTSUP with a sentence: there is none, it is too old. */
int rondo__nccl_open(const struct rondo_nccl_library **out);

/* ---- plane.c ---- */
/* What the plane needs of the control plane. */
struct rondo__nccl_control {
    const struct rondo_transport_ops *ops;
    struct rondo_endpoint *ep;
    double seconds;                    /* the longest wait while it opens and closes */
    struct rondo_data *data;           /* the plane while it is open, or NULL */
    /* What a failed wait may leave with the control plane stays until the endpoint goes: how the ranks met, and finding out who does not come. */
    void *hellos[2];
    struct rondo_transfer asking;
    struct rondo_part asked;
    char answer[8];
};
int rondo__nccl_plane_open(struct rondo_data **out, struct rondo__nccl_control *control, const struct rondo_device_ops *ops,
                           struct rondo_device *dev, int *peer);
void rondo__nccl_plane_close(struct rondo_data *data);
int rondo__nccl_plane_start(struct rondo_data *data, struct rondo_stream *stream, const struct rondo_part *parts, int32_t count, double seconds,
                            int *peer);
int rondo__nccl_plane_watch(struct rondo_data *data, int *peer, uint64_t *group);
void rondo__nccl_plane_abort(struct rondo_data *data);

#endif
