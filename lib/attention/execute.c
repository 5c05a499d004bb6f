/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo_attention_execute: checks the caller's tensors before anything moves, lets the ranks agree on the plan once, runs it head group
 * by head group, and ends in the same state on every rank whatever fails. What pass_kv.c and pass_q.c share is here too.
 */
#include "attention/attention.h"

#include <stdio.h>

const void *rondo__row(const rondo_tensor *t, int64_t row, int64_t head)
{
    if (!t->data)
        return NULL;
    return (const char *)t->data + (size_t)(row * t->stride[0] + head * t->stride[1]) * rondo_type_size(t->type);
}

bool rondo__dense_rows(const rondo_tensor *t, int64_t heads)
{
    return t->stride[0] == heads * t->shape[2] && (heads == 1 || t->stride[1] == t->shape[2]);
}

int64_t rondo__kv_row(const struct rondo__execution *e, int64_t sequence)
{
    return e->io->kv_row ? e->io->kv_row[sequence] : e->plan->kv_first[sequence];
}

int rondo__pack_rows(struct rondo__execution *e, const rondo_tensor *t, int64_t head, int64_t heads, int64_t first, int64_t rows, char *to)
{
    const struct rondo_device_ops *ops = rondo__ops(e->ctx);
    size_t element = rondo_type_size(t->type), dim = (size_t)t->shape[2] * element, from_stride = (size_t)t->stride[0] * element;
    size_t to_stride = (size_t)heads * dim;
    if (!rows)
        return 0;
    if (heads == 1 || t->stride[1] == t->shape[2])
        return ops->copy_rows(rondo__dev(e->ctx), to, to_stride, rondo__row(t, first, head), from_stride, to_stride, rows);
    for (int64_t h = 0; h < heads; h++) {
        int err = ops->copy_rows(rondo__dev(e->ctx), to + (size_t)h * dim, to_stride, rondo__row(t, first, head + h), from_stride, dim, rows);
        if (err)
            return err;
    }
    return 0;
}

/* ---- computing a step ---- */

void rondo__task(const rondo_attention *plan, const struct rondo__job *job, int32_t heads, int32_t kv_heads, struct rondo_attention_task *task)
{
    const rondo_attention_desc *d = &plan->desc;
    int64_t head_dim = d->head_dim, value_dim = d->value_dim;
    *task = (struct rondo_attention_task){
        .q_rows = job->q_rows, .q_row_stride = heads * head_dim, .q_head_stride = head_dim,
        .q_spans = (const rondo_span *)plan->spans.items + job->spans_first, .q_span_count = job->spans, .q_type = d->q_type,
        .k_row_stride = kv_heads * head_dim, .k_head_stride = head_dim, .v_row_stride = kv_heads * value_dim, .v_head_stride = value_dim,
        .leaves = (const struct rondo_leaf *)plan->leaves.items + job->leaves_first, .leaf_count = job->leaves, .kv_type = d->kv_type,
        .program = (const struct rondo_tree_step *)plan->steps.items + job->steps_first, .steps = job->steps, .depth = job->depth,
        .heads = heads, .kv_heads = kv_heads, .head_dim = (int32_t)head_dim, .value_dim = (int32_t)value_dim,
        .scale_log2 = plan->scale_log2, .causal = d->causal, .window_left = d->window_left, .window_right = d->window_right,
        .out_row_stride = heads * value_dim, .out_head_stride = value_dim, .out_type = d->out_type, .leaf_size = d->leaf,
        .lse_row_stride = heads, .lse_head_stride = 1,
    };
    if (!job->leaves)
        task->leaves = NULL;
}

/* ---- how far it has come ---- */

/* Rows times leaves: about what a job costs. */
static double jobs_cost(const rondo_attention *plan, int64_t first, int64_t end)
{
    const struct rondo__job *jobs = plan->jobs.items;
    double cost = 0.0;
    for (int64_t i = first; i < end; i++)
        cost += (double)jobs[i].q_rows * ((double)jobs[i].leaves + 1.0);
    return cost;
}

static int tell(struct rondo__execution *e, double done)
{
    if (done <= e->told)
        return 0;
    e->told = done;
    if (e->io->progress(e->io->user, done < 1.0 ? done : 1.0))
        return rondo__fail(RONDO_ECANCELED, "rondo_attention_execute: the caller's progress function asked to stop");
    return 0;
}

