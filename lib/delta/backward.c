/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo_delta_backward: a plan's gradients, made with it where its descriptor asks for them (backward_build.c), and run on the caller's arrays,
 * which are checked before anything moves. Sums over tokens are those of layers' gradients: the same lists, the same slots of the device.
 */
#include "delta/backward.h"

/* ---- made with the plan ---- */

static int no_memory(void)
{
    return rondo__fail(RONDO_ENOMEM, "rondo_delta_create: no memory for the plan's gradients");
}

static int make(rondo_delta *plan, struct rondo__delta_backward *back, const struct rondo__machine *machine)
{
    const struct rondo_device_ops *ops = rondo__ops(plan->ctx);
    int err = rondo__delta_backward_build(back, &plan->design, plan->ctx->rank, machine);
    if (err)
        return err;
    const struct rondo__schedule *s = &back->built.schedule;
    back->states = rondo__alloc_zero((size_t)s->buffers.count, sizeof *back->states);
    back->join = rondo__alloc_zero(back->tokens ? (size_t)back->tokens->node_count + 1 : 1, sizeof *back->join);
    if (!back->states || !back->join)
        return no_memory();
    for (int kind = 0; kind < 3 && !err; kind++)
        if (s->workspace_bytes[kind])
            err = ops->memory_new(rondo__dev(plan->ctx), kind, s->workspace_bytes[kind], &back->room[kind]);
    return err ? err : rondo__runner_make(&back->runner, plan->ctx, s, NULL, 0, 0);
}

int rondo__delta_backward_make(rondo_delta *plan, const struct rondo__machine *machine)
{
    const struct rondo_device_ops *ops = rondo__ops(plan->ctx);
    const rondo_delta_desc *d = &plan->design.desc;
    struct rondo__counts counts;
    if (!RONDO_HAS(ops, delta_backward) || !RONDO_HAS(ops, token_sum))
        return rondo__fail(RONDO_ENOTSUP, "rondo_delta_create: device %s does not compute gradients of the delta rule; cpu does", ops->name);
    plan->backward = rondo__alloc_zero(1, sizeof *plan->backward);
    if (!plan->backward)
        return no_memory();
    int err = make(plan, plan->backward, machine);
    if (err)
        return err;
    const struct rondo__schedule *s = &plan->backward->built.schedule;
    rondo__schedule_count(s, &counts);
    plan->info.backward_way = d->way == RONDO_DELTA_SERIAL ? RONDO_DELTA_SERIAL : RONDO_DELTA_PIPELINE;
    plan->info.backward_operations = s->operations.count;
    plan->info.backward_messages = counts.messages;
    plan->info.backward_bytes = counts.bytes;
    /* a state goes forward three times, at 5 each: to a mark, from there to some tokens before each one, and again; then it comes back, at 12 */
    plan->info.backward_flops = 27.0 * (double)d->key_dim * (double)d->value_dim * (double)d->heads * (double)plan->design.rows;
    for (int kind = 0; kind < 3; kind++)
        plan->info.backward_workspace_bytes += s->workspace_bytes[kind];
    return 0;
}

void rondo__delta_backward_free(rondo_delta *plan)
{
    struct rondo__delta_backward *back = plan->backward;
    if (!back)
        return;
    rondo__runner_free(back->runner);
    for (int kind = 0; kind < 3; kind++)
        if (back->room[kind])
            rondo__ops(plan->ctx)->memory_free(rondo__dev(plan->ctx), kind, back->room[kind], back->built.schedule.workspace_bytes[kind]);
    rondo__delta_backward_unbuild(back);
    rondo__free(back->states);
    rondo__free(back->join);
    rondo__free(back);
    plan->backward = NULL;
}

/* ---- what a COMPUTE does ---- */

struct running {
    const rondo_delta *plan;
    struct rondo_delta_rows rows, results;
    const rondo_delta_gradients *gradients;
    void *const *at;                   /* the caller's arrays */
};

static int run_states(const struct running *x, const struct rondo__delta_call *call, int32_t buffers, const struct rondo_poll *poll)
{
    const struct rondo__delta_backward *back = x->plan->backward;
    const struct rondo_delta_run run = { .form = &x->plan->design.form, .parts = &x->rows, .part_count = 1,
                                         .blocks = (const struct rondo_delta_block *)back->built.blocks.items + call->first, .count = call->count,
                                         .states = back->states, .state_count = buffers, .a_log = x->at[RONDO_DELTA_A_LOG],
                                         .dt_bias = x->at[RONDO_DELTA_DT_BIAS] };
    return rondo__ops(x->plan->ctx)->delta(rondo__dev(x->plan->ctx), NULL, &run, poll);
}

