/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Many ranks at once: makes a context on each rank that a transport starts, runs the caller's body on it and brings the
 * first failure home with its sentence. A rank whose body fails revokes its communicator here, so nobody waits for it.
 */
#include "core/internal.h"

#include <stdio.h>

#define TEXT_BYTES 1024

struct job {
    rondo_context_desc desc;
    const struct rondo_transport_ops *ops;
    rondo_body *body;
    void *arg;
};

static int run(void *arg, const struct rondo_boot *boot)
{
    const struct job *job = arg;
    struct rondo_boot ours = *boot;
    ours.seconds = job->desc.deadline;
    rondo_context *ctx = NULL;
    int code = rondo__context_open(&ctx, &job->desc, job->ops, &ours);
    if (code)
        return code;
    code = job->body(ctx, job->arg);
    char text[TEXT_BYTES];
    if (code) {
        const char *own = rondo_error_text();
        /* A positive code is the caller's own; our last sentence need not belong to it. */
        if (code > 0 || !*own)
            snprintf(text, sizeof text, "the body of rank %d returned %d", ctx->rank, code);
        else
            snprintf(text, sizeof text, "%s", own);
        rondo_context_revoke(ctx, code, text);
    }
    rondo_context_destroy(ctx);
    return code ? rondo__fail(code, "%s", text) : 0;
}

int rondo_launch(int ranks, const rondo_context_desc *desc, rondo_body *body, void *arg)
{
    if (!body)
        return rondo__fail(RONDO_EINVAL, "rondo_launch: body is NULL");
    struct job job = { .body = body, .arg = arg };
    int err = rondo__context_desc(&job.desc, desc);
    if (err)
        return err;
    if (job.desc.transport_handle)
        return rondo__fail(RONDO_EINVAL, "rondo_launch: transport_handle is given; to join a communicator that exists use "
                           "rondo_context_create");
    err = rondo__transport_find(&job.ops, job.desc.transport ? job.desc.transport : rondo__env_transport());
    if (err)
        return err;
    if (!job.ops->launch)
        return rondo__fail(RONDO_ENOTSUP, "transport %s cannot start ranks; join with rondo_context_create", job.ops->name);
    return job.ops->launch(ranks, job.desc.deadline, run, &job);
}

int rondo_run_threads(int ranks, rondo_body *body, void *arg)
{
    return rondo_launch(ranks, NULL, body, arg);
}
