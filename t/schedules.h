/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What the tests of schedules share that are checked without running them (1300, 3310): the kinds of machine that there are, and ways to
 * break one rank's schedule, which the checker over all ranks must see.
 */
#ifndef RONDO_T_SCHEDULES_H
#define RONDO_T_SCHEDULES_H

#include "schedule/schedule.h"
#include "t/tap.h"

/* Threads, processes, a GPU that its transport knows, one whose transport knows host memory only, by copies and in place. */
enum { IN_PLACE, COPIED, MACHINES = 5 };
static const struct rondo__machine machines[MACHINES] = {
    { true, true, 256, 1u << RONDO_MEMORY_HOST },
    { false, true, 256, 1u << RONDO_MEMORY_HOST },
    { false, false, 256, 1u << RONDO_MEMORY_HOST | 1u << RONDO_MEMORY_DEVICE },
    { false, false, 256, 1u << RONDO_MEMORY_HOST },
    { true, false, 256, 1u << RONDO_MEMORY_HOST },
};
static const char *const machine_names[MACHINES] = { "in place", "copied", "device", "device behind the host", "device, in place" };

/* One fault: tamper() plants the which-th of its kind, and says whether there was one. */
struct fault {
    const char *what;
    int (*tamper)(struct rondo__schedule *s, uint32_t which);
    int always;                        /* each is seen; else half of them at least: what is planted may change nothing */
};

/* On one rank of those whose schedules are checked together. */
struct planted {
    const struct fault *fault;         /* NULL: none */
    int32_t rank;
    uint32_t which;
    int done;
};

static void plant(struct planted *p, struct rondo__schedule *s, int32_t rank)
{
    if (p->fault && rank == p->rank)
        p->done = p->fault->tamper(s, p->which);
}

/* Behind a check over all ranks: whether what was planted was seen. */
struct tally {
    int tried, caught;
};

static int missed(struct tally *t, const struct planted *p, int err)
{
    t->tried += p->done;
    t->caught += p->done && err;
    return p->done && !err && p->fault->always;
}

static void faults_seen(const struct tally *t, const struct fault *f, int least)
{
    ok(t->tried > least && (f->always ? t->caught == t->tried : t->caught * 2 >= t->tried), "%s: %d of %d are seen", f->what, t->caught,
       t->tried);
}

/* Some waits are implied by others. */
static int drop_wait(struct rondo__schedule *s, uint32_t which)
{
    for (int64_t i = 0; i < s->operations.count; i++) {
        struct rondo__operation *o = rondo__operation_at(s, i);
        for (int32_t j = 0; j < o->waits; j++)
            if (!which--) {
                int32_t *w = (int32_t *)s->waits.items + o->waits_first;
                memmove(w + j, w + j + 1, (size_t)(o->waits - 1 - j) * sizeof *w);
                o->waits--;
                return 1;
            }
    }
    return 0;
}

static int change_size(struct rondo__schedule *s, uint32_t which)
{
    struct rondo__part *p = s->parts.items;
    if (which >= s->parts.count || !p[which].bytes)
        return 0;
    p[which].bytes--;
    return 1;
}

static int change_peer(struct rondo__schedule *s, uint32_t which)
{
    struct rondo__part *p = s->parts.items;
    if (which >= s->parts.count || !p[which].bytes)
        return 0;
    p[which].peer = (p[which].peer + 1) % s->ranks == s->rank ? (p[which].peer + 2) % s->ranks : (p[which].peer + 1) % s->ranks;
    return 1;
}

static int drop_part(struct rondo__schedule *s, uint32_t which)
{
    for (int64_t i = 0; i < s->operations.count; i++) {
        struct rondo__operation *o = rondo__operation_at(s, i);
        const struct rondo__part *p = s->parts.items;
        if (o->kind == RONDO_TRANSFER && o->count && p[o->first + o->count - 1].bytes && !which--) {
            o->count--;
            return 1;
        }
    }
    return 0;
}

#endif
