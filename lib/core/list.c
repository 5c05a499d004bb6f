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
    void *items = rondo__resize(list->items, (size_t)list->count * item, bytes);
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

void rondo__list_free(struct rondo__list *list)
{
    rondo__free(list->items);
    *list = (struct rondo__list){ NULL, 0, 0 };
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
