/* SPDX-License-Identifier: BSD-2-Clause
 *
 * One forward pass of a model over the new tokens of some sequences, of any lengths, on all ranks: tensor-parallel, context-parallel or both
 * (ranks.c says who stands where, rows.c which rows a pass has, attend.c attends). Called by generate.c and score.c.
 *
 *     x = embedding;  per layer:  h = norm(x);  q, k, v = Wq h, Wk h, Wv h;  rope;  k, v to the cache;  q = attention(q);
 *     x += Wo q;  h = norm(x);  x += Wdown(silu(Wgate h) * Wup h)
 *
 * Layers of Kimi Delta Attention have another first half: kda.c.
 *
 * Between layers each rank of a group keeps some rows of x. What goes into column-parallel layers is gathered, what comes out of row-parallel
 * ones is summed over nodes of the tree of leaves (rondo_tp_linear()), so that neither the ranks nor the other rows of a pass reach a row's
 * bits (rondo-numerics(7)). Where layers are spread over context-parallel ranks too, rows and columns change places before and after
 * attention: the ranks of the same heads have some columns of all rows for linear layers, and all columns of their own rows for attention.
 *
 * After the last layer's attention only those rows go on whose logits somebody wants.
 */
#include "core/internal.h"
#include "lm/engine/lm.h"
#include "lm/model/rope.h"

/* ---- workspace ---- */

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int make_room(rondo_lm *lm)
{
    const struct rondo_config *c = &lm->model->config;
    const struct rondo_split *s = &lm->model->split;
    const struct rondo_pass_rows *r = &lm->rows;
    const int64_t block = smaller(r->all, RONDO_LM_BLOCK), spread = lm->spread ? r->all : 0;
    const int64_t out = s->out_begin[s->c + 1] - s->out_begin[s->c];
    struct {
        float **at;
        int64_t rows, width;
    } parts[] = {
        { &lm->x, rondo__kept_before(lm, r->all, r->all), c->hidden }, { &lm->h, block, c->hidden }, { &lm->q, r->own, s->heads * c->head_dim },
        { &lm->k, r->own, s->kv_heads * c->head_dim }, { &lm->v, r->own, s->kv_heads * c->head_dim }, { &lm->table, r->own, c->rope.dim },
        { &lm->gate, block, s->mlp_columns }, { &lm->up, block, s->mlp_columns },
        { &lm->spread_q, spread, s->q_columns > out ? s->q_columns : out }, { &lm->spread_k, spread, s->kv_columns },
        { &lm->spread_v, spread, s->kv_columns },
    };
    size_t total = 16, offset[sizeof parts / sizeof *parts];
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        size_t floats;
        offset[i] = total;
        if (!rondo__mul((size_t)parts[i].rows, (size_t)parts[i].width, &floats) || !rondo__add(floats, 15, &floats) ||
            !rondo__add(total, floats & ~(size_t)15, &total) || total > SIZE_MAX / 8)
            return rondo__fail(RONDO_ENOMEM, "a forward pass over %lld rows would not fit the address space; use a smaller batch_tokens",
                               (long long)r->all);
    }
    void *block_of = lm->floats, *ids = lm->ids;
    int err = rondo__lm_room(&block_of, &lm->float_room, total * sizeof(float), "the activations of a forward pass");
    lm->floats = block_of;
    if (!err)
        err = rondo__lm_room(&ids, &lm->id_room, ((size_t)r->all + 1) * sizeof *lm->ids, "the tokens of a forward pass");
    lm->ids = ids;
    if (err)
        return err;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        *parts[i].at = lm->floats + offset[i];
    return 0;
}

/* ---- blocks of the group's rows ---- */

/* Rows [first, first + count) of the group's; of these this rank keeps `kept`, from `into` of the block on, which lie in x from row `at` on. */
struct block {
    int64_t first, count, into, kept, at;
};

