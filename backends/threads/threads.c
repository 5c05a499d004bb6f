/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The thread transport: ranks are threads of one process, and a message is a look into the sender's memory. Fills the
 * transport table; reached through the registry as "threads". Rank 0 runs on the thread that called launch.
 *
 * Reading in place and failures. A rank sets `reading` before it looks whether its group was revoked, and only then hands
 * out a pointer into another rank's memory. A failing rank revokes first and then waits, in quiesce, until nobody's
 * `reading` is set. Stores and loads of the two words are sequentially consistent, so either the reader sees that the group
 * is revoked, or the failing rank sees that it is being read.
 */
#include <pthread.h>
#include <stdio.h>

#include "backends/threads/group.h"

/* Of every pair it is known where its mailbox is, and how far it is: 16 MiB at this number, and a mailbox where anything is sent. */
#define RANKS_MAX 1024
#define TEXT_BYTES 1024
#define STACK_MOST ((size_t)8 << 20)

/* ---- launch ---- */

struct launch;

struct starter {
    struct launch *launch;
    struct rondo_boot boot;
    pthread_t thread;
    struct rondo_bell bell;
    int32_t bell_made;
    int32_t code, order;       /* how the body ended, and as the how-manieth */
    char text[TEXT_BYTES];
};

struct launch {
    int (*body)(void *arg, const struct rondo_boot *boot);
    void *arg;
    struct rondo_group *group;
    _Atomic int32_t gate;      /* 0: wait, 1: run, 2: some thread could not be made, go home */
    _Atomic int32_t returned;
    struct starter rank[];
};

static void run_rank(struct starter *s)
{
    struct launch *l = s->launch;
    s->code = l->body(l->arg, &s->boot);
    if (s->code) {
        snprintf(s->text, sizeof s->text, "%s", rondo_error_text());
        rondo__group_revoke(l->group, s->boot.rank, s->code, s->text);
    }
    /* relaxed: only the numbers matter; what was written is read after pthread_join */
    s->order = atomic_fetch_add_explicit(&l->returned, 1, memory_order_relaxed);
}

static void *thread_main(void *arg)
{
    struct starter *s = arg;
    for (;;) {
        uint32_t seen = rondo__bell_count(&s->bell);
        int32_t gate = atomic_load_explicit(&s->launch->gate, memory_order_acquire);   /* pairs with the store in open_gate() */
        if (gate == 2)
            return NULL;
        if (gate == 1)
            break;
        rondo__bell_sleep(&s->bell, seen, rondo__now() + 3600.0);
    }
    run_rank(s);
    return NULL;
}

static void open_gate(struct launch *l, int created, int32_t how)
{
    atomic_store_explicit(&l->gate, how, memory_order_release);   /* pairs with the load in thread_main() */
    for (int i = 1; i < created; i++)
        rondo__bell_ring(&l->rank[i].bell, 1);
}

/* The failure to report: the first that is not merely the echo of another rank's. */
static int first_failure(const struct launch *l, int ranks)
{
    int best = -1;
    for (int i = 0; i < ranks; i++) {
        const struct starter *s = &l->rank[i];
        if (!s->code)
            continue;
        if (best < 0) {
            best = i;
            continue;
        }
        bool echo = s->code == RONDO_EPEER, best_echo = l->rank[best].code == RONDO_EPEER;
        if (echo != best_echo ? best_echo : s->order < l->rank[best].order)
            best = i;
    }
    return best < 0 ? 0 : rondo__fail(l->rank[best].code, "%s", l->rank[best].text);
}

/* The stack of a thread is address space that the limit for the main thread's stack decides, and that is often set to
 * gigabytes: more than the usual 8 MiB is not reserved for a rank. 0 or an errno. */
static int start_thread(struct starter *s)
{
    pthread_attr_t attributes;
    size_t bytes;
    int why = pthread_attr_init(&attributes);
    if (why)
        return why;
    why = pthread_attr_getstacksize(&attributes, &bytes);
    if (!why && bytes > STACK_MOST)
        why = pthread_attr_setstacksize(&attributes, STACK_MOST);
    if (!why)
        why = pthread_create(&s->thread, &attributes, thread_main, s);
    pthread_attr_destroy(&attributes);
    return why;
}

