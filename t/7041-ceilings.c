/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The ceilings of `rondo bench` against a second way to measure: plain loops of this file, over huge pages and over registers. The
 * loops of the program (cli/stream.c, cli/fma.c) and these run in turns of less than a millisecond, and the median of the ratios
 * counts: other programs meet both alike. Then what the program states as a whole, in turns with the plain loop; there the best
 * moment of each side counts. On a busy machine more turns are taken, up to a limit; a ceiling that is too low stays so.
 */
#define _GNU_SOURCE   /* madvise */
#include <stdint.h>
#include <sys/mman.h>
#include <time.h>

#include "cli/bench.h"
#include "program.h"

#define MEMORY ((size_t)512 << 20)
#define HUGE_PAGE ((size_t)2 << 20)
#define PIECE ((size_t)8 << 20)
#if defined(__x86_64__) || defined(__i386__)
#define X86 1
#endif
/* The registers of 32-bit programs hold six chains, which do not hide the whole latency. */
#ifdef __i386__
#define CHAINS 6
#define MOST_OF_IT 1.50
#else
#define CHAINS 12
#define MOST_OF_IT 1.10
#endif
#define HIGHEST 3.0     /* more would be read from a cache, or bytes counted that were not read */

static char *memory;

double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- the second way: reading ---- */

typedef uint64_t narrow __attribute__((vector_size(16), may_alias));
typedef uint64_t wide __attribute__((vector_size(64), may_alias));

#define READING(vector)                                                                   \
    const vector *v = (const vector *)(const void *)from;                                 \
    vector a = { 0 }, b = { 0 }, c = { 0 }, d = { 0 };                                    \
    for (size_t i = 0; i < bytes / sizeof *v; i += 4) {                                   \
        a |= v[i];                                                                        \
        b |= v[i + 1];                                                                    \
        c |= v[i + 2];                                                                    \
        d |= v[i + 3];                                                                    \
    }                                                                                     \
    a |= b | c | d;                                                                       \
    volatile uint64_t keep = a[0] | a[sizeof(vector) / 8 - 1];                            \
    (void)keep

static void read_narrow(const char *from, size_t bytes)
{
    READING(narrow);
}

#ifdef X86
#include <immintrin.h>

__attribute__((target("avx512f"))) static void read_wide(const char *from, size_t bytes)
{
    READING(wide);
}
#endif

static double read_plainly(const char *from, size_t bytes)
{
#ifdef X86
    if (__builtin_cpu_supports("avx512f")) {
        read_wide(from, bytes);
        return (double)bytes;
    }
#endif
    read_narrow(from, bytes);
    return (double)bytes;
}

/* ---- the second way: updating ---- */

static double update_plainly(char *at, size_t bytes)
{
    narrow *v = (narrow *)(void *)at;
    for (size_t i = 0; i < bytes / sizeof *v; i++)
        v[i] += 1;
    __asm__ volatile("" ::"r"(at) : "memory");
    return (double)bytes;
}

/* ---- the second way: multiplying ---- */

#ifdef X86
#define MULTIPLYING(vector, set, fma, store)                                                                      \
    const volatile float from[2] = { 1.0f, 1e-9f };                                                               \
    const vector x = set(from[0]), y = set(from[1]);                                                              \
    vector a[CHAINS];                                                                                             \
    float all[16] = { 0 };                                                                                        \
    for (int j = 0; j < CHAINS; j++)                                                                              \
        a[j] = y;                                                                                                 \
    for (int64_t i = 0; i < rounds; i++) {                                                                        \
        a[0] = fma(x, y, a[0]), a[1] = fma(x, y, a[1]), a[2] = fma(x, y, a[2]), a[3] = fma(x, y, a[3]);           \
        a[4] = fma(x, y, a[4]), a[5] = fma(x, y, a[5]);                                                           \
        if (CHAINS == 12) {                                                                                       \
            a[CHAINS - 6] = fma(x, y, a[CHAINS - 6]), a[CHAINS - 5] = fma(x, y, a[CHAINS - 5]);                   \
            a[CHAINS - 4] = fma(x, y, a[CHAINS - 4]), a[CHAINS - 3] = fma(x, y, a[CHAINS - 3]);                   \
            a[CHAINS - 2] = fma(x, y, a[CHAINS - 2]), a[CHAINS - 1] = fma(x, y, a[CHAINS - 1]);                   \
        }                                                                                                         \
    }                                                                                                             \
    for (int j = 1; j < CHAINS; j++)                                                                              \
        a[0] = fma(x, a[0], a[j]);                                                                                \
    store(all, a[0]);                                                                                             \
    volatile float keep = all[0];                                                                                 \
    (void)keep;                                                                                                   \
    return 2.0 * CHAINS * (double)rounds * (double)(sizeof(vector) / sizeof(float))

__attribute__((target("avx512f"))) static double multiply_avx512(int64_t rounds)
{
    MULTIPLYING(__m512, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_storeu_ps);
}

__attribute__((target("avx2,fma"))) static double multiply_avx2(int64_t rounds)
{
    MULTIPLYING(__m256, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_storeu_ps);
}
#endif

