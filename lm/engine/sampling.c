/* SPDX-License-Identifier: BSD-2-Clause
 *
 * From logits to a token. Called by generate.c on the rank that draws for a sequence (rows.c); the others are told.
 *
 * The steps are Hugging Face's, in its order: repetition penalty (Keskar et al. 2019) over the prompt and what was generated,
 * temperature, top-k, top-p (Holtzman et al. 2020), min-p (Nguyen et al. 2024), then one draw. The first two work in float, like
 * the reference; weights are exp(score - largest score) in double by rondo_exp(), added up in a fixed order. The draw comes
 * from Philox, keyed by the seed alone and counted by the position of the new token: a sequence draws in a batch what
 * it draws alone, and two requests with the same prompt and seed are the same request.
 *
 * Greedy is temperature 0: the largest logit after the repetition penalty, the lowest id among equals. Ids beyond the
 * tokenizer's (padding rows of the embedding) are never chosen.
 */
#include "core/internal.h"
#include "lm/engine/lm.h"

struct candidate {
    float score;
    int32_t id;
    double weight;
};

int rondo__sampling_check(const rondo_sampling *s)
{
    if (!(s->temperature >= 0.0) || s->temperature > 1e6)
        return rondo__fail(RONDO_EINVAL, "the temperature is %g; 0 (greedy) to 1e6 would be accepted", s->temperature);
    if (s->temperature > 0.0 && s->temperature < 1e-6)
        return rondo__fail(RONDO_EINVAL, "the temperature is %g; 0 (greedy) or 1e-6 and more would be accepted", s->temperature);
    if (!(s->top_p >= 0.0) || s->top_p > 1.0)
        return rondo__fail(RONDO_EINVAL, "top_p is %g; 0 (off) to 1 would be accepted", s->top_p);
    if (!(s->min_p >= 0.0) || s->min_p > 1.0)
        return rondo__fail(RONDO_EINVAL, "min_p is %g; 0 (off) to 1 would be accepted", s->min_p);
    if (s->repetition_penalty != 0.0 && !(s->repetition_penalty >= 1e-3 && s->repetition_penalty <= 1e3))
        return rondo__fail(RONDO_EINVAL, "the repetition penalty is %g; 0 or 1 (off), else 0.001 to 1000 would be accepted", s->repetition_penalty);
    if (s->top_k < 0)
        return rondo__fail(RONDO_EINVAL, "top_k is %lld; 0 (off) and more would be accepted", (long long)s->top_k);
    if (s->max_tokens < 0)
        return rondo__fail(RONDO_EINVAL, "max_tokens is %lld; 0 and more would be accepted", (long long)s->max_tokens);
    return 0;
}

bool rondo__canonical_nans(float *x, int64_t count)
{
    bool any = false;
    for (int64_t i = 0; i < count; i++) {
        if (x[i] != x[i]) {
            const uint32_t bits = 0x7fc00000u;
            memcpy(&x[i], &bits, sizeof bits);
            any = true;
        }
    }
    return any;
}

/* Descending by score, ascending by id: a total order, so the result does not depend on how it is sorted. */
static bool before(const struct candidate *a, const struct candidate *b)
{
    return a->score > b->score || (a->score == b->score && a->id < b->id);
}

static void sift(struct candidate *heap, int64_t at, int64_t count)
{
    struct candidate moving = heap[at];
    for (int64_t child = 2 * at + 1; child < count; child = 2 * at + 1) {
        if (child + 1 < count && before(&heap[child], &heap[child + 1]))
            child++;
        if (!before(&moving, &heap[child]))
            break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = moving;
}

static void sort(struct candidate *c, int64_t count)
{
    for (int64_t i = count / 2 - 1; i >= 0; i--)
        sift(c, i, count);
    for (int64_t last = count - 1; last > 0; last--) {
        struct candidate top = c[0];
        c[0] = c[last];
        c[last] = top;
        sift(c, 0, last);
    }
}

/* Each id that occurs among the tokens once. The candidates' ids serve as marks before they are filled. */
static void penalise(const struct rondo_sequence *s, float *logits, int64_t ids, struct candidate *marks)
{
    const float penalty = (float)s->sampling.repetition_penalty;
    for (int64_t i = 0; i < ids; i++)
        marks[i].id = 0;
    for (int64_t i = 0; i < s->count; i++) {
        const int32_t id = i < s->prompt ? s->prompt_tokens[i] : s->new_tokens[i - s->prompt];
        if (id >= ids || marks[id].id)
            continue;
        marks[id].id = 1;
        logits[id] = logits[id] < 0.0f ? logits[id] * penalty : logits[id] / penalty;
    }
}

static double uniform(uint64_t seed, int64_t position)
{
    const uint32_t key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) };
    const uint32_t counter[4] = { (uint32_t)(uint64_t)position, (uint32_t)((uint64_t)position >> 32), 0x73616d70u, 0 };   /* "samp" */
    uint32_t out[4];
    rondo_philox(out, counter, key);
    return (double)(((uint64_t)out[1] << 32 | out[0]) >> 11) * 0x1p-53;
}

