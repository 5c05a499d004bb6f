/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The MPI transport as a loadable module: its table, launching and splitting. One process is one rank. The registry opens
 * rondo_mpi.so when somebody asks for "mpi"; world.c holds communicators, notice.c tells and hears of failures, parts.c has the messages,
 * network.c and cards.c ask MPI what goes between hosts at once, and whether it reaches the memory of cards.
 *
 * Everything that waits polls, joining a communicator too, so that every wait has its deadline and hears of failures; but for MPI's own
 * beginning and end.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "backends/mpi/world.h"

#define TEXT_BYTES 1024

const struct rondo_services *rondo__mpi_host;

int rondo__mpi_fail(int code, const char *format, ...)
{
    char text[TEXT_BYTES];
    va_list ap;
    va_start(ap, format);
    int n = vsnprintf(text, sizeof text, format, ap);
    va_end(ap);
    return rondo__mpi_host->fail(code, n < 0 ? "" : text);
}

int rondo__mpi_error(int mpi_code, const char *call)
{
    char text[MPI_MAX_ERROR_STRING + 1] = "";
    int length = 0, class = 0;
    MPI_Error_class(mpi_code, &class);
    if (MPI_Error_string(mpi_code, text, &length) != MPI_SUCCESS)
        snprintf(text, sizeof text, "error %d", mpi_code);
    return rondo__mpi_fail(class == MPI_ERR_NO_MEM ? RONDO_ENOMEM : RONDO_ETRANSPORT, "%s: %s", call, text);
}

/* ---- launch ---- */

/* What rank tells rank when the bodies have returned. */
struct outcome {
    int32_t code;
    char text[TEXT_BYTES];
};

/* The group that the present launch made; its first join becomes a child of it, without another communicator. */
static struct rondo_endpoint *launching;
static MPI_Comm launch_mark;

/* The failure to report: the first, by rank, that is not merely the echo of another one. */
static int first_failure(const struct outcome *all, int ranks)
{
    int best = -1;
    for (int i = 0; i < ranks; i++)
        if (all[i].code && (best < 0 || (all[best].code == RONDO_EPEER && all[i].code != RONDO_EPEER)))
            best = i;
    return best < 0 ? 0 : rondo__mpi_fail(all[best].code, "%.*s", TEXT_BYTES - 1, all[best].text);
}

static int launch(int ranks, double seconds, int (*body)(void *arg, const struct rondo_boot *boot), void *arg)
{
    int err = rondo__mpi_start(), size = 0;
    if (err)
        return err;
    if (launching)
        return rondo__mpi_fail(RONDO_EINVAL, "rondo_launch over mpi inside another one; split the context instead");
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (ranks < 0 || (ranks != 0 && ranks != size))
        return rondo__mpi_fail(RONDO_EINVAL, "%d ranks are asked for, but mpirun started %d processes; give 0 or %d, or start it as "
                               "mpirun -n %d", ranks, size, size, ranks > 0 ? ranks : 1);
    struct outcome *all = rondo__mpi_host->alloc_zero((size_t)size, sizeof *all), mine;
    if (!all)
        return rondo__mpi_fail(RONDO_ENOMEM, "no memory for the outcomes of %d ranks", size);
    struct rondo_endpoint *ep;
    err = rondo__mpi_world_new(&ep, MPI_COMM_WORLD, seconds);
    if (err) {
        rondo__mpi_host->free(all);
        return err;
    }
    struct rondo_boot boot;
    memset(&boot, 0, sizeof boot);
    boot.rank = ep->rank;
    boot.ranks = ep->ranks;
    boot.ranks_here = ep->world->ranks_here;
    boot.handle = &launch_mark;
    boot.seconds = seconds;
    memset(&mine, 0, sizeof mine);
    launching = ep;
    mine.code = body(arg, &boot);
    launching = NULL;
    if (mine.code) {
        snprintf(mine.text, sizeof mine.text, "%s", rondo__mpi_host->text());
        rondo__mpi_revoke(ep, mine.code, mine.text);
    }
    /* Bodies may end at different times; but where a wait has run out already, this is not one more. */
    int peer = -1;
    err = rondo__mpi_gather(ep, &mine, all, sizeof mine, seconds, true, &peer);
    if (!err)
        rondo__mpi_all_here();
    if (err == RONDO_ETIMEDOUT)
        rondo__mpi_lost_one();
    if (!err)
        err = first_failure(all, size);
    else if (mine.code)
        err = rondo__mpi_fail(mine.code, "%s", mine.text);
    else if (err == RONDO_ETIMEDOUT)
        err = rondo__mpi_fail(err, "rank %d did not return from its body within %g s after rank %d in step end of launch", peer, seconds,
                              ep->rank);
    else if (err == RONDO_EPEER)
        err = rondo__mpi_fail(err, "rank %d has left, but rank %d still waits for it in step end of launch", peer, ep->rank);
    if (err == RONDO_ETIMEDOUT)
        rondo__mpi_revoke(ep, err, rondo__mpi_host->text());
    rondo__mpi_host->free(all);
    rondo__mpi_leave(ep);
    return err;
}

