/* SPDX-License-Identifier: BSD-2-Clause
 *
 * NaN and infinity in the data stay where they can be seen: hidden keys may hold anything without changing a bit, a visible NaN reaches
 * its own rows, or its own column only when it stands in V; the same on any number of ranks.
 */
#include "t/attention.h"

static const struct problem base = { .tokens = { 120 }, .cached = { 50 }, .heads = 4, .kv_heads = 2, .head_dim = 16, .value_dim = 8,
                                     .causal = 1, .leaf = 8, .seed = 400 };

static int is_nan(const struct result *r, const struct problem *p, int64_t row, int64_t head, int64_t dim)
{
    float x = ((const float *)(const void *)r->out)[(row * p->heads + head) * p->value_dim + dim];
    uint32_t b;
    memcpy(&b, &x, 4);
    if (x != x && b != 0x7fc00000u)
        return -1;
    return x != x;
}

/* Runs on 1 to 7 ranks with every algorithm: one hash. Keeps the last result. */
static int everywhere(const struct problem *p, struct result *r)
{
    uint64_t want = 0;
    int same = 1;
    for (int ranks = 7; ranks >= 1; ranks--)
        for (int a = RONDO_PASS_KV; a <= RONDO_MESH; a++) {
            struct setup s = { .ranks = ranks, .algorithm = a, .layout = 1 + ranks % 4 };
            result_free(r);
            if (solve(p, &s, r))
                return 0;
            if (ranks == 7 && a == RONDO_PASS_KV)
                want = r->hash;
            same &= r->hash == want;
        }
    return same;
}

int main(void)
{
    struct problem p;
    struct result r, clean;
    memset(&r, 0, sizeof r);
    memset(&clean, 0, sizeof clean);

    /* a window: keys 0..18 are seen by nobody, key 60 by queries 60 to 90 */
    p = base;
    p.windowed = 1;
    p.left = 30;
    p.right = -1;
    problem_data(&p);
    ok(everywhere(&p, &clean), "a window of 30");
    for (int64_t i = 0; i < 19 * 2 * 16; i++)
        ((float *)p.k)[i] = i % 3 ? NAN : INFINITY;
    for (int64_t i = 0; i < 19 * 2 * 8; i++)
        ((float *)p.v)[i] = i % 2 ? NAN : -INFINITY;
    ok(everywhere(&p, &r) && r.hash == clean.hash, "keys that nobody sees may be NaN");
    ((float *)p.k)[(60 * 2 + 1) * 16 + 5] = NAN;
    ok(everywhere(&p, &r), "a NaN in key 60 of KV head 1: one hash");
    int good = 1;
    for (int64_t i = 0; i < 120; i++)
        for (int64_t h = 0; h < 4; h++) {
            int seen = h >= 2 && i + 50 >= 60 && i + 50 <= 90;
            for (int64_t d = 0; d < 8; d++)
                good &= is_nan(&r, &p, i, h, d) == seen;
            good &= (r.lse[i * 4 + h] != r.lse[i * 4 + h]) == seen;
            if (!seen)
                good &= !memcmp(r.out + (i * 4 + h) * 32, clean.out + (i * 4 + h) * 32, 32) && r.lse[i * 4 + h] == clean.lse[i * 4 + h];
        }
    ok(good, "it reaches the rows that see it and no others");
    result_free(&r);
    result_free(&clean);
    problem_free(&p);

    p = base;
    problem_data(&p);
    ok(everywhere(&p, &clean), "causal");
    ((float *)p.v)[(100 * 2 + 0) * 8 + 3] = NAN;
    ((float *)p.v)[(110 * 2 + 0) * 8 + 4] = INFINITY;
    ok(everywhere(&p, &r), "a NaN and an infinity in V: one hash");
    good = 1;
    for (int64_t i = 0; i < 120; i++)
        for (int64_t h = 0; h < 4; h++)
            for (int64_t d = 0; d < 8; d++) {
                float x = ((float *)(void *)r.out)[(i * 4 + h) * 8 + d], c = ((float *)(void *)clean.out)[(i * 4 + h) * 8 + d];
                int nan = h < 2 && i + 50 >= 100 && d == 3, infinite = h < 2 && i + 50 >= 110 && d == 4;
                if (nan)
                    good &= is_nan(&r, &p, i, h, d) == 1;
                else if (infinite)
                    good &= !(fabsf(x) <= FLT_MAX);
                else
                    good &= !memcmp(&x, &c, 4);
            }
    ok(good, "they reach their own columns of the rows that see them, no others");
    good = 1;
    for (int64_t i = 0; i < 120 * 4; i++)
        good &= r.lse[i] == clean.lse[i];
    ok(good, "and not lse");
    result_free(&r);
    problem_free(&p);

    p = base;
    problem_data(&p);
    ((float *)p.q)[(7 * 4 + 2) * 16] = NAN;
    ((float *)p.q)[(9 * 4 + 1) * 16] = INFINITY;
    ok(everywhere(&p, &r), "NaN and infinity in queries: one hash");
    good = 1;
    for (int64_t i = 0; i < 120; i++)
        for (int64_t h = 0; h < 4; h++) {
            int touched = (i == 7 && h == 2) || (i == 9 && h == 1);
            if (touched)
                good &= is_nan(&r, &p, i, h, 0) == 1;
            else
                good &= !memcmp(r.out + (i * 4 + h) * 32, clean.out + (i * 4 + h) * 32, 32);
        }
    ok(good, "they reach their own rows only");
    result_free(&r);
    result_free(&clean);
    problem_free(&p);

    /* scores of -inf: a key of -inf against positive queries hides itself; rows that see only such keys are empty */
    p = base;
    p.cached[0] = 0;
    p.tokens[0] = 40;
    problem_data(&p);
    for (int64_t i = 0; i < p.q_rows * 4 * 16; i++)
        ((float *)p.q)[i] = fabsf(((float *)p.q)[i]) + 0.1f;
    for (int64_t i = 0; i < 10 * 2; i++)
        ((float *)p.k)[i * 16 + 3] = -INFINITY;
    ok(everywhere(&p, &r), "scores of -inf: one hash");
    good = 1;
    for (int64_t i = 0; i < 10 * 4; i++) {
        good &= r.lse[i] == -INFINITY;
        for (int64_t d = 0; d < 8; d++)
            good &= ((float *)(void *)r.out)[i * 8 + d] == 0.0f;
    }
    for (int64_t i = 10 * 4; i < 40 * 4; i++)
        good &= r.lse[i] > -1000.0f && r.lse[i] < 1000.0f;
    ok(good, "rows that see nothing else are 0 with lse -inf, the others are as if those keys were hidden");
    result_free(&r);
    problem_free(&p);
    return done();
}
