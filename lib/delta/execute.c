/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo_delta_execute: checks the caller's arrays before anything moves, brings them to where the device computes, lets the ranks agree on the plan
 * once, runs it, and ends in the same state on every rank whatever fails.
 */
#include "delta/delta.h"

/* ---- the caller's arrays ---- */

int rondo__delta_check(const rondo_context *ctx, const char *where, const struct rondo__delta_array *a)
{
    const rondo_tensor *t = a->tensor;
    int64_t count = 1, inner = 1;
    if (!t->data && t->dims == 0 && (a->optional || !a->uses))
        return 0;
    if (!a->uses)
        return rondo__fail(RONDO_EINVAL, "%s: %s is given, which this plan has not; its descriptor says what there is", where, a->name);
    int err = rondo__tensor_check(where, a->name, t);
    if (err)
        return err;
    if (t->type != a->type)
        return rondo__fail(RONDO_EINVAL, "%s: %s is %s; the plan's is %s", where, a->name,
                           rondo_type_name(t->type) ? rondo_type_name(t->type) : "of an unknown type", rondo_type_name(a->type));
    bool same = t->dims == a->dims;
    for (int i = 0; i < a->dims && same; i++)
        same = t->shape[i] == a->shape[i];
    if (!same)
        return rondo__fail(RONDO_EINVAL, "%s: %s has %d dimensions, %lld x %lld x %lld x %lld; the plan's has %d, %lld x %lld x %lld x "
                                         "%lld", where, a->name, (int)t->dims, (long long)t->shape[0], (long long)t->shape[1], (long long)t->shape[2],
                           (long long)t->shape[3], (int)a->dims, (long long)a->shape[0], (long long)a->shape[1], (long long)a->shape[2],
                           (long long)a->shape[3]);
    for (int i = 0; i < a->dims; i++)
        count *= a->shape[i];
    if (count && !t->data)
        return rondo__fail(RONDO_EINVAL, "%s: %s has no data (NULL); this plan needs it", where, a->name);
    for (int i = a->dims - 1; i >= 0 && count; i--) {
        int64_t end;
        const bool tight = a->dense || (i == 2 && a->dims == 3);
        if (t->stride[i] < 1 || (tight && a->shape[i] > 1 && t->stride[i] != inner) || !rondo__mul64(t->stride[i], a->shape[i], &end) ||
            end > PTRDIFF_MAX / 4)
            return rondo__fail(RONDO_EINVAL, "%s: the strides of %s are %lld, %lld, %lld, %lld; %s", where, a->name, (long long)t->stride[0],
                               (long long)t->stride[1], (long long)t->stride[2], (long long)t->stride[3],
                               a->dense ? "it must be dense, the last dimension innermost" : "they are positive, and the last of three dimensions is dense");
        inner *= a->shape[i];
    }
    return rondo__check_memory(ctx, where, a->name, t->memory, t->data);
}

enum { ARRAYS = RONDO_DELTA_CALLERS };

void rondo__delta_inputs(const rondo_delta *plan, const rondo_delta_io *io, struct rondo__delta_array *a)
{
    const rondo_delta_desc *d = &plan->design.desc;
    const int64_t rows = plan->info.rows;
    const int32_t read = RONDO_STAGE_READ, raw = d->gate ? read : 0, initial = d->initial_state ? read : 0;
    a[RONDO_DELTA_Q] = (struct rondo__delta_array){ "q", &io->q, { rows, d->key_heads, d->key_dim }, 3, d->type, read, 0, 0 };
    a[RONDO_DELTA_K] = (struct rondo__delta_array){ "k", &io->k, { rows, d->key_heads, d->key_dim }, 3, d->type, read, 0, 0 };
    a[RONDO_DELTA_V] = (struct rondo__delta_array){ "v", &io->v, { rows, d->heads, d->value_dim }, 3, d->type, read, 0, 0 };
    a[RONDO_DELTA_G] = (struct rondo__delta_array){ "g", &io->g, { rows, d->heads, d->gate_dim }, 3, d->gate_type, read, 0, 0 };
    a[RONDO_DELTA_BETA] = (struct rondo__delta_array){ "beta", &io->beta, { rows, d->heads }, 2, d->beta_type, read, 0, 0 };
    a[RONDO_DELTA_A_LOG] = (struct rondo__delta_array){ "A_log", &io->a_log, { d->heads }, 1, RONDO_F32, raw, 1, 1 };
    a[RONDO_DELTA_DT_BIAS] = (struct rondo__delta_array){ "dt_bias", &io->dt_bias, { d->heads, d->gate_dim }, 2, RONDO_F32, raw, 1, 1 };
    a[RONDO_DELTA_INITIAL] = (struct rondo__delta_array){ "initial_state", &io->initial_state, { d->sequences, d->heads, d->key_dim, d->value_dim }, 4,
                                                          RONDO_F32, initial, 0, 1 };
}

