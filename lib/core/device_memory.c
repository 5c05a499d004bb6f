/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Memory of a context's device: what programs ask for, and where arrays that lie in host memory are while a device with memory of its own
 * computes on them. Called by tensor/ for every array of a call, and by programs (rondo_memory_create(3)).
 *
 * Staging. A call says of each array whether it is read or written; one that the device cannot compute on is copied to memory that the context
 * keeps for the next call, and results are copied back. The call returns when host memory is no longer in use; where all lies on the device it
 * does not wait, and what is called next comes behind it.
 */
#include "core/internal.h"

#include <stdio.h>

/* ---- for programs ---- */

struct rondo__memory {
    struct rondo__memory *next;
    void *memory;
    size_t bytes;
    int32_t kind;
};

int rondo_memory_create(void **out, rondo_context *ctx, int kind, size_t bytes)
{
    if (out)
        *out = NULL;
    if (!out || !ctx)
        return rondo__fail(RONDO_EINVAL, "rondo_memory_create: %s is NULL", out ? "the context" : "out");
    if (kind < RONDO_MEMORY_HOST || kind > RONDO_MEMORY_DEVICE)
        return rondo__fail(RONDO_EINVAL, "rondo_memory_create: there is no memory of kind %d; host, pinned and device are 0, 1 and 2", kind);
    struct rondo__memory *m = rondo__alloc(sizeof *m);
    if (!m)
        return rondo__fail(RONDO_ENOMEM, "rondo_memory_create: no memory for %zu bytes", bytes);
    *m = (struct rondo__memory){ .next = ctx->memory, .bytes = bytes, .kind = kind };
    int err = rondo__ops(ctx)->memory_new(rondo__dev(ctx), kind, bytes, &m->memory);
    if (err) {
        rondo__free(m);
        return err;
    }
    ctx->memory = m;
    *out = m->memory;
    return 0;
}

static void release(rondo_context *ctx, struct rondo__memory **link)
{
    struct rondo__memory *m = *link;
    *link = m->next;
    rondo__ops(ctx)->memory_free(rondo__dev(ctx), m->kind, m->memory, m->bytes);
    rondo__free(m);
}

void rondo_memory_destroy(rondo_context *ctx, void *memory)
{
    if (!ctx || !memory)
        return;
    for (struct rondo__memory **link = &ctx->memory; *link; link = &(*link)->next)
        if ((*link)->memory == memory) {
            release(ctx, link);
            return;
        }
}

int rondo_memory_copy(rondo_context *ctx, void *to, const void *from, size_t bytes)
{
    if (!ctx || (bytes && (!to || !from)))
        return rondo__fail(RONDO_EINVAL, "rondo_memory_copy: %s is NULL", !ctx ? "the context" : !to ? "to" : "from");
    return rondo__settle(ctx, rondo__ops(ctx)->copy(rondo__dev(ctx), NULL, to, from, bytes));
}

int rondo_memory_kind(const rondo_context *ctx, const void *memory)
{
    if (!ctx)
        return rondo__fail(RONDO_EINVAL, "rondo_memory_kind: the context is NULL");
    return rondo__ops(ctx)->memory_kind(rondo__dev(ctx), memory);
}

int rondo__check_memory(const rondo_context *ctx, const char *function, const char *name, int kind, const void *memory)
{
    static const char *const names[] = { "host", "pinned", "device" };
    if (rondo__ops(ctx)->unified || !memory)
        return 0;
    const int known = rondo__ops(ctx)->memory_kind(rondo__dev(ctx), memory);
    if (known == kind || (known == RONDO_MEMORY_PINNED && kind == RONDO_MEMORY_HOST))   /* what is pinned is the host's too */
        return 0;
    return rondo__fail(RONDO_EINVAL, "%s: %s is said to lie in %s memory, but is %s memory to device %s; memory of rondo_memory_create() has "
                                     "the kind that it was asked for, all other is the host's", function, name, names[kind], names[known],
                       rondo__ops(ctx)->name);
}

/* ---- staging ---- */