static int launch(int ranks, double seconds, int (*body)(void *arg, const struct rondo_boot *boot), void *arg)
{
    if (ranks < 1 || ranks > RANKS_MAX)
        return rondo__fail(RONDO_EINVAL, "%d ranks as threads; 1 to %d are possible", ranks, RANKS_MAX);
    struct launch *l = rondo__alloc_zero(1, sizeof *l + (size_t)ranks * sizeof l->rank[0]);
    if (!l)
        return rondo__fail(RONDO_ENOMEM, "no memory to start %d ranks", ranks);
    int err = 0, created = 1;
    l->body = body;
    l->arg = arg;
    l->group = rondo__group_new(ranks, NULL);
    if (!l->group) {
        err = rondo__fail(RONDO_ENOMEM, "no memory for the mailboxes of %d ranks", ranks);
        goto out;
    }
    for (int i = 0; i < ranks; i++) {
        struct starter *s = &l->rank[i];
        s->launch = l;
        s->boot.rank = i;
        s->boot.ranks = s->boot.ranks_here = ranks;
        s->boot.handle = l->group;
        s->boot.seconds = seconds;
        l->group->member[i].bell = &s->bell;
        if (rondo__bell_init(&s->bell)) {
            err = rondo__fail(RONDO_ENOMEM, "no bell for rank %d of %d; start fewer ranks", i, ranks);
            goto out;
        }
        s->bell_made = 1;
    }
    for (; created < ranks; created++) {
        int why = start_thread(&l->rank[created]);
        if (why) {
            err = rondo__fail(RONDO_ENOMEM, "only %d of %d ranks could be started as threads (%s); start fewer, or raise the limit on "
                              "threads", created, ranks, strerror(why));
            break;
        }
    }
    open_gate(l, created, err ? 2 : 1);
    if (!err)
        run_rank(&l->rank[0]);
    for (int i = 1; i < created; i++)
        pthread_join(l->rank[i].thread, NULL);
    if (!err)
        err = first_failure(l, ranks);
out:
    for (int i = 0; i < ranks; i++)
        if (l->rank[i].bell_made)
            rondo__bell_end(&l->rank[i].bell);
    rondo__group_free(l->group);
    rondo__free(l);
    return err;
}

/* ---- joining and leaving ---- */

static int probe(void)
{
    return 1;
}

static int join(struct rondo_endpoint **out, const struct rondo_boot *boot)
{
    *out = NULL;
    if (!boot->handle)
        return rondo__fail(RONDO_EINVAL, "ranks of transport threads are made by rondo_launch(); for one rank alone give no transport");
    struct rondo_endpoint *ep = rondo__endpoint_new(boot->ranks);
    if (!ep)
        return rondo__fail(RONDO_ENOMEM, "no memory for the endpoint of rank %d", boot->rank);
    /* The group is changed through atomics and by its launcher only; the table's handle is const for the callers' sake. */
    memcpy(&ep->group, &boot->handle, sizeof ep->group);
    ep->rank = boot->rank;
    ep->me = ep->seat = &ep->group->member[boot->rank];
    ep->seconds = boot->seconds;
    ep->turns = &ep->group->turns;
    *out = ep;
    return 0;
}

static void leave(struct rondo_endpoint *ep)
{
    struct rondo_group *g = ep->group;
    rondo__turns_computing(ep, 0);
    /* release: this rank's reads and posts happen before others see it gone */
    atomic_store_explicit(&ep->me->reading, 0, memory_order_release);
    atomic_store_explicit(&ep->me->left, 1, memory_order_release);           /* pairs with the loads in looking functions */
    atomic_fetch_add_explicit(&g->leavers, 1, memory_order_release);         /* pairs with the same */
    rondo__group_ring_all(g);
    /* acquire-release: the last to leave has seen all that the others did. What is left of a child goes with its parent. */
    if (g->parent && atomic_fetch_sub_explicit(&g->endpoints, 1, memory_order_acq_rel) == 1)
        rondo__group_free_mail(g);
    rondo__free(ep);
}