static int run_blocks(const struct running *x, const struct rondo__delta_call *call, int32_t buffers, const struct rondo_poll *poll)
{
    const struct rondo__delta_backward *back = x->plan->backward;
    const rondo_delta_desc *d = &x->plan->design.desc;
    const rondo_delta_gradients *g = x->gradients;
    const struct rondo_delta_backward_run run = {
        .form = &x->plan->design.form, .rows = &x->rows, .results = &x->results,
        .blocks = (const struct rondo_delta_backward_block *)back->blocks.items + call->first, .states = back->states, .count = call->count,
        .a_log = x->at[RONDO_DELTA_A_LOG], .dt_bias = x->at[RONDO_DELTA_DT_BIAS], .group = (int32_t)(d->heads / d->key_heads), .state_count = buffers,
        .accumulate = g->accumulate, .q_type = g->dq.type, .k_type = g->dk.type, .v_type = g->dv.type, .g_type = g->dg.type, .beta_type = g->dbeta.type
    };
    return rondo__ops(x->plan->ctx)->delta_backward(rondo__dev(x->plan->ctx), NULL, &run, poll);
}

static int64_t wide(const struct running *x)
{
    return x->plan->design.desc.heads * rondo__delta_sums(&x->plan->design);
}

/* This rank's nodes of sums over tokens, of leaves that are rows. */
static int run_nodes(const struct running *x, void *const *place, const struct rondo_poll *poll)
{
    const struct rondo__delta_backward *back = x->plan->backward;
    const rondo_tokens *t = back->tokens;
    const int64_t columns = wide(x);
    float *to = place[back->nodes[t->part]];
    int err = 0;
    for (int64_t i = 0; i < t->node_count && !err; i++) {
        const struct rondo__token_node *node = t->nodes + i;
        const struct rondo_token_segment all = { 0, node->leaves, 0 };
        if (node->part != t->part)
            continue;
        struct rondo_token_run run = rondo__tokens_run(t, node->leaf, node->leaves);
        run.segments = &all;
        run.segment_count = 1;
        run.rows = 1;
        run.columns = run.b_stride = run.y_stride = columns;
        run.b = place[back->leaves];
        run.y = to;
        err = rondo__ops(x->plan->ctx)->token_sum(rondo__dev(x->plan->ctx), NULL, &run, poll);
        to += columns;
    }
    return err;
}

/* The tree over all ranks' nodes, of the first `out` numbers from `first` on of each head. */
static int join(const struct running *x, void *const *place, int64_t first, int64_t out, float *to)
{
    const struct rondo__delta_backward *back = x->plan->backward;
    const struct rondo_device_ops *ops = rondo__ops(x->plan->ctx);
    const rondo_tokens *t = back->tokens;
    const int64_t heads = x->plan->design.desc.heads, each = rondo__delta_sums(&x->plan->design);
    struct rondo_linear_join j = { .rows = heads, .out = out, .nodes = back->join, .count = (int32_t)t->node_count, .add = x->gradients->accumulate,
                                   .y = to, .y_stride = out };
    static const float nothing;
    if (!to)
        return 0;
    for (int64_t i = 0; i < t->node_count; i++) {
        const int32_t part = t->nodes[i].part;
        int64_t number = 0;                /* of the part's nodes */
        for (int64_t n = i; n-- && t->nodes[n].part == part;)
            number++;
        back->join[i] = (struct rondo_linear_node){ (const float *)place[back->nodes[part]] + number * wide(x) + first, each, t->nodes[i].merges, 0 };
    }
    if (t->node_count)
        return ops->linear_join(rondo__dev(x->plan->ctx), NULL, &j);
    return j.add ? 0 : ops->copy_rows(rondo__dev(x->plan->ctx), NULL, to, sizeof *to, &nothing, 0, sizeof nothing, heads * out);
}

static int run_join(const struct running *x, void *const *place)
{
    const int64_t channels = x->plan->design.desc.gate_dim;
    int err = join(x, place, 0, channels, x->at[RONDO_DELTA_DDT_BIAS]);
    return err ? err : join(x, place, channels, 1, x->at[RONDO_DELTA_DA_LOG]);
}

