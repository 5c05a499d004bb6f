/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Counting a schedule: what a plan states of itself before anything runs. Called by plan.c, and by tests that compare it with what the
 * transport counted.
 */
#include "schedule/schedule.h"

uint64_t rondo__operation_bytes(const struct rondo__schedule *s, int64_t index, int32_t *peer)
{
    const struct rondo__operation *o = rondo__operation_at(s, index);
    const struct rondo__part *p = (const struct rondo__part *)s->parts.items + o->first;
    uint64_t bytes = 0;
    bool sends = false;
    *peer = -1;
    if (o->kind != RONDO_TRANSFER)
        return 0;
    /* the peer that it sends to; of one that only receives, whom from */
    for (int64_t i = 0; i < o->count; i++)
        sends |= !p[i].receives;
    for (int64_t i = 0; i < o->count; i++) {
        if (!p[i].receives != sends)
            continue;
        *peer = p[i].peer;
        bytes += sends ? p[i].bytes : 0;
    }
    return bytes;
}

void rondo__schedule_count(const struct rondo__schedule *s, struct rondo__counts *out)
{
    const struct rondo__part *p = s->parts.items;
    *out = (struct rondo__counts){ .workspace_bytes = s->workspace_bytes[RONDO_MEMORY_HOST] };
    for (int64_t i = 0; i < s->parts.count; i++)
        if (!p[i].receives) {
            out->messages++;
            out->bytes += p[i].bytes;
        }
}
