/* SPDX-License-Identifier: BSD-2-Clause
 *
 * RONDO_ALGORITHM_AUTO where it is known what the ranks run on: the algorithm of which the schedules of all ranks, simulated, are over first.
 * Called by auto.c, on every rank alike: what it goes by is the design and numbers that the ranks have agreed on (context.c).
 *
 * Who makes one plan after the other (rondo_attention_update()) keeps an algorithm: as long as lengths have hardly changed since it was chosen
 * nothing is simulated, which is what decoding does step after step; and then another one must be faster by a margin. So a choice between
 * two that are as good as each other does not go back and forth.
 */
#include "attention/attention.h"
#include "plan/predict.h"

/* Of two that are as fast the earlier one. */
static const int32_t candidates[] = { RONDO_PASS_KV, RONDO_PASS_Q, RONDO_ALL_GATHER, RONDO_ALL_TO_ALL, RONDO_MESH, RONDO_REDUCE, RONDO_HALO };
#define CANDIDATES ((int)(sizeof candidates / sizeof *candidates))

/* Ranks up to which all candidates are simulated; of more, with as many messages as there are pairs of them, those that may be taken. */
#define ALL_RANKS 32
/* What was chosen before stays unless another one takes this part less. */
#define MARGIN 0.05
/* Tokens and keys may change by one in so many before anything is simulated again. */
#define STEADY 16

/* ---- what stays ---- */

/* All but lengths. */
static uint64_t kind_of(const struct rondo__design *p)
{
    const rondo_attention_desc *d = &p->desc;
    const int64_t words[] = { p->ranks, d->heads, d->kv_heads, d->head_dim, d->value_dim, d->q_type, d->kv_type, d->out_type, d->causal, d->windowed,
                              d->window_left, d->window_right, d->layout, d->leaf, d->head_groups, d->shared_kv, p->mask.data != NULL,
                              p->machine.in_place, p->machine.unified };
    uint64_t h = 0x6b696e64u;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        h = rondo__hash_word(h, (uint64_t)words[i]);
    return h;
}

static bool near(int64_t now, int64_t then)
{
    return (now > then ? now - then : then - now) <= then / STEADY;
}

static void count(const struct rondo__design *p, struct rondo__choice *c)
{
    c->kind = kind_of(p);
    c->sequences = p->sequences;
    c->tokens = c->keys = 0;
    for (int64_t i = 0; i < p->sequences; i++) {   /* each at most 2^41 */
        const int64_t keys = p->cached[i] + p->tokens[i];
        c->tokens = rondo__add64(c->tokens, p->tokens[i], &c->tokens) ? c->tokens : INT64_MAX;
        c->keys = rondo__add64(c->keys, keys > 0 ? keys : 0, &c->keys) ? c->keys : INT64_MAX;
    }
}

/* Masks of documents or bits may be others each time. */
static bool stands(const struct rondo__design *p, const struct rondo__choice *now)
{
    const struct rondo__choice *then = &p->choice;
    return then->algorithm && then->kind == now->kind && !p->mask.data && near(now->sequences, then->sequences) && near(now->tokens, then->tokens) &&
           near(now->keys, then->keys);
}

/* ---- what each would take ---- */

/* What needs much more memory than a rank has is no candidate, the two rings apart: groups of heads keep a workspace below twice that, where they
 * can. */
static bool is_modest(const struct rondo__design *p)
{
    const struct rondo__flow *f = p->survey.flow;
    const double need = f->need / p->groups;
    return p->desc.algorithm == RONDO_PASS_KV || p->desc.algorithm == RONDO_PASS_Q || need <= RONDO_GROUP_FLOOR || need <= 2.0 * f->own;
}

