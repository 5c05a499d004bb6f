/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo_attention_execute: checks the caller's tensors before anything moves, binds the schedule to memory, lets the ranks agree on the
 * plan once, runs it, and ends in the same state on every rank whatever fails.
 */
#include "attention/attention.h"

static int prepare(rondo_attention *plan, const rondo_attention_io *io, rondo_attention_io *ours, struct rondo__given *given, void *workspace)
{
    const struct rondo_device_ops *ops = rondo__ops(plan->ctx);
    int err = plan->runner ? rondo__desc_copy(ours, sizeof *ours, io, "rondo_attention_io") : rondo__no_plan("rondo_attention_execute");
    if (!err && ops->check)
        err = ops->check(rondo__dev(plan->ctx));
    if (!err)
        err = rondo__check_io(plan, ours);
    if (!err && (uintptr_t)workspace % 64)
        err = rondo__fail(RONDO_EINVAL, "rondo_attention_execute: the workspace is not aligned to 64 bytes");
    if (err)
        return err;
    *given = (struct rondo__given){ .tensor = { &ours->q, &ours->k, &ours->v, &ours->out, &ours->lse, &ours->alibi, &ours->sinks, &ours->bias,
                                                 &ours->probs },
                                    .cached = plan->design.cached, .q_first = plan->q_first, .probs_skip = plan->probs_skip, .seed = ours->seed,
                                    .progress = ours->progress, .user = ours->user, .function = "rondo_attention_execute" };
    given->rows[RONDO_TENSOR_Q] = ours->q_row ? ours->q_row : plan->q_first;
    given->rows[RONDO_TENSOR_K] = given->rows[RONDO_TENSOR_V] = ours->kv_row ? ours->kv_row : plan->kv_first;
    given->rows[RONDO_TENSOR_OUT] = ours->out_row ? ours->out_row : plan->q_first;
    given->rows[RONDO_TENSOR_LSE] = ours->lse_row ? ours->lse_row : plan->q_first;
    given->rows[RONDO_TENSOR_ALIBI] = given->rows[RONDO_TENSOR_SINKS] = plan->zeros;
    given->rows[RONDO_TENSOR_BIAS] = ours->bias_row ? ours->bias_row : plan->bias_first;
    given->keys[RONDO_TENSOR_BIAS] = ours->bias_key;
    given->rows[RONDO_TENSOR_PROBS] = ours->probs_row ? ours->probs_row : plan->probs_first;
    given->keys[RONDO_TENSOR_PROBS] = ours->probs_key;
    return rondo__runner_bind(plan->runner, given, workspace);
}

int rondo_attention_execute(rondo_attention *plan, const rondo_attention_io *io, void *workspace)
{
    rondo_attention_io ours;
    struct rondo__given given;
    if (!plan)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_execute: the plan is NULL");
    int err = prepare(plan, io, &ours, &given, workspace);
    if (!plan->agreed && plan->design.ranks > 1) {
        err = rondo_agree(plan->ctx, plan->info.hash, err, "the attention plan");
        if (err)
            return err;
    }
    if (!err) {
        plan->agreed = 1;
        err = rondo__runner_run(plan->runner);
    }
    /* After a failure nobody waits for this rank, and its memory goes only when nobody reads it. */
    return err ? rondo__collective_failed(plan->ctx, err) : 0;
}
