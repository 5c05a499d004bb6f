/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The transports "nccl", whose ranks are threads of one process with a card each, and "nccl_mpi", whose ranks are MPI processes: two modules of one
 * source (RONDO_NCCL_NAME, RONDO_NCCL_CONTROL). Their control plane is that of "threads" or "mpi" as it is, with its launch, deadlines and
 * revocation; their data plane is plane.c's. This file is the table and hands on what is the control plane's.
 */
#include "backends/nccl/nccl.h"

#include <stdio.h>

const struct rondo_services *rondo__nccl_host;

int rondo__nccl_fail(int code, const char *format, ...)
{
    char text[1024];
    va_list ap;
    va_start(ap, format);
    const int n = vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    return rondo__nccl_host->fail(code, n < 0 ? "" : text);
}

struct rondo_endpoint {
    struct rondo__nccl_control control;
};

static const struct rondo_transport_ops *beneath;   /* NULL: it could not be found; then its functions are NULL, or say so */

static int endpoint_new(struct rondo_endpoint **out, struct rondo_endpoint *inner, double seconds)
{
    struct rondo_endpoint *ep = rondo__nccl_host->alloc_zero(1, sizeof *ep);
    *out = ep;
    if (!ep)
        return rondo__nccl_fail(RONDO_ENOMEM, "no memory for an endpoint of transport " RONDO_NCCL_NAME);
    ep->control = (struct rondo__nccl_control){ .ops = beneath, .ep = inner, .seconds = seconds };
    return 0;
}

static int probe(void)
{
    const struct rondo_nccl_library *library;
    return beneath && beneath->probe() == 1 && rondo__nccl_open(&library) == 0;
}

/* What stands beneath it is here: 0, or a code with its sentence. */
static int usable(void)
{
    const struct rondo_nccl_library *library;
    const struct rondo_transport_ops *control;
    const int err = beneath ? rondo__nccl_open(&library) : rondo__nccl_host->transport(&control, RONDO_NCCL_CONTROL);
    return err || beneath ? err : rondo__nccl_fail(RONDO_ENOTSUP, "transport " RONDO_NCCL_NAME " found no " RONDO_NCCL_CONTROL " when it was opened; now it would");
}

static int launch(int ranks, double seconds, int (*body)(void *arg, const struct rondo_boot *boot), void *arg)
{
    int err = usable();
    return err ? err : beneath->launch(ranks, seconds, body, arg);
}

static int join(struct rondo_endpoint **out, const struct rondo_boot *boot)
{
    struct rondo_endpoint *inner;
    *out = NULL;
    int err = usable();
    if (!err)
        err = beneath->join(&inner, boot);
    if (err)
        return err;
    err = endpoint_new(out, inner, boot->seconds);
    if (err) {
        beneath->revoke(inner, err, rondo__nccl_host->text());
        beneath->leave(inner);
    }
    return err;
}

static void leave(struct rondo_endpoint *ep)
{
    beneath->leave(ep->control.ep);
    rondo__nccl_host->free(ep->control.hellos[0]);
    rondo__nccl_host->free(ep->control.hellos[1]);
    rondo__nccl_host->free(ep);
}

static int rank_of(const struct rondo_endpoint *ep) { return beneath->rank(ep->control.ep); }
static int ranks_of(const struct rondo_endpoint *ep) { return beneath->ranks(ep->control.ep); }
static int ranks_here(const struct rondo_endpoint *ep) { return beneath->ranks_here(ep->control.ep); }
static int cores(const struct rondo_endpoint *ep) { return beneath->cores(ep->control.ep); }

static int split(struct rondo_endpoint *ep, int color, int key, struct rondo_endpoint **out, int *peer)
{
    struct rondo_endpoint *inner = NULL;
    *out = NULL;
    int err = beneath->split(ep->control.ep, color, key, &inner, peer);
    if (err || !inner)
        return err;
    err = endpoint_new(out, inner, ep->control.seconds);
    if (err) {   /* the others wait in the new group */
        beneath->revoke(ep->control.ep, err, rondo__nccl_host->text());
        beneath->leave(inner);
    }
    return err;
}

