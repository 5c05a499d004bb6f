/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The schedules that this library runs, as operations of the simulator: a design without a context, built for one rank after the other, and
 * read as the executor reads it. A computation takes its visible pairs' FLOPs, or the bytes that it reads, whichever is longer; a copy
 * its bytes, read and written.
 */
#include "plan/predict.h"

#define DELTAS ((int)(sizeof((rondo_hardware *)0)->delta_dims / sizeof(int64_t)))

/* Ranks on machines of their own, or devices, whose memory transfers reach; or threads, which read each other's. */
static struct rondo__machine machine_of(const rondo_cost_case *c, const rondo_hardware *h)
{
    const bool together = h->in_place && c->context_parallel <= h->node_ranks;
    return (struct rondo__machine){ .in_place = together, .unified = true, .eager = 0, .memories = 1u << RONDO_MEMORY_HOST };
}

static double bytes_used(const struct rondo__schedule *s, const struct rondo__operation *o, bool written)
{
    const struct rondo__use *use = (const struct rondo__use *)s->uses.items + o->uses_first;
    double bytes = 0.0;
    for (int32_t i = 0; i < o->uses; i++)
        bytes += (use[i].writes != 0) == written ? (double)use[i].bytes : 0.0;
    return bytes;
}

/* Nodes that a computation leaves are memory that a processor writes behind its sums; a device does so beside them. */
static double node_bytes(const struct rondo__schedule *s, const struct rondo__operation *o)
{
    const struct rondo__use *use = (const struct rondo__use *)s->uses.items + o->uses_first;
    double bytes = 0.0;
    for (int32_t i = 0; i < o->uses; i++)
        if (use[i].writes && rondo__buffer_at(s, use[i].buffer)->tensor < 0)
            bytes += (double)use[i].bytes;
    return bytes;
}

/* Of the full rate: pairs that are hidden count in part, and those of jobs of few rows more; of gradients neither is known. */
static double flops_of(const struct rondo__shown *w, const struct rondo__operation *o, const rondo_hardware *h)
{
    const struct rondo__design *p = w->design;
    if (w->backward)
        return rondo__backward_flops(p, w->backward, o);
    const double a_pair = 2.0 * (double)(p->desc.head_dim + (o->program ? 0 : p->desc.value_dim));
    const double group = (double)p->desc.heads / (double)p->desc.kv_heads;
    double pairs = 0.0;
    for (int64_t i = 0; i < o->count; i++) {
        uint64_t hidden = 0;
        int64_t rows;
        const uint64_t seen = rondo__operation_job_pairs(p, w->part, o, i, &rows, h->attention_edge > 0.0 ? &hidden : NULL);
        pairs += ((double)seen + h->attention_edge * (double)hidden) / rondo__sim_row_part(h, (double)rows * group);
    }
    return a_pair * pairs;
}

/* Nodes are put together, and results made of them, without a key. They come out of other cores' caches, row by row, and results are memory
 * that is read before it is written; a device hides that. */
static double join_seconds(const struct rondo__shown *w, const struct rondo__operation *o, const rondo_hardware *h)
{
    const double dim = (double)w->design->desc.value_dim;
    double nodes, results;
    rondo__operation_nodes(w->part, o, &nodes, &results);
    return h->operation_latency + 4.0 * (nodes * (dim + 2.0) + 2.0 * results * dim) / h->join_bandwidth;
}

/* Its blocks read parts of what their operation uses. */
static double delta_seconds(const struct rondo__delta_shown *w, const struct rondo__operation *o, const rondo_hardware *h)
{
    const struct rondo__delta_work work = rondo__delta_shown_work(w, o);
    const double side = ((double)w->design.desc.key_dim + (double)w->design.desc.value_dim) / 2.0, reading = work.bytes / h->memory_bandwidth;
    const double rate = h->delta_dims[0] ? rondo__hardware_of_size(h->delta_dims, work.back ? h->delta_backward_rates : h->delta_rates, DELTAS, side)
                        : work.back ? h->delta_backward_flops : h->delta_flops;
    if (rate == 0.0)
        return rondo__sim_compute_seconds(h, w->design.desc.key_dim, work.flops, work.bytes);
    return h->operation_latency + (work.flops / rate > reading ? work.flops / rate : reading);
}

static double stream_seconds(const struct rondo__shown *w, const struct rondo__operation *o, const rondo_hardware *h)
{
    const struct rondo__schedule *s = rondo__shown_list(w);
    if (o->kind == RONDO_COMPUTE && w->delta)
        return delta_seconds(w->delta, o, h);
    if (o->kind == RONDO_COMPUTE && !o->program && !o->sources && !w->backward && h->cores > 0.0)
        return join_seconds(w, o, h);
    if (o->kind == RONDO_COMPUTE)
        return rondo__sim_compute_seconds(h, w->design->desc.head_dim, flops_of(w, o, h), bytes_used(s, o, false)) +
               (h->cores > 0.0 ? node_bytes(s, o) / h->memory_bandwidth : 0.0);
    return 2.0 * bytes_used(s, o, true) / h->memory_bandwidth;
}

