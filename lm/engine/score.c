/* SPDX-License-Identifier: BSD-2-Clause
 *
 * How well a model predicts a text: the logits of every position, their hash, and the mean negative log likelihood of tokens
 * 1.. in nats. The text is read in chunks like a prompt; each rank makes the logits of its own rows, a few at a time.
 *
 * Sums have one order whatever the layout: a row's log-sum-exp is rondo_logsumexp()'s; the likelihoods travel to all ranks and
 * are added in the order of positions, in double. A row without a distribution has the likelihood NaN, so every rank
 * finds the first of them by itself.
 */
#include <float.h>

#include "core/internal.h"
#include "lm/engine/lm.h"
#include "lm/files.h"
#include "lm/model/rope.h"

/* What a row comes to. */
struct likelihood {
    int64_t position;
    double nll;
};

struct scorer {
    rondo_lm *lm;
    const int32_t *tokens;
    int64_t count;
    int64_t seat;
    int (*logits)(void *user, int64_t row, const float *logits);   /* NULL on ranks other than 0 */
    void *user;
    bool show;                /* rank 0 has a function: rows travel to it */
    double *nll;              /* [count] by position */
    double *lse;              /* [logit_rows] */
    float *inv_freq;          /* [rope.dim / 2], of all positions */
    float *shown;             /* rows of other ranks' that go to rank 0, when they do */
    uint64_t hash;            /* of this rank's rows */
    int64_t bad;              /* the first position without a likelihood; -1: none */
};

/* Hash and likelihood of `rows` rows in lm->logits, which are wanted rows from `first` on. */
static int take_rows(struct scorer *s, int64_t first, int64_t rows, struct likelihood *out)
{
    rondo_lm *lm = s->lm;
    const int64_t vocabulary = lm->model->config.vocabulary;
    rondo__canonical_nans(lm->logits, rows * vocabulary);
    int err = rondo_logsumexp(lm->ctx, rows, vocabulary, lm->logits, vocabulary, s->lse);
    for (int64_t i = 0; i < rows && !err; i++) {
        const int64_t position = lm->wanted[first + i].position;
        const float *row = lm->logits + i * vocabulary;
        rondo_hash_add(&s->hash, row, sizeof *row, position * vocabulary, vocabulary);
        /* NaN or infinity among the logits leaves no distribution, in the last row neither, which predicts nothing that counts */
        const bool numbers = s->lse[i] <= DBL_MAX;
        const double own = position + 1 < s->count ? (double)row[s->tokens[position + 1]] : s->lse[i];
        out[i] = (struct likelihood){ position, numbers ? s->lse[i] - own : (double)__builtin_nanf("") };
    }
    return err;
}

/* Of a chunk's rows of logits so many are done. */
static int tell(struct scorer *s, int64_t tokens, int64_t done, int64_t rows)
{
    const double share = s->lm->progress_share;
    return rondo__lm_progress(s->lm, tokens, done == rows ? 1.0 : share + (1.0 - share) * (double)done / (double)rows);
}

/* Logits of the group's rows [first, end), of which this rank takes those that it gets: *mine, *rows of them. */
static int take_some(struct scorer *s, int64_t first, int64_t end, struct likelihood *out, int64_t *taken, int64_t *mine, int64_t *rows)
{
    int err = rondo__logits(s->lm, first, end - first, mine, rows);
    if (!err)
        err = take_rows(s, *mine, *rows, out + *taken);
    *taken += err ? 0 : *rows;
    return err;
}

/* All of the group's rows of a chunk, for itself. */
static int take_quietly(struct scorer *s, int64_t tokens, struct likelihood *out, int64_t *taken)
{
    rondo_lm *lm = s->lm;
    int err = 0;
    for (int64_t first = 0, end; first < lm->wanted_count && !err; first = end) {
        int64_t mine, rows;
        end = rondo__logits_end(lm, first, lm->wanted_count);
        err = take_some(s, first, end, out, taken, &mine, &rows);
        if (!err)
            err = tell(s, tokens, end, lm->wanted_count);
    }
    return err;
}

