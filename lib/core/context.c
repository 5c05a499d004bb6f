/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A context is one rank: a device that computes and a transport that moves bytes. This file makes and ends them, cuts
 * sub-groups out of them and answers what they run on. launch.c starts many at once; comm.c moves data over them.
 */
#include "core/internal.h"
#include "plan/plan.h"
#include "schedule/schedule.h"

#include <stdatomic.h>

int rondo__context_desc(rondo_context_desc *ours, const rondo_context_desc *theirs)
{
    const rondo_context_desc empty = RONDO_CONTEXT_DESC_INIT;
    int err = rondo__desc_copy(ours, sizeof *ours, theirs ? theirs : &empty, "rondo_context_desc");
    if (err)
        return err;
    if (!ours->device)
        ours->device = rondo__env_device();
    if (ours->threads < 0)
        return rondo__fail(RONDO_EINVAL, "rondo_context_desc: threads is %d; it takes 0 (shared out evenly) or more", ours->threads);
    if (ours->device_index < 0)
        return rondo__fail(RONDO_EINVAL, "rondo_context_desc: device_index is %d; it counts from 0", ours->device_index);
    if (ours->deadline != 0.0 && !(ours->deadline > 0.0 && ours->deadline <= 1e9))
        return rondo__fail(RONDO_EINVAL, "rondo_context_desc: deadline is %g; it takes seconds, above 0 and at most 1e9, or 0 for the "
                           "default", ours->deadline);
    if (ours->deadline == 0.0)
        return rondo__env_deadline(&ours->deadline);
    return 0;
}

/* ---- the device, shared between a context and what was split from it ---- */

static int device_open(struct rondo_shared_device **out, const rondo_context_desc *desc, int rank, int cores)
{
    const struct rondo_device_ops *ops;
    char name[RONDO_DEVICE_NAME];
    int32_t index = desc->device_index;
    int err = rondo__device_deal(desc->device, rank, name, &index);
    if (!err)
        err = rondo__device_find(&ops, name);
    if (err)
        return err;
    const uint64_t before = rondo__last_failure();
    if (!ops->probe()) {   /* it may have said why */
        const bool why = rondo__last_failure() != before;
        return rondo__fail(RONDO_ENOTSUP, "device %s cannot be used on this machine%s%s", ops->name, why ? ": " : "", why ? rondo_error_text() : "");
    }
    struct rondo_shared_device *shared = rondo__alloc_zero(1, sizeof *shared);
    if (!shared)
        return rondo__fail(RONDO_ENOMEM, "no memory for a device handle");
    struct rondo_device_desc want = { .index = index, .threads = desc->threads, .isa = desc->isa };
    if (want.threads == 0)
        want.threads = cores > 0 ? cores : 1;
    want.crowded = want.threads > cores;
    err = ops->attach(&shared->dev, &want);
    const char *spec = rondo__env_hook();
    if (!err && spec) {
        const struct rondo_device_ops *inner = ops;
        err = rondo__hook_wrap_device(spec, &ops, &shared->dev);
        if (err)
            inner->detach(shared->dev);
    }
    if (err) {
        rondo__free(shared);
        return err;
    }
    shared->ops = ops;
    shared->references = 1;
    *out = shared;
    return 0;
}

struct rondo_shared_device *rondo__device_keep(struct rondo_shared_device *shared)
{
    atomic_fetch_add(&shared->references, 1);
    return shared;
}

/* By any thread: weights that ranks share are given back by the last of them. */
void rondo__device_release(struct rondo_shared_device *shared)
{
    if (!shared || atomic_fetch_sub(&shared->references, 1) > 1)
        return;
    shared->ops->detach(shared->dev);
    rondo__free(shared);
}

/* ---- contexts ---- */

