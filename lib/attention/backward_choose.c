/* SPDX-License-Identifier: BSD-2-Clause
 *
 * By what gradients come: what was asked for by name, or auto made definite, without a message and the same on every rank. Where it is known what ranks
 * run on the schedules of gradients of all ranks are simulated, as foresee.c does with those of the forward pass, and the one that is over first is
 * taken; else the computing that each gives its slowest rank, and the bytes that it moves, decide. Called by backward.c and schedule/api.c.
 */
#include "attention/backward_build.h"
#include "plan/plan.h"
#include "plan/predict.h"

/* What computes hardly more than the least work counts as alike. */
#define ALIKE 1.05
/* Nobody is taken who moves more than so many times what all-gather does: of a layout that cuts a side into many nodes rings may move, and hold, far more
 * nodes than rows. Where memory is shown in place nothing travels, and they are held only. */
#define MOST_MOVED 2
#define MOST_HELD 4

struct candidate {
    struct rondo__backward_way way;
    double work;                       /* FLOPs of the slowest rank */
    double seconds;
    bool can;
};

/* Of two that are alike the earlier one. The first one's bytes are the measure of the others'. */
static const int32_t candidates[] = { RONDO_ALL_GATHER, RONDO_ALL_TO_ALL, RONDO_MESH, RONDO_PASS_Q, RONDO_PASS_KV };
#define CANDIDATES ((int)(sizeof candidates / sizeof *candidates))

/* What is asked for by name: NULL, or why it cannot be. */
static const char *refusal(const struct rondo__design *d, int32_t asked)
{
    const bool known = asked == RONDO_ALL_TO_ALL || asked == RONDO_PASS_KV || asked == RONDO_PASS_Q || asked == RONDO_MESH;
    return d->ranks == 1 || known || asked == RONDO_ALL_GATHER || asked == RONDO_HALO ? NULL
           : "come by all-gather, halo, all-to-all, pass-kv, pass-q or mesh in this build";
}

/* Of all-to-all: the caller's, or the fewest teams whose seats have whole KV heads, as many each; else the fewest in which each seat has any. */
static int32_t teams_of(const struct rondo__design *d)
{
    int32_t even = 1, any = 1;
    if (d->desc.grid[1])
        return d->desc.grid[1];
    for (int32_t seats = 1; seats <= d->ranks && seats <= d->desc.kv_heads; seats++) {
        if (d->ranks % seats)
            continue;
        any = seats;
        even = d->desc.kv_heads % seats ? even : seats;
    }
    return d->ranks / (even > 1 ? even : any);
}

/* Grids and teams of an algorithm: the caller's, or those that move least. */
static int complete(struct rondo__gradients *b, struct rondo__backward_way *way)
{
    const struct rondo__design *d = b->d;
    if (way->algorithm == RONDO_ALL_TO_ALL && d->ranks > 1)
        way->teams = teams_of(d);
    if (way->algorithm != RONDO_MESH || d->ranks == 1)
        return 0;
    way->columns = d->desc.grid[1];
    return way->columns || rondo__mesh_choose(b, &way->columns) ? 0 : rondo__no_gradients_memory();
}

/* What all ranks move, and of a ring which rows. */
static int moves(struct rondo__gradients *b, struct rondo__backward_way *way)
{
    const int32_t algorithm = way->algorithm;
    const bool gathers = algorithm == RONDO_ALL_GATHER || algorithm == RONDO_HALO || b->ranks == 1;
    uint64_t *messages = &way->messages, *bytes = &way->bytes;
    bool fine = true;
    b->way = *way;
    if (gathers) {
        rondo__gather_moves(b, messages, bytes);
    } else if (algorithm == RONDO_ALL_TO_ALL && way->teams == 1) {
        rondo__heads_move(b, messages, bytes);
    } else if (algorithm == RONDO_ALL_TO_ALL) {
        fine = rondo__teams_move(b, way->teams, messages, bytes);
    } else if (algorithm == RONDO_MESH) {
        fine = rondo__mesh_moves(b, way->columns, messages, bytes);
    } else {
        way->reach = rondo__alloc_zero((size_t)b->ranks, sizeof *way->reach);
        fine = way->reach && rondo__ring_moves(b, algorithm == RONDO_PASS_Q, messages, bytes, way->reach);
    }
    if (b->d->desc.bias && fine && !gathers && algorithm != RONDO_PASS_KV)
        rondo__bias_moves(b, messages, bytes);
    return fine ? 0 : rondo__no_gradients_memory();
}

