/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Taking samples on all ranks at once: ceiling, call, ceiling, between barriers; the first round only warms up. The ceiling of a
 * sample is the better moment of the two, of all ranks together: a neighbour's turn during one of them lowers no ceiling.
 */
#include "cli/bench.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

double process_cpu(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double median(double *values, int count)
{
    if (count < 1)
        return 0;
    qsort(values, (size_t)count, sizeof *values, ascending);
    return count % 2 ? values[count / 2] : (values[count / 2 - 1] + values[count / 2]) / 2;
}

static void summarise(const struct sample *all, int ranks, int repeat, double amount, struct measurement *out)
{
    double seconds[BENCH_REPEAT_MOST], cpu[BENCH_REPEAT_MOST], rate[BENCH_REPEAT_MOST], ceiling[BENCH_REPEAT_MOST], fraction[BENCH_REPEAT_MOST];
    for (int i = 0; i < repeat; i++) {
        double before = 0, after = 0;
        seconds[i] = cpu[i] = 0;
        for (int r = 0; r < ranks; r++) {
            const struct sample *s = &all[r * repeat + i];
            seconds[i] = s->seconds > seconds[i] ? s->seconds : seconds[i];
            cpu[i] += s->cpu;
            before += s->before;
            after += s->after;
        }
        ceiling[i] = before > after ? before : after;
        rate[i] = seconds[i] > 0 ? amount / seconds[i] : 0;
        fraction[i] = ceiling[i] > 0 ? rate[i] / ceiling[i] : 0;
    }
    out->seconds = median(seconds, repeat);
    out->least = seconds[0];           /* sorted by now */
    out->cpu = median(cpu, repeat);
    out->rate = median(rate, repeat);
    out->ceiling = median(ceiling, repeat);
    out->fraction = median(fraction, repeat);
}

int bench_measure(rondo_context *ctx, enum ceiling_kind kind, int64_t message, int repeat, double amount, bench_call *call, void *arg,
                  struct measurement *out)
{
    const int rank = rondo_context_rank(ctx), ranks = rondo_context_ranks(ctx);
    rondo_context_info info = RONDO_CONTEXT_INFO_INIT;
    struct ceiling *ceiling = NULL;
    struct sample mine[BENCH_REPEAT_MOST], *all = NULL;
    size_t *sizes = room(ranks, sizeof *sizes);
    int code = rondo_context_query(ctx, &info);
    memset(mine, 0, sizeof mine);
    if (!code)
        ceiling = ceiling_open(kind, info.isa, ranks, info.threads, message);
    all = room((int64_t)ranks * repeat, sizeof *all);
    if (!code && (!sizes || !all || !ceiling))
        code = body_fail(RONDO_ENOMEM, "not enough memory to measure a ceiling");
    /* ranks that are threads share a process and its clock: one of them counts */
    const bool counts = rank == 0 || !strcmp(info.transport, "mpi");
    double last = 0;
    for (int i = -1; i < repeat && !code; i++) {
        struct sample s = { 0, 0, 0, 0 };
        code = rondo_barrier(ctx);
        if (!code) {
            s.before = ceiling_rate(ceiling, last);
            code = rondo_barrier(ctx);
        }
        const double cpu = process_cpu();
        if (!code)
            code = rondo_barrier(ctx);
        const double begin = now();
        if (!code)
            code = call(arg);
        s.seconds = last = now() - begin;
        if (!code)
            code = rondo_barrier(ctx);
        s.cpu = counts ? process_cpu() - cpu : 0;
        if (!code)
            code = rondo_barrier(ctx);
        if (!code)
            s.after = ceiling_rate(ceiling, last);
        if (i >= 0)
            mine[i] = s;
    }
    for (int r = 0; r < ranks && !code; r++)
        sizes[r] = (size_t)repeat * sizeof *mine;
    if (!code)
        code = rondo_all_gather(ctx, mine, all, sizes);
    if (!code && rank == 0)
        summarise(all, ranks, repeat, amount, out);
    ceiling_close(ceiling);
    free(sizes);
    free(all);
    return code;
}
