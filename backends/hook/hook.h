/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the files of the test hook share: hook.c wraps a transport, copy.c makes one that shows memory in place behave as if its
 * ranks were on several machines, link.c its slow links, plane.c gives it a data plane; device.c wraps a device.
 */
#ifndef RONDO_HOOK_HOOK_H
#define RONDO_HOOK_HOOK_H

#include "core/internal.h"

/* ---- what $RONDO_TEST_HOOK asks for (hook.c) ---- */
struct rondo__hook_settings {
    bool delay, reorder, copy, plane, trace;   /* of a transport */
    bool count, space, defer;           /* of a device */
    uint64_t seed, order;               /* of a transport's delays and orders; of a device's streams */
    double rate, latency;               /* of a rank's link: bytes/s each way (0: as it is), and seconds */
    int64_t fail_at;                    /* 0: never */
    int32_t fail_rank;                  /* -1: all */
};
int rondo__hook_parse(struct rondo__hook_settings *set, const char *spec);

/* ---- what the mode `count` has found (device.c) ---- */
enum rondo__hook_counted {
    RONDO_HOOK_COUNT_ATTENTION, RONDO_HOOK_COUNT_LINEAR, RONDO_HOOK_COUNT_ELEMENTWISE, RONDO_HOOK_COUNT_COPY, RONDO_HOOK_COUNTED
};
struct rondo__hook_count {
    uint64_t calls;
    double flops, bytes;                /* bytes: what has to be read and written at least */
};
struct rondo__hook_counts {
    struct rondo__hook_count of[RONDO_HOOK_COUNTED];
};
/* Of a context's device; NULL: it is not wrapped. */
const struct rondo__hook_counts *rondo__hook_counts(const rondo_context *ctx);

/* ---- copy.c: the mode `copy` ---- */
struct rondo__hook_copy;

/* Collective: receipts go through an endpoint of their own. With RONDO_EPEER and RONDO_ETIMEDOUT there is no sentence yet. */
int rondo__hook_copy_new(struct rondo__hook_copy **out, const struct rondo__hook_settings *set, const struct rondo_transport_ops *ops,
                         struct rondo_endpoint *ep, int *peer);
void rondo__hook_copy_free(struct rondo__hook_copy *copy);
int rondo__hook_copy_start(struct rondo__hook_copy *copy, struct rondo_transfer *transfer);
int rondo__hook_copy_finish(struct rondo__hook_copy *copy, struct rondo_transfer *transfer, double seconds, int *peer);
int rondo__hook_copy_test(struct rondo__hook_copy *copy, struct rondo_transfer *transfer, int *peer);
/* Takes in what has come for transfers that are under way, and lets their senders know. */
int rondo__hook_copy_progress(struct rondo__hook_copy *copy, int *peer);
void rondo__hook_copy_quiesce(struct rondo__hook_copy *copy, double seconds);

/* ---- link.c: a rank's way out in the mode `slow`; all ranks of a context hold it until they leave ---- */
struct rondo__hook_link;

int rondo__hook_link_new(struct rondo__hook_link **out, int ranks, double rate);   /* held by its rank only */
void rondo__hook_link_hold(struct rondo__hook_link *link);                         /* by all of them, who are told of it */
void rondo__hook_link_leave(struct rondo__hook_link *link);                        /* the last one frees it */
/* A message sets out. */
int rondo__hook_link_send(struct rondo__hook_link *link, int to, size_t bytes);
/* When the oldest message to this rank was through the way out, and had *begun to take it, which is then forgotten; 0: it is not yet, and *wait
 * is how many seconds it takes at least. */
double rondo__hook_link_through(struct rondo__hook_link *link, int to, double *begun, double *wait);

/* ---- plane.c: the mode `plane`; with RONDO_EPEER and RONDO_ETIMEDOUT there is no sentence yet ---- */
struct rondo__hook_plane;

int rondo__hook_plane_open(struct rondo__hook_plane **out, const struct rondo_transport_ops *ops, struct rondo_endpoint *ep,
                           const struct rondo_device_ops *device_ops, struct rondo_device *dev, int *peer);
void rondo__hook_plane_close(struct rondo__hook_plane *plane);
int rondo__hook_plane_start(struct rondo__hook_plane *plane, struct rondo_stream *stream, const struct rondo_part *parts, int32_t count,
                            double seconds, int *peer);
void rondo__hook_plane_quiesce(struct rondo__hook_plane *plane, double seconds);

#endif
