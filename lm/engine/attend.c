/* SPDX-License-Identifier: BSD-2-Clause
 *
 * Attention of a pass: its plans, the new keys' way into the cache, and one execution for each layer. Of the model's heads this rank has those
 * of its tensor-parallel part. Mostly these are whole groups (KV heads with all their query heads) and one plan serves; where there are
 * more ranks than KV heads, a part may begin or end inside a group, and then each piece with a common number of query heads for each KV head has
 * a plan of its own. Called by forward.c.
 */
#include "core/internal.h"
#include "lm/engine/lm.h"

void rondo__pieces_make(rondo_lm *lm)
{
    const struct rondo_config *c = &lm->model->config;
    const struct rondo_split *s = &lm->model->split;
    const int64_t group = c->heads / c->kv_heads, end = s->head + s->heads;
    lm->piece_count = 0;
    for (int64_t head = s->head; head < end;) {
        const int64_t kv = head / group, into = head % group;
        struct rondo_piece p = { .head = head - s->head, .kv_head = kv - s->kv_head, .kv_heads = 1 };
        if (into || end - head < group) {
            p.heads = end - head < group - into ? end - head : group - into;
        } else {
            p.kv_heads = (end - head) / group;
            p.heads = p.kv_heads * group;
        }
        lm->pieces[lm->piece_count++] = p;
        head += p.heads;
    }
}

static void describe(const rondo_lm *lm, const struct rondo_piece *piece, int64_t count, bool decode, rondo_attention_desc *d)
{
    const struct rondo_config *c = &lm->model->config;
    int64_t beside;
    d->heads = piece->heads;
    d->kv_heads = piece->kv_heads;
    d->head_dim = c->head_dim;
    d->sequences = count;
    d->tokens_of = lm->pass.tokens;
    d->causal = 1;
    if (c->window > 0) {
        d->windowed = 1;
        d->window_left = c->window - 1;
        d->window_right = -1;
    }
    d->q_type = RONDO_F32;
    d->kv_type = lm->kv.type;
    d->out_type = RONDO_F32;
    /* Where nobody knows what the ranks run on a step passes queries, on one rank too. */
    d->algorithm = lm->desc.algorithm ? lm->desc.algorithm : decode && !rondo__hardware_of(lm->heads, &beside) ? RONDO_PASS_Q : RONDO_ALGORITHM_AUTO;
    d->arithmetic = lm->desc.arithmetic;
    d->level = lm->desc.level;
    d->placement = lm->placement;
    d->placement_sequences = lm->pass.seat;
}

/* What is told of the last pass of its kind. */
static void count_choice(rondo_lm_counters *c, const rondo_attention_info *info, bool decode)
{
    *(decode ? &c->decode_algorithm : &c->prefill_algorithm) = info->algorithm;
    *(decode ? &c->decode_chosen_by : &c->prefill_chosen_by) = info->chosen_by;
    memcpy(decode ? c->decode_predicted : c->prefill_predicted, info->predicted_seconds, sizeof c->decode_predicted);
}

int rondo__attend_plan(rondo_lm *lm, int64_t count, bool decode)
{
    int err = 0;
    for (int32_t i = 0; i < lm->piece_count && !err; i++) {
        struct rondo_piece *piece = &lm->pieces[i];
        rondo_attention_desc d = RONDO_ATTENTION_DESC_INIT;
        describe(lm, piece, count, decode, &d);
        /* From pass to pass little changes: the plan is made anew in the memory that it has. */
        err = piece->plan[decode] ? rondo_attention_update(piece->plan[decode], &d) : rondo_attention_create(&piece->plan[decode], lm->heads, &d);
        if (err)
            break;
        /* Model, options and sequences were compared when they came (rondo_lm_create, rondo_lm_submit, rondo_lm_score), and steps take the
         * same decisions from them on every rank: a pass needs no agreement of its own. */
        rondo__attention_agreed(piece->plan[decode]);
        rondo_attention_info info = RONDO_ATTENTION_INFO_INIT;
        err = rondo_attention_query(piece->plan[decode], &info);
        if (!err && info.q_rows != lm->rows.own)
            err = rondo__fail(RONDO_EINVAL, "the attention plan has %lld query rows here, the placement %lld", (long long)info.q_rows,
                              (long long)lm->rows.own);
        if (!err) {
            void *block = lm->attention_space;
            err = rondo__lm_room(&block, &lm->attention_room, info.workspace_bytes, "attention's workspace");
            lm->attention_space = block;
        }
        if (!err)
            count_choice(&lm->counters, &info, decode);
    }
    return err;
}

