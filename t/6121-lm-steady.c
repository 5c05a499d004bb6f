/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A decode step takes no memory: once a batch runs, plans are updated in the memory that they have, exchanges are kept from call to call, and
 * what grows with a sequence (keys, text, tokens) grows ahead. Counted over many steps, on one rank, on several, and on tensor-parallel ones.
 */
#include <stdlib.h>

#include "lm_kit.h"
#include "t/memory.h"

#define STEPS 300
#define WARM 40

static int32_t tokens[200];

struct counted {
    const struct kit_parts *parts;
    long steps_that_took, taken;   /* of all ranks together */
};

static int body(rondo_context *ctx, void *arg)
{
    struct counted *c = arg;
    rondo_lm *lm = NULL;
    rondo_sampling s = RONDO_SAMPLING_INIT;
    rondo_lm_event events[3];
    int64_t live = 1;
    s.max_tokens = STEPS;
    s.ignore_eos = 1;
    int err = rondo_lm_create(&lm, ctx, kit_model_of(NULL, c->parts, ctx), NULL);
    for (int i = 0; i < 3 && !err; i++)
        err = rondo_lm_submit(lm, tokens, 30 + 60 * i, &s, NULL);
    for (int step = 0; !err && live > 0; step++) {
        if (!err)
            err = rondo_barrier(ctx);
        const long before = atomic_load(&memory_asked[0]);
        if (!err)
            err = rondo_barrier(ctx);
        int64_t n = err ? err : rondo_lm_step(lm, events, 3, &live);
        err = n < 0 ? (int)n : 0;
        if (!err && live > 0)
            err = rondo_barrier(ctx);
        if (step >= WARM && rondo_context_rank(ctx) == 0 && live > 0) {
            c->steps_that_took += atomic_load(&memory_asked[0]) != before;
            c->taken += atomic_load(&memory_asked[0]) - before;
        }
    }
    rondo_lm_destroy(lm);
    return err;
}

int main(void)
{
    static const int grids[][3] = { { 1, 1, 0 }, { 1, 3, 0 }, { 2, 1, 0 }, { 2, 2, 1 } };
    memory_hooks();
    scratch_make("lm-steady");
    struct kit_config c = kit_defaults("llama");
    struct kit_model *m = kit_folder(&c, 12);
    kit_tokens(tokens, 200, c.vocabulary, 3);
    for (size_t i = 0; i < sizeof grids / sizeof *grids; i++) {
        struct kit_parts parts;
        struct counted counted = { .parts = &parts };
        const int ranks = grids[i][0] * grids[i][1];
        int err = kit_open_parts(&parts, scratch_dir, grids[i][0], grids[i][1], grids[i][2], NULL);
        err = err ? err : rondo_run_threads(ranks, body, &counted);
        const char *hook = getenv("RONDO_TEST_HOOK");   /* it takes what it likes */
        /* Keys move to larger places now and then, each time for an eighth more: a few of the steps, on each rank at its own time. */
        ok(!err && (counted.steps_that_took <= 14 * ranks || (hook && *hook)), "tp %d x cp %d%s: of %d steps %ld took memory, %ld times", grids[i][0], grids[i][1],
           grids[i][2] ? " spread" : "", STEPS - WARM, counted.steps_that_took, counted.taken);
        kit_close_parts(&parts);
    }
    kit_free(m);
    scratch_remove();
    return done();
}
