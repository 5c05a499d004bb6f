/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo_attention_update(): a plan that was updated is the plan that would have been made, operation by operation, hash and bits, whatever it
 * was before: more or fewer sequences, prefill or decode, another algorithm, layout, mask, other terms. A failed update leaves none, and the
 * next one makes it again. Plans beside it, and placements, stay as they are.
 */
#include "t/attention.h"
#include "t/memory.h"

#define STEPS 12

static uint32_t state;

static int draw(int below)
{
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return (int)(state % (uint32_t)below);
}

/* ---- two plans, compared ---- */

static int same_operations(const rondo_attention *a, const rondo_attention *b, int64_t count)
{
    static _Thread_local char text[2][512];
    for (int64_t i = 0; i < count; i++) {
        rondo_schedule_operation_info info[2] = { RONDO_SCHEDULE_OPERATION_INFO_INIT, RONDO_SCHEDULE_OPERATION_INFO_INIT };
        if (rondo_attention_operation(a, i, &info[0]) || rondo_attention_operation(b, i, &info[1]) ||
            rondo_attention_operation_text(a, i, text[0], 512) < 0 || rondo_attention_operation_text(b, i, text[1], 512) < 0)
            return 0;
        if (strcmp(text[0], text[1]) || info[0].wait_count != info[1].wait_count || info[0].bytes != info[1].bytes ||
            info[0].flops != info[1].flops || info[0].peer != info[1].peer ||
            (info[0].wait_count && memcmp(info[0].waits, info[1].waits, (size_t)info[0].wait_count * sizeof *info[0].waits))) {
            diag("operation %lld: \"%s\", anew \"%s\"", (long long)i, text[0], text[1]);
            return 0;
        }
    }
    return 1;
}

static int same_spans(const rondo_attention *a, const rondo_attention *b, int64_t sequences, int ranks)
{
    rondo_span spans[2][40];
    memset(spans, 0, sizeof spans);
    for (int64_t s = 0; s < sequences; s++)
        for (int r = 0; r < ranks; r++)
            for (int keys = 0; keys < 2; keys++) {
                const int64_t n = rondo_attention_spans(a, s, keys, r, spans[0], 40), m = rondo_attention_spans(b, s, keys, r, spans[1], 40);
                if (n != m || n < 0 || memcmp(spans[0], spans[1], (size_t)(n < 40 ? n : 40) * sizeof spans[0][0]))
                    return 0;
            }
    return 1;
}

static int same_plans(const rondo_attention *a, const rondo_attention *b, int64_t sequences, int ranks)
{
    rondo_attention_info info[2];
    memset(info, 0, sizeof info);   /* what stands between the fields, too */
    for (int i = 0; i < 2; i++) {
        info[i].struct_size = sizeof info[i];
        if (rondo_attention_query(i ? b : a, &info[i]))
            return 0;
        info[i].plan_bytes = 0;
    }
    if (memcmp(&info[0], &info[1], sizeof info[0])) {
        diag("hash %llx, anew %llx; workspace %zu and %zu", (unsigned long long)info[0].hash, (unsigned long long)info[1].hash,
             info[0].workspace_bytes, info[1].workspace_bytes);
        return 0;
    }
    return same_spans(a, b, sequences, ranks) && same_operations(a, b, info[0].operations);
}

/* ---- walks over problems, with results ---- */

static struct problem problems[STEPS];
static struct setup setups[STEPS];
static struct run_ runs[STEPS + 1];
static struct result updated[STEPS + 1];
static _Atomic int differ;