/* By enum rondo__delta_caller. */
static void list_arrays(const rondo_delta *plan, const rondo_delta_io *io, const rondo_tensor *bounds, struct rondo__delta_array *a)
{
    const rondo_delta_desc *d = &plan->design.desc;
    const int64_t entries = d->checkpoint_count * (plan->design.packed ? 1 : d->sequences);
    const int32_t states = RONDO_STAGE_READ | RONDO_STAGE_WRITE;   /* what is not written of them stays */
    rondo__delta_inputs(plan, io, a);
    a[RONDO_DELTA_OUT] = (struct rondo__delta_array){ "out", &io->out, { plan->info.rows, d->heads, d->value_dim }, 3, d->out_type, RONDO_STAGE_WRITE,
                                                      0, 0 };
    a[RONDO_DELTA_FINAL] = (struct rondo__delta_array){ "final_state", &io->final_state, { d->sequences, d->heads, d->key_dim, d->value_dim }, 4,
                                                        RONDO_F32, d->final_state ? states : 0, 0, 1 };
    a[RONDO_DELTA_CHECKPOINTS] = (struct rondo__delta_array){ "checkpoints", &io->checkpoints, { entries, d->heads, d->key_dim, d->value_dim }, 4,
                                                              RONDO_F32, d->checkpoint_count ? states : 0, 0, 1 };
    a[RONDO_DELTA_BOUNDS] = (struct rondo__delta_array){ "certificates", bounds, { bounds->shape[0], bounds->shape[1] }, 2, RONDO_F32,
                                                         plan->bounds ? states : 0, 0, 1 };
}

/* Of each tile and head, but those of a sequence's last one, which passes nothing on to anybody. */
static rondo_tensor bounds_of(const rondo_delta *plan)
{
    const int64_t shape[] = { rondo__delta_tile_count(&plan->design, plan->ctx->rank), plan->design.desc.heads };
    return plan->bounds ? rondo_tensor_dense(plan->bounds, RONDO_F32, 2, shape) : (rondo_tensor)RONDO_TENSOR_INIT;
}

/* What certificates say, into the plan's info. A bound that is not a number bounds nothing. */
static void certify(rondo_delta *plan)
{
    const struct rondo__delta_design *p = &plan->design;
    const float *bound = plan->bounds;
    double most = 0.0;
    int64_t skipped = 0;
    for (int64_t n = 0; n < p->desc.sequences && bound; n++) {
        const struct rondo__delta_tiles t = rondo__delta_tiles(p, plan->ctx->rank, n);
        for (int64_t i = t.first; i < t.end; i++) {
            const bool legacy = p->desc.way == RONDO_DELTA_LEGACY;
            bool nothing = (legacy || i > 0) && i + 1 < t.tiles;   /* an affine scan's first one goes from its true state */
            for (int64_t h = 0; h < p->desc.heads && i + 1 < t.tiles; h++) {
                const double x = bound[h] == bound[h] ? (double)bound[h] : __builtin_inf();
                nothing = nothing && (legacy || x < p->desc.tolerance);
                most = x > most ? x : most;
            }
            skipped += nothing;
            bound += p->desc.heads;
        }
    }
    plan->info.certificate = most;
    plan->info.skipped = skipped;
}

/* ---- what a COMPUTE does ---- */

struct running {
    rondo_delta *plan;
    struct rondo_delta_rows rows;
    const float *a_log, *dt_bias;
};

/* Where the tokens lie that a call is of: where the caller has them, or in packets, heads of a row together. */
static struct rondo_delta_rows rows_of(const struct running *x, const struct rondo__delta_call *call, void *const *place)
{
    const struct rondo__delta_part *p = (const struct rondo__delta_part *)x->plan->built.parts.items + call->part;
    const int64_t kd = x->plan->design.desc.key_dim, gd = x->plan->design.desc.gate_dim;
    if (p->in < 0)
        return x->rows;
    char *in = place[p->in];
    return (struct rondo_delta_rows){
        .q = { in + p->at[RONDO_DELTA_Q], p->key_heads * kd, kd }, .k = { in + p->at[RONDO_DELTA_K], p->key_heads * kd, kd },
        .v = { in + p->at[RONDO_DELTA_V], p->columns, 0 }, .g = { in + p->at[RONDO_DELTA_G], p->heads * gd, gd },
        .beta = { in + p->at[RONDO_DELTA_BETA], p->heads, 1 }, .out = { (char *)place[p->out] + p->at[RONDO_DELTA_OUT], p->columns, 0 }
    };
}