/* The rows of one owner, from position `at` on, that a group makes together: rank 0 sees them, in order. */
static int show_rows(struct scorer *s, int64_t at, int64_t rows, int32_t c, int64_t mine, int64_t count, int64_t first)
{
    rondo_lm *lm = s->lm;
    const int64_t vocabulary = lm->model->config.vocabulary;
    int err = 0;
    for (int32_t w = 0; w < lm->members && !err; w++) {
        int64_t begin = 0, share = 0;
        const int rank = rondo__member_rank(lm, c, w);
        err = rondo_share(rows, lm->members, NULL, w, &begin, &share);
        if (!err && share && rank == lm->rank && (share != count || mine != first + begin))
            err = rondo__fail(RONDO_EINVAL, "the rows of logits on this rank are other ones than those that it is to show");
        float *logits = rank == lm->rank ? lm->logits : s->shown;
        if (!err && share && rank != 0)
            err = rondo_broadcast(lm->ctx, logits, (size_t)share * (size_t)vocabulary * sizeof(float), rank);
        for (int64_t i = 0; i < share && !err && s->logits; i++) {
            err = s->logits(s->user, at + begin + i, logits + i * vocabulary);
            if (err > 0)
                err = rondo__fail(RONDO_ECANCELED, "rondo_lm_score: the caller's function asked to stop at row %lld", (long long)(at + begin + i));
        }
    }
    return err;
}

/* The same, but in the order of positions, a few rows of one owner at a time, each shown to rank 0. */
static int take_and_show(struct scorer *s, int64_t begin, int64_t end, struct likelihood *out, int64_t *taken)
{
    rondo_lm *lm = s->lm;
    int64_t *next = lm->rows.held;   /* of each owner's rows, in its group's list */
    int err = 0;
    for (int32_t c = 0; c < lm->cp; c++)
        next[c] = lm->spread ? lm->rows.begin[c] : 0;
    for (int64_t at = begin, stop; at < end && !err; at = stop) {
        const int owner = rondo_placement_owner(lm->placement, s->seat, at);
        const int64_t first = next[owner], limit = rondo__logits_end(lm, first, first + (end - at));
        for (stop = at + 1; stop < end && stop - at < limit - first; stop++)
            if (rondo_placement_owner(lm->placement, s->seat, stop) != owner)
                break;
        const int64_t rows = stop - at;
        int64_t mine = 0, count = 0;
        if (lm->spread || owner == lm->c)
            err = take_some(s, first, first + rows, out, taken, &mine, &count);
        if (!err)
            err = show_rows(s, at, rows, owner, mine, count, first);
        if (!err)
            err = tell(s, end - begin, stop - begin, end - begin);
        next[owner] += rows;
    }
    return err;
}

/* Every rank's likelihoods of a chunk to every rank, then to their positions. */
static int spread(struct scorer *s, int64_t tokens, const struct likelihood *mine, int64_t taken, struct likelihood *all)
{
    rondo_lm *lm = s->lm;
    size_t *sizes = lm->exchange_sizes, own = (size_t)taken * sizeof *mine, *list = sizes + lm->ranks;
    for (int r = 0; r < lm->ranks; r++)
        list[r] = sizeof own;
    int err = rondo_all_gather(lm->ctx, &own, sizes, list);
    if (!err)
        err = rondo_all_gather(lm->ctx, mine, all, sizes);
    for (int64_t i = 0; i < tokens && !err; i++) {
        if (all[i].position < 0 || all[i].position >= s->count)
            err = rondo__fail(RONDO_EINVAL, "a likelihood of position %lld, which is none of the sequence", (long long)all[i].position);
        else
            s->nll[all[i].position] = all[i].nll;
    }
    return err;
}

/* The first position of a chunk whose likelihood is no number, or -1. The same on every rank. */
static int64_t first_without(const struct scorer *s, int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i++)
        if (s->nll[i] != s->nll[i])
            return i;
    return -1;
}

