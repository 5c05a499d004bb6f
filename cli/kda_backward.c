/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Gradients of `rondo kda`, where the input has `do`: room for them, and the backward pass. Called by kda.c on each rank.
 */
#include "cli/kda.h"

#include <stdlib.h>

static bool take(void *to, int64_t count, size_t size, int64_t *bytes)
{
    void *memory = room(count, size);
    *(void **)to = memory;
    *bytes += memory ? count * (int64_t)size : 0;
    return memory != NULL;
}

int kda_backward_room(struct kda_gradients *g, const struct kda_input *in, int64_t rows, int64_t *bytes)
{
    const size_t type = rondo_type_size(in->q->type), f32 = sizeof(float);
    const int64_t states = in->sequences * in->heads * in->key_dim * in->value_dim;
    const bool fits = take(&g->dq, rows * in->key_heads * in->key_dim, type, bytes) && take(&g->dk, rows * in->key_heads * in->key_dim, type, bytes) &&
                      take(&g->dv, rows * in->heads * in->value_dim, type, bytes) &&
                      take(&g->dg, rows * in->heads * in->gate_dim, rondo_type_size(in->g->type), bytes) &&
                      take(&g->dbeta, rows * in->heads, rondo_type_size(in->beta->type), bytes) &&
                      (!in->initial || take(&g->dinitial, states, f32, bytes)) && (!in->a_log || take(&g->da_log, in->heads, f32, bytes)) &&
                      (!in->dt_bias || take(&g->ddt_bias, in->heads * in->gate_dim, f32, bytes));
    return fits ? 0 : body_fail(RONDO_ENOMEM, "not enough memory for the gradients of %lld tokens on a rank; more ranks hold fewer each", (long long)rows);
}

static rondo_tensor dense(const void *data, int type, int dims, int64_t s0, int64_t s1, int64_t s2, int64_t s3)
{
    const int64_t shape[] = { s0, s1, s2, s3 };
    return rondo_tensor_dense((void *)(uintptr_t)data, type, dims, shape);
}

int kda_backward(rondo_delta *plan, const rondo_delta_io *io, const struct kda_input *in, int64_t rows, const struct kda_gradients *g)
{
    rondo_delta_gradients of = RONDO_DELTA_GRADIENTS_INIT;
    of.dout = dense(g->dout, in->q->type, 3, rows, in->heads, in->value_dim, 0);
    of.dq = dense(g->dq, in->q->type, 3, rows, in->key_heads, in->key_dim, 0);
    of.dk = dense(g->dk, in->q->type, 3, rows, in->key_heads, in->key_dim, 0);
    of.dv = dense(g->dv, in->q->type, 3, rows, in->heads, in->value_dim, 0);
    of.dg = dense(g->dg, in->g->type, 3, rows, in->heads, in->gate_dim, 0);
    of.dbeta = dense(g->dbeta, in->beta->type, 2, rows, in->heads, 0, 0);
    if (g->dstate)
        of.dfinal_state = dense(g->dstate, RONDO_F32, 4, in->sequences, in->heads, in->key_dim, in->value_dim);
    if (g->dinitial)
        of.dinitial_state = dense(g->dinitial, RONDO_F32, 4, in->sequences, in->heads, in->key_dim, in->value_dim);
    if (g->da_log)
        of.da_log = dense(g->da_log, RONDO_F32, 1, in->heads, 0, 0, 0);
    if (g->ddt_bias)
        of.ddt_bias = dense(g->ddt_bias, RONDO_F32, 2, in->heads, in->gate_dim, 0, 0);
    return rondo_delta_backward(plan, io, &of);
}

void kda_backward_free(struct kda_gradients *g)
{
    void *const all[] = { g->dout, g->dq, g->dk, g->dv, g->dg, g->dbeta, g->dstate, g->dinitial, g->da_log, g->ddt_bias };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free(all[i]);
}
