/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Plans of the delta rule: made from a descriptor without a message, the same on every rank but for what only concerns the rank itself. The hash
 * over all that ranks must agree on is compared when the plan is first executed.
 */
#include "delta/shown.h"

const char *rondo_delta_way_name(int way)
{
    static const char *const names[] = { "auto", "serial", "pipeline", "affine", "columns", "legacy" };
    return way >= 0 && way < (int)(sizeof names / sizeof *names) ? names[way] : NULL;
}

/* 7 K V for a token: two multiply-adds and a multiplication on each element of the state, and two multiply-adds that read it. */
static double flops(const struct rondo__delta_design *p)
{
    const rondo_delta_desc *d = &p->desc;
    return 7.0 * (double)d->key_dim * (double)d->value_dim * (double)d->heads * (double)p->rows;
}

static int64_t segments(const struct rondo__delta_design *p)
{
    int64_t count = 0;
    for (int64_t n = 0; n < p->desc.sequences; n++)
        if (rondo__delta_tiled(p))
            count += rondo__delta_tiles(p, 0, n).tiles;
        else
            count += p->cu[n + 1] > p->cu[n];
    for (int32_t r = 1; r < p->ranks && !rondo__delta_tiled(p) && p->desc.way != RONDO_DELTA_COLUMNS; r++) {
        const int64_t row = p->begin[r];
        if (row == p->begin[r + 1] || row == 0)   /* nobody begins here */
            continue;
        count += p->cu[rondo__delta_sequence(p, row)] < row;
    }
    return count;
}

static void fill_info(rondo_delta *plan)
{
    const struct rondo__delta_design *p = &plan->design;
    const struct rondo__schedule *s = &plan->built.schedule;
    struct rondo__counts counts;
    rondo__schedule_count(s, &counts);
    plan->info = (rondo_delta_info){ .struct_size = sizeof plan->info, .way = p->desc.way, .first_row = p->begin[plan->ctx->rank],
                                     .rows = p->begin[plan->ctx->rank + 1] - p->begin[plan->ctx->rank], .rows_total = p->rows,
                                     .operations = s->operations.count, .messages = counts.messages, .bytes = counts.bytes, .flops = flops(p),
                                     .hash = rondo__delta_hash(p), .segments = segments(p) };
    for (int kind = 0; kind < 3; kind++)
        plan->info.workspace_bytes += s->workspace_bytes[kind];
}

static int make(rondo_delta *plan, const rondo_delta_desc *desc)
{
    const struct rondo_device_ops *ops = rondo__ops(plan->ctx);
    struct rondo__machine machine;
    rondo_delta_desc d;
    int64_t beside = 1;
    const rondo_hardware *hardware = rondo__hardware_of(plan->ctx, &beside);
    const struct rondo__foresight on = { hardware, beside };
    rondo__machine_of(plan->ctx, &machine);
    int err = rondo__desc_copy(&d, sizeof d, desc, "rondo_delta_desc");
    if (!err)
        err = rondo__delta_foresee(&d, plan->ctx->ranks, &machine, &on);
    if (!err)
        err = rondo__delta_design(&plan->design, &d, plan->ctx->ranks);
    if (err)
        return err;
    if (!RONDO_HAS(ops, delta) || !RONDO_HAS(ops, delta_fold))
        return rondo__fail(RONDO_ENOTSUP, "rondo_delta_create: device %s does not compute the delta rule; cpu does", ops->name);
    err = rondo__delta_build(&plan->built, &plan->design, plan->ctx->rank, &machine);
    if (err)
        return err;
    const struct rondo__schedule *s = &plan->built.schedule;
    plan->states = rondo__alloc_zero((size_t)s->buffers.count, sizeof *plan->states);
    if (!plan->states)
        return rondo__fail(RONDO_ENOMEM, "rondo_delta_create: no memory for the plan");
    for (int kind = 0; kind < 3 && !err; kind++)
        if (s->workspace_bytes[kind])
            err = ops->memory_new(rondo__dev(plan->ctx), kind, s->workspace_bytes[kind], &plan->room[kind]);
    if (!err)
        err = rondo__runner_make(&plan->runner, plan->ctx, s, NULL, 0, 0);
    const int64_t tiles = rondo__delta_tile_count(&plan->design, plan->ctx->rank);
    if (!err && tiles && !(plan->bounds = rondo__alloc_zero((size_t)(tiles * plan->design.desc.heads), sizeof *plan->bounds)))
        err = rondo__fail(RONDO_ENOMEM, "rondo_delta_create: no memory for the certificates of %lld tiles", (long long)tiles);
    if (!err)
        fill_info(plan);
    if (!err && plan->design.desc.gradients)
        err = rondo__delta_backward_make(plan, &machine);
    return err;
}

int rondo_delta_create(rondo_delta **out, rondo_context *ctx, const rondo_delta_desc *desc)
{
    if (out)
        *out = NULL;
    if (!out || !ctx || !desc)
        return rondo__fail(RONDO_EINVAL, "rondo_delta_create: %s is NULL", !out ? "out" : !ctx ? "the context" : "the descriptor");
    rondo_delta *plan = rondo__alloc_zero(1, sizeof *plan);
    if (!plan)
        return rondo__fail(RONDO_ENOMEM, "rondo_delta_create: no memory for the plan");
    plan->ctx = ctx;
    int err = make(plan, desc);
    if (err) {
        rondo_delta_destroy(plan);
        return err;
    }
    *out = plan;
    return 0;
}

void rondo_delta_destroy(rondo_delta *plan)
{
    if (!plan)
        return;
    rondo__runner_free(plan->runner);
    for (int kind = 0; kind < 3; kind++)
        if (plan->room[kind])
            rondo__ops(plan->ctx)->memory_free(rondo__dev(plan->ctx), kind, plan->room[kind], plan->built.schedule.workspace_bytes[kind]);
    for (int i = 0; i < RONDO_DELTA_CALLERS; i++)
        if (plan->dense[i])
            rondo__ops(plan->ctx)->memory_free(rondo__dev(plan->ctx), rondo__delta_memory(plan), plan->dense[i], plan->dense_bytes[i]);
    rondo__delta_unbuild(&plan->built);
    rondo__delta_backward_free(plan);
    rondo__delta_design_free(&plan->design);
    rondo__free(plan->states);
    rondo__free(plan->bounds);
    rondo__free(plan);
}

int rondo_delta_query(const rondo_delta *plan, rondo_delta_info *info)
{
    if (!plan)
        return rondo__fail(RONDO_EINVAL, "rondo_delta_query: the plan is NULL");
    return rondo__info_copy(info, &plan->info, sizeof plan->info, "rondo_delta_info");
}

int rondo_delta_keeper(const rondo_delta *plan, int64_t sequence, int64_t position)
{
    if (!plan)
        return rondo__fail(RONDO_EINVAL, "rondo_delta_keeper: the plan is NULL");
    const struct rondo__delta_design *p = &plan->design;
    if (sequence < 0 || sequence >= p->desc.sequences || position < 0 || position > p->cu[sequence + 1] - p->cu[sequence])
        return rondo__fail(RONDO_EINVAL, "rondo_delta_keeper: sequence %lld, position %lld; there are %lld sequences, and positions from 0 to their "
                                         "lengths", (long long)sequence, (long long)position, (long long)p->desc.sequences);
    return rondo__delta_keeper(p, sequence, position);
}