/* What is shown in place is no more than a word of where it lies, among threads; elsewhere its bytes come by a link all the same. */
static double carried(const struct rondo__machine *machine, const rondo_hardware *h, const struct rondo__part *part)
{
    return machine->in_place && h->in_place && part->bytes > machine->eager ? (double)sizeof(void *) : (double)part->bytes;
}

void rondo__sim_shown(struct rondo__sim *sim, const struct rondo__shown *w, const rondo_hardware *h)
{
    const struct rondo__schedule *s = rondo__shown_list(w);
    const struct rondo__machine *machine = rondo__shown_machine(w);
    const int64_t base = sim->operations.count;
    rondo__sim_rank(sim);
    for (int64_t i = 0; i < s->operations.count; i++) {
        const struct rondo__operation *o = rondo__operation_at(s, i);
        if (o->kind == RONDO_TRANSFER)
            rondo__sim_transfer(sim, o->operation == RONDO_OP_ALL_TO_ALL);
        else if (o->kind == RONDO_FENCE)
            rondo__sim_fence(sim);
        else
            rondo__sim_stream(sim, stream_seconds(w, o, h), o->kind == RONDO_COMPUTE);
        const struct rondo__part *parts = (const struct rondo__part *)s->parts.items + o->first;
        for (int64_t k = 0; k < o->count && o->kind == RONDO_TRANSFER; k++)
            rondo__sim_part(sim, parts[k].peer, parts[k].receives != 0, carried(machine, h, parts + k));
        const int32_t *waits = (const int32_t *)s->waits.items + o->waits_first;
        for (int32_t k = 0; k < o->waits; k++)
            rondo__sim_wait(sim, base + waits[k]);
    }
}

void rondo__sim_add(struct rondo__sim *sim, const struct rondo__design *p, const struct rondo__part_of *part, const rondo_hardware *h)
{
    const struct rondo__shown w = { p, part, NULL, NULL };
    rondo__sim_shown(sim, &w, h);
}

/* What goes into the simulator goes through the checker first, each rank's list as it is made: a schedule in which something is wrong has no time. */
struct reading {
    struct rondo__sim *sim;
    const struct rondo__design *design;
    const rondo_hardware *hardware;
    const struct rondo__sim_maker *maker;
    struct rondo__part_of part;
    uint64_t workspace;
};

static int read_rank(void *arg, int32_t rank, const struct rondo__schedule **out)
{
    struct reading *r = arg;
    struct rondo__counts counts;
    int err = r->maker ? r->maker->build(r->maker->arg, r->design, rank, &r->part) : rondo__design_build(r->design, rank, &r->part);
    if (err)
        return err;
    rondo__sim_add(r->sim, r->design, &r->part, r->hardware);
    if (rank == 0)
        rondo__sim_reserve(r->sim, r->design->ranks);
    rondo__schedule_count(&r->part.schedule, &counts);
    const uint64_t room = (uint64_t)counts.workspace_bytes + r->part.schedule.spare_bytes;
    r->workspace = room > r->workspace ? room : r->workspace;
    *out = &r->part.schedule;
    return 0;
}

int rondo__sim_design(struct rondo__sim *sim, const struct rondo__design *design, const rondo_hardware *h, const struct rondo__sim_maker *maker,
                      uint64_t *workspace)
{
    struct reading r = { .sim = sim, .design = design, .hardware = h, .maker = maker };
    const int err = rondo__schedule_check(design->ranks, &design->machine, read_rank, &r);
    *workspace = r.workspace;
    rondo__part_free(&r.part);
    return err;
}

int rondo__sim_design_of(const rondo_cost_case *c, const rondo_hardware *h, struct rondo__design *design)
{
    rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
    const struct rondo__machine machine = machine_of(c, h);
    const int err = rondo__cost_describe(c, &d);
    return err ? err : rondo__design_make(design, &d, (int32_t)c->context_parallel, &machine);
}

int rondo__sim_schedules(struct rondo__sim *sim, const rondo_cost_case *c, const rondo_hardware *h, uint64_t *workspace, int32_t *algorithm,
                         int32_t *layout)
{
    struct rondo__design design;
    *workspace = 0;
    int err = rondo__sim_design_of(c, h, &design);
    if (err)
        return err;
    err = rondo__sim_design(sim, &design, h, NULL, workspace);
    *algorithm = design.desc.algorithm;
    *layout = design.desc.layout;
    rondo__design_free(&design);
    return err;
}
