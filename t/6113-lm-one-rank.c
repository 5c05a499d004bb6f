/* SPDX-License-Identifier: BSD-2-Clause
 *
 * What only one rank sees must reach all of them: a call with other arguments than the others', an allocation that fails, each in its
 * turn, in a submit, a step and a score. Every rank returns a code, that of the others names the rank, none waits for its
 * deadline, all come to the same state, and all memory goes back. And a step needs no agreement: it follows from what was agreed on.
 */
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "lm_kit.h"

#define RANKS 3
#define DEADLINE 20.0

static atomic_long outstanding;
/* The calling rank's: its allocations so far, and the one that fails; 0: none. Helpers' allocations have their own. */
static _Thread_local long calls, fail_at;

static void *take(void *user, size_t bytes, size_t align)
{
    (void)user;
    if (++calls == fail_at)
        return NULL;
    void *memory = aligned_alloc(align, bytes);
    if (memory)
        atomic_fetch_add(&outstanding, 1);
    return memory;
}

static void give(void *user, void *memory, size_t bytes)
{
    (void)user;
    (void)bytes;
    if (memory)
        atomic_fetch_sub(&outstanding, 1);
    free(memory);
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int32_t tokens[300];

enum what { SMALL_MAX, NO_EVENTS, OTHER_SCORE, IN_SUBMIT, IN_STEP, IN_SCORE, SAME_WORDS };
struct trial {
    const rondo_model *model;
    enum what what;
    int bad;                          /* the rank that sees it */
    long fail_at;                     /* which allocation of the call; 0: none fails */
    int code[RANKS], after[RANKS];    /* of the call that it happens in, of another step behind it */
    char text[RANKS][512];
    uint64_t hash[RANKS];             /* of the sequence, where all went on */
    long calls;                       /* the bad rank's allocations in the call */
};

static int one_step(rondo_lm *lm, rondo_lm_event *events, int64_t max)
{
    int64_t live;
    const int64_t n = rondo_lm_step(lm, events, max, &live);
    return n < 0 ? (int)n : 0;
}

/* The call in which this rank may fail. */
static int critical(struct trial *t, rondo_lm *lm, bool bad)
{
    rondo_sampling sampling = RONDO_SAMPLING_INIT;
    rondo_score score = RONDO_SCORE_INIT;
    rondo_lm_event events[4];
    int err = 0;
    sampling.max_tokens = 3;
    sampling.ignore_eos = 1;
    switch (t->what) {
    case SMALL_MAX:
        return one_step(lm, events, bad ? 0 : 4);
    case NO_EVENTS:
        return one_step(lm, bad ? NULL : events, 4);
    case OTHER_SCORE:
        score.struct_size = bad ? 0 : score.struct_size;
        return rondo_lm_score(lm, tokens, 200, NULL, NULL, &score);
    case IN_SUBMIT:
        for (int i = 0; i < 9 && !err; i++)   /* more than there are seats at first */
            err = rondo_lm_submit(lm, tokens, 20 + i, &sampling, NULL);
        return err;
    case IN_STEP:
        for (int i = 0; i < 3 && !err; i++)   /* two chunks of the prompt, a decode step */
            err = one_step(lm, events, 4);
        return err;
    case IN_SCORE:
        return rondo_lm_score(lm, tokens, 200, NULL, NULL, &score);
    case SAME_WORDS:
        /* The score's failure is told in an agreement and hurts nothing; the step's has the same words and nobody to tell but by revoking. */
        fail_at = bad ? calls + 4 : 0;
        err = rondo_lm_score(lm, tokens, 200, NULL, NULL, &score);
        if (bad && (err != RONDO_ENOMEM || !strstr(rondo_error_text(), "no memory for a pass")))
            diag("the score failed elsewhere than was meant: %s", rondo_error_text());
        fail_at = bad ? calls + 1 : 0;
        return one_step(lm, events, 4);
    }
    return 0;
}

static int body(rondo_context *ctx, void *arg)
{
    struct trial *t = arg;
    const int rank = rondo_context_rank(ctx);
    rondo_lm *lm = NULL;
    rondo_lm_desc desc = RONDO_LM_DESC_INIT;
    rondo_sampling sampling = RONDO_SAMPLING_INIT;
    rondo_lm_event events[16];
    int64_t id = 0, live = 1;
    desc.leaf = 8;
    desc.chunk = 40;
    sampling.max_tokens = 3;
    sampling.ignore_eos = 1;
    int err = rondo_lm_create(&lm, ctx, t->model, &desc);
    if (!err)
        err = rondo_lm_submit(lm, tokens, 70, &sampling, &id);
    const long before = calls;
    fail_at = rank == t->bad && t->fail_at ? before + t->fail_at : 0;
    /* A rank that has come through the submit may fail before another one has: then that one hears of it there. */
    t->code[rank] = err ? err : critical(t, lm, rank == t->bad);
    snprintf(t->text[rank], sizeof t->text[rank], "%s", t->code[rank] ? rondo_error_text() : "");
    if (rank == t->bad)
        t->calls = calls - before;
    fail_at = 0;
    t->after[rank] = err;
    /* Either it is over for all of them, or all go on, to the answer that there would be without. */
    for (int i = 0; i < 40 && live > 0 && !t->after[rank]; i++) {
        const int64_t n = rondo_lm_step(lm, events, 16, &live);
        t->after[rank] = n < 0 ? (int)n : 0;
    }
    rondo_lm_status status = RONDO_LM_STATUS_INIT;
    if (rondo_lm_query(lm, id, &status) == 0)
        t->hash[rank] = status.hash;
    rondo_lm_destroy(lm);
    return t->after[rank] ? 100 : 0;
}

/* What is wrong with the outcome, or NULL. */
static const char *wrong(const struct trial *t, int ranks, int own_code, uint64_t hash)
{
    char who[128];   /* told by the failing call itself, not by what ended the rank later */
    snprintf(who, sizeof who, "rank %d failed: %.60s", t->bad, t->text[t->bad]);
    if (t->code[t->bad] != own_code)
        return "the rank itself has another code";
    for (int r = 0; r < ranks; r++) {
        if (r != t->bad && t->code[r] != RONDO_EPEER)
            return "another rank was not told";
        if (r != t->bad && !strstr(t->text[r], who))
            return "the sentence does not name the rank and what it saw";
        if ((t->after[r] != 0) != (t->after[0] != 0))
            return "some ranks can go on, and some cannot";
        if (t->after[r] == 0 && t->hash[r] != hash)
            return "the answer after it is another one";
    }
    return NULL;
}

static void show(const struct trial *t, int ranks, const char *why)
{
    diag("%s (allocation %ld)", why, t->fail_at);
    for (int r = 0; r < ranks; r++)
        diag("rank %d: %s, then %s: %s", r, rondo_error_name(t->code[r]), rondo_error_name(t->after[r]), t->text[r]);
}

static void arguments(const rondo_model *model, int ranks, uint64_t hash)
{
    static const char *const names[] = { "room for fewer events", "no room for events", "a score without a size" };
    for (int what = SMALL_MAX; what <= OTHER_SCORE; what++)
        for (int bad = 0; bad < ranks; bad++) {
            struct trial t = { .model = model, .what = (enum what)what, .bad = bad };
            const double begin = seconds();
            (void)!rondo_run_threads(ranks, body, &t);
            const char *why = wrong(&t, ranks, RONDO_EINVAL, hash);
            if (!ok(!why && seconds() - begin < 0.5 * DEADLINE, "%s on rank %d of %d: all are told", names[what], bad, ranks))
                show(&t, ranks, why ? why : "late");
        }
}

static void allocations(const rondo_model *model, int ranks, uint64_t hash)
{
    static const struct {
        enum what what;
        const char *name;
    } kinds[] = { { IN_SUBMIT, "submits" }, { IN_STEP, "steps" }, { IN_SCORE, "a score" } };
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        const int bad = (int)k % ranks;
        struct trial all = { .model = model, .what = kinds[k].what, .bad = bad };
        const int err = rondo_run_threads(ranks, body, &all);
        ok(!err && all.calls > 5, "%s on %d ranks: %ld allocations of one rank", kinds[k].name, ranks, all.calls);
        const long step = long_tests() || all.calls < 60 ? 1 : all.calls / 40;
        long failures = 0, slow = 0, tried = 0, missed = 0, leaks = 0;
        for (long n = 1; n <= all.calls; n += step, tried++) {
            struct trial t = { .model = model, .what = kinds[k].what, .bad = bad, .fail_at = n };
            const long held = atomic_load(&outstanding);
            const double begin = seconds();
            (void)!rondo_run_threads(ranks, body, &t);
            slow += seconds() - begin > 0.5 * DEADLINE;
            leaks += atomic_load(&outstanding) != held;
            if (t.calls < n && t.code[bad] == 0) {   /* how a rank waits decides about some of its allocations */
                missed++;
                continue;
            }
            const char *why = wrong(&t, ranks, RONDO_ENOMEM, hash);
            if (why && failures++ < 3)
                show(&t, ranks, why);
        }
        ok(failures == 0 && missed <= tried / 10, "... each of %ld that fails there is told to all", tried);
        ok(slow == 0, "... and nobody waits for the deadline");
        ok(leaks == 0, "... and nothing is lost");
    }
}

