/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Shapes that other systems for attention over ranks compute wrong, refuse, leave out of their tests or hang on. Each is named by what became
 * of it there. Here each is held against the oracle on one rank, and has one hash on 1 to 9 ranks, with every algorithm and layout;
 * RONDO_TEST_LONG=1 takes all combinations, else each number of ranks takes a third of them.
 */
#include "t/attention.h"

static const struct {
    const char *elsewhere;
    struct problem p;
} cases[] = {
    { "ranks are taken in pairs that swap halves: an odd number of them fails",
      { .tokens = { 107 }, .heads = 4, .kv_heads = 2, .head_dim = 16, .causal = 1, .leaf = 8 } },
    { "a length that twice the ranks do not divide gives wrong numbers without a word",
      { .tokens = { 131 }, .heads = 2, .kv_heads = 2, .head_dim = 16, .causal = 1, .leaf = 8 } },
    { "only the last rank may have fewer tokens",
      { .tokens = { 65 }, .cached = { 57 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .leaf = 8 } },
    { "packed sequences must each be divided by the ranks",
      { .sequences = 4, .tokens = { 31, 57, 3, 90 }, .heads = 4, .kv_heads = 4, .head_dim = 16, .causal = 1, .leaf = 8 } },
    { "packed sequences are tested with as many KV heads as heads only",
      { .sequences = 4, .tokens = { 16, 32, 64, 16 }, .heads = 8, .kv_heads = 2, .head_dim = 8, .causal = 1, .leaf = 8 } },
    { "five heads, one sequence nine times as long as another: printed, not asserted",
      { .sequences = 3, .tokens = { 12, 113, 105 }, .heads = 5, .kv_heads = 5, .head_dim = 16, .causal = 1, .leaf = 8 } },
    { "an empty sequence in a batch",
      { .sequences = 5, .tokens = { 0, 40, 0, 33, 0 }, .cached = { 0, 0, 25, 7, 0 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .causal = 1,
        .leaf = 8 } },
    { "a batch of equal sequences: tests index the wrong axis and compare the first tokens only",
      { .sequences = 4, .tokens = { 40, 40, 40, 40 }, .cached = { 24, 24, 24, 24 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .leaf = 8 } },
    { "documents that are cut between ranks leak into each other",
      { .tokens = { 190 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .causal = 1, .leaf = 8, .documents = 45 } },
    { "a document cut at a rank's right edge is aligned wrong where nothing is causal: windows",
      { .tokens = { 170 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .windowed = 1, .left = 13, .right = 9, .leaf = 8, .documents = 60 } },
    { "a document cut at a rank's right edge is aligned wrong where nothing is causal: ALiBi",
      { .tokens = { 170 }, .heads = 4, .kv_heads = 2, .head_dim = 16, .leaf = 8, .documents = 60, .alibi = 1 } },
    { "all keys of a packed row but those of one's document are masked, for keys and queries of different lengths",
      { .tokens = { 60 }, .cached = { 110 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .causal = 1, .leaf = 8, .documents = -30 } },
    { "a window that is not causal is misaligned for every block but the last",
      { .tokens = { 150 }, .heads = 2, .kv_heads = 2, .head_dim = 16, .windowed = 1, .left = 20, .right = 11, .leaf = 8 } },
    { "a window in a zigzag layout is refused, or goes unshifted to every hop",
      { .tokens = { 180 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .causal = 1, .windowed = 1, .left = 25, .right = -1, .leaf = 8 } },
    { "a window is longer than a rank's tokens, one hop of a halo",
      { .tokens = { 120 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .causal = 1, .windowed = 1, .left = 70, .right = -1, .leaf = 8 } },
    { "a window with keys after the query only",
      { .tokens = { 120 }, .cached = { 9 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .windowed = 1, .left = -1, .right = 3, .leaf = 8 } },
    { "sinks are dropped without a word where ranks share a sequence",
      { .tokens = { 140 }, .heads = 4, .kv_heads = 2, .head_dim = 16, .causal = 1, .leaf = 8, .sinks = 1 } },
    { "sinks beside a window, as models have them, are refused",
      { .tokens = { 140 }, .cached = { 30 }, .heads = 4, .kv_heads = 2, .head_dim = 16, .causal = 1, .windowed = 1, .left = 31, .right = -1, .leaf = 8,
        .sinks = 1 } },
    { "a softcap is forced to 0",
      { .tokens = { 120 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .causal = 1, .leaf = 8, .softcap = 1.5 } },
    { "the scale is dropped",
      { .tokens = { 90 }, .cached = { 40 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .causal = 1, .leaf = 8, .scale = 0.61 } },
    { "slopes are sliced wrong where heads are shared out",
      { .tokens = { 100 }, .cached = { 20 }, .heads = 6, .kv_heads = 3, .head_dim = 16, .causal = 1, .leaf = 8, .alibi = 1 } },
    { "a bias is cut along the keys only, or must have keys that ranks divide",
      { .tokens = { 83 }, .cached = { 50 }, .heads = 4, .kv_heads = 2, .head_dim = 16, .leaf = 8, .bias = 4 } },
    { "a bias, one for all heads, on packed sequences is refused",
      { .sequences = 3, .tokens = { 40, 9, 51 }, .cached = { 3, 0, 20 }, .heads = 4, .kv_heads = 2, .head_dim = 16, .causal = 1, .leaf = 8, .bias = 1 } },
    { "arbitrary masks are refused beside a ring",
      { .tokens = { 130 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .leaf = 8, .mask = 1, .mask_kind = 1 } },
    { "a mask is ignored where attention is causal",
      { .tokens = { 90 }, .cached = { 33 }, .heads = 2, .kv_heads = 2, .head_dim = 16, .causal = 1, .leaf = 8, .mask = 2 } },
    { "what is dropped depends on the number of ranks",
      { .tokens = { 110 }, .cached = { 17 }, .heads = 4, .kv_heads = 2, .head_dim = 16, .causal = 1, .leaf = 8, .dropout = 0.25 } },
    { "probabilities are not given back by a distributed run",
      { .tokens = { 70 }, .cached = { 30 }, .heads = 4, .kv_heads = 2, .head_dim = 16, .causal = 1, .leaf = 8, .probs = 1, .probs_first = 11 } },
    { "queries and keys of different lengths, not causal, fall back to one rank",
      { .tokens = { 37 }, .cached = { 123 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .leaf = 8 } },
    { "more queries than keys: rows that see nothing become NaN, and so does a rank that has only such",
      { .tokens = { 130 }, .cached = { -90 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .causal = 1, .leaf = 8 } },
    { "two empty partial results merge to NaN",
      { .tokens = { 96 }, .cached = { -48 }, .heads = 2, .kv_heads = 2, .head_dim = 16, .causal = 1, .windowed = 1, .left = 4, .right = -1, .leaf = 8,
        .sinks = 1 } },
    { "partial results are merged by log(1 + exp(x)), which overflows",
      { .tokens = { 100 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .causal = 1, .leaf = 8, .spread = 12.0 } },
    { "more ranks than tokens",
      { .tokens = { 5 }, .heads = 4, .kv_heads = 4, .head_dim = 16, .causal = 1, .leaf = 8 } },
    { "more ranks than leaves, keys on few of them",
      { .tokens = { 3 }, .cached = { 17 }, .heads = 4, .kv_heads = 2, .head_dim = 16, .causal = 1, .leaf = 8 } },
    { "prefill over cached keys",
      { .sequences = 2, .tokens = { 41, 23 }, .cached = { 77, 130 }, .heads = 4, .kv_heads = 2, .head_dim = 16, .causal = 1, .leaf = 8 } },
    { "a decode step of fewer sequences than ranks",
      { .sequences = 3, .tokens = { 1, 1, 1 }, .cached = { 200, 5, 63 }, .heads = 4, .kv_heads = 1, .head_dim = 16, .causal = 1, .leaf = 8 } },
    { "several new tokens a sequence, as in speculative decoding",
      { .sequences = 3, .tokens = { 4, 3, 4 }, .cached = { 99, 0, 31 }, .heads = 4, .kv_heads = 1, .head_dim = 16, .causal = 1, .leaf = 8 } },
    { "heads that ranks do not divide",
      { .tokens = { 100 }, .heads = 7, .kv_heads = 7, .head_dim = 8, .causal = 1, .leaf = 8 } },
    { "fewer KV heads than ranks, heads that do not divide within a group",
      { .tokens = { 100 }, .heads = 6, .kv_heads = 2, .head_dim = 8, .causal = 1, .leaf = 8 } },
    { "values of another width than keys are refused",
      { .tokens = { 70 }, .cached = { 22 }, .heads = 4, .kv_heads = 2, .head_dim = 24, .value_dim = 16, .causal = 1, .leaf = 8 } },
    { "values inside keys, one KV head for all, as latent attention has it",
      { .tokens = { 50 }, .cached = { 61 }, .heads = 4, .kv_heads = 1, .head_dim = 72, .value_dim = 64, .causal = 1, .leaf = 8, .shared_kv = 1,
        .kv_type = RONDO_BF16 } },
    { "head sizes beside 64 and 128",
      { .tokens = { 50 }, .cached = { 13 }, .heads = 2, .kv_heads = 1, .head_dim = 80, .value_dim = 256, .causal = 1, .leaf = 8 } },
    { "half precision that is rounded at every hop",
      { .tokens = { 120 }, .heads = 4, .kv_heads = 2, .head_dim = 16, .causal = 1, .leaf = 8, .q_type = RONDO_F16, .kv_type = RONDO_F16 } },
};

static const int algorithms[] = { RONDO_PASS_KV, RONDO_PASS_Q, RONDO_ALL_GATHER, RONDO_ALL_TO_ALL, RONDO_REDUCE, RONDO_HALO, RONDO_MESH };

/* Leaves to ranks as they fall: by Philox, and to the upper half of the ranks only, so that some have none. */
static void draw_owners(const struct problem *p, int ranks, uint32_t seed, int32_t owners[64])
{
    int at = 0;
    for (int64_t s = 0; s < p->sequences; s++)
        for (int64_t k = 0; k < p->cached[s] + p->tokens[s] && at < 64; k += p->leaf) {
            const uint32_t counter[4] = { (uint32_t)at, 0, 0, 0 }, key[2] = { seed, 3016 };
            uint32_t out[4];
            rondo_philox(out, counter, key);
            owners[at++] = (int32_t)((uint32_t)ranks / 2 + out[0] % (uint32_t)(ranks - ranks / 2));
        }
}

int main(void)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct problem p = cases[i].p;
        struct result r;
        p.seed = 700 + (uint32_t)i;
        problem_data(&p);
        int err = solve(&p, &(struct setup){ .ranks = 1 }, &r);
        if (!ok(!err, "%s: here it runs on one rank", cases[i].elsewhere)) {
            diag("%s", rondo_error_text());
            problem_free(&p);
            continue;
        }
        const double worst = worst_error(&p, &r, NULL);
        ok(worst <= 1.0, "... the worst error is %.3f of its bound", worst);
        const uint64_t want = r.hash;
        result_free(&r);
        int same = 1, agree = 1, ran = 0;
        for (int ranks = 1; ranks <= 9; ranks++)
            for (int layout = RONDO_CONTIGUOUS; layout <= RONDO_CUSTOM; layout++)
                for (int a = 0; a < (int)(sizeof algorithms / sizeof *algorithms); a++) {
                    int32_t owners[64];
                    struct setup s = { .ranks = ranks, .layout = layout, .algorithm = algorithms[a] };
                    if (!long_tests() && (ranks + layout + a + (int)i) % 3)
                        continue;
                    if (layout == RONDO_CUSTOM) {
                        draw_owners(&p, ranks, p.seed + (uint32_t)(9 * a + ranks), owners);
                        s.owners = owners;
                    }
                    hook_use(ran++ % 3 == 2 ? "copy" : NULL);
                    err = solve(&p, &s, &r);
                    hook_use(NULL);
                    const int right = !err && r.hash == want;
                    if (!right || !r.agree)
                        diag("%d ranks, %s, %s: %s", ranks, rondo_layout_name(layout), rondo_algorithm_name(s.algorithm),
                             err ? rondo_error_text() : right ? "not the messages, bytes and pairs of the plan" : "other bits");
                    same &= right;
                    agree &= err || r.agree;
                    result_free(&r);
                }
        ok(same, "... and has one hash in %d runs on 1 to 9 ranks", ran);
        ok(agree, "... with the messages, bytes and pairs that the plan says");
        problem_free(&p);
    }
    return done();
}