/* The endpoint of a rank, wrapped by the test hook where the environment asks for it. */
static int endpoint_open(rondo_context *ctx, const struct rondo_transport_ops *ops, const struct rondo_boot *boot)
{
    struct rondo_endpoint *ep = NULL;
    int err = ops->join(&ep, boot);
    if (err)
        return err;
    const char *spec = rondo__env_hook();
    if (spec) {
        err = rondo__hook_wrap(spec, &ops, &ep);
        if (err) {
            ops->revoke(ep, err, rondo_error_text());
            ops->leave(ep);
            return err;
        }
    }
    ctx->transport = ops;
    ctx->endpoint = ep;
    ctx->rank = ops->rank(ep);
    ctx->ranks = ops->ranks(ep);
    return 0;
}

/* ---- hardware ---- */

/* As somebody gives it, or $RONDO_HARDWARE names it; *hash: of what all ranks must be given alike. */
static int hardware_open(rondo_context *ctx, const rondo_context_desc *desc, uint64_t *hash)
{
    const char *name = desc->hardware ? NULL : rondo__env_hardware();
    rondo_hardware given = RONDO_HARDWARE_INIT, complete;
    int err = 0;
    if (!desc->hardware && !name)
        return 0;
    if (name)
        err = rondo_hardware_read(name, &given);
    if (!err)
        err = rondo__hardware_complete(&complete, name ? &given : desc->hardware);
    if (err)
        return err;
    ctx->hardware = rondo__alloc(sizeof complete);
    if (!ctx->hardware)
        return rondo__fail(RONDO_ENOMEM, "no memory for a context's hardware");
    complete.name = NULL;
    *ctx->hardware = complete;
    *hash = rondo__hash_word(*hash, rondo__hardware_hash(&complete));
    return 0;
}

/* As these ranks see it, which all have it: where one has fewer threads than others, it is whom they wait for. */
static int hardware_fit(rondo_context *ctx)
{
    int64_t threads = rondo__ops(ctx)->threads_used(rondo__dev(ctx));
    const bool together = ctx->endpoint && !strcmp(ctx->transport->name, "threads");
    if (!ctx->hardware)
        return 0;
    const int err = rondo__agree_least(ctx, &threads, "threads of ranks");
    rondo__hardware_run(ctx->hardware, together, !ctx->endpoint || ctx->transport->ranks_here(ctx->endpoint) == ctx->ranks, ctx->ranks, threads);
    return err;
}

const rondo_hardware *rondo__hardware_of(const rondo_context *ctx, int64_t *beside)
{
    const rondo_context *first = ctx;
    while (first->parent)
        first = first->parent;
    *beside = first->ranks / ctx->ranks;
    return first->hardware;
}

/* What the endpoint reaches of this device's memory. */
static int look_at_reach(rondo_context *ctx)
{
    ctx->reached = 1u << RONDO_MEMORY_HOST;
    return ctx->endpoint && ctx->transport->reaches ? ctx->transport->reaches(ctx->endpoint, rondo__ops(ctx), rondo__dev(ctx), &ctx->reached) : 0;
}

/* Last of all: it serves both of them. */
static int data_open(rondo_context *ctx)
{
    int peer = -1;
    if (!ctx->endpoint || !ctx->transport->data_open)
        return 0;
    int err = ctx->transport->data_open(&ctx->data, ctx->endpoint, rondo__ops(ctx), rondo__dev(ctx), &peer);
    return err ? rondo__collective_failed(ctx, rondo__comm_failed(ctx, err, peer, "data plane")) : 0;
}

