/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo_attention_create, update and destroy: a plan is made from a descriptor without a message, the same on every rank but for what only
 * concerns the rank itself. The hash over all that ranks must agree on is compared when the plan is first executed.
 *
 * To update a plan is to make it again in its memory: nothing of the old one is looked at, everything that was allocated for it is used for
 * the new one. A new plan is an empty one that is updated, but for the memory that only making takes, which it gives back.
 */
#include "attention/backward.h"
#include "attention/mask/mask.h"

static int no_memory(void)
{
    return rondo__fail(RONDO_ENOMEM, "rondo_attention_create: no memory for the plan");
}

/* ---- what a plan says of itself ---- */

static size_t tables_bytes(const struct rondo__tables *t)
{
    return rondo__list_bytes(&t->spans, sizeof(rondo_span)) + rondo__list_bytes(&t->leaves, sizeof(struct rondo_leaf)) +
           rondo__list_bytes(&t->steps, sizeof(struct rondo_tree_step)) + rondo__list_bytes(&t->jobs, sizeof(struct rondo_job)) +
           rondo__list_bytes(&t->places, sizeof(struct rondo_place));
}

static size_t plan_bytes(const rondo_attention *plan)
{
    size_t bytes = sizeof *plan + rondo__list_bytes(&plan->design.numbers, 7 * sizeof(int64_t)) + rondo__list_bytes(&plan->rows, 7 * sizeof(int64_t)) +
                   rondo__mask_bytes(&plan->design.mask) + rondo__arena_bytes(&plan->design.arena);
    for (int i = 0; i < 4; i++)
        bytes += plan->design.placements[i / 2][i % 2] ? rondo__placement_bytes(plan->design.placements[i / 2][i % 2]) : 0;
    return bytes + tables_bytes(&plan->part.tables) + tables_bytes(&plan->part.probs) + rondo__schedule_bytes(&plan->part.schedule) +
           rondo__runner_bytes(plan->runner) + rondo__backward_bytes(plan->backward);
}

static int fill_info(rondo_attention *plan)
{
    rondo_attention_info *info = &plan->info;
    const struct rondo__design *p = &plan->design;
    const struct rondo__schedule *s = &plan->part.schedule;
    const rondo_attention_desc *d = &p->desc;
    const struct rondo__flow *flow = p->survey.flow;
    struct rondo__counts counts;
    rondo__schedule_count(s, &counts);
    info->struct_size = sizeof *info;
    info->algorithm = d->algorithm;
    info->layout = d->layout;
    info->arithmetic = d->arithmetic;
    info->level = d->level;
    info->leaf = d->leaf;
    info->head_groups = p->groups;
    info->q_rows = plan->q_first[p->sequences];
    info->kv_rows = plan->kv_first[p->sequences];
    info->workspace_bytes = counts.workspace_bytes;
    info->pack_bytes = s->spare_bytes;
    info->device_bytes = rondo__runner_scratch(plan->runner) + s->workspace_bytes[RONDO_MEMORY_PINNED] + s->workspace_bytes[RONDO_MEMORY_DEVICE];
    info->operations = s->operations.count;
    info->messages = counts.messages;
    info->bytes = counts.bytes;
    info->messages_total = flow->messages * (uint64_t)p->groups;
    info->bytes_total = flow->bytes;
    info->visible_pairs = rondo__design_pairs(p) / (uint64_t)p->mask.heads;
    memcpy(info->grid, flow->grid, sizeof info->grid);
    info->flops = rondo__design_flops(p);
    info->probs_rows = plan->probs_first[p->sequences];
    info->hash = rondo__design_hash(p);
    rondo__tell_choice(p, &info->chosen_by, info->predicted_seconds);
    return rondo__design_balance(p, plan->rank, &info->visible_pairs_here, &info->imbalance);
}

/* ---- make and end ---- */

