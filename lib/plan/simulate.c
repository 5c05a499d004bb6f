/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The simulator of simulate.h: a heap of events by time, and what each of them sets going.
 */
#include "plan/simulate.h"

#include "plan/sim_way.h"

/* ---- building ---- */

void rondo__sim_free(struct rondo__sim *sim)
{
    rondo__list_free(&sim->first);
    rondo__list_free(&sim->operations);
    rondo__list_free(&sim->parts);
    rondo__list_free(&sim->waits);
    *sim = (struct rondo__sim){ .ranks = 0 };
}

static void set_first(struct rondo__sim *sim)
{
    int64_t *first = rondo__list_add(&sim->first, sizeof *first, 1);
    if (first)
        *first = sim->operations.count;
    else
        sim->failed = true;
}

void rondo__sim_rank(struct rondo__sim *sim)
{
    set_first(sim);
    sim->ranks++;
}

static struct rondo__sim_operation *operation_at(const struct rondo__sim *sim, int64_t index)
{
    return (struct rondo__sim_operation *)sim->operations.items + index;
}

static int64_t add(struct rondo__sim *sim, int32_t kind, double seconds)
{
    struct rondo__sim_operation *o = rondo__list_add(&sim->operations, sizeof *o, 1);
    if (!o) {
        sim->failed = true;
        return 0;
    }
    *o = (struct rondo__sim_operation){ .kind = kind, .seconds = seconds, .parts_first = sim->parts.count, .waits_first = sim->waits.count,
                                        .begin = -1.0, .end = -1.0 };
    return sim->operations.count - 1;
}

int64_t rondo__sim_stream(struct rondo__sim *sim, double seconds, bool computes)
{
    const int64_t number = add(sim, RONDO_SIM_STREAM, seconds);
    if (!sim->failed)
        operation_at(sim, number)->computes = computes;
    return number;
}

int64_t rondo__sim_transfer(struct rondo__sim *sim, bool exchange)
{
    const int64_t number = add(sim, RONDO_SIM_TRANSFER, 0.0);
    if (!sim->failed)
        operation_at(sim, number)->exchange = exchange;
    return number;
}

int64_t rondo__sim_fence(struct rondo__sim *sim)
{
    return add(sim, RONDO_SIM_FENCE, 0.0);
}

void rondo__sim_part(struct rondo__sim *sim, int32_t peer, bool receives, double bytes)
{
    struct rondo__sim_part *p = rondo__list_add(&sim->parts, sizeof *p, 1);
    if (!p || sim->failed) {
        sim->failed = true;
        return;
    }
    *p = (struct rondo__sim_part){ peer, receives, bytes };
    operation_at(sim, sim->operations.count - 1)->parts++;
}

void rondo__sim_wait(struct rondo__sim *sim, int64_t operation)
{
    int64_t *w = rondo__list_add(&sim->waits, sizeof *w, 1);
    if (!w || sim->failed) {
        sim->failed = true;
        return;
    }
    *w = operation;
    operation_at(sim, sim->operations.count - 1)->waits++;
}

/* ---- what it works with ---- */

struct message {
    int64_t pair;                       /* sender * ranks + receiver */
    int64_t send, receive;              /* operations */
    double bytes;
    double at[2];                       /* where it is through its ways out and in; -1: it has not come to them, or is through */
    int32_t left;                       /* ways that it is not through */
    bool followed[2];                   /* another one of this pair is behind it */
};

struct event {
    double time;
    int64_t order;                      /* of two at once the one that was set going first */
    int64_t operation, way, crew;       /* of a crew a rank is the operation; else one of them, and -1 */
    int64_t version;                    /* of a crew or a way: what it was when this was foreseen */
};

/* Ranks that share cores. What computes has `left` to do at `since`; all go on alike fast. */
struct crew {
    int64_t first;                      /* of the list of ranks: its ranks that compute now */
    int64_t busy, version;
    double since;
};