static int simulate(const struct rondo__design *p, const struct rondo__foresight *on, double *seconds)
{
    struct rondo__sim sim = { .ranks = 0 };
    struct rondo__part_of part;
    const struct rondo__sim_links links = rondo__sim_links_of(on->hardware, on->beside);
    memset(&part, 0, sizeof part);
    int err = 0;
    for (int32_t r = 0; r < p->ranks && !err && !sim.failed; r++) {
        err = rondo__design_build(p, r, &part);
        if (!err)
            rondo__sim_add(&sim, p, &part, on->hardware);
    }
    if (!err)
        err = rondo__simulate(&sim, &links, seconds);
    rondo__part_free(&part);
    rondo__sim_free(&sim);
    return err;
}

/* A candidate's design, and its seconds: simulated, or what it takes at least. 0: it is none, as such heads or ranks it cannot have. */
static int look_at(const struct rondo__design *p, rondo_attention_desc *d, struct rondo__design *one, int32_t id, bool least, double *seconds)
{
    const struct rondo__sim_links links = rondo__sim_links_of(p->foresight.hardware, p->foresight.beside);
    uint64_t workspace;
    d->algorithm = id;
    *seconds = 0.0;
    int err = rondo__design_again(one, d, p->ranks, &p->machine);
    if (!err && is_modest(one))
        err = least ? rondo__sim_least(one, p->foresight.hardware, &links, seconds, &workspace) : simulate(one, &p->foresight, seconds);
    return err == RONDO_ENOTSUP ? 0 : err;
}

/* The index of the next one to simulate: in their order, or, of many ranks, the one of the least bound, while it may be taken; CANDIDATES: none. */
static int next_of(const double *bounds, const bool *seen, double best)
{
    int next = CANDIDATES;
    for (int i = 0; i < CANDIDATES; i++)
        if (!seen[i] && bounds[i] >= 0.0 && (best == 0.0 || bounds[i] <= best / (1.0 - MARGIN)) && (next == CANDIDATES || bounds[i] < bounds[next]))
            next = i;
    return next;
}

int rondo__foresee(struct rondo__design *p, const rondo_attention_desc *desc)
{
    double bounds[CANDIDATES] = { 0.0 };   /* -1: it is no candidate */
    bool seen[CANDIDATES] = { false };
    struct rondo__choice now = { .algorithm = 0 };
    struct rondo__design one = { .ranks = 0 };   /* with the layout that is best for it, where none is asked for */
    rondo_attention_desc d = *desc;
    int32_t best = 0;
    int err = 0, first = CANDIDATES;
    p->foreseen = true;
    count(p, &now);
    if (stands(p, &now)) {
        p->choice.by = RONDO_CHOSEN_BEFORE;
        p->desc.algorithm = p->choice.algorithm;
        return 0;
    }
    d.windowed = 1;              /* the sides of a checked one always hold */
    d.probs = d.gradients = 0;   /* which come behind each of them alike */
    d.probs_first = d.probs_count = 0;
    for (int i = 0; i < CANDIDATES && p->ranks > ALL_RANKS && !err; i++) {
        err = look_at(p, &d, &one, candidates[i], true, &bounds[i]);
        bounds[i] = bounds[i] > 0.0 ? bounds[i] : -1.0;
    }
    for (int i; !err && (i = next_of(bounds, seen, now.seconds[best])) < CANDIDATES;) {
        const int32_t id = candidates[i];
        seen[i] = true;
        err = look_at(p, &d, &one, id, false, &now.seconds[id]);
        if (now.seconds[id] > 0.0 && (!best || now.seconds[id] < now.seconds[best] || (now.seconds[id] == now.seconds[best] && i < first)))
            best = id, first = i;
    }
    rondo__design_free(&one);
    if (err)
        return err;
    const int32_t before = p->choice.kind == now.kind ? p->choice.algorithm : 0;
    const bool stays = before && before != best && now.seconds[before] > 0.0 && now.seconds[best] > (1.0 - MARGIN) * now.seconds[before];
    now.algorithm = stays ? before : best ? best : RONDO_PASS_KV;   /* nothing to do takes no time */
    now.by = stays ? RONDO_CHOSEN_BEFORE : RONDO_CHOSEN_BY_TIME;
    p->choice = now;
    p->desc.algorithm = now.algorithm;
    return 0;
}