static void same_words(const rondo_model *model, int ranks, uint64_t hash)
{
    struct trial t = { .model = model, .what = SAME_WORDS, .bad = ranks - 1 };
    const double begin = seconds();
    (void)!rondo_run_threads(ranks, body, &t);
    const char *why = wrong(&t, ranks, RONDO_ENOMEM, hash);
    if (!ok(!why && seconds() - begin < 0.5 * DEADLINE && t.after[0], "a failure in words that an agreement had before, on %d ranks", ranks))
        show(&t, ranks, why ? why : "late");
}

struct messages {
    const rondo_model *model;
    uint64_t agree[RANKS], decode[RANKS], steps;
};

static int count_messages(rondo_context *ctx, void *arg)
{
    struct messages *m = arg;
    const int rank = rondo_context_rank(ctx);
    rondo_lm *lm = NULL;
    rondo_lm_desc desc = RONDO_LM_DESC_INIT;
    rondo_sampling sampling = RONDO_SAMPLING_INIT;
    rondo_lm_event events[2];
    rondo_comm_stats before = RONDO_COMM_STATS_INIT, after = RONDO_COMM_STATS_INIT;
    int64_t live = 1;
    desc.leaf = 8;
    desc.chunk = 40;
    sampling.max_tokens = 30;
    sampling.ignore_eos = 1;
    int err = rondo_lm_create(&lm, ctx, m->model, &desc);
    for (int i = 0; i < 2 && !err; i++)
        err = rondo_lm_submit(lm, tokens + i, 100, &sampling, NULL);
    err = err ? err : rondo_comm_query(ctx, &before);
    while (!err && live > 0) {
        err = rondo_lm_step(lm, events, 2, &live) < 0;
        if (rank == 0)   /* the others share it */
            m->steps++;
    }
    err = err ? err : rondo_comm_query(ctx, &after);
    m->agree[rank] = after.messages[RONDO_OP_AGREE] - before.messages[RONDO_OP_AGREE];
    for (int i = 0; i < RONDO_OP_COUNT; i++)
        m->decode[rank] += after.messages[i] - before.messages[i];
    rondo_lm_destroy(lm);
    return err;
}

