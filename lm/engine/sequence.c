/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Sequences: how they come (rondo_lm_submit), what can be asked of them, how they end and how they are forgotten; and the seats that
 * they take in the placement and in the KV cache. Steps look at lm->live alone, so that they cost what runs, not what ever ran; lm->kept
 * finds a sequence by its id. What stays of one that has ended concerns nobody but its own rank: no later call depends on it,
 * so releasing it needs no other rank.
 */
#include "core/internal.h"
#include "lm/engine/lm.h"
#include "lm/files.h"
#include "lm/model/rope.h"

/* New tokens that a sequence has room for at once. */
#define FIRST_TOKENS 16

/* ---- seats ---- */

int rondo__seats(rondo_lm *lm, int64_t seats)
{
    if (seats <= lm->seats)
        return 0;
    int err = rondo_placement_grow(lm->placement, seats);
    if (!err)
        err = rondo__kv_seats(&lm->kv, seats);
    if (!err)
        err = rondo__kda_seats(lm, seats);
    int64_t *list = err ? NULL : rondo__alloc((size_t)seats * sizeof *list);
    if (!err && !list)
        err = rondo__fail(RONDO_ENOMEM, "no memory for %lld sequences", (long long)seats);
    if (err)
        return err;
    /* New ones below those that were free before, so that ranks take the same seats even if only some of them came as far as here. */
    const int64_t more = seats - lm->seats;
    for (int64_t i = 0; i < more; i++)
        list[i] = seats - 1 - i;
    if (lm->free_count)
        memcpy(list + more, lm->free_seats, (size_t)lm->free_count * sizeof *list);
    rondo__free(lm->free_seats);
    lm->free_seats = list;
    lm->free_count += more;
    lm->seats = seats;
    return 0;
}

int rondo__seat_take(rondo_lm *lm, int64_t *seat)
{
    int err = lm->free_count ? 0 : rondo__seats(lm, 2 * lm->seats);
    if (!err)
        *seat = lm->free_seats[--lm->free_count];
    return err;
}

void rondo__seat_give(rondo_lm *lm, int64_t seat)
{
    lm->free_seats[lm->free_count++] = seat;
    rondo__kv_drop(&lm->kv, seat);
    rondo__kda_drop(lm, seat);
    /* Resetting takes nothing and fails only for a seat that is not there. */
    if (rondo_placement_reset(lm->placement, seat))
        lm->failed = RONDO_EINVAL;
}

/* ---- their end ---- */

/* What only a running sequence needs. */
static void free_running(struct rondo_sequence *s)
{
    for (int64_t i = 0; s->stops && i < s->sampling.stop_count; i++)
        rondo__free(s->stops[i]);
    rondo__free(s->stops);
    rondo__free(s->stop_bytes);
    rondo__free(s->prompt_tokens);
    rondo__free(s->inv_freq);
    rondo_text_stream_destroy(s->stream);
    s->stops = NULL;
    s->stop_bytes = NULL;
    s->sampling.stop_count = 0;
    s->prompt_tokens = NULL;
    s->inv_freq = NULL;
    s->stream = NULL;
}

static void free_sequence(struct rondo_sequence *s)
{
    if (!s)
        return;
    free_running(s);
    rondo__free(s->new_tokens);
    rondo__free(s->text);
    rondo__free(s->top);
    rondo__free(s);
}

void rondo__sequence_end(rondo_lm *lm, struct rondo_sequence *s, int finish)
{
    rondo__seat_give(lm, s->seat);
    s->seat = -1;
    s->finish = finish;
    free_running(s);
}

void rondo__sequences_sweep(rondo_lm *lm)
{
    int64_t count = 0;
    for (int64_t i = 0; i < lm->live_count; i++)
        if (lm->live[i]->finish == RONDO_RUNNING)
            lm->live[count++] = lm->live[i];
    lm->live_count = count;
}

void rondo__sequences_free(rondo_lm *lm)
{
    for (int64_t i = 0; i < lm->kept_count; i++)
        free_sequence(lm->kept[i].sequence);
    rondo__free(lm->kept);
    rondo__free(lm->live);
}

/* ---- their beginning ---- */

