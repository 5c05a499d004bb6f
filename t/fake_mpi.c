/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What an MPI that knows of graphics cards does, on the fake driver (fake_cuda.h): libfake_mpi.so, which is preloaded, stands between rondo's module
 * and the MPI that it was built with. That one sends and receives bytes in the memory of a card where it lies, at once and whatever streams have still
 * to do there: who has not waited for them sends NaNs, or finds what came overwritten. What messages lie in is counted. The answer to
 * MPIX_Query_cuda_support() is the test's.
 */
#define _GNU_SOURCE   /* RTLD_NEXT */
#include <mpi.h>

#include <dlfcn.h>
#include <string.h>

#include "t/fake_cuda.h"
#include "t/fake_mpi.h"

FAKE_EXPORT int MPIX_Query_cuda_support(void);

static int answer = -1;
static long long counts[2][3];   /* bytes: sent, received; by kind of memory */
static long long strayed;

void rondo_fake_mpi_answer(int yes)
{
    answer = yes;
}

int MPIX_Query_cuda_support(void)
{
    int (*real)(void) = NULL;
    *(void **)(void *)&real = dlsym(RTLD_NEXT, "MPIX_Query_cuda_support");
    return answer >= 0 ? answer : real ? real() : 0;
}

long long rondo_fake_mpi_count(const char *what)
{
    static const char *const ways[2] = { "sent ", "received " }, *const kinds[3] = { "pageable", "pinned", "card" };
    for (int way = 0; way < 2; way++)
        for (int kind = 0; kind < 3; kind++)
            if (!strncmp(what, ways[way], strlen(ways[way])) && !strcmp(what + strlen(ways[way]), kinds[kind]))
                return counts[way][kind];
    return strcmp(what, "strayed") ? -1 : strayed;
}

void rondo_fake_mpi_begin(void)
{
    memset(counts, 0, sizeof counts);
    strayed = 0;
}

/* Where MPI finds it. A real one asks the driver's current card, too. */
static void *found(int way, const void *at, int count, MPI_Datatype type)
{
    void *own;
    int card, size = 0;
    const int kind = rondo_fake_cuda_own(at, &own, &card);
    PMPI_Type_size(type, &size);
    counts[way][kind] += (long long)count * size;
    strayed += kind == CU_MEMORYTYPE_DEVICE && card != rondo_fake_cuda_card();
    return own;
}

FAKE_EXPORT int MPI_Isend(const void *from, int count, MPI_Datatype type, int to, int tag, MPI_Comm comm, MPI_Request *request)
{
    return PMPI_Isend(found(0, from, count, type), count, type, to, tag, comm, request);
}

FAKE_EXPORT int MPI_Irecv(void *to, int count, MPI_Datatype type, int from, int tag, MPI_Comm comm, MPI_Request *request)
{
    return PMPI_Irecv(found(1, to, count, type), count, type, from, tag, comm, request);
}