static int walk(rondo_context *ctx, void *arg)
{
    rondo_attention *plan = NULL, *old = NULL;
    (void)arg;
    int err = run_plan_(ctx, &runs[STEPS], &old, 0);   /* the first problem's, kept beside it all */
    for (int i = 0; i < STEPS && !err; i++) {
        rondo_attention_desc d;
        rondo_attention *fresh;
        err = run_plan_(ctx, &runs[i], &plan, 0);
        describe(&problems[i], &setups[i], &d);
        if (err || (err = rondo_attention_create(&fresh, ctx, &d)))
            break;
        if (!same_plans(plan, fresh, problems[i].sequences, setups[i].ranks)) {
            diag("step %d", i);
            atomic_fetch_add(&differ, 1);
        }
        rondo_attention_destroy(fresh);
    }
    if (!err)
        err = run_plan_(ctx, &runs[STEPS], &old, 1);
    rondo_attention_destroy(plan);
    rondo_attention_destroy(old);
    return err;
}

static const int any[] = { RONDO_ALGORITHM_AUTO, RONDO_PASS_KV, RONDO_PASS_Q, RONDO_ALL_GATHER, RONDO_ALL_TO_ALL, RONDO_REDUCE, RONDO_HALO,
                           RONDO_MESH };

static void draw_problem(int i, int ranks)
{
    struct problem *p = &problems[i];
    struct setup *s = &setups[i];
    const struct problem *last = i ? p - 1 : NULL;
    *s = (struct setup){ .ranks = ranks, .layout = draw(6), .algorithm = any[draw(8)], .strided = draw(3) == 0, .own_workspace = draw(2) };
    if (last && draw(2)) {   /* a token more for each: how a model decodes */
        *p = *last;
        *s = s[-1];
        for (int64_t q = 0; q < p->sequences; q++) {
            p->cached[q] += p->tokens[q];
            p->tokens[q] = 1;
        }
        p->probs_first = p->probs_count = 0;
        return;
    }
    *p = (struct problem){ .sequences = 1 + draw(4), .heads = 4, .kv_heads = 1 << draw(2), .head_dim = 8 + draw(2) * 3, .causal = draw(3) != 0,
                           .leaf = 8 << draw(2), .seed = state, .kv_type = 1 + draw(3), .value_dim = draw(2) * 5 };
    const int decode = draw(2);
    for (int64_t q = 0; q < p->sequences; q++) {
        p->tokens[q] = decode ? draw(4) != 0 : draw(120);
        p->cached[q] = draw(4) ? draw(160) : draw(2) ? -draw(20) : 0;
    }
    p->windowed = draw(4) == 0;
    p->left = p->windowed ? draw(60) : 0;
    p->right = p->windowed ? -1 : 0;
    p->documents = draw(5) ? 0 : draw(2) ? 20 : -20;
    p->mask = draw(6) ? 0 : draw(2) ? 1 : 4;
    if (draw(3) == 0) {
        p->alibi = draw(2);
        p->sinks = draw(2);
        p->bias = draw(2) ? 0 : draw(2) ? 1 : 4;
        p->softcap = draw(2) * 5.0;
        p->dropout = draw(2) * 0.2;
        p->probs = draw(2);
    }
    if (s->algorithm != RONDO_ALL_TO_ALL && s->algorithm && draw(2))
        s->head_groups = (int)p->kv_heads;
}

