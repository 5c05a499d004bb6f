/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Groups of the thread transport: waiting, fences, revoking and sub-groups. Called by threads.c.
 *
 * Every wait of a rank, in whatever group, is a look at some atomic words and then a sleep on the rank's one bell, so that
 * revoking a group need only ring its members' bells to wake them from waits in the groups split from it too.
 */
#include "backends/threads/group.h"

#include <sched.h>
#include <stdio.h>

/* About what waking a sleeper on another core costs; spinning longer than that gains nothing. */
#define SPIN_SECONDS 30e-6
#define LOOKS_PER_CLOCK 32

#if defined(__x86_64__) || defined(__i386__)
#define PAUSE() __builtin_ia32_pause()
#else
#define PAUSE() ((void)0)
#endif

struct rondo_group *rondo__group_new(int ranks, struct rondo_group *parent)
{
    size_t n = (size_t)ranks, pairs, bytes;
    if (!rondo__mul(n, sizeof(struct rondo_member), &bytes) || !rondo__add(bytes, sizeof(struct rondo_group), &bytes) ||
        !rondo__mul(n, n, &pairs))
        return NULL;
    struct rondo_group *g = rondo__alloc_zero(1, bytes);
    _Atomic(struct rondo_mailbox *) *inbox = rondo__alloc_zero(pairs, sizeof *inbox);
    if (!g || !inbox || pthread_mutex_init(&g->lock, NULL)) {
        rondo__free(g);
        rondo__free(inbox);
        return NULL;
    }
    g->ranks = ranks;
    g->parent = parent;
    g->turns.all = g;
    g->turns.cores = rondo__cores();
    g->spins = ranks <= g->turns.cores;
    atomic_init(&g->endpoints, ranks);
    for (size_t i = 0; i < n; i++) {
        g->member[i].parent_rank = -1;
        g->member[i].inbox = inbox + i * n;
    }
    return g;
}

struct rondo_endpoint *rondo__endpoint_new(int ranks)
{
    return rondo__alloc_zero(1, sizeof(struct rondo_endpoint) + (size_t)ranks * sizeof(uint64_t));
}

/* By the last one who could look into them. */
void rondo__group_free_mail(struct rondo_group *g)
{
    if (!g->member[0].inbox)
        return;
    size_t n = (size_t)g->ranks;
    for (size_t i = 0; i < n * n; i++)   /* relaxed: all that was done with it is seen by now */
        rondo__mailbox_free(atomic_load_explicit(&g->member[0].inbox[i], memory_order_relaxed));
    rondo__free(g->member[0].inbox);
    g->member[0].inbox = NULL;
}

void rondo__group_free(struct rondo_group *g)
{
    if (!g)
        return;
    /* relaxed: the launcher has joined all threads */
    struct rondo_group *child = atomic_load_explicit(&g->children, memory_order_relaxed);
    while (child) {
        struct rondo_group *next = child->next;
        rondo__group_free(child);
        child = next;
    }
    rondo__group_free_mail(g);
    rondo__group_forget(g);
    pthread_mutex_destroy(&g->lock);
    rondo__free(g);
}

void rondo__group_ring_all(struct rondo_group *g)
{
    for (int i = 0; i < g->ranks; i++)
        rondo__bell_ring(g->member[i].bell, 1);
}

/* ---- revoking ---- */

void rondo__group_revoke(struct rondo_group *g, int rank, int code, const char *sentence)
{
    int32_t none = 0;
    /* acquire-release: only one rank writes; seq_cst because of the look at `reading` that follows in quiesce */
    if (!atomic_compare_exchange_strong(&g->revoked, &none, 1)) {
        /* Somebody else is just writing; when this call returns the group must be revoked. */
        while (atomic_load(&g->revoked) != 2)   /* pairs with the store below */
            sched_yield();
        return;
    }
    g->revoke_rank = rank;
    g->revoke_code = code;
    snprintf(g->sentence, sizeof g->sentence, "%s", sentence);
    /* seq_cst: as release it pairs with the load in group_revoked(); its order against `reading` is told in threads.c */
    atomic_store(&g->revoked, 2);
    rondo__group_ring_all(g);
}

struct rondo_group *rondo__group_revoked(struct rondo_group *g)
{
    /* seq_cst: as acquire it pairs with the store in group_revoke(); see there for the rest */
    while (g && atomic_load(&g->revoked) != 2)
        g = g->parent;
    return g;
}