static int poll_and_tell(void *arg)
{
    struct rondo__execution *e = arg;
    int err = rondo__poll(e->ctx);
    if (err || !e->io->progress || !e->work.total)
        return err;
    const double part = (double)e->work.done / (double)e->work.total;
    return tell(e, e->before + e->share * (part < 1.0 ? part : 1.0));
}

int rondo__compute(struct rondo__execution *e, int32_t step, const void *q, const struct rondo_kv_block *kv,
                   const struct rondo_kv_block *blocks)
{
    rondo_attention *plan = e->plan;
    const rondo_attention_io *io = e->io;
    const struct rondo__job *jobs = (const struct rondo__job *)plan->jobs.items + plan->job_first[step];
    int64_t count = plan->job_first[step + 1] - plan->job_first[step];
    struct rondo_attention_task *tasks = (struct rondo_attention_task *)(void *)(e->base + e->at.tasks);
    float **slots = (float **)(void *)(e->base + e->at.slots);
    size_t q_size = rondo_type_size(plan->desc.q_type);
    int64_t head = (int64_t)e->group * e->heads, kv_head = (int64_t)e->group * e->kv_heads;

    if (!count)
        return 0;
    for (int64_t i = 0; i < count; i++) {
        const struct rondo__job *job = &jobs[i];
        struct rondo_attention_task *t = &tasks[i];
        rondo__task(plan, job, e->heads, e->kv_heads, t);
        if (q) {
            t->q = (const char *)q + (size_t)(job->q_row * t->q_row_stride) * q_size;
        } else {
            t->q = rondo__row(&io->q, job->q_row, head);
            t->q_row_stride = io->q.stride[0];
            t->q_head_stride = io->q.stride[1];
            t->out = (void *)(uintptr_t)rondo__row(&io->out, job->q_row, head);
            t->out_row_stride = io->out.stride[0];
            t->out_head_stride = io->out.stride[1];
            if (io->lse.data) {
                t->lse = (float *)io->lse.data + job->q_row * io->lse.stride[0] + head;
                t->lse_row_stride = io->lse.stride[0];
            }
        }
        t->blocks = blocks;
        if (kv) {
            t->k = kv->part[0];
            t->v = kv->part[1];
        } else {
            int64_t row = rondo__kv_row(e, job->sequence);
            t->k = rondo__row(&io->k, row, kv_head);
            t->k_row_stride = io->k.stride[0];
            t->k_head_stride = io->k.stride[1];
            t->v = rondo__row(&io->v, row, kv_head);
            t->v_row_stride = io->v.stride[0];
            t->v_head_stride = io->v.stride[1];
        }
        const struct rondo__place *place = (const struct rondo__place *)plan->places.items + job->places_first;
        t->slots = job->places ? slots : NULL;
        for (int32_t j = 0; j < job->places; j++)
            *slots++ = (float *)(uintptr_t)((const char *)e->buffers[place[j].buffer] + (size_t)place[j].rows * e->at.node_bytes);
    }
    struct rondo_poll now_and_then = { poll_and_tell, e, io->progress ? &e->work : NULL };
    if (io->progress) {
        e->work = (struct rondo_work){ 0, 0 };
        const double all = jobs_cost(plan, 0, plan->job_first[plan->ranks + 1]) * (double)plan->groups;
        e->share = all > 0.0 ? jobs_cost(plan, plan->job_first[step], plan->job_first[step + 1]) / all : 0.0;
    }
    double begin = rondo__now();
    rondo__computing(e->ctx, true);
    int err = rondo__ops(e->ctx)->attention(rondo__dev(e->ctx), tasks, count, plan->ranks > 1 || io->progress ? &now_and_then : NULL);
    rondo__computing(e->ctx, false);
    rondo__trace(e->ctx, "attention", begin, -1, 0);
    e->before += e->share;
    return err || !io->progress ? err : tell(e, e->before);
}

/* Rows that see no key: 0, and -inf for lse. */
static int write_blanks(struct rondo__execution *e)
{
    const rondo_attention *plan = e->plan;
    const struct rondo_device_ops *ops = rondo__ops(e->ctx);
    const struct rondo__blank *b = plan->blanks.items;
    size_t element = rondo_type_size(plan->desc.out_type), bytes = (size_t)plan->desc.value_dim * element;
    const float nothing = -__builtin_inff();
    int err = 0;
    if (plan->blanks.count)
        memset(e->base + e->at.zeros, 0, bytes);
    for (int64_t i = 0; i < plan->blanks.count; i++)
        for (int64_t h = 0; h < plan->desc.heads && !err; h++) {
            err = ops->copy_rows(rondo__dev(e->ctx), (void *)(uintptr_t)rondo__row(&e->io->out, b[i].q_row, h),
                                 (size_t)e->io->out.stride[0] * element, e->base + e->at.zeros, 0, bytes, b[i].q_rows);
            if (!err && e->io->lse.data)
                err = ops->copy_rows(rondo__dev(e->ctx), (void *)(uintptr_t)rondo__row(&e->io->lse, b[i].q_row, h),
                                     (size_t)e->io->lse.stride[0] * sizeof(float), &nothing, 0, sizeof nothing, b[i].q_rows);
        }
    return err;
}

