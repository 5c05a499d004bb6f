/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A schedule simulated, and its timeline, in the words in which the executor tells a run's (run.c, core/comm.c), so that the two can be laid
 * side by side. What a rank does not compute or copy it waits for: the transfer or fence that came last of those that its next operation
 * waits for, or else the one whose beginning its processor was busy with. Called by `rondo plan schedule --trace` and by programs that plan.
 */
#include "plan/predict.h"

struct telling {
    void (*event)(void *user, const rondo_trace_event *event);
    void *user;
    const struct rondo__schedule *list;
    const struct rondo__sim_operation *times;   /* of this list */
    int32_t rank;
};

static const struct rondo__operation *at(const struct telling *t, int64_t i)
{
    return rondo__operation_at(t->list, i);
}

static bool on_stream(const struct telling *t, int64_t i)
{
    return t->times[i].kind == RONDO_SIM_STREAM;
}

static void tell(const struct telling *t, const struct rondo__operation *o, const char *name, double begin, double end, int32_t peer, uint64_t bytes)
{
    const rondo_trace_event e = { .name = name, .begin = begin, .end = end, .rank = t->rank, .peer = peer, .bytes = bytes, .operation = o->step.what,
                                  .step = o->step.index, .steps = o->step.of, .head_group = t->list->groups > 1 ? o->group : -1 };
    t->event(t->user, &e);
}

/* Of a wait: whom from, if from one, and how much. */
static uint64_t arrives(const struct telling *t, const struct rondo__operation *o, int32_t *from)
{
    const struct rondo__part *parts = (const struct rondo__part *)t->list->parts.items + o->first;
    int32_t froms = 0;
    uint64_t bytes = 0;
    *from = -1;
    for (int64_t i = 0; i < o->count; i++)
        if (parts[i].receives) {
            bytes += parts[i].bytes;
            froms += parts[i].peer != *from;
            *from = parts[i].peer;
        }
    *from = froms == 1 ? *from : -1;
    return bytes;
}

static void tell_wait(const struct telling *t, int64_t for_what, double begin, double end)
{
    const struct rondo__operation *o = at(t, for_what);
    int32_t from = -1;
    const uint64_t bytes = o->kind == RONDO_TRANSFER ? arrives(t, o, &from) : 0;
    if (end > begin)
        tell(t, o, o->kind == RONDO_TRANSFER ? rondo__wait_name(o->operation) : "wait fence", begin, end, from, bytes);
}

static int64_t later(const struct telling *t, int64_t a, int64_t b)
{
    return a < 0 || (b >= 0 && t->times[b].end > t->times[a].end) ? b : a;
}

/* What has begun by then of all that is in the list behind operation i: whatever waits for nothing begins at once. */
static int64_t begun_behind(const struct telling *t, int64_t i)
{
    const double then = t->times[i].begin;
    while (++i < t->list->operations.count)
        if (!on_stream(t, i) && t->times[i].begin < then)
            return i;
    return -1;
}

/* What the stream waited for before operation i. begun: what was begun last before it, -1: nothing; fence: the last one. */
static int64_t waited_for(const struct telling *t, int64_t i, double since, int64_t begun, int64_t fence)
{
    const int32_t *waits = (const int32_t *)t->list->waits.items + at(t, i)->waits_first;
    int64_t last = fence;
    for (int32_t k = 0; k < at(t, i)->waits; k++)
        last = on_stream(t, waits[k]) ? last : later(t, last, waits[k]);
    if (last >= 0 && t->times[last].end > since)
        return last;
    return begun >= 0 ? begun : begun_behind(t, i);
}

static void tell_operation(const struct telling *t, int64_t i)
{
    const struct rondo__operation *o = at(t, i);
    const struct rondo__part *parts = (const struct rondo__part *)t->list->parts.items + o->first;
    const struct rondo__use *use = (const struct rondo__use *)t->list->uses.items + o->uses_first;
    const double begin = t->times[i].begin, end = t->times[i].end;
    uint64_t bytes = 0;
    switch (o->kind) {
    case RONDO_COMPUTE:
        tell(t, o, o->program < 0 ? o->step.what : o->program ? "probabilities" : "attention", begin, end, -1, 0);
        break;
    case RONDO_TRANSFER:
        for (int64_t k = 0; k < o->count; k++)
            if (!parts[k].receives)
                tell(t, o, rondo_operation_name(o->operation), begin, end, parts[k].peer, parts[k].bytes);
        break;
    case RONDO_FENCE:
        break;   /* a wait */
    default:
        for (int32_t k = 0; k < o->uses && o->kind == RONDO_PACK; k++)
            bytes += use[k].writes ? use[k].bytes : 0;
        if (end > begin)
            tell(t, o, o->kind == RONDO_PACK ? "pack" : "blank", begin, end, -1, bytes);
    }
}

static void tell_rank(const struct telling *t)
{
    int64_t begun = -1, fence = -1, latest = -1;
    double done = 0.0;
    for (int64_t i = 0; i < t->list->operations.count; i++) {
        if (on_stream(t, i)) {
            const int64_t last = t->times[i].begin > done ? waited_for(t, i, done, begun, fence) : -1;
            if (last >= 0)
                tell_wait(t, last, done, t->times[i].begin);
            done = t->times[i].end;
        } else {
            begun = i;
            fence = t->times[i].kind == RONDO_SIM_FENCE ? i : fence;
            latest = later(t, latest, i);
        }
        tell_operation(t, i);
    }
    if (latest >= 0)
        tell_wait(t, latest, done, t->times[latest].end);
}

struct reading {
    rondo_schedule *schedule;
    struct rondo__sim *sim;
    const rondo_hardware *hardware;
};

/* As sim_schedule.c has it, what is simulated is proved on its way. */
static int read_rank(void *arg, int32_t rank, const struct rondo__schedule **out)
{
    struct reading *r = arg;
    struct rondo__shown w;
    const int err = rondo__schedule_shown(r->schedule, rank, "rondo_schedule_simulate", &w);
    if (err)
        return err;
    rondo__sim_shown(r->sim, &w, r->hardware);
    *out = rondo__shown_list(&w);
    return 0;
}

int rondo_schedule_simulate(rondo_schedule *schedule, const rondo_hardware *hardware,
                            void (*event)(void *user, const rondo_trace_event *event), void *user, double *seconds)
{
    static const char name[] = "rondo_schedule_simulate";
    struct rondo__sim sim = { .ranks = 0 };
    struct rondo__shown w;
    rondo_hardware h;
    if (!seconds)
        return rondo__fail(RONDO_EINVAL, "%s: seconds is NULL", name);
    *seconds = 0.0;
    int err = rondo__hardware_complete(&h, hardware);
    if (!err)
        err = rondo__schedule_shown(schedule, 0, name, &w);
    if (err)
        return err;
    const int32_t ranks = rondo__shown_list(&w)->ranks;
    struct reading reading = { schedule, &sim, &h };
    const struct rondo__sim_links links = rondo__sim_links_of(&h, 1);
    err = rondo__schedule_check(ranks, rondo__shown_machine(&w), read_rank, &reading);
    if (!err)
        err = rondo__simulate(&sim, &links, seconds);
    for (int32_t r = 0; r < ranks && !err && event; r++) {
        err = rondo__schedule_shown(schedule, r, name, &w);
        if (err)
            break;
        const struct telling t = { event, user, rondo__shown_list(&w),
                                   (const struct rondo__sim_operation *)sim.operations.items + ((const int64_t *)sim.first.items)[r], r };
        tell_rank(&t);
    }
    rondo__sim_free(&sim);
    return err;
}
