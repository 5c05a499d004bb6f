/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Predictions beside each other, on this machine's cores: a sweep asks for hundreds, none of which needs another. Called by plan choose and
 * plan run. What comes of it is the same for any number of cores.
 */
#include "cli/plan.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

/* Each may hold the schedules of a thousand ranks, some hundred megabytes. */
#define AT_MOST 8

struct beside {
    int64_t first, count, told;
    void (*work)(void *arg, int64_t index);
    void *arg;
    atomic_llong next, done;
};

static void *take(void *arg)
{
    struct beside *b = arg;
    for (int64_t i; (i = atomic_fetch_add(&b->next, 1)) < b->count;) {
        b->work(b->arg, b->first + i);
        const int64_t done = atomic_fetch_add(&b->done, 1) + 1;
        if (b->told)
            progress_set((uint64_t)(b->told - b->first - b->count + done), (uint64_t)b->told);
    }
    return NULL;
}

void plan_beside(int64_t first, int64_t count, int64_t told, void (*work)(void *arg, int64_t index), void *arg)
{
    struct beside b = { .first = first, .count = count, .told = told, .work = work, .arg = arg };
    const long cores = sysconf(_SC_NPROCESSORS_ONLN);
    pthread_t threads[AT_MOST];
    int others = 0;
    atomic_init(&b.next, 0);
    atomic_init(&b.done, 0);
    while (others + 1 < AT_MOST && others + 1 < cores && others + 1 < count && !pthread_create(&threads[others], NULL, take, &b))
        others++;
    take(&b);
    while (others)
        pthread_join(threads[--others], NULL);
}