static int next_block(const rondo_lm *lm, struct block *b)
{
    const int64_t rows = lm->rows.all;
    b->at += b->kept;
    b->first += b->count;
    b->count = smaller(rows - b->first, RONDO_LM_BLOCK);
    b->into = 0;
    b->kept = b->count;
    return lm->group ? rondo_tp_rows(lm->group, b->count, lm->w, &b->into, &b->kept) : 0;
}

#define FOR_BLOCKS(lm, b, err)                                                                                                            \
    for (struct block b = { 0, 0, 0, 0, 0 }; !(err) && b.first + b.count < (lm)->rows.all && !((err) = next_block(lm, &b));)

static float *kept_rows(const rondo_lm *lm, const struct block *b)
{
    return lm->x + b->at * lm->model->config.hidden;
}

/* h = all rows of the block: as they are (norm NULL) or normed. */
static int gather(rondo_lm *lm, const struct block *b, const float *norm)
{
    const struct rondo_config *c = &lm->model->config;
    float *mine = lm->h + b->into * c->hidden;
    int err = 0;
    if (norm)
        err = rondo_rmsnorm(lm->ctx, b->kept, c->hidden, kept_rows(lm, b), norm, (float)c->rms_eps, mine);
    else
        memcpy(mine, kept_rows(lm, b), (size_t)(b->kept * c->hidden) * sizeof *mine);
    lm->gathered = -1;
    return err || !lm->group ? err : rondo_tp_gather(lm->group, b->count, c->hidden, mine, lm->h);
}

/* A column-parallel layer on the block in h; linear NULL: none of its outputs are here. */
static int columns(rondo_lm *lm, const rondo_linear *linear, const float *bias, const struct block *b, int64_t width, float *y)
{
    const int64_t hidden = lm->model->config.hidden;
    return linear ? rondo_linear_execute(linear, lm->ctx, b->count, lm->h, hidden, y, width, bias, 0) : 0;
}

/* x += a row-parallel layer's sum over the group. */
static int sum(rondo_lm *lm, const rondo_linear *linear, const float *bias, const struct block *b, const float *in, int64_t width)
{
    const int64_t hidden = lm->model->config.hidden;
    if (!lm->group)
        return rondo_linear_execute(linear, lm->ctx, b->count, in, width, kept_rows(lm, b), hidden, bias, 1);
    return rondo_tp_linear(lm->group, linear, b->count, width ? in : NULL, width, kept_rows(lm, b), hidden, bias, 1);
}

/* ---- embedding ---- */

static int embed_here(rondo_lm *lm, const struct block *b)
{
    const rondo_model *m = lm->model;
    const int64_t hidden = m->config.hidden;
    int err = 0;
    for (int64_t i = 0; i < b->count && !err; i++) {
        const void *from = NULL;
        err = rondo__model_embedding(m, lm->ids[b->first + i], lm->h, &from);
        if (!err)
            err = rondo_convert(lm->ctx, hidden, m->embedding_type, from, RONDO_F32, kept_rows(lm, b) + i * hidden);
    }
    return err;
}

static int embed(rondo_lm *lm)
{
    const rondo_model *m = lm->model;
    rondo_tp_table table = RONDO_TP_TABLE_INIT;
    int err = 0;
    table.total = m->config.vocabulary;
    table.width = m->config.hidden;
    table.weights = m->split.weights;
    table.type = m->embedding_type;
    table.data = m->embedding;
    table.linear = m->embedding ? NULL : m->head;
    FOR_BLOCKS(lm, b, err)
        err = lm->group ? rondo_tp_lookup(lm->group, &table, b.count, lm->ids + b.first, kept_rows(lm, &b)) : embed_here(lm, &b);
    return err;
}

/* ---- how far a pass has come ---- */

int rondo__lm_progress(rondo_lm *lm, int64_t tokens, double part)
{
    if (!lm->desc.progress || lm->progress_total <= 0)
        return 0;
    const int64_t done = lm->progress_done + (int64_t)((double)tokens * part);
    if (lm->desc.progress(lm->desc.user, done, lm->progress_total))
        return rondo__fail(RONDO_ECANCELED, "the caller's progress function asked to stop after %lld of %lld tokens", (long long)done,
                           (long long)lm->progress_total);
    return 0;
}

