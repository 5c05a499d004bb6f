/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Schedules of the delta rule without ranks: what is told of them, forward and backward, is what plans on ranks say of themselves; they are proved,
 * and simulated, with times that can be worked out by hand, and a timeline without gaps; and where hardware is known the way is the faster one.
 */
#include <math.h>

#include "plan/plan.h"

#include "t/tap.h"

static rondo_delta_desc usual(int way)
{
    rondo_delta_desc d = RONDO_DELTA_DESC_INIT;
    d.heads = 8;
    d.key_heads = 4;
    d.key_dim = d.value_dim = 64;
    d.tokens = 1200;
    d.final_state = 1;
    d.way = way;
    return d;
}

/* ---- the same as plans ---- */

struct compared {
    rondo_delta_desc desc;
    int ranks;
    _Atomic int wrong, operations;
};

static int compare(rondo_context *ctx, void *arg)
{
    struct compared *c = arg;
    const int rank = rondo_context_rank(ctx);
    rondo_delta *plan = NULL;
    rondo_delta_info said = RONDO_DELTA_INFO_INIT;
    int err = rondo_delta_create(&plan, ctx, &c->desc);
    if (!err)
        err = rondo_delta_query(plan, &said);
    for (int backward = 0; backward <= c->desc.gradients && !err; backward++) {
        rondo_schedule_desc d = RONDO_SCHEDULE_DESC_INIT;
        rondo_schedule_info info = RONDO_SCHEDULE_INFO_INIT;
        rondo_schedule_rank_info mine = RONDO_SCHEDULE_RANK_INFO_INIT;
        rondo_schedule *s = NULL;
        uint64_t messages = 0, bytes = 0;
        double flops = 0.0;
        d.ranks = c->ranks;
        d.backward = backward;
        err = rondo_schedule_delta(&s, &d, &c->desc);
        if (!err)
            err = rondo_schedule_query(s, &info);
        if (!err)
            err = rondo_schedule_rank(s, rank, &mine);
        for (int64_t i = 0; i < mine.operations && !err; i++) {
            rondo_schedule_operation_info o = RONDO_SCHEDULE_OPERATION_INFO_INIT;
            char text[512];
            err = rondo_schedule_operation(s, rank, i, &o);
            messages += o.messages;
            bytes += o.bytes;
            flops += o.flops;
            c->wrong += rondo_schedule_operation_text(s, rank, i, text, sizeof text) < 1 || o.wait_count < 0;
            c->operations++;
        }
        if (!err)
            err = rondo_schedule_check(s, NULL, NULL);
        c->wrong += said.hash != info.hash || messages != mine.messages || bytes != mine.bytes || flops < mine.flops || flops > mine.flops;
        if (backward)
            c->wrong += said.backward_messages != mine.messages || said.backward_bytes != mine.bytes || said.backward_operations != mine.operations ||
                        said.backward_workspace_bytes != mine.workspace_bytes || said.backward_way != info.delta_way || info.flops > said.backward_flops;
        else
            c->wrong += said.messages != mine.messages || said.bytes != mine.bytes || said.operations != mine.operations ||
                        said.workspace_bytes != mine.workspace_bytes || said.way != info.delta_way ||
                        (said.way == RONDO_DELTA_AFFINE ? info.flops < said.flops : info.flops < said.flops || info.flops > said.flops);
        rondo_schedule_destroy(s);
    }
    rondo_delta_destroy(plan);
    return err;
}

static void same_as_plans(void)
{
    for (int way = RONDO_DELTA_AUTO; way <= RONDO_DELTA_COLUMNS; way++)
        for (int ranks = 1; ranks <= 5; ranks += 2) {
            struct compared c = { .desc = usual(way), .ranks = ranks };
            c.desc.gradients = 1;
            c.desc.tile = way == RONDO_DELTA_AFFINE ? 100 : 0;
            c.desc.gate = ranks == 5 ? RONDO_GATE_SOFTPLUS : RONDO_GATE_LOG;
            const int err = rondo_launch(ranks, NULL, compare, &c);
            if (!ok(!err && !c.wrong && c.operations > 0, "%s on %d ranks: %d operations are told and proved as plans have them", rondo_delta_way_name(way),
                    ranks, c.operations))
                diag("code %d, %d wrong: %s", err, c.wrong, rondo_error_text());
        }
}

/* ---- times ---- */

struct line {
    double end[16], computing;
    int events, gaps;
};

