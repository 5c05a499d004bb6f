/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the backward pass computes: of one operation, counted from its jobs; and of each rank, from who has which rows alone, so that the two
 * can be held against each other. Called by whoever tells schedules (schedule/api.c) and by tests.
 */
#include "attention/backward.h"

static rondo_span span_of(const struct rondo_backward_leaf *leaf)
{
    return (rondo_span){ leaf->first, leaf->count, 1, 0 };
}

/* Leaves next to each other in one span: a long list of them is then counted in one question. */
static int32_t joined(const struct rondo_backward_leaf *leaf, int32_t from, int32_t count, rondo_span *out)
{
    int32_t next = from + 1;
    *out = span_of(leaf + from);
    for (; next < count && leaf[next].first == out->first + out->count; next++)
        out->count += leaf[next].count;
    return next;
}

/* Of some heads. */
static uint64_t pairs_of(const struct rondo__design *p, const struct rondo__backward_heads *of, int64_t sequence, const rondo_span *q, const rondo_span *k)
{
    const struct rondo_mask_kind *kind = p->mask.kind;
    uint64_t pairs = 0;
    if (p->mask.heads > 1 && of->heads < p->desc.heads) {
        for (int32_t h = of->head; h < of->head + of->heads; h++)
            pairs = rondo__add_saturated(pairs, kind->head_pairs ? kind->head_pairs(&p->mask, sequence, h, q, k) : kind->pairs(&p->mask, sequence, q, k));
        return pairs;
    }
    return __builtin_mul_overflow(kind->pairs(&p->mask, sequence, q, k), (uint64_t)(of->heads / p->mask.heads), &pairs) ? UINT64_MAX : pairs;
}

uint64_t rondo__backward_pairs(const struct rondo__design *design, const struct rondo__backward_part *part, const struct rondo__operation *o,
                               int32_t what)
{
    const struct rondo_backward_job *jobs = part->jobs.items;
    const struct rondo_backward_leaf *leaves = part->leaves.items;
    uint64_t pairs = 0;
    if (o->kind != RONDO_COMPUTE || o->first != RONDO_BACKWARD_RUN)
        return 0;
    const struct rondo__backward_round *round = (const struct rondo__backward_round *)part->rounds.items + o->head;
    for (int64_t i = round->first; i < round->first + round->count; i++) {
        if ((jobs[i].what & (RONDO_BACKWARD_QUERIES | RONDO_BACKWARD_KEYS)) != what)
            continue;
        rondo_span q, k;
        for (int32_t a = 0; a < jobs[i].queries;) {
            a = joined(leaves + jobs[i].queries_first, a, jobs[i].queries, &q);
            for (int32_t b = 0; b < jobs[i].keys;) {
                b = joined(leaves + jobs[i].keys_first, b, jobs[i].keys, &k);
                pairs = rondo__add_saturated(pairs, pairs_of(design, &part->heads, jobs[i].sequence, &q, &k));
            }
        }
    }
    return pairs;
}

/* Two for each multiplication: scores and gradients of weights, which both sides ask for, and what each of them makes of these. */
static double flops(const struct rondo__design *p, int32_t what, uint64_t pairs)
{
    const double dim = (double)p->desc.head_dim, values = (double)p->desc.value_dim;
    const double of_queries = what & RONDO_BACKWARD_QUERIES ? dim : 0.0, of_keys = what & RONDO_BACKWARD_KEYS ? dim + values : 0.0;
    return 2.0 * (dim + values + of_queries + of_keys) * (double)pairs;
}

double rondo__backward_flops(const struct rondo__design *design, const struct rondo__backward_part *part, const struct rondo__operation *o)
{
    double all = 0.0;
    for (int32_t what = 1; what <= (RONDO_BACKWARD_QUERIES | RONDO_BACKWARD_KEYS); what++)
        all += flops(design, what, rondo__backward_pairs(design, part, o, what));
    return all;
}

struct rondo__backward_heads rondo__backward_heads_of(const struct rondo__design *p, int32_t seat, int32_t seats)
{
    const int64_t group = p->desc.heads / p->desc.kv_heads, first = p->desc.kv_heads * seat / seats;
    const int64_t count = p->desc.kv_heads * (seat + 1) / seats - first;
    return (struct rondo__backward_heads){ (int32_t)(first * group), (int32_t)(count * group), (int32_t)first, (int32_t)count };
}