static int score_all(struct scorer *s)
{
    rondo_lm *lm = s->lm;
    int64_t step = lm->desc.chunk > 0 && lm->desc.chunk < lm->desc.batch_tokens ? lm->desc.chunk : lm->desc.batch_tokens;
    int err = 0;
    for (int64_t at = 0; at < s->count && !err && s->bad < 0; at += step) {
        const double begin = rondo__now();
        const int64_t tokens = s->count - at < step ? s->count - at : step;
        struct rondo_chunk chunk = {
            .seat = s->seat, .first = at, .count = tokens, .tokens = s->tokens + at, .inv_freq = s->inv_freq,
            .prompt = s->count, .reach = s->count, .want = RONDO_WANT_ALL,
        };
        lm->progress_done = at;
        err = rondo__forward(lm, &chunk, 1, false);
        if (!err)
            err = rondo__lm_room(&lm->exchange, &lm->exchange_room, 2 * (size_t)tokens * sizeof(struct likelihood), "the likelihoods of a chunk");
        struct likelihood *all = lm->exchange, *mine = all ? all + tokens : NULL;
        int64_t taken = 0;
        if (!err)
            err = s->show ? take_and_show(s, at, at + tokens, mine, &taken) : take_quietly(s, tokens, mine, &taken);
        if (!err)
            err = spread(s, tokens, mine, taken, all);
        s->bad = err ? -1 : first_without(s, at, at + tokens);
        lm->counters.prefill_tokens += tokens;
        lm->counters.prefill_seconds += rondo__now() - begin;
    }
    return err;
}

/* Adds up what the ranks hold of the hash. */
static int sum_hash(rondo_lm *lm, uint64_t *hash)
{
    int err = rondo__lm_room(&lm->exchange, &lm->exchange_room, (size_t)lm->ranks * sizeof *hash, "the hashes of all ranks");
    if (err)
        return err;
    uint64_t *all = lm->exchange, sum = 0;
    for (int r = 0; r < lm->ranks; r++)
        lm->exchange_sizes[r] = sizeof *hash;
    err = rondo_all_gather(lm->ctx, hash, all, lm->exchange_sizes);
    for (int r = 0; r < lm->ranks && !err; r++)
        sum += all[r];
    *hash = sum;
    return err;
}

static int check(const rondo_lm *lm, const int32_t *tokens, int64_t count)
{
    const int64_t vocabulary = lm->model->config.vocabulary;
    if (count < 2 || !tokens)
        return rondo__fail(RONDO_EINVAL, "rondo_lm_score: %lld tokens given; at least two are needed to predict one", (long long)count);
    const int64_t most = ((int64_t)1 << 40) / vocabulary;   /* of logits so many have numbers */
    if (count > most)
        return rondo__fail(RONDO_EINVAL, "rondo_lm_score: %lld tokens are too many; this model's text may have %lld",
                           (long long)count, (long long)most);
    for (int64_t i = 0; i < count; i++)
        if (tokens[i] < 0 || tokens[i] >= vocabulary)
            return rondo__fail(RONDO_EINVAL, "rondo_lm_score: token %lld is id %d; the model has ids 0..%lld", (long long)i, tokens[i],
                               (long long)vocabulary - 1);
    return 0;
}

/* By weights: those of the layers against all. */
static double forward_share(const rondo_lm *lm)
{
    const struct rondo_config *c = &lm->model->config;
    const double widths = 2.0 * (double)(c->heads * c->head_dim) + 2.0 * (double)(c->kv_heads * c->head_dim) + 3.0 * (double)c->intermediate;
    const double layers = (double)c->layers * widths;
    return layers / (layers + (double)c->vocabulary);
}