struct run {
    struct rondo__sim *sim;
    const struct rondo__sim_links *links;
    int64_t *first;                     /* [ranks + 1] */
    int32_t *rank_of;                   /* [operations] */
    int64_t *followers_first;           /* [operations + 1] */
    int64_t *followers;                 /* whom an operation's end lets go on, for each wait */
    int64_t *missing;                   /* [operations] messages of a transfer that are not over */
    struct message *messages;
    int64_t message_count;
    int64_t *of_first, *of;             /* [operations + 1], [2 * messages]: an operation's messages */
    double *stream_free;                /* [ranks] when it may go on, while it computes nothing; then what is owed to it until it is done */
    int64_t *computing;                 /* [ranks] operation + 1 */
    double *left;                       /* [ranks] of what it computes */
    bool *joined;                       /* [ranks] that has begun */
    struct crew *crews;
    int64_t *of_crew;                   /* [ranks] lists of ranks */
    int64_t crew_ranks;
    double cores;
    struct rondo__sim_way *ways;        /* out of and into each rank, then out of and into each link of each node */
    int64_t way_count;
    struct rondo__list heap;            /* struct event */
    int64_t events, over;
    int64_t *fence_next;                /* [ranks] fences behind which a rank is */
    struct rondo__list fences;          /* struct fence, by number */
    bool failed;
};

struct fence {
    int32_t come, reserved;
    double last;
    struct rondo__list waiting;         /* int64_t operations */
};

static bool sooner(const struct event *a, const struct event *b)
{
    return a->time < b->time || (a->time == b->time && a->order < b->order);
}

static void push_event(struct run *r, struct event e)
{
    if (!rondo__list_add(&r->heap, sizeof e, 1)) {
        r->failed = true;
        return;
    }
    struct event *heap = r->heap.items;
    int64_t i = r->heap.count - 1;
    for (; i && sooner(&e, &heap[(i - 1) / 2]); i = (i - 1) / 2)
        heap[i] = heap[(i - 1) / 2];
    heap[i] = e;
}

static void push(struct run *r, double time, int64_t operation)
{
    push_event(r, (struct event){ time, r->events++, operation, -1, -1, 0 });
}

static struct event pop(struct run *r)
{
    struct event *heap = r->heap.items;
    const struct event top = heap[0], last = heap[--r->heap.count];
    int64_t i = 0;
    for (int64_t child; (child = 2 * i + 1) < r->heap.count; i = child) {
        if (child + 1 < r->heap.count && sooner(&heap[child + 1], &heap[child]))
            child++;
        if (!sooner(&heap[child], &last))
            break;
        heap[i] = heap[child];
    }
    heap[i] = last;
    return top;
}

/* ---- messages and their two ends ---- */

struct end {
    int32_t sender, receiver;
    int64_t operation;
    double bytes;
};

static int no_memory(void)
{
    return rondo__fail(RONDO_ENOMEM, "no memory to simulate these schedules");
}

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
    err = ends[0] && ends[1] && other && starts && r->messages ? 0 : no_memory();
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
    return fine ? 0 : no_memory();
}

/* ---- what happens ---- */

static bool local(const struct run *r, int64_t a, int64_t b)
{
    return a / r->links->node_ranks == b / r->links->node_ranks;
}

static int64_t link_of(const struct run *r, int64_t rank)
{
    const int32_t of_node = r->links->node_ranks, links = r->links->links;
    return rank / of_node * links + rank % of_node % links;
}

/* ---- ranks that compute ---- */

static double speed(const struct run *r, const struct crew *c)
{
    return rondo__core_speed(r->cores, r->links->slowest, (double)c->busy);
}

/* What they have done until now. */
static void catch_up(struct run *r, struct crew *c, double time)
{
    const double done = (time - c->since) * speed(r, c);
    for (int64_t i = c->first; i < c->first + c->busy && done > 0.0; i++)
        r->left[r->of_crew[i]] -= done;
    c->since = time;
}

/* Who of them will be through first, if nothing comes between. */
static void foresee(struct run *r, struct crew *c)
{
    int64_t first = -1;
    for (int64_t i = c->first; i < c->first + c->busy; i++)
        if (first < 0 || r->left[r->of_crew[i]] < r->left[first])
            first = r->of_crew[i];
    c->version++;
    if (first < 0)
        return;
    const double left = r->left[first] > 0.0 ? r->left[first] : 0.0;
    push_event(r, (struct event){ c->since + left / speed(r, c), r->events++, first, -1, c - r->crews, c->version });
}

