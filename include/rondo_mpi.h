/* SPDX-License-Identifier: BSD-2-Clause
 *
 * For programs that use MPI themselves: the ranks of a communicator of theirs become rondo ranks.
 *
 *     rondo_context *rank;
 *     if (rondo_mpi_attach(&rank, MPI_COMM_WORLD, NULL)) fprintf(stderr, "%s\n", rondo_error_text());
 *
 * MPI must be initialised (MPI_THREAD_FUNNELED where the rank computes with several threads) and stay so until the context is
 * destroyed. The communicator is duplicated: the program's own messages never meet rondo's. The MPI library must be the one
 * that rondo's MPI module was built with; another one is refused.
 */
#ifndef RONDO_MPI_H
#define RONDO_MPI_H

#include <mpi.h>

#include <rondo.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Collective over comm, as rondo_context_create(). desc: NULL, or a descriptor, whose transport and handle are not looked at. */
static inline int rondo_mpi_attach(rondo_context **out, MPI_Comm comm, const rondo_context_desc *desc)
{
    rondo_context_desc ours = RONDO_CONTEXT_DESC_INIT;
    if (desc)
        ours = *desc;
    ours.transport = "mpi";
    ours.transport_handle = &comm;
    return rondo_context_create(out, &ours);
}

#ifdef __cplusplus
}
#endif

#endif
