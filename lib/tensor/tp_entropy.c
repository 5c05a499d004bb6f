/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Cross-entropy where ranks share classes (vocabulary-parallel) or tokens: of its classes each rank makes nodes, every rank gets all of them - a
 * few numbers a row, never logits - and joins them in the tree's order, so that each knows a row's sum and makes the gradient of its own classes.
 * The exchange is that of a sum of few rows (tp_build.c: ENTROPY). Losses of ranks that share tokens are nodes of the tokens' tree.
 */
#include "tensor/entropy.h"
#include "tensor/linear.h"
#include "tensor/tokens.h"
#include "tensor/tp.h"

/* ---- what the exchange calls ---- */

int rondo__tp_entropy_nodes(const struct rondo__tp_call *call, void *const *place, const struct rondo_poll *poll)
{
    struct rondo_entropy_run run = *call->entropy;
    run.x = place[RONDO_TP_X];
    run.nodes = place[call->entry->built.made];
    run.node_stride = run.rows;
    run.loss = NULL;
    run.dx = NULL;
    return rondo__ops(call->tp->ctx)->cross_entropy(rondo__dev(call->tp->ctx), NULL, &run, poll);
}

int rondo__tp_entropy_join(const struct rondo__tp_call *call, void *const *place, const struct rondo_poll *poll)
{
    const struct rondo__tp_entry *e = call->entry;
    struct rondo_entropy_run run = *call->entropy;
    run.x = place[RONDO_TP_X];
    run.parts = e->join;
    run.part_count = (int32_t)e->built.nodes.count;
    run.loss = run.loss ? place[RONDO_TP_Y] : NULL;
    run.dx = run.dx ? place[RONDO_TP_BIAS] : NULL;
    return rondo__ops(call->tp->ctx)->cross_entropy(rondo__dev(call->tp->ctx), NULL, &run, poll);
}

/* ---- for users ---- */

static int check_leaves(rondo_tp *tp, const int32_t *leaf_begin, const rondo_cross_entropy_io *io)
{
    const int32_t ranks = tp->ctx->ranks;
    if (!leaf_begin)
        return rondo__fail(RONDO_EINVAL, "rondo_tp_cross_entropy: leaf_begin is NULL; it lists where each rank's leaves of the classes begin");
    for (int32_t r = 0; r <= ranks; r++) {
        const int32_t least = r ? leaf_begin[r - 1] : 0, most = r ? io->leaves : 0;
        if (leaf_begin[r] < least || leaf_begin[r] > most || (r == ranks && leaf_begin[r] != io->leaves))
            return rondo__fail(RONDO_EINVAL, "rondo_tp_cross_entropy: leaf_begin[%d] is %d; the list must ascend from 0 to leaves, %d", (int)r,
                               (int)leaf_begin[r], (int)io->leaves);
        tp->lists[r] = leaf_begin[r];
    }
    return 0;
}

int rondo_tp_cross_entropy(rondo_tp *tp, const int32_t *leaf_begin, const rondo_cross_entropy_io *io)
{
    rondo_cross_entropy_io ours;
    struct rondo_entropy_run run;
    struct rondo__tp_entry *e = NULL;
    int64_t own = 0;
    if (!tp)
        return rondo__fail(RONDO_EINVAL, "rondo_tp_cross_entropy: tp must not be NULL");
    const int32_t me = tp->ctx->rank;
    int err = rondo__collective_begin(tp->ctx, "nodes");
    if (!err)
        err = rondo__entropy_desc("rondo_tp_cross_entropy", &ours, io);
    if (!err)
        err = check_leaves(tp, leaf_begin, &ours);
    if (!err) {
        own = rondo__linear_leaf_begin(ours.classes, ours.leaves, leaf_begin[me + 1]) - rondo__linear_leaf_begin(ours.classes, ours.leaves, leaf_begin[me]);
        err = rondo__entropy_check("rondo_tp_cross_entropy", tp->ctx, &ours, own);
    }
    if (!err)
        err = rondo__ops(tp->ctx)->check(rondo__dev(tp->ctx));
    if (!err && tp->ctx->ranks == 1)
        return rondo_cross_entropy(tp->ctx, &ours);
    if (!err && ours.rows) {
        const struct rondo__tp_case c = { .kind = RONDO_TP_ENTROPY, .ranks = tp->ctx->ranks, .few = 1, .leaves = ours.leaves, .rows = ours.rows,
                                          .width = RONDO_TP_ENTROPY_WIDTH, .in = ours.classes, .begin = tp->lists };
        err = rondo__tp_entry(tp, &c, &e);
    }
    if (err || !ours.rows)
        return rondo__collective_failed(tp->ctx, err);
    struct rondo__staging s = { .ctx = tp->ctx };
    err = rondo__entropy_stage(&s, &ours, own, &run);
    run.first_leaf = leaf_begin[me];
    run.own_leaves = leaf_begin[me + 1] - leaf_begin[me];
    struct rondo__tp_call call = { .tp = tp, .entry = e, .x = run.x, .y = run.loss, .bias = run.dx, .entropy = &run };
    if (!err)
        err = rondo__tp_run(&call);
    err = rondo__stage_end(&s, true, err);
    return rondo__collective_failed(tp->ctx, err);
}

