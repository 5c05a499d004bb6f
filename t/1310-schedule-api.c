/* SPDX-License-Identifier: BSD-2-Clause
 *
 * rondo_schedule_*(): what is told without ranks is what plans on ranks say of themselves, operation by operation, in every kind of machine
 * that this one can be; the sums over ranks are the plan's; and the checker's verdict reaches the caller. The file under test is included,
 * so that a schedule can be made to say what is not so.
 */
#include "schedule/api.c"

#include <time.h>

#include "t/outputs.h"

#define TEXT 4096

/* ---- the same as plans ---- */

struct compared {
    rondo_attention_desc attention;
    const char *transport;
    int ranks;
    _Atomic int operations, wrong;
};

static int same(const rondo_schedule_operation_info *a, const rondo_schedule_operation_info *b)
{
    return a->kind == b->kind && a->head_group == b->head_group && !strcmp(a->operation, b->operation) && a->step == b->step &&
           a->steps == b->steps && a->peer == b->peer && a->counted == b->counted && a->messages == b->messages && a->bytes == b->bytes &&
           a->received == b->received && a->copied == b->copied && a->flops == b->flops && a->wait_count == b->wait_count &&
           (!a->wait_count || !memcmp(a->waits, b->waits, (size_t)a->wait_count * sizeof *a->waits));
}

static int compare_rank(rondo_context *ctx, void *arg)
{
    struct compared *c = arg;
    const int rank = rondo_context_rank(ctx);
    rondo_attention *plan = NULL;
    rondo_schedule *s = NULL;
    rondo_attention_info said = RONDO_ATTENTION_INFO_INIT;
    rondo_schedule_info info = RONDO_SCHEDULE_INFO_INIT;
    rondo_schedule_rank_info mine = RONDO_SCHEDULE_RANK_INFO_INIT;
    rondo_schedule_desc d = RONDO_SCHEDULE_DESC_INIT;
    char *text = malloc(2 * TEXT);
    d.ranks = c->ranks;
    d.transport = c->transport;
    int err = rondo_attention_create(&plan, ctx, &c->attention);
    if (!err)
        err = rondo_attention_query(plan, &said);
    if (!err)
        err = rondo_schedule_create(&s, &d, &c->attention);
    if (!err)
        err = rondo_schedule_query(s, &info);
    if (!err)
        err = rondo_schedule_rank(s, rank, &mine);
    if (!err)
        c->wrong += said.hash != info.hash || said.messages_total != info.messages || said.bytes_total != info.bytes ||
                    said.flops != info.flops || said.visible_pairs != info.visible_pairs || said.algorithm != info.algorithm ||
                    said.layout != info.layout || said.head_groups != info.head_groups || said.leaf != info.leaf ||
                    said.operations != mine.operations || said.messages != mine.messages || said.bytes != mine.bytes ||
                    said.workspace_bytes != mine.workspace_bytes || said.pack_bytes != mine.pack_bytes;
    for (int64_t i = 0; i < said.operations && !err && text; i++) {
        rondo_schedule_operation_info a = RONDO_SCHEDULE_OPERATION_INFO_INIT, b = RONDO_SCHEDULE_OPERATION_INFO_INIT;
        err = rondo_attention_operation(plan, i, &a);
        if (!err)
            err = rondo_schedule_operation(s, rank, i, &b);
        c->wrong += !err && !same(&a, &b);
        c->wrong += rondo_attention_operation_text(plan, i, text, TEXT) != rondo_schedule_operation_text(s, rank, i, text + TEXT, TEXT) ||
                    strcmp(text, text + TEXT);
        c->operations++;
    }
    rondo_schedule_destroy(s);
    rondo_attention_destroy(plan);
    free(text);
    return err;
}

