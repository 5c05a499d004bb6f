/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A team: the thread that calls, and helpers that the team started. Used by parallel.c alone, which hands out a loop's items.
 */
#ifndef RONDO_CPU_TEAM_H
#define RONDO_CPU_TEAM_H

#include "core/internal.h"

struct rondo_team;

/* For at most `threads` threads, the caller included; helpers are started when they are first of use. crowded: more threads
 * than cores, so that who waits sleeps at once. NULL: no memory, no sentence. */
struct rondo_team *rondo__team_new(int threads, bool crowded);
void rondo__team_free(struct rondo_team *team);

/* Calls run(arg, 0) on the calling thread and, at the same time, run(arg, w) once for some of w = 1..workers-1, on those
 * helpers that come before run(arg, 0) has returned: run must take its share of the work as it goes, so that the calling
 * thread alone could do it all. Returns when all calls have returned; what they wrote is then visible. While it waits for
 * helpers it calls idle(arg), where given. 0, or a code with which nothing has been run: a helper could not be started. */
int rondo__team_run(struct rondo_team *team, int workers, void (*run)(void *arg, int worker), void (*idle)(void *arg), void *arg);

/* How often this process is the child of a fork, since rondo computed in the first of them: threads do not survive it. */
unsigned rondo__team_forks(void);

#endif