static void walks(const char *hook, int rounds)
{
    for (int ranks = 1; ranks <= 5; ranks++)
        for (int round = 0; round < rounds; round++) {
            int bits = 1;
            rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
            state = (uint32_t)(977 * ranks + 31 * round + 7 + (hook ? 5000 * (int)strlen(hook) : 0));
            for (int i = 0; i < 20; i++)
                (void)draw(2);
            for (int i = 0; i < STEPS; i++) {
                draw_problem(i, ranks);
                problem_data(&problems[i]);
            }
            memset(runs, 0, sizeof runs);
            for (int i = 0; i <= STEPS; i++) {
                runs[i] = (struct run_){ .p = &problems[i % STEPS], .s = &setups[i % STEPS], .r = &updated[i] };
                result_make(&problems[i % STEPS], &updated[i]);
            }
            d.threads = 1 + round % 2;
            atomic_store(&differ, 0);
            hook_use(hook);
            int err = rondo_launch(ranks, &d, walk, NULL);
            hook_use(NULL);
            if (err)
                diag("%s: %s", rondo_error_name(err), rondo_error_text());
            for (int i = 0; i <= STEPS && !err; i++) {
                struct result fresh;
                err = solve(&problems[i % STEPS], &setups[i % STEPS], &fresh);
                if (err || fresh.hash != result_hash(&problems[i % STEPS], &updated[i])) {
                    diag("step %d: %s", i, err ? rondo_error_text() : "other bits");
                    bits = 0;
                }
                result_free(&fresh);
            }
            ok(!err && bits && !atomic_load(&differ), "%d ranks, walk %d%s%s: %d plans that were updated are as if made anew", ranks, round,
               hook ? " with " : "", hook ? hook : "", STEPS);
            for (int i = 0; i <= STEPS; i++)
                result_free(&updated[i]);
            for (int i = 0; i < STEPS; i++)
                problem_free(&problems[i]);
        }
}

/* ---- walks over a placement: appends, resets, batches ---- */

#define SEATS 6
static int interleave, layout;
static uint32_t begin_state;

/* Positions that a plan has made known, and the plan. */
struct known {
    rondo_attention *plan;
    rondo_attention_info info;
    rondo_span spans[SEATS][10];
    int64_t counts[SEATS];
};

static int look(struct known *k, int64_t sequences, int ranks)
{
    k->info = (rondo_attention_info)RONDO_ATTENTION_INFO_INIT;
    int fine = rondo_attention_query(k->plan, &k->info) == 0;
    memset(k->spans, 0, sizeof k->spans);
    for (int64_t i = 0; i < sequences; i++)
        k->counts[i] = rondo_attention_spans(k->plan, i, 1, (int)i % ranks, k->spans[i], 10);
    return fine;
}

static int placed(rondo_context *ctx, void *arg)
{
    const int ranks = rondo_context_ranks(ctx);
    uint32_t mine = begin_state;   /* all ranks draw the same, each for itself */
    rondo_placement_desc pd = RONDO_PLACEMENT_DESC_INIT;
    rondo_placement *place = NULL;
    rondo_attention *plan = NULL;
    static _Thread_local struct known kept, now;
    int64_t kept_sequences = 0;
    (void)arg;
#define DRAW(n) ((int)((mine ^= mine << 13, mine ^= mine >> 17, mine ^= mine << 5) % (uint32_t)(n)))
    pd.ranks = ranks;
    pd.sequences = SEATS;
    pd.layout = layout;
    pd.leaf = 8;
    pd.interleave = interleave;
    memset(&kept, 0, sizeof kept);
    int err = rondo_placement_create(&place, &pd), wrong = 0;
    for (int step = 0; step < 150 && !err; step++) {
        int64_t names[SEATS], tokens[SEATS], count = 0;
        const int turn = DRAW(6) == 0, order = DRAW(SEATS);
        for (int i = 0; i < SEATS && !err; i++) {
            const int64_t seat = (i + order) % SEATS;
            if (DRAW(12) == 0)
                err = rondo_placement_reset(place, seat);
            if (DRAW(3) == 0)
                continue;   /* not in this batch */
            tokens[count] = turn ? DRAW(90) : rondo_placement_length(place, seat) ? 1 : 1 + DRAW(40);
            if (!err)
                err = rondo_placement_append(place, seat, tokens[count]);
            names[count++] = seat;
        }
        if (!count || err)
            continue;
        rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
        d.heads = 4;
        d.kv_heads = 2;
        d.head_dim = 8;
        d.sequences = count;
        d.tokens_of = tokens;
        d.causal = 1;
        d.placement = place;
        d.placement_sequences = names;
        d.algorithm = any[DRAW(4) ? 2 : DRAW(8)];
        rondo_attention *fresh = NULL;
        err = rondo_attention_create(&fresh, ctx, &d);
        if (!err)
            err = plan ? rondo_attention_update(plan, &d) : rondo_attention_create(&plan, ctx, &d);
        if (err)
            break;
        wrong += !same_plans(plan, fresh, count, ranks);
        if (step == 40) {   /* one that stays */
            kept.plan = fresh;
            kept_sequences = count;
            wrong += !look(&kept, count, ranks);
        } else {
            rondo_attention_destroy(fresh);
        }
    }
    if (kept.plan) {
        now.plan = kept.plan;
        memset(now.counts, 0, sizeof now.counts);
        wrong += !look(&now, kept_sequences, ranks) || memcmp(now.spans, kept.spans, sizeof now.spans) ||
                 memcmp(now.counts, kept.counts, sizeof now.counts) || now.info.hash != kept.info.hash;
    }
#undef DRAW
    atomic_fetch_add(&differ, wrong);
    rondo_attention_destroy(kept.plan);
    rondo_attention_destroy(plan);
    rondo_placement_destroy(place);
    return err;
}

