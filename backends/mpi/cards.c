/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Whether MPI sends and receives in the memory of graphics cards. Called by module.c. Where it does, messages lie there, and nothing else changes:
 * MPI knows no streams, and who starts a group has waited until what it sends is there (schedule/run.c), as for a copy to the host before.
 *
 * The library that runs is asked, not the one that was compiled with: Open MPI, MVAPICH2 and MPICH have a function for it that no header of theirs
 * has in common, and older ones have none; so it is looked up by its name. Its answer may depend on options of MPI's own, which hold when MPI has
 * started.
 */
#define _GNU_SOURCE   /* RTLD_DEFAULT */
#include "backends/mpi/world.h"

#include <dlfcn.h>
#include <string.h>

/* MPICH's number for CUDA, in its own query. */
#define GPU_CUDA 0

/* false: it says no, has not started, or does not know. */
static bool says_yes(void)
{
    int (*query)(void) = NULL, (*query_of)(int kind, int *yes) = NULL;
    int on = 0, off = 1, yes = 0;
    if (MPI_Initialized(&on) != MPI_SUCCESS || MPI_Finalized(&off) != MPI_SUCCESS || !on || off)
        return false;
    *(void **)(void *)&query = dlsym(RTLD_DEFAULT, "MPIX_Query_cuda_support");
    if (query)
        return query() == 1;
    *(void **)(void *)&query_of = dlsym(RTLD_DEFAULT, "MPIX_GPU_query_support");
    return query_of && query_of(GPU_CUDA, &yes) == MPI_SUCCESS && yes;
}

int rondo__mpi_reaches(struct rondo_endpoint *ep, const struct rondo_device_ops *ops, struct rondo_device *dev, uint32_t *memories)
{
    int asked;
    *memories = 1u << RONDO_MEMORY_HOST;
    int err = rondo__mpi_host->env_mpi_cuda(&asked);
    if (err || strcmp(ops->name, "cuda") != 0 || !RONDO_HAS(ops, stream_handle) || !(asked < 0 ? says_yes() : asked))
        return err;
    if (ep) {
        ep->device_ops = ops;
        ep->device = dev;
        err = rondo__mpi_use_card(ep);
        if (err)
            return err;
    }
    *memories |= 1u << RONDO_MEMORY_PINNED | 1u << RONDO_MEMORY_DEVICE;
    return 0;
}

/* The driver has a current card for each thread, by which MPI finds its way; another context's calls may have made it another one. */
int rondo__mpi_use_card(const struct rondo_endpoint *ep)
{
    void *stream;
    return ep->device_ops ? ep->device_ops->stream_handle(ep->device, NULL, &stream) : 0;
}