/* A layer under way: its place among the layers, the part of it that is attention (by FLOPs), the tokens of the pass. */
struct layer_progress {
    rondo_lm *lm;
    int64_t tokens, layer;
    double attention;
};

static int layer_part(struct layer_progress *p, double part)
{
    return rondo__lm_progress(p->lm, p->tokens, p->lm->progress_share * ((double)p->layer + part) / (double)p->lm->model->config.layers);
}

static int in_attention(void *user, double done)
{
    struct layer_progress *p = user;
    return layer_part(p, p->attention * done);
}

/* kda: of layers of Kimi Delta Attention, where it is the walk. */
static double attention_part(const rondo_lm *lm, const struct rondo_chunk *chunks, int64_t count, bool kda)
{
    const struct rondo_config *c = &lm->model->config;
    double keys = 0.0, tokens = 0.0;
    for (int64_t i = 0; i < count; i++) {
        const double reach = (double)chunks[i].first + 0.5 * (double)chunks[i].count;
        keys += (double)chunks[i].count * (c->window > 0 && reach > (double)c->window ? (double)c->window : reach);
        tokens += (double)chunks[i].count;
    }
    const double q_width = (double)(c->heads * c->head_dim), kv_width = (double)(c->kv_heads * c->head_dim);
    const double weights = (double)c->hidden * (2.0 * q_width + 2.0 * kv_width + 3.0 * (double)c->intermediate);
    const double width = (double)(c->kda_heads * c->kda_dim), dim = (double)c->kda_dim;
    const double others = 4.0 * width * (double)c->hidden + 2.0 * dim * ((double)c->hidden + width) + 3.0 * (double)c->hidden * (double)c->intermediate;
    const double attention = kda ? 3.5 * width * dim * tokens : 2.0 * q_width * keys, linear = (kda ? others : weights) * tokens;
    return attention + linear > 0.0 ? attention / (attention + linear) : 0.0;
}

/* ---- a layer ---- */

/* A part of the pass for the timeline, around what the library tells of it. */
static void mark(rondo_lm *lm, const char *name, int64_t layer, double begin)
{
    if (lm->ctx->trace)
        rondo__trace_step(lm->ctx, "layer", (struct rondo__step){ name, (int32_t)layer + 1, (int32_t)lm->model->config.layers }, 0, begin, -1, 0);
}

static double clock_of(const rondo_lm *lm)
{
    return lm->ctx->trace ? rondo__now() : 0.0;
}

/* q, k and v of this rank's heads and rows. */
static int project(rondo_lm *lm, const struct rondo_layer *y)
{
    const struct rondo_split *s = &lm->model->split;
    float *const q = lm->spread ? lm->spread_q : lm->q, *const k = lm->spread ? lm->spread_k : lm->k, *const v = lm->spread ? lm->spread_v : lm->v;
    int err = 0;
    FOR_BLOCKS(lm, b, err) {
        err = gather(lm, &b, y->attention_norm);
        if (!err)
            err = columns(lm, y->q, y->q_bias, &b, s->q_columns, q + b.first * s->q_columns);
        if (!err)
            err = columns(lm, y->k, y->k_bias, &b, s->kv_columns, k + b.first * s->kv_columns);
        if (!err)
            err = columns(lm, y->v, y->v_bias, &b, s->kv_columns, v + b.first * s->kv_columns);
    }
    if (err || !lm->spread || !s->heads)
        return err;
    err = rondo_tp_swap(lm->swap, 1, lm->rows.begin, s->q_begin, lm->spread_q, lm->q);
    if (!err)
        err = rondo_tp_swap(lm->swap, 1, lm->rows.begin, s->kv_begin, lm->spread_k, lm->k);
    if (!err)
        err = rondo_tp_swap(lm->swap, 1, lm->rows.begin, s->kv_begin, lm->spread_v, lm->v);
    return err;
}