/* ---- waiting ---- */

int rondo__group_wait(struct rondo_endpoint *ep, int (*look)(struct rondo_endpoint *ep, void *arg), void *arg, double seconds,
                      bool even_if_revoked)
{
    double until = 0.0, spin_until = 0.0;
    for (unsigned looks = 0;; looks++) {
        uint32_t seen = rondo__bell_count(ep->me->bell);
        int found = look(ep, arg);
        if (found)
            return found > 0 ? 0 : found;
        if (!even_if_revoked && rondo__group_revoked(ep->group))
            return RONDO_EPEER;
        if (looks % LOOKS_PER_CLOCK == 0) {
            double now = rondo__now();
            if (until == 0.0) {
                until = now + seconds;
                spin_until = ep->group->spins ? now + SPIN_SECONDS : 0.0;
            }
            if (now >= until)
                return RONDO_ETIMEDOUT;
            if (now >= spin_until) {
                rondo__bell_sleep(ep->me->bell, seen, until);
                looks = LOOKS_PER_CLOCK - 1;   /* reads the clock again after the next look */
                continue;
            }
        }
        PAUSE();
    }
}

/* The number of a group's rank in the group that launch made, which is that of its thread. */
static int thread_of(const struct rondo_group *g, int rank)
{
    for (; g->parent; g = g->parent)
        rank = g->member[rank].parent_rank;
    return rank;
}

static int missing_at_fence(struct rondo_group *g)
{
    /* acquire: pairs with the stores in fence() */
    uint64_t complete = atomic_load_explicit(&g->fences, memory_order_acquire);
    for (int i = 0; i < g->ranks; i++)
        if (atomic_load_explicit(&g->member[i].fences, memory_order_acquire) <= complete)
            return i;
    return -1;
}

/* By its number in ep's group; where it is none of its ranks, the last one of them in the chain. */
static int find_fault(struct rondo_endpoint *ep, int rank)
{
    struct rondo_group *g = ep->group, *all = ep->turns->all;
    int fault = rank;
    for (int hops = 0; hops < all->ranks; hops++) {
        if (rank < 0)
            rank = missing_at_fence(g);
        if (rank < 0 || rank >= g->ranks)
            break;
        int thread = thread_of(g, rank);
        struct rondo_member *seat = &all->member[thread];
        if (seat == ep->seat)
            break;
        for (int i = 0; i < ep->group->ranks; i++)
            if (thread_of(ep->group, i) == thread)
                fault = i;
        /* acquire: pairs with the store in wait_for() */
        g = atomic_load_explicit(&seat->waits_in, memory_order_acquire);
        if (!g)
            break;
        rank = atomic_load_explicit(&seat->waits_for, memory_order_relaxed);   /* checked before it is used */
    }
    return fault;
}

int rondo__group_wait_for(struct rondo_endpoint *ep, int (*look)(struct rondo_endpoint *ep, void *arg), void *arg, double seconds,
                          int *peer)
{
    atomic_store_explicit(&ep->seat->waits_for, *peer, memory_order_relaxed);        /* published by the next store */
    atomic_store_explicit(&ep->seat->waits_in, ep->group, memory_order_release);     /* pairs with find_fault() */
    int err = rondo__group_wait(ep, look, arg, seconds, false);
    if (err == RONDO_ETIMEDOUT)
        *peer = find_fault(ep, *peer);   /* and this rank still counts as one that waits: others' time runs out at the same moment */
    else
        atomic_store_explicit(&ep->seat->waits_in, NULL, memory_order_release);      /* pairs with the same */
    return err;
}

/* ---- fences ---- */

static int fence_complete(struct rondo_endpoint *ep, void *arg)
{
    (void)arg;
    /* acquire: pairs with the release of the last rank to arrive, which saw everybody's arrival */
    if (atomic_load_explicit(&ep->group->fences, memory_order_acquire) >= ep->fences)
        return 1;
    /* acquire: pairs with leave(); what a leaver did before it left is then visible, its arrival included */
    if (atomic_load_explicit(&ep->group->leavers, memory_order_acquire) == 0)
        return 0;
    for (int i = 0; i < ep->group->ranks; i++) {
        struct rondo_member *m = &ep->group->member[i];
        if (atomic_load_explicit(&m->left, memory_order_acquire) &&                        /* pairs with leave() */
            atomic_load_explicit(&m->fences, memory_order_acquire) < ep->fences)           /* pairs with the arrival below */
            return RONDO_EPEER;
    }
    return 0;
}

