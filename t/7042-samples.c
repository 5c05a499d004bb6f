/* SPDX-License-Identifier: BSD-2-Clause
 *
 * How `rondo bench` makes a row of its samples (cli/bench_measure.c), between ceilings that this file makes up: the ceiling of a
 * sample is the better of the moments before and after it, of all ranks together; medians over the samples; the round that warms
 * up does not count.
 */
#include <math.h>

#include "cli/bench.h"
#include "tap.h"

#define ROUNDS 4   /* one to warm up, three samples */

/* Of two ranks, by round: before, after. Together: 10, 8 | 11, 11 | 3, 9 | 20, 2: the best are 10, 11, 9, 20. */
static const double moments[2][ROUNDS][2] = { { { 6, 4 }, { 10, 1 }, { 1, 4 }, { 12, 1 } }, { { 4, 4 }, { 1, 10 }, { 2, 5 }, { 8, 1 } } };

struct ceiling {
    int rank, at;
};
static struct ceiling ceilings[2];
static _Atomic int opened, closed;
static _Thread_local int rank_here;
static int wrong;

struct ceiling *ceiling_open(enum ceiling_kind kind, const char *isa, int ranks, int threads, int64_t message)
{
    wrong += kind != CEILING_COPY || !isa || ranks != 2 || threads < 1 || message != 4096;
    opened++;
    ceilings[rank_here] = (struct ceiling){ rank_here, 0 };
    return &ceilings[rank_here];
}

void ceiling_close(struct ceiling *c)
{
    closed += c == &ceilings[rank_here];
}

double ceiling_rate(struct ceiling *c, double call_seconds)
{
    wrong += c->at >= 2 * ROUNDS || call_seconds < 0;
    const double rate = moments[c->rank][c->at / 2][c->at % 2];
    c->at++;
    return rate;
}

double now(void)   /* each call lasts one second */
{
    static _Thread_local double t;
    return t += 1.0;
}

void *room(int64_t count, size_t size)
{
    return calloc((size_t)count, size);
}

int body_fail(int code, const char *format, ...)
{
    (void)format;
    return code;
}

static int call(void *arg)
{
    ++*(int *)arg;
    return 0;
}

static int body(rondo_context *ctx, void *arg)
{
    struct measurement *m = arg;
    int calls = 0;
    rank_here = rondo_context_rank(ctx);
    const int code = bench_measure(ctx, CEILING_COPY, 4096, ROUNDS - 1, 5.0, call, &calls, m + rank_here);
    wrong += calls != ROUNDS;
    return code;
}

int main(void)
{
    struct measurement m[2];
    memset(m, 0, sizeof m);
    is_int(rondo_run_threads(2, body, m), 0, "two ranks take samples");
    is_int(wrong, 0, "a call and two moments a round");
    is_int(opened * 10 + closed, 22, "each rank opens and closes its ceiling");
    ok(fabs(m[0].seconds - 1) < 1e-9 && fabs(m[0].rate - 5) < 1e-9, "a second a call: rate 5");
    ok(fabs(m[0].ceiling - 11) < 1e-9, "the ceiling is the median of the better moments, 11");
    ok(fabs(m[0].fraction - 5.0 / 11.0) < 1e-9, "and the fraction that of the fractions");
    if (fabs(m[0].ceiling - 11) >= 1e-9)
        diag("ceiling %g, fraction %g", m[0].ceiling, m[0].fraction);
    double odd[3] = { 3, 1, 2 }, even[4] = { 4, 1, 3, 2 };
    ok(median(odd, 3) > 1.99 && median(odd, 3) < 2.01 && median(even, 4) > 2.49 && median(even, 4) < 2.51, "the median of odd and even numbers");
    return done();
}