int rondo__context_open(rondo_context **out, const rondo_context_desc *desc, const struct rondo_transport_ops *ops,
                        const struct rondo_boot *boot)
{
    rondo_context *ctx = rondo__alloc_zero(1, sizeof *ctx);
    if (!ctx)
        return rondo__fail(RONDO_ENOMEM, "no memory for a context");
    ctx->ranks = 1;
    ctx->deadline = desc->deadline;
    ctx->stats.struct_size = sizeof ctx->stats;
    int err = ops ? endpoint_open(ctx, ops, boot) : 0;
    if (err) {
        rondo__free(ctx);
        return err;
    }
    int cores = rondo__cores();
    if (ctx->endpoint && ctx->transport->cores)
        cores = ctx->transport->cores(ctx->endpoint);
    else if (ctx->endpoint)
        cores /= ctx->transport->ranks_here(ctx->endpoint);
    err = device_open(&ctx->device, desc, ctx->rank, cores);
    if (!err && ctx->device->ops->check)
        err = ctx->device->ops->check(ctx->device->dev);
    if (!err)
        err = look_at_reach(ctx);
    /* A rank that could not open its device must not leave the others waiting in their first collective. */
    uint64_t hash = rondo__hash_word(RONDO_NUMERICS, sizeof(size_t));
    for (const char *c = RONDO_VERSION_STRING; *c; c++)
        hash = rondo__hash_word(hash, (unsigned char)*c);
    if (!err)
        err = hardware_open(ctx, desc, &hash);
    err = rondo_agree(ctx, hash, err, "the version of rondo, or hardware (RONDO_HARDWARE)");
    if (!err)
        err = hardware_fit(ctx);
    if (!err)
        err = data_open(ctx);
    if (err) {
        rondo_context_destroy(ctx);
        return err;
    }
    *out = ctx;
    return 0;
}

int rondo_context_create(rondo_context **out, const rondo_context_desc *desc)
{
    if (!out)
        return rondo__fail(RONDO_EINVAL, "rondo_context_create: out is NULL");
    *out = NULL;
    rondo_context_desc ours;
    int err = rondo__context_desc(&ours, desc);
    if (err)
        return err;
    if (!ours.transport) {
        if (ours.transport_handle)
            return rondo__fail(RONDO_EINVAL, "rondo_context_create: transport_handle is given without a transport; name one, or leave "
                               "the handle NULL for one rank alone");
        return rondo__context_open(out, &ours, NULL, NULL);
    }
    const struct rondo_transport_ops *ops;
    err = rondo__transport_find(&ops, ours.transport);
    if (err)
        return err;
    struct rondo_boot boot;
    memset(&boot, 0, sizeof boot);
    boot.handle = ours.transport_handle;
    boot.seconds = ours.deadline;
    return rondo__context_open(out, &ours, ops, &boot);
}

/* In the other order: the data plane uses the device, and both use what the endpoint reaches. */
void rondo_context_destroy(rondo_context *ctx)
{
    if (!ctx)
        return;
    if (ctx->data)
        ctx->transport->data_close(ctx->data);
    if (ctx->device)
        rondo__memory_end(ctx);
    rondo__device_release(ctx->device);
    if (ctx->endpoint)
        ctx->transport->leave(ctx->endpoint);
    rondo__free(ctx->hardware);
    rondo__free(ctx->origin);
    rondo__free(ctx);
}

int rondo_context_rank(const rondo_context *ctx)
{
    return ctx ? ctx->rank : rondo__fail(RONDO_EINVAL, "rondo_context_rank: the context is NULL");
}

int rondo_context_ranks(const rondo_context *ctx)
{
    return ctx ? ctx->ranks : rondo__fail(RONDO_EINVAL, "rondo_context_ranks: the context is NULL");
}

/* The numbers that the ranks of a new context have in the one that all others were split from: in the order that split() gives them. */
static int know_names(rondo_context *ctx, int32_t color, int32_t key, int32_t **out)
{
    struct wish {
        int32_t color, key, name;
    } mine = { color, key, rondo__rank_name(ctx, ctx->rank) }, *all = rondo__alloc((size_t)ctx->ranks * sizeof *all);
    size_t *bytes = rondo__alloc((size_t)ctx->ranks * sizeof *bytes);
    int32_t *names = rondo__alloc((size_t)ctx->ranks * sizeof *names), count = 0;
    int err = all && bytes && names ? 0 : rondo__fail(RONDO_ENOMEM, "no memory for the names of %d ranks", (int)ctx->ranks);
    for (int32_t r = 0; r < ctx->ranks && !err; r++)
        bytes[r] = sizeof mine;
    /* also where this rank has failed: the others are in it */
    err = err ? rondo__collective_failed(ctx, err) : rondo_all_gather(ctx, &mine, all, bytes);
    for (int32_t r = 0; r < ctx->ranks && !err; r++) {
        if (all[r].color != color)
            continue;
        int32_t at = count++;
        for (; at > 0 && all[names[at - 1]].key > all[r].key; at--)
            names[at] = names[at - 1];
        names[at] = r;
    }
    for (int32_t i = 0; i < count; i++)
        names[i] = all[names[i]].name;
    rondo__free(all);
    rondo__free(bytes);
    if (err) {
        rondo__free(names);
        return err;
    }
    *out = names;
    return 0;
}

