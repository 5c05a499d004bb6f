/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo_attention_backward: a plan's gradients, made with it where its descriptor asks for them, and run on the arrays that backward_io.c has
 * found or made. The schedule's computations are calls of the device's slots for gradients.
 */
#include "attention/backward.h"

/* ---- made with the plan ---- */

static int no_memory(void)
{
    return rondo__fail(RONDO_ENOMEM, "rondo_attention_create: no memory for the plan's gradients");
}

static int make(rondo_attention *plan, struct rondo__backward *b, const struct rondo__backward_way *way)
{
    const struct rondo_device_ops *ops = rondo__ops(plan->ctx);
    const struct rondo__design *d = &plan->design;
    struct rondo_backward_desc desc;
    int err = rondo__backward_build(d, way, plan->rank, &b->part);
    if (err)
        return err;
    rondo__backward_part_trim(&b->part);
    const size_t n = (size_t)b->part.sources.count;
    b->queries = rondo__alloc_zero(n, sizeof *b->queries);
    b->keys = rondo__alloc_zero(n, sizeof *b->keys);
    b->node_memory = rondo__alloc_zero((size_t)b->part.node_buffers.count, sizeof *b->node_memory);
    b->lists = rondo__alloc_zero((size_t)d->sequences, 4 * sizeof *b->lists);
    b->join = rondo__alloc_zero((size_t)b->part.nodes.count + (size_t)d->sequences, sizeof *b->join);
    if (!b->queries || !b->keys || !b->node_memory || !b->lists || !b->join)
        return no_memory();
    rondo__backward_desc(d, &b->part, false, &desc);
    err = ops->backward_new(rondo__dev(plan->ctx), &b->device, &desc);
    if (!err && b->part.dealt < b->part.jobs.count) {
        rondo__backward_desc(d, &b->part, true, &desc);
        err = ops->backward_new(rondo__dev(plan->ctx), &b->all, &desc);
    }
    if (!err)
        err = rondo__runner_make(&b->runner, plan->ctx, &b->part.schedule, NULL, 0, 0);
    if (!err)
        b->pack_bytes = rondo__backward_pack_bytes(&b->part);
    return err;
}

int rondo__backward_make(rondo_attention *plan, int32_t algorithm)
{
    const struct rondo_device_ops *ops = rondo__ops(plan->ctx);
    rondo_attention_info *info = &plan->info;
    struct rondo__counts counts;
    rondo__backward_free(plan);
    info->backward_algorithm = 0;
    info->backward_workspace_bytes = info->backward_device_bytes = info->backward_pack_bytes = 0;
    info->backward_messages = info->backward_bytes = info->backward_messages_total = info->backward_bytes_total = 0;
    info->backward_flops = 0.0;
    info->backward_recompute_bytes = 0;
    if (!plan->design.desc.gradients)
        return 0;
    if (!RONDO_HAS(ops, backward))
        return rondo__fail(RONDO_ENOTSUP, "rondo_attention_create: device %s has no gradients of attention in this build; device cpu has", ops->name);
    struct rondo__backward_way way;
    int err = rondo__backward_algorithm_of(plan->ctx, &plan->design, info->hash, algorithm, &way);
    if (err)
        return err;
    struct rondo__backward *b = plan->backward = rondo__alloc_zero(1, sizeof *b);
    err = b ? make(plan, b, &way) : no_memory();
    rondo__backward_way_free(&way);
    if (err) {
        rondo__backward_free(plan);
        return err;
    }
    const struct rondo__schedule *s = &b->part.schedule;
    const rondo_attention_desc *d = &plan->design.desc;
    rondo__schedule_count(s, &counts);
    info->backward_algorithm = way.algorithm;
    info->backward_workspace_bytes = counts.workspace_bytes;
    const size_t scratch = ops->backward_scratch(rondo__dev(plan->ctx), b->device), all = b->all ? ops->backward_scratch(rondo__dev(plan->ctx), b->all) : 0;
    info->backward_device_bytes = (all > scratch ? all : scratch) + s->workspace_bytes[RONDO_MEMORY_PINNED] +
                                  s->workspace_bytes[RONDO_MEMORY_DEVICE];
    info->backward_pack_bytes = b->pack_bytes;
    info->backward_recompute_bytes = rondo__backward_again_bytes(plan);
    info->backward_messages = counts.messages;
    info->backward_bytes = counts.bytes;
    info->backward_messages_total = b->part.messages;
    info->backward_bytes_total = b->part.bytes;
    info->backward_flops = (6.0 * (double)d->head_dim + 4.0 * (double)d->value_dim) * (double)rondo__design_pairs(&plan->design) *
                           ((double)d->heads / plan->design.mask.heads);
    return 0;
}