static int compute(void *arg, const struct rondo__operation *o, void *const *place, const struct rondo_poll *poll)
{
    const struct running *x = arg;
    const struct rondo__delta_backward *back = x->plan->backward;
    const struct rondo__delta_call *call = (const struct rondo__delta_call *)back->built.calls.items + o->first;
    const int64_t buffers = back->built.schedule.buffers.count;
    for (int64_t i = 0; i < buffers; i++)
        back->states[i] = place[i];
    switch (call->back) {
    case RONDO_DELTA_BACK_BLOCKS:
        return run_blocks(x, call, (int32_t)buffers, poll);
    case RONDO_DELTA_BACK_NODES:
        return run_nodes(x, place, poll);
    case RONDO_DELTA_BACK_JOIN:
        return run_join(x, place);
    default:
        return run_states(x, call, (int32_t)buffers, poll);
    }
}

/* Of a COMPUTE, in numbers of states that change: what progress is told in. On the way back each costs about what four do there. */
static double cost(void *arg, const struct rondo__operation *o)
{
    const struct running *x = arg;
    const struct rondo__delta_backward *back = x->plan->backward;
    const struct rondo__delta_call *call = (const struct rondo__delta_call *)back->built.calls.items + o->first;
    const struct rondo_delta_backward_block *block = (const struct rondo_delta_backward_block *)back->blocks.items + call->first;
    const struct rondo_delta_block *there = (const struct rondo_delta_block *)back->built.blocks.items + call->first;
    const double columns = (double)x->plan->design.desc.value_dim;
    double sum = 0.0;
    for (int64_t i = 0; i < call->count && call->back <= RONDO_DELTA_BACK_BLOCKS; i++)
        sum += call->back ? 4.0 * (double)block[i].rows * columns : (double)there[i].rows * columns;
    return sum;
}

/* ---- running ---- */

/* The type of a result is its own, if it is one. */
static struct rondo__delta_array result(const char *name, const rondo_tensor *t, struct rondo__delta_array like, bool add)
{
    const bool known = t->type == RONDO_F32 || t->type == RONDO_BF16 || t->type == RONDO_F16;
    like.name = name;
    like.tensor = t;
    like.type = known && !like.dense ? t->type : RONDO_F32;
    like.uses = like.uses ? RONDO_STAGE_WRITE | (add ? RONDO_STAGE_READ : 0) : 0;
    return like;
}

/* By enum rondo__delta_caller and rondo__delta_gradient. */
static void list_arrays(const rondo_delta *plan, const rondo_delta_io *io, const rondo_delta_gradients *g, struct rondo__delta_array *a)
{
    const rondo_delta_desc *d = &plan->design.desc;
    const bool add = g->accumulate;
    rondo__delta_inputs(plan, io, a);
    a[RONDO_DELTA_DOUT] = a[RONDO_DELTA_V];
    a[RONDO_DELTA_DOUT].name = "dout";
    a[RONDO_DELTA_DOUT].tensor = &g->dout;
    a[RONDO_DELTA_DOUT].type = d->out_type;
    a[RONDO_DELTA_DFINAL] = (struct rondo__delta_array){ "dfinal_state", &g->dfinal_state, { d->sequences, d->heads, d->key_dim, d->value_dim }, 4,
                                                         RONDO_F32, d->final_state ? RONDO_STAGE_READ : 0, 1, 1 };
    a[RONDO_DELTA_DQ] = result("dq", &g->dq, a[RONDO_DELTA_Q], add);
    a[RONDO_DELTA_DK] = result("dk", &g->dk, a[RONDO_DELTA_K], add);
    a[RONDO_DELTA_DV] = result("dv", &g->dv, a[RONDO_DELTA_V], add);
    a[RONDO_DELTA_DG] = result("dg", &g->dg, a[RONDO_DELTA_G], add);
    a[RONDO_DELTA_DBETA] = result("dbeta", &g->dbeta, a[RONDO_DELTA_BETA], add);
    a[RONDO_DELTA_DA_LOG] = result("da_log", &g->da_log, a[RONDO_DELTA_A_LOG], add);
    a[RONDO_DELTA_DDT_BIAS] = result("ddt_bias", &g->ddt_bias, a[RONDO_DELTA_DT_BIAS], add);
    a[RONDO_DELTA_DINITIAL] = result("dinitial_state", &g->dinitial_state, a[RONDO_DELTA_INITIAL], true);   /* what is not written of it stays */
    a[RONDO_DELTA_DINITIAL].optional = 1;
}