/* ---- joining and splitting ---- */

static int probe(void)
{
    int finalized = 0;
    return rondo__mpi_same_library() && MPI_Finalized(&finalized) == MPI_SUCCESS && !finalized;
}

static int join(struct rondo_endpoint **out, const struct rondo_boot *boot)
{
    *out = NULL;
    if (launching && boot->handle == &launch_mark) {
        struct rondo_endpoint *ep = launching;
        return rondo__mpi_endpoint_new(out, ep, ep->world->next_tag++, ep->ranks, NULL, ep->rank);
    }
    int err = rondo__mpi_start();
    if (err)
        return err;
    MPI_Comm comm = MPI_COMM_WORLD;
    if (boot->handle)
        memcpy(&comm, boot->handle, sizeof comm);
    return rondo__mpi_world_new(out, comm, boot->seconds);
}

struct member {
    int32_t color, key, next_tag, rank;
};

static bool comes_before(const struct member *a, const struct member *b)
{
    return a->key < b->key || (a->key == b->key && a->rank < b->rank);
}

static int split(struct rondo_endpoint *ep, int color, int key, struct rondo_endpoint **out, int *peer)
{
    *out = NULL;
    size_t n = (size_t)ep->ranks;
    struct member *all = rondo__mpi_host->alloc_zero(n, sizeof *all), mine = { color, key, ep->world->next_tag, ep->rank };
    int32_t *world_rank = rondo__mpi_host->alloc_zero(n, sizeof *world_rank);
    int err = 0;
    if (!all || !world_rank) {
        err = rondo__mpi_fail(RONDO_ENOMEM, "no memory to split %d ranks", ep->ranks);
        goto out;
    }
    err = rondo__mpi_gather(ep, &mine, all, sizeof mine, ep->seconds, false, peer);
    if (err)
        goto out;
    int tag = 0, ranks = 0, place = 0;
    for (size_t i = 0; i < n; i++) {
        if (all[i].next_tag > tag)
            tag = all[i].next_tag;
        if (all[i].color != color)
            continue;
        ranks++;
        place += comes_before(&all[i], &mine);
        int at = 0;
        for (size_t j = 0; j < n; j++)
            at += all[j].color == color && comes_before(&all[j], &all[i]);
        world_rank[at] = ep->peer[i].world_rank;
    }
    ep->world->next_tag = tag + 1;
    if (color >= 0)
        err = rondo__mpi_endpoint_new(out, ep, tag, ranks, world_rank, place);
out:
    rondo__mpi_host->free(all);
    rondo__mpi_host->free(world_rank);
    return err;
}

static int rank_of(const struct rondo_endpoint *ep)
{
    return ep->rank;
}

