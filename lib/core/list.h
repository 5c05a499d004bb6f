/* SPDX-License-Identifier: BSD-2-Clause
 *
 * An array that grows: what plans and schedules are made of.
 */
#ifndef RONDO_CORE_LIST_H
#define RONDO_CORE_LIST_H

#include "core/arena.h"

/* An array that grows; items of one type. */
struct rondo__list {
    void *items;
    int64_t count, room;
    struct rondo__arena *arena;   /* where its memory is from, which ends with that; NULL: its own */
};
/* An empty one of an arena. */
static inline struct rondo__list rondo__list_of(struct rondo__arena *arena)
{
    return (struct rondo__list){ .arena = arena };
}
/* [count] of them. NULL: no memory. */
struct rondo__list *rondo__lists(struct rondo__arena *arena, int64_t count);
void *rondo__list_add(struct rondo__list *list, size_t item, int64_t more);   /* the first of `more` new items; NULL: no memory */
/* Room for so many in all, which spares copies while it grows. false: no memory. */
bool rondo__list_reserve(struct rondo__list *list, size_t item, int64_t room);
/* So many items in place of those that there were, whatever they hold. NULL: no memory. */
void *rondo__list_set(struct rondo__list *list, size_t item, int64_t count);
/* Before it is filled anew, with about as many as there are: room for some more, so that growing a little takes no memory for long. At first
 * there is room made for twice as many, later where it has become tight. false: no memory. */
bool rondo__list_ready(struct rondo__list *list, size_t item, bool first);
/* What it holds of memory. */
static inline size_t rondo__list_bytes(const struct rondo__list *list, size_t item) { return (size_t)list->room * item; }
/* Once it is filled, for long: gives back room that it does not use, if that is much. */
void rondo__list_trim(struct rondo__list *list, size_t item);
void rondo__list_free(struct rondo__list *list);

/* Puts items of at most RONDO_SORT_MOST bytes in order, in place; after() says whether the first comes behind the second. The same everywhere,
 * also where two are alike; nothing to do where they are in order. */
#define RONDO_SORT_MOST 64
void rondo__sort(void *items, size_t size, int64_t count, bool (*after)(const void *a, const void *b));

#endif