int rondo_context_split(rondo_context **out, rondo_context *ctx, int color, int key)
{
    if (out)
        *out = NULL;
    if (!ctx)
        return rondo__fail(RONDO_EINVAL, "rondo_context_split: the context is NULL");
    /* From here on a failure is told to the other ranks, which wait in the agreement. */
    int err = out ? 0 : rondo__fail(RONDO_EINVAL, "rondo_context_split: out is NULL");
    rondo_context *child = NULL;
    if (!err && color < -1)
        err = rondo__fail(RONDO_EINVAL, "rondo_context_split: color is %d; it takes 0 or more, or -1 for no group", color);
    if (!err && color >= 0) {
        child = rondo__alloc_zero(1, sizeof *child);
        if (!child)
            err = rondo__fail(RONDO_ENOMEM, "no memory for a context");
    }
    /* After this every rank is here and means to split, so that the transport's own waits are short. */
    err = rondo_agree(ctx, 0, err, "the split");
    int32_t *names = NULL;
    if (!err && ctx->endpoint)
        err = know_names(ctx, color, key, &names);
    struct rondo_endpoint *ep = NULL;
    if (!err && ctx->endpoint) {
        int peer = -1;
        err = ctx->transport->split(ctx->endpoint, color, key, &ep, &peer);
        if (err)
            err = rondo__collective_failed(ctx, rondo__comm_failed(ctx, err, peer, "split"));
    }
    if (err || !child) {
        rondo__free(names);
        rondo__free(child);
        return err;
    }
    child->device = ctx->device;
    rondo__device_keep(child->device);
    child->ranks = 1;
    child->deadline = ctx->deadline;
    child->stats.struct_size = sizeof child->stats;
    child->trace = ctx->trace;
    child->trace_user = ctx->trace_user;
    if (ep) {
        child->transport = ctx->transport;
        child->endpoint = ep;
        child->rank = ctx->transport->rank(ep);
        child->ranks = ctx->transport->ranks(ep);
    }
    child->parent = ctx;
    child->reached = ep ? ctx->reached : 1u << RONDO_MEMORY_HOST;
    child->origin = names;
    err = data_open(child);
    if (err) {
        err = rondo__collective_failed(ctx, err);
        rondo_context_destroy(child);
        return err;
    }
    *out = child;
    return 0;
}

int rondo_context_query(const rondo_context *ctx, rondo_context_info *info)
{
    if (!ctx)
        return rondo__fail(RONDO_EINVAL, "rondo_context_query: the context is NULL");
    rondo_context_info ours = RONDO_CONTEXT_INFO_INIT;
    ours.device = ctx->device->ops->name;
    ours.transport = ctx->endpoint ? ctx->transport->name : "none";
    ours.isa = ctx->device->ops->isa_used(ctx->device->dev);
    ours.rank = ctx->rank;
    ours.ranks = ctx->ranks;
    ours.threads = ctx->device->ops->threads_used(ctx->device->dev);
    struct rondo__machine machine;
    rondo__machine_of(ctx, &machine);
    ours.transfer_memory = ctx->endpoint ? rondo__machine_transfer_memory(&machine) : RONDO_MEMORY_HOST;
    return rondo__info_copy(info, &ours, sizeof ours, "rondo_context_info");
}
