/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The simulator of simulate.h: a heap of events by time, and what each of them sets going.
 */
#include "plan/sim_run.h"

int rondo__sim_no_memory(void)
{
    return rondo__fail(RONDO_ENOMEM, "no memory to simulate these schedules");
}

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

void rondo__sim_reserve(struct rondo__sim *sim, int32_t ranks)
{
    const struct {
        struct rondo__list *list;
        size_t item;
    } lists[] = { { &sim->operations, sizeof(struct rondo__sim_operation) }, { &sim->parts, sizeof(struct rondo__sim_part) },
                  { &sim->waits, sizeof(int64_t) } };
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++)
        sim->failed = !rondo__list_reserve(lists[i].list, lists[i].item, lists[i].list->count * ranks) || sim->failed;
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

static bool sooner(const struct event *a, const struct event *b)
{
    return a->time < b->time || (a->time == b->time && a->order < b->order);
}

void rondo__sim_push(struct run *r, struct event e)
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
    rondo__sim_push(r, (struct event){ time, r->events++, operation, -1, -1, 0 });
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
        rondo__sim_push(r, (struct event){ time, r->events++, -1, way - r->ways, -1, way->version });
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
        rondo__sim_spend(r, ends[k], work, time);
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

void rondo__sim_begin_now(struct run *r, int64_t o, double time)
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
            rondo__sim_start(r, o, time);
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
            rondo__sim_begin(r, r->followers[i], time);
}

static void run_all(struct run *r, double *seconds)
{
    *seconds = 0.0;
    for (int64_t o = 0; o < r->sim->operations.count; o++)
        if (!operation_at(r->sim, o)->waiting && operation_at(r->sim, o)->begin < 0.0)
            rondo__sim_begin(r, o, 0.0);
    while (r->heap.count && !r->failed) {
        const struct event e = pop(r);
        if (e.crew >= 0 && e.version != (e.operation < 0 ? r->crews[e.crew].turns : r->crews[e.crew].version))
            continue;   /* it came otherwise */
        if (e.way >= 0 && e.version != r->ways[e.way].version)
            continue;
        *seconds = e.time > *seconds ? e.time : *seconds;
        if (e.crew >= 0 && e.operation < 0) {
            rondo__sim_turn(r, ~e.operation, e.time);
        } else if (e.crew >= 0) {
            finish(r, rondo__sim_computed(r, e.operation, e.time), e.time);
            rondo__sim_rest(r, e.operation, e.time);
        } else if (e.way >= 0) {
            pass(r, &r->ways[e.way], e.time);
        } else if (operation_at(r->sim, e.operation)->kind == RONDO_SIM_TRANSFER) {
            go(r, e.operation, e.time);
        } else if (operation_at(r->sim, e.operation)->kind == RONDO_SIM_STREAM) {
            rondo__sim_start(r, e.operation, e.time);
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

/* Slices of a long run are longer, so that there are never more than some TURNS of them. */
#define TURNS 1e5

static void set_turns(struct run *r)
{
    double all = 0.0;
    if (!(r->links->slice > 0.0 && rondo__whole_cores(r->cores) < (double)r->crew_ranks))
        return;
    for (int64_t o = 0; o < r->sim->operations.count; o++)
        all += operation_at(r->sim, o)->seconds;
    r->most_seated = (int64_t)rondo__whole_cores(r->cores);
    r->slice = r->links->slice > all / TURNS ? r->links->slice : all / TURNS;
    r->turn = r->links->turn < r->slice / 2.0 ? r->links->turn : r->slice / 2.0;   /* else nobody would ever be through */
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
    r->started = zeros(r, ranks, sizeof *r->started);
    r->seats = zeros(r, ranks, sizeof *r->seats);
    r->slice_end = zeros(r, ranks, sizeof *r->slice_end);
    r->place = zeros(r, ranks, sizeof *r->place);
    r->parked = zeros(r, ranks, sizeof *r->parked);
    r->parked_last = zeros(r, ranks, sizeof *r->parked_last);
    r->parked_next = zeros(r, operations, sizeof *r->parked_next);
    r->way_count = 2 * ranks + 2 * nodes * r->links->links;
    r->ways = zeros(r, r->way_count, sizeof *r->ways);
    r->fence_next = zeros(r, ranks, sizeof *r->fence_next);
    if (r->failed)
        return rondo__sim_no_memory();
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
    set_turns(r);
    return rondo__sim_match(r);
}

static void free_run(struct run *r)
{
    void *const memory[] = { r->rank_of, r->followers_first, r->followers, r->missing, r->of_first, r->of, r->messages, r->stream_free,
                             r->computing, r->left, r->joined, r->of_crew, r->crews, r->started, r->seats, r->slice_end, r->place, r->parked,
                             r->parked_last, r->parked_next, r->fence_next };
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
        return rondo__sim_no_memory();
    sim->first.count--;
    r.first = sim->first.items;
    int err = prepare(&r);
    if (!err) {
        run_all(&r, seconds);
        if (r.failed)
            err = rondo__sim_no_memory();
        else if (r.over < sim->operations.count)
            err = rondo__fail(RONDO_EINVAL, "%lld of %lld operations wait for ever; such schedules are not simulated",
                              (long long)(sim->operations.count - r.over), (long long)sim->operations.count);
    }
    free_run(&r);
    return err;
}
