/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A language model that runs for long: thousands of sequences, one after the other and several together. A step looks at those that run
 * only (its own counter says at how many), one that has ended holds little, and once released nothing: memory is counted by
 * the hooks.
 */
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#include "lm_kit.h"

static atomic_llong held;        /* bytes */

static void *take(void *user, size_t bytes, size_t align)
{
    (void)user;
    void *memory = aligned_alloc(align, bytes);
    if (memory)
        atomic_fetch_add(&held, (long long)bytes);
    return memory;
}

static void give(void *user, void *memory, size_t bytes)
{
    (void)user;
    if (memory)
        atomic_fetch_sub(&held, (long long)bytes);
    free(memory);
}

static int32_t tokens[6000];

struct life {
    const rondo_model *model;
    int64_t sequences, prompt, together;
    bool release;
    long long early, late, most;           /* bytes that are held after a tenth of them, after all; the most after an ended one */
    int64_t wrong;
    rondo_lm_counters counters;
};

/* Every sequence writes two tokens; of several together the next comes when one has ended. */
static int live_long(rondo_context *ctx, void *arg)
{
    struct life *life = arg;
    rondo_lm *lm = NULL;
    rondo_sampling sampling = RONDO_SAMPLING_INIT;
    rondo_lm_event events[64];
    int64_t submitted = 0, ended = 0, live = 0, wrong = 0;
    uint64_t hash[7] = { 0 };
    int err = rondo_lm_create(&lm, ctx, life->model, NULL);
    sampling.max_tokens = 2;
    sampling.ignore_eos = 1;
    for (int64_t step = 0; !err && ended < life->sequences; step++) {
        if (step > 3 * life->sequences) {   /* each takes two */
            err = 8;
            break;
        }
        while (!err && live < life->together && submitted < life->sequences) {
            int64_t id = -1;
            err = rondo_lm_submit(lm, tokens + submitted % 7, life->prompt, &sampling, &id);
            wrong += !err && id != submitted;
            submitted++;
            live++;
        }
        memset(events, 0xa5, sizeof events);
        const int64_t n = err ? err : rondo_lm_step(lm, events, 64, &live);
        err = n < 0 ? (int)n : 0;
        for (int64_t i = 0; i < n && !err; i++) {
            for (int k = 0; k < 2; k++)
                wrong += events[i].spare[k] != 0;   /* room for fields to come */
            if (events[i].finish == RONDO_RUNNING)
                continue;
            /* Seven prompts take turns: each time they write the same. */
            rondo_lm_status status = RONDO_LM_STATUS_INIT;
            err = rondo_lm_query(lm, events[i].id, &status);
            const int64_t kind = events[i].id % 7;
            wrong += status.new_tokens != 2 || status.prompt_tokens != life->prompt || (hash[kind] && hash[kind] != status.hash);
            hash[kind] = status.hash;
            if (life->release)
                err = err ? err : rondo_lm_release(lm, events[i].id);
            if (++ended == life->sequences / 10 && rondo_context_rank(ctx) == 0)
                life->early = atomic_load(&held);
        }
    }
    if (rondo_context_rank(ctx) == 0) {
        life->counters = (rondo_lm_counters)RONDO_LM_COUNTERS_INIT;
        err = err ? err : rondo_lm_count(lm, &life->counters);
        life->late = atomic_load(&held);
        life->wrong = wrong;
    }
    rondo_lm_destroy(lm);
    return err ? err : wrong ? 9 : 0;
}

static void lives(const rondo_model *model)
{
    struct life life = { .model = model, .sequences = 10000, .prompt = 3, .together = 1, .release = true };
    is_int(rondo_run_threads(1, live_long, &life), 0, "ten thousand sequences, one after the other, each released");
    is_int(life.counters.step_sequences, life.counters.steps, "... each of %lld steps looked at one sequence", (long long)life.counters.steps);
    diag("%lld bytes held after 1,000 sequences, %lld after 10,000", life.early, life.late);
    ok(life.late <= life.early, "... and memory does not grow");

    life.sequences = 2000;
    life.together = 20;
    is_int(rondo_run_threads(1, live_long, &life), 0, "two thousand, twenty together");
    ok(life.counters.step_sequences <= 20 * life.counters.steps && life.counters.step_sequences > 10 * life.counters.steps,
       "... steps looked at those that ran: %lld in %lld steps", (long long)life.counters.step_sequences, (long long)life.counters.steps);
    ok(life.late <= life.early + 4096, "... and memory does not grow (%lld to %lld bytes)", life.early, life.late);

    life.sequences = 60;
    life.together = 3;
    for (int ranks = 2; ranks <= 3; ranks++)
        is_int(rondo_run_threads(ranks, live_long, &life), 0, "sixty on %d ranks, released by each", ranks);

    /* Not released: new tokens, text and hash are kept, and not what made them, least of all a long prompt. */
    life = (struct life){ .model = model, .sequences = 60, .prompt = 2000, .together = 1 };
    is_int(rondo_run_threads(1, live_long, &life), 0, "long prompts that are not released");
    const long long each = (life.late - life.early) / 54;
    ok(each > 0 && each < 1024, "... each that has ended holds %lld bytes", each);
}

