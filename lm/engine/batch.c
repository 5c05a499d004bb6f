/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A rank's rondo_lm: its life, its sequences, and the seats that they take in the placement and in the KV cache. Every rank
 * keeps the same list of sequences and makes the same decisions from it, so nothing has to be told; what callers hand in is
 * compared over the ranks when it comes (rondo_agree).
 */
#include "core/internal.h"
#include "lm/engine/lm.h"
#include "lm/model/rope.h"

#define BATCH_TOKENS 8192
#define FIRST_SEATS 8
/* Logits held at once: so many floats, and at least one row. */
#define LOGITS_FLOATS ((int64_t)1 << 21)

/* ---- small helpers ---- */

int rondo__lm_failed(rondo_lm *lm, int code)
{
    lm->failed = code;
    return rondo__collective_failed(lm->ctx, code);
}

int rondo__lm_alive(rondo_lm *lm, const char *who)
{
    if (!lm)
        return rondo__fail(RONDO_EINVAL, "%s: the rondo_lm is NULL", who);
    if (lm->failed)
        return rondo__fail(lm->failed, "%s: this rondo_lm failed earlier (%s) and can only be destroyed", who, rondo_error_name(lm->failed));
    return 0;
}

int rondo__lm_room(void **block, size_t *room, size_t bytes, const char *what)
{
    if (*block && bytes <= *room)
        return 0;
    rondo__free(*block);
    *room = 0;
    *block = rondo__alloc(bytes);
    if (!*block)
        return rondo__fail(RONDO_ENOMEM, "no memory for %s (%zu bytes)", what, bytes);
    *room = bytes;
    return 0;
}

int rondo__lm_chunks(rondo_lm *lm, int64_t count)
{
    if (count <= lm->chunk_room)
        return 0;
    int64_t room = count > 2 * lm->chunk_room ? count : 2 * lm->chunk_room;
    struct rondo_chunk *chunks = rondo__alloc_zero((size_t)room, sizeof *chunks);
    struct rondo_kv_wish *wishes = rondo__alloc_zero((size_t)room, sizeof *wishes);
    int64_t *lists = rondo__alloc_zero((size_t)room, 3 * sizeof *lists);
    if (!chunks || !wishes || !lists) {
        rondo__free(chunks);
        rondo__free(wishes);
        rondo__free(lists);
        return rondo__fail(RONDO_ENOMEM, "no memory for a pass over %lld sequences", (long long)count);
    }
    rondo__free(lm->chunks);
    rondo__free(lm->wishes);
    rondo__free(lm->pass.seat);
    lm->chunks = chunks;
    lm->wishes = wishes;
    lm->pass.seat = lists;
    lm->pass.tokens = lists + room;
    lm->pass.kv_first = lists + 2 * room;
    lm->chunk_room = room;
    return 0;
}

int64_t rondo__lm_spans(rondo_lm *lm, int64_t seat, int rank, int64_t from)
{
    for (;;) {
        const int64_t max = (int64_t)(lm->span_room / sizeof *lm->spans);
        const int64_t n = rondo_placement_spans(lm->placement, seat, rank, from, lm->spans, max);
        if (n <= max)
            return n;
        void *block = lm->spans;
        int err = rondo__lm_room(&block, &lm->span_room, 2 * (size_t)n * sizeof *lm->spans, "the spans of a sequence");
        lm->spans = block;
        if (err)
            return err;
    }
}

uint64_t rondo__lm_hash(uint64_t h, const void *data, size_t bytes)
{
    const unsigned char *p = data;
    uint64_t word;
    for (; bytes >= sizeof word; p += sizeof word, bytes -= sizeof word) {
        memcpy(&word, p, sizeof word);
        h = rondo__hash_word(h, word);
    }
    word = 0;
    memcpy(&word, p, bytes);
    return rondo__hash_word(h, word ^ (uint64_t)bytes << 56);
}

/* ---- life ---- */