/* Its rank computes nothing else. */
static void join(struct run *r, int64_t o, double time)
{
    struct crew *c = &r->crews[r->rank_of[o] / r->crew_ranks];
    catch_up(r, c, time);
    r->of_crew[c->first + c->busy++] = r->rank_of[o];
    r->joined[r->rank_of[o]] = true;
    foresee(r, c);
}

static int64_t computed(struct run *r, int64_t rank, double time)
{
    struct crew *c = &r->crews[rank / r->crew_ranks];
    const int64_t o = r->computing[rank] - 1;
    int64_t i = c->first;
    catch_up(r, c, time);
    while (r->of_crew[i] != rank)
        i++;
    r->of_crew[i] = r->of_crew[c->first + --c->busy];
    r->computing[rank] = 0;
    r->joined[rank] = false;
    r->stream_free[rank] += time;
    foresee(r, c);
    return o;
}

/* Something else that the rank's processor must do. */
static void spend(struct run *r, int64_t rank, double seconds, double time)
{
    struct crew *c = &r->crews[rank / r->crew_ranks];
    if (!(seconds > 0.0))
        return;
    if (!r->computing[rank]) {
        r->stream_free[rank] = (r->stream_free[rank] > time ? r->stream_free[rank] : time) + seconds;
        return;
    }
    if (r->joined[rank])
        catch_up(r, c, time);
    r->left[rank] += seconds;
    if (r->joined[rank])
        foresee(r, c);
}

/* ---- messages ---- */

/* The way out of, or into, a rank: within its node, or to others. */
static struct rondo__sim_way *way_of(const struct run *r, int64_t rank, bool near, int in)
{
    const int64_t links = (r->way_count - 2 * r->sim->ranks) / 2;
    return &r->ways[near ? in * r->sim->ranks + rank : 2 * r->sim->ranks + in * links + link_of(r, rank)];
}

static void look_at(struct run *r, struct rondo__sim_way *way)
{
    const double time = rondo__sim_way_next(way);
    way->version++;
    if (time >= 0.0)
        push_event(r, (struct event){ time, r->events++, -1, way - r->ways, -1, way->version });
}

/* Both ends have come: through the way out and the way in, which do not wait for each other: what a switch keeps for a receiver that is busy
 * does not stop its sender. */
static void send(struct run *r, int64_t index, double time)
{
    struct message *m = &r->messages[index], *last = index && m[-1].pair == m->pair ? m - 1 : NULL;
    const int64_t ends[2] = { m->pair / r->sim->ranks, m->pair % r->sim->ranks };
    const bool near = local(r, ends[0], ends[1]), exchange = operation_at(r->sim, m->send)->exchange != 0;
    const double bandwidth = near ? r->links->local_bandwidth : exchange ? r->links->exchange_bandwidth : r->links->bandwidth;
    const double takes = m->bytes / bandwidth, comes = !near && r->links->inward > 0.0 ? m->bytes / r->links->inward : takes;
    const double work = m->bytes * (near ? r->links->local_work : r->links->work);
    for (int k = 0; k < 2; k++) {
        struct rondo__sim_way *way = way_of(r, ends[k], near, k);
        const double behind = last ? last->at[k] : -1.0;
        spend(r, ends[k], work, time);
        if (behind >= 0.0)
            last->followed[k] = true;
        if (!rondo__sim_way_add(way, time, index, k ? comes : takes, behind, &m->at[k]))
            r->failed = true;
        look_at(r, way);
    }
}

static void finish(struct run *r, int64_t o, double time);

/* What is through a way, and, if it is through both, over. */
static void pass(struct run *r, struct rondo__sim_way *way, double time)
{
    const int k = way - r->ways < 2 * r->sim->ranks ? way - r->ways >= r->sim->ranks
                                                    : way - r->ways - 2 * r->sim->ranks >= (r->way_count - 2 * r->sim->ranks) / 2;
    for (int64_t index; (index = rondo__sim_way_take(way, time)) >= 0;) {
        struct message *m = &r->messages[index];
        const int64_t ends[2] = { m->send, m->receive };
        m->at[k] = -1.0;
        if (!m->followed[k])
            rondo__sim_way_leave(way);
        if (--m->left)
            continue;
        for (int e = 0; e < 2; e++)
            if (!--r->missing[ends[e]])
                finish(r, ends[e], time);
    }
    look_at(r, way);
}