/* What each head goes through by itself: the norms that some families have, and rope. */
static int turn(rondo_lm *lm, const struct rondo_layer *y)
{
    const struct rondo_config *c = &lm->model->config;
    const struct rondo_split *s = &lm->model->split;
    const int64_t rows = lm->rows.own;
    int err = 0;
    if (y->q_norm)
        err = rondo_rmsnorm(lm->ctx, rows * s->heads, c->head_dim, lm->q, y->q_norm, (float)c->rms_eps, lm->q);
    if (!err && y->k_norm)
        err = rondo_rmsnorm(lm->ctx, rows * s->kv_heads, c->head_dim, lm->k, y->k_norm, (float)c->rms_eps, lm->k);
    if (!err && !c->no_rope)
        err = rondo_rope(lm->ctx, rows, s->heads, c->rope.dim, lm->q, s->heads * c->head_dim, c->head_dim, lm->table);
    if (!err && !c->no_rope)
        err = rondo_rope(lm->ctx, rows, s->kv_heads, c->rope.dim, lm->k, s->kv_heads * c->head_dim, c->head_dim, lm->table);
    return err;
}

/* A low-rank projection of the block in h. */
static int low_rank(rondo_lm *lm, const rondo_linear *a, const rondo_linear *b, const struct block *block, int64_t width, float *y)
{
    const int64_t dim = lm->model->config.kda_dim;
    int err = columns(lm, a, NULL, block, dim, lm->kda.low);
    return err || !b ? err : rondo_linear_execute(b, lm->ctx, block->count, lm->kda.low, dim, y, width, NULL, 0);
}

/* q, k, v, gates and beta of this rank's heads and the group's rows, then the walk. */
static int attend_linearly(rondo_lm *lm, int64_t layer, const struct rondo_chunk *chunks, int64_t count)
{
    const struct rondo_kda_layer *y = &lm->model->layers[layer].kda;
    const int64_t heads = lm->model->split.kda_heads, width = heads * lm->model->config.kda_dim;
    const rondo_linear *const linears[] = { y->q, y->k, y->v };
    struct rondo_kda *d = &lm->kda;
    double begin = clock_of(lm);
    int err = 0;
    FOR_BLOCKS(lm, b, err) {
        err = gather(lm, &b, lm->model->layers[layer].attention_norm);
        for (int i = 0; i < 3 && !err; i++)
            err = columns(lm, linears[i], NULL, &b, width, d->made[i] + b.first * width);
        if (!err)
            err = low_rank(lm, y->f_a, y->f_b, &b, width, d->made[3] + b.first * width);
        if (!err)
            err = columns(lm, y->beta, NULL, &b, heads, d->made[4] + b.first * heads);
        if (!err)
            err = low_rank(lm, y->g_a, y->g_b, &b, width, d->z + b.first * width);
    }
    mark(lm, "q, k, v of layer", layer, begin);
    begin = clock_of(lm);
    if (!err)
        err = rondo__kda(lm, layer, chunks, count);
    mark(lm, "linear attention of layer", layer, begin);
    return err;
}

static int attend(rondo_lm *lm, int64_t layer, const struct rondo_chunk *chunks, int64_t count, bool decode, struct layer_progress *progress)
{
    const struct rondo_layer *y = &lm->model->layers[layer];
    const struct rondo_split *s = &lm->model->split;
    const bool told = lm->desc.progress && lm->progress_total > 0;
    if (rondo__config_is_kda(&lm->model->config, layer))
        return attend_linearly(lm, layer, chunks, count);
    double begin = clock_of(lm);
    int err = project(lm, y);
    mark(lm, "q, k, v of layer", layer, begin);
    if (err || !s->heads)
        return err;
    begin = clock_of(lm);
    err = turn(lm, y);
    if (!err)
        err = rondo__attend(lm, layer, chunks, count, decode, told ? in_attention : NULL, progress);
    if (!err && lm->spread)
        err = rondo_tp_swap(lm->swap, 0, lm->rows.begin, s->out_begin, lm->q, lm->spread_q);
    mark(lm, "attention of layer", layer, begin);
    return err;
}

