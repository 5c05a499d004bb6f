/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Turns of the thread transport. Where more ranks compute than there are cores, the system would switch between them every few
 * milliseconds, and each would find the caches full of another's numbers: 2 to 3 % of the time for attention. So a long computation
 * asks for one of as many turns as there is room for, and passes it on after SLICE if another rank waits. Turns are a courtesy,
 * not a lock: what is short computes without one, and who waited too long goes on.
 */
#include "backends/threads/group.h"

/* A computation this short is over before a turn would have paid. */
#define PATIENCE 2e-3
/* Refilling a second-level cache is below a hundredth of this. */
#define SLICE 50e-3

/* Tickets are numbers in the order of asking; a ticket is served while fewer than `places` older ones are open. */
static uint64_t draw(struct rondo_turns *t)
{
    return atomic_fetch_add_explicit(&t->drawn, 1, memory_order_relaxed);   /* nothing else is published with it */
}

static int served(struct rondo_endpoint *ep, void *arg)
{
    const uint64_t *ticket = arg;
    /* acquire: pairs with give_up(); no data hangs on it, but the ring must not be seen without the number */
    return *ticket < atomic_load_explicit(&ep->turns->closed, memory_order_acquire) + (uint64_t)ep->places;
}

static bool wanted(const struct rondo_endpoint *ep)
{
    return atomic_load_explicit(&ep->turns->drawn, memory_order_relaxed) >
           atomic_load_explicit(&ep->turns->closed, memory_order_relaxed) + (uint64_t)ep->places;
}

static void give_up(struct rondo_endpoint *ep)
{
    ep->has_turn = false;
    atomic_fetch_add_explicit(&ep->turns->closed, 1, memory_order_release);   /* pairs with served() */
    rondo__group_ring_all(ep->turns->all);
}

void rondo__turns_computing(struct rondo_endpoint *ep, int threads)
{
    if (!threads) {
        if (ep->has_turn)
            give_up(ep);
        ep->places = 0;
        return;
    }
    int places = ep->turns->cores / threads;
    places = places < 1 ? 1 : places;
    ep->places = ep->turns->all->ranks > places ? places : 0;
    ep->since = ep->places ? rondo__now() : 0.0;
}

int rondo__turns_poll(struct rondo_endpoint *ep)
{
    double now = rondo__now();
    if (now - ep->since < (ep->has_turn ? SLICE : PATIENCE) || (ep->has_turn && !wanted(ep)))
        return 0;
    if (ep->has_turn)
        give_up(ep);
    uint64_t ticket = draw(ep->turns);
    ep->has_turn = true;   /* also if the wait ends early: the ticket is open until give_up() */
    int err = rondo__group_wait(ep, served, &ticket, ep->seconds, false);
    ep->since = rondo__now();
    return err == RONDO_ETIMEDOUT ? 0 : err;
}