void rondo__backward_free(rondo_attention *plan)
{
    struct rondo__backward *b = plan->backward;
    if (!b)
        return;
    const struct rondo_device_ops *ops = rondo__ops(plan->ctx);
    struct rondo_device *dev = rondo__dev(plan->ctx);
    rondo__runner_free(b->runner);
    if (b->device)
        ops->backward_free(dev, b->device);
    if (b->all)
        ops->backward_free(dev, b->all);
    for (int i = 0; i < RONDO_GRADIENT_ARRAYS; i++)
        if (b->stage[i].memory)
            ops->memory_free(dev, RONDO_MEMORY_DEVICE, b->stage[i].memory, b->stage[i].bytes);
    if (b->again.memory)
        ops->memory_free(dev, RONDO_MEMORY_DEVICE, b->again.memory, b->again.bytes);
    rondo__backward_part_free(&b->part);
    rondo__free(b->queries);
    rondo__free(b->keys);
    rondo__free(b->node_memory);
    rondo__free(b->lists);
    rondo__free(b->join);
    rondo__free(b);
    plan->backward = NULL;
}

size_t rondo__backward_bytes(const struct rondo__backward *b)
{
    if (!b)
        return 0;
    const struct rondo__backward_part *p = &b->part;
    return sizeof *b + rondo__list_bytes(&p->leaves, sizeof(struct rondo_backward_leaf)) + rondo__list_bytes(&p->jobs, sizeof(struct rondo_backward_job)) +
           rondo__list_bytes(&p->places, sizeof(struct rondo_backward_place)) + rondo__list_bytes(&p->joins, sizeof(struct rondo_backward_join)) +
           rondo__list_bytes(&p->steps, sizeof(struct rondo_tree_step)) + rondo__list_bytes(&p->rounds, sizeof(struct rondo__backward_round)) +
           rondo__list_bytes(&p->node_buffers, sizeof(struct rondo__backward_store) + sizeof *b->node_memory) +
           rondo__list_bytes(&p->own, sizeof(struct rondo_backward_leaf)) + rondo__list_bytes(&p->bases, sizeof(int64_t)) +
           rondo__list_bytes(&p->nodes, sizeof(struct rondo__backward_node) + sizeof *b->join) + rondo__schedule_bytes(&p->schedule) +
           rondo__runner_bytes(b->runner);
}

/* ---- one execution ---- */

static char *place_of(void *const *place, int32_t buffer)
{
    return buffer < 0 ? NULL : place[buffer];
}

static int sums(const struct rondo__backward_call *call, void *const *place)
{
    const rondo_attention_desc *d = &call->plan->design.desc;
    const struct rondo__backward *b = call->plan->backward;
    const struct rondo_backward_sums of = { .rows = call->plan->q_first[call->plan->design.sequences], .heads = (int32_t)d->heads,
                                            .value_dim = (int32_t)d->value_dim, .out_type = d->out_type, .out = place[RONDO_GRADIENT_OUT],
                                            .dout = place[RONDO_GRADIENT_DOUT], .dlse = place[RONDO_GRADIENT_DLSE], .sums = place[b->part.sums] };
    return of.rows ? rondo__ops(call->plan->ctx)->backward_sums(rondo__dev(call->plan->ctx), NULL, &of) : 0;
}