/* What may be asked of which sequence. */
static int answers(rondo_context *ctx, void *arg)
{
    rondo_lm *lm = NULL;
    rondo_sampling sampling = RONDO_SAMPLING_INIT;
    rondo_lm_status status = RONDO_LM_STATUS_INIT;
    rondo_lm_event events[4];
    int64_t wrong = 0, live = 0, id = -1;
    int err = rondo_lm_create(&lm, ctx, arg, NULL);
    sampling.ignore_eos = 1;
    for (int i = 0; i < 4 && !err; i++) {
        sampling.max_tokens = i;   /* they end in this order */
        err = rondo_lm_submit(lm, tokens, 5, &sampling, NULL);
    }
    wrong += rondo_lm_release(NULL, 0) != RONDO_EINVAL;
    wrong += rondo_lm_release(lm, -1) != RONDO_EINVAL || !strstr(rondo_error_text(), "there is no sequence -1");
    wrong += rondo_lm_release(lm, 4) != RONDO_EINVAL || !strstr(rondo_error_text(), "4 were submitted");
    wrong += rondo_lm_release(lm, 0) != RONDO_EINVAL || !strstr(rondo_error_text(), "sequence 0 has not ended");
    for (int i = 0; i < 2 && !err; i++)   /* two steps: one ends at once, one after one token, one after two */
        err = rondo_lm_step(lm, events, 4, &live) < 0;
    wrong += live != 1 || rondo_lm_release(lm, 3) != RONDO_EINVAL || !strstr(rondo_error_text(), "sequence 3 has not ended");
    /* From both ends of the table and out of its middle. */
    wrong += rondo_lm_release(lm, 1) != 0 || rondo_lm_query(lm, 1, &status) != RONDO_EINVAL ||
             !strstr(rondo_error_text(), "sequence 1 was released");
    wrong += rondo_lm_release(lm, 1) != RONDO_EINVAL || !strstr(rondo_error_text(), "rondo_lm_release: sequence 1 was released");
    wrong += rondo_lm_query(lm, 0, &status) != 0 || status.new_tokens != 0 || status.finish != RONDO_FINISH_LENGTH;
    wrong += rondo_lm_query(lm, 2, &status) != 0 || status.new_tokens != 2 || status.tokens[0] < 0 || status.tokens[1] < 0;
    wrong += rondo_lm_release(lm, 0) != 0 || rondo_lm_release(lm, 0) != RONDO_EINVAL;
    wrong += rondo_lm_release(lm, 2) != 0 || rondo_lm_query(lm, 2, &status) != RONDO_EINVAL;
    wrong += rondo_lm_query(lm, 3, &status) != 0 || status.finish != RONDO_RUNNING;
    wrong += rondo_lm_step(lm, events, 1, &live) < 0 || live != 0 || rondo_lm_query(lm, 3, &status) != 0 || status.new_tokens != 3;
    wrong += rondo_lm_release(lm, 3) != 0 || rondo_lm_query(lm, 3, &status) != RONDO_EINVAL;
    wrong += rondo_lm_submit(lm, tokens, 5, &sampling, &id) != 0 || id != 4 || rondo_lm_query(lm, 4, &status) != 0;
    rondo_lm_destroy(lm);
    return err ? err : wrong ? 9 : 0;
}

/* Ranks need not release alike: what comes then has the same bits as without. */
static int unlike(rondo_context *ctx, void *arg)
{
    rondo_lm *lm = NULL;
    rondo_sampling sampling = RONDO_SAMPLING_INIT;
    rondo_lm_event events[1];
    rondo_lm_status status = RONDO_LM_STATUS_INIT;
    int64_t live = 0, wrong = 0;
    uint64_t first = 0;
    int err = rondo_lm_create(&lm, ctx, arg, NULL);
    sampling.max_tokens = 3;
    sampling.ignore_eos = 1;
    for (int64_t i = 0; i < 30 && !err; i++) {
        err = rondo_lm_submit(lm, tokens, 200, &sampling, NULL);
        for (int step = 0; step < 3 && !err; step++)
            err = rondo_lm_step(lm, events, 1, &live) < 0;
        wrong += live != 0;
        err = err ? err : rondo_lm_query(lm, i, &status);
        first = i ? first : status.hash;
        wrong += status.hash != first;
        if (!err && (i + rondo_context_rank(ctx)) % 3 == 0)
            err = rondo_lm_release(lm, i);
    }
    rondo_lm_destroy(lm);
    return err ? err : wrong ? 9 : 0;
}

int main(void)
{
    rondo_hooks hooks = RONDO_HOOKS_INIT;
    hooks.allocate = take;
    hooks.release = give;
    scratch_make("lm-long-life");
    is_int(rondo_set_hooks(&hooks), 0, "hooks");
    struct kit_config c = kit_defaults("llama");
    c.layers = 1;
    kit_tokens(tokens, 6000, c.vocabulary, 3);
    struct kit_model *m = kit_folder(&c, 12);
    rondo_model *model = kit_open(scratch_dir);
    if (!ok(model != NULL, "the model opens"))
        return done();
    lives(model);
    for (int ranks = 1; ranks <= 3; ranks++) {
        is_int(rondo_run_threads(ranks, answers, model), 0, "what is answered about which sequence, on %d ranks", ranks);
        is_int(rondo_run_threads(ranks, unlike, model), 0, "ranks that do not release alike, %d of them", ranks);
    }
    rondo_model_close(model);
    kit_free(m);
    is_int(atomic_load(&held), 0, "nothing is left");
    scratch_remove();
    return done();
}