/* Attention's output as the output projection reads it: so many columns of all rows of the group. */
static float *attended(const rondo_lm *lm, int64_t layer, int64_t *width)
{
    const struct rondo_split *s = &lm->model->split;
    if (rondo__config_is_kda(&lm->model->config, layer)) {
        *width = s->kda_heads * lm->model->config.kda_dim;
        return rondo__kda_out(lm);
    }
    *width = lm->spread ? s->out_begin[s->c + 1] - s->out_begin[s->c] : s->heads * lm->model->config.head_dim;
    return lm->spread ? lm->spread_q : lm->q;
}

static int finish_layer(rondo_lm *lm, int64_t layer, struct layer_progress *progress)
{
    const struct rondo_layer *y = &lm->model->layers[layer];
    const int64_t mlp = lm->model->split.mlp_columns;
    const bool kda = rondo__config_is_kda(&lm->model->config, layer);
    int64_t width;
    const float *out = attended(lm, layer, &width);
    int err = 0;
    FOR_BLOCKS(lm, b, err) {
        double begin = clock_of(lm);
        err = sum(lm, kda ? y->kda.o : y->o, y->o_bias, &b, out + b.first * width, width);
        mark(lm, "output of layer", layer, begin);
        begin = clock_of(lm);
        if (!err)
            err = gather(lm, &b, y->mlp_norm);
        if (!err)
            err = columns(lm, y->gate, y->gate_bias, &b, mlp, lm->gate);
        if (!err)
            err = columns(lm, y->up, y->up_bias, &b, mlp, lm->up);
        if (!err)
            err = rondo_swiglu(lm->ctx, b.count * mlp, lm->gate, lm->up, lm->gate);
        if (!err)
            err = sum(lm, y->down, y->down_bias, &b, lm->gate, mlp);
        mark(lm, "mlp of layer", layer, begin);
        if (!err)
            err = layer_part(progress, progress->attention + (1.0 - progress->attention) * (double)(b.first + b.count) / (double)lm->rows.all);
    }
    return err;
}

/* ---- the rows that go on ---- */

/* From here on the group's rows are the wanted ones: x, and attention's output, which every rank has for all rows. */
static int keep_wanted(rondo_lm *lm)
{
    const int64_t hidden = lm->model->config.hidden, before = lm->rows.all, wanted = lm->wanted_count;
    int64_t width, i = 0;
    float *out = attended(lm, lm->model->config.layers - 1, &width);
    int err = 0;
    if (wanted == before)
        return 0;
    void *block = lm->picked;
    err = rondo__lm_room(&block, &lm->picked_room, ((size_t)(rondo__kept_before(lm, wanted, wanted) * hidden) + 1) * sizeof *lm->picked,
                         "the rows whose logits are wanted");
    lm->picked = block;
    FOR_BLOCKS(lm, b, err) {
        if (i == wanted || lm->wanted[i].row >= b.first + b.count)
            continue;
        err = gather(lm, &b, NULL);
        for (; i < wanted && lm->wanted[i].row < b.first + b.count && !err; i++) {
            const int64_t row = lm->wanted[i].row, at = rondo__kept_before(lm, wanted, i);
            if (rondo__kept_before(lm, wanted, i + 1) > at)
                memcpy(lm->picked + at * hidden, lm->h + (row - b.first) * hidden, (size_t)hidden * sizeof *lm->h);
            if (row != i)   /* they ascend, so nothing is overwritten early */
                memmove(out + i * width, out + row * width, (size_t)width * sizeof *out);
            lm->wanted[i].row = i;
        }
    }
    lm->x = lm->picked;
    lm->rows.all = wanted;
    return err;
}

