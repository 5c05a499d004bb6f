/* SPDX-License-Identifier: BSD-2-Clause
 *
 * From logits to a token: ties, penalties and the order of the filters against a slow program that follows Hugging Face's
 * definitions one by one, the shares of many draws (chi-square), seeds, and arguments that cannot be.
 *
 * Chi-square with k - 1 degrees of freedom has mean k - 1 and variance 2(k - 1): six deviations and ten more never happen by chance,
 * and the draws are the same in every run anyway.
 */
#include "core/internal.h"
#include "lm/engine/lm.h"
#include "lm_kit.h"

#define IDS 40
#define DRAWS 6000

static rondo_model model;
static rondo_lm lm;

static int32_t draw_at(const rondo_sampling *p, const float *logits, int ids, const int32_t *seen, int64_t seen_count, int64_t position)
{
    /* Only the count of tokens and the tokens themselves matter; the list is padded by repeating its last one. */
    static int32_t list[DRAWS + 64];
    struct rondo_sequence s = { .sampling = *p, .prompt_tokens = list, .prompt = position, .count = position };
    float copy[IDS];
    int32_t token = -7;
    for (int64_t i = 0; i < position; i++)
        list[i] = seen_count ? seen[i < seen_count ? i : seen_count - 1] : IDS + 5;
    model.config.vocabulary = ids;
    memcpy(copy, logits, (size_t)ids * sizeof *copy);
    int err = rondo__sample(&lm, &s, copy, &token);
    return err ? err : token;
}

/* Probabilities by the definitions, in double; O(ids^2). */
static void reference(const rondo_sampling *p, const float *logits, int ids, const int32_t *seen, int64_t seen_count, double *share)
{
    double x[IDS], e[IDS];
    for (int i = 0; i < ids; i++) {
        x[i] = (double)logits[i];
        int was = 0;
        for (int64_t k = 0; k < seen_count; k++)
            was |= seen[k] == i;
        if (was && p->repetition_penalty > 0.0)
            x[i] = x[i] < 0.0 ? x[i] * p->repetition_penalty : x[i] / p->repetition_penalty;
        x[i] /= p->temperature;
    }
    if (p->top_k > 0) {
        double keep[IDS];
        for (int i = 0; i < ids; i++) {
            int larger = 0;
            for (int k = 0; k < ids; k++)
                larger += x[k] > x[i];
            keep[i] = larger < p->top_k ? x[i] : -INFINITY;
        }
        memcpy(x, keep, sizeof keep);
    }
    for (int filter = 0; filter < 3; filter++) {
        double top = -INFINITY, sum = 0.0;
        for (int i = 0; i < ids; i++)
            top = fmax(top, x[i]);
        for (int i = 0; i < ids; i++)
            sum += e[i] = exp(x[i] - top);
        for (int i = 0; i < ids; i++)
            share[i] = e[i] / sum;
        for (int i = 0; filter == 0 && p->top_p > 0.0 && i < ids; i++) {
            double upto = 0.0;   /* of all that are no likelier, itself included */
            for (int k = 0; k < ids; k++)
                upto += x[k] < x[i] || (x[k] == x[i] && k >= i) ? share[k] : 0.0;
            if (upto <= 1.0 - p->top_p && x[i] < top)
                e[i] = -1.0;
        }
        for (int i = 0; filter == 1 && i < ids; i++)
            if (e[i] < p->min_p)
                e[i] = -1.0;
        for (int i = 0; i < ids; i++)
            if (e[i] < 0.0)
                x[i] = -INFINITY;
    }
}

static void shares(const char *name, const rondo_sampling *p, const float *logits, int ids, const int32_t *seen, int64_t seen_count)
{
    double share[IDS], chi = 0.0;
    int got[IDS] = { 0 }, outside = 0, support = 0;
    reference(p, logits, ids, seen, seen_count, share);
    for (int64_t i = 0; i < DRAWS; i++) {
        int32_t token = draw_at(p, logits, ids, seen, seen_count, seen_count + i);
        if (token < 0 || token >= ids || share[token] <= 0.0)
            outside++;
        else
            got[token]++;
    }
    for (int i = 0; i < ids; i++) {
        if (share[i] <= 0.0)
            continue;
        support++;
        chi += (got[i] - DRAWS * share[i]) * (got[i] - DRAWS * share[i]) / (DRAWS * share[i]);
    }
    diag("%s: %d ids left, chi-square %.1f", name, support, chi);
    ok(outside == 0, "%s: only what the filters leave is drawn", name);
    ok(chi < support + 6.0 * sqrt(2.0 * support) + 10.0, "%s: as often as it should be", name);
}