/* What a round may look at, of ranks' rows: set, or, behind it, nothing any more. */
static void show_rows(struct rondo__backward *b, void *const *place, struct rondo__backward_shown of, bool set)
{
    const struct rondo__backward_source *source = b->part.sources.items;
    for (int32_t r = of.first; r < of.first + of.count; r++) {
        const struct rondo__backward_source *s = source + r;
        b->keys[r] = (struct rondo_backward_keys){ .rows = 0 };
        b->queries[r] = (struct rondo_backward_queries){ .rows = 0 };
        if (!set)
            continue;
        b->keys[r] = (struct rondo_backward_keys){ place_of(place, s->key[0]), place_of(place, s->key[1]), s->key_rows };
        b->queries[r] = (struct rondo_backward_queries){ place_of(place, s->query[0]), place_of(place, s->query[1]),
                                                         (const float *)(const void *)place_of(place, s->query[2]),
                                                         (const float *)(const void *)place_of(place, s->query[3]), s->query_rows };
    }
}

/* ... and of nodes, by the places that name them. */
static void show_places(struct rondo__backward *b, void *const *place, int64_t first, int64_t count, bool set)
{
    const struct rondo_backward_place *p = (const struct rondo_backward_place *)b->part.places.items + first;
    for (int64_t i = 0; i < count; i++) {
        const struct rondo__backward_store *store = (const struct rondo__backward_store *)b->part.node_buffers.items + p[i].buffer;
        b->node_memory[p[i].buffer] = set && store->buffer >= 0
            ? (struct rondo_backward_nodes){ (float *)(void *)place_of(place, store->buffer), (int64_t)(store->bytes / sizeof(float)) }
            : (struct rondo_backward_nodes){ NULL, 0 };
    }
}

static void show_nodes(struct rondo__backward *b, void *const *place, const struct rondo__operation *o, bool set)
{
    const struct rondo__backward_round *round = (const struct rondo__backward_round *)b->part.rounds.items + o->head;
    const struct rondo_backward_job *job = b->part.jobs.items;
    const struct rondo_backward_join *join = b->part.joins.items;
    const struct rondo_tree_step *steps = b->part.steps.items;
    for (int64_t i = round->first; i < round->first + round->count && o->first == RONDO_BACKWARD_RUN; i++) {
        if (job[i].query_places >= 0)
            show_places(b, place, job[i].query_places, job[i].queries, set);
        if (job[i].key_places >= 0)
            show_places(b, place, job[i].key_places, job[i].keys, set);
    }
    for (int64_t i = round->first; i < round->first + round->count && o->first == RONDO_BACKWARD_NODES; i++)
        for (int32_t j = 0; j < join[i].steps; j++) {
            const struct rondo_tree_step *at = steps + join[i].steps_first + j;
            if (at->code == RONDO_TREE_LOAD || at->code == RONDO_TREE_STORE)
                show_places(b, place, join[i].places_first + at->arg, 1, set);
        }
}

/* All that a round needs, and nothing else. A ring of a thousand ranks has as many rounds, each of which needs two ranks' rows: so it is not all
 * looked through each time. */
static void show(struct rondo__backward *b, void *const *place, const struct rondo__operation *o, int32_t rank)
{
    const struct rondo__backward_round *round = (const struct rondo__backward_round *)b->part.rounds.items + o->head;
    for (int i = 0; i < 2; i++)
        show_rows(b, place, b->shown[i], false);
    if (b->shown_for)
        show_nodes(b, place, b->shown_for, false);
    memset(b->shown, 0, sizeof b->shown);
    if (o->first == RONDO_BACKWARD_RUN && round->source < 0) {
        b->shown[0].count = (int32_t)b->part.sources.count;
    } else if (o->first == RONDO_BACKWARD_RUN) {
        b->shown[0] = (struct rondo__backward_shown){ rank - rank % round->sources, round->sources };
        b->shown[1] = (struct rondo__backward_shown){ round->source, round->sources };
    }
    for (int i = 0; i < 2; i++)
        show_rows(b, place, b->shown[i], true);
    show_nodes(b, place, o, true);
    b->shown_for = o;
}