static int compute(void *arg, const struct rondo__operation *o, void *const *place, const struct rondo_poll *poll)
{
    const struct running *x = arg;
    const struct rondo__delta_built *built = &x->plan->built;
    const struct rondo__delta_call *call = (const struct rondo__delta_call *)built->calls.items + o->first;
    const int64_t buffers = built->schedule.buffers.count;
    for (int64_t i = 0; i < buffers; i++)
        x->plan->states[i] = place[i];
    if (call->folds)
        return rondo__ops(x->plan->ctx)->delta_fold(rondo__dev(x->plan->ctx), NULL, x->plan->design.form.key_dim,
                                                    (const struct rondo_delta_fold *)built->folds.items + call->first, call->count, x->plan->states,
                                                    (int32_t)buffers);
    const struct rondo_delta_rows rows = rows_of(x, call, place);
    struct rondo_delta_form form = x->plan->design.form;
    form.chunk = call->chunk;
    const struct rondo_delta_run run = { .form = &form, .parts = &rows, .part_count = 1,
                                         .blocks = (const struct rondo_delta_block *)built->blocks.items + call->first, .count = call->count,
                                         .states = x->plan->states, .state_count = (int32_t)buffers, .a_log = x->a_log, .dt_bias = x->dt_bias,
                                         .tolerance = x->plan->design.desc.tolerance };
    return rondo__ops(x->plan->ctx)->delta(rondo__dev(x->plan->ctx), NULL, &run, poll);
}

/* Of a COMPUTE, in numbers of states that change: what progress is told in. */
static double cost(void *arg, const struct rondo__operation *o)
{
    const struct running *x = arg;
    const struct rondo__delta_built *built = &x->plan->built;
    const struct rondo__delta_call *call = (const struct rondo__delta_call *)built->calls.items + o->first;
    const struct rondo_delta_block *block = (const struct rondo_delta_block *)built->blocks.items + call->first;
    double sum = 0.0;
    for (int64_t i = 0; i < call->count && !call->folds; i++)
        sum += block[i].kind == RONDO_DELTA_BOUND ? 0.0 : (double)block[i].rows * (double)block[i].columns;
    return call->folds ? (double)call->count * (double)x->plan->design.desc.value_dim : sum;
}

/* ---- running ---- */

int rondo__delta_stage(struct rondo__staging *s, const struct rondo__delta_array *a, void **at, struct rondo_rows *rows)
{
    const rondo_tensor *t = a->tensor;
    const size_t one = rondo_type_size(a->type);
    *at = NULL;
    if (!a->uses || !t->data)
        return 0;
    const bool heads = !a->dense;
    const int64_t last = a->dims == 3 ? a->shape[2] : 1;
    int64_t all = 1;
    for (int i = 0; i < a->dims; i++)
        all *= a->shape[i];
    if (!all)
        return 0;
    int err = heads ? rondo__stage(s, a->uses, (struct rondo__array){ t->data, a->shape[0], a->shape[1], (size_t)t->stride[0] * one,
                                                                      (size_t)t->stride[1] * one, (size_t)last * one }, at)
                    : rondo__stage(s, a->uses, rondo__rows_of(t->data, 1, (size_t)all * one, (size_t)all * one), at);
    const bool moved = *at != t->data;
    if (rows)
        *rows = (struct rondo_rows){ *at, moved ? a->shape[1] * last : t->stride[0], moved ? last : t->stride[1] };
    return err;
}

/* ---- arrays that must be dense, as a schedule copies parts of their rows ---- */

static int copy_rows(const rondo_delta *plan, const struct rondo__delta_array *a, struct rondo_rows from, struct rondo_rows to)
{
    const size_t one = rondo_type_size(a->type);
    const int64_t dim = a->dims == 3 ? a->shape[2] : 1;
    int err = 0;
    for (int64_t h = 0; h < a->shape[1] && !err; h++)
        err = rondo__ops(plan->ctx)->copy_rows(rondo__dev(plan->ctx), NULL, (char *)to.data + (size_t)(h * to.head_stride) * one,
                                               (size_t)to.row_stride * one, (const char *)from.data + (size_t)(h * from.head_stride) * one,
                                               (size_t)from.row_stride * one, (size_t)dim * one, a->shape[0]);
    return err;
}