/* The backward pass of a plan, and a schedule of it. */
static int compare_gradients(rondo_context *ctx, void *arg)
{
    struct compared *c = arg;
    rondo_attention *plan = NULL;
    rondo_schedule *s = NULL;
    rondo_attention_info said = RONDO_ATTENTION_INFO_INIT;
    rondo_schedule_info info = RONDO_SCHEDULE_INFO_INIT;
    rondo_schedule_rank_info mine = RONDO_SCHEDULE_RANK_INFO_INIT;
    rondo_schedule_desc d = RONDO_SCHEDULE_DESC_INIT;
    d.ranks = c->ranks;
    d.transport = c->transport;
    d.backward = 1;
    int err = rondo_attention_create(&plan, ctx, &c->attention);
    if (!err)
        err = rondo_attention_query(plan, &said);
    if (!err)
        err = rondo_schedule_create(&s, &d, &c->attention);
    if (!err)
        err = rondo_schedule_query(s, &info);
    if (!err)
        err = rondo_schedule_rank(s, rondo_context_rank(ctx), &mine);
    if (!err)
        c->wrong += said.hash != info.hash || said.backward_messages_total != info.messages || said.backward_bytes_total != info.bytes ||
                    said.backward_algorithm != info.algorithm || said.visible_pairs != info.visible_pairs ||
                    said.backward_messages != mine.messages || said.backward_bytes != mine.bytes ||
                    said.backward_workspace_bytes != mine.workspace_bytes || said.backward_pack_bytes != mine.pack_bytes ||
                    (c->ranks > 1 && (info.algorithm == RONDO_ALL_GATHER || info.algorithm == RONDO_HALO) ? said.backward_flops >= info.flops : said.backward_flops != info.flops);
    c->operations += (int)mine.operations;
    rondo_schedule_destroy(s);
    rondo_attention_destroy(plan);
    return err;
}

/* The numbers of a schedule's operations, over its ranks. */
static int sums(const struct compared *c, int backward)
{
    rondo_schedule_desc d = RONDO_SCHEDULE_DESC_INIT;
    rondo_schedule_info info = RONDO_SCHEDULE_INFO_INIT;
    rondo_schedule *s;
    uint64_t messages = 0, bytes = 0, received = 0;
    double flops = 0.0, of_ranks = 0.0;
    d.ranks = c->ranks;
    d.transport = c->transport;
    d.backward = backward;
    int err = rondo_schedule_create(&s, &d, &c->attention);
    if (!err)
        err = rondo_schedule_query(s, &info);
    for (int r = c->ranks - 1; r >= 0 && !err; r--) {
        rondo_schedule_rank_info mine = RONDO_SCHEDULE_RANK_INFO_INIT;
        err = rondo_schedule_rank(s, r, &mine);
        of_ranks += mine.flops;
        for (int64_t i = 0; i < mine.operations && !err; i++) {
            rondo_schedule_operation_info o = RONDO_SCHEDULE_OPERATION_INFO_INIT;
            err = rondo_schedule_operation(s, r, i, &o);
            messages += o.messages;
            bytes += o.bytes;
            received += o.received;
            flops += o.flops;
        }
    }
    if (!err)
        err = rondo_schedule_check(s, NULL, NULL);
    if (err)
        diag("%s", rondo_error_text());
    rondo_schedule_destroy(s);
    return !err && messages == info.messages && bytes == info.bytes && received == info.bytes && flops == info.flops && of_ranks == flops;
}

