/* SPDX-License-Identifier: BSD-2-Clause
 *
 * For how long the system leaves a core to a thread while another one waits for it, as --calibrate says it: where more ranks compute than there
 * are cores, those that wait hold up the others (core_slice of rondo-costs(7)). Two threads on one core look at the clock all the time.
 */
#define _GNU_SOURCE   /* cpu_set_t */
#include "cli/calibrate.h"

#ifdef __linux__
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#define WINDOW 0.15        /* seconds */
#define GAP 0.2e-3         /* that the clock jumps by where another one had the core */
#define MOST 256

struct look {
    cpu_set_t core;
    double runs[MOST];                  /* seconds between two such jumps */
    int count;
};

static void *look(void *arg)
{
    struct look *l = arg;
    if (pthread_setaffinity_np(pthread_self(), sizeof l->core, &l->core))
        return NULL;
    const double end = now() + WINDOW;
    for (double last = now(), begin = last, time; last < end && l->count < MOST; last = time) {
        time = now();
        if (time - last > GAP) {
            l->runs[l->count++] = last - begin;   /* however many others had it then */
            begin = time;
        }
    }
    return NULL;
}

double calibrate_slice(void)
{
    struct look looks[2];
    pthread_t ids[2];
    cpu_set_t all;
    int core = 0, started = 0;
    if (sched_getaffinity(0, sizeof all, &all))
        return 0.0;
    while (core < CPU_SETSIZE && !CPU_ISSET((size_t)core, &all))
        core++;
    for (int i = 0; i < 2; i++) {
        CPU_ZERO(&looks[i].core);
        CPU_SET((size_t)core, &looks[i].core);
        looks[i].count = 0;
    }
    while (started < 2 && !pthread_create(&ids[started], NULL, look, &looks[started]))
        started++;
    for (int i = 0; i < started; i++)
        pthread_join(ids[i], NULL);
    if (started < 2 || looks[0].count < 3)
        return 0.0;
    qsort(looks[0].runs, (size_t)looks[0].count, sizeof looks[0].runs[0], ascending);
    return looks[0].runs[looks[0].count * 3 / 4];   /* what others interrupt for a moment is shorter */
}
#else
double calibrate_slice(void)
{
    return 0.0;
}
#endif