/* Packed rows of this rank, sequence after sequence. */
static int set_rows(rondo_attention *plan)
{
    const struct rondo__design *p = &plan->design;
    plan->kv_first = rondo__list_set(&plan->rows, 7 * sizeof(int64_t), p->sequences + 1);
    if (!plan->kv_first)
        return no_memory();
    memset(plan->kv_first, 0, ((size_t)p->sequences + 1) * 7 * sizeof(int64_t));
    plan->q_first = plan->kv_first + p->sequences + 1;
    plan->order = plan->q_first + p->sequences + 1;
    plan->bias_first = plan->order + p->sequences + 1;
    plan->zeros = plan->bias_first + p->sequences + 1;
    plan->probs_first = plan->zeros + p->sequences + 1;
    plan->probs_skip = plan->probs_first + p->sequences + 1;
    for (int64_t i = 0; i < p->sequences; i++) {
        plan->kv_first[i + 1] = plan->kv_first[i] + rondo_placement_held(p->keys, i, plan->rank);
        plan->q_first[i + 1] = plan->q_first[i] + rondo__rows_here(&p->survey, i, plan->rank);
        plan->bias_first[i + 1] = plan->bias_first[i] + p->tokens[i];
        plan->probs_first[i + 1] = plan->probs_first[i];
        if (!p->desc.probs)
            continue;
        plan->probs_first[i + 1] += rondo__rows_here(&p->probs, i, plan->rank);
        plan->probs_skip[i] = rondo__rows_before(&p->survey, i, plan->rank, p->probs_from[i] + p->shift[i]);
    }
    return 0;
}

static int make(rondo_attention *plan, const rondo_attention_desc *desc)
{
    struct rondo__machine machine;
    struct rondo_program_desc programs[2];
    int64_t beside = 1;
    rondo__machine_of(plan->ctx, &machine);
    plan->design.foresight = (struct rondo__foresight){ rondo__hardware_of(plan->ctx, &beside), beside };
    int err = rondo__design_again(&plan->design, desc, plan->ctx->ranks, &machine);
    if (!err)
        err = rondo__attention_device(plan->ctx, &plan->design.desc);
    if (!err)
        err = set_rows(plan);
    if (!err)
        err = rondo__design_build(&plan->design, plan->rank, &plan->part);
    if (err)
        return err;
    if (!plan->runner)   /* it is new: whoever updates it takes room to grow */
        rondo__part_trim(&plan->part);
    rondo__design_program(&plan->design, &plan->part, 0, programs);
    rondo__design_program(&plan->design, &plan->part, 1, programs + 1);
    err = rondo__runner_make(&plan->runner, plan->ctx, &plan->part.schedule, programs, plan->design.desc.probs ? 2 : 1,
                             plan->design.sequences);
    if (!err)
        err = fill_info(plan);
    return err ? err : rondo__backward_make(plan, desc->algorithm);
}

/* Without anything but its context. */
static void empty(rondo_attention *plan)
{
    rondo__backward_free(plan);
    rondo__runner_free(plan->runner);
    rondo__part_free(&plan->part);
    rondo__design_free(&plan->design);
    rondo__list_free(&plan->rows);
    *plan = (rondo_attention){ .ctx = plan->ctx, .rank = plan->rank };
}

int rondo_attention_create(rondo_attention **out, rondo_context *ctx, const rondo_attention_desc *desc)
{
    if (out)
        *out = NULL;
    if (!out || !ctx)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_create: %s is NULL", out ? "the context" : "out");
    rondo_attention *plan = rondo__alloc_zero(1, sizeof *plan);
    if (!plan)
        return no_memory();
    plan->ctx = ctx;
    plan->rank = ctx->rank;
    rondo__building(ctx, true);
    int err = make(plan, desc);
    if (!err)
        rondo__design_forget(&plan->design);
    rondo__building(ctx, false);
    if (err) {
        rondo_attention_destroy(plan);
        return err;
    }
    plan->info.plan_bytes = plan_bytes(plan);
    *out = plan;
    return 0;
}

int rondo_attention_update(rondo_attention *plan, const rondo_attention_desc *desc)
{
    if (!plan)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_update: the plan is NULL");
    int err = rondo__runner_rest(plan->runner);
    plan->agreed = 0;
    if (!err && !rondo__part_ready(&plan->part, !plan->updated))
        err = no_memory();
    if (!err)
        err = make(plan, desc);
    if (err)
        empty(plan);
    else
        plan->info.plan_bytes = plan_bytes(plan);
    plan->updated = !err;
    return err;
}

void rondo_attention_destroy(rondo_attention *plan)
{
    if (!plan)
        return;
    empty(plan);
    rondo__free(plan);
}

void rondo__attention_agreed(rondo_attention *plan)
{
    plan->agreed = 1;
}
