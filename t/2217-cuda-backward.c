/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Gradients of attention on the device "cuda", on the fake driver: with each mask, term and type, on one rank and on several by all algorithms, they have
 * the bits of the cpu device on one rank.
 */
#include "t/backward.h"
#include "t/card.h"

static const struct {
    const char *name;
    struct problem p;
} cases[] = {
    { "causal", { .tokens = { 150 }, .heads = 4, .kv_heads = 2, .head_dim = 16, .causal = 1, .leaf = 32, .seed = 1 } },
    { "full, Dv of its own, one leaf and a bit", { .tokens = { 70 }, .heads = 2, .kv_heads = 1, .head_dim = 9, .value_dim = 21, .leaf = 64, .seed = 2 } },
    { "fewer keys than queries", { .tokens = { 90 }, .cached = { -41 }, .heads = 2, .kv_heads = 1, .head_dim = 8, .causal = 1, .leaf = 16, .seed = 5 } },
    { "window, packed", { .sequences = 5, .tokens = { 33, 1, 0, 64, 17 }, .cached = { 0, 0, 0, 5, 40 }, .heads = 4, .kv_heads = 2,
                          .head_dim = 8, .windowed = 1, .left = 23, .right = 5, .leaf = 16, .seed = 7 } },
    { "documents that come back", { .tokens = { 120 }, .heads = 2, .kv_heads = 1, .head_dim = 8, .documents = -17, .leaf = 16, .seed = 9 } },
    { "mask of each head", { .tokens = { 75 }, .heads = 2, .kv_heads = 1, .head_dim = 8, .mask = 2, .causal = 1, .leaf = 16, .seed = 10 } },
    { "bias", { .sequences = 2, .tokens = { 45, 30 }, .cached = { 0, 11 }, .heads = 4, .kv_heads = 2, .head_dim = 8, .bias = 4,
                .causal = 1, .leaf = 16, .seed = 13 } },
    { "one bias for all sequences", { .sequences = 3, .tokens = { 96, 96, 96 }, .cached = { 48, 48, 48 }, .heads = 4, .kv_heads = 2,
                                      .head_dim = 8, .value_dim = 12, .causal = 1, .leaf = 16, .bias = 4, .bias_alike = 1, .seed = 77 } },
    { "one bias for all heads, softcap", { .tokens = { 60 }, .heads = 5, .kv_heads = 1, .head_dim = 8, .bias = 1, .softcap = 3, .leaf = 16, .seed = 14 } },
    { "all terms", { .sequences = 2, .tokens = { 50, 33 }, .heads = 4, .kv_heads = 2, .head_dim = 10, .value_dim = 6, .causal = 1,
                     .softcap = 4, .alibi = 1, .sinks = 1, .dropout = 0.2, .leaf = 16, .seed = 17 } },
    { "bf16", { .tokens = { 80 }, .heads = 2, .kv_heads = 1, .head_dim = 16, .causal = 1, .q_type = RONDO_BF16, .kv_type = RONDO_BF16,
                .leaf = 32, .seed = 18 } },
    { "f16, 200 dimensions", { .tokens = { 80 }, .heads = 3, .kv_heads = 1, .head_dim = 200, .value_dim = 136, .causal = 1,
                               .q_type = RONDO_F16, .kv_type = RONDO_F16, .leaf = 32, .seed = 19 } },
    { "a leaf of 128", { .tokens = { 300 }, .cached = { -30 }, .heads = 2, .kv_heads = 1, .head_dim = 32, .causal = 1, .seed = 20 } },
    { "leaves of 256", { .tokens = { 300 }, .cached = { 17 }, .heads = 2, .kv_heads = 2, .head_dim = 20, .leaf = 256, .seed = 24 } },
    { "a query", { .tokens = { 1 }, .cached = { 70 }, .heads = 2, .kv_heads = 1, .head_dim = 8, .leaf = 16, .seed = 22 } },
};
#define CASES (sizeof cases / sizeof *cases)

static int on(const char *device, const struct problem *p, int ranks, int layout, int algorithm, int strided, struct gradients *g)
{
    struct backward_setup s = { .ranks = ranks, .layout = layout, .algorithm = algorithm, .strided = strided, .with_dlse = p->seed % 2 == 0 };
    s.types[0] = p->q_type;
    s.types[1] = s.types[2] = p->kv_type;
    setenv("RONDO_TEST_DEVICE", device, 1);
    const int err = solve_backward(p, &s, g);
    if (err)
        diag("%s", rondo_error_text());
    return err;
}

int main(void)
{
    static const struct {
        int ranks, layout, algorithm;
    } ways[] = { { 1, RONDO_CONTIGUOUS, RONDO_ALGORITHM_AUTO }, { 3, RONDO_ZIGZAG, RONDO_ALL_GATHER }, { 2, RONDO_CONTIGUOUS, RONDO_ALL_TO_ALL },
                 { 3, RONDO_ZIGZAG, RONDO_PASS_KV }, { 2, RONDO_STRIPED, RONDO_PASS_Q } };
    enum { WAYS = sizeof ways / sizeof *ways };
    const char *why = card_open();
    if (why)
        return skip_all("%s", why);
    for (size_t i = 0; i < CASES; i++) {
        struct problem p = cases[i].p;
        struct gradients one;
        problem_data(&p);
        int err = on("cpu", &p, 1, RONDO_CONTIGUOUS, RONDO_ALGORITHM_AUTO, 0, &one), wrong = 0;
        for (int n = 0; n < WAYS && !err; n++) {
            struct gradients g;
            if (!long_tests() && n != (int)i % WAYS)
                continue;
            err = on("cuda", &p, ways[n].ranks, ways[n].layout, ways[n].algorithm, n % 2, &g);
            const int same = !err && gradients_same(&p, &one, &g);
            if (!same)
                diag("%d ranks, algorithm number %d", ways[n].ranks, ways[n].algorithm);
            wrong += !same;
            gradients_free(&g);
        }
        ok(!err && !wrong, "%s: the card has the processor's bits", cases[i].name);
        gradients_free(&one);
        problem_free(&p);
    }
    return done();
}
