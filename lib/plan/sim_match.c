/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Before anything is simulated: the k-th message that one rank sends to another is the k-th that the other receives from it, and an operation
 * lets those go on that wait for it. simulate.c's.
 */
#include "plan/sim_run.h"

/* ---- messages and their two ends ---- */

struct end {
    int32_t sender, receiver;
    int64_t operation;
    double bytes;
};

/* In the order of senders or of receivers; of one of them in the order in which they were. starts: [ranks + 1] of memory. */
static void put_in_order(struct end *to, const struct end *from, int64_t count, int64_t *starts, int64_t ranks, bool by_sender)
{
    memset(starts, 0, (size_t)(ranks + 1) * sizeof *starts);
    for (int64_t i = 0; i < count; i++)
        starts[(by_sender ? from[i].sender : from[i].receiver) + 1]++;
    for (int64_t k = 0; k < ranks; k++)
        starts[k + 1] += starts[k];
    for (int64_t i = 0; i < count; i++)
        to[starts[by_sender ? from[i].sender : from[i].receiver]++] = from[i];
}

static int64_t pair_of(const struct run *r, const struct end *e)
{
    return (int64_t)e->sender * r->sim->ranks + e->receiver;
}

/* Sends and receives, each by sender, receiver and order: the k-th of one are the k-th of the other. */
static int match(struct run *r, const struct end *sends, int64_t send_count, const struct end *receives, int64_t receive_count)
{
    for (int64_t i = 0; i < send_count || i < receive_count; i++) {
        if (i == send_count || i == receive_count || pair_of(r, &sends[i]) != pair_of(r, &receives[i])) {
            const bool lone = i < send_count && (i == receive_count || pair_of(r, &sends[i]) < pair_of(r, &receives[i]));
            const struct end *e = lone ? &sends[i] : &receives[i];
            return rondo__fail(RONDO_EINVAL, "a message from rank %d to rank %d has no %s; such schedules are not simulated", (int)e->sender,
                               (int)e->receiver, lone ? "receiver" : "sender");
        }
        r->messages[i] = (struct message){ pair_of(r, &sends[i]), sends[i].operation, receives[i].operation, sends[i].bytes, { -1.0, -1.0 }, 2, { false, false } };
    }
    r->message_count = send_count;
    return 0;
}

/* The ends of messages that are no empty ones, rank after rank: those that are received, or sent. */
static int list_ends(const struct run *r, struct end *ends, bool receives, int64_t *count)
{
    const struct rondo__sim *sim = r->sim;
    const struct rondo__sim_part *parts = sim->parts.items;
    *count = 0;
    for (int32_t rank = 0; rank < sim->ranks; rank++)
        for (int64_t o = r->first[rank]; o < r->first[rank + 1]; o++) {
            const struct rondo__sim_operation *op = operation_at(sim, o);
            for (int64_t i = op->parts_first; i < op->parts_first + op->parts; i++) {
                const int32_t peer = parts[i].peer;
                if (peer < 0 || peer >= sim->ranks || peer == rank)
                    return rondo__fail(RONDO_EINVAL, "rank %d has a message with rank %d; such schedules are not simulated", (int)rank, (int)peer);
                if (!(parts[i].bytes > 0.0) || (parts[i].receives != 0) != receives)
                    continue;
                if (ends)
                    ends[*count] = (struct end){ receives ? peer : rank, receives ? rank : peer, o, parts[i].bytes };
                ++*count;
            }
        }
    return 0;
}

static int pair_up(struct run *r)
{
    struct end *ends[2] = { NULL, NULL }, *other = NULL;
    int64_t count[2] = { 0, 0 }, *starts = NULL;
    int err = 0;
    for (int k = 0; k < 2 && !err; k++)
        err = list_ends(r, NULL, k != 0, &count[k]);
    if (err)
        return err;
    for (int k = 0; k < 2; k++)
        ends[k] = rondo__alloc((size_t)(count[k] + 1) * sizeof *ends[k]);
    other = rondo__alloc((size_t)((count[0] > count[1] ? count[0] : count[1]) + 1) * sizeof *other);
    starts = rondo__alloc((size_t)(r->sim->ranks + 1) * sizeof *starts);
    r->messages = rondo__alloc((size_t)(count[0] + 1) * sizeof *r->messages);
    err = ends[0] && ends[1] && other && starts && r->messages ? 0 : rondo__sim_no_memory();
    for (int k = 0; k < 2 && !err; k++) {
        list_ends(r, other, k != 0, &count[k]);
        if (k == 0) {
            put_in_order(ends[k], other, count[k], starts, r->sim->ranks, false);   /* by receiver, then by sender */
            put_in_order(other, ends[k], count[k], starts, r->sim->ranks, true);
            memcpy(ends[k], other, (size_t)count[k] * sizeof *other);
        } else {
            put_in_order(ends[k], other, count[k], starts, r->sim->ranks, true);    /* by receiver they are */
        }
    }
    if (!err)
        err = match(r, ends[0], count[0], ends[1], count[1]);
    rondo__free(ends[0]);
    rondo__free(ends[1]);
    rondo__free(other);
    rondo__free(starts);
    return err;
}