static int check_desc(rondo_lm_desc *d, const rondo_model *model)
{
    d->kv_type = d->kv_type ? d->kv_type : RONDO_F32;
    d->batch_tokens = d->batch_tokens ? d->batch_tokens : BATCH_TOKENS;
    if (!rondo_type_size(d->kv_type))
        return rondo__fail(RONDO_EINVAL, "rondo_lm_create: kv_type %d is none of RONDO_F32, RONDO_BF16 and RONDO_F16", d->kv_type);
    if (!rondo_algorithm_name(d->algorithm))
        return rondo__fail(RONDO_EINVAL, "rondo_lm_create: algorithm %d is none of rondo_algorithm", d->algorithm);
    if (!rondo_layout_name(d->layout))
        return rondo__fail(RONDO_EINVAL, "rondo_lm_create: layout %d is none of rondo_layout", d->layout);
    if (d->arithmetic != RONDO_ARITHMETIC_F32)
        return rondo__fail(rondo_arithmetic_name(d->arithmetic) ? RONDO_ENOTSUP : RONDO_EINVAL,
                           "rondo_lm_create: arithmetic %s (%d) is not supported; use f32",
                           rondo_arithmetic_name(d->arithmetic) ? rondo_arithmetic_name(d->arithmetic) : "unknown", d->arithmetic);
    if (d->level != RONDO_STRICT)
        return rondo__fail(rondo_level_name(d->level) ? RONDO_ENOTSUP : RONDO_EINVAL, "rondo_lm_create: level %s (%d) is not supported; use strict",
                           rondo_level_name(d->level) ? rondo_level_name(d->level) : "unknown", d->level);
    if (d->interleave != 0 && d->interleave != 1)
        return rondo__fail(RONDO_EINVAL, "rondo_lm_create: interleave is %d; 0 is by leaf, 1 token by token", d->interleave);
    if (d->chunk < 0)
        return rondo__fail(RONDO_EINVAL, "rondo_lm_create: chunk is %lld; 0 is the whole prompt", (long long)d->chunk);
    if (d->batch_tokens < 0)
        return rondo__fail(RONDO_EINVAL, "rondo_lm_create: batch_tokens is %lld; 0 is %d", (long long)d->batch_tokens, BATCH_TOKENS);
    if (!model->layers || !model->head)
        return rondo__fail(RONDO_EINVAL, "rondo_lm_create: the model is not open");
    return 0;
}

static int make_placement(const rondo_lm *lm, int64_t seats, rondo_placement **out)
{
    rondo_placement_desc p = RONDO_PLACEMENT_DESC_INIT;
    p.ranks = lm->ranks;
    p.layout = lm->desc.layout;
    p.leaf = lm->desc.leaf;
    p.interleave = lm->desc.interleave;
    p.sequences = seats;
    return rondo_placement_create(out, &p);
}

static int set_up(rondo_lm *lm)
{
    const struct rondo_config *c = &lm->model->config;
    int err = check_desc(&lm->desc, lm->model);
    if (!err)
        err = make_placement(lm, FIRST_SEATS, &lm->placement);
    if (!err)
        err = rondo__kv_open(&lm->kv, lm->desc.kv_type, c->layers, c->kv_heads * c->head_dim);
    if (!err)
        err = rondo__kv_seats(&lm->kv, FIRST_SEATS);
    if (err)
        return err;
    lm->desc.leaf = lm->desc.leaf ? lm->desc.leaf : 128;
    lm->logit_rows = LOGITS_FLOATS / c->vocabulary;
    lm->logit_rows = lm->logit_rows < 1 ? 1 : lm->logit_rows > 512 ? 512 : lm->logit_rows;
    lm->logits = rondo__alloc((size_t)lm->logit_rows * (size_t)c->vocabulary * sizeof(float));
    lm->seats = rondo__alloc_zero(FIRST_SEATS, sizeof *lm->seats);
    lm->exchange_sizes = rondo__alloc_zero((size_t)lm->ranks, sizeof *lm->exchange_sizes);
    if (!lm->logits || !lm->seats || !lm->exchange_sizes)
        return rondo__fail(RONDO_ENOMEM, "rondo_lm_create: no memory for the logits of %lld rows", (long long)lm->logit_rows);
    lm->seat_count = FIRST_SEATS;
    return 0;
}

int rondo_lm_create(rondo_lm **out, rondo_context *ctx, const rondo_model *model, const rondo_lm_desc *desc)
{
    rondo_lm_desc d = RONDO_LM_DESC_INIT;
    if (out)
        *out = NULL;
    if (!ctx)
        return rondo__fail(RONDO_EINVAL, "rondo_lm_create: the context is NULL");
    /* From here on a failure is told to the other ranks, which wait in the agreement. */
    int err = !out || !model ? rondo__fail(RONDO_EINVAL, "rondo_lm_create: %s is NULL", !out ? "out" : "the model") : 0;
    if (!err && desc)
        err = rondo__desc_copy(&d, sizeof d, desc, "rondo_lm_desc");
    rondo_lm *lm = NULL;
    if (!err && !(lm = rondo__alloc_zero(1, sizeof *lm)))
        err = rondo__fail(RONDO_ENOMEM, "rondo_lm_create: no memory");
    uint64_t hash = 0;
    if (!err) {
        lm->ctx = ctx;
        lm->model = model;
        lm->desc = d;
        lm->rank = rondo_context_rank(ctx);
        lm->ranks = rondo_context_ranks(ctx);
        err = set_up(lm);
        const uint64_t words[] = { model->fingerprint, (uint64_t)lm->desc.kv_type, (uint64_t)lm->desc.layout, (uint64_t)lm->desc.algorithm,
                                   (uint64_t)lm->desc.arithmetic, (uint64_t)lm->desc.level, (uint64_t)lm->desc.leaf,
                                   (uint64_t)lm->desc.interleave, (uint64_t)lm->desc.chunk, (uint64_t)lm->desc.batch_tokens };
        hash = rondo__lm_hash(hash, words, sizeof words);
    }
    err = rondo_agree(ctx, hash, err, "the model and options of rondo_lm_create");
    if (err) {
        rondo_lm_destroy(lm);
        return err;
    }
    *out = lm;
    return 0;
}

