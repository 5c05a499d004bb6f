/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Ceilings: what this machine could do at best at this very moment. Clock and neighbours change within seconds, so a ceiling is
 * taken right before and right after each sample, by as many threads; the better of the two counts (bench_measure.c), and only the
 * ratio to it is worth telling. Memory to be read is more than the caches hold, in huge pages where the system gives them.
 */
#define _DEFAULT_SOURCE   /* madvise */
#include "cli/bench.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SECONDS_LEAST 0.01   /* a long call gets a longer one, so that other programs' turns meet both alike */
#define SECONDS_PART 0.04
#define SECONDS_MOST 0.1
#define PAGE ((size_t)4096)
#define HUGE_PAGE ((size_t)2 << 20)
#define PIECE ((size_t)8 << 20)            /* read or copied between two looks at the clock */
#define DRAM_LEAST ((double)(512 << 20))   /* of all ranks */
#define DRAM_OF_THREAD ((double)(16 << 20))
#define COPY_MOST ((int64_t)64 << 20)      /* of all ranks, there and back */

struct part {                              /* of one thread */
    struct ceiling *of;
    char *memory;
    double amount, seconds;
    pthread_t id;
    bool started;
};
struct ceiling {
    enum ceiling_kind kind;
    const char *isa;
    int threads;
    struct part *parts;
    char *memory;
    size_t share;                          /* bytes of each part */
    double least;                          /* seconds that it goes on for */
    double crowd;                          /* of FMA: cores for each thread of this process's ranks, where that is below 1; else 0 */
};

const char *ceiling_name(enum ceiling_kind kind)
{
    return kind == CEILING_FMA ? "fma" : kind == CEILING_DRAM ? "dram" : kind == CEILING_UPDATE ? "update" : "memcpy";
}

void *large_room(size_t bytes)
{
    void *memory = NULL;
    if (posix_memalign(&memory, HUGE_PAGE, bytes))
        return NULL;
#ifdef MADV_HUGEPAGE
    (void)madvise(memory, bytes, MADV_HUGEPAGE);   /* advice: without it pages are small */
#endif
    return memory;
}

/* By the caller and threads of their own. */
static void in_parts(struct ceiling *c, void *(*body)(void *))
{
    for (int i = 1; i < c->threads; i++)
        c->parts[i].started = pthread_create(&c->parts[i].id, NULL, body, &c->parts[i]) == 0;
    body(&c->parts[0]);
    for (int i = 1; i < c->threads; i++)
        if (c->parts[i].started)
            pthread_join(c->parts[i].id, NULL);
}

/* The thread that is to read a part writes it first, so that its pages lie near to it. */
static void *touch(void *arg)
{
    struct part *p = arg;
    memset(p->memory, 1, p->of->share);
    return NULL;
}

static void *measure(void *arg)
{
    struct part *p = arg;
    const struct ceiling *c = p->of;
    const double begin = now(), cpu = thread_cpu();
    const size_t half = c->share / 2;
    size_t at = 0;
    p->amount = 0;
    do {
        if (c->kind == CEILING_FMA) {
            p->amount += fma_loop(c->isa, 20000);
        } else if (c->kind == CEILING_DRAM || c->kind == CEILING_UPDATE) {
            const size_t piece = c->share - at < PIECE ? c->share - at : PIECE;
            p->amount += c->kind == CEILING_DRAM ? read_loop(p->memory + at, piece) : update_loop(p->memory + at, piece);
            at = at + piece < c->share ? at + piece : 0;
        } else if (c->kind == CEILING_MEMORY) {
            const size_t piece = half - at < PIECE ? half - at : PIECE;
            memcpy(p->memory + half + at, p->memory + at, piece);
            __asm__ volatile("" ::"r"(p->memory) : "memory");
            p->amount += (double)piece;
            at = at + piece < half ? at + piece : 0;
        } else {
            for (size_t done = 0; done < PIECE; done += half) {
                memcpy(p->memory + half, p->memory, half);
                __asm__ volatile("" ::"r"(p->memory) : "memory");
                p->amount += (double)half;
            }
        }
        p->seconds = now() - begin;
    } while (p->seconds < c->least || ((c->kind == CEILING_DRAM || c->kind == CEILING_UPDATE) && p->amount < (double)c->share) ||
             (c->kind == CEILING_MEMORY && p->amount < (double)half));
    if (c->crowd > 0.0)   /* it may have had a core alone all the time, while others waited for theirs */
        p->seconds = (thread_cpu() - cpu) / c->crowd;
    return NULL;
}

double ceiling_rate(struct ceiling *c, double call_seconds)
{
    double rate = 0, least = SECONDS_PART * call_seconds;
    c->least = least < SECONDS_LEAST ? SECONDS_LEAST : least > SECONDS_MOST ? SECONDS_MOST : least;
    in_parts(c, measure);
    for (int i = 0; i < c->threads; i++)
        if (i == 0 || c->parts[i].started)
            rate += c->parts[i].amount / c->parts[i].seconds;
    return rate;
}

/* Of a thread: all of them together more than the last cache holds, but no more than a quarter of the machine's memory. */
static double dram_share(int ranks, int threads)
{
    const double parts = (double)ranks * (double)threads;
    const double most = 0.25 * (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    double bytes = DRAM_LEAST;
#ifdef _SC_LEVEL3_CACHE_SIZE
    const double cache = 2.0 * (double)sysconf(_SC_LEVEL3_CACHE_SIZE);
    bytes = cache > bytes ? cache : bytes;
#endif
    bytes = DRAM_OF_THREAD * parts > bytes ? DRAM_OF_THREAD * parts : bytes;
    return (bytes > most && most > 0 ? most : bytes) / parts;
}

/* Of a thread: a message and its copy. */
static double copy_share(int64_t message, int ranks, int threads)
{
    const int64_t most = COPY_MOST / ranks / threads;
    return 2.0 * (double)(message < most ? message : most);
}

struct ceiling *ceiling_open(enum ceiling_kind kind, const char *isa, int ranks, int threads, int64_t message)
{
    struct ceiling *c = room(1, sizeof *c);
    if (!c)
        return NULL;
    *c = (struct ceiling){ .kind = kind, .isa = isa, .threads = threads < 1 ? 1 : threads };
    c->parts = room(c->threads, sizeof *c->parts);
    if (kind == CEILING_FMA && !common.mpi && (long)ranks * c->threads > sysconf(_SC_NPROCESSORS_ONLN))
        c->crowd = (double)sysconf(_SC_NPROCESSORS_ONLN) / ((double)ranks * c->threads);
    if (kind != CEILING_FMA) {
        const double share = kind == CEILING_DRAM || kind == CEILING_MEMORY || kind == CEILING_UPDATE ? dram_share(ranks, c->threads) : copy_share(message, ranks, c->threads);
        c->share = ((size_t)share / PAGE + 1) * PAGE;
        c->memory = large_room(c->share * (size_t)c->threads);
    }
    if (!c->parts || (kind != CEILING_FMA && !c->memory)) {
        ceiling_close(c);
        return NULL;
    }
    for (int i = 0; i < c->threads; i++)
        c->parts[i] = (struct part){ .of = c, .memory = c->memory ? c->memory + (size_t)i * c->share : NULL };
    if (c->memory)
        in_parts(c, touch);
    return c;
}

void ceiling_close(struct ceiling *c)
{
    if (!c)
        return;
    free(c->memory);
    free(c->parts);
    free(c);
}
