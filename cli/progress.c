/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The meter on stderr: nothing during the first second, then one line that is drawn anew a few times a second and wiped at the
 * end. A thread of its own draws it, so the work only stores two numbers.
 */
#include "cli/cli.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define WIPE "\r\033[K"

static pthread_t thread;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static bool running, stop;
static volatile sig_atomic_t drawn;
static char label[64];
static double begun;
static _Atomic uint64_t done_now, total_now, steps;

static void draw(void)
{
    const uint64_t done = done_now, total = total_now, noted = steps;
    char part[48] = "";
    if (total)
        snprintf(part, sizeof part, "%5.1f %%  ", 100.0 * (double)(done < total ? done : total) / (double)total);
    else if (noted)
        snprintf(part, sizeof part, "step %llu  ", (unsigned long long)noted);
    fprintf(stderr, "\r%s: %s%.0f s\033[K", label, part, now() - begun);
    fflush(stderr);
    drawn = 1;
}

void progress_break(void)
{
    if (drawn && write(STDERR_FILENO, WIPE, sizeof WIPE - 1) < 0)
        drawn = 0;   /* nobody is left to be told */
}

static void *ticker(void *unused)
{
    (void)unused;
    pthread_mutex_lock(&lock);
    for (double wait = 1.0; !stop; wait = 0.25) {
        struct timespec until;
        clock_gettime(CLOCK_REALTIME, &until);
        const long nanoseconds = until.tv_nsec + (long)(wait * 1e9);
        until.tv_sec += nanoseconds / 1000000000;
        until.tv_nsec = nanoseconds % 1000000000;
        pthread_cond_timedwait(&wake, &lock, &until);
        if (!stop && now() - begun >= 1.0)
            draw();
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

void progress_begin(const char *what)
{
    progress_end();
    if (common.progress == 2 || (common.progress == 0 && !isatty(STDERR_FILENO)) || !ranks_first())
        return;
    snprintf(label, sizeof label, "%s", what);
    begun = now();
    done_now = total_now = steps = 0;
    stop = false;
    drawn = 0;
    running = pthread_create(&thread, NULL, ticker, NULL) == 0;
}

void progress_set(uint64_t done, uint64_t total)
{
    done_now = done;
    total_now = total;
}

int progress_part(void *user, double done)
{
    (void)user;
    progress_set((uint64_t)(done * 1e6), 1000000);
    return 0;
}

void progress_note(void)
{
    if (running)
        steps++;
}

void progress_wipe(void)
{
    pthread_mutex_lock(&lock);
    if (drawn)
        fputs(WIPE, stderr);
    drawn = 0;
    pthread_mutex_unlock(&lock);
}

void progress_end(void)
{
    if (!running)
        return;
    pthread_mutex_lock(&lock);
    stop = true;
    pthread_cond_signal(&wake);
    pthread_mutex_unlock(&lock);
    pthread_join(thread, NULL);
    running = false;
    if (drawn) {
        fputs(WIPE, stderr);
        fflush(stderr);
        drawn = 0;
    }
}