int rondo__group_fence(struct rondo_endpoint *ep, double seconds, int *peer)
{
    struct rondo_group *g = ep->group;
    if (rondo__group_revoked(g))
        return RONDO_EPEER;
    /* release: this rank's reads of others' memory happen before they see that it reads no more */
    atomic_store_explicit(&ep->me->reading, 0, memory_order_release);
    ep->fences++;
    atomic_store_explicit(&ep->me->fences, ep->fences, memory_order_release);   /* pairs with fence_complete() and below */
    /* acquire-release: the last one has seen what all did before */
    if (atomic_fetch_add_explicit(&g->arrived, 1, memory_order_acq_rel) == g->ranks - 1) {
        atomic_store_explicit(&g->arrived, 0, memory_order_relaxed);            /* published by the next store */
        atomic_store_explicit(&g->fences, ep->fences, memory_order_release);    /* pairs with fence_complete() */
        rondo__group_ring_all(g);
        return 0;
    }
    *peer = -1;
    int err = rondo__group_wait_for(ep, fence_complete, NULL, seconds, peer);
    for (int i = 0; err == RONDO_EPEER && i < g->ranks; i++)
        if (atomic_load_explicit(&g->member[i].fences, memory_order_acquire) < ep->fences)   /* pairs with the arrival */
            *peer = i;
    return err;
}

/* ---- sub-groups ---- */

/* Ranks of one color by (key, rank): the place of `rank` among them, their number and who comes first. */
static int place_of(const struct rondo_group *g, int rank, int *count, int *leader)
{
    const struct rondo_member *me = &g->member[rank];
    int place = 0, first = rank;
    *count = 0;
    for (int i = 0; i < g->ranks; i++) {
        const struct rondo_member *m = &g->member[i];
        if (m->color != me->color)
            continue;
        ++*count;
        if (m->key < me->key || (m->key == me->key && i < rank))
            place++;
        if (m->key < g->member[first].key || (m->key == g->member[first].key && i < first))
            first = i;
    }
    *leader = first;
    return place;
}

/* Only the leader of a color comes here. */
static struct rondo_group *child_new(struct rondo_group *g, int leader, int ranks)
{
    struct rondo_group *child = rondo__group_new(ranks, g);
    if (!child)
        return NULL;
    child->spins = g->spins;
    for (int i = 0; i < g->ranks; i++) {
        if (g->member[i].color != g->member[leader].color)
            continue;
        int count, first, place = place_of(g, i, &count, &first);
        child->member[place].bell = g->member[i].bell;
        child->member[place].parent_rank = i;
    }
    /* release: the list is read only after all threads have been joined; other leaders push at the same time */
    child->next = atomic_load_explicit(&g->children, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&g->children, &child->next, child, memory_order_release, memory_order_relaxed))
        ;
    return child;
}

int rondo__group_split(struct rondo_endpoint *ep, int color, int key, struct rondo_endpoint **out, int *peer)
{
    struct rondo_group *g = ep->group;
    *out = NULL;
    struct rondo_endpoint *child = rondo__endpoint_new(g->ranks);
    if (!child)
        return rondo__fail(RONDO_ENOMEM, "no memory for an endpoint of a sub-group");
    ep->me->color = color;
    ep->me->key = key;
    int ranks = 0, leader = ep->rank, place = 0;
    int err = rondo__group_fence(ep, ep->seconds, peer);
    if (!err && color >= 0) {
        place = place_of(g, ep->rank, &ranks, &leader);
        if (leader == ep->rank)
            ep->me->child = child_new(g, leader, ranks);
    }
    if (!err)
        err = rondo__group_fence(ep, ep->seconds, peer);
    if (err)
        goto fail;
    if (color < 0) {
        rondo__free(child);
        return 0;
    }
    child->group = g->member[leader].child;
    if (!child->group) {
        err = rondo__fail(RONDO_ENOMEM, "no memory for a sub-group of %d ranks", ranks);
        goto fail;
    }
    child->rank = place;
    child->me = &child->group->member[place];
    child->seconds = ep->seconds;
    child->seat = ep->seat;
    child->turns = ep->turns;
    *out = child;
    return 0;
fail:
    rondo__free(child);
    return err;
}