static void greedy(void)
{
    rondo_sampling p = RONDO_SAMPLING_INIT;
    float logits[IDS] = { 1.0f, 3.0f, 3.0f, -2.0f, 3.0f };
    const int32_t seen[] = { 1, 1, 3 };
    is_int(draw_at(&p, logits, 5, NULL, 0, 1), 1, "greedy: the lowest id among equals");
    p.repetition_penalty = 1.5;
    is_int(draw_at(&p, logits, 5, seen, 3, 3), 2, "greedy: a penalty moves it");
    logits[2] = logits[4] = 1.9f;
    is_int(draw_at(&p, logits, 5, seen, 3, 3), 1, "greedy: the penalty counts once for an id that occurs twice");
    float below[IDS] = { -2.0f, -1.5f, -2.0f };
    is_int(draw_at(&p, below, 3, seen, 1, 1), 0, "greedy: a penalty makes negative logits more negative");
    p.repetition_penalty = 0.0;
    p.top_k = 1;
    p.top_p = 0.1;
    p.min_p = 0.9;
    is_int(draw_at(&p, logits, 5, NULL, 0, 1), 1, "greedy: filters change nothing");
    float huge[IDS] = { 1.0f, INFINITY, 2.0f };
    p.temperature = 1.0;
    is_int(draw_at(&p, huge, 3, NULL, 0, 1), 1, "an infinite logit takes all");
    float none[IDS] = { -INFINITY, -INFINITY };
    is_int(draw_at(&p, none, 2, NULL, 0, 1), 0, "nothing possible: the first id");
    float some[IDS] = { -INFINITY, 1.0f, -INFINITY };
    p = (rondo_sampling)RONDO_SAMPLING_INIT;
    p.temperature = 2.0;
    is_int(draw_at(&p, some, 3, NULL, 0, 1), 1, "minus infinity is never drawn");
    float large[IDS] = { 3e38f, 1e38f, 3e38f };
    p.temperature = 1e-6;
    int first = 0, last = 0;
    for (int64_t i = 0; i < 200; i++) {
        int32_t token = draw_at(&p, large, 3, NULL, 0, i + 1);
        first += token == 0;
        last += token == 2;
    }
    ok(first > 50 && last > 50, "scores that overflow together share");
    large[1] = NAN;
    is_int(draw_at(&p, large, 3, NULL, 0, 1), RONDO_EFORMAT, "a logit that is no number is refused");
}

static void order(void)
{
    uint64_t seed = 3;
    float logits[IDS], flat[IDS] = { 0.0f }, steps[IDS];
    int32_t seen[12];
    for (int i = 0; i < IDS; i++) {
        logits[i] = (float)(2.0 * kit_normal(&seed));
        steps[i] = (float)(i / 5);
    }
    for (int i = 0; i < 12; i++)
        seen[i] = (int32_t)(kit_random(&seed) % IDS);
    rondo_sampling p = RONDO_SAMPLING_INIT;
    p.seed = 77;
    p.temperature = 1.0;
    shares("plain", &p, logits, IDS, NULL, 0);
    shares("two of two", &p, flat, 2, NULL, 0);
    shares("one of one", &p, flat, 1, NULL, 0);
    p.temperature = 2.5;
    shares("hot", &p, logits, IDS, NULL, 0);
    p.temperature = 0.7;
    p.top_k = 7;
    shares("top-k", &p, logits, IDS, NULL, 0);
    shares("top-k with ties", &p, steps, IDS, NULL, 0);
    p.top_k = 1000;
    shares("top-k beyond the vocabulary", &p, logits, IDS, NULL, 0);
    p.top_k = 0;
    p.top_p = 0.8;
    shares("top-p", &p, logits, IDS, NULL, 0);
    p.top_p = 1e-9;
    shares("tiny top-p", &p, logits, IDS, NULL, 0);
    p.top_p = 0.0;
    p.min_p = 0.2;
    shares("min-p", &p, logits, IDS, NULL, 0);
    p.min_p = 0.05;
    p.top_p = 0.9;
    p.top_k = 12;
    p.temperature = 1.3;
    p.repetition_penalty = 1.4;
    shares("all together", &p, logits, IDS, seen, 12);
}

static void seeds(void)
{
    float flat[IDS] = { 0.0f };
    rondo_sampling p = RONDO_SAMPLING_INIT, q;
    p.temperature = 1.0;
    q = p;
    q.seed = 1ull << 40;
    int again = 0, other = 0, next = 0;
    for (int64_t i = 1; i <= 400; i++) {
        int32_t token = draw_at(&p, flat, IDS, NULL, 0, i);
        again += token == draw_at(&p, flat, IDS, NULL, 0, i);
        other += token == draw_at(&q, flat, IDS, NULL, 0, i);
        next += token == draw_at(&p, flat, IDS, NULL, 0, i + 1);
    }
    is_int(again, 400, "the same seed and position give the same token");
    ok(other < 40 && next < 40, "another seed (its upper half) or position gives another (%d and %d of 400 equal)", other, next);
}

static void refused(void)
{
    static const struct {
        const char *what;
        size_t offset;
        double value;
    } bad[] = {
        { "a negative temperature", offsetof(rondo_sampling, temperature), -1.0 },
        { "a temperature that is no number", offsetof(rondo_sampling, temperature), NAN },
        { "an infinite temperature", offsetof(rondo_sampling, temperature), INFINITY },
        { "a temperature too near to 0", offsetof(rondo_sampling, temperature), 1e-30 },
        { "top_p above 1", offsetof(rondo_sampling, top_p), 1.5 },
        { "top_p below 0", offsetof(rondo_sampling, top_p), -0.5 },
        { "min_p above 1", offsetof(rondo_sampling, min_p), 2.0 },
        { "min_p that is no number", offsetof(rondo_sampling, min_p), NAN },
        { "a negative penalty", offsetof(rondo_sampling, repetition_penalty), -1.0 },
        { "an infinite penalty", offsetof(rondo_sampling, repetition_penalty), INFINITY },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        rondo_sampling p = RONDO_SAMPLING_INIT;
        memcpy((char *)&p + bad[i].offset, &bad[i].value, sizeof bad[i].value);
        is_int(rondo__sampling_check(&p), RONDO_EINVAL, "%s is refused", bad[i].what);
    }
    rondo_sampling p = RONDO_SAMPLING_INIT;
    is_int(rondo__sampling_check(&p), 0, "the defaults are not");
    p.top_k = -1;
    is_int(rondo__sampling_check(&p), RONDO_EINVAL, "a negative top_k is refused");
    p.top_k = 0;
    p.max_tokens = -1;
    is_int(rondo__sampling_check(&p), RONDO_EINVAL, "a negative max_tokens is refused");
}

int main(void)
{
    lm.model = &model;
    greedy();
    order();
    seeds();
    refused();
    rondo__free(lm.candidates);
    return done();
}
