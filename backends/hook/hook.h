/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the files of the test hook share: hook.c wraps a transport, copy.c makes one that shows memory in place behave as if its
 * ranks were on several machines.
 */
#ifndef RONDO_HOOK_HOOK_H
#define RONDO_HOOK_HOOK_H

#include "core/internal.h"

/* ---- copy.c: the mode `copy` ---- */
struct rondo__hook_copy;

/* Collective: receipts go through an endpoint of their own. With RONDO_EPEER and RONDO_ETIMEDOUT there is no sentence yet. */
int rondo__hook_copy_new(struct rondo__hook_copy **out, const struct rondo_transport_ops *ops, struct rondo_endpoint *ep, int *peer);
void rondo__hook_copy_free(struct rondo__hook_copy *copy);
int rondo__hook_copy_start(struct rondo__hook_copy *copy, struct rondo_transfer *transfer);
int rondo__hook_copy_finish(struct rondo__hook_copy *copy, struct rondo_transfer *transfer, double seconds, int *peer);
int rondo__hook_copy_test(struct rondo__hook_copy *copy, struct rondo_transfer *transfer, int *peer);
/* Takes in what has come for transfers that are under way, and lets their senders know. */
int rondo__hook_copy_progress(struct rondo__hook_copy *copy, int *peer);
void rondo__hook_copy_quiesce(struct rondo__hook_copy *copy, double seconds);

#endif
