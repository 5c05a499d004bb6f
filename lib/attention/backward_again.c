/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A backward pass that makes out and LSE once more, of a program that keeps neither: the plan's own forward pass first, into memory that the plan
 * keeps from the first such call on. As the bits of both are a property of the maths, so are those of the gradients. Called by backward.c.
 */
#include "attention/backward.h"

/* To each row and head, and from the front: LSE, then out. */
static size_t lse_bytes(const rondo_attention *plan)
{
    const size_t numbers = (size_t)plan->q_first[plan->design.sequences] * (size_t)plan->design.desc.heads;
    return (numbers * sizeof(float) + 63) / 64 * 64;
}

size_t rondo__backward_again_bytes(const rondo_attention *plan)
{
    const rondo_attention_desc *d = &plan->design.desc;
    return lse_bytes(plan) + (size_t)plan->q_first[plan->design.sequences] * (size_t)d->heads * (size_t)d->value_dim * rondo_type_size(d->out_type);
}

int rondo__backward_again_room(struct rondo__backward_call *call)
{
    rondo_attention *plan = call->plan;
    const struct rondo_device_ops *ops = rondo__ops(plan->ctx);
    const rondo_attention_desc *d = &plan->design.desc;
    struct rondo__backward_stage *room = &plan->backward->again;
    const int64_t rows = plan->q_first[plan->design.sequences], lse_shape[2] = { rows, d->heads }, out_shape[3] = { rows, d->heads, d->value_dim };
    const size_t bytes = rondo__backward_again_bytes(plan);
    if (call->gradients.recompute != 0 && call->gradients.recompute != 1)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_backward: recompute is %d; it must be 0 or 1", (int)call->gradients.recompute);
    if (!call->gradients.recompute)
        return 0;
    if (call->io.out.data || call->io.lse.data)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_backward: %s is given, but recompute is 1; then out and lse must be NULL",
                           call->io.out.data ? "out" : "lse");
    if (bytes && !room->memory) {
        const int err = ops->memory_new(rondo__dev(plan->ctx), RONDO_MEMORY_DEVICE, bytes, &room->memory);
        if (err)
            return rondo__fail(err, "rondo_attention_backward: no memory for %zu bytes of out and lse, which are made once more", bytes);
        room->bytes = bytes;
    }
    char *const memory = room->memory;
    call->io.lse = rondo_tensor_dense(memory, RONDO_F32, 2, lse_shape);
    call->io.out = rondo_tensor_dense(memory ? memory + lse_bytes(plan) : NULL, d->out_type, 3, out_shape);
    call->io.lse.memory = call->io.out.memory = memory ? ops->memory_kind(rondo__dev(plan->ctx), memory) : RONDO_MEMORY_HOST;
    return 0;
}

/* ---- both passes are one to who watches ---- */

struct watched {
    const struct rondo__backward_call *call;
    double share;                      /* of the forward pass */
};

static int forward_progress(void *user, double done)
{
    const struct watched *w = user;
    return w->call->io.progress(w->call->io.user, done * w->share);
}

static double forward_share(const rondo_attention *plan)
{
    const double both = (double)plan->design.desc.head_dim + (double)plan->design.desc.value_dim;
    return 2.0 * both / (8.0 * (double)plan->design.desc.head_dim + 6.0 * (double)plan->design.desc.value_dim);
}

int rondo__backward_again_progress(void *user, double done)
{
    const struct rondo__backward_call *call = user;
    const double share = forward_share(call->plan);
    return call->io.progress(call->io.user, share + done * (1.0 - share));
}

int rondo__backward_again(struct rondo__backward_call *call)
{
    struct watched watched = { call, forward_share(call->plan) };
    rondo_attention_io io = call->io;
    io.out_row = io.lse_row = NULL;
    if (io.progress) {
        io.progress = forward_progress;
        io.user = &watched;
    }
    return rondo_attention_execute(call->plan, &io, NULL);
}
