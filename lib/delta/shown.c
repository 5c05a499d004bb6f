/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The delta rule's schedules for readers that run nothing (shown.h).
 */
#include "delta/shown.h"

int rondo__delta_shown_make(struct rondo__delta_shown *out, const rondo_delta_desc *desc, int32_t ranks, const struct rondo__machine *machine,
                            bool of_gradients)
{
    memset(out, 0, sizeof *out);
    out->machine = *machine;
    out->of_gradients = of_gradients;
    return rondo__delta_design(&out->design, desc, ranks);
}

static void unbuild(struct rondo__delta_shown *s)
{
    rondo__delta_unbuild(&s->built);
    rondo__delta_backward_unbuild(&s->backward);
    memset(&s->built, 0, sizeof s->built);
    memset(&s->backward, 0, sizeof s->backward);
}

void rondo__delta_shown_free(struct rondo__delta_shown *s)
{
    unbuild(s);
    rondo__delta_design_free(&s->design);
}

int rondo__delta_shown_rank(struct rondo__delta_shown *s, int32_t rank)
{
    unbuild(s);
    return s->of_gradients ? rondo__delta_backward_build(&s->backward, &s->design, rank, &s->machine)
                           : rondo__delta_build(&s->built, &s->design, rank, &s->machine);
}

/* ---- what a COMPUTE does ---- */

/* Of each token of a head: its key, gates and beta. */
static double token_bytes(const rondo_delta_desc *d)
{
    return (double)d->key_dim * (double)rondo_type_size(d->type) + (double)d->gate_dim * (double)rondo_type_size(d->gate_type) +
           (double)rondo_type_size(d->beta_type);
}

/* A state goes on with 5 FLOPs for each of its numbers, and is read with 2 more; a map has as many rows as columns. In chunks it is 4, and 2, and what
 * a token has to do with half of its chunk: with each write a multiply-add for each column, with each key, which decays, one for each channel. */
static void add_block(struct rondo__delta_work *w, const rondo_delta_desc *d, int32_t chunk, const struct rondo_delta_block *b)
{
    const double columns = (double)b->columns, rows = (double)b->rows, state = (double)d->key_dim * columns;
    const bool put_out = b->kind == RONDO_DELTA_FORWARD;
    if (b->kind == RONDO_DELTA_BOUND) {
        w->bytes += rows * token_bytes(d);
        return;
    }
    if (chunk)
        w->flops += (put_out ? 6.0 : 4.0) * rows * state + rows * chunk * (put_out ? 2.0 * columns + 2.5 * (double)d->key_dim : columns + 1.5 * (double)d->key_dim);
    else
        w->flops += (put_out ? 7.0 : 5.0) * rows * state;
    w->values += put_out ? rows * columns : 0.0;
    w->bytes += rows * token_bytes(d) + 8.0 * state + (b->kind == RONDO_DELTA_MAP ? 0.0 : rows * columns * (double)rondo_type_size(d->type));
    if (put_out)
        w->bytes += rows * ((double)d->key_dim * (double)rondo_type_size(d->type) + columns * (double)rondo_type_size(d->out_type));
}

/* States go forward twice more behind their marks, 5 each, and come back with 12; what is read of tokens has a gradient that is written. */
static void add_back(struct rondo__delta_work *w, const rondo_delta_desc *d, const struct rondo_delta_backward_block *b)
{
    const double rows = (double)b->rows, columns = (double)d->value_dim, state = (double)d->key_dim * columns, one = (double)rondo_type_size(d->type);
    w->flops += 22.0 * rows * state;
    w->values += rows * columns;
    w->bytes += rows * (2.0 * token_bytes(d) + 2.0 * (double)d->key_dim * one + 2.0 * columns * one + columns * (double)rondo_type_size(d->out_type)) +
                12.0 * state;
}

struct rondo__delta_work rondo__delta_shown_work(const struct rondo__delta_shown *s, const struct rondo__operation *o)
{
    const rondo_delta_desc *d = &s->design.desc;
    const struct rondo__delta_built *built = s->of_gradients ? &s->backward.built : &s->built;
    struct rondo__delta_work w = { 0.0, 0.0, 0.0, false };
    if (o->kind != RONDO_COMPUTE)
        return w;
    const struct rondo__delta_call *call = (const struct rondo__delta_call *)built->calls.items + o->first;
    if (call->back > RONDO_DELTA_BACK_BLOCKS)
        return w;
    for (int64_t i = call->first; i < call->first + call->count; i++)
        if (call->folds) {
            const double dim = (double)d->key_dim, columns = (double)((const struct rondo_delta_fold *)built->folds.items)[i].columns;
            w.flops += 2.0 * dim * dim * columns;
            w.bytes += 4.0 * (dim * dim + 3.0 * dim * columns);
        } else if (call->back) {
            w.back = true;
            add_back(&w, d, (const struct rondo_delta_backward_block *)s->backward.blocks.items + i);
        } else {
            add_block(&w, d, call->chunk, (const struct rondo_delta_block *)built->blocks.items + i);
        }
    return w;
}
