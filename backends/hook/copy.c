/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The hook's mode `copy`: a transport that shows the sender's memory in place becomes one that copies, as between machines. Called by
 * hook.c, which then says in its table that nothing is shown and that no fence is needed.
 *
 * A message that is shown is copied by its receiver, and only when that is done may its sender write the memory again: so finishing what
 * was sent waits for a receipt, the number of the message among those between the two ranks, over an endpoint that was split off
 * for this. Small messages need none: the transport beneath has copied them. A transport must take in what was started whenever its
 * rank waits for anything, so every part is a group of its own with the transport beneath, and every call here looks at all of them.
 *
 * Slow links: what has come is held back by its receiver until its last byte would have left by the sender's way out (link.c), and would
 * have come in by a way in of its own of so many bytes a second, which bytes take as they leave: messages of two senders that leave at half
 * the rate are through it at the same time. A rank that computes looks now and then, as ranks do whose transport needs them.
 */
#include <time.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#include "backends/hook/hook.h"

#define LINK_SECONDS 60.0              /* for ranks that have come to the same place */
/* Between two looks at all that is under way, while waiting for one part. */
#define LOOK_SECONDS 300e-6

/* One part under way. */
struct item {
    struct item *next, *previous;      /* in the order of their starts; next also among the spare ones */
    struct rondo_transfer message, receipt;
    struct rondo_part part, slip;
    void *memory;                      /* the receiver's */
    uint64_t number, said;             /* among those that need receipts, and what the receipt says */
    double comes;                      /* over slow links: when it is here; 0 until it is through the sender's way out */
    double rest;                       /* until then: seconds that it takes at least from when this was asked */
    bool shown, here, taken, done;     /* shown: needs a receipt; here: by the transport beneath */
};

/* Messages that need receipts, in both directions. */
struct pair {
    uint64_t sent, expected, receipts;
};

struct rondo__hook_copy {
    const struct rondo_transport_ops *ops;
    struct rondo_endpoint *ep, *receipts;
    double rate, latency;              /* 0: links are not slow */
    double way_in;                     /* until when it is busy */
    struct rondo__hook_link **links;   /* [ranks] the ways out; NULL: links are not slow */
    int rank, ranks;
    struct item under_way, *spare;     /* the head of a ring */
    struct pair pair[];
};

static void leave_links(struct rondo__hook_copy *c)
{
    for (int r = 0; r < c->ranks && c->links; r++)
        rondo__hook_link_leave(c->links[r]);
    rondo__free(c->links);
}

/* All ranks are threads of one process, and tell each other where their ways out are. */
static int open_links(struct rondo__hook_copy *c, int *peer)
{
    struct rondo__hook_link *mine = NULL;
    struct rondo_part *parts = rondo__alloc_zero(2 * (size_t)c->ranks, sizeof *parts);
    struct rondo_transfer all = { .parts = parts };
    c->links = rondo__alloc_zero((size_t)c->ranks, sizeof c->links[0]);
#ifdef __linux__
    prctl(PR_SET_TIMERSLACK, 1000UL);   /* a network wakes who waits when a message is there, and not up to 50 us later */
#endif
    int err = parts && c->links ? rondo__hook_link_new(&mine, c->ranks, c->rate) : rondo__fail(RONDO_ENOMEM, "no memory for the test hook's links");
    for (int r = 0; r < c->ranks && !err; r++)
        for (int receives = 0; receives < 2 && r != c->rank; receives++)
            parts[all.count++] = (struct rondo_part){ .memory = receives ? (void *)&c->links[r] : (void *)&mine, .bytes = sizeof mine, .peer = r,
                                                      .receives = receives };
    if (!err) {
        c->links[c->rank] = mine;
        rondo__hook_link_hold(mine);
        err = c->ops->start(c->receipts, &all);
    }
    if (!err)
        err = c->ops->finish(c->receipts, &all, LINK_SECONDS, peer);
    for (int32_t k = 0; k < all.count && !err; k++)
        if (parts[k].receives && parts[k].where != parts[k].memory)
            memcpy(parts[k].memory, parts[k].where, sizeof mine);
    rondo__free(parts);
    return err;
}

