/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo_attention_execute: has the caller's tensors checked (io.c) before anything moves, lets the ranks agree on the plan once, runs it head group
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

int64_t rondo__query_row(const rondo_attention *plan, const int64_t *list, int64_t sequence, int64_t packed)
{
    return list ? list[sequence] + packed - plan->q_first[sequence] : packed;
}

int rondo__pack_rows(struct rondo__execution *e, const rondo_tensor *t, int64_t head, int64_t heads, int64_t first, int64_t rows, char *to)
{
    const struct rondo_device_ops *ops = rondo__ops(e->ctx);
    size_t element = rondo_type_size(t->type), dim = (size_t)t->shape[2] * element, from_stride = (size_t)t->stride[0] * element;
    size_t to_stride = (size_t)heads * dim;
    if (!rows)
        return 0;
    if (heads == 1 || t->stride[1] == t->shape[2])
        return ops->copy_rows(rondo__dev(e->ctx), NULL, to, to_stride, rondo__row(t, first, head), from_stride, to_stride, rows);
    for (int64_t h = 0; h < heads; h++) {
        int err = ops->copy_rows(rondo__dev(e->ctx), NULL, to + (size_t)h * dim, to_stride, rondo__row(t, first, head + h), from_stride, dim, rows);
        if (err)
            return err;
    }
    return 0;
}

/* ---- computing a step ---- */

struct rondo_kv_part rondo__own_kv(const struct rondo__execution *e)
{
    const rondo_tensor *k = &e->io->k, *v = &e->io->v;
    const int64_t head = (int64_t)e->group * e->kv_heads;
    return (struct rondo_kv_part){
        .k = { (void *)(uintptr_t)rondo__row(k, 0, head), k->stride[0], k->stride[1] },
        .v = { (void *)(uintptr_t)rondo__row(v, 0, head), v->stride[0], v->stride[1] },
        .kv_row = e->io->kv_row ? e->io->kv_row : e->plan->kv_first,
    };
}

struct rondo_kv_part rondo__parcel_kv(const struct rondo__execution *e, const struct rondo__parcel_parts *parcel)
{
    const int64_t head_dim = e->plan->desc.head_dim, value_dim = e->plan->desc.value_dim;
    return (struct rondo_kv_part){ .k = { (void *)(uintptr_t)parcel->part[0], e->kv_heads * head_dim, head_dim },
                                   .v = { (void *)(uintptr_t)parcel->part[1], e->kv_heads * value_dim, value_dim } };
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

int rondo__compute(struct rondo__execution *e, int32_t step, const void *q, const struct rondo_kv_part *kv, int32_t kv_count)
{
    rondo_attention *plan = e->plan;
    const rondo_attention_io *io = e->io;
    const int64_t head = (int64_t)e->group * e->heads, head_dim = plan->desc.head_dim;
    struct rondo_attention_run run = { .first = plan->job_first[step], .count = plan->job_first[step + 1] - plan->job_first[step],
                                       .kv = kv, .kv_count = kv_count, .nodes = (float *const *)e->buffers, .node_count = plan->ranks };

    if (!run.count)
        return 0;
    if (q) {
        run.q = (struct rondo_rows){ (void *)(uintptr_t)q, e->heads * head_dim, head_dim };
    } else {
        run.q = (struct rondo_rows){ (void *)(uintptr_t)rondo__row(&io->q, 0, head), io->q.stride[0], io->q.stride[1] };
        run.out = (struct rondo_rows){ (void *)(uintptr_t)rondo__row(&io->out, 0, head), io->out.stride[0], io->out.stride[1] };
        run.lse = (struct rondo_rows){ (void *)(uintptr_t)rondo__row(&io->lse, 0, head), io->lse.stride[0], io->lse.stride[1] };
        run.q_row = io->q_row;
        run.out_row = io->out_row;
        run.lse_row = io->lse_row;
    }
    struct rondo_poll now_and_then = { poll_and_tell, e, io->progress ? &e->work : NULL };
    if (io->progress) {
        e->work = (struct rondo_work){ 0, 0 };
        const double all = jobs_cost(plan, 0, plan->job_first[plan->ranks + 1]) * (double)plan->groups;
        e->share = all > 0.0 ? jobs_cost(plan, plan->job_first[step], plan->job_first[step + 1]) / all : 0.0;
    }
    double begin = rondo__now();
    rondo__computing(e->ctx, true);
    int err = rondo__ops(e->ctx)->attention(rondo__dev(e->ctx), NULL, plan->program, &run,
                                         plan->ranks > 1 || io->progress ? &now_and_then : NULL);
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
            const int64_t row = rondo__query_row(plan, e->io->out_row, b[i].sequence, b[i].q_row);
            const int64_t lse_row = rondo__query_row(plan, e->io->lse_row, b[i].sequence, b[i].q_row);
            err = ops->copy_rows(rondo__dev(e->ctx), NULL, (void *)(uintptr_t)rondo__row(&e->io->out, row, h),
                                 (size_t)e->io->out.stride[0] * element, e->base + e->at.zeros, 0, bytes, b[i].q_rows);
            if (!err && e->io->lse.data)
                err = ops->copy_rows(rondo__dev(e->ctx), NULL, (void *)(uintptr_t)rondo__row(&e->io->lse, lse_row, h),
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
    int err = e->plan->info.messages_total ? rondo__fence(e->ctx, (struct rondo__step){ step, 0, 0 }) : 0;
    if (!err)
        free_extra(e);
    return err;
}

static int prepare(rondo_attention *plan, const rondo_attention_io *io, rondo_attention_io *ours, void *workspace, void **own)
{
    const struct rondo_device_ops *ops = rondo__ops(plan->ctx);
    int err = rondo__desc_copy(ours, sizeof *ours, io, "rondo_attention_io");
    if (!err && ops->check)
        err = ops->check(rondo__dev(plan->ctx));
    if (!err)
        err = rondo__check_io(plan, ours);
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
        e.buffers = (void **)(void *)(e.base + e.at.buffers);
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
