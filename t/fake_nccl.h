/* SPDX-License-Identifier: BSD-2-Clause
 *
 * NCCL without cards: libnccl.so.2 as far as rondo_nccl.so uses it, on the fake driver (fake_cuda.h), for ranks that are threads or processes of
 * one machine. What a group moves is moved when its stream comes to it and its peers have come to theirs, a little at a time; a send is over
 * when its receiver has all of it; a communicator that does not block says "in progress" for a while whatever it is asked; and who waits for a
 * peer that does not come waits until the communicator is aborted. Messages of another size than expected, memory that is not the card's, a
 * stream of another card and two ranks on one card are told, as asynchronous errors or in the call.
 *
 * RONDO_FAKE_NCCL is a list, with commas, of
 *   version=N             what ncclGetVersion() says (22809)
 *   call=N[:CODE]         the N-th call of the process fails (with 3, an internal error) and does nothing
 *   hang=N[:RANK]         the N-th group of a communicator never begins, on all ranks or on one
 *   async=N[:RANK]        the same, and a moment later the communicator has failed remotely (6)
 *   stay=RANK             that rank's communicators are never made
 */
#ifndef RONDO_T_FAKE_NCCL_H
#define RONDO_T_FAKE_NCCL_H

#include "t/fake_cuda.h"

typedef int ncclResult_t;
typedef struct fake_comm *ncclComm_t;
typedef struct {
    char internal[128];
} ncclUniqueId;
typedef struct {
    size_t size;
    unsigned magic, version;
    int blocking, cgaClusterSize, minCTAs, maxCTAs;
    const char *netName;
    int splitShare;
} ncclConfig_t;
enum {
    ncclSuccess = 0, ncclUnhandledCudaError = 1, ncclSystemError = 2, ncclInternalError = 3, ncclInvalidArgument = 4, ncclInvalidUsage = 5,
    ncclRemoteError = 6, ncclInProgress = 7
};

FAKE_EXPORT ncclResult_t ncclGetVersion(int *version);
FAKE_EXPORT ncclResult_t ncclGetUniqueId(ncclUniqueId *id);
FAKE_EXPORT ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int ranks, ncclUniqueId id, int rank, ncclConfig_t *config);
FAKE_EXPORT ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error);
FAKE_EXPORT ncclResult_t ncclCommFinalize(ncclComm_t comm);
FAKE_EXPORT ncclResult_t ncclCommDestroy(ncclComm_t comm);
FAKE_EXPORT ncclResult_t ncclGroupStart(void);
FAKE_EXPORT ncclResult_t ncclGroupEnd(void);
FAKE_EXPORT ncclResult_t ncclSend(const void *from, size_t count, int type, int peer, ncclComm_t comm, CUstream stream);
FAKE_EXPORT ncclResult_t ncclRecv(void *to, size_t count, int type, int peer, ncclComm_t comm, CUstream stream);
FAKE_EXPORT const char *ncclGetErrorString(ncclResult_t code);
FAKE_EXPORT const char *ncclGetLastError(ncclComm_t comm);
#ifndef FAKE_NCCL_OLD   /* a library of before */
FAKE_EXPORT ncclResult_t ncclCommAbort(ncclComm_t comm);
#endif

/* For tests: as RONDO_FAKE_NCCL, NULL: what the environment says; counters begin again. Of calls, groups, bytes sent, communicators that there are
 * now, aborts; -1: none of these. */
FAKE_EXPORT int rondo_fake_nccl_set(const char *settings);
FAKE_EXPORT long long rondo_fake_nccl_count(const char *what);

#endif