static void no_agreement(const rondo_model *model, int ranks)
{
    struct messages m = { .model = model };
    is_int(rondo_run_threads(ranks, count_messages, &m), 0, "two prompts and thirty tokens each on %d ranks", ranks);
    uint64_t agree = 0, all = 0;
    for (int r = 0; r < ranks; r++) {
        agree += m.agree[r];
        all += m.decode[r];
    }
    diag("%llu messages in %llu steps", (unsigned long long)all, (unsigned long long)m.steps);
    is_int((int64_t)agree, 0, "... no message of the steps is for an agreement");
    ok(all > 0 && m.steps > 30, "... though they do send some");
}

int main(void)
{
    rondo_hooks hooks = RONDO_HOOKS_INIT;
    hooks.allocate = take;
    hooks.release = give;
    scratch_make("lm-one-rank");
    is_int(rondo_set_hooks(&hooks), 0, "hooks");
    char deadline[32];
    snprintf(deadline, sizeof deadline, "%g", DEADLINE);
    setenv("RONDO_DEADLINE", deadline, 1);
    struct kit_config c = kit_defaults("llama");
    struct kit_model *m = kit_folder(&c, 12);
    kit_tokens(tokens, 300, c.vocabulary, 3);
    rondo_model *model = kit_open(scratch_dir);
    if (!ok(model != NULL, "the model opens"))
        return done();
    struct trial plain = { .model = model, .what = IN_STEP, .bad = 0 };
    is_int(rondo_run_threads(1, body, &plain), 0, "the answer on one rank");
    for (int ranks = 2; ranks <= RANKS; ranks++) {
        arguments(model, ranks, plain.hash[0]);
        same_words(model, ranks, plain.hash[0]);
        allocations(model, ranks, plain.hash[0]);
        no_agreement(model, ranks);
    }
    rondo_model_close(model);
    kit_free(m);
    is_int(atomic_load(&outstanding), 0, "nothing is left");
    scratch_remove();
    return done();
}