int rondo__forward(rondo_lm *lm, struct rondo_chunk *chunks, int64_t count, bool decode)
{
    const int64_t layers = lm->model->config.layers;
    int64_t tokens = 0;
    int err = rondo__rows_place(lm, chunks, count);
    if (!err)
        err = make_room(lm);
    if (!err)
        err = rondo__rows_list(lm, chunks, count);
    if (!err)
        err = embed(lm);
    if (!err && lm->kv.layers)
        err = rondo__attend_plan(lm, count, decode);
    if (!err)
        err = rondo__kda_begin(lm, chunks, count);
    for (int64_t i = 0; i < count; i++)
        tokens += chunks[i].count;
    const double parts[] = { attention_part(lm, chunks, count, false), attention_part(lm, chunks, count, true) };
    struct layer_progress progress = { lm, tokens, 0, 0.0 };
    for (int64_t layer = 0; layer < layers && !err; layer++) {
        progress.layer = layer;
        progress.attention = parts[rondo__config_is_kda(&lm->model->config, layer)];
        err = attend(lm, layer, chunks, count, decode, &progress);
        if (!err && layer == layers - 1)
            err = keep_wanted(lm);
        if (!err)
            err = finish_layer(lm, layer, &progress);
        if (!err)
            err = layer_part(&progress, 1.0);
    }
    lm->gathered = -1;
    size_t held = lm->float_room + lm->attention_room + lm->picked_room + lm->kda.float_room + lm->kda.order_room;
    if (held > lm->counters.workspace_bytes)
        lm->counters.workspace_bytes = held;
    lm->counters.kv_bytes = rondo__kv_bytes(&lm->kv);
    lm->counters.state_bytes = lm->kda.held;
    return err;
}

/* ---- logits ---- */

int64_t rondo__logits_end(const rondo_lm *lm, int64_t first, int64_t end)
{
    const int64_t block = (first / RONDO_LM_BLOCK + 1) * RONDO_LM_BLOCK, batch = first + lm->logit_rows;
    return smaller(end, smaller(block, batch));
}

/* The block that row `first` lies in, normed, in h. */
static int gather_final(rondo_lm *lm, int64_t first, int64_t *into)
{
    int err = 0;
    *into = first % RONDO_LM_BLOCK;
    if (lm->gathered == first / RONDO_LM_BLOCK)
        return 0;
    FOR_BLOCKS(lm, b, err)
        if (first < b.first + b.count) {
            err = gather(lm, &b, lm->model->norm);
            if (!err)
                lm->gathered = first / RONDO_LM_BLOCK;
            break;
        }
    return err;
}

int rondo__logits(rondo_lm *lm, int64_t first, int64_t rows, int64_t *mine, int64_t *count)
{
    const rondo_model *m = lm->model;
    const int64_t hidden = m->config.hidden, vocabulary = m->config.vocabulary;
    int64_t into = 0;
    int err = gather_final(lm, first, &into);
    *mine = first;
    *count = rows;
    if (err)
        return err;
    const float *h = lm->h + into * hidden;
    if (!lm->group)
        return rondo_linear_execute(m->head, lm->ctx, rows, h, hidden, lm->logits, vocabulary, NULL, 0);
    if (m->head)
        err = rondo_linear_execute(m->head, lm->ctx, rows, h, hidden, lm->logit_columns, m->split.vocab, NULL, 0);
    for (int32_t w = 0; w < lm->members && !err; w++) {
        int64_t own = 0;
        err = rondo_share(rows, lm->members, NULL, w, &lm->logit_begin[w], &own);
        lm->logit_begin[w + 1] = lm->logit_begin[w] + own;
    }
    *mine = first + lm->logit_begin[lm->w];
    *count = lm->logit_begin[lm->w + 1] - lm->logit_begin[lm->w];
    return err ? err : rondo_tp_swap(lm->group, 1, lm->logit_begin, lm->vocabulary_begin, lm->logit_columns, lm->logits);
}