static int run(rondo_delta *plan, const rondo_delta_io *io, const rondo_delta_gradients *g, const struct rondo__delta_array *a)
{
    void *at[RONDO_DELTA_GRADIENTS] = { NULL };
    struct running x = { .plan = plan, .gradients = g, .at = at };
    struct rondo_rows *const rows[RONDO_DELTA_GRADIENTS] = {
        [RONDO_DELTA_Q] = &x.rows.q, [RONDO_DELTA_K] = &x.rows.k, [RONDO_DELTA_V] = &x.rows.v, [RONDO_DELTA_G] = &x.rows.g,
        [RONDO_DELTA_BETA] = &x.rows.beta, [RONDO_DELTA_DOUT] = &x.rows.out, [RONDO_DELTA_DQ] = &x.results.q, [RONDO_DELTA_DK] = &x.results.k,
        [RONDO_DELTA_DV] = &x.results.v, [RONDO_DELTA_DG] = &x.results.g, [RONDO_DELTA_DBETA] = &x.results.beta
    };
    struct rondo__staging s = { .ctx = plan->ctx };
    int err = 0;
    for (int i = 0; i < RONDO_DELTA_GRADIENTS && !err; i++)
        err = rondo__delta_stage(&s, a + i, at + i, rows[i]);
    const struct rondo__given given = { .caller = at, .room = plan->backward->room, .compute = compute, .arg = &x, .cost = cost,
                                        .progress = io->progress, .user = io->user, .function = "rondo_delta_backward" };
    if (!err)
        err = rondo__runner_bind(plan->backward->runner, &given, NULL);
    if (!err)
        err = rondo__runner_run(plan->backward->runner);
    return rondo__stage_end(&s, true, err);
}

static int prepare(const rondo_delta *plan, const rondo_delta_io *io, const rondo_delta_gradients *gradients, rondo_delta_io *ours,
                   rondo_delta_gradients *g, struct rondo__delta_array *arrays)
{
    if (!plan->backward)
        return rondo__fail(RONDO_EINVAL, "rondo_delta_backward: the plan was made without gradients; set gradients to 1 in its descriptor");
    if (!io || !gradients)
        return rondo__fail(RONDO_EINVAL, "rondo_delta_backward: %s NULL", !io ? "io is" : "the gradients are");
    int err = rondo__desc_copy(ours, sizeof *ours, io, "rondo_delta_io");
    if (!err)
        err = rondo__desc_copy(g, sizeof *g, gradients, "rondo_delta_gradients");
    if (!err)
        err = rondo__reserved(g->reserved, "rondo_delta_backward");
    if (!err && g->accumulate & ~1)
        err = rondo__fail(RONDO_EINVAL, "rondo_delta_backward: accumulate is %d; it is 0 or 1", (int)g->accumulate);
    if (!err)
        err = rondo__ops(plan->ctx)->check(rondo__dev(plan->ctx));
    if (err)
        return err;
    list_arrays(plan, ours, g, arrays);
    for (int i = 0; i < RONDO_DELTA_GRADIENTS && !err; i++)
        err = rondo__delta_check(plan->ctx, "rondo_delta_backward", arrays + i);
    return err;
}

int rondo_delta_backward(rondo_delta *plan, const rondo_delta_io *io, const rondo_delta_gradients *gradients)
{
    rondo_delta_io ours;
    rondo_delta_gradients g;
    struct rondo__delta_array arrays[RONDO_DELTA_GRADIENTS];
    if (!plan)
        return rondo__fail(RONDO_EINVAL, "rondo_delta_backward: the plan is NULL");
    int err = rondo__collective_begin(plan->ctx, "gradients of the delta rule");
    if (!err)
        err = prepare(plan, io, gradients, &ours, &g, arrays);
    if (!plan->agreed && plan->ctx->ranks > 1) {
        err = rondo_agree(plan->ctx, plan->info.hash, err, "the plan of a delta rule");
        if (err)
            return err;
    }
    if (!err) {
        plan->agreed = 1;
        err = run(plan, &ours, &g, arrays);
    }
    return err ? rondo__collective_failed(plan->ctx, err) : 0;
}