int rondo__hook_copy_new(struct rondo__hook_copy **out, const struct rondo__hook_settings *set, const struct rondo_transport_ops *ops,
                         struct rondo_endpoint *ep, int *peer)
{
    size_t ranks = (size_t)ops->ranks(ep), bytes;
    struct rondo__hook_copy *c = NULL;
    if (rondo__mul(ranks, sizeof c->pair[0], &bytes) && rondo__add(bytes, sizeof *c, &bytes))
        c = rondo__alloc_zero(1, bytes);
    if (!c)
        return rondo__fail(RONDO_ENOMEM, "no memory for the test hook");
    c->ops = ops;
    c->ep = ep;
    c->rate = set->rate;
    c->rank = ops->rank(ep);
    c->ranks = (int)ranks;
    c->latency = set->latency;
    c->under_way.next = c->under_way.previous = &c->under_way;
    int err = ops->split(ep, 0, ops->rank(ep), &c->receipts, peer);
    if (!err && c->rate > 0.0) {
        err = open_links(c, peer);
        if (err)
            ops->leave(c->receipts);
    }
    if (err) {
        leave_links(c);
        rondo__free(c);
        return err;
    }
    *out = c;
    return 0;
}

/* ---- items ---- */

static struct item *take_item(struct rondo__hook_copy *c)
{
    struct item *i = c->spare;
    if (i)
        c->spare = i->next;
    else
        i = rondo__alloc(sizeof *i);
    if (!i)
        return NULL;
    memset(i, 0, sizeof *i);
    i->next = &c->under_way;
    i->previous = c->under_way.previous;
    i->next->previous = i->previous->next = i;
    return i;
}

static void give_item(struct rondo__hook_copy *c, struct item *i)
{
    i->next->previous = i->previous;
    i->previous->next = i->next;
    i->next = c->spare;
    c->spare = i;
}

static struct item *item_of(const struct rondo_part *part)
{
    struct item *i;
    memcpy(&i, part->word, sizeof i);
    return i;
}

void rondo__hook_copy_free(struct rondo__hook_copy *c)
{
    if (!c)
        return;
    c->ops->leave(c->receipts);
    while (c->under_way.next != &c->under_way)
        give_item(c, c->under_way.next);
    while (c->spare) {
        struct item *next = c->spare->next;
        rondo__free(c->spare);
        c->spare = next;
    }
    leave_links(c);
    rondo__free(c);
}

/* ---- starting ---- */

static int start_receipt(struct rondo__hook_copy *c, struct item *i, bool receives)
{
    i->slip = (struct rondo_part){ .memory = &i->said, .bytes = sizeof i->said, .peer = i->part.peer, .receives = receives };
    i->receipt.parts = &i->slip;
    i->receipt.count = 1;
    return c->ops->start(c->receipts, &i->receipt);
}

int rondo__hook_copy_start(struct rondo__hook_copy *c, struct rondo_transfer *transfer)
{
    int err = 0;
    for (int32_t k = 0; k < transfer->count && !err; k++) {
        struct rondo_part *part = &transfer->parts[k];
        struct pair *pair = &c->pair[part->peer];
        struct item *i = take_item(c);
        if (!i)
            return rondo__fail(RONDO_ENOMEM, "no memory for a message in the test hook");
        part->where = part->memory;
        memcpy(part->word, &i, sizeof i);
        i->part = *part;
        i->memory = part->memory;
        i->message.parts = &i->part;
        i->message.count = 1;
        i->shown = part->bytes > c->ops->eager;
        if (i->shown)
            i->number = part->receives ? pair->expected++ : pair->sent++;
        if (c->links && !part->receives)
            err = rondo__hook_link_send(c->links[c->rank], part->peer, part->bytes);
        if (!err)
            err = c->ops->start(c->ep, &i->message);
        if (!err && i->shown && !part->receives)
            err = start_receipt(c, i, true);
    }
    return err;
}

/* ---- going on ---- */

/* Whether what is here would be here over a slow link. */
static bool has_come(struct rondo__hook_copy *c, struct item *i)
{
    if (!c->links || !i->part.receives)
        return true;
    for (struct item *k = c->under_way.next; k != i && i->comes == 0.0; k = k->next)
        if (k->part.receives && k->part.peer == i->part.peer && !k->taken && k->comes == 0.0)
            return false;
    if (i->comes == 0.0) {
        double begun;
        const double through = rondo__hook_link_through(c->links[i->part.peer], c->rank, &begun, &i->rest);
        if (through == 0.0)
            return false;
        c->way_in = (c->way_in > begun ? c->way_in : begun) + (double)i->part.bytes / c->rate;
        i->comes = (c->way_in > through ? c->way_in : through) + c->latency;
    }
    return i->comes <= rondo__now();
}

