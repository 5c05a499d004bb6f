/* SPDX-License-Identifier: BSD-2-Clause
 *
 * The grid of `rondo verify`: a handful of problems that between them have every kind of edge, each run in every combination of
 * ranks, layout and algorithm, and in every combination of instruction set and threads.
 */
#include "cli/verify.h"

#include <string.h>

static void base_problem(struct problem *p, const char *name, int64_t heads, int64_t kv_heads, int64_t head_dim, int type)
{
    memset(p, 0, sizeof *p);
    snprintf(p->name, sizeof p->name, "%s, %lld/%lld heads of %lld, %s", name, (long long)heads, (long long)kv_heads, (long long)head_dim,
             rondo_type_name(type));
    p->sequences = 1;
    p->heads = heads;
    p->kv_heads = kv_heads;
    p->head_dim = head_dim;
    p->type = type;
    p->causal = true;
    p->seed = 1234567;
}

/* The problems by number; false past the last. Later ones are for more patience. */
static bool problem_at(int index, enum effort effort, struct problem *p)
{
    static const int64_t mixed_tokens[] = { 0, 1, 130, 257 }, mixed_cached[] = { 5, 0, 0, 64 };
    static const int64_t turns[] = { 200, 1, 1, 60, 130, 1, 1, 1 };
    switch (index) {
    case 0:
        base_problem(p, "causal prefill of 300", 6, 2, 64, RONDO_F32);
        p->tokens[0] = 300;
        return true;
    case 1:
        base_problem(p, "70 new over 333 cached, window 100, value size 24", 4, 4, 40, RONDO_BF16);
        p->tokens[0] = 70;
        p->cached[0] = 333;
        p->value_dim = 24;
        p->window = (struct window){ 100, 0, true };
        return true;
    case 2:
        base_problem(p, "decode of 3 sequences over 517, 0 and 129", 8, 1, 32, RONDO_F16);
        p->sequences = 3;
        p->tokens[0] = p->tokens[1] = p->tokens[2] = 1;
        p->cached[0] = 517;
        p->cached[2] = 129;
        return true;
    case 3:
        base_problem(p, "50 queries on 33 keys, not causal, window 20,9", 3, 3, 17, RONDO_F32);
        p->tokens[0] = 50;
        p->cached[0] = -17;
        p->causal = false;
        p->window = (struct window){ 20, 9, true };
        return true;
    case 4:
        base_problem(p, "4 sequences of 0, 1, 130 and 257", 4, 2, 128, RONDO_F32);
        p->sequences = 4;
        memcpy(p->tokens, mixed_tokens, sizeof mixed_tokens);
        memcpy(p->cached, mixed_cached, sizeof mixed_cached);
        return true;
    case 5:
        base_problem(p, "8 turns with kept KV, 395 tokens in all", 4, 1, 64, RONDO_F32);
        memcpy(p->turn, turns, sizeof turns);
        p->turns = sizeof turns / sizeof *turns;
        return true;
    case 6:
        if (effort < EFFORT_USUAL)
            return false;
        base_problem(p, "causal prefill of 1111, leaves of 64", 4, 2, 96, RONDO_BF16);
        p->tokens[0] = 1111;
        p->leaf = 64;
        return true;
    case 7:
        base_problem(p, "not causal, 257 on 640", 2, 1, 256, RONDO_F16);
        p->tokens[0] = 257;
        p->cached[0] = 383;
        p->causal = false;
        return true;
    case 8:
        if (effort < EFFORT_FULL)
            return false;
        base_problem(p, "causal prefill of 3000", 8, 2, 128, RONDO_F32);
        p->tokens[0] = 3000;
        return true;
    case 9:
        base_problem(p, "causal prefill of 2000, window 300, leaves of 256", 6, 3, 80, RONDO_BF16);
        p->tokens[0] = 2000;
        p->leaf = 256;
        p->window = (struct window){ 300, -1, true };
        return true;
    default:
        return false;
    }
}

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

static int runs_of(const struct verify *v)
{
    const int layouts = common.layout ? 1 : 4, algorithms = common.algorithm ? 1 : 2, threads = common.threads ? 1 : 2;
    return 1 + (int)v->ranks.count * layouts * algorithms + 2 * v->isa_count * threads;
}

int verify_custom(struct verify *v, struct problem *p)
{
    struct result base;
    struct tally t = { 1, 0, 0 };
    bool pass;
    int code = ranks_together(problem_make(p, ranks_first()));
    const int threads = common.threads ? (int)common.threads : 1;
    const struct setting one = { 1, RONDO_CONTIGUOUS, RONDO_PASS_KV, threads, 0, v->isas[0] };
    memset(&base, 0, sizeof base);
    if (!v->total) {
        v->total = v->done + (uint64_t)runs_of(v);
        progress_begin("verify");
    }
    if (!code)
        code = verify_case(v, p, &one, NULL, &base, &pass);
    t.passed += !code && pass;
    t.worst = base.worst;
    for (int64_t n = 0; n < v->ranks.count && !code; n++)
        for (int layout = RONDO_CONTIGUOUS; layout <= RONDO_SNAKE && !code; layout++)
            for (int algorithm = RONDO_PASS_KV; algorithm <= RONDO_PASS_Q && !code; algorithm++) {
                const struct setting s = { (int)v->ranks.at[n], layout, algorithm, threads, 0, NULL };
                if ((!common.layout || common.layout == layout) && (!common.algorithm || common.algorithm == algorithm))
                    code = one_more(v, p, &s, &base, &t);
            }
    /* instruction sets and threads, on one rank and on several */
    for (int i = 0; i < v->isa_count && !code; i++)
        for (int k = 1; k <= 2 && !code; k++)
            for (int several = 0; several < 2 && !code; several++) {
                const int64_t ranks = several ? v->ranks.at[v->ranks.count / 2] : 1;
                const struct setting s = { (int)ranks, common.layout ? common.layout : RONDO_SNAKE,
                                           common.algorithm ? common.algorithm : several ? RONDO_PASS_Q : RONDO_PASS_KV,
                                           common.threads ? (int)common.threads : k, 0, v->isas[i] };
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

int verify_grid(struct verify *v)
{
    struct problem p;
    int count = 0, code = 0;
    char ranks[256] = "", isas[128] = "";
    for (; problem_at(count, v->effort, &p); count++)
        ;
    v->total = v->done + (uint64_t)(count * runs_of(v));
    for (int64_t i = 0; i < v->ranks.count; i++) {
        const size_t n = strlen(ranks);
        snprintf(ranks + n, sizeof ranks - n, "%s%lld", n ? "," : "", (long long)v->ranks.at[i]);
    }
    for (int i = 0; i < v->isa_count; i++) {
        const size_t n = strlen(isas);
        snprintf(isas + n, sizeof isas - n, "%s%s", n ? ", " : "", v->isas[i]);
    }
    say("\n--- The grid: %s ranks (%s), 4 layouts, 2 algorithms; %s; 1 and 2 threads ---", ranks, common.mpi ? "mpi" : "threads", isas);
    progress_begin("verify");
    for (int i = 0; i < count && !code; i++) {
        problem_at(i, v->effort, &p);
        code = verify_custom(v, &p);
    }
    progress_end();
    return code;
}