static double latency_of(const struct run *r, int64_t o)
{
    double latency = 0.0;
    for (int64_t i = r->of_first[o]; i < r->of_first[o + 1]; i++) {
        const struct message *m = &r->messages[r->of[i]];
        const bool near = local(r, m->pair / r->sim->ranks, m->pair % r->sim->ranks);
        const double one = near ? r->links->local_latency
                                : operation_at(r->sim, m->send)->exchange ? r->links->exchange_latency : r->links->latency;
        latency = one > latency ? one : latency;
    }
    return latency;
}

static void come_to_fence(struct run *r, int64_t o, double time)
{
    int64_t *next = &r->fence_next[r->rank_of[o]];
    while (r->fences.count <= *next) {
        struct fence *f = rondo__list_add(&r->fences, sizeof *f, 1);
        if (!f) {
            r->failed = true;
            return;
        }
        *f = (struct fence){ .come = 0 };
    }
    struct fence *f = (struct fence *)r->fences.items + (*next)++;
    int64_t *waiting = rondo__list_add(&f->waiting, sizeof *waiting, 1);
    if (!waiting) {
        r->failed = true;
        return;
    }
    *waiting = o;
    f->last = time > f->last ? time : f->last;
    if (++f->come < r->sim->ranks)
        return;
    for (int64_t i = 0; i < f->waiting.count; i++)
        push(r, f->last + (r->sim->ranks > 1 ? r->links->latency : 0.0), ((int64_t *)f->waiting.items)[i]);
}

static void begin(struct run *r, int64_t o, double time)
{
    struct rondo__sim_operation *op = operation_at(r->sim, o);
    double *stream = &r->stream_free[r->rank_of[o]];
    op->begin = time;
    if (op->kind == RONDO_SIM_FENCE) {
        come_to_fence(r, o, time);
    } else if (op->kind == RONDO_SIM_STREAM) {
        op->begin = *stream > time ? *stream : time;
        *stream = 0.0;
        r->computing[r->rank_of[o]] = o + 1;
        r->left[r->rank_of[o]] = op->seconds;
        if (op->begin > time)
            push(r, op->begin, o);
        else
            join(r, o, time);
    } else {
        /* an operation's event comes twice: when its latency is spent, and when its last message is over; it has at most one at a time */
        const double latency = latency_of(r, o);
        *stream = r->computing[r->rank_of[o]] ? *stream + latency : (*stream > time ? *stream : time) + latency;
        push(r, time + latency, o);
    }
}

/* A transfer's latency is spent: its messages whose peer has come too may go. */
static void go(struct run *r, int64_t o, double time)
{
    operation_at(r->sim, o)->waiting = -1;
    for (int64_t i = r->of_first[o]; i < r->of_first[o + 1]; i++) {
        const struct message *m = &r->messages[r->of[i]];
        const int64_t other = m->send == o ? m->receive : m->send;
        if (operation_at(r->sim, other)->waiting < 0)
            send(r, r->of[i], time);
    }
    if (!r->missing[o])
        finish(r, o, time);
}

static void finish(struct run *r, int64_t o, double time)
{
    operation_at(r->sim, o)->end = time;
    r->over++;
    for (int64_t i = r->followers_first[o]; i < r->followers_first[o + 1]; i++)
        if (--operation_at(r->sim, r->followers[i])->waiting == 0)
            begin(r, r->followers[i], time);
}

static void run_all(struct run *r, double *seconds)
{
    *seconds = 0.0;
    for (int64_t o = 0; o < r->sim->operations.count; o++)
        if (!operation_at(r->sim, o)->waiting && operation_at(r->sim, o)->begin < 0.0)
            begin(r, o, 0.0);
    while (r->heap.count && !r->failed) {
        const struct event e = pop(r);
        if (e.crew >= 0 && e.version != r->crews[e.crew].version)
            continue;   /* it came otherwise */
        if (e.way >= 0 && e.version != r->ways[e.way].version)
            continue;
        *seconds = e.time > *seconds ? e.time : *seconds;
        if (e.crew >= 0) {
            finish(r, computed(r, e.operation, e.time), e.time);
        } else if (e.way >= 0) {
            pass(r, &r->ways[e.way], e.time);
        } else if (operation_at(r->sim, e.operation)->kind == RONDO_SIM_TRANSFER) {
            go(r, e.operation, e.time);
        } else if (operation_at(r->sim, e.operation)->kind == RONDO_SIM_STREAM) {
            join(r, e.operation, e.time);
        } else {
            finish(r, e.operation, e.time);
        }
    }
}