static void hear(void *user, const rondo_trace_event *e)
{
    struct line *l = user;
    const bool message = e->bytes && e->peer >= 0 && strncmp(e->name, "wait", 4) != 0;
    l->events++;
    if (message)
        return;
    const double gap = e->begin - l->end[e->rank];
    l->gaps += gap > 1e-12 || gap < -1e-12;
    l->end[e->rank] = e->end;
    l->computing += !strcmp(e->name, e->operation ? e->operation : "") ? e->end - e->begin : 0.0;
}

static double simulated(const rondo_delta_desc *delta, int ranks, int backward, const rondo_hardware *h, struct line *l, double *flops)
{
    rondo_schedule_desc d = RONDO_SCHEDULE_DESC_INIT;
    rondo_schedule_info info = RONDO_SCHEDULE_INFO_INIT;
    rondo_schedule *s = NULL;
    double seconds = -1.0;
    memset(l, 0, sizeof *l);
    d.ranks = ranks;
    d.backward = backward;
    int err = rondo_schedule_delta(&s, &d, delta);
    if (!err)
        err = rondo_schedule_query(s, &info);
    if (!err)
        err = rondo_schedule_simulate(s, h, hear, l, &seconds);
    if (err)
        diag("code %d: %s", err, rondo_error_text());
    *flops = info.flops;
    rondo_schedule_destroy(s);
    return err ? -1.0 : seconds;
}

static rondo_hardware machine(double link)
{
    rondo_hardware h = RONDO_HARDWARE_INIT;
    h.peak_flops = 1e11;
    h.memory_bandwidth = 1e13;
    h.link_bandwidth = link;
    return h;
}

static void times(void)
{
    const rondo_hardware h = machine(1e12);
    struct line l;
    double flops;
    for (int backward = 0; backward < 2; backward++) {
        rondo_delta_desc d = usual(RONDO_DELTA_SERIAL);
        d.gradients = backward;
        const double one = simulated(&d, 1, backward, &h, &l, &flops);
        ok(one > 0.0 && fabs(one * 1e11 / flops - 1.0) < 1e-9 && flops >= (backward ? 22.0 : 7.0) * 64 * 64 * 8 * 1200,
           "%s of one rank: its FLOPs at the machine's rate", backward ? "gradients" : "the rule");
        ok(l.events > 0 && !l.gaps && fabs(l.computing / one - 1.0) < 1e-9, "... the timeline is that computation");
        const double serial = simulated(&d, 4, backward, &h, &l, &flops);
        ok(serial > 0.99 * one && serial < 1.1 * one && !l.gaps, "... rank after rank it takes as long on four (%.3f)", serial / one);
        d.way = RONDO_DELTA_PIPELINE;
        const double many = simulated(&d, 4, backward, &h, &l, &flops);
        const double stages = backward ? 4.0 : 8.0;   /* heads of 64 columns; of gradients, the two heads that read a key head */
        ok(many < one * (stages + 3.0) / (4.0 * stages) * 1.05 && many > one * (stages + 3.0) / (4.0 * stages) * 0.95 && !l.gaps && l.events > 8,
           "... a pipeline of n stages on P ranks takes (n + P - 1) / (n P) of that (%.3f)", many / one);
        rondo_hardware own = h;
        own.delta_flops = own.delta_backward_flops = 4e11;
        ok(fabs(simulated(&d, 4, backward, &own, &l, &flops) * 4.0 / many - 1.0) < 0.05, "... at rates of its own, four times as high, a quarter");
        own.delta_flops = 1e11;
        ok(!backward || simulated(&d, 1, 1, &own, &l, &flops) < 0.5 * one, "... of which gradients have one");
        own.delta_dims[0] = 32, own.delta_dims[1] = 96;   /* states here have 64 */
        own.delta_rates[0] = own.delta_backward_rates[0] = 1e11, own.delta_rates[1] = own.delta_backward_rates[1] = 7e11;
        ok(fabs(simulated(&d, 4, backward, &own, &l, &flops) * 4.0 / many - 1.0) < 0.05, "... and at a rate between those of smaller and larger states");
        const rondo_hardware slow = machine(1e6);
        ok(simulated(&d, 4, backward, &slow, &l, &flops) > many + 3 * 64 * 64 * 4.0 / 1e6, "... and longer where states go slowly");
    }
}

/* ---- choosing ---- */