/* ---- sums over the tokens of all ranks ---- */

/* What ranks exchange: the sums of their nodes, by rising leaf, and then how many labels count. */
struct losses {
    double *mine, *all;
    size_t *bytes;
    int64_t *next;                         /* [ranks]: of each the next one */
};

static int losses_make(struct losses *l, const rondo_tokens *tokens)
{
    const size_t ranks = (size_t)tokens->parts;
    int64_t total = tokens->parts;
    l->bytes = rondo__alloc_zero(ranks, sizeof *l->bytes);
    l->next = rondo__alloc_zero(ranks, sizeof *l->next);
    if (l->bytes && l->next) {
        for (int32_t r = 0; r < tokens->parts; r++)
            l->bytes[r] = sizeof *l->mine;
        for (int64_t i = 0; i < tokens->node_count; i++, total++)
            l->bytes[tokens->nodes[i].part] += sizeof *l->mine;
        l->mine = rondo__alloc_zero(l->bytes[tokens->part] / sizeof *l->mine, sizeof *l->mine);
        l->all = rondo__alloc_zero((size_t)total, sizeof *l->all);
    }
    if (!l->mine || !l->all)
        return rondo__fail(RONDO_ENOMEM, "rondo_tp_token_loss: no memory for the losses of %lld nodes", (long long)tokens->node_count);
    return 0;
}

static double join_losses(const struct losses *l, const rondo_tokens *tokens, int64_t *count)
{
    double stack[RONDO_LINEAR_DEPTH];
    int64_t at = 0;
    int n = 0;
    *count = 0;
    for (int32_t r = 0; r < tokens->parts; r++) {
        l->next[r] = at;
        at += (int64_t)(l->bytes[r] / sizeof *l->all);
        *count += (int64_t)l->all[at - 1];
    }
    for (int64_t i = 0; i < tokens->node_count; i++) {
        stack[n++] = l->all[l->next[tokens->nodes[i].part]++];
        for (int32_t m = i + 1 < tokens->node_count ? tokens->nodes[i].merges : n - 1; m > 0; m--, n--)
            stack[n - 2] = stack[n - 2] + stack[n - 1];
    }
    return n ? stack[0] : 0.0;
}

int rondo_tp_token_loss(rondo_tp *tp, const rondo_tokens *tokens, const double *loss, const int32_t *labels, int32_t ignore, double *sum, int64_t *count)
{
    struct losses l = { .mine = NULL };
    if (!tp)
        return rondo__fail(RONDO_EINVAL, "rondo_tp_token_loss: tp must not be NULL");
    if (tp->ctx->ranks == 1)
        return rondo_token_loss(tokens, loss, labels, ignore, sum, count);
    int err = rondo__collective_begin(tp->ctx, "losses");
    if (!err)
        err = rondo__loss_check("rondo_tp_token_loss", tokens, loss, labels, sum, count);
    if (!err && (tokens->parts != tp->ctx->ranks || tokens->part != tp->ctx->rank))
        err = rondo__fail(RONDO_EINVAL, "rondo_tp_token_loss: the tokens are those of part %d of %d, and this is rank %d of %d; each rank has the part of "
                                        "its own number", (int)tokens->part, (int)tokens->parts, (int)tp->ctx->rank, (int)tp->ctx->ranks);
    if (!err)
        err = losses_make(&l, tokens);
    err = rondo_agree(tp->ctx, tokens ? tokens->hash : 0, err, "the tokens of a sum of losses");
    if (!err) {
        int64_t n = 0;
        for (int64_t i = 0; i < tokens->node_count; i++)
            if (tokens->nodes[i].part == tokens->part)
                l.mine[n++] = rondo__loss_node(tokens, tokens->nodes[i].leaf, tokens->nodes[i].leaves, loss);
        l.mine[n] = (double)rondo__loss_count(tokens, labels, ignore);
        err = rondo_all_gather(tp->ctx, l.mine, l.all, l.bytes);
    }
    if (!err) {
        *sum = join_losses(&l, tokens, count);
        *sum = *sum != *sum ? rondo__nan64() : *sum;
    }
    rondo__free(l.mine);
    rondo__free(l.all);
    rondo__free(l.bytes);
    rondo__free(l.next);
    return rondo__collective_failed(tp->ctx, err);
}
