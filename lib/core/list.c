/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Arrays that grow, by doubling. Called by the builders of plans and schedules.
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
