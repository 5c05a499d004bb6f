/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Schedules for whoever wants to know what ranks would do, and be sure of it, before there are any: rondo_schedule_*(), and what a plan
 * that exists says of its own rank. A reader like the others: it builds what a plan would build, from a design that no context was
 * asked for, one rank at a time, and tells it field by field, as a line (print.c), or proves it (check.c).
 */
#include "schedule/api.h"

#include "plan/plan.h"

struct rondo_schedule {
    struct rondo__design design;
    rondo_schedule_info info;
    rondo_hardware hardware;           /* the design's */
    int32_t rank;                      /* whose list is here; -1: nobody's */
    bool of_gradients, of_delta;       /* of_delta: there is no design of attention, but ... */
    struct rondo__delta_shown delta;
    struct rondo__part_of part;        /* one of these */
    struct rondo__backward_part backward;
    struct rondo__backward_way way;
};

static struct rondo__shown shown_of(const rondo_schedule *s)
{
    if (s->of_delta)
        return (struct rondo__shown){ .delta = &s->delta };
    return (struct rondo__shown){ &s->design, &s->part, s->of_gradients ? &s->backward : NULL, NULL };
}

static const char *const kind_names[] = { "pack", "transfer", "compute", "blank", "fence" };

const char *rondo_schedule_kind_name(int kind)
{
    return kind >= 0 && kind < (int)(sizeof kind_names / sizeof *kind_names) ? kind_names[kind] : NULL;
}

/* ---- make and end ---- */

int rondo__machine_find(struct rondo__machine *out, const char *transport_name, const char *device_name)
{
    const struct rondo_transport_ops *transport;
    const struct rondo_device_ops *device;
    const char *hook = rondo__env_hook();
    uint32_t reached = 1u << RONDO_MEMORY_HOST;
    int err = rondo__transport_find(&transport, transport_name ? transport_name : "threads");
    if (!err)
        err = rondo__device_find(&device, device_name ? device_name : "cpu");
    if (!err && transport->reaches)
        err = transport->reaches(NULL, device, NULL, &reached);
    if (err)
        return err;
    rondo__machine_with(transport, device, transport->data_open != NULL, reached, out);
    return hook ? rondo__hook_changes(hook, &out->in_place, &out->unified, &out->memories) : 0;
}

/* What the ranks would run on: as a context of theirs would find it, with the machine's cores shared out evenly. Processes are on one host where
 * it has room for as many. */
static int find_hardware(rondo_schedule *s, const rondo_schedule_desc *d)
{
    const char *name = d->hardware ? NULL : rondo__env_hardware();
    const bool together = !d->transport || !strcmp(d->transport, "threads");
    rondo_hardware given = RONDO_HARDWARE_INIT, *h = &s->hardware;
    if (!d->hardware && !name)
        return 0;
    int err = name ? rondo_hardware_read(name, &given) : 0;
    if (!err)
        err = rondo__hardware_complete(h, name ? &given : d->hardware);
    if (err)
        return err;
    const int64_t sharing = together || h->core_ranks > d->ranks ? d->ranks : h->core_ranks;
    rondo__hardware_run(h, together, together || d->ranks <= h->node_ranks, d->ranks, (int64_t)(h->cores / (double)sharing));
    s->design.foresight = (struct rondo__foresight){ h, 1 };
    return 0;
}

static int build(rondo_schedule *s, int rank, const char *function);

/* Of gradients: what is sent, any rank's list says of all of them. */
static int fill_gradients(rondo_schedule *s, int32_t asked)
{
    rondo_schedule_info *info = &s->info;
    double most = 0.0, here;
    int err = rondo__backward_algorithm(&s->design, asked, &s->way);
    info->algorithm = s->way.algorithm;
    if (!err)
        err = build(s, 0, "rondo_schedule_create");
    info->head_groups = 1;
    info->messages = s->backward.messages;
    info->bytes = s->backward.bytes;
    info->flops = 0.0;
    info->grid[1] = s->way.columns ? s->way.columns : s->way.teams;
    info->grid[0] = info->grid[1] ? s->design.ranks / info->grid[1] : 0;
    info->chosen_by = s->way.by;
    memcpy(info->predicted_seconds, s->way.seconds, sizeof info->predicted_seconds);
    for (int32_t r = 0; r < s->design.ranks && !err; r++) {
        err = rondo__backward_work(&s->design, &s->way, r, &here);
        if (err)
            break;
        info->flops += here;
        most = here > most ? here : most;
    }
    info->imbalance = info->flops > 0.0 ? most * (double)s->design.ranks / info->flops : 1.0;
    return err;
}

