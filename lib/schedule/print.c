/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Telling a schedule: one line for each operation, for `rondo plan schedule`, logs and people with a debugger. Called by api.c.
 *
 *     12 compute attention 3 of 7 [head group 1 of 2]: q, arriving k 1, arriving v 1 -> out, lse; 2 jobs, 1.2e+09 FLOPs; after 9, 10
 */
#include "schedule/schedule.h"

#include <stdio.h>

struct text {
    char *at;
    size_t bytes, used;
};

static void put(struct text *t, const char *format, ...) RONDO_PRINTF(2, 3);
static void put(struct text *t, const char *format, ...)
{
    va_list list;
    va_start(list, format);
    const int n = vsnprintf(t->used < t->bytes ? t->at + t->used : NULL, t->used < t->bytes ? t->bytes - t->used : 0, format, list);
    va_end(list);
    t->used += n > 0 ? (size_t)n : 0;
}

static void put_buffer(struct text *t, const struct rondo__schedule *s, int32_t index)
{
    const struct rondo__buffer *b = rondo__buffer_at(s, index);
    put(t, b->index < 0 ? "%s" : "%s %d", b->name, (int)b->index);
}

/* Each buffer once, reads before writes. */
static void put_uses(struct text *t, const struct rondo__schedule *s, const struct rondo__operation *o)
{
    const struct rondo__use *u = (const struct rondo__use *)s->uses.items + o->uses_first;
    for (int writes = 0; writes < 2; writes++) {
        bool any = false;
        for (int32_t i = 0; i < o->uses; i++) {
            bool again = false;
            for (int32_t j = 0; j < i; j++)
                again |= u[j].writes == u[i].writes && u[j].buffer == u[i].buffer;
            if (u[i].writes != writes || again)
                continue;
            put(t, any ? ", " : writes ? " -> " : " ");
            put_buffer(t, s, u[i].buffer);
            any = true;
        }
    }
}

/* The messages with each peer together: what is sent, then what comes. */
static void put_parts(struct text *t, const struct rondo__schedule *s, const struct rondo__operation *o)
{
    const struct rondo__part *p = (const struct rondo__part *)s->parts.items + o->first;
    bool any = false;
    for (int receives = 0; receives < 2; receives++)
        for (int64_t i = 0; i < o->count; i++) {
            size_t bytes = 0;
            bool again = (p[i].receives != 0) != receives;
            for (int64_t j = 0; j < i && !again; j++)
                again = (p[j].receives != 0) == receives && p[j].peer == p[i].peer;
            for (int64_t j = i; j < o->count && !again; j++) {
                if ((p[j].receives != 0) != receives || p[j].peer != p[i].peer)
                    continue;
                put(t, j > i ? ", " : any ? "; " : " ");
                put_buffer(t, s, p[j].buffer);
                bytes += p[j].bytes;
            }
            if (again)
                continue;
            put(t, receives ? " from rank %d, %zu bytes" : " to rank %d, %zu bytes", (int)p[i].peer, bytes);
            any = true;
        }
}

/* Rising. */
static void put_waits(struct text *t, const struct rondo__schedule *s, const struct rondo__operation *o)
{
    const int32_t *waits = (const int32_t *)s->waits.items + o->waits_first;
    int32_t last = -1;
    for (int32_t i = 0; i < o->waits; i++) {
        int32_t next = INT32_MAX;
        for (int32_t j = 0; j < o->waits; j++)
            next = waits[j] > last && waits[j] < next ? waits[j] : next;
        put(t, i ? ", %d" : "; after %d", (int)next);
        last = next;
    }
}

int rondo__operation_print(const struct rondo__schedule *s, int64_t index, double flops, char *text, size_t bytes)
{
    const struct rondo__operation *o = rondo__operation_at(s, index);
    struct text t = { text, bytes, 0 };
    if (bytes)
        text[0] = 0;
    put(&t, "%lld %s %s", (long long)index, rondo_schedule_kind_name(o->kind), o->step.what);
    if (o->step.of)
        put(&t, " %d of %d", (int)o->step.index, (int)o->step.of);
    if (s->groups > 1 && o->group >= 0)
        put(&t, " [head group %d of %d]", (int)o->group + 1, (int)s->groups);
    if (o->uses || o->count)
        put(&t, ":");
    if (o->kind == RONDO_TRANSFER)
        put_parts(&t, s, o);
    else
        put_uses(&t, s, o);
    if (o->kind == RONDO_COMPUTE && o->program >= 0)
        put(&t, "; %lld job%s, %.6g FLOPs", (long long)o->count, o->count == 1 ? "" : "s", flops);
    else if (flops > 0.0)
        put(&t, "; %.6g FLOPs", flops);
    put_waits(&t, s, o);
    return (int)t.used;
}