/* ---- what the two algorithms share ---- */

/* Memory that is not part of the workspace, until the fence. */
static void *take_extra(struct rondo__execution *e, size_t bytes, const char *what)
{
    size_t total;
    struct rondo__extra *x = rondo__add(bytes, sizeof *x, &total) ? rondo__alloc(total) : NULL;
    if (!x) {
        rondo__fail(RONDO_ENOMEM, "rondo_attention_execute: no memory for %zu bytes of %s", bytes, what);
        return NULL;
    }
    x->next = e->extra;
    e->extra = x;
    return x + 1;
}

void *rondo__pack_room(struct rondo__execution *e, int part)
{
    if (!e->at.pack_bytes)
        return e->base + e->at.pack[part];
    return take_extra(e, (size_t)e->plan->parcels[e->plan->rank].rows * e->at.parcel_bytes[part], "rows that are not dense");
}

void *rondo__arrival(struct rondo__execution *e, int32_t hop, int part, size_t bytes)
{
    int32_t place = e->plan->in_place ? hop - 1 : hop % e->at.arrive_places;
    if (e->plan->in_place || !e->exposed[place])
        return e->base + e->at.arrive[part] + (size_t)place * e->at.arrive_each[part];
    /* A transport that shows memory in place and yet copied here: what it copied into may be shown to others until the fence. */
    return take_extra(e, bytes, "a parcel that arrives");
}

void rondo__expose(struct rondo__execution *e, const void *memory, size_t bytes)
{
    if (bytes <= e->ctx->transport->eager || !e->ctx->transport->fence || e->plan->in_place)
        return;
    for (int32_t place = 0; place < e->at.arrive_places; place++)
        for (int part = 0; part < 2; part++)
            if (memory == e->base + e->at.arrive[part] + (size_t)place * e->at.arrive_each[part])
                e->exposed[place] = true;
}

struct rondo_shift *rondo__shift_slot(struct rondo__execution *e, int32_t index)
{
    return (struct rondo_shift *)(void *)(e->base + e->at.shifts) + index;
}

const char *rondo__label(struct rondo__execution *e, int32_t index, const char *what, int32_t step)
{
    char *text = e->base + e->at.labels + (size_t)index * RONDO_LABEL_BYTES;
    snprintf(text, RONDO_LABEL_BYTES, "%s %d of %d", what, (int)step, (int)e->plan->ranks - 1);
    return text;
}

static void free_extra(struct rondo__execution *e)
{
    while (e->extra) {
        struct rondo__extra *next = e->extra->next;
        rondo__free(e->extra);
        e->extra = next;
    }
    e->exposed[0] = e->exposed[1] = false;
}

int rondo__settle(struct rondo__execution *e, const char *step)
{
    int err = e->plan->info.messages_total ? rondo__fence(e->ctx, step) : 0;
    if (!err)
        free_extra(e);
    return err;
}

/* ---- what the caller gave ---- */

struct extent {
    const char *begin, *end;
    size_t row_bytes, stride_bytes;   /* of what is used, and from one row to the next */
};

