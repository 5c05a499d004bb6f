/* SPDX-License-Identifier: BSD-2-Clause
 *
 * How the ranks of a rondo_lm stand to each other. Rank r is tensor-parallel rank t = r % tp of context-parallel rank c = r / tp: it has the
 * attention heads of t and the positions of c. Ranks of the same t run attention together (lm->heads); those that share linear layers
 * (lm->layers) are the ranks of the same c or, where the model's parts are spread, all of them, counted w = t * cp + c (lm/model/split.h).
 * Called by lm.c; forward.c works on what is set up here.
 */
#include "core/internal.h"
#include "lm/engine/lm.h"

int rondo__ranks_check(const rondo_lm *lm)
{
    const struct rondo_split *s = &lm->model->split;
    if (lm->ranks % s->tp)
        return rondo__fail(RONDO_EINVAL, "rondo_lm_create: the model is a part of %d tensor-parallel ones, which do not divide %d ranks; ranks are "
                           "tp x cp", (int)s->tp, (int)lm->ranks);
    if (lm->t != s->t)
        return rondo__fail(RONDO_EINVAL, "rondo_lm_create: rank %d of %d needs the model's part tp_rank %d of %d, but was given part %d", (int)lm->rank,
                           (int)lm->ranks, (int)lm->t, (int)s->tp, (int)s->t);
    if (s->cp > 1 && (s->cp != lm->cp || s->c != lm->c))
        return rondo__fail(RONDO_EINVAL, "rondo_lm_create: rank %d of %d needs the model's part cp_rank %d of %d, but was given part %d of %d",
                           (int)lm->rank, (int)lm->ranks, (int)lm->c, (int)lm->cp, (int)s->c, (int)s->cp);
    return 0;
}

void rondo__ranks_place(rondo_lm *lm)
{
    const struct rondo_split *s = &lm->model->split;
    lm->rank = rondo_context_rank(lm->ctx);
    lm->ranks = rondo_context_ranks(lm->ctx);
    lm->tp = s->tp;
    lm->cp = lm->ranks % s->tp ? 1 : lm->ranks / s->tp;
    lm->t = lm->rank % lm->tp;
    lm->c = lm->rank / lm->tp;
    lm->spread = s->cp > 1;
    lm->members = lm->spread ? lm->tp * lm->cp : lm->tp;
    lm->w = lm->spread ? lm->t * lm->cp + lm->c : lm->t;
}

int rondo__member_rank(const rondo_lm *lm, int32_t c, int32_t w)
{
    return lm->spread ? w % lm->cp * lm->tp + w / lm->cp : c * lm->tp + w;
}

/* Collective. What stands for all ranks in their own order is the caller's context itself. */
int rondo__ranks_open(rondo_lm *lm)
{
    const bool kda = lm->model->config.kda_layers > 0;
    int err = 0;
    if (lm->tp == 1)
        lm->heads = lm->ctx;
    else
        err = rondo_context_split(&lm->own_heads, lm->ctx, lm->t, lm->c);
    if (!err && lm->own_heads)
        lm->heads = lm->own_heads;
    if (!err && kda && lm->ranks > 1)
        err = rondo_context_split(&lm->own_alone, lm->ctx, lm->rank, 0);
    lm->alone = lm->own_alone ? lm->own_alone : lm->ctx;
    if (!err && lm->cp > 1 && (lm->spread || kda))
        err = rondo_tp_create(&lm->swap, lm->heads, NULL);
    if (err || lm->members == 1)
        return err;
    if (lm->cp == 1 || (lm->spread && lm->tp == 1))
        lm->layers = lm->ctx;
    else
        err = rondo_context_split(&lm->own_layers, lm->ctx, lm->spread ? 0 : lm->c, lm->w);
    if (!err && lm->own_layers)
        lm->layers = lm->own_layers;
    return err ? err : rondo_tp_create(&lm->group, lm->layers, NULL);
}

void rondo__ranks_close(rondo_lm *lm)
{
    rondo_tp_destroy(lm->group);
    rondo_tp_destroy(lm->swap);
    rondo_context_destroy(lm->own_layers);
    rondo_context_destroy(lm->own_heads);
    rondo_context_destroy(lm->own_alone);
}