static int room(rondo_context *ctx, int slot, size_t bytes, void **out)
{
    const struct rondo_device_ops *ops = rondo__ops(ctx);
    struct rondo__stage_room *s = ctx->stage + slot;
    if (bytes > s->bytes) {
        if (s->memory)
            ops->memory_free(rondo__dev(ctx), RONDO_MEMORY_DEVICE, s->memory, s->bytes);
        *s = (struct rondo__stage_room){ NULL, 0 };
        int err = ops->memory_new(rondo__dev(ctx), RONDO_MEMORY_DEVICE, bytes, &s->memory);
        if (err)
            return err;
        s->bytes = bytes;
    }
    *out = s->memory;
    return 0;
}

/* Between host memory and what stands for it on the device, which is dense; back: to the host. */
static int move(rondo_context *ctx, const struct rondo__staged *s, bool back)
{
    const struct rondo_device_ops *ops = rondo__ops(ctx);
    const struct rondo__array *a = &s->array;
    const size_t dense = (size_t)a->blocks * a->bytes;
    int err = 0;
    for (int64_t b = 0; b < a->blocks && !err; b++) {
        char *host = (char *)(uintptr_t)a->data + (size_t)b * a->block_stride, *at = s->at + (size_t)b * a->bytes;
        err = back ? ops->copy_rows(rondo__dev(ctx), NULL, host, a->row_stride, at, dense, a->bytes, a->rows)
                   : ops->copy_rows(rondo__dev(ctx), NULL, at, dense, host, a->row_stride, a->bytes, a->rows);
    }
    return err;
}

int rondo__stage(struct rondo__staging *s, int uses, struct rondo__array array, void **at)
{
    rondo_context *ctx = s->ctx;
    size_t bytes;
    void *memory;
    *at = (void *)(uintptr_t)array.data;
    if (!array.data)
        return 0;
    if (rondo__ops(ctx)->unified) {
        s->waits = true;
        return 0;
    }
    if (rondo__ops(ctx)->memory_kind(rondo__dev(ctx), array.data) == RONDO_MEMORY_DEVICE)
        return 0;
    if (!rondo__mul((size_t)array.rows, (size_t)array.blocks, &bytes) || !rondo__mul(bytes, array.bytes, &bytes))
        return rondo__fail(RONDO_ENOMEM, "an array of %lld rows is more than a device can hold", (long long)array.rows);
    int err = room(ctx, s->count, bytes, &memory);
    if (err)
        return err;
    struct rondo__staged *a = s->array + s->count++;
    *a = (struct rondo__staged){ array, memory, uses };
    s->waits = true;
    *at = memory;
    return uses & RONDO_STAGE_READ ? move(ctx, a, false) : 0;
}

int rondo__settle(rondo_context *ctx, int err)
{
    char text[512];
    if (err)
        snprintf(text, sizeof text, "%s", rondo_error_text());
    const int late = rondo__ops(ctx)->sync(rondo__dev(ctx));
    return err && late ? rondo__fail(err, "%s", text) : err ? err : late;   /* the first one counts, in its own words */
}

/* Until all is over, letting transfers go on. */
static int wait_for_all(rondo_context *ctx, bool polls, int err)
{
    const struct rondo_device_ops *ops = rondo__ops(ctx);
    struct rondo_poll poll = { rondo__poll, ctx, NULL };
    if (polls && ctx->ranks > 1 && !err) {
        err = ctx->staged ? 0 : ops->event_new(rondo__dev(ctx), &ctx->staged);
        if (!err)
            err = ops->event_record(rondo__dev(ctx), NULL, ctx->staged);
        if (!err)
            err = ops->event_wait(rondo__dev(ctx), ctx->staged, &poll);
    }
    return rondo__settle(ctx, err);
}

int rondo__stage_end(struct rondo__staging *s, bool polls, int err)
{
    for (int i = 0; i < s->count && !err; i++)
        if (s->array[i].uses & RONDO_STAGE_WRITE)
            err = move(s->ctx, s->array + i, true);
    return s->waits ? wait_for_all(s->ctx, polls, err) : err;
}

/* ---- the end ---- */

void rondo__memory_end(rondo_context *ctx)
{
    const struct rondo_device_ops *ops = rondo__ops(ctx);
    while (ctx->memory)
        release(ctx, &ctx->memory);
    for (int i = 0; i < RONDO_STAGES; i++)
        if (ctx->stage[i].memory)
            ops->memory_free(rondo__dev(ctx), RONDO_MEMORY_DEVICE, ctx->stage[i].memory, ctx->stage[i].bytes);
    if (ctx->staged)
        ops->event_free(rondo__dev(ctx), ctx->staged);
}
