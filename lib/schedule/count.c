/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Counting a schedule: what a plan states of itself before anything runs. Called by plan.c, and by tests that compare it with what the
 * transport counted.
 */
#include "schedule/schedule.h"

void rondo__schedule_count(const struct rondo__schedule *s, struct rondo__counts *out)
{
    const struct rondo__part *p = s->parts.items;
    *out = (struct rondo__counts){ .workspace_bytes = s->workspace_bytes[RONDO_MEMORY_HOST] };
    for (int64_t i = 0; i < s->parts.count; i++)
        if (!p[i].receives && p[i].bytes) {
            out->messages++;
            out->bytes += p[i].bytes;
        }
}
