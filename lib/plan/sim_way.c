/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The ways of sim_way.h.
 */
#include "plan/sim_way.h"

struct passing {
    double at;
    int64_t message;
};

static bool before(const struct passing *a, const struct passing *b)
{
    return a->at < b->at || (a->at == b->at && a->message < b->message);
}

static bool put(struct rondo__list *queue, struct passing p)
{
    if (!rondo__list_add(queue, sizeof p, 1))
        return false;
    struct passing *heap = queue->items;
    int64_t i = queue->count - 1;
    for (; i && before(&p, &heap[(i - 1) / 2]); i = (i - 1) / 2)
        heap[i] = heap[(i - 1) / 2];
    heap[i] = p;
    return true;
}

static struct passing get(struct rondo__list *queue)
{
    struct passing *heap = queue->items;
    const struct passing top = heap[0], last = heap[--queue->count];
    int64_t i = 0;
    for (int64_t child; (child = 2 * i + 1) < queue->count; i = child) {
        if (child + 1 < queue->count && before(&heap[child + 1], &heap[child]))
            child++;
        if (!before(&heap[child], &last))
            break;
        heap[i] = heap[child];
    }
    heap[i] = last;
    return top;
}

static const struct passing *first_of(const struct rondo__sim_way *way)
{
    return way->queue.count ? way->queue.items : NULL;
}

static void follow(struct rondo__sim_way *way, double time)
{
    const double passed = time - way->since;
    if (!way->streams)
        way->bucket = way->bucket + passed < way->most ? way->bucket + passed : way->most;
    else if (way->next >= 0.0 && time >= way->next)
        way->served = first_of(way)->at;   /* not what roundings make of it */
    else
        way->served += passed / (double)way->streams;
    way->since = time;
}

bool rondo__sim_way_add(struct rondo__sim_way *way, double time, int64_t message, double seconds, double behind, double *at)
{
    follow(way, time);
    way->next = -1.0;
    way->streams += behind < 0.0;
    const double first = behind > way->served ? behind : way->served, burst = seconds < way->bucket ? seconds : way->bucket;
    way->bucket -= burst;
    *at = first + seconds - burst;
    return put(&way->queue, (struct passing){ *at, message });
}

double rondo__sim_way_next(struct rondo__sim_way *way)
{
    const struct passing *p = first_of(way);
    way->next = -1.0;
    if (!p)
        return -1.0;
    way->next = way->since + (p->at > way->served ? (p->at - way->served) * (double)way->streams : 0.0);
    return way->next;
}

int64_t rondo__sim_way_take(struct rondo__sim_way *way, double time)
{
    follow(way, time);
    way->next = -1.0;
    const struct passing *p = first_of(way);
    return p && p->at <= way->served ? get(&way->queue).message : -1;
}