void rondo__attend_close(rondo_lm *lm)
{
    for (int32_t i = 0; i < lm->piece_count; i++)
        for (int decode = 0; decode < 2; decode++)
            rondo_attention_destroy(lm->pieces[i].plan[decode]);
}

/* New keys and values of this rank's rows, into the slabs. */
static int keep_keys(rondo_lm *lm, int64_t layer, const struct rondo_chunk *chunks, int64_t count)
{
    const int64_t heads = lm->model->split.kv_heads, dim = lm->model->config.head_dim, place = rondo__config_place(&lm->model->config, layer);
    const size_t row = lm->kv.row_bytes, head = heads ? row / (size_t)heads : 0, from = (size_t)dim * sizeof(float);
    int err = 0;
    for (int64_t i = 0; i < count && !err; i++) {
        const int64_t rows = chunks[i].rows * heads, first = chunks[i].x_row * heads * dim;
        const size_t to = (size_t)chunks[i].kv_row * row;
        if (rows == 0)
            continue;
        if (lm->kv.type != RONDO_Q8) {
            err = rondo_convert(lm->ctx, rows * dim, RONDO_F32, lm->k + first, lm->kv.type, (char *)lm->kv.keys[place] + to);
            if (!err)
                err = rondo_convert(lm->ctx, rows * dim, RONDO_F32, lm->v + first, lm->kv.type, (char *)lm->kv.values[place] + to);
            continue;
        }
        err = rondo_convert_rows(lm->ctx, rows, dim, RONDO_F32, lm->k + first, from, lm->kv.type, (char *)lm->kv.keys[place] + to, head);
        if (!err)
            err = rondo_convert_rows(lm->ctx, rows, dim, RONDO_F32, lm->v + first, from, lm->kv.type, (char *)lm->kv.values[place] + to, head);
    }
    return err;
}

/* The slab's heads of a piece. */
static rondo_tensor cached(const rondo_lm *lm, const struct rondo_piece *piece, void *slab)
{
    const int64_t heads = lm->model->split.kv_heads, dim = lm->model->config.head_dim;
    const size_t head = lm->kv.row_bytes / (size_t)heads, element = rondo_type_size(lm->kv.type);
    const int64_t shape[3] = { lm->kv.rows, piece->kv_heads, dim };
    rondo_tensor t = rondo_tensor_dense((char *)slab + (size_t)piece->kv_head * head, lm->kv.type, 3, shape);
    t.stride[0] = (int64_t)(lm->kv.row_bytes / element);
    t.stride[1] = (int64_t)(head / element);
    return t;
}

int rondo__attend(rondo_lm *lm, int64_t layer, const struct rondo_chunk *chunks, int64_t count, bool decode, int (*progress)(void *user, double done),
                  void *user)
{
    const int64_t width = lm->model->split.heads * lm->model->config.head_dim, dim = lm->model->config.head_dim;
    const int64_t place = rondo__config_place(&lm->model->config, layer);
    int err = keep_keys(lm, layer, chunks, count);
    for (int32_t i = 0; i < lm->piece_count && !err; i++) {
        const struct rondo_piece *piece = &lm->pieces[i];
        const int64_t shape[3] = { lm->rows.own, piece->heads, dim };
        rondo_attention_io io = RONDO_ATTENTION_IO_INIT;
        io.q = rondo_tensor_dense(lm->q + piece->head * dim, RONDO_F32, 3, shape);
        io.q.stride[0] = width;
        io.out = io.q;
        io.k = cached(lm, piece, lm->kv.keys[place]);
        io.v = cached(lm, piece, lm->kv.values[place]);
        io.kv_row = lm->pass.kv_first;
        io.progress = i == 0 ? progress : NULL;
        io.user = user;
        err = rondo_attention_execute(piece->plan[decode], &io, lm->attention_space);
    }
    return err;
}