/* ---- all of it ---- */

static void *zeros(struct run *r, int64_t count, size_t size)
{
    void *p = rondo__alloc_zero((size_t)count + 1, size);
    r->failed |= !p;
    return p;
}

static int prepare(struct run *r)
{
    const struct rondo__sim *sim = r->sim;
    const int64_t operations = sim->operations.count, ranks = sim->ranks;
    const int64_t nodes = (ranks + r->links->node_ranks - 1) / r->links->node_ranks;
    r->rank_of = zeros(r, operations, sizeof *r->rank_of);
    r->followers_first = zeros(r, operations + 1, sizeof *r->followers_first);
    r->missing = zeros(r, operations, sizeof *r->missing);
    r->of_first = zeros(r, operations + 1, sizeof *r->of_first);
    r->stream_free = zeros(r, ranks, sizeof *r->stream_free);
    r->computing = zeros(r, ranks, sizeof *r->computing);
    r->left = zeros(r, ranks, sizeof *r->left);
    r->joined = zeros(r, ranks, sizeof *r->joined);
    r->of_crew = zeros(r, ranks, sizeof *r->of_crew);
    r->crews = zeros(r, ranks, sizeof *r->crews);
    r->way_count = 2 * ranks + 2 * nodes * r->links->links;
    r->ways = zeros(r, r->way_count, sizeof *r->ways);
    r->fence_next = zeros(r, ranks, sizeof *r->fence_next);
    if (r->failed)
        return no_memory();
    r->crew_ranks = r->links->cores > 0.0 && r->links->core_ranks > 0 ? r->links->core_ranks : 1;
    r->cores = r->links->cores > 0.0 ? r->links->cores : 1.0;
    for (int64_t i = 0; i < ranks; i++)
        r->crews[i].first = i * r->crew_ranks;
    for (int64_t i = 0; i < nodes * r->links->links; i++) {
        struct rondo__sim_way *out = &r->ways[2 * ranks + i];
        out->bucket = out->most = r->links->burst / r->links->bandwidth;
    }
    for (int32_t rank = 0; rank < ranks; rank++)
        for (int64_t o = r->first[rank]; o < r->first[rank + 1]; o++) {
            r->rank_of[o] = rank;
            operation_at(sim, o)->waiting = 0;
            operation_at(sim, o)->begin = operation_at(sim, o)->end = -1.0;
        }
    int err = pair_up(r);
    if (!err && !index_messages(r))
        err = no_memory();
    return err ? err : index_waits(r);
}

static void free_run(struct run *r)
{
    void *const memory[] = { r->rank_of, r->followers_first, r->followers, r->missing, r->of_first, r->of, r->messages, r->stream_free,
                             r->computing, r->left, r->joined, r->of_crew, r->crews,
                             r->fence_next };
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++)
        rondo__free(memory[i]);
    for (int64_t i = 0; r->ways && i < r->way_count; i++)
        rondo__list_free(&r->ways[i].queue);
    rondo__free(r->ways);
    rondo__list_free(&r->heap);
    for (int64_t i = 0; i < r->fences.count; i++)
        rondo__list_free(&((struct fence *)r->fences.items)[i].waiting);
    rondo__list_free(&r->fences);
}

int rondo__simulate(struct rondo__sim *sim, const struct rondo__sim_links *links, double *seconds)
{
    struct run r = { .sim = sim, .links = links };
    *seconds = 0.0;
    set_first(sim);   /* where the last rank's end, until the next one is added */
    if (sim->failed)
        return no_memory();
    sim->first.count--;
    r.first = sim->first.items;
    int err = prepare(&r);
    if (!err) {
        run_all(&r, seconds);
        if (r.failed)
            err = no_memory();
        else if (r.over < sim->operations.count)
            err = rondo__fail(RONDO_EINVAL, "%lld of %lld operations wait for ever; such schedules are not simulated",
                              (long long)(sim->operations.count - r.over), (long long)sim->operations.count);
    }
    free_run(&r);
    return err;
}
