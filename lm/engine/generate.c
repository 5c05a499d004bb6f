/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Steps of a batch: a chunk of prefill while a prompt is unread, else one new token for every live sequence. All ranks take the
 * same decisions from the same lists. The rank that holds the last row of a sequence (the owner of its leaf) computes the
 * logits, hashes them and draws; one all-gather tells tokens and hashes to all. And rondo_lm_generate(), the simple case.
 */
#include "core/internal.h"
#include "lm/engine/lm.h"
#include "lm/model/rope.h"

/* What the owner of a sequence's last row tells the others. */
struct news {
    uint64_t hash;      /* of the row's logits, at their place in the sequence */
    int64_t token;
};

struct events {
    rondo_lm_event *list;
    int64_t count, max;
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
static void set_chunk(rondo_lm *lm, int64_t at, int64_t id, int64_t tokens)
{
    struct rondo_sequence *s = lm->sequences[id];
    const struct rondo_rope_config *rope = &lm->model->config.rope;
    const int64_t length = rondo__rope_length(rope, s->prompt, s->done);
    if (length != s->inv_length) {
        rondo__rope_frequencies(rope, length, s->inv_freq);
        s->inv_length = length;
    }
    lm->chunks[at] = (struct rondo_chunk){
        .id = id, .seat = s->seat, .first = s->done, .count = tokens, .tokens = s->tokens + s->done, .inv_freq = s->inv_freq,
        .prompt = s->prompt, .reach = s->reach, .want = s->done + tokens == s->count ? RONDO_WANT_LAST : RONDO_WANT_NONE,
    };
}

/* Prompts in the order in which they came, each at most a chunk, all together at most batch_tokens. */
static int64_t choose_prefill(rondo_lm *lm)
{
    int64_t count = 0, room = lm->desc.batch_tokens;
    for (int64_t i = 0; i < lm->sequence_count && room > 0; i++) {
        const struct rondo_sequence *s = lm->sequences[i];
        if (!unread(s))
            continue;
        int64_t tokens = s->prompt - s->done;
        if (lm->desc.chunk > 0 && tokens > lm->desc.chunk)
            tokens = lm->desc.chunk;
        if (tokens > room)
            tokens = room;
        set_chunk(lm, count++, i, tokens);
        room -= tokens;
    }
    return count;
}

/* At most batch_tokens sequences from *from on, one token each. */
static int64_t choose_decode(rondo_lm *lm, int64_t *from)
{
    int64_t count = 0;
    for (; *from < lm->sequence_count && count < lm->desc.batch_tokens; (*from)++)
        if (decoding(lm->sequences[*from]))
            set_chunk(lm, count++, *from, 1);
    return count;
}

/* ---- after a pass: draw, tell, take in ---- */

static int owner_of(const rondo_lm *lm, const struct rondo_chunk *p)
{
    return rondo_placement_owner(lm->placement, p->seat, p->first + p->count - 1);
}

/* Logits, hash and token of the rows that this rank holds. */
static int draw(rondo_lm *lm, struct news *mine)
{
    const int64_t vocabulary = lm->model->config.vocabulary;
    for (int64_t first = 0; first < lm->wanted_count; first += lm->logit_rows) {
        int64_t rows = lm->wanted_count - first < lm->logit_rows ? lm->wanted_count - first : lm->logit_rows;
        int err = rondo__logits(lm, first, rows);
        for (int64_t i = 0; i < rows && !err; i++) {
            const struct rondo_sequence *s = lm->sequences[lm->chunks[lm->wanted[first + i].chunk].id];
            struct news *n = &mine[first + i];
            float *logits = lm->logits + i * vocabulary;
            int32_t token = -1;
            n->hash = 0;
            rondo_hash_add(&n->hash, logits, sizeof *logits, (s->count - s->prompt) * vocabulary, vocabulary);
            err = rondo__sample(lm, s, logits, &token);
            n->token = token;
        }
        if (err)
            return err;
    }
    return 0;
}

static int add_token(struct rondo_sequence *s, int32_t token)
{
    if (s->count == s->room) {
        int64_t room = s->room + s->room / 2 + 64;
        int32_t *tokens = rondo__resize(s->tokens, (size_t)s->room * sizeof *tokens, (size_t)room * sizeof *tokens);
        if (!tokens)
            return rondo__fail(RONDO_ENOMEM, "no memory for %lld tokens of a sequence", (long long)room);
        s->tokens = tokens;
        s->room = room;
    }
    s->tokens[s->count++] = token;
    return 0;
}

/* A sequence has come to its end: only its tokens and text stay. */
static void release(rondo_lm *lm, struct rondo_sequence *s)
{
    rondo__seat_give(lm, s->seat);
    s->seat = -1;
    rondo_text_stream_destroy(s->stream);
    s->stream = NULL;
    rondo__free(s->inv_freq);
    s->inv_freq = NULL;
}

static int end_sequence(rondo_lm *lm, struct rondo_sequence *s, int finish)
{
    bool stopped = false;
    int err = finish == RONDO_FINISH_STOP ? 0 : rondo__text_add(s, -1, &stopped);
    s->finish = stopped ? RONDO_FINISH_STOP : finish;
    release(lm, s);
    return err;
}

static void tell(struct events *e, struct rondo_sequence *s, int64_t id, int32_t token)
{
    size_t ready = rondo__text_ready(s);
    e->list[e->count++] = (rondo_lm_event){ .id = id, .token = token, .finish = s->finish, .text = s->text + s->shown,
                                            .text_bytes = ready - s->shown };
    s->shown = ready;
}

static int take_token(rondo_lm *lm, int64_t id, int32_t token, struct events *e)
{
    const struct rondo_config *c = &lm->model->config;
    struct rondo_sequence *s = lm->sequences[id];
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
        tell(e, s, id, token);
    return err;
}

/* One pass over lm->chunks, and what follows from it. */
static int run_pass(rondo_lm *lm, int64_t count, bool decode, struct events *e)
{
    int err = rondo__forward(lm, lm->chunks, count, decode);
    if (err)
        return err;
    const double begin = rondo__now();
    int64_t wanted = 0;
    for (int r = 0; r < lm->ranks; r++)
        lm->exchange_sizes[r] = 0;
    for (int64_t i = 0; i < count; i++) {
        lm->sequences[lm->chunks[i].id]->done += lm->chunks[i].count;
        if (lm->chunks[i].want == RONDO_WANT_NONE)
            continue;
        int owner = owner_of(lm, &lm->chunks[i]);
        if (owner < 0)
            return owner;
        lm->exchange_sizes[owner] += sizeof(struct news);
        wanted++;
    }
    if (wanted == 0)
        return 0;
    err = rondo__lm_room(&lm->exchange, &lm->exchange_room, 2 * (size_t)wanted * sizeof(struct news), "the new tokens of a batch");
    if (err)
        return err;
    struct news *all = lm->exchange, *mine = all + wanted;
    if ((size_t)lm->wanted_count * sizeof *mine != lm->exchange_sizes[lm->rank])
        return rondo__fail(RONDO_EINVAL, "the placement's owners and its spans differ");
    err = draw(lm, mine);
    if (!err)
        err = rondo_all_gather(lm->ctx, mine, all, lm->exchange_sizes);
    /* exchange_sizes becomes where the next news of each rank lies. */
    size_t at = 0;
    for (int r = 0; r < lm->ranks; r++) {
        size_t bytes = lm->exchange_sizes[r];
        lm->exchange_sizes[r] = at / sizeof *all;
        at += bytes;
    }
    for (int64_t i = 0; i < count && !err; i++) {
        const struct rondo_chunk *p = &lm->chunks[i];
        if (p->want == RONDO_WANT_NONE)
            continue;
        const struct news *n = &all[lm->exchange_sizes[owner_of(lm, p)]++];
        lm->sequences[p->id]->hash += n->hash;
        err = take_token(lm, p->id, (int32_t)n->token, e);
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
    for (int64_t i = 0; i < lm->sequence_count && !err; i++) {
        struct rondo_sequence *s = lm->sequences[i];
        if (s->finish == RONDO_RUNNING && s->reach == s->prompt) {
            /* No new tokens were asked for. */
            err = end_sequence(lm, s, RONDO_FINISH_LENGTH);
            if (!err)
                tell(e, s, i, -1);
        }
        unread_tokens += unread(s) ? s->prompt - s->done : 0;
        decoders += decoding(s);
    }
    if (!err)
        err = rondo__lm_chunks(lm, lm->sequence_count);
    if (err)
        return err;
    const double begin = rondo__now();
    if (unread_tokens > 0) {
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
    return err;
}

static int64_t count_live(const rondo_lm *lm)
{
    int64_t live = 0;
    for (int64_t i = 0; i < lm->sequence_count; i++)
        live += lm->sequences[i]->finish == RONDO_RUNNING;
    return live;
}

int64_t rondo_lm_step(rondo_lm *lm, rondo_lm_event *events, int64_t max, int64_t *live)
{
    int err = rondo__lm_alive(lm, "rondo_lm_step");
    if (err)
        return err;
    int64_t before = count_live(lm);
    if (max < before || (before > 0 && !events))
        return rondo__fail(RONDO_EINVAL, "rondo_lm_step: room for %lld events, but %lld sequences are live", (long long)(events ? max : 0),
                           (long long)before);
    struct events e = { events, 0, max };
    err = step(lm, &e);
    if (err)
        return rondo__lm_failed(lm, err);
    if (live)
        *live = count_live(lm);
    return e.count;
}

/* ---- the simple case ---- */

struct simple {
    const rondo_model *model;
    const int32_t *tokens;
    int64_t count;
    const rondo_sampling *sampling;
    char *text;
};

static int simple_body(rondo_context *ctx, void *arg)
{
    struct simple *job = arg;
    rondo_lm *lm = NULL;
    int64_t id = 0, live = 1;
    int err = rondo_lm_create(&lm, ctx, job->model, NULL);
    if (!err)
        err = rondo_lm_submit(lm, job->tokens, job->count, job->sampling, &id);
    while (!err && live > 0) {
        rondo_lm_event event;
        int64_t n = rondo_lm_step(lm, &event, 1, &live);
        err = n < 0 ? (int)n : 0;
    }
    rondo_lm_status status = RONDO_LM_STATUS_INIT;
    if (!err)
        err = rondo_lm_query(lm, id, &status);
    if (!err && rondo_context_rank(ctx) == 0) {
        job->text = rondo__alloc(status.text_bytes + 1);
        if (job->text)
            memcpy(job->text, status.text, status.text_bytes + 1);
        else
            err = rondo__fail(RONDO_ENOMEM, "rondo_lm_generate: no memory for %zu bytes of text", status.text_bytes);
    }
    rondo_lm_destroy(lm);
    return err;
}

int rondo_lm_generate(const char *model_dir, int ranks, const char *prompt, const rondo_sampling *sampling, char **text)
{
    if (text)
        *text = NULL;
    if (!model_dir || !prompt || !text)
        return rondo__fail(RONDO_EINVAL, "rondo_lm_generate: %s is NULL", !model_dir ? "model_dir" : !prompt ? "prompt" : "text");
    if (ranks < 1)
        return rondo__fail(RONDO_EINVAL, "rondo_lm_generate: ranks is %d; 1 and more would be accepted", ranks);
    rondo_context *ctx = NULL;
    rondo_model *model = NULL;
    int32_t *tokens = NULL;
    struct simple job = { .sampling = sampling };
    int err = rondo_context_create(&ctx, NULL);
    if (!err)
        err = rondo_model_open(&model, ctx, model_dir, NULL);
    rondo_context_destroy(ctx);
    if (!err)
        err = rondo_tokenizer_encode(model->tokenizer, prompt, strlen(prompt), RONDO_ENCODE_SPECIAL, &tokens, &job.count);
    if (!err) {
        job.model = model;
        job.tokens = tokens;
        err = rondo_run_threads(ranks, simple_body, &job);
    }
    rondo_lm_free(tokens);
    rondo_model_close(model);
    if (err) {
        rondo__free(job.text);
        return err;
    }
    *text = job.text;
    return 0;
}
