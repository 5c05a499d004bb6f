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

/* Logits, hash and token of the rows that this rank holds. */
static int draw(rondo_lm *lm, struct news *mine)
{
    const int64_t vocabulary = lm->model->config.vocabulary;
    for (int64_t first = 0; first < lm->wanted_count; first += lm->logit_rows) {
        int64_t rows = lm->wanted_count - first < lm->logit_rows ? lm->wanted_count - first : lm->logit_rows;
        int err = rondo__logits(lm, first, rows);
        for (int64_t i = 0; i < rows && !err; i++) {
            const struct rondo_sequence *s = lm->chunks[lm->wanted[first + i].chunk].sequence;
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

static int take_token(rondo_lm *lm, struct rondo_sequence *s, int32_t token, struct events *e)
{
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
        lm->chunks[i].sequence->done += lm->chunks[i].count;
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
        p->sequence->hash += n->hash;
        err = take_token(lm, p->sequence, (int32_t)n->token, e);
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
    struct simple *simple = arg;
    rondo_lm *lm = NULL;
    int64_t id = 0, live = 1;
    int err = rondo_lm_create(&lm, ctx, simple->model, NULL);
    if (!err)
        err = rondo_lm_submit(lm, simple->tokens, simple->count, simple->sampling, &id);
    while (!err && live > 0) {
        rondo_lm_event event;
        int64_t n = rondo_lm_step(lm, &event, 1, &live);
        err = n < 0 ? (int)n : 0;
    }
    rondo_lm_status status = RONDO_LM_STATUS_INIT;
    if (!err)
        err = rondo_lm_query(lm, id, &status);
    if (!err && rondo_context_rank(ctx) == 0) {
        simple->text = rondo__alloc(status.text_bytes + 1);
        if (simple->text)
            memcpy(simple->text, status.text, status.text_bytes + 1);
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
    struct simple simple = { .sampling = sampling };
    int err = rondo_context_create(&ctx, NULL);
    if (!err)
        err = rondo_model_open(&model, ctx, model_dir, NULL);
    rondo_context_destroy(ctx);
    if (!err)
        err = rondo_tokenizer_encode(model->tokenizer, prompt, strlen(prompt), RONDO_ENCODE_SPECIAL, &tokens, &simple.count);
    if (!err) {
        simple.model = model;
        simple.tokens = tokens;
        err = rondo_run_threads(ranks, simple_body, &simple);
    }
    rondo_lm_free(tokens);
    rondo_model_close(model);
    if (err) {
        rondo__free(simple.text);
        return err;
    }
    *text = simple.text;
    return 0;
}