static void against_plans(void)
{
    static const char *const hooks[] = { NULL, "copy", "space", "copy,space", "plane,space" };
    static const struct {
        int64_t tokens, cached, left, right;
        int ranks, algorithm, layout, groups, causal, windowed;
    } cases[] = {
        { 1000, 0, 0, 0, 3, RONDO_PASS_KV, RONDO_ZIGZAG, 0, 1, 0 },       { 1000, 500, 0, 0, 4, RONDO_PASS_Q, RONDO_ZIGZAG, 2, 1, 0 },
        { 700, -300, 0, 0, 5, RONDO_PASS_KV, RONDO_STRIPED, 2, 1, 0 },    { 900, 0, 100, 0, 4, RONDO_PASS_KV, RONDO_CONTIGUOUS, 1, 0, 1 },
        { 900, 2000, 50, 90, 3, RONDO_PASS_Q, RONDO_SNAKE, 1, 0, 1 },     { 1, 3000, 0, 0, 4, RONDO_ALGORITHM_AUTO, RONDO_ZIGZAG, 0, 1, 0 },
        { 300, 0, 0, 0, 1, RONDO_ALGORITHM_AUTO, RONDO_ZIGZAG, 0, 1, 0 }, { 0, 10, 0, 0, 2, RONDO_PASS_KV, RONDO_ZIGZAG, 0, 1, 0 },
        { 500, -500, 0, 0, 2, RONDO_PASS_Q, RONDO_ZIGZAG, 0, 1, 0 },
    };
    for (size_t h = 0; h < sizeof hooks / sizeof *hooks; h++)
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            struct compared c = { .attention = RONDO_ATTENTION_DESC_INIT, .transport = "threads", .ranks = cases[i].ranks };
            rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
            d.threads = 1;
            c.attention.heads = 8;
            c.attention.kv_heads = 2;
            c.attention.head_dim = 64;
            c.attention.value_dim = 40;
            c.attention.tokens = cases[i].tokens;
            c.attention.cached = cases[i].cached;
            c.attention.windowed = cases[i].windowed;
            c.attention.window_left = cases[i].left;
            c.attention.window_right = cases[i].right;
            c.attention.causal = cases[i].causal;
            c.attention.algorithm = cases[i].algorithm;
            c.attention.layout = cases[i].layout;
            c.attention.head_groups = cases[i].groups;
            if (hooks[h])
                setenv("RONDO_TEST_HOOK", hooks[h], 1);
            else
                unsetenv("RONDO_TEST_HOOK");
            const int err = rondo_launch(c.ranks, &d, compare_rank, &c);
            ok(!err && !c.wrong && (c.operations || !cases[i].tokens), "%s, case %zu: %d operations of %d ranks are those of the plans",
               hooks[h] ? hooks[h] : "in place", i, c.operations, c.ranks);
            if (err)
                diag("%s", rondo_error_text());
            ok(sums(&c, 0), "and come to what the schedule says of all");
        }
    unsetenv("RONDO_TEST_HOOK");
}

static void against_gradients(void)
{
    static const char *const hooks[] = { NULL, "copy", "copy,space" };
    static const struct {
        int64_t tokens, cached, left;
        int ranks, layout, algorithm;
    } cases[] = {
        { 600, 0, 0, 1, RONDO_ZIGZAG, RONDO_ALGORITHM_AUTO }, { 600, 0, 0, 3, RONDO_ZIGZAG, RONDO_ALL_GATHER },
        { 500, 0, 60, 4, RONDO_CONTIGUOUS, RONDO_HALO },      { 400, -150, 0, 2, RONDO_STRIPED, RONDO_ALGORITHM_AUTO },
        { 100, 300, 0, 3, RONDO_SNAKE, RONDO_ALGORITHM_AUTO },
    };
    for (size_t h = 0; h < sizeof hooks / sizeof *hooks; h++)
        for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
            struct compared c = { .attention = RONDO_ATTENTION_DESC_INIT, .transport = "threads", .ranks = cases[i].ranks };
            rondo_context_desc d = RONDO_CONTEXT_DESC_INIT;
            d.threads = 1;
            c.attention.heads = 4;
            c.attention.kv_heads = 2;
            c.attention.head_dim = 16;
            c.attention.value_dim = 24;
            c.attention.tokens = cases[i].tokens;
            c.attention.cached = cases[i].cached;
            c.attention.windowed = cases[i].left > 0;
            c.attention.window_left = cases[i].left;
            c.attention.causal = 1;
            c.attention.leaf = 16;
            c.attention.layout = cases[i].layout;
            c.attention.algorithm = cases[i].algorithm;
            c.attention.sinks = 1;
            c.attention.gradients = 1;
            if (hooks[h])
                setenv("RONDO_TEST_HOOK", hooks[h], 1);
            else
                unsetenv("RONDO_TEST_HOOK");
            const int err = rondo_launch(c.ranks, &d, compare_gradients, &c);
            ok(!err && !c.wrong && c.operations, "%s, gradients %zu: %d ranks say what their plans do", hooks[h] ? hooks[h] : "in place", i, c.ranks);
            if (err)
                diag("%s", rondo_error_text());
            ok(sums(&c, 1), "and operations come to it");
        }
    unsetenv("RONDO_TEST_HOOK");
}