static int copy_stops(struct rondo_sequence *s, const rondo_sampling *from, bool has_tokenizer)
{
    if (from->stop_count < 0 || (from->stop_count > 0 && !from->stops))
        return rondo__fail(RONDO_EINVAL, "rondo_lm_submit: stop_count is %lld%s", (long long)from->stop_count,
                           from->stop_count < 0 ? "; it must not be negative" : " but stops is NULL; it must be a list of so many");
    s->sampling.stops = NULL;
    s->sampling.stop_count = 0;
    if (from->stop_count == 0)
        return 0;
    if (!has_tokenizer)
        return rondo__fail(RONDO_EINVAL, "rondo_lm_submit: stop texts need a tokenizer, and the model was opened without one");
    s->stops = rondo__alloc_zero((size_t)from->stop_count, sizeof *s->stops);
    s->stop_bytes = rondo__alloc_zero((size_t)from->stop_count, sizeof *s->stop_bytes);
    if (!s->stops || !s->stop_bytes)
        return rondo__fail(RONDO_ENOMEM, "rondo_lm_submit: no memory for %lld stop texts", (long long)from->stop_count);
    for (int64_t i = 0; i < from->stop_count; i++) {
        if (!from->stops[i] || !*from->stops[i])
            return rondo__fail(RONDO_EINVAL, "rondo_lm_submit: stop text %lld is empty; leave it out", (long long)i);
        s->stops[i] = rondo__strdup(from->stops[i]);
        if (!s->stops[i])
            return rondo__fail(RONDO_ENOMEM, "rondo_lm_submit: no memory for a stop text");
        s->stop_bytes[i] = strlen(s->stops[i]);
        s->sampling.stop_count = i + 1;
    }
    return 0;
}

static int fill_sequence(rondo_lm *lm, struct rondo_sequence *s, const int32_t *tokens, int64_t count, const rondo_sampling *sampling)
{
    const struct rondo_config *c = &lm->model->config;
    rondo_sampling given = RONDO_SAMPLING_INIT;
    int err = sampling ? rondo__desc_copy(&given, sizeof given, sampling, "rondo_sampling") : 0;
    if (!err)
        err = rondo__reserved(given.reserved, "rondo_lm_submit");
    if (!err)
        err = rondo__sampling_check(&given);
    if (err)
        return err;
    if (count < 1 || !tokens)
        return rondo__fail(RONDO_EINVAL, "rondo_lm_submit: a sequence needs at least one token");
    for (int64_t i = 0; i < count; i++)
        if (tokens[i] < 0 || tokens[i] >= c->vocabulary)
            return rondo__fail(RONDO_EINVAL, "rondo_lm_submit: token %lld is id %d; the model has ids 0..%lld", (long long)i, tokens[i],
                               (long long)c->vocabulary - 1);
    if (!rondo__add64(count, given.max_tokens, &s->reach) || s->reach > ((int64_t)1 << 40))
        return rondo__fail(RONDO_EINVAL, "rondo_lm_submit: %lld tokens and %lld new ones are more than 2^40", (long long)count,
                           (long long)given.max_tokens);
    s->sampling = given;
    err = copy_stops(s, &given, lm->model->tokenizer != NULL);
    if (err)
        return err;
    s->room = given.max_tokens < FIRST_TOKENS ? given.max_tokens : FIRST_TOKENS;
    s->text_room = 64;
    s->prompt_tokens = rondo__alloc((size_t)count * sizeof *s->prompt_tokens);
    s->new_tokens = rondo__alloc((size_t)s->room * sizeof *s->new_tokens);
    s->inv_freq = rondo__alloc((size_t)(c->rope.dim / 2) * sizeof *s->inv_freq);
    s->text = rondo__alloc_zero(s->text_room, 1);
    s->top = rondo__alloc_zero((size_t)lm->desc.logprobs, sizeof *s->top);
    if (!s->prompt_tokens || !s->new_tokens || !s->inv_freq || !s->text || !s->top)
        return rondo__fail(RONDO_ENOMEM, "rondo_lm_submit: no memory for a sequence of %lld tokens", (long long)count);
    memcpy(s->prompt_tokens, tokens, (size_t)count * sizeof *tokens);
    s->prompt = s->count = count;
    s->inv_length = rondo__rope_length(&c->rope, s->prompt, 0);
    rondo__rope_frequencies(&c->rope, s->inv_length, s->inv_freq);
    return lm->model->tokenizer ? rondo_text_stream_create(&s->stream, lm->model->tokenizer, 0) : 0;
}

static uint64_t hash_sequence(const struct rondo_sequence *s)
{
    const rondo_sampling *p = &s->sampling;
    const double numbers[] = { p->temperature, p->top_p, p->min_p, p->repetition_penalty };
    const int64_t words[] = { s->prompt, p->top_k, (int64_t)p->seed, p->max_tokens, p->ignore_eos, p->stop_count };
    uint64_t h = rondo__lm_hash(0, numbers, sizeof numbers);
    h = rondo__lm_hash(h, words, sizeof words);
    h = rondo__lm_hash(h, s->prompt_tokens, (size_t)s->prompt * sizeof *s->prompt_tokens);
    for (int64_t i = 0; i < p->stop_count; i++)
        h = rondo__lm_hash(h, s->stops[i], s->stop_bytes[i]);
    return h;
}