/* Lists by operation: first[o] .. first[o + 1]. They are made in two rounds over the same entries: how many each has, and what they are. */
struct index {
    int64_t *first, *list, *at;         /* [operations + 1], all entries, [operations] where each list has come to; the first round has no list */
};

static void enter(struct index *x, int64_t key, int64_t value)
{
    if (x->list)
        x->list[x->at[key]++] = value;
    else
        x->first[key + 1]++;
}

/* Between the rounds. */
static bool open_lists(struct index *x, int64_t operations)
{
    for (int64_t o = 0; o < operations; o++)
        x->first[o + 1] += x->first[o];
    x->list = rondo__alloc((size_t)(x->first[operations] + 1) * sizeof *x->list);
    x->at = rondo__alloc((size_t)(operations + 1) * sizeof *x->at);
    if (x->list && x->at)
        memcpy(x->at, x->first, (size_t)operations * sizeof *x->at);
    return x->list && x->at;
}

static void enter_messages(const struct run *r, struct index *x)
{
    for (int64_t i = 0; i < r->message_count; i++) {
        enter(x, r->messages[i].send, i);
        enter(x, r->messages[i].receive, i);
    }
}

static bool index_messages(struct run *r)
{
    struct index x = { r->of_first, NULL, NULL };
    for (int64_t i = 0; i < r->message_count; i++) {
        r->missing[r->messages[i].send]++;
        r->missing[r->messages[i].receive]++;
    }
    enter_messages(r, &x);
    const bool fine = open_lists(&x, r->sim->operations.count);
    if (fine)
        enter_messages(r, &x);
    r->of = x.list;
    rondo__free(x.at);
    return fine;
}

/* What an operation waits for: what its list says, the stream's operation before it, the last fence; a fence for all behind the last one. */
static void enter_waits(struct run *r, struct index *x)
{
    const struct rondo__sim *sim = r->sim;
    const int64_t *waits = sim->waits.items;
    for (int32_t rank = 0; rank < sim->ranks; rank++) {
        int64_t stream = -1, fence = -1;
        for (int64_t o = r->first[rank]; o < r->first[rank + 1]; o++) {
            struct rondo__sim_operation *op = operation_at(sim, o);
            int32_t n = (int32_t)op->waits;
            for (int64_t i = 0; i < op->waits; i++)
                enter(x, waits[op->waits_first + i], o);
            if (op->kind == RONDO_SIM_STREAM && stream >= 0)
                enter(x, stream, o), n++;
            if (op->kind != RONDO_SIM_FENCE && fence >= 0)
                enter(x, fence, o), n++;
            for (int64_t i = fence >= 0 ? fence : r->first[rank]; i < o && op->kind == RONDO_SIM_FENCE; i++)
                enter(x, i, o), n++;
            op->waiting = n;
            stream = op->kind == RONDO_SIM_STREAM ? o : stream;
            fence = op->kind == RONDO_SIM_FENCE ? o : fence;
        }
    }
}

static int index_waits(struct run *r)
{
    struct index x = { r->followers_first, NULL, NULL };
    enter_waits(r, &x);
    const bool fine = open_lists(&x, r->sim->operations.count);
    if (fine)
        enter_waits(r, &x);
    r->followers = x.list;
    rondo__free(x.at);
    return fine ? 0 : rondo__sim_no_memory();
}

int rondo__sim_match(struct run *r)
{
    int err = pair_up(r);
    if (!err && !index_messages(r))
        err = rondo__sim_no_memory();
    return err ? err : index_waits(r);
}