static int ranks_of(const struct rondo_endpoint *ep)
{
    return ep->ranks;
}

static int ranks_here(const struct rondo_endpoint *ep)
{
    int count = 0;
    for (int i = 0; i < ep->ranks; i++)
        count += ep->world->here[ep->peer[i].world_rank];
    return count;
}

static int cores(const struct rondo_endpoint *ep)
{
    return ep->world->cores;
}

/* ---- moving: the transfer carries its flights ---- */

static void keep(struct rondo_transfer *transfer, struct rondo_flight *f)
{
    memcpy(transfer->word, &f, sizeof f);
}

static struct rondo_flight *kept(const struct rondo_transfer *transfer)
{
    struct rondo_flight *f;
    memcpy(&f, transfer->word, sizeof f);
    return f;
}

static int start(struct rondo_endpoint *ep, struct rondo_transfer *transfer)
{
    struct rondo_flight *f;
    for (int32_t i = 0; i < transfer->count; i++)
        transfer->parts[i].where = transfer->parts[i].memory;
    int err = rondo__mpi_use_card(ep);
    if (err)
        return err;
    err = rondo__mpi_parts_start(ep, &f, transfer->parts, transfer->count, false);
    keep(transfer, f);
    return err;
}

static int finish(struct rondo_endpoint *ep, struct rondo_transfer *transfer, double seconds, int *peer)
{
    struct rondo_flight *f = kept(transfer);
    int err = rondo__mpi_use_card(ep);
    if (err)
        return err;
    err = rondo__mpi_parts_finish(ep, &f, seconds, peer, false);
    keep(transfer, f);
    return err;
}

static int test(struct rondo_endpoint *ep, struct rondo_transfer *transfer, int *peer)
{
    struct rondo_flight *f = kept(transfer);
    int found = rondo__mpi_use_card(ep);
    if (found)
        return found;
    found = rondo__mpi_parts_test(ep, &f, peer);
    keep(transfer, f);
    return found;
}

static int progress(struct rondo_endpoint *ep)
{
    rondo__mpi_listen();
    return rondo__mpi_revoked(ep) ? RONDO_EPEER : 0;
}

static int revoked(struct rondo_endpoint *ep, int *rank, int *code, const char **sentence)
{
    rondo__mpi_listen();
    struct rondo_endpoint *by = rondo__mpi_revoked(ep);
    if (!by)
        return 0;
    *rank = -1;
    for (int i = 0; i < ep->ranks; i++)
        if (ep->peer[i].world_rank == by->notice.head.rank)
            *rank = i;
    *code = by->notice.head.code;
    *sentence = by->notice.sentence;
    return 1;
}

static const struct rondo_transport_ops table = {
    .size = sizeof(struct rondo_transport_ops),
    .abi = RONDO_TRANSPORT_ABI,
    .name = "mpi",
    .probe = probe,
    .launch = launch,
    .join = join,
    .leave = rondo__mpi_leave,
    .rank = rank_of,
    .ranks = ranks_of,
    .ranks_here = ranks_here,
    .split = split,
    .start = start,
    .finish = finish,
    .test = test,
    .progress = progress,
    .fence = NULL,
    .revoke = rondo__mpi_revoke,
    .revoked = revoked,
    .quiesce = rondo__mpi_quiesce,
    .eager = 0,
    .cores = cores,
    .library = rondo__mpi_library,
    .memories = 1u << RONDO_MEMORY_HOST,
    .reaches = rondo__mpi_reaches,
};

static void connect(const struct rondo_services *services)
{
    if (!rondo__mpi_host)                /* once: other threads may use it already */
        rondo__mpi_host = services;
}

/* The one symbol that the module exports. */
extern const struct rondo_module rondo_module_entry;
RONDO_API const struct rondo_module rondo_module_entry = { RONDO_MODULE_ABI, RONDO_VERSION_STRING, NULL, &table, connect };
