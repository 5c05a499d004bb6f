/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Ranks that share cores. Those that compute go on alike fast, each at its part of what the cores do. Where it is known for how long the system
 * leaves a core to one while others wait (rondo_hardware.core_slice), only as many ranks as there are cores go on at a time, in turns of that
 * long, and the others neither compute nor begin anything: a ring whose next rank has to wait for a core waits with it. It looks whether
 * somebody waits by a clock of its own, and what is simulated begins midway between two of its looks. Who gets a core spends some of its turn
 * (core_turn) until its own data are in the caches again. simulate.c's.
 */
#include "plan/sim_run.h"

/* ---- ranks that compute ---- */

static double speed(const struct run *r, const struct crew *c)
{
    return rondo__core_speed(r->cores, r->links->slowest, (double)c->busy);
}

/* What they have done until now. */
static void catch_up(struct run *r, struct crew *c, double time)
{
    const double done = (time - c->since) * speed(r, c);
    for (int64_t i = c->first; i < c->first + c->busy && done > 0.0; i++)
        r->left[r->of_crew[i]] -= done;
    c->since = time;
}

/* Who of them will be through first, if nothing comes between. */
static void foresee(struct run *r, struct crew *c)
{
    int64_t first = -1;
    for (int64_t i = c->first; i < c->first + c->busy; i++)
        if (first < 0 || r->left[r->of_crew[i]] < r->left[first])
            first = r->of_crew[i];
    c->version++;
    if (first < 0)
        return;
    const double left = r->left[first] > 0.0 ? r->left[first] : 0.0;
    rondo__sim_push(r, (struct event){ c->since + left / speed(r, c), r->events++, first, -1, c - r->crews, c->version });
}

static struct crew *crew_of(const struct run *r, int64_t rank)
{
    return &r->crews[rank / r->crew_ranks];
}

/* A rank that has a core goes on with what it computes, or stops. */
static void join(struct run *r, int64_t rank, double time)
{
    struct crew *c = crew_of(r, rank);
    catch_up(r, c, time);
    r->of_crew[c->first + c->busy++] = rank;
    r->joined[rank] = true;
    foresee(r, c);
}

static void part(struct run *r, int64_t rank, double time)
{
    struct crew *c = crew_of(r, rank);
    int64_t i = c->first;
    catch_up(r, c, time);
    while (r->of_crew[i] != rank)
        i++;
    r->of_crew[i] = r->of_crew[c->first + --c->busy];
    r->joined[rank] = false;
    foresee(r, c);
}

/* What a rank computes begins. */
void rondo__sim_start(struct run *r, int64_t o, double time)
{
    const int64_t rank = r->rank_of[o];
    r->started[rank] = true;
    if (!r->most_seated || r->place[rank] == SEATED)
        join(r, rank, time);
}

int64_t rondo__sim_computed(struct run *r, int64_t rank, double time)
{
    const int64_t o = r->computing[rank] - 1;
    part(r, rank, time);
    r->computing[rank] = 0;
    r->started[rank] = false;
    r->stream_free[rank] += time;
    return o;
}

/* Something else that the rank's processor must do. */
void rondo__sim_spend(struct run *r, int64_t rank, double seconds, double time)
{
    struct crew *c = &r->crews[rank / r->crew_ranks];
    if (!(seconds > 0.0))
        return;
    if (!r->computing[rank]) {
        r->stream_free[rank] = (r->stream_free[rank] > time ? r->stream_free[rank] : time) + seconds;
        return;
    }
    if (r->joined[rank])
        catch_up(r, c, time);
    r->left[rank] += seconds;
    if (r->joined[rank])
        foresee(r, c);
}

/* ---- cores by turns ---- */

/* The system's next look after that time. Where a number does not hold single looks any more, behind ages of waiting for messages, there are
 * fewer. */
#define LOOKS_MOST 1e12

static double next_look(const struct run *r, double time)
{
    if (!(time < LOOKS_MOST * r->slice))
        return 2.0 * time;
    const int64_t looks = (int64_t)(time / r->slice + 0.5);   /* so far */
    const double next = ((double)looks + 0.5) * r->slice;
    return next > time + 1e-9 * r->slice ? next : next + r->slice;
}

/* Who has a core keeps it until a look, if somebody waits for it then. */
static void foresee_turn(struct run *r, struct crew *c, double time)
{
    int64_t next = -1;
    c->turns++;
    for (int64_t i = c->first; i < c->first + c->seated && c->waiting; i++) {
        const int64_t rank = r->seats[i];
        if (r->slice_end[rank] <= time)   /* nobody was waiting then, or somebody else made room */
            r->slice_end[rank] = next_look(r, time);
        if (next < 0 || r->slice_end[rank] < r->slice_end[next])
            next = rank;
    }
    if (next >= 0)
        rondo__sim_push(r, (struct event){ r->slice_end[next], r->events++, ~next, -1, c - r->crews, c->turns });
}

static void unseat(struct run *r, int64_t rank, double time, enum place place)
{
    struct crew *c = crew_of(r, rank);
    int64_t i = c->first;
    if (r->joined[rank])
        part(r, rank, time);
    while (r->seats[i] != rank)
        i++;
    for (const int64_t end = c->first + c->seated + c->waiting; i + 1 < end; i++)
        r->seats[i] = r->seats[i + 1];
    c->seated--;
    r->seats[i] = rank;
    r->place[rank] = (char)place;
    c->waiting += place == IN_LINE;
}

/* Free cores go to those who wait, one after another. */
static void fill_seats(struct run *r, struct crew *c, double time)
{
    while (c->waiting && c->seated < r->most_seated) {
        const int64_t rank = r->seats[c->first + c->seated++];
        c->waiting--;
        r->place[rank] = SEATED;
        r->slice_end[rank] = next_look(r, time);
        rondo__sim_spend(r, rank, r->turn, time);
        if (r->started[rank])
            join(r, rank, time);
        while (r->parked[rank]) {
            const int64_t o = r->parked[rank] - 1;
            r->parked[rank] = r->parked_next[o];
            rondo__sim_begin_now(r, o, time);
        }
        if (!r->computing[rank])
            unseat(r, rank, time, ELSEWHERE);
    }
    foresee_turn(r, c, time);
}

void rondo__sim_rest(struct run *r, int64_t rank, double time)
{
    if (!r->most_seated || r->computing[rank] || r->place[rank] != SEATED)
        return;
    unseat(r, rank, time, ELSEWHERE);
    fill_seats(r, crew_of(r, rank), time);
}

void rondo__sim_turn(struct run *r, int64_t rank, double time)
{
    unseat(r, rank, time, IN_LINE);
    fill_seats(r, crew_of(r, rank), time);
}

void rondo__sim_begin(struct run *r, int64_t o, double time)
{
    const int64_t rank = r->rank_of[o];
    struct crew *c = crew_of(r, rank);
    if (!r->most_seated || r->place[rank] == SEATED) {
        rondo__sim_begin_now(r, o, time);
        return;
    }
    r->parked_next[o] = 0;
    if (r->parked[rank])
        r->parked_next[r->parked_last[rank] - 1] = o + 1;
    else
        r->parked[rank] = o + 1;
    r->parked_last[rank] = o + 1;
    if (r->place[rank] == ELSEWHERE) {
        r->place[rank] = IN_LINE;
        r->seats[c->first + c->seated + c->waiting++] = rank;
        fill_seats(r, c, time);
    }
}