void rondo__backward_way_free(struct rondo__backward_way *way)
{
    rondo__free(way->reach);
    way->reach = NULL;
}

/* Whether a way is a candidate: all-to-all of several seats, a mesh that is neither a row nor a column. Of a bias whose gradient
 * sequences may share, pass-KV only where who has a query has the key there. */
static bool is_candidate(const struct rondo__design *d, const struct rondo__backward_way *way)
{
    if (way->algorithm == RONDO_ALL_TO_ALL)
        return way->teams < d->ranks;
    if (way->algorithm == RONDO_MESH)
        return way->columns > 1 && way->columns < d->ranks;
    for (int64_t i = 0; i < d->sequences && way->algorithm == RONDO_PASS_KV && d->sequences > 1 && d->desc.bias; i++)
        if (d->cached[i] != 0)
            return false;
    return true;
}

static int measure(struct rondo__gradients *b, struct candidate *c)
{
    int err = complete(b, &c->way);
    c->can = !err && is_candidate(b->d, &c->way);
    for (int32_t r = 0; r < b->d->ranks && c->can && !err; r++) {
        double rank = 0.0;
        err = rondo__backward_work(b->d, &c->way, r, &rank);
        c->work = rank > c->work ? rank : c->work;
    }
    return err || !c->can ? err : moves(b, &c->way);
}

/* When the last rank is ready. */
static int simulate(const struct rondo__design *d, struct candidate *c)
{
    const struct rondo__sim_links links = rondo__sim_links_of(d->foresight.hardware, d->foresight.beside);
    struct rondo__sim sim = { .ranks = 0 };
    struct rondo__backward_part part;
    const struct rondo__shown shown = { d, NULL, &part, NULL };
    memset(&part, 0, sizeof part);
    int err = 0;
    for (int32_t r = 0; r < d->ranks && !err && !sim.failed; r++) {
        err = rondo__backward_build(d, &c->way, r, &part);
        if (!err)
            rondo__sim_shown(&sim, &shown, d->foresight.hardware);
    }
    if (!err)
        err = rondo__simulate(&sim, &links, &c->seconds);
    rondo__backward_part_free(&part);
    rondo__sim_free(&sim);
    return err;
}

static int choose(const struct rondo__design *d, struct rondo__backward_way *out)
{
    const bool foresees = d->foresight.hardware && d->ranks <= RONDO_RANKS_FORESEEN;
    struct candidate c[CANDIDATES] = { { .can = false } };
    struct rondo__gradients b;
    double least = 0.0;
    int best = 0;
    out->algorithm = RONDO_ALL_GATHER;
    out->by = RONDO_CHOSEN_BY_RULE;
    if (d->ranks == 1)
        return 0;
    int err = rondo__gradients_begin(&b, d, 0);
    for (int i = 0; i < CANDIDATES && !err; i++) {
        c[i] = (struct candidate){ .way = { .algorithm = candidates[i] } };
        err = measure(&b, c + i);
        c[i].can = c[i].can && c[i].way.bytes / (d->machine.in_place ? MOST_HELD : MOST_MOVED) <= c[0].way.bytes;
        if (!err && c[i].can && foresees)
            err = simulate(d, c + i);
        if (c[i].can && (!i || c[i].work < least))
            least = c[i].work;
    }
    for (int i = 1; i < CANDIDATES && !err; i++) {
        const bool fewer = c[i].work <= least * ALIKE && (c[best].work > least * ALIKE || c[i].way.bytes < c[best].way.bytes);
        if (c[i].can && (foresees ? c[i].seconds < c[best].seconds : fewer))
            best = i;
    }
    rondo__gradients_end(&b);
    for (int i = 0; i < CANDIDATES; i++)
        if (err || i != best)
            rondo__backward_way_free(&c[i].way);
    if (err)
        return err;
    *out = c[best].way;
    out->by = foresees ? RONDO_CHOSEN_BY_TIME : RONDO_CHOSEN_BY_RULE;
    for (int i = 0; i < CANDIDATES; i++)
        out->seconds[candidates[i]] = c[i].seconds;
    return 0;
}