static double multiply_plainly(const char *isa, int64_t rounds)
{
#ifdef X86
    if (!strcmp(isa, "avx512"))
        return multiply_avx512(rounds);
    if (!strcmp(isa, "avx2"))
        return multiply_avx2(rounds);
#endif
    (void)isa;
    (void)rounds;
    return 0;
}

/* ---- loop against loop ---- */

#define PAIRS 200       /* of turns, before the median is judged */
#define PAIRS_MOST 3200

static int by_ratio(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static const char updating[] = "updating";

static double turn(const char *isa, int which, size_t at)
{
    const double begin = now();
    const double amount = isa == updating ? (which ? update_plainly(memory + at, PIECE) : update_loop(memory + at, PIECE))
                          : isa       ? (which ? multiply_plainly(isa, 20000) : fma_loop(isa, 20000))
                                      : (which ? read_plainly(memory + at, PIECE) : read_loop(memory + at, PIECE));
    return amount / (now() - begin);
}

/* isa NULL: reading; or updating. */
static void loops(const char *what, const char *isa, double lowest, double highest)
{
    static double ratio[PAIRS_MOST], sorted[PAIRS_MOST];
    double middle = 0, best[2] = { 0, 0 };
    int pairs = 0;
    size_t at = 0;
    while (pairs < PAIRS || (pairs < PAIRS_MOST && !(middle >= lowest && middle <= highest))) {
        for (const int end = pairs + PAIRS; pairs < end; pairs++) {
            double rate[2];
            for (int i = 0; i < 2; i++) {
                const int which = (i + pairs) % 2;
                rate[which] = turn(isa, which, at);
                best[which] = rate[which] > best[which] ? rate[which] : best[which];
                at = at + 2 * PIECE > MEMORY ? 0 : at + PIECE;
            }
            ratio[pairs] = rate[0] / rate[1];
        }
        memcpy(sorted, ratio, (size_t)pairs * sizeof *sorted);
        qsort(sorted, (size_t)pairs, sizeof *sorted, by_ratio);
        middle = sorted[pairs / 2];
    }
    ok(middle >= lowest && middle <= highest, "%s: the program's loop is between %.2f and %.2f of a plain one", what, lowest, highest);
    diag("%s: median ratio %.3f of %d pairs; best: %.1f against %.1f", what, middle, pairs, best[0] * 1e-9, best[1] * 1e-9);
}

/* ---- what the program states ---- */

#define TURNS 4
#define TURNS_MOST 40
#define LOWEST 0.80

/* The ceiling of memory that the program states, by one thread; 0 where it states none. */
static double stated(const char *before, const char *arguments)
{
    rondo(before, "bench %s --threads 1 --repeat 1 --json", arguments);
    json_t *r = program_json(), *row = json_array_get(json_object_get(r, "rows"), 0);
    const char *name = json_string_value(json_object_get(row, "ceiling"));
    const double rate = name && !strcmp(name, "dram") ? json_number_value(json_object_get(row, "ceiling_rate")) : 0;
    json_decref(r);
    return rate * 1e9;
}

static void program_holds(const char *before, const char *arguments)
{
    double bench = 0, plain = 0;
    int turns = 0;
    while (turns < TURNS || (turns < TURNS_MOST && !(bench >= LOWEST * plain && bench <= HIGHEST * plain))) {
        const double a = stated(before, arguments);
        bench = a > bench ? a : bench;
        for (int i = 0; i < 2; i++) {   /* before and after, as the program does */
            const double begin = now(), b = read_plainly(memory, MEMORY) / (now() - begin);
            plain = b > plain ? b : plain;
        }
        turns++;
    }
    ok(bench >= LOWEST * plain && bench <= HIGHEST * plain, "%s bench %s: dram is between %.2f and %.2f of what a plain loop reads", before,
       arguments, LOWEST, HIGHEST);
    diag("stated %.1f GB/s, plain loop %.1f, ratio %.2f after %d turns", bench * 1e-9, plain * 1e-9, bench / plain, turns);
}

int main(void)
{
    void *block = NULL;
    if (!getenv("RONDO") || !*getenv("RONDO"))
        return skip_all("the program was not built");
    if (posix_memalign(&block, HUGE_PAGE, MEMORY))
        return skip_all("no memory");
    scratch_make("7041");
    memory = block;
#ifdef MADV_HUGEPAGE
    (void)madvise(memory, MEMORY, MADV_HUGEPAGE);
#endif
    memset(memory, 1, MEMORY);
    loops("reading", NULL, 0.90, HIGHEST);
    loops("updating", updating, 0.90, HIGHEST);
    static const char *const isas[] = { "avx2", "avx512" };
    for (int i = 0; i < 2; i++) {
        int usable = 0;
        const char *name;
        for (int j = 0; (name = rondo_isa_name(j, &usable)) != NULL && strcmp(name, isas[i]) != 0;)
            j++;
        if (name && usable)
            loops(isas[i], isas[i], 0.90, MOST_OF_IT);
        else
            skip(1, "%s cannot run here", isas[i]);
    }
    program_holds("", "attention --decode --cached 64 --heads 1 --kv-heads 1 --head-dim 8");
    program_holds("RONDO_ISA=scalar", "linear --rows 16 --in 64 --out 64");
    free(memory);
    scratch_remove();
    return done();
}
