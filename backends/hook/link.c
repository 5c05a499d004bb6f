/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The links of the hook's mode `slow`. Each rank has a way out, in memory that all ranks of the process look at: a network goes on by itself,
 * so what a sender has started must come to its receiver at its time, whether or not the sender has a core at that moment. Used by copy.c.
 *
 * A message takes the way out for its bytes. Messages to several ranks have even shares of it, as streams of TCP do, and those to one rank go
 * in the order in which they were started.
 */
#include <pthread.h>

#include "backends/hook/hook.h"

/* A message on its way, until its receiver has asked when it is through. */
struct ticket {
    struct ticket *next;                /* in the order of their starts, or among the spare ones */
    int32_t to;
    double left;                        /* seconds of the way out that it still needs; 0: it is through */
    double begun, through;              /* when it had the first of them (0: not yet), and when it was through */
};

struct rondo__hook_link {
    pthread_mutex_t lock;
    int ranks, holders;                 /* holders: ranks that have not left */
    double rate, carried;               /* carried: until when messages were followed */
    struct ticket *first, **end, *spare;
    uint64_t round, met[];              /* [ranks] the round in which a message to this rank was met last */
};

int rondo__hook_link_new(struct rondo__hook_link **out, int ranks, double rate)
{
    size_t bytes;
    struct rondo__hook_link *l = NULL;
    *out = NULL;
    if (rondo__mul((size_t)ranks, sizeof l->met[0], &bytes) && rondo__add(bytes, sizeof *l, &bytes))
        l = rondo__alloc_zero(1, bytes);
    if (l && pthread_mutex_init(&l->lock, NULL)) {
        rondo__free(l);
        l = NULL;
    }
    if (!l)
        return rondo__fail(RONDO_ENOMEM, "no memory for the test hook's links");
    l->ranks = ranks;
    l->holders = 1;
    l->rate = rate;
    l->end = &l->first;
    *out = l;
    return 0;
}

void rondo__hook_link_hold(struct rondo__hook_link *l)
{
    pthread_mutex_lock(&l->lock);
    l->holders = l->ranks;
    pthread_mutex_unlock(&l->lock);
}

static void free_all(struct ticket *t)
{
    while (t) {
        struct ticket *next = t->next;
        rondo__free(t);
        t = next;
    }
}

void rondo__hook_link_leave(struct rondo__hook_link *l)
{
    if (!l)
        return;
    pthread_mutex_lock(&l->lock);
    const bool last = --l->holders == 0;
    pthread_mutex_unlock(&l->lock);
    if (!last)
        return;
    free_all(l->first);
    free_all(l->spare);
    pthread_mutex_destroy(&l->lock);
    rondo__free(l);
}

/* The next one, from `t` on, that is on the way out, and the first there of those to its rank. */
static struct ticket *next_out(struct rondo__hook_link *l, struct ticket *t)
{
    for (; t; t = t->next)
        if (t->left > 0.0 && l->met[t->to] != l->round) {
            l->met[t->to] = l->round;
            return t;
        }
    return NULL;
}

/* What has gone out until now. */
static void carry(struct rondo__hook_link *l, double now)
{
    double time = now > l->carried ? now - l->carried : 0.0;
    l->carried = now > l->carried ? now : l->carried;
    while (time > 0.0) {
        double least = 0.0, streams = 0.0;
        l->round++;
        for (struct ticket *t = next_out(l, l->first); t; t = next_out(l, t->next)) {
            t->begun = t->begun == 0.0 ? l->carried - time : t->begun;
            least = streams == 0.0 || t->left < least ? t->left : least;
            streams++;
        }
        if (streams == 0.0)
            return;
        const bool through = least * streams <= time;
        const double each = through ? least : time / streams;
        time -= each * streams;
        l->round++;
        for (struct ticket *t = next_out(l, l->first); t; t = next_out(l, t->next)) {
            t->left -= each;
            if (through && t->left <= least * 1e-9) {
                t->left = 0.0;
                t->through = l->carried - time;
            }
        }
        if (!through)
            return;
    }
}

int rondo__hook_link_send(struct rondo__hook_link *l, int to, size_t bytes)
{
    pthread_mutex_lock(&l->lock);
    struct ticket *t = l->spare;
    if (t)
        l->spare = t->next;
    else
        t = rondo__alloc(sizeof *t);
    if (t) {
        carry(l, rondo__now());
        *t = (struct ticket){ .to = to, .left = (double)bytes / l->rate, .begun = bytes ? 0.0 : l->carried, .through = l->carried };
        *l->end = t;
        l->end = &t->next;
    }
    pthread_mutex_unlock(&l->lock);
    return t ? 0 : rondo__fail(RONDO_ENOMEM, "no memory for a message in the test hook");
}

double rondo__hook_link_through(struct rondo__hook_link *l, int to, double *begun, double *wait)
{
    double through = 0.0;
    *begun = *wait = 0.0;
    pthread_mutex_lock(&l->lock);
    carry(l, rondo__now());
    struct ticket **at = &l->first;
    while (*at && (*at)->to != to)
        at = &(*at)->next;
    struct ticket *t = *at;
    if (t && t->left > 0.0) {
        *wait = t->left;
    } else if (t) {
        through = t->through;
        *begun = t->begun;
        *at = t->next;
        if (!t->next)
            l->end = at;
        t->next = l->spare;
        l->spare = t;
    }
    pthread_mutex_unlock(&l->lock);
    return through;
}