static void placements(void)
{
    for (int ranks = 1; ranks <= 5; ranks++) {
        int good = 1;
        for (layout = 1; layout <= 5; layout++)
            for (interleave = 0; interleave < 2; interleave++) {
                rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
                d.threads = 1;
                begin_state = (uint32_t)(ranks * 1000 + layout * 10 + interleave + 1) * 2654435761u;
                atomic_store(&differ, 0);
                int err = rondo_launch(ranks, &d, placed, NULL);
                if (err || atomic_load(&differ)) {
                    diag("%s, interleave %d: %d differ; %s", rondo_layout_name(layout), interleave, atomic_load(&differ), err ? rondo_error_text() : "");
                    good = 0;
                }
            }
        ok(good, "%d ranks: appends, resets and batches of a placement; a plan of before stays as it was", ranks);
    }
}

/* ---- ranks that disagree ---- */

static int disagreeing(rondo_context *ctx, void *arg)
{
    static const int64_t cached[] = { 50, 51, 52, 52, 53 };
    rondo_attention *plan = NULL;
    int err = 0;
    (void)arg;
    for (int step = 0; step < 5 && !err; step++) {
        rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
        rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
        rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
        static _Thread_local float q[4 * 8], k[64 * 8], v[64 * 8], out[4 * 8];
        d.heads = d.kv_heads = 1;
        d.head_dim = d.leaf = 8;
        d.tokens = 1;
        d.cached = cached[step];
        d.causal = step != 3 || rondo_context_rank(ctx) != 1;
        err = plan ? rondo_attention_update(plan, &d) : rondo_attention_create(&plan, ctx, &d);
        if (!err)
            err = rondo_attention_query(plan, &info);
        const int64_t q_shape[3] = { info.q_rows, 1, 8 }, k_shape[3] = { info.kv_rows, 1, 8 };
        io.q = rondo_tensor_dense(q, RONDO_F32, 3, q_shape);
        io.out = rondo_tensor_dense(out, RONDO_F32, 3, q_shape);
        io.k = rondo_tensor_dense(k, RONDO_F32, 3, k_shape);
        io.v = rondo_tensor_dense(v, RONDO_F32, 3, k_shape);
        for (int i = 0; i < 2 && !err; i++) {
            err = rondo_attention_execute(plan, &io, NULL);
            if (step == 3)
                err = err == RONDO_EMISMATCH && strstr(rondo_error_text(), "the attention plan") ? 0 : err ? err : RONDO_EINVAL;
        }
    }
    rondo_attention_destroy(plan);
    return err;
}

static void disagreement(void)
{
    rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
    d.threads = 1;
    is_int(rondo_launch(3, &d, disagreeing, NULL), 0, "ranks that update their plans to different ones are told so, and go on with the next");
}