/* Probability over the largest one. Equal scores are told apart first: they may be infinite, after a small temperature. */
static double weight(const struct candidate *c, int64_t i)
{
    return c[i].score == c[0].score ? 1.0 : rondo_exp((double)c[i].score - (double)c[0].score);
}

static double weigh(struct candidate *c, int64_t count)
{
    double total = 0.0;
    for (int64_t i = 0; i < count; i++) {
        c[i].weight = weight(c, i);
        total += c[i].weight;
    }
    return total;
}

/* The candidates are sorted from here on; each step returns how many of the first remain, at least one. */
static int64_t top_k(const struct candidate *c, int64_t count, int64_t k)
{
    if (k == 0 || k >= count)
        return count;
    while (k < count && c[k].score == c[k - 1].score)   /* all that equal the k-th stay, as in the reference */
        k++;
    return k;
}

/* The reference goes upwards from the least likely and drops while the sum of probabilities is at most 1 - p. */
static int64_t top_p(struct candidate *c, int64_t count, double p)
{
    if (p == 0.0 || p >= 1.0)
        return count;
    double total = weigh(c, count), tail = 0.0;
    while (count > 1) {
        tail += c[count - 1].weight;
        if (tail / total > 1.0 - p)
            break;
        count--;
    }
    return count;
}

static int64_t min_p(const struct candidate *c, int64_t count, double p)
{
    while (count > 1 && weight(c, count - 1) < p)
        count--;
    return count;
}

int rondo__sample(rondo_lm *lm, const struct rondo_sequence *s, float *logits, int32_t *token)
{
    const rondo_sampling *p = &s->sampling;
    int64_t ids = lm->model->config.vocabulary;
    if (lm->model->tokenizer && rondo_tokenizer_size(lm->model->tokenizer) < ids)
        ids = rondo_tokenizer_size(lm->model->tokenizer);
    if (rondo__canonical_nans(logits, ids))
        return rondo__fail(RONDO_EFORMAT, "the model's logits at position %lld are not numbers: its weights overflow or are damaged%s",
                           (long long)s->count - 1, lm->desc.logits ? ", or the caller's logits function made them so" : "");
    const bool penalty = p->repetition_penalty != 0.0 && p->repetition_penalty != 1.0;
    struct candidate *c = NULL;
    if (penalty || p->temperature > 0.0) {
        int err = rondo__lm_room(&lm->candidates, &lm->candidate_room, (size_t)ids * sizeof *c, "the candidates of a draw");
        if (err)
            return err;
        c = lm->candidates;
    }
    if (penalty)
        penalise(s, logits, ids, c);

    int64_t best = 0;
    for (int64_t i = 1; i < ids; i++)
        best = logits[i] > logits[best] ? i : best;
    *token = (int32_t)best;
    if (p->temperature == 0.0)
        return 0;
    /* One infinite logit takes all; all minus infinity leave no distribution, and the first id is as good as any. */
    if (logits[best] - logits[best] != 0.0f)
        return 0;

    const float temperature = (float)p->temperature;
    for (int64_t i = 0; i < ids; i++)
        c[i] = (struct candidate){ logits[i] / temperature, (int32_t)i, 0.0 };
    sort(c, ids);
    int64_t count = top_k(c, ids, p->top_k);
    count = top_p(c, count, p->top_p);
    count = min_p(c, count, p->min_p);
    double target = uniform(p->seed, s->count) * weigh(c, count), sum = 0.0;
    int64_t pick = 0;
    for (int64_t i = 0; i < count; i++) {
        if (c[i].weight == 0.0)
            break;
        pick = i;
        sum += c[i].weight;
        if (sum > target)
            break;
    }
    *token = c[pick].id;
    return 0;
}