/* A round: some jobs, or some joins. */
static int run(const struct rondo__backward_call *call, const struct rondo__operation *o, void *const *place, const struct rondo_poll *poll)
{
    const struct rondo_device_ops *ops = rondo__ops(call->plan->ctx);
    const struct rondo__backward_round *round = (const struct rondo__backward_round *)call->plan->backward->part.rounds.items + o->head;
    const bool joins = o->first == RONDO_BACKWARD_NODES;
    const rondo_attention *plan = call->plan;
    struct rondo__backward *b = plan->backward;
    const int64_t n = plan->design.sequences;
    const bool all = !joins && round->first >= b->part.dealt;
    show(b, place, o, plan->rank);
    const struct rondo_backward_run of = {
        .first = round->first - (all ? b->part.dealt : 0), .count = round->count, .queries = b->queries, .keys = b->keys, .nodes = b->node_memory,
        .query_count = (int32_t)b->part.sources.count, .key_count = (int32_t)b->part.sources.count, .node_count = (int32_t)b->part.node_buffers.count,
        .accumulate = call->gradients.accumulate, .dq_type = call->gradients.dq.type,
        .dk_type = call->gradients.dk.type, .dv_type = call->gradients.dv.type, .dq = place[RONDO_GRADIENT_DQ], .dk = place[RONDO_GRADIENT_DK],
        .dv = place[RONDO_GRADIENT_DV], .dq_rows = plan->q_first[n], .dkv_rows = plan->kv_first[n], .alibi = call->at[RONDO_GRADIENT_ALIBI],
        .bias = call->bias, .dbias = call->dbias, .bias_row = b->lists, .bias_key = b->lists + n, .dbias_row = b->lists + 2 * n,
        .dbias_key = b->lists + 3 * n, .seed = call->io.seed,
    };
    return joins ? ops->backward_join(rondo__dev(plan->ctx), NULL, b->device, &of, poll)
                 : ops->backward(rondo__dev(plan->ctx), NULL, all ? b->all : b->device, &of, poll);
}

static int sink_nodes(const struct rondo__backward_call *call, void *const *place)
{
    const rondo_attention *plan = call->plan;
    const struct rondo__backward *b = plan->backward;
    const struct rondo_backward_sinks of = {
        .leaves = b->part.own.items, .bases = b->part.bases.items, .count = b->part.own.count, .rows = plan->q_first[plan->design.sequences],
        .heads = (int32_t)plan->design.desc.heads, .leaf_size = plan->design.desc.leaf, .sinks = call->at[RONDO_GRADIENT_SINKS],
        .lse = place[RONDO_GRADIENT_LSE], .sums = place[b->part.sums],
        .nodes = place[((const int32_t *)b->part.sink_buffers.items)[plan->rank]],
    };
    return call->at[RONDO_GRADIENT_DSINKS] ? rondo__ops(plan->ctx)->backward_sinks(rondo__dev(plan->ctx), NULL, &of) : 0;
}

/* The tree over the leaves of each sequence, then the tree over sequences. */
static int join(const struct rondo__backward_call *call, void *const *place)
{
    const rondo_attention *plan = call->plan;
    const struct rondo__backward *b = plan->backward;
    const struct rondo_device_ops *ops = rondo__ops(plan->ctx);
    const struct rondo__backward_node *node = b->part.nodes.items;
    const int32_t *at = b->part.sink_buffers.items;
    const int64_t heads = plan->design.desc.heads;
    struct rondo_linear_node *all = b->join + b->part.nodes.count;
    struct rondo_linear_join j = { .rows = 1, .out = heads, .y_stride = heads };
    int64_t stack[RONDO_LINEAR_DEPTH + 1], depth = 0, sequences = 0;
    float *sums = place[b->part.joined];
    int err = 0;
    if (!call->at[RONDO_GRADIENT_DSINKS])
        return 0;
    for (int64_t i = 0, next; i < b->part.nodes.count && !err; i = next) {
        const int64_t sequence = node[i].sequence;
        for (next = i; next < b->part.nodes.count && node[next].sequence == sequence; next++)
            b->join[next] = (struct rondo_linear_node){ (const float *)(const void *)place_of(place, at[node[next].source]) + node[next].row * heads,
                                                        heads, node[next].merges, 0 };
        if (depth)   /* what is known of those before now that this one comes */
            for (; depth > 1 && rondo__leaves_merge(stack[depth - 2], stack[depth - 1], sequence); depth--) {
                stack[depth - 2] = stack[depth - 1];
                all[sequences - 1].merges++;
            }
        stack[depth++] = sequence;
        j.nodes = b->join + i;
        j.count = (int32_t)(next - i);
        j.y = sums + sequences * heads;
        all[sequences++] = (struct rondo_linear_node){ j.y, heads, 0, 0 };
        err = ops->linear_join(rondo__dev(plan->ctx), NULL, &j);
    }
    j.nodes = all;
    j.count = (int32_t)sequences;
    j.add = call->gradients.accumulate;
    j.y = place[RONDO_GRADIENT_DSINKS];
    if (!err && sequences)
        return ops->linear_join(rondo__dev(plan->ctx), NULL, &j);
    static const float nothing;
    return err || j.add ? err : ops->copy_rows(rondo__dev(plan->ctx), NULL, j.y, sizeof(float), &nothing, 0, sizeof nothing, heads);
}

