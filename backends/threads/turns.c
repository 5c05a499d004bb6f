/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Turns of the thread transport. Where more ranks compute than there are cores, the system would switch between them every few
 * milliseconds, and each would find the caches full of another's numbers: 2 to 3 % of the time for attention. So a long computation
 * asks for one of as many turns as there is room for, and passes it on after SLICE if another rank waits. Turns are a courtesy,
 * not a lock: what is short computes without one, and who waited too long goes on. What takes much memory for a while, as making a plan, waits for its
 * turn before it begins: a thousand ranks would take that memory all at once.
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
    /* seq_cst: either this sees the number that give_up() has made, or that sees who waits and rings */
    return *ticket < atomic_load(&ep->turns->closed) + (uint64_t)ep->places;
}

static bool wanted(const struct rondo_endpoint *ep)
{
    return atomic_load_explicit(&ep->turns->drawn, memory_order_relaxed) >
           atomic_load_explicit(&ep->turns->closed, memory_order_relaxed) + (uint64_t)ep->places;
}

/* Whose turn it is now is woken, and nobody else: a thousand who wait would wake a thousand times for each of their turns. */
static void give_up(struct rondo_endpoint *ep)
{
    struct rondo_group *all = ep->turns->all;
    ep->has_turn = false;
    const uint64_t closed = atomic_fetch_add(&ep->turns->closed, 1) + 1;   /* seq_cst: served() */
    for (int i = 0; i < all->ranks; i++) {
        const uint64_t from = atomic_load(&all->member[i].turn);           /* seq_cst: the same */
        if (from && from - 1 <= closed)
            rondo__bell_ring(all->member[i].bell, 1);
    }
}

/* Waits for one; RONDO_EPEER once revoked. */
static int take(struct rondo_endpoint *ep)
{
    uint64_t ticket = draw(ep->turns);
    ep->has_turn = true;   /* also if the wait ends early: the ticket is open until give_up() */
    const uint64_t places = (uint64_t)ep->places;
    atomic_store(&ep->seat->turn, ticket < places ? 1 : ticket - places + 2);   /* seq_cst: served() */
    int err = rondo__group_wait(ep, served, &ticket, ep->seconds, false);
    atomic_store_explicit(&ep->seat->turn, 0, memory_order_relaxed);            /* one ring too many does no harm */
    ep->since = rondo__now();
    return err == RONDO_ETIMEDOUT ? 0 : err;
}

void rondo__turns_computing(struct rondo_endpoint *ep, int threads)
{
    if (!threads) {
        if (ep->has_turn)
            give_up(ep);
        ep->places = 0;
        return;
    }
    const bool at_once = threads < 0;
    int places = at_once ? ep->turns->cores : ep->turns->cores / threads;
    places = places < 1 ? 1 : places;
    ep->places = ep->turns->all->ranks > places ? places : 0;
    ep->since = ep->places ? rondo__now() : 0.0;
    if (at_once && ep->places && !ep->has_turn)
        (void)take(ep);    /* a revoked communicator is noticed by what communicates */
}

int rondo__turns_poll(struct rondo_endpoint *ep)
{
    double now = rondo__now();
    if (now - ep->since < (ep->has_turn ? SLICE : PATIENCE) || (ep->has_turn && !wanted(ep)))
        return 0;
    if (ep->has_turn)
        give_up(ep);
    return take(ep);
}
