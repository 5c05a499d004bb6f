/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A rank's rondo_lm: how it is made, counted and ended, and what the other files of this folder need of it. Every rank keeps the same
 * list of sequences (sequence.c) and makes the same decisions from it, so nothing has to be told; what callers hand in is
 * compared over the ranks when it comes (rondo_agree).
 */
#include <stdio.h>

#include "core/internal.h"
#include "lm/engine/lm.h"
#include "lm/files.h"

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
    /* What has grown once may grow again: with an eighth ahead it seldom does. */
    const size_t ahead = *room ? bytes / 8 : 0, all = bytes + ahead < bytes ? bytes : bytes + ahead;
    rondo__free(*block);
    *room = 0;
    *block = rondo__alloc(all);
    if (!*block)
        return rondo__fail(RONDO_ENOMEM, "no memory for %s (%zu bytes)", what, all);
    *room = all;
    return 0;
}

int rondo__lm_chunks(rondo_lm *lm, int64_t count)
{
    if (count <= lm->chunk_room)
        return 0;
    int64_t room = count > 2 * lm->chunk_room ? count : 2 * lm->chunk_room;
    struct rondo_chunk *chunks = rondo__alloc_zero((size_t)room, sizeof *chunks);
    struct rondo_kv_wish *wishes = rondo__alloc_zero((size_t)room, sizeof *wishes);
    int64_t *lists = rondo__alloc_zero((size_t)room, 4 * sizeof *lists);
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
    lm->pass.news = lists + 3 * room;
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

/* ---- life ---- */

static int check_desc(rondo_lm_desc *d, const rondo_model *model)
{
    d->kv_type = d->kv_type ? d->kv_type : RONDO_F32;
    d->batch_tokens = d->batch_tokens ? d->batch_tokens : BATCH_TOKENS;
    if (!rondo_type_size(d->kv_type))
        return rondo__fail(RONDO_EINVAL, "rondo_lm_create: kv_type %d is none of RONDO_F32, RONDO_BF16, RONDO_F16 and RONDO_Q8", d->kv_type);
    if (!rondo_algorithm_name(d->algorithm))
        return rondo__fail(RONDO_EINVAL, "rondo_lm_create: algorithm %d is none of rondo_algorithm; 0 is the plan's choice", d->algorithm);
    if (!rondo_layout_name(d->layout))
        return rondo__fail(RONDO_EINVAL, "rondo_lm_create: layout %d is none of rondo_layout; 0 is the default", d->layout);
    if (d->arithmetic != RONDO_ARITHMETIC_F32)
        return rondo__fail(rondo_arithmetic_name(d->arithmetic) ? RONDO_ENOTSUP : RONDO_EINVAL,
                           "rondo_lm_create: arithmetic %s (%d) is not supported; use f32",
                           rondo_arithmetic_name(d->arithmetic) ? rondo_arithmetic_name(d->arithmetic) : "unknown", d->arithmetic);
    if (d->level != RONDO_STRICT && d->level != RONDO_FAST)
        return rondo__fail(rondo_level_name(d->level) ? RONDO_ENOTSUP : RONDO_EINVAL, "rondo_lm_create: level %s (%d) is not supported; use strict or fast",
                           rondo_level_name(d->level) ? rondo_level_name(d->level) : "unknown", d->level);
    if (d->interleave != 0 && d->interleave != 1)
        return rondo__fail(RONDO_EINVAL, "rondo_lm_create: interleave is %d; 0 is by leaf, 1 token by token", d->interleave);
    if (d->chunk < 0)
        return rondo__fail(RONDO_EINVAL, "rondo_lm_create: chunk is %lld; 0 is the whole prompt", (long long)d->chunk);
    if (d->logprobs < 0 || d->logprobs > RONDO_LM_LOGPROBS)
        return rondo__fail(RONDO_EINVAL, "rondo_lm_create: logprobs is %d; 0 (none) to %d would be accepted", (int)d->logprobs, RONDO_LM_LOGPROBS);
    if (d->batch_tokens < 0)
        return rondo__fail(RONDO_EINVAL, "rondo_lm_create: batch_tokens is %lld; 0 is %d", (long long)d->batch_tokens, BATCH_TOKENS);
    if (!model->layers)
        return rondo__fail(RONDO_EINVAL, "rondo_lm_create: the model is not open");
    return rondo__reserved(d->reserved, "rondo_lm_create");
}

static int make_placement(const rondo_lm *lm, rondo_placement **out)
{
    rondo_placement_desc p = RONDO_PLACEMENT_DESC_INIT;
    p.ranks = lm->cp;
    p.layout = lm->desc.layout;
    p.leaf = lm->desc.leaf;
    p.interleave = lm->desc.interleave;
    p.sequences = FIRST_SEATS;
    return rondo_placement_create(out, &p);
}

/* What is made for the logits of some rows at a time. */
static int make_logits(rondo_lm *lm)
{
    const struct rondo_config *c = &lm->model->config;
    const size_t lists = (size_t)lm->members + 1;
    lm->logit_rows = LOGITS_FLOATS / c->vocabulary;
    lm->logit_rows = lm->logit_rows < 1 ? 1 : lm->logit_rows > RONDO_LM_BLOCK ? RONDO_LM_BLOCK : lm->logit_rows;
    const size_t rows = (size_t)lm->logit_rows, mine = (rows + (size_t)lm->members - 1) / (size_t)lm->members;
    lm->logits = rondo__alloc(mine * (size_t)c->vocabulary * sizeof(float));
    lm->logit_columns = rondo__alloc(lm->members > 1 ? rows * (size_t)lm->model->split.vocab * sizeof(float) : 0);
    lm->logit_begin = rondo__alloc_zero(lists, 2 * sizeof *lm->logit_begin);
    lm->exchange_sizes = rondo__alloc_zero((size_t)lm->ranks, 2 * sizeof *lm->exchange_sizes);
    if (!lm->logits || !lm->logit_columns || !lm->logit_begin || !lm->exchange_sizes)
        return rondo__fail(RONDO_ENOMEM, "rondo_lm_create: no memory for the logits of %lld rows", (long long)lm->logit_rows);
    lm->vocabulary_begin = lm->logit_begin + lists;
    int err = 0;
    for (int32_t w = 0; w < lm->members && !err; w++) {
        int64_t count = 0;
        err = rondo_share(c->vocabulary, lm->members, lm->model->split.weights, w, &lm->vocabulary_begin[w], &count);
        lm->vocabulary_begin[w + 1] = lm->vocabulary_begin[w] + count;
    }
    return err;
}

static int set_up(rondo_lm *lm)
{
    const struct rondo_config *c = &lm->model->config;
    size_t row = 0;
    int err = check_desc(&lm->desc, lm->model);
    if (!err)
        err = rondo__ranks_check(lm);
    if (err)
        return err;
    lm->rows.begin = rondo__alloc_zero((size_t)lm->cp + 1, sizeof *lm->rows.begin);
    lm->rows.held = rondo__alloc_zero((size_t)lm->cp, sizeof *lm->rows.held);
    if (!lm->rows.begin || !lm->rows.held)
        return rondo__fail(RONDO_ENOMEM, "rondo_lm_create: no memory for %d ranks", (int)lm->ranks);
    rondo__pieces_make(lm);
    if (!rondo__mul((size_t)lm->model->split.kv_heads, rondo_row_bytes(lm->desc.kv_type, c->head_dim), &row))
        return rondo__fail(RONDO_ENOMEM, "rondo_lm_create: a row of the KV cache would not fit the address space");
    err = make_placement(lm, &lm->placement);
    if (!err)
        err = rondo__kv_open(&lm->kv, lm->desc.kv_type, c->layers - c->kda_layers, row);
    if (!err)
        err = rondo__kda_make(lm);
    if (!err)
        err = rondo__seats(lm, FIRST_SEATS);
    lm->desc.leaf = lm->desc.leaf ? lm->desc.leaf : 128;
    return err ? err : make_logits(lm);
}

/* All ranks have heard that they differ, and ask once more whether it is the files in which they do: one host has another folder. */
static int different_files(rondo_context *ctx, const rondo_model *model)
{
    char said[600];
    snprintf(said, sizeof said, "%s", rondo_error_text());
    const int err = rondo_agree(ctx, model->files, 0, "the model's files (tokenizer.json; names, shapes and a sample of the weights)");
    return err ? err : rondo__fail(RONDO_EMISMATCH, "%s", said);
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
    if (!err && model->described)
        err = rondo__fail(RONDO_EINVAL, "rondo_lm_create: the model was opened without its weights (no_weights); open it with them to run it");
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
        rondo__ranks_place(lm);
        err = set_up(lm);
        const uint64_t words[] = { model->fingerprint, (uint64_t)lm->desc.kv_type, (uint64_t)lm->desc.layout, (uint64_t)lm->desc.algorithm,
                                   (uint64_t)lm->desc.arithmetic, (uint64_t)lm->desc.level, (uint64_t)lm->desc.leaf,
                                   (uint64_t)lm->desc.interleave, (uint64_t)lm->desc.chunk, (uint64_t)lm->desc.batch_tokens,
                                   (uint64_t)lm->desc.logprobs, (uint64_t)lm->tp, (uint64_t)lm->spread };
        hash = rondo__lm_hash(hash, words, sizeof words);
    }
    const int own = err;
    err = rondo_agree(ctx, rondo__hash_word(hash, own ? 0 : model->files), own, "the model and options of rondo_lm_create");
    if (err == RONDO_EMISMATCH && !own)
        err = different_files(ctx, model);
    if (!err)
        err = rondo__collective_failed(ctx, rondo__ranks_open(lm));
    if (err) {
        rondo_lm_destroy(lm);
        return err;
    }
    *out = lm;
    return 0;
}