static int rank_of(const struct rondo_endpoint *ep)
{
    return ep->rank;
}

static int ranks_of(const struct rondo_endpoint *ep)
{
    return ep->group->ranks;
}

/* ---- moving ---- */

/* The sender's; NULL: no memory. */
static struct rondo_mailbox *box_to(const struct rondo_group *g, _Atomic(struct rondo_mailbox *) *in)
{
    struct rondo_mailbox *box = atomic_load_explicit(in, memory_order_relaxed);   /* this rank's own store */
    if (!box) {
        box = rondo__mailbox_new(g->ranks);
        atomic_store_explicit(in, box, memory_order_release);   /* pairs with box_from() */
    }
    return box;
}

/* Messages leave at once: there is nothing to wait for at the end of what is sent. */
static int start(struct rondo_endpoint *ep, struct rondo_transfer *transfer)
{
    struct rondo_group *g = ep->group;
    transfer->state = 0;   /* parts that are done */
    if (rondo__group_revoked(g))
        return RONDO_EPEER;
    for (int32_t i = 0; i < transfer->count; i++) {
        struct rondo_part *part = &transfer->parts[i];
        struct rondo_member *peer = &g->member[part->peer];
        part->where = part->memory;
        if (part->receives) {
            part->word[0] = ep->promised[part->peer]++;
            continue;
        }
        if (rondo__mailbox_post(box_to(g, &peer->inbox[ep->rank]), part->memory, part->bytes, ep->fences))
            return rondo__fail(RONDO_ENOMEM, "no memory for a message to rank %d", (int)part->peer);
        rondo__bell_ring(peer->bell, 1);
    }
    return 0;
}

/* The receiver's; NULL: nothing was ever sent. */
static struct rondo_mailbox *box_from(_Atomic(struct rondo_mailbox *) *in)
{
    return atomic_load_explicit(in, memory_order_acquire);   /* pairs with box_to() */
}

/* 1: taken, 0: not there yet, or a code. */
static int take(struct rondo_endpoint *ep, struct rondo_part *part)
{
    _Atomic(struct rondo_mailbox *) *in = &ep->me->inbox[part->peer];
    struct rondo_mailbox *box = box_from(in);
    if (!rondo__mailbox_has(box, part->word[0])) {
        /* acquire: pairs with leave(); what the leaver posted before is visible after, so look once more */
        if (!atomic_load_explicit(&ep->group->member[part->peer].left, memory_order_acquire))
            return 0;
        box = box_from(in);
        if (!rondo__mailbox_has(box, part->word[0]))
            return RONDO_EPEER;
    }
    struct rondo_message *m = rondo__mailbox_peek(box, part->word[0]);
    if (m->bytes != part->bytes)
        return rondo__fail(RONDO_EMISMATCH, "rank %d sent %zu bytes where rank %d expects %zu", (int)part->peer, m->bytes, ep->rank,
                           part->bytes);
    if (m->bytes > RONDO_EAGER) {
        /* seq_cst, both: the order that the head of this file tells about */
        atomic_store(&ep->me->reading, 1);
        if (rondo__group_revoked(ep->group))
            return RONDO_EPEER;
        part->where = m->data;
    } else {
        memcpy(part->memory, m->copy, m->bytes);
    }
    rondo__mailbox_take(box, part->word[0]);
    return 1;
}

struct awaited {
    struct rondo_transfer *transfer;
    int *peer;                 /* whom it waits for */
};