int rondo__backward_algorithm(const struct rondo__design *design, int32_t asked, struct rondo__backward_way *out)
{
    struct rondo__gradients b;
    *out = (struct rondo__backward_way){ .by = RONDO_CHOSEN_BY_CALLER };
    if (asked == RONDO_ALGORITHM_AUTO)
        return choose(design, out);
    const char *why = refusal(design, asked);
    out->algorithm = design->ranks == 1 && asked != RONDO_HALO ? RONDO_ALL_GATHER : asked;
    if (why)
        return rondo__fail(RONDO_ENOTSUP, "rondo_attention_create: gradients on several ranks %s; %s does not, auto takes what does", why,
                           rondo_algorithm_name(asked));
    int err = rondo__gradients_begin(&b, design, 0);
    if (!err)
        err = complete(&b, out);
    if (!err)
        err = moves(&b, out);
    rondo__gradients_end(&b);
    if (err)
        rondo__backward_way_free(out);
    return err;
}

/* ---- once for all ranks of a process ---- */

/* What a way follows from besides the design's hash. */
struct key {
    uint64_t what, hash, hardware;
    int64_t beside, asked, in_place, unified, eager, memories;
};

/* A way, and its reach, if it has one. */
struct known {
    struct rondo__backward_way way;
    int64_t rings;
    struct rondo__backward_reach reach[];
};

struct question {
    const struct rondo__design *design;
    int32_t asked;
};

static int answer(void *arg, void *value)
{
    const struct question *q = arg;
    struct known *known = value;
    int err = rondo__backward_algorithm(q->design, q->asked, &known->way);
    known->rings = !err && known->way.reach;
    if (known->rings)
        memcpy(known->reach, known->way.reach, (size_t)q->design->ranks * sizeof *known->reach);
    rondo__backward_way_free(&known->way);
    return err;
}

int rondo__backward_algorithm_of(const rondo_context *ctx, const struct rondo__design *design, uint64_t hash, int32_t asked,
                                 struct rondo__backward_way *out)
{
    const struct rondo__machine *m = &design->machine;
    const struct key key = { 0x77617920u, hash, design->foresight.hardware ? rondo__hardware_hash(design->foresight.hardware) : 0,
                             design->foresight.beside, asked, m->in_place, m->unified, (int64_t)m->eager, m->memories };
    const size_t reach = (size_t)design->ranks * sizeof(struct rondo__backward_reach);
    struct question question = { design, asked };
    struct known *known = rondo__alloc_zero(1, sizeof *known + reach);
    *out = (struct rondo__backward_way){ .algorithm = 0 };
    if (!known)
        return rondo__no_gradients_memory();
    int err = rondo__once(ctx, &key, sizeof key, known, sizeof *known + reach, answer, &question);
    if (!err)
        *out = known->way;
    if (!err && known->rings) {
        out->reach = rondo__alloc(reach);
        if (out->reach)
            memcpy(out->reach, known->reach, reach);
        else
            err = rondo__no_gradients_memory();
    }
    rondo__free(known);
    return err;
}