static int fill_info(rondo_schedule *s, int32_t asked)
{
    rondo_schedule_info *info = &s->info;
    const struct rondo__design *p = &s->design;
    const rondo_attention_desc *d = &p->desc;
    const struct rondo__flow *flow = p->survey.flow;
    info->struct_size = sizeof *info;
    info->ranks = p->ranks;
    info->algorithm = d->algorithm;
    info->layout = d->layout;
    info->arithmetic = d->arithmetic;
    info->level = d->level;
    info->leaf = d->leaf;
    info->head_groups = p->groups;
    info->in_place = p->machine.in_place;
    info->messages = flow->messages * (uint64_t)p->groups;
    info->bytes = flow->bytes;
    info->visible_pairs = rondo__design_pairs(p) / (uint64_t)p->mask.heads;
    info->flops = rondo__design_flops(p);
    info->hash = rondo__design_hash(p);
    memcpy(info->grid, flow->grid, sizeof info->grid);
    rondo__tell_choice(p, &info->chosen_by, info->predicted_seconds);
    if (s->of_gradients)
        return fill_gradients(s, asked);
    return rondo__design_balance(p, 0, NULL, &info->imbalance);
}

/* What both kinds of schedules begin with; *out has the hardware. */
static int begin(rondo_schedule **out, rondo_schedule_desc *d, const rondo_schedule_desc *desc, struct rondo__machine *machine, const char *function)
{
    int err = rondo__desc_copy(d, sizeof *d, desc, "rondo_schedule_desc");
    if (!err && d->ranks < 1)
        err = rondo__fail(RONDO_EINVAL, "%s: ranks is %d; it takes 1 or more", function, (int)d->ranks);
    if (!err && d->backward != 0 && d->backward != 1)
        err = rondo__fail(RONDO_EINVAL, "%s: backward is %d; it must be 0 or 1", function, (int)d->backward);
    if (!err)
        err = rondo__machine_find(machine, d->transport, d->device);
    if (err)
        return err;
    rondo_schedule *s = rondo__alloc_zero(1, sizeof *s);
    if (!s)
        return rondo__fail(RONDO_ENOMEM, "%s: no memory for the schedule", function);
    s->rank = -1;
    s->of_gradients = d->backward != 0;
    err = find_hardware(s, d);
    if (err)
        rondo__free(s);
    else
        *out = s;
    return err;
}

int rondo_schedule_create(rondo_schedule **out, const rondo_schedule_desc *desc, const rondo_attention_desc *attention)
{
    rondo_schedule_desc d;
    struct rondo__machine machine;
    rondo_schedule *s = NULL;
    if (out)
        *out = NULL;
    if (!out)
        return rondo__fail(RONDO_EINVAL, "rondo_schedule_create: out is NULL");
    int err = begin(&s, &d, desc, &machine, "rondo_schedule_create");
    if (err)
        return err;
    err = rondo__design_again(&s->design, attention, d.ranks, &machine);
    if (err) {
        rondo__free(s);
        return err;
    }
    if (s->of_gradients && !s->design.desc.gradients)
        err = rondo__fail(RONDO_EINVAL, "rondo_schedule_create: backward is 1, but the attention descriptor asks for no gradients; set gradients "
                                        "to 1 in it");
    if (!err)
        err = fill_info(s, s->of_gradients ? attention->algorithm : 0);
    if (err) {
        rondo_schedule_destroy(s);
        return err;
    }
    *out = s;
    return 0;
}

/* Of the delta rule: its ranks' lists, added up. */
static int fill_delta(rondo_schedule *s)
{
    rondo_schedule_info *info = &s->info;
    const struct rondo__delta_design *p = &s->delta.design;
    double most = 0.0;
    *info = (rondo_schedule_info){ .struct_size = sizeof *info, .ranks = p->ranks, .layout = RONDO_CONTIGUOUS, .head_groups = 1,
                                   .in_place = s->delta.machine.in_place, .hash = rondo__delta_hash(p), .delta_way = p->desc.way };
    if (s->of_gradients)
        info->delta_way = p->desc.way == RONDO_DELTA_SERIAL ? RONDO_DELTA_SERIAL : RONDO_DELTA_PIPELINE;
    for (int32_t r = 0; r < p->ranks; r++) {
        struct rondo__counts counts;
        double here = 0.0;
        int err = build(s, r, "rondo_schedule_delta");
        if (err)
            return err;
        const struct rondo__shown w = shown_of(s);
        rondo__schedule_count(rondo__shown_list(&w), &counts);
        info->messages += counts.messages;
        info->bytes += counts.bytes;
        for (int64_t i = 0; i < rondo__shown_list(&w)->operations.count; i++)
            here += rondo__shown_flops(&w, i);
        info->flops += here;
        most = here > most ? here : most;
    }
    info->imbalance = info->flops > 0.0 ? most * (double)p->ranks / info->flops : 1.0;
    return 0;
}

