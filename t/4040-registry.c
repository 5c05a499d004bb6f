/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What exists by name, what does not, and descriptors that cannot be: each refusal has a code and a sentence that says what
 * would be accepted. Modules are tested by 4050-modules.t.
 */
#include <unistd.h>

#include "core/internal.h"
#include "tap.h"

static int nothing(rondo_context *ctx, void *arg)
{
    (void)ctx;
    (void)arg;
    return 0;
}

static int count(rondo_context *ctx, void *arg)
{
    _Atomic int *calls = arg;
    ++*calls;
    return ctx->ranks == 700 ? 0 : rondo__fail(RONDO_EINVAL, "%d ranks", ctx->ranks);
}

/* The sentence must hold the word. */
static void refused(const rondo_context_desc *desc, int code, const char *word, const char *what)
{
    rondo_context *ctx = (rondo_context *)(void *)&ctx;
    is_int(rondo_context_create(&ctx, desc), code, "%s is refused", what);
    ok(ctx == NULL && strstr(rondo_error_text(), word), "with a sentence: %s", rondo_error_text());
}

int main(void)
{
    alarm(60);
    unsetenv("RONDO_TEST_HOOK");
    unsetenv("RONDO_DEADLINE");
    unsetenv("RONDO_MODULE_PATH");
    int usable = -1;
    ok(rondo_device_name(0, &usable) && !strcmp(rondo_device_name(0, NULL), "cpu") && usable == 1, "the device cpu");
    usable = -1;
    ok(!strcmp(rondo_device_name(1, &usable), "cuda") && (usable == 0 || usable == 1), "and cuda, usable or not");
    ok(!rondo_device_name(2, &usable) && !rondo_device_name(-1, NULL), "and no other");
    usable = -1;
    ok(!strcmp(rondo_transport_name(0, &usable), "threads") && usable == 1, "the transport threads");
    usable = -1;
    ok(!strcmp(rondo_transport_name(1, &usable), "mpi") && (usable == 0 || usable == 1), "and mpi, usable or not");
    ok(!strcmp(rondo_transport_name(2, NULL), "nccl") && !strcmp(rondo_transport_name(3, NULL), "nccl_mpi"), "nccl, over either of them");
    ok(!rondo_transport_name(4, &usable) && !rondo_transport_name(-1, NULL), "and no other");
    int isas = 0, scalar = 0;
    for (const char *name; (name = rondo_isa_name(isas, &usable)); isas++)
        scalar |= !strcmp(name, "scalar") && usable == 1;
    ok(isas > 0 && scalar && !rondo_isa_name(-1, NULL), "%d instruction sets, scalar among them", isas);
    for (int op = 0; op < RONDO_OP_COUNT; op++)
        ok(rondo_operation_name(op) != NULL, "operation %d is called %s", op, rondo_operation_name(op));
    ok(!rondo_operation_name(-1) && !rondo_operation_name(RONDO_OP_COUNT), "others have no name");

    rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
    d.device = "tpu";
    refused(&d, RONDO_EINVAL, "cpu, cuda", "an unknown device");
    d = (rondo_context_desc)RONDO_CONTEXT_DESC_INIT;
    d.transport = "carrier-pigeon";
    refused(&d, RONDO_EINVAL, "threads, mpi", "an unknown transport");
    d.transport = "../../etc/passwd";
    refused(&d, RONDO_EINVAL, "threads, mpi", "a transport with a path in its name");
    d.transport = "";
    refused(&d, RONDO_EINVAL, "threads, mpi", "a transport without a name");
    d.transport = "threads";
    refused(&d, RONDO_EINVAL, "rondo_launch", "joining threads that nobody launched");
    d = (rondo_context_desc)RONDO_CONTEXT_DESC_INIT;
    d.transport_handle = &d;
    refused(&d, RONDO_EINVAL, "transport_handle", "a handle without a transport");
    is_int(rondo_launch(2, &d, nothing, NULL), RONDO_EINVAL, "also by rondo_launch");
    d = (rondo_context_desc)RONDO_CONTEXT_DESC_INIT;
    d.threads = -1;
    refused(&d, RONDO_EINVAL, "threads", "a negative number of threads");
    d = (rondo_context_desc)RONDO_CONTEXT_DESC_INIT;
    d.device_index = -1;
    refused(&d, RONDO_EINVAL, "device_index", "a negative device");
    d = (rondo_context_desc)RONDO_CONTEXT_DESC_INIT;
    d.deadline = -0.5;
    refused(&d, RONDO_EINVAL, "deadline", "a negative deadline");
    d.deadline = 0.0 / (double)(usable * 0);
    refused(&d, RONDO_EINVAL, "deadline", "a deadline that is no number");
    d = (rondo_context_desc)RONDO_CONTEXT_DESC_INIT;
    d.device = "cpu";
    d.isa = "vax";
    refused(&d, RONDO_EINVAL, "vax", "an unknown instruction set");
    d = (rondo_context_desc)RONDO_CONTEXT_DESC_INIT;
    d.struct_size = 0;
    refused(&d, RONDO_EINVAL, "_INIT", "a descriptor without its size");
    is_int(rondo_context_create(NULL, NULL), RONDO_EINVAL, "no place for the result");

    is_int(rondo_launch(0, NULL, nothing, NULL), RONDO_EINVAL, "0 threads: %s", rondo_error_text());
    is_int(rondo_launch(-3, NULL, nothing, NULL), RONDO_EINVAL, "-3 threads");
    is_int(rondo_launch(100000, NULL, nothing, NULL), RONDO_EINVAL, "100000 threads: %s", rondo_error_text());
    is_int(rondo_launch(2, NULL, NULL, NULL), RONDO_EINVAL, "no body");

    /* calls on nothing */
    rondo_context *none = NULL;
    rondo_comm_stats stats = RONDO_COMM_STATS_INIT;
    rondo_context_info info = RONDO_CONTEXT_INFO_INIT;
    size_t bytes = 1;
    char byte = 0;
    ok(rondo_barrier(NULL) == RONDO_EINVAL && rondo_broadcast(NULL, &byte, 1, 0) == RONDO_EINVAL, "no context: barrier, broadcast");
    ok(rondo_all_gather(NULL, &byte, &byte, &bytes) == RONDO_EINVAL && rondo_agree(NULL, 1, 0, "x") == RONDO_EINVAL, "all-gather, agree");
    ok(rondo_context_split(&none, NULL, 0, 0) == RONDO_EINVAL && rondo_context_query(NULL, &info) == RONDO_EINVAL, "split, query");
    ok(rondo_comm_query(NULL, &stats) == RONDO_EINVAL && rondo_context_rank(NULL) < 0 && rondo_context_ranks(NULL) < 0, "statistics, rank");
    rondo_context_destroy(NULL);
    rondo_context_revoke(NULL, 1, "x");
    rondo_context_trace(NULL, NULL, NULL);

    if (long_tests()) {
        _Atomic int calls = 0;
        is_int(rondo_launch(700, NULL, count, (void *)&calls), 0, "700 ranks");
        is_int(calls, 700, "all ran");
    }
    return done();
}
