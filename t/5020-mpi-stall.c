/* SPDX-License-Identifier: BSD-2-Clause
 *
 * One of three ranks stops in the middle of the work (SIGSTOP: nothing of it runs any more, but its connections stay). 5021-stall.t
 * runs this under mpirun as `5020-mpi-stall.t KIND VICTIM`. Every other rank must come back from rondo_launch after one deadline, say whom it
 * waited for and in which step, and be able to exit: code 5 where all of that holds, else 1 with a line on stderr that says what not.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <unistd.h>

#include "core/internal.h"
#include "shift.h"
#include "tap.h"

#define CALLS 20          /* before it stops */
#define FLOATS 200000     /* of the ring: too many to be sent without the receiver */

struct stall {
    const char *kind;
    int victim, rank, code, calls;
    double last;          /* when the last call that worked ended */
    char text[1024];
};

static int ring(rondo_context *ctx, const void *out, void *in, const char *step)
{
    struct shift s;
    int err = shift_start(ctx, &s, 1, out, FLOATS * sizeof(float), in, FLOATS * sizeof(float), RONDO_OP_SHIFT, step_named(step));
    if (!err)
        err = shift_finish(ctx, &s, NULL);
    return err ? err : rondo__fence(ctx, step_named(step));
}

static int call(rondo_context *ctx, const struct stall *s, float *room, float *other)
{
    size_t bytes_of[3] = { sizeof *room, sizeof *room, sizeof *room };
    if (!strcmp(s->kind, "barrier"))
        return rondo_barrier(ctx);
    if (!strcmp(s->kind, "agreement"))
        return rondo_agree(ctx, 7, 0, "the seven");
    if (!strcmp(s->kind, "all-gather"))
        return rondo_all_gather(ctx, room, other, bytes_of);
    if (!strcmp(s->kind, "broadcast"))
        return rondo_broadcast(ctx, room, FLOATS * sizeof *room, s->calls % 3);
    return rondo__collective_failed(ctx, ring(ctx, room, other, "ring"));
}

static int body(rondo_context *ctx, void *arg)
{
    struct stall *s = arg;
    float *room = rondo__alloc_zero(FLOATS, sizeof *room), *other = rondo__alloc_zero(FLOATS, sizeof *other);
    int err = room && other ? 0 : RONDO_ENOMEM;
    s->rank = ctx->rank;
    while (!err) {
        s->last = rondo__now();
        if (s->calls == CALLS && s->rank == s->victim)
            raise(SIGSTOP);
        err = call(ctx, s, room, other);
        s->calls++;
    }
    s->code = err;
    snprintf(s->text, sizeof s->text, "%s", rondo_error_text());
    rondo__free(room);
    rondo__free(other);
    return err;
}

int main(int argc, char **argv)
{
    if (argc != 3)
        return skip_all("5021-stall.t runs this under mpirun");
    struct stall s = { .kind = argv[1], .victim = atoi(argv[2]) };
    char who[64], step[64];
    rondo_context_desc desc = RONDO_CONTEXT_DESC_INIT;
    desc.transport = "mpi";
    alarm(60);
    int err = rondo_launch(0, &desc, body, &s);
    snprintf(who, sizeof who, "rank %d did not answer rank ", s.victim);
    snprintf(step, sizeof step, "in step %s", s.kind);
    fprintf(stderr, "rank %d: %.2f s: %s\n", s.rank, rondo__now() - s.last, s.text);
    int good = (s.code == RONDO_ETIMEDOUT || s.code == RONDO_EPEER) && strstr(s.text, who) && strstr(s.text, step) &&
               (err == RONDO_ETIMEDOUT || err == RONDO_EPEER) && strstr(rondo_error_text(), who);
    if (!good)
        fprintf(stderr, "rank %d: %d %s; launch: %d %s\n", s.rank, s.code, s.text, err, rondo_error_text());
    return good ? 5 : 1;
}