int rondo_schedule_delta(rondo_schedule **out, const rondo_schedule_desc *desc, const rondo_delta_desc *delta)
{
    rondo_schedule_desc d;
    rondo_delta_desc of;
    struct rondo__machine machine;
    rondo_schedule *s = NULL;
    if (out)
        *out = NULL;
    if (!out)
        return rondo__fail(RONDO_EINVAL, "rondo_schedule_delta: out is NULL");
    int err = rondo__desc_copy(&of, sizeof of, delta, "rondo_delta_desc");
    if (!err)
        err = begin(&s, &d, desc, &machine, "rondo_schedule_delta");
    if (err)
        return err;
    s->of_delta = true;
    err = rondo__delta_foresee(&of, d.ranks, &machine, &s->design.foresight);
    if (!err)
        err = rondo__delta_shown_make(&s->delta, &of, d.ranks, &machine, s->of_gradients);
    if (!err && s->of_gradients && !of.gradients)
        err = rondo__fail(RONDO_EINVAL, "rondo_schedule_delta: backward is 1, but the delta descriptor asks for no gradients; set gradients to 1 in it");
    if (!err)
        err = fill_delta(s);
    if (err) {
        rondo_schedule_destroy(s);
        return err;
    }
    *out = s;
    return 0;
}

void rondo_schedule_destroy(rondo_schedule *s)
{
    if (!s)
        return;
    if (s->of_delta) {
        rondo__delta_shown_free(&s->delta);
        rondo__free(s);
        return;
    }
    rondo__part_free(&s->part);
    rondo__backward_part_free(&s->backward);
    rondo__backward_way_free(&s->way);
    rondo__design_free(&s->design);
    rondo__free(s);
}

/* ---- what it says ---- */

int rondo_schedule_query(const rondo_schedule *s, rondo_schedule_info *info)
{
    if (!s)
        return rondo__fail(RONDO_EINVAL, "rondo_schedule_query: the schedule is NULL");
    return rondo__info_copy(info, &s->info, sizeof s->info, "rondo_schedule_info");
}

double rondo__shown_flops(const struct rondo__shown *w, int64_t index)
{
    const struct rondo__operation *o = rondo__operation_at(rondo__shown_list(w), index);
    if (o->kind != RONDO_COMPUTE)
        return 0.0;
    if (w->delta)
        return rondo__delta_shown_work(w->delta, o).flops;
    if (w->backward)
        return rondo__backward_flops(w->design, w->backward, o);
    const double a_pair = 2.0 * (double)(w->design->desc.head_dim + (o->program ? 0 : w->design->desc.value_dim));
    return a_pair * (double)rondo__operation_pairs(w->design, w->part, o);
}

/* One of the peers that the parts of a direction are with; -1: none, or several. */
static int32_t only_peer(const struct rondo__part *parts, int64_t count, bool receives)
{
    int32_t peer = -1;
    for (int64_t i = 0; i < count; i++) {
        if ((parts[i].receives != 0) != receives)
            continue;
        if (peer >= 0 && peer != parts[i].peer)
            return -1;
        peer = parts[i].peer;
    }
    return peer;
}

static rondo_schedule_operation_info operation_info(const struct rondo__shown *w, int64_t index)
{
    const struct rondo__schedule *s = rondo__shown_list(w);
    const struct rondo__operation *o = rondo__operation_at(s, index);
    rondo_schedule_operation_info info = RONDO_SCHEDULE_OPERATION_INFO_INIT;
    info.kind = o->kind;
    info.head_group = s->groups > 1 ? o->group : -1;
    info.operation = o->step.what;
    info.step = o->step.index;
    info.steps = o->step.of;
    info.peer = info.counted = -1;
    info.flops = rondo__shown_flops(w, index);
    info.waits = (const int32_t *)s->waits.items + o->waits_first;
    info.wait_count = o->waits;
    const struct rondo__use *use = (const struct rondo__use *)s->uses.items + o->uses_first;
    for (int32_t i = 0; i < o->uses && o->kind == RONDO_PACK; i++)
        info.copied += use[i].writes ? use[i].bytes : 0;
    if (o->kind != RONDO_TRANSFER)
        return info;
    const struct rondo__part *parts = (const struct rondo__part *)s->parts.items + o->first;
    for (int64_t i = 0; i < o->count; i++) {
        info.received += parts[i].receives ? parts[i].bytes : 0;
        info.bytes += parts[i].receives ? 0 : parts[i].bytes;
        info.messages += !parts[i].receives;
    }
    info.counted = o->operation;
    info.peer = only_peer(parts, o->count, info.messages == 0);
    return info;
}