/* Checks a tensor against the shape [rows, heads, dim] (dim 0: no third dimension); more: rows may be more. */
static int check_tensor(const char *name, const rondo_tensor *t, int32_t type, int64_t rows, int64_t heads, int64_t dim, bool more,
                        struct extent *extent)
{
    int dims = dim ? 3 : 2;
    *extent = (struct extent){ NULL, NULL, 0, 0 };
    if (!t->data && !rows)
        return 0;
    if (!t->data)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_execute: %s is NULL, but this rank has %lld rows", name, (long long)rows);
    if (t->type != type)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_execute: %s is %s; the plan says %s", name,
                           rondo_type_name(t->type) ? rondo_type_name(t->type) : "of no known type", rondo_type_name(type));
    if (t->dims != dims)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_execute: %s has %d dimensions; it must have %d", name, (int)t->dims, dims);
    if (t->shape[1] != heads || (dim && t->shape[2] != dim) || t->shape[0] < rows || (!more && t->shape[0] != rows))
        return rondo__fail(RONDO_EINVAL, "rondo_attention_execute: %s is [%lld, %lld, %lld]; this rank needs [%lld%s, %lld, %lld]", name,
                           (long long)t->shape[0], (long long)t->shape[1], (long long)(dim ? t->shape[2] : 1), (long long)rows,
                           more ? " or more" : "", (long long)heads, (long long)(dim ? dim : 1));
    if (t->stride[dims - 1] != 1)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_execute: the last dimension of %s has stride %lld; it must be dense (1)", name,
                           (long long)t->stride[dims - 1]);
    int64_t last = 0, part = 0;
    for (int i = 0; i < dims; i++) {
        if (t->stride[i] < 1)
            return rondo__fail(RONDO_EINVAL, "rondo_attention_execute: stride %d of %s is %lld; strides must be positive", i, name,
                               (long long)t->stride[i]);
        if (t->shape[i] > 0 && (!rondo__mul64(t->shape[i] - 1, t->stride[i], &part) || !rondo__add64(last, part, &last)))
            last = INT64_MAX;
    }
    const size_t element = rondo_type_size(type);
    if (last > INT64_MAX / 8 || (uint64_t)last >= SIZE_MAX / 2 / element)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_execute: the strides of %s reach beyond memory", name);
    if (!t->shape[0])
        return 0;
    int64_t row = (heads - 1) * t->stride[1] + (dim ? dim : 1);
    *extent = (struct extent){ t->data, (const char *)t->data + (size_t)(last + 1) * element, (size_t)row * element,
                               (size_t)t->stride[0] * element };
    return 0;
}

/* Outputs must not write one element twice. */
static bool folded(const rondo_tensor *t)
{
    int64_t inner = t->dims == 3 ? t->shape[2] : 1;
    if (t->shape[0] <= 1 && t->shape[1] <= 1)
        return false;
    bool rows_outside = t->stride[1] >= inner && t->stride[0] >= (t->shape[1] - 1) * t->stride[1] + inner;
    bool heads_outside = t->stride[0] >= inner && t->stride[1] >= (t->shape[0] - 1) * t->stride[0] + inner;
    return !rows_outside && !heads_outside && !(t->shape[0] <= 1 && t->stride[1] >= inner) && !(t->shape[1] <= 1 && t->stride[0] >= inner);
}

static bool overlap(const struct extent *a, const struct extent *b)
{
    if (!a->begin || !b->begin || a->begin >= b->end || b->begin >= a->end)
        return false;
    /* two columns of one array, such as q and k in rows of [q | k | v]: they have the same stride and do not meet inside it */
    if (a->stride_bytes == b->stride_bytes && a->stride_bytes) {
        size_t stride = a->stride_bytes, delta = (size_t)(a->begin < b->begin ? b->begin - a->begin : a->begin - b->begin) % stride;
        size_t before = a->begin < b->begin ? a->row_bytes : b->row_bytes, after = a->begin < b->begin ? b->row_bytes : a->row_bytes;
        if (delta >= before && delta + after <= stride)
            return false;
    }
    return true;
}

static bool same_place(const rondo_tensor *a, const rondo_tensor *b)
{
    return a->data == b->data && a->type == b->type && a->shape[2] == b->shape[2] && a->stride[0] == b->stride[0] &&
           a->stride[1] == b->stride[1];
}