/* All that may fail on one rank alone, before the ranks agree. */
static int prepare(struct scorer *s, rondo_score *score)
{
    rondo_lm *lm = s->lm;
    const rondo_score none = RONDO_SCORE_INIT;
    int err = check(lm, s->tokens, s->count);
    if (err)
        return err;
    s->nll = rondo__alloc_zero((size_t)s->count, sizeof *s->nll);
    s->lse = rondo__alloc((size_t)lm->logit_rows * sizeof *s->lse);
    s->inv_freq = rondo__alloc((size_t)(lm->model->config.rope.dim / 2) * sizeof *s->inv_freq);
    if (!s->nll || !s->lse || !s->inv_freq)
        return rondo__fail(RONDO_ENOMEM, "rondo_lm_score: no memory for %lld tokens", (long long)s->count);
    err = rondo__info_copy(score, &none, sizeof none, "rondo_score");   /* refused before all work, on all ranks, not after it on one */
    if (!err)
        err = rondo__lm_chunks(lm, 1);
    return err ? err : rondo__seat_take(lm, &s->seat);
}

/* The work. After a failure here the lm cannot go on. */
static int run(struct scorer *s, int (*logits)(void *user, int64_t row, const float *logits))
{
    rondo_lm *lm = s->lm;
    const struct rondo_rope_config *rope = &lm->model->config.rope;
    int32_t show = logits != NULL;
    int err = rondo_broadcast(lm->ctx, &show, sizeof show, 0);
    s->show = show != 0;
    s->logits = lm->rank == 0 ? logits : NULL;
    if (!err && s->show) {
        const int64_t most = (lm->logit_rows + lm->members - 1) / lm->members;
        s->shown = rondo__alloc((size_t)(most * lm->model->config.vocabulary) * sizeof *s->shown);
        if (!s->shown)
            err = rondo__fail(RONDO_ENOMEM, "rondo_lm_score: no memory for %lld rows of logits", (long long)most);
    }
    rondo__rope_frequencies(rope, rondo__rope_length(rope, s->count, 0), s->inv_freq);
    lm->progress_total = s->count;
    lm->progress_share = forward_share(lm);
    if (!err)
        err = score_all(s);
    if (!err && s->bad < 0)
        err = sum_hash(lm, &s->hash);
    lm->progress_done = lm->progress_total = 0;
    return err;
}

static int give(const struct scorer *s, rondo_score *score)
{
    const rondo_lm *lm = s->lm;
    const int64_t shape[2] = { s->count, lm->model->config.vocabulary };
    rondo_score result = RONDO_SCORE_INIT;
    double sum = 0.0;
    for (int64_t i = 0; i + 1 < s->count; i++)
        sum += s->nll[i];
    result.tokens = s->count;
    result.nll = sum / (double)(s->count - 1);
    result.hash = rondo_hash_close(s->hash, lm->desc.arithmetic, lm->desc.leaf, shape, 2);
    return rondo__info_copy(score, &result, sizeof result, "rondo_score");
}

int rondo_lm_score(rondo_lm *lm, const int32_t *tokens, int64_t count, int (*logits)(void *user, int64_t row, const float *logits),
                   void *user, rondo_score *score)
{
    int err = rondo__lm_alive(lm, "rondo_lm_score");
    if (err)
        return err;
    struct scorer s = { .lm = lm, .tokens = tokens, .count = count, .seat = -1, .user = user, .bad = -1 };
    err = prepare(&s, score);
    err = rondo_agree(lm->ctx, err ? 0 : rondo__lm_hash((uint64_t)count, tokens, (size_t)count * sizeof *tokens), err,
                      "the tokens given to rondo_lm_score");
    if (err)
        goto out;   /* told to all by the agreement: the lm can go on */
    err = run(&s, logits);
    if (err)
        err = rondo__lm_failed(lm, err);
    else if (s.bad >= 0)   /* every rank has come here with the same position: nobody waits, and the lm can go on */
        err = rondo__fail(RONDO_EFORMAT, "the model's logits at position %lld are NaN or infinite: its weights overflow or are damaged",
                          (long long)s.bad);
    else
        err = give(&s, score);
out:
    if (s.seat >= 0)
        rondo__seat_give(lm, s.seat);
    rondo__free(s.inv_freq);
    rondo__free(s.lse);
    rondo__free(s.shown);
    rondo__free(s.nll);
    return err;
}