static int no_such(const char *function, int64_t index, int64_t count, int32_t rank)
{
    return rondo__fail(RONDO_EINVAL, "%s: there is no operation %lld; rank %d has %lld, from 0", function, (long long)index, (int)rank,
                       (long long)count);
}

/* Makes the list of a rank, unless it is here. */
static int build(rondo_schedule *s, int rank, const char *function)
{
    if (!s)
        return rondo__fail(RONDO_EINVAL, "%s: the schedule is NULL", function);
    if (rank < 0 || rank >= s->info.ranks)
        return rondo__fail(RONDO_EINVAL, "%s: there is no rank %d; the schedule has %d, from 0", function, rank, (int)s->info.ranks);
    if (rank == s->rank)
        return 0;
    s->rank = -1;
    int err = s->of_delta ? rondo__delta_shown_rank(&s->delta, rank)
            : s->of_gradients ? rondo__backward_build(&s->design, &s->way, rank, &s->backward) : rondo__design_build(&s->design, rank, &s->part);
    if (!err)
        s->rank = rank;
    return err;
}

int rondo__schedule_shown(rondo_schedule *s, int rank, const char *function, struct rondo__shown *out)
{
    int err = build(s, rank, function);
    if (!err)
        *out = shown_of(s);
    return err;
}

int rondo_schedule_rank(rondo_schedule *s, int rank, rondo_schedule_rank_info *info)
{
    rondo_schedule_rank_info ours = RONDO_SCHEDULE_RANK_INFO_INIT;
    struct rondo__counts counts;
    int err = build(s, rank, "rondo_schedule_rank");
    if (err)
        return err;
    const struct rondo__shown w = shown_of(s);
    rondo__schedule_count(rondo__shown_list(&w), &counts);
    ours.operations = rondo__shown_list(&w)->operations.count;
    ours.messages = counts.messages;
    ours.bytes = counts.bytes;
    ours.workspace_bytes = counts.workspace_bytes;
    ours.pack_bytes = s->of_delta ? 0 : s->of_gradients ? rondo__backward_pack_bytes(&s->backward) : s->part.schedule.spare_bytes;
    for (int64_t i = 0; i < ours.operations; i++)
        ours.flops += rondo__shown_flops(&w, i);
    return rondo__info_copy(info, &ours, sizeof ours, "rondo_schedule_rank_info");
}

static int tell(struct rondo__shown w, int64_t index, rondo_schedule_operation_info *info, const char *function)
{
    const struct rondo__schedule *list = rondo__shown_list(&w);
    if (index < 0 || index >= list->operations.count)
        return no_such(function, index, list->operations.count, list->rank);
    const rondo_schedule_operation_info ours = operation_info(&w, index);
    return rondo__info_copy(info, &ours, sizeof ours, "rondo_schedule_operation_info");
}

static int64_t line(struct rondo__shown w, int64_t index, char *text, size_t bytes, const char *function)
{
    const struct rondo__schedule *list = rondo__shown_list(&w);
    if (index < 0 || index >= list->operations.count)
        return no_such(function, index, list->operations.count, list->rank);
    if (!text && bytes)
        return rondo__fail(RONDO_EINVAL, "%s: text is NULL, but has room for %zu bytes", function, bytes);
    return rondo__operation_print(list, index, rondo__shown_flops(&w, index), text, bytes);
}

int rondo_schedule_operation(rondo_schedule *s, int rank, int64_t index, rondo_schedule_operation_info *info)
{
    int err = build(s, rank, "rondo_schedule_operation");
    return err ? err : tell(shown_of(s), index, info, "rondo_schedule_operation");
}

int64_t rondo_schedule_operation_text(rondo_schedule *s, int rank, int64_t index, char *text, size_t bytes)
{
    int err = build(s, rank, "rondo_schedule_operation_text");
    return err ? err : line(shown_of(s), index, text, bytes, "rondo_schedule_operation_text");
}

/* ---- of a plan ---- */

int rondo_attention_operation(const rondo_attention *plan, int64_t index, rondo_schedule_operation_info *info)
{
    if (!plan)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_operation: the plan is NULL");
    return tell((struct rondo__shown){ &plan->design, &plan->part, NULL, NULL }, index, info, "rondo_attention_operation");
}

