/* SPDX-License-Identifier: BSD-2-Clause
 *
 * RONDO_ALGORITHM_AUTO made definite, without a message and the same on every rank. Where it is known what ranks run on foresee.c has done so
 * before. Else Algorithm 5 of arXiv:2411.01783 says whether keys or queries travel, and where keys do, and far, what the schedules of other
 * algorithms would move is looked at too. Called by design.c, which finds the flow of what was chosen in the survey.
 */
#include "attention/attention.h"

#include "plan/plan.h"

/* Rows of a rank below which nothing else is looked at: plans of few tokens are made often, and their messages are small whatever travels. */
#define LEAVES_LEAST 4

static int32_t by_rule(const struct rondo__design *p)
{
    bool one_each = true;
    int64_t tokens = 0, cached = 0;
    for (int64_t i = 0; i < p->sequences; i++) {
        one_each &= p->tokens[i] <= 1;
        tokens += p->tokens[i];
        cached += p->cached[i] > 0 ? p->cached[i] : 0;
    }
    return rondo__choose_algorithm(tokens, cached, p->desc.heads, p->desc.kv_heads, p->ranks, (int32_t)rondo_type_size(p->desc.kv_type), one_each,
                                   p->foresight.hardware);
}

/* Whether it may pay to look further. Where memory is shown in place nothing moves that others could spare; with grids of 2 ranks there is
 * nothing to win either. */
static bool looks_further(const struct rondo__design *p)
{
    int64_t tokens = 0;
    if (p->desc.algorithm != RONDO_PASS_KV || p->machine.in_place || p->ranks < 4 || p->desc.head_groups > 1)
        return false;
    for (int64_t i = 0; i < p->sequences; i++)
        tokens += p->tokens[i];
    return tokens / p->ranks >= (int64_t)LEAVES_LEAST * p->desc.leaf;
}

static uint64_t flow_bytes(const struct rondo__survey *s)
{
    return ((const struct rondo__flow *)s->flow)->bytes;
}

/* The flow of another algorithm in place of the one that is there, if it moves at most half as much: it has more messages than the ring, and
 * between ranks that are no neighbours (as rondo__goes_direct()). */
static int try(struct rondo__design *p, int32_t id)
{
    const struct rondo__algorithm *other = rondo__algorithm_at(id);
    struct rondo__survey *s = &p->survey;
    void *const flow = s->flow;
    const int32_t grid[2] = { p->shape.grid[0], p->shape.grid[1] };
    if (!other)
        return 0;
    const uint64_t bytes = flow_bytes(s);
    s->flow = NULL;
    int err = other->flow(s, &p->shape, &p->machine);
    if (!err && flow_bytes(s) <= bytes / 2) {
        p->desc.algorithm = id;
        p->algorithm = other;
        return 0;
    }
    s->flow = flow;
    p->shape.grid[0] = grid[0];
    p->shape.grid[1] = grid[1];
    return err;
}

int rondo__choose_flow(struct rondo__design *p)
{
    const bool free_choice = p->desc.algorithm == RONDO_ALGORITHM_AUTO;
    if (!p->foreseen) {
        p->choice = (struct rondo__choice){ .by = free_choice ? RONDO_CHOSEN_BY_RULE : RONDO_CHOSEN_BY_CALLER };
        p->desc.algorithm = free_choice ? by_rule(p) : p->desc.algorithm;
    }
    p->algorithm = rondo__algorithm_at(p->desc.algorithm);
    if (!p->algorithm)
        return rondo__fail(RONDO_ENOTSUP, "rondo_attention_create: algorithm %s is known but not in this build",
                           rondo_algorithm_name(p->desc.algorithm));
    int err = p->algorithm->flow(&p->survey, &p->shape, &p->machine);
    if (err || !free_choice || !looks_further(p))
        return err;
    err = try(p, RONDO_MESH);
    return err ? err : try(p, RONDO_ALL_TO_ALL);
}

void rondo__tell_choice(const struct rondo__design *p, int32_t *by, double seconds[RONDO_ALGORITHMS])
{
    *by = p->choice.by;
    memcpy(seconds, p->choice.seconds, sizeof p->choice.seconds);
}