static int32_t chosen(double link, int64_t heads, int64_t tokens, int32_t ranks)
{
    const rondo_hardware h = machine(link);
    rondo_hardware seen = h;       /* by threads of one process */
    rondo_schedule_desc d = RONDO_SCHEDULE_DESC_INIT;
    rondo_schedule_info info = RONDO_SCHEDULE_INFO_INIT;
    rondo_delta_desc delta = usual(RONDO_DELTA_AUTO);
    rondo_schedule *s = NULL;
    struct line l;
    double flops, seconds[2];
    delta.heads = delta.key_heads = heads;
    delta.tokens = tokens;
    d.ranks = ranks;
    d.hardware = &h;
    const int err = rondo_schedule_delta(&s, &d, &delta) || rondo_schedule_query(s, &info);
    rondo_schedule_destroy(s);
    if (rondo__hardware_complete(&seen, &h))
        seen = h;
    rondo__hardware_run(&seen, true, true, ranks, 1);
    for (int i = 0; i < 2; i++) {
        delta.way = i ? RONDO_DELTA_COLUMNS : RONDO_DELTA_PIPELINE;
        seconds[i] = simulated(&delta, ranks, 0, &seen, &l, &flops);
    }
    ok(!err && info.delta_way == (seconds[1] < seconds[0] ? RONDO_DELTA_COLUMNS : RONDO_DELTA_PIPELINE),
       "%d heads, %d tokens, %d ranks, links of %.0e bytes/s: the way is the faster one, %s", (int)heads, (int)tokens, (int)ranks, link,
       rondo_delta_way_name(info.delta_way));
    return info.delta_way;
}

/* Ranks with hardware. */
static int with_hardware(rondo_context *ctx, void *arg)
{
    const rondo_delta_desc d = usual(RONDO_DELTA_AUTO);
    rondo_delta *plan = NULL;
    rondo_delta_info info = RONDO_DELTA_INFO_INIT;
    int err = rondo_delta_create(&plan, ctx, &d);
    if (!err)
        err = rondo_delta_query(plan, &info);
    ((int32_t *)arg)[rondo_context_rank(ctx)] = info.way;
    rondo_delta_destroy(plan);
    return err;
}

static void choices(void)
{
    setenv("RONDO_TEST_HOOK", "copy", 1);   /* what is sent travels, as between machines */
    ok(chosen(1e12, 4, 2000, 4) == RONDO_DELTA_COLUMNS, "... columns where links are fast and stages few");
    ok(chosen(1e7, 4, 2000, 4) == RONDO_DELTA_PIPELINE, "... a pipeline where links are slow");
    chosen(1e9, 32, 500, 8);
    for (int slow = 0; slow < 2; slow++) {
        const rondo_hardware h = machine(slow ? 1e6 : 1e12);
        rondo_context_desc c = RONDO_CONTEXT_DESC_INIT;
        int32_t ways[3] = { 0 };
        c.hardware = &h;
        const int err = rondo_launch(3, &c, with_hardware, ways);
        if (!ok(!err && ways[0] == ways[1] && ways[1] == ways[2] && ways[0] == (slow ? RONDO_DELTA_PIPELINE : RONDO_DELTA_COLUMNS),
                "plans of three ranks that know their hardware choose alike: %s", rondo_delta_way_name(ways[0])))
            diag("code %d, %d %d %d: %s", err, ways[0], ways[1], ways[2], rondo_error_text());
    }
    unsetenv("RONDO_TEST_HOOK");
}

static void refusals(void)
{
    rondo_schedule_desc d = RONDO_SCHEDULE_DESC_INIT;
    rondo_delta_desc delta = usual(RONDO_DELTA_AUTO);
    rondo_schedule *s = NULL;
    d.ranks = 2;
    d.backward = 1;
    ok(rondo_schedule_delta(&s, &d, &delta) == RONDO_EINVAL && !s && strstr(rondo_error_text(), "no gradients"), "refused: gradients that nobody asked for");
    d.backward = 0;
    ok(rondo_schedule_delta(&s, &d, NULL) == RONDO_EINVAL && !s, "refused: no descriptor");
    ok(rondo_schedule_delta(NULL, &d, &delta) == RONDO_EINVAL, "refused: no place for the schedule");
    d.ranks = 0;
    ok(rondo_schedule_delta(&s, &d, &delta) == RONDO_EINVAL && !s && strstr(rondo_error_text(), "ranks is 0"), "refused: no ranks");
    d.ranks = 2;
    delta.heads = -1;
    ok(rondo_schedule_delta(&s, &d, &delta) == RONDO_EINVAL && !s && strstr(rondo_error_text(), "heads is -1"), "refused: what a plan refuses");
}

int main(void)
{
    if (getenv("RONDO_TEST_HOOK"))
        return skip_all("sets RONDO_TEST_HOOK itself");
    same_as_plans();
    times();
    choices();
    refusals();
    return done();
}