/* ---- without memory ---- */

/* From what to what: what each needs is not what the other has. */
static void set_case(rondo_attention_desc *d, int which)
{
    static int32_t documents[5 * 900];
    *d = (rondo_attention_desc)RONDO_ATTENTION_DESC_INIT;
    d->heads = 8;
    d->kv_heads = 2;
    d->head_dim = 16;
    d->causal = 1;
    d->leaf = 16;
    d->tokens = which == 0 ? 1 : which == 1 ? 300 : 7;
    d->cached = which == 0 ? 1000 : which == 1 ? 500 : 100;
    d->sequences = which == 0 ? 1 : which == 1 ? 3 : 2;
    if (which == 1) {
        d->documents = documents;
        d->probs = d->alibi = 1;
        d->probs_count = 3;
        d->layout = RONDO_DOCUMENT;
    }
}

static int failing(rondo_context *ctx, void *arg)
{
    long *tries = arg;
    int wrong = 0;
    for (int from = 0; from < 3; from++)
        for (int to = 0; to < 3; to++) {
            rondo_attention_desc first, second;
            rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
            rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
            rondo_attention *plan, *fresh;
            set_case(&first, from);
            set_case(&second, to);
            if (rondo_attention_create(&fresh, ctx, &second))
                return 1;
            int reached = 1;
            for (long n = 0; reached; n++) {
                rondo_span span;
                if (rondo_attention_create(&plan, ctx, &first))
                    return 1;
                atomic_store(&memory_until_failure, n);
                const int err = rondo_attention_update(plan, &second);
                reached = atomic_exchange(&memory_until_failure, -1) < 0;   /* some are done without: err may be 0 */
                wrong += err && err != RONDO_ENOMEM;
                if (err) {
                    ++*tries;
                    wrong += rondo_attention_query(plan, &info) != RONDO_EINVAL || !strstr(rondo_error_text(), "last update failed");
                    wrong += rondo_attention_execute(plan, &io, NULL) != RONDO_EINVAL || !strstr(rondo_error_text(), "last update failed");
                    wrong += rondo_attention_spans(plan, 0, 0, -1, &span, 1) != RONDO_EINVAL;
                    wrong += rondo_attention_update(plan, &second) != 0;   /* it can be made again */
                }
                wrong += !same_plans(plan, fresh, second.sequences, 1);
                rondo_attention_destroy(plan);
            }
            rondo_attention_destroy(fresh);
        }
    return wrong ? RONDO_EINVAL : 0;
}

static void failures(void)
{
    rondo_context *ctx = NULL;
    rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
    long tries = 0;
    d.threads = 1;
    memory_hooks();
    const int wrong = rondo_context_create(&ctx, &d) ? 1 : failing(ctx, &tries);
    ok(!wrong && tries > 60, "each of %ld allocations of an update fails: no plan, until it is updated again", tries);
    rondo_attention *plan;
    rondo_attention_desc a;
    set_case(&a, 0);
    if (rondo_attention_create(&plan, ctx, &a) == 0) {
        a.kv_heads = 3;
        ok(rondo_attention_update(plan, &a) == RONDO_EINVAL && strstr(rondo_error_text(), "3 KV heads"), "what cannot be is refused: %s",
           rondo_error_text());
        a.kv_heads = 4;
        ok(rondo_attention_update(plan, &a) == 0, "and what can be is taken after it");
        rondo_attention_destroy(plan);
    }
    is_int(rondo_attention_update(NULL, &a), RONDO_EINVAL, "no plan");
    rondo_context_destroy(ctx);
    ok(atomic_load(&memory_live) == 0, "all memory is given back");
    if (rondo_set_hooks(NULL))
        ok(0, "hooks");
}

int main(void)
{
    walks(NULL, 4);
    walks("copy", 1);
    walks("plane,space,defer", 1);
    placements();
    disagreement();
    failures();
    return done();
}
