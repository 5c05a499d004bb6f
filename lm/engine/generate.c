/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Steps of a batch: a pass over prompts that are unread, or one new token for every sequence that has read its own; in turns where there are
 * both, so that a long prompt, or many that come, keep nobody waiting for more than a pass. All ranks take the same decisions from the same
 * lists. The ranks that have a sequence's last row make its logits together; one of them (rows.c) has them whole, hashes them and draws; one
 * all-gather tells tokens and hashes to all.
 */
#include <float.h>

#include "core/internal.h"
#include "lm/engine/lm.h"
#include "lm/model/rope.h"

/* What the rank that draws tells the others; behind it, where they are asked for, the likeliest tokens. */
struct news {
    uint64_t hash;      /* of the row's logits, at their place in the sequence */
    int64_t token;
    double logprob;
};

static size_t news_bytes(const rondo_lm *lm)
{
    return sizeof(struct news) + (size_t)lm->desc.logprobs * sizeof(rondo_lm_logprob);
}

static struct news *news_at(const rondo_lm *lm, void *list, int64_t index)
{
    return (struct news *)(void *)((char *)list + (size_t)index * news_bytes(lm));
}

static rondo_lm_logprob *likeliest(struct news *news)
{
    return (rondo_lm_logprob *)(void *)(news + 1);
}

struct events {
    rondo_lm_event *list;
    int64_t count;
};

static bool unread(const struct rondo_sequence *s)
{
    return s->finish == RONDO_RUNNING && s->done < s->prompt;
}

/* Ready for one more token: all but the last one went through the model. */
static bool decoding(const struct rondo_sequence *s)
{
    return s->finish == RONDO_RUNNING && s->done >= s->prompt;
}

/* ---- which chunks ---- */

/* All positions of a chunk rotate for one length: it is of the prompt, or one token. */
static void set_chunk(rondo_lm *lm, int64_t at, struct rondo_sequence *s, int64_t tokens)
{
    const struct rondo_rope_config *rope = &lm->model->config.rope;
    const int64_t length = rondo__rope_length(rope, s->prompt, s->done);
    if (length != s->inv_length) {
        rondo__rope_frequencies(rope, length, s->inv_freq);
        s->inv_length = length;
    }
    lm->chunks[at] = (struct rondo_chunk){
        .sequence = s, .seat = s->seat, .first = s->done, .count = tokens,
        .tokens = s->done < s->prompt ? s->prompt_tokens + s->done : s->new_tokens + (s->done - s->prompt), .inv_freq = s->inv_freq,
        .prompt = s->prompt, .reach = s->reach, .want = s->done + tokens == s->count ? RONDO_WANT_LAST : RONDO_WANT_NONE,
    };
}

/* Prompts in the order in which they came, each at most a chunk, all together at most batch_tokens. */
static int64_t choose_prefill(rondo_lm *lm)
{
    int64_t count = 0, room = lm->desc.batch_tokens;
    for (int64_t i = 0; i < lm->live_count && room > 0; i++) {
        struct rondo_sequence *s = lm->live[i];
        if (!unread(s))
            continue;
        int64_t tokens = s->prompt - s->done;
        if (lm->desc.chunk > 0 && tokens > lm->desc.chunk)
            tokens = lm->desc.chunk;
        if (tokens > room)
            tokens = room;
        set_chunk(lm, count++, s, tokens);
        room -= tokens;
    }
    return count;
}

/* At most batch_tokens live sequences from *from on, one token each. */
static int64_t choose_decode(rondo_lm *lm, int64_t *from)
{
    int64_t count = 0;
    for (; *from < lm->live_count && count < lm->desc.batch_tokens; (*from)++)
        if (decoding(lm->live[*from]))
            set_chunk(lm, count++, lm->live[*from], 1);
    return count;
}

/* ---- after a pass: draw, tell, take in ---- */

static int owner_of(const rondo_lm *lm, const struct rondo_chunk *p)
{
    return rondo_placement_owner(lm->placement, p->seat, p->first + p->count - 1);
}

