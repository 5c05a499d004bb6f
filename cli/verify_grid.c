/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The grid of `rondo verify`: each problem (verify_cases.c) on one rank, and then in combinations of ranks, layouts, algorithms and grids of
 * ranks, and of instruction sets and threads. Of some thousand combinations each problem gets a number that takes from all dimensions
 * evenly, and another part than the problem before it; with the most patience some problems together meet every one.
 */
#include "cli/verify.h"

#include <string.h>

struct tally {
    int64_t runs, passed;
    double worst;
};

static int one_more(struct verify *v, const struct problem *p, const struct setting *s, const struct result *base, struct tally *t)
{
    struct result r;
    bool pass;
    const int code = verify_case(v, p, s, base, &r, &pass);
    t->runs++;
    t->passed += pass;
    if (r.measured && r.worst > t->worst)
        t->worst = r.worst;
    result_free(&r);
    return code;
}

/* ---- the combinations ---- */

/* Algorithms of n ranks, each grid of those that have one among them; false past the last. 0,0: the plan's own grid. */
static bool way_at(int index, int ranks, int *algorithm, int32_t grid[2])
{
    enum { PLAIN = 6 };
    static const int plain[PLAIN] = { RONDO_PASS_KV, RONDO_PASS_Q, RONDO_ALL_GATHER, RONDO_REDUCE, RONDO_HALO, RONDO_ALGORITHM_AUTO };
    static const int gridded[] = { RONDO_ALL_TO_ALL, RONDO_MESH };
    grid[0] = grid[1] = 0;
    if (index < PLAIN) {
        *algorithm = plain[index];
        return true;
    }
    index -= PLAIN;
    *algorithm = gridded[index % 2];
    index /= 2;
    for (int a = 0; a <= ranks; a++)
        if ((a == 0 || ranks % a == 0) && index-- == 0) {
            grid[0] = a;
            grid[1] = a ? ranks / a : 0;
            return true;
        }
    return false;
}

static const int layouts[] = { RONDO_CONTIGUOUS, RONDO_ZIGZAG, RONDO_STRIPED, RONDO_SNAKE, RONDO_DOCUMENT, RONDO_CUSTOM, RONDO_LAYOUT_DEFAULT };
#define LAYOUTS ((int)(sizeof layouts / sizeof *layouts))

/* Combination number `index` that the options allow; returns how many there are where it is beyond them, else -1. */
static int64_t setting_at(const struct verify *v, int64_t index, struct setting *s)
{
    int64_t n = 0;
    for (int64_t r = 0; r < v->ranks.count; r++)
        for (int l = 0; l < LAYOUTS; l++)
            for (int w = 0; way_at(w, (int)v->ranks.at[r], &s->algorithm, s->grid); w++) {
                s->ranks = (int)v->ranks.at[r];
                s->layout = layouts[l];
                const bool wanted = (!common.layout || common.layout == s->layout) && (!common.algorithm || common.algorithm == s->algorithm) &&
                                    (!common.grid[0] || (common.grid[0] == s->grid[0] && common.grid[1] == s->grid[1]));
                if (wanted && n++ == index)
                    return -1;
            }
    return n;
}

static int64_t greatest_divisor(int64_t a, int64_t b)
{
    return b ? greatest_divisor(b, a % b) : a;
}

/* So many combinations are taken of so many, by steps that visit all before any comes again; a problem goes on where the one before
 * it ended, so that together they meet every combination as soon as they can. */
static void choose_steps(const struct verify *v, bool all, int64_t *total, int64_t *taken, int64_t *step)
{
    struct setting s;
    const int64_t wanted = v->effort == EFFORT_QUICK ? 10 : v->effort == EFFORT_USUAL ? 36 : all ? 120 : 24;
    *total = setting_at(v, INT64_MAX, &s);
    *taken = *total < wanted ? *total : wanted;
    *step = (int64_t)((double)*total * 0.6180339887);
    while (*total && greatest_divisor(*step, *total) != 1)
        ++*step;
}

static int64_t runs_of(const struct verify *v, bool all)
{
    int64_t total, taken, step;
    choose_steps(v, all, &total, &taken, &step);
    return 1 + taken + 2 * v->isa_count * (common.threads ? 1 : 2);
}

static int compare_all(struct verify *v, struct problem *p, bool all)
{
    struct result base;
    struct tally t = { 1, 0, 0 };
    bool pass;
    int code = ranks_together(problem_make(p, ranks_first()));
    const int threads = common.threads ? (int)common.threads : 1;
    const struct setting one = { .ranks = 1, .layout = RONDO_CONTIGUOUS, .algorithm = RONDO_PASS_KV, .threads = threads, .isa = v->isas[0] };
    int64_t total, taken, step;
    choose_steps(v, all, &total, &taken, &step);
    memset(&base, 0, sizeof base);
    if (!code)
        code = verify_case(v, p, &one, NULL, &base, &pass);
    t.passed += !code && pass;
    t.worst = base.worst;
    for (int64_t i = 0; i < taken && !code; i++, v->combinations++) {
        struct setting s = { .threads = threads };
        setting_at(v, v->combinations % total * step % total, &s);
        code = one_more(v, p, &s, &base, &t);
    }
    /* instruction sets and threads, on one rank and on several */
    for (int i = 0; i < v->isa_count && !code; i++)
        for (int k = 1; k <= 2 && !code; k++)
            for (int several = 0; several < 2 && !code; several++) {
                struct setting s = { .ranks = several ? (int)v->ranks.at[v->ranks.count / 2] : 1, .layout = common.layout ? common.layout : RONDO_SNAKE,
                                     .algorithm = common.algorithm ? common.algorithm : several ? RONDO_PASS_Q : RONDO_PASS_KV,
                                     .threads = common.threads ? (int)common.threads : k, .isa = v->isas[i] };
                if (!common.threads || k == 1)
                    code = one_more(v, p, &s, &base, &t);
            }
    if (!code) {
        verify_hash_line(p, base.hash);
        say("     %s %lld of %lld runs the same bits; error at most %.2f of the bound", pass_sign(t.passed == t.runs),
            (long long)t.passed, (long long)t.runs, t.worst);
    }
    result_free(&base);
    problem_free(p);
    return code;
}

int verify_custom(struct verify *v, struct problem *p)
{
    v->total = v->done + (uint64_t)runs_of(v, true);
    progress_begin("verify");
    return compare_all(v, p, true);
}

int verify_grid(struct verify *v)
{
    struct problem p;
    int count = 0, code = 0;
    char ranks[256] = "", isas[128] = "";
    bool listed;
    v->total = v->done;
    for (; verify_problem(count, v->effort, &p, &listed); count++)
        v->total += (uint64_t)runs_of(v, listed);
    for (int64_t i = 0; i < v->ranks.count; i++) {
        const size_t n = strlen(ranks);
        snprintf(ranks + n, sizeof ranks - n, "%s%lld", n ? "," : "", (long long)v->ranks.at[i]);
    }
    for (int i = 0; i < v->isa_count; i++) {
        const size_t n = strlen(isas);
        snprintf(isas + n, sizeof isas - n, "%s%s", n ? ", " : "", v->isas[i]);
    }
    say("\n--- The grid: %d problems; %s ranks (%s), 6 layouts, 7 algorithms; %s; 1 and 2 threads ---", count, ranks,
        common.nccl ? "nccl" : common.mpi ? "mpi" : "threads", isas);
    progress_begin("verify");
    for (int i = 0; i < count && !code; i++) {
        verify_problem(i, v->effort, &p, &listed);
        code = compare_all(v, &p, listed);
    }
    progress_end();
    return code;
}
