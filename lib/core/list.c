/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Arrays that grow, by doubling, and their order. Called by the builders of plans and schedules.
 */
#include "core/list.h"

static bool grow(struct rondo__list *list, size_t item, int64_t room)
{
    size_t bytes;
    if (!rondo__mul((size_t)room, item, &bytes))
        return false;
    void *items = list->arena ? rondo__arena_more(list->arena, list->items, (size_t)list->room * item, bytes)
                              : rondo__resize(list->items, (size_t)list->count * item, bytes);
    if (!items)
        return false;
    list->items = items;
    list->room = room;
    return true;
}

bool rondo__list_reserve(struct rondo__list *list, size_t item, int64_t room)
{
    return room <= list->room || grow(list, item, room);
}

struct rondo__list *rondo__lists(struct rondo__arena *arena, int64_t count)
{
    struct rondo__list *lists = rondo__arena_zero(arena, (size_t)count, sizeof *lists);
    for (int64_t i = 0; lists && i < count; i++)
        lists[i] = rondo__list_of(arena);
    return lists;
}

void *rondo__list_add(struct rondo__list *list, size_t item, int64_t more)
{
    if (list->room - list->count < more) {
        const int64_t room = 2 * list->room + 16;
        if (!grow(list, item, room < list->count + more ? list->count + more : room))
            return NULL;
    }
    void *at = (char *)list->items + (size_t)list->count * item;
    list->count += more;
    return at;
}

/* Room that grows again grows by half and some more, so that what becomes longer by little each time seldom takes memory. */
void *rondo__list_set(struct rondo__list *list, size_t item, int64_t count)
{
    list->count = 0;
    if (count > list->room || !list->items) {
        const int64_t more = list->items && count < INT64_MAX / 2 ? count + count / 2 + 16 : count;
        if (!grow(list, item, more))
            return NULL;
    }
    list->count = count;
    return list->items;
}

bool rondo__list_ready(struct rondo__list *list, size_t item, bool first)
{
    enum { LEAST = 32, MANY = 1 << 12 };   /* many take long to become a quarter more */
    const int64_t want = list->count < LEAST ? LEAST : list->count < MANY ? list->count + list->count / 4 : list->count;
    return (first && list->count < MANY ? 2 * want : want) <= list->room || grow(list, item, 2 * want);
}

void rondo__list_trim(struct rondo__list *list, size_t item)
{
    enum { MUCH = 4 << 10 };
    void *items = NULL;
    if (list->arena || (size_t)(list->room - list->count) * item < MUCH)
        return;
    if (!list->count)
        rondo__list_free(list);
    else
        items = rondo__resize(list->items, (size_t)list->count * item, (size_t)list->count * item);
    if (items) {
        list->items = items;
        list->room = list->count;
    }
}

void rondo__list_free(struct rondo__list *list)
{
    if (!list->arena)
        rondo__free(list->items);
    *list = rondo__list_of(list->arena);
}

/* Heap sort. */
void rondo__sort(void *items, size_t size, int64_t count, bool (*after)(const void *a, const void *b))
{
    char moved[RONDO_SORT_MOST], *p = items;
    bool sorted = true;
    for (int64_t i = 1; i < count && sorted; i++)
        sorted = !after(p + (size_t)(i - 1) * size, p + (size_t)i * size);
    for (int64_t start = count / 2, end = sorted ? 0 : count; end > 1;) {
        if (start > 0) {
            memcpy(moved, p + (size_t)--start * size, size);
        } else {
            memcpy(moved, p + (size_t)--end * size, size);
            memcpy(p + (size_t)end * size, p, size);
        }
        int64_t root = start, child;
        while ((child = 2 * root + 1) < end) {
            if (child + 1 < end && after(p + (size_t)(child + 1) * size, p + (size_t)child * size))
                child++;
            if (!after(p + (size_t)child * size, moved))
                break;
            memcpy(p + (size_t)root * size, p + (size_t)child * size, size);
            root = child;
        }
        memcpy(p + (size_t)root * size, moved, size);
    }
}
