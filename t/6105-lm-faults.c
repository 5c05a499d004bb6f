/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Every allocation of a language model's life fails once: opening a folder, a score shown row by row, a batch of prompts, on one
 * rank, on two, and on tensor-parallel ones. Each time a code comes back, every rank returns, and all memory goes back. A few can be done
 * without (an arena that would like to be larger): then the bits are those without a failure.
 */
#include <stdlib.h>

#include "lm_kit.h"
#include "t/memory.h"

static int32_t tokens[64];
static uint64_t result;   /* of the run, by rank 0 */

static int show(void *user, int64_t row, const float *logits)
{
    (void)user;
    (void)row;
    (void)logits;
    return 0;
}

static int body(rondo_context *ctx, void *arg)
{
    rondo_lm *lm = NULL;
    rondo_lm_desc d = RONDO_LM_DESC_INIT;
    rondo_sampling s = RONDO_SAMPLING_INIT;
    rondo_score score = RONDO_SCORE_INIT;
    rondo_lm_event events[12];
    int64_t live = 1, ids[10];
    d.chunk = 20;
    d.leaf = 8;
    s.max_tokens = 4;
    s.ignore_eos = 1;
    s.temperature = 1.0;
    int err = rondo_lm_create(&lm, ctx, kit_model_of(NULL, arg, ctx), &d);
    if (!err)
        err = rondo_lm_score(lm, tokens, 50, show, NULL, &score);
    for (int i = 0; i < 10 && !err; i++)
        err = rondo_lm_submit(lm, tokens, 1 + 3 * i, &s, &ids[i]);
    while (!err && live > 0) {
        int64_t n = rondo_lm_step(lm, events, 12, &live);
        err = n < 0 ? (int)n : 0;
    }
    uint64_t all = score.hash;
    for (int i = 0; i < 10 && !err; i++) {
        rondo_lm_status status = RONDO_LM_STATUS_INIT;
        err = rondo_lm_query(lm, ids[i], &status);
        all = all * 0x9e3779b97f4a7c15u + status.hash;
    }
    if (rondo_context_rank(ctx) == 0)
        result = all;
    rondo_lm_destroy(lm);
    return err;
}

struct grid {
    int tp, cp, spread;
};

/* Opens, runs, closes; which part failed goes to *where. */
static int all(const struct grid *grid, const char **where)
{
    struct kit_parts parts;
    *where = "opening";
    int err = kit_open_parts(&parts, scratch_dir, grid->tp, grid->cp, grid->spread, NULL);
    if (!err) {
        *where = "running";
        err = rondo_run_threads(grid->tp * grid->cp, body, &parts);
    }
    kit_close_parts(&parts);
    return err;
}

int main(void)
{
    scratch_make("lm-faults");
    memory_hooks();
    setenv("RONDO_DEADLINE", "60", 1);
    struct kit_config c = kit_defaults("llama");
    struct kit_model *m = kit_folder(&c, 12);
    kit_tokens(tokens, 64, c.vocabulary, 3);
    static const struct grid grids[] = { { 1, 1, 0 }, { 1, 2, 0 }, { 2, 1, 0 }, { 1, 2, 1 }, { 2, 2, 0 } };
    for (size_t i = 0; i < (long_tests() ? 5 : 4); i++) {
        char name[64];
        snprintf(name, sizeof name, "tp %d x cp %d%s", grids[i].tp, grids[i].cp, grids[i].spread ? " spread" : "");
        const char *where = "";
        if (!i && other_device())   /* what a process does once, as looking at a card's bits, is counted nowhere */
            is_int(all(&grids[i], &where), 0, "%s: the first time", name);
        atomic_store(&memory_asked[0], 0);
        is_int(all(&grids[i], &where), 0, "%s: without a failure", name);
        const uint64_t right = result;
        const long total = atomic_load(&memory_asked[0]);
        is_int(atomic_load(&memory_live), 0, "%s: nothing left", name);
        /* Every one of the first part; of the rest, which repeats itself, a sample. */
        const long step = long_tests() ? 1 : total / 100 + 1;
        long wrong = 0, leaks = 0, tried = 0, survived = 0;
        for (long n = 1; n <= total; n += n < 120 ? 1 : step) {
            atomic_store(&memory_until_failure, n - 1);
            int err = all(&grids[i], &where);
            /* Not every run takes the same way: threads race for their own queues, so the n-th call may never come. */
            atomic_store(&memory_until_failure, -1);
            if (err == 0 && result == right) {
                survived++;
            } else if (err != RONDO_ENOMEM) {
                diag("allocation %ld of %ld (%s): %s, %s", n, total, where, err ? rondo_error_name(err) : "other bits", err ? rondo_error_text() : "");
                wrong++;
            }
            if (atomic_load(&memory_live) != 0) {
                diag("allocation %ld of %ld (%s): %ld blocks left", n, total, where, atomic_load(&memory_live));
                leaks++;
                atomic_store(&memory_live, 0);
            }
            tried++;
        }
        ok(wrong == 0 && tried > 100 && survived < tried / 10, "%s: each of %ld failures of %ld allocations gives RONDO_ENOMEM, or changes nothing", name, tried, total);
        is_int(leaks, 0, "%s: nothing is lost", name);
    }
    kit_free(m);
    scratch_remove();
    return done();
}