/* *rows, which become a copy's that the plan keeps, where they are not dense. */
static int make_dense(rondo_delta *plan, int number, const struct rondo__delta_array *a, struct rondo_rows *rows, void **at)
{
    const int64_t dim = a->dims == 3 ? a->shape[2] : 1, row = a->shape[1] * dim;
    const struct rondo_rows theirs = *rows;
    size_t bytes;
    if (!rows->data || ((a->shape[0] == 1 || rows->row_stride == row) && (a->shape[1] == 1 || rows->head_stride == dim)))
        return 0;
    if (!plan->dense[number]) {
        if (!rondo__mul((size_t)a->shape[0], (size_t)row * rondo_type_size(a->type), &bytes))
            return rondo__fail(RONDO_ENOMEM, "rondo_delta_execute: a dense copy of %s is more than memory can hold", a->name);
        int err = rondo__ops(plan->ctx)->memory_new(rondo__dev(plan->ctx), rondo__delta_memory(plan), bytes, &plan->dense[number]);
        if (err)
            return rondo__fail(err, "rondo_delta_execute: no memory for a dense copy of %s, %zu bytes", a->name, bytes);
        plan->dense_bytes[number] = bytes;
    }
    *rows = (struct rondo_rows){ plan->dense[number], row, dim };
    *at = plan->dense[number];
    return a->uses & RONDO_STAGE_READ ? copy_rows(plan, a, theirs, *rows) : 0;
}

static int run(rondo_delta *plan, const struct rondo__delta_array *a, const rondo_delta_io *io)
{
    const bool dense = plan->design.desc.way == RONDO_DELTA_COLUMNS && plan->ctx->ranks > 1;
    struct running x = { .plan = plan };
    struct rondo_rows *const rows[ARRAYS] = { &x.rows.q, &x.rows.k, &x.rows.v, &x.rows.g, &x.rows.beta, NULL, NULL, NULL, &x.rows.out, NULL, NULL,
                                               NULL };
    struct rondo__staging s = { .ctx = plan->ctx };
    void *at[ARRAYS];
    int err = 0;
    /* one array may be both the initial and the final state */
    const bool in_place = a[RONDO_DELTA_FINAL].uses && a[RONDO_DELTA_INITIAL].uses &&
                          a[RONDO_DELTA_FINAL].tensor->data == a[RONDO_DELTA_INITIAL].tensor->data;
    for (int i = 0; i < ARRAYS; i++)
        at[i] = NULL;
    for (int i = 0; i < ARRAYS && !err; i++)
        if (i != RONDO_DELTA_INITIAL || !in_place)
            err = rondo__delta_stage(&s, a + i, at + i, rows[i]);
    const struct rondo_rows out = x.rows.out;
    for (int i = 0; i < ARRAYS && !err && dense; i++)
        if (rows[i])
            err = make_dense(plan, i, a + i, rows[i], at + i);
    if (in_place)
        at[RONDO_DELTA_INITIAL] = at[RONDO_DELTA_FINAL];
    x.a_log = at[RONDO_DELTA_A_LOG];
    x.dt_bias = at[RONDO_DELTA_DT_BIAS];
    const struct rondo__given given = { .caller = at, .room = plan->room, .compute = compute, .arg = &x, .cost = cost, .progress = io->progress,
                                        .user = io->user, .function = "rondo_delta_execute" };
    if (!err)
        err = rondo__runner_bind(plan->runner, &given, NULL);
    if (!err)
        err = rondo__runner_run(plan->runner);
    if (!err && x.rows.out.data != out.data)
        err = copy_rows(plan, a + RONDO_DELTA_OUT, x.rows.out, out);
    return rondo__stage_end(&s, true, err);
}

int rondo_delta_execute(rondo_delta *plan, const rondo_delta_io *io)
{
    rondo_delta_io ours;
    struct rondo__delta_array arrays[ARRAYS];
    if (!plan)
        return rondo__fail(RONDO_EINVAL, "rondo_delta_execute: the plan is NULL");
    const rondo_tensor bounds = bounds_of(plan);
    int err = rondo__collective_begin(plan->ctx, "the delta rule");
    if (!err)
        err = io ? rondo__desc_copy(&ours, sizeof ours, io, "rondo_delta_io") : rondo__fail(RONDO_EINVAL, "rondo_delta_execute: io is NULL");
    if (!err)
        err = rondo__ops(plan->ctx)->check(rondo__dev(plan->ctx));
    if (!err)
        list_arrays(plan, &ours, &bounds, arrays);
    for (int i = 0; i < ARRAYS && !err; i++)
        err = rondo__delta_check(plan->ctx, "rondo_delta_execute", arrays + i);
    if (!plan->agreed && plan->ctx->ranks > 1) {
        err = rondo_agree(plan->ctx, plan->info.hash, err, "the plan of a delta rule");
        if (err)
            return err;
    }
    if (!err) {
        plan->agreed = 1;
        err = run(plan, arrays, &ours);
    }
    if (!err)
        certify(plan);
    return err ? rondo__collective_failed(plan->ctx, err) : 0;
}