static int check_io(const rondo_attention *plan, const rondo_attention_io *io)
{
    const rondo_attention_desc *d = &plan->desc;
    struct extent q, k, v, out, lse = { NULL, NULL, 0, 0 };
    int64_t rows = plan->info.q_rows, keys = plan->info.kv_rows;
    if (io->kv_row) {
        keys = 0;
        for (int64_t i = 0; i < plan->sequences; i++) {
            int64_t held = plan->kv_first[i + 1] - plan->kv_first[i], end;
            if (!held)
                continue;
            if (io->kv_row[i] < 0 || !rondo__add64(io->kv_row[i], held, &end))
                return rondo__fail(RONDO_EINVAL, "rondo_attention_execute: kv_row[%lld] is %lld; it must be a row of k and v", (long long)i,
                                   (long long)io->kv_row[i]);
            keys = end > keys ? end : keys;
        }
    }
    int err = check_tensor("q", &io->q, d->q_type, rows, d->heads, d->head_dim, false, &q);
    if (!err)
        err = check_tensor("k", &io->k, d->kv_type, keys, d->kv_heads, d->head_dim, true, &k);
    if (!err)
        err = check_tensor("v", &io->v, d->kv_type, keys, d->kv_heads, d->value_dim, true, &v);
    if (!err)
        err = check_tensor("out", &io->out, d->out_type, rows, d->heads, d->value_dim, false, &out);
    if (!err && io->lse.data)
        err = check_tensor("lse", &io->lse, RONDO_F32, rows, d->heads, 0, false, &lse);
    if (err)
        return err;
    if ((out.begin && folded(&io->out)) || (lse.begin && folded(&io->lse)))
        return rondo__fail(RONDO_EINVAL, "rondo_attention_execute: the strides of %s make rows or heads overlap; results need places of their own",
                           out.begin && folded(&io->out) ? "out" : "lse");
    if (overlap(&out, &q) && !same_place(&io->out, &io->q))
        return rondo__fail(RONDO_EINVAL, "rondo_attention_execute: out overlaps q; it may be q only with the same type, shape and strides");
    if (overlap(&out, &k) || overlap(&out, &v) || overlap(&out, &lse))
        return rondo__fail(RONDO_EINVAL, "rondo_attention_execute: out overlaps %s; only q may be overwritten",
                           overlap(&out, &k) ? "k" : overlap(&out, &v) ? "v" : "lse");
    if (overlap(&lse, &q) || overlap(&lse, &k) || overlap(&lse, &v))
        return rondo__fail(RONDO_EINVAL, "rondo_attention_execute: lse overlaps %s; it needs memory of its own",
                           overlap(&lse, &q) ? "q" : overlap(&lse, &k) ? "k" : "v");
    return 0;
}

static int prepare(rondo_attention *plan, const rondo_attention_io *io, rondo_attention_io *ours, void *workspace, void **own)
{
    const struct rondo_device_ops *ops = rondo__ops(plan->ctx);
    int err = rondo__desc_copy(ours, sizeof *ours, io, "rondo_attention_io");
    if (!err && ops->check)
        err = ops->check(rondo__dev(plan->ctx));
    if (!err)
        err = check_io(plan, ours);
    if (!err && (uintptr_t)workspace % 64)
        err = rondo__fail(RONDO_EINVAL, "rondo_attention_execute: the workspace is not aligned to 64 bytes");
    if (!err && !workspace) {
        *own = rondo__alloc(plan->info.workspace_bytes);
        if (!*own)
            err = rondo__fail(RONDO_ENOMEM, "rondo_attention_execute: no memory for a workspace of %zu bytes", plan->info.workspace_bytes);
    }
    return err;
}

int rondo_attention_execute(rondo_attention *plan, const rondo_attention_io *io, void *workspace)
{
    rondo_attention_io ours;
    void *own = NULL;
    if (!plan)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_execute: the plan is NULL");
    int err = prepare(plan, io, &ours, workspace, &own);
    if (!plan->agreed && plan->ranks > 1) {
        err = rondo_agree(plan->ctx, plan->info.hash, err, "the attention plan");
        if (err) {
            rondo__free(own);
            return err;
        }
    }
    struct rondo__execution e = { .plan = plan, .io = &ours, .ctx = plan->ctx, .base = workspace ? workspace : own };
    if (!err) {
        plan->agreed = 1;
        e.heads = (int32_t)plan->desc.heads / plan->groups;
        e.kv_heads = (int32_t)plan->desc.kv_heads / plan->groups;
        rondo__workspace(plan, plan->groups, &e.at);
        e.buffers = (const void **)(void *)(e.base + e.at.slots) + plan->places_most;
        for (e.group = 0; e.group < plan->groups && !err; e.group++)
            err = plan->desc.algorithm == RONDO_PASS_Q ? rondo__pass_q(&e) : rondo__pass_kv(&e);
        if (!err)
            err = write_blanks(&e);
        if (!err)
            err = rondo__ops(plan->ctx)->sync(rondo__dev(plan->ctx));
        if (!err && ours.progress)
            err = tell(&e, 1.0);
    }
    /* After a failure nobody waits for this rank, and its memory goes only when nobody reads it. */
    if (err)
        err = rondo__collective_failed(plan->ctx, err);
    free_extra(&e);
    rondo__free(own);
    return err;
}