static void free_sequence(struct rondo_sequence *s)
{
    if (!s)
        return;
    for (int64_t i = 0; s->stops && i < s->sampling.stop_count; i++)
        rondo__free(s->stops[i]);
    rondo__free(s->stops);
    rondo__free(s->stop_bytes);
    rondo__free(s->tokens);
    rondo__free(s->inv_freq);
    rondo__free(s->text);
    rondo_text_stream_destroy(s->stream);
    rondo__free(s);
}

void rondo_lm_destroy(rondo_lm *lm)
{
    if (!lm)
        return;
    for (int64_t i = 0; i < lm->sequence_count; i++)
        free_sequence(lm->sequences[i]);
    rondo__free(lm->sequences);
    for (int64_t i = 0; i < lm->seat_count; i++)
        rondo__free(lm->seats[i].turns);
    rondo__free(lm->seats);
    rondo_placement_destroy(lm->placement);
    rondo__kv_close(&lm->kv);
    rondo__free(lm->floats);
    rondo__free(lm->attention_space);
    rondo__free(lm->logits);
    rondo__free(lm->spans);
    rondo__free(lm->wanted);
    rondo__free(lm->chunks);
    rondo__free(lm->wishes);
    rondo__free(lm->pass.seat);
    rondo__free(lm->candidates);
    rondo__free(lm->exchange);
    rondo__free(lm->exchange_sizes);
    rondo__free(lm);
}

/* ---- seats ---- */

/* A placement for more sequences that holds what the old one holds: it is a function of the calls made on it. */
static int more_seats(rondo_lm *lm)
{
    const int64_t seats = 2 * lm->seat_count;
    rondo_placement *placement = NULL;
    int err = make_placement(lm, seats, &placement);
    for (int64_t s = 0; s < lm->seat_count && !err; s++)
        for (int64_t t = 0; t < lm->seats[s].count && !err; t++)
            for (int64_t i = 0; i < lm->seats[s].turns[t].times && !err; i++)
                err = rondo_placement_append(placement, s, lm->seats[s].turns[t].tokens);
    struct rondo_seat *table = err ? NULL : rondo__alloc_zero((size_t)seats, sizeof *table);
    if (!err && !table)
        err = rondo__fail(RONDO_ENOMEM, "no memory for %lld sequences", (long long)seats);
    if (!err)
        err = rondo__kv_seats(&lm->kv, seats);
    if (err) {
        rondo__free(table);
        rondo_placement_destroy(placement);
        return err;
    }
    memcpy(table, lm->seats, (size_t)lm->seat_count * sizeof *table);
    rondo__free(lm->seats);
    rondo_placement_destroy(lm->placement);
    lm->seats = table;
    lm->placement = placement;
    lm->seat_count = seats;
    return 0;
}

int rondo__seat_take(rondo_lm *lm, int64_t *seat)
{
    for (;;) {
        for (int64_t s = 0; s < lm->seat_count; s++) {
            if (!lm->seats[s].taken) {
                lm->seats[s].taken = true;
                *seat = s;
                return 0;
            }
        }
        int err = more_seats(lm);
        if (err)
            return err;
    }
}

void rondo__seat_give(rondo_lm *lm, int64_t seat)
{
    lm->seats[seat].taken = false;
    lm->seats[seat].count = 0;
    rondo__kv_drop(&lm->kv, seat);
    /* Resetting takes nothing and fails only for a seat that is not there. */
    if (rondo_placement_reset(lm->placement, seat))
        lm->failed = RONDO_EINVAL;
}

int rondo__seat_append(rondo_lm *lm, int64_t seat, int64_t tokens)
{
    struct rondo_seat *s = &lm->seats[seat];
    struct rondo_turn *last = s->count ? &s->turns[s->count - 1] : NULL;
    if (!last || last->tokens != tokens) {
        if (s->count == s->room) {
            int64_t room = s->room ? 2 * s->room : 4;
            struct rondo_turn *turns = rondo__resize(s->turns, (size_t)s->room * sizeof *turns, (size_t)room * sizeof *turns);
            if (!turns)
                return rondo__fail(RONDO_ENOMEM, "no memory for the turns of a sequence");
            s->turns = turns;
            s->room = room;
        }
        last = &s->turns[s->count++];
        *last = (struct rondo_turn){ tokens, 0 };
    }
    int err = rondo_placement_append(lm->placement, seat, tokens);
    if (!err)
        last->times++;
    return err;
}