static int start(struct rondo_endpoint *ep, struct rondo_transfer *transfer) { return beneath->start(ep->control.ep, transfer); }

static int finish(struct rondo_endpoint *ep, struct rondo_transfer *transfer, double seconds, int *peer)
{
    return beneath->finish(ep->control.ep, transfer, seconds, peer);
}

static int test(struct rondo_endpoint *ep, struct rondo_transfer *transfer, int *peer) { return beneath->test(ep->control.ep, transfer, peer); }
static int progress(struct rondo_endpoint *ep) { return beneath->progress(ep->control.ep); }
static int fence(struct rondo_endpoint *ep, double seconds, int *peer) { return beneath->fence(ep->control.ep, seconds, peer); }
static void revoke(struct rondo_endpoint *ep, int code, const char *sentence) { beneath->revoke(ep->control.ep, code, sentence); }

static int revoked(struct rondo_endpoint *ep, int *rank, int *code, const char **sentence)
{
    return beneath->revoked(ep->control.ep, rank, code, sentence);
}

static void computing(struct rondo_endpoint *ep, int threads) { beneath->computing(ep->control.ep, threads); }

/* What this rank has in streams holds nobody up from here on. */
static void quiesce(struct rondo_endpoint *ep, double seconds)
{
    if (ep->control.data)
        rondo__nccl_plane_abort(ep->control.data);
    beneath->quiesce(ep->control.ep, seconds);
}

static const char *library_line(void)
{
    static char text[160];
    const struct rondo_nccl_library *library;
    if (rondo__nccl_open(&library))
        return "";
    snprintf(text, sizeof text, "NCCL %d.%d.%d over %.100s", NCCL_VERSION(library->version), beneath && beneath->library ? beneath->library() : RONDO_NCCL_CONTROL);
    return text;
}

static int data_open(struct rondo_data **out, struct rondo_endpoint *ep, const struct rondo_device_ops *ops, struct rondo_device *dev, int *peer)
{
    return rondo__nccl_plane_open(out, &ep->control, ops, dev, peer);
}

static int data_start(struct rondo_data *data, struct rondo_stream *stream, const struct rondo_part *parts, int32_t count, double seconds, int *peer)
{
    return rondo__nccl_plane_start(data, stream, parts, count, seconds, peer);
}

/* What the control plane lacks is lacking here: connect() looks at it. */
static struct rondo_transport_ops table = {
    .size = sizeof table,
    .abi = RONDO_TRANSPORT_ABI,
    .name = RONDO_NCCL_NAME,
    .probe = probe,
    .launch = launch,
    .join = join,
    .leave = leave,
    .rank = rank_of,
    .ranks = ranks_of,
    .ranks_here = ranks_here,
    .split = split,
    .start = start,
    .finish = finish,
    .test = test,
    .revoke = revoke,
    .revoked = revoked,
    .quiesce = quiesce,
    .library = library_line,
    .memories = 1u << RONDO_MEMORY_DEVICE,
    .data_open = data_open,
    .data_close = rondo__nccl_plane_close,
    .data_start = data_start,
    .data_watch = rondo__nccl_plane_watch,
};

/* Once: other threads may use it already. Who has not found the control plane says so when somebody wants to use it. */
static void connect_services(const struct rondo_services *services)
{
    const struct rondo_transport_ops *control;
    if (!rondo__nccl_host)
        rondo__nccl_host = services;
    if (beneath || services->transport(&control, RONDO_NCCL_CONTROL))
        return;
    table.progress = control->progress ? progress : NULL;
    table.fence = control->fence ? fence : NULL;
    table.cores = control->cores ? cores : NULL;
    table.computing = control->computing ? computing : NULL;
    table.eager = control->eager;
    table.in_place = control->in_place;
    beneath = control;
}

extern const struct rondo_module rondo_module_entry;
RONDO_API const struct rondo_module rondo_module_entry = { RONDO_MODULE_ABI, RONDO_VERSION_STRING, NULL, &table, connect_services };