static void gradients_refused(void)
{
    rondo_schedule_desc d = RONDO_SCHEDULE_DESC_INIT;
    rondo_attention_desc a = RONDO_ATTENTION_DESC_INIT;
    rondo_schedule *s;
    d.ranks = 3;
    d.backward = 1;
    a.heads = a.kv_heads = 2;
    a.head_dim = 8;
    a.tokens = 100;
    is_int(rondo_schedule_create(&s, &d, &a), RONDO_EINVAL, "gradients that nobody asked for: %s", rondo_error_text());
    ok(strstr(rondo_error_text(), "set gradients to 1") != NULL, "says what to do");
    a.gradients = 1;
    a.algorithm = RONDO_REDUCE;
    is_int(rondo_schedule_create(&s, &d, &a), RONDO_ENOTSUP, "by an algorithm that they do not come by: %s", rondo_error_text());
    a.algorithm = 0;
    d.backward = 2;
    is_int(rondo_schedule_create(&s, &d, &a), RONDO_EINVAL, "backward 2: %s", rondo_error_text());
    d.backward = 1;
    if (rondo_schedule_create(&s, &d, &a)) {
        ok(0, "%s", rondo_error_text());
        return;
    }
#define SAYS_WRONG(field)                                                                                          \
    s->info.field++;                                                                                               \
    is_int(rondo_schedule_check(s, NULL, NULL), RONDO_EINVAL, "gradients that say one too many: " #field);         \
    s->info.field--
    SAYS_WRONG(messages);
    SAYS_WRONG(bytes);
    SAYS_WRONG(visible_pairs);
#undef SAYS_WRONG
    is_int(rondo_schedule_check(s, NULL, NULL), 0, "they are sound");
    rondo_schedule_destroy(s);
}

/* ---- one in full ---- */

static void in_full(void)
{
    static const char *const lines[] = {
        "0 pack k: k -> packed k",
        "1 pack v: v -> packed v",
        "2 transfer pass-KV 1 of 1: packed k, packed v to rank 0, 1024000 bytes; k of rank 0, v of rank 0 from rank 0, 1024000 bytes; after 0, 1",
        "3 compute attention: q, k, v, k of rank 0, v of rank 0 -> out, lse; 1 job, 2.048e+09 FLOPs; after 2",
        "4 fence end of pass-KV; after 2, 3",
    };
    rondo_schedule_desc d = RONDO_SCHEDULE_DESC_INIT;
    rondo_attention_desc a = RONDO_ATTENTION_DESC_INIT;
    rondo_schedule_operation_info o = RONDO_SCHEDULE_OPERATION_INFO_INIT;
    rondo_schedule *s;
    d.ranks = 2;
    a.heads = 4;
    a.kv_heads = 2;
    a.head_dim = 64;
    a.tokens = 2000;
    a.layout = RONDO_CONTIGUOUS;
    a.algorithm = RONDO_PASS_KV;
    a.leaf = 8;
    a.head_groups = 1;
    a.windowed = 1;
    a.window_left = -1;
    a.window_right = -1;
    if (rondo_schedule_create(&s, &d, &a)) {
        ok(0, "%s", rondo_error_text());
        return;
    }
    for (int i = 0; i < 5; i++) {
        char text[512], cut[8] = "-------";
        const int64_t n = rondo_schedule_operation_text(s, 1, i, text, sizeof text);
        ok(n == (int64_t)strlen(text) && !strcmp(text, lines[i]), "operation %d reads as it should", i);
        if (strcmp(text, lines[i]))
            diag("%s", text);
        ok(rondo_schedule_operation_text(s, 1, i, cut, 5) == n && !strncmp(cut, lines[i], 4) && !cut[4] && cut[5] == '-' &&
               rondo_schedule_operation_text(s, 1, i, NULL, 0) == n,
           "and is cut like snprintf()");
    }
    ok(!rondo_schedule_operation(s, 1, 2, &o) && o.kind == RONDO_TRANSFER && !strcmp(o.operation, "pass-KV") && o.step == 1 && o.steps == 1 &&
           o.peer == 0 && o.counted == RONDO_OP_SHIFT && o.messages == 2 && o.bytes == 1024000 && o.received == 1024000 && !o.copied &&
           o.wait_count == 2 && o.head_group == -1,
       "a transfer field by field");
    ok(!rondo_schedule_operation(s, 1, 0, &o) && o.kind == RONDO_PACK && o.peer == -1 && o.counted == -1 && !o.bytes && o.copied == 512000,
       "a pack: it copies and sends nothing");
    for (int kind = RONDO_PACK; kind <= RONDO_FENCE; kind++)
        ok(rondo_schedule_kind_name(kind) != NULL, "kind %d has the name %s", kind, rondo_schedule_kind_name(kind));
    ok(!rondo_schedule_kind_name(-1) && !rondo_schedule_kind_name(RONDO_FENCE + 1), "no other one has");

    /* asking about other ranks between */
    is_int(rondo_schedule_operation(s, 2, 0, &o), RONDO_EINVAL, "there is no rank 2: %s", rondo_error_text());
    is_int(rondo_schedule_operation(s, 0, 99, &o), RONDO_EINVAL, "no operation 99: %s", rondo_error_text());
    is_int(rondo_schedule_operation_text(s, 0, -1, NULL, 0), RONDO_EINVAL, "no operation -1");
    is_int(rondo_schedule_operation_text(s, 0, 0, NULL, 5), RONDO_EINVAL, "nowhere to write");
    is_int(rondo_schedule_operation(NULL, 0, 0, &o), RONDO_EINVAL, "NULL");
    is_int(rondo_schedule_rank(NULL, 0, NULL), RONDO_EINVAL, "NULL");
    is_int(rondo_schedule_query(NULL, NULL), RONDO_EINVAL, "NULL");
    is_int(rondo_schedule_check(NULL, NULL, NULL), RONDO_EINVAL, "NULL");
    is_int(rondo_attention_operation(NULL, 0, &o), RONDO_EINVAL, "NULL");
    is_int(rondo_attention_operation_text(NULL, 0, NULL, 0), RONDO_EINVAL, "NULL");
    rondo_schedule_destroy(s);
    rondo_schedule_destroy(NULL);
}

/* ---- the verdict ---- */

static int told, stop_at;
static double latest;

static int progress(void *user, double done)
{
    const int backwards = done < latest || done > 1.0;
    latest = done;
    *(int *)user |= backwards;
    return ++told == stop_at;
}

static void verdicts(void)
{
    rondo_schedule_desc d = RONDO_SCHEDULE_DESC_INIT;
    rondo_attention_desc a = RONDO_ATTENTION_DESC_INIT;
    rondo_schedule *s;
    int wrong = 0;
    d.ranks = 5;
    a.heads = a.kv_heads = 2;
    a.head_dim = 64;
    a.tokens = 1000;
    if (rondo_schedule_create(&s, &d, &a)) {
        ok(0, "%s", rondo_error_text());
        return;
    }
    is_int(rondo_schedule_check(s, progress, &wrong), 0, "a schedule of 5 ranks is sound");
    ok(told >= 5 && latest == 1.0 && !wrong, "heard %d times, up to the end", told);
    told = 0;
    latest = 0.0;
    stop_at = 3;
    is_int(rondo_schedule_check(s, progress, &wrong), RONDO_ECANCELED, "the caller may stop it");
    is_int(told, 3, "at once");
#define SAYS_WRONG(field)                                                                                          \
    s->info.field++;                                                                                               \
    is_int(rondo_schedule_check(s, NULL, NULL), RONDO_EINVAL, "a schedule that says one too many: " #field);       \
    diag("%s", rondo_error_text());                                                                                \
    s->info.field--
    SAYS_WRONG(messages);
    SAYS_WRONG(bytes);
    SAYS_WRONG(visible_pairs);
#undef SAYS_WRONG
    is_int(rondo_schedule_check(s, NULL, NULL), 0, "it is sound again");
    rondo_schedule_destroy(s);
}

/* Memory that is not there, at every place. */
static void without_memory(void)
{
    rondo_schedule_desc d = RONDO_SCHEDULE_DESC_INIT;
    rondo_attention_desc a = RONDO_ATTENTION_DESC_INIT;
    rondo_schedule_rank_info r = RONDO_SCHEDULE_RANK_INFO_INIT;
    rondo_schedule_operation_info o = RONDO_SCHEDULE_OPERATION_INFO_INIT;
    rondo_schedule *s;
    int wrong = 0, tries[4] = { 0, 0, 0, 0 };
    d.ranks = 3;
    a.heads = a.kv_heads = 2;
    a.head_dim = 64;
    a.tokens = 1000;
    if (rondo_schedule_create(&s, &d, &a)) {
        ok(0, "%s", rondo_error_text());
        return;
    }
    for (int what = 0; what < 4; what++)
        for (int err = 1; err; tries[what]++) {
            d.backward = a.gradients = what / 2;
            rondo_schedule_destroy(s);   /* what was built before has left its memory */
            wrong += rondo_schedule_create(&s, &d, &a) != 0;
            outputs_calls = 0;
            outputs_fail_at = tries[what] + 1;
            err = what % 2 ? rondo_schedule_check(s, NULL, NULL) : rondo_schedule_rank(s, 1, &r);
            outputs_fail_at = 0;
            wrong += err && err != RONDO_ENOMEM;
            wrong += err && rondo_schedule_operation(s, 0, 0, &o);   /* whatever failed, the next question is answered */
        }
    ok(!wrong && tries[0] > 5 && tries[1] > 20 && tries[2] > 5 && tries[3] > 20, "each of %d and %d allocations fails, of %d and %d of gradients",
       tries[0], tries[1], tries[2], tries[3]);
    rondo_schedule_destroy(s);
}

/* What it takes to list one rank of so many, best of three; < 0: it cannot be. */
static double listed(int ranks)
{
    double best = -1.0;
    for (int i = 0; i < 3; i++) {
        rondo_schedule_desc d = RONDO_SCHEDULE_DESC_INIT;
        rondo_attention_desc a = RONDO_ATTENTION_DESC_INIT;
        rondo_schedule_rank_info mine = RONDO_SCHEDULE_RANK_INFO_INIT;
        rondo_schedule *of = NULL;
        d.ranks = ranks, d.backward = 1;
        a.heads = 4, a.kv_heads = 2, a.head_dim = 32, a.tokens = 512, a.causal = 1, a.gradients = 1, a.algorithm = RONDO_ALL_TO_ALL;
        const clock_t begin = clock();
        const int code = rondo_schedule_create(&of, &d, &a) || rondo_schedule_rank(of, 0, &mine);
        const double seconds = (double)(clock() - begin) / CLOCKS_PER_SEC;
        rondo_schedule_destroy(of);
        if (code)
            return -1.0;
        best = best < 0.0 || seconds < best ? seconds : best;
    }
    return best;
}

/* A rank asks about each pair of ranks, and no more: teams once took the cube. */
static void many_ranks(void)
{
    const double few = listed(128), many = listed(512);
    ok(few >= 0.0 && many >= 0.0 && many < 32.0 * few + 0.01, "gradients by all-to-all on 128 and 512 ranks: %.4f and %.4f s for a rank's list", few, many);
}

int main(void)
{
    rondo_hooks hooks = RONDO_HOOKS_INIT;
    hooks.allocate = outputs_take;
    hooks.release = outputs_give;
    in_full();
    verdicts();
    against_plans();
    against_gradients();
    gradients_refused();
    many_ranks();
    if (rondo_set_hooks(&hooks))
        return 1;
    without_memory();
    return done();
}
