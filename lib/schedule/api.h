/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What a schedule that nobody runs is made of (api.c), for readers of the lists of all its ranks that lie in other folders.
 */
#ifndef RONDO_SCHEDULE_API_H
#define RONDO_SCHEDULE_API_H

#include "attention/attention.h"
#include "attention/backward.h"
#include "delta/shown.h"

/* One rank's list, of a schedule or of a plan. */
struct rondo__shown {
    const struct rondo__design *design;
    const struct rondo__part_of *part;
    const struct rondo__backward_part *backward;   /* NULL: it is the part's */
    const struct rondo__delta_shown *delta;        /* then none of these is there */
};
static inline const struct rondo__schedule *rondo__shown_list(const struct rondo__shown *w)
{
    return w->delta ? rondo__delta_shown_list(w->delta) : w->backward ? &w->backward->schedule : &w->part->schedule;
}
static inline const struct rondo__machine *rondo__shown_machine(const struct rondo__shown *w)
{
    return w->delta ? &w->delta->machine : &w->design->machine;
}
double rondo__shown_flops(const struct rondo__shown *w, int64_t index);
/* Makes the list of a rank, unless it is here; it stays until another rank is asked about. */
int rondo__schedule_shown(rondo_schedule *s, int rank, const char *function, struct rondo__shown *out);

#endif