/* The `count` likeliest tokens of a row: descending, the lowest id first among equals. */
static void choose_likeliest(const float *logits, int64_t ids, double lse, rondo_lm_logprob *top, int64_t count)
{
    int64_t have = 0;
    for (int64_t i = 0; i < ids; i++) {
        const double x = logits[i];
        if (have == count && !(x > top[count - 1].logprob))
            continue;
        int64_t at = have < count ? have++ : count - 1;
        for (; at > 0 && x > top[at - 1].logprob; at--)
            top[at] = top[at - 1];
        top[at] = (rondo_lm_logprob){ (int32_t)i, 0, x };
    }
    for (int64_t i = 0; i < have; i++)
        top[i].logprob -= lse;
    for (int64_t i = have; i < count; i++)   /* fewer ids than that */
        top[i] = (rondo_lm_logprob){ -1, 0, -DBL_MAX };
}

/* One row of logits, which are overwritten: what the others are told of it. */
static int draw_one(rondo_lm *lm, const struct rondo_sequence *s, float *logits, struct news *n)
{
    const int64_t vocabulary = lm->model->config.vocabulary;
    int32_t token = -1;
    double lse = 0.0;
    int err = 0;
    n->hash = 0;
    n->logprob = 0.0;
    rondo_hash_add(&n->hash, logits, sizeof *logits, (s->count - s->prompt) * vocabulary, vocabulary);
    if (lm->desc.logprobs) {
        err = rondo__lm_room(&lm->raw, &lm->raw_room, (size_t)vocabulary * sizeof *logits, "the logits of a draw");
        if (err)
            return err;
        memcpy(lm->raw, logits, (size_t)vocabulary * sizeof *logits);
        err = rondo_logsumexp(lm->ctx, 1, vocabulary, logits, vocabulary, &lse);
    }
    if (!err && lm->desc.logits) {
        err = lm->desc.logits(lm->desc.user, s->id, s->count, logits, vocabulary);
        if (err)
            return rondo__fail(RONDO_ECANCELED, "the caller's logits function asked to stop at position %lld", (long long)s->count);
    }
    if (!err)
        err = rondo__sample(lm, s, logits, &token);
    n->token = token;
    if (err || !lm->desc.logprobs)
        return err;
    n->logprob = (double)((const float *)lm->raw)[token] - lse;
    choose_likeliest(lm->raw, vocabulary, lse, likeliest(n), lm->desc.logprobs);
    return 0;
}

/* The group's wanted rows, of which this rank draws some. */
static int draw(rondo_lm *lm, void *mine)
{
    const int64_t vocabulary = lm->model->config.vocabulary;
    int64_t drawn = 0;
    int err = 0;
    for (int64_t first = 0, end; first < lm->wanted_count && !err; first = end) {
        int64_t own = 0, count = 0;
        end = rondo__logits_end(lm, first, lm->wanted_count);
        err = rondo__logits(lm, first, end - first, &own, &count);
        for (int64_t i = 0; i < count && !err; i++)
            err = draw_one(lm, lm->chunks[lm->wanted[own + i].chunk].sequence, lm->logits + i * vocabulary, news_at(lm, mine, drawn++));
    }
    return err;
}

static int add_token(struct rondo_sequence *s, int32_t token)
{
    const int64_t count = s->count - s->prompt;
    if (count == s->room) {
        const int64_t room = s->room + s->room / 2 + 64;
        int32_t *tokens = rondo__resize(s->new_tokens, (size_t)s->room * sizeof *tokens, (size_t)room * sizeof *tokens);
        if (!tokens)
            return rondo__fail(RONDO_ENOMEM, "no memory for %lld tokens of a sequence", (long long)room);
        s->new_tokens = tokens;
        s->room = room;
    }
    s->new_tokens[count] = token;
    s->count++;
    return 0;
}

static int end_sequence(rondo_lm *lm, struct rondo_sequence *s, int finish)
{
    bool stopped = false;
    int err = finish == RONDO_FINISH_STOP ? 0 : rondo__text_add(s, -1, &stopped);
    rondo__sequence_end(lm, s, stopped ? RONDO_FINISH_STOP : finish);
    return err;
}

static void tell(struct events *e, struct rondo_sequence *s, int32_t token)
{
    size_t ready = rondo__text_ready(s);
    e->list[e->count++] = (rondo_lm_event){ .id = s->id, .token = token, .finish = s->finish, .text = s->text + s->shown,
                                            .text_bytes = ready - s->shown };
    s->shown = ready;
}