static int compute(void *arg, const struct rondo__operation *o, void *const *place, const struct rondo_poll *poll)
{
    const struct rondo__backward_call *call = arg;
    switch (o->first) {
    case RONDO_BACKWARD_SUM:
        return sums(call, place);
    case RONDO_BACKWARD_RUN:
    case RONDO_BACKWARD_NODES:
        return run(call, o, place, poll);
    case RONDO_BACKWARD_SINK:
        return sink_nodes(call, place);
    default:
        return join(call, place);
    }
}

/* All that may fail before a message has moved. */
static int prepare(struct rondo__backward_call *call, const rondo_attention_io *io, const rondo_attention_gradients *gradients, void *workspace)
{
    const rondo_attention *plan = call->plan;
    const struct rondo_device_ops *ops = rondo__ops(plan->ctx);
    if (!plan->runner)
        return rondo__no_plan("rondo_attention_backward");
    if (!plan->backward)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_backward: the plan was made without gradients; set gradients to 1 in its descriptor");
    int err = rondo__desc_copy(&call->io, sizeof call->io, io, "rondo_attention_io");
    if (!err)
        err = rondo__desc_copy(&call->gradients, sizeof call->gradients, gradients, "rondo_attention_gradients");
    if (!err)
        err = rondo__backward_again_room(call);
    if (!err && ops->check)
        err = ops->check(rondo__dev(plan->ctx));
    if (!err)
        err = rondo__backward_check(call);
    if (!err && (uintptr_t)workspace % 64)
        err = rondo__fail(RONDO_EINVAL, "rondo_attention_backward: the workspace is not aligned to 64 bytes");
    return err;
}

int rondo_attention_backward(rondo_attention *plan, const rondo_attention_io *io, const rondo_attention_gradients *gradients, void *workspace)
{
    struct rondo__backward_call call = { .plan = plan };
    struct rondo__given given = { .caller = call.at, .compute = compute, .arg = &call, .longest = RONDO_BACKWARD_RUN,
                                  .function = "rondo_attention_backward" };
    if (!plan)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_backward: the plan is NULL");
    int err = prepare(&call, io, gradients, workspace);
    given.progress = call.io.progress;
    given.user = call.io.user;
    if (!err && call.gradients.recompute) {
        given.progress = call.io.progress ? rondo__backward_again_progress : NULL;
        given.user = &call;
        err = rondo__backward_again(&call);
        if (err)
            return err;
    }
    if (!err)
        err = rondo__backward_take(&call);
    if (!err)
        err = rondo__runner_bind(plan->backward->runner, &given, workspace);
    if (!plan->agreed && plan->design.ranks > 1) {
        err = rondo_agree(plan->ctx, plan->info.hash, err, "the attention plan");
        if (err)
            return err;
    }
    if (!err) {
        plan->agreed = 1;
        err = rondo__runner_run(plan->backward->runner);
    }
    if (!err)
        err = rondo__backward_give(&call);
    err = rondo__settle(plan->ctx, err);
    return err ? rondo__collective_failed(plan->ctx, err) : 0;
}