int64_t rondo_attention_operation_text(const rondo_attention *plan, int64_t index, char *text, size_t bytes)
{
    if (!plan)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_operation_text: the plan is NULL");
    return line((struct rondo__shown){ &plan->design, &plan->part, NULL, NULL }, index, text, bytes, "rondo_attention_operation_text");
}

/* ---- proving it ---- */

struct proof {
    rondo_schedule *schedule;
    uint64_t messages, bytes, pairs[2];    /* of gradients: of queries, of keys */
    double values;                         /* of the delta rule */
    int (*progress)(void *user, double done);
    void *user;
};

static int tell_progress(const struct proof *p, double done)
{
    if (p->progress && p->progress(p->user, done))
        return rondo__fail(RONDO_ECANCELED, "rondo_schedule_check: the caller's progress function asked to stop");
    return 0;
}

static int prove_rank(void *arg, int32_t rank, const struct rondo__schedule **out)
{
    struct proof *p = arg;
    rondo_schedule *s = p->schedule;
    struct rondo__counts counts;
    int err = tell_progress(p, (double)rank / (double)s->info.ranks);
    if (!err)
        err = build(s, rank, "rondo_schedule_check");
    if (err)
        return err;
    const struct rondo__shown w = shown_of(s);
    const struct rondo__schedule *list = rondo__shown_list(&w);
    rondo__schedule_count(list, &counts);
    p->messages += counts.messages;
    p->bytes += counts.bytes;
    for (int64_t i = 0; i < list->operations.count; i++) {
        const struct rondo__operation *o = rondo__operation_at(list, i);
        if (s->of_delta) {
            p->values += rondo__delta_shown_work(&s->delta, o).values;
        } else if (s->of_gradients) {
            const uint64_t both = rondo__backward_pairs(&s->design, &s->backward, o, RONDO_BACKWARD_QUERIES | RONDO_BACKWARD_KEYS);
            p->pairs[0] += both + rondo__backward_pairs(&s->design, &s->backward, o, RONDO_BACKWARD_QUERIES);
            p->pairs[1] += both + rondo__backward_pairs(&s->design, &s->backward, o, RONDO_BACKWARD_KEYS);
        } else if (o->kind == RONDO_COMPUTE && !o->program) {
            p->pairs[0] += rondo__operation_pairs(&s->design, &s->part, o);
        }
    }
    *out = list;
    return 0;
}

int rondo_schedule_check(rondo_schedule *s, int (*progress)(void *user, double done), void *user)
{
    if (!s)
        return rondo__fail(RONDO_EINVAL, "rondo_schedule_check: the schedule is NULL");
    struct proof p = { .schedule = s, .progress = progress, .user = user };
    const rondo_schedule_info *said = &s->info;
    const struct rondo__machine *machine = s->of_delta ? &s->delta.machine : &s->design.machine;
    int err = rondo__schedule_check(s->info.ranks, machine, prove_rank, &p);
    if (err)
        return err;
    if (p.messages != said->messages || p.bytes != said->bytes)
        return rondo__fail(RONDO_EINVAL, "the ranks send %llu messages of %llu bytes, but the plan says %llu of %llu",
                           (unsigned long long)p.messages, (unsigned long long)p.bytes, (unsigned long long)said->messages,
                           (unsigned long long)said->bytes);
    const rondo_delta_desc *delta = &s->delta.design.desc;
    const double values = s->of_delta ? (double)s->delta.design.rows * (double)delta->heads * (double)delta->value_dim : 0.0;
    if (p.values < values || p.values > values)
        return rondo__fail(RONDO_EINVAL, "the ranks compute %.0f numbers of the delta rule's values, but there are %.0f", p.values, values);
    if (s->of_delta)
        return tell_progress(&p, 1.0);
    const uint64_t pairs = rondo__design_pairs(&s->design), heads = (uint64_t)s->design.desc.heads;
    const uint64_t expected = pairs * (heads / (uint64_t)s->design.mask.heads);   /* modulo 2^64 */
    for (int side = 0; side < (s->of_gradients ? 2 : 1); side++)
        if (p.pairs[side] != expected || said->visible_pairs != pairs / (uint64_t)s->design.mask.heads)
            return rondo__fail(RONDO_EINVAL, "the ranks compute %llu pairs of a query and a key%s, but the mask shows %llu to each of %llu heads",
                               (unsigned long long)p.pairs[side], !s->of_gradients ? "" : side ? " for keys" : " for queries",
                               (unsigned long long)said->visible_pairs, (unsigned long long)heads);
    return tell_progress(&p, 1.0);
}