static int take_token(rondo_lm *lm, struct rondo_sequence *s, struct news *news, struct events *e)
{
    const int32_t token = (int32_t)news->token;
    const struct rondo_config *c = &lm->model->config;
    int finish = s->count + 1 >= s->reach ? RONDO_FINISH_LENGTH : RONDO_RUNNING;
    bool stopped = false;
    int err = add_token(s, token);
    for (int64_t i = 0; i < c->eos_count; i++)
        if (token == c->eos[i] && !s->sampling.ignore_eos)
            finish = RONDO_FINISH_EOS;
    if (!err)
        err = rondo__text_add(s, token, &stopped);
    if (!err && (stopped || finish))
        err = end_sequence(lm, s, stopped ? RONDO_FINISH_STOP : finish);
    if (!err)
        tell(e, s, token);
    if (!err && lm->desc.logprobs) {
        memcpy(s->top, likeliest(news), (size_t)lm->desc.logprobs * sizeof *s->top);
        e->list[e->count - 1].logprob = news->logprob;
        e->list[e->count - 1].top = s->top;
    }
    return err;
}

/* Who draws for which chunk: pass.news gets the place of a chunk's news in the gathered list (-1: none), exchange_sizes the bytes of each
 * rank. Of a group rows come as rows.c lists them. Returns how many there are, or a code. */
static int64_t deal_draws(rondo_lm *lm, int64_t count)
{
    int64_t *rows = lm->rows.held, wanted = 0, before = 0;
    size_t *sizes = lm->exchange_sizes, *first = sizes + lm->ranks;
    memset(sizes, 0, 2 * (size_t)lm->ranks * sizeof *sizes);
    memset(rows, 0, (size_t)lm->cp * sizeof *rows);
    for (int64_t i = 0; i < count; i++) {
        const int c = lm->chunks[i].want == RONDO_WANT_NONE ? -1 : owner_of(lm, &lm->chunks[i]);
        if (c < 0 && lm->chunks[i].want != RONDO_WANT_NONE)
            return c;
        lm->pass.news[i] = -1 - (c + 1);   /* whose it is, below -1, until it is dealt below */
        wanted += c >= 0;
        rows[c < 0 ? 0 : c] += c >= 0;
    }
    for (int pass = 0; pass < 2; pass++) {
        /* first how many each rank has, then, behind those of the ranks before it, which is whose */
        for (int32_t c = 0, at = 0; c < lm->cp; c++) {
            at = lm->spread ? at : 0;
            for (int64_t i = 0; i < count; i++) {
                if (lm->pass.news[i] != -2 - c)
                    continue;
                const int32_t w = rondo__row_drawer(lm, lm->spread ? wanted : rows[c], at++);
                if (w < 0)
                    return rondo__fail(RONDO_EINVAL, "no rank draws from a wanted row");
                const int r = rondo__member_rank(lm, c, w);
                sizes[r] += pass == 0;
                lm->pass.news[i] = pass == 0 ? lm->pass.news[i] : (int64_t)first[r]++;
            }
        }
        for (int r = 0; r < lm->ranks && pass == 0; before += (int64_t)sizes[r++])
            first[r] = (size_t)before;
    }
    for (int r = 0; r < lm->ranks; r++)
        sizes[r] *= news_bytes(lm);
    return wanted;
}

/* Cached positions of a sequence that its last token sees on this rank, or a code. */
static int64_t seen_here(rondo_lm *lm, const struct rondo_chunk *p)
{
    const int64_t window = lm->model->config.window, end = p->first + p->count;
    if (window <= 0 || window >= end)
        return rondo_placement_held(lm->placement, p->seat, lm->c);
    const int64_t spans = rondo__lm_spans(lm, p->seat, lm->c, end - window);
    int64_t seen = spans < 0 ? spans : 0;
    for (int64_t i = 0; i < spans; i++)
        seen += lm->spans[i].count;
    return seen;
}

/* Counts what a decode pass has read on this rank: each weight once, where the group had a row, and the keys, values and states of each sequence. */
static int count_read(rondo_lm *lm, int64_t count)
{
    const rondo_model *m = lm->model;
    uint64_t weights = m->weight_bytes, keys = 0;
    if (m->embedding)
        weights -= (uint64_t)m->split.vocab * (uint64_t)m->config.hidden * rondo_type_size(m->embedding_type);
    for (int64_t i = 0; i < count; i++) {
        const int64_t seen = seen_here(lm, &lm->chunks[i]);
        if (seen < 0)
            return (int)seen;
        keys += (uint64_t)seen;
    }
    lm->counters.decode_bytes += (lm->rows.all ? weights : 0) + 2 * keys * (uint64_t)lm->kv.row_bytes * (uint64_t)lm->kv.layers +
                                 (lm->kda.heads ? (uint64_t)count * lm->kda.seat_bytes : 0);
    return 0;
}