/* ---- sequences ---- */

static int copy_stops(struct rondo_sequence *s, const rondo_sampling *from, bool has_tokenizer)
{
    if (from->stop_count < 0 || (from->stop_count > 0 && !from->stops))
        return rondo__fail(RONDO_EINVAL, "rondo_lm_submit: stop_count is %lld%s", (long long)from->stop_count, from->stops ? "" : " but stops is NULL");
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
            return rondo__fail(RONDO_EINVAL, "rondo_lm_submit: stop text %lld is empty", (long long)i);
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
    s->seat = -1;
    s->sampling = given;
    err = copy_stops(s, &given, lm->model->tokenizer != NULL);
    if (err)
        return err;
    s->tokens = rondo__alloc((size_t)count * sizeof *s->tokens);
    s->inv_freq = rondo__alloc((size_t)(c->rope.dim / 2) * sizeof *s->inv_freq);
    s->text = rondo__alloc_zero(64, 1);
    if (!s->tokens || !s->inv_freq || !s->text)
        return rondo__fail(RONDO_ENOMEM, "rondo_lm_submit: no memory for a sequence of %lld tokens", (long long)count);
    memcpy(s->tokens, tokens, (size_t)count * sizeof *tokens);
    s->prompt = s->count = s->room = count;
    s->text_room = 64;
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
    h = rondo__lm_hash(h, s->tokens, (size_t)s->count * sizeof *s->tokens);
    for (int64_t i = 0; i < p->stop_count; i++)
        h = rondo__lm_hash(h, s->stops[i], s->stop_bytes[i]);
    return h;
}

int rondo_lm_submit(rondo_lm *lm, const int32_t *tokens, int64_t count, const rondo_sampling *sampling, int64_t *id)
{
    int err = rondo__lm_alive(lm, "rondo_lm_submit");
    if (err)
        return err;
    struct rondo_sequence *s = rondo__alloc_zero(1, sizeof *s);
    err = s ? fill_sequence(lm, s, tokens, count, sampling) : rondo__fail(RONDO_ENOMEM, "rondo_lm_submit: no memory for a sequence");
    if (!err && lm->sequence_count == lm->sequence_room) {
        int64_t room = lm->sequence_room ? 2 * lm->sequence_room : 16;
        void *list = rondo__resize(lm->sequences, (size_t)lm->sequence_room * sizeof s, (size_t)room * sizeof s);
        if (list) {
            lm->sequences = list;
            lm->sequence_room = room;
        } else {
            err = rondo__fail(RONDO_ENOMEM, "rondo_lm_submit: no memory for %lld sequences", (long long)room);
        }
    }
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
    s->seat = seat;
    lm->sequences[lm->sequence_count] = s;
    if (id)
        *id = lm->sequence_count;
    lm->sequence_count++;
    return 0;
}

int rondo_lm_query(rondo_lm *lm, int64_t id, rondo_lm_status *status)
{
    if (!lm)
        return rondo__fail(RONDO_EINVAL, "rondo_lm_query: the rondo_lm is NULL");
    if (id < 0 || id >= lm->sequence_count)
        return rondo__fail(RONDO_EINVAL, "rondo_lm_query: there is no sequence %lld; %lld were submitted", (long long)id,
                           (long long)lm->sequence_count);
    const struct rondo_sequence *s = lm->sequences[id];
    rondo_lm_status t = RONDO_LM_STATUS_INIT;
    t.prompt_tokens = s->prompt;
    t.new_tokens = s->count - s->prompt;
    t.finish = s->finish;
    t.tokens = s->tokens + s->prompt;
    t.text = s->text;
    t.text_bytes = s->text_bytes;
    const int64_t shape[2] = { t.new_tokens, lm->model->config.vocabulary };
    t.hash = rondo_hash_close(s->hash, lm->desc.arithmetic, lm->desc.leaf, shape, 2);
    return rondo__info_copy(status, &t, sizeof t, "rondo_lm_status");
}

int rondo_lm_count(const rondo_lm *lm, rondo_lm_counters *counters)
{
    if (!lm)
        return rondo__fail(RONDO_EINVAL, "rondo_lm_count: the rondo_lm is NULL");
    return rondo__info_copy(counters, &lm->counters, sizeof lm->counters, "rondo_lm_counters");
}