/* After its message has come, or has gone. */
static int taken(struct rondo__hook_copy *c, struct item *i)
{
    i->taken = true;
    if (!i->part.receives)
        return 0;
    if (i->part.where != i->memory)
        memcpy(i->memory, i->part.where, i->part.bytes);
    if (!i->shown)
        return 0;
    c->pair[i->part.peer].receipts++;
    i->said = i->number;
    return start_receipt(c, i, false);
}

/* After its receipt, or where it needs none. */
static int settled(struct item *i)
{
    if (i->shown && i->said != i->number)
        return rondo__fail(RONDO_ETRANSPORT, "the test hook waits for the receipt of message %llu to rank %d, and gets that of %llu",
                           (unsigned long long)i->number, (int)i->part.peer, (unsigned long long)i->said);
    i->done = true;
    return 0;
}

/* 1: done, 0: not yet, or a code. */
static int look(struct rondo__hook_copy *c, struct item *i, int *peer)
{
    if (!i->taken) {
        /* Receipts go in the order of their messages. */
        if (i->part.receives && i->shown && i->number != c->pair[i->part.peer].receipts)
            return 0;
        int found = i->here ? 1 : c->ops->test(c->ep, &i->message, peer);
        i->here = found == 1;
        if (found == 1 && !has_come(c, i))
            return 0;
        int err = found == 1 ? taken(c, i) : found;
        if (err || found != 1)
            return err;
    }
    int found = i->shown ? c->ops->test(c->receipts, &i->receipt, peer) : 1;
    if (found != 1)
        return found;
    int err = settled(i);
    return err ? err : 1;
}

int rondo__hook_copy_progress(struct rondo__hook_copy *c, int *peer)
{
    for (struct item *i = c->under_way.next; i != &c->under_way; i = i->next) {
        int found = i->done ? 1 : look(c, i, peer);
        if (found < 0)
            return found;
    }
    return 0;
}

/* The first item that is not done; NULL: all of the transfer is over, and its items are gone. */
static struct item *first_open(struct rondo__hook_copy *c, struct rondo_transfer *transfer)
{
    for (int32_t k = 0; k < transfer->count; k++)
        if (!item_of(&transfer->parts[k])->done)
            return item_of(&transfer->parts[k]);
    for (int32_t k = 0; k < transfer->count; k++)
        give_item(c, item_of(&transfer->parts[k]));
    return NULL;
}

int rondo__hook_copy_test(struct rondo__hook_copy *c, struct rondo_transfer *transfer, int *peer)
{
    int err = rondo__hook_copy_progress(c, peer);
    return err ? err : !first_open(c, transfer);
}

/* Sleeps in the transport beneath, so that it knows whom this rank waits for, but not for long: others may wait for this one to take
 * in what they sent. What is in front of an item in its pair is looked at first. */
static int wait_a_little(struct rondo__hook_copy *c, struct item *i, double seconds, int *peer)
{
    for (struct item *k = c->under_way.next; k != i; k = k->next)
        if (!k->done && k->part.peer == i->part.peer && k->part.receives && i->part.receives) {
            i = k;
            break;
        }
    if (i->here && !i->taken) {
        const double left = i->comes > 0.0 ? i->comes - rondo__now() : i->rest, rest = left < seconds ? left : seconds;
        const struct timespec t = { 0, rest > 0.0 ? (long)(rest * 1e9) : 0 };
        nanosleep(&t, NULL);
        return RONDO_ETIMEDOUT;   /* it is looked at again */
    }
    int err = i->taken ? c->ops->finish(c->receipts, &i->receipt, seconds, peer) : c->ops->finish(c->ep, &i->message, seconds, peer);
    if (err)
        return err;
    i->here = true;
    if (!i->taken && !has_come(c, i))
        return RONDO_ETIMEDOUT;
    return i->taken ? settled(i) : taken(c, i);
}

int rondo__hook_copy_finish(struct rondo__hook_copy *c, struct rondo_transfer *transfer, double seconds, int *peer)
{
    const double until = rondo__now() + seconds;
    for (;;) {
        int err = rondo__hook_copy_progress(c, peer);
        struct item *open = err ? NULL : first_open(c, transfer);
        if (!open)
            return err;
        double left = until - rondo__now();
        err = wait_a_little(c, open, left < LOOK_SECONDS ? (left > 0.0 ? left : 0.0) : LOOK_SECONDS, peer);
        if (err && (err != RONDO_ETIMEDOUT || left <= 0.0))
            return err;
    }
}

void rondo__hook_copy_quiesce(struct rondo__hook_copy *c, double seconds)
{
    while (c->under_way.next != &c->under_way)
        give_item(c, c->under_way.next);
    c->ops->quiesce(c->receipts, seconds);
}