static int all_here(struct rondo_endpoint *ep, void *arg)
{
    const struct awaited *a = arg;
    struct rondo_transfer *t = a->transfer;
    for (; t->state < t->count; t->state++) {
        struct rondo_part *part = &t->parts[t->state];
        if (!part->receives)
            continue;
        if (*a->peer != part->peer) {
            *a->peer = part->peer;
            /* relaxed: whoever reads it checks it first; published by the store of waits_in, or a moment old */
            atomic_store_explicit(&ep->seat->waits_for, part->peer, memory_order_relaxed);
        }
        int taken = take(ep, part);
        if (taken != 1)
            return taken;
    }
    return 1;
}

static int finish(struct rondo_endpoint *ep, struct rondo_transfer *transfer, double seconds, int *peer)
{
    struct awaited a = { transfer, peer };
    if (rondo__group_revoked(ep->group))
        return RONDO_EPEER;
    while (transfer->state < transfer->count && !transfer->parts[transfer->state].receives)
        transfer->state++;
    if (transfer->state == transfer->count)
        return 0;
    *peer = transfer->parts[transfer->state].peer;
    return rondo__group_wait_for(ep, all_here, &a, seconds, peer);
}

static int test(struct rondo_endpoint *ep, struct rondo_transfer *transfer, int *peer)
{
    struct awaited a = { transfer, peer };
    int found = rondo__group_revoked(ep->group) ? RONDO_EPEER : all_here(ep, &a);
    if (found == 1)   /* a wait for it may have run out before */
        atomic_store_explicit(&ep->seat->waits_in, NULL, memory_order_release);   /* pairs with find_fault() */
    return found;
}

static int progress(struct rondo_endpoint *ep)
{
    if (rondo__group_revoked(ep->group))
        return RONDO_EPEER;
    return ep->places ? rondo__turns_poll(ep) : 0;
}

/* ---- failing ---- */

static void revoke(struct rondo_endpoint *ep, int code, const char *sentence)
{
    rondo__group_revoke(ep->group, ep->rank, code, sentence);
}

static int revoked(struct rondo_endpoint *ep, int *rank, int *code, const char **sentence)
{
    struct rondo_group *g = rondo__group_revoked(ep->group);
    if (!g)
        return 0;
    *rank = g->revoke_rank;
    *code = g->revoke_code;
    *sentence = g->sentence;
    if (g == ep->group)
        return 1;
    /* A parent's: which of our ranks is that, if any? Up from each of ours. */
    *rank = -1;
    for (int i = 0; i < ep->group->ranks; i++) {
        int at = i;
        for (struct rondo_group *up = ep->group; up != g; up = up->parent)
            at = up->member[at].parent_rank;
        if (at == g->revoke_rank)
            *rank = i;
    }
    return 1;
}

static int nobody_reads(struct rondo_endpoint *ep, void *arg)
{
    (void)arg;
    for (int i = 0; i < ep->group->ranks; i++)
        if (atomic_load(&ep->group->member[i].reading))   /* seq_cst; as acquire it pairs with the stores of 0 */
            return 0;
    return 1;
}

static void quiesce(struct rondo_endpoint *ep, double seconds)
{
    /* seq_cst; as release it pairs with nobody_reads() */
    atomic_store(&ep->me->reading, 0);
    rondo__group_ring_all(ep->group);
    (void)rondo__group_wait(ep, nobody_reads, NULL, seconds, true);
}

const struct rondo_transport_ops rondo__threads_transport = {
    .size = sizeof(struct rondo_transport_ops),
    .abi = RONDO_TRANSPORT_ABI,
    .name = "threads",
    .probe = probe,
    .launch = launch,
    .join = join,
    .leave = leave,
    .rank = rank_of,
    .ranks = ranks_of,
    .ranks_here = ranks_of,
    .split = rondo__group_split,
    .start = start,
    .finish = finish,
    .test = test,
    .progress = progress,
    .fence = rondo__group_fence,
    .revoke = revoke,
    .revoked = revoked,
    .quiesce = quiesce,
    .eager = RONDO_EAGER,
    .in_place = 1,
    .computing = rondo__turns_computing,
    .memories = 1u,   /* the host's */
    .once = rondo__group_once,
};
