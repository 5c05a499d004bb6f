/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What every rank of a process would work out alike, worked out by the first one that asks for it, while the others sleep: a thousand
 * ranks would do the same a thousand times, on a few cores. Called by the table of threads.c.
 *
 * The last few results are kept, for ranks that come late, until others are in their place or the ranks end. Nobody depends on it: who cannot
 * wait, or finds that the first one has failed, works it out by himself.
 */
#include "backends/threads/group.h"

/* Results that are kept: ranks may be so many plans apart. */
#define KEPT 4

enum { MAKING, READY, FAILED };

struct rondo_known {
    struct rondo_known *next;              /* older */
    _Atomic int32_t state;
    int32_t users;                         /* who look at it now; under the lock */
    size_t key_bytes, value_bytes;
    char *value;                           /* behind the key */
    char key[];
};

/* Under the lock. */
static struct rondo_known *find(struct rondo_group *all, const void *key, size_t key_bytes, size_t value_bytes)
{
    for (struct rondo_known *k = all->known; k; k = k->next)
        if (k->key_bytes == key_bytes && k->value_bytes == value_bytes && !memcmp(k->key, key, key_bytes) &&
            atomic_load_explicit(&k->state, memory_order_relaxed) != FAILED)   /* what it says is looked at again below */
            return k;
    return NULL;
}

/* Under the lock: the oldest go, but for those that somebody looks at. */
static void forget(struct rondo_group *all)
{
    int32_t count = 0;
    for (struct rondo_known **at = &all->known; *at;) {
        struct rondo_known *k = *at;
        if (++count <= KEPT || k->users) {
            at = &k->next;
            continue;
        }
        *at = k->next;
        rondo__free(k);
    }
}

/* Under the lock. NULL: no memory. */
static struct rondo_known *begin(struct rondo_group *all, const void *key, size_t key_bytes, size_t value_bytes)
{
    size_t bytes;
    if (!rondo__add(sizeof(struct rondo_known) + key_bytes, value_bytes, &bytes))
        return NULL;
    struct rondo_known *k = rondo__alloc_zero(1, bytes);
    if (!k)
        return NULL;
    k->users = 1;
    k->key_bytes = key_bytes;
    k->value_bytes = value_bytes;
    k->value = k->key + key_bytes;
    memcpy(k->key, key, key_bytes);
    k->next = all->known;
    all->known = k;
    forget(all);
    return k;
}

static void leave(struct rondo_group *all, struct rondo_known *k)
{
    pthread_mutex_lock(&all->lock);
    k->users--;
    pthread_mutex_unlock(&all->lock);
}

static int is_made(struct rondo_endpoint *ep, void *arg)
{
    struct rondo_known *k = arg;
    (void)ep;
    return atomic_load_explicit(&k->state, memory_order_acquire) != MAKING;   /* pairs with the store below */
}

int rondo__group_once(struct rondo_endpoint *ep, const void *key, size_t key_bytes, void *value, size_t value_bytes,
                      int (*make)(void *arg, void *value), void *arg)
{
    struct rondo_group *all = ep->turns->all;
    pthread_mutex_lock(&all->lock);
    struct rondo_known *k = find(all, key, key_bytes, value_bytes);
    const bool first = !k;
    if (k)
        k->users++;
    else
        k = begin(all, key, key_bytes, value_bytes);
    pthread_mutex_unlock(&all->lock);
    if (!k)
        return make(arg, value);
    int err = 0;
    if (first) {
        err = make(arg, value);
        if (!err)
            memcpy(k->value, value, value_bytes);
        atomic_store_explicit(&k->state, err ? FAILED : READY, memory_order_release);   /* pairs with is_made() */
        rondo__group_ring_all(all);
        leave(all, k);
        return err;
    }
    (void)rondo__group_wait(ep, is_made, k, ep->seconds, false);
    const bool ready = atomic_load_explicit(&k->state, memory_order_acquire) == READY;   /* pairs with the same */
    if (ready)
        memcpy(value, k->value, value_bytes);
    leave(all, k);
    return ready ? 0 : make(arg, value);
}

void rondo__group_forget(struct rondo_group *g)
{
    while (g->known) {
        struct rondo_known *next = g->known->next;
        rondo__free(g->known);
        g->known = next;
    }
}