/* One pass over lm->chunks, and what follows from it. */
static int run_pass(rondo_lm *lm, int64_t count, bool decode, struct events *e)
{
    int err = rondo__forward(lm, lm->chunks, count, decode);
    if (!err && decode)
        err = count_read(lm, count);
    if (err)
        return err;
    const double begin = rondo__now();
    for (int64_t i = 0; i < count; i++)
        lm->chunks[i].sequence->done += lm->chunks[i].count;
    const int64_t wanted = deal_draws(lm, count);
    if (wanted <= 0)
        return (int)wanted;
    err = rondo__lm_room(&lm->exchange, &lm->exchange_room, 2 * (size_t)wanted * news_bytes(lm), "the new tokens of a batch");
    if (err)
        return err;
    void *all = lm->exchange, *mine = news_at(lm, all, wanted);
    err = draw(lm, mine);
    if (!err)
        err = rondo_all_gather(lm->ctx, mine, all, lm->exchange_sizes);
    for (int64_t i = 0; i < count && !err; i++) {
        const struct rondo_chunk *p = &lm->chunks[i];
        if (p->want == RONDO_WANT_NONE)
            continue;
        struct news *n = news_at(lm, all, lm->pass.news[i]);
        p->sequence->hash += n->hash;
        err = take_token(lm, p->sequence, n, e);
    }
    if (!decode) {
        lm->counters.first_tokens += wanted;
        lm->counters.first_seconds += rondo__now() - begin;
    }
    return err;
}

/* ---- a step ---- */

static int step(rondo_lm *lm, struct events *e)
{
    int err = 0;
    int64_t unread_tokens = 0, decoders = 0;
    lm->counters.steps++;
    for (int64_t i = 0; i < lm->live_count && !err; i++) {
        struct rondo_sequence *s = lm->live[i];
        lm->counters.step_sequences++;
        if (s->reach == s->prompt) {
            /* No new tokens were asked for. */
            err = end_sequence(lm, s, RONDO_FINISH_LENGTH);
            if (!err)
                tell(e, s, -1);
        }
        unread_tokens += unread(s) ? s->prompt - s->done : 0;
        decoders += decoding(s);
    }
    if (!err)
        err = rondo__lm_chunks(lm, lm->live_count);
    if (err)
        return err;
    const double begin = rondo__now();
    const bool reads = unread_tokens > 0 && !(lm->has_read && decoders > 0);
    lm->has_read = reads;
    if (reads) {
        lm->progress_total = lm->progress_done + unread_tokens;
        lm->progress_share = 1.0;
        int64_t count = choose_prefill(lm), tokens = 0;
        for (int64_t i = 0; i < count; i++)
            tokens += lm->chunks[i].count;
        err = run_pass(lm, count, false, e);
        lm->progress_done = tokens == unread_tokens ? 0 : lm->progress_done + tokens;
        lm->progress_total = 0;
        lm->counters.prefill_tokens += tokens;
        lm->counters.prefill_seconds += rondo__now() - begin;
    } else if (decoders > 0) {
        int64_t from = 0, count;
        while (!err && (count = choose_decode(lm, &from)) > 0)
            err = run_pass(lm, count, true, e);
        lm->counters.decode_tokens += decoders;
        lm->counters.decode_seconds += rondo__now() - begin;
    }
    rondo__sequences_sweep(lm);
    return err;
}

int64_t rondo_lm_step(rondo_lm *lm, rondo_lm_event *events, int64_t max, int64_t *live)
{
    int err = rondo__lm_alive(lm, "rondo_lm_step");
    if (err)
        return err;
    if (max < lm->live_count || (lm->live_count > 0 && !events)) {
        err = rondo__fail(RONDO_EINVAL, "rondo_lm_step: room for %lld events, but %lld sequences are live", (long long)(events ? max : 0),
                          (long long)lm->live_count);
        /* Others, whose arguments are right, are already in the pass: there is no going on without them. */
        return lm->ranks > 1 ? rondo__lm_failed(lm, err) : err;
    }
    struct events e = { events, 0 };
    err = step(lm, &e);
    if (err)
        return rondo__lm_failed(lm, err);
    if (live)
        *live = lm->live_count;
    return e.count;
}