/* Room for one more in a list of items of so many bytes. */
static int room_for_one(void **list, int64_t count, int64_t *room, size_t bytes)
{
    if (count < *room)
        return 0;
    const int64_t more = *room ? 2 * *room : 16;
    void *grown = rondo__resize(*list, (size_t)*room * bytes, (size_t)more * bytes);
    if (!grown)
        return rondo__fail(RONDO_ENOMEM, "rondo_lm_submit: no memory for %lld sequences", (long long)more);
    *list = grown;
    *room = more;
    return 0;
}

static int room_in_lists(rondo_lm *lm)
{
    void *live = lm->live, *kept = lm->kept;
    int err = room_for_one(&live, lm->live_count, &lm->live_room, sizeof *lm->live);
    lm->live = live;
    if (!err)
        err = room_for_one(&kept, lm->kept_count, &lm->kept_room, sizeof *lm->kept);
    lm->kept = kept;
    return err;
}

int rondo_lm_submit(rondo_lm *lm, const int32_t *tokens, int64_t count, const rondo_sampling *sampling, int64_t *id)
{
    int err = rondo__lm_alive(lm, "rondo_lm_submit");
    if (err)
        return err;
    struct rondo_sequence *s = rondo__alloc_zero(1, sizeof *s);
    err = s ? fill_sequence(lm, s, tokens, count, sampling) : rondo__fail(RONDO_ENOMEM, "rondo_lm_submit: no memory for a sequence");
    if (!err)
        err = room_in_lists(lm);
    int64_t seat = -1;
    if (!err)
        err = rondo__seat_take(lm, &seat);
    err = rondo_agree(lm->ctx, err ? 0 : hash_sequence(s), err, "the sequence given to rondo_lm_submit");
    if (err) {
        if (seat >= 0)
            rondo__seat_give(lm, seat);
        free_sequence(s);
        return err;
    }
    s->id = lm->submitted++;
    s->seat = seat;
    lm->live[lm->live_count++] = s;
    lm->kept[lm->kept_count++] = (struct rondo_kept){ s->id, s };
    if (id)
        *id = s->id;
    return 0;
}

/* ---- what stays ---- */

/* The place of an id in lm->kept, or a code. */
static int64_t find(const rondo_lm *lm, int64_t id, const char *who)
{
    if (!lm)
        return rondo__fail(RONDO_EINVAL, "%s: the rondo_lm is NULL", who);
    if (id < 0 || id >= lm->submitted)
        return rondo__fail(RONDO_EINVAL, "%s: there is no sequence %lld; %lld were submitted", who, (long long)id, (long long)lm->submitted);
    int64_t lo = 0, hi = lm->kept_count;
    while (lo < hi) {
        const int64_t mid = lo + (hi - lo) / 2;
        if (lm->kept[mid].id < id)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo == lm->kept_count || lm->kept[lo].id != id || !lm->kept[lo].sequence)
        return rondo__fail(RONDO_EINVAL, "%s: sequence %lld was released; ask for what it wrote before", who, (long long)id);
    return lo;
}

int rondo_lm_query(rondo_lm *lm, int64_t id, rondo_lm_status *status)
{
    const int64_t at = find(lm, id, "rondo_lm_query");
    if (at < 0)
        return (int)at;
    const struct rondo_sequence *s = lm->kept[at].sequence;
    rondo_lm_status t = RONDO_LM_STATUS_INIT;
    t.prompt_tokens = s->prompt;
    t.new_tokens = s->count - s->prompt;
    t.finish = s->finish;
    t.tokens = s->new_tokens;
    t.text = s->text;
    t.text_bytes = s->text_bytes;
    const int64_t shape[2] = { t.new_tokens, lm->model->config.vocabulary };
    t.hash = rondo_hash_close(s->hash, lm->desc.arithmetic, lm->desc.leaf, shape, 2);
    return rondo__info_copy(status, &t, sizeof t, "rondo_lm_status");
}

int rondo_lm_release(rondo_lm *lm, int64_t id)
{
    const int64_t at = find(lm, id, "rondo_lm_release");
    if (at < 0)
        return (int)at;
    struct rondo_sequence *s = lm->kept[at].sequence;
    if (s->finish == RONDO_RUNNING)
        return rondo__fail(RONDO_EINVAL, "rondo_lm_release: sequence %lld has not ended; step until it has", (long long)id);
    free_sequence(s);
    lm->kept[at].sequence = NULL;
    if (2 * ++lm->gaps <= lm->kept_count)
        return 0;
    int64_t count = 0;
    for (int64_t i = 0; i < lm->kept_count; i++)
        if (lm->kept[i].sequence)
            lm->kept[count++] = lm->kept[i];
    lm->kept_count = count;
    lm->gaps = 0;
    return 0;
}