void rondo_lm_destroy(rondo_lm *lm)
{
    if (!lm)
        return;
    rondo__sequences_free(lm);
    rondo__free(lm->free_seats);
    rondo_placement_destroy(lm->placement);
    rondo__kv_close(&lm->kv);
    rondo__kda_close(lm);
    rondo__free(lm->floats);
    rondo__attend_close(lm);
    rondo__free(lm->attention_space);
    rondo__free(lm->logits);
    rondo__free(lm->logit_columns);
    rondo__free(lm->logit_begin);
    rondo__free(lm->rows.begin);
    rondo__free(lm->rows.held);
    rondo__free(lm->picked);
    rondo__free(lm->ids);
    rondo__free(lm->spans);
    rondo__free(lm->wanted);
    rondo__free(lm->chunks);
    rondo__free(lm->wishes);
    rondo__free(lm->pass.seat);
    rondo__free(lm->candidates);
    rondo__free(lm->raw);
    rondo__free(lm->exchange);
    rondo__free(lm->exchange_sizes);
    rondo__ranks_close(lm);
    rondo__free(lm);
}

int rondo_lm_count(const rondo_lm *lm, rondo_lm_counters *counters)
{
    if (!lm)
        return rondo__fail(RONDO_EINVAL, "rondo_lm_count: the rondo_lm is NULL");
    return rondo__info_copy(counters, &lm->counters, sizeof lm->counters, "rondo_lm_counters");
}
