/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Rings that go round: small messages go straight to who needs them, so that problems of the size of tests never see a parcel travel on. Rows here
 * are wide, so that few of them are a large message, and what each hop does - places that are used in turn, rows that nobody sees at
 * either end of a parcel, several sequences in one, queries that see nothing on their way - is held against the bits of one rank. Combinations
 * are drawn; RONDO_TEST_LONG=1 draws more.
 */
#include "t/attention.h"

static const struct {
    const char *what;
    struct problem p;
} cases[] = {
    { "causal", { .tokens = { 150 }, .heads = 8, .kv_heads = 8, .head_dim = 192, .causal = 1 } },
    { "all see all, values of another width", { .tokens = { 130 }, .heads = 8, .kv_heads = 4, .head_dim = 256, .value_dim = 128 } },
    { "cached keys", { .tokens = { 90 }, .cached = { 75 }, .heads = 8, .kv_heads = 8, .head_dim = 192, .causal = 1 } },
    { "queries that see nothing", { .tokens = { 170 }, .cached = { -70 }, .heads = 8, .kv_heads = 8, .head_dim = 192, .causal = 1 } },
    { "keys that a window has left behind",
      { .tokens = { 100 }, .cached = { 110 }, .heads = 8, .kv_heads = 8, .head_dim = 192, .windowed = 1, .left = 90, .right = 90 } },
    { "several sequences",
      { .sequences = 5, .tokens = { 70, 0, 9, 90, 33 }, .cached = { 12, 40, 50, -30, 0 }, .heads = 8, .kv_heads = 8, .head_dim = 128, .causal = 1 } },
    { "documents that come back, with every term",
      { .tokens = { 110 }, .cached = { 30 }, .heads = 8, .kv_heads = 4, .head_dim = 256, .documents = -40, .softcap = 3.0, .alibi = 1, .sinks = 1, .bias = 8,
        .dropout = 0.1, .probs = 1, .probs_first = 20, .probs_count = 40 } },
    { "values inside keys, one boolean mask",
      { .tokens = { 100 }, .cached = { 20 }, .heads = 8, .kv_heads = 4, .head_dim = 320, .value_dim = 256, .shared_kv = 1, .mask = 1, .mask_kind = 1 } },
};

/* No hook most often, which is in place; copies, streams of a data plane, a device with memory of its own, late. */
static const char *const hooks[] = { NULL, NULL, "copy", "copy", "plane", "space,defer:1", "copy,space,defer:2", "plane,space,defer:3" };

static uint32_t drawn = 1;
static int draw(uint32_t below)
{
    uint32_t out[4], counter[4] = { drawn++, 0, 0, 0 }, key[2] = { 3017, 0 };
    rondo_philox(out, counter, key);
    return (int)(out[0] % below);
}

/* Whether what rank 0 sends in the second step goes to its neighbour, as all that it sends. */
static int goes_round(const struct problem *p, const struct setup *s)
{
    rondo_schedule_desc on = RONDO_SCHEDULE_DESC_INIT;
    rondo_attention_desc d;
    rondo_schedule *schedule = NULL;
    rondo_schedule_rank_info info = RONDO_SCHEDULE_RANK_INFO_INIT;
    int round = 0;
    describe(p, s, &d);
    on.ranks = s->ranks;
    if (rondo_schedule_create(&schedule, &on, &d) || rondo_schedule_rank(schedule, 0, &info))
        return 0;
    for (int64_t i = 0; i < info.operations; i++) {
        rondo_schedule_operation_info o = RONDO_SCHEDULE_OPERATION_INFO_INIT;
        if (!rondo_schedule_operation(schedule, 0, i, &o) && o.kind == RONDO_TRANSFER && o.step == 2 &&
            (!strcmp(o.operation, "pass-KV") || !strcmp(o.operation, "pass-Q")) && o.messages)
            round = o.peer == 1;
    }
    rondo_schedule_destroy(schedule);
    return round;
}

int main(void)
{
    const int runs = long_tests() ? 600 : 44;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct problem p = cases[i].p;
        struct result r;
        int same = 1, agree = 1, round = 0;
        p.leaf = 8;
        p.seed = 900 + (uint32_t)i;
        problem_data(&p);
        if (!ok(!solve(&p, &(struct setup){ .ranks = 1 }, &r), "%s: one rank", cases[i].what)) {
            diag("%s", rondo_error_text());
            problem_free(&p);
            continue;
        }
        const uint64_t want = r.hash;
        result_free(&r);
        for (int run = 0; run < runs; run++) {
            struct setup s = { .ranks = 3 + draw(5), .layout = 1 + draw(5), .algorithm = run % 2 ? RONDO_PASS_KV : RONDO_PASS_Q, .strided = draw(3) == 0 };
            const char *hook = hooks[draw(sizeof hooks / sizeof *hooks)];
            s.alias = draw(4) == 0 && p.value_dim == p.head_dim && !p.probs;
            s.head_groups = draw(3) ? 1 : 2;
            round += goes_round(&p, &s);
            hook_use(hook);
            const int err = solve(&p, &s, &r), right = !err && r.hash == want;
            hook_use(NULL);
            if ((!right && same) || (!err && !r.agree && agree))
                diag("%d ranks, %s, %s, %d head groups, hook %s: %s", s.ranks, rondo_layout_name(s.layout), rondo_algorithm_name(s.algorithm), s.head_groups,
                     hook ? hook : "none", err ? rondo_error_text() : right ? "not what the plan says of messages" : "other bits");
            same &= right;
            agree &= err || r.agree;
            result_free(&r);
        }
        ok(same, "... one hash in %d runs", runs);
        ok(agree, "... with the messages, bytes and pairs that the plan says");
        ok(round * 3 > runs, "... and most go round: %d", round);
        problem_free(&p);
    }
    return done();
}