/* Behind what is there: where a rank's queries of a sequence stand, or its keys. */
static int add_spans(const struct rondo__design *p, int64_t sequence, int32_t rank, bool queries, struct rondo__list *list)
{
    const bool apart = queries && p->cached[sequence] < 0;
    const rondo_placement *placement = apart ? p->queries : p->keys;
    const int64_t from = queries && !apart ? p->cached[sequence] : 0, before = list->count;
    const int64_t count = p->length[sequence] ? rondo_placement_spans(placement, sequence, rank, from, NULL, 0) : 0;
    if (count < 0)
        return (int)count;
    rondo_span *span = rondo__list_add(list, sizeof *span, count + 1);
    if (!span)
        return rondo__fail(RONDO_ENOMEM, "no memory to count pairs of gradients");
    list->count = before + count;
    if (count)
        (void)rondo_placement_spans(placement, sequence, rank, from, span, count);
    for (int64_t j = 0; j < count && apart; j++)
        span[j].first += p->shift[sequence];
    return 0;
}

/* Pairs of a rank's queries and all keys, or of its keys and all queries, of some heads. */
static int share(const struct rondo__design *p, const struct rondo__backward_heads *heads, int32_t rank, bool queries, uint64_t *pairs)
{
    struct rondo__list list = { .items = NULL };
    int err = 0;
    *pairs = 0;
    for (int64_t i = 0; i < p->sequences && !err; i++) {
        const rondo_span others = { queries ? 0 : p->cached[i], queries ? p->length[i] : p->tokens[i], 1, 0 };
        list.count = 0;
        err = add_spans(p, i, rank, queries, &list);
        const rondo_span *own = list.items;
        for (int64_t j = 0; j < list.count && !err; j++)
            *pairs = rondo__add_saturated(*pairs, pairs_of(p, heads, i, queries ? own + j : &others, queries ? &others : own + j));
    }
    rondo__list_free(&list);
    return err;
}

/* Pairs of all queries and keys that a rank of a grid has, of some ranks each. */
static int tile(const struct rondo__design *p, const struct rondo__backward_heads *heads, int32_t columns, int32_t rank, uint64_t *pairs)
{
    struct rondo__list keys = { .items = NULL }, queries = { .items = NULL };
    int err = 0;
    *pairs = 0;
    for (int64_t i = 0; i < p->sequences && !err; i++) {
        keys.count = queries.count = 0;
        for (int32_t r = 0; r < p->ranks && !err; r++) {
            if (r / columns == rank / columns)
                err = add_spans(p, i, r, false, &keys);
            if (r % columns == rank % columns && !err)
                err = add_spans(p, i, r, true, &queries);
        }
        const rondo_span *q = queries.items, *k = keys.items;
        for (int64_t a = 0; a < queries.count && !err; a++)
            for (int64_t b = 0; b < keys.count; b++)
                *pairs = rondo__add_saturated(*pairs, pairs_of(p, heads, i, q + a, k + b));
    }
    rondo__list_free(&keys);
    rondo__list_free(&queries);
    return err;
}

int rondo__backward_work(const struct rondo__design *design, const struct rondo__backward_way *way, int32_t rank, double *out)
{
    const int32_t algorithm = way->algorithm;
    const struct rondo__backward_heads all = { 0, (int32_t)design->desc.heads, 0, (int32_t)design->desc.kv_heads };
    uint64_t pairs[2] = { 0, 0 }, sum = 0;
    int err = 0;
    if (design->ranks > 1 && algorithm == RONDO_ALL_TO_ALL) {   /* all of a team's rows, some heads */
        const int32_t seats = design->ranks / way->teams, team = rank / seats;
        const struct rondo__backward_heads own = rondo__backward_heads_of(design, rank % seats, seats);
        for (int32_t r = team * seats; r < (team + 1) * seats && own.heads && !err; r++) {
            err = share(design, &own, r, true, &pairs[0]);
            sum = rondo__add_saturated(sum, pairs[0]);
        }
        *out = flops(design, RONDO_BACKWARD_QUERIES | RONDO_BACKWARD_KEYS, sum);
        return err;
    }
    if (design->ranks > 1 && algorithm == RONDO_MESH) {
        err = tile(design, &all, way->columns, rank, &sum);
        *out = flops(design, RONDO_BACKWARD_QUERIES | RONDO_BACKWARD_KEYS, sum);
        return err;
    }
    const bool ring = algorithm == RONDO_PASS_KV || algorithm == RONDO_PASS_Q;
    err = share(design, &all, rank, algorithm != RONDO_PASS_Q || design->ranks == 1, &pairs[0]);
    if (!err && !ring && design->ranks > 1)
        err = share(design, &all, rank, false, &pairs[1]);
    if (ring || design->ranks == 1)   /* both in one */
        *out = flops(design, RONDO_BACKWARD_QUERIES | RONDO_BACKWARD_KEYS, pairs[0]);
    else
        *out = flops(design, RONDO_BACKWARD_QUERIES, pairs[0]) + flops(design, RONDO_BACKWARD_KEYS, pairs[1]);
    return err;
}
