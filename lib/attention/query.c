/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What a plan answers: its numbers, and which rows a rank holds.
 */
#include "attention/attention.h"

int rondo__no_plan(const char *function)
{
    return rondo__fail(RONDO_EINVAL, "%s: the plan's last update failed, and it is none; update it again, or destroy it", function);
}

int rondo_attention_query(const rondo_attention *plan, rondo_attention_info *info)
{
    if (!plan)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_query: the plan is NULL");
    if (!plan->runner)
        return rondo__no_plan("rondo_attention_query");
    return rondo__info_copy(info, &plan->info, sizeof plan->info, "rondo_attention_info");
}

int64_t rondo_attention_spans(const rondo_attention *plan, int64_t sequence, int keys, int rank, rondo_span *spans, int64_t max)
{
    if (!plan)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_spans: the plan is NULL");
    if (sequence < 0 || sequence >= plan->design.sequences)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_spans: there is no sequence %lld; the plan has %lld", (long long)sequence,
                           (long long)plan->design.sequences);
    if (rank < -1 || rank >= plan->design.ranks)
        return rondo__fail(RONDO_EINVAL, "rondo_attention_spans: there is no rank %d; the plan has %d", rank, (int)plan->design.ranks);
    if (rank < 0)
        rank = plan->rank;
    if (keys)
        return rondo_placement_spans(plan->design.keys, sequence, rank, 0, spans, max);
    if (plan->design.cached[sequence] < 0)
        return rondo_placement_spans(plan->design.queries, sequence, rank, 0, spans, max);

    /* The new tokens' positions, counted from the first of them; rows from the rank's first. */
    int64_t cached = plan->design.cached[sequence];
    int64_t count = rondo_placement_spans(plan->design.keys, sequence, rank, cached, spans, max);
    int64_t base = count > 0 && max > 0 ? spans[0].row : 0;
    for (int64_t i = 0; i < count && i < max; i++) {
        spans[i].first -= cached;
        spans[i].row -= base;
    }
    return count;
}
