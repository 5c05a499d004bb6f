/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Ceilings: what this machine could do at best at this very moment. Clock and neighbours change within seconds, so a ceiling is
 * taken right before and right after each sample, by as many threads, and only their ratio is worth telling.
 */
#include "cli/bench.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define CEILING_SECONDS 0.01   /* at least; a long call gets a longer one, so that other programs' turns meet both alike */
#define CEILING_PART 0.04
#define CEILING_MOST 0.1
#define THREADS_MOST 256

struct part {
    enum ceiling kind;
    const char *isa;
    char *memory;
    size_t bytes;
    double least, amount, seconds;      /* least: seconds it goes on for */
};

typedef uint64_t block __attribute__((vector_size(16), may_alias));

static double read_once(const char *memory, size_t bytes)
{
    const block *p = (const block *)(const void *)memory;
    block sum[8] = { { 0, 0 } };
    volatile uint64_t keep;
    for (size_t i = 0; i + 8 <= bytes / sizeof *p; i += 8)
        for (int j = 0; j < 8; j++)
            sum[j] += p[i + (size_t)j];
    for (int j = 1; j < 8; j++)
        sum[0] += sum[j];
    keep = sum[0][0] ^ sum[0][1];
    (void)keep;
    return (double)bytes;
}

static void *measure(void *arg)
{
    struct part *p = arg;
    const double begin = now();
    int64_t rounds = 20000;
    size_t at = 0;
    p->amount = 0;
    do {
        if (p->kind == CEILING_FMA) {
            p->amount += fma_loop(p->isa, rounds);
        } else if (p->kind == CEILING_DRAM) {
            const size_t piece = p->bytes - at < ((size_t)8 << 20) ? p->bytes - at : (size_t)8 << 20;
            p->amount += read_once(p->memory + at, piece);
            at = at + piece < p->bytes ? at + piece : 0;
        } else {
            memcpy(p->memory + p->bytes / 2, p->memory, p->bytes / 2);
            __asm__ volatile("" ::"r"(p->memory) : "memory");
            p->amount += (double)(p->bytes / 2);
        }
        p->seconds = now() - begin;
    } while (p->seconds < p->least || (p->kind == CEILING_DRAM && p->amount < (double)p->bytes));
    return NULL;
}

const char *ceiling_name(enum ceiling kind)
{
    return kind == CEILING_FMA ? "fma" : kind == CEILING_DRAM ? "dram" : "memcpy";
}

double ceiling_rate(enum ceiling kind, const char *isa, int threads, const struct ceiling_buffer *buffer, double call_seconds)
{
    struct part parts[THREADS_MOST];
    pthread_t ids[THREADS_MOST];
    bool started[THREADS_MOST] = { false };
    double rate = 0, least = CEILING_PART * call_seconds;
    least = least < CEILING_SECONDS ? CEILING_SECONDS : least > CEILING_MOST ? CEILING_MOST : least;
    if (threads < 1)
        threads = 1;
    if (threads > THREADS_MOST)
        threads = THREADS_MOST;
    for (int i = 0; i < threads; i++) {
        const size_t share = buffer ? buffer->bytes / (size_t)threads / 128 * 128 : 0;
        parts[i] = (struct part){ kind, isa, buffer ? buffer->memory + (size_t)i * share : NULL, share, least, 0, 0 };
        started[i] = i > 0 && pthread_create(&ids[i], NULL, measure, &parts[i]) == 0;
    }
    measure(&parts[0]);
    for (int i = 0; i < threads; i++) {
        if (started[i])
            pthread_join(ids[i], NULL);
        if (i == 0 || started[i])
            rate += parts[i].amount / parts[i].seconds;
    }
    return rate;
}

static int ascending(const void *a, const void *b)
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
