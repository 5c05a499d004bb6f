/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A bell wakes threads that sleep. Every rank of the thread transport owns one, and so does every team of threads inside a
 * rank; whoever changes something that others may be waiting for makes the change first and rings then. Counting the rings
 * closes the gap between looking and sleeping:
 *
 *     waiter: seen = rondo__bell_count(b);  look;  rondo__bell_sleep(b, seen, until)   (returns at once if it rang since)
 *     ringer: change;  rondo__bell_ring(b)
 */
#ifndef RONDO_BACKENDS_BELL_H
#define RONDO_BACKENDS_BELL_H

#include <stdatomic.h>
#include <stdint.h>

#include "rondo_config.h"

#ifndef HAVE_LINUX_FUTEX_H
#define RONDO_BELL_CONDITION 1   /* no futex: a condition variable */
#endif

#ifdef RONDO_BELL_CONDITION
#include <pthread.h>
#endif

struct rondo_bell {
    _Atomic uint32_t rings;
    _Atomic uint32_t sleepers;   /* how many sleep, or are about to */
#ifdef RONDO_BELL_CONDITION
    pthread_mutex_t mutex;
    pthread_cond_t condition;
#endif
};

int rondo__bell_init(struct rondo_bell *b);          /* 0, or -1 where the system has no more of them */
void rondo__bell_end(struct rondo_bell *b);
uint32_t rondo__bell_count(struct rondo_bell *b);
/* Wakes at least `enough` of those that sleep, or all where they are fewer. */
void rondo__bell_ring(struct rondo_bell *b, int enough);
/* until: as rondo__now(). May return early. */
void rondo__bell_sleep(struct rondo_bell *b, uint32_t seen, double until);

#endif
