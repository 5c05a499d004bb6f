/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A program that uses MPI itself and hands communicators to rondo: 5000-mpi.t compiles it with each MPI and runs it. MPI is
 * initialised here and must still work when rondo is done with it.
 */
#include <stdlib.h>

#include <rondo_mpi.h>

#include "tap.h"

/* All ranks' verdicts, one line from rank 0. */
static void all_ok(int good, const char *what)
{
    int all = 0, rank = 0;
    MPI_Allreduce(&good, &all, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (rank == 0)
        ok(all, "%s", what);
    if (!good)
        fprintf(stderr, "# rank %d: %s: %s\n", rank, what, rondo_error_text());
}

/* The sum of (rank + 1) over the ranks of ctx, by way of rondo. */
static int64_t sum_over(rondo_context *ctx)
{
    int64_t mine = rondo_context_rank(ctx) + 1, sum = 0, all[64];
    size_t bytes_of[64];
    int n = rondo_context_ranks(ctx);
    for (int r = 0; r < n && r < 64; r++)
        bytes_of[r] = sizeof mine;
    if (n > 64 || rondo_all_gather(ctx, &mine, all, bytes_of))
        return -1;
    for (int r = 0; r < n; r++)
        sum += all[r];
    return sum;
}

static int body(rondo_context *ctx, void *arg)
{
    (void)arg;
    return rondo_barrier(ctx);
}

int main(int argc, char **argv)
{
    int rank, size, provided, flag = 0;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);

    rondo_context *ctx = NULL;
    all_ok(rondo_mpi_attach(&ctx, MPI_COMM_WORLD, NULL) == 0, "attaches to MPI_COMM_WORLD");
    all_ok(ctx && rondo_context_rank(ctx) == rank && rondo_context_ranks(ctx) == size, "ranks are as in MPI");
    all_ok(ctx && sum_over(ctx) == (int64_t)size * (size + 1) / 2, "collectives");
    rondo_context_info info = RONDO_CONTEXT_INFO_INIT;
    all_ok(ctx && rondo_context_query(ctx, &info) == 0 && !strcmp(info.transport, "mpi") && info.threads >= 1, "query");

    /* the program's own messages with the tags that rondo uses go their own way */
    int out = rank, in = -1;
    MPI_Request request;
    MPI_Irecv(&in, 1, MPI_INT, (rank + size - 1) % size, 1, MPI_COMM_WORLD, &request);
    all_ok(ctx && rondo_barrier(ctx) == 0, "a barrier between the program's own messages");
    MPI_Send(&out, 1, MPI_INT, (rank + 1) % size, 1, MPI_COMM_WORLD);
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    all_ok(in == (rank + size - 1) % size, "the program's own message came");

    /* a communicator of some of them, in another order; and a second context at the same time */
    MPI_Comm half;
    MPI_Comm_split(MPI_COMM_WORLD, rank % 2, -rank, &half);
    rondo_context *part = NULL;
    rondo_context_desc desc = RONDO_CONTEXT_DESC_INIT;
    desc.threads = 1;
    int members = (size + 1 - rank % 2) / 2;
    all_ok(rondo_mpi_attach(&part, half, &desc) == 0 && rondo_context_ranks(part) == members, "attaches to a part");
    all_ok(part && sum_over(part) == (int64_t)members * (members + 1) / 2 && ctx && rondo_barrier(ctx) == 0, "both work side by side");
    rondo_context_destroy(part);

    /* revoking one leaves MPI and other contexts as they were */
    all_ok(rondo_mpi_attach(&part, MPI_COMM_WORLD, NULL) == 0, "attaches a third time");
    if (rank == size - 1)
        rondo_context_revoke(part, RONDO_ECANCELED, "enough");
    int err;
    do
        err = rondo_barrier(part);
    while (!err);
    all_ok(err == RONDO_EPEER, "it ends when revoked");
    rondo_context_destroy(part);
    all_ok(ctx && rondo_barrier(ctx) == 0, "the other one goes on");
    rondo_context_destroy(ctx);

    desc.transport = "mpi";
    all_ok(rondo_launch(0, &desc, body, NULL) == 0, "launching works in a program that initialised MPI");
    all_ok(rondo_mpi_attach(&ctx, MPI_COMM_NULL, NULL) == RONDO_EINVAL && !ctx && strstr(rondo_error_text(), "MPI_COMM_NULL"),
           "no communicator is refused");
    MPI_Comm_free(&half);
    MPI_Barrier(MPI_COMM_WORLD);
    all_ok(MPI_Finalized(&flag) == MPI_SUCCESS && !flag, "MPI is still ours");
    MPI_Finalize();
    if (rank != 0)
        return 0;
    ok(rondo_launch(0, &desc, body, NULL) == RONDO_EINVAL && strstr(rondo_error_text(), "finalised"), "after MPI_Finalize: %s",
       rondo_error_text());
    return done();
}
