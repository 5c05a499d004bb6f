/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Devices dealt out to ranks. A context's device may be a list, with commas: "cuda:0,cuda:1,cpu", or shorter "cuda:0-1,cpu". Rank r has entry r,
 * and where there are more ranks than entries they go round: so a host's cards serve its ranks, under MPI too, where ranks are dealt out to hosts
 * one after the other, and processors and cards work in one ring. A context's device_index says with which entry rank 0 begins, so that who makes a
 * context alone for what another rank will use has that rank's device. Called by context.c.
 */
#include "core/internal.h"

#include <stdio.h>

/* One entry: its name, and its first and last index; -1: it names none. */
struct entry {
    char name[RONDO_DEVICE_NAME];
    int32_t first, last;
};

static bool number(const char **text, const char *end, int32_t *out)
{
    const char *begin = *text;
    *out = 0;
    for (; *text < end && **text >= '0' && **text <= '9' && *out < 100000; ++*text)
        *out = 10 * *out + (**text - '0');
    return *text > begin;
}

static bool entry_of(const char *text, const char *end, struct entry *e)
{
    const char *colon = memchr(text, ':', (size_t)(end - text));
    const size_t bytes = (size_t)((colon ? colon : end) - text);
    *e = (struct entry){ .first = -1, .last = -1 };
    if (!bytes || bytes >= sizeof e->name)
        return false;
    memcpy(e->name, text, bytes);
    if (!colon)
        return true;
    text = colon + 1;
    if (!number(&text, end, &e->first))
        return false;
    e->last = e->first;
    if (text < end && *text == '-' && (text++, !number(&text, end, &e->last)))
        return false;
    return text == end && e->last >= e->first;
}

/* Of all entries: how many ranks they serve, or -1; and the one that serves rank `wanted`. */
static int64_t look(const char *list, int64_t wanted, struct entry *found)
{
    int64_t count = 0;
    for (const char *at = list;; at++) {
        const char *end = at + strcspn(at, ",");
        struct entry e;
        if (!entry_of(at, end, &e))
            return -1;
        const int64_t serves = e.first < 0 ? 1 : e.last - e.first + 1;
        if (wanted >= count && wanted < count + serves) {
            *found = e;
            found->first += e.first < 0 ? 0 : (int32_t)(wanted - count);
        }
        count += serves;
        at = end;
        if (!*at)
            return count;
    }
}

int rondo__device_deal(const char *list, int rank, char name[RONDO_DEVICE_NAME], int32_t *index)
{
    struct entry e = { .first = -1 };
    if (!strchr(list, ',') && !strchr(list, ':')) {   /* all ranks', whatever it is: who looks for it says what is wrong */
        snprintf(name, RONDO_DEVICE_NAME, "%s", list);
        return 0;
    }
    const int64_t count = look(list, -1, &e);
    if (count < 0)
        return rondo__fail(RONDO_EINVAL, "device '%s': a list has entries like cpu, cuda:0 or cuda:0-3, with commas between, one for each rank", list);
    look(list, ((int64_t)*index + rank) % count, &e);
    memcpy(name, e.name, RONDO_DEVICE_NAME);
    *index = e.first < 0 ? 0 : e.first;
    return 0;
}
